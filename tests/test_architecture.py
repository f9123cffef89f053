"""The house keeps its plan: imports run one way, files stay short, and no file is a box of leftovers."""

from __future__ import annotations

import ast
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

import astdistill

SOURCE = Path(astdistill.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
ROOMS = sorted({(path.relative_to(SOURCE).parts[0]).removesuffix(".py") for path in MODULES} - {"__init__"})
ENDS = "__init__", "__main__"
"""The public names reach every room, and `python -m` starts the command line."""

LEVELS: tuple[dict[str, frozenset[str]], ...] = (
    {name: frozenset() for name in ("errors", "shapes", "seeds", "progress", "optimisers", "tabulation", "whereabouts")}
    | {
        "records": frozenset({"errors"}),
        "devices": frozenset({"errors"}),
        "flags": frozenset({"errors"}),
        "folders": frozenset({"errors", "runs"}),
        "runs": frozenset({"errors", "records"}),
        "clock": frozenset({"progress", "runs"}),
        "workers": frozenset({"errors", "progress"}),
        "logs": frozenset({"errors", "progress"}),
    },
    {"augment": frozenset(), "data": frozenset(), "models": frozenset(), "textures": frozenset({"augment"})},
    {"engines": frozenset()},
    {"synthetic": frozenset(), "accuracy": frozenset()},
    {"experts": frozenset(), "unroll": frozenset()},
    {"methods": frozenset()},
    {"evaluation": frozenset()},
    {"distillation": frozenset()},
    {"report": frozenset()},
    {"recording": frozenset()},
    {"run_folder": frozenset()},
    {"exchange": frozenset()},
    {"distilled": frozenset()},
    {"experiment": frozenset()},
    {"stages": frozenset()},
    {"results": frozenset()},
    {"bench": frozenset(), "probe": frozenset()},
    {"calibration": frozenset()},
    {"estimate": frozenset()},
    {"presets": frozenset()},
    {"watching": frozenset()},
    {"options": frozenset()},
    {"ablation": frozenset(), "doctor": frozenset()},
    {"commands": frozenset()},
    {"cli": frozenset()},
)
"""Low to high. A room may import itself, every room of a lower level, and those of its own level that are named."""

ALLOWED = {
    room: frozenset().union({room}, beside, *(lower.keys() for lower in LEVELS[:level]))
    for level, rooms in enumerate(LEVELS)
    for room, beside in rooms.items()
}


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, text: str) -> set[str]:
    """The rooms that the module imports, anywhere in the file, relatively or by the package's name."""
    package = list(path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            names = [alias.name for alias in node.names]
            base = package[: len(package) - node.level + 1] if node.level else []
            words = [*base, *(node.module or "").split(".")] if node.module else base
            if not node.level:
                if words[0] != "astdistill":
                    continue
                words = words[1:]
            found |= {words[0]} if words else set(names) & set(ROOMS)
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("astdistill.")}
    return found


def test_every_room_has_a_level() -> None:
    assert set(ROOMS) - set(ENDS) <= set(ALLOWED), "give the new file a level here and in DESIGN.md"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_run_one_way(path: Path) -> None:
    if room(path) not in ENDS:
        upward = imported(path, path.read_text(encoding="utf-8")) - ALLOWED[room(path)]
        assert not upward, f"{path.relative_to(SOURCE)} imports {sorted(upward)}, which lie above or beside it"


def test_the_reader_of_imports_sees_every_form() -> None:
    """Otherwise the test above could not fail."""
    inside = SOURCE / "methods" / "parts" / "start.py"
    assert imported(inside, "from ...experts import Segment") == {"experts"}
    assert imported(inside, "from ... import experts, cli") == {"experts", "cli"}
    assert imported(inside, "from ..method import Method") == {"methods"}
    assert imported(inside, "from .init import Init") == {"methods"}
    assert imported(inside, "def f():\n    from astdistill.cli import main") == {"cli"}
    assert imported(inside, "import astdistill.report.canvas") == {"report"}
    assert imported(SOURCE / "cli.py", "from . import __version__, commands") == {"commands"}
    assert imported(inside, "from torch import nn\nimport torch.nn") == set()
    assert imported(SOURCE / "presets" / "cells.py", "from ..data.config import DataConfig") == {"data"}
    assert "experts" not in ALLOWED["unroll"]
    assert "unroll" not in ALLOWED["experts"]
    assert all(ALLOWED[low] < ALLOWED[high] for low, high in pairwise(["errors", "data", "experts", "methods", "distillation", "cli"]))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_named_after_the_problem(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 250
    kinds = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "lib"}
    assert not kinds & {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts}


def test_importing_the_package_is_cheap() -> None:
    heavy = ("torch", "numpy", "datasets", "sklearn")
    code = f"import sys, astdistill; dir(astdistill); print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_public_name_loads() -> None:
    for name in astdistill.__all__:
        assert getattr(astdistill, name) is not None
    with pytest.raises(AttributeError, match="astdistill has no 'distil'"):
        astdistill.distil  # noqa: B018
