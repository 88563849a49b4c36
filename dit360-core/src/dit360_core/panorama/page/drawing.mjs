/** Draws the view of a panorama with WebGL 1, and a mask over it. */

import { TINT } from "./painting/painter.mjs";
import { RAD, clamp } from "./painting/sphere.mjs";
import { eyeOfView } from "./seeing.mjs";
import { Shader } from "./shaders.mjs";
import { SHELVES, Tiles } from "./tiles.mjs";

const PANORAMA = 0, MASK = 1, TABLE = 2;                 // units of textures; the shelves of tiles follow

/** The graphics device, for a canvas. @throws {Error} where there is no WebGL */
export function deviceOf(canvas) {
  const wanted = { alpha: false, antialias: false, depth: false, stencil: false };
  const gl = canvas.getContext("webgl", wanted) || canvas.getContext("experimental-webgl", wanted);
  if (gl) return gl;
  throw new Error("Looking around needs WebGL, which this browser does not offer or has switched off. "
    + "Here is the whole panorama, flat.");
}

export class Drawing {
  /** The picture that is drawn: the page's, or a smaller one where the graphics device cannot hold it. */
  source;
  /** Columns of a texture that the device can hold. */
  most;
  /** @type {Tiles} */
  tiles;
  /** Whether the shader that what was drawn last needs is still being made. */
  waits = false;

  #gl;
  #pose;
  #plain;                              // shader of the picture that is held in one piece
  #fitting;                            // shaders for what is looked at: linear and cubic
  #masked = null;                      // the mask whose texture it is

  /**
   * @param {WebGLRenderingContext} gl
   * @param {HTMLImageElement} picture that is decoded
   * @param {object} pose of its camera: pitch and roll in degrees
   * @param {HTMLElement} holder of its tiles
   * @param {() => void} tell a tile is there, and a frame is needed
   */
  constructor(gl, picture, pose, holder, tell) {
    [this.#gl, this.#pose] = [gl, pose];
    this.most = gl.getParameter(gl.MAX_TEXTURE_SIZE) & ~1;
    this.source = fitted(picture, this.most);
    this.tiles = new Tiles(holder, this.most, tell);
    this.prepare();
  }

  /** The device, for a headset. */
  get gl() {
    return this.#gl;
  }

  /** A frame's work. Returns whether there is some for the next one. */
  step() {
    return this.tiles.step() || this.waits;
  }

  /** Whether what was drawn last is to become better. */
  get busy() {
    return this.waits || this.tiles.busy;
  }

  /** Columns of the picture that is shown where one looks closely. */
  get detail() {
    return this.tiles.levels.at(-1)?.columns ?? this.#columns;
  }

  /** Also after a lost context, of which nothing survives. */
  prepare() {
    const gl = this.#gl, { source, tiles } = this, tiled = tiles.levels.length;
    // One triangle that covers the window.
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);

    // Of a picture in tiles, the one that is held in one piece is never enlarged for long, and is as good without the cubic.
    const linear = new Shader(gl, {});
    this.#plain = linear;
    const shaders = (kind) => ({ linear: new Shader(gl, kind), cubic: new Shader(gl, { ...kind, cubic: true }) });
    this.#fitting = tiled ? shaders({ tiled }) : { linear, cubic: new Shader(gl, { cubic: true }) };
    for (const unit of [MASK, PANORAMA]) {
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
      for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, gl.NEAREST);
    }
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);            // the rows of a mask follow each other
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, source);
    tiles.prepare(gl, Array.from({ length: 1 + SHELVES }, (_, i) => TABLE + i));
    this.#masked = null;
  }

  /** Another picture of the same directions, where it is held in one piece. @param {TexImageSource} source */
  replace(source) {
    const gl = this.#gl;
    this.source = fitted(source, this.most);
    gl.activeTexture(gl.TEXTURE0 + PANORAMA);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, this.source);
  }

  /** Whether something can be drawn without waiting for the graphics device. */
  get ready() {
    return this.#plain.ready;
  }

  get #columns() {
    return this.source.naturalWidth || this.source.width;
  }

  /**
   * @param {import("./painting/sphere.mjs").View} view
   * @param {number} enough rays a pixel and axis, 1 … 4
   * @param {boolean} fine where a ray a pixel is enough: with a cubic between pixels
   * @param {?import("./painting/mask.mjs").Mask} mask that is shown
   */
  draw(view, enough, fine, mask) {
    const { width, height } = this.#gl.canvas, eye = eyeOfView(view, width, height, (world) => this.inPicture(world));
    this.drawEyes([{ eye, box: [0, 0, width, height] }], enough, fine, mask);
  }

  /**
   * As ``draw``, for several eyes.
   *
   * @param {object[]} eyes of each, eye, and its box in pixels of what is drawn into: left, lower, width, height
   * @param {number} enough
   * @param {boolean} fine
   * @param {?import("./painting/mask.mjs").Mask} mask
   */
  drawEyes(eyes, enough, fine, mask) {
    const gl = this.#gl, { tiles } = this;
    if (gl.isContextLost() || !eyes.length) return;
    const level = tiles.levelFor(Math.min(...eyes.map(({ eye }) => eye.pixel)), this.#columns);
    tiles.want(eyes.map(({ eye }) => eye), level);
    tiles.update();
    this.#uploadMask(mask);
    const usable = tiles.levels.slice(0, level).reverse(), columns = usable[0]?.columns ?? this.#columns;
    const rays = Math.ceil(columns / (2 * Math.PI) * Math.min(...eyes.map(({ eye }) => eye.pixel)));
    const uniform = this.#begin(usable, rays <= 1 && fine);
    gl.uniform4f(uniform.tint, ...TINT.slice(0, 3), mask ? TINT[3] : 0);
    if (mask) gl.uniform2f(uniform.maskSize, mask.width, mask.height);
    gl.uniform1f(uniform.rays, clamp(rays, 1, enough));
    for (const { eye: { axes, edges: [left, right, down, up], pixel }, box } of eyes) {
      gl.viewport(...box);
      gl.uniform2f(uniform.centre, (left + right) / 2, (down + up) / 2);
      gl.uniform2f(uniform.tangent, (right - left) / 2, (up - down) / 2);
      gl.uniform2f(uniform.pixel, pixel, pixel);
      gl.uniformMatrix3fv(uniform.turn, false, axes.flat());
      gl.drawArrays(gl.TRIANGLES, 0, 3);
    }
  }

  // Takes the shader for what is to be shown into use, or one that is ready; returns where its uniforms are.
  #begin(usable, cubic) {
    const gl = this.#gl, { tiles } = this, tiled = usable.length > 0, { linear, cubic: finer } = this.#fitting;
    const best = tiles.levels.length && !tiled ? this.#plain : cubic ? finer : linear;
    // The page does not wait for the graphics device. A picture that is held in one piece is drawn at once, as it always was.
    const shader = [best, linear].find(({ ready }) => ready || !tiles.levels.length) ?? this.#plain;
    this.waits = shader !== best;
    shader.use();
    const { at } = shader;
    gl.uniform1i(at.panorama, PANORAMA);
    gl.uniform1i(at.mask, MASK);
    gl.uniform2f(at.size, this.#columns, this.#columns / 2);
    if (shader === this.#plain || !tiled) return at;
    gl.uniform1i(at.table, TABLE);
    for (let shelf = 0; shelf < SHELVES; shelf++) gl.uniform1i(at[`shelf${shelf}`], TABLE + 1 + shelf);
    gl.uniform2f(at.tableSize, ...tiles.tableSize);
    gl.uniform1f(at.shelfSize, tiles.shelf);
    gl.uniform1f(at.inner, tiles.inner);
    gl.uniform1f(at.rim, tiles.rim);
    gl.uniform1f(at.usable, usable.length);
    gl.uniform4fv(at.levels, usable.flatMap(({ columns, rows, first }) => [columns, rows, first, 0]));
    return at;
  }

  #uploadMask(mask) {
    const gl = this.#gl;
    if (!mask) return;
    const { width, height, values } = mask;
    gl.activeTexture(gl.TEXTURE0 + MASK);
    if (this.#masked !== mask) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.LUMINANCE, width, height, 0, gl.LUMINANCE, gl.UNSIGNED_BYTE, values);
      mask.takeChanged();
      this.#masked = mask;
    }
    const rows = mask.takeChanged();
    if (rows) {
      const [first, behind] = rows;
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, first, width, behind - first, gl.LUMINANCE, gl.UNSIGNED_BYTE,
        values.subarray(first * width, behind * width));
    }
  }

  /** A direction of the world (right, up, ahead) as the picture has it, which may have been taken with a tilted camera:
   *  the transpose of the rotation Rx(pitch)·Ry(roll) about its right and its forward axis. */
  inPicture([right, up, ahead]) {
    const { pitch, roll } = this.#pose;
    const [sp, cp] = [Math.sin(pitch * RAD), Math.cos(pitch * RAD)], [sr, cr] = [Math.sin(roll * RAD), Math.cos(roll * RAD)];
    const upright = cp * up - sp * ahead;
    return [cr * right - sr * upright, sr * right + cr * upright, sp * up + cp * ahead];
  }
}

// The picture itself, or a smaller copy where the graphics device cannot hold it.
function fitted(picture, most) {
  if (picture.naturalWidth <= most) return picture;
  const copy = document.createElement("canvas");
  copy.width = most;
  copy.height = most / 2;
  const context = copy.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, 0, 0, copy.width, copy.height);
  return copy;
}
