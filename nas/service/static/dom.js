// Building blocks of the page. Text only ever becomes a text node, so that names are shown and never interpreted.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && !(element instanceof SVGElement)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  const size = Math.abs(value);
  if (size >= 1e12) return value.toExponential(2);
  const [unit, letter] = size >= 1e9 ? [1e9, "\u00a0G"] : size >= 1e6 ? [1e6, "\u00a0M"] : size >= 1e4 ? [1e3, "\u00a0k"] : [1, ""];
  return Number((value / unit).toPrecision(4)) + letter;
}

/** In the two largest of days, hours, minutes and seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "";
  if (seconds < 1) return `${number(1000 * seconds)} ms`;
  if (seconds < 60) return `${number(seconds)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const inUnit = (i) => Math.round(seconds / units[i][1]);
  const at = units.findIndex(([, size], i) => inUnit(i + 1) * units[i + 1][1] >= size);
  const [[large, size], [small, part]] = [units[at], units[at + 1]];
  const parts = inUnit(at + 1);
  const rest = parts % (size / part);
  return `${(parts - rest) * part / size} ${large}${rest ? ` ${rest} ${small}` : ""}`;
}

export function words(name) {
  return name.replaceAll("_", " ");
}

export function titled(objective) {
  const about = [objective.unit, objective.runtime].filter(Boolean).join(", ");
  return words(objective.name) + (about ? ` (${about})` : "");
}

export function pill(text) {
  return h("span", { className: `pill ${text.split(" ")[0]}` }, text);
}

export function chips(tags) {
  return h("div", { className: "row chips" }, tags.map((tag) => h("span", { className: "chip" }, tag)));
}

export function card(title, note, ...children) {
  return h("section", { className: "card" }, h("header", {}, h("h2", {}, title), note && h("span", { className: "small" }, note)), ...children);
}

export function empty(title, text, action) {
  return h("div", { className: "empty" }, h("h2", {}, title), h("p", {}, text), action);
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Calls `work` at most once in an interval, and at the end of one in which it was asked for; waits for the last call. */
export function throttled(work, milliseconds) {
  let isBusy = false;
  let isWanted = false;
  return async function ask() {
    isWanted = true;
    if (isBusy) return;
    isBusy = true;
    while (isWanted) {
      isWanted = false;
      const pause = new Promise((resolve) => setTimeout(resolve, milliseconds));
      await Promise.resolve().then(work).catch(() => null);
      await pause;
    }
    isBusy = false;
  };
}

export function debounced(work, milliseconds) {
  let timer;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => work(...values), milliseconds); };
}
