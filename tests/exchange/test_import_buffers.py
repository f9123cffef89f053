"""Experts of other code bases come in whole and equal, or not at all and with the reason."""

from __future__ import annotations

import json
import os
import re
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from problems import TINY, TINY_RECIPE, blobs, tiny_experts
from reference_mtt import PublishedConvNet, Rows, Touch, alias, published_rows, rows_of, trained, write_buffers
from short_methods import AST, MTT, with_numbers
from torch import Tensor

import astdistill
from astdistill.data.dataset import Dataset
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.experts.store import TrajectoryStore
from astdistill.experts.training import train_experts
from astdistill.interop import import_experts as buffers
from astdistill.interop.import_experts import import_buffers, last_accuracy
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.errors import InputError
from astdistill.runtime.seeds import seeded


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs(whiten="zca")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset, count=3)


def refusal(folder: Path | list[Path], dataset: Dataset, store: Path, model: str = TINY) -> str:
    """The sentence by which the import is refused."""
    with pytest.raises(InputError) as raised:
        import_buffers(folder, dataset, model=model, store=store)
    return str(raised.value)


def test_the_same_rows_distil_to_the_same_bits(tmp_path: Path, dataset: Dataset, original: TrajectoryStore) -> None:
    experts = [rows_of(original, expert) for expert in original.experts()]
    folder = write_buffers(tmp_path / "buffers", [experts[:2], experts[2:]])
    imported = astdistill.import_buffers(folder, dataset, model=TINY, recipe=TINY_RECIPE, store=tmp_path / "store")
    assert imported.experts() == [0, 1, 2]
    assert imported.epochs == original.epochs
    for expert in imported.experts():
        assert torch.equal(imported.rows(expert, 0, 7), original.rows(expert, 0, 7))
    for mine, theirs in zip(imported.curves(), original.curves(), strict=True):
        assert mine.step_squared == pytest.approx(theirs.step_squared, rel=1e-12)
    method, settings = with_numbers(AST, syn_steps=3, max_start_epoch=3), DistillSettings(iterations=3, lr_img=1.0)
    sets = [distill(dataset, store, method=method, ipc=2, settings=settings) for store in (imported, original)]
    assert torch.equal(sets[0].images, sets[1].images)
    assert torch.equal(sets[0].lr, sets[1].lr)


def test_the_published_network_computes_the_same_from_its_row(tmp_path: Path) -> None:
    """The oracle of the parameters' order: the module that was trained, beside ours with the imported row."""
    data = blobs(shape=(3, 16, 16), classes=4, whiten="none")
    with seeded(0, "published"):
        network = PublishedConvNet(3, 4, 16, depth=2, width=6)
    rows = trained(network, data.train.whole(), data.train.labels, epochs=2)
    store = import_buffers(write_buffers(tmp_path / "b", [[rows]]), data, model="convnet-d2-w6", store=tmp_path / "s")
    flat = FlatModel(build_model("convnet-d2-w6", data.shape, 4))
    images = data.test.whole().double()
    ours = flat(store.rows(0, 2, 3)[0].double(), images)
    torch.testing.assert_close(ours, network.double()(images), rtol=1e-9, atol=1e-9)
    right = (network(images).argmax(1) == data.test.labels).double().mean()
    assert last_accuracy(store, data) == pytest.approx(100 * float(right))
    assert last_accuracy(store, data) > 50


def test_an_expert_trained_on_a_cpu_by_the_released_code_is_frozen_and_refused(
    tmp_path: Path, dataset: Dataset
) -> None:
    with seeded(0, "published"):
        network = PublishedConvNet(1, 3, 8, depth=1, width=4)
    rows = trained(network, dataset.train.whole(), dataset.train.labels, epochs=2, row=alias)
    folder = write_buffers(tmp_path / "b", [[published_rows()], [published_rows(seed=1), rows]])
    sentence = r"The 3 rows of expert 1 of .*replay_buffer_1\.pt are all equal.*does not copy on a CPU"
    assert re.search(sentence, refusal(folder, dataset, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "older than torch 1.6"])
def test_a_malicious_file_is_refused_and_does_nothing(tmp_path: Path, dataset: Dataset, zipped: bool) -> None:
    file, touched = tmp_path / "replay_buffer_0.pt", tmp_path / "touched"
    torch.save([[*published_rows(), Touch(touched)]], file, _use_new_zipfile_serialization=zipped)
    sentence = "holds 'posix.system', which is no tensor, list or number, and was not loaded"
    assert sentence in refusal(tmp_path, dataset, tmp_path / "s")
    assert not (tmp_path / "s").exists()
    assert not touched.exists()
    torch.load(file, weights_only=False)  # the file is what it seems: the careless way runs it
    assert touched.exists()


def test_files_older_than_torch_1_6_are_read(tmp_path: Path, dataset: Dataset) -> None:
    rows = published_rows()
    torch.save([rows], tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save([rows], tmp_path / "new.pt")
    stores = [
        import_buffers([tmp_path / f"{age}.pt"], dataset, model=TINY, store=tmp_path / age) for age in ("old", "new")
    ]
    assert stores[0].identity == stores[1].identity
    assert torch.equal(
        stores[0].rows(0, 0, 3), torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
    )


def test_files_are_taken_in_the_order_of_their_numbers(tmp_path: Path, dataset: Dataset) -> None:
    experts = [published_rows(seed=seed) for seed in range(12)]
    folder = write_buffers(tmp_path / "b", [[expert] for expert in experts])
    (folder / "replay_buffer_best.pt").write_bytes(b"")
    store = import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    for number, expert in enumerate(experts):
        assert torch.equal(store.rows(number, 1, 2)[0], torch.cat([part.flatten() for part in expert[1]]))


def test_half_precision_rows_and_parameters_and_a_store_of_half_the_size(tmp_path: Path, dataset: Dataset) -> None:
    rows = [[torch.nn.Parameter(part.half()) for part in row] for row in published_rows()]
    torch.save([rows], tmp_path / "half.pt")
    full = import_buffers(tmp_path / "half.pt", dataset, model=TINY, store=tmp_path / "s")
    half = import_buffers(tmp_path / "half.pt", dataset, model=TINY, store=tmp_path / "s", dtype="bfloat16")
    assert torch.equal(full.rows(0, 0, 1)[0], torch.cat([part.detach().flatten().float() for part in rows[0]]))
    assert torch.equal(half.rows(0, 0, 3), full.rows(0, 0, 3).bfloat16().float())
    assert half.folder != full.folder


def test_the_store_is_named_by_its_rows_and_can_never_be_trained_on(tmp_path: Path, dataset: Dataset) -> None:
    first = write_buffers(tmp_path / "a", [[published_rows()]])
    other = write_buffers(tmp_path / "b", [[published_rows(seed=1)]])
    again = write_buffers(tmp_path / "c", [[published_rows()]])
    recipe = TINY_RECIPE.replace(epochs=2)
    stores = [
        import_buffers(each, dataset, model=TINY, recipe=recipe, store=tmp_path / "s") for each in (first, other, again)
    ]
    assert stores[0].folder == stores[2].folder != stores[1].folder
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == sorted(store.folder.name for store in stores[:2])
    before = {path: path.read_bytes() for path in stores[0].folder.iterdir()}
    mine = train_experts(dataset, model=TINY, recipe=recipe, count=2, store=tmp_path / "s")
    assert mine.folder not in [store.folder for store in stores]
    assert {path: path.read_bytes() for path in stores[0].folder.iterdir()} == before


def test_shorter_experts_cut_the_store_to_their_length(tmp_path: Path, dataset: Dataset) -> None:
    folder = write_buffers(tmp_path / "b", [[published_rows(count=5), published_rows(count=3, seed=1)]])
    store = import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    assert store.epochs == store.identity.recipe.epochs == 2
    with pytest.raises(InputError, match=r"holds rows 0 to 2"):
        store.rows(0, 3, 4)
    method, settings = with_numbers(MTT, syn_steps=2, max_start_epoch=1), DistillSettings(iterations=1)
    assert distill(dataset, store, method=method, settings=settings).provenance["iteration"] == 1
    with pytest.raises(InputError, match=r"choose --method\.step\.max-start-epoch 1 or less"):
        distill(dataset, store, method=with_numbers(method, max_start_epoch=2), settings=settings)


@pytest.mark.parametrize(
    ("rows", "model", "sentence"),
    [
        (
            published_rows(width=6),
            TINY,
            r"tensor 0, which is not the \[4, 1, 3, 3\] of 'features\.0\.weight'.*give --model convnet-d1-w6,",
        ),
        (published_rows(depth=2), TINY, r"Expert 0 of .*replay_buffer_0\.pt .*give --model convnet-d2-w4,"),
        (published_rows(depth=3, width=128), TINY, r"give --model convnet-d3,"),
        (published_rows(), "mlp", r"give --model convnet-d1-w4,"),
        (published_rows(classes=10), TINY, r"these experts seem to tell 10 classes apart: name the data"),
        (
            published_rows(size=16),
            TINY,
            r"--model convnet-d1-w4-nopool, .*, or the size of larger images with --data\.size\.",
        ),
        ([row[:-1] for row in published_rows()], TINY, r"has 5 tensors, which are not the 6 of"),
        (
            [[part.T if part.ndim == 2 else part for part in row] for row in published_rows()],
            TINY,
            r"of 'classifier\.weight'",
        ),
    ],
    ids=["width", "depth", "published size", "family", "classes", "image size", "tensor missing", "transposed"],
)
def test_another_network_is_named(tmp_path: Path, dataset: Dataset, rows: Rows, model: str, sentence: str) -> None:
    folder = write_buffers(tmp_path / "b", [[rows]])
    assert re.search(sentence, refusal(folder, dataset, tmp_path / "s", model))
    assert not (tmp_path / "s").exists()


def _spoilt(value: float) -> Rows:
    rows = published_rows()
    rows[2][0][0] = value
    return rows


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ([_spoilt(float("nan"))], r"Row 2 of expert 0 of .* not finite"),
        ([published_rows(), _spoilt(float("inf"))], r"Row 2 of expert 1 of .* not finite"),
        ([published_rows(count=1)], r"has 1 row\(s\) and so no epoch"),
        ([[]], r"has 0 row\(s\)"),
        ([], r"is not a list of experts, each a list of rows, each a list of tensors, but a list"),
        (published_rows(), r"is not a list of experts.*expert 0 holds other things"),
        ({"rows": published_rows()}, r"but a dict"),
        (torch.zeros(3), r"but a Tensor"),
        ([[[1.0, 2.0], [3.0, 4.0]]], r"expert 0 holds other things"),
    ],
    ids=["nan", "inf", "one row", "no row", "no expert", "one expert bare", "dictionary", "tensor", "numbers"],
)
def test_other_contents_are_refused(tmp_path: Path, dataset: Dataset, content: Any, sentence: str) -> None:
    torch.save(content, tmp_path / "replay_buffer_0.pt")
    assert re.search(sentence, refusal(tmp_path, dataset, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_file_is_named(tmp_path: Path, dataset: Dataset, share: float) -> None:
    folder = write_buffers(tmp_path / "b", [[published_rows()], [published_rows(seed=1)]])
    file = folder / "replay_buffer_1.pt"
    os.truncate(file, int(share * file.stat().st_size))
    sentence = r"replay_buffer_1\.pt is not a whole file of torch\.save( \(.+\))?; copy it again"
    assert re.search(sentence, refusal(folder, dataset, tmp_path / "s"))
    assert not (tmp_path / "s").exists()


def test_folders_of_other_things(tmp_path: Path, dataset: Dataset) -> None:
    folder, store = tmp_path / "b", tmp_path / "s"
    assert re.search(r"There is no file .*absent", refusal(tmp_path / "absent", dataset, store))
    folder.mkdir()
    assert "holds no replay_buffer_0.pt (it has no .pt file)" in refusal(folder, dataset, store)
    torch.save(torch.zeros(2), folder / "weights.pt")
    assert "it has weights.pt); files of other names are named one by one" in refusal(folder, dataset, store)
    torch.save(torch.zeros(2), folder / "images_best.pt")
    assert "astdistill import-set" in refusal(folder, dataset, store)
    assert "No buffer was named" in refusal([], dataset, store)
    assert not store.exists()
    (tmp_path / "file").write_text("mine")
    good = write_buffers(tmp_path / "c", [[published_rows()]])
    assert "is a file; name a folder" in refusal(good, dataset, tmp_path / "file")


def test_a_stopped_import_goes_on_and_ends_the_same(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_buffers(tmp_path / "b", [[published_rows(seed=seed) for seed in pair] for pair in ((0, 1), (2, 3))])
    whole = import_buffers(folder, dataset, model=TINY, store=tmp_path / "whole")
    save, saved = buffers.save_tensors, []

    def stops(path: Path, *rest: Any, **more: Any) -> None:
        if path.name == "002.safetensors" and not saved.count(path.name):
            saved.append(path.name)
            (path.parent / f".{path.name}.abc.tmp").write_text("cut short")
            raise KeyboardInterrupt
        saved.append(path.name)
        save(path, *rest, **more)

    monkeypatch.setattr(buffers, "save_tensors", stops)
    with pytest.raises(KeyboardInterrupt):
        import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    with pytest.raises(InputError, match="holds no expert store"):
        TrajectoryStore.open(tmp_path / "s")
    store = import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    assert saved == ["000.safetensors", "001.safetensors", "002.safetensors", "002.safetensors", "003.safetensors"]
    assert store.identity == whole.identity
    assert {path.name for path in store.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
    for expert in range(4):
        assert torch.equal(store.rows(expert, 0, 3), whole.rows(expert, 0, 3))
    assert [path.name for path in (tmp_path / "s").iterdir()] == [store.folder.name]


def test_what_is_in_the_store_already_survives_a_refusal(
    tmp_path: Path, dataset: Dataset, original: TrajectoryStore
) -> None:
    good = import_buffers(
        write_buffers(tmp_path / "a", [[published_rows()]]), dataset, model=TINY, store=tmp_path / "s"
    )
    torch.save([published_rows(), _spoilt(float("nan"))], tmp_path / "replay_buffer_0.pt")
    with pytest.raises(InputError, match="not finite"):
        import_buffers(tmp_path, dataset, model=TINY, store=tmp_path / "s")
    assert [path.name for path in (tmp_path / "s").iterdir()] == [good.folder.name]


def test_one_file_is_in_memory_at_a_time(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_buffers(tmp_path / "b", [[published_rows(seed=seed)] for seed in range(4)])
    read, alive, most = buffers.read_pickle, weakref.WeakSet[Tensor](), []

    def counted(path: Path) -> Any:
        most.append(len(alive))
        found = read(path)
        alive.update(part for expert in found for row in expert for part in row)
        return found

    monkeypatch.setattr(buffers, "read_pickle", counted)
    import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    assert len(most) == 8  # once to check, once to copy
    assert max(most) == 0


def test_chance_is_seen_where_the_data_are_others(original: TrajectoryStore, dataset: Dataset) -> None:
    assert last_accuracy(original, dataset) > 80
    assert last_accuracy(original, blobs(whiten="zca", seed=5)) < 60


def test_where_an_expert_came_from_stands_in_its_file(tmp_path: Path, dataset: Dataset) -> None:
    from astdistill.runtime.files import load_tensors

    folder = write_buffers(tmp_path / "b", [[published_rows()], [published_rows(seed=1), published_rows(seed=2)]])
    store = import_buffers(folder, dataset, model=TINY, store=tmp_path / "s")
    assert load_tensors(store.path(2))[1]["source"] == {"file": "replay_buffer_1.pt", "expert": 1}
    assert json.loads((store.folder / "recipe.json").read_text())["data"]["whiten"] == "zca"
