"""What tests of Krylov spaces share: matrices, products that count, and a basis made the slow way."""

from __future__ import annotations

from typing import Any

import numpy as np


def symmetric(rng: np.random.Generator, n: int, batch: tuple[int, ...] = ()) -> Any:
    """A symmetric matrix (..., n, n), as a rule indefinite."""
    a = rng.standard_normal((*batch, n, n))
    return a + np.swapaxes(a, -1, -2)


def with_spectrum(eigenvalues: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """A symmetric matrix with these eigenvalues, and its eigenvectors as columns."""
    basis = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))[0]
    matrix = (basis * np.asarray(eigenvalues)) @ basis.T
    return 0.5 * (matrix + matrix.T), basis


def matvec_of(matrix: Any) -> Any:
    """v -> A v for (..., n, n) and (..., n)."""
    return lambda v: (matrix @ v[..., None])[..., 0]


def counted(matrix: Any) -> tuple[Any, list[int]]:
    """``matvec_of`` and the list that grows with every call."""
    calls: list[int] = []
    return lambda v: calls.append(1) or matvec_of(matrix)(v), calls


def krylov_basis(matrix: Any, start: Any, m: int) -> Any:
    """Orthonormal columns, by Householder QR of slowly built, rescaled powers."""
    basis = np.empty((len(start), 0))
    v = start
    for _ in range(m):
        basis = np.linalg.qr(np.c_[basis, v])[0]
        v = matrix @ basis[:, -1]
    return basis
