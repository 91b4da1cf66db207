"""EigenARC, the ELMO paper's way to measure Lipschitz constants per eigenvector, as an instrument at one frozen place.

At a place with loss f, eigenvalues lam_i, eigenvectors v_i and slopes c_i = v_i·g, a trial of the constants L_i takes
ELMO's step with them and compares what the loss does with what the majorizers promise:

    ratio = (f(x) - f(x + sum_i x_i v_i)) / -sum_i M_i(x_i).

Constants are halved all together where the ratio says that they are too large, raised all together where it says that
they are too small, and then lowered again one by one. What comes out is the smallest power of two for which *one step*
from here keeps its promise. It is a lower bound of nothing: third derivatives that help the descent count as zero.

Source: ELMO paper, Algorithm 3 and appendix J.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.arrays import check_count, check_positive, host_numbers, to_numpy
from refimpl.curvature.cubic import elmo_step, majorizer
from refimpl.optimizers.base import settle

Action = Literal["kept", "lowered", "raised", "uninformative"]


class Frozen(NamedTuple):
    """A place of which EigenARC sees k eigenvectors: ``eigenvalues`` (k,) and signed ``slopes`` (k,) along them.

    ``loss`` is f there, and ``change(y)`` is f(x + V y) for coefficients y (k,).
    """

    loss: float
    eigenvalues: np.ndarray
    slopes: np.ndarray
    change: Callable[[np.ndarray], float]


class Assessment(NamedTuple):
    """One trial: the constants, ELMO's steps x_i >= 0 with them, the promised decrease, and the ratio.

    The ratio is NaN where the promised decrease is rounding (the trial says nothing), and -inf where the loss after the
    step is not finite.
    """

    lipschitz: np.ndarray
    step: np.ndarray
    predicted: float
    ratio: float


class Update(NamedTuple):
    """What one call of :meth:`EigenARC.update` did.

    ``action`` is ``"uninformative"`` where the first trial said nothing. ``met``: the constants that came out have a
    trial with ratio >= ``accept_above``. Flags (k,) say which constants ended at the floor or the ceiling;
    ``cut_raising``, that raising stopped at its limit and not because of the ratio; ``cut_lowering`` (k,), the same of
    lowering one constant.
    """

    lipschitz: np.ndarray
    action: Action
    met: bool
    floor: np.ndarray
    ceiling: np.ndarray
    cut_raising: bool
    cut_lowering: np.ndarray
    assessments: tuple[Assessment, ...]


class PrintedUpdate(NamedTuple):
    """What the algorithm as printed did: its constants, whether it ended within the limit, and which lines ran.

    ``raising``: passes through line 9, the body of the loop that is meant to raise the constants. ``lowering``: through
    line 13. ``trials``: evaluations of the ratio.
    """

    lipschitz: np.ndarray
    terminated: bool
    raising: int
    lowering: int
    trials: int

    @property
    def message(self) -> str:
        """How it ended, in words."""
        return "terminated" if self.terminated else f"did not terminate within {self.trials} trials"


@dataclass(frozen=True)
class EigenARC:
    """The instrument: repaired in :meth:`update`, as printed in :meth:`printed_update`.

    Parameters
    ----------
    accept_above, lower_above : eta1 and eta2, 0 < eta1 <= eta2.
    raise_by : gamma1 > 1. It also divides when one constant is lowered.
    lower_by : gamma2, between 0 and 1, times all constants where they are too large.
    minimum, maximum : bounds of the constants, positive.
    most_raisings : how often one update may raise; most_lowerings : how often it may lower one constant.
    noise : a promised decrease of at most ``noise`` eps max(1, |f|) says nothing.

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    Printed, the loop that raises asks for "ratio > eta1" right after "ratio < eta1" was found, so it never runs; the
    loop that lowers has no end along a convex direction whose constant does not matter; and the settings list of the
    paper has gamma2 = 2, where the algorithm requires gamma2 < 1. The repairs: the condition of the first loop is
    turned round, both loops and the constants have bounds, and a trial that only sees rounding changes nothing.

    A trial costs one loss. Everything happens in float64 on the host.

    Source: ELMO paper, Algorithm 3; values of the knobs: its appendix J.
    """

    accept_above: float = 0.1
    lower_above: float = 0.9
    raise_by: float = 2.0
    lower_by: float = 0.5
    minimum: float = 1e-12
    maximum: float = 1e12
    most_raisings: int = 11
    most_lowerings: int = 11
    noise: float = 10.0

    def __post_init__(self) -> None:
        names = ("accept_above", "lower_above", "raise_by", "lower_by", "minimum", "maximum", "noise")
        settle(self, **{name: check_positive(name, getattr(self, name)) for name in names})
        for name in ("most_raisings", "most_lowerings"):
            settle(self, **{name: check_count(name, getattr(self, name))})
        if not self.accept_above <= self.lower_above:
            raise ValueError(f"lower_above must be at least accept_above, got {self.lower_above} < {self.accept_above}")
        if not self.lower_by < 1 < self.raise_by:
            raise ValueError(
                f"constants are raised by a factor above 1 and lowered by one below, got raise_by={self.raise_by} and "
                f"lower_by={self.lower_by}; gamma2 = 2 of the paper's settings list can be tried in printed_update"
            )
        if not self.minimum < self.maximum:
            raise ValueError(f"minimum must be less than maximum, got {self.minimum} and {self.maximum}")

    def assess(self, frozen: Frozen, lipschitz: Any) -> Assessment:
        """The trial of constants ``lipschitz`` (k,) >= 0: the majorizers and the step are made of the same ones.

        Raises
        ------
        ValueError
            Not k finite numbers that are at least zero.
        """
        constants = _constants(frozen, lipschitz)
        slopes = np.abs(frozen.slopes)
        # A constant of zero along concave directions asks for an infinite step, and infinity is no decrease.
        with np.errstate(all="ignore"):
            step = np.asarray(elmo_step(frozen.eigenvalues, slopes, constants))
            predicted = float(-np.sum(majorizer(step, frozen.eigenvalues, slopes, constants)))
            if predicted <= self.noise * np.finfo(float).eps * max(1.0, abs(frozen.loss)):
                return Assessment(constants, step, predicted, math.nan)
            after = float(frozen.change(np.where(frozen.slopes > 0, -step, step)))
            usable = math.isfinite(after) and math.isfinite(predicted)
            ratio = (frozen.loss - after) / predicted if usable else -math.inf
        return Assessment(constants, step, predicted, ratio)

    def update(self, frozen: Frozen, lipschitz: Any) -> Update:
        """The constants after one look at this place, beginning with ``lipschitz`` (k,) > 0.

        Cost: at most 1 + ``most_raisings`` + k ``most_lowerings`` losses.
        """
        seen = [self.assess(frozen, lipschitz)]
        constants, ratio = seen[0].lipschitz, seen[0].ratio
        action: Action = "kept"
        cut_raising, met = False, ratio >= self.accept_above
        cut_lowering = np.zeros(len(constants), dtype=bool)
        if math.isnan(ratio):
            action = "uninformative"
        elif ratio > self.lower_above:
            action, constants = "lowered", np.maximum(constants * self.lower_by, self.minimum)
        elif not met:
            action, raisings = "raised", 0
            while ratio < self.accept_above:
                if raisings == self.most_raisings or bool((constants >= self.maximum).any()):
                    cut_raising = True
                    break
                seen.append(self.assess(frozen, np.minimum(constants * self.raise_by, self.maximum)))
                constants, ratio, raisings = seen[-1].lipschitz, seen[-1].ratio, raisings + 1
            met = ratio >= self.accept_above
            if met:
                constants, cut_lowering = self._lower(frozen, constants, seen)
        return Update(
            constants, action, met, constants <= self.minimum, constants >= self.maximum,
            cut_raising, cut_lowering, tuple(seen),
        )  # fmt: skip

    def _lower(self, frozen: Frozen, constants: np.ndarray, seen: list[Assessment]) -> tuple[np.ndarray, np.ndarray]:
        cut = np.zeros(len(constants), dtype=bool)
        for i in range(len(constants)):
            lowerings = 0
            while constants[i] > self.minimum:
                if lowerings == self.most_lowerings:
                    cut[i] = True
                    break
                trial = constants.copy()
                trial[i] = max(trial[i] / self.raise_by, self.minimum)
                seen.append(self.assess(frozen, trial))
                if not seen[-1].ratio >= self.accept_above:
                    break
                constants, lowerings = trial, lowerings + 1
        return constants, cut

    def printed_update(
        self, frozen: Frozen, lipschitz: Any, *, lower_by: float | None = None, limit: int = 1000, turned: bool = False
    ) -> PrintedUpdate:
        """Lines 4 to 18 as printed, for at most ``limit`` trials.

        Parameters
        ----------
        lower_by : gamma2 of line 5; None for the instrument's own. 2 is that of the paper's settings list.
        turned : with the condition of line 8 turned round ("< eta1"), so that line 9 can run; the rest as printed.

        Notes
        -----
        A ratio of 0/0 compares false with everything, as in the paper's language of real numbers it would be undefined.
        """
        gamma2 = self.lower_by if lower_by is None else check_positive("lower_by", lower_by)
        constants, counts = _constants(frozen, lipschitz).copy(), {"raising": 0, "lowering": 0, "trials": 0}
        check_count("limit", limit)

        def ratio() -> float:
            if counts["trials"] == limit:
                raise _OutOfTrials
            counts["trials"] += 1
            return self._printed_ratio(frozen, constants)

        def asks_for_more(found: float) -> bool:
            return found < self.accept_above if turned else found > self.accept_above

        try:
            if ratio() > self.lower_above:
                constants *= gamma2
            elif ratio() < self.accept_above:
                while asks_for_more(ratio()):
                    constants *= self.raise_by
                    counts["raising"] += 1
                for i in range(len(constants)):
                    while ratio() > self.accept_above:
                        constants[i] /= self.raise_by
                        counts["lowering"] += 1
                    constants[i] *= self.raise_by
        except _OutOfTrials:
            return PrintedUpdate(constants, False, **counts)
        return PrintedUpdate(constants, True, **counts)

    def _printed_ratio(self, frozen: Frozen, constants: np.ndarray) -> float:
        # No rule about rounding here.
        slopes = np.abs(frozen.slopes)
        with np.errstate(all="ignore"):
            step = np.asarray(elmo_step(frozen.eigenvalues, slopes, constants))
            predicted = float(-np.sum(majorizer(step, frozen.eigenvalues, slopes, constants)))
            after = float(frozen.change(np.where(frozen.slopes > 0, -step, step)))
        change = frozen.loss - after
        return change / predicted if predicted != 0 else math.nan


class _OutOfTrials(Exception):
    """The limit of :meth:`EigenARC.printed_update` was reached."""


def frozen_point(point: Any, eigenvalues: np.ndarray, vectors: np.ndarray) -> Frozen:
    """EigenARC's view of a :class:`~refimpl.oracle.Point`: k of its eigenpairs, ``vectors`` (n, k), on its own sample.

    Cost: the gradient; each ``change`` then is one loss, not counted.
    """
    problem, x = point.problem, to_numpy(point.x)
    slopes = to_numpy(point.gradient) @ vectors

    def change(coefficients: np.ndarray) -> float:
        place = x + vectors @ coefficients
        if not np.isfinite(place).all():
            return math.nan
        return float(problem.loss(problem.backend.asarray(place), point.sample))

    return Frozen(float(point.loss), np.asarray(eigenvalues, float), slopes, change)


def _constants(frozen: Frozen, lipschitz: Any) -> np.ndarray:
    constants = host_numbers("lipschitz", lipschitz)
    if constants.shape != frozen.eigenvalues.shape or not np.isfinite(constants).all() or (constants < 0).any():
        raise ValueError(f"lipschitz must be {len(frozen.eigenvalues)} numbers of at least zero, got {lipschitz!r}")
    return constants
