"""Lists beside pictures, in the layouts of published data sets: which are read, what they decide, what is refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from astdistill.data.dataset import DataConfig, RawData
from astdistill.data.sources import read
from astdistill.runtime.errors import InputError

CLASSES = ("cat", "dog", "owl")
NUMBERS = range(24)
"""Picture i is of class i modulo 3, and its pixels are all i."""
TRAIN, VALIDATION, TEST = range(12), range(12, 18), range(18, 24)


def pictures(folder: Path, names: Mapping[int, str]) -> None:
    for number, name in names.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(folder / name)


def in_folders(ending: str = ".png") -> dict[int, str]:
    return {number: f"{CLASSES[number % 3]}/{number:03d}{ending}" for number in NUMBERS}


def flat() -> dict[int, str]:
    return {number: f"{number:04d}.png" for number in NUMBERS}


def write(file: Path, lines: Iterable[object]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))


def numbers(raw: RawData, part: str) -> list[int]:
    """The numbers of the pictures of a part, all of which have their class."""
    split = {"train": raw.train, "test": raw.test}[part]
    assert split is not None
    found = [int(image.max()) for image in split.images[:]]
    assert [label % 3 for label in split.labels.tolist()] == [number % 3 for number in found]
    return sorted(found)


def open_folder(folder: Path, **how: Any) -> RawData:
    return read(DataConfig(source=str(folder), **how))


def check(raw: RawData, train: Iterable[int] = TRAIN, test: Iterable[int] = TEST) -> None:
    assert numbers(raw, "train") == [*train]
    assert numbers(raw, "test") == [*test]


def food(folder: Path) -> None:
    pictures(folder / "images", in_folders())
    for part, chosen in {"train": TRAIN, "test": TEST}.items():
        write(folder / f"meta/{part}.txt", (in_folders("")[number] for number in chosen))
    write(folder / "meta/classes.txt", CLASSES)


def indoor(folder: Path) -> None:
    pictures(folder / "Images", in_folders())
    write(folder / "TrainImages.txt", (in_folders()[number] for number in TRAIN))
    write(folder / "TestImages.txt", (in_folders()[number] for number in TEST))


def from_the_root(folder: Path) -> None:
    """With a list for validation, which is not read, and one of both."""
    pictures(folder, in_folders())
    for part, chosen in {"train": TRAIN[:9], "val": TRAIN[9:], "trainval": TRAIN, "test": TEST}.items():
        write(folder / f"splits/{part}.lst", (f"/{in_folders()[number]}" for number in chosen))


def birds(folder: Path) -> None:
    pictures(folder / "images", in_folders())
    write(folder / "images.txt", (f"{number + 1} {name}" for number, name in in_folders().items()))
    write(folder / "image_class_labels.txt", (f"{number + 1} {number % 3 + 1}" for number in NUMBERS))
    write(folder / "classes.txt", (f"{number} {name}" for number, name in enumerate(CLASSES, 1)))
    write(folder / "train_test_split.txt", (f"{number + 1} {int(number in TRAIN)}" for number in (*TRAIN, *TEST)))
    write(folder / "bounding_boxes.txt", (f"{number + 1} 1.0 1.0 6.0 6.0" for number in NUMBERS))


def dogs(folder: Path) -> None:
    pictures(folder / "Images", in_folders())
    for part, chosen in {"train": TRAIN, "test": TEST}.items():
        cells = np.array([[in_folders()[number]] for number in chosen], dtype=object)
        labels = np.array([[number % 3 + 1.0] for number in chosen])
        savemat(folder / f"{part}_list.mat", {"file_list": cells, "annotation_list": cells, "labels": labels})


FOLDERS = {"food": food, "indoor": indoor, "from the root": from_the_root, "birds": birds, "dogs": dogs}


@pytest.mark.parametrize("layout", FOLDERS)
def test_lists_divide_class_folders(tmp_path: Path, layout: str) -> None:
    FOLDERS[layout](tmp_path)
    raw = open_folder(tmp_path)
    assert raw.classes == CLASSES
    check(raw)
    assert [note for note in raw.summary.read if note.startswith(("training part: the 12", "test part: the 6"))]
    assert "6 pictures that no list names (012.png, 015.png, 013.png)" in raw.summary.left_out
    few = open_folder(tmp_path, classes=("owl", "cat"))
    assert few.classes == ("owl", "cat")
    assert sorted(int(image.max()) for image in few.train.images[:]) == [i for i in TRAIN if i % 3 != 1]


def pets(folder: Path) -> None:
    """Names without endings, columns of numbers, and a mask called like each picture beside the lists."""
    pictures(folder / "images", {number: f"{CLASSES[number % 3]}_{number}.png" for number in NUMBERS})
    pictures(folder / "annotations/trimaps", {0 * number: f"{CLASSES[number % 3]}_{number}.png" for number in NUMBERS})
    rows = [f"{CLASSES[number % 3]}_{number} {number % 3 + 1} {number % 2} 7" for number in NUMBERS]
    write(folder / "annotations/list.txt", ["#Image CLASS-ID SPECIES BREED ID", *rows])
    write(folder / "annotations/trainval.txt", rows[:12])
    write(folder / "annotations/test.txt", rows[18:])


def flowers(folder: Path) -> None:
    """With the folder of segmented pictures, which have the same numbers."""
    pictures(folder / "jpg", {number: f"image_{number + 1:05d}.png" for number in NUMBERS})
    pictures(folder / "segmim", {0 * number: f"segmim_{number + 1:05d}.png" for number in NUMBERS})
    ids = {"trnid": TRAIN, "valid": VALIDATION, "tstid": TEST}
    savemat(folder / "setid.mat", {name: np.array([[number + 1 for number in part]]) for name, part in ids.items()})
    savemat(folder / "imagelabels.mat", {"labels": np.array([[number % 3 + 1 for number in NUMBERS]])})


def numbered_birds(folder: Path) -> None:
    """Pictures in one folder: the files alone tell the classes."""
    birds(folder)
    pictures(folder, {number: f"all/{number:03d}.png" for number in NUMBERS})
    for name in (*CLASSES,):
        for path in (folder / "images" / name).iterdir():
            path.unlink()
    write(folder / "images.txt", (f"{number + 1} all/{number:03d}.png" for number in NUMBERS))


def cars(folder: Path) -> None:
    """One folder of pictures and one file for both parts."""
    pictures(folder / "car_ims", {number: f"{number + 1:06d}.png" for number in NUMBERS})
    rows = [(f"car_ims/{i + 1:06d}.png", 5, i % 3 + 1, int(i in TEST)) for i in NUMBERS if i not in VALIDATION]
    kinds = [(name, object) for name in ("relative_im_path", "bbox_x1", "class", "test")]
    held = {"annotations": np.array([rows], dtype=kinds), "class_names": np.array([CLASSES], dtype=object)}
    savemat(folder / "cars_annos.mat", held)


def cars_of_parts(folder: Path) -> None:
    """Pictures of both parts in folders of their own, with the same names."""
    kinds = [(name, object) for name in ("bbox_x1", "class", "fname")]
    files = {"train": "devkit/cars_train_annos.mat", "test": "cars_test_annos_withlabels.mat"}
    (folder / "devkit").mkdir()
    for part, chosen in {"train": TRAIN, "test": TEST}.items():
        names = {number: f"{at:05d}.png" for at, number in enumerate(chosen, 1)}
        pictures(folder / f"cars_{part}", names)
        rows = np.array([[(5, number % 3 + 1, name) for number, name in names.items()]], dtype=kinds)
        savemat(folder / files[part], {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array([CLASSES], dtype=object)})
    unlabelled = np.array([[(5, "00001.png")]], dtype=[("bbox_x1", object), ("fname", object)])
    savemat(folder / "devkit/cars_test_annos.mat", {"annotations": unlabelled})


LABELS = {"pets": (pets, "123"), "flowers": (flowers, "123"), "numbered birds": (numbered_birds, CLASSES)}
LABELS |= {"cars": (cars, CLASSES), "cars of parts": (cars_of_parts, CLASSES)}


@pytest.mark.parametrize("layout", LABELS)
def test_lists_label_pictures(tmp_path: Path, layout: str) -> None:
    make, classes = LABELS[layout]
    make(tmp_path)
    raw = open_folder(tmp_path)
    assert raw.classes == tuple(classes)
    check(raw)
    assert any(note.startswith("labels: ") for note in raw.summary.read)
    assert ("the label is the first of the 3 numbers that follow the name of a picture" in raw.summary.guessed) == (
        layout == "pets"
    )


def test_a_single_list_with_labels(tmp_path: Path) -> None:
    pictures(tmp_path / "val_256", flat())
    write(tmp_path / "places_val.txt", (f"{name} {9 * (number % 3)}" for number, name in flat().items()))
    raw = open_folder(tmp_path)
    assert (raw.classes, raw.test) == (("0", "9", "18"), None)
    assert numbers(raw, "train") == [*NUMBERS]


def test_a_validation_list_is_the_test_part_where_there_is_no_other(tmp_path: Path) -> None:
    pictures(tmp_path, in_folders())
    for part, chosen in {"train": TRAIN, "val": VALIDATION, "trainval": range(18)}.items():
        write(tmp_path / f"{part}.txt", (in_folders()[number] for number in chosen))
    raw = open_folder(tmp_path)
    check(raw, TRAIN, VALIDATION)
    assert raw.summary.guessed == ("the test part is what val.txt lists, as there is no list for testing",)


def aircraft(folder: Path) -> None:
    pictures(folder / "data/images", flat())
    for kind, names in {"variant": ("A 300", "B 200", "C"), "family": ("x", "y", "z")}.items():
        for part, chosen in {"train": TRAIN, "val": VALIDATION, "test": TEST}.items():
            write(folder / f"data/images_{kind}_{part}.txt", (f"{i:04d} {names[i % 3]}" for i in chosen))
    write(folder / "data/images_box.txt", (f"{number:04d} 1 1 7 7" for number in NUMBERS))


def test_several_kinds_of_labels_are_a_question(tmp_path: Path) -> None:
    aircraft(tmp_path)
    question = r"has several lists that label its pictures \(.*\); name those that are meant, such as --data.train-part"
    with pytest.raises(InputError, match=question):
        open_folder(tmp_path)
    lists = {f"{part}_part": f"data/images_variant_{part}.txt" for part in ("train", "test")}
    raw = open_folder(tmp_path, **lists)
    assert raw.classes == ("A 300", "B 200", "C")
    check(raw)


def textures(folder: Path) -> None:
    pictures(folder / "images", in_folders())
    for split in (1, 2):
        for part, chosen in {"train": TRAIN, "val": VALIDATION, "test": TEST}.items():
            names = (in_folders()[number if split == 1 else 23 - number] for number in chosen)
            write(folder / f"labels/{part}{split}.txt", names)


def test_several_divisions_are_a_note(tmp_path: Path) -> None:
    textures(tmp_path)
    raw = open_folder(tmp_path)
    assert raw.test is None
    (note,) = raw.summary.guessed
    assert note.startswith("a share of every class as the test part, not that of one of 2 lists")
    assert "--data.train-part labels/train1.txt --data.test-part labels/test1.txt" in note
    check(open_folder(tmp_path, train_part="labels/train1.txt", test_part="labels/test1.txt"))
    second = open_folder(tmp_path, train_part="labels/train2.txt", test_part="labels/test2.txt")
    check(second, range(12, 24), range(6))
    check(open_folder(tmp_path, test_part="labels/test1.txt"), range(18))
    alone = open_folder(tmp_path, train_part="labels/val1.txt")
    assert (numbers(alone, "train"), alone.test) == ([*VALIDATION], None)
    swapped = open_folder(tmp_path, train_part="labels/test1.txt", test_part="labels/train1.txt")
    check(swapped, TEST, TRAIN)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train_part": "labels/train1.txt", "test_part": "labels/train1.txt"}, "both list images/cat/000.png; name"),
        ({"train_part": "labels/train1.txt", "test_part": "images"}, "--data.test-part images is no file in"),
        ({"train_part": "notes.txt"}, "--data.train-part notes.txt is no file in .* that lists its pictures"),
        ({"test_part": "../outside.txt"}, "--data.test-part ../outside.txt is no file in"),
        (
            {"train_part": "cats.txt", "test_part": "labels/test1.txt"},
            "has no picture of class 'dog'; add one, or leave",
        ),
    ],
)
def test_named_lists_are_checked(tmp_path: Path, parts: Mapping[str, str], message: str) -> None:
    folder = tmp_path / "in"
    textures(folder)
    write(folder / "notes.txt", ["nothing of pictures"])
    write(folder / "cats.txt", ["cat/000.png", "cat/003.png"])
    write(tmp_path / "outside.txt", in_folders().values())
    with pytest.raises(InputError, match=message):
        open_folder(folder, **parts)


def test_lines_without_a_picture_are_counted(tmp_path: Path) -> None:
    """Also one that may be two pictures, one in other letters, and a picture listed again; names may have spaces."""
    food(tmp_path)
    pictures(tmp_path / "images", {24: "cat/a b.png", 25: "dog/twin.png", 26: "owl/twin.png"})
    lines = (tmp_path / "meta/train.txt").read_text() + "cat/gone\ntwin\ncat/a b\ncat/000\n\n"
    (tmp_path / "meta/train.txt").write_bytes(lines.encode() + "cat/höhe\n".encode("latin-1"))
    raw = open_folder(tmp_path)
    check(raw, [*TRAIN, 24])
    note = "3 lines of train.txt that name no picture here, or several (cat/gone, twin, cat/höhe)"
    assert note in raw.summary.left_out


def test_lists_that_share_a_picture_are_not_read(tmp_path: Path) -> None:
    """Nor those of one part alone, nor other text; folders tell the classes, and their test part counts."""
    pictures(tmp_path, in_folders())
    write(tmp_path / "train.txt", (in_folders()[number] for number in range(19)))
    write(tmp_path / "test.txt", (in_folders()[number] for number in TEST))
    write(tmp_path / "README.txt", ["pictures of cats, dogs and owls"])
    raw = open_folder(tmp_path)
    assert (numbers(raw, "train"), raw.test) == ([*NUMBERS], None)
    assert raw.summary.left_out == ("3 files that are no pictures (README.txt, test.txt, train.txt)",)


def test_folders_of_parts_come_first(tmp_path: Path) -> None:
    pictures(tmp_path / "train", {number: in_folders()[number] for number in range(15)})
    pictures(tmp_path / "test", {number: in_folders()[number] for number in range(15, 24)})
    for part, chosen in {"train": TRAIN, "test": TEST}.items():
        write(tmp_path / f"{part}.txt", (in_folders()[number] for number in chosen))
    check(open_folder(tmp_path), range(15), range(15, 24))
    indoor(tmp_path / "other")
    assert open_folder(tmp_path / "other", train_part="Images").test is None


def test_a_changed_list_is_read_again(tmp_path: Path) -> None:
    food(tmp_path)
    check(open_folder(tmp_path))
    write(tmp_path / "meta/test.txt", (in_folders("")[number] for number in VALIDATION))
    check(open_folder(tmp_path), TRAIN, VALIDATION)


def test_boxes_of_one_class_label_nothing(tmp_path: Path) -> None:
    """Lists inside a class folder, which number something else."""
    pictures(tmp_path, in_folders())
    for part, chosen in {"train": (0, 3), "test": (6, 9)}.items():
        write(tmp_path / f"cat/{part}.txt", (f"{number:03d}.png {number}" for number in chosen))
    raw = open_folder(tmp_path)
    assert (raw.classes, raw.test, numbers(raw, "train")) == (CLASSES, None, [*NUMBERS])


def part_word(number: int) -> str:
    return "Train" if number in TRAIN else "val" if number in VALIDATION else "test"


@pytest.mark.parametrize("line", ["img/{0} {1} {2}", "img/{0} {2} {1}", "img/{0},{1},{2}", "img/{0};{2}; {1}"])
@pytest.mark.parametrize("heading", ["path label part", None])
def test_the_part_is_a_word_on_each_line(tmp_path: Path, line: str, heading: str | None) -> None:
    """Before, classes such as '0 train' and '0 test'."""
    pictures(tmp_path / "img", flat())
    lines = [line.format(flat()[number], CLASSES[number % 3], part_word(number)) for number in NUMBERS]
    write(tmp_path / "list.txt", ([heading] if heading else []) + lines)
    raw = open_folder(tmp_path)
    assert raw.classes == CLASSES
    check(raw)
    assert raw.summary.read[0] == "training part: the 12 pictures that list.txt assigns to it"
    assert "6 pictures that list.txt lists for validation" in raw.summary.left_out
    check(open_folder(tmp_path, train_part="list.txt", test_part="list.txt"))
    assert numbers(open_folder(tmp_path, train_part="list.txt"), "train") == [*TRAIN]


def test_part_words_divide_class_folders(tmp_path: Path) -> None:
    """Of a list without a part for testing, that for validation is the test part."""
    pictures(tmp_path, in_folders())
    write(tmp_path / "splits.txt", (f"{in_folders()[number]} {part_word(number)}" for number in range(18)))
    raw = open_folder(tmp_path)
    check(raw, TRAIN, VALIDATION)
    note = "the test part is what splits.txt lists for validation, as there is no list for testing"
    assert raw.summary.guessed == (note,)


def test_one_further_word_is_no_part(tmp_path: Path) -> None:
    pictures(tmp_path / "img", flat())
    words = {number: part_word(number).replace("val", "unused") for number in NUMBERS}
    write(tmp_path / "list.txt", (f"img/{flat()[i]} {CLASSES[i % 3]} {words[i]}" for i in NUMBERS))
    raw = open_folder(tmp_path)
    check(raw)
    assert "6 pictures that list.txt lists for no part" in raw.summary.left_out


@pytest.mark.parametrize("labels", [False, True])
def test_lists_of_a_test_part_outside_the_class_folders(tmp_path: Path, labels: bool) -> None:
    """They divide nothing unless they tell the labels. Before: no images of the classes asked for."""
    names = {i: f"train/{in_folders()[i]}" if i in TRAIN else f"test/{i:03d}.png" for i in (*TRAIN, *TEST)}
    pictures(tmp_path, names)
    for part, chosen in {"train": TRAIN, "test": TEST}.items():
        write(tmp_path / f"{part}.txt", (names[i] + f" {i % 3}" * labels for i in chosen))
    raw = open_folder(tmp_path)
    assert numbers(raw, "train") == [*TRAIN]
    assert raw.classes == (("0", "1", "2") if labels else CLASSES)
    if labels:
        check(raw)
    else:
        assert any(note.startswith("folder test, whose pictures lie in no class") for note in raw.summary.left_out)


def test_words_that_are_no_parts_are_labels(tmp_path: Path) -> None:
    """Also one word for a part among others, such as the class of trains."""
    pictures(tmp_path / "img", flat())
    write(tmp_path / "list.txt", (f"img/{flat()[number]} {('bus', 'car', 'train')[number % 3]}" for number in NUMBERS))
    raw = open_folder(tmp_path)
    assert (raw.classes, raw.test) == (("bus", "car", "train"), None)


def test_pictures_of_a_list_for_validation_are_told_as_such(tmp_path: Path) -> None:
    """Before: pictures that no list names."""
    food(tmp_path)
    write(tmp_path / "meta/val.txt", (in_folders("")[number] for number in VALIDATION))
    raw = open_folder(tmp_path)
    check(raw)
    assert raw.summary.left_out[0] == "6 pictures that val.txt lists for validation"
    assert not any("no list names" in note for note in raw.summary.left_out)
    flowers(tmp_path / "of numbers")
    assert "6 pictures that setid.mat lists for validation" in open_folder(tmp_path / "of numbers").summary.left_out


def boxes(folder: Path) -> None:
    """Boxes for YOLO, `class x y width height` a line, in a file with the name of each picture; without this name they
    would be lists of the pictures 0, 1 and 2."""
    for number in NUMBERS:
        write(folder / f"{number}.txt", (f"{each} 0.5 0.5 0.25 0.25" for each in range(3)))


def test_text_with_the_name_of_a_picture_is_no_list(tmp_path: Path) -> None:
    pictures(tmp_path, {number: f"{CLASSES[number % 3]}/{number}.png" for number in NUMBERS})
    write(tmp_path / "train.txt", (f"{number}.png" for number in TRAIN))
    write(tmp_path / "test.txt", (f"{number}.png" for number in TEST))
    boxes(tmp_path / "cat")
    check(open_folder(tmp_path))
    flat_folder = tmp_path / "flat"
    pictures(flat_folder / "images", {number: f"{number}.png" for number in NUMBERS})
    boxes(flat_folder / "labels")
    with pytest.raises(InputError, match="Class 'labels' has no training images"):
        open_folder(flat_folder)


@pytest.mark.parametrize(("name", "part"), [("testing_list.txt", "test"), ("train.txt", "train")])
def test_a_list_of_one_part_alone_is_told(tmp_path: Path, name: str, part: str) -> None:
    pictures(tmp_path, in_folders())
    assert read(DataConfig(source=str(tmp_path))).summary.guessed == ()
    write(tmp_path / name, (in_folders()[number] for number in range(12)))
    (said,) = read(DataConfig(source=str(tmp_path))).summary.guessed  # from a cache entry without the note
    assert said == (
        f"a share of every class as the test part, not the division by {name} (--data.{part}-part {name} reads it)"
    )
