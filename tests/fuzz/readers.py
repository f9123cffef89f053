"""Every kind of file that is read, and how: a further one is one line in `READERS`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from fuzz.desk import PICTURES
from fuzz.reading import (
    cached_numbers,
    claimed,
    cloud_store_of,
    data,
    digits,
    experts_of_others,
    labelled_by_file,
    logged,
    mapped,
    networks,
    of_one_seed,
    of_run,
    plain,
    published,
    resumed,
    said,
    set_of,
    set_of_others,
    store_of,
    trained_in_the_cloud,
    trained_on,
    verified,
    whose,
)

from astdistill.cli.evaluate import Evaluate, _expert_epochs, _teacher
from astdistill.cli.saved import read_config
from astdistill.distillation.snapshots import StartMap, read_course
from astdistill.evaluation.continual import Continual
from astdistill.evaluation.dd_ranking import Ranking
from astdistill.evaluation.scores import Scores, table
from astdistill.report.compare import runs_in
from astdistill.report.experts import read_experts
from astdistill.report.page import content
from astdistill.report.sweep import Sweep, sweep_table
from astdistill.report.tuning import Tuning
from astdistill.runtime.status import read_status


@dataclasses.dataclass(frozen=True)
class Reader:
    """A file of the desk (a pattern, of which the first match is taken), and what reads it there.

    With `sealed`, whatever is read is what was written, or it is refused; other formats carry no digest, and a value
    that is another but could be one is read as it is.
    """

    file: str
    read: Callable[[Path], Any]
    sealed: bool = False


def _swept(desk: Path) -> Any:
    found = Sweep.read(desk / "swept")
    assert found is not None
    return sweep_table(found)


def _run_of_a_teacher(desk: Path) -> Any:
    """The settings by which `evaluate` obtains the teacher of a set."""
    given = Evaluate(path=desk / "run/synthetic.safetensors")
    with mock.patch("astdistill.cli.evaluate.obtain_teacher", lambda experiment, *_: experiment.to_json()):
        return _teacher(given, digits(), "convnet-d1-w4")


ONE_STEP_MORE = resumed("--distill.iterations", "4")
OURS: dict[str, Reader] = {
    "set": Reader("run/synthetic.safetensors", set_of, sealed=True),
    "config": Reader("run/config.json", of_run(said)),
    "config of a resumed run": Reader("run/config.json", resumed()),
    "provenance": Reader("run/provenance.json", of_run(said)),
    "provenance of a resumed run": Reader("run/provenance.json", resumed()),
    "metrics": Reader("run/metrics.jsonl", of_run(lambda run: [run.metrics, content.steps(run)])),
    "metrics of a resumed run": Reader("run/metrics.jsonl", ONE_STEP_MORE),
    "clock": Reader("run/clock.jsonl", of_run(content.costs)),
    "clock of a resumed run": Reader("run/clock.jsonl", ONE_STEP_MORE),
    "live": Reader("run/live.json", lambda desk: read_status(desk / "run/live.json")),
    "status": Reader("run/live.json", of_run(lambda run: [run.running, run.status and run.status.line()])),
    "state": Reader("run/state.safetensors", ONE_STEP_MORE, sealed=True),
    "course": Reader("run/course/*.safetensors", lambda desk: plain(read_course(desk / "run")), sealed=True),
    "start": Reader("run/initialisation.safetensors", lambda desk: plain(StartMap.read(desk / "run")), sealed=True),
    "curves of experts": Reader("run/experts.json", lambda desk: read_experts(desk / "run")),
    "scores": Reader("run/scores.json", lambda desk: table(Scores.read(desk / "run"))),
    "scores on the page": Reader("run/scores.json", of_run(said)),
    "seed of an earlier version": Reader("run/scores.partial.json", of_one_seed),
    "whose scores they are": Reader("run/scores.json", whose),
    "whose set it is": Reader("run/synthetic.safetensors", whose),
    "networks": Reader("run/scores.partial.json", networks),
    "networks of a resumed run": Reader("run/scores.partial.json", resumed(without="run/scores.json")),
    "ranking": Reader("run/more/ranking.json", lambda desk: Ranking.read(desk / "run/more/ranking.json")),
    "continual": Reader("run/more/continual.json", lambda desk: Continual.read(desk / "run/more/continual.json")),
    "whose a run is": Reader("claimed/.writer.json", claimed),
    "record of Weights & Biases": Reader("claimed/wandb/logged.json", logged),
    "settings in a file": Reader("settings.yaml", lambda desk: read_config(desk / "settings.yaml")),
    "runs over seeds": Reader("seeds/seeds.json", lambda desk: runs_in(desk / "seeds")),
    "sweep": Reader("swept/sweep.json", _swept),
    "search for rates": Reader("tuned/tuning.json", lambda desk: Tuning.read(desk / "tuned")),
    "epochs of experts": Reader("run/config.json", lambda desk: _expert_epochs(desk / "run/synthetic.safetensors")),
    "run of a teacher": Reader("run/config.json", _run_of_a_teacher),
    "recipe": Reader("experts/*/recipe.json", store_of),
    "preprocessing": Reader("experts/*/preprocessing.safetensors", store_of, sealed=True),
    "rows": Reader("experts/*/000.safetensors", store_of, sealed=True),
    "log of experts": Reader("experts/*/log.jsonl", of_run(lambda run: run.expert_progress)),
    "state of an expert": Reader("stopped/*/000.partial/state.safetensors", trained_on("stopped"), sealed=True),
    "rows of a stopped expert": Reader("stopped/*/000.safetensors", trained_on("stopped"), sealed=True),
    "state of a killed expert": Reader("killed/*/000.partial/state.safetensors", trained_on("killed"), sealed=True),
    "rows of a killed expert": Reader("killed/*/000.partial/rows.bin", trained_on("killed"), sealed=True),
    "state of one elsewhere": Reader("elsewhere/*/000.*/state.safetensors", trained_on("elsewhere"), sealed=True),
    "rows of one elsewhere": Reader("elsewhere/*/000.*/rows.bin", trained_on("elsewhere"), sealed=True),
    "recipe in the cloud": Reader("experts/*/recipe.json", cloud_store_of),
    "rows in the cloud": Reader("experts/*/000.safetensors", cloud_store_of, sealed=True),
    "state in the cloud": Reader("clouds/*/000.partial/*.safetensors", trained_in_the_cloud, sealed=True),
    "rows of a stopped expert in the cloud": Reader("clouds/*/000-*.safetensors", trained_in_the_cloud, sealed=True),
    "set that is verified": Reader("run/synthetic.safetensors", verified),
    "rows that are verified": Reader("experts/*/000.safetensors", verified),
    "recipe that is verified": Reader("experts/*/recipe.json", verified),
    "half-trained rows that are verified": Reader("killed/*/000.partial/rows.bin", verified),
    "stopped import": Reader("imported/.*.importing/000.safetensors", experts_of_others, sealed=True),
    "cache": Reader("cache/fuzz-*.safetensors", cached_numbers, sealed=True),
    "pixels in a cache": Reader("cache/png-*/train.npy", data("pictures/png"), sealed=True),
    "labels in a cache": Reader("cache/png-*/test-labels.npy", data("pictures/png"), sealed=True),
    "header of a cache": Reader("cache/png-*/data.json", data("pictures/png"), sealed=True),
    "seal of a cache": Reader("cache/png-*/seal.json", data("pictures/png"), sealed=True),
    "manifest of a cache": Reader("cache/*.manifest.json", data("pictures/png"), sealed=True),
    "images in a cache": Reader("cache/data*.npy", mapped, sealed=True),
}
"""What this package writes."""
OTHERS: dict[str, Reader] = {
    "images of MTT": Reader("mtt/images_best.pt", set_of_others),
    "labels of MTT": Reader("mtt/labels_best.pt", set_of_others),
    "rate of MTT": Reader("mtt/lr.pt", set_of_others),
    "experts of MTT": Reader("buffers/replay_buffer_0.pt", experts_of_others),
    "npz": Reader("data.npz", data("data.npz")),
    "npz of one part": Reader("npzs/train.npz", data("npzs")),
    "MedMNIST": Reader("breastmnist.npz", published("breastmnist")),
    "npy images": Reader("npy/x_train.npy", data("npy")),
    "npy labels": Reader("npy/y_test.npy", data("npy")),
    "IDX images": Reader("idx/train-images-idx3-ubyte", data("idx")),
    "IDX labels": Reader("idx/t10k-labels-idx1-ubyte", data("idx")),
    "IDX images, gzipped": Reader("idxgz/train-images-idx3-ubyte.gz", data("idxgz"), sealed=True),
    "IDX labels, gzipped": Reader("idxgz/train-labels-idx1-ubyte.gz", data("idxgz"), sealed=True),
    "mat of SVHN": Reader("svhn/train_32x32.mat", data("svhn")),
    "mat of SVHN, compressed": Reader("svhn7/test_32x32.mat", data("svhn7")),
    "mat with cells": Reader("own.mat", data("own.mat")),
    "CIFAR-10": Reader("cifar10/data_batch_1", data("cifar10")),
    "CIFAR-10, names": Reader("cifar10/batches.meta", data("cifar10")),
    "CIFAR-100": Reader("cifar100/train", labelled_by_file),
    "CIFAR-100, names": Reader("cifar100/meta", data("cifar100")),
    "CIFAR-10, binary": Reader("cifar10bin/data_batch_1.bin", data("cifar10bin")),
    "CIFAR-10, binary, names": Reader("cifar10bin/batches.meta.txt", data("cifar10bin")),
    "CIFAR-100, binary": Reader("cifar100bin/test.bin", data("cifar100bin")),
    "CIFAR-100, binary, names": Reader("cifar100bin/fine_label_names.txt", data("cifar100bin")),
    "parquet": Reader("parquet/train-0.parquet", data("parquet")),
    "parquet of lists": Reader("lists/test-0.parquet", data("lists")),
    "save_to_disk": Reader("saved/train/data-*.arrow", data("saved")),
    "save_to_disk, features": Reader("saved/train/dataset_info.json", data("saved")),
    "save_to_disk, state": Reader("saved/train/state.json", data("saved")),
    "save_to_disk, splits": Reader("saved/dataset_dict.json", data("saved")),
    "labels in CSV": Reader("csv/labels.csv", data("csv")),
    "labels in CSV of another encoding, beside class folders": Reader("beside/labels.csv", data("beside")),
    "labels in JSON lines": Reader("jsonl/labels.jsonl", data("jsonl")),
    "labels of a table that a list divides": Reader("divided/labels.csv", data("divided")),
    "list of words for parts": Reader("divided/parts.txt", data("divided")),
    "table of words for parts": Reader("tables/parts.csv", data("tables")),
    "labels of folders": Reader("patients/patients.csv", data("patients/patients.csv")),
    "table of folders beside class folders": Reader("patients/patients.csv", data("patients")),
    "list of pictures": Reader("listed/train.txt", data("listed")),
    "CUB, pictures": Reader("birds/images.txt", data("birds")),
    "CUB, parts": Reader("birds/train_test_split.txt", data("birds")),
    "CUB, labels": Reader("birds/image_class_labels.txt", data("birds")),
    "Flowers, parts": Reader("flowers/setid.mat", data("flowers")),
    "Flowers, labels": Reader("flowers/imagelabels.mat", data("flowers")),
    "Tiny ImageNet, zip": Reader("tiny.zip", data("tiny.zip")),
    "Tiny ImageNet, identifiers": Reader("tiny/wnids.txt", data("tiny")),
    "Tiny ImageNet, names": Reader("tiny/words.txt", data("tiny")),
    "Tiny ImageNet, test labels": Reader("tiny/val/val_annotations.txt", data("tiny")),
    "names of ImageNet": Reader("wnid/words.txt", data("wnid")),
}
"""What others write."""
READERS = {
    **OURS,
    **OTHERS,
    **{
        f"picture, {ending}": Reader(f"pictures/{ending}/train/class0/0.{ending}", data(f"pictures/{ending}"))
        for ending in PICTURES
    },
}
