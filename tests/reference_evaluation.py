"""The evaluation loops of the released scripts, slowly and obviously: plain Python over torch.optim.SGD."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """mean_n −Σ_k y_nk log softmax(f(x_n))_k."""
    return nn.functional.cross_entropy(logits, targets)


def released(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    lr: float,
    test: Callable[[], float],
    order: Callable[[int], Tensor],
    *,
    epochs: int = 1000,
    batch: int = 256,
    decay: float,
    factor: float,
    momentum_after: float,
    check_every: int = 0,
) -> tuple[list[float], list[tuple[int, float]]]:
    """Train `network` in place as the released scripts of MTT and AST do, on images that are not augmented.

    They count passes from 0 to E, E among them; after pass number E // 2 + 1 they make a new optimiser of a lower rate.
    MTT's tests after pass number E, AST's after every pass whose number `check_every` divides. Returns the rate of
    every pass, and (number of passes so far, accuracy) of every check.
    """
    rates: list[float] = []
    checks: list[tuple[int, float]] = []
    optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9, weight_decay=decay)
    number = 0
    while number <= epochs:
        rates.append(lr)
        for rows in order(number).split(batch):
            network.train()
            optimiser.zero_grad()
            soft_cross_entropy(network(images[rows]), targets[rows]).backward()
            optimiser.step()
        if check_every and number % check_every == 0:
            checks.append((number + 1, test()))
        if number == epochs // 2 + 1:
            lr = lr * factor
            optimiser = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum_after, weight_decay=decay)
        number = number + 1
    return rates, checks
