"""What must hold before the first outer step."""

from __future__ import annotations

from ..data import Dataset
from ..errors import InputError
from ..experts import TrajectoryStore
from ..methods import Method
from .settings import DistillSettings


def check(dataset: Dataset, experts: TrajectoryStore, method: Method, settings: DistillSettings, ipc: int) -> None:
    """Raise InputError, before anything is written, where data, experts, method and settings do not fit together."""
    check_data(dataset, method, settings, ipc)
    check_settings(method, settings, experts.epochs, f"the experts in {experts.folder} have")
    _check_experts(dataset, experts)


def check_data(dataset: Dataset, method: Method, settings: DistillSettings, ipc: int) -> None:
    """Raise InputError where the data cannot be distilled as asked; no experts are needed."""
    dataset.check_ipc(ipc)
    method.init.check(dataset, ipc * settings.torus.cells)
    if settings.validate_every and dataset.validation is None:
        raise InputError(
            "Evaluation during the distillation needs images held out of the training data; load them with --data.validation 0.1, "
            "or set --distill.validate-every 0. Test images are never used to choose."
        )


def check_settings(method: Method, settings: DistillSettings, epochs: int, whose: str = "the expert recipe has") -> None:
    """Raise InputError where settings contradict the experts' number of epochs, or one another; neither data nor experts are needed."""
    last = settings.last_epoch
    if last > epochs:
        allowed = max(1, epochs - settings.matched_epochs + 1)
        raise InputError(
            f"Start epochs below {settings.max_start_epoch} and {settings.matched_epochs} matched epochs reach epoch {last}, but {whose} "
            f"{epochs}; choose --distill.max-start-epoch {allowed} or less, or train longer experts."
        )
    if settings.canvas_samples > 1 and settings.canvas == 1:
        raise InputError(
            f"{settings.canvas_samples} crops of each canvas were asked for, but ordinary images are seen whole; add --distill.canvas 2, "
            f"or leave out --distill.canvas-samples."
        )
    method.sample.check(settings.max_start_epoch)
    method.goal.check(settings.inner_steps, settings.matched_epochs)


def _check_experts(dataset: Dataset, experts: TrajectoryStore) -> None:
    identity = experts.identity
    if not len(experts):
        raise InputError(f"{experts.folder} holds no finished expert; train some with: astdistill experts PRESET")
    found = {
        "shape": dataset.shape,
        "classes": len(dataset.classes),
        "preprocessing": dataset.preprocessing.hash,
        "data": dataset.fingerprint,
    }
    wanted = {
        "shape": identity.shape,
        "classes": len(identity.classes),
        "preprocessing": identity.preprocessing,
        "data": identity.fingerprint,
    }
    for name, value in found.items():
        if value != wanted[name]:
            raise InputError(
                f"The experts in {experts.folder} were trained on other data ({name} {wanted[name]}) than the set '{dataset.name}' given "
                f"here ({name} {value}); load the same data with the same --data options, or train experts on this set."
            )
