"""|H|^{-1} g by every route, behind one function: :func:`inverse_abs_apply`.

Which to call: leave ``method`` as it is. ``"auto"`` takes Lanczos, in its ``sv`` form without damping. It needs no
scale, no interval and no order, does not diverge, and at equal numbers of products it is the most accurate route on
the spectra of networks (chapter 6); on featureless spectra a series with a good scale ties with it for small budgets,
and ``chebyshev`` is ahead if the interval is exact.

===============  ====================================  ==========================  ===============================
method           what it computes with b products      vectors in memory           needs to know
===============  ====================================  ==========================  ===============================
``exact``        n products, eigendecomposition        n (and O(n^3) time)         nothing
``series``       K = b/2 + 1 terms, N accelerations    2N + 5                      V > h^2/2
``lanczos``      f(T) from b Lanczos steps             b + 3                       nothing; damping advised
``lanczos_sv``   f(sqrt(Q H^2 Q^T)), b steps           b + 3                       nothing; safe without damping
``chebyshev``    polynomial of degree b/2 in H^2       5                           an interval that holds the |h|
``quadrature``   J poles, b/2 steps of multi-shift CG  2J + 3                      an interval that holds the |h|
===============  ====================================  ==========================  ===============================
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

from scipy import special

from refimpl.arrays import Array, backend_of, check_count, check_positive, namespace
from refimpl.curvature.acceleration import AcceleratorName, rows_needed
from refimpl.curvature.krylov import Lanczos, lanczos
from refimpl.curvature.linear_systems import multi_shift_cg
from refimpl.curvature.operators import (
    CountingMatvec,
    Matvec,
    check_damping,
    check_per_run,
    check_vector,
    dense,
    is_number,
)
from refimpl.curvature.scale import lanczos_scale, magnitude_bound
from refimpl.curvature.series import sum_series
from refimpl.curvature.spectrum import Spectrum, apply, eigen, inverse_magnitudes

Method = Literal["auto", "exact", "series", "lanczos", "lanczos_sv", "chebyshev", "quadrature"]
Mode = Literal["none", "abs", "square"]


class Applied(NamedTuple):
    """``direction`` (..., n); Hessian ``products`` spent; ``vectors`` of length n held at the same time (besides g);
    the ``method`` that was used."""

    direction: Array
    products: int
    vectors: int
    method: str


def inverse_abs_apply(
    hvp: Matvec,
    gradient: Array,
    *,
    products: int = 16,
    damping: Any = 0.0,
    mode: Mode | None = None,
    method: Method = "auto",
    scale: Any = None,
    accelerate: AcceleratorName | None = "sablonniere",
    order: int | None = None,
    interval: tuple[float, float] | None = None,
    poles: int = 12,
) -> Applied:
    """The saddle-free direction |H|^{-1} g, or its damped form, from products with H.

    Parameters
    ----------
    hvp : v -> H v, (..., n) -> (..., n); ``point.hvp``.
    gradient : g, (..., n). A run with g = 0 gets zero.
    products : b, the budget of Hessian products, at least 1 (``exact`` uses n whatever b is).
    damping : d, a number at least zero, or an array (...) for the Lanczos routes, ``series`` and ``exact``.
    mode : ``"none"``: |H|^{-1}; ``"abs"``: (|H| + d)^{-1}; ``"square"``: (H^2 + d^2)^{-1/2}. None takes ``"square"``
        where a damping is given, because every polynomial route converges geometrically then.
    method : see the head of this module.
    scale : V of the series; None takes :func:`refimpl.curvature.scale.lanczos_scale`, whose 8 products come on top.
    accelerate, order : accelerator of the series and its N; None takes the largest that K carries, at most 8.
    interval : bounds of the |h| for ``chebyshev`` and ``quadrature``. None takes zero (the damping, for ``quadrature``)
        and a Lanczos bound with 8 further products; without damping it must be given.
    poles : J of ``quadrature``.

    Returns
    -------
    Applied
        A descent direction is the negative of ``direction``.

    Raises
    ------
    ValueError
        A gradient that is not a finite floating array; knobs out of range or that contradict each other;
        ``quadrature`` with mode ``"abs"``; no interval where one is needed.

    Notes
    -----
    Sources: series paper, eqs. 3-5 (``series``); Lanczos approximation f(H) g = |g| Q^T f(T) e_1: Higham (2008),
    sec. 13.2; ``quadrature``: Hale, Higham & Trefethen (2008), method 2 for A^{-1/2}.

    >>> import numpy as np
    >>> H = np.diag([4.0, -2.0, 1.0])
    >>> inverse_abs_apply(lambda v: v @ H, np.ones(3), products=3).direction.round(12).tolist()
    [0.25, 0.5, 1.0]
    """
    check_vector("gradient", gradient)
    check_count("products", products)
    if method not in get_args(Method):
        raise ValueError(f"unknown method {method!r}; choose one of {list(get_args(Method))}")
    damped = not is_number(damping) or damping != 0
    chosen: Any = mode if mode is not None else ("square" if damped else "none")
    check_damping(damping, chosen, get_args(Mode))
    check_per_run("damping", damping, gradient, zero_allowed=True)
    if is_number(damping):
        damping = float(damping)
    if chosen == "none":
        damping = 0.0
    if method == "auto":
        method = "lanczos" if damped else "lanczos_sv"
    counting = CountingMatvec(hvp)
    run: Callable[[], tuple[Array, int]] = {
        "exact": lambda: _exact(counting, gradient, chosen, damping),
        "series": lambda: _series(counting, gradient, products, chosen, damping, scale, accelerate, order),
        "lanczos": lambda: _lanczos(counting, gradient, products, chosen, damping, lanczos_function),
        "lanczos_sv": lambda: _lanczos(counting, gradient, products, chosen, damping, lanczos_sv_function),
        "chebyshev": lambda: _chebyshev(counting, gradient, products, chosen, damping, interval),
        "quadrature": lambda: _quadrature(counting, gradient, products, chosen, damping, interval, poles),
    }[method]
    direction, vectors = run()
    return Applied(direction, counting.products, vectors, method)


def lanczos_function(
    space: Lanczos, *, mode: str = "none", damping: Any = 0.0, spectrum: Spectrum | None = None
) -> Array:
    """|g| Q^T f(T) e_1 with f(t) = 1/|t|, 1/(|t| + d) or 1/sqrt(t^2 + d^2): (..., n). No products.

    Undamped and with an indefinite H, a Ritz value may fall near zero where H has no eigenvalue: the error then
    spikes, and :func:`lanczos_sv_function` does not. ``spectrum`` is that of T where the caller has it.

    Source: Higham (2008), sec. 13.2.
    """
    values, vectors = eigen(space.tridiagonal()) if spectrum is None else spectrum
    return _combine(space, values, vectors, mode, damping)


def lanczos_sv_function(space: Lanczos, *, mode: str = "none", damping: Any = 0.0) -> Array:
    """|g| Q^T f(S^{1/2}) e_1 with S = Q H^2 Q^T from the singular values of the extended T: (..., n). No products.

    The singular values of the (m + 1) × m matrix are never below the smallest |h|, so nothing spikes.
    """
    xp = namespace(space.alpha)
    extended = space.extended()
    # Some libraries raise on NaN: they never see one.
    sound = xp.all(xp.all(xp.isfinite(extended), axis=-1), axis=-1)
    _, values, right = xp.linalg.svd(
        xp.where(sound[..., None, None], extended, xp.zeros_like(extended)), full_matrices=False
    )
    values = xp.where(sound[..., None], values, xp.full_like(values, float("nan")))
    return _combine(space, values, xp.matrix_transpose(right), mode, damping)


def _combine(space: Lanczos, values: Array, vectors: Array, mode: str, damping: Any) -> Array:
    xp = namespace(values)
    factors = inverse_magnitudes(values, mode=mode, damping=damping)  # type: ignore[arg-type]
    weights = xp.matmul(vectors, (factors * vectors[..., 0, :])[..., None])[..., 0]
    return space.start_norm[..., None] * space.combine(weights)


def _exact(hvp: Matvec, gradient: Array, mode: Any, damping: Any) -> tuple[Array, int]:
    spectrum = eigen(dense(hvp, gradient))
    factors = inverse_magnitudes(spectrum.eigenvalues, mode=mode, damping=damping)
    return apply(spectrum, factors, gradient), 2 * gradient.shape[-1]


def _series(
    hvp: Matvec, gradient: Array, products: int, mode: Any, damping: Any, scale: Any, accelerate: Any, order: Any
) -> tuple[Array, int]:
    terms = products // 2 + 1
    if order is None:
        carried = [n for n in range(9) if accelerate and rows_needed(accelerate, n) <= terms]
        order = max(carried, default=0)
    if scale is None:
        scale = lanczos_scale(hvp, gradient)
        xp = namespace(gradient)
        scale = xp.where(scale > 0, scale, xp.ones_like(scale))
    found = sum_series(
        hvp, gradient, terms=terms, scale=scale, damping=damping, mode=mode, accelerate=accelerate, order=order
    )
    return found.direction, (rows_needed(accelerate, order) if accelerate and order else 0) + 4


def _lanczos(
    hvp: Matvec, gradient: Array, products: int, mode: Any, damping: Any, function: Callable[..., Array]
) -> tuple[Array, int]:
    space = lanczos(hvp, gradient, products)
    return function(space, mode=mode, damping=damping), space.basis.shape[-2] + 3


def _chebyshev(
    hvp: Matvec, gradient: Array, products: int, mode: Any, damping: Any, interval: Any
) -> tuple[Array, int]:
    low, high = _bounds(hvp, gradient, mode, damping, interval)
    degree = products // 2
    middle, half = 0.5 * (high**2 + low**2), 0.5 * (high**2 - low**2)
    weights = chebyshev_coefficients(low, high, degree, mode=mode, damping=damping)

    def mapped(v: Array) -> Array:
        return (hvp(hvp(v)) - middle * v) / half

    before, now = gradient, gradient
    total = weights[0] * gradient
    for k in range(1, degree + 1):
        before, now = now, (mapped(now) if k == 1 else 2.0 * mapped(now) - before)
        total = total + weights[k] * now
    return total, 5


def chebyshev_coefficients(
    low: float, high: float, degree: int, *, mode: Mode = "none", damping: float = 0.0
) -> list[float]:
    """a_0 … a_degree with 1/sqrt(z) (or its damped form, of h = sqrt(z)) ≈ sum_k a_k T_k on [low^2, high^2].

    T_k are the Chebyshev polynomials of the argument mapped to [-1, 1]. Each a_k is an integral over an angle t, at
    which z = low^2 + (high^2 - low^2) sin^2(t/2); where high/low is large the integrand peaks at t = 0, and equally
    spaced nodes would alias. The panels of this Gauss rule grow with t instead: all digits at any condition number.

    Raises a ValueError unless 0 <= low < high, ``degree`` is a whole number of at least zero, mode and damping fit each
    other, and low or damping is positive (else the expansion does not exist).

    Source: Trefethen (2013), ch. 3 and 4.

    >>> [round(a, 4) for a in chebyshev_coefficients(1.0, 2.0, 2)]
    [0.6864, -0.2322, 0.0583]
    """
    check_positive("low", low, zero_allowed=True)
    check_positive("high", high)
    check_count("degree", degree, minimum=0)
    if low >= high:
        raise ValueError(f"low must be below high, got {low!r} and {high!r}")
    check_positive("damping", damping, zero_allowed=True)
    check_damping(damping, mode, get_args(Mode))
    if low == 0 and damping == 0:
        raise ValueError("low is 0.0: without damping the interval must keep away from zero")
    size = {"none": lambda h: h, "abs": lambda h: h + damping, "square": lambda h: math.hypot(h, damping)}[mode]
    width, longest = math.sqrt(high - low) * math.sqrt(high + low), min(16.0 / (degree + 1), math.pi)
    rule: list[tuple[float, float]] = []  # angles, and weights times values
    nodes = list(zip(*(found.tolist() for found in special.roots_legendre(24)), strict=True))
    start, end = 0.0, min(max((low or damping) / high, 1e-300), longest)
    while start < math.pi:
        for x, weight in nodes:
            t = 0.5 * (start + end) + 0.5 * (end - start) * x
            rule.append((t, (end - start) / math.pi * weight / size(math.hypot(low, width * math.sin(0.5 * t)))))
        start, end = end, min(2.0 * end, end + longest, math.pi)
    sums = [(-1) ** k * sum(value * math.cos(k * t) for t, value in rule) for k in range(degree + 1)]
    return [0.5 * sums[0], *sums[1:]]


def _quadrature(
    hvp: Matvec, gradient: Array, products: int, mode: Any, damping: Any, interval: Any, poles: int
) -> tuple[Array, int]:
    if mode == "abs":
        raise ValueError("method 'quadrature' computes (H^2 + d^2)^{-1/2}: choose mode 'square' or 'none'")
    if products < 2:
        raise ValueError(f"method 'quadrature' needs at least 2 products, got {products}")
    low, high = _bounds(hvp, gradient, mode, damping, interval)
    shift = float(damping) ** 2
    nodes, weights = inverse_root_quadrature(max(low**2 + shift, 1e-300), high**2 + shift, poles)
    place = backend_of(gradient)
    shifts = place.asarray([shift + node for node in nodes])
    solution = multi_shift_cg(lambda v: hvp(hvp(v)), gradient, shifts, steps=products // 2)
    total = 0.0 * gradient
    for j, weight in enumerate(weights):
        total = total + weight * solution.x[j, ...]
    return total, 2 * poles + 3


def inverse_root_quadrature(low: float, high: float, poles: int) -> tuple[list[float], list[float]]:
    """Shifts t_j and weights w_j with a^{-1/2} ≈ sum_j w_j / (a + t_j) for a in [low, high]: (J,), (J,).

    The error falls geometrically in J: for high/low = 1e4 (a condition number of 100), 6 poles give 1e-3 and 18 give
    1e-12.

    Raises a ValueError unless 0 < low <= high and J >= 1.

    Source: Hale, Higham & Trefethen (2008), method 2, in the form of the series' partial fractions with
    k'^2 = 1 - low/high and elliptic functions at the midpoints.

    >>> shifts, weights = inverse_root_quadrature(1.0, 100.0, 8)
    >>> round(sum(w / (25.0 + t) for w, t in zip(weights, shifts)), 6)
    0.2
    """
    check_positive("low", low)
    check_positive("high", high)
    check_count("poles", poles)
    if low > high:
        raise ValueError(f"low must be at most high, got {low!r} and {high!r}")
    parameter = 1.0 - low / high
    quarter = float(special.ellipk(parameter))
    shifts, weights = [], []
    for j in range(poles):
        sn, cn, dn, _ = (float(value) for value in special.ellipj((j + 0.5) * quarter / poles, parameter))
        shifts.append(low * (sn / cn) ** 2)
        weights.append(2.0 / math.pi * math.sqrt(low) * dn / cn**2 * quarter / poles)
    return shifts, weights


def _bounds(hvp: Matvec, gradient: Array, mode: str, damping: Any, interval: Any) -> tuple[float, float]:
    if not isinstance(damping, int | float):
        raise ValueError("methods 'chebyshev' and 'quadrature' take one number for the damping, not an array")
    if interval is not None:
        if not isinstance(interval, tuple | list) or len(interval) != 2:
            raise ValueError(f"interval must be (low, high), got {interval!r}")
        low = check_positive("interval[0]", interval[0], zero_allowed=True)
        high = check_positive("interval[1]", interval[1])
        if low >= high:
            raise ValueError(f"interval must be (low, high) with low < high, got {interval!r}")
        if low == 0 and mode == "none":
            raise ValueError("without damping the interval must keep away from zero")
        return low, high
    if mode == "none":
        raise ValueError("without damping give interval=(low, high), bounds of the magnitudes of H's eigenvalues")
    space = lanczos(hvp, gradient, 8)
    bound = magnitude_bound(space.tridiagonal(), space.beta[..., -1])
    high = 1.05 * float(namespace(bound).max(bound))
    return 0.0, high if high > 0 else 1.0
