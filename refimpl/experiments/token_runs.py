"""Training a model of characters: one run, and how much the estimates of its curvature are noise."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.arrays import Array, all_finite, as_generator, check_count, to_numpy
from refimpl.optimizers.base import Optimizer
from refimpl.oracle import Counts

MEANS = ("batch_loss", "clipped", "offloaded")
"""Columns of a curve that are means over the steps since the row before."""

MOST_GROUPS = 64
"""A run with more groups than this keeps no Lipschitz estimates of each."""


def train_tokens(
    problem: Any,
    method: Optimizer,
    x: Array,
    *,
    steps: int,
    seed: int,
    looks: Iterable[int],
    device: str = "cpu",
    watch: Callable[[int, Any], None] | None = None,
) -> dict[str, Any]:
    """Run ``method`` from ``x`` on a :class:`~refimpl.problems.text_problem.TextProblem`.

    Minibatches depend on ``seed`` alone. ``watch(step, info)`` is called after each step.

    Returns
    -------
    dict
        ``status`` (``budget`` or ``diverged``), ``message``, ``steps``; ``loss`` and ``val_loss`` at the end, NaN where
        it was not reached; ``curve`` with one entry per look: ``step``, ``loss``, ``accuracy``, ``val_loss``,
        ``val_accuracy`` on the problem's fixed windows, :data:`MEANS`, ``work`` in gradients, ``seconds`` (CPU seconds
        of the steps; on a GPU of the clock on the wall).

        Where the method reports which parameters it offloads also ``offloaded_mean`` and ``offloaded_max``, the share
        over all steps, and ``offloaded``, the share after each estimate of the curvature; where it reports estimates of
        Lipschitz constants, ``lipschitz``: for each look those of the groups (None before there are any).
    """
    check_count("steps", steps)
    clock = time.process_time if device == "cpu" else time.perf_counter
    rng, wanted = as_generator([seed, 1]), {*looks, 0, steps}
    state, counts, seconds, taken = method.init(x), Counts(), 0.0, 0
    verdict = ("budget", f"all {steps} steps were taken")
    curve: dict[str, list[float]] = defaultdict(list)
    since: dict[str, list[float]] = defaultdict(list)
    shares, after_estimates, lipschitz, info = [], [], [], None
    while True:
        if taken in wanted or verdict[0] != "budget":
            _look(curve, problem, x, since, {"step": taken, "work": counts.work, "seconds": seconds})
            lipschitz.append(_of_groups(info))
            since.clear()
        if taken == steps or verdict[0] != "budget":
            break
        point = problem.at(x, problem.draw(rng))
        started = clock()
        loss = point.loss
        step = method.step(point, state)
        finite = all_finite(step.x, loss)  # waits for a GPU
        seconds += clock() - started
        counts += point.counts
        taken += 1
        if not finite:
            verdict = ("diverged", f"step {taken} led to a loss or place that is not finite")
            continue
        info = step.info
        since["batch_loss"].append(float(loss))
        for name in MEANS[1:]:
            if hasattr(info, name):
                since[name].append(float(getattr(info, name)))
        if hasattr(info, "offloaded"):
            shares.append(float(info.offloaded))
            after_estimates += [shares[-1]] if info.estimated else []
        if watch is not None:
            watch(taken, info)
        x, state = step.x, step.state
    lost = verdict[0] != "budget"
    found: dict[str, Any] = {"status": verdict[0], "message": verdict[1], "steps": taken}
    found |= {name: math.nan if lost else curve[name][-1] for name in ("loss", "val_loss")}
    found["curve"] = {name: _rounded(column, 6) for name, column in curve.items()}
    if shares:
        found |= {"offloaded_mean": float(np.mean(shares)), "offloaded_max": float(np.max(shares))}
        found["offloaded"] = _rounded(after_estimates, 4)
    if any(entry is not None for entry in lipschitz):
        found["lipschitz"] = lipschitz
    return found


def noise_of_estimates(
    problem: Any,
    method: Any,
    x: Array,
    *,
    steps: int,
    seed: int,
    places: Sequence[int],
    apart: int = 10,
    draws: int = 100,
) -> list[dict[str, float]]:
    """How much two estimates of the curvature differ at one place, and at places ``apart`` steps from each other.

    ``method`` is run; at each step of ``places``, and again ``apart`` steps later, the diagonal of the Gauss–Newton
    matrix is estimated again and again, each time on a fresh minibatch with freshly sampled targets, outside the run.
    Differences are relative: |a - b|_1 over the mean of |a|_1 and |b|_1, so 2 for estimates without a common entry.

    Returns
    -------
    list of dict
        ``step``; ``single_same`` and ``single_apart``, the mean over ``draws`` pairs of single estimates;
        ``mean_same`` and ``mean_apart``, the same for two means of ``draws`` estimates.
    """
    rng, own, state, found = as_generator([seed, 1]), as_generator([seed, 2]), method.init(x), []
    kept: dict[int, Array] = {}
    backend = problem.backend

    def estimates(count: int) -> Array:
        several = []
        for _ in range(count):
            gradient, rows = problem.at(x, problem.draw(own)).sampled_gradient(own)
            several.append(rows * gradient * gradient)
        return backend.xp.stack(several)

    for taken in range(steps + 1):
        if taken - apart in kept:
            before, now, pairs = kept.pop(taken - apart), estimates(draws), range(draws)
            first, again, later = (backend.xp.mean(part, axis=0) for part in (before[:draws], before[draws:], now))
            found.append(
                {
                    "step": taken - apart,
                    "single_same": float(np.mean([relative(before[k], before[draws + k]) for k in pairs])),
                    "single_apart": float(np.mean([relative(before[k], now[k]) for k in pairs])),
                    "mean_same": relative(first, again),
                    "mean_apart": relative(first, later),
                }
            )
        if taken in places:
            kept[taken] = estimates(2 * draws)
        if taken < steps:
            step = method.step(problem.at(x, problem.draw(rng)), state)
            x, state = step.x, step.state
    return found


def relative(a: Array, b: Array) -> float:
    """|a - b|_1 over the mean of |a|_1 and |b|_1.

    >>> relative(np.asarray([1.0, 0.0]), np.asarray([0.0, 1.0]))
    2.0
    """
    first, second = (to_numpy(part).astype(float) for part in (a, b))
    return float(2 * np.abs(first - second).sum() / (np.abs(first).sum() + np.abs(second).sum()))


def significant(values: Any, digits: int = 3) -> list[float]:
    """``values`` with so many significant digits.

    >>> significant([123.456, 0.00098765])
    [123.0, 0.000988]
    """
    return [float(f"{value:.{digits}g}") for value in np.ravel(to_numpy(values)).tolist()]


def _of_groups(info: Any) -> list[float] | None:
    estimates = getattr(info, "group_lipschitz", None)
    if estimates is None or estimates.shape[-1] > MOST_GROUPS:
        return None
    return significant(estimates)


def _look(
    curve: dict[str, list[float]], problem: Any, x: Array, since: Mapping[str, list[float]], row: dict[str, float]
) -> None:
    report = {name: float(value) for name, value in problem.evaluate(x).items()}
    for name, value in report.items():
        row[name.replace("test_", "val_")] = value
    for name in MEANS:
        row[name] = float(np.mean(since[name])) if since.get(name) else math.nan
    for name, value in row.items():
        curve[name].append(value)


def _rounded(values: Sequence[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]
