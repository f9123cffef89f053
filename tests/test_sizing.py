"""What an estimate knows of pictures without decoding them, beside what reading them gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from astdistill.cli.main import main
from astdistill.data import decoding
from astdistill.data.dataset import DataConfig
from astdistill.data.description import Description
from astdistill.data.loading import load_dataset
from astdistill.data.survey import described_by_headers
from astdistill.runtime.errors import InputError


def pictures(folder: Path, size: tuple[int, int] = (12, 12), mode: str = "RGB", parts: tuple[str, ...] = ("",)) -> Path:
    for part in parts:
        for name, count in (("cat", 12), ("dog", 15)):
            place = folder / part / name
            place.mkdir(parents=True)
            for number in range(count):
                Image.effect_noise(size, 60 + number).convert(mode).save(place / f"{number:02d}.png")
    return folder


@pytest.mark.parametrize(
    ("mode", "size", "parts", "fields"),
    [
        ("RGB", (12, 12), ("",), {}),
        ("L", (12, 10), ("train", "test"), {}),
        ("L", (28, 28), ("",), {}),
        ("RGB", (12, 12), ("",), {"size": 8, "per_class": 8, "validation": 0.25}),
        ("RGB", (12, 12), ("",), {"classes": ("dog", "cat")}),
    ],
    ids=["colour", "two parts", "padded", "smaller", "classes"],
)
def test_it_is_what_reading_gives(
    mode: str, size: tuple[int, int], parts: tuple[str, ...], fields: dict[str, object], tmp_path: Path
) -> None:
    config = DataConfig(source=str(pictures(tmp_path / "own", size, mode, parts))).replace(**fields)
    found, read = described_by_headers(config, 2), Description.of(load_dataset(config, whiten="none"), 2)
    assert (found.shape, found.classes, found.parts) == (read.shape, read.classes, read.parts)
    assert (found.test_part, found.warnings) == (read.test_part, read.warnings)
    assert any("headers of" in said and "the run reads them all" in said for said in found.read)


def test_other_sizes_are_told_of_as_in_a_run(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "own")
    Image.effect_noise((20, 16), 50).convert("RGB").save(folder / "cat" / "00.png")
    with pytest.raises(InputError, match=r"Images of own differ in size, such as 12×12 and 16×20; .*--data.size"):
        described_by_headers(DataConfig(source=str(folder)))


def test_a_dry_run_decodes_no_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = pictures(tmp_path / "own")
    monkeypatch.setattr(decoding, "_decode", None)
    assert main(["run", "--data", str(folder), "--out", str(tmp_path / "out"), "--dry-run", "--quiet"]) == 0
    assert "the run reads them all" in " ".join(capsys.readouterr().out.split())
