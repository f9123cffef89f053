"""What was read of the data, on the console that tells of progress."""

from __future__ import annotations

import textwrap

import torch

from ..data.dataset import Dataset
from ..data.description import COLUMNS, Description, item
from ..experiment.work import Network
from ..runtime import progress
from ..runtime.devices import settled_device

FLAG_COLUMNS = 35
WHY = " " * (FLAG_COLUMNS + 4)
"""What stands before a reason in lines of its own."""


def tell(description: Description) -> None:
    """Say what was read, in full; of a quiet command, only what is odd."""
    if progress.is_quiet():
        _warn(description)
    else:
        plain(description.text())


def tell_briefly(description: Description) -> None:
    """Say in one line what was read, and what is odd; of a quiet command, the latter alone."""
    if not progress.is_quiet():
        plain(f"Data: {description.line}")
    _warn(description)


def tell_where(device: str, dataset: Dataset, model: str) -> None:
    """Say first of all on which device and by which engine a network of these data is computed."""
    if not progress.is_quiet():
        plain(where_text(device, dataset.shape, len(dataset.classes), model))


def where_text(device: str, shape: tuple[int, int, int], classes: int, model: str) -> str:
    """Device and engine in one line, with what auto was decided by."""
    there = settled_device(device)
    text = f"Device: {there}, engine: {Network(model, shape, classes, there).engine}"
    if device == there:
        return text
    if there == "cpu" and torch.backends.mps.is_available():
        return f"{text} (no usable CUDA GPU; mps is there, but is not tested and never chosen)"
    return f"{text} ({AUTO_WORDS[there]})"


AUTO_WORDS = {"cpu": "no usable CUDA GPU", "cuda": "--device cpu for the CPU"}


def plain(text: str) -> None:
    """Write lines as they are."""
    progress.console().print(text, markup=False, highlight=False, soft_wrap=True)


def chosen(flag: str, why: str) -> list[str]:
    """A flag with its value and why it has it, in lines of at most 80 columns."""
    if len(flag) > FLAG_COLUMNS:
        return [f"  {flag}", *textwrap.wrap(why, COLUMNS, initial_indent=WHY, subsequent_indent=WHY)]
    return textwrap.wrap(why, COLUMNS, initial_indent=f"  {flag:<{FLAG_COLUMNS}}  ", subsequent_indent=WHY)


def _warn(description: Description) -> None:
    for warning in description.warnings:
        plain("\n".join(item("warning", warning)))
