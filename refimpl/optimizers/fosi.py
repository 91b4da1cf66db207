"""FOSI: Newton's step along a few extreme eigenvectors, any first-order method in the rest of the space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import (
    Array,
    as_generator,
    backend_of,
    check_between,
    check_count,
    check_positive,
    host_numbers,
    machine_epsilon,
    namespace,
    widened,
)
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import of_lanczos
from refimpl.optimizers.base import LibraryOptimizer, Optimizer, Step, settle
from refimpl.optimizers.radius import check_one_run
from refimpl.oracle import Point


class FOSIState(NamedTuple):
    """What is kept between steps: the base method's state; the momentum of Newton's part, (n,); the eigenvectors, one
    per row, (m, n), and their eigenvalues, ascending, (m,), m = 0 before the first look at the Hessian; the factor on
    the base method's step; the number of steps so far."""

    base: Any
    momentum: Array
    vectors: Array
    eigenvalues: Array
    factor: float
    steps: int


class FOSIInfo(NamedTuple):
    """What a step reports: whether it looked at the Hessian; the ends of the eigenvalues in use (NaN where there are
    none); the share |g1|^2/|g|^2 of the gradient in their subspace, a 0-d array; the factor on the base's step."""

    refreshed: bool
    smallest_ritz: float | Array
    largest_ritz: float | Array
    share: Array
    factor: float


class _Seen:
    # What a first-order method may see of a Point: a place and a gradient. Anything else is refused by name.

    def __init__(self, x: Array, gradient: Array) -> None:
        self.x, self.gradient = x, gradient

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"the base of FOSI must be a first-order method, but it asked for {name!r}; take Adam, say")


@dataclass(frozen=True)
class FOSI:
    """x <- x - alpha V^T |Lam|^{-1} V m + c P d, with V the extreme eigenvectors and d a first-order step without them.

    Every ``interval`` steps a Lanczos process gives the ``largest`` and ``smallest`` eigenpairs (Lam, rows of V) of
    the Hessian on that step's sample. In every step the gradient is split into g1 = V^T V g and g2 = g - g1; m is the
    momentum of g1; d is the step that ``base`` makes from g2; P = I - V^T V; c >= 1 makes the base's step longer,
    since the steepest directions no longer bound its rate.

    Parameters
    ----------
    base : the first-order method with its knobs, an instance: ``HeavyBall(0.1)``, ``Adam(1e-3)``.
    largest, smallest : how many eigenpairs of each end of the spectrum; with none at all the steps are the base's.
    interval : steps from one Lanczos process to the next.
    warmup : steps of the base alone before the first one. The public code has ``interval - 1``.
    alpha : rate of Newton's part, positive; the public code's wrappers have 0.1, its general form 1.
    momentum : mu in [0, 1); None takes that of the base (``momentum``, or ``beta1``), or 0 if it has none.
    average : ``"sum"``, m <- mu m + g1, or ``"mean"``, m <- mu m + (1 - mu) g1; None takes the mean where the base has
        a ``beta1``.
    scaling : upper bound of c = |lam_max / lam_k|, lam_k the smallest of the ``largest`` eigenvalues; at least 1. None
        takes 3, and 1 where the base has a ``beta1``: Adam's step does not grow with the gradient.
    damping : floor of |Lam|, at least 0. The public code divides by |Lam| as it is.
    seed : decides the first vector of each Lanczos process.

    Raises
    ------
    ValueError
        A knob outside its range; a base that is no method, or asks for more than x and the gradient; leading axes: one
        problem at a time.

    Notes
    -----
    Newton's part moves *away* from a saddle: its eigenvalues count with their magnitudes, and signs of eigenvectors
    do not matter. With ``momentum`` 0 and ``largest`` = n it is saddle-free Newton with rate alpha. With ``"sum"`` a
    gradient that stays the same is followed with rate alpha/(1 - mu): all of Newton's step, for 0.1 and 0.9.

    The Lanczos process is in float64 where the device has it (products are in the dtype of x), reorthogonalized, of
    4 (largest + smallest) steps. It sees the minibatch of the step on which it falls; the public code keeps one fixed
    batch for it. A multiple eigenvalue is found once. Eigenvalues that rounding cannot tell from zero beside the
    largest are left to the base, and where the products are not finite the pairs from before are kept.

    Where the loss goes to zero its eigenvalues do as well, and dividing by those of an older place can throw a run far
    out; ``damping`` or a smaller ``alpha`` prevents it. A wrapper around a method shows neither ``momentum`` nor
    ``beta1``: give the three knobs that depend on them.

    Weight decay belongs into the loss. Decay outside of it (AdamW's) would act outside the subspace only, and Newton's
    part would not know of it.

    Cost: one gradient; every ``interval`` steps 4 (largest + smallest) products (at most n), which are read back to the
    host. Memory: as many vectors during Lanczos, largest + smallest between. With 10 pairs and an interval of 100 the
    products cost 0.8 gradients per step.

    Source: Sivan, Gabel & Schuster (2024), algorithm 1 and its public code (scaling, momentum, order of Lanczos).
    """

    base: Any
    largest: int = 10
    smallest: int = 0
    interval: int = 100
    warmup: int = 0
    alpha: float = 0.1
    momentum: float | None = None
    average: Literal["sum", "mean"] | None = None
    scaling: float | None = None
    damping: float = 0.0
    seed: int = 0
    name: ClassVar[str] = "fosi"

    def __post_init__(self) -> None:
        fits = isinstance(self.base, Optimizer) and not isinstance(self.base, type | LibraryOptimizer | FOSI)
        if not fits:
            raise ValueError(f"base must be an instance of a first-order method, such as Adam(1e-3), got {self.base!r}")
        settle(
            self,
            largest=check_count("largest", self.largest, minimum=0),
            smallest=check_count("smallest", self.smallest, minimum=0),
            interval=check_count("interval", self.interval),
            warmup=check_count("warmup", self.warmup, minimum=0),
            alpha=check_positive("alpha", self.alpha),
            damping=check_positive("damping", self.damping, zero_allowed=True),
            seed=check_count("seed", self.seed, minimum=0),
        )
        if self.momentum is not None:
            settle(self, momentum=check_between("momentum", self.momentum, 0.0, 1.0))
        if self.average not in (None, "sum", "mean"):
            raise ValueError(f"unknown average {self.average!r}; choose one of ['sum', 'mean'] or None")
        if self.scaling is not None:
            settle(self, scaling=check_between("scaling", self.scaling, 1.0, math.inf))

    def init(self, x: Array) -> FOSIState:
        """The base's state, no momentum, no eigenpairs."""
        check_one_run("FOSI", x)
        xp, place = namespace(x), backend_of(x)
        vectors = xp.zeros((0, x.shape[0]), dtype=x.dtype, device=place.device)
        eigenvalues = xp.zeros((0,), dtype=x.dtype, device=place.device)
        return FOSIState(self.base.init(x), xp.zeros_like(x), vectors, eigenvalues, 1.0, 0)

    def step(self, point: Point, state: FOSIState) -> Step:
        """One step: (n,)."""
        check_one_run("FOSI", point.x)
        since = state.steps - self.warmup
        refreshed = since >= 0 and since % self.interval == 0 and self.largest + self.smallest > 0
        pairs = self._extreme_pairs(point, since // self.interval) if refreshed else None
        vectors, eigenvalues, factor = pairs or (state.vectors, state.eigenvalues, state.factor)
        x, gradient, xp = point.x, point.gradient, namespace(point.x)
        along = _onto(vectors, gradient)
        found = self.base.step(_Seen(x, gradient - along), state.base)
        mu, average = self._momentum_rule()
        momentum = mu * state.momentum + ((1.0 - mu) if average == "mean" else 1.0) * along
        x_next, smallest, largest = found.x, math.nan, math.nan
        if vectors.shape[0] > 0:
            sizes = xp.clip(xp.abs(eigenvalues), min=self.damping)
            newton = xp.matmul(xp.matmul(vectors, momentum) / sizes, vectors)
            rest = found.x - x
            x_next = x + factor * (rest - _onto(vectors, rest)) - self.alpha * newton
            smallest, largest = eigenvalues[0], eigenvalues[-1]
        whole = xp.sum(gradient * gradient)
        share = xp.sum(along * along) / xp.where(whole > 0, whole, xp.ones_like(whole))
        kept = FOSIState(found.state, momentum, vectors, eigenvalues, factor, state.steps + 1)
        return Step(x_next, kept, FOSIInfo(refreshed, smallest, largest, share, factor))

    def _extreme_pairs(self, point: Point, process: int) -> tuple[Array, Array, float] | None:
        """Eigenvectors (m, n), eigenvalues (m,), both in the dtype of x, and the factor; None if not finite."""
        x, place = point.x, backend_of(point.x)
        xp = place.xp
        start = widened(place.normal(as_generator([self.seed, process]), x.shape[0]))
        wide = start.dtype
        product = lambda v: xp.astype(point.hvp(xp.astype(v, x.dtype)), wide)  # noqa: E731
        # The process itself judges by the precision of its basis, but the products only have that of x.
        small = 100 * machine_epsilon(x)
        ends = lambda seen: bool(seen.beta[-1] <= small * xp.max(xp.abs(seen.alpha)))  # noqa: E731
        space = of_lanczos(lanczos(product, start, 4 * (self.largest + self.smallest), enough=ends))
        size = space.basis.shape[0]
        if size == 0:
            return None
        on_host = namespace(space.matrix)
        ritz, weights = on_host.linalg.eigh(space.matrix)
        top = range(max(size - self.largest, 0), size)
        bottom = range(min(self.smallest, top.start))
        rounding = 10 * machine_epsilon(x) * max(abs(float(ritz[0])), abs(float(ritz[-1])))
        chosen = [i for i in (*bottom, *top) if abs(float(ritz[i])) > rounding]
        kept = [i for i in top if i in chosen]
        factor = abs(float(ritz[kept[-1]]) / float(ritz[kept[0]])) if kept else 1.0
        vectors = xp.zeros((0, x.shape[0]), dtype=x.dtype, device=place.device)
        if chosen:
            rows = xp.asarray(weights[:, chosen].T.tolist(), dtype=wide, device=place.device)
            vectors = xp.astype(xp.matmul(rows, space.basis), x.dtype)
        eigenvalues = place.asarray(host_numbers("eigenvalues", [float(ritz[i]) for i in chosen]))
        return vectors, eigenvalues, min(max(factor, 1.0), self._most_scaling())

    def _momentum_rule(self) -> tuple[float, str]:
        own = getattr(self.base, "momentum", getattr(self.base, "beta1", 0.0))
        average = "mean" if hasattr(self.base, "beta1") else "sum"
        return (own if self.momentum is None else self.momentum), self.average or average

    def _most_scaling(self) -> float:
        if self.scaling is not None:
            return self.scaling
        return 1.0 if hasattr(self.base, "beta1") else 3.0


def _onto(vectors: Array, v: Array) -> Array:
    # V^T V v: what lies in the span of the orthonormal rows, (m, n), (n,) -> (n,).
    xp = namespace(v)
    return xp.matmul(xp.matmul(vectors, v), vectors) if vectors.shape[0] else xp.zeros_like(v)
