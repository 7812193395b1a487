"use strict";
// Reads what was collected and fills the sections.

(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const { texts } = data;

  const rewrites = data.rewrites.map(([number, pass, rule, anchor, note, removed, added, changed, bytes, undone]) => ({
    number, pass: texts[pass], rule: texts[rule], anchor: texts[anchor], note: texts[note],
    removed: removed.map((text) => texts[text]), added: added.map((text) => texts[text]),
    changed: changed.map((text) => texts[text]), bytes, undone: texts[undone],
  }));

  function theme() {
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const root = document.documentElement;
    const button = byId("theme");
    const isDark = () => (root.dataset.theme || (dark.matches ? "dark" : "light")) === "dark";
    const tell = () => button.setAttribute("aria-pressed", String(isDark()));
    button.addEventListener("click", () => {
      root.dataset.theme = isDark() ? "light" : "dark";
      tell();
    });
    dark.addEventListener("change", tell);
    tell();
  }

  function passes() {
    const measured = Object.keys(METRICS).filter((name) => METRICS[name].value(data.start) !== null);
    let metric = measured[0];
    const again = drawInto(byId("waterfall"), (width) => waterfall(byId("waterfall"), data.start, data.steps, metric, Math.max(240, width - 20)));
    choice(byId("waterfall-choice"), "metric", measured.map((name) => [name, METRICS[name].label]), metric, (name) => {
      metric = name;
      again();
    });
  }

  function search() {
    if (!data.search.length) return;
    drawInto(byId("front"), (width) => paretoChart(byId("front"), data.search, data.searchAbout, Math.max(240, width - 20)));
    new DataTable(byId("front-table"), data.search, [
      { label: "Choice", value: (row) => row.name, name: true },
      { label: "Place", value: (row) => placeText(row), filter: true },
      { label: data.searchAbout.metric, value: (row) => row.quality, text: (row) => shareText(row.quality), number: true },
      { label: "shown", value: (row) => row.proven, text: (row) => shareText(row.proven), number: true },
      { label: "Times as fast", value: (row) => row.speedup, text: (row) => row.speedup === null ? "–" : `${row.speedup.toFixed(2)}×`, number: true },
      { label: "Weights", value: (row) => row.size_bytes, text: (row) => sizeText(row.size_bytes), number: true },
    ], { label: "Choices", plain: data.search.length < 10 });
  }

  function layers() {
    if (!data.layers.length) return;
    const percent = (kept, all) => all === null ? "–" : kept === null || kept === all ? "all" : `${kept} of ${all}`;
    const searched = data.layers.some((row) => row.sensitivity_db !== null);
    const changedSize = (row) => (row.size_after === row.size_bytes ? sizeText(row.size_bytes) : `${sizeText(row.size_bytes)} → ${sizeText(row.size_after)}`);
    const table = new DataTable(byId("layer-table"), data.layers, [
      { label: "Layer", value: (row) => row.name, text: layerName, name: true },
      { label: "Operator", value: (row) => row.op_type, filter: true },
      { label: "Precision", value: (row) => row.precision || "gone", filter: true },
      { label: "Error", value: (row) => row.error_db, text: (row) => decibelText(row.error_db), number: true },
      { label: "Adds", value: (row) => row.added, text: (row) => addedText(row.added), number: true },
      ...(searched ? [{ label: "Alone", value: (row) => row.sensitivity_db, text: (row) => decibelText(row.sensitivity_db), number: true }] : []),
      { label: "Channels", value: (row) => (row.kept === null || row.channels === null ? 1 : row.kept / row.channels), text: (row) => percent(row.kept, row.channels), number: true },
      { label: "MACs", value: (row) => row.macs, text: (row) => (row.macs_after === null || row.macs_after === row.macs ? countText(row.macs) : `${countText(row.macs)} → ${countText(row.macs_after)}`), number: true },
      { label: "Weight", value: (row) => row.size_bytes, text: changedSize, number: true },
      { label: "Graph", value: (row) => row.place || "main", filter: true, hidden: true },
      { label: "Left because", value: (row) => row.reason, filter: true, hidden: true },
    ], { label: "Layers", search: "Search layers", choose: layerDetails });
    // The layer that adds most of the error is what people look for first.
    const worst = data.layers.reduce((a, b) => ((b.added || 0) > (a.added || 0) ? b : a));
    table.chosen = worst;
    table.draw();
    layerDetails(worst);
  }

  function addedText(share) {
    if (share === null) return "–";
    if (share === 0) return "0";
    return share < 1e-6 ? "< 0.0001 %" : `${Number((100 * share).toPrecision(2))} %`;
  }

  /** The name, and below it why the layer was left as it was. */
  function layerName(row) {
    return element("div", {}, element("span", { class: "clip", title: short(row.name, 600) }, short(row.name, 300)),
      row.place ? element("span", { class: "why" }, `in ${short(row.place, 160)}`) : null,
      row.reason ? element("span", { class: "why" }, short(row.reason, 160)) : null);
  }

  function layerDetails(row) {
    const place = byId("layer-details");
    const weights = element("figure", { class: "plain" });
    const stored = element("figure", { class: "plain" });
    const outputs = element("figure", { class: "plain" });
    const asInteger = /int/.test(row.precision);
    const shape = (dims) => `[${dims.join(", ")}]`;
    const same = !row.shape_after || String(row.shape) === String(row.shape_after);
    show(place,
      element("h3", {}, row.op_type), element("p", { class: "mono" }, short(row.name, 300)),
      element("dl", { class: "facts" },
        row.place ? [element("dt", {}, "in"), element("dd", { class: "mono" }, short(row.place, 200))] : null,
        element("dt", {}, "weight"), element("dd", { class: "mono" }, short(row.weight, 200)),
        element("dt", {}, "shape"), element("dd", {}, same ? shape(row.shape) : `${shape(row.shape)} → ${shape(row.shape_after)}`),
        element("dt", {}, "error"), element("dd", {}, row.fault ? `not measured: ${short(row.fault, 300)}` : decibelText(row.error_db)),
        row.rewrites.length ? [element("dt", {}, "rewrites"), element("dd", {}, row.rewrites.slice(0, 12).map((one) => `#${one}`).join(", "))] : null,
        row.sensitivity_db !== null ? [element("dt", {}, "int8 alone"), element("dd", {}, `${decibelText(row.sensitivity_db)}, estimated`)] : null,
        row.reason ? [element("dt", {}, "left because"), element("dd", {}, short(row.reason, 500))] : null),
      row.weights ? [element("h4", {}, "Weights"), weights] : null,
      row.weights_after && asInteger ? [element("h4", {}, `Stored as ${row.precision}`), stored] : null,
      row.outputs ? [element("h4", {}, "What it computes"), outputs] : null);
    const width = Math.max(160, place.clientWidth - 32);
    const [was, now] = ["var(--was)", "var(--accent)"];
    if (row.weights) {
      histogram(weights, [{ bins: row.weights, colour: was, label: "original" }, { bins: asInteger ? null : row.weights_after, colour: now, label: "result" }], width);
    }
    if (row.weights_after && asInteger) histogram(stored, [{ bins: row.weights_after, colour: now, label: "integers" }], width);
    if (row.outputs) {
      histogram(outputs, [{ bins: row.outputs, colour: was, label: "original" }, { bins: row.outputs_after, colour: now, label: "result" }], width);
    }
  }

  function rewriteTables() {
    const nodes = (row) => [["−", row.removed], ["+", row.added], ["~", row.changed]]
      .filter(([, names]) => names.length).map(([sign, names]) => `${sign}${names.length}`).join(" ");
    new DataTable(byId("rewrite-table"), rewrites, [
      { label: "#", value: (row) => row.number, number: true },
      { label: "Pass", value: (row) => row.pass, filter: true },
      { label: "Rule", value: (row) => row.rule },
      { label: "At", value: (row) => row.anchor, name: true },
      { label: "What", value: (row) => (row.undone ? `undone: ${row.undone}` : row.note), name: true },
      { label: "Nodes", value: (row) => row.added.length - row.removed.length, text: nodes, number: true },
      { label: "Weights", value: (row) => row.bytes, text: (row) => (row.bytes ? `${row.bytes > 0 ? "+" : ""}${sizeText(row.bytes)}` : ""), number: true },
    ], { label: "Rewrites", search: "Search rewrites" });
    new DataTable(byId("skip-table"), data.skips, [
      { label: "Pass", value: (row) => row.pass_name, filter: true },
      { label: "Operator", value: (row) => row.op_type, filter: true },
      { label: "Why", value: (row) => row.reason, name: true },
      { label: "Places", value: (row) => row.count, number: true },
      { label: "For example", value: (row) => row.anchor, name: true },
    ], { label: "What was left alone", search: "Search reasons" });
  }

  theme();
  passes();
  search();
  layers();
  rewriteTables();
  const graphs = { before: new GraphModel(data.before, texts), after: new GraphModel(data.after, texts) };
  new GraphView(byId("graph-view"), byId("graph-side"), graphs, new Map(rewrites.map((one) => [one.number, one])));
  requestAnimationFrame(() => setTimeout(() => { document.documentElement.dataset.ready = String(Math.round(performance.now())); }));
})();
