// The heatmap with its tools: search, zoom, legend, the pair in words, and tables that say the same.

import {onThemeChange} from "./colours.js";
import {announce, h, panel} from "./dom.js";
import {Heatmap} from "./heatmap.js";
import {drawLegend, pairTables} from "./heatmap_legend.js";
import {isSure, orderByGroups} from "./matrix.js";
import {count, decimalsFor, withError} from "./numbers.js";

const KEYS = [
  "Arrow keys move from pair to pair, Home and End along a row, Page Up and Page Down from group to group.",
  "Plus and minus zoom, 0 shows all, Shift with arrows pans. Enter picks both tasks of a pair.",
  "Drag to pan; pinch, or the wheel once the map is clicked, zooms. Click a name to pick the task.",
].join(" ");

export function heatmapPanel(selection, study, signal) {
  const section = panel("Who helps whom", {name: "heatmap"});
  let matrix = null;
  let grouping = null;
  let askPartners = () => {};
  const tip = h("p", {class: "tip", "aria-hidden": "true", hidden: true});
  const hint = h(
    "p",
    {class: "hint", "aria-hidden": "true", hidden: true},
    "Click the map, or hold Ctrl, to zoom with the wheel",
  );
  const readout = h("div", {class: "readout"});
  const map = new Heatmap(selection, signal, {
    pointed(cell, x, y) {
      tip.hidden = cell === null || cell.receiver === cell.source;
      if (tip.hidden) return;
      const {pair, value, rest} = words(cell);
      tip.replaceChildren(h("strong", {}, pair), h("br"), value, h("br"), h("span", {class: "note"}, rest));
      const left = Math.max(4, Math.min(x + 14, map.view.width - tip.offsetWidth - 4));
      const below = y + 18 + tip.offsetHeight <= map.view.height;
      tip.style.transform = `translate(${left}px, ${below ? y + 18 : y - tip.offsetHeight - 12}px)`;
    },
    moved: (cell) => read(cell),
    pick(cell) {
      const tasks = [cell.receiver, cell.source].map((task) => matrix.tasks[task]);
      const on = !tasks.every((task) => selection.has(task));
      for (const task of tasks) selection.toggle(task, on);
      announce(`${on ? "Picked" : "Dropped"} ${[...new Set(tasks)].join(" and ")}`);
    },
    hint() {
      hint.hidden = false;
      clearTimeout(hint.timer);
      hint.timer = setTimeout(() => (hint.hidden = true), 1500);
    },
  });

  function words({receiver, source}) {
    const cell = receiver * matrix.size + source;
    const decimals = decimalsFor([matrix.limit]);
    const subsets = matrix.counts[cell];
    return {
      pair: `${matrix.tasks[receiver]} ← ${matrix.tasks[source]}`,
      value: `${withError(matrix.values[cell], matrix.errors[cell], decimals)} ${matrix.unit}`,
      rest:
        (isSure(matrix, cell) ? "" : "may be chance, ") +
        (subsets ? `mean over ${count(subsets, "subset")}` : "the pair's own estimate"),
    };
  }

  function read(cell) {
    const {receiver, source} = cell;
    const [to, from] = [matrix.tasks[receiver], matrix.tasks[source]];
    if (receiver === source) {
      readout.replaceChildren(h("p", {}, h("strong", {}, to), " with itself: no pair"));
      return announce(readout.textContent);
    }
    const {value, rest} = words(cell);
    announce(`${to} from ${from}: ${value}, ${rest}`);
    const better = matrix.values[receiver * matrix.size + source] >= 0;
    readout.replaceChildren(
      h(
        "p",
        {},
        h("strong", {}, from),
        ` is a ${better ? "better" : "worse"} partner for `,
        h("strong", {}, to),
        " than its average partner: ",
        h("span", {class: better ? "help" : "harm"}, value),
        ` (${rest})`,
      ),
      h(
        "p",
        {class: "buttons"},
        h(
          "button",
          {type: "button", onclick: () => [to, from].forEach((task) => selection.toggle(task, true))},
          "Pick both",
        ),
        study.can_predict && h("button", {type: "button", onclick: () => askPartners(to)}, `Best partners of ${to}`),
      ),
    );
  }

  const search = h("input", {
    type: "search",
    id: "jump",
    list: "jump-tasks",
    autocomplete: "off",
    "aria-describedby": "jump-said",
  });
  const names = h("datalist", {id: "jump-tasks"});
  const said = h("span", {class: "note", id: "jump-said", role: "status"});
  const jump = (event) => {
    const wanted = search.value.trim().toLowerCase();
    if (!matrix || !wanted) return void (said.textContent = "");
    const exact = matrix.tasks.findIndex((task) => task.toLowerCase() === wanted);
    const found =
      exact >= 0
        ? exact
        : event.type === "input"
          ? -1
          : matrix.tasks.findIndex((task) => task.toLowerCase().includes(wanted));
    if (event.type === "input" && found < 0) return void (said.textContent = "");
    said.textContent = found < 0 ? "no such task" : "";
    if (found >= 0) map.jump(found, bestPartner(found));
  };
  search.addEventListener("input", jump);
  search.addEventListener("change", jump);

  function bestPartner(task) {
    let best = task === 0 ? Math.min(1, matrix.size - 1) : 0;
    for (let source = 0; source < matrix.size; source++)
      if (source !== task && matrix.values[task * matrix.size + source] > matrix.values[task * matrix.size + best])
        best = source;
    return best;
  }

  const tool = (label, sign, act) =>
    h("button", {type: "button", class: "tool", "aria-label": label, title: label, onclick: act}, sign);
  const tools = h(
    "div",
    {class: "tools"},
    h("p", {class: "field"}, h("label", {for: "jump"}, "Go to task"), search, names, said),
    h(
      "div",
      {class: "zoom", role: "group", "aria-label": "Zoom"},
      tool("Zoom out", "−", () => map.zoom(1 / 1.5)),
      tool("Zoom in", "+", () => map.zoom(1.5)),
      tool("Show all", "⤢", () => map.reset()),
    ),
  );
  const legend = h("div", {class: "legend"});
  const frame = h(
    "div",
    {class: "frame"},
    h("p", {class: "axis", "aria-hidden": "true"}, "gives →"),
    h("p", {class: "axis rows", "aria-hidden": "true"}, "receives ↓"),
    map.canvas,
    tip,
    hint,
  );
  const keys = h(
    "details",
    {},
    h("summary", {}, "Keys and gestures"),
    h("p", {id: "heatmap-keys", class: "note"}, KEYS),
  );
  const tables = h("details", {class: "pairs"}, h("summary", {}, "The strongest pairs as a table"), h("div"));
  onThemeChange(() => matrix && drawLegend(legend, matrix), signal);

  function arrange() {
    if (!matrix) return;
    const order = orderByGroups(matrix.tasks, grouping ?? [matrix.tasks]);
    map.show(matrix, grouping ? order : {...order, groups: 0});
    const within = grouping ? ` in ${count(grouping.length, "group")}` : "";
    map.canvas.setAttribute(
      "aria-label",
      `Affinity heatmap of ${count(matrix.size, "task")}${within}: rows receive, columns give`,
    );
  }

  return {
    root: section.root,
    loading: () => section.loading("Loading the matrix…"),
    failed: (error, again) => section.failed(error, again),
    whenPartners(act) {
      askPartners = act;
    },
    show(found) {
      matrix = found;
      if (matrix.size < 2) return section.empty("One task has no partners: there is nothing to compare.");
      names.replaceChildren(...matrix.tasks.map((task) => h("option", {value: task})));
      drawLegend(legend, matrix);
      readout.replaceChildren(h("p", {class: "note"}, "Point at a pair, or click it to keep it here."));
      section.show(
        h(
          "p",
          {class: "lead"},
          "How much better or worse a partner is than the receiver's average partner. Rows receive, columns give.",
        ),
        tools,
        legend,
        frame,
        readout,
        tables,
        keys,
      );
      tables.lastChild.replaceWith(pairTables(matrix));
      arrange();
    },
    group(groups) {
      grouping = groups;
      arrange();
    },
  };
}
