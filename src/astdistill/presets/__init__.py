"""Experiments by name: one for each published cell of the results table, and two that a small machine can run."""

from __future__ import annotations

from ..errors import InputError, unknown
from ..experiment import Experiment
from ..methods import find_method
from .cells import CELLS
from .small import CIFAR_TEN, DIGITS

__all__ = ["CELLS", "CIFAR_TEN", "DIGITS", "PRESETS", "matching", "preset", "with_method"]

PRESETS: dict[str, Experiment] = {preset.name: preset for preset in (DIGITS, CIFAR_TEN, *CELLS)}

LISTED_BY = "astdistill presets"


def preset(name: str) -> Experiment:
    """The preset called `name`. Raises InputError with the nearest match."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS, LISTED_BY)
    return PRESETS[name]


def with_method(experiment: Experiment, method: str) -> Experiment:
    """The same cell by another method: its decisions, the cell's own expert epochs, batch and augmentation."""
    if find_method(method).name == experiment.method.name:
        return experiment
    found, kept = find_method(method), experiment.method.expert
    expert = found.expert.replace(epochs=kept.epochs, batch=kept.batch, augmentation=kept.augmentation)
    return experiment.replace(method=found.replace(expert=expert))


def matching(words: list[str]) -> list[Experiment]:
    """The presets that have every one of `words` among name, data, method and 'ipcN'; all of them where there are no words.

    A word that no preset has whole may be a part of these. Raises InputError for a word that fits none, with the nearest.
    """
    found = list(PRESETS.values())
    for word in words:
        fitting = _fitting(word)
        if not (both := [each for each in found if each in fitting]):
            raise InputError(f"No preset fits '{word}' and the other words too; leave some out: astdistill presets {word}")
        found = both
    return found


def _fitting(word: str) -> list[Experiment]:
    whole = [each for each in PRESETS.values() if word in _words(each)]
    fitting = whole or [each for each in PRESETS.values() if any(word in own for own in _words(each))]
    if not fitting:
        raise unknown("preset", word, {own for each in PRESETS.values() for own in _words(each)}, LISTED_BY)
    return fitting


def _words(experiment: Experiment) -> set[str]:
    return {experiment.name, experiment.data.source, experiment.method.name, f"ipc{experiment.ipc}"}
