// The live page. What it shows comes from the admin API, with the key that was typed, which stays in this tab's session.
// Texts of others (names of engines, keys, models, errors) become text nodes, and never HTML.
"use strict";

const HELD = "fastgw admin key";
const SILENT_MS = 10_000; // the gateway tells once a second: longer than this, and the connection is taken for dead
const MOST_POINTS = 600;
const SPAN_S = 600;
const MOST_ERRORS = 200;

const find = (id) => document.getElementById(id);

function make(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function put(node, text) {
  if (node.textContent !== text) node.textContent = text; // (what has not changed is neither drawn nor read out again)
}

// --- figures as texts
const NONE = "–";

function count(value, digits = 1) {
  if (value === null || value === undefined) return NONE;
  if (value >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(1) + " k";
  return Number.isInteger(value) ? String(value) : value.toFixed(digits);
}

function seconds(value) {
  if (value === null || value === undefined) return NONE;
  return value < 1 ? (value * 1000).toFixed(value < 0.01 ? 1 : 0) + " ms" : value.toFixed(2) + " s";
}

const spread = (values) => (values ? values.map(seconds).join(" / ") : NONE);
const percent = (share) => (share === null || share === undefined ? NONE : Math.round(share * 100) + " %");
const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour12: false });

// --- tables: one row for each name, which stays where it is while its cells change
class Table {
  // columns: [title, of a row its text or [text, kind] or nodes, whether it is a number]
  constructor(id, columns, caption) {
    this.columns = columns;
    this.rows = new Map();
    const table = find(id);
    const title = make("caption", caption, "unseen");
    const head = make("thead");
    const line = head.appendChild(make("tr"));
    for (const [name, , numeric] of columns) {
      line.appendChild(make("th", name, numeric ? "n" : "")).scope = "col";
    }
    this.body = make("tbody");
    table.replaceChildren(title, head, this.body);
  }

  show(rows, key) {
    const left = new Set(this.rows.keys());
    if (!this.empty) {
      this.empty = make("tr");
      const cell = this.empty.appendChild(make("td", "none", "none"));
      cell.colSpan = this.columns.length;
    }
    if (rows.length) this.empty.remove();
    else this.body.append(this.empty);
    let at = this.body.firstElementChild;
    for (const row of rows) {
      const name = key(row);
      left.delete(name);
      let line = this.rows.get(name);
      if (!line) {
        line = make("tr");
        this.columns.forEach(([, , numeric], number) => {
          const cell = line.appendChild(make(number ? "td" : "th", "", numeric ? "n" : ""));
          if (!number) cell.scope = "row";
        });
        this.rows.set(name, line);
      }
      if (line === at) at = at.nextElementSibling;
      else this.body.insertBefore(line, at);
      this.fill(line, row);
    }
    for (const name of left) {
      this.rows.get(name).remove();
      this.rows.delete(name);
    }
  }

  fill(line, row) {
    this.columns.forEach(([, of, numeric], number) => {
      const cell = line.children[number];
      const said = of(row);
      if (said instanceof Node) {
        cell.replaceChildren(said);
        return;
      }
      const [text, kind] = Array.isArray(said) ? said : [said, ""];
      put(cell, text);
      const whole = [numeric ? "n" : "", kind].join(" ").trim();
      if (cell.className !== whole) cell.className = whole;
      if (!numeric && cell.title !== text) cell.title = text; // (a long one is cut off)
    });
  }
}

const HEALTH = { well: ["well", "good"], not_well: ["not well", "bad"], unknown: ["not known yet", "warn"] };
const BREAKER = { closed: "closed", open: ["open", "bad"], half_open: ["half open", "warn"] };

function standing(one) {
  const more = [one.ejected && "ejected", one.resting && "resting"].filter(Boolean);
  const [text, kind] = HEALTH[one.health] || [one.health, ""];
  return more.length ? [[text, ...more].join(", "), "warn"] : [text, kind];
}

const engines = new Table("engines", [
  ["Engine", (one) => one.name],
  ["Health", standing],
  ["Breaker", (one) => BREAKER[one.breaker] || one.breaker],
  ["Under way", (one) => (one.slots ? `${one.inflight} of ${one.slots}` : String(one.inflight)), true],
  ["Requests/s", (one) => count(one.requests_s), true],
  ["Failures/s", (one) => [count(one.failures_s), one.failures_s ? "bad" : ""], true],
  ["Its batch", (one) => count(one.running), true],
  ["Its queue", (one) => count(one.waiting), true],
  ["Its cache", (one) => percent(one.kv_usage), true],
], "Engines: health, breaker and load");

const models = new Table("models", [
  ["Model", (one) => one.name],
  ["Requests/s", (one) => count(one.requests_s), true],
  ["Prompt tokens/s", (one) => count(one.prompt_s), true],
  ["Answer tokens/s", (one) => count(one.completion_s), true],
  ["First token", (one) => spread(one.ttft), true],
  ["Between tokens", (one) => spread(one.itl), true],
], "Models: requests, tokens and latencies");

const runners = new Table("runners", [
  ["Runner", (one) => one.name || one.id],
  ["Engine", (one) => one.engine],
  ["Health", (one) => (one.connected ? HEALTH[one.health] || one.health : ["gone, and waited for", "bad"])],
  ["Under way", (one) => String(one.inflight), true],
  ["Silent for", (one) => seconds(one.silent_s), true],
], "Runners");

const errors = new Table("errors", [
  ["Request", (one) => one.request_id],
  ["Time", (one) => clock(one.at)],
  ["Status", (one) => [String(one.status), one.status >= 500 ? "bad" : ""], true],
  ["Error", (one) => one.error || one.outcome],
  ["Endpoint", (one) => one.endpoint],
  ["Model", (one) => one.model],
  ["Engine", (one) => one.engine],
  ["Key", (one) => one.key_id],
  ["Detail", (one) => one.detail],
], "Requests that did not end well, the latest first");

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

// --- plots: the library's where it is there, else lines of SVG
const PLOTS = [
  ["Requests/s", [["ended", "requests_s"], ["faults", "faults_s"], ["refusals", "refusals_s"]], count],
  ["Tokens/s", [["prompts", "prompt_s"], ["answers", "completion_s"]], count],
  ["First token", [["p50", "ttft_p50"], ["p95", "ttft_p95"]], seconds],
  ["Between tokens", [["p50", "itl_p50"], ["p95", "itl_p95"]], seconds],
  ["Requests", [["under way", "active"], ["waiting", "waiting"]], count],
];
const DASHES = [[], [6, 3], [2, 2]];
const shades = () => {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["one", "two", "three", "soft", "line"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
};

class Drawn {
  // By the library (uPlot): axes, and the values under the pointer.
  constructor(place, series, text, pointed) {
    const shade = shades();
    const colours = [shade.one, shade.two, shade.three];
    const axis = { stroke: shade.soft, grid: { stroke: shade.line, width: 1 }, ticks: { stroke: shade.line }, font: "11px system-ui" };
    this.place = place;
    this.chart = new uPlot({
      width: place.clientWidth || 400,
      height: 130,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false } },
      scales: {
        x: { range: (_, first, last) => [last - SPAN_S, last] },
        y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] },
      },
      axes: [{ ...axis, size: 24, space: 70, values: (_, ticks) => ticks.map((one) => clock(one).slice(0, 5)) }, { ...axis, size: 58, values: (_, ticks) => ticks.map((one) => text(one)) }],
      series: [{}, ...series.map((_, at) => ({ stroke: colours[at], width: 1.5, dash: DASHES[at], points: { show: false } }))],
      hooks: { setCursor: [(chart) => pointed(chart.cursor.idx)] },
    }, [[], ...series.map(() => [])], place);
    this.sizes = new ResizeObserver(() => this.chart.setSize({ width: place.clientWidth, height: 130 }));
    this.sizes.observe(place);
  }

  show(times, columns) {
    this.chart.setData([times, ...columns]);
  }

  end() {
    this.sizes.disconnect();
    this.chart.destroy();
  }
}

const SVG = "http://www.w3.org/2000/svg";

class Sparkline {
  constructor(place, series) {
    const svg = place.appendChild(document.createElementNS(SVG, "svg"));
    svg.setAttribute("viewBox", "0 0 600 100");
    svg.setAttribute("preserveAspectRatio", "none");
    this.svg = svg;
    this.lines = series.map((_, at) => {
      const line = svg.appendChild(document.createElementNS(SVG, "path"));
      line.setAttribute("class", `s${at + 1}`);
      return line;
    });
  }

  show(times, columns) {
    const end = times[times.length - 1] || 0;
    const top = Math.max(1e-9, ...columns.flat().map((one) => one ?? 0)) * 1.1;
    this.lines.forEach((line, at) => {
      let path = "";
      let drawing = false;
      columns[at].forEach((value, number) => {
        if (value === null) {
          drawing = false;
          return;
        }
        path += `${drawing ? "L" : "M"}${(SPAN_S - (end - times[number])).toFixed(1)} ${(100 - (value / top) * 100).toFixed(1)}`;
        drawing = true;
      });
      line.setAttribute("d", path);
    });
  }

  end() {
    this.svg.remove();
  }
}

class Plot {
  constructor([title, series, text]) {
    this.series = series;
    this.text = text;
    this.pointed = null;
    const figure = find("plots").appendChild(make("figure"));
    const caption = figure.appendChild(make("figcaption"));
    caption.appendChild(make("strong", title));
    this.values = series.map(([name], at) => {
      const said = caption.appendChild(make("span", "", `s${at + 1}`));
      said.appendChild(make("i"));
      said.append(`${name} `);
      return said.appendChild(make("b", NONE));
    });
    this.place = figure.appendChild(make("div", "", "plot"));
    this.place.setAttribute("role", "img");
    this.place.setAttribute("aria-label", `${title} over the last ten minutes: ${series.map(([name]) => name).join(", ")}`);
    this.draw();
  }

  draw() {
    if (this.drawn) this.drawn.end();
    const pointed = (at) => {
      this.pointed = at ?? null;
      this.say();
    };
    this.drawn = window.uPlot ? new Drawn(this.place, this.series, this.text, pointed) : new Sparkline(this.place, this.series);
    this.show();
  }

  show() {
    this.columns = this.series.map(([, name]) => past.map((one) => one[name]));
    this.drawn.show(past.map((one) => one.at), this.columns);
    this.say();
  }

  say() {
    if (!this.columns) return;
    this.values.forEach((said, at) => put(said, this.text(this.columns[at][this.pointed ?? past.length - 1])));
  }
}

let names = [];
let past = [];
let plots = null;

const point = (values) => Object.fromEntries(names.map((name, at) => [name, values[at]]));

function remember(one) {
  const last = past[past.length - 1];
  // (Nobody watched meanwhile: the line is broken there.)
  if (last && one.at - last.at > 5) past.push({ ...Object.fromEntries(names.map((name) => [name, null])), at: last.at + 1 });
  past.push(one);
  past.splice(0, past.length - MOST_POINTS);
}

// --- what comes
let known = new Map(); // the health of each engine, as it was told last
let wrong = [];

function onPast(told) {
  names = told.columns;
  past = [];
  told.points.map(point).forEach(remember);
  put(find("version"), told.version);
}

function onErrors(told) {
  const there = new Set(wrong.map((one) => one.number));
  wrong = [...told.filter((one) => !there.has(one.number)).reverse(), ...wrong].slice(0, MOST_ERRORS);
  errors.show(wrong, (one) => one.number);
}

function onNow(told) {
  const now = told.now;
  now.point = point(now.point);
  remember(now.point);
  figures.forEach((node, at) => put(node, FIGURES[at][1](now)));
  if (plots) plots.forEach((one) => one.show());
  else plots = PLOTS.map((one) => new Plot(one));
  const byName = (one, other) => (one.name < other.name ? -1 : 1);
  engines.show(now.engines.sort(byName), (one) => one.name);
  models.show(now.models, (one) => one.name);
  runners.show(told.runners, (one) => one.id);
  put(find("engines-count"), of(now.engines.length, now.engines_total));
  put(find("models-count"), of(now.models.length, now.models_total));
  put(find("runners-count"), of(told.runners.length, told.runners_total));
  find("runners-part").hidden = !told.runners_total;
  cards(told.gpus);
  announce(now.engines);
}

const of = (shown, total) => (shown < total ? `${shown} of ${total}: those that are ill, then the busiest` : String(total));

function announce(list) {
  const said = [];
  for (const one of list) {
    const state = `${HEALTH[one.health] ? HEALTH[one.health][0] : one.health}${one.breaker === "closed" ? "" : ", breaker " + one.breaker.replace("_", " ")}`;
    if (known.has(one.name) && known.get(one.name) !== state) said.push(`${one.name}: ${state}`);
    known.set(one.name, state);
  }
  if (said.length) put(find("told"), said.slice(0, 5).join("; ") + (said.length > 5 ? `; and ${said.length - 5} more` : ""));
  if (known.size > 1000) known = new Map(list.map((one) => [one.name, known.get(one.name)]));
}

function cards(gpus) {
  find("gpus-part").hidden = !gpus || !gpus.length;
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

// --- the admin API
let key = sessionStorage.getItem(HELD) || "";
let following = null; // who may end the stream that is open

const proof = () => ({ Authorization: `Bearer ${key}` });

async function said(answer) {
  try {
    return (await answer.json()).error.message;
  } catch {
    return `The gateway answered ${answer.status}.`;
  }
}

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(method, path, document) {
  const body = document === undefined ? undefined : JSON.stringify(document);
  const headers = body === undefined ? proof() : { ...proof(), "Content-Type": "application/json" };
  const answer = await fetch(path, { method, headers, body, cache: "no-store" });
  if (!answer.ok) throw new Refused(answer.status, await said(answer));
  return answer.status === 204 ? null : answer.json();
}

const ON = { past: onPast, errors: onErrors, now: onNow };

async function read(answer, alive) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    alive();
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const one of events) {
      const lines = one.split("\n");
      const name = (lines.find((line) => line.startsWith("event: ")) || "").slice(7);
      const data = (lines.find((line) => line.startsWith("data: ")) || "").slice(6);
      if (ON[name]) ON[name](JSON.parse(data));
    }
  }
}

async function follow() {
  const mine = (following = new AbortController());
  let pause = 500;
  while (following === mine) {
    const now = new AbortController();
    const stop = () => now.abort();
    mine.signal.addEventListener("abort", stop);
    let watch = setTimeout(stop, SILENT_MS);
    const alive = () => {
      clearTimeout(watch);
      watch = setTimeout(stop, SILENT_MS);
      pause = 500;
    };
    try {
      const answer = await fetch("admin/live", { headers: proof(), cache: "no-store", signal: now.signal });
      if (answer.status === 401 || answer.status === 403) {
        leave(await said(answer));
        return;
      }
      if (answer.ok) {
        enter();
        await read(answer, alive);
      } else if (find("page").hidden) {
        leave(await said(answer));
        return;
      }
    } catch (error) {
      if (following === mine && !(error instanceof TypeError) && error.name !== "AbortError") console.error(error);
    } finally {
      clearTimeout(watch);
      mine.signal.removeEventListener("abort", stop);
    }
    if (following !== mine) return;
    put(find("state"), "The gateway does not answer; trying again");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 10_000);
  }
}

// --- in and out
function enter() {
  put(find("state"), "Connected");
  if (!find("page").hidden) return;
  sessionStorage.setItem(HELD, key);
  find("key").value = "";
  put(find("refused"), "");
  find("login").hidden = true;
  find("page").hidden = find("leave").hidden = false;
  find("main").focus();
  listKeys();
}

function leave(why = "") {
  sessionStorage.removeItem(HELD);
  key = "";
  if (following) following.abort();
  following = null;
  find("page").hidden = find("leave").hidden = true;
  find("login").hidden = false;
  [past, wrong, known] = [[], [], new Map()];
  for (const table of [engines, models, runners, errors, keys]) table.show([], () => "");
  put(find("state"), "Not connected");
  put(find("refused"), why);
  find("key").focus();
}

find("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  put(find("refused"), "");
  put(find("state"), "Connecting");
  follow();
});
find("leave").addEventListener("click", () => leave());

// --- keys
// name, label, kind (text, number, list)
const FIELDS = [
  ["name", "Name", "text"],
  ["tenant", "Tenant", "text"],
  ["expires_at", "Expires (30d, or a time)", "text"],
  ["requests_per_minute", "Requests a minute", "number"],
  ["tokens_per_minute", "Tokens a minute", "number"],
  ["daily_tokens", "Tokens a day", "number"],
  ["concurrency", "Requests at once", "number"],
  ["budget", "Budget", "text"],
  ["models", "Models (commas between)", "list"],
];
const KEPT_AS_TEXT = new Set(["name", "tenant"]);
let listed = [];
let used = new Map();
let edited = null;

const keys = new Table("keys", [
  ["Name", (one) => one.name || one.id],
  ["Id", (one) => one.id],
  ["Tenant", (one) => one.tenant],
  ["State", (one) => (one.disabled ? ["disabled", "warn"] : expired(one) ? ["expired", "warn"] : ["active", "good"])],
  ["Requests today", (one) => count(used.get(one.id)?.requests ?? 0), true],
  ["Tokens today", (one) => count(tokens(used.get(one.id))), true],
  ["Tokens a day", (one) => count(one.daily_tokens), true],
  ["Cost today", (one) => used.get(one.id)?.cost ?? NONE, true],
  ["Do", actions],
], "Keys, and what they have used today");

const tokens = (usage) => (usage ? usage.prompt_tokens + usage.completion_tokens : 0);
const expired = (one) => one.expires_at !== null && Date.parse(one.expires_at) <= Date.now();

function actions(one) {
  const place = document.createDocumentFragment();
  const button = (text, what) => {
    const made = place.appendChild(make("button", text));
    made.type = "button";
    made.setAttribute("aria-label", `${text} ${one.name || one.id}`);
    made.addEventListener("click", what);
  };
  button("Change", () => edit(one));
  const turn = one.disabled ? "enable" : "disable";
  button(one.disabled ? "Enable" : "Disable", async () => {
    await attempt("keys-note", async () => {
      await ask("POST", `admin/keys/${encodeURIComponent(one.id)}/${turn}`);
      await listKeys();
      put(find("keys-note"), `${one.name || one.id} is ${turn}d.`);
      keys.rows.get(one.id)?.querySelector("button:last-of-type").focus();
    });
  });
  return place;
}

async function attempt(note, what) {
  try {
    await what();
    return true;
  } catch (error) {
    if (error.status === 401) leave(error.message);
    put(find(note), error instanceof Refused ? error.message : "The gateway does not answer.");
    return false;
  }
}

async function listKeys(after = "") {
  await attempt("keys-note", async () => {
    const today = new Date().toISOString().slice(0, 10);
    const page = await ask("GET", `admin/keys?limit=100${after && "&after=" + encodeURIComponent(after)}`);
    const usage = await ask("GET", `admin/usage?by=key&limit=10000&from=${today}&to=${today}`);
    used = new Map(usage.data.map((one) => [one.key, one]));
    listed = after ? [...listed, ...page.data] : page.data;
    keys.show(listed, (one) => one.id);
    find("further").hidden = !page.has_more;
    find("further").dataset.after = page.last_id ?? "";
    put(find("keys-note"), listed.length ? "" : "There are no keys yet.");
  });
}

function edit(one) {
  edited = one;
  put(find("edit-title"), one ? `Change ${one.name || one.id}` : "Make a key");
  put(find("edit-wrong"), "");
  find("edit-fields").replaceChildren(...FIELDS.flatMap(([name, label, kind]) => {
    const title = make("label", label);
    const field = make("input");
    title.htmlFor = field.id = `edit-${name}`;
    if (kind === "number") [field.type, field.min, field.step] = ["number", "0", "1"];
    const value = one ? one[name] : "";
    field.value = kind === "list" ? (value || []).join(", ") : value ?? "";
    return [title, field];
  }));
  find("edit").showModal();
}

function given() {
  const fields = {};
  for (const [name, , kind] of FIELDS) {
    const text = find(`edit-${name}`).value.trim();
    const value = kind === "list" ? text.split(",").map((one) => one.trim()).filter(Boolean)
      : text === "" ? (KEPT_AS_TEXT.has(name) ? "" : null) : kind === "number" ? Number(text) : text;
    const before = edited ? edited[name] : kind === "list" ? [] : KEPT_AS_TEXT.has(name) ? "" : null;
    if (JSON.stringify(value) !== JSON.stringify(before)) fields[name] = value;
  }
  return fields;
}

find("edit-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = given();
  await attempt("edit-wrong", async () => {
    const made = !edited ? await ask("POST", "admin/keys", fields)
      : Object.keys(fields).length ? await ask("PATCH", `admin/keys/${encodeURIComponent(edited.id)}`, fields) : null;
    find("edit").close();
    if (made && made.key) {
      put(find("made-key"), made.key);
      find("made").showModal();
    }
    await listKeys();
  });
});
find("edit-close").addEventListener("click", () => find("edit").close());
find("made-close").addEventListener("click", () => find("made").close());
find("made").addEventListener("close", () => put(find("made-key"), ""));
find("made-copy").addEventListener("click", () => navigator.clipboard?.writeText(find("made-key").textContent));
find("make").addEventListener("click", () => edit(null));
find("again").addEventListener("click", () => listKeys());
find("further").addEventListener("click", () => listKeys(find("further").dataset.after));

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots && plots.forEach((one) => one.draw()));
if (key) follow();
else find("key").focus();
