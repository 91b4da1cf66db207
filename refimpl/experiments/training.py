"""Training a classifier on minibatches: one run, a study made of such runs, and what a chapter reads from its record.

:func:`refimpl.run.minimize` looks at the gradient of every place for its trace. CurveBall never asks for a gradient, so
there its seconds would hold somebody else's work. Here the clock runs while a method steps and not while a run is
watched, and work is what the method itself asked of the loss (:attr:`refimpl.oracle.Counts.work`).
"""

from __future__ import annotations

import importlib.util
import math
import time
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, all_finite, as_generator, check_count, to_numpy
from refimpl.experiments.runner import Experiment
from refimpl.optimizers.base import Optimizer
from refimpl.oracle import Counts, Point, Problem

TUNING_SEED = 1000
"""Learning rates are chosen on this seed, which is never among the seeds that are reported."""

KNOBS = ("learning_rate", "momentum", "damping")
"""What a curve keeps of a method's info: the mean over the steps since the row before."""


@dataclass(frozen=True)
class Tuned:
    """A method whose ``learning_rate`` is chosen from ``rates`` by the training loss at the end of a tuning run."""

    method: Any
    rates: tuple[float, ...]

    def at(self, rate: float) -> Optimizer:
        """The method with this learning rate."""
        found: Optimizer = replace(self.method, learning_rate=rate)
        return found


def train(
    problem: Any, method: Optimizer, x: Array, *, steps: int, seed: int, looks: Iterable[int], device: str = "cpu"
) -> dict[str, Any]:
    """Run ``method`` from ``x`` on a classifier; look at it before the steps ``looks`` and after the last one.

    The minibatches depend on ``seed`` alone: every method with the same seed sees the same ones. Each is drawn anew
    from all rows, so an epoch is a number of steps and not a walk through the data.

    Returns
    -------
    dict
        ``status`` (``budget``, ``diverged``: a loss or place that is not finite, ``failed``: a matrix that the library
        could not take apart), ``message``, ``steps``, ``loss`` and ``curve``, whose columns have one entry per look:
        ``step``; ``loss``, ``error``, ``test_loss``, ``test_error`` of the whole sets in evaluation mode;
        ``batch_loss`` and ``batch_error``, means over the minibatches since the look before, as training saw them; the
        means of :data:`KNOBS`; ``work`` in gradients and ``seconds`` so far: CPU seconds, on a GPU those of the clock
        on the wall. A run that ended early has one row more, where it ended.
    """
    check_count("steps", steps)
    clock = time.process_time if device == "cpu" else time.perf_counter
    rng, wanted = as_generator([seed, 1]), {*looks, 0, steps}
    state, counts, seconds, taken = method.init(x), Counts(), 0.0, 0
    verdict = ("budget", f"all {steps} steps were taken")
    labels = to_numpy(problem.targets)
    curve: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, list[float]] = defaultdict(list)
    with np.errstate(all="ignore"):
        while True:
            if taken in wanted or verdict[0] != "budget":
                _look(curve, problem, x, seen, {"step": taken, "work": counts.work, "seconds": seconds})
                seen.clear()
            if taken == steps or verdict[0] != "budget":
                break
            point = problem.at(x, problem.draw(rng))
            started = clock()
            try:
                loss = point.loss
                step = method.step(point, state)
                finite = all_finite(step.x, loss)  # waits for a GPU
            except (np.linalg.LinAlgError, RuntimeError) as error:
                verdict = ("failed", f"step {taken + 1}: {decomposition(error)}")
                continue
            seconds += clock() - started
            counts += point.counts
            taken += 1
            if not finite:
                verdict = ("diverged", f"step {taken} led to a loss or place that is not finite")
                continue
            seen["batch_loss"].append(float(loss))
            seen["batch_error"].append(batch_error(point, labels))
            for name in KNOBS:
                if hasattr(step.info, name):
                    seen[name].append(float(getattr(step.info, name)))
            x, state = step.x, step.state
    lost = verdict[0] != "budget"
    report = {"status": verdict[0], "message": verdict[1], "steps": taken}
    return {**report, "loss": math.nan if lost else curve["loss"][-1], "curve": dict(curve)}


def evenly(steps: int, count: int) -> list[int]:
    """``count`` step numbers from 0 to ``steps``, evenly spaced, both ends included.

    >>> evenly(100, 5)
    [0, 25, 50, 75, 100]
    """
    return sorted({round(k) for k in np.linspace(0, steps, count)})


def best_rate(losses: Mapping[float, float]) -> float:
    """The learning rate with the smallest loss; runs that diverged do not count.

    Raises
    ------
    ValueError
        No run came to an end.

    >>> best_rate({0.1: float("nan"), 0.01: 0.5, 0.001: 0.9})
    0.01
    """
    ended = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
    if not ended:
        raise ValueError(f"no learning rate of {sorted(losses)} led to a finite loss; offer smaller ones")
    return min(ended, key=lambda rate: ended[rate])


@dataclass(frozen=True)
class TrainingStudy(Experiment):
    """Methods compared on one or more networks (*cases*), from several seeds each.

    A subclass gives ``settings`` with ``plan`` (case -> method -> ``steps`` and ``seeds``), ``methods`` and ``looks``;
    and the problem and the start of a run.
    """

    @abstractmethod
    def methods(self, case: str) -> Mapping[str, Optimizer | Tuned]:
        """The methods by name."""

    @abstractmethod
    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Problem:
        """A fresh problem, with ``evaluate`` reporting accuracies; made anew for each run."""

    def start(self, problem: Problem, seed: int) -> Array:
        """Where the runs of ``seed`` begin."""
        return problem.initial(as_generator([seed, 0]))

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``case/method/seed``, and ``case/method`` for a method that is tuned first, with all its seeds."""
        found = []
        for case, plans in settings["plan"].items():
            for name, plan in plans.items():
                tuned = isinstance(self.methods(case)[name], Tuned)
                found += [f"{case}/{name}"] if tuned else [f"{case}/{name}/{seed}" for seed in range(plan["seeds"])]
        return found

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the plans and methods of other jobs; a job of one seed does not care how many there are."""
        case, name, *seed = job.split("/")
        plan = settings["plan"][case][name]
        own = {"steps": plan["steps"]} if seed else plan
        return {**settings, "plan": own, "methods": settings["methods"][case][name]}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One seed of one method; or the tuning runs of one method and then all its seeds."""
        case, name, *rest = job.split("/")
        method, plan = self.methods(case)[name], settings["plan"][case][name]

        def run(key: str, chosen: Optimizer, seed: int, looks: Sequence[int], **extra: Any) -> dict[str, Any]:
            problem = self.problem(case, settings, device)
            start = self.start(problem, seed)
            found = train(problem, chosen, start, steps=plan["steps"], seed=seed, looks=looks, device=device)
            return {"key": key, "case": case, "method": name, "seed": seed, **extra, **found}

        looks = evenly(plan["steps"], settings["looks"])
        with one_thread(device):
            if not isinstance(method, Tuned):
                return [run(job, method, int(rest[0]), looks, role="run")]
            tuning = [
                run(f"{job}/tuning@{rate:g}", method.at(rate), TUNING_SEED, (), role="tuning", rate=rate)
                for rate in method.rates
            ]
            rate = best_rate({found["rate"]: found["loss"] for found in tuning})
            seeds = range(plan["seeds"])
            return tuning + [run(f"{job}/{s}", method.at(rate), s, looks, role="run", rate=rate) for s in seeds]


# -- reading a record -------------------------------------------------------------------------------------------------


class Band(NamedTuple):
    """Curves of several runs as one: ``x`` and, for each entry, the median of ``y`` and two of its quantiles."""

    x: np.ndarray
    middle: np.ndarray
    low: np.ndarray
    high: np.ndarray


def runs_of(record: Mapping[str, Any], case: str, method: str) -> list[Mapping[str, Any]]:
    """The reported runs (no tuning) of a method; a ValueError names what there is."""
    wanted = [r for r in record["runs"] if (r["case"], r["method"], r["role"]) == (case, method, "run")]
    if not wanted:
        there = sorted({(run["case"], run["method"]) for run in record["runs"]})
        raise ValueError(f"the record has no run of {(case, method)!r}; it has {there}")
    return wanted


def band(
    record: Mapping[str, Any],
    case: str,
    method: str,
    *,
    x: str = "step",
    y: str = "loss",
    spread: tuple[float, float] = (0.0, 1.0),
) -> Band:
    """Column ``y`` against column ``x`` over the runs of a method: median, and the quantiles ``spread``.

    A run that ended early counts as infinite from there on: it may raise the median but never vanishes.
    """
    return band_of(runs_of(record, case, method), x=x, y=y, spread=spread)


def band_of(
    runs: Sequence[Mapping[str, Any]], *, x: str = "step", y: str = "loss", spread: tuple[float, float] = (0.0, 1.0)
) -> Band:
    """:func:`band` for runs already chosen, each with the same looks."""
    longest = max(len(run["curve"]["step"]) for run in runs)
    ends = [run["status"] != "budget" for run in runs]
    columns = [_column(run["curve"], y) for run in runs]
    places = [_column(run["curve"], x) for run in runs]
    # The last row of a run that ended early stands at the step where it ended, which is nobody else's look.
    table = np.full((len(runs), longest), math.inf)
    where = np.full((len(runs), longest), math.nan)
    for row, (values, at, early) in enumerate(zip(columns, places, ends, strict=True)):
        length = len(values) - int(early)
        table[row, :length], where[row, :length] = values[:length], at[:length]
    kept = np.isfinite(where).any(axis=0)
    table, where = table[:, kept], where[:, kept]
    low, high = np.quantile(table, spread, axis=0, method="nearest")
    return Band(np.nanmedian(where, axis=0), np.median(table, axis=0), low, high)


TABLE_HEADER = (
    "case", "method", "learning rate", "training loss", "training error %", "test error %", "steps", "work", "seconds",
    "failed",
)  # fmt: skip


def table(record: Mapping[str, Any]) -> list[list[Any]]:
    """One row per case and method, as :data:`TABLE_HEADER` says, ready for :func:`refimpl.plot.markdown_table`.

    Loss at the end and the *smallest* errors on the way (on the whole sets), each the median over seeds.
    ``learning rate`` is the chosen one, a dash where none was. ``failed`` counts runs that did not come to their end;
    they count as infinite.
    """
    rows = []
    for case, method in dict.fromkeys((run["case"], run["method"]) for run in record["runs"]):
        runs = runs_of(record, case, method)
        ended = [run for run in runs if run["status"] == "budget"]
        lost = [math.inf] * (len(runs) - len(ended))
        loss = float(np.median([run["loss"] for run in ended] + lost))
        errors = [
            100 * float(np.median([np.nanmin(_column(run["curve"], name)) for run in ended] + lost))
            for name in ("error", "test_error")
        ]
        steps, work, seconds = (
            float(np.median([run["curve"][name][-1] for run in runs])) for name in ("step", "work", "seconds")
        )
        rate = f"{runs[0]['rate']:g}" if "rate" in runs[0] else "–"
        rows.append([case, method, rate, loss, *errors, int(steps), work, seconds, f"{len(lost)} of {len(runs)}"])
    return rows


@contextmanager
def one_thread(device: str) -> Iterator[None]:
    """Torch on one thread inside, where it computes on the CPU: seconds of a job do not depend on its neighbours."""
    if device != "cpu" or importlib.util.find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def report_of(problem: Problem, x: Array) -> dict[str, float]:
    """What ``problem.evaluate`` says at ``x``, as the columns of a curve.

    ``loss`` and ``test_loss``; of a classifier also ``error`` and ``test_error``; of a model of text ``accuracy``, and
    what it says of its second text as ``val_loss`` and ``val_accuracy``.
    """
    report = {name: float(to_numpy(value)) for name, value in problem.evaluate(x).items()}
    targets = getattr(problem, "targets", None)
    if "accuracy" in report and targets is not None and len(targets.shape) > 1:
        return {name.replace("test_", "val_"): value for name, value in report.items()}
    found = {}
    for prefix in ("", "test_"):
        if f"{prefix}loss" in report:
            found[f"{prefix}loss"] = report[f"{prefix}loss"]
        if f"{prefix}accuracy" in report:
            found[f"{prefix}error"] = 1.0 - report[f"{prefix}accuracy"]
    return found


def means_of(seen: Mapping[str, Sequence[float]], names: Iterable[str]) -> dict[str, float]:
    """The mean of each column since the look before, NaN where nothing was seen."""
    return {name: float(np.mean(seen[name])) if seen.get(name) else math.nan for name in names}


def decomposition(error: Exception) -> Exception:
    """``error`` if it says that a matrix could not be taken apart; any other one is raised again."""
    if "LinAlgError" not in type(error).__name__:
        raise error
    return error


def batch_error(point: Point, labels: np.ndarray) -> float:
    """The share of wrong classes among the rows of a Point's sample."""
    labels = labels if point.sample is None else labels[point.sample.indices]
    outputs = to_numpy(point.outputs).reshape(len(labels), -1)
    return float(np.mean(outputs.argmax(axis=-1) != labels))


def _look(
    curve: dict[str, list[float]], problem: Problem, x: Array, seen: Mapping[str, list[float]], row: dict[str, float]
) -> None:
    row |= report_of(problem, x) | means_of(seen, ("batch_loss", "batch_error", *KNOBS))
    for name, value in row.items():
        curve[name].append(value)


def _column(curve: Mapping[str, Sequence[float | None]], name: str) -> np.ndarray:
    """A column of a curve; what JSON keeps as null is NaN again."""
    return np.asarray([math.nan if value is None else value for value in curve[name]])
