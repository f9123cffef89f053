"""Trajectories on disk: one safetensors file per expert, one row of P numbers per epoch, read by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from pydantic import Field, ValidationError, model_serializer
from safetensors import SafetensorError

from ..data.dataset import DataConfig, Dataset
from ..data.preprocessing import Preprocessing
from ..data.synthetic import restored
from ..runtime.config import Record
from ..runtime.errors import FolderGoneError, InputError, unknown
from ..runtime.files import (
    DIGESTS,
    altered_row,
    check_folder,
    has_digests,
    header_digest,
    load_tensors,
    open_tensors,
    parse_json,
    read_json,
    reading,
    save_tensors,
    write_json,
)
from ..runtime.objects import Objects, Url, path_or_url
from ..runtime.seeds import check_seed, to_device
from ..runtime.shapes import Params, Rows
from ..runtime.text import many, printable
from ..runtime.trust import trust_modules
from .cloud import TYPES, CloudFiles
from .partial import MEND, PartialTrajectory
from .recipe import ExpertCurve, ExpertRecipe

FORMAT = 1
RECIPE, PREPROCESSING = "recipe.json", "preprocessing.safetensors"
DIGEST = re.compile("[0-9a-f]{12}")
"""Name of a folder that a store has created: the digest of its identity."""


class StoreIdentity(Record):
    """Everything that an expert's numbers depend on; its digest is the name of the store's folder."""

    recipe: ExpertRecipe
    model: str
    parameters: int = Field(ge=1)
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    fingerprint: str
    """`Dataset.fingerprint` of the data the experts learned from."""
    preprocessing: str
    """`Preprocessing.hash` of that data."""
    seed: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    format: int = FORMAT
    imported: str = ""
    """A digest of all rows, where they were not trained here, so that no training can ever go on in such a store."""

    @model_serializer(mode="wrap")
    def _omit_empty_imported(self, handler: Callable[[Self], dict[str, Any]]) -> dict[str, Any]:
        """Omit an empty `imported`, so that stores of earlier versions keep their names."""
        return {name: value for name, value in handler(self).items() if value or name != "imported"}


@dataclass(frozen=True)
class Segment:
    """The part of a trajectory that one outer step matches: θ*_t as `start` `[P]`, and θ*_{t+1} … θ*_{t+M} as
    `checkpoints` `[M, P]`."""

    expert: int
    """Number of the expert, counted from 0."""
    epoch: int
    """t."""
    start: Params
    """θ*_t `[P]`."""
    checkpoints: Rows
    """θ*_{t+1} … θ*_{t+M} `[M, P]`."""

    def to(self, device: str | torch.device) -> Segment:
        """The same segment on another device.

        Args:
            device: Target device of its tensors, as torch names it.
        """
        return replace(self, start=to_device(self.start, device), checkpoints=to_device(self.checkpoints, device))


class LocalFiles:
    """The files of a store in a folder. `CloudFiles` has the same methods for a store in cloud storage."""

    def __init__(self, folder: Path) -> None:
        self.folder = self.scratch = folder
        """The store, and the folder to which a process writes during training."""

    def described(self, *names: str) -> bool:
        """Whether files with all of these names exist."""
        return all((self.folder / name).exists() for name in names)

    def describe(self, names: Iterable[str], write: Callable[[Path], None]) -> None:
        """Write the files with these names, the last one last, by calling `write` with a folder."""
        write(self.folder)

    def stores(self, name: str) -> list[Path]:
        """The subfolders that contain a file of that name."""
        return sorted(path.parent for path in self.folder.glob(f"*/{name}"))

    def file(self, name: str) -> AbstractContextManager[Path]:
        """A context manager with the path of a file to be read."""
        return nullcontext(self.folder / name)

    def numbers(self) -> list[int]:
        """The numbers of the experts, ascending."""
        paths = self.folder.glob("[0-9][0-9][0-9]*.safetensors")
        return sorted(int(path.stem) for path in paths if path.stem.isdigit())

    def has(self, expert: int) -> bool:
        """Whether the file of that expert exists now."""
        return self.path(expert).exists()

    def path(self, expert: int) -> Path:
        """The file of an expert."""
        return self.folder / f"{expert:03d}.safetensors"

    def opened(self, expert: int) -> Any:
        """The file of an expert, opened by `safe_open`."""
        return open_tensors(self.path(expert)).__enter__()

    def read_ahead(self, draw: Callable[[], object]) -> None:
        """Prefetch what `draw` will read when it is called next; does nothing here, since files are memory-mapped."""

    def check_writable(self) -> None:
        """Raise InputError if nothing can be written, unless writing itself reports it."""

    def fetch(self, expert: int, recipe_epochs: int) -> None:
        """Copy the state from which an expert's training resumes into `scratch`, unless as many epochs are there.
        `recipe_epochs` is the number of epochs of the recipe."""

    def at_work(self, partial: PartialTrajectory) -> AbstractContextManager[None]:
        """A context manager for the training of an expert: after an error the progress is saved for other processes."""
        return nullcontext()

    def save(self, partial: PartialTrajectory) -> None:
        """Save the last epoch of an expert for other processes."""

    def publish(self, expert: int, recipe_epochs: int, folder: Path) -> None:
        """Put the file of an expert from `scratch` into the store; and the state in `folder`, from which its training
        resumes, if it has fewer epochs than `recipe_epochs`."""

    def tidy(self, finished: Iterable[int]) -> None:
        """Remove states that other processes left of these finished experts; does nothing here,
        `PartialTrajectory.sweep` removes them."""


@dataclass(frozen=True)
class TrajectoryStore:
    """A folder of experts that were trained by the same recipe, or an address of their objects."""

    folder: Path
    """The folder of this store, named by the digest of its identity, or its address."""
    identity: StoreIdentity
    """What the experts are: recipe, network, data, seed."""
    limit: int | None = None
    """Use only the first `limit` experts."""
    until: int | None = None
    """Use only the rows up to this epoch; None means the largest epoch that every expert has."""
    chosen: tuple[int, ...] | None = None
    """Use exactly these experts, even if others are added later; None means all existing ones, up to the limit."""
    _open: dict[int, Any] = field(default_factory=dict, repr=False, compare=False)
    _sums: dict[int, list[str]] = field(default_factory=dict, repr=False, compare=False)
    _files: list[LocalFiles | CloudFiles] = field(default_factory=list, repr=False, compare=False)
    _seen: list[int] = field(default_factory=list, repr=False, compare=False)

    @property
    def files(self) -> LocalFiles | CloudFiles:
        """Access to the files of the store."""
        if not self._files:
            self._files.append(files_at(self.folder))
        return self._files[0]

    @property
    def scratch(self) -> Path:
        """The local folder for files of the store: its own folder, or one in the cache."""
        return self.files.scratch

    @staticmethod
    def create(root: Path, identity: StoreIdentity, data: DataConfig, preprocessing: Preprocessing) -> TrajectoryStore:
        """The store of `identity` under `root`, created if it does not exist.

        Args:
            root: The parent folder of the store.
            identity: The identity of the experts.
            data: The configuration of the data that they learn from.
            preprocessing: Preprocessing of the same data.
        """
        folder = root / identity.digest()
        files = files_at(folder)
        if not files.described(RECIPE, PREPROCESSING):
            names = PREPROCESSING, RECIPE
            files.describe(names, lambda target: describe_store(target, identity, data, preprocessing))
        return TrajectoryStore.open(folder)

    @staticmethod
    def open(folder: str | Path, limit: int | None = None, trust: str | Sequence[str] = ()) -> TrajectoryStore:
        """The store in `folder`.

        Args:
            folder: The store itself, or a folder that holds this one store; or the address of one, as s3://BUCKET/FOLDER.
            limit: Use only the first `limit` experts. None: all.
            trust: Modules of other packages that the store may name, as `package.module`; one, or several.

        Raises:
            InputError: There is no store, or `folder` holds several.
        """
        trust_modules(trust)
        folder = path_or_url(folder)
        if not files_at(folder).described(RECIPE):
            folder = _only_store(folder)
        recipe, files = folder / RECIPE, files_at(folder)
        try:
            with files.file(RECIPE) as file:
                identity = StoreIdentity.model_validate(read_json(file).get("identity"))
        except ValidationError as error:
            first = error.errors()[0]
            location = ".".join(map(str, first["loc"])) or "identity"
            raise InputError(
                f"{recipe} does not describe experts ({location}: {first['msg']}); move {folder} away and train again."
            ) from error
        if DIGEST.fullmatch(folder.name) and folder.name != identity.digest():
            raise InputError(
                f"{recipe} was changed after it was written: it describes experts of a folder {identity.digest()}; "
                f"{MEND}, or give the folder this name again if you renamed it."
            )
        return TrajectoryStore(folder, identity, limit, _files=[files])

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the data that the experts learned from."""
        with self.files.file(PREPROCESSING) as path:
            tensors, header = load_tensors(path, mend=MEND)
            return restored(path, header.get("preprocessing"), tensors)

    def drawn(self, generator: torch.Generator) -> int:
        """Draw the number of a finished expert, each with equal probability.

        Args:
            generator: CPU generator of the draw.
        """
        numbers = self.experts()
        return numbers[int(torch.randint(len(numbers), (), generator=generator))]

    def experts(self) -> list[int]:
        """The numbers of the finished experts, ascending, up to the limit.

        Raises FolderGoneError if an expert that existed before is gone: draws among fewer experts would silently
        differ.
        """
        numbers = self.files.numbers()
        gone = sorted(set(self._seen) - set(numbers))
        if gone:
            raise FolderGoneError(
                f"Expert {gone[0]} of {self.folder} was deleted or moved while it was in use; put it back, or run the "
                "same command again, which trains it anew. Finished work is kept."
            )
        self._seen[:] = numbers
        if self.chosen is not None:
            return list(self.chosen)
        return numbers[: self.limit]

    def first(self, count: int) -> TrajectoryStore:
        """The same store, fixed to its first `count` experts and their current epochs, whatever other processes add.
        Raises InputError if it has fewer.

        Args:
            count: Number of experts, 1 or more.
        """
        if count > len(self):
            raise InputError(
                f"{count} experts were asked for, but {self.folder} holds {len(self)}; "
                f"train more, or lower --distill.max-experts."
            )
        fixed = replace(self, limit=count, chosen=tuple(self.experts()[:count]))
        return replace(fixed, until=fixed.epochs)

    def __getstate__(self) -> dict[str, Any]:
        """State for another process, which opens the files itself."""
        return vars(self) | {"_open": {}, "_sums": {}}

    def __repr__(self) -> str:
        """One line: finished experts, network, folder."""
        return f"TrajectoryStore({many(len(self), 'expert')}, {self.identity.model}, {self.folder})"

    def __len__(self) -> int:
        return len(self.experts())

    @property
    def epochs(self) -> int:
        """The last epoch that is read of each trajectory: E, or fewer if training stopped before (`train_experts`,
        `stop_after`)."""
        if self.until is not None:
            return self.until
        return min((self.trained_epochs(expert) for expert in self.experts()), default=self.identity.recipe.epochs)

    def trained_epochs(self, expert: int) -> int:
        """Number of epochs in the file of one expert; 0 if there is no file. It is read again on each call, since
        another process may train the expert further.

        Args:
            expert: Number of the expert, counted from 0.
        """
        if not self.files.has(expert):
            return 0
        with self._reading(self.path(expert)), self.files.opened(expert) as file:
            return file.get_slice("rows").get_shape()[0] - 1

    def path(self, expert: int) -> Path:
        """The file of one expert, or its object.

        Args:
            expert: Number of the expert, counted from 0.
        """
        return self.files.path(expert)

    def read_ahead(self, draw: Callable[[], object]) -> None:
        """Read the rows that `draw` will read in a background thread, so that they are available when it is called
        next; does nothing if the store is a folder.

        Args:
            draw: The function that is called next, such as the one that draws the next segment.
        """
        self.files.read_ahead(draw)

    def rows(self, expert: int, first: int, last: int) -> Rows:
        """Rows `first` … `last` − 1 of one expert, `[last − first, P]` float32: only their bytes are read from disk.

        Args:
            expert: Number of the expert, counted from 0.
            first: The first row; row e is θ after epoch e, row 0 the initialisation.
            last: The row after the last one.

        Raises:
            InputError: The file does not have these rows, or was changed after it was written.
        """
        handle = self._handle(expert)
        rows = handle.get_slice("rows")
        count = rows.get_shape()[0]
        if not 0 <= first < last <= count:
            raise InputError(
                f"Rows {first} to {last - 1} of expert {expert} were asked for, but {self.path(expert)} "
                f"holds rows 0 to {count - 1}."
            )
        # A copy: float32 rows would be views of the mapped file, and writing into them would change every later read.
        segment = rows[first:last].clone()
        digests = self._sums.get(expert)
        if digests and (altered := altered_row(segment, digests[first:last])) is not None:
            raise InputError(
                f"{self.path(expert)} was changed after it was written: row {first + altered} of expert {expert} does "
                f"not match its digest; {self._repair_advice}."
            )
        return segment.to(torch.float32)

    @property
    def _repair_advice(self) -> str:
        """Advice for a message about an expert's file that was changed after it was written."""
        if self.identity.imported:
            return f"delete the folder {self.folder} and import the experts again: astdistill import-buffers"
        return f"{MEND}, or train that expert with: astdistill experts PRESET"

    def _checked_digests(self, path: Path, file: Any, expert: int) -> list[str]:
        """Digests of all rows of a file; empty for a file of an earlier version. Raises InputError if its header was
        changed after it was written."""
        metadata = file.metadata() or {}
        if not has_digests(metadata):
            return []
        rows, written = file.get_slice("rows"), None
        shape = [str(TYPES.get(rows.get_dtype())), rows.get_shape()]
        try:
            recorded = parse_json(metadata[DIGESTS])
            written, digests = recorded["tensors"]["rows"], recorded["tensors"]
            valid = recorded["header"] == header_digest({"rows": shape}, metadata, digests)
        except (ValueError, KeyError, TypeError):
            valid = False
        if not valid:
            raise InputError(
                f"{path} was changed after it was written: the header of expert {expert} does not match "
                f"its digest; {self._repair_advice}."
            )
        if isinstance(written, list):
            return written
        return []

    def segment(self, expert: int, epoch: int, length: int) -> Segment:
        """The segment of `length` epochs of one expert that starts at `epoch`.

        Args:
            expert: Number of the expert, counted from 0.
            epoch: t, the epoch after which it starts; 0 is the initialisation.
            length: M, in epochs.
        """
        rows = self.rows(expert, epoch, epoch + length + 1)
        return Segment(expert, epoch, rows[0], rows[1:])

    def curves(self, last: int | None = None) -> list[ExpertCurve]:
        """The training curves of each expert.

        Args:
            last: The last epoch, of those that the files hold. Default: `epochs`.
        """
        return [self._curve(expert, self.epochs if last is None else last) for expert in self.experts()]

    def _curve(self, expert: int, last: int) -> ExpertCurve:
        """The training curves of one expert, up to epoch `last`."""
        path = self.path(expert)
        with self._reading(path):
            curves = parse_json(self._handle(expert).metadata()["curves"])
            curves = {name: [float(value) for value in values][:last] for name, values in curves.items()}
        with self._reading(path):
            return ExpertCurve(**curves)

    def _handle(self, expert: int) -> Any:
        if expert not in self._open:
            path = self.path(expert)
            with self._reading(path):
                file = self.files.opened(expert)
                self._sums[expert] = self._checked_digests(path, file, expert)
                self._check_rows(path, file)
            self._open[expert] = file
        return self._open[expert]

    @staticmethod
    @contextmanager
    def _reading(path: Path) -> Iterator[None]:
        with reading(path, "a whole trajectory", MEND):
            try:
                yield
            except (SafetensorError, OSError) as error:
                reason = printable(str(error))[:200]
                raise InputError(f"{path} is not a whole trajectory ({reason}); {MEND}.") from error

    def _check_rows(self, path: Path, file: Any) -> None:
        """Raise InputError unless the file has one row for each epoch of the recipe, or for each epoch of its curves if
        these reach `until`."""
        rows = file.get_slice("rows")
        shape, curves = rows.get_shape(), parse_json((file.metadata() or {}).get("curves", "{}"))
        whole, trained = self.identity.recipe.epochs, len(curves.get("step_squared", ()))
        epochs = whole
        if (self.until or 1) <= trained <= whole:
            epochs = trained
        expected = [epochs + 1, self.identity.parameters]
        if rows.get_dtype() not in TYPES:
            raise InputError(
                f"{path} holds rows of {rows.get_dtype()}, where one of {', '.join(TYPES)} is expected; {MEND}."
            )
        if shape == [trained + 1, self.identity.parameters] and 0 < trained < (self.until or 0):
            raise InputError(
                f"{path} is trained for {trained} of {self.until} epochs; run the same command without "
                "--shard, or for the shard of this expert, to train it further."
            )
        if shape != expected:
            raise InputError(f"{path} holds rows of shape {shape} where {expected} is expected; {MEND}.")


def files_at(folder: Path) -> LocalFiles | CloudFiles:
    """The files of the store in a folder or at an address."""
    if isinstance(folder, Url):
        return CloudFiles(folder)
    return LocalFiles(folder)


def check_root(root: Path) -> None:
    """Raise InputError if no stores can be created in this folder, or at this address, or if it is a store itself."""
    if isinstance(root, Url):
        is_store = RECIPE in Objects(root).check()
    else:
        check_folder(root, "--experts.store")
        is_store = (root / RECIPE).exists()
    if is_store:
        raise InputError(
            f"--experts.store {root} is a store itself, and others belong beside it; use its experts as they are with "
            f"--experts.store {root.parent} --experts.imported {root.name}."
        )


def _only_store(root: Path) -> Path:
    """The only store below a folder. Raises InputError if there is none, or if there are several."""
    stores = files_at(root).stores(RECIPE)
    if len(stores) == 1:
        return stores[0]
    found = "no expert store"
    if stores:
        found = f"{len(stores)} stores ({', '.join(path.name for path in stores)})"
    raise InputError(
        f"{root} holds {found}; name one folder with a recipe.json, or train some with: astdistill experts PRESET"
    )


def describe_store(folder: Path, identity: StoreIdentity, data: DataConfig, preprocessing: Preprocessing) -> None:
    """Write the files that make a folder of trajectories a store; `recipe.json` is written last."""
    save_tensors(folder / PREPROCESSING, preprocessing.tensors(), {"preprocessing": preprocessing.describe()})
    write_json(folder / RECIPE, {"identity": identity.to_json(), "data": data.to_json()})


def identity_of(
    dataset: Dataset,
    recipe: ExpertRecipe,
    model: str,
    parameters: int,
    seed: int,
    dtype: Literal["float32", "bfloat16"],
) -> StoreIdentity:
    """The identity of experts of `model` trained on `dataset` by `recipe`. Raises InputError for a seed or a dtype that
    a store cannot have."""
    check_seed(seed)
    dtypes = get_args(StoreIdentity.model_fields["dtype"].annotation)
    if dtype not in dtypes:
        raise unknown("dtype of stored experts", dtype, dtypes)
    return StoreIdentity(
        recipe=recipe,
        model=model,
        parameters=parameters,
        shape=dataset.shape,
        classes=dataset.classes,
        fingerprint=dataset.fingerprint,
        preprocessing=dataset.preprocessing.hash,
        seed=seed,
        dtype=dtype,
    )
