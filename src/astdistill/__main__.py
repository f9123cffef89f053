"""`python -m astdistill` is the command `astdistill`."""

import sys

from .cli.main import main

sys.exit(main())
