"""Classifiers of pictures made of convolutions: small ones and those of the papers. This file needs Torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from torch import nn

from refimpl.arrays import Backend, as_generator, check_count
from refimpl.problems.module_parts import activation_module, placed, seeded


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
    with seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((depth, first), (first, second)):
            layers.append(nn.Conv2d(fan_in, fan_out, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(fan_out))
            layers.append(activation_module(activation))
        layers += [nn.AvgPool2d(2), nn.Flatten(), nn.Linear(second * height * width // 4, classes)]
    return placed(nn.Sequential(*layers), backend)


def basic_cnn(
    channels: Sequence[int] = (32, 32, 64, 64, 10),
    *,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    batch_norm: bool = False,
    activation: str = "relu",
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """The basic CNN of the CurveBall paper: ``(samples, *image_shape)`` -> logits ``(samples, channels[-1])``.

    Convolutions 5 x 5, each but the last followed by (BatchNorm and) ReLU, the first three then by max-pooling 3 x 3
    with stride 2. What the paper leaves open is ours: every convolution keeps the size of the picture (padding 2, with
    pooling 1), BatchNorm stands before ReLU and replaces the bias, and the last maps are averaged over their pixels.
    ``activation`` names another function in the place of ReLU.

    Raises
    ------
    ValueError
        Fewer than two channels, an unknown activation, or sizes that are not positive.

    Source: CurveBall paper, section 4, footnote 5.

    >>> sum(p.numel() for p in basic_cnn().parameters())
    197802
    """
    widths = (check_count("channels of the picture", image_shape[0]), *_checked_channels(channels))
    with seeded(seed):
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise(widths)):
            last = index == len(widths) - 2
            layers.append(nn.Conv2d(fan_in, fan_out, 5, padding=2, bias=last or not batch_norm))
            if not last:
                layers += [nn.BatchNorm2d(fan_out)] if batch_norm else []
                layers.append(activation_module(activation))
            if index < 3 and not last:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return placed(nn.Sequential(*layers), backend)


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
    with seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Conv2d(fan_in, fan_out, 5, padding=2, bias=False), nn.BatchNorm2d(fan_out)]
            layers += [activation_module(activation), nn.AvgPool2d(2)]
        pixels = height * width // share**2
        layers += [nn.Flatten(), nn.Linear(widths[-1] * pixels, hidden), activation_module(activation)]
        layers.append(nn.Linear(hidden, classes))
    return placed(nn.Sequential(*layers), backend)


class _Convolution(nn.Conv2d):
    """Weights start normal with variance 2 / fan-in (He et al., 2015, eq. 10), biases with zero."""

    def reset_parameters(self) -> None:
        _start(self)


class _Dense(nn.Linear):
    """Weights start normal with variance 2 / fan-in, biases with zero."""

    def reset_parameters(self) -> None:
        _start(self)


def _start(layer: nn.Conv2d | nn.Linear) -> None:
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def vgg_f(
    *,
    image_shape: tuple[int, int, int] = (3, 224, 224),
    classes: int = 1000,
    width: int = 64,
    hidden: int = 4096,
    stem: tuple[int, int] = (11, 4),
    activation: str = "relu",
    batch_norm: bool = False,
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """VGG-f: pictures ``(samples, *image_shape)`` -> logits ``(samples, classes)``.

    Five convolutions with ``width`` and then four times 4 ``width`` channels: 11 x 11 with stride 4 and without
    padding, 5 x 5, and three of 3 x 3 that keep the size; max-pooling 3 x 3 with stride 2 (a window may reach over the
    edge) after the first, second and fifth; two dense layers of ``hidden`` units and one of ``classes``. On 224 x 224
    pixels the dense layers see 6 x 6 maps.

    Of the published network local response normalization and dropout are left out: ``batch_norm`` stands in for the
    first, and dropout would draw other units for each product. For other pictures than 224 x 224: ``stem`` is size and
    stride of the first convolution ((3, 1) for pictures of a few pixels), a pooling is left out where less than 3
    pixels are left, and maps larger than 6 x 6 are averaged down to it.

    Weights start normal with variance 2 / fan-in, biases with zero; the published ones had deviation 0.01, which needs
    pre-training or normalization to get going.

    Raises
    ------
    ValueError
        An unknown activation, sizes that are not positive, or pictures smaller than the first convolution.

    Source: Chatfield et al. (2014), table 1, column CNN-F; used on ImageNet in the CurveBall paper, section 4.

    >>> sum(p.numel() for p in vgg_f(width=8, hidden=16, classes=10, image_shape=(3, 32, 32)).parameters())
    38058
    """
    depth, height, long = (check_count("every entry of image_shape", size) for size in image_shape)
    kernel, stride = (check_count("stem (size, stride)", entry) for entry in stem)
    width, hidden = check_count("width", width), check_count("hidden", hidden)
    if min(height, long) < kernel:
        raise ValueError(
            f"pictures of {height} x {long} are smaller than the first convolution of {kernel} x {kernel}; "
            "give a smaller stem, such as stem=(3, 1)"
        )
    shape = [(height - kernel) // stride + 1, (long - kernel) // stride + 1]
    fan_in, plan = depth, ((width, kernel), (4 * width, 5), (4 * width, 3), (4 * width, 3), (4 * width, 3))
    with seeded(seed):
        layers: list[nn.Module] = []
        for index, (fan_out, size) in enumerate(plan):
            strides, padding = (stride, 0) if index == 0 else (1, size // 2)
            layers.append(_Convolution(fan_in, fan_out, size, strides, padding, bias=not batch_norm))
            layers += [nn.BatchNorm2d(fan_out)] if batch_norm else []
            layers.append(activation_module(activation))
            if index in (0, 1, 4) and min(shape) >= 3:
                layers.append(nn.MaxPool2d(3, stride=2, ceil_mode=True))
                shape = [side // 2 for side in shape]  # ceil((side - 3) / 2) + 1
            fan_in = fan_out
        if max(shape) > 6:
            shape = [min(side, 6) for side in shape]
            layers.append(nn.AdaptiveAvgPool2d((shape[0], shape[1])))
        layers.append(nn.Flatten())
        for units in (hidden, hidden):
            layers += [_Dense(fan_in * shape[0] * shape[1], units), activation_module(activation)]
            fan_in, shape = units, [1, 1]
        layers.append(_Dense(hidden, check_count("classes", classes)))
    return placed(nn.Sequential(*layers), backend)


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
    with seeded(seed):
        layers: list[nn.Module] = []
        for (fan_in, fan_out), pooled in zip(pairwise(widths), architecture.pooled, strict=True):
            layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(fan_out)]
            if pooled:
                layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        layers.append(nn.Conv2d(widths[-1], check_count("classes", classes), 3, padding=1))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return placed(nn.Sequential(*layers), backend)


def _checked_channels(channels: Sequence[int]) -> tuple[int, ...]:
    if isinstance(channels, str) or not isinstance(channels, Sequence) or len(channels) < 2:
        raise ValueError(f"channels must list at least two layers, the last one the classes, got {channels!r}")
    return tuple(check_count("every entry of channels", count) for count in channels)
