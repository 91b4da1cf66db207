"""The book's small Torch modules, and the way between a module and a flat vector. This file needs Torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from refimpl.arrays import Backend
from refimpl.problems.convnets import Architecture as Architecture
from refimpl.problems.convnets import basic_cnn as basic_cnn
from refimpl.problems.convnets import draw_architecture as draw_architecture
from refimpl.problems.convnets import random_cnn as random_cnn
from refimpl.problems.convnets import small_convnet as small_convnet
from refimpl.problems.convnets import thesis_cnn as thesis_cnn
from refimpl.problems.convnets import vgg_f as vgg_f
from refimpl.problems.mlp import check_widths
from refimpl.problems.module_parts import activation_module as activation_module
from refimpl.problems.module_parts import flat_parameters as flat_parameters
from refimpl.problems.module_parts import load_flat as load_flat
from refimpl.problems.module_parts import placed, seeded
from refimpl.problems.resnet import resnet18 as resnet18
from refimpl.problems.transformer import char_transformer as char_transformer


def mlp_module(
    widths: Sequence[int], *, activation: str = "relu", seed: int = 0, backend: Backend | None = None
) -> nn.Sequential:
    """The Torch twin of :class:`refimpl.problems.mlp.MLP`: same function, same layout of the parameters.

    >>> [tuple(p.shape) for p in mlp_module((2, 8, 1)).parameters()]
    [(8, 2), (8,), (1, 8), (1,)]
    """
    widths = check_widths(widths)
    with seeded(seed):
        layers: list[nn.Module] = []
        for fan_in, fan_out in pairwise(widths):
            layers += [nn.Linear(fan_in, fan_out), activation_module(activation)]
    return placed(nn.Sequential(*layers[:-1]), backend)


class SparseLinear(nn.Linear):
    """A dense layer of whose weights few begin other than zero: each unit starts with 15 random inputs (all of them,
    where there are fewer), their weights standard normal, its bias zero.

    Source: Martens (2010), section 5.
    """

    def reset_parameters(self) -> None:
        """Draw the weights anew, from Torch's generator."""
        chosen = torch.rand_like(self.weight).topk(min(15, self.in_features), dim=1).indices
        with torch.no_grad():
            self.weight.zero_().scatter_(1, chosen, torch.randn_like(self.weight).gather(1, chosen))
            self.bias.zero_()


def autoencoder_module(
    widths: Sequence[int] = (784, 1000, 500, 250, 30),
    *,
    activation: str = "sigmoid",
    seed: int = 0,
    backend: Backend | None = None,
) -> nn.Sequential:
    """An autoencoder: ``(samples, widths[0])`` -> logits of the same shape, through a code of ``widths[-1]`` numbers.

    Dense layers of ``widths`` and back again in the opposite order. Each is followed by the activation but the one that
    makes the code and the last one: the code is linear, and the last layer returns logits, so that
    :class:`refimpl.problems.losses.BinaryCrossEntropy` is the cross-entropy of a logistic output, with the inputs
    themselves, in [0, 1], as targets. Weights start as :class:`SparseLinear` says (without the pre-training of the
    source).

    Raises
    ------
    ValueError
        Fewer than two widths, widths that are not positive, or an unknown activation.

    Source: Hinton & Salakhutdinov (2006), the autoencoder of MNIST's digits.

    >>> sum(p.numel() for p in autoencoder_module().parameters())
    2837314
    """
    half = check_widths(widths)
    with seeded(seed):
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(pairwise((*half, *half[-2::-1]))):
            layers.append(SparseLinear(fan_in, fan_out))
            if index not in (len(half) - 2, 2 * len(half) - 3):
                layers.append(activation_module(activation))
    return placed(nn.Sequential(*layers), backend)
