// A colour for each of up to 256 experts, by its number, on light and on dark paper.

// Neighbours differ in hue by the golden angle and in lightness, which those who do not
// see red or green can tell, too.
const SHADES = { light: [0.9, 0.7, 0.8], dark: [0.36, 0.54, 0.45] };
const CHROMA = { light: [0.08, 0.13, 0.115], dark: [0.08, 0.125, 0.11] };

function colour(expert, scheme) {
  const step = expert % 3;
  const hue = (25 + expert * 137.508) % 360;
  return `oklch(${SHADES[scheme][step]} ${CHROMA[scheme][step]} ${hue.toFixed(1)})`;
}

function addPalette(experts) {
  const variables = (scheme) =>
    Array.from({ length: experts }, (_, e) => `--e${e}:${colour(e, scheme)}`).join(";");
  const rules = Array.from(
    { length: experts },
    (_, e) => `.by-expert .e${e}{background-color:var(--e${e})}`,
  );
  document.head.append(
    make(
      "style",
      {},
      `:root{${variables("light")}}` +
        `@media screen and (prefers-color-scheme:dark){:root{${variables("dark")}}}` +
        rules.join(""),
    ),
  );
}

// Stripes, one for each head, the first on top.
const stripes = new Map();
function striped(experts) {
  const key = experts.join();
  if (!stripes.has(key)) {
    const part = 100 / experts.length;
    const bands = experts.map(
      (e, h) => `var(--e${e}) ${(h * part).toFixed(2)}% ${((h + 1) * part).toFixed(2)}%`,
    );
    stripes.set(key, `linear-gradient(${bands.join()})`);
  }
  return stripes.get(key);
}
