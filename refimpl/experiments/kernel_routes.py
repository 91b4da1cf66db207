"""How the routes to |H|^{-1} g are walked for :mod:`refimpl.experiments.kernels`.

Each walk is one run of a route that stops at every number of products where the route has an answer, so that the error
after each of them costs little more than the error after the last.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from refimpl.arrays import Array, check_positive, dot, machine_epsilon, namespace, to_numpy
from refimpl.curvature.acceleration import accelerate
from refimpl.curvature.inverse_abs import Mode, chebyshev_coefficients, inverse_abs_apply
from refimpl.curvature.krylov import Lanczos, lanczos
from refimpl.curvature.operators import CountingMatvec
from refimpl.curvature.scale import lanczos_scale, ratio_scale
from refimpl.curvature.series import MARGIN, partial_sums
from refimpl.problems.spectra import SpectralProblem

POLES = 20
"""Enough for eight digits at a condition number of 1e5; poles cost memory, not products."""


@dataclass(frozen=True)
class Series:
    """A way to use the series.

    Attributes
    ----------
    accelerate : ``"shanks"``, ``"sablonniere"`` or None.
    scale : V, or the rule that gives it: ``"oracle"``, 1.01 times the largest eigenvalue of what is expanded (H^2, or
        H^2 + d^2 in mode ``"square"``); ``"lanczos"``, :func:`refimpl.curvature.scale.lanczos_scale`; ``"paper"``,
        max(100, |H^2 g|/|g|).
    order : N is at most this and at most (K - 1)/2.
    best : of all orders up to there take the one whose error is smallest; else the largest.
    guard : as in :func:`refimpl.curvature.series.sum_series`. What a restart costs is counted.
    """

    accelerate: Literal["shanks", "sablonniere"] | None = None
    scale: float | Literal["oracle", "lanczos", "paper"] = "oracle"
    order: int = 12
    best: bool = True
    guard: bool = True


class Milestone(NamedTuple):
    """Where a route stands after ``products``: ``error()`` computes its relative error.

    The error is no less than ``at_least``, which is cheap to know, so that most errors need not be computed.
    """

    products: int
    error: Callable[[], float]
    at_least: float = 0.0


def relative_error(found: Array, exact: Array) -> float:
    """|found - exact| / |exact| in double precision, for (n,) of any backend; infinite where ``found`` is not finite.

    >>> relative_error(np.array([1.0, 0.0]), np.array([1.0, 1e-3])) < 1e-3
    True
    """
    a, b = (to_numpy(vector).astype(np.float64, copy=False) for vector in (found, exact))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b)) if np.isfinite(a).all() else math.inf


# -- the series -----------------------------------------------------------------------------------------------------


def walk_series(
    problem: SpectralProblem, route: Series, limit: int, mode: Mode, damping: float, exact: np.ndarray
) -> Iterator[Milestone]:
    """K = 1, 2, … terms of the series."""
    counting = CountingMatvec(problem.hvp)
    scale, first = _scale(problem, route, mode, damping, counting)
    spent, given = counting.products - (2 if first else 0), 0
    terms = (limit - spent) // 2 + 1
    while terms >= 1:
        root = math.sqrt(scale)
        sums = partial_sums(
            problem.hvp, problem.gradient, terms=terms, scale=scale, damping=damping, mode=mode, first_products=first
        )
        table = _EveryOrder(route)
        for k, term in enumerate(sums):
            ratio = float(term.ratio)
            if route.guard and math.isfinite(ratio) and ratio > scale:
                # A sum with more terms starts again here. Shorter ones ended before and are valid.
                spent, scale = spent + 2 * k, MARGIN * ratio
                break
            tried = table.push(term.total)
            products = spent + 2 * k
            if products > limit:
                return
            if k < given or (first and k == 0):
                continue
            given = k + 1
            tried = [term.total, *tried]
            yield Milestone(products, partial(_best, tried, root, problem.gradient, route.guard, exact))
        else:
            return


def _scale(
    problem: SpectralProblem, route: Series, mode: Mode, damping: float, counting: CountingMatvec
) -> tuple[float, tuple[Array, Array] | None]:
    g = problem.gradient
    if route.scale == "oracle":
        return 1.01 * (problem.largest**2 + (damping**2 if mode == "square" else 0.0)), None
    if route.scale == "lanczos":
        found = float(lanczos_scale(counting, g))
        return (found if found > 0 else 1.0), None
    if route.scale == "paper":
        half = counting(g)
        first = (half, counting(half))
        start = namespace(g).full_like(g[..., 0], 100.0)
        return float(ratio_scale(g, first[1], start)), first
    return check_positive("scale", route.scale), None


def _best(tried: list[Array], root: float, gradient: Array, guard: bool, exact: np.ndarray) -> float:
    # The plain sum comes first. All at once, because there are 13 orders after each term.
    directions = np.stack([to_numpy(total) for total in tried]).astype(np.float64) / root
    if guard:
        usable = np.isfinite(directions).all(axis=1) & (directions @ to_numpy(gradient) > 0)
        directions = np.where(usable[:, None], directions, directions[0])
    errors = np.linalg.norm(directions[1:] - exact, axis=1) / np.linalg.norm(exact)
    return float(np.where(np.isfinite(errors), errors, math.inf).min())


class _EveryOrder:
    """The accelerated values of all orders for every length of the sequence, in one pass.

    :class:`refimpl.curvature.acceleration.EpsilonTable` sees one window and so has one order; the entries of the
    antidiagonal that ends at row k are the answers of all orders after row k. Where a difference vanished, which ends
    the table, the package's own accelerator is asked.
    """

    def __init__(self, route: Series) -> None:
        self._route = route
        self._rows: deque[Array] = deque(maxlen=2 * route.order + 1)
        self._diagonal: list[Array] = []
        self._sizes: list[float] = []  # squared lengths of its entries
        self._vanished: dict[int, int] = {}  # column -> last row at which its difference vanished
        self._length = 0

    def push(self, row: Array) -> list[Array]:
        """Values of the sequence that ends with ``row``: for every order, or for the one that is asked for."""
        if self._route.accelerate is None:
            return [row]
        self._rows.append(row)
        self._extend(row)
        largest = min(self._route.order, self._length // 2)
        values = [self._value(order) for order in range(0 if self._route.best else largest, largest + 1)]
        self._length += 1
        return values

    def _value(self, order: int) -> Array:
        assert self._route.accelerate is not None
        k = self._length
        if all(self._vanished.get(c, -1) < k - 2 * order + c for c in range(1, 2 * order + 1)):
            return self._diagonal[2 * order]
        return accelerate(list(self._rows)[-(2 * order + 1) :], self._route.accelerate, order)

    def _extend(self, row: Array) -> None:
        old, new, sizes = self._diagonal, [row], [float(dot(row, row))]
        noise = (8 * machine_epsilon(row)) ** 2
        for c in range(1, min(len(old), 2 * self._route.order) + 1):
            difference = new[c - 1] - old[c - 1]
            length = float(dot(difference, difference))
            if not length > noise * max(sizes[c - 1], self._sizes[c - 1]):
                self._vanished[c], length = self._length, 1.0
            weight = c // 2 + 1 if self._route.accelerate == "sablonniere" else 1
            entry = (weight / length) * difference
            new.append(entry if c == 1 else old[c - 2] + entry)
            sizes.append(float(dot(new[c], new[c])))
        self._diagonal, self._sizes = new, sizes


# -- the other routes -----------------------------------------------------------------------------------------------


def walk_chebyshev(
    problem: SpectralProblem, limit: int, mode: Mode, damping: float, exact: np.ndarray
) -> Iterator[Milestone]:
    """Degrees 0, 1, … in H^2: one run gives the vectors T_k(H^2) g, and a prefix of one list of coefficients."""
    low, high = _interval(problem, mode)
    middle, half = 0.5 * (high**2 + low**2), 0.5 * (high**2 - low**2)
    weights = np.array(chebyshev_coefficients(low, high, limit // 2, mode=mode, damping=damping))

    def error(degree: int) -> float:
        return relative_error(weights[: degree + 1] @ np.stack(vectors[: degree + 1]), exact)

    vectors: list[np.ndarray] = []
    before, now = problem.gradient, problem.gradient
    for degree in range(limit // 2 + 1):
        if degree > 0:
            mapped = (problem.hvp(problem.hvp(now)) - middle * now) / half
            before, now = now, (mapped if degree == 1 else 2.0 * mapped - before)
        vectors.append(to_numpy(now))
        yield Milestone(2 * degree, partial(error, degree))


def walk_quadrature(
    problem: SpectralProblem, limit: int, mode: Mode, damping: float, exact: np.ndarray
) -> Iterator[Milestone]:
    """1, 2, … steps of conjugate gradients for all poles."""
    replay = _Replay(problem.hvp)
    interval = _interval(problem, mode)

    def error(steps: int) -> float:
        found = inverse_abs_apply(
            replay.again(), problem.gradient, products=2 * steps, method="quadrature", mode=mode, damping=damping,
            interval=interval, poles=POLES,
        )  # fmt: skip
        return relative_error(found.direction, exact)

    # No lower bound here: without reorthogonalization the iterates leave the Krylov space.
    for steps in range(1, limit // 2 + 1):
        yield Milestone(2 * steps, partial(error, steps))


def walk_lanczos(
    function: Callable[..., Array],
    problem: SpectralProblem,
    limit: int,
    mode: Mode,
    damping: float,
    exact: np.ndarray,
) -> Iterator[Milestone]:
    """m = 1, 2, … steps: leading blocks of one T. ``function`` makes a direction of a space."""

    def error(space: Lanczos, m: int) -> float:
        first = Lanczos(space.basis[:m, :], space.alpha[:m], space.beta[:m], space.start_norm, m)
        return relative_error(function(first, mode=mode, damping=damping), exact)

    size, given = min(32, limit), 0
    while given < limit:
        # The space doubles when it is used up.
        space = lanczos(problem.hvp, problem.gradient, size)
        left, slack = exact, 100 * machine_epsilon(problem.gradient)
        for m, (q, beta) in enumerate(zip(to_numpy(space.basis), to_numpy(space.beta), strict=True), start=1):
            # Nothing in the first m dimensions is closer than the projection.
            left = left - (q @ left) * q
            if m > given:
                yield Milestone(m, partial(error, space, m), 0.999 * relative_error(exact - left, exact) - slack)
            if beta == 0:
                return
        given, size = size, min(2 * size, limit)


def _interval(problem: SpectralProblem, mode: Mode) -> tuple[float, float]:
    low, high = problem.smallest, problem.largest
    if mode == "none" and low == 0:
        raise ValueError("without damping an interval must keep away from zero, but the smallest |h| is zero")
    if low == high:
        raise ValueError(f"an interval needs two different ends, but every |h| is {low}")
    return low, high


class _Replay:
    """Products that were computed before: a run with more steps begins with the products of a shorter one."""

    def __init__(self, matvec: Callable[[Array], Array]) -> None:
        self._matvec = matvec
        self._known: list[Array] = []

    def again(self) -> Callable[[Array], Array]:
        """A matvec whose first calls are answered from memory."""
        calls = iter(range(1 << 62))

        def product(v: Array) -> Array:
            k = next(calls)
            if k == len(self._known):
                self._known.append(self._matvec(v))
            return self._known[k]

        return product
