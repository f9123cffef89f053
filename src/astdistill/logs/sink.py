"""The seam between what is logged and who keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from jaxtyping import Float, UInt8


class Sink(Protocol):
    """Keeps what it is given. Each group of names counts steps of its own, which never go back except where a killed run is resumed:

    what a group has from the first step on that it is given in this process is then replaced, or was the same.
    """

    def scalars(self, group: str, values: Mapping[str, float], step: int) -> None:
        """Keep numbers, finite or not, by their names."""
        ...

    def histogram(self, group: str, name: str, values: Float[np.ndarray, " n"], step: int) -> None:
        """Keep the distribution of finite numbers."""
        ...

    def image(self, group: str, name: str, picture: UInt8[np.ndarray, "height width 3"], step: int) -> None:
        """Keep a picture."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...
