"""The searched learning rate: found where it must be, on images that are not those of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread

import pytest
import torch

from astdistill.data.dataset import Dataset, Split
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner as evaluation
from astdistill.evaluation.continual import continual, continual_table
from astdistill.evaluation.dd_ranking import rank, ranking_table
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rate_search import rates_table, search_rates
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import SearchedRate
from astdistill.evaluation.training import Examples, NetworkResult
from astdistill.runtime.errors import InputError
from astdistill.runtime.run_dir import RunDir

RECIPE = EvalRecipe(name="short", epochs=4, full_epochs=1)
MODEL = "convnet-d1-w8"
Distil = Callable[..., SyntheticSet]


def best_at(monkeypatch: pytest.MonkeyPatch, rate: float) -> list[Split]:
    """Makes accuracy fall with the distance of the learning rate from `rate`; returns what networks were tested on."""
    seen: list[Split] = []

    def note(network: object, examples: Examples, recipe: EvalRecipe, tested: Split, *_: object) -> NetworkResult:
        seen.append(tested)
        return NetworkResult(100.0 - 10.0 * abs(examples.lr - rate))

    monkeypatch.setattr(evaluation, "train_network", note)
    return seen


@pytest.mark.parametrize(("optimum", "best"), [(0.0, 0.0125), (0.05, 0.05), (0.12, 0.1), (9.0, 0.2)])
def test_the_best_multiple_of_the_learned_rate_is_found(
    optimum: float, best: float, blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_at(monkeypatch, optimum)
    (found,) = search_rates(distil(blobs), blobs, RECIPE, seeds=2).values()
    assert found.rates == pytest.approx((0.0125, 0.025, 0.05, 0.1, 0.2))
    assert found.best == pytest.approx(best)
    assert [len(each) for each in found.accuracies] == [2] * 5
    at_end = best in (0.0125, 0.2)
    assert ("at the end of the grid" in rates_table({MODEL: found}, RECIPE).caption) == at_end


@pytest.mark.parametrize("call", ["search", "rank", "continual"])
def test_a_folder_that_another_process_is_writing_to_is_refused(
    call: str, blobs: Dataset, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of all networks is rewritten with each of them, so that two writers would lose networks."""
    best_at(monkeypatch, 0.0)
    made, folder = replace(distil(blobs), model=MODEL), tmp_path / "run"
    calls: dict[str, Callable[[], object]] = {
        "search": lambda: search_rates(made, blobs, RECIPE, seeds=1, out=folder),
        "rank": lambda: rank(made, blobs, RECIPE, seeds=1, out=folder),
        "continual": lambda: continual(made, blobs, 2, RECIPE, seeds=1, out=folder),
    }
    entered, leave = Event(), Event()

    def hold() -> None:
        with RunDir(folder).writing():
            entered.set()
            leave.wait(60)

    holder = Thread(target=hold)
    holder.start()
    try:
        assert entered.wait(60)
        with pytest.raises(InputError, match=r"is writing to .*run; wait"):
            calls[call]()
    finally:
        leave.set()
        holder.join()
    assert not (folder / "scores.partial.json").exists()
    with RunDir(folder).writing():  # as the command line does
        calls[call]()
    assert (folder / "scores.partial.json").exists()


def test_equal_rates_go_to_the_smaller() -> None:
    found = SearchedRate(rates=(1.0, 2.0, 3.0), accuracies=((40.0, 60.0), (70.0, 72.0), (71.0, 71.0)), judged_on="x")
    assert found.best == 2.0


def test_poisoned_test_labels_change_nothing_of_the_search(blobs: Dataset, distil: Distil) -> None:
    """Real trainings: the same accuracies to the last digit, and an honest evaluation notices the poison."""
    poisoned = replace(blobs, test=Split(torch.full_like(blobs.test.whole(), torch.nan), (blobs.test.labels + 1) % 3))
    found = search_rates(distil(blobs), blobs, RECIPE, seeds=2)
    assert search_rates(distil(blobs), poisoned, RECIPE, seeds=2) == found
    assert len({accuracy for each in found[MODEL].accuracies for accuracy in each}) > 1
    honest = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=(), rates=found)
    assert (
        evaluate_all(distil(blobs), poisoned, RECIPE, seeds=2, baselines=(), rates=found).architecture
        != honest.architecture
    )


def test_a_validation_split_is_used_where_there_is_one(
    blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = best_at(monkeypatch, 0.05)
    own = blobs.train.select(torch.arange(9))
    (found,) = search_rates(distil(blobs), replace(blobs, validation=own), RECIPE, seeds=1).values()
    assert all(tested is own for tested in seen)
    assert found.judged_on == "the validation split"
    seen.clear()
    (found,) = search_rates(distil(blobs), blobs, RECIPE, seeds=1).values()
    assert found.judged_on == "10% of the training images"
    for tested in seen:
        assert len(tested) == 7
        assert all(bool((blobs.train.whole() == image).flatten(1).all(dim=1).any()) for image in tested.whole())
        assert torch.bincount(tested.labels, minlength=3).min() >= 2


def test_the_found_rate_trains_the_set_and_baselines_keep_theirs(
    tmp_path: Path, blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_at(monkeypatch, 0.1)
    models = (MODEL, "mlp")
    rates = search_rates(distil(blobs), blobs, RECIPE, models, seeds=1, out=tmp_path)
    assert list(rates) == list(models)
    used: list[tuple[int, float]] = []
    real = evaluation.train_network
    monkeypatch.setattr(evaluation, "train_network", lambda n, examples, *rest: used.append(
        (len(examples), round(examples.lr, 6))) or real(n, examples, *rest))  # fmt: skip
    scores = evaluate_all(
        distil(blobs), blobs, RECIPE, models, seeds=1, baselines=("random", "full"), out=tmp_path, rates=rates
    )
    assert used == [(6, 0.1), (6, 0.1), (6, 0.01), (72, 0.01)]
    assert scores.rates == rates
    assert not (tmp_path / "scores.json").read_text().count('"rates": {}')
    used.clear()
    assert search_rates(distil(blobs), blobs, RECIPE, models, seeds=1, out=tmp_path) == rates
    assert used == []


def test_a_fixed_rate_leaves_nothing_to_search(blobs: Dataset, distil: Distil) -> None:
    with pytest.raises(InputError, match=r"fixes the learning rate at 0\.3"):
        search_rates(distil(blobs), blobs, RECIPE.replace(lr=0.3))


def test_a_learned_rate_that_is_not_positive_is_searched_around_that_of_real_images(
    blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    best_at(monkeypatch, 0.02)
    (found,) = search_rates(replace(distil(blobs), lr=torch.tensor(-0.5)), blobs, RECIPE, seeds=1).values()
    assert found.best == pytest.approx(0.02)


def test_a_searched_rate_is_used_and_named_by_every_table(blobs: Dataset, distil: Distil) -> None:
    found = SearchedRate(rates=(0.001, 0.2), accuracies=((90.0,), (10.0,)), judged_on="the validation split")
    rates, words = {MODEL: found, "another": found}, "learning rate of the set searched on held-out training images"
    ranking = rank(distil(blobs), blobs, RECIPE, seeds=1, rates=rates)
    assert ranking.accuracies == rank(found.with_best_rate(distil(blobs)), blobs, RECIPE, seeds=1).accuracies
    assert words in ranking_table(ranking).caption
    arriving = continual(distil(blobs), blobs, 2, RECIPE, seeds=1, baselines=(), rates=rates)
    assert (
        arriving.accuracies
        == continual(found.with_best_rate(distil(blobs)), blobs, 2, RECIPE, seeds=1, baselines=()).accuracies
    )
    assert words in continual_table(arriving).caption
    plain = rank(distil(blobs), blobs, RECIPE, seeds=1, rates={"another": found})
    assert plain.accuracies != ranking.accuracies
    assert words not in ranking_table(plain).caption
