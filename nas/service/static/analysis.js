// What a study tells beside its front: which decisions matter, how it went beside another, what the command line adds.

import { get, path } from "./api.js";
import { h, number, titled, words } from "./dom.js";
import { doneOf, quoted } from "./progress.js";

const MIN_COMPLETE = 20; // of the service
const SHOWN = 10;
const ATTEMPTS = 15;

/** Each part is asked for when it is opened. */
export function analysisCard(study, trialsOf) {
  const address = path("studies", study.name);
  return h("section", { className: "card" }, h("header", {}, h("h2", {}, "Analysis")),
    part("Beside networks made by hand", () => worth(address)),
    part("Which decisions matter", () => importance(address, trialsOf())),
    part("Beside another study", () => comparisonForm(address, study)),
    part("On the command line", () => commands(study)));
}

function part(name, build) {
  const body = h("div", { className: "part" });
  return h("details", { ontoggle: async (event) => {
    if (!event.target.open) return;
    body.replaceChildren(h("p", { className: "small", role: "status" }, "Working\u2026"));
    body.replaceChildren(await Promise.resolve().then(build).catch((error) => h("p", { className: "problem" }, error.message)));
  } }, h("summary", {}, name), body);
}

/** The best networks that somebody would have built by hand, and what was found that is as good or as fast. */
async function worth(address) {
  const found = await get(`${address}/worth`);
  if (!found || !found.rows.length) return h("p", { className: "small" }, "No network made by hand was judged in full yet, or the study has no cost to compare at.");
  const cell = (value) => h("td", { className: "number" }, value);
  const ratio = (r) => (r ? `${r[0].toFixed(2)}${r[1] === r[2] ? "" : ` (${r[1].toFixed(2)} \u2013 ${r[2].toFixed(2)})`}` : "none");
  const head = ["Made by hand", "Trial", words(found.quality), words(found.cost), "As good", words(found.cost), "Times less", "As cheap", words(found.quality)];
  return h("div", {}, h("p", {}, found.sentence), h("table", {}, h("thead", {}, h("tr", {}, head.map((name) => h("th", {}, name)))),
    h("tbody", {}, found.rows.map((r) => h("tr", {}, h("td", {}, r.kind), cell(r.plain.number), cell(number(r.plain.quality)), cell(number(r.plain.cost)),
      cell(r.cheaper ? r.cheaper.number : "none"), cell(r.cheaper ? number(r.cheaper.cost) : ""), cell(ratio(r.ratio)),
      cell(r.better ? r.better.number : "none"), cell(r.better ? number(r.better.quality) : ""))))));
}

async function importance(address, trials) {
  if (trials.complete < MIN_COMPLETE) return h("p", { className: "small" }, `What matters can be told from ${MIN_COMPLETE} complete trials on; there are ${trials.complete}.`);
  const found = await patiently(() => get(`${address}/importance`));
  const bars = (o) => {
    const decided = Object.entries(o.decisions).slice(0, SHOWN);
    const most = decided.length ? decided[0][1] : 1;
    return h("section", {}, h("h3", {}, words(o.objective)), h("p", { className: "small" }, `${Math.round(100 * Math.max(0, o.explained))} % explained, from ${o.num_trials} trials`),
      decided.length ? h("ul", { className: "bars" }, decided.map(([name, share]) => h("li", {}, h("span", {}, words(name)), h("meter", { min: 0, max: most, value: share, "aria-label": words(name) }), h("output", {}, `${(100 * share).toFixed(1)} %`))))
        : h("p", { className: "small" }, "Nothing decides it."));
  };
  return h("div", {}, h("p", { className: "small" }, "The part of an objective's variance in which a decision has a share, alone or with others: its total Sobol' index, learnt by a random forest."),
    h("div", { className: "grid three" }, found.map(bars)));
}

/** One importance is computed at a time; the server says so to whoever else asks. */
async function patiently(ask) {
  for (let i = 0; ; i++) {
    try {
      return await ask();
    } catch (error) {
      if (error.status !== 503 || i >= ATTEMPTS) throw error;
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

async function comparisonForm(address, study) {
  const others = (await get("studies")).filter((s) => s.name !== study.name && doneOf(s.trials)).reverse();
  if (!others.length) return h("p", { className: "small" }, "There is no other study with trials.");
  const result = h("div", {});
  const picker = h("select", { onchange: () => compareWith() }, h("option", { value: "" }, "choose one"), others.map((s) => h("option", { value: s.name }, s.name)));
  const compareWith = async () => {
    if (!picker.value) { result.replaceChildren(); return; }
    const found = await get(`${address}/comparison?${new URLSearchParams({ other: picker.value })}`).catch((error) => error);
    result.replaceChildren(found instanceof Error ? h("p", { className: "problem" }, found.message) : comparisonTable(found));
  };
  return h("div", {}, h("label", { className: "row" }, "with", picker), result);
}

function comparisonTable({ objectives, at, studies, notes }) {
  const share = (v) => (v === null ? "-" : v.toFixed(3));
  const rows = [["complete trials", ...studies.map((s) => number(s.complete))], ["networks on the front", ...studies.map((s) => number(s.front_size))],
    ["of them beaten by the other's", ...studies.map((s) => number(s.dominated.length))],
    ...objectives.map((o) => [`best ${titled(o)}`, ...studies.map((s) => number(s.best[o.name]))]),
    ...at.map((n, i) => [`hypervolume after ${n} trials`, ...studies.map((s) => share(s.hypervolume[i]))])];
  return h("div", {}, h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["", ...studies.map((s) => s.study)].map((label, i) => h("th", { scope: "col", className: i ? "number" : "" }, label)))),
    h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map((cell, i) => h("td", { className: i ? "number" : "" }, cell))))))),
  h("p", { className: "small" }, "Fronts and hypervolume count the objectives that both studies have; hypervolume is a share of what both fronts together reach."), notes.map((note) => h("p", { className: "small" }, `Note: ${note}.`)));
}

/** What takes minutes to hours of a machine is started there. */
function commands(study) {
  const name = quoted(study.name);
  const list = [
    study.quality === "supernet" && [`nas solve ${name} --max latency=2`, "the best network within budgets, without a new search"],
    study.has_weights && [`nas trust ${name}`, "how well the cheaper judgements ranked networks"],
    [`nas train ${name}`, "the front's networks, each trained alone"],
    [`nas export ${name} --format parquet --out trials.parquet`, "the trials for another program"],
  ].filter(Boolean);
  return h("dl", { className: "commands" }, list.flatMap(([command, about]) => [h("dt", {}, h("code", {}, command)), h("dd", { className: "small" }, about)]));
}
