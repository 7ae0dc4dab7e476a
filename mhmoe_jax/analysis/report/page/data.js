// The embedded trace: texts with their tokens, models with their routing.
"use strict";

const REPORT = JSON.parse(document.getElementById("data").textContent);

// An array of packing.py. Numbers are as packed; times `unit` where it has one.
async function unpack(packed) {
  const zipped = Uint8Array.from(atob(packed.data), (c) => c.charCodeAt(0));
  const stream = new Blob([zipped]).stream().pipeThrough(new DecompressionStream("gzip"));
  const buffer = await new Response(stream).arrayBuffer();
  return packed.kind === "u2" ? new Uint16Array(buffer) : new Uint8Array(buffer);
}

// What would be invisible, or would turn the text around it, gets a visible name.
const INVISIBLE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function visible(text) {
  return text.replace(INVISIBLE, (c) => {
    const code = c.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
  });
}

// Tokens of a block of the text view: few enough to paint at once.
const BLOCK_TOKENS = 400;

class Text {
  static async load(packed) {
    const text = new Text();
    text.documents = packed.documents;
    text.units = await unpack(packed.units);
    text.bytes = await unpack(packed.bytes);
    text.side = 0; // patches in a row of a picture
    if (packed.pictures) {
      text.side = packed.pictures.side;
      text.codes = await unpack(packed.pictures.codes);
      text.textures = await Promise.all(
        packed.pictures.textures.map(async (x) => ({ ...x, levels: await unpack(x) })),
      );
      packed.pictures.shown.forEach((shown, n) => Object.assign(text.documents[n], shown));
    }
    text.length = text.units.length;
    text.place = new Uint32Array(text.length); // code units before, in the document
    text.owner = new Uint32Array(text.length);
    text.blocks = [];
    let i = 0;
    text.documents.forEach((document, number) => {
      document.first = i;
      let place = 0;
      let first = i;
      const end = i + document.tokens;
      for (; i < end; i++) {
        text.place[i] = place;
        text.owner[i] = number;
        place += text.units[i];
        const long = i + 1 - first;
        const line = document.text.slice(text.place[i], place).includes("\n");
        const left = document.first + (document.patches ?? 0) - (i + 1); // of its patches
        const full = (line && long >= BLOCK_TOKENS / 2) || long >= BLOCK_TOKENS;
        if ((left < 0 && full) || left === 0 || i + 1 === end) {
          text.blocks.push({ first, last: i, document: number, picture: left >= 0 });
          first = i + 1;
        }
      }
    });
    // A patch for each visual code.
    text.examples = new Map();
    for (let j = 0; j < text.length; j++) if (text.isPatch(j)) text.examples.set(text.name(j), j);
    return text;
  }

  isPatch(i) {
    const { first, patches } = this.documents[this.owner[i]];
    return i - first < (patches ?? 0);
  }

  // Row and column of a patch.
  cell(i) {
    const place = i - this.documents[this.owner[i]].first;
    return [Math.floor(place / this.side), place % this.side];
  }

  // What tokens that are alike have in common.
  name(i) {
    return this.isPatch(i) ? `code ${this.codes[i]}` : this.show(i).trim();
  }

  // As it is in the document; "" for a token that holds no first byte of a character.
  raw(i) {
    return this.documents[this.owner[i]].text.substr(this.place[i], this.units[i]);
  }

  show(i) {
    return this.units[i] ? visible(this.raw(i)) : "·";
  }

  // The text of several tokens, as the spans of them show it.
  showAll(first, last) {
    let all = "";
    for (let i = first; i <= last; i++) all += this.show(i);
    return all;
  }

  // A token's bytes: [start, stop, as hex where they are not its text alone].
  span(i) {
    const document = this.documents[this.owner[i]];
    let start = 0;
    for (let j = document.first; j < i; j++) start += this.bytes[j];
    const stop = start + this.bytes[i];
    const encoder = new TextEncoder();
    if (encoder.encode(this.raw(i)).length === this.bytes[i]) return [start, stop, ""];
    document.encoded ??= encoder.encode(document.text);
    const hex = [...document.encoded.slice(start, stop)]
      .map((b) => `<0x${b.toString(16).toUpperCase().padStart(2, "0")}>`);
    return [start, stop, hex.join("")];
  }

  blockOf(i) {
    let low = 0;
    let high = this.blocks.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.blocks[middle].first <= i) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

// The choices of one MoE layer: expert(i, h, k), weight(i, h, k), entropy(i, h) ...
class Layer {
  static async load(packed, model) {
    const layer = new Layer();
    layer.H = model.heads;
    layer.K = model.choices;
    for (const name of ["expert", "weight", "entropy", "dropped"]) {
      layer[`${name}s`] = packed[name] && (await unpack(packed[name]));
    }
    layer.units = { weight: packed.weight.unit, entropy: packed.entropy.unit };
    return layer;
  }

  at(i, h, k) {
    return (i * this.H + h) * this.K + k;
  }
  expert(i, h, k) {
    return this.experts[this.at(i, h, k)];
  }
  weight(i, h, k) {
    return this.weights[this.at(i, h, k)] * this.units.weight;
  }
  entropy(i, h) {
    return this.entropys[i * this.H + h] * this.units.entropy;
  }
  dropped(i, h, k) {
    return this.droppeds !== null && this.droppeds[this.at(i, h, k)] === 1;
  }

  // Whether a head of `heads` sends the token to the expert, as its choice k.
  reaches(i, expert, heads, k) {
    return heads.some((h) => this.expert(i, h, k) === expert);
  }

  distinct(i) {
    const from = i * this.H * this.K;
    return new Set(this.experts.subarray(from, from + this.H * this.K)).size;
  }
}

class Model {
  constructor(packed, texts) {
    Object.assign(this, packed);
    this.text = texts[packed.text];
    this.packedLayers = packed.layers;
    this.layers = new Map();
  }

  // As it is called: experts of several pools are numbered in each.
  nameOf(expert) {
    if (this.pools.length === 1) return `${expert}`;
    return `${this.poolOf(expert)} ${expert % this.pool_size}`;
  }

  poolOf(expert) {
    return this.pools[Math.floor(expert / this.pool_size)];
  }

  // Whether an expert of the pool can have a token.
  serves(pool, i) {
    return pool === "shared" || (pool === "image") === this.text.isPatch(i);
  }

  // Layers are unpacked when they are first looked at.
  layer(n) {
    if (!this.layers.has(n)) this.layers.set(n, Layer.load(this.packedLayers[n], this));
    return this.layers.get(n);
  }
}

// An element with attributes (or properties, for functions) and children.
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
const count = (n) => n.toLocaleString("en");
