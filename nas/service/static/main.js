// Which page is shown, by the part of the address after #.

import { accountDialog, learnScope, may } from "./account.js";
import { closeCharts } from "./charts.js";
import { empty, h } from "./dom.js";
import { formPage } from "./form.js";
import { devicesPage, operatorsPage } from "./pages.js";
import { studiesPage } from "./studies.js";
import { studyPage } from "./study.js";

const main = document.getElementById("main");
let leave = null;
let shown = 0;

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function place() {
  const [page = "studies", name] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decoded);
  return { page, name };
}

async function route() {
  const mine = ++shown;
  if (leave) leave();
  leave = null;
  closeCharts();
  const { page, name } = place();
  for (const link of document.querySelectorAll(".top nav a")) {
    if (link.hash === `#/${page}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name || page} - Transformer NAS`;
  main.replaceChildren(h("p", { className: "loading" }, "Loading\u2026"));
  try {
    await learnScope();
    const left = await show(page, name);
    if (mine === shown) leave = left || null;
    else if (left) left();
  } catch (error) {
    if (mine !== shown) return;
    main.replaceChildren(empty(error.status === 404 ? "Not here" : "That did not work", error.message, h("a", { className: "button", href: "#/studies" }, "All studies")));
  }
}

function show(page, name) {
  if (page === "studies" && name) return studyPage(main, name);
  if (page === "studies") return studiesPage(main);
  if (page === "new" && !may("run")) throw new Error("Your token allows to look at studies, not to start them.");
  if (page === "new") return formPage(main);
  if (page === "operators") return operatorsPage(main);
  if (page === "devices") return devicesPage(main);
  throw Object.assign(new Error("There is no such page."), { status: 404 });
}

addEventListener("hashchange", () => { route(); main.focus({ preventScroll: true }); scrollTo(0, 0); });
document.getElementById("account").addEventListener("click", accountDialog);
route();
