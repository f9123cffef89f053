"""The part of a data set (training, validation or test) that a folder, a file or a column is named after."""

from __future__ import annotations

import itertools
import re
from functools import lru_cache
from typing import Literal

PartName = Literal["train", "validation", "test"]
WORDS: dict[str, PartName] = {
    **dict.fromkeys(("train", "training", "trn", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev", "eval", "evaluation", "holdout"), "validation"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
SUFFIX = re.compile(r"(.+?)(?:data)?(?:sets?|data|images|imgs?|pictures|split|part)")
"""What is written onto a word without a break: trainset, testdata, valimages."""
PLAIN = re.compile(rf"((?:{'|'.join(WORDS)}|hold.?out|sets?|data|images?|imgs?|pictures|part|split|\d+)[\W_]*)+")
"""A name, in lower case, that says nothing else than which part it is."""
BOUNDARY = re.compile(r"[\W_]+|(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Between words: signs, digits beside letters, and capitals as in trainSet, TrainSet and TESTSet."""


@lru_cache(4096)  # the same folders are asked for with each picture
def split_of(name: str) -> PartName | None:
    """The part that a name speaks of, as a whole or by one of its words, in any case; None where it speaks of none.

    Extensions and numbers such as `-00000-of-00001` play no part. 'trainval' and 'train_val' are training parts,
    'test_dev' is a test part; a name with a word for training and one for testing ('train_test_split') speaks of both,
    so of none.
    """
    parts = {part for word in _words(name) if (part := WORDS.get(word) or WORDS.get(_stem(word)))}
    if {"train", "test"} <= parts:
        return None
    order: tuple[PartName, ...] = ("train", "test", "validation")
    return next((part for part in order if part in parts), None)


def _words(name: str) -> list[str]:
    words = [word.lower() for word in BOUNDARY.split(name) if word]
    return [*words, *("holdout" for pair in itertools.pairwise(words) if pair == ("hold", "out"))]


def _stem(word: str) -> str:
    match = SUFFIX.fullmatch(word)
    return match[1] if match else ""
