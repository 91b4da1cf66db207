"""Activation functions with the derivatives a network's R-operator needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from refimpl.arrays import Array, namespace


class Activation(NamedTuple):
    """An elementwise function.

    ``forward(z)`` gives the value and the first derivative together, because they share their exponentials.
    ``second(value, first)`` is the second derivative in terms of these two, or None where it is zero almost
    everywhere.
    """

    name: str
    forward: Callable[[Array], tuple[Array, Array]]
    second: Callable[[Array, Array], Array] | None


def activation(name: str) -> Activation:
    """The activation called ``"relu"``, ``"tanh"`` or ``"softplus"``.

    Raises
    ------
    ValueError
        Any other name.

    >>> import numpy as np
    >>> [part.tolist() for part in activation("relu").forward(np.asarray([-2.0, 0.0, 3.0]))]
    [[-0.0, 0.0, 3.0], [0.0, 0.0, 1.0]]
    """
    if name not in list(_TABLE):
        raise ValueError(f"unknown activation {name!r}; choose one of {sorted(_TABLE)}")
    return _TABLE[name]


def _relu(z: Array) -> tuple[Array, Array]:
    # The derivative at the kink is 0, as in Torch.
    slope = namespace(z).astype(z > 0, z.dtype)
    return z * slope, slope


def _tanh(z: Array) -> tuple[Array, Array]:
    value = namespace(z).tanh(z)
    return value, 1.0 - value * value


def _softplus(z: Array) -> tuple[Array, Array]:
    xp = namespace(z)
    small = xp.exp(-xp.abs(z))
    positive = z > 0
    ones = xp.ones_like(z)
    value = xp.where(positive, z, xp.zeros_like(z)) + xp.log1p(small)
    return value, xp.where(positive, ones, small) / (ones + small)


_TABLE = {
    "relu": Activation("relu", _relu, None),
    "tanh": Activation("tanh", _tanh, lambda value, first: -2.0 * value * first),
    "softplus": Activation("softplus", _softplus, lambda value, first: first * (1.0 - first)),
}
