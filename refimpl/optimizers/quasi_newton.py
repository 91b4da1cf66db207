"""BFGS and L-BFGS, run by SciPy, with the same trace as every other method.

SciPy owns these loops: :func:`refimpl.run.minimize` calls ``drive``, and each iteration that SciPy accepts is one row
of the trace. The loss and the gradient come from Points, so every evaluation of the line searches is counted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from scipy import optimize
from tqdm import tqdm

from refimpl.arrays import Array, check_count, norm, to_numpy
from refimpl.oracle import Counts, Point, Problem, Sample
from refimpl.trace import Callback, Recorder, Result, Verdict


@dataclass(frozen=True)
class BFGS:
    """BFGS with a strong-Wolfe line search, by ``scipy.optimize.minimize(method="BFGS")``.

    Notes
    -----
    A loss with samples is frozen: one sample is drawn at the start and kept, because a line search that sees a new
    sample at every evaluation fails. The method then minimizes the loss of that one sample.

    SciPy works in float64 on the host, whatever the problem's dtype and device; places are rounded on their way
    to the problem. A step costs one gradient and, where a line search tries more than once, more; evaluations of
    the loss alone count as such. The state is O(n^2).

    A run that SciPy ends before any stop rule is met is ``stalled`` (usually at the limit of precision), or
    ``diverged`` if the place it looked at last has a loss that is not finite.

    Source: Nocedal & Wright (2006), algorithm 6.1.
    """

    name: ClassVar[str] = "bfgs"

    def drive(
        self,
        problem: Problem,
        x: Array,
        steps: int,
        rng: np.random.Generator,
        gradient_tolerance: float | None = 0.0,
        loss_target: float | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Result:
        """The whole run from ``x`` (n,); the arguments are those of :func:`refimpl.run.minimize`, checked there.

        Raises
        ------
        ValueError
            ``x`` has leading axes.
        """
        options = {"gtol": 0.0, "maxiter": steps + 1}
        watched = _Watched(problem, x, problem.draw(rng), Recorder(gradient_tolerance, loss_target, callback))
        return watched.run("BFGS", options, steps, progress, self.name)


@dataclass(frozen=True)
class LBFGS:
    """Limited-memory BFGS, by ``scipy.optimize.minimize(method="L-BFGS-B")`` without bounds.

    Parameters
    ----------
    history : number of pairs (step, change of gradient) that are kept, at least 1.

    Raises
    ------
    ValueError
        A history that is not a whole number of at least 1.

    Notes
    -----
    As :class:`BFGS` says about samples, precision and status. The line search asks for loss and gradient together:
    every evaluation counts as one gradient. The state is O(history·n).

    Source: Liu & Nocedal (1989); Byrd et al. (1995).
    """

    history: int = 10
    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        check_count("history", self.history)

    def drive(
        self,
        problem: Problem,
        x: Array,
        steps: int,
        rng: np.random.Generator,
        gradient_tolerance: float | None = 0.0,
        loss_target: float | None = None,
        progress: bool = False,
        callback: Callback | None = None,
    ) -> Result:
        """The whole run from ``x`` (n,); as :meth:`BFGS.drive`."""
        unlimited = np.iinfo(np.int32).max
        options = {"gtol": 0.0, "ftol": 0.0, "maxiter": steps + 1, "maxfun": unlimited, "maxcor": int(self.history)}
        watched = _Watched(problem, x, problem.draw(rng), Recorder(gradient_tolerance, loss_target, callback))
        return watched.run("L-BFGS-B", options, steps, progress, self.name)


class _Watched:
    """A loss on one sample as SciPy sees it (float64 on the host), and the rows of the run that SciPy makes of it."""

    def __init__(self, problem: Problem, x: Array, sample: Sample, recorder: Recorder) -> None:
        if x.ndim != 1:
            raise ValueError(f"BFGS and L-BFGS run one problem at a time: x0 must be (n,), got {tuple(x.shape)}")
        self.problem, self.sample, self.recorder = problem, sample, recorder
        self._host = np.asarray(to_numpy(x), dtype=np.float64)
        self._point = problem.at(x, sample)
        self._spent, self._told = Counts(), Counts()

    def run(self, method: str, options: dict[str, Any], steps: int, progress: bool, name: str) -> Result:
        place, taken = self._point.x, 0
        verdict = self._look(self._point, taken, steps)

        with tqdm(total=steps, disable=not progress, desc=name, unit="step") as bar:

            def after_iteration(intermediate_result: Any) -> None:
                nonlocal place, taken, verdict
                self._close(self.at(intermediate_result.x).x - place)
                place, taken = self._point.x, taken + 1
                bar.update()
                verdict = self._look(self._point, taken, steps)
                if verdict is not None:
                    raise StopIteration

            try:
                if verdict is None:
                    scipy_result = optimize.minimize(
                        self.loss,
                        self._host,
                        jac=self.gradient,
                        method=method,
                        callback=after_iteration,
                        options=options,
                    )
                    verdict = verdict or self._given_up(str(scipy_result.message))
            except KeyboardInterrupt:
                verdict = ("interrupted", f"interrupted by the user after {taken} steps")
        self._close(None)
        assert verdict is not None
        return self.recorder.result(place, verdict, taken)

    def at(self, host: np.ndarray) -> Point:
        if not np.array_equal(host, self._host):
            self._spent = self._spent + self._point.counts
            self._host = np.array(host)
            self._point = self.problem.at(self.problem.backend.asarray(self._host), self.sample)
        return self._point

    def loss(self, host: np.ndarray) -> float:
        return float(to_numpy(self.at(host).loss))

    def gradient(self, host: np.ndarray) -> np.ndarray:
        return np.asarray(to_numpy(self.at(host).gradient), dtype=np.float64)

    def _look(self, point: Point, taken: int, steps: int) -> Verdict | None:
        verdict = self.recorder.look(point, taken)
        return ("budget", f"all {steps} steps were taken") if verdict is None and taken == steps else verdict

    def _close(self, step: Array | None) -> None:
        so_far = self._spent + self._point.counts
        news = Counts(*(now - before for now, before in zip(so_far, self._told, strict=True)))
        described = {} if step is None else {"step_norm": float(to_numpy(norm(step))), "accepted": True}
        self.recorder.close(news, described)
        self._told = so_far

    def _given_up(self, message: str) -> Verdict:
        if np.isfinite(self.loss(self._host)):
            return "stalled", f"SciPy stopped before any stop rule was met: {message}"
        return "diverged", f"the line search met a loss that is not finite; SciPy says: {message}"
