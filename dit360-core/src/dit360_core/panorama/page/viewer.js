/** The page: how the view is moved by pointers, wheel and keys, and how it begins. */

import { askedInAddress, tellInAddress } from "./address.mjs";
import { maskName, showCommand } from "./command.mjs";
import { Drawing, deviceOf } from "./drawing.mjs";
import { Headset } from "./headset.mjs";
import { Painter, isForElement } from "./painting/painter.mjs";
import { RAD, clamp, tangentOfPixel } from "./painting/sphere.mjs";
import { Toolbar } from "./painting/toolbar.mjs";
import { saveCanvas, viewName } from "./saving.mjs";
import { Sensor } from "./sensor.mjs";

// Until here the page is the flat picture, which is what a browser without scripts goes on showing.
document.documentElement.className = "loading";
// Begins with the picture, before the tiles after it have been read: those of a large picture are many megabytes.
const reading = new MutationObserver(() => { if (document.getElementById("tiles")) begin(); });
reading.observe(document, { childList: true, subtree: true });

function begin() {
  reading.disconnect();
  const FOV = { least: 20, most: 120 };
  const ROTATION = 3;                                    // degrees a second, before the first touch
  const LOST = 4000;                                     // milliseconds after which a lost device does not come back
  const MOST_PIXELS = 4096 * 2304;                       // drawn at once; more costs time and shows nothing

  const $ = (id) => document.getElementById(id);
  const root = document.documentElement, canvas = $("view"), picture = $("picture"), hint = $("hint");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  // How the picture is held in the world, and the first view: degrees; yaw from the picture's middle, fov over the
  // longer side of the window.
  const pose = JSON.parse(picture.dataset.pose);
  const HOME = { yaw: pose.yaw, pitch: pose.tilt, fov: clamp(pose.fov, FOV.least, FOV.most) };

  const view = { ...HOME };                              // what is drawn
  let zoom = HOME.fov;                                   // where the field of view is heading
  const speed = { yaw: 0, pitch: 0 };                    // degrees a second
  const held = new Set();                                // arrow keys that are down
  const pointers = new Map();                            // id -> {x, y} in CSS pixels
  let rotating = !calm.matches && picture.dataset.rests !== "true", rotated = 0;
  let turned = false;                                    // by somebody, so that the address tells the view
  /** @type {?Drawing} */
  let drawing = null;

  const painter = new Painter({
    canvas,
    view: () => view,
    inPicture: (world) => drawing.inPicture(world),
    size: () => ({ width: Number(picture.getAttribute("width")), most: drawing.most }),
    take: hold,
    busy: () => pointers.size > 0,
    redraw: wake,
    changed: () => {
      toolbar.update();
      root.classList.toggle("masking", painter.on);
      root.classList.toggle("brush", painter.on && painter.tool !== "look");
      $("paint").setAttribute("aria-pressed", String(painter.on));
    },
  });
  const file = picture.dataset.file || "panorama.jpg";
  const toolbar = new Toolbar(painter, () => maskName(file));

  // ---------------------------------------------------------------------------------------------- drawing

  function draw(moving) {
    if (!drawing || headset.on) return;
    painter.follow();
    // Less while it moves, still less where frames take long, as without a graphics card; the last frame is the best one.
    drawing.draw(view, moving ? (slow ? 1 : 2) : 4, !(moving && slow), painter.on ? painter.mask : null);
    if (drawing.waits) wake();
    $("needle").style.transform = `rotate(${-view.yaw - pose.heading}deg)`;
  }

  // ---------------------------------------------------------------------------------------------- moving

  let frame = 0, before = 0, usual = 1 / 60, slow = false;   // usual: seconds between frames, smoothed

  // Frames are asked for only as long as something moves; a still view costs nothing.
  function wake() {
    if (!frame) frame = requestAnimationFrame(tick);
  }

  function tick(now) {
    const seconds = before ? clamp((now - before) / 1000, 0, 0.1) : 1 / 60;
    if (before && now - before < 200) usual += 0.3 * (seconds - usual);   // longer: the hand rested
    slow = usual > (slow ? 1 / 50 : 1 / 25);             // two bounds, or it would flicker between both
    const moving = advance(seconds), more = drawing?.step();
    frame = 0;
    draw(moving || pointers.size > 0 || painter.painting || more);
    before = moving || painter.painting || more ? now : 0;
    if (moving || more) wake();
    if (turned && !moving && !pointers.size) {
      turned = false;
      tellInAddress(view);
    }
  }

  function turn(yaw, pitch) {
    view.yaw = ((view.yaw + yaw + 180) % 360 + 360) % 360 - 180;
    view.pitch = clamp(view.pitch + pitch, -90, 90);
  }

  // How fast the yaw must go for the picture to follow the finger, which is faster towards the poles.
  const stretch = () => 1 / Math.max(0.3, Math.cos(view.pitch * RAD));

  function advance(seconds) {
    let moving = false;
    if (rotating) {
      turn(ROTATION * seconds, 0);
      rotated += ROTATION * seconds;
      rotating = rotated < 360;                          // once round; a forgotten page shall not go on for ever
      moving = true;
    }
    if (held.size) {
      const rate = view.fov * 0.9, blend = 1 - Math.exp(-10 * seconds);
      const along = (less, more) => rate * (held.has(more) - held.has(less));
      speed.yaw += (along("ArrowLeft", "ArrowRight") * stretch() - speed.yaw) * blend;
      speed.pitch += (along("ArrowDown", "ArrowUp") - speed.pitch) * blend;
    } else {
      const kept = calm.matches ? 0 : Math.exp(-seconds / 0.32);
      speed.yaw *= kept;
      speed.pitch *= kept;
    }
    if (held.size || Math.hypot(speed.yaw, speed.pitch) > view.fov * 0.004) {
      turn(speed.yaw * seconds, speed.pitch * seconds);
      moving = true;
    } else {
      speed.yaw = speed.pitch = 0;
    }
    if (Math.abs(zoom - view.fov) > 0.02 && !calm.matches) {
      view.fov += (zoom - view.fov) * (1 - Math.exp(-14 * seconds));
      moving = true;
    } else {
      view.fov = zoom;
    }
    return moving;
  }

  function still() {
    rotating = false;
    speed.yaw = speed.pitch = 0;
  }

  function touched() {
    rotating = false;
    turned = true;
    hint.classList.add("gone");
  }

  function zoomBy(factor) {
    touched();
    zoom = clamp(zoom * factor, FOV.least, FOV.most);
    wake();
  }

  function reset() {
    touched();
    still();
    Object.assign(view, HOME);
    zoom = HOME.fov;
    wake();
  }

  function look(wanted) {
    still();
    const number = (value, otherwise) => (Number.isFinite(value) ? value : otherwise);
    const { yaw, pitch } = view;
    turn(number(wanted.yaw, yaw) - yaw, number(wanted.pitch, pitch) - pitch);
    view.fov = zoom = clamp(number(wanted.fov, view.fov), FOV.least, FOV.most);
    draw(false);
  }

  function lookAtAddress() {
    const wanted = askedInAddress();
    if (Object.keys(wanted).length) look(wanted);
  }

  // ---------------------------------------------------------------------------------------------- pointers

  const middle = () => {
    const all = [...pointers.values()];
    const x = all.reduce((sum, p) => sum + p.x, 0) / all.length, y = all.reduce((sum, p) => sum + p.y, 0) / all.length;
    return { x, y, spread: all.length > 1 ? Math.hypot(all[0].x - all[1].x, all[0].y - all[1].y) : 0 };
  };
  const fling = { yaw: 0, pitch: 0 };                    // speed of the finger, smoothed, degrees a second
  let moved = 0, tap = null, last = 0;

  canvas.addEventListener("pointerdown", (event) => {
    const paints = painter.pressed(event);
    if (!paints && event.button !== 0 && !(painter.on && event.button === 2)) return;
    touched();
    still();
    if (!paints) hold(event);
  });

  function hold(event) {
    canvas.setPointerCapture(event.pointerId);
    if (!pointers.size) moved = 0;
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    root.classList.add("dragging");
  }

  canvas.addEventListener("pointermove", (event) => {
    if (painter.moved(event) || !pointers.has(event.pointerId)) return;
    const from = middle();
    pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    const to = middle(), dx = to.x - from.x, dy = to.y - from.y;
    moved += Math.hypot(dx, dy) + Math.abs(to.spread - from.spread);
    const degrees = tangentOfPixel(view.fov, canvas.clientWidth, canvas.clientHeight) / RAD;
    const yaw = -dx * degrees * stretch(), pitch = dy * degrees;
    turn(yaw, pitch);
    wake();
    if (to.spread) {                                     // two fingers are told of one after the other, and fling nothing
      if (from.spread) view.fov = zoom = clamp(view.fov * from.spread / to.spread, FOV.least, FOV.most);
      fling.yaw = fling.pitch = 0;
      return;
    }
    const seconds = clamp((event.timeStamp - last) / 1000, 0.004, 0.1), blend = 1 - Math.exp(-seconds / 0.04);
    fling.yaw += (yaw / seconds - fling.yaw) * blend;
    fling.pitch += (pitch / seconds - fling.pitch) * blend;
    last = event.timeStamp;
  });

  function released(event) {
    if (painter.released(event) || !pointers.delete(event.pointerId)) return;
    if (!pointers.size) {
      root.classList.remove("dragging");
      // A finger that rested before it left meant to stop.
      if (event.type === "pointerup" && event.timeStamp - last < 60 && !calm.matches) Object.assign(speed, fling);
      fling.yaw = fling.pitch = 0;
      if (event.type === "pointerup" && event.button === 0 && moved < 6) tapped(event);
    }
    wake();
  }
  canvas.addEventListener("pointerup", released);
  canvas.addEventListener("pointercancel", released);

  // Own double tap: browsers send dblclick for a mouse, and not all of them for a finger.
  function tapped(event) {
    const again = tap && event.timeStamp - tap.time < 350 && Math.hypot(event.clientX - tap.x, event.clientY - tap.y) < 30;
    tap = again ? null : { time: event.timeStamp, x: event.clientX, y: event.clientY };
    if (again) fullScreen();
  }

  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    if (painter.wheel(event)) return;
    const pixels = event.deltaY * [1, 16, 120][event.deltaMode];
    zoomBy(Math.exp(clamp(pixels, -240, 240) * (event.ctrlKey ? 0.01 : 0.0014)));   // ctrl: a pinch on a touchpad
  }, { passive: false });

  // Safari's pinch on a touchpad; on a touch screen it comes beside the fingers, which have been seen to.
  let scale = 1;
  for (const name of ["gesturestart", "gesturechange", "gestureend"]) {
    canvas.addEventListener(name, (event) => {
      event.preventDefault();
      if (name === "gesturestart") scale = 1;
      if (!pointers.size && !painter.painting) zoomBy(scale / event.scale);
      scale = event.scale;
    });
  }

  // ---------------------------------------------------------------------------------------------- keys, buttons

  const enter = root.requestFullscreen || root.webkitRequestFullscreen;
  const leave = document.exitFullscreen || document.webkitExitFullscreen;
  function fullScreen() {
    if (!enter) return;
    const done = (document.fullscreenElement || document.webkitFullscreenElement) ? leave.call(document) : enter.call(root);
    // Refused, for one, inside a frame that does not allow it; the page stays as useful as it was.
    if (done) done.catch((reason) => console.warn(`No full screen: ${reason.message}`));
  }

  const setFull = () => {
    const on = Boolean(document.fullscreenElement || document.webkitFullscreenElement), word = on ? "Leave the full screen" : "Full screen";
    $("full").setAttribute("aria-label", word);
    $("full").title = `${word} (F)`;
  };
  for (const name of ["fullscreenchange", "webkitfullscreenchange"]) document.addEventListener(name, setFull);

  // What a browser refuses is said, and the page stays as useful as it was.
  async function trying(work) {
    try {
      await work();
    } catch (error) {
      note(error.message);
    }
  }

  function note(text) {
    $("note").textContent = text;
    $("note").hidden = false;
  }

  const keep = () => trying(async () => {
    if (!drawing) return;
    if (headset.on) throw new Error("The view is in the headset; leave that first.");
    if (canvas.getContext("webgl")?.isContextLost()) throw new Error("This device has stopped drawing the view; there is nothing to save.");
    touched();
    still();
    await settled();
    await saveCanvas(canvas, () => draw(false), viewName(file, view));
  });

  const sensor = new Sensor($("sensor"), (yaw, pitch) => {
    turn(yaw, pitch - view.pitch);
    turned = true;
    wake();
  });
  const useSensor = () => trying(() => {
    if ($("sensor").hidden) return null;
    touched();
    still();
    return sensor.turn();
  });

  const headset = new Headset($("headset"), () => view, wake);
  const useHeadset = () => trying(() => ($("headset").hidden || !drawing ? null : headset.turn(drawing)));

  const acts = { f: fullScreen, p: paint, s: keep, g: useSensor, h: useHeadset };

  addEventListener("keydown", (event) => {
    if (event.target === $("caption") || isForElement(event)) return;
    if (painter.key(event)) {
      event.preventDefault();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { key } = event;
    if (key.startsWith("Arrow")) {
      touched();
      held.add(key);
      wake();
    } else if (key === "+" || key === "=") zoomBy(1 / 1.2);
    else if (key === "-" || key === "_") zoomBy(1.2);
    else if (key === "0") reset();
    else if (Object.hasOwn(acts, key.toLowerCase()) && !event.repeat) acts[key.toLowerCase()]();
    else return;
    event.preventDefault();
  });
  addEventListener("keyup", (event) => {
    held.delete(event.key);
    painter.keyUp(event);
  });
  addEventListener("blur", () => {                       // the key may come up in another window
    held.clear();
    painter.lost();
  });

  function paint() {
    if (!drawing || $("paint").hidden) return;
    touched();
    still();
    painter.turn();
  }

  addEventListener("beforeunload", (event) => { if (painter.unsaved) event.preventDefault(); });

  $("closer").addEventListener("click", () => zoomBy(1 / 1.35));
  $("wider").addEventListener("click", () => zoomBy(1.35));
  $("home").addEventListener("click", reset);
  $("full").addEventListener("click", fullScreen);
  $("full").hidden = !enter;
  $("keep").addEventListener("click", keep);
  $("sensor").addEventListener("click", useSensor);
  $("headset").addEventListener("click", useHeadset);
  $("paint").addEventListener("click", paint);
  $("paint").hidden = picture.dataset.part === "true";   // most of it is black, and to be made anew anyhow
  $("anew").before(toolbar.element);
  $("how").open = innerWidth > 640;
  showCommand({ prompt: $("prompt"), shown: $("command"), copy: $("copy"), shells: $("shells") },
    { picture: file, model: picture.dataset.model });
  $("more").addEventListener("click", () => {
    const open = root.classList.toggle("open");
    $("more").textContent = open ? "less" : "more";
    $("more").setAttribute("aria-expanded", String(open));
    if (open) $("caption").tabIndex = 0;                 // a long text scrolls by keys only where it can be focused
    else $("caption").removeAttribute("tabindex");
  });

  // ---------------------------------------------------------------------------------------------- size

  function resize(entries) {
    const box = entries && entries[0].devicePixelContentBoxSize && entries[0].devicePixelContentBoxSize[0];
    // The exact number, of which the product is a rounding; but a browser's emulation of a phone changes only the latter.
    const exact = (size, about) => (Math.abs(size - about) <= 1 ? size : about);
    const width = exact(box && box.inlineSize, canvas.clientWidth * devicePixelRatio);
    const height = exact(box && box.blockSize, canvas.clientHeight * devicePixelRatio);
    const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
    canvas.width = Math.max(1, Math.round(width * scale));
    canvas.height = Math.max(1, Math.round(height * scale));
    draw(false);                                         // at once: a new size empties the canvas
    if (!root.classList.contains("open")) $("more").hidden = $("caption").scrollHeight <= $("caption").clientHeight + 1;
  }

  function watchSize() {
    const observer = new ResizeObserver(resize);
    try {
      observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch (unknownBox) {                               // Safari
      observer.observe(canvas);
      addEventListener("resize", () => resize());
    }
    resize();
  }

  // ---------------------------------------------------------------------------------------------- start

  function flat(reason) {
    root.className = "flat";
    $("message").textContent = reason;
    $("message").hidden = false;
    return false;
  }

  async function start() {
    $("caption").hidden = !$("caption").textContent;
    try {
      await picture.decode();
    } catch (error) {
      return flat("The picture in this page is damaged and cannot be shown. Please make the page again.");
    }
    // Each step is a task of its own, as the page is to react meanwhile.
    const pause = () => new Promise((go) => setTimeout(go));
    try {
      const gl = deviceOf(canvas);
      await pause();
      drawing = new Drawing(gl, picture, pose, $("tiles"), arrived);
    } catch (error) {
      return flat(error.message);
    }
    do await pause(); while (!drawing.ready);
    const { detail } = drawing;
    if (detail < Number(picture.getAttribute("width"))) note(`Shown at ${detail}×${detail / 2}: this device holds no more.`);
    // What the view needs may not have been read yet.
    if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", wake);
    let lost;
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      lost = setTimeout(() => flat("This device has stopped drawing the view; load the page again to look around."), LOST);
    });
    canvas.addEventListener("webglcontextrestored", () => {
      clearTimeout(lost);
      root.classList.remove("flat");
      $("message").hidden = true;
      drawing.prepare();
      wake();
    });
    root.classList.remove("loading");
    watchSize();
    lookAtAddress();
    addEventListener("hashchange", lookAtAddress);
    setTimeout(() => hint.classList.add("gone"), 8000);
    if (rotating) wake();
    return true;
  }

  function arrived() {
    if (drawing.tiles.failed.size) note("A part of the picture in this page is damaged, and shown coarsely. Please make the page again.");
    wake();
  }

  // Until nothing that the view needs is still to come, or what there is of it cannot be shown.
  async function settled() {
    while (drawing?.busy) await new Promise((done) => requestAnimationFrame(done));
    draw(false);
  }

  window.dit360 = {
    // Without an argument only tells the direction. With one, stops all motion, draws at once and tells the new one.
    view(wanted) {
      if (wanted) look(wanted);
      return { ...view };
    },
    settled,
    // Another picture of the same directions, as of one that is being made. Not of a large one, which is held in tiles.
    show(picture) {
      if (!drawing || drawing.tiles.levels.length) return;
      drawing.replace(picture);
      wake();
    },
    // The painted mask as a PNG, for a page around this one; null: nothing is painted.
    mask: () => painter.file(),
    // How much is held of a large picture's tiles.
    tiles() {
      const { uploads, bytes, levels } = drawing.tiles;
      return { uploads, bytes, levels: levels.map(({ columns }) => columns), busy: drawing.busy };
    },
    // Resolves to true when the view can be looked around in, to false where only the flat picture is shown.
    ready: start().catch((error) => flat(`The panorama cannot be shown: ${error.message}`)),
  };
}
