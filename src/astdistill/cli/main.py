"""The command `astdistill`. Verbs are imported when they are used, so that help needs no torch."""

from __future__ import annotations

import errno
import importlib
import os
import re
import shlex
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import click
from click.shell_completion import CompletionItem

from ..runtime.machine import Neighbours, Started, rank, waiting, world
from ..runtime.text import printable, ready_streams
from .completion import VARIABLE, complete

VERBS = {
    "demo": "distil scikit-learn's digits to one image per class with AST: about a minute on two cores",
    "run": "train experts, distil and evaluate: run PRESET, run --data FOLDER; an ablation: run ablation --base PRESET",
    "sweep": "run presets by methods, settings and seeds, one table: sweep digits-ipc1 --methods mtt,ast --seeds 3",
    "experts": "train only the experts of a preset; show accuracy and step length per epoch",
    "distill": "train missing experts and distil, without evaluation",
    "tune": "search learning rates on held-out training images: tune digits-ipc1",
    "evaluate": "train new networks on a distilled set and test them: evaluate runs/NAME",
    "report": "write the HTML report of a run, or of several: report runs/NAME",
    "textures": "write distilled textures as PNG files that can be tiled: textures runs/NAME --tile 3",
    "import-buffers": "import experts of other programs into a store: import-buffers FOLDER --data cifar100",
    "import-set": "import a distilled set of another program: import-set FOLDER --data cifar100 --out runs/NAME",
    "export": "export a distilled set (huggingface, mtt, npz, png, torch): export runs/NAME --format png",
    "get": "list published distilled sets, or copy one with its card: get NAME, get hf:OWNER/REPO",
    "compare": "compare finished runs with published figures and baselines: compare runs/NAME ... --format latex",
    "watch": "show the progress of a run from another terminal: watch runs/NAME",
    "verify": "check expert stores, runs and distilled sets against their digests: verify PATH",
    "doctor": "check this machine: versions, memory, disk, GPUs, engines, extras; run a very small distillation",
    "presets": "list the presets (benchmark settings): published figures, memory, disk; times with --time",
}
HOMES = dict.fromkeys(("demo", "run", "experts", "distill"), "verbs") | {
    "textures": "report",
    "import-buffers": "interop",
    "import-set": "interop",
    "export": "interop",
    "get": "interop",
    "run ablation": "sweep",
}
"""The module of each verb that is not in one of its own name."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk says when it has no more room."""
PLACES = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
)
"""What it says of a place that cannot be written to."""
RESUMED = ("demo", "run", "sweep", "experts", "distill", "tune", "evaluate", "import-buffers")
"""The verbs that go on where they were stopped."""
STORES = dict.fromkeys(("demo", "run", "experts", "distill", "tune"), "--out or --experts.store") | {
    "import-buffers": "--store",
    "verify": "PATH",
    "watch": "RUN",
}
"""The flags that name what a verb writes to, where it is not --out alone, or what it looks at."""
MEMORY = re.compile(
    r"MemoryError|allocate memory.*?[0-9]+ bytes|OutOfMemoryError|out of memory", re.IGNORECASE | re.DOTALL
)
"""How Python, torch and CUDA say that there is no more of it."""
ABOUT = "Dataset distillation by trajectory matching and other methods."
MORE = """Begin with: astdistill demo. Help of one verb: astdistill VERB --help
Interrupted work resumes when the same command is given again. With --dry-run,
demo, run, sweep, experts, distill and tune estimate time, memory and disk."""


class Verbs(click.Group):
    """The verbs, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of that name, or the ablation, which is a form of run."""
        if cmd_name not in VERBS and cmd_name not in HOMES:
            return None
        home = importlib.import_module(f".{HOMES.get(cmd_name, cmd_name)}", __package__)
        return getattr(home, {"run ablation": "ablation_command"}.get(cmd_name, cmd_name.replace("-", "_")))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the words begin with, and the words after it. Raises InputError where there is none."""
        length = 1 + (" ".join(args[:2]) in HOMES)
        name = " ".join(args[:length])
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            from ..runtime.errors import unknown

            raise unknown("command", name, VERBS)
        return name, command, args[length:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin so, without importing any, or the flags before them."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        return [CompletionItem(verb, help=text) for verb, text in VERBS.items() if verb.startswith(incomplete)]

    def get_help(self, ctx: click.Context) -> str:
        page = click.HelpFormatter(width=78)
        page.write(f"usage: astdistill VERB [...]\n\n{ABOUT}\n\n")
        with page.indentation():
            page.write_dl(list(VERBS.items()), col_spacing=1)
        return f"{page.getvalue()}\n{MORE}"


@click.group(cls=Verbs, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-V", "--version", is_flag=True)
@click.option("-q", "--quiet", is_flag=True)
@click.option("-v", "--verbose", is_flag=True)
@click.pass_context
def cli(ctx: click.Context, version: bool, quiet: bool, verbose: bool) -> None:
    """What stands before the verb; -q and -v may stand after it, too."""
    if version:
        from .. import __version__

        click.echo(f"astdistill {__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 diverged, no place to write, or unfit, 2 bad input, 130 SIGINT,
    141 nobody reads what is printed, 143 SIGTERM. Signal handlers are afterwards what they were."""
    if VARIABLE in os.environ:
        return complete(cli, os.environ[VARIABLE])
    if "torch" not in sys.modules:  # whose threads read it when they are loaded, and never again
        os.environ.update(waiting(os.environ))
    Started.neighbours = Neighbours()  # looked at again where a command needs it, after torch has been imported
    if words is None:
        words = sys.argv[1:]
    words = list(words)
    ready_streams()
    try:
        with terminable():
            return _piped(words)
    except KeyboardInterrupt as stopped:
        again = shlex.join(["astdistill", *words])
        kept = "This begins again"
        if _verb(words) in RESUMED:
            kept = "What is done is kept; this goes on with it"
        _tell(f"\nStopped. {kept}: {again}")
        if isinstance(stopped, Terminated):
            return 143
        return 130


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it some seconds before it kills: it ends a run as Ctrl-C does."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated inside the block where SIGTERM would end the process at once, and its loggers and files with
    it. Elsewhere than in the main thread, which alone may handle signals, nothing is changed."""

    def stop(*_: object) -> None:
        raise Terminated

    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before is None:  # None: set by other than Python
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _piped(words: list[str]) -> int:
    """Run the words; where whoever read the output has gone, as `head` does, end like a program that SIGPIPE ends."""
    try:
        code = _guarded(words)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except SystemExit as stop:  # rich's answer to a broken pipe
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _unread()
    return code


def _unread() -> int:
    """141; what is still to be flushed into a broken pipe goes nowhere, so that the interpreter's end is silent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, AttributeError):  # closed at the other end, or never open
            if stream is None:
                continue
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
    return 128 + 13


def _tell(text: str) -> None:
    with suppress(BrokenPipeError):  # nobody reads it; the exit code says the same
        print(printable(text), file=sys.stderr, flush=True)


def _verb(words: Sequence[str]) -> str:
    return next((word for word in words if word in VERBS), "")


def _guarded(words: list[str]) -> int:
    """Run the words; errors that a user can mend become one sentence."""
    meta: dict[str, Any] = {}
    try:
        return _of_rank(words, meta)
    except click.exceptions.Exit as done:
        return done.exit_code
    except Exception as error:
        code, sentence = _sentence(error, _verb(words))
        if meta.get("verbose"):
            traceback.print_exc()
        _tell(f"astdistill: {sentence}")
        return code


def _of_rank(words: list[str], meta: dict[str, Any]) -> int:
    """Run the words; of several processes that torchrun has started, rank 0 alone does, and the others share its outer
    steps."""
    if world() == 1:
        return _invoked(words, meta)
    from ..runtime import ranks

    if rank():
        ranks.serve("quit")
        return 0  # rank 0 has said how it ended
    with ranks.leading("quit"):
        return _invoked(words, meta)


def _invoked(words: list[str], meta: dict[str, Any]) -> int:
    if words[:1] == ["help"]:
        words = ["--help", *words[1:]]
    from ..runtime.trust import typed

    with typed(words), cli.make_context("astdistill", words) as ctx:
        meta["verbose"] = ctx.params["verbose"]
        ctx.obj = meta
        answer = cli.invoke(ctx)
    if isinstance(answer, int):
        return answer
    return 0


def _sentence(error: Exception, verb: str) -> tuple[int, str]:
    """The exit code and the sentence for an error that a user can mend; raises any other."""
    from pydantic import ValidationError

    from ..runtime.errors import DivergedError, FolderGoneError, InputError, refused

    if isinstance(error, InputError | ValidationError):
        return 2, str(refused(error))
    if isinstance(error, click.ClickException):
        return 2, f"{error.format_message().rstrip('.')}; see: astdistill {verb and f'{verb} '}--help"
    if isinstance(error, DivergedError | FolderGoneError):
        return 1, str(error)
    if isinstance(error, OSError) and error.errno in (*FULL, *PLACES):
        where, mend, kept = "", "name", ""
        if error.filename:
            where = f" at {str(error.filename)[:200]}"
        if error.errno in FULL:
            mend, kept = "free some space, or name", " What is done is kept."
        return 1, f"{error.strerror}{where}; {mend} another {STORES.get(verb, '--out')}.{kept}"
    wanted = MEMORY.search(f"{type(error).__name__}: {error}")
    if wanted is None or not isinstance(error, MemoryError | RuntimeError):
        raise error
    return 1, (
        f"The memory did not suffice ({wanted[0]}); ask for fewer or smaller images, a smaller network, "
        "or one --workers. What is done is kept."
    )
