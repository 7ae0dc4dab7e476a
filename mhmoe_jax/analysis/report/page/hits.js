// The tokens that an expert gets, in context.

const HITS = 40; // shown at once

function list_hits(pane, expert) {
  const k = pane.state.choice;
  const pool = pane.model.poolOf(expert);
  const found = [];
  let served = 0;
  const counts = new Map();
  for (let i = 0; i < pane.text.length; i++) {
    if (!pane.model.serves(pool, i)) continue;
    served++;
    const hit = pane.layer.reaches(i, expert, pane.heads, k);
    if (hit) found.push(i);
    const name = pane.text.name(i);
    const of = counts.get(name) ?? counts.set(name, { all: 0, here: 0, i }).get(name);
    of.all++;
    if (hit) of.here++;
  }
  pane.found = found;
  const share = found.length / served;
  const typical = [...counts]
    .filter(([name, { here }]) => name && here >= 5)
    .map(([, { all, here, i }]) => [i, here / all / share, here])
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
      `Expert ${pane.model.nameOf(expert)} in block ${pane.model.blocks[pane.state.layer]}, ${where}: ` +
        `${count(found.length)} of ${count(served)} tokens (${percent(share)})`,
    ),
    make(
      "p",
      { class: "typical" },
      typical.length ? "Most typical: " : "No token is here five times.",
      ...typical.flatMap(([i, lift, here]) => [
        pane.text.isPatch(i) ? crop(pane.text, i) : make("bdi", { class: "piece" }, pane.text.name(i)),
        ` ×${lift.toFixed(1)} (${count(here)}) `,
      ]),
    ),
    list,
    more,
  );
}

function make_hit(pane, i) {
  if (pane.text.isPatch(i)) {
    const button = { type: "button", title: describe_place(pane.text, i) };
    button.click = () => pane.go(i, true);
    return make("li", { class: "patch" }, make("button", button, crop(pane.text, i)));
  }
  const document = pane.text.documents[pane.text.owner[i]];
  const from = Math.max(document.first + (document.patches ?? 0), i - 12);
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
