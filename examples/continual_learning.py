"""Class-incremental learning with a distilled memory: classes arrive in steps, and of each only its distilled images
stay.

Plain torch, no further package: Avalanche (avalanche-lib 0.6) was tried, and imports torchvision, whose release on
PyPI does not load beside the torch without CUDA that our tests have (operator torchvision::nms does not exist). At
every step a new network learns from the memory and from all images of the classes that have just arrived, and is
tested on the classes seen so far. Beside it, the same with random real images as memory.

    python examples/continual_learning.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import astdistill as ad
from astdistill.distillation import distill
from astdistill.evaluation import random_real
from astdistill.methods import DM

STEPS = 5


def learned(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, seed: int) -> nn.Module:
    """The network after training on the images."""
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(images), generator=generator).split(64):
            optimiser.zero_grad()
            cross_entropy(network(images[rows]), labels[rows]).backward()
            optimiser.step()
    return network


@torch.no_grad()
def accuracy(network: nn.Module, data: ad.Dataset, seen: list[int]) -> float:
    """Percent of the test images of the classes seen."""
    rows = torch.isin(data.test.labels, torch.tensor(seen)).nonzero().squeeze(1)
    logits = network(data.test.batch(rows))[:, seen]
    return 100 * float((torch.tensor(seen)[logits.argmax(dim=1)] == data.test.labels[rows]).double().mean())


def incremental(data: ad.Dataset, memory: ad.SyntheticSet, model: str, epochs: int = 30, seed: int = 0) -> list[float]:
    """The accuracy after each step, on all classes that have arrived by then."""
    memory = memory.decoded()
    count, found = len(data.classes), []
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    for step in range(STEPS):
        seen = order[: count * (step + 1) // STEPS]
        new = seen[count * step // STEPS :]
        kept = torch.isin(memory.hard_labels, torch.tensor([label for label in seen if label not in new]))
        arrived = torch.isin(data.train.labels, torch.tensor(new)).nonzero().squeeze(1)
        images = torch.cat([memory.images[kept], data.train.batch(arrived)])
        labels = torch.cat([memory.hard_labels[kept], data.train.labels[arrived]])
        # A class in the memory has few images, one that has just arrived has many: all are shown about as often.
        sizes = torch.bincount(labels, minlength=count)
        times = [round(int(sizes.max()) / int(sizes[label])) for label in seen]
        shown = torch.cat(
            [(labels == label).nonzero().squeeze(1).repeat(n) for label, n in zip(seen, times, strict=True)]
        )
        network = ad.build_model(model, data.shape, count, seed=seed)
        found.append(accuracy(learned(network, images[shown], labels[shown], epochs, seed), data, seen))
    return found


def main(iterations: int = 200, epochs: int = 30) -> dict[str, list[float]]:
    """Accuracies by step, of a memory that is distilled and of one that is drawn."""
    model = "convnet-d1-w16"
    data = ad.load_dataset("digits", whiten="standard")
    settings = ad.DistillSettings(iterations=iterations, lr_img=1.0)
    distilled = distill(data, None, method=DM, model=model, ipc=1, settings=settings)
    memories = {"distilled": distilled, "random": random_real(data, 1, 0)}
    found = {name: incremental(data, memory, model, epochs) for name, memory in memories.items()}
    for name, accuracies in found.items():
        print(f"{name:<10}", *(f"{each:5.1f}" for each in accuracies))
    return found


if __name__ == "__main__":
    main()
