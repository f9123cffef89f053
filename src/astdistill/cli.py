"""The command `astdistill`. Verbs are imported when they are used, so that help needs no torch."""

from __future__ import annotations

import errno
import shlex
import sys
from collections.abc import Callable, Sequence

VERBS = {
    "demo": "AST on scikit-learn's digits, one image per class, evaluated: about a minute on two cores",
    "run": "a preset from data to scores: astdistill run cifar100-ipc1 --data FOLDER",
    "experts": "train the experts of a preset and show how good and how smooth they are",
    "distill": "distil with the experts of a preset, training those that are missing",
    "evaluate": "train fresh networks on a distilled set and test them: astdistill evaluate runs/NAME",
    "bench": "time and memory beside the published way and the limit of this machine: astdistill bench unroll",
    "presets": "the cells that can be run by name, with their published figures",
}

PLACES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EEXIST)
"""What a disk says when it cannot be written to."""

HELP = (
    "usage: astdistill VERB [...]\n\n"
    "Dataset distillation by trajectory matching.\n\n"
    + "\n".join(f"  {verb:<9} {text}" for verb, text in VERBS.items())
    + "\n\nastdistill VERB --help tells more. Every command resumes what it finds half done;\n"
    + "demo, run, experts and distill show what they would cost with --dry-run.\n"
)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code: 0 done, 1 diverged or no place to write, 2 bad input, 130 stopped by the user."""
    words = list(sys.argv[1:] if words is None else words)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP)
        return 0
    if words[0] in ("-V", "--version"):
        from . import __version__

        print(f"astdistill {__version__}")
        return 0
    return _guarded(words[0], words[1:])


def _guarded(verb: str, words: list[str]) -> int:
    """Run a verb; errors that a user can mend become one sentence."""
    from pydantic import ValidationError

    from .errors import DivergedError, InputError, unknown

    try:
        if verb not in VERBS:
            raise unknown("command", verb, VERBS)
        _verb(verb)(words)
    except InputError as error:
        print(f"astdistill: {error}", file=sys.stderr)
        return 2
    except ValidationError as error:
        first = error.errors()[0]
        print(f"astdistill: {'.'.join(map(str, first['loc']))} cannot be {first['input']!r}: {first['msg']}.", file=sys.stderr)
        return 2
    except DivergedError as error:
        print(f"astdistill: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno not in PLACES:
            raise
        where = f" at {error.filename}" if error.filename else ""
        print(
            f"astdistill: {error.strerror}{where}; free some space, or name another --out or --experts.store. What is done is kept.",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        again = shlex.join(["astdistill", verb, *words])
        print(f"\nStopped. What is done is kept; this goes on with it: {again}", file=sys.stderr)
        return 130
    return 0


def _verb(verb: str) -> Callable[[list[str]], None]:
    from . import commands

    return getattr(commands, verb)


if __name__ == "__main__":
    sys.exit(main())
