"""Jobs on a Ray cluster of a head and two nodes of one core, whatever is killed on the way: the bits of one machine.

Each process of a job takes three seconds to start, so tests that end processes or nodes come last.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jobs
import numpy as np
import pytest
from problems import TINY, TINY_RECIPE, blobs, same_set, same_store
from short_methods import AST, with_numbers

from astdistill.cli.main import main
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.report.sweep import Sweep
from astdistill.runtime import cluster as engine
from astdistill.runtime.cluster import Cluster, clustered, folder_visibility, imported, sites, used
from astdistill.runtime.errors import DivergedError, InputError, LostError
from astdistill.runtime.parallel import WorkerPlan, pool
from astdistill.runtime.progress import Bar
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.status import read_status

# Found, not imported: Ray reads its environment when it is imported.
pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed: pip install 'astdistill[cluster]'"),
    pytest.mark.filterwarnings("ignore"),
]
LONG = TINY_RECIPE.replace(epochs=40)
"""A recipe that takes some seconds, in which something can be killed."""
ONE_CORE: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}


class Nodes:
    """The cluster of this module, whose nodes can be killed and started again."""

    def __init__(self) -> None:
        self.started: Any = import_module("ray.cluster_utils").Cluster(
            initialize_head=True, head_node_args={**ONE_CORE, "num_cpus": 0, "include_dashboard": False}
        )
        self.address: str = self.started.address
        self.running: list[Any] = []
        self.killed: list[Any] = []
        self.fill()

    def fill(self) -> None:
        """Start nodes until there are two, and forget those that were killed."""
        while self.killed:
            self.started.remove_node(self.killed.pop(), allow_graceful=False)
        while len(self.running) < 2:
            self.running.append(self.started.add_node(**ONE_CORE))

    def kill(self, worker: int = 0) -> None:
        """SIGKILL one node, as it stands: its raylet, with which its workers end. It is the last one, or that of a
        worker's process."""
        raylets = {node.all_processes["raylet"][0].process.pid: node for node in self.running}
        raylet = list(raylets)[-1]
        if worker:
            raylet = next(
                int(line.split()[1])
                for line in Path(f"/proc/{worker}/status").read_text().splitlines()
                if line.startswith("PPid:")
            )
        self.running.remove(raylets[raylet])
        os.kill(raylet, signal.SIGKILL)
        self.killed.append(raylets[raylet])


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """With a token, without which nobody is let in."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef" * 4)
        patch.setenv("RAY_AUTH_MODE", "token")
        # Ray's processes stand back by 15, and beside others they would take minutes to start.
        patch.setenv("RAY_worker_niceness", "0")
        # A node keeps the processes that it has started, so that the next test need not start others.
        patch.setenv("RAY_num_workers_soft_limit", "4")
        # A node that is killed is missed after 5 s; Ray's own patience is three times as long.
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_initial_delay_ms", "1000")
        imported()
        started = Nodes()
        yield started
        started.started.shutdown()


@pytest.fixture(scope="module")
def connected(nodes: Nodes) -> Iterator[Nodes]:
    """The same, which this process has joined for all tests, as a program that uses Ray itself: no new processes."""
    ray = imported()
    ray.init(address=nodes.address, log_to_driver=False, logging_level="ERROR")
    yield nodes
    assert ray.is_initialized(), "one of the tests left a cluster that it had not joined"
    ray.shutdown()


@pytest.fixture
def joined(connected: Nodes) -> Nodes:
    """With two nodes, whatever the test before has killed."""
    connected.fill()
    return connected


class Counted(Bar):
    """A bar that nobody sees."""

    def __init__(self) -> None:
        super().__init__("", 100, 0, None)


@contextmanager
def running(nodes: Nodes, work: Any, shared: Any, bar: Bar | None = None) -> Iterator[Any]:
    """A function from jobs to their results."""
    with (
        clustered(Cluster(nodes.address)),
        pool(work, shared, WorkerPlan(2, 1, requested=True), bar or Counted(), 2, 0.0) as run,
    ):
        yield run


def experts(folder: Path, recipe: Any = LONG, count: int = 3, **how: Any) -> TrajectoryStore:
    return train_experts(blobs(), model=TINY, recipe=recipe, count=count, store=folder, **how)


@pytest.fixture(scope="module")
def of_one_machine(tmp_path_factory: pytest.TempPathFactory) -> TrajectoryStore:
    return experts(tmp_path_factory.mktemp("one"), workers=1)


def epochs_done(folder: Path) -> int:
    """Lines that experts have written of their epochs."""
    log = next(iter(folder.rglob("log.jsonl")), None)
    if log is None:
        return 0
    return len(log.read_bytes().splitlines())


def when(done: Callable[[], object], act: Callable[[], None], seconds: float = 40) -> threading.Thread:
    """Do something once something else is done, in a thread."""

    def wait() -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def test_the_cluster_of_this_machine_is_found_and_left_again(nodes: Nodes) -> None:
    """Before any other test has joined it."""
    with clustered(Cluster("auto")):
        there = used()
        assert there is not None
        there.join()
        assert [site.places(1, gpu=False) for site in sites()].count(1) == 2
    assert not imported().is_initialized()


def test_an_address_where_nobody_listens_is_said_at_once(nodes: Nodes) -> None:
    with pytest.raises(InputError, match="No cluster answers at --cluster localhost:1 "):
        Cluster("localhost:1").connect()


def test_scores_of_two_nodes_are_those_of_one_machine(joined: Nodes) -> None:
    dataset, recipe = blobs(), MTT_PROTOCOL.replace(epochs=3)
    one = evaluate(dataset.train, dataset, recipe=recipe, model=TINY, seeds=3, workers=1)
    two = evaluate(dataset.train, dataset, recipe=recipe, model=TINY, seeds=3, cluster="auto")
    assert one == two


def test_a_store_of_two_nodes_is_that_of_one_machine(joined: Nodes, tmp_path: Path) -> None:
    """With a user's network, and images in a file."""
    dataset, recipe = blobs(memory="disk"), TINY_RECIPE.replace(epochs=3)
    one = train_experts(dataset, model="jobs:factory", recipe=recipe, count=3, store=tmp_path / "one", workers=1)
    two = train_experts(
        dataset, model="jobs:factory", recipe=recipe, count=3, store=tmp_path / "two", cluster=joined.address
    )
    assert same_store(one, two)
    assert sorted(path.name for path in two.folder.iterdir()) == sorted(path.name for path in one.folder.iterdir())


def test_a_job_has_the_threads_that_were_named_and_counts_its_steps(joined: Nodes) -> None:
    bar = Counted()
    with running(joined, jobs.square, blobs().train.labels[:4], bar) as run:
        found = dict(run([1, 2, 3]))
    assert [found[job][0] for job in (1, 2, 3)] == [3.0, 12.0, 27.0]
    assert {threads for _, _, threads in found.values()} == {1}
    assert os.getpid() not in {process for _, process, _ in found.values()}
    assert bar.done == 6


def test_errors_keep_their_type_and_their_words(joined: Nodes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^lower --this$"), running(joined, jobs.fail, None) as run:
        list(run(["fine", "input"]))
    with pytest.raises(RuntimeError, match="Odd: odd 7"), running(joined, jobs.fail, None) as run:
        list(run(["odd"]))
    hot = TINY_RECIPE.replace(lr=1e30)
    with pytest.raises(DivergedError, match=r"^Expert 0 of .* stopped being finite in epoch 0 .*kept\.$"):
        experts(tmp_path, hot, count=1, cluster=joined.address)


def test_nodes_that_would_compute_other_bits_are_named(joined: Nodes) -> None:
    other = Cluster(joined.address, probe=jobs.own_engine)
    wanted = rf"2 of 2 nodes would not compute the same bits .*engine of process \d+ \(here of process {os.getpid()}\)"
    with pytest.raises(InputError, match=wanted), clustered(other):
        other.connect()
    mixed = Cluster(joined.address, mixed=True, probe=jobs.own_engine)
    with clustered(mixed), pool(jobs.fail, None, WorkerPlan(1, 1), Counted(), 1, 0.0) as run:
        assert list(run(["fine"])) == [("fine", "fine")]


def test_more_threads_than_any_node_has_are_refused(joined: Nodes) -> None:
    wide = Cluster(joined.address, threads=2)
    with pytest.raises(InputError, match=r"has 2 CPUs for a job; start one: .* or lower --threads"), clustered(wide):
        wide.connect()


def test_nodes_see_a_shared_folder_and_its_locks(joined: Nodes, tmp_path: Path) -> None:
    there = Cluster(joined.address)
    with clustered(there):
        there.connect()
        assert list(folder_visibility(sites(), tmp_path).values()) == [{"seen": "yes", "locked": "yes"}] * 2
        assert not list(tmp_path.iterdir())


def test_a_driver_without_the_token_is_told_so(joined: Nodes, tmp_path: Path) -> None:
    script = f"""
        from astdistill.runtime.cluster import Cluster
        Cluster({joined.address!r}).connect()
    """
    bare = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=bare | {"HOME": str(tmp_path), "RAY_AUTH_MODE": "token"},
    )
    assert "asks for a token that this process does not have" in done.stderr, done.stderr


def test_the_doctor_names_every_node(
    joined: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--cluster", "auto", "--json"]) == 0
    found = {each["name"]: each for each in json.loads(capsys.readouterr().out)["findings"]}
    able = [site for site in sites() if site.places(1, gpu=False)]
    assert len(able) == 2
    assert found.keys() == {"cluster", *(f"node {site.number[:8]}{part}" for site in able for part in ("", ", folder"))}
    for site in able:
        told = found[f"node {site.number[:8]}"]
        assert told["state"] == "good"
        assert {
            word for word in ("torch", "instruction set", "engine", "compiler") if word not in told["text"]
        } == set()
        assert found[f"node {site.number[:8]}, folder"]["text"].endswith("is shared, and locks are seen")


def pictures(path: Path) -> str:
    """A few in a file, which need no further package, as those of digits do in every process."""
    labels = np.arange(10).repeat(4)
    drawn = np.random.default_rng(0).integers(0, 256, (2, 40, 8, 8), dtype=np.uint8)
    np.savez(path, train_images=drawn[0], train_labels=labels, test_images=drawn[1], test_labels=labels)
    return str(path)


def test_a_preset_takes_its_experts_and_its_scores_from_the_nodes(
    joined: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by one thread, whatever the driver has."""
    monkeypatch.chdir(tmp_path)
    short = "--experts.count 2 --method.expert.epochs 3 --method.step.max-start-epoch 1 --distill.iterations 2"
    short += " --method.step.syn-steps 2 --evaluation.recipe.epochs 2 --evaluation.networks 2 --init real"
    words = ["run", "digits-ipc1", "--data", pictures(tmp_path / "own.npz"), *short.split()]
    words += ["--evaluation.baselines", "random"]
    placed: list[int] = []
    begin = engine._Tasks._begin

    def noted(tasks: Any, tried: Any) -> None:
        placed.append(tried.number)
        begin(tasks, tried)

    monkeypatch.setattr(engine._Tasks, "_begin", noted)
    assert main([*words, "--out", "far", "--experts.store", "store", "--cluster", joined.address, "-q"]) == 0
    assert sorted(placed) == [0, 0, 1, 1, 2, 3], "two experts, and two networks of two rows"
    assert main([*words, "--out", "near", "--experts.store", "here", "--threads", "1", "-q"]) == 0
    assert (tmp_path / "far/scores.json").read_text() == (tmp_path / "near/scores.json").read_text()


def test_a_node_that_is_killed_inside_a_row_of_a_sweep_changes_no_bit(
    joined: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a method without experts, whose other jobs are tested above."""
    monkeypatch.chdir(tmp_path)
    begun: list[int] = []
    begin = engine._Tasks._begin

    def noted(tasks: Any, tried: Any) -> None:
        begun.append(tried.attempt)
        begin(tasks, tried)

    def under_way() -> list[Path]:
        return [log for log in Path("far").glob("*/metrics.jsonl") if log.read_bytes().count(b"\n") >= 10]

    def kill() -> None:
        status = read_status(RunDir(under_way()[0].parent).live)
        assert status is not None
        joined.kill(status[1]["pid"])

    monkeypatch.setattr(engine._Tasks, "_begin", noted)
    changes = "model=convnet-d1-w4 distill.iterations=100 evaluation.recipe.epochs=2 evaluation.networks=1"
    words = ["sweep", "digits-ipc1", "--methods", "dm", "--seeds", "2", "--set", *changes.split()]
    words += ["evaluation.baselines=", f"data.source={pictures(tmp_path / 'own.npz')}"]
    killer = when(under_way, kill)
    assert main([*words, "distill.checkpoint_seconds=0", "-q", "--out", "far", "--cluster", joined.address]) == 0
    killer.join()
    assert max(begun) == 1, "the node took no row with it"
    assert main([*words, "-q", "--out", "near", "--threads", "1", "--workers", "1"]) == 0
    far, near = Sweep.read(tmp_path / "far"), Sweep.read(tmp_path / "near")
    assert far is not None
    assert near is not None
    assert [row.accuracies for row in far.rows] == [row.accuracies for row in near.rows]
    assert [row.state for row in far.rows] == ["finished"] * 2
    for row in far.rows:
        logs = [(tmp_path / place / row.folder / "metrics.jsonl").read_text() for place in ("far", "near")]
        assert logs[0] == logs[1]


def test_a_driver_that_is_killed_is_run_again(joined: Nodes, tmp_path: Path, of_one_machine: TrajectoryStore) -> None:
    script = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parents[1])]!r}
        from pathlib import Path
        from problems import TINY, TINY_RECIPE, blobs
        from astdistill.experts.training import train_experts
        train_experts(blobs(), model=TINY, recipe=TINY_RECIPE.replace(epochs=40), count=3,
                      store=Path({str(tmp_path)!r}), cluster={joined.address!r})
    """
    driver = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stderr=subprocess.PIPE)
    when(lambda: epochs_done(tmp_path) >= 10, driver.kill).join()
    _, said = driver.communicate()
    assert driver.returncode == -signal.SIGKILL, said.decode()
    assert 0 < epochs_done(tmp_path) < 120
    assert same_store(experts(tmp_path, cluster=joined.address), of_one_machine)
    assert epochs_done(tmp_path) < 120 + 30, "it went on from the last whole epochs"


def test_the_trajectories_of_a_step_are_jobs_and_one_that_dies_is_begun_again(
    joined: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[tuple[int, int]] = []
    begin = engine._Tasks._begin

    def noted(tasks: Any, tried: Any) -> None:
        placed.append((tried.number, tried.attempt))
        begin(tasks, tried)

    monkeypatch.setattr(engine._Tasks, "_begin", noted)
    (tmp_path / "leader").write_text(str(os.getpid()))
    method = with_numbers(AST, trajectories=4).replace(perturb=jobs.Fateful(folder=str(tmp_path)))
    settings = DistillSettings(iterations=3, lr_img=20.0, lr_init=0.05, augmentation="flip_scale")
    store = experts(tmp_path, TINY_RECIPE, count=1, workers=1)
    far = distill(blobs(), store, method=method, ipc=2, settings=settings, cluster=joined.address)
    assert sorted(number for number, attempt in placed if not attempt) == sorted(list(range(4)) * 3)
    assert max(attempt for _, attempt in placed) >= 1, "no job died"
    assert same_set(far, distill(blobs(), store, method=method, ipc=2, settings=settings))


def test_a_node_that_is_killed_in_the_middle_of_an_expert_changes_no_bit(
    joined: Nodes, tmp_path: Path, of_one_machine: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    begin = engine._Tasks._begin

    def noted(tasks: Any, tried: Any) -> None:
        begun.append(tried.attempt)
        begin(tasks, tried)

    monkeypatch.setattr(engine._Tasks, "_begin", noted)
    killer = when(lambda: epochs_done(tmp_path) >= 10, joined.kill)
    found = experts(tmp_path, cluster=joined.address)
    killer.join()
    assert max(begun) >= 1, "the node took no expert with it"
    assert same_store(found, of_one_machine)


def test_a_job_that_always_dies_is_one_sentence(connected: Nodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the node that the test before has left."""
    monkeypatch.setattr(engine, "RETRIES", 1)  # each takes the start of a process
    with (
        pytest.raises(
            LostError, match=r"A job ended its process or lost its node 2 times \(\w+\), as happens when"
        ) as lost,
        running(connected, jobs.fail, None) as run,
    ):
        list(run(["killed"]))
    assert lost.value.job == "killed"


def test_where_all_nodes_are_gone_the_command_says_so_and_waits(
    connected: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the test before, one is left."""
    said: list[str] = []

    def tell(text: str) -> None:
        said.append(text)
        connected.fill()

    monkeypatch.setattr(engine, "tell", tell)
    monkeypatch.setattr(engine, "PATIENCE_S", 0.5)
    monkeypatch.setattr(engine, "TURN_S", 0.1)  # nodes are counted every second
    with running(connected, jobs.square, blobs().train.labels[:4]) as run:
        while connected.running:
            connected.kill()
        found = dict(run([1, 2, 3]))
    assert [found[job][0] for job in (1, 2, 3)] == [3.0, 12.0, 27.0]
    assert said == ["No node of the cluster can take a job of 1 CPUs; waiting for one."]
