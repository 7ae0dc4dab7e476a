// Pictures: as they are, their patches by expert, and their texture.

// A block of a picture; its spans are the patches, over a second copy of it.
function make_picture(pane, { document }) {
  const text = pane.text;
  const { label, name, picture } = text.documents[document];
  const element = make("div", { class: "block picture", style: `--side:${text.side}` });
  element.dataset.document = [`${document + 1}`, label, name].filter(Boolean).join(" · ");
  const image = (kind) => make("img", { class: kind, src: picture, alt: kind ? "" : name });
  const canvas = make("canvas", { width: text.side, height: text.side, class: "texture" });
  element.panels = [image(""), image("under"), canvas];
  element.append(...element.panels);
  draw_texture(pane, element, document);
  return element;
}

function draw_texture(pane, element, document) {
  const { text } = pane;
  const { levels, name } = text.textures[pane.texture];
  const canvas = element.panels[2];
  const size = text.side * text.side;
  const image = canvas.getContext("2d").createImageData(text.side, text.side);
  for (let p = 0; p < size; p++) {
    image.data.fill(levels[document * size + p], 4 * p, 4 * p + 3);
    image.data[4 * p + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  canvas.title = `texture: ${name}`;
}

// Where a patch lies in its picture.
function place_patch(span, text, i) {
  const [row, column] = text.cell(i);
  span.style.setProperty("--row", row);
  span.style.setProperty("--column", column);
}

// A patch by itself.
function crop(text, i) {
  const [row, column] = text.cell(i);
  const at = (n) => (text.side > 1 ? (100 * n) / (text.side - 1) : 0);
  const { picture } = text.documents[text.owner[i]];
  return make("span", {
    class: "crop",
    role: "img",
    "aria-label": text.name(i),
    style:
      `background-image:url(${picture});background-size:${100 * text.side}%;` +
      `background-position:${at(column)}% ${at(row)}%`,
  });
}

// A token as an element: a piece of text, or the patch.
function show_piece(text, i) {
  return text.isPatch(i) ? crop(text, i) : make("bdi", { class: "piece" }, piece(text, i));
}

// Where a token is, in words.
function describe_place(text, i) {
  const document = text.documents[text.owner[i]];
  const about = [document.label, document.name].filter(Boolean);
  if (!text.isPatch(i)) {
    const [start, stop] = text.span(i);
    about.push(
      `document ${text.owner[i] + 1}`,
      `token ${i - document.first}`,
      `bytes ${start} to ${stop}`,
    );
    return about.join(", ");
  }
  const [row, column] = text.cell(i);
  const size = text.side * text.side;
  const at = text.owner[i] * size + row * text.side + column;
  const textures = text.textures.map(
    ({ name, levels, unit }) => `${name} ${(levels[at] * unit).toFixed(name === "known" ? 2 : 1)}`,
  );
  about.push(`row ${row + 1}`, `column ${column + 1}`, text.name(i));
  return `${about.join(", ")}; texture: ${textures.join(", ")}`;
}

function make_picture_controls(pane) {
  const textures = pane.text.textures.map(({ name }) => make("option", {}, name));
  const show = () => {
    pane.texture = menu.selectedIndex;
    for (const { picture, element, document } of pane.blocks) {
      if (picture) draw_texture(pane, element, document);
    }
  };
  const menu = make("select", { name: "texture", change: show }, ...textures);
  const through = make("input", {
    type: "checkbox",
    change: () => pane.scroller.classList.toggle("through", through.checked),
  });
  pane.scale = make("span", { class: "scale" });
  return [
    make("label", {}, "Texture", menu),
    make("label", {}, through, "see through"),
    pane.scale,
  ];
}
