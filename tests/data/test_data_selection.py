from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from astdistill.data.dataset import DataConfig, RawData, Split
from astdistill.data.loading import load_dataset
from astdistill.data.selection import (
    ClassChoice,
    chosen_labels,
    first_of_each,
    renumbered,
    stratified,
    with_classes,
)
from astdistill.runtime.errors import InputError

NAMES = ("apple", "bear", "cup", "dog")


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (ClassChoice(), [0, 1, 2, 3]),
        (ClassChoice(first=2), [0, 1]),
        (ClassChoice(("dog", "apple")), [3, 0]),
        (ClassChoice(("2", "0")), [2, 0]),
    ],
)
def test_kept_labels(choice: ClassChoice, expected: list[int]) -> None:
    assert chosen_labels(NAMES, choice) == expected


def test_a_name_that_is_a_number_wins_over_the_number() -> None:
    assert chosen_labels(("1", "0"), ClassChoice(("0", "1"))) == [1, 0]


def test_classes_are_all_names_or_all_numbers_and_what_could_be_both_is_said() -> None:
    names = tuple(map(str, range(1, 11)))
    assert chosen_labels(names, ClassChoice(("5", "10"))) == [4, 9]
    assert chosen_labels(names, ClassChoice(("0", "5"))) == [0, 5]
    labels = torch.arange(10)
    raw = RawData("n", names, Split(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), labels), None)
    found = with_classes(raw, ClassChoice(("0", "5")))
    assert found.classes == ("1", "6")
    (said,) = found.summary.guessed
    assert said.startswith("--data.classes 0 5 by number, although '5' is a name too: classes 1 6")
    assert with_classes(raw, ClassChoice(("5", "10"))).summary.guessed == ()
    assert with_classes(raw, ClassChoice(first=2)).summary.guessed == ()


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        (ClassChoice(("dog", "bare")), "no class 'bare'.*Did you mean 'bear'"),
        (ClassChoice(("3", "4")), r"no class number 4.*0\.\.3"),
        (ClassChoice(("3", "-1")), r"no class number -1.*0\.\.3"),
        (ClassChoice(("3", "--1")), "no class '--1'"),
        (
            ClassChoice(("2", "bear")),
            r"mixes names \(bear\) and numbers \(2\); give all of them by name, or all by number, 0\.\.3",
        ),
        (ClassChoice(("dog", "dog")), "'dog' is asked for twice"),
        (ClassChoice(("3", "3")), "'dog' is asked for twice"),
        (ClassChoice(("dog",)), "--data.classes names dog; name two or more"),
        (ClassChoice(first=5), "first 5 classes.*there are 4"),
        (ClassChoice(("dog", "bear"), 2), "only one of the two"),
    ],
)
def test_kept_labels_errors(choice: ClassChoice, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        chosen_labels(NAMES, choice)


def test_renumbered_keeps_rows_and_labels_together() -> None:
    labels = torch.tensor([0, 3, 1, 3, 2, 0])
    kept = renumbered(labels, [3, 0])
    assert kept.rows.tolist() == [0, 1, 3, 5]
    assert kept.labels.tolist() == [1, 0, 0, 1]


def test_a_missing_label_is_no_class_from_the_end() -> None:
    kept = renumbered(torch.tensor([-1, 0, 3, -1]), [3, 0])
    assert (kept.rows.tolist(), kept.labels.tolist()) == ([1, 2], [1, 0])
    assert renumbered(torch.tensor([-1, -1]), [0, 1]).rows.tolist() == []


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        ({"dog", "cat"}, "which has no order; give a list"),
        (frozenset(("dog", "cat")), "which has no order; give a list"),
        ({0: "cat", 1: "dog"}, "it chooses classes, it does not name them; give a list"),
        ("cat", "classes is the text 'cat'; give a list"),
        (7, "classes is 7, which has no order"),
    ],
)
def test_a_choice_of_classes_has_an_order(classes: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        DataConfig(classes=classes)
    with pytest.raises(InputError, match=sentence):
        load_dataset("digits", classes=classes)
    assert DataConfig(classes=iter(("cat", "dog"))).classes == ("cat", "dog")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("white", [float("inf"), float("nan")])
def test_white_is_a_finite_number(white: float) -> None:
    with pytest.raises(InputError, match=r"white_level cannot be (inf|nan); choose a finite number"):
        load_dataset("digits", white_level=white)


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


def test_numbers_that_are_names_too_are_said_of_a_folder(tree: Callable[..., str]) -> None:
    found = load_dataset(tree(6, *map(str, range(1, 5))), classes=[0, 2], whiten="none")
    assert found.classes == ("1", "3")
    assert "--data.classes 0 2 by number, although '2' is a name too" in found.summary.guessed[-1]
