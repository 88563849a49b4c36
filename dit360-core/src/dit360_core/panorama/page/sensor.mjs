/** Looking around by turning a phone. */

import { RAD } from "./painting/sphere.mjs";

/**
 * Where the back of a device points to, by the angles of the W3C's Device Orientation: it is turned about its own axes z, x
 * and y, which are up, to the right of its screen and to the screen's top, from lying on its back with its top to the north.
 *
 * @returns {object} yaw and pitch, in degrees to the right of north, and above the horizon
 */
export function pointedAt({ alpha, beta, gamma }) {
  const [sa, ca] = [Math.sin(alpha * RAD), Math.cos(alpha * RAD)], [sb, cb] = [Math.sin(beta * RAD), Math.cos(beta * RAD)];
  const [sg, cg] = [Math.sin(gamma * RAD), Math.cos(gamma * RAD)];
  // The third column of Rz(alpha)·Rx(beta)·Ry(gamma) is what points out of the screen.
  const [east, north, up] = [-(ca * sg + sa * sb * cg), -(sa * sg - ca * sb * cg), -cb * cg];
  return { yaw: Math.atan2(east, north) / RAD, pitch: Math.atan2(up, Math.hypot(east, north)) / RAD };
}

const complete = ({ alpha, beta, gamma }) => [alpha, beta, gamma].every(Number.isFinite);

export class Sensor {
  on = false;

  #button;
  #moved;
  #before = null;
  #listen = (event) => this.#turned(event);

  /**
   * @param {HTMLElement} button is shown where there is such a sensor
   * @param {(yaw: number, pitch: number) => void} moved by that many degrees to the right, to that many above the horizon
   */
  constructor(button, moved) {
    [this.#button, this.#moved] = [button, moved];
    if (typeof DeviceOrientationEvent === "undefined") return;
    // Browsers tell of a sensor once they are listened to; one without it sends an event without angles, or none. Where leave
    // has to be asked for, nothing is told before, but phones and tablets have a sensor.
    const first = (event) => {
      if (!complete(event)) return;
      button.hidden = false;
      removeEventListener("deviceorientation", first);
    };
    addEventListener("deviceorientation", first);
    if (DeviceOrientationEvent.requestPermission) button.hidden = !matchMedia("(pointer: coarse)").matches;
  }

  /** Begins or ends it. Must be called by a click or a key, as leave is only asked for then. @throws {Error} it is refused */
  async turn(on = !this.on) {
    if (on && DeviceOrientationEvent.requestPermission && await DeviceOrientationEvent.requestPermission() !== "granted") {
      throw new Error("This device does not let the page know how it is turned; its browser's settings can allow it.");
    }
    this.on = on;
    this.#before = null;
    this.#button.setAttribute("aria-pressed", String(on));
    if (on) addEventListener("deviceorientation", this.#listen);
    else removeEventListener("deviceorientation", this.#listen);
  }

  #turned(event) {
    if (!complete(event)) return;
    const now = pointedAt(event), before = this.#before ?? now;
    // To which side it points is not known where it points straight up or down.
    if (Math.abs(now.pitch) > 85) now.yaw = before.yaw;
    this.#before = now;
    this.#moved(((now.yaw - before.yaw + 540) % 360 + 360) % 360 - 180, now.pitch);
  }
}
