"""The figures of docs/how-it-works.md and the loss curve of the quickstart, each drawn from a real run of the package
on scikit-learn's digits.

    python benchmarks/figures.py --work FOLDER                 # some minutes on two cores; resumes; writes
    docs/images/how-*.png and demo-curves.png

The experts, networks and rates are those of the preset digits-ipc1; --tiny makes them so small that it ends in seconds,
for tests only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.axes import Axes
from torch import Tensor

import astdistill as ad
from astdistill.data.dataset import Dataset
from astdistill.distillation.snapshots import plane, read_course
from astdistill.experiment.config import Experiment
from astdistill.experiment.presets import preset, with_method
from astdistill.experts.store import Segment, TrajectoryStore
from astdistill.methods.initialisation import RealInit, RepresentativeInit
from astdistill.methods.method import Method
from astdistill.methods.trajectory_matching import AST_AS_RELEASED, MTT
from astdistill.methods.unroll import InnerLoop, Variables, draw_plan
from astdistill.models.flat import FlatModel
from astdistill.models.registry import build_model
from astdistill.report.figures import (
    COLOURS,
    FAINT,
    INK,
    band,
    blank,
    curve,
    draw_loss,
    draw_unmoved,
    logarithmic,
    save,
    tidy,
)
from astdistill.report.run import unmoved_loss
from astdistill.runtime.files import read_lines
from astdistill.runtime.seeds import rng

EXPERT, DPI = 0, 110
"""The expert whose trajectory is shown, and a resolution that is sharp on a page and keeps files below 200 kB."""


def cells(tiny: bool) -> dict[str, Experiment]:
    """The setting of the demo with MTT and with AST."""
    cell = preset("digits-ipc1")
    if tiny:
        step = cell.method.step.replace(syn_steps=4, max_start_epoch=2)
        method = cell.method.replace(expert=cell.method.expert.replace(epochs=4), step=step)
        settings = cell.distill.replace(iterations=10)
        cell = cell.replace(
            model="convnet-d1-w4", method=method, distill=settings, experts=cell.experts.replace(count=1)
        )
    return {"mtt": with_method(cell, "mtt"), "ast": cell}


def trained(cell: Experiment, method: Method, dataset: Dataset, work: Path) -> TrajectoryStore:
    """The setting's number of experts, trained with the recipe of `method`."""
    return ad.train_experts(
        dataset, model=cell.model, recipe=method.expert, count=cell.experts.count, store=work / "experts"
    )


def students(cell: Experiment, segment: Segment, images: Tensor, targets: Tensor, lr: float) -> list[Tensor]:
    """θ_0 … θ_T of a student that starts at the segment and trains on these images; the same augmentations for any
    images."""
    step, shape = cell.method.step, (images.shape[1], images.shape[2], images.shape[3])
    plan = draw_plan(
        step.syn_steps,
        len(images),
        step.batch_syn,
        cell.distill.augmentation,
        shape,
        rng(0, "figure", segment.epoch),
    )
    weight = cell.method.weight(segment.epoch, step.max_start_epoch)
    inner = InnerLoop(FlatModel(build_model(cell.model, shape, targets.shape[1])), plan, cell.method.momentum, weight)
    trajectory = inner.trajectory(segment.start, Variables(images, targets, torch.tensor(lr)))
    return list(trajectory.students.values())


def aside(points: Tensor, start: Tensor, target: Tensor) -> Tensor:
    """Points `[N, P]` as `[N, 2]`: the position along the line from start to target and the distance from it, in
    lengths of that line.

    The start becomes (0, 0) and the target (1, 0); squared distances to these two are those in all P dimensions, over
    ‖target − start‖².
    """
    line, moved = target - start, points - start
    along = moved @ line / line.square().sum()
    distance = (moved - along[:, None] * line).norm(dim=1) / line.norm()
    return torch.stack([along, distance], dim=1)


def components(points: Tensor) -> Tensor:
    """The first two principal components `[N, 2]` of N points in a space of many more dimensions."""
    left, values, _ = torch.linalg.svd(points - points.mean(dim=0), full_matrices=False)
    return left[:, :2] * values[:2]


def figure_segment(
    cell: Experiment, experts: TrajectoryStore, sets: dict[str, tuple[Tensor, Tensor, float]], out: Path
) -> None:
    """One expert's trajectory with a segment and the students on it; and the students of every start epoch, in units of
    their segments."""
    starts, matched = cell.method.step.max_start_epoch, cell.method.step.expert_epochs
    example = experts.segment(EXPERT, starts // 3, matched)
    rows = experts.rows(EXPERT, 0, experts.epochs + 1)
    courses = {name: torch.stack(students(cell, example, *each)) for name, each in sets.items()}
    flat = components(torch.cat([rows, *courses.values()])).split([len(rows), *map(len, courses.values())])
    figure = blank(9.2, 4.0, DPI)
    path, units = figure.subplots(1, 2)
    tidy(path, "A trajectory, a segment, and students on it", "first principal component", "second")
    path.plot(
        *flat[0].T, "o-", color=FAINT, markersize=3, linewidth=1, label=f"an expert, epochs 0 to {experts.epochs}"
    )
    for (name, _), points, colour in zip(courses.items(), flat[1:], COLOURS[1:], strict=False):
        path.plot(*points.T, color=colour, linewidth=1.8, label=f"student on {name}")
    for epoch, text in ((example.epoch, "start θ*$_t$"), (example.epoch + matched, "target θ*$_{t+M}$")):
        path.plot(*flat[0][epoch], "s", color=INK, markersize=6)
        path.annotate(text, flat[0][epoch].tolist(), (8, 6), textcoords="offset points", fontsize=9, color=INK)
    path.legend(fontsize=8, frameon=False)
    tidy(units, f"Squared distance to the target = loss (t = 0 to {starts - 1})", "along the segment", "beside it")
    for (name, each), colour in zip(sets.items(), COLOURS[1:], strict=False):
        losses = []
        for epoch in range(starts):
            segment = experts.segment(EXPERT, epoch, matched)
            points = aside(torch.stack(students(cell, segment, *each)), segment.start, segment.checkpoints[-1])
            units.plot(*points.T, color=colour, linewidth=1, alpha=0.7)
            losses.append(float((points[-1] - torch.tensor([1.0, 0.0])).square().sum()))
        units.plot([], [], color=colour, label=f"on {name}: mean loss {sum(losses) / len(losses):.2f}")
    angle = torch.linspace(0, torch.pi, 100)
    units.plot(1 + angle.cos(), angle.sin(), ":", color=FAINT, label="loss 1")
    units.plot([0, 1], [0, 0], "s", color=INK, markersize=6)
    units.set_aspect("equal")
    units.set_ylim(-0.1, 1.9)
    units.legend(fontsize=8, frameon=False, loc="upper right")
    save(figure, out / "how-segment.png")


def figure_loss(metrics: Path, out: Path) -> None:
    """MTT's matching loss and learning rate over the outer steps."""
    lines = read_lines(metrics)
    figure = blank(9.2, 3.2, DPI)
    loss, rate = figure.subplots(1, 2)
    tidy(loss, "Matching loss (MTT)", "outer step", "loss")
    draw_loss(loss, curve(lines, "loss"), unmoved_loss(MTT))
    tidy(rate, "Learned learning rate η", "outer step", "η")
    rate.plot([line["iteration"] for line in lines], [line["lr"] for line in lines], color=COLOURS[2], linewidth=1.7)
    save(figure, out / "how-loss.png")


def figure_curves(cell: Experiment, experts: TrajectoryStore, dataset: Dataset, run: Path, out: Path) -> None:
    """Left, the loss of every outer step, each on its own segment; right, the mean loss of the images at some
    steps on the same segments, those of every expert and start epoch, with its standard error."""
    figure = blank(9.2, 3.6, DPI)
    single, mean = figure.subplots(1, 2, sharey=True)
    unmoved = unmoved_loss(cell.method)
    tidy(single, "Each step, on a segment drawn for it", "outer step", "matching loss")
    draw_loss(single, curve(read_lines(run / "metrics.jsonl"), "loss"), unmoved)
    segments = [
        experts.segment(number, epoch, cell.method.step.expert_epochs)
        for number in experts.experts()
        for epoch in range(cell.method.step.max_start_epoch)
    ]
    tidy(mean, f"The same {len(segments)} segments throughout", "outer step", "")
    steps, means, errors = [], [], []
    for frame in read_course(run):
        images = dataset.preprocessing.apply(frame.pixels.float() / 255)
        losses = torch.tensor([segment_loss(cell, each, images, frame.probabilities, frame.lr) for each in segments])
        steps.append(frame.iteration)
        means.append(float(losses.mean()))
        errors.append(float(losses.std()) / len(losses) ** 0.5)
        print(f"step {frame.iteration}: mean loss {means[-1]:.3f} ± {errors[-1]:.3f}")
    label = "mean ± standard error"
    mean.errorbar(steps, means, errors, fmt="o-", color=COLOURS[0], markersize=4, capsize=2, label=label)
    draw_unmoved(mean, unmoved)
    for axes in (single, mean):
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    save(figure, out / "demo-curves.png")


def segment_loss(cell: Experiment, segment: Segment, images: Tensor, targets: Tensor, lr: float) -> float:
    """The matching loss of a student of these images on one segment."""
    course = students(cell, segment, images, targets, lr)
    objective = cell.method.loss(segment, segment.start, cell.method.step.syn_steps)
    return float(objective([course[step] for step in objective.at]))


def figure_course(run: Path, out: Path) -> None:
    """The images after some outer steps, from real to distilled; one row per frame."""
    frames = {frame.iteration: frame for frame in read_course(run)}
    iterations = [number for number in (0, 10, 50, 100, max(frames)) if number in frames]
    figure = blank(7.2, 0.64 * len(iterations), DPI, laid_out=False)
    close = {"left": 0.11, "right": 0.995, "bottom": 0.01, "top": 0.99, "wspace": 0.06, "hspace": 0.06}
    grid = figure.subplots(len(iterations), len(frames[0].pixels), squeeze=False, gridspec_kw=close)
    for row, number in zip(grid, iterations, strict=True):
        for axes, pixels in zip(row, frames[number].pixels, strict=True):
            axes.imshow(pixels[0].numpy(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(
            "real" if number == 0 else f"{number} steps", rotation=0, ha="right", va="center", fontsize=9, color=INK
        )
    save(figure, out / "how-course.png")


def figure_parts(
    cell: Experiment, dataset: Dataset, distilled: tuple[Tensor, Tensor, float], work: Path, out: Path
) -> None:
    """The effect of each of AST's six parts, one panel each."""
    figure = blank(9.6, 6.2, DPI)
    clipping, penalty, start, balance, intermediate, perturbation = figure.subplots(2, 3).flat
    draw_clipping(clipping, cell, dataset, work)
    draw_penalty(penalty, cell, dataset, work)
    draw_start(start, cell, dataset, work)
    draw_balance(balance, cell)
    draw_intermediate(intermediate, cell, trained(cell, cell.method, dataset, work), distilled)
    draw_perturbation(perturbation)
    for axes in figure.axes:
        axes.legend(fontsize=7, frameon=False)
    save(figure, out / "how-parts.png")


def draw_clipping(axes: Axes, cell: Experiment, dataset: Dataset, work: Path) -> None:
    tidy(axes, "1 Clipping loss", "epoch", "squared step of the experts")
    for name, method, colour in (
        ("with", cell.method, COLOURS[0]),
        ("without", cell.method.without("clipping"), COLOURS[1]),
    ):
        curves = trained(cell, method, dataset, work).curves()
        band(
            axes, [each.step_squared for each in curves], colour, "-", f"{name} (n = {len(curves)})", of_logarithm=True
        )
    logarithmic(axes)


def draw_penalty(axes: Axes, cell: Experiment, dataset: Dataset, work: Path) -> None:
    tidy(axes, "2 Gradient penalty", "epoch", "mean slope ‖∇$_x$ Σ f‖")
    for name, method, colour in (
        ("with", cell.method, COLOURS[0]),
        ("without", cell.method.without("penalty"), COLOURS[1]),
    ):
        experts = trained(cell, method, dataset, work)
        slopes = [
            input_slopes(cell.model, experts.rows(number, 1, experts.epochs + 1), dataset)
            for number in experts.experts()
        ]
        band(axes, slopes, colour, "-", f"{name} (n = {len(slopes)})", of_logarithm=True)
    axes.axhline(1, color=FAINT, linestyle=":", linewidth=1)
    logarithmic(axes)


def input_slopes(name: str, rows: Tensor, dataset: Dataset) -> list[float]:
    """The mean of ‖∇_x Σ_k f_k(x)‖ over training images, for each row of parameters."""
    images = dataset.train.batch(torch.arange(0, len(dataset.train), 5)).requires_grad_()
    model = FlatModel(build_model(name, dataset.shape, len(dataset.classes)))
    return [
        float(torch.autograd.grad(model(theta, images).sum(), images)[0].flatten(1).norm(dim=1).mean())
        for theta in rows
    ]


def draw_start(axes: Axes, cell: Experiment, dataset: Dataset, work: Path, label: int = 8, ipc: int = 5) -> None:
    tidy(axes, "3 Representative start", f"an expert's logits of digit {label}, component 1", "component 2")
    experts = trained(cell, cell.method, dataset, work)
    model = FlatModel(build_model(cell.model, dataset.shape, len(dataset.classes)))
    choice = RepresentativeInit().choose(dataset, label, ipc, experts, model, 0)
    random = RealInit().choose(dataset, label, ipc, experts, model, 0).indices
    assert choice.clusters is not None
    points, members = plane(choice.clusters.features), dataset.train.of_class(label)
    for cluster in range(ipc):
        axes.plot(*points[choice.clusters.clusters == cluster].T, ".", color=COLOURS[cluster], markersize=4, alpha=0.5)
    axes.plot(*points[choice.clusters.chosen].T, "*", color=INK, markersize=10, label="chosen")
    axes.plot(*points[torch.isin(members, random)].T, "x", color=INK, markersize=6, label="random, as MTT")


def draw_balance(axes: Axes, cell: Experiment) -> None:
    tidy(axes, "4 Balanced inner loss", "start epoch t", "weight of the student's loss")
    epochs, bound = range(cell.method.step.max_start_epoch), cell.method.step.max_start_epoch
    for name, method, colour in (("sound", cell.method, COLOURS[0]), ("as released", AST_AS_RELEASED, COLOURS[1])):
        axes.plot(
            epochs, [method.weight(epoch, bound) for epoch in epochs], "o-", color=colour, markersize=3.5, label=name
        )
    axes.axhline(1, color=FAINT, linestyle=":", linewidth=1, label="none, as MTT")


def draw_intermediate(
    axes: Axes, cell: Experiment, experts: TrajectoryStore, distilled: tuple[Tensor, Tensor, float]
) -> None:
    tidy(axes, "5 Intermediate matching", "inner step", "squared distance, in segments")
    step = cell.method.step
    segment = experts.segment(EXPERT, step.max_start_epoch // 3, step.expert_epochs)
    course = torch.stack(students(cell, segment, *distilled))
    read = cell.method.loss(segment, segment.start, step.syn_steps).at
    for number, (target, taken, colour) in enumerate(zip(segment.checkpoints, read, COLOURS, strict=False), start=1):
        losses = (course - target).square().sum(dim=1) / (segment.start - target).square().sum()
        axes.plot(losses, color=colour, label=f"to θ*$_{{t+{number}}}$, read at {taken}")
        axes.plot(taken, losses[taken], "o", color=colour)


def draw_perturbation(axes: Axes) -> None:
    tidy(axes, "6 Weight perturbation", "convolution of a fresh ConvNet", "change of the kernel, %")
    model = FlatModel(build_model("convnet-d3", (3, 32, 32), 10, seed=0))
    start = model.flatten()
    for shift, (name, method) in enumerate((("sound", ad.methods.AST), ("as released", AST_AS_RELEASED))):
        moved = method.perturb(start, model, rng(0, "figure"))
        changes = [
            100 * float((moved[kernel] - start[kernel]).norm() / start[kernel].norm()) for kernel in model.kernels
        ]
        axes.bar(
            [number + 0.38 * shift for number in range(1, len(changes) + 1)],
            changes,
            0.36,
            color=COLOURS[shift],
            label=name,
        )
    axes.set_xticks(
        [number + 0.19 for number in range(1, len(model.kernels) + 1)],
        [str(each + 1) for each in range(len(model.kernels))],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of experts and runs")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parents[1] / "docs" / "images", help="folder of the figures"
    )
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, cell in cells(options.tiny).items():
        dataset = ad.load_dataset(cell.data)
        experts, run = trained(cell, cell.method, dataset, options.work), options.work / "runs" / name
        first = ad.distill(
            dataset, experts, method=cell.method, settings=cell.distill.replace(iterations=1, lr_img=1e-9), ipc=1
        )
        last = ad.distill(dataset, experts, method=cell.method, settings=cell.distill, ipc=1, out=run)
        sets = {
            "the first, real images": (first.images, first.probabilities, cell.distill.lr_init),
            "the distilled images": (last.images, last.probabilities, float(last.lr)),
        }
        if name == "mtt":
            figure_segment(cell, experts, sets, options.out)
            figure_loss(run / "metrics.jsonl", options.out)
        else:
            figure_course(run, options.out)
            figure_curves(cell, experts, dataset, run, options.out)
            figure_parts(cell, dataset, sets["the distilled images"], options.work, options.out)


if __name__ == "__main__":
    main()
