"""The report in a real browser: make browser, which needs chromium and chromedriver.

`make test` does not collect this file.
"""

import shutil

import numpy as np
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait

from mhmoe_jax.analysis.report import make_report
from tests.analysis.made import make_trace

LENGTH = 16
# Head 0 alternates between experts 0 and 1; head 1 always takes 3, or 2 in block 3.
EXPERTS = np.stack(
  [
    np.stack([np.arange(LENGTH) % 2, np.full(LENGTH, other)], axis=-1)
    for other in (3, 2)
  ],
  axis=1,
)[..., None]


@pytest.fixture(scope="module")
def browser():
  options = webdriver.ChromeOptions()
  options.binary_location = shutil.which("chromium") or shutil.which("google-chrome")
  for option in ("--headless=new", "--no-sandbox", "--window-size=1280,1500"):
    options.add_argument(option)
  options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
  service = webdriver.ChromeService(shutil.which("chromedriver"))
  driver = webdriver.Chrome(options, service)
  yield driver
  driver.quit()


def load(browser, path, traces):
  path.write_text(make_report(traces), "utf-8")
  browser.get(path.as_uri())
  ready = "return document.body.dataset.ready"
  WebDriverWait(browser, 60).until(lambda b: b.execute_script(ready) == "yes")


@pytest.fixture
def page(browser, tmp_path):
  load(browser, tmp_path / "page.html", [make_trace(EXPERTS, 4)])
  yield browser
  assert browser.get_log("browser") == []


def tokens(page, pane=0):
  return page.find_elements(By.CSS_SELECTOR, f"#pane-{pane} .block > span")


def test_every_token_is_there_and_every_figure_drawn(page):
  assert "".join(t.text for t in tokens(page)) == "abcdefghijklmnop"
  assert [t.get_attribute("data-e") for t in tokens(page)[:2]] == ["0·3", "1·3"]
  figures = page.find_elements(By.CSS_SELECTOR, ".charts > *")
  drawn = page.find_elements(By.CSS_SELECTOR, ".charts > * svg, .charts > * canvas")
  assert len(drawn) >= len(figures) > 5


def test_pointing_at_a_token_tells_its_experts(page):
  ActionChains(page).move_to_element(tokens(page)[1]).perform()
  card = page.find_element(By.ID, "card")
  assert card.is_displayed()
  experts = card.find_elements(By.CSS_SELECTOR, "td[data-expert]")
  assert [e.get_attribute("data-expert") for e in experts] == ["1", "3"]
  assert "0.50" in experts[0].text


def test_an_expert_lists_its_tokens_in_context(page):
  page.find_element(By.CSS_SELECTOR, "#pane-0 [data-expert='1']").click()
  hits = page.find_element(By.CSS_SELECTOR, "#pane-0 .hits")
  assert "8 of 16 tokens" in hits.find_element(By.TAG_NAME, "h4").text
  marked = hits.find_elements(By.CSS_SELECTOR, "ol mark")
  assert [m.text for m in marked] == list("bdfhjlnp")


def test_a_block_and_a_head_are_chosen(page):
  Select(page.find_element(By.NAME, "layer")).select_by_visible_text("3")
  Select(page.find_element(By.NAME, "head")).select_by_visible_text("2")
  WebDriverWait(page, 10).until(
    lambda _: {t.get_attribute("data-e") for t in tokens(page)} == {"2"}
  )


def test_the_keyboard_alone_is_enough(page):
  text = page.find_element(By.CSS_SELECTOR, "#pane-0 .text")
  page.execute_script("arguments[0].focus()", text)
  text.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
  at = page.find_element(By.CSS_SELECTOR, "#pane-0 .block > span.at").text
  text.send_keys(Keys.ENTER)
  heading = page.find_element(By.CSS_SELECTOR, "#pane-0 .hits h4").text
  assert heading.startswith(f"Expert {'abcdefghijklmnop'.index(at) % 2} ")
  text.send_keys(Keys.ESCAPE)
  assert not page.find_element(By.CSS_SELECTOR, "#pane-0 .hits").is_displayed()


def test_two_models_side_by_side(browser, tmp_path):
  traces = make_trace(EXPERTS, 4, name="one"), make_trace(3 - EXPERTS, 4, name="two")
  load(browser, tmp_path / "both.html", traces)
  assert [tokens(browser, pane)[0].get_attribute("data-e") for pane in (0, 1)] == [
    "0·3",
    "3·0",
  ]
  ActionChains(browser).move_to_element(tokens(browser)[0]).perform()
  assert len(browser.find_elements(By.CSS_SELECTOR, "#card table")) == 2
  browser.find_element(By.CSS_SELECTOR, "#views [data-view='1']").click()
  shown = [browser.find_element(By.ID, f"pane-{p}").is_displayed() for p in (0, 1)]
  assert shown == [False, True]
  assert browser.get_log("browser") == []
