from __future__ import annotations

import pytest
import torch

from astdistill.data.selection import ClassChoice, first_of_each, kept_labels, renumbered, stratified
from astdistill.runtime.errors import InputError

NAMES = ("apple", "bear", "cup", "dog")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ClassChoice(), [0, 1, 2, 3]),
        (ClassChoice(first=2), [0, 1]),
        (ClassChoice(("dog", "apple")), [3, 0]),
        (ClassChoice(("2", "bear")), [2, 1]),
    ],
)
def test_kept_labels(choice: ClassChoice, expected: list[int]) -> None:
    assert kept_labels(NAMES, choice) == expected


def test_a_name_that_is_a_number_wins_over_the_number() -> None:
    assert kept_labels(("1", "0"), ClassChoice(("0", "1"))) == [1, 0]


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (ClassChoice(("dog", "bare")), "no class 'bare'.*Did you mean 'bear'"),
        (ClassChoice(("dog", "4")), r"no class number 4.*0\.\.3"),
        (ClassChoice(("dog", "dog")), "'dog' is asked for twice"),
        (ClassChoice(("dog", "3")), "'dog' is asked for twice"),
        (ClassChoice(("dog",)), "--data.classes names dog; name two or more"),
        (ClassChoice(first=5), "first 5 classes.*there are 4"),
        (ClassChoice(("dog", "bear"), 2), "only one of the two"),
    ],
)
def test_kept_labels_errors(choice: ClassChoice, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        kept_labels(NAMES, choice)


def test_renumbered_keeps_rows_and_labels_together() -> None:
    labels = torch.tensor([0, 3, 1, 3, 2, 0])
    kept = renumbered(labels, [3, 0])
    assert kept.rows.tolist() == [0, 1, 3, 5]
    assert kept.labels.tolist() == [1, 0, 0, 1]


def test_first_of_each_in_stored_order() -> None:
    labels = torch.tensor([1, 0, 1, 1, 0, 0])
    assert first_of_each(labels, 2, 2).tolist() == [0, 1, 2, 4]
    assert first_of_each(labels, 2, None).tolist() == [0, 1, 2, 3, 4, 5]


def test_stratified_divides_every_class_alike() -> None:
    labels = torch.tensor([0] * 50 + [1] * 25 + [2] * 7)
    division = stratified(labels, 3, 16, 0, "test")
    assert sorted(torch.cat([division.stay, division.held_out]).tolist()) == list(range(82))
    assert torch.bincount(labels[division.held_out]).tolist() == [10, 5, 1]
    assert len(division.held_out) == 16
    assert division.stay.tolist() == sorted(division.stay.tolist())


def test_stratified_depends_on_seed_and_purpose_alone() -> None:
    labels = torch.tensor([0, 1] * 50)
    first = stratified(labels, 2, 20, 0, "test").held_out
    assert torch.equal(first, stratified(labels, 2, 20, 0, "test").held_out)
    assert not torch.equal(first, stratified(labels, 2, 20, 1, "test").held_out)
    assert not torch.equal(first, stratified(labels, 2, 20, 0, "validation").held_out)
