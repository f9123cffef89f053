"""What users read, in the field's words: no private vocabulary, and every letter and abbreviation explained where a
page first uses it; the version is the same everywhere."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import astdistill
from astdistill.cli.main import ABOUT, MORE, VERBS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PRIVATE = re.compile(
    r"\b(house|rooms?|bills?|oracle|cells?|sound reading|sample deviation|vouch\w*|crew|read \d+ %)\b", re.IGNORECASE
)
CODE = re.compile(r"^```.*?^```|<!--.*?-->|`[^`\n]*`|\]\([^)]*\)", flags=re.DOTALL | re.MULTILINE)
EXPLAINED = {
    "DSA": "differentiable Siamese augmentation",
    "ZCA": "decorrelates pixels",
    "GSAM": "sharpness-aware",
    "DD-Ranking": "label-robust",
}
LETTERS = {"T": "inner steps", "M": "matched", "P": "parameters"}
"""Single letters for a number, in prose or in a table, and a word that says what is counted."""
WITHOUT = ("CHANGELOG.md",)
"""Pages that name things without using them."""


def prose(text: str) -> str:
    """A page without code, comments and the targets of links."""
    return CODE.sub(" ", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_no_private_words(page: Path) -> None:
    found = PRIVATE.search(prose(page.read_text(encoding="utf-8")))
    assert found is None, f"{page.name}: {found}"


def test_help_has_no_private_words() -> None:
    for text in (ABOUT, MORE, *VERBS.values()):
        assert PRIVATE.search(text) is None, text


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in WITHOUT], ids=lambda page: page.name)
def test_abbreviations_and_letters_are_explained_where_they_first_occur(page: Path) -> None:
    text = prose(page.read_text(encoding="utf-8"))
    for name, words in EXPLAINED.items():
        first = re.search(rf"\b{name}\b", text)
        assert first is None or words in flat(text, first.start()), f"{page.name} does not say what {name} is"
    for letter, words in LETTERS.items():
        first = re.search(rf"\b{letter} (?=\d)|\b{letter} (?:is|inner|=)|, {letter},", text)
        assert first is None or words in flat(text, first.start()), f"{page.name} does not say what {letter} is"


def flat(text: str, place: int) -> str:
    """What stands before a place, and the two lines after it, with single spaces."""
    return re.sub(r"\s+", " ", text[: place + 260])


def test_the_version_is_one() -> None:
    version = astdistill.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nsite_name: astdistill {version}\n" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert version in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_fits() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 140
    assert max(map(len, lines)) <= 120
