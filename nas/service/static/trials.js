// The table of a study's trials, with filters, pages and a column for each decision that is wanted, and its failures.

import { card, debounced, duration, h, number, pill, titled, words } from "./dom.js";

const PAGE = 25;

/**
 * `source` has page(query) and, where decisions can be looked up, decisions(numbers); `onPick(trial)` is called with the
 * trial of the row that was picked.
 */
export class TrialTable {
  constructor(objectives, source, onPick) {
    Object.assign(this, { objectives, source, onPick, chosen: null, decisions: [], wanted: new Set() });
    this.query = { state: "", sort: "number", descending: false, offset: 0, at_most: "", at_least: "" };
    this.table = h("div", { className: "scroll" });
    this.pager = h("div", { className: "row" });
    this.failures = h("div", {});
    this.element = h("div", {}, h("section", { className: "card" }, h("header", {}, h("h2", {}, "Trials"), this.filters()), this.table, this.pager), this.failures);
  }

  filters() {
    const change = (more) => { Object.assign(this.query, { offset: 0 }, more); this.load(); };
    const state = h("select", { onchange: () => change({ state: state.value }) },
      ["", "complete", "infeasible", "failed", "running", "waiting"].map((v) => h("option", { value: v }, v || "all states")));
    const objective = h("select", { "aria-label": "objective of the filter", onchange: () => limited() }, this.objectives.map((o) => h("option", { value: o.name }, words(o.name))));
    const side = h("select", { "aria-label": "side of the filter", onchange: () => limited() }, h("option", { value: "at_most" }, "at most"), h("option", { value: "at_least" }, "at least"));
    const limit = h("input", { type: "number", step: "any", size: 8, "aria-label": "limit", placeholder: "any", oninput: debounced(() => limited(), 250) });
    const limited = () => change({ at_most: "", at_least: "", [side.value]: limit.value === "" ? "" : `${objective.value}:${limit.value}` });
    this.sortBy = (name) => change({ descending: this.query.sort === name && !this.query.descending, sort: name });
    return h("div", { className: "row compact" }, h("label", { className: "row" }, "show", state), h("span", { className: "row" }, objective, side, limit), this.source.decisions && this.picker());
  }

  /** Which decisions have a column: found by words, since a space has dozens. */
  picker() {
    const list = h("div", { className: "menu-list" });
    const search = h("input", { type: "search", placeholder: "find a decision", "aria-label": "Find a decision", oninput: () => draw() });
    const draw = () => {
      const given = search.value.trim().toLowerCase().split(/\s+/);
      const found = this.decisions.filter((name) => given.every((word) => words(name).toLowerCase().includes(word)));
      list.replaceChildren(...found.map((name) => h("label", { className: "row" }, h("input", { type: "checkbox", checked: this.wanted.has(name), onchange: (event) => {
        if (event.target.checked) this.wanted.add(name);
        else this.wanted.delete(name);
        this.load();
      } }), words(name))), ...(found.length ? [] : [h("p", { className: "small" }, "No decision matches.")]));
    };
    return h("details", { className: "menu", ontoggle: async (event) => {
      if (!event.target.open || this.decisions.length) return;
      this.decisions = (await this.source.decisions([])).names;
      draw();
    } }, h("summary", { className: "button" }, "Columns"), h("div", { className: "menu-body" }, search, list));
  }

  mark(trial) {
    this.chosen = trial;
    for (const row of this.table.querySelectorAll("tr.pick")) row.classList.toggle("chosen", Number(row.dataset.number) === trial);
  }

  async refresh() {
    await Promise.all([this.load(), this.loadFailures()]);
  }

  async load() {
    const asked = JSON.stringify([this.query, [...this.wanted]]);
    const { total, trials } = await this.source.page({ ...this.query, limit: PAGE }).catch(() => ({ total: 0, trials: [] }));
    const columns = this.decisions.filter((name) => this.wanted.has(name));
    const decided = columns.length && trials.length ? await this.source.decisions(trials.map((t) => t.number)).catch(() => null) : null;
    if (asked !== JSON.stringify([this.query, [...this.wanted]])) return;
    if (!trials.length) {
      const isFiltered = this.query.state || this.query.at_most || this.query.at_least;
      this.table.replaceChildren(h("p", { className: "empty slim" }, total || isFiltered ? "No trial passes these filters." : "No trials yet."));
      this.pager.replaceChildren();
      return;
    }
    const focused = document.activeElement?.closest?.("tr.pick")?.dataset.number;
    this.table.replaceChildren(h("table", {}, h("thead", {}, this.heading(columns)), h("tbody", {}, trials.map((t) => this.row(t, columns, decided)))));
    if (focused !== undefined) this.table.querySelector(`tr[data-number="${focused}"]`)?.focus({ preventScroll: true });
    this.drawPager(total, trials.length);
  }

  heading(columns) {
    const { sort, descending } = this.query;
    const sortable = (name, label, isNumber) => h("th", { scope: "col", className: isNumber ? "number" : "", "aria-sort": sort === name ? (descending ? "descending" : "ascending") : null },
      h("button", { type: "button", onclick: () => this.sortBy(name) }, label, sort === name ? (descending ? " \u2193" : " \u2191") : ""));
    const fixed = (label) => h("th", { scope: "col" }, label);
    return h("tr", {}, sortable("number", "trial"), fixed("state"), this.objectives.map((o) => sortable(o.name, titled(o), true)), sortable("seconds", "took", true),
      columns.map((name) => fixed(words(name))), fixed("what it is"));
  }

  row(t, columns, decided) {
    const values = decided?.rows[t.number];
    const cell = (name) => {
      const value = values?.[decided.names.indexOf(name)] ?? null;
      return h("td", { className: typeof value === "number" ? "number" : "" }, value === null ? "-" : typeof value === "number" ? number(value) : words(String(value)));
    };
    return h("tr", { className: `pick${t.number === this.chosen ? " chosen" : ""}`, tabIndex: 0, "data-number": t.number,
      onclick: () => this.onPick(t), onkeydown: (event) => { if (event.key === "Enter") this.onPick(t); } },
    h("td", {}, String(t.number)), h("td", {}, pill(t.state)), this.objectives.map((o) => h("td", { className: "number" }, number(t.values[o.name]))),
    h("td", { className: "number" }, duration(t.seconds)), columns.map(cell), h("td", { className: t.error ? "reason" : "small" }, t.error || outline(t)));
  }

  drawPager(total, count) {
    const { offset } = this.query;
    const move = (by) => { this.query.offset = Math.max(0, offset + by); this.load(); };
    this.pager.replaceChildren(h("button", { type: "button", disabled: offset === 0, onclick: () => move(-PAGE) }, "Earlier"),
      h("span", { className: "small" }, `${offset + 1} to ${offset + count} of ${total}`),
      h("button", { type: "button", disabled: offset + PAGE >= total, onclick: () => move(PAGE) }, "Later"));
  }

  async loadFailures() {
    const query = { state: "failed", sort: "number", descending: true, offset: 0, at_most: "", at_least: "", limit: 100 };
    const { total, trials } = await this.source.page(query).catch(() => ({ total: 0, trials: [] }));
    if (!total) { this.failures.replaceChildren(); return; }
    const reasons = new Map();
    for (const t of trials) reasons.set(t.error, [...(reasons.get(t.error) || []), t.number]);
    const rows = [...reasons].map(([reason, numbers]) => h("tr", {}, h("td", { className: "reason" }, reason || "no reason given"),
      h("td", { className: "small" }, `trial ${numbers.slice(0, 8).join(", ")}${numbers.length > 8 ? ", \u2026" : ""}`), h("td", { className: "number" }, String(numbers.length))));
    this.failures.replaceChildren(h("div", { className: "grid" }), card("Failures", total > trials.length ? `the last ${trials.length} of ${total}` : `${total} trials`,
      h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "reason"), h("th", {}, "where"), h("th", { className: "number" }, "trials"))), h("tbody", {}, rows)))));
  }
}

function outline(trial) {
  if (!trial.blocks) return trial.origin || "";
  const used = trial.blocks.filter((b) => b.mixer !== "none" || b.ffn !== "none");
  const counts = new Map();
  for (const b of used) if (b.mixer !== "none") counts.set(b.mixer, (counts.get(b.mixer) || 0) + 1);
  const mixers = [...counts].map(([name, n]) => `${n} ${words(name)}`).join(", ");
  return `${used.length} ${used.length === 1 ? "block" : "blocks"} of width ${used[0] ? used[0].d_model : 0}${mixers ? `: ${mixers}` : ""}`;
}
