/** How the viewer and the reports look. A sheet made by script, since ComfyUI loads no style sheets of nodes. */

const CSS = `
  .dit360 {
    position: relative; box-sizing: border-box; width: 100%; height: 100%; min-height: 160px; overflow: hidden;
    border-radius: 8px; background: #0b0d10; color: #f4f5f6; outline: none; isolation: isolate;
    font: 12px/1.4 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
    container-type: inline-size;
  }
  .dit360:fullscreen { border-radius: 0; }
  .dit360 [hidden] { display: none !important; }
  .dit360 canvas, .dit360 img { position: absolute; inset: 0; width: 100%; height: 100%; }
  .dit360 canvas { display: block; cursor: grab; touch-action: none; user-select: none; -webkit-user-select: none; }
  .dit360 img { object-fit: contain; }
  .dit360.dragging canvas { cursor: grabbing; }
  .dit360:focus-visible::after {
    content: ""; position: absolute; inset: 0; border-radius: inherit; pointer-events: none;
    box-shadow: inset 0 0 0 1.5px rgb(255 255 255 / 75%);
  }
  .dit360 .message {
    position: absolute; inset: 0; margin: auto; width: fit-content; height: fit-content; max-width: calc(100% - 32px);
    color: rgb(255 255 255 / 62%); text-align: center; pointer-events: none; white-space: pre-line; text-wrap: balance;
  }
  .dit360 .message.over {
    inset: 10px 10px auto; padding: 4px 10px; border-radius: 8px; background: rgb(16 19 23 / 78%); color: inherit;
  }
  .dit360 .bar {
    position: absolute; bottom: 8px; display: flex; align-items: center; gap: 1px; padding: 2px; border-radius: 9px;
    background: rgb(16 19 23 / 58%); opacity: .6; transition: opacity .2s;
  }
  .dit360:hover .bar, .dit360:focus-within .bar { opacity: 1; }
  .dit360.dragging .bar { opacity: .25; pointer-events: none; }
  .dit360 .bar.left { left: 8px; }
  .dit360 .bar.right { right: 8px; }
  .dit360 .bar span { min-width: 34px; padding: 0 3px; text-align: center; font-variant-numeric: tabular-nums; }
  .dit360 .bar button, .dit360 .bar a {
    display: grid; place-items: center; width: 26px; height: 24px; padding: 0; border: 0; border-radius: 7px;
    background: none; color: inherit; cursor: pointer;
  }
  .dit360 .bar button:hover, .dit360 .bar a:hover { background: rgb(255 255 255 / 16%); }
  .dit360 .bar button:focus-visible, .dit360 .bar a:focus-visible { outline: 1.5px solid #fff; outline-offset: -1.5px; }
  .dit360 .bar svg {
    width: 16px; height: 16px; fill: none; stroke: currentColor; stroke-width: 1.8; stroke-linecap: round;
    stroke-linejoin: round;
  }
  .dit360 .direction {
    position: absolute; left: 8px; top: 8px; padding: 2px 8px; border-radius: 8px; background: rgb(16 19 23 / 58%);
    font-variant-numeric: tabular-nums; opacity: 0; pointer-events: none; transition: opacity .2s;
  }
  .dit360:hover .direction, .dit360:focus-within .direction { opacity: .85; }
  .dit360.brush canvas { cursor: crosshair; }
  .dit360.masking .direction { display: none; }
  .dit360 .bar button[aria-pressed=true] { background: #ff2970; }
  .dit360 > .painting { position: absolute; left: 6px; right: 6px; top: 6px; pointer-events: none; }
  .dit360.dragging > .painting { opacity: .35; }
  .dit360 .painting-tools { width: fit-content; margin: 0 auto; padding: 3px 6px; pointer-events: auto; }
  .dit360 .painting-group button { min-width: 28px; height: 26px; padding: 0 5px; }
  .dit360 .painting-size input { width: 84px; }
  @container (max-width: 480px) {                        /* one row in a node of the first size */
    .dit360 .painting-tools { column-gap: 6px; padding: 3px 4px; }
    .dit360 .painting-group { gap: 0; }
    .dit360 .painting-group button { min-width: 26px; padding: 0 4px; }
    .dit360 .painting-size { gap: 4px; }
    .dit360 .painting-size input { width: 56px; }
  }
  .dit360-report {
    box-sizing: border-box; width: 100%; height: 100%; min-height: 60px; padding: 8px 10px; resize: none; border: 0;
    border-radius: 8px; background: #0b0d10; color: #d8dce0; font: 11px/1.5 ui-monospace, Menlo, Consolas, monospace;
    white-space: pre-wrap;
  }
  .dit360-report::placeholder { color: rgb(255 255 255 / 45%); font-family: system-ui, sans-serif; }
  @media (hover: none) { .dit360 .bar { opacity: 1; } .dit360 .bar button, .dit360 .bar a { width: 34px; height: 32px; } }
  @media (prefers-reduced-motion: reduce) { .dit360 * { transition: none !important; } }
`;

/** Adds the style to the page, once. */
export async function addStyle() {
  const painting = await fetch(new URL("painting/painting.css", import.meta.url));
  for (const text of [painting.ok ? await painting.text() : "", CSS]) {
    const sheet = new CSSStyleSheet();
    sheet.replaceSync(text);
    document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  }
}
