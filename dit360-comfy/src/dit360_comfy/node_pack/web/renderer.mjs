/**
 * Draws views of panoramas. All nodes share one WebGL 2 context, since a browser gives only some sixteen of them and takes
 * the oldest away; what it draws is copied to the 2D canvas of the node that asked.
 */

import { TINT } from "./painting/painter.mjs";
import { axesOf, tangentOfPixel } from "./painting/sphere.mjs";

/** @typedef {import("./painting/sphere.mjs").View} View */
/** @typedef {import("./painting/mask.mjs").Mask} Mask */
/** @typedef {{texture: WebGLTexture, width: number, height: number, bytes: number}} Panorama on the graphics device */

const BUDGET = 512 * 2 ** 20;   // bytes of all textures together, a fourth of what a small graphics card has
const STRIP = 8 * 2 ** 20;      // bytes that one step uploads, which takes some milliseconds

const VERTEX = `#version 300 es
  in vec2 corner;
  uniform vec2 tangent;                                // of half the field of view, right and up
  out vec2 at;                                         // on the plane at distance 1 before the eye
  void main() { at = corner * tangent; gl_Position = vec4(corner, 0.0, 1.0); }`;

// The neighbours of a point are fetched one by one: hardware filtering does not know that beyond a pole lies the opposite
// meridian. There are no mipmaps, since the jump of the longitude at 180 degrees would pick the smallest for one column of
// pixels and draw a line; averaging several rays a pixel does their work.
const FRAGMENT = `#version 300 es
  precision highp float;
  precision highp int;
  precision highp sampler2D;
  uniform sampler2D panorama;
  uniform sampler2D mask;
  uniform vec4 tint;                                   // of what is painted; a is 0 where no mask is shown
  uniform mat3 turn;                                   // right, up and forward of the eye, in the world
  uniform vec2 pixel;                                  // of the screen, on the plane at distance 1
  uniform int rays;                                    // a pixel and axis
  uniform bool cubic;
  in vec2 at;
  out vec4 colour;

  vec3 texel(sampler2D image, ivec2 p, ivec2 size) {
    if (p.y < 0) p = ivec2(p.x + size.x / 2, -1 - p.y);
    else if (p.y >= size.y) p = ivec2(p.x + size.x / 2, 2 * size.y - 1 - p.y);
    if (p.x < 0) p.x += size.x;
    else if (p.x >= size.x) p.x -= size.x;
    return texelFetch(image, p, 0).rgb;
  }

  // Catmull and Rom's cubic: enlarged pixels would show as diamonds with a linear one.
  vec4 weights(float t) {
    float t2 = t * t, t3 = t2 * t;
    return vec4(-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * t3 - 0.5 * t2);
  }

  vec3 row(ivec2 p, ivec2 size, vec4 weight) {
    return texel(panorama, p - ivec2(1, 0), size) * weight.x + texel(panorama, p, size) * weight.y
         + texel(panorama, p + ivec2(1, 0), size) * weight.z + texel(panorama, p + ivec2(2, 0), size) * weight.w;
  }

  vec3 linear(sampler2D image, vec2 angle) {
    ivec2 size = textureSize(image, 0);
    vec2 p = (angle + 0.5) * vec2(size) - 0.5, f = p - floor(p);
    ivec2 i = ivec2(floor(p));
    vec3 upper = mix(texel(image, i, size), texel(image, i + ivec2(1, 0), size), f.x);
    vec3 lower = mix(texel(image, i + ivec2(0, 1), size), texel(image, i + ivec2(1, 1), size), f.x);
    return mix(upper, lower, f.y);
  }

  vec3 look(vec2 angle) {
    if (!cubic) return linear(panorama, angle);
    ivec2 size = textureSize(panorama, 0);
    vec2 p = (angle + 0.5) * vec2(size) - 0.5, f = p - floor(p);
    ivec2 i = ivec2(floor(p));
    vec4 across = weights(f.x), down = weights(f.y);
    return row(i - ivec2(0, 1), size, across) * down.x + row(i, size, across) * down.y
         + row(i + ivec2(0, 1), size, across) * down.z + row(i + ivec2(0, 2), size, across) * down.w;
  }

  // Longitude and latitude, −0.5 … 0.5 from left to right and from top to bottom.
  vec2 angleOf(vec3 ray) {
    if (ray.x == 0.0 && ray.z == 0.0) ray.z = 1.0e-9;  // at a pole every longitude is right, but atan(0, 0) is undefined
    // atan and not asin, which loses all precision near the poles.
    return vec2(atan(ray.x, ray.z) / 6.283185307179586, -atan(ray.y, length(ray.xz)) / 3.141592653589793);
  }

  void main() {
    // Stripes of two strengths, so that it is seen on a picture of its own colour too.
    float strength = tint.a * (fract((gl_FragCoord.x + gl_FragCoord.y) / 18.0) < 0.5 ? 1.0 : 0.72);
    vec3 sum = vec3(0.0);
    for (int j = 0; j < rays; j++)
      for (int i = 0; i < rays; i++) {
        vec2 offset = (vec2(i, j) + 0.5) / float(rays) - 0.5;
        vec2 angle = angleOf(turn * vec3(at + offset * pixel, 1.0));
        vec3 seen = clamp(look(angle), 0.0, 1.0);
        if (tint.a > 0.0) seen = mix(seen, tint.rgb, strength * linear(mask, angle).r);
        sum += seen;
      }
    colour = vec4(sum / float(rays * rays), 1.0);
  }`;

/** Yields to the page: to the next frame, or soon where the page is hidden and has no frames. */
const breath = () => new Promise((go) => {
  const timer = setTimeout(go, 50);
  requestAnimationFrame(() => { clearTimeout(timer); go(); });
});

class Renderer {
  #canvas = document.createElement("canvas");
  #gl;
  #uniform = {};
  #kept = new Set();            // panoramas, the longest unused one first
  #masks = new Map();           // mask -> its texture
  #work = Promise.resolve();    // one picture is decoded at a time, however many nodes there are
  #restored = new Set();        // what to call when a lost context is back

  constructor() {
    const wanted = { alpha: false, antialias: false, depth: false, stencil: false };
    this.#gl = this.#canvas.getContext("webgl2", wanted);
    if (!this.#gl) throw new Error("This browser offers no WebGL 2, or has switched it off.");
    this.#prepare();
    this.#canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.#kept.clear();
      this.#masks.clear();
    });
    this.#canvas.addEventListener("webglcontextrestored", () => {
      this.#prepare();
      for (const call of this.#restored) call();
    });
  }

  /** Calls back after a loss of the context, of which no panorama survives. Returns how to end that. */
  onRestored(call) {
    this.#restored.add(call);
    return () => this.#restored.delete(call);
  }

  /** Columns of the widest picture or mask that the device can hold. */
  get most() {
    return this.#gl.getParameter(this.#gl.MAX_TEXTURE_SIZE) & ~1;
  }

  /** Whether a panorama is still on the device: a full memory or a lost context takes it away. */
  has(panorama) {
    return this.#kept.has(panorama);
  }

  /** Bytes of textures, for those who look for leaks. */
  get bytes() {
    return [...this.#kept].reduce((sum, { bytes }) => sum + bytes, 0);
  }

  #shader(type, code) {
    const gl = this.#gl, made = gl.createShader(type);
    gl.shaderSource(made, code);
    gl.compileShader(made);
    if (!gl.getShaderParameter(made, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(made));
    return made;
  }

  #prepare() {
    const gl = this.#gl, program = gl.createProgram();
    gl.attachShader(program, this.#shader(gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(program, this.#shader(gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    for (const name of ["tangent", "mask", "tint", "turn", "pixel", "rays", "cubic"]) this.#uniform[name] = gl.getUniformLocation(program, name);
    gl.uniform1i(this.#uniform.mask, 1);
    // One triangle that covers the canvas.
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);
  }

  /**
   * Decodes a picture file and brings it to the device. Decoding is off the page's thread and the upload in small steps,
   * so that the page goes on moving meanwhile.
   *
   * @param {Blob} file
   * @param {number} width of the picture, in pixels; one that the device cannot hold is made smaller
   * @param {AbortSignal} signal
   * @returns {Promise<Panorama>}
   */
  load(file, width, signal) {
    const job = this.#work.then(() => this.#load(file, width, signal));
    this.#work = job.catch(() => {});
    return job;
  }

  async #load(file, width, signal) {
    signal.throwIfAborted();
    const { most } = this;
    const smaller = width > most ? { resizeWidth: most, resizeHeight: most / 2, resizeQuality: "high" } : {};
    const bitmap = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none", ...smaller });
    try {
      return await this.#upload(bitmap, signal);
    } finally {
      bitmap.close();
    }
  }

  async #upload(bitmap, signal) {
    const gl = this.#gl, { width, height } = bitmap, bytes = 4 * width * height;
    this.#makeRoom(bytes);
    const panorama = { texture: gl.createTexture(), width, height, bytes };
    this.#kept.add(panorama);
    try {
      const bind = () => gl.bindTexture(gl.TEXTURE_2D, panorama.texture);
      bind();
      this.#plain();
      gl.texStorage2D(gl.TEXTURE_2D, 1, gl.RGBA8, width, height);
      const rows = Math.max(1, Math.floor(STRIP / (4 * width)));
      for (let top = 0; top < height; top += rows) {
        if (top) await this.#done();
        signal.throwIfAborted();
        if (!this.has(panorama)) throw new Error("The graphics device was lost while the picture went to it.");
        bind();                                        // another node may have drawn meanwhile
        gl.pixelStorei(gl.UNPACK_SKIP_ROWS, top);
        gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, top, width, Math.min(rows, height - top), gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
      }
      return panorama;
    } catch (error) {
      this.release(panorama);
      throw error;
    } finally {
      gl.pixelStorei(gl.UNPACK_SKIP_ROWS, 0);
    }
  }

  // What is fetched is a texel, and nothing between them.
  #plain() {
    const gl = this.#gl;
    for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
    for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, gl.NEAREST);
  }

  // Waits, without holding up the page, until the device has done what it was asked for: it would hold up the page itself
  // if more came than it can take.
  async #done() {
    const gl = this.#gl, sync = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    do await breath(); while (!gl.isContextLost() && gl.getSyncParameter(sync, gl.SYNC_STATUS) !== gl.SIGNALED);
    gl.deleteSync(sync);
  }

  // A node whose panorama goes keeps what its canvas shows, and loads it again when it is next turned.
  #makeRoom(bytes) {
    for (const panorama of this.#kept) {
      if (this.bytes + bytes <= BUDGET) return;
      this.release(panorama);
    }
  }

  /** @param {?Panorama} panorama which is gone afterwards */
  release(panorama) {
    if (this.#kept.delete(panorama)) this.#gl.deleteTexture(panorama.texture);
  }

  /** @param {?Mask} mask of which the device is to hold nothing more */
  releaseMask(mask) {
    if (this.#masks.has(mask)) this.#gl.deleteTexture(this.#masks.get(mask));
    this.#masks.delete(mask);
  }

  // Brings what has changed of a mask to the device.
  #showMask(mask) {
    const gl = this.#gl;
    gl.uniform4f(this.#uniform.tint, ...TINT.slice(0, 3), mask ? TINT[3] : 0);
    if (!mask) return;
    const { width, height, values } = mask, begun = this.#masks.has(mask);
    if (!begun) this.#masks.set(mask, gl.createTexture());
    gl.activeTexture(gl.TEXTURE1);
    gl.bindTexture(gl.TEXTURE_2D, this.#masks.get(mask));
    if (!begun) {
      this.#plain();
      gl.texStorage2D(gl.TEXTURE_2D, 1, gl.R8, width, height);
      mask.changedAll();
    }
    const rows = mask.takeChanged();
    if (rows) {
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);
      gl.texSubImage2D(gl.TEXTURE_2D, 0, 0, rows[0], width, rows[1] - rows[0], gl.RED, gl.UNSIGNED_BYTE,
        values.subarray(rows[0] * width, rows[1] * width));
      gl.pixelStorei(gl.UNPACK_ALIGNMENT, 4);
    }
    gl.activeTexture(gl.TEXTURE0);
  }

  /**
   * Fills a canvas with a view.
   *
   * @param {Panorama} panorama one that ``has`` is true of
   * @param {View} view
   * @param {CanvasRenderingContext2D} onto
   * @param {number} most rays a pixel and axis, 1 … 4: fewer are faster and flicker more
   * @param {?Mask} [mask] that is shown over it
   */
  draw(panorama, view, onto, most, mask = null) {
    const gl = this.#gl, { width, height } = onto.canvas;
    if (gl.isContextLost()) return;
    this.#kept.delete(panorama);
    this.#kept.add(panorama);                          // now the one used last
    // It only grows: a new size is a new buffer, and nodes of several sizes take turns.
    if (this.#canvas.width < width) this.#canvas.width = width;
    if (this.#canvas.height < height) this.#canvas.height = height;
    const pixel = tangentOfPixel(view.fov, width, height), rays = Math.ceil(panorama.width / (2 * Math.PI) * pixel);
    this.#showMask(mask);
    gl.bindTexture(gl.TEXTURE_2D, panorama.texture);
    gl.viewport(0, 0, width, height);
    gl.uniform2f(this.#uniform.tangent, pixel * width / 2, pixel * height / 2);
    gl.uniform2f(this.#uniform.pixel, pixel, pixel);
    gl.uniformMatrix3fv(this.#uniform.turn, false, axesOf(view).flat());
    gl.uniform1i(this.#uniform.rays, Math.min(Math.max(rays, 1), most));
    gl.uniform1i(this.#uniform.cubic, Number(rays <= 1 && most > 1));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
    // At once, as the browser may empty the buffer after this task. WebGL counts rows from below.
    onto.drawImage(this.#canvas, 0, this.#canvas.height - height, width, height, 0, 0, width, height);
  }
}

let shared = null;

/** The one renderer of the page. Throws, each time it is asked, where there is no WebGL 2. */
export function renderer() {
  shared ??= new Renderer();
  return shared;
}
