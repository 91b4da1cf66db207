"""ResNet-18 for small pictures, written so that it can be differentiated twice. This file needs Torch."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from refimpl.arrays import Backend, check_count
from refimpl.problems.module_parts import activation_module, placed, seeded

Stem = Literal["cifar", "imagenet"]


class Convolution(nn.Conv2d):
    """A convolution whose weights start as those of Torch's ResNet: normal with variance 2 / fan-out, bias zero.

    Source: He et al. (2015), eq. 14 and the end of section 2.2.
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew, from Torch's generator."""
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class BasicBlock(nn.Module):
    """Two convolutions 3 x 3 whose result is added to the input, with an activation after the first and the sum.

    Where the size of the maps changes, the input passes through a convolution 1 x 1 with the same stride.
    """

    def __init__(self, fan_in: int, fan_out: int, stride: int, activation: str, batch_norm: bool) -> None:
        super().__init__()
        self.first = _convolved(fan_in, fan_out, 3, stride, batch_norm)
        self.second = _convolved(fan_out, fan_out, 3, 1, batch_norm)
        same = fan_in == fan_out and stride == 1
        self.shortcut = nn.Identity() if same else _convolved(fan_in, fan_out, 1, stride, batch_norm)
        self.activation = activation_module(activation)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (samples, fan_in, h, w) -> (samples, fan_out, h / stride, w / stride), sizes rounded up."""
        inner: Tensor = self.second(self.activation(self.first(x)))
        found: Tensor = self.activation(inner + self.shortcut(x))
        return found


def resnet18(
    *,
    width: int = 64,
    stem: Stem = "cifar",
    image_shape: tuple[int, int, int] = (3, 32, 32),
    classes: int = 10,
    activation: str = "relu",
    batch_norm: bool = True,
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """ResNet-18: pictures ``(samples, *image_shape)`` -> logits ``(samples, classes)``.

    A stem, four stages of two basic blocks with ``width``, 2, 4 and 8 times ``width`` channels, of which all but the
    first halve the picture (rounding up), the average over the pixels, one linear layer. Nothing is done in place, so
    that everything can be differentiated twice.

    Parameters
    ----------
    width : channels of the first stage.
    stem : ``"cifar"``: a convolution 3 x 3 that keeps the size of the picture, as is usual for 32 x 32 pixels (1.11
        GFLOP a forward pass and picture, a multiplication and an addition counted as two); ``"imagenet"``: a
        convolution 7 x 7 with stride 2 and max-pooling 3 x 3 with stride 2, of the original for 224 x 224 pixels (0.074
        GFLOP on 32 x 32, where the last stage sees a single pixel).
    image_shape : channels, height, width. Only the channels decide the parameters.
    activation : a name :func:`refimpl.problems.models.activation_module` knows.
    batch_norm : after every convolution, which then has no bias. Without it convolutions have one, and nothing keeps
        the size of the activations: each block adds to it.
    seed : decides the weights. Convolutions start normal with variance 2 / fan-out and the linear layer as Torch makes
        it, both as in Torch's own ResNet, whatever the activation; BatchNorm with scale 1 and shift 0, biases of
        convolutions with 0.
    backend : dtype and device; None for Torch's own.

    Raises
    ------
    ValueError
        An unknown stem or activation, or sizes that are not positive.

    Source: He et al. (2016), table 1 and fig. 5 (left); the series paper's CIFAR-10 and SVHN experiments, whose code
    uses the stem ``"imagenet"``, and the CurveBall paper, sec. 4, use this network.

    >>> sum(p.numel() for p in resnet18().parameters())
    11173962
    """
    if stem not in ("cifar", "imagenet"):
        raise ValueError(f"unknown stem {stem!r}; choose 'cifar' or 'imagenet'")
    depth, _, _ = (check_count("every entry of image_shape", size) for size in image_shape)
    width, classes = check_count("width", width), check_count("classes", classes)
    with seeded(seed):
        small = stem == "cifar"
        layers: list[nn.Module] = [
            _convolved(depth, width, 3 if small else 7, 1 if small else 2, batch_norm),
            activation_module(activation),
        ]
        if not small:
            layers.append(nn.MaxPool2d(3, stride=2, padding=1))
        fan_in = width
        for stage in range(4):
            for stride in (1 if stage == 0 else 2, 1):
                layers.append(BasicBlock(fan_in, width << stage, stride, activation, batch_norm))
                fan_in = width << stage
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(fan_in, classes)]
    return placed(nn.Sequential(*layers), backend)


def _convolved(fan_in: int, fan_out: int, size: int, stride: int, batch_norm: bool) -> nn.Sequential:
    """A convolution that keeps the size of the picture but for its stride, and BatchNorm where wanted."""
    convolution = Convolution(fan_in, fan_out, size, stride=stride, padding=size // 2, bias=not batch_norm)
    return nn.Sequential(convolution, *([nn.BatchNorm2d(fan_out)] if batch_norm else []))
