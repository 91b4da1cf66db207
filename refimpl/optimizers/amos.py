"""AMOS: Sophia for the groups of coordinates whose curvature stays put, gradient descent for the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import (
    Array,
    as_generator,
    backend_of,
    check_between,
    check_count,
    check_positive,
    namespace,
    norm,
    widened,
)
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.groups import Groups
from refimpl.optimizers.sophia import Sophia, share_of
from refimpl.oracle import Point


class AMOSState(NamedTuple):
    """What one step hands to the next; a Hessian time is a step that estimates the diagonal.

    mean, curvature : Sophia's m and h, (..., n).
    steps, times : steps and Hessian times so far.
    lipschitz : L, the running mean of the slopes of the curvature, uncorrected, (..., n).
    updates : how many slopes it has seen, (..., 1), or (..., n) where ``distance`` is ``"element"``.
    last_estimate, last_x : the estimate of the diagonal at the last Hessian time (not h), and its place, (..., n).
    lipschitz_mean : mean of the corrected L over coordinates, (...).
    group_lipschitz, offloaded : as decided there, (..., groups); no groups before the first step.
    """

    mean: Array
    curvature: Array
    steps: int
    times: int
    lipschitz: Array
    updates: Array
    last_estimate: Array
    last_x: Array
    lipschitz_mean: Array
    group_lipschitz: Array
    offloaded: Array


class AMOSInfo(NamedTuple):
    """What a step reports: the shares of coordinates that took a clipped step of Sophia, and that are offloaded, (...);
    whether this was a Hessian time; the mean of L over coordinates, (...), and L of every group, (..., groups)."""

    clipped: Array
    estimated: bool
    offloaded: Array
    lipschitz_mean: Array
    group_lipschitz: Array


@dataclass(frozen=True)
class AMOS(Sophia):
    """Sophia, but x <- x - offload_rate·g, without decay, in groups whose L is above a threshold.

    In every k-th step the diagonal d is estimated, and with D = |x - x'|, d' and x' those of k steps before::

        L <- alpha L + (1 - alpha) |d - d'| / (epsilon2 + D)       nothing where D = 0
        a group is offloaded where its mean of L / (1 - alpha^updates) is above the threshold

    Parameters
    ----------
    learning_rate, …, epsilon : as for :class:`~refimpl.optimizers.sophia.Sophia`.
    offload_rate : learning rate of gradient descent; not needed with ``offload="freeze"``.
    threshold : where a group is offloaded. A number: where its L is above it, strictly. ``"newton"``: where the cubic
        bound of the change by the full Newton step -g/h, summed over the group, is positive; coordinates with h <= 0
        are left out. ``"certificate"``: where that of Sophia's own clipped step, without decay, is. Not needed where
        groups are selected otherwise.
    alpha : in [0, 1), weight of the old L.
    epsilon2 : at least zero.
    aggregation : the L of a group, ``"mean"`` or ``"max"`` of those of its coordinates; with ``"max"``, the two bounds
        offload a group of which a single coordinate has a positive one.
    chunk : None, groups are the tensors of the problem; or a number of coordinates, i is in group i // chunk.
    distance : D is that of the whole vector (``"global"``) or of the coordinate alone (``"element"``). Steps of eta in
        one direction and the other bring a coordinate back: D is then next to nothing and its L very large.
    bias_correction : whether L is divided by 1 - alpha^updates, which undoes its start from zero.
    selection : ``"lipschitz"``, by the threshold; ``"random"``, at each Hessian time every group with probability
        ``fraction``; ``"static"``, the groups whose numbers ``static`` lists.
    offload : ``"sgd"``, or ``"freeze"``: offloaded groups stay where they are.
    draws : how many estimates of the diagonal are averaged at a Hessian time.

    Raises
    ------
    ValueError
        A knob outside its range, or missing; in ``step``, a group in ``static`` that the problem does not have.

    Notes
    -----
    What is compared is d, not Sophia's h, whose running mean would hide most of the change. The reference is always
    the last Hessian time, also where D = 0. Sophia's m and h are updated in all groups.

    With one draw, |d - d'| is mostly the noise of d, so L is about noise / D: it grows where steps become short, such
    as under a decaying learning rate, and for groups that are offloaded with a small rate. Thresholds are not
    dimensionless; typical values depend on problem, batch and interval.

    The bound of a step s is sum_i g_i s_i + h_i s_i^2/2 + L_i |s_i|^3/6 with the corrected L. Random sets are drawn
    from a generator of (seed, step, 1). One decision per run where there are leading axes.

    Cost: as Sophia's, ``draws`` times in Hessian times. Memory: 5 vectors; two more numbers per group.

    Source: ELMO paper, Algorithm 2 (lines 3–13), section 4 and appendix K; eq. 8 for ``"newton"``. Bias correction and
    chunks are named there as future work; the certificate and the controls (random, static, freeze) are ours.
    """

    offload_rate: float | None = field(default=None, kw_only=True)
    threshold: float | str | None = field(default=None, kw_only=True)
    alpha: float = field(default=0.9, kw_only=True)
    epsilon2: float = field(default=1e-12, kw_only=True)
    aggregation: Literal["mean", "max"] = field(default="mean", kw_only=True)
    chunk: int | None = field(default=None, kw_only=True)
    distance: Literal["global", "element"] = field(default="global", kw_only=True)
    bias_correction: bool = field(default=True, kw_only=True)
    selection: Literal["lipschitz", "random", "static"] = field(default="lipschitz", kw_only=True)
    fraction: float | None = field(default=None, kw_only=True)
    static: tuple[int, ...] | None = field(default=None, kw_only=True)
    offload: Literal["sgd", "freeze"] = field(default="sgd", kw_only=True)
    draws: int = field(default=1, kw_only=True)
    name: ClassVar[str] = "amos"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            alpha=check_between("alpha", self.alpha, 0.0, 1.0),
            epsilon2=check_positive("epsilon2", self.epsilon2, zero_allowed=True),
            draws=check_count("draws", self.draws),
            chunk=None if self.chunk is None else check_count("chunk", self.chunk),
        )
        for knob, choices in _CHOICES.items():
            if getattr(self, knob) not in list(choices):
                raise ValueError(f"unknown {knob} {getattr(self, knob)!r}; choose one of {list(choices)}")
        if not isinstance(self.bias_correction, bool):
            raise ValueError(f"bias_correction must be True or False, got {self.bias_correction!r}")
        if self.offload_rate is not None:
            settle(self, offload_rate=check_positive("offload_rate", self.offload_rate))
        elif self.offload == "sgd":
            raise ValueError("offload='sgd' needs an offload_rate, the learning rate of gradient descent, got None")
        self._settle_selection()

    @classmethod
    def published(cls, **knobs: Any) -> AMOS:
        """Algorithm 2 with the settings of appendix K: L starts from zero and is not corrected, groups are tensors.

        Line 5 as printed compares with iteration t - 1. Read literally, a diagonal must be known there, which it is
        only where every iteration estimates one: that is ``interval=1``, where both readings agree. Otherwise
        appendix N (a copy of the parameters "at the position at which the previous Hessian was estimated") tells that
        the previous Hessian time is meant, which is what happens here. Still as elsewhere in this class: a displacement
        of zero is skipped, where the printed quotient has the noise divided by epsilon2 alone; the stop test of line 2,
        which needs a place that does not exist yet, is left to the loop; estimates are those of Sophia before its
        running mean, on which the paper is silent. Sophia's beta1, beta2 and learning rate are "standard AdamW" ones.
        """
        printed: dict[str, Any] = {
            "learning_rate": 6e-4,
            "beta1": 0.9,
            "beta2": 0.95,
            "rho": 0.01,
            "offload_rate": 1.25e-5,
            "threshold": 2e-10,
            "alpha": 0.99,
            "bias_correction": False,
        }
        return cls(**{**printed, **knobs})

    def init(self, x: Array) -> AMOSState:  # type: ignore[override]
        """Running means of zero, nothing offloaded."""
        xp, lead, zero = namespace(x), tuple(x.shape[:-1]), namespace(x).zeros_like(x)
        updates = zero if self.distance == "element" else xp.zeros_like(x[..., :1])
        none = xp.zeros((*lead, 0), dtype=x.dtype, device=backend_of(x).device)
        return AMOSState(zero, zero, 0, 0, zero, updates, zero, zero, zero[..., 0], none, xp.astype(none, xp.bool))

    def step(self, point: Point, state: AMOSState) -> Step:  # type: ignore[override]
        """One step: (..., n)."""
        xp, x, steps = namespace(point.x), point.x, state.steps
        renewed = steps % self.interval == 0 or state.times == 0
        groups = Groups.of(point.problem.tensor_shapes, self.chunk)
        mean = self._mean(point, state.mean)
        if renewed:
            estimate = self._estimate(point, steps, self.draws)
            state = self._measured(state, estimate, x)._replace(
                curvature=self._average(state.curvature, estimate), times=state.times + 1
            )
        change, clipped = self._change(mean, state.curvature)
        if renewed:
            lipschitz = self._corrected(state)
            offloaded = self._chosen(point, groups, lipschitz, state.curvature, change, steps)
            known = groups.mean(lipschitz) if self.aggregation == "mean" else groups.max(lipschitz)
            if offloaded is None:
                offloaded = known > self.threshold
            state = state._replace(
                lipschitz_mean=xp.mean(lipschitz, axis=-1), group_lipschitz=known, offloaded=offloaded
            )
        mask = groups.spread(state.offloaded)
        resting = x if self.offload == "freeze" else x - self.offload_rate * point.gradient
        info = AMOSInfo(
            share_of(clipped & ~mask, x), renewed, share_of(mask, x), state.lipschitz_mean, state.group_lipschitz
        )
        state = state._replace(mean=mean, steps=steps + 1)
        return Step(xp.where(mask, resting, self._shrunk(point) + change), state, info)

    def _measured(self, state: AMOSState, estimate: Array, x: Array) -> AMOSState:
        """L with one more slope, and this place as the reference of the next."""
        xp, lipschitz, updates = namespace(x), state.lipschitz, state.updates
        if state.times > 0:
            moved = x - state.last_x
            distance = xp.abs(moved) if self.distance == "element" else norm(moved)[..., None]
            counts = distance > 0
            slope = xp.abs(estimate - state.last_estimate) / (self.epsilon2 + xp.where(counts, distance, 1.0))
            lipschitz = xp.where(counts, self.alpha * lipschitz + (1.0 - self.alpha) * slope, lipschitz)
            updates = xp.where(counts, updates + 1.0, updates)
        return state._replace(lipschitz=lipschitz, updates=updates, last_estimate=estimate, last_x=x)

    def _corrected(self, state: AMOSState) -> Array:
        if not self.bias_correction or self.alpha == 0.0:
            return state.lipschitz
        xp = namespace(state.lipschitz)
        # 1 - alpha^k; where k = 0, L is zero whatever it is divided by.
        return state.lipschitz / -xp.expm1(math.log(self.alpha) * xp.clip(state.updates, min=1.0))

    def _chosen(
        self, point: Point, groups: Groups, lipschitz: Array, curvature: Array, change: Array, steps: int
    ) -> Array | None:
        """Which groups are offloaded from now on, (..., groups) of bool; None where the threshold is a number."""
        xp, backend = namespace(point.x), backend_of(point.x)
        if self.selection != "lipschitz":
            if self.selection == "random":
                draws = as_generator([self.seed, steps, 1]).uniform(size=len(groups)).tolist()
                flags = [float(u < self.fraction) for u in draws]
            else:
                assert self.static is not None
                if max(self.static) >= len(groups):
                    raise ValueError(f"static names group {max(self.static)}, but there are {len(groups)}: 0 to n - 1")
                flags = [float(number in self.static) for number in range(len(groups))]
            return xp.broadcast_to(backend.asarray(flags) > 0.5, (*tuple(point.x.shape[:-1]), len(groups)))
        if not isinstance(self.threshold, str):
            return None
        g, h = point.gradient, xp.clip(curvature, min=0.0)
        if self.threshold == "newton":
            usable = h > 0
            change = xp.where(usable, -g / xp.where(usable, h, 1.0), 0.0)
        size = xp.abs(change)
        bound = widened(change * (g + 0.5 * h * change) + lipschitz * size * size * size / 6.0)
        return (groups.sum(bound) if self.aggregation == "mean" else groups.max(bound)) > 0

    def _settle_selection(self) -> None:
        threshold = self.threshold
        if isinstance(threshold, str):
            if threshold not in ("newton", "certificate"):
                raise ValueError(f"unknown threshold {threshold!r}; choose a number, 'newton' or 'certificate'")
        elif threshold is not None:
            settle(self, threshold=check_positive("threshold", threshold, zero_allowed=True))
        elif self.selection == "lipschitz":
            raise ValueError("selection='lipschitz' needs a threshold: a number, 'newton' or 'certificate', got None")
        for knob, selection in (("fraction", "random"), ("static", "static")):
            if (getattr(self, knob) is None) == (self.selection == selection):
                raise ValueError(
                    f"{knob}={getattr(self, knob)!r} with selection={self.selection!r}; {knob} belongs to "
                    f"selection={selection!r}, which needs it"
                )
        if self.fraction is not None:
            settle(self, fraction=check_between("fraction", self.fraction, 0.0, 1.0, open_right=False))
        if self.static is not None:
            if not isinstance(self.static, list | tuple) or not self.static:
                raise ValueError(f"static must list the numbers of groups, at least one, got {self.static!r}")
            settle(self, static=tuple(check_count("a number in static", i, minimum=0) for i in self.static))


_CHOICES = {
    "aggregation": ("mean", "max"),
    "distance": ("global", "element"),
    "selection": ("lipschitz", "random", "static"),
    "offload": ("sgd", "freeze"),
}
