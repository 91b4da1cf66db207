"""The one loop: draw a sample, build the Point, take the step, record, stop.

Methods own no loop, so every comparison in the book goes through the same few lines here.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl.arrays import Array, all_finite, as_generator, check_count, check_positive, host_numbers, to_numpy
from refimpl.optimizers.base import LibraryOptimizer, Optimizer
from refimpl.oracle import Problem
from refimpl.trace import Callback, Recorder, Result, Status, Trace, Verdict, describe

__all__ = ["Callback", "Result", "Status", "Trace", "minimize"]


def minimize(
    problem: Problem,
    optimizer: Optimizer | LibraryOptimizer,
    x0: Any = None,
    *,
    steps: int = 100,
    seed: int | np.random.Generator = 0,
    gradient_tolerance: float | None = 0.0,
    loss_target: float | None = None,
    progress: bool = False,
    callback: Callback | None = None,
) -> Result:
    """Run ``optimizer`` on ``problem`` for at most ``steps`` steps.

    Parameters
    ----------
    problem : the loss.
    optimizer : a method of :mod:`refimpl.optimizers`.
    x0 : starting place, anything that converts to shape (n,) (or (runs, n) for a batched problem); None asks
        ``problem.initial``.
    steps : budget.
    seed : decides the starting place (if ``x0`` is None) and every sample; the same seed gives the same run on
        every backend.
    gradient_tolerance : ``converged`` when the gradient norm is at most this; None goes on even where it is zero, for
        methods that look for a way down from there.
    loss_target : ``converged`` when the loss before a step is at most this.
    progress : show a progress bar.
    callback : called as ``callback(step, point)`` before each step; a mapping it returns joins the trace row.

    Returns
    -------
    Result
        Status ``converged``, ``budget`` (all steps taken) or ``diverged`` (a non-finite loss, gradient or place;
        the trace is kept, and NumPy's floating-point warnings on the way there are silenced), ``interrupted``
        (Ctrl-C; the trace is kept), ``stalled`` (only where a library owns the loop).
        A batched run goes on until each of its runs has converged or diverged; it is ``converged`` only if all are.

    Raises
    ------
    ValueError
        Malformed ``x0``, ``steps``, ``seed`` or tolerance; a method that cannot be used with this problem.
    """
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be an instance of a Problem, got {problem!r}; write HorseSaddle(), say")
    if callback is not None and not callable(callback):
        raise ValueError(f"callback must be a function of the step and the point, got {callback!r}")
    check_count("steps", steps, minimum=0)
    if gradient_tolerance is not None:
        gradient_tolerance = check_positive("gradient_tolerance", gradient_tolerance, zero_allowed=True)
    _check_target(loss_target)
    _check_optimizer(optimizer)
    rng = as_generator(seed)
    x = _starting_place(problem, x0, rng)
    rules: dict[str, Any] = {"gradient_tolerance": gradient_tolerance, "loss_target": loss_target}
    with np.errstate(all="ignore"):
        if isinstance(optimizer, LibraryOptimizer):
            result: Result = optimizer.drive(problem, x, steps, rng, **rules, progress=progress, callback=callback)
            return result
        return _loop(problem, optimizer, x, steps, rng, Recorder(**rules, callback=callback), progress)


def _loop(
    problem: Problem,
    optimizer: Optimizer,
    x: Array,
    steps: int,
    rng: np.random.Generator,
    recorder: Recorder,
    progress: bool,
) -> Result:
    state = optimizer.init(x)
    point, taken = None, 0
    verdict: Verdict | None = None
    with tqdm(total=steps, disable=not progress, desc=optimizer.name, unit="step") as bar:
        try:
            while verdict is None:
                point = problem.at(x, problem.draw(rng))
                verdict = recorder.look(point, taken)
                if verdict is None and taken == steps:
                    verdict = ("budget", f"all {steps} steps were taken")
                if verdict is not None:
                    _ = point.gradient  # no step follows: this look is the run's own, and it is counted
                    recorder.close(point.counts)
                    break
                step = optimizer.step(point, state)
                recorder.close(point.counts, describe(x, step.x, step.info))
                taken += 1
                bar.update()
                bar.set_postfix(loss=recorder.last_loss, refresh=False)
                if _some_run_finite(step.x):
                    x, state = step.x, step.state
                else:
                    verdict = ("diverged", f"step {taken} led to a place that is not finite")
        except KeyboardInterrupt:
            verdict = ("interrupted", f"interrupted by the user after {taken} steps")
            if point is not None:
                recorder.close(point.counts)
    assert verdict is not None
    return recorder.result(x, verdict, taken, state)


def _starting_place(problem: Problem, x0: Any, rng: np.random.Generator) -> Array:
    if x0 is None:
        return problem.initial(rng)
    try:
        x = problem.copy(problem.backend.asarray(host_numbers("x0", x0)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"x0 must be numbers of shape ({problem.n},), got {x0!r}") from error
    problem.check_place(x, "x0")
    if not all_finite(x):
        raise ValueError("x0 must be finite, but it holds NaN or infinity")
    return x


def _check_optimizer(optimizer: Any) -> None:
    if isinstance(optimizer, type):
        raise ValueError(
            f"optimizer must be an instance, got the class {optimizer.__name__}; write {optimizer.__name__}(...)"
        )
    if not isinstance(optimizer, Optimizer | LibraryOptimizer):
        raise ValueError(f"optimizer must have a name, init and step, got {optimizer!r}")


def _check_target(loss_target: Any) -> None:
    if loss_target is None:
        return
    if isinstance(loss_target, bool) or not isinstance(loss_target, int | float | np.number) or math.isnan(loss_target):
        raise ValueError(f"loss_target must be a number or None, got {loss_target!r}")


def _some_run_finite(x: Array) -> bool:
    host = to_numpy(x)
    return bool(np.isfinite(host).all(axis=-1).any())
