/** The page of a server: asks for pictures, shows how they come, and what is in the folder. */

const $ = (id) => document.getElementById(id);
const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

/** Shares of the model's own steps and width. */
const PRESETS = { Sketch: [0.3, 0.5], Normal: [1, 1], Fine: [1.5, 1] };

let state = null;                                    // what the server told of itself
let job = null;                                      // number of the picture that is being made
let source = null;                                   // name of the picture that the next is made of

/** An answer of the server. Throws what is wrong with it, in its own words. */
async function ask(path, options = {}) {
  const answer = await fetch(path, options);
  const json = await answer.json();
  if (!answer.ok) throw new Error(json.error?.message ?? answer.statusText);
  return json;
}

function say(text, wrong = false) {
  $("news").textContent = text;
  $("news").classList.toggle("wrong", wrong);
}

// ------------------------------------------------------------------------------------------------------ the form

function showOptions(options) {
  for (const option of options.filter(({ name }) => !["seed", "denoise", "region"].includes(name))) {
    const id = `option-${option.name}`, choices = option.choices;
    const field = choices.length || option.kind === "bool"
      ? make("select", { id }, new Option(`(${option.unset || option.default || "off"})`, ""), ...(choices.length ? choices : ["true", "false"]).map((choice) => new Option(choice, choice)))
      : make("input", { id, type: ["int", "float"].includes(option.kind) ? "number" : "text", placeholder: option.unset || option.default });
    if (field.type === "number") {
      if (option.minimum !== null) field.min = option.minimum;
      if (option.maximum !== null) field.max = option.maximum;
      field.step = option.kind === "int" ? 1 : "any";
    }
    field.dataset.name = option.name;
    field.dataset.kind = option.kind;
    field.title = option.help;
    $("options").append(make("label", {}, option.name.replaceAll("_", " "), field, make("small", { textContent: option.help })));
  }
}

function fields() {
  return [...$("options").querySelectorAll("[data-name]")];
}

const VALUES = { int: Number, float: Number, bool: (text) => text === "true" };

/** What the form says, by the names of options. */
function asked() {
  const preset = PRESETS[document.forms[0].elements.preset.value];
  const options = { prompt: $("prompt").value };
  if (preset !== PRESETS.Normal) {
    options.steps = Math.max(1, Math.round(state.steps * preset[0]));
    if (preset[1] !== 1 && !source) options.width = Math.max(64, Math.round(state.width * preset[1] / 64) * 64);
  }
  if ($("seed").value) options.seed = $("seed").value;   // as text: it may be larger than a number here
  for (const field of fields()) {
    if (field.value === "") continue;
    const kind = VALUES[field.dataset.kind];
    options[field.dataset.name] = kind ? kind(field.value) : field.value;
  }
  return options;
}

/** The form says what a picture was made with. */
function use({ settings }) {
  $("prompt").value = settings.prompt;
  $("seed").value = settings.seed ?? "";
  document.forms[0].elements.preset.value = "Normal";
  for (const field of fields()) {
    const value = settings.requested[field.dataset.name] ?? (field.dataset.name === "negative_prompt" ? settings.negative_prompt : "");
    field.value = value ?? "";
  }
  $("more").open ||= fields().some((field) => field.value !== "");
  $("prompt").focus();
  const other = settings.model && settings.model !== state.model;
  say(`The form has this picture's settings.${other ? ` It was made with ${settings.model}; this server has ${state.model}.` : ""}`);
}

// --------------------------------------------------------------------------------------------------- one picture

async function base64(blob) {
  const bytes = new Uint8Array(await blob.arrayBuffer());
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}

/** What the next picture is made of, or nothing. */
async function files(options) {
  if (!source) return {};
  const image = await (await fetch(`/pictures/${encodeURIComponent(source)}`)).blob();
  const given = { image: { data: await base64(image), ending: source.slice(source.lastIndexOf(".")) } };
  if (document.forms[0].elements.how.value === "all") {
    options.denoise = Number($("denoise").value);
    return given;
  }
  const mask = await $("view").contentWindow.dit360?.mask();
  if (!mask) throw new Error("Nothing is painted; press P in the picture and paint over what is to be made anew.");
  given.mask = { data: await base64(mask), ending: ".png" };
  return given;
}

async function begin() {
  const options = asked();
  const body = JSON.stringify({ options, files: await files(options), format: $("format").value });
  const told = await ask("/api/jobs", { method: "POST", body, headers: { "content-type": "application/json" } });
  job = told.number;
  sessionStorage.setItem("job", job);
  $("stop").hidden = $("bar").hidden = false;
  await follow(told);
}

/** How a picture comes, until it is there. */
async function follow(told) {
  while (!["done", "failed", "cancelled"].includes(told.status)) {
    const words = {
      waiting: told.ahead ? `Waiting for ${told.ahead} other picture${told.ahead === 1 ? "" : "s"} …` : "Waiting …",
      loading: "Reading the model …", sampling: `Step ${told.done} of ${told.steps}`, decoding: "Decoding …",
    };
    say(told.doing ? `${told.doing} …` : words[told.status]);
    $("bar").value = told.steps ? told.done / told.steps : 0;
    if (told.preview) await preview(told);
    told = await ask(`/api/jobs/${told.number}?after=${told.version}`);
  }
  if (told.status === "failed") throw new Error(told.error);
  if (told.status === "cancelled") return say("Stopped.");
  say(`${told.width}×${told.height}, seed ${told.seed_text}, ${told.seconds.toFixed(1)} s. ${told.told.join(" ")}`);
  if (told.name) show(told.name);
  else download(told);
  await list();
}

/** The picture as it is expected by now, to look around in. */
async function preview({ number, version }) {
  const frame = $("view"), seen = frame.dataset.job === number;
  if (!seen) {
    frame.dataset.job = number;
    turn(`/api/jobs/${number}/view`);
    return;
  }
  const answer = await fetch(`/api/jobs/${number}/preview?${version}`);
  if (answer.status === 200) frame.contentWindow.dit360?.show(await createImageBitmap(await answer.blob()));
}

/** A picture that the folder does not take is given to the browser. */
function download({ number, format }) {
  make("a", { href: `/api/jobs/${number}/picture`, download: `panorama.${format}` }).click();
}

/** Opens a page of the viewer, which looks where the last one did. */
function turn(address) {
  const before = $("view").contentWindow?.dit360?.view();
  const where = before ? `#yaw=${before.yaw}&pitch=${before.pitch}&fov=${before.fov}` : "";
  $("view").src = `${address}${where}`;
  $("view").hidden = false;
  $("empty").hidden = true;
}

function over() {
  job = null;
  sessionStorage.removeItem("job");
  $("make").disabled = false;
  $("stop").hidden = $("bar").hidden = true;
}

function show(name) {
  turn(`/pictures/${encodeURIComponent(name)}/view`);
  source = name;
  $("source").value = name;
}

/** The next picture is made of the one that is shown, or not. */
function edit(on) {
  $("edit").hidden = !on;
  if (!on) source = null;
}

// --------------------------------------------------------------------------------------------------- the folder

async function list() {
  const pictures = await ask("/api/pictures");
  $("pictures").replaceChildren(...pictures.map((one) => {
    const address = `/pictures/${encodeURIComponent(one.name)}`, prompt = one.settings.prompt || one.name;
    const image = make("img", { src: `${address}/small?${one.changed}`, alt: prompt, loading: "lazy" });
    const open = make("button", { type: "button", className: "open", title: "Look around", onclick: () => { show(one.name); edit(false); scrollTo(0, 0); } }, image);
    return make("li", {}, open, make("p", { textContent: prompt, title: prompt }), make("div", { className: "row" },
      make("button", { type: "button", textContent: "Use these settings", onclick: () => { edit(false); use(one); } }),
      make("button", { type: "button", textContent: "Edit", onclick: () => { show(one.name); use(one); edit(true); say("Press P in the picture and paint over what is to be made anew."); scrollTo(0, 0); } }),
      make("a", { textContent: "Save", href: address, download: one.name })));
  }));
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if ($("make").disabled) return;
  $("make").disabled = true;
  say("");
  if ($("edit").hidden) source = null;
  try {
    await begin();
  } catch (error) {
    say(error.message, true);
  } finally {
    over();
  }
});
$("stop").addEventListener("click", () => job && ask(`/api/jobs/${job}`, { method: "DELETE" }).catch((error) => say(error.message, true)));
$("forget").addEventListener("click", () => edit(false));
for (const name of Object.keys(PRESETS)) {
  $("presets").append(make("label", {}, make("input", { type: "radio", name: "preset", value: name, checked: name === "Normal" }), ` ${name}`));
}
/** A page that is loaded anew goes on with its own picture; of others it tells how many there are. */
async function resume() {
  const going = await ask("/api/jobs"), told = going.find(({ number }) => number === sessionStorage.getItem("job"));
  if (job || $("make").disabled) return;
  if (!told) {
    const others = going.filter(({ status }) => status !== "done").length;
    if (others) say(`${others} picture${others === 1 ? " is" : "s are"} being made for others, or waiting.`);
    return;
  }
  job = told.number;
  $("make").disabled = true;
  $("stop").hidden = $("bar").hidden = false;
  try {
    await follow(told);
  } catch (error) {
    say(error.message, true);
  } finally {
    over();
  }
}

try {
  state = await ask("/api/state");
  document.title = `dit360: ${state.model}`;
  showOptions(state.options);
  await list().catch((error) => say(error.message, true));
  await resume();
} catch (error) {
  say(error.message, true);
}
