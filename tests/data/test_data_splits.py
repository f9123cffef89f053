"""The part of a data set that a name speaks of."""

from __future__ import annotations

import pytest

from astdistill.data.splits import split_of

TRAIN = (
    "train Training TRAIN trn trainval train_val seg_train train_data training-set train.part train2017 trainSet "
    "TRAINSet traindata trainimages train-00000-of-00002.parquet mnist_train.parquet ILSVRC2012_img_train"
)
TEST = "test Testing TST test1 seg_test test_set testset TestSet test-dev cifar10.test.parquet"
VALIDATION = "val Valid validation DEV eval evaluation holdout hold-out HoldOut val2017 valset validation-0001-of-0002"
NEITHER = "cat trainer strain latest contest invalid developer fold1 split data train_test_split 训练 0"


@pytest.mark.parametrize(
    ("names", "part"), [(TRAIN, "train"), (TEST, "test"), (VALIDATION, "validation"), (NEITHER, None)]
)
def test_a_name_speaks_of_a_part_as_a_whole_or_by_a_word_of_it(names: str, part: str | None) -> None:
    assert {name: split_of(name) for name in names.split()} == dict.fromkeys(names.split(), part)
