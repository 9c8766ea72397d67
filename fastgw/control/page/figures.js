// Figures as texts, and the few words in which the page is put together.
// Texts of others (names of engines, keys, models, errors) become text nodes, and never HTML.

export const NONE = "–";

export const find = (id) => document.getElementById(id);

export function make(tag, text = "", kind = "") {
  const made = document.createElement(tag);
  if (text !== "") made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

export function put(node, text) {
  if (node.textContent !== text) node.textContent = text; // (what has not changed is neither drawn nor read out again)
}

const unknown = (value) => value === null || value === undefined;

export function count(value, digits = 1) {
  if (unknown(value)) return NONE;
  if (value >= 1e6) return (value / 1e6).toFixed(1) + " M";
  if (value >= 1e4) return (value / 1e3).toFixed(1) + " k";
  return Number.isInteger(value) ? String(value) : value.toFixed(digits);
}

export function seconds(value) {
  if (unknown(value)) return NONE;
  return value < 1 ? (value * 1000).toFixed(value < 0.01 ? 1 : 0) + " ms" : value.toFixed(2) + " s";
}

// Several times in one unit, that of the longest.
export function spread(values) {
  if (unknown(values)) return NONE;
  const longest = Math.max(...values);
  if (longest >= 1) return values.map((one) => one.toFixed(2)).join(" / ") + " s";
  return values.map((one) => (one * 1000).toFixed(longest < 0.01 ? 1 : 0)).join(" / ") + " ms";
}

export const percent = (share) => (unknown(share) ? NONE : Math.round(share * 100) + " %");
export const clock = (unix) => new Date(unix * 1000).toLocaleTimeString([], { hour12: false });
