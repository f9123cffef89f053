"""Jobs side by side on the cores: a few processes of a few threads each, fed by this one.

The processes are started afresh rather than forked (torch's threads do not survive a fork) and never import the caller's script, so a
script without `if __name__ == "__main__"` and a notebook work as they are. They end with the pipe to this process, whatever ended it.
"""

from .crew import Crew, divide, training_seconds
from .pool import pool

__all__ = ["Crew", "divide", "pool", "training_seconds"]
