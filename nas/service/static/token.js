// The token of this tab: from the address that `nas serve` printed, from another tab of the page, or typed in.

import { h } from "./dom.js";

const KEPT = "token";
const TABS_MS = 200;
const tabs = new BroadcastChannel("token");
let asking = null;

tabs.onmessage = ({ data }) => {
  if (data.isWanted && currentToken()) tabs.postMessage({ token: currentToken() });
};
takeFromAddress();

export function currentToken() {
  return sessionStorage.getItem(KEPT) || "";
}

/** In place of the one that this tab has; an empty one forgets it. */
export function keepToken(token) {
  sessionStorage.setItem(KEPT, token);
}

/** Once `refused` was not enough: another one, which is kept. Asked once, however many requests wait for it. */
export async function anotherToken(refused, reason) {
  if (currentToken() !== refused) return;
  asking ||= (async () => {
    try {
      sessionStorage.setItem(KEPT, (await ofAnotherTab(refused)) || (await typed(reason)));
    } finally {
      asking = null;
    }
  })();
  await asking;
}

/** The address bar shows it no longer, nor does the history. */
function takeFromAddress() {
  const address = new URL(location.href);
  const given = address.searchParams.get("token");
  if (given === null) return;
  sessionStorage.setItem(KEPT, given);
  address.searchParams.delete("token");
  history.replaceState(null, "", address);
}

function ofAnotherTab(refused) {
  return new Promise((resolve) => {
    const answers = new BroadcastChannel("token");
    const timer = setTimeout(() => end(""), TABS_MS);
    function end(token) {
      clearTimeout(timer);
      answers.close();
      resolve(token);
    }
    answers.onmessage = ({ data }) => { if (data.token && data.token !== refused) end(data.token); };
    answers.postMessage({ isWanted: true });
  });
}

function typed(reason) {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", required: true, autocomplete: "off", name: "token" });
    const form = h("form", { method: "dialog" }, h("h1", {}, "A token is needed"), h("p", { className: "small" }, reason),
      h("label", { className: "field" }, "Token", input), h("button", { className: "primary" }, "Go on"));
    const dialog = h("dialog", {}, form);
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => { dialog.remove(); resolve(input.value.trim()); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
