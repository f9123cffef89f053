"""Several processes fill one store, also where locks do nothing, are per node or are not there; and whatever is killed,
each trajectory is that of one process alone."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from killing import Killed, killed_at_write
from problems import TINY, TINY_RECIPE, blobs, same_store, tiny_experts
from safetensors.torch import save_file

from astdistill.cli.main import main
from astdistill.data.dataset import Dataset
from astdistill.experts.partial import PartialTrajectory, folders
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import make_optimiser, train_experts
from astdistill.runtime import files
from astdistill.runtime.errors import FolderGoneError, InputError
from astdistill.runtime.files import load_tensors, save_tensors
from astdistill.runtime.owners import machine, new_tag
from astdistill.runtime.progress import be_quiet

if sys.platform == "win32":
    pytest.skip("processes are forked here", allow_module_level=True)
import fcntl

COUNT = 6


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("whole"), dataset, count=COUNT)


def forked(work: Callable[[], object]) -> int:
    """The number of a process that does `work` and ends with 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, none of which is in Python code
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        torch.set_num_threads(1)
        be_quiet(True)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def no_locks(monkeypatch: pytest.MonkeyPatch, code: int = 0) -> None:
    """Locks that do nothing, as with NFS and local locks; or an error in their place."""

    def flock(*_: object) -> None:
        if code:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)


def test_processes_that_only_start_do_not_disturb_one_that_trains(
    tmp_path: Path, dataset: Dataset, whole: TrajectoryStore
) -> None:
    tiny_experts(tmp_path, dataset, count=1)

    def starts() -> None:
        while True:
            tiny_experts(tmp_path, dataset, count=1)

    children = [forked(starts) for _ in range(2)]
    try:
        assert same_store(tiny_experts(tmp_path, dataset, count=COUNT), whole)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            assert ended(child) == -signal.SIGKILL, "it went on until it was killed"


@pytest.mark.parametrize("locks", ["as they are", "that do nothing"])
def test_several_at_once_make_the_store_of_one(
    locks: str, tmp_path: Path, dataset: Dataset, whole: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if locks == "that do nothing":
        no_locks(monkeypatch)
    children = [forked(lambda: tiny_experts(tmp_path, dataset, count=COUNT)) for _ in range(4)]
    assert [ended(child) for child in children] == [0] * 4
    (folder,) = tmp_path.iterdir()
    assert same_store(TrajectoryStore.open(folder), whole)
    assert not list(folder.glob("*.partial"))
    assert not list(folder.glob(".*.tmp"))


@pytest.mark.slow
@pytest.mark.parametrize("locks", ["as they are", "that do nothing"])
def test_several_at_once_killed_again_and_again(
    locks: str, tmp_path: Path, dataset: Dataset, whole: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    if locks == "that do nothing":
        no_locks(monkeypatch)
    draw = random.Random(0)
    for _ in range(10):
        children = [forked(lambda: tiny_experts(tmp_path, dataset, count=COUNT)) for _ in range(3)]
        time.sleep(draw.uniform(0, 0.25))
        for child in children:
            os.kill(child, signal.SIGKILL)
        assert {ended(child) for child in children} <= {0, -signal.SIGKILL}
    assert same_store(tiny_experts(tmp_path, dataset, count=COUNT), whole)
    (folder,) = tmp_path.iterdir()
    tiny_experts(tmp_path, dataset, count=COUNT)
    assert not list(folder.glob("*.partial"))
    assert not list(folder.glob(".*.tmp"))


def test_what_a_process_leaves_that_is_killed_as_it_names_the_last_expert_is_removed(
    tmp_path: Path, dataset: Dataset, whole: TrajectoryStore
) -> None:
    def work() -> None:
        link = os.link

        def last(source: Path, target: Path) -> None:
            link(source, target)
            if Path(target).name == f"{COUNT - 1:03d}.safetensors":
                os.kill(os.getpid(), signal.SIGKILL)

        os.link = last
        tiny_experts(tmp_path, dataset, count=COUNT)

    assert ended(forked(work)) == -signal.SIGKILL
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.glob(".*.tmp"))) == 1
    assert same_store(tiny_experts(tmp_path, dataset, count=COUNT), whole)
    assert not list(folder.glob(".*.tmp"))


def killed_half_way(folder: Path, dataset: Dataset, steps: int = 9) -> Path:
    """The folder that a process has left which was killed in the middle of expert 0."""

    def work() -> None:
        flush, left = os.fsync, [steps]

        def counted(handle: int) -> None:
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(handle)

        os.fsync = counted
        tiny_experts(folder, dataset, count=1)

    assert ended(forked(work)) == -signal.SIGKILL
    (left,) = folder.glob("*/000.*.partial")
    return left


def test_what_a_killed_process_left_goes_on_to_the_same_bits(
    tmp_path: Path, dataset: Dataset, whole: TrajectoryStore
) -> None:
    left = killed_half_way(tmp_path, dataset)
    done = len(load_tensors(left / "state.safetensors")[1]["rows"])
    lines = (left.parent / "log.jsonl").read_text().splitlines()
    found = tiny_experts(tmp_path, dataset, count=1)
    assert torch.equal(found.rows(0, 0, 7), whole.rows(0, 0, 7))
    assert len((left.parent / "log.jsonl").read_text().splitlines()) == 6, f"{done} of {len(lines)} epochs are kept"
    assert not list(found.folder.glob("*.partial"))


def test_what_another_machine_is_at_is_copied_and_left_alone(
    tmp_path: Path, dataset: Dataset, whole: TrajectoryStore
) -> None:
    left = killed_half_way(tmp_path, dataset)
    theirs = left.rename(left.with_name(left.name.replace(machine(), "0123abcd")))
    before = {path.name: path.read_bytes() for path in theirs.iterdir()}
    found = tiny_experts(tmp_path, dataset, count=1)
    assert torch.equal(found.rows(0, 0, 7), whole.rows(0, 0, 7))
    assert len((left.parent / "log.jsonl").read_text().splitlines()) == 6, "no epoch was trained again"
    tiny_experts(tmp_path, dataset, count=1)
    assert {path.name: path.read_bytes() for path in theirs.iterdir()} == before
    for path in (theirs, *theirs.iterdir()):
        os.utime(path, (1e9, 1e9))
    tiny_experts(tmp_path, dataset, count=1)
    assert not theirs.exists(), "nobody has touched it for a day"


def test_a_folder_of_an_earlier_version_is_taken_over(tmp_path: Path, dataset: Dataset, whole: TrajectoryStore) -> None:
    """It has no digests, and no owner in its name."""
    left = killed_half_way(tmp_path, dataset)
    left = left.rename(left.with_name("000.partial"))
    tensors, header = load_tensors(left / "state.safetensors")
    del header["rows"]
    (left / "state.safetensors").unlink()
    save_file(tensors, left / "state.safetensors", {name: json.dumps(value) for name, value in header.items()})
    found = tiny_experts(tmp_path, dataset, count=1)
    assert torch.equal(found.rows(0, 0, 7), whole.rows(0, 0, 7))
    assert len((left.parent / "log.jsonl").read_text().splitlines()) == 6
    assert not left.exists()


def test_publishing_is_exclusive_and_a_longer_trajectory_stays(tmp_path: Path, dataset: Dataset) -> None:
    """One process has trained to the end while another one, which began earlier, was at epoch 2."""
    short = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path / "short", stop_after=2)
    store = tiny_experts(tmp_path / "s", dataset, count=1)
    before = store.path(0).read_bytes()
    for way in ("new", "same"):
        with PartialTrajectory.acquire(store.folder, 0, store.identity.parameters) as partial:
            shutil.copytree(short.folder / "000.partial", partial.folder)
            shutil.copy(short.path(0), store.folder / "000.safetensors.copy")
            partial.published = store.folder / "000.safetensors.copy"
            from astdistill.autodiff.training import Trainee
            from astdistill.experts.recipe import ExpertCurve
            from astdistill.models.registry import build_model

            trainee, curves = Trainee(build_model(TINY, dataset.shape, 3)), ExpertCurve()
            optimiser = make_optimiser(trainee, TINY_RECIPE, 0)
            assert partial.restore(trainee.theta, optimiser, curves) == 2
            partial.published = store.path(0)
            partial.publish(trainee.theta, optimiser, store.identity, curves)
        assert store.path(0).read_bytes() == before, way
        assert not folders(store.folder, 0)


def test_a_trajectory_with_rows_missing_is_never_published(tmp_path: Path, dataset: Dataset) -> None:
    def cut(partial: PartialTrajectory, *given: object) -> None:
        os.truncate(partial.rows, partial.parameters * 4)
        real(partial, *given)  # pyright: ignore[reportArgumentType]

    real = PartialTrajectory.publish
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartialTrajectory, "publish", cut)
        with pytest.raises(InputError, match=r"rows\.bin holds 1 rows of expert 0, which are not the 7 that were"):
            tiny_experts(tmp_path, dataset, count=1)
    assert not list(tmp_path.glob("*/000.safetensors"))


def test_one_that_finds_its_expert_published_lets_its_own_go(
    tmp_path: Path, dataset: Dataset, whole: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, calls = PartialTrajectory.append, []

    def appended(partial: PartialTrajectory, *given: object) -> None:
        append(partial, *given)  # pyright: ignore[reportArgumentType]
        calls.append(partial.expert)
        if len(calls) == 2:
            shutil.copy(whole.path(0), partial.published)

    monkeypatch.setattr(PartialTrajectory, "append", appended)
    found = tiny_experts(tmp_path, dataset, count=1)
    assert calls == [0, 0], "nothing is trained that is there"
    assert torch.equal(found.rows(0, 0, 7), whole.rows(0, 0, 7))
    assert not folders(found.folder, 0)


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP])
def test_a_file_system_without_locks_is_one_sentence(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dataset: Dataset, whole: TrajectoryStore
) -> None:
    no_locks(monkeypatch, code)
    with pytest.raises(InputError, match=r"has no locks \(.*\); train the experts there without them: .* --shard 1/2"):
        tiny_experts(tmp_path, dataset, count=COUNT)
    for shard in ("2/2", "1/2"):
        found = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=COUNT, store=tmp_path, shard=shard)
    assert same_store(found, whole)
    assert same_store(tiny_experts(tmp_path, dataset, count=COUNT), whole), "what is there needs no locks"


def test_shards_share_the_experts(tmp_path: Path, dataset: Dataset, whole: TrajectoryStore) -> None:
    first = train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=COUNT, store=tmp_path, shard="2/4")
    assert first.experts() == [1, 5]
    assert not list(first.folder.glob(".*.lock"))
    for shard in ("1/4", "3/4", "4/4"):
        train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=COUNT, store=tmp_path, shard=shard)
    assert same_store(first, whole)


def test_a_shard_leaves_out_experts_that_other_shards_train_further(tmp_path: Path, dataset: Dataset) -> None:
    train = partial(train_experts, dataset, model=TINY, recipe=TINY_RECIPE, count=4, store=tmp_path)
    train(stop_after=1)
    first = train(stop_after=2, shard="1/2")
    assert first.experts() == [0, 2]
    assert [len(each.step_squared) for each in first.curves()] == [2, 2]
    everyone = TrajectoryStore(first.folder, first.identity, until=2)
    with pytest.raises(InputError, match=r"001\.safetensors is trained for 1 of 2 epochs; run the same") as raised:
        everyone.curves()
    assert "delete" not in str(raised.value)
    assert train(stop_after=2, shard="2/2").experts() == [0, 1, 2, 3]


@pytest.mark.parametrize("shard", ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3", "-1/2", "²/3", "7/7"])
def test_a_shard_that_cannot_be_is_one_sentence(shard: str, tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(InputError, match=r"--shard .* (write I/N, this process's number|has none of 6 experts)"):
        train_experts(dataset, model=TINY, recipe=TINY_RECIPE, count=COUNT, store=tmp_path / "s", shard=shard)
    assert not (tmp_path / "s").exists()


def test_the_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["experts", "digits-ipc1", "--data.per-class", "5", "--model", "convnet-d1-w4", "--experts.count", "3"]
    words += ["--method.expert.epochs", "20", "--experts.stop-after", "11", "--quiet", "--shard"]
    assert main([*words, "3/3"]) == 0
    assert [path.name for path in tmp_path.glob("experts/*/0*.safetensors")] == ["002.safetensors"]
    assert main([*words, "4/3"]) == 2
    assert "--shard 4/3 was given; write I/N" in capsys.readouterr().err


def test_a_store_that_is_deleted_meanwhile_is_one_sentence_and_does_not_come_back(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = PartialTrajectory.append

    def appended(partial: PartialTrajectory, *given: object) -> None:
        append(partial, *given)  # pyright: ignore[reportArgumentType]
        shutil.rmtree(partial.store)

    monkeypatch.setattr(PartialTrajectory, "append", appended)
    with pytest.raises((FolderGoneError, FileNotFoundError)):
        tiny_experts(tmp_path, dataset, count=1)
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_temporary_files_of_killed_processes_are_swept_and_no_others(tmp_path: Path, dataset: Dataset) -> None:
    store = tiny_experts(tmp_path, dataset, count=1)
    child = forked(lambda: None)
    assert ended(child) == 0
    dead, mine = f"{machine()}-{child}-0123abcd", new_tag()
    gone = [store.folder / f".000.safetensors.{dead}.tmp", store.folder / ".recipe.json.ab_d12x4.tmp"]
    kept = [
        store.folder / f".000.safetensors.{mine}.tmp",
        store.folder / ".000.safetensors.0123abcd-1-0123abcd.tmp",
        store.folder / ".recipe.json.ab_d12x5.tmp",
        store.folder / ".mine.abcdefgh.tmp",
        store.folder / "000.safetensors.tmp",
    ]
    for path in (*gone, *kept):
        path.write_text("x")
    os.utime(gone[1], (1e9, 1e9))
    os.utime(kept[3], (1e9, 1e9))
    files._SWEPT.clear()  # as in a new process
    save_tensors(store.folder / "note.safetensors", {"a": torch.zeros(1)})
    assert not [path for path in gone if path.exists()]
    assert all(path.exists() for path in kept)


def test_a_half_trained_expert_is_let_go_by_a_process_that_lives_on(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A notebook, for example: the next call, of whatever process, goes on where it was interrupted."""
    with pytest.raises(Killed), killed_at_write(monkeypatch, 7):
        tiny_experts(tmp_path, dataset, count=1)
    assert [path.name for path in tmp_path.glob("*/*.partial")] == ["000.partial"]


@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_the_command_refuses_a_shard_before_data_are_read(
    dry: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experts", "digits-ipc1", "--data", str(tmp_path / "not there"), "--shard", "3/2", *dry]
    assert main(words) == 2
    assert "--shard 3/2 was given; write I/N" in capsys.readouterr().err
