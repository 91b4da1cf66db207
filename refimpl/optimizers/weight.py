"""What cubic methods share: the ratio of actual to predicted reduction, and the weight of the cubic term after it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from refimpl.arrays import Array, check_between, check_positive, machine_epsilon
from refimpl.optimizers.base import settle


class Weighed(NamedTuple):
    """What became of a trial: whether it is taken, the next weight, actual over predicted reduction."""

    accepted: bool
    weight: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class WeightRule:
    """The knobs by which a method judges a trial and changes the weight of its cubic term. Not a method by itself.

    Parameters
    ----------
    accept_above : eta_1: a step is taken where the ratio is at least this; below, the weight grows.
    relax_above : eta_2: the weight falls where the ratio is at least this.
    factor : gamma > 1, by which the weight grows and falls.
    minimum_weight : the weight never falls below it.
    noise : changes of the loss up to this many eps(dtype) max(1, |f|) say nothing: where both the actual and the
        predicted one are as small, the ratio counts as 1 and the weight stays. 0 turns that off.

    Notes
    -----
    A trial loss that is not finite, or a model that predicts no decrease, counts as a ratio of -1.

    Source: Cartis, Gould & Toint (2011a), algorithm 2.1; the rule for noise: Conn, Gould & Toint (2000), sec. 17.4.2.
    """

    accept_above: float = 0.1
    relax_above: float = 0.9
    factor: float = 2.0
    minimum_weight: float = 1e-16
    noise: float = 10.0

    def _settle_weight(self) -> None:
        low = check_between("accept_above", self.accept_above, 0.0, 1.0)
        settle(
            self,
            accept_above=low,
            relax_above=check_between("relax_above", self.relax_above, low, 2.0),
            factor=check_positive("factor", self.factor),
            minimum_weight=check_positive("minimum_weight", self.minimum_weight),
            noise=check_positive("noise", self.noise, zero_allowed=True),
        )
        if not self.factor > 1:
            raise ValueError(f"factor must be above 1, got {self.factor!r}")

    def judged(self, x: Array, loss: float, trial: float, predicted_change: float, weight: float) -> Weighed:
        """Whether a trial is taken, and the next weight.

        Parameters
        ----------
        x : the place, (n,), for its dtype.
        loss, trial : f there and at the trial, on the same sample.
        predicted_change : of the model, at most zero where all is well.
        weight : of the cubic term in that model.
        """
        noise = self.noise * machine_epsilon(x) * max(1.0, abs(loss))
        if self.noise > 0 and math.isfinite(trial) and max(abs(predicted_change), abs(trial - loss)) <= noise:
            return Weighed(True, weight, 1.0)
        ratio = (trial - loss) / predicted_change if math.isfinite(trial) and predicted_change < 0 else -1.0
        if ratio < self.accept_above:
            return Weighed(False, self.factor * weight, ratio)
        if ratio >= self.relax_above:
            return Weighed(True, max(weight / self.factor, self.minimum_weight), ratio)
        return Weighed(True, weight, ratio)
