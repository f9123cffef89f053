"""Files of other code bases, read and written."""

from .buffers import import_buffers
from .catalogue import FORMATS, export
from .formats import Format
from .sets import import_set

__all__ = ["FORMATS", "Format", "export", "import_buffers", "import_set"]
