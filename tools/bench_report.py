"""How large reports are, and how long a browser takes to open them.

Steps: opens each report in Chromium without a window, several times, each in a fresh page;
prints its size and the time from navigation until everything is drawn.

Typical usage:
    python -m graphopt.tools.bench_report report.html
    python -m graphopt.tools.bench_report --repetitions 9 --json a.html b.html

Known limitations: needs selenium, and the commands chromium and chromedriver. The first page
of a browser takes longer than the next ones; it is not counted.
"""

from __future__ import annotations

import json
import pathlib
import shutil
import statistics
import tempfile

import click

from graphopt.debug import script

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
READY_MARK = b"dataset.ready"
"""What a report says when it is drawn; of another page it would be waited for in vain."""
READY = "return document.documentElement.dataset.ready"


@click.command("bench_report", cls=script.Tool, help=__doc__)
@click.argument("reports", nargs=-1, required=True, callback=lambda *given: _checked(*given))
@click.option("--repetitions", type=click.IntRange(1), default=5, show_default=True)
def main(reports: tuple[str, ...], repetitions: int, as_json: bool) -> None:
    """Open reports and print how long that took."""
    driver = shutil.which("chromedriver")
    if driver is None:
        raise click.UsageError("the command chromedriver is missing.")
    rows = [
        {
            "report": path,
            "size_bytes": pathlib.Path(path).stat().st_size,
            "ready_ms": times,
            "median_ms": statistics.median(times),
        }
        for path, times in zip(reports, open_all(reports, repetitions, driver), strict=True)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        size = f"{row['size_bytes'] / 1e6:.2f} MB"  # type: ignore[operator]  # a number
        click.echo(f"{row['report']}: {size}, drawn after {row['median_ms']:.0f} ms")


def _checked(
    context: click.Context, parameter: click.Parameter, paths: tuple[str, ...]
) -> tuple[str, ...]:
    for path in paths:
        try:
            content = pathlib.Path(path).read_bytes()
        except OSError as error:
            text = f"{path}: {error.strerror}."
            raise click.BadParameter(text, context, parameter) from error
        if READY_MARK not in content:
            text = f"{path} is no report of graphopt optimize --report."
            raise click.BadParameter(text, context, parameter)
    return paths


def open_all(reports: tuple[str, ...], repetitions: int, driver: str) -> list[list[int]]:
    """Return the times of each report in ms, the reports in turn."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.wait import WebDriverWait

    times: list[list[int]] = [[] for _ in reports]
    options = webdriver.ChromeOptions()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        browser = webdriver.Chrome(options=options, service=Service(driver))
        try:
            for repetition in range(repetitions + 1):
                for path, found in zip(reports, times, strict=True):
                    browser.get("about:blank")
                    browser.get(pathlib.Path(path).resolve().as_uri())
                    ready = WebDriverWait(browser, 60, 0.02).until(
                        lambda page: page.execute_script(READY)
                    )
                    if repetition:
                        found.append(int(ready))
        finally:
            browser.quit()
    return times


if __name__ == "__main__":
    main()
