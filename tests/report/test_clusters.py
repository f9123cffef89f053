"""The picture of the start: chosen images lie where they can all be seen."""

from __future__ import annotations

import numpy as np

from astdistill.report.page import figures as clusters
from astdistill.report.page.drawing import panel


def test_images_that_would_cover_each_other_are_moved_apart() -> None:
    figure, axes = panel(4.6, 3.7)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    at = np.array([[0.5, 0.5], [0.5, 0.5], [0.52, 0.5], [0.5, 0.53], [0.05, 0.9]])
    words = np.array([0.0, 40.0, 20.0, 0.0, 30.0])
    moved = clusters._offsets(axes, at, 28.0, words)
    assert np.allclose(moved[4], 0)  # alone, so it stays
    left, low = (axes.transData.transform(at) * 72 / figure.dpi + moved - 14).T
    for first in range(5):
        for second in range(first):
            across = min(left[first] + 28 + words[first], left[second] + 28 + words[second]) - max(
                left[first], left[second]
            )
            up = min(low[first], low[second]) + 28 - max(low[first], low[second])
            assert min(across, up) < 0.1
