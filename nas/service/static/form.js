// The form of a new study, built from the space that is picked.

import { get, path, send } from "./api.js";
import { h, number, words } from "./dom.js";

const KINDS = { d_model: "Width", depth: "Depth", mixer: "Token mixers", ffn: "Channel mixers", norm: "Norms", placement: "Norm placement" };

export async function formPage(main) {
  main.replaceChildren(h("p", { className: "loading" }, "Reading the spaces\u2026"));
  const [spaces, objectives] = await Promise.all([get("spaces"), get("objectives")]);
  const space = h("select", { name: "space", onchange: () => pick(space.value) }, spaces.map((s) => h("option", { value: s.name }, s.name)));
  const about = h("p", { className: "small" });
  const rest = h("div", { className: "form" });
  const problem = h("p", { className: "problem", role: "alert", hidden: true });
  const name = h("input", { name: "name", required: true, maxLength: 80, placeholder: "first-search", autocomplete: "off" });
  const form = h("form", { className: "form", onsubmit: (event) => { event.preventDefault(); submit(); } },
    h("section", { className: "card" }, h("div", { className: "fields" }, h("label", { className: "field" }, "Name", name), h("label", { className: "field" }, "Space", space), h("div", { className: "wide" }, about))),
    rest, problem, h("div", { className: "row" }, h("button", { className: "primary" }, "Queue study"), h("span", { className: "small" }, "A worker takes it from the queue.")));
  main.replaceChildren(h("div", { className: "head" }, h("div", {}, h("h1", {}, "New study"), h("p", { className: "meta" }, "What is left as it is comes from the recipe of the space."))), form);

  let found;
  async function pick(wanted) {
    found = await get(`spaces/${path(wanted)}`);
    about.textContent = `${found.description}. ${number(found.architectures)} architectures.`;
    rest.replaceChildren(goals(), budget(), choices());
    await offerSearchers(found.recipe.searcher);
  }

  let offers = 0;

  /** Those that can work for the space and so many objectives; the one that was picked stays where it can. */
  async function offerSearchers(picked) {
    const mine = ++offers;
    const count = form.querySelectorAll("[name='objectives']:checked").length;
    const searchers = await get(`spaces/${path(space.value)}/searchers?objectives=${Math.max(1, Math.min(8, count))}`);
    if (mine !== offers) return; // an earlier answer may come later
    const offered = searchers.filter((s) => s.why_not === null);
    form.elements.searcher.replaceChildren(...offered.map((s) => h("option", { value: s.name, title: s.about, selected: s.name === picked }, s.name)));
  }

  function goals() {
    const usual = found.recipe.objectives;
    const main = objectives.filter((o) => o.source !== "proxy");
    return h("section", { className: "card" }, h("header", {}, h("h2", {}, "Objectives"), h("span", { className: "small" }, "the first one that is ticked is what budgets buy")),
      h("div", { className: "checks" }, main.map((o) => check("objectives", o.name, usual.includes(o.name), `${o.direction} ${words(o.name)}`, o.about))),
      h("details", {}, h("summary", {}, "Training-free scores"), h("div", { className: "checks" }, objectives.filter((o) => o.source === "proxy").map((o) => check("objectives", o.name, false, words(o.name), o.about)))),
      h("details", {}, h("summary", {}, "Bounds"), h("div", { className: "fields" }, main.map((o) => h("label", { className: "field" }, `${words(o.name)} ${o.direction === "maximize" ? "at least" : "at most"}${o.unit ? `, ${o.unit}` : ""}`,
        h("input", { type: "number", step: "any", name: `bound:${o.name}`, "data-side": o.direction === "maximize" ? 0 : 1 }))))));
  }

  function budget() {
    const recipe = found.recipe;
    const picker = (title, key, options, usual) => h("label", { className: "field" }, title, h("select", { name: key }, options.map(([value, label]) => h("option", { value, selected: value === usual }, label))));
    const whole = (title, key, usual, min) => h("label", { className: "field" }, title, h("input", { type: "number", name: key, value: usual ?? "", min, step: 1 }));
    return h("section", { className: "card" }, h("header", {}, h("h2", {}, "How to search")), h("div", { className: "fields" },
      picker("Searcher", "searcher", [], recipe.searcher),
      picker("Quality", "quality", [["auto", "chosen for you"], ["supernet", "inherited from a supernet"], ["train", "each network trained alone"], ["proxy", "training-free scores"]], recipe.quality),
      whole("Trials", "trials", recipe.trials, 1), whole("Training steps", "training_steps", recipe.alone.steps, 1),
      whole("Seed", "seed", recipe.seed, 0), whole("Priority", "priority", 0, -1000)));
  }

  function choices() {
    const sections = Object.entries(found.keep).filter(([, values]) => values.length > 1).map(([kind, values]) =>
      h("fieldset", { className: "wide" }, h("legend", {}, KINDS[kind] || words(kind)), h("div", { className: "checks" }, values.map((v) => check(`keep:${kind}`, String(v), true, words(String(v)))))));
    return h("section", { className: "card" }, h("header", {}, h("h2", {}, "The space"), h("span", { className: "small" }, "untick what is not to be searched")), h("div", { className: "fields" }, sections));
  }

  function check(name, value, checked, label, title = "") {
    return h("label", { className: "check", title }, h("input", { type: "checkbox", name, value, checked }), label);
  }

  function body() {
    const given = new FormData(form);
    const text = (key) => given.get(key) || undefined;
    const whole = (key) => (given.get(key) === "" ? undefined : Number(given.get(key)));
    const keep = {};
    for (const [kind, values] of Object.entries(found.keep)) {
      if (values.length < 2) continue;
      const kept = given.getAll(`keep:${kind}`);
      if (kept.length < values.length) keep[kind] = values.filter((v) => kept.includes(String(v)));
    }
    const bounds = {};
    for (const input of form.querySelectorAll("[name^='bound:']")) {
      if (input.value !== "") bounds[input.name.slice(6)] = input.dataset.side === "0" ? [Number(input.value), null] : [null, Number(input.value)];
    }
    return { name: given.get("name"), space: given.get("space"), objectives: given.getAll("objectives"), bounds, keep, searcher: text("searcher"), quality: text("quality"),
      trials: whole("trials"), training_steps: whole("training_steps"), seed: whole("seed"), priority: whole("priority") };
  }

  rest.addEventListener("change", (event) => { if (event.target.name === "objectives") offerSearchers(form.elements.searcher.value); });

  async function submit() {
    problem.hidden = true;
    try {
      const made = await send("POST", "studies", body());
      location.hash = `#/${path("studies", made.name)}`;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      problem.scrollIntoView({ block: "nearest" });
    }
  }

  space.value = spaces.some((s) => s.name === "tiny-lm") ? "tiny-lm" : spaces[0].name;
  await pick(space.value);
  name.focus();
}
