"""The shape legend: one letter, one meaning, everywhere.

N images, B batch, C channels, H height, W width, K classes, P parameters, T inner steps, M matched expert epochs,
E expert epochs, I images per class (ipc).
"""

from __future__ import annotations

from jaxtyping import Float, Int, UInt8
from torch import Tensor

Params = Float[Tensor, " P"]
"""Every student and expert is one vector."""
Rows = Float[Tensor, "rows P"]
"""Some rows of a trajectory."""
Images = Float[Tensor, "N C H W"]
Batch = Float[Tensor, "B C H W"]
Pixels = UInt8[Tensor, "N C H W"]
Labels = Int[Tensor, " N"]
Targets = Float[Tensor, "N K"]
"""One distribution (or its logits) per image."""
Logits = Float[Tensor, "B K"]
Features = Float[Tensor, "B F"]
"""The input of the last linear layer."""
Scalar = Float[Tensor, ""]
