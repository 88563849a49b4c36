/** The command line that makes a painted part anew, as a shell takes it. */

const PLAIN = /^[\p{L}\p{N}_.\/+-]+$/u;            // means itself everywhere, if it does not begin with a hyphen
// Within "…": what sh, PowerShell and cmd all leave as it is, of which none expands a name or ends the text.
const QUOTED = /^[^"“”„$`\\!%\p{Cc}]*$/u;
const CONTROLS = /\p{Cc}+/gu;                       // pasted into a terminal, they would be keys

export const SHELLS = { sh: "bash, zsh", powershell: "PowerShell" };

/** One argument, so that whatever it holds is text to that shell. */
function quoted(text, shell) {
  if (QUOTED.test(text)) return `"${text}"`;
  if (shell === "sh") return `'${text.replaceAll("'", String.raw`'\''`)}'`;
  // PowerShell takes curly quotes for straight ones, and doubled ones for themselves. What it then gives to a program
  // loses its double quotes in versions before 7.3 and needs none in the words of a prompt: typographic ones do.
  return `'${text.replaceAll(/['‘’‚‛]/g, "$&$&").replaceAll('"', "”")}'`;
}

/** A file's name: never an option, and only quoted where it must be. */
function fileArgument(name, shell) {
  const safe = name.startsWith("-") ? `./${name}` : name;
  if (PLAIN.test(safe)) return safe;
  // A name with control characters is not to be changed, as the file would not be found: ANSI-C quoting of bash and zsh.
  if (/\p{Cc}/u.test(safe) && shell === "sh") {
    const escaped = safe.replaceAll(/[\\']/g, "\\$&").replaceAll(/\p{Cc}/gu, (c) => `\\x${c.charCodeAt(0).toString(16).padStart(2, "0")}`);
    return `$'${escaped}'`;
  }
  return quoted(safe, shell);
}

/** Of a file's name: what is before its ending, and the ending with its dot. */
function split(name) {
  const dot = name.lastIndexOf(".");
  return dot > 0 ? [name.slice(0, dot), name.slice(dot)] : [name, ""];
}

/** The mask's name, for the picture's. */
export const maskName = (picture) => `${split(picture)[0]}-mask.png`;

/**
 * What makes the white part of the mask anew, in pieces that are better not broken over two lines.
 *
 * @param {object} wanted prompt; picture, a file's name; model, of which "" is the one that is taken unasked; and shell, of SHELLS
 */
export function commandPieces({ prompt, picture, model, shell }) {
  const words = prompt.replaceAll(CONTROLS, " ").trim() || "…", [stem, suffix] = split(picture);
  // What was kept without a loss stays so.
  const edited = `${stem}-edited${[".png", ".webp"].includes(suffix.toLowerCase()) ? suffix : ".jpg"}`;
  const files = [["--image", picture], ["--mask", maskName(picture)], ["-o", edited]];
  if (model) files.push(["--model", model]);
  const options = files.map(([option, name]) => `${option} ${fileArgument(name, shell)}`);
  const told = quoted(words, shell);
  // A text that begins with a hyphen would be an option, wherever it stands.
  return ["dit360 generate", ...(words.startsWith("-") ? [...options, "--", told] : [told, ...options])];
}

export const commandLine = (wanted) => commandPieces(wanted).join(" ");

/** Whether the command is the same in every shell. */
export const sameEverywhere = (wanted) =>
  commandLine({ ...wanted, shell: "sh" }) === commandLine({ ...wanted, shell: "powershell" });

/**
 * Keeps the page's section with the command right, and copies it.
 *
 * @param {object} parts elements: prompt is written in, shown tells the command, copy copies it, shells chooses the shell
 * @param {object} known picture and model
 */
export function showCommand({ prompt, shown, copy, shells }, known) {
  for (const [value, name] of Object.entries(SHELLS)) shells.append(new Option(name, value));
  shells.value = /win/i.test(navigator.userAgentData?.platform ?? navigator.platform) ? "powershell" : "sh";
  const update = () => {
    const wanted = { prompt: prompt.value, shell: shells.value, ...known };
    shown.replaceChildren(...commandPieces(wanted).flatMap((piece, i) => {
      const part = Object.assign(document.createElement("span"), { textContent: piece });
      return i ? [" ", part] : [part];
    }));
    shells.hidden = sameEverywhere(wanted);
  };
  prompt.addEventListener("input", update);
  shells.addEventListener("input", update);
  copy.addEventListener("click", async () => {
    const text = shown.textContent, word = copy.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {                                       // not allowed, for one in a frame
      getSelection().selectAllChildren(shown);
      if (!document.execCommand("copy")) return;
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = word; }, 1500);
  });
  update();
}
