"""A small vision transformer whose attention has derivatives of every order."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.errors import InputError
from ..runtime.shapes import Batch, Logits
from .layers import check_counts, check_pixels

SIDE = 8
"""Patches along the longer side of an image: 4-pixel patches at 32 px, 16-pixel ones at 128 px."""
HEAD = 32
"""Channels of one attention head."""
Tokens = Float[Tensor, "B N D"]


class Attention(nn.Module):
    """softmax(Q Kᵀ / √d) V for each head (Vaswani et al., arXiv 1706.03762), written out.

    torch's fused attention has no forward-mode rule and on a CPU no second derivative, which the meta-gradient needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tokens) -> Tokens:
        """The attention output of every token."""
        parts = self.inputs(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = (part.transpose(1, 2) for part in parts.unbind(dim=2))
        weights = (query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5).softmax(dim=-1)
        return self.output((weights @ value).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Attention, then two linear layers with a GELU between them, each after a layer norm and with a shortcut."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), Attention(width, heads))
        self.mixing = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tokens) -> Tokens:
        """The tokens of the next layer."""
        tokens = tokens + self.attention(tokens)
        return tokens + self.mixing(tokens)


class ViT(nn.Module):
    """`depth` layers over at most 8×8 patches, the mean over the tokens and one linear layer (Dosovitskiy et al., arXiv
    2010.11929).

    No paper of trajectory matching publishes a ViT; this one is small, of `width` channels in heads of 32
    (one head where `width` is smaller), with learned positions, without dropout, class token or buffers. Images are
    padded with zeros to a whole number of patches. PyTorch's default initialisation, and positions from N(0, 0.02²) as
    in the paper. Raises InputError for invalid arguments.
    """

    def __init__(self, channels: int, classes: int, size: tuple[int, int], depth: int = 6, width: int = 128) -> None:
        super().__init__()
        check_counts("ViT", channels=channels, classes=classes, depth=depth, width=width)
        check_pixels(size)
        if width > HEAD and width % HEAD:
            raise InputError(
                f"A ViT has heads of {HEAD} channels, and width {width} is not a multiple; "
                f"try {width + HEAD - width % HEAD}."
            )
        patch = -(-max(size) // SIDE)
        self.padding = (0, -size[1] % patch, 0, -size[0] % patch)
        self.patches = nn.Conv2d(channels, width, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(-(-size[0] // patch) * -(-size[1] // patch), width))
        self.layers = nn.Sequential(*(Layer(width, max(1, width // HEAD)) for _ in range(depth)), nn.LayerNorm(width))
        self.classifier = nn.Linear(width, classes)

    def forward(self, images: Batch) -> Logits:
        """The logits."""
        tokens = self.patches(F.pad(images, self.padding)).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.layers(tokens).mean(dim=1))
