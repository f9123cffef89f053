"""With how many bits a network is computed: float32, TF32 on a CUDA device, or bfloat16 inside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

from ..errors import unknown
from ..shapes import Batch, Logits, Params

Precision = Literal["float32", "tf32", "bfloat16"]
"""float32: all bits; tf32: products of 10 bits on CUDA, float32 elsewhere; bfloat16: the network by autocast, 7 bits."""


def checked(precision: str) -> Precision:
    """The precision itself. Raises InputError for any other word."""
    for known in get_args(Precision):
        if precision == known:
            return known
    raise unknown("precision", precision, get_args(Precision))


@contextmanager
def products(precision: Precision, device: torch.device) -> Iterator[None]:
    """Compute the block's matrix products and convolutions in TF32 or in float32, and leave the process's setting as it was.

    Nothing changes on the CPU. The two switches below are the ones that every reader in torch 2.13 agrees with: after
    `torch.backends.cuda.matmul.fp32_precision = "tf32"` alone, or `cudnn.conv.fp32_precision = "ieee"` alone, the older getters, which
    `torch.compile` still calls, raise "you have used mix of the legacy and new APIs".
    """
    if device.type != "cuda":
        yield
        return
    allowed = precision != "float32"
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def in_bfloat16(model: Callable[[Params, Batch], Logits]) -> Callable[[Params, Batch], Logits]:
    """The same network with its convolutions and products in bfloat16 by autocast; θ, its gradient and the logits keep their dtype.

    Sums inside those products run in float32. Casts are not cached: the cache of autocast lives across the passes of one derivative and
    would hand a tangent's weights to a primal.
    """

    def rounded(theta: Params, images: Batch) -> Logits:
        with torch.autocast(theta.device.type, torch.bfloat16, cache_enabled=False):
            logits = model(theta, images)
        return logits.to(theta.dtype)

    return rounded
