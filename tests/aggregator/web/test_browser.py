"""The pages in a real browser, from the real server: nothing fails, charts are drawn, changes arrive."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support import expected_conditions
from selenium.webdriver.support.wait import WebDriverWait
from sqlalchemy import Engine

from busy_fleet import BUNDLE, IMPOSSIBLE
from driftpost_aggregator import incidents
from driftpost_aggregator.web import live
from driftpost_aggregator.web.links import segment
from driftpost_aggregator.web.options import WebOptions
from driftpost_aggregator.web.server import WebServer
from paper_fleet import NOW

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="chromium and chromedriver are not installed (Debian packages chromium, chromium-driver)",
)
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
]
PATIENCE_S = 40.0
# The page, and how many charts it must draw.
PAGES = {
    "/": 1,
    "/?rows=cohorts": 1,
    "/devices": 0,
    "/devices/meter-00001": 2,
    f"/devices/{segment(IMPOSSIBLE)}": 2,
    "/incidents": 0,
    "/incidents/inc-1": 2,
    "/streams": 0,
    f"/streams/{BUNDLE}/image.brightness?scope=cohort&key=camera%3DB": 3,
    f"/streams/{BUNDLE}/output.class": 2,
    f"/streams/{BUNDLE}/input.codes": 2,
    "/requests": 0,
    "/requests?order=priority": 0,
    "/requests/req-0001": 0,
    "/labels": 0,
    "/labels?push=lp-0001": 0,
    "/alerts": 0,
    "/quarantine": 0,
}


class Browser:
    """A headless Chromium that looks at one server."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver
        self.address = ""

    def visit(self, path: str) -> None:
        self.driver.get(self.address.rstrip("/") + path)

    def script(self, code: str, *arguments: object) -> object:
        return self.driver.execute_script(code, *arguments)

    def until(self, what: str, code: str) -> object:
        """Wait for a script to return something true."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            found = self.script(code)
            if found:
                return found
            assert time.monotonic() < deadline, f"not in {PATIENCE_S:g} s: {what}; {self.errors()}"
            time.sleep(0.05)

    def scroll_through(self) -> None:
        """Bring every chart into view once: they are drawn when they are looked at."""
        self.script("for (const e of document.querySelectorAll('[data-chart]')) e.scrollIntoView()")

    def charts_drawn(self, count: int) -> None:
        self.scroll_through()
        self.until(
            f"{count} charts drawn",
            "const all = [...document.querySelectorAll('[data-chart]')];"
            "const drawn = all.filter((e) => e.dataset.drawn && e.querySelector('.main-svg'));"
            f"return all.length === {count} && drawn.length === {count}",
        )

    def errors(self) -> list[str]:
        entries = self.driver.get_log("browser")
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def emulate(self, *, dark: bool = False, width: int = 1360) -> None:
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 700}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    assert CHROMIUM is not None
    options.binary_location = CHROMIUM
    profile: Path = tmp_path_factory.mktemp("profile")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(CHROMEDRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.fixture
def browser(chromium: Browser, engine: Engine) -> Iterator[Browser]:
    options = WebOptions.checked(fleet="meters", host="127.0.0.1", port=0)
    serving = WebServer(engine, options, threading.Event(), now_ms=lambda: NOW + 1500)
    serving.start()
    chromium.address = serving.address
    chromium.emulate()
    chromium.errors()
    yield chromium
    chromium.driver.get("about:blank")
    serving.stop()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_opens_without_an_error_and_draws_its_charts(browser: Browser, path: str) -> None:
    browser.visit(path)
    browser.charts_drawn(PAGES[path])
    browser.until("live", "return document.querySelector('.live').dataset.state === 'live'")
    assert browser.errors() == []
    loaded = browser.script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert isinstance(loaded, list)
    assert loaded
    assert [address for address in loaded if not address.startswith(browser.address)] == []
    assert browser.script("return document.querySelectorAll('script:not([src]), [onerror]').length") == 0


@pytest.mark.parametrize("path", ["/", "/devices", "/devices/meter-00001", "/incidents/inc-1", "/quarantine"])
def test_no_page_must_be_scrolled_sideways_on_a_phone(browser: Browser, path: str) -> None:
    browser.emulate(width=390)
    browser.visit(path)
    browser.charts_drawn(PAGES[path])
    assert browser.script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.errors() == []


def test_a_change_shows_up_without_a_reload(browser: Browser, engine: Engine) -> None:
    browser.visit("/incidents/inc-1")
    browser.charts_drawn(2)
    browser.until("live", "return document.querySelector('.live').dataset.state === 'live'")
    browser.script("window.stillHere = true")
    incidents.note(engine, "inc-1", text="the lens was wiped", actor="Ada", now_ms=NOW + 1400)
    browser.until(
        "the note is shown",
        "return document.getElementById('timeline').innerText.includes('the lens was wiped')",
    )
    incidents.acknowledge(engine, "inc-1", actor="Ada", now_ms=NOW + 1450)
    browser.until(
        "its state is shown", "return document.getElementById('cause').innerText.includes('acknowledged')"
    )
    assert browser.script("return window.stillHere") is True
    assert browser.errors() == []


def test_what_a_person_is_typing_is_not_taken_away_by_a_change(browser: Browser, engine: Engine) -> None:
    browser.visit("/incidents/inc-1")
    note = browser.driver.find_element(By.NAME, "note")
    note.send_keys("half a sente")
    browser.until("live", "return document.querySelector('.live').dataset.state === 'live'")
    incidents.acknowledge(engine, "inc-1", actor="Ada", now_ms=NOW + 1450)
    browser.until(
        "its state is shown", "return document.getElementById('cause').innerText.includes('acknowledged')"
    )
    note.send_keys("nce")
    assert browser.script("return document.activeElement.value") == "half a sentence"


def test_a_person_acknowledges_with_a_note_and_is_remembered_by_name(browser: Browser) -> None:
    browser.visit("/incidents/inc-1")
    browser.driver.find_element(By.NAME, "actor").send_keys("Grace")
    browser.driver.find_element(By.NAME, "note").send_keys("going there")
    browser.driver.find_element(By.CSS_SELECTOR, "button[value=acknowledge]").click()
    browser.until("the page is back", "return document.body.innerText.includes('acknowledged by Grace')")
    assert "going there" in str(browser.script("return document.body.innerText"))
    browser.visit("/incidents/inc-2")
    assert browser.script("return document.querySelector('[name=actor]').value") == "Grace"
    assert browser.errors() == []


def test_a_click_on_a_row_of_the_map_leads_to_its_device(browser: Browser) -> None:
    browser.visit("/")
    browser.charts_drawn(1)
    plot = browser.driver.find_element(By.CSS_SELECTOR, ".chart .nsewdrag")
    # In the middle of the first of 13 rows, near the right end, where its newest windows are.
    box = plot.size
    down = -int(box["height"] / 2) + int(box["height"] / 26)
    ActionChains(browser.driver).move_to_element_with_offset(plot, int(box["width"] * 0.45), down).pause(
        0.3
    ).click().perform()
    browser.until("the device's page", "return location.pathname.startsWith('/devices/meter-')")
    name = browser.script("return document.querySelector('h1').innerText")
    assert name == "meter-00001"


def test_charts_follow_the_colour_scheme(browser: Browser) -> None:
    def ink() -> object:
        return browser.script("return document.querySelector('[data-chart]').layout.font.color")

    browser.visit("/incidents/inc-1")
    browser.charts_drawn(2)
    assert ink() == "#1a2330"
    browser.emulate(dark=True)
    browser.until(
        "dark charts", "return document.querySelector('[data-chart]').layout.font.color === '#e6ebf1'"
    )
    assert browser.script("return getComputedStyle(document.body).backgroundColor") == "rgb(15, 20, 26)"
    assert browser.errors() == []


def test_hostile_names_stay_text(browser: Browser) -> None:
    for path in (
        "/",
        "/?rows=cohorts",
        "/devices",
        "/devices/meter-00011",
        f"/devices/{segment(IMPOSSIBLE)}",
    ):
        browser.visit(path)
        browser.charts_drawn(PAGES.get(path, 2))
        assert browser.script("return document.querySelectorAll('img[src=x], main script').length") == 0
        assert browser.errors() == []


def test_filters_apply_when_chosen_and_leave_empty_ones_out_of_the_address(browser: Browser) -> None:
    browser.visit("/devices")
    browser.script(
        "const s = [...document.querySelectorAll('select[name=attribute]')]"
        ".find((e) => e.querySelector('option[value=\"camera=B\"]'));"
        "s.value = 'camera=B'; s.dispatchEvent(new Event('change'))"
    )
    browser.until("filtered", "return location.search === '?attribute=camera%3DB'")
    names = browser.script(
        "return [...document.querySelectorAll('tbody td:first-child')].map((e) => e.innerText)"
    )
    assert names == [f"meter-000{index:02d}" for index in (1, 4, 7, 10)]


def test_relative_times_are_counted_by_the_servers_clock(browser: Browser) -> None:
    browser.visit("/devices/meter-00001")
    browser.until("relative times", "return document.querySelector('#state time').innerText.endsWith(' ago')")
    shown = browser.script("return [...document.querySelectorAll('#state time')].map((e) => e.innerText)")
    assert isinstance(shown, list)
    assert all("d" not in text for text in shown), "our test's fleet lives in another year than this machine"


@pytest.mark.slow
def test_without_live_streams_the_page_asks_again_by_itself(
    browser: Browser, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_LISTENERS", 0)
    browser.visit("/incidents/inc-1")
    incidents.acknowledge(engine, "inc-1", actor="Ada", now_ms=NOW + 1450)
    browser.until(
        "its state is shown", "return document.getElementById('cause').innerText.includes('acknowledged')"
    )
    browser.until(
        "said so", "return document.querySelector('.live').innerText.includes('refreshing every few')"
    )


def test_pages_work_without_scripts(browser: Browser, engine: Engine) -> None:
    browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.visit("/incidents/inc-2")
        browser.driver.find_element(By.CSS_SELECTOR, "button[value=resolve]").click()
        # The next page comes in its own time: until then the old one, or neither, is there.
        wait = WebDriverWait(
            browser.driver,
            PATIENCE_S,
            ignored_exceptions=(NoSuchElementException, StaleElementReferenceException),
        )
        wait.until(expected_conditions.text_to_be_present_in_element((By.ID, "cause"), "resolved"))
        assert "UTC" in browser.driver.find_element(By.ID, "cause").text
    finally:
        browser.driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
