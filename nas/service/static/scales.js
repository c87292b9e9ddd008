// Where an axis begins and ends, and whether it counts in powers of ten.

const FAR_OUT = 3; // times the width of the middle half of the values, beyond it: Tukey's "far out"
const LOG_DECADES = 1.3; // from here on a linear axis would press most of the values together

export function ascending(values) {
  return Float64Array.from(values).sort();
}

function quantile(sorted, share) {
  return sorted[Math.round(share * (sorted.length - 1))];
}

/** The smallest and largest of the values that are not far out. */
function fenced(values) {
  const sorted = ascending(values);
  let [low, high] = [quantile(sorted, 0.25), quantile(sorted, 0.75)];
  if (low === high) [low, high] = [quantile(sorted, 0.05), quantile(sorted, 0.95)];
  const reach = low === high ? Infinity : FAR_OUT * (high - low);
  const inside = sorted.filter((v) => v >= low - reach && v <= high + reach);
  return [inside[0], inside[inside.length - 1]];
}

/** What both hold: the best trials may lie far from the others, and one of them far from the best. */
function windowOf(values, best) {
  const ends = [fenced(values), ...(best.length ? [fenced(best)] : [])];
  return [Math.min(...ends.map(([low]) => low)), Math.max(...ends.map(([, high]) => high))];
}

function padded(low, high) {
  const margin = 0.04 * (high - low || Math.abs(high) || 1);
  return [low - margin, high + margin];
}

/**
 * The axis of `values`, of which `best` are those of the front: `to` places a value on it and `from` reads it off.
 * [low, high] are its ends where what is far out is left aside, [first, last] where nothing is; both as placed.
 */
export function scaleOf(values, best) {
  const logs = values.every((v) => v > 0) && values.length > 1 ? [values, best].map((some) => some.map(Math.log10)) : null;
  const isLog = logs !== null && windowOf(...logs)[1] - windowOf(...logs)[0] >= LOG_DECADES;
  const [placed, placedBest] = isLog ? logs : [values, best];
  const sorted = ascending(placed);
  const [low, high] = padded(...windowOf(placed, placedBest));
  const [first, last] = padded(sorted[0], sorted[sorted.length - 1]);
  const to = (v) => (isLog ? Math.log10(v) : v);
  return { isLog, low, high, first, last, to, from: (v) => (isLog ? 10 ** v : v), ticks: isLog ? decadesIn(first, last, high - low) : null,
    outside: placed.filter((v) => v < low || v > high).length };
}

/** The powers of ten between two powers; 1, 2 and 5 times each where few decades are seen at once. */
function decadesIn(first, last, decadesSeen) {
  const powers = Array.from({ length: Math.ceil(last) - Math.floor(first) + 1 }, (_, i) => Math.floor(first) + i);
  const steps = decadesSeen > 4 ? [1] : [1, 2, 5];
  return powers.flatMap((p) => steps.map((step) => p + Math.log10(step))).filter((v) => v >= first && v <= last);
}
