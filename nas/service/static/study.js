// One study, live.

import { download, follow, get, path, send, text } from "./api.js";
import { debounced, h, number, pill, words } from "./dom.js";
import { markdown } from "./markdown.js";
import { notice } from "./notices.js";
import { StudyView } from "./view.js";

const SETTLE_MS = 1500;

export async function studyPage(main, name) {
  const address = path("studies", name);
  const [study, data] = await Promise.all([get(address), get(`${address}/results`)]);
  const extractions = new Map();
  const head = h("div", {});
  const source = {
    trial: (n) => get(`${address}/trials/${n}`),
    page: (query) => get(`${address}/trials?${parameters(query)}`),
    hypervolume: () => get(`${address}/hypervolume`),
    measurements: () => get(`${address}/measurements`),
  };
  const view = new StudyView(study, data, source, (trial) => actions(trial));
  main.replaceChildren(head, view.element);
  let live = null;
  const redrawHead = () => head.replaceChildren(...heading(view.study, live, act));
  redrawHead();
  view.start();

  const refresh = debounced(() => view.refresh(), SETTLE_MS);
  const stop = follow(`${address}/events`, data.position, (event, found) => {
    if (event === "trials") view.add(found);
    else { view.study = found; redrawHead(); }
    refresh();
  }, (isLive) => { live = isLive; redrawHead(); });

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
    if (!view.study.has_supernet) return h("p", { className: "small" }, "This study has no supernet, so there are no weights to take.");
    return [known && h("p", { className: "problem" }, known.error),
      h("button", { className: "primary", type: "button", onclick: () => extract(trial) }, known ? "Extract again" : "Extract this network")];
  }

  async function extract(trial) {
    try {
      await send("POST", `${address}/extractions`, { trial });
      watch();
    } catch (error) { notice(error.message); }
  }

  let isGone = false;
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

function showCard(source) {
  const dialog = h("dialog", { onclose: () => dialog.remove() }, h("form", { method: "dialog" }, h("button", { className: "quiet" }, "Close")), markdown(source));
  document.body.append(dialog);
  dialog.showModal();
}

function heading(study, live, act) {
  const button = (label, body, className = "") => h("button", { type: "button", className, onclick: () => act(body) }, label);
  const counts = study.trials;
  const done = counts.complete + counts.infeasible + counts.pruned + counts.failed;
  const isActive = ["queued", "preparing", "searching"].includes(study.status);
  const more = Math.max(20, Math.round(study.max_trials / 2));
  const buttons = [
    isActive && button("Pause", { action: "pause" }),
    isActive && button("Stop", { action: "stop" }),
    (study.status === "paused" || study.status === "stopped") && button("Continue", { action: "run" }, "primary"),
    study.status === "failed" && button("Try again", { action: "run" }, "primary"),
    study.status === "finished" && study.quality !== "user" && button(`${more} more trials`, { action: "run", more_trials: more }),
  ];
  const priority = h("input", { type: "number", value: study.priority, min: -1000, max: 1000, step: 1, onchange: () => act({ priority: Number(priority.value) || 0 }) });
  const states = Object.entries(counts).filter(([, n]) => n).map(([state, n]) => `${n} ${state}`).join(", ") || "no trials yet";
  const step = study.progress;
  return [
    h("div", { className: "head" },
      h("div", {}, h("div", { className: "row" }, h("h1", {}, study.name), pill(study.status)),
        h("p", { className: "meta" }, `${study.space}, ${study.searcher}, seed ${study.seed}: ${study.objectives.map((o) => `${o.direction} ${words(o.name)}`).join(", ")}`)),
      h("div", { className: "row compact" }, isActive && h("label", { className: "row" }, "priority", priority), buttons)),
    study.problem && h("p", { className: "problem", role: "alert" }, study.problem),
    h("section", { className: "grid" }, h("div", {},
      step.name && isActive
        ? [h("progress", { max: step.total || 1, value: step.done, "aria-label": step.name }), h("p", { className: "small meta" }, `${step.name}: ${number(step.done)} of ${number(step.total)} ${step.text}`)]
        : [h("progress", { max: study.max_trials, value: done, "aria-label": "trials done" }), h("p", { className: "small meta row" }, h("span", {}, `${done} of ${study.max_trials} trials: ${states}`),
          live !== null && isActive && h("span", { className: `live${live ? "" : " off"}` }, live ? "live" : "connection lost, trying again"))])),
  ].filter(Boolean);
}
