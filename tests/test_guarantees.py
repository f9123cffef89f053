"""Every test that docs/guarantees.md names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/guarantees.md").read_text(encoding="utf-8")
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^ *def (test_\w+)\(", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
}
MAKE = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))


def rows() -> list[list[str]]:
    """The cells of every promise."""
    lines = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| promise")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_what_holds_a_promise_is_there() -> None:
    named = set(re.findall(r"\btest_\w+(?!\w*\.py)\b", re.sub(r"[\w/]*test_\w+\.py", "", PAGE)))
    assert len(named) > 40
    assert sorted(named - TESTS) == []
    paths = set(re.findall(r"`(?:tests/)([\w/]+(?:\.py)?)", PAGE))
    assert [path for path in sorted(paths) if not (ROOT / "tests" / path).exists()] == []
    assert set(re.findall(r"`make ([a-z]+)", PAGE)) <= MAKE
    results = set(re.findall(r"benchmarks/results/[\w-]+\.json", PAGE))
    assert [path for path in sorted(results) if not (ROOT / path).is_file()] == []


def test_every_promise_says_what_holds_it() -> None:
    assert len(rows()) > 30
    for cells in rows():
        assert len(cells) == 3, cells
        assert re.search(r"test_\w+|`tests/|make \w+|measured", cells[2]), f"nothing holds: {cells[0]}"
