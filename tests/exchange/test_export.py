"""Every format is listed, writes all or nothing, and MTT's files hold what its scripts read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY, blobs
from reference_mtt import PublishedConvNet, loss_of_set

import astdistill
from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.interop.exporters import FORMATS, Format, export
from astdistill.interop.import_sets import import_set
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng, seeded


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs(whiten="zca")


@pytest.fixture(scope="module")
def synthetic(dataset: Dataset) -> SyntheticSet:
    return SyntheticSet(
        images=torch.randn(6, 1, 8, 8, generator=rng(0, "images")),
        targets=one_hot(torch.arange(3).repeat_interleave(2), 3),
        lr=torch.tensor(0.0123),
        classes=dataset.classes,
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model=TINY,
        fingerprint=dataset.fingerprint,
    )


def soft(synthetic: SyntheticSet) -> SyntheticSet:
    return replace(synthetic, labels="soft", targets=torch.randn(6, 3, generator=rng(0, "targets")))


def test_a_published_evaluation_sees_the_same_set(tmp_path: Path, synthetic: SyntheticSet) -> None:
    with seeded(0, "network"):
        network = PublishedConvNet(1, 3, 8, depth=1, width=4)
    smooth = replace(synthetic, targets=0.9 * synthetic.targets + 0.1 / 3)
    for name, each in (("hard", synthetic), ("soft", soft(synthetic)), ("smooth", smooth)):
        assert astdistill.export(each, "mtt", tmp_path / name) == tmp_path / name
        loss, rate = loss_of_set(tmp_path / name, network)
        ours = torch.nn.functional.cross_entropy(network(each.images), each.probabilities)
        torch.testing.assert_close(loss, ours, rtol=1e-5, atol=1e-6)
        assert rate == pytest.approx(0.0123)
    assert torch.load(tmp_path / "hard" / "labels_best.pt").dtype == torch.int64


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_a_round_trip_changes_nothing(tmp_path: Path, synthetic: SyntheticSet, dataset: Dataset, kind: str) -> None:
    made = synthetic if kind == "hard" else soft(synthetic)
    export(made, "mtt", tmp_path / "there")
    back = import_set(tmp_path / "there", dataset, model=TINY)
    assert back.labels == kind
    for name in ("images", "targets", "lr"):
        assert torch.equal(getattr(back, name), getattr(made, name))
    export(back, "mtt", tmp_path / "again")
    for file in sorted((tmp_path / "there").iterdir()):
        assert torch.equal(torch.load(file), torch.load(tmp_path / "again" / file.name))


def test_files_hold_their_tensors_alone(tmp_path: Path, synthetic: SyntheticSet) -> None:
    """A view would carry the whole storage that it is cut out of; a tensor under training its history."""
    large = torch.randn(6000, 1, 8, 8, generator=rng(0, "large")).requires_grad_()
    export(replace(synthetic, images=large[:6]), "mtt", tmp_path / "out")
    file = tmp_path / "out" / "images_best.pt"
    assert file.stat().st_size < 10_000
    assert not torch.load(file).requires_grad
    assert torch.equal(torch.load(file), large[:6])


def test_a_format_is_found_by_name_and_described() -> None:
    for name, format in FORMATS.items():
        assert isinstance(format, Format)
        assert format.name == name
        assert len(format.text) > 20
        assert not format.text.endswith(".")


def test_what_cannot_be_written_is_refused(
    tmp_path: Path, synthetic: SyntheticSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"There is no format 'mt'\. Did you mean 'mtt'\?"):
        export(synthetic, "mt", tmp_path / "out")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("keep")
    for taken, sentence in (
        (tmp_path / "used", "exists already and is not an empty folder; name a new one, for example --out"),
        (tmp_path / "used" / "notes.txt", r"notes\.txt is a file; name a folder"),
    ):
        with pytest.raises(InputError, match=sentence):
            export(synthetic, "mtt", taken)

    def fails(_: Any, __: Any, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "broken", Format("broken", "fails half way", fails))
    with pytest.raises(OSError, match="No space left"):
        export(synthetic, "broken", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["used"]
    assert (tmp_path / "used" / "notes.txt").read_text() == "keep"


def test_an_empty_folder_is_taken_and_can_be_read_by_others(tmp_path: Path, synthetic: SyntheticSet) -> None:
    (tmp_path / "out").mkdir()
    export(synthetic, "mtt", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["images_best.pt", "labels_best.pt", "lr.pt"]
    assert all(os.stat(path).st_mode & 0o044 for path in (tmp_path / "out", *(tmp_path / "out").iterdir()))
