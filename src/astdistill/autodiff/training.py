"""A network under training: its parameters are one vector, which an optimiser moves; the optimiser's state;
accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.dataset import Split
from ..models.convnets import ConvNet
from ..models.flat import FlatModel
from ..runtime.shapes import Batch, Logits, Params, Scalar, Targets
from .dispatch import engine_of
from .engine import Engine, PenaltyForm, gradient_penalty

PREFIX = "optimiser."


def pack(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """All tensors of the optimiser's state, named `optimiser.<parameter>.<name>`."""
    state = optimiser.state_dict()["state"]
    return {
        f"{PREFIX}{index}.{name}": torch.as_tensor(value)
        for index, values in state.items()
        for name, value in values.items()
        if value is not None
    }


def unpack(optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give the optimiser the state that `pack` took; tensors of other names are passed over."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith(PREFIX):
            index, _, name = key.removeprefix(PREFIX).partition(".")
            state.setdefault(int(index), {})[name] = value.clone()
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


class Trainee:
    """`network` with θ, its parameters, in one vector `theta` `[P]`, which each method below gives a `.grad`.

    The ConvNet of the papers is differentiated by its engine. Any other module is run as it is, in training mode where
    it is trained, since it may carry statistics or draw random numbers. With `parts` those of its parameters alone are
    θ, and the others stay as they are. `gradient` is that of the loss of its logits divided by the `temperature`.
    """

    def __init__(
        self, network: nn.Module, parts: Sequence[nn.Parameter] | None = None, temperature: float = 1.0
    ) -> None:
        self.network, self._temperature = network, temperature
        if parts is None:
            parts = list(network.parameters())
        self._parts = parts = list(parts)
        self.theta = nn.Parameter(torch.cat([part.detach().reshape(-1) for part in parts]))
        self.theta.grad = torch.zeros_like(self.theta)
        for part, place, slope in zip(
            parts, self._views(self.theta.detach()), self._views(self.theta.grad), strict=True
        ):
            part.data, part.grad = place, slope
        pure = (
            isinstance(network, ConvNet)
            and not list(network.buffers())
            and len(parts) == len(list(network.parameters()))
        )
        self.model: FlatModel | None = None
        self._engine: Engine | None = None
        if pure:
            self.model = FlatModel(network)
            self._engine = engine_of(self.model)

    def _views(self, vector: Params) -> list[Tensor]:
        sizes = [part.numel() for part in self._parts]
        return [piece.view(part.shape) for piece, part in zip(vector.split(sizes), self._parts, strict=True)]

    def gradient(self, images: Batch, targets: Targets) -> tuple[Scalar, Logits]:
        """The cross-entropy and the logits; its gradient goes to `theta.grad`."""
        if self._engine is not None:
            loss, logits, slope = self._engine.gradient(self._cooled(self.theta), images, targets)
            return self._keep(loss, logits, self._cooled(slope))
        self.network.train()
        logits = self.network(images) / self._temperature
        return self._backward(cross_entropy(logits, targets), logits)

    def _cooled(self, vector: Params) -> Params:
        """θ of the network whose logits are divided by the temperature: its last layer is. The gradient with respect to
        that θ is turned into the one with respect to θ in the same way."""
        vector = vector.detach()
        if self._temperature == 1 or self.model is None:
            return vector
        vector = vector.clone()
        for where in self.model.outputs:
            vector[where] /= self._temperature
        return vector

    def penalised(
        self, images: Batch, targets: Targets | None, penalty: float, clip: float = 1.0, form: PenaltyForm = "image"
    ) -> tuple[Scalar, Logits]:
        """The same for clip · cross-entropy + penalty · gradient penalty; without targets, for the penalty alone."""
        if self._engine is not None:
            return self._keep(*self._engine.penalised(self.theta.detach(), images, targets, penalty, clip, form))
        self.network.train()
        images = images.detach().requires_grad_()
        logits = self.network(images)
        loss = penalty * gradient_penalty(images, logits, form)
        if targets is not None:
            loss = loss + clip * cross_entropy(logits, targets)
        return self._backward(loss, logits)

    def logits(self, images: Batch) -> Logits:
        """What the network says of the images when it is not being trained."""
        if self._engine is not None:
            return self._engine.logits(self.theta.detach(), images)
        self.network.eval()
        with torch.no_grad():
            return self.network(images)

    def release(self) -> None:
        """Nothing; gives each parameter memory of its own again, as those who save the network or train it on expect,
        and no gradient."""
        for part in self._parts:
            part.data, part.grad = part.data.clone(), None

    def _keep(self, loss: Scalar, logits: Logits, slope: Params) -> tuple[Scalar, Logits]:
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
"""How many images of each class (row) a network took for each class (column)."""


@torch.no_grad()
def accuracy(logits: Callable[[Batch], Logits], tested: Split) -> float:
    """The percentage of images for which the largest of a network's `logits` is that of their own label."""
    right = torch.stack(
        [(logits(images).argmax(dim=1) == labels).sum() for images, labels in tested.batches(BATCH)]
    ).sum()
    return 100 * float(right) / len(tested)


@torch.no_grad()
def confusion(logits: Callable[[Batch], Logits], tested: Split, classes: int) -> Confusion:
    """The images of each class by the class whose logit is the largest; the trace over the sum is the accuracy. On the
    CPU."""
    cells = [classes * labels.long() + logits(images).argmax(dim=1) for images, labels in tested.batches(BATCH)]
    return torch.bincount(torch.cat(cells), minlength=classes**2).view(classes, classes).cpu()
