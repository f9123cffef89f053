"""Detects the part of a data set (training, validation or test) from the name of a folder, a file or a column."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal

PartName = Literal["train", "validation", "test"]
WORDS: dict[str, PartName] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation", "holdout"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
SUFFIX = re.compile(r"(.+?)(?:data)?(?:sets?|data|images|imgs?|pictures|split|part)")
"""Matches a word with a suffix: trainset, testdata, valimages."""
PLAIN = re.compile(rf"((?:{'|'.join(WORDS)}|hold.?out|sets?|data|images?|imgs?|pictures|part|split|\d+)[\W_]*)+")
"""Matches a lower-case name that denotes a part and nothing else."""
BOUNDARY = re.compile(r"[\W_]+|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Matches the boundary of words: punctuation, digits next to letters, and capitals as in trainSet, TrainSet,
TESTSet."""


@lru_cache(4096)  # called with the same folder names for each picture
def split_of(name: str) -> PartName | None:
    """The part that a name denotes, as a whole or by one of its words, ignoring case; None if it denotes none.

    Extensions and numbers such as `-00000-of-00001` are ignored. 'trainval' and 'train_val' are training parts,
    'test_dev' is a test part; a name with a word for training and one for testing ('train_test_split') is ambiguous
    and denotes none.
    """
    parts = {part for word in _split_words(name) if (part := WORDS.get(word) or WORDS.get(_strip_suffix(word)))}
    if {"train", "test"} <= parts:
        return None
    order: tuple[PartName, ...] = ("train", "test", "validation")
    return next((part for part in order if part in parts), None)


def other_words(name: str) -> tuple[str, ...]:
    """The words of a name, in lower case, that denote no part: `images_variant_train` has `images` and `variant`."""
    return tuple(word for word in _split_words(name) if not (WORDS.get(word) or WORDS.get(_strip_suffix(word))))


def are_part_words(values: Iterable[str | None]) -> bool:
    """Whether values are single words for parts, one of them for training and one for another part; one further word,
    such as 'unlabelled', may stand for no part."""
    words = {(value or "").lower() for value in values}
    parts = {WORDS.get(word) for word in words}
    return "train" in parts and len(parts - {None}) > 1 and len(words - {*WORDS}) <= 1


def _split_words(name: str) -> list[str]:
    words = [word.lower() for word in BOUNDARY.split(name) if word]
    return [*words, *("holdout" for pair in itertools.pairwise(words) if pair == ("hold", "out"))]


def _strip_suffix(word: str) -> str:
    match = SUFFIX.fullmatch(word)
    return match[1] if match else ""
