"""The series' update in far more digits than a machine number has: fixed-point integers and mpmath.

The products with H are sums of products, for which whole numbers of 2^-BITS are exact but for one rounding each; NumPy
multiplies matrices of Python's integers. Quotients and roots are mpmath's. Nothing here is shared with the package.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from refimpl.bench.peers import library
from refimpl.problems.mlp import MLP

DIGITS = 50
BITS = 216
"""Bits after the point: 65 digits, so that 50 are left where neighbouring sums differ little."""


class Reference(NamedTuple):
    """Both directions (n,), rounded to float64 in the end."""

    plain: np.ndarray
    accelerated: np.ndarray


def series_reference(problem: MLP, x: np.ndarray, *, terms: int, order: int, damping: float, scale: float) -> Reference:
    """K terms of the series for (|H| + d)^{-1} g at ``x`` and N columns of Wynn's table, to 50 digits.

    ``problem``: a ReLU network with half the mean squared error, in float64. V is max(``scale``, |H^2 g|/|g|).
    """
    mp = library("mpmath").mp
    with mp.workdps(DIGITS + 15):
        network = _Network(problem, x)
        number = mp.mpf

        def vector(v: Any) -> list[Any]:
            return [mp.ldexp(number(int(entry)), -BITS) for entry in v]

        def length(v: list[Any]) -> Any:
            return mp.sqrt(mp.fsum(entry * entry for entry in v))

        gradient = network.gradient
        squared = network.product(network.product(gradient))
        v = max(number(scale), length(vector(squared)) / length(vector(gradient)))
        inverse = int(mp.nint(mp.ldexp(1 / v, BITS)))
        weights = _coefficients(mp, terms, number(damping) / mp.sqrt(v))
        z, exact = gradient, vector(gradient)
        total = [weights[0] * entry for entry in exact]
        sums = [total]
        for k in range(1, terms):
            product = squared if k == 1 else network.product(network.product(z))
            z = z - _shifted(product * inverse)
            total = [s + weights[k] * entry for s, entry in zip(total, vector(z), strict=True)]
            sums.append(total)
        root = mp.sqrt(v)
        found = _wynn(mp, sums[-(2 * order + 1) :])
        return Reference(*(np.array([float(entry / root) for entry in s]) for s in (total, found)))


def _coefficients(mp: Any, terms: int, d: Any) -> list[Any]:
    """Of 1/(sqrt(1 - z) + d), from the binomial series of the root."""
    c = [1 / (1 + d)]
    for k in range(1, terms):
        c.append(mp.fsum(-((-1) ** j) * mp.binomial(0.5, j) * c[k - j] for j in range(1, k + 1)) / (1 + d))
    return c


def _wynn(mp: Any, rows: list[list[Any]]) -> list[Any]:
    below, column = [[mp.mpf(0)] * len(rows[0])] * len(rows), rows
    while len(column) > 1:
        made = []
        for i, (a, b) in enumerate(pairwise(column)):
            step = [q - p for p, q in zip(a, b, strict=True)]
            size = mp.fsum(entry * entry for entry in step)
            made.append([p + entry / size for p, entry in zip(below[i + 1], step, strict=True)])
        below, column = column, made
    return column[0]


def _fixed(values: Any) -> np.ndarray:
    """float64 to whole numbers of 2^-BITS: exact, unless below 2^-160."""

    def one(value: float) -> int:
        above, under = float(value).as_integer_ratio()
        return (above << BITS) // under

    host = np.asarray(values, dtype=float)
    return np.array([one(value) for value in host.ravel()], dtype=object).reshape(host.shape)


def _shifted(product: np.ndarray) -> np.ndarray:
    return product >> BITS


class _Network:
    """Forward and backward pass, and the derivative of both along a direction, in whole numbers."""

    def __init__(self, problem: MLP, x: np.ndarray) -> None:
        self._widths = problem.widths
        inputs, targets = _fixed(problem.inputs), _fixed(problem.targets).reshape(len(problem.inputs), -1)
        self._rows = len(inputs)
        self._layers = self._split(_fixed(x))
        self._below, self._open = [inputs], []
        for i, (weight, bias) in enumerate(self._layers):
            z = _shifted(self._below[-1] @ weight.T) + bias
            if i + 1 < len(self._layers):
                self._open.append((z > 0).astype(object))
                z = z * self._open[-1]
            self._below.append(z)
        self._deltas = self._down((self._below[-1] - targets) // self._rows)
        self.gradient = self._join(self._deltas, self._below[:-1])

    def product(self, v: np.ndarray) -> np.ndarray:
        """H v: the second derivative of a ReLU is zero."""
        directions, moved = self._split(v), [self._below[0] * 0]
        for i, ((weight, _), (turn, lift)) in enumerate(zip(self._layers, directions, strict=True)):
            z = _shifted(self._below[i] @ turn.T + moved[-1] @ weight.T) + lift
            moved.append(z * self._open[i] if i < len(self._open) else z)
        delta, parts = moved[-1] // self._rows, []
        for i in range(len(self._layers) - 1, -1, -1):
            weight = _shifted(delta.T @ self._below[i] + self._deltas[i].T @ moved[i])
            parts.append(np.concatenate([weight.ravel(), delta.sum(axis=0)]))
            if i:
                delta = _shifted(delta @ self._layers[i][0] + self._deltas[i] @ directions[i][0]) * self._open[i - 1]
        return np.concatenate(parts[::-1])

    def _down(self, delta: np.ndarray) -> list[np.ndarray]:
        deltas = [delta]
        for i in range(len(self._layers) - 1, 0, -1):
            deltas.append(_shifted(deltas[-1] @ self._layers[i][0]) * self._open[i - 1])
        return deltas[::-1]

    def _join(self, deltas: list[np.ndarray], below: list[np.ndarray]) -> np.ndarray:
        pairs = zip(deltas, below, strict=True)
        return np.concatenate(
            [part for delta, a in pairs for part in (_shifted(delta.T @ a).ravel(), delta.sum(axis=0))]
        )

    def _split(self, v: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        layers, start = [], 0
        for fan_in, fan_out in pairwise(self._widths):
            middle = start + fan_in * fan_out
            layers.append((v[start:middle].reshape(fan_out, fan_in), v[middle : middle + fan_out]))
            start = middle + fan_out
        return layers
