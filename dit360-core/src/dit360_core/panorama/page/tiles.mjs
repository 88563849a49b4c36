/** The tiles of a large picture: which of them a view needs, and their way from the page to the graphics device. */

import { arcBetween } from "./painting/sphere.mjs";
import { sightOf } from "./seeing.mjs";

const SHELF = 4096;                    // pixels a side of a texture that holds tiles, which devices of 15 years hold
/** Textures that hold tiles: 64 MiB each, and only as many as a view needs at once. */
export const SHELVES = 2;
const DECODING = 2, WAITING = 4;       // tiles that are decoded at once, and that wait for their frame to be uploaded

export class Tiles {
  /** Sizes of the picture, the smallest first: columns, rows, and the first row of its places in the table. */
  levels;
  /** Pixels that a tile adds a side, and of the rim around them. */
  inner;
  rim;
  /** Pixels a side of a texture that holds tiles. */
  shelf;
  /** How many were uploaded, and how many could not be decoded. */
  uploads = 0;
  failed = new Set();

  #gl;
  #tell;
  #units;
  #all = [];                           // of each level: its tiles
  #wanted = [];                        // what the view needs, the first first
  #decoding = new Set();
  #ready = new Map();                  // tile -> ImageBitmap
  #held = new Map();                   // tile -> the number of its place; the one that was not needed for longest is the first
  #free = [];
  #shelves = 0;
  #table;
  #changed = false;

  /**
   * @param {HTMLElement} holder whose elements are the tiles
   * @param {number} most columns of a texture that the device holds
   * @param {() => void} tell something is ready to be uploaded, or never will be
   */
  constructor(holder, most, tell) {
    const sizes = JSON.parse(holder.dataset.levels);
    [this.inner, this.rim] = [Number(holder.dataset.inner), Number(holder.dataset.rim)];
    this.side = this.inner + 2 * this.rim;
    this.#tell = tell;
    this.across = Math.floor(Math.min(SHELF, most) / this.side);
    this.shelf = this.across * this.side;
    // Without room for a tile, or decoding in the background, the page has its preview.
    if (!this.across || typeof createImageBitmap === "undefined") sizes.length = 0;
    let first = 0;
    this.levels = sizes.map(([columns, rows]) => {
      const level = { columns, rows, first };
      first += Math.ceil(rows / this.inner);
      return level;
    });
    this.tableSize = this.levels.length ? [Math.ceil(this.levels.at(-1).columns / this.inner), first] : [1, 1];
    this.#all = this.levels.map((level) => this.#cut(level));
  }

  #cut({ columns, rows, first }) {
    const found = [];
    for (let row = 0; row * this.inner < rows; row++) {
      for (let column = 0; column * this.inner < columns; column++) {
        const [left, right] = [column, column + 1].map((at) => Math.min(at * this.inner / columns, 1) - 0.5);
        const [upper, lower] = [row, row + 1].map((at) => 0.5 - Math.min(at * this.inner / rows, 1));
        const middle = towards((left + right) / 2, (upper + lower) / 2);
        // A cap around it, by its corners and the middles of its edges: of a cell with the equator, these are farthest.
        const rim = [left, (left + right) / 2, right].flatMap((x) => [upper, (upper + lower) / 2, lower].map((y) => towards(x, y)));
        found.push({
          name: `tile-${columns}-${row}-${column}`, at: [column, first + row], middle,
          radius: Math.max(...rim.map((corner) => arcBetween(middle, corner))) * 1.02,
        });
      }
    }
    return found;
  }

  // ---------------------------------------------------------------------------------------------- the device

  /**
   * Also after a lost context, of which nothing survives.
   *
   * @param {WebGLRenderingContext} gl
   * @param {number[]} units of its textures: of the table, and of each shelf
   */
  prepare(gl, units) {
    [this.#gl, this.#units, this.#shelves, this.#free] = [gl, units, 0, []];
    this.#held.clear();
    this.#table = new Uint8Array(4 * this.tableSize[0] * this.tableSize[1]);
    this.#changed = true;
    units.forEach((unit, i) => {
      const smooth = i ? gl.LINEAR : gl.NEAREST;
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
      for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, smooth);
      // A texture without an image is no texture; the shelves that are not needed have one pixel.
      if (i) gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    });
  }

  get #room() {
    return this.across ** 2;
  }

  /** Bytes of the textures that hold tiles. */
  get bytes() {
    return 4 * this.shelf ** 2 * this.#shelves;
  }

  #addShelf() {
    const gl = this.#gl, first = this.#shelves * this.#room;
    gl.activeTexture(gl.TEXTURE0 + this.#units[1 + this.#shelves]);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, this.shelf, this.shelf, 0, gl.RGBA, gl.UNSIGNED_BYTE, null);
    for (let place = this.#room - 1; place >= 0; place--) this.#free.push(first + place);
    this.#shelves += 1;
  }

  // ---------------------------------------------------------------------------------------------- what is needed

  /**
   * The level that shows eyes a column for each pixel straight ahead, counted from 1; 0: the preview has enough of them.
   *
   * @param {number} pixel on the plane at distance 1
   * @param {number} preview columns of the picture that is held in one piece
   */
  levelFor(pixel, preview) {
    const enough = 2 * Math.PI / pixel;
    if (preview >= enough) return 0;
    const found = this.levels.findIndex(({ columns }) => columns >= enough);
    return found < 0 ? this.levels.length : found + 1;
  }

  /** Has the tiles of a level brought that eyes see, and keeps them. @param {import("./seeing.mjs").Eye[]} eyes */
  want(eyes, level) {
    this.#wanted = this.#seen(eyes, level);
    for (const tile of this.#wanted) {
      const place = this.#held.get(tile);
      if (place === undefined) continue;
      this.#held.delete(tile);                             // and to the end, as the last one that was needed
      this.#held.set(tile, place);
    }
    this.#decode();
  }

  // Where they are too many, those at the edges are of the next smaller level.
  #seen(eyes, level) {
    if (!level) return [];
    const most = this.#room * SHELVES, sights = eyes.map(sightOf), ahead = eyes[0].axes[2];
    const seen = this.#all[level - 1].filter(({ middle, radius }) => sights.some((sees) => sees(middle, radius)));
    const far = new Map(seen.map((tile) => [tile, arcBetween(ahead, tile.middle)]));
    seen.sort((a, b) => far.get(a) - far.get(b));
    if (seen.length <= most) return seen;
    const smaller = this.#seen(eyes, level - 1);
    return [...smaller, ...seen].slice(0, most);
  }

  /** Whether something that the view needs is still to come. */
  get busy() {
    return this.#wanted.some((tile) => !this.#held.has(tile) && !this.failed.has(tile));
  }

  #decode() {
    for (const tile of this.#wanted) {
      if (this.#decoding.size >= DECODING || this.#decoding.size + this.#ready.size >= WAITING) return;
      if (this.#held.has(tile) || this.#decoding.has(tile) || this.#ready.has(tile) || this.failed.has(tile)) continue;
      const element = document.getElementById(tile.name);
      // Of a page that is still being read, the last element may be there in part.
      if (document.readyState === "loading" && !element?.nextElementSibling) continue;
      this.#decoding.add(tile);
      this.#bitmap(element).then(
        (bitmap) => this.#ready.set(tile, bitmap),
        (error) => {
          console.warn(`A tile of the picture cannot be shown (${tile.name}): ${error.message}`);
          this.failed.add(tile);
        },
      ).then(() => {
        this.#decoding.delete(tile);
        this.#tell();
      });
    }
  }

  // Of bytes, which browsers decode beside the page's own work; of an element, they would do it where it is uploaded.
  async #bitmap(element) {
    if (!element) throw new Error("it is missing");
    const file = new Blob([bytesOf64(element.textContent)], { type: element.type });
    return createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  }

  // ---------------------------------------------------------------------------------------------- a frame's work

  /** Uploads one tile at most, as a frame has time for no more. Returns whether another one waits. */
  step() {
    for (const [tile, bitmap] of this.#ready) {
      this.#ready.delete(tile);
      const wanted = this.#wanted.includes(tile);
      if (wanted) this.#upload(tile, bitmap);
      bitmap.close();
      if (wanted) break;
    }
    this.#decode();
    return this.#ready.size > 0;
  }

  #upload(tile, bitmap) {
    const gl = this.#gl, place = this.#place(), shelf = Math.floor(place / this.#room), spot = place % this.#room;
    const [x, y] = [spot % this.across, Math.floor(spot / this.across)];
    gl.activeTexture(gl.TEXTURE0 + this.#units[1 + shelf]);
    gl.texSubImage2D(gl.TEXTURE_2D, 0, x * this.side, y * this.side, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
    this.#held.set(tile, place);
    this.#enter(tile, [x, y, shelf, 255]);
    this.uploads += 1;
  }

  // A place for one more tile: a free one, that of a tile which was not needed for longest, or on one more shelf.
  #place() {
    if (!this.#free.length) {
      const [oldest] = this.#held.keys(), needed = new Set(this.#wanted);
      if (oldest && !needed.has(oldest)) {
        this.#free.push(this.#held.get(oldest));
        this.#held.delete(oldest);
        this.#enter(oldest, [0, 0, 0, 0]);
      } else this.#addShelf();
    }
    return this.#free.pop();
  }

  #enter({ at: [column, row] }, entry) {
    this.#table.set(entry, 4 * (row * this.tableSize[0] + column));
    this.#changed = true;
  }

  /** Brings the table of places to the device, before something is drawn. */
  update() {
    if (!this.#changed) return;
    const gl = this.#gl;
    gl.activeTexture(gl.TEXTURE0 + this.#units[0]);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, ...this.tableSize, 0, gl.RGBA, gl.UNSIGNED_BYTE, this.#table);
    this.#changed = false;
  }
}

// The direction of a place in a picture: −0.5 … 0.5 from left to right, and from bottom to top.
function towards(x, y) {
  const [yaw, pitch] = [x * 2 * Math.PI, y * Math.PI];
  return [Math.cos(pitch) * Math.sin(yaw), Math.sin(pitch), Math.cos(pitch) * Math.cos(yaw)];
}

function bytesOf64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);   // browsers before 2025
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}
