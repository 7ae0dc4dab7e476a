"""The report in a real browser: make browser, which needs chromium and chromedriver.

`make test` does not collect this file.
"""

import base64
import io
import pathlib
import shutil

import numpy as np
from PIL import Image
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from mhmoe_jax.analysis.report.report import make_report
from mhmoe_jax.data.documents import Document
from tests.analysis.made import make_trace

SHOTS = pathlib.Path(__file__).parents[3] / "build" / "browser"
# Quotes, markup, a character of two bytes and one of four, and lines enough to scroll.
LINE = 'the cat </script> sat & "ran" \u00e9 \U0001f642\n'
DOCUMENTS = [Document("en", LINE * 30), Document("de", "die Katze <b>lief</b>\n" * 30)]
E = 8


def make_model(name, heads=2, choices=2, step=0):
  """Experts that can be told from a token's byte and its layer and head."""
  bytes_T = np.frombuffer("".join(d.text for d in DOCUMENTS).encode(), np.uint8)
  n, h, k = np.ogrid[:2, :heads, :choices]
  expert_TNHK = (bytes_T[:, None, None, None] + 3 * n + (h + 1) * k + h + step) % E
  T = len(bytes_T)
  dropped_TNHK = np.zeros(expert_TNHK.shape, bool)
  dropped_TNHK[0, 0, 0, -1] = True
  return make_trace(
    expert_TNHK,
    E,
    DOCUMENTS,
    name=name,
    step=step,
    weight_TNHK=np.broadcast_to([0.75, 0.25][:choices], expert_TNHK.shape),
    entropy_TNH=np.full((T, 2, heads), np.log(E) / 2, np.float32),
    dropped_TNHK=dropped_TNHK,
  )


TRACE = make_model("one")


@pytest.fixture(scope="module")
def chromium():
  """Chromium without a window."""
  names = ("chromium", "chromium-browser", "google-chrome")
  browser = next(filter(None, map(shutil.which, names)), None)
  driver = shutil.which("chromedriver")
  if not (browser and driver):
    raise RuntimeError(
      "the browser test needs Chromium and chromedriver, got "
      f"{browser} and {driver}; apt-get install chromium chromium-driver."
    )
  options = webdriver.ChromeOptions()
  options.binary_location = browser
  for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
    options.add_argument(f"--{flag}")
  options.add_argument("--window-size=1280,1400")
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(executable_path=driver)
  with webdriver.Chrome(options, service) as chromium:
    yield chromium


class Page:
  """A page that is open, and what a reader does with it."""

  def __init__(self, chromium, path):
    self.chromium = chromium
    self.emulate()
    chromium.get(path.as_uri())
    self.wait(lambda: self.js("return document.body.dataset.ready") == "yes")
    self.js("document.getElementById('text').scrollIntoView()")

  def js(self, code, *values):
    return self.chromium.execute_script(code, *values)

  def wait(self, done):
    WebDriverWait(self.chromium, 20, poll_frequency=0.05).until(lambda _: done())

  def find(self, selector):
    return self.chromium.find_element(By.CSS_SELECTOR, selector)

  def all(self, selector):
    return self.chromium.find_elements(By.CSS_SELECTOR, selector)

  def text(self, selector):
    return self.find(selector).text

  def keys(self, *keys):
    ActionChains(self.chromium).send_keys(*keys).perform()

  def token(self, i, pane=0):
    return self.all(f"#pane-{pane} .block > span")[i]

  def point_at(self, element):
    ActionChains(self.chromium).move_to_element(element).perform()

  def emulate(self, media="", scheme="light"):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    values = {"media": media, "features": features}
    self.chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", values)

  def shoot(self, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    self.chromium.save_screenshot(str(SHOTS / f"{name}.png"))
    with Image.open(SHOTS / f"{name}.png") as image:
      return np.asarray(image.convert("L"))

  def assert_quiet(self):
    assert self.chromium.get_log("browser") == []


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pages")
  other = make_model("other", heads=1, choices=1)
  pages = {
    "one": make_report([TRACE], 10**5, [make_model("one", step=-1)]),
    "two": make_report([TRACE, other], 10**5),
  }
  for name, page in pages.items():
    (folder / f"{name}.html").write_text(page, "utf-8")
  return {name: folder / f"{name}.html" for name in pages}


@pytest.fixture
def page(chromium, paths):
  page = Page(chromium, paths["one"])
  yield page
  page.assert_quiet()


def test_it_loads_from_disk_and_nothing_else(page):
  assert page.js("return performance.getEntriesByType('resource').length") == 0
  sections = page.js(
    "return [...document.querySelectorAll('main > section')]"
    ".filter(s => s.offsetHeight).map(s => s.id)"
  )
  every = "start text use heads together words positions labels training drops"
  assert sections == every.split()
  figures = page.all("figure")
  assert len(figures) > 15
  assert len(page.all("figure svg.marks")) == len(figures)
  shown = page.js("return document.querySelector('.text').textContent")
  # A byte that begins no character is a dot.
  assert shown.startswith(
    'the cat </script> sat & "ran" \u00e9\u00b7 \U0001f642\u00b7\u00b7\u00b7\n'
  )
  assert page.shoot("light").mean() > 200


def test_pointing_at_a_token_tells_its_experts(page):
  assert not page.find("#card").is_displayed()
  page.point_at(page.token(0))
  assert page.find("#card").is_displayed()
  t = ord("t")
  rows = [row.text.split() for row in page.all("#card tr")[1:]]
  first, second = [t % E, (t + 1) % E], [(t + 1) % E, (t + 3) % E]
  assert rows[0][2:] == [
    f"{first[0]}",
    "0.75",
    f"{first[1]}",
    "0.25",
    "dropped",
    "1.04",
    "50",
    "%",
  ]
  assert rows[1][2:] == [
    f"{second[0]}",
    "0.75",
    f"{second[1]}",
    "0.25",
    "1.04",
    "50",
    "%",
  ]
  assert "en, document 1, token 0, bytes 0 to 1" in page.text("#card")
  page.shoot("card")
  page.point_at(page.find("h2"))
  assert not page.find("#card").is_displayed()


def test_an_expert_lists_its_tokens_in_context(page):
  menu = page.find("#pane-0 select[name=head]")
  menu.send_keys("1")  # of all heads the first
  page.wait(lambda: page.js("return arguments[0].value", menu) == "0")
  expert = ord("t") % E
  page.find(f"#pane-0 .legend [data-expert='{expert}']").click()
  hits = np.count_nonzero(TRACE.expert_TNHK[:, 0, 0, 0] == expert)
  heading = page.text("#pane-0 .hits h4")
  assert heading.startswith(f"Expert {expert} in block 1, head 1: {hits} of ")
  marks = [mark.text for mark in page.all("#pane-0 .context mark")]
  assert len(marks) == 40
  assert {ord(mark) % E for mark in marks if mark} == {expert}
  assert page.all("#pane-0 .context .right")[0].text.startswith("he cat </scr")
  page.find("#pane-0 .hits > button").click()
  assert len(page.all("#pane-0 .context mark")) == min(80, hits)
  page.shoot("expert")
  # A hit leads to its token, and a token to its expert.
  page.all("#pane-0 .context button")[1].click()
  assert page.text("#pane-0 .at") == "t"
  other = page.token(1)
  other.click()
  assert page.text("#pane-0 .hits h4").startswith(f"Expert {ord('h') % E} in block 1")


def test_all_of_it_by_keyboard(page):
  page.js("document.querySelector('#pane-0 select').focus()")
  page.keys(Keys.ARROW_DOWN)  # the next block
  at = (ord("t") + 3) % E
  experts = f"{at}\u00b7{(at + 1) % E}"
  page.wait(lambda: page.token(0).get_attribute("data-e") == experts)
  page.keys(Keys.TAB, Keys.ARROW_DOWN, Keys.ARROW_DOWN)  # the second head
  page.wait(lambda: page.token(0).get_attribute("data-e") == f"{(at + 1) % E}")
  page.keys(Keys.TAB, Keys.TAB, Keys.TAB, Keys.TAB)  # choice, colour, numbers, experts
  focused = "return document.activeElement.dataset.expert"
  busiest = page.js(focused)
  page.keys(Keys.ARROW_RIGHT)
  assert page.js(focused) not in (busiest, None)
  page.keys(Keys.TAB)
  assert page.js("return document.activeElement.className").startswith("text")
  page.keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
  assert page.text("#pane-0 .at") == "e"
  assert "head 2: expert" in page.js(
    "return document.getElementById('live').textContent"
  )
  page.keys(Keys.ENTER)
  expert = (ord("e") + 4) % E
  assert page.text("#pane-0 .hits h4").startswith(f"Expert {expert} in block 3, head 2")
  before = page.js("return document.querySelector('#pane-0 .at').token")
  page.keys("n")
  after = page.js("return document.querySelector('#pane-0 .at').token")
  following = np.flatnonzero(TRACE.expert_TNHK[:, 1, 1, 0] == expert)
  assert after == following[following > before][0]
  page.keys(Keys.ESCAPE)
  assert not page.find("#pane-0 .hits").is_displayed()
  assert not page.find("#card").is_displayed()


def test_a_cell_leads_to_its_tokens(page):
  figure = page.find("#heads figure")
  page.js("arguments[0].scrollIntoView()", figure)
  cell = figure.find_elements(By.CSS_SELECTOR, "svg .mark-rect path")[0]
  page.point_at(cell)
  page.wait(lambda: page.find("#vg-tooltip-element").is_displayed())
  assert "expert" in page.text("#vg-tooltip-element")
  cell.click()
  page.wait(lambda: page.find("#pane-0 .hits").is_displayed())
  assert page.text("#pane-0 .hits h4").startswith("Expert 0 in block 1, head 1")


def test_two_models_side_by_side(chromium, paths):
  page = Page(chromium, paths["two"])
  left, right = page.find("#pane-0"), page.find("#pane-1")
  assert left.is_displayed()
  assert right.is_displayed()
  page.point_at(page.token(2))
  captions = [caption.text for caption in page.all("#card caption")]
  assert captions == ["one, block 1, loss 1.0 nats", "other, block 1, loss 1.0 nats"]
  assert page.text("#pane-1 .at") == "e"  # the same token, there
  page.shoot("two")
  page.find("#views [data-view='1']").click()
  assert not left.is_displayed()
  assert right.is_displayed()
  page.find("#views [data-view='both']").click()
  assert left.is_displayed()
  page.assert_quiet()


def test_in_the_dark(page):
  page.emulate(scheme="dark")
  page.wait(lambda: page.shoot("dark").mean() < 80)
  assert page.js("return getComputedStyle(document.body).color") == "rgb(233, 234, 236)"
  labels = page.js(
    "return getComputedStyle(document.querySelector('.role-axis-label text')).fill"
  )
  assert labels == "rgb(233, 234, 236)"  # letters on charts are light, too


def test_on_paper(page):
  page.token(0).click()
  page.emulate(media="print", scheme="dark")
  assert not page.find("#card").is_displayed()
  assert page.find(".block.printed").is_displayed()
  background = page.js("return getComputedStyle(document.body).backgroundColor")
  assert (
    background == "rgb(253, 253, 252)"
  )  # paper, also for those who read in the dark
  page.emulate()
  values = {"printBackground": True, "preferCSSPageSize": True}
  printed = page.chromium.execute_cdp_cmd("Page.printToPDF", values)["data"]
  assert io.BytesIO(base64.b64decode(printed)).read(5) == b"%PDF-"
