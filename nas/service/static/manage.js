// Changing what people wrote about a study: its name, tags and notes; and deleting it.

import { path, send } from "./api.js";
import { h } from "./dom.js";
import { notice } from "./notices.js";

function modal(...children) {
  const dialog = h("dialog", { className: "modal", onclose: () => dialog.remove() }, ...children);
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** `onSaved(study)` is called with the study as it then is, under its new name where it has one. */
export function editDialog(study, onSaved) {
  const name = h("input", { name: "name", value: study.name, required: true, maxLength: 80, autocomplete: "off" });
  const tags = h("input", { name: "tags", value: study.tags.join(", "), autocomplete: "off", placeholder: "baseline, gpu" });
  const notes = h("textarea", { name: "notes", rows: 7, maxLength: 20000 }, study.notes);
  const problem = h("p", { className: "problem", role: "alert", hidden: true });
  const save = async () => {
    try {
      const wanted = { notes: notes.value, tags: tags.value.split(",").map((t) => t.trim()).filter(Boolean) };
      let saved = await send("PUT", path("studies", study.name, "notes"), wanted);
      if (name.value.trim() !== study.name) saved = await send("PUT", path("studies", study.name, "name"), { name: name.value.trim() });
      dialog.close();
      onSaved(saved);
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
  };
  const dialog = modal(h("form", { onsubmit: (event) => { event.preventDefault(); save(); } }, h("h1", {}, "Name, tags, notes"), problem,
    h("label", { className: "field" }, "Name", name), h("label", { className: "field" }, "Tags, separated by commas", tags), h("label", { className: "field" }, "Notes", notes),
    h("div", { className: "row" }, h("button", { className: "primary" }, "Save"), h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"))));
}

export function deleteDialog(study, onDeleted) {
  const remove = async () => {
    try {
      await send("DELETE", path("studies", study.name));
      dialog.close();
      onDeleted();
    } catch (error) {
      dialog.close();
      notice(error.message);
    }
  };
  const dialog = modal(h("form", { onsubmit: (event) => { event.preventDefault(); remove(); } }, h("h1", {}, `Delete ${study.name}?`),
    h("p", {}, "Its trials are deleted with it, and nothing brings them back. Measurements and extracted networks stay."),
    h("div", { className: "row" }, h("button", { className: "danger" }, "Delete for good"), h("button", { type: "button", autofocus: true, onclick: () => dialog.close() }, "Keep it"))));
}
