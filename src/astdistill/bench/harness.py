"""Many measurements, each in a process of its own, variants in turn within a repetition, so that ratios hold on a noisy machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..progress import bar
from .limits import Rates, best_of
from .task import Bench, Request, Settings

Ask = Callable[[Request], dict[str, Any]]
"""Answers a request; the tests put another one in the place of a process."""


@dataclass(frozen=True)
class Measured:
    """Every repetition of every (case, variant), the machine's rates, and what the cosines are."""

    rates: Rates
    repetitions: dict[tuple[str, str], list[dict[str, Any]]]
    cosines: dict[tuple[str, str], dict[str, Any]]


def in_own_process(request: Request) -> dict[str, Any]:
    """The answer of a fresh process. Raises InputError with the last line of its errors when it fails."""
    words = [sys.executable, "-m", "astdistill.bench", request.model_dump_json()]
    environment = os.environ | {"OMP_NUM_THREADS": str(request.settings.threads)}
    result = subprocess.run(words, capture_output=True, text=True, env=environment)
    if result.returncode:
        raise InputError(_failure(request, result.returncode, result.stderr))
    return json.loads(result.stdout.splitlines()[-1])


def _failure(request: Request, code: int, errors: str) -> str:
    what = " ".join(word for word in (request.bench, request.case, *request.variants) if word) or request.what
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    killed = f"it was killed by signal {-code}, which a lack of memory does as well" if code < 0 else ""
    said = killed or (lines[-1].rstrip(".") if lines else f"it ended with code {code} and said nothing")
    return f"The measurement of {what} failed: {said}; mend it, or choose others with --case and --variant."


def run_bench(bench: Bench, cases: Sequence[str], variants: Sequence[str], n: int, settings: Settings, cosine: bool, ask: Ask) -> Measured:
    """`n` repetitions of each variant in each case, and with `cosine` the variants compared with the oracle once."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {(case, variant): [] for case in cases for variant in variants}
    compared = [case for case in cases if cosine and bench.cosine is not None]
    cosines: dict[tuple[str, str], dict[str, Any]] = {}
    rates = []
    with bar(f"bench {bench.name} (processes)", n * (1 + len(found)) + len(compared)) as progress:
        for repetition in range(n):
            rates.append(_rates(ask(Request(what="rates", settings=settings))))
            progress.step(note=f"{rates[-1].gflops:.0f} GFLOP/s")
            for case, variant in found:
                request = Request(what="time", settings=settings, bench=bench.name, case=case, variants=(variant,))
                found[case, variant].append(ask(request))
                progress.step(note=f"{case} {variant} {repetition + 1}: {found[case, variant][-1]['seconds']:.4g} s")
        for case in compared:
            request = Request(what="cosine", settings=settings, bench=bench.name, case=case, variants=tuple(variants))
            cosines |= {(case, variant): value for variant, value in ask(request).items()}
            progress.step(note=f"{case} cosine")
    return Measured(best_of(rates), found, cosines)


def _rates(answer: dict[str, Any]) -> Rates:
    return Rates(**{name: answer[name] for name in Rates.__dataclass_fields__})
