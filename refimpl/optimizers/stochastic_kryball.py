"""KryBall for minibatches: momentum with a fixed coefficient, and a Krylov step at the place it leads to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from refimpl.arrays import Array, all_finite, check_between, check_count, namespace
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import of_lanczos
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.radius import RadiusRule, check_one_run
from refimpl.oracle import Point


class StochasticKryBallState(NamedTuple):
    """What is kept between steps: Delta; z, the step that was last taken, (n,)."""

    radius: float
    momentum: Array


class StochasticKryBallInfo(NamedTuple):
    """What a step reports: the radius of the last trial; the change that the |T|-model predicts for q, and the ratio of
    the actual change to it; the ends of the Ritz values; how many q were refused, and whether the last one was
    taken."""

    radius: float
    predicted_change: float
    ratio: float
    smallest_ritz: float
    largest_ritz: float
    refused: int
    accepted: bool


@dataclass(frozen=True)
class StochasticKryBall(RadiusRule):
    """z <- rho z + q, x <- x + z, with q the saddle-free step of a Krylov space at x + rho z, no longer than Delta.

    KryBall fits the coefficient of the momentum to each minibatch, which wipes out what the momentum remembers of the
    others. Here the coefficient is fixed, and only q is fitted: it minimizes s·q + q·|T|q/2 over |q| <= Delta in the
    Krylov space of H and s = g + rho Hz, the gradient that the model expects at x + rho z. The ratio that moves Delta
    compares f(x + rho z + q) with f(x + rho z).

    Parameters
    ----------
    dimension : M, Hessian products for the Krylov space.
    momentum : rho, in [0, 1).
    retries : shorter q to try on the same model after a refusal; after the last one the step is rho z alone.
    others : see :class:`~refimpl.optimizers.radius.RadiusRule`; here ``initial_radius`` and ``maximum_radius`` are 0.1.

    Raises
    ------
    ValueError
        A knob outside its range; leading axes: one problem at a time.

    Notes
    -----
    With M = 1 and no bound this is, on a quadratic, Nesterov's method with a step length of its own: the gradient is
    taken at x + rho z. CurveBall takes it at x + z, fits rho, and works with the Gauss–Newton matrix. rho and the
    largest radius are knobs again, which KryBall does without. A place x + rho z where the loss is not finite ends the
    momentum: the run stays and z is forgotten.

    Cost: one gradient, M + 1 products and two losses (M and one where z is zero), one loss per retry. Memory: M + 2
    vectors.

    Source: ours, after the KryBall thesis, Algorithm 4, and the CurveBall paper, eqs. 15–16.
    """

    dimension: int = 3
    momentum: float = 0.95
    retries: int = 1
    initial_radius: float = field(default=0.1, kw_only=True)
    maximum_radius: float = field(default=0.1, kw_only=True)
    name: ClassVar[str] = "stochastic-kryball"

    def __post_init__(self) -> None:
        self._settle_radius()
        settle(
            self,
            dimension=check_count("dimension", self.dimension),
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            retries=check_count("retries", self.retries, minimum=0),
        )

    def init(self, x: Array) -> StochasticKryBallState:
        """The initial radius, no momentum."""
        check_one_run("StochasticKryBall", x)
        return StochasticKryBallState(self.initial_radius, namespace(x).zeros_like(x))

    def step(self, point: Point, state: StochasticKryBallState) -> Step:
        """One step: (n,)."""
        check_one_run("StochasticKryBall", point.x)
        xp, nothing = namespace(point.x), (math.nan,) * 4
        still = StochasticKryBallState(state.radius, xp.zeros_like(point.x))
        if not all_finite(point.gradient, point.loss):
            return Step(point.x, still, StochasticKryBallInfo(state.radius, *nothing, 0, False))
        coasting = self.momentum * state.momentum
        moving = bool(xp.any(coasting != 0))
        base = float(point.loss_at(point.x + coasting)) if moving else float(point.loss)
        seed = point.gradient + point.hvp(coasting) if moving else point.gradient
        if not (math.isfinite(base) and all_finite(seed)):
            return Step(point.x, still, StochasticKryBallInfo(state.radius, *nothing, 1, False))
        space = lanczos(point.hvp, seed, self.dimension, checked=False)
        krylov = of_lanczos(space)
        if krylov.basis.shape[0] == 0:
            info = StochasticKryBallInfo(state.radius, 0.0, 1.0, math.nan, math.nan, 0, True)
            return Step(point.x + coasting, StochasticKryBallState(state.radius, coasting), info)

        on_host = namespace(krylov.matrix)
        ritz, vectors = on_host.linalg.eigh(krylov.matrix)
        model = (vectors * on_host.abs(ritz)) @ vectors.T
        slope = on_host.zeros(krylov.matrix.shape[0])
        slope[0] = float(space.start_norm)
        radius, refused = state.radius, 0
        while True:
            found = trust_region_step(model, slope, radius, checked=False)
            step = coasting + krylov.combine(found.step)
            trial = float(point.loss_at(point.x + step))
            judged = self.judged(point.x, base, trial, found.model, math.hypot(*found.step.tolist()), radius)
            if judged.accepted or refused == self.retries or judged.radius >= radius:
                break
            radius, refused = judged.radius, refused + 1
        z = step if judged.accepted else coasting
        info = StochasticKryBallInfo(
            radius,
            found.model,
            judged.ratio,
            float(ritz[0]),
            float(ritz[-1]),
            refused + (not judged.accepted),
            judged.accepted,
        )
        return Step(point.x + z, StochasticKryBallState(judged.radius, z), info)
