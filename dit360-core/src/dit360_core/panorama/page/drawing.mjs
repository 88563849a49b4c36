/** Draws the view of a panorama with WebGL 1, and a mask over it. */

import { TINT } from "./painting/painter.mjs";
import { RAD, axesOf, clamp, tangentOfPixel } from "./painting/sphere.mjs";

const VERTEX = `
  attribute vec2 corner;
  uniform vec2 tangent;                                // of half the field of view, right and up
  varying vec2 at;                                     // on the plane at distance 1 before the eye
  void main() { at = corner * tangent; gl_Position = vec4(corner, 0.0, 1.0); }`;

// The neighbours of a point are fetched one by one: WebGL 1 cannot repeat a texture whose width is no power of two,
// and hardware filtering knows neither that column 0 follows the last one nor that beyond a pole lies the opposite
// meridian. There are no mipmaps, since the jump of the longitude at 180 degrees would pick the smallest for one column
// of pixels and draw a line; averaging several rays a pixel does their work.
const FRAGMENT = `
  #ifdef GL_FRAGMENT_PRECISION_HIGH
  precision highp float;
  #else
  precision mediump float;
  #endif
  uniform sampler2D panorama;
  uniform vec2 size;                                   // columns, rows
  uniform sampler2D mask;
  uniform vec2 maskSize;
  uniform vec4 tint;                                   // of what is painted; a is 0 where no mask is shown
  uniform mat3 turn;                                   // right, up and forward of the eye, in the picture
  uniform vec2 pixel;                                  // of the screen, on the plane at distance 1
  uniform float rays;                                  // a pixel and axis
  uniform bool cubic;
  varying vec2 at;

  vec4 texel(sampler2D image, vec2 size, float x, float y) {
    if (y < -0.5) { y = -1.0 - y; x += 0.5 * size.x; }
    else if (y > size.y - 0.5) { y = 2.0 * size.y - 1.0 - y; x += 0.5 * size.x; }
    if (x < -0.5) x += size.x;
    else if (x > size.x - 0.5) x -= size.x;
    return texture2D(image, (vec2(x, y) + 0.5) / size);
  }

  vec4 linear(sampler2D image, vec2 size, vec2 angle) {
    vec2 p = (angle + 0.5) * size - 0.5, i = floor(p), f = p - i;
    vec4 upper = mix(texel(image, size, i.x, i.y), texel(image, size, i.x + 1.0, i.y), f.x);
    vec4 lower = mix(texel(image, size, i.x, i.y + 1.0), texel(image, size, i.x + 1.0, i.y + 1.0), f.x);
    return mix(upper, lower, f.y);
  }

  // Catmull and Rom's cubic: enlarged pixels would show as diamonds with a linear one.
  vec4 weights(float t) {
    float t2 = t * t, t3 = t2 * t;
    return vec4(-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * t3 - 0.5 * t2);
  }

  vec4 row(float x, float y, vec4 weight) {
    return texel(panorama, size, x - 1.0, y) * weight.x + texel(panorama, size, x, y) * weight.y
         + texel(panorama, size, x + 1.0, y) * weight.z + texel(panorama, size, x + 2.0, y) * weight.w;
  }

  vec4 look(vec2 angle) {
    if (!cubic) return linear(panorama, size, angle);
    vec2 p = (angle + 0.5) * size - 0.5, i = floor(p), f = p - i;
    vec4 across = weights(f.x), down = weights(f.y);
    return row(i.x, i.y - 1.0, across) * down.x + row(i.x, i.y, across) * down.y
         + row(i.x, i.y + 1.0, across) * down.z + row(i.x, i.y + 2.0, across) * down.w;
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
    for (int j = 0; j < 4; j++) {
      if (float(j) >= rays) break;
      for (int i = 0; i < 4; i++) {
        if (float(i) >= rays) break;
        vec2 offset = (vec2(float(i), float(j)) + 0.5) / rays - 0.5;
        vec2 angle = angleOf(turn * vec3(at + offset * pixel, 1.0));
        vec3 colour = look(angle).rgb;
        if (tint.a > 0.0) colour = mix(colour, tint.rgb, strength * linear(mask, maskSize, angle).r);
        sum += colour;
      }
    }
    gl_FragColor = vec4(sum / (rays * rays), 1.0);
  }`;

const UNIFORMS = ["tangent", "panorama", "size", "mask", "maskSize", "tint", "turn", "pixel", "rays", "cubic"];

export class Drawing {
  /** The picture that is drawn: the page's, or a smaller one where the graphics device cannot hold it. */
  source;
  /** Columns of a texture that the device can hold. */
  most;

  #gl;
  #pose;
  #uniform = {};
  #masked = null;                      // the mask whose texture it is

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {HTMLImageElement} picture that is decoded
   * @param {object} pose of its camera: pitch and roll in degrees
   * @throws {Error} where there is no WebGL
   */
  constructor(canvas, picture, pose) {
    const wanted = { alpha: false, antialias: false, depth: false, stencil: false };
    this.#gl = canvas.getContext("webgl", wanted) || canvas.getContext("experimental-webgl", wanted);
    if (!this.#gl) {
      throw new Error("Looking around needs WebGL, which this browser does not offer or has switched off. "
        + "Here is the whole panorama, flat.");
    }
    this.#pose = pose;
    this.most = this.#gl.getParameter(this.#gl.MAX_TEXTURE_SIZE) & ~1;
    this.source = fitted(picture, this.most);
    this.prepare();
  }

  #shader(type, code) {
    const gl = this.#gl, made = gl.createShader(type);
    gl.shaderSource(made, code);
    gl.compileShader(made);
    if (!gl.getShaderParameter(made, gl.COMPILE_STATUS) && !gl.isContextLost()) throw new Error(gl.getShaderInfoLog(made));
    return made;
  }

  /** Also after a lost context, of which nothing survives. */
  prepare() {
    const gl = this.#gl, program = gl.createProgram();
    gl.attachShader(program, this.#shader(gl.VERTEX_SHADER, VERTEX));
    gl.attachShader(program, this.#shader(gl.FRAGMENT_SHADER, FRAGMENT));
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) throw new Error(gl.getProgramInfoLog(program));
    gl.useProgram(program);
    for (const name of UNIFORMS) this.#uniform[name] = gl.getUniformLocation(program, name);

    // One triangle that covers the window.
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([-1, -1, 3, -1, -1, 3]), gl.STATIC_DRAW);
    const corner = gl.getAttribLocation(program, "corner");
    gl.enableVertexAttribArray(corner);
    gl.vertexAttribPointer(corner, 2, gl.FLOAT, false, 0, 0);

    const { source } = this;
    for (const [unit, name] of [[1, "mask"], [0, "panorama"]]) {
      gl.uniform1i(this.#uniform[name], unit);
      gl.activeTexture(gl.TEXTURE0 + unit);
      gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
      for (const axis of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) gl.texParameteri(gl.TEXTURE_2D, axis, gl.CLAMP_TO_EDGE);
      for (const way of [gl.TEXTURE_MIN_FILTER, gl.TEXTURE_MAG_FILTER]) gl.texParameteri(gl.TEXTURE_2D, way, gl.NEAREST);
    }
    gl.pixelStorei(gl.UNPACK_ALIGNMENT, 1);            // the rows of a mask follow each other
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGB, gl.RGB, gl.UNSIGNED_BYTE, source);
    gl.uniform2f(this.#uniform.size, this.#columns, this.#columns / 2);
    this.#masked = null;
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
    const gl = this.#gl, uniform = this.#uniform;
    if (gl.isContextLost()) return;
    const { width, height } = gl.canvas, pixel = tangentOfPixel(view.fov, width, height);
    this.#showMask(mask);
    gl.viewport(0, 0, width, height);
    gl.uniform2f(uniform.tangent, pixel * width / 2, pixel * height / 2);
    gl.uniform2f(uniform.pixel, pixel, pixel);
    gl.uniformMatrix3fv(uniform.turn, false, axesOf(view).flatMap((axis) => this.inPicture(axis)));
    const rays = Math.ceil(this.#columns / (2 * Math.PI) * pixel);
    gl.uniform1f(uniform.rays, clamp(rays, 1, enough));
    gl.uniform1i(uniform.cubic, Number(rays <= 1 && fine));
    gl.drawArrays(gl.TRIANGLES, 0, 3);
  }

  #showMask(mask) {
    const gl = this.#gl;
    gl.uniform4f(this.#uniform.tint, ...TINT.slice(0, 3), mask ? TINT[3] : 0);
    if (!mask) return;
    const { width, height, values } = mask;
    gl.activeTexture(gl.TEXTURE1);
    if (this.#masked !== mask) {
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.LUMINANCE, width, height, 0, gl.LUMINANCE, gl.UNSIGNED_BYTE, values);
      gl.uniform2f(this.#uniform.maskSize, width, height);
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
