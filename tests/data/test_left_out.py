"""What of a folder is read and what is left out: hidden and system folders, links, endings, pipes, names in any bytes;
pictures that are refused."""

from __future__ import annotations

import os
import pickle
import struct
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from astdistill.data import decoding
from astdistill.data.dataset import Source, Summary
from astdistill.data.digests import FileSet
from astdistill.data.levels import Values
from astdistill.data.loading import load_dataset
from astdistill.data.selection import ClassChoice
from astdistill.runtime.errors import InputError


@pytest.fixture
def pets(tmp_path: Path, write_pictures: Callable[..., None]) -> Path:
    """Two classes of five pictures."""
    for number, name in enumerate(("cat", "dog")):
        write_pictures(tmp_path / "pets" / name, 5, seed=number)
    return tmp_path / "pets"


def count(folder: Path) -> list[int]:
    """Pictures of each class, those that were set aside for testing among them."""
    data = load_dataset(str(folder))
    return torch.bincount(torch.cat([data.train.labels, data.test.labels])).tolist()


@pytest.mark.parametrize(
    "junk",
    [
        "cat/.ipynb_checkpoints",
        "@eaDir/cat",
        "cat/@eaDir/000.png",
        "__MACOSX/pets/cat",
        ".git/x",
        "dog/.thumbnails",
        "$RECYCLE.BIN/dog",
        "lost+found/dog",
        "#recycle/a",
        "System Volume Information/a",
    ],
)
def test_hidden_and_system_folders_are_left_out_at_any_depth(
    pets: Path, write_pictures: Callable[..., None], junk: str
) -> None:
    write_pictures(pets / junk, 2)
    assert count(pets) == [5, 5]
    name = next(part for part in junk.split("/") if part not in ("cat", "dog"))
    assert load_dataset(str(pets)).summary.left_out == (f"1 hidden or system file or folder ({name})",)


def test_a_folder_called_like_a_picture_is_a_folder(pets: Path, write_pictures: Callable[..., None]) -> None:
    (pets / "dog" / "empty.png").mkdir()
    write_pictures(pets / "cat" / "more.png", 2)
    assert count(pets) == [7, 5]


@pytest.mark.parametrize(
    "ending",
    [
        "jfif",
        "jpe",
        "JPG",
        "avif",
        "jp2",
        "j2k",
        "tga",
        "pbm",
        "pnm",
        "ppm",
        "pgm",
        "dib",
        "webp",
        "tif",
        "pcx",
        "qoi",
        "sgi",
        "apng",
    ],
)
def test_endings_that_pillow_reads_are_read(pets: Path, ending: str) -> None:
    grey = np.full((8, 8), 255, np.uint8)
    known = {"jfif": "JPEG", "jpe": "JPEG", "pnm": "PPM", "apng": "PNG"}
    picture = Image.fromarray(grey).convert("1" if ending == "pbm" else "RGB")
    place = pets / "cat" / f"zzz.{ending}"
    picture.save(place, known.get(ending, Image.registered_extensions()[f".{ending.lower()}"]))
    data = load_dataset(str(pets), whiten="none", per_class=None)
    assert len(data.train) + len(data.test) == 11
    both = torch.cat([data.train.whole()[data.train.labels == 0], data.test.whole()[data.test.labels == 0]])
    assert sorted(both.mean(dim=(1, 2, 3)).tolist())[-1] > 0.99


def test_what_is_not_read_is_counted_and_named(pets: Path) -> None:
    for name in ("a.heic", "b.EPS", "c.svg", "d.dcm", "e.txt", "f", "g.xml", ".DS_Store", "Thumbs.db"):
        (pets / "cat" / name).write_text("nothing")
    (pets / "README.md").write_text("about")
    assert load_dataset(str(pets)).summary.left_out == (
        "4 files that are no pictures (README.md, e.txt, f)",
        "4 pictures in formats that are not read (a.heic, b.EPS, c.svg)",
        "2 hidden or system files and folders (.DS_Store, Thumbs.db)",
    )


def test_pictures_in_a_format_that_is_not_read_are_named_where_there_are_no_others(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "in" / name).mkdir(parents=True)
        (tmp_path / "in" / name / "0.heic").write_text("nothing")
    with pytest.raises(InputError, match=r"no pictures, but 2 pictures in formats that are not read \(0\.heic"):
        load_dataset(str(tmp_path / "in"))


def test_links_are_followed(tmp_path: Path, pets: Path, write_pictures: Callable[..., None]) -> None:
    parts, classes = tmp_path / "parts", tmp_path / "classes"
    parts.mkdir()
    classes.mkdir()
    (parts / "train").symlink_to(pets)
    (parts / "test").symlink_to(pets)
    (classes / "tom").symlink_to(pets / "cat")
    (classes / "rex").mkdir()
    (classes / "rex" / "more").symlink_to(pets / "dog")
    (classes / "rex" / "one.png").symlink_to(pets / "dog" / "000.png")
    assert len(load_dataset(str(parts)).test) == 10
    assert load_dataset(str(classes)).classes == ("rex", "tom")
    assert count(classes) == [6, 5]


def test_links_in_a_circle_and_to_folders_that_are_read_already(pets: Path) -> None:
    before = load_dataset(str(pets)).fingerprint
    (pets / "all").symlink_to(".")
    (pets / "cat" / "up").symlink_to("..")
    (pets / "cat" / "root").symlink_to("/")
    (pets / "dog" / "a").mkdir()
    (pets / "dog" / "b").symlink_to("a")
    for number in range(2):
        (pets / "dog" / f"00{number}.png").rename(pets / "dog" / "a" / f"00{number}.png")
    assert count(pets) == [5, 5]
    data = load_dataset(str(pets))
    assert data.fingerprint != before  # the order of paths is that of the pictures
    assert data.summary.left_out == ("4 links to folders that are read already (all, root, up)",)


def test_one_folder_under_two_names_is_said(pets: Path) -> None:
    (pets / "kitty").symlink_to("cat")
    assert load_dataset(str(pets)).summary.guessed == ("the same folder in several places: cat, kitty",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_pipes_devices_and_links_to_nothing_are_left_out(pets: Path) -> None:
    os.mkfifo(pets / "cat" / "pipe.png")
    (pets / "cat" / "zero.png").symlink_to("/dev/zero")
    (pets / "cat" / "gone.png").symlink_to("nowhere")
    (pets / "cat" / "self.png").symlink_to("self.png")
    assert count(pets) == [5, 5]
    assert load_dataset(str(pets)).summary.left_out == (
        "4 links to nothing, pipes, devices or sockets (gone.png, pipe.png, self.png)",
    )
    for path in (pets / "cat" / "pipe.png", Path("/dev/zero")):
        with pytest.raises(InputError, match="is a pipe, device or socket"):
            load_dataset(str(path))
        with pytest.raises(InputError, match="is a pipe, device or socket"):
            decoding.file_bytes(path)


@pytest.mark.parametrize("locked", [".", "cat", "cat/more"])
def test_a_folder_that_may_not_be_read_is_a_sentence(
    pets: Path, write_pictures: Callable[..., None], monkeypatch: pytest.MonkeyPatch, locked: str
) -> None:
    """As an ordinary user meets it; the tests may run as root, whom no mode keeps out."""
    write_pictures(pets / "cat" / "more", 1)
    listed = os.scandir

    def scandir(folder: Path) -> Iterator[os.DirEntry[str]]:
        if Path(folder) == pets / locked:
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(InputError, match=rf"{pets / locked} cannot be read \(Permission denied\).*--data"):
        load_dataset(str(pets))


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems allow only text as names")
def test_names_in_any_bytes(pets: Path) -> None:
    before = load_dataset(str(pets), memory="disk")
    os.rename(os.fsencode(pets / "cat"), os.fsencode(pets) + b"/caf\xe9")
    os.rename(os.fsencode(pets / "dog" / "000.png"), os.fsencode(pets / "dog") + b"/000\xff\n\x1b.png")
    os.rename(os.fsencode(pets), os.fsencode(pets) + b"\xfe")
    folder = os.fsdecode(os.fsencode(pets) + b"\xfe")
    for _ in range(2):
        data = load_dataset(folder, memory="disk")
        assert (data.name, data.classes) == ("pets\\xfe", ("caf\\xe9", "dog"))
        assert torch.equal(data.train.whole(), before.train.whole())
    (Path(folder) / "dog" / os.fsdecode(b"000\xff\n\x1b.png")).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"pets\\xfe/dog/000\\xff\\x0a\\x1b\.png cannot be read as an image"):
        load_dataset(folder)


def test_a_known_name_beside_a_folder_of_that_name(pets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ASTDISTILL_DATA", raising=False)
    for name in ("digits", "mnist", "imagenet-nette"):
        (tmp_path / name).symlink_to(pets)
        assert load_dataset(f"./{name}").classes == ("cat", "dog")
    digits = load_dataset("digits")
    assert len(digits.train) == 1437
    assert f"not {tmp_path}/digits (--data ./digits reads that)" in digits.summary.guessed[0]
    for name in ("mnist", "imagenet-nette"):
        with pytest.raises(InputError, match=rf"To read the {name} in this folder, give --data \./{name}"):
            load_dataset(name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(pets)
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path / "data"))
    assert "the known data set mnist, not" in load_dataset("mnist").summary.guessed[0]


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


def test_no_program_is_started_for_a_picture(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = list[object]()
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given, **_: started.append(given))
    (pets / "cat" / "000.png").write_bytes(EPS)
    with pytest.raises(InputError, match=r"000\.png cannot be read as an image"):
        load_dataset(str(pets))
    assert not started
    assert not {"EPS", "WMF", "IPTC", "HDF5", "GRIB", "BUFR"} & set(decoding.readable_formats())


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large; the pixels would come from a few bytes."""

    def piece(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + piece(b"IHDR", header) + piece(b"IDAT", zlib.compress(bytes(1000))) + piece(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "data", [png(10_000, 9_000), png(30_000, 30_000), png(2**31 - 1, 2**31 - 1), b"P6 60000 60000 255\n"]
)
def test_the_pixels_of_a_picture_are_bounded_before_it_is_decoded(pets: Path, data: bytes) -> None:
    (pets / "cat" / "000.png").write_bytes(data)
    with pytest.raises(InputError, match=r"000\.png has more than the 89,478,485 pixels"):
        load_dataset(str(pets), size=8)


def test_a_file_larger_than_a_picture_may_be_is_refused_unread(pets: Path) -> None:
    with (pets / "cat" / "000.png").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte of nothing, which takes no room
    with pytest.raises(InputError, match=r"000\.png is larger than 1024 MiB"):
        load_dataset(str(pets))


def test_decoding_holds_few_pictures(tmp_path: Path) -> None:
    """Forty names of one file of 3 MB: less than ten of them at once."""
    for name in "ab":
        (tmp_path / "in" / name).mkdir(parents=True)
    first = tmp_path / "in" / "a" / "0.bmp"
    Image.fromarray(np.zeros((1000, 1000, 3), np.uint8)).save(first)
    for number in range(1, 20):
        os.link(first, tmp_path / "in" / "a" / f"{number}.bmp")
        os.link(first, tmp_path / "in" / "b" / f"{number}.bmp")
    tracemalloc.start()
    load_dataset(str(tmp_path / "in"), size=8)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


@pytest.mark.parametrize(("length", "most"), [(100, 1000), (1 << 20, 16), (1 << 24, 1), (1 << 26, 1)])
def test_pictures_are_fetched_together_as_far_as_they_are_small(
    monkeypatch: pytest.MonkeyPatch, length: int, most: int
) -> None:
    asked, data = list[int](), b"x" * length

    def fetch(part: str, rows: Sequence[int]) -> list[bytes]:
        asked.append(len(rows))
        return [data] * len(rows)

    monkeypatch.setattr(decoding, "_decode", lambda *_: Values(np.zeros((1, 2, 2), np.uint8)))
    labels = torch.arange(2500) % 2
    source = Source("own", ("a", "b"), {"train": labels}, fetch, lambda *_: "", FileSet([]), Summary())
    assert len(decoding.decoded(source, ClassChoice(), lambda pixels: pixels).train) == 2500
    assert (sum(asked), max(asked)) == (2500, most)


def test_tiny_imagenet_one_folder_further_down(tmp_path: Path, write_pictures: Callable[..., None]) -> None:
    root = tmp_path / "data" / "tiny-imagenet-200"
    for wnid in ("n01", "n02"):
        write_pictures(root / "train" / wnid / "images", 2)
    write_pictures(root / "val" / "images", 2)
    (root / "wnids.txt").write_text("n02\nn01\n")
    (root / "val" / "val_annotations.txt").write_text("000.png\tn02\n001.png\tn01\n")
    data = load_dataset(str(tmp_path / "data"))
    assert (data.name, data.class_sizes(), data.test.labels.tolist()) == ("tiny_imagenet", [2, 2], [0, 1])
    assert data.summary.read[-1] == "everything lies in folder tiny-imagenet-200"


def test_pictures_beside_parquet_files_are_said(
    tmp_path: Path, cifar_folder: Path, write_pictures: Callable[..., None]
) -> None:
    (tmp_path / "in").mkdir()
    for file in sorted((cifar_folder / "cifar10").glob("*.parquet")):
        os.link(file, tmp_path / "in" / file.name)
    write_pictures(tmp_path / "in" / "assets", 2)
    write_pictures(tmp_path / "in" / ".git", 1)
    data = load_dataset(str(tmp_path / "in"), first_classes=2)
    assert data.summary.left_out[-2:] == (
        "2 picture files beside the parquet files (000.png, 001.png)",
        "1 hidden or system file or folder (.git)",
    )


def test_runs_and_experts_beside_the_classes_are_left_out(pets: Path, write_pictures: Callable[..., None]) -> None:
    """So that a command that is typed in the folder of the pictures can be typed again."""
    (pets / "experts/483ae3ba5885").mkdir(parents=True)
    for name in ("recipe.json", "preprocessing.safetensors", "000.safetensors"):
        (pets / "experts/483ae3ba5885" / name).write_text("{}")
    write_pictures(pets / "runs/pets/course", 3)
    write_pictures(pets / "runs/sweep/a/course", 3)
    for run in ("runs/pets", "runs/sweep/a"):
        for name in ("config.json", "provenance.json"):
            (pets / run / name).write_text("{}")
    data = load_dataset(str(pets))
    assert data.classes == ("cat", "dog")
    assert data.summary.left_out == ("2 folders that this package wrote (experts, runs)",)
    (pets / "runs").rename(pets / "results")
    assert load_dataset(str(pets)).summary.left_out == ("2 folders that this package wrote (experts, results)",)


def test_a_cache_beside_the_classes_is_left_out(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASTDISTILL_CACHE", str(pets / "kept"))
    first = load_dataset(str(pets))
    assert not first.summary.left_out
    again = load_dataset(str(pets))
    assert (again.fingerprint, again.summary.left_out) == (
        first.fingerprint,
        ("1 folder that this package wrote (kept)",),
    )


def test_a_class_with_settings_in_it_is_no_run(pets: Path) -> None:
    (pets / "cat/config.json").write_text("{}")
    (pets / "dog/one").mkdir()
    for name in ("config.json", "provenance.json"):
        (pets / "dog/one" / name).write_text("{}")
    assert count(pets) == [5, 5]


def test_all_broken_pictures_are_counted_in_one_sentence(pets: Path) -> None:
    for name in ("cat/001.png", "dog/000.png", "dog/003.png", "dog/004.png", "cat/004.png"):
        (pets / name).write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        load_dataset(str(pets))
    assert str(caught.value) == (
        f"{pets}/cat/001.png cannot be read as an image (cannot identify image file), nor can 4 more ({pets}/cat/004.png"
        f", {pets}/dog/000.png, {pets}/dog/003.png, …); replace them or take them out."
    )


def test_no_more_pictures_are_looked_at_than_takes_a_while(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LOOKED_AT", 6)
    for name in ("cat/001.png", "dog/000.png", "dog/003.png"):
        (pets / name).write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"nor can at least 1 more \(.*dog/000.png\)"):
        load_dataset(str(pets))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("0.HEIC", r"1 picture in a format that is not read \(0\.HEIC\)"),
        ("0", r"1 file that is no picture \(0\)"),
        (".hidden.png", r"1 hidden or system file or folder \(\.hidden\.png\)"),
        ("", "no files"),
    ],
)
def test_a_class_without_pictures_says_what_lies_there(pets: Path, name: str, why: str) -> None:
    (pets / "fox").mkdir()
    if name:
        (pets / "fox" / name).write_bytes(b"x")
    with pytest.raises(InputError, match=f"Class 'fox' has no training images: .*/fox holds {why}; give pictures that"):
        load_dataset(str(pets))
    assert load_dataset(str(pets), classes=["cat", "dog"]).classes == ("cat", "dog")


@pytest.mark.parametrize("where", ["images", "", "train"])
def test_labels_in_a_table_are_named_with_what_to_do(
    tmp_path: Path, write_pictures: Callable[..., None], where: str
) -> None:
    write_pictures(tmp_path / "set" / where, 4)
    (tmp_path / "set/labels.csv").write_text("name,label\n")
    with pytest.raises(
        InputError, match=r"no column of labels\.csv that could be read names the pictures: write a CSV"
    ):
        load_dataset(str(tmp_path / "set"))


def test_a_class_name_with_a_line_break_can_be_chosen(pets: Path) -> None:
    (pets / "cat").rename(pets / "c\nat")
    assert load_dataset(str(pets), classes=["dog", "c\nat"]).classes == ("dog", "c\\x0aat")
    assert load_dataset(str(pets), classes=["dog", "c\\x0aat"]).classes == ("dog", "c\\x0aat")


def test_one_folder_beside_the_pictures_of_a_class_is_said(pets: Path, write_pictures: Callable[..., None]) -> None:
    write_pictures(pets / "cat/thumbnails", 2)
    (said,) = load_dataset(str(pets)).summary.guessed
    assert "such as thumbnails to cat" in said
    write_pictures(pets / "fox/images", 5)
    (said,) = load_dataset(str(pets)).summary.guessed
    assert "such as thumbnails to cat" in said


def test_an_unreadable_picture_can_be_told_by_another_process() -> None:
    error = pickle.loads(pickle.dumps(decoding.Unreadable.of("cat/0.png", "cut short")))
    assert (str(error), error.source) == (
        "cat/0.png cannot be read as an image (cut short); replace it or take it out.",
        "cat/0.png",
    )
