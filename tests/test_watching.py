"""`astdistill watch`: what a run folder says at every moment of its life, from its files alone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from astdistill.cli.main import main
from astdistill.cli.watch import BLOCKS, look, screen, sparkline
from astdistill.experiment.presets import preset
from astdistill.report.live import LiveRun
from astdistill.runtime.errors import InputError
from astdistill.runtime.progress import write_status
from astdistill.runtime.status import Status, StatusFile


@pytest.fixture(autouse=True)
def _in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")


def begin(folder: Path) -> Path:
    """A run folder as `claim_run_dir` leaves it, and a store of another run beside its own."""
    experiment = preset("digits-ipc1")
    folder.mkdir(parents=True)
    config = experiment.replace(experts=experiment.experts.replace(count=2)).to_json()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "provenance.json").write_text(json.dumps({"data": "abc"}))
    identity = {
        "recipe": config["method"]["expert"],
        "model": config["model"],
        "fingerprint": "abc",
        "seed": 0,
        "dtype": "float32",
    }
    for name, other in (("0", {"fingerprint": "other"}), ("1", {}), ("2", {"seed": 1})):
        (Path("experts") / name).mkdir(parents=True)
        (Path("experts") / name / "recipe.json").write_text(json.dumps({"identity": identity | other}))
    return Path("experts/1")


def log(path: Path, lines: list[dict[str, Any]], rest: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + rest)


def shown(folder: Path) -> str:
    view = look(folder)
    assert isinstance(view, LiveRun)
    console = Console(width=140)
    with console.capture() as found:
        console.print(screen(view))
    return found.get()


def test_every_moment_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/x")
    store = begin(run)
    assert "It is not running" in shown(run)
    with write_status(run / "live.json"):
        assert "now" in shown(run)
        log(
            store / "log.jsonl",
            [{"expert": 0, "epoch": epoch, "test_accuracy": 50.0 + epoch} for epoch in range(10)],
            '{"expert": 1, "ep',
        )
        assert "0/2 finished, test 59.0 % so far" in shown(run)
        for number in (0, 1):
            (store / f"00{number}.safetensors").touch()
        lines = [{"iteration": step, "loss": 1 / (step + 1), "lr": 0.01} for step in range(8)]
        lines[3] |= {"loss": "nan", "skipped": "why"}
        lines[5]["validation"] = 40.25
        lines[7]["validation"] = 39.0
        log(run / "metrics.jsonl", lines, '{"iteration": 8, "lo')
        StatusFile(run / "live.json").write(Status("distilling", 8, 1000, 2.5, "steps", 397.0, "312 MB", "loss 0.125"))
        text = shown(run)
        assert "2/2 finished" in text
        assert f"step 8 of {preset('digits-ipc1').distill.iterations}, η 0.01, 1 skipped" in text
        assert "0.1250 (lowest 0.1250)" in text
        assert "39.0 % after step 8, best 40.2 % after step 6" in text
        assert "distilling: 8/1,000, 2.5 steps/s, about 6.6 min left, 312 MB, loss 0.125" in " ".join(text.split())
        entry = {"final": [50.0], "mean": 50.0, "std": None, "n": 1}
        (run / "scores.json").write_text(
            json.dumps(
                {
                    "recipe": {"name": "MTT"},
                    "architecture": {"convnet-d2": entry},
                    "baselines": {"random": {**entry, "std": 1.25}},
                }
            )
        )
        assert "50.0 % (n = 1)" in shown(run)
        assert "50.0 ± 1.2 % (n = 1)" in shown(run)
        (run / "scores.json").write_text('{"architecture": {"conv')
        assert "η" in shown(run)
    (run / "synthetic.safetensors").touch()
    assert main(["watch", "runs/x"]) == 0
    assert "The run is finished." in capsys.readouterr().out


def test_the_store_is_found_from_elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = begin(Path("runs/x"))
    (store / "000.safetensors").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert "1/2 finished" in shown(Path("../runs/x"))


def test_imported_experts_are_found_by_name() -> None:
    begin(Path("runs/x"))
    config = json.loads(Path("runs/x/config.json").read_text())
    config["experts"]["imported"] = "0"
    Path("runs/x/config.json").write_text(json.dumps(config))
    for number in (0, 1):
        (Path("experts/0") / f"00{number}.safetensors").touch()
    assert "2/2 finished" in shown(Path("runs/x"))


def test_a_run_that_was_stopped_names_its_command() -> None:
    begin(Path("runs/x"))
    with pytest.raises(KeyboardInterrupt), write_status(Path("runs/x/live.json")):
        raise KeyboardInterrupt
    found = json.loads(Path("runs/x/live.json").read_text())
    Path("runs/x/live.json").write_text(json.dumps(found | {"command": ["run", "digits-ipc1", "--out", "my runs/x"]}))
    text = " ".join(shown(Path("runs/x")).split())
    assert "It is not running. This resumes it: astdistill run digits-ipc1 --out 'my runs/x'" in text


def test_it_waits_for_a_run_and_follows_it_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when it looks between the claim of the folder and the first word of the run."""

    def life() -> Iterator[None]:
        yield
        begin(Path("later"))
        yield
        with write_status(Path("later/live.json")):
            yield
            yield
        Path("later/synthetic.safetensors").touch()
        yield

    moments = life()
    monkeypatch.setattr(time, "sleep", lambda _: next(moments))
    assert main(["watch", "later"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("There is no run in later yet; waiting for it.")
    assert text.count("starting") == 2
    assert text.rstrip().endswith("The run is finished.")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["nowhere", "--once"], "There is no run in nowhere yet; start one with: astdistill run PRESET --out nowhere"),
        (["full"], "full holds no run; name the folder that a run writes to"),
        (["full/notes.txt"], "holds no run"),
        (["nowhere", "--every", "0"], "--every 0 was given; choose a number of seconds above 0"),
    ],
)
def test_bad_input_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/notes.txt").write_text("mine")
    assert main(["watch", *words]) == 2
    assert sentence in capsys.readouterr().err


def test_ctrl_c_ends_the_watching_quietly(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    assert main(["watch", "nowhere"]) == 0
    assert capsys.readouterr().err == ""


def test_a_sparkline_is_the_medians() -> None:
    assert sparkline([]) == ""
    assert sparkline([1.0, 1.0]) == BLOCKS[0] * 2
    assert sparkline(list(range(8))) == BLOCKS
    assert sparkline([0.0, 0.0, 99.0, 7.0, 7.0, -99.0], width=2) == BLOCKS[0] + BLOCKS[7]
    assert len(sparkline([float(value) for value in range(1001)], width=40)) == 40


def test_folders_that_are_still_empty_are_waited_for() -> None:
    Path("new").mkdir()
    assert look(Path("new")) is None
    Path("new/.config.json.x.tmp").touch()
    assert look(Path("new")) is None
    with pytest.raises(InputError, match="holds no run"):
        look(Path())


QUICK = """
import sys
from astdistill.cli.main import main
code = main(sys.argv[1:])
print([name for name in ("torch", "numpy", "matplotlib", "datasets") if name in sys.modules])
sys.exit(code)
"""


def quickly(*words: str) -> str:
    """What a command prints in a process of its own, and last which slow packages it has imported."""
    done = subprocess.run([sys.executable, "-c", QUICK, *words], capture_output=True, text=True, check=True)
    return done.stdout


def test_watching_imports_no_torch() -> None:
    store = begin(Path("runs/x"))
    log(store / "log.jsonl", [{"expert": 0, "epoch": 3, "test_accuracy": 50.0}])
    row = {"mean": 91.26, "std": None, "n": 1}
    (Path("runs/x") / "scores.json").write_text(json.dumps({"architecture": {"mlp": row}, "baselines": {}}))
    text = quickly("watch", "runs/x", "--once")
    assert "91.3 % (n = 1)" in text
    assert text.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", ["", "watch", "compare", "report", "textures", "presets"])
def test_help_imports_no_torch(verb: str) -> None:
    assert quickly(*verb.split(), "--help").splitlines()[-1] == "[]"
