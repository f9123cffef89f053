"""Answers that few people see: other systems, workers whose parent is gone, methods of no paper, many runs at once."""

from __future__ import annotations

import io
import json
import os
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from astdistill.evaluation.per_class import ENDS, WHOLE, _select_classes
from astdistill.interop.huggingface import SIZES, _citation, _size
from astdistill.models.resnet import ResNet18
from astdistill.report.compare import SEEDS, runs_in
from astdistill.report.page.gallery import MANY, _tiles_per_row
from astdistill.report.page.page import _title
from astdistill.runtime import parallel, tracking, worker
from astdistill.runtime.devices import supported
from astdistill.runtime.errors import InputError
from astdistill.runtime.parallel import PACKAGE, plan_workers, worker_command
from astdistill.runtime.progress import Bar


class Ended(BaseException):
    """In place of the end of the process."""


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The codes with which the process would have ended."""
    codes: list[int] = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    monkeypatch.setattr(worker.os, "_exit", end)
    return codes


def test_a_worker_ends_when_nobody_hears_or_tells_it_anything(ends: list[int]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as results:
        steps = worker._Steps(results)
        for tell in (steps.step, lambda: steps.skip(3)):
            with pytest.raises(Ended):
                tell()
    with pytest.raises(Ended):
        worker._listen(io.BytesIO(b""), queue.SimpleQueue())
    assert ends == [1, 1, 1]


def test_a_file_without_a_name_is_made_where_there_is_none_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(worker.os, "memfd_create")
    with worker.nameless_file() as file:
        file.write(b"rows")
        file.seek(0)
        assert file.read() == b"rows"


def test_windows_has_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(parallel.os, "name", "nt")
        with pytest.raises(InputError, match="2 workers were asked for, but Windows does not hand open files to"):
            plan_workers(4, 2, torch.device("cpu"))


def test_a_worker_finds_the_package_wherever_it_was_imported_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel.sys, "path", ["/elsewhere"])
    assert repr(["/elsewhere", str(PACKAGE)]) in worker_command()[-1]


def test_devices_that_nothing_is_tested_on_are_refused() -> None:
    with pytest.raises(
        InputError, match="--device meta was asked for, but only cpu and cuda are supported; choose one"
    ):
        supported("meta")


def test_work_without_a_known_end_has_a_pace_and_no_time_left() -> None:
    bar = Bar("x", None, 0, None)
    bar._began -= 10.0
    bar.step(5)
    pace, left = bar.pace()
    assert (round(pace, 1), left) == (0.5, None)


def test_a_logger_that_cannot_begin_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Any:
        raise OSError("no network")

    said: list[str] = []
    monkeypatch.setitem(tracking.LOGGERS, "tensorboard", broken)
    monkeypatch.setattr(tracking, "_warn", lambda name, error: said.append(f"{name}: {error}"))
    with tracking.open_log(["tensorboard"], tmp_path, {}):
        pass
    assert said == ["tensorboard: no network"]


def test_words_for_the_hub_where_little_is_known() -> None:
    assert _citation("") == "The method is not known."
    assert _citation("mine") == "The method 'mine' names no paper; ask whoever published this set."
    assert _size(max(SIZES)) == "100K<n<1M"


def test_many_runs_and_many_classes_are_shown_in_short() -> None:
    runs: Any = [SimpleNamespace(name=f"run{number}") for number in range(4)]
    assert _title(runs) == "4 runs"
    assert _title(runs[:3]) == "run0, run1 and run2"
    few = [[float(label)] for label in range(2 * ENDS)] + [[]] * WHOLE
    assert _select_classes(few) == (list(range(2 * ENDS - 1, -1, -1)), "Best classes first. ")
    assert _tiles_per_row(MANY + 1, 50) == 15


def test_the_list_of_seeds_beside_runs_is_no_run(tmp_path: Path) -> None:
    (tmp_path / SEEDS).write_text(json.dumps({"seeds": [0, 2]}))
    assert runs_in(tmp_path / SEEDS) == []
    assert runs_in(tmp_path) == [tmp_path / "seed-0", tmp_path / "seed-2"]


def test_a_resnet_shrinks_in_ways_that_are_known() -> None:
    with pytest.raises(InputError, match="no shrinking 'pooling'"):
        ResNet18(3, 10, (32, 32), shrinking="pooling")
