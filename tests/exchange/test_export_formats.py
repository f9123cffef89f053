"""What is written is read back by the program that it was written for, and every number of the set is in it."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from huggingface_hub import DatasetCard
from PIL import Image
from problems import TINY, blobs

import astdistill
from astdistill.cli.main import main
from astdistill.data.synthetic import SyntheticSet, one_hot
from astdistill.evaluation.protocol import EvalRecipe
from astdistill.evaluation.scores import RowScores, Scores, SetInfo
from astdistill.evaluation.training import NetworkResult
from astdistill.interop.exporters import export
from astdistill.interop.huggingface import parts_of, push
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import rng

pytestmark = pytest.mark.drawn
CLASSES = ("ant", "bee / wasp", "chat")


def made(channels: int = 1, **changes: Any) -> SyntheticSet:
    data = blobs(whiten="zca", shape=(channels, 8, 8))
    whole = SyntheticSet(
        images=torch.randn(6, channels, 8, 8, generator=rng(0, "images")),
        targets=one_hot(torch.arange(3).repeat_interleave(2), 3),
        lr=torch.tensor(0.0123),
        classes=CLASSES,
        preprocessing=data.preprocessing,
        data=data.config,
        model=TINY,
        augmentation="flip_scale",
        method="mtt",
        provenance={
            "iteration": 7,
            "settings": {"inner_steps": 12, "matched_epochs": 2, "max_start_epoch": 9, "lr_img": 1.0},
            "versions": {"torch": "2.13.0"},
            "arguments": ["/home/me/secret"],
        },
    )
    return replace(whole, **changes)


def soft(channels: int = 1) -> SyntheticSet:
    return made(channels, labels="soft", targets=torch.randn(6, 3, generator=rng(0, "targets")))


def texture(channels: int = 1) -> SyntheticSet:
    return made(
        channels, images=torch.randn(6, channels, 16, 16, generator=rng(0, "canvas")), canvas=2, canvas_samples=3
    )


def scored(synthetic: SyntheticSet) -> Scores:
    results = [NetworkResult(51.0), NetworkResult(53.0), NetworkResult(52.3)]
    entry = RowScores.of(results, "final")
    return Scores(recipe=EvalRecipe(name="MTT", epochs=300), architecture={TINY: entry}, subject=SetInfo.of(synthetic))


def test_a_card_says_whether_the_learning_rate_of_a_user_s_method_was_learned(tmp_path: Path) -> None:
    own = made(method="my own")
    for number, (learned, words) in enumerate(
        [(["images"], "The learning rate is 0.0123"), (["images", "lr"], "The learned learning rate is 0.0123")]
    ):
        folder = export(
            replace(own, provenance={**own.provenance, "learn": learned}), "huggingface", tmp_path / str(number)
        )
        assert words in (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("format", ["npz", "torch", "huggingface", "mtt", "png"])
def test_tensors_that_need_gradients_are_exported(tmp_path: Path, format: str) -> None:
    whole = soft()
    graph = replace(whole, images=whole.images.clone().requires_grad_(), targets=whole.targets.clone().requires_grad_())
    assert any(export(graph, format, tmp_path / format).iterdir())


@pytest.mark.parametrize("make", [made, soft, texture], ids=["hard", "soft", "textures"])
@pytest.mark.parametrize("format", ["npz", "torch"])
def test_one_file_of_arrays_holds_everything(tmp_path: Path, format: str, make: Any) -> None:
    synthetic = make()
    export(synthetic, format, tmp_path / "out")
    (file,) = (tmp_path / "out").iterdir()
    if format == "npz":
        with np.load(file, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found}
        classes, header = tuple(arrays.pop("classes").tolist()), json.loads(str(arrays.pop("header")))
    else:
        loaded = torch.load(file, weights_only=True)
        classes, header = tuple(loaded.pop("classes")), json.loads(loaded.pop("header"))
        arrays = {name: tensor.numpy() for name, tensor in loaded.items()}
    assert classes == CLASSES
    assert header == json.loads(json.dumps(synthetic.published().header()))
    assert header["provenance"]["settings"]["inner_steps"] == 12
    expected = {
        "images": synthetic.images,
        "pixels": synthetic.pixels(),
        "labels": synthetic.hard_labels,
        "targets": synthetic.probabilities,
        "lr": synthetic.lr,
        **{f"preprocessing.{name}": tensor for name, tensor in synthetic.preprocessing.tensors().items()},
    }
    assert set(arrays) == set(expected)
    for name, tensor in expected.items():
        assert np.array_equal(arrays[name], tensor.numpy()), name
        assert arrays[name].dtype == tensor.numpy().dtype
    vectors, scale = (
        arrays["preprocessing.eigenvectors"],
        arrays["preprocessing.eigenvalues"].clip(0) + header["preprocessing"]["eps"],
    )
    photo = np.random.default_rng(0).random((1, 64)).astype(np.float32)
    by_numpy = (photo - arrays["preprocessing.mean"]) @ (vectors * scale**-0.5) @ vectors.T
    by_us = synthetic.preprocessing.apply(torch.from_numpy(photo).view(1, 1, 8, 8)).flatten(1)
    torch.testing.assert_close(torch.from_numpy(by_numpy), by_us, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("make", "channels"), [(made, 1), (soft, 3), (texture, 3)], ids=["grey", "colour", "textures"])
def test_pictures_are_the_pixels_clipped_and_each_in_its_own_range(tmp_path: Path, make: Any, channels: int) -> None:
    synthetic = make(channels)
    export(synthetic, "png", tmp_path / "out")
    labels = synthetic.hard_labels.tolist()
    names = [f"{place:04d}-{('ant', 'bee_wasp', 'chat')[label]}.png" for place, label in enumerate(labels)]
    for kind in ("clipped", "unclipped"):
        assert sorted(path.name for path in (tmp_path / "out" / kind).glob("*.png")) == names
        with Image.open(tmp_path / "out" / f"grid-{kind}.png") as grid:
            assert min(grid.size) > 100
    with (tmp_path / "out/unclipped/ranges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == names
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        exact = synthetic.unclipped()[place]
        shown = [np.asarray(Image.open(tmp_path / "out" / kind / name)) for kind in ("clipped", "unclipped")]
        clipped, whole = (
            torch.from_numpy(each.copy()).view(*each.shape[:2], -1).permute(2, 0, 1).float() / 255 for each in shown
        )
        assert clipped.shape == exact.shape
        assert float((clipped - exact.clamp(0, 1)).abs().max()) <= 0.501 / 255
        low, high = float(row["black is"]), float(row["white is"])
        assert float((low + whole * (high - low) - exact).abs().max()) <= 0.501 / 255 * (high - low) + 1e-4
        assert low < 0
        assert high > 1


@pytest.mark.parametrize(("make", "channels"), [(made, 1), (soft, 3), (texture, 3)], ids=["hard", "soft", "textures"])
def test_a_data_set_folder_opens_with_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, channels: int
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    synthetic = make(channels)
    folder = export(synthetic, "huggingface", tmp_path / "out", scores=scored(synthetic))
    found = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert set(found) == {"train"}
    rows = found["train"]
    assert rows.features["label"].names == list(CLASSES)
    assert rows["label"][:] == synthetic.hard_labels.tolist()
    assert torch.equal(torch.tensor(np.array(rows["values"][:], dtype=np.float32)), synthetic.images)
    assert ("soft_label" in rows.features) == (synthetic.labels == "soft")
    if synthetic.labels == "soft":
        assert torch.equal(torch.tensor(rows["soft_label"][:]), synthetic.probabilities)
    for image, exact in zip(rows["image"][:], synthetic.pixels(), strict=True):
        shown = torch.from_numpy(np.array(image)).view(*exact.shape[1:], -1).permute(2, 0, 1).float() / 255
        assert shown.shape == exact.shape
        assert float((shown - exact).abs().max()) <= 0.501 / 255
    again = astdistill.load(folder)
    assert torch.equal(again.images, synthetic.images)
    assert again.provenance == {name: value for name, value in synthetic.provenance.items() if name != "arguments"}
    assert Scores.read(folder) == scored(synthetic)


def test_sets_are_told_apart_by_the_cache_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All exports lie in folders of one name, and the cache once took their tables for the same one."""
    first, second = made(), replace(made(), images=made().images.flip(0).contiguous())
    for name, synthetic in (("a", first), ("b", second)):
        folder = export(synthetic, "huggingface", tmp_path / name / "exports" / "huggingface")
        rows = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))["train"]
        assert torch.equal(torch.tensor(np.array(rows["values"][:], dtype=np.float32)), synthetic.images)


def test_the_card_says_what_it_is_how_good_and_whom_to_cite(tmp_path: Path) -> None:
    synthetic = soft()
    card = DatasetCard.load(export(synthetic, "huggingface", tmp_path / "out", scores=scored(synthetic)) / "README.md")
    front = card.data.to_dict()
    assert front["license"] == "unknown"
    assert front["task_categories"] == ["image-classification"]
    assert "dataset-distillation" in front["tags"]
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": parts_of(synthetic)}]
    assert front["size_categories"] == ["n<1K"]
    for words in (
        "52.1 ± 1.0",
        "Protocol MTT: 300 epochs",
        "n = 3 fresh networks",
        "soft_label",
        "ZCA",
        "0.0123",
        "flip, scale",
        '"inner_steps": 12',
        "iteration: 7",
        "torch (version): 2.13.0",
        "<https://arxiv.org/abs/2203.11932>",
        "2 distilled images per class",
    ):
        assert words in card.text, words
    assert "trajectory-matching" in front["tags"]
    assert "made by trajectory matching with astdistill" in card.text
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", card.text)
    assert pictures
    assert all((tmp_path / "out" / picture).stat().st_size > 1000 for picture in pictures)
    bare = DatasetCard.load(export(made(method="my:METHOD"), "huggingface", tmp_path / "bare") / "README.md")
    assert "No network has been evaluated yet." in bare.text
    assert "'my:METHOD' names no paper" in bare.text
    assert "soft_label" not in bare.text


def test_the_card_of_another_family_names_it_and_no_trajectories(tmp_path: Path) -> None:
    card = DatasetCard.load(export(made(method="dm"), "huggingface", tmp_path / "out") / "README.md")
    assert "made by distribution matching with astdistill" in card.text
    assert "distribution-matching" in card.data.to_dict()["tags"]
    assert "The learning rate is" in card.text
    assert '"lr_img"' in card.text
    for word in ("trajector", "expert", "inner_steps", "matched_epochs", "max_start_epoch", "learned learning rate"):
        assert word not in card.text.lower(), word


def test_scores_of_another_set_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="those of another distilled set"):
        export(soft(), "huggingface", tmp_path / "out", scores=scored(made()))
    assert list(tmp_path.iterdir()) == []


class Hub:
    """Stands in for `HfApi`: notes what is uploaded, or refuses it."""

    calls: tuple[Any, ...] = ()
    error: Exception | None = None

    def create_repo(self, name: str, **settings: Any) -> str:
        if Hub.error is not None:
            raise Hub.error
        Hub.calls = (name, settings)
        return f"https://hub/datasets/{name}"

    def upload_folder(self, *, repo_id: str, folder_path: Path, repo_type: str, commit_message: str) -> None:
        files = sorted(str(path.relative_to(folder_path)) for path in Path(folder_path).rglob("*") if path.is_file())
        Hub.calls = (*Hub.calls, repo_id, repo_type, files)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder with a set and its scores, and the stand-in for the hub, where somebody is logged in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    monkeypatch.setattr(Hub, "calls", ())
    monkeypatch.setattr(Hub, "error", None)
    synthetic = made()
    synthetic.save(Path("run/synthetic.safetensors"))
    scored(synthetic).write(Path("run/scores.json"))
    return Path("run")


def test_the_command_writes_beside_the_set_and_uploads(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "run", "--format", "huggingface", "--push", "me/blobs", "--private"]) == 0
    assert "Uploaded: https://hub/datasets/me/blobs" in capsys.readouterr().out
    name, settings, uploaded, kind, files = Hub.calls
    assert (name, uploaded, kind) == ("me/blobs", "me/blobs", "dataset")
    assert settings == {"repo_type": "dataset", "private": True, "exist_ok": True}
    assert files == [
        "README.md",
        parts_of(made()),
        "images.png",
        "scores.json",
        "synthetic.safetensors",
    ]
    assert "52.1 ± 1.0" in (run / "exports/huggingface/README.md").read_text()
    assert main(["export", "run", "--format", "png", "--out", "pictures"]) == 0
    assert "… and 3 more in pictures" in capsys.readouterr().out


def test_figures_are_those_of_the_file_that_is_named(run: Path) -> None:
    made().save(run / "last.safetensors")
    for file, told in (("last.safetensors", False), ("synthetic.safetensors", True)):
        assert main(["export", str(run / file), "--format", "huggingface", "--out", file]) == 0
        assert ("52.1 ± 1.0" in Path(file, "README.md").read_text()) == told


def test_an_upload_that_cannot_be_is_one_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.rglob("*"))
    for words, sentence in (
        (["--format", "png", "--push", "me/blobs"], "astdistill export run --format huggingface --push me/blobs"),
        (["--format", "huggingface", "--push", "me/a/b"], "'me/a/b' is no name of a data set on the hub"),
        (["--format", "huggingface", "--private"], "--push NAME --private"),
    ):
        assert main(["export", "run", *words]) == 2
        message = capsys.readouterr().err
        assert sentence in message
        assert message.count("\n") == 1
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert main(["export", "run", "--format", "huggingface", "--push", "me/blobs"]) == 2
    assert "You are not logged in to the Hugging Face hub here; type: hf auth login" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_a_hub_that_refuses_leaves_the_folder(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Hub, "error", huggingface_hub.errors.OfflineModeIsEnabled("no network\nat all"))
    folder = export(made(), "huggingface", "out")
    with pytest.raises(
        InputError, match=r"did not take 'me/blobs' \(no network\); out is whole, .*hf upload me/blobs out"
    ):
        push(folder, "me/blobs")
    assert (folder / "README.md").is_file()
