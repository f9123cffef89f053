"""DD-Ranking's scores against values worked out by hand, and what is trained for them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner as evaluation
from astdistill.evaluation.dd_ranking import Measured, RandomLabels, Ranking, hardened, rank, ranking_table, robust
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import BASELINES
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import SetInfo
from astdistill.evaluation.training import Examples, NetworkResult
from astdistill.runtime.errors import InputError

RECIPE = EvalRecipe(name="short", epochs=3, full_epochs=1, augmentation="flip")
Distil = Callable[..., SyntheticSet]
ROWS = {
    "full": 80.0,
    "synthetic": 60.0,
    "synthetic_hard": 50.0,
    "synthetic_plain": 40.0,
    "random": 30.0,
    "random_plain": 20.0,
}
"""Accuracies of rows that a test tells apart; the values below are those of these, by hand."""


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str, int]]:
    """Every training as (one-hot targets, augmentation, images); its accuracy is that of `ROWS`."""
    seen: list[tuple[bool, str, int]] = []

    def note(network: object, examples: Examples, recipe: EvalRecipe, *_: object) -> NetworkResult:
        images, targets = next(examples.batches(len(examples), torch.arange(len(examples))))
        hard = bool(((targets == 0) | (targets == 1)).all())
        seen.append((hard, recipe.augmentation or "", len(examples)))
        if len(examples) > 6:
            return NetworkResult(ROWS["full"])
        marked = bool((images == 7.0).all())
        name = "synthetic" if marked else "random"
        plain = "_plain" if not recipe.augmentation else "_hard" if marked and hard else ""
        return NetworkResult(ROWS[name + plain])

    monkeypatch.setattr(evaluation, "train_network", note)
    return seen


def marked(synthetic: SyntheticSet, labels: str) -> SyntheticSet:
    targets = 3.0 * synthetic.targets if labels == "soft" else synthetic.targets
    images = torch.full_like(synthetic.images, 7.0)
    return replace(synthetic, images=images, targets=targets, labels=labels)  # pyright: ignore[reportArgumentType]


def test_the_normalisation_is_zero_at_minus_one_and_one_at_one() -> None:
    assert robust(-1.0) == pytest.approx(0.0, abs=1e-15)
    assert robust(1.0) == pytest.approx(1.0)
    assert robust(0.0) == pytest.approx(0.26894142137)  # (1 − 1/e) / (e − 1/e) = 1 / (1 + e)


def test_soft_labels_are_scored_against_the_formulas_by_hand(
    blobs: Dataset, distil: Distil, trained: list[object], tmp_path: Path
) -> None:
    found = rank(marked(distil(blobs), "soft"), blobs, RECIPE, seeds=2, out=tmp_path)
    assert len(trained) == 6 * 2
    assert found.hlr == pytest.approx((0.3, 0.3))  # 80 − 50
    assert found.ior == pytest.approx((0.3, 0.3))  # 60 − 30
    assert found.ior_plain == pytest.approx((0.2, 0.2))  # 40 − 20
    assert found.lrs[0] == pytest.approx(1 / (1 + math.e))  # α = 0
    assert found.ars[0] == pytest.approx(0.389783, abs=1e-6)  # β = 0.25: (1.284025 − 0.367879) / 2.350402
    assert json.loads((tmp_path / "ranking.json").read_text())["scores"]["ars"] == list(found.ars)
    other = rank(marked(distil(blobs), "soft"), blobs, RECIPE, seeds=2, out=tmp_path, gamma=1.0)
    assert other.ars[0] == pytest.approx(0.417792, abs=1e-6)  # β = 0.3: (1.349859 − 0.367879) / 2.350402
    assert len(trained) == 6 * 2
    assert found.random_labels == "same"


@pytest.mark.parametrize(("labels", "words"), [("same", "the same soft labels"), ("own", "their own labels")])
def test_random_images_have_the_sets_soft_labels_or_their_own(
    blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch, labels: RandomLabels, words: str
) -> None:
    """As on the leaderboard: row n of the set's labels goes to a random image of the class of image n."""
    learned: list[tuple[Tensor, Tensor]] = []

    def note(network: object, examples: Examples, recipe: EvalRecipe, *_: object) -> NetworkResult:
        learned.append(next(examples.batches(len(examples), torch.arange(len(examples)))))
        return NetworkResult(50.0)

    monkeypatch.setattr(evaluation, "train_network", note)
    soft = marked(distil(blobs), "soft")
    ranking = rank(soft, blobs, RECIPE, seeds=1, random_labels=labels)
    random = [pair for pair in learned if len(pair[0]) == 6 and not bool((pair[0] == 7.0).all())]
    wanted = soft.probabilities if labels == "same" else torch.eye(3).repeat_interleave(2, 0)
    assert len(random) == 2
    for images, targets in random:
        assert torch.equal(targets, wanted)
        same = (images[:, None] == blobs.train.whole()[None]).flatten(2).all(dim=2)
        assert blobs.train.labels[same.int().argmax(dim=1)].tolist() == [0, 0, 1, 1, 2, 2]
    assert f"random with {words} 50.0" in ranking_table(ranking).rows[1][2]
    assert f"random images have {words}" in ranking_table(ranking).caption


def test_a_ranking_of_an_earlier_version_had_hard_labelled_random_images(tmp_path: Path) -> None:
    values = {name: (value,) for name, value in ROWS.items()}
    subject = {"data": "blobs", "whiten": "none", "ipc": 2, "method": "datm", "labels": "soft", "model": "mlp"}
    fields = {"recipe": RECIPE, "model": "mlp", "subject": subject, "accuracies": Measured.model_validate(values)}
    Ranking.model_validate({**fields, "random_labels": "same"}).write(tmp_path / "new.json")
    written = json.loads((tmp_path / "new.json").read_text())
    assert Ranking.read(tmp_path / "new.json").random_labels == written.pop("random_labels") == "same"
    (tmp_path / "old.json").write_text(json.dumps(written))
    assert Ranking.read(tmp_path / "old.json").random_labels == "own"


def test_hard_labels_share_their_rows_with_the_evaluation(
    blobs: Dataset, distil: Distil, trained: list[tuple[bool, str, int]], tmp_path: Path
) -> None:
    found = marked(distil(blobs), "hard")
    evaluate_all(found, blobs, RECIPE, seeds=1, baselines=BASELINES, out=tmp_path)
    before = (tmp_path / "scores.json").read_bytes()
    trained.clear()
    ranking = rank(found, blobs, RECIPE, seeds=1, out=tmp_path)
    assert trained == [(True, "", 6), (True, "", 6)]
    assert ranking.accuracies.synthetic == ranking.accuracies.synthetic_hard
    assert (tmp_path / "scores.json").read_bytes() == before


def test_a_protocol_without_augmentation_trains_no_row_twice(
    blobs: Dataset, distil: Distil, trained: list[object]
) -> None:
    found = rank(distil(blobs), blobs, RECIPE.replace(augmentation=""), seeds=1)
    assert len(trained) == 3
    assert found.ior == found.ior_plain


def test_hardened_labels_are_the_most_probable_class(blobs: Dataset, distil: Distil) -> None:
    soft = replace(distil(blobs), labels="soft", targets=torch.tensor([[0.1, 0.2, -1.0]]).repeat(6, 1))
    assert hardened(soft).targets.tolist() == [[0.0, 1.0, 0.0]] * 6
    assert hardened(soft).labels == "hard"


def test_smoothed_labels_are_no_hard_ones(blobs: Dataset, distil: Distil) -> None:
    made = distil(blobs)
    smoothed = replace(made, targets=0.9 * made.targets + 0.1 / 3)
    assert SetInfo.of(made).labels == "hard"
    assert SetInfo.of(smoothed).labels == "smoothed"
    assert torch.equal(hardened(smoothed).targets, made.targets)
    assert hardened(made) is made


def test_the_table_shows_inputs_spread_and_scores() -> None:
    values = {name: (value - 1, value + 1) for name, value in ROWS.items()}
    subject = {"data": "blobs", "whiten": "none", "ipc": 2, "method": "datm", "labels": "soft", "model": "mlp"}
    fields = {"recipe": RECIPE, "model": "mlp", "subject": subject, "accuracies": Measured.model_validate(values)}
    table = ranking_table(Ranking.model_validate(fields))
    assert [row[:2] for row in table.rows] == [
        ("HLR", "30.0 ± 0.0"),
        ("IOR", "30.0 ± 0.0"),
        ("LRS", "0.269 ± 0.000"),
        ("ARS", "0.390 ± 0.000"),
    ]
    assert "full data 80.0 ± 1.4 − synthetic with hard labels 50.0 ± 1.4" in table.rows[0][2]
    assert "synthetic with soft labels 60.0 ± 1.4 − random with their own labels 30.0 ± 1.4" in table.rows[1][2]
    assert "n = 2" in table.caption


def test_gamma_is_a_share(blobs: Dataset, distil: Distil) -> None:
    with pytest.raises(InputError, match=r"--gamma 1\.5 was given; choose 0"):
        rank(distil(blobs), blobs, RECIPE, gamma=1.5)


def test_the_current_folder_is_called_by_its_name(
    blobs: Dataset, distil: Distil, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, label in enumerate(("cat", "dog")):
        folder = tmp_path / "photos" / "deeper" / label
        folder.mkdir(parents=True)
        for shade in range(6):
            Image.new("L", (8, 8), 40 * shade + number).save(folder / f"{shade}.png")
    made, photos = distil(blobs), tmp_path / "photos" / "deeper"
    monkeypatch.chdir(photos)
    for source in (".", "./", "../deeper"):
        config = load_dataset(source).config
        assert SetInfo.of(replace(made, data=config)).data == "deeper"
        assert Path(config.source).resolve() == photos
    monkeypatch.chdir(photos / "cat")
    assert Path(load_dataset("..").config.source).resolve() == photos
    assert load_dataset("digits", per_class=3).config.source == "digits"
