// The plots of the live page, drawn by uPlot from the figures that come with the tables.
import { byId, onPart } from "./common.js";

const KEPT = 300; // seconds
const LABELS = 6;
const HEIGHT = 180;
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const samples = [];
let plots = [];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

// What stands in the place of the whole server when one model is watched.
function watched(figures) {
  return figures.models.find((model) => model.full === byId("watched").value) ?? figures;
}

function values(name) {
  return samples.map((sample) => watched(sample.figures)[name] ?? null);
}

// The last two seconds are what came since the figures before.
function rate(figures) {
  const one = watched(figures);
  return one.per_second ? (one.per_second.at(-1) + one.per_second.at(-2)) / 2 : (one.requests_per_second ?? null);
}

// The pace of a counter between two samples; a server that began anew has none.
function pace(count) {
  return samples.map((sample, at) => {
    const before = samples[at - 1];
    const [a, b] = [before && count(before.figures), count(sample.figures)];
    return a == null || b == null || b < a ? null : (b - a) / (sample.at - before.at);
  });
}

function errors(figures) {
  const one = watched(figures);
  if (one !== figures) return one.errors ?? null;
  const known = figures.models.map((model) => model.errors).filter((count) => count != null);
  return known.length ? known.reduce((a, b) => a + b, 0) : null;
}

function classes(figures) {
  const one = watched(figures);
  return one === figures ? busiest(figures)?.classes : one.classes;
}

// Of all models, the one that has answered most is shown by its labels.
function busiest(figures) {
  const sum = (model) => Object.values(model.classes).reduce((a, b) => a + b, 0);
  return figures.models.reduce((best, model) => (best && sum(best) >= sum(model) ? best : model), undefined);
}

// A sample from before the page was opened knows of no labels.
function counted(figures, label) {
  const counts = classes(figures);
  return counts && (counts[label] ?? 0);
}

function likeliest() {
  const last = classes(samples.at(-1).figures) ?? {};
  return Object.keys(last).sort((a, b) => last[b] - last[a]).slice(0, LABELS).sort(); // a label keeps its colour
}

// Each plot: its series, by name, from the samples.
const SERIES = {
  rate: () => [["requests", samples.map((sample) => rate(sample.figures))]],
  latency: () => [["p50", values("p50_ms")], ["p95", values("p95_ms")], ["p99", values("p99_ms")]],
  queue: () => [["waiting", samples.map((sample) => sample.figures.queue_depth)], ["errors", pace(errors)]],
  classes: () => likeliest().map((label) => [label, pace((figures) => counted(figures, label))]),
};

function axis(more) {
  return { stroke: colour("quiet"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, ...more };
}

function make(name, series) {
  const place = byId(`plot-${name}`).querySelector(".plot");
  place.replaceChildren();
  const clock = (_, ticks) => ticks.map((tick) => new Date(1000 * tick).toLocaleTimeString("en", CLOCK));
  const lines = series.map(([label], at) => ({ label, stroke: colour(`series-${at}`), width: 2, spanGaps: false, points: { size: 5 }, value: (_, v) => (v == null ? "–" : v.toPrecision(3)) }));
  const options = {
    width: place.clientWidth,
    height: HEIGHT,
    padding: [8, 24, 0, 0],
    cursor: { drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    axes: [axis({ values: clock, space: 90 }), axis({ size: 56 })],
    series: [{ label: "time", value: (_, v) => (v == null ? "–" : new Date(1000 * v).toLocaleTimeString("en", CLOCK)) }, ...lines],
  };
  return new uPlot(options, [samples.map((sample) => sample.at), ...series.map(([, line]) => line)], place);
}

function labelled() {
  const { figures } = samples.at(-1);
  return byId("watched").value || busiest(figures)?.full || "";
}

function draw() {
  if (!samples.length) return;
  for (const name of Object.keys(SERIES)) {
    const series = SERIES[name]().filter(([, line]) => line.some((value) => value != null) || name !== "classes");
    const shown = series.filter(([, line]) => line.some((value) => value != null));
    const key = JSON.stringify(shown.map(([label]) => label));
    byId(`plot-${name}`).hidden = !shown.length;
    if (name === "classes") byId("plot-classes").querySelector("figcaption span").textContent = labelled();
    const known = plots.find((plot) => plot.name === name);
    if (!shown.length) continue;
    if (known?.key === key) {
      known.plot.setData([samples.map((sample) => sample.at), ...shown.map(([, line]) => line)]);
    } else {
      known?.plot.destroy();
      plots = plots.filter((plot) => plot !== known).concat({ name, key, plot: make(name, shown) });
    }
  }
}

function redraw() {
  for (const { plot } of plots) plot.destroy();
  plots = [];
  draw();
}

// The models by name, with the whole server first; the choice stays.
function list(figures) {
  const select = byId("watched");
  const names = ["", ...figures.models.map((model) => model.full)];
  if (names.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  const now = select.value;
  select.replaceChildren(...names.map((name) => new Option(name || "all", name, false, name === now)));
}

// The server keeps ten seconds of requests: they are the first points of the plot.
function remember(figures) {
  const at = Date.now() / 1000;
  if (!samples.length) {
    const past = figures.per_second ?? [];
    past.forEach((rate, i) => samples.push({ at: at - past.length + i, figures: { requests_per_second: rate, queue_depth: null, models: [] } }));
  }
  samples.push({ at, figures });
  while (samples[0].at < at - KEPT) samples.shift();
}

onPart("live", (place) => {
  const figures = JSON.parse(place.querySelector("#drawn").dataset.figures);
  list(figures);
  remember(figures);
  draw();
});
byId("watched").addEventListener("change", redraw);
byId("pause").addEventListener("click", (event) => {
  const paused = document.body.toggleAttribute("data-paused");
  event.target.setAttribute("aria-pressed", String(paused));
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
new ResizeObserver(() => {
  for (const { name, plot } of plots) plot.setSize({ width: byId(`plot-${name}`).clientWidth, height: HEIGHT });
}).observe(byId("plots"));
