"""What the package does with a cluster's answers, whatever they are: with a stand-in for Ray, in this process."""

from __future__ import annotations

import errno
import importlib
import io
import itertools
import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jobs
import pytest
import standing_in
import torch
from problems import TINY, TINY_RECIPE, NotedBar, blobs, same_store
from standing_in import AuthenticationError, GetTimeoutError, Ray, RayTaskError, WorkerCrashedError

from astdistill.cli.main import main
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate
from astdistill.experts.training import train_experts
from astdistill.runtime import cluster as engine
from astdistill.runtime.cluster import Cluster, ClusterPickler, Prepared, clustered, folder_visibility, imported, sites
from astdistill.runtime.errors import InputError
from astdistill.runtime.parallel import WorkerPlan, pool
from astdistill.runtime.progress import Bar
from astdistill.runtime.worker import nameless_file, on_own_gpu

ANY = WorkerPlan(2, 1, requested=True)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ray]:
    before = torch.get_num_threads()
    yield standing_in.installed(monkeypatch)
    torch.set_num_threads(before)
    Prepared.name, Prepared.work, Prepared.shared = "", None, None


@contextmanager
def running(work: Any, shared: Any, bar: Bar | None = None, **words: Any) -> Iterator[Callable[[Sequence[Any]], Any]]:
    """A function from jobs to their results."""
    with clustered(Cluster(**words)), pool(work, shared, ANY, bar or NotedBar(), 2, 0.0) as run:
        yield run


def test_jobs_are_computed_with_the_threads_that_were_named_and_their_steps_counted(ray: Ray) -> None:
    bar = NotedBar()
    with running(jobs.square, torch.ones(3), bar) as run:
        found = dict(run([1, 2, 3]))
    assert {job: (value, threads) for job, (value, _, threads) in found.items()} == {
        1: (3.0, 1),
        2: (12.0, 1),
        3: (27.0, 1),
    }
    assert bar.done == 6
    assert "job 1" in bar.notes, "what a job says on its way is shown"
    assert not ray.joined, "it leaves a cluster that it has joined itself"
    assert ray.options[-1]["num_cpus"] == 1


def test_a_cluster_that_the_program_has_joined_is_not_left(ray: Ray) -> None:
    ray.init("own")
    with running(jobs.fail, None) as run:
        assert list(run(["fine"])) == [("fine", "fine")]
    assert ray.joined
    assert ray.addresses == ["own"]


def test_a_lost_job_is_begun_again_and_its_steps_count_once(ray: Ray, tmp_path: Path) -> None:
    bar = NotedBar()
    (tmp_path / "tried").touch()
    ray.lost = [WorkerCrashedError("gone")] * engine.RETRIES
    with running(jobs.dies_once, tmp_path, bar) as run:
        assert sorted(run([0, 1])) == [(0, 0), (1, 1)]
    assert bar.done == 10


def test_a_job_that_is_always_lost_or_cannot_begin_is_one_sentence(ray: Ray) -> None:
    ray.lost = [WorkerCrashedError("gone")] * (engine.RETRIES + 1)
    wanted = r"ended its process or lost its node 4 times \(WorkerCrashedError\), as happens"
    with pytest.raises(InputError, match=wanted), running(jobs.fail, None) as run:
        list(run(["fine"]))
    ray.lost = [RayTaskError("No module named\n'astdistill'")]
    wanted = (
        r"could not begin a job \(No module named 'astdistill'\); install the same astdistill on every node, and see"
    )
    with pytest.raises(InputError, match=wanted), running(jobs.fail, None) as run:
        list(run(["fine", "other"]))
    assert len(ray.cancelled) == 1, "the other job is ended"


def test_errors_of_jobs_keep_their_type_and_their_words(ray: Ray) -> None:
    with pytest.raises(InputError, match=r"^lower --this$"), running(jobs.fail, None) as run:
        list(run(["fine", "input"]))
    with pytest.raises(RuntimeError, match="Odd: odd 7"), running(jobs.fail, None) as run:
        list(run(["odd"]))


def test_progress_that_does_not_arrive_stops_nobody(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    bar, wait = NotedBar(), ray.wait

    def slow(answers: Sequence[Any], num_returns: int = 1, timeout: float | None = None) -> Any:
        if timeout == 0:
            return [], list(answers)
        return wait(answers, num_returns, timeout)

    monkeypatch.setattr(ray, "wait", slow)
    monkeypatch.setattr(Prepared, "name", "")
    with running(jobs.square, torch.ones(1), bar) as run:
        list(run([2]))
    assert (bar.done, bar.notes) == (2, [""]), "its steps come with its result"


def test_steps_that_a_job_skips_are_skipped_here(ray: Ray) -> None:
    bar = NotedBar()
    with running(skips, None, bar) as run:
        assert list(run([4])) == [(4, 4)]
    assert bar.done == 5


def skips(shared: None, job: int, progress: Bar) -> int:
    """A job, some of which was done before."""
    progress.skip(job)
    progress.step()
    return job


def test_nodes_that_would_compute_other_bits_are_named_or_told_of(
    ray: Ray, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    probes = iter([{"engine": "native"}, *[{"engine": "eager"}] * 2, {"engine": "native"}])
    monkeypatch.setattr(jobs, "own_engine", lambda: next(probes))
    wanted = r"2 of 2 nodes would not compute the same bits .*engine eager \(here native\).*Give all the same, or accept .*--allow"
    with pytest.raises(InputError, match=wanted), running(jobs.fail, None, probe=told):
        pass
    said = list[str]()
    monkeypatch.setattr(engine, "tell", said.append)
    probes = iter([{"engine": "native"}, *[{"engine": "eager"}] * 2])
    with running(jobs.fail, None, probe=told, mixed=True) as run:
        assert list(run(["fine"])) == [("fine", "fine")]
    assert said[0].startswith("Nodes whose results differ in the last bits take part: node1 (10.0.0.1, node ")


def told() -> dict[str, str]:
    return jobs.own_engine()


def broken() -> dict[str, str]:
    """Of a node on which the engine cannot be found."""
    if Prepared.name == "":
        Prepared.name = "asked here"
        return {}
    raise RuntimeError("no compiler")


def test_nodes_that_cannot_compute_are_named(ray: Ray) -> None:
    wanted = r"2 of 2 nodes cannot compute: node1 .*: RuntimeError: no compiler; node2 .*take them out of the cluster"
    with pytest.raises(InputError, match=wanted), running(jobs.fail, None, probe=broken):
        pass


def test_nodes_that_do_not_answer_are_named(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([GetTimeoutError("late"), WorkerCrashedError("out\nof memory")])

    def get(*_: Any, **__: Any) -> None:
        raise next(said)

    monkeypatch.setattr(ray, "get", get)
    found = list(engine.ask(lambda: {}, sites()).values())
    assert found == [{"fault": "it did not answer in 90 s"}, {"fault": "WorkerCrashedError: out of memory"}]


def test_a_node_that_is_lost_while_it_is_asked_is_no_broken_one(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    able, real = sites(), ray.get
    calls = itertools.count()

    def get(answer: Any, timeout: float | None = None) -> Any:
        if next(calls) == 1:
            ray.found[1] = {**ray.found[1], "Alive": False}
            raise WorkerCrashedError("the node is gone")
        return real(answer, timeout)

    monkeypatch.setattr(ray, "get", get)
    assert engine.ask(lambda: {"fine": "yes"}, able) == {able[0]: {"fine": "yes"}}


def test_a_node_that_joins_later_and_would_compute_other_bits_takes_no_job(
    ray: Ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = iter([*[{"engine": "native"}] * 4, {"engine": "eager"}])
    monkeypatch.setattr(jobs, "own_engine", lambda: next(probes))
    wanted = r"joined the cluster and would not compute the same bits: engine eager \(here native\)\. Give it the same, or accept"
    with pytest.raises(InputError, match=wanted), running(jobs.fail, None, probe=told) as run:
        list(run(["fine"]))


def test_a_node_without_the_folder_of_the_command_says_so(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    wanted = r"does not have the folder .*here, in which the command runs .*that all nodes share"
    with running(jobs.fail, None) as run:
        here.rmdir()
        with pytest.raises(InputError, match=wanted):
            list(run(["fine"]))


def test_too_few_cores_or_gpus_are_refused_and_waited_for_later(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"No node of the cluster auto has 2 CPUs for a job; start one: .*--num-cpus 2"
    ):
        Cluster(threads=2).connect()
    with pytest.raises(InputError, match="No node of the cluster auto has 1 CPU and a GPU for a job"):
        Cluster().connect(gpu=True)
    with pytest.raises(InputError, match="0 threads were asked for; choose --threads of 1 or more"):
        Cluster(threads=0)
    said = list[str]()
    monkeypatch.setattr(engine, "tell", said.append)
    monkeypatch.setattr(engine, "PATIENCE_S", -1.0)
    monkeypatch.setattr(engine, "TURN_S", -1.0)
    with running(jobs.fail, None) as run:
        ray.found = []
        assert list(run(["fine"])) == [("fine", "fine")]
    assert said[0] == "No node of the cluster can take a job of 1 CPUs; waiting for one."


def test_a_cluster_that_is_not_there_or_asks_for_a_token_is_one_sentence(ray: Ray) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for error, sentence in (
        (
            AuthenticationError("bad"),
            "The cluster auto asks for a token that this process does not have; copy the head",
        ),
        (ConnectionError("no\nhead"), r"No Ray cluster was found at 'auto' from here \(no head\); make this machine a"),
    ):
        ray.refuses = error
        with pytest.raises(InputError, match=sentence):
            Cluster().connect()
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_address_is_called_before_ray_would_try_for_a_minute(ray: Ray) -> None:
    with socket.socket() as there:
        there.bind(("localhost", 0))
        port = there.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"No cluster answers at --cluster localhost:{port} .* name the head node's HOST"
        ):
            Cluster(f"localhost:{port}").connect()
        there.listen()
        with running(jobs.fail, None, address=f"localhost:{port}") as run:
            assert list(run(["fine"])) == [("fine", "fine")]
    assert ray.addresses == [f"localhost:{port}"]


def test_ray_is_told_that_nodes_vanish_before_it_is_imported(ray: Ray, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*engine.ENVIRONMENT, "RAY_AUTH_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    monkeypatch.delitem(sys.modules, "ray")
    monkeypatch.setattr(importlib, "import_module", lambda name: ray)
    assert imported() is ray
    assert {name: os.environ[name] for name in engine.ENVIRONMENT} == engine.ENVIRONMENT
    assert os.environ["RAY_AUTH_MODE"] == "token"
    for name in (*engine.ENVIRONMENT, "RAY_AUTH_MODE"):
        monkeypatch.delenv(name)


def test_a_shared_folder_and_its_locks_are_seen_or_it_is_named(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(folder_visibility(sites(), tmp_path).values()) == [{"seen": "yes", "locked": "yes"}] * 2
    monkeypatch.setattr(engine, "LAST_WORDS_S", 0.0)
    assert engine._sees(str(tmp_path / "none"), locked=True) == {"seen": "no"}
    (tmp_path / "free").touch()
    assert engine._sees(str(tmp_path / "free"), locked=True) == {"seen": "yes", "locked": "no"}

    @contextmanager
    def no_locks(path: Path, wait: bool) -> Iterator[bool]:
        if wait:
            path.touch()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
        yield True

    with monkeypatch.context() as patch:
        patch.setattr(engine, "lock", no_locks)
        none = {"seen": "yes", "locked": "the file system has no locks (No locks available)"}
        assert list(folder_visibility(sites(), tmp_path).values()) == [none] * 2
        assert engine._sees(str(tmp_path / "free"), locked=True) == {"seen": "yes", "locked": "No locks available"}
        patch.setattr(engine, "NO_LOCKS", ())
        with pytest.raises(OSError, match="No locks available"):
            folder_visibility(sites(), tmp_path)
    monkeypatch.setattr(engine, "_sees", lambda *_: {"seen": "no"})
    with pytest.raises(
        InputError, match=r"is not the same folder on node1 .*; node2 .*; name one that all nodes share"
    ):
        Cluster().check_shared(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["free"]


def test_tensors_of_a_gpu_are_sent_as_those_of_the_first_one_there(monkeypatch: pytest.MonkeyPatch) -> None:
    moved = list[str]()

    def to(tensor: torch.Tensor, device: str) -> torch.Tensor:
        moved.append(device)
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "to", to)
    back = on_own_gpu(torch.ones(2), True)
    assert (moved, back.requires_grad, back.tolist()) == (["cuda"], True, [1.0, 1.0])
    text = io.BytesIO()
    with nameless_file() as memory:
        ClusterPickler(text, memory).dump(torch.device("cuda", 2))
    assert pickle.loads(text.getvalue()) == torch.device("cuda", 0)


def test_experts_and_scores_of_a_cluster_are_those_of_one_machine(ray: Ray, tmp_path: Path) -> None:
    dataset, recipe = blobs(), TINY_RECIPE.replace(epochs=2)
    one = train_experts(dataset, model=TINY, recipe=recipe, count=2, store=tmp_path / "one", workers=1)
    two = train_experts(dataset, model=TINY, recipe=recipe, count=2, store=tmp_path / "two", cluster="auto")
    assert same_store(one, two)
    protocol = MTT_PROTOCOL.replace(epochs=2)
    near = evaluate(dataset.train, dataset, recipe=protocol, model=TINY, seeds=2, workers=1)
    far = evaluate(dataset.train, dataset, recipe=protocol, model=TINY, seeds=2, cluster="auto")
    assert near == far


def test_the_doctor_names_every_node_and_what_is_wrong_with_it(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def found(code: int) -> list[tuple[str, str, str]]:
        assert main(["doctor", "--cluster", "auto", "--json"]) == code
        return [(each["name"], each["state"], each["text"]) for each in json.loads(capsys.readouterr().out)["findings"]]

    names = [f"node {site.number[:8]}" for site in sites()]
    good = found(0)
    assert [name for name, *_ in good] == ["cluster", names[0], f"{names[0]}, folder", names[1], f"{names[1]}, folder"]
    assert {state for _, state, _ in good} == {"good"}
    assert good[0][2] == "2 nodes that take jobs"
    assert good[2][2].endswith("is shared, and locks are seen")
    look = Cluster.look

    def other(self: Cluster, able: Sequence[engine.Site]) -> dict[engine.Site, dict[str, str]]:
        first, second = look(self, able).items()
        return dict([(first[0], {"fault": "no module"}), (second[0], {**second[1], "torch": "1.0"})])

    monkeypatch.setattr(Cluster, "look", other)
    told = iter([{"seen": "no"}, {"seen": "yes", "locked": "no"}])
    monkeypatch.setattr(engine, "_sees", lambda *_: next(told))
    bad = found(1)
    assert [state for _, state, _ in bad] == ["good", "bad", "note", "bad", "note"]
    assert bad[1][2].endswith("no module")
    assert bad[2][2].endswith("is not shared with node1")
    assert "would not compute the same bits: torch 1.0 (here" in bad[3][2]
    assert "its locks are not shared with node2: no" in bad[4][2]


TINY_WORDS = "--experts.count 2 --method.expert.epochs 2 --method.step.max-start-epoch 1 --method.step.expert-epochs 1 --model convnet-d1-w4 --data.per-class 4 --quiet"


def test_the_commands_give_their_jobs_to_the_nodes(
    ray: Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["digits-ipc1", *TINY_WORDS.split(), "--experts.store", "store", "--cluster", "auto"]
    assert main(["experts", *words, "--dry-run"]) == 0
    assert not ray.addresses, "what it would cost is told without the cluster"
    assert main(["experts", *words]) == 0
    assert len(ray.addresses) == 1
    assert [path.name for path in sorted((tmp_path / "store").glob("*/0*.safetensors"))] == [
        "000.safetensors",
        "001.safetensors",
    ]
    ray.found = []
    for verb in (["run", *words, "--out", "run"], ["evaluate", "nothing", "--cluster", "auto"]):
        assert main(verb) == 2
        assert "No node of the cluster auto has 1 CPU for a job" in " ".join(capsys.readouterr().err.split())
