/** The tools of a painter, as a row of buttons. */

import { SIZE, drawn } from "./painter.mjs";

const ICONS = {
  paint: "M20 4c-5 2.5-9.5 6-12 10.5l2.5 2.5C15 14.5 18 9.5 20 4zM7.5 15.500c-2 0-3 1.3-3 3 0 1-.5 1.5-1.5 1.5 1.5 1 6 1 6.5-2.5",
  erase: "M9 20h11M14.5 4.500l5.5 5.5-9 9H7l-3.5-3.500zM9 10l5.5 5.5",
  look: "M4 12c2-4 5-6 8-6s6 2 8 6c-2 4-5 6-8 6s-6-2-8-6zM12 9.500a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z",
  undo: "M8 5L4 9l4 4M4 9h9.500a5.5 5.5 0 0 1 0 11H9",
  redo: "M16 5l4 4-4 4M20 9h-9.500a5.5 5.5 0 0 0 0 11H15",
  clear: "M5 7h14M10 7V4.500h4V7M7 7l1 13h8l1-13",
  invert: "M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM12 4v16M12 8l3.5-2M12 12l7-3.500M12 16l7-3.500M13 19.500l5-2.5",
  open: "M4 19V5h5.500l2 2.500H20V11M4 19l3-8h15l-3 8z",
  save: "M12 4v11m-5-4.500L12 15l5-4.500M5 20h14",
  send: "M12 16V5m-5 4.500L12 5l5 4.500M5 20h14",
};

/** An element with properties and children. */
function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A button with an icon, and with words where there is room for them. */
function button(name, word, title, onclick) {
  const icon = drawn(`<svg viewBox="0 0 24 24" aria-hidden="true"><path d="${ICONS[name]}"/></svg>`);
  const made = make("button", { type: "button", title, onclick }, icon, make("span", { textContent: word }));
  made.setAttribute("aria-label", title);
  made.dataset.name = name;
  return made;
}

/** A number of degrees in few letters. */
const inDegrees = (size) => `${size < 10 ? Number(size.toFixed(1)) : Math.round(size)}°`;

export class Toolbar {
  /** What the viewer shows while the painter is on. */
  element;

  #painter;
  #buttons = {};
  #slider;
  #size;
  #status;

  /**
   * @param {import("./painter.mjs").Painter} painter
   * @param {() => string} fileName of the mask
   * @param {object} [send] one more place for the mask to go to: title and word of its button, and what it does, act
   */
  constructor(painter, fileName, send) {
    this.#painter = painter;
    const tools = {
      paint: ["Paint", "Paint what is to be made anew (B); with Shift: erase"],
      erase: ["Erase", "Erase: what is to stay (E)"],
      look: ["Look", "Look around (V); or drag with the right button, or with two fingers"],
    };
    const acts = {
      undo: ["Undo", "Undo (Ctrl Z)", () => painter.undo()],
      redo: ["Redo", "Redo (Ctrl Shift Z)", () => painter.redo()],
      invert: ["Invert", "Invert: paint what is not painted, and the other way round", () => painter.invert()],
      clear: ["Clear", "Clear: paint nothing", () => painter.clear()],
    };
    for (const [name, [word, title]] of Object.entries(tools)) {
      this.#buttons[name] = button(name, word, title, () => painter.choose(name));
    }
    for (const [name, [word, title, act]] of Object.entries(acts)) this.#buttons[name] = button(name, word, title, act);

    const file = make("input", { type: "file", accept: "image/png,image/*", hidden: true, onchange: async () => {
      const [chosen] = file.files;
      if (chosen) await painter.open(chosen);
      file.value = "";                                     // the same one may be chosen again
    } });
    this.#buttons.open = button("open", "Open mask", "Open a mask and go on with it (a PNG, white is painted)", () => file.click());
    this.#buttons.save = button("save", "Save mask", "Save the mask as a PNG: white is made anew, black stays",
      () => painter.save(fileName()));
    if (send) this.#buttons.send = button("send", send.word, send.title, send.act);

    // The slider goes by factors: a degree means much to a small brush, and little to a large one.
    this.#slider = make("input", { type: "range", min: 0, max: 1, step: 0.005, title: "Size of the brush, across ([ and ])",
      oninput: () => painter.resize(SIZE.least * (SIZE.most / SIZE.least) ** this.#slider.valueAsNumber) });
    this.#slider.setAttribute("aria-label", "Size of the brush, in degrees across");
    this.#size = make("output", { title: "Size of the brush: degrees of arc across" });
    this.#status = make("p", { className: "painting-status", role: "status" });

    const group = (...children) => make("div", { className: "painting-group" }, ...children);
    const pick = (...names) => names.filter((name) => this.#buttons[name]).map((name) => this.#buttons[name]);
    const row = make("div", { className: "painting-tools" },
      group(...pick("paint", "erase", "look")),
      make("label", { className: "painting-size" }, make("span", { textContent: "Brush" }), this.#slider, this.#size),
      group(...pick("undo", "redo", "invert", "clear")),
      group(...pick("open", "save", "send"), file));
    row.setAttribute("role", "toolbar");
    row.setAttribute("aria-label", "Painting a mask");
    this.element = make("div", { className: "painting", hidden: true }, row, this.#status);
    this.update();
  }

  /** Shows what the painter is at. */
  update() {
    const { on, tool, size, mask, said } = this.#painter, buttons = this.#buttons;
    this.element.hidden = !on;
    if (!mask) return;
    for (const name of ["paint", "erase", "look"]) buttons[name].setAttribute("aria-pressed", String(tool === name));
    this.#slider.value = Math.log(size / SIZE.least) / Math.log(SIZE.most / SIZE.least);
    this.#size.textContent = inDegrees(size);
    buttons.undo.disabled = !mask.canUndo;
    buttons.redo.disabled = !mask.canRedo;
    const { share } = mask;
    for (const name of ["clear", "save", "send"]) if (buttons[name]) buttons[name].disabled = !share;
    this.#status.textContent = said || (share ? `${percent(share)} of the sphere is painted.`
      : "Drag over what is to be made anew. The right button or two fingers look around.");
  }
}

const percent = (share) => (share < 0.001 ? "Less than 0.1 %" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
