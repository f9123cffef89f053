"""The command `astdistill`. Verbs are imported when they are used, so that help needs no torch."""

from __future__ import annotations

import errno
import re
import shlex
import shutil
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

VERBS = {
    "demo": "AST on scikit-learn's digits, one image per class, evaluated: about a minute on two cores",
    "run": "a preset from data to scores: run cifar100-ipc1 --data FOLDER; or its ablation: run ablation --base PRESET",
    "experts": "train the experts of a preset and show how good and how smooth they are",
    "distill": "distil with the experts of a preset, training those that are missing",
    "evaluate": "train fresh networks on a distilled set and test them: astdistill evaluate runs/NAME",
    "report": "one HTML page of a run, or of several side by side: astdistill report runs/NAME",
    "textures": "write distilled textures as PNG files that can be tiled: astdistill textures runs/NAME --tile 3",
    "import-buffers": "experts trained elsewhere, as a store: astdistill import-buffers FOLDER --data cifar100",
    "import-set": "a set distilled elsewhere, as a run folder: import-set FOLDER --data cifar100 --out runs/NAME",
    "export": "a distilled set for other programs (huggingface, mtt, npz, png, torch): export runs/NAME --format png",
    "compare": "finished runs beside published figures and baselines: astdistill compare runs/NAME ... --format latex",
    "watch": "follow a run from another terminal: astdistill watch runs/NAME",
    "doctor": "whether this machine has what it takes: versions, memory, disk, GPUs, engines, extras, and a self-check",
    "presets": "what can be run by name: published figures, memory, disk and time on this machine",
}
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
RESUMED = ("demo", "run", "experts", "distill", "evaluate", "import-buffers")
"""The verbs that go on where they were stopped."""
STORES = dict.fromkeys(("demo", "run", "experts", "distill"), "--out or --experts.store") | {
    "import-buffers": "--store"
}
"""The flags that name what a verb writes to, where it is not --out alone."""
MEMORY = re.compile(
    r"MemoryError|allocate memory.*?[0-9]+ bytes|OutOfMemoryError|out of memory", re.IGNORECASE | re.DOTALL
)
"""How Python, torch and CUDA say that there is no more of it."""
HELP = """usage: astdistill VERB [...]

Dataset distillation by trajectory matching.

{verbs}

astdistill VERB --help tells more; begin with: astdistill demo
Long work that was stopped goes on when its command is typed again;
demo, run, experts and distill show what they would cost with --dry-run.
"""


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 diverged, no place to write, or unfit, 2 bad input, 130 SIGINT,
    143 SIGTERM."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from .. import __version__

        print(f"astdistill {__version__}")
        return 0
    try:
        with _terminable():
            return _guarded(words[0], words[1:])
    except KeyboardInterrupt as stopped:
        again = shlex.join(["astdistill", *words])
        kept = "What is done is kept; this goes on with it" if words[0] in RESUMED else "This begins again"
        print(f"\nStopped. {kept}: {again}", file=sys.stderr)
        return 143 if isinstance(stopped, Terminated) else 130


def _help() -> str:
    """The verbs, as wide as the terminal."""
    lines = textwrap.TextWrapper(
        shutil.get_terminal_size().columns - 1, subsequent_indent=" " * 17, break_on_hyphens=False
    )
    return HELP.format(verbs="\n".join(lines.fill(f"  {verb:<14} {text}") for verb, text in VERBS.items()))


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a batch system sends it some seconds before it kills: it ends a run as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated inside the block where SIGTERM would end the process at once, and its loggers and files with
    it."""

    def stop(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guarded(verb: str, words: list[str]) -> int:
    """Run a verb; errors that a user can mend become one sentence."""
    from pydantic import ValidationError

    from ..runtime.errors import DivergedError, InputError, refused, unknown

    try:
        if verb not in VERBS:
            raise unknown("command", verb, VERBS)
        return _verb(verb)(words) or 0
    except InputError as error:
        print(f"astdistill: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        print(f"astdistill: {refused(error)}", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"astdistill: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in (*FULL, *PLACES):
            raise
        where = f" at {str(error.filename)[:200]}" if error.filename else ""
        mend = "free some space, or name" if error.errno in FULL else "name"
        place = STORES.get(verb, "--out")
        print(f"astdistill: {error.strerror}{where}; {mend} another {place}. What is done is kept.", file=sys.stderr)
        return 1
    except (MemoryError, RuntimeError) as error:
        if (wanted := MEMORY.search(f"{type(error).__name__}: {error}")) is None:
            raise
        print(
            f"astdistill: The memory did not suffice ({wanted[0]}); ask for fewer or smaller images, a smaller "
            f"network, or one --workers. "
            "What is done is kept.",
            file=sys.stderr,
        )
        return 1


def _verb(verb: str) -> Callable[[list[str]], int | None]:
    from . import verbs

    return getattr(verbs, verb.replace("-", "_"))


if __name__ == "__main__":
    sys.exit(main())
