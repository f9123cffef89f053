"""TensorBoard's event files: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch.utils.tensorboard import SummaryWriter

FLUSH_S = 5
"""Less than the time between two saved states, so that a kill loses nothing that the resumed run does not log again."""


class TensorBoard:
    """One writer per group, each a separate run in TensorBoard.

    A writer states the step at which it begins, and TensorBoard then drops what earlier writers of the group have
    logged from that step on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writers: dict[str, SummaryWriter] = {}

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer(group, step).add_scalar(name, value, step)

    def histogram(self, group: str, name: str, values: Float[np.ndarray, " n"], step: int) -> None:
        self._writer(group, step).add_histogram(name, values, step, bins="auto" if len(values) < 10_000 else "fd")

    def image(self, group: str, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._writer(group, step).add_image(name, picture, step, dataformats="HWC")

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, group: str, step: int) -> SummaryWriter:
        if group not in self._writers:
            self._writers[group] = SummaryWriter(str(self.folder / group), purge_step=step, flush_secs=FLUSH_S)
        return self._writers[group]
