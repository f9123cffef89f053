"""Jobs on the nodes of a Ray cluster: the same seam as the processes of one machine (`parallel.pool`).

Ray is imported where a cluster is used, and nowhere else.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import pickle
import platform
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from .errors import InputError, LostError
from .files import NO_LOCKS, lock
from .machine import cores
from .owners import new_tag
from .progress import Bar, be_quiet, tell
from .provenance import instructions, processor, versions
from .text import in_one_line
from .trust import take_over, words_of_trust
from .worker import TensorPickler, TensorUnpickler, nameless_file, sendable, with_common

KEEPALIVE_MS = "5000"
"""A node whose power fails says nothing: without such questions and answers a call to it would wait for ever."""
ENVIRONMENT = {
    "RAY_grpc_client_keepalive_time_ms": KEEPALIVE_MS,
    "RAY_grpc_client_keepalive_timeout_ms": KEEPALIVE_MS,
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""What Ray reads when it is imported; a user's own values stay."""
TOKEN = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
RETRIES = 3
"""How often a job is begun again whose process or node was lost. What it had finished is in its files."""
ANSWER_S = 90.0
"""How long a node may take to say what it is: it starts a process and imports torch, from a network's disk perhaps."""
TURN_S = 0.5
"""How long the driver waits for a result before it looks at the progress; how often a job says how far it is."""
PATIENCE_S = 30.0
"""After so long without a node that can take a job, the user is told that one is waited for."""
LAST_WORDS_S = 5.0
"""How long a file, or its lock, may take to be seen on another node: network file systems ask every few seconds."""
TELLS = "host", "address", "cores", "processor", "compiler"
"""What is shown of a node, and does not decide the bits of a result."""


@dataclass(frozen=True)
class Site:
    """A node of the cluster that runs."""

    number: str
    """Ray's name for it, 56 hexadecimal digits."""
    host: str
    address: str
    resources: Mapping[str, float] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.host} ({self.address}, node {self.number[:8]})"

    def places(self, threads: int, gpu: bool) -> int:
        """How many jobs of so many threads it can take at once, each with a GPU of its own where they need one."""
        count = int(self.resources.get("CPU", 0) // threads)
        if gpu:
            count = min(count, int(self.resources.get("GPU", 0)))
        return count


def nothing() -> dict[str, str]:
    """What a node has of an engine, where nobody asks."""
    return {}


@dataclass
class Cluster:
    """A Ray cluster, and how jobs are computed on it. It is looked for once it is used.

    `address` is "auto", for that which this machine is a node of, or HOST:PORT of the head node. `threads` are those of
    one job, never a node's cores, so that no bit depends on the node. `probe`, a function that other processes can
    import, says which engine a node has. Nodes that would compute other bits than this process are refused, unless
    `mixed`.
    """

    address: str = "auto"
    threads: int = 1
    mixed: bool = False
    probe: Callable[[], Mapping[str, str]] = nothing
    _joined: bool = field(default=False, init=False)
    _own: bool = field(default=False, init=False)
    _fit: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.threads < 1:
            raise InputError(f"{self.threads} threads were asked for; choose --threads of 1 or more.")

    def connect(self, gpu: bool = False) -> None:
        """Find the cluster, and its nodes fit for the work. Raises InputError where there is none, and names nodes that
        would compute other bits, or that cannot compute at all."""
        if self._fit:
            return
        self.join()
        able = [site for site in sites() if site.places(self.threads, gpu)]
        if not able:
            need = f"{self.threads} CPU{'s' * (self.threads > 1)}{' and a GPU' * gpu}"
            raise InputError(
                f"No node of the cluster {self.address} has {need} for a job; start one: ray start --address "
                f"HOST:PORT --num-cpus {self.threads}, or lower --threads."
            )
        self._check(able)
        self._fit = True

    def join(self) -> None:
        """Find the cluster, whatever its nodes are. Raises InputError where there is none."""
        ray = imported()
        if not ray.is_initialized():
            self._own = True
            _join(ray, self.address)
        self._joined = True

    def close(self) -> None:
        """Leave the cluster, unless the caller's own program had joined it before."""
        if self._own and self._joined:
            imported().shutdown()
        self._joined = self._own = self._fit = False

    def look(self, able: Sequence[Site]) -> dict[Site, dict[str, str]]:
        """What each node says of itself; of one that cannot, "fault" says why."""

        def said(probe: bytes, path: list[str]) -> dict[str, str]:
            # Sent whole, not by name, so that it can say that the package is not there.
            import sys

            sys.path.extend(place for place in path if place not in sys.path)
            try:
                import pickle

                from astdistill.runtime.cluster import facts

                return facts(pickle.loads(probe))
            except Exception as error:
                return {"fault": f"{type(error).__name__}: {error}"}

        return ask(said, able, pickle.dumps(self.probe), sys.path)

    def _check(self, able: Sequence[Site]) -> None:
        here, answers = facts(self.probe), self.look(able)
        broken = [f"{site}: {told['fault']}" for site, told in answers.items() if "fault" in told]
        if broken:
            raise InputError(
                f"{len(broken)} of {len(able)} nodes cannot compute: {'; '.join(broken)}. Install the same astdistill "
                "there, or take them out of the cluster: ray stop."
            )
        other = [f"{site} has {wrong}" for site, told in answers.items() if (wrong := differences(told, here))]
        if other and self.mixed:
            tell(f"Nodes that compute other bits take part: {'; '.join(other)}.")
        elif other:
            raise InputError(
                f"{len(other)} of {len(able)} nodes would compute other bits than this process: {'; '.join(other)}. "
                "Give all the same, or accept results that depend on the node with --allow-mixed."
            )

    def check_shared(self, folder: Path) -> None:
        """Raise InputError unless every node that takes jobs sees what this process writes into `folder`."""
        blind = [str(site) for site, told in seen_by(sites(), folder).items() if told["seen"] != "yes"]
        if blind:
            raise InputError(
                f"{folder} is not the same folder on {'; '.join(blind)}; name one that all nodes share, or train "
                "without a cluster: astdistill experts PRESET --shard 1/2 on one machine, --shard 2/2 on another."
            )

    @contextmanager
    def pool(self, work: Any, shared: Any, progress: Bar, gpu: bool) -> Iterator[Callable[[Sequence[Any]], Any]]:
        """As `parallel.pool`, on the nodes."""
        self.connect(gpu)
        tasks = _Tasks(self, progress, gpu)
        try:
            tasks.prepare(work, shared)
            yield tasks.run
        finally:
            tasks.stop()


_USED: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


def used() -> Cluster | None:
    """The cluster that jobs go to now; None for this machine."""
    return _USED.get()


@contextmanager
def clustered(cluster: Cluster | None) -> Iterator[None]:
    """Inside the block, jobs go to this cluster; None leaves the surroundings' choice."""
    if cluster is None:
        yield
        return
    before = _USED.set(cluster)
    try:
        yield
    finally:
        _USED.reset(before)
        cluster.close()


def check_address(address: str) -> None:
    """Raise InputError for what is neither "auto" nor HOST:PORT."""
    if address.startswith("ray://"):
        raise InputError(
            f"--cluster {address} would send everything through Ray Client, which loses the work when the line breaks; "
            "run the command on the cluster: ray job submit --address http://HEAD:8265 -- astdistill … --cluster auto"
        )
    if address != "auto" and not re.fullmatch(r"[^\s:/]+:[0-9]{1,5}", address):
        raise InputError(f"--cluster {address} was given; write auto, or HOST:PORT of the head node: node1:6379.")


def imported() -> Any:
    """Ray, told before that nodes may vanish and that nobody counts its use. Raises InputError where it is not
    installed."""
    if "ray" not in sys.modules:
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if any(map(os.environ.get, TOKEN)) or os.path.exists(os.path.expanduser("~/.ray/auth_token")):
            os.environ.setdefault("RAY_AUTH_MODE", "token")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("ray")
    except ImportError as error:
        raise InputError(
            f"--cluster needs Ray, which cannot be imported ({error}); run: pip install 'astdistill[cluster]'"
        ) from error


def _join(ray: Any, address: str) -> None:
    """Connect this process. Raises InputError where that cannot be."""
    if address != "auto":
        _check_listens(address)
    with _own_signals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its own next version
        try:
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
        except ray.exceptions.AuthenticationError as error:
            raise InputError(
                f"The cluster {address} asks for a token that this process does not have; copy the head node's "
                "~/.ray/auth_token here, or set RAY_AUTH_TOKEN_PATH, with RAY_AUTH_MODE=token."
            ) from error
        except (ConnectionError, RuntimeError, ValueError) as error:
            why = in_one_line(error)
            raise InputError(
                f"No Ray cluster was found at '{address}' from here ({why}); make this machine a node of it: ray start "
                "--head, or ray start --address HOST:PORT; or run the command there with ray job submit."
            ) from error


def _check_listens(address: str) -> None:
    """Raise InputError where nobody listens: Ray itself would try for a minute."""
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"Nobody answers at --cluster {address} ({error}); name the head node's HOST:PORT, which `ray start "
            "--head` printed, or auto on a machine that is a node."
        ) from error


@contextmanager
def _own_signals() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself; whoever had it gets it back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def sites() -> list[Site]:
    """The nodes that run, in Ray's order."""
    return [
        Site(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"])
        for node in imported().nodes()
        if node["Alive"]
    ]


def ask(function: Callable[..., dict[str, str]], able: Sequence[Site], *given: Any) -> dict[Site, dict[str, str]]:
    """What a function says on each node; of one that gives no answer, "fault" says why. It needs none of a node's CPUs,
    so that it does not wait for jobs."""
    ray = imported()
    pinned = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    task = ray.remote(function)
    asked = {
        task.options(num_cpus=0, max_retries=1, scheduling_strategy=pinned(site.number, soft=False)).remote(
            *given
        ): site
        for site in able
    }
    ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    answers = dict[Site, dict[str, str]]()
    for answer, site in asked.items():
        try:
            answers[site] = ray.get(answer, timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            answers[site] = {"fault": f"it did not answer in {ANSWER_S:.0f} s"}
        except ray.exceptions.RayError as error:
            answers[site] = {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return _without_lost(answers)


def _without_lost(answers: dict[Site, dict[str, str]]) -> dict[Site, dict[str, str]]:
    """The answers without those of nodes that have left the cluster since they were listed: they are gone, not broken.
    Where no node is left, all of them."""
    alive = {site.number for site in sites()}
    left = {site: told for site, told in answers.items() if "fault" not in told or site.number in alive}
    return left or answers


def facts(probe: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """What decides the bits that this process computes: versions, code, instruction set, engine; and what `TELLS`
    names."""
    return {
        "host": platform.node(),
        "cores": str(cores()),
        "processor": processor(),
        "Python": platform.python_version(),
        **versions(),
        "code": _code(),
        "instruction set": instructions(),
        **probe(),
    }


def differences(told: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """What differs of that which decides bits, in words; '' where nothing does."""
    names = [name for name in {**wanted, **told} if name not in TELLS and wanted.get(name) != told.get(name)]
    return ", ".join(f"{name} {told.get(name, 'none')} (here {wanted.get(name, 'none')})" for name in names)


@cache
def _code() -> str:
    """Twelve digits of the package's own source: two checkouts may have one version."""
    state, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".c", ".h"):
            state.update(path.relative_to(package).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()[:12]


def seen_by(able: Sequence[Site], folder: Path) -> dict[Site, dict[str, str]]:
    """Whether each node sees a file that this process makes in `folder` ("seen"), and that this process has locked it
    ("locked"): yes, no, or why that cannot be known."""
    place = (folder / f".cluster-{new_tag()}.lock").resolve()
    able, ours = [site for site in able if site.resources.get("CPU")], "yes"
    try:
        with lock(place, wait=True):
            answers = ask(_sees, able, str(place), True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        ours = f"the file system has no locks ({error.strerror})"
        answers = ask(_sees, able, str(place), False)
    finally:
        place.unlink(missing_ok=True)
    return {site: {"seen": "no", "locked": ours} | told for site, told in answers.items()}


def _sees(path: str, locked: bool) -> dict[str, str]:
    """On a node: whether the file is there, and whether another process is known to hold its lock."""
    end, place = time.monotonic() + LAST_WORDS_S, Path(path)
    while not place.exists():
        if time.monotonic() > end:
            return {"seen": "no"}
        time.sleep(0.1)
    if not locked:
        return {"seen": "yes"}
    try:
        with lock(place, wait=False) as held:
            return {"seen": "yes", "locked": {True: "no", False: "yes"}[held]}
    except OSError as error:
        return {"seen": "yes", "locked": error.strerror or str(error)}


class ClusterPickler(TensorPickler):
    """For another machine: what lies in a file says itself how it is found there (`elsewhere`)."""

    def reducer_override(self, obj: Any) -> Any:
        elsewhere = getattr(obj, "elsewhere", None)
        if isinstance(obj, type) or elsewhere is None:
            return super().reducer_override(obj)
        return elsewhere()


class Order(NamedTuple):
    """What every job of one pool is told."""

    name: str
    """No other pool has it."""
    folder: str
    """Where the driver works; relative paths start there."""
    path: list[str]
    threads: int
    trust: tuple[frozenset[str], frozenset[str]]
    facts: dict[str, str] | None
    """What a node must have; None where any will do."""
    probe: Callable[[], Mapping[str, str]]
    text: bytes
    """The pickled work, and what is shared."""


def order_of(
    work: Any, shared: Any, threads: int, wanted: dict[str, str] | None, probe: Callable[[], Mapping[str, str]]
) -> tuple[bytes, np.ndarray]:
    """The pickled `Order` of a pool, and the bytes of the tensors that its jobs share."""
    text = io.BytesIO()
    with nameless_file() as memory:
        ClusterPickler(text, memory).dump((work, shared))
        memory.seek(0)
        tensors = np.frombuffer(memory.read() or b"\0", dtype=np.uint8)
    order = Order(
        name=os.urandom(16).hex(),
        folder=os.getcwd(),
        path=list(sys.path),
        threads=threads,
        trust=words_of_trust(),
        facts=wanted,
        probe=probe,
        text=text.getvalue(),
    )
    return pickle.dumps(order), tensors


class Prepared:
    """Holds the last work that this process has read, and what all its jobs share."""

    name = ""
    work: Any = None
    shared: Any = None


def job(
    order: bytes, memory: np.ndarray, given: bytes, common: bytes | None, board: Any, number: int, attempt: int
) -> bytes:
    """On a node: one job, and what it gave or raised; with it the steps that it counted in all."""
    steps = _Steps(board, number, attempt)
    be_quiet(True)
    try:
        known: Order = pickle.loads(order)
        _prepare(known, memory)
        torch.set_num_threads(known.threads)
        value = with_common(pickle.loads(given), common and pickle.loads(common))
        answer = "done", Prepared.work(Prepared.shared, value, steps)
        return pickle.dumps((answer, steps.counted))
    except BaseException as error:
        return pickle.dumps((("error", sendable(error)), steps.counted))


def _prepare(order: Order, memory: np.ndarray) -> None:
    """Read what the jobs of this pool share, once for each process."""
    if Prepared.name == order.name:
        return
    try:
        os.chdir(order.folder)
    except OSError as error:
        raise InputError(
            f"{platform.node()} does not have the folder {order.folder}, in which the command runs ({error.strerror}); "
            "run it in a folder that all nodes share."
        ) from error
    sys.path.extend(place for place in order.path if place not in sys.path)
    if order.facts is not None and (wrong := differences(facts(order.probe), order.facts)):
        raise InputError(
            f"{platform.node()} joined the cluster and would compute other bits: {wrong}. Give it the same, or accept "
            "results that depend on the node with --allow-mixed."
        )
    take_over(order.trust)
    Prepared.name = ""
    Prepared.work, Prepared.shared = TensorUnpickler(io.BytesIO(order.text), memory).load()
    Prepared.name = order.name


class _Steps(Bar):
    """The bar of a job: it tells the driver's node now and then, and waits for no answer."""

    def __init__(self, board: Any, number: int, attempt: int) -> None:
        super().__init__("", 0, 0, None)
        self.counted = {"step": 0, "skip": 0}
        self._board, self._who, self._told = board, (number, attempt), 0.0

    def step(self, units: int = 1, note: str = "") -> None:
        self._count("step", units, note)

    def skip(self, units: int) -> None:
        self._count("skip", units, "")

    def _count(self, kind: str, units: int, note: str) -> None:
        self.counted[kind] += units
        if time.monotonic() - self._told >= TURN_S:
            self._told = time.monotonic()
            with suppress(Exception):  # whatever Ray says of a driver that is gone: the result is what counts
                self._board.say.remote(*self._who, dict(self.counted), note)


def _board(ray: Any, node: str) -> Any:
    """An actor on the driver's node that keeps what jobs say of their progress until the driver reads it."""

    class Board:  # inside, so that it is sent whole and its process imports nothing of ours
        def __init__(self) -> None:
            self.said: dict[tuple[int, int], Any] = {}

        def say(self, number: int, attempt: int, counted: dict[str, int], note: str) -> None:
            self.said[number, attempt] = counted, note

        def take(self) -> dict[tuple[int, int], Any]:
            said, self.said = self.said, {}
            return said

    pinned = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=pinned(node, soft=True)).remote()


@dataclass
class _Try:
    """One job under way."""

    number: int
    attempt: int = 0
    counted: dict[str, int] = field(default_factory=lambda: {"step": 0, "skip": 0})
    """Of its steps, those that the bar has counted."""


class _Tasks:
    """The jobs of one pool, and what is known of them."""

    def __init__(self, cluster: Cluster, progress: Bar, gpu: bool) -> None:
        self._ray, self._cluster, self._progress, self._gpu = imported(), cluster, progress, gpu
        self._board = _board(self._ray, self._ray.get_runtime_context().get_node_id())
        self._words: Any = None
        """Progress that was asked for and has not come yet."""
        self._under_way: dict[Any, _Try] = {}
        self._jobs: Sequence[Any] = ()
        self._room, self._looked, self._full = 0, 0.0, time.monotonic()
        self._order: Any = None
        self._memory: Any = None
        self._common: Any = None
        self._task = self._ray.remote(job).options(
            num_cpus=cluster.threads, num_gpus=int(gpu), max_retries=0, scheduling_strategy="SPREAD"
        )

    def prepare(self, work: Any, shared: Any) -> None:
        """Put what all jobs share where each node fetches it once."""
        wanted = None
        if not self._cluster.mixed:
            wanted = facts(self._cluster.probe)
        order, memory = order_of(work, shared, self._cluster.threads, wanted, self._cluster.probe)
        self._memory = self._ray.put(memory)
        self._order = self._ray.put(order)

    def run(self, jobs: Sequence[Any], common: Any = None) -> Iterator[tuple[Any, Any]]:
        self._jobs, waiting, self._common = jobs, deque(range(len(jobs))), None
        if common is not None:
            self._common = self._ray.put(pickle.dumps(common))
        while waiting or self._under_way:
            places = self._places()  # also where all are handed out: it says that no node is left
            while waiting and len(self._under_way) < places:
                self._begin(_Try(waiting.popleft()))
            ended, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=TURN_S)
            self._listen()
            for task in ended:
                tried = self._under_way.pop(task)
                if (answer := self._answer(task, tried)) is None:
                    continue
                (kind, value), counted = answer
                self._count(tried, counted, "")
                if kind == "error":
                    raise value
                yield jobs[tried.number], value

    def stop(self) -> None:
        """End all jobs that are left, and forget what they shared."""
        with suppress(self._ray.exceptions.RayError):
            for task in self._under_way:
                self._ray.cancel(task, force=True)
            self._ray.kill(self._board)
        self._under_way.clear()
        self._order = self._memory = self._common = self._words = None

    def _places(self) -> int:
        """How many jobs are handed out at once: twice as many as the nodes can take, so that none waits for the
        driver, and no more, so that the first of them are begun first."""
        now = time.monotonic()
        if now - self._looked > 10 * TURN_S:
            self._looked = now
            self._room = sum(site.places(self._cluster.threads, self._gpu) for site in sites())
            if self._room:
                self._full = now
            elif now - self._full > PATIENCE_S:
                self._full = now
                tell(f"No node of the cluster can take a job of {self._cluster.threads} CPUs; waiting for one.")
        return max(1, 2 * self._room)

    def _begin(self, tried: _Try) -> None:
        given = pickle.dumps(self._jobs[tried.number])
        task = self._task.remote(
            self._order, self._memory, given, self._common, self._board, tried.number, tried.attempt
        )
        self._under_way[task] = tried

    def _answer(self, task: Any, tried: _Try) -> Any:
        """What the job gave; None where its process or node was lost and it is begun again. Raises LostError where
        that has happened too often."""
        try:
            return pickle.loads(self._ray.get(task))
        except self._ray.exceptions.RayTaskError as error:
            why = " ".join(str(error).split())[-300:]
            raise InputError(
                f"A node could not begin a job ({why}); install the same astdistill on every node, and see: astdistill "
                f"doctor --cluster {self._cluster.address}"
            ) from error
        except self._ray.exceptions.RayError as error:
            if tried.attempt >= RETRIES:
                lost = LostError(
                    f"A job ended its process or lost its node {RETRIES + 1} times ({type(error).__name__}), as "
                    "happens when memory runs out. What is finished is kept; start the nodes with fewer jobs at once "
                    "(ray start --num-cpus), and run the same again."
                )
                lost.job = self._jobs[tried.number]
                raise lost from error
        self._progress.skip(-sum(tried.counted.values()))
        self._begin(_Try(tried.number, tried.attempt + 1))
        return None

    def _listen(self) -> None:
        """Take over the progress that has arrived; nobody waits for what has not."""
        if self._words is None:
            self._words = self._board.take.remote()
        if not self._ray.wait([self._words], timeout=0)[0]:
            return
        words, self._words = self._words, None
        with suppress(self._ray.exceptions.RayError):
            said = self._ray.get(words)
            for tried in self._under_way.values():
                if (tried.number, tried.attempt) in said:
                    self._count(tried, *said[tried.number, tried.attempt])

    def _count(self, tried: _Try, counted: Mapping[str, int], note: str) -> None:
        """Bring the bar to what a job has counted in all."""
        fresh = {kind: counted[kind] - tried.counted[kind] for kind in counted}
        if fresh["skip"] > 0:
            self._progress.skip(fresh["skip"])
        if fresh["step"] > 0:
            self._progress.step(fresh["step"], note)
        tried.counted = {kind: max(counted[kind], tried.counted[kind]) for kind in counted}
