// How far the estimates can be trusted: centred r of every estimator against the ceiling that noise of trainings sets.

import {address, getJson} from "./api.js";
import {h, panel, svg} from "./dom.js";
import {count, number, UNKNOWN} from "./numbers.js";

const ESTIMATORS = {
  estimate: "This estimate",
  published_recipe: "Published recipe",
  first_order: "First order",
  tag_lookahead: "TAG lookahead",
  tag_first_order: "TAG first order",
  tag_cosine: "TAG cosine",
  row_mean: "Row mean",
};

export function fidelityPanel(name, study, signal) {
  const section = panel("Can the numbers be trusted?", {name: "fidelity"});
  const missing = () =>
    section.empty(
      "Not validated yet: ",
      h("code", {}, `affinity validate ${name}`),
      " trains sampled subsets for real and measures every estimate by them.",
    );
  return {
    root: section.root,
    async load() {
      if (!study.fidelity) return missing();
      section.loading("Loading the fidelity…");
      try {
        section.show(...content(await getJson(address("studies", name, "fidelity"), {signal})));
      } catch (error) {
        if (signal.aborted) return undefined;
        if (error.code === "no_fidelity") return missing();
        section.failed(error, () => this.load());
      }
      return undefined;
    },
  };
}

function content(fidelity) {
  const truths = Object.keys(fidelity).filter((key) => fidelity[key]?.estimate);
  if (!truths.length) return [h("p", {class: "missing"}, "The fidelity report holds no estimator.")];
  const body = h("div");
  const choose = h(
    "select",
    {id: "truth"},
    truths.map((truth) => h("option", {value: truth}, wordsOf(truth))),
  );
  const show = () => body.replaceChildren(...shownTruth(fidelity[choose.value], fidelity));
  choose.addEventListener("change", show);
  show();
  return [
    truths.length > 1 && h("p", {class: "field"}, h("label", {for: "truth"}, "True losses"), choose),
    body,
  ].filter(Boolean);
}

const wordsOf = (truth) =>
  truth === "best_validation" ? "at the best validation loss" : `after ${truth.replace("epoch_", "")} epochs`;

/** The reliability ρ of the true losses bounds what any estimate can reach: √ρ. */
function ceilingOf({ceiling}) {
  const root = (value) => Math.sqrt(Math.max(0, value));
  if (!ceiling || ceiling.centred_r === null || ceiling.centred_r === undefined) return null;
  return {value: root(ceiling.centred_r), interval: ceiling.centred_r_interval?.map(root) ?? null};
}

function shownTruth(truth, fidelity) {
  const ceiling = ceilingOf(truth);
  const rows = Object.entries(ESTIMATORS)
    .filter(([key]) => truth[key])
    .map(([key, words]) => ({
      key,
      words,
      value: truth[key].centred_r ?? null,
      interval: truth[key].centred_r_interval ?? null,
    }));
  if (ceiling) rows.push({key: "ceiling", words: "Ceiling √ρ", ...ceiling});
  const low = Math.min(0, ...rows.map((row) => row.interval?.[0] ?? row.value ?? 0));
  const estimate = rows.find((row) => row.key === "estimate");
  const share = ceiling && estimate?.value !== null && ceiling.value > 0 ? estimate.value / ceiling.value : null;
  return [
    h(
      "p",
      {},
      "Centred r is ",
      h("strong", {}, number(estimate?.value, 2)),
      estimate?.interval ? ` (95% interval ${span(estimate.interval)})` : "",
      share === null ? "" : `, ${Math.round(100 * share)} % of what the noise of the true trainings lets anyone reach`,
      ". It tells whether the estimate knows which partners help; 1 is perfect, 0 knows nothing.",
    ),
    h(
      "div",
      {class: "scroll"},
      h(
        "table",
        {class: "fidelity"},
        h(
          "caption",
          {},
          `${count(fidelity.subsets, "subset")} ${fidelity.start === "base" ? "fine-tuned" : "trained from scratch"} `,
          `with ${count(fidelity.seeds, "seed")} each.`,
        ),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {scope: "col"}, "Estimator"),
            h("th", {scope: "col", class: "n"}, "Centred r"),
            h("th", {scope: "col", class: "n"}, "95% interval"),
            h("th", {scope: "col"}, h("span", {class: "unseen"}, "Picture")),
          ),
        ),
        h(
          "tbody",
          {},
          rows.map((row) =>
            h(
              "tr",
              {class: row.key},
              h("th", {scope: "row"}, row.words),
              h("td", {class: "n"}, row.value === null ? UNKNOWN : number(row.value, 2)),
              h("td", {class: "n"}, row.interval ? span(row.interval) : UNKNOWN),
              h("td", {}, dot(row, low, ceiling?.value ?? null)),
            ),
          ),
        ),
      ),
    ),
    rows.some((row) => row.key === "row_mean" && row.value === null) &&
      h("p", {class: "note"}, "The row mean is blind to partners: it has no centred r, and ranks them like chance."),
  ].filter(Boolean);
}

const span = ([low, high]) => `${number(low, 2)} … ${number(high, 2)}`;

function dot({value, interval, key}, low, ceiling) {
  const [width, height, edge] = [150, 16, 5];
  const at = (r) => (edge + ((r - low) / (1 - low)) * (width - 2 * edge)).toFixed(1);
  const lines = [svg("line", {x1: at(0), x2: at(0), y1: 0, y2: height, class: "zero"})];
  if (ceiling !== null)
    lines.push(svg("line", {x1: at(ceiling), x2: at(ceiling), y1: 0, y2: height, class: "ceiling-line"}));
  if (interval)
    lines.push(
      svg("line", {x1: at(interval[0]), x2: at(interval[1]), y1: height / 2, y2: height / 2, class: "interval"}),
    );
  if (value !== null) lines.push(svg("circle", {cx: at(value), cy: height / 2, r: 3.5}));
  return svg(
    "svg",
    {width, height, viewBox: `0 0 ${width} ${height}`, class: `dot ${key}`, "aria-hidden": "true"},
    ...lines,
  );
}
