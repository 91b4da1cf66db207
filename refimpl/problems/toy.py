"""Toy landscapes: saddles of several kinds, a double well, a valley on which Newton's method fails.

All are batched (``x: (..., n)``) and live in the plane unless said. Rosenbrock and Wood are in
:mod:`refimpl.problems.classics` and can be imported from here too.
"""

from __future__ import annotations

import math

from refimpl.arrays import Array, Backend, check_count, dot, namespace
from refimpl.oracle import Evaluation, Sample
from refimpl.problems.classics import Rosenbrock, Wood
from refimpl.problems.closed_form import ConvexForm, LeastSquaresForm, Toy, matrix, vector

__all__ = [
    "CoupledSaddle",
    "DegenerateSaddle",
    "DoubleWell",
    "HorseSaddle",
    "MonkeySaddle",
    "Rosenbrock",
    "SqrtValley",
    "Wood",
]


class HorseSaddle(Toy):
    """f = x² − y²: the plainest saddle, with the Hessian diag(2, −2) everywhere. Unbounded below along y.

    One undamped saddle-free step leads from (x, y) to (0, 2y).

    Source: KryBall thesis, sections 2 and 4, where the step from (1.5, 1.5) to (0, 3) is worked out.

    >>> float(HorseSaddle().at(HorseSaddle().backend.asarray([1.0, 2.0])).loss)
    -3.0
    """

    name = "horse-saddle"
    formula = r"x^2 - y^2"
    saddles = ((0.0, 0.0),)

    def f(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return x * x - y * y

    def gradient_at(self, place: Array) -> Array:
        return vector(namespace(place), [2.0 * place[..., 0], -2.0 * place[..., 1]])

    def hessian_at(self, place: Array) -> Array:
        xp = namespace(place)
        zero = xp.zeros_like(place[..., 0])
        return matrix(xp, [[zero + 2.0, zero], [zero, zero - 2.0]])


class MonkeySaddle(Toy):
    """f = x³ − 3xy²: three valleys meet at the origin, where the Hessian vanishes.

    The Hessian 6[[x, −y], [−y, −x]] has the eigenvalues ±6√(x² + y²): indefinite everywhere except at the origin,
    where no second-order method sees a way out. Unbounded below.
    """

    name = "monkey-saddle"
    formula = r"x^3 - 3xy^2"
    saddles = ((0.0, 0.0),)

    def f(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return x * (x * x - 3.0 * y * y)

    def gradient_at(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return vector(namespace(place), [3.0 * (x * x - y * y), -6.0 * x * y])

    def hessian_at(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return matrix(namespace(place), [[6.0 * x, -6.0 * y], [-6.0 * y, -6.0 * x]])


class DegenerateSaddle(Toy):
    """f = x² − y⁴: a saddle whose Hessian at the critical point is singular.

    At the origin the Hessian is diag(2, 0): positive semi-definite, although the loss falls along y. The downward
    curvature −12y² appears only away from the axis and dies with y. Unbounded below.
    """

    name = "degenerate-saddle"
    formula = r"x^2 - y^4"
    saddles = ((0.0, 0.0),)
    domain = ((-1.5, 1.5), (-1.5, 1.5))

    def f(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return x * x - y * y * y * y

    def gradient_at(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return vector(namespace(place), [2.0 * x, -4.0 * y * y * y])

    def hessian_at(self, place: Array) -> Array:
        xp, y = namespace(place), place[..., 1]
        zero = xp.zeros_like(y)
        return matrix(xp, [[zero + 2.0, zero], [zero, -12.0 * y * y]])


class CoupledSaddle(Toy):
    """f = x²/2 − y²/2 + xy²: a saddle whose stable and unstable directions are coupled at second order.

    Started on the unstable axis at (0, y), exact saddle-free steps leave the axis at once: the x-component becomes
    −y² to leading order while the y-component doubles. The two subspaces decouple to first order only.

    Source: series paper, appendix D.4, equations (84) and (87), with the coupling term that they leave out.
    """

    name = "coupled-saddle"
    formula = r"\tfrac12 x^2 - \tfrac12 y^2 + xy^2"
    saddles = ((0.0, 0.0),)
    domain = ((-1.5, 1.5), (-1.5, 1.5))

    def f(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return 0.5 * (x * x - y * y) + x * y * y

    def gradient_at(self, place: Array) -> Array:
        x, y = place[..., 0], place[..., 1]
        return vector(namespace(place), [x + y * y, (2.0 * x - 1.0) * y])

    def hessian_at(self, place: Array) -> Array:
        xp, x, y = namespace(place), place[..., 0], place[..., 1]
        return matrix(xp, [[xp.ones_like(x), 2.0 * y], [2.0 * y, 2.0 * x - 1.0]])


class DoubleWell(Toy):
    """f = (x₁² − 1)²/4 + (x₂² + … + xₙ²)/2: two minima at x₁ = ±1 and between them a saddle.

    At the origin the Hessian is diag(−1, 1, …, 1): exactly one negative eigenvalue, loss 1/4. At both minima it is
    diag(2, 1, …, 1), loss 0.

    Residuals: r₁ = (x₁² − 1)/2 and rᵢ = xᵢ/√2, so that f = r·r.

    Parameters
    ----------
    n : number of coordinates, at least 1.

    Examples
    --------
    >>> well = DoubleWell()
    >>> well.at(well.backend.zeros(2)).hessian().round(12).tolist()
    [[-1.0, 0.0], [0.0, 1.0]]
    """

    name = "double-well"
    formula = r"\tfrac14 (x_1^2 - 1)^2 + \tfrac12 \sum_{i>1} x_i^2"
    domain = ((-1.75, 1.75), (-1.5, 1.5))

    def __init__(self, n: int = 2, backend: Backend | None = None) -> None:
        super().__init__(check_count("n", n), backend)
        rest = (0.0,) * (n - 1)
        self.minimizers = ((-1.0, *rest), (1.0, *rest))
        self.saddles = ((0.0, *rest),)
        self._first = self.backend.asarray([1.0, *rest])

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return LeastSquaresForm(x, self._residuals, self._scaled, self._scaled, self._bend)

    def _residuals(self, x: Array) -> Array:
        return self._first * (0.5 * (x * x - 1.0)) + (1.0 - self._first) * (math.sqrt(0.5) * x)

    def _scaled(self, x: Array, v: Array) -> Array:
        # The Jacobian is diagonal, hence its own transpose.
        return (self._first * x + (1.0 - self._first) * math.sqrt(0.5)) * v

    def _bend(self, x: Array, u: Array, v: Array) -> Array:
        return self._first * u * v


class SqrtValley(Toy):
    """f = √(1 + |x|²): strictly convex with a unique minimum, yet the undamped Newton step diverges from |x| > 1.

    In one dimension the Newton and the saddle-free step are both x ↦ −x³: from 1.1 to −1.33, 2.36, −13.1, 2253. It
    refutes the claim that saddle-free Newton converges globally.

    The Hessian is (I − x xᵀ/f²)/f, with eigenvalue f⁻³ along x and f⁻¹ across. The loss is convex, so its outputs
    are the place itself and the Gauss–Newton matrix is the Hessian.

    Source: series paper, end of appendix D.4, which claims global convergence.

    Parameters
    ----------
    n : number of coordinates; 1 by default, where the iteration is a formula.
    """

    name = "sqrt-valley"
    formula = r"\sqrt{1 + |x|^2}"
    domain = ((-3.0, 3.0), (-3.0, 3.0))

    def __init__(self, n: int = 1, backend: Backend | None = None) -> None:
        super().__init__(check_count("n", n), backend)
        self.minimizers = ((0.0,) * n,)

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return ConvexForm(x, self.f, self.gradient_at, hvp=self.product_at)

    def f(self, x: Array) -> Array:
        return namespace(x).sqrt(1.0 + dot(x, x))

    def gradient_at(self, x: Array) -> Array:
        return x / self.f(x)[..., None]

    def product_at(self, x: Array, v: Array) -> Array:
        """The Hessian times ``v``; for n = 1 without the difference (1 + x²)v − x²v, which would cancel."""
        f = self.f(x)[..., None]
        if self.n == 1:
            return v / (f * f * f)
        return (v * (f * f) - x * dot(x, v)[..., None]) / (f * f * f)
