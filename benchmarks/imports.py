"""Startup times: torch, this package beyond it, and `astdistill --help`, each in fresh processes, in turn.

python benchmarks/imports.py -n 9 --json benchmarks/results/NAME.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from astdistill.runtime.files import write_json
from astdistill.runtime.provenance import provenance

TIMED = (
    "import json, sys, time; began = time.perf_counter(); {what}; print(json.dumps([time.perf_counter() - began, "
    "'torch' in sys.modules]))"
)
VARIANTS = {
    "import torch": TIMED.format(what="import torch"),
    "import astdistill, after torch": "import torch; " + TIMED.format(what="import astdistill"),
    "every public name, after torch": "import torch; "
    + TIMED.format(what="import astdistill; [getattr(astdistill, name) for name in astdistill.__all__]"),
    "astdistill --help": TIMED.format(what="from astdistill.cli.main import main; main(['--help'])"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with_torch: dict[str, bool] = {}
    for _ in range(options.n):
        for name, code in VARIANTS.items():
            output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
            seconds, with_torch[name] = json.loads(output.splitlines()[-1])
            found[name].append(seconds)
    rows = [
        {
            "variant": name,
            "seconds": statistics.median(each),
            "spread": max(each) - min(each),
            "n": options.n,
            "torch": with_torch[name],
        }
        for name, each in found.items()
    ]
    for row in rows:
        print(
            f"{row['variant']}: {row['seconds']:.3f} s (range {row['spread']:.3f}, n = {row['n']})"
            + (", torch imported" * row["torch"])
        )
    if options.json is not None:
        origin = provenance()
        origin.pop("arguments", None)
        write_json(
            options.json, {"bench": "imports", "machine": origin.pop("machine"), "provenance": origin, "rows": rows}
        )


if __name__ == "__main__":
    main()
