"use strict";
// A graph as nodes that know their neighbours.

class GraphModel {
  /** @param data  As `render.py` writes it; `texts` are the words it refers to. */
  constructor(data, texts) {
    this.values = data.values.map(([name, type, kind]) => ({ name: texts[name], type: texts[type], kind: texts[kind] }));
    this.nodes = data.nodes.map(([name, op, inputs, outputs, attributes, state, rewrites, where, inner], index) => ({
      index, name: texts[name], op: texts[op], inputs, outputs, attributes: texts[attributes],
      state: texts[state], rewrites, where: texts[where], inner,
    }));
    this.inputs = new Set(data.inputs);
    this.outputs = new Set(data.outputs);
    this.producer = new Map();
    this.users = new Map();
    for (const node of this.nodes) {
      for (const value of node.outputs) this.producer.set(value, node);
      for (const value of [...node.inputs, ...node.inner]) {
        if (value < 0) continue;
        if (!this.users.has(value)) this.users.set(value, []);
        if (!this.users.get(value).includes(node)) this.users.get(value).push(node);
      }
    }
    this.byOutputs = new Map(this.nodes.map((node) => [this.key(node), node]));
    this.changed = this.nodes.filter((node) => node.state !== "kept");
  }

  /** What a node is told apart by: the names of its outputs. */
  key(node) {
    return node.outputs.map((value) => this.values[value].name).join(", ") || node.name;
  }

  label(node) {
    return node.name || this.key(node);
  }

  before(node) {
    const found = [...node.inputs, ...node.inner].map((value) => this.producer.get(value)).filter(Boolean);
    return [...new Set(found)];
  }

  after(node) {
    return [...new Set(node.outputs.flatMap((value) => this.users.get(value) || []))];
  }

  /** Return the nodes around `node`, `depth` steps both ways, at most `most`; 0: all nodes. */
  around(node, depth, most) {
    if (!depth) return this.nodes;
    const found = new Set([node]);
    let edge = [node];
    for (let step = 0; step < depth && edge.length; step += 1) {
      const next = [];
      for (const one of edge) {
        for (const other of [...this.before(one), ...this.after(one)]) {
          if (found.size >= most) return [...found];
          if (!found.has(other)) {
            found.add(other);
            next.push(other);
          }
        }
      }
      edge = next;
    }
    return [...found];
  }

  /** Return up to `most` nodes that have all words of `query` in a name or operator. */
  find(query, most) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const found = [];
    for (const node of this.nodes) {
      const text = `${node.op} ${node.name} ${this.key(node)}`.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(node);
      if (found.length >= most) break;
    }
    return found;
  }

  /** Return positions of `nodes`, of the graph inputs and outputs among them, and edges. */
  layout(nodes) {
    const shown = new Set(nodes);
    const graph = new dagre.graphlib.Graph({ multigraph: true });
    graph.setGraph({ nodesep: 14, ranksep: 30, marginx: 12, marginy: 12 });
    graph.setDefaultEdgeLabel(() => ({}));
    const size = (text, sub) => Math.max(text.length * 7.2, sub.length * 5.8) + 22;
    for (const node of nodes) {
      graph.setNode(`n${node.index}`, { node, width: size(node.op, short(this.label(node), 26)), height: 40 });
    }
    const end = (value, text) => {
      const id = `${text}${value}`;
      if (!graph.hasNode(id)) graph.setNode(id, { end: text, value, width: size(short(this.values[value].name, 22), text), height: 34 });
      return id;
    };
    for (const node of nodes) {
      for (const value of new Set([...node.inputs, ...node.inner])) {
        const from = this.producer.get(value);
        if (from && shown.has(from)) graph.setEdge(`n${from.index}`, `n${node.index}`, {}, `v${value}`);
        else if (this.inputs.has(value)) graph.setEdge(end(value, "input"), `n${node.index}`, {}, `v${value}`);
      }
      for (const value of node.outputs) {
        if (this.outputs.has(value)) graph.setEdge(`n${node.index}`, end(value, "output"), {}, `v${value}`);
      }
    }
    dagre.layout(graph);
    return {
      width: graph.graph().width || 100, height: graph.graph().height || 60,
      boxes: graph.nodes().map((id) => graph.node(id)),
      edges: graph.edges().map((edge) => graph.edge(edge).points),
    };
  }
}
