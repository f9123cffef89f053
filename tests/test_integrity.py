"""A flipped bit, wherever it is, is one sentence: in expert rows, half-trained experts, states, sets, preprocessing."""

from __future__ import annotations

import json
import os
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import Killed, killed_at_write
from problems import TINY, TINY_RECIPE, blobs, same_set, same_store, tiny_experts
from safetensors import safe_open
from safetensors.torch import save_file

from astdistill.cli.main import main
from astdistill.data.synthetic import SyntheticSet
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import DIGESTS, load_tensors, save_tensors

METHOD = MTT.replace(expert=TINY_RECIPE, step=TrajectoryMatching(syn_steps=2, expert_epochs=1, max_start_epoch=2))
SETTINGS = DistillSettings(iterations=3, lr_img=1.0, augmentation="")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two experts and a run, with preprocessing that has a matrix."""
    place = tmp_path_factory.mktemp("made")
    dataset = blobs(whiten="zca")
    store = tiny_experts(place / "experts", dataset)
    distill(dataset, store, method=METHOD, settings=SETTINGS, out=place / "run")
    return place


def flipped(whole: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(whole)
    changed[at] ^= 1 << bit
    return bytes(changed)


def bits(whole: bytes, count: int = 150) -> list[tuple[int, int]]:
    """Bits of the header's length, of the header, and of the numbers."""
    draw, numbers = random.Random(len(whole)), 8 + struct.unpack("<Q", whole[:8])[0]
    places = [draw.randrange(8, numbers) for _ in range(count)] + [
        draw.randrange(numbers, len(whole)) for _ in range(count)
    ]
    return [(at, draw.randrange(8)) for at in [0, 1, *places, len(whole) - 1]]


def experts_of(folder: Path) -> Any:
    store = TrajectoryStore.open(folder)
    return torch.stack([store.rows(k, 0, 7) for k in (0, 1)]), store.curves()


READERS: dict[str, Callable[[Path], Any]] = {
    "experts/*/001.safetensors": lambda path: experts_of(path.parent),
    "experts/*/preprocessing.safetensors": lambda path: TrajectoryStore.open(path.parent).preprocessing.hash,
    "run/state.safetensors": load_tensors,
    "run/synthetic.safetensors": SyntheticSet.load,
    "run/course/000000.safetensors": load_tensors,
}


def same(first: Any, second: Any) -> bool:
    if isinstance(first, SyntheticSet):
        return same_set(first, second) and first.header() == second.header()
    if isinstance(first, tuple):
        return all(map(same, first, second))
    if isinstance(first, dict):
        return first.keys() >= second.keys() and all(same(first[name], second[name]) for name in second)
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    return first == second


@pytest.mark.parametrize("name", READERS)
def test_a_flipped_bit_is_a_sentence_or_changes_nothing(name: str, made: Path) -> None:
    """What changes nothing is a bit of the blanks after the header."""
    (path,) = made.glob(name)
    whole, read = path.read_bytes(), READERS[name]
    right, refused, told = read(path), 0, set()
    places = bits(whole)
    try:
        for at, bit in places:
            path.unlink()  # a file that is mapped stays as it was
            path.write_bytes(flipped(whole, at, bit))
            try:
                assert same(read(path), right), f"bit {bit} of byte {at} was used"
            except InputError as error:
                refused += 1
                told.add(path.name in str(error))
    finally:
        path.unlink()
        path.write_bytes(whole)
    assert told == {True}, "each sentence names the file"
    assert refused > 0.97 * len(places)


@pytest.mark.parametrize("name", READERS)
def test_digests_under_a_damaged_name_are_looked_at_as_well(name: str, made: Path) -> None:
    """Otherwise the file would count as one of an earlier version, and further flipped bits would be used."""
    (path,) = made.glob(name)
    whole = path.read_bytes()
    try:
        path.unlink()
        path.write_bytes(whole.replace(b'"digests"', b'"dIgests"', 1))
        with pytest.raises(InputError, match="digest"):
            READERS[name](path)
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_a_flipped_row_names_file_expert_row_and_command(made: Path) -> None:
    (path,) = made.glob("experts/*/001.safetensors")
    whole = path.read_bytes()
    try:
        path.unlink()
        path.write_bytes(flipped(whole, len(whole) - 10, 6))
        store = TrajectoryStore.open(path.parent)
        assert store.rows(1, 0, 6).shape[0] == 6, "rows that are read alone are checked alone"
        words = (
            r"001\.safetensors was changed after it was written: row 6 of expert 1 does not match its digest; delete it "
            r"and run the same command again, or train that expert with: astdistill experts PRESET"
        )
        with pytest.raises(InputError, match=words):
            store.rows(1, 6, 7)
    finally:
        path.unlink()
        path.write_bytes(whole)


def test_what_the_sentence_says_mends_the_store(tmp_path: Path) -> None:
    dataset = blobs()
    whole, store = tiny_experts(tmp_path / "whole", dataset), tiny_experts(tmp_path / "store", dataset)
    for name in ("001.safetensors", "preprocessing.safetensors"):
        path = store.folder / name
        right = load_tensors(path)
        path.unlink()  # which is all that the sentence asks for
        assert same_store(tiny_experts(tmp_path / "store", dataset), whole)
        assert same(load_tensors(path), right)


def test_a_recipe_that_is_not_its_folders_is_refused(tmp_path: Path) -> None:
    store = tiny_experts(tmp_path, blobs(), count=1)
    recipe = store.folder / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"lr": 0.05', '"lr": 0.04'))
    for read in (lambda: TrajectoryStore.open(store.folder), lambda: tiny_experts(tmp_path, blobs(), count=1)):
        with pytest.raises(InputError, match=r"recipe\.json was changed after it was written"):
            read()


@pytest.mark.parametrize("name", ["rows.bin", "state.safetensors"])
def test_a_flipped_bit_of_a_half_trained_expert_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    dataset = blobs()
    with pytest.raises(Killed), killed_at_write(monkeypatch, 9):
        tiny_experts(tmp_path / "cut", dataset, count=1)
    (path,) = (tmp_path / "cut").glob(f"*/000.partial/{name}")
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(20):
        # Half a file from its beginning, where the rows are, or from its end, where the tensors of the state are: the
        # last row may be ahead of the state, and is then cut off anyhow.
        at = draw.randrange(len(whole) // 2) + (len(whole) // 2) * (name != "rows.bin")
        path.write_bytes(flipped(whole, at, draw.randrange(8)))
        with pytest.raises(InputError, match=rf"000\.partial/{name}"):
            tiny_experts(tmp_path / "cut", dataset, count=1)
    path.write_bytes(whole)
    assert same_store(
        tiny_experts(tmp_path / "cut", dataset, count=1), tiny_experts(tmp_path / "whole", dataset, count=1)
    )


def without_digests(path: Path) -> None:
    """The file as an earlier version wrote it."""
    tensors, header = load_tensors(path)
    path.unlink()
    save_file(tensors, path, metadata={name: json.dumps(value) for name, value in header.items()})


def test_files_without_digests_are_read_as_before_and_get_them_when_saved_again(tmp_path: Path) -> None:
    dataset = blobs()
    store = tiny_experts(tmp_path / "s", dataset, count=1)
    run = tmp_path / "run"
    synthetic = distill(dataset, store, method=METHOD, settings=SETTINGS, out=run)
    rows = store.rows(0, 0, 7)
    for path in (store.path(0), store.folder / "preprocessing.safetensors", run / "synthetic.safetensors"):
        without_digests(path)
    assert torch.equal(TrajectoryStore.open(store.folder).rows(0, 0, 7), rows)
    old = SyntheticSet.load(run)
    assert same_set(old, synthetic)
    old.save(tmp_path / "again.safetensors")
    with safe_open(tmp_path / "again.safetensors", framework="pt") as file:
        assert DIGESTS in file.metadata()


def test_digests_cover_types_shapes_and_every_word_of_the_header(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.zeros(2, 6), "b": torch.tensor(True), "c": torch.zeros(0, 3)}, {"note": "x"})
    raw = path.read_bytes()
    for old, new in ((b"[2,6]", b"[6,2]"), (b'"note":"\\"x', b'"note":"\\"y'), (b'"dtype":"F32"', b'"dtype":"I32"')):
        assert old in raw
        path.write_bytes(raw.replace(old, new))
        with pytest.raises(InputError, match=r"x\.safetensors was changed after it was written: its header"):
            load_tensors(path)


def test_verify_reads_stores_runs_and_files(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["verify", str(made)]) == 0
    assert ": none damaged." in capsys.readouterr().out
    for name, what in {
        "experts/*/000.safetensors": "row 6 of expert 0 does not match its digest",
        "experts/*/recipe.json": "cannot be read as JSON",
        "run/synthetic.safetensors": "does not match its digest",
        "run/state.safetensors": "does not match its digest",
    }.items():
        (path,) = made.glob(name)
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 64]) + whole[-8:] if name.endswith("s") else whole[:-9])
        for target in (path, made):
            assert main(["verify", str(target)]) == 1
            said = capsys.readouterr().out
            assert what in said
            assert path.name in said
            assert "1 damaged" in said or path.name == "recipe.json"
        path.unlink()
        path.write_bytes(whole)
    (tmp_path / "empty").mkdir()
    assert main(["verify", str(tmp_path / "empty")]) == 2
    assert "has no files of astdistill" in capsys.readouterr().err


def test_verify_says_what_has_no_digests_and_reads_half_trained_experts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    short = train_experts(blobs(), model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path, stop_after=2)
    with pytest.raises(Killed), killed_at_write(monkeypatch, 3):
        tiny_experts(tmp_path, blobs(), count=1)
    rows = short.folder / "000.partial" / "rows.bin"
    assert main(["verify", str(tmp_path)]) == 0
    capsys.readouterr()
    rows.write_bytes(flipped(rows.read_bytes(), 5, 5))
    assert main(["verify", str(tmp_path)]) == 1
    assert "row 0 of expert 0 does not match its digest; delete the folder" in capsys.readouterr().out
    rows.unlink()
    without_digests(short.path(0))
    assert main(["verify", str(short.path(0))]) == 0
    assert "1 are of an earlier version, without digests" in capsys.readouterr().out


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o027, 0o077])
def test_files_and_folders_are_for_whom_the_umask_says(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        dataset = blobs()
        store = tiny_experts(tmp_path / "s", dataset, count=1)
        distill(dataset, store, method=METHOD, settings=SETTINGS, out=tmp_path / "run")
    finally:
        os.umask(before)
    found = [path for path in tmp_path.rglob("*") if path != tmp_path]
    assert len(found) > 8
    for path in found:
        wanted = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == wanted & ~umask, path
