// Small helpers that build and change elements. Text is always set as text, never parsed as HTML.

/** h("p", {class: "note", onclick: f, disabled: true}, "text", child, [more]): null and false children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** The same for SVG, whose numbers are attributes: a strict policy forbids style attributes, not these. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Say something to those who do not see the change. */
export function announce(text) {
  const live = document.getElementById("live");
  // The same words twice would not be a change.
  live.textContent = live.textContent === text ? `${text}\u00a0` : text;
}

/** Call `act` once things have been quiet for `wait` milliseconds. */
export function debounced(act, wait) {
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => act(...given), wait);
  };
}

/** Run one request at a time: a new one aborts the one before it. */
export function latest(act) {
  let running = null;
  return async (...given) => {
    running?.abort();
    const mine = (running = new AbortController());
    try {
      await act(mine.signal, ...given);
    } catch (error) {
      if (!mine.signal.aborted) throw error;
    }
  };
}

let counted = 0;
export const uniqueId = (stem) => `${stem}-${++counted}`;

/**
 * A section with a heading and a body that is loading, empty, broken or shown.
 *
 * A body that is shown stays while the next one loads, only dimmed: nothing jumps.
 */
export function panel(title, {level = 2, name = uniqueId("panel"), actions = []} = {}) {
  const heading = h(`h${level}`, {id: `${name}-title`}, title);
  const body = h("div", {class: "panel-body"});
  const root = h(
    "section",
    {class: "panel", id: name, "aria-labelledby": heading.id},
    h("div", {class: "panel-head"}, heading, actions),
    body,
  );
  let filled = false;
  const settle = (isFilled) => {
    filled = isFilled;
    root.removeAttribute("aria-busy");
  };
  return {
    root,
    body,
    loading(words = "Loading…") {
      root.setAttribute("aria-busy", "true");
      if (!filled)
        body.replaceChildren(h("p", {class: "loading"}, h("span", {class: "spinner", "aria-hidden": "true"}), words));
    },
    show(...nodes) {
      settle(true);
      body.replaceChildren(...nodes);
    },
    empty(...words) {
      settle(false);
      body.replaceChildren(h("p", {class: "missing"}, ...words));
    },
    failed(error, again = null) {
      settle(false);
      body.replaceChildren(problem(error, again));
    },
  };
}

/** What went wrong, in the words of the service, and a way to try again. */
export function problem(error, again = null) {
  return h(
    "div",
    {class: "problem", role: "alert"},
    h("p", {class: "problem-words"}, error.message),
    error.hint && h("p", {class: "note"}, error.hint),
    again && h("button", {type: "button", onclick: again}, "Try again"),
  );
}

/** Ask in the dialog; resolves to the form's data, or null when dismissed. `content` are the form's children. */
export function ask(title, content, accept, dismiss = "Cancel") {
  const dialog = document.getElementById("dialog");
  const form = h(
    "form",
    {method: "dialog"},
    h("h2", {id: "dialog-title"}, title),
    content,
    h(
      "div",
      {class: "buttons"},
      h("button", {type: "submit", value: "accept", class: "primary"}, accept),
      h("button", {type: "submit", value: "dismiss", formnovalidate: true}, dismiss),
    ),
  );
  dialog.replaceChildren(form);
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "accept" ? new FormData(form) : null), {
      once: true,
    });
  });
}

/** Copy text; `navigator.clipboard` is only there on https and on this machine itself. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = h("textarea", {class: "unseen", "aria-hidden": "true", value: text});
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  if (!done) throw new Error("the browser did not let the page copy");
}

/** Hand a file over to the browser's downloads. */
export function saveAs(blob, name) {
  const link = h("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
