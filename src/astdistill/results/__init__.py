"""Results: finished runs read back and set side by side."""

from .finished import Finished, read_run
from .side_by_side import compared

__all__ = ["Finished", "compared", "read_run"]
