"""The one-script experiments under `benchmarks/`, at toy size on the CPU, with forced stops."""

from __future__ import annotations

import ast
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import architectures
import cells
import cifar100_ipc1
import families
import forking
import gpu
import held_out
import house
import imports
import numpy as np
import published_rows
import pytest
import sharing
import tables
import test_far_device
from folders import own_cache
from pieces import Clock
from problems import SMALL_RUN

from astdistill.cli.main import main
from astdistill.data.synthetic import load
from astdistill.evaluation.scores import Scores
from astdistill.experiment.config import check_numbers
from astdistill.methods.registry import methods

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
STOPPED = 75


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three classes of 8 px pictures, tinted by class."""
    draw = np.random.default_rng(0)

    def part(each: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(3 * each) % 3
        return (draw.integers(0, 128, (3 * each, 8, 8, 3)) + 60 * labels[:, None, None, None]).clip(0, 255).astype(
            np.uint8
        ), labels

    (x_train, y_train), (x_test, y_test) = part(40), part(10)
    np.savez(tmp_path / "toy.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    return tmp_path / "toy.npz"


@pytest.fixture(autouse=True)
def _in_its_own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(own_cache(tmp_path / "cache")))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # of the processes that a script starts


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: object) -> Any:
    """`python SCRIPT WORDS` in this process; what its main function returns."""
    monkeypatch.setattr(sys, "argv", [str(script.__file__), *map(str, words)])
    return script.main()


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_whole_experiment_in_three_pieces(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """One without time for anything, one that is told to stop, one to the end; the stages run in children."""
    out, result = tmp_path / "out", tmp_path / "results" / "toy.json"
    words = "--data", data, "--out", out, "--scale", "tiny", "--device", "cpu", "--json", result, "--seconds"
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")  # a cache of its own would have the kernels compiled
    monkeypatch.setattr(forking, "SCRIPTS", (*forking.SCRIPTS, Path(str(cifar100_ipc1.__file__)).name))
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert run(cifar100_ipc1, monkeypatch, *words, 0) == STOPPED
        output = capfd.readouterr().out
        assert "run the same command again" in output
        assert "give it more --seconds" in output

        script = [sys.executable, "-u", str(cifar100_ipc1.__file__), *map(str, words), "600"]
        with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout is not None
            said = next(line for line in process.stdout if line.startswith("experts: "))
            process.send_signal(signal.SIGTERM)
            assert "run the same command again" in process.communicate()[0]
        assert process.returncode == STOPPED
        assert "n 2; test_accuracy_median" in said
        assert not result.exists()
        (first, _) = sorted((out / "experts").glob("*/*.safetensors"))[:2]
        written = first.stat().st_mtime_ns

        assert run(cifar100_ipc1, monkeypatch, *words, 600) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert first.stat().st_mtime_ns == written, "an expert of an earlier piece is trained again"
    found = read(result)
    assert (found["pieces"], found["scale"], found["distillation"]["iterations"]) == (3, "tiny", 3)
    assert [(row["row"], row["n"]) for row in found["rows"]] == [("ast", 2), ("random", 2), ("kmeans", 2), ("full", 2)]
    assert all(len(row["final"]) == row["n"] and row["std"] is not None for row in found["rows"])
    assert len(found["experts"]["test_accuracy_by_epoch"]) == 4
    assert {"processor", "cores"} <= found["machine"].keys()
    assert found["provenance"]["versions"]["torch"]
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert [stages[name]["units"] for name in ("experts", "distillation", "evaluation", "baselines")] == [8, 3, 2, 6]
    assert all(stages[name]["seconds_per_unit"] > 0 for name in ("experts", "distillation", "evaluation", "baselines"))
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]), abs=0.5)
    assert not list(tmp_path.rglob("*.partial"))


def test_settings_that_do_not_fit_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the child, which does the work."""
    monkeypatch.setattr(cifar100_ipc1, "Watch", lambda *_: None)  # it ends a process whose parent is gone
    words = "--data", tmp_path / "absent.npz", "--out", tmp_path, "--scale", "tiny", "--device", "cpu", "--child"
    assert run(cifar100_ipc1, monkeypatch, *words) == 2
    assert "There is no file or folder" in capsys.readouterr().err


def test_the_clock_adds_up_pieces_and_leaves_out_what_lies_between_them(tmp_path: Path) -> None:
    first = [("start", 0.0), ("experts", 2.0), ("beat", 5.0), ("stop", 7.0)]
    killed = [("start", 100.0), ("experts", 101.0), ("beat", 104.0)]
    last = [("start", 200.0), ("stop", 201.0)]
    lines = [json.dumps({"event": event, "at": at}) for event, at in first + killed + last]
    (tmp_path / "clock.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    clock = Clock(tmp_path, ("start", "experts"))
    assert clock.seconds() == {"start": 2.0 + 1.0 + 1.0, "experts": 5.0 + 3.0}
    assert clock.pieces == 3


@pytest.mark.slow
def test_methods_of_all_families_side_by_side(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row's settings fit; three of them run: with baselines, with other labels, with several images per slot."""
    out, result = tmp_path / "out", tmp_path / "families.json"
    words = ["--cifar10", data, "--cifar100", data, "--out", out, "--json", result, "--seeds", 0]
    whole: list[Any] = []
    monkeypatch.setattr(families, "run_rows", lambda title, rows, out: whole.extend(row.experiment for row in rows))
    run(families, monkeypatch, "run", *words)
    assert len(whole) == 4 * (len(families.METHODS) + len(families.SLOTS))
    assert {name for members in families.FAMILIES.values() for name in members} == set(families.METHODS)
    assert families.METHODS.keys() >= methods().keys() - {"ast-as-released", "datm-as-released"}
    for each in whole:
        check_numbers(each)
    assert {each.distill.iterations for each in whole if each.name.endswith("ipc1-mtt")} == {520}
    monkeypatch.undo()
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    few = ["--scale", "tiny", "--data", "cifar100", "--ipc", 1, "--methods"]
    assert run(families, monkeypatch, "cost", *words, *few, "mtt") == 0
    costs = read(result)
    assert {name: cost["n"] for name, cost in costs["cost"].items()} == {"cifar100-ten-ipc1-mtt": 6}
    assert run(families, monkeypatch, "rates", *words, *few, "dc", "rded", "--times", 5) == 0
    assert run(families, monkeypatch, "rates", *words, *few, "dc", "--times", 1) == 0, "with what the file has already"
    assert [(tried["row"], tried["lr_img"], len(tried["final"])) for tried in read(result)["rates"]] == [
        ("dc", 0.1, 3),
        ("dc", 0.5, 3),
    ]
    words += ["--images", tmp_path]
    for what in ("run", "own", "collect", "pictures"):
        assert run(families, monkeypatch, what, *words, *few, "mtt", "ast-soft", "dc", "idc") == 0
    assert {path.name for path in tmp_path.glob("*.png")} == {"family-trajectories.png", "family-gradients.png"}
    found = {(row["row"], row["per_slot"]): row for row in read(result)["collect"]}
    real = [(name, 1) for name in families.BASELINES]
    assert list(found) == [("mtt", 1), *real, ("ast-soft", 1), ("dc", 1), ("idc", 1), ("idc", 4)]
    assert all(list(row["by_seed"]) == ["0"] for row in found.values())
    assert all(len(row["by_seed"]["0"]["final"]) == 2 for row in found.values())
    assert {row["labels"] for row in found.values()} == {"hard", "soft", "teacher"}
    assert found["mtt", 1]["experts"] == 2
    assert found["mtt", 1]["by_seed"]["0"]["experts_test"] > 0
    assert found["idc", 1]["by_seed"]["0"]["experts_test"] is None
    assert [name for name, row in found.items() if "own" in row] == [("dc", 1)]
    own = found["dc", 1]["own"]
    assert own["protocol"] == "dc"
    assert len(own["by_seed"]["0"]["final"]) == len(own["random"]["by_seed"]["0"]["final"]) == 1
    whole_one = out / "cifar100-ten-ipc1-dc-seed-0" / "evaluation-dc-5-epochs"
    shorter = Scores.read(whole_one)
    shorter.replace(recipe=shorter.recipe.replace(epochs=2)).write(
        whole_one.parent / "evaluation-dc-2-epochs/scores.json"
    )
    shutil.move(whole_one, tmp_path / "away")
    assert run(families, monkeypatch, "collect", *words, *few, "dc", "--json", tmp_path / "other.json") == 0
    assert "own" not in read(tmp_path / "other.json")["collect"][0], "that of another length is not the protocol's"
    shutil.move(tmp_path / "away", whole_one)

    costs["cost"]["cifar100-ten-ipc1-mtt"] |= {"ipc": 10, "seconds": 0.25, "peak_mib": 1000.0}
    for name, contents in ((tables.FAMILIES, read(result)), (tables.FAMILIES_COST, costs)):
        (tmp_path / f"{name}.json").write_text(json.dumps(contents), encoding="utf-8")
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    shown = {kind: tables.families(kind) for kind in ("hard", "slots", "soft")}
    assert [row.split(" | ")[0] for row in shown["slots"].splitlines()[2:]] == ["| *whole runs*", "| IDC"]
    assert shown["slots"].splitlines()[2].startswith("| *whole runs* | 1 | 0 | 0 | 0 |")
    assert [row.split(" | ")[0] for row in shown["soft"].splitlines()[2:]] == [
        "| *whole runs*",
        "| random real, a teacher's soft labels",
        "| AST + soft labels",
    ]
    assert "| 2 | 0.25 s | 1.0 GB |" in shown["hard"]
    assert len(shown["hard"].splitlines()) == 2 + 1 + 4 + 3
    more = read(result)
    for row in more["collect"][1:]:
        row["by_seed"]["1"] = {"final": [0.0, 0.0]}
    (tmp_path / f"{tables.FAMILIES}.json").write_text(json.dumps(more), encoding="utf-8")
    assert tables.families("slots") == shown["slots"], "a seed that one method lacks is left out of the column"
    more["collect"][0]["by_seed"]["1"] = {"final": [0.0, 0.0]}
    (tmp_path / f"{tables.FAMILIES}.json").write_text(json.dumps(more), encoding="utf-8")
    assert tables.families("slots").splitlines()[2].startswith("| *whole runs* | 2 |")
    first, *of_protocol = tables.own_protocols("cifar100", "hard").splitlines()[2:]
    assert first.startswith("| | *whole runs* |")
    assert first.endswith("| 1 | 1 | 0 | 0 |")
    assert [row.split(" | ")[:3] for row in of_protocol] == [
        ["| dc", "random real", "hard"],
        ["| dc", "DC", "hard"],
    ]
    assert len(tables.own_protocols("cifar100", "slots").splitlines()) == 3, "none of these"

    runs = (f"{method}={out / f'cifar100-ten-ipc1-{method}-seed-0'}" for method in ("ast-soft", "mtt"))
    of_networks = ["--architectures", "mlp", "convnet-d2-w4", "--epochs", 1, "--networks", 2, "--workers", 1]
    of_networks += ["--out", tmp_path / "architectures", "--json", tmp_path / "architectures.json"]
    run(architectures, monkeypatch, "--runs", *runs, *of_networks)
    rows = {row["row"]: row["final"] for row in read(tmp_path / "architectures.json")["rows"]}
    assert list(rows) == ["ast-soft", "mtt", "random"]
    assert all(
        list(final) == ["mlp", "convnet-d2-w4"] and {len(values) for values in final.values()} == {2}
        for final in rows.values()
    )

    assert run(families, monkeypatch, "run", *words, "--seeds", 1, *few, "mtt") == 0
    shutil.rmtree(out / "cifar100-ten-ipc1-mtt-seed-0")
    assert run(families, monkeypatch, "collect", *words, "--seeds", 1, *few, "mtt") == 0
    again = {(row["row"], row["per_slot"]): row for row in read(result)["collect"]}
    assert list(again) == list(found)
    assert list(again["mtt", 1]["by_seed"]) == list(again["random", 1]["by_seed"]) == ["0", "1"]
    assert again["mtt", 1]["by_seed"]["0"] == found["mtt", 1]["by_seed"]["0"] != again["mtt", 1]["by_seed"]["1"]
    assert again["dc", 1] == found["dc", 1]
    monkeypatch.setitem(families.RATES, ("mtt", 1), {"lr_lr": 1e-8})
    assert run(families, monkeypatch, "collect", *words, "--seeds", 1, *few, "mtt") == 0
    (changed,) = (row for row in read(result)["collect"] if row["row"] == "mtt")
    assert (list(changed["by_seed"]), changed["lr_lr"]) == (["1"], 1e-8), "numbers of other settings are not joined"


def test_what_starting_costs_is_measured_in_fresh_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the four, the two that are without torch and so start in no time."""
    bare = {"import json": imports.TIMED.format(what="import json")}
    monkeypatch.setattr(imports, "VARIANTS", bare | {"help": imports.VARIANTS["astdistill --help"]})
    run(imports, monkeypatch, "-n", 1, "--json", tmp_path / "found.json")
    found = read(tmp_path / "found.json")
    assert {row["variant"]: row["torch"] for row in found["rows"]} == {"import json": False, "help": False}
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert found["machine"]["cores"]


@pytest.mark.slow
def test_the_script_for_a_card_runs_without_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = "--device", "cpu", "--scale", "tiny", "--quick", "-n", 1, "--json", tmp_path / "gpu.json"
    assert run(gpu, monkeypatch, *words) == 0
    found = read(tmp_path / "gpu.json")
    assert found["outer step b4-t3"]["recompute, auto"]["n"] == 1
    assert found["agreement"]["eager float32"]["gradient"]["error"] < 1e-5
    assert not [name for name, value in found.items() if str(value).startswith("failed")]


def test_the_shell_script_for_a_card_calls_the_tests_and_the_figures(tmp_path: Path) -> None:
    """With `echo` for Python."""
    words = ["bash", str(BENCHMARKS / "gpu.sh"), "check", str(tmp_path), "--device", "cpu"]
    done = subprocess.run(words, env=os.environ | {"PYTHON": "echo"}, capture_output=True, text=True, check=True)
    tests, figures = done.stdout.splitlines()
    assert tests == "-m pytest -q -p no:cacheprovider tests/test_far_device.py -k card_reports"
    assert any("card_reports" in name for name in vars(test_far_device))
    assert figures == f"{gpu.__file__} --json {tmp_path}/gpu.json --device cpu"
    assert (tmp_path / "tests.log").read_text() == f"{tests}\n"


def test_a_setting_stops_at_its_limit_and_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Portions of two steps until four of five are done by a limit that nothing fits into, and then the rest."""
    words = ["cifar100-ten-ipc10", "--data", data, "--data.first-classes", "None", "--ipc", 1, "--quiet"]
    words += ["--model", "convnet-d2-w4", "--experts.count", 2, "--experts.stop-after", 4]
    words += ["--experts.store", tmp_path / "e", "--method.expert.epochs", 6, "--method.step.max-start-epoch", 3]
    words += ["--distill.lr-lr", 0, "--out", tmp_path / "run", "--portion", 2, "--distill.iterations"]
    assert run(cells, monkeypatch, *words, 4, "--seconds", 0.001) == STOPPED
    assert "experts: 2 of 4 epochs" in capsys.readouterr().out
    assert run(cells, monkeypatch, *words, 5) == 0
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "run" / "synthetic.safetensors").exists()


def test_the_source_is_counted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(ast, "parse", functools.cache(ast.parse))  # it asks for the same tree again and again
    assert run(house, monkeypatch, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["names at the top of the package"] == 12
    assert found["import floors"] <= 11
    assert found["arrows between packages"] < 100


@pytest.mark.slow
def test_an_outer_step_is_timed_in_one_process_and_in_two(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = "--classes", 3, "--model", "convnet-d1-w4", "-n", 1, "--steps", 2
    run(sharing, monkeypatch, "--data", data, *small, "--json", tmp_path / "result.json")
    (row,) = read(tmp_path / "result.json")["rows"]
    one, two = (row["seconds_by_workers"][number] for number in "12")
    assert row["ratio"] == [one[0] / two[0]]
    assert min(*one, *two) > 0


@pytest.mark.slow
def test_a_finished_run_becomes_a_row_and_a_published_set(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_folder, sets, result = tmp_path / "run", tmp_path / "sets", tmp_path / "published-cells-toy.json"
    sets.mkdir()
    small = ("--model", "convnet-d1-w4", "--experts.count", "2", "--experts.store", str(tmp_path / "experts"))
    small += ("--method.step.syn-steps", "2", *SMALL_RUN, "--out", str(run_folder))
    assert main(["run", "cifar10-ipc1-mtt", "--data", str(data), *small]) == 0
    (store,) = (tmp_path / "experts").iterdir()
    words = run_folder, "--experts", store, "--label", "MTT", "--json", result, "--sets", sets
    for _ in range(2):  # the second replaces the row of the first
        run(published_rows, monkeypatch, *words)
    (row,) = read(result)["rows"]
    assert row["experts"]["count"] == 2
    assert row["changed"]["method.step.syn_steps"] == 2
    assert row["changed"]["model"] == "convnet-d1-w4"
    assert row["published"] == 46.2
    assert {path.name for path in sets.iterdir()} == {
        f"cifar10-ipc1-mtt{end}" for end in (".safetensors", ".scores.json", ".png")
    }
    assert load(sets / "cifar10-ipc1-mtt.safetensors").provenance.keys() & {"arguments", "machine"} == set()
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "| CIFAR-10, 1 | MTT | 2 × " in tables.cells()


@pytest.mark.slow
def test_runs_are_compared_on_held_out_images(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Network by network, with the accuracies that the runs measured themselves."""
    small = ("--model", "convnet-d1-w4", "--experts.count", "2", "--experts.store", str(tmp_path / "experts"))
    small += ("--method.step.syn-steps", "2", "--data.validation", "0.25", "--distill.validate-every", "1")
    small += ("--distill.validate-epochs", "3", *SMALL_RUN)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder, lr_img in zip(folders, ("1", "100"), strict=True):
        words = ("--data", str(data), *small, "--distill.lr-img", lr_img, "--out", str(folder))
        assert main(["distill", "cifar10-ipc1-mtt", *words]) == 0
    result = tmp_path / "held-out-cifar10-ipc1-epyc2-202611.json"
    run(held_out, monkeypatch, *folders, "--json", result)
    rows = read(result)["rows"]
    assert [row["lr_img"] for row in rows] == [1, 100]
    assert "distill.lr_img" in rows[0]["changed"]
    for row in rows:
        assert (row["experts"], row["held_out_images"], row["last"]["n"]) == (2, 9, 2)
        assert row["last"]["mean"] == pytest.approx(row["validation"][str(row["iterations"])], abs=0.05)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    assert "| 2 | < 2 | 100 |" in tables.held_out()
