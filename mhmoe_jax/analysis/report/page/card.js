// What is said of a token, and the ways to ask: pointer and keyboard.

const card = document.getElementById("card");
const live = document.getElementById("live");

function show_card(pane, i, span, aloud) {
  const others = panes.filter((p) => p.text === pane.text && p.layer);
  const hex = pane.text.isPatch(i) ? "" : pane.text.span(i)[2];
  card.replaceChildren(
    make("p", { class: "token" }, show_piece(pane.text, i), hex),
    make("p", { class: "says" }, describe_place(pane.text, i)),
    ...others.map((p) => table_of(p, i, others.length > 1)),
  );
  card.hidden = false;
  place_card(span);
  for (const other of others) {
    if (other !== pane) other.go(i, false);
  }
  if (aloud) live.textContent = in_words(pane, i);
}

const piece = (text, i) => text.show(i).replace(/\n/g, "↵") || "·";

function table_of(pane, i, named) {
  const { model, layer } = pane;
  const rows = [];
  for (let h = 0; h < model.heads; h++) {
    const cells = [];
    for (let k = 0; k < model.choices; k++) {
      const e = layer.expert(i, h, k);
      cells.push(
        make(
          "td",
          { "data-expert": e },
          make("i", { style: `background:var(--e${e})` }),
          `${model.nameOf(e)} `, // the space parts the two for those who hear or copy them
          make("small", {}, layer.weight(i, h, k).toFixed(2)),
          ...(layer.dropped(i, h, k) ? [" ", make("b", {}, "dropped")] : []),
        ),
      );
    }
    const share = layer.entropy(i, h) / Math.log(Math.max(2, model.pool_size));
    const now = pane.heads.length === 1 && pane.heads[0] === h && model.heads > 1;
    rows.push(
      make(
        "tr",
        { class: now ? "now" : null },
        make("th", { scope: "row" }, `head ${h + 1}`),
        ...cells,
        make("td", {}, `${layer.entropy(i, h).toFixed(2)} `, make("small", {}, percent(share))),
      ),
    );
  }
  const heads = Array.from({ length: model.choices }, (_, k) => `${k + 1}. expert`);
  const told = [`block ${model.blocks[pane.state.layer]}`];
  if (model.losses) told.push(`loss ${(model.losses[i] * model.loss.unit).toFixed(1)} nats`);
  if (pane.text.side) told.push(`${layer.distinct(i)} distinct experts`);
  return make(
    "table",
    {},
    make("caption", {}, [...(named ? [model.title] : []), ...told].join(", ")),
    make("tr", {}, ...["", ...heads, "entropy"].map((x) => make("th", { scope: "col" }, x))),
    ...rows,
  );
}

function in_words(pane, i) {
  const { model, layer } = pane;
  const heads = Array.from({ length: model.heads }, (_, h) => {
    const experts = Array.from(
      { length: model.choices },
      (_, k) =>
        `expert ${model.nameOf(layer.expert(i, h, k))} with ${layer.weight(i, h, k).toFixed(2)}` +
        (layer.dropped(i, h, k) ? ", dropped" : ""),
    );
    return `head ${h + 1}: ${experts.join(" and ")}`;
  });
  const { text } = pane;
  const what = text.isPatch(i) ? describe_place(text, i) : piece(text, i);
  return `${what}. ${heads.join("; ")}`;
}

// Below the token, or above it where there is no room.
function place_card(span) {
  const at = span.getClientRects()[0] ?? span.getBoundingClientRect();
  const { width, height } = card.getBoundingClientRect();
  const left = Math.max(8, Math.min(at.left, innerWidth - width - 8));
  const below = at.bottom + 8;
  const top = below + height < innerHeight ? below : Math.max(8, at.top - height - 8);
  card.style.transform = `translate(${Math.round(left)}px,${Math.round(top)}px)`;
}

function hide_card() {
  card.hidden = true;
  for (const pane of panes) pane.lift();
}

function listen(pane) {
  const token_of = (event) => event.target.closest?.(".block > span") ?? null;
  pane.scroller.addEventListener("pointerover", (event) => {
    const span = token_of(event);
    if (!span) return;
    pane.go(span.token, false);
    show_card(pane, span.token, span, false);
  });
  pane.scroller.addEventListener("pointerleave", hide_card);
  pane.scroller.addEventListener("blur", hide_card);
  pane.scroller.addEventListener("scroll", () => (card.hidden = true), { passive: true });
  pane.scroller.addEventListener("click", (event) => {
    const span = token_of(event);
    if (span) pick(pane, span.token, stripe_at(pane, span, event.clientY));
  });
  pane.scroller.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (act(pane, event.key)) event.preventDefault();
  });
  pane.scroller.addEventListener("focus", () => {
    if (pane.at === null && pane.scroller.matches(":focus-visible")) {
      pane.go(first_in_view(pane), true);
    }
  });
}

// The head whose stripe is there; the first where there are none.
function stripe_at(pane, span, y) {
  if (!pane.striped) return pane.heads[0];
  const boxes = [...span.getClientRects()];
  const box = boxes.find((b) => y >= b.top && y <= b.bottom) ?? boxes[0];
  const patch = pane.text.isPatch(span.token);
  const tall = patch ? box.height : parseFloat(getComputedStyle(span).paddingBottom);
  const share = (y - (box.bottom - tall)) / tall;
  const count_ = pane.heads.length;
  return pane.heads[Math.max(0, Math.min(count_ - 1, Math.floor(share * count_)))];
}

function pick(pane, i, head) {
  const expert = pane.layer.expert(i, head, pane.state.choice);
  pane.choose(pane.expert === expert ? null : expert);
}

function first_in_view(pane) {
  const top = pane.scroller.getBoundingClientRect().top;
  const block = pane.blocks.find((b) => b.element.getBoundingClientRect().bottom > top + 8);
  if (!block) return 0;
  pane.paint(block);
  const span = block.spans.find((s) => s.getBoundingClientRect().bottom > top + 8);
  return span ? span.token : block.first;
}

// Does what a key asks for; returns whether it asked for something.
function act(pane, key) {
  const i = pane.at ?? first_in_view(pane);
  const rtl = getComputedStyle(pane.spanOf(i).parentElement).direction === "rtl";
  const block = pane.blocks[pane.text.blockOf(i)];
  const moves = {
    ArrowRight: () => i + (rtl ? -1 : 1),
    ArrowLeft: () => i + (rtl ? 1 : -1),
    ArrowDown: () => beside(pane, i, 1),
    ArrowUp: () => beside(pane, i, -1),
    Home: () => block.first,
    End: () => block.last,
    n: () => pane.found?.find((j) => j > i) ?? i,
    p: () => pane.found?.findLast((j) => j < i) ?? i,
  };
  if (key in moves) {
    const to = pane.at === null ? i : moves[key]();
    pane.go(Math.max(0, Math.min(pane.text.length - 1, to)), true);
  } else if (key === "Enter" || key === " ") {
    pick(pane, i, pane.heads[0]);
  } else if (key === "Escape") {
    pane.choose(null);
    hide_card();
  } else {
    return false;
  }
  return true;
}

// The token above or below.
function beside(pane, i, direction) {
  const at = pane.spanOf(i).getClientRects()[0];
  const x = at.left + at.width / 2;
  const seen = (j) => pane.spanOf(j).getClientRects()[0];
  let best = null;
  for (let j = i + direction, line = null; j >= 0 && j < pane.text.length; j += direction) {
    const box = seen(j);
    if (!box || Math.abs(box.top - at.top) < at.height / 2) continue;
    line ??= box.top;
    if (Math.abs(box.top - line) > at.height / 2) break;
    const distance = Math.abs(box.left + box.width / 2 - x);
    if (best === null || distance < best.distance) best = { j, distance };
    if (Math.abs(j - i) > 600) break;
  }
  return best ? best.j : i;
}
