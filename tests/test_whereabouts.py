"""No path of somebody's machine in what is published: every byte of every export, and the page."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch
from PIL import Image
from problems import TINY, blobs

import astdistill
from astdistill.cli.main import main
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, load, one_hot
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.scores import RowScores, Scores, SetInfo
from astdistill.evaluation.training import NetworkResult
from astdistill.experiment.presets import preset
from astdistill.interop.exporters import FORMATS
from astdistill.interop.import_sets import import_set
from astdistill.report.page.page import save_page
from astdistill.runtime.files import write_json
from astdistill.runtime.provenance import display_path, provenance, without_places

HOME = "/home/somebody"
SOURCE = f"{HOME}/data/my-cifar"


@pytest.mark.parametrize(
    ("value", "public"),
    [
        (SOURCE, "my-cifar"),
        (f"{SOURCE}/", "my-cifar"),
        ("~/data/my-cifar", "my-cifar"),
        ("../../somebody/my-cifar", "my-cifar"),
        ("C:\\Users\\somebody\\my-cifar", "my-cifar"),
        ("\\\\server\\somebody\\my-cifar.npz", "my-cifar.npz"),
        (f"--data.source={SOURCE}", "--data.source=my-cifar"),
        (f"tensors:{SOURCE}", "tensors:my-cifar"),
        ("cifar100", "cifar100"),
        ("owner/name:plain_text", "owner/name:plain_text"),
        ("data/my-cifar", "data/my-cifar"),
        ("https://arxiv.org/abs/2310.10541", "https://arxiv.org/abs/2310.10541"),
        ("-", "-"),
        (0.5, 0.5),
        ({"a": [SOURCE, None], "b": {"c": (SOURCE,)}}, {"a": ["my-cifar", None], "b": {"c": ["my-cifar"]}}),
    ],
)
def test_of_a_path_the_last_name_stays(value: Any, public: Any) -> None:
    assert without_places(value) == public


def test_a_folder_is_shown_as_it_is_reached_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert display_path(Path("runs/x")) == display_path(tmp_path / "runs/x") == "runs/x"
    assert display_path(tmp_path) == "."
    monkeypatch.chdir("/")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path / "runs")
    assert display_path(tmp_path / "x") == "x"


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs(whiten="zca", shape=(3, 8, 8))


@pytest.fixture
def run(tmp_path: Path, dataset: Dataset) -> Path:
    """A run folder on data in somebody's home, with scores, written by a command that names more of it."""
    found = SyntheticSet(
        images=torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
        targets=one_hot(torch.arange(3).repeat_interleave(2), 3),
        lr=torch.tensor(0.01),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing,
        data=dataset.config.replace(source=SOURCE),
        model=TINY,
        method="mtt",
        fingerprint=dataset.fingerprint,
        provenance=provenance()
        | {
            "arguments": [f"{HOME}/bin/astdistill", "run", f"--data={SOURCE}"],
            "imported": f"{HOME}/theirs",
            "settings": {"inner_steps": 3},
        },
    )
    folder = tmp_path / "run"
    found.save(folder / "synthetic.safetensors")
    entry = RowScores.of([NetworkResult(51.0), NetworkResult(53.0)], "final")
    Scores(recipe=EvalRecipe(name="MTT", epochs=3), architecture={TINY: entry}, subject=SetInfo.of(found)).write(
        folder / "scores.json"
    )
    config = preset("cifar100-ipc1").to_json()
    config["data"]["source"], config["experts"]["store"] = SOURCE, f"{HOME}/experts"
    config["method"]["init"] = {"part": "astdistill.methods.parts:FileInit", "path": f"{HOME}/runs/before"}
    write_json(folder / "config.json", config)
    write_json(folder / "provenance.json", found.provenance | {"data": found.fingerprint, "resumed": []})
    return folder


def contents(path: Path) -> Iterator[bytes]:
    """The bytes of a file, and what stands in it compressed or in wide letters, as numpy's do."""
    yield path.read_bytes()
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (name.encode() + archive.read(name).replace(b"\0", b"") for name in archive.namelist())
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        yield repr(table.schema.metadata).encode()
        for row in table.to_pylist():
            yield repr({name: value for name, value in row.items() if name != "image"}).encode()
            yield repr(row["image"]["path"]).encode()
            yield from words_of(io.BytesIO(row["image"]["bytes"]))
    if path.suffix == ".png":
        yield from words_of(path)


def words_of(picture: Path | io.BytesIO) -> Iterator[bytes]:
    with Image.open(picture) as found:
        yield repr(found.info).encode()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("format", FORMATS)
def test_no_byte_of_an_export_holds_a_path(format: str, soft: bool, run: Path, dataset: Dataset) -> None:
    if soft:
        whole = replace(load(run), labels="soft", targets=torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))
        whole.save(run / "synthetic.safetensors")
        (run / "scores.json").unlink()
    before = (run / "synthetic.safetensors").read_bytes()
    assert HOME.encode() in before
    assert main(["export", str(run), "--format", format, "--out", str(run / "out")]) == 0
    files = [path for path in (run / "out").rglob("*") if path.is_file()]
    assert files
    for path in files:
        for place in (HOME, str(run.parent), str(Path.home()) + "/", str(Path(astdistill.__file__).parent)):
            assert not any(place.encode() in each for each in contents(path)), (path.name, place)
    assert (run / "synthetic.safetensors").read_bytes() == before, "the run itself goes on knowing where its data lie"
    if format == "huggingface":
        public = load(run / "out")
        assert (public.data.source, public.fingerprint) == ("my-cifar", dataset.fingerprint)
        assert (public.provenance["imported"], public.provenance["settings"]) == ("theirs", {"inner_steps": 3})


def test_what_was_imported_is_published_alike(run: Path, dataset: Dataset, tmp_path: Path) -> None:
    assert main(["export", str(run), "--format", "mtt", "--out", str(tmp_path / "theirs")]) == 0
    found = import_set(tmp_path / "theirs", dataset, model=TINY, out=tmp_path / "ours")
    assert found.provenance["imported"] == str(tmp_path / "theirs")
    public = json.dumps(load(tmp_path / "ours").published().header())
    assert str(tmp_path) not in public
    assert '"imported": "theirs"' in public


def test_the_page_names_no_place(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "others" / run.name
    other.parent.mkdir()
    (tmp_path / "again").mkdir()
    run.rename(other)
    alone = tmp_path / "alone" / run.name
    load(other).save(alone / "synthetic.safetensors")
    save_page([other, alone], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for place in (HOME, str(tmp_path), str(Path.home()) + "/"):
        assert place not in text, text[text.index(place) - 200 :][:300]
    for word in ("my-cifar", "--data=my-cifar", "before", f"others/{run.name}", f"alone/{run.name}"):
        assert word in text
