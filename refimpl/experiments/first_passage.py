"""How many iterations until the noise-free loss is low, many runs at once: the protocol of CurveBall's Table 1.

Run k has a starting place, data and noise of its own, which depend on k and on nothing else: every method meets the
same ones, and twenty runs are the first twenty of a hundred.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, as_generator, check_count, check_positive, to_numpy
from refimpl.experiments.frozen_bfgs import FrozenBFGS
from refimpl.experiments.torch_lbfgs import TorchLBFGS
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.radius import RadiusRule
from refimpl.oracle import Counts, Problem, Sample
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.toy import Rosenbrock

LANES = 256
"""The most runs of one batch: so many noise values are drawn in each iteration, whatever the number of runs."""

NOISE = {"rosenbrock": 0.0, "rosenbrock-u1": 1.0, "rosenbrock-u3": 3.0}
KINDS: dict[str, str] = {"rahimi-recht": "rows", "rahimi-recht-svd": "svd"}
STARTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NOISE, ("near", "wide")),
    **dict.fromkeys(KINDS, ("normal",)),
}
"""Problem -> its distributions of starting places. ``near``: (−1.2, 1) + 0.1 N(0, I); ``wide``: uniform on [−2, 2]²;
``normal``: all weights N(0, 1)."""

Criterion = Callable[[Problem, Array], np.ndarray]

_WALK, _NOISE = 1, 2  # what a seed is for; the first part of every seed is the stream: 1 reported runs, 2 tuning runs


class Passages(NamedTuple):
    """What the runs of a batch did; a loss that is not finite is given as inf.

    counts : (runs, targets), the first iterate whose noise-free loss is at most the target, inf where none was. A
    further criterion has the last column.

    averages : (runs, lengths), the mean of the last ten noise-free losses at each length.

    losses : (runs,), the last noise-free loss.

    steps : how many were taken.

    work : as ``counts``, what the steps up to there cost, in gradients (:attr:`refimpl.oracle.Counts.work`).

    products : (runs,), Hessian products per step. refused : (runs,), trials refused on the whole way.
    """

    counts: np.ndarray
    averages: np.ndarray
    losses: np.ndarray
    steps: int
    work: np.ndarray = np.empty(0)
    products: np.ndarray = np.empty(0)
    refused: np.ndarray = np.empty(0)


class Batch(NamedTuple):
    """``runs`` runs of one problem: together as (runs, n), or each alone; ``noise`` is the seed of their samples."""

    problem: Problem
    starts: Array
    alone: Callable[[int], Problem]
    noise: tuple[int, ...]


class NoisyValley(Rosenbrock):
    """Rosenbrock's function for the runs ``lanes`` (or the one run) of a batch: each iteration draws the noise of all
    :data:`LANES` runs and keeps theirs."""

    def __init__(self, noise: float, lanes: int | slice) -> None:
        super().__init__(noise)
        self.lanes = lanes

    def draw(self, rng: Any) -> Sample:
        """ε of this run, a float, or of these runs, (runs, 1); None (ε = 1) without noise."""
        if self.noise == 0.0:
            return None
        values = rng.uniform(0.0, self.noise, LANES)[self.lanes]
        return float(values) if isinstance(self.lanes, int) else self.backend.asarray(values[:, None])


class ManyRahimiRecht(RahimiRecht):
    """Rahimi–Recht problems with the same widths as one batched problem: row k of ``x`` (runs, n) is problem k."""

    def __init__(self, problems: Sequence[RahimiRecht]) -> None:
        super().__init__()
        stack = self.backend.xp.stack
        self.target = stack([problem.target for problem in problems])
        self.factor = stack([problem.factor for problem in problems])


def batch(problem: str, runs: int, *, start: str | None = None, stream: int = 1) -> Batch:
    """The first ``runs`` runs of ``problem`` with their starting places.

    Parameters
    ----------
    problem : a key of :data:`STARTS`. Each run of the Rahimi–Recht problems has a target and inputs of its own.
    runs : from 1 to :data:`LANES`.
    start : distribution of the starting places; None for the problem's first one.
    stream : other runs for another number, at least 1. Reported runs are stream 1, tuning runs stream 2.

    Raises
    ------
    ValueError
        Unknown problem or start, a number outside its range.
    """
    if problem not in STARTS:
        raise ValueError(f"unknown problem {problem!r}; choose one of {sorted(STARTS)}")
    start = STARTS[problem][0] if start is None else start
    if start not in STARTS[problem]:
        raise ValueError(f"unknown start {start!r} for {problem}; choose one of {list(STARTS[problem])}")
    check_count("stream", stream)
    if check_count("runs", runs) > LANES:
        raise ValueError(f"runs must be at most {LANES}, got {runs}")
    generators = [as_generator((stream, _WALK, k)) for k in range(runs)]
    noise = (stream, _NOISE)
    if problem in KINDS:
        each = [RahimiRecht(KINDS[problem], seed=rng) for rng in generators]
        walks = [one.initial(rng) for one, rng in zip(each, generators, strict=True)]
        return Batch(ManyRahimiRecht(each), each[0].backend.xp.stack(walks), each.__getitem__, noise)
    valley = NoisyValley(NOISE[problem], slice(runs))
    walks = [valley.initial(rng) if start == "near" else rng.uniform(-2.0, 2.0, 2) for rng in generators]
    return Batch(valley, valley.backend.asarray(np.stack(walks)), lambda k: NoisyValley(NOISE[problem], k), noise)


def passages(
    runs: Batch,
    method: Optimizer,
    *,
    steps: int,
    targets: Sequence[float],
    lengths: Sequence[int] = (),
    criterion: Criterion | None = None,
) -> Passages:
    """The first passages of every run below every one of ``targets``.

    Parameters
    ----------
    runs : from :func:`batch`.
    method : one that takes a single run at a time is given one after the other, with the noise that the run has in the
        batch.
    steps : budget.
    targets : noise-free losses, at least one.
    lengths : step numbers up to ``steps`` at which the mean of the last ten losses is wanted.
    criterion : something else to wait for, after the targets: a function of the problem and the places (..., n) that
        says (...) where it is fulfilled.

    Without ``lengths`` the runs end as soon as each has passed all targets or diverged; with them, only when all have
    diverged.

    Raises
    ------
    ValueError
        A method whose loop belongs to a library, steps that are not a whole number, no target or one that is not
        positive, a length out of range.
    """
    if isinstance(method, type) or not isinstance(method, Optimizer):
        raise ValueError(f"method must have init and step, got {method!r}; write CurveBall(), say, or FrozenBFGS()")
    check_count("steps", steps)
    if not targets:
        raise ValueError("targets must hold at least one loss, got none")
    levels = np.asarray([check_positive("each target", target) for target in targets])
    if any(check_count("each length", length) > steps for length in lengths):
        raise ValueError(f"each length must be at most steps={steps}, got {list(lengths)}")
    with np.errstate(all="ignore"):
        rules = (steps, levels, lengths, criterion)
        if not isinstance(method, LevenbergMarquardt | FrozenBFGS | TorchLBFGS | RadiusRule):
            return _walk(runs.problem, method, runs.starts, as_generator(runs.noise), *rules)
        each = [_walk(runs.alone(k), method, x, as_generator(runs.noise), *rules) for k, x in enumerate(runs.starts)]
    joined = {name: np.stack([getattr(one, name) for one in each]) for name in Passages._fields if name != "steps"}
    return Passages(**joined, steps=max(one.steps for one in each))


class Summary(NamedTuple):
    """Mean and standard deviation (divided by the number of runs) of the counts of the runs that arrived, NaN if none
    did, and the share of the others."""

    mean: float
    deviation: float
    failures: float

    def __str__(self) -> str:
        if self.failures == 1.0:
            return "none arrives"
        form = ".0f" if self.mean >= 100 else ".1f"
        failed = f" ({self.failures:.0%} fail)" if self.failures else ""
        return f"{self.mean:{form}} ± {self.deviation:{form}}{failed}"


def summary(counts: np.ndarray) -> Summary:
    """What a table shows of ``counts`` (runs,), where inf is a failure.

    >>> str(summary(np.array([13.0, 15.0, np.inf, np.inf])))
    '14.0 ± 1.0 (50% fail)'
    """
    arrived = counts[np.isfinite(counts)]
    if arrived.size == 0:
        return Summary(float("nan"), float("nan"), 1.0)
    return Summary(float(arrived.mean()), float(arrived.std()), 1.0 - arrived.size / counts.size)


def _walk(
    problem: Problem,
    method: Optimizer,
    x: Array,
    rng: Any,
    steps: int,
    levels: np.ndarray,
    lengths: Sequence[int],
    criterion: Criterion | None,
) -> Passages:
    # Not `minimize`: that looks at the loss on the sample and its trace costs several times a step of a toy problem.
    state = method.init(x)
    lead = tuple(x.shape[:-1])
    counts = np.full((*lead, len(levels) + (criterion is not None)), np.inf)
    averages = np.full((*lead, len(lengths)), np.inf)
    work, refused, spent = counts, np.zeros(lead), Counts()
    recent: deque[np.ndarray] = deque(maxlen=10)
    taken = 0
    while True:
        loss = to_numpy(problem.loss(x))
        there = loss[..., None] <= levels
        if criterion is not None:
            there = np.concatenate([there, criterion(problem, x)[..., None]], axis=-1)
        first = np.isinf(counts) & there
        counts, work = np.where(first, taken, counts), np.where(first, spent.work, work)
        recent.append(loss)
        if taken in lengths:
            averages[..., lengths.index(taken)] = _finite_or_inf(np.mean(recent, axis=0))
        settled = np.isfinite(counts).all(axis=-1) & (not lengths)
        if taken == steps or (settled | ~np.isfinite(loss)).all():
            products = np.full(lead, spent.hvp / max(taken, 1))
            return Passages(counts, averages, _finite_or_inf(loss), taken, work, products, refused)
        point = problem.at(x, problem.draw(rng))
        step = method.step(point, state)
        x, state, taken = step.x, step.state, taken + 1
        spent, refused = spent + point.counts, refused + _refusals(step.info)


def _refusals(info: Any) -> Any:
    if hasattr(info, "refused"):
        return info.refused
    return 1.0 - np.asarray(getattr(info, "accepted", True))


def _finite_or_inf(values: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(values), values, np.inf)
