/** The panorama in a headset, by WebXR: each eye has its own lens, and sees the same sphere from its middle. */

import { eyeOfHeadset } from "./seeing.mjs";

/** Whether there is a headset. */
export async function hasHeadset() {
  try {
    return Boolean(await navigator.xr?.isSessionSupported("immersive-vr"));
  } catch {                            // not allowed, for one in a frame
    return false;
  }
}

export class Headset {
  #button;
  #view;
  #ended;
  #session = null;

  /**
   * @param {HTMLElement} button
   * @param {() => import("./painting/sphere.mjs").View} view that it begins with
   * @param {() => void} ended the page is to be drawn again
   */
  constructor(button, view, ended) {
    [this.#button, this.#view, this.#ended] = [button, view, ended];
    hasHeadset().then((there) => { button.hidden = !there; });
  }

  get on() {
    return this.#session !== null;
  }

  /** Begins or ends it. Must be called by a click or a key. @param {import("./drawing.mjs").Drawing} drawing @throws {Error} */
  async turn(drawing) {
    if (this.#session) return this.#session.end();
    const session = await navigator.xr.requestSession("immersive-vr");
    const { gl } = drawing, { yaw } = this.#view();
    try {
      await gl.makeXRCompatible();
      const layer = new XRWebGLLayer(session, gl, { antialias: false, depth: false });
      session.updateRenderState({ baseLayer: layer });
      const space = await session.requestReferenceSpace("local");
      const show = (_, frame) => {
        session.requestAnimationFrame(show);
        this.#show(drawing, frame.getViewerPose(space), layer, yaw);
      };
      session.requestAnimationFrame(show);
    } catch (error) {
      await session.end();
      throw error;
    }
    this.#session = session;
    this.#button.setAttribute("aria-pressed", "true");
    session.addEventListener("end", () => {
      this.#session = null;
      this.#button.setAttribute("aria-pressed", "false");
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      this.#ended();
    });
  }

  #show(drawing, pose, layer, yaw) {
    if (!pose) return;                                     // the headset does not know where it is
    const { gl } = drawing;
    drawing.tiles.step();
    gl.bindFramebuffer(gl.FRAMEBUFFER, layer.framebuffer);
    // Where an eye stands makes no difference, as all that is seen is far away.
    drawing.drawEyes(pose.views.map((view) => {
      const { x, y, width, height } = layer.getViewport(view);
      return { eye: eyeOfHeadset(view, yaw, height, (world) => drawing.inPicture(world)), box: [x, y, width, height] };
    }), 1, false, null);
  }
}
