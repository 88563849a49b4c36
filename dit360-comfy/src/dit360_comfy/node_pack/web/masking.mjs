/** The mask that is painted in a node goes to ComfyUI's input folder, and its name into a widget, and back from there. */

import { asPng, crc32 } from "./painting/png.mjs";

/**
 * A file of the input folder as ComfyUI writes its name: "folder/name.png", or "folder/name.png [input]".
 *
 * @returns {URLSearchParams} what the server's /view takes
 */
function asked(value) {
  const [, path, type = "input"] = value.match(/^(.*?)(?: \[(\w+)\])?$/), slash = path.lastIndexOf("/");
  return new URLSearchParams({ filename: path.slice(slash + 1), subfolder: slash < 0 ? "" : path.slice(0, slash), type });
}

export class KeptMask {
  /** Resolves when all that was sent is there. */
  sent = Promise.resolve("");

  #api;
  #painter;
  #widget;
  #changed;
  #known = "";                         // the widget's value that the mask was read from or sent as
  #revision = 0;                       // of the mask then

  /**
   * @param {object} api ComfyUI's
   * @param {import("./painting/painter.mjs").Painter} painter
   * @param {object} widget whose value is the file's name, "" for none
   * @param {() => void} changed is called when the widget has another value
   */
  constructor(api, painter, widget, changed) {
    this.#api = api;
    this.#painter = painter;
    this.#widget = widget;
    this.#changed = changed;
    // ComfyUI asks for the value whenever the graph is to run, and waits for it.
    widget.serializeValue = () => this.send();
  }

  /** Whether something was painted that the server does not have. */
  get #news() {
    return Boolean(this.#painter.mask) && this.#painter.mask.revision !== this.#revision;
  }

  /**
   * Brings what was painted to the server. Masks that are alike are one file, and no file is ever changed, so that a
   * workflow that was saved goes on meaning the same.
   *
   * @returns {Promise<string>} the widget's value
   * @throws {Error} where the server does not take it
   */
  send() {
    this.sent = this.sent.catch(() => {}).then(() => this.#send());
    return this.sent;
  }

  async #send() {
    if (!this.#news) return this.#widget.value;
    const { mask } = this.#painter, { revision } = mask;
    let value = "";
    if (!mask.empty) {
      const name = `dit360-mask-${crc32(mask.values).toString(16).padStart(8, "0")}-${mask.width}.png`, body = new FormData();
      body.append("image", await asPng(mask), name);
      body.append("type", "input");
      body.append("overwrite", "true");
      const answer = await this.#api.fetchApi("/upload/image", { method: "POST", body });
      if (!answer.ok) throw new Error(`ComfyUI did not take the mask (${answer.status}); save it, and load it with Load Image (as Mask).`);
      const kept = await answer.json();
      value = kept.subfolder ? `${kept.subfolder}/${kept.name}` : kept.name;
    }
    this.#painter.saved = revision;
    this.#set(value, revision);
    return value;
  }

  #set(value, revision) {
    this.#known = this.#widget.value = value;
    this.#revision = revision;
    this.#changed();
  }

  /** Shows the mask that the widget names, as in a workflow that was opened; nothing if that is what is painted. */
  async read() {
    const { value } = this.#widget, painter = this.#painter;
    if (!painter.mask || value === this.#known || this.#news) return;
    this.#known = value;
    if (!value) return;
    const answer = await this.#api.fetchApi(`/view?${asked(value)}`);
    if (!answer.ok) return painter.say(`The mask ${value} is not in ComfyUI's input folder any more.`);
    if (await painter.open(await answer.blob(), value)) this.#revision = painter.saved = painter.mask.revision;
  }
}
