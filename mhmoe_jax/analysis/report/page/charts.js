// The figures: Vega-Lite in the page's colours, and their numbers as tables.

const dark = matchMedia("(prefers-color-scheme: dark)");

function theme() {
  const ink = "currentColor"; // so that print and screen differ without drawing anew
  const guide = { labelColor: ink, titleColor: ink, gridColor: ink, gridOpacity: 0.12 };
  return {
    background: "transparent",
    font: "inherit",
    view: { stroke: null },
    axis: { ...guide, domainColor: ink, tickColor: ink, titleFontWeight: "normal" },
    legend: { labelColor: ink, titleColor: ink },
    range: {
      category: dark.matches
        ? ["#56b4e9", "#e69f00", "#4fc9a0", "#f0e442", "#e78ac3", "#a6a6f0"]
        : ["#0072b2", "#d55e00", "#009e73", "#b8860b", "#a0488a", "#555599"],
      heatmap: { scheme: "viridis" },
      ramp: { scheme: "viridis" },
      diverging: dark.matches
        ? ["#6fb7ff", "#26272b", "#ff9f5a"]
        : ["#1f6fb4", "#f4f4f4", "#c2570c"],
    },
  };
}

class Figure {
  constructor(chart, number, report) {
    this.chart = chart;
    this.canvas = make("div", { class: "canvas" });
    this.table = make("div", { class: "numbers" });
    const named = chart.model !== null && report.models.length > 1;
    const of = [named && report.models[chart.model].title, chart.pool].filter(Boolean);
    const title = chart.title + (of.length ? `: ${of.join(", ")}` : "");
    const caption = make("figcaption", {}, make("h3", { id: `chart-${number}` }, title));
    caption.append(make("p", { class: "says" }, chart.says));
    if (chart.pick) {
      const values = [...new Set(chart.columns[chart.pick])];
      this.picked = values[0];
      const menu = make(
        "select",
        { change: () => ((this.picked = values[menu.selectedIndex]), this.draw()) },
        ...values.map((value) => make("option", {}, `${value}`)),
      );
      const word = chart.pick[0].toUpperCase() + chart.pick.slice(1);
      if (values.length > 1) caption.append(make("label", {}, word, menu));
    }
    const details = make(
      "details",
      { toggle: () => details.open && this.tabulate() },
      make("summary", {}, "Numbers"),
      this.table,
    );
    this.element = make(
      "figure",
      { "aria-labelledby": `chart-${number}` },
      caption,
      this.canvas,
      details,
    );
  }

  rows() {
    const names = Object.keys(this.chart.columns);
    const columns = Object.values(this.chart.columns);
    return columns[0]
      .map((_, i) => Object.fromEntries(names.map((name, c) => [name, columns[c][i]])))
      .filter((row) => !this.chart.pick || row[this.chart.pick] === this.picked);
  }

  async draw() {
    this.drawn?.finalize();
    const spec = {
      $schema: "https://vega.github.io/schema/vega-lite/v6.json",
      width: "container",
      autosize: { type: "fit-x", contains: "padding" },
      description: `${this.chart.title}. ${this.chart.says}`,
      data: { values: this.rows() },
      ...this.chart.spec,
    };
    if (spec.height.step) {
      // A height of steps and a width of the container do not go together.
      const down = new Set(spec.data.values.map((row) => row[spec.layer[0].encoding.y.field]));
      spec.height = spec.height.step * down.size;
    }
    this.drawn = await vegaEmbed(this.canvas, spec, {
      renderer: "svg",
      config: theme(),
      actions: { export: true, source: false, compiled: false, editor: false },
      downloadFileName: this.chart.title,
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    this.drawn.view.addEventListener("click", (_, item) => this.follow(item?.datum));
    if (this.table.isConnected && this.table.parentElement.open) this.tabulate();
  }

  // A cell of an expert leads to its tokens.
  follow(datum) {
    const pane = panes.find((p) => p.number === this.chart.model);
    if (!pane || datum?.expert === undefined || datum.block === undefined) return;
    const change = { layer: pane.model.blocks.indexOf(+datum.block) };
    if (datum.head !== undefined) change.head = datum.head - 1;
    show_pane(pane.number);
    const pool = Math.max(0, pane.model.pools.indexOf(this.chart.pool));
    pane.expert = datum.expert + pool * pane.model.pool_size;
    pane.set(change);
    document.getElementById("text").scrollIntoView();
  }

  tabulate() {
    const rows = this.rows().slice(0, 2000);
    const names = Object.keys(rows[0]);
    this.table.replaceChildren(
      make(
        "table",
        {},
        make("tr", {}, ...names.map((name) => make("th", { scope: "col" }, name))),
        ...rows.map((row) =>
          make("tr", {}, ...names.map((name) => make("td", {}, `${row[name] ?? ""}`))),
        ),
      ),
    );
  }
}

// The tokens that heads send to experts, a table of experts by heads for each block.
function add_specialities({ model }, named) {
  const host = make("div", { class: "table" });
  const draw = (n) => {
    const heads = model.specialities[n];
    const seen = model.text.examples;
    const pieces = (text) =>
      seen.has(text)
        ? crop(model.text, seen.get(text))
        : make("bdi", { class: "piece" }, visible(text).replace(/\n/g, "↵"));
    const cell = (found) =>
      found.flatMap(([text, lift]) => [
        pieces(text),
        make("small", {}, `×${lift.toFixed(1)} `),
      ]);
    const names = heads.map((_, h) => `head ${h + 1}`);
    host.replaceChildren(
      make(
        "table",
        {},
        make("tr", {}, ...["expert", ...names].map((x) => make("th", { scope: "col" }, x))),
        ...heads[0].map((_, e) =>
          make(
            "tr",
            {},
            make("th", { scope: "row" }, make("i", { style: `background:var(--e${e})` }), model.nameOf(e)),
            ...heads.map((experts) => make("td", {}, ...cell(experts[e]))),
          ),
        ),
      ),
    );
  };
  const menu = make(
    "select",
    { change: () => draw(menu.selectedIndex) },
    ...model.blocks.map((block) => make("option", {}, `${block}`)),
  );
  draw(0);
  return make(
    "div",
    {},
    named ? make("h4", {}, model.title) : "",
    make("label", {}, "Block", menu),
    host,
  );
}
