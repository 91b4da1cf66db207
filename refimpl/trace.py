"""What a run leaves behind: the trace, the result, and the bookkeeping that writes them.

Below the optimizers, so that a method whose loop belongs to a library (SciPy) writes the same rows as
:func:`refimpl.run.minimize`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from refimpl.arrays import Array, norm, to_numpy
from refimpl.oracle import Counts, Point

Status = Literal["converged", "budget", "diverged", "stalled", "interrupted"]
Callback = Callable[[int, Point], Mapping[str, float] | None]
Verdict = tuple[Status, str]


@dataclass
class Trace:
    """One row per step: what was seen at the place where the step started, and what the step did.

    ``columns["loss"][k]`` is the loss before step k, on the sample of step k. ``counts`` are cumulative, step k
    included. A run that ended at a place it could look at has one more row for that place: a loss and a gradient
    norm, and NaN for what only a step has. For batched runs, loss, gradient norm and step norm are arrays over the
    runs.

    >>> trace = Trace()
    >>> trace.add({"step": 0, "loss": 2.0, "step_norm": 1.0})
    >>> trace.add({"step": 1, "loss": 1.0})
    >>> trace["loss"].tolist(), trace["step_norm"].tolist()
    ([2.0, 1.0], [1.0, nan])
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one row. A column that is new, or absent from ``row``, is filled with NaN."""
        length = len(self)
        for key in row:
            self.columns.setdefault(key, [math.nan] * length)
        for key, values in self.columns.items():
            values.append(row.get(key, math.nan))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()))) if self.columns else 0

    def __getitem__(self, key: str) -> np.ndarray:
        """Column ``key`` as a NumPy array, (rows,) or (rows, runs); a ValueError names the columns there are."""
        if key not in self.columns:
            raise ValueError(f"the trace has no column {key!r}; it has {sorted(self.columns)}")
        values = [np.asarray(value) for value in self.columns[key]]
        # In a batched run the fill value is one NaN where the other rows have one number per run.
        shape = np.broadcast_shapes(*(value.shape for value in values))
        return np.stack([np.broadcast_to(value, shape) for value in values])

    def to_dict(self) -> dict[str, list[Any]]:
        """Plain lists and numbers, ready for JSON."""
        return {key: self[key].tolist() for key in self.columns}


@dataclass(frozen=True)
class Result:
    """How a run ended.

    ``status`` is ``converged`` (a stop rule was met), ``budget`` (all steps were taken), ``diverged`` (a loss,
    gradient or place that is not finite), ``stalled`` (a library's method gave up before any stop rule) or
    ``interrupted`` (Ctrl-C); ``message`` says it in words. ``x`` is the last place with finite coordinates (in a batch:
    with at least one such run). ``loss`` is the last of the trace, the mean over a batch. ``steps`` counts the steps
    taken.
    """

    x: Array
    loss: float
    status: Status
    message: str
    steps: int
    counts: Counts
    trace: Trace
    state: Any = None


class Recorder:
    """Writes the trace of one run and applies its stop rules.

    A row is begun by :meth:`look`, which says whether the run should stop there, and written by :meth:`close`. The
    gradient norm of a row is not charged to a method that did not ask for the gradient itself.
    """

    def __init__(self, gradient_tolerance: float | None, loss_target: float | None, callback: Callback | None) -> None:
        self.trace = Trace()
        self.counts = Counts()
        self._rules = (gradient_tolerance, loss_target)
        self._callback = callback
        self._started = time.perf_counter()
        self._row: dict[str, Any] | None = None

    def look(self, point: Point, index: int) -> Verdict | None:
        """Begin the row of step ``index`` at ``point``; the verdict if the run should stop there."""
        loss, gradient = point.peek()
        row = {"step": index, "loss": _number(loss), "gradient_norm": _number(norm(gradient))}
        self._row = row
        if self._callback is not None:
            self._row = {**row, **(self._callback(index, point) or {})}
        return _verdict(row, *self._rules)

    def close(self, counts: Counts, described: Mapping[str, Any] | None = None) -> None:
        """Write the row begun last with what the step did and what it cost; without such a row, nothing."""
        if self._row is None:
            return
        self.counts = self.counts + counts
        cost = {**self.counts.labelled(), "work": self.counts.work, "seconds": time.perf_counter() - self._started}
        self.trace.add({**self._row, **(described or {}), **cost})
        self._row = None

    @property
    def last_loss(self) -> float:
        """The loss of the last row, the mean over a batch; NaN without rows."""
        return float(np.mean(self.trace.columns["loss"][-1])) if len(self.trace) else math.nan

    def result(self, x: Array, verdict: Verdict, steps: int, state: Any = None) -> Result:
        """The result of the run that this recorder watched."""
        return Result(x, self.last_loss, *verdict, steps, self.counts, self.trace, state)


def describe(x_old: Array, x_new: Array, info: Any) -> dict[str, Any]:
    """What a step adds to its row: its length, whether it was accepted, and every number of ``info``."""
    told = {key: _number(value) for key, value in info._asdict().items() if _is_plottable(value)}
    return {"step_norm": _number(norm(x_new - x_old)), "accepted": told.pop("accepted", True), **told}


def _verdict(row: Mapping[str, Any], gradient_tolerance: float | None, loss_target: float | None) -> Verdict | None:
    loss, gradient_norm = np.asarray(row["loss"]), np.asarray(row["gradient_norm"])
    finite = np.isfinite(loss) & np.isfinite(gradient_norm)
    low = np.zeros_like(finite) if loss_target is None else loss <= loss_target
    flat = np.zeros_like(finite) if gradient_tolerance is None else gradient_norm <= gradient_tolerance
    if not (~finite | low | flat).all():
        return None
    if not finite.all():
        who = "the loss or gradient is" if finite.ndim == 0 else f"{(~finite).sum()} of {finite.size} runs are"
        rest = ", the others converged" if finite.any() else ""
        return "diverged", f"{who} not finite at step {row['step']}{rest}"
    if low.all():
        return "converged", f"the loss reached {loss_target:g}"
    if flat.all():
        return "converged", f"the gradient norm is at most {gradient_tolerance:g}"
    return (
        "converged",
        f"each run reached the loss {loss_target:g} or a gradient norm of at most {gradient_tolerance:g}",
    )


def _is_plottable(value: Any) -> bool:
    return value is not None and not isinstance(value, str)


def _number(value: Any) -> Any:
    if isinstance(value, bool | int | float):
        return value
    host = to_numpy(value)
    return host.item() if host.ndim == 0 else host
