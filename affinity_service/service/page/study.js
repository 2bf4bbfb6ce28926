// One study: its head, its progress, and what it knows once the affinities are there.

import {address, follow, getJson, hasToken, postJson, request} from "./api.js";
import {announce, ask, h, problem, saveAs} from "./dom.js";
import {fidelityPanel} from "./fidelity.js";
import {groupsPanel} from "./groups.js";
import {heatmapPanel} from "./heatmap_panel.js";
import {readMatrix} from "./matrix.js";
import {ago, count, memory} from "./numbers.js";
import {predictPanel} from "./predict.js";
import {badge, isOver, STATUS_WORDS, stagesPanel} from "./progress.js";
import {Selection} from "./selection.js";

export async function showStudy(main, name, who, signal) {
  let study = await getJson(address("studies", name), {signal});
  const maySubmit = who.can_submit;
  const mayWrite = who.scope !== "read";
  const facts = h("p", {class: "facts"});
  const buttons = h("p", {class: "buttons"});
  const trouble = h("div", {});
  const links = h("nav", {class: "links", "aria-label": "Files of the study"});
  const progress = stagesPanel(name, signal);
  const made = h("details", {class: "made"}, h("summary", {}, "How it was made"));
  const analysis = h("div", {class: "analysis"});
  const title = h("h1", {tabindex: "-1"}, name);
  main.replaceChildren(
    h(
      "div",
      {class: "study-head"},
      h("p", {class: "kicker"}, h("a", {href: "#/"}, "Studies"), " /"),
      title,
      facts,
      buttons,
      links,
      trouble,
    ),
    progress.root,
    analysis,
    made,
  );

  const selection = new Selection();
  let shown = null;
  let linked = null;
  let analysing = new AbortController();
  const update = (now) => {
    if (study.status !== now.status) announce(`${name}: ${STATUS_WORDS[now.status] ?? now.status}`);
    study = now;
    facts.replaceChildren(
      badge(now.status),
      ...[now.tasks !== null && count(now.tasks, "task"), now.updated && `changed ${ago(now.updated)}`]
        .filter(Boolean)
        .map((words) => h("span", {}, words)),
    );
    trouble.replaceChildren(
      ...(now.message ? [h("p", {class: now.status === "failed" ? "problem" : "warning"}, now.message)] : []),
    );
    buttons.replaceChildren(...actions(name, now, mayWrite, maySubmit, update, trouble, listen));
    progress.update(now);
    const ready =
      now.status === "finished" || now.stages.some((stage) => stage.name === "affinity" && stage.state === "done");
    // Of a study that stands the way there matters less than what it found.
    const past = ready && isOver(now.status);
    if (past) made.append(progress.root);
    else if (made.contains(progress.root)) analysis.before(progress.root);
    made.hidden = !past;
    const files = JSON.stringify([ready, now.groups, now.report, now.status]);
    if (files !== linked) links.replaceChildren(...fileLinks(name, now, ready, signal));
    linked = files;
    // A run that goes on may make other affinities and groups: then their seconds are others.
    const seconds = now.stages
      .filter((stage) => stage.state === "done" && ["affinity", "groups"].includes(stage.name))
      .map((stage) => stage.seconds);
    const stamp = JSON.stringify([
      ready,
      now.groups,
      now.fidelity,
      now.can_predict,
      ready ? seconds : isOver(now.status),
    ]);
    if (stamp === shown) return;
    shown = stamp;
    analysing.abort();
    analysing = new AbortController();
    if (ready) showAnalysis(analysis, name, now, selection, AbortSignal.any([signal, analysing.signal]));
    else
      analysis.replaceChildren(
        h(
          "p",
          {class: "missing"},
          isOver(now.status)
            ? "There is no affinity matrix: the study ended before it was made."
            : "The affinity matrix, groups and predictions appear here when the stage “affinity” is done.",
        ),
      );
  };
  let listening = false;
  const listen = () => {
    if (listening || isOver(study.status)) return;
    listening = true;
    follow(
      address("studies", name, "events"),
      (event, data) => event === "state" && update(JSON.parse(data)),
      signal,
      (connected) => facts.classList.toggle("offline", !connected),
    )
      .then(() => signal.aborted || getJson(address("studies", name), {signal}).then(update))
      .catch((error) => signal.aborted || trouble.replaceChildren(problem(error, listen)))
      .finally(() => {
        listening = false;
        // A stream may end early, and a run may have been continued meanwhile; a broken one waits for the reader.
        if (!signal.aborted && !trouble.querySelector("[role=alert]"))
          setTimeout(() => signal.aborted || listen(), 1000);
      });
  };
  update(study);
  listen();
}

/** Buttons for what the reader may do with the study now. */
function actions(name, study, mayWrite, maySubmit, update, trouble, listen) {
  const act = (words, run, kind = "") => {
    const button = h("button", {type: "button", class: kind}, words);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await run();
        update(await getJson(address("studies", name)));
        listen();
      } catch (error) {
        trouble.replaceChildren(problem(error));
      } finally {
        button.disabled = false;
      }
    });
    return button;
  };
  if (mayWrite && !isOver(study.status)) {
    return [
      act(
        "Cancel the run",
        async () => {
          const sure = await ask(
            `Cancel ${name}?`,
            h("p", {}, "What is finished is kept: the same config goes on from there."),
            "Cancel the run",
            "Let it run",
          );
          if (sure) await postJson(address("studies", name, "cancel"), {});
        },
        "danger",
      ),
    ];
  }
  if (maySubmit && ["failed", "cancelled", "unfinished"].includes(study.status)) {
    return [
      act("Continue", async () => {
        const config = await request(address("studies", name, "config"), {accept: "application/yaml"}).then(
          (response) => response.text(),
        );
        await postJson(address("studies"), {name, config, until: "report"});
      }),
    ];
  }
  return [];
}

/** Links to the study's files; where a token is needed, which a link cannot send, buttons that fetch them. */
function fileLinks(name, study, ready, signal) {
  const file = (words, url, saved, opens = false) => {
    if (!hasToken()) return h("a", opens ? {href: url} : {href: url, download: saved}, words);
    const button = h("button", {type: "button", class: "link"}, words);
    button.addEventListener("click", () =>
      request(url, {accept: "*/*"})
        .then((response) => response.blob())
        .then((blob) => saveAs(blob, saved))
        .catch((error) => announce(error.message)),
    );
    return button;
  };
  const affinity = (format) => Object.assign(address("studies", name, "affinity"), {search: `format=${format}`});
  const models = h("details", {class: "models"}, h("summary", {}, "Models"), h("p", {class: "note"}, "Loading…"));
  models.addEventListener("toggle", async () => {
    if (!models.open) return;
    const list = await getJson(address("studies", name, "models"), {signal}).then(
      (answer) =>
        answer.models.length
          ? h(
              "ul",
              {},
              answer.models.map(({path, bytes}) =>
                h(
                  "li",
                  {},
                  file(path, address("studies", name, "models", path), path.split("/").pop()),
                  ` ${memory(bytes)}`,
                ),
              ),
            )
          : h("p", {class: "note"}, "No group models yet: the stage “group models” trains them."),
      (error) => problem(error),
    );
    models.lastChild.replaceWith(list);
  });
  return [
    study.report && file("Report", address("studies", name, "report"), `${name}.html`, true),
    ready && file("Affinity (CSV)", affinity("csv"), `${name}_affinity.csv`),
    ready && file("Affinity (Arrow)", affinity("arrow"), `${name}_affinity.arrow`),
    study.groups && file("Groups (JSON)", address("studies", name, "groups"), `${name}_groups.json`),
    file("Config (YAML)", address("studies", name, "config"), `${name}.yaml`),
    study.status === "finished" && models,
  ].filter(Boolean);
}

function showAnalysis(root, name, study, selection, signal) {
  const heatmap = heatmapPanel(selection, study, signal);
  const predict = predictPanel(name, study, selection, signal);
  const groups = groupsPanel(name, study, selection, signal, (found) => heatmap.group(found));
  const fidelity = fidelityPanel(name, study, signal);
  heatmap.whenPartners(predict.askPartners);
  root.replaceChildren(
    h("div", {class: "left"}, heatmap.root, fidelity.root),
    h("div", {class: "right"}, predict.root, groups.root),
  );
  const load = async () => {
    heatmap.loading();
    try {
      const url = Object.assign(address("studies", name, "affinity"), {search: "format=json&centred=true"});
      const matrix = readMatrix(await getJson(url, {signal}));
      heatmap.show(matrix);
      predict.show(matrix.tasks);
      groups.show(matrix.tasks.length);
    } catch (error) {
      if (!signal.aborted) heatmap.failed(error, load);
    }
  };
  load();
  fidelity.load();
}
