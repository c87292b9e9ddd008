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
  if (size >= 1e9) return `${(value / 1e9).toPrecision(4)} G`;
  if (size >= 1e6) return `${(value / 1e6).toPrecision(4)} M`;
  if (size >= 1e4) return `${(value / 1e3).toPrecision(4)} k`;
  return String(Number(value.toPrecision(4)));
}

export function duration(seconds) {
  if (seconds === null) return "";
  return seconds < 1 ? `${number(1000 * seconds)} ms` : `${number(seconds)} s`;
}

export function words(name) {
  return name.replaceAll("_", " ");
}

export function titled(objective) {
  return words(objective.name) + (objective.unit ? ` (${objective.unit})` : "");
}

export function pill(text) {
  return h("span", { className: `pill ${text}` }, text);
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

export function debounced(work, milliseconds) {
  let timer;
  return (...values) => { clearTimeout(timer); timer = setTimeout(() => work(...values), milliseconds); };
}
