"""Where ELMO gets its constants: each oracle gives L_i (n,) for the eigenvectors at a point.

An oracle is any function of (point, spectrum) that returns n numbers of at least zero in the library of the point. What
makes them *valid*, so that the sum of majorizers bounds the loss, is said in :mod:`refimpl.curvature.lipschitz`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from refimpl.arrays import Array, all_finite, backend_of, check_positive, namespace, norm
from refimpl.curvature import lipschitz
from refimpl.curvature.cubic import elmo_step
from refimpl.curvature.spectrum import Spectrum
from refimpl.optimizers.base import settle
from refimpl.oracle import Point


class LipschitzOracle(Protocol):
    """Constants (n,) for the eigenvectors of ``spectrum`` at ``point``."""

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """L_i >= 0, (n,)."""
        ...


@dataclass(frozen=True)
class Uniform:
    """sqrt(n) L_H in all directions: valid wherever the Hessian is L_H-Lipschitz. No cost."""

    constant: float

    def __post_init__(self) -> None:
        settle(self, constant=check_positive("constant", self.constant, zero_allowed=True))

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        xp, values = namespace(spectrum.eigenvalues), spectrum.eigenvalues
        return xp.full_like(values, lipschitz.uniform(self.constant, values.shape[-1]))


@dataclass(frozen=True, eq=False)
class RowSum:
    """sum_jk |T(v_i, v_j, v_k)| with ``third`` = T: a function of x, or one array (n, n, n).

    Valid where T is constant along the step (a cubic loss); with T at the point alone it is a local estimate. With
    ``entrywise`` T holds bounds of |third derivatives| and |V| stands for V: valid wherever those bounds are. The third
    derivatives are not counted as work.

    Source: ours; see :func:`refimpl.curvature.lipschitz.row_sum`.
    """

    third: Any
    entrywise: bool = False

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        third = self.third(point.x) if callable(self.third) else self.third
        found = lipschitz.row_sum_bound if self.entrywise else lipschitz.row_sum
        return found(third, spectrum.eigenvectors)


@dataclass(frozen=True, eq=False)
class Separable:
    """For f = sum phi_a(q_a·x) with the columns q_a of ``directions`` and |phi_a'''| <= ``slopes``: valid everywhere.

    Source: ours; see :func:`refimpl.curvature.lipschitz.separable`.
    """

    directions: Array
    slopes: Array

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        return lipschitz.separable(self.directions, self.slopes, spectrum.eigenvectors)


@dataclass(frozen=True)
class Secant:
    """|v_i·(H(x + r v_i) - H(x)) v_i|/r for ``radius`` r: how fast the curvature along v_i changes along v_i.

    Not valid unless f is separable: use it with ``safeguard=True``. Cost: n products, each at a place of its own.

    Source: the slopes of ELMO paper's Algorithm 2, line 5, along one direction at a time.
    """

    radius: float = 1e-3

    def __post_init__(self) -> None:
        settle(self, radius=check_positive("radius", self.radius))

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        xp = namespace(point.x)
        values, vectors = spectrum
        found = []
        for i in range(values.shape[-1]):
            v = vectors[:, i]
            there = point.beside(point.x + self.radius * v)
            found.append(xp.abs(xp.sum(v * there.hvp(v)) - values[i]) / self.radius)
        return xp.stack(found)


@dataclass(frozen=True, eq=False)
class SelfConsistent:
    """Constants for losses without a global bound (quartics): those valid within the length of ELMO's own step.

    ``bound(x, radius, vectors)`` gives constants (n,) that hold within ``radius`` of x and do not fall as it grows. The
    step shrinks as they grow, so there is a least radius that holds its own step; it is found by doubling from
    ``start`` and bisection to a relative ``tolerance``. ``bound`` is not counted as work.

    Raises a ValueError where no radius up to 1e100 holds the step.

    Source: ours.
    """

    bound: Callable[[Array, float, Array], Array]
    start: float = 1e-6
    tolerance: float = 1e-3

    def __post_init__(self) -> None:
        settle(self, start=check_positive("start", self.start), tolerance=check_positive("tolerance", self.tolerance))

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        values, vectors = spectrum
        slopes = namespace(values).abs(namespace(values).matmul(point.gradient, vectors))

        def length(radius: float) -> float:
            step = elmo_step(values, slopes, self.bound(point.x, radius, vectors))
            return float(norm(step)) if all_finite(step) else math.inf

        high, low = self.start, 0.0
        while not length(high) <= high:
            low, high = high, 2.0 * high
            if high > 1e100:
                raise ValueError("bound gives no radius that holds ELMO's step; it must grow with the radius")
        while low > 0 and high > (1.0 + self.tolerance) * low:
            middle = math.sqrt(low * high)
            low, high = (low, middle) if length(middle) <= middle else (middle, high)
        return self.bound(point.x, high, vectors)


def as_oracle(value: Any) -> LipschitzOracle:
    """``value`` if it can be called, or the oracle that gives this number for every direction; else a ValueError."""
    if callable(value):
        found: LipschitzOracle = value
        return found
    return _Constant(check_positive("lipschitz", value, zero_allowed=True))


@dataclass(frozen=True)
class _Constant:
    value: float

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        return namespace(point.x).full_like(spectrum.eigenvalues, self.value)


def checked_constants(found: Any, spectrum: Spectrum) -> Array:
    """What an oracle returned, or a ValueError: n finite numbers of at least zero in the library of the point."""
    values = spectrum.eigenvalues
    place = backend_of(values)
    if tuple(getattr(found, "shape", ())) != tuple(values.shape) or backend_of(found).name != place.name:
        raise ValueError(
            f"the Lipschitz oracle must return a {place.name} array of shape {tuple(values.shape)}, got {found!r}"
        )
    xp = place.xp
    if not all_finite(found) or bool(xp.any(found < 0)):
        raise ValueError("the Lipschitz oracle must return finite numbers of at least zero")
    return xp.astype(found, values.dtype)
