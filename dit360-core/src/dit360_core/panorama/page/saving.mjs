/** The view as a picture file. */

/** Its name, for the panorama's: ``harbour-view-90-0-75.png``, with the degrees of yaw, pitch and field of view. */
export function viewName(file, { yaw, pitch, fov }) {
  const dot = file.lastIndexOf("."), stem = dot > 0 ? file.slice(0, dot) : file;
  return `${stem}-view-${[yaw, pitch, fov].map((degrees) => Math.round(degrees) || 0).join("-")}.png`;
}

/**
 * Has the browser save what a canvas shows, pixel by pixel.
 *
 * @param {HTMLCanvasElement} canvas
 * @param {() => void} draw is called first, as a canvas may forget what it showed before
 * @param {string} name
 */
export async function saveCanvas(canvas, draw, name) {
  draw();
  const file = await new Promise((done) => canvas.toBlob(done, "image/png"));
  if (!file) throw new Error("the browser makes no file of it");
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
