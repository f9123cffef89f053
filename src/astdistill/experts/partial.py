"""An expert that is still being trained, or that stopped early: its rows so far, and the state from which training
resumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from ..autodiff.training import pack, unpack
from ..runtime.errors import DivergedError, FolderGoneError, InputError
from ..runtime.files import (
    abandoned,
    altered_row,
    check_regular,
    fingerprint,
    load_tensors,
    naming,
    open_tensors,
    reading,
    remove_folder,
    save_tensors,
    sweep,
)
from ..runtime.owners import new_tag, owner_alive
from ..runtime.shapes import Params, Rows
from .recipe import ExpertCurve

if TYPE_CHECKING:
    from .store import StoreIdentity


THETA = "theta"
"""Name of θ in the state, used if `rows.bin` does not hold it."""
FORMAT = 2
"""Format of the state; with a state of another format, training starts over."""
ENDING = ".partial"
MEND = "delete it and run the same command again"


class PartialTrajectory:
    """A folder of one process, `NNN.<machine>-<process>-<random>.partial`: `rows.bin` grows by one row per epoch,
    `state.safetensors` is replaced after each. No other process ever writes to it.

    The state is written last and names the epoch, so rows beyond it (from a kill between the two writes) are cut off on
    restore. It holds digests of its tensors and of all rows. When the process releases the folder, it is renamed to
    `NNN.partial`; the process that trains the expert next renames it to its own name. An expert that stopped before its
    recipe's last epoch keeps `state.safetensors` alone, with θ in it: its rows are those of the store's own file,
    `NNN.safetensors`.
    """

    def __init__(self, store: Path, expert: int, parameters: int) -> None:
        self.store, self.expert, self.parameters = store, expert, parameters
        self.published, self.free = store / f"{expert:03d}.safetensors", store / f"{expert:03d}{ENDING}"
        self.folder = store / f"{expert:03d}.{new_tag()}{ENDING}"
        self.rows, self.state = self.folder / "rows.bin", self.folder / "state.safetensors"
        self.digests: list[str] = []

    @staticmethod
    @contextmanager
    def acquire(store: Path, expert: int, parameters: int) -> Iterator[PartialTrajectory]:
        """A folder of this process for the block, with the progress that another process left of the same expert, if
        any."""
        partial = PartialTrajectory(store, expert, parameters)
        partial._take_over()
        try:
            yield partial
        finally:
            partial._release()

    @staticmethod
    def sweep(store: Path, finished: Iterable[int]) -> None:
        """Remove temporary files, and the folders of these finished experts that killed processes left behind; folders
        of processes that may still be running stay."""
        sweep(store)  # files of a process killed after it renamed the last expert's file: no later write removes them
        for expert in finished:
            for folder in folders(store, expert):
                with suppress(OSError):  # another process may remove it, too
                    if folder.name == f"{expert:03d}{ENDING}" or abandoned(folder):
                        remove_folder(folder)

    def _take_over(self) -> None:
        """Start from the folder of this expert with the most epochs: rename it if its process has ended, copy it if
        that process may still be running."""
        epochs = {folder: state_epochs(folder) for folder in folders(self.store, self.expert)}
        for folder in sorted(epochs, key=lambda each: -epochs[each]):
            released = folder == self.free or owner_alive(folder.name) is False
            if released and self._claim(folder):
                return
            if not released and epochs[folder] > 0 and self._copy(folder):
                return

    def _claim(self, folder: Path) -> bool:
        """Rename the folder to this process's own; returns False if another process was faster. Raises InputError if
        its content was changed after it was written."""
        try:
            check_rows(folder, self.expert, self.parameters)
            folder.rename(self.folder)
        except (InputError, OSError):
            if folder.exists():
                raise
            return False
        return True

    def _copy(self, folder: Path) -> bool:
        """Copy the folder of a process that may be writing to it: the state first, which never names more rows than
        there are. Returns whether the copy is complete."""
        with suppress(OSError, InputError, KeyError):
            self.folder.mkdir()
            shutil.copyfile(folder / self.state.name, self.state)
            epochs = int(load_tensors(self.state)[1]["epochs"])
            check_regular(folder / self.rows.name)
            with (folder / self.rows.name).open("rb") as source, self.rows.open("wb") as target:
                target.write(source.read((epochs + 1) * self.parameters * 4))
            check_rows(self.folder, self.expert, self.parameters)
            return True
        shutil.rmtree(self.folder, ignore_errors=True)
        return False

    def _release(self) -> None:
        """Leave the folder to the process that trains the expert next, if it has anything to resume from."""
        if not self.folder.exists():
            return
        if not self.state.exists():
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        for _ in range(2):
            with suppress(OSError):
                self.folder.rename(self.free)
                return
            if state_epochs(self.free) >= state_epochs(self.folder):
                break
            remove_folder(self.free)
        shutil.rmtree(self.folder, ignore_errors=True)

    def restore(self, theta: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> int:
        """Restore θ, optimiser and curves to the last complete epoch. Returns the number of completed epochs."""
        if not self.state.exists():
            return self._begin(theta)
        with reading(self.state, "the state of an expert", MEND):
            return self._restore_state(theta, optimiser, curves)

    def _restore_state(self, theta: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> int:
        tensors, header = load_tensors(self.state)
        epochs = int(header["epochs"])
        complete_bytes = (epochs + 1) * self.parameters * 4
        if not self.rows.exists() and THETA in tensors:
            self._rebuild_rows(tensors[THETA], epochs, header.get("rows"))
        if (
            self.rows.is_symlink()
            or header.get("format") != FORMAT
            or not self.rows.exists()
            or self.rows.stat().st_size < complete_bytes
        ):
            return self._begin(theta)  # rows are missing: truncating to a larger size would fill them with zeros
        os.truncate(self.rows, complete_bytes)
        stored = stored_rows(self.rows, self.parameters)
        self.digests = [fingerprint(row) for row in stored]
        with torch.no_grad():
            theta.copy_(stored[epochs])
        unpack(optimiser, tensors)
        for group in optimiser.param_groups:
            group["lr"] = float(header["lr"])
        for name, values in header["curves"].items():
            getattr(curves, name).extend(values)
        return epochs

    def _rebuild_rows(self, theta: Params, epochs: int, digests: list[str] | None) -> None:
        """Write `rows.bin` from the published rows of an expert that stopped at `epochs`; the last row is θ in full
        precision. Nothing is written if the published rows belong to another training than the state, whose rows have
        `digests`."""
        if not self.published.exists():
            return
        stored = load_tensors(self.published, mend=MEND)[0]["rows"][: epochs + 1]
        if digests is not None and stored.dtype == torch.float32 and altered_row(stored, digests) is not None:
            return
        rows = stored.float()
        if len(rows) == epochs + 1:
            rows[epochs] = theta
            with naming(self.rows):
                self.rows.write_bytes(self._bytes(rows))

    def _begin(self, theta: Params) -> int:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state.unlink(missing_ok=True)
        self.rows.unlink(missing_ok=True)  # it may be a pipe, or a link to another file
        first = theta.detach().float().cpu()
        with naming(self.rows):
            self.rows.write_bytes(self._bytes(first))
        self.digests = [fingerprint(first)]
        return 0

    def append(self, row: Params, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> None:
        """Write the row of the epoch that just ended and the state after it. Raises DivergedError, and leaves the state
        unchanged, if numbers are not finite."""
        values, state = row.detach().float().cpu(), {name: tensor.cpu() for name, tensor in pack(optimiser).items()}
        if not all(bool(tensor.isfinite().all()) for tensor in (values, *state.values())):
            raise DivergedError(
                f"Expert {self.expert} of {self.store} or its optimiser stopped being finite in epoch "
                f"{len(self.digests) - 1}; lower the recipe's learning rate and train again. What is finished is kept."
            )
        self._check_exists()
        with naming(self.rows), self.rows.open("ab") as file:
            file.write(self._bytes(values))
            file.flush()
            os.fsync(file.fileno())
        self.digests.append(fingerprint(values))
        save_tensors(self.state, state, self._header(optimiser, curves))

    def _check_exists(self) -> None:
        if not self.rows.exists():
            raise FolderGoneError(
                f"{self.folder} was deleted or moved while expert {self.expert} was being trained in it; nothing more "
                "is written. Run the same command again."
            )

    def publish(
        self, theta: Params, optimiser: torch.optim.Optimizer, identity: StoreIdentity, curves: ExpertCurve
    ) -> None:
        """Write the trajectory so far to the store's own file, unless another process has written one at least as long,
        which then stays. The folder is removed once the recipe's last epoch is published; before that it keeps what is
        needed to resume training. Raises InputError if rows are missing."""
        epochs = len(curves.step_squared)
        rows = self._all_rows(epochs + 1).to(getattr(torch, identity.dtype))
        complete, dismissed = epochs == identity.recipe.epochs, False
        if not complete:
            save_tensors(self.state, pack(optimiser) | {THETA: theta.detach().float()}, self._header(optimiser, curves))

        def stays(path: Path) -> bool:
            nonlocal dismissed
            dismissed = published_rows(path) > epochs
            return dismissed

        header = {"identity": identity.to_json(), "curves": vars(curves)}
        save_tensors(self.published, {"rows": rows}, header, by_row=["rows"], stays=stays)
        if complete or dismissed:
            shutil.rmtree(self.folder)
        else:
            self.rows.unlink()

    def dismiss(self) -> None:
        """Remove the folder: another process has finished the expert."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _all_rows(self, count: int) -> Rows:
        """Return all rows, after checking that they are those that were written."""
        self._check_exists()
        rows = stored_rows(self.rows, self.parameters)
        if len(rows) != count or altered_row(rows, self.digests) is not None:
            raise InputError(
                f"{self.rows} holds {len(rows)} rows of expert {self.expert}, which are not the {count} that were "
                f"written to it; delete the folder {self.free} and run the same command again."
            )
        return rows

    def _header(self, optimiser: torch.optim.Optimizer, curves: ExpertCurve) -> dict[str, Any]:
        rate = optimiser.param_groups[0]["lr"]
        epochs = len(curves.step_squared)
        return {"format": FORMAT, "epochs": epochs, "lr": rate, "curves": vars(curves), "rows": self.digests}

    @staticmethod
    def _bytes(row: Tensor) -> bytes:
        return row.detach().float().cpu().numpy().astype("<f4").tobytes()


def folders(store: Path, expert: int) -> list[Path]:
    """All folders of half-trained trajectories of one expert, of any process."""
    return sorted(store.glob(f"{expert:03d}{ENDING}")) + sorted(store.glob(f"{expert:03d}.*{ENDING}"))


def check_rows(folder: Path, expert: int, parameters: int) -> bool:
    """Whether the state in a folder of one expert has digests of its rows. Raises InputError if the state or a row was
    changed after it was written."""
    rows, state = folder / "rows.bin", folder / "state.safetensors"
    if not state.exists():
        return False
    digests = load_tensors(state)[1].get("rows")
    if digests is None:
        return False  # written by an earlier version
    if not rows.exists() or rows.stat().st_size < len(digests) * parameters * 4:
        return True  # training starts over
    altered = altered_row(stored_rows(rows, parameters, len(digests)), digests)
    if altered is not None:
        raise InputError(
            f"{rows} was changed after it was written: row {altered} of expert {expert} does not match its digest; "
            f"delete the folder {folder} and run the same command again."
        )
    return True


def published_rows(path: Path) -> int:
    """Number of rows in the file of an expert."""
    with open_tensors(path) as file:
        return int(file.get_slice("rows").get_shape()[0])


def state_epochs(folder: Path) -> int:
    """Number of epochs of the trajectory in a folder, from its state; 0 if no state can be read."""
    state = folder / "state.safetensors"
    with suppress(SafetensorError, OSError, ValueError, KeyError), open_tensors(state) as file:
        return int((file.metadata() or {})["epochs"])
    return 0


def saved_epochs(store: Path, expert: int) -> int:
    """Most epochs of any half-trained trajectory of one expert in a store on this machine."""
    return max(map(state_epochs, folders(store, expert)), default=0)


def stored_rows(path: Path, parameters: int, most: int | None = None) -> Rows:
    """The complete rows of a file, or the first `most` of them."""
    check_regular(path)
    count = path.stat().st_size // (parameters * 4)
    if not count:
        return torch.empty(0, parameters, dtype=torch.float32)
    return torch.from_numpy(np.memmap(path, dtype="<f4", mode="r", shape=(count, parameters))[:most].copy())
