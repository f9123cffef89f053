"""One measurement in its own process: `python -m suite.measurement REQUEST` prints one JSON line. The harness
starts it."""

from __future__ import annotations

import json
import sys

import torch

from astdistill.runtime.progress import be_quiet

from .children import end_with_parent
from .command import answer
from .task import Request

if __name__ == "__main__":
    end_with_parent()
    request = Request.model_validate_json(sys.argv[1])
    be_quiet(True)
    torch.set_num_threads(request.settings.threads)
    print(json.dumps(answer(request)))
