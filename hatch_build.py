"""Puts the distilled sets of docs/sets into the wheel, and the CPU kernels, compiled for each instruction set of this
machine's kind.

Without a C compiler the wheel is a pure one: astdistill then compiles the kernels at first use, or computes with
torch's own derivatives and says so.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from packaging.tags import sys_tags

NATIVE = "src/astdistill/autodiff/native"
SETS = "docs/sets"
OLDEST = 17
"""The least minor version of glibc 2 that a wheel's tag names: manylinux_2_17, which every torch of today asks for."""


class KernelsHook(BuildHookInterface):
    """Compiles before a wheel is packed; not for an editable installation, which compiles at first use."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the sets, the libraries and the platform to `build_data`."""
        if version != "editable":  # which finds them in the source tree
            build_data["force_include"][str(Path(self.root) / SETS)] = "astdistill/interop/sets"
        if version == "editable" or sys.platform not in ("linux", "darwin"):
            return
        self.folder = tempfile.TemporaryDirectory(prefix="astdistill-wheel-")
        try:
            libraries = _compiled(_variants_module(Path(self.root)), Path(self.folder.name))
        except (OSError, subprocess.CalledProcessError) as error:
            said = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"astdistill's CPU kernels are not in this wheel: {said.strip()[:300]}")
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{_platform(libraries)}"
        for path in libraries:
            build_data["force_include"][str(path)] = f"astdistill/autodiff/native/built/{path.name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Nothing; removes what was compiled."""
        if hasattr(self, "folder"):
            self.folder.cleanup()


def _variants_module(root: Path) -> ModuleType:
    """variants.py by its path: the package itself imports torch, which is not there while a wheel is built."""
    spec = importlib.util.spec_from_file_location("kernel_variants", root / NATIVE / "variants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclass looks
    spec.loader.exec_module(module)
    return module


def _compiled(variants: ModuleType, folder: Path) -> list[Path]:
    """Every variant for this kind of machine, named by its content."""
    compiler = variants.find_compiler()
    if compiler is None:
        raise OSError("there is no C compiler")
    paths = []
    for variant in variants.variants(platform.machine()):
        new = folder / "new.so"
        variants.compile_kernels(compiler, variant, new)
        paths.append(new.rename(variants.named_by_content(folder, variant.name, new.read_bytes())))
    return paths


def _platform(libraries: list[Path]) -> str:
    """The platform tag: on Linux with glibc, of the newest version of it that a library asks for."""
    here = [tag.platform for tag in sys_tags()]
    if not any(platform.startswith("manylinux") for platform in here):
        return here[0]
    asked = [int(minor) for path in libraries for minor in re.findall(rb"GLIBC_2\.(\d+)", path.read_bytes())]
    return f"manylinux_2_{max([OLDEST, *asked])}_{platform.machine()}"
