"""Examples run, and show what they are for."""

from __future__ import annotations

import importlib
from itertools import pairwise

import torch
from problems import TINY

import astdistill as ad
from astdistill.evaluation import random_real

continual_learning = importlib.import_module("continual_learning")


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
