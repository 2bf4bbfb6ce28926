// How far a study is: its status, its stages with bars, and the end of its log.

import {address, request} from "./api.js";
import {h, panel} from "./dom.js";
import {duration} from "./numbers.js";

export const STATUS_WORDS = {
  queued: "queued",
  running: "running",
  finished: "finished",
  failed: "failed",
  cancelled: "cancelled",
  unfinished: "unfinished",
};
// A form beside the colour, for those who cannot tell colours apart.
const MARKS = {queued: "○", running: "◐", finished: "●", failed: "✕", cancelled: "■", unfinished: "◌"};
const TAIL = 65_536;
const LOG_EVERY = 3_000;

export const isOver = (status) => status !== "queued" && status !== "running";

export const badge = (status) =>
  h(
    "span",
    {class: `badge ${status}`},
    h("span", {"aria-hidden": "true"}, `${MARKS[status] ?? "·"} `),
    STATUS_WORDS[status] ?? status,
  );

/** The share of a study's stages that is done, the running one by its own count. */
export function shareDone(stages) {
  const each = stages.map(({state, done, total}) =>
    state === "done" ? 1 : state === "running" && total ? Math.min(1, done / total) : 0,
  );
  return each.reduce((sum, share) => sum + share, 0) / Math.max(1, each.length);
}

/** The stages of a study; `update(study)` may be called at any time. */
export function stagesPanel(name, signal) {
  const section = panel("Progress", {name: "progress"});
  const list = h("ol", {class: "stages"});
  const log = logTail(name, signal);
  section.show(list, log.root);
  const rows = new Map();
  return {
    root: section.root,
    update(study) {
      for (const stage of study.stages) {
        let row = rows.get(stage.name);
        if (!row) {
          rows.set(stage.name, (row = stageRow(stage.name)));
          list.append(row.root);
        }
        row.update(stage, isOver(study.status));
      }
      log.update(study);
    },
  };
}

function stageRow(name) {
  const words = name.replaceAll("_", " ");
  const bar = h("progress", {max: 1, "aria-label": words});
  const state = h("span", {class: "stage-state"});
  const root = h("li", {}, h("span", {class: "stage-name"}, words), bar, state);
  return {
    root,
    update({state: now, seconds, done, total, text}, over) {
      root.className = now;
      const counted = total ? `${done ?? 0} of ${total}` : "";
      // Without a count a running stage's bar has no value: browsers show that as "busy".
      if (now === "running" && !total && !over) bar.removeAttribute("value");
      else bar.value = now === "done" ? 1 : total ? Math.min(1, (done ?? 0) / total) : 0;
      const parts =
        now === "done"
          ? [seconds === null ? "done" : duration(seconds)]
          : now === "running"
            ? [over ? "stopped" : "", counted, text ?? ""]
            : ["waiting"];
      state.textContent = parts.filter(Boolean).join(" · ");
    },
  };
}

function logTail(name, signal) {
  const text = h("pre", {class: "log", tabindex: "0", role: "log", "aria-label": "End of the log", "aria-live": "off"});
  const note = h("p", {class: "note"});
  const root = h("details", {}, h("summary", {}, "Log"), text, note);
  const url = address("studies", name, "logs");
  url.search = new URLSearchParams({bytes: TAIL});
  let status = null;
  let job = null;
  let timer = 0;

  const load = async () => {
    clearTimeout(timer);
    if (!root.open || signal.aborted) return;
    if (job === null) {
      text.hidden = true;
      note.textContent = "No job of this service ran the study, so there is no log here.";
      return;
    }
    try {
      const response = await request(url, {signal, accept: "text/plain", quiet: true});
      const found = await response.text();
      const atEnd = text.scrollHeight - text.scrollTop - text.clientHeight < 24;
      if (found !== text.textContent) text.textContent = found;
      if (atEnd) text.scrollTop = text.scrollHeight;
      const cut = response.headers.get("X-Log-Truncated") === "true";
      note.textContent = !found ? "Nothing was logged." : cut ? "Only the end of the log is shown." : "";
    } catch (error) {
      if (signal.aborted) return;
      note.textContent = error.message;
    }
    text.hidden = !text.textContent;
    if (!isOver(status)) timer = setTimeout(load, LOG_EVERY);
  };
  root.addEventListener("toggle", load);
  signal.addEventListener("abort", () => clearTimeout(timer));
  return {
    root,
    update(study) {
      const first = status === null;
      const changed = status !== study.status;
      ({status, job} = study);
      if (first && (!isOver(status) || status === "failed")) root.open = true;
      else if (changed) load();
    },
  };
}
