// What the address asks for, and its first requests, which need not wait until the charts' library has been read.

import { begin, path } from "./api.js";

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export function place() {
  const [page = "studies", name] = location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decoded);
  return { page, name };
}

const { page, name } = place();
if (page === "studies" && name) [path("studies", name), `${path("studies", name)}/results`].forEach(begin);
