"""Tables by class, against figures worked out by hand."""

from __future__ import annotations

import pytest

from astdistill.evaluation.per_class import by_class, confusions
from astdistill.evaluation.protocol import MTT_PROTOCOL
from astdistill.evaluation.scores import RowScores, Scores
from astdistill.evaluation.training import NetworkResult
from astdistill.runtime.errors import InputError

NAMES = ("ant", "bee", "cat")
FIRST = ((3, 1, 0), (2, 2, 0), (0, 0, 0))
SECOND = ((1, 3, 0), (0, 4, 0), (0, 0, 0))


def result(counts: tuple[tuple[int, ...], ...]) -> NetworkResult:
    shares = tuple(100 * row[label] / sum(row) if sum(row) else None for label, row in enumerate(counts))
    right = sum(row[label] for label, row in enumerate(counts))
    return NetworkResult(100 * right / sum(map(sum, counts)), by_class=shares, confusion=counts)


def scores(*networks: NetworkResult, classes: tuple[str, ...] = NAMES) -> Scores:
    found = RowScores.of(networks, "final")
    return Scores(
        recipe=MTT_PROTOCOL,
        architecture={"mlp": found},
        baselines={"random": RowScores.of(networks[:1], "final")},
        classes=classes,
    )


def test_every_class_has_its_mean_and_spread_beside_the_baselines() -> None:
    table = by_class(scores(result(FIRST), result(SECOND)))
    assert [column.name for column in table.columns] == ["class", "mlp", "random real images"]
    assert table.rows == (("ant", "50.0 ± 35.4", "75.0"), ("bee", "75.0 ± 35.4", "50.0"), ("cat", "–", "–"))
    assert "Protocol MTT" in table.caption


def test_many_classes_show_the_best_and_the_worst() -> None:
    classes = tuple(f"c{number:02d}" for number in range(30))
    finals = tuple(float((7 * number) % 30) for number in range(30))
    table = by_class(scores(NetworkResult(15.0, by_class=finals), classes=classes))
    ranked = sorted(finals, reverse=True)
    assert [float(row[1]) for row in table.rows] == ranked[:10] + ranked[-10:]
    assert all(row[0] == classes[finals.index(float(row[1]))] for row in table.rows)
    assert table.caption.startswith("The 10 best and the 10 worst of 30 classes.")


def test_a_network_of_an_earlier_version_is_left_out_and_none_is_a_sentence() -> None:
    assert by_class(scores(result(FIRST), NetworkResult(1.0))).rows[0][1] == "75.0"
    for part in (by_class, confusions):
        with pytest.raises(InputError, match="evaluate again"):
            part(scores(NetworkResult(50.0)))
    with pytest.raises(InputError, match="kept up to 100 classes, and there are 101"):
        confusions(scores(result(FIRST), classes=tuple(map(str, range(101)))))


def test_the_matrix_is_the_share_of_each_true_class_over_all_networks() -> None:
    table = confusions(scores(result(FIRST), result(SECOND)))
    assert [column.name for column in table.columns] == ["true \\ predicted", *NAMES]
    assert table.rows == (("ant", "50", "50", "0"), ("bee", "25", "75", "0"), ("cat", "0", "0", "0"))


def test_many_classes_show_the_most_frequent_confusions_first() -> None:
    classes = tuple(f"c{number:02d}" for number in range(25))
    counts = [[0] * 25 for _ in range(25)]
    for number in range(25):
        counts[number][number] = 100 - number
        counts[number][(number + 1) % 25] = number
    table = confusions(scores(result(tuple(map(tuple, counts))), classes=classes))
    assert table.rows[:2] == (("c24", "c00", "24"), ("c23", "c24", "23"))
    assert len(table.rows) == 20
    assert all(row[0] != row[1] for row in table.rows)
