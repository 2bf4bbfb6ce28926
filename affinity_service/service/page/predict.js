// Pick tasks and see the losses predicted for a model of exactly these.

import {address, postJson} from "./api.js";
import {announce, debounced, h, latest, panel, problem} from "./dom.js";
import {partnerTable, predictions, summary} from "./prediction_tables.js";

const SHOWN = 60; // check boxes at a time; the search finds the others
const WAIT = 150;
const PARTNERS = 3;

export function predictPanel(name, study, selection, signal) {
  const section = panel("What if these were trained together?", {name: "predict"});
  if (!study.can_predict) {
    section.empty("Losses cannot be predicted here: ", study.why_not_predict ?? "the study does not say why", ".");
    return {root: section.root, show() {}, askPartners() {}};
  }
  const search = h("input", {type: "search", id: "find-tasks", autocomplete: "off", "aria-controls": "task-list"});
  const list = h("ul", {class: "tasks", id: "task-list"});
  const more = h("p", {class: "note"});
  const picked = h("ul", {class: "chips", "aria-label": "Picked tasks"});
  const clear = h("button", {type: "button", class: "link", onclick: () => selection.set([])}, "Clear");
  const result = h("div", {class: "result"});
  const partners = h("div", {class: "partners"});
  let tasks = [];

  const listTasks = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = tasks.filter((task) => task.toLowerCase().includes(wanted));
    list.replaceChildren(
      ...found.slice(0, SHOWN).map((task) => {
        const box = h("input", {
          type: "checkbox",
          checked: selection.has(task),
          onchange: () => selection.toggle(task, box.checked),
        });
        box.dataset.task = task;
        return h("li", {}, h("label", {}, box, ` ${task}`));
      }),
    );
    more.textContent =
      found.length > SHOWN
        ? `${found.length - SHOWN} more: type to narrow them down`
        : found.length
          ? ""
          : "No such task.";
  };
  search.addEventListener("input", debounced(listTasks, 60));

  const predict = latest(async (abort) => {
    const asked = selection.tasks;
    if (!asked.length) {
      result.removeAttribute("aria-busy");
      result.replaceChildren(
        h(
          "p",
          {class: "missing"},
          "Pick tasks: check them above, click names on the map, or let a task choose its best partners.",
        ),
      );
      return;
    }
    result.setAttribute("aria-busy", "true");
    try {
      const answer = await postJson(address("studies", name, "predict"), {tasks: asked}, {signal: abort});
      result.replaceChildren(predictions(answer, askPartners));
      announce(summary(answer));
    } catch (error) {
      if (abort.aborted) throw error;
      result.replaceChildren(problem(error, () => predict()));
    }
    result.removeAttribute("aria-busy");
  });
  const soon = debounced(predict, WAIT);

  const update = () => {
    for (const box of list.querySelectorAll("input")) box.checked = selection.has(box.dataset.task);
    const held = document.activeElement?.dataset?.drops;
    picked.replaceChildren(
      ...selection.tasks.map((task) => {
        const drop = h(
          "button",
          {type: "button", "aria-label": `Remove ${task}`, onclick: () => selection.toggle(task, false)},
          "×",
        );
        drop.dataset.drops = task;
        return h("li", {}, task, " ", drop);
      }),
    );
    // The chip that had the focus is gone: its neighbour has it now, or the search.
    if (held) (picked.querySelector("button") ?? search).focus();
    clear.hidden = !selection.tasks.length;
    soon();
  };
  selection.addEventListener("change", update, {signal});

  const askPartners = latest(async (abort, task) => {
    partners.replaceChildren(
      h(
        "p",
        {class: "loading"},
        h("span", {class: "spinner", "aria-hidden": "true"}),
        `Looking for partners of ${task}…`,
      ),
    );
    partners.scrollIntoView({block: "nearest"});
    try {
      const answer = await postJson(address("studies", name, "partners"), {task, size: PARTNERS}, {signal: abort});
      partners.replaceChildren(
        partnerTable(answer, study.unit, () => selection.set([task, ...answer.partners.map(({partner}) => partner)])),
      );
      announce(
        answer.partners.length
          ? `Best partners of ${task}: ${answer.partners.map(({partner}) => partner).join(", ")}`
          : `No partner helps ${task}`,
      );
    } catch (error) {
      if (abort.aborted) throw error;
      partners.replaceChildren(problem(error, () => askPartners(task)));
    }
  });

  section.loading("Waiting for the tasks…");
  return {
    root: section.root,
    askPartners,
    show(names) {
      tasks = names;
      listTasks();
      section.show(
        h(
          "fieldset",
          {class: "picker"},
          h("legend", {class: "unseen"}, "Tasks to train together"),
          h("p", {class: "field"}, h("label", {for: "find-tasks"}, "Find tasks"), search),
          list,
          more,
        ),
        h("div", {class: "picked"}, picked, clear),
        partners,
        result,
      );
      update();
    },
  };
}
