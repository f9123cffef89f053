"""Sets without their ZCA matrix: small files that are evaluated on their data, and say what they cannot do."""

from __future__ import annotations

import shlex
from pathlib import Path

import numpy as np
import pytest
import torch

import astdistill as ad
from astdistill.cli.main import main
from astdistill.data import DataConfig
from astdistill.evaluation.rows import random_real
from astdistill.runtime.errors import InputError

DIGITS = DataConfig(source="digits", whiten="zca", first_classes=3)


@pytest.fixture(scope="module")
def dataset() -> ad.Dataset:
    return ad.load_dataset(DIGITS)


@pytest.fixture
def small(dataset: ad.Dataset, tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    random_real(dataset, 2, 0).compact().save(path)
    return path


def test_a_compact_set_comes_back_without_the_matrix(dataset: ad.Dataset, small: Path, tmp_path: Path) -> None:
    whole = random_real(dataset, 2, 0)
    whole.save(tmp_path / "whole.safetensors")
    found = ad.load(small)
    assert torch.equal(found.images, whole.images)
    assert found.preprocessing.hash == whole.preprocessing.hash
    assert (found.preprocessing.is_complete, whole.preprocessing.is_complete) == (False, True)
    assert small.stat().st_size < (tmp_path / "whole.safetensors").stat().st_size - 4 * 64 * 64 + 1000


def test_its_images_are_shown_with_the_matrix_of_its_data(dataset: ad.Dataset, small: Path) -> None:
    found = ad.load(small)
    with pytest.raises(InputError, match=r"stored without its ZCA matrix .* with the data that it was made of"):
        found.pixels()
    torch.testing.assert_close(found.completed(dataset.preprocessing).pixels(), random_real(dataset, 2, 0).pixels())
    other = ad.load_dataset(DIGITS.replace(first_classes=2))
    with pytest.raises(
        InputError, match=r"The set was made with the preprocessing \w+, not \w+; load the data as the set names it"
    ):
        found.completed(other.preprocessing)


def test_it_is_evaluated_as_the_whole_set(dataset: ad.Dataset, small: Path, tmp_path: Path) -> None:
    words = [
        "--epochs",
        "2",
        "--networks",
        "1",
        "--baselines",
        "random",
        "--architectures",
        "convnet-d2-w16",
        "--quiet",
    ]
    assert main(["evaluate", str(small), *words, "--out", str(tmp_path / "small")]) == 0
    random_real(dataset, 2, 0).save(tmp_path / "whole.safetensors")
    assert main(["evaluate", str(tmp_path / "whole.safetensors"), *words, "--out", str(tmp_path / "whole")]) == 0
    first, second = ((tmp_path / name / "scores.json").read_text() for name in ("small", "whole"))
    assert first == second


def test_a_folder_that_holds_one_is_evaluated_without_a_page(
    dataset: ad.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No page can show it, and nobody is told that one could not be written."""
    random_real(dataset, 1, 0).compact().save(tmp_path / "synthetic.safetensors")
    words = ["--epochs", "1", "--networks", "1", "--baselines", "--architectures", "convnet-d1-w4"]
    assert main(["evaluate", str(tmp_path), *words]) == 0
    assert "report.html" not in "".join(capsys.readouterr())
    assert not (tmp_path / "report.html").exists()


def test_a_report_of_it_names_the_command_that_shows_its_images(
    dataset: ad.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_real(dataset, 1, 0).compact().save(tmp_path / "synthetic.safetensors")
    assert main(["report", str(tmp_path)]) == 2
    command = shlex.join(["astdistill", "export", str(tmp_path), "--format", "png", "--data", "digits"])
    assert command in " ".join(capsys.readouterr().err.split())


def test_it_is_exported_with_its_data(
    dataset: ad.Dataset, small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", str(small), "--format", "npz", "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "from: " + shlex.join([*("astdistill", "export"), str(small), "--format", "npz", "--data", "digits"]) in (
        " ".join(capsys.readouterr().err.split())
    )
    assert not (tmp_path / "out").exists()
    assert main([*words, "--data", "digits"]) == 0
    with np.load(tmp_path / "out" / "synthetic.npz") as found:
        np.testing.assert_allclose(found["pixels"], random_real(dataset, 2, 0).pixels().numpy(), atol=1e-6)
