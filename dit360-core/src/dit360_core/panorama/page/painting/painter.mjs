/** Painting on the sphere: what pointers and keys do to a mask, and the circle that shows where the brush is. */

import { KEPT, Mask, PAINTED, WIDEST_MASK } from "./mask.mjs";
import { asPng, fromPicture } from "./png.mjs";
import { RAD, axesOf, beside, clamp, outOf, tangentOfPixel, unit } from "./sphere.mjs";

/** Of the brush, in degrees of arc across. */
export const SIZE = { least: 0.5, most: 60, first: 12, step: 1.2 };
/** How painted parts are shown: red, green, blue, and how much of the picture they hide. */
export const TINT = [1, 0.16, 0.44, 0.6];
const REGRET = 400;                    // milliseconds in which a second finger means that the first did not mean to paint
const CORNERS = 96;                    // of the circle

/** An element that is written as markup. */
export function drawn(markup) {
  const holder = document.createElement("template");
  holder.innerHTML = markup;
  return holder.content.firstChild;
}

/** Whether the element that has the focus does something of its own with a key. @param {KeyboardEvent} event */
export function isForElement({ target, key }) {
  if (target.type === "range") return /^(Arrow|Page|Home|End)/.test(key);
  return Boolean(target.closest?.("input, textarea, select") || ([" ", "Enter"].includes(key) && target.closest?.("button, a, summary")));
}

/**
 * @typedef {object} Host the viewer that is painted in
 * @property {HTMLElement} canvas what shows the view; pointers are told in its coordinates
 * @property {() => import("./sphere.mjs").View} view
 * @property {(world: number[]) => number[]} inPicture a direction of the world as the picture has it
 * @property {() => object} size width: columns of the picture; most: of what the device can show
 * @property {(event: PointerEvent) => void} take moves the camera by this pointer from now on
 * @property {() => boolean} busy whether the camera is being moved by a pointer
 * @property {() => void} redraw asks for a frame
 * @property {(reason: string) => void} changed tells that a stroke ended, the mode changed, or something has to be said
 */

export class Painter {
  on = false;
  /** @type {"paint" | "erase" | "look"} */
  tool = "paint";
  size = SIZE.first;
  /** @type {?Mask} */
  mask = null;
  said = "";
  saved = 0;                           // revision of the mask that is in a file

  #host;
  #stroke = null;                      // {pointer, type, event, value, at}; the pointer "keys" is the middle of the view
  #over = null;                        // where the pointer is, in CSS pixels of the canvas
  #byKeys = false;                     // the brush is in the middle, until the pointer moves
  #ring;

  /** @param {Host} host */
  constructor(host) {
    this.#host = host;
    this.#ring = drawn('<svg class="painting-ring" aria-hidden="true"><path class="under"/><path class="over"/></svg>');
    host.canvas.after(this.#ring);
    host.canvas.addEventListener("pointerleave", () => this.#hover(null));
    host.canvas.addEventListener("contextmenu", (event) => {
      if (!this.on) return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  // ---------------------------------------------------------------------------------------------- the mode

  /** Begins or ends painting; the mask stays. */
  turn(on = !this.on) {
    if (on === this.on) return;
    this.#end();
    this.said = "";
    if (on && !this.mask) this.#begin();
    this.on = on;
    if (on) this.mask.changedAll();
    this.#tell("mode");
  }

  #begin() {
    const { width, most } = this.#host.size(), columns = Math.min(width, most, WIDEST_MASK) & ~1;
    this.mask = new Mask(columns);
    this.saved = 0;
    if (columns < width) this.said = `The mask of this large picture is made at ${columns}×${columns / 2}, which fits as well.`;
  }

  choose(tool) {
    this.tool = tool;
    this.#tell("tool");
  }

  resize(size) {
    this.size = clamp(size, SIZE.least, SIZE.most);
    this.#tell("size");
  }

  /** Whether a stroke is being made. */
  get painting() {
    return this.#stroke !== null;
  }

  /** Whether there is something painted that is in no file. */
  get unsaved() {
    return Boolean(this.mask) && this.mask.revision !== this.saved && !this.mask.empty;
  }

  #tell(reason) {
    this.#host.changed(reason);
    this.#host.redraw();
    this.#drawRing();
  }

  // ---------------------------------------------------------------------------------------------- the mask

  #change(work) {
    this.#end();
    this.said = "";
    work(this.mask);
    this.#tell("mask");
  }

  undo() { this.#change((mask) => mask.undo()); }
  redo() { this.#change((mask) => mask.redo()); }

  #all(work) {
    this.#change((mask) => {
      mask.begin();
      mask.all(work);
      mask.end();
    });
  }

  clear() { this.#all((values) => values.fill(KEPT)); }
  invert() { this.#all((values) => { for (let i = 0; i < values.length; i++) values[i] = PAINTED - values[i]; }); }

  /** Goes on with the mask in a file. Resolves to whether it could be read; if not, it is said why. @param {Blob} file */
  async open(file, name = file.name) {
    const { mask } = this;
    try {
      const values = await fromPicture(file, name, mask.width);
      this.#all((old) => old.set(values));
      if (mask.empty) this.say(`${name} is black all over: nothing is painted in it.`);
      return true;
    } catch (error) {
      this.say(error.message);
      return false;
    }
  }


  /** The mask as a PNG, for who keeps it; null: nothing is painted. @returns {Promise<Blob | null>} */
  async file() {
    if (!this.mask || this.mask.empty) return null;
    const { revision } = this.mask, file = await asPng(this.mask);
    this.saved = revision;
    return file;
  }

  /** Has the browser save the mask under that name. */
  async save(name) {
    const file = await this.file();
    if (!file) return this.say("Nothing is painted yet.");
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
    this.say(`Saved as ${name}, where the browser keeps downloads.`);
  }

  say(text) {
    this.said = text;
    this.#host.changed("said");
  }

  // ---------------------------------------------------------------------------------------------- strokes

  #place(event) {
    const { left, top, width, height } = this.#host.canvas.getBoundingClientRect(), { clientWidth, clientHeight } = this.#host.canvas;
    // An element may be shown larger than it is, as in a graph that is zoomed.
    return { x: (event.clientX - left) * clientWidth / width, y: (event.clientY - top) * clientHeight / height };
  }

  // The direction of a place on the canvas, to the right, up and ahead of the eye.
  #ray({ x, y }) {
    const { clientWidth: width, clientHeight: height } = this.#host.canvas, pixel = tangentOfPixel(this.#host.view().fov, width, height);
    return unit([(x - width / 2) * pixel, (height / 2 - y) * pixel, 1]);
  }

  #brush() {
    const { clientWidth, clientHeight } = this.#host.canvas;
    const byKeys = this.#stroke ? this.#stroke.pointer === "keys" : this.#byKeys;
    return byKeys ? { x: clientWidth / 2, y: clientHeight / 2 } : this.#over;
  }

  #start(pointer, event, erase) {
    this.said = "";
    this.mask.begin();
    this.#stroke = { pointer, type: event.pointerType, event, value: erase ? KEPT : PAINTED, at: null };
    this.#goOn();
  }

  // Paints from where the brush was to where it is now, which changes with the pointer and with the view.
  #goOn() {
    const place = this.#brush();
    if (!this.#stroke || !place) return;
    const { at, value } = this.#stroke, radius = this.size / 2 * RAD;
    const here = this.#host.inPicture(outOf(axesOf(this.#host.view()), this.#ray(place)));
    if (!at) this.mask.cap(here, radius, value);
    else if (at.some((part, i) => part !== here[i])) this.mask.line(at, here, radius, value);
    this.#stroke.at = here;
  }

  #end(regret = false) {
    if (!this.#stroke) return;
    this.#stroke = null;
    if (regret) this.mask.cancel();
    else this.mask.end();
    this.#tell("mask");
  }

  #hover(place) {
    this.#over = place;
    if (place) this.#byKeys = false;
    this.#drawRing();
  }

  // The handlers return whether the event is for the brush. If not, it is for the camera.

  /** @param {PointerEvent} event */
  pressed(event) {
    if (!this.on) return false;
    const eraser = event.pointerType === "pen" && event.button === 5;
    if (this.#stroke) {
      const { event: first, type, pointer } = this.#stroke, palm = type === "touch" && event.pointerType === "pen";
      // A hand rests beside the pen that it holds, before it or after.
      if (!palm && (event.pointerType !== "touch" || type === "pen" || pointer === "keys")) return true;
      this.#end(event.timeStamp - first.timeStamp < REGRET);
      this.#hover(null);
      if (!palm) {
        this.#host.take(first);                            // two fingers move the camera
        return false;
      }
    }
    if (this.tool === "look" || this.#host.busy() || !(event.button === 0 || eraser)) return false;
    event.preventDefault();
    this.#host.canvas.setPointerCapture(event.pointerId);
    this.#hover(this.#place(event));
    this.#start(event.pointerId, event, eraser || (this.tool === "erase") !== event.shiftKey);
    this.#host.redraw();
    return true;
  }

  /** @param {PointerEvent} event */
  moved(event) {
    if (!this.on) return false;
    const mine = this.#stroke?.pointer === event.pointerId;
    if (!mine && (event.pointerType === "touch" || this.#stroke)) return false;
    // Browsers tell once a frame, and what was in between if they are asked.
    const between = mine ? event.getCoalescedEvents?.() ?? [] : [];
    for (const one of [...between, event]) {
      this.#hover(this.#place(one));
      this.#goOn();
    }
    if (mine) {
      this.#stroke.event = { pointerId: event.pointerId, clientX: event.clientX, clientY: event.clientY, timeStamp: this.#stroke.event.timeStamp };
      this.#host.redraw();
    }
    return mine;
  }

  /** @param {PointerEvent} event */
  released(event) {
    if (this.#stroke?.pointer !== event.pointerId) return false;
    this.#end();
    if (event.pointerType === "touch") this.#hover(null);
    return true;
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (!this.on) return false;
    const { key } = event, letter = key.toLowerCase();
    if (event.ctrlKey || event.metaKey) {
      if (event.altKey || !["z", "y"].includes(letter)) return false;
      if (letter === "y" || event.shiftKey) this.redo();
      else this.undo();
      return true;
    }
    if (event.altKey) return false;
    if (key.startsWith("Arrow") && this.tool !== "look") this.#middle();   // for the camera
    const acts = {
      b: () => this.choose("paint"), e: () => this.choose("erase"), v: () => this.choose("look"),
      "[": () => this.resize(this.size / SIZE.step), "]": () => this.resize(this.size * SIZE.step),
      escape: () => (this.#stroke ? this.#end(true) : this.turn(false)),
      " ": () => {
        if (event.repeat || this.#stroke || this.tool === "look") return;
        this.#middle();
        this.#start("keys", event, (this.tool === "erase") !== event.shiftKey);
        this.#host.redraw();
      },
    };
    if (!Object.hasOwn(acts, letter)) return false;
    acts[letter]();
    return true;
  }

  /** @param {KeyboardEvent} event */
  keyUp(event) {
    if (event.key === " ") this.lost();
  }

  /** The key may come up in another window. */
  lost() {
    if (this.#stroke?.pointer === "keys") this.#end();
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    if (!this.on || !event.altKey) return false;
    this.resize(this.size * Math.exp(-0.0014 * clamp(event.deltaY * [1, 16, 120][event.deltaMode], -240, 240)));
    return true;
  }

  #middle() {
    this.#byKeys = true;
    this.#drawRing();
  }

  // ---------------------------------------------------------------------------------------------- what is seen

  /** To be called before the view is drawn: the brush stays where it is while the view turns under it. */
  follow() {
    if (!this.on) return;
    this.#goOn();
    this.#drawRing();
  }

  #drawRing() {
    const place = this.on && this.tool !== "look" && !this.#host.busy() ? this.#brush() : null;
    const outline = place ? this.#outline(this.#ray(place)) : "";
    for (const path of this.#ring.children) path.setAttribute("d", outline);
    this.#ring.classList.toggle("erasing", this.tool === "erase");
  }

  // The circle around a direction, as it is seen: an ellipse, or other conics towards the edge of a wide view.
  #outline(middle) {
    const { clientWidth: width, clientHeight: height } = this.#host.canvas, pixel = tangentOfPixel(this.#host.view().fov, width, height);
    const [first, second] = beside(middle), radius = this.size / 2 * RAD;
    let outline = "", pen = "M";
    for (let corner = 0; corner <= CORNERS; corner++) {
      const turn = 2 * Math.PI * corner / CORNERS, [c, s] = [Math.cos(turn), Math.sin(turn)];
      const [x, y, z] = middle.map((part, i) => Math.cos(radius) * part + Math.sin(radius) * (c * first[i] + s * second[i]));
      if (z < 0.05) {                                      // beside the eye, or behind it
        pen = "M";
        continue;
      }
      outline += `${pen}${(width / 2 + x / z / pixel).toFixed(1)} ${(height / 2 - y / z / pixel).toFixed(1)}`;
      pen = "L";
    }
    return outline;
  }
}
