// Tables of predicted losses and of partners.

import {h} from "./dom.js";
import {decimalsFor, number, signed} from "./numbers.js";

const meanGain = ({predictions}) => predictions.reduce((sum, one) => sum + one.gain, 0) / predictions.length;

/** One line of what a prediction says. */
export function summary(answer) {
  const gain = meanGain(answer);
  if (answer.predictions.length === 1) return `${answer.predictions[0].task} alone`;
  return `${answer.predictions.length} tasks: mean gain ${signed(gain, decimalsFor([gain]))} ${answer.unit}`;
}

export function predictions(answer, askPartners) {
  const {unit, predictions: rows} = answer;
  const decimals = decimalsFor(
    rows.flatMap((row) => [row.standard_error, row.gain].filter((value) => value)),
    2,
  );
  const largest = Math.max(...rows.map((row) => Math.abs(row.gain))) || 1;
  const gain = meanGain(answer);
  const alone = rows.length === 1;
  return h(
    "div",
    {class: "scroll"},
    h(
      "table",
      {class: "predictions"},
      h(
        "caption",
        {},
        `Predicted validation loss, ${unit}; gain is against the task alone, positive where company helps.`,
      ),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", {scope: "col"}, "Task"),
          h("th", {scope: "col", class: "n"}, "Predicted loss"),
          h("th", {scope: "col", class: "n"}, "Alone"),
          h("th", {scope: "col", class: "n"}, "Gain"),
          h("th", {scope: "col"}, h("span", {class: "unseen"}, "Bar of the gain")),
          h("th", {scope: "col"}, h("span", {class: "unseen"}, "Partners")),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map((row) =>
          h(
            "tr",
            {},
            h("th", {scope: "row"}, row.task),
            h(
              "td",
              {class: "n", "data-label": "Predicted"},
              `${number(row.predicted_loss, decimals)} ± ${number(row.standard_error, decimals)}`,
            ),
            h("td", {class: "n", "data-label": "Alone"}, number(row.alone, decimals)),
            h(
              "td",
              {class: `n ${tone(row.gain, row.standard_error)}`, "data-label": "Gain"},
              signed(row.gain, decimals),
            ),
            h("td", {class: "bar-cell"}, bar(row.gain / largest, tone(row.gain, row.standard_error))),
            h(
              "td",
              {},
              h(
                "button",
                {
                  type: "button",
                  class: "link",
                  "aria-label": `Best partners of ${row.task}`,
                  onclick: () => askPartners(row.task),
                },
                "Partners",
              ),
            ),
          ),
        ),
      ),
      !alone &&
        h(
          "tfoot",
          {},
          h(
            "tr",
            {},
            h("th", {scope: "row"}, "Mean"),
            h("td", {class: "n", "data-label": "Predicted"}, number(mean(rows, "predicted_loss"), decimals)),
            h("td", {class: "n", "data-label": "Alone"}, number(mean(rows, "alone"), decimals)),
            h("td", {class: "n", "data-label": "Gain"}, signed(gain, decimals)),
            h("td"),
            h("td"),
          ),
        ),
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

export function partnerTable({task, alone, partners}, unit, use) {
  if (!partners.length)
    return h("p", {class: "missing"}, `No partner is predicted to help ${task}: it does best alone.`);
  const decimals = decimalsFor(
    partners.map((row) => row.gain),
    2,
  );
  return h(
    "div",
    {class: "card"},
    h(
      "table",
      {},
      h(
        "caption",
        {},
        `Best partners of ${task}, one after the other; alone its loss is ${number(alone, decimals)} ${unit}.`,
      ),
      h(
        "thead",
        {},
        h(
          "tr",
          {},
          h("th", {scope: "col"}, "Partner"),
          h("th", {scope: "col", class: "n"}, "Loss with it"),
          h("th", {scope: "col", class: "n"}, "Gain"),
        ),
      ),
      h(
        "tbody",
        {},
        partners.map((row) =>
          h(
            "tr",
            {},
            h("th", {scope: "row"}, row.partner),
            h("td", {class: "n"}, number(row.predicted_loss, decimals)),
            h("td", {class: "n"}, signed(row.gain, decimals)),
          ),
        ),
      ),
    ),
    h("p", {}, h("button", {type: "button", onclick: use}, `Pick ${task} and these`)),
  );
}
