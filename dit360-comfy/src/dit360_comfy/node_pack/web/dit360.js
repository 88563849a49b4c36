/** What nodes of dit360 show in themselves: a viewer, and reports. ComfyUI imports this file, and it the others beside it. */

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const NODE = "Equirect360Preview";
const OUTPUT = "dit360_panoramas";      // as the node in Python calls it
const SIZE = [420, 480];                // of a new node, in units of the graph
// Nodes that tell something: their sizes, and where the rest of the node matters more, how high the text is.
const USED = { size: [0, 0], height: 64, before: "Run the graph to see the size, steps and guidance that were used." };
const REPORTS = { DiT360Backends: { size: [520, 420] }, DiT360Unload: { size: [360, 200] }, DiT360Sampler: USED, DiT360Inpaint: USED, DiT360Upscale: USED };
const LEAST = 160;                      // height of the viewer, in the same

// ComfyUI has a browser ask anew for *.js, but not for *.mjs: after an update, old helpers could meet a new script.
const HELPERS = ["viewer.mjs", "renderer.mjs", "controls.mjs", "masking.mjs", "report.mjs", "style.mjs",
  ...["sphere.mjs", "mask.mjs", "png.mjs", "painter.mjs", "toolbar.mjs", "painting.css"].map((name) => `painting/${name}`)];
await Promise.allSettled(HELPERS.map((name) => fetch(new URL(name, import.meta.url), { cache: "no-cache" })));
const { Viewer } = await import("./viewer.mjs");
const { KeptMask } = await import("./masking.mjs");
const { addReport } = await import("./report.mjs");
const { addStyle } = await import("./style.mjs");

/** @typedef {{filename: string, subfolder: string, type: string, width: number, height: number}} Told of one picture */

/** @param {Told} told @returns {import("./viewer.mjs").Picture} */
function picture({ filename, subfolder, type, width, height }) {
  return { url: api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`), name: filename, width, height };
}

/** What the front end remembers of a node's last run, also after the tab of another workflow was open. */
function remembered(node) {
  const inside = node.graph && node.graph !== app.graph ? `${node.graph.id}:${node.id}` : null;   // of a subgraph
  return app.nodeOutputs?.[inside] ?? app.nodeOutputs?.[node.id];
}

/** @returns {string | undefined} what a node of REPORTS tells */
const said = (output) => output?.text?.join("\n");

function chain(node, name, call) {
  const before = node[name];
  node[name] = function (...given) {
    const result = before?.apply(this, given);
    call(...given);
    return result;
  };
}

function addViewer(node) {
  const widgetOfMask = node.widgets?.find(({ name }) => name === "mask");
  let kept = null, last = null, shown = "";
  const send = () => kept.send().then(
    (name) => viewer.painter.say(`The mask output gives it from the next run on; it is ${name} in the input folder.`),
    (error) => viewer.painter.say(error.message),
  );
  const viewer = new Viewer(widgetOfMask && { word: "Use", title: "Give the mask to the output mask and to ComfyUI's input folder, "
    + "as is done by itself when the graph runs", act: send });
  if (widgetOfMask) {
    kept = new KeptMask(api, viewer.painter, widgetOfMask, () => node.setDirtyCanvas(true, true));
    const keep = () => kept.send().catch((error) => console.warn(error.message));   // told when the graph runs
    viewer.painted = (reason) => {
      if (reason === "mode") (viewer.painter.on ? kept.read() : keep());
    };
    // Whoever goes to the tab of another workflow leaves the viewer first; coming back, the node is made anew.
    viewer.element.addEventListener("pointerleave", ({ pointerType }) => pointerType === "mouse" && keep());
    viewer.element.addEventListener("focusout", ({ relatedTarget }) => viewer.element.contains(relatedTarget) || keep());
  }
  const show = (told) => {
    if (!told || told === last) return;
    last = told;
    if (shown === JSON.stringify(told)) return;            // the same files again, as when nothing had to run
    shown = JSON.stringify(told);
    viewer.show(told.map(picture));
  };
  const restore = () => show(remembered(node)?.[OUTPUT]);
  const widget = node.addDOMWidget("panorama", "dit360_viewer", viewer.element, {
    serialize: false,                   // not into the prompt: looking around must not make the graph run again
    hideOnZoom: false,
    getMinHeight: () => LEAST,
    onDraw: () => {                     // the only word that comes when outputs are restored or the graph is zoomed
      restore();
      viewer.rescaled(app.canvas?.ds?.scale ?? 1);
    },
  });
  // Not even that comes where nodes are elements of the page.
  const placed = new ResizeObserver(restore);
  placed.observe(viewer.element);
  viewer.element.addEventListener("pointerenter", restore);
  widget.serialize = false;             // nor into the workflow
  chain(node, "onExecuted", (output) => show(output?.[OUTPUT]));
  chain(node, "onRemoved", () => {
    placed.disconnect();
    viewer.dispose();
  });
  // What else an element over the graph would keep from it: the middle button moves the graph.
  viewer.element.addEventListener("pointerdown", (event) => {
    if (event.button === 1) app.canvas?.processMouseDown?.(event);
  });
  node.setSize([Math.max(node.size[0], SIZE[0]), Math.max(node.size[1], SIZE[1])]);
  node.dit360 = viewer;
  viewer.kept = kept;
}

// The front end zooms the graph with two fingers wherever they are, and hears of them before an element does.
for (const kind of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
  document.addEventListener(kind, (event) => {
    if (event.target.closest?.(".dit360")) event.stopPropagation();
  }, { capture: true, passive: true });
}

await addStyle();
app.registerExtension({
  name: "dit360",
  nodeCreated(node) {
    if (node.comfyClass === NODE) addViewer(node);
    const report = REPORTS[node.comfyClass];
    if (report) {
      const show = addReport(node, report, () => said(remembered(node)));
      chain(node, "onExecuted", (output) => show(said(output)));
    }
  },
});
