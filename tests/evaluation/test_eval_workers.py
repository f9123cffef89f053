"""Networks evaluated side by side: the scores of one process, kept one by one."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import killed

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner as evaluation
from astdistill.evaluation.cache import NetworkCache
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import TableRow
from astdistill.evaluation.runner import evaluate, evaluate_all
from astdistill.evaluation.scores import Scores
from astdistill.evaluation.training import NetworkResult
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.parallel import WorkerPlan
from astdistill.runtime.worker import TensorPickler, TensorUnpickler, nameless_file

RECIPE = EvalRecipe(name="short", epochs=3, full_epochs=1)
ROWS = ("random", "kmeans", "full")
MODEL = "convnet-d1-w8"
Distil = Callable[..., SyntheticSet]

JOB = """
import json
from pathlib import Path
import torch
from problems import blobs
from astdistill.evaluation import EvalRecipe, evaluate_all
from astdistill.runtime.progress import be_quiet
from astdistill.data.synthetic import SyntheticSet, one_hot
be_quiet(True)
OUT = Path({out!r})
RECIPE = EvalRecipe(name="short", epochs=30)
torch.set_num_threads(1)
def score(out, workers):
    data = blobs()
    first = torch.stack([data.train.of_class(label)[0] for label in range(3)])
    found = SyntheticSet(data.train.images[first], one_hot(data.train.labels[first], 3), torch.tensor(0.05), data.classes,
        data.preprocessing, data.config, "convnet-d1-w4")
    return evaluate_all(found, data, RECIPE, ("convnet-d1-w4",), 3, ("random",), out, workers=workers)
def run():
    score(OUT, 1)
def progress():
    path = OUT / "scores.partial.json"
    return len(json.loads(path.read_text())["networks"]) if path.exists() else 0
"""


@pytest.fixture
def hard(blobs: Dataset) -> Dataset:
    """With a test split that no network gets all right, so that accuracies differ."""
    noise = torch.randn(blobs.test.images.shape, generator=torch.Generator().manual_seed(0))
    return replace(blobs, test=replace(blobs.test, images=blobs.test.whole() + 1.5 * noise))


def test_two_workers_find_the_scores_of_one_process(
    tmp_path: Path, hard: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows in one pool, the networks of 'random' and 'kmeans' with draws of their own."""
    monkeypatch.setattr(NetworkCache, "_shared", lambda self, about: False)
    one = evaluate_all(distil(hard), hard, RECIPE, seeds=3, baselines=ROWS, out=tmp_path / "one", workers=1)
    two = evaluate_all(distil(hard), hard, RECIPE, seeds=3, baselines=ROWS, out=tmp_path / "two", workers=2)
    assert two == one
    assert len({accuracy for entry in two.baselines.values() for accuracy in entry.final}) > 3
    assert Scores.read(tmp_path / "two") == one
    kept = [json.loads((tmp_path / name / "scores.partial.json").read_text())["networks"] for name in ("one", "two")]
    assert kept[0] == kept[1]
    assert len(kept[0]) == 12


def test_a_function_of_the_caller_and_a_user_s_network_reach_the_workers(
    monkeypatch: pytest.MonkeyPatch, hard: Dataset, distil: Distil
) -> None:
    """By what the pool is sent; that it arrives is for the test above."""
    sets = [distil(hard, 1), distil(hard, 2), distil(hard, 3)]
    seen: dict[int, NetworkResult] = {}
    model, done = "jobs:factory", {("jobs:factory", 1): NetworkResult(12.5)}
    one = evaluate(lambda k: sets[k], hard, recipe=RECIPE, model=model, seeds=3, done=done, workers=1)
    monkeypatch.setattr(
        evaluation, "pool", lambda work, shared, worker_plan, progress, *_: _here(work, shared, progress)
    )
    two = evaluate(
        lambda k: sets[k],
        hard,
        recipe=RECIPE,
        model=model,
        seeds=3,
        done=done,
        on_result=lambda _, k, result: seen.update({k: result}),
        workers=2,
    )
    assert two == one
    assert two.architecture[model].final == (seen[0].final, 12.5, seen[2].final)


def test_tiny_work_stays_in_this_process(monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil) -> None:
    counts: list[int] = []

    def note(*words: object) -> NetworkResult:
        counts.append(torch.get_num_threads())
        return NetworkResult(0.0)

    monkeypatch.setattr(evaluation, "plan_workers", lambda *_: WorkerPlan(2, 1))
    monkeypatch.setattr(evaluation, "train_network", note)
    evaluate(distil(blobs), blobs, recipe=RECIPE, seeds=3)
    assert counts == [1, 1, 1]


def test_every_row_is_counted_by_the_images_it_sees(
    monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil
) -> None:
    shown: list[tuple[int, int]] = []
    real = evaluation.bar
    monkeypatch.setattr(
        evaluation,
        "bar",
        lambda title, total, done, unit: shown.append((total, done)) or real(title, total, done, unit),
    )
    monkeypatch.setattr(evaluation, "train_network", lambda *words: NetworkResult(0.0))
    evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=ROWS)
    assert shown == [(2 * 3 * 6 * 3 + 2 * 72, 0)]
    evaluate(distil(blobs), blobs, recipe=RECIPE, seeds=3, done={(MODEL, 0): NetworkResult(0.0)})
    assert shown[1] == (3 * 3 * 6, 3 * 6)


def test_the_long_ones_come_first_behind_the_distilled_set(
    monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil
) -> None:
    """On cores; in one process in the order of the table."""
    for worker_plan, wanted in (
        (WorkerPlan(2, 1, requested=True), [3, 3, 9, 9, 3, 3, 3, 3]),
        (WorkerPlan(1, 1), [3, 3, 3, 3, 3, 3, 9, 9]),
    ):
        order: list[int] = []

        def note(
            network: object, examples: object, recipe: EvalRecipe, *words: object, order: list[int] = order
        ) -> NetworkResult:
            order.append(recipe.epochs)
            return NetworkResult(0.0)

        monkeypatch.setattr(
            "astdistill.evaluation.runner.plan_workers", lambda *_, worker_plan=worker_plan: worker_plan
        )
        monkeypatch.setattr(evaluation, "train_network", note)
        monkeypatch.setattr(
            evaluation, "pool", lambda work, shared, worker_plan, progress, *_: _here(work, shared, progress)
        )
        evaluate_all(distil(blobs), blobs, RECIPE.replace(full_epochs=9), seeds=2, baselines=ROWS)
        assert order == wanted


class _here:
    """A pool that stays in this process whatever the crew, and is sent as much as a worker."""

    def __init__(self, work: Callable[..., object], shared: object, progress: object) -> None:
        with nameless_file() as memory:
            text = io.BytesIO()
            TensorPickler(text, memory).dump((work, shared))
            memory.flush()
            work, shared = TensorUnpickler(io.BytesIO(text.getvalue()), memory.fileno()).load()
        self.run = lambda jobs: ((job, work(shared, pickle.loads(pickle.dumps(job)), progress)) for job in jobs)

    def __enter__(self) -> Callable[..., object]:
        return self.run

    def __exit__(self, *_: object) -> None:
        pass


def test_bad_numbers_and_networks_of_the_script_are_one_sentence(blobs: Dataset, distil: Distil) -> None:
    with pytest.raises(InputError, match="0 workers were asked for"):
        evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, workers=0)
    with pytest.raises(InputError, match="-1 workers were asked for"):
        evaluate(distil(blobs), blobs, recipe=RECIPE, seeds=2, workers=-1)


def test_a_long_evaluation_is_guessed_as_one(blobs: Dataset, distil: Distil) -> None:
    row = TableRow(MODEL, MODEL, distil(blobs), 6, RECIPE)
    parameters = sum(part.numel() for part in build_model(MODEL, (3, 8, 8), 3).parameters())
    assert row.seconds(blobs) == pytest.approx(3e-3 + 18 * parameters * 64 * 2.5e-12)
    assert replace(row, images=6000).seconds(blobs) > 20 * row.seconds(blobs)


@pytest.mark.slow
def test_sigkill_in_the_middle_of_an_evaluation(tmp_path: Path) -> None:
    """What has been written down is not trained again, and the rest comes out the same."""
    script = tmp_path / "job.py"
    script.write_text(JOB.format(out=str(tmp_path / "cut")))
    moments = killed(script, kills=3, seed=0, most=70)
    assert len(moments) == 3
    assert len(set(moments)) >= 2
    job: dict[str, Callable[..., Scores]] = {}
    exec(script.read_text(), job)
    whole = job["score"](tmp_path / "whole", 1)
    assert Scores.read(tmp_path / "cut") == whole
    assert len(json.loads((tmp_path / "cut" / "scores.partial.json").read_text())["networks"]) == 6
