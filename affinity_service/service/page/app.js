// The page's views by address: `#/` lists the studies, `#/study/NAME` shows one.

import {address, forgetToken, getJson, hasToken} from "./api.js";
import {h, problem} from "./dom.js";
import {showStudies} from "./studies.js";
import {showStudy} from "./study.js";

const main = document.getElementById("content");
let leave = new AbortController();
let first = true;

async function route() {
  leave.abort();
  const here = (leave = new AbortController());
  const [, view, name] = location.hash.split("/");
  const study = view === "study" && name ? decodeName(name) : null;
  document.title = study === null ? "Studies – Task affinity" : `${study} – Task affinity`;
  main.replaceChildren();
  main.setAttribute("aria-busy", "true");
  try {
    const who = await getJson(address("whoami"), {signal: here.signal});
    greet(who);
    await (study === null ? showStudies(main, who, here.signal) : showStudy(main, study, who, here.signal));
  } catch (error) {
    if (here.signal.aborted) return;
    main.replaceChildren(
      h("h1", {tabindex: "-1"}, study ?? "Studies"),
      problem(error, route),
      study !== null && h("p", {}, h("a", {href: "#/"}, "All studies")),
    );
  }
  if (here.signal.aborted) return;
  main.removeAttribute("aria-busy");
  // A reader who followed a link starts at the top of the new view, not at the link that is gone.
  if (!first) main.querySelector("h1")?.focus();
  first = false;
}

function decodeName(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

function greet({scope, version}) {
  // Links cannot send a token.
  document.querySelector(".bottom").hidden = scope !== "local";
  const may =
    {read: "may read", write: "may read and run studies", local: "this machine only, no token needed"}[scope] ?? scope;
  const forget = () => {
    forgetToken();
    location.reload();
  };
  document
    .getElementById("who")
    .replaceChildren(
      h("span", {}, may),
      h("span", {}, `version ${version}`),
      ...(hasToken() ? [h("button", {type: "button", onclick: forget}, "Forget token")] : []),
    );
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("hashchange", route);
route();
