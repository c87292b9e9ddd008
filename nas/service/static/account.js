// What the token of this tab allows, and another token in its place.

import { get } from "./api.js";
import { h } from "./dom.js";
import { keepToken } from "./token.js";

const SCOPES = ["read", "run", "admin"];
let granted = "";

/** Asks the server what this tab may do; called before each page is drawn. */
export async function learnScope() {
  granted = (await get("about")).scope;
  for (const element of document.querySelectorAll("[data-needs]")) element.hidden = !may(element.dataset.needs);
  document.getElementById("account").textContent = `Access: ${granted}`;
}

/** Whether buttons that need this scope are shown. */
export function may(scope) {
  return SCOPES.indexOf(granted) >= SCOPES.indexOf(scope);
}

export function accountDialog() {
  const input = h("input", { type: "password", autocomplete: "off", name: "token", required: true });
  const change = (token) => { keepToken(token); location.reload(); };
  const form = h("form", { onsubmit: (event) => { event.preventDefault(); change(input.value.trim()); } }, h("h1", {}, "Access"),
    h("p", { className: "small" }, `This tab may ${{ read: "look at studies", run: "look at studies, start and change them", admin: "do everything, deleting studies included" }[granted] || "do nothing yet"}. Another token may allow more, or less.`),
    h("label", { className: "field" }, "Another token", input),
    h("div", { className: "row" }, h("button", { className: "primary" }, "Use this token"), h("button", { type: "button", onclick: () => change("") }, "Forget the token"), h("button", { type: "button", className: "quiet", onclick: () => dialog.close() }, "Cancel")));
  const dialog = h("dialog", { onclose: () => dialog.remove() }, form);
  document.body.append(dialog);
  dialog.showModal();
}
