"""The bench of a cluster: its figures, and what it says without Ray."""

from __future__ import annotations

import pytest
from suite import cluster
from suite.command import main

from astdistill.runtime.errors import InputError


def test_ratios_are_taken_within_a_repetition() -> None:
    found = {"workers": [8.0, 18.0, 9.0], "cluster": [10.0, 20.0, 10.0], "start": [10.0, 4.0, 5.0]}
    row = cluster.summary(found)
    assert row["ratio"] == pytest.approx(0.9)
    assert row["ratio_with_start"] == pytest.approx(0.6)
    assert (row["workers"], row["cluster"], row["start"], row["n"]) == (9.0, 10.0, 5.0, 3)


def test_it_needs_repetitions_and_ray(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def missing() -> None:
        raise InputError("Ray is not there.")

    monkeypatch.setattr(cluster, "imported", missing)
    assert main(["cluster", "-n", "0"]) == 2
    assert "choose 1 or more" in capsys.readouterr().err
    assert main(["cluster", "-n", "1"]) == 2
    assert "Ray is not there" in capsys.readouterr().err
