"""The command that reproduces the published figures of a distilled set."""

from __future__ import annotations

import shlex
from pathlib import Path

from ..data.synthetic import SyntheticSet
from ..evaluation.protocol import PROTOCOLS, EvalRecipe
from ..evaluation.scores import Scores, protocol_text
from ..runtime.errors import flag_name


def again(synthetic: SyntheticSet, scores: Scores | None, folder: str | Path) -> str:
    """The command that evaluates a set in `folder` as for its scores, or Python code where no command can."""
    if scores is None:
        return f"Not evaluated yet.\n\n    astdistill evaluate {shlex.quote(str(folder))}"
    command_line = command(synthetic, scores, folder)
    if not command_line:
        return (
            f"No protocol of the command line is that of these figures ({protocol_text(scores.recipe, scores.split)}"
            f"). In Python:\n\n    scores = ad.Scores.read({str(folder)!r})\n"
            f"    ad.evaluate(ad.load({str(folder)!r}), dataset, recipe=scores.recipe{_arguments(synthetic, scores)})"
        )
    text = f"    {command_line}"
    if scores.online is not None or scores.taught is not None:
        text += "\n\nIts teacher is trained again, so that figures agree only within their spread."
    return text


def command(synthetic: SyntheticSet, scores: Scores, folder: str | Path) -> str:
    """`astdistill evaluate` with the protocol, networks, seed and baselines of `scores`; '' where no protocol of the
    command line is that of the scores."""
    flags_by_protocol = {name: _flags(protocol, scores, synthetic) for name, protocol in PROTOCOLS.items()}
    fitting = [["--protocol", name, *flags] for name, flags in flags_by_protocol.items() if flags is not None]
    if not fitting:
        return ""
    arguments = ["astdistill", "evaluate", str(folder), *fitting[0], "--networks", str(_networks(scores))]
    if list(scores.architecture) != [synthetic.model]:
        arguments += ["--architectures", *scores.architecture]
    if scores.seed:
        arguments += ["--seed", str(scores.seed)]
    if scores.rates:
        arguments += ["--lr", "search"]
    arguments += ["--baselines", *scores.baselines]
    if scores.taught is not None:
        arguments += ["teacher", "--temperature", f"{scores.taught.teacher.temperature:g}"]
    return shlex.join(arguments)


def _flags(protocol: EvalRecipe, scores: Scores, synthetic: SyntheticSet) -> list[str] | None:
    """The flags that turn `protocol` into that of the scores; None where none do."""
    recipe = scores.recipe
    if "full" not in scores.baselines:  # its epochs cannot be set without that row
        recipe = recipe.replace(full_epochs=protocol.full_epochs)
    changes = {name: getattr(recipe, name) for name in ("epochs", "full_epochs", "lr")}
    same = protocol.augmented(synthetic.augmentation).replace(**changes)
    if recipe not in (same, same.for_set(synthetic.ipc, len(synthetic.classes))):
        return None
    flags = []
    for name, value in changes.items():
        if value is not None and value != getattr(protocol, name):
            flags += [flag_name(name), str(value)]
    return flags


def _arguments(synthetic: SyntheticSet, scores: Scores) -> str:
    """The arguments of `evaluate` in Python besides the recipe, without those that have their default."""
    given: dict[str, object] = {"seeds": _networks(scores)}
    if list(scores.architecture) != [synthetic.model]:
        given["model"] = list(scores.architecture)
    if scores.seed:
        given["seed"] = scores.seed
    if scores.split != "test":
        given["split"] = scores.split
    return "".join(f", {name}={value!r}" for name, value in given.items())


def _networks(scores: Scores) -> int:
    return next(iter(scores.architecture.values())).n
