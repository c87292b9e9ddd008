// A study in a file of its own: the same drawing, over the data that the file holds.

import { closeCharts } from "./charts.js";
import { h, pill, words } from "./dom.js";
import { stateOf } from "./progress.js";
import { StudyView } from "./view.js";

const held = JSON.parse(document.getElementById("data").textContent);

function trialAt(i) {
  const number = held.columns.number[i];
  const values = Object.fromEntries(held.study.objectives.map((o) => [o.name, held.columns.values[o.name][i]]));
  return held.networks[number] || { number, state: held.columns.state[i], values, seconds: held.seconds[i], error: held.failures[number] || "" };
}

const places = new Map(held.columns.number.map((number, i) => [number, i]));

const source = {
  trial: async (number) => trialAt(places.get(number)),
  hypervolume: async () => held.hypervolume,
  measurements: async () => held.measurements,
  page: async ({ state, sort, descending, offset, at_most: most, at_least: least, limit }) => {
    let found = held.columns.number.map((_, i) => i).filter((i) => !state || held.columns.state[i] === state);
    for (const [given, side] of [[most, 1], [least, -1]]) {
      const [name, value] = given.split(":");
      if (given) found = found.filter((i) => held.columns.values[name][i] !== null && side * held.columns.values[name][i] <= side * Number(value));
    }
    const key = (i) => (sort === "number" ? held.columns.number[i] : sort === "seconds" ? held.seconds[i] : held.columns.values[sort][i]);
    const sign = descending ? -1 : 1;
    found.sort((a, b) => (key(a) === null ? 1 : key(b) === null ? -1 : sign * (key(a) - key(b))));
    return { total: found.length, trials: found.slice(offset, offset + limit).map(trialAt) };
  },
};

const { study } = held;
const view = new StudyView(study, held.columns, source, () => h("p", { className: "small" }, "nas extract cuts this network out."));
document.getElementById("main").append(
  h("div", { className: "head" }, h("div", {}, h("div", { className: "row" }, h("h1", {}, study.name), pill(stateOf(study))),
    h("p", { className: "meta" }, `${study.space}, ${study.searcher}, seed ${study.seed}: ${study.objectives.map((o) => `${o.direction} ${words(o.name)}`).join(", ")}`),
    h("p", { className: "small" }, `${held.columns.number.length} of ${study.max_trials} trials, begun ${study.created_at.slice(0, 16).replace("T", " ")}, version ${study.code_version}`), held.worth && h("p", {}, held.worth))),
  view.element);
view.start();
addEventListener("pagehide", closeCharts);
