"""Damaged files of every kind: the right result, a sentence, or a rebuilt cache; never a traceback.

`make fuzz EXAMPLES=5000` tries more, each time others; here few, always the same.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz.mutations import MUTATIONS
from fuzz.readers import READERS, Reader, lay
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from astdistill.runtime.errors import InputError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "6"))
LONG = "FUZZ_EXAMPLES" in os.environ
TRIED: Counter[str] = Counter()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a file of every kind in it, which is the current one."""
    folder, patch = tmp_path_factory.mktemp("fuzz"), pytest.MonkeyPatch()
    patch.setenv("ASTDISTILL_CACHE", str(folder / "cache"))
    (folder / "desk").mkdir()
    patch.chdir(folder / "desk")
    lay(folder / "desk")
    shutil.copytree(folder / "desk", folder / "whole")
    yield folder / "desk"
    patch.undo()
    tried = ", ".join(f"{count} {what}" for what, count in sorted(TRIED.items()))
    print(f"\nfuzz: {sum(TRIED.values())} mutations of {len(READERS)} readers tried: {tried}")
    if report := os.environ.get("FUZZ_REPORT"):
        Path(report).write_text(f"{dict(TRIED)}\n", encoding="utf-8")


def restore(desk: Path) -> None:
    """Everything as it was written; the folder itself stays, since it is the current one."""
    for path in desk.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    shutil.copytree(desk.parent / "whole", desk, dirs_exist_ok=True)


def outcome(reader: Reader, desk: Path) -> tuple[str, object]:
    """What comes of reading: a result, or a sentence. Anything else is raised."""
    try:
        return "read", reader.read(desk)
    except (InputError, ValidationError) as error:  # of both the command line makes one sentence, and exits with 2
        if not str(error) or "\x1b" in str(error):
            raise AssertionError("no sentence for people") from error
        return "sentence", None


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_damage_is_told_in_a_sentence(name: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reader, whole = READERS[name], desk.parent / "whole"
    restore(desk)
    file = sorted(desk.glob(reader.file))[0].relative_to(desk)
    kind, sound = outcome(reader, desk)
    assert kind == "read", f"{name}: {file} is not read even where it is whole"

    @settings(
        max_examples=EXAMPLES * 3,
        derandomize=not LONG,
        deadline=None,
        database=None,
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
    )
    @given(st.sampled_from(MUTATIONS), st.integers(0, 2**32))
    def tried(mutate: Callable[[bytes, random.Random], bytes], seed: int) -> None:
        data = (whole / file).read_bytes()
        damaged = mutate(data, random.Random(seed))
        restore(desk)
        (desk / file).write_bytes(damaged)
        kind, result = outcome(reader, desk)
        TRIED[kind] += 1
        if reader.sealed and kind == "read":
            assert result == sound, f"{name}: other contents are read without a word"

    tried()
    capsys.readouterr()


def test_every_reader_has_a_file_and_every_mutation_changes_one() -> None:
    draw = random.Random(0)
    data = b'{"a": [1, 2, {"b": "c"}]}' * 3
    for mutate in MUTATIONS:
        assert any(mutate(data, draw) != data for _ in range(20))
    assert len(READERS) >= 28
