"""An expert that is still being trained, or that stopped early: its rows so far, and the state to go on from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..autodiff.training import pack, unpack
from ..runtime.files import load_tensors, naming, save_tensors
from ..runtime.shapes import Params
from .recipe import ExpertCurve

if TYPE_CHECKING:
    from .store import StoreIdentity


THETA = "theta"
"""The state's name for θ, where `rows.bin` does not hold it."""
FORMAT = 2
"""Of the state; one of another format is begun anew."""


class PartialTrajectory:
    """The folder `NNN.partial`: `rows.bin` grows by one row an epoch, `state.safetensors` is replaced after each.

    The state is written last and names the epoch, so rows beyond it (a kill between the two writes) are cut off on
    restore. An expert that stopped before its recipe's last epoch keeps `state.safetensors` alone, with θ in it: its
    rows are those of the store's own file, `NNN.safetensors`.
    """

    def __init__(self, store: Path, expert: int, parameters: int) -> None:
        self.folder, self.published = store / f"{expert:03d}.partial", store / f"{expert:03d}.safetensors"
        self.rows, self.state = self.folder / "rows.bin", self.folder / "state.safetensors"
        self.parameters = parameters

    @staticmethod
    def sweep(store: Path, finished: Iterable[int]) -> None:
        """Remove the folders that a kill left behind after the trajectories of these experts were whole."""
        for expert in finished:
            shutil.rmtree(PartialTrajectory(store, expert, 0).folder, ignore_errors=True)

    def restore(self, theta: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> int:
        """Bring θ, optimiser and curves to the last whole epoch; the number of epochs that are done."""
        if not self.state.exists():
            return self._begin(theta)
        tensors, header = load_tensors(self.state)
        epochs = int(header["epochs"])
        whole = (epochs + 1) * self.parameters * 4
        if not self.rows.exists() and THETA in tensors:
            self._take_back(tensors[THETA], epochs)
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

    def _take_back(self, theta: Params, epochs: int) -> None:
        """Write `rows.bin` from the published rows of an expert that stopped at `epochs`; the last row is θ in full
        precision."""
        if not self.published.exists():
            return
        rows = load_tensors(self.published)[0]["rows"][: epochs + 1].float()
        if len(rows) == epochs + 1:
            rows[epochs] = theta
            with naming(self.rows):
                self.rows.write_bytes(self._bytes(rows))

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
        save_tensors(self.state, pack(optimiser), self._header(optimiser, curves))

    def publish(
        self, theta: Params, optimiser: torch.optim.Optimizer, identity: StoreIdentity, curves: ExpertCurve
    ) -> None:
        """Write the trajectory so far to the store's own file. The folder goes once the recipe's last epoch is in it;
        before that it keeps what the expert needs to be trained on."""
        epochs = len(curves.step_squared)
        rows = torch.from_numpy(self._read(0, epochs + 1).copy()).to(getattr(torch, identity.dtype))
        whole = epochs == identity.recipe.epochs
        if not whole:
            save_tensors(self.state, pack(optimiser) | {THETA: theta.detach().float()}, self._header(optimiser, curves))
        save_tensors(self.published, {"rows": rows}, {"identity": identity.to_json(), "curves": vars(curves)})
        if whole:
            shutil.rmtree(self.folder)
        else:
            self.rows.unlink()

    @staticmethod
    def _header(optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> dict[str, Any]:
        rate = optimiser.param_groups[0]["lr"]
        return {"format": FORMAT, "epochs": len(curves.step_squared), "lr": rate, "curves": vars(curves)}

    def _read(self, first: int, count: int) -> np.ndarray:
        stored = np.memmap(self.rows, dtype="<f4", mode="r").reshape(-1, self.parameters)
        return stored[first : first + count]

    @staticmethod
    def _bytes(row: Params) -> bytes:
        return row.detach().float().cpu().numpy().astype("<f4").tobytes()
