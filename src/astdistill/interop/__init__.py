"""Files of other code bases and of the Hugging Face hub, read and written, and a distilled set in use."""

from .distilled import Distilled, distill, import_set, load
from .exporters import export
from .import_experts import import_buffers
from .published import PublishedSet, get, zoo

__all__ = [
    "Distilled",
    "PublishedSet",
    "distill",
    "export",
    "get",
    "import_buffers",
    "import_set",
    "load",
    "zoo",
]
