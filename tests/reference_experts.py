"""Expert training, slowly and obviously: explicit SGD, one image at a time where the formula speaks of one image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from astdistill.augment import apply, draw
from astdistill.data import Dataset
from astdistill.experts import ExpertRecipe
from astdistill.models import build_model
from astdistill.seeds import derive, rng


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """mean_n −log softmax(f(x_n))_{y_n}."""
    terms = [-(row[label] - row.exp().sum().log()) for row, label in zip(logits, labels.tolist(), strict=True)]
    return torch.stack(terms).mean()


def penalty(network: nn.Module, images: Tensor, form: str) -> Tensor:
    """mean (‖∇_x Σ_k f_k(x)‖₂ − 1)²: one norm an image, or one a pixel over its channels."""
    terms = []
    for image in images:
        source = image.detach()[None].requires_grad_()
        (gradient,) = torch.autograd.grad(network(source).sum(), source, create_graph=True)
        if form == "image":
            terms.append((sum_of_squares(gradient).sqrt() - 1) ** 2)
        else:
            _, _, height, width = gradient.shape
            pixels = [(sum_of_squares(gradient[0, :, row, column]).sqrt() - 1) ** 2 for row in range(height) for column in range(width)]
            terms.append(torch.stack(pixels).mean())
    return torch.stack(terms).mean()


def sum_of_squares(values: Tensor) -> Tensor:
    return (values * values).sum()


def trajectory(
    dataset: Dataset, model: str, recipe: ExpertRecipe, seed: int, expert: int, clips: list[float], rates: list[float]
) -> Tensor:
    """θ*_0 … θ*_E in float64 `[E + 1, P]`; `clips` and `rates` are written out epoch by epoch, a change of rate restarts the momentum."""
    network = build_model(model, dataset.shape, len(dataset.classes), seed=derive(seed, "expert", expert)).double()
    parameters = list(network.parameters())
    velocities = [torch.zeros_like(part) for part in parameters]
    rows = [torch.cat([part.detach().flatten() for part in parameters])]
    images, labels = dataset.train.images.double(), dataset.train.labels
    for epoch in range(recipe.epochs):
        if epoch and rates[epoch] != rates[epoch - 1]:
            velocities = [torch.zeros_like(part) for part in parameters]
        generator = rng(derive(seed, "expert", expert, epoch), "epoch")
        order = torch.randperm(len(labels), generator=generator)
        for number in range(math.ceil(len(labels) / recipe.batch)):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            augmented = apply(images[chosen], draw(recipe.augmentation, len(chosen), dataset.shape, generator))
            loss = clips[epoch] * cross_entropy(network(augmented), labels[chosen])
            if recipe.penalty:
                seen = augmented if recipe.penalty_form == "image" else images[chosen]
                loss = loss + recipe.penalty * penalty(network, seen, recipe.penalty_form)
            gradients = torch.autograd.grad(loss, parameters)
            length = float(torch.stack([sum_of_squares(gradient) for gradient in gradients]).sum().sqrt()) + 1e-6  # torch's rounding guard
            shorter = min(1.0, recipe.grad_norm / length) if recipe.grad_norm else 1.0
            with torch.no_grad():
                for part, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                    velocity.mul_(recipe.momentum).add_(shorter * gradient + recipe.weight_decay * part)
                    part.sub_(rates[epoch] * velocity)
        rows.append(torch.cat([part.detach().flatten() for part in parameters]))
    return torch.stack(rows)
