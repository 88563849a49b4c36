/** The viewer of one node: its element, how it is moved by pointers, wheel and keys, and which picture it shows. */

import { control, make } from "./controls.mjs";
import { Painter, isForElement } from "./painting/painter.mjs";
import { RAD, clamp, tangentOfPixel } from "./painting/sphere.mjs";
import { Toolbar } from "./painting/toolbar.mjs";
import { renderer } from "./renderer.mjs";

/**
 * @typedef {import("./painting/sphere.mjs").View} View
 * @typedef {{url: string, name: string, width: number, height: number}} Picture a file on the server, in pixels
 */

const HOME = { yaw: 0, pitch: 0, fov: 90 };
const FOV = { least: 20, most: 120 };
const STEP = 0.08;                    // of the field of view, that an arrow key turns by
const SETTLED = 150;                  // milliseconds without a change, after which the view is drawn at its best
const MOST_PIXELS = 4096 * 2304;      // drawn at once; more costs time and shows nothing
const EMPTY = "No picture yet. Run the graph, then drag to look around and scroll to zoom.";

const degrees = (x) => `${Math.round(x) || 0}°`.replace("-", "−");      // || 0: no minus before a zero

export class Viewer {
  /** What the node holds. */
  element;
  /** Whether the last picture asked for can be looked around in (resolves to true), is only there flat, or not at all. */
  ready = Promise.resolve(false);
  /** How often something was drawn; a view that does not change stands still. */
  draws = 0;
  /** What is to be known when a stroke has ended, or painting itself. @type {(reason: string) => void} */
  painted = () => {};
  /** @type {Picture[]} */
  pictures = [];
  index = 0;

  #view = { ...HOME };
  #panorama = null;                   // on the graphics device
  #loading = null;                    // AbortController of what is being fetched
  #frame = 0;
  #settle = 0;
  #before = 0;                        // time of the last frame
  #usual = 1 / 60;                    // seconds between frames while something moves, smoothed
  #slow = false;
  #scale = 1;                         // at which the page shows the element, such as by a zoomed graph
  #pointers = new Map();              // id -> {x, y} in CSS pixels of the page
  #gone = new AbortController();      // takes the listeners along
  #watch = new ResizeObserver(() => this.#resize());

  /** @param {object} [send] one more place for a mask to go to, as Toolbar takes it */
  constructor(send) {
    this.canvas = make("canvas", { hidden: true });
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.flat = make("img", { hidden: true, draggable: false, alt: "The panorama, flat" });
    this.message = make("p", { className: "message", textContent: EMPTY, role: "status" });
    this.direction = make("div", { className: "direction", hidden: true });
    this.count = make("span");
    this.turning = make("div", { className: "bar left", hidden: true },
      control("previous", "Previous picture (Page Up)", { onclick: () => this.choose(this.index - 1) }),
      this.count,
      control("next", "Next picture (Page Down)", { onclick: () => this.choose(this.index + 1) }));
    this.link = control("save", "Save this picture; other 360° viewers open it", {}, "a");
    this.home = control("home", "Back to the start (Home)", { onclick: () => this.view(HOME) });
    this.brush = control("paint", "Paint a mask (P)", { onclick: () => this.painter.turn() });
    this.tools = make("div", { className: "bar right", hidden: true }, this.brush, this.home, this.link,
      control("full", "Full screen (F)", { onclick: () => this.fullScreen(), hidden: !document.fullscreenEnabled }));
    this.element = make("div", { className: "dit360", tabIndex: 0, role: "application", ariaRoleDescription: "360° panorama",
      ariaLabel: "Drag or use the arrow keys to look around, plus and minus to zoom, P to paint a mask, F for full screen" },
    this.canvas, this.flat, this.message, this.direction, this.turning, this.tools);
    this.painter = new Painter({
      canvas: this.canvas,
      view: () => this.#view,
      inPicture: (direction) => direction,
      size: () => ({ width: this.pictures[this.index].width, most: renderer().most }),
      take: (event) => this.#hold(event),
      busy: () => this.#pointers.size > 0,
      redraw: () => this.#wake(),
      changed: (reason) => this.#told(reason),
    });
    this.toolbar = new Toolbar(this.painter, () => `${this.pictures[this.index].name.replace(/\.\w+$/, "")}-mask.png`, send);
    this.element.append(this.toolbar.element);
    this.element.dataset.captureWheel = "true";          // newer front ends leave the wheel to such an element
    this.#listen();
    this.#watch.observe(this.element);
  }

  // ---------------------------------------------------------------------------------------------- pictures

  /**
   * Shows pictures in place of those before; the direction stays, for comparing one run with the next.
   *
   * @param {Picture[]} pictures
   */
  show(pictures) {
    this.pictures = pictures;
    this.choose(Math.min(this.index, pictures.length - 1));
  }

  /** Shows one picture of the batch, counted from 0, the first after the last. */
  choose(index) {
    const many = this.pictures.length;
    this.index = many ? (index + many) % many : 0;
    this.count.textContent = `${this.index + 1} / ${many}`;
    this.turning.hidden = many < 2;
    this.tools.hidden = !many;
    if (!many) return this.#clear(EMPTY);
    const { url, name } = this.pictures[this.index];
    Object.assign(this.link, { href: url, download: name });
    return this.#load();
  }

  #load() {
    this.#loading?.abort();
    const loading = this.#loading = new AbortController();
    const picture = this.pictures[this.index];
    if (!this.#panorama) this.#say("Loading…");
    this.ready = this.#fetch(picture, loading.signal)
      .catch((error) => {
        // What counts is the picture that was asked for instead, if one was.
        if (loading.signal.aborted) return this.#loading && this.#loading !== loading ? this.ready : false;
        this.#clear(error.message);
        return false;
      })
      .finally(() => { if (this.#loading === loading) this.#loading = null; });
    return this.ready;
  }

  async #fetch(picture, signal) {
    let drawing;
    try {
      drawing = renderer();
    } catch (error) {
      return this.#showFlat(picture, `${error.message} Here is the whole panorama, flat.`);
    }
    const answer = await fetch(picture.url, { signal, cache: "no-cache" });
    if (answer.status === 404) throw new Error("The picture is no longer on the server. Run the graph again.");
    if (!answer.ok) throw new Error(`The server did not give the picture (${answer.status}). Run the graph again.`);
    const panorama = await drawing.load(await answer.blob(), picture.width, signal);
    if (signal.aborted) {                                // during the last step of the upload
      drawing.release(panorama);
      signal.throwIfAborted();
    }
    this.#release();
    this.#panorama = panorama;
    this.flat.hidden = true;
    this.canvas.hidden = this.direction.hidden = false;
    const smaller = panorama.width < picture.width;
    this.#say(smaller ? `Shown at ${panorama.width}×${panorama.height}: the graphics of this device hold no more.` : "");
    if (!this.#resize()) this.#draw(4);
    return true;
  }

  #showFlat(picture, reason) {
    this.#release();
    this.painter.turn(false);
    this.flat.src = picture.url;
    this.flat.hidden = false;
    this.canvas.hidden = this.direction.hidden = this.home.hidden = this.brush.hidden = true;
    this.#say(reason);
    return false;
  }

  #clear(message) {
    this.#loading?.abort();
    this.#release();
    this.flat.hidden = this.canvas.hidden = this.direction.hidden = true;
    this.#say(message);
  }

  #say(text) {
    this.message.textContent = text;
    this.message.hidden = !text;
    this.message.classList.toggle("over", Boolean(this.#panorama) || !this.flat.hidden);
  }

  #release() {
    if (this.#panorama) renderer().release(this.#panorama);
    this.#panorama = null;
  }

  // ---------------------------------------------------------------------------------------------- drawing

  /** Asks for a frame, and for the best one when nothing has changed for a while. */
  #wake() {
    if (this.#panorama) this.#frame ||= requestAnimationFrame((now) => this.#tick(now));
  }

  #tick(now) {
    this.#frame = 0;
    const seconds = (now - this.#before) / 1000;
    if (seconds < 0.2) this.#usual += 0.3 * (seconds - this.#usual);
    this.#slow = this.#usual > (this.#slow ? 1 / 50 : 1 / 25);   // two bounds, or it would flicker between both
    this.#before = now;
    this.#draw(this.#slow ? 1 : 2);
    clearTimeout(this.#settle);
    this.#settle = setTimeout(() => this.#draw(4), SETTLED);
  }

  #draw(rays) {
    if (!this.#panorama || !this.canvas.width) return;
    if (!renderer().has(this.#panorama)) {               // it had to make room, or the device was lost
      if (!this.#loading) this.#load();
      return;
    }
    this.painter.follow();
    renderer().draw(this.#panorama, this.#view, this.context, rays, this.painter.on ? this.painter.mask : null);
    this.draws += 1;
    const { yaw, pitch, fov } = this.#view;
    this.direction.textContent = `yaw ${degrees(yaw)} · pitch ${degrees(pitch)} · fov ${degrees(fov)}`;
    this.home.firstChild.style.transform = `rotate(${-yaw}deg)`;
  }

  // Returns whether the size has changed, and the view with it.
  #resize() {
    const { clientWidth, clientHeight } = this.element;
    if (!clientWidth || !clientHeight) return false;     // out of sight
    const ratio = devicePixelRatio * this.#scaleNow();
    const [wide, high] = [clientWidth * ratio, clientHeight * ratio], fit = Math.min(1, Math.sqrt(MOST_PIXELS / (wide * high)));
    const width = Math.max(1, Math.round(wide * fit)), height = Math.max(1, Math.round(high * fit));
    if (width === this.canvas.width && height === this.canvas.height) return false;
    Object.assign(this.canvas, { width, height });
    this.#draw(4);                                       // at once: a new size empties the canvas
    return true;
  }

  #scaleNow() {
    const { width } = this.element.getBoundingClientRect();
    this.#scale = width / (this.element.offsetWidth || 1) || 1;
    return this.#scale;
  }

  /** Tells that the page shows the element at another scale, as a graph does that is zoomed; cheap when it does not. */
  rescaled(scale) {
    if (!this.#panorama || Math.abs(scale / this.#scale - 1) < 0.01) return;
    this.#scale = scale;
    clearTimeout(this.#settle);
    this.#settle = setTimeout(() => this.#resize() || this.#draw(4), SETTLED);
  }

  // ---------------------------------------------------------------------------------------------- moving

  /**
   * Without an argument only tells the direction. With one, draws at once and tells the new one.
   *
   * @param {Partial<View>} [wanted]
   * @returns {View}
   */
  view(wanted) {
    if (wanted) {
      const number = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);
      const { yaw, pitch, fov } = this.#view;
      this.#set(number(wanted.yaw, yaw), number(wanted.pitch, pitch), number(wanted.fov, fov));
      clearTimeout(this.#settle);
      this.#draw(4);
    }
    return { ...this.#view };
  }

  #set(yaw, pitch, fov) {
    this.#view.yaw = ((yaw + 180) % 360 + 360) % 360 - 180;
    this.#view.pitch = clamp(pitch, -90, 90);
    this.#view.fov = clamp(fov, FOV.least, FOV.most);
  }

  /** Turns by degrees of the picture's middle: the yaw must go faster towards the poles for it to follow the finger. */
  #turn(right, up) {
    const { yaw, pitch, fov } = this.#view;
    this.#set(yaw + right / Math.max(0.3, Math.cos(pitch * RAD)), pitch + up, fov);
    this.#wake();
  }

  #zoom(factor) {
    this.#set(this.#view.yaw, this.#view.pitch, this.#view.fov * factor);
    this.#wake();
  }

  fullScreen() {
    const done = document.fullscreenElement === this.element ? document.exitFullscreen() : this.element.requestFullscreen();
    // Refused, for one, inside a frame that does not allow it; the node stays as useful as it was.
    done.catch((reason) => console.warn(`No full screen: ${reason.message}`));
  }

  // ---------------------------------------------------------------------------------------------- input

  #listen() {
    const { signal } = this.#gone, { canvas, element } = this;
    const on = (target, kind, call, more) => target.addEventListener(kind, call, { signal, ...more });
    on(canvas, "pointerdown", (event) => this.#pressed(event));
    on(canvas, "pointermove", (event) => this.#moved(event));
    on(canvas, "pointerup", (event) => this.#released(event));
    on(canvas, "pointercancel", (event) => this.#released(event));
    on(element, "wheel", (event) => this.#wheel(event), { passive: false });
    on(element, "keydown", (event) => this.#key(event));
    on(element, "keyup", (event) => this.painter.keyUp(event));
    on(element, "focusout", () => this.painter.lost());
    // The front end would drag the node, where nodes are elements of the page.
    for (const kind of ["pointerdown", "pointermove", "pointerup"]) on(element, kind, (event) => event.stopPropagation());
    try {
      const stop = renderer().onRestored(() => { if (this.pictures.length) this.#load(); });
      signal.addEventListener("abort", stop);
    } catch {
      // No WebGL: told when there is a picture to show.
    }
  }

  #middle() {
    const all = [...this.#pointers.values()], mean = (of) => all.reduce((sum, p) => sum + of(p), 0) / all.length;
    const spread = all.length > 1 ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y) : 0;
    return { x: mean((p) => p.x), y: mean((p) => p.y), spread };
  }

  #told(reason) {
    const { on, tool } = this.painter;
    this.toolbar.update();
    this.element.classList.toggle("masking", on);
    this.element.classList.toggle("brush", on && tool !== "look");
    this.brush.setAttribute("aria-pressed", String(on));
    if (!on && this.painter.mask) renderer().releaseMask(this.painter.mask);
    this.painted(reason);
  }

  #pressed(event) {
    const paints = this.painter.pressed(event);
    if (!paints && event.button !== 0 && !(this.painter.on && event.button === 2)) return;
    event.preventDefault();                              // no selection of the page's texts
    this.element.focus({ preventScroll: true });
    if (!paints) this.#hold(event);
  }

  #hold(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.element.classList.add("dragging");
  }

  #moved(event) {
    if (this.painter.moved(event) || !this.#pointers.has(event.pointerId)) return;
    const from = this.#middle();
    this.#pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const to = this.#middle(), { width, height } = this.canvas.getBoundingClientRect();
    const pixel = tangentOfPixel(this.#view.fov, width, height) / RAD;
    if (from.spread && to.spread) this.#zoom(from.spread / to.spread);
    this.#turn((from.x - to.x) * pixel, (to.y - from.y) * pixel);
  }

  #released(event) {
    if (this.painter.released(event)) return;
    this.#pointers.delete(event.pointerId);
    this.element.classList.toggle("dragging", this.#pointers.size > 0);
  }

  #wheel(event) {
    event.preventDefault();
    event.stopPropagation();
    if (this.painter.wheel(event)) return;
    const pixels = clamp(event.deltaY * [1, 16, 120][event.deltaMode], -240, 240);
    this.#zoom(Math.exp(pixels * (event.ctrlKey ? 0.01 : 0.0014)));     // ctrl: a pinch on a touchpad
  }

  #key(event) {
    if (isForElement(event)) return event.stopPropagation();
    if (this.painter.key(event)) {
      event.preventDefault();
      return event.stopPropagation();
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = STEP * this.#view.fov;
    const acts = {
      ArrowLeft: () => this.#turn(-step, 0), ArrowRight: () => this.#turn(step, 0),
      ArrowUp: () => this.#turn(0, step), ArrowDown: () => this.#turn(0, -step),
      "+": () => this.#zoom(1 / 1.2), "=": () => this.#zoom(1 / 1.2), "-": () => this.#zoom(1.2), _: () => this.#zoom(1.2),
      Home: () => this.view(HOME), 0: () => this.view(HOME),
      PageUp: () => this.choose(this.index - 1), PageDown: () => this.choose(this.index + 1),
      p: () => event.repeat || this.#brushKey(), P: () => event.repeat || this.#brushKey(),
      f: () => event.repeat || this.fullScreen(), F: () => event.repeat || this.fullScreen(),
    };
    if (!Object.hasOwn(acts, event.key)) return;
    event.preventDefault();
    event.stopPropagation();                             // to the page, these keys are shortcuts
    acts[event.key]();
  }

  // There is nothing to paint on before the first picture, and where none can be looked around in.
  #brushKey() {
    if (!this.tools.hidden && !this.brush.hidden) this.brush.click();
  }

  /** Ends everything and gives back what it held. */
  dispose() {
    this.#gone.abort();
    this.#watch.disconnect();
    this.#loading?.abort();
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#settle);
    this.#release();
    if (this.painter.mask) renderer().releaseMask(this.painter.mask);
    this.flat.removeAttribute("src");
    this.canvas.width = this.canvas.height = 0;
    this.element.remove();
  }
}
