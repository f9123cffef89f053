"""Examples run, and show what they are for."""

from __future__ import annotations

import importlib
import sys
from itertools import pairwise
from types import ModuleType

import torch
from problems import TINY

import astdistill as ad
from astdistill.evaluation import random_real

continual_learning = importlib.import_module("continual_learning")
federated = importlib.import_module("federated")


def test_classes_arrive_in_steps_and_a_memory_keeps_them(capsys) -> None:
    found = continual_learning.main(iterations=3, epochs=8)
    assert {name: len(accuracies) for name, accuracies in found.items()} == {"distilled": 5, "random": 5}
    for accuracies in found.values():
        assert accuracies[0] > 80.0  # two classes, of which all images are there
        assert min(accuracies) > 10.0
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_only_classes_seen_are_tested_and_learned(monkeypatch) -> None:
    data = ad.load_dataset("digits", whiten="standard", per_class=10)
    shown: list[set[int]] = []

    def recorded(network, images, labels, epochs, seed):
        shown.append(set(labels.tolist()))
        counts = torch.bincount(labels, minlength=10)
        present = counts[counts > 0]
        assert int(present.max()) < 2 * int(present.min())  # each class about as often
        return network

    monkeypatch.setattr(continual_learning, "learned", recorded)
    continual_learning.incremental(data, random_real(data, 1, 0), TINY)
    assert [len(each) for each in shown] == [2, 4, 6, 8, 10]
    assert all(first < second for first, second in pairwise(shown))


def test_a_class_with_a_few_images_less_is_not_shown_twice_as_often(monkeypatch) -> None:
    """The digits' own sizes: 174 to 183 of each, before the test images are taken."""
    data, ratios = ad.load_dataset("digits", whiten="standard"), []

    def recorded(network, images, labels, epochs, seed):
        present = torch.bincount(labels, minlength=10)[torch.unique(labels)]
        ratios.append(int(present.max()) / int(present.min()))
        return network

    monkeypatch.setattr(continual_learning, "learned", recorded)
    continual_learning.incremental(data, random_real(data, 1, 0), TINY)
    assert max(ratios) < 1.1


def test_clients_send_distilled_images_alone_and_a_server_learns_from_their_union(capsys) -> None:
    found = federated.main(clients=2, iterations=2, epochs=12)
    assert set(found) == {"distilled", "random"}
    assert min(found.values()) > 30.0
    assert "20 images, 5,280 bytes sent" in capsys.readouterr().out


def test_a_union_is_grouped_by_class_and_parts_share_no_image() -> None:
    data = ad.load_dataset("digits", whiten="none", per_class=40)
    owners = federated.parts(data, 3)

    def shades(part) -> list[list[float]]:
        """The 17 shades of every image; a part stores them as bytes."""
        return (16 * part.train.batch(torch.arange(len(part.train))).flatten(1)).round().tolist()

    assert sorted(row for part in owners for row in shades(part)) == sorted(shades(data))
    drawn = [random_real(part, 1, 0) for part in owners]
    union = federated.union([federated.sent(each) for each in drawn], drawn[0])
    assert union.hard_labels.tolist() == sorted(3 * list(range(10)))
    assert torch.equal(union.images[:3], torch.stack([each.images[0] for each in drawn]))


def test_a_client_is_one_of_flower(monkeypatch) -> None:
    """A stand-in for `flwr.client`, which is not installed here: a client's `fit` is found by it."""

    class NumPyClient:
        def to_client(self):
            return "started", getattr(self, "fit")  # noqa: B009

    flower = ModuleType("flwr.client")
    vars(flower)["NumPyClient"] = NumPyClient
    monkeypatch.setitem(sys.modules, "flwr", ModuleType("flwr"))
    monkeypatch.setitem(sys.modules, "flwr.client", flower)
    data = ad.load_dataset("digits", whiten="none", per_class=5)
    started, fit = federated.for_flower(federated.Client(data, iterations=1))
    (images, labels), count, metrics = fit([], {})
    assert started == "started"
    assert images.shape == (10, 1, 8, 8)
    assert labels.tolist() == list(range(10))
    assert (count, metrics) == (50, {})
