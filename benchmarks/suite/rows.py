"""From repetitions to rows: medians, ranges, ratios to the published variant and the share of the limit, as JSON and as
a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from .harness import Measured
from .task import PUBLISHED, Bench, Settings

COLUMNS = ("case", "variant", "seconds", "spread", "peak MB", "n", "faster", "memory", "limit")


def rows_of(bench: Bench, measured: Measured, settings: Settings) -> list[dict[str, Any]]:
    """One row for each case and variant.

    `seconds` is the median and `spread` the range; other figures are medians too. `faster` and `memory` are ratios to
    `published` of the same case, where it was measured: its seconds over those of the row, and the peak of the row over
    its peak. `of_limit` is `limit_seconds` over `seconds`.
    """
    rows = []
    for (case, variant), repetitions in measured.repetitions.items():
        limit = measured.rates.seconds(bench.work(case, variant, settings))
        row = {"case": case, "variant": variant, **_medians(repetitions), **measured.cosines.get((case, variant), {})}
        rows.append(row | {"limit_seconds": limit, "of_limit": limit / row["seconds"]})
    reference = {row["case"]: row for row in rows if row["variant"] == PUBLISHED}
    return [row | _ratios(row, reference[row["case"]]) if row["case"] in reference else row for row in rows]


def _medians(repetitions: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = [each["seconds"] for each in repetitions]
    # median_low: counts, the same in every repetition, stay whole numbers.
    others = {
        name: statistics.median_low([each[name] for each in repetitions])
        for name in repetitions[0]
        if name not in ("seconds", "peak_mb")
    }
    return {
        "seconds": statistics.median(seconds),
        "spread": max(seconds) - min(seconds),
        "peak_mb": statistics.median(each["peak_mb"] for each in repetitions),
        "n": len(repetitions),
        **others,
    }


def _ratios(row: Mapping[str, Any], reference: Mapping[str, Any]) -> dict[str, Any]:
    memory = row["peak_mb"] / reference["peak_mb"] if reference["peak_mb"] > 0 else None
    return {"faster": reference["seconds"] / row["seconds"], "memory": memory}


def table(bench: Bench, rows: list[dict[str, Any]], measured: Measured) -> Table:
    """The rows as a table for the terminal, with a column for each further figure that a bench reports."""
    further = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _SHOWN]
    caption = (
        f"Limit: {measured.rates.gflops:.0f} GFLOP/s, {measured.rates.copy_gbytes:.1f} GB/s, measured in this run. "
        "faster and memory: against published in the same case; limit: its share of the time."
    )
    title = f"{bench.name}: {bench.text}"
    result = Table(
        title=title,
        title_justify="left",
        caption=caption,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for column in (*COLUMNS, *further):
        result.add_column(
            column, justify="left" if column in ("case", "variant") else "right", no_wrap=column in ("case", "variant")
        )
    for row in rows:
        result.add_row(*_cells(row), *(_format_value(row.get(name)) for name in further))
    return result


_SHOWN = {"case", "variant", "seconds", "spread", "peak_mb", "n", "faster", "memory", "limit_seconds", "of_limit"}


def _cells(row: Mapping[str, Any]) -> list[str]:
    faster, memory = row.get("faster"), row.get("memory")
    return [
        row["case"],
        row["variant"],
        f"{row['seconds']:.3g}",
        f"{row['spread']:.2g}",
        f"{row['peak_mb']:.0f}",
        str(row["n"]),
        "-" if faster is None else f"{faster:.2f}×",
        "-" if memory is None else f"{memory:.2f}×",
        f"{100 * row['of_limit']:.0f} %",
    ]


def _format_value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.7f}".rstrip("0").rstrip(".") if abs(value) <= 1 else f"{value:.0f}"
    return str(value)
