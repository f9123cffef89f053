"""Files of ours whose digests are right and whose contents cannot be: each is one sentence that names the file."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import blobs

from astdistill.data.loading import load_dataset
from astdistill.data.synthetic import SyntheticSet, load
from astdistill.distillation.snapshots import StartMap, read_course
from astdistill.experiment.proposal import _name
from astdistill.experts.partial import state_epochs
from astdistill.interop.import_experts import _import_folder, fitting_model
from astdistill.interop.import_sets import read_pickle
from astdistill.report.experts import read_experts
from astdistill.report.live import expert_progress
from astdistill.report.run import RunReader, read_run
from astdistill.report.tuning import FILE, Tuning
from astdistill.runtime import files
from astdistill.runtime.errors import InputError
from astdistill.runtime.files import (
    append_line,
    cache_folder,
    load_tensors,
    lock,
    new_folder,
    read_json,
    read_lines,
    save_tensors,
    write_json,
)
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.text import in_one_line

Change = Callable[[dict[str, torch.Tensor], dict[str, Any]], None]


def altered(path: Path, change: Change) -> None:
    """Write the file again, with digests that are right, after a change of its tensors and its words."""
    tensors, header = load_tensors(path)
    change(tensors, header)
    save_tensors(path, tensors, header)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """Six images of three classes, ZCA-whitened."""
    dataset = blobs(shape=(3, 8, 8), whiten="zca")
    path = tmp_path / "synthetic.safetensors"
    SyntheticSet(
        images=torch.randn(6, 3, 8, 8),
        targets=torch.eye(3).repeat_interleave(2, dim=0),
        lr=torch.tensor(0.01),
        classes=("ant", "bee", "chat"),
        preprocessing=dataset.preprocessing,
        data=dataset.config,
        model="convnet-d1-w4",
    ).save(path)
    return path


def put(name: str, value: Any) -> Change:
    """Gives a tensor or a word another value."""

    def change(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
        held: dict[str, Any] = header
        if isinstance(value, torch.Tensor):
            held = tensors
        held[name] = value

    return change


def eps(tensors: dict[str, torch.Tensor], header: dict[str, Any]) -> None:
    header["preprocessing"]["eps"] = -1.0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("images", torch.zeros(5, 3, 8, 8)), r"images of shape \[5, 3, 8, 8\] for 3 classes"),
        (put("targets", torch.zeros(6, 2)), r"targets of shape \[6, 2\] for 6 images and 3 classes"),
        (put("images", torch.full((6, 3, 8, 8), torch.nan)), "images or targets that are no finite numbers"),
        (put("lr", torch.tensor(-1.0)), "a learning rate that is no positive number"),
        (put("canvas", 3), r"images of shape \[6, 3, 8, 8\] on a canvas of 3"),
        (put("images", torch.zeros(6, 3, 4, 4)), r"images of shape \[3, 4, 4\], and a preprocessing of \[3, 8, 8\]"),
        (put("preprocessing.eigenvalues", torch.ones(3)), "its eigenvalues is not what it should be"),
        (eps, "its description is not what it should be"),
    ],
)
def test_a_distilled_set_that_cannot_be_one(change: Change, why: str, made: Path) -> None:
    altered(made, change)
    with pytest.raises(InputError, match=rf"synthetic\.safetensors does not hold a .*{why}"):
        load(made)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("pixels", torch.zeros(2, 1, 8, 8)), r"pixels of shape \[2, 1, 8, 8\] as torch\.float32"),
        (put("probabilities", torch.zeros(1, 3)), "labels that are none"),
        (put("iteration", -1), "its iteration is no count"),
    ],
)
def test_images_of_a_run_that_cannot_be_some(change: Change, why: str, tmp_path: Path) -> None:
    path = RunDir(tmp_path).frame(5)
    path.parent.mkdir()
    pixels, shares = torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.ones(2, 1)
    save_tensors(path, {"pixels": pixels, "probabilities": shares}, {"iteration": 5, "lr": 0.1})
    assert [frame.iteration for frame in read_course(tmp_path)] == [5]
    altered(path, change)
    with pytest.raises(InputError, match=rf"000005\.safetensors does not hold images of a run \(ValueError: {why}\)"):
        read_course(tmp_path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (put("apart", torch.zeros(3, 2)), "tensors of other shapes"),
        (put("classes", torch.zeros(4)), "numbers that are no counts"),
        (put("together", torch.full((4, 2), torch.inf)), "points that are not finite"),
        (put("chosen", torch.tensor([0, 4])), "rows that are not there"),
    ],
)
def test_a_map_of_the_start_that_cannot_be_one(change: Change, why: str, tmp_path: Path) -> None:
    count = torch.zeros(4, dtype=torch.int64)
    StartMap(torch.zeros(4, 2), torch.zeros(4, 2), count, count.clone(), torch.tensor([0, 1])).save(tmp_path)
    assert StartMap.read(tmp_path) is not None
    altered(RunDir(tmp_path).initialisation, change)
    with pytest.raises(InputError, match=rf"does not hold how the first images were chosen \(ValueError: {why}\)"):
        StartMap.read(tmp_path)


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.empty(3, device="meta"), "has no numbers"),
        (torch.ones(3, 3).to_sparse(), "is sparse or nested"),
        (torch.ones(3, dtype=torch.complex64), "is of type complex64"),
        (torch.ones(1).expand(5), "repeats its numbers"),
    ],
)
def test_tensors_of_others_that_are_no_plain_numbers(tensor: torch.Tensor, why: str, tmp_path: Path) -> None:
    torch.save({"images": [tensor]}, tmp_path / "images.pt")
    with pytest.raises(
        InputError, match=rf"images\.pt holds a tensor that {why}, where plain numbers are expected; save"
    ):
        read_pickle(tmp_path / "images.pt")


def test_a_file_that_is_removed_while_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch, which opens it a second time, raises RuntimeError; a half-trained expert of another process is then none."""

    def removed(path: Path, framework: str) -> None:
        raise RuntimeError(f"unable to open file <{path}> in read-only mode: No such file or directory (2)")

    monkeypatch.setattr(files, "safe_open", removed)
    with pytest.raises(OSError, match="No such file"):
        files.open_tensors(tmp_path / "state.safetensors")
    assert state_epochs(tmp_path) == 0


def test_a_file_of_others_that_may_not_be_read_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(torch.ones(2), tmp_path / "images.pt")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "images.pt")

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_pickle(tmp_path / "images.pt")


def test_an_import_under_way_is_left_alone(tmp_path: Path) -> None:
    with (
        lock(tmp_path / ".abc.importing" / ".lock", wait=False),
        pytest.raises(InputError, match=r"Another process is importing these files into .*; wait for it, or name ano"),
        _import_folder(tmp_path, "abc"),
    ):
        pass


def test_parameters_without_a_shape_are_of_no_network_of_ours() -> None:
    assert fitting_model([], (3, 32, 32), 10) is None
    assert fitting_model([()], (3, 32, 32), 10) is None


# what a run says of itself


@pytest.fixture
def run(made: Path) -> RunDir:
    """A folder with a set alone."""
    return RunDir(made.parent)


def test_a_provenance_of_another_kind_is_refused(run: RunDir) -> None:
    write_json(run.provenance, {"machine": "mine"})
    with pytest.raises(InputError, match=r"has provenance with an invalid 'machine'; restore"):
        _ = read_run(run.folder).provenance


@pytest.mark.parametrize(
    ("step", "why"),
    [
        ("nothing", "does not name the outer step"),
        ({"part": "FinalMatchingLoss"}, "names an unknown outer step, 'FinalMatchingLoss'"),
    ],
)
def test_an_outer_step_that_is_none_is_said(step: Any, why: str, run: RunDir) -> None:
    write_json(run.config, {"method": {"name": "own", "step": step}})
    read = read_run(run.folder)
    assert why in read.step_refused
    assert read.step.__name__ == "OuterStep"


def test_a_search_that_is_none_is_refused(tmp_path: Path) -> None:
    assert Tuning.read(tmp_path) is None
    write_json(tmp_path / FILE, {"steps": "many"})
    with pytest.raises(InputError, match=r"is no search for rates \(.*\); name a new folder with --out"):
        Tuning.read(tmp_path)


def test_curves_of_no_expert_are_none(tmp_path: Path) -> None:
    write_json(RunDir(tmp_path).experts, {"stores": []})
    assert read_experts(tmp_path) is None


def test_experts_whose_store_is_not_seen_are_of_no_known_number(tmp_path: Path) -> None:
    config: dict[str, Any] = {
        "method": {"expert": {"epochs": 3}},
        "model": "x",
        "experts": {"seed": 0, "dtype": "float32", "store": str(tmp_path / "store"), "count": 2},
    }
    for broken in ("{", '{"identity": 3}'):
        recipe = tmp_path / "store" / "abc" / "recipe.json"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(broken)
        assert expert_progress(tmp_path / "run", config, "data") is None


@pytest.mark.parametrize("kind", ["a pipe", "a device behind a link"])
def test_what_is_no_regular_file_is_neither_read_nor_replaced(kind: str, tmp_path: Path) -> None:
    """As root, a file that is renamed to /dev/null takes the device away from the whole machine."""
    path = tmp_path / "settings.yaml"
    if kind == "a pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(os.devnull)
    for use in (
        read_json,
        load_tensors,
        read_lines,
        lambda path: write_json(path, {}),
        lambda path: append_line(path, {}),
    ):
        with pytest.raises(InputError, match=r"settings\.yaml is a pipe, device or socket, not a file; name another"):
            use(path)
    assert path.is_fifo() or path.is_symlink()
    assert os.listdir(tmp_path) == ["settings.yaml"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_a_file_in_a_folder_whose_name_is_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9") / "a.safetensors"
    save_tensors(path, {"a": torch.arange(3)}, {"b": 1})
    tensors, header = load_tensors(path)
    assert (tensors["a"].tolist(), header) == ([0, 1, 2], {"b": 1})


def test_a_home_of_nobody_is_a_name_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell."""
    monkeypatch.setenv("ASTDISTILL_CACHE", "~nobody-at-all/cache")
    assert cache_folder() == Path("~nobody-at-all/cache")
    with pytest.raises(InputError, match="There is no file or folder ~nobody-at-all/x"):
        load_dataset("~nobody-at-all/x")
    assert _name("~nobody-at-all/x") == "x"


def test_of_two_who_make_a_folder_the_slower_is_told_and_changes_nothing(tmp_path: Path) -> None:
    """As two exports, or two downloads, of one --out."""
    slow, fast = new_folder(tmp_path / "set"), new_folder(tmp_path / "set")
    (slow.__enter__() / "a").write_text("slower")
    with fast as faster:
        (faster / "a").write_text("faster")
    with pytest.raises(InputError, match=r"--out .*set exists already and is not an empty folder; name a new one"):
        slow.__exit__(None, None, None)
    assert [(path.name, (path / "a").read_text()) for path in tmp_path.iterdir()] == [("set", "faster")]


def test_what_other_code_says_is_one_printable_line() -> None:
    assert in_one_line(ValueError("no\nsuch \x1b[2J type")) == r"no such \x1b[2J type"
    assert in_one_line(KeyError()) == "KeyError"
    assert in_one_line(ValueError("x" * 300)) == "x" * 200


def test_damage_to_what_was_learned_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"method": {"learn": 0.5}}')
    with pytest.raises(InputError, match=r"config\.json has method\.learn 0\.5, which is no list"):
        _ = RunReader.of(tmp_path).learns_lr
