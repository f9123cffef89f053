"""Expert trajectories of other code bases, imported into a store: `replay_buffer_*.pt` of MTT, FTD, TESLA, DATM and
AST."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ..autodiff.training import accuracy
from ..data.dataset import Dataset
from ..data.digests import tensor_digest
from ..experts.recipe import ExpertCurve, ExpertRecipe
from ..experts.store import StoreIdentity, TrajectoryStore, describe_store, identity_of
from ..models.convnets import MAX_DEPTH
from ..models.flat import FlatModel
from ..models.registry import build_model, model_names
from ..runtime.config import digest
from ..runtime.errors import InputError
from ..runtime.files import check_folder, load_tensors, lock, save_tensors
from ..runtime.progress import Bar, bar, console
from ..runtime.seeds import rng
from ..runtime.shapes import Rows
from ..runtime.trust import trust_models
from .import_sets import read_pickle

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """The parameter tensors of a network, in the order of `named_parameters`, which is that of θ."""

    model: str
    image: tuple[int, int, int]
    classes: int
    names: tuple[str, ...]
    shapes: tuple[Shape, ...]

    @staticmethod
    def of(model: str, image: tuple[int, int, int], classes: int) -> Layout:
        """The layout of `model` for images of shape (C, H, W). Raises InputError for a network with state besides its
        parameters."""
        named = dict(FlatModel(build_model(model, image, classes)).module.named_parameters())
        return Layout(model, image, classes, tuple(named), tuple(tuple(part.shape) for part in named.values()))

    @property
    def parameters(self) -> int:
        """P."""
        return sum(torch.Size(shape).numel() for shape in self.shapes)

    def check(self, shapes: Sequence[Shape], source: str) -> None:
        """Raise InputError, which names a network that fits if there is one, unless `shapes` are the network's."""
        if tuple(shapes) == self.shapes:
            return
        channels, height, width = self.image
        expected = f"'{self.model}' for {self.classes} classes of {channels}×{height}×{width} images"
        raise InputError(f"{source} {self._difference(shapes)} of {expected}; {self._remedy(shapes)}")

    def _difference(self, shapes: Sequence[Shape]) -> str:
        for number, (name, expected, actual) in enumerate(zip(self.names, self.shapes, shapes, strict=False)):
            if expected != actual:
                return f"has shape {list(actual)} in tensor {number}, which is not the {list(expected)} of '{name}'"
        return f"has {len(shapes)} tensors, which are not the {len(self.shapes)}"

    def _remedy(self, shapes: Sequence[Shape]) -> str:
        fits = fitting_model(shapes, self.image, self.classes)
        if fits:
            larger = ""
            if "nopool" in fits:
                larger = ", or the size of larger images with --data.size"
            return f"give --model {fits}, which has these shapes{larger}."
        outputs = shapes[-1][0] if shapes and shapes[-1] else 0
        if outputs and outputs != self.classes:
            return (
                f"these experts seem to tell {outputs} classes apart: "
                "name the data that they learned from with --data and --data.*."
            )
        return (
            "name the network with --model, "
            "and the data and the image size that it learned from with --data and --data.size."
        )


def fitting_model(shapes: Sequence[Shape], image: tuple[int, int, int], classes: int) -> str | None:
    """The first of our networks whose parameters have these shapes, or None. Norms with the same shapes are not
    distinguished."""
    if not shapes or not shapes[0]:
        return None
    for name in _candidates(shapes[0][0]):
        try:
            with torch.device("meta"):
                network = build_model(name, image, classes)
        except InputError:  # there is no such network for images of this size
            continue
        if [tuple(part.shape) for part in network.parameters()] == list(shapes) and not any(
            True for _ in network.buffers()
        ):
            return name
    return None


def _candidates(width: int) -> Iterator[str]:
    """ConvNets of every depth whose first layer has `width` channels, then the other families."""
    width_suffix = f"-w{width}"
    if width == 128:
        width_suffix = ""
    for pooling in ("", "-nopool"):
        for norm in ("", "-nonorm"):
            yield from (f"convnet-d{depth}{width_suffix}{norm}{pooling}" for depth in range(1, MAX_DEPTH + 1))
    yield from (name for name in model_names() if ":" not in name and not name.startswith("convnet"))


NAME = "replay_buffer_"
Expert = Sequence[Sequence[Tensor]]
"""Rows of one expert, each the parameter tensors of its network."""


@dataclass(frozen=True)
class Buffer:
    """One file, and the number of rows of each expert in it."""

    path: Path
    rows: tuple[int, ...]

    @staticmethod
    def survey(path: Path, layout: Layout) -> Buffer:
        """Read a file and check its nesting, the shape of every tensor, and that the rows of each expert differ."""
        rows = []
        for number, expert in enumerate(_read_experts(path)):
            location = f"expert {number} of {path}"
            for row in expert:
                layout.check([tuple(part.shape) for part in row], location[0].upper() + location[1:])
            _check_rows_differ(expert, location)
            rows.append(len(expert))
        return Buffer(path, tuple(rows))


def import_buffers(
    source: str | Path | Sequence[str | Path],
    dataset: Dataset,
    *,
    model: str = "convnet-d3",
    recipe: ExpertRecipe | None = None,
    store: str | Path = "experts",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> TrajectoryStore:
    """Import the experts of all files in `source` into a store in a new folder under `store`.

    Where experts have different numbers of rows, the store keeps as many of each as the shortest has. One file is in
    memory at a time. An import that was stopped resumes when it is called again, and the same experts are not stored
    twice.

    Args:
        source: A folder of `replay_buffer_*.pt`, or one such file, or files in their order.
        dataset: The data that the experts were trained on, preprocessed in the same way.
        model: Their network, as `build_model` takes it.
        recipe: How they were trained, as far as that is known; its epochs are those found. None: `ExpertRecipe()`.
        store: The folder in which the folder of the new store is created.
        dtype: How parameters are kept on disk: "float32", 4 bytes each, or "bfloat16", 2.

    Returns:
        The store, open for reading.

    Raises:
        InputError: With nothing written, for files that hold anything but tensors in lists, for other shapes than the
            network's, and for experts whose rows are all equal or not finite.
    """
    trust_models(model)
    files, root = buffer_files(source), Path(store)
    check_folder(root, "--store")
    layout = Layout.of(model, dataset.shape, len(dataset.classes))
    buffers = [Buffer.survey(file, layout) for file in files]
    lengths = [count for buffer in buffers for count in buffer.rows]
    if max(lengths) > min(lengths):
        console().print(
            f"Experts have {min(lengths)} to {max(lengths)} rows; the first {min(lengths)} of each are kept.",
            highlight=False,
        )
    recipe = (recipe or ExpertRecipe()).replace(epochs=min(lengths) - 1)
    identity = identity_of(dataset, recipe, model, layout.parameters, 0, dtype)
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    with _import_folder(root, digest([identity.to_json(), stamps])) as folder:
        identity = identity.replace(imported=digest(_write(buffers, folder, identity)))
        describe_store(folder, identity, dataset.config, dataset.preprocessing)
        finished = root / identity.digest()
        if not (finished / "recipe.json").exists():
            (folder / ".lock").unlink()
            folder.rename(finished)
    return TrajectoryStore.open(finished)


def buffer_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files to read, in the order of their numbers. Raises InputError where there are none."""
    if not isinstance(source, str | Path):
        files = [Path(each) for each in source]
        if len(files) == 1 and files[0].is_dir():
            return buffer_files(files[0])
        if not files:
            raise InputError(f"No buffer was named; name a folder of {NAME}*.pt, or its files.")
        return files
    folder = Path(source)
    if not folder.is_dir():
        return [folder]
    numbered = {path.stem.removeprefix(NAME): path for path in folder.glob(f"{NAME}*.pt")}
    files = [numbered[number] for number in sorted(filter(str.isdigit, numbered), key=int)]
    if not files:
        found = sorted(path.name for path in folder.glob("*.pt"))
        advice = "files of other names are named one by one"
        if "images_best.pt" in found:
            advice = "a distilled set is read with: astdistill import-set"
        raise InputError(f"{folder} holds no {NAME}0.pt (it has {', '.join(found[:5]) or 'no .pt file'}); {advice}.")
    return files


def last_accuracy(store: TrajectoryStore, dataset: Dataset, images: int = 1000) -> float:
    """The accuracy in percent of the first expert's last row on some test images of `dataset`: near chance where those
    are not its data."""
    order = torch.randperm(len(dataset.test), generator=rng(0, "imported"))[:images]
    network = FlatModel(build_model(store.identity.model, dataset.shape, len(dataset.classes)))
    theta = store.rows(store.experts()[0], store.epochs, store.epochs + 1)[0]
    return accuracy(partial(network, theta), dataset.test.to("cpu").select(order))


def _read_experts(path: Path) -> list[Expert]:
    """The experts of one file. Raises InputError where it is no list of lists of lists of tensors."""
    experts: Any = read_pickle(path)
    form = f"{path} is not a list of experts, each a list of rows, each a list of tensors"
    remedy = "name files that buffer.py of MTT or a successor wrote"
    if not isinstance(experts, list) or not experts or not all(isinstance(expert, list | tuple) for expert in experts):
        raise InputError(f"{form}, but a {type(experts).__name__}; {remedy}.")
    for number, expert in enumerate(experts):
        rows = [
            row for row in expert if isinstance(row, list | tuple) and all(isinstance(part, Tensor) for part in row)
        ]
        if len(rows) < len(expert):
            raise InputError(f"{form} (expert {number} holds other things); {remedy}.")
        if len(expert) < 2:
            raise InputError(
                f"Expert {number} of {path} has {len(expert)} row(s) and so no epoch to match; leave its file out."
            )
    return experts


def _check_rows_differ(expert: Expert, location: str) -> None:
    """Raise InputError when all rows are the same."""
    first, *others = expert
    if all(torch.equal(part, other) for row in others for part, other in zip(first, row, strict=True)):
        raise InputError(
            f"The {len(expert)} rows of {location} are all equal, so that there is nothing to match: p.detach().cpu() "
            "does not copy on a CPU, and every row became the end of the training; "
            "train these experts again, with astdistill experts PRESET, or with .clone()."
        )


@contextlib.contextmanager
def _import_folder(root: Path, key: str) -> Iterator[Path]:
    """The temporary folder of an import: kept if the import is stopped, removed when it is done or its files are
    refused."""
    folder, new = root / f".{key}.importing", not root.exists()
    with lock(folder / ".lock", wait=False) as held:
        if not held:
            raise InputError(
                f"Another process is importing these files into {root}; wait for it, or name another --store."
            )
        try:
            yield folder
        except InputError:
            _remove(folder, root if new else None)
            raise
        _remove(folder, None)


def _remove(folder: Path, root: Path | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if root is not None:
        with contextlib.suppress(OSError):  # another process has written to it meanwhile
            root.rmdir()


def _write(buffers: Sequence[Buffer], folder: Path, identity: StoreIdentity) -> list[str]:
    """Write every expert that is not written yet; returns the digests of all."""
    for unfinished in folder.glob(".*.tmp"):
        unfinished.unlink()
    paths = [folder / f"{number:03d}.safetensors" for number in range(sum(len(buffer.rows) for buffer in buffers))]
    remaining = iter(paths)
    with bar("importing experts", len(paths), sum(path.exists() for path in paths)) as progress:
        for buffer in buffers:
            _write_file(buffer, list(islice(remaining, len(buffer.rows))), identity, progress)
    return [_content_digest(path) for path in paths]


def _write_file(buffer: Buffer, paths: Sequence[Path], identity: StoreIdentity, progress: Bar) -> None:
    """Write the experts of one file that are not written yet; the file is released at the end."""
    written = [_is_complete(path) for path in paths]
    if all(written):
        return
    for number, (expert, path, is_written) in enumerate(zip(_read_experts(buffer.path), paths, written, strict=True)):
        if is_written:
            continue
        rows = torch.stack([_flat_row(row) for row in expert[: identity.recipe.epochs + 1]])
        if not bool(rows.isfinite().all()):
            epoch = int((~rows.isfinite()).any(dim=1).nonzero()[0])
            raise InputError(
                f"Row {epoch} of expert {number} of {buffer.path} holds numbers that are not finite; "
                "leave its file out."
            )
        steps = [float(step.double().square().sum()) for step in rows.diff(dim=0)]
        header = {
            "source": {"file": buffer.path.name, "expert": number},
            "content": tensor_digest(rows),
            "curves": vars(ExpertCurve(step_squared=steps)),
        }
        save_tensors(path, {"rows": rows.to(getattr(torch, identity.dtype))}, header, by_row=["rows"])
        progress.step()


def _content_digest(path: Path) -> str:
    return str(load_tensors(path)[1]["content"])


def _is_complete(path: Path) -> bool:
    """Whether an earlier, stopped import has written the file completely."""
    try:
        return path.exists() and bool(_content_digest(path))
    except (InputError, KeyError):
        return False


def _flat_row(parts: Sequence[Tensor]) -> Rows:
    return torch.cat([part.detach().reshape(-1).float() for part in parts])
