"""The one-script experiments under `benchmarks/`, at toy size on the CPU, with forced stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

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


def started(data: Path, out: Path, seconds: float) -> subprocess.Popen[str]:
    words = [
        sys.executable,
        str(BENCHMARKS / "cifar100_ipc1.py"),
        "--data",
        str(data),
        "--out",
        str(out),
        "--scale",
        "tiny",
    ]
    words += ["--device", "cpu", "--seconds", str(seconds), "--json", str(out.parent / "results" / "toy.json")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ASTDISTILL_CACHE": str(out.parent / "cache")}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str], code: int) -> str:
    output, _ = process.communicate(timeout=240)
    assert process.returncode == code, output
    return output


@pytest.mark.slow
def test_the_whole_experiment_in_three_pieces(data: Path, tmp_path: Path) -> None:
    out, result = tmp_path / "out", tmp_path / "results" / "toy.json"
    began = time.monotonic()
    output = ended(started(data, out, 0.5), STOPPED)
    assert "run the same command again" in output
    assert "give it more --seconds" in output
    assert time.monotonic() - began < 30

    process = started(data, out, 600)
    while not list((out / "experts").glob("*/000.safetensors")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    ended(process, STOPPED)
    assert not result.exists()
    first = next((out / "experts").glob("*/000.safetensors"))
    written = first.stat().st_mtime_ns

    output = ended(started(data, out, 600), 0)
    assert first.stat().st_mtime_ns == written, "an expert of an earlier piece is trained again"
    assert "experts: n 2; test_accuracy_median" in output
    found = json.loads(result.read_text(encoding="utf-8"))
    assert (found["pieces"], found["scale"], found["distillation"]["iterations"]) == (3, "tiny", 3)
    assert [(row["row"], row["n"]) for row in found["rows"]] == [("ast", 2), ("random", 2), ("kmeans", 2), ("full", 2)]
    assert all(len(row["final"]) == row["n"] and row["std"] is not None for row in found["rows"])
    assert len(found["experts"]["test_accuracy_by_epoch"]) == 4
    assert {"processor", "cores"} <= found["machine"].keys()
    assert found["provenance"]["versions"]["torch"]
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert [stages[name]["units"] for name in ("experts", "distillation", "evaluation", "baselines")] == [8, 3, 2, 6]
    assert all(stages[name]["seconds_per_unit"] > 0 for name in ("experts", "distillation", "evaluation", "baselines"))
    assert 0 < found["seconds"] <= time.monotonic() - began
    assert found["seconds"] == pytest.approx(sum(stage["seconds"] for stage in found["stages"]), abs=0.5)
    assert not list(tmp_path.rglob("*.partial"))


def test_settings_that_do_not_fit_end_in_one_sentence(tmp_path: Path) -> None:
    output = ended(started(tmp_path / "absent.npz", tmp_path / "out", 600), 2)
    assert "There is no file or folder" in output
    assert "Traceback" not in output


def clock(folder: Path, *events: tuple[str, float]) -> dict[str, float]:
    """Seconds by stage of a clock whose file holds these events."""
    (folder / "clock.jsonl").write_text(
        "".join(json.dumps({"event": event, "at": at}) + "\n" for event, at in events), encoding="utf-8"
    )
    code = (
        f"import sys, json; sys.path.insert(0, {str(BENCHMARKS)!r}); from pieces import Clock; from pathlib import "
        f"Path; "
    )
    code += f"clock = Clock(Path({str(folder)!r}), ('start', 'experts')); print(json.dumps([clock.pieces, clock.seconds()]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    pieces, seconds = json.loads(done.stdout)
    return seconds | {"pieces": pieces}


def test_the_clock_adds_up_pieces_and_leaves_out_what_lies_between_them(tmp_path: Path) -> None:
    first = (("start", 0.0), ("experts", 2.0), ("beat", 5.0), ("stop", 7.0))
    killed = (("start", 100.0), ("experts", 101.0), ("beat", 104.0))
    last = (("start", 200.0), ("stop", 201.0))
    assert clock(tmp_path, *first, *killed, *last) == {"start": 2.0 + 1.0 + 1.0, "experts": 5.0 + 3.0, "pieces": 3}


@pytest.mark.slow
def test_the_methods_side_by_side(data: Path, tmp_path: Path) -> None:
    result = tmp_path / "peers.json"
    words = [
        sys.executable,
        str(BENCHMARKS / "peers.py"),
        "--data",
        str(data),
        "--out",
        str(tmp_path / "out"),
        "--scale",
        "tiny",
    ]
    words += ["--workers", "1", "--ipc", "1", "--json", str(result)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ASTDISTILL_CACHE": str(tmp_path / "cache")}
    for more in ([], ["--collect"]):
        done = subprocess.run(
            [*words, *more], env=environment, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (found,) = json.loads(result.read_text(encoding="utf-8"))["tables"]
        assert [row["row"] for row in found["rows"]] == [
            "mtt",
            "random",
            "kmeans",
            "ftd",
            "tesla",
            "tesla-hard",
            "datm",
            "ast",
            "ast-soft",
        ]
        assert all(row["n"] == 2 and len(row["final"][0]) == 2 for row in found["rows"])
        assert found["settings"]["ast-soft"]["method"]["labels"]["part"].endswith("ExpertTargets")
        assert {run["iterations"] for run in found["runs"].values()} == {2}

    runs = {method: str(tmp_path / "out" / f"cifar100-ten-ipc1-{method}-0") for method in ("ast", "mtt")}
    words = [
        sys.executable,
        str(BENCHMARKS / "architectures.py"),
        "--runs",
        *(f"{method}={run}" for method, run in runs.items()),
    ]
    words += ["--architectures", "mlp", "convnet-d2-w4", "--epochs", "1", "--networks", "2", "--workers", "1"]
    done = subprocess.run(
        [*words, "--out", str(tmp_path / "architectures"), "--json", str(result)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["row"]: row["final"] for row in json.loads(result.read_text(encoding="utf-8"))["rows"]}
    assert list(rows) == ["ast", "mtt", "random"]
    assert all(
        list(final) == ["mlp", "convnet-d2-w4"] and {len(values) for values in final.values()} == {2}
        for final in rows.values()
    )


def test_what_starting_costs_is_measured_in_fresh_processes(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, BENCHMARKS / "imports.py", "-n", "1", "--json", tmp_path / "found.json"],
        check=True,
        capture_output=True,
    )
    found = json.loads((tmp_path / "found.json").read_text())
    assert {row["variant"]: row["torch"] for row in found["rows"]} == {
        "import torch": True,
        "import astdistill, after torch": True,
        "every public name, after torch": True,
        "astdistill --help": False,
    }
    assert all(row["seconds"] > 0 for row in found["rows"])
    assert found["machine"]["cores"]


@pytest.mark.slow
def test_the_script_for_a_card_runs_without_one(tmp_path: Path) -> None:
    words = [
        "bash",
        str(BENCHMARKS / "gpu.sh"),
        "check",
        str(tmp_path),
        "--device",
        "cpu",
        "--scale",
        "tiny",
        "--quick",
        "-n",
        "1",
    ]
    done = subprocess.run(
        words, env=os.environ | {"PYTHON": sys.executable}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["outer step b4-t3"]["recompute, auto"]["n"] == 1
    assert found["agreement"]["eager float32"]["gradient"]["error"] < 1e-5
    assert not [name for name, value in found.items() if str(value).startswith("failed")]


def test_a_setting_stops_at_its_limit_and_goes_on(data: Path, tmp_path: Path) -> None:
    """Portions of two steps until four of five are done by a limit that nothing fits into, and then the rest."""
    words = [
        sys.executable,
        str(BENCHMARKS / "cells.py"),
        "cifar100-ten-ipc10",
        "--data",
        str(data),
        "--data.first-classes",
        "None",
    ]
    words += [
        "--model",
        "convnet-d2-w16",
        "--ipc",
        "1",
        "--experts.count",
        "2",
        "--experts.stop-after",
        "4",
        "--experts.store",
        str(tmp_path / "e"),
    ]
    words += [
        "--method.expert.epochs",
        "6",
        "--distill.max-start-epoch",
        "3",
        "--distill.lr-lr",
        "0",
        "--out",
        str(tmp_path / "run"),
        "--quiet",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ASTDISTILL_CACHE": str(tmp_path / "cache")}

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*words, "--portion", "2", *more], env=environment, capture_output=True, text=True, timeout=240
        )

    first = run("--distill.iterations", "4", "--seconds", "0.001")
    assert first.returncode == STOPPED, first.stderr
    assert "experts: 2 of 4 epochs" in first.stdout
    rest = run("--distill.iterations", "5")
    assert rest.returncode == 0, rest.stderr
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "run" / "synthetic.safetensors").exists()


def test_the_source_is_counted() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "house.py"), "--json"], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["names at the top of the package"] == 12
    assert found["import floors"] <= 11
    assert found["arrows between packages"] < 100
