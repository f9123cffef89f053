from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from astdistill.data.dataset import DataConfig, Dataset, Split
from astdistill.data.preprocessing import Preprocessing
from astdistill.data.synthetic import SyntheticSet
from astdistill.evaluation import runner
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.runner import evaluate, evaluate_all
from astdistill.evaluation.scores import Scores
from astdistill.evaluation.training import NetworkResult
from astdistill.runtime import progress
from astdistill.runtime.errors import InputError

SHORT = EvalRecipe(name="short", epochs=15)
MODEL = "convnet-d1-w8"
Distil = Callable[..., SyntheticSet]


def entry(scores: Scores, model: str = MODEL) -> tuple[float, ...]:
    return scores.architecture[model].final


def test_learnable_blobs_are_learned_from_two_images_a_class(blobs: Dataset, distil: Distil) -> None:
    scores = evaluate(distil(blobs, 2), blobs, recipe=SHORT.replace(epochs=40), seeds=3)
    assert scores.architecture[MODEL].n == 3
    assert scores.mean > 90


def test_a_batch_that_depends_on_the_images_of_a_class_is_settled(blobs: Dataset, distil: Distil) -> None:
    by_size = SHORT.replace(epochs=2, batches=((1, 3), (2, 4)))
    found = evaluate(distil(blobs, 2), blobs, recipe=by_size, seeds=2)
    assert found.recipe.batch == 4
    assert found == evaluate(distil(blobs, 2), blobs, recipe=SHORT.replace(epochs=2, batch=4), seeds=2)


def test_labels_that_say_nothing_give_chance(blobs: Dataset) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = Split(torch.randn(30, *blobs.shape, generator=generator), torch.arange(3).repeat(10))
    tested = replace(
        blobs, test=Split(torch.randn(600, *blobs.shape, generator=generator), torch.arange(3).repeat(200))
    )
    assert evaluate(noise, tested, recipe=SHORT, model=MODEL, seeds=3).mean == pytest.approx(100 / 3, abs=6)


def test_networks_differ_by_number_and_repeat_by_seed(blobs: Dataset, distil: Distil) -> None:
    noise = torch.randn(blobs.test.images.shape, generator=torch.Generator().manual_seed(0))
    hard = replace(blobs, test=Split(blobs.test.whole() + 1.5 * noise, blobs.test.labels))
    short = SHORT.replace(epochs=3)
    first = entry(evaluate(distil(hard, 2), hard, recipe=short, seeds=3))
    assert len(set(first)) > 1
    assert entry(evaluate(distil(hard, 2), hard, recipe=short, seeds=2)) == first[:2]
    assert entry(evaluate(distil(hard, 2), hard, recipe=short, seeds=3, seed=1)) != first


def test_the_global_generator_is_neither_read_nor_moved(blobs: Dataset, distil: Distil) -> None:
    short = SHORT.replace(epochs=2)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = evaluate(distil(blobs), blobs, recipe=short, seeds=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert evaluate(distil(blobs), blobs, recipe=short, seeds=2) == first


def test_finished_networks_are_taken_over_and_new_ones_reported(blobs: Dataset, distil: Distil) -> None:
    seen: dict[int, NetworkResult] = {}
    scores = evaluate(
        distil(blobs),
        blobs,
        recipe=SHORT.replace(epochs=2),
        seeds=3,
        done={(MODEL, 1): NetworkResult(12.5)},
        on_result=lambda _, k, result: seen.update({k: result}),
    )
    assert set(seen) == {0, 2}
    assert entry(scores) == (seen[0].final, 12.5, seen[2].final)


def rates(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The learning rates that training is called with."""
    used: list[float] = []

    def note(network: object, examples: object, *_: object) -> NetworkResult:
        used.append(examples.lr)  # pyright: ignore[reportAttributeAccessIssue]
        return NetworkResult(0.0)

    monkeypatch.setattr("astdistill.evaluation.runner.train_network", note)
    return used


def test_the_rate_is_the_learned_one_then_a_hundredth_for_real_images_unless_the_recipe_has_its_own(
    monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil
) -> None:
    used = rates(monkeypatch)
    evaluate(distil(blobs), blobs, recipe=SHORT, seeds=1)
    evaluate(blobs.train, blobs, recipe=SHORT, model=MODEL, seeds=1)
    evaluate(distil(blobs), blobs, recipe=SHORT.replace(lr=0.3), seeds=1)
    assert used == pytest.approx([0.05, 0.01, 0.3])


def test_soft_labels_are_logits_and_reach_the_loss_as_probabilities(
    monkeypatch: pytest.MonkeyPatch, blobs: Dataset, distil: Distil
) -> None:
    soft = replace(distil(blobs), labels="soft", targets=torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    seen: list[torch.Tensor] = []

    def note(network: object, examples: object, *_: object) -> NetworkResult:
        seen.append(examples.targets)  # pyright: ignore[reportAttributeAccessIssue]
        return NetworkResult(0.0)

    monkeypatch.setattr("astdistill.evaluation.runner.train_network", note)
    evaluate(soft, blobs, recipe=SHORT, seeds=1)
    torch.testing.assert_close(seen[0], soft.targets.softmax(dim=1))


def test_divergence_is_counted_and_said_once(blobs: Dataset, distil: Distil) -> None:
    broken = replace(distil(blobs), lr=torch.tensor(1e30))
    with progress.console().capture() as said:
        scores = evaluate(broken, blobs, recipe=SHORT.replace(epochs=4), seeds=2)
    assert scores.diverged == scores.architecture[MODEL].diverged == 2
    assert scores.mean < 50
    assert said.get().count("not finite") == 1


def test_validation_images_are_used_when_asked_for(blobs: Dataset, distil: Distil) -> None:
    wrong = Split(blobs.test.images, (blobs.test.labels + 1) % 3)
    held = replace(blobs, validation=wrong)
    scores = evaluate(distil(held), held, recipe=SHORT, seeds=1, split="validation")
    assert scores.split == "validation"
    assert scores.mean < 20
    with pytest.raises(InputError, match="without held-out images"):
        evaluate(distil(blobs), blobs, recipe=SHORT, seeds=1, split="validation")


def test_a_set_of_other_preprocessing_is_refused_with_the_call_that_helps(blobs: Dataset, distil: Distil) -> None:
    whitened = Preprocessing.standard(torch.full((3,), 0.4), torch.full((3,), 0.2), blobs.shape)
    other = replace(
        distil(blobs), preprocessing=whitened, data=DataConfig(source="cifar10", whiten="standard", per_class=50)
    )
    with pytest.raises(InputError, match=r"load_dataset\('cifar10', whiten='standard', per_class=50\)"):
        evaluate(other, blobs, recipe=SHORT, seeds=1)


def test_other_classes_shapes_and_missing_networks_are_refused(blobs: Dataset, distil: Distil) -> None:
    with pytest.raises(InputError, match="distilled for 3 classes"):
        evaluate(replace(distil(blobs), classes=("a", "b", "c")), blobs, recipe=SHORT, seeds=1)
    with pytest.raises(InputError, match="shape"):
        evaluate(replace(distil(blobs), images=torch.zeros(6, 3, 16, 16)), blobs, recipe=SHORT, seeds=1)
    with pytest.raises(InputError, match="say which to train"):
        evaluate(blobs.train, blobs, recipe=SHORT, seeds=1)
    with pytest.raises(InputError, match="0 networks"):
        evaluate(distil(blobs), blobs, recipe=SHORT, seeds=0)
    with pytest.raises(InputError, match="positive lr"):
        evaluate(replace(distil(blobs), lr=torch.tensor(-0.01)), blobs, recipe=SHORT, seeds=1)


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_a_seed_that_files_cannot_hold_is_refused_before_any_training(
    seed: int, blobs: Dataset, distil: Distil, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "train_network", None)
    with pytest.raises(InputError, match=rf"^seed={seed} was given; give a whole number from -2\^63 to below 2\^64"):
        evaluate(distil(blobs, 2), blobs, recipe=SHORT, seeds=1, seed=seed)


def test_images_and_targets_that_do_not_belong_together_are_refused(blobs: Dataset, distil: Distil) -> None:
    made = distil(blobs, 2)
    broken = replace(made, images=made.images[:3])
    for call in (evaluate, evaluate_all):
        with pytest.raises(InputError, match=r"^The set cannot be evaluated \(targets of shape \[6, 3\] for 3 images"):
            call(broken, blobs, recipe=SHORT, seeds=1)


def test_every_network_of_the_papers_is_trained_by_one_call(blobs: Dataset, distil: Distil) -> None:
    scores = evaluate(distil(blobs), blobs, recipe=SHORT.replace(epochs=1), model=["M"], seeds=1)
    assert list(scores.architecture) == [MODEL, "mlp", "lenet", "alexnet", "vgg11-instancenorm", "resnet18"]
    assert scores.diverged == 0
    assert (
        scores.architecture[MODEL]
        == evaluate(distil(blobs), blobs, recipe=SHORT.replace(epochs=1), seeds=1).architecture[MODEL]
    )


def test_a_function_s_sets_are_the_same_for_every_network_name(blobs: Dataset, distil: Distil) -> None:
    asked: list[int] = []

    def draw(k: int) -> SyntheticSet:
        asked.append(k)
        return distil(blobs, k + 1)

    scores = evaluate(
        draw,
        blobs,
        recipe=SHORT.replace(epochs=1),
        model=[MODEL, "mlp"],
        seeds=2,
        done={(MODEL, 0): NetworkResult(1.0)},
    )
    assert asked == [0, 1]
    assert entry(scores)[0] == 1.0
    assert len(entry(scores, "mlp")) == 2
