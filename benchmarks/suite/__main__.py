"""`python -m suite NAME` in the folder `benchmarks`: one bench, or without NAME a list of them. `make bench` calls
it."""

import sys

from .command import main

sys.exit(main(sys.argv[1:]))
