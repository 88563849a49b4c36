/** What the graphics device computes: for each pixel, what lies in its direction. */

const VERTEX = `
  attribute vec2 corner;
  uniform vec2 centre, tangent;                        // of what is seen, and of half of it to the right and up
  varying vec2 at;                                     // on the plane at distance 1 before the eye
  void main() { at = centre + corner * tangent; gl_Position = vec4(corner, 0.0, 1.0); }`;

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
  #ifdef TILED
  uniform vec4 levels[LEVELS];                         // columns, rows, first row in the table; the first is the one to show
  uniform float usable;                                // how many of them there are
  uniform sampler2D table;                             // of each tile: its place on a shelf, the shelf, whether it is there
  uniform vec2 tableSize;
  uniform sampler2D shelf0, shelf1;
  uniform float shelfSize, inner, rim;                 // pixels a side: of a shelf, of a tile without its rim, of the rim
  #endif
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

  #ifdef CUBIC
  // Catmull and Rom's cubic: enlarged pixels would show as diamonds with a linear one.
  vec4 weights(float t) {
    float t2 = t * t, t3 = t2 * t;
    return vec4(-0.5 * t + t2 - 0.5 * t3, 1.0 - 2.5 * t2 + 1.5 * t3, 0.5 * t + 2.0 * t2 - 1.5 * t3, 0.5 * t3 - 0.5 * t2);
  }
  #endif

  #ifdef TILED
  vec3 shelved(float shelf, vec2 p) {
    vec2 place = p / shelfSize;
    if (shelf < 0.5) return texture2D(shelf0, place).rgb;
    return texture2D(shelf1, place).rgb;
  }

  #ifdef CUBIC
  // The two weights in the middle are positive: a device that interpolates fetches both at once.
  vec3 between(float shelf, vec2 q) {
    vec2 i = floor(q - 0.5) + 0.5, f = q - i;
    vec4 across = weights(f.x), down = weights(f.y);
    vec2 inside = vec2(across.y + across.z, down.y + down.z), at = i + vec2(across.z, down.z) / inside;
    vec3 x = vec3(i.x - 1.0, at.x, i.x + 2.0), y = vec3(i.y - 1.0, at.y, i.y + 2.0);
    vec3 wide = vec3(across.x, inside.x, across.w), high = vec3(down.x, inside.y, down.w);
    return mat3(
      mat3(shelved(shelf, vec2(x.x, y.x)), shelved(shelf, vec2(x.y, y.x)), shelved(shelf, vec2(x.z, y.x))) * wide,
      mat3(shelved(shelf, vec2(x.x, y.y)), shelved(shelf, vec2(x.y, y.y)), shelved(shelf, vec2(x.z, y.y))) * wide,
      mat3(shelved(shelf, vec2(x.x, y.z)), shelved(shelf, vec2(x.y, y.z)), shelved(shelf, vec2(x.z, y.z))) * wide) * high;
  }
  #endif

  // Where a direction lies on a shelf, and on which; w is 0 where its tile is not there. A tile is read in its own
  // coordinates, as its rim holds what lies beyond its edges.
  vec4 placed(vec4 level, vec2 angle) {
    vec2 p = (angle + 0.5) * level.xy, tile = min(floor(p / inner), ceil(level.xy / inner) - 1.0);
    vec4 entry = floor(texture2D(table, (tile + vec2(0.5, level.z + 0.5)) / tableSize) * 255.0 + 0.5);
    return vec4(entry.xy * (inner + 2.0 * rim) + p - tile * inner + rim, entry.zw);
  }
  #endif

  #if defined(CUBIC) && !defined(TILED)
  vec4 row(float x, float y, vec4 weight) {
    return texel(panorama, size, x - 1.0, y) * weight.x + texel(panorama, size, x, y) * weight.y
         + texel(panorama, size, x + 1.0, y) * weight.z + texel(panorama, size, x + 2.0, y) * weight.w;
  }
  #endif

  vec3 look(vec2 angle) {
    #ifdef TILED
    vec4 place = vec4(0.0);
    for (int n = 0; n < LEVELS; n++) {
      if (float(n) >= usable || place.w > 0.5) break;    // until a tile has come, the next smaller level shows it
      place = placed(levels[n], angle);
    }
    if (place.w > 0.5) {
      #ifdef CUBIC
      return between(place.z, place.xy);
      #else
      return shelved(place.z, place.xy);
      #endif
    }
    #endif
    #if defined(CUBIC) && !defined(TILED)
    vec2 p = (angle + 0.5) * size - 0.5, i = floor(p), f = p - i;
    vec4 across = weights(f.x), down = weights(f.y);
    return (row(i.x, i.y - 1.0, across) * down.x + row(i.x, i.y, across) * down.y
         + row(i.x, i.y + 1.0, across) * down.z + row(i.x, i.y + 2.0, across) * down.w).rgb;
    #else
    return linear(panorama, size, angle).rgb;
    #endif
  }

  // Longitude and latitude, −0.5 … 0.5 from left to right and from top to bottom.
  vec2 angleOf(vec3 ray) {
    if (ray.x == 0.0 && ray.z == 0.0) ray.z = 1.0e-9;  // at a pole every longitude is right, but atan(0, 0) is undefined
    // atan and not asin, which loses all precision near the poles.
    return vec2(atan(ray.x, ray.z) / 6.283185307179586, -atan(ray.y, length(ray.xz)) / 3.141592653589793);
  }

  vec3 seen(vec2 offset, float strength) {
    vec2 angle = angleOf(turn * vec3(at + offset * pixel, 1.0));
    vec3 colour = look(angle);
    if (tint.a > 0.0) colour = mix(colour, tint.rgb, strength * linear(mask, maskSize, angle).r);
    return colour;
  }

  void main() {
    // Stripes of two strengths, so that it is seen on a picture of its own colour too.
    float strength = tint.a * (fract((gl_FragCoord.x + gl_FragCoord.y) / 18.0) < 0.5 ? 1.0 : 0.72);
    #ifdef CUBIC
    gl_FragColor = vec4(seen(vec2(0.0), strength), 1.0);
    #else
    vec3 sum = vec3(0.0);
    for (int j = 0; j < 4; j++) {
      if (float(j) >= rays) break;
      for (int i = 0; i < 4; i++) {
        if (float(i) >= rays) break;
        sum += seen((vec2(float(i), float(j)) + 0.5) / rays - 0.5, strength);
      }
    }
    gl_FragColor = vec4(sum / (rays * rays), 1.0);
    #endif
  }`;

const NAMES = [
  "centre", "tangent", "panorama", "size", "mask", "maskSize", "tint", "turn", "pixel", "rays", "levels", "usable", "table",
  "tableSize", "shelf0", "shelf1", "shelfSize", "inner", "rim",
];
const COMPLETED = 0x91b1;              // COMPLETION_STATUS_KHR

/** One program for the graphics device; what it does not need is not in it, as devices compute more than they are asked. */
export class Shader {
  /** Where its uniforms are, once it is ready. */
  at = {};

  #gl;
  #program;
  #parts;
  #linked = false;

  /**
   * Begins to make it, which may take a while.
   *
   * @param {WebGLRenderingContext} gl
   * @param {object} kind tiled: of a picture in tiles, and how many levels it has at most; cubic: between pixels, one ray each
   */
  constructor(gl, { tiled, cubic }) {
    const defined = `${tiled ? `#define TILED\n#define LEVELS ${tiled}\n` : ""}${cubic ? "#define CUBIC\n" : ""}`;
    this.#gl = gl;
    this.#program = gl.createProgram();
    this.#parts = [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]].map(([type, code]) => {
      const part = gl.createShader(type);
      gl.shaderSource(part, defined + code);
      gl.compileShader(part);
      gl.attachShader(this.#program, part);
      return part;
    });
    gl.bindAttribLocation(this.#program, 0, "corner");
    gl.linkProgram(this.#program);
  }

  /** Whether it can be used without the page having to wait for it; browsers that do not know say yes. */
  get ready() {
    const gl = this.#gl;
    return this.#linked || !gl.getExtension("KHR_parallel_shader_compile") || gl.getProgramParameter(this.#program, COMPLETED) !== false;
  }

  /** @throws {Error} where the device cannot */
  use() {
    const gl = this.#gl, program = this.#program;
    if (!this.#linked) {
      if (!gl.getProgramParameter(program, gl.LINK_STATUS) && !gl.isContextLost()) {
        throw new Error([...this.#parts.map((part) => gl.getShaderInfoLog(part)), gl.getProgramInfoLog(program)].join(" "));
      }
      for (const name of NAMES) this.at[name] = gl.getUniformLocation(program, name);
      this.#linked = true;
    }
    gl.useProgram(program);
  }
}
