"""An expert that is still being trained: rows appended as they come, and the state to go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
import torch
from torch import nn

from ..models import FlatModel
from ..optimisers import pack, unpack
from ..runs import load_tensors, save_tensors
from ..shapes import Params
from .curves import ExpertCurve


class PartialTrajectory:
    """The folder `NNN.partial`: `rows.bin` grows by one row an epoch, `state.safetensors` is replaced after each.

    The state is written last and names the epoch, so rows beyond it (a kill between the two writes) are cut off on restore.
    """

    def __init__(self, store: Path, expert: int, parameters: int) -> None:
        self.folder = store / f"{expert:03d}.partial"
        self.rows, self.state = self.folder / "rows.bin", self.folder / "state.safetensors"
        self.parameters = parameters

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        pass

    @staticmethod
    def sweep(store: Path, finished: Iterable[int]) -> None:
        """Remove the folders of experts that a kill left behind after their trajectory was whole."""
        for expert in finished:
            shutil.rmtree(PartialTrajectory(store, expert, 0).folder, ignore_errors=True)

    def restore(self, network: nn.Module, flat: FlatModel, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> int:
        """Bring network, optimiser and curves to the last whole epoch; the number of epochs that are done."""
        tensors, header = load_tensors(self.state) if self.state.exists() else ({}, {"epochs": -1})
        epochs = int(header["epochs"])
        whole = (epochs + 1) * self.parameters * 4
        if epochs < 0 or not self.rows.exists() or self.rows.stat().st_size < whole:
            # Nothing to go on from, or rows lost from under the state: anew, since truncating to more would fill them with zeros.
            self.rows.write_bytes(self._bytes(flat.flatten(network)))
            return 0
        os.truncate(self.rows, whole)
        flat.load(network, torch.from_numpy(self._read(epochs, 1)[0].copy()))
        unpack(optimiser, tensors)
        for group in optimiser.param_groups:
            group["lr"] = float(header["lr"])
        for name, values in header["curves"].items():
            getattr(curves, name).extend(values)
        return epochs

    def append(self, row: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> None:
        """Keep the row of the epoch that just ended and the state after it."""
        with self.rows.open("ab") as file:
            file.write(self._bytes(row))
            file.flush()
            os.fsync(file.fileno())
        header = {"epochs": len(curves.step_squared), "lr": optimiser.param_groups[0]["lr"], "curves": vars(curves)}
        save_tensors(self.state, pack(optimiser), header)

    def finish(self, path: Path, dtype: Literal["float32", "bfloat16"], curves: ExpertCurve) -> None:
        """Write the whole trajectory to `path` and remove the folder."""
        rows = torch.from_numpy(self._read(0, len(curves.step_squared) + 1).copy())
        save_tensors(path, {"rows": rows.to(getattr(torch, dtype))}, {"curves": vars(curves)})
        shutil.rmtree(self.folder)

    def _read(self, first: int, count: int) -> np.ndarray:
        stored = np.memmap(self.rows, dtype="<f4", mode="r").reshape(-1, self.parameters)
        return stored[first : first + count]

    @staticmethod
    def _bytes(row: Params) -> bytes:
        return row.detach().float().cpu().numpy().astype("<f4").tobytes()
