"""What trust-region methods share: the ratio of actual to predicted reduction, and the radius that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from refimpl.arrays import Array, check_between, check_positive, machine_epsilon, norm
from refimpl.optimizers.base import settle


class Judged(NamedTuple):
    """What became of a trial: whether it is taken, the next radius, actual over predicted reduction."""

    accepted: bool
    radius: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class RadiusRule:
    """The knobs of every trust-region method here, and their rule. Not a method by itself.

    Parameters
    ----------
    initial_radius, maximum_radius : Delta at the start, and its bound (in the units of x).
    minimum_radius : Delta never falls below it; None takes eps(dtype) (1 + |x|), the shortest step that still changes
        x; 0 lets it fall to nothing.
    accept_above : c0: a step is taken where the ratio is above it.
    shrink_below, expand_above : c1 and c2: the radius shrinks where the ratio is below c1, and grows where it is above
        c2 and the step went to the boundary.
    shrink, expand : gamma_1 < 1 and gamma_2 > 1. A refused step shorter than the radius shrinks from its own length.
    noise : changes of the loss up to this many eps(dtype) max(1, |f|) say nothing: where both the actual and the
        predicted one are as small, the ratio counts as 1. 0 turns that off.

    Notes
    -----
    A trial loss that is not finite, or a model that predicts no decrease, counts as a ratio of -1. |p| = Delta is read
    as |p| >= (1 - 1e-6) Delta.

    Source: Nocedal & Wright (2006), algorithm 4.1; KryBall thesis, Algorithm 3, which tests |p| = Delta in floating
    point; the rule for noise: Conn, Gould & Toint (2000), sec. 17.4.2.
    """

    initial_radius: float = 1.0
    maximum_radius: float = 1000.0
    minimum_radius: float | None = None
    accept_above: float = 0.0
    shrink_below: float = 0.25
    expand_above: float = 0.75
    shrink: float = 0.5
    expand: float = 2.0
    noise: float = 10.0

    def __post_init__(self) -> None:
        self._settle_radius()

    def _settle_radius(self) -> None:
        start = check_positive("initial_radius", self.initial_radius)
        most = check_positive("maximum_radius", self.maximum_radius)
        if start > most:
            raise ValueError(f"initial_radius must be at most maximum_radius, got {start!r} and {most!r}")
        if self.minimum_radius is not None:
            least = check_positive("minimum_radius", self.minimum_radius, zero_allowed=True)
            if least > start:
                raise ValueError(f"minimum_radius must be at most initial_radius, got {least!r} and {start!r}")
            settle(self, minimum_radius=least)
        low = check_between("accept_above", self.accept_above, 0.0, 1.0)
        middle = check_between("shrink_below", self.shrink_below, low, 1.0)
        settle(
            self,
            initial_radius=start,
            maximum_radius=most,
            accept_above=low,
            shrink_below=middle,
            expand_above=check_between("expand_above", self.expand_above, middle, 1.0),
            shrink=check_positive("shrink", self.shrink),
            expand=check_positive("expand", self.expand),
            noise=check_positive("noise", self.noise, zero_allowed=True),
        )
        if not self.shrink < 1 < self.expand:
            raise ValueError(f"shrink must be below 1 and expand above, got {self.shrink!r} and {self.expand!r}")

    def judged(
        self, x: Array, loss: float, trial: float, predicted_change: float, step_norm: float, radius: float
    ) -> Judged:
        """Whether a trial is taken, and the next radius.

        Parameters
        ----------
        x : the place, (n,), for the dtype and the least radius.
        loss, trial : f there and at the trial, on the same sample.
        predicted_change : of the model, at most zero where all is well.
        step_norm, radius : |p| and Delta.
        """
        noise = self.noise * machine_epsilon(x) * max(1.0, abs(loss))
        if not math.isfinite(trial):
            ratio = -1.0
        elif self.noise > 0 and abs(predicted_change) <= noise and abs(trial - loss) <= noise:
            ratio = 1.0
        elif not predicted_change < 0:
            ratio = -1.0
        else:
            ratio = (trial - loss) / predicted_change
        accepted = ratio > self.accept_above
        if ratio < self.shrink_below:
            radius = self.shrink * (radius if accepted else min(radius, step_norm))
        elif ratio > self.expand_above and step_norm >= (1.0 - 1e-6) * radius:
            radius = min(self.expand * radius, self.maximum_radius)
        least = self.minimum_radius
        if least is None:
            least = machine_epsilon(x) * (1.0 + float(norm(x)))
        return Judged(accepted, max(radius, min(least, self.maximum_radius)), ratio)


def check_one_run(method: str, x: Any) -> None:
    """Refuse leading axes (ValueError): a method that decides on the host runs one problem at a time."""
    if getattr(x, "ndim", 1) != 1:
        raise ValueError(f"{method} runs one problem at a time: x must have shape (n,), got {tuple(x.shape)}")
