"""The inverse square root as a power series: |H|^{-1} g from products with H alone.

With Z = I - H^2/V and c_k = binom(2k, k)/4^k, the series paper writes |H|^{-1} = V^{-1/2} sum_k c_k Z^k (eq. 3). Its
K-term sum, applied to g, needs the vectors Z^k g and so 2 (K - 1) products. It converges where H is regular and
V > h^2/2 for the largest |h|. :func:`sum_series` is what a method calls; :func:`partial_sums` is the loop inside it.

Three more series put a damping d in: ``"abs"`` gives (|H| + d)^{-1}, ``"square"`` (H^2 + d^2)^{-1/2}, and ``"shift"``
|H + d|^{-1}, which is singular at an eigenvalue -d and kept only to show that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from refimpl.arrays import Array, all_finite, backend_of, check_count, dot, get_backend, namespace, norm
from refimpl.curvature.acceleration import AcceleratorName, accelerator, check_accelerator
from refimpl.curvature.operators import (
    CountingMatvec,
    Matvec,
    check_damping,
    check_per_run,
    check_vector,
    is_number,
)

Mode = Literal["none", "abs", "square", "shift"]
MARGIN = 1.1
"""How far above a ratio that proved V too small the next V is put."""


class Term(NamedTuple):
    """One term of the series: ``power`` is Z^k g (..., n), ``total`` the sum of the terms 0 … k (unscaled: the series
    is ``total / sqrt(V)``), ``ratio`` is |H^2 Z^{k-1} g| / |Z^{k-1} g| (...), zero for k = 0."""

    total: Array
    power: Array
    ratio: Array


class SeriesSum(NamedTuple):
    """What :func:`sum_series` found.

    direction : approximation of |H|^{-1} g, (..., n). plain : the same without acceleration.
    scale : the V that was used in the end, (...). products : Hessian products spent.
    restarts : how often V proved too small. fell_back : where the plain sum was taken instead, (...).
    """

    direction: Array
    plain: Array
    scale: Array
    products: int
    restarts: int
    fell_back: Array


def sum_series(
    matvec: Matvec,
    gradient: Array,
    *,
    terms: int,
    scale: Any,
    damping: Any = 0.0,
    mode: Mode = "none",
    accelerate: AcceleratorName | None = None,
    order: int = 0,
    strided: bool = False,
    guard: bool = True,
    first_products: tuple[Array, Array] | None = None,
    checked: bool = True,
) -> SeriesSum:
    """The saddle-free direction from ``terms`` terms of the series.

    Parameters
    ----------
    matvec : v -> H v, (..., n) -> (..., n).
    gradient : g, (..., n).
    terms : K, at least 1. With 1 the direction is c_0 g / sqrt(V).
    scale : V, a positive number or an array (...). See :mod:`refimpl.curvature.scale` for how to choose it.
    damping : d, at least zero, a number or an array (...).
    mode : ``"none"``, ``"abs"``, ``"square"`` or ``"shift"``, see the head of this module.
    accelerate : None or a name of :data:`refimpl.curvature.acceleration.ACCELERATORS`.
    order : N, how often the sequence is accelerated; 0 for none. K >= 2N + 1 for the epsilon family.
    strided : take the sums that the accelerator sees from the whole sequence, evenly spaced, instead of the last ones.
    guard : watch |H^2 z| / |z| along the series. Where it exceeds V, V is certainly below the largest h^2: the sum
        starts again with 1.1 times that ratio. And where an accelerated direction is not finite or not uphill
        (direction·g <= 0), the plain sum is returned.
    first_products : (H g, H^2 g) where the caller has them already (the ratio rule for V needs them).
    checked : False skips the checks at the door; a run that is not finite then gives NaN. Without a guard, nothing is
        read back to the host.

    Returns
    -------
    SeriesSum
        A gradient of zero gives a direction of zero.

    Raises
    ------
    ValueError
        A gradient that is not a finite floating array; K, N, V, d, mode or accelerator out of range; an order that
        K is too short for.

    Notes
    -----
    Cost: 2 (K - 1) products without a restart. Memory: the state Z^k g and the sum, and what the accelerator keeps
    (at most 2N + 1 vectors for the epsilon family). With ``guard`` one number per term after the first is
    read back to the host.

    Source: series paper, eqs. 3-5 and algorithm 1. The guard and the damped coefficients are ours.

    >>> import numpy as np
    >>> H, g = np.diag([1.0, -2.0]), np.ones(2)
    >>> sum_series(lambda v: v @ H, g, terms=60, scale=4.0).direction.round(6).tolist()
    [1.0, 0.5]
    """
    if checked:
        check_vector("gradient", gradient)
        check_count("terms", terms)
        check_damping(damping, mode)
        check_accelerator(accelerate, order, terms)
        check_per_run("scale", scale, gradient)
        check_per_run("damping", damping, gradient, zero_allowed=True)
    xp, batch = namespace(gradient), tuple(gradient.shape[:-1])
    v, delta = _per_run(scale, gradient), _per_run(damping, gradient)
    if mode == "shift":
        first_products = None  # they belong to another matrix
    counting, restarts = CountingMatvec(matvec), 0
    while True:
        # A new table each time: after a restart the old rows belong to another series.
        table = accelerator(accelerate, order, terms, strided=strided) if accelerate and order else None
        too_small, exceeded = xp.zeros(batch, dtype=xp.bool, device=backend_of(gradient).device), False
        ratio = xp.zeros_like(v)
        total, first = gradient, True
        for term in partial_sums(
            counting, gradient, terms=terms, scale=v, damping=delta, mode=mode, first_products=first_products
        ):
            total, ratio = term.total, term.ratio
            if guard and not first:  # the first term has no ratio
                too_small = (ratio > v) & xp.isfinite(ratio)
                exceeded = bool(xp.any(too_small))
                if exceeded:
                    break
            first = False
            if table is not None:
                table.push(total)
        if not exceeded:
            break
        v = xp.where(too_small, MARGIN * ratio, v)
        restarts += 1
    root = xp.sqrt(v)[..., None]
    plain = total / root
    direction, fell_back = plain, xp.zeros(batch, dtype=xp.bool, device=backend_of(gradient).device)
    if table is not None:
        direction = table.value() / root
        if guard:
            usable = xp.isfinite(norm(direction)) & (dot(direction, gradient) > 0)
            fell_back = ~usable & xp.any(gradient != 0, axis=-1)
            direction = xp.where(usable[..., None], direction, plain)
    spent = counting.products + (2 if first_products is not None else 0)
    return SeriesSum(direction, plain, v, spent, restarts, fell_back)


def partial_sums(
    matvec: Matvec,
    gradient: Array,
    *,
    terms: int,
    scale: Array,
    damping: Array | float = 0.0,
    mode: Mode = "none",
    first_products: tuple[Array, Array] | None = None,
) -> Iterator[Term]:
    """The partial sums s_0, s_1, …, s_{K-1} of the series as they are produced; divide by sqrt(V) for |H|^{-1} g.

    Arguments as for :func:`sum_series`, with ``scale`` and ``damping`` arrays (...) or numbers; nothing is checked.
    One vector of state: z_k = Z^k g. Two products for each term after the first.
    """
    xp = namespace(gradient)
    v = _wide(gradient, scale)
    delta = _wide(gradient, damping)
    weights = _weights(terms, gradient, scale, damping, mode)
    z, total = gradient, weights[0] * gradient
    yield Term(total, z, xp.zeros(tuple(gradient.shape[:-1]), dtype=gradient.dtype, device=backend_of(z).device))
    for k in range(1, terms):
        squared = _square_product(matvec, z, delta, mode, first_products if k == 1 else None)
        ratio = _ratio(squared, z)
        z = z - squared / v
        total = total + weights[k] * z
        yield Term(total, z, ratio)


def coefficients(terms: int, damping: Any = 0.0) -> Array:
    """The coefficients c_0 … c_{K-1} of 1/(sqrt(1 - z) + d), (terms, ...) for ``damping`` (...); NumPy for a number.

    For d = 0 they are binom(2k, k)/4^k, by c_k = c_{k-1} (2k - 1)/(2k). For d > 0, comparing coefficients in
    (sqrt(1 - z) + d) sum_k c_k z^k = 1, where sqrt(1 - z) = 1 - sum_{j>0} |b_j| z^j with b_j = binom(1/2, j) (-1)^j,
    gives

        c_0 = 1/(1 + d),   c_k = sum_{j=1}^{k} |b_j| c_{k-j} / (1 + d)

    Every number in it is positive, so nothing cancels. The shorter recursion (d^2 - 1) c_k = -(c_{k-1} + b_k) is
    not used: run forward, its rounding errors grow like |1 - d^2|^{-k}, and d = 1 divides by zero. All coefficients are
    bounded by those of d = 0.

    Raises
    ------
    ValueError
        Fewer than one term; a damping that is negative or not finite.

    Source: series paper, eq. 2 (d = 0); d > 0 is ours.

    >>> coefficients(4).tolist()
    [1.0, 0.5, 0.375, 0.3125]
    >>> coefficients(3, 1.0).round(12).tolist()
    [0.5, 0.125, 0.0625]
    """
    check_count("terms", terms)
    d = get_backend().asarray(float(damping)) if is_number(damping) else damping
    if not all_finite(d) or bool(namespace(d).any(d < 0)):
        raise ValueError(f"damping must be finite and at least zero, got {damping!r}")
    return _coefficients(terms, d)


def _coefficients(terms: int, d: Array) -> Array:
    xp = namespace(d)
    roots = [-b for b in _root_coefficients(terms)]
    found = [1.0 / (1.0 + d)]
    for k in range(1, terms):
        found.append(sum(roots[j] * found[k - j] for j in range(1, k + 1)) / (1.0 + d))
    return xp.stack(found)


def _undamped_coefficients(terms: int) -> list[float]:
    c = [1.0]
    for k in range(1, terms):
        c.append(c[-1] * (2 * k - 1) / (2 * k))
    return c


def _root_coefficients(terms: int) -> list[float]:
    # sqrt(1 - z) = sum b_k z^k: 1, -1/2, -1/8, …
    b = [1.0]
    for k in range(1, terms):
        b.append(b[-1] * (2 * k - 3) / (2 * k))
    return b


def _weights(terms: int, gradient: Array, scale: Any, damping: Any, mode: str) -> list[Any]:
    # One weight per term, each a number or (..., 1).
    if mode != "abs":
        return _undamped_coefficients(terms)
    v, delta = _wide(gradient, scale), _wide(gradient, damping)
    weights = _coefficients(terms, delta / namespace(gradient).sqrt(v))
    return [weights[k, ...] for k in range(terms)]


def _square_product(matvec: Matvec, z: Array, delta: Array, mode: str, known: tuple[Array, Array] | None) -> Array:
    if mode == "shift":
        shifted: Callable[[Array], Array] = lambda w: matvec(w) + delta * w  # noqa: E731
        return shifted(shifted(z))
    squared = matvec(matvec(z)) if known is None else known[1]
    return squared + delta * delta * z if mode == "square" else squared


def _ratio(squared: Array, z: Array) -> Array:
    xp = namespace(z)
    size = norm(z)
    return xp.where(size > 0, norm(squared) / xp.where(size > 0, size, xp.ones_like(size)), xp.zeros_like(size))


def _wide(gradient: Array, value: Any) -> Array:
    # (..., 1), so that it multiplies vectors.
    return _per_run(value, gradient)[..., None]


def _per_run(value: Any, gradient: Array) -> Array:
    xp, batch = namespace(gradient), tuple(gradient.shape[:-1])
    if is_number(value):
        return xp.full(batch, float(value), dtype=gradient.dtype, device=backend_of(gradient).device)
    return xp.broadcast_to(value, batch)
