"""The published cells once more: name → (accuracy, T, M, bound of start epochs, image rate, rate of η, batch of an
inner step)."""

from __future__ import annotations

Numbers = tuple[float | None, int, int, int, float, float, int | None]

# fmt: off
CELLS: dict[str, Numbers] = {
    "cifar100-ipc1":            (26.1,  20, 3, 20, 1000,  1e-5, None),
    "cifar100-ipc10":           (44.2,  20, 2, 30, 1000,  1e-5, 128),
    "cifar100-ipc50":           (51.2,  80, 2, 40, 1000,  1e-5, 700),
    "cifar10-ipc10":            (67.7,  30, 2, 20, 1000,  1e-5, None),
    "tiny_imagenet-ipc1":       (11.0,  10, 2, 10, 10000, 1e-4, None),
    "cifar10-ipc1-mtt":         (46.2,  50, 2, 5,  1000,  1e-7, None),
    "cifar10-ipc10-mtt":        (65.4,  30, 2, 20, 1000,  1e-5, None),
    "cifar10-ipc50-mtt":        (71.6,  80, 2, 40, 1000,  1e-5, 500),
    "cifar100-ipc1-mtt":        (24.3,  20, 3, 20, 1000,  1e-5, None),
    "cifar100-ipc10-mtt":       (39.7,  20, 2, 40, 1000,  1e-5, None),
    "cifar100-ipc50-mtt":       (47.7,  80, 2, 40, 1000,  1e-5, 125),
    "tiny_imagenet-ipc1-mtt":   (8.8,   10, 2, 10, 10000, 1e-4, None),
    "cifar10-ipc1-ftd":         (46.8,  50, 2, 5,  1000,  1e-7, None),
    "cifar10-ipc10-ftd":        (66.6,  30, 2, 20, 1000,  1e-5, None),
    "cifar10-ipc50-ftd":        (73.8,  80, 2, 40, 1000,  1e-5, 500),
    "cifar100-ipc1-ftd":        (25.2,  20, 3, 20, 1000,  1e-5, None),
    "cifar100-ipc10-ftd":       (43.4,  20, 2, 40, 1000,  1e-5, None),
    "cifar100-ipc50-ftd":       (50.7,  80, 2, 40, 1000,  1e-5, 125),
    "tiny_imagenet-ipc1-ftd":   (10.4,  10, 2, 10, 10000, 1e-4, None),
    "cifar10-ipc1-tesla":       (48.5,  50, 2, 5,  500,   1e-7, None),
    "cifar10-ipc10-tesla":      (66.4,  30, 2, 20, 1000,  1e-5, None),
    "cifar10-ipc50-tesla":      (72.6,  80, 2, 40, 1000,  1e-5, 500),
    "cifar100-ipc1-tesla":      (24.8,  20, 3, 20, 1000,  1e-5, None),
    "cifar100-ipc10-tesla":     (41.7,  20, 2, 40, 1000,  1e-5, None),
    "cifar100-ipc50-tesla":     (47.9,  80, 2, 40, 500,   1e-5, 125),
    "cifar10-ipc1-datm":        (46.9,  80, 2, 4,  100,   1e-7, 10),
    "cifar10-ipc10-datm":       (66.8,  80, 2, 20, 100,   1e-5, 100),
    "cifar10-ipc50-datm":       (76.1,  80, 2, 40, 1000,  1e-5, 500),
    "cifar10-ipc500-datm":      (None,  40, 2, 60, 50,    1e-5, 1000),
    "cifar10-ipc1000-datm":     (None, 100, 2, 60, 50,    1e-5, 1000),
    "cifar100-ipc1-datm":       (27.9,  40, 3, 20, 1000,  1e-5, 1000),
    "cifar100-ipc10-datm":      (47.2,  80, 2, 50, 1000,  1e-5, 1000),
    "cifar100-ipc50-datm":      (55.0,  80, 2, 70, 1000,  1e-5, 1000),
    "cifar100-ipc100-datm":     (None,  80, 2, 70, 50,    1e-5, 1000),
    "tiny_imagenet-ipc1-datm":  (17.1,  40, 2, 20, 10000, 1e-4, 1000),
    "tiny_imagenet-ipc10-datm": (31.1,  40, 2, 50, 100,   1e-4, 500),
    "tiny_imagenet-ipc50-datm": (39.7,  20, 2, 70, 100,   1e-4, 1000),
}

SUBSETS = {
    "nette":  {"mtt": (47.7, 63.0), "ftd": (52.2, 67.7)},
    "woof":   {"mtt": (28.6, 35.8), "ftd": (30.1, 38.8)},
    "fruit":  {"mtt": (26.6, 40.3), "ftd": (29.1, 44.9)},
    "meow":   {"mtt": (30.7, 40.4), "ftd": (33.8, 43.3)},
    "squawk": {"mtt": (39.4, 52.3), "ftd": (40.5, 58.4)},
    "yellow": {"mtt": (45.2, 60.0), "ftd": (47.7, 62.8)},
}
"""Ten classes of ImageNet at 128 px: method → accuracy at 1 and at 10 images per class."""

DATM: dict[str, tuple[tuple[int, int | None, int], float, float, float]] = {
    "cifar10-ipc1-datm":        ((0,  None, 0),  5,  0.995,  1.1),
    "cifar10-ipc10-datm":       ((0,  10, 1000), 2,  0.9995, 1.0),
    "cifar10-ipc50-datm":       ((0,  20, 2000), 2,  0.995,  1.0),
    "cifar10-ipc500-datm":      ((40, None, 0),  10, 0.995,  1.0),
    "cifar10-ipc1000-datm":     ((40, None, 0),  10, 0.995,  1.0),
    "cifar100-ipc1-datm":       ((0,  10, 1000), 10, 0.9995, 1.0),
    "cifar100-ipc10-datm":      ((0,  30, 2000), 10, 0.9995, 1.0),
    "cifar100-ipc50-datm":      ((20, None, 0),  10, 0.9995, 1.0),
    "cifar100-ipc100-datm":     ((30, None, 0),  10, 0.9995, 1.0),
    "tiny_imagenet-ipc1-datm":  ((0,  15, 2000), 10, 0.9995, 1.0),
    "tiny_imagenet-ipc10-datm": ((10, None, 0),  10, 0.9995, 1.0),
    "tiny_imagenet-ipc50-datm": ((40, None, 0),  10, 0.995,  1.0),
}
"""What only DATM has: (lower bound, first upper bound, step by which it is whole), target rate, average, threshold."""
# fmt: on

for _subset, _methods in SUBSETS.items():
    for _method, _accuracies in _methods.items():
        for _ipc, _accuracy in zip((1, 10), _accuracies, strict=True):
            _rate = {"mtt": 1e-6, "ftd": 1e-4}[_method]
            CELLS[f"imagenet-{_subset}-ipc{_ipc}-{_method}"] = (
                _accuracy,
                20,
                2,
                10,
                10000,
                _rate,
                20 if _ipc == 10 else None,
            )
