"""Weights & Biases: online if the user is logged in and the server answers, otherwise offline, to be sent later with
`wandb sync`."""

from __future__ import annotations

import importlib
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from .files import read_json, reading, write_json
from .progress import console
from .run_dir import RunDir

wandb = importlib.import_module("wandb")  # by name, because type checkers need not have it installed
PATIENCE_S = 30.0


class WeightsAndBiases:
    """One wandb run for one run folder, however often it is resumed; a group's names are `group/name` over
    `group/step`.

    What was logged cannot be withdrawn, so steps that an earlier process logged before it ended are skipped: the
    resumed run repeats them with the same values. After a kill, which leaves no record of them, they appear twice.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings, self._record = folder, dict(settings), RunDir(folder).wandb / "logged.json"
        saved: dict[str, Any] = {"id": uuid.uuid4().hex[:12], "last": {}}
        if self._record.exists():
            saved = read_json(self._record)
        with reading(self._record, "what was logged to Weights & Biases", "delete it, and a new run begins there"):
            self._id = str(saved["id"])
            self._before = {str(group): int(step) for group, step in saved["last"].items()}
        self._last = dict(self._before)
        # Started with the first entry, so that a call with invalid input leaves nothing.
        self._run: Any = None
        self._groups = set[str]()

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        self._log(group, values, step)

    def histogram(self, group: str, name: str, values: Float[np.ndarray, " n"], step: int) -> None:
        self._log(group, {name: wandb.Histogram(values.tolist())}, step)

    def image(self, group: str, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        self._log(group, {name: wandb.Image(picture)}, step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._save_record()

    def _log(self, group: str, values: Mapping[str, Any], step: int) -> None:
        if step <= self._before.get(group, -1):
            return
        if self._run is None:
            self._save_record()
            self._run = self._start()
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._run.log({f"{group}/step": step} | {f"{group}/{name}": value for name, value in values.items()})
        self._last[group] = step

    def _save_record(self) -> None:
        self._record.parent.mkdir(parents=True, exist_ok=True)
        write_json(self._record, {"id": self._id, "last": self._last})

    def _start(self) -> Any:
        def start(mode: Any) -> Any:
            wandb_settings = wandb.Settings(silent=True, console="off", init_timeout=PATIENCE_S)
            return wandb.init(
                project=os.environ.get("WANDB_PROJECT", "astdistill"),
                name=self._folder.name,
                dir=self._folder,
                id=self._id,
                resume="allow" if mode != "offline" else None,
                mode=mode,
                config=self._settings,
                settings=wandb_settings,
            )

        mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
        try:
            run = start(mode)
        except wandb.errors.CommError as error:
            console().print(
                f"The wandb server cannot be reached ({error}); logging offline.", highlight=False, markup=False
            )
            mode, run = "offline", start("offline")
        if mode == "offline":
            console().print(
                f"wandb logs offline; send it later with: wandb sync {run.dir.removesuffix('/files')}", highlight=False
            )
        return run
