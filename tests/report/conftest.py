"""Opens reports in a real browser, without a window."""

from __future__ import annotations

import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import networks
import numpy as np
import onnx_ir as ir
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from small_network import NETWORK

import graphopt
from graphopt.api import Options, Result

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run "
    "--disable-background-networking --disable-component-update --disable-sync"
)


class Page:
    """A report in the browser."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self.driver = driver

    def open(
        self, path: pathlib.Path, width: int = 1280, scheme: str = "light", height: int = 900
    ) -> None:
        """Open ``path``, and wait until all is drawn."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": width < 500}
        )
        media = [
            {"name": "prefers-color-scheme", "value": scheme},
            {"name": "prefers-reduced-motion", "value": "reduce"},
        ]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
        self.messages()
        self.driver.get(path.as_uri())
        self.until("return document.documentElement.dataset.ready")

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page."""
        return self.driver.execute_script(script, *arguments)

    def until(self, script: str) -> Any:
        """Wait until ``script`` returns something true."""
        return WebDriverWait(self.driver, 20, 0.02).until(lambda _: self.run(script))

    def find(self, selector: str) -> WebElement:
        """Return the first element."""
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        """Return the texts of all elements."""
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return list(self.run(script, selector))

    def focus(self, selector: str) -> None:
        """Give the focus to an element."""
        self.run("document.querySelector(arguments[0]).focus()", selector)

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        ActionChains(self.driver, duration=0).send_keys(*keys).perform()

    def tab_until(self, selector: str, limit: int = 80) -> None:
        """Press Tab until the element has the focus."""
        for _ in range(limit):
            if self.run("return document.activeElement.matches(arguments[0])", selector):
                return
            self.press(Keys.TAB)
        raise AssertionError(f"Tab does not lead to {selector}")

    def messages(self) -> list[str]:
        """Return what the console said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return what pages from files have asked for since the last call."""
        events = [
            json.loads(one["message"])["message"] for one in self.driver.get_log("performance")
        ]
        return [
            event["params"]["request"]["url"]
            for event in events
            if event["method"] == "Network.requestWillBeSent"
            and event["params"]["documentURL"].startswith("file:")
        ]


@pytest.fixture(scope="session")
def browser() -> Iterator[webdriver.Chrome]:
    driver = shutil.which("chromedriver")
    assert driver, "the report is tested in Chromium: run `make browser`"
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory(
        prefix="graphopt-browser-", ignore_cleanup_errors=True
    ) as profile:
        for flag in (*FLAGS.split(), f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        chrome = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield chrome
        finally:
            chrome.quit()


@pytest.fixture
def page(browser: webdriver.Chrome) -> Iterator[Page]:
    """A page; at the end the console has said nothing and nothing but files was opened."""
    page = Page(browser)
    page.requests()
    yield page
    assert page.messages() == []
    assert [url for url in page.requests() if not url.startswith(("file:", "data:"))] == []


@pytest.fixture(scope="session")
def result() -> Result:
    """A small network, simplified, fused and quantized."""
    feeds = np.random.default_rng(0)
    samples = [{"x": feeds.standard_normal((2, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    model = ir.to_proto(networks.network(NETWORK))
    options = Options(measure=False)
    return graphopt.optimize(
        model, "default,quantize-static", samples=samples, options=options
    )


@pytest.fixture(scope="session")
def report(result: Result, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Its report."""
    return result.report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[[Result], pathlib.Path]:
    """Return a function that writes the report of a result."""
    return lambda result: result.report(tmp_path / "report.html")
