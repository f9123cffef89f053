from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from killing import Killed

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner as evaluation
from astdistill.evaluation.cache import NetworkCache
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.rows import BASELINES, synthetic_row
from astdistill.evaluation.runner import evaluate_all
from astdistill.evaluation.scores import Scores
from astdistill.evaluation.training import NetworkResult
from astdistill.runtime.errors import InputError

RECIPE = EvalRecipe(name="short", epochs=3, full_epochs=1)
MODEL = "convnet-d1-w8"
Distil = Callable[..., SyntheticSet]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one epoch count with every network that is trained; `[-1]` put in front kills the process at the
    fourth."""
    counts: list[int] = []
    real = evaluation.train_network

    def counting(network: torch.nn.Module, examples: object, recipe: EvalRecipe, *rest: object) -> NetworkResult:
        if counts[:1] == [-1] and len(counts) == 4:
            raise Killed
        counts.append(recipe.epochs)
        return real(network, examples, recipe, *rest)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(evaluation, "train_network", counting)
    return counts


def test_scores_hold_the_set_and_all_baselines(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    scores = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=BASELINES, out=tmp_path)
    assert list(scores.architecture) == [MODEL]
    assert list(scores.baselines) == ["random", "kmeans", "herding", "kcenter", "full"]
    assert all(entry.n == 2 for entry in scores.baselines.values())
    assert trained == [*[3] * 10, 1, 1]
    assert Scores.read(tmp_path) == scores


def test_resume_after_a_kill_gives_the_same_scores_and_trains_nothing_twice(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NetworkCache, "_shared", lambda self, about: False)
    whole = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=BASELINES, out=tmp_path / "whole")
    assert len(trained) == 12
    trained[:] = [-1]
    with pytest.raises(Killed):
        evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=BASELINES, out=tmp_path / "killed")
    so_far = Scores.read(tmp_path / "killed")
    assert so_far.architecture == whole.architecture
    assert so_far.baselines["random"].final == whole.baselines["random"].final[:1]
    trained.clear()
    assert evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=BASELINES, out=tmp_path / "killed") == whole
    assert len(trained) == 9
    assert (tmp_path / "killed/scores.json").read_bytes() == (tmp_path / "whole/scores.json").read_bytes()
    trained.clear()
    assert evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, baselines=BASELINES, out=tmp_path / "killed") == whole
    assert trained == []


def test_more_seeds_train_only_the_new_ones(tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]) -> None:
    two = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, out=tmp_path, baselines=())
    three = evaluate_all(distil(blobs), blobs, RECIPE, seeds=3, out=tmp_path, baselines=())
    assert len(trained) == 3
    assert three.architecture[MODEL].final[:2] == two.architecture[MODEL].final


def test_a_changed_recipe_or_image_starts_over_and_the_old_networks_are_kept(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    first = evaluate_all(distil(blobs), blobs, RECIPE, seeds=1, out=tmp_path, baselines=())
    changed = distil(blobs)
    changed = replace(changed, images=changed.images + 1e-3)
    evaluate_all(changed, blobs, RECIPE, seeds=1, out=tmp_path, baselines=())
    evaluate_all(distil(blobs), blobs, RECIPE.replace(momentum=0.5), seeds=1, out=tmp_path, baselines=())
    evaluate_all(distil(blobs), blobs, RECIPE, seeds=1, out=tmp_path, baselines=(), seed=1)
    other = replace(blobs, test=replace(blobs.test, labels=(blobs.test.labels + 1) % 3))
    evaluate_all(distil(blobs), other, RECIPE, seeds=1, out=tmp_path, baselines=())
    assert len(trained) == 5
    assert evaluate_all(distil(blobs), blobs, RECIPE, seeds=1, out=tmp_path, baselines=()) == first
    assert len(trained) == 5
    assert len(json.loads((tmp_path / "scores.partial.json").read_text())["networks"]) == 5


def test_textures_are_scored_by_their_crops_and_kept_by_what_they_lie_on(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    ordinary = distil(blobs, 2)
    canvases = replace(ordinary, images=ordinary.images.repeat(1, 1, 2, 2), canvas=2)
    for samples, networks in ((1, 2), (1, 2), (3, 4)):
        found = evaluate_all(
            replace(canvases, canvas_samples=samples), blobs, RECIPE, seeds=2, baselines=[], out=tmp_path
        )
        assert len(trained) == networks
    assert found.architecture[MODEL].n == 2
    with pytest.raises(InputError, match=r"The set's images have shape \(3, 16, 16\), those of 'blobs' \(3, 8, 8\)"):
        evaluate_all(replace(canvases, canvas=1), blobs, RECIPE, seeds=2, baselines=[])


def test_a_row_counts_the_images_that_an_epoch_shows(blobs: Dataset, distil: Distil) -> None:
    ordinary = distil(blobs, 2)
    canvases = replace(ordinary, images=ordinary.images.repeat(1, 1, 2, 2), canvas=2, canvas_samples=3)
    assert [synthetic_row(MODEL, source, RECIPE).images for source in (ordinary, canvases)] == [6, 18]


def test_changing_only_the_full_epochs_trains_only_full_data_again(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    evaluate_all(distil(blobs), blobs, RECIPE, seeds=1, out=tmp_path, baselines=("random", "full"))
    trained.clear()
    evaluate_all(
        distil(blobs), blobs, RECIPE.replace(full_epochs=2), seeds=1, out=tmp_path, baselines=("random", "full")
    )
    assert trained == [2]


def test_every_network_of_the_random_baseline_sees_its_own_draw(
    monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil
) -> None:
    seen: list[torch.Tensor] = []

    def note(network: object, examples: object, *_: object) -> NetworkResult:
        seen.append(examples.images)  # pyright: ignore[reportAttributeAccessIssue]
        return NetworkResult(0.0)

    monkeypatch.setattr(evaluation, "train_network", note)
    evaluate_all(distil(blobs), blobs, RECIPE, seeds=3, baselines=("random",))
    synthetic, drawn = seen[:3], seen[3:]
    assert all(torch.equal(images, synthetic[0]) for images in synthetic)
    assert not any(torch.equal(drawn[i], drawn[j]) for i, j in [(0, 1), (0, 2), (1, 2)])


def test_several_networks_share_one_file_and_baselines_use_the_first(
    blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    scores = evaluate_all(distil(blobs), blobs, RECIPE, model=(MODEL, "convnet-d2-w8"), seeds=1, baselines=("full",))
    assert list(scores.architecture) == [MODEL, "convnet-d2-w8"]
    assert trained == [3, 3, 1]


def test_wrong_names_and_sizes_are_refused_before_any_training(
    blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    with pytest.raises(InputError, match="Did you mean 'kmeans'"):
        evaluate_all(distil(blobs), blobs, RECIPE, baselines=("kmean",))
    with pytest.raises(InputError, match="0 networks"):
        evaluate_all(distil(blobs), blobs, RECIPE, seeds=0)
    with pytest.raises(InputError, match="Did you mean 'convnet"):
        evaluate_all(distil(blobs), blobs, RECIPE, model=(MODEL, "convent"))
    with pytest.raises(InputError, match="say which to train"):
        evaluate_all(replace(distil(blobs), model=""), blobs, RECIPE)
    assert trained == []


def test_figures_by_class_are_kept_with_the_networks_and_older_networks_are_not_trained_again(
    tmp_path: Path, blobs: Dataset, distil: Distil, trained: list[int]
) -> None:
    first = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, out=tmp_path, baselines=("random",))
    assert first.classes == blobs.classes
    for entry in (first.architecture[MODEL], first.baselines["random"]):
        for final, by_class, counts in zip(entry.final, entry.by_class, entry.confusion, strict=True):
            assert by_class is not None
            assert counts is not None
            assert final == pytest.approx(sum(figure or 0 for figure in by_class) / 3)
            assert [sum(row) for row in counts] == [20, 20, 20]
    trained.clear()
    assert evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, out=tmp_path, baselines=("random",)) == first
    path = tmp_path / "scores.partial.json"
    stored = json.loads(path.read_text())
    for network in stored["networks"].values():
        del network["by_class"], network["confusion"]
    path.write_text(json.dumps(stored))
    older = evaluate_all(distil(blobs), blobs, RECIPE, seeds=2, out=tmp_path, baselines=("random",))
    assert trained == []
    assert older.architecture[MODEL].final == first.architecture[MODEL].final
    assert older.architecture[MODEL].by_class == ()


def test_a_pool_is_taken_apart_wherever_a_name_is_accepted(blobs: Dataset, distil: Distil, trained: list[int]) -> None:
    scores = evaluate_all(distil(blobs), blobs, RECIPE, model=("N", "D"), seeds=1, baselines=())
    depths = [MODEL, "convnet-d2-w8", "convnet-d3-w8"]
    norms = [f"{MODEL}-{norm}" for norm in ("nonorm", "batchnorm", "layernorm", "groupnorm")]
    assert list(scores.architecture) == [*norms[:3], MODEL, norms[3], *depths[1:]]
    assert len(trained) == 7
