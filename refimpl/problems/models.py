"""The book's small Torch modules, and the way between a module and a flat vector. This file needs Torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from refimpl.arrays import Backend, as_generator, check_count, to_numpy
from refimpl.problems.mlp import check_widths
from refimpl.problems.transformer import char_transformer as char_transformer


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


def basic_cnn(
    channels: Sequence[int] = (32, 32, 64, 64, 10),
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    batch_norm: bool = False,
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """The basic CNN of the CurveBall paper: ``(samples, *image_shape)`` -> logits ``(samples, channels[-1])``.

    Convolutions 5 x 5, each but the last followed by (BatchNorm and) ReLU, the first three then by max-pooling 3 x 3
    with stride 2. What the paper leaves open is ours: every convolution keeps the size of the picture (padding 2, with
    pooling 1), BatchNorm stands before ReLU and replaces the bias, and the last maps are averaged over their pixels.

    Raises
    ------
    ValueError
        Fewer than two channels, or sizes that are not positive.

    Source: CurveBall paper, section 4, footnote 5.

    >>> sum(p.numel() for p in basic_cnn().parameters())
    197802
    """
    widths = (check_count("channels of the picture", image_shape[0]), *_checked_channels(channels))
    with _seeded(seed):
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            last = index == len(widths) - 2
            layers.append(nn.Conv2d(fan_in, fan_out, 5, padding=2, bias=last or not batch_norm))
            if not last:
                layers += [nn.BatchNorm2d(fan_out), nn.ReLU()] if batch_norm else [nn.ReLU()]
            if index < 3 and not last:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return _placed(nn.Sequential(*layers), backend)


def thesis_cnn(
    channels: Sequence[int] = (32, 32, 64),
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    hidden: int = 128,
    classes: int = 10,
    activation: str = "softplus",
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """The CNN of the KryBall thesis: ``(samples, *image_shape)`` -> logits ``(samples, classes)``.

    Convolution 5 x 5 - BatchNorm - activation - average over 2 x 2 pixels, once for each of ``channels``; then two
    linear layers with the activation between them. What the thesis leaves open is ours: padding 2, which keeps the size
    of the picture; no bias before BatchNorm, which would remove it; 128 units between the linear layers.

    Raises
    ------
    ValueError
        Fewer than two channels, an unknown activation, sizes that are not positive, or a height or width that cannot be
        halved so often.

    Source: KryBall thesis, sec. 5.2.4 (CIFAR-10 CNN).

    >>> sum(p.numel() for p in thesis_cnn().parameters())
    211946
    """
    depth, height, width = (check_count("every entry of image_shape", size) for size in image_shape)
    widths = (depth, *_checked_channels(channels))
    check_count("hidden", hidden)
    check_count("classes", classes)
    share = 2 ** (len(widths) - 1)
    if height % share or width % share:
        raise ValueError(f"height and width must be multiples of {share} (halved per layer), got {height} x {width}")
    with _seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 5, padding=2, bias=False), nn.BatchNorm2d(fan_out)]
            layers += [activation_module(activation), nn.AvgPool2d(2)]
        pixels = height * width // share**2
        layers += [nn.Flatten(), nn.Linear(widths[-1] * pixels, hidden), activation_module(activation)]
        layers.append(nn.Linear(hidden, classes))
    return _placed(nn.Sequential(*layers), backend)


class Architecture(NamedTuple):
    """A random CNN on paper: channels of each convolution but the last, and whether each is followed by pooling."""

    channels: tuple[int, ...]
    pooled: tuple[bool, ...]


def draw_architecture(
    rng: int | np.random.Generator, *, layers: tuple[int, int] = (3, 10), channels: tuple[int, int] = (32, 256)
) -> Architecture:
    """A random architecture by the rule of the CurveBall paper.

    Parameters
    ----------
    rng : a seed or a NumPy generator.
    layers : smallest and largest number of convolutions, the last one included; each number is equally likely.
    channels : smallest and largest number of channels, powers of two; each power between them is equally likely, layer
        by layer. The last convolution has as many channels as there are classes and is not drawn.

    Raises
    ------
    ValueError
        Bounds in the wrong order, fewer than two layers, or channels that are not powers of two.

    Source: CurveBall paper, appendix B.3. Whether its count of layers includes the last one is our reading.

    >>> draw_architecture(11)
    Architecture(channels=(32, 256, 64), pooled=(False, True, True))
    """
    rng = as_generator(rng)
    fewest, most = (check_count("layers", bound, minimum=2) for bound in layers)
    low, high = (check_count("channels", bound) for bound in channels)
    if fewest > most or low > high:
        raise ValueError(f"bounds must be in ascending order, got layers {layers} and channels {channels}")
    if low & (low - 1) or high & (high - 1):
        raise ValueError(f"channels must be bounded by powers of two, got {channels}")
    inner = int(rng.integers(fewest, most + 1)) - 1
    powers = rng.integers(low.bit_length() - 1, high.bit_length(), size=inner)
    return Architecture(tuple(1 << int(power) for power in powers), tuple(bool(p) for p in rng.random(inner) < 0.5))


def random_cnn(
    architecture: Architecture | int | np.random.Generator,
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """The CNN of ``architecture``, or of one drawn from a seed or generator: pictures -> logits ``(samples, classes)``.

    Convolutions 3 x 3; each but the last is followed by ReLU, BatchNorm and, where drawn, max-pooling 3 x 3 with stride
    2. The picture keeps its size in a convolution and is halved, rounded up, in a pooling (padding 1), down to a single
    pixel; the last maps are averaged over their pixels. ``seed`` decides the weights.

    Source: CurveBall paper, appendix B.3; padding and average are ours.
    """
    if not isinstance(architecture, Architecture):
        architecture = draw_architecture(architecture)
    if len(architecture.channels) != len(architecture.pooled):
        raise ValueError(f"an architecture needs as many poolings (or their absence) as channels, got {architecture}")
    widths = (check_count("channels of the picture", image_shape[0]), *architecture.channels)
    with _seeded(seed):
        layers: list[nn.Module] = []
        for (fan_in, fan_out), pooled in zip(pairwise(widths), architecture.pooled, strict=True):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(fan_out)]
            if pooled:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers.append(nn.Conv2d(widths[-1], check_count("classes", classes), 3, padding=1))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return _placed(nn.Sequential(*layers), backend)


def activation_module(name: str) -> nn.Module:
    """``"relu"``, ``"tanh"``, ``"softplus"`` or ``"gelu"`` as a module; a ValueError for any other name."""
    if name == "relu":
        return nn.ReLU()
    if name == "gelu":
        return nn.GELU()
    if name == "tanh":
        return nn.Tanh()
    if name == "softplus":
        # Torch replaces softplus by the identity above 20, an error of 2e-9; above 40 it is below the precision.
        return nn.Softplus(threshold=40.0)
    raise ValueError(f"unknown activation {name!r}; choose one of ['gelu', 'relu', 'softplus', 'tanh']")


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


def _checked_channels(channels: Sequence[int]) -> tuple[int, ...]:
    if isinstance(channels, str) or not isinstance(channels, Sequence) or len(channels) < 2:
        raise ValueError(f"channels must list at least two layers, the last one the classes, got {channels!r}")
    return tuple(check_count("every entry of channels", count) for count in channels)


def _placed(module: nn.Sequential, backend: Backend | None) -> nn.Sequential:
    if backend is None:
        return module
    if backend.name != "torch":
        raise ValueError(f"a torch module needs a torch backend, got {backend.name!r}")
    return module.to(device=backend.device, dtype=backend.dtype)
