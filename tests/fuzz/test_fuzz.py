"""Damaged files of every kind: the right result, a sentence, or a rebuilt cache; never a traceback.

`make fuzz EXAMPLES=5000` tries more, each time others; here few, always the same.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from fuzz.desk import lay
from fuzz.mutations import MUTATIONS
from fuzz.readers import READERS, Reader
from fuzz.sites import entered, sites
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astdistill.runtime.errors import InputError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "1"))
LONG = "FUZZ_EXAMPLES" in os.environ
REPORT = os.environ.get("FUZZ_REPORT")
LIMIT_S = 120
"""Seconds after which reading one damaged file counts as one that never ends."""
NOT_OF_STRANGERS = {
    "autodiff/native/build.py:_build_into": "a kernel library, whose digest is its name: tests/engines/test_kernel_cache.py",
    "autodiff/native/build.py:_label": "the package's own sources",
    "autodiff/native/variants.py:is_intact": "a kernel library, as above",
    "cli/compare.py:check_ours": "a text that is kept unless its digest is right: tests/test_nothing_lost.py",
    "cli/report.py:check_page": "the beginning of a page that is to be replaced: tests/test_nothing_lost.py",
    "cli/doctor.py:trial": "a run that doctor has just made itself",
    "data/cache.py:_mapped_file": "a file that it has just made itself",
    "distillation/run.py:_keep_metrics": "lines, read by read_lines",
    "experiment/pipeline.py:_draw_curves": "lines, read by read_lines",
    "experiment/pipeline.py:prepare": "an object, read by read_json",
    "runtime/files.py:replacing": "a file that it has just written itself",
    "runtime/machine.py:_text": "/proc and /sys",
    "runtime/owners.py:_stat": "/proc",
    "runtime/owners.py:machine": "/proc",
    "runtime/provenance.py:cpuinfo": "/proc",
    "runtime/status.py:_pages": "/proc",
    "runtime/status.py:_workers": "/proc",
    "runtime/parallel.py:_read": "the pipe to a worker of its own",
    "runtime/worker.py:_listen": "the pipe to its parent",
    "runtime/worker.py:sendable": "an error of its own",
    "runtime/cluster.py:_answer": "what a job of the user's own cluster sends",
    "runtime/cluster.py:_source_digest": "the package's own sources",
    "runtime/cluster.py:_prepare": "what the driver of the user's own cluster sends",
    "runtime/cluster.py:job": "what the driver of the user's own cluster sends",
    "runtime/cluster.py:report_facts": "what the driver of the user's own cluster sends",
    "runtime/mirror.py:_copy": "files of the run that is going on, which are copied as bytes",
    "runtime/ranks.py:_gather": "what a rank of the user's own torchrun sends",
    "runtime/ranks.py:_receive": "what rank 0 of the user's own torchrun sends",
    "runtime/ranks.py:run": "what a rank of the user's own torchrun sends",
    "experts/cloud.py:_put_state": "a state that this process has just saved",
    "experiment/tuning.py:_study": "lines that Optuna reads: tests/test_tune.py",
    "runtime/worker.py:serve": "the pipe to its parent",
}
"""Functions that read files and that no reader enters, with what they read instead of a file of the user's."""

MAY_BE_PIPES = ("settings in a file", *(name for name in READERS if name.endswith("in the cloud")))
"""Readers of a file that a user names by hand, since `--config <(...)` is a pipe, and of objects, which are none."""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a file of every kind in it, which is the current one, and the cache in it."""
    folder, patch = tmp_path_factory.mktemp("fuzz"), pytest.MonkeyPatch()
    patch.setenv("ASTDISTILL_CACHE", str(folder / "desk/cache"))
    (folder / "desk").mkdir()
    patch.chdir(folder / "desk")
    lay(folder / "desk")
    shutil.copytree(folder / "desk", folder / "whole")
    yield folder / "desk"
    patch.undo()


def restore(desk: Path) -> None:
    """Everything as it was written; what nobody has touched stays, with all its times."""
    whole = desk.parent / "whole"
    known, there = listed_once(whole), listed(desk)
    for name in sorted(there.keys() - known.keys(), reverse=True):
        _removed(desk / name)
    for name, times in known.items():
        if name in there and there[name] == times:
            continue
        if times is None:
            (desk / name).mkdir()
            continue
        (desk / name).unlink(missing_ok=True)  # one that is mapped stays as it was
        shutil.copy2(whole / name, desk / name)


def listed(folder: Path) -> dict[str, tuple[int, int] | None]:
    """All below it, a folder before what it holds: the size and the time of a file, None of a folder."""
    found = dict[str, tuple[int, int] | None]()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(folder / below) as entries:
            for entry in entries:
                name = f"{below}{entry.name}"
                if entry.is_dir():
                    found[name] = None
                    waiting.append(f"{name}/")
                else:
                    told = entry.stat()
                    found[name] = told.st_size, told.st_mtime_ns
    return found


listed_once = functools.cache(listed)
"""For what nobody changes."""


def _removed(path: Path) -> None:
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink()


def damage(desk: Path, file: Path, data: bytes) -> None:
    """Write a new file of these bytes in the place of one."""
    (desk / file).unlink()
    (desk / file).write_bytes(data)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Raise TimeoutError in the block where it does not end."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TimeoutError(f"{LIMIT_S} s, and no end")

    if not hasattr(signal, "alarm"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


ENTERED: dict[str, set[str]] = {}
"""What each reader that was read whole here has entered."""


def read_whole(name: str, desk: Path) -> object:
    """What the reader makes of its file as it was written."""
    results: list[object] = []
    restore(desk)
    with in_time():
        ENTERED[name] = entered(lambda: results.append(READERS[name].read(desk)))
    return results[0]


def outcome(reader: Reader, desk: Path) -> tuple[str, object]:
    """What comes of reading: a result, or a sentence. Anything else is raised."""
    try:
        with in_time():
            return "read", reader.read(desk)
    except (InputError, ValidationError) as error:  # of both the command line makes one sentence, and exits with 2
        if not str(error) or "\x1b" in str(error):
            raise AssertionError(f"no sentence for people: {error!r}") from error
        return "sentence", None


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damage_is_told_in_a_sentence(name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader, whole, counted = READERS[name], desk.parent / "whole", Counter[str]()
    file = sorted(whole.glob(reader.file))[0].relative_to(whole)
    sound = read_whole(name, desk)

    @settings(
        max_examples=EXAMPLES * 2,
        derandomize=not LONG,
        deadline=None,
        database=None,
        phases=(Phase.generate,),  # a file and a seed say enough; making them smaller takes minutes
        report_multiple_bugs=False,
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(st.sampled_from(MUTATIONS), st.integers(0, 2**32))
    def tried(mutate: Callable[[bytes, random.Random], bytes], seed: int) -> None:
        data = (whole / file).read_bytes()
        damaged = mutate(data, random.Random(seed))
        restore(desk)
        damage(desk, file, damaged)
        kind, result = outcome(reader, desk)
        if reader.sealed and kind == "read":
            assert result == sound, f"{name}: other contents are read without a word"
            kind = "the same contents"
        counted[kind] += 1

    tried()
    capsys.readouterr()
    if REPORT:
        with Path(REPORT).open("a", encoding="utf-8") as report:
            report.write(json.dumps({"file": name, "sealed": reader.sealed, **counted}) + "\n")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize("name", [name for name in READERS if name not in MAY_BE_PIPES])
def test_nobody_waits_for_a_pipe_in_the_place_of_a_file(name: str, desk: Path) -> None:
    """Archives hold them, and opening one waits until somebody writes to it."""
    reader, whole = READERS[name], desk.parent / "whole"
    file = sorted(whole.glob(reader.file))[0].relative_to(whole)
    sound = read_whole(name, desk)
    restore(desk)
    (desk / file).unlink()
    os.mkfifo(desk / file)
    kind, result = outcome(reader, desk)
    assert kind == "sentence" or not reader.sealed or result == sound, f"{name}: other contents are read without a word"


@pytest.mark.slow
def test_every_place_that_reads_files_is_tried(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A new reader of files fails here until it has a line in `READERS`, or a word on whose files it reads."""
    for name in READERS.keys() - ENTERED.keys():
        read_whole(name, desk)
    tried = set[str]().union(*ENTERED.values())
    capsys.readouterr()
    missing = sorted(sites() - tried - NOT_OF_STRANGERS.keys())
    assert not missing, " ".join(missing)
    assert sorted(NOT_OF_STRANGERS.keys() - sites()) == [], "these read no files any more"


def test_what_reads_files_is_seen(tmp_path: Path) -> None:
    assert {"data/mat_files.py:read_mat", "data/cifar.py:_bytes", "runtime/files.py:load_tensors"} <= sites()
    (tmp_path / "a.json").write_text("{}")
    from astdistill.runtime.files import read_json

    assert "runtime/files.py:parse_json" in entered(lambda: read_json(tmp_path / "a.json"))


def test_every_mutation_changes_a_file() -> None:
    draw = random.Random(0)
    data = b'{"a": [1, 2, {"b": "c"}]}' * 3
    for mutate in MUTATIONS:
        assert any(mutate(data, draw) != data for _ in range(20))
