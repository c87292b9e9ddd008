// A study as it is drawn, live or in a report: the front with its budgets, the chosen network, charts, trials, failures.

import { archLegend, drawArch } from "./arch.js";
import { agreementOption, Chart, growthOption, library, paretoLegend, paretoOption, paretoScales, parallelOption } from "./charts.js";
import { card, h, number, throttled, titled, words } from "./dom.js";
import { TrialTable } from "./trials.js";

const REDRAW_MS = 1000;
const REFRESH_MS = 2000;

/**
 * `source` has trial(number), page(query), hypervolume(), measurements() and perhaps decisions(numbers);
 * `actions(number)` gives what stands below the chosen network. `data` are columns: number, state, values by objective,
 * front, knee.
 *
 * The chosen network is the best within the budgets, the knee where there are none, and follows the front until somebody
 * picks one.
 */
export class StudyView {
  constructor(study, data, source, actions) {
    Object.assign(this, { study, data, source, actions, budgets: {}, picked: null, chosen: null, shown: null, kept: new Map(), isZoomed: false, isWhole: false });
    this.objectives = study.objectives;
    this.index = new Map(data.number.map((n, i) => [n, i]));
    const second = this.objectives[1] || this.objectives[0];
    this.axes = { x: second, y: this.objectives[0], third: this.objectives[2] || null };
    this.redraw = throttled(() => this.draw(), REDRAW_MS);
    this.refresh = throttled(() => this.reload(), REFRESH_MS);
    this.element = this.build();
  }

  build() {
    this.plot = h("div", { className: "chart tall", tabIndex: 0, role: "application", "aria-label": "Pareto chart: arrow keys walk along the front" });
    this.plot.addEventListener("keydown", (event) => this.walk(event));
    this.sliders = h("div", { className: "budgets" });
    this.network = h("div", {});
    this.networkTitle = h("h2", {}, "Chosen network");
    this.networkNote = h("div", { className: "row small" });
    this.plotNote = h("span", { className: "small" });
    this.legend = h("ul", { className: "legend" });
    this.reach = h("button", { type: "button", className: "quiet", hidden: true, onclick: () => this.changeReach() });
    const plotCard = h("section", { className: "card" },
      h("header", {}, h("h2", {}, "Trade-offs"), this.plotNote, h("div", { className: "row compact" }, this.reach, this.pickers())), this.plot, this.legend, this.sliders);
    const side = h("section", { className: "card", "aria-live": "polite" }, h("header", {}, this.networkTitle, this.networkNote), this.network);
    this.growth = h("div", { className: "chart" });
    this.parallel = h("div", { className: "chart" });
    const cards = [card("Hypervolume", "how much is dominated, over trials", this.growth), card("All objectives at once", "front over a sample of trials, better below", this.parallel)];
    if (this.objectives.some((o) => o.source === "predicted")) {
      this.agreement = h("div", { className: "chart" });
      cards.splice(1, 0, card("Predicted and measured", "networks of the front", this.agreement));
    }
    this.trials = new TrialTable(this.objectives, this.source, (trial) => this.pick(trial));
    return h("div", {}, h("div", { className: "grid study" }, plotCard, side), h("div", { className: `grid ${cards.length === 3 ? "three" : "two"}` }, cards), this.trials.element);
  }

  pickers() {
    const select = (label, key, withNone) => {
      const options = this.objectives.map((o) => h("option", { value: o.name }, words(o.name)));
      if (withNone) options.unshift(h("option", { value: "" }, "none"));
      const picker = h("select", { "aria-label": label, onchange: () => {
        this.axes[key] = this.objectives.find((o) => o.name === picker.value) || null;
        this.isZoomed = false;
        this.drawPareto();
      } }, options);
      picker.value = this.axes[key] ? this.axes[key].name : "";
      return h("label", { className: "row" }, label, picker);
    };
    return [select("across", "x"), select("up", "y"), select("colour", "third", true)];
  }

  /** After the element is in the page. The network is there before the charts, and the trade-offs before all others. */
  async start() {
    const shown = this.draw();
    try {
      await library;
    } catch (error) {
      this.plot.replaceChildren(h("p", { className: "empty slim" }, error.message));
      return;
    }
    if (!this.element.isConnected) return;
    this.paretoChart = new Chart(this.plot, (keepZoom) => paretoOption({ data: this.data, ...this.axes, chosen: this.chosen, budgets: this.budgets,
      fits: (i) => this.fits(this.data.number[i]), scales: this.scales, isWhole: this.isWhole, keepZoom }));
    this.paretoChart.chart.on("mouseover", (event) => event.value && this.show(event.value[2], true));
    this.paretoChart.chart.on("mouseout", () => this.show(this.chosen, false));
    this.paretoChart.chart.on("click", (event) => event.value && this.choose(event.value[2]));
    this.paretoChart.chart.on("datazoom", () => { this.isZoomed = true; this.drawReach(); });
    this.drawPareto();
    await shown;
    await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
    if (!this.element.isConnected) return;
    this.parallelChart = new Chart(this.parallel, () => parallelOption(this.data, this.objectives, this.chosen, (i) => this.fits(this.data.number[i])));
    this.parallelChart.draw();
    this.refresh();
  }

  /** Resolves when the chosen network is shown, where it is another one than before. */
  async draw() {
    this.front = this.data.front.filter((n) => this.index.has(n));
    this.sliders.hidden = !this.front.length;
    this.plotNote.textContent = this.front.length ? `${this.front.length} of ${this.data.number.length} trials on the front` : "";
    this.drawSliders();
    const before = this.chosen;
    this.chosen = this.picked ?? this.within();
    this.drawPareto();
    this.parallelChart?.draw();
    this.trials.mark(this.chosen);
    if (this.chosen !== before || this.shown === null) await this.show(this.chosen, false);
    else this.drawNetworkNote(this.shown !== this.chosen);
  }

  drawPareto() {
    this.scales = paretoScales(this.data, this.axes.x, this.axes.y);
    this.legend.replaceChildren(...(this.front.length ? paretoLegend(this.data, this.axes.third, Object.keys(this.budgets).length > 0) : []));
    this.drawReach();
    this.paretoChart?.draw(this.isZoomed);
  }

  /** What the axes leave out is one press away, and so is the way back. */
  drawReach() {
    const outside = this.scales ? Math.max(this.scales.x.outside, this.scales.y.outside) : 0;
    this.reach.hidden = !outside && !this.isZoomed;
    this.reach.textContent = this.isZoomed || this.isWhole ? "Usual range" : `${outside} far out: show all`;
  }

  changeReach() {
    this.isWhole = !(this.isZoomed || this.isWhole);
    this.isZoomed = false;
    this.drawPareto();
  }

  /** What is costly to compute and not needed at every event. */
  async reload() {
    const [growth, measured] = await Promise.all([this.source.hypervolume(), this.agreement ? this.source.measurements() : [], library, this.trials.refresh()]);
    this.drawOr(this.growth, growth.length > 1, () => growthOption(growth), "Grows with the first complete trials.");
    if (!this.agreement) return;
    const rows = measured.filter((m) => m.predicted !== null && m.value !== null);
    const isOver = ["finished", "failed"].includes(this.study.state);
    this.drawOr(this.agreement, rows.length, () => agreementOption(rows, rows[0].unit),
      isOver ? "No network of this front was measured." : "Networks of the front are measured when the search is done.");
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
    this.data.knee = event.knee;
    this.redraw();
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
      input.value = budget === undefined ? input.max : Math.max(0, this.stepOf(name, budget));
      input.disabled = steps.length < 2;
      this.label(name, input);
    }
  }

  stepOf(name, budget) {
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
      this.choose(null);
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

  fits(trial) {
    return this.objectives.every((o) => {
      const budget = this.budgets[o.name];
      const sign = o.direction === "maximize" ? -1 : 1;
      return budget === undefined || sign * this.value(trial, o) <= sign * budget;
    });
  }

  /** The knee where there are no budgets, else the best of the first objective among the front's members that keep them. */
  within() {
    if (!Object.keys(this.budgets).length) return this.front.length ? this.data.knee : null;
    const first = this.objectives[0];
    const sign = first.direction === "maximize" ? -1 : 1;
    const fitting = this.front.filter((n) => this.fits(n));
    return fitting.reduce((best, n) => (best === null || sign * this.value(n, first) < sign * this.value(best, first) ? n : best), null);
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

  /** Picks a trial; null lets the choice follow the front and the budgets again. */
  choose(trial) {
    this.picked = trial;
    this.chosen = trial ?? this.within();
    this.paretoChart?.draw(true);
    this.legend.replaceChildren(...paretoLegend(this.data, this.axes.third, Object.keys(this.budgets).length > 0));
    this.parallelChart?.draw();
    this.show(this.chosen, false);
    this.trials.mark(this.chosen);
  }

  async show(trial, isHovered) {
    this.shown = trial;
    if (trial === null) {
      const text = this.front.length ? "No network of the front keeps these budgets. Move a slider to the right." : "The first complete trial appears here.";
      this.networkTitle.textContent = "Chosen network";
      this.networkNote.replaceChildren();
      this.network.replaceChildren(h("p", { className: "empty slim" }, text));
      return;
    }
    const found = await this.fetch(trial).catch(() => null);
    if (this.shown !== trial || !found) return;
    this.networkTitle.textContent = isHovered ? `Trial ${trial}, under the pointer` : `Chosen network: trial ${trial}`;
    this.drawNetworkNote(isHovered);
    this.network.replaceChildren(
      h("dl", { className: "values" }, this.objectives.flatMap((o) => [h("dt", {}, titled(o)), h("dd", {}, number(found.values[o.name]))])),
      found.blocks ? drawArch(found.blocks) : "", found.blocks ? archLegend(found.blocks) : h("p", { className: "small" }, "This file has the architectures of the front alone."),
      h("div", { className: "actions" }, isHovered ? "" : this.actions(trial)));
  }

  /** Why this one: what it is on the front, and the way back from one that was picked. */
  drawNetworkNote(isHovered) {
    if (isHovered || this.chosen === null) { this.networkNote.replaceChildren(); return; }
    const isThere = this.front.includes(this.chosen);
    const hasBudgets = Object.keys(this.budgets).length > 0;
    const text = this.chosen === this.data.knee ? "knee of the front" : !isThere ? "not on the front" : this.picked === null && hasBudgets ? "best within the budgets" : "on the front";
    this.networkNote.replaceChildren(h("span", {}, text),
      ...(this.picked === null ? [] : [h("button", { type: "button", className: "quiet", onclick: () => this.choose(null) }, hasBudgets ? "Best within the budgets" : "Back to the knee")]));
  }

  fetch(trial) {
    if (!this.kept.has(trial)) {
      const asked = this.source.trial(trial);
      asked.catch(() => this.kept.delete(trial));
      this.kept.set(trial, asked);
    }
    return this.kept.get(trial);
  }

  pick(trial) {
    if (trial.state === "complete" || trial.state === "infeasible") this.choose(trial.number);
    else this.show(trial.number, true);
  }
}
