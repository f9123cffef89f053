"""Read and write files of other code bases and of the Hugging Face hub, and use distilled sets."""

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
