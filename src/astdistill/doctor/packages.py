"""Versions of what is installed, and which extras are complete."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator

from packaging.requirements import Requirement

from .findings import Finding

PACKAGE = "astdistill"
SHOWN = ("torch", "numpy", "safetensors", "datasets")


def versions() -> Iterator[Finding]:
    """The versions, and whether each required package is there in a version that is allowed."""
    try:
        required = _required("")
    except importlib.metadata.PackageNotFoundError:
        text = f"Python {platform.python_version()}; {PACKAGE} is imported from a folder and was not installed"
        yield Finding(name="versions", state="note", text=text, advice="pip install -e . in its folder checks what it needs")
        return
    faults = [fault for each in required if (fault := _fault(each))]
    shown = [PACKAGE, *SHOWN]
    text = ", ".join([f"Python {platform.python_version()}", *(f"{name} {found}" for name in shown if (found := _version(name)))])
    yield Finding(
        name="versions",
        state="bad" if faults else "good",
        text=f"{text}; {'; '.join(faults)}" if faults else text,
        advice=f"pip install --upgrade {PACKAGE}" if faults else "",
    )


def extras() -> Iterator[Finding]:
    """Each extra that the package declares: whether all of it is installed."""
    try:
        names = importlib.metadata.metadata(PACKAGE).get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for name in sorted(names):
        faults = [fault for each in _required(name) if (fault := _fault(each))]
        packages = ", ".join(f"{each.name} {_version(each.name)}" for each in _required(name))
        yield Finding(
            name=f"extra {name}",
            state="note" if faults else "good",
            text="; ".join(faults) if faults else packages,
            advice=f"pip install '{PACKAGE}[{name}]'" if faults else "",
        )


def _required(extra: str) -> list[Requirement]:
    """What the extra needs, or with "" what the package itself needs, on this system."""
    found = [Requirement(text) for text in importlib.metadata.requires(PACKAGE) or []]
    plain = [each for each in found if each.marker is None or each.marker.evaluate({"extra": ""})]
    return plain if not extra else [each for each in found if each not in plain and each.marker and each.marker.evaluate({"extra": extra})]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fault(wanted: Requirement) -> str:
    """What is wrong with an installed package, or nothing."""
    found = _version(wanted.name)
    if found is None:
        return f"{wanted.name} is not installed"
    return "" if wanted.specifier.contains(found, prereleases=True) else f"{wanted.name} {found} is not {wanted.specifier}"
