// The charts, on Apache ECharts. Points are [x, y, number of the trial].

import { colour, h, number, s, titled, words } from "./dom.js";
import { ascending, scaleOf } from "./scales.js";

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

/** Which of NUM_SHADES equally full classes of the third objective a value is in, and the limits between them. */
function classesOf(values) {
  const sorted = ascending(values.filter((v) => v !== null));
  const limits = Array.from({ length: NUM_SHADES - 1 }, (_, i) => sorted[Math.floor(((i + 1) * sorted.length) / NUM_SHADES)]);
  return { limits, of: (value) => limits.reduce((above, limit) => above + (value >= limit), 0) };
}

/** Of the complete trials: the values of an objective, and those of the front among them. */
function valuesOf(data, objective) {
  const isFront = new Set(data.front);
  const all = data.values[objective.name];
  const at = data.number.map((_, i) => i).filter((i) => data.state[i] === "complete" && all[i] !== null);
  return [at.map((i) => all[i]), at.filter((i) => isFront.has(data.number[i])).map((i) => all[i])];
}

/**
 * Points by class of the third objective, one class where it is null: of the front, and one after the other of all
 * other trials, apart for those within the budgets and those outside.
 */
function pointsOf(data, [x, y], third, scales, fits) {
  const isFront = new Set(data.front);
  const [xs, ys] = [data.values[x.name], data.values[y.name]];
  const thirds = third ? data.values[third.name] : null;
  const classes = third ? classesOf(thirds) : { of: () => 0 };
  const groups = Array.from({ length: third ? NUM_SHADES : 1 }, () => ({ front: [], frontOutside: [], others: [], outside: [] }));
  for (let i = 0; i < data.number.length; i++) {
    if (data.state[i] !== "complete" || xs[i] === null || ys[i] === null || (thirds && thirds[i] === null)) continue;
    const [px, py, n, isWithin] = [scales.x.to(xs[i]), scales.y.to(ys[i]), data.number[i], fits(i)];
    const group = groups[classes.of(thirds ? thirds[i] : 0)];
    if (isFront.has(n)) group[isWithin ? "front" : "frontOutside"].push([px, py, n]);
    else group[isWithin ? "others" : "outside"].push(px, py, n);
  }
  return groups;
}

function nothing(text) {
  return { title: { text, left: "center", top: "middle", textStyle: { color: colour("soft"), fontFamily: FONT, fontSize: 14, fontWeight: "normal" } } };
}

/** The scales of a chart over these objectives; null where no trial is complete. */
export function paretoScales(data, x, y) {
  return data.front.length ? { x: scaleOf(...valuesOf(data, x)), y: scaleOf(...valuesOf(data, y)) } : null;
}

/** The ends of an axis are no round numbers, so only ticks of its own have a label there. */
function ticksOf(scale) {
  return scale.ticks ? { customValues: scale.ticks } : { showMinLabel: false, showMaxLabel: false };
}

function scaledAxis(objective, scale, more) {
  const own = ticksOf(scale);
  const base = axis(titled(objective), { min: scale.first, max: scale.last, ...more });
  return { ...base, axisTick: { ...base.axisTick, ...own }, splitLine: { ...base.splitLine, ...own }, axisLabel: { ...base.axisLabel, ...own, formatter: (v) => number(scale.from(v)) } };
}

/**
 * All trials and the front over two objectives, a third as colour; the knee a diamond, the chosen one ringed, budgets as
 * dashed lines with what is outside of them dimmed. `fits(i)` tells whether a trial keeps the budgets; `isWhole` shows
 * what is far out too; where the user has zoomed, `keepZoom` leaves it so.
 */
export function paretoOption({ data, x, y, third, chosen, budgets, fits, scales, isWhole, keepZoom }) {
  if (!scales) return nothing("No trial is complete yet.");
  const groups = pointsOf(data, [x, y], third, scales, fits);
  const colours = third ? shades() : [colour("point")];
  const cloud = { type: "scatter", large: true, largeThreshold: 500, symbolSize: data.number.length > MANY ? 3 : 5, dimensions: ["x", "y", "trial"] };
  const member = { type: "scatter", symbolSize: third ? 10 : 9, z: 4 };
  const series = colours.flatMap((shade, i) => {
    const style = third ? { color: shade, borderColor: colour("ink"), borderWidth: 1 } : { color: colour("front"), borderColor: colour("card"), borderWidth: 1.5 };
    return [
      { ...cloud, name: "outside", data: Float64Array.from(groups[i].outside), itemStyle: { color: shade, opacity: 0.14 } },
      { ...cloud, name: "trials", data: Float64Array.from(groups[i].others), itemStyle: { color: shade, opacity: third ? 0.45 : 0.75 } },
      { ...member, name: "front outside", data: groups[i].frontOutside, itemStyle: { ...style, opacity: 0.22 } },
      { ...member, name: "front", data: groups[i].front, itemStyle: style },
    ];
  });
  const at = (trial) => {
    const i = data.number.indexOf(trial);
    const point = [data.values[x.name][i] ?? null, data.values[y.name][i] ?? null];
    return point.includes(null) ? [] : [[scales.x.to(point[0]), scales.y.to(point[1]), trial]];
  };
  const lines = [[x, "x"], [y, "y"]].filter(([o]) => budgets[o.name] !== undefined).map(([o, name]) => ({ [`${name}Axis`]: scales[name].to(budgets[o.name]) }));
  series.push(
    { type: "scatter", name: "knee", symbol: "diamond", symbolSize: 15, z: 5, data: at(data.knee), itemStyle: { color: colour("knee"), borderColor: colour("card"), borderWidth: 1.5 },
      label: { show: true, formatter: "knee", position: "top", distance: 8, color: colour("ink"), fontFamily: FONT, fontSize: 12, textBorderColor: colour("card"), textBorderWidth: 3 } },
    { type: "scatter", name: "chosen", symbolSize: 22, z: 6, silent: true, data: at(chosen), itemStyle: { color: "transparent", borderColor: colour("chosen"), borderWidth: 2.5 },
      markLine: { silent: true, symbol: "none", animation: false, label: { show: false }, lineStyle: { color: colour("chosen"), type: "dashed", width: 1.2, opacity: 0.8 }, data: lines } },
  );
  const zoom = (name) => ({ type: "inside", [`${name}AxisIndex`]: 0, filterMode: "none",
    ...(keepZoom ? {} : { startValue: isWhole ? scales[name].first : scales[name].low, endValue: isWhole ? scales[name].last : scales[name].high }) });
  return { animation: false, textStyle: { fontFamily: FONT }, grid: { left: 66, right: 22, top: 22, bottom: 48 },
    xAxis: scaledAxis(x, scales.x), yAxis: scaledAxis(y, scales.y, { nameGap: 50 }), dataZoom: [zoom("x"), zoom("y")], series };
}

/** What the marks and colours of the trade-offs mean, as items of a list. */
export function paretoLegend(data, third, hasBudgets) {
  const mark = (...shapes) => s("svg", { viewBox: "0 0 14 14", "aria-hidden": "true" }, shapes);
  const dot = (fill, more) => s("circle", { cx: 7, cy: 7, r: 5, fill, ...more });
  const item = (shape, label) => h("li", {}, shape, label);
  const items = [
    item(mark(dot(third ? "none" : "var(--front)", third ? { stroke: "var(--ink)", "stroke-width": 1.5 } : {})), "on the front"),
    item(mark(dot("var(--point)", { r: 3 })), "dominated"),
    item(mark(s("path", { d: "M7 1 13 7 7 13 1 7Z", fill: "var(--knee)" })), "knee: nearest to the best of all objectives"),
    item(mark(dot("none", { stroke: "var(--chosen)", "stroke-width": 2.2 })), "chosen"),
  ];
  if (hasBudgets) items.push(item(mark(dot("var(--front)", { opacity: 0.25 })), "outside the budgets"));
  if (!third || !data.front.length) return items;
  const { limits } = classesOf(data.values[third.name]);
  const bounds = limits.map(number);
  const names = shades().map((_, i) => (i === 0 ? `below ${bounds[0]}` : i === NUM_SHADES - 1 ? `from ${bounds[i - 1]}` : `to ${bounds[i]}`));
  const colours = shades().map((shade, i) => item(mark(dot(shade)), names[i]));
  return [...items, h("li", { className: "legend-title" }, `${titled(third)}:`), ...colours];
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

/** Every objective as an axis, better at the bottom; what is far out is drawn at the end of its axis. */
export function parallelOption(data, objectives, chosen, fits) {
  if (!data.front.length) return nothing("No front yet.");
  const isFront = new Set(data.front);
  const complete = data.number.map((_, i) => i).filter((i) => data.state[i] === "complete" && objectives.every((o) => data.values[o.name][i] !== null));
  const others = complete.filter((i) => !isFront.has(data.number[i]));
  const step = Math.max(1, Math.ceil(others.length / 200));
  const scales = objectives.map((o) => scaleOf(...valuesOf(data, o)));
  const line = (i) => objectives.map((o, k) => Math.max(scales[k].low, Math.min(scales[k].high, scales[k].to(data.values[o.name][i]))));
  const group = (rows, style, z) => ({ type: "parallel", silent: true, z, data: rows.map(line), lineStyle: style });
  const members = complete.filter((i) => isFront.has(data.number[i]));
  return {
    animation: false, textStyle: { fontFamily: FONT },
    parallel: { left: 64, right: 64, top: 44, bottom: 20 },
    parallelAxis: objectives.map((o, dim) => ({
      dim, type: "value", min: scales[dim].low, max: scales[dim].high, name: `${words(o.name)}${o.unit ? `\n${o.unit}` : ""}`,
      nameTextStyle: { color: colour("ink"), fontFamily: FONT, lineHeight: 15 }, nameGap: 10,
      inverse: o.direction === "maximize", axisLine: { lineStyle: { color: colour("faint") } }, axisTick: { show: false }, splitNumber: 4, z: 5,
      axisLabel: { color: colour("ink"), formatter: (v) => number(scales[dim].from(v)), fontFamily: FONT, hideOverlap: true, textBorderColor: colour("card"), textBorderWidth: 4,
        ...ticksOf(scales[dim]) },
    })),
    series: [
      group(others.filter((_, i) => i % step === 0), { color: colour("point"), opacity: 0.25, width: 1 }, 1),
      group(members.filter((i) => !fits(i)), { color: colour("front"), opacity: 0.16, width: 1 }, 2),
      group(members.filter(fits), { color: colour("front"), opacity: 0.75, width: 1.4 }, 3),
      group(complete.filter((i) => data.number[i] === chosen), { color: colour("chosen"), opacity: 1, width: 3 }, 4),
    ],
  };
}

function tip(formatter, trigger = "item") {
  return {
    trigger, confine: true, renderMode: "richText", formatter, backgroundColor: colour("ink"), borderWidth: 0,
    textStyle: { color: colour("paper"), fontFamily: FONT, fontSize: 12 },
  };
}
