// A study as it is drawn, live or in a report: the front with its budgets, the chosen network, charts, trials, failures.

import { archLegend, drawArch } from "./arch.js";
import { agreementOption, Chart, growthOption, library, paretoOption, parallelOption } from "./charts.js";
import { card, debounced, duration, h, number, pill, titled, words } from "./dom.js";

const PAGE = 25;

/**
 * `source` has trial(number), page(query), hypervolume(), measurements(); `actions(number)` gives what stands below the
 * chosen network. `data` are columns: number, state, values by objective, front.
 */
export class StudyView {
  constructor(study, data, source, actions) {
    Object.assign(this, { study, data, source, actions, budgets: {}, chosen: null, shown: null, kept: new Map() });
    this.objectives = study.objectives;
    this.index = new Map(data.number.map((n, i) => [n, i]));
    const second = this.objectives[1] || this.objectives[0];
    this.axes = { x: second, y: this.objectives[0], third: this.objectives[2] || null };
    this.element = this.build();
  }

  build() {
    this.plot = h("div", { className: "chart tall", tabIndex: 0, role: "application", "aria-label": "Pareto chart: arrow keys walk along the front" });
    this.plot.addEventListener("keydown", (event) => this.walk(event));
    this.sliders = h("div", { className: "budgets" });
    this.network = h("div", {});
    this.networkTitle = h("h2", {}, "Chosen network");
    this.plotNote = h("span", { className: "small" });
    const plotCard = h("section", { className: "card" },
      h("header", {}, h("h2", {}, "Trade-offs"), this.plotNote, h("div", { className: "row compact" }, this.pickers())), this.plot, this.sliders);
    const side = h("section", { className: "card", "aria-live": "polite" }, h("header", {}, this.networkTitle), this.network);
    this.growth = h("div", { className: "chart" });
    this.agreement = h("div", { className: "chart" });
    this.parallel = h("div", { className: "chart" });
    this.failures = h("div", {});
    this.trials = this.buildTrials();
    return h("div", {}, h("div", { className: "grid study" }, plotCard, side),
      h("div", { className: "grid three" },
        card("Hypervolume", "how much is dominated, over trials", this.growth),
        card("Predicted and measured", "networks of the front", this.agreement),
        card("All objectives at once", "front over a sample of trials", this.parallel)),
      this.trials, this.failures);
  }

  pickers() {
    const select = (label, key, withNone) => {
      const options = this.objectives.map((o) => h("option", { value: o.name }, words(o.name)));
      if (withNone) options.unshift(h("option", { value: "" }, "none"));
      const picker = h("select", { "aria-label": label, onchange: () => {
        this.axes[key] = this.objectives.find((o) => o.name === picker.value) || null;
        this.paretoChart?.draw();
      } }, options);
      picker.value = this.axes[key] ? this.axes[key].name : "";
      return h("label", { className: "row" }, label, picker);
    };
    return [select("across", "x"), select("up", "y"), select("colour", "third", true)];
  }

  /** After the element is in the page. The network is there before the charts, and the trade-offs before all others. */
  async start() {
    const shown = this.redraw();
    try {
      await library;
    } catch (error) {
      this.plot.replaceChildren(h("p", { className: "empty slim" }, error.message));
      return;
    }
    if (!this.element.isConnected) return;
    this.paretoChart = new Chart(this.plot, (keepZoom) => paretoOption({ data: this.data, ...this.axes, chosen: this.chosen, budgets: this.budgets, keepZoom }));
    this.paretoChart.chart.on("mouseover", (event) => event.value && this.show(event.value[2], true));
    this.paretoChart.chart.on("mouseout", () => this.show(this.chosen, false));
    this.paretoChart.chart.on("click", (event) => event.value && this.choose(event.value[2]));
    this.paretoChart.draw();
    await shown;
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    if (!this.element.isConnected) return;
    this.parallelChart = new Chart(this.parallel, () => parallelOption(this.data, this.objectives, this.chosen));
    this.parallelChart.draw();
    this.refresh();
  }

  /** Resolves when the chosen network is shown, where it was not chosen before. */
  async redraw(keepZoom = false) {
    const wasEmpty = !this.front?.length;
    this.front = this.data.front.filter((n) => this.index.has(n));
    this.sliders.hidden = !this.front.length;
    this.plotNote.textContent = this.front.length ? `${this.front.length} of ${this.data.number.length} trials on the front` : "";
    this.drawSliders();
    const shown = this.chosen === null ? this.show(this.chosen = this.within(), false) : null;
    this.paretoChart?.draw(keepZoom && !wasEmpty);
    this.parallelChart?.draw();
    await shown;
  }

  /** What is costly to compute and not needed at every event. */
  async refresh() {
    this.loadTrials();
    this.drawFailures();
    const [growth, measured] = await Promise.all([this.source.hypervolume(), this.source.measurements(), library]);
    this.drawOr(this.growth, growth.length > 1, () => growthOption(growth), "Grows with the first complete trials.");
    const rows = measured.filter((m) => m.predicted !== null && m.value !== null);
    this.drawOr(this.agreement, rows.length, () => agreementOption(rows, rows[0].unit), "Networks of the front are measured when the search is done.");
  }

  drawOr(element, isThere, option, otherwise) {
    if (element.chart) { element.chart.close(); element.chart = null; }
    element.replaceChildren();
    if (isThere) {
      element.chart = new Chart(element, option);
      element.chart.draw();
    } else element.append(h("p", { className: "empty slim" }, otherwise));
  }

  add(event) {
    for (const trial of event.trials) {
      if (this.index.has(trial.number)) continue;
      this.index.set(trial.number, this.data.number.length);
      this.data.number.push(trial.number);
      this.data.state.push(trial.state);
      for (const o of this.objectives) this.data.values[o.name].push(trial.values[o.name] ?? null);
    }
    this.data.front = event.front;
    this.redraw(true);
  }

  value(trial, objective) {
    return this.data.values[objective.name][this.index.get(trial)];
  }

  // Budgets: a slider for each objective but the first, over the values that the front has.

  drawSliders() {
    this.steps = new Map(this.objectives.slice(1).map((o) => {
      const sign = o.direction === "maximize" ? -1 : 1;
      return [o.name, [...new Set(this.front.map((n) => this.value(n, o)))].sort((a, b) => sign * (a - b))];
    }));
    if (!this.sliders.childElementCount) {
      this.sliders.append(...this.objectives.slice(1).map((o) => this.slider(o)));
      if (!this.objectives[1]) this.sliders.remove();
    }
    for (const [name, steps] of this.steps) {
      const input = this.sliders.querySelector(`[name="${CSS.escape(name)}"]`);
      input.max = Math.max(0, steps.length - 1);
      const budget = this.budgets[name];
      input.value = budget === undefined ? input.max : Math.max(0, this.reach(name, budget));
      input.disabled = steps.length < 2;
      this.label(name, input);
    }
  }

  reach(name, budget) {
    const sign = this.objectives.find((o) => o.name === name).direction === "maximize" ? -1 : 1;
    return this.steps.get(name).filter((v) => sign * v <= sign * budget).length - 1;
  }

  slider(objective) {
    const output = h("output", {});
    const input = h("input", { type: "range", min: 0, max: 0, name: objective.name, oninput: () => {
      const steps = this.steps.get(objective.name);
      if (Number(input.value) >= steps.length - 1) delete this.budgets[objective.name];
      else this.budgets[objective.name] = steps[Number(input.value)];
      this.label(objective.name, input);
      this.choose(this.within());
    } });
    const title = `${words(objective.name)} ${objective.direction === "maximize" ? "at least" : "at most"}`;
    input.setAttribute("aria-label", title);
    return h("div", {}, h("span", { className: "small" }, title), output, input);
  }

  label(name, input) {
    const objective = this.objectives.find((o) => o.name === name);
    const shown = this.budgets[name] === undefined ? "any" : `${number(this.budgets[name])} ${objective.unit}`;
    input.parentElement.querySelector("output").textContent = shown;
    input.setAttribute("aria-valuetext", shown);
  }

  /** The best of the first objective among the front's members that keep the budgets. */
  within() {
    const first = this.objectives[0];
    const sign = (o) => (o.direction === "maximize" ? -1 : 1);
    const fitting = this.front.filter((n) => this.objectives.slice(1).every((o) =>
      this.budgets[o.name] === undefined || sign(o) * this.value(n, o) <= sign(o) * this.budgets[o.name]));
    return fitting.reduce((best, n) => (best === null || sign(first) * this.value(n, first) < sign(first) * this.value(best, first) ? n : best), null);
  }

  walk(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (!step || !this.front.length) return;
    event.preventDefault();
    const ordered = [...this.front].sort((a, b) => this.value(a, this.axes.x) - this.value(b, this.axes.x));
    const at = ordered.indexOf(this.chosen) + step;
    this.choose(ordered[Math.max(0, Math.min(ordered.length - 1, at))]);
  }

  // The network

  choose(trial) {
    this.chosen = trial;
    this.paretoChart?.draw(true);
    this.parallelChart?.draw();
    this.show(trial, false);
    for (const row of this.trials.querySelectorAll("tr.pick")) row.classList.toggle("chosen", Number(row.dataset.number) === trial);
  }

  async show(trial, isHovered) {
    this.shown = trial;
    if (trial === null) {
      const text = this.front.length ? "No network of the front keeps these budgets. Move a slider to the right." : "The first complete trial appears here.";
      this.networkTitle.textContent = "Chosen network";
      this.network.replaceChildren(h("p", { className: "empty slim" }, text));
      return;
    }
    const found = await this.fetch(trial).catch(() => null);
    if (this.shown !== trial || !found) return;
    this.networkTitle.textContent = isHovered ? `Trial ${trial}, under the pointer` : `Chosen network: trial ${trial}`;
    this.network.replaceChildren(
      h("dl", { className: "values" }, this.objectives.flatMap((o) => [h("dt", {}, titled(o)), h("dd", {}, number(found.values[o.name]))])),
      found.blocks ? drawArch(found.blocks) : "", found.blocks ? archLegend(found.blocks) : h("p", { className: "small" }, "This file has the architectures of the front alone."),
      h("div", { className: "actions" }, isHovered ? "" : this.actions(trial)));
  }

  fetch(trial) {
    if (!this.kept.has(trial)) {
      const asked = this.source.trial(trial);
      asked.catch(() => this.kept.delete(trial));
      this.kept.set(trial, asked);
    }
    return this.kept.get(trial);
  }

  // Trials and failures

  buildTrials() {
    this.query = { state: "", sort: "number", descending: false, offset: 0, at_most: "" };
    const change = (more) => { Object.assign(this.query, { offset: 0 }, more); this.loadTrials(); };
    const state = h("select", { onchange: () => change({ state: state.value }) },
      ["", "complete", "infeasible", "failed", "running", "waiting"].map((v) => h("option", { value: v }, v || "all states")));
    const objective = h("select", { "aria-label": "objective of the filter", onchange: () => limited() }, this.objectives.map((o) => h("option", { value: o.name }, words(o.name))));
    const limit = h("input", { type: "number", step: "any", size: 8, "aria-label": "largest value", placeholder: "any", oninput: debounced(() => limited(), 250) });
    const limited = () => change({ at_most: limit.value === "" ? "" : `${objective.value}:${limit.value}` });
    this.sortBy = (name) => change({ descending: this.query.sort === name && !this.query.descending, sort: name });
    this.trialTable = h("div", { className: "scroll" });
    this.pager = h("div", { className: "row" });
    return h("section", { className: "card" }, h("header", {}, h("h2", {}, "Trials"),
      h("div", { className: "row compact" }, h("label", { className: "row" }, "show", state), h("label", { className: "row" }, objective, "at most", limit))),
    this.trialTable, this.pager);
  }

  async loadTrials() {
    const asked = { ...this.query, limit: PAGE };
    const { total, trials } = await this.source.page(asked).catch(() => ({ total: 0, trials: [] }));
    if (asked.offset !== this.query.offset || asked.state !== this.query.state) return;
    if (!trials.length) {
      this.trialTable.replaceChildren(h("p", { className: "empty slim" }, total || this.query.state || this.query.at_most ? "No trial passes these filters." : "No trials yet."));
      this.pager.replaceChildren();
      return;
    }
    const heading = (name, label, isNumber) => h("th", { scope: "col", className: isNumber ? "number" : "", "aria-sort": this.query.sort === name ? (this.query.descending ? "descending" : "ascending") : null },
      h("button", { type: "button", onclick: () => this.sortBy(name) }, label, this.query.sort === name ? (this.query.descending ? " \u2193" : " \u2191") : ""));
    const rows = trials.map((t) => h("tr", { className: `pick${t.number === this.chosen ? " chosen" : ""}`, tabIndex: 0, "data-number": t.number,
      onclick: () => this.pick(t), onkeydown: (event) => { if (event.key === "Enter") this.pick(t); } },
    h("td", {}, String(t.number)), h("td", {}, pill(t.state)), this.objectives.map((o) => h("td", { className: "number" }, number(t.values[o.name]))),
    h("td", { className: "number" }, duration(t.seconds)), h("td", { className: t.error ? "reason" : "small" }, t.error || summary(t))));
    this.trialTable.replaceChildren(h("table", {}, h("thead", {}, h("tr", {}, heading("number", "trial"), h("th", { scope: "col" }, "state"),
      this.objectives.map((o) => heading(o.name, titled(o), true)), heading("seconds", "took", true), h("th", { scope: "col" }, "what it is"))), h("tbody", {}, rows)));
    const move = (by) => { this.query.offset = Math.max(0, this.query.offset + by); this.loadTrials(); };
    this.pager.replaceChildren(h("button", { type: "button", disabled: this.query.offset === 0, onclick: () => move(-PAGE) }, "Earlier"),
      h("span", { className: "small" }, `${this.query.offset + 1} to ${this.query.offset + trials.length} of ${total}`),
      h("button", { type: "button", disabled: this.query.offset + PAGE >= total, onclick: () => move(PAGE) }, "Later"));
  }

  pick(trial) {
    if (trial.state === "complete" || trial.state === "infeasible") this.choose(trial.number);
    else this.show(trial.number, true);
  }

  async drawFailures() {
    const { total, trials } = await this.source.page({ state: "failed", sort: "number", descending: true, offset: 0, at_most: "", limit: 100 }).catch(() => ({ total: 0, trials: [] }));
    if (!total) { this.failures.replaceChildren(); return; }
    const reasons = new Map();
    for (const t of trials) reasons.set(t.error, [...(reasons.get(t.error) || []), t.number]);
    const rows = [...reasons].map(([reason, numbers]) => h("tr", {}, h("td", { className: "reason" }, reason || "no reason given"),
      h("td", { className: "small" }, `trial ${numbers.slice(0, 8).join(", ")}${numbers.length > 8 ? ", \u2026" : ""}`), h("td", { className: "number" }, String(numbers.length))));
    this.failures.replaceChildren(h("div", { className: "grid" }), card("Failures", total > trials.length ? `the last ${trials.length} of ${total}` : `${total} trials`,
      h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "reason"), h("th", {}, "where"), h("th", { className: "number" }, "trials"))), h("tbody", {}, rows)))));
  }
}

function summary(trial) {
  if (!trial.blocks) return trial.origin || "";
  const used = trial.blocks.filter((b) => b.mixer !== "none" || b.ffn !== "none");
  const counts = new Map();
  for (const b of used) if (b.mixer !== "none") counts.set(b.mixer, (counts.get(b.mixer) || 0) + 1);
  const mixers = [...counts].map(([name, n]) => `${n} ${words(name)}`).join(", ");
  return `${used.length} ${used.length === 1 ? "block" : "blocks"} of width ${used[0] ? used[0].d_model : 0}${mixers ? `: ${mixers}` : ""}`;
}
