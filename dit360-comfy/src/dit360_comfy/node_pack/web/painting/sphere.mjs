/** Directions on the sphere, as unit vectors: to the right, upwards and ahead. */

/** @typedef {[number, number, number]} Direction */
/**
 * @typedef {object} View in degrees
 * @property {number} yaw to the right
 * @property {number} pitch upwards
 * @property {number} fov field of view, over the longer side
 */

export const RAD = Math.PI / 180;
export const clamp = (x, least, most) => Math.min(most, Math.max(least, x));

/** Of the angle that one pixel covers straight ahead, in a window of that size. */
export const tangentOfPixel = (fov, width, height) => 2 * Math.tan(fov * RAD / 2) / Math.max(width, height);

/** Right, up and ahead of an eye that is turned so, in the world. @returns {Direction[]} */
export function axesOf({ yaw, pitch }) {
  const [sy, cy] = [Math.sin(yaw * RAD), Math.cos(yaw * RAD)], [sp, cp] = [Math.sin(pitch * RAD), Math.cos(pitch * RAD)];
  return [[cy, 0, -sy], [-sy * sp, cp, -cy * sp], [sy * cp, sp, cy * cp]];
}

/** A vector of the eye in the world. */
export function outOf(axes, [right, up, ahead]) {
  return [0, 1, 2].map((i) => right * axes[0][i] + up * axes[1][i] + ahead * axes[2][i]);
}

export function unit(vector) {
  const length = Math.hypot(...vector);
  return vector.map((part) => part / length);
}

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];

/** Radians of arc between two directions; an arc cosine would know nothing of small ones. */
export const arcBetween = (a, b) => Math.atan2(Math.hypot(...cross(a, b)), dot(a, b));

/** The direction at that part of the great circle's arc, 0 … 1. Of opposite ones every arc is right, and one is taken. */
export function onArc(from, to, part) {
  const arc = arcBetween(from, to);
  if (arc < 1e-9) return to;
  const side = unit(arc < Math.PI - 1e-6 ? to.map((x, i) => x - Math.cos(arc) * from[i]) : beside(from)[0]);
  return from.map((x, i) => Math.cos(arc * part) * x + Math.sin(arc * part) * side[i]);
}

/** Two directions at right angles to one, and to each other. */
export function beside(direction) {
  const first = unit(cross(direction, Math.abs(direction[1]) < 0.9 ? [0, 1, 0] : [1, 0, 0]));
  return [first, cross(direction, first)];
}
