"use strict";
// The charts, drawn by Observable Plot as SVG: colours are CSS variables, so that they follow
// the theme, and print sharp.

const METRICS = {
  size: { label: "Weights", value: (step) => step.weight_bytes, text: sizeText },
  nodes: { label: "Nodes", value: (step) => step.nodes, text: (n) => n.toLocaleString("en").replace("-", "−") },
  latency: {
    label: "Latency", value: (step) => step.latency_ratio === null ? null : 100 * step.latency_ratio,
    text: (percent) => `${percent.toFixed(1)} %`.replace("-", "−"),
  },
};

/** Return the bars: original, what each pass that changed it added, result. */
function waterfallBars(start, steps, name) {
  const metric = METRICS[name];
  const bars = [{ label: "original", from: 0, to: metric.value(start), total: true }];
  let last = metric.value(start);
  let same = 0;
  for (const step of steps.filter((one) => !one.left_out)) {
    const value = metric.value(step);
    if (value === null || value === last) {
      same += 1;
      continue;
    }
    // Of passes that run in turn only the nodes are told apart.
    const parts = name === "nodes" ? step.parts.filter((part) => part.nodes_delta) : [];
    for (const part of parts) {
      bars.push({ label: part.label, from: last, to: last + part.nodes_delta });
      last += part.nodes_delta;
    }
    if (value !== last) bars.push({ label: step.label, from: last, to: value });
    last = value;
  }
  bars.push({ label: "result", from: 0, to: last, total: true });
  return { bars, same };
}

/** Return how to write sizes that are `step` apart: in the unit of `most`. */
function byteTicks(step, most) {
  const unit = Math.min(3, Math.max(0, Math.floor(Math.log10(most || 1) / 3)));
  const digits = Math.max(0, Math.min(6, Math.ceil(-Math.log10((step || 1) / 1000 ** unit))));
  return (bytes) => `${(bytes / 1000 ** unit).toFixed(digits)} ${["B", "kB", "MB", "GB"][unit]}`;
}

function waterfall(place, start, steps, name, width) {
  const metric = METRICS[name];
  const { bars, same } = waterfallBars(start, steps, name);
  const ends = bars.flatMap((bar) => (bar.total ? [bar.to] : [bar.from, bar.to]));
  const [least, most] = [Math.min(...ends), Math.max(...ends)];
  // Small changes of a large total would be too thin to see.
  const cut = least > 0.6 * most && most > least;
  const left = cut ? Math.max(0, least - 0.5 * (most - least)) : 0;
  const margin = Math.round(Math.min(230, width * 0.34));
  const room = Math.max(8, Math.floor(margin / 7.2));
  const keys = bars.map((_, index) => index);
  const ticks = Math.max(2, Math.floor(width / 160));
  const tick = name === "size" ? byteTicks(d3.tickStep(left, most, ticks), most) : metric.text;
  const colour = (bar) => bar.total ? "var(--was)" : bar.to < bar.from ? "var(--good)" : "var(--bad)";
  const amount = (bar) => bar.total ? metric.text(bar.to)
    : `${bar.to > bar.from ? "+" : ""}${metric.text(bar.to - bar.from)}`;
  const right = 84;
  const chart = Plot.plot({
    width: width - 2, height: 36 + 27 * bars.length, marginLeft: margin, marginRight: right, marginTop: 4,
    style: { background: "none", fontSize: "12px" },
    ariaLabel: `${metric.label} after each pass: ${bars.map((bar) => `${short(bar.label, 60)} ${amount(bar)}`).join("; ")}`,
    x: { domain: [left, most * (cut ? 1 : 1.0001)], label: null, ticks, tickFormat: tick, grid: true },
    y: { domain: keys, label: null, tickSize: 0, tickFormat: (key) => short(bars[key].label, room) },
    marks: [
      Plot.barX(keys, {
        y: (key) => key, x1: (key) => Math.max(left, Math.min(bars[key].from, bars[key].to)),
        x2: (key) => Math.max(bars[key].from, bars[key].to), fill: (key) => colour(bars[key]),
        insetTop: 3, insetBottom: 3, rx: 2, title: (key) => `${short(bars[key].label, 300)}\n${amount(bars[key])}`,
      }),
      Plot.text(keys, {
        y: (key) => key, x: (key) => Math.max(bars[key].from, bars[key].to), text: (key) => amount(bars[key]),
        textAnchor: "start", dx: 5, fill: "var(--ink)",
      }),
    ],
  });
  const about = [];
  if (same) about.push(`${same} ${same === 1 ? "pass" : "passes"} did not change it.`);
  if (cut) about.push("The axis does not start at 0.");
  if (name === "size") about.push("Bytes of all weights.");
  if (name === "latency") about.push("Measured in turn with the original, which is 100 %.");
  chart.setAttribute("role", "img");
  show(place, chart, element("figcaption", {}, about.join(" ")));
}

/** Return what became of a choice of a search. */
function placeText(point) {
  if (point.is_best) return "taken";
  if (point.speedup === null) return "not timed";
  return point.on_front ? "front" : "beaten";
}

function paretoChart(place, points, about, width) {
  const known = points.filter((one) => one.quality !== null && one.speedup !== null);
  const front = known.filter((one) => one.on_front).sort((a, b) => a.speedup - b.speedup);
  const chart = Plot.plot({
    width: width - 2, height: Math.min(340, 200 + width / 5), marginLeft: 58, marginBottom: 46, marginTop: 24, marginRight: 30,
    style: { background: "none", fontSize: "12px" },
    ariaLabel: `Quality against speed, ${known.length} choices, the front: ${front.map((one) => `${one.name} ${one.speedup.toFixed(2)} times as fast, ${figureText(one.quality)}`).join("; ")}`,
    x: { label: "times as fast as the original →", labelAnchor: "right", grid: true, nice: true, inset: 14, ticks: Math.floor(width / 90) },
    y: { label: `↑ ${about.metric}`, grid: true, nice: true, ticks: 6, inset: 8 },
    r: { range: [3, 10] },
    marks: [
      about.target === null ? null : Plot.ruleY([about.target], { stroke: "var(--bad)", strokeDasharray: "4 3" }),
      about.target === null ? null : Plot.text([about.target], { y: (d) => d, text: () => "target", frameAnchor: "right", dy: -8, fill: "var(--bad)" }),
      Plot.lineY(front, { x: "speedup", y: "quality", stroke: "var(--accent)", strokeOpacity: 0.6 }),
      Plot.dot(known, {
        x: "speedup", y: "quality", r: "size_bytes",
        stroke: (one) => (one.on_front ? "var(--accent)" : "var(--was)"),
        fill: (one) => (one.is_best ? "var(--accent)" : "var(--card)"),
        title: (one) => `${one.name}, ${placeText(one)}\n${about.metric} ${figureText(one.quality)}\n${one.speedup.toFixed(2)}×\n${sizeText(one.size_bytes)}`,
      }),
      Plot.text(known.filter((one) => one.is_best), { x: "speedup", y: "quality", text: () => "taken", dy: -14, fill: "var(--ink)", fontWeight: 600 }),
    ],
  });
  chart.setAttribute("role", "img");
  const words = ["The area of a dot is the size of the weights."];
  const beaten = known.length - front.length;
  if (beaten) words.push(`Grey: ${beaten} that another beats.`);
  const slow = points.length - known.length;
  if (slow) words.push(`Not timed, in the table only: ${slow} that missed the target.`);
  show(place, chart, element("figcaption", {}, words.join(" ")));
}

/** Draw distributions over each other: a list of {bins, colour, label}. */
function histogram(place, series, width) {
  const shown = series.filter((one) => one.bins);
  const bars = shown.flatMap(({ bins, colour, label }, index) => {
    const total = bins.counts.reduce((sum, count) => sum + count, 0) || 1;
    const step = (bins.high - bins.low) / bins.counts.length;
    // Bins of one may be wider than those of the other: densities compare, counts do not.
    return bins.counts.map((count, at) => ({
      from: bins.low + at * step, to: bins.low + (at + 1) * step, density: count / total / step, index, colour, label,
    })).filter((bar) => bar.density);
  });
  const chart = Plot.plot({
    width, height: 130, marginLeft: 6, marginRight: 6, marginTop: 6, marginBottom: 22,
    style: { background: "none", fontSize: "10px" }, x: { label: null, ticks: 4, tickFormat: figureText }, y: { axis: null },
    ariaLabel: shown.map((one) => `${one.label}: from ${figureText(one.bins.smallest)} to ${figureText(one.bins.largest)}, ${(100 * one.bins.zeros).toFixed(1)} % zeros`).join("; "),
    marks: [
      ...shown.map((one, index) => Plot.rectY(bars.filter((bar) => bar.index === index), {
        x1: "from", x2: "to", y: "density", fill: one.colour, fillOpacity: index ? 0.55 : 0.5, inset: 0.2,
      })),
      Plot.ruleY([0], { stroke: "var(--line)" }),
    ],
  });
  chart.setAttribute("role", "img");
  const keys = shown.map((one) => element("div", {}, element("span", { class: "key", style: `background:${one.colour}` }),
    `${one.label}: ${figureText(one.bins.smallest)} to ${figureText(one.bins.largest)}${one.bins.zeros >= 0.001 ? `, ${(100 * one.bins.zeros).toFixed(1)} % zeros` : ""}`));
  show(place, chart, element("figcaption", {}, keys));
}
