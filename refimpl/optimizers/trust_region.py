"""The trust-region method: minimize the quadratic model as far as it has earned trust."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

from refimpl.arrays import Array, all_finite, backend_of, host_numbers, namespace
from refimpl.curvature.trust_region import TrustRegionStep, dogleg_step, trust_region_step, two_dimensional_step
from refimpl.optimizers.base import Step
from refimpl.optimizers.radius import RadiusRule, check_one_run
from refimpl.oracle import Point

Subproblem = Literal["exact", "two-dimensional", "dogleg"]


class TrustRegionState(NamedTuple):
    """What is kept between steps: Delta."""

    radius: float


class TrustRegionInfo(NamedTuple):
    """What a step reports: the radius it used, lam of the subproblem (NaN on a dogleg), the predicted change, the
    ratio of actual to predicted reduction, whether the step was taken."""

    radius: float
    multiplier: float
    predicted_change: float
    ratio: float
    accepted: bool


@dataclass(frozen=True)
class TrustRegion(RadiusRule):
    """p minimizes g·p + p·Hp/2 over |p| <= Delta; x <- x + p where the loss falls; Delta by the model's luck.

    Parameters
    ----------
    subproblem : ``"exact"``, the global minimizer; ``"two-dimensional"``, the best step in the plane of the gradient
        and the Newton step; ``"dogleg"``, which needs a positive definite Hessian and takes ``"two-dimensional"``
        where it has none.
    others : see :class:`~refimpl.optimizers.radius.RadiusRule`.

    Raises
    ------
    ValueError
        A knob outside its range; leading axes: one problem at a time.

    Notes
    -----
    With the exact subproblem, ``accept_above`` in (0, 1/4) and a compact level set the places have a limit point that
    satisfies the second-order necessary conditions: no saddle with a negative eigenvalue. A plane or a Krylov space
    made from the gradient alone does not give that.

    Cost: one gradient, a dense Hessian (n products), one loss. The subproblem is solved on the host.

    Source: KryBall thesis, Algorithm 3; Nocedal & Wright (2006), algorithm 4.1 and theorem 4.8.
    """

    subproblem: Subproblem = "exact"
    name: ClassVar[str] = "trust-region"

    def __post_init__(self) -> None:
        self._settle_radius()
        if self.subproblem not in get_args(Subproblem):
            raise ValueError(f"unknown subproblem {self.subproblem!r}; choose one of {list(get_args(Subproblem))}")

    def init(self, x: Array) -> TrustRegionState:
        """The initial radius."""
        check_one_run("TrustRegion", x)
        return TrustRegionState(self.initial_radius)

    def step(self, point: Point, state: TrustRegionState) -> Step:
        """One step: (n,)."""
        check_one_run("TrustRegion", point.x)
        hessian, gradient = point.hessian(), point.gradient
        if not all_finite(hessian, gradient, point.loss):
            # No model: a run meets its stop rule before this, a training loop may not.
            return Step(point.x, state, TrustRegionInfo(state.radius, math.nan, math.nan, math.nan, False))
        found = self._solved(host_numbers("hessian", hessian), host_numbers("gradient", gradient), state.radius)
        step = backend_of(point.x).asarray(found.step)
        x_trial = point.x + step
        length = math.sqrt(float(namespace(found.step).sum(found.step * found.step)))
        judged = self.judged(
            point.x, float(point.loss), float(point.loss_at(x_trial)), found.model, length, state.radius
        )
        info = TrustRegionInfo(state.radius, found.multiplier, found.model, judged.ratio, judged.accepted)
        return Step(x_trial if judged.accepted else point.x, TrustRegionState(judged.radius), info)

    def _solved(self, hessian: Array, gradient: Array, radius: float) -> TrustRegionStep:
        if self.subproblem == "exact":
            return trust_region_step(hessian, gradient, radius)
        if self.subproblem == "dogleg":
            try:
                return dogleg_step(hessian, gradient, radius)
            except ValueError:  # not positive definite
                pass
        return two_dimensional_step(hessian, gradient, radius)
