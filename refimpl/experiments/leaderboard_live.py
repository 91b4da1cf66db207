"""A run for the leaderboard that is made on the spot: any method from one place until its work is spent."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from refimpl.arrays import as_generator, check_positive, to_numpy
from refimpl.experiments.leaderboard_cases import Entry, work_before
from refimpl.optimizers.base import LibraryOptimizer
from refimpl.oracle import Counts
from refimpl.run import minimize


def live(
    problem: Any, method: Any, x: Any, *, work: float, seed: int = 0, target: float | None = None, label: str = ""
) -> Entry:
    """Run ``method`` from ``x`` (n,) until it has spent ``work`` gradients, with a look before each step.

    A look has the noise-free loss, which is not charged. The step that goes over the budget is the last. A run ends
    sooner where the loss is at most ``target``, or not finite. ``seed`` decides the samples. Seconds are not measured.

    Raises
    ------
    ValueError
        A budget that is not positive.
    """
    check_positive("work", work)
    about = (label or type(problem).__name__, method.name, seed, "live", "fixed")
    if isinstance(method, LibraryOptimizer):
        result = minimize(problem, method, x, steps=math.ceil(work), seed=seed, loss_target=target)
        spent, loss = result.trace["work"], result.trace["loss"]
        looked = work_before(result.trace["step"], spent, result.status == "budget")
        status = "budget" if result.status == "stalled" else result.status
        return Entry(*about, status, looked, loss, np.empty(0), kind="function")
    place, rng, counts = problem.copy(problem.backend.asarray(x)), as_generator(seed), Counts()
    state, rows, status = method.init(place), [], "budget"
    with np.errstate(all="ignore"):
        while True:
            point = problem.at(place, problem.draw(rng))
            # Without a sample the loss of the point is the noise-free one: a step that asks for it finds it made.
            loss = point.peek()[0] if point.sample is None else problem.evaluate(place)["loss"]
            rows.append((counts.work, float(to_numpy(loss))))
            if not math.isfinite(rows[-1][1]):
                status = "diverged"
            elif target is not None and rows[-1][1] <= target:
                status = "converged"
            if status != "budget" or counts.work >= work:
                break
            step = method.step(point, state)
            place, state, counts = step.x, step.state, counts + point.counts
            if not np.isfinite(to_numpy(place)).all():
                status = "diverged"
                break
    spent, loss = np.asarray(rows).T
    return Entry(*about, status, spent, loss, np.empty(0), kind="function")
