"""Every bench at toy size: in this process variant by variant, and from the command line to the JSON."""

from __future__ import annotations

import json
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from suite import store
from suite.command import BENCHES, answer, main
from suite.task import Rates, Request, Settings

from astdistill.runtime.machine import cores

FURTHER = {
    "unroll": set(),
    "bptt": set(),
    "experts": {"share"},
    "augment": set(),
    "store": {"bytes"},
    "evaluate": {"epochs", "worker_mb"},
}
HERE = [
    (name, variant)
    for name, bench in BENCHES.items()
    for variant in bench.variants
    if (name, variant) != ("experts", "ours")
]


@pytest.mark.parametrize(("name", "variant"), HERE)
def test_every_variant_runs_and_reports(name: str, variant: str) -> None:
    found = answer(Request(what="time", bench=name, case="tiny", variants=(variant,), settings=Settings()))
    assert set(found) == {"seconds", "peak_mb"} | FURTHER[name]
    assert found["seconds"] > 0


def test_the_published_penalty_runs() -> None:
    assert answer(Request(what="time", bench="experts", case="tiny-penalty", variants=("published",)))["share"] > 0


def test_cosines_are_one_where_the_estimator_is_exact() -> None:
    variants = BENCHES["unroll"].variants
    found = answer(Request(what="cosine", bench="unroll", case="tiny", variants=variants))
    assert set(found) == set(variants)
    for variant in ("published", "backprop", "recompute"):
        assert found[variant]["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert found["first-order"]["cosine"] < found["backprop"]["cosine"]


def test_an_outer_step_through_a_window_of_adam_is_the_published_one() -> None:
    found = answer(Request(what="cosine", bench="bptt", case="tiny", variants=BENCHES["bptt"].variants))
    assert [found[variant]["cosine"] for variant in ("published", "walk")] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_a_large_case_is_compared_smaller_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("suite.unroll.MOST", 6)
    found = answer(Request(what="cosine", bench="unroll", case="tiny", variants=("backprop",)))
    assert found["backprop"]["cosine_case"] == "b2-t3"
    assert found["backprop"]["cosine"] == pytest.approx(1.0, abs=1e-5)


def test_the_store_reads_three_rows_and_the_published_file_all() -> None:
    ours, published = (
        answer(Request(what="time", bench="store", case="tiny", variants=(variant,)))["bytes"]
        for variant in ("ours", "published")
    )
    row = 4 * store.CASES["tiny"].parameters
    assert ours == 3 * row
    assert published > 5 * row


def test_cases_asked_for_in_the_issue_exist() -> None:
    assert set(BENCHES) == {"unroll", "bptt", "experts", "augment", "store", "evaluate"}
    assert set(BENCHES["unroll"].cases) == {"b100-t10", "b10-t20", "b50-t5", "b50-t40"}
    assert set(BENCHES["experts"].cases) == {"w32", "w128", "w32-penalty"}
    assert {bench.variants[0] for bench in BENCHES.values()} == {"published"}


def test_without_a_name_the_benches_are_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main([]) == 0
    shown = capsys.readouterr().out
    for word in (*BENCHES, "b100-t10", "(w128-penalty)"):
        assert word in shown
    assert "tiny" not in shown


def answer_here(request: Request) -> dict[str, Any]:
    """What a process of its own would say; a rate is taken for granted."""
    return Rates(1.0, 2.0, 1.0).to_json() if request.what == "rates" else json.loads(json.dumps(answer(request)))


def run_tiny(name: str, folder: Path, n: int) -> dict[str, Any]:
    """The JSON of a run with the published variant and the first of ours, on one thread."""
    words = [name, "--case", "tiny", "-n", str(n), "--threads", "1", "--quiet", "--json", str(folder / "found.json")]
    assert main([*words, "--variant", "published", "--variant", BENCHES[name].variants[1]]) == 0
    return json.loads((folder / "found.json").read_text())


@pytest.mark.parametrize("name", [name for name in BENCHES if name != "experts"])
def test_from_words_to_a_table_and_json(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("suite.command.in_own_process", answer_here)
    written = run_tiny(name, tmp_path, 2)
    assert list(written) == ["bench", "machine", "provenance", "limits", "rows"]
    assert written["bench"] == name
    assert written["machine"]["threads"] == 1
    assert written["provenance"]["arguments"][:2] == ["suite", name]
    assert "found.json" in written["provenance"]["arguments"]  # and not the folder, which is its maker's own
    assert {"versions", "commit", "python"} <= set(written["provenance"])
    assert written["limits"]["gflops"] == 2.0
    published, ours = written["rows"]
    assert (published["case"], published["variant"], published["faster"], published["n"]) == (
        "tiny",
        "published",
        1.0,
        2,
    )
    keys = {
        "case",
        "variant",
        "seconds",
        "spread",
        "peak_mb",
        "n",
        "faster",
        "memory",
        "limit_seconds",
        "of_limit",
    } | FURTHER[name]
    assert set(ours) >= keys | ({"cosine"} if name in ("unroll", "bptt") else set())
    assert BENCHES[name].variants[1] in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.skipif(cores() < 2, reason="there is one core")
def test_experts_run_side_by_side_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.command.in_own_process", answer_here)
    monkeypatch.setattr("suite.harness.get_context", lambda way: get_context("fork"))  # each start imports torch
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ["experts", "--case", "tiny", "-n", "1", "--threads", "2", "--variant", "ours", "--quiet"]
    assert main([*words, "--json", str(tmp_path / "found.json")]) == 0
    (row,) = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (row["variant"], row["n"], row["experts"]) == ("ours", 1, 2)
    assert row["seconds"] > 0
    assert 0 < row["share"] < 1
    assert "ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["unrol"], "Did you mean 'unroll'?"),
        (["unroll", "--case", "b100-t1"], "Did you mean 'b100-t10'?"),
        (["store", "--variant", "our"], "Did you mean 'ours'?"),
        (["store", "-n", "0"], "choose 1 or more"),
        (["store", "--epochs", "3"], "make bench NAME=evaluate"),
        (["unroll", "-n", "x"], "-n cannot be 'x'; give a whole number. See: python -m suite --help"),
        (["unroll", "--cas", "x"], "There is no flag --cas. Did you mean --case?"),
        (["unroll", "--threads", "9999"], "--threads 9999 was given, but this process may use"),
    ],
)
def test_bad_words_are_one_sentence(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert said in capsys.readouterr().err
