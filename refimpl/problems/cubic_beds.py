"""Losses in any dimension whose curvature has a Lipschitz constant that is known: cubic beds and sums of sines."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.arrays import (
    Array,
    Backend,
    as_generator,
    check_count,
    check_positive,
    dot,
    get_backend,
    host_numbers,
    namespace,
)
from refimpl.oracle import Evaluation, Sample
from refimpl.problems.closed_form import ClosedForm, Toy
from refimpl.problems.quadratic import random_orthogonal

__all__ = ["RandomSines", "SeparableCubic"]


class SeparableCubic(Toy):
    """f = sum_i lambda_i z_i²/2 + L_i |z_i|³/6 with z = Qᵀx: a quadratic whose curvature changes at known rates.

    Along column q_i of Q the curvature is lambda_i + L_i |z_i|: its Lipschitz constant is L_i, in all of space. With
    lambda_i < 0 there are two minima at z_i = ±2|lambda_i|/L_i, (2/3)|lambda_i|³/L_i² deep; with lambda_i >= 0 one at
    zero. Twice, but not three times continuously differentiable.

    Parameters
    ----------
    curvatures : lambda, (n,).
    slopes : L, (n,), positive.
    seed : of the random orthogonal Q; None takes Q = I.
    start : z of ``initial`` is normal with these standard deviations, (n,); the distances 2|lambda_i|/L_i by default.

    Attributes
    ----------
    directions : Q, one direction per column, (n, n), an array of the backend.
    curvatures, slopes : lambda and L, (n,), arrays of the backend.
    least_value : the loss at every minimizer.
    minimizers : the one of up to 2^n with all z_i >= 0.
    saddles : the origin, where lambda has both signs and no zero.

    Raises
    ------
    ValueError
        Lengths that differ, numbers that are not finite, a slope that is not positive.

    >>> bed = SeparableCubic([-1.0, 2.0], [1.0, 3.0], seed=None)
    >>> bed.minimizers, round(bed.least_value, 12)
    (((2.0, 0.0),), -0.666666666667)
    """

    name = "separable-cubic"
    formula = r"\sum_i \tfrac12 \lambda_i z_i^2 + \tfrac16 L_i |z_i|^3,\ z = Q^\top x"

    def __init__(
        self,
        curvatures: Any,
        slopes: Any,
        seed: int | np.random.Generator | None = 0,
        *,
        start: Any = None,
        backend: Backend | None = None,
    ) -> None:
        values = _numbers("curvatures", curvatures)
        n = values.size
        super().__init__(n, backend)
        rates = _numbers("slopes", slopes, n)
        if not rates.min() > 0:
            raise ValueError(f"slopes must be positive, got {slopes!r}")
        wells = 2.0 * np.maximum(-values, 0.0) / rates
        self._start = 2.0 * np.abs(values) / rates if start is None else _numbers("start", start, n)
        self._basis = np.eye(n) if seed is None else random_orthogonal(n, seed)
        self.directions = self.backend.asarray(self._basis)
        self._rows = self.backend.asarray(self._basis.T.copy())
        self.curvatures, self.slopes = self.backend.asarray(values), self.backend.asarray(rates)
        self.least_value = float(np.sum(values * wells**2 / 2 + rates * wells**3 / 6))
        lowest = self._basis @ wells
        self.minimizers = (tuple(lowest.tolist()),)
        if values.min() < 0 < values.max() and np.all(values != 0):
            self.saddles = ((0.0,) * n,)
        width = 1.25 * float(np.abs(lowest).max()) or 1.0
        self.domain = ((-width, width), (-width, width))

    @classmethod
    def balanced(
        cls, n: int = 50, spread: float = 1.0, seed: int = 0, *, negative: float = 0.3, backend: Backend | None = None
    ) -> SeparableCubic:
        """A bed in which every direction has about as much to gain, however the slopes are spread.

        With L_i log-uniform between 10^-spread and 10^spread and depths D_i log-uniform between 10^-1/2 and 10^1/2,
        |lambda_i| = (3/2 D_i L_i²)^(1/3): each well is D_i deep. Curvatures and slopes drawn independently would leave
        almost all of the gap to two or three directions.

        Parameters
        ----------
        n, seed : size, and what decides all draws.
        spread : decades to either side, at least zero.
        negative : share of the directions with lambda_i < 0, rounded; ``initial`` starts those a hundredth as far out,
            near the saddle.

        >>> bed = SeparableCubic.balanced(10, 3.0)
        >>> -3 * 10**0.5 < bed.least_value < -3 / 10**0.5
        True
        """
        check_count("n", n)
        decades = check_positive("spread", spread, zero_allowed=True)
        count = round(n * check_positive("negative", negative, zero_allowed=True))
        if count > n:
            raise ValueError(f"negative must be a share of at most 1, got {negative!r}")
        rng = as_generator(seed)
        rates = 10.0 ** rng.uniform(-decades, decades, n)
        depths = 10.0 ** rng.uniform(-0.5, 0.5, n)
        values = (1.5 * depths * rates**2) ** (1.0 / 3.0)
        downhill = rng.permutation(n) < count
        start = 2.0 * values / rates * np.where(downhill, 0.01, 1.0)
        return cls(np.where(downhill, -values, values), rates, rng, start=start, backend=backend)

    def initial(self, rng: Any) -> Array:
        """Q z with z normal around the origin, (n,)."""
        return self.backend.asarray(self._basis @ (self._start * rng.standard_normal(self.n)))

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return ClosedForm(x, self.f, self.gradient_at, self.hessian_at, hvp=self._product)

    def f(self, x: Array) -> Array:
        z = self._coordinates(x)
        return dot(z * z, 0.5 * self.curvatures + self.slopes * namespace(x).abs(z) / 6.0)

    def gradient_at(self, x: Array) -> Array:
        z = self._coordinates(x)
        return self._back(z * (self.curvatures + 0.5 * self.slopes * namespace(x).abs(z)))

    def hessian_at(self, x: Array) -> Array:
        xp = namespace(x)
        found = xp.matmul(self.directions * self._bend(x)[..., None, :], self._rows)
        return 0.5 * (found + xp.matrix_transpose(found))

    def _product(self, x: Array, v: Array) -> Array:
        return self._back(self._bend(x) * self._coordinates(v))

    def _bend(self, x: Array) -> Array:
        return self.curvatures + self.slopes * namespace(x).abs(self._coordinates(x))

    def _coordinates(self, x: Array) -> Array:
        return namespace(x).matmul(x, self.directions)

    def _back(self, z: Array) -> Array:
        return namespace(z).matmul(z, self._rows)


class RandomSines(Toy):
    """f = sum_k a_k sin(b_k·x + c_k): smooth, bounded, never separable, with saddles everywhere.

    The Hessian changes by at most ``lipschitz`` times the distance, in the spectral norm: sum_k |a_k| |b_k|³.

    Parameters
    ----------
    amplitudes : a, (m,).
    frequencies : b, one row per term, (m, n).
    phases : c, (m,); zero by default.

    Attributes
    ----------
    lipschitz : the constant above.
    lower_bound : -sum_k |a_k|; no loss is below it.

    Raises
    ------
    ValueError
        Shapes that do not fit, numbers that are not finite.

    Examples
    --------
    >>> wave = RandomSines([2.0], [[3.0]])
    >>> wave.lipschitz, wave.at(wave.backend.asarray([0.0])).gradient.tolist()
    (54.0, [6.0])
    """

    name = "random-sines"
    formula = r"\sum_k a_k \sin(b_k \cdot x + c_k)"

    def __init__(
        self, amplitudes: Any, frequencies: Any, phases: Any = None, *, backend: Backend | None = None
    ) -> None:
        a, b = _numbers("amplitudes", amplitudes), host_numbers("frequencies", frequencies)
        if b.ndim != 2 or b.shape[0] != a.size or b.shape[1] == 0 or not np.isfinite(b).all():
            raise ValueError(f"frequencies must be finite, of shape ({a.size}, n) with n >= 1, got shape {b.shape}")
        super().__init__(b.shape[1], backend)
        c = np.zeros(a.size) if phases is None else _numbers("phases", phases, a.size)
        self.lipschitz = float(np.sum(np.abs(a) * np.linalg.norm(b, axis=1) ** 3))
        self.lower_bound = -float(np.abs(a).sum())
        self._a, self._b, self._c = (self.backend.asarray(v) for v in (a, b, c))
        self._columns = self.backend.asarray(b.T.copy())
        self._sup = np.einsum("m,mi,mj,mk->ijk", np.abs(a), *[np.abs(b)] * 3)

    @classmethod
    def random(
        cls, n: int, terms: int = 8, seed: int | np.random.Generator = 0, *, backend: Backend | None = None
    ) -> RandomSines:
        """Normal amplitudes and frequencies, uniform phases; the same for the same seed on every backend.

        >>> RandomSines.random(3, seed=1).n
        3
        """
        check_count("n", n)
        check_count("terms", terms)
        rng = as_generator(seed)
        a, b = rng.standard_normal(terms), rng.standard_normal((terms, n))
        return cls(a, b, rng.uniform(0.0, 2.0 * np.pi, terms), backend=backend or get_backend())

    def f(self, x: Array) -> Array:
        return dot(namespace(x).sin(self._phase(x)), self._a)

    def gradient_at(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.matmul(self._a * xp.cos(self._phase(x)), self._b)

    def hessian_at(self, x: Array) -> Array:
        xp = namespace(x)
        weights = -self._a * xp.sin(self._phase(x))
        found = xp.matmul(self._columns * weights[..., None, :], self._b)
        return 0.5 * (found + xp.matrix_transpose(found))

    def third_derivative(self, x: Array) -> Array:
        """The symmetric tensor of third derivatives: (..., n) -> (..., n, n, n)."""
        xp = namespace(x)
        weights = -self._a * xp.cos(self._phase(x))
        pairs = self._b[:, :, None] * self._b[:, None, :]
        return xp.sum(weights[..., :, None, None, None] * pairs[:, :, :, None] * self._b[:, None, None, :], axis=-4)

    def third_derivative_bound(self) -> Array:
        """sum_k |a_k b_ki b_kj b_kl|, which no entry's magnitude exceeds anywhere: (n, n, n)."""
        return self.backend.asarray(self._sup)

    def _phase(self, x: Array) -> Array:
        return namespace(x).matmul(x, self._columns) + self._c


def _numbers(name: str, values: Any, count: int | None = None) -> np.ndarray:
    host = host_numbers(name, values)
    if host.ndim != 1 or host.size == 0 or count not in (None, host.size) or not np.isfinite(host).all():
        expected = "a non-empty list of" if count is None else str(count)
        raise ValueError(f"{name} must be {expected} finite numbers, got shape {host.shape}")
    return host
