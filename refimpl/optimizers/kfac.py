"""K-FAC: each layer's Gauss–Newton block as a Kronecker product, whose inverse is that of two small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, check_positive, namespace
from refimpl.curvature.spectrum import eigen
from refimpl.optimizers.adaptive_saddle_free import average_curvature
from refimpl.optimizers.base import NoInfo, Step, settle
from refimpl.optimizers.damping import check_accept, judge, model_step, settle_damping
from refimpl.oracle import KroneckerFactors, Point


class KFACState(NamedTuple):
    """What one step hands to the next.

    factors : running means of the Kronecker factors, one entry per layer; empty before the first step.
    step : what was last subtracted from x, (..., n); zero at the start.
    """

    factors: tuple[KroneckerFactors, ...]
    step: Array


class AdaptiveKFACState(NamedTuple):
    """What one step hands to the next.

    factors : running means of the Kronecker factors, one entry per layer; empty before the first step.
    step : d, what was last subtracted from x, (..., n); zero at the start and after a rejection.
    damping : lambda, (...).
    """

    factors: tuple[KroneckerFactors, ...]
    step: Array
    damping: Array


class AdaptiveKFACInfo(NamedTuple):
    """What a step reports, each (...): ``damping`` is the one the step used, ``ratio`` actual/predicted change."""

    learning_rate: Array
    momentum: Array
    damping: Array
    predicted_change: Array
    ratio: Array
    accepted: Array


@dataclass(frozen=True)
class KFAC:
    """K-FAC with everything fixed: v <- momentum v + learning_rate u, x <- x - v.

    u is the gradient through the damped inverse of :func:`precondition`.

    Parameters
    ----------
    learning_rate, damping : positive.
    momentum : in [0, 1).
    ema : weight of the *old* factors in their running mean, in [0, 1). With 0, only the factors of this sample count.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, a problem without layers.

    Notes
    -----
    The factors are those of the exact Gauss–Newton matrix: all k outputs are followed back. The original, and the
    library kfac-jax in its default setting, follow back the gradient of one target per sample drawn from the model's
    prediction: an unbiased estimate for the price of one backward pass. With few outputs the exact factors cost
    little more, and nothing is random.

    Nothing guards the step: with a small damping and a fixed learning rate the method can diverge.

    Leading axes ``(..., n)`` are allowed. Cost: one gradient, k reverse-mode passes, and per layer two
    eigendecompositions, O(fan_in^3 + fan_out^3).

    Source: Martens & Grosse (2015), sec. 3 (factors), 5 (running mean), 6.3 (damping).
    """

    learning_rate: float
    damping: float
    momentum: float = 0.0
    ema: float = 0.0
    name: ClassVar[str] = "kfac"

    def __post_init__(self) -> None:
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            damping=check_positive("damping", self.damping),
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            ema=check_between("ema", self.ema, 0.0, 1.0),
        )

    def init(self, x: Array) -> KFACState:
        """No factors seen, no step taken."""
        return KFACState((), namespace(x).zeros_like(x))

    def step(self, point: Point, state: KFACState) -> Step:
        """One step: (..., n)."""
        xp, lead = namespace(point.x), tuple(point.x.shape[:-1])
        factors = average_factors(state.factors, point.kronecker_factors(), self.ema)
        damping = xp.full(lead, self.damping, dtype=point.x.dtype, device=backend_of(point.x).device)
        u = _direction(point, factors, damping)
        step = self.momentum * state.step + self.learning_rate * u
        return Step(point.x - step, KFACState(factors, step), NoInfo())


@dataclass(frozen=True)
class AdaptiveKFAC:
    """K-FAC that sets its own learning rate, momentum and damping from the exact Gauss–Newton model.

    With the gradient g and the Gauss–Newton matrix G at x, damping lam and the step d last subtracted::

        factors <- ema factors + (1 - ema) those at x      (the first are taken as they are)
        u  = g through the damped inverse of the factors   see precondition
        A  = G + lam I                                     the model m(s) = -g·s + s·As/2
        s  = eta u + mu d, eta and mu minimizing m
        x <- x - s
        lam <- Levenberg-Marquardt's rule on (f(x - s) - f(x)) / m(s)

    Parameters
    ----------
    initial_damping : lam at the start, between the two bounds.
    ema : weight of the *old* factors, in [0, 1).
    omega : factor of the damping rule, in (0, 1).
    minimum_damping, maximum_damping : bounds of lam, positive.
    accept : ``"guarded"``: where f(x - s) is not finite or m(s) >= 0, x stays, d becomes zero and lam doubles;
        or ``"always"``: every step is taken.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, a problem without layers.

    Notes
    -----
    Differences from kfac-jax, the library behind "KFAC (DeepMind)" in the series paper, as its defaults are: exact
    Gauss–Newton factors instead of sampled gradients (see :class:`KFAC`); a running mean that gives the first factors
    their full weight instead of dividing by the sum of weights; the ratio judged by the damped model; damping and
    inverses renewed at every step instead of every fifth (the paper's setting too); no factors gathered before the
    first step; the guards. There is no weight decay and no separate damping for the factors (sec. 6.6 of the source).

    A step that raises the loss is taken all the same, and answered with more damping. At a stationary point nothing
    moves and lam stays. Factors that are not finite are not averaged in. In a ReLU network the gradient jumps from
    one linear piece to the next: close to a minimum that lies on such an edge no short step has a good ratio, lam
    climbs to its upper bound and the run stands still.

    Leading axes ``(..., n)`` are allowed: each run has its own damping and decisions. Cost: one gradient, k
    reverse-mode passes for the factors, two Gauss–Newton products, one loss, and per layer two eigendecompositions,
    O(fan_in^3 + fan_out^3).

    Source: Martens & Grosse (2015), sec. 3, 5, 6.3 to 6.5 and 7.
    """

    initial_damping: float
    ema: float = 0.95
    omega: float = 0.9
    minimum_damping: float = 1e-8
    maximum_damping: float = 1e8
    accept: Literal["guarded", "always"] = "guarded"
    name: ClassVar[str] = "adaptive-kfac"

    def __post_init__(self) -> None:
        settle_damping(self)
        settle(self, ema=check_between("ema", self.ema, 0.0, 1.0))
        check_accept(self.accept)

    def init(self, x: Array) -> AdaptiveKFACState:
        """No factors seen, no step taken, the initial damping."""
        xp, batch = namespace(x), tuple(x.shape[:-1])
        damping = xp.full(batch, self.initial_damping, dtype=x.dtype, device=backend_of(x).device)
        return AdaptiveKFACState((), xp.zeros_like(x), damping)

    def step(self, point: Point, state: AdaptiveKFACState) -> Step:
        """One step: (..., n)."""
        gradient, damping, d = point.gradient, state.damping, state.step
        factors = average_factors(state.factors, point.kronecker_factors(), self.ema)
        u = _direction(point, factors, damping)

        a_u = point.ggnvp(u) + damping[..., None] * u
        a_d = point.ggnvp(d) + damping[..., None] * d
        found = model_step(gradient, u, a_u, d, a_d)
        verdict = judge(point, found.step, found.predicted_change, self, damping)
        info = AdaptiveKFACInfo(
            found.learning_rate, found.momentum, damping, found.predicted_change, verdict.ratio, verdict.accepted
        )
        return Step(verdict.x, AdaptiveKFACState(factors, verdict.step, verdict.damping), info)


def precondition(factors: KroneckerFactors, damping: Array, gradient: Array) -> Array:
    """One layer's gradient through the damped inverse: (S + sqrt(lam)/pi I)^{-1} V (A + pi sqrt(lam) I)^{-1}.

    pi^2 = (tr A / dim A) / (tr S / dim S) shares the damping out so that both factors are damped in proportion to
    their size; where a trace is not positive, pi = 1.

    Parameters
    ----------
    factors : A (..., p, p) and S (..., q, q).
    damping : lam, (...), positive.
    gradient : V, (..., q, p).

    Returns
    -------
    Array
        (..., q, p); NaN where a factor is not finite.

    Notes
    -----
    Both factors are taken apart into eigenvectors, and eigenvalues that rounding made negative become zero: no
    library raises then, whatever the factors hold.

    Source: Martens & Grosse (2015), sec. 6.3.

    >>> import numpy as np
    >>> one = KroneckerFactors(4.0 * np.eye(2), np.eye(1))
    >>> precondition(one, np.asarray(1.0), np.ones((1, 2))).round(12).tolist()  # pi = 2: 1 / ((1 + 1/2) (4 + 2))
    [[0.111111111111, 0.111111111111]]
    """
    xp = namespace(gradient)
    inputs, outputs = factors
    size_in, size_out = xp.linalg.trace(inputs) / inputs.shape[-1], xp.linalg.trace(outputs) / outputs.shape[-1]
    usable = (size_in > 0) & (size_out > 0)
    one = xp.ones_like(size_in)
    # Two roots and then the quotient: the quotient of the sizes themselves could overflow.
    pi = xp.sqrt(xp.where(usable, size_in, one)) / xp.sqrt(xp.where(usable, size_out, one))
    root = xp.sqrt(damping)
    (a, basis_in), (s, basis_out) = eigen(inputs), eigen(outputs)
    a = xp.clip(a, min=0.0) + (pi * root)[..., None]
    s = xp.clip(s, min=0.0) + (root / pi)[..., None]
    rotated = xp.matrix_transpose(basis_out) @ gradient @ basis_in
    return basis_out @ (rotated / (s[..., :, None] * a[..., None, :])) @ xp.matrix_transpose(basis_in)


def average_factors(
    average: Sequence[KroneckerFactors], factors: Sequence[KroneckerFactors], ema: float
) -> tuple[KroneckerFactors, ...]:
    """ema·average + (1-ema)·factors, layer by layer; the factors themselves where ``average`` is empty.

    A factor that is not finite is not averaged in. Source: Martens & Grosse (2015), sec. 5.
    """
    if not average:
        return tuple(factors)
    return tuple(
        KroneckerFactors(*(average_curvature(old, new, ema) for old, new in zip(before, now, strict=True)))
        for before, now in zip(average, factors, strict=True)
    )


def _direction(point: Point, factors: Sequence[KroneckerFactors], damping: Array) -> Array:
    gradients = point.problem.to_layers(point.gradient)
    layers = [precondition(pair, damping, layer) for pair, layer in zip(factors, gradients, strict=True)]
    return point.problem.from_layers(layers)
