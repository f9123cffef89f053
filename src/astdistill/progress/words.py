"""Seconds and bytes as people read them."""

from __future__ import annotations

import math


def duration(seconds: float) -> str:
    """Seconds as people read them; '-' for what is not a number."""
    if math.isnan(seconds):
        return "-"
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.0f} {name}" if seconds / unit >= 10 else f"{seconds / unit:.1f} {name}"
    return f"{seconds / 86400:.0f} days" if seconds >= 10 * 86400 else f"{seconds / 86400:.1f} days"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
