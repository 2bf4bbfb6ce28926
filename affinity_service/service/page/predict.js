// Pick tasks and see the losses predicted for a model of exactly these.

import {address, postJson} from "./api.js";
import {announce, debounced, h, latest, panel, problem} from "./dom.js";
import {decimalsFor, number, signed} from "./numbers.js";

const SHOWN = 60; // check boxes at a time; the search finds the others
const WAIT = 150;
const PARTNERS = 3;
const askers = new WeakMap();

/** Ask a predict panel for the best partners of a task. */
export const partnersOf = (section, task) => askers.get(section)?.(task);

export function predictPanel(name, study, selection, signal) {
  const section = panel("What if these were trained together?", {name: "predict"});
  if (!study.can_predict) {
    section.empty("Losses cannot be predicted here: ", study.why_not_predict ?? "the study does not say why", ".");
    return {root: section.root, show() {}};
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
        const box = h("input", {type: "checkbox", checked: selection.has(task), onchange: () => selection.toggle(task, box.checked)});
        box.dataset.task = task;
        return h("li", {}, h("label", {}, box, ` ${task}`));
      }),
    );
    more.textContent = found.length > SHOWN ? `${found.length - SHOWN} more: type to narrow them down` : found.length ? "" : "No such task.";
  };
  search.addEventListener("input", debounced(listTasks, 60));

  const predict = latest(async (abort) => {
    const asked = selection.tasks;
    if (!asked.length) {
      result.removeAttribute("aria-busy");
      result.replaceChildren(h("p", {class: "missing"}, "Pick tasks: check them above, click names on the map, or let a task choose its best partners."));
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
        const drop = h("button", {type: "button", "aria-label": `Remove ${task}`, onclick: () => selection.toggle(task, false)}, "×");
        drop.dataset.drops = task;
        return h("li", {}, task, " ", drop);
      }),
    );
    // The chip that had the focus is gone: its neighbour has it now, or the search.
    if (held) (picked.querySelector("button") ?? search).focus();
    clear.hidden = !selection.tasks.length;
    soon();
  };
  selection.addEventListener("change", update);

  const askPartners = latest(async (abort, task) => {
    partners.replaceChildren(h("p", {class: "loading"}, h("span", {class: "spinner", "aria-hidden": "true"}), `Looking for partners of ${task}…`));
    partners.scrollIntoView({block: "nearest"});
    try {
      const answer = await postJson(address("studies", name, "partners"), {task, size: PARTNERS}, {signal: abort});
      partners.replaceChildren(partnerTable(answer, study.unit, () => selection.set([task, ...answer.partners.map(({partner}) => partner)])));
      announce(answer.partners.length ? `Best partners of ${task}: ${answer.partners.map(({partner}) => partner).join(", ")}` : `No partner helps ${task}`);
    } catch (error) {
      if (abort.aborted) throw error;
      partners.replaceChildren(problem(error, () => askPartners(task)));
    }
  });
  askers.set(section.root, askPartners);
  signal.addEventListener("abort", () => selection.removeEventListener("change", update));

  section.loading("Waiting for the tasks…");
  return {
    root: section.root,
    show(names) {
      tasks = names;
      listTasks();
      section.show(
        h("fieldset", {class: "picker"}, h("legend", {class: "unseen"}, "Tasks to train together"), h("p", {class: "field"}, h("label", {for: "find-tasks"}, "Find tasks"), search), list, more),
        h("div", {class: "picked"}, picked, clear),
        partners,
        result,
      );
      update();
    },
  };
}

const meanGain = ({predictions}) => predictions.reduce((sum, one) => sum + one.gain, 0) / predictions.length;

function summary(answer) {
  const gain = meanGain(answer);
  if (answer.predictions.length === 1) return `${answer.predictions[0].task} alone`;
  return `${answer.predictions.length} tasks: mean gain ${signed(gain, decimalsFor([gain]))} ${answer.unit}`;
}

function predictions(answer, askPartners) {
  const {unit, predictions: rows} = answer;
  const decimals = decimalsFor(rows.flatMap((row) => [row.standard_error, row.gain].filter((value) => value)), 2);
  const largest = Math.max(...rows.map((row) => Math.abs(row.gain))) || 1;
  const gain = meanGain(answer);
  const alone = rows.length === 1;
  return h(
    "div",
    {class: "scroll"},
    h(
      "table",
      {class: "predictions"},
      h("caption", {}, `Predicted validation loss, ${unit}; gain is against the task alone, positive where company helps.`),
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Task"), h("th", {scope: "col", class: "n"}, "Predicted loss"), h("th", {scope: "col", class: "n"}, "Alone"), h("th", {scope: "col", class: "n"}, "Gain"), h("th", {scope: "col"}, h("span", {class: "unseen"}, "Bar of the gain")), h("th", {scope: "col"}, h("span", {class: "unseen"}, "Partners")))),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", {scope: "row"}, row.task),
            h("td", {class: "n", "data-label": "Predicted"}, `${number(row.predicted_loss, decimals)} ± ${number(row.standard_error, decimals)}`),
            h("td", {class: "n", "data-label": "Alone"}, number(row.alone, decimals)),
            h("td", {class: `n ${tone(row.gain, row.standard_error)}`, "data-label": "Gain"}, signed(row.gain, decimals)),
            h("td", {class: "bar-cell"}, bar(row.gain / largest, tone(row.gain, row.standard_error))),
            h("td", {}, h("button", {type: "button", class: "link", "aria-label": `Best partners of ${row.task}`, onclick: () => askPartners(row.task)}, "Partners")),
          ),
        ),
      ),
      !alone && h("tfoot", {}, h("tr", {}, h("th", {scope: "row"}, "Mean"), h("td", {class: "n", "data-label": "Predicted"}, number(mean(rows, "predicted_loss"), decimals)), h("td", {class: "n", "data-label": "Alone"}, number(mean(rows, "alone"), decimals)), h("td", {class: "n", "data-label": "Gain"}, signed(gain, decimals)), h("td"), h("td"))),
    ),
  );
}

const mean = (rows, key) => rows.reduce((sum, row) => sum + row[key], 0) / rows.length;

/** Coloured only where the gain is beyond its error. */
const tone = (gain, error) => (Math.abs(gain) < error ? "plain" : gain > 0 ? "help" : "harm");

/** A bar from the middle: to the right helps. `share` is from −1 to 1. */
function bar(share, kind) {
  const fill = h("span", {class: `fill ${kind}`});
  fill.style.width = `${50 * Math.abs(share)}%`;
  fill.style[share < 0 ? "right" : "left"] = "50%";
  return h("span", {class: "diverging", "aria-hidden": "true"}, fill);
}

function partnerTable({task, alone, partners}, unit, use) {
  if (!partners.length) return h("p", {class: "missing"}, `No partner is predicted to help ${task}: it does best alone.`);
  const decimals = decimalsFor(partners.map((row) => row.gain), 2);
  return h(
    "div",
    {class: "card"},
    h(
      "table",
      {},
      h("caption", {}, `Best partners of ${task}, one after the other; alone its loss is ${number(alone, decimals)} ${unit}.`),
      h("thead", {}, h("tr", {}, h("th", {scope: "col"}, "Partner"), h("th", {scope: "col", class: "n"}, "Loss with it"), h("th", {scope: "col", class: "n"}, "Gain"))),
      h("tbody", {}, partners.map((row) => h("tr", {}, h("th", {scope: "row"}, row.partner), h("td", {class: "n"}, number(row.predicted_loss, decimals)), h("td", {class: "n"}, signed(row.gain, decimals))))),
    ),
    h("p", {}, h("button", {type: "button", onclick: use}, `Pick ${task} and these`)),
  );
}
