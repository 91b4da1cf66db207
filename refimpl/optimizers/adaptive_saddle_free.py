"""Saddle-free Newton that sets its own learning rate, momentum and damping from the quadratic model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, namespace
from refimpl.curvature.spectrum import Spectrum, apply, eigen, inverse_magnitudes
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.damping import check_accept, judge, model_step, settle_damping
from refimpl.oracle import Point


class AdaptiveSaddleFreeState(NamedTuple):
    """What one step hands to the next.

    curvature : C, running mean of the Hessians, (..., n, n); NaN before the first finite one.
    step : d, what was last subtracted from x, (..., n); zero at the start and after a rejection.
    damping : lambda, (...).
    """

    curvature: Array
    step: Array
    damping: Array


class AdaptiveSaddleFreeInfo(NamedTuple):
    """What a step reports, each (...): ``damping`` is the one the step used, ``ratio`` actual/predicted change."""

    learning_rate: Array
    momentum: Array
    damping: Array
    predicted_change: Array
    ratio: Array
    accepted: Array


@dataclass(frozen=True)
class AdaptiveSaddleFreeNewton:
    """Saddle-free Newton with the three adaptive parts of K-FAC: averaged curvature, model-optimal step, damping.

    With H, g at x, damping lam and the step d last subtracted::

        C <- ema C + (1 - ema) H             (the first C is the first H)
        u  = (|C| + lam I)^{-1} g            the direction, from averaged curvature
        A  = |H| + lam I                     the model m(s) = -g·s + s·As/2, from the curvature here and now
        s  = eta u + mu d, eta and mu minimizing m
        x <- x - s
        lam <- Levenberg-Marquardt's rule on (f(x - s) - f(x)) / m(s)

    Parameters
    ----------
    initial_damping : lam at the start, between the two bounds.
    ema : weight of the *old* curvature, in [0, 1). With 0, A is the matrix that gave u, and (eta, mu) = (1, 0).
    omega : factor of the damping rule, in (0, 1).
    minimum_damping, maximum_damping : bounds of lam, positive.
    solve : ``"model"``, the 2 × 2 solve of :func:`refimpl.optimizers.damping.learning_rate_and_momentum`; or
        ``"released"``, eta = 1 and mu = 0 always, which is what the published code of the series method computes.
    accept : ``"guarded"``: where f(x - s) is not finite or m(s) >= 0, x stays, d becomes zero and lam doubles;
        or ``"always"``: every step is taken, as in the published code.

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    A step that raises the loss is taken all the same, and answered with more damping. The ratio judges the step
    that was taken, by the model that chose eta and mu, on one sample. A Hessian that is not finite is not averaged
    in. At a stationary point nothing moves and lam stays; within rounding of one the ratio is noise and lam wanders.

    Leading axes ``(..., n)`` are allowed: each run has its own damping and decisions. Cost: one gradient, one dense
    Hessian (n products), one loss, two eigendecompositions O(n^3) (one with ``ema=0``).

    Source: the adaptive exact saddle-free Newton of the series paper (appendix A.4, eqs. 6-8, with the weights of
    eq. 6 the right way round); Martens & Grosse (2015), sec. 6.5 and 7. The guards are ours.
    """

    initial_damping: float
    ema: float = 0.95
    omega: float = 0.9
    minimum_damping: float = 1e-8
    maximum_damping: float = 1e8
    solve: Literal["model", "released"] = "model"
    accept: Literal["guarded", "always"] = "guarded"
    name: ClassVar[str] = "adaptive-saddle-free-newton"

    def __post_init__(self) -> None:
        settle_damping(self)
        settle(self, ema=check_between("ema", self.ema, 0.0, 1.0))
        if self.solve not in ("model", "released"):
            raise ValueError(f"unknown solve {self.solve!r}; choose one of ['model', 'released']")
        check_accept(self.accept)

    def init(self, x: Array) -> AdaptiveSaddleFreeState:
        """No curvature seen, no step taken, the initial damping."""
        xp, place = namespace(x), backend_of(x)
        batch, n = tuple(x.shape[:-1]), x.shape[-1]
        unseen = xp.full((*batch, n, n), float("nan"), dtype=x.dtype, device=place.device)
        damping = xp.full(batch, self.initial_damping, dtype=x.dtype, device=place.device)
        return AdaptiveSaddleFreeState(unseen, xp.zeros_like(x), damping)

    def step(self, point: Point, state: AdaptiveSaddleFreeState) -> Step:
        """One step: (..., n)."""
        gradient, hessian, damping, d = point.gradient, point.hessian(), state.damping, state.step
        curvature = average_curvature(state.curvature, hessian, self.ema)
        averaged = eigen(curvature)
        here = averaged if self.ema == 0.0 else eigen(hessian)
        u = apply(averaged, inverse_magnitudes(averaged.eigenvalues, mode="abs", damping=damping), gradient)

        a_u, a_d = _apply_model(here, damping, u), _apply_model(here, damping, d)
        found = model_step(gradient, u, a_u, d, a_d, solve=self.solve == "model")
        verdict = judge(point, found.step, found.predicted_change, self, damping)
        info = AdaptiveSaddleFreeInfo(
            found.learning_rate, found.momentum, damping, found.predicted_change, verdict.ratio, verdict.accepted
        )
        return Step(verdict.x, AdaptiveSaddleFreeState(curvature, verdict.step, verdict.damping), info)


def average_curvature(average: Array, hessian: Array, ema: float) -> Array:
    """ema·average + (1-ema)·hessian, each (..., n, n); the one that is finite where the other is not.

    An average of NaN stands for none: the first Hessian starts it.
    """
    xp = namespace(hessian)
    known, usable = _finite_matrix(average), _finite_matrix(hessian)
    mixed = ema * average + (1.0 - ema) * hessian
    return xp.where(known, xp.where(usable, mixed, average), hessian)


def _finite_matrix(matrix: Array) -> Array:
    xp = namespace(matrix)
    return xp.all(xp.all(xp.isfinite(matrix), axis=-1), axis=-1)[..., None, None]


def _apply_model(here: Spectrum, damping: Array, vector: Array) -> Array:
    return apply(here, namespace(vector).abs(here.eigenvalues) + damping[..., None], vector)
