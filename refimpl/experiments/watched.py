"""Training runs whose trust region is written down on the way, how they are read, and a method that hands over."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import numpy as np

from refimpl.arrays import Array, check_count, check_positive
from refimpl.experiments.training import Band, TrainingStudy, Tuned, band, runs_of
from refimpl.optimizers.base import Optimizer, Step, settle
from refimpl.oracle import Point

MEANS = ("radius", "dimension")
"""Kept of a method's info as means over the steps since the row before."""

TOTALS = ("refused", "unmoved")
"""Kept as totals since the row before: trials that were refused, and steps after which no trial had been accepted."""

Log = list[dict[str, float]]


@dataclass(frozen=True)
class Watched:
    """``method``, with what :data:`MEANS` and :data:`TOTALS` need of each step kept: one more list per run in ``logs``.

    The steps are those of the method itself.
    """

    method: Optimizer
    logs: list[Log] = field(repr=False, compare=False)
    name: ClassVar[str] = "watched"

    def init(self, x: Array) -> Any:
        """The state of the method; a new log begins."""
        self.logs.append([])
        return self.method.init(x)

    def step(self, point: Point, state: Any) -> Step:
        """One step of the method."""
        found = self.method.step(point, state)
        row = {name: float(getattr(found.info, name)) for name in (*MEANS, "refused") if hasattr(found.info, name)}
        if hasattr(found.info, "accepted"):
            row["unmoved"] = float(not found.info.accepted)
        self.logs[-1].append(row)
        return found


@dataclass(frozen=True)
class WatchedTuned(Tuned):
    """A tuned method that is watched at every rate."""

    logs: list[Log] = field(default_factory=list, repr=False, compare=False)

    def at(self, rate: float) -> Optimizer:
        """The watched method with this learning rate."""
        return Watched(super().at(rate), self.logs)


@dataclass(frozen=True)
class Switching:
    """``first`` for so many steps, then ``second``, which starts afresh where the first one ended.

    Parameters
    ----------
    first, second : the methods.
    after : steps of the first.
    learning_rate : of the second, whatever its own is; so that :class:`~refimpl.experiments.training.Tuned` can choose
        it.

    Raises
    ------
    ValueError
        ``after`` is no positive whole number, the rate is not positive, or the second method has none.

    Source: KryBall thesis, sec. 5.5.1, as a remedy for late instability; there without a rule.
    """

    first: Optimizer
    second: Any
    after: int
    learning_rate: float
    name: ClassVar[str] = "switching"

    def __post_init__(self) -> None:
        if not hasattr(self.second, "learning_rate"):
            raise ValueError(f"the second method must have a learning_rate, got {self.second!r}")
        rate = check_positive("learning_rate", self.learning_rate)
        settle(self, after=check_count("after", self.after), learning_rate=rate)
        settle(self, second=replace(self.second, learning_rate=rate))

    def init(self, x: Array) -> tuple[int, Any]:
        """Steps so far, and the state of the method at work."""
        return 0, self.first.init(x)

    def step(self, point: Point, state: tuple[int, Any]) -> Step:
        """One step of the method at work: (n,)."""
        taken, inner = state
        if taken == self.after:
            inner = self.second.init(point.x)
        found = (self.first if taken < self.after else self.second).step(point, inner)
        return Step(found.x, (taken + 1, found.state), found.info)


@dataclass(frozen=True)
class WatchedStudy(TrainingStudy):
    """A study whose curves also have the columns :data:`MEANS` and :data:`TOTALS`, where the method reports them.

    A subclass gives ``plain_methods`` for ``methods``.
    """

    logs: list[Log] = field(default_factory=list, repr=False, compare=False)

    @abstractmethod
    def plain_methods(self, case: str) -> Mapping[str, Optimizer | Tuned]:
        """The methods by name, not watched."""

    def methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods by name, watched."""
        return {
            name: WatchedTuned(method.method, method.rates, self.logs)
            if isinstance(method, Tuned)
            else Watched(method, self.logs)
            for name, method in self.plain_methods(case).items()
        }

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one job, with what was seen of them."""
        self.logs.clear()
        runs = super().run_job(job, settings, device)
        for run, log in zip(runs, self.logs, strict=True):
            run["curve"] |= columns(log, run["curve"]["step"])
        return runs


def columns(log: Log, steps: Sequence[int]) -> dict[str, list[float]]:
    """The columns of a curve with rows at ``steps`` from one entry of ``log`` per step; NaN where nothing was reported.

    A quantity that the method never reports has no column.

    >>> columns([{"refused": 1.0}, {"refused": 0.0}, {"refused": 2.0}], [0, 2, 3])
    {'refused': [nan, 1.0, 2.0]}
    """
    found: dict[str, list[float]] = {}
    for name in (*MEANS, *TOTALS):
        if not any(name in row for row in log):
            continue
        column = [math.nan]
        for start, stop in pairwise(steps):
            seen = [row[name] for row in log[start:stop] if name in row]
            column.append(float(np.sum(seen) if name in TOTALS else np.mean(seen)) if seen else math.nan)
        found[name] = column
    return found


# -- reading a record -------------------------------------------------------------------------------------------------

TABLE_HEADER = (
    "method", "learning rate", "training loss", "best test accuracy", "last test accuracy", "work", "seconds",
    "refused per step", "last radius", "failed",
)  # fmt: skip


class Ending(NamedTuple):
    """Medians over seeds of what a method came to; a failed run counts as infinite loss and accuracy 0."""

    loss: float
    best: float
    last: float
    work: float
    seconds: float


def ending(record: Mapping[str, Any], case: str, method: str) -> Ending:
    """How a method ended: the best test accuracy is that of the best look."""
    rows = []
    for run in runs_of(record, case, method):
        curve, fine = run["curve"], run["status"] == "budget"
        right = 1 - np.asarray(curve["test_error"], dtype=float)
        reached = (run["loss"], right.max(), right[-1]) if fine else (np.inf, 0.0, 0.0)
        rows.append((*reached, curve["work"][-1], curve["seconds"][-1]))
    return Ending(*np.median(np.asarray(rows, dtype=float), axis=0).tolist())


def table(record: Mapping[str, Any], case: str) -> list[list[Any]]:
    """One row per method of a case, as :data:`TABLE_HEADER` says; medians over seeds.

    ``refused per step`` counts trials, over all steps; ``last radius`` is the mean radius before the last look. A dash
    stands where a method has no such thing.
    """
    rows = []
    for method in method_names(record, case):
        runs = runs_of(record, case, method)
        rate = f"{runs[0]['rate']:g}" if "rate" in runs[0] else "–"
        refused = [np.nansum(floats(r["curve"]["refused"])) / r["steps"] for r in runs if "refused" in r["curve"]]
        radius = [floats(run["curve"]["radius"])[-1] for run in runs if "radius" in run["curve"]]
        radius = [last for last in radius if math.isfinite(last)]  # a method that hands over has none in the end
        seen = [float(np.median(values)) if values else "–" for values in (refused, radius)]
        failed = sum(run["status"] != "budget" for run in runs)
        rows.append([method, rate, *ending(record, case, method), *seen, f"{failed} of {len(runs)}"])
    return rows


def curves(
    record: Mapping[str, Any],
    case: str,
    chosen: Sequence[str] | None = None,
    *,
    x: str = "step",
    y: str = "loss",
) -> dict[str, Band]:
    """For each method (or those ``chosen``) the median and the range over seeds of ``y`` against ``x``.

    ``x`` is ``"epoch"`` (the record's settings say how many steps are one), ``"step"``, ``"work"`` or ``"seconds"``;
    ``y`` a column of the curves, or ``"test_accuracy"``.
    """
    found, share = {}, record["settings"]["epoch"][case] if x == "epoch" else 1
    for name in chosen or method_names(record, case):
        column = "test_error" if y == "test_accuracy" else y
        at, middle, low, high = band(record, case, name, x="step" if x == "epoch" else x, y=column)
        if y == "test_accuracy":
            middle, low, high = 1 - middle, 1 - high, 1 - low
        found[name] = Band(at / share, middle, low, high)
    return found


def method_names(record: Mapping[str, Any], case: str) -> list[str]:
    """The methods of a case in the order of the record."""
    return list(dict.fromkeys(run["method"] for run in record["runs"] if run["case"] == case))


def floats(values: Sequence[float | None]) -> np.ndarray:
    """Numbers of a record; what JSON keeps as null is NaN again."""
    return np.asarray([math.nan if value is None else value for value in values], dtype=float)
