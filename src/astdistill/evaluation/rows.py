"""Rows of a table under training: each network is kept by what it depends on, so that none is trained twice."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..data.dataset import Dataset, Split
from ..data.preprocessing import Preprocessing
from ..data.synthetic import SyntheticSet
from ..data.textures import ORDINARY
from ..runtime.config import digest
from ..runtime.errors import unknown
from ..runtime.files import read_json, write_json
from ..runtime.parallel import divide
from ..runtime.run_dir import RunDir
from ..runtime.seeds import derive
from .baselines import full_data, kmeans_real, random_real
from .protocol import EvalRecipe
from .runner import Evaluation, Row, check_names, check_seeds, split_of, train_networks, warn_of_divergence
from .scores import Entry
from .training import NetworkResult

FORMAT = 1
DIGITS = 16
INVERTED = 1 << 28
"""Bytes of images whose preprocessing is undone at once."""


class Ledger:
    """Results by what they depend on: recipe, network, images, data set, tested split, seed and number of the network.

    A changed recipe or image asks for other keys, so it starts over without touching what was there. With `path` None
    nothing is stored.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        stored: dict[str, Any] = read_json(path) if path is not None and path.exists() else {}
        self._stored = stored.get("networks", {}) if stored.get("format") == FORMAT else {}

    @staticmethod
    def beside(out: Path | None) -> Ledger:
        """The ledger of the folder `out`, which every table of that folder shares."""
        return Ledger(None if out is None else RunDir(out).networks)

    def get(self, key: str) -> NetworkResult | None:
        """The result under `key`, or None."""
        found = self._stored.get(key)
        if found is None:
            return None
        by_class, counts = found.get("by_class"), found.get("confusion")  # files of earlier versions have neither
        return NetworkResult(
            found["final"],
            found["best"],
            found["diverged"],
            None if by_class is None else tuple(by_class),
            None if counts is None else tuple(map(tuple, counts)),
        )

    def put(self, key: str, result: NetworkResult, about: dict[str, Any]) -> None:
        """Store one result at once, with a readable note of what it is."""
        self._stored[key] = {**asdict(result), "about": about}
        if self.path is not None:
            write_json(self.path, {"format": FORMAT, "networks": self._stored})


def key(about: dict[str, Any]) -> str:
    """Twelve hexadecimal digits of everything a network's accuracy depends on."""
    return digest(about)


def content(synthetic: SyntheticSet) -> str:
    """A hash of what a network learns from a set: images, targets, their kind, step size; of textures also what they
    lie on."""
    torus = "" if synthetic.torus == ORDINARY else f"-{synthetic.torus.digest()}"
    return _sha(synthetic.images, synthetic.targets, synthetic.lr) + synthetic.labels + torus


def tested_content(split: Split, preprocessing: Preprocessing) -> str:
    """A hash of the 8-bit pixels and the labels that networks are tested on.

    Of pixels, because the last bits of whitened images change with the linear-algebra library and its number of
    threads.
    """
    state = hashlib.sha256(_title((len(split), *split.shape), torch.uint8))
    for images, _ in split.batches(max(1, INVERTED // (4 * math.prod(split.shape)))):
        state.update(_bytes(preprocessing.invert(images).mul(255).round().clamp(0, 255).to(torch.uint8)))
    state.update(_title(tuple(split.labels.shape), split.labels.dtype) + _bytes(split.labels))
    return state.hexdigest()[:DIGITS]


def _sha(*tensors: Tensor) -> str:
    state = hashlib.sha256()
    for tensor in tensors:
        state.update(_title(tuple(tensor.shape), tensor.dtype) + _bytes(tensor))
    return state.hexdigest()[:DIGITS]


def _title(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    return repr((shape, str(dtype))).encode()


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().numpy().tobytes()


BASELINES = ("random", "kmeans", "full")
UNTRAINED = ("name", "reported", "full_epochs")
"""What of a recipe no single network depends on: the full-data row has its epochs in `epochs` by then."""


@dataclass(frozen=True)
class Place:
    """A row by its name; `content` names its images in the ledger."""

    name: str
    row: Row
    content: str


@dataclass(frozen=True)
class Draw:
    """Real images of a baseline, drawn anew for each network."""

    baseline: str
    dataset: Dataset
    ipc: int
    seed: int

    def __call__(self, k: int) -> SyntheticSet:
        choose = random_real if self.baseline == "random" else kmeans_real
        return choose(self.dataset, self.ipc, derive(self.seed, "baseline", k))


@dataclass(frozen=True)
class Testing:
    """What the networks of all rows share: the data, the tested split, the seed of all draws, and the networks of each
    row."""

    dataset: Dataset
    split: Literal["test", "validation"]
    seed: int
    seeds: int

    def common(self) -> dict[str, Any]:
        """What the ledger notes of it. Raises InputError for a split that is not there."""
        tested = tested_content(split_of(self.dataset, self.split), self.dataset.preprocessing)
        return {"dataset": self.dataset.fingerprint, "split": self.split, "tested": tested, "seed": self.seed}


class Kept:
    """The networks of one row, as far as they are finished."""

    def __init__(self, ledger: Ledger, place: Place, common: dict[str, Any], seeds: int) -> None:
        self.place, self._ledger = place, ledger
        recipe = {name: value for name, value in place.row.recipe.to_json().items() if name not in UNTRAINED}
        self._about = {"recipe": recipe, "model": place.row.model, "images": place.content, **common}
        found = {k: ledger.get(key({**self._about, "network": k})) for k in range(seeds)}
        self.results = {k: result for k, result in found.items() if result is not None}

    def keep(self, k: int, result: NetworkResult) -> None:
        """Store one network."""
        about = {**self._about, "network": k}
        self._ledger.put(key(about), result, about)
        self.results[k] = result

    def entry(self) -> Entry:
        return Entry.of([self.results[k] for k in sorted(self.results)], self.place.row.recipe.reported)


def synthetic_place(model: str, synthetic: SyntheticSet, recipe: EvalRecipe) -> Place:
    """The row of a distilled set on one network."""
    return Place(model, Row(model, synthetic, synthetic.seen, recipe), content(synthetic))


def baseline_place(name: str, model: str, ipc: int, dataset: Dataset, recipe: EvalRecipe, seed: int) -> Place:
    """The row of a baseline. Raises InputError for an unknown one, and where a class has fewer than `ipc` images."""
    if name == "full":
        images = full_data(dataset)
        return Place(name, Row(model, images, len(images), recipe.for_full_data()), "full data")
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    dataset.check_ipc(ipc)
    row = Row(model, Draw(name, dataset, ipc, seed), ipc * len(dataset.classes), recipe)
    return Place(name, row, f"{name} real images, {ipc} per class")


def train_places(
    places: Sequence[Place],
    testing: Testing,
    ledger: Ledger,
    workers: int | None,
    on_result: Callable[[list[Kept]], object] = lambda kept: None,
) -> list[Kept]:
    """All rows with every network trained, those in the ledger not again; `on_result` is told after each new one.

    On a CPU `workers` networks, of whatever row, are trained side by side (None: one for each core).
    """
    check_seeds(testing.seeds)
    models = list(dict.fromkeys(place.row.model for place in places))
    check_names(models, testing.dataset)
    common, seeds = testing.common(), testing.seeds
    kept = [Kept(ledger, place, common, seeds) for place in places]
    missing = [(number, k) for number, each in enumerate(kept) for k in range(seeds) if k not in each.results]
    whole = Evaluation(tuple(place.row for place in places), testing.dataset, testing.split, testing.seed, seeds)
    crew = divide(len(places) * seeds, workers, testing.dataset.device, models)
    for number, k, result in train_networks(
        whole, missing, crew, f"training {len(places)} × {seeds} networks (images seen)"
    ):
        kept[number].keep(k, result)
        on_result(kept)
    for number in sorted({number for number, _ in missing}):
        warn_of_divergence(places[number].row.model, kept[number].entry())
    return kept
