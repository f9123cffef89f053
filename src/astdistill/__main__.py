"""`python -m astdistill` is the command `astdistill`."""

import os
import sys


def _main() -> int:
    """Run the command line as the installed command does: a signal.py or json.py in the current folder is not trusted
    and not imported (see `runtime/trust.py`)."""
    cwd, package = os.getcwd(), os.path.dirname(__file__)
    if not sys.flags.safe_path and sys.path[:1] == [cwd] and not os.path.samefile(cwd, os.path.dirname(package)):
        del sys.path[0]
    from .cli.main import main

    return main()


sys.exit(_main())
