"use strict";
// A table that sorts, filters and searches thousands of rows, a page at a time.

/**
 * @param place    Where the table goes.
 * @param rows     The rows.
 * @param columns  [{label, value: row => for sorting and searching, text: row => shown (or an
 *                 element), number, filter: offer a choice of the values, name: long text,
 *                 hidden: searched and filtered by, and not shown}]
 * @param options  {label, choose: called with the row that was chosen, search: placeholder,
 *                 plain: nothing to search with}
 */
class DataTable {
  constructor(place, rows, columns, options) {
    Object.assign(this, { place, rows, columns, options, page: 0, sort: null, descending: false });
    this.size = 25;
    this.visible = columns.filter((column) => !column.hidden);
    this.query = "";
    this.filters = new Map();
    this.chosen = null;
    this.body = element("tbody", { keydown: (event) => this.onKey(event) });
    this.count = element("span", { class: "count", role: "status" });
    this.build();
    this.update();
  }

  build() {
    this.search = element("input", {
      type: "search", placeholder: this.options.search || "Search", "aria-label": `Search ${this.options.label}`,
      input: (event) => this.set(() => { this.query = event.target.value.trim().toLowerCase(); }),
    });
    const tools = element("div", { class: "tools" }, this.search);
    tools.hidden = Boolean(this.options.plain);
    this.selects = new Map();
    for (const column of this.columns.filter((one) => one.filter)) {
      const values = [...new Set(this.rows.map((row) => String(column.value(row) ?? "")))].sort();
      if (values.length < 2) continue;
      const select = element("select", {
        "aria-label": `Only ${column.label.toLowerCase()}`,
        change: (event) => this.filter(column, event.target.value),
      }, element("option", { value: "" }, `${column.label}: all`),
      values.filter(Boolean).map((value) => element("option", { value }, short(value, 40))));
      this.selects.set(column.label, select);
      tools.append(select);
    }
    tools.append(this.count);
    const heads = this.visible.map((column) => {
      column.head = element("th", { scope: "col", class: column.number ? "number" : "", "aria-sort": "none" },
        element("button", { type: "button", click: () => this.order(column) }, column.label));
      return column.head;
    });
    const table = element("table", { "aria-label": this.options.label },
      element("thead", {}, element("tr", {}, heads)), this.body);
    this.back = element("button", { type: "button", click: () => this.turn(-1) }, "‹ Back");
    this.next = element("button", { type: "button", click: () => this.turn(1) }, "Next ›");
    this.where = element("span", { class: "count" });
    this.pager = element("div", { class: "pager" }, this.back, this.next, this.where);
    show(this.place, tools, element("div", { class: "scroll", tabindex: "0", role: "region",
      "aria-label": `${this.options.label}, scrolls sideways` }, table), this.pager);
  }

  set(change) {
    change();
    this.page = 0;
    this.update();
  }

  filter(column, value) {
    this.set(() => (value ? this.filters.set(column, value) : this.filters.delete(column)));
  }

  /** Show only the rows whose column has this value. */
  only(label, value) {
    const select = this.selects.get(label);
    if (!select) return;
    select.value = value;
    this.filter(this.columns.find((column) => column.label === label), value);
  }

  order(column) {
    this.set(() => {
      this.descending = this.sort === column ? !this.descending : Boolean(column.number);
      this.sort = column;
    });
    for (const one of this.visible) {
      const order = this.descending ? "descending" : "ascending";
      one.head.setAttribute("aria-sort", one === this.sort ? order : "none");
    }
  }

  turn(pages) {
    this.page += pages;
    this.draw();
  }

  update() {
    const words = this.query.split(/\s+/).filter(Boolean);
    const matches = (row) =>
      [...this.filters].every(([column, value]) => String(column.value(row) ?? "") === value) &&
      words.every((word) => this.haystack(row).includes(word));
    this.shown = this.rows.filter(matches);
    if (this.sort) {
      const value = this.sort.value;
      const sign = this.descending ? -1 : 1;
      // What is not known comes last either way.
      this.shown.sort((a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === y) return 0;
        if (x === null || x === undefined || x === "") return 1;
        if (y === null || y === undefined || y === "") return -1;
        return sign * (typeof x === "number" ? x - y : String(x).localeCompare(String(y), "en", { numeric: true }));
      });
    }
    this.draw();
  }

  haystack(row) {
    this.texts ||= new Map();
    if (!this.texts.has(row)) {
      this.texts.set(row, this.columns.map((column) => column.value(row) ?? "").join("\n").toLowerCase());
    }
    return this.texts.get(row);
  }

  draw() {
    const first = this.page * this.size;
    const rows = this.shown.slice(first, first + this.size);
    const choose = this.options.choose;
    show(this.body, rows.map((row, index) => {
      const cells = this.visible.map((column, at) => {
        const value = column.text ? column.text(row) : column.value(row) ?? "";
        const kind = [column.number ? "number" : "", column.name ? "name" : ""].join(" ").trim();
        const inner = column.name && !(value instanceof Node)
          ? element("span", { class: "clip", title: short(String(value), 600) }, short(String(value), 300)) : value;
        return element(at ? "td" : "th", { class: kind || null, scope: at ? null : "row" }, inner);
      });
      const made = element("tr", choose ? {
        tabindex: index ? "-1" : "0", "aria-selected": String(row === this.chosen),
        click: () => this.choose(row, made),
      } : {}, cells);
      made.row = row;
      return made;
    }));
    if (!rows.length) {
      show(this.body, element("tr", {}, element("td", { colspan: this.visible.length, class: "quiet" }, "Nothing matches.")));
    }
    const [all, found] = [this.rows.length, this.shown.length];
    this.count.textContent = found === all ? countText(all) : `${countText(found)} of ${countText(all)}`;
    this.pager.hidden = found <= this.size;
    this.back.disabled = !this.page;
    this.next.disabled = first + this.size >= found;
    this.where.textContent = `${first + 1}–${Math.min(first + this.size, found)}`;
  }

  choose(row, element) {
    this.chosen = row;
    for (const one of this.body.children) {
      one.setAttribute("aria-selected", String(one === element));
      one.setAttribute("tabindex", one === element ? "0" : "-1");
    }
    this.options.choose(row);
  }

  /** Arrows move between rows, Enter chooses. */
  onKey(event) {
    const row = event.target.closest("tr");
    if (!this.options.choose || event.target !== row) return;
    const moves = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling,
      Home: this.body.firstElementChild, End: this.body.lastElementChild };
    if (event.key in moves) {
      event.preventDefault();
      moves[event.key]?.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.choose(row.row, row);
    }
  }
}
