// Short messages in the corner, gone after a while.

import { h } from "./dom.js";

export function notice(message) {
  const shown = h("div", { className: "notice" }, message);
  document.getElementById("notices").append(shown);
  setTimeout(() => shown.remove(), 7000);
}
