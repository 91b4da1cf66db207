"""Two classic test functions with curved valleys, as sums of squared residuals: Rosenbrock and Wood.

Both are batched: ``x: (..., n)``.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from refimpl.arrays import Array, Backend, check_count, check_positive, dot, namespace
from refimpl.oracle import Evaluation, Sample
from refimpl.problems.closed_form import LeastSquaresForm, Toy, vector


class Rosenbrock(Toy):
    """f = Σᵢ (1 − xᵢ)² + 100 ε (xᵢ₊₁ − xᵢ²)²: the banana valley, noise-free (ε = 1) or with random steepness ε.

    For n = 2 with (u, v): f = (1 − u)² + 100 ε (v − u²)², minimum 0 at (1, 1) for every ε. There the Hessian
    [[802, −400], [−400, 200]] has the eigenvalues .39936 and 1001.6006: condition number 2508.0096.

    Residuals: rᵢ = 1 − xᵢ (n − 1 of them), then 10√ε (xᵢ₊₁ − xᵢ²); f = r·r.

    Parameters
    ----------
    n : number of coordinates, at least 2. From n = 4 on there is a second local minimum near (−1, 1, …, 1).
    noise : 0 for ε = 1; otherwise each sample draws one ε uniform on [0, noise). ``evaluate`` stays noise-free.
    runs : draw an ε for each of so many runs, shape (runs, 1), for places (runs, n); None draws one float.
    spread : standard deviation of the starting place about (−1.2, 1, −1.2, 1, …).

    Raises
    ------
    ValueError
        n below 2, a negative noise or spread, ``runs`` below 1.

    Source: Rosenbrock (1960); CurveBall paper, section 4 for the noise.

    >>> from refimpl.arrays import get_backend
    >>> r = Rosenbrock(noise=3.0)
    >>> start = get_backend().asarray([-1.2, 1.0])
    >>> round(float(r.loss(start)), 9), round(float(r.loss(start, 0.0)), 9)
    (24.2, 4.84)
    """

    name = "rosenbrock"
    formula = r"(1-u)^2 + 100\,\varepsilon\,(v-u^2)^2"
    domain = ((-2.0, 2.0), (-1.0, 3.0))

    def __init__(
        self,
        noise: float = 0.0,
        *,
        n: int = 2,
        runs: int | None = None,
        spread: float = 0.1,
        backend: Backend | None = None,
    ) -> None:
        super().__init__(check_count("n", n, minimum=2), backend)
        self.noise = check_positive("noise", noise, zero_allowed=True)
        self.runs = None if runs is None else check_count("runs", runs)
        self.spread = check_positive("spread", spread, zero_allowed=True)
        self.minimizers = ((1.0,) * n,)
        self.start = tuple(1.0 if i % 2 else -1.2 for i in range(n))

    def initial(self, rng: Any) -> Array:
        """(−1.2, 1, …) plus ``spread`` times a normal vector; (n,)."""
        return self.backend.asarray(rng.standard_normal(self.n) * self.spread + self.start)

    def draw(self, rng: Any) -> Sample:
        """ε: a float, or an array (runs, 1) where ``runs`` is given; None (ε = 1) without noise."""
        if self.noise == 0.0:
            return None
        if self.runs is None:
            return float(rng.uniform(0.0, self.noise))
        return self.backend.uniform(rng, 0.0, self.noise, (self.runs, 1))

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        if isinstance(sample, int | float):
            check_positive("the noise", sample, zero_allowed=True)
        elif sample is not None:
            expected, given = (*x.shape[:-1], 1), tuple(getattr(sample, "shape", ()))
            if given != expected:
                raise ValueError(f"the noise must be one number or have shape {expected}, got {given}: {sample!r}")
        return _Valley(x, 1.0 if sample is None else sample)


class _Valley(LeastSquaresForm):
    def __init__(self, x: Array, steepness: Any) -> None:
        number = isinstance(steepness, int | float)
        root = math.sqrt(steepness) if number else namespace(x).sqrt(steepness)
        given = {"root": 10.0 * root}
        super().__init__(
            x,
            partial(_valley_residuals, **given),
            partial(_valley_jvp, **given),
            partial(_valley_vjp, **given),
            partial(_valley_bend, **given),
        )
        self._steepness = 100.0 * steepness

    def loss(self) -> Array:
        x = self.x
        a = x[..., :-1]
        left, rise = 1.0 - a, x[..., 1:] - a * a
        return dot(left, left) + namespace(x).sum(self._steepness * (rise * rise), axis=-1)

    def gradient(self) -> Array:
        # By hand, not as 2 J^T r: half the array calls, and no square root of the steepness.
        x = self.x
        a = x[..., :-1]
        push = (2.0 * self._steepness) * (x[..., 1:] - a * a)
        return _overlap(-2.0 * (1.0 - a) - 2.0 * a * push, push)


def _valley_residuals(x: Array, root: Any) -> Array:
    a = x[..., :-1]
    return namespace(x).concat([1.0 - a, root * (x[..., 1:] - a * a)], axis=-1)


def _valley_jvp(x: Array, v: Array, root: Any) -> Array:
    va = v[..., :-1]
    steep = root * (v[..., 1:] - 2.0 * x[..., :-1] * va)
    return namespace(x).concat([namespace(x).zeros_like(steep) - va, steep], axis=-1)


def _valley_vjp(x: Array, u: Array, root: Any) -> Array:
    half = u.shape[-1] // 2
    steep = root * u[..., half:]
    return _overlap(-u[..., :half] - 2.0 * x[..., :-1] * steep, steep)


def _valley_bend(x: Array, u: Array, v: Array, root: Any) -> Array:
    half = u.shape[-1] // 2
    first = -2.0 * root * u[..., half:] * v[..., :-1]
    return _overlap(first, namespace(x).zeros_like(first))


def _overlap(a: Array, b: Array) -> Array:
    """(..., n−1) that belongs to x₁…xₙ₋₁ plus (..., n−1) that belongs to x₂…xₙ: (..., n)."""
    return namespace(a).concat([a[..., :1], a[..., 1:] + b[..., :-1], b[..., -1:]], axis=-1)


class Wood(Toy):
    """Wood's function of four variables: two Rosenbrock valleys, coupled, with a saddle that stalls many methods.

    f = 100(x₂ − x₁²)² + (1 − x₁)² + 90(x₄ − x₃²)² + (1 − x₃)² + 10(x₂ + x₄ − 2)² + (x₂ − x₄)²/10.

    Minimum 0 at (1, 1, 1, 1); f(−3, −1, −3, −1) = 19192 at the usual start; a saddle of loss 7.877 near
    (−.968, .947, −.970, .951).

    Residuals: 10(x₂ − x₁²), 1 − x₁, √90(x₄ − x₃²), 1 − x₃, √10(x₂ + x₄ − 2), (x₂ − x₄)/√10; f = r·r.

    Source: Colville (1968); residual form in Moré, Garbow & Hillstrom (1981), problem 14.

    Parameters
    ----------
    spread : standard deviation of the starting place about (−3, −1, −3, −1).
    """

    name = "wood"
    formula = (
        r"100(x_2-x_1^2)^2 + (1-x_1)^2 + 90(x_4-x_3^2)^2 + (1-x_3)^2"
        r" + 10(x_2+x_4-2)^2 + \tfrac1{10}(x_2-x_4)^2"
    )
    minimizers = ((1.0, 1.0, 1.0, 1.0),)
    saddles = ((-0.9679740249375931, 0.9471391408178418, -0.9695163103315912, 0.9512476657923253),)
    start = (-3.0, -1.0, -3.0, -1.0)
    domain = ((-3.5, 2.0), (-2.0, 3.0))

    def __init__(self, spread: float = 0.1, *, backend: Backend | None = None) -> None:
        super().__init__(4, backend)
        self.spread = check_positive("spread", spread, zero_allowed=True)

    def initial(self, rng: Any) -> Array:
        """(−3, −1, −3, −1) plus ``spread`` times a normal vector; (4,)."""
        return self.backend.asarray(rng.standard_normal(4) * self.spread + self.start)

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return LeastSquaresForm(x, _wood_residuals, _wood_jvp, _wood_vjp, _wood_bend)


_R90, _R10 = math.sqrt(90.0), math.sqrt(10.0)


def _wood_residuals(x: Array) -> Array:
    a, b, c, d = (x[..., i] for i in range(4))
    rows = [10.0 * (b - a * a), 1.0 - a, _R90 * (d - c * c), 1.0 - c, _R10 * (b + d - 2.0), (b - d) / _R10]
    return vector(namespace(x), rows)


def _wood_jvp(x: Array, v: Array) -> Array:
    a, c = x[..., 0], x[..., 2]
    p, q, r, s = (v[..., i] for i in range(4))
    rows = [10.0 * (q - 2.0 * a * p), -p, _R90 * (s - 2.0 * c * r), -r, _R10 * (q + s), (q - s) / _R10]
    return vector(namespace(x), rows)


def _wood_vjp(x: Array, u: Array) -> Array:
    a, c = x[..., 0], x[..., 2]
    first, third, both, gap = 10.0 * u[..., 0], _R90 * u[..., 2], _R10 * u[..., 4], u[..., 5] / _R10
    rows = [-2.0 * a * first - u[..., 1], first + both + gap, -2.0 * c * third - u[..., 3], third + both - gap]
    return vector(namespace(x), rows)


def _wood_bend(x: Array, u: Array, v: Array) -> Array:
    first, third = -20.0 * u[..., 0] * v[..., 0], -2.0 * _R90 * u[..., 2] * v[..., 2]
    zero = namespace(x).zeros_like(first)
    return vector(namespace(x), [first, zero, third, zero])
