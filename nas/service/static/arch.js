// An architecture as a stack of blocks, the input at the bottom: mixer, norm, width of the ffn, bits of the weights.

import { colour, h, s, words } from "./dom.js";

const WIDTH = 330, ROW = 30, LEFT = 24, MIXER = 138, FFN = 118;
const assigned = new Map();

function fillOf(operator) {
  if (operator === "none") return colour("none");
  if (!assigned.has(operator)) assigned.set(operator, assigned.size % 8);
  return colour(`b${assigned.get(operator)}`);
}

function short(name, room) {
  const text = words(name);
  return text.length * 6 <= room ? text : `${text.slice(0, Math.floor(room / 6) - 1)}\u2026`;
}

function drawBlock(block, index, top, widest) {
  const idle = block.mixer === "none" && block.ffn === "none";
  const row = s("g", {}, s("title", {}, title(block, index)),
    s("text", { x: 0, y: top + 18, class: "faint" }, String(index + 1)));
  if (idle) {
    row.append(s("line", { x1: LEFT, x2: WIDTH, y1: top + 13, y2: top + 13, stroke: colour("none"), "stroke-dasharray": "2 5" }));
    return row;
  }
  const hasFfn = block.ffn !== "none";
  const wide = hasFfn ? Math.max(26, (FFN * (block.d_ff || block.d_model)) / widest) : 26;
  row.append(
    s("rect", { x: LEFT, y: top, width: 3, height: 24, rx: 1.5, fill: block.norm === "none" ? colour("none") : fillOf(block.norm) }),
    s("rect", { x: LEFT + 6, y: top, width: MIXER, height: 24, rx: 5, fill: fillOf(block.mixer) }),
    s("text", { x: LEFT + 14, y: top + 16, class: block.mixer === "none" ? "faint" : "on" }, short(block.mixer, MIXER - 14)),
    s("rect", { x: LEFT + MIXER + 10, y: top, width: wide, height: 24, rx: 5, fill: fillOf(block.ffn) }),
  );
  if (hasFfn) row.append(s("text", { x: LEFT + MIXER + 18, y: top + 16, class: "on" }, String(block.d_ff || "")));
  if (block.bits) row.append(s("text", { x: WIDTH, y: top + 16, class: "faint", "text-anchor": "end" }, `${block.bits} bit`));
  return row;
}

function title(block, index) {
  const items = (name) => (block.items[name] ? ` (${block.items[name]})` : "");
  return `block ${index + 1}: ${words(block.mixer)}${items("mixer")}, ${words(block.ffn)}${items("ffn")}, ` +
    `${words(block.norm)} ${block.placement}, width ${block.d_model}${block.bits ? `, ${block.bits} bits` : ""}`;
}

export function drawArch(blocks) {
  const widest = Math.max(1, ...blocks.map((b) => (b.ffn === "none" ? 0 : b.d_ff || b.d_model)));
  const height = blocks.length * ROW + 4;
  const drawing = s("svg", { viewBox: `0 0 ${WIDTH} ${height}`, class: "arch", role: "img",
    "aria-label": blocks.map(title).join("; ") });
  blocks.forEach((block, i) => drawing.append(drawBlock(block, i, height - (i + 1) * ROW, widest)));
  return drawing;
}

export function archLegend(blocks) {
  const kinds = [["mixer", ""], ["ffn", ", bar as wide as the ffn"], ["norm", ", edge"]];
  const entries = kinds.flatMap(([kind, note]) =>
    [...new Set(blocks.map((b) => b[kind]))].filter((name) => name !== "none").map((name) => [name, note]));
  return h("ul", { className: "legend" }, entries.map(([name, note]) =>
    h("li", {}, s("svg", { viewBox: "0 0 11 11" }, s("rect", { width: 11, height: 11, rx: 3, fill: fillOf(name) })), words(name) + note)));
}
