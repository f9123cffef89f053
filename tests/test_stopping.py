"""A real process is told to stop (SIGINT, SIGTERM) in each phase: it ends soon and cleanly, and the command it names
goes on."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from folders import own_cache

from astdistill.cli import main as cli
from astdistill.cli.watch import look
from astdistill.report.live import LiveRun
from astdistill.runtime.files import load_tensors, read_lines

WORDS = [
    "run", "digits-ipc1", "--data.per-class", "20", "--experts.count", "2", "--method.expert.epochs", "12", "--model", "convnet-d1-w4",
    "--distill.iterations", "100", "--method.step.max-start-epoch", "2", "--method.step.syn-steps", "4", "--distill.checkpoint-seconds", "1e9",
    "--evaluation.recipe.epochs", "30", "--evaluation.networks", "2", "--evaluation.baselines", "random", "--out", "a run", "--workers",
]  # fmt: skip


def stopped(folder: Path, workers: int, line: str, how: signal.Signals) -> tuple[list[str], str]:
    """The command, and the last line that it says when it is sent `how` as soon as it has said `line`. Its exit code is
    checked, and that its workers are gone: they hold the pipe for errors as well, which is read to its end."""
    words = [*WORDS, str(workers)]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "ASTDISTILL_ENGINE": "eager",
        "ASTDISTILL_CACHE": str(folder / "cache"),
        "COLUMNS": "500",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "astdistill", *words],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        assert any(said.startswith(line) for said in process.stderr), "it ended without that line"
        process.send_signal(how)
        said = process.stderr.read()
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[how]
    assert "Traceback" not in said
    return words, said.rstrip().splitlines()[-1]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_stopped_in_each_phase_and_resumed_it_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two workers where there are some; at last, and whole, in this process."""
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    own_cache(cut / "cache")
    whole.mkdir()
    run = cut / "a run"
    for workers, line, how in (
        (2, "training experts", signal.SIGINT),
        (1, "distilling", signal.SIGINT),
        (2, "training 2 × 2 networks", signal.SIGTERM),
    ):
        words, said = stopped(cut, workers, line, how)
        again = shlex.join(["astdistill", *words])
        assert said == f"Stopped. Finished work is kept; this resumes it: {again}"
        view = look(run)
        assert isinstance(view, LiveRun)
        assert view.status is not None
        assert not view.running
    monkeypatch.setenv("ASTDISTILL_CACHE", str(cut / "cache"))
    monkeypatch.setenv("ASTDISTILL_ENGINE", "eager")  # a cache of its own would have the kernels compiled
    for folder in (cut, whole):
        monkeypatch.chdir(folder)
        assert cli.main([*WORDS, "1", "--quiet"]) == 0
        assert not Path("a run/live.json").exists()
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
    def verb(words: list[str]) -> int:
        if error is cli.Terminated:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        raise error

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(cli, "_piped", verb)
    assert cli.main(["run", "digits-ipc1", "--out", "my runs/it's"]) == code
    said = capsys.readouterr().err
    command = said.partition("resumes it: ")[2]
    assert shlex.split(command) == ["astdistill", "run", "digits-ipc1", "--out", "my runs/it's"]
    assert signal.getsignal(signal.SIGTERM) == before
