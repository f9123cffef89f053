"""An outer step whose trajectories several workers share: the bits of one process, whatever happens to a worker."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forking
import pytest
import torch
from jobs import Fateful, fail, unsendable
from problems import same_set
from short_methods import AST, DATM, with_numbers

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import load
from astdistill.distillation import sharing
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.sharing import HERE, plan_step
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.initialisation import ExpertLabels
from astdistill.methods.segments import Perturbation
from astdistill.runtime import parallel, ranks
from astdistill.runtime.cluster import Cluster, clustered
from astdistill.runtime.devices import own_gpu
from astdistill.runtime.errors import DivergedError, InputError, LostError
from astdistill.runtime.files import read_lines
from astdistill.runtime.machine import LAUNCHED, rank, world
from astdistill.runtime.parallel import WorkerPlan
from astdistill.runtime.progress import Bar

FOUR = with_numbers(
    AST.replace(name="soft", labels=ExpertLabels(), learn=("images", "targets", "lr"), ema_decay=0.9), trajectories=4
)
"""Everything that can be learned, by four trajectories."""
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run folder of one process."""
    out = tmp_path_factory.mktemp("whole")
    distill(dataset, experts, method=FOUR, ipc=2, settings=settings.replace(validate_every=4), out=out)
    return out


def check_same(out: Path, whole: Path) -> None:
    assert same_set(load(out / "synthetic.safetensors"), load(whole / "synthetic.safetensors"))
    assert read_lines(out / "metrics.jsonl") == read_lines(whole / "metrics.jsonl")


def test_two_workers_give_the_bits_of_one_process_resumed_and_shared_or_not(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = list[str]()
    monkeypatch.setattr(sharing, "tell", said.append)
    settings = settings.replace(validate_every=4)
    for until, workers in ((3, 2), (5, None), (8, 2)):
        part = settings.replace(iterations=until)
        distill(dataset, experts, method=FOUR, ipc=2, settings=part, out=tmp_path / "out", workers=workers)
    check_same(tmp_path / "out", whole)
    assert said == ["Each outer step is shared by 2 workers: 4 trajectories, each computed by 1 thread."] * 2
    distill(dataset, experts, method=FOUR, ipc=2, settings=settings, out=tmp_path / "out", workers=2)
    assert len(said) == 2, "no worker is started where nothing is left to do"


def test_three_workers_share_four_trajectories_of_textures(
    dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    method, settings = with_numbers(DATM, trajectories=4), settings.replace(factor=2, iterations=2)
    one = distill(dataset, experts, method=method, ipc=1, settings=settings)
    assert same_set(one, distill(dataset, experts, method=method, ipc=1, settings=settings, workers=3))


def test_a_worker_that_is_killed_is_one_sentence_and_the_run_goes_on(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    (tmp_path / "leader").write_text(str(os.getpid()))
    method = FOUR.replace(perturb=Fateful(folder=str(tmp_path)))
    how: dict[str, Any] = {"method": method, "ipc": 2, "settings": settings}
    with pytest.raises(LostError, match=r"^One of 2 workers was killed by SIGKILL, .*run the same again with fewer"):
        distill(dataset, experts, out=tmp_path / "cut", workers=2, **how)
    distill(dataset, experts, out=tmp_path / "cut", workers=2, **how)
    distill(dataset, experts, out=tmp_path / "one", **how)
    check_same(tmp_path / "cut", tmp_path / "one")


@pytest.mark.parametrize(("what", "kind"), [("input", InputError), ("diverged", DivergedError)])
def test_errors_of_workers_keep_their_type_and_their_words(
    what: str,
    kind: type[Exception],
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
) -> None:
    (tmp_path / "leader").write_text(str(os.getpid()))
    method = with_numbers(AST, trajectories=4).replace(perturb=Fateful(folder=str(tmp_path), what=what))
    with pytest.raises(kind, match=r"^as it stands$"):
        distill(dataset, experts, method=method, ipc=2, settings=settings, workers=2)


class OfTheScript(Perturbation):
    """Stands in for one that is defined in a script."""


def test_what_other_processes_do_not_import_is_refused(
    tmp_path: Path,
    dataset: Dataset,
    experts: TrajectoryStore,
    settings: DistillSettings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(OfTheScript, "__module__", "__main__")
    method = FOUR.replace(perturb=OfTheScript())
    with pytest.raises(
        InputError, match=r"but '__main__:OfTheScript' is defined in the script itself.*leave --workers"
    ):
        distill(dataset, experts, method=method, settings=settings, out=tmp_path / "out", workers=2)
    assert not (tmp_path / "out").exists()


def test_who_shares_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for workers in (None, 1):
        assert plan_step(FOUR, "convnet-d1-w4", workers, CPU) == HERE
    assert plan_step(with_numbers(FOUR, trajectories=1), "convnet-d1-w4", 2, CPU) == HERE
    assert plan_step(FOUR, "convnet-d1-w4", 6, CPU) == WorkerPlan(4, 1, requested=True)
    with clustered(Cluster("node1:1", threads=3)):
        assert plan_step(FOUR, "convnet-d1-w4", None, CPU) == WorkerPlan(4, 3, requested=True)
        with pytest.raises(InputError, match="and torchrun has started 2 ranks; start the command without torchrun"):
            plan_step(FOUR, "convnet-d1-w4", None, CPU, launched=2)
    assert plan_step(FOUR, "convnet-d1-w4", None, CPU, launched=3) == WorkerPlan(3, 1, requested=True)


def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is none here: the cards are counted by a stand-in."""
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert plan_step(FOUR, "convnet-d1-w4", 2, cuda) == WorkerPlan(2, 1, requested=True)
    assert plan_step(FOUR, "convnet-d1-w4", None, cuda) == HERE
    with pytest.raises(InputError, match="4 workers were asked for, but each takes a GPU of its own, and this process"):
        plan_step(FOUR, "convnet-d1-w4", 4, cuda)
    with pytest.raises(InputError, match="2 workers were asked for, but one process feeds cuda:1"):
        plan_step(FOUR, "convnet-d1-w4", 2, torch.device("cuda", 1))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [own_gpu(number)["CUDA_VISIBLE_DEVICES"] for number in (0, 1)] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, 5")
    started = list[str]()

    class Started:
        stdin = stdout = None

        def __init__(self, words: Sequence[str], env: dict[str, str], **_: Any) -> None:
            started.append(env["CUDA_VISIBLE_DEVICES"])

    monkeypatch.setattr(subprocess, "Popen", Started)
    monkeypatch.setattr(parallel._Processes, "_read", lambda *_: None)
    processes = parallel._Processes(Bar("", 0, 0, None))
    processes.start(2, gpu=True)
    processes._memory.close()
    assert started == ["3", "5"]


RANK = """
import sys
sys.path[:0] = [{tests!r}]
import json, jobs, torch
from pathlib import Path
from problems import blobs
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.methods.method import Method
from astdistill.runtime.machine import rank
from astdistill.runtime.progress import be_quiet
torch.set_num_threads(1)
be_quiet(True)
experts = TrajectoryStore.open({store!r})
method = Method.model_validate(json.loads(Path({method!r}).read_text()))
settings = DistillSettings.model_validate(json.loads(Path({settings!r}).read_text()))
synthetic = distill(blobs(validation=0.25), experts, method=method, ipc=2, settings=settings, out=Path({out!r}))
torch.save([synthetic.images, synthetic.targets, synthetic.lr], Path({out!r}).with_name(f"rank{{rank()}}.pt"))
"""


def launched(words: Sequence[str], count: int) -> list[tuple[int, str]]:
    """Exit codes and last words of so many processes with the environment that torchrun would give them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [own | {"RANK": str(number), "LOCAL_RANK": str(number)} for number in range(count)]
    started = [subprocess.Popen(words, env=os.environ | each, stderr=subprocess.PIPE) for each in environments]
    said = [each.communicate(timeout=120)[1].decode() for each in started]
    return [(each.returncode, words) for each, words in zip(started, said, strict=True)]


@pytest.fixture
def script(tmp_path: Path, experts: TrajectoryStore, settings: DistillSettings) -> list[str]:
    """What each rank runs: a call of `distill` with the method that the test writes into the folder."""
    (tmp_path / "settings").write_text(json.dumps(settings.replace(validate_every=4).to_json()))
    places = {name: str(tmp_path / name) for name in ("out", "method", "settings")}
    text = RANK.format(tests=str(Path(__file__).parents[1]), store=str(experts.folder), **places)
    return [sys.executable, "-c", f"{forking.FORKED}{text}"]


def test_two_ranks_of_torchrun_give_the_bits_of_one_process(tmp_path: Path, script: list[str], whole: Path) -> None:
    (tmp_path / "method").write_text(json.dumps(FOUR.to_json()))
    ended = launched(script, 2)
    assert [code for code, _ in ended] == [0, 0], ended
    check_same(tmp_path / "out", whole)
    wanted = load(whole / "synthetic.safetensors")
    for number in (0, 1):
        images, targets, lr = torch.load(tmp_path / f"rank{number}.pt")
        assert torch.equal(images, wanted.images)
        assert torch.equal(targets, wanted.targets)
        assert torch.equal(lr, wanted.lr)


def test_a_rank_that_ends_is_one_sentence_and_an_error_is_that_of_all(tmp_path: Path, script: list[str]) -> None:
    (tmp_path / "leader").write_text("none")
    sentences = {}
    for what in ("killed", "input"):
        (tmp_path / "done").unlink(missing_ok=True)
        method = FOUR.replace(perturb=Fateful(folder=str(tmp_path), what=what))
        (tmp_path / "method").write_text(json.dumps(method.to_json()))
        sentences[what] = launched(script, 2)
    codes = [code for code, _ in sentences["killed"]]
    assert -signal.SIGKILL in codes
    assert any(
        "LostError: One of 2 ranks of torchrun ended, as happens when" in words for _, words in sentences["killed"]
    )
    assert all("InputError: as it stands" in words for _, words in sentences["input"])


@pytest.mark.parametrize(("work", "words"), [(fail, "Odd: odd 7"), (unsendable, "lambda")])
def test_what_rank_0_cannot_pickle_is_sent_as_an_error(work: Callable[..., object], words: str) -> None:
    """Raised instead, it would leave the other ranks waiting for the end of the round."""
    results = ranks._own_results(work, None, ["odd", "odd"], None)
    assert len(results) == 2
    for each in results:
        (kind, error), _ = pickle.loads(each)
        assert kind == "error"
        assert words in str(error)
        assert "In a worker:" in error.__notes__[0]


def test_rank_0_alone_runs_a_command(tmp_path: Path) -> None:
    """And says what is wrong with it; the others end with it."""
    ended = launched([sys.executable, "-m", "astdistill", "distill", "nothing"], 2)
    assert [code for code, _ in ended] == [2, 0]
    assert ended[0][1].startswith("astdistill: There is no preset 'nothing'")
    assert "astdistill:" not in ended[1][1]


def test_ranks_are_told_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    assert (world(), rank()) == (1, 0)
    for name, value in zip(LAUNCHED, ("1", "2", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert (world(), rank()) == (2, 1)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(InputError, match="The environment has RANK=first, which is no number; start with torchrun"):
        rank()
