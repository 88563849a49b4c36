/** Masks as files: PNG of one channel and 8 bits, and whatever picture a browser opens. */

import { KEPT, PAINTED } from "./mask.mjs";

const STRIP = 2 ** 20;                 // bytes that are compressed, or rows that are read, before the page goes on

/** A page that is asked for a frame meanwhile gives it. */
const breath = () => new Promise((go) => setTimeout(go));

let table = null;

/** CRC-32 as PNG and ZIP have it (PNG specification, annex D). */
export function crc32(bytes, begun = 0) {
  table ??= Uint32Array.from({ length: 256 }, (_, n) => {
    for (let bit = 0; bit < 8; bit++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
    return n;
  });
  let crc = ~begun;
  for (let i = 0; i < bytes.length; i++) crc = table[(crc ^ bytes[i]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

function chunk(kind, content) {
  const made = new Uint8Array(12 + content.length), numbers = new DataView(made.buffer);
  numbers.setUint32(0, content.length);
  made.set([...kind].map((letter) => letter.charCodeAt(0)), 4);
  made.set(content, 8);
  numbers.setUint32(8 + content.length, crc32(made.subarray(4, 8 + content.length)));
  return made;
}

// Strips of rows, each of which begins with 0: no filter, since long runs of one value need none.
function* strips(values, width) {
  const height = values.length / width, rows = Math.max(1, Math.floor(STRIP / width));
  for (let top = 0; top < height; top += rows) {
    const many = Math.min(rows, height - top), strip = new Uint8Array(many * (width + 1));
    for (let row = 0; row < many; row++) {
      strip.set(values.subarray((top + row) * width, (top + row + 1) * width), row * (width + 1) + 1);
    }
    yield strip;
  }
}

// A zlib stream. Not by a canvas, whose pixels some browsers change before a page may read them.
async function compressed(parts) {
  if (typeof CompressionStream === "undefined") return stored(parts);
  const source = new ReadableStream({
    async pull(flow) {
      const { value, done } = parts.next();
      if (done) return flow.close();
      flow.enqueue(value);
      await breath();
    },
  });
  return new Uint8Array(await new Response(source.pipeThrough(new CompressionStream("deflate"))).arrayBuffer());
}

// Uncompressed, for browsers before 2023: RFC 1950, and blocks of RFC 1951, 3.2.4.
async function stored(parts) {
  const pieces = [Uint8Array.of(0x78, 0x01)];
  let a = 1, b = 0;                    // of Adler-32
  for (const part of parts) {
    for (let at = 0; at < part.length; at += 0xffff) {
      const piece = part.subarray(at, at + 0xffff), { length } = piece;
      pieces.push(Uint8Array.of(0, length & 255, length >> 8, ~length & 255, (~length >> 8) & 255), piece);
      for (let i = 0; i < length; i++) {
        a = (a + piece[i]) % 65521;
        b = (b + a) % 65521;
      }
    }
    await breath();
  }
  pieces.push(Uint8Array.of(1, 0, 0, 255, 255, b >> 8, b & 255, a >> 8, a & 255));
  return new Uint8Array(await new Blob(pieces).arrayBuffer());
}

/** The mask as a file. @param {import("./mask.mjs").Mask} mask @returns {Promise<Blob>} */
export async function asPng({ values, width, height }) {
  const header = new Uint8Array(13), numbers = new DataView(header.buffer);
  numbers.setUint32(0, width);
  numbers.setUint32(4, height);
  header[8] = 8;                       // bits of a pixel; the zeros after it: grey, deflated, filtered by row, not interlaced
  const data = await compressed(strips(values.slice(), width));        // a copy: somebody may be painting
  const signature = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
  return new Blob([signature, chunk("IHDR", header), chunk("IDAT", data), chunk("IEND", new Uint8Array())], { type: "image/png" });
}

/**
 * The values of a mask in a file, at another size if need be; what is transparent counts as black.
 *
 * @param {Blob} file
 * @param {string} name of it, for what is said
 * @param {number} width that is wanted, in pixels
 * @returns {Promise<Uint8Array>}
 * @throws {Error} if it is no picture, or not twice as wide as high
 */
export async function fromPicture(file, name, width) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error(`${name} is no picture that this browser can read; open the PNG of a mask.`);
  }
  try {
    if (bitmap.width !== 2 * bitmap.height) {
      throw new Error(`${name} is ${bitmap.width}×${bitmap.height}, but a mask is twice as wide as high, as the panorama is.`);
    }
    return await greyOf(bitmap, width);
  } finally {
    bitmap.close();
  }
}

async function greyOf(bitmap, width) {
  const values = new Uint8Array(width * width / 2);
  let at = 0;
  for await (const strip of greys(bitmap, width)) {
    values.set(strip, at);
    at += strip.length;
  }
  // Made larger or smaller, a mask of black and white has grey edges that nobody painted.
  if (bitmap.width !== width && await blackAndWhite(bitmap)) {
    for (let i = 0; i < values.length; i++) values[i] = values[i] < 128 ? KEPT : PAINTED;
  }
  return values;
}

async function blackAndWhite(bitmap) {
  for await (const strip of greys(bitmap, bitmap.width)) {
    if (strip.some((grey) => grey !== KEPT && grey !== PAINTED)) return false;
  }
  return true;
}

// Rows of a picture, some at a time, as that wide.
async function* greys(bitmap, width) {
  const height = width / 2, rows = Math.min(height, Math.ceil(STRIP / width));
  const canvas = Object.assign(document.createElement("canvas"), { width, height: rows });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.imageSmoothingEnabled = bitmap.width !== width;
  for (let top = 0; top < height; top += rows) {
    const many = Math.min(rows, height - top);
    context.fillRect(0, 0, width, rows);
    // The whole picture is drawn, of which the canvas shows a strip: a strip alone would be smoothed at its edges.
    context.drawImage(bitmap, 0, -top, width, height);
    const { data } = context.getImageData(0, 0, width, many), strip = new Uint8Array(width * many);
    for (let i = 0; i < strip.length; i++) {
      const grey = Math.round(0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2]);
      strip[i] = grey <= 2 ? KEPT : grey >= 253 ? PAINTED : grey;      // some browsers add noise to what a page reads
    }
    yield strip;
    await breath();
  }
}
