"""Routes to |H|^{-1} g compared at equal numbers of Hessian products (chapter 6, ``make bench``).

:func:`errors_at` says how good the answer of a route is after b products, :func:`products_needed` how many products it
takes to be that good. Both walk along one run of the route instead of starting it again for each b. What each route is
granted, and what its products are:

=======================  ==========================================================================================
``series``               V = 1.01 max h^2, which a user does not know; K = b/2 + 1 terms
``shanks``               the same V, and of all orders N <= min(12, (K - 1)/2) the one whose error is smallest
``sablonniere``          the same, with the other weights
``shanks-default``       nothing: V from 8 Lanczos products, which count; N = min(8, (K - 1)/2)
``sablonniere-default``  the same, with the other weights: ``inverse_abs_apply(method="series")``
``shanks-paper``         nothing: V = max(100, |H^2 g|/|g|); N = min(8, (K - 1)/2); neither guard nor fallback
``chebyshev``            the interval [min|h|, max|h|]; degree b/2 in H^2
``quadrature``           the same interval; 20 poles, b/2 steps of multi-shift CG; no mode ``"abs"``
``lanczos_sv``           nothing; b steps
``lanczos``              nothing; b steps
=======================  ==========================================================================================

So whatever can be granted is granted to the rivals of the last two; the ``default`` rows are the series as a user of
this package would call it, ``shanks-paper`` as the series paper does.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl.arrays import check_count, check_positive, to_numpy
from refimpl.curvature.inverse_abs import Mode, lanczos_function, lanczos_sv_function
from refimpl.curvature.operators import check_damping
from refimpl.curvature.spectrum import apply_inverse_abs
from refimpl.experiments.kernel_routes import (
    Milestone,
    Series,
    relative_error,
    walk_chebyshev,
    walk_lanczos,
    walk_quadrature,
    walk_series,
)
from refimpl.oracle import Point
from refimpl.problems.spectra import FAMILIES, SpectralProblem

__all__ = [
    "ACCELERATED",
    "BUDGETS",
    "CASES",
    "METHODS",
    "SERIES",
    "Series",
    "draws",
    "error_at",
    "error_table",
    "errors_at",
    "exact_direction",
    "methods_for",
    "milestones",
    "problem_at",
    "products_for",
    "products_needed",
    "products_table",
    "relative_error",
]

BUDGETS = (8, 16, 34, 64, 98)
"""Numbers of products at which the routes are compared; 34 is what the series paper's 18 terms cost."""

CASES: tuple[tuple[str, Mode, float], ...] = (
    ("gaussian", "none", 0.0),
    ("gaussian", "abs", 1.0),
    ("logarithmic", "none", 0.0),
    ("logarithmic", "square", 1e-2),
    ("spiked", "abs", 1e-2),
    ("spiked", "square", 1e-2),
)
"""What is compared: family of spectra, mode, damping."""

SERIES = {
    "series": Series(),
    "shanks": Series("shanks"),
    "sablonniere": Series("sablonniere"),
    "shanks-default": Series("shanks", scale="lanczos", order=8, best=False),
    "sablonniere-default": Series("sablonniere", scale="lanczos", order=8, best=False),
    "shanks-paper": Series("shanks", scale="paper", order=8, best=False, guard=False),
}
"""The series routes by name; any other :class:`Series` may stand where a name may."""

METHODS = (*SERIES, "chebyshev", "quadrature", "lanczos_sv", "lanczos")
"""Every route by name."""

ACCELERATED = ("shanks", "sablonniere")
"""The best that the series can do, V and N being given."""


def methods_for(mode: Mode) -> tuple[str, ...]:
    """The routes that exist in this mode: all, but ``quadrature`` not with ``"abs"``."""
    return tuple(name for name in METHODS if mode != "abs" or name != "quadrature")


def error_at(
    problem: SpectralProblem, method: str | Series, products: int, *, mode: Mode = "none", damping: float = 0.0
) -> float:
    """Relative error of a route that may spend ``products`` Hessian products. See :func:`errors_at`."""
    return float(errors_at(problem, method, [products], mode=mode, damping=damping)[0])


def errors_at(
    problem: SpectralProblem,
    method: str | Series,
    budgets: Sequence[int] = BUDGETS,
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    exact: np.ndarray | None = None,
) -> np.ndarray:
    """Relative error of a route for each budget of products: (len(budgets),).

    A budget that the route cannot use up gives what it has with less; NaN where it has no answer yet. ``exact`` is
    :func:`exact_direction`, computed here if it is not given.

    Raises
    ------
    ValueError
        Unknown method; mode and damping that do not fit (:func:`refimpl.curvature.inverse_abs.inverse_abs_apply`);
        ``quadrature`` with mode ``"abs"``; an undamped problem whose smallest |h| is zero, where an interval is needed.

    >>> from refimpl.problems.spectra import logarithmic
    >>> bool(errors_at(logarithmic(n=20), "lanczos", [10, 20])[1] < 1e-10)  # n products are enough
    True
    """
    wanted = [check_count("each budget", b) for b in budgets]
    reached = list(milestones(problem, method, max(wanted, default=1), mode=mode, damping=damping, exact=exact))
    usable = [[m for m in reached if m.products <= b] for b in wanted]
    return np.array([some[-1].error() if some else math.nan for some in usable])


def products_needed(
    problem: SpectralProblem,
    method: str | Series,
    target: float,
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    limit: int = 400,
) -> int | None:
    """The smallest number of products after which the relative error is at most ``target``; None beyond ``limit``.

    The error of some routes may rise again afterwards. Raises a ValueError like :func:`errors_at`, and for a target
    that is not positive.

    >>> from refimpl.problems.spectra import logarithmic
    >>> products_needed(logarithmic(n=20), "lanczos", 1e-6), products_needed(logarithmic(n=20), "series", 1e-6)
    (20, None)
    """
    found = products_for(problem, method, [target], mode=mode, damping=damping, limit=limit)[0]
    return int(found) if math.isfinite(found) else None


def products_for(
    problem: SpectralProblem,
    method: str | Series,
    targets: Sequence[float],
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    limit: int = 400,
    exact: np.ndarray | None = None,
) -> np.ndarray:
    """:func:`products_needed` for several targets along one run: (len(targets),), infinite beyond ``limit``."""
    wanted = np.array([check_positive("each target", target) for target in targets])
    found = np.full(wanted.shape, math.inf)
    if method == "quadrature":
        # Its error falls with every step (all updates of all shifted systems are non-negative combinations of one
        # orthogonal sequence of residuals), so bisection finds the first success.
        reached = list(milestones(problem, method, limit, mode=mode, damping=damping, exact=exact))
        for j, target in enumerate(wanted):
            first = bisect_left(reached, True, key=functools.partial(_reaches, target))
            found[j] = reached[first].products if first < len(reached) else math.inf
        return found
    for milestone in milestones(problem, method, limit, mode=mode, damping=damping, exact=exact):
        left = np.isinf(found)
        if not left.any():
            break
        if milestone.at_least <= wanted[left].max():
            found[left & (milestone.error() <= wanted)] = milestone.products
    return found


def error_table(
    problems: Sequence[SpectralProblem],
    methods: Sequence[str],
    budgets: Sequence[int] = BUDGETS,
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """:func:`errors_at` of each method on each problem: method -> (len(problems), len(budgets))."""
    return _table(errors_at, problems, methods, budgets, progress, mode=mode, damping=damping)


def products_table(
    problems: Sequence[SpectralProblem],
    methods: Sequence[str],
    targets: Sequence[float],
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    limit: int = 400,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """:func:`products_for` of each method on each problem: method -> (len(problems), len(targets))."""
    return _table(products_for, problems, methods, targets, progress, mode=mode, damping=damping, limit=limit)


def exact_direction(problem: SpectralProblem, mode: Mode = "none", damping: float = 0.0) -> np.ndarray:
    """What all routes approximate: (n,), from an eigendecomposition in double precision, whatever the dtype."""
    matrix, gradient = (to_numpy(a).astype(np.float64) for a in (problem.matrix, problem.gradient))
    found: np.ndarray = apply_inverse_abs(matrix, gradient, mode=mode, damping=damping)
    return found


def draws(family: str, seeds: int) -> list[SpectralProblem]:
    """The problems of a family of :mod:`refimpl.problems.spectra` for the seeds 0 … ``seeds`` - 1."""
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; choose one of {sorted(FAMILIES)}")
    return [FAMILIES[family](seed) for seed in range(check_count("seeds", seeds))]


def problem_at(point: Point, name: str = "network") -> SpectralProblem:
    """The Hessian and the gradient of a loss at one place, as a problem for this module. Cost: n products."""
    hessian = point.hessian()
    return SpectralProblem(name, hessian, point.gradient, np.linalg.eigvalsh(to_numpy(hessian)))


def milestones(
    problem: SpectralProblem,
    method: str | Series,
    limit: int,
    *,
    mode: Mode = "none",
    damping: float = 0.0,
    exact: np.ndarray | None = None,
) -> Iterator[Milestone]:
    """Every number of products up to ``limit`` at which a route has a new answer, ascending.

    Raises a ValueError like :func:`errors_at`.
    """
    check_count("limit", limit)
    check_damping(damping, mode, ("none", "abs", "square"))
    route = SERIES.get(method, method) if isinstance(method, str) else method
    if not isinstance(route, Series) and route not in METHODS:
        raise ValueError(f"unknown method {method!r}; choose one of {list(METHODS)} or a Series")
    if route == "quadrature" and mode == "abs":
        raise ValueError("method 'quadrature' computes (H^2 + d^2)^{-1/2}: choose mode 'square' or 'none'")
    if exact is None:
        exact = exact_direction(problem, mode, damping)
    if isinstance(route, Series):
        return walk_series(problem, route, limit, mode, damping, exact)
    walks: dict[str, Callable[..., Iterator[Milestone]]] = {
        "chebyshev": walk_chebyshev,
        "quadrature": walk_quadrature,
        "lanczos": functools.partial(walk_lanczos, lanczos_function),
        "lanczos_sv": functools.partial(walk_lanczos, lanczos_sv_function),
    }
    return walks[route](problem, limit, mode, damping, exact)


def _reaches(target: float, milestone: Milestone) -> bool:
    return milestone.error() <= target


def _table(
    measure: Callable[..., np.ndarray],
    problems: Sequence[SpectralProblem],
    methods: Sequence[str],
    wanted: Sequence[Any],
    progress: bool,
    **options: Any,
) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    for problem in tqdm(problems, desc=problems[0].name, unit="seed", disable=not progress, leave=False):
        exact = exact_direction(problem, options["mode"], options["damping"])
        for name in methods:
            rows[name].append(measure(problem, name, wanted, exact=exact, **options))
    return {name: np.stack(found) for name, found in rows.items()}
