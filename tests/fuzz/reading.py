"""Ways of reading the files of the desk; each gives all that it read, in plain values that can be compared."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import fsspec
import numpy as np
import torch
from torch import Tensor

import astdistill as ad
from astdistill.cli.main import main
from astdistill.cli.table_folder import _seeds
from astdistill.data.cache import Stored, cache_path, cached
from astdistill.data.digests import tensor_digest
from astdistill.evaluation.cache import NetworkCache
from astdistill.evaluation.scores import Scores
from astdistill.interop.import_experts import buffer_files, import_buffers
from astdistill.interop.import_sets import import_set
from astdistill.report.current_scores import outdated
from astdistill.report.page import content, head
from astdistill.report.run import RunReader
from astdistill.runtime.config import Record
from astdistill.runtime.errors import InputError
from astdistill.runtime.objects import path_or_url
from astdistill.runtime.run_dir import RunDir

COMMAND = ("run", "digits-ipc1")
RUN = (
    "--data.per-class", "6", "--experts.count", "2", "--method.expert.epochs", "3", "--model", "convnet-d1-w4",
    "--distill.iterations", "3", "--method.step.max-start-epoch", "1", "--method.step.expert-epochs", "1", "--method.step.syn-steps", "1",
    "--evaluation.recipe.epochs", "1", "--evaluation.networks", "1", "--evaluation.baselines", "random", "--workers", "1", "--quiet",
)  # fmt: skip


def plain(value: Any) -> Any:
    """A value as lists, dictionaries, numbers and text; tensors by their digests."""
    if isinstance(value, Tensor):
        return tensor_digest(value.detach())
    if isinstance(value, np.ndarray):
        return plain(torch.from_numpy(value))
    if isinstance(value, Record):
        return value.to_json()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value


@cache
def digits() -> ad.Dataset:
    return ad.load_dataset("digits", per_class=6)


def set_of(desk: Path) -> Any:
    synthetic = ad.load(desk / "run")
    synthetic.pixels()
    header = {name: value for name, value in synthetic.header().items() if name != "digests"}
    return plain([synthetic.images, synthetic.probabilities, synthetic.preprocessing.tensors(), header])


def of_run(part: Callable[[RunReader], Any]) -> Callable[[Path], Any]:
    return lambda desk: part(RunReader.of(desk / "run"))


def said(run: RunReader) -> Any:
    """All that the page says in words."""
    words = [head.title(run), head.facts(run), content.bars(run), content.protocol(run)]
    words += [content.steps(run), content.costs(run)]
    return [*words, content.missing(run), content.settings([run]), content.provenance([run]), content.command(run)]


def resumed(*flags: str, without: str = "") -> Callable[[Path], Any]:
    """The command again, which goes on with what is there, and where `flags` ask for more, takes a step."""

    def read(desk: Path) -> Any:
        if without:
            (desk / without).unlink()
        code = main([*COMMAND, *RUN, "--out", "run", *flags])
        if code:  # after a sentence
            assert code in (1, 2)
            raise InputError(f"exit code {code}")
        return plain(ad.load(desk / "run").images)

    return read


def store_of(desk: Path) -> Any:
    (recipe,) = (desk / "experts").glob("*/recipe.json")
    return _read(ad.TrajectoryStore.open(recipe.parent))


def cloud_store_of(desk: Path) -> Any:
    """The same, whose files are objects."""
    (recipe,) = (desk / "experts").glob("*/recipe.json")
    with in_the_cloud(recipe.parent) as address:
        return _read(ad.TrajectoryStore.open(path_or_url(address)))


@contextmanager
def in_the_cloud(folder: Path) -> Iterator[str]:
    """The address of objects that are the files of a folder, for the block."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.put(str(folder), f"/{folder.name}", recursive=True)
    try:
        yield f"memory://{folder.name}"
    finally:
        memory.store.clear()


def trained_in_the_cloud(desk: Path) -> Any:
    """The expert of such a store, trained to its end from the state that was put."""
    with in_the_cloud(desk / "clouds") as address:
        store = train(address)
        return plain([store.rows(0, 0, 4), [curve.step_squared for curve in store.curves()]])


def _read(store: ad.TrajectoryStore) -> Any:
    rows = [store.rows(expert, 0, 4) for expert in store.experts()]
    made = store.preprocessing
    return plain([rows, store.identity, made.hash, made.tensors(), made.describe(), store.curves(), store.epochs])


def verified(desk: Path) -> Any:
    """All below the desk, by the command."""
    if main(["verify", str(desk)]):
        raise InputError("a damaged file is named")
    return "sound"


def train(store: str, epochs: int = 3) -> ad.TrajectoryStore:
    """One expert of three epochs, or of fewer for now."""
    recipe = ad.methods.MTT.recipe.replace(epochs=3)
    return ad.train_experts(
        digits(), model="convnet-d1-w4", recipe=recipe, count=1, store=store, stop_after=epochs, workers=1
    )


def trained_on(name: str) -> Callable[[Path], Any]:
    """The expert of a store, trained to its end."""

    def read(desk: Path) -> Any:
        store = train(name)
        return plain([store.rows(0, 0, 4), [curve.step_squared for curve in store.curves()]])

    return read


def of_one_seed(desk: Path) -> Any:
    """Whether the networks of scores that do not say their seed are of seed 0."""
    return _seeds(Scores.read(desk / "run").replace(seed=None), RunDir(desk / "run")) <= {0}


def whose(desk: Path) -> Any:
    """Whether the scores of the run are of its set, as far as the files say so."""
    return outdated(RunDir(desk / "run"), [desk / "run/synthetic.safetensors"])


def networks(desk: Path) -> Any:
    """All results that are kept, each as the evaluation takes it."""
    kept = NetworkCache(RunDir(desk / "run").networks)
    return plain([kept._result(each) for each in kept._stored.values()])


def set_of_others(desk: Path) -> Any:
    return plain(import_set(desk / "mtt", digits(), model="convnet-d1-w4").images)


def experts_of_others(desk: Path) -> Any:
    for store in desk.glob("imported/*/recipe.json"):
        shutil.rmtree(store.parent)
    files = buffer_files(desk / "buffers")
    return plain(import_buffers(files, digits(), model="convnet-d1-w4", store=desk / "imported").rows(0, 0, 3))


def cached_numbers(desk: Path) -> Any:
    """Of a cache, which is built anew where it is damaged."""
    stored = cached("fuzz", "numbers", lambda: Stored({"a": torch.arange(5.0)}, {"word": 1}))
    assert cache_path("fuzz", [1, "numbers"], ".safetensors").exists()
    return [stored.tensors["a"].tolist(), {name: stored.header[name] for name in ("word",)}]


def _contents(dataset: ad.Dataset) -> Any:
    parts = [[tensor_digest(part.images), tensor_digest(part.labels)] for part in (dataset.train, dataset.test)]
    return [*parts, list(dataset.classes)]


def data(name: str) -> Callable[[Path], Any]:
    return lambda desk: _contents(ad.load_dataset(str(desk / name), whiten="none", memory="uint8"))


def mapped(desk: Path) -> Any:
    """Arrays whose pixels are kept in a file of the cache."""
    return _contents(ad.load_dataset(str(desk / "data.npz"), whiten="none", memory="disk"))


def labelled_by_file(desk: Path) -> Any:
    """CIFAR-100 by its other labels."""
    return _contents(ad.load_dataset(str(desk / "cifar100"), whiten="none", label_column="coarse_labels"))


def published(name: str) -> Callable[[Path], Any]:
    """A set that is named, from the folder of data."""

    def read(desk: Path) -> Any:
        with mock.patch.dict("os.environ", {"ASTDISTILL_DATA": str(desk)}):
            return _contents(ad.load_dataset(name, whiten="none", memory="uint8"))

    return read


def claimed(desk: Path) -> Any:
    """A run folder that another process has signed, which is gone or is at it."""
    directory = RunDir(desk / "claimed")
    with directory.writing():
        return "held"


def logged(desk: Path) -> Any:
    """What an earlier process has logged to Weights & Biases."""
    from astdistill.runtime.wandb import WeightsAndBiases

    record = WeightsAndBiases(desk / "claimed", {})
    return [record._id, record._before]
