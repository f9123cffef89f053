"""Reading a file of `torch.save` without running anything that it holds."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from ..errors import InputError

FOREIGN = re.compile(r"GLOBAL (\S+)")
"""Where torch names what it would not load."""


def read_pickle(path: Path) -> Any:
    """The tensors (on the CPU), lists, dictionaries and numbers that `torch.save` wrote to `path`; large tensors stay on disk until they
    are used, except in files older than torch 1.6.

    Raises InputError for a file that is absent, broken, or holds anything else, of which nothing is run.
    """
    if not path.is_file():
        raise InputError(f"There is no file {path}; check the path.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of other pickle protocols; what matters is said below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        found = FOREIGN.search(str(error))
        if found is None:
            raise _broken(path, error) from error
        raise InputError(
            f"{path} holds '{found[1]}', which is no tensor, list or number, and was not loaded: reading such a file can run a program on "
            f"this machine; take one that torch.save wrote of tensors alone."
        ) from error
    except PermissionError:
        raise
    except Exception as error:  # a broken pickle can fail in any way
        raise _broken(path, error) from error


def _broken(path: Path, error: Exception) -> InputError:
    first = str(error).partition("\n")[0].partition(". ")[0]
    why = f" ({first})" if " " in first else ""  # the bare key or number that a broken pickle trips over tells nobody anything
    return InputError(f"{path} is not a whole file of torch.save{why}; copy it again from where it was made.")
