"""The benches by name, and what a process of its own answers when it is asked for one."""

from __future__ import annotations

from typing import Any

from . import augment, evaluate, experts, store, unroll
from .limits import measured_rates
from .task import Bench, Request, measure

BENCHES: dict[str, Bench] = {each.BENCH.name: each.BENCH for each in (unroll, experts, augment, store, evaluate)}


def answer(request: Request) -> dict[str, Any]:
    """The figures of one request, measured in this process."""
    if request.what == "rates":
        return measured_rates().to_json()
    bench = BENCHES[request.bench]
    if request.what == "cosine" and bench.cosine is not None:
        return bench.cosine(request.case, request.variants)
    (variant,) = request.variants
    return measure(bench.task(request.case, variant, request.settings))
