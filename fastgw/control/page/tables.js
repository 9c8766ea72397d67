// Tables: one row for each name, which stays where it is while its cells change.

import { clock, count, find, make, percent, put, seconds, spread } from "./figures.js";

export class Table {
  // columns: [title, of a row its text, or [text, kind], whether it is a number, of a row that number, by which rows can be put in
  // order]. One that fills its cell itself returns nothing.
  constructor(id, columns, caption) {
    this.columns = columns;
    this.rows = new Map();
    const table = find(id);
    const title = make("caption", caption, "unseen");
    const head = make("thead");
    const line = head.appendChild(make("tr"));
    this.heads = columns.map(([name, , numeric, value], number) => {
      const cell = line.appendChild(make("th", value ? "" : name, numeric ? "n" : ""));
      cell.scope = "col";
      if (value) {
        const button = cell.appendChild(make("button", name));
        button.type = "button";
        button.addEventListener("click", () => this.order(number));
      }
      return cell;
    });
    this.ordered = null; // the column, and whether the most comes first
    this.shown = [];
    this.key = null;
    this.body = make("tbody");
    this.empty = make("tr");
    this.empty.appendChild(make("td", "none", "none")).colSpan = columns.length;
    this.body.append(this.empty);
    table.replaceChildren(title, head, this.body);
  }

  // By this column, the most first; pressed again, the least. (What is read out of it is aria-sort.)
  order(number) {
    const most = this.heads[number].getAttribute("aria-sort") !== "descending";
    for (const head of this.heads) head.removeAttribute("aria-sort");
    this.heads[number].setAttribute("aria-sort", most ? "descending" : "ascending");
    this.ordered = [this.columns[number][3], most ? -1 : 1];
    if (this.key) this.show(this.shown, this.key);
  }

  show(given, key) {
    const [value, way] = this.ordered || [() => 0, 1];
    const rows = [...given].sort((one, other) => way * (value(one) - value(other)));
    this.shown = rows;
    this.key = key;
    const left = new Set(this.rows.keys());
    if (rows.length) this.empty.remove();
    else this.body.append(this.empty);
    let at = this.body.firstElementChild;
    for (const row of rows) {
      const name = key(row);
      left.delete(name);
      let line = this.rows.get(name);
      if (!line) this.rows.set(name, (line = this.line()));
      if (line === at) at = at.nextElementSibling;
      else this.body.insertBefore(line, at);
      this.fill(line, row);
    }
    for (const name of left) {
      this.rows.get(name).remove();
      this.rows.delete(name);
    }
  }

  line() {
    const line = make("tr");
    this.columns.forEach(([, , numeric], number) => {
      const cell = line.appendChild(make(number ? "td" : "th", "", numeric ? "n" : ""));
      if (!number) cell.scope = "row";
    });
    return line;
  }

  fill(line, row) {
    this.columns.forEach(([, of, numeric], number) => {
      const cell = line.children[number];
      const said = of(row, cell);
      if (said === undefined) return;
      const [text, kind] = Array.isArray(said) ? said : [said, ""];
      put(cell, text);
      const whole = [numeric ? "n" : "", kind].join(" ").trim();
      if (cell.className !== whole) cell.className = whole;
      if (!numeric && cell.title !== text) cell.title = text; // (a long one is cut off)
    });
  }
}

export const HEALTH = { well: ["well", "good"], not_well: ["not well", "bad"], unknown: ["not known yet", "warn"] };
const BREAKER = { closed: "closed", open: ["open", "bad"], half_open: ["half open", "warn"] };

function standing(one) {
  const more = [one.ejected && "ejected", one.resting && "resting"].filter(Boolean);
  const [text, kind] = HEALTH[one.health] || [one.health, ""];
  return more.length ? [[text, ...more].join(", "), "warn"] : [text, kind];
}

const TIMES = [
  ["First token", (one) => spread(one.ttft), true],
  ["Between tokens", (one) => spread(one.itl), true],
];

export const engines = new Table("engines", [
  ["Engine", (one) => one.name],
  ["Health", standing],
  ["Breaker", (one) => BREAKER[one.breaker] || one.breaker],
  ["Under way", (one) => (one.slots ? `${one.inflight} of ${one.slots}` : String(one.inflight)), true],
  ["Requests/s", (one) => count(one.requests_s), true],
  ["Failures/s", (one) => [count(one.failures_s), one.failures_s ? "bad" : ""], true],
  ...TIMES,
  ["Its batch", (one) => count(one.running), true],
  ["Its queue", (one) => count(one.waiting), true],
  ["Its cache", (one) => percent(one.kv_usage), true],
], "Engines: health, breaker, load and latencies");

export const models = new Table("models", [
  ["Model", (one) => one.name],
  ["Requests/s", (one) => count(one.requests_s), true],
  ["Prompt tokens/s", (one) => count(one.prompt_s), true],
  ["Answer tokens/s", (one) => count(one.completion_s), true],
  ...TIMES,
], "Models: requests, tokens and latencies");

export const runners = new Table("runners", [
  ["Runner", (one) => one.name || one.id],
  ["Engine", (one) => one.engine],
  ["Health", (one) => (one.connected ? HEALTH[one.health] || one.health : ["gone, and waited for", "bad"])],
  ["Under way", (one) => String(one.inflight), true],
  ...TIMES,
  ["Silent for", (one) => seconds(one.silent_s), true],
], "Runners: health, load and latencies");

export const errors = new Table("errors", [
  ["Request", (one) => one.request_id],
  ["Time", (one) => clock(one.at)],
  ["Status", (one) => [String(one.status), one.status >= 500 ? "bad" : ""], true],
  ["Error", (one) => one.error || (one.outcome === "ok" ? "the engine's own" : one.outcome)],
  ["Endpoint", (one) => one.endpoint],
  ["Model", (one) => one.model],
  ["Engine", (one) => one.engine],
  ["Key", (one) => one.key_id],
  ["Detail", (one) => one.detail],
], "Requests that did not end well, the latest first");
