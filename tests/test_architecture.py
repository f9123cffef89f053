"""The package keeps its plan: twelve packages whose imports run one way, and names that load."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
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


def upward(path: Path, text: str) -> set[str]:
    """The packages that the module imports although they lie above its own."""
    own = package(path)
    return imported(path, text) - set(LEVELS[: LEVELS.index(own) + 1])


def test_twelve_packages_import_one_way() -> None:
    """In every form that an import has, inside functions too: the planted ones come first."""
    inside = SOURCE / "report" / "page" / "page.py"
    for text, names in {
        "from ...interop import load": {"interop"},
        "from ... import experts, cli": {"cli"},
        "def f():\n    from astdistill.cli.main import main": {"cli"},
        "import astdistill.experiment.presets": {"experiment"},
        "from ..pictures import sheet\nfrom ...experts import Segment\nfrom torch import cli": set(),
    }.items():
        assert upward(inside, text) == names
    assert {package(path) for path in MODULES} - {"__init__", "__main__"} == set(LEVELS)
    for path in MODULES:
        if package(path) in LEVELS:
            found = upward(path, path.read_text(encoding="utf-8"))
            assert not found, f"{path.relative_to(SOURCE)} imports {sorted(found)}, which lie above it"


OF_NO_DTYPE = ("empty", "eye", "linspace", "ones", "rand", "randn", "zeros")
"""What torch makes in the default dtype of the user's program, if none is given."""


def test_every_tensor_of_numbers_has_a_dtype() -> None:
    """Layers have none: networks are built where the default is float32."""
    missing = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in MODULES
        if package(path) not in ("models", "data")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in [f"torch.{name}" for name in OF_NO_DTYPE]
        if "dtype" not in [keyword.arg for keyword in node.keywords]
    ]
    assert missing == []


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


MOVED = (
    ("methods.parts", "methods", "GrowingWindow"),
    ("unroll", "methods", "FirstOrder"),
    ("presets", "experiment.presets", "preset"),
    ("errors", "runtime.errors", "InputError"),
    ("synthetic", "data.synthetic", "SyntheticSet"),
    ("engines", "autodiff", "EagerEngine"),
)


def test_packages_that_the_documentation_of_0_1_named_still_import(monkeypatch: pytest.MonkeyPatch) -> None:
    for old, new, name in MOVED:
        monkeypatch.delitem(sys.modules, f"astdistill.{old}", raising=False)
        with pytest.warns(DeprecationWarning, match=rf"^astdistill\.{old} is now astdistill\.{new}; the old name goes"):
            found = importlib.import_module(f"astdistill.{old}")
        assert getattr(found, name) is getattr(importlib.import_module(f"astdistill.{new}"), name)
