"""`python -m astdistill` is the command `astdistill`."""

import sys

from .cli import main

sys.exit(main())
