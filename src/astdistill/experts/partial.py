"""An expert that is still being trained: rows appended as they come, and the state to go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..optimisers import pack, unpack
from ..runs import load_tensors, naming, save_tensors
from ..shapes import Params
from .curves import ExpertCurve

if TYPE_CHECKING:
    from .store import StoreIdentity


FORMAT = 2
"""Of the state; one of another format is begun anew."""


class PartialTrajectory:
    """The folder `NNN.partial`: `rows.bin` grows by one row an epoch, `state.safetensors` is replaced after each.

    The state is written last and names the epoch, so rows beyond it (a kill between the two writes) are cut off on restore.
    """

    def __init__(self, store: Path, expert: int, parameters: int) -> None:
        self.folder = store / f"{expert:03d}.partial"
        self.rows, self.state = self.folder / "rows.bin", self.folder / "state.safetensors"
        self.parameters = parameters

    @staticmethod
    def sweep(store: Path, finished: Iterable[int]) -> None:
        """Remove the folders of experts that a kill left behind after their trajectory was whole."""
        for expert in finished:
            shutil.rmtree(PartialTrajectory(store, expert, 0).folder, ignore_errors=True)

    def restore(self, theta: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> int:
        """Bring θ, optimiser and curves to the last whole epoch; the number of epochs that are done."""
        if not self.state.exists():
            return self._begin(theta)
        tensors, header = load_tensors(self.state)
        epochs = int(header["epochs"])
        whole = (epochs + 1) * self.parameters * 4
        if header.get("format") != FORMAT or not self.rows.exists() or self.rows.stat().st_size < whole:
            return self._begin(theta)  # rows lost from under the state: truncating to more would fill them with zeros
        os.truncate(self.rows, whole)
        with torch.no_grad():
            theta.copy_(torch.from_numpy(self._read(epochs, 1)[0].copy()))
        unpack(optimiser, tensors)
        for group in optimiser.param_groups:
            group["lr"] = float(header["lr"])
        for name, values in header["curves"].items():
            getattr(curves, name).extend(values)
        return epochs

    def _begin(self, theta: Params) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        with naming(self.rows):
            self.rows.write_bytes(self._bytes(theta))
        return 0

    def append(self, row: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> None:
        """Keep the row of the epoch that just ended and the state after it."""
        with naming(self.rows), self.rows.open("ab") as file:
            file.write(self._bytes(row))
            file.flush()
            os.fsync(file.fileno())
        header = {"format": FORMAT, "epochs": len(curves.step_squared), "lr": optimiser.param_groups[0]["lr"], "curves": vars(curves)}
        save_tensors(self.state, pack(optimiser), header)

    def finish(self, path: Path, identity: StoreIdentity, curves: ExpertCurve) -> None:
        """Write the whole trajectory to `path`, with its recipe, and remove the folder."""
        rows = torch.from_numpy(self._read(0, len(curves.step_squared) + 1).copy())
        save_tensors(path, {"rows": rows.to(getattr(torch, identity.dtype))}, {"identity": identity.to_json(), "curves": vars(curves)})
        shutil.rmtree(self.folder)

    def _read(self, first: int, count: int) -> np.ndarray:
        stored = np.memmap(self.rows, dtype="<f4", mode="r").reshape(-1, self.parameters)
        return stored[first : first + count]

    @staticmethod
    def _bytes(row: Params) -> bytes:
        return row.detach().float().cpu().numpy().astype("<f4").tobytes()
