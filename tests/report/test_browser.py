"""The page in a real browser: every figure is drawn, nothing complains, the slider moves, nothing sticks out."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astdistill.data.synthetic import load
from astdistill.report.page.numbers import numbers
from astdistill.report.page.page import save_page
from astdistill.report.pictures import colours
from astdistill.report.run import read_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip

DRAWN = """() => [...document.querySelectorAll('figure svg')].map((each) => {
  const box = each.getBoundingClientRect();
  const drawn = [...each.querySelectorAll('[style*="var(--series"], image')];
  const marks = drawn.filter((mark) => mark.getBoundingClientRect().width > 0);
  return {width: box.width, height: box.height, marks: marks.length, text: each.querySelectorAll('text').length, told: each.ariaLabel};
})"""

OVERLAPPING = """() => [...document.querySelectorAll('#course svg, #experts svg, #arriving svg')].flatMap((each) => {
  const texts = [...each.querySelectorAll('text')].map((text) => [text.textContent, text.getBoundingClientRect()]);
  return texts.flatMap(([first, a], index) => texts.slice(index + 1).filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1.5 && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 3
  ).map(([second]) => [first, second]));
})"""

DECODED = """async () => {
  const gallery = document.querySelector('.gallery');
  const data = JSON.parse(gallery.querySelector('script').textContent);
  const last = gallery.style.getPropertyValue('--sheet').trim().slice(4, -1).replaceAll('"', '');
  const sizes = [];
  for (const address of [...data.sheets, last]) {
    const image = new Image();
    image.src = address;
    await image.decode();
    sizes.push([image.naturalWidth, image.naturalHeight]);
  }
  return sizes;
}"""

UNREADABLE = """() => {
  const light = (colour) => colour.match(/[0-9.]+/g).slice(0, 3).reduce((sum, value) => sum + Number(value) / 3 / 255, 0);
  const ground = light(getComputedStyle(document.body).backgroundColor);
  const texts = [...document.querySelectorAll('#course svg text, #experts svg text, #start svg text, #arriving svg text')];
  return texts.filter((each) => Math.abs(light(getComputedStyle(each).fill) - ground) < 0.5).map((each) => each.textContent);
}"""


PALE_TEXT = """() => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[0-9.]+/g).slice(0, 3).map((value) => value / 255)
      .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (each) => {
    const own = getComputedStyle(each).backgroundColor;
    return own.startsWith('rgba') && each.parentElement ? ground(each.parentElement) : own;
  };
  return [...document.querySelectorAll('main *:not(script)')]
    .filter((each) => [...each.childNodes].some((inner) => inner.nodeType === 3 && inner.textContent.trim()))
    .filter((each) => !each.closest('svg') && !each.closest('script'))
    .map((each) => [each.textContent.slice(0, 30), light(getComputedStyle(each).color), light(ground(each))])
    .filter(([, text, under]) => (Math.max(text, under) + 0.05) / (Math.min(text, under) + 0.05) < 4.5);
}"""


def installed() -> str | None:
    """The browser of this machine: $CHROME, or Chromium or Chrome on the path."""
    named = os.environ.get("CHROME")
    return next((found for name in ([named] if named else NAMES) if (found := shutil.which(name))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed; it comes with astdistill[test]"
    )
    found = installed()
    if found is None:
        pytest.skip("no Chromium or Chrome on the path; install one, or name it in $CHROME")
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=found, headless=True, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def file(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("page") / "report.html"
    save_page([made], found)
    return found


@pytest.fixture
def view(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The opened page; at the end nothing may have been complained of or asked for."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened, heard = context.new_page(), []
    opened.on("console", lambda message: heard.append(message.text))
    opened.on("pageerror", lambda error: heard.append(str(error)))
    opened.on("request", lambda asked: None if asked.url.startswith(("file:", "data:")) else heard.append(asked.url))
    opened.goto(file.as_uri())
    yield opened
    context.close()
    assert heard == []


EVERYWHERE = pytest.mark.parametrize(
    "view", [(1280, "light"), (390, "dark")], indirect=True, ids=["desk, light", "phone, dark"]
)
ONCE = pytest.mark.parametrize("view", [(1280, "light")], indirect=True, ids=["desk"])


@EVERYWHERE
def test_every_figure_is_drawn_and_nothing_sticks_out(view: Any) -> None:
    figures = view.evaluate(DRAWN)
    told = [figure["told"] for figure in figures]
    # Three of the course, two of the experts, a start for each of three classes, the confusion matrix, classes that
    # arrive.
    assert len(figures) == 10
    assert len(set(told)) == 10
    for figure in figures:
        assert figure["width"] > 150, figure
        assert figure["height"] > 100, figure
        assert figure["marks"] >= 1, figure
        assert figure["text"] >= 2 or "one class" in figure["told"], figure
    assert view.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert view.evaluate(OVERLAPPING) == []
    assert view.evaluate(UNREADABLE) == []


@ONCE
def test_every_sheet_is_an_image(view: Any) -> None:
    sizes = view.evaluate(DECODED)
    assert len(sizes) == 4
    assert {tuple(size) for size in sizes} == {
        (3 * 10, 2 * 10)
    }  # six images of 8 pixels with a border, in rows of three


@ONCE
def test_the_slider_moves_the_images(view: Any) -> None:
    tiles, slider = view.locator(".classes").first, view.locator("input[type=range]").first
    final = tiles.screenshot()
    assert "chosen on held-out images, iteration 12" in view.locator("output").first.inner_text()
    slider.focus()
    view.keyboard.press("Home")
    assert "initial, iteration 0" in view.locator("output").first.inner_text()
    initial = tiles.screenshot()
    assert initial != final
    view.keyboard.press("End")
    assert tiles.screenshot() == final


@ONCE
def test_play_goes_through_the_course_and_stops_at_its_end(view: Any) -> None:
    view.clock.install()
    view.locator(".play").first.click()
    assert "initial" in view.locator("output").first.inner_text()
    view.clock.run_for(20_000)
    assert view.locator("output").first.inner_text().startswith("chosen")
    assert view.locator(".play").first.inner_text() == "▶"


@ONCE
def test_hovering_shows_the_soft_label(view: Any) -> None:
    assert view.locator("#tip").is_hidden()
    view.locator(".gallery .tile").nth(3).hover()
    assert view.locator("#tip").is_visible()
    assert "image 2" in view.locator("#tip b").inner_text()
    percents = [int(text.split(" %")[0]) for text in view.locator("#tip li").all_inner_texts()]
    assert 90 <= sum(percents) <= 102
    view.mouse.move(0, 0)
    assert view.locator("#tip").is_hidden()


@ONCE
def test_the_images_are_saved_as_one_picture(view: Any, made: Path, tmp_path: Path) -> None:
    with view.expect_download() as started:
        view.get_by_role("button", name="Save the images (PNG)").click()
    assert started.value.suggested_filename == "small.png"
    started.value.save_as(tmp_path / "small.png")
    with Image.open(tmp_path / "small.png") as picture:
        sheet = np.asarray(picture.convert("RGB")).astype(int)
    pixels = load(made).pixels()
    side, gap, line, edge = 8 * 12, 4, 20, 8
    for index, image in enumerate(pixels):
        label, number = divmod(index, 2)
        left = edge + label * (2 * (side + gap) + 8) + number * (side + gap)
        top = edge + line
        shown = sheet[top + 6 : top + side : 12, left + 6 : left + side : 12]
        assert abs(shown - colours(image[None])[0].astype(int)).max() <= 1


@ONCE
def test_the_numbers_are_saved_as_csv(view: Any, made: Path, tmp_path: Path) -> None:
    with view.expect_download() as started:
        view.get_by_role("link", name="Save the numbers (CSV)").click()
    assert started.value.suggested_filename == "small.csv"
    started.value.save_as(tmp_path / "small.csv")
    assert (tmp_path / "small.csv").read_text(encoding="utf-8") == numbers(read_run(made))


@ONCE
def test_the_code_is_copied(view: Any, made: Path) -> None:
    view.context.grant_permissions(["clipboard-read", "clipboard-write"])
    view.locator(".copy").first.click()
    view.locator(".copy").filter(has_text="Copied").wait_for()
    assert view.evaluate("navigator.clipboard.readText()").startswith("import astdistill as ad\n\nsynthetic = ad.load(")


@ONCE
def test_soft_labels_are_read_by_keyboard(view: Any) -> None:
    tiles = view.locator("#gallery-0 .tile")
    assert view.locator("[tabindex='0'].tile").count() == 1
    tiles.first.focus()
    assert view.locator("#tip").is_visible()
    view.keyboard.press("ArrowRight")
    assert tiles.nth(1).evaluate("(each) => each === document.activeElement")
    assert " % " in view.locator("#told").inner_text()
    view.keyboard.press("Escape")
    assert view.locator("#tip").is_hidden()


@ONCE
def test_controls_are_reached_in_the_order_of_the_page(view: Any) -> None:
    wanted = view.locator("button, a.button, input, summary, [tabindex='0']").count()
    reached = []
    for _ in range(wanted):
        view.keyboard.press("Tab")
        reached.append(view.evaluate("document.activeElement.getBoundingClientRect().top + scrollY"))
    assert len(set(reached)) > 6
    assert all(later >= earlier - 40 for earlier, later in itertools.pairwise(reached))


@EVERYWHERE
def test_text_has_contrast(view: Any) -> None:
    assert view.evaluate(PALE_TEXT) == []


def test_scripts_of_others_and_other_places_are_refused(browser: Any, file: Path) -> None:
    opened, heard = browser.new_page(), []
    opened.on("console", lambda message: heard.append(message.text))
    opened.goto(file.as_uri())
    opened.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"x.png\" onerror=\"window.ran = 1\">')")
    opened.wait_for_timeout(300)
    assert opened.evaluate("window.ran") is None
    assert any("Content Security Policy" in each for each in heard)
    opened.close()


@ONCE
def test_a_printed_page_is_light_whole_and_without_controls(view: Any) -> None:
    view.emulate_media(media="print", color_scheme="dark")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert view.locator(".course").first.is_hidden()
    view.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert view.locator("details[open]").count() == 2
