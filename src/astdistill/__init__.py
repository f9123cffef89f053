"""astdistill: dataset distillation. Public names load on first use, so importing this is cheap."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import methods
    from .data import DataConfig, Dataset, SyntheticSet, dataset_from_tensors, dataset_from_torch, load_dataset
    from .distillation import DistillSettings
    from .evaluation import PROTOCOLS, EvalRecipe, Scores, evaluate
    from .experiment.sweep import sweep
    from .experts import ExpertRecipe, TrajectoryStore, train_experts
    from .interop import Distilled, distill, export, get, import_buffers, import_set, load, zoo
    from .models import FlatModel, build_model
    from .runtime.errors import DivergedError, InputError
    from .runtime.trust import trusting

__version__ = "0.1.0"

_PACKAGE_OF = {
    "DataConfig": "data",
    "Dataset": "data",
    "dataset_from_tensors": "data",
    "dataset_from_torch": "data",
    "load_dataset": "data",
    "DistillSettings": "distillation",
    "Distilled": "interop.distilled",
    "distill": "interop.distilled",
    "import_set": "interop.distilled",
    "load": "interop.distilled",
    "DivergedError": "runtime.errors",
    "InputError": "runtime.errors",
    "PROTOCOLS": "evaluation",
    "EvalRecipe": "evaluation",
    "Scores": "evaluation",
    "evaluate": "evaluation",
    "export": "interop",
    "get": "interop.published",
    "zoo": "interop.published",
    "import_buffers": "interop",
    "ExpertRecipe": "experts",
    "TrajectoryStore": "experts",
    "train_experts": "experts",
    "sweep": "experiment.sweep",
    "FlatModel": "models",
    "build_model": "models",
    "SyntheticSet": "data",
    "trusting": "runtime.trust",
}

_WITH_CHECKED_ARGUMENTS = frozenset(
    (
        *("build_model", "distill", "evaluate", "export", "get", "import_buffers", "import_set", "load", "sweep"),
        *("train_experts", "zoo"),
    )
)
"""Functions whose arguments are checked before anything is computed (`runtime.kinds`)."""

__all__ = [
    "PROTOCOLS",
    "DataConfig",
    "Dataset",
    "DistillSettings",
    "Distilled",
    "DivergedError",
    "EvalRecipe",
    "ExpertRecipe",
    "FlatModel",
    "InputError",
    "Scores",
    "SyntheticSet",
    "TrajectoryStore",
    "build_model",
    "dataset_from_tensors",
    "dataset_from_torch",
    "distill",
    "evaluate",
    "export",
    "get",
    "import_buffers",
    "import_set",
    "load",
    "load_dataset",
    "methods",
    "sweep",
    "train_experts",
    "trusting",
    "zoo",
]


_MOVED = {
    "methods.parts": "methods",
    "unroll": "methods",
    "presets": "experiment.presets",
    "errors": "runtime.errors",
    "synthetic": "data.synthetic",
    "engines": "autodiff",
}
"""Packages that the documentation of 0.1 named, and where their contents are now; kept for one release."""


class _MovedPackageImporter(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports a package by its name in 0.1, with a DeprecationWarning that gives the new name."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> importlib.machinery.ModuleSpec | None:
        is_moved = fullname.removeprefix(f"{__name__}.") in _MOVED
        return importlib.machinery.ModuleSpec(fullname, self) if is_moved else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        new = f"{__name__}.{_MOVED[spec.name.removeprefix(f'{__name__}.')]}"
        warnings.warn(
            f"{spec.name} is now {new}; the old name goes with the next release.", DeprecationWarning, stacklevel=2
        )
        module = ModuleType(spec.name)
        vars(module).update(
            {
                name: value
                for name, value in vars(importlib.import_module(new)).items()
                if name == "__getattr__" or not name.startswith("__")
            }
        )
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: `create_module` has filled the module."""


sys.meta_path.append(_MovedPackageImporter())


def __getattr__(name: str) -> Any:
    if name == "methods":
        return importlib.import_module(".methods", __name__)
    if name in _PACKAGE_OF:
        found = getattr(importlib.import_module(f".{_PACKAGE_OF[name]}", __name__), name)
        if name in _WITH_CHECKED_ARGUMENTS:
            from .runtime.kinds import with_checked_kinds

            return with_checked_kinds(found)
        return found
    raise AttributeError(f"astdistill has no '{name}'; its names are {', '.join(__all__)}.")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
