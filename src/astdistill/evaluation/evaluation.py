"""Train fresh networks on a few images and test them: the one function behind the scores of synthetic and real images alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch

from ..augment import STRATEGY
from ..data.dataset import Dataset, Split
from ..errors import InputError
from ..models.building import build_model
from ..progress import bar, console
from ..seeds import derive, rng, seeded
from ..synthetic import SyntheticSet, one_hot
from .recipe import MTT_PROTOCOL, EvalRecipe
from .scores import Entry, Scores
from .training import Examples, NetworkResult, train_network

REAL_LR = 0.01
"""The rate for real images where the recipe leaves it to the set: that of MTT's experts."""

Source = SyntheticSet | Split | Callable[[int], SyntheticSet | Split]
"""What networks learn from; a function gives network k its own set, so that the spread contains the draw of the images."""


def evaluate(
    synthetic: Source,
    dataset: Dataset,
    *,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | None = None,
    seeds: int = 5,
    seed: int = 0,
    split: Literal["test", "validation"] = "test",
    done: Mapping[int, NetworkResult] | None = None,
    on_result: Callable[[int, NetworkResult], None] | None = None,
) -> Scores:
    """The scores of `seeds` freshly initialised networks, each trained on `synthetic` alone and tested on one split of `dataset`.

    `model` names the network; None takes the student of the distilled set. Results in `done`, by number of the network, are not
    computed again, and `on_result` is told of each new one. Network k and all its draws depend on `seed` and k only. Computes where
    `dataset` lies. Raises InputError when the set and the data do not share classes, shape and preprocessing.
    """
    name = model or student(synthetic)
    recipe = recipe.augmented(synthetic.augmentation if isinstance(synthetic, SyntheticSet) else STRATEGY)
    results = dict(done or {})
    tested = split_of(dataset, split)
    check_seeds(seeds)
    title = f"training {name} on {_title(synthetic)}"
    with bar(title, seeds * recipe.epochs, sum(k in results for k in range(seeds)) * recipe.epochs) as progress:
        for k in range(seeds):
            if k not in results:
                examples = _examples(synthetic, dataset, k, recipe)
                results[k] = _network(name, examples, dataset, tested, recipe, seed, k, progress.step)
                if on_result is not None:
                    on_result(k, results[k])
    scores = Scores(recipe=recipe, split=split, architecture={name: Entry.of([results[k] for k in range(seeds)], recipe.reported)})
    if scores.diverged:
        console().print(
            f"[yellow]{scores.diverged} of {seeds} networks ({name}) met a training loss that is not finite; "
            "their accuracy is counted as it is. Try a smaller step size.[/yellow]"
        )
    return scores


def check_same_space(synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Raise InputError unless the set has the classes, the image shape and the preprocessing of `dataset`."""
    remedy = f"load the data with {_how(synthetic)}."
    if synthetic.classes != dataset.classes:
        raise InputError(f"The set was distilled for {_few(synthetic.classes)}, but '{dataset.name}' has {_few(dataset.classes)}; {remedy}")
    shape = tuple(synthetic.images.shape[1:])
    if shape != dataset.shape:
        raise InputError(f"The set's images have shape {shape}, those of '{dataset.name}' {dataset.shape}; {remedy}")
    if synthetic.preprocessing.hash != dataset.preprocessing.hash:
        raise InputError(
            f"The set's images are preprocessed ({synthetic.data.whiten}) otherwise than '{dataset.name}' ({dataset.config.whiten}), "
            f"so a network trained on one cannot be tested on the other; {remedy}"
        )


def split_of(dataset: Dataset, split: str) -> Split:
    """The images to test on: test, or those held out for validation. Raises InputError when there are none."""
    if split == "test":
        return dataset.test
    if split == "validation" and dataset.validation is not None:
        return dataset.validation
    if split == "validation":
        raise InputError(f"'{dataset.name}' was loaded without held-out images; load it with validation=0.1 to evaluate on them.")
    raise InputError(f"There is no split '{split}'; evaluate on 'test' or 'validation'.")


def check_seeds(seeds: int) -> None:
    """Raise InputError unless at least one network is asked for."""
    if seeds < 1:
        raise InputError(f"{seeds} networks were asked for; train at least 1, and 5 for a spread that can be compared.")


def student(source: Source) -> str:
    """The network that a distilled set names as its student. Raises InputError for real images."""
    if isinstance(source, SyntheticSet) and source.model:
        return source.model
    raise InputError("Real images name no network of their own; say which to train, for example model='convnet-d3'.")


def _network(
    name: str, examples: Examples, dataset: Dataset, tested: Split, recipe: EvalRecipe, seed: int, k: int, on_epoch: Callable[[], None]
) -> NetworkResult:
    network = build_model(name, dataset.shape, len(dataset.classes), seed=derive(seed, "evaluate", k))
    network = network.to(dataset.train.images.device)
    with seeded(seed, "evaluate", k, "dropout"):  # networks may draw numbers of their own while they train
        return train_network(network, examples, recipe, tested, lambda epoch: rng(seed, "evaluate", k, epoch), on_epoch)


def _examples(source: Source, dataset: Dataset, k: int, recipe: EvalRecipe) -> Examples:
    """The images and targets of network k, on the device of the data set."""
    chosen = source(k) if callable(source) else source
    device = dataset.train.images.device
    if isinstance(chosen, SyntheticSet):
        check_same_space(chosen, dataset)
        targets, rate = chosen.probabilities, float(chosen.lr)
    else:
        targets, rate = one_hot(chosen.labels, len(dataset.classes)), REAL_LR
    lr = rate if recipe.lr is None else recipe.lr
    if not lr > 0:
        raise InputError(f"The set's learned step size is {lr:g}, with which no network trains; give the recipe a positive lr.")
    return Examples(chosen.images.detach().to(device, torch.float32), targets.detach().to(device, torch.float32), lr)


def _title(source: Source) -> str:
    if isinstance(source, SyntheticSet):
        return f"{len(source.images)} synthetic images"
    return f"{len(source)} real images" if isinstance(source, Split) else "real images"


def _few(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:3])
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > 3 else ''})"


def _how(synthetic: SyntheticSet) -> str:
    """The call that loads the data the set was made from."""
    fields = {name: value for name, value in synthetic.data.model_dump(exclude_defaults=True).items() if name != "source"}
    words = "".join(f", {name}={value!r}" for name, value in {"whiten": synthetic.data.whiten, **fields}.items())
    return f"load_dataset({synthetic.data.source!r}{words})"
