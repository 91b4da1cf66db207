"""Three families of symmetric matrices on which routes to |H|^{-1} g are compared.

* ``gaussian``: independent normal entries. A featureless semicircle, the setting of the series paper's Figure 10.
* ``logarithmic``: eigenvalues ±logspace(-3, 0). Every magnitude equally frequent: condition number 1000, indefinite.
* ``spiked``: a few large eigenvalues, a few negative ones, and a bulk near zero, as Hessians of networks have them.

Each call gives a :class:`SpectralProblem`: the quadratic, a gradient, and the exact answer. Seeds decide everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refimpl.arrays import Array, Backend, as_generator, check_count, get_backend
from refimpl.curvature.inverse_abs import Mode
from refimpl.curvature.spectrum import apply_inverse_abs
from refimpl.problems.quadratic import gaussian_symmetric, random_orthogonal


@dataclass(frozen=True)
class SpectralProblem:
    """A symmetric matrix with a gradient.

    ``matrix`` (n, n), ``gradient`` (n,), arrays of one backend; ``eigenvalues`` (n,), NumPy, ascending.
    """

    name: str
    matrix: Array
    gradient: Array
    eigenvalues: np.ndarray

    def hvp(self, v: Array) -> Array:
        """H v, (..., n) -> (..., n)."""
        return v @ self.matrix

    def direction(self, mode: Mode = "none", damping: float = 0.0) -> Array:
        """The exact saddle-free direction, from the eigendecomposition."""
        return apply_inverse_abs(self.matrix, self.gradient, mode=mode, damping=damping)

    @property
    def largest(self) -> float:
        """max|h|."""
        return float(np.abs(self.eigenvalues).max())

    @property
    def smallest(self) -> float:
        """min|h|."""
        return float(np.abs(self.eigenvalues).min())


def gaussian(seed: int = 0, n: int = 100, *, backend: Backend | None = None) -> SpectralProblem:
    """Normal entries, mirrored, diagonal variance 1 as in the series paper's Figure 10; a normal gradient."""
    rng = as_generator(seed)
    matrix = gaussian_symmetric(n, rng, diagonal_variance=1.0)
    return _problem("gaussian", matrix, rng.standard_normal(n), np.linalg.eigvalsh(matrix), backend)


def logarithmic(
    seed: int = 0, n: int = 100, *, decades: float = 3.0, backend: Backend | None = None
) -> SpectralProblem:
    """Eigenvalues ±10^(-decades … 0), n/2 of each sign, in a random basis; a normal gradient."""
    if check_count("n", n, minimum=2) % 2:
        raise ValueError(f"n must be even, half of the eigenvalues for each sign, got {n}")
    rng = as_generator(seed)
    half = np.logspace(-decades, 0, n // 2)
    return _from_eigenvalues("logarithmic", np.concatenate([half, -half]), rng, backend)


def spiked(seed: int = 0, n: int = 1000, *, backend: Backend | None = None) -> SpectralProblem:
    """12 outliers between 0.5 and 20, three negative ones, and a bulk: half of size 0.02, half of size 0.001."""
    rng = as_generator(seed)
    bulk = check_count("n", n, minimum=16) - 15
    outliers = np.geomspace(0.5, 20.0, 12)
    near, nearer = rng.normal(0, 0.02, bulk // 2), rng.normal(0, 0.001, bulk - bulk // 2)
    values = np.concatenate([outliers, [-0.1, -0.3, -1.0], np.abs(near), nearer])
    return _from_eigenvalues("spiked", values, rng, backend)


FAMILIES = {"gaussian": gaussian, "logarithmic": logarithmic, "spiked": spiked}
"""Name -> function of a seed."""


def _from_eigenvalues(
    name: str, values: np.ndarray, rng: np.random.Generator, backend: Backend | None
) -> SpectralProblem:
    basis = random_orthogonal(values.size, rng)
    matrix = (basis * values) @ basis.T
    return _problem(name, 0.5 * (matrix + matrix.T), rng.standard_normal(values.size), np.sort(values), backend)


def _problem(
    name: str, matrix: np.ndarray, gradient: np.ndarray, eigenvalues: np.ndarray, backend: Backend | None
) -> SpectralProblem:
    place = backend or get_backend()
    return SpectralProblem(name, place.asarray(matrix), place.asarray(gradient), eigenvalues)
