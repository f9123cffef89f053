"""A distilled file explains itself: everything comes back from it alone, and any other file is refused."""

from __future__ import annotations

import os
import pickle
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from problems import blobs, tiny_experts

import astdistill
from astdistill.data.synthetic import FORMAT, SyntheticSet, load, one_hot
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import load_tensors, save_tensors
from astdistill.runtime.seeds import rng


def synthetic(whiten: str = "zca") -> SyntheticSet:
    """No field has its default."""
    dataset = blobs(shape=(3, 8, 8), whiten=whiten, validation=0.25, seed=3)
    return SyntheticSet(
        images=torch.randn(6, 3, 8, 8, generator=rng(0, "images")),
        targets=torch.randn(6, 3, generator=rng(0, "targets")),
        lr=torch.tensor(0.0123),
        classes=("ant", "bee", "chat"),
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="convnet-d2-w16",
        labels="soft",
        augmentation="flip_scale",
        momentum=0.9,
        method="ast",
        fingerprint=dataset.fingerprint,
        provenance={"commit": "abc", "iteration": 3, "nested": {"list": [1, 2.5, None, "é"]}},
    )


@pytest.mark.parametrize("whiten", ["zca", "standard", "none"])
def test_every_field_comes_back_from_the_file_alone(tmp_path: Path, whiten: str) -> None:
    made = synthetic(whiten)
    made.save(tmp_path / "run" / "synthetic.safetensors")
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes((tmp_path / "run" / "synthetic.safetensors").read_bytes())
    for path in (tmp_path / "run", str(tmp_path / "run"), elsewhere):
        found = load(path)
        for field in fields(SyntheticSet):
            old, new = getattr(made, field.name), getattr(found, field.name)
            if field.name == "preprocessing":
                assert new.hash == old.hash
                assert new.describe() == old.describe()
                assert all(torch.equal(new.tensors()[name], tensor) for name, tensor in old.tensors().items())
                assert torch.equal(new.map_batch(made.images), old.map_batch(made.images))
            elif isinstance(old, torch.Tensor):
                assert torch.equal(new, old)
                assert new.dtype == torch.float32
            else:
                assert new == old, field.name
                assert type(new) is type(old)
        assert torch.equal(found.pixels(), made.pixels())


def test_the_test_above_sees_every_field() -> None:
    bare = {"labels": "hard", "augmentation": "", "momentum": 0.0, "method": "", "fingerprint": "", "provenance": {}}
    assert all(getattr(synthetic(), name) != default for name, default in bare.items())


def test_loading_is_public() -> None:
    assert astdistill.load.__module__ == "astdistill.interop.distilled"
    assert issubclass(astdistill.Distilled, SyntheticSet)
    assert astdistill.SyntheticSet is SyntheticSet


def test_views_of_it() -> None:
    soft = synthetic()
    assert soft.ipc == 2
    torch.testing.assert_close(soft.probabilities, soft.targets.exp() / soft.targets.exp().sum(1, keepdim=True))
    assert torch.equal(soft.hard_labels, soft.targets.argmax(1))
    hard = replace(soft, labels="hard", targets=one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3))
    assert torch.equal(hard.probabilities, hard.targets)
    assert hard.hard_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert hard.targets.dtype == torch.float32


def test_pixels_undo_the_whitening_and_stay_in_range() -> None:
    made = synthetic()
    seen = torch.rand(6, 3, 8, 8, generator=rng(0, "pixels")) * 0.8 + 0.1
    shown = replace(made, images=made.preprocessing.apply(seen).requires_grad_()).pixels()
    torch.testing.assert_close(shown, seen, rtol=0, atol=1e-4)
    assert not shown.requires_grad
    wild = replace(made, images=100 * made.images).pixels()
    assert (float(wild.min()), float(wild.max())) == (0.0, 1.0)


def test_images_that_need_gradients_or_lie_in_channels_last_are_saved(tmp_path: Path) -> None:
    made = synthetic()
    odd = replace(made, images=made.images.clone().contiguous(memory_format=torch.channels_last).requires_grad_())
    odd.save(tmp_path / "synthetic.safetensors")
    found = load(tmp_path)
    assert torch.equal(found.images, made.images)
    assert not found.images.requires_grad


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"lr": torch.tensor(-1.0)}, "a learning rate that is no positive number"),
        ({"images": torch.zeros(3, 3, 8, 8)}, r"targets of shape \[6, 3\] for 3 images and 3 classes"),
        ({"images": torch.zeros(6, 3, 8, 8, dtype=torch.uint8)}, "images or targets that are no finite numbers"),
        ({"classes": ()}, r"images of shape \[6, 3, 8, 8\] for 0 classes"),
        ({"momentum": 2.0}, "momentum: Input should be less than 1"),
        ({"provenance": {"best": float("inf")}}, "Infinity is no number"),
    ],
    ids=["rate", "images", "type", "classes", "momentum", "provenance"],
)
def test_a_set_that_could_not_be_loaded_again_replaces_no_file(tmp_path: Path, changes: dict, problem: str) -> None:
    path, made = tmp_path / "set.safetensors", synthetic()
    made.save(path)
    with pytest.raises(InputError, match=rf"^The set is not saved, because it could not be loaded again \({problem}\)"):
        replace(made, **changes).save(path)
    assert torch.equal(load(path).images, made.images)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"There is no file .*synthetic\.safetensors"):
        load(tmp_path)
    with pytest.raises(InputError, match=r"There is no file .*absent"):
        load(tmp_path / "absent")
    (tmp_path / "x.pt").write_bytes(pickle.dumps({"images": [1]}))
    with pytest.raises(InputError, match=r"x\.pt is not a whole safetensors file"):
        load(tmp_path / "x.pt")
    experts = tiny_experts(tmp_path / "experts", blobs(), count=1)
    with pytest.raises(
        InputError,
        match=r"000\.safetensors is not a distilled set of format 1 \(it says None\); name the synthetic\.safetensors",
    ):
        load(experts.path(0))


def test_a_later_format_is_refused(tmp_path: Path) -> None:
    synthetic().save(tmp_path / "a.safetensors")
    tensors, header = load_tensors(tmp_path / "a.safetensors")
    save_tensors(tmp_path / "a.safetensors", tensors, header | {"format": FORMAT + 1})
    with pytest.raises(InputError, match=r"is not a distilled set of format 1 \(it says 2\)"):
        load(tmp_path / "a.safetensors")


@pytest.mark.parametrize("piece", ["targets", "lr", "preprocessing.mean", "classes", "model", "data", "preprocessing"])
def test_a_file_that_lacks_a_piece_is_refused(tmp_path: Path, piece: str) -> None:
    path = tmp_path / "a.safetensors"
    synthetic().save(path)
    tensors, header = load_tensors(path)
    tensors.pop(piece, None)
    header.pop(piece, None)
    save_tensors(path, tensors, header)
    with pytest.raises(InputError, match=piece.removeprefix("preprocessing.")):
        load(path)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "synthetic.safetensors"
    synthetic().save(path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(InputError, match=r"synthetic\.safetensors is not a whole safetensors file"):
        load(tmp_path)


def textures(whiten: str = "zca") -> SyntheticSet:
    return replace(
        synthetic(whiten), images=torch.randn(6, 3, 16, 16, generator=rng(0, "canvases")), canvas=2, canvas_samples=3
    )


@pytest.mark.parametrize("whiten", ["zca", "standard", "none"])
def test_textures_come_back_from_the_file_alone(tmp_path: Path, whiten: str) -> None:
    made = textures(whiten)
    made.save(tmp_path / "synthetic.safetensors")
    found = load(tmp_path)
    assert (found.canvas, found.canvas_samples, found.shape, found.ipc, found.seen) == (2, 3, (3, 8, 8), 2, 18)
    assert found.pixels().shape == (6, 3, 16, 16)
    assert torch.equal(found.pixels(), made.pixels())


def test_a_file_from_before_textures_holds_ordinary_images(tmp_path: Path) -> None:
    synthetic().save(tmp_path / "a.safetensors")
    tensors, header = load_tensors(tmp_path / "a.safetensors")
    del header["canvas"], header["canvas_samples"]
    save_tensors(tmp_path / "a.safetensors", tensors, header)
    found = load(tmp_path / "a.safetensors")
    assert (found.canvas, found.canvas_samples, found.shape) == (1, 1, (3, 8, 8))
    assert torch.equal(found.pixels(), synthetic().preprocessing.invert(synthetic().images).clamp(0, 1))
