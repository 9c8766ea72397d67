// Keys: listed, made, changed, disabled, enabled, given a new text, deleted. What cannot be undone is asked for twice, and a text
// is shown once: it is kept nowhere, and gone when its window is closed.

import { NONE, count, find, make, put } from "./figures.js";
import { Refused, ask } from "./gateway.js";
import { Table } from "./tables.js";

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
const PAGE = 100;

let listed = [];
let used = new Map();
let edited = null;
let sure = null; // what is done when that is said
let refused = () => {};
let busy = false; // something is being done that somebody has confirmed
let asked = 0; // lists so far: of two that are on their way the later one holds,
let changes = 0; // and none that was on its way while something changed

const called = (one) => one.name || one.id;
const tokens = (usage) => (usage ? usage.prompt_tokens + usage.completion_tokens : 0);
const requests = (one) => used.get(one.id)?.requests ?? 0;
const past = (time) => time !== null && Date.parse(time) <= Date.now();
const address = (one, what = "") => `admin/keys/${encodeURIComponent(one.id)}${what}`;

function state(one) {
  if (one.disabled) return ["disabled", "warn"];
  if (past(one.expires_at)) return ["expired", "warn"];
  return one.previous_until && !past(one.previous_until) ? "active, and its old text" : ["active", "good"];
}

const table = new Table("keys", [
  ["Name", called],
  ["Do", buttons],
  ["State", state],
  ["Tenant", (one) => one.tenant],
  ["Requests today", (one) => count(requests(one)), true, requests],
  ["Tokens today", (one) => count(tokens(used.get(one.id))), true, (one) => tokens(used.get(one.id))],
  ["Tokens a day", (one) => count(one.daily_tokens), true],
  ["Cost today", (one) => used.get(one.id)?.cost ?? NONE, true, (one) => Number(used.get(one.id)?.cost ?? 0)],
  ["Id", (one) => one.id],
], "Keys, and what they have used today");

// (They stay where they are, and keep the focus, while what they do changes.)
function buttons(one, cell) {
  const todo = [
    ["Change", () => edit(one)],
    one.disabled ? ["Enable", () => turn(one, "enable")] : ["Disable", () => turn(one, "disable")],
    ["Rotate", () => rotate(one)],
    ["Delete", () => end(one)],
  ];
  cell.className = "do";
  while (cell.children.length < todo.length) cell.append(make("button"));
  todo.forEach(([text, what], at) => {
    const button = cell.children[at];
    button.type = "button";
    put(button, text);
    button.setAttribute("aria-label", `${text} ${called(one)}`);
    button.onclick = what;
  });
}

const show = () => table.show(listed, (one) => one.id);
const say = (text) => put(find("keys-note"), text);

function changed(now) {
  changes += 1;
  listed = now;
  show();
}

const replaced = (one) => changed(listed.map((other) => (other.id === one.id ? one : other)));

async function attempt(note, what) {
  try {
    put(find(note), "");
    await what();
  } catch (error) {
    if (error.status === 401) refused(error.message);
    put(find(note), error instanceof Refused ? error.message : "The gateway does not answer.");
  }
}

// --- what the page asks for
export const onRefused = (what) => (refused = what);

export function forget() {
  listed = [];
  used = new Map();
  show();
  for (const id of ["edit", "sure", "made"]) find(id).close();
}

export async function list(after = "") {
  await attempt("keys-note", async () => {
    const today = new Date().toISOString().slice(0, 10);
    const mine = ++asked;
    let page, usage, before;
    do {
      before = changes;
      page = await ask("GET", `admin/keys?limit=${PAGE}${after && "&after=" + encodeURIComponent(after)}`);
      usage = await ask("GET", `admin/usage?by=key&limit=10000&from=${today}&to=${today}`);
      if (mine !== asked) return;
    } while (before !== changes);
    used = new Map(usage.data.map((one) => [one.key, one]));
    listed = after ? [...listed, ...page.data] : page.data;
    show();
    find("further").hidden = !page.has_more;
    find("further").dataset.after = page.last_id ?? "";
    if (!listed.length) say("There are no keys yet.");
  });
}

// --- one key
function turn(one, way) {
  attempt("keys-note", async () => {
    replaced(await ask("POST", address(one, `/${way}`)));
    say(`${called(one)} is ${way}d.`);
  });
}

function confirm(title, text, word, grace, what) {
  put(find("sure-title"), title);
  put(find("sure-text"), text);
  put(find("sure-do"), word);
  put(find("sure-wrong"), "");
  find("sure-grace-part").hidden = !grace;
  find("sure-grace").value = "0";
  sure = what;
  find("sure").showModal();
  find("sure-close").focus();
}

function rotate(one) {
  confirm(`Rotate ${called(one)}?`, "It gets a new text, which is shown once. Whoever has the old one must be given the new.",
    "Rotate", true, async () => {
      const { key, ...rest } = await ask("POST", address(one, "/rotate"), { grace_s: Number(find("sure-grace").value) });
      find("sure").close();
      replaced(rest);
      reveal(rest, key);
    });
}

function end(one) {
  confirm(`Delete ${called(one)}?`, "It is refused from now on, for ever. What it has used stays known.", "Delete", false, async () => {
    await ask("DELETE", address(one));
    find("sure").close();
    const at = table.shown.findIndex((other) => other.id === one.id);
    changed(listed.filter((other) => other.id !== one.id));
    const next = table.shown[Math.min(at, table.shown.length - 1)];
    (next ? table.rows.get(next.id).querySelector("button") : find("make")).focus();
    say(`${called(one)} is deleted.`);
  });
}

function reveal(one, text) {
  put(find("made-title"), `The key ${called(one)}`);
  put(find("made-key"), text);
  put(find("made-note"), "");
  find("made").showModal();
}

async function copy() {
  try {
    await navigator.clipboard.writeText(find("made-key").textContent);
    put(find("made-note"), "Copied.");
  } catch {
    getSelection().selectAllChildren(find("made-key"));
    put(find("made-note"), "The browser does not let the page copy here: it is selected, copy it yourself.");
  }
}

// --- its fields
function edit(one) {
  edited = one;
  put(find("edit-title"), one ? `Change ${called(one)}` : "Make a key");
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

async function save() {
  const fields = given();
  if (!edited) {
    const { key, ...rest } = await ask("POST", "admin/keys", fields);
    find("edit").close();
    changed([rest, ...listed]);
    say("");
    reveal(rest, key);
    return;
  }
  if (Object.keys(fields).length) replaced(await ask("PATCH", address(edited), fields));
  find("edit").close();
}

function submits(form, note, what) {
  find(form).addEventListener("submit", async (event) => {
    event.preventDefault();
    if (busy) return; // (pressed twice)
    busy = true;
    await attempt(note, what);
    busy = false;
  });
}

submits("edit-form", "edit-wrong", save);
submits("sure-form", "sure-wrong", () => sure());
for (const id of ["edit", "sure", "made"]) find(`${id}-close`).addEventListener("click", () => find(id).close());
find("made").addEventListener("close", () => put(find("made-key"), ""));
find("made-copy").addEventListener("click", copy);
find("make").addEventListener("click", () => edit(null));
find("again").addEventListener("click", () => list());
find("further").addEventListener("click", () => list(find("further").dataset.after));
