"""Jobs in other processes: how many, what they are sent, what comes back, and that none is left behind."""

from __future__ import annotations

import errno
import io
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jobs
import pytest
import torch
from problems import NotedBar

from astdistill.runtime import parallel
from astdistill.runtime.errors import DivergedError, InputError
from astdistill.runtime.files import lock
from astdistill.runtime.machine import NAMED_BY_USERS, SPINS
from astdistill.runtime.parallel import (
    WorkerPlan,
    _Processes,
    plan_workers,
    pool,
    training_seconds,
    worker_command,
)
from astdistill.runtime.trust import import_name, typed
from astdistill.runtime.worker import TensorPickler, TensorUnpickler, nameless_file, sendable

CPU = torch.device("cpu")
TWO = WorkerPlan(2, 1, requested=True)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_as_many_workers_as_end_first_share_the_threads(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    torch.set_num_threads(8)
    for cores, count, workers, each in (
        (8, 100, 8, 1),
        (8, 3, 3, 2),
        (8, 1, 1, 8),
        (3, 100, 3, 2),
        (1, 5, 1, 8),
        (2, 4, 2, 4),
        (2, 5, 1, 8),
    ):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        assert plan_workers(count, None, CPU) == WorkerPlan(workers, each)
    assert plan_workers(5, 2, CPU) == WorkerPlan(2, 4, requested=True)
    assert plan_workers(5, 16, CPU) == WorkerPlan(5, 1, requested=True)
    assert plan_workers(5, 1, CPU) == WorkerPlan(1, 8, requested=True)
    torch.set_num_threads(1)
    monkeypatch.setattr(parallel, "cores", lambda: 8)
    assert plan_workers(5, None, CPU) == WorkerPlan(1, 1)
    assert plan_workers(5, 3, CPU) == WorkerPlan(3, 1, requested=True)


def test_accelerators_and_networks_of_the_script_stay_in_one_process(
    monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    torch.set_num_threads(2)
    monkeypatch.setattr(parallel, "cores", lambda: 2)
    assert (
        plan_workers(5, None, torch.device("cuda")) == plan_workers(4, None, CPU, ["__main__:net"]) == WorkerPlan(1, 2)
    )
    assert plan_workers(4, None, CPU, ["package:net"]) == WorkerPlan(2, 1)
    with pytest.raises(InputError, match="2 workers were asked for, but one process feeds cuda; leave --workers out"):
        plan_workers(5, 2, torch.device("cuda"))
    with pytest.raises(InputError, match="'__main__:net' is defined in the script itself"):
        plan_workers(5, 2, CPU, ["__main__:net"])


@pytest.mark.parametrize("asked", [0, -1])
def test_less_than_one_worker_is_refused(asked: int) -> None:
    with pytest.raises(InputError, match=f"{asked} workers were asked for; choose --workers of 1 or more"):
        plan_workers(5, asked, CPU)


def test_a_number_of_threads_that_was_named_stands_whatever_the_cores_are(
    monkeypatch: pytest.MonkeyPatch, threads: None
) -> None:
    """A run that goes on within a smaller quota is divided as before, so that its bits stay."""
    torch.set_num_threads(8)
    plans = []
    for cores in (8, 1):
        monkeypatch.setattr(parallel, "cores", lambda cores=cores: cores)
        with parallel.limited(4):
            plans.append(plan_workers(100, None, CPU))
    assert plans == [WorkerPlan(4, 1)] * 2
    assert parallel.Named.threads is None
    assert parallel.own_threads() == 1, "and a new one takes no more than there are"


def test_workers_stay_one_per_core_whatever_a_step_takes(monkeypatch: pytest.MonkeyPatch, threads: None) -> None:
    """Beside busy processes a step in this process has fewer threads; the bits of experts must not follow that."""
    torch.set_num_threads(4)
    monkeypatch.setattr(parallel, "cores", lambda: 4)
    quiet = [plan_workers(jobs, asked, CPU) for jobs in (1, 5, 8) for asked in (None, 2)]
    with parallel.limited(1, divided=4):
        assert torch.get_num_threads() == 1
        assert [plan_workers(jobs, asked, CPU) for jobs in (1, 5, 8) for asked in (None, 2)] == quiet
    assert (torch.get_num_threads(), parallel.Named.threads) == (4, None)


def test_workers_wait_a_bounded_time_unless_the_user_said_how(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, str]] = []

    class Started(subprocess.Popen[bytes]):
        def __init__(self, *words: Any, env: dict[str, str], **how: Any) -> None:
            given.append(env)
            super().__init__(*words, env=env, **how)

    monkeypatch.setattr(parallel.subprocess, "Popen", Started)
    for name in NAMED_BY_USERS:
        monkeypatch.delenv(name, raising=False)
    for own in ({}, {"OMP_WAIT_POLICY": "ACTIVE"}):
        for name, value in own.items():
            monkeypatch.setenv(name, value)
        processes = _Processes(NotedBar())
        processes.start(1)
        processes.stop()
    assert [env.get("GOMP_SPINCOUNT") for env in given] == [str(SPINS), None]


def test_processes_are_started_for_long_work_or_when_asked_for() -> None:
    quick, slow = training_seconds(10, 240, 243, 64), training_seconds(15 * 300, 15 * 300 * 100, 320_010, 1024)
    assert quick < 1 < 60 < slow
    automatic = WorkerPlan(2, 1)
    assert automatic.starts(5, slow)
    assert not automatic.starts(5, quick)
    assert not automatic.starts(1, slow)
    assert TWO.starts(2, quick)
    assert not TWO.starts(1, slow)
    assert not WorkerPlan(1, 2, requested=True).starts(5, slow)


def test_one_process_has_the_threads_of_a_worker_and_gives_them_back(threads: None) -> None:
    torch.set_num_threads(2)
    shown = NotedBar()
    with pool(jobs.square, torch.ones(3), WorkerPlan(2, 1), shown, 3, 0.1) as run:
        assert list(run([1, 2])) == [(1, (3.0, os.getpid(), 1)), (2, (12.0, os.getpid(), 1))]
    assert torch.get_num_threads() == 2
    assert shown.done == 3


def test_workers_share_the_jobs_and_tell_their_steps() -> None:
    shown = NotedBar()
    with pool(jobs.square, torch.ones(3), TWO, shown, 4, 0.1) as run:
        found = dict(run([1, 2, 3, 4]))
        assert shown.done == 10
        again = dict(run([5]))
    assert {job: value for job, (value, _, _) in found.items()} == {1: 3, 2: 12, 3: 27, 4: 48}
    assert again[5][0] == 75
    processes = {process for _, process, _ in found.values()}
    assert len(processes) == 2
    assert os.getpid() not in processes
    assert {threads for _, _, threads in found.values()} == {1}
    assert set(shown.notes) == {f"job {job}" for job in range(1, 6)}


def test_tensors_arrive_as_they_lie_and_writing_into_them_reaches_nobody() -> None:
    whole = torch.arange(48.0).reshape(2, 2, 3, 4)
    dense = {
        "plain": whole,
        "last": whole.contiguous(memory_format=torch.channels_last),
        "turned": whole[0, 0].T,
        "half": whole.to(torch.bfloat16),
        "labels": torch.tensor([3, 1, 2]),
        "yes": torch.tensor([True, False]),
        "scalar": torch.tensor(0.25),
        "empty": torch.zeros(0, 3),
    }
    sparse = {"strided": whole[:, :, :, ::2], "expanded": torch.ones(1, 3).expand(4, 3)}
    text = io.BytesIO()
    with nameless_file() as memory:
        TensorPickler(text, memory).dump({**dense, **sparse, "again": whole})
        memory.flush()
        assert memory.seek(0, io.SEEK_END) == 944  # each of them once
        one, two = (TensorUnpickler(io.BytesIO(text.getvalue()), memory.fileno()).load() for _ in range(2))
    for name, tensor in {**dense, **sparse}.items():
        assert torch.equal(one[name], tensor), name
        assert one[name].dtype == tensor.dtype
        assert one[name].data_ptr() % 64 == 0 or name == "empty"
        assert name in sparse or one[name].stride() == tensor.stride(), name
    one["plain"].fill_(7)
    assert torch.equal(two["plain"], whole)
    assert torch.equal(two["again"], whole)


@pytest.mark.slow
def test_an_error_of_a_job_is_raised_here_and_stops_the_other_workers() -> None:
    with (
        pytest.raises(InputError, match=r"^lower --this$") as raised,
        pool(jobs.fail, None, TWO, NotedBar(), 2, 0) as run,
    ):
        list(run(["waits", "input"]))
    assert type(raised.value) is InputError


def test_errors_keep_their_kind_and_say_where_they_come_from() -> None:
    for error in (InputError("lower --this"), DivergedError("not finite")):
        assert sendable(error) is error
        assert not hasattr(error, "__notes__")
    with pytest.raises(jobs.Odd) as raised:
        jobs.fail(None, "odd", NotedBar())
    sent = sendable(raised.value)
    assert type(sent) is RuntimeError
    assert str(sent) == "Odd: odd 7"
    assert "in fail" in sent.__notes__[0]
    full = pickle.loads(pickle.dumps(sendable(OSError(errno.ENOSPC, "No space left on device", "a/file"))))
    assert (full.errno, full.filename) == (errno.ENOSPC, "a/file")


@pytest.mark.slow
def test_a_pipe_that_is_closed_under_its_reader_is_a_worker_that_is_gone() -> None:
    """As a signal in the middle of the start may leave it: no traceback of a thread behind the sentence that says how
    to go on."""
    processes = _Processes(NotedBar())
    with subprocess.Popen([sys.executable, "-c", ""], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.close()
        processes._started.append(worker)
        processes._read(0)
    assert processes._inbox.get() == (0, "gone", None)
    processes._memory.close()


def test_a_killed_worker_is_one_sentence() -> None:
    words = (
        "^One of 2 workers was killed by SIGKILL, as happens when memory runs out.*run the same again with fewer "
        "of them: --workers 1.$"
    )
    with pytest.raises(InputError, match=words), pool(jobs.fail, None, TWO, NotedBar(), 2, 0) as run:
        list(run(["waits", "killed"]))


def test_a_worker_that_ends_itself_does_not_blame_memory() -> None:
    words = "^One of 2 workers ended with code 3; the reason, if it gave one, is printed above.*--workers 1.$"
    with pytest.raises(InputError, match=words), pool(jobs.fail, None, TWO, NotedBar(), 2, 0) as run:
        list(run(["waits", "ends"]))


OF_A_USER = """
class Word(str):
    pass
"""


def test_jobs_of_a_users_class_are_read_after_its_module_can_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module was typed, and lies in the current folder, which no worker searches. What all jobs share may be of its
    classes as well."""
    (tmp_path / "of_a_user.py").write_text(OF_A_USER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "of_a_user", raising=False)
    with typed(["--trust", "of_a_user"]):
        word = import_name("of_a_user:Word")
        with pool(jobs.echo, None, TWO, NotedBar(), 2, 0) as run:
            assert sorted(each for _, each in run([word("a"), word("b")], word("common"))) == ["common a", "common b"]


def test_a_job_that_a_worker_cannot_read_is_an_error_like_any_other() -> None:
    with (
        pytest.raises(RuntimeError, match=r"^unreadable here\n"),
        pool(jobs.echo, None, TWO, NotedBar(), 2, 0) as run,
    ):
        list(run([jobs.Unreadable(), jobs.Unreadable()], "common"))


SCRIPT = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
import jobs
from astdistill.runtime.progress import Bar
from astdistill.runtime.parallel import WorkerPlan, pool
class Told(Bar):
    def step(self, units=1, note=""):
        print(note, flush=True)
with pool(jobs.hold, Path({folder!r}), WorkerPlan(2, 1, requested=True), Told("", 2, 0, None), 2, 0) as run:
    list(run([0, 1]))
"""


@pytest.mark.slow
def test_no_worker_outlives_its_parent(tmp_path: Path) -> None:
    """Nor does a script without `if __name__ == "__main__"` run twice. The system frees a lock when its process
    dies."""
    script = tmp_path / "holding.py"
    script.write_text(SCRIPT.format(path=[str(Path(__file__).parent)], folder=str(tmp_path)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        assert [parent.stdout.readline() for _ in range(2)] == [b"held\n"] * 2
        parent.kill()
        assert parent.stderr.read() == b""  # its end comes when the workers, who hold it too, are gone
    for job in (0, 1):
        with lock(tmp_path / f"{job}.lock", wait=False) as free:
            assert free


def test_a_worker_whose_parent_went_away_while_it_started_says_nothing() -> None:
    ended = subprocess.run(worker_command(), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
