"""A folder with a file of every kind that the package reads, small and whole."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import pickle
import shutil
import struct
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fuzz.reading import (
    COMMAND,
    RUN,
    cached_numbers,
    data,
    digits,
    experts_of_others,
    in_the_cloud,
    mapped,
    train,
)
from killing import Killed, killed_at_write
from PIL import Image
from scipy.io import savemat

import astdistill as ad
from astdistill.cli.main import main
from astdistill.data.digests import SETTLED
from astdistill.runtime.files import write_json
from astdistill.runtime.owners import Owner

EVALUATE = (
    "evaluate", "run", "--epochs", "1", "--networks", "1", "--baselines", "random", "--workers", "1", "--quiet", "--continual", "5",
    "--out", "run/more", "--ranking",
)  # fmt: skip
PICTURES = {
    "jpeg": "JPEG", "mpo": "MPO", "bmp": "BMP", "dib": "DIB", "webp": "WEBP", "gif": "GIF", "tiff": "TIFF", "ppm": "PPM", "pgm": "PPM",
    "pfm": "PPM", "avif": "AVIF", "jp2": "JPEG2000", "qoi": "QOI", "sgi": "SGI", "ras": "SUN", "pcx": "PCX", "ico": "ICO", "tga": "TGA",
    "png": "PNG",
}  # fmt: skip
"""Every format of pictures that is read, by an ending: a folder of its own, of `pictures/`."""
MODES = {"pgm": "L", "pfm": "F"}
DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
GREY = PIXELS[..., 0]
LABELS = np.arange(12) % 2
KILLED_AT = 5
"""Which of the writes of a training: after an epoch, and before the last."""
WNIDS = "n01440764", "n01443537"


def lay(desk: Path) -> None:
    """Write a file of every kind into the current folder `desk`, and the caches of what is read there."""
    _runs(desk)
    _others(desk)
    _arrays(desk)
    _cifar(desk)
    for ending, kind in PICTURES.items():
        _folder(desk / "pictures" / ending, ending, kind)
    _tables(desk)
    _trees(desk)
    _experts(desk)
    cached_numbers(desk)
    time.sleep(SETTLED / 1e9)  # what is younger is read again each time, and not noted
    data("pictures/png")(desk)
    mapped(desk)


def _runs(desk: Path) -> None:
    """A run, its evaluation, and what a run says of itself while it goes on."""
    assert main([*COMMAND, *RUN, "--out", "run"]) == 0
    assert main([*EVALUATE]) == 0
    write_json(
        desk / "run/live.json",
        {"title": "t", "done": 1, "total": 3, "pace": 1.5, "unit": "steps", "seconds_left": 2.0, "memory": "1 MB", "note": "",
         "pid": 1, "host": "elsewhere", "command": ["run"], "began": 1.0, "time": 2.0},
    )  # fmt: skip
    (desk / "claimed").mkdir()
    gone = dataclasses.replace(Owner.present(), started="0")
    write_json(desk / "claimed/.writer.json", gone.to_json())
    (desk / "claimed/wandb").mkdir()
    settings = "preset: digits-ipc1\nipc: 2\nevaluation: {networks: 3, baselines: [random, kmeans]}\n"
    (desk / "settings.yaml").write_text(settings)
    write_json(desk / "seeds/seeds.json", {"seeds": [0, 1], "runs": ["seed-0", "seed-1"]})
    (desk / "swept").mkdir()
    row = {"folder": "a-seed0", "preset": "a", "method": "ast", "seed": 0, "decisive": "", "state": "finished"}
    write_json(desk / "swept/sweep.json", {"title": "one", "rows": [row | {"accuracies": [50.0, 52.0]}]})
    search = {"experiment": {}, "fingerprint": "", "steps": 8, "ranges": {"distill.lr_img": [1.0, 10.0]}}
    write_json(desk / "tuned/tuning.json", search)
    write_json(desk / "claimed/wandb/logged.json", {"id": "abc", "last": {"outer": 2}})


def _others(desk: Path) -> None:
    """What MTT and its successors write, and an import that was stopped."""
    (desk / "mtt").mkdir()
    torch.save(digits().train.whole()[:10].clone(), desk / "mtt/images_best.pt")
    torch.save(torch.arange(10), desk / "mtt/labels_best.pt")
    torch.save(torch.tensor(0.1), desk / "mtt/lr.pt")
    network = ad.build_model("convnet-d1-w4", digits().shape, 10)
    rows = [[part.detach() + row for part in network.parameters()] for row in range(3)]
    (desk / "buffers").mkdir()
    torch.save([rows], desk / "buffers/replay_buffer_0.pt")
    stopped = mock.patch("astdistill.interop.import_experts.describe_store", side_effect=KeyboardInterrupt)
    with stopped, contextlib.suppress(KeyboardInterrupt):
        experts_of_others(desk)


def _experts(desk: Path) -> None:
    """Experts that are half trained: one that was to stop, one that was killed, one that another machine is at."""
    train("stopped", 2)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed), killed_at_write(patch, KILLED_AT):
        train("killed")
    (left,) = desk.glob("killed/*/000.partial")
    shutil.copytree(desk / "killed", desk / "elsewhere")
    (left,) = desk.glob("elsewhere/*/000.partial")
    left.rename(left.with_name("000.0123abcd-1-01234567.partial"))
    (desk / "clouds").mkdir()
    with in_the_cloud(desk / "clouds") as address:
        train(address, 2)
        fsspec.filesystem("memory").get("/clouds", str(desk), recursive=True)


def _arrays(desk: Path) -> None:
    arrays = {"x_train": PIXELS, "y_train": LABELS, "x_test": PIXELS, "y_test": LABELS}
    np.savez_compressed(desk / "data.npz", **arrays)
    (desk / "npy").mkdir()
    for name, values in arrays.items():
        np.save(desk / "npy" / f"{name}.npy", values)
    (desk / "npzs").mkdir()
    for part in ("train", "test"):
        np.savez(desk / f"npzs/{part}.npz", images=PIXELS, labels=LABELS)
    grey = np.tile(GREY[:, :7, :7], (1, 4, 4))
    parts: dict[str, Any] = {f"{part}_images": grey for part in ("train", "val", "test")}
    column = LABELS[:, None].astype(np.uint8)
    parts |= {f"{part}_labels": column for part in ("train", "val", "test")}
    np.savez_compressed(desk / "breastmnist.npz", **parts)
    for part in ("train", "t10k"):
        for role, values in (("images-idx3", GREY), ("labels-idx1", LABELS.astype(np.uint8))):
            head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
            for folder, write in (("idx", Path.open), ("idxgz", gzip.open)):
                (desk / folder).mkdir(exist_ok=True)
                ending = {"idx": "", "idxgz": ".gz"}[folder]
                with write(desk / folder / f"{part}-{role}-ubyte{ending}", "wb") as file:
                    file.write(head + values.tobytes())
    for folder, packed in (("svhn", False), ("svhn7", True)):
        (desk / folder).mkdir()
        for part in ("train", "test"):
            held = {"X": np.moveaxis(PIXELS, 0, -1), "y": LABELS[:, None] + 1}
            savemat(desk / folder / f"{part}_32x32.mat", held, do_compression=packed)
    cells = np.array(["cat", "dog"], dtype=object)
    savemat(desk / "own.mat", {"images": PIXELS, "labels": LABELS, "classes": cells})


def _cifar(desk: Path) -> None:
    """The four published layouts, with few images."""
    small, large = PIXELS.reshape(12, -1), DRAW.integers(0, 256, (6, 3072), dtype=np.uint8)
    labels, names = LABELS.tolist(), [b"cat", b"dog"]
    held = {b"data": small, b"labels": labels, b"batch_label": b"one"}
    _pickled(desk / "cifar10/data_batch_1", held)
    _pickled(desk / "cifar10/test_batch", held)
    _pickled(desk / "cifar10/batches.meta", {b"label_names": names, b"num_vis": 192})
    for name in ("train", "test"):
        _pickled(desk / f"cifar100/{name}", {b"data": small, b"fine_labels": labels, b"coarse_labels": labels})
    _pickled(desk / "cifar100/meta", {b"fine_label_names": names, b"coarse_label_names": names})
    for folder, files, count in (
        ("cifar10bin", ("data_batch_1.bin", "test_batch.bin"), 1),
        ("cifar100bin", ("train.bin", "test.bin"), 2),
    ):
        (desk / folder).mkdir()
        records = np.concatenate([np.repeat(LABELS[:6, None].astype(np.uint8), count, 1), large], axis=1)
        for name in files:
            (desk / folder / name).write_bytes(records.tobytes())
    for name in ("cifar10bin/batches.meta.txt", "cifar100bin/fine_label_names.txt"):
        (desk / name).write_bytes(b"cat\ndog\n")


def _pickled(path: Path, value: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol=2))


def _folder(folder: Path, ending: str, kind: str) -> None:
    """Class folders in parts, of pictures of one format."""
    for part in ("train", "test"):
        for number, (pixels, label) in enumerate(zip(PIXELS[:4], LABELS, strict=False)):
            place = folder / part / f"class{label}" / f"{number}.{ending}"
            place.parent.mkdir(parents=True, exist_ok=True)
            _save(pixels, place, kind, MODES.get(ending, "RGB"))


def _save(pixels: np.ndarray, place: Path, kind: str, mode: str) -> None:
    height, width = pixels.shape[:2]
    if kind == "SUN":  # which Pillow reads, and does not write
        head = struct.pack(">8I", 0x59A66A95, width, height, 24, pixels.size, 1, 0, 0)
        place.write_bytes(head + pixels[..., ::-1].tobytes())
    elif kind == "QOI":
        body = b"".join(b"\xfe" + pixel.tobytes() for pixel in pixels.reshape(-1, 3))
        place.write_bytes(b"qoif" + struct.pack(">IIBB", width, height, 3, 0) + body + bytes(7) + b"\1")
    else:
        Image.fromarray(pixels).convert(mode).save(place, format=kind)


def _tables(desk: Path) -> None:
    """Parquet files of encoded pictures and of lists, what `save_to_disk` writes, and text that labels pictures."""
    folder = desk / "pictures/png/train"
    files = [folder / f"class{number % 2}/{number % 4}.png" for number in range(12)]
    cells = [{"bytes": file.read_bytes(), "path": None} for file in files]
    for name in ("parquet", "lists"):
        (desk / name).mkdir()
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": cells, "label": LABELS.tolist()}), desk / f"parquet/{part}-0.parquet")
        pq.write_table(pa.table({"image": GREY.tolist(), "label": LABELS.tolist()}), desk / f"lists/{part}-0.parquet")
    told = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    table = datasets.Dataset.from_dict({"image": cells, "label": LABELS.tolist()}, features=told)
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(desk / "saved"))
    names = [("cat", "dog")[label] for label in LABELS]
    texts = {
        "csv": "file_name,label\n" + "".join(f"{number},{name}\n" for number, name in enumerate(names)),
        "jsonl": "".join(f'{{"file_name": "{number}.png", "label": "{name}"}}\n' for number, name in enumerate(names)),
    }
    for ending, text in texts.items():
        (desk / ending / "images").mkdir(parents=True)
        (desk / ending / f"labels.{ending}").write_text(text)
        for number, file in enumerate(files):
            (desk / ending / f"images/{number}.png").write_bytes(file.read_bytes())
    shutil.copytree(folder, desk / "beside")
    rows = [f"{path.name},caf\N{LATIN SMALL LETTER E WITH ACUTE}" for path in sorted((desk / "beside").glob("*/*.png"))]
    (desk / "beside/labels.csv").write_text("\n".join(["file_name,label", *rows]), encoding="latin-1")
    _lists(desk, files)
    _divided(desk, files)


def _divided(desk: Path, files: Sequence[Path]) -> None:
    """Tables of labels that a list of words for parts, or another table, divides; and a table of folders."""
    labels = [("cat", "dog")[label] for label in LABELS.tolist()]
    parts = ["train"] * 8 + ["test"] * 4
    for name, sign, heading in (("divided", " ", ""), ("tables", ",", "picture,use\n")):
        (desk / name / "images").mkdir(parents=True)
        for number, file in enumerate(files):
            (desk / name / f"images/{number}.png").write_bytes(file.read_bytes())
        texts = {
            "labels.csv": ("file_name,label\n", ",", labels),
            f"parts.{'csv' if heading else 'txt'}": (heading, sign, parts),
        }
        for file, (first, between, values) in texts.items():
            rows = (f"{number}.png{between}{value}\n" for number, value in enumerate(values))
            (desk / name / file).write_text(first + "".join(rows))
    for number, file in enumerate(files):
        place = desk / f"patients/P{number // 3}/{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())
    (desk / "patients/patients.csv").write_text("patient,label\nP0,ill\nP1,well\nP2,ill\nP3,well\n")


def _lists(desk: Path, files: Sequence[Path]) -> None:
    """Lists of the pictures of each part, by their numbers, and in the formats of CUB-200-2011 and Oxford Flowers."""
    for name in ("listed", "birds", "flowers"):
        (desk / name / "images").mkdir(parents=True)
        for number, file in enumerate(files):
            (desk / name / f"images/image_{number + 1:05d}.png").write_bytes(file.read_bytes())
    rows = [f"image_{number:05d} {label}\n" for number, label in enumerate(LABELS.tolist(), 1)]
    (desk / "listed/train.txt").write_text("".join(rows[:8]))
    (desk / "listed/test.txt").write_text("".join(rows[8:]))
    texts = {
        "images": (f"image_{number:05d}.png" for number in range(1, len(files) + 1)),
        "image_class_labels": LABELS.tolist(),
        "train_test_split": (int(number < 8) for number in range(len(files))),
    }
    for name, values in texts.items():
        (desk / f"birds/{name}.txt").write_text(
            "".join(f"{number} {value}\n" for number, value in enumerate(values, 1))
        )
    savemat(desk / "flowers/imagelabels.mat", {"labels": LABELS[None]})
    ids = {"trnid": np.arange(1, 7), "valid": np.arange(7, 9), "tstid": np.arange(9, len(files) + 1)}
    savemat(desk / "flowers/setid.mat", {name: numbers[None] for name, numbers in ids.items()})


def _trees(desk: Path) -> None:
    """Tiny ImageNet, packed and not, and folders called by WordNet identifiers."""
    words = "".join(f"{wnid}\tname {number}, other\n" for number, wnid in enumerate(WNIDS))
    files: dict[str, bytes] = {"wnids.txt": "\n".join(WNIDS).encode(), "words.txt": words.encode()}
    rows: list[str] = []
    for number in range(4):
        wnid, picture = WNIDS[number % 2], desk / f"pictures/png/train/class{number % 2}/{number}.png"
        files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = picture.read_bytes()
        files[f"val/images/val_{number}.JPEG"] = picture.read_bytes()
        rows.append(f"val_{number}.JPEG\t{wnid}\t0\t0\t7\t7")
    files["val/val_annotations.txt"] = "\n".join(rows).encode()
    with zipfile.ZipFile(desk / "tiny.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"tiny-imagenet-200/{name}", content)
    for name, content in files.items():
        for root in (desk / "tiny", desk / "wnid"):
            if root.name == "tiny" or name.startswith(("train/", "words")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_bytes(content)
