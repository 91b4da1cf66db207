"""Saddle-free Newton by the series: the series paper's optimizer, plain and adaptive.

Both come in three readings. The defaults are what this package stands for: the accelerator that was asked for, a
guard on V, a plain sum where an accelerated one would climb. ``published()`` has the rules as the paper prints them,
``released()`` as its public code executes them; every difference is a field that can be set alone.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, check_count, check_positive, dot, dtype_name, namespace
from refimpl.curvature.acceleration import AcceleratorName, check_accelerator
from refimpl.curvature.operators import check_damping, only_finite
from refimpl.curvature.scale import lanczos_scale, ratio_scale
from refimpl.curvature.series import Mode, SeriesSum, sum_series
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.damping import ModelStep, check_accept, judge, model_step, settle_damping
from refimpl.oracle import Point

ScaleRule = Literal["fixed", "ratio", "lanczos"]
SCALE_RULES = ("fixed", "ratio", "lanczos")


class SeriesState(NamedTuple):
    """``velocity`` (..., n) and V (...), which the ratio rule carries from step to step."""

    velocity: Array
    scale: Array


class SeriesInfo(NamedTuple):
    """``scale``: the V that was used. ``restarts``: how often it proved too small. ``fell_back``: whether the plain sum
    replaced the accelerated one."""

    scale: Array
    restarts: int
    fell_back: Array


@dataclass(frozen=True)
class SeriesSaddleFreeNewton:
    """u = K terms of the series for |H|^{-1} g, accelerated N times; v <- mu v + eta u; x <- x - v.

    Parameters
    ----------
    terms : K, at least 1. A step costs 2 (K - 1) products; K = 1 is gradient descent with rate eta/sqrt(V).
    order : N, how often the sums are accelerated; K >= 2N + 1.
    learning_rate : eta, positive. momentum : mu in [0, 1).
    damping, mode : d and what it does, see :func:`refimpl.curvature.series.sum_series`.
    accelerate : an accelerator of :mod:`refimpl.curvature.acceleration`; unused with ``order=0``.
    scale : V at the start, positive.
    scale_rule : ``"ratio"``: V <- max(decay V, |H^2 g|/|g|), at no extra product for K >= 2; ``"lanczos"``: anew in
        each step from 8 further products; ``"fixed"``: V stays (but for the guard).
    scale_decay : factor on the old V in the ratio rule, in (0, 1]. With 1, as published, V never falls: one excursion
        to large curvature and the method crawls for ever.
    guard : restart with a larger V where the products prove it too small; plain sum where the accelerated one is not
        finite or does not point uphill.
    first_term : with K = 1 and ``"abs"`` damping the direction is g/(sqrt(V) + d) (``"damped"``), or g/sqrt(V) as in
        the released code (``"undamped"``), which does not update V either.

    Raises
    ------
    ValueError
        A knob outside its range, or K too short for N.

    Notes
    -----
    Leading axes ``(..., n)`` are allowed: each run has its own V. A gradient of zero gives a
    direction of zero and leaves V as it is.
    The guard reads one number per term after the first back to the host; without it nothing is.
    Cost: one gradient and 2 (K - 1) products, more where the guard restarts.

    Source: series paper, algorithm 1 with eqs. 3-5 and, for the momentum, its table 3.
    """

    terms: int
    order: int = 0
    learning_rate: float = 1.0
    momentum: float = 0.0
    damping: float = 0.0
    mode: Literal["none", "abs", "square"] = "none"
    accelerate: AcceleratorName = "sablonniere"
    scale: float = 100.0
    scale_rule: ScaleRule = "ratio"
    scale_decay: float = 1.0
    guard: bool = True
    first_term: Literal["damped", "undamped"] = "damped"
    name: ClassVar[str] = "series-sfn"

    def __post_init__(self) -> None:
        _check_series(self)
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            damping=check_positive("damping", self.damping, zero_allowed=True),
        )
        check_damping(self.damping, self.mode, ("none", "abs", "square"))

    @classmethod
    def published(cls, terms: int, order: int, **knobs: Any) -> SeriesSaddleFreeNewton:
        """As printed: Sablonnière's weights, the ratio rule with V0 = 100 and no guard."""
        return cls(terms, order, **{"guard": False, **knobs})

    @classmethod
    def released(cls, terms: int, order: int, **knobs: Any) -> SeriesSaddleFreeNewton:
        """As the public code executes: plain Shanks weights, since the name of the modification is compared with a
        misspelt constant (errata E16), damping of the ``"abs"`` kind, none for K = 1, and no guard."""
        damped = {"mode": "abs"} if knobs.get("damping", 0.0) else {}
        return cls(
            terms, order, **{**damped, "accelerate": "shanks", "guard": False, "first_term": "undamped", **knobs}
        )

    def init(self, x: Array) -> SeriesState:
        """No velocity, the V of the start. Warns where ``x`` is in single precision and N is at least 2."""
        _warn_of_single_precision(self, x)
        return SeriesState(namespace(x).zeros_like(x), _full(x, self.scale))

    def step(self, point: Point, state: SeriesState) -> Step:
        """One step: (..., n)."""
        found, scale = _direction(self, point, state.scale, self.damping, self.mode)
        velocity = self.momentum * state.velocity + self.learning_rate * found.direction
        info = SeriesInfo(found.scale, found.restarts, found.fell_back)
        return Step(point.x - velocity, SeriesState(velocity, scale), info)


class AdaptiveSeriesState(NamedTuple):
    """V (...), d the step that was last subtracted (..., n), and the damping lambda (...)."""

    scale: Array
    step: Array
    damping: Array


class AdaptiveSeriesInfo(NamedTuple):
    """What a step reports, each (...): ``damping`` is the one it used, ``ratio`` actual over predicted change."""

    learning_rate: Array
    momentum: Array
    damping: Array
    scale: Array
    predicted_change: Array
    ratio: Array
    accepted: Array
    restarts: int


@dataclass(frozen=True)
class AdaptiveSeriesSaddleFreeNewton:
    """The series with learning rate, momentum and damping from a quadratic model, as K-FAC has them.

    With lam the damping and d the step last subtracted::

        u  = K terms of the series for (|H| + lam)^{-1} g, accelerated N times
        s  = eta u + mu d, where eta and mu minimize the model -g·s + s·As/2
        x <- x - s
        lam <- Levenberg-Marquardt's rule on (f(x - s) - f(x)) / model(s)

    Parameters
    ----------
    terms, order, accelerate, scale, scale_rule, scale_decay, guard, first_term : as in
        :class:`SeriesSaddleFreeNewton`.
    initial_damping, omega, minimum_damping, maximum_damping : as in
        :class:`refimpl.optimizers.adaptive_saddle_free.AdaptiveSaddleFreeNewton`.
    mode : ``"abs"`` as published, or ``"square"``.
    solve : ``"released"``: eta = 1 and mu = 0, which is what the public code computes whatever its inputs (errata E18);
        or ``"gauss-newton"``: A = G + lam I with two Gauss–Newton products. A must differ from the matrix that gave u:
        with the same one, the answer is (1, 0) again (errata E7).
    accept : ``"guarded"``: where f(x - s) is not finite or the model does not fall, x stays, d becomes zero and lam
        doubles; or ``"always"``.

    Raises
    ------
    ValueError
        A knob outside its range; a problem without outputs asked for Gauss–Newton products.

    Notes
    -----
    Cost: one gradient, 2 (K - 1) products, one loss; two Gauss–Newton products with that solve.

    Source: series paper, secs. 2 and 4 ("Ours (Adaptive)") and appendix A.4; Martens & Grosse (2015), secs. 6.5 and 7.
    """

    terms: int
    initial_damping: float
    order: int = 0
    omega: float = 0.9
    minimum_damping: float = 1e-8
    maximum_damping: float = 1e8
    mode: Literal["abs", "square"] = "abs"
    solve: Literal["gauss-newton", "released"] = "gauss-newton"
    accept: Literal["guarded", "always"] = "guarded"
    accelerate: AcceleratorName = "sablonniere"
    scale: float = 100.0
    scale_rule: ScaleRule = "ratio"
    scale_decay: float = 1.0
    guard: bool = True
    first_term: Literal["damped", "undamped"] = "damped"
    name: ClassVar[str] = "adaptive-series-sfn"

    def __post_init__(self) -> None:
        _check_series(self)
        settle_damping(self)
        check_damping(self.initial_damping, self.mode, ("abs", "square"))
        _check_choice("solve", self.solve, ("gauss-newton", "released"))
        check_accept(self.accept)

    @classmethod
    def released(
        cls, terms: int, initial_damping: float, order: int = 0, **knobs: Any
    ) -> AdaptiveSeriesSaddleFreeNewton:
        """As the public code executes: Shanks weights, (eta, mu) = (1, 0), every step taken, no guard."""
        fixed = {"accelerate": "shanks", "solve": "released", "accept": "always", "guard": False}
        return cls(terms, initial_damping, order, **{**fixed, "first_term": "undamped", **knobs})

    def init(self, x: Array) -> AdaptiveSeriesState:
        """The V of the start, no step, the initial damping. Warns where ``x`` is float32 and N is at least 2."""
        _warn_of_single_precision(self, x)
        return AdaptiveSeriesState(_full(x, self.scale), namespace(x).zeros_like(x), _full(x, self.initial_damping))

    def step(self, point: Point, state: AdaptiveSeriesState) -> Step:
        """One step: (..., n)."""
        xp = namespace(point.x)
        gradient, damping, d = point.gradient, state.damping, state.step
        found, scale = _direction(self, point, state.scale, damping, self.mode)
        u = found.direction
        if self.solve == "released":
            one = xp.ones_like(damping)
            best = ModelStep(one, 0.0 * one, u, -0.5 * dot(gradient, u))
        else:
            a_u = point.ggnvp(u) + damping[..., None] * u
            a_d = point.ggnvp(d) + damping[..., None] * d
            best = model_step(gradient, u, a_u, d, a_d)
        verdict = judge(point, best.step, best.predicted_change, self, damping)
        info = AdaptiveSeriesInfo(
            best.learning_rate,
            best.momentum,
            damping,
            found.scale,
            best.predicted_change,
            verdict.ratio,
            verdict.accepted,
            found.restarts,
        )
        return Step(verdict.x, AdaptiveSeriesState(scale, verdict.step, verdict.damping), info)


def _direction(method: Any, point: Point, scale: Array, damping: Any, mode: Mode) -> tuple[SeriesSum, Array]:
    """The direction, NaN where the gradient is not finite, and the V that the next step starts from."""
    gradient, usable = only_finite(point.gradient)
    xp = namespace(gradient)
    undamped_first = method.terms == 1 and method.first_term == "undamped"
    pair = None
    if method.scale_rule == "ratio" and method.terms > 1:
        half = point.hvp(gradient)
        pair = (half, point.hvp(half))
        grown = ratio_scale(gradient, pair[1], method.scale_decay * scale)
        scale = xp.where(xp.any(gradient != 0, axis=-1), grown, scale)
    elif method.scale_rule == "lanczos":
        found_scale = lanczos_scale(point.hvp, gradient, checked=False)
        scale = xp.where(xp.isfinite(found_scale) & (found_scale > 0), found_scale, scale)
    found = sum_series(
        point.hvp,
        gradient,
        terms=method.terms,
        scale=scale,
        damping=0.0 if undamped_first else damping,
        mode="none" if undamped_first else mode,
        accelerate=method.accelerate if method.order else None,
        order=method.order,
        guard=method.guard,
        first_products=pair,
        checked=False,
    )
    direction = xp.where(usable[..., None], found.direction, xp.full_like(gradient, float("nan")))
    carried = found.scale if method.scale_rule != "fixed" else scale
    return found._replace(direction=direction), carried


def _check_series(method: Any) -> None:
    check_count("terms", method.terms)
    check_accelerator(method.accelerate if method.order else None, method.order, method.terms)
    _check_choice("scale_rule", method.scale_rule, SCALE_RULES)
    _check_choice("first_term", method.first_term, ("damped", "undamped"))
    if not isinstance(method.guard, bool):
        raise ValueError(f"guard must be True or False, got {method.guard!r}")
    decay = check_between("scale_decay", check_positive("scale_decay", method.scale_decay), 0.0, 1.0, open_right=False)
    settle(method, scale=check_positive("scale", method.scale), scale_decay=decay)


def _warn_of_single_precision(method: Any, x: Array) -> None:
    # Neighbouring sums differ little, and each pair of columns divides by their differences.
    if method.order >= 2 and dtype_name(x.dtype) == "float32":
        warnings.warn(
            f"accelerating {method.order} times in float32: rounding decides the direction from N = 2 on (up to a "
            "fifth of it on the series paper's network with N = 8); use float64, or order=0 or 1",
            UserWarning,
            stacklevel=3,
        )


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}; choose one of {list(choices)}")


def _full(x: Array, value: float) -> Array:
    return namespace(x).full(tuple(x.shape[:-1]), value, dtype=x.dtype, device=backend_of(x).device)
