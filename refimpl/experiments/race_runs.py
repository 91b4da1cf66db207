"""One run of a race: a method until its budget is used up, looked at on the way, interrupted and continued.

:func:`refimpl.experiments.training.train` counts steps. A step of one method can cost forty times that of another, so a
race counts work (gradient equivalents, :attr:`refimpl.oracle.Counts.work`) or seconds and looks at equal shares of the
budget. A race can be interrupted and goes on from its checkpoint as if nothing had happened.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np

from refimpl.arrays import Array, all_finite, as_generator, check_count, check_positive, to_numpy
from refimpl.experiments.training import KNOBS, batch_error, decomposition, means_of, report_of
from refimpl.optimizers.base import Optimizer
from refimpl.oracle import Counts

REPORTED = (*KNOBS, "radius", "dimension", "refused", "scale")
"""What a race keeps of a method's info: the mean over the steps since the look before."""


def run_race(
    problem: Any,
    method: Optimizer,
    x: Array,
    *,
    seed: int,
    work: float | None = None,
    seconds: float | None = None,
    steps: int | None = None,
    looks: int = 20,
    device: str = "cpu",
    checkpoint: Any = None,
) -> dict[str, Any]:
    """Run ``method`` from ``x`` until one of the budgets is used up; look at it at equal shares of the budget.

    Parameters
    ----------
    problem : a classifier, a model of text, or any problem with ``evaluate``.
    seed : decides the minibatches: every method with the same seed sees the same ones.
    work, seconds, steps : the budgets, at least one; the step that uses one up is the last. Work in gradients.
    looks : rows of the curve, start and end included, at least 2.
    device : ``"cpu"``: CPU seconds of the steps, and every step is checked to be finite. Else seconds of the clock on
        the wall from look to look, waiting for the device only there; whether the run is finite is asked there too.
    checkpoint : a :class:`refimpl.experiments.checkpoints.Checkpoint`, from which the run goes on if it holds this one.

    Returns
    -------
    dict
        As :func:`refimpl.experiments.training.train`; ``curve`` has one row per look, with the column ``share``, the
        share of the budget that the row stands for (a step may pass several: then they have the same content), the
        columns of :func:`refimpl.experiments.training.report_of`, ``batch_loss``, ``batch_error`` (of a classifier on
        the CPU) and the means of :data:`REPORTED` that the method reports. A run that ended early has one row more.
        ``val_loss``, ``test_loss`` at the end where there is such a column.

    Raises
    ------
    ValueError
        No budget, or one that is not positive; fewer than two looks.
    TimeUp
        The session's time is over; the run is saved.
    """
    budgets = {name: check_positive(name, value) for name, value in
               (("work", work), ("seconds", seconds), ("steps", steps)) if value is not None}  # fmt: skip
    if not budgets:
        raise ValueError("a race needs a budget: give work, seconds or steps")
    race = _Race(problem, method, x, seed, budgets, check_count("looks", looks, minimum=2), device)
    saved = checkpoint.load() if checkpoint is not None else None
    if saved is not None:
        race.restore(saved)
    with np.errstate(all="ignore"):
        race.look()
        while race.going:
            race.step()
            race.look()
            if checkpoint is not None and race.going:
                checkpoint.keep(race.payload)
    return race.report()


class _Race:
    """One run: everything that decides how it goes on is in :meth:`payload`."""

    def __init__(
        self, problem: Any, method: Any, x: Array, seed: int, budgets: dict[str, float], looks: int, device: str
    ) -> None:
        self._problem, self._method, self._budgets, self._looks = problem, method, budgets, looks
        self._host = device == "cpu"
        self._now = time.process_time if self._host else partial(_synchronous, device)
        targets = getattr(problem, "targets", None)
        self._labels = to_numpy(targets) if targets is not None and self._host and _labels(problem) else None
        self._x, self._state, self._rng = x, method.init(x), as_generator([seed, 1])
        self._counts, self._seconds, self._steps, self._shown = Counts(), 0.0, 0, 0
        self._curve: dict[str, list[float]] = defaultdict(list)
        self._seen: dict[str, list[Any]] = defaultdict(list)
        self._verdict = ("", "")
        self._since: float | None = None

    @property
    def going(self) -> bool:
        """Whether there is a next step."""
        return not self._verdict[0]

    def step(self) -> None:
        """One step, on the clock."""
        if self._since is None:
            self._since = time.process_time() if self._host else time.perf_counter()
        point = self._problem.at(self._x, self._problem.draw(self._rng))
        try:
            step = self._method.step(point, self._state)
            loss = point.loss  # after the step: a method may want to watch the forward pass
            finite = all_finite(step.x, loss) if self._host else True
        except (np.linalg.LinAlgError, RuntimeError) as error:
            self._verdict = ("failed", f"step {self._steps + 1}: {decomposition(error)}")
            return
        if self._host:
            self._stop()
        self._counts += point.counts
        self._steps += 1
        if not finite:
            self._verdict = ("diverged", f"step {self._steps} led to a loss or place that is not finite")
            return
        self._seen["batch_loss"].append(loss)
        if self._labels is not None:
            self._seen["batch_error"].append(batch_error(point, self._labels))
        for name in REPORTED:
            if hasattr(step.info, name):
                self._seen[name].append(getattr(step.info, name))
        self._x, self._state = step.x, step.state

    def look(self) -> None:
        """A row for each share of the budget that has been passed; and one for the end of a run that ended early."""
        share, early = self._share(), bool(self._verdict[0])
        due = min(self._looks, 1 + int(share * (self._looks - 1) + 1e-9)) - self._shown
        if due <= 0 and not early:
            return
        self._stop()
        share = self._share()
        seen = {name: [float(value) for value in values] for name, values in self._seen.items()}
        row = {"step": self._steps, "work": self._counts.work, "seconds": self._seconds}
        row |= report_of(self._problem, self._x) | means_of(seen, ("batch_loss", *self._reported(seen)))
        if not early and not (self._host or all_finite(self._x)):
            self._verdict = ("diverged", f"by step {self._steps} the place was not finite")
            early = True
        for k in range(1 if early else due):
            at = share if early else (self._shown + k) / (self._looks - 1)
            missing = [name for name in row if name not in self._curve] if self._curve else []
            for name in missing:  # a knob that was not reported before the first step
                self._curve[name] = [math.nan] * len(self._curve["step"])
            for name in dict.fromkeys(("share", *row, *self._curve)):
                self._curve[name].append(at if name == "share" else row.get(name, math.nan))
        self._shown += 0 if early else due
        self._seen.clear()
        if not early and share >= 1:
            spent = max(self._budgets, key=lambda name: self._spent()[name] / self._budgets[name])
            self._verdict = ("budget", f"the budget of {self._budgets[spent]:g} {_UNITS[spent]} is used up")

    def report(self) -> dict[str, Any]:
        """What :func:`run_race` returns."""
        lost = self._verdict[0] != "budget"
        found = {"status": self._verdict[0], "message": self._verdict[1], "steps": self._steps}
        ends = [name for name in ("loss", "val_loss", "test_loss") if name in self._curve]
        return {
            **found,
            **{name: math.nan if lost else self._curve[name][-1] for name in ends},
            "curve": dict(self._curve),
        }

    def payload(self) -> dict[str, Any]:
        """Everything that a later session needs to go on."""
        self._stop()
        module = getattr(self._problem, "module", None)
        return {
            "x": self._x,
            "state": self._state,
            "rng": self._rng.bit_generator.state,
            "counts": tuple(self._counts),
            "progress": (self._seconds, self._steps, self._shown),
            "curve": dict(self._curve),
            "seen": {name: [float(value) for value in values] for name, values in self._seen.items()},
            # BatchNorm's running statistics belong to the module and not to x.
            "buffers": {} if module is None else {name: part.clone() for name, part in module.named_buffers()},
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from :meth:`payload`."""
        self._x, self._state = saved["x"], saved["state"]
        self._rng.bit_generator.state = saved["rng"]
        self._counts = Counts(*saved["counts"])
        self._seconds, self._steps, self._shown = saved["progress"]
        self._curve = defaultdict(list, saved["curve"])
        self._seen = defaultdict(list, saved["seen"])
        if saved["buffers"]:
            for name, part in self._problem.module.named_buffers():
                part.copy_(saved["buffers"][name])

    def _share(self) -> float:
        spent = self._spent()
        return max(spent[name] / budget for name, budget in self._budgets.items())

    def _spent(self) -> dict[str, float]:
        running = 0.0 if self._since is None or self._host else time.perf_counter() - self._since
        return {"work": self._counts.work, "seconds": self._seconds + running, "steps": self._steps}

    def _stop(self) -> None:
        if self._since is not None:
            self._seconds += self._now() - self._since
            self._since = None

    def _reported(self, seen: Mapping[str, Any]) -> list[str]:
        return [name for name in ("batch_error", *REPORTED) if name in seen or name in self._curve]


def _labels(problem: Any) -> bool:
    return len(problem.targets.shape) == 1 and bool(getattr(problem.loss_function, "integer_targets", False))


_UNITS = {"work": "gradients", "seconds": "seconds", "steps": "steps"}


def _synchronous(device: str) -> float:
    """The clock on the wall, when the device has done what it was told."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()
