"""Linear systems by Krylov methods, for a symmetric A known through products: CG, multi-shift CG, MINRES.

All take leading axes (..., n): many systems in one program, each with its own coefficients. A run that is done stands
still while the others go on; the loops end when all runs have.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from refimpl.arrays import Array, backend_of, check_count, check_positive, dot, machine_epsilon, namespace, norm
from refimpl.curvature.krylov import normalized
from refimpl.curvature.operators import CountingMatvec, Matvec, check_vector


class Solution(NamedTuple):
    """``x`` (..., n), or (shifts, ..., n); ``residual`` |b - A x| as the recursion knows it (...); products spent."""

    x: Array
    residual: Array
    products: int


def conjugate_gradients(matvec: Matvec, right: Array, *, steps: int, tolerance: float = 0.0) -> Solution:
    """Solves A x = b for a positive definite A from x = 0.

    Stops after ``steps`` products or when every run has |b - A x| <= tolerance |b|. A run that meets a direction with
    d·Ad <= 0 (A is not positive definite) keeps the x it has.

    Raises a ValueError for a ``right`` that is not a finite floating array, ``steps`` below 1, a negative tolerance.

    Cost: one product per step. Memory: 4 vectors. Source: Hestenes & Stiefel (1952).
    """
    zero_shift = namespace(right).zeros((1,), dtype=right.dtype, device=backend_of(right).device)
    found = multi_shift_cg(matvec, right, zero_shift, steps=steps, tolerance=tolerance)
    return Solution(found.x[0, ...], found.residual, found.products)


def multi_shift_cg(matvec: Matvec, right: Array, shifts: Array, *, steps: int, tolerance: float = 0.0) -> Solution:
    """Solves (A + t_j I) x_j = b for all shifts t_j >= 0 at once, in the one Krylov space they share.

    Parameters
    ----------
    matvec : v -> A v, (..., n) -> (..., n), A positive semi-definite.
    right : b, (..., n).
    shifts : t, (J,), each at least zero.
    steps, tolerance : as in :func:`conjugate_gradients`; the residual is that of the smallest shift, the slowest.

    Returns
    -------
    Solution
        ``x`` of shape (J, ..., n).

    Raises
    ------
    ValueError
        As :func:`conjugate_gradients`; shifts that are not (J,), negative or not finite.

    Notes
    -----
    Cost: one product per step, whatever J. Memory: 2J + 3 vectors. The shifted residuals stay multiples zeta_j r of the
    residual of the seed (the smallest shift), so each shift costs vector updates only.

    Source: Frommer & Maass (1999); Jegerlehner (1996), with the smallest shift as seed.
    """
    check_vector("right", right)
    check_vector("shifts", shifts)
    check_count("steps", steps)
    check_positive("tolerance", tolerance, zero_allowed=True)
    xp = namespace(right)
    if shifts.ndim != 1 or bool(xp.any(shifts < 0)):
        raise ValueError(f"shifts must be (J,) and at least zero, got {shifts!r}")
    count, batch = shifts.shape[0], right.ndim - 1
    seed = xp.min(shifts)
    relative = xp.reshape(shifts - seed, (count, *(1,) * batch))
    r = right
    d, rr = r, dot(r, r)
    x = xp.zeros((count, *right.shape), dtype=right.dtype, device=backend_of(right).device)
    directions = x + right
    one = xp.ones_like(rr)
    zeta = xp.zeros_like(relative * rr) + one
    zeta_before, step_before, factor_before = zeta, one, xp.zeros_like(rr)
    # Below rounding the residual says nothing.
    target = (max(tolerance, machine_epsilon(right)) * norm(right)) ** 2
    counting = CountingMatvec(matvec)
    for _ in range(steps):
        alive = rr > target
        if not bool(xp.any(alive)):
            break
        a_d = counting(d) + seed * d
        curvature = dot(d, a_d)
        alive = alive & (curvature > 0)
        step = xp.where(alive, rr / xp.where(alive, curvature, one), xp.zeros_like(rr))
        # zeta_j of the next residual, by the three-term recurrence of the Lanczos polynomials.
        below = step * factor_before * (zeta_before - zeta) + zeta_before * step_before * (1.0 + step * relative)
        above = zeta * zeta_before * step_before
        safe = xp.where(below == 0, xp.ones_like(below), below)
        ratio = xp.where(below == 0, xp.zeros_like(below), above / safe)
        zeta_next = xp.where(alive, ratio, zeta)
        shifted_step = step * _quotient(zeta_next, zeta)
        x = x + shifted_step[..., None] * directions
        r_next = r - step[..., None] * a_d
        rr_next = xp.where(alive, dot(r_next, r_next), rr)
        factor = xp.where(alive, rr_next / xp.where(alive, rr, one), xp.zeros_like(rr))
        shifted_factor = factor * _quotient(zeta_next, zeta) ** 2
        r = xp.where(alive[..., None], r_next, r)
        d = r + factor[..., None] * d
        directions = zeta_next[..., None] * r + shifted_factor[..., None] * directions
        zeta_before, zeta, rr = zeta, zeta_next, xp.where(alive, rr_next, target * 0)
        step_before, factor_before = xp.where(alive, step, one), factor
    return Solution(x, norm(r), counting.products)


def minres(matvec: Matvec, right: Array, *, steps: int, tolerance: float = 0.0) -> Solution:
    """Solves A x = b for a symmetric, possibly indefinite A from x = 0: least |b - A x| in the Krylov space.

    Parameters and errors as in :func:`conjugate_gradients`. The residual never grows. For a singular A with b
    outside its range, stop early: once the Krylov space is exhausted, x may be huge.

    Cost: one product per step. Memory: 7 vectors. Without reorthogonalization. Source: Paige & Saunders (1975).
    """
    check_vector("right", right)
    check_count("steps", steps)
    check_positive("tolerance", tolerance, zero_allowed=True)
    xp = namespace(right)
    counting = CountingMatvec(matvec)
    size = norm(right)
    zero, zeros = xp.zeros_like(size), xp.zeros_like(right)
    q, before, beta = normalized(right, size), zeros, zero
    x, w, w_before = zeros, zeros, zeros
    # The QR factorization of T by Givens rotations: two rotations act on each new column.
    cosine, sine, cosine_before, sine_before = -xp.ones_like(size), zero, -xp.ones_like(size), zero
    residual, alive = size, size > 0
    scale = zero
    for _ in range(steps):
        if not bool(xp.any(alive & (residual > tolerance * size))):
            break
        v = counting(q)
        alpha = dot(q, v)
        v = v - alpha[..., None] * q - beta[..., None] * before
        beta_next = norm(v)
        scale = xp.maximum(scale, xp.maximum(xp.abs(alpha), beta_next))
        # Column of T: (0 … 0, beta, alpha, beta_next). Rotate its first two entries with the two last rotations.
        top = sine_before * beta
        middle = -cosine_before * beta
        above = cosine * middle + sine * alpha
        diagonal = sine * middle - cosine * alpha
        length = norm(xp.stack([diagonal, beta_next], axis=-1))
        usable = alive & (length > 0)
        safe = xp.where(usable, length, xp.ones_like(length))
        cosine_next, sine_next = diagonal / safe, beta_next / safe
        w_next = (q - above[..., None] * w - top[..., None] * w_before) / safe[..., None]
        x = xp.where(usable[..., None], x + (cosine_next * residual)[..., None] * w_next, x)
        residual = xp.where(usable, sine_next * residual, residual)
        w_before, w = w, xp.where(usable[..., None], w_next, zeros)
        cosine_before, sine_before, cosine, sine = cosine, sine, cosine_next, sine_next
        alive = usable & (beta_next > 100 * machine_epsilon(beta_next) * scale)
        before, q, beta = q, normalized(v, xp.where(alive, beta_next, zero)), beta_next
    return Solution(x, xp.abs(residual), counting.products)


def _quotient(above: Array, below: Any) -> Array:
    xp = namespace(above)
    usable = below != 0
    return xp.where(usable, above / xp.where(usable, below, xp.ones_like(below)), xp.zeros_like(above))
