"""Every kind of file that is read, and how: a further one is one line in `READERS`."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

import astdistill as ad
from astdistill.cli.main import main
from astdistill.data.cache import Stored, cached, place_of
from astdistill.distillation.snapshots import StartMap, read_course
from astdistill.evaluation.cache import NetworkCache
from astdistill.evaluation.continual import Continual
from astdistill.evaluation.dd_ranking import Ranking
from astdistill.evaluation.scores import Scores, table
from astdistill.interop.import_experts import buffer_files, import_buffers
from astdistill.interop.import_sets import import_set
from astdistill.report.experts import read_experts
from astdistill.report.page import content, head
from astdistill.report.run import RunReader
from astdistill.runtime.files import write_json
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.status import read_status

RUN = (
    "run", "digits-ipc1", "--data.per-class", "6", "--experts.count", "2", "--method.expert.epochs", "3", "--model", "convnet-d1-w4",
    "--distill.iterations", "3", "--method.step.max-start-epoch", "1", "--method.step.expert-epochs", "1", "--method.step.syn-steps", "1",
    "--evaluation.recipe.epochs", "1", "--evaluation.networks", "1", "--evaluation.baselines", "random", "--workers", "1", "--quiet",
)  # fmt: skip
EVALUATE = (
    "evaluate", "run", "--epochs", "1", "--networks", "1", "--baselines", "random", "--workers", "1", "--quiet", "--continual", "5",
    "--out", "run/more",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Reader:
    """A file of the desk (a pattern, of which the first match is taken), and what reads it there.

    With `sealed`, whatever is read is what was written, or it is refused; other formats carry no digest, and a value
    that is another but could be one is read as it is.
    """

    file: str
    read: Callable[[Path], Any]
    sealed: bool = False


@cache
def digits() -> ad.Dataset:
    return ad.load_dataset("digits", per_class=6)


def lay(desk: Path) -> None:
    """Write a file of every kind into the current folder `desk`."""
    assert main([*RUN, "--out", "run"]) == 0
    assert main([*EVALUATE, "--ranking"]) == 0
    write_json(
        desk / "run/live.json",
        {"title": "t", "done": 1, "total": 3, "pace": 1.5, "unit": "steps", "seconds_left": 2.0, "memory": "1 MB", "note": "",
         "pid": 1, "host": "elsewhere", "command": ["run"], "began": 1.0, "time": 2.0},
    )  # fmt: skip
    (desk / "mtt").mkdir()
    images = digits().train.whole()[:10].clone()
    torch.save(images, desk / "mtt/images_best.pt")
    torch.save(torch.arange(10), desk / "mtt/labels_best.pt")
    torch.save(torch.tensor(0.1), desk / "mtt/lr.pt")
    network = ad.build_model("convnet-d1-w4", digits().shape, 10)
    rows = [[part.detach() + row for part in network.parameters()] for row in range(3)]
    (desk / "buffers").mkdir()
    torch.save([rows], desk / "buffers/replay_buffer_0.pt")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(12) % 2
    np.savez_compressed(desk / "data.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    for part in ("train", "test"):
        for number, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
            place = desk / "photos" / part / f"class{label}" / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(place)
    cells = [{"bytes": (desk / f"photos/train/class{n % 2}/{n}.png").read_bytes(), "path": None} for n in range(12)]
    (desk / "parquet").mkdir()
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": labels.tolist()}), desk / f"parquet/{part}-0.parquet")
    _trained(2)
    cached_numbers(desk)
    shutil.copy(place_of("fuzz", [1, "numbers"], ".safetensors"), desk / "cached.safetensors")


def _set(desk: Path) -> Any:
    synthetic = ad.load(desk / "run")
    synthetic.pixels()
    return [float(synthetic.images.double().sum()), synthetic.header()]


def _reader(part: Callable[[RunReader], Any]) -> Callable[[Path], Any]:
    return lambda desk: part(RunReader.of(desk / "run"))


def _said(run: RunReader) -> Any:
    """All that the page says in words."""
    words = [head.title(run), head.facts(run), content.bars(run), content.protocol(run)]
    words += [content.steps(run), content.costs(run)]
    return [*words, content.missing(run), content.settings([run]), content.provenance([run]), content.command(run)]


def _resumed(desk: Path) -> int:
    """The command again, which goes on with what is there."""
    code = main([*RUN, "--out", "run"])
    assert code in (0, 1, 2)
    return code


def _store(desk: Path) -> Any:
    (recipe,) = (desk / "experts").glob("*/recipe.json")
    store = ad.TrajectoryStore.open(recipe.parent)
    rows = [store.rows(expert, 0, 2).double().sum().item() for expert in store.experts()]
    return [rows, store.preprocessing.hash, len(store.curves()), store.epochs]


def _trained(epochs: int) -> Any:
    """An expert that stopped after two epochs of three, trained on."""
    recipe = ad.methods.MTT.recipe.replace(epochs=3)
    return ad.train_experts(
        digits(), model="convnet-d1-w4", recipe=recipe, count=1, store="stopped", stop_after=epochs, workers=1
    ).epochs


def _set_of_others(desk: Path) -> Any:
    return float(import_set(desk / "mtt", digits(), model="convnet-d1-w4").images.double().sum())


def _experts_of_others(desk: Path) -> Any:
    shutil.rmtree(desk / "imported", ignore_errors=True)
    files = buffer_files(desk / "buffers")
    return import_buffers(files, digits(), model="convnet-d1-w4", store=desk / "imported").rows(0, 0, 2).sum().item()


def cached_numbers(desk: Path) -> Any:
    """Of a cache, which is built anew where it is damaged."""
    path, damaged = place_of("fuzz", [1, "numbers"], ".safetensors"), desk / "cached.safetensors"
    if damaged.exists():
        shutil.copy(damaged, path)
    found = cached("fuzz", "numbers", lambda: Stored({"a": torch.arange(5.0)}, {"word": 1}))
    return [found.tensors["a"].tolist(), {name: found.header[name] for name in ("word",)}]


def _data(name: str) -> Callable[[Path], Any]:
    return lambda desk: len(ad.load_dataset(str(desk / name), whiten="none").train)


READERS: dict[str, Reader] = {
    "set": Reader("run/synthetic.safetensors", _set),
    "config": Reader("run/config.json", _reader(_said)),
    "config of a resumed run": Reader("run/config.json", _resumed),
    "provenance": Reader("run/provenance.json", _reader(_said)),
    "provenance of a resumed run": Reader("run/provenance.json", _resumed),
    "metrics": Reader("run/metrics.jsonl", _reader(lambda run: [run.metrics, content.steps(run)])),
    "clock": Reader("run/clock.jsonl", _reader(content.costs)),
    "live": Reader("run/live.json", lambda desk: read_status(desk / "run/live.json")),
    "status": Reader("run/live.json", _reader(lambda run: [run.running, run.status and run.status.line()])),
    "state": Reader("run/state.safetensors", _resumed),
    "course": Reader("run/course/*.safetensors", lambda desk: read_course(desk / "run")),
    "start": Reader("run/initialisation.safetensors", lambda desk: StartMap.read(desk / "run")),
    "curves of experts": Reader("run/experts.json", lambda desk: read_experts(desk / "run")),
    "scores": Reader("run/scores.json", lambda desk: table(Scores.read(desk / "run"))),
    "scores on the page": Reader("run/scores.json", _reader(_said)),
    "networks": Reader("run/scores.partial.json", lambda desk: NetworkCache(RunDir(desk / "run").networks)),
    "networks of a resumed run": Reader("run/scores.partial.json", _resumed),
    "ranking": Reader("run/more/ranking.json", lambda desk: Ranking.read(desk / "run/more/ranking.json")),
    "continual": Reader("run/more/continual.json", lambda desk: Continual.read(desk / "run/more/continual.json")),
    "recipe": Reader("experts/*/recipe.json", _store),
    "preprocessing": Reader("experts/*/preprocessing.safetensors", _store),
    "rows": Reader("experts/*/000.safetensors", _store),
    "log of experts": Reader("experts/*/log.jsonl", _reader(lambda run: run.expert_progress)),
    "state of an expert": Reader("stopped/*/000.partial/state.safetensors", lambda desk: _trained(3)),
    "images of MTT": Reader("mtt/images_best.pt", _set_of_others),
    "labels of MTT": Reader("mtt/labels_best.pt", _set_of_others),
    "rate of MTT": Reader("mtt/lr.pt", _set_of_others),
    "experts of MTT": Reader("buffers/replay_buffer_0.pt", _experts_of_others),
    "cache": Reader("cached.safetensors", cached_numbers, sealed=True),
    "npz": Reader("data.npz", _data("data.npz")),
    "png": Reader("photos/train/class0/0.png", _data("photos")),
    "parquet": Reader("parquet/train-0.parquet", _data("parquet")),
}  # fmt: skip
