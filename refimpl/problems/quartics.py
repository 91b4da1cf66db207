"""Three quartics of the plane with a saddle at the origin and minima around it, and bounds on their third derivatives.

A method that is given a Lipschitz constant of the curvature needs one that is true. None of these has one on the whole
plane; within a ball of any radius each entry of the third derivative has a least upper bound, which is a formula.
"""

from __future__ import annotations

from typing import Any

from refimpl.arrays import Array, Backend, backend_of, namespace
from refimpl.problems.closed_form import Toy, matrix, vector
from refimpl.problems.toy import DoubleWell

__all__ = ["BentWell", "Quartic", "TripleWell", "Well"]


class Quartic(Toy):
    """Base of a quartic: its third derivative is affine, so its bounds in a ball are exact.

    Attributes
    ----------
    least_value : the loss at every minimizer.
    """

    least_value: float
    _growth: tuple[tuple[tuple[float, ...], ...], ...]
    """The length of each entry's gradient, (n, n, n): the same everywhere."""

    def third_derivative(self, x: Array) -> Array:
        """The symmetric tensor of third derivatives: (..., n) -> (..., n, n, n)."""
        raise NotImplementedError

    def third_derivative_bound(self, x: Array, radius: Any) -> Array:
        """The supremum of each entry's magnitude over places within ``radius`` of ``x``: (..., n, n, n).

        ``radius`` is a number of at least zero, or an array (...), one per run. An affine function a + b·d has the
        supremum |a| + radius |b| over |d| <= radius, and it is reached.
        """
        radius = radius[..., None, None, None] if hasattr(radius, "ndim") else radius
        return namespace(x).abs(self.third_derivative(x)) + radius * backend_of(x).asarray(self._growth)


class Well(Quartic, DoubleWell):
    """f = (x² − 1)²/4 + y²/2, which is x⁴/4 − x²/2 + y²/2 + 1/4: :class:`DoubleWell` in the plane, with its bounds.

    Separable: the eigenvectors never turn, and each slope of an eigenvalue belongs to one direction.

    >>> well = Well()
    >>> well.third_derivative_bound(well.backend.asarray([0.5, 1.0]), 0.25)[0, 0, :].tolist()
    [4.5, 0.0]
    """

    name = "well"
    least_value = 0.0
    _growth = (((6.0, 0.0), (0.0, 0.0)), ((0.0, 0.0), (0.0, 0.0)))

    def __init__(self, backend: Backend | None = None) -> None:
        DoubleWell.__init__(self, 2, backend)

    def third_derivative(self, x: Array) -> Array:
        nothing = 0.0 * x[..., 0]
        return _symmetric(6.0 * x[..., 0], nothing, nothing, nothing)


class TripleWell(Quartic):
    """f = (x³ − 3xy²)/3 + r⁴/4 with r² = x² + y²: a monkey saddle that is bounded below by three wells.

    At the origin the Hessian vanishes. The minima lie on the unit circle at 60°, 180° and 300°, loss −1/12, Hessian
    with the eigenvalues 1 (outwards) and 3 (around).

    >>> float(TripleWell().loss(TripleWell().backend.asarray([2.0, 0.0])).round(12))
    6.666666666667
    """

    name = "triple-well"
    formula = r"\tfrac13 (x^3 - 3xy^2) + \tfrac14 (x^2 + y^2)^2"
    minimizers = ((-1.0, 0.0), (0.5, 0.75**0.5), (0.5, -(0.75**0.5)))
    saddles = ((0.0, 0.0),)
    domain = ((-1.5, 1.5), (-1.5, 1.5))
    least_value = -1.0 / 12.0
    _growth = (((6.0, 2.0), (2.0, 2.0)), ((2.0, 2.0), (2.0, 6.0)))

    def f(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        square = a * a + b * b
        return a * (a * a - 3.0 * b * b) / 3.0 + 0.25 * square * square

    def gradient_at(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        square = a * a + b * b
        return vector(namespace(x), [a * a - b * b + square * a, (square - 2.0 * a) * b])

    def hessian_at(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        across = 2.0 * b * (a - 1.0)
        return matrix(namespace(x), [[2.0 * a + 3.0 * a * a + b * b, across], [across, a * a + 3.0 * b * b - 2.0 * a]])

    def third_derivative(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        return _symmetric(2.0 + 6.0 * a, 2.0 * b, 2.0 * a - 2.0, 6.0 * b)


class BentWell(Quartic):
    """f = x⁴/4 − x²/2 + y²/2 + x²y/2: two minima at (±√2, −1), loss −1/2, with a saddle between them.

    The term x²y turns the eigenvectors as x moves: nothing here is separable.

    >>> float(BentWell().loss(BentWell().backend.asarray([0.0, 1.0])))
    0.5
    """

    name = "bent-well"
    formula = r"\tfrac14 x^4 - \tfrac12 x^2 + \tfrac12 y^2 + \tfrac12 x^2 y"
    minimizers = ((-(2.0**0.5), -1.0), (2.0**0.5, -1.0))
    saddles = ((0.0, 0.0),)
    least_value = -0.5
    _growth = (((6.0, 0.0), (0.0, 0.0)), ((0.0, 0.0), (0.0, 0.0)))

    def f(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        return 0.5 * (a * a * (0.5 * a * a - 1.0 + b) + b * b)

    def gradient_at(self, x: Array) -> Array:
        a, b = x[..., 0], x[..., 1]
        return vector(namespace(x), [a * (a * a - 1.0 + b), b + 0.5 * a * a])

    def hessian_at(self, x: Array) -> Array:
        xp, a, b = namespace(x), x[..., 0], x[..., 1]
        return matrix(xp, [[3.0 * a * a - 1.0 + b, a], [a, xp.ones_like(a)]])

    def third_derivative(self, x: Array) -> Array:
        a = x[..., 0]
        return _symmetric(6.0 * a, 0.0 * a + 1.0, 0.0 * a, 0.0 * a)


def _symmetric(xxx: Array, xxy: Array, xyy: Array, yyy: Array) -> Array:
    """The four entries (...) of a symmetric tensor (..., 2, 2, 2)."""
    xp = namespace(xxx)
    return xp.stack([matrix(xp, [[xxx, xxy], [xxy, xyy]]), matrix(xp, [[xxy, xyy], [xyy, yyy]])], axis=-3)
