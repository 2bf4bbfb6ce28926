// The legend of the heatmap, and tables that say the same in numbers.

import {colourOf, currentTheme} from "./colours.js";
import {h} from "./dom.js";
import {extremePairs, SURE} from "./matrix.js";
import {count, decimalsFor, number, signed} from "./numbers.js";

const TOP = 10;

export function drawLegend(root, matrix) {
  const colours = currentTheme();
  const canvas = h("canvas", {
    width: 255,
    height: 2,
    class: "ramp",
    role: "img",
    "aria-label": "Colour scale, upper half for sure values, lower half for those that may be chance",
  });
  const context = canvas.getContext("2d");
  for (let step = 0; step < 255; step++) {
    for (const sure of [true, false]) {
      context.fillStyle = `rgb(${colourOf(colours, step - 127, 127, sure).join(" ")})`;
      context.fillRect(step, sure ? 0 : 1, 1, 1);
    }
  }
  const end = number(matrix.limit, decimalsFor([matrix.limit], 2));
  root.replaceChildren(
    h(
      "span",
      {class: "ends-words"},
      h("span", {class: "harm"}, "worse"),
      h(
        "div",
        {class: "scale"},
        canvas,
        h("span", {class: "ends"}, h("span", {}, `−${end}`), h("span", {}, "0"), h("span", {}, `+${end}`)),
      ),
      h("span", {class: "help"}, "better"),
    ),
    h(
      "span",
      {class: "note"},
      `${matrix.unit} of validation loss. Pale, with a dot: may be chance (below ${SURE} standard errors).`,
    ),
  );
}
/** The pairs that stand out most, above and below their receiver's average partner. */
export function pairTables(matrix) {
  const {above, below, sure} = extremePairs(matrix, TOP);
  const decimals = decimalsFor([matrix.limit]);
  const table = (caption, cells) =>
    h(
      "div",
      {class: "scroll"},
      h(
        "table",
        {},
        h("caption", {}, caption),
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", {scope: "col"}, "Receiver"),
            h("th", {scope: "col"}, "Source"),
            h("th", {scope: "col", class: "n"}, `Contrast (${matrix.unit})`),
            h("th", {scope: "col", class: "n"}, "Error"),
            h("th", {scope: "col", class: "n"}, "Subsets"),
          ),
        ),
        h(
          "tbody",
          {},
          cells.map((cell) => {
            const [receiver, source] = [Math.floor(cell / matrix.size), cell % matrix.size];
            return h(
              "tr",
              {},
              h("th", {scope: "row"}, matrix.tasks[receiver]),
              h("td", {}, matrix.tasks[source]),
              h("td", {class: `n ${matrix.values[cell] > 0 ? "help" : "harm"}`}, signed(matrix.values[cell], decimals)),
              h("td", {class: "n"}, number(matrix.errors[cell], decimals)),
              h("td", {class: "n"}, matrix.counts[cell]),
            );
          }),
        ),
      ),
    );
  const pairs = matrix.size * (matrix.size - 1);
  return h(
    "div",
    {},
    h(
      "p",
      {class: "note"},
      `${sure.toLocaleString("en")} of ${count(pairs, "pair")} differ from the receiver's average partner `,
      `by at least ${SURE} standard errors.`,
    ),
    above.length > 0 && table("Better than the receiver's average partner", above),
    below.length > 0 && table("Worse than the receiver's average partner", below),
  );
}
