"""Which folders are the training and the test part, and which are classes; what is a question rather than a guess."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from astdistill.data.dataset import Dataset
from astdistill.data.loading import load_dataset
from astdistill.runtime.errors import InputError

Tree = Callable[..., str]
TRAIN, TEST, OTHER = 5, 2, 3
"""Pictures of each folder, by which the parts are told in what was read."""


def both(part: str, classes: tuple[str, ...] = ("cat", "dog")) -> list[str]:
    return [f"{part}/{name}" for name in classes]


def sizes(data: Dataset) -> tuple[tuple[str, ...], list[int], list[int]]:
    """Class names, and images of each class in training and test part."""
    return (
        data.classes,
        data.class_sizes(),
        [int((data.test.labels == label).sum()) for label in range(len(data.classes))],
    )


READ = (("cat", "dog"), [TRAIN, TRAIN], [TEST, TEST])


@pytest.mark.parametrize(
    "names",
    [
        "Training+Testing",
        "Train+Test",
        "TRAIN+TEST",
        "trn+tst",
        "seg_train+seg_test",
        "train_data+test_data",
        "training_set+test_set",
        "trainval+test",
        "my-train+my.test",
        "trainSet+testSet",
        "trainset+testset",
        "Train1+Test1",
        "mnist_train+mnist_test_images",
    ],
)
def test_parts_in_any_case_and_as_a_word(tree: Tree, names: str) -> None:
    train, test = names.split("+")
    tree(TRAIN, *both(train))
    data = load_dataset(tree(TEST, *both(test)))
    assert sizes(data) == READ
    assert data.summary.read[:2] == (f"training part: folder {train}", f"test part: folder {test}")
    assert not data.summary.guessed


@pytest.mark.parametrize("name", ["dev", "Val", "valid", "validation_set", "eval", "holdout", "hold-out", "val2017"])
def test_a_validation_part_is_the_test_part_where_there_is_no_other(tree: Tree, name: str) -> None:
    tree(TRAIN, *both("train"))
    data = load_dataset(tree(TEST, *both(name)))
    assert sizes(data) == READ
    assert f"the validation part {name} as the test part" in data.summary.guessed[0]
    data = load_dataset(tree(OTHER, *both("test")))
    assert sizes(data) == (("cat", "dog"), [TRAIN, TRAIN], [OTHER, OTHER])
    assert data.summary.left_out == (f"folder {name}, since folder test is the test part",)
    assert sizes(load_dataset(tree(OTHER), test_part=name)) == READ


@pytest.mark.parametrize("folders", ["train+training", "train_1+train_2", "train+trainval", "Train+train"])
def test_several_training_parts_are_a_question(tree: Tree, folders: str) -> None:
    first, second = folders.split("+")
    tree(OTHER, *both(first))
    tree(TEST, *both("test"))
    source = tree(TRAIN, *both(second))
    with pytest.raises(InputError, match=f"{first}, {second}; name one with --data.train-part {first}"):
        load_dataset(source)
    assert sizes(load_dataset(source, train_part=second)) == READ


@pytest.mark.parametrize("folders", ["test+testing_set", "Test+test"])
def test_several_test_parts_are_a_question(tree: Tree, folders: str) -> None:
    first, second = folders.split("+")
    for count, name in ((TRAIN, "train"), (OTHER, first), (TEST, second)):
        source = tree(count, *both(name))
    with pytest.raises(InputError, match=f"test part: {first}, {second}; name one with --data.test-part {first}"):
        load_dataset(source)
    data = load_dataset(source, test_part=second)
    assert sizes(data) == READ
    assert data.summary.left_out == (f"folder {first}, which was not asked for",)


@pytest.mark.parametrize("folders", ["fold1+fold2", "split_a+split_b", "session 1+session 2"])
def test_folders_told_by_a_number_that_hold_the_same_classes_are_a_question(tree: Tree, folders: str) -> None:
    first, second = folders.split("+")
    tree(TRAIN, *both(first))
    source = tree(TEST, *both(second))
    with pytest.raises(InputError, match=f"--data.train-part {first} --data.test-part {second}, or give"):
        load_dataset(source)
    assert sizes(load_dataset(source, train_part=first, test_part=second)) == READ
    assert load_dataset(source, train_part=".").classes == (first, second)


def test_a_part_inside_every_class(tree: Tree) -> None:
    tree(TRAIN, "cat/Train", "train/Train")
    source = tree(TEST, "cat/Test", "train/Test")
    data = load_dataset(source)
    assert sizes(data) == (("cat", "train"), [TRAIN, TRAIN], [TEST, TEST])
    assert data.summary.read[:2] == (
        "training part: folders Train of the classes",
        "test part: folders Test of the classes",
    )
    tree(OTHER, "cat/val", "train/val")
    assert load_dataset(source).summary.left_out == ("folders val of the classes, which are not read",)
    assert sizes(load_dataset(source, test_part="val"))[2] == [OTHER, OTHER]
    tree(OTHER, "dog")
    with pytest.raises(InputError, match="class cat is divided into parts and class dog is not"):
        load_dataset(source)


def test_a_class_called_train_or_like_a_part(tree: Tree) -> None:
    data = load_dataset(tree(TRAIN, "bus", "car", "train", "truck"))
    assert data.classes == ("bus", "car", "train", "truck")
    assert "folder train as one of the classes" in data.summary.guessed[0]


def test_classes_that_begin_with_a_word_for_a_part(tree: Tree) -> None:
    assert load_dataset(tree(TRAIN, "test_tube", "flask")).classes == ("flask", "test_tube")


def test_groups_of_classes_that_hold_a_class_called_train(tree: Tree) -> None:
    data = load_dataset(tree(TRAIN, "animals/cat", "animals/dog", "vehicles/car", "vehicles/train"))
    assert data.classes == ("animals", "vehicles")
    assert "such as cat, dog to animals" in data.summary.guessed[0]


def test_a_folder_called_train_that_may_be_either_is_a_question(tree: Tree) -> None:
    source = tree(TRAIN, "bus", "car", "train/steam", "train/diesel")
    with pytest.raises(
        InputError, match=r"could be the training part, or a class beside bus, car.*--data\.train-part \."
    ):
        load_dataset(source)
    assert load_dataset(source, train_part=".").classes == ("bus", "car", "train")
    assert load_dataset(source, train_part="train").classes == ("diesel", "steam")


@pytest.mark.parametrize("folders", [("train", "test"), ("test", "cat", "dog"), ("train",)])
def test_parts_without_class_folders_are_a_sentence(tree: Tree, folders: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="not in class folders inside them"):
        load_dataset(tree(TRAIN, *folders))


@pytest.mark.parametrize("unlabelled", ["test", "test/unknown"])
def test_a_part_without_labels_is_not_the_test_part_where_another_has_some(tree: Tree, unlabelled: str) -> None:
    tree(TRAIN, *both("train"))
    tree(TEST, *both("val"))
    data = load_dataset(tree(9, unlabelled))
    assert sizes(data) == READ
    assert data.summary.left_out[0].startswith("folder test, whose")


def test_test_pictures_without_labels_alone_leave_a_share_of_the_training_pictures(tree: Tree) -> None:
    tree(TRAIN, *both("train"))
    data = load_dataset(tree(9, "test"))
    assert sizes(data) == (("cat", "dog"), [4, 4], [1, 1])
    assert data.summary.left_out == ("folder test, whose pictures lie in no class folders and so have no labels",)


@pytest.mark.parametrize(
    ("wrapper", "part"), [("archive/dataset", "train"), ("in", "seg_train/seg_train"), ("a/b/c", "Training")]
)
def test_folders_that_hold_everything_are_looked_through(tree: Tree, wrapper: str, part: str) -> None:
    tree(TRAIN, *both(f"{wrapper}/{part}"))
    data = load_dataset(tree(TEST, *both(f"{wrapper}/{part.replace('rain', 'est')}")))
    assert sizes(data) == READ
    assert data.summary.read[0] == f"everything lies in folder {wrapper}"


@pytest.mark.parametrize(("name", "sentence"), [("Cat", "which calls it 'cat'"), ("cow", "rename it or take it out")])
def test_classes_that_differ_between_the_parts_are_a_sentence(tree: Tree, name: str, sentence: str) -> None:
    tree(TRAIN, *both("train"))
    with pytest.raises(InputError, match=f"class '{name}' that the training part does not.*{sentence}"):
        load_dataset(tree(TEST, f"test/{name}", "test/dog"))


def test_what_is_no_part_and_what_has_no_test_pictures_is_said(tree: Tree) -> None:
    tree(TRAIN, *both("train"), "train/emu")
    tree(OTHER, *both("extra"))
    tree(1, ".")
    assert load_dataset(tree(TEST, *both("test"))).summary.left_out == (
        "folder extra, which is not named after a part",
        "1 pictures that lie in no class folder (000.png)",
        "classes without test pictures: 1 (emu)",
    )


def test_only_test_parts_are_a_sentence(tree: Tree) -> None:
    source = tree(TRAIN, *both("test"), *both("val"))
    with pytest.raises(InputError, match=r"holds test, val but no training part"):
        load_dataset(source)
    assert load_dataset(source, train_part="val").class_sizes() == [TRAIN, TRAIN]


@pytest.mark.parametrize("name", ["trian", "../in/train", "/tmp"])
def test_a_named_part_that_is_not_there(tree: Tree, name: str) -> None:
    with pytest.raises(InputError, match=f"There is no training part '{name}'"):
        load_dataset(tree(TRAIN, *both("train"), *both("test")), train_part=name)


def test_the_same_files_read_otherwise_are_another_entry_of_the_cache(tree: Tree) -> None:
    tree(TRAIN, *both("train"))
    source = tree(TEST, *both("test"))
    assert sizes(load_dataset(source)) == READ
    assert sizes(load_dataset(source, train_part="test", test_part="train"))[1:] == (READ[2], READ[1])


def test_named_parts_are_written_only_where_they_are_given(tree: Tree) -> None:
    data = load_dataset(tree(TRAIN, *both("train")))
    assert not {"train_part", "test_part"} & set(data.config.model_dump())
    again = load_dataset(data.config, train_part="train")
    assert again.config.model_dump()["train_part"] == "train"
    with pytest.raises(InputError, match="is no folder of pictures"):
        load_dataset("digits", train_part="train")


@pytest.mark.parametrize(
    "folders",
    [
        ("cat/a/train", "cat/a/test", "dog/a/train", "dog/a/test"),
        ("seen/train/cat", "seen/train/dog", "unseen/test/cat", "unseen/test/dog"),
        ("cat/train", "dog/train"),
    ],
)
def test_parts_at_a_depth_where_none_are_looked_for_are_a_sentence(tree: Tree, folders: tuple[str, ...]) -> None:
    source = tree(TRAIN, *folders)
    with pytest.raises(InputError, match=r"called like parts.*--data\.train-part \. if all of"):
        load_dataset(source)
    assert len(load_dataset(source, train_part=".").classes) == 2


def test_an_empty_test_part_and_a_class_without_one_are_said(tree: Tree, tmp_path: Path) -> None:
    source = tree(TRAIN, *both("train"))
    (tmp_path / "in" / "test" / "cat").mkdir(parents=True)
    assert load_dataset(source).summary.left_out == ("folder test, which holds no pictures",)


def test_a_class_whose_pictures_are_all_for_training(tree: Tree) -> None:
    tree(TRAIN, "cat/train", "dog/train")
    data = load_dataset(tree(TEST, "cat/test"))
    assert sizes(data) == (("cat", "dog"), [TRAIN, TRAIN], [TEST, 0])
    assert data.summary.left_out == ("classes without test pictures: 1 (dog)",)


def test_what_lies_beside_a_folder_that_is_looked_through_is_told(tree: Tree, tmp_path: Path) -> None:
    tree(TRAIN, *both("in/data"))
    folder = Path(tree(1, "."))
    (folder / "in/scans/owl").mkdir(parents=True)
    for name in ("notes.txt", "in/owl.heic", "in/scans/owl/0.dcm"):
        (folder / name).write_bytes(b"x")
    assert load_dataset(str(folder)).summary.left_out == (
        "folder scans, which holds no pictures",
        "1 pictures that lie in no class folder (000.png)",
        "1 file that is no picture (notes.txt)",
        "1 picture in a format that is not read (owl.heic)",
    )


@pytest.mark.parametrize("suffix", ["_mask", " mask 2", "-thumb", "_GT", "_segmentation"])
def test_pictures_called_like_masks_of_others_are_told(tree: Tree, suffix: str) -> None:
    folder = Path(tree(TRAIN, *both(".")))
    first, second = folder / "cat/000.png", folder / "dog/001.png"
    for path in (first, second):
        path.with_stem(path.stem + suffix).write_bytes(path.read_bytes())
    (said,) = load_dataset(str(folder)).summary.guessed
    assert said == (
        "2 pictures as images of their class, though their names are like another and a word such as mask or thumb "
        f"(000{suffix}.png, 001{suffix}.png): take them out where they are masks or copies"
    )
    for path in (first, second):
        path.with_stem(path.stem + suffix).unlink()
    first.with_suffix(".bmp").write_bytes(first.read_bytes())
    (said,) = load_dataset(str(folder)).summary.guessed
    assert said.startswith(
        "1 pictures as images of their class, though their names are like another but for the ending (000.*)"
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mask_{}", "a word such as mask or thumb"),
        ("thumb_{}", "a word such as mask or thumb"),
        ("{} - Copy", "a word or number of copies"),
        ("{} (1)", "a word or number of copies"),
        ("{}(2)", "a word or number of copies"),
    ],
)
def test_masks_by_prefix_and_numbered_copies_are_told(tree: Tree, name: str, kind: str) -> None:
    first = Path(tree(TRAIN, *both("."))) / "cat/000.png"
    first.with_stem(name.format("000")).write_bytes(first.read_bytes())
    first.with_stem("mask_x").write_bytes(first.read_bytes())  # x is no picture
    (said,) = load_dataset(str(tree(TRAIN, *both(".")))).summary.guessed
    assert said.startswith(f"1 pictures as images of their class, though their names are like another and {kind} (")


def test_folders_of_pictures_deep_inside_classes_are_told(tree: Tree) -> None:
    tree(TRAIN, *both("small/small"))
    (said,) = load_dataset(tree(TRAIN, *both("large/large"))).summary.guessed
    assert said.startswith("folders inside class folders count to the class, such as cat, dog to large")


def test_folders_inside_classes_of_the_test_part_are_told(tree: Tree) -> None:
    tree(TRAIN, *both("train"))
    (said,) = load_dataset(tree(TEST, "test/cat/images", "test/cat/masks", "test/dog")).summary.guessed
    assert said.startswith("folders inside class folders count to the class, such as images, masks to cat")


@pytest.mark.parametrize("inside", ["test/test", "asl_test/asl_test", "Final_Test/Images"])
def test_a_test_part_without_class_folders_inside_another_folder_is_left_out(tree: Tree, inside: str) -> None:
    tree(TRAIN, *both("train/train"))
    data = load_dataset(tree(TEST, inside))
    assert sizes(data) == (("cat", "dog"), [4, 4], [1, 1])
    assert data.summary.left_out[0].startswith(f"folder {inside.split('/')[0]}, whose ")


def test_sets_with_parts_side_by_side_are_told(tree: Tree) -> None:
    folders = [
        f"{domain}/{part}/{name}" for domain in ("photo", "sketch") for part in ("train", "test") for name in "ab"
    ]
    (said,) = load_dataset(tree(TRAIN, *folders), whiten="none").summary.guessed
    assert said.startswith("folders inside class folders count to the class, such as a, b to photo")
