"""Methods of every family side by side: the same data, the same network, the same number of multiply-adds to distil.

    python benchmarks/families.py rates --cifar10 FOLDER --cifar100 FOLDER --out runs/families --json FILE
    python benchmarks/families.py run --cifar10 FOLDER --cifar100 FOLDER --out runs/families
    python benchmarks/families.py own --cifar10 FOLDER --cifar100 FOLDER --out runs/families
    python benchmarks/families.py cost --cifar10 FOLDER --cifar100 FOLDER --out runs/families --json FILE
    python benchmarks/families.py collect --cifar10 FOLDER --cifar100 FOLDER --out runs/families --json FILE
    python benchmarks/families.py pictures --cifar10 FOLDER --cifar100 FOLDER --out runs/families --images docs/images

`run` is one sweep: every method on two data sets of ten classes and 5,000 training images (CIFAR-100's first ten
classes, 500 images of each class of CIFAR-10), with 1 and 10 images per class and three seeds, each with its own
experts, evaluated under MTT's protocol. It resumes, and takes one seed after another, so that a table exists early.
`own` evaluates the finished rows under the protocol of their method's paper, with random images, and resumes too.
`cost` measures seconds and memory of an outer step, for which the machine should be idle. `collect` writes what is
finished, and keeps the other seeds and rows that FILE has already, so that a table may come from several machines.
`pictures` writes one picture of each family: the first set of each method on the last data set, with one image per
class.

The number of outer steps is that whose multiply-adds are `BUDGET`, far less than the published steps, so the published
learning rates of images are too low. `rates` tries multiples of them on held-out training images of the first data set,
with fewer steps and one image in a slot; `RATES` names those that were chosen, for both data sets and all seeds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tables import NAMES

from astdistill.autodiff.dispatch import computing
from astdistill.cli.main import main as astdistill
from astdistill.data.dataset import DataConfig
from astdistill.data.synthetic import load
from astdistill.evaluation.protocol import PROTOCOLS
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import RowScores, Scores
from astdistill.experiment.config import Experiment
from astdistill.experiment.cost import DatasetSize, counted
from astdistill.experiment.pipeline import SILENT, distill_experiment, prepare, run_experiment
from astdistill.experiment.plan import Row, over_seeds
from astdistill.experiment.presets import preset, with_method
from astdistill.experiment.sweep import run_rows
from astdistill.experiment.work import Costs
from astdistill.methods.gradient_matching import RealTrainedGradientMatching
from astdistill.methods.initialisation import ExpertLabels, HardLabels
from astdistill.methods.method import Method
from astdistill.methods.registry import find_method
from astdistill.methods.segments import GrowingWindow
from astdistill.methods.trajectory_matching import AST, DATM, FTD, TESLA
from astdistill.report.pictures import save_labelled, visible
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import read_json, read_lines, write_json
from astdistill.runtime.provenance import provenance
from astdistill.runtime.run_dir import RunDir

BUDGET = {1: 4e12, 10: 8e12}
"""Multiply-adds of one distillation by the number of images per class, without experts and evaluation."""
AVERAGE = 0.99
"""The published 0.999 and 0.9995 average over 1,000 and 2,000 of 5,000 and 10,000 steps; of a few hundred they would
keep the initial images."""
REAL = 64
"""Real images of each class in a step of the methods that compare with real images."""
HELD_OUT, SHARE = 0.2, 0.4
"""The fractions of the training images held out, and of the outer steps taken, where `rates` tries a learning rate."""
SYN_STEPS = {1: 20, 10: 10}
"""T of trajectory matching; M is 2, and start epochs are below 8 of 15."""

# fmt: off
METHODS: dict[str, Method] = {
    "mtt":             find_method("mtt"),
    "ftd":             FTD.replace(ema_decay=AVERAGE),
    "tesla":           TESLA,
    "tesla-hard":      TESLA.replace(name="tesla-hard", labels=HardLabels()),
    "datm":            DATM.replace(ema_decay=AVERAGE, sample=GrowingWindow(begins=3, full_by=150)),
    "att":             find_method("att"),
    "ast":             AST,
    "ast-soft":        AST.replace(name="ast-soft", labels=ExpertLabels(), learn=("images", "targets", "lr")),
    "dm":              find_method("dm"),
    "tgdd":            find_method("tgdd"),
    "ast-tgdd":        find_method("ast-tgdd"),
    "ncfm":            find_method("ncfm"),
    "dc":              find_method("dc"),
    "dsa":             find_method("dsa"),
    "idc":             find_method("idc").replace(step=RealTrainedGradientMatching(differences="squared")),
    "rat-bptt":        find_method("rat-bptt"),
    "at-bptt":         find_method("at-bptt"),
    "rded":            find_method("rded"),
}
SLOTS = ("tgdd", "ast-tgdd", "ncfm", "idc")
"""Methods whose papers keep four sub-images in each stored image; they run with one and with four."""
SMALLER: dict[str, dict[str, Any]] = {
    "dm":       {"batch_real": REAL},
    "tgdd":     {"batch_real": REAL},
    "ast-tgdd": {"batch_real": REAL},
    "ncfm":     {"batch_real": REAL},
    "dc":       {"batch_real": REAL},
    "dsa":      {"batch_real": REAL},
    "rat-bptt": {"unroll": 40, "window": 15, "batch_real": 10 * REAL},
    "at-bptt":  {"unroll": 32, "window": 16, "batch_real": 10 * REAL},
}
"""Numbers of steps that are smaller than published, so that the budget is enough for a hundred of them."""
RATES: dict[tuple[str, int], dict[str, float]] = {
    ("ast", 1):        {"lr_init": 1e-3, "lr_lr": 1e-7},
    ("ast-soft", 1):   {"lr_init": 1e-3, "lr_lr": 1e-7},
    ("tesla", 1):      {"lr_img": 10.0},
    ("tesla", 10):     {"lr_img": 10.0},
    ("tesla-hard", 1): {"lr_lr": 1e-7},
    ("tgdd", 1):       {"lr_img": 1.6},
    ("tgdd", 10):      {"lr_img": 16.0},
    ("ast-tgdd", 1):   {"lr_img": 1.6},
    ("ast-tgdd", 10):  {"lr_img": 16.0},
    ("ncfm", 1):       {"lr_img": 0.13},
    ("ncfm", 10):      {"lr_img": 0.0325},
    ("dc", 1):         {"lr_img": 0.5},
    ("dc", 10):        {"lr_img": 2.5},
    ("dsa", 1):        {"lr_img": 2.5},
    ("dsa", 10):       {"lr_img": 2.5},
    ("idc", 1):        {"lr_img": 3.2},
    ("idc", 10):       {"lr_img": 9.6},
    ("at-bptt", 1):    {"lr_img": 0.003},
    ("at-bptt", 10):   {"lr_img": 0.01},
}
"""Learning rates other than the usual ones. Of images: the best that `rates` has tried; `mtt`, `dm` and `rat-bptt` keep
theirs, as no other was better by more than the spread. The other methods of trajectories except `tesla` have that of
`mtt`, untried. Of trajectories: where the common ones (η_0 0.01, lr_lr 1e-5) end with η near 0. A student of momentum μ
moves by η / (1 − μ), so η_0 (1 − μ) and lr_lr (1 − μ)² are the same rates to it; 1e-7 is what TESLA publishes for one
image per class."""
# fmt: on
SETTINGS = ("iterations", "lr_img", "lr_init", "lr_lr")
"""Settings that runs of different seeds must share to form one row."""
BASELINES = ("random", "kmeans", "herding", "kcenter", "teacher")
"""Evaluated with the first method's runs only, as they do not depend on the method."""
FAMILIES = {
    "trajectories": ("mtt", "ftd", "tesla", "tesla-hard", "datm", "att", "ast", "ast-soft"),
    "features": ("dm", "tgdd", "ast-tgdd", "ncfm"),
    "gradients": ("dc", "dsa", "idc"),
    "training": ("rat-bptt", "at-bptt"),
    "selection": ("rded",),
}
OWN = {"ast": "ast-released", "dc": "dc", "tgdd": "tgdd", "ast-tgdd": "tgdd", "ncfm": "ncfm", "rat-bptt": "rat",
       "at-bptt": "rat", "rded": "rded"}  # fmt: skip
"""The protocol of a method's paper, where it differs from MTT's."""


def names() -> Iterator[tuple[str, int]]:
    """Every method, with the side length of its grid of sub-images."""
    for name in METHODS:
        yield name, 1
        if name in SLOTS:
            yield name, 2


def experiment(options: argparse.Namespace, data: str, ipc: int, name: str, factor: int) -> Experiment:
    """One setting of the table, with seed 0."""
    sources = {
        "cifar100": DataConfig(source=str(options.cifar100), first_classes=10),
        "cifar10": DataConfig(source=str(options.cifar10), per_class=500),
    }
    whole = with_method(preset("cifar100-ten-ipc10").replace(ipc=ipc), "mtt")
    whole = whole.replace(
        data=sources[data], experts=whole.experts.replace(store=options.out / "experts"), workers=options.workers
    )
    whole = _with_variant(whole, METHODS[name])
    step = whole.method.step
    numbers = {"syn_steps": SYN_STEPS[ipc], **SMALLER.get(name, {})}
    step = step.replace(**{field: value for field, value in numbers.items() if field in type(step).model_fields})
    baselines: tuple[str, ...] = ()
    if (name, factor) == next(names()):
        baselines = BASELINES
    label = f"{name}-{factor * factor}" if factor > 1 else name
    whole = whole.replace(
        name=f"{data}-ten-ipc{ipc}-{label}",
        method=whole.method.replace(step=step),
        distill=whole.distill.replace(factor=factor, **RATES.get((name, ipc), {})),
        evaluation=whole.evaluation.model_validate(dict(whole.evaluation) | {"baselines": baselines}),
    )
    if options.scale == "tiny":
        whole = _tiny(whole)
    return whole.replace(distill=whole.distill.replace(iterations=_steps(whole, BUDGET[ipc], options.scale)))


def _with_variant(whole: Experiment, method: Method) -> Experiment:
    """The setting with `method`; the variants here have their own names, and otherwise the settings of their paper."""
    registered = find_method(method.name.removesuffix("-hard").removesuffix("-soft"))
    configured = with_method(whole, registered.name)
    changes = {
        field: getattr(method, field)
        for field in type(method).model_fields
        if getattr(method, field) != getattr(registered, field)
    }
    return configured.replace(method=configured.method.replace(**changes))


def _tiny(whole: Experiment) -> Experiment:
    """The setting at toy size, for the tests: experts of four epochs of a network of width 4."""
    step, expert = whole.method.step, whole.method.expert
    small = {"syn_steps": 4, "max_start_epoch": 3, "unroll": 4, "window": 2, "batch_real": 4, "ahead": 1,
             "window_range": 1, "frequencies": 8, "net_images": 8, "matchings": 2}  # fmt: skip
    fields = {field: value for field, value in small.items() if getattr(step, field, None)}
    if expert is not None:
        expert = expert.replace(epochs=4, batch=16)
    return whole.replace(
        data=whole.data.replace(per_class=12, first_classes=None),
        model="convnet-d2-w4",
        experts=whole.experts.replace(count=2),
        method=whole.method.replace(step=step.replace(**fields), expert=expert),
        distill=whole.distill.replace(lr_img=min(1.0, whole.distill.lr_img)),
        evaluation=whole.evaluation.replace(
            recipe=whole.evaluation.recipe.replace(epochs=2, full_epochs=1), networks=2
        ),
    )


def _steps(whole: Experiment, budget: float, scale: str) -> int:
    """The number of outer steps with the multiply-adds of the budget, to two digits; a selection is one step."""
    if scale == "tiny" or not whole.method.learn:
        return min(2, whole.distill.iterations)
    thousand = whole.replace(distill=whole.distill.replace(iterations=1000))
    size = DatasetSize(shape=(3, 32, 32), classes=10, train=5000, test=1000)
    work = next(stage.work for stage in counted(thousand, size, Costs("cpu")).stages if "outer steps" in stage.name)
    return int(float(f"{1000 * budget / work:.1e}"))


def settings(options: argparse.Namespace) -> dict[tuple[str, int, str, int], Experiment]:
    """Every requested setting: data, images per class, method, side of the grid."""
    return {
        (data, ipc, name, factor): experiment(options, data, ipc, name, factor)
        for data in options.data
        for ipc in options.ipc
        for name, factor in names()
        if name in options.methods
    }


def rows(each: Experiment, seeds: Sequence[int]) -> list[Row]:
    """One setting with every seed, as rows of the sweep."""
    return [
        Row(f"{each.name}-{row.folder}", row.preset, row.method, "", row.experiment)
        for row in over_seeds(each, max(seeds) + 1)
        if row.experiment.seed in seeds
    ]


def plan(options: argparse.Namespace) -> list[Row]:
    """All rows, seed after seed."""
    by_setting = [rows(each, options.seeds) for each in settings(options).values()]
    return [row for of_one_seed in zip(*by_setting, strict=True) for row in of_one_seed]


def rates(options: argparse.Namespace) -> dict[str, Any]:
    """The accuracy on held-out training images with multiples of the usual learning rate of images, with the
    entries of others in the existing file."""
    entries = {_trial(entry): entry for entry in _earlier(options, "rates")}
    for (data, ipc, name, factor), each in settings(options).items():
        if data != options.data[0] or factor > 1 or not each.method.learn:
            continue
        usual = each.method.step.usual_settings(ipc).get("lr_img", each.distill.lr_img)
        assert isinstance(usual, float)
        for times in options.times:
            trial = each.replace(
                data=each.data.replace(validation=HELD_OUT),
                distill=each.distill.replace(
                    lr_img=times * usual, iterations=max(2, round(SHARE * each.distill.iterations))
                ),
                evaluation=each.evaluation.model_validate(dict(each.evaluation) | {"baselines": ()}),
            )
            folder = options.out / "rates" / f"{each.name}-{trial.distill.lr_img:g}"
            dataset = prepare(trial, folder)
            synthetic = distill_experiment(trial, dataset, folder, SILENT)
            scores = evaluate_all(
                synthetic, dataset, each.evaluation.recipe, None, 3, (), folder, split="validation", workers=1
            )
            entry = {"data": data, "ipc": ipc, "row": name, "lr_img": trial.distill.lr_img,
                     "iterations": trial.distill.iterations, **_network(_student(scores)),
                     "commit": read_json(RunDir(folder).provenance)["commit"]}  # fmt: skip
            if differences := getattr(each.method.step, "differences", None):
                entry["differences"] = differences
            entries[_trial(entry)] = entry
            print(entry, flush=True)
    return {"held_out": HELD_OUT, "share_of_steps": SHARE, "rates": sorted(entries.values(), key=_trial)}


def _trial(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["row"], entry.get("differences", ""), entry["data"], entry["ipc"], entry["lr_img"]


def _earlier(options: argparse.Namespace, key: str) -> list[dict[str, Any]]:
    """The entries under `key` in the existing file of results."""
    return read_json(options.json).get(key, []) if options.json.exists() else []


def own(options: argparse.Namespace) -> None:
    """Evaluate every finished row of a method with its own protocol under that protocol; the first row of each protocol
    with random images."""
    with_random: set[tuple[str, int, str]] = set()
    for (data, ipc, name, _), each in settings(options).items():
        if name not in OWN:
            continue
        networks, epochs = _own_length(each, options.scale)
        arguments = [
            "--protocol",
            OWN[name],
            "--workers",
            str(options.workers),
            "--networks",
            str(networks),
            "--baselines",
        ]
        if (data, ipc, OWN[name]) not in with_random:
            arguments.append("random")
        with_random.add((data, ipc, OWN[name]))
        if epochs is not None:
            arguments += ["--epochs", str(epochs)]
        for folder in _finished(options, each).values():
            if code := astdistill(["evaluate", str(folder), *arguments]):
                raise SystemExit(code)


def _own_length(each: Experiment, scale: str) -> tuple[int, int | None]:
    """Networks and epochs under the protocol of a method's paper: as many networks as under MTT's, and its own
    number of epochs except in the tests."""
    return (1, 5) if scale == "tiny" else (each.evaluation.networks, None)


def _finished(options: argparse.Namespace, each: Experiment) -> dict[int, Path]:
    """The folders of one setting that have all of their scores, by seed."""
    folders = {row.experiment.seed: options.out / row.folder for row in rows(each, options.seeds)}
    return {seed: folder for seed, folder in folders.items() if _is_evaluated(folder, each)}


def _is_evaluated(folder: Path, each: Experiment) -> bool:
    """Whether the evaluation of a run is finished."""
    if not RunDir(folder).scores.exists():
        return False
    scores = Scores.read(folder)
    done = [*scores.architecture.values(), *scores.baselines.values()]
    done += [scores.taught.row] if scores.taught is not None else []
    expected = 1 + len(each.evaluation.baselines)
    return len(done) == expected and all(row.n == each.evaluation.networks for row in done)


def costs(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of an outer step and peak memory of a few steps, each setting in a temporary run in its own process,
    whose peak memory does not include the others; with the entries of other settings in the existing file."""
    measured: dict[str, Any] = {}
    if options.json.exists():
        measured = read_json(options.json).get("cost", {})
    for (data, ipc, name, factor), each in settings(options).items():
        if data != options.data[0] or not each.method.learn:
            continue
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found = process.submit(cost_of, each, options.threads).result()
        measured[each.name] = {"method": name, "ipc": ipc, "per_slot": factor * factor, **found}
        print(each.name, measured[each.name], flush=True)
    return {"cost": measured}


def cost_of(each: Experiment, threads: int) -> dict[str, float]:
    """Seconds of six outer steps after two others, and peak memory of the process after them."""
    short = each.replace(
        distill=each.distill.replace(iterations=8),
        evaluation=each.evaluation.model_validate(dict(each.evaluation) | {"baselines": (), "networks": 1}),
    )
    short = short.replace(evaluation=short.evaluation.replace(recipe=short.evaluation.recipe.replace(epochs=1)))
    with tempfile.TemporaryDirectory() as folder, computing("auto", threads):
        run_experiment(short, Path(folder) / "run")
        clock = read_lines(RunDir(Path(folder) / "run").clock)
    seconds = [line["seconds"] for line in clock if "iteration" in line][2:]
    return {
        "seconds": statistics.median(seconds),
        "least": min(seconds),
        "most": max(seconds),
        "n": len(seconds),
        "peak_mib": max(line["peak_mib"] for line in clock if line.get("stage") == "distillation"),
    }


def collected(options: argparse.Namespace) -> dict[str, Any]:
    """The finished rows of the sweep: the set, and the accuracy of every network by seed, `by_seed`, with the entries
    of other seeds and rows in the existing file."""
    table = [
        entry
        for (data, ipc, name, factor), each in settings(options).items()
        for entry in _entries({"data": data, "ipc": ipc}, each, name, factor, _finished(options, each), options.scale)
    ]
    entries = {_row_key(entry): entry for entry in _earlier(options, "collect")}
    for entry in table:
        before = entries.get(_row_key(entry), {})
        if any(before.get(name) != entry.get(name) for name in SETTINGS if before):
            print(f"left out of {options.json}, as it had other settings: {_row_key(entry)}")
            before = {}
        entries[_row_key(entry)] = _merged(before, entry)
    return {"collect": list(entries.values())}


def _entries(
    cell: dict[str, Any], each: Experiment, name: str, factor: int, finished: dict[int, Path], scale: str
) -> Iterator[dict[str, Any]]:
    """The results of one setting, and those of real images evaluated with it."""
    if not finished:
        return
    scores = {seed: Scores.read(folder) for seed, folder in finished.items()}
    first = next(iter(scores.values()))
    assert first.subject is not None
    entry = {
        **cell,
        "row": name,
        "family": next(family for family, members in FAMILIES.items() if name in members),
        "labels": first.subject.labels,
        "per_slot": factor * factor,
        "stored_bytes": first.subject.stored_bytes,
        **{name: getattr(each.distill, name) for name in SETTINGS},
        "experts": each.experts.count if each.method.expert is not None else 0,
        "by_seed": {
            str(seed): {
                **_network(_student(scores[seed])),
                "experts_test": _experts_accuracy(folder),
                "commit": read_json(RunDir(folder).provenance)["commit"],
            }
            for seed, folder in finished.items()
        },
    }
    length = _own_length(each, scale)
    if further := {seed: one for seed, folder in finished.items() if (one := _own_scores(folder, name, *length))}:
        entry["own"] = _own_entry(OWN[name], further)
    yield entry
    common = {**cell, "family": "real images", "per_slot": 1}
    for real in first.baselines:
        networks = {str(seed): _network(one.baselines[real]) for seed, one in scores.items()}
        yield {**common, "row": real, "labels": "hard", "by_seed": networks}
    if taught := {seed: one.taught for seed, one in scores.items() if one.taught is not None}:
        one = next(iter(taught.values()))
        yield {
            **common,
            "row": "teacher",
            "labels": "teacher",
            "stored_bytes": one.image_bytes + one.label_bytes,
            "teacher": one.teacher.text,
            "by_seed": {str(seed): _network(each.row) for seed, each in taught.items()},
        }


def _student(scores: Scores) -> RowScores:
    return next(iter(scores.architecture.values()))


def _row_key(entry: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(entry[field] for field in ("data", "ipc", "row", "per_slot"))


def _merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """`now` with the keys that only `before` has, at every depth."""
    return before | {
        name: _merged(before.get(name, {}), value) if isinstance(value, dict) else value for name, value in now.items()
    }


def _own_scores(folder: Path, name: str, networks: int, epochs: int | None) -> Scores | None:
    """The scores that `own` has written for one row, once complete; scores of another number of epochs in the same
    folder are skipped."""
    if name not in OWN:
        return None
    for path in sorted(folder.glob(f"{RunDir(folder).evaluation(OWN[name]).folder.name}*")):
        if not RunDir(path).scores.exists():
            continue
        scores, recipe = Scores.read(path), PROTOCOLS[OWN[name]]
        done = [*scores.architecture.values(), *scores.baselines.values()]
        counted = bool(recipe.steps) or scores.recipe.epochs == (epochs or recipe.epochs)
        if counted and scores.recipe.steps == recipe.steps and all(row.n == networks for row in done):
            return scores
    return None


def _own_entry(name: str, scores: dict[int, Scores]) -> dict[str, Any]:
    """The entry of these scores by seed: of the set, and of random images where they have them."""
    first = next(iter(scores.values()))
    assert first.subject is not None
    entry = {
        "protocol": name,
        "labels": first.subject.labels,
        "by_seed": {str(seed): _network(_student(one)) for seed, one in scores.items()},
    }
    drawn: dict[str, dict[str, Any]] = {}
    for seed, one in scores.items():
        # Images and networks are the same for every run and count once, unless the run's own teacher labels them.
        if one.baselines and (networks := _network(one.baselines["random"])) not in drawn.values():
            drawn[str(seed)] = networks
    if drawn:
        entry["random"] = {"labels": "teacher" if first.recipe.temperature else "hard", "by_seed": drawn}
    return entry


def _network(entry: RowScores) -> dict[str, Any]:
    """The accuracy of every network of one run: after its last epoch, the best of its checks and after numbers of
    steps, where the protocol has them."""
    checked = {"best": list(entry.best or ()), "by_steps": [list(network) for network in entry.by_steps or ()]}
    return {
        "final": list(entry.final),
        **{name: values for name, values in checked.items() if values},
        "diverged": entry.diverged,
    }


def _experts_accuracy(folder: Path) -> float | None:
    """The mean test accuracy of the experts that a run followed, after their last epoch; None where there were none."""
    path = RunDir(folder).experts
    if not path.exists():
        return None
    curves = [curve for store in read_json(path)["stores"] if store["own"] for curve in store["curves"]]
    return statistics.fmean(curve["test_accuracy"][-1] for curve in curves)


def pictures(options: argparse.Namespace) -> None:
    """Write a picture per family, with one line of images for each finished method."""
    experiments = settings(options)
    for family, members in FAMILIES.items():
        selected = [name for name in members if name in options.methods]
        folders = {
            name: _finished(options, experiments[options.data[-1], options.ipc[0], name, 1]) for name in selected
        }
        sets = {NAMES[name]: load(min(found.items())[1]) for name, found in folders.items() if found}
        if sets:
            images = torch.cat([visible(synthetic.pixels()) for synthetic in sets.values()])
            save_labelled(images, list(sets), options.images / f"family-{family}.png", columns=1)


WORK = {"run": lambda options: run_rows("families", plan(options), options.out), "own": own, "pictures": pictures}
RESULTS = {"rates": rates, "cost": costs, "collect": collected}
"""The functions by command; those of `RESULTS` write a file of results."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=[*WORK, *RESULTS])
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--cifar100", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/families"))
    parser.add_argument("--data", nargs="+", choices=("cifar100", "cifar10"), default=["cifar100", "cifar10"])
    parser.add_argument("--ipc", nargs="+", type=int, choices=list(BUDGET), default=list(BUDGET))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--times", nargs="+", type=float, default=[1, 5, 25], help="multiples that `rates` tries")
    parser.add_argument("--scale", choices=("full", "tiny"), default="full")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    if options.what in RESULTS and options.json is None:
        parser.error(f"{options.what} writes a file of results: name it with --json FILE")
    began = time.monotonic()
    with computing("auto", options.threads):
        try:
            if options.what in WORK:
                WORK[options.what](options)
            else:
                content = RESULTS[options.what](options)
                origin = {name: value for name, value in provenance().items() if name != "arguments"}
                head = {"bench": "families", "scale": options.scale, "machine": origin.pop("machine")}
                head |= {"provenance": origin, "seconds": round(time.monotonic() - began)}
                write_json(options.json, head | content)
        except InputError as error:
            print(error)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
