// The last ten minutes as plots: by the library where it is there (uPlot), else as lines of SVG.

import { NONE, clock, count, find, make, put, seconds } from "./figures.js";

const MOST_POINTS = 600;
const SPAN_S = 600;
const BREAK_S = 5; // between two points that are further apart nobody watched: the line is broken there

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

let names = []; // of a point's values, as the gateway tells them
let past = [];
let plots = [];

const named = (values) => Object.fromEntries(names.map((name, at) => [name, values[at]]));

function remember(one) {
  const last = past[past.length - 1];
  if (last && one.at - last.at > BREAK_S) past.push({ ...named(names.map(() => null)), at: last.at + 1 });
  past.push(one);
  past.splice(0, past.length - MOST_POINTS);
}

export function begin(columns, points) {
  names = columns;
  past = [];
  points.map(named).forEach(remember);
}

// One second more; returns what it says by its names.
export function add(values) {
  const one = named(values);
  remember(one);
  if (plots.length) plots.forEach((plot) => plot.show());
  else plots = PLOTS.map((plot) => new Plot(plot));
  return one;
}

export function forget() {
  past = [];
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plots.forEach((one) => one.draw()));
