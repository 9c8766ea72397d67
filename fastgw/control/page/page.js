// The live page: who is let in, and what is shown of what comes.

import { NONE, count, find, make, put, spread } from "./figures.js";
import * as gateway from "./gateway.js";
import * as keys from "./keys.js";
import * as plots from "./plots.js";
import { HEALTH, engines, errors, models, runners } from "./tables.js";

const MOST_ERRORS = 200;
const MOST_KNOWN = 1000;
const MOST_TOLD = 5;

// --- figures of this second
const FIGURES = [
  ["Requests/s", (now) => count(now.point.requests_s)],
  ["Faults/s", (now) => count(now.point.faults_s)],
  ["Refusals/s", (now) => count(now.point.refusals_s)],
  ["Under way", (now) => count(now.point.active)],
  ["Waiting", (now) => count(now.point.waiting)],
  ["Prompt tokens/s", (now) => count(now.point.prompt_s)],
  ["Answer tokens/s", (now) => count(now.point.completion_s)],
  ["First token, p50 / p95", (now) => spread(now.ttft && now.ttft.slice(0, 2))],
  ["Between tokens, p50 / p95", (now) => spread(now.itl && now.itl.slice(0, 2))],
  ["Connections", (now) => count(now.connections)],
  ["Engines well", (now) => `${now.engines_well} of ${now.engines_total}`],
];
const figures = FIGURES.map(([title]) => {
  const pair = find("now").appendChild(make("div"));
  pair.appendChild(make("dt", title));
  return pair.appendChild(make("dd", NONE));
});

// --- what comes
let known = new Map(); // the health of each engine, as it was told last
let wrong = [];

const of = (shown, total) => (shown < total ? `${shown} of ${total}: those that are ill, then the busiest` : String(total));

function onPast(told) {
  plots.begin(told.columns, told.points);
  put(find("version"), told.version);
}

// (A gateway that starts again begins with the first number again.)
const which = (one) => `${one.number} ${one.at}`;

function onErrors(told) {
  const there = new Set(wrong.map(which));
  wrong = [...told.filter((one) => !there.has(which(one))).reverse(), ...wrong].slice(0, MOST_ERRORS);
  errors.show(wrong, which);
}

function onNow(told) {
  const now = told.now;
  now.point = plots.add(now.point);
  figures.forEach((node, at) => put(node, FIGURES[at][1](now)));
  const byName = (one, other) => (one.name < other.name ? -1 : 1);
  engines.show(now.engines.sort(byName), (one) => one.name);
  models.show(now.models, (one) => one.name);
  runners.show(told.runners, (one) => one.id);
  put(find("engines-count"), of(now.engines.length, now.engines_total));
  put(find("models-count"), of(now.models.length, now.models_total));
  put(find("runners-count"), of(told.runners.length, told.runners_total));
  find("runners-part").hidden = !told.runners_total;
  cards(told.gpus, told.gpu_driver);
  announce(now.engines);
}

// To who does not see it: what has changed, and not what only moves.
function announce(list) {
  const said = [];
  for (const one of list) {
    const [health] = HEALTH[one.health] || [one.health];
    const state = health + (one.breaker === "closed" ? "" : `, breaker ${one.breaker.replace("_", " ")}`);
    if (known.has(one.name) && known.get(one.name) !== state) said.push(`${one.name}: ${state}`);
    known.set(one.name, state);
  }
  const more = said.length - MOST_TOLD;
  if (said.length) put(find("told"), said.slice(0, MOST_TOLD).join("; ") + (more > 0 ? `; and ${more} more` : ""));
  if (known.size > MOST_KNOWN) known = new Map(list.map((one) => [one.name, known.get(one.name)]));
}

function cards(gpus, driver) {
  const silent = driver && driver.driver !== "ok" && driver.driver !== "starting";
  find("gpus-part").hidden = !silent && (!gpus || !gpus.length);
  find("gpus-driver").hidden = !silent;
  if (silent) put(find("gpus-driver"), `The driver does not answer (${driver.driver}): ${driver.detail}`);
  if (!gpus) return;
  const list = find("gpus");
  while (list.children.length > gpus.length) list.lastElementChild.remove();
  gpus.forEach((one, at) => {
    let card = list.children[at];
    if (!card) {
      card = list.appendChild(make("li"));
      card.append(make("strong"), make("p"), make("progress"), make("p"));
      card.children[2].max = 100;
    }
    const [name, busy, bar, rest] = card.children;
    put(name, `${one.index}: ${one.name}${one.up ? "" : " (does not answer)"}`);
    name.className = one.up ? "" : "bad";
    put(busy, `busy ${one.busy_percent === null ? NONE : Math.round(one.busy_percent) + " %"}`);
    bar.value = one.busy_percent ?? 0;
    bar.setAttribute("aria-label", `GPU ${one.index} busy`);
    put(rest, `${count(one.used_gib)} of ${count(one.total_gib)} GiB · ${count(one.celsius, 0)} °C · ${count(one.watts, 0)} W`);
  });
}

// --- in and out
function enter() {
  put(find("state"), "Connected");
  if (!find("page").hidden) return;
  gateway.keep();
  find("key").value = "";
  put(find("refused"), "");
  find("login").hidden = true;
  find("page").hidden = find("leave").hidden = false;
  find("main").focus();
  keys.list();
}

function leave(why = "") {
  gateway.forget();
  keys.forget();
  plots.forget();
  find("page").hidden = find("leave").hidden = true;
  find("login").hidden = false;
  [wrong, known] = [[], new Map()];
  for (const table of [engines, models, runners, errors]) table.show([], () => "");
  put(find("state"), "Not connected");
  put(find("refused"), why);
  find("key").focus();
}

// Whether that is the end: a key that is refused, or whoever never got in.
function refused(error) {
  const ends = error.status === 401 || error.status === 403 || find("page").hidden;
  if (ends) leave(error.message);
  return ends;
}

function follow() {
  gateway.follow({ past: onPast, errors: onErrors, now: onNow }, {
    entered: enter,
    lost: () => put(find("state"), "The gateway does not answer; trying again"),
    refused,
  });
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  gateway.take(find("key").value.trim());
  put(find("refused"), "");
  put(find("state"), "Connecting");
  follow();
});
find("leave").addEventListener("click", () => leave());
keys.onRefused(leave);

if (gateway.held()) follow();
else find("key").focus();
