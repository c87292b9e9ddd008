// The charts, on Apache ECharts. Points are [x, y, number of the trial].

import { colour, number, titled, words } from "./dom.js";

const FONT = "ui-sans-serif, system-ui, sans-serif";
const NUM_SHADES = 6;
const MANY = 3000; // from here on as squares of 3 pixels, which ECharts fills without a path
const drawn = new Set();

/** ECharts, which is read beside the page and takes longer than all of it. */
export const library = new Promise((resolve, reject) => {
  if (window.echarts) resolve();
  else {
    const script = document.getElementById("charts");
    script.addEventListener("load", resolve);
    script.addEventListener("error", () => reject(new Error("The charts could not be loaded; reload the page.")));
  }
});

/** A chart that follows the size of its element and the colours of the page. `option` is asked again when they change. */
export class Chart {
  constructor(element, option) {
    this.element = element;
    this.option = option;
    this.chart = echarts.init(element, null, { renderer: "canvas" });
    this.observer = new ResizeObserver(() => this.fit());
    this.observer.observe(element);
    drawn.add(this);
  }

  draw(keepZoom = false) {
    if (keepZoom) this.chart.setOption(this.option(true), { replaceMerge: ["series"] });
    else this.chart.setOption(this.option(false), { notMerge: true });
  }

  /** Resizing draws everything again, so only where the size is another one: an observer also reports the first. */
  fit() {
    const { clientWidth, clientHeight } = this.element;
    if (clientWidth !== this.chart.getWidth() || clientHeight !== this.chart.getHeight()) this.chart.resize();
  }

  close() {
    drawn.delete(this);
    this.observer.disconnect();
    this.chart.dispose();
  }
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((chart) => chart.draw()));

export function closeCharts() {
  drawn.forEach((chart) => chart.close());
}

function axis(name, more) {
  return {
    type: "value", scale: true, name, nameLocation: "middle", nameGap: 30, splitNumber: 5,
    nameTextStyle: { color: colour("soft"), fontFamily: FONT, fontSize: 12 },
    axisLine: { show: false }, axisTick: { show: false },
    splitLine: { lineStyle: { color: colour("line") } },
    axisLabel: { color: colour("soft"), fontFamily: FONT, hideOverlap: true, formatter: number },
    ...more,
  };
}

function frame(x, y, more) {
  return {
    animation: false, textStyle: { fontFamily: FONT },
    grid: { left: 62, right: 18, top: 16, bottom: 48 },
    xAxis: axis(x), yAxis: axis(y, { nameGap: 46 }),
    ...more,
  };
}

function mixed(from, to, share) {
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const [a, b] = [parts(from), parts(to)];
  return `rgb(${a.map((v, i) => Math.round(v + (b[i] - v) * share)).join(",")})`;
}

function shades() {
  return Array.from({ length: NUM_SHADES }, (_, i) => mixed(colour("b1"), colour("b2"), i / (NUM_SHADES - 1)));
}

function ascending(values) {
  return Float64Array.from(values).sort();
}

/** By trial: which of NUM_SHADES equally full classes of the third objective it is in. */
function classesOf(values) {
  const sorted = ascending(values.filter((v) => v !== null));
  const limits = Array.from({ length: NUM_SHADES - 1 }, (_, i) => sorted[Math.floor(((i + 1) * sorted.length) / NUM_SHADES)]);
  return (value) => limits.reduce((above, limit) => above + (value >= limit), 0);
}

/** Points by class, apart for the front and, one after the other, for all others; one class where `third` is null. */
function pointsOf(data, x, y, third) {
  const isFront = new Set(data.front);
  const [xs, ys] = [data.values[x.name], data.values[y.name]];
  const thirds = third ? data.values[third.name] : null;
  const classOf = third ? classesOf(thirds) : () => 0;
  const count = third ? NUM_SHADES : 1;
  const [front, others] = [0, 1].map(() => Array.from({ length: count }, () => []));
  for (let i = 0; i < data.number.length; i++) {
    if (data.state[i] !== "complete" || xs[i] === null || ys[i] === null || (thirds && thirds[i] === null)) continue;
    const [n, its] = [data.number[i], classOf(thirds ? thirds[i] : 0)];
    if (isFront.has(n)) front[its].push([xs[i], ys[i], n]);
    else others[its].push(xs[i], ys[i], n);
  }
  return { front, others: others.map((flat) => Float64Array.from(flat)) };
}

function nothing(text) {
  return { title: { text, left: "center", top: "middle", textStyle: { color: colour("soft"), fontFamily: FONT, fontSize: 14, fontWeight: "normal" } } };
}

/** Where to begin: without the few worst trials, where those are so far off that they would press the rest together. */
function span(data, objective) {
  const sign = objective.direction === "maximize" ? -1 : 1;
  const sorted = ascending(data.values[objective.name].filter((v) => v !== null).map((v) => sign * v));
  const isFront = new Set(data.front);
  const front = data.values[objective.name].filter((v, i) => isFront.has(data.number[i])).map((v) => sign * v);
  const [best, usual, worst] = [0, 0.95, 1].map((share) => sorted[Math.floor(share * (sorted.length - 1))]);
  const most = Math.max(usual, ...front);
  if (sorted.length < 20 || worst - most < 0.5 * (most - best)) return {};
  const limit = sign * (most + 0.1 * (most - best));
  return sign > 0 ? { endValue: limit } : { startValue: limit };
}

/** All trials and the front over two objectives, a third as colour; the chosen one ringed, budgets as dashed lines. */
export function paretoOption({ data, x, y, third, chosen, budgets, keepZoom }) {
  if (!data.front.length) return nothing("No trial is complete yet.");
  const { front, others } = pointsOf(data, x, y, third);
  const colours = third ? shades() : [colour("point")];
  const series = colours.flatMap((shade, i) => [
    { type: "scatter", name: "trials", large: true, largeThreshold: 500, symbolSize: data.number.length > MANY ? 3 : 4, dimensions: ["x", "y", "trial"], data: others[i], itemStyle: { color: shade, opacity: third ? 0.45 : 0.75 } },
    { type: "scatter", name: "front", symbolSize: third ? 10 : 9, z: 4, data: front[i],
      itemStyle: third ? { color: shade, borderColor: colour("ink"), borderWidth: 1 } : { color: colour("front"), borderColor: colour("card"), borderWidth: 1.5 } },
  ]);
  const at = data.number.indexOf(chosen);
  const ring = [[x, y].map((o) => data.values[o.name][at] ?? null)].filter((point) => !point.includes(null));
  const lines = [[x, "xAxis"], [y, "yAxis"]].filter(([o]) => budgets[o.name] !== undefined).map(([o, name]) => ({ [name]: budgets[o.name] }));
  series.push({
    type: "scatter", name: "chosen", symbolSize: 20, z: 6, silent: true, data: ring,
    itemStyle: { color: "transparent", borderColor: colour("chosen"), borderWidth: 2.5 },
    markLine: { silent: true, symbol: "none", animation: false, label: { show: false }, lineStyle: { color: colour("chosen"), type: "dashed", width: 1.2, opacity: 0.8 }, data: lines },
  });
  return frame(titled(x), titled(y), {
    dataZoom: [{ type: "inside", xAxisIndex: 0, filterMode: "none", ...(keepZoom ? {} : span(data, x)) },
      { type: "inside", yAxisIndex: 0, filterMode: "none", ...(keepZoom ? {} : span(data, y)) }],
    series,
  });
}

export function growthOption(points) {
  return frame("trials", "share of the present", {
    tooltip: tip((p) => `after ${p[0].value[0]} trials: ${number(p[0].value[1])}`, "axis"),
    series: [{ type: "line", step: "end", showSymbol: false, data: points, lineStyle: { color: colour("front"), width: 2 }, areaStyle: { color: colour("front"), opacity: 0.09 } }],
  });
}

export function agreementOption(rows, unit) {
  const ends = rows.flatMap((r) => [r.predicted, r.value]);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  return frame(`predicted (${unit})`, `measured (${unit})`, {
    tooltip: tip((p) => `trial ${p.data[2]}: predicted ${number(p.data[0])}, measured ${number(p.data[1])} ${unit}`),
    series: [
      { type: "line", silent: true, showSymbol: false, data: [[low, low], [high, high]], lineStyle: { color: colour("faint"), type: "dashed", width: 1 } },
      { type: "scatter", symbolSize: 9, data: rows.map((r) => [r.predicted, r.value, r.number]), itemStyle: { color: colour("front"), borderColor: colour("card"), borderWidth: 1 } },
    ],
  });
}

export function parallelOption(data, objectives, chosen) {
  if (!data.front.length) return nothing("No front yet.");
  const isFront = new Set(data.front);
  const complete = data.number.map((_, i) => i).filter((i) => data.state[i] === "complete" && objectives.every((o) => data.values[o.name][i] !== null));
  const others = complete.filter((i) => !isFront.has(data.number[i]));
  const step = Math.max(1, Math.ceil(others.length / 200));
  const line = (i) => objectives.map((o) => data.values[o.name][i]);
  const group = (numbers, style, z) => ({ type: "parallel", silent: true, z, data: numbers.map(line), lineStyle: style });
  return {
    animation: false, textStyle: { fontFamily: FONT },
    parallel: { left: 46, right: 46, top: 38, bottom: 24 },
    parallelAxis: objectives.map((o, dim) => ({
      dim, name: words(o.name), scale: true, nameTextStyle: { color: colour("ink"), fontFamily: FONT },
      inverse: o.direction === "maximize", axisLine: { lineStyle: { color: colour("faint") } }, axisTick: { show: false },
      axisLabel: { color: colour("ink"), formatter: number, fontFamily: FONT, textBorderColor: colour("card"), textBorderWidth: 4 }, nameGap: 16, splitNumber: 4, z: 5,
    })),
    series: [
      group(others.filter((_, i) => i % step === 0), { color: colour("point"), opacity: 0.25, width: 1 }, 1),
      group(complete.filter((i) => isFront.has(data.number[i])), { color: colour("front"), opacity: 0.75, width: 1.4 }, 2),
      group(complete.filter((i) => data.number[i] === chosen), { color: colour("chosen"), opacity: 1, width: 3 }, 3),
    ],
  };
}

function tip(formatter, trigger = "item") {
  return {
    trigger, confine: true, renderMode: "richText", formatter, backgroundColor: colour("ink"), borderWidth: 0,
    textStyle: { color: colour("paper"), fontFamily: FONT, fontSize: 12 },
  };
}
