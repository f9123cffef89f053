"""Loggers: what TensorBoard and Weights & Biases read back, and that none of them can change or stop a run."""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import Killed
from PIL import Image
from problems import blobs, same_set, tiny_experts
from rich.console import Console
from short_methods import AST, with_numbers

from astdistill.cli.options import parse
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, load
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.runner import evaluate
from astdistill.evaluation.scores import Scores
from astdistill.experiment.pipeline import Recorder
from astdistill.experts.store import TrajectoryStore
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError
from astdistill.runtime.tracking import Log, check_loggers, open_log

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
needs_wandb = pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")

SETTINGS = DistillSettings(
    iterations=6,
    lr_img=20.0,
    lr_lr=1e-3,
    lr_init=0.05,
    augmentation="flip",
    checkpoint_seconds=0.0,
)
SHORT = with_numbers(AST, syn_steps=3, max_start_epoch=3, batch_syn=None)


class Kept:
    """A sink that keeps everything, until it is told to fail."""

    def __init__(self) -> None:
        self.given: list[tuple[str, str, Any, int]] = []
        self.closed, self.broken = 0, False

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._keep([(group, name, value, step) for name, value in values.items()])

    def histogram(self, group: str, name: str, values: np.ndarray, step: int) -> None:
        self._keep([(group, name, values, step)])

    def image(self, group: str, name: str, picture: np.ndarray, step: int) -> None:
        self._keep([(group, name, picture, step)])

    def close(self) -> None:
        self.closed += 1

    def _keep(self, what: list[tuple[str, str, Any, int]]) -> None:
        if self.broken:
            raise OSError("No space left on device")
        self.given += what

    def of(self, group: str, name: str) -> dict[int, Any]:
        return {step: value for its, named, value, step in self.given if (its, named) == (group, name)}


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs()


@pytest.fixture(scope="module")
def experts(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset)


@pytest.fixture(scope="module")
def alone(dataset: Dataset, experts: TrajectoryStore) -> SyntheticSet:
    """The set of a run that nobody logs."""
    return distill(dataset, experts, method=SHORT, ipc=2, settings=SETTINGS)


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(progress.Output, "console", Console(file=stream, width=500))
    return stream


def test_every_step_is_logged_and_changes_no_bit(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, alone: SyntheticSet
) -> None:
    kept = Kept()
    found = distill(
        dataset,
        experts,
        method=SHORT,
        ipc=2,
        settings=SETTINGS,
        out=tmp_path,
        observers=[Recorder(Log({"kept": kept}))],
    )
    assert same_set(found, alone)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert kept.of("distillation", "loss") == {line["iteration"]: line["loss"] for line in lines}
    assert kept.of("distillation", "lr") == {line["iteration"]: line["lr"] for line in lines}
    assert set(kept.of("distillation", "gradient norm of images")) == set(range(6))
    last = kept.of("distillation", "pixels")[5]
    np.testing.assert_array_equal(np.sort(last), np.sort(found.pixels().flatten().numpy()))
    picture = kept.of("distillation", "images")
    assert picture.keys() == {0, 1, 2, 5}
    assert picture[5].dtype == np.uint8
    assert picture[5].shape[2] == 3
    gradient = kept.of("distillation", "gradient of images")[5]
    assert float(np.linalg.norm(gradient)) == pytest.approx(
        kept.of("distillation", "gradient norm of images")[5], rel=1e-5
    )


def test_the_norm_is_that_of_the_meta_gradient(dataset: Dataset, experts: TrajectoryStore) -> None:
    from astdistill.distillation.run import Distillation
    from astdistill.models.flat import FlatModel
    from astdistill.models.registry import build_model

    model = FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))
    run = Distillation(dataset, experts, SHORT, 2, SETTINGS, None, 0, model)
    state, kept = run.start(), Kept()
    gradient = run.gradient(state)
    Recorder(Log({"kept": kept}))(run, state, run.advance(state))
    assert kept.of("distillation", "gradient norm of images")[0] == pytest.approx(
        float(gradient.images.norm()), rel=1e-6
    )


def test_experts_and_scores_are_logged(dataset: Dataset, experts: TrajectoryStore, alone: SyntheticSet) -> None:
    kept = Kept()
    recorder = Recorder(Log({"kept": kept}))
    recorder.experts(experts)
    curves = experts.curves()
    means = kept.of("experts", "test_accuracy")
    assert list(means) == list(range(1, experts.epochs + 1))
    assert means[2] == pytest.approx(np.mean([curve.test_accuracy[1] for curve in curves]))
    np.testing.assert_allclose(
        kept.of("experts", "step_squared of each")[1], [curve.step_squared[0] for curve in curves]
    )
    scores = evaluate(alone, dataset, recipe=MTT_PROTOCOL.replace(epochs=1), seeds=2)
    recorder.scores(scores, 6)
    assert kept.of("scores", f"{alone.model} mean") == {6: scores.architecture[alone.model].mean}
    assert kept.of("scores", f"{alone.model} deviation") == {6: scores.architecture[alone.model].std}
    assert isinstance(scores, Scores)


def test_a_sink_that_fails_is_told_of_once_and_the_run_goes_on(
    dataset: Dataset, experts: TrajectoryStore, alone: SyntheticSet, shown: io.StringIO
) -> None:
    good, bad = Kept(), Kept()
    bad.broken = True
    log = Log({"bad": bad, "good": good})
    found = distill(dataset, experts, method=SHORT, ipc=2, settings=SETTINGS, observers=[Recorder(log)])
    assert same_set(found, alone)
    assert len(good.of("distillation", "loss")) == 6
    assert shown.getvalue().count("The logger bad failed (OSError: No space left on device) and logs no more") == 1
    log.close()
    assert (good.closed, bad.closed) == (1, 0)


def test_numbers_that_are_not_finite_make_no_histogram() -> None:
    kept = Kept()
    log = Log({"kept": kept})
    log.histogram("group", "some", np.array([1.0, np.nan, np.inf, 2.0]), 0)
    log.histogram("group", "none", np.array([np.nan]), 0)
    assert [(name, values.tolist()) for _, name, values, _ in kept.given] == [("some", [1.0, 2.0])]


def test_a_logger_that_is_not_there_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no logger 'tensorbord'\. Did you mean 'tensorboard'"):
        parse("run", ["digits-ipc1", "--log", "tensorbord"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"needs the package wandb, which is not installed; type: pip install 'astdistill\[wandb\]'"
    ):
        check_loggers(["wandb"])


def test_loggers_are_named_once_or_several_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    for words in (
        ["--log", "tensorboard", "wandb"],
        ["--log", "tensorboard", "--ipc", "2", "--log", "wandb", "--log", "wandb"],
    ):
        assert parse("run", ["digits-ipc1", *words]).log == ("tensorboard", "wandb")
    assert "log" not in parse("run", ["digits-ipc1", "--log", "wandb"]).experiment.to_json()


def read(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "histograms": 0})
    found.Reload()
    return found


@needs_tensorboard
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of packages that tensorboard imports
def test_tensorboard_reads_a_resumed_run_back_without_a_step_twice(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore
) -> None:
    def kill(run: object, state: object, line: Mapping[str, Any]) -> None:
        if line["iteration"] == 4:
            raise Killed

    def go(*more: Any, **changes: Any) -> None:
        with open_log(["tensorboard"], tmp_path, {}) as log:
            recorder = Recorder(log)
            recorder.experts(experts)
            settings = SETTINGS.replace(**changes)
            distill(dataset, experts, method=SHORT, ipc=2, settings=settings, out=tmp_path, observers=[recorder, *more])

    with pytest.raises(Killed):
        go(kill, checkpoint_seconds=1e9)
    assert [event.step for event in read(tmp_path / "tensorboard/distillation").Scalars("loss")] == [0, 1, 2, 3, 4]
    go(checkpoint_seconds=0.0, iterations=3)
    go(iterations=6)
    found = read(tmp_path / "tensorboard/distillation")
    losses = {event.step: event.value for event in found.Scalars("loss")}
    assert [event.step for event in found.Scalars("loss")] == list(range(6))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses == pytest.approx({line["iteration"]: line["loss"] for line in lines}, rel=1e-6)
    assert [event.step for event in found.Images("images")] == [0, 1, 2, 5]
    histogram = found.Histograms("pixels")[-1].histogram_value
    assert histogram.num == load(tmp_path).images.numel()
    curves = read(tmp_path / "tensorboard/experts")
    assert [event.step for event in curves.Scalars("test_accuracy")] == list(range(1, experts.epochs + 1))


def records(path: Path) -> list[Any]:
    """The records of a .wandb file, as far as it is written.

    The package writes LevelDB's log format (blocks of 32 KiB; before each piece of a record its check sum, length and
    kind) and has no reader of it in Python; the records are its own protocol buffers.
    """
    kind_of = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
    stored, place, whole, found = path.read_bytes(), 7, b"", []
    while place + 7 <= len(stored):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack_from("<HB", stored, place + 4)
        whole, place = whole + stored[place + 7 : place + 7 + length], place + 7 + length
        if kind in (1, 4) and place <= len(stored):  # the only piece of a record, or its last
            found.append(kind_of.FromString(whole))
            whole = b""
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    """What was logged in a run, row by row."""
    (path,) = folder.glob("*.wandb")
    histories = [record.history.item for record in records(path) if record.HasField("history")]
    return [{"/".join(item.nested_key): json.loads(item.value_json) for item in items} for items in histories]


@pytest.mark.slow
@needs_wandb
@pytest.mark.filterwarnings("ignore")  # wandb's own
def test_wandb_reads_back_what_was_logged_offline_and_goes_on_with_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: io.StringIO
) -> None:
    """Scalars, histograms and images; nothing reaches for the network, and nothing is left outside the run folder."""
    home, out, work = (tmp_path / name for name in ("home", "run", "work"))
    for folder in (home, work):
        folder.mkdir()
    monkeypatch.chdir(work)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    values, picture = np.linspace(0, 1, 50), np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for last in (3, 5):
        with open_log(["wandb"], out, {"ipc": 1}) as log:
            for step in range(last):
                log.scalars("distillation", {"loss": step / 2}, step)
            log.histogram("distillation", "pixels", values, last - 1)
            log.image("distillation", "images", picture, last - 1)
    importlib.import_module("wandb").teardown()  # waits for its other process, which writes past the end of a run
    assert "send it later with: wandb sync" in shown.getvalue()
    assert "failed" not in shown.getvalue()
    runs = sorted(out.glob("wandb/offline-run-*"))
    # offline-run-<time>-<run>, to which wandb adds a number where two begin in the same second.
    assert len({path.name.split("-")[3] for path in runs}) == 1
    logged = [row for path in runs for row in rows(path)]
    losses = {row["distillation/step"]: row["distillation/loss"] for row in logged if "distillation/loss" in row}
    assert losses == {step: step / 2 for step in range(5)}
    histograms = {
        row["distillation/step"]: row for row in logged if row.get("distillation/pixels/_type") == "histogram"
    }
    assert histograms.keys() == {2, 4}
    for row in histograms.values():
        counts, edges = row["distillation/pixels/values"], row["distillation/pixels/bins"]
        np.testing.assert_array_equal(counts, np.histogram(values, edges)[0])
        assert (sum(counts), edges[0], edges[-1]) == (50, 0.0, 1.0)
    pictures = {
        row["distillation/step"]: row["distillation/images/path"] for row in logged if "distillation/images/path" in row
    }
    assert pictures.keys() == {2, 4}
    for name in pictures.values():
        (file,) = out.glob(f"wandb/offline-run-*/files/{name}")
        with Image.open(file) as stored:
            np.testing.assert_array_equal(np.asarray(stored), picture)
    assert list(work.iterdir()) == []


class StandIn:
    """A wandb of three functions, for machines without it: it keeps what it is given."""

    class errors:
        CommError = ConnectionError

    def __init__(self, logged_in: bool, answers: bool) -> None:
        self.logged_in, self.answers = logged_in, answers
        self.begun: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.dir, self.Settings, self.Histogram, self.Image = "place/files", dict, list, np.asarray

    def login(self, **_: object) -> bool:
        return self.logged_in

    def init(self, **words: Any) -> StandIn:
        if words["mode"] == "online" and not self.answers:
            raise ConnectionError("no route")
        self.begun.append(words)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert step_metric == name.replace("*", "step")

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        pass


@pytest.mark.parametrize(
    ("logged_in", "answers", "asked", "mode"),
    [
        (True, True, None, "online"),
        (True, False, None, "offline"),
        (False, True, None, "offline"),
        (True, True, "offline", "offline"),
    ],
)
def test_wandb_is_online_only_where_it_can_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    shown: io.StringIO,
    logged_in: bool,
    answers: bool,
    asked: str | None,
    mode: str,
) -> None:
    """With a stand-in for the package; the test above is with the real one."""
    import sys

    stand_in = StandIn(logged_in, answers)
    monkeypatch.setitem(sys.modules, "wandb", stand_in)  # type: ignore[arg-type]
    monkeypatch.delitem(sys.modules, "astdistill.runtime.wandb", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if asked:
        monkeypatch.setenv("WANDB_MODE", asked)
    for last in (3, 5):
        with open_log(["wandb"], tmp_path / "run", {"ipc": 1}) as log:
            for step in range(last):
                log.scalars("distillation", {"loss": step / 2}, step)
    monkeypatch.delitem(sys.modules, "astdistill.runtime.wandb")
    assert [words["mode"] for words in stand_in.begun] == [mode, mode]
    assert len({words["id"] for words in stand_in.begun}) == 1
    assert stand_in.begun[0]["config"] == {"ipc": 1}
    assert stand_in.rows == [{"distillation/step": step, "distillation/loss": step / 2} for step in range(5)]
    assert ("wandb sync place" in shown.getvalue()) == (mode == "offline")
