"""Orthonormal bases of Krylov spaces for an H known through products: Lanczos and Arnoldi.

Both take leading axes (..., n): many spaces in one program, each with its own coefficients. A run whose Krylov space
is exhausted stands still while the others go on; the loops end when all runs have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from refimpl.arrays import Array, backend_of, check_count, dot, machine_epsilon, namespace, norm
from refimpl.curvature.operators import Matvec, check_vector

Orthogonalization = Literal["twice", "classical", "modified"]


class Lanczos(NamedTuple):
    """An orthonormal basis of the Krylov space of (H, g) and H in that basis.

    basis : (..., m, n), row j is q_j; rows past the end of an exhausted space are zero.
    alpha : (..., m), the diagonal of T. beta : (..., m), beta_j couples q_j and q_{j+1}; the last one is the residual.
    start_norm : |g|, (...). products : Hessian products spent, m unless all runs ended early.
    """

    basis: Array
    alpha: Array
    beta: Array
    start_norm: Array
    products: int

    def tridiagonal(self) -> Array:
        """T = Q H Q^T, (..., m, m)."""
        return self.extended()[..., :-1, :]

    def projected(self) -> Array:
        """The same, under the name that both bases share, (..., m, m)."""
        return self.tridiagonal()

    def extended(self) -> Array:
        """T with one more row, (..., m + 1, m): H Q^T = Q_{m+1}^T T."""
        xp, (*batch, m) = namespace(self.alpha), self.alpha.shape
        matrix = xp.zeros((*batch, m + 1, m), dtype=self.alpha.dtype, device=backend_of(self.alpha).device)
        for j in range(m):
            matrix[..., j, j] = self.alpha[..., j]
            matrix[..., j + 1, j] = self.beta[..., j]
            if j + 1 < m:
                matrix[..., j, j + 1] = self.beta[..., j]
        return matrix

    def combine(self, weights: Array) -> Array:
        """sum_j weights_j q_j: (..., m) -> (..., n)."""
        return _combined(self.basis, weights)


class Arnoldi(NamedTuple):
    """An orthonormal basis of the Krylov space of (H, g) and H in that basis, H not taken to be symmetric.

    basis : (..., m, n), row j is q_j; rows past the end of an exhausted space are zero.

    hessenberg : (..., m + 1, m), the coefficients with H Q^T = Q_{m+1}^T hessenberg; zero below the first subdiagonal.

    start_norm : |g|, (...).

    products : Hessian products spent, m unless all runs ended early.
    """

    basis: Array
    hessenberg: Array
    start_norm: Array
    products: int

    def projected(self) -> Array:
        """Q H Q^T, (..., m, m)."""
        return self.hessenberg[..., :-1, :]

    def extended(self) -> Array:
        """Q_{m+1} H Q^T, (..., m + 1, m)."""
        return self.hessenberg

    def combine(self, weights: Array) -> Array:
        """sum_j weights_j q_j: (..., m) -> (..., n)."""
        return _combined(self.basis, weights)


def orthogonality_loss(basis: Array) -> Array:
    """The largest entry of |Q Q^T - I| for rows q_j, (..., m, n) -> (...): 0 in exact arithmetic, 1 when all is lost.

    Rows of zeros, past the end of an exhausted space, are left out.
    """
    xp = namespace(basis)
    gram = xp.matmul(basis, xp.matrix_transpose(basis))
    there = xp.any(basis != 0, axis=-1)
    identity = xp.eye(basis.shape[-2], dtype=basis.dtype, device=backend_of(basis).device)
    gap = xp.abs(gram - xp.where(there[..., None], identity, xp.zeros_like(identity)))
    return xp.max(xp.max(gap, axis=-1), axis=-1)


def lanczos(
    matvec: Matvec,
    start: Array,
    steps: int,
    *,
    reorthogonalize: bool = True,
    checked: bool = True,
    enough: Callable[[Lanczos], bool] | None = None,
) -> Lanczos:
    """m steps of the Lanczos process with two full reorthogonalizations against all earlier vectors.

    Parameters
    ----------
    matvec : v -> H v, (..., n) -> (..., n), H symmetric.
    start : g, (..., n); a run with g = 0 gives zeros.
    steps : m, at least 1; at most n are taken.
    reorthogonalize : False shows what rounding does to the plain three-term recurrence (chapter 10).
    checked : False skips the checks at the door and never reads back whether all runs have ended, so all m products
        are spent.
    enough : asked after each product with the space so far; True ends the process there, with fewer rows.

    Raises
    ------
    ValueError
        ``start`` is not a finite floating array; ``steps`` below 1.

    Notes
    -----
    Cost: m products and O(m^2 n). Memory: m vectors. A run ends where beta <= 100 eps max(|alpha|, beta): its space
    is invariant, and functions of H on g are exact from there on.

    Source: Lanczos (1950); twice is enough: Parlett (1998), sec. 6.9.
    """
    if checked:
        check_vector("start", start)
        check_count("steps", steps)
    xp, place, n = namespace(start), backend_of(start), start.shape[-1]
    m = min(steps, n)
    batch = tuple(start.shape[:-1])
    basis = xp.zeros((*batch, m, n), dtype=start.dtype, device=place.device)
    start_norm = norm(start)
    q, alive = normalized(start, start_norm), start_norm > 0
    size = xp.zeros_like(start_norm)
    alphas: list[Array] = []
    betas: list[Array] = []
    before, products = xp.zeros_like(start), 0
    beta = xp.zeros_like(start_norm)
    for j in range(m):
        if checked and j > 0 and not bool(xp.any(alive)):
            zero = xp.zeros_like(beta)
            alphas, betas = [*alphas, zero], [*betas, zero]
            continue
        basis[..., j, :] = q
        w = matvec(q)
        products += 1
        alpha = dot(q, w)
        w = w - alpha[..., None] * q - beta[..., None] * before
        if reorthogonalize:
            for _ in range(2):
                known = basis[..., : j + 1, :]
                w = w - xp.matmul(xp.matrix_transpose(known), xp.matmul(known, w[..., None]))[..., 0]
        beta = norm(w)
        size = xp.maximum(size, xp.maximum(xp.abs(alpha), beta))
        alive = alive & (beta > 100 * machine_epsilon(beta) * size) & (j + 1 < n)
        beta = xp.where(alive, beta, xp.zeros_like(beta))
        before, q = q, normalized(w, beta)
        alphas.append(alpha)
        betas.append(beta)
        if enough is not None:
            known = basis[..., : j + 1, :]
            space = Lanczos(known, xp.stack(alphas, axis=-1), xp.stack(betas, axis=-1), start_norm, products)
            if enough(space):
                return space
    return Lanczos(basis, xp.stack(alphas, axis=-1), xp.stack(betas, axis=-1), start_norm, products)


def arnoldi(
    matvec: Matvec,
    start: Array,
    steps: int,
    *,
    orthogonalization: Orthogonalization = "twice",
    checked: bool = True,
) -> Arnoldi:
    """m steps of the Arnoldi process: every new vector is orthogonalized against all before it.

    Parameters
    ----------
    matvec, start, steps, checked : as in :func:`lanczos`, but the matrix need not be symmetric.
    orthogonalization : ``"twice"``, two passes of classical Gram–Schmidt; ``"classical"``, one pass, as the thesis
        prints it; ``"modified"``, one vector after the other.

    Raises
    ------
    ValueError
        As :func:`lanczos`; an unknown orthogonalization.

    Notes
    -----
    For a symmetric H the entries above the first superdiagonal are rounding errors, and basis and matrix are those of
    :func:`lanczos`. Cost: m products and O(m^2 n). Memory: m vectors. A run ends where the remainder is at most
    100 eps times the largest entry so far.

    Source: Arnoldi (1951); KryBall thesis, eq. 2.35–2.37 and Algorithm 2, which has no test for an exhausted space.

    >>> import numpy as np
    >>> space = arnoldi(lambda v: v * np.asarray([1.0, 2.0, 3.0]), np.ones(3), 2)
    >>> space.projected().round(3).tolist()
    [[2.0, 0.816], [0.816, 2.0]]
    """
    if checked:
        check_vector("start", start)
        check_count("steps", steps)
    if orthogonalization not in get_args(Orthogonalization):
        raise ValueError(
            f"unknown orthogonalization {orthogonalization!r}; choose one of {list(get_args(Orthogonalization))}"
        )
    xp, place, (*batch, n) = namespace(start), backend_of(start), start.shape
    m = min(steps, n)
    basis = xp.zeros((*batch, m, n), dtype=start.dtype, device=place.device)
    hessenberg = xp.zeros((*batch, m + 1, m), dtype=start.dtype, device=place.device)
    start_norm = norm(start)
    q, alive = normalized(start, start_norm), start_norm > 0
    size, products = xp.zeros_like(start_norm), 0
    for j in range(m):
        if checked and j > 0 and not bool(xp.any(alive)):
            break
        basis[..., j, :] = q
        w = matvec(q)
        products += 1
        coefficients = xp.zeros((*batch, j + 1), dtype=start.dtype, device=place.device)
        groups = [slice(i, i + 1) for i in range(j + 1)] if orthogonalization == "modified" else [slice(0, j + 1)]
        for group in 2 * groups if orthogonalization == "twice" else groups:
            known = basis[..., group, :]
            along = xp.matmul(known, w[..., None])[..., 0]
            w = w - _combined(known, along)
            coefficients[..., group] += along
        hessenberg[..., : j + 1, j] = coefficients
        beta = norm(w)
        size = xp.maximum(size, xp.maximum(xp.max(xp.abs(coefficients), axis=-1), beta))
        alive = alive & (beta > 100 * machine_epsilon(beta) * size) & (j + 1 < n)
        beta = xp.where(alive, beta, xp.zeros_like(beta))
        hessenberg[..., j + 1, j] = beta
        q = normalized(w, beta)
    return Arnoldi(basis, hessenberg, start_norm, products)


def _combined(basis: Array, weights: Array) -> Array:
    # sum_j weights_j q_j: (..., m, n), (..., m) -> (..., n).
    xp = namespace(weights)
    return xp.matmul(xp.matrix_transpose(basis), weights[..., None])[..., 0]


def normalized(vector: Array, length: Array) -> Array:
    # vector / length, and zero where the length is zero.
    xp = namespace(vector)
    usable = (length > 0)[..., None]
    return xp.where(usable, vector / xp.where(usable, length[..., None], xp.ones_like(vector)), xp.zeros_like(vector))
