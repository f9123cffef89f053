"""A published benchmark setting with a limit of time: experts, then as many outer steps as there is time for.

    python benchmarks/cells.py cifar10-ipc1-mtt --seconds 500 --data path/to/cifar10 --experts.count 20 --out runs/c10

Every flag of `astdistill run` is accepted. The distilled set is written after every `--portion` outer steps, so that a
set of fewer steps than published exists when the time is over; the same command resumes from it. `astdistill evaluate
FOLDER` evaluates it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from astdistill.autodiff.dispatch import using
from astdistill.cli.options import parse
from astdistill.experiment.pipeline import obtain_experts, obtain_synthetic, prepare, tracked
from astdistill.runtime.errors import DivergedError, InputError
from astdistill.runtime.status import stage


def portions(arguments: list[str], seconds: float, portion: int) -> int:
    """Distil in portions until the preset's iterations are done (0) or no further portion fits into the time (75)."""
    began = time.monotonic()
    request = parse("run", arguments)
    experiment, out = request.experiment, request.out
    dataset = prepare(experiment, out)
    longest = 0.0
    with tracked(experiment, out, request.log) as recorder, using(experiment.engine):
        with stage("experts", out):
            experts = obtain_experts(experiment, dataset, recorder)
        print(f"experts: {len(experts)} of {experts.epochs} epochs after {time.monotonic() - began:.0f} s", flush=True)
        for steps in [*range(portion, experiment.distill.iterations, portion), experiment.distill.iterations]:
            if _steps_done(out) >= steps:
                continue
            if time.monotonic() - began + 1.2 * longest > seconds:
                return 75
            start = time.monotonic()
            part = experiment.replace(distill=experiment.distill.replace(iterations=steps))
            with stage("distillation", out):
                obtain_synthetic(part, dataset, experts, out, recorder)
            longest = max(longest, time.monotonic() - start)
            print(f"{steps} outer steps after {time.monotonic() - began:.0f} s", flush=True)
    return 0


def _steps_done(out: Path) -> int:
    """The number of outer steps in the saved state."""
    from astdistill.runtime.files import load_tensors

    state = out / "state.safetensors"
    return int(load_tensors(state)[1]["counters"]["iteration"]) if state.exists() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1e9, help="no portion is begun that would not end before")
    parser.add_argument("--portion", type=int, default=250, help="outer steps between two sets")
    options, arguments = parser.parse_known_args()
    try:
        return portions(arguments, options.seconds, options.portion)
    except (InputError, DivergedError) as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
