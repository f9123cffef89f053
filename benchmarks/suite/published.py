"""The published way of doing the same work, written from docs/method.md in plain torch: slow, obvious, and independent
of our fast paths."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from astdistill.data.augmentation import Draw, apply, draw, hole
from astdistill.methods.unroll import Plan, Variables
from astdistill.runtime.seeds import rng, seeded

from .convnet_work import Net


def convnet(net: Net) -> nn.Sequential:
    """The ConvNet of docs/method.md §5, in the default memory layout."""
    layers: list[nn.Module] = []
    for inputs, outputs, _ in net.convolutions:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(outputs, outputs), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(net.features, net.classes))


def flat(network: nn.Module) -> Tensor:
    """All parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def reparametrised(network: nn.Module, theta: Tensor, images: Tensor) -> Tensor:
    """The logits under the flat parameters θ."""
    named = dict(network.named_parameters())
    parts = theta.split([parameter.numel() for parameter in named.values()])
    views = {name: part.view(parameter.shape) for (name, parameter), part in zip(named.items(), parts, strict=True)}
    return functional_call(network, views, (images,))


@dataclass(frozen=True)
class Gradient:
    """dL/dX and dL/dη."""

    images: Tensor
    lr: Tensor


def meta_gradient(
    network: nn.Module, start: Tensor, goal: Tensor, variables: Variables, plan: Plan, momentum: float
) -> Gradient:
    """The meta-gradient of docs/method.md §1, steps 2 to 4: double backward through all T steps, and one gradient at
    the end."""
    images, lr = variables.images.detach().requires_grad_(), variables.lr.detach().requires_grad_()
    theta, velocity = start.detach().requires_grad_(), torch.zeros_like(start)
    for step, chosen in enumerate(plan.indices):
        logits = reparametrised(network, theta, plan.augment(step, images[chosen]))
        loss = F.cross_entropy(logits, variables.targets[chosen])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=True)
        velocity = momentum * velocity + gradient
        theta = theta - lr * velocity
    loss = (theta - goal).square().sum() / (start - goal).square().sum()
    return Gradient(*torch.autograd.grad(loss, (images, lr)))


def truncated_by_adam(
    network: nn.Module,
    start: Tensor,
    variables: Variables,
    plan: Plan,
    window: int,
    rate: float,
    real: Callable[[Tensor], Iterable[tuple[Tensor, Tensor, float]]],
) -> Tensor:
    """dL/dX by RaT-BPTT: Adam, a graph through the last `window` steps alone, the loss on groups of real images."""
    images, theta = variables.images.detach().requires_grad_(), start.detach()
    first, second, steps = torch.zeros_like(theta), torch.zeros_like(theta), len(plan.indices)
    for step, chosen in enumerate(plan.indices):
        inside = step >= steps - window
        theta = theta if theta.requires_grad else theta.requires_grad_()
        seen = images if inside else images.detach()
        logits = reparametrised(network, theta, plan.augment(step, seen[chosen]))
        loss = F.cross_entropy(logits, variables.targets[chosen])
        (gradient,) = torch.autograd.grad(loss, theta, create_graph=inside)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        root = (second / (1 - 0.999 ** (step + 1)) + 1e-16).sqrt()  # the root has no derivative at zero
        theta = theta - rate * (first / (1 - 0.9 ** (step + 1))) / (root + 1e-8)
        theta = theta if inside else theta.detach()
    last, slope = theta.detach().requires_grad_(), torch.zeros_like(theta)
    for pictures, targets, share in real(last.detach()):
        loss = share * F.cross_entropy(reparametrised(network, last, pictures), targets)
        slope += torch.autograd.grad(loss, last)[0]
    return torch.autograd.grad(theta, images, slope)[0]


def augmented_one_by_one(images: Tensor, drawn: Draw) -> Tensor:
    """The augmentation of docs/method.md §4, one image after another."""
    numbers = [
        dict(zip(drawn.numbers, map(float, each), strict=True)) for each in zip(*drawn.numbers.values(), strict=True)
    ]
    return torch.stack([_EFFECTS[drawn.op](image, **values) for image, values in zip(images, numbers, strict=True)])


def _color(image: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    image = image + (brightness - 0.5)
    grey = image.mean(dim=0, keepdim=True)
    image = (image - grey) * (2 * saturation) + grey
    return (image - image.mean()) * (contrast + 0.5) + image.mean()


def _crop(image: Tensor, rows: float, columns: float) -> Tensor:
    down, right = int(rows), int(columns)
    return F.pad(image, (-right, right, -down, down))


def _cutout(image: Tensor, row: float, column: float) -> Tensor:
    _, height, width = image.shape
    top, left = int(row) - hole(height) // 2, int(column) - hole(width) // 2
    image = image.clone()
    image[:, max(0, top) : top + hole(height), max(0, left) : left + hole(width)] = 0.0
    return image


def _flip(image: Tensor, flip: float) -> Tensor:
    return image.flip(2) if flip else image


def _scale(image: Tensor, x: float, y: float) -> Tensor:
    return _affine(image, torch.tensor([[x, 0.0, 0.0], [0.0, y, 0.0]]))


def _rotate(image: Tensor, radians: float) -> Tensor:
    cosine, sine = torch.tensor(radians).cos(), torch.tensor(radians).sin()
    zero = torch.tensor(0.0)
    return _affine(image, torch.stack([torch.stack([cosine, -sine, zero]), torch.stack([sine, cosine, zero])]))


def _affine(image: Tensor, matrix: Tensor) -> Tensor:
    grid = F.affine_grid(matrix[None].to(image.dtype), [1, *image.shape], align_corners=True)
    return F.grid_sample(image[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)[0]


_EFFECTS: dict[str, Callable[..., Tensor]] = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def loader(images: Tensor, labels: Tensor, batch: int, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Batches collated from single items."""
    return DataLoader(
        TensorDataset(images, labels), batch_size=batch, shuffle=shuffle, generator=torch.Generator().manual_seed(0)
    )


def train_epoch(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: DataLoader[tuple[Tensor, ...]],
    strategy: str,
    penalty: float,
    generator: torch.Generator,
) -> float:
    """Train for one pass (docs/method.md §1; with `penalty` §2, part 2); returns the accuracy in percent on the
    augmented batches."""
    network.train()
    right = seen = 0
    for images, labels in batches:
        count, channels, height, width = images.shape
        images = apply(images, draw(strategy, count, (channels, height, width), generator))
        logits = network(images)
        loss = F.cross_entropy(logits, labels)
        if penalty:
            loss = loss + penalty * gradient_penalty(network, images)
        right += int((logits.argmax(dim=1) == labels).sum())
        seen += len(labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return 100 * right / seen


def gradient_penalty(network: nn.Module, images: Tensor) -> Tensor:
    """mean (‖∇_x Σ_k f_k(x)‖₂ − 1)² over whole images, with a separate forward pass."""
    images = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
    return ((gradient.flatten(1).square().sum(dim=1).sqrt() - 1) ** 2).mean()


@torch.no_grad()
def accuracy(network: nn.Module, batches: DataLoader[tuple[Tensor, ...]]) -> float:
    """The accuracy in percent on test images."""
    network.eval()
    right = seen = 0
    for images, labels in batches:
        right += int((network(images).argmax(dim=1) == labels).sum())
        seen += len(labels)
    return 100 * right / seen


def evaluated(
    net: Net, train: TensorDataset, test: TensorDataset, networks: int, epochs: int, strategy: str, lr: float
) -> list[float]:
    """The evaluation of docs/method.md §7 (MTT): fresh networks one after another, the rate dropped at half, one test
    pass at the end of each."""
    found = []
    for number in range(networks):
        with seeded(number, "published"):
            network = convnet(net)
        batches = loader(train.tensors[0], train.tensors[1], 256, True)
        tested = loader(test.tensors[0], test.tensors[1], 256, False)
        generator = rng(number, "published")
        for first, last in pairwise((0, epochs // 2 + 1, max(epochs, epochs // 2 + 1))):
            rate = lr * (0.1 if first else 1.0)
            optimiser = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4)
            for _ in range(first, min(last, epochs)):
                train_epoch(network, optimiser, batches, strategy, 0.0, generator)
        found.append(accuracy(network, tested))
    return found


def save_experts(path: Path, experts: list[list[list[Tensor]]]) -> None:
    """A list of experts, each a list of rows, each a list of parameter tensors, in one file."""
    torch.save(experts, path)


def load_segment(path: Path, expert: int, epoch: int, length: int) -> Tensor:
    """Rows `epoch` … `epoch + length` of one expert as flat vectors: reads the whole file."""
    rows = torch.load(path)[expert][epoch : epoch + length + 1]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
