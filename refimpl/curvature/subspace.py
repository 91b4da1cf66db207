"""A few orthonormal directions, and the Hessian and gradient as they look from inside their span.

Long vectors stay where they are (any library, device and dtype); what is small, (k, k) or (k,), is a NumPy array in
float64 on the host, where the decisions are made. One run at a time: no leading axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from refimpl.arrays import Array, backend_of, dtype_name, host_numbers, namespace, norm
from refimpl.curvature.krylov import Lanczos
from refimpl.curvature.operators import Matvec, check_vector


class Subspace(NamedTuple):
    """An orthonormal basis and the Hessian in it.

    basis : B, (k, n), rows.

    matrix : B H B^T, (k, k), NumPy float64, symmetric.
    """

    basis: Array
    matrix: Array

    def coordinates(self, vector: Array) -> Array:
        """B v for v (n,): (k,), NumPy float64."""
        if self.basis.shape[0] == 0:
            return host_numbers("coordinates", [])
        return host_numbers("coordinates", namespace(vector).matmul(self.basis, vector))

    def combine(self, weights: Array) -> Array:
        """B^T a for a (k,) on the host: (n,), on the device of the basis."""
        return _combined(self.basis, weights)


def orthonormalize(vectors: Sequence[Array], known: Array | None = None, *, tolerance: float | None = None) -> Array:
    """An orthonormal basis of what ``vectors`` span beyond the rows of ``known``: (k, n), k <= len(vectors).

    Two passes of Gram–Schmidt in the order given. A vector that is zero, not finite, or whose remainder is at most
    ``tolerance`` of its length is skipped, so that duplicates and collinear directions do no harm.

    Parameters
    ----------
    vectors : each (n,); their lengths do not matter.
    known : orthonormal rows (j, n) that are there already; they are not returned.
    tolerance : None takes 1e-8 in float64 and 1e-4 in float32.

    Raises
    ------
    ValueError
        No vectors; vectors that are not (n,) floating arrays of one shape.

    Notes
    -----
    Cost: no products, O(k (j + k) n), two reads back to the host per vector.

    >>> import numpy as np
    >>> orthonormalize([np.array([3.0, 0.0]), np.array([-1.0, 0.0]), np.zeros(2), np.array([1.0, 2.0])]).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    given = list(vectors)
    if not given:
        raise ValueError("orthonormalize needs at least one vector")
    for vector in given:
        if getattr(vector, "ndim", None) != 1 or vector.shape != given[0].shape:
            raise ValueError(f"vectors must all have shape (n,), got {[getattr(v, 'shape', v) for v in given]}")
    xp = namespace(given[0])
    if tolerance is None:
        tolerance = 1e-4 if dtype_name(given[0].dtype) == "float32" else 1e-8
    rows = [] if known is None else [known[i, :] for i in range(known.shape[0])]
    old = len(rows)
    for vector in given:
        length = float(norm(vector))
        if not math.isfinite(length) or length == 0:
            continue
        u = vector / length
        for _ in range(2 if rows else 0):
            basis = xp.stack(rows)
            u = u - xp.matmul(xp.matrix_transpose(basis), xp.matmul(basis, u))
        left = float(norm(u))
        if left > tolerance:
            rows.append(u / left)
    new = rows[old:]
    if new:
        return xp.stack(new)
    return xp.zeros((0, given[0].shape[0]), dtype=given[0].dtype, device=backend_of(given[0]).device)


def of_lanczos(space: Lanczos) -> Subspace:
    """The Krylov space that :func:`~refimpl.curvature.krylov.lanczos` found, without rows past its end. No products.

    One read back to the host. A space of a gradient that is not finite has no rows.
    """
    numbers = namespace(space.alpha).concat([space.alpha, space.beta, space.start_norm[None]])
    host = host_numbers("the numbers of the space", numbers)
    count = space.alpha.shape[0]
    alphas, betas, start_norm = host[:count], host[count : 2 * count], float(host[-1])
    xp, size = namespace(host), 0
    # The last beta is the residual, which is no entry of T.
    if bool(xp.all(xp.isfinite(host[: 2 * count - 1]))) and start_norm > 0:
        size = 1
        while size < count and betas[size - 1] > 0:
            size += 1
    matrix = xp.zeros((size, size))
    for j in range(size):
        matrix[j, j] = alphas[j]
        if j + 1 < size:
            matrix[j, j + 1] = matrix[j + 1, j] = betas[j]
    return Subspace(space.basis[:size, :], matrix)


def project(matvec: Matvec, basis: Array) -> Subspace:
    """The subspace of the orthonormal rows ``basis`` (k, n). Cost: k products."""
    empty = Subspace(basis[:0, :], host_numbers("matrix", [])[:0].reshape(0, 0))
    return extend(empty, matvec, basis)


def extend(space: Subspace, matvec: Matvec, new: Array) -> Subspace:
    """``space`` with the orthonormal rows ``new`` (j, n), orthogonal to its own. Cost: one product per new row.

    What is known of H in ``space`` is kept as it is, even where it was found at another place.
    """
    count, old = new.shape[0], space.basis.shape[0]
    if count == 0:
        return space
    xp = namespace(new)
    basis = xp.concat([space.basis, new], axis=0) if old else new
    images = xp.stack([matvec(new[i, :]) for i in range(count)])
    rows = host_numbers("products", xp.matmul(images, xp.matrix_transpose(basis)))
    on_host = namespace(rows)
    matrix = on_host.zeros((old + count, old + count))
    matrix[:old, :old] = space.matrix
    matrix[old:, :] = rows
    matrix[:old, old:] = rows[:, :old].T
    matrix[old:, old:] = 0.5 * (rows[:, old:] + rows[:, old:].T)
    return Subspace(basis, matrix)


def restrict(space: Subspace, vectors: Sequence[Array]) -> Subspace:
    """The subspace of ``space`` that ``vectors`` span, each given by its coordinates (k,) there. No products.

    Zero, duplicate and collinear ones are skipped as in :func:`orthonormalize`.
    """
    inside = orthonormalize(vectors)
    place = backend_of(space.basis)
    basis = namespace(space.basis).matmul(place.asarray(inside), space.basis)
    return Subspace(basis, inside @ space.matrix @ inside.T)


def krylov_and(space: Subspace, matvec: Matvec, vectors: Sequence[Array]) -> Subspace:
    """``space`` and whatever of ``vectors`` lies outside it. Cost: one product per vector that does."""
    if not vectors:
        return space
    check_vector("vectors[0]", vectors[0])
    return extend(space, matvec, orthonormalize(vectors, space.basis))


def _combined(basis: Array, weights: Array) -> Array:
    xp, place = namespace(basis), backend_of(basis)
    if basis.shape[0] == 0:
        return xp.zeros((basis.shape[1],), dtype=basis.dtype, device=place.device)
    return xp.matmul(xp.matrix_transpose(basis), place.asarray(weights))
