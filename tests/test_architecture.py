"""The package keeps its plan: twelve packages whose imports run one way, and names that load."""

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
LEVELS = (
    "runtime",
    "data",
    "models",
    "autodiff",
    "experts",
    "methods",
    "evaluation",
    "distillation",
    "report",
    "interop",
    "experiment",
    "cli",
)
"""Low to high. A package may import itself and every lower one."""


def package(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(path: Path, text: str) -> set[str]:
    """The packages that the module imports, anywhere in the file, relatively or by the package's name."""
    own = list(path.relative_to(SOURCE).parts[:-1])
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            base = own[: len(own) - node.level + 1] if node.level else []
            words = [*base, *(node.module or "").split(".")] if node.module else base
            if not node.level:
                if words[0] != "astdistill":
                    continue
                words = words[1:]
            found |= {words[0]} if words else {alias.name for alias in node.names} & set(LEVELS)
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("astdistill.")}
    return found


def test_there_are_twelve_packages() -> None:
    assert {package(path) for path in MODULES} - {"__init__", "__main__"} == set(LEVELS)


def test_imports_run_one_way() -> None:
    for path in MODULES:
        own = package(path)
        if own in LEVELS:
            upward = imported(path, path.read_text(encoding="utf-8")) - set(LEVELS[: LEVELS.index(own) + 1])
            assert not upward, f"{path.relative_to(SOURCE)} imports {sorted(upward)}, which lie above it"


def test_the_reader_of_imports_sees_every_form() -> None:
    """Otherwise the test above could not fail."""
    inside = SOURCE / "report" / "page" / "page.py"
    assert imported(inside, "from ...experts import Segment") == {"experts"}
    assert imported(inside, "from ... import experts, cli") == {"experts", "cli"}
    assert imported(inside, "from ..pictures import sheet") == {"report"}
    assert imported(inside, "def f():\n    from astdistill.cli.main import main") == {"cli"}
    assert imported(inside, "import astdistill.report.figures") == {"report"}
    assert imported(inside, "from torch import nn\nimport torch.nn") == set()
    assert imported(SOURCE / "data" / "hub.py", "from ..runtime.errors import InputError") == {"runtime"}
    assert all(
        LEVELS.index(low) < LEVELS.index(high) for low, high in pairwise(["runtime", "experts", "methods", "cli"])
    )


def test_no_file_is_a_box_of_leftovers() -> None:
    kinds = {"utils", "util", "helpers", "helper", "common", "misc", "base", "core", "lib"}
    for path in MODULES:
        assert not kinds & {part.removesuffix(".py") for part in path.relative_to(SOURCE).parts}
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 380, f"{path} holds more than one idea"


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


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("methods.parts", "methods", "GrowingWindow"),
        ("unroll", "methods", "FirstOrder"),
        ("presets", "experiment.presets", "preset"),
        ("errors", "runtime.errors", "InputError"),
        ("synthetic", "data.synthetic", "SyntheticSet"),
        ("engines", "autodiff", "EagerEngine"),
    ],
)
def test_packages_that_the_documentation_of_0_1_named_still_import(old: str, new: str, name: str) -> None:
    code = f"from astdistill.{old} import {name} as old; from astdistill.{new} import {name} as new; assert old is new"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True)
    assert f"DeprecationWarning: astdistill.{old} is now astdistill.{new}" in done.stderr
