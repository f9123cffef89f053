"""Take the screenshot of a report page for the documentation, down to one section.

    astdistill demo
    python benchmarks/page_picture.py runs/demo/report.html      # writes docs/images/report-demo.png

Needs playwright, and Chromium or Chrome on the path.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images" / "report-demo.png")
    parser.add_argument("--until", default="experts", help="the last section that is shown")
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    executable = next(filter(None, map(shutil.which, BROWSERS)), None)
    scheme = {True: "dark", False: "light"}[options.dark]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": options.width, "height": 900}, color_scheme=scheme)
        page.goto(options.page.resolve().as_uri())
        end = page.evaluate(f"document.getElementById({options.until!r}).getBoundingClientRect().bottom")
        clip = {"x": 0, "y": 0, "width": options.width, "height": end + 24}
        picture = Image.open(io.BytesIO(page.screenshot(full_page=True, clip=clip)))
        browser.close()
    picture = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    picture.save(options.out, optimize=True)


if __name__ == "__main__":
    main()
