"""Train fresh networks on a few images and test them: the one function behind the scores of synthetic and real images
alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ..autodiff.dispatch import chosen, computing, using
from ..data.augmentation import STRATEGY
from ..data.dataset import Dataset, Split
from ..data.synthetic import SyntheticSet
from ..models.registry import build_model
from ..runtime.devices import moved
from ..runtime.errors import InputError
from ..runtime.parallel import Crew, divide, pool, training_seconds
from ..runtime.progress import Bar, bar, console
from ..runtime.seeds import derive, rng, seeded
from .protocol import MTT_PROTOCOL, EvalRecipe, architectures
from .scores import Entry, Scores, Subject
from .training import Examples, NetworkResult, RealExamples, TensorExamples, train_network

REAL_LR = 0.01
"""The rate for real images where the recipe leaves it to the set: that of MTT's experts."""
Source = SyntheticSet | Split | Callable[[int], SyntheticSet | Split]
"""What networks learn from; a function gives network k its own set, so that the spread contains the draw of the
images."""


@dataclass(frozen=True)
class Row:
    """Networks that differ by their number alone: which, what they learn from, how many images an epoch shows them, the
    settled recipe."""

    model: str
    source: Source
    images: int
    recipe: EvalRecipe

    @property
    def seen(self) -> int:
        """Images that one network is shown, over all epochs."""
        return self.recipe.epochs * self.images

    def seconds(self, dataset: Dataset) -> float:
        """A guess at what one core takes for one network."""
        _, height, width = dataset.shape
        steps = self.recipe.epochs * math.ceil(self.images / self.recipe.batch)
        network = build_model(self.model, dataset.shape, len(dataset.classes))
        return training_seconds(steps, self.seen, sum(part.numel() for part in network.parameters()), height * width)


@dataclass(frozen=True)
class Evaluation:
    """What all networks of one evaluation share."""

    rows: tuple[Row, ...]
    dataset: Dataset
    split: Literal["test", "validation"]
    seed: int
    seeds: int
    engine: str = field(default_factory=chosen)
    """What computes derivatives, wherever a network is trained."""


def evaluate(
    synthetic: Source,
    dataset: Dataset,
    *,
    recipe: EvalRecipe = MTT_PROTOCOL,
    model: str | Sequence[str] | None = None,
    seeds: int = 5,
    seed: int = 0,
    split: Literal["test", "validation"] = "test",
    done: Mapping[tuple[str, int], NetworkResult] | None = None,
    on_result: Callable[[str, int, NetworkResult], None] | None = None,
    workers: int | None = None,
    engine: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Scores:
    """The scores of `seeds` freshly initialised networks, each trained on `synthetic` alone and tested on one split of
    `dataset`.

    `model` names the network, or several, or pools of them (see `pools.py`); None takes the student of the distilled
    set. Results in `done`, by name and number of the network, are not computed again, and `on_result` is told of each
    new one as it finishes. Network k and all its draws depend on its name, `seed` and k only. Computes where `dataset`
    lies, on a CPU `workers` networks side by side (None: one for each core; their threads: see `workers.divide`).
    `engine` computes derivatives (see `EngineName`; None: $ASTDISTILL_ENGINE, or the fastest that can), `device` is
    where the data is taken to (None: where it lies), and `threads`, those of the CPU (None: torch's own number, which
    comes back afterwards), are split among the workers. Raises InputError when the set and the data do not share
    classes, shape and preprocessing.
    """
    dataset = moved(dataset, device)
    names = architectures(model, student_of(synthetic), dataset.shape)
    recipe = recipe.augmented(synthetic.augmentation if isinstance(synthetic, SyntheticSet) else STRATEGY)
    results = dict(done or {})
    split_of(dataset, split)
    check_seeds(seeds)
    check_names(names, dataset)
    missing = [(row, k) for row, name in enumerate(names) for k in range(seeds) if (name, k) not in results]
    source = _Chosen({k: synthetic(k) for k in sorted({k for _, k in missing})}) if callable(synthetic) else synthetic
    rows = tuple(Row(name, source, _size(source), recipe) for name in names)
    with computing(engine, threads):
        crew = divide(len(rows) * seeds, workers, dataset.device, names)
    purpose = " for validation" if split == "validation" else ""
    title = f"training {', '.join(names)} on {_title(synthetic)}{purpose} (images seen)"
    with computing(engine, threads):
        whole = Evaluation(rows, dataset, split, seed, seeds)
        for row, k, result in train_networks(whole, missing, crew, title):
            results[names[row], k] = result
            if on_result is not None:
                on_result(names[row], k, result)
    entries = {name: Entry.of([results[name, k] for k in range(seeds)], recipe.reported) for name in names}
    for name, entry in entries.items():
        warn_of_divergence(name, entry)
    subject = Subject.of(synthetic) if isinstance(synthetic, SyntheticSet) else None
    return Scores(recipe=recipe, split=split, architecture=entries, subject=subject, classes=dataset.classes)


def train_networks(
    whole: Evaluation, missing: Sequence[tuple[int, int]], crew: Crew, title: str
) -> Iterator[tuple[int, int, NetworkResult]]:
    """Train the networks in `missing`, pairs of row and number, side by side; yields row, number and result of each as
    it finishes."""
    if not missing:
        return
    rows = whole.rows
    each = [row.seconds(whole.dataset) for row in rows]
    seconds = sum(each[row] for row, _ in missing)
    if crew.starts(len(missing), seconds):
        # The first row, which everybody waits for; then the longest first, so that no core is idle at the end.
        missing = sorted(missing, key=lambda job: (job[0] > 0, -each[job[0]]))
    total, left = whole.seeds * sum(row.seen for row in rows), sum(rows[row].seen for row, _ in missing)
    with (
        bar(title, total, total - left, "images") as progress,
        pool(_train, whole, crew, progress, len(missing), seconds) as train,
    ):
        for (row, k), result in train(missing):
            progress.step(0, f"{whole.split} {result.final:.1f} %")
            yield row, k, result


def warn_of_divergence(model: str, entry: Entry) -> None:
    """Tell the user of networks whose loss stopped being finite, if there are any."""
    if entry.diverged:
        console().print(
            f"[yellow]{entry.diverged} of {entry.n} networks ({model}) met a training loss that is not finite; "
            "their accuracy is counted as it is. Try a smaller step size.[/yellow]"
        )


def check_same_space(synthetic: SyntheticSet, dataset: Dataset) -> None:
    """Raise InputError unless the set has the classes, the image shape and the preprocessing of `dataset`."""
    remedy = f"load the data with {_how(synthetic)}."
    if synthetic.classes != dataset.classes:
        raise InputError(
            f"The set was distilled for {_few(synthetic.classes)}, but '{dataset.name}' has {_few(dataset.classes)}; "
            f"{remedy}"
        )
    if synthetic.shape != dataset.shape:
        raise InputError(
            f"The set's images have shape {synthetic.shape}, those of '{dataset.name}' {dataset.shape}; {remedy}"
        )
    if synthetic.preprocessing.hash != dataset.preprocessing.hash:
        raise InputError(
            f"The set's images are preprocessed ({synthetic.data.whiten}) otherwise than '{dataset.name}' "
            f"({dataset.config.whiten}), "
            f"so a network trained on one cannot be tested on the other; {remedy}"
        )


def split_of(dataset: Dataset, split: str) -> Split:
    """The images to test on: test, or those held out for validation. Raises InputError when there are none."""
    if split == "test":
        return dataset.test
    if split == "validation" and dataset.validation is not None:
        return dataset.validation
    if split == "validation":
        raise InputError(
            f"'{dataset.name}' was loaded without held-out images; load it with validation=0.1 to evaluate on them."
        )
    raise InputError(f"There is no split '{split}'; evaluate on 'test' or 'validation'.")


def check_seeds(seeds: int) -> None:
    """Raise InputError unless at least one network is asked for."""
    if seeds < 1:
        raise InputError(f"{seeds} networks were asked for; train at least 1, and 5 for a spread that can be compared.")


def check_names(names: Sequence[str], dataset: Dataset) -> None:
    """Raise InputError for a name that makes no network: now, and not after hours of the one before it."""
    for name in names:
        build_model(name, dataset.shape, len(dataset.classes))


def student_of(source: Source) -> str:
    """The network that a distilled set names as its student; '' for real images."""
    return source.model if isinstance(source, SyntheticSet) else ""


def _train(whole: Evaluation, job: tuple[int, int], progress: Bar) -> NetworkResult:
    """One network, given as its row and number, trained and tested."""
    row, k = whole.rows[job[0]], job[1]
    dataset, seed = whole.dataset, whole.seed
    examples = _examples(row.source, dataset, k, row.recipe)
    network = build_model(row.model, dataset.shape, len(dataset.classes), seed=derive(seed, "evaluate", k))
    network = network.to(dataset.device)
    tested = split_of(dataset, whole.split)

    def count() -> None:
        progress.step(examples.seen)

    # Networks may draw numbers of their own while they train.
    with using(whole.engine), seeded(seed, "evaluate", k, "dropout"):
        return train_network(
            network, examples, row.recipe, tested, lambda epoch: rng(seed, "evaluate", k, epoch), count
        )


class _Chosen(dict[int, SyntheticSet | Split]):
    """The sets of the networks by their numbers: a function of the caller's might not be found from other processes."""

    def __call__(self, k: int) -> SyntheticSet | Split:
        return self[k]


def _size(source: Source) -> int:
    """How many images one network sees in an epoch."""
    sets = source.values() if isinstance(source, _Chosen) else [source]
    sizes = [
        each.seen if isinstance(each, SyntheticSet) else len(each)
        for each in sets
        if isinstance(each, SyntheticSet | Split)
    ]
    return max(sizes, default=0)


def _examples(source: Source, dataset: Dataset, k: int, recipe: EvalRecipe) -> Examples:
    """The images and targets of network k, on the device of the data set."""
    chosen = source(k) if callable(source) else source
    device = dataset.device
    if isinstance(chosen, SyntheticSet):
        check_same_space(chosen, dataset)
        return TensorExamples.of(chosen, recipe.lr, device)
    return RealExamples(chosen.to(device), len(dataset.classes), REAL_LR if recipe.lr is None else recipe.lr)


def _title(source: Source) -> str:
    if isinstance(source, SyntheticSet):
        return f"{len(source.images)} synthetic images"
    return f"{len(source)} real images" if isinstance(source, Split) else "real images"


def _few(classes: tuple[str, ...]) -> str:
    shown = ", ".join(classes[:3])
    return f"{len(classes)} classes ({shown}{', …' if len(classes) > 3 else ''})"


def _how(synthetic: SyntheticSet) -> str:
    """The call that loads the data the set was made from."""
    fields = {
        name: value
        for name, value in synthetic.data.model_dump(exclude_defaults=True).items()
        if name not in ("source", "memory")
    }
    words = "".join(f", {name}={value!r}" for name, value in {"whiten": synthetic.data.whiten, **fields}.items())
    return f"load_dataset({synthetic.data.source!r}{words})"
