// The form of a new study, built from the space that is picked and from the options that the server describes.

import { get, path, send } from "./api.js";
import { h, number, words } from "./dom.js";

const KINDS = { d_model: "Width", depth: "Depth", mixer: "Token mixers", ffn: "Channel mixers", norm: "Norms", placement: "Norm placement" };
const OWN = ["name", "space", "objectives", "bounds", "keep", "searcher"]; // options with a place of their own in the form
const FIRST = ["quality", "trials", "minutes", "training_steps"]; // the others are behind "More options"

export async function formPage(main) {
  main.replaceChildren(h("p", { className: "loading" }, "Reading the spaces\u2026"));
  const [spaces, objectives, { components }] = await Promise.all([get("spaces"), get("objectives"), get("openapi.json")]);
  const options = Object.entries(components.schemas.NewStudy.properties).filter(([key]) => !OWN.includes(key))
    .map(([key, { description, anyOf }]) => ({ key, description, kind: anyOf.find((kind) => kind.type !== "null") }));
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
    const usual = { ...found.recipe, training_steps: found.recipe.alone.steps };
    const some = (isFirst) => options.filter(({ key }) => FIRST.includes(key) === isFirst).map((option) => field(option, usual[option.key]));
    return h("section", { className: "card" }, h("header", {}, h("h2", {}, "How to search")),
      h("div", { className: "fields" }, labelled("searcher", h("select", { name: "searcher" })), some(true)),
      h("details", {}, h("summary", {}, "More options"), h("div", { className: "fields" }, some(false))));
  }

  /** What an option is given in; `usual` is what stands where nothing is. */
  function field({ key, description, kind }, usual) {
    if (kind.type === "boolean") return check(key, "true", false, words(key), description);
    const shared = { name: key, title: description, placeholder: [usual].flat().join(", ") };
    if (kind.enum) return labelled(key, h("select", shared, h("option", { value: "" }, shared.placeholder || "default"), kind.enum.map((v) => h("option", { value: v }, v))));
    if (kind.type === "string" || kind.type === "array") return labelled(key, h("input", shared));
    return labelled(key, h("input", { ...shared, type: "number", min: kind.minimum ?? kind.exclusiveMinimum, max: kind.maximum, step: kind.type === "integer" ? 1 : "any" }));
  }

  function labelled(key, input) {
    return h("label", { className: "field" }, key[0].toUpperCase() + words(key).slice(1), input);
  }

  /** What was given of an option; undefined where it was left as it is. */
  function value({ key, kind }) {
    const input = form.elements[key];
    if (kind.type === "boolean") return input.checked || undefined;
    const text = input.value.trim();
    if (text === "") return undefined;
    if (kind.type === "array") return text.split(",").map((word) => word.trim()).filter(Boolean);
    return kind.type === "string" ? text : Number(text);
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
    const others = Object.fromEntries(options.map((option) => [option.key, value(option)]));
    return { ...others, name: given.get("name"), space: given.get("space"), objectives: given.getAll("objectives"), bounds, keep, searcher: given.get("searcher") || undefined };
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
