// A view of the text under one model: controls, experts, the text, an expert's tokens.

class Pane {
  constructor(number, model) {
    this.number = number;
    this.model = model;
    this.text = model.text;
    this.expert = null; // that is highlighted
    this.texture = 0; // which measure of it is shown
    this.at = null; // token under the keyboard's cursor
    this.state = { layer: 0, head: model.heads > 1 ? -1 : 0, choice: 0, by: "expert" };
    this.style = document.head.appendChild(make("style"));
    this.build();
  }

  // ---- what there is on the page

  build() {
    const model = this.model;
    const select = (name, label, options) => {
      const menu = make(
        "select",
        { name, change: () => this.set({ [name]: name === "by" ? menu.value : +menu.value }) },
        ...options.map(([value, text]) => make("option", { value }, text)),
      );
      menu.value = this.state[name];
      this.menus[name] = menu;
      return make("label", {}, label, menu);
    };
    const range = (n) => Array.from({ length: n }, (_, i) => i);
    const heads = range(model.heads).map((h) => [h, `${h + 1}`]);
    if (model.heads > 1) heads.unshift([-1, "all"]);
    this.menus = {};
    this.controls = make(
      "div",
      { class: "controls" },
      select("layer", "Block", model.blocks.map((block, n) => [n, `${block}`])),
      select("head", "Head", heads),
      select("choice", "Choice", range(model.choices).map((k) => [k, `${k + 1}.`])),
      select("by", "Colour", [
        ["expert", "expert"],
        ["entropy", "router's entropy"],
        ["distinct", "distinct experts"],
        ...(model.losses ? [["loss", "loss"]] : []),
      ]),
      ...(this.text.side ? make_picture_controls(this) : []),
      make(
        "label",
        {},
        make("input", { type: "checkbox", change: (e) => this.number_all(e.target.checked) }),
        "numbers",
      ),
    );
    this.legend = make("div", {
      class: "legend",
      role: "toolbar",
      "aria-label": `Experts of ${model.title}, the busiest first`,
      keydown: (event) => this.walk_legend(event),
    });
    this.scroller = make("div", {
      class: this.text.side ? "text pictures" : "text",
      tabindex: 0,
      role: "application",
      "aria-label": `Text as ${model.title} routes it; arrow keys go from token to token`,
      "aria-roledescription": "tokens",
    });
    this.blocks = this.text.blocks.map((block) => this.make_block(block));
    this.scroller.append(...this.blocks.map((block) => block.element));
    this.hits = make("section", { class: "hits", "aria-live": "polite", hidden: "" });
    this.element = make(
      "section",
      { class: "pane", id: `pane-${this.number}`, "aria-label": model.title },
      make("h3", {}, model.title),
      this.controls,
      this.legend,
      this.scroller,
      this.hits,
    );
    this.watcher = new IntersectionObserver((entries) => this.see(entries), {
      root: this.scroller,
      rootMargin: "300px",
    });
    this.blocks.forEach((block) => this.watcher.observe(block.element));
  }

  // Text without tokens at first: it can be searched, and costs nothing.
  make_block({ first, last, document, picture }) {
    if (picture) {
      const element = make_picture(this, { document });
      element.block = { first, last, document, picture, element, spans: null, painted: -1 };
      return element.block;
    }
    const { label, first: begin } = this.text.documents[document];
    const text = this.text.showAll(first, last);
    const element = make("p", { class: "block", dir: "auto" }, text);
    if (first === begin) element.dataset.document = `${document + 1} ${label}`;
    const lines = text.length / 90 + text.split("\n").length;
    element.style.containIntrinsicHeight = `auto ${Math.round(lines * 2.6)}em`;
    const block = { first, last, element, spans: null, seen: false, painted: -1 };
    element.block = block;
    return block;
  }

  see(entries) {
    for (const { target, isIntersecting } of entries) {
      target.block.seen = isIntersecting;
      if (isIntersecting) this.paint(target.block);
    }
  }

  // ---- colours

  async set(change) {
    Object.assign(this.state, change);
    for (const [name, menu] of Object.entries(this.menus)) menu.value = this.state[name];
    this.layer = await this.model.layer(this.state.layer);
    const { head, by } = this.state;
    this.heads = head < 0 ? [...Array(this.model.heads).keys()] : [head];
    this.striped = head < 0 && by === "expert";
    this.scroller.classList.toggle("by-expert", by === "expert" && !this.striped);
    this.scroller.classList.toggle("striped", this.striped);
    this.scroller.style.setProperty("--stripes", this.heads.length);
    if (by === "distinct") this.range = this.range_distinct();
    if (this.scale) {
      const [least, most] = this.range ?? [];
      this.scale.textContent =
        by === "distinct" ? `lightest: ${least} distinct experts, darkest: ${most}` : "";
    }
    this.version = (this.version ?? 0) + 1;
    for (const block of this.blocks) if (block.seen) this.paint(block);
    this.draw_legend();
    this.choose(this.expert);
  }

  number_all(yes) {
    this.scroller.classList.toggle("numbered", yes);
  }

  paint(block) {
    if (block.painted === this.version || !this.layer) return;
    block.painted = this.version;
    if (block.spans === null) {
      block.spans = [];
      for (let i = block.first; i <= block.last; i++) {
        const span = document.createElement("span");
        if (block.picture) place_patch(span, this.text, i);
        else span.textContent = this.text.show(i);
        span.token = i;
        block.spans.push(span);
      }
      block.element.replaceChildren(...(block.element.panels ?? []), ...block.spans);
    }
    block.spans.forEach((span, place) => this.paint_token(span, block.first + place));
  }

  paint_token(span, i) {
    const k = this.state.choice;
    const experts = this.heads.map((h) => this.layer.expert(i, h, k));
    let names = experts.map((e) => `e${e}`).join(" ");
    if (this.heads.some((h) => this.layer.dropped(i, h, k))) names += " dropped";
    if (span.textContent.includes("\n")) names += " line";
    if (this.state.by !== "expert") names += ` q${this.shade(i)}`;
    if (i === this.at) names += " at";
    span.className = names;
    span.dataset.e = experts.map((e) => e % this.model.pool_size).join("·");
    if (this.state.by === "distinct") span.dataset.e = this.layer.distinct(i);
    span.style.backgroundImage = this.striped ? striped(experts) : "";
  }

  // One of ten shades, by what is not an expert.
  shade(i) {
    const { by } = this.state;
    let share;
    if (by === "loss") share = (this.model.losses[i] * this.model.loss.unit) / 8;
    else if (by === "distinct") {
      const [least, most] = this.range;
      share = (this.layer.distinct(i) - least) / (most - least);
    }
    else {
      const sum = this.heads.reduce((all, h) => all + this.layer.entropy(i, h), 0);
      share = sum / this.heads.length / Math.log(this.model.pool_size);
    }
    return Math.max(0, Math.min(9, Math.floor(share * 10)));
  }

  // Distinct experts of the lightest shade and of the darkest. Of pictures those that there
  // are, which may differ by little: what is looked for is where in a picture.
  range_distinct() {
    const most = Math.min(this.model.heads * this.model.choices, this.model.pool_size);
    if (!this.text.side) return [0, most];
    let [least, found] = [most, 0];
    for (let i = 0; i < this.text.length; i++) {
      const distinct = this.layer.distinct(i);
      least = Math.min(least, distinct);
      found = Math.max(found, distinct);
    }
    return [least, Math.max(found, least + 1)];
  }

  // ---- experts

  draw_legend() {
    const loads = new Uint32Array(this.model.experts);
    const k = this.state.choice;
    for (let i = 0; i < this.text.length; i++) {
      for (const h of this.heads) loads[this.layer.expert(i, h, k)]++;
    }
    // Of each pool the choices that it has.
    const totals = Object.fromEntries(this.model.pools.map((pool) => [pool, 0]));
    loads.forEach((load, e) => (totals[this.model.poolOf(e)] += load));
    const share = (e) => loads[e] / Math.max(1, totals[this.model.poolOf(e)]);
    this.order = [...loads.keys()].sort((a, b) => loads[b] - loads[a] || a - b);
    this.legend.replaceChildren(
      ...this.order.map((e, place) =>
        make(
          "button",
          {
            type: "button",
            "data-expert": e,
            "aria-pressed": `${e === this.expert}`,
            "aria-label": `expert ${this.model.nameOf(e)}, ${percent(share(e))}`,
            tabindex: place === 0 ? 0 : -1,
            class: share(e) * this.model.pool_size < 0.1 ? "idle" : null,
            click: () => this.choose(this.expert === e ? null : e),
          },
          make("i", { style: `background:var(--e${e})` }),
          this.model.nameOf(e),
          make("small", {}, percent(share(e))),
        ),
      ),
    );
  }

  walk_legend(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = [...this.legend.children];
    const from = buttons.indexOf(document.activeElement);
    const to = buttons[(from + step + buttons.length) % buttons.length];
    buttons.forEach((button) => (button.tabIndex = button === to ? 0 : -1));
    to.focus();
  }

  // Highlights an expert's tokens, and lists them in context; null: none.
  choose(expert) {
    this.expert = expert;
    for (const button of this.legend.children) {
      button.setAttribute("aria-pressed", `${+button.dataset.expert === expert}`);
    }
    const text = `#pane-${this.number} .text span`;
    this.style.textContent =
      expert === null
        ? ""
        : `${text}:not(.e${expert}){color:var(--faint);background-color:transparent;` +
          `background-size:0 0}${text}.e${expert}{text-decoration:underline 2px}`;
    this.hits.hidden = expert === null;
    if (expert !== null) list_hits(this, expert);
  }

  // ---- places

  spanOf(i) {
    const block = this.blocks[this.text.blockOf(i)];
    this.paint(block);
    return block.spans[i - block.first];
  }

  // Moves the cursor to a token; `aloud` scrolls there and tells what it is.
  go(i, aloud) {
    this.lift();
    this.at = i;
    const span = this.spanOf(i);
    span.classList.add("at");
    if (!aloud) return;
    const box = this.scroller.getBoundingClientRect();
    const inside = (at) => at.top >= box.top + 8 && at.bottom <= box.bottom - 8;
    if (!inside(span.getBoundingClientRect())) {
      span.parentElement.scrollIntoView({ block: "nearest" });
      const at = span.getBoundingClientRect();
      this.scroller.scrollTop += at.top - box.top - box.height / 3;
    }
    if (box.top < 0 || box.bottom > innerHeight) this.scroller.scrollIntoView({ block: "nearest" });
    this.scroller.focus({ preventScroll: true });
    show_card(this, i, span, true);
  }

  lift() {
    if (this.at !== null) this.spanOf(this.at).classList.remove("at");
    this.at = null;
  }
}
