"""What a run says while it goes on: bars or plain lines, and the same in a file for other terminals."""

from .bars import Bar, Output, bar, be_quiet, console, phase, quietly, telling
from .status import Status, alive, read_status
from .words import duration, size

__all__ = [
    "Bar",
    "Output",
    "Status",
    "alive",
    "bar",
    "be_quiet",
    "console",
    "duration",
    "phase",
    "quietly",
    "read_status",
    "size",
    "telling",
]
