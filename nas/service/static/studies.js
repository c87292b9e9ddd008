// The list of studies, found by words and sorted, and the workers that take them.

import { may } from "./account.js";
import { get, path } from "./api.js";
import { chips, empty, h, pill } from "./dom.js";
import { doneOf, stateOf, workersCard } from "./progress.js";

const LIST_MS = 3000;
const ORDERS = {
  newest: (a, b) => b.created_at.localeCompare(a.created_at),
  oldest: (a, b) => a.created_at.localeCompare(b.created_at),
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }),
  state: (a, b) => stateOf(a).localeCompare(stateOf(b)) || ORDERS.newest(a, b),
  "most trials": (a, b) => doneOf(b.trials) - doneOf(a.trials) || ORDERS.newest(a, b),
  priority: (a, b) => b.priority - a.priority || ORDERS.newest(a, b),
};

export async function studiesPage(main) {
  let studies = [];
  const list = h("div", { className: "grid cards" });
  const workers = h("div", {});
  const search = h("input", { type: "search", placeholder: "name, space, searcher, state, tag", "aria-label": "Search studies", oninput: () => show() });
  const order = h("select", { "aria-label": "Order", onchange: () => show() }, Object.keys(ORDERS).map((name) => h("option", { value: name }, name)));
  const tools = h("div", { className: "row" }, search, h("label", { className: "row" }, "order", order));
  const counted = h("p", { className: "meta" }, "Each one searches a space for the networks that no other beats.");
  main.replaceChildren(h("div", { className: "head" }, h("div", {}, h("h1", {}, "Studies"), counted), tools), list, workers);
  function show() {
    const given = search.value.trim().toLowerCase().split(/\s+/);
    const found = studies.filter((s) => given.every((word) => [s.name, s.space, s.searcher, stateOf(s), ...s.tags].join(" ").toLowerCase().includes(word)));
    const focused = document.activeElement?.closest?.("a.card")?.getAttribute("href");
    const action = may("run") ? h("a", { className: "button primary", href: "#/new" }, "New study") : null;
    const nothing = studies.length ? empty("No study matches", "Try a shorter word.") : empty("No studies yet", "Start one here, or with nas search on the command line.", action);
    tools.hidden = studies.length < 2;
    list.replaceChildren(...(found.length ? found.sort(ORDERS[order.value]).map(studyCard) : [nothing]));
    list.className = found.length ? "grid cards" : "";
    if (focused) [...list.children].find((card) => card.getAttribute("href") === focused)?.focus({ preventScroll: true });
  }
  let timer;
  async function load() {
    const [found, known] = await Promise.all([get("studies"), get("workers")]);
    studies = found;
    show();
    workers.replaceChildren(...(known.length || studies.some((s) => stateOf(s) === "queued") ? [workersCard(known)] : []));
  }
  await load();
  const again = () => { timer = setTimeout(() => load().catch(() => null).then(again), LIST_MS); };
  again();
  return () => clearTimeout(timer);
}

function studyCard(study) {
  const done = doneOf(study.trials);
  return h("a", { className: "card", href: `#/${path("studies", study.name)}` },
    h("div", { className: "row" }, h("h2", {}, study.name), pill(stateOf(study))),
    h("p", { className: "small" }, `${study.space}, ${study.searcher}${study.priority ? `, priority ${study.priority}` : ""}`),
    study.tags.length > 0 && chips(study.tags),
    h("progress", { max: study.max_trials, value: done, "aria-label": "trials done" }),
    h("p", { className: "small" }, `${done} of ${study.max_trials} trials${study.trials.failed ? `, ${study.trials.failed} failed` : ""}, begun ${study.created_at.slice(0, 10)}`));
}
