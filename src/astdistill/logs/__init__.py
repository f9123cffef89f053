"""Where a run is logged to besides its own files: TensorBoard, Weights & Biases, or a sink of yours."""

from .log import Log, check_loggers, open_log
from .sink import Sink

__all__ = ["Log", "Sink", "check_loggers", "open_log"]
