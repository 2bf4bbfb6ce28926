// Requests to the REST interface: the token, errors as the service words them, and streams of events.

import {ask, h} from "./dom.js";

const BASE = new URL("v1/", document.baseURI);
const KEY = "affinity-token";
// The service sends a comment every 15 seconds: a stream silent for three times as long is dead.
const SILENCE = 45_000;

export class ApiError extends Error {
  constructor(status, {code = "", message = "", hint = null, field = null} = {}) {
    super(message || `the service answered ${status}`);
    Object.assign(this, {status, code, hint, field});
  }
}

export const hasToken = () => sessionStorage.getItem(KEY) !== null;
export const forgetToken = () => sessionStorage.removeItem(KEY);

/** The address of something below /v1, each part escaped: address("studies", name, "report"). */
export function address(...parts) {
  return new URL(parts.map((part) => String(part).split("/").map(encodeURIComponent).join("/")).join("/"), BASE);
}

/**
 * A response whose status is good.
 *
 * Where a token is needed the reader is asked, once for all requests that wait; not by those the page makes on its own
 * (`quiet`), or the question would come back every few seconds.
 */
export async function request(url, {method = "GET", json, signal, accept = "application/json", quiet = false} = {}) {
  for (;;) {
    const token = sessionStorage.getItem(KEY);
    const headers = {Accept: accept};
    if (token !== null) headers.Authorization = `Bearer ${token}`;
    if (json !== undefined) headers["Content-Type"] = "application/json";
    let response;
    try {
      response = await fetch(url, {
        method,
        headers,
        signal,
        body: json === undefined ? undefined : JSON.stringify(json),
      });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ApiError(0, {
        code: "unreachable",
        message: "The service cannot be reached.",
        hint: "Is it still running? The page tries again on its own where it can.",
      });
    }
    if (response.ok) return response;
    // Another request may have brought a token while this one was on its way.
    if (
      response.status === 401 &&
      !quiet &&
      (sessionStorage.getItem(KEY) !== token || (await askForToken(token !== null)))
    )
      continue;
    throw new ApiError(
      response.status,
      await response.json().then(
        (body) => body.error,
        () => ({}),
      ),
    );
  }
}

export const getJson = (url, options) => request(url, options).then((response) => response.json());
export const postJson = (url, json, options) => getJson(url, {...options, method: "POST", json});

let asking = null;
/** Resolves to whether there is a token to try. */
function askForToken(wrong) {
  asking ??= (async () => {
    const input = h("input", {
      id: "token",
      name: "token",
      type: "password",
      required: true,
      autocomplete: "off",
      spellcheck: "false",
      autofocus: true,
    });
    const words = wrong
      ? "The service does not know this token. Enter another one."
      : "This service answers only those who have a token.";
    const answer = await ask(
      "Token needed",
      [
        h("p", {}, words),
        h("label", {for: "token"}, "Token"),
        input,
        h("p", {class: "note"}, "It is kept until this tab is closed."),
      ],
      "Use this token",
      "Not now",
    );
    const token = answer?.get("token")?.trim();
    if (token) sessionStorage.setItem(KEY, token);
    return Boolean(token);
  })().finally(() => {
    asking = null;
  });
  return asking;
}

/**
 * Follow a stream of server-sent events until its `end` event; connects again when it breaks.
 *
 * By fetch, as EventSource cannot send a token. `heard(event, data)` is called per event, `connected(bool)` on changes.
 */
export async function follow(url, heard, signal, connected = () => {}) {
  for (let wait = 500; !signal.aborted; wait = Math.min(2 * wait, 15_000)) {
    const silent = new AbortController();
    const stop = () => silent.abort();
    signal.addEventListener("abort", stop);
    let watch = setTimeout(stop, SILENCE);
    try {
      const response = await request(url, {accept: "text/event-stream", signal: silent.signal});
      connected(true);
      wait = 500;
      for await (const [event, data] of events(response.body, () => {
        clearTimeout(watch);
        watch = setTimeout(stop, SILENCE);
      })) {
        if (event === "end") return;
        heard(event, data);
      }
    } catch (error) {
      if (signal.aborted) return;
      // What the service refuses now it refuses again, unless it asks for patience.
      if (error instanceof ApiError && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", stop);
    }
    connected(false);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}

/** [event, data] of a text/event-stream body; `alive` is called for every piece, comments included. */
async function* events(body, alive) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    alive();
    buffer = (buffer + value).replaceAll("\r\n", "\n");
    for (let end = buffer.indexOf("\n\n"); end >= 0; end = buffer.indexOf("\n\n")) {
      const fields = {event: "message", data: []};
      for (const line of buffer.slice(0, end).split("\n")) {
        const [name, text] = [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).replace(/^ /, "")];
        if (name === "event") fields.event = text;
        else if (name === "data") fields.data.push(text);
      }
      buffer = buffer.slice(end + 2);
      if (fields.data.length || fields.event === "end") yield [fields.event, fields.data.join("\n")];
    }
  }
}
