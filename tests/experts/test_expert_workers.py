"""Experts trained side by side: the same store as one process makes, whatever is killed on the way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from problems import TINY, TINY_RECIPE, blobs, same_store, tiny_experts

from astdistill.experts import training
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import append_line, lock, read_lines
from astdistill.runtime.parallel import WorkerPlan


def test_tiny_work_stays_in_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With two cores and two threads to give away."""
    seen: list[int] = []
    monkeypatch.setattr(training, "plan_workers", lambda *_: WorkerPlan(2, 1))
    monkeypatch.setattr(training, "train_expert", lambda dataset, store, expert, *_: seen.append(expert))
    monkeypatch.setattr(TrajectoryStore, "trained_epochs", lambda store, expert: 99 * (expert in seen))
    tiny_experts(tmp_path, blobs(), count=3)
    assert seen == [0, 1, 2]


def test_one_sentence_for_no_workers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 workers were asked for; choose --workers of 1 or more"):
        train_experts(blobs(), model=TINY, recipe=TINY_RECIPE, count=1, store=tmp_path / "none", workers=0)
    assert not (tmp_path / "none").exists()


def test_two_workers_make_the_store_of_one_process(tmp_path: Path) -> None:
    """With a user's network, which the workers find by its import path, and images in a file, which they map
    themselves."""
    dataset, recipe = blobs(memory="disk"), TINY_RECIPE.replace(epochs=3)
    one = train_experts(dataset, model="jobs:factory", recipe=recipe, count=3, store=tmp_path / "one", workers=1)
    two = train_experts(dataset, model="jobs:factory", recipe=recipe, count=3, store=tmp_path / "two", workers=2)
    assert same_store(one, two)
    logged = read_lines(two.folder / "log.jsonl")
    assert sorted((line["expert"], line["epoch"]) for line in logged) == [
        (k, epoch) for k in range(3) for epoch in range(3)
    ]
    assert sorted(path.name for path in two.folder.iterdir()) == sorted(path.name for path in one.folder.iterdir())


def test_lines_of_two_experts_never_mix(tmp_path: Path) -> None:
    """A line is one call of write on a file opened for appending, which the system does whole."""
    path = tmp_path / "log.jsonl"

    def append(name: str) -> None:
        for number in range(300):
            append_line(path, {"name": name * 50, "number": number})

    writers = [threading.Thread(target=append, args=(name,)) for name in "abcd"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    lines = read_lines(path)
    assert len(lines) == 1200
    for name in "abcd":
        assert [line["number"] for line in lines if line["name"][0] == name] == list(range(300))


def test_experts_of_another_process_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First what is free; then the lock of the first one that is left, until it is let go."""
    asked: list[tuple[str, bool]] = []
    real = lock
    dataset = blobs()
    store = tiny_experts(tmp_path, dataset, count=1)

    @contextmanager
    def noted(path: Path, wait: bool) -> Iterator[bool]:
        asked.append((path.name, wait))
        with real(path, wait) as held:
            yield held

    monkeypatch.setattr(training, "lock", noted)
    with real(store.folder / ".001.lock", wait=True):
        done = threading.Thread(target=tiny_experts, args=(tmp_path, dataset, 3))
        done.start()
        while (".001.lock", True) not in asked:
            assert done.is_alive()
        assert store.path(2).exists()
        assert not store.path(1).exists()
    done.join()
    assert store.path(1).exists()
    assert asked == [(".001.lock", False), (".002.lock", False), (".001.lock", False), (".001.lock", True)]
