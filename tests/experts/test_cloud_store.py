"""Stores whose experts are objects: the bits of a folder, whoever is stopped and wherever it goes on. The place is
fsspec's memory; `tests/cluster/test_s3.py` does the same on S3."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from killing import Killed
from problems import TINY, TINY_RECIPE, blobs, same_set, same_store, tiny_experts

from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts import cloud
from astdistill.experts.cloud import CloudFiles, scratch_of
from astdistill.experts.partial import state_epochs
from astdistill.experts.store import TrajectoryStore, check_root
from astdistill.experts.training import train_experts
from astdistill.methods.outer_step import TrajectoryMatching
from astdistill.methods.trajectory_matching import MTT
from astdistill.runtime.errors import InputError
from astdistill.runtime.objects import Objects, Url, path_or_url

ROOT = "memory://bucket/experts"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("local"), dataset)


@pytest.fixture(autouse=True)
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """An empty memory of objects, and a cache folder of this test's own."""
    monkeypatch.setenv("ASTDISTILL_CACHE", str(tmp_path / "cache"))
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory.store
    memory.store.clear()


def experts(dataset: Dataset, **words: object) -> TrajectoryStore:
    wanted: dict[str, object] = {"model": TINY, "recipe": TINY_RECIPE, "count": 2, "store": ROOT} | words
    return train_experts(dataset, **wanted)  # pyright: ignore[reportArgumentType]


def names() -> list[str]:
    return sorted(name.split("/", 1)[1] for name in Objects(url()).sizes() if "/" in name)


def url() -> Url:
    where = path_or_url(ROOT)
    assert isinstance(where, Url)
    return where


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What is read by range, as the names of objects and bytes."""
    seen: list[tuple[str, int]] = []
    original = Objects.read

    def noted(self: Objects, name: str, start: int, stop: int) -> bytes:
        data = original(self, name, start, stop)
        seen.append((name, len(data)))
        return data

    monkeypatch.setattr(Objects, "read", noted)
    return seen


def test_experts_are_those_of_a_folder_and_nothing_else_stays_behind(dataset: Dataset, local: TrajectoryStore) -> None:
    store = experts(dataset)
    assert same_store(store, local)
    assert names() == ["000.safetensors", "001.safetensors", "preprocessing.safetensors", "recipe.json"]
    assert store.folder == Url(ROOT) / local.folder.name
    assert str(store.path(1)) == f"{ROOT}/{local.folder.name}/001.safetensors"
    assert sorted(each.name for each in store.scratch.iterdir() if not each.name.endswith(".lock")) == ["log.jsonl"]
    assert same_store(TrajectoryStore.open(ROOT), local), "the one store below an address is found"
    assert store.preprocessing.hash == local.preprocessing.hash


def test_bfloat16_rows_are_equal_too(dataset: Dataset, tmp_path: Path) -> None:
    store = experts(dataset, dtype="bfloat16", count=1)
    assert same_store(store, experts(dataset, dtype="bfloat16", count=1, store=tmp_path))


def test_a_segment_is_one_header_and_one_range(dataset: Dataset, read: list[tuple[str, int]]) -> None:
    store = experts(dataset)
    read.clear()
    for epoch in range(3):
        store.segment(1, epoch, 2)
    (header, whole), *ranges = read
    assert header == "001.safetensors"
    assert whole <= cloud.HEADER
    assert ranges == [("001.safetensors", 3 * 4 * store.identity.parameters)] * 3


def test_a_long_header_is_read_by_two_requests(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, read: list[tuple[str, int]]
) -> None:
    monkeypatch.setattr(cloud, "HEADER", 100)
    assert same_store(experts(dataset), local)
    assert ("000.safetensors", 100) in read


def test_distillation_reads_the_next_segment_ahead_to_the_same_images(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, read: list[tuple[str, int]]
) -> None:
    store = experts(dataset)
    method = MTT.replace(step=TrajectoryMatching(syn_steps=2, expert_epochs=2, max_start_epoch=3, trajectories=2))
    settings = DistillSettings(iterations=4, augmentation="", lr_init=0.05)
    before, fetched = [], []
    original = CloudFiles.read_ahead

    def noted(self: CloudFiles, draw: Callable[[], object]) -> None:
        before.append(len(read))
        original(self, draw)
        self._ahead._wait()
        fetched.append(len(read))

    monkeypatch.setattr(CloudFiles, "read_ahead", noted)
    read.clear()
    distilled = distill(dataset, store, method=method, settings=settings)
    assert same_set(distilled, distill(dataset, local, method=method, settings=settings))
    assert before[1:] == fetched[:-1], "nothing is read but by the thread, after the first segment"
    assert len(fetched) == 8
    assert len(read) <= 2 * (8 + 1), "at most two requests for each segment"


def test_of_two_writers_the_first_stays_and_the_second_says_so(
    dataset: Dataset, local: TrajectoryStore, capsys: pytest.CaptureFixture[str], objects: dict[str, bytes]
) -> None:
    store = experts(dataset)
    files = store.files
    for changed, words in {False: "the same bits", True: "other bits"}.items():
        other = local.path(0).read_bytes()
        if changed:
            other = other.replace(b"digests", b"Digests")
        store.scratch.joinpath("000.safetensors").write_bytes(other)
        files.publish(0, TINY_RECIPE.epochs, store.scratch / "000.partial")
        said = capsys.readouterr().err
        assert f"Expert 0 was saved by another process first; {store.path(0)} stays, with {words}" in said
    assert same_store(TrajectoryStore.open(ROOT), local)
    assert not store.scratch.joinpath("000.safetensors").exists()


@pytest.mark.parametrize("dies_after", [1, 5])
def test_a_killed_training_goes_on_elsewhere_to_the_same_bits(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch, dies_after: int
) -> None:
    """Killed without a word after so many epochs, with states saved after each; the other machine has no scratch."""
    monkeypatch.setattr(cloud, "SAVE_S", 0.0)
    left = [dies_after]
    original = CloudFiles.save

    def save(self: CloudFiles, partial: object) -> None:
        original(self, partial)  # pyright: ignore[reportArgumentType]
        left[0] -= 1
        if not left[0]:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(CloudFiles, "save", save)
        patch.setattr(CloudFiles, "at_work", lambda *_: nullcontext())
        with pytest.raises(Killed):
            experts(dataset)
    assert names()[0] == f"000.partial/{dies_after:04d}.safetensors"
    assert len(names()) == 3, "the state before is gone"
    shutil.rmtree(scratch_of(url() / local.folder.name))
    epochs: list[int] = []
    monkeypatch.setattr(CloudFiles, "save", lambda *_: epochs.append(1))
    assert same_store(experts(dataset), local)
    assert len(epochs) == 2 * TINY_RECIPE.epochs - dies_after, "only what was missing has been trained"
    assert not any("partial" in name for name in names())


def test_what_a_signal_stops_is_saved_at_once(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[int] = []

    def stop(*_: object) -> None:
        epochs.append(1)
        if len(epochs) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("astdistill.experts.training.append_line", stop)
        with pytest.raises(KeyboardInterrupt):
            experts(dataset)
    assert names()[0] == "000.partial/0003.safetensors"
    shutil.rmtree(scratch_of(url() / local.folder.name))
    assert same_store(experts(dataset), local)


@pytest.mark.parametrize(("dtype", "moves"), [("float32", False), ("bfloat16", True)])
def test_stopped_experts_are_trained_on_from_where_they_are(
    dataset: Dataset, tmp_path: Path, dtype: str, moves: bool
) -> None:
    first = experts(dataset, stop_after=2, dtype=dtype)
    assert first.epochs == 2
    assert [name for name in names() if name[0] == "0"] == [
        "000-0002.safetensors",
        "000.partial/0002.safetensors",
        "001-0002.safetensors",
        "001.partial/0002.safetensors",
    ]
    if moves:
        shutil.rmtree(first.scratch)
    assert experts(dataset, stop_after=4, dtype=dtype).epochs == 4
    store = experts(dataset, dtype=dtype)
    assert same_store(store, experts(dataset, dtype=dtype, store=tmp_path))
    assert "000.partial/0004.safetensors" not in names()


def half_way(dataset: Dataset, has_rows: bool, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Expert 0 with three epochs, whose state has its rows, as after Ctrl-C, or whose rows are an object, as after a
    training that was to stop there; nothing of it is on this machine. Returns the folder for local files."""
    ended: list[int] = []

    def stop(*_: object) -> None:
        ended.append(1)
        if len(ended) == 3:
            raise KeyboardInterrupt

    if has_rows:
        with monkeypatch.context() as patch:
            patch.setattr("astdistill.experts.training.append_line", stop)
            with pytest.raises(KeyboardInterrupt):
                experts(dataset, count=1)
    else:
        experts(dataset, count=1, stop_after=3)
    (store,) = scratch_of(url() / "x").parent.iterdir()
    shutil.rmtree(store)
    return store


@pytest.mark.parametrize("has_rows", [True, False], ids=["with rows", "rows in the object"])
@pytest.mark.parametrize("kill_at", range(7))
def test_a_download_that_is_killed_leaves_nothing_half(
    has_rows: bool, kill_at: int, dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is killed, the same call goes on from the saved epochs to the same bits."""
    scratch = half_way(dataset, has_rows, monkeypatch)
    with monkeypatch.context() as patch:
        left = [kill_at]

        def counted(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(*words: Any, **more: Any) -> Any:
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return original(*words, **more)

            return call

        patch.setattr(Objects, "read_all", counted(Objects.read_all))
        patch.setattr(Path, "write_bytes", counted(Path.write_bytes))
        patch.setattr(cloud, "save_tensors", counted(cloud.save_tensors))
        patch.setattr(cloud, "remove_folder", counted(cloud.remove_folder))
        with suppress(Killed):
            CloudFiles(url() / local.folder.name).fetch(0, TINY_RECIPE.epochs)
    half = [folder for folder in scratch.glob("*.partial") if state_epochs(folder) != 3]
    assert not half, "what is there under a name that is read is whole"
    epochs: list[int] = []
    monkeypatch.setattr(CloudFiles, "save", lambda *_: epochs.append(1))
    assert same_store(experts(dataset), local)
    assert len(epochs) == 2 * TINY_RECIPE.epochs - 3
    assert not list(scratch.glob("*.partial"))
    assert not any("partial" in name for name in names())


@pytest.mark.parametrize("has_rows", [True, False], ids=["with rows", "rows in the object"])
@pytest.mark.parametrize("size", [0, 4, 100, -4])
def test_a_download_that_comes_short_is_one_sentence_and_done_again(
    has_rows: bool, size: int, dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    half_way(dataset, has_rows, monkeypatch)
    read_all = Objects.read_all

    def short(self: Objects, name: str) -> bytes:
        cut = "partial" in name if has_rows else name.startswith("000-")
        return read_all(self, name)[: size if cut else None]

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "read_all", short)
        with pytest.raises(InputError, match=rf"{ROOT}/\S+/000\S+safetensors"):
            experts(dataset)
    assert same_store(experts(dataset), local)


def test_an_expert_that_could_not_be_put_is_put_by_the_next_call(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(self: Objects, name: str, data: bytes) -> bool:
        if name.startswith("00"):
            raise InputError("offline")
        return original(self, name, data)

    original = Objects.put
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "put", offline)
        with pytest.raises(InputError, match="offline"):
            experts(dataset)
    trained: list[int] = []
    monkeypatch.setattr(CloudFiles, "save", lambda self, partial: trained.append(partial.expert))
    assert same_store(experts(dataset), local)
    assert 0 not in trained, "the file of the first one was there"


def test_a_store_that_was_copied_from_a_folder_is_read_and_trained_on(
    dataset: Dataset, local: TrajectoryStore, tmp_path: Path
) -> None:
    stopped = experts(dataset, store=tmp_path, stop_after=2)
    for file in stopped.folder.glob("*.*"):
        if file.is_file():
            Objects(url() / stopped.folder.name).put(file.name, file.read_bytes())
    assert experts(dataset, stop_after=2).epochs == 2
    assert same_store(experts(dataset), local)
    assert "000-0006.safetensors" in names(), "no object is put over another"


@pytest.mark.parametrize("at", [-3, 40])
def test_damage_names_the_object_and_the_expert(
    dataset: Dataset, objects: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    store = experts(dataset, count=1)
    path = str(store.path(0)).removeprefix("memory:/")
    data = bytearray(objects[path].getvalue())  # pyright: ignore[reportAttributeAccessIssue]
    data[at] ^= 1
    fsspec.filesystem("memory").pipe_file(path, bytes(data))
    with pytest.raises(InputError, match=r"memory://bucket/\S+/000\.safetensors") as refused:
        TrajectoryStore.open(ROOT).rows(0, 0, 7)
    if at < 0:
        assert "row 6 of expert 0 does not match its digest" in str(refused.value)


def test_an_object_that_is_cut_short_is_no_trajectory(dataset: Dataset, objects: dict[str, bytes]) -> None:
    store = experts(dataset, count=1)
    path = str(store.path(0)).removeprefix("memory:/")
    data = fsspec.filesystem("memory").cat_file(path)
    for size in (4, 100, len(data) - 4):
        fsspec.filesystem("memory").pipe_file(path, data[:size])
        with pytest.raises(InputError, match=r"000\.safetensors (is|does) not .*a whole trajectory"):
            TrajectoryStore.open(ROOT).rows(0, 0, 7)


def test_addresses_are_paths_with_a_scheme(tmp_path: Path) -> None:
    assert str(path_or_url("s3://bucket/a//b/")) == "s3://bucket/a/b"
    assert path_or_url(Path("s3://bucket/a")) == Url("s3://bucket/a"), "as a path has it that was made of it"
    assert path_or_url(f"file://{tmp_path}") == tmp_path
    assert path_or_url("experts") == Path("experts")
    assert not isinstance(path_or_url("C:/experts"), Url)
    assert str(Url("s3://bucket/a") / "b" / "c.txt") == "s3://bucket/a/b/c.txt"
    assert str(Url("s3://bucket/a").parent) == "s3://bucket"


def test_what_cannot_hold_a_store_is_said_in_a_sentence(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, objects: dict[str, bytes]
) -> None:
    with pytest.raises(InputError, match=r"'ftp' is no scheme of a store; choose a folder, or one of s3://, gs://"):
        path_or_url("ftp://host/experts")
    with pytest.raises(InputError, match=r"s3:// names no bucket; write s3://BUCKET/FOLDER"):
        path_or_url("s3://")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        patch.setattr("astdistill.runtime.objects._SYSTEMS", {})
        with pytest.raises(InputError, match=r"needs the package s3fs, .* with: pip install 'astdistill\[s3\]'"):
            experts(dataset, store="s3://bucket/experts")
    store = experts(dataset, count=1)
    with pytest.raises(InputError, match=rf"is a store itself.*--experts.store {ROOT} --experts.imported"):
        check_root(store.folder)
    objects.clear()
    original = type(fsspec.filesystem("memory")).pipe_file
    with monkeypatch.context() as patch:
        patch.setattr(
            "fsspec.implementations.memory.MemoryFileSystem.pipe_file",
            lambda self, path, value, mode: original(self, path, value),
        )
        with pytest.raises(InputError, match="lets a second object replace the first"):
            experts(dataset)


def test_a_store_that_may_only_be_read_is_enough_where_nothing_is_missing(
    dataset: Dataset, local: TrajectoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    experts(dataset)

    def refused(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.pipe_file", refused)
    assert same_store(experts(dataset), local)
    with pytest.raises(InputError, match=r"may not be used \(Access Denied\); the rights to list, read and put"):
        experts(dataset, count=3)


def test_a_thread_that_reads_ahead_keeps_its_errors_for_those_who_ask(dataset: Dataset, local: TrajectoryStore) -> None:
    store = experts(dataset)
    store.read_ahead(lambda: store.rows(0, 0, 99))
    assert torch.equal(store.rows(0, 0, 2), local.rows(0, 0, 2))
    store.read_ahead(lambda: store.rows(1, 0, 2))
    assert torch.equal(store.rows(1, 2, 4), local.rows(1, 2, 4))


@pytest.mark.parametrize(
    "about",
    [{"dtype": "F64"}, {"shape": []}, {"shape": [-1, 3]}, {"shape": ["a"]}, {"data_offsets": [-8, 0]}, {"shape": None}],
    ids=str,
)
def test_a_header_that_describes_no_rows_is_one_sentence(about: dict[str, object]) -> None:
    whole = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
    header = json.dumps({cloud.ROWS: whole | about}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(24)
    with pytest.raises(InputError, match="does not hold a whole trajectory"):
        cloud.RemoteTensors(Path("000.safetensors"), lambda start, stop: data[start:stop]).get_slice(cloud.ROWS)
