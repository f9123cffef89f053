"""A module as a pure function f(θ, images), with θ one vector."""

from __future__ import annotations

import copy
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import linear

from ..runtime.errors import InputError
from ..runtime.shapes import Features, Logits, Params

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


class FlatModel:
    """f(θ, images) for a module, where θ [P] lists its parameters in the order of `module.parameters()`.

    Holds a deep copy in evaluation mode: the given module is never changed, and dropout, which would make f random, is
    off. f computes on the device and in the dtype of θ, and supports `torch.func.grad`, `jvp` and `vmap`, and
    `create_graph=True`.

    Args:
        module: From images `[B, C, H, W]` to logits `[B, K]`.

    Raises:
        InputError: The module has no parameters, or has some with `requires_grad` False, which training would change
            with θ, or has buffers: batch-norm statistics would change from call to call, so that the network is no
            function of θ.
    """

    size: int
    """P, the length of θ."""
    layers: tuple[slice, ...]
    """The slice of θ of each parameter tensor."""
    kernels: tuple[slice, ...]
    """The slices of θ of the convolution kernels: the weights of convolutions, no biases, norms or linear layers."""

    def __init__(self, module: nn.Module) -> None:
        _refuse_buffers(module)
        _refuse_frozen(module)
        self._shapes = _parameter_shapes(module)
        if not self._shapes:
            raise InputError(
                f"{type(module).__name__} has no parameters, so there is nothing to train; "
                f"give a network that has some."
            )
        ends = list(accumulate(shape.numel() for shape in self._shapes.values()))
        self.size = ends[-1]
        self.layers = tuple(slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True))
        kernels = {id(part.weight) for part in module.modules() if isinstance(part, _CONVOLUTIONS)}
        self.kernels = tuple(
            span for span, part in zip(self.layers, module.parameters(), strict=True) if id(part) in kernels
        )
        self._module = copy.deepcopy(module).eval()

    @property
    def module(self) -> nn.Module:
        """The copy of the given module that computes f; its own parameters are those that the module had when
        copied."""
        return self._module

    def __call__(self, theta: Params, images: Float[Tensor, "B ..."]) -> Logits:
        """The logits of `images` under the parameters θ. Differentiable in both.

        Args:
            theta: θ `[P]`, on the device of the images.
            images: `[B, C, H, W]`.

        Returns:
            `[B, K]`.
        """
        return functional_call(self._module, self.unflatten(theta), (images,))

    def features(self, theta: Params, images: Float[Tensor, "B ..."]) -> Features:
        """The input of the last linear layer for `images` under the parameters θ. Differentiable in both.

        Raises InputError for a network without a linear layer.

        Args:
            theta: θ `[P]`, on the device of the images.
            images: `[B, C, H, W]`.

        Returns:
            `[B, F]`.
        """
        _, last = self._last_linear()
        captured: list[Tensor] = []
        hook = last.register_forward_pre_hook(lambda part, inputs: captured.append(inputs[0]))
        try:
            self(theta, images)
        finally:
            hook.remove()
        return captured[-1].flatten(1)

    def head(self, theta: Params, features: Features) -> Logits:
        """The logits of a network that ends in its last linear layer, from the input of that layer. Differentiable.

        Args:
            theta: θ `[P]`, on the device of the images.
            features: `[B, F]`, as `features` gives them.

        Returns:
            `[B, K]`.
        """
        name, last = self._last_linear()
        parts = self.unflatten(theta)
        bias = None
        if last.bias is not None:
            bias = parts[f"{name}.bias"]
        return linear(features, parts[f"{name}.weight"], bias)

    @property
    def outputs(self) -> tuple[slice, ...]:
        """The slices of θ of the last linear layer. Raises InputError for a network without one."""
        name, _ = self._last_linear()
        return tuple(
            span for part, span in zip(self._shapes, self.layers, strict=True) if part.rpartition(".")[0] == name
        )

    def _last_linear(self) -> tuple[str, nn.Linear]:
        """The last linear layer, with its name. Raises InputError where there is none."""
        linear_layers = [(name, part) for name, part in self._module.named_modules() if isinstance(part, nn.Linear)]
        if not linear_layers:
            raise InputError(
                f"{type(self._module).__name__} has no linear layer before which features could be read; "
                f"use 'convnet-d3'."
            )
        return linear_layers[-1]

    def unflatten(self, theta: Params) -> dict[str, Tensor]:
        """Parameter name → a view of its part of θ, in the parameter's shape.

        Args:
            theta: θ `[P]`.

        Raises:
            InputError: θ has another length.
        """
        if theta.shape != (self.size,):
            raise InputError(
                f"This network has {self.size:,} parameters, and θ has shape {tuple(theta.shape)}; "
                f"was it made for another model?"
            )
        # One split, not a slice per layer: the backward of a slice fills a whole θ with zeros, that of a split is a
        # single concatenation.
        parts = theta.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}

    def flatten(self, module: nn.Module | None = None) -> Params:
        """The parameters of `module` (default: of the copy in this object) as one new vector, detached.

        Always a copy: further training of the module does not change it. Raises InputError for a module of another
        shape.

        Args:
            module: A module of the same shapes. None: the copy in this object, with the initial parameters.

        Returns:
            θ `[P]`.
        """
        if module is None:
            module = self._module
        self._check_same_shapes(module)
        return torch.cat([part.detach().reshape(-1) for part in module.parameters()])

    def load(self, module: nn.Module, theta: Params) -> None:
        """Copy θ into the parameters of `module`. Raises InputError for a module of another shape.

        Args:
            module: A module of the same shapes, changed in place.
            theta: θ `[P]`.
        """
        self._check_same_shapes(module)
        views = self.unflatten(theta)
        with torch.no_grad():
            for name, part in module.named_parameters():
                part.copy_(views[name])

    def _check_same_shapes(self, module: nn.Module) -> None:
        if _parameter_shapes(module) != self._shapes:
            raise InputError(
                f"{type(module).__name__} has other parameters than the {type(self._module).__name__} this FlatModel "
                f"was made of; build both with the same model name, image shape and number of classes."
            )


def _parameter_shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: part.shape for name, part in module.named_parameters()}


def _refuse_frozen(module: nn.Module) -> None:
    for name, part in module.named_parameters():
        if not part.requires_grad:
            raise InputError(
                f"The parameter '{name}' of {type(module).__name__} has requires_grad=False, but all parameters of a "
                f"network are learned here; call network.requires_grad_(True), or only train it on a set: "
                f"synthetic.train(network) leaves such parameters unchanged."
            )


def _refuse_buffers(module: nn.Module) -> None:
    twin = getattr(module, "twin", "convnet-d3")
    for path, part in module.named_modules():
        names = [name for name, _ in part.named_buffers(recurse=False)]
        if names:
            layer = type(part).__name__
            if path:
                layer = f"'{path}' ({layer})"
            raise InputError(
                f"{layer} keeps buffers ({', '.join(names)}), which are no parameters and may change with every batch, "
                f"so the network is not a function of its parameters alone, as matching trajectories needs; "
                f"use norm='instance' (for example '{twin}')."
            )
