"""A real process is told to stop (SIGINT, SIGTERM) in each phase: it ends soon and cleanly, and the command it names
goes on."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from astdistill.cli import main as cli
from astdistill.cli.watch import look
from astdistill.runtime.files import load_tensors, read_lines

WORDS = [
    "run", "digits-ipc1", "--data.per-class", "30", "--experts.count", "2", "--method.expert.epochs", "40", "--model", "convnet-d1-w4",
    "--distill.iterations", "150", "--distill.max-start-epoch", "2", "--distill.inner-steps", "4", "--distill.checkpoint-seconds", "0.2",
    "--evaluation.recipe.epochs", "1500", "--evaluation.networks", "2", "--evaluation.baselines", "random", "--workers", "2",
]  # fmt: skip


def start(folder: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ASTDISTILL_CACHE": str(folder / "cache")}
    words = [sys.executable, "-m", "astdistill", *WORDS, "--out", "a run"]
    # a session of its own, so that its workers can be counted afterwards
    return subprocess.Popen(
        words,
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def stopped(folder: Path, when: Callable[[], bool], how: signal.Signals) -> str:
    """What a process says that is sent `how` as soon as `when` holds; its exit code, and that it and its workers are
    gone, are checked."""
    process = start(folder)
    began = time.monotonic()
    while not when():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.01)
    sent = time.monotonic()
    process.send_signal(how)
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - sent < 30
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    while running(process.pid):
        assert time.monotonic() - sent < 30, "a worker outlived the run"
        time.sleep(0.05)
    return said


def running(group: int) -> bool:
    """Whether any process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_stopped_in_each_phase_and_resumed_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    cut.mkdir()
    whole.mkdir()
    run = cut / "a run"

    def status() -> str:
        return (json.loads((run / "live.json").read_text())["title"]) if (run / "live.json").exists() else ""

    phases: list[tuple[Callable[[], bool], signal.Signals, str]] = [
        (lambda: any(cut.glob("experts/*/log.jsonl")), signal.SIGINT, "training experts"),
        (lambda: len(read_lines(run / "metrics.jsonl")) > 20, signal.SIGINT, "distilling"),
        (lambda: status().startswith("training 2 × 2 networks"), signal.SIGTERM, "training 2 × 2 networks"),
    ]
    for when, how, title in phases:
        said = stopped(cut, when, how)
        assert "Traceback" not in said
        again = shlex.join(["astdistill", *WORDS, "--out", "a run"])
        assert said.rstrip().endswith(f"Stopped. What is done is kept; this goes on with it: {again}")
        assert shlex.split(again)[-1] == "a run"
        view = look(run)
        assert view is not None
        assert view.status is not None
        assert view.status.title.startswith(title)
        assert not view.running
    for folder in (cut, whole):
        process = start(folder)
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert not (folder / "a run" / "live.json").exists()
    experts = [path.relative_to(cut) for path in cut.glob("experts/*/00?.safetensors")]
    assert len(experts) == 2
    for name in (*experts, Path("a run/synthetic.safetensors"), Path("a run/state.safetensors")):
        first, second = load_tensors(cut / name)[0], load_tensors(whole / name)[0]
        assert first.keys() == second.keys()
        assert all(torch.equal(tensor, second[key]) for key, tensor in first.items()), name
    assert read_lines(run / "metrics.jsonl") == read_lines(whole / "a run" / "metrics.jsonl")
    assert (run / "scores.json").read_text() == (whole / "a run" / "scores.json").read_text()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (cli.Terminated, 143)])
def test_the_sentence_is_a_command_for_the_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: type[BaseException], code: int
) -> None:
    def verb(words: list[str]) -> None:
        if error is cli.Terminated:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        raise error

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "_verb", lambda name: verb)
    assert cli.main(["run", "digits-ipc1", "--out", "my runs/it's"]) == code
    said = capsys.readouterr().err
    command = said.partition("goes on with it: ")[2]
    assert shlex.split(command) == ["astdistill", "run", "digits-ipc1", "--out", "my runs/it's"]
    assert signal.getsignal(signal.SIGTERM) == before
