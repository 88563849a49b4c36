/** Elements of the viewer: buttons with icons, and others. */

const ICONS = {
  previous: "M14 6l-6 6 6 6",
  next: "M10 6l6 6-6 6",
  paint: "M20 4c-5 2.5-9.5 6-12 10.5l2.5 2.5C15 14.5 18 9.5 20 4zM7.5 15.5c-2 0-3 1.3-3 3 0 1-.5 1.5-1.5 1.5 1.5 1 6 1 6.5-2.5",
  home: "M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17zM12 6.5l2.8 6.5h-5.6z",
  save: "M12 4v11m-5-4.5L12 15l5-4.5M5 20h14",
  full: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5",
};

/** @returns {HTMLElement} with the given properties and children */
export function make(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

/** A button, or a link where ``tag`` is "a", that shows an icon and says its label to those who hover or cannot see. */
export function control(name, label, properties, tag = "button") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", ICONS[name]);
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.append(path);
  return make(tag, { title: label, ariaLabel: label, ...(tag === "button" ? { type: "button" } : {}), ...properties }, svg);
}
