/** What a node says of its last run, as text that can be selected and scrolled in the node itself. */

const LEAST = 60;                       // height, in units of the graph

/**
 * Adds a place for text under the inputs of a node; empty until the node has run.
 * @param {object} node of the front end
 * @param {{size: [number, number], height?: number, before?: string}} look size: of the node, at least. height: of the text, if it is not
 *   to take what the node has. before: what stands there until the node has run
 * @param {() => string | undefined} remembered what it said, where a tab or a workflow is opened again
 * @returns {(text: string | undefined) => void} shows another text
 */
export function addReport(node, { size, height, before }, remembered) {
  const element = document.createElement("textarea");
  element.className = "dit360-report";
  element.readOnly = true;
  element.spellcheck = false;
  element.placeholder = before ?? "Run the graph to see the report.";
  element.setAttribute("aria-label", "Report of this node");
  const show = (text) => { if (text) element.value = text; };
  // The wheel scrolls the text, as long as there is something to scroll; else it zooms the graph.
  element.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && element.scrollHeight > element.clientHeight) event.stopPropagation();
  }, { passive: true });
  const widget = node.addDOMWidget("report", "dit360_report", element, {
    serialize: false,                   // what it says is of this machine and this run
    hideOnZoom: true,
    getMinHeight: () => height ?? LEAST,
    ...(height ? { getMaxHeight: () => height } : {}),
    onDraw: () => { if (!element.value) show(remembered()); },
  });
  widget.serialize = false;
  node.setSize([Math.max(node.size[0], size[0]), Math.max(node.size[1], size[1])]);
  return show;
}
