/** A mask of the sphere, painted with a round brush, and its history. */

import { arcBetween, clamp, onArc } from "./sphere.mjs";

/** Columns of the largest mask; one of a wider picture is made of this size, and as good. */
export const WIDEST_MASK = 8192;
export const PAINTED = 255, KEPT = 0;

const TILE = 128;                      // pixels a side of what the history keeps
const HISTORY = 64 * 2 ** 20;          // bytes of it, at most

export class Mask {
  /** Counts the changes, also those that are undone. */
  revision = 0;

  #undone = [];                        // changes: maps of a tile's number to what it was, the last one at the end
  #done = [];
  #change = null;                      // the one that is being made
  #dirty = null;                       // rows that are not yet drawn: [first, behind the last]
  #counted;                            // rows whose sums are not known any more: the same
  #sums;

  /**
   * @param {number} width in pixels; even. Column centres run over the longitudes −180° … 180°, row centres over the
   *   latitudes 90° … −90°.
   */
  constructor(width) {
    Object.assign(this, { width, height: width / 2, values: new Uint8Array(width * width / 2) });
    this.across = Math.ceil(this.width / TILE);
    this.#sums = new Float64Array(this.height);
    this.changedAll();
    this.#counted = null;
  }

  // ---------------------------------------------------------------------------------------------- painting

  /**
   * Fills a cap of the sphere: every pixel whose centre is within the radius, and the one that the cap's centre is in.
   *
   * @param {import("./sphere.mjs").Direction} centre
   * @param {number} radius radians of arc
   * @param {number} value 0 … 255
   */
  cap([x, y, z], radius, value) {
    const { width, height } = this, latitude = Math.atan2(y, Math.hypot(x, z)), longitude = Math.atan2(x, z);
    const rowOf = (angle) => (0.5 - angle / Math.PI) * height - 0.5, column = (longitude / (2 * Math.PI) + 0.5) * width - 0.5;
    const [sine, cosine, edge] = [Math.sin(latitude), Math.cos(latitude), Math.cos(radius)];
    const last = Math.min(height - 1, Math.floor(rowOf(latitude - radius)));
    for (let row = Math.max(0, Math.ceil(rowOf(latitude + radius))); row <= last; row++) {
      // The law of cosines: cos(radius) = sin·sin + cos·cos·cos(half of the row's interval of longitudes).
      const at = Math.PI * (0.5 - (row + 0.5) / height), over = edge - sine * Math.sin(at), by = cosine * Math.cos(at);
      if (over > by) continue;
      if (over <= -by) this.#fill(row, 0, width, value);
      else {
        const half = Math.acos(over / by) / (2 * Math.PI) * width;
        this.#around(row, Math.ceil(column - half), Math.floor(column + half), value);
      }
    }
    const [row, here] = [clamp(Math.round(rowOf(latitude)), 0, height - 1), Math.round(column)];
    this.#around(row, here, here, value);
  }

  /** Draws the brush along the arc of a great circle; its edge is right within a quarter of a pixel. */
  line(from, to, radius, value) {
    const pixel = Math.PI / this.height, arc = arcBetween(from, to);
    // Between two caps at a distance s the edge falls back by s²/(8·radius).
    const steps = Math.ceil(arc / Math.max(Math.min(Math.sqrt(2 * radius * pixel), radius), pixel / 2));
    for (let step = 1; step <= steps; step++) this.cap(onArc(from, to, step / steps), radius, value);
  }

  /** Every pixel anew. @param {(values: Uint8Array) => void} work changes them in place */
  all(work) {
    for (let tile = 0; tile < this.across * Math.ceil(this.height / TILE); tile++) this.#keep(tile);
    work(this.values);
    this.#touch(0, this.height);
  }

  // Columns ``first`` … ``last``, of which both may lie beyond the meridian.
  #around(row, first, last, value) {
    const { width } = this;
    if (last - first + 1 >= width) return this.#fill(row, 0, width, value);
    const [from, to] = [first, last + 1].map((column) => ((column % width) + width) % width);
    if (last < first) return;
    if (from < to) return this.#fill(row, from, to, value);
    this.#fill(row, from, width, value);
    if (to) this.#fill(row, 0, to, value);
  }

  #fill(row, from, to, value) {
    const line = Math.floor(row / TILE) * this.across;
    for (let tile = Math.floor(from / TILE); tile <= Math.floor((to - 1) / TILE); tile++) this.#keep(line + tile);
    this.values.fill(value, row * this.width + from, row * this.width + to);
    this.#touch(row, row + 1);
  }

  #touch(first, behind) {
    const both = (rows) => [Math.min(first, rows?.[0] ?? first), Math.max(behind, rows?.[1] ?? behind)];
    this.#dirty = both(this.#dirty);
    this.#counted = both(this.#counted);
  }

  // ---------------------------------------------------------------------------------------------- history

  get canUndo() { return this.#done.length > 0; }
  get canRedo() { return this.#undone.length > 0; }

  /** What is painted from here on is one change, until ``end`` or ``cancel``. */
  begin() {
    this.end();
    this.#change = new Map();
  }

  end() {
    const change = this.#change;
    this.#change = null;
    if (!change?.size) return;
    this.revision += 1;
    this.#undone = [];
    this.#done.push(change);
    while (this.#done.length > 1 && bytesOf(this.#done) > HISTORY) this.#done.shift();
  }

  /** Takes back what was painted since ``begin``, as if it had not been. */
  cancel() {
    if (this.#change) this.#swap(this.#change);
    this.#change = null;
  }

  undo() { this.#turnBack(this.#done, this.#undone); }
  redo() { this.#turnBack(this.#undone, this.#done); }

  #turnBack(from, to) {
    this.end();
    const change = from.pop();
    if (!change) return;
    to.push(this.#swap(change));
    this.revision += 1;
  }

  // Puts tiles back, and returns what was there instead.
  #swap(change) {
    const instead = new Map();
    for (const [tile, was] of change) {
      instead.set(tile, this.#tile(tile));
      this.#eachRow(tile, (start, length, at) => {
        if (typeof was === "number") this.values.fill(was, start, start + length);
        else this.values.set(was.subarray(at, at + length), start);
      });
      const top = Math.floor(tile / this.across) * TILE;
      this.#touch(top, Math.min(top + TILE, this.height));
    }
    return instead;
  }

  #keep(tile) {
    if (this.#change && !this.#change.has(tile)) this.#change.set(tile, this.#tile(tile));
  }

  // A copy of it, or its value where it has only one.
  #tile(tile) {
    const copy = new Uint8Array(TILE * TILE);
    let filled = 0;
    this.#eachRow(tile, (start, length, at) => {
      copy.set(this.values.subarray(start, start + length), at);
      filled = at + length;
    });
    for (let i = 1; i < filled; i++) if (copy[i] !== copy[0]) return copy.subarray(0, filled);
    return copy[0];
  }

  #eachRow(tile, work) {
    const left = (tile % this.across) * TILE, top = Math.floor(tile / this.across) * TILE;
    const wide = Math.min(TILE, this.width - left), high = Math.min(TILE, this.height - top);
    for (let row = 0; row < high; row++) work((top + row) * this.width + left, wide, row * wide);
  }

  // ---------------------------------------------------------------------------------------------- what it is

  /** Whoever draws the mask has lost it. */
  changedAll() {
    this.#dirty = [0, this.height];
  }

  /** Rows that have changed since they were asked for the last time: first, and behind the last; null for none. */
  takeChanged() {
    const rows = this.#dirty;
    this.#dirty = null;
    return rows;
  }

  /** The part of the sphere that is painted, 0 … 1: a row counts by the cosine of its latitude. */
  get share() {
    const { width, height, values } = this;
    if (this.#counted) {
      for (let row = this.#counted[0]; row < this.#counted[1]; row++) {
        let sum = 0;
        for (let i = row * width; i < (row + 1) * width; i++) sum += values[i];
        this.#sums[row] = sum;
      }
      this.#counted = null;
    }
    let painted = 0, all = 0;
    for (let row = 0; row < height; row++) {
      const weight = Math.sin(Math.PI * (row + 0.5) / height);
      painted += weight * this.#sums[row] / (PAINTED * width);
      all += weight;
    }
    return painted / all;
  }

  get empty() { return this.share === 0; }
}

// A tile of one value costs next to nothing; 64 bytes stand for its place in the map.
const bytesOf = (changes) => changes.reduce(
  (sum, change) => [...change.values()].reduce((bytes, was) => bytes + (was.length ?? 0) + 64, sum), 0);
