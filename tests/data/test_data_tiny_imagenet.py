"""Tiny ImageNet's own layout in small, unpacked and as a zip archive."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from astdistill.data.loading import load_dataset
from astdistill.data.preprocessing import Preprocessing
from astdistill.runtime.errors import InputError

WNIDS = ["n02124075", "n01443537", "n03355925"]
"""Not in sorted order, as in the original file."""


def save(path: Path, shade: int, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64) if mode == "L" else (64, 64, 3), shade, np.uint8)).save(path, "JPEG")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Three classes; training pictures of class k have shades 60 k + 0…3, validation pictures 60 k + 20."""
    folder = tmp_path / "tiny-imagenet-200"
    lines = []
    for place, wnid in enumerate(sorted(WNIDS)):
        for number in range(4):
            save(
                folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG",
                60 * place + number,
                "L" if number == 1 else "RGB",
            )
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("boxes")
        for number in range(2):
            name = f"val_{3 * number + 2 - place}.JPEG"
            save(folder / "val" / "images" / name, 60 * place + 20)
            lines.append(f"{name}\t{wnid}\t0\t0\t63\t63\n")
    save(folder / "test" / "images" / "test_0.JPEG", 255)
    (folder / "val" / "val_annotations.txt").write_text("".join(sorted(lines)))
    (folder / "wnids.txt").write_text("\n".join(WNIDS))
    (folder / "words.txt").write_text(
        "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn02124075\tEgyptian cat\nn03355925\tflagpole, "
        "flagstaff\n"
    )
    return folder


def shades(images: torch.Tensor) -> list[int]:
    return (images.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


def test_the_unpacked_folder(tiny: Path) -> None:
    found = load_dataset(str(tiny), whiten="none")
    assert (found.name, found.shape) == ("tiny_imagenet", (3, 64, 64))
    assert found.classes == ("goldfish", "Egyptian cat", "flagpole")
    assert shades(found.train.whole()) == [60 * place + number for place in range(3) for number in range(4)]
    assert found.train.labels.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert shades(found.test.whole()) == [20, 20, 80, 80, 140, 140]
    assert found.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    standard = Preprocessing.standard([0.485, 0.456, 0.406], [0.229, 0.224, 0.225], (3, 64, 64))
    assert load_dataset(str(tiny)).preprocessing.hash == standard.hash


def test_the_archive_is_the_same_set(tiny: Path, tmp_path: Path) -> None:
    folder = load_dataset(str(tiny), classes=["flagpole", "goldfish"])
    archive = shutil.make_archive(str(tmp_path / "tiny-imagenet-200"), "zip", tmp_path, tiny.name)
    zipped = load_dataset(archive, classes=["flagpole", "goldfish"])
    assert zipped.fingerprint == folder.fingerprint
    assert torch.equal(zipped.test.whole(), folder.test.whole())
    flat = shutil.make_archive(str(tmp_path / "flat"), "zip", tiny)
    assert load_dataset(flat, classes=["flagpole", "goldfish"]).fingerprint == folder.fingerprint


def test_it_is_found_by_its_name_and_decoded_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    folder = load_dataset(str(tiny), size=32)
    tiny.rename(tmp_path / "tiny_imagenet")
    monkeypatch.setenv("ASTDISTILL_DATA", str(tmp_path))
    monkeypatch.setattr("astdistill.data.sources.decoded", None)
    assert load_dataset("tiny_imagenet", size=32).fingerprint == folder.fingerprint
    assert len(list(cache.glob("*/data.json"))) == 1


def test_without_words_classes_keep_their_identifiers(tiny: Path) -> None:
    (tiny / "words.txt").unlink()
    assert load_dataset(str(tiny)).classes == tuple(sorted(WNIDS))


def test_the_hub_names_its_table(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    asked = []
    names = sorted(WNIDS)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    cells = [str(path) for path in sorted(tiny.glob("train/*/images/*"))]
    table = datasets.Dataset.from_dict({"image": cells, "label": [0] * 4 + [1] * 4 + [2] * 4}, features=features)

    def load(path: str, name: str | None = None, **_: Any) -> Any:
        asked.append((path, name))
        return {"train": table, "valid": table}

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError, match=r"which is no file of the Hugging Face caches, and no other is read"):
        load_dataset("tiny_imagenet")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tiny))
    found = load_dataset("tiny_imagenet")
    assert set(asked) == {("zh-plus/tiny-imagenet", None)}
    assert (found.name, found.classes, len(found.test)) == ("tiny_imagenet", tuple(names), 12)
    assert torch.equal(found.train.whole(), load_dataset(str(tiny)).train.whole())


def test_damaged_copies(tiny: Path, tmp_path: Path, pixels: Callable[..., torch.Tensor]) -> None:
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"broken\.zip cannot be read as a zip archive"):
        load_dataset(str(tmp_path / "broken.zip"))
    other = shutil.make_archive(str(tmp_path / "other"), "zip", tiny / "val")
    with pytest.raises(InputError, match=r"not Tiny ImageNet; unpack it"):
        load_dataset(other)
    annotations = tiny / "val/val_annotations.txt"
    whole = annotations.read_text()
    annotations.write_text(whole + "val_77.JPEG\tn01443537\t0\t0\t63\t63\n")
    with pytest.raises(InputError, match=r"has no val/images/val_77\.JPEG"):
        load_dataset(str(tiny))
    annotations.write_text(whole + "val_0.JPEG\tn07777777\t0\t0\t63\t63\n")
    with pytest.raises(InputError, match="names class n07777777"):
        load_dataset(str(tiny))
    annotations.write_text(whole)
    shutil.rmtree(tiny / "train/n01443537/images")
    with pytest.raises(InputError, match="Class 'goldfish' has no training images"):
        load_dataset(str(tiny))
