"""A store is read by row, named by everything its numbers depend on, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from problems import TINY, TINY_RECIPE, blobs, tiny_experts
from safetensors.torch import load_file

from astdistill.data.dataset import Dataset
from astdistill.experts.store import StoreIdentity, TrajectoryStore, identity_of
from astdistill.experts.training import train_experts
from astdistill.runtime.errors import FolderGoneError, InputError
from astdistill.runtime.files import read_lines, save_tensors, write_json


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return blobs(whiten="zca")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, dataset: Dataset) -> TrajectoryStore:
    return tiny_experts(tmp_path_factory.mktemp("experts"), dataset, count=3)


def test_rows_are_those_of_the_whole_file(store: TrajectoryStore) -> None:
    assert (len(store), store.epochs) == (3, 6)
    for expert in store.experts():
        whole = load_file(store.path(expert))["rows"]
        assert whole.shape == (7, store.identity.parameters)
        for first in range(7):
            for last in range(first + 1, 8):
                assert torch.equal(store.rows(expert, first, last), whole[first:last])


def test_segments_are_rows(store: TrajectoryStore) -> None:
    whole = load_file(store.path(1))["rows"]
    segment = store.segment(1, 2, 3)
    assert (segment.expert, segment.epoch) == (1, 2)
    assert torch.equal(segment.start, whole[2])
    assert torch.equal(segment.checkpoints, whole[3:6])
    assert torch.equal(segment.to("cpu").checkpoints, segment.checkpoints)


def test_reading_a_row_reads_no_more_than_it(tmp_path: Path, store: TrajectoryStore) -> None:
    """A sparse file of 2 GB, of which three rows are asked for: time and memory are those of three rows."""
    rows, parameters = 500_000, 1000
    recipe = store.identity.recipe.replace(epochs=rows - 1)
    fake = TrajectoryStore(tmp_path, store.identity.replace(recipe=recipe, parameters=parameters))
    header = json.dumps(
        {"rows": {"dtype": "F32", "shape": [rows, parameters], "data_offsets": [0, rows * parameters * 4]}}
    ).encode()
    with fake.path(0).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        body = file.tell()
        file.truncate(body + rows * parameters * 4)
        file.seek(body + 300_001 * parameters * 4)
        file.write(torch.arange(parameters, dtype=torch.float32).numpy().tobytes())
    assert fake.path(0).stat().st_blocks * 512 < 1_000_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    segment = fake.segment(0, 300_000, 2)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert torch.equal(segment.checkpoints[0], torch.arange(parameters, dtype=torch.float32))
    assert float(segment.start.abs().sum() + segment.checkpoints[1].abs().sum()) == 0.0


def test_changing_what_was_read_changes_nothing_on_disk_or_in_later_reads(store: TrajectoryStore) -> None:
    kept = store.rows(2, 0, 3).clone()
    store.rows(2, 0, 3).zero_()
    store.segment(2, 0, 2).start.zero_()
    assert torch.equal(store.rows(2, 0, 3), kept)
    assert torch.equal(TrajectoryStore.open(store.folder).rows(2, 0, 3), kept)


@pytest.mark.parametrize(("first", "last"), [(-1, 2), (0, 8), (6, 8), (3, 3), (4, 2), (7, 8)])
def test_rows_out_of_range_are_refused(store: TrajectoryStore, first: int, last: int) -> None:
    with pytest.raises(
        InputError,
        match=rf"Rows {first} to {last - 1} of expert 0 were asked for, but .*000\.safetensors holds rows 0 to 6",
    ):
        store.rows(0, first, last)


def test_the_identity_changes_with_everything_the_numbers_depend_on(dataset: Dataset) -> None:
    def digest(**changes: object) -> str:
        return identity_of(dataset, TINY_RECIPE, TINY, 10, 0, "float32").replace(**changes).digest()

    other = {
        "lr": 0.06,
        "optimiser": "adam",
        "penalty_form": "pixel",
        "augmentation": "flip",
        "lr_drop": 0.5,
        "loss_warmup_start": 0.3,
        "momentum": 0.5,
        "drops_at": (0.5,),
        "cutmix": 0.5,
    }
    recipes = [
        TINY_RECIPE.replace(**{field: other[field] if field in other else getattr(TINY_RECIPE, field) + 1})
        for field in type(TINY_RECIPE).model_fields
    ]
    changes = [
        {},
        *({"recipe": recipe} for recipe in recipes),
        {"model": "convnet-d1-w5"},
        {"seed": 1},
        {"dtype": "bfloat16"},
    ]
    changes += [
        {"shape": (1, 8, 9)},
        {"classes": ("a", "b")},
        {"fingerprint": "x"},
        {"preprocessing": "x"},
        {"parameters": 11},
        {"format": 2},
        {"imported": "x"},
    ]
    assert {name for change in changes for name in change} == set(StoreIdentity.model_fields)
    assert len({digest(**change) for change in changes}) == len(changes)
    # The field came later, and stores that were trained before it keep their names.
    assert "imported" not in identity_of(dataset, TINY_RECIPE, TINY, 10, 0, "float32").to_json()


def test_another_recipe_or_other_data_lie_in_another_folder(tmp_path: Path, dataset: Dataset) -> None:
    short = TINY_RECIPE.replace(epochs=1)
    stores = [
        tiny_experts(tmp_path, dataset, count=1, recipe=short),
        tiny_experts(tmp_path, dataset, count=1, recipe=short.replace(weight_decay=1e-4)),
        tiny_experts(tmp_path, blobs(seed=1), count=1, recipe=short),
        tiny_experts(tmp_path, blobs(), count=1, recipe=short),
        train_experts(dataset, model=TINY, recipe=short, count=1, store=tmp_path, seed=1),
        tiny_experts(tmp_path, dataset, count=1, model="convnet-d1-w5", recipe=short),
    ]
    assert len({store.folder for store in stores}) == 6
    assert all(store.folder.name == store.identity.digest() for store in stores)
    with pytest.raises(InputError, match=r"holds 6 stores \(.*\); name one folder with a recipe\.json"):
        TrajectoryStore.open(tmp_path)


def test_a_store_knows_its_data(store: TrajectoryStore, dataset: Dataset) -> None:
    opened = TrajectoryStore.open(store.folder)
    assert opened.identity == store.identity
    assert opened.preprocessing.hash == dataset.preprocessing.hash
    assert torch.equal(
        opened.preprocessing.apply(torch.ones(1, 1, 8, 8)), dataset.preprocessing.apply(torch.ones(1, 1, 8, 8))
    )
    assert TrajectoryStore.open(store.folder.parent).folder == store.folder
    assert TrajectoryStore.open(str(store.folder), limit=2).experts() == [0, 1]


def test_the_first_experts(store: TrajectoryStore) -> None:
    assert store.first(2).experts() == [0, 1]
    assert len(store.first(3)) == 3
    with pytest.raises(InputError, match=r"4 experts were asked for, but .* holds 3"):
        store.first(4)


def test_no_store_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(
            InputError,
            match=r"holds no expert store; name one folder with a recipe\.json, or train some with: astdistill experts "
            r"PRESET",
        ):
            TrajectoryStore.open(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_cut_expert_file_is_named(tmp_path: Path, store: TrajectoryStore, share: float) -> None:
    copy = TrajectoryStore(tmp_path, store.identity)
    whole = store.path(0).read_bytes()
    copy.path(0).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        InputError, match=r"000\.safetensors is not a whole trajectory .*delete it and run the same command again"
    ):
        copy.rows(0, 0, 1)


def test_an_expert_that_is_not_there_is_named(store: TrajectoryStore) -> None:
    with pytest.raises(InputError, match=r"007\.safetensors"):
        store.rows(7, 0, 1)


def test_a_broken_recipe_file_is_named(tmp_path: Path) -> None:
    write_json(tmp_path / "recipe.json", {})
    os.truncate(tmp_path / "recipe.json", 1)
    with pytest.raises(InputError, match=r"recipe\.json cannot be read as JSON"):
        TrajectoryStore.open(tmp_path)


def test_files_that_are_no_experts_are_passed_over(tmp_path: Path, store: TrajectoryStore) -> None:
    copy = TrajectoryStore(tmp_path, store.identity)
    for name in (
        "preprocessing.safetensors",
        ".003.safetensors.abc.tmp",
        "004a.safetensors",
        "1000.safetensors",
        "002.safetensors",
    ):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "005.partial").mkdir()
    assert copy.experts() == [2, 1000]


def test_a_file_with_rows_missing_is_refused(tmp_path: Path, dataset: Dataset) -> None:
    store = tiny_experts(tmp_path, dataset, count=1)
    rows = store.rows(0, 0, 3)
    store.path(0).unlink()  # a new file under the name, so that the mapped one is left alone
    save_tensors(store.path(0), {"rows": rows}, {"curves": {}})
    with pytest.raises(InputError, match=r"000\.safetensors holds rows of shape .* is expected; delete it"):
        TrajectoryStore.open(store.folder).rows(0, 0, 1)


JOB = """# forked
import sys
from problems import TINY, TINY_RECIPE, blobs
from astdistill import train_experts
dataset, recipe = blobs(), TINY_RECIPE.replace(epochs=40)
print("ready", flush=True)
train_experts(dataset, model=TINY, recipe=recipe, count=3, store=sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_share_a_store(tmp_path: Path, dataset: Dataset) -> None:
    """This one and another train at once, each expert once; the store is what one alone makes, bit for bit."""
    recipe = TINY_RECIPE.replace(epochs=40)
    one = train_experts(dataset, model=TINY, recipe=recipe, count=3, store=tmp_path / "alone")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", JOB, str(tmp_path / "shared")]
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"ready\n"
        two = train_experts(dataset, model=TINY, recipe=recipe, count=3, store=tmp_path / "shared")
    assert other.returncode == 0
    assert one.folder.name == two.folder.name
    assert one.experts() == two.experts() == [0, 1, 2]
    for expert in one.experts():
        assert torch.equal(one.rows(expert, 0, 41), two.rows(expert, 0, 41))
    logged = sorted((line["expert"], line["epoch"]) for line in read_lines(two.folder / "log.jsonl"))
    assert logged == [(expert, epoch) for expert in range(3) for epoch in range(40)], "an expert was trained twice"


@pytest.mark.parametrize("lost", ["an expert", "the folder"])
def test_an_expert_that_goes_away_in_use_ends_the_work_in_a_sentence(lost: str, tmp_path: Path) -> None:
    """Never other draws among those that are left."""
    found = tiny_experts(tmp_path, blobs(), count=2)
    assert found.experts() == [0, 1]
    if lost == "an expert":
        found.path(1).unlink()
    else:
        shutil.rmtree(found.folder)
    with pytest.raises(FolderGoneError, match="was deleted or moved while it was in use; put it back, or run the same"):
        found.experts()
    if lost == "an expert":
        assert TrajectoryStore.open(found.folder).experts() == [0]
