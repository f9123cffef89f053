"""Expert training, slowly and obviously: explicit SGD, one image at a time where the formula speaks of one image."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from astdistill.data.augmentation import apply, draw
from astdistill.data.dataset import Dataset
from astdistill.experts.recipe import ExpertRecipe
from astdistill.models.registry import build_model
from astdistill.runtime.seeds import derive, rng


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
            pixels = [
                (sum_of_squares(gradient[0, :, row, column]).sqrt() - 1) ** 2
                for row in range(height)
                for column in range(width)
            ]
            terms.append(torch.stack(pixels).mean())
    return torch.stack(terms).mean()


def sum_of_squares(values: Tensor) -> Tensor:
    return (values * values).sum()


def trajectory(
    dataset: Dataset, model: str, recipe: ExpertRecipe, seed: int, expert: int, clips: list[float], rates: list[float]
) -> Tensor:
    """θ*_0 … θ*_E in float64 `[E + 1, P]`; `clips` and `rates` are written out epoch by epoch, a change of rate
    restarts the momentum."""
    network = build_model(model, dataset.shape, len(dataset.classes), seed=derive(seed, "expert", expert)).double()
    parameters = list(network.parameters())
    velocities = [torch.zeros_like(part) for part in parameters]
    rows = [torch.cat([part.detach().flatten() for part in parameters])]
    images, labels = dataset.train.whole().double(), dataset.train.labels
    for epoch in range(recipe.epochs):
        if epoch and rates[epoch] != rates[epoch - 1]:
            velocities = [torch.zeros_like(part) for part in parameters]
        generator = rng(derive(seed, "expert", expert, epoch), "epoch")
        order = torch.randperm(len(labels), generator=generator)
        for number in range(math.ceil(len(labels) / recipe.batch)):
            chosen = order[number * recipe.batch : (number + 1) * recipe.batch]
            augmented = apply(images[chosen], draw(recipe.augmentation, len(chosen), dataset.shape, generator))
            seen = augmented if recipe.penalty_form == "image" else images[chosen]
            gradients = direction(network, recipe, clips[epoch], augmented, labels[chosen], seen)
            length = (
                float(torch.stack([sum_of_squares(gradient) for gradient in gradients]).sum().sqrt()) + 1e-6
            )  # torch's rounding guard
            shorter = min(1.0, recipe.max_grad_norm / length) if recipe.max_grad_norm else 1.0
            with torch.no_grad():
                for part, velocity, gradient in zip(parameters, velocities, gradients, strict=True):
                    velocity.mul_(recipe.momentum).add_(shorter * gradient + recipe.weight_decay * part)
                    part.sub_(rates[epoch] * velocity)
        rows.append(torch.cat([part.detach().flatten() for part in parameters]))
    return torch.stack(rows)


def gradient(
    network: nn.Module, recipe: ExpertRecipe, clip: float, augmented: Tensor, labels: Tensor, penalised: Tensor
) -> list[Tensor]:
    """The gradient of c_e × cross-entropy + λ × penalty, parameter by parameter."""
    loss = clip * cross_entropy(network(augmented), labels)
    if recipe.penalty:
        loss = loss + recipe.penalty * penalty(network, penalised, recipe.penalty_form)
    return list(torch.autograd.grad(loss, list(network.parameters())))


def direction(
    network: nn.Module, recipe: ExpertRecipe, clip: float, augmented: Tensor, labels: Tensor, penalised: Tensor
) -> list[Tensor]:
    """That gradient, or g_p − α g_⊥ of GSAM, with SAM's climb or ASAM's: every number of every parameter by itself, the
    sums over all of them by loops."""
    clean = gradient(network, recipe, clip, augmented, labels, penalised)
    if not recipe.sam_rho:
        return clean
    parameters = list(network.parameters())
    before = [part.detach().clone() for part in parameters]
    with torch.no_grad():
        for part, climb in zip(parameters, climbs(before, clean, recipe), strict=True):
            part.copy_(part + climb)
    uphill = gradient(network, recipe, clip, augmented, labels, penalised)
    with torch.no_grad():
        for part, old in zip(parameters, before, strict=True):
            part.copy_(old)
    inner = sum(float((here * there).sum()) for here, there in zip(clean, uphill, strict=True))
    share = inner / sum(float(sum_of_squares(part)) for part in uphill)
    return [there - recipe.surrogate_gap * (here - share * there) for here, there in zip(clean, uphill, strict=True)]


def climbs(weights: list[Tensor], slopes: list[Tensor], recipe: ExpertRecipe) -> list[Tensor]:
    """SAM's e = ρ g / ‖g‖, or ASAM's e = ρ w² g / ‖|w| g‖, number by number in Python's floats."""
    pairs = [
        list(zip(weight.flatten().tolist(), slope.flatten().tolist(), strict=True))
        for weight, slope in zip(weights, slopes, strict=True)
    ]
    if recipe.adaptive_sam:
        length = math.sqrt(sum((abs(w) * g) ** 2 for part in pairs for w, g in part))
        found = [[recipe.sam_rho * w**2 * g / length for w, g in part] for part in pairs]
    else:
        length = math.sqrt(sum(g**2 for part in pairs for _, g in part))
        found = [[recipe.sam_rho * g / length for _, g in part] for part in pairs]
    return [
        torch.tensor(part, dtype=torch.float64).view_as(weight) for part, weight in zip(found, weights, strict=True)
    ]
