// The tokens that an expert gets, in context.

const HITS = 40; // shown at once

function list_hits(pane, expert) {
  const k = pane.state.choice;
  const found = [];
  const counts = new Map();
  for (let i = 0; i < pane.text.length; i++) {
    const hit = pane.layer.reaches(i, expert, pane.heads, k);
    if (hit) found.push(i);
    const name = pane.text.show(i).trim();
    const of = counts.get(name) ?? counts.set(name, { all: 0, here: 0 }).get(name);
    of.all++;
    if (hit) of.here++;
  }
  pane.found = found;
  const share = found.length / pane.text.length;
  const typical = [...counts]
    .filter(([name, { here }]) => name && here >= 5)
    .map(([name, { all, here }]) => [name, here / all / share, here])
    .sort((a, b) => b[1] - a[1])
    .slice(0, 12);
  const where = pane.state.head < 0 ? "any head" : `head ${pane.state.head + 1}`;
  const list = make("ol", { class: "context" });
  const more = make("button", { type: "button", click: () => add() }, "more");
  const add = () => {
    const from = list.children.length;
    list.append(...found.slice(from, from + HITS).map((i) => make_hit(pane, i)));
    more.hidden = list.children.length >= found.length;
  };
  add();
  pane.hits.replaceChildren(
    make(
      "h4",
      {},
      make("i", { style: `background:var(--e${expert})` }),
      `Expert ${expert} in block ${pane.model.blocks[pane.state.layer]}, ${where}: ` +
        `${count(found.length)} of ${count(pane.text.length)} tokens (${percent(share)})`,
    ),
    make(
      "p",
      { class: "typical" },
      typical.length ? "Most typical: " : "No token is here five times.",
      ...typical.flatMap(([name, lift, here]) => [
        make("bdi", { class: "piece" }, name),
        ` ×${lift.toFixed(1)} (${count(here)}) `,
      ]),
    ),
    list,
    more,
  );
}

function make_hit(pane, i) {
  const document = pane.text.documents[pane.text.owner[i]];
  const from = Math.max(document.first, i - 12);
  const to = Math.min(document.first + document.tokens - 1, i + 12);
  const flat = (text) => text.replace(/\s+/g, " ");
  const left = i > from ? pane.text.showAll(from, i - 1) : "";
  const right = i < to ? pane.text.showAll(i + 1, to) : "";
  const rtl = /[\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefc]/.test(left + right);
  return make(
    "li",
    {},
    make(
      "button",
      { type: "button", dir: rtl ? "rtl" : "ltr", click: () => pane.go(i, true) },
      make("span", { class: "left" }, make("bdi", {}, flat(left))),
      make("mark", {}, pane.text.show(i).replace(/\n/g, "↵").replace(/ /g, " ")),
      make("span", { class: "right" }, make("bdi", {}, flat(right))),
    ),
  );
}
