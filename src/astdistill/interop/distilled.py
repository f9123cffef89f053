"""Use a distilled set: train any network on it, iterate over it in any training loop, export it for other programs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ParamSpec, Self, TypeVar

import torch
from torch import Tensor, nn

from .. import distillation
from ..autodiff.training import Trainee, accuracy
from ..data.dataset import Split
from ..data.preprocessing import check_unit
from ..data.synthetic import SyntheticSet
from ..evaluation.protocol import MTT_PROTOCOL, EvalRecipe
from ..evaluation.scores import Scores
from ..evaluation.training import TensorExamples, train_epochs
from ..runtime.errors import DivergedError, InputError
from ..runtime.kinds import checked_kinds
from ..runtime.progress import bar
from ..runtime.seeds import Draws, rng
from ..runtime.shapes import Batch, Images, Labels, Logits
from ..runtime.trust import trust_modules
from . import exporters, import_sets

Network = TypeVar("Network", bound=nn.Module)
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True, repr=False)
class Distilled(SyntheticSet):
    """A `SyntheticSet` with methods to use it: what `astdistill.load`, `distill` and `import_set` return."""

    @classmethod
    def of(cls, synthetic: SyntheticSet) -> Self:
        """The same set as a `Distilled`; no tensor is copied.

        Args:
            synthetic: Any distilled set.
        """
        return cls(**{each.name: getattr(synthetic, each.name) for each in fields(SyntheticSet)})

    @checked_kinds
    def train(
        self,
        network: Network,
        *,
        epochs: int | None = None,
        lr: float | None = None,
        recipe: EvalRecipe = MTT_PROTOCOL,
        seed: int = 0,
    ) -> Network:
        """Train `network` in place on this set alone, as the evaluation does, and leave it in evaluation mode.

        The same arguments give the same bits on a CPU.

        The network is trained on whitened images and expects them at inference:
        `network(synthetic.preprocessing.apply(images01))`, or `synthetic.accuracy(network, images01, labels)`.

        Args:
            network: Any module from images `[B, C, H, W]` to logits `[B, K]`, with batch norm and dropout too, on
                any device; parameters with `requires_grad` False stay unchanged.
            epochs: Number of epochs in place of the recipe's, one or more; the released count, which MTT's protocol
                has, makes one more pass over the set. Not for a recipe that counts steps. None: the recipe's own.
            lr: Learning rate. None: that of `recipe` or, where the recipe has none, the learned one of the set.
            recipe: The protocol (MTT's by default, arXiv 2203.11932: 1000 epochs, the learning rate dropped at half);
                what it leaves open is taken from the set: augmentation, hard or soft labels, crops of textures.
            seed: Of the order of the images, of augmentation and of dropout.

        Returns:
            The same module.

        Raises:
            InputError: For a network that does not fit, before it is changed, and for an invalid number of epochs.
            DivergedError: The loss stopped being finite.
        """
        if epochs is not None and (epochs < 1 or recipe.steps):
            counts = f", but the recipe {recipe.name} counts {recipe.steps[-1]} steps" if recipe.steps else ""
            raise InputError(f"epochs={epochs} was given{counts}; give 1 or more to a recipe that counts epochs.")
        changes = {name: value for name, value in (("epochs", epochs), ("lr", lr)) if value is not None}
        recipe = recipe.for_set(self.ipc, len(self.classes)).replace(**changes).augmented(self.augmentation)
        if recipe.temperature:
            raise InputError(
                f"The protocol {recipe.name} needs a teacher that labels the images, which train has not; give another "
                "recipe, or evaluate with: astdistill evaluate SET --protocol rded"
            )
        trainable = self._trainable_parameters(network)
        examples = TensorExamples.of(self, recipe.lr, trainable[0].device, trainable[0].dtype)
        recipe = recipe.for_images(len(examples))
        trainee = Trainee(network, trainable, draws=Draws(seed, "train", "dropout"))
        total = torch.zeros((), dtype=torch.float32, device=trainable[0].device)
        title = f"training {type(network).__name__} on {len(self.images)} synthetic images (images seen)"
        try:
            with bar(title, recipe.passes * examples.images_per_epoch, 0, "images") as progress:
                for losses in train_epochs(trainee, examples, recipe, lambda epoch: rng(seed, "train", epoch)):
                    total = total + losses
                    progress.step(examples.images_per_epoch)
        finally:
            trainee.release()
        network.eval()
        if not bool(total.isfinite()):
            raise DivergedError(
                f"The training loss of {type(network).__name__} stopped being finite at learning rate {examples.lr:g}; "
                f"train a new network with a smaller one: train(network, lr={examples.lr / 10:.3g})."
            )
        return network

    def accuracy(self, network: nn.Module, images01: Images, labels: Labels) -> float:
        """The percentage of images that `network` classifies correctly.

        Whitens the images as the set is, and computes in evaluation mode on the network's device.

        Args:
            network: Any module from whitened images `[B, C, H, W]` to logits `[B, K]`.
            images01: `[N, C, H, W]`, in [0, 1].
            labels: `[N]`, each 0 … K − 1.

        Raises:
            InputError: For images of another shape or range, and for labels that are not those of the images.
        """
        self._check_images(images01, labels)
        like = next(network.parameters(), torch.zeros((), dtype=torch.float32))
        whitening = self.preprocessing.to(like.device).for_batches()

        def logits(batch: Batch) -> Logits:
            return network(whitening.map_batch(batch.to(like.device)).to(like.dtype)).cpu()

        with _evaluating(network):
            return accuracy(logits, Split(images01.cpu().float(), labels.cpu()))

    @checked_kinds
    def torch_dataset(self, *, pixels: bool = False, seed: int = 0) -> DistilledImages:
        """The set as a `torch.utils.data.Dataset`, for a training loop of your own; see `DistilledImages`.

        Args:
            pixels: Give images in [0, 1] with the whitening undone, for networks that have their own normalisation.
            seed: Of the crops of textures.
        """
        decoded = self.decoded()
        if pixels:
            return DistilledImages(decoded, decoded.pixels(), seed)
        return DistilledImages(decoded, decoded.images.detach().cpu(), seed)

    @checked_kinds
    def export(self, format: str, folder: str | Path, *, scores: Scores | None = None) -> Path:
        """Write the set into a new `folder` as the files of `format`, and return the folder; see `astdistill.export`.

        Args:
            format: "huggingface", "mtt", "npz", "png" or "torch".
            folder: A new folder, or an empty one.
            scores: The set's figures, for formats that show some. None: it has none.
        """
        return exporters.export(self, format, folder, scores=scores)

    def _trainable_parameters(self, network: nn.Module) -> list[nn.Parameter]:
        """The parameters that training changes. Raises InputError for a network that cannot be trained on this set."""
        name, (channels, height, width) = type(network).__name__, self.shape
        trainable = [part for part in network.parameters() if part.requires_grad]
        if not trainable:
            raise InputError(
                f"{name} has no trainable parameter; give a network in which some have requires_grad=True."
            )
        if len({(part.device, part.dtype) for part in network.parameters()}) > 1:
            raise InputError(
                f"{name} has parameters on several devices or of several dtypes; "
                "move it whole: network.to('cpu', torch.float32)"
            )
        remedy = f"astdistill.build_model('convnet-d3', {self.shape}, {len(self.classes)}) makes one that does."
        logits = self._try_forward(
            network,
            torch.zeros(2, channels, height, width, device=trainable[0].device, dtype=trainable[0].dtype),
            remedy,
        )
        if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, len(self.classes)):
            output = f"a {type(logits).__name__}"
            if isinstance(logits, Tensor):
                output = f"logits of shape {list(logits.shape)}"
            raise InputError(
                f"{name} gives {output} for 2 images, and the set has {len(self.classes)} classes; {remedy}"
            )
        return trainable

    def _try_forward(self, network: nn.Module, images: Batch, remedy: str) -> object:
        """The network's output for images of the set's shape; the network stays unchanged."""
        try:
            with torch.no_grad(), _evaluating(network):
                return network(images)
        except (RuntimeError, ValueError) as error:
            first = str(error).partition("\n")[0]
            raise InputError(
                f"{type(network).__name__} does not take images of shape {self.shape} ({first}), "
                f"which this set's have; {remedy}"
            ) from error

    def _check_images(self, images01: Images, labels: Labels) -> None:
        if images01.ndim != 4 or tuple(images01.shape[1:]) != self.shape or not len(images01):
            raise InputError(
                f"Images of shape {tuple(images01.shape)} were given; "
                f"give [N, {', '.join(map(str, self.shape))}] in [0, 1]."
            )
        check_unit(images01)
        if labels.shape != (len(images01),) or int(labels.min()) < 0 or int(labels.max()) >= len(self.classes):
            raise InputError(
                f"Labels of shape {tuple(labels.shape)} were given for {len(images01)} images; give one class number "
                f"from 0 to {len(self.classes) - 1} for each, in the order of synthetic.classes."
            )


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    """A network in evaluation mode for a block; then each of its modules has the mode that it had."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class DistilledImages(torch.utils.data.Dataset[tuple[Tensor, Tensor | int]]):
    """Pairs of an image `[C, H, W]` and its target: a class number, or a distribution `[K]` where the labels are soft;
    both on the CPU.

    Each sub-image of a slot is an item. Of textures each item is a random circular crop, of which every canvas has
    `canvas_samples`; the crops of an epoch depend on `seed`, `epoch` and the item's number alone, and `set_epoch`
    selects the epoch. Augmentation is not included, since it is drawn for a whole batch: `SyntheticSet.augmentation`
    names it.

    Args:
        synthetic: The set, without slots of several sub-images.
        images: `[N, C, H, W]`, the images of the set, or other pixels in their place.
        seed: Of the crops of textures.
    """

    def __init__(self, synthetic: SyntheticSet, images: Images, seed: int = 0) -> None:
        self.classes = synthetic.classes
        self.targets: Tensor = synthetic.probabilities.detach().cpu()
        if synthetic.certain:
            self.targets = synthetic.hard_labels.cpu()
        self.images = images
        self.seed, self.epoch = seed, 0
        self._texture, self._size = synthetic.texture, synthetic.shape[1:]

    def set_epoch(self, epoch: int) -> None:
        """Use the crops of textures of `epoch`; call it before the DataLoader starts the epoch, as with a
        DistributedSampler.

        Args:
            epoch: Counted from 0.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.images) * self._texture.samples

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor | int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"Index {index} is out of range for {len(self)} images.")
        index, row = index % len(self), index % len(self.images)
        crops = self._texture.draw(1, self._size, rng(self.seed, "crop", self.epoch, index))
        image, target = crops(self.images[row : row + 1])[0], self.targets[row]
        if target.ndim == 0:
            return image, int(target)
        return image, target


def load(path: str | Path, *, trust: str | Sequence[str] = ()) -> Distilled:
    """The distilled set in a file or a run folder.

    Args:
        path: A file, or a run folder that holds `synthetic.safetensors`.
        trust: Modules of other packages that the set may name as its network or method, as `package.module`; one, or
            several. No other one is imported.

    Returns:
        The set.

    Raises:
        InputError: For anything else.
    """
    trust_modules(trust)
    return Distilled.load(path)


def _returning_distilled(compute: Callable[Arguments, SyntheticSet]) -> Callable[Arguments, Distilled]:
    """Wrap `compute` to return a `Distilled`; the packages that compute sets are below this one and cannot import
    it."""

    @functools.wraps(compute)
    def function(*arguments: Arguments.args, **keywords: Arguments.kwargs) -> Distilled:
        return Distilled.of(compute(*arguments, **keywords))

    return function


distill = _returning_distilled(distillation.distill)
import_set = _returning_distilled(import_sets.import_set)
