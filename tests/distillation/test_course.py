"""What a run leaves to look at: which iterations, which images, how the first were chosen, and how long it took."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from short_methods import AST, MTT

from astdistill.data.dataset import Dataset
from astdistill.data.synthetic import SyntheticSet, load, one_hot
from astdistill.distillation.loop import distill
from astdistill.distillation.settings import DistillSettings
from astdistill.distillation.snapshots import MOST_IMAGES, Frame, StartMap, due, forget, plane, read_course
from astdistill.experts.store import TrajectoryStore
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.runtime.files import read_lines
from astdistill.runtime.run_dir import RunDir
from astdistill.runtime.status import StepClock, stage


def test_the_kept_iterations_are_dense_at_the_start() -> None:
    assert list(filter(due, range(1001))) == [0, 5, 10, 20, 30, 50, 100, 200, 300, 500, 1000]
    assert 12 <= len(list(filter(due, range(5001)))) <= 16


def test_frames_are_the_images_of_shorter_runs(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=6), out=tmp_path)
    frames = read_course(tmp_path)
    assert [frame.iteration for frame in frames] == [0, 5]
    shorter = distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=5))
    assert torch.equal(frames[1].pixels, shorter.pixels().mul(255).round().byte())
    assert torch.equal(frames[1].probabilities, shorter.probabilities)
    assert frames[1].lr == float(shorter.lr)
    start = dataset.preprocessing.invert(AST.init(dataset, experts, network(experts, dataset), 2, 0).images).clamp(0, 1)
    assert torch.equal(frames[0].pixels, start.mul(255).round().byte())


def test_without_snapshots_the_result_is_the_same_and_nothing_is_left(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    found = distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(snapshots=False), out=tmp_path)
    assert not (tmp_path / "course").exists()
    assert not (RunDir(tmp_path).initialisation).exists()
    assert torch.equal(found.images, distill(dataset, experts, method=AST, ipc=2, settings=settings).images)
    longer = settings.replace(iterations=10)
    distill(
        dataset, experts, method=AST, ipc=2, settings=longer, out=tmp_path
    )  # the same run goes on, and keeps frames from here
    assert [frame.iteration for frame in read_course(tmp_path)] == [10]


def test_frames_of_steps_that_are_taken_again_are_forgotten(tmp_path: Path) -> None:
    for iteration in (0, 5, 10):
        Frame(iteration, torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.ones(1, 1), 0.1).save(tmp_path)
    forget(tmp_path, 5)
    assert [frame.iteration for frame in read_course(tmp_path)] == [0, 5]


def test_a_large_set_is_shown_by_the_first_images_of_each_class(dataset: Dataset) -> None:
    ipc, classes = 600, len(dataset.classes)
    images = torch.arange(classes * ipc).view(-1, 1, 1, 1) % 250 / 255
    synthetic = SyntheticSet(
        dataset.preprocessing.apply(images.expand(-1, 1, 8, 8)), one_hot(torch.arange(classes).repeat_interleave(ipc), classes),
        torch.tensor(0.1), dataset.classes, dataset.preprocessing, dataset.config, "convnet-d1",
    )  # fmt: skip
    frame = Frame.of(synthetic, 0)
    kept = MOST_IMAGES // classes
    assert len(frame.pixels) == classes * kept <= MOST_IMAGES
    assert frame.probabilities.argmax(dim=1).tolist() == [label for label in range(classes) for _ in range(kept)]
    assert frame.pixels[:, 0, 0, 0].tolist() == [
        (label * ipc + place) % 250 for label in range(classes) for place in range(kept)
    ]


def network(experts: TrajectoryStore, dataset: Dataset) -> FlatModel:
    return FlatModel(build_model(experts.identity.model, dataset.shape, len(dataset.classes)))


def test_the_map_of_the_start_points_at_the_images_that_were_taken(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=AST, ipc=2, settings=settings.replace(iterations=1), out=tmp_path)
    start = StartMap.read(tmp_path)
    assert start is not None
    members = torch.cat([dataset.train.of_class(label) for label in range(3)])
    assert torch.equal(start.classes, dataset.train.labels[members])
    pixels = (
        dataset.preprocessing.invert(dataset.train.images[members[start.chosen]]).clamp(0, 1).mul(255).round().byte()
    )
    assert torch.equal(pixels, read_course(tmp_path)[0].pixels)
    for label in range(3):
        own = start.classes == label
        assert start.apart[own].mean(dim=0).abs().max() < 1e-4
        assert start.clusters[own].unique().tolist() == [0, 1]
        assert start.clusters[start.chosen[2 * label : 2 * label + 2]].tolist() == [0, 1]


def test_a_start_that_was_not_clustered_leaves_no_map(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    distill(dataset, experts, method=MTT, ipc=1, settings=settings.replace(iterations=1), out=tmp_path)
    assert StartMap.read(tmp_path) is None


@pytest.mark.parametrize(("count", "size"), [(30, 5), (4, 9), (3, 1), (1, 4)])
def test_the_plane_is_that_of_scikit_learn(count: int, size: int) -> None:
    from sklearn.decomposition import PCA

    features = torch.randn(count, size, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    found, used = plane(features.float()), min(2, count - 1, size)
    assert found.shape == (count, 2)
    assert found[:, used:].abs().max() < 1e-5 if used < 2 else True
    if used:
        wanted = torch.from_numpy(PCA(used, svd_solver="full").fit_transform(features.numpy()))
        assert torch.allclose(found[:, :used].double().abs(), wanted.abs(), atol=1e-5)


def test_every_step_and_stage_is_timed_and_a_cut_line_is_mended(
    tmp_path: Path, dataset: Dataset, experts: TrajectoryStore, settings: DistillSettings
) -> None:
    with stage("distillation", tmp_path):
        distill(dataset, experts, method=MTT, ipc=1, settings=settings.replace(iterations=3), out=tmp_path)
    with RunDir(tmp_path).clock.open("a") as file:
        file.write('{"iteration": 3, "sec')
    distill(dataset, experts, method=MTT, ipc=1, settings=settings.replace(iterations=5), out=tmp_path)
    lines = read_lines(RunDir(tmp_path).clock)
    assert [line["iteration"] for line in lines if "iteration" in line] == [0, 1, 2, 3, 4]
    assert all(line["seconds"] >= 0 for line in lines)
    (whole,) = (line for line in lines if "stage" in line)
    assert whole["seconds"] >= sum(line["seconds"] for line in lines[:3]) - 0.01
    assert whole["peak_mib"] > 30
    assert load(tmp_path).provenance["iteration"] == 5


def test_a_stage_that_fails_is_logged_too(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), stage("evaluation", tmp_path):
        raise RuntimeError
    assert [line["stage"] for line in read_lines(RunDir(tmp_path).clock)] == ["evaluation"]
    StepClock(None).end(0)
