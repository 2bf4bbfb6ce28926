// The list of studies, live, and the form that starts one.

import {address, follow, getJson} from "./api.js";
import {announce, debounced, h, panel} from "./dom.js";
import {ago, UNKNOWN} from "./numbers.js";
import {badge, isOver, shareDone, STATUS_WORDS} from "./progress.js";
import {submitPanel} from "./submit.js";

const PAGE = 50;
const RENEW = 10_000;
// A browser opens six connections to a host; streams must leave some for everything else. Others are seen by RENEW.
const STREAMS = 3;

export async function showStudies(main, who, signal) {
  const list = panel("Studies", {name: "studies"});
  list.root.querySelector("h2").replaceWith(h("h1", {id: "studies-title", tabindex: "-1"}, "Studies"));
  main.replaceChildren(list.root);
  if (who.can_submit) main.append(submitPanel());
  const rows = new Map();
  const filter = h("input", {type: "search", id: "filter", autocomplete: "off"});
  const body = h("tbody");
  const none = h("p", {class: "note", hidden: true}, "No study of this name.");
  const more = h("button", {type: "button", hidden: true}, "Show more");
  const table = h(
    "div",
    {},
    h("p", {class: "field"}, h("label", {for: "filter"}, "Find a study"), filter),
    h(
      "table",
      {class: "studies"},
      h("caption", {class: "unseen"}, "Studies with their status"),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          ["Study", "Status", "Progress", "Tasks", "Changed"].map((words) => h("th", {scope: "col"}, words)),
        ),
      ),
      body,
    ),
    none,
    more,
  );
  let next = null;
  let streams = 0;

  const applyFilter = () => {
    const wanted = filter.value.trim().toLowerCase();
    let shown = 0;
    for (const [name, row] of rows) shown += !(row.element.hidden = !name.toLowerCase().includes(wanted));
    none.hidden = shown > 0;
  };
  filter.addEventListener("input", debounced(applyFilter, 60));

  const put = (summary) => {
    let row = rows.get(summary.name);
    if (!row) rows.set(summary.name, (row = studyRow()));
    const before = row.status;
    row.update(summary);
    if (before && before !== row.status) announce(`${summary.name}: ${STATUS_WORDS[row.status] ?? row.status}`);
    if (!isOver(summary.status) && !row.followed && streams < STREAMS) {
      row.followed = true;
      streams += 1;
      follow(
        address("studies", summary.name, "events"),
        (event, data) => event === "state" && put(JSON.parse(data)),
        signal,
      )
        .catch(() => {}) // the renewed list tells what became of it
        .finally(() => {
          row.followed = false;
          streams -= 1;
        });
    }
    return row.element;
  };

  const load = async (cursor, quiet = false) => {
    const url = address("studies");
    url.search = new URLSearchParams({limit: PAGE, ...(cursor ? {cursor} : {})});
    const answer = await getJson(url, {signal, quiet});
    const elements = answer.studies.map(put);
    if (!cursor) {
      const names = new Set(answer.studies.map((study) => study.name));
      // Of a longer list only the first part was read again: the rest stays.
      if (!answer.next)
        for (const name of [...rows.keys()]) if (!names.has(name)) (rows.get(name).element.remove(), rows.delete(name));
      elements.forEach((element, index) => moveTo(body, element, index));
      if (next === null || rows.size <= PAGE) next = answer.next;
    } else {
      body.append(...elements);
      next = answer.next;
    }
    more.hidden = !next;
    if (rows.size === 0)
      list.empty(
        "No studies here yet. ",
        who.can_submit ? "Start one below." : h("span", {}, h("code", {}, "affinity run CONFIG"), " makes one."),
      );
    else if (!list.body.contains(table)) list.show(table);
    applyFilter();
  };
  more.addEventListener("click", () => load(next).catch((error) => announce(error.message)));

  list.loading("Looking for studies…");
  const start = () => load(null).catch((error) => !signal.aborted && list.failed(error, start));
  await start();
  const renew = setInterval(() => document.hidden || load(null, true).catch(() => {}), RENEW);
  signal.addEventListener("abort", () => clearInterval(renew));
}

/** Put a row at its place without touching those that are there already: a focused link keeps its focus. */
function moveTo(body, element, index) {
  if (body.children[index] !== element) body.insertBefore(element, body.children[index] ?? null);
}

function studyRow() {
  const link = h("a");
  const cells = Object.fromEntries(
    ["status", "progress", "tasks", "changed"].map((name) => [name, h("td", {class: name === "tasks" ? "n" : name})]),
  );
  const element = h("tr", {}, h("th", {scope: "row"}, link), Object.values(cells));
  for (const [name, words] of Object.entries({tasks: "Tasks", changed: "Changed"})) cells[name].dataset.label = words;
  const row = {
    element,
    status: null,
    followed: false,
    update(study) {
      row.status = study.status;
      link.textContent = study.name;
      link.href = `#/study/${encodeURIComponent(study.name)}`;
      cells.status.replaceChildren(badge(study.status));
      cells.tasks.textContent = study.tasks ?? UNKNOWN;
      cells.changed.replaceChildren(
        study.updated ? h("time", {datetime: study.updated, title: study.updated}, ago(study.updated)) : UNKNOWN,
      );
      cells.progress.replaceChildren(...progressOf(study));
    },
  };
  return row;
}

function progressOf(study) {
  if (study.status === "finished") return [];
  if (study.message && isOver(study.status)) return [h("p", {class: "message"}, study.message)];
  if (isOver(study.status)) return [study.stage ? `stopped in ${study.stage}` : ""];
  const words = study.stage ? study.stage.replaceAll("_", " ") : "waits for its turn";
  if (!study.stages) return [words];
  const share = shareDone(study.stages);
  return [h("progress", {max: 1, value: share, "aria-label": `progress of ${study.name}`}), ` ${words}`];
}
