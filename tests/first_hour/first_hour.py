"""`make first-hour`: types what the README and the three guides say, word for word and in their order, into bash, in an
environment and in folders that are new, and stops at the first command that fails.

A line of a block marked `sh` is a command. A block marked `python` with a title is a file of the reader's; one without
is a script. `pip` finds the package as a wheel that is built from this checkout first, and takes the versions of
constraints.txt. `sizes.sh` makes runs smaller. What is not typed, and why, is in NOT_TYPED; what a reader has already,
photos and a checkout, is made by `own_photos` and `checkout_of`.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "docs/your-own-data.md", "docs/your-own-network.md", "docs/writing-a-method.md")
FENCE = re.compile(r'^```(sh|python)(?: title="([^"]+)")?\n(.*?)^```', flags=re.DOTALL | re.MULTILINE)
NOT_TYPED = {"make test": "continuous integration runs it"}
NO_GPU = {"--device cuda": "there is no GPU here"}
END = "@@ended"


class Step(NamedTuple):
    """One thing that a reader does: what is shown in the log, and what bash gets."""

    shown: str
    typed: str


def steps(page: str) -> Iterator[Step]:
    """Everything that a page has its reader type or save, in order."""
    for number, (language, title, text) in enumerate(FENCE.findall((ROOT / page).read_text(encoding="utf-8"))):
        if language == "sh":
            yield from (Step(line, line) for line in text.strip().splitlines())
            continue
        name = title or f"block_{number}.py"
        yield Step(f"(save {name})", f"cat > {name} <<'{END}'\n{text}{END}")
        if not title:
            yield Step(f"python {name}", f"python {name}")


def reason_not_to_type(command: str) -> str:
    """Why a command is left out here; nothing for one that is typed."""
    reasons = dict(NOT_TYPED)
    if shutil.which("nvidia-smi") is None:
        reasons |= NO_GPU
    return next((why for words, why in reasons.items() if words in command), "")


class Shell:
    """A bash that stays, as a reader's does: what one command sets or activates, the next one has."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def type(self, command: str) -> tuple[int, str]:
        """Exit code and output of one command; 1 where bash itself has ended."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"{{ {command}\n}} </dev/null; code=$?; echo; echo {END} $code\n")
        self._bash.stdin.flush()
        output = []
        for line in self._bash.stdout:
            if line.startswith(END):
                return int(line.split()[1]), "".join(output)
            output.append(line)
        return 1, "".join(output)

    def close(self) -> None:
        """End the shell."""
        self._bash.communicate()


def own_photos(folder: Path) -> None:
    """Forty noisy pictures of each of two classes, which differ in their colour; PPM, which needs no package."""
    draw = random.Random(0)
    for part, count in (("train", 30), ("test", 10)):
        for name, tint in (("cats", (90, 0, 0)), ("dogs", (0, 0, 90))):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for number in range(count):
                noise = draw.randbytes(40 * 36 * 3)
                pixels = bytes(value * 165 // 255 + tint[index % 3] for index, value in enumerate(noise))
                (place / f"{number:04d}.ppm").write_bytes(b"P6 40 36 255\n" + pixels)


def checkout_of(folder: Path) -> Path:
    """A copy of this checkout, as a reader's, without what was built in it."""
    built = {".git", ".venv", "runs", "experts", "site", "dist", ".cache"}

    def left_out(place: str, names: list[str]) -> set[str]:
        if Path(place) == ROOT:  # further down, these are names of the source
            return built & set(names)
        return {"__pycache__"} & set(names)

    return Path(shutil.copytree(ROOT, folder / "checkout", ignore=left_out))


def environment_of(folder: Path, checkout: Path) -> dict[str, str]:
    """The caller's environment without its Python, with a cache of its own and the wheel of this checkout for pip."""
    wheels = folder / "wheels"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(checkout)]
    subprocess.run(build, check=True)
    environment = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    }
    links = f"{wheels} {os.environ.get('PIP_FIND_LINKS', '')}".strip()
    return environment | {
        "PIP_FIND_LINKS": links,
        "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
        "ASTDISTILL_CACHE": str(folder / "cache"),
    }


def typed(step: Step, checkout: Path) -> str:
    """What bash gets: `make` runs in the checkout, everything else where the reader is."""
    if step.typed.startswith("make "):
        return f"(cd {shlex.quote(str(checkout))} && {step.typed}\n)"
    return step.typed


class Failed(Exception):
    """A command of the documentation ended with another exit code than 0."""


def read_through(page: str, shell: Shell, checkout: Path) -> None:
    """Do what a page says, a line of the log for each step. Raises Failed at the first that fails."""
    print(f"\n{page}", flush=True)
    for step in steps(page):
        if why := reason_not_to_type(step.shown):
            print(f"         -  {step.shown}   [not typed: {why}]", flush=True)
            continue
        began = time.monotonic()
        code, output = shell.type(typed(step, checkout))
        print(f"{time.monotonic() - began:8.1f} s  {step.shown}", flush=True)
        if code:
            raise Failed(f"{page}: {step.shown}\nended with exit code {code}:\n{output[-6000:]}")


def source(shell: Shell, file: Path) -> None:
    """Have the shell read a file. Raises Failed where it is not there."""
    code, output = shell.type(f"source {shlex.quote(str(file))}")
    if code:
        raise Failed(f"{file}: {output}")


def hour(folder: Path, full: bool) -> None:
    """All pages, in one environment and one folder each. Raises Failed."""
    checkout = checkout_of(folder)
    environment = environment_of(folder, checkout)
    for number, page in enumerate(PAGES):
        desk = folder / Path(page).stem
        desk.mkdir()
        shell = Shell(desk, environment)
        try:
            if number:  # the README has made and activated it
                source(shell, folder / "README/.venv/bin/activate")
            if not full:
                source(shell, ROOT / "tests/first_hour/sizes.sh")
            own_photos(desk)
            read_through(page, shell, checkout)
        finally:
            shell.close()


def main() -> int:
    """1 where a command failed, which is said with the end of its output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="the sizes that the pages have: an hour and more")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to work in, which is kept")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="first-hour-") as temporary:
        folder = Path(temporary)
        if options.keep:
            folder = options.keep.resolve()
            folder.mkdir(parents=True)
        try:
            hour(folder, options.full)
        except Failed as failure:
            print(f"\n{failure}")
            return 1
    print(f"\nevery command worked; {(time.monotonic() - began) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
