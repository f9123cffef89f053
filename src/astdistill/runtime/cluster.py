"""Jobs on the nodes of a Ray cluster, with the same interface as the processes of one machine (`parallel.pool`).

Ray is imported only when a cluster is used.
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
from .trust import take_over, trusted_modules
from .worker import TensorPickler, TensorUnpickler, nameless_file, sendable, with_common

KEEPALIVE_MS = "5000"
"""Interval and timeout of gRPC's keepalive. A node that loses power sends nothing; without keepalive a call to it would
never return."""
ENVIRONMENT = {
    "RAY_grpc_client_keepalive_time_ms": KEEPALIVE_MS,
    "RAY_grpc_client_keepalive_timeout_ms": KEEPALIVE_MS,
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Variables that Ray reads on import; values set by the user stay."""
TOKEN = "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
RETRIES = 3
"""How often a job is restarted after its process or node was lost. What it had finished is in its files."""
ANSWER_S = 90.0
"""Seconds a node may take to report its facts: it starts a process and imports torch, possibly from a network disk."""
TURN_S = 0.5
"""Seconds for which the driver waits for a result before it reads the progress, and between two reports of a job."""
PATIENCE_S = 30.0
"""Seconds without a node that can take a job, after which the user is told that the driver is waiting."""
LAST_WORDS_S = 5.0
"""Seconds until a file, or its lock, is visible on another node: network file systems refresh every few seconds."""
INFORMATIVE = "host", "address", "cores", "processor", "compiler"
"""Facts about a node that are shown but do not decide the bits of a result."""


@dataclass(frozen=True)
class Site:
    """A node of the cluster that is alive."""

    number: str
    """Ray's ID of the node, 56 hexadecimal digits."""
    host: str
    address: str
    resources: Mapping[str, float] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.host} ({self.address}, node {self.number[:8]})"

    def places(self, threads: int, gpu: bool) -> int:
        """How many jobs of `threads` threads the node can run at once, with `gpu` each on a separate GPU."""
        count = int(self.resources.get("CPU", 0) // threads)
        if gpu:
            count = min(count, int(self.resources.get("GPU", 0)))
        return count


def nothing() -> dict[str, str]:
    """The default probe: an empty report about the engine."""
    return {}


@dataclass
class Cluster:
    """A Ray cluster on which jobs are computed. It connects on first use.

    `address` is "auto", for the cluster that this machine is a node of, or HOST:PORT of the head node. `threads` is the
    number of threads of one job; it never depends on a node's cores, so that no bit depends on the node. `probe`, a
    function that other processes can import, reports which engine a node has. Nodes that would compute other bits than
    this process are refused, unless `mixed`.
    """

    address: str = "auto"
    threads: int = 1
    mixed: bool = False
    probe: Callable[[], Mapping[str, str]] = nothing
    _joined: bool = field(default=False, init=False)
    _connected_here: bool = field(default=False, init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_address(self.address)
        if self.threads < 1:
            raise InputError(f"{self.threads} threads were asked for; choose --threads of 1 or more.")

    def connect(self, gpu: bool = False) -> None:
        """Connect, and check that nodes are fit for the work. Raises InputError if there is no cluster or no node that
        can take a job, and names nodes that would compute other bits, or that cannot compute at all."""
        if self._checked:
            return
        self.join()
        able = [site for site in sites() if site.places(self.threads, gpu)]
        if not able:
            need = f"{self.threads} CPU{'s' * (self.threads > 1)}{' and a GPU' * gpu}"
            raise InputError(
                f"No node of the cluster {self.address} has {need} for a job; start one: ray start --address "
                f"HOST:PORT --num-cpus {self.threads}, or lower --threads."
            )
        self._check_nodes(able)
        self._checked = True

    def join(self) -> None:
        """Connect without checking the nodes. Raises InputError if there is no cluster."""
        ray = imported()
        if not ray.is_initialized():
            self._connected_here = True
            _join(ray, self.address)
        self._joined = True

    def close(self) -> None:
        """Disconnect, unless the caller's program was connected before."""
        if self._connected_here and self._joined:
            imported().shutdown()
        self._joined = self._connected_here = self._checked = False

    def look(self, able: Sequence[Site]) -> dict[Site, dict[str, str]]:
        """The facts that each node reports; for a node that fails, "fault" holds the reason."""

        def report_facts(probe: bytes, path: list[str]) -> dict[str, str]:
            # Sent by value, not by name, so that it can report that the package is missing.
            import sys

            sys.path.extend(entry for entry in path if entry not in sys.path)
            try:
                import pickle

                from astdistill.runtime.cluster import facts

                return facts(pickle.loads(probe))
            except Exception as error:
                return {"fault": f"{type(error).__name__}: {error}"}

        return ask(report_facts, able, pickle.dumps(self.probe), sys.path)

    def _check_nodes(self, able: Sequence[Site]) -> None:
        expected, answers = facts(self.probe), self.look(able)
        broken = [f"{site}: {report['fault']}" for site, report in answers.items() if "fault" in report]
        if broken:
            raise InputError(
                f"{len(broken)} of {len(able)} nodes cannot compute: {'; '.join(broken)}. Install the same astdistill "
                "there, or take them out of the cluster: ray stop."
            )
        other = [
            f"{site} has {difference}"
            for site, report in answers.items()
            if (difference := differences(report, expected))
        ]
        if other and self.mixed:
            tell(f"Nodes whose results differ in the last bits take part: {'; '.join(other)}.")
        elif other:
            raise InputError(
                f"{len(other)} of {len(able)} nodes would not compute the same bits as this process: "
                f"{'; '.join(other)}. Give all the same, or accept results that depend on the node with --allow-mixed."
            )

    def check_shared(self, folder: Path) -> None:
        """Raise InputError unless every node that takes jobs sees the files that this process writes to `folder`."""
        blind = [str(site) for site, report in folder_visibility(sites(), folder).items() if report["seen"] != "yes"]
        if blind:
            raise InputError(
                f"{folder} is not the same folder on {'; '.join(blind)}; name one that all nodes share, or train "
                "without a cluster: astdistill experts PRESET --shard 1/2 on one machine, --shard 2/2 on another."
            )

    @contextmanager
    def pool(self, work: Any, shared: Any, progress: Bar, gpu: bool) -> Iterator[Callable[[Sequence[Any]], Any]]:
        """Like `parallel.pool`, on the nodes of the cluster."""
        self.connect(gpu)
        tasks = _Tasks(self, progress, gpu)
        try:
            tasks.prepare(work, shared)
            yield tasks.run
        finally:
            tasks.stop()


_USED: ContextVar[Cluster | None] = ContextVar("cluster", default=None)


def used() -> Cluster | None:
    """The cluster that jobs are currently sent to; None for this machine."""
    return _USED.get()


@contextmanager
def clustered(cluster: Cluster | None) -> Iterator[None]:
    """Send jobs to this cluster inside the block; None keeps the surrounding choice."""
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
    """Raise InputError unless the address is "auto" or HOST:PORT."""
    if address.startswith("ray://"):
        raise InputError(
            f"--cluster {address} would send everything through Ray Client, which loses the work when the connection "
            "is lost; run the command on the cluster: ray job submit --address http://HEAD:8265 -- astdistill … "
            "--cluster auto"
        )
    if address != "auto" and not re.fullmatch(r"[^\s:/]+:[0-9]{1,5}", address):
        raise InputError(f"--cluster {address} was given; write auto, or HOST:PORT of the head node: node1:6379.")


def imported() -> Any:
    """The module `ray`, imported with `ENVIRONMENT` set, so that lost nodes are noticed and no usage statistics are
    sent. Raises InputError if it is not installed."""
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
    """Connect this process. Raises InputError if that fails."""
    if address != "auto":
        _check_listens(address)
    with _restored_sigterm(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the next version of Ray
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
    """Raise InputError if nothing listens at the address: Ray itself would retry for a minute."""
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5.0).close()
    except (OSError, OverflowError) as error:
        raise InputError(
            f"No cluster answers at --cluster {address} ({error}); name the head node's HOST:PORT, which `ray start "
            "--head` printed, or auto on a machine that is a node."
        ) from error


@contextmanager
def _restored_sigterm() -> Iterator[None]:
    """Restore the handler of SIGTERM after the block: `ray.init` replaces it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


def sites() -> list[Site]:
    """The nodes that are alive, in Ray's order."""
    return [
        Site(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"], node["Resources"])
        for node in imported().nodes()
        if node["Alive"]
    ]


def ask(function: Callable[..., dict[str, str]], able: Sequence[Site], *arguments: Any) -> dict[Site, dict[str, str]]:
    """Call a function on each node and return its results; for a node without a result, "fault" holds the reason. The
    call reserves no CPUs of the node, so that it does not wait for jobs."""
    ray = imported()
    affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    task = ray.remote(function)
    pending = {
        task.options(num_cpus=0, max_retries=1, scheduling_strategy=affinity(site.number, soft=False)).remote(
            *arguments
        ): site
        for site in able
    }
    ray.wait(list(pending), num_returns=len(pending), timeout=ANSWER_S)
    answers = dict[Site, dict[str, str]]()
    for answer, site in pending.items():
        try:
            answers[site] = ray.get(answer, timeout=0.1)
        except ray.exceptions.GetTimeoutError:
            answers[site] = {"fault": f"it did not answer in {ANSWER_S:.0f} s"}
        except ray.exceptions.RayError as error:
            answers[site] = {"fault": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return _without_lost(answers)


def _without_lost(answers: dict[Site, dict[str, str]]) -> dict[Site, dict[str, str]]:
    """Drop the answers of nodes that have left the cluster since they were listed: they are gone, not broken. Returns
    all answers if no node is left."""
    alive = {site.number for site in sites()}
    remaining = {site: answer for site, answer in answers.items() if "fault" not in answer or site.number in alive}
    return remaining or answers


def facts(probe: Callable[[], Mapping[str, str]]) -> dict[str, str]:
    """What decides the bits that this process computes (versions, code, instruction set, engine), and the facts that
    `INFORMATIVE` names."""
    return {
        "host": platform.node(),
        "cores": str(cores()),
        "processor": processor(),
        "Python": platform.python_version(),
        **versions(),
        "code": _source_digest(),
        "instruction set": instructions(),
        **probe(),
    }


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """Describe the differences in facts that decide bits; '' if there are none."""
    names = [
        name for name in {**expected, **found} if name not in INFORMATIVE and expected.get(name) != found.get(name)
    ]
    return ", ".join(f"{name} {found.get(name, 'none')} (here {expected.get(name, 'none')})" for name in names)


@cache
def _source_digest() -> str:
    """Twelve digits of a digest of the package's source: two checkouts may have the same version."""
    state, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*")):
        if path.suffix in (".py", ".c", ".h"):
            state.update(path.relative_to(package).as_posix().encode())
            state.update(path.read_bytes())
    return state.hexdigest()[:12]


def folder_visibility(able: Sequence[Site], folder: Path) -> dict[Site, dict[str, str]]:
    """Whether each node sees a file that this process creates in `folder` ("seen"), and sees that this process holds
    its lock ("locked"): yes, no, or the reason why that cannot be known."""
    path = (folder / f".cluster-{new_tag()}.lock").resolve()
    able, locked = [site for site in able if site.resources.get("CPU")], "yes"
    try:
        with lock(path, wait=True):
            answers = ask(_sees, able, str(path), True)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        locked = f"the file system has no locks ({error.strerror})"
        answers = ask(_sees, able, str(path), False)
    finally:
        path.unlink(missing_ok=True)
    return {site: {"seen": "no", "locked": locked} | report for site, report in answers.items()}


def _sees(path: str, locked: bool) -> dict[str, str]:
    """On a node: whether the file exists, and whether another process holds its lock."""
    end, file = time.monotonic() + LAST_WORDS_S, Path(path)
    while not file.exists():
        if time.monotonic() > end:
            return {"seen": "no"}
        time.sleep(0.1)
    if not locked:
        return {"seen": "yes"}
    try:
        with lock(file, wait=False) as held:
            return {"seen": "yes", "locked": {True: "no", False: "yes"}[held]}
    except OSError as error:
        return {"seen": "yes", "locked": error.strerror or str(error)}


class ClusterPickler(TensorPickler):
    """Pickler for another machine. An object that is stored in a file defines `elsewhere`, which returns how to load it
    there."""

    def reducer_override(self, obj: Any) -> Any:
        elsewhere = getattr(obj, "elsewhere", None)
        if isinstance(obj, type) or elsewhere is None:
            return super().reducer_override(obj)
        return elsewhere()


class Order(NamedTuple):
    """What every job of one pool receives."""

    name: str
    """Unique to the pool."""
    folder: str
    """The driver's current folder, from which relative paths start."""
    path: list[str]
    threads: int
    trust: tuple[frozenset[str], frozenset[str]]
    facts: dict[str, str] | None
    """The facts that a node must have; None accepts any node."""
    probe: Callable[[], Mapping[str, str]]
    text: bytes
    """The pickled work, and what the jobs share."""


def order_of(
    work: Any, shared: Any, threads: int, expected: dict[str, str] | None, probe: Callable[[], Mapping[str, str]]
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
        trust=trusted_modules(),
        facts=expected,
        probe=probe,
        text=text.getvalue(),
    )
    return pickle.dumps(order), tensors


class Prepared:
    """The last work that this process has loaded, and what all its jobs share."""

    name = ""
    work: Any = None
    shared: Any = None


def job(
    order: bytes, memory: np.ndarray, pickled_job: bytes, common: bytes | None, board: Any, number: int, attempt: int
) -> bytes:
    """Run one job on a node. Returns the pickled pair of its result or error and the total steps it has counted."""
    steps = _Steps(board, number, attempt)
    be_quiet(True)
    try:
        loaded: Order = pickle.loads(order)
        _prepare(loaded, memory)
        torch.set_num_threads(loaded.threads)
        value = with_common(pickle.loads(pickled_job), common and pickle.loads(common))
        answer = "done", Prepared.work(Prepared.shared, value, steps)
        return pickle.dumps((answer, steps.counted))
    except BaseException as error:
        return pickle.dumps((("error", sendable(error)), steps.counted))


def _prepare(order: Order, memory: np.ndarray) -> None:
    """Load what the jobs of this pool share, once per process."""
    if Prepared.name == order.name:
        return
    try:
        os.chdir(order.folder)
    except OSError as error:
        raise InputError(
            f"{platform.node()} does not have the folder {order.folder}, in which the command runs ({error.strerror}); "
            "run it in a folder that all nodes share."
        ) from error
    sys.path.extend(entry for entry in order.path if entry not in sys.path)
    if order.facts is not None and (wrong := differences(facts(order.probe), order.facts)):
        raise InputError(
            f"{platform.node()} joined the cluster and would not compute the same bits: {wrong}. Give it the same, or "
            "accept results that depend on the node with --allow-mixed."
        )
    take_over(order.trust)
    Prepared.name = ""
    Prepared.work, Prepared.shared = TensorUnpickler(io.BytesIO(order.text), memory).load()
    Prepared.name = order.name


class _Steps(Bar):
    """Progress of a job, sent to the driver's node at most every `TURN_S` seconds, without waiting for an answer."""

    def __init__(self, board: Any, number: int, attempt: int) -> None:
        super().__init__("", 0, 0, None)
        self.counted = {"step": 0, "skip": 0}
        self._board, self._attempt, self._reported = board, (number, attempt), 0.0

    def step(self, units: int = 1, note: str = "") -> None:
        self._count("step", units, note)

    def skip(self, units: int) -> None:
        self._count("skip", units, "")

    def _count(self, kind: str, units: int, note: str) -> None:
        self.counted[kind] += units
        if time.monotonic() - self._reported >= TURN_S:
            self._reported = time.monotonic()
            with suppress(Exception):  # the driver may be gone; only the result matters
                self._board.post.remote(*self._attempt, dict(self.counted), note)


def _create_board(ray: Any, node: str) -> Any:
    """An actor on the driver's node that stores the progress of jobs until the driver reads it."""

    class Board:  # local, so that it is sent by value and its process does not import this package
        def __init__(self) -> None:
            self.reports: dict[tuple[int, int], Any] = {}

        def post(self, number: int, attempt: int, counted: dict[str, int], note: str) -> None:
            self.reports[number, attempt] = counted, note

        def take(self) -> dict[tuple[int, int], Any]:
            reports, self.reports = self.reports, {}
            return reports

    affinity = importlib.import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=affinity(node, soft=True)).remote()


@dataclass
class _Try:
    """One attempt at a job."""

    number: int
    attempt: int = 0
    counted: dict[str, int] = field(default_factory=lambda: {"step": 0, "skip": 0})
    """The steps of this attempt that the progress bar has counted."""


class _Tasks:
    """The jobs of one pool and their state."""

    def __init__(self, cluster: Cluster, progress: Bar, gpu: bool) -> None:
        self._ray, self._cluster, self._progress, self._gpu = imported(), cluster, progress, gpu
        self._board = _create_board(self._ray, self._ray.get_runtime_context().get_node_id())
        self._pending_progress: Any = None
        """Progress that was requested and has not arrived yet."""
        self._under_way: dict[Any, _Try] = {}
        self._jobs: Sequence[Any] = ()
        self._slots, self._checked_at, self._waiting_since = 0, 0.0, time.monotonic()
        self._order: Any = None
        self._memory: Any = None
        self._common: Any = None
        self._task = self._ray.remote(job).options(
            num_cpus=cluster.threads, num_gpus=int(gpu), max_retries=0, scheduling_strategy="SPREAD"
        )

    def prepare(self, work: Any, shared: Any) -> None:
        """Put what all jobs share into Ray's object store, from which each node fetches it once."""
        expected = None
        if not self._cluster.mixed:
            expected = facts(self._cluster.probe)
        order, memory = order_of(work, shared, self._cluster.threads, expected, self._cluster.probe)
        self._memory = self._ray.put(memory)
        self._order = self._ray.put(order)

    def run(self, jobs: Sequence[Any], common: Any = None) -> Iterator[tuple[Any, Any]]:
        self._jobs, waiting, self._common = jobs, deque(range(len(jobs))), None
        if common is not None:
            self._common = self._ray.put(pickle.dumps(common))
        while waiting or self._under_way:
            capacity = self._capacity()  # also if all jobs are submitted: it reports that no node is left
            while waiting and len(self._under_way) < capacity:
                self._begin(_Try(waiting.popleft()))
            ended, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=TURN_S)
            self._collect_progress()
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
        """Cancel all unfinished jobs, and release what they share."""
        with suppress(self._ray.exceptions.RayError):
            for task in self._under_way:
                self._ray.cancel(task, force=True)
            self._ray.kill(self._board)
        self._under_way.clear()
        self._order = self._memory = self._common = self._pending_progress = None

    def _capacity(self) -> int:
        """How many jobs are submitted at once: twice as many as the nodes can run, so that no node waits for the
        driver, and no more, so that jobs start in their order."""
        now = time.monotonic()
        if now - self._checked_at > 10 * TURN_S:
            self._checked_at = now
            self._slots = sum(site.places(self._cluster.threads, self._gpu) for site in sites())
            if self._slots:
                self._waiting_since = now
            elif now - self._waiting_since > PATIENCE_S:
                self._waiting_since = now
                tell(f"No node of the cluster can take a job of {self._cluster.threads} CPUs; waiting for one.")
        return max(1, 2 * self._slots)

    def _begin(self, tried: _Try) -> None:
        pickled_job = pickle.dumps(self._jobs[tried.number])
        task = self._task.remote(
            self._order, self._memory, pickled_job, self._common, self._board, tried.number, tried.attempt
        )
        self._under_way[task] = tried

    def _answer(self, task: Any, tried: _Try) -> Any:
        """The result of a job; None if its process or node was lost and it was submitted again. Raises LostError after
        too many attempts."""
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

    def _collect_progress(self) -> None:
        """Count the progress that has arrived, without waiting for more."""
        if self._pending_progress is None:
            self._pending_progress = self._board.take.remote()
        if not self._ray.wait([self._pending_progress], timeout=0)[0]:
            return
        request, self._pending_progress = self._pending_progress, None
        with suppress(self._ray.exceptions.RayError):
            reports = self._ray.get(request)
            for tried in self._under_way.values():
                if (tried.number, tried.attempt) in reports:
                    self._count(tried, *reports[tried.number, tried.attempt])

    def _count(self, tried: _Try, counted: Mapping[str, int], note: str) -> None:
        """Advance the progress bar to the total counts of a job."""
        new = {kind: counted[kind] - tried.counted[kind] for kind in counted}
        if new["skip"] > 0:
            self._progress.skip(new["skip"])
        if new["step"] > 0:
            self._progress.step(new["step"], note)
        tried.counted = {kind: max(counted[kind], tried.counted[kind]) for kind in counted}
