"""Sophia: momentum, divided by a running estimate of the Hessian's diagonal and clipped coordinate by coordinate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import (
    Array,
    as_generator,
    backend_of,
    check_between,
    check_count,
    check_positive,
    namespace,
)
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.groups import matrix_mask
from refimpl.oracle import Point

ESTIMATORS = ("gnb", "hutchinson")


class SophiaState(NamedTuple):
    """m and h, the running means of the gradient and of the diagonal, both (..., n); the number of steps so far."""

    mean: Array
    curvature: Array
    steps: int


class SophiaInfo(NamedTuple):
    """What a step reports: the share of coordinates whose quotient was cut to 1, (...), and whether h was renewed."""

    clipped: Array
    estimated: bool


@dataclass(frozen=True)
class Sophia:
    """m <- b1 m + (1-b1) g; h <- b2 h + (1-b2) d every k steps; x <- x - eta sign(m) min(|m| / (rho h + epsilon), 1).

    Before that, weights shrink by the factor 1 - eta·weight_decay. d is an estimate of the Hessian's diagonal.

    Parameters
    ----------
    learning_rate : eta, the largest change of a coordinate in one step.
    beta1, beta2 : b1 and b2, each in [0, 1).
    rho : what decides which coordinates are clipped; gamma of the later version of the paper.
    weight_decay : at least zero.
    decay : what it shrinks. ``"matrices"``, tensors of ``problem.tensor_shapes`` with two axes or more; ``"all"``.
    interval : k; h is renewed in steps 0, k, 2k, …, before it is used.
    estimator : ``"gnb"`` (Gauss–Newton–Bartlett): d = N ghat·ghat, with ghat the gradient of the mean loss for targets
        drawn from the model's predictions and N their number; its mean is the diagonal of the Gauss–Newton matrix.
        ``"hutchinson"``: d = u·(H u) with random signs u; its mean is the diagonal of the Hessian.
    likelihood : of what the targets are drawn, where the loss does not tell it; see
        :meth:`refimpl.oracle.Point.sampled_gradient`.
    seed : of targets and signs: step t draws from a generator of (seed, t), so a run can be continued, and all runs of
        a batch draw the same.
    epsilon : at least zero; with zero, a coordinate without gradient and curvature gives 0/0.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, a problem from which the targets of ``"gnb"`` cannot be drawn.

    Notes
    -----
    Where h is not positive the quotient is cut: a step of eta against the sign of m, and none where m = 0. With h = 0
    everywhere the method is sign descent with momentum. h may be negative with ``"hutchinson"``; in the step it counts
    as zero there.

    The released code keeps ghat·ghat without N and multiplies at the time of the step, with a ghat whose norm it has
    clipped; with N inside h and no clipping, rho means what it says in the paper. h starts at zero and is not
    corrected for it.

    Leading axes ``(..., n)`` are allowed. Cost: one gradient; in every k-th step one vjp (gnb) or one hvp more.
    Memory: m and h.

    Source: Liu et al. (2024), algorithms 1 to 3; decay of matrices alone as in the released code.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.965
    beta2: float = 0.99
    rho: float = 0.04
    weight_decay: float = 0.1
    decay: Literal["matrices", "all"] = "matrices"
    interval: int = 10
    estimator: Literal["gnb", "hutchinson"] = "gnb"
    likelihood: str | None = None
    seed: int = 0
    epsilon: float = 1e-15
    name: ClassVar[str] = "sophia"

    def __post_init__(self) -> None:
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            beta1=check_between("beta1", self.beta1, 0.0, 1.0),
            beta2=check_between("beta2", self.beta2, 0.0, 1.0),
            rho=check_positive("rho", self.rho),
            weight_decay=check_positive("weight_decay", self.weight_decay, zero_allowed=True),
            interval=check_count("interval", self.interval),
            seed=check_count("seed", self.seed, minimum=0),
            epsilon=check_positive("epsilon", self.epsilon, zero_allowed=True),
        )
        for knob, choices in (("decay", ("matrices", "all")), ("estimator", ESTIMATORS)):
            if getattr(self, knob) not in list(choices):
                raise ValueError(f"unknown {knob} {getattr(self, knob)!r}; choose one of {list(choices)}")
        if self.likelihood is not None and not isinstance(self.likelihood, str):
            raise ValueError(f"likelihood must be the name of a distribution or None, got {self.likelihood!r}")

    def init(self, x: Array) -> SophiaState:
        """Running means of zero."""
        zero = namespace(x).zeros_like(x)
        return SophiaState(zero, zero, 0)

    def step(self, point: Point, state: SophiaState) -> Step:
        """One step: (..., n)."""
        renewed = state.steps % self.interval == 0
        mean, curvature = self._mean(point, state.mean), state.curvature
        if renewed:
            curvature = self._average(curvature, self._estimate(point, state.steps))
        change, clipped = self._change(mean, curvature)
        x = self._shrunk(point) + change
        return Step(x, SophiaState(mean, curvature, state.steps + 1), SophiaInfo(share_of(clipped, x), renewed))

    # -- the parts, which AMOS uses as well ---------------------------------------------------------------------------

    def _mean(self, point: Point, mean: Array) -> Array:
        return self.beta1 * mean + (1.0 - self.beta1) * point.gradient

    def _average(self, curvature: Array, estimate: Array) -> Array:
        return self.beta2 * curvature + (1.0 - self.beta2) * estimate

    def _estimate(self, point: Point, steps: int, draws: int = 1) -> Array:
        """The estimate of the diagonal in step ``steps``, the mean of so many ``draws``: (..., n)."""
        rng = as_generator([self.seed, steps])
        total = self._one_estimate(point, rng)
        for _ in range(draws - 1):
            total = total + self._one_estimate(point, rng)
        return total / draws if draws > 1 else total

    def _one_estimate(self, point: Point, rng: Any) -> Array:
        if self.estimator == "gnb":
            gradient, rows = point.sampled_gradient(rng, self.likelihood)
            return rows * gradient * gradient
        signs = backend_of(point.x).asarray(2.0 * rng.integers(0, 2, point.x.shape[-1]) - 1.0)
        signs = signs + namespace(point.x).zeros_like(point.x)
        return signs * point.hvp(signs)

    def _change(self, mean: Array, curvature: Array) -> tuple[Array, Array]:
        """What a step adds to x, without decay, and where it was clipped: (..., n) each."""
        xp = namespace(mean)
        quotient = xp.abs(mean) / (self.rho * xp.clip(curvature, min=0.0) + self.epsilon)
        return -self.learning_rate * xp.sign(mean) * xp.clip(quotient, max=1.0), quotient > 1.0

    def _shrunk(self, point: Point) -> Array:
        """x after the decay of the weights."""
        x, rate = point.x, self.learning_rate * self.weight_decay
        if rate == 0.0:
            return x
        if self.decay == "all":
            return (1.0 - rate) * x
        shapes = point.problem.tensor_shapes
        if not any(len(shape) >= 2 for shape in shapes):
            return x
        return x - rate * (matrix_mask(shapes, backend_of(x)) * x)


def share_of(flags: Array, like: Array) -> Array:
    """The share of coordinates that are true, (..., n) -> (...), in the dtype of ``like``."""
    xp = namespace(flags)
    return xp.mean(xp.astype(flags, like.dtype), axis=-1)
