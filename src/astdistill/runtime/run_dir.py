"""Whose a run folder is: it belongs to one experiment, and only that one may go on in it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .config import by_todays_names
from .errors import InputError
from .files import check_folder, load_tensors, read_json, write_json
from .provenance import provenance

FREE = (
    "data.source",
    "data.image_column",
    "data.label_column",
    "data.memory",
    "device",
    "engine",
    "distill.checkpoint_seconds",
    "distill.iterations",
    "distill.max_passes",
    "distill.max_skips",
    "distill.snapshots",
    "evaluation",
    "experts.stop_after",
    "experts.store",
    "published",
    "workers",
)
"""What may change between two calls of one run; that the data are the same wherever they lie is seen by their
fingerprint."""


def claim(
    settings: dict[str, Any],
    fingerprint: str,
    out: Path,
    device: str,
    read: Callable[[Any], dict[str, Any]] = by_todays_names,
) -> None:
    """Write config.json and provenance.json of a run on the data of `fingerprint`.

    `read` gives what a config.json that is there already says, by the names of today.

    Asking for more iterations, another evaluation or another place of data and experts continues the same run. Raises
    InputError, with nothing written, when the folder holds a run of other settings or data, one that is further
    already, or other things.
    """
    check_folder(out, "--out")
    if (out / "config.json").exists():
        _check_settings(settings, read(read_json(out / "config.json")), out)
        _check_progress(settings, out)
        _check_data(fingerprint, out)
    elif out.exists() and any(not path.name.endswith(".tmp") for path in out.iterdir()):
        raise InputError(f"{out} is not empty and holds no run; name a new folder with --out.")
    # The configuration comes first: a folder that holds it is known as this run's, whatever happens before the next
    # file.
    write_json(out / "config.json", settings)
    _add_provenance(out / "provenance.json", {**provenance(device), "data": fingerprint})


def _check_settings(settings: dict[str, Any], written: dict[str, Any], out: Path) -> None:
    before, now = _flat(written), _flat(settings)
    changed = [
        name
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name) and not name.startswith(FREE)
    ]
    if changed:
        name = changed[0]
        raise InputError(
            f"{out} holds a run with other settings ({name} was {before.get(name)!r}, now {now.get(name)!r}); name a "
            f"new folder with "
            f"--out, or delete that one."
        )


def _check_progress(settings: dict[str, Any], out: Path) -> None:
    state = out / "state.safetensors"
    done = load_tensors(state)[1]["counters"]["iteration"] if state.exists() else 0
    if done > settings["distill"]["iterations"]:
        raise InputError(
            f"{out} has {done} iterations already, {settings['distill']['iterations']} were asked for; ask for more, "
            f"or name another --out."
        )


def _check_data(fingerprint: str, out: Path) -> None:
    place = out / "provenance.json"
    before = read_json(place).get("data", fingerprint) if place.exists() else fingerprint
    if before != fingerprint:
        raise InputError(
            f"{out} was run on other data (fingerprint {before}, now {fingerprint}); name a new folder with --out."
        )


def _add_provenance(path: Path, now: dict[str, Any]) -> None:
    """Keep where the run began, and each different place where it was resumed."""
    first = read_json(path) if path.exists() else now | {"resumed": []}
    known = [{name: place.get(name) for name in now} for place in (first, *first["resumed"])]
    if now not in known:
        first["resumed"].append(now)
    write_json(path, first)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {name: leaf for key, inner in value.items() for name, leaf in _flat(inner, f"{prefix}{key}.").items()}
    return {prefix.rstrip("."): value}
