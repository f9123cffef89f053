"""One round of federated learning with distilled sets: each client distils its own images and sends the distilled ones;
a server trains a network on their union. No real image and no network leaves a client.

A client has the `fit` of a Flower client; `for_flower` makes one of it. Here a loop takes the place of Flower's
transport, so that the example needs no further package. Flower 1.42 was tried: it installs beside astdistill, with
protobuf 6, rich 14 and packaging 25 in place of newer releases, but not beside the newer ones that our tests have, and
its simulation needs Ray 2.55, where `astdistill[cluster]` needs 2.60.

    python examples/federated.py
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

import astdistill as ad
from astdistill.distillation import distill
from astdistill.evaluation import random_real
from astdistill.methods import DM

Arrays = list[np.ndarray]
MODEL = "convnet-d1-w16"


class Client:
    """A client with a part of the training images: `data` is that part, and what `fit` returns is all it sends."""

    def __init__(self, data: ad.Dataset, iterations: int = 200, seed: int = 0) -> None:
        self.data, self.iterations, self.seed = data, iterations, seed

    def fit(self, parameters: Arrays, config: dict[str, Any]) -> tuple[Arrays, int, dict[str, Any]]:
        """The distilled images and their labels, the number of real images behind them, and nothing further. The
        server's `parameters` are not needed: distribution matching takes new networks."""
        settings = ad.DistillSettings(iterations=self.iterations, lr_img=1.0)
        made = distill(self.data, None, method=DM, model=MODEL, ipc=1, settings=settings, seed=self.seed)
        return sent(made), len(self.data.train), {}


def for_flower(client: Client) -> Any:
    """The same client as Flower starts it (`flwr.client.start_client`, or the function of a `ClientApp`)."""
    flower = importlib.import_module("flwr.client")
    kind = type("FlowerClient", (Client, flower.NumPyClient), {})
    return kind(client.data, client.iterations, client.seed).to_client()


def sent(synthetic: ad.SyntheticSet) -> Arrays:
    """Images and labels as arrays, as they are sent."""
    return [synthetic.images.numpy(), synthetic.hard_labels.numpy()]


def parts(data: ad.Dataset, count: int, seed: int = 0) -> list[ad.Dataset]:
    """The training images divided among so many clients at random; each has the test images for its own use."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    test = data.test.batch(torch.arange(len(data.test))), data.test.labels
    return [
        # Pixels mean the same everywhere; each client's own whitening would not.
        ad.dataset_from_tensors(data.train.batch(rows), data.train.labels[rows], *test, whiten="none", name=f"{number}")
        for number, rows in enumerate(order.chunk(count))
    ]


def union(messages: list[Arrays], like: ad.SyntheticSet) -> ad.Distilled:
    """What the clients sent as one set, grouped by class, in the place of the images of `like`."""
    images, labels = (torch.cat([torch.from_numpy(each[part]) for each in messages]) for part in (0, 1))
    order = labels.argsort(stable=True)
    targets = torch.nn.functional.one_hot(labels[order], len(like.classes)).float()
    return ad.Distilled(images[order], targets, like.lr, like.classes, like.preprocessing, like.data, MODEL)


def main(clients: int = 3, iterations: int = 200, epochs: int = 300) -> dict[str, float]:
    """The accuracy in percent of a network that has seen the union of what clients sent: distilled, or random images.
    The latter are what a client would send that may show some of its images."""
    data = ad.load_dataset("digits", whiten="none")
    owners = parts(data, clients)
    random = [random_real(part, 1, 0) for part in owners]
    distilled = [Client(part, iterations).fit([], {})[0] for part in owners]
    messages = {"distilled": distilled, "random": [sent(each) for each in random]}
    recipe = ad.PROTOCOLS["mtt"].replace(epochs=epochs, lr=0.05)
    scores = {}
    for name, arrays in messages.items():
        network = ad.build_model(MODEL, data.shape, len(data.classes), seed=0)
        server = union(arrays, random[0])
        server.train(network, recipe=recipe)
        scores[name] = server.accuracy(network, data.test.batch(torch.arange(len(data.test))), data.test.labels)
        sizes = sum(array.nbytes for message in arrays for array in message)
        print(f"{name:<10} {len(server.images):3} images, {sizes:,} bytes sent: {scores[name]:.1f} %")
    return scores


if __name__ == "__main__":
    main()
