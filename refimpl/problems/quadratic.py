"""Quadratic losses, where every answer is a formula, and random symmetric matrices.

All problems are batched (``x: (..., n)``). Matrices are drawn and factored with NumPy in float64 and then moved: the
same seed gives the same problem on every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import array_api_compat
import numpy as np

from refimpl.arrays import (
    Array,
    Backend,
    as_generator,
    backend_of,
    check_count,
    check_positive,
    check_symmetric,
    dot,
    get_backend,
    host_numbers,
)
from refimpl.oracle import Evaluation, Sample
from refimpl.problems.closed_form import ClosedForm, ConvexForm, LeastSquaresForm, Toy

__all__ = ["LinearLeastSquares", "Quadratic", "gaussian_symmetric", "random_orthogonal"]


class Quadratic(Toy):
    """f = ½ (x − c)ᵀ H (x − c) + b·(x − c), for any symmetric H.

    Where H is positive semi-definite the loss is a convex function of the outputs phi(x) = x, and ``ggnvp`` is the
    Hessian product; otherwise there are no outputs.

    Parameters
    ----------
    hessian : (n, n), numbers or an array of any backend.
    center : c, (n,); zero by default.
    linear : b, (n,); zero by default, so that c is the critical point.
    spread : standard deviation of ``initial`` about c.
    backend : None takes the backend of ``hessian`` where it is an array of one, else NumPy float64.

    Attributes
    ----------
    matrix, center, linear : H, c and b as arrays of the backend.
    eigenvalues : those of H in ascending order, NumPy float64.
    minimizers, saddles : the critical point, where H is regular and it is one (neither for a maximum).

    Raises
    ------
    ValueError
        ``hessian`` is not square, finite and symmetric; ``center`` or ``linear`` has another length.

    >>> f = Quadratic([[2.0, 0.0], [0.0, -2.0]])
    >>> f.saddles, f.at(f.backend.asarray([1.0, 1.0])).gradient.tolist()
    (((0.0, 0.0),), [2.0, -2.0])
    """

    name = "quadratic"
    formula = r"\tfrac12 (x-c)^\top H (x-c) + b^\top (x-c)"

    def __init__(
        self,
        hessian: Any,
        center: Any = None,
        linear: Any = None,
        *,
        spread: float = 1.0,
        backend: Backend | None = None,
    ) -> None:
        if backend is None:
            backend = backend_of(hessian) if array_api_compat.is_array_api_obj(hessian) else get_backend()
        host = host_numbers("hessian", hessian)
        check_symmetric("hessian", host)
        host = 0.5 * (host + host.T)
        n = host.shape[0]
        super().__init__(n, backend)
        self.spread = check_positive("spread", spread, zero_allowed=True)
        self._host_center = _vector("center", center, n)
        host_linear = _vector("linear", linear, n)
        self.matrix = backend.asarray(host)
        self.center = backend.asarray(self._host_center)
        self.linear = backend.asarray(host_linear)
        self.eigenvalues = np.linalg.eigvalsh(host)
        self._classify(host, host_linear)

    @classmethod
    def from_spectrum(
        cls,
        eigenvalues: Sequence[float],
        seed: int | np.random.Generator = 0,
        center: Any = None,
        linear: Any = None,
        *,
        spread: float = 1.0,
        backend: Backend | None = None,
    ) -> Quadratic:
        """A Hessian with these eigenvalues in a random orthogonal basis, the same for the same seed everywhere.

        >>> Quadratic.from_spectrum([3.0, -1.0], seed=5).eigenvalues.round(12).tolist()
        [-1.0, 3.0]
        """
        values = host_numbers("eigenvalues", eigenvalues)
        if values.ndim != 1 or values.size == 0 or not np.isfinite(values).all():
            raise ValueError(f"eigenvalues must be a non-empty list of finite numbers, got {eigenvalues!r}")
        basis = random_orthogonal(values.size, seed)
        host = (basis * values) @ basis.T
        return cls(0.5 * (host + host.T), center, linear, spread=spread, backend=backend or get_backend())

    @property
    def convex(self) -> bool:
        """Whether H is positive semi-definite (to rounding)."""
        scale = np.finfo(float).eps * self.n * np.abs(self.eigenvalues).max()
        return bool(self.eigenvalues[0] >= -8 * scale)

    def initial(self, rng: Any) -> Array:
        """c plus ``spread`` times a normal vector; (n,)."""
        return self.backend.asarray(self._host_center + self.spread * rng.standard_normal(self.n))

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        form = ConvexForm if self.convex else ClosedForm
        return form(x, self.f, self.gradient_at, self.hessian_at, hvp=self._product)

    def f(self, x: Array) -> Array:
        step = x - self.center
        return dot(0.5 * self._product(x, step) + self.linear, step)

    def gradient_at(self, x: Array) -> Array:
        return self._product(x, x - self.center) + self.linear

    def hessian_at(self, x: Array) -> Array:
        return self.matrix + self.backend.xp.zeros_like(x)[..., None]

    def _product(self, x: Array, v: Array) -> Array:
        # (..., n) times a symmetric matrix from the right: one library call for a batch and for a single vector.
        return self.backend.xp.matmul(v, self.matrix)

    def _classify(self, host: np.ndarray, linear: np.ndarray) -> None:
        low, high = self.eigenvalues[0], self.eigenvalues[-1]
        if np.abs(self.eigenvalues).min() <= np.finfo(float).eps * self.n * np.abs(self.eigenvalues).max():
            return
        critical = (tuple((self._host_center - np.linalg.solve(host, linear)).tolist()),)
        if low > 0:
            self.minimizers = critical
        elif high > 0:
            self.saddles = critical


class LinearLeastSquares(Toy):
    """f = |A x − y|² (no factor ½): the model is linear, so the Gauss–Newton matrix 2AᵀA is the Hessian.

    Parameters
    ----------
    matrix : A, (m, n).
    targets : y, (m,).

    Attributes
    ----------
    minimizers : the least-squares solution of minimum norm.

    Raises
    ------
    ValueError
        Shapes that do not fit, or entries that are not finite.

    Source: CurveBall paper, section 3, the case of a linear model.
    """

    name = "linear-least-squares"
    formula = r"\lVert A x - y \rVert^2"

    def __init__(self, matrix: Any, targets: Any, *, backend: Backend | None = None) -> None:
        if backend is None:
            backend = backend_of(matrix) if array_api_compat.is_array_api_obj(matrix) else get_backend()
        host = host_numbers("matrix", matrix)
        if host.ndim != 2 or host.size == 0 or not np.isfinite(host).all():
            raise ValueError(f"matrix must be finite, of shape (m, n) with m, n >= 1, got shape {host.shape}")
        host_targets = _vector("targets", targets, host.shape[0])
        super().__init__(host.shape[1], backend)
        self.matrix, self.targets = backend.asarray(host), backend.asarray(host_targets)
        self._transpose = backend.asarray(host.T.copy())
        self.minimizers = (tuple(np.linalg.lstsq(host, host_targets, rcond=None)[0].tolist()),)

    def initial(self, rng: Any) -> Array:
        """A normal vector, (n,)."""
        return self.backend.normal(rng, self.n)

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        return LeastSquaresForm(x, self._residuals, self._jvp, self._vjp)

    def _residuals(self, x: Array) -> Array:
        return self._jvp(x, x) - self.targets

    def _jvp(self, x: Array, v: Array) -> Array:
        return self.backend.xp.matmul(v, self._transpose)

    def _vjp(self, x: Array, u: Array) -> Array:
        return self.backend.xp.matmul(u, self.matrix)


def gaussian_symmetric(
    n: int,
    rng: int | np.random.Generator,
    diagonal_variance: float = 2.0,
    backend: Backend | None = None,
) -> Array:
    """A random symmetric matrix (n, n): independent normal entries, mirrored at the diagonal.

    Off the diagonal the variance is 1. ``diagonal_variance`` 2 gives the Gaussian orthogonal ensemble, whose law no
    rotation changes; 1 gives the ensemble of the series paper's Figure 10. Either way the eigenvalues fill
    [−2√n, 2√n] with a semicircle.

    Parameters
    ----------
    n : size, at least 1.
    rng : a NumPy Generator, or a seed.
    diagonal_variance : variance of the diagonal entries, at least zero.
    backend : where the matrix goes; None gives NumPy float64.

    >>> gaussian_symmetric(3, 0).shape
    (3, 3)
    """
    check_count("n", n)
    variance = check_positive("diagonal_variance", diagonal_variance, zero_allowed=True)
    draws = as_generator(rng).standard_normal((n, n))
    upper = np.triu(draws, 1)
    symmetric = upper + upper.T + np.diag(np.sqrt(variance) * np.diag(draws))
    return (backend or get_backend()).asarray(symmetric)


def random_orthogonal(n: int, seed: int | np.random.Generator = 0) -> np.ndarray:
    """A NumPy orthogonal matrix (n, n), uniform (Haar) on the orthogonal group.

    Source: Mezzadri (2007): the QR factor of a normal matrix is uniform only once the signs of R's diagonal are
    moved into Q.
    """
    check_count("n", n)
    q, r = np.linalg.qr(as_generator(seed).standard_normal((n, n)))
    return q * np.where(np.diag(r) < 0, -1.0, 1.0)


def _vector(name: str, values: Any, n: int) -> np.ndarray:
    if values is None:
        return np.zeros(n)
    host = host_numbers(name, values)
    if host.shape != (n,) or not np.isfinite(host).all():
        raise ValueError(f"{name} must be {n} finite numbers, got shape {host.shape}")
    return host
