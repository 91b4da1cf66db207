"""BFGS for a loss that is noisy from one iteration to the next, made of SciPy's update and SciPy's line search."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from scipy import optimize

from refimpl.arrays import Array, to_numpy
from refimpl.optimizers.base import Step
from refimpl.oracle import Point


class FrozenBFGSInfo(NamedTuple):
    """What a step reports: the length that the line search found (0: none) and whether it found one."""

    step_length: float
    accepted: bool


class _History(NamedTuple):
    inverse: Any  # SciPy's update strategy, which changes in place
    x: np.ndarray
    gradient: np.ndarray


@dataclass(frozen=True)
class FrozenBFGS:
    """BFGS for a loss with samples: one sample per iteration, which its whole line search sees.

    Parameters
    ----------
    pair : the change of the gradient that goes with a step, ``"same"``: both gradients on the sample of the step, or
        ``"mixed"``: the new one on the next sample, as a program does that keeps one gradient per iteration.

    Raises
    ------
    ValueError
        Another pair; in ``step``, leading axes.

    Notes
    -----
    SciPy updates the inverse (``scipy.optimize.BFGS``, scaled at the first pair, pairs without positive curvature left
    out) and searches the line (``scipy.optimize.line_search``, strong Wolfe conditions, cubic interpolation). Where
    the search fails, it is repeated along the gradient with a fresh inverse; where that fails, the run stays.

    Cost: a gradient, and a loss or a gradient for each trial of the line search.

    Source: Nocedal & Wright (2006), algorithms 6.1 and 3.5.
    """

    pair: Literal["same", "mixed"] = "same"
    name: ClassVar[str] = "bfgs"

    def __post_init__(self) -> None:
        if self.pair not in ("same", "mixed"):
            raise ValueError(f"unknown pair {self.pair!r}; choose one of ['same', 'mixed']")

    def init(self, x: Array) -> None:
        """No pair yet."""

    def step(self, point: Point, state: _History | None) -> Step:
        """One step: (n,)."""
        if point.x.ndim != 1:
            raise ValueError(f"BFGS runs one problem at a time: x must be (n,), got {tuple(point.x.shape)}")
        x, gradient = to_numpy(point.x), to_numpy(point.gradient)
        inverse = _fresh(x.size) if state is None else state.inverse
        if state is not None and self.pair == "mixed":
            _learn(inverse, x - state.x, gradient - state.gradient)
        direction = -inverse.dot(gradient)
        length = _search(point, direction, gradient, first=state is None)
        if length == 0.0:
            inverse, direction = _fresh(x.size), -gradient
            length = _search(point, direction, gradient, first=True)
        new = x + length * direction
        if self.pair == "same" and length > 0.0:
            _learn(inverse, new - x, _gradient(point, new) - gradient)
        info = FrozenBFGSInfo(length, length > 0.0)
        return Step(point.problem.backend.asarray(new), _History(inverse, x, gradient), info)


def _fresh(n: int) -> Any:
    inverse = optimize.BFGS(exception_strategy="skip_update")
    inverse.initialize(n, "inv_hess")
    return inverse


def _learn(inverse: Any, step: np.ndarray, change: np.ndarray) -> None:
    if step.any() and change.any() and np.isfinite(change).all():
        inverse.update(step, change)


def _gradient(point: Point, x: np.ndarray) -> np.ndarray:
    there = point.problem.at(point.problem.backend.asarray(x), point.sample)
    return to_numpy(there.gradient)


def _search(point: Point, direction: np.ndarray, gradient: np.ndarray, *, first: bool) -> float:
    """A length that fulfils the strong Wolfe conditions with 1e-4 and 0.9; 0 if none was found."""
    if not gradient @ direction < 0:
        return 0.0
    problem, sample = point.problem, point.sample
    value = float(point.loss)
    # SciPy's own BFGS begins its first search, along the bare gradient, with a step of about length 1.
    before = value + 0.5 * float(np.linalg.norm(gradient)) if first else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        length = optimize.line_search(
            lambda x: float(problem.loss(problem.backend.asarray(x), sample)),
            lambda x: _gradient(point, x),
            to_numpy(point.x),
            direction,
            gfk=gradient,
            old_fval=value,
            old_old_fval=before,
            maxiter=25,
        )[0]
    return 0.0 if length is None else float(length)
