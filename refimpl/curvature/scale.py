"""Choosing V: the series for |H|^{-1} converges where V > h^2/2 for the largest |h|, and is fastest just above h^2.

Every rule returns V, one number per run (...). What each promises:

==============  ====================================  ==============================================  ===============
rule            V                                     promise                                         products
==============  ====================================  ==============================================  ===============
a number        yours                                 none                                            0
ratio           max(V, |H^2 g|/|g|)                   none: it is at most the largest h^2             2, shared
trace           n (tr H)^2                            only if H is positive semi-definite             n, or samples
frobenius       tr H^2 = sum_j |H e_j|^2              always at least the largest h^2                 n, or samples
power           Rayleigh quotient of H^2, × safety    none (from below); good after some iterations   2 per iteration
lanczos         (theta + r)^2 × safety                almost always; 8 products suffice in practice   steps
==============  ====================================  ==============================================  ===============

theta is the largest |Ritz value| of H and r the length of its residual.
"""

from __future__ import annotations

from typing import Any

from refimpl.arrays import Array, as_generator, backend_of, check_count, check_positive, dot, namespace, norm
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.operators import Matvec, check_vector, unit_vectors
from refimpl.curvature.spectrum import eigen


def ratio_scale(gradient: Array, square_product: Array, previous: Array) -> Array:
    """max(previous, |H^2 g| / |g|), the rule of the series paper; ``previous`` where g = 0 or the ratio is not finite.

    Parameters
    ----------
    gradient, square_product : g and H^2 g, (..., n).
    previous : V so far, (...).

    Notes
    -----
    The ratio is a weighted mean of the h^2 and so never above the largest; for H = diag(1, 10), g = (1, 1e-3) it gives
    1.005 where more than 50 is needed. Its guarantee is an inequality in the wrong direction.

    Source: series paper, sec. 3.4, eqs. 45-47 and algorithm 1.

    >>> import numpy as np
    >>> g = np.array([1.0, 1e-3])
    >>> round(float(ratio_scale(g, np.array([1.0, 100.0]) * g, np.asarray(0.0))), 3)
    1.005
    """
    xp = namespace(gradient)
    size = norm(gradient)
    known = size > 0
    ratio = norm(square_product) / xp.where(known, size, xp.ones_like(size))
    return xp.where(known & xp.isfinite(ratio), xp.maximum(previous, ratio), previous)


def trace_scale(matvec: Matvec, like: Array, *, samples: int | None = None, rng: Any = 0) -> Array:
    """n (tr H)^2, the paper's bound; valid only where H is positive semi-definite (and then (tr H)^2 is enough).

    Parameters
    ----------
    matvec : v -> H v. like : any vector (..., n) of the right shape, library and dtype.
    samples : None for the exact trace (n products), or the number of Rademacher probes of Hutchinson's estimate.
    rng : a NumPy Generator or seed for the probes.

    Source: series paper, eqs. 42-44; Hutchinson (1990).
    """
    trace = _mean_over_probes(matvec, like, samples, rng, dot)
    return float(like.shape[-1]) * trace * trace


def frobenius_scale(matvec: Matvec, like: Array, *, samples: int | None = None, rng: Any = 0) -> Array:
    """tr H^2 = |H|_F^2, at least the largest h^2, and at most n times it. Arguments as for :func:`trace_scale`.

    With ``samples`` it is an unbiased estimate, the mean of |H v|^2 over Rademacher v, and no longer a bound.

    Source: Hutchinson (1990).
    """
    return _mean_over_probes(matvec, like, samples, rng, lambda probe, product: dot(product, product))


def power_scale(matvec: Matvec, start: Array, *, iterations: int = 10, safety: float = 1.5) -> Array:
    """``safety`` times the Rayleigh quotient of H^2 after power iterations from ``start`` (..., n).

    The quotient approaches the largest h^2 from below: without a safety factor the rule fails. A start without a
    component along the top eigenvector never finds it: draw it at random, do not use the gradient.

    Cost: 2 products per iteration. Source: Golub & Van Loan (2013), sec. 8.2.
    """
    quotients = rayleigh_quotients(matvec, start, iterations)
    return check_positive("safety", safety) * quotients[-1]


def rayleigh_quotients(matvec: Matvec, start: Array, iterations: int) -> list[Array]:
    """v·H^2 v / v·v for v = start, H^2 start, …: one number (...) per iteration, never falling. 2 products each."""
    check_vector("start", start)
    check_count("iterations", iterations)
    xp, found, v = namespace(start), [], start
    for _ in range(iterations):
        size = norm(v)[..., None]
        v = v / xp.where(size > 0, size, xp.ones_like(size))
        half = matvec(v)
        found.append(dot(half, half))
        v = matvec(half)
    return found


def lanczos_scale(matvec: Matvec, start: Array, *, steps: int = 8, safety: float = 1.1, checked: bool = True) -> Array:
    """``safety`` times (theta + r)^2: the largest |Ritz value| after ``steps`` Lanczos steps and its residual.

    [theta - r, theta + r] holds an eigenvalue of H up to sign. That it is the largest one is not guaranteed, but
    convergence of the series only needs V > h^2/2, half of what this aims at. Recommended.

    Parameters
    ----------
    matvec : v -> H v. start : (..., n), the gradient or a random vector. safety : positive.
    checked : as in :func:`refimpl.curvature.krylov.lanczos`.

    Notes
    -----
    Cost: ``steps`` products. Source: the residual bound is in Parlett (1998), sec. 4.5 and 13.2.

    >>> import numpy as np
    >>> float(lanczos_scale(lambda v: v * np.array([1.0, 15.0]), np.array([1.0, 1e-6]), steps=2).round(6))
    247.5
    """
    check_positive("safety", safety)
    space = lanczos(matvec, start, steps, checked=checked)
    return safety * magnitude_bound(space.tridiagonal(), space.beta[..., -1]) ** 2


def magnitude_bound(tridiagonal: Array, residual: Array) -> Array:
    """theta + r for T (..., m, m) and beta_m (...): an estimate of max|h| from above in nearly all cases."""
    xp = namespace(tridiagonal)
    values, vectors = eigen(tridiagonal)
    sizes = xp.abs(values) + residual[..., None] * xp.abs(vectors[..., -1, :])
    theta = xp.max(xp.abs(values), axis=-1, keepdims=True)
    return xp.max(xp.where(xp.abs(values) == theta, sizes, xp.zeros_like(sizes)), axis=-1)


def _mean_over_probes(matvec: Matvec, like: Array, samples: int | None, rng: Any, form: Any) -> Array:
    check_vector("like", like)
    if samples is None:
        return sum(form(unit, matvec(unit)) for unit in unit_vectors(like))
    check_count("samples", samples)
    place, generator = backend_of(like), as_generator(rng)
    total = 0.0
    for _ in range(samples):
        probe = place.asarray(2.0 * generator.integers(0, 2, tuple(like.shape)) - 1.0)
        total = total + form(probe, matvec(probe))
    return total / samples
