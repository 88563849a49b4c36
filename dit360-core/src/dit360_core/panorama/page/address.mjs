/** The page's address, whose fragment tells the view: a link shows what somebody was looking at. */

const PARTS = ["yaw", "pitch", "fov"];
const PAUSE = 300;                     // milliseconds; browsers refuse an address that changes too often

/** What of a view the address asks for: numbers of degrees. @returns {Partial<import("./painting/sphere.mjs").View>} */
export function askedInAddress() {
  const given = new URLSearchParams(location.hash.slice(1)), found = {};
  for (const name of PARTS) if (given.get(name)) found[name] = Number(given.get(name));
  return found;
}

let later = 0;

/** Has the address tell a view, a moment after it was asked for the last time; no entry of the history is made. */
export function tellInAddress(view) {
  clearTimeout(later);
  later = setTimeout(() => {
    const told = PARTS.map((name) => `${name}=${Number(view[name].toFixed(2))}`).join("&");
    try {
      history.replaceState(history.state, "", `#${told}`);
    } catch (reason) {                 // in a frame without an address of its own
      console.warn(`The address cannot tell the view: ${reason.message}`);
    }
  }, PAUSE);
}
