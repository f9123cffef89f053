"""The command that measures the published figures of a distilled set again."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..data.synthetic import SyntheticSet
from ..evaluation.protocol import PROTOCOLS, EvalRecipe
from ..evaluation.scores import Scores, protocol_text


def again(synthetic: SyntheticSet, scores: Scores | None, folder: str | Path) -> str:
    """The command that evaluates a set in `folder` as its scores say, or how to do so in Python where none can."""
    if scores is None:
        return f"Nobody has evaluated it yet.\n\n    astdistill evaluate {shlex.quote(str(folder))}"
    typed = command(synthetic, scores, folder)
    if not typed:
        return (
            f"No protocol of the command line is the one of these figures ({protocol_text(scores.recipe, scores.split)}"
            f"). In Python:\n\n    scores = ad.Scores.read({str(folder)!r})\n"
            f"    ad.evaluate(ad.load({str(folder)!r}), dataset, recipe=scores.recipe, seeds={_networks(scores)})"
        )
    text = f"    {typed}"
    if scores.online is not None or scores.taught is not None:
        text += "\n\nIts teacher is trained anew, so that the figures agree within their spread alone."
    return text


def command(synthetic: SyntheticSet, scores: Scores, folder: str | Path) -> str:
    """`astdistill evaluate` with the protocol, networks and baselines of `scores`; '' where no protocol of the command
    line is that of the scores."""
    typed = {name: _flags(known, scores, synthetic) for name, known in PROTOCOLS.items()}
    fitting = [["--protocol", name, *flags] for name, flags in typed.items() if flags is not None]
    if not fitting:
        return ""
    words = ["astdistill", "evaluate", str(folder), *fitting[0], "--networks", str(_networks(scores))]
    if list(scores.architecture) != [synthetic.model]:
        words += ["--architectures", *scores.architecture]
    if scores.rates:
        words += ["--lr", "search"]
    words += ["--baselines", *scores.baselines]
    if scores.taught is not None:
        words += ["teacher", "--temperature", f"{scores.taught.teacher.temperature:g}"]
    return shlex.join(words)


def _flags(known: EvalRecipe, scores: Scores, synthetic: SyntheticSet) -> list[str] | None:
    """What is typed beside a protocol so that it is that of the scores; None where it cannot be."""
    recipe = scores.recipe
    if "full" not in scores.baselines:  # whose epochs nobody can ask for without it
        recipe = recipe.replace(full_epochs=known.full_epochs)
    changes = {name: getattr(recipe, name) for name in ("epochs", "full_epochs", "lr")}
    same = known.augmented(synthetic.augmentation).replace(**changes)
    if recipe not in (same, same.for_set(synthetic.ipc, len(synthetic.classes))):
        return None
    words = []
    for name, value in changes.items():
        if value is not None and value != getattr(known, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def _networks(scores: Scores) -> int:
    return next(iter(scores.architecture.values())).n
