"""Processes of the tests that are forked from one that has imported torch, in place of a Python started anew: most of
the suite's time would go into imports.

`install` replaces `subprocess.Popen` in the process that runs tests. A command of this package (`python -m astdistill`,
its installed script, a worker of `runtime/parallel.py`, `python -m suite`) is then forked from a server that has
imported what it imports and computed nothing. It is a child of the process that asks, as one that was started is: its
number, process group, signals, exit code, open files and streams are real. All other commands start as ever, and so do
those whose environment would make another Python of it (`_SETTINGS`), all on other systems than Linux, all where
ASTDISTILL_TESTS_FORK=0, all while coverage is measured, and all of tests marked `started_anew`.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import glob
import html
import importlib
import io
import marshal
import os
import pickle
import runpy
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

PYTHON = sys.executable
SCRIPT = os.path.join(os.path.dirname(PYTHON), "astdistill")
SCRIPTS = ("astdistill", "killing.py", "holding.py")
"""The names of scripts that are forked."""
FORKED = "# forked\n"
"""How other code for `python -c` begins that may be forked: it does not ask what a new Python has imported."""
MODULES = (
    "torch", "torch._dynamo", "torch.func", "torch.utils.flop_counter", "numpy.random", "sklearn.datasets", "jinja2", "yaml",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg", "PIL.PngImagePlugin", "pydantic",
    "click.shell_completion", "rich.progress", "safetensors.torch", "astdistill.cli.main", "astdistill.cli.verbs",
    "astdistill.cli.evaluate", "astdistill.cli.report", "astdistill.cli.compare", "astdistill.cli.presets",
    "astdistill.cli.interop", "astdistill.cli.data", "astdistill.runtime.worker", "astdistill.report.page.page",
)  # fmt: skip
"""What the server imports."""
WORKER = ("\nimport sys\nsys.path[:] = ", "from astdistill.runtime.worker import serve\n")
"""How the code of a worker begins, and what it holds."""
_SETTINGS = ("PYTHON", "OMP_", "MKL_", "OPENBLAS_", "LD_", "HF_", "COVERAGE_", "MPL")
"""The variables, by their first letters, that Python or a library reads when it is loaded."""
_FREE = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "OMP_WAIT_POLICY")
"""Those of them that are followed here, or that one thread does not ask for."""
UNDRAWN = "ASTDISTILL_TESTS_UNDRAWN"
"""The variable that has a forked process save its figures as `one_pixel`."""
NAME = "forking"
"""What /proc calls a server that a forked process has as a child."""
SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER of prctl(2)."""
HUGE, COLLAPSE = 2 << 20, 25
"""The bytes of a huge page, and MADV_COLLAPSE of madvise(2)."""


def one_pixel(figure: Any, target: Any, *, format: str, **words: object) -> None:
    """In place of `Figure.savefig`; an SVG holds the names of its axes."""
    if format == "svg":
        names = html.escape(", ".join(f"{each.get_xlabel()}, {each.get_ylabel()}" for each in figure.axes))
        target.write(f'<svg width="1pt" height="1pt"><desc>{names}</desc></svg>')
    else:
        sys.modules["PIL.Image"].new("RGB", (1, 1)).save(target, format)


@functools.cache
def _savefig() -> Callable[..., None]:
    return importlib.import_module("matplotlib.figure").Figure.savefig


def draw(drawn: bool) -> None:
    """Whether figures are drawn from now on, here and in forked processes, or saved as `one_pixel`."""
    saved = _savefig()
    if not drawn:
        saved = one_pixel
    importlib.import_module("matplotlib.figure").Figure.savefig = saved
    os.environ.pop(UNDRAWN, None)
    if not drawn:
        os.environ[UNDRAWN] = "1"


class Asked(NamedTuple):
    """A command to be run: its words after the interpreter's, where, with which environment, and the numbers that its
    open files are to have; `forks` says that it may start such commands itself."""

    words: list[str]
    folder: str
    environment: dict[str, str]
    numbers: list[int]
    session: bool
    forks: bool


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """What must be the same for a forked process to be like one started with this environment."""
    kept = {name: value for name, value in environment.items() if name.startswith(_SETTINGS) and name not in _FREE}
    if kept.get("PYTHONIOENCODING", "").lower() == "utf-8":
        del kept["PYTHONIOENCODING"]
    names = (environment.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))
    place = next((name for name in names if name), "C").lower().replace("-", "")
    kept["locale"] = place
    if place in ("c", "posix") or place.endswith("utf8"):
        kept["locale"] = "utf8"  # Python takes C for UTF-8
    return kept


def own_words(words: Sequence[str]) -> list[str] | None:
    """The words after the interpreter's if a command can be forked, else None."""
    if words[0] == SCRIPT:
        return list(words)
    if words[0] != PYTHON:
        return None
    rest = list(words[1:])
    while rest and rest[0] == "-P":
        rest.pop(0)
    if len(rest) > 1 and rest[0] == "-c":
        known = rest[1].startswith(FORKED) or (rest[1].startswith(WORKER[0]) and WORKER[1] in rest[1])
    elif len(rest) > 1 and rest[0] == "-m":
        known = rest[1].partition(".")[0] in ("astdistill", "suite") and "-P" not in words
    else:
        known = bool(rest) and os.path.basename(rest[0]) in SCRIPTS
    if known:
        return rest
    return None


class Server:
    """The other end of a server's socket. Its processes become children of this one."""

    def __init__(self, control: socket.socket, environment: Mapping[str, str]) -> None:
        self._control, self._lock = control, threading.Lock()
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl
        self._process, self._ready = os.getpid(), False
        self.settings = settings(environment)

    def takes(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with this environment may be forked, and from here."""
        return os.getpid() == self._process and settings(environment) == self.settings

    def wait(self) -> None:
        """Until the server has imported all and its door is open."""
        with self._lock:
            if not self._ready:
                _exactly(self._control, 1)
            self._ready = True

    def fork(self, asked: Asked, handles: list[int]) -> int:
        """The number of the process, a child of this one. Its parent, which only started it, ends at once, and while
        this process is a subreaper, what is left behind becomes its child."""
        self.wait()
        with self._lock:
            self._prctl(SUBREAPER, 1, 0, 0, 0)
            try:
                send(self._control, asked, handles)
                return struct.unpack("q", _exactly(self._control, 8))[0]
            finally:
                self._prctl(SUBREAPER, 0, 0, 0, 0)


def _exactly(stream: socket.socket, count: int) -> bytes:
    text = b""
    while len(text) < count:
        piece = stream.recv(count - len(text))
        if not piece:
            raise EOFError("the server of the tests' processes has ended")
        text += piece
    return text


def send(stream: socket.socket, asked: Asked, handles: list[int]) -> None:
    """Ask for a process with these open files."""
    text = pickle.dumps(tuple(asked))
    socket.send_fds(stream, [struct.pack("q", len(text))], handles)
    stream.sendall(text)


def receive(stream: socket.socket) -> tuple[Asked, list[int]] | None:
    """What is asked for, or None when nobody asks any more."""
    text, handles = b"", []
    with suppress(ConnectionError):  # it ended without reading our last word
        text, handles, _, _ = socket.recv_fds(stream, 8, 250)
    if not text:
        return None
    return Asked(*pickle.loads(_exactly(stream, struct.unpack("q", text)[0]))), list(handles)


def popen(get: Callable[[], Server | None]) -> type[subprocess.Popen[Any]]:
    """`subprocess.Popen`, but that commands of this package are forked from the server that `get` returns."""
    names = [
        "args", "executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo", "creationflags", "shell",
        "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite", "restore_signals", "gid", "gids", "uid", "umask",
        "start_new_session", "process_group",
    ]  # fmt: skip
    plain = {"executable": None, "preexec_fn": None, "close_fds": True, "shell": False, "restore_signals": True, "gid": None,
             "gids": None, "uid": None, "umask": -1, "process_group": -1}  # fmt: skip

    class Popen(subprocess.Popen):
        """A process, forked where that comes to the same."""

        def _execute_child(self, *given: Any) -> None:
            how = dict(zip(names, given, strict=True))
            if not self._forked(how):
                super()._execute_child(*given)  # pyright: ignore[reportAttributeAccessIssue]

        def _forked(self, how: Mapping[str, Any]) -> bool:
            if isinstance(how["args"], str | bytes | os.PathLike) or any(how[name] != plain[name] for name in plain):
                return False
            words = own_words([os.fsdecode(word) for word in how["args"]])
            environment = {os.fsdecode(name): os.fsdecode(value) for name, value in (how["env"] or os.environ).items()}
            if words is None or (server := get()) is None or not server.takes(environment):
                return False
            wanted = {number: number for number in how["pass_fds"]}
            for number, end in enumerate(("p2cread", "c2pwrite", "errwrite")):
                handle = how[end]
                if handle == -1:
                    handle = number
                with suppress(OSError):  # a stream that is closed here is closed there
                    os.fstat(handle)
                    wanted[number] = handle
            several = bool({"--workers", "suite", "suite.measurement"} & set(words)) or words[0].endswith("holding.py")
            folder = os.path.join(os.getcwd(), os.fsdecode(how["cwd"] or ""))
            asked = Asked(words, folder, environment, list(wanted), how["start_new_session"], several)
            self.pid = server.fork(asked, list(wanted.values()))
            self._child_created = True
            ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(how[end] for end in ends))  # pyright: ignore[reportAttributeAccessIssue]
            return True

    return Popen


class _Held:
    server: Server | None = None
    anew: bool = False
    environment: Mapping[str, str] = {}
    door: str = ""


START: type[subprocess.Popen[Any]] = subprocess.Popen
"""The real one."""


def held() -> Server | None:
    """The server of this process, started when it is first needed; None while processes are to be started anew."""
    if _Held.anew:
        return None
    if _Held.server is None:
        own, theirs = socket.socketpair()
        folder = tempfile.mkdtemp(prefix="astdistill-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        words = [PYTHON, __file__, str(theirs.fileno()), f"{folder}/door"]
        process = START(words, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=_Held.environment)
        theirs.close()
        _Held.server, _Held.door = Server(own, _Held.environment), f"{folder}/door"
        atexit.register(process.wait)
        atexit.register(own.close)  # the first to be called
    return _Held.server


def python() -> str:
    """What stands for the interpreter in a line for a shell that runs a command of this package."""
    if subprocess.Popen is START or (server := held()) is None:
        return shlex.quote(PYTHON)
    server.wait()
    words = [PYTHON, "-S", "-E", "-P", str(Path(__file__).with_name("forked.py")), _Held.door]
    return shlex.join(words)


def start_anew(anew: bool) -> None:
    """Whether commands are started from now on as they are without this file."""
    _Held.anew = anew


def install() -> None:
    """Fork from now on, where that is possible."""
    off = os.environ.get("ASTDISTILL_TESTS_FORK") == "0" or any(name.startswith("COVERAGE_") for name in os.environ)
    if sys.platform == "linux" and not off and subprocess.Popen is START:
        _Held.environment = dict(os.environ)
        subprocess.Popen = popen(held)  # pyright: ignore[reportAttributeAccessIssue]


def serve(control: socket.socket, door: socket.socket | None = None) -> Callable[[], None]:
    """Fork a process for each that is asked for, by the owner of `control` or by `forked.py` at the door, until the
    owner has ended. Returns in such a process alone: what it is to run."""
    with suppress(ConnectionError):
        control.sendall(b"+")
    places = [place for place in (control, door) if place is not None]
    own = settings(os.environ)
    while True:
        for ready in select.select(places, [], [])[0]:
            if ready is door:
                answer = _let_in(ready, own, places)
            elif (got := receive(control)) is None:
                os._exit(0)
            else:
                answer = _fork_for(control, *got, places)
            if answer is not None:
                return answer


def _fork_for(
    control: socket.socket, asked: Asked, handles: list[int], places: list[socket.socket]
) -> Callable[[], None] | None:
    """Fork, and leave the process to the owner of `control`."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        if os.fork():
            os._exit(0)
        if asked.session:
            os.setsid()
        # Its number is told after that: whoever started it may end its group at once.
        os.write(writing, struct.pack("q", os.getpid()))
        for place in places:
            place.close()
        os.close(reading)
        os.close(writing)
        return begun(asked, handles)
    os.waitpid(between, 0)
    for handle in (writing, *handles):
        os.close(handle)
    with suppress(ConnectionError):
        control.sendall(os.read(reading, 8))
    os.close(reading)
    return None


def _let_in(door: socket.socket, own: dict[str, str], places: list[socket.socket]) -> Callable[[], None] | None:
    """Fork for a command of a shell; a process between waits for it, tells how it ended, and ends it where the command
    has been killed."""
    stream, _ = door.accept()
    text, handles, _, _ = socket.recv_fds(stream, 8, 3)
    words, folder, environment, numbers = marshal.loads(_exactly(stream, struct.unpack("q", text)[0]))
    rest = own_words([PYTHON, *words])
    child = 0
    if rest is not None and settings(environment) == own:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                continue
        if os.fork() == 0:
            for place in places:
                place.close()
            if (child := os.fork()) == 0:
                stream.close()
                several = "--workers" in rest
                return begun(Asked(rest, folder, environment, numbers, False, several), list(handles))
            _wait_for(child, stream)
    else:
        stream.sendall(struct.pack("q", child))
    stream.close()
    for handle in handles:
        os.close(handle)
    return None


def _wait_for(child: int, stream: socket.socket) -> None:
    os.closerange(0, stream.fileno())
    stream.sendall(struct.pack("q", child))
    ended = os.pidfd_open(child)
    if stream in select.select([stream, ended], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with suppress(OSError):
        stream.sendall(struct.pack("q", status))
    os._exit(0)


def begun(asked: Asked, handles: list[int]) -> Callable[[], None]:
    """Make this process, which has its session, what a newly started one would be. Returns what it is to run."""
    if asked.forks:
        own, theirs = socket.socketpair()
        if os.fork() == 0:  # a server for what this one starts; it ends with it, and keeps none of its files open
            for handle in (own.fileno(), *handles):
                os.close(handle)
            Path("/proc/self/comm").write_text(NAME)
            return serve(theirs)
        theirs.close()
        subprocess.Popen = _children(own, asked.environment)  # pyright: ignore[reportAttributeAccessIssue]
    Path("/proc/self/comm").write_text(os.path.basename(PYTHON))
    _files(asked.numbers, handles)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(asked.environment)
    os.chdir(asked.folder)
    _streams()
    sys.modules["numpy"].random.seed()
    if UNDRAWN in asked.environment:
        sys.modules["matplotlib.figure"].Figure.savefig = one_pixel
    main = types.ModuleType("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    return lambda: _run(asked.words, main)


def _children(own: socket.socket, environment: Mapping[str, str]) -> type[subprocess.Popen[Any]]:
    high = socket.socket(fileno=fcntl.fcntl(own.detach(), fcntl.F_DUPFD_CLOEXEC, 700))
    server = Server(high, environment)
    return popen(lambda: server)


def _files(numbers: list[int], handles: list[int]) -> None:
    """Give the open files their numbers, and close all others."""
    high = [fcntl.fcntl(handle, fcntl.F_DUPFD, 800) for handle in handles]
    os.closerange(0, 700)
    for number, handle in zip(numbers, high, strict=True):
        os.dup2(handle, number)
        os.close(handle)


def _streams() -> None:
    """sys.stdin, stdout and stderr as Python makes them."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = None
        with suppress(OSError):
            raw = io.FileIO(number, "wb" if number else "rb", closefd=False)
            errors = "backslashreplace" if number == 2 else "strict"
            buffered: Any = io.BufferedWriter(raw) if number else io.BufferedReader(raw)
            lines = number == 2 or raw.isatty()
            stream = io.TextIOWrapper(
                buffered,
                "utf-8",
                errors,
                line_buffering=lines,
                write_through=bool(number and os.environ.get("PYTHONUNBUFFERED")),
            )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run(words: list[str], main: types.ModuleType) -> None:
    """Run the command in the module `main`, with the path that Python would have."""
    given = os.environ.get("PYTHONPATH", "")
    paths = [os.path.abspath(place) for place in given.split(os.pathsep) if place]
    kind, rest = words[0], words[1:]
    first = {"-c": "", "-m": os.getcwd()}.get(kind, os.path.dirname(os.path.realpath(kind)))
    sys.path[:] = list(dict.fromkeys([first, *paths, *BARE]))
    importlib.invalidate_caches()
    if kind == "-m":
        sys.argv = ["-m", *rest[1:]]
        runpy._run_module_as_main(rest[0])  # pyright: ignore[reportAttributeAccessIssue]
        return
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), main.__dict__)
        return
    sys.argv = words
    with open(kind, "rb") as file:
        code = compile(file.read(), kind, "exec")
    main.__dict__["__file__"] = kind
    exec(code, main.__dict__)


BARE: list[str] = []
"""The path without the entries of PYTHONPATH and without its first, which depends on the command."""


def _main() -> Callable[[], None]:
    given = [os.path.abspath(place) for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    BARE[:] = [place for place in sys.path[1:] if place not in given]
    del sys.path[0]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in MODULES:
        importlib.import_module(name)
    threads = [Path(place).read_text().strip() for place in glob.glob("/proc/self/task/*/comm")]
    # pyarrow's allocator sets its own thread up again in a forked process; no other thread would be there.
    assert len(threads) - threads.count("jemalloc_bg_thd") == 1, threads
    gc.collect()
    gc.freeze()
    # torch would take down its operators one by one at the end of each process: four times what starting one takes.
    for each in weakref.finalize._registry:  # pyright: ignore[reportAttributeAccessIssue]
        each.atexit = False
    _in_huge_pages()
    door = socket.socket(socket.AF_UNIX)
    door.bind(sys.argv[2])
    door.listen()
    return serve(socket.socket(fileno=int(sys.argv[1])), door)


def _in_huge_pages() -> None:
    """Have the kernel hold this process's memory in pages of 2 MB where it can: a fork copies a table of all pages, and
    takes a third of the time."""
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = [ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, *_, name = f"{line} ".split(" ")
        first, end = (int(number, 16) for number in place.split("-"))
        first, end = -(-first // HUGE) * HUGE, end // HUGE * HUGE
        if rights == "rw-p" and end > first and name in ("", "[heap]"):
            madvise(first, end - first, COLLAPSE)  # a kernel that does not know it answers with an error, and no more


def _ended(run: Callable[[], None]) -> None:
    """Run the command and end the process as Python does, but that the modules are not taken down one by one: that
    takes 0.3 s. An error that is no exit goes Python's own way."""
    code: Any = None
    try:
        run()
    except SystemExit as stop:
        code = stop.code
        if not isinstance(code, int | None):
            raise
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not stream.closed:
            stream.flush()
    os._exit((code or 0) & 255)


if __name__ == "__main__":
    _ended(_main())
