"""The command `astdistill`. Its subcommands are imported on use, so that --help loads no torch."""

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
MODULES = dict.fromkeys(("demo", "run", "experts", "distill"), "verbs") | {
    "textures": "report",
    "import-buffers": "interop",
    "import-set": "interop",
    "export": "interop",
    "get": "interop",
    "run ablation": "sweep",
}
"""The module of each subcommand that is not in a module of the same name."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk."""
UNWRITABLE = (
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENAMETOOLONG,
)
"""Error numbers of a path that cannot be written to."""
RESUMED = ("demo", "run", "sweep", "experts", "distill", "tune", "evaluate", "import-buffers")
"""Subcommands that resume where they were stopped."""
PATH_FLAGS = dict.fromkeys(("demo", "run", "experts", "distill", "tune"), "--out or --experts.store") | {
    "import-buffers": "--store",
    "verify": "PATH",
    "watch": "RUN",
}
"""Flags that name what a subcommand writes, if not --out alone, or what it reads."""
OUT_OF_MEMORY = re.compile(
    r"MemoryError|allocate memory.*?[0-9]+ bytes|OutOfMemoryError|out of memory", re.IGNORECASE | re.DOTALL
)
"""Messages of Python, torch and CUDA about exhausted memory."""
ABOUT = "Dataset distillation by trajectory matching and other methods."
MORE = """Begin with: astdistill demo. Help of one verb: astdistill VERB --help
Interrupted work resumes when the same command is given again. With --dry-run,
demo, run, sweep, experts, distill and tune estimate time, memory and disk."""


class Verbs(click.Group):
    """The subcommands, each imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The subcommand of that name. The ablation is a form of run."""
        if cmd_name not in VERBS and cmd_name not in MODULES:
            return None
        module = importlib.import_module(f".{MODULES.get(cmd_name, cmd_name)}", __package__)
        return getattr(module, {"run ablation": "ablation_command"}.get(cmd_name, cmd_name.replace("-", "_")))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The subcommand that the arguments begin with, and the arguments after it. Raises InputError if there is
        none."""
        length = 1 + (" ".join(args[:2]) in MODULES)
        name = " ".join(args[:length])
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            from ..runtime.errors import unknown

            raise unknown("command", name, VERBS)
        return name, command, args[length:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The subcommands that begin with `incomplete`, without importing any, or the flags before them."""
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
    """Options before the subcommand; -q and -v are also allowed after it."""
    if version:
        from .. import __version__

        click.echo(f"astdistill {__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line, and return the exit code: 0 success, 1 diverged, output not writable, or a failed check, 2
    bad input, 130 SIGINT, 141 broken output pipe, 143 SIGTERM. Signal handlers are restored afterwards."""
    if VARIABLE in os.environ:
        return complete(cli, os.environ[VARIABLE])
    if "torch" not in sys.modules:  # torch's threads read these variables only when they are loaded
        os.environ.update(waiting(os.environ))
    Started.neighbours = Neighbours()  # measured again where a command needs it, after the import of torch
    if words is None:
        words = sys.argv[1:]
    words = list(words)
    ready_streams()
    try:
        with terminable():
            return _piped(words)
    except KeyboardInterrupt as interrupt:
        same_command = shlex.join(["astdistill", *words])
        outcome = "This starts over"
        if _find_verb(words) in RESUMED:
            outcome = "Finished work is kept; this resumes it"
        _print_error(f"\nStopped. {outcome}: {same_command}")
        if isinstance(interrupt, Terminated):
            return 143
        return 130


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a batch system sends some seconds before SIGKILL. It ends a run as Ctrl-C does."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated inside the block on SIGTERM, which would otherwise end the process at once, with its loggers and
    files open. Outside the main thread, which alone may handle signals, nothing is changed."""

    def stop(*_: object) -> None:
        raise Terminated

    previous = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or previous is None:  # None: not set by Python
        yield
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _piped(arguments: list[str]) -> int:
    """Run the arguments. If the reader of the output has gone, as `head` does, end like a program killed by SIGPIPE."""
    try:
        code = _guarded(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        return _end_broken_pipe()
    except SystemExit as stop:  # rich raises it for a broken pipe
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _end_broken_pipe()
    return code


def _end_broken_pipe() -> int:
    """Redirect unflushed output to the null device, so that the interpreter ends without a message, and return 141."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (BrokenPipeError, AttributeError):  # closed at the other end, or never open
            if stream is None:
                continue
            null_device = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null_device, stream.fileno())
            os.close(null_device)
    return 128 + 13


def _print_error(text: str) -> None:
    with suppress(BrokenPipeError):  # stderr is closed; the exit code has the result
        print(printable(text), file=sys.stderr, flush=True)


def _find_verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if argument in VERBS), "")


def _guarded(arguments: list[str]) -> int:
    """Run the arguments. Errors that a user can fix are printed as one sentence."""
    meta: dict[str, Any] = {}
    try:
        return _run_on_rank(arguments, meta)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except Exception as error:
        code, sentence = _explain(error, _find_verb(arguments))
        if meta.get("verbose"):
            traceback.print_exc()
        _print_error(f"astdistill: {sentence}")
        return code


def _run_on_rank(arguments: list[str], meta: dict[str, Any]) -> int:
    """Run the arguments. Of several processes started by torchrun, only rank 0 does, and the others share its outer
    steps."""
    if world() == 1:
        return _invoke(arguments, meta)
    from ..runtime import ranks

    if rank():
        ranks.serve("quit")
        return 0  # rank 0 reports the result
    with ranks.leading("quit"):
        return _invoke(arguments, meta)


def _invoke(arguments: list[str], meta: dict[str, Any]) -> int:
    if arguments[:1] == ["help"]:
        arguments = ["--help", *arguments[1:]]
    from ..runtime.trust import typed

    with typed(arguments), cli.make_context("astdistill", arguments) as ctx:
        meta["verbose"] = ctx.params["verbose"]
        ctx.obj = meta
        result = cli.invoke(ctx)
    if isinstance(result, int):
        return result
    return 0


def _explain(error: Exception, verb: str) -> tuple[int, str]:
    """The exit code and the message for an error that a user can fix. Other errors are raised again."""
    from pydantic import ValidationError

    from ..runtime.errors import DivergedError, FolderGoneError, InputError, refused

    if isinstance(error, InputError | ValidationError):
        return 2, str(refused(error))
    if isinstance(error, click.ClickException):
        return 2, f"{error.format_message().rstrip('.')}; see: astdistill {verb and f'{verb} '}--help"
    if isinstance(error, DivergedError | FolderGoneError):
        return 1, str(error)
    if isinstance(error, OSError) and error.errno in (*DISK_FULL, *UNWRITABLE):
        location, remedy, note = "", "name", ""
        if error.filename:
            location = f" at {str(error.filename)[:200]}"
        if error.errno in DISK_FULL:
            remedy, note = "free some space, or name", " Finished work is kept."
        return 1, f"{error.strerror}{location}; {remedy} another {PATH_FLAGS.get(verb, '--out')}.{note}"
    exhausted = OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}")
    if exhausted is None or not isinstance(error, MemoryError | RuntimeError):
        raise error
    return 1, (
        f"Out of memory ({exhausted[0]}); use fewer or smaller images, a smaller network, "
        "or one --workers. Finished work is kept."
    )
