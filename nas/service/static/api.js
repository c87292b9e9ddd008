// Talking to the server: JSON requests with the token of this tab, and the stream of a study.

import { h } from "./dom.js";
import { anotherToken, currentToken } from "./token.js";

const ROOT = "api/v1";

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function path(...parts) {
  return parts.map(encodeURIComponent).join("/");
}

async function detailOf(response) {
  const { detail } = await response.json().catch(() => ({}));
  return detail || `the server answered ${response.status}`;
}

/** Asks for another token where that of this tab is not enough, then tries again. */
async function request(address, options = {}, more = {}) {
  const token = currentToken();
  const headers = token ? { Authorization: `Bearer ${token}`, ...more } : more;
  const response = await fetch(`${ROOT}/${address}`, { ...options, headers }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "the server does not answer");
  });
  if (response.status === 401) {
    await anotherToken(token, await detailOf(response));
    return request(address, options, more);
  }
  if (!response.ok) throw new Refused(response.status, await detailOf(response));
  return response;
}

export async function get(address) {
  return (await request(address)).json();
}

export async function send(method, address, body) {
  const response = await request(address, { method, body: JSON.stringify(body) }, { "Content-Type": "application/json" });
  return response.status === 204 ? null : response.json();
}

export async function text(address) {
  return (await request(address)).text();
}

export async function download(address, name) {
  const url = URL.createObjectURL(await (await request(address)).blob());
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/**
 * Server-sent events from `position` on. After a break it goes on where it was, so that nothing is missed; `onEnd` is
 * called with the reason where there is nothing to go on with.
 */
export function follow(address, position, onEvent, onState, onEnd) {
  const ended = new AbortController();
  let last = position;

  async function once() {
    const response = await request(address, { signal: ended.signal }, { "Last-Event-ID": last });
    onState(true);
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let kept = ""; ;) {
      const { value, done } = await reader.read();
      if (done) return;
      const messages = (kept + value).split("\n\n");
      kept = messages.pop();
      for (const message of messages) {
        const fields = Object.fromEntries(message.split("\n").map((line) => line.split(/: (.*)/s).slice(0, 2)));
        if (fields.data) onEvent(fields.event, JSON.parse(fields.data));
        if (fields.id) last = fields.id;
      }
    }
  }

  (async () => {
    while (!ended.signal.aborted) {
      try {
        await once();
      } catch (error) {
        if (ended.signal.aborted) return;
        if (error.status >= 400 && error.status < 500 && error.status !== 429) {
          onEnd(error);
          return;
        }
      }
      onState(false);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  })();
  return () => ended.abort();
}
