"""`make sanitize`: the kernels of every instruction set under AddressSanitizer and UndefinedBehaviorSanitizer, function
by function over odd shapes (planes.c), and whole derivatives through the engine.

Needs gcc on Linux. Ends with an error at the first report of a sanitizer, or where a mistake made on purpose is not
reported.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from astdistill.autodiff.native import build
from astdistill.autodiff.native.engine import NativeEngine
from astdistill.autodiff.native.layout import Workspace, address, blocks_of
from astdistill.autodiff.native.variants import SOURCE, Variant, compile_kernels, find_compiler, variants
from astdistill.models.convnets import ConvNet
from astdistill.models.flat import FlatModel

SANITIZERS = "-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"
SIDES = 1, 2, 4, 5, 7, 8, 12, 20, 33, 64
WIDTHS, DEPTHS, CHANNELS, BATCHES, THREADS = (1, 16, 48), (1, 2, 3), (1, 3, 16), (1, 2, 7), (1, 3)


def main() -> None:
    compiler, able = find_compiler(), variants(platform.machine())
    assert compiler is not None, "there is no C compiler"
    able = able[able.index(build.for_this_processor()) :]
    with tempfile.TemporaryDirectory(prefix="astdistill-sanitize-") as folder:
        for variant in able:
            planes(compiler, variant, Path(folder))
        for variant in able:
            networks(compiler, variant, Path(folder))


def planes(compiler: list[str], variant: Variant, folder: Path) -> None:
    """planes.c, with and without its mistake."""
    program, source = folder / variant.name, Path(__file__).with_name("planes.c")
    flags = [*SANITIZERS, "-O1", "-fopenmp", "-fno-math-errno", *variant.flags, f"-I{SOURCE}"]
    subprocess.run([*compiler, *flags, "-o", str(program), str(source)], check=True)
    good = subprocess.run([str(program)], capture_output=True, text=True, check=False, env=_quiet())
    assert good.returncode == 0, good.stderr
    bad = subprocess.run([str(program), "mistake"], capture_output=True, text=True, check=False, env=_quiet())
    assert reported(bad.stderr), f"the sanitizers missed a read behind an allocation: {bad.stderr}"
    print(f"{variant.instructions}: functions over odd shapes: no report; {good.stdout.strip()}", flush=True)


def networks(compiler: list[str], variant: Variant, folder: Path) -> None:
    """Derivatives in a process that AddressSanitizer was loaded into first, so that torch's allocations are seen."""
    library = folder / f"{variant.name}-sanitized.so"
    compile_kernels([*compiler, *SANITIZERS], variant, library)
    run = subprocess.run([*compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    environment = _quiet() | {"LD_PRELOAD": run.stdout.strip()}
    for mistake in ([], ["mistake"]):
        command = [sys.executable, str(Path(__file__)), str(library), *mistake]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if mistake:
            assert reported(done.stderr), f"the sanitizers missed a tensor that is too short: {done.stderr}"
        else:
            assert done.returncode == 0, done.stderr[-4000:]
            print(f"{variant.instructions}: {done.stdout.strip()}", flush=True)


def reported(text: str) -> bool:
    """Whether a sanitizer reports; UBSan is the first where it knows an allocation's size."""
    return "AddressSanitizer: " in text or "runtime error: " in text


def _quiet() -> dict[str, str]:
    """Python does not free everything at its end."""
    return os.environ | {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"}


def inside(library: str, mistake: bool) -> None:
    """All derivatives of every ConvNet that the kernels take, by a sanitized library."""
    build.share_openmp()
    kernels, began = build._declare_types(ctypes.CDLL(library)), time.monotonic()
    if mistake:
        size = build.lanes(kernels)
        short, kernel = torch.zeros(9 * size * size - 1), torch.zeros(36 * (size * size + build.GAP))
        kernels.kernel_forward(address(short), 1, 1, address(kernel), None)
        return
    taken, left = 0, 0
    for height, width, channels, wide, depth in itertools.product(SIDES, SIDES, CHANNELS, WIDTHS, DEPTHS):
        shape = channels, height, width
        if height >> depth == 0 or width >> depth == 0:
            continue
        model = FlatModel(ConvNet(channels, 3, (height, width), depth=depth, width=wide))
        blocks = blocks_of(model.module, shape)
        if blocks is None:
            left += 1
            continue
        taken += 1
        for batch, threads in zip((*BATCHES, 1), (*THREADS, 2, 1), strict=True):
            torch.set_num_threads(threads)
            derivatives(NativeEngine(model, blocks, kernels, Workspace()), batch, shape)
    print(
        f"all derivatives of {taken} networks, batches {BATCHES}: no report, {time.monotonic() - began:.0f} s; ", end=""
    )
    print(f"{left} networks of other sizes or widths are left to torch")


def derivatives(engine: NativeEngine, batch: int, shape: tuple[int, int, int]) -> None:
    """Each once; all must be numbers."""
    theta = engine.model.flatten()
    images, targets = torch.randn(batch, *shape), torch.full((batch, 3), 1 / 3)
    made = [engine.logits(theta, images), *engine.gradient(theta, images, targets)]
    made += engine.directional(theta, torch.randn_like(theta), images, targets)
    made += [*engine.penalised(theta, images, targets, 2.0), *engine.penalised(theta, images, None, 2.0, form="pixel")]
    assert all(bool(part.isfinite().all()) for part in made), shape


if __name__ == "__main__":
    if len(sys.argv) > 1:
        inside(sys.argv[1], "mistake" in sys.argv)
    else:
        main()
