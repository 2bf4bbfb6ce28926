// The groups: those that the study stored, and others by number and method.

import {address, getJson, postJson} from "./api.js";
import {announce, copy, debounced, h, latest, panel, problem} from "./dom.js";
import {count, decimalsFor, number} from "./numbers.js";

const METHODS = {
  sdp: "sdp, certified",
  direct: "direct, by predicted losses",
  spectral: "spectral",
  agglomerative: "agglomerative",
  random: "random",
};
const WAIT = 250;

/** @param arrange called with the groups that are shown, or null: the heatmap follows. */
export function groupsPanel(name, study, selection, signal, arrange) {
  const section = panel("Groups", {name: "groups"});
  const k = h("input", {
    type: "number",
    id: "k",
    min: 1,
    step: 1,
    inputmode: "numeric",
    placeholder: "auto",
    "aria-describedby": "k-help",
  });
  const method = h(
    "select",
    {id: "method"},
    Object.entries(METHODS).map(([value, words]) =>
      h("option", {value, disabled: value === "direct" && !study.can_predict}, words),
    ),
  );
  const stored = h("button", {type: "button", class: "link"}, "Show the study's own");
  const result = h("div", {class: "result"});
  const url = address("studies", name, "groups");

  const show = (found, words) => {
    result.replaceChildren(grouping(found, words, study.unit, selection));
    arrange(found.groups);
  };
  const run = (busy, ask, words) =>
    latest(async (abort) => {
      result.setAttribute("aria-busy", "true");
      if (!result.childNodes.length)
        result.replaceChildren(h("p", {class: "loading"}, h("span", {class: "spinner", "aria-hidden": "true"}), busy));
      try {
        const found = await ask(abort);
        show(found, words);
        announce(`${count(found.k, "group")} by ${found.method}`);
      } catch (error) {
        if (abort.aborted) throw error;
        result.replaceChildren(problem(error));
      }
      result.removeAttribute("aria-busy");
    });
  const own = run("Loading the groups…", (abort) => getJson(url, {signal: abort}), "As the study stored them.");
  const other = run(
    "Grouping…",
    (abort) => postJson(url, {k: k.value === "" ? "auto" : Number(k.value), method: method.value}, {signal: abort}),
    "Computed just now, not stored.",
  );
  const soon = debounced(() => {
    if (!k.checkValidity()) {
      k.reportValidity();
      return;
    }
    stored.hidden = !study.groups;
    other();
  }, WAIT);
  k.addEventListener("input", soon);
  method.addEventListener("change", soon);
  stored.addEventListener("click", () => {
    k.value = "";
    stored.hidden = true;
    own();
  });

  section.loading("Waiting for the tasks…");
  return {
    root: section.root,
    show(tasks) {
      k.max = tasks;
      stored.hidden = true;
      section.show(
        h(
          "div",
          {class: "fields"},
          h(
            "p",
            {class: "field"},
            h("label", {for: "k"}, "Number of groups"),
            k,
            h("span", {class: "unseen", id: "k-help"}, `from 1 to ${tasks}; empty: chosen by the method`),
          ),
          h("p", {class: "field"}, h("label", {for: "method"}, "Method"), method),
          stored,
        ),
        result,
      );
      if (study.groups) own();
      else
        result.replaceChildren(
          h("p", {class: "missing"}, "The study has stored no groups yet. Choose a number or a method to see some."),
        );
    },
  };
}

function grouping({method, k, groups, objective, bound}, words, unit, selection) {
  const decimals = decimalsFor([objective ?? 0, bound ?? 0], 4);
  const certified = bound !== null && bound !== undefined;
  const reached = certified && bound > 0 && objective !== null ? Math.min(1, objective / bound) : null;
  const copied = h("button", {type: "button"}, "Copy as JSON");
  copied.addEventListener("click", () =>
    copy(JSON.stringify({method, k, groups, objective, bound}, null, 2)).then(
      () => {
        copied.textContent = "Copied";
        announce("Groups copied as JSON");
        setTimeout(() => (copied.textContent = "Copy as JSON"), 1500);
      },
      (error) => announce(error.message),
    ),
  );
  return h(
    "div",
    {},
    h(
      "dl",
      {class: "facts-list"},
      h("div", {}, h("dt", {}, "Groups"), h("dd", {}, `${k} by ${method}`)),
      h("div", {}, h("dt", {}, "Objective"), h("dd", {}, number(objective ?? NaN, decimals))),
      h(
        "div",
        {},
        h("dt", {}, "Certified bound"),
        h("dd", {}, certified ? number(bound, decimals) : `none by ${method}`),
      ),
      reached !== null &&
        h(
          "div",
          {},
          h("dt", {}, "Reached"),
          h("dd", {}, `${(100 * reached).toFixed(reached > 0.9995 || reached < 0.9 ? 0 : 1)} %`),
        ),
    ),
    h(
      "p",
      {class: "note"},
      words,
      ` The objective is the density of partner contrasts, ${unit}`,
      certified ? `; no ${count(k, "group")} can exceed the bound.` : ".",
    ),
    h(
      "ol",
      {class: "group-list", tabindex: "0", "aria-label": "Groups"},
      groups.map((group, index) =>
        h(
          "li",
          {},
          h(
            "p",
            {class: "group-head"},
            h("strong", {}, `Group ${index + 1}`),
            ` ${count(group.length, "task")} `,
            h(
              "button",
              {
                type: "button",
                class: "link",
                "aria-label": `Pick group ${index + 1}`,
                onclick: () => selection.set(group),
              },
              "Pick",
            ),
          ),
          members(group),
        ),
      ),
    ),
    h("p", {}, copied),
  );
}

const FEW = 24;
function members(group) {
  const chips = (tasks) =>
    h(
      "ul",
      {class: "chips"},
      tasks.map((task) => h("li", {}, task)),
    );
  if (group.length <= FEW) return chips(group);
  return h(
    "details",
    {},
    h("summary", {}, `${group.slice(0, 3).join(", ")} and ${group.length - 3} more`),
    chips(group),
  );
}
