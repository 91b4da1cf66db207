"""One leaderboard for every method on every problem of the book (chapter 18): at equal work, and at equal seconds.

The rules, fixed before a number was read:

* *Equal work* is the largest number of gradients that every method was given on a problem. A method has the loss of its
  last look at or before it: nothing is interpolated or extrapolated, and no method gets its best moment. Where the next
  look comes later than the budget, what the method had at the budget lies somewhere between: the interval holds both.
* A run that diverged or failed by then counts as infinite; what happens to it later is not held against it. A run that
  stopped because it was done keeps its last loss.
* *Equal seconds* are compared only between runs of one record whose programs held equally many runs.
* A method has the median over its runs and an interval of order statistics (:func:`interval`). One method beats another
  where the intervals do not overlap and there were enough runs to say so (:func:`compare`); otherwise they tie.

Ranks and wins use nothing but the order of losses: a loss and its logarithm give the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.stats import binom, hypergeom

from refimpl.arrays import check_positive
from refimpl.experiments.leaderboard_cases import (
    FAMILIES,
    SOURCES,
    UNUSED,
    Arrivals,
    Entry,
    Kind,
    RecordSource,
    arrivals,
    entries,
    has,
    unused,
)
from refimpl.experiments.leaderboard_live import live

__all__ = [
    "FAMILIES",
    "SOURCES",
    "UNUSED",
    "Arrivals",
    "Entry",
    "RecordSource",
    "Score",
    "Standing",
    "Wins",
    "arrivals",
    "chance",
    "compare",
    "decades",
    "entries",
    "equal_arrivals",
    "equal_seconds",
    "equal_work",
    "has",
    "interval",
    "live",
    "of_families",
    "ranks",
    "to_target",
    "unused",
    "win_matrix",
]

Run = TypeVar("Run", Entry, Arrivals)

CHANCE = 0.1
"""Two methods that do not differ would have disjoint intervals with at most this probability, or nothing is decided."""


class Score(NamedTuple):
    """What a method reached on a problem: ``values`` (runs,), sorted, inf for a failure; their median; how many failed.

    ``low`` and ``high``: the :func:`interval` of the values, widened by that of the looks after the budget.
    """

    method: str
    tuning: str
    median: float
    low: float
    high: float
    runs: int
    failed: int
    values: tuple[float, ...]


class Standing(NamedTuple):
    """A problem with its scores, best median first. ``measure`` says what they are, smaller is better.

    ``budget`` is the work in gradients, or the seconds, that every method had.
    """

    problem: str
    kind: Kind
    measure: str
    budget: float
    scores: tuple[Score, ...]

    def of(self, method: str) -> Score:
        """The score of a method; a ValueError names those there are."""
        for score in self.scores:
            if score.method == method:
                return score
        raise ValueError(f"{self.problem} has no {method!r}; it has {[score.method for score in self.scores]}")


class Wins(NamedTuple):
    """``wins[i, j]``: on how many problems method i beat method j; ``met[i, j]``: on how many both ran."""

    names: tuple[str, ...]
    wins: np.ndarray
    met: np.ndarray


def equal_work(runs: Iterable[Entry], *, work: float | None = None, fraction: float = 1.0) -> list[Standing]:
    """The loss of each method after the same work, problem by problem.

    Parameters
    ----------
    runs : of any number of problems, in any order; runs of a problem with the same method are its seeds.
    work : the budget in gradients; None for the most that every method of a problem was given.
    fraction : the share of it that is taken, in (0, 1].

    Raises
    ------
    ValueError
        A budget that some run did not have; a run without a look within it; the same seed twice.
    """
    groups: dict[str, list[Entry]] = {}
    for run in runs:
        groups.setdefault(run.problem, []).append(run)
    return [_standing(found, "work", work, fraction) for found in groups.values()]


def equal_seconds(runs: Iterable[Entry], *, fraction: float = 1.0) -> list[Standing]:
    """As :func:`equal_work` for seconds: one standing per problem, record and size of batch, if it has two methods.

    Seconds of other records are those of other machines or other hours; seconds of a batch are shared by its runs.
    """
    groups: dict[tuple[str, str, int], list[Entry]] = {}
    for run in runs:
        if len(run.seconds):
            groups.setdefault((run.problem, run.record, run.batch), []).append(run)
    several = {key: found for key, found in groups.items() if len({run.method for run in found}) > 1}
    problems = [problem for problem, _, _ in several]
    standings = []
    for (problem, _, batch), found in several.items():
        label = problem if problems.count(problem) == 1 else f"{problem}, {batch} at once"
        standings.append(_standing(found, "seconds", None, fraction)._replace(problem=label))
    return standings


def equal_arrivals(found: Iterable[Arrivals]) -> list[Standing]:
    """The work to the target, problem by problem; later than the least ``reach`` of a method counts as never.

    That is the work within which every run had the chance to arrive.
    """
    groups: dict[str, list[Arrivals]] = {}
    for one in found:
        groups.setdefault(one.problem, []).append(one)
    standings = []
    for problem, each in groups.items():
        budget = min(one.reach for one in each)
        scores = [_score(one.method, one.tuning, np.where(one.work <= budget, one.work, math.inf)) for one in each]
        measure = f"work to {each[0].target:g}"
        standings.append(Standing(problem, each[0].kind, measure, budget, _sorted(scores)))
    return standings


def to_target(runs: Iterable[Entry], target: float, *, work: float) -> list[Standing]:
    """The work at the first look whose loss is at most ``target``; inf where there is none within ``work``."""
    check_positive("work", work)
    found: dict[tuple[str, str], list[Entry]] = {}
    for run in runs:
        found.setdefault((run.problem, run.method), []).append(run)
    each = []
    for (problem, method), group in found.items():
        first = [_first(run, target) for run in group]
        each.append(Arrivals(problem, method, group[0].record, group[0].tuning, target, np.asarray(first), work))
    return equal_arrivals(each)


def interval(values: Any, level: float = 0.95) -> tuple[float, float]:
    """Two of ``values`` (runs,) between which the median lies: the k-th smallest and the k-th largest.

    k is the largest with a probability of at least ``level`` for any continuous distribution; with fewer than six runs
    no k has 0.95, and the interval is the range. Unlike a bootstrap it does not change under a monotone map.

    Source: David & Nagaraja (2003), sec. 7.1.

    >>> interval([3.0, 1.0, 2.0]), interval(range(10))
    ((1.0, 3.0), (1.0, 8.0))
    """
    ordered = np.sort(np.asarray(list(values), dtype=float))
    if ordered.size == 0 or np.isnan(ordered).any():
        raise ValueError("an interval needs at least one run, and inf for a run that failed, not NaN")
    k = _order(ordered.size, level)
    return float(ordered[k - 1]), float(ordered[-k])


@lru_cache
def chance(n: int, m: int) -> float:
    """The probability that :func:`interval` separates n from m runs of methods that do not differ.

    With exchangeable losses without ties. A's interval ends at its (n - k + 1)-th smallest loss and B's begins at its
    j-th; the former comes first where at least n - k + 1 of the n - k + j smallest of all are A's, a hypergeometric
    number. Ranges (k = j = 1) have 2 n! m! / (n + m)!.

    Raises
    ------
    ValueError
        A number of runs that is not positive.

    Examples
    --------
    >>> [round(chance(n, m), 4) for n, m in ((3, 3), (2, 20), (50, 50))]
    [0.1, 0.1818, 0.0025]
    """
    if min(n, m) < 1:
        raise ValueError(f"both methods need at least one run, got {n} and {m}")
    k, j = _order(n), _order(m)
    below = hypergeom(n + m, n, n - k + j).sf(n - k)
    above = hypergeom(n + m, m, m - j + k).sf(m - j)
    return float(below + above)


def compare(one: Score, other: Score) -> int:
    """-1 where ``one`` is better, 1 where it is worse, 0 where nothing is decided.

    Disjoint intervals decide if there were enough runs: those of methods that do not differ must be disjoint with a
    probability (:func:`chance`) of at most :data:`CHANCE`. Three runs each are enough, two are not.
    """
    if chance(one.runs, other.runs) > CHANCE + 1e-9:  # 3 + 3 runs have 0.1, but for its last digit
        return 0
    return int(one.low > other.high) - int(one.high < other.low)


def ranks(standing: Standing) -> dict[str, float]:
    """Rank of each method, 1 for the best: one more than those that beat it, and half for each tie.

    Ranks of n methods add up to n (n + 1) / 2. Ties are not transitive: A may tie with B and B with C where A beats C.
    """
    return {
        one.method: 1 + sum((1 + compare(one, other)) / 2 for other in standing.scores if other is not one)
        for one in standing.scores
    }


def win_matrix(standings: Iterable[Standing], *, least: int = 1) -> Wins:
    """Who beat whom on how many problems, of those where both ran; the methods that ran on at least ``least``.

    Methods are ordered by their wins less their losses per meeting.
    """
    listed = list(standings)
    played = [score.method for standing in listed for score in standing.scores]
    names = [name for name in dict.fromkeys(played) if played.count(name) >= least]
    wins, met = np.zeros((2, len(names), len(names)), dtype=int)
    for standing in listed:
        there = [(names.index(score.method), score) for score in standing.scores if score.method in names]
        for i, one in there:
            for j, other in there:
                if i != j:
                    met[i, j] += 1
                    wins[i, j] += compare(one, other) < 0
    balance = (wins - wins.T).sum(axis=1) / np.maximum(met.sum(axis=1), 1)
    order = sorted(range(len(names)), key=lambda i: (-balance[i], names[i]))
    return Wins(tuple(names[i] for i in order), wins[np.ix_(order, order)], met[np.ix_(order, order)])


def decades(standing: Standing, baseline: str = "sgd") -> dict[str, float]:
    """How many powers of ten a method's median is below the baseline's; negative where it is above, -inf for a failure.

    Divided by its largest value this is the share of the way from the baseline to the best method. Empty where the
    baseline did not run, failed, or a median is not positive.
    """
    medians = {score.method: score.median for score in standing.scores}
    if not math.isfinite(medians.get(baseline, math.inf)) or min(medians.values()) <= 0:
        return {}
    return {name: -math.inf if math.isinf(m) else math.log10(medians[baseline] / m) for name, m in medians.items()}


def of_families(runs: Iterable[Run], families: Mapping[str, Sequence[str]] = FAMILIES) -> list[Run]:
    """The runs of one setting for each method, under the name that the method has in all problems.

    To be done before budgets are shared out: a variant with a small budget would shorten everybody's.
    """
    listed = list(runs)
    there: dict[str, set[str]] = {}
    for run in listed:
        there.setdefault(run.problem, set()).add(run.method)
    names = {
        (problem, setting): family
        for problem, methods in there.items()
        for family, settings in families.items()
        for setting in [next((s for s in settings if s in methods), None)]
    }
    named = [(names.get((run.problem, run.method)), run) for run in listed]
    return [run._replace(method=family) for family, run in named if family is not None]


def _standing(runs: Sequence[Entry], axis: str, budget: float | None, fraction: float) -> Standing:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction!r}")
    seen = [(run.method, run.seed) for run in runs]
    if len(set(seen)) < len(seen):
        raise ValueError(f"{runs[0].problem} has some seed of a method twice: {sorted(seen)}")
    given = [float(getattr(run, axis)[-1]) for run in runs if run.status == "budget"]
    most = min(given, default=math.inf)
    if math.isinf(most):  # nobody used up a budget: the last to stop sets it
        most = max(float(getattr(run, axis)[-1]) for run in runs)
    chosen = fraction * (most if budget is None else budget)
    if chosen > most * (1 + 1e-9):
        raise ValueError(f"{runs[0].problem}: a budget of {chosen:g} {axis}, but some run had only {most:g}")
    methods: dict[str, list[Entry]] = {}
    for run in runs:
        methods.setdefault(run.method, []).append(run)
    scores = []
    for name, group in methods.items():
        values, later = zip(*(_around(run, axis, chosen) for run in group), strict=True)
        scores.append(_score(name, group[0].tuning, values, later))
    first = runs[0]
    return Standing(first.problem, first.kind, f"loss at equal {axis}", chosen, _sorted(scores))


def _around(run: Entry, axis: str, budget: float) -> tuple[float, float]:
    # The loss of the last look within the budget, and of the first one after it where the last is not at the budget.
    places = getattr(run, axis)
    slack = 1e-6 * budget  # records keep seven digits, and a budget is the last look of some run
    if run.status not in ("budget", "converged") and places[-1] <= budget + slack:
        return math.inf, math.inf
    within = np.flatnonzero(places <= budget + slack)
    if not len(within):
        raise ValueError(f"{run.problem}: {run.method} has no look within {budget:g} {axis}; take more of the budget")
    last = within[-1]
    following = last if last + 1 == len(places) or places[last] >= budget - slack else last + 1
    value, later = (v if math.isfinite(v) else math.inf for v in map(float, run.loss[[last, following]]))
    return value, later


def _order(runs: int, level: float = 0.95) -> int:
    # The k of an interval: from the k-th smallest to the k-th largest.
    return max(1, int(binom.ppf((1 - level) / 2, runs, 0.5)))


def _first(run: Entry, target: float) -> float:
    there = np.flatnonzero(run.loss <= target)
    return float(run.work[there[0]]) if len(there) else math.inf


def _score(method: str, tuning: str, values: Any, later: Any = ()) -> Score:
    ordered = tuple(sorted(float(value) for value in values))
    both = [interval(ordered), interval(later or ordered)]
    low, high = min(pair[0] for pair in both), max(pair[1] for pair in both)
    middle = float(np.median(ordered)) if math.isfinite(ordered[len(ordered) // 2]) else math.inf
    return Score(method, tuning, middle, low, high, len(ordered), sum(map(math.isinf, ordered)), ordered)


def _sorted(scores: Iterable[Score]) -> tuple[Score, ...]:
    return tuple(sorted(scores, key=lambda score: (score.median, score.high, score.method)))
