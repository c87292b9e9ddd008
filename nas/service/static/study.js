// One study, live.

import { may } from "./account.js";
import { analysisCard } from "./analysis.js";
import { download, follow, get, path, send, text } from "./api.js";
import { chips, empty, h, pill, words } from "./dom.js";
import { deleteDialog, editDialog } from "./manage.js";
import { markdown } from "./markdown.js";
import { notice } from "./notices.js";
import { connected, isActive, nobodyWorks, progressLines, stateOf } from "./progress.js";
import { StudyView } from "./view.js";

const WORKERS_MS = 3000;

export async function studyPage(main, name) {
  const address = path("studies", name);
  const [study, data] = await Promise.all([get(address), get(`${address}/results`)]);
  const extractions = new Map();
  const source = {
    trial: (n) => get(`${address}/trials/${n}`),
    page: (query) => get(`${address}/trials?${parameters(query)}`),
    hypervolume: () => get(`${address}/hypervolume`),
    measurements: () => get(`${address}/measurements`),
    decisions: (numbers) => get(`${address}/decisions?${new URLSearchParams(numbers.map((n) => ["number", n]))}`),
  };
  const view = new StudyView(study, data, source, (trial) => actions(trial));
  const analysis = analysisCard(study, () => view.study.trials);
  const head = new Heading(act, tools());
  main.replaceChildren(head.element, view.element, h("div", { className: "grid" }), analysis);
  let live = null;
  let workers = null;
  let isGone = false;
  const redrawHead = () => head.draw(view.study, live, workers);
  redrawHead();
  view.start();

  const stop = follow(`${address}/events`, data.position, (event, found) => {
    const before = whatHappens(view.study);
    if (event === "trials") view.add(found);
    else { view.study = found; redrawHead(); }
    if (event === "trials" || whatHappens(found) !== before) view.refresh();
  }, (isLive) => { live = isLive; redrawHead(); }, (error) => {
    if (!isGone) main.replaceChildren(empty("Not here any more", error.message, h("a", { className: "button", href: "#/studies" }, "All studies")));
  });

  /** Only a study that waits for somebody asks who is there. */
  async function lookForWorkers() {
    if (isGone) return;
    if (["queued", "interrupted"].includes(stateOf(view.study))) {
      workers = await get("workers").catch(() => null);
      redrawHead();
    }
    setTimeout(lookForWorkers, WORKERS_MS);
  }
  lookForWorkers();

  function tools() {
    const file = (label, address, suffix) => h("button", { type: "button", onclick: () => download(address, `${name}.${suffix}`).catch((e) => notice(e.message)) }, label);
    return [file("CSV", `${address}/trials.csv`, "csv"), file("Report", `${address}/report`, "html"),
      may("run") && h("button", { type: "button", onclick: () => editDialog(view.study, (saved) => {
        if (saved.name !== name) location.hash = `#/${path("studies", saved.name)}`;
        else { view.study = saved; redrawHead(); }
      }) }, "Edit"),
      may("admin") && h("button", { type: "button", onclick: () => deleteDialog(view.study, () => { isGone = true; location.hash = "#/studies"; }) }, "Delete")];
  }

  async function act(body) {
    try {
      view.study = await send("PATCH", address, body);
      redrawHead();
    } catch (error) { notice(error.message); }
  }

  function actions(trial) {
    const known = extractions.get(trial);
    if (known && known.state === "done") {
      const at = path("artifacts", "extraction", known.key);
      return h("div", { className: "row" },
        h("button", { className: "primary", type: "button", onclick: () => download(`${at}/download`, `${name}-trial-${trial}.zip`).catch((e) => notice(e.message)) }, "Download"),
        h("button", { type: "button", onclick: async () => showCard(await text(`${at}/card`)) }, "Card"));
    }
    if (known && (known.state === "waiting" || known.state === "running")) {
      return h("p", { className: "small", role: "status" }, known.state === "waiting" ? "Waiting for another extraction\u2026" : "Cutting the network out, proving it equal, timing it\u2026");
    }
    if (!may("run")) return "";
    if (!view.study.has_weights) return h("p", { className: "small" }, "This study trained nothing, so there are no weights to take.");
    return [known && h("p", { className: "problem" }, known.error),
      h("button", { className: "primary", type: "button", onclick: () => extract(trial) }, known ? "Extract again" : "Extract this network")];
  }

  async function extract(trial) {
    try {
      await send("POST", `${address}/extractions`, { trial });
      watch();
    } catch (error) { notice(error.message); }
  }

  async function watch() {
    if (isGone) return;
    for (const found of await get(`${address}/extractions`).catch(() => [])) extractions.set(found.trial, found);
    if (view.shown === view.chosen) view.show(view.chosen, false);
    if ([...extractions.values()].some((e) => e.state === "waiting" || e.state === "running")) setTimeout(watch, 1000);
  }
  watch();

  return () => { isGone = true; stop(); };
}

function parameters(query) {
  return new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value !== false)).toString();
}

/** What the tables and charts of a study depend on. */
function whatHappens(study) {
  return JSON.stringify([study.trials, stateOf(study)]);
}

function showCard(source) {
  const dialog = h("dialog", { onclose: () => dialog.remove() }, h("form", { method: "dialog" }, h("button", { className: "quiet" }, "Close")), markdown(source));
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * The top of the page. A part is drawn anew only where what it shows has changed, so that a press on a button or a number
 * that is being typed survives what comes in meanwhile.
 */
class Heading {
  constructor(act, tools) {
    Object.assign(this, { act, tools, drawn: new Map(), title: h("div", {}), buttons: h("div", { className: "row compact" }), notes: h("div", {}), progress: h("section", { className: "grid" }) });
    this.element = h("div", {}, h("div", { className: "head" }, this.title, this.buttons), this.notes, this.progress);
  }

  draw(study, live, workers) {
    const state = stateOf(study);
    this.part("title", [study.name, state, study.tags], () => [h("div", { className: "row" }, h("h1", {}, study.name), pill(state), chips(study.tags)),
      h("p", { className: "meta" }, `${study.space}, ${study.searcher}, seed ${study.seed}: ${study.objectives.map((o) => `${o.direction} ${words(o.name)}`).join(", ")}`)]);
    this.part("buttons", [state, study.max_trials, study.priority], () => [...this.controls(study, state), ...this.tools]);
    this.part("notes", [study.problem, study.notes, state, workers && connected(workers).length], () => [study.problem && h("p", { className: "problem", role: "alert" }, study.problem),
      nobodyWorks(study, workers), study.notes && h("p", { className: "notes" }, study.notes)]);
    this.part("progress", [study.progress, study.trials, study.max_trials, state, live], () => [progressLines(study, live)]);
  }

  part(name, shown, build) {
    const key = JSON.stringify(shown);
    if (this.drawn.get(name) === key) return;
    this.drawn.set(name, key);
    this[name].replaceChildren(...build().filter(Boolean));
  }

  controls(study, state) {
    if (!may("run")) return [];
    const button = (label, body, className = "") => h("button", { type: "button", className, onclick: () => this.act(body) }, label);
    const more = Math.max(20, Math.round(study.max_trials / 2));
    const priority = h("input", { type: "number", value: study.priority, min: -1000, max: 1000, step: 1, onchange: () => this.act({ priority: Number(priority.value) || 0 }) });
    const isOthers = study.quality === "user"; // judged by a function that no worker has
    return [
      isActive(study) && study.is_managed && h("label", { className: "row" }, "priority", priority),
      isActive(study) && button("Pause", { action: "pause" }),
      isActive(study) && button("Stop", { action: "stop" }),
      ["paused", "stopped", "interrupted"].includes(state) && !isOthers && button("Continue", { action: "run" }, "primary"),
      state === "failed" && !isOthers && button("Try again", { action: "run" }, "primary"),
      state === "finished" && !isOthers && button(`${more} more trials`, { action: "run", more_trials: more }),
    ];
  }
}
