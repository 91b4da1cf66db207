"""What the makers of Torch modules share: activations, seeded weights, and the way between a module and a flat vector.

This file needs Torch.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn

from refimpl.arrays import Backend, check_count, to_numpy

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def activation_module(name: str) -> nn.Module:
    """``"relu"``, ``"tanh"``, ``"softplus"``, ``"gelu"`` or ``"sigmoid"`` as a module; else a ValueError."""
    if name == "relu":
        return nn.ReLU()
    if name == "gelu":
        return nn.GELU()
    if name == "sigmoid":
        return nn.Sigmoid()
    if name == "tanh":
        return nn.Tanh()
    if name == "softplus":
        # Torch replaces softplus by the identity above 20, an error of 2e-9; above 40 it is below the precision.
        return nn.Softplus(threshold=40.0)
    raise ValueError(f"unknown activation {name!r}; choose one of ['gelu', 'relu', 'sigmoid', 'softplus', 'tanh']")


def flat_parameters(module: nn.Module) -> Tensor:
    """The trainable parameters of ``module`` as one new vector (n,), in the order of ``parameters()``."""
    return torch.cat([p.detach().reshape(-1) for p in module.parameters() if p.requires_grad])


def load_flat(module: nn.Module, x: object) -> None:
    """Write a flat vector (n,), of any backend, into the trainable parameters of ``module``.

    A vector of :class:`refimpl.problems.mlp.MLP` fits :func:`mlp_module` of the same widths as it is.

    Raises
    ------
    ValueError
        The vector does not have as many entries as the module has trainable parameters.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    values = torch.as_tensor(to_numpy(x))
    count = sum(p.numel() for p in parameters)
    if tuple(values.shape) != (count,):
        raise ValueError(f"the module has {count} trainable parameters, got a vector of shape {tuple(values.shape)}")
    with torch.no_grad():
        for parameter, part in zip(parameters, torch.split(values, [p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view(parameter.shape))


class seeded:
    """Torch's CPU generator seeded inside, and put back afterwards."""

    def __init__(self, seed: int) -> None:
        self._seed = check_count("seed", seed, minimum=0)

    def __enter__(self) -> None:
        self._before = torch.random.get_rng_state()
        torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self._before)


def placed(module: AnyModule, backend: Backend | None) -> AnyModule:
    """``module`` with the dtype and on the device of ``backend``; as it is for None; ValueError for another library."""
    if backend is None:
        return module
    if backend.name != "torch":
        raise ValueError(f"a torch module needs a torch backend, got {backend.name!r}")
    return module.to(device=backend.device, dtype=backend.dtype)
