"""Dataset distillation by trajectory matching on points in the plane: the whole idea in one file, with torch and
matplotlib alone.

Three spirals of 900 points are distilled to five points per class. Networks that have never been seen, trained on those
fifteen points, tell the spirals apart nearly as well as networks trained on all of them, and far better than networks
trained on fifteen real points.

    python toy_2d.py            # about twenty seconds on one core; writes toy-2d.png

Read it from top to bottom: data, network, experts, distillation, comparison, picture. Everything is drawn from one
seed.
"""

import argparse
import statistics
from types import SimpleNamespace

import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor
from torch.nn import functional as F

CLASSES, PER_CLASS, EXPERTS, EPOCHS, RATE = 3, 5, 8, 30, 0.3
INNER_STEPS, MATCHED, STARTS, STEPS = 20, 2, 15, 400
NETWORKS, TRAINED, SMOOTHED = 20, 500, 15
COLOURS = "#0072b2", "#e69f00", "#cc3377"

# 1. The data: three arms of a spiral. points [N, 2], labels [N].


def spirals(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % CLASSES
    radius = 0.1 + 1.9 * torch.rand(count, generator=generator).sqrt()
    angle = 2.4 * radius + labels * 2 * torch.pi / CLASSES
    points = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
    return points + 0.07 * torch.randn(count, 2, generator=generator), labels


# 2. The network. All its parameters are one vector θ [P], so that a training run is a path through one space. Every
# function takes a stack of networks, θ [n, P], as well: they are trained side by side and do not touch one another.

WIDTH = 32
SHAPES = (WIDTH, 2), (1, WIDTH), (WIDTH, WIDTH), (1, WIDTH), (CLASSES, WIDTH), (1, CLASSES)


def fresh(count: int, generator: torch.Generator) -> Tensor:
    scales = 1.0, 0.5, (1.5 / WIDTH) ** 0.5, 0.5, (1.5 / WIDTH) ** 0.5, 0.0
    layers = [
        scale * torch.randn(count, *shape, generator=generator) for shape, scale in zip(SHAPES, scales, strict=True)
    ]
    return torch.cat([layer.flatten(1) for layer in layers], dim=1)


def network(theta: Tensor, points: Tensor) -> Tensor:
    parts = theta.split([a * b for a, b in SHAPES], dim=-1)
    w1, b1, w2, b2, w3, b3 = (part.unflatten(-1, shape) for part, shape in zip(parts, SHAPES, strict=True))
    return torch.tanh(torch.tanh(points @ w1.mT + b1) @ w2.mT + b2) @ w3.mT + b3


def gradient(theta: Tensor, points: Tensor, labels: Tensor, graph: bool = False) -> Tensor:
    """∇_θ of the cross-entropy, for each network of a stack; with `graph` it can be differentiated once more."""
    theta = theta if theta.requires_grad else theta.requires_grad_()
    loss = F.cross_entropy(network(theta, points).flatten(0, 1), labels.flatten(), reduction="sum") / labels.shape[1]
    return torch.autograd.grad(loss, theta, create_graph=graph)[0]


def trained(theta: Tensor, points: Tensor, labels: Tensor, rate: float, steps: int) -> Tensor:
    """θ after `steps` steps of plain gradient descent on all points."""
    for _ in range(steps):
        theta = (theta - rate * gradient(theta, points, labels)).detach()
    return theta


def accuracy(theta: Tensor, points: Tensor, labels: Tensor) -> list[float]:
    return (network(theta, points).argmax(-1) == labels).float().mean(-1).mul(100).tolist()


# 3. Experts: networks trained on all the data, and stored after every epoch. Their paths are what there is to know
# about the data.


def expert_paths(points: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """θ*_0 … θ*_E of every expert, [E + 1, experts, P]."""
    rows = [fresh(EXPERTS, generator)]
    for _ in range(EPOCHS):
        theta = rows[-1]
        order = torch.stack([torch.randperm(len(points), generator=generator) for _ in range(EXPERTS)])
        for batch in order.split(32, dim=1):
            theta = (theta - RATE * gradient(theta, points[batch], labels[batch])).detach()
        rows.append(theta)
    return torch.stack(rows)


# 4. Distillation. A student starts where an expert stood after epoch t, takes a few steps on the distilled points X
# alone, and should arrive where the expert stood M epochs later: L = |θ_T − θ*_{t+M}|² / |θ*_t − θ*_{t+M}|². X and
# the learning rate η follow −dL/dX and −dL/dη, by back-propagation through all the steps. That keeps the graph of
# every step, which here is a few megabytes; for images it is gigabytes, and walking back one step at a time gives
# the same gradient in constant memory. Here the shorter program is the better.


def distil(
    points: Tensor, labels: Tensor, paths: Tensor, steps: int, generator: torch.Generator
) -> tuple[Tensor, float, list[float]]:
    """The distilled points [N, 2], η, and the loss of every step."""
    distilled = points.clone().requires_grad_()
    log_rate = torch.tensor(RATE).log().requires_grad_()  # the logarithm, so that η stays positive
    optimiser = torch.optim.Adam([{"params": [distilled], "lr": 0.05}, {"params": [log_rate], "lr": 0.02}])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    every, losses = labels.expand(EXPERTS, -1), []
    for _ in range(steps):
        first = torch.randint(STARTS, (EXPERTS,), generator=generator)
        start, target = paths[first, range(EXPERTS)], paths[first + MATCHED, range(EXPERTS)]
        theta = start.clone()
        for _ in range(INNER_STEPS):
            theta = theta - log_rate.exp() * gradient(theta, distilled, every, graph=True)
        loss = ((theta - target).square().sum(-1) / (start - target).square().sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([distilled, log_rate], 1.0)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return distilled.detach(), log_rate.exp().item(), losses


# 5. The comparison: fresh networks, the same for both, on the distilled points and on as many random real ones (each
# network its own).


def drawn(points: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """PER_CLASS random points of each class, grouped by class, [N, 2]."""
    rows = [torch.nonzero(labels == each)[:, 0] for each in range(CLASSES)]
    return points[torch.cat([row[torch.randperm(len(row), generator=generator)[:PER_CLASS]] for row in rows])]


def run(steps: int = STEPS, seed: int = 0) -> SimpleNamespace:
    """Everything that the picture shows."""
    generator = torch.Generator().manual_seed(seed)
    points, labels = spirals(900, generator)
    test = spirals(3000, generator)
    paths = expert_paths(points, labels, generator)
    few = torch.arange(CLASSES).repeat_interleave(PER_CLASS)
    real = drawn(points, labels, generator)
    distilled, rate, losses = distil(real, few, paths, steps, generator)

    start, targets = fresh(NETWORKS, generator), few.expand(NETWORKS, -1)
    draws = torch.stack([drawn(points, labels, generator) for _ in range(NETWORKS)])
    by_distilled = trained(start, distilled, targets, rate, TRAINED)
    # The rate that suits random points best is chosen on the test points themselves, which flatters them.
    by_random = max(
        (trained(start, draws, targets, each, TRAINED) for each in (0.1, 0.3, 1.0)),
        key=lambda theta: sum(accuracy(theta, *test)),
    )
    accuracies = {
        "all": accuracy(paths[-1], *test),
        "random": accuracy(by_random, *test),
        "distilled": accuracy(by_distilled, *test),
    }
    return SimpleNamespace(
        points=points,
        labels=labels,
        paths=paths,
        few=few,
        real=real,
        draws=draws,
        distilled=distilled,
        rate=rate,
        losses=losses,
        by_random=by_random,
        by_distilled=by_distilled,
        accuracies=accuracies,
    )


# 6. The picture.


def draw(found: SimpleNamespace, path: str) -> None:
    figure, panels = pyplot.subplots(1, 4, figsize=(17, 5), layout="constrained")
    median = sorted(range(NETWORKS), key=found.accuracies["random"].__getitem__)[NETWORKS // 2]
    whole, random, distilled, curve = panels
    land(whole, found.paths[-1], found.points, found.labels, 14)
    land(random, found.by_random[[median]], found.draws[median], found.few, 130)
    land(distilled, found.by_distilled, found.distilled, found.few, 130)
    for before, after in zip(found.real, found.distilled, strict=True):
        distilled.plot(
            *torch.stack([before, after]).T.numpy(),
            color="#333333",
            linewidth=0.8,
            alpha=0.6,
            marker=".",
            markevery=[0],
            zorder=2,
        )
    for axes, (name, values) in zip(panels, found.accuracies.items(), strict=False):
        count = len(found.points) if name == "all" else len(found.few)
        axes.set_title(f"{name} {count} points" if name == "all" else f"{count} {name} points", fontsize=13)
        axes.set_xlabel(f"{spread(values)} of test points right", fontsize=12)
    wide = min(SMOOTHED, len(found.losses))
    smooth = torch.tensor(found.losses).unfold(0, wide, 1).mean(1)
    curve.plot(found.losses, color="#bbbbbb", linewidth=0.8)
    curve.plot(range(wide // 2, wide // 2 + len(smooth)), smooth, color="#333333", linewidth=2)
    curve.set(ylim=(0, 1), box_aspect=1)
    curve.set_title("loss of the distillation, L", fontsize=13)
    curve.set_xlabel(f"outer step (dark: mean of {wide})", fontsize=12)
    curve.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def land(axes: Axes, thetas: Tensor, points: Tensor, labels: Tensor, size: float) -> None:
    """The mean opinion of some networks on every place of the plane, in the class's colour, paler where less sure; and
    the points."""
    side = torch.linspace(-2.6, 2.6, 400)
    with torch.no_grad():
        opinion = network(thetas, torch.cartesian_prod(side, side)).softmax(-1).mean(0)
    colours = torch.tensor([to_rgb(colour) for colour in COLOURS])
    sure, label = opinion.max(1)
    picture = 1 - (1 - colours[label]) * (0.08 + 0.34 * (1.5 * sure - 0.5)[:, None])
    axes.imshow(
        picture.view(400, 400, 3).transpose(0, 1).numpy(),
        origin="lower",
        extent=(-2.6, 2.6, -2.6, 2.6),
        interpolation="bilinear",
    )
    axes.scatter(
        *points.T.numpy(),
        c=[COLOURS[each] for each in labels],
        s=size,
        edgecolors="white",
        linewidths=size**0.5 / 8,
        zorder=3,
    )
    axes.set(xticks=[], yticks=[], xlim=(-2.6, 2.6), ylim=(-2.6, 2.6))
    axes.spines[:].set_visible(False)


def spread(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f} %"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Dataset distillation on points in the plane.")
    parser.add_argument("--steps", type=int, default=STEPS, help="outer steps of the distillation")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="toy-2d.png")
    given = parser.parse_args()
    result = run(given.steps, given.seed)
    draw(result, given.out)
    for name, values in result.accuracies.items():
        print(f"{name:<10}{spread(values)} of test points right ({len(values)} networks, mean ± standard deviation)")
    print(f"Learned learning rate {result.rate:.3f}. Look at: {given.out}")
