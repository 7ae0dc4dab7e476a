// Puts the page together. `body.dataset.ready` is "yes" when all is drawn.

const panes = [];

function show_pane(which) {
  const host = document.getElementById("panes");
  if (panes.length > 1 && host.dataset.shown !== "both") show_view(`${which}`);
}

function show_view(which) {
  document.getElementById("panes").dataset.shown = which;
  for (const button of document.querySelectorAll("#views button")) {
    button.setAttribute("aria-pressed", `${button.dataset.view === which}`);
  }
}

function add_header() {
  document.getElementById("models").append(
    ...REPORT.models.map((m) => {
      const s = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;
      const facts = [
        [m.kind, m.router && `${m.router} router`].filter(Boolean).join(", "),
        `step ${count(m.step)}`,
        s(m.blocks.length, "MoE layer"),
        s(m.pool_size, "expert") + (m.pools.length > 1 ? ` for each of ${m.pools.join(", ")}` : ""),
        s(m.heads, "head"),
        `top-${m.choices}`,
        `${s(m.tokens, "token")} of ${s(m.documents, "document")}`,
        m.files.length ? `from ${m.files.slice(0, 3).join(", ")}` : "",
      ];
      return make("li", {}, make("b", {}, m.title), facts.filter(Boolean).join(" · "));
    }),
  );
}

function add_glance() {
  const head = ["", ...REPORT.models.map((m) => m.title)];
  document.getElementById("glance").append(
    make("tr", {}, ...head.map((x) => make("th", { scope: "col" }, x))),
    ...REPORT.glance.map((row) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, row.name, make("small", {}, row.means)),
        ...row.values.map((value, i) => {
          const healthy = row.healthy[i];
          const mark = healthy === null ? "" : healthy ? "✓" : "▲ look";
          return make(
            "td",
            {},
            value || "–",
            make("b", { class: healthy ? "good" : "bad" }, mark),
          );
        }),
      ),
    ),
  );
}

function add_notes() {
  const notes = REPORT.models
    .filter((m) => m.shown < m.tokens)
    .map((m) => `${m.title}: ${count(m.shown)} of ${count(m.tokens)} tokens are here to be
      read (--max_tokens), as many of each label; figures are of all.`);
  if (REPORT.texts.some((text) => text.pictures)) {
    notes.push("A picture stands here three times: as it is, its patches in the colours, and its " +
      "texture; beside it the words that belong to it. An expert that is chosen shows through " +
      "where it does not serve.");
  }
  if (REPORT.texts.length > 1) {
    notes.push("The two models read different tokens, so their texts do not move together.");
  }
  document.getElementById("notes").append(...notes.map((note) => make("span", {}, note)));
}

function add_views() {
  const views = document.getElementById("views");
  const names = [
    ["both", "side by side"],
    ...REPORT.models.map((m, i) => [`${i}`, m.title]),
  ];
  views.append(
    ...names.map(([view, name]) =>
      make("button", { type: "button", "data-view": view, click: () => show_view(view) }, name),
    ),
  );
  views.hidden = panes.length < 2;
  show_view(panes.length < 2 ? "0" : "both");
}

// Texts of the same tokens scroll together, block by block.
function scroll_together([a, b]) {
  let leader = null;
  const follow = (from, to) => {
    from.scroller.addEventListener("pointerenter", () => (leader = from));
    from.scroller.addEventListener("focus", () => (leader = from));
    from.scroller.addEventListener(
      "scroll",
      () => {
        if (leader !== from) return;
        const top = from.scroller.scrollTop;
        const n = from.blocks.findIndex(
          ({ element }) => element.offsetTop + element.offsetHeight > top,
        );
        if (n < 0) return;
        const past = top - from.blocks[n].element.offsetTop;
        to.scroller.scrollTop = to.blocks[n].element.offsetTop + past;
      },
      { passive: true },
    );
  };
  follow(a, b);
  follow(b, a);
}

// A print shows the part of the text that is on the screen.
function mark_for_print() {
  for (const pane of panes) {
    const top = pane.scroller.getBoundingClientRect().top;
    const first = pane.blocks.findIndex(
      ({ element }) => element.getBoundingClientRect().bottom > top,
    );
    let tokens = 0;
    pane.blocks.forEach((block, n) => {
      const printed = n >= first && tokens < 1500;
      if (printed) {
        tokens += block.last - block.first + 1;
        pane.paint(block);
      }
      block.element.classList.toggle("printed", printed);
    });
  }
}

async function start() {
  addPalette(Math.max(...REPORT.models.map((m) => m.experts)));
  add_header();
  add_glance();
  add_notes();
  const texts = await Promise.all(REPORT.texts.map(Text.load));
  for (const [number, packed] of REPORT.models.entries()) {
    const model = new Model(packed, texts);
    model.losses = packed.loss && (await unpack(packed.loss));
    panes.push(new Pane(number, model));
  }
  document.getElementById("panes").append(...panes.map((pane) => pane.element));
  add_views();
  panes.forEach(listen);
  await Promise.all(panes.map((pane) => pane.set({})));
  if (panes.length > 1 && texts.length === 1) scroll_together(panes);
  mark_for_print();
  addEventListener("beforeprint", mark_for_print);
  document.body.dataset.text = `${Math.round(performance.now())}`;

  const figures = REPORT.charts.map((chart, i) => new Figure(chart, i, REPORT));
  for (const figure of figures) {
    document.querySelector(`#${figure.chart.section} .charts`).append(figure.element);
  }
  for (const host of document.querySelectorAll(".charts:empty")) {
    host.parentElement.hidden = true;
  }
  document.getElementById("specialities").append(
    ...panes.map((pane) => add_specialities(pane, REPORT.models.length > 1)),
  );
  const draw_all = async () => {
    for (const figure of figures) await figure.draw();
  };
  await draw_all();
  dark.addEventListener("change", draw_all);
  document.body.dataset.ready = "yes";
}

await start();
