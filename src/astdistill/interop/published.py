"""Distilled sets by name: those that come with the package, and those on the Hugging Face hub."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.scores import Scores, SetInfo
from ..runtime.errors import InputError, unknown
from ..runtime.files import new_folder, write_text
from ..runtime.run_dir import RunDir
from ..runtime.status import size
from ..runtime.tables import ABSENT, Column, Tabulation
from ..runtime.text import in_one_line
from . import huggingface
from .distilled import Distilled, load

HUB = "hf:"
"""Prefix of the names of sets on the hub."""
SUFFIX = ".safetensors"
SCORES = ".scores.json"
"""Suffixes of a set's files in a folder of sets: the set itself, and the scores of its evaluation."""
FROM_HUB = (RunDir.synthetic, RunDir.scores, RunDir.images)
"""The files of `astdistill export --format huggingface` that are read."""
COLUMNS = ("set", "data", "images", "stored", "labels", "accuracy, %")


def sets_folder() -> Path:
    """The sets that come with the package: inside it in a wheel, docs/sets in a checkout."""
    packed = Path(__file__).with_name("sets")
    if packed.is_dir():
        return packed
    return Path(__file__).parents[3] / "docs" / "sets"


@dataclass(frozen=True)
class PublishedSet:
    """A published distilled set: the paths of its files, and the scores that are expected of it."""

    name: str
    """The name for `astdistill.get`."""
    path: Path
    """The file of the set."""
    scores_path: Path
    """The scores of its evaluation, if there is such a file."""
    picture: Path
    """The picture of its images, if there is such a file."""

    def load(self) -> Distilled:
        """The set. Raises InputError for a file that is damaged."""
        return load(self.path)

    def scores(self) -> Scores | None:
        """The measured scores with their protocol; None where there are none. Raises InputError for a damaged file, and
        for the scores of another set."""
        if not self.scores_path.is_file():
            return None
        scores = Scores.read(self.scores_path)
        if not scores.are_of(self.load()):
            raise InputError(
                f"{self.scores_path} holds the scores of another set than {self.path}; take both files from one place."
            )
        return scores

    def card(self, folder: str | Path) -> str:
        """A description of the set in Markdown: figures, the command that measures them again, how it was made.

        Args:
            folder: The folder of the set in that command.
        """
        return huggingface.described(self.load(), self.scores(), folder, self.picture.is_file())

    def copy(self, folder: str | Path) -> Path:
        """Copy the set, its scores, its picture and its card into a new `folder`, named as in a run folder; returns it.

        Args:
            folder: A new folder, or an empty one.
        """
        destination = Path(folder)
        card = self.card(destination)  # reads all files, and refuses damaged ones
        with new_folder(destination) as temporary:
            run = RunDir(temporary)
            for source, target in (
                (self.path, run.synthetic), (self.scores_path, run.scores), (self.picture, run.images),
            ):  # fmt: skip
                if source.is_file():
                    shutil.copyfile(source, target)
            write_text(temporary / "README.md", card)
        return destination


def zoo(folder: str | Path | None = None) -> dict[str, PublishedSet]:
    """The sets that come with the package, by name. A file NAME.safetensors is a set, NAME.scores.json its
    scores, NAME.png its picture.

    Args:
        folder: Another folder of such files. None: the package's own.
    """
    root = sets_folder()
    if folder is not None:
        root = Path(folder)
        if not root.is_dir():
            raise InputError(f"There is no folder {root}; name one that holds sets such as NAME{SUFFIX}.")
    names = sorted(path.name.removesuffix(SUFFIX) for path in root.glob(f"*{SUFFIX}") if path.is_file())
    return {
        name: PublishedSet(name, root / f"{name}{SUFFIX}", root / f"{name}{SCORES}", root / f"{name}.png")
        for name in names
    }


def find(name: str, folder: str | Path | None = None) -> PublishedSet:
    """The set called `name`: one of `zoo(folder)`, or hf:OWNER/REPO of the hub, with @REVISION for a certain version.

    Raises InputError for an unknown name, with the nearest ones, and where the hub does not provide the set.
    """
    if name.startswith(HUB):
        return _from_hub(name)
    sets = zoo(folder)
    if name not in sets:
        raise unknown("distilled set", name, sets, context=f"(a set on the hub is {HUB}OWNER/REPO)")
    return sets[name]


def get(name: str, folder: str | Path | None = None) -> Distilled:
    """The published distilled set called `name`, ready to train networks.

    Args:
        name: One of `zoo()`, or hf:OWNER/REPO for a set on the Hugging Face hub that `astdistill.export` wrote;
            hf:OWNER/REPO@REVISION for a certain version of it.
        folder: Another folder of sets. None: the package's own.

    Raises:
        InputError: For an unknown name, for a file that is damaged, and where the hub does not provide the set.
    """
    return find(name, folder).load()


def _from_hub(name: str) -> PublishedSet:
    """Download a set from the hub, once, into the hub's own cache."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        run = RunDir(
            snapshot_download(repository, repo_type="dataset", revision=revision or None, allow_patterns=list(FROM_HUB))
        )
    except Exception as error:  # each version of the library has another HTTP client, with its own errors
        raise InputError(
            f"'{name}' cannot be read from the Hugging Face hub ({type(error).__name__}: {in_one_line(error)}); "
            f"check name and network, or name one of the package's own sets: astdistill get"
        ) from error
    if not run.synthetic.is_file():
        raise InputError(
            f"'{name}' holds no {RunDir.synthetic}, so it is no distilled set that astdistill wrote; to use it as real "
            f"data: --data {repository}"
        )
    return PublishedSet(name, run.synthetic, run.scores, run.images)


def expected(scores: Scores | None) -> tuple[str, str]:
    """The accuracy of a set and the name of its protocol, for a table."""
    if scores is None:
        return ABSENT, "not evaluated"
    return next(iter(scores.architecture.values())).text, scores.recipe.name


def listing(sets: Mapping[str, PublishedSet]) -> Tabulation:
    """A table of sets; a damaged set is a row with a note."""
    rows, notes = [], []
    for name, each in sets.items():
        try:
            rows.append((name, *_cells(each)))
        except InputError as error:
            notes.append(str(error))
            rows.append((f"{name} [{len(notes)}]", *(ABSENT for _ in COLUMNS[1:])))
    text_columns = ("set", "data", "labels")
    columns = tuple(
        Column(name, left_aligned=name in text_columns, bold=name == "accuracy, %", no_wrap=name == "set")
        for name in COLUMNS
    )
    caption = (
        "Images: classes × images per class. Test accuracy, with its protocol.\n"
        "To copy one of them: astdistill get NAME"
    )
    return Tabulation(columns, tuple(rows), caption, "Distilled sets", tuple(notes))


def _cells(each: PublishedSet) -> tuple[str, ...]:
    synthetic, scores = each.load(), each.scores()
    info = SetInfo.of(synthetic)
    images, stored = f"{len(synthetic.classes)} × {info.ipc}", size(synthetic.stored_bytes)
    accuracy, protocol = expected(scores)
    return info.data, images, stored, info.labels, f"{accuracy} ({protocol})"
