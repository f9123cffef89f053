"""`make wheel`: builds the wheel, and looks at it where there is no compiler and no cache.

The environments are fresh ones that share the packages of this Python, all but astdistill, through a path file; PATH
holds nothing but their own programs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
DERIVATIVES = """
import platform, sys, torch
from astdistill.autodiff.dispatch import engine_name, engine_of
from astdistill.autodiff.native import build
from astdistill.autodiff.native.engine import NativeEngine
from astdistill.autodiff.native.layout import Workspace, blocks_of
from astdistill.autodiff.native.variants import variants
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
torch.set_num_threads(2)
shape, generator = (3, 32, 32), torch.Generator().manual_seed(0)
model = FlatModel(build_model("convnet-d3-w32", shape, 10, seed=0))
images, targets = torch.randn(20, *shape, generator=generator), torch.eye(10)[torch.arange(20) % 10]
theta, direction = model.flatten(), torch.randn(model.size, generator=generator)

def openmp():
    if sys.platform != "linux":
        return set()
    names = [line.split()[-1] for line in open("/proc/self/maps")]
    return {name for name in names if ".so" in name and ("libgomp" in name or "omp." in name or "omp5" in name)}

def derivatives(engine):
    made = [*engine.directional(theta, direction, images, targets), *engine.gradient(theta, images, targets)]
    return [part.detach() for part in (*made, *engine.penalised(theta, images, targets, 2.0))]

before, all_made = openmp(), {engine_name(model, theta, images): derivatives(engine_of(model))}
if "native" in all_made:
    able = variants(platform.machine())
    for variant in able[able.index(build.for_this_processor()):]:
        kernels = build.make(variant)
        engine = NativeEngine(model, blocks_of(model.module, shape), kernels, Workspace())
        all_made[build.described(kernels)] = derivatives(engine)
assert openmp() == before, f"another OpenMP runtime was loaded: {openmp() - before}"
torch.save(all_made, sys.argv[1])
"""
TINY = "run digits-ipc1 --engine native --method mtt --experts.count 1 --distill.iterations 2 --evaluation.networks 1"
TINY += " --method.expert.epochs 3 --method.step.max-start-epoch 1 --evaluation.recipe.epochs 3"
TINY += " --evaluation.baselines random --out run"


def main() -> None:
    """Ends with an AssertionError or a CalledProcessError at the first thing that is not so."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="astdistill-wheel-") as folder:
        check(Path(folder))
    print(f"the wheel is good; {time.monotonic() - began:.0f} s")


def check(folder: Path) -> None:
    """The wheel in dist/ and a pure one, each in an environment of its own."""
    wheel = built(ROOT / "dist", os.environ["PATH"])
    assert wheel.name.split("-")[2:4] == ["py3", "none"], wheel.name
    assert not wheel.name.endswith("-any.whl"), f"no kernels in {wheel.name}"
    place = Environment(folder / "wheel", wheel)
    source = Environment(folder / "source", None)
    (_, ours), (_, theirs) = place.derivatives(), source.derivatives()
    print(f"of the wheel: {', '.join(ours)}; from source: {', '.join(theirs)}")
    assert [name.replace("of the wheel", "compiled here") for name in ours] == list(theirs)
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert all(map(torch.equal, one, other)), "the wheel's bits are not those of a source build"
    assert next(iter(ours)) == "native"
    findings = {each["name"]: each for each in json.loads(place.program("doctor", "--json", fails=True))["findings"]}
    print(f"doctor: {findings['native engine']['text']}")
    assert findings["native engine"]["state"] == "good"
    assert findings["engine, cpu"]["text"].startswith("native "), findings["engine, cpu"]["text"]
    assert "cifar10-ipc1-mtt" in place.program("get"), "the distilled sets are not in the wheel"
    said = place.program(*TINY.split())
    print(next(line for line in said.splitlines() if "engine: native (" in line))
    assert (place.folder / "run" / "scores.json").exists()
    pure = built(folder / "dist", str(place.programs))
    assert pure.name.endswith("py3-none-any.whl"), pure.name
    said, made = Environment(folder / "pure", pure).derivatives()
    print(f"without a compiler anywhere: {said}")
    assert list(made) == ["eager"]
    assert said.count("torch's own derivatives are used") == 1


def built(folder: Path, path: str) -> Path:
    """The wheel of this source tree, made with the programs of `path`."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("astdistill-*.whl"):
        old.unlink()
    environment = {name: value for name, value in os.environ.items() if name != "CC"} | {"PATH": path}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(command, env=environment, check=True)
    (wheel,) = folder.glob("astdistill-*.whl")
    print(wheel.name)
    return wheel


class Environment:
    """A fresh virtual environment with a wheel, or None for the source tree; the latter has a compiler."""

    def __init__(self, folder: Path, wheel: Path | None) -> None:
        self.folder, self.programs = folder, folder / "bin"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        paths = {name: str(folder) for name in ("base", "platbase")}
        packages = Path(sysconfig.get_path("purelib", vars=paths))
        (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
        self.environment = {"PATH": str(self.programs), "HOME": str(folder / "home"), "COLUMNS": "200"}
        if wheel is None:
            self.environment |= {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
            return
        install = [sys.executable, "-m", "pip", "--python", str(self.python), "install", "--quiet", "--no-deps"]
        subprocess.run([*install, "--ignore-installed", str(wheel)], check=True)
        assert shutil.which("cc", path=str(self.programs)) is None
        where = self.run("-c", "import astdistill; print(astdistill.__file__)")
        assert Path(where.strip()).is_relative_to(packages), where

    @property
    def python(self) -> Path:
        return self.programs / "python"

    def run(self, *words: str, fails: bool = False, **more: str) -> str:
        """What a Python of the environment prints, with errors."""
        command, environment = [str(self.python), *words], self.environment | more
        done = subprocess.run(command, env=environment, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode and not fails:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        if fails:
            return done.stdout
        return done.stderr + done.stdout

    def program(self, *words: str, fails: bool = False) -> str:
        """What `astdistill` prints."""
        return self.run("-m", "astdistill", *words, fails=fails)

    def derivatives(self) -> tuple[str, dict[str, list[torch.Tensor]]]:
        """What is printed, and the derivatives by the chosen engine and by the kernels of each instruction set."""
        path = self.folder / "derivatives.pt"
        said = self.run("-c", DERIVATIVES, str(path))
        return " ".join(said.split()), torch.load(path)


if __name__ == "__main__":
    main()
