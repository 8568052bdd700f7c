"""The report pages in headless Chromium, opened from their folder as a person would."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from test_compare import better
from test_page import EVIL, report_of, run_of, splits, sweep_of

from refexp.show.compare import compare_runs
from refexp.show.page.comparison import write_comparison
from refexp.show.tables.page import write_sweep_report
from refexp.show.tables.summary import Wanted, summarise

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="BROWSER MISSING: no chromium on the path; `make browser`"),
]
DRAWN = "document.querySelectorAll('.card:first-child path.{}').length"
SET_SCORE = (
    "(e => {{ e.value = {}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
    "(document.querySelector('#score'))"
)
FRAME = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> str:
    return report_of(tmp_path_factory.mktemp("run"), splits(names=(EVIL, "leaf"))).as_uri()


@pytest.fixture
def page(browser, report):
    opened = browser.open(report)
    opened.run("document.querySelector('#gallery').scrollIntoView()")
    opened.wait(f"{DRAWN.format('found')} > 0")
    yield opened
    assert opened.problems == []
    assert [url for url in opened.requests if not url.startswith(("file:///", "data:,"))] == []


def test_names_are_shown_as_they_are(page):
    assert page.run("document.querySelector('#class').options[1].textContent") == EVIL
    assert page.run("document.querySelector('#key li').textContent") == EVIL
    assert page.run("document.querySelectorAll('main b[title]').length") == 0


def test_slider_and_toggles_change_what_is_drawn(page):
    at_half, truth = page.run(DRAWN.format("found")), page.run(DRAWN.format("truth"))
    assert at_half >= 1
    assert truth >= 1
    for score, expected in ((0.2, at_half + 1), (0.99, 0), (0.5, at_half)):
        page.run(SET_SCORE.format(score))
        page.run(FRAME)
        assert page.run(DRAWN.format("found")) == expected
        assert page.run("document.querySelector('output[for=score]').textContent") == f"{score:.2f}"
    page.click("#truth")
    page.run(FRAME)
    assert (page.run(DRAWN.format("truth")), page.run(DRAWN.format("found"))) == (0, at_half)
    page.click("#found")
    page.click("#truth")
    page.run(FRAME)
    assert (page.run(DRAWN.format("truth")), page.run(DRAWN.format("found"))) == (truth, 0)


def test_class_filter_goes_by_what_is_drawn(page):
    cards = "document.querySelectorAll('.card:not([hidden])').length"
    pick = "(e => {{ e.value = '{}'; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})({})"
    everything = page.run(cards)
    page.click("#truth")
    page.run(pick.format(1, "document.querySelector('#class')"))
    few = page.run(cards)
    page.run(SET_SCORE.format(0.95))
    assert 0 < few <= everything and page.run(cards) == 0
    assert page.run("!document.querySelector('#none').hidden")
    page.run(SET_SCORE.format(0.1))
    assert page.run(cards) >= few
    page.run("document.querySelector('.card:not([hidden]) .picture').click()")
    page.wait("document.querySelector('#large').open")
    page.run(SET_SCORE.format(0.95))  # nothing is left to step to
    page.press("ArrowRight")


def test_gallery_filters_by_verdict_and_sorts(page):
    put = (
        "(e => {{ e.value = {!r}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
        "(document.querySelector({!r}))"
    )
    names = "[...document.querySelectorAll('.card:not([hidden]) img')].map(e => e.alt)"
    everything = page.run(names)
    verdicts = page.run("[...document.querySelector('#verdict').options].map(e => e.text)")
    page.run(put.format(str(verdicts.index("wrong class") - 1), "#verdict"))
    assert page.run(names) == ["1.png", "2.png", "3.png"]  # not in each fourth
    page.run(put.format("", "#verdict"))
    page.run(put.format("high", "#sort"))
    assert page.run(names) == ["4.png", "1.png", "2.png", "3.png"]
    page.run("document.querySelector('.card .picture').click()")
    page.wait("document.querySelector('#large').open")
    page.press("ArrowRight")
    assert page.run("document.querySelector('#large-name').textContent") == "1.png"  # as sorted
    page.press("Escape")
    page.run(put.format("file", "#sort"))
    page.click("#empty")
    assert page.run(names) == []
    page.run(SET_SCORE.format(0.95))
    assert page.run(names) == everything


def test_slider_of_the_threshold(page):
    slider, output = "document.querySelector('input[data-threshold=segm]')", "input[data-threshold=segm] + output"
    words = "document.querySelector('[data-counts=segm]').textContent"
    best = page.run(f"{slider}.value")
    assert page.run(f"document.querySelector('{output}').textContent") == f"{float(best):.2f}"
    page.run(f"{slider}.focus()")
    page.press("Home")
    assert page.run(words) == "5 right, 7 false, 3 missed, at IoU .5."
    legend = "[...document.querySelectorAll('[data-by-score=segm] .legend b')].map(e => e.textContent)"
    assert page.run(legend) == ["41.7", "62.5", "50.0"]
    page.run(
        "(e => { e.value = '1'; e.dispatchEvent(new Event('change')); })"
        "(document.querySelector('select[data-scores=segm]'))"
    )
    page.wait(f"!{words}.startsWith('5 right')")


def test_page_of_a_comparison(browser, tmp_path):
    data = splits()
    runs = run_of(tmp_path / "a", data), run_of(tmp_path / "b", data, change=better)
    page = browser.open(write_comparison(compare_runs(*runs), tmp_path / "out", 10).as_uri())
    page.run("document.querySelector('#gallery').scrollIntoView()")
    page.wait(f"{DRAWN.format('found')} === 3")  # the image that lost: two detections of A, one of B
    page.click("#found1")
    page.run(FRAME)
    assert page.run(DRAWN.format("found")) == 2
    page.click(".card .picture")
    page.wait("document.querySelector('#large').open")
    assert "lost" in page.run("document.querySelector('#large .list').textContent")
    page.press("Escape")
    page.click("main section a[data-show]")
    page.wait("document.querySelector('#large').open")
    assert page.problems == []


def test_paper_has_all_masks(browser, tmp_path):
    page = browser.open(report_of(tmp_path, splits(images=30)).as_uri())
    page.wait("document.querySelectorAll('script[src^=\"report/layers/\"]').length === 30")
    last = "[...document.querySelectorAll('script[src^=\"report/layers/\"]')].pop()"
    page.run(f"new Promise(done => {{ {last}.addEventListener('load', done); setTimeout(done, 10000); }})")
    drawn = "[...document.querySelectorAll('.card .count')].filter(e => e.textContent.includes(' of ')).length"
    assert page.run(drawn) < 30
    page.call("Page.printToPDF")
    assert page.run(drawn) == 30
    assert page.problems == []


def test_tables_sort_by_any_column(page):
    rows = "[...document.querySelectorAll('table.sortable tbody')][0].innerText.split('\\n').length"
    names = "[...document.querySelectorAll('table.sortable')][0].querySelectorAll('tbody th')"
    value = f"[...{names}].map(e => e.textContent)"
    assert page.run(rows) >= 2
    page.click("table.sortable button[data-sort=ascending]")
    first = page.run(value)
    assert first == sorted(first, key=str.casefold)
    page.click("table.sortable button[data-sort=ascending]")
    assert page.run(value) == first[::-1]
    assert page.run("document.querySelector('table.sortable th').getAttribute('aria-sort')") == "descending"


def test_masks_or_boxes_and_the_curve_of_a_class(page):
    seen = "document.querySelector('#accuracy > [data-kind]:not([hidden])').dataset.kind"
    line = "document.querySelector('.curve[data-of=bbox] polyline').getAttribute('points')"
    assert page.run(seen) == "segm"
    page.click("input[value=bbox]")
    assert page.run(seen) == "bbox"
    of_all = page.run(line)
    page.run(
        "(e => { e.value = '1'; e.dispatchEvent(new Event('change')); })"
        "(document.querySelector('select[data-curves=bbox]'))"
    )
    page.wait(f"{line} !== {of_all!r}")


def test_by_keyboard_alone(page):
    page.run("document.querySelector('#score').focus()")
    page.press("ArrowRight", times=3)
    assert page.run("document.querySelector('#score').value") == "0.53"
    for _ in range(6):
        page.press("Tab")
        if page.run("document.activeElement.matches('.card .picture')"):
            break
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.press("Enter")
    name = "document.querySelector('#large-name').textContent"
    assert page.wait("document.querySelector('#large').open")
    first = page.run(name)
    page.press("ArrowRight")
    assert page.run(name) != first
    page.press("ArrowLeft")
    assert page.run(name) == first
    page.press("Escape")
    page.wait("!document.querySelector('#large').open")
    assert page.run("document.querySelector('main #score') !== null")


def test_an_error_leads_into_the_gallery(page):
    page.click("#errors a[data-show]")
    page.wait("document.querySelectorAll('#large path.on').length === 1")
    shown = page.run("document.querySelector('#errors a[data-show]').dataset.show")
    assert page.run("document.querySelector('#large path.on').dataset.key") == shown
    page.wait("document.querySelector('#large .list button[aria-pressed=true]') !== null")


@pytest.mark.parametrize("width", [360, 768, 1280])
def test_nothing_is_wider_than_the_screen(browser, report, width):
    page = browser.open(report, width=width, height=740)
    assert page.run("document.documentElement.scrollWidth") <= width
    page.run("document.querySelector('#gallery').scrollIntoView()")
    page.wait(f"{DRAWN.format('found')} > 0")
    page.click(".card .picture")
    page.wait("document.querySelector('#large').open")
    assert page.run("document.querySelector('#large').scrollWidth") <= width
    assert page.problems == []


def test_dark_where_it_is_wanted(browser, report):
    def lightness(dark: bool) -> float:
        page = browser.open(report, dark=dark)
        colour = page.run("getComputedStyle(document.body).backgroundColor.match(/[0-9.]+/g).slice(0, 3).map(Number)")
        return sum(colour) / 3

    assert lightness(dark=True) < 40
    assert lightness(dark=False) > 230


def test_print_leaves_the_controls_out(page):
    page.call("Emulation.setEmulatedMedia", media="print")
    hidden = "['nav', '#layers'].every(s => getComputedStyle(document.querySelector(s)).display === 'none')"
    assert page.run(hidden)
    assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_annotations(browser, tmp_path):
    data = splits()
    data = replace(data, targets=replace(data.targets, annotations=[]))
    page = browser.open(report_of(tmp_path, data).as_uri())
    page.run(SET_SCORE.format(0.2))
    page.wait(f"{DRAWN.format('found')} > 0")
    page.click(".card .picture")
    page.wait("document.querySelectorAll('#large .list button').length > 0")
    assert page.problems == []


def test_page_of_a_sweep(browser, tmp_path):
    summary = summarise([sweep_of(tmp_path)], Wanted(metric="segm/nAP,segm/nAP50"))
    page = browser.open(write_sweep_report(tmp_path, summary).as_uri(), width=360, height=740, dark=True)
    shown = "document.querySelector('#numbers > [data-kind]:not([hidden])').dataset.kind"
    assert page.run(shown) == "segm/nAP"
    page.click("input[value='segm/nAP50']")
    assert page.run(shown) == "segm/nAP50"
    assert page.run("document.documentElement.scrollWidth") <= 360
    seeds = "[...document.querySelectorAll('#runs tbody tr')].map(row => row.cells[3].textContent).join('')"
    page.run("[...document.querySelectorAll('#runs button[data-sort]')].find(e => e.textContent === 'seed').click()")
    assert page.run(seeds) == "0011"
    ink = page.run("getComputedStyle(document.querySelector('svg.chart text')).fill.match(/[0-9.]+/g).map(Number)")
    assert min(ink) > 130
    heights = "[...document.querySelectorAll('svg.chart text[text-anchor=end]')].map(e => e.textContent).join(' ')"
    assert page.run(heights) == "15 20 25 30 35 40 50 50.5"  # around the values of each metric
    assert page.problems == []
    page.click("#runs a[href$='report.html']")
    page.wait("document.title === 'a run'")


def test_the_driver_sees_faults_and_foreign_requests(browser, tmp_path):
    path = Path(tmp_path / "bad.html")
    path.write_text("<script>console.error('a'); fetch('http://127.0.0.1:9/x').catch(() => 0); nothing()</script>")
    page = browser.open(path.as_uri())
    page.wait("true")
    assert any("nothing is not defined" in problem for problem in page.problems)
    assert "http://127.0.0.1:9/x" in page.requests
