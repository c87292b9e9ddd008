// The Markdown of network cards: headings, tables, lists, fenced code, paragraphs. Everything else stays text.

import { h } from "./dom.js";

export function markdown(source) {
  const blocks = source.split(/\n{2,}/).map((block) => block.trim()).filter(Boolean);
  return h("div", {}, blocks.map((block) => {
    const lines = block.split("\n");
    if (block.startsWith("```")) return h("pre", {}, h("code", {}, lines.slice(1, -1).join("\n")));
    if (block.startsWith("# ")) return h("h1", {}, block.slice(2));
    if (block.startsWith("## ")) return h("h2", {}, block.slice(3));
    if (lines.every((line) => line.startsWith("|"))) return tableOf(lines);
    if (lines.every((line) => line.startsWith("- "))) return h("ul", {}, lines.map((line) => h("li", {}, inline(line.slice(2)))));
    return h("p", {}, inline(block));
  }));
}

function tableOf(lines) {
  const [header, , ...rows] = lines.map((line) => line.slice(1, -1).split("|").map((cell) => cell.trim()));
  return h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, header.map((cell) => h("th", {}, cell)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, inline(cell))))))));
}

function inline(text) {
  return text.split("`").map((part, i) => (i % 2 ? h("code", {}, part) : part));
}
