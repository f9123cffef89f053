"""Training of a network whose parameters are one vector for an optimiser; the state of the optimiser; accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.dataset import Split
from ..models.convnets import is_plain
from ..models.flat import FlatModel
from ..runtime.seeds import Draws
from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets
from .dispatch import engine_of
from .engine import Engine, PenaltyForm, gradient_penalty

PREFIX = "optimiser."


def pack(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of the state of the optimiser, named `optimiser.<parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{PREFIX}{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unpack(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Load the state that `pack` returned into the optimiser; tensors of other names are ignored."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(PREFIX):
            index, _, name = key.removeprefix(PREFIX).partition(".")
            state.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Trainee:
    """`network` with its parameters θ in one vector `theta` `[P]`; `gradient` and `penalised` set `theta.grad`.

    The ConvNet of the papers is differentiated by its engine. Any other module, and a ConvNet that is not `is_plain`,
    is called directly, in training mode when it is trained, since it may have statistics or draw random numbers. With
    `parts` only those parameters are θ, and the others do not change. `gradient` is that of the loss of the logits
    divided by the `temperature`.

    `draws` are the random numbers of a network that is called directly. No other thread that draws runs during such a
    call, but between two of them.
    """

    def __init__(
        self,
        network: nn.Module,
        parts: Sequence[nn.Parameter] | None = None,
        temperature: float = 1.0,
        draws: Draws | None = None,
    ) -> None:
        self.network, self._temperature, self.draws = network, temperature, draws
        if parts is None:
            parts = [part for part in network.parameters() if part.requires_grad]
        self._parts = parts = list(parts)
        self.theta = nn.Parameter(torch.cat([part.detach().reshape(-1) for part in parts]))
        self.theta.grad = torch.zeros_like(self.theta)
        for part, view, slope in zip(
            parts, self._views(self.theta.detach()), self._views(self.theta.grad), strict=True
        ):
            part.data, part.grad = view, slope
        self.model: FlatModel | None = None
        self._engine: Engine | None = None
        if is_plain(network) and len(parts) == len(list(network.parameters())):
            self.model = FlatModel(network)
            self._engine = engine_of(self.model)

    def _views(self, vector: Params) -> list[Tensor]:
        sizes = [part.numel() for part in self._parts]
        return [piece.view(part.shape) for piece, part in zip(vector.split(sizes), self._parts, strict=True)]

    def gradient(self, images: Batch, targets: Targets) -> tuple[Scalar, Logits]:
        """The cross-entropy and the logits; writes the gradient to `theta.grad`."""
        if self._engine is not None:
            loss, logits, slope = self._engine.gradient(self._divide_outputs(self.theta), images, targets)
            return self._store_gradient(loss, logits, self._divide_outputs(slope))
        with self._drawing():
            self.network.train()
            logits = self.network(images) / self._temperature
            return self._backward(cross_entropy(logits, targets), logits)

    def _drawing(self) -> AbstractContextManager[None]:
        return self.draws.drawn() if self.draws is not None else nullcontext()

    def _divide_outputs(self, vector: Params) -> Params:
        """The vector with the part of the last layer divided by the temperature.

        Of θ this gives the network whose logits are divided by the temperature; of the gradient with respect to that θ
        it gives the gradient with respect to θ.
        """
        vector = vector.detach()
        if self._temperature == 1 or self.model is None:
            return vector
        vector = vector.clone()
        for output in self.model.outputs:
            vector[output] /= self._temperature
        return vector

    def penalised(
        self, images: Batch, targets: Targets | None, penalty: float, clip: float = 1.0, form: PenaltyForm = "image"
    ) -> tuple[Scalar, Logits]:
        """The same for clip · cross-entropy + penalty · gradient penalty; without targets, for the penalty alone."""
        if self._engine is not None:
            return self._store_gradient(
                *self._engine.penalised(self.theta.detach(), images, targets, penalty, clip, form)
            )
        with self._drawing():
            self.network.train()
            images = images.detach().requires_grad_()
            logits = self.network(images)
            loss = penalty * gradient_penalty(images, logits, form)
            if targets is not None:
                loss = loss + clip * cross_entropy(logits, targets)
            return self._backward(loss, logits)

    def logits(self, images: Batch) -> Logits:
        """The logits of the images in evaluation mode."""
        if self._engine is not None:
            return self._engine.logits(self.theta.detach(), images)
        with self._drawing(), torch.no_grad():
            self.network.eval()
            return self.network(images)

    def release(self) -> None:
        """Give each parameter separate memory again, as needed to save the network or to continue its training, and no
        gradient."""
        for part in self._parts:
            part.data, part.grad = part.data.clone(), None

    def _store_gradient(self, loss: Scalar, logits: Logits, slope: Params) -> tuple[Scalar, Logits]:
        assert self.theta.grad is not None
        self.theta.grad.copy_(slope)
        return loss, logits

    def _backward(self, loss: Scalar, logits: Logits) -> tuple[Scalar, Logits]:
        assert self.theta.grad is not None
        self.theta.grad.zero_()
        loss.backward()
        return loss.detach(), logits.detach()


BATCH = 1024
Confusion = Int[Tensor, "K K"]
"""Number of images of each class (row) that a network assigned to each class (column)."""


@torch.no_grad()
def accuracy(logits: Callable[[Batch], Logits], tested: Split) -> float:
    """The percentage of images for which the largest of the `logits` is that of their label."""
    right = torch.stack(
        [(logits(images).argmax(dim=1) == labels).sum() for images, labels in tested.batches(BATCH)]
    ).sum()
    return 100 * float(right) / len(tested)


@torch.no_grad()
def confusion(logits: Callable[[Batch], Logits], tested: Split, classes: int) -> Confusion:
    """The confusion matrix, on the CPU: images of each class by the class of the largest logit; the trace over the sum
    is the accuracy."""
    cells = [classes * labels.long() + logits(images).argmax(dim=1) for images, labels in tested.batches(BATCH)]
    return torch.bincount(torch.cat(cells), minlength=classes**2).view(classes, classes).cpu()
