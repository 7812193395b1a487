"""The report in a real browser: every control, by mouse and by keyboard."""

import json
import pathlib
import re

import pytest
from selenium.webdriver.common.keys import Keys

ROWS = "#layer-table tbody tr"
NAMES = "#layer-table tbody th .clip"


def test_everything_is_drawn(page, report: pathlib.Path) -> None:
    page.open(report)

    assert len(page.texts("#summary .card")) == 5
    assert page.texts(NAMES) == ["Conv_0", "Conv_4", "Gemm_7"]
    for place in ("#waterfall svg", "#layer-details svg", "#graph-view .node"):
        assert page.texts(place), place


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_theme_follows_the_system_and_the_switch(page, report, scheme: str) -> None:
    def paper() -> int:
        colour = page.run("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    page.open(report, scheme=scheme)
    is_dark = scheme == "dark"
    assert (paper() < 200) == is_dark
    assert page.find("#theme").get_attribute("aria-pressed") == str(is_dark).lower()

    page.find("#theme").click()
    assert (paper() < 200) != is_dark

    page.focus("#theme")
    page.press(Keys.ENTER)
    assert (paper() < 200) == is_dark


def test_a_phone_needs_no_sideways_scrolling(page, report: pathlib.Path) -> None:
    page.open(report, width=360, height=740)

    assert page.run("return document.documentElement.scrollWidth") == 360
    wide = """return [...document.querySelectorAll('body *')].filter(e =>
        e.getBoundingClientRect().right > 361 && !e.closest('.scroll, nav, svg, .skip')
    ).map(e => e.outerHTML.slice(0, 80))"""
    assert page.run(wide) == []


def test_tables_sort_by_mouse_and_by_keyboard(page, report: pathlib.Path) -> None:
    page.open(report)
    head = "#layer-table thead th:nth-child(8)"  # bytes of the weight

    page.find(f"{head} button").click()
    assert page.texts(NAMES) == ["Conv_4", "Conv_0", "Gemm_7"]
    assert page.find(head).get_attribute("aria-sort") == "descending"

    page.focus(f"{head} button")
    page.press(Keys.ENTER)
    assert page.texts(NAMES) == ["Gemm_7", "Conv_0", "Conv_4"]
    assert page.find(head).get_attribute("aria-sort") == "ascending"


def test_tables_filter_and_search(page, report: pathlib.Path) -> None:
    page.open(report)

    page.focus("#layer-table select")
    page.press("Gemm")  # a list is chosen from by typing
    assert page.texts(NAMES) == ["Gemm_7"]
    assert page.texts("#layer-table [role=status]") == ["1 of 3"]
    page.press(Keys.HOME)
    assert len(page.texts(ROWS)) == 3

    page.focus("#layer-table input")
    page.press("conv_4 int8")
    assert page.texts(NAMES) == ["Conv_4"]
    page.press("nowhere")
    assert page.texts(ROWS) == ["Nothing matches."]


def test_a_row_is_chosen_by_keyboard_and_by_mouse(page, report: pathlib.Path) -> None:
    page.open(report)
    title = "#layer-details .mono"

    page.focus(f"{ROWS}[tabindex='0']")
    page.press(Keys.HOME, Keys.ARROW_DOWN, Keys.ENTER)
    assert page.texts(title)[0] == "Conv_4"
    page.press(Keys.ARROW_DOWN, Keys.SPACE)
    assert page.texts(title)[0] == "Gemm_7"

    page.run("arguments[0].click()", page.find(f"{ROWS}:first-child"))
    assert page.texts(title)[0] == "Conv_0"
    assert page.texts(f"{ROWS}[aria-selected='true'] .clip") == ["Conv_0"]
    assert "Stored as int8" in page.texts("#layer-details h4")


def test_long_tables_have_pages(page, report: pathlib.Path) -> None:
    page.open(report)
    numbers = "#rewrite-table tbody th"
    first = page.texts(numbers)
    table = "document.querySelector('#rewrite-table')"
    assert (len(first) == 25) == (not page.run(f"return {table}.lastChild.hidden"))
    rows = page.run(
        """const place = document.createElement('div'); document.body.append(place);
        const rows = Array.from({length: 5000}, (_, n) => ({n}));
        const column = {label: 'n', value: (row) => row.n, number: true};
        new DataTable(place, rows, [column], {label: 'many'});
        const texts = () => [...place.querySelectorAll('tbody th')].map(e => e.textContent);
        const seen = [texts().length];
        const [back, next] = place.querySelectorAll('.pager button');
        next.click(); seen.push(texts()[0]);
        back.click(); seen.push(texts()[0], back.disabled);
        place.remove(); return seen"""
    )
    assert rows == [25, "25", "0", True]


def test_the_waterfall_shows_each_measure(page, report: pathlib.Path) -> None:
    page.open(report)
    label = "#waterfall svg"
    assert page.find(label).get_attribute("aria-label").startswith("Weights after each pass")

    page.focus("#waterfall-choice input:checked")
    page.press(Keys.ARROW_RIGHT)
    text = page.find(label).get_attribute("aria-label")
    assert text.startswith("Nodes after each pass: original 8; ")
    assert "eliminate-identity \N{MINUS SIGN}1" in text


def test_the_graph_is_walked_by_keyboard(page, report: pathlib.Path) -> None:
    page.open(report)
    chosen = "#graph-view .node.chosen"
    details = "#graph-view aside .mono"
    start = page.texts(details)[0]

    page.tab_until(f"{chosen}[tabindex='0']")
    page.press(Keys.ARROW_DOWN)
    assert page.run("return document.activeElement.matches('.node:not(.chosen)')")
    page.press(Keys.ENTER)
    assert page.texts(details)[0] != start
    assert page.run("return document.activeElement.matches('.node.chosen')")


def test_a_node_is_found_and_its_rewrites_are_told(page, report: pathlib.Path) -> None:
    page.open(report)
    page.focus("#graph-side input:checked")
    page.press(Keys.ARROW_LEFT)
    assert page.run("return document.querySelector('#graph-side input').checked")

    page.focus("#graph-view input[role=combobox]")
    page.press("batchnorm")
    assert page.texts("#graph-results li") == ["BatchNormalization BatchNormalization_1"]
    page.press(Keys.ENTER)

    panel = page.texts("#graph-view aside")[0]
    assert "removed" in panel
    assert "fuse-conv-batchnorm" in panel
    page.find("#graph-view aside li li button:last-of-type").click()
    assert page.texts("#graph-view .node.chosen")


def test_a_node_is_chosen_with_the_mouse(page, report: pathlib.Path) -> None:
    page.open(report)
    other = page.find("#graph-view .node[role=button]:not(.chosen)")
    label = other.get_attribute("aria-label")

    page.run("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", other)

    chosen = page.find("#graph-view .node.chosen")
    assert chosen.get_attribute("aria-label") == label


def test_the_strip_and_the_buttons_walk_the_graph(page, report: pathlib.Path) -> None:
    page.open(report)
    place = "#graph-view .strip"

    def now() -> int:
        return int(page.find(place).get_attribute("aria-valuenow"))

    page.focus(place)
    page.press(Keys.HOME)
    assert now() == 0
    page.press(Keys.ARROW_RIGHT)
    assert now() == 1
    page.press(Keys.END)
    assert now() == int(page.find(place).get_attribute("aria-valuemax"))
    page.find("#graph-view [aria-label='Next change']").click()
    first = now()
    page.find("#graph-view [aria-label='Next change']").click()
    assert now() > first
    before = page.find("#graph-view svg[role=group] > g").get_attribute("transform")
    page.find("#graph-view [aria-label='Zoom in']").click()
    assert page.find("#graph-view svg[role=group] > g").get_attribute("transform") != before


def test_everything_that_can_be_operated_has_a_name_and_is_reached_by_tab(
    page, report
) -> None:
    page.open(report)
    nameless = """return [...document.querySelectorAll('button, input, select, a, [tabindex]')]
        .filter(e => !(e.textContent.trim() || e.ariaLabel || e.closest('label')?.textContent))
        .map(e => e.outerHTML.slice(0, 100))"""
    assert page.run(nameless) == []
    wanted = """return [...document.querySelectorAll(
            'button:not(:disabled), input[type=search], select, a, [tabindex="0"]')]
        .filter(e => e.checkVisibility() && e.tabIndex >= 0).length"""
    page.run("document.body.tabIndex = -1; document.body.focus(); window.seen = new Set()")
    for _ in range(page.run(wanted) + 10):
        page.press(Keys.TAB)
        page.run("seen.add(document.activeElement)")
    assert page.run("return seen.size") >= page.run(wanted)
    outline = "return getComputedStyle(document.activeElement).outlineStyle"
    page.tab_until("button:not(:disabled)")
    assert page.run(outline) == "solid"


def test_it_can_be_printed(page, report: pathlib.Path) -> None:
    page.open(report, scheme="dark")
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not page.find(".tools").is_displayed()
        assert page.find("#waterfall svg").is_displayed()
        assert page.run("return getComputedStyle(document.body).colorScheme") == "light"
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_the_data_is_json(report: pathlib.Path) -> None:
    text = report.read_text("utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text)
    assert data is not None
    assert json.loads(data[1])["layers"][0]["name"] == "Conv_0"
