// The form that submits a config.

import {address, postJson} from "./api.js";
import {announce, h, panel, problem} from "./dom.js";

const EXAMPLE = `name: yeast
data:
  source: yeast
fits:
  subsets: 400
`;
const UNTIL = {report: "the whole way", affinity: "the affinity matrix", groups: "the groups"};

export function submitPanel() {
  const section = panel("Start a study", {name: "submit"});
  const config = h("textarea", {
    id: "config",
    name: "config",
    rows: 12,
    spellcheck: "false",
    autocapitalize: "off",
    required: true,
    "aria-describedby": "config-help config-error",
  });
  const name = h("input", {
    id: "study-name",
    name: "name",
    autocomplete: "off",
    pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]{0,99}",
    "aria-describedby": "study-name-help",
  });
  const until = h(
    "select",
    {id: "until", name: "until"},
    Object.entries(UNTIL).map(([stage, words]) => h("option", {value: stage}, words)),
  );
  const wrong = h("div", {id: "config-error", class: "beside"});
  const send = h("button", {type: "submit", class: "primary"}, "Start");
  const fill = () => {
    config.value = EXAMPLE;
    config.focus();
  };

  const form = h(
    "form",
    {class: "submit"},
    h(
      "div",
      {class: "config-field"},
      h("label", {for: "config"}, "Config (YAML)"),
      config,
      h(
        "p",
        {class: "note", id: "config-help"},
        "As for ",
        h("code", {}, "affinity run"),
        ". A study of the same name goes on where it stopped. ",
        h("button", {type: "button", class: "link", onclick: fill}, "Fill in an example"),
      ),
    ),
    wrong,
    h(
      "p",
      {class: "field"},
      h("label", {for: "study-name"}, "Name"),
      name,
      h(
        "span",
        {class: "note", id: "study-name-help"},
        "Letters, digits, dot, dash, underscore; the config's own name where empty.",
      ),
    ),
    h("p", {class: "field"}, h("label", {for: "until"}, "Run"), until),
    h("p", {}, send),
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    wrong.replaceChildren();
    config.removeAttribute("aria-invalid");
    try {
      const study = await postJson(address("studies"), {
        config: config.value,
        until: until.value,
        ...(name.value ? {name: name.value} : {}),
      });
      announce(`Study ${study.name} is ${study.status}`);
      location.hash = `#/study/${encodeURIComponent(study.name)}`;
    } catch (error) {
      if (error.status === 422 || error.status === 400) config.setAttribute("aria-invalid", "true");
      wrong.replaceChildren(problem(error));
      if (error.field) wrong.firstChild.prepend(h("p", {class: "kicker"}, "In ", h("code", {}, error.field)));
    } finally {
      send.disabled = false;
    }
  });
  section.show(form);
  return section.root;
}
