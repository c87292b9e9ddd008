// What a study is doing: its state in a word, how far it has come, how long it took and will take, who works at it.

import { duration, h, number } from "./dom.js";

const SILENT_SECONDS = 30; // from here on a worker that should be heard of every few seconds is taken for gone

/** Of a study as the API gives it, or as a report holds it. */
export const stateOf = (study) => study.state;

export function connected(workers) {
  return [...new Set(workers.filter((w) => w.last_seen_seconds < SILENT_SECONDS).map((w) => w.name))];
}

export function isActive(study) {
  return ["queued", "preparing", "searching", "waiting for the database"].includes(stateOf(study));
}

export function doneOf({ complete, infeasible, pruned, failed }) {
  return complete + infeasible + pruned + failed;
}

/**
 * A bar and a line for the trials, and before them for what is being done now where that is not the trials. `live` is null
 * until the stream is open.
 */
export function progressLines(study, live) {
  const done = doneOf(study.trials);
  const states = Object.entries(study.trials).filter(([, n]) => n).map(([state, n]) => `${n} ${state}`).join(", ") || "no trials yet";
  const step = isActive(study) && study.progress?.what ? study.progress : null;
  const isOfTrials = step?.what === "searching";
  const times = step && [step.seconds != null && `${duration(Math.max(1, Math.round(step.seconds)))} so far`, step.eta_seconds != null && `about ${duration(Math.max(1, Math.round(step.eta_seconds)))} left`].filter(Boolean).join(", ");
  const took = times && h("span", { className: "times" }, times);
  return h("div", { className: "steps" },
    step && !isOfTrials && bar(step.what, step.done, step.total || 1, `${step.what}: ${number(step.done)} of ${number(step.total)}${step.text ? ` ${step.text}` : ""}`, took),
    bar("trials done", done, study.max_trials, `${done} of ${study.max_trials} trials: ${states}`,
      live !== null && isActive(study) && h("span", { className: `live${live ? "" : " off"}` }, live ? "live" : "connection lost, trying again"), isOfTrials && took));
}

function bar(name, done, total, line, ...more) {
  return h("div", {}, h("progress", { max: total, value: done, "aria-label": name }), h("p", { className: "small meta row" }, h("span", {}, line), more));
}

/** Where a study waits for somebody: what to do about it. */
export function nobodyWorks(study, workers) {
  const hint = (text, command) => h("p", { className: "hint", role: "status" }, text, h("code", {}, command));
  if (stateOf(study) === "interrupted" && !study.is_managed) return hint("Whoever drove this study is gone. Go on with it: ", `nas resume ${quoted(study.name)}`);
  if (!workers || connected(workers).length || !["queued", "interrupted"].includes(stateOf(study))) return null;
  return hint("No worker is connected, so this study waits. Start one: ", "nas worker");
}

/** A name as a shell reads it. */
export function quoted(name) {
  return /^[\w@%+=:,./-]+$/.test(name) && !name.startsWith("-") ? name : `'${name.replaceAll("'", "'\\''")}'`;
}

export function workersCard(workers) {
  const count = connected(workers).length;
  const row = (w) => h("tr", {}, h("td", {}, w.name), h("td", {}, w.host), h("td", {}, w.study || "-"), h("td", { className: "number" }, w.trial === null || w.trial === undefined ? "-" : String(w.trial)),
    h("td", { className: `number${w.last_seen_seconds < SILENT_SECONDS ? "" : " reason"}` }, `${duration(Math.max(1, Math.round(w.last_seen_seconds)))} ago`));
  const heads = [["worker"], ["host"], ["study"], ["trial", "number"], ["last seen", "number"]];
  return h("section", { className: "card" }, h("header", {}, h("h2", {}, "Workers"), h("span", { className: "small" }, count ? `${count} connected` : "none is connected")),
    workers.length
      ? h("div", { className: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, heads.map(([label, kind]) => h("th", { className: kind || "", scope: "col" }, label)))), h("tbody", {}, workers.map(row))))
      : h("p", { className: "empty slim" }, "No worker is connected. Start one on any machine that reaches the database: ", h("code", {}, "nas worker")));
}
