"""The report in a real browser: it draws, sorts, filters and prints, in light and dark, asks nothing of any network."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import report_example as example
from chromium import BINARY, Chromium

from nnopt_ray.report.facts import Facts
from nnopt_ray.report.sections import SECTIONS
from nnopt_ray.report.write import html

pytestmark = pytest.mark.skipif(
    BINARY is None, reason="no Chromium here; Debian has it as `apt-get install chromium`, and the package needs none"
)

DRAWN = """[...document.querySelectorAll("script[data-plot]")].filter((s) => !s.closest("details:not([open])")).every(
    (script) => document.querySelectorAll(`#${script.dataset.plot} .main-svg`).length > 0)
    && [...document.querySelectorAll("script[data-parallel]")].every(
    (script) => document.querySelectorAll(`#${script.dataset.parallel} svg path`).length > 0)"""
TOO_WIDE = "document.documentElement.scrollWidth - window.innerWidth"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    kinds = {
        "search": example.classification(),
        "single": example.classification(experiment=example.page("digits-mlp", search=False)),
        "regression": example.regression(),
        "empty": Facts(example.page()),
        "hostile": example.hostile(),
    }
    for name, facts in kinds.items():
        (folder / f"{name}.html").write_text(html(facts, name), encoding="utf-8")
    return {name: folder / f"{name}.html" for name in kinds}


def is_quiet(browser: Chromium, page: Path) -> None:
    """Nothing on the console, no dialog, and no address asked for but the file itself and pictures inside it."""
    assert browser.said == []
    assert browser.asked[0] == page.as_uri()
    assert [address[:80] for address in browser.asked[1:] if not address.startswith(("data:", "blob:"))] == []


@pytest.mark.parametrize(
    ("kind", "width"),
    [("search", 1280), ("search", 390), ("single", 1280), ("regression", 390), ("empty", 390), ("hostile", 390)],
)
def test_every_page_draws_quietly_and_fits(browser: Chromium, pages: dict[str, Path], kind: str, width: int) -> None:
    browser.open(pages[kind], width=width)
    browser.until(DRAWN)
    is_quiet(browser, pages[kind])
    assert browser.run(TOO_WIDE) <= 0
    sections = browser.run("[...document.querySelectorAll('main > section')].map((section) => section.id)")
    assert sections == [name for name in SECTIONS if name in sections]
    linked = browser.run("[...document.querySelectorAll('nav .contents a')].map((link) => link.hash.slice(1))")
    assert linked == sections
    assert set(sections) >= {"summary", "environment"}
    if kind == "search":
        assert set(sections) >= {"winner", "confirmed", "learning", "trials", "conduct", "mistakes", "data", "card"}
    drawings = "[...document.querySelectorAll('.drawing')].filter((d) => !d.closest('details:not([open])'))"
    small = f"{drawings}.filter((d) => d.clientWidth < 200 || d.clientHeight < 200).length"
    assert browser.run(small) == 0


def test_the_first_screen_holds_score_gain_and_next_steps(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"], width=1280, height=800)
    for part in (".score .value", ".verdict", ".next li", ".tiles", ".searched"):
        assert browser.run(f"document.querySelector('{part}').getBoundingClientRect().bottom") <= 800


def test_plots_follow_light_and_dark(browser: Chromium, pages: dict[str, Path]) -> None:
    tick = "getComputedStyle(document.querySelector('#plot-loss .xtick text')).fill"
    ink = "getComputedStyle(document.body).color"
    browser.open(pages["search"])
    browser.until(DRAWN)
    light = browser.run(tick)
    assert light == browser.run(ink)
    browser.dark(True)
    browser.until(f"{tick} !== '{light}'")
    assert browser.run(tick) == browser.run(ink)
    is_quiet(browser, pages["search"])


def column(browser: Chromium, number: int) -> list[str]:
    cells = f"[...document.querySelectorAll('#trials tbody tr')].map((row) => row.cells[{number}].textContent)"
    found: list[str] = browser.run(cells)
    return found


def test_a_click_on_a_head_sorts_the_trials(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"])
    head = "document.querySelectorAll('#trials thead th')[2]"
    rows = len(column(browser, 2))
    values = {}
    for direction in ("ascending", "descending"):
        browser.run(f"{head}.querySelector('button').click()")
        assert browser.run(f"{head}.getAttribute('aria-sort')") == direction
        shown = column(browser, 2)
        assert len(shown) == rows
        numbers = [float(text) for text in shown if text != "–"]
        assert shown[len(numbers) :] == ["–"] * (rows - len(numbers))  # what has no value stays last
        values[direction] = numbers
    assert values["ascending"] == sorted(values["ascending"])
    assert values["descending"] == values["ascending"][::-1]


def test_an_axis_keeps_the_trials_dragged_over(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"])
    browser.until(DRAWN)
    browser.run("document.querySelector('#plot-parallel').scrollIntoView({block: 'center', behavior: 'instant'})")
    grip = "document.querySelectorAll('#plot-parallel .grip')"
    corner = f"Object.values({grip}[{grip}.length - 1].getBoundingClientRect().toJSON()).slice(0, 4)"
    left, top, width, height = browser.run(corner)
    x, low, middle = left + width / 2, top + height - 9, top + height / 2
    off = "document.querySelectorAll('#plot-parallel path.off').length"
    all_of = browser.run("document.querySelectorAll('#plot-parallel path').length")
    browser.move(x, low, "mousePressed", button="left", clickCount=1)
    browser.move(x, middle, button="left")
    browser.move(x, middle, "mouseReleased", button="left", clickCount=1)
    kept = all_of - browser.run(off)
    assert 0 < kept < all_of  # the better half of the loss axis
    assert browser.run("document.querySelector('.told').textContent") == f"{kept} of {all_of} trials pass."
    browser.move(x, low, "mousePressed", button="left", clickCount=1)
    browser.move(x, low, "mouseReleased", button="left", clickCount=1)
    assert browser.run(off) == 0


def test_pointing_at_a_row_lights_its_line(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"])
    browser.until(DRAWN)
    row = "document.querySelector('#trials tbody tr')"
    trial = browser.run(f"{row}.dataset.key")
    browser.run(f"{row}.dispatchEvent(new PointerEvent('pointerenter'))")
    assert browser.run("document.querySelectorAll('path.lit').length") == 1
    assert browser.run("document.querySelector('.told').textContent").startswith(f"{trial}: validation loss")
    browser.run(f"{row}.dispatchEvent(new PointerEvent('pointerleave'))")
    assert browser.run("document.querySelectorAll('path.lit').length") == 0


def test_the_contents_lead_everywhere_and_close_again(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"], width=390, height=844)
    browser.run("document.querySelector('nav summary').click()")
    assert browser.run("document.querySelector('nav .contents ul').getBoundingClientRect().height") > 200
    assert browser.run(TOO_WIDE) <= 0
    browser.run("document.querySelector('nav .contents a[href=\"#data\"]').click()")
    browser.until("Math.abs(document.querySelector('#data h2').getBoundingClientRect().top) < 120")
    assert not browser.run("document.querySelector('nav details').open")
    browser.until("document.querySelector('nav a.here')?.textContent === 'Data'")


def test_what_is_folded_is_drawn_when_it_is_opened_and_open_on_paper(
    browser: Chromium, pages: dict[str, Path], tmp_path: Path
) -> None:
    browser.open(pages["search"])
    browser.until(DRAWN)
    closed = "document.querySelectorAll('main details:not([open])').length"
    folds = browser.run(closed)
    assert folds > 0
    browser.call("Emulation.setEmulatedMedia", media="print")
    browser.until(f"{closed} === 0")
    browser.call("Emulation.setEmulatedMedia", media="")
    browser.until(f"{closed} === {folds}")
    is_quiet(browser, pages["search"])


def test_no_button_sends_a_plot_away(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["search"])
    browser.until(DRAWN)
    browser.run(
        "Plotly.react('plot-loss', document.getElementById('plot-loss').data, {},"
        " {...document.getElementById('plot-loss')._context, displayModeBar: true}).then(() => 0)"
    )
    titles = browser.run("[...document.querySelectorAll('#plot-loss .modebar-btn')].map((b) => b.dataset.title)")
    assert titles == ["Download plot as a PNG", "Zoom", "Pan", "Reset axes"]


def test_the_users_texts_are_shown_as_they_are(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"])
    browser.until(DRAWN)
    ticks = "[...document.querySelectorAll('#plot-confusion .ytick text')].map((t) => t.textContent)"
    assert "<script>alert(1)</scrip…"[:20] in " ".join(browser.run(ticks))
    assert browser.run("document.querySelectorAll('main img, main a:not(.anchor)').length") == 0
    assert browser.run("document.querySelectorAll('.js-plotly-plot a:not(.modebar-btn)').length") == 0
    axis = browser.run("[...document.querySelectorAll('#plot-parallel text')].map((t) => t.textContent).join(' ')")
    assert "&lt;" not in axis
    is_quiet(browser, pages["hostile"])


def test_markup_that_slipped_in_could_not_run(browser: Chromium, pages: dict[str, Path], tmp_path: Path) -> None:
    """The second wall: a script written into the page by force is refused by the page's own policy."""
    bad = tmp_path / "bad.html"
    text = pages["single"].read_text(encoding="utf-8")
    bad.write_text(text.replace("</main>", "<script>window.ran = 1</script><img src=x onerror='ran = 1'></main>"))
    browser.open(bad)
    browser.until(DRAWN)
    time.sleep(0.2)
    assert browser.run("typeof window.ran") == "undefined"
    assert any("Content Security Policy" in text for text in browser.said)


def test_it_prints_on_a_few_pages(browser: Chromium, pages: dict[str, Path], tmp_path: Path) -> None:
    browser.open(pages["search"], dark=True)
    browser.until(DRAWN)
    browser.pdf(tmp_path / "report.pdf")
    content = (tmp_path / "report.pdf").read_bytes()
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 20
    is_quiet(browser, pages["search"])


def test_without_scripts_every_number_is_still_there(browser: Chromium, pages: dict[str, Path]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(pages["search"])
        answer = browser.call("DOM.getDocument", depth=0)["root"]["nodeId"]
        told = browser.call("DOM.querySelector", nodeId=answer, selector="noscript .noscript")
        assert told["nodeId"] != 0
        rows = browser.call("DOM.querySelectorAll", nodeId=answer, selector="#trials tbody tr")["nodeIds"]
        assert len(rows) == 64
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
