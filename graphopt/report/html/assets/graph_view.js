"use strict";
// The graph before and after: a strip of all nodes, the neighbourhood of one, its details.

const STATES = { new: ["+", "new"], changed: ["~", "changed"], removed: ["−", "removed"] };
const WHOLE = 120; // nodes that are shown at once
const MOST = 90; // nodes of a neighbourhood

class GraphView {
  constructor(place, sideChoice, graphs, rewrites) {
    this.graphs = graphs;
    this.rewrites = rewrites;
    this.side = "after";
    this.depth = 3;
    this.build(place);
    choice(sideChoice, "graph-side", [["before", "Before"], ["after", "After"]], "after", (side) => this.turnTo(side));
    this.sides = sideChoice;
    this.chosen = this.start();
    this.draw();
  }

  get graph() {
    return this.graphs[this.side];
  }

  /** What changed first is what people come for. */
  start() {
    return this.graph.changed[0] || this.graph.nodes[0] || null;
  }

  build(place) {
    this.input = element("input", {
      type: "search", placeholder: "Find a node", role: "combobox", "aria-label": "Find a node by its name or operator",
      "aria-expanded": "false", "aria-controls": "graph-results", autocomplete: "off",
      input: () => this.search(), keydown: (event) => this.onSearchKey(event),
    });
    this.results = element("ul", { id: "graph-results", role: "listbox", "aria-label": "Nodes found", hidden: true });
    this.depths = element("select", { "aria-label": "How much of the graph is shown", change: (event) => {
      this.depth = Number(event.target.value);
      this.draw();
    } });
    this.picture = element("svg:svg", { role: "group", "aria-label": "The graph; arrow keys move, Enter chooses", keydown: (event) => this.onKey(event) });
    this.layer = element("svg:g", {});
    this.picture.append(this.layer);
    this.zoom = d3.zoom().scaleExtent([0.1, 3]).on("zoom", (event) => this.layer.setAttribute("transform", event.transform))
      .filter((event) => event.type === "wheel" ? event.ctrlKey || event.metaKey : event.touches ? event.touches.length > 1 : !event.button);
    d3.select(this.picture).call(this.zoom).on("dblclick.zoom", null);
    this.strip = element("svg:svg", {
      class: "strip", role: "slider", tabindex: "0", preserveAspectRatio: "none", "aria-label": "Place in the graph; arrow keys move",
      click: (event) => this.onStrip(event), keydown: (event) => this.onStripKey(event),
    });
    this.details = element("aside", { class: "panel", "aria-live": "polite", "aria-label": "The chosen node" });
    this.legend = element("div", { class: "legend" });
    const button = (label, text, click) => element("button", { type: "button", "aria-label": label, title: label, click }, text);
    show(place,
      element("div", { class: "tools" }, element("div", { class: "results" }, this.input, this.results), this.depths,
        button("Previous change", "‹ change", () => this.step(-1)), button("Next change", "change ›", () => this.step(1)),
        button("Zoom in", "+", () => this.scale(1.4)), button("Zoom out", "−", () => this.scale(1 / 1.4)), button("Fit", "Fit", () => this.fit())),
      this.strip, this.legend,
      element("div", { class: "split" }, element("div", { class: "canvas" }, this.picture), this.details));
    new ResizeObserver(() => this.fit()).observe(this.picture);
  }

  turnTo(side, node) {
    const key = this.chosen && this.graph.key(this.chosen);
    this.side = side;
    for (const input of this.sides.querySelectorAll("input")) input.checked = input.value === side;
    this.chosen = node || this.graph.byOutputs.get(key) || this.start();
    this.draw();
  }

  choose(node, focus) {
    this.chosen = node;
    this.draw();
    if (focus) this.layer.querySelector(".chosen")?.focus();
  }

  /** Go to the next node that a rewrite touched. */
  step(by) {
    const { changed } = this.graph;
    if (!changed.length) return;
    const here = this.chosen ? this.chosen.index : -1;
    const found = by > 0 ? changed.find((node) => node.index > here) : changed.findLast((node) => node.index < here);
    this.choose(found || changed.at(by > 0 ? 0 : -1));
  }

  draw() {
    this.drawDepths();
    this.drawLegend();
    this.drawStrip();
    if (!this.chosen) {
      show(this.details, element("p", {}, "The graph has no node."));
      show(this.layer);
      return;
    }
    this.drawPicture();
    this.drawDetails();
    this.fit();
  }

  drawDepths() {
    const all = this.graph.nodes.length <= WHOLE;
    if (!all && !this.depth) this.depth = 3;
    show(this.depths, [[1, "1 step around"], [3, "3 steps around"], [6, "6 steps around"], ...(all ? [[0, "whole graph"]] : [])]
      .map(([value, label]) => element("option", { value, selected: value === this.depth }, label)));
  }

  drawLegend() {
    const count = (state) => this.graph.nodes.filter((node) => node.state === state).length;
    show(this.legend, element("span", {}, `${this.graph.nodes.length.toLocaleString("en")} nodes`),
      Object.entries(STATES).map(([state, [sign, word]]) => count(state)
        ? element("span", {}, element("span", { class: "key", style: `background:var(--${state})` }), `${sign} ${count(state).toLocaleString("en")} ${word}`) : null));
  }

  /** All nodes side by side; neighbours of one state are one rectangle. */
  drawStrip() {
    const { nodes } = this.graph;
    const last = Math.max(nodes.length - 1, 0);
    this.strip.setAttribute("viewBox", `0 0 ${Math.max(nodes.length, 1)} 10`);
    const here = this.chosen ? this.chosen.index : 0;
    for (const [key, value] of [["valuemin", 0], ["valuemax", last], ["valuenow", here], ["valuetext", this.chosen ? short(this.graph.label(this.chosen), 80) : ""]]) {
      this.strip.setAttribute(`aria-${key}`, value);
    }
    const parts = [];
    for (let at = 0; at < nodes.length; ) {
      let end = at + 1;
      while (end < nodes.length && nodes[end].state === nodes[at].state) end += 1;
      if (nodes[at].state !== "kept") {
        parts.push(element("svg:rect", { x: at, y: 0, width: end - at, height: 10, fill: `var(--${nodes[at].state})` }));
      }
      at = end;
    }
    const width = Math.max(Math.min(1, nodes.length / 150), nodes.length / 300);
    parts.push(element("svg:rect", { x: here + 0.5 - width / 2, y: 0, width, height: 10, fill: "var(--ink)" }));
    show(this.strip, parts);
  }

  drawPicture() {
    const { graph } = this;
    const { boxes, edges, width, height } = graph.layout(graph.around(this.chosen, this.depth, MOST));
    this.box = { width, height };
    const path = d3.line().x((p) => p.x).y((p) => p.y).curve(d3.curveBasis);
    const arrow = element("svg:defs", {}, element("svg:marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
      element("svg:path", { d: "M0,0 L8,4 L0,8 z", fill: "var(--was)" })));
    show(this.layer, arrow, edges.map((points) => element("svg:path", { class: "edge", d: path(points), "marker-end": "url(#arrow)" })),
      boxes.map((box) => this.drawBox(box)));
    this.boxes = boxes;
  }

  drawBox(box) {
    const { graph } = this;
    const { node, width, height } = box;
    const at = `translate(${box.x - width / 2},${box.y - height / 2})`;
    const texts = (first, second) => [
      element("svg:rect", { class: "ring", x: -4, y: -4, width: width + 8, height: height + 8, rx: 8 }),
      element("svg:rect", { class: "box", width, height, rx: 6 }),
      element("svg:text", { x: width / 2, y: height / 2 - 3, "text-anchor": "middle" }, first),
      element("svg:text", { class: "sub", x: width / 2, y: height / 2 + 11, "text-anchor": "middle" }, second),
    ];
    if (!node) {
      const value = graph.values[box.value];
      return element("svg:g", { class: "node end", transform: at }, element("svg:title", {}, `${short(value.name, 300)}: ${value.type}`),
        texts(short(value.name, 22), box.end));
    }
    const chosen = node === this.chosen;
    const sign = STATES[node.state] ? `${STATES[node.state][0]} ` : "";
    box.drawn = element("svg:g", {
      class: `node ${node.state}${chosen ? " chosen" : ""}`, transform: at, role: "button", tabindex: chosen ? "0" : "-1",
      "aria-pressed": String(chosen), "aria-label": `${node.op} ${short(graph.label(node), 80)}, ${node.state}`, click: () => this.choose(node, true),
    }, element("svg:title", {}, short(graph.label(node), 300)), texts(`${sign}${node.op}`, short(graph.label(node), 26)));
    return box.drawn;
  }

  drawDetails() {
    const [{ graph }, node] = [this, this.chosen];
    const tensor = (index, links) => {
      if (index < 0) return element("li", { class: "quiet" }, "omitted");
      const value = graph.values[index];
      const word = value.kind === "computed" ? "" : `${value.kind}, `;
      return element("li", {}, element("span", { class: "mono" }, short(value.name, 200)), ` ${word}${value.type} `,
        links(index).map((other) => [this.linkTo(other, this.side, `${other.op} ${short(graph.label(other), 24)}`), " "]).flat());
    };
    const producer = (index) => [graph.producer.get(index)].filter(Boolean);
    const users = (index) => (graph.users.get(index) || []).slice(0, 12);
    const other = this.side === "after" ? "before" : "after";
    const twin = this.graphs[other].byOutputs.get(graph.key(node));
    const rewrites = node.rewrites.map((number) => this.rewrites.get(number)).filter(Boolean);
    show(this.details,
      element("h3", {}, node.op),
      element("p", { class: "mono" }, short(graph.label(node), 400)),
      element("dl", { class: "facts" },
        element("dt", {}, "state"), element("dd", {}, node.state === "kept" ? "untouched" : STATES[node.state][1]),
        node.where ? [element("dt", {}, "inside"), element("dd", {}, short(node.where, 200))] : null,
        node.attributes ? [element("dt", {}, "attributes"), element("dd", { class: "mono" }, node.attributes)] : null),
      twin ? element("p", {}, this.linkTo(twin, other, `see it ${other}`)) : null,
      element("h4", {}, "Inputs"), element("ul", {}, node.inputs.map((index) => tensor(index, producer))),
      element("h4", {}, "Outputs"), element("ul", {}, node.outputs.map((index) => tensor(index, users))),
      rewrites.length ? [element("h4", {}, "Rewrites that touched it"), element("ul", {}, rewrites.slice(0, 30).map((one) => this.rewriteItem(one)))] : null);
  }

  rewriteItem(one) {
    const nodes = (keys, side, sign) => keys.slice(0, 8).map((key) => {
      const found = this.graphs[side].byOutputs.get(key);
      return element("li", {}, `${sign} `, found ? this.linkTo(found, side, `${found.op} ${short(key, 40)}`) : short(key, 60));
    });
    return element("li", {}, `#${one.number} ${one.pass}`, one.note ? `: ${short(one.note, 300)}` : "",
      element("ul", {}, nodes(one.removed, "before", "−"), nodes(one.added, "after", "+"), nodes(one.changed, "after", "~")));
  }

  linkTo(node, side, text) {
    return element("button", { class: "link", type: "button", click: () => {
      if (side === this.side) this.choose(node);
      else this.turnTo(side, node);
      this.layer.querySelector(".chosen")?.focus({ preventScroll: true });
    } }, text);
  }

  fit() {
    const { clientWidth: width, clientHeight: height } = this.picture;
    if (!this.box || !width) return;
    const fit = Math.min(width / this.box.width, height / this.box.height, 1.2);
    const scale = Math.max(fit, 0.55);
    // What does not fit is centred on the chosen node.
    const centre = fit < scale ? this.boxes.find((box) => box.node === this.chosen) : null;
    const { x, y } = centre || { x: this.box.width / 2, y: this.box.height / 2 };
    d3.select(this.picture).call(this.zoom.transform, d3.zoomIdentity.translate(width / 2 - scale * x, height / 2 - scale * y).scale(scale));
  }

  scale(factor) {
    d3.select(this.picture).call(this.zoom.scaleBy, factor);
  }

  search() {
    this.found = this.graph.find(this.input.value, 40);
    this.at = this.found.length ? 0 : -1;
    this.drawResults();
  }

  drawResults() {
    const open = Boolean(this.input.value.trim());
    this.results.hidden = !open;
    this.input.setAttribute("aria-expanded", String(open));
    show(this.results, this.found.map((node, index) => element("li", {
      role: "option", id: `result-${index}`, "aria-selected": String(index === this.at),
      mousedown: (event) => { event.preventDefault(); this.take(node); },
    }, `${node.op} ${short(this.graph.label(node), 60)}`)), open && !this.found.length ? element("li", { class: "quiet" }, "Nothing matches.") : null);
    if (this.at >= 0) this.input.setAttribute("aria-activedescendant", `result-${this.at}`);
    this.results.children[this.at]?.scrollIntoView({ block: "nearest" });
  }

  take(node) {
    this.input.value = "";
    this.found = [];
    this.drawResults();
    if (node) this.choose(node, true);
  }

  onSearchKey(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by && this.found?.length) {
      event.preventDefault();
      this.at = (this.at + by + this.found.length) % this.found.length;
      this.drawResults();
    } else if (event.key === "Enter" && this.found?.length) {
      event.preventDefault();
      this.take(this.found[this.at]);
    } else if (event.key === "Escape") {
      this.take(null);
    }
  }

  /** Arrows go to the nearest node in their direction. */
  onKey(event) {
    const here = this.boxes?.find((box) => box.drawn === event.target);
    const way = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (here && way) {
      event.preventDefault();
      let best = null;
      for (const box of this.boxes.filter((one) => one.drawn && one !== here)) {
        const [dx, dy] = [box.x - here.x, box.y - here.y];
        const along = dx * way[0] + dy * way[1];
        const distance = along + 2 * Math.abs(dx * way[1] + dy * way[0]);
        if (along > 1 && (!best || distance < best.distance)) best = { box, distance };
      }
      if (!best) return;
      for (const box of this.boxes) box.drawn?.setAttribute("tabindex", box === best.box ? "0" : "-1");
      best.box.drawn.focus();
    } else if (here && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      this.choose(here.node, true);
    } else if (event.key === "+" || event.key === "-") {
      this.scale(event.key === "+" ? 1.4 : 1 / 1.4);
    }
  }

  onStrip(event) {
    const { left, width } = this.strip.getBoundingClientRect();
    const { nodes } = this.graph;
    const index = Math.floor(((event.clientX - left) / width) * nodes.length);
    if (nodes.length) this.choose(nodes[Math.max(0, Math.min(nodes.length - 1, index))]);
  }

  onStripKey(event) {
    const { nodes } = this.graph;
    const by = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 20, PageDown: -20, Home: -Infinity, End: Infinity }[event.key];
    if (!by || !nodes.length) return;
    event.preventDefault();
    this.choose(nodes[Math.max(0, Math.min(nodes.length - 1, this.chosen.index + by))]);
  }
}
