"""The book's small Torch modules, and the way between a module and a flat vector. This file needs Torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from refimpl.arrays import Backend, check_count, to_numpy
from refimpl.problems.mlp import check_widths


def mlp_module(
    widths: Sequence[int], *, activation: str = "relu", seed: int = 0, backend: Backend | None = None
) -> nn.Sequential:
    """The Torch twin of :class:`refimpl.problems.mlp.MLP`: same function, same layout of the parameters.

    >>> [tuple(p.shape) for p in mlp_module((2, 8, 1)).parameters()]
    [(8, 2), (8,), (1, 8), (1,)]
    """
    widths = check_widths(widths)
    with _seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation_module(activation)]
    return _placed(nn.Sequential(*layers[:-1]), backend)


def small_convnet(
    *,
    image_shape: tuple[int, int, int] = (1, 8, 8),
    channels: tuple[int, int] = (8, 16),
    classes: int = 10,
    activation: str = "relu",
    batch_norm: bool = False,
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """A small image classifier: ``(samples, *image_shape)`` -> logits ``(samples, classes)``.

    convolution 3x3 - (BatchNorm) - activation, twice, average over 2 x 2 pixels, one linear layer. With BatchNorm the
    convolutions have no bias, which the normalization would remove.

    Raises
    ------
    ValueError
        An unknown activation, sizes that are not positive, or an image of odd height or width.
    """
    depth, height, width = (check_count("every entry of image_shape", size) for size in image_shape)
    if height % 2 or width % 2:
        raise ValueError(f"height and width must be even (pixels are averaged 2 x 2), got {height} x {width}")
    first, second = (check_count("channels", c) for c in channels)
    with _seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((depth, first), (first, second)):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(fan_out))
            layers.append(activation_module(activation))
        layers += [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(second * height * width // 4, classes)]
    return _placed(nn.Sequential(*layers), backend)


def activation_module(name: str) -> nn.Module:
    """``"relu"``, ``"tanh"`` or ``"softplus"`` as a module; a ValueError for any other name."""
    if name == "relu":
        return nn.ReLU()
    if name == "tanh":
        return nn.Tanh()
    if name == "softplus":
        # Torch replaces softplus by the identity above 20, an error of 2e-9; above 40 it is below the precision.
        return nn.Softplus(threshold=40.0)
    raise ValueError(f"unknown activation {name!r}; choose one of ['relu', 'softplus', 'tanh']")


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


class _seeded:
    """Torch's CPU generator seeded inside, and put back afterwards."""

    def __init__(self, seed: int) -> None:
        self._seed = check_count("seed", seed, minimum=0)

    def __enter__(self) -> None:
        self._before = torch.random.get_rng_state()
        torch.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        torch.random.set_rng_state(self._before)


def _placed(module: nn.Sequential, backend: Backend | None) -> nn.Sequential:
    if backend is None:
        return module
    if backend.name != "torch":
        raise ValueError(f"a torch module needs a torch backend, got {backend.name!r}")
    return module.to(device=backend.device, dtype=backend.dtype)
