/** Eyes: where one looks in a picture, and what of the sphere it sees. */

import { axesOf, outOf, tangentOfPixel, unit } from "./painting/sphere.mjs";

/**
 * @typedef {object} Eye
 * @property {import("./painting/sphere.mjs").Direction[]} axes right, up and ahead of it, in the picture
 * @property {number[]} edges left, right, down and up: where the edges of what it sees lie on the plane at distance 1
 * @property {number} pixel on that plane, of what is drawn
 */

/** The eye of a window of that many pixels. @returns {Eye} */
export function eyeOfView(view, width, height, inPicture) {
  const pixel = tangentOfPixel(view.fov, width, height), [across, up] = [pixel * width / 2, pixel * height / 2];
  return { axes: axesOf(view).map(inPicture), edges: [-across, across, -up, up], pixel };
}

/**
 * One eye of a headset, which has turned on by ``yaw`` degrees. WebXR's axes are right, up and back.
 *
 * @param {XRView} view of its frame
 * @param {number} height pixels of its image
 * @returns {Eye}
 */
export function eyeOfHeadset(view, yaw, height, inPicture) {
  const p = view.projectionMatrix, m = view.transform.matrix, start = axesOf({ yaw, pitch: 0 });
  // Matrices are told column by column. What the projection maps to −1 and to 1 is an edge; a lens may look sideways.
  const edges = [(p[8] - 1) / p[0], (p[8] + 1) / p[0], (p[9] - 1) / p[5], (p[9] + 1) / p[5]];
  const axes = [[m[0], m[1], -m[2]], [m[4], m[5], -m[6]], [-m[8], -m[9], m[10]]];
  return { axes: axes.map((axis) => inPicture(outOf(start, axis))), edges, pixel: (edges[3] - edges[2]) / height };
}

/** Whether an eye may see something of a cap of the sphere: ``(direction of its middle, radius in radians) => boolean``. */
export function sightOf({ axes, edges: [left, right, down, up] }) {
  const walls = [[1, 0, -left], [-1, 0, right], [0, 1, -down], [0, -1, up]].map((wall) => outOf(axes, unit(wall)));
  return ([x, y, z], radius) => {
    const outside = -Math.sin(Math.min(radius, Math.PI / 2));
    return walls.every((wall) => wall[0] * x + wall[1] * y + wall[2] * z >= outside);
  };
}
