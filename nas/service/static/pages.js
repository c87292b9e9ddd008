// The pages of what there is: operators and devices.

import { get } from "./api.js";
import { empty, h, number, words } from "./dom.js";

const FIRST_SLOTS = ["mixer", "ffn", "norm"];

export async function operatorsPage(main) {
  const operators = await get("operators");
  const slots = [...new Set([...FIRST_SLOTS, ...operators.map((o) => o.slot)])];
  const search = h("input", { type: "search", placeholder: "name, paper, complexity", "aria-label": "Search operators", oninput: () => draw() });
  const slot = h("select", { "aria-label": "Slot", onchange: () => draw() }, h("option", { value: "" }, "all slots"), slots.map((name) => h("option", { value: name }, words(name))));
  const list = h("div", { className: "ops" });
  main.replaceChildren(h("div", { className: "head" },
    h("div", {}, h("h1", {}, "Operators"), h("p", { className: "meta" }, `${operators.length} in ${slots.length} slots, each with its paper and what it costs.`)),
    h("div", { className: "row" }, search, slot)), list);
  function draw() {
    const wanted = search.value.trim().toLowerCase();
    const found = operators.filter((o) => (!slot.value || o.slot === slot.value) && `${o.name} ${words(o.name)} ${o.paper} ${o.complexity}`.toLowerCase().includes(wanted));
    const groups = slots.map((name) => [name, found.filter((o) => o.slot === name)]).filter(([, some]) => some.length);
    list.replaceChildren(...(groups.length ? groups.map(([name, some]) => h("section", {}, h("h2", {}, `${words(name)} `, h("span", { className: "small" }, String(some.length))), h("ul", {}, some.map(operatorItem))))
      : [empty("No operator matches", "Try a shorter word, or another slot.")]));
  }
  draw();
}

function operatorItem(o) {
  const choices = Object.entries({ ...o.choices, ...o.options }).map(([name, values]) => `${words(name)}: ${Array.isArray(values) ? values.map(plain).join(", ") : plain(values)}`);
  return h("li", { className: "op" }, h("h3", {}, words(o.name)), h("p", { className: "small" }, o.paper),
    h("p", { className: "small" }, `compute ${o.complexity}${o.state ? `, state ${o.state}` : ""}`),
    choices.length ? h("details", {}, h("summary", { className: "small" }, `${choices.length} ${choices.length > 1 ? "choices" : "choice"}`), choices.map((c) => h("p", { className: "small" }, c))) : "");
}

function plain(value) {
  return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
}

export async function devicesPage(main) {
  main.replaceChildren(h("p", { className: "loading" }, "Reading device profiles\u2026"));
  const devices = await get("devices");
  const head = h("div", { className: "head" }, h("div", {}, h("h1", {}, "Devices"), h("p", { className: "meta" }, "Measured operators, and how far predicted latencies are off on networks left out.")));
  if (!devices.length) {
    main.replaceChildren(head, empty("No device is known", "A study with latency measures this one; nas profile measures any.", null));
    return;
  }
  const row = (d) => h("tr", {}, h("td", {}, d.device), h("td", {}, d.space), h("td", {}, d.runtime), h("td", { className: "small" }, d.workload), h("td", { className: "number" }, number(d.operators)),
    h("td", { className: "number" }, number(d.networks)), h("td", { className: "number" }, d.error === null ? "unknown" : `${(100 * d.error).toFixed(1)} %`), h("td", { className: "small" }, d.adapted_from || d.measured_at.slice(0, 10)));
  const columns = [["device"], ["space"], ["runtime"], ["workload"], ["operators", "number"], ["networks", "number"], ["median error", "number"], ["measured"]];
  main.replaceChildren(head, h("section", { className: "card" }, h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, columns.map(([name, kind]) => h("th", { className: kind || "", scope: "col" }, name)))), h("tbody", {}, devices.map(row))))));
}
