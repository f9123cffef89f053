"""A run folder has one writer, which the second is told of; deleted, it ends the run; nothing not finite is saved."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY_RECIPE, blobs, tiny_experts

from astdistill.cli.main import main
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.distillation.loop import Saver, distill
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.state import DistillState
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate_all
from astdistill.experts.recipe import ExpertRecipe
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime.errors import DivergedError, FolderGoneError, InputError
from astdistill.runtime.files import append_line, load_tensors, read_lines, save_tensors, write_json
from astdistill.runtime.owners import Owner, machine, owner_alive
from astdistill.runtime.run_dir import SILENT_S, RunDir

METHOD = MTT.replace(expert=TINY_RECIPE, step=TrajectoryMatching(syn_steps=2, expert_epochs=1, max_start_epoch=2))
SETTINGS = DistillSettings(iterations=4, lr_img=1.0, augmentation="")
HOLDER = """# forked
import sys, time
from astdistill.runtime.run_dir import RunDir
with RunDir(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that is at work on `run`."""
    words = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*_: object) -> None:
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.mark.parametrize("locks", ["work", "do nothing", "are not there"])
def test_the_second_is_told_who_is_at_it_and_a_killed_one_is_followed(
    locks: str,
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    holder: subprocess.Popen[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if locks != "work":
        no_locks(monkeypatch, {"do nothing": 0, "are not there": errno.ENOLCK}[locks])
    run = tmp_path / "run"
    before = {path.name: path.read_bytes() for path in run.iterdir()}

    def go() -> SyntheticSet:
        return distill(dataset, experts, method=METHOD, settings=SETTINGS, out=run)

    words = rf"Another process \(process {holder.pid} on .*, since \d{{4}}-.*\) is writing to .*run; wait until it has"
    with pytest.raises(InputError, match=words):
        go()
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    (run / f".state.safetensors.{machine()}-{holder.pid}-0123abcd.tmp").touch()
    holder.kill()
    holder.wait()
    assert go().images.isfinite().all()
    assert len(read_lines(run / "metrics.jsonl")) == 4
    assert not [path.name for path in run.iterdir() if path.name.startswith(".")], "what the killed one left is swept"


def test_the_command_line_says_it_before_it_reads_the_data(
    tmp_path: Path,
    holder: subprocess.Popen[bytes],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("astdistill.experiment.pipeline.load_data", lambda experiment: pytest.fail("data are read"))
    for verb in ("run", "distill"):
        assert main([verb, "digits-ipc1", "--out", str(tmp_path / "run")]) == 2
        assert f"(process {holder.pid} on " in capsys.readouterr().err
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".writer.json", ".writer.lock"]


def test_another_thread_is_another_writer(tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        try:
            with RunDir(tmp_path / "run").writing():
                said.append("both write")
        except InputError as error:
            said.append(str(error))

    with RunDir(tmp_path / "run").writing(), RunDir(tmp_path / "run").writing():
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert f"(process {os.getpid()} on " in said[0]
    assert list((tmp_path / "run").iterdir()) == []


def test_an_evaluation_folder_has_one_writer_too(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, holder: subprocess.Popen[bytes]
) -> None:
    synthetic = distill(dataset, experts, method=METHOD, settings=SETTINGS)
    recipe = MTT_PROTOCOL.replace(epochs=1, full_epochs=1)
    with pytest.raises(InputError, match=rf"process {holder.pid} on"):
        evaluate_all(synthetic, dataset, recipe, seeds=1, baselines=(), out=tmp_path / "run")


@pytest.mark.parametrize("silent", [False, True])
def test_a_process_of_another_machine_counts_until_it_is_silent(silent: bool, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    theirs = Owner("node7", "0123abcd", 4711, "5", time.time())
    write_json(run.writer, theirs.to_json())
    if silent:
        before = time.time() - SILENT_S - 1
        os.utime(run.writer, (before, before))
        with run.writing():
            assert json.loads(run.writer.read_text())["pid"] == os.getpid()
        return
    with pytest.raises(InputError, match=r"\(process 4711 on node7, since"), run.writing():
        pass
    assert json.loads(run.writer.read_text()) == theirs.to_json()


def test_a_number_that_is_given_again_is_no_process_at_work(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    present = Owner.present()
    assert present.alive
    assert Owner.read(json.loads(json.dumps(present.to_json()))) == present
    if not present.started:
        pytest.skip("the system does not say when a process began")
    write_json(run.writer, present.to_json() | {"started": "1"})
    with run.writing():
        pass


@pytest.mark.parametrize("garbage", ["", "{", "[]", '{"pid": "x"}', "null"])
def test_a_damaged_note_of_the_writer_keeps_nobody_out(garbage: str, tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.writer.write_text(garbage)
    with run.writing():
        assert Owner.read(json.loads(run.writer.read_text())) is not None
    assert list(tmp_path.iterdir()) == []


def test_who_is_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        assert owner_alive(f".x.{machine()}-{process.pid}-0123abcd.tmp") in (True, False)
    assert owner_alive(f".x.{machine()}-{process.pid}-0123abcd.tmp") is False
    assert owner_alive(f".x.{machine()}-{os.getpid()}-0123abcd.tmp") is True
    assert owner_alive(".x.0123abcd-1-0123abcd.tmp") is None
    assert owner_alive("000.partial") is None
    assert owner_alive(f".x.{machine()}-{10**30}-0123abcd.tmp") is False


@pytest.mark.parametrize("then", ["stays away", "is made again", "is another's"])
def test_a_run_folder_that_is_deleted_ends_the_run(
    then: str, tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, after = tmp_path / "run", Saver.after_step

    def deleted(saver: Saver, state: DistillState, line: Any) -> None:
        if line["iteration"] == 1:
            shutil.rmtree(run)
            if then != "stays away":
                run.mkdir()
            if then == "is another's":
                RunDir(run).writer.write_text("theirs")
        after(saver, state, line)

    monkeypatch.setattr(Saver, "after_step", deleted)
    words = {"is another's": "Another process has taken over .*run"}.get(then, "run was deleted or moved while this")
    with pytest.raises(FolderGoneError, match=words):
        distill(dataset, experts, method=METHOD, settings=SETTINGS, out=run)
    left = [path.name for path in tmp_path.rglob("*")]
    assert left == {"stays away": [], "is made again": ["run"], "is another's": ["run", ".writer.json"]}[then]


def test_every_way_to_write_sees_that_the_folder_is_gone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunDir(run).writing():
        shutil.rmtree(run)
        for write in (
            lambda: append_line(run / "a.jsonl", {}),
            lambda: write_json(run / "a.json", {}),
            lambda: save_tensors(run / "deeper" / "a.safetensors", {"a": torch.zeros(1)}),
        ):
            with pytest.raises(FolderGoneError):
                write()
        write_json(tmp_path / "running.json", {})  # a name that only begins like it
    assert [path.name for path in tmp_path.iterdir()] == ["running.json"]


def test_a_deleted_folder_is_one_sentence_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    after = Saver.after_step

    def deleted(saver: Saver, state: DistillState, line: Any) -> None:
        shutil.rmtree("runs/x")
        after(saver, state, line)

    monkeypatch.setattr(Saver, "after_step", deleted)
    words = ["--method", "dm", "--data.per-class", "5", "--distill.iterations", "3", "--quiet", "--out", "runs/x"]
    assert main(["run", "digits-ipc1", *words]) == 1
    message = capsys.readouterr().err
    assert message.startswith("astdistill: ")
    assert message.count("\n") == 1
    assert "runs/x was deleted or moved while this process was writing to it" in message
    assert not Path("runs/x").exists()


@pytest.mark.parametrize("number", [5e-324, 1e-45, 1e-31, 1e31, 1e300, -1e300])
def test_numbers_beyond_float32_are_refused_at_the_entrance(number: float, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--distill.lr-init", "--distill.lr-img", "--distill.lr-lr", "--distill.lr-targets", "--method.expert.lr"]
    flags += ["--method.expert.weight-decay", "--method.expert.penalty", "--evaluation.recipe.lr"]
    for flag in flags:
        assert main(["run", "digits-ipc1", f"{flag}={number}"]) == 2
        assert f"{flag} cannot be {number}; choose" in capsys.readouterr().err
    for record, name in ((DistillSettings, "lr_img"), (ExpertRecipe, "lr")):
        with pytest.raises(ValueError, match=name):
            record.model_validate({name: number})
        with pytest.raises(ValueError, match=name):
            record().replace(**{name: number})


@pytest.mark.parametrize(
    ("flag", "power"),
    [
        ("--seed", 64),
        ("--data.seed", 64),
        ("--experts.seed", 64),
        ("--distill.plateau", 63),
        ("--method.step.batch-syn", 63),
        ("--evaluation.recipe.batch", 63),
        ("--method.expert.batch", 63),
    ],
)
def test_numbers_that_no_file_holds_are_refused_at_the_entrance(
    flag: str, power: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "digits-ipc1", flag, str(2**power)]) == 2
    assert f"{flag} cannot be {2**power}; choose a whole number below 2^{power}" in capsys.readouterr().err
    assert main(["run", "digits-ipc1", flag, str(2**power - 1), "--dry-run"]) == 0


def test_as_many_seeds_as_nobody_runs_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["sweep", "digits-ipc1", "--methods", "dm"], ["run", "digits-ipc1"], ["evaluate", "absent"]):
        flag = {"evaluate": "--seed"}.get(words[0], "--seeds")
        assert main([*words, flag, str(10**20)]) == 2
        assert f"{flag} cannot be {10**20}; choose" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["lr_init", "lr_img", "lr_lr"])
@pytest.mark.parametrize("number", [1e-30, 1e30])
def test_the_largest_and_smallest_rates_end_in_finite_files_or_a_sentence(
    field: str, number: float, tmp_path: Path, dataset: Dataset, experts: TrajectoryStore
) -> None:
    for optimiser in ("sgd", "adam"):
        settings = SETTINGS.replace(outer_optimiser=optimiser, max_skips=3, **{field: number})
        out = tmp_path / optimiser
        with suppress(DivergedError):
            distill(dataset, experts, method=METHOD, settings=settings, out=out)
        for path in out.glob("*.safetensors"):
            assert all(bool(tensor.isfinite().all()) for tensor in load_tensors(path)[0].values()), path


def test_what_is_not_finite_is_never_saved(tmp_path: Path, dataset: Dataset, experts: TrajectoryStore) -> None:
    synthetic = distill(dataset, experts, method=METHOD, settings=SETTINGS, out=tmp_path / "run")
    path = tmp_path / "run" / "synthetic.safetensors"
    before = path.read_bytes()
    synthetic.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(DivergedError, match="'images' of the distilled set is not finite"):
        synthetic.save(path)
    assert path.read_bytes() == before
    state = DistillState(synthetic.images, synthetic.targets, METHOD, SETTINGS)
    with pytest.raises(DivergedError, match="'images' of the run's state is not finite"):
        state.latest().save(tmp_path / "state.safetensors", "key")
    assert not (tmp_path / "state.safetensors").exists()


def test_an_experts_optimiser_that_is_not_finite_ends_its_training(tmp_path: Path, dataset: Dataset) -> None:
    """Adam's squares overflow where the parameters still look well."""
    recipe = TINY_RECIPE.replace(optimiser="adam", lr=1e-8, weight_decay=1e25)
    with pytest.raises(DivergedError, match=r"stopped being finite in epoch 0"):
        tiny_experts(tmp_path, dataset, count=1, recipe=recipe)
    assert not list(tmp_path.glob("*/000.safetensors"))


def test_signals_leave_the_folder_to_the_next(tmp_path: Path, holder: subprocess.Popen[bytes]) -> None:
    holder.send_signal(signal.SIGINT)
    holder.wait()
    assert list((tmp_path / "run").iterdir()) == []
    with RunDir(tmp_path / "run").writing():
        pass


def test_a_mark_of_another_process_with_the_same_number_stays(tmp_path: Path) -> None:
    """In containers every process has the number 1, and another one may have taken over the folder of a stalled one."""
    run = RunDir(tmp_path / "run")
    theirs = Owner("node7", "0123abcd", os.getpid(), "5", time.time()).to_json()
    with run.writing():
        write_json(tmp_path / "theirs", theirs)
        (tmp_path / "theirs").replace(run.writer)
    assert json.loads(run.writer.read_text()) == theirs
