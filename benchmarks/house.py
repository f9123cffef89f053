"""Metrics of the size and structure of the source: files, packages, imports between them, long lines, conditional
expressions.

python benchmarks/house.py            # a table
python benchmarks/house.py --json     # the same as JSON
"""

from __future__ import annotations

import argparse
import ast
import json
import statistics
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "astdistill"
LONG, SHORT = 120, 50
ARTEFACTS = ("config.json", "metrics.jsonl", "scores.json", "live.json", "state.safetensors", "synthetic.safetensors")
"""Files of a run folder, whose names belong to one module."""
PARSERS = ("argparse", "click", "tyro", "typer", "docopt", "fire")


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def imported(path: Path, packages: set[str]) -> set[str]:
    """The packages that a module imports, without its own."""
    package_parts, found = list(path.relative_to(SOURCE).parts[:-1]), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package_parts[: len(package_parts) - node.level + 1]
            parts = [*base, *(node.module or "").split(".")] if node.module else base
            found |= {parts[0]} if parts else {alias.name for alias in node.names}
    return found & packages - set(package_parts[:1])


def floors(arrows: dict[str, set[str]]) -> int:
    """The longest chain of packages each of which imports the next; packages that import one another have none."""

    def height(name: str, above: tuple[str, ...]) -> int:
        if name in above:
            raise SystemExit(f"{' → '.join((*above, name))} is a circle of imports.")
        return 1 + max((height(low, (*above, name)) for low in arrows[name]), default=0)

    return max(height(name, ()) for name in arrows)


def strings(path: Path) -> set[str]:
    """The string constants of a module, docstrings among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def names_of(path: Path, kind: type[ast.AST]) -> list[str]:
    """The names of a module's imports (`ast.Import`, without relative ones) or its assigned variables (`ast.Name`)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if kind is ast.Name:
        return [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
    plain = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return plain + [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]


def measured() -> dict[str, float]:
    """All metrics by name."""
    files = sorted(SOURCE.rglob("*.py"))
    modules = [path for path in files if path.name not in ("__init__.py", "__main__.py")]
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    arrows = {name: set[str]() for name in packages}
    for path in modules:
        arrows[path.relative_to(SOURCE).parts[0]] |= imported(path, packages)
    text = [line for path in files for line in lines(path)]
    conditional = sum(
        isinstance(node, ast.IfExp) for path in files for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )
    return {
        "files": len(files),
        "median lines of a module": statistics.median(len(lines(path)) for path in modules),
        "names at the top of the package": len(
            {path.name for path in SOURCE.iterdir() if path.suffix == ".py" and path.stem[0] != "_"} | packages
        ),
        "import floors": floors(arrows),
        "arrows between packages": sum(map(len, arrows.values())),
        f"modules below {SHORT} lines": sum(len(lines(path)) < SHORT for path in modules),
        f"lines over {LONG} columns, %": round(100 * sum(len(line) > LONG for line in text) / len(text), 1),
        "conditional expressions per 100 lines": round(100 * conditional / len(text), 2),
        "modules that name a file of a run folder": sum(bool(strings(path) & set(ARTEFACTS)) for path in modules),
        "command-line parsers": len(
            {name.partition(".")[0] for path in modules for name in names_of(path, ast.Import)} & set(PARSERS)
        ),
        "variables called found": sum(name == "found" for path in files for name in names_of(path, ast.Name)),
        "lines": len(text),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    found = measured()
    if parser.parse_args().json:
        print(json.dumps(found, indent=1))
    else:
        for name, value in found.items():
            print(f"{name:<40} {value:>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
