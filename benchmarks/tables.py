"""Generate the tables of measured figures in README.md and the documentation from the files in benchmarks/results; no
figure is typed by hand.

python benchmarks/tables.py            # writes every table again, between its two comments
python benchmarks/tables.py --check    # writes nothing; fails where a page differs
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(ROOT / page for page in ("README.md", "docs/results.md", "docs/choosing-a-method.md", "docs/rates.md"))
BLOCK = re.compile(
    r"(<!-- table (?P<name>[\w-]+): made by benchmarks/tables.py -->\n)(?P<body>.*?)(<!-- end of table -->)", re.DOTALL
)

NAMES = {
    "random": "random real",
    "kmeans": "K-means real",
    "full": "full data",
    "none": "AST without its six parts",
    "mtt": "MTT",
    "ftd": "FTD",
    "tesla-hard": "TESLA's gradient",
    "ast": "AST",
    "ast-as-released": "AST as released",
    "tesla": "TESLA",
    "datm": "DATM",
    "ast-soft": "AST + soft labels",
    "att": "ATT",
    "dm": "DM",
    "tgdd": "TGDD",
    "ast-tgdd": "TGDD on AST's experts",
    "ncfm": "NCFM",
    "dc": "DC",
    "dsa": "DSA",
    "idc": "IDC",
    "rat-bptt": "RaT-BPTT",
    "at-bptt": "AT-BPTT++",
    "rded": "RDED",
    "herding": "herding real",
    "kcenter": "k-centre real",
    "teacher": "random real, a teacher's soft labels",
}


def result(name: str) -> dict[str, Any]:
    """The file of that name in benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def spread(mean: float, std: float | None) -> str:
    """Mean ± standard deviation, to a tenth of a percent."""
    return f"{mean:.1f}" if std is None else f"{mean:.1f} ± {std:.1f}"


def of_values(values: Sequence[float]) -> str:
    """Mean ± standard deviation of some numbers."""
    return spread(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def table(head: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; `align` has one l or r per column."""
    rules = ["---:" if side == "r" else "---" for side in align]
    return "".join(f"| {' | '.join(row)} |\n".replace("|  |", "| |") for row in [head, rules, *rows])


def accuracies(name: str, columns: Sequence[str]) -> str:
    """One row: the accuracy of each kind of images."""
    rows = {row["row"]: spread(row["mean"], row["std"]) for row in result(name)["rows"]}
    return table([NAMES[row] for row in columns], "r" * len(columns), [[rows[row] for row in columns]])


FAMILIES = "families-epyc2-202611"
FAMILIES_COST = "families-cost-epyc2-202611"
FAMILIES_RATES = "families-rates-epyc2-202611"
COLUMNS = {
    (data, ipc): f"{name}, {ipc} per class"
    for data, name in (("cifar100", "CIFAR-100"), ("cifar10", "CIFAR-10"))
    for ipc in (1, 10)
}
"""Data and images per class of the families' runs: ten classes of each data set."""
KINDS = "hard", "slots", "soft"
"""Kinds of rows that must not share a table: hard labels, several images in a slot, other labels."""
FEW = "–"


def families(kind: str) -> str:
    """Methods of every family with equal work: accuracy by data and images per class, and cost at 10 images per class.
    `kind` is one of `KINDS`. A column has the seeds that all of its methods have."""
    seeds = {column: _common_seeds(*column) for column in COLUMNS}
    rows = [row for row in result(FAMILIES)["collect"] if _kind(row) == kind]
    rows.sort(key=lambda row: row["family"] != "real images")
    measured = result(FAMILIES_COST)["cost"].values()
    costs = {(each["method"], each["per_slot"]): each for each in measured if each["ipc"] == 10}
    found = {(row["row"], row["data"], row["ipc"]): row for row in rows}
    lines = [["*whole runs*", *(str(len(of_all)) for of_all in seeds.values()), "", "", ""]]
    for name in dict.fromkeys(row["row"] for row in rows):
        of_name = [row for row in rows if row["row"] == name]
        cost = costs.get((name, of_name[0]["per_slot"]))
        step, memory = FEW, FEW
        if cost is not None:
            step, memory = f"{cost['seconds']:.2g} s", f"{cost['peak_mib'] / 953.674:.1f} GB"
        experts = str(of_name[0].get("experts") or FEW)
        values = [_of_seeds(found.get((name, *column)), of_all) for column, of_all in seeds.items()]
        lines.append([NAMES[name], *values, experts, step, memory])
    return table(["", *COLUMNS.values(), "experts", "outer step", "memory"], "l" + "r" * 7, lines)


def _common_seeds(data: str, ipc: int) -> set[str]:
    """The seeds that every method has been run with."""
    return _seeds_of_all(row for row in result(FAMILIES)["collect"] if (row["data"], row["ipc"]) == (data, ipc))


def _seeds_of_all(rows: Iterable[dict[str, Any]]) -> set[str]:
    """The seeds that all rows have."""
    seeds = [set(row["by_seed"]) for row in rows]
    return set.intersection(*seeds) if seeds else set()


def _kind(row: dict[str, Any]) -> str:
    if row["per_slot"] > 1:
        return "slots"
    return {"hard": "hard"}.get(row["labels"], "soft")


def own_protocols(data: str, kind: str) -> str:
    """The same sets, of one `kind` as in `families`, under the protocol of their method's paper: after the last epoch,
    and the best of its checks on the test images, which is what these papers report. A column has the seeds that all
    of its methods have; random images are those of the first, unless a teacher labels them."""
    rows = [row for row in result(FAMILIES)["collect"] if row["data"] == data and "own" in row]
    seeds = {ipc: _seeds_of_all(row["own"] for row in rows if row["ipc"] == ipc) for ipc in (1, 10)}
    found: dict[tuple[str, str, str, str], dict[int, dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["own"]["protocol"]):
        scores, name = row["own"], NAMES[row["row"]]
        if "random" in scores:
            key = scores["protocol"], NAMES["random"], scores["random"]["labels"], "1"
            found.setdefault(key, {})[row["ipc"]] = scores["random"]
        found.setdefault((scores["protocol"], name, scores["labels"], str(row["per_slot"])), {})[row["ipc"]] = scores
    columns = [(ipc, metric) for ipc in (1, 10) for metric in ("final", "best")]
    lines = [["", "*whole runs*", "", "", *(str(len(seeds[ipc])) for ipc, _ in columns)]]
    of_kind = {key: row for key, row in found.items() if _kind({"labels": key[2], "per_slot": int(key[3])}) == kind}
    for key, by_ipc in of_kind.items():
        lines.append([*key, *(_of_seeds(by_ipc.get(ipc), seeds[ipc], metric) for ipc, metric in columns)])
    head = ["protocol", "", "labels", "images per slot"]
    head += [f"{ipc} per class, {label}" for ipc in (1, 10) for label in ("last epoch", "best check")]
    return table(head, "lllr" + "r" * 4, lines)


def families_rates() -> str:
    """The held-out accuracy of every learning rate of images that was tried for the families' table."""
    by_method: dict[tuple[str, str], dict[int, list[str]]] = {}
    for each in result(FAMILIES_RATES)["rates"]:
        text = f"{each['lr_img']:,.4g}: {statistics.fmean(each['final']):.1f}"
        by_method.setdefault((NAMES[each["row"]], each.get("differences", "")), {}).setdefault(each["ipc"], []).append(
            text
        )
    lines = [
        [f"{name}, {kind} differences" if kind else name, *(", ".join(by_ipc.get(ipc, [FEW])) for ipc in (1, 10))]
        for (name, kind), by_ipc in by_method.items()
    ]
    return table(["", "1 per class", "10 per class"], "lll", lines)


def _of_seeds(row: dict[str, Any] | None, seeds: set[str], metric: str = "final") -> str:
    """Mean and spread of all networks of the runs of these seeds, as many of each; a dash where there are none. The
    spread of two or three means alone would often be 0."""
    runs = row["by_seed"].items() if row else ()
    networks = [value for seed, run in runs if seed in seeds for value in run.get(metric, ())]
    return of_values(networks) if networks else FEW


def ablation() -> str:
    """AST without each of its parts, with its experts; spreads are over whole runs."""
    rows = result("ablation-cifar100-ten-epyc2-202611")["rows"]
    experts, final = (
        {row["variant"]: [statistics.fmean(run) for run in row[key]] for row in rows}
        for key in ("experts_test_accuracy", "final")
    )
    whole = final[rows[0]["variant"]]
    lines = [
        [
            NAMES.get(name, name),
            of_values(experts[name]),
            of_values(values),
            "" if values is whole else _change(values, whole),
        ]
        for name, values in final.items()
    ]
    return table(["", "experts, %", "accuracy, %", "change with the same seed"], "lrrr", lines)


def _change(values: Sequence[float], whole: Sequence[float]) -> str:
    differences = [ours - base for ours, base in zip(values, whole, strict=True)]
    return f"{statistics.fmean(differences):+.1f} ± {statistics.stdev(differences):.1f}".replace("-", "−").replace(
        "−0.0", "0.0"
    )


def architectures() -> str:
    """The images of some methods on other networks than the student."""
    found = result("cross-families-cifar100-ten-epyc2-202611")
    names = {name: ARCHITECTURES[name] for name in found["rows"][0]["final"]}
    rows = [[NAMES[row["row"]], *(of_values(row["final"][name]) for name in names)] for row in found["rows"]]
    return table(["images", *names.values()], "l" + "r" * len(names), rows)


def speed() -> str:
    """Time and memory of some work, the published way and with this package."""
    lines = []
    for file, case, text, memory in SPEED:
        rows = {row["variant"]: row for row in result(file)["rows"] if row["case"] == case}
        usual, ours = rows["published"], next(rows[name] for name in ("ours", "recompute", "walk") if name in rows)
        extra = f", {100 * ours['memory']:.0f} % of the memory" if memory else ""
        lines.append([text, _cost(usual, memory), _cost(ours, memory), f"{_ratio_text(ours['faster'])}{extra}"])
    return table(["work", "published", "astdistill", ""], "lrrl", lines)


def _ratio_text(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio < 10 else f"{ratio:.0f}×"


def _cost(row: dict[str, Any], memory: bool) -> str:
    seconds = row["seconds"]
    text = f"{1000 * seconds:.2g} ms" if seconds < 0.1 else f"{seconds:.3g} s" if seconds >= 10 else f"{seconds:.2g} s"
    if "bytes" in row:
        return f"{text}, {row['bytes'] / 1e6:.1f} MB read"
    return f"{text}, {row['peak_mb'] / 1000:.2g} GB" if memory else text


SPEED = (
    ("unroll-epyc2-202611", "b100-t10", "one outer step, 320,010 parameters, batch 100, T 10", True),
    ("unroll-epyc2-202611", "b10-t20", "the same at batch 10, T 20", True),
    ("unroll-avx2-epyc2-202611", "b100-t10", "batch 100, T 10, with AVX2", True),
    ("unroll-avx2-epyc2-202611", "b10-t20", "batch 10, T 20, with AVX2", True),
    (
        "bptt-epyc2-202611",
        "c10-ipc10",
        "an outer step of RaT-BPTT, batch 100, T 32, W 16, 5,000 real images",
        True,
    ),
    ("experts-epyc2-202611", "w32", "an epoch of one expert, 5,000 images, width 32", False),
    ("experts-epyc2-202611", "w128", "the same, width 128", False),
    ("experts-epyc2-202611", "w32-penalty", "the same, width 32, with the gradient penalty", False),
    ("evaluate-w32-epyc2-202611", "w32", "five networks of width 32 evaluated on 100 images, 300 epochs", False),
    ("evaluate-epyc2-202611", "w128", "the same at width 128, 20 epochs", False),
    ("store-epyc2-202611", "rows51", "a segment of a 51-row trajectory", False),
)

ARCHITECTURES = {
    "convnet-d3-w32": "ConvNet (student)",
    "vgg11-w16-instancenorm": "VGG11, instance norm",
    "alexnet-w32": "AlexNet",
    "mlp": "MLP",
    "lenet": "LeNet",
    "resnet18-w16": "ResNet18",
}

CELLS = "published-cells-*.json"
DATA = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def cells() -> str:
    """Benchmark settings on whole data sets with their published figures; shorter runs than published are marked."""
    rows = []
    files = [result(path.stem) for path in sorted(RESULTS.glob(CELLS))]
    for row in [{"machine": each.get("machine"), **row} for each in files for row in each["rows"]]:
        data, _, ipc = row["preset"].partition("-ipc")
        steps, published = f"{row['iterations']:,}", "–"
        if row["iterations"] != row["iterations_published"]:
            steps += f" of {row['iterations_published']:,}"
        if row["published"]:
            published = f"{row['published']:.1f}"
        count, epochs = row["experts"]["count"], row["experts"]["epochs"]
        found, real = (spread(each["mean"], each["std"]) for each in (row["distilled"], row["baselines"]["random"]))
        setting = f"{DATA[data]}, {ipc.split('-')[0]}"
        rows.append(
            (setting, row["label"], f"{count} × {epochs}", steps, _machine_and_time(row), real, found, published)
        )
    head = "data, images per class", "method", "experts × epochs", "outer steps", "time", "random real"
    head = (*head, "test accuracy", "published")
    return table(head, "llrrrrrr", rows)


def _machine_and_time(row: dict[str, Any]) -> str:
    """The machine and the time of experts and distillation; without evaluation, which ran elsewhere."""
    machine = row["machine"]
    if (card := machine["accelerator"]) is not None:
        seconds = row["experts"]["seconds"] + row["iterations"] * row["seconds_per_step_median"]
        return f"{card.removeprefix('NVIDIA ')}, {seconds / 60:.0f} min"
    hours = (row["seconds"]["experts"] + row["seconds"]["distillation"]) / 3600
    return f"{machine['threads']} core{'s'[: machine['threads'] != 1]}, {hours:.0f} h"


def held_out() -> str:
    """What the settings of CIFAR-10 at one image per class do on held-out training images, from the same networks."""
    found = result("held-out-cifar10-ipc1-epyc2-202611")["rows"]
    steps = sorted({int(step) for row in found for step in row["validation"]} & {200, 400, 600})
    rows = []
    for row in found:
        values = row["validation"]
        means = [f"{values[str(step)]:.1f}" if str(step) in values else "–" for step in steps]
        last = spread(row["last"]["mean"], row["last"]["std"])
        rows.append((f"{row['experts']}", f"< {row['max_start_epoch']}", f"{row['lr_img']:g}", *means, last))
    head = "experts", "start epochs", "lr_img", *(f"after {step}" for step in steps), "last step"
    return table(head, "r" * len(head), rows)


def gpu() -> str:
    """One outer step on a graphics card, by the published double backward and by this package's estimators."""
    found, rows = result("gpu-h200-202611"), []
    for name, text in (("outer step b10-t50", "10 images, T 50"), ("outer step b100-t20", "100 images, T 20")):
        usual = found[name]["published"]
        for variant in ("published", "recompute, auto", "recompute, eager", "first-order, auto"):
            row = found[name][variant]
            ratio = f"{usual['median_seconds'] / row['median_seconds']:.1f}×"
            rows.append((text, variant, f"{row['median_seconds'] * 1000:.0f} ms", f"{row['peak_mb']:.0f} MB", ratio))
    return table(("outer step", "variant", "seconds", "memory", "speed"), "llrrr", rows)


def tune() -> str:
    """Learning rates that searches find from wrong ones, and test accuracies with them and with rates chosen by
    hand."""
    found = result("tune-digits-epyc2-202611")
    tuned, hand = found["tuned"], found["hand"]
    rows = [(rates(each["start"]), rates(each["found"]), whole(tuned)) for each in found["searches"]]
    rows.append(("by hand", rates(hand["rates"]), whole(hand)))
    return table(("start: η₀, lr_lr, lr_img", "found", "test accuracy, %"), "llr", rows)


def tune_ten() -> str:
    """The same on ten classes of CIFAR-100, with the held-out accuracy of the sets of the trials themselves."""
    found = result("tune-cifar100-ten-epyc2-202611")
    rows = [
        (
            rates(search["start"]),
            rates(search["found"]),
            spread(search["held_out_accuracy"], None),
            whole(found["tuned"]),
        )
        for search in found["searches"]
    ]
    hand = found["hand_search"]
    rows.append(("by hand", rates(hand["found"]), spread(hand["held_out_accuracy"], None), whole(found["hand"])))
    head = "start: η₀, lr_lr, lr_img", "found", "held-out accuracy, %", "whole runs: test accuracy, %"
    return table(head, "llrr", rows)


def whole(runs: dict[str, Any]) -> str:
    """The accuracy of whole runs; the spread is over them."""
    return spread(runs["mean"], runs["std_over_runs"])


def rates(values: dict[str, float]) -> str:
    """η₀, lr_lr and lr_img."""
    named = {name.removeprefix("distill."): value for name, value in values.items()}
    return ", ".join(f"{named[name]:g}" for name in ("lr_init", "lr_lr", "lr_img"))


TABLES = {
    "cells": cells,
    "tune": tune,
    "tune-ten": tune_ten,
    "held-out": held_out,
    "gpu": gpu,
    "digits": lambda: accuracies("digits-ipc1-cpu2-202611", ("random", "kmeans", "ast", "full")),
    "ten-classes": lambda: accuracies(
        "cifar100-ten-ipc10-cpu2-202611", ("random", "kmeans", "mtt", "ast", "ast-as-released", "full")
    ),
    "ablation": ablation,
    "architectures": architectures,
    "speed": speed,
    "families-rates": families_rates,
    **{f"families-{kind}": partial(families, kind) for kind in ("hard", "slots", "soft")},
    **{f"families-own-{data}-{kind}": partial(own_protocols, data, kind) for data in DATA for kind in KINDS},
}


def rewritten(text: str) -> str:
    """The page with every table generated again."""
    return BLOCK.sub(lambda match: match[1] + "\n" + TABLES[match["name"]]() + "\n" + match[4], text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = []
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        after = rewritten(before)
        if after != before:
            stale.append(page.name)
            if not options.check:
                page.write_text(after, encoding="utf-8")
    print(f"{'stale' if options.check else 'written'}: {', '.join(stale)}" if stale else "all tables are as measured")
    return 1 if stale and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
