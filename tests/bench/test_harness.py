"""The order of the measurements, what a failing process says, and what becomes of the figures."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from forking import FORKED
from suite.command import BENCHES
from suite.harness import Measured, in_own_process, run_bench
from suite.rows import rows_of, table
from suite.task import Rates, Request, Settings

from astdistill.runtime.errors import InputError

RATES = Rates(50.0, 100.0, 10.0)
SECONDS = {"published": [4.0, 9.0, 5.0], "ours": [2.0, 1.0, 1.5]}


def answers(asked: list[str]) -> Any:
    """A stand-in for processes that notes what it was asked."""

    def ask(request: Request) -> dict[str, Any]:
        asked.append(request.what if request.what != "time" else f"{request.case}/{request.variants[0]}")
        if request.what == "rates":
            return RATES.to_json()
        if request.what == "cosine":
            return {variant: {"cosine": 0.5, "cosine_case": "smaller"} for variant in request.variants}
        number = asked.count(asked[-1]) - 1
        return {
            "seconds": SECONDS[request.variants[0]][number],
            "peak_mb": 100.0 if request.variants == ("published",) else 25.0,
            "bytes": 7,
        }

    return ask


def measured(n: int = 3) -> tuple[Measured, list[str]]:
    asked: list[str] = []
    return run_bench(BENCHES["store"], ["rows51"], ["published", "ours"], n, Settings(), True, answers(asked)), asked


def test_variants_take_turns_within_a_repetition() -> None:
    asked: list[str] = []
    bench = replace(BENCHES["unroll"], variants=("published", "ours"))
    run_bench(bench, ["b50-t5", "b10-t20"], ["published", "ours"], 2, Settings(), True, answers(asked))
    once = ["rates", "b50-t5/published", "b50-t5/ours", "b10-t20/published", "b10-t20/ours"]
    assert asked == [*once, *once, "cosine", "cosine"]
    asked.clear()
    run_bench(bench, ["b50-t5"], ["ours"], 1, Settings(), False, answers(asked))
    assert asked == ["rates", "b50-t5/ours"]


def test_rows_hold_median_range_ratios_and_limit() -> None:
    found, _ = measured()
    published, ours = rows_of(BENCHES["store"], found, Settings())
    assert (published["seconds"], published["spread"], published["n"], published["faster"], published["memory"]) == (
        5.0,
        5.0,
        3,
        1.0,
        1.0,
    )
    assert (ours["seconds"], ours["spread"], ours["faster"], ours["memory"], ours["bytes"]) == (
        1.5,
        1.0,
        pytest.approx(10 / 3),
        0.25,
        7,
    )
    limit = 2 * 3 * 320_010 * 4 / 10e9
    assert ours["limit_seconds"] == pytest.approx(limit)
    assert ours["of_limit"] == pytest.approx(limit / 1.5)


def test_no_ratio_without_the_published_variant() -> None:
    found, _ = measured()
    alone = replace(found, repetitions={("rows51", "ours"): found.repetitions["rows51", "ours"]})
    (row,) = rows_of(BENCHES["store"], alone, Settings())
    assert "faster" not in row
    assert "memory" not in row
    assert table(BENCHES["store"], [row], alone).row_count == 1


@pytest.mark.slow
def test_a_figure_comes_from_a_process_of_its_own() -> None:
    found = in_own_process(Request(what="time", bench="augment", case="tiny", variants=("ours",)))
    assert found.keys() == {"seconds", "peak_mb"}
    assert found["seconds"] > 0


@pytest.mark.slow
def test_a_failing_process_is_one_sentence() -> None:
    request = Request(what="time", bench="unroll", case="b51", variants=("published",))
    with pytest.raises(InputError, match="unroll b51 published failed: KeyError: 'b51'; mend it") as caught:
        in_own_process(request)
    assert "\n" not in str(caught.value)


def test_a_killed_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.harness.sys.executable", "/bin/false")
    with pytest.raises(InputError, match="ended with code 1 and said nothing"):
        in_own_process(Request(what="rates"))


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FILL = f"""{FORKED}
import json, torch
from suite import task
from suite.task import Task, high_water_mb, measure

moments = iter([10.0, 12.0])
task.time.perf_counter = lambda: next(moments)
idle = high_water_mb()
found = measure(Task(lambda: None, lambda: torch.ones(2**26), units=4, after=lambda: dict(further=3)))
print(json.dumps(dict(found, above=high_water_mb() - idle)))
"""


def test_memory_is_counted_above_the_idle_process_and_seconds_by_the_unit() -> None:
    """In a process of its own: this one may have held more before, and its highest mark would not rise."""
    found = json.loads(
        subprocess.run([sys.executable, "-c", FILL], capture_output=True, text=True, check=True, cwd=BENCHMARKS).stdout
    )
    assert found["further"] == 3
    assert found["peak_mb"] == pytest.approx(found["above"], abs=1)
    assert 200 < found["peak_mb"] < 300
    assert found["seconds"] == (12.0 - 10.0) / 4
