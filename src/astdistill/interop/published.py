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
"""What the name of a set on the hub begins with."""
SUFFIX = ".safetensors"
SCORES = ".scores.json"
"""The ends of a set's files in a folder of sets: the set itself, and what an evaluation of it found."""
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
    """A distilled set that somebody has published: where its files lie, and what is expected of it."""

    name: str
    """As `astdistill.get` takes it."""
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
        """What was measured, with the protocol; None where nothing was. Raises InputError for a damaged file, and for
        the scores of another set."""
        if not self.scores_path.is_file():
            return None
        scores = Scores.read(self.scores_path)
        if not scores.are_of(self.load()):
            raise InputError(
                f"{self.scores_path} holds the scores of another set than {self.path}; take both files from one place."
            )
        return scores

    def card(self, folder: str | Path) -> str:
        """What is known of the set, as Markdown: figures, the command that measures them again, how it was made.

        Args:
            folder: Where the set lies for that command.
        """
        return huggingface.described(self.load(), self.scores(), folder, self.picture.is_file())

    def copy(self, folder: str | Path) -> Path:
        """The new `folder`, which holds the set, its scores, its picture and its card as a run's folder does.

        Args:
            folder: A new folder, or an empty one.
        """
        place = Path(folder)
        card = self.card(place)  # which reads everything, and refuses what is damaged
        with new_folder(place) as temporary:
            run = RunDir(temporary)
            for source, target in (
                (self.path, run.synthetic), (self.scores_path, run.scores), (self.picture, run.images),
            ):  # fmt: skip
                if source.is_file():
                    shutil.copyfile(source, target)
            write_text(temporary / "README.md", card)
        return place


def zoo(folder: str | Path | None = None) -> dict[str, PublishedSet]:
    """The sets that come with the package, by name. A file NAME.safetensors is a set, NAME.scores.json what is expected
    of it, NAME.png its picture.

    Args:
        folder: Another folder of such files. None: the package's own.
    """
    place = sets_folder()
    if folder is not None:
        place = Path(folder)
        if not place.is_dir():
            raise InputError(f"There is no folder {place}; name one that holds sets such as NAME{SUFFIX}.")
    names = sorted(path.name.removesuffix(SUFFIX) for path in place.glob(f"*{SUFFIX}") if path.is_file())
    return {
        name: PublishedSet(name, place / f"{name}{SUFFIX}", place / f"{name}{SCORES}", place / f"{name}.png")
        for name in names
    }


def find(name: str, folder: str | Path | None = None) -> PublishedSet:
    """The set called `name`: one of `zoo(folder)`, or hf:OWNER/REPO of the hub, with @REVISION for a certain version.

    Raises InputError for an unknown name, with the nearest ones, and where the hub does not give the set.
    """
    if name.startswith(HUB):
        return _from_hub(name)
    sets = zoo(folder)
    if name not in sets:
        raise unknown("distilled set", name, sets, where=f"(a set on the hub is {HUB}OWNER/REPO)")
    return sets[name]


def get(name: str, folder: str | Path | None = None) -> Distilled:
    """The published distilled set called `name`, ready to train networks.

    Args:
        name: One of `zoo()`, or hf:OWNER/REPO for a set on the Hugging Face hub that `astdistill.export` wrote;
            hf:OWNER/REPO@REVISION for a certain version of it.
        folder: Another folder of sets than the package's own.

    Raises:
        InputError: For an unknown name, for a file that is damaged, and where the hub does not give the set.
    """
    return find(name, folder).load()


def _from_hub(name: str) -> PublishedSet:
    """A set that is downloaded once, into the hub's own cache."""
    from huggingface_hub import snapshot_download

    repository, _, revision = name.removeprefix(HUB).partition("@")
    try:
        place = RunDir(
            snapshot_download(repository, repo_type="dataset", revision=revision or None, allow_patterns=list(FROM_HUB))
        )
    except Exception as error:  # each version of the library has another HTTP client, with its own errors
        raise InputError(
            f"'{name}' cannot be read from the Hugging Face hub ({type(error).__name__}: {in_one_line(error)}); "
            f"check name and network, or name one of the package's own sets: astdistill get"
        ) from error
    if not place.synthetic.is_file():
        raise InputError(
            f"'{name}' holds no {RunDir.synthetic}, so it is no distilled set that astdistill wrote; to use it as real "
            f"data: --data {repository}"
        )
    return PublishedSet(name, place.synthetic, place.scores, place.images)


def expected(scores: Scores | None) -> tuple[str, str]:
    """The accuracy of a set and the name of its protocol, for a table."""
    if scores is None:
        return ABSENT, "not evaluated"
    return next(iter(scores.architecture.values())).text, scores.recipe.name


def listing(sets: Mapping[str, PublishedSet]) -> Tabulation:
    """A table of sets; what is damaged is a row with a note."""
    rows, notes = [], []
    for name, each in sets.items():
        try:
            rows.append((name, *_facts(each)))
        except InputError as error:
            notes.append(str(error))
            rows.append((f"{name} [{len(notes)}]", *(ABSENT for _ in COLUMNS[1:])))
    words = ("set", "data", "labels")
    columns = tuple(
        Column(name, words=name in words, bold=name == "accuracy, %", whole=name == "set") for name in COLUMNS
    )
    caption = (
        "Images: classes × images per class. Test accuracy, with its protocol.\n"
        "To copy one of them: astdistill get NAME"
    )
    return Tabulation(columns, tuple(rows), caption, "Distilled sets", tuple(notes))


def _facts(each: PublishedSet) -> tuple[str, ...]:
    synthetic, scores = each.load(), each.scores()
    about = SetInfo.of(synthetic)
    images, stored = f"{len(synthetic.classes)} × {about.ipc}", size(synthetic.stored_bytes)
    accuracy, protocol = expected(scores)
    return about.data, images, stored, about.labels, f"{accuracy} ({protocol})"
