"""How good the present set is, by images that were held out of the training data."""

from __future__ import annotations

from ..data import Dataset
from ..evaluation import MTT_PROTOCOL, evaluate
from ..seeds import derive
from ..synthetic import SyntheticSet
from .settings import DistillSettings


def validate(synthetic: SyntheticSet, dataset: Dataset, settings: DistillSettings, seed: int) -> float:
    """Mean accuracy, in percent, on the validation split; the same networks every time, so that sets are compared alike."""
    recipe = MTT_PROTOCOL.replace(epochs=settings.validate_epochs, augmentation=synthetic.augmentation)
    scores = evaluate(
        synthetic, dataset, recipe=recipe, seeds=settings.validate_networks, seed=derive(seed, "validate"), split="validation"
    )
    return scores.architecture[synthetic.model].mean
