"""Pictures whose labels stand in a table of text: what tables are read, how they name pictures, what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from astdistill.data.dataset import DataConfig, RawData
from astdistill.data.loading import load_dataset
from astdistill.data.sources import read
from astdistill.runtime.errors import InputError

CLASSES = ("cat", "dog", "owl")
"""Of picture i the class i modulo 3; its pixels are all i."""
NAMES = [f"{number:03d}.png" for number in range(12)]


def pictures(folder: Path, names: list[str] = NAMES) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, dtype=np.uint8)).save(folder / name)


def table(cells: list[str], header: str = "file_name,label", separator: str = ",") -> str:
    rows = [f"{cell}{separator}{CLASSES[number % 3]}" for number, cell in enumerate(cells)]
    return "\n".join([*header.splitlines(), *rows]) + "\n"


def labelled(raw: RawData) -> list[int]:
    """The numbers of the training pictures in order, all of which have their class."""
    numbers = [int(image.max()) for image in raw.train.images[:]]
    assert [raw.classes[label] for label in raw.train.labels.tolist()] == [CLASSES[number % 3] for number in numbers]
    return sorted(numbers)


def read_all(source: Path, **how: Any) -> RawData:
    raw = read(DataConfig(source=str(source), **how))
    assert labelled(raw) == list(range(12))
    return raw


STEMS = [name.removesuffix(".png") for name in NAMES]
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
TABLES = {
    "hugging face": ("metadata.csv", table(NAMES)),
    "json lines": (
        "metadata.jsonl",
        "".join(json.dumps({"file_name": name, "label": CLASSES[i % 3]}) + "\n" for i, name in enumerate(NAMES)),
    ),
    "kaggle": ("train.csv", table(STEMS, "id,breed")),
    "numbers with zeros": ("labels.csv", table(STEMS, "image_id,label")),
    "tabs": ("labels.tsv", table(NAMES, "image\tclass", "\t")),
    "semicolons": ("labels.csv", table(NAMES, "image;class", ";")),
    "a byte order mark": ("labels.csv", BOM + table(NAMES)),
    "windows": ("labels.csv", table([rf"C:\Users\me\pets\{name}" for name in NAMES]).replace("\n", "\r\n")),
    "from the root": ("labels.csv", table([f"/home/me/pets/{name}" for name in NAMES])),
    "quoted": ("labels.csv", table([f'"{name}"' for name in NAMES], '"file_name","label"')),
    "no header": ("labels.csv", table(NAMES, "")),
    "another column": ("labels.csv", table([f"{i},{name}" for i, name in enumerate(NAMES)], "width,file,label")),
    "a name and a number of it": (
        "labels.csv",
        table([f"{a},{b}" for a, b in zip(STEMS, NAMES, strict=True)], "id,file,label"),
    ),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("where", ["", "images"])
def test_a_table_beside_the_pictures(tmp_path: Path, name: str, where: str) -> None:
    pictures(tmp_path / "in" / where)
    file, text = TABLES[name]
    (tmp_path / "in" / file).write_bytes(text.encode())
    raw = read_all(tmp_path / "in")
    assert f"split train: {file}" in raw.summary.read
    assert bool(raw.summary.guessed) == (name in ("no header", "kaggle", "numbers with zeros"))
    assert read_all(tmp_path / "in" / file).classes == raw.classes == CLASSES


def write_lists(folder: Path, ending: str, heading: str = "") -> None:
    for part, chosen in {"train": NAMES[:6], "val": NAMES[6:8], "test": NAMES[8:]}.items():
        (folder / f"{part}{ending}").write_text("\n".join([*heading.splitlines(), *chosen]))


LISTS = {"text": (".txt", ""), "tables": (".csv", "file_name"), "a column": ("", ""), "labelled tables": (".csv", "")}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("named", [False, True])
def test_lists_divide_a_table(tmp_path: Path, kind: str, named: bool) -> None:
    """Before, all rows were one part, and pictures listed for testing were trained on; tables of names without labels
    were refused, with a command that trained on them."""
    pictures(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(table(NAMES))
    ending, heading = LISTS[kind]
    if kind == "a column":
        parts = ["train"] * 6 + ["Val"] * 2 + ["test"] * 4
        rows = (f"{name},{part}" for name, part in zip(NAMES, parts, strict=True))
        (tmp_path / "split.csv").write_text("\n".join(["image,use", *rows]))
    elif kind == "labelled tables":
        for part, chosen in {"train": range(6), "val": range(6, 8), "test": range(8, 12)}.items():
            lines = (f"{NAMES[number]},{CLASSES[number % 3]}" for number in chosen)
            (tmp_path / f"{part}.csv").write_text("\n".join(["file_name,label", *lines]))
    else:
        write_lists(tmp_path, ending, heading)
    raw = read(DataConfig(source=str(tmp_path / ("labels.csv" * named))))
    assert (labelled(raw), raw.classes, len(raw.test or ())) == ([*range(6)], CLASSES, 4)
    if kind == "labelled tables" and not named:  # these are the tables then, as before
        return
    name, verb = ("split.csv", "assigns to it") if kind == "a column" else (f"train{ending}", "lists")
    assert f"training part: the 6 pictures that {name} {verb}" in raw.summary.read
    assert any(note.startswith("2 pictures that") and "for validation" in note for note in raw.summary.left_out)
    assert not any("no row names" in note for note in raw.summary.left_out)


def test_lists_of_a_table_by_name(tmp_path: Path) -> None:
    """A list of one part alone is told; it counts where it is named, as for class folders, and needs no labels."""
    pictures(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(table(NAMES))
    assert read_all(tmp_path).summary.guessed == ()
    (tmp_path / "val.txt").write_text("\n".join([*NAMES[8:], "gone.png"]))
    raw = read_all(tmp_path)  # from a cache entry without the note
    assert raw.summary.guessed == (
        "a share of every class as the test part, not the division by val.txt (--data.test-part val.txt reads it)",
    )
    for source in (tmp_path, tmp_path / "labels.csv"):
        raw = read(DataConfig(source=str(source), test_part="val.txt"))
        assert (labelled(raw), len(raw.test or ())) == ([*range(8)], 4)
    assert "1 line of val.txt that name no picture here, or several (gone.png)" in raw.summary.left_out
    raw = read(DataConfig(source=str(tmp_path), train_part="val.txt"))
    assert (labelled(raw), raw.test) == ([*range(8, 12)], None)
    assert "8 pictures that no list names (000.png, 001.png, 002.png)" in raw.summary.left_out
    with pytest.raises(InputError, match="stand in a table; name lists, or leave them out"):
        read(DataConfig(source=str(tmp_path), test_part="images"))
    (tmp_path / "others.csv").write_text(table(NAMES[:8]))
    with pytest.raises(
        InputError, match=r"val\.txt put no picture that others\.csv labels into one of the parts; name"
    ):
        read(DataConfig(source=str(tmp_path / "others.csv"), test_part="val.txt"))


def test_what_a_table_tells_of_parts_comes_before_lists(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    rows = (f"{name},{CLASSES[number % 3]},{('train', 'test')[number > 9]}" for number, name in enumerate(NAMES))
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label,split", *rows]))
    write_lists(tmp_path, ".txt")
    assert labelled(read(DataConfig(source=str(tmp_path)))) == [*range(10)]
    named = read(DataConfig(source=str(tmp_path), train_part="train.txt", test_part="test.txt"))
    assert labelled(named) == [*range(6)]


def test_several_divisions_of_a_table_are_told(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "labels.csv").write_text(table(NAMES))
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_lists(tmp_path / folder, ".txt")
    (note,) = read_all(tmp_path).summary.guessed
    assert "not that of one of 2 lists (train.txt, train.txt; --data.train-part a/train.txt --data.test-part" in note


@pytest.mark.parametrize("columns", ["file_name,split", "file_name,label,split"])
def test_a_table_divides_class_folders(tmp_path: Path, columns: str) -> None:
    """Before, a column of parts beside class folders was not used."""
    pictures(tmp_path, [f"{CLASSES[number % 3]}/{name}" for number, name in enumerate(NAMES)])
    cells = {"file_name": NAMES, "label": [CLASSES[number % 3] for number in range(12)]}
    cells["split"] = ["train"] * 8 + ["test"] * 4
    rows = (",".join(row) for row in zip(*(cells[name] for name in columns.split(",")), strict=True))
    (tmp_path / "meta.csv").write_text("\n".join([columns, *rows]))
    raw = read(DataConfig(source=str(tmp_path)))
    assert (labelled(raw), len(raw.test or ())) == ([*range(8)], 4)
    assert "training part: the 8 pictures that meta.csv assigns to it" in raw.summary.read


@pytest.mark.parametrize("place", ["annotations/labels.csv", "labels/all.csv"])
@pytest.mark.parametrize("before", ["", "images/", "../images/"])
def test_a_table_in_a_folder_beside_the_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str, before: str
) -> None:
    """Before, naming the table was refused, which messages on several tables advise."""
    pictures(tmp_path / "set/images")
    file = tmp_path / "set" / place
    file.parent.mkdir()
    file.write_text(table([f"{before}{name}" for name in NAMES]))
    same = [read_all(source).name for source in (tmp_path / "set", file)]
    monkeypatch.chdir(file.parent)
    assert [*same, read_all(Path(file.name)).name] == ["set"] * 3
    assert labelled(read(DataConfig(source=str(file), classes=("cat", "owl")))) == [i for i in range(12) if i % 3 != 1]
    monkeypatch.chdir(tmp_path / "set/images")
    for source in (".", str(tmp_path / "set/images")):
        with pytest.raises(InputError, match=rf"or name the table that labels these pictures, --data {file}\."):
            read(DataConfig(source=source))
    (file.parent / "other.csv").write_text(table([f"{before}{name}" for name in NAMES[::-1]]))
    with pytest.raises(InputError, match=rf"several tables .*, --data {file.parent}/\w+.csv, or"):
        read(DataConfig(source=str(tmp_path / "set")))


def test_a_table_of_folders_beside_them(tmp_path: Path) -> None:
    pictures(tmp_path / "scans", [f"{[*PATIENTS][number % 6]}/{number}.png" for number in range(12)])
    file = tmp_path / "about/patients.csv"
    file.parent.mkdir()
    file.write_text("\n".join(["patient,label", *map(",".join, PATIENTS.items())]))
    (note,) = read(DataConfig(source=str(tmp_path))).summary.guessed
    assert f"--data {file} reads those" in note
    assert read(DataConfig(source=str(file))).classes == ("ill", "well")


PATIENTS = {f"P{number:03d}": ("ill", "well")[number % 2] for number in range(6)}
"""The label of each folder; picture i is in folder i modulo 6."""
FOLDER_TABLES = {
    "usual names": (["patient,label", *map(",".join, PATIENTS.items())], ""),
    "a word for a kind": (["id,age,diagnosis", *(f"{name},4{name[-1]},{PATIENTS[name]}" for name in PATIENTS)], ""),
    "no names": ([*map(",".join, PATIENTS.items())], ""),
    "no label": (["patient,age,outcome", *(f"{name},4{name[-1]},{PATIENTS[name]}" for name in PATIENTS)], "outcome"),
}


@pytest.mark.parametrize("kind", FOLDER_TABLES)
@pytest.mark.parametrize("where", ["", "images/"])
def test_a_table_of_folders(tmp_path: Path, kind: str, where: str) -> None:
    """Before, each patient was a class and nothing was said."""
    pictures(tmp_path, [f"{where}{[*PATIENTS][number % 6]}/day/{number}.png" for number in range(12)])
    lines, column = FOLDER_TABLES[kind]
    file = tmp_path / "patients.csv"
    file.write_text("\n".join(lines))
    raw = read(DataConfig(source=str(tmp_path)))
    assert raw.classes == (*PATIENTS,)
    flag = f" --data.label-column {column}" if column else ""
    advice = f"--data {file}{flag} reads those for all pictures of each folder"
    note = f"6 folders as the classes, not the 2 labels that patients.csv gives them (ill, well; {advice})"
    assert raw.summary.guessed == (note,)
    for source in (file, tmp_path) if column else (file,):
        raw = read(DataConfig(source=str(source), label_column=column or None))
        found = [int(image.max()) for image in raw.train.images[:]]
        assert sorted(found) == [*range(12)]
        assert [raw.classes[label] for label in raw.train.labels.tolist()] == [("ill", "well")[i % 2] for i in found]
        assert any(
            "names folders, whose pictures all have the label of their row" in note for note in raw.summary.guessed
        )
        assert any("so that those of one folder are in both parts" in note for note in raw.summary.guessed)


def test_a_table_of_folders_with_parts(tmp_path: Path) -> None:
    """Rows without a folder are told."""
    pictures(tmp_path, [f"{[*PATIENTS][number % 6]}/{number}.png" for number in range(12)])
    rows = [f"{name},{label},{'test' if name > 'P003' else 'train'}" for name, label in PATIENTS.items()]
    (tmp_path / "patients.csv").write_text("\n".join(["patient,label,split", *rows, "P007,ill,test"]))
    raw = read(DataConfig(source=str(tmp_path / "patients.csv")))
    assert (len(raw.train), len(raw.test or ())) == (8, 4)
    assert "1 row of patients.csv that name no folder (P007)" in raw.summary.guessed
    assert not any("both parts" in note for note in raw.summary.guessed)


@pytest.mark.parametrize(
    "lines", [["folder,name", "a,cat", "b,dog", "c,owl"], ["a,b,c", "1,2,3"], ["x,y", "a,1", "a,1"]]
)
def test_tables_that_merge_no_class_folders_are_no_note(tmp_path: Path, lines: list[str]) -> None:
    """Names of the classes, columns called like them, and measurements."""
    pictures(tmp_path, [f"{'abc'[number % 3]}/{number}.png" for number in range(12)])
    (tmp_path / "about.csv").write_text("\n".join(lines))
    raw = read(DataConfig(source=str(tmp_path)))
    assert (raw.classes, raw.summary.guessed) == (("a", "b", "c"), ())


@pytest.mark.parametrize("line", ["{name},{label},{part}", "{part},{name},{label}", "{label};{part};{name}"])
def test_parts_in_a_table_without_names_of_columns(tmp_path: Path, line: str) -> None:
    """Before, no column was called a label, and with one named the parts were not used."""
    pictures(tmp_path)
    lines = (
        line.format(name=name, label=CLASSES[number % 3], part="train" if number < 8 else "Test")
        for number, name in enumerate(NAMES)
    )
    (tmp_path / "list.csv").write_text("\n".join(lines))
    raw = read(DataConfig(source=str(tmp_path)))
    assert (labelled(raw), raw.classes, len(raw.test or ())) == ([*range(8)], CLASSES, 4)
    assert "parts: column split" in raw.summary.read
    column = f"column {line.split(';' if ';' in line else ',').index('{label}') + 1}"  # as earlier versions ask for it
    assert read_all(tmp_path, label_column=column).test is None


@pytest.mark.parametrize(
    "files",
    [
        {"train/metadata.csv": table(NAMES), "test/metadata.csv": table(NAMES[:6])},
        {"train.csv": table(NAMES), "test.csv": table(NAMES[:6])},
        {"train.csv": table(STEMS, "id,label"), "test.csv": table(STEMS[:6], "id,label")},
        {"all.csv": table([f"train/{name}" for name in NAMES] + [f"test/{name}" for name in NAMES[:6]])},
        {"train_1.csv": table(NAMES[:6]), "train_2.csv": table(NAMES[6:]), "test.csv": table(NAMES[:6])},
    ],
)
def test_parts(tmp_path: Path, files: Mapping[str, str]) -> None:
    pictures(tmp_path / "train")
    pictures(tmp_path / "test", NAMES[:6])
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    raw = read_all(tmp_path)
    assert raw.test is not None
    assert [int(image.max()) for image in raw.test.images[:]] == list(range(6))


def test_labels_of_numbers_keep_their_order(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(22)]
    pictures(tmp_path, names)
    (tmp_path / "labels.csv").write_text("image,label\n" + "".join(f"{i},{i % 11}\n" for i in range(22)))
    raw = read(DataConfig(source=str(tmp_path)))
    assert raw.classes == tuple(map(str, range(11)))
    assert [int(image.max()) % 11 for image in raw.train.images[:]] == raw.train.labels.tolist()


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "train.csv").write_text(table(NAMES[:9]) + "009.png,\n010.png,NA\n")
    (tmp_path / "sample_submission.csv").write_text("file_name,label\n000.png,cat\n")
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    raw = read(DataConfig(source=str(tmp_path)))
    assert labelled(raw) == list(range(9))
    assert raw.summary.left_out == (
        "2 images of split train without a label (such as rows 9, 10)",
        "1 picture that no row names (011.png)",
        "2 tables that are not read (notes.csv, sample_submission.csv)",
    )


def test_columns_by_name(tmp_path: Path) -> None:
    """Also where class folders would be read otherwise."""
    pictures(tmp_path, [f"{CLASSES[number % 2]}/{name}" for number, name in enumerate(NAMES)])
    (tmp_path / "labels.csv").write_text(table([f"{name},{name}" for name in NAMES], "file,again,what"))
    assert read(DataConfig(source=str(tmp_path))).classes == ("cat", "dog")
    read_all(tmp_path, label_column="what")
    read_all(tmp_path, label_column="what", image_column="again")
    refused: list[tuple[dict[str, Any], str]] = [
        ({"image_column": "fil"}, "There is no image column 'fil' in .*labels.csv. Did you mean 'file'"),
        ({"label_column": "wat"}, "There is no label column 'wat'"),
        ({"image_column": "file"}, "has no label column called like one"),
    ]
    for how, why in refused:
        with pytest.raises(InputError, match=why):
            read(DataConfig(source=str(tmp_path), **how))


def test_folders_that_are_not_the_classes_of_a_table(tmp_path: Path) -> None:
    names = [f"images_{number % 2}/{name}" for number, name in enumerate(NAMES)]
    pictures(tmp_path, names)
    (tmp_path / "entries.csv").write_text(table(NAMES))
    raw = read(DataConfig(source=str(tmp_path)))
    assert raw.classes == ("images_0", "images_1")
    assert raw.summary.guessed == (
        f"folders as the classes, not the labels in entries.csv (cat, dog, owl; --data {tmp_path}/entries.csv "
        "reads that)",
    )
    read_all(tmp_path / "entries.csv")
    same = "file_name,label\n" + "".join(f"{name},{CLASSES[number % 2]}\n" for number, name in enumerate(NAMES))
    for alike in (same, table(NAMES, "a,b"), "a,b\n", "label\n" * 3, '"', "\N{FULLWIDTH DIGIT THREE}.5,a.png\n"):
        (tmp_path / "entries.csv").write_text(alike)
        assert read(DataConfig(source=str(tmp_path))).summary.guessed == ()


def lines(*rows: str) -> str:
    return "\n".join(rows) + "\n"


ABOVE = "file_name,label"


def beside(source: Path, names: list[str], files: Mapping[str, str]) -> tuple[str, ...]:
    """What is said of tables beside class folders of these pictures."""
    pictures(source, names)
    for file, text in files.items():
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text(text)
    return read(DataConfig(source=str(source))).summary.guessed


FOLDERS = [f"part_{number % 2}/{number}.png" for number in range(6)]


@pytest.mark.parametrize(
    ("where", "file"), [("set/", "labels.csv"), ("", "labels.csv"), ("images/", "tables/labels.csv")]
)
def test_a_table_anywhere_that_tells_other_classes(tmp_path: Path, where: str, file: str) -> None:
    text = table([str(number) for number in range(6)], "id,label")
    (said,) = beside(tmp_path / "all", [f"{where}{name}" for name in FOLDERS], {file: text})
    reads = f"--data {tmp_path}/all/{file} reads that"
    assert said == f"folders as the classes, not the labels in labels.csv (cat, dog, owl; {reads})"
    assert read(DataConfig(source=str(tmp_path / "all" / file))).classes == ("cat", "dog", "owl")


def test_a_table_among_some_of_the_pictures_is_read_by_its_column(tmp_path: Path) -> None:
    files = {"part_1/labels.csv": table([str(number) for number in range(6)], "id,label")}
    (said,) = beside(tmp_path, FOLDERS, files)
    assert "(cat, dog, owl; --data.label-column label reads it)" in said


def test_tables_that_cannot_be_used_beside_class_folders(tmp_path: Path) -> None:
    said = beside(
        tmp_path,
        FOLDERS,
        {
            "a.csv": lines(ABOVE, *(f"{number}.png,x,{number}" for number in range(6))),
            "b.csv": lines("image,MEL,NV", *(f"{number}.png,{number // 3},{1 - number // 3}" for number in range(6))),
            "c.csv": lines("image,width", *(f"{number}.png,{number}" for number in range(6))),
            "d.csv": lines(ABOVE, "elsewhere.png,x"),
            "sample_submission.csv": table([f"{number}.png" for number in range(6)]),
        },
    )
    assert said == (
        f"folders as the classes, not the labels in a.csv, which could not be read ({tmp_path}/a.csv names "
        "pictures, but cannot be read as a table (a row has more values than the first))",
        "folders as the classes, not the labels in b.csv (MEL, NV; write its columns of zeros and ones as "
        "one of labels, and name it with --data)",
    )


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["0.png,x", "0.png,y"], "names the picture '0.png', which may be part_0/0.png or part_1/0.png"),
        (["part_0/0.png,x", 'part_1/3.png,"y\nz"'], "holds a line break ('y\\nz')"),
        (["PART_0/0.PNG,x", "PART_1/3.PNG,y"], "such as 'PART_0/0.PNG' (there is 'part_1/0.png')"),
    ],
)
def test_a_faulty_table_beside_class_folders_is_told(tmp_path: Path, rows: list[str], why: str) -> None:
    (said,) = beside(tmp_path, [*FOLDERS, "part_1/0.png"], {"labels.csv": lines(ABOVE, *rows)})
    assert said.startswith("folders as the classes, not the labels in labels.csv, which could not be used (")
    assert why in said


@pytest.mark.parametrize("name", ["test.csv", "val_labels.csv", "test/metadata.csv"])
def test_a_table_of_the_test_part_alone_is_refused_unless_it_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    pictures(file.parent)
    file.write_text(table(NAMES))
    with pytest.raises(
        InputError, match=r"holds labels of the test part only \([a-z_]+.csv\); add a table of training"
    ):
        read(DataConfig(source=str(tmp_path)))
    read_all(file)


def test_a_table_of_the_test_part_that_divides_itself_is_read(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = (f"{name},{CLASSES[i % 3]},{'train' if i < 6 else 'test'}" for i, name in enumerate(NAMES))
    (tmp_path / "eval.csv").write_text(lines("file_name,label,split", *rows))
    assert labelled(read(DataConfig(source=str(tmp_path)))) == list(range(6))


def test_one_hot_columns_of_which_one_is_called_like_a_label_are_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    flags = (f"{name},{int(i % 3 == 0)},{int(i % 3 == 1)},{int(i % 3 == 2)}" for i, name in enumerate(NAMES))
    (tmp_path / "labels.csv").write_text(lines("filename,decoy,background,target", *flags))
    with pytest.raises(InputError, match="in the columns decoy, background, target, of which target is called like"):
        read(DataConfig(source=str(tmp_path)))
    assert read(DataConfig(source=str(tmp_path), label_column="target")).classes == ("0", "1")


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_a_zero_byte_in_the_name_of_a_column_is_refused(tmp_path: Path, name: str) -> None:
    """Before, an error of `datasets`, which cuts such a name."""
    pictures(tmp_path)
    rows = [{"file_name": each, "label\0": CLASSES[i % 3]} for i, each in enumerate(NAMES)]
    text = table(NAMES, "file_name,label\0") if name.endswith("csv") else lines(*map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=r"a zero byte\); correct it|no column of labels\.jsonl that could be read"):
        read(DataConfig(source=str(tmp_path)))


def test_an_open_quotation_mark_in_any_column_is_refused(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = [f"{name},{CLASSES[i % 3]},{chr(34) * (i in (3, 7))}5 inch" for i, name in enumerate(NAMES)]
    (tmp_path / "labels.csv").write_text(lines("file_name,label,note", *rows))
    with pytest.raises(InputError, match=r"Column note of .*labels.csv holds further rows after a line break"):
        read(DataConfig(source=str(tmp_path)))
    notes = [f'{name},{CLASSES[i % 3]},"two\nlines, of 1"' for i, name in enumerate(NAMES)]
    (tmp_path / "labels.csv").write_text(lines("file_name,label,note", *notes))
    read_all(tmp_path)


def test_lists_of_labels_in_json_lines(tmp_path: Path) -> None:
    pictures(tmp_path)
    rows = [{"file_name": name, "label": [CLASSES[i % 3]], "box": [1, 2]} for i, name in enumerate(NAMES)]
    (tmp_path / "metadata.jsonl").write_text(lines(*map(json.dumps, rows)))
    read_all(tmp_path)
    rows[4] |= {"label": ["dog", "wet"]}
    (tmp_path / "metadata.jsonl").write_text(lines(*map(json.dumps, rows)))
    with pytest.raises(InputError, match=r"hold several per image in one text \(\['dog', 'wet'\]\)"):
        read(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize("column", ["is_training_image", "is_test_image"])
def test_flags_of_parts_that_name_images_are_told(tmp_path: Path, column: str) -> None:
    pictures(tmp_path)
    rows = (f"{name},{CLASSES[i % 3]},{i % 2}" for i, name in enumerate(NAMES))
    (tmp_path / "labels.csv").write_text(lines(f"file_name,label,{column}", *rows))
    (said,) = read(DataConfig(source=str(tmp_path))).summary.guessed
    assert said.startswith(f"all rows as one part, though column {column} (0, 1)")


def test_tables_of_parts_and_of_further_pictures(tmp_path: Path) -> None:
    rows = [f"{name},{name[:6]}" for name in FOLDERS]
    said = beside(tmp_path / "a", FOLDERS, {"train.csv": lines(ABOVE, *rows[:4]), "test.csv": lines(ABOVE, *rows[4:])})
    assert said == (
        "a share of every class as the test part, not that of test.csv (--data.label-column label reads it)",
    )
    names = [*(f"train/{name}" for name in FOLDERS), "Test/0.png", "Test/1.png"]
    (said,) = beside(tmp_path / "b", names, {"Test.csv": lines("Path,ClassId", "Test/0.png,0", "Test/1.png,1")})
    assert said == (
        "class folders alone, not the pictures that Test.csv names elsewhere (--data.label-column ClassId reads it)"
    )


@pytest.mark.parametrize(
    "files",
    [
        {"classes.csv": lines("id,class", "0,cat", "1,dog")},
        {"train.csv": lines("file_name,label", *(f"part_{i % 2}/{i}.png,{i % 2}" for i in range(6)))},
        {"metadata.csv": lines("file_name,male,smoker", *(f"{i}.png,{i % 2},{i // 3}" for i in range(6)))},
        {"splits.csv": lines("file_name,is_train,is_test", *(f"{i}.png,{i % 2},{1 - i % 2}" for i in range(6)))},
        {"pixels.csv": lines("label,a,b,c,d,e,f", *(f"{i},0,1,2,3,4,5" for i in range(6)))},
    ],
)
def test_tables_that_tell_nothing_else_are_not_mentioned(tmp_path: Path, files: Mapping[str, str]) -> None:
    names = [*FOLDERS, "part_0/1.png"] if "classes.csv" in files else FOLDERS
    assert beside(tmp_path, names, files) == ()


def test_a_misspelt_class_of_the_test_part_is_refused_beside_a_table(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{part}/{name}/0.png" for part in ("train", "test") for name in ("cat", "dog")])
    pictures(tmp_path, ["test/dgo/1.png"])
    (tmp_path / "metadata.csv").write_text(lines("file,grade", "train/cat/0.png,a", "train/dog/0.png,b"))
    with pytest.raises(InputError, match="holds a class 'dgo' that the training part does not"):
        read(DataConfig(source=str(tmp_path)))


def test_a_table_of_a_class_that_was_not_chosen_is_not_mentioned(tmp_path: Path) -> None:
    pictures(tmp_path, [*FOLDERS, "owls/7.png", "owls/8.png"])
    (tmp_path / "owls.csv").write_text(lines(ABOVE, "owls/7.png,owl", "owls/8.png,owl"))
    assert read(DataConfig(source=str(tmp_path), classes=("part_0", "part_1"))).summary.guessed == ()


def test_a_part_inside_itself_whose_labels_stand_in_a_table(tmp_path: Path) -> None:
    pictures(tmp_path, [*(f"train/train/{name}" for name in NAMES), "test/test/x.png"])
    (tmp_path / "train.csv").write_text(table(STEMS, "id,label"))
    assert "1 picture that no row names (x.png)" in read_all(tmp_path).summary.left_out


MASKS = [f"masks/{name}" for name in NAMES]
OTHERS = {"two pictures": [f"set/{name}" for name in MASKS], "one of several": ["set/a/both.png", "set/b/both.png"]}
"""Further pictures of a case."""
REFUSED = {
    "an example beside it": (
        {"labels.csv": table(NAMES), "sample.csv": table(NAMES)},
        r"several tables that name pictures of it \(labels.csv, sample.csv\); name the one with the labels, --data",
    ),
    "a picture twice": (
        {"labels.csv": table([*NAMES, NAMES[0]])},
        "2 rows of labels.csv name the picture 'in/000.png'",
    ),
    "a picture that is not there": (
        {"labels.csv": table([*NAMES, "x.png"])},
        "A row names the picture 'x.png', which is no file",
    ),
    "a path outside": (
        {"labels.csv": table([*NAMES, "../secret.png"])},
        r"A row names the picture '\.\./secret.png', which is no file",
    ),
    "an empty name": ({"labels.csv": table([*NAMES, ""])}, "Image 12 of set, train part cannot be read as an image"),
    "two pictures": (
        {"labels.csv": table([f"{a},{b}" for a, b in zip(NAMES, MASKS, strict=True)], "image,mask,label")},
        "has several columns that could be the image: image, mask; name one with --data.image-column",
    ),
    "one of several": (
        {"labels.csv": table([*NAMES[:4], "both.png"])},
        "names the picture 'both.png', which may be a/both.png or b/both.png; write their paths",
    ),
    "other columns in a piece": (
        {"train_1.csv": table(NAMES[:6]), "train_2.csv": table(NAMES[6:], "file_name,klass")},
        "train_1.csv has the columns file_name, label and train_2.csv has file_name, klass; give files with the same",
    ),
    "other names of pictures": (
        {"train.csv": table(NAMES), "test.csv": table(NAMES, "image,label")},
        "name pictures in different columns",
    ),
    "other pictures": (
        {"labels.csv": table([f"x{name}" for name in NAMES])},
        r"labels.csv names pictures that are not in its folder or below it, such as 'x000.png'; put them there",
    ),
    "no label": ({"labels.csv": table(NAMES, "file_name,height")}, "no label column called like one"),
    **{
        f"a table that cannot be read ({name})": (
            {"labels.csv": text},
            rf"labels.csv names pictures, but cannot be read as a table \({why}\); correct it, or move it elsewhere",
        )
        for name, text, why in (
            ("ragged", table(NAMES) + "a,b,c,d\n", "a row has more values than the first"),
            ("twice", table(NAMES, "label,label"), "two of its columns have one name"),
        )
    },
    **{
        f"no table ({name})": (
            {"labels.csv": text},
            r"no column of labels.csv that could be read names the pictures: write a CSV file with the columns",
        )
        for name, text in {
            "nothing": "",
            "labels alone": "label\n" + "cat\n" * 12,
        }.items()
    },
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path: Path, name: str) -> None:
    files, why = REFUSED[name]
    pictures(tmp_path / "set/in")
    pictures(tmp_path, ["secret.png", *OTHERS.get(name, [])])
    for file, text in files.items():
        (tmp_path / "set" / file).write_text(text)
    with pytest.raises(InputError, match=why):
        read(DataConfig(source=str(tmp_path / "set"), label_column=None if name.startswith("no ") else "label"))


SMALL: dict[str, tuple[list[str], dict[str, str], dict[str, str] | str]] = {
    "a number is no name beside names": (
        ["1.jpg", "2.jpg", "3.jpg"],
        {"labels.csv": lines("id,image,label", "1,/up/8a-3.jpg,dog", "2,/up/8a-1.jpg,cat", "3,/up/8a-2.jpg,cat")},
        "names pictures that are not in its folder or below it, such as '/up/8a-3.jpg'",
    ),
    "nor is it one of two pictures": (
        ["0.png", "1.png"],
        {"labels.csv": lines("file_name,label,age", "0.png,dog,1", "1.png,cat,0")},
        {"0.png": "dog", "1.png": "cat"},
    ),
    "a folder that is not there": (
        ["1.png", "2.png", "b/3.png"],
        {"labels.csv": lines(ABOVE, "b/3.png,cat", "c/1.png,dog", "c/2.png,dog")},
        "A row names the picture 'c/1.png', which is no file",
    ),
    "pictures of another part": (
        ["train/1.png", "train/7.png"],
        {"train/metadata.csv": lines(ABOVE, "train/1.png,cat", "test/7.png,dog")},
        "A row names the picture 'test/7.png', which is no file",
    ),
    "a test part that is not there": (
        ["train/1.png", "train/2.png", "train/3.png"],
        {"train.csv": lines("id,label", "1,cat", "2,dog"), "test.csv": lines("id,label", "3,dog")},
        {"train/1.png": "cat", "train/2.png": "dog"},
    ),
    "stems in the folders of their tables": (
        ["train/1.png", "train/2.png", "test/1.png"],
        {"train/labels.csv": lines("id,label", "1,cat", "2,dog"), "test/labels.csv": lines("id,label", "1,dog")},
        {"train/1.png": "cat", "train/2.png": "dog"},
    ),
    "the folder above": (
        ["1.png", "2.png"],
        {"labels.csv": lines(ABOVE, "set/1.png,cat", "set/2.png,dog")},
        {"1.png": "cat", "2.png": "dog"},
    ),
    "masks in a folder called like the table": (
        ["images/0.jpg", "images/1.jpg", "labels/0.png", "labels/1.png"],
        {"labels.csv": lines("id,label", "0,cat", "1,dog")},
        "names the picture '0', which may be images/0.jpg or labels/0.png",
    ),
    "a mask of one ending more": (
        ["images/0.jpg", "images/1.jpg", "masks/0.jpg.png"],
        {"labels.csv": lines(ABOVE, "0.jpg,cat", "1.jpg,dog")},
        {"images/0.jpg": "cat", "images/1.jpg": "dog"},
    ),
    "names of the training part in other letters": (
        ["train/IMG_1.jpg", "test/t1.jpg", "test/t2.jpg"],
        {"train.csv": lines(ABOVE, "img_1.jpg,cat"), "example.csv": lines(ABOVE, "t1.jpg,cat", "t2.jpg,dog")},
        "train.csv names pictures that are not in its folder",
    ),
    "an example of a submission": (
        ["train/a.jpg", "train/b.jpg", "test/t.jpg"],
        {"labels.csv": lines("id,breed", "a,cat", "b,dog"), "sample_submission.csv": lines("id,breed", "t,cat")},
        {"train/a.jpg": "cat", "train/b.jpg": "dog"},
    ),
    "a picture called like a column": (
        ["image.png", "label.png", "a.png", "b.png"],
        {"labels.csv": lines("image,label", "a.png,dog", "b.png,cat")},
        {"a.png": "dog", "b.png": "cat"},
    ),
    "an empty line and zeros": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines("", "image,label", "a.png,01", "b.png,1", "c.png,001")},
        {"a.png": "01", "b.png": "1", "c.png": "001"},
    ),
    "a number in one piece, a word in the other": (
        ["a.png", "b.png"],
        {"train_1.csv": lines("image,label,age", "a.png,x,3"), "train_2.csv": lines("image,label,age", "b.png,y,?")},
        {"a.png": "x", "b.png": "y"},
    ),
    "digits of other scripts": (
        ["a.png", "b.png"],
        {"labels.csv": lines("image,label", "a.png,\N{FULLWIDTH DIGIT THREE}.\N{FULLWIDTH DIGIT FIVE}", "b.png,1.5")},
        {"a.png": "\N{FULLWIDTH DIGIT THREE}.\N{FULLWIDTH DIGIT FIVE}", "b.png": "1.5"},
    ),
    "a quotation mark that is not closed": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines("image,label", "a.png,x", 'b.png,"y', 'c.png,x"')},
        "Column label of .*labels.csv holds a line break",
    ),
    "several labels": (
        ["a.png", "b.png"],
        {"labels.csv": lines("image,label", "a.png,x|y", "b.png,x")},
        r"The labels of set, column label hold several per image in one text \(x\|y\)",
    ),
    "several labels in a list": (
        ["a.png", "b.png"],
        {"labels.jsonl": lines('{"image": "a.png", "label": ["x", "y"]}', '{"image": "b.png", "label": ["x"]}')},
        "hold several per image in one text",
    ),
    "a table in a folder of its own": (
        ["images/a.png", "images/b.png"],
        {"labels/labels.csv": lines("Filename,Label", "a.png,1", "b.png,0")},
        {"images/a.png": "1", "images/b.png": "0"},
    ),
    "a column of row numbers without a name": (
        ["a.png", "b.png"],
        {"labels.csv": lines(",label,file", "0,cat,a.png", "1,dog,b.png")},
        {"a.png": "cat", "b.png": "dog"},
    ),
    "another table of pairs": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, "a.png,cat", "b.png,dog"), "pairs.csv": lines("one,two", "a.png,b.png")},
        {"a.png": "cat", "b.png": "dog"},
    ),
    "of Excel": (
        ["a.png", "b.png"],
        {"labels.csv": lines("sep=;", "image;label;;", "a.png;cat;;", 'b.png; "dog";;')},
        {"a.png": "cat", "b.png": "dog"},
    ),
    "tabs and a comma": (
        ["a.png", "b.png"],
        {"labels.tsv": lines("image\tsize, in cm\tlabel", "a.png\t1\tcat", "b.png\t2\tdog")},
        {"a.png": "cat", "b.png": "dog"},
    ),
    "most pictures absent": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, *(f"x{number}.png,cat" for number in range(20)), "a.png,cat", "b.png,dog")},
        "A row names the picture 'x0.png', which is no file",
    ),
    "a row too long, late": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, *["a.png,cat"] * 20, "b.png,dog,c")},
        "cannot be read to its end",
    ),
    "deep lines": (
        ["a/1.png", "b/2.png"],
        {"labels.jsonl": '{"x": ' + "[" * 3000 + "]" * 3000 + "}\n"},
        {"a/1.png": "a", "b/2.png": "b"},
    ),
    "a test part alone that can be read": (
        ["train/a.png", "test/b.png"],
        {"train.csv": lines(ABOVE, "a.png,cat,b"), "test.csv": lines(ABOVE, "b.png,cat")},
        r"train.csv names pictures, but cannot be read as a table \(a row has more values than the first\)",
    ),
    "a faulty table of labels beside another": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, "a.png,cat", "x.png,dog", "y.png,dog"), "test.csv": lines(ABOVE, "b.png,cat")},
        "A row names the picture 'x.png', which is no file",
    ),
    "a smaller table called after a part": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines(ABOVE, "a.png,cat", "b.png,dog"), "train_subset.csv": lines(ABOVE, "a.png,cat")},
        r"several tables that name pictures of it \(labels.csv, train_subset.csv\); name the one with the labels",
    ),
    "other pictures beside those of the parts": (
        ["a.png", "b.png", "signs/0.png"],
        {"train.csv": lines(ABOVE, "a.png,cat", "b.png,dog"), "signs.csv": lines(ABOVE, "signs/0.png,cat")},
        {"a.png": "cat", "b.png": "dog"},
    ),
    "an example alone": (
        ["test/1.png", "test/2.png"],
        {"sample_submission.csv": lines("id,label", "1,1", "2,0")},
        r"\(sample_submission.csv: taken for a sample submission; name it with --data if it has labels\)",
    ),
    "whole numbers and fractions": (
        ["a.png", "b.png", "c.png"],
        {"train_1.csv": lines(ABOVE, "a.png,0", "b.png,1"), "train_2.csv": lines(ABOVE, "c.png,1.0")},
        {"a.png": "0", "b.png": "1", "c.png": "1"},
    ),
    "missing among numbers": (
        ["a.png", "b.png", "c.png", "d.png"],
        {"labels.csv": lines(ABOVE, "a.png,0", "b.png,1", "c.png,None", "d.png,<NA>")},
        {"a.png": "0", "b.png": "1"},
    ),
    "a class that is called none": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines(ABOVE, "a.png,scratch", "b.png,None", "c.png,n/a")},
        {"a.png": "scratch", "b.png": "None"},
    ),
    "two words that are labels": (
        ["a.png", "b.png", "c.png", "d.png"],
        {"labels.csv": lines(ABOVE, "a.png,scab", "b.png,rust", "c.png,scab rust", "d.png,rust scab")},
        {"a.png": "scab", "b.png": "rust", "c.png": "scab rust", "d.png": "rust scab"},
    ),
    "a class called na": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines(ABOVE, "a.png,na", "b.png,Nan", "c.png,NA")},
        {"a.png": "na", "b.png": "Nan"},
    ),
    "a log whose numbers are names of pictures": (
        ["0.png", "1.png"],
        {"labels.csv": lines(ABOVE, "0.png,cat", "1.png,dog"), "log.csv": lines("epoch,loss", "0,0.1,2", "1,0.2,3")},
        {"0.png": "cat", "1.png": "dog"},
    ),
    "pairs with a class beside labels of all": (
        ["0.png", "1.png"],
        {"labels.csv": lines(ABOVE, "0.png,cat", "1.png,dog"), "pairs.csv": lines("a,b,class", "0.png,1.png,x")},
        {"0.png": "cat", "1.png": "dog"},
    ),
    "labels of pictures that are not there": (
        ["0.png", "1.png"],
        {"labels.csv": lines(ABOVE, "0.png,cat", "1.png,dog"), "more.csv": lines(ABOVE, "8.png,cat", "9.png,dog")},
        {"0.png": "cat", "1.png": "dog"},
    ),
    "the labels of all parts once more": (
        ["0.png", "1.png", "2.png"],
        {
            "labels.csv": lines(ABOVE, "0.png,cat", "1.png,dog", "2.png,dog"),
            "train.csv": lines(ABOVE, "0.png,cat", "1.png,dog"),
            "test.csv": lines(ABOVE, "2.png,dog"),
        },
        {"0.png": "cat", "1.png": "dog"},
    ),
    "another label in the table of all": (
        ["0.png", "1.png"],
        {
            "labels.csv": lines(ABOVE, "0.png,dog", "1.png,dog"),
            "train.csv": lines(ABOVE, "0.png,cat", "1.png,dog"),
        },
        "has several tables that name pictures of it",
    ),
    "whole numbers beside fractions": (
        ["0.png", "1.png", "2.png"],
        {"labels.csv": lines(ABOVE, "0.png,1", "1.png,1.5", "2.png,2")},
        {"0.png": "1", "1.png": "1.5", "2.png": "2"},
    ),
    "names of classes in the training part alone": (
        ["0.png", "1.png", "2.png"],
        {
            "train.csv": lines("file,label,label_name", "0.png,0,cat", "1.png,1,dog"),
            "test.csv": lines("file,label,label_name", "2.png,0,"),
        },
        {"0.png": "cat", "1.png": "dog"},
    ),
    "a header that is a picture's name": (
        ["image.png", "a.png"],
        {"labels.csv": lines("image,class", "image,cat", "a,dog")},
        {"image.png": "cat", "a.png": "dog"},
    ),
    "labels with a comma": (
        ["a.png", "b.png", "c.png"],
        {"labels.csv": lines(ABOVE, "a.png,cat", "b.png,dog", 'c.png,"cat, dog"')},
        {"a.png": "cat", "b.png": "dog", "c.png": "cat, dog"},
    ),
    "a comma in a name": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, 'a.png,"Tomato, red"', 'b.png,"Tomato, green"')},
        {"a.png": "Tomato, red", "b.png": "Tomato, green"},
    ),
    "a list as text": (
        ["a.png", "b.png"],
        {"labels.csv": lines(ABOVE, "a.png,\"['cat', 'dog']\"", "b.png,\"['owl']\"")},
        "hold several per image in one text",
    ),
    "places in the picture": (
        ["a.png", "b.png"],
        {"labels.csv": lines("image,x,y,kind", "a.png,3,4,round", "b.png,1,2,flat")},
        {"a.png": "round", "b.png": "flat"},
    ),
    "names without endings and no header": (
        ["00.png", "01.png"],
        {"labels.csv": lines("00,cat", "01,dog")},
        {"00.png": "cat", "01.png": "dog"},
    ),
    "a step up": (
        ["images/a.png", "images/b.png"],
        {"tables/labels.csv": lines(ABOVE, "../images/a.png,cat", "../images/b.png,dog")},
        {"images/a.png": "cat", "images/b.png": "dog"},
    ),
    "letters taken apart": (
        ["cafe\u0301.png", "b.png"],
        {"labels.csv": lines(ABOVE, "caf\N{LATIN SMALL LETTER E WITH ACUTE}.png,cat", "b.png,dog")},
        {"cafe\u0301.png": "cat", "b.png": "dog"},
    ),
    "other capitals": (
        ["a.JPG", "b.JPG"],
        {"labels.csv": lines(ABOVE, "a.jpg,cat", "b.jpg,dog")},
        r"such as 'a.jpg' \(there is 'a.JPG'\)",
    ),
    "a key that is no text": (
        ["a.png", "b.png"],
        {
            "labels.jsonl": lines(
                '{"image": "a.png", "label": "x", "\\ud800": 1}', '{"image": "b.png", "label": "y", "\\ud800": 2}'
            )
        },
        {"a.png": "x", "b.png": "y"},
    ),
    "numbers that have other names in another part": (
        ["a.png", "b.png", "c.png"],
        {
            "train.csv": lines("image,label,label_name", "a.png,0,cat", "b.png,1,dog"),
            "test.csv": lines("image,label,label_name", "c.png,0,dog"),
        },
        "Column label_name calls class 0 'cat' in one part of the data and 'dog' in another; number the parts alike",
    ),
    "no UTF-8": (
        [os.fsdecode(b"caf\xe9/a.png"), "bar/b.png"],
        {"labels.csv": lines(ABOVE, "a.png,x", "b.png,x")},
        {os.fsdecode(b"caf\xe9/a.png"): "caf\\xe9", "bar/b.png": "bar"},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_which_picture_is_meant(tmp_path: Path, name: str) -> None:
    paths, files, expected = SMALL[name]
    pictures(tmp_path / "set", paths)
    for file, text in files.items():
        (tmp_path / "set" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / file).write_text(text, encoding="utf-8")
    source = tmp_path / "set"
    if "mask" in name:  # whose folders are read as classes, which is said
        source = source / "labels.csv"
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            read(DataConfig(source=str(source)))
        return
    raw = read(DataConfig(source=str(source)))
    labels = [raw.classes[label] for label in raw.train.labels.tolist()]
    numbers = [int(image.max()) for image in raw.train.images[:]]
    assert {paths[number]: label for number, label in zip(numbers, labels, strict=True)} == expected
    assert len(numbers) == len(expected)


def test_a_linked_folder_gives_no_picture_twice(tmp_path: Path) -> None:
    pictures(tmp_path / "real")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    (tmp_path / "labels.csv").write_text(lines(ABOVE, "real/000.png,cat", "real/001.png,dog", "alias/000.png,dog"))
    with pytest.raises(InputError, match=r"is no file in|rows of labels\.csv name the picture"):
        read(DataConfig(source=str(tmp_path / "labels.csv")))


def test_other_files_are_told(tmp_path: Path) -> None:
    pictures(tmp_path / "images")
    (tmp_path / "images/x.heic").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(b"x")
    (tmp_path / "labels.csv").write_text(table(NAMES))
    assert read_all(tmp_path).summary.left_out == (
        "1 file that is no picture (notes.txt)",
        "1 picture in a format that is not read (x.heic)",
    )


def test_folders_by_number_that_are_no_classes(tmp_path: Path) -> None:
    pictures(tmp_path, ["0/a.png", "0/b.png", "1/c.png", "1/d.png"])
    (tmp_path / "labels.csv").write_text(lines(ABOVE, "a.png,0", "b.png,1", "c.png,0", "d.png,1"))
    (said,) = read(DataConfig(source=str(tmp_path))).summary.guessed
    assert said.startswith("folders as the classes, not the labels in labels.csv (0, 1; --data")


def test_other_bytes_are_no_table(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    for content in (b"\xff\xfe\x00", b"file_name,label\n\xe9.png,cat\n", b"\0" * 40):
        (tmp_path / "set/labels.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"no column of labels\.csv that could be read"):
            read(DataConfig(source=str(tmp_path / "set")))
        with pytest.raises(InputError, match="is no table, in UTF-8, with a column that names pictures below"):
            read(DataConfig(source=str(tmp_path / "set/labels.csv")))


@pytest.mark.parametrize("beside", [False, True])
def test_other_encodings(tmp_path: Path, beside: bool) -> None:
    """UTF-16 says that it is one; of others a sentence tells, also beside a table that can be read."""
    pictures(tmp_path, [*NAMES, "test/t.png"])
    text = table(NAMES).replace("owl", "h\N{LATIN SMALL LETTER U WITH DIAERESIS}hner")
    if beside:
        (tmp_path / "test.csv").write_text(lines(ABOVE, "t.png,cat"))
    (tmp_path / "train.csv").write_bytes(text.encode("utf-16"))
    raw = read(DataConfig(source=str(tmp_path)))
    assert raw.classes == ("cat", "dog", "h\N{LATIN SMALL LETTER U WITH DIAERESIS}hner")
    assert (len(raw.train), raw.test is not None) == (12, beside)
    (tmp_path / "train.csv").write_bytes(text.encode("cp1252"))
    with pytest.raises(
        InputError, match=r"train\.csv names pictures, but cannot be read as a table \(it is not in UTF-8"
    ):
        read(DataConfig(source=str(tmp_path)))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("is_valid", ("True", "False")),
        ("is_valid", ("0", "1")),
        ("valid", ("yes", "no")),
        ("split", ("tr", "te")),
        ("kfold", ("0", "1")),
        ("fold", ("0.0", "1.0")),
        ("cv_fold", ("fold1", "fold2")),
    ],
)
def test_columns_that_may_tell_parts_are_told(tmp_path: Path, column: str, values: tuple[str, str]) -> None:
    pictures(tmp_path)
    cells = [f"{name},{values[number % 2]}" for number, name in enumerate(NAMES)]
    (tmp_path / "labels.csv").write_text(table(cells, f"file_name,{column},label"))
    (said,) = read_all(tmp_path).summary.guessed
    assert said.startswith(f"all rows as one part, though column {column} (")


@pytest.mark.parametrize(("column", "values"), [("covid_test", ("yes", "no")), ("body_part", ("l", "r"))])
def test_columns_of_something_else_are_not(tmp_path: Path, column: str, values: tuple[str, str]) -> None:
    pictures(tmp_path)
    cells = [f"{name},{values[number % 2]}" for number, name in enumerate(NAMES)]
    (tmp_path / "labels.csv").write_text(table(cells, f"file_name,{column},label"))
    assert read_all(tmp_path).summary.guessed == ()


def test_a_column_of_parts_beside_a_test_part_is_told(tmp_path: Path) -> None:
    pictures(tmp_path, [*NAMES, "t.png"])
    cells = [f"{name},{('train', 'val')[number % 2]},{number % 2}" for number, name in enumerate(NAMES)]
    (tmp_path / "train.csv").write_text(table(cells, "file_name,split,fold,label"))
    (tmp_path / "test.csv").write_text(lines("file_name,split,fold,Label", "t.png,test,0,cat"))
    summary = read_all(tmp_path).summary
    (said,) = summary.guessed
    assert said.startswith("all rows as one part, though column split (train, val)")
    assert "split test, which has no column label, but Label" in summary.left_out


def test_a_changed_table_is_read_again(tmp_path: Path) -> None:
    pictures(tmp_path / "set")
    (tmp_path / "set/labels.csv").write_text(table(NAMES))
    before = load_dataset(str(tmp_path / "set"))
    (tmp_path / "set/labels.csv").write_text(table(NAMES[1:]))
    after = load_dataset(str(tmp_path / "set"))
    assert len(before.train) + len(before.test) == 12
    assert len(after.train) + len(after.test) == 11
    assert before.fingerprint != after.fingerprint
