"""What a run logs, and its loggers: TensorBoard and Weights & Biases, each imported only if requested."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from .errors import InputError, unknown
from .progress import console
from .run_dir import RunDir


class Sink(Protocol):
    """A destination of logs.

    Each group of names counts its own steps, which only go back when a killed run is resumed: what the group has from
    the first step on that this process logs is then replaced, or was the same.
    """

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Keep numbers, finite or not, by their names."""
        ...

    def histogram(self, group: str, name: str, values: Float[np.ndarray, " n"], step: int) -> None:
        """Keep the distribution of finite numbers."""
        ...

    def image(self, group: str, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Keep a picture."""
        ...

    def close(self) -> None:
        """Write what is still buffered."""
        ...


class Log:
    """A sink that forwards to others. One that fails is reported once and then left out; the run continues."""

    def __init__(self, sinks: Mapping[str, Sink]) -> None:
        self._sinks = dict(sinks)

    def __bool__(self) -> bool:
        return bool(self._sinks)

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._for_each(lambda sink: sink.scalars(group, values, step))

    def histogram(self, group: str, name: str, values: Float[np.ndarray, " n"], step: int) -> None:
        finite = values[np.isfinite(values)]
        if len(finite):
            self._for_each(lambda sink: sink.histogram(group, name, finite, step))

    def image(self, group: str, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._for_each(lambda sink: sink.image(group, name, picture, step))

    def close(self) -> None:
        self._for_each(lambda sink: sink.close())
        self._sinks.clear()

    def _for_each(self, write: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                write(sink)
            except Exception as error:  # no error of a logger may stop the run
                del self._sinks[name]
                _warn(name, error)


def _tensorboard(folder: Path, settings: Mapping[str, Any]) -> Sink:
    from .tensorboard import TensorBoard

    return TensorBoard(RunDir(folder).tensorboard)


def _wandb(folder: Path, settings: Mapping[str, Any]) -> Sink:
    from .wandb import WeightsAndBiases

    return WeightsAndBiases(folder, settings)


LOGGERS: dict[str, Callable[[Path, Mapping[str, Any]], Sink]] = {"tensorboard": _tensorboard, "wandb": _wandb}


def check_loggers(names: Sequence[str]) -> None:
    """Raise InputError for an unknown logger, and for one whose package is not installed."""
    for name in names:
        if name not in LOGGERS:
            raise unknown("logger", name, LOGGERS)
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"--log {name} needs the package {name}, which is not installed; type: pip install 'astdistill[{name}]'"
            )


@contextmanager
def open_log(names: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> Iterator[Log]:
    """The loggers of these names, writing into `folder`, with the settings of the run next to what they log; closed
    when the block ends.

    A resumed run continues its logs. Raises InputError as `check_loggers`.
    """
    check_loggers(names)
    sinks: dict[str, Sink] = {}
    for name in dict.fromkeys(names):
        try:
            sinks[name] = LOGGERS[name](folder, settings)
        except Exception as error:
            _warn(name, error)
    log = Log(sinks)
    try:
        yield log
    finally:
        log.close()


def _warn(name: str, error: Exception) -> None:
    text = (
        f"The logger {name} failed ({type(error).__name__}: {error}) and logs no more; "
        f"the run and its own files go on without it."
    )
    console().print(text, highlight=False, markup=False, style="yellow")
