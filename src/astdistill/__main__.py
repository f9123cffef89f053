"""`python -m astdistill` is the command `astdistill`."""

import os
import sys


def _main() -> int:
    """Run the command line as the installed command does: a signal.py or json.py that lies in the current folder is
    nobody's word (see `runtime/trust.py`)."""
    here, package = os.getcwd(), os.path.dirname(__file__)
    if not sys.flags.safe_path and sys.path[:1] == [here] and not os.path.samefile(here, os.path.dirname(package)):
        del sys.path[0]
    from .cli.main import main

    return main()


sys.exit(_main())
