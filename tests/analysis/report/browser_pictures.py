"""The report of a trace of pictures in a real browser: make browser."""

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from mhmoe_jax.analysis.report.report import make_report
from tests.analysis.made import make_pictures
from tests.analysis.report.browser_report import Page, chromium  # noqa: F401

E, SIDE, COUNT, WORDS = 8, 4, 3, "red ring"
TOKENS = SIDE * SIDE + len(WORDS)


def make_model(pools):
  """Experts that can be told from a token's place, its block, head and choice."""
  t, n, h, k = np.ogrid[: COUNT * TOKENS, :2, :2, :2]
  # Of every third token all sub-tokens go to two experts.
  spread = np.where(t % 3, 3 * h + n, 0)
  return make_pictures((t + spread + k) % E, E, SIDE, WORDS, pools)


TRACE = make_model(("image", "text"))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pages")
  pages = {"pools": TRACE, "shared": make_model(("shared",))}
  for name, trace in pages.items():
    (folder / f"{name}.html").write_text(make_report([trace], 10**5), "utf-8")
  return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def page(chromium, paths):  # noqa: F811
  page = Page(chromium, paths["pools"])
  yield page
  page.assert_quiet()


def choose(page, name, value):
  """Chooses in a menu, as a reader does."""
  menu = page.find(f"#pane-0 select[name={name}]")
  page.js(
    "arguments[0].value = arguments[1];arguments[0].dispatchEvent(new Event('change'))",
    menu,
    value,
  )


def patch(page, i):
  return page.all("#pane-0 .picture > span")[i]


def test_every_picture_stands_three_times_beside_its_words(page):
  assert page.js("return performance.getEntriesByType('resource').length") == 0
  assert len(page.all("#pane-0 .picture")) == COUNT
  assert len(page.all("#pane-0 .picture > span")) == COUNT * SIDE * SIDE
  assert len(page.all("#pane-0 .picture > img")) == 2 * COUNT
  boxes = page.js(
    "return [...document.querySelectorAll('.picture')[1].children]"
    ".map(x => x.getBoundingClientRect()).map(b => [b.x, b.y, b.width, b.height])"
  )
  original, under, texture, *patches = boxes
  assert original[2:] == under[2:] == texture[2:]
  assert original[0] + original[2] < under[0]
  assert under[0] + under[2] < texture[0]
  # Patch after patch over the second one: rows downwards, columns to the right.
  for i, (x, y, _, _) in enumerate(patches):
    row, column = divmod(i, SIDE)
    assert x == pytest.approx(under[0] + column * under[2] / SIDE, abs=1)
    assert y == pytest.approx(under[1] + row * under[3] / SIDE, abs=1.5)
  words = page.all("#pane-0 .block:not(.picture)")
  assert [block.text for block in words] == [WORDS] * COUNT
  box, beside = (
    page.js("return arguments[0].getBoundingClientRect()", x)
    for x in (page.all("#pane-0 .picture")[1], words[1])
  )
  assert beside["x"] > box["x"] + box["width"] - 1
  assert box["y"] <= beside["y"] < box["y"] + box["height"]
  page.shoot("pictures")


def test_the_colour_is_that_of_the_expert(page):
  choose(page, "layer", "1")
  choose(page, "head", "1")
  choose(page, "choice", "1")
  for i in (0, 1, 17):
    t = i // 16 * TOKENS + i % 16
    expert = TRACE.expert_TNHK[t, 1, 1, 1]
    page.wait(lambda i=i, e=expert: patch(page, i).get_attribute("data-e") == f"{e}")
    colour = page.js(
      "return getComputedStyle(arguments[0]).backgroundColor", patch(page, i)
    )
    legend = page.find(f"#pane-0 .legend [data-expert='{expert}'] i")
    assert colour == page.js(
      "return getComputedStyle(arguments[0]).backgroundColor", legend
    )
  # Words have a pool of their own: expert 3 of it is another one.
  names = [
    button.get_attribute("aria-label") for button in page.all("#pane-0 .legend button")
  ]
  first = TRACE.expert_TNHK[TRACE.is_patch_T, 1, 1, 1]
  assert (first == 3).mean() == 3 / 48
  assert any(name.startswith("expert image 3, 6.3 %") for name in names)
  assert any(name.startswith("expert text 3, 25 %") for name in names)


def test_distinct_experts_shade_the_patches(page):
  choose(page, "by", "distinct")
  distinct = [len(set(TRACE.expert_TNHK[t, 0].ravel())) for t in range(16)]
  page.wait(lambda: patch(page, 0).get_attribute("data-e") == f"{distinct[0]}")
  shades = [
    next(x for x in patch(page, i).get_attribute("class").split() if x[0] == "q")
    for i in range(16)
  ]
  least, most = min(distinct), max(distinct)
  expected = [f"q{min(9, int(10 * (x - least) / (most - least)))}" for x in distinct]
  assert shades == expected
  assert len(set(shades)) > 1
  assert page.text(".scale") == f"lightest: {least} distinct experts, darkest: {most}"


def test_pointing_and_clicking(page):
  page.point_at(patch(page, 6))
  assert page.find("#card").is_displayed()
  text = page.text("#card")
  assert "shapes, 0.png, row 2, column 3, code 0; texture: deviation" in text
  assert "loss" not in text
  assert f"image {TRACE.expert_TNHK[6, 0, 0, 0]}" in text
  page.shoot("patch")
  choose(page, "head", "0")
  expert = int(TRACE.expert_TNHK[6, 0, 0, 0])
  page.wait(lambda: patch(page, 6).get_attribute("data-e") == f"{expert}")
  patch(page, 6).click()
  here = TRACE.is_patch_T & (TRACE.expert_TNHK[:, 0, 0, 0] == expert)
  heading = page.text("#pane-0 .hits h4")
  of = f"{here.sum()} of {COUNT * SIDE * SIDE} tokens"
  assert heading.startswith(f"Expert image {expert} in block 1, head 1: {of}")
  assert len(page.all("#pane-0 .context .patch")) == here.sum()
  # The picture shows through where the expert does not serve.
  other = np.flatnonzero(~here[:16])[0]
  clear = "return getComputedStyle(arguments[0]).backgroundColor"
  assert page.js(clear, patch(page, int(other))) == "rgba(0, 0, 0, 0)"
  page.shoot("chosen")
  page.all("#pane-0 .context .patch button")[1].click()
  assert (
    page.js("return document.querySelector('.at').token") == np.flatnonzero(here)[1]
  )


def test_stripes_are_heads(page):
  box = page.js("return arguments[0].getBoundingClientRect()", patch(page, 5))
  # All heads: the lower half of a patch is the second one.
  page.js(
    "const b = arguments[0].getBoundingClientRect();"
    "arguments[0].dispatchEvent(new MouseEvent('click',"
    "{bubbles: true, clientX: b.x + 2, clientY: b.y + 0.9 * b.height}))",
    patch(page, 5),
  )
  assert box["height"] > 10
  expert = TRACE.expert_TNHK[5, 0, 1, 0]
  assert page.text("#pane-0 .hits h4").startswith(f"Expert image {expert} in block 1")


def test_keys_go_from_patch_to_patch_and_to_the_words(page):
  patch(page, 1).click()
  page.keys(Keys.ESCAPE)
  page.js("document.querySelector('#pane-0 .text').focus()")
  at = "return document.querySelector('.at')?.token ?? null"
  page.keys(Keys.ARROW_RIGHT)
  page.wait(lambda: page.js(at) is not None)
  start = page.js(at)
  page.keys(Keys.ARROW_DOWN)
  assert page.js(at) == start + SIDE
  page.keys(Keys.ARROW_RIGHT)
  assert page.js(at) == start + SIDE + 1
  page.keys(Keys.ARROW_UP)
  assert page.js(at) == start + 1
  assert "row 1" in page.js("return document.getElementById('live').textContent")


def test_the_texture_can_be_chosen(page):
  pixels = "return document.querySelector('.picture canvas').toDataURL()"
  before = page.js(pixels)
  choose(page, "texture", "weakest step")
  assert page.js(pixels) != before


def test_one_pool_serves_both(chromium, paths):  # noqa: F811
  page = Page(chromium, paths["shared"])
  titles = [title.text for title in page.all("#labels h3")]
  assert titles == [
    "Experts by modality",
    "How well each head tells patches from words",
  ]
  choose(page, "head", "0")
  page.wait(lambda: patch(page, 0).get_attribute("data-e") == "0")
  patch(page, 0).click()
  heading = page.text("#pane-0 .hits h4")
  assert f" of {COUNT * TOKENS} tokens" in heading
  # Patches and words of the same expert, in one list.
  assert page.all("#pane-0 .context .patch")
  assert page.all("#pane-0 .context mark")
  page.assert_quiet()
