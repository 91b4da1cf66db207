"""How fast curvature changes in the top eigenspace, by task, and whether it says when Newton's step pays (chapter 14).

Networks 64-16-10 and 64-16-64 with tanh on digits of 8 x 8 pixels, trained by gradient descent with momentum on
minibatches of 128 or on all rows; float64. Cases:

* ``classifier``: softmax cross-entropy; ``noise``: the same with random pixels and random labels;
* ``autoencoder``: sigmoid outputs, half the squared error summed over pixels.

Jobs ``task/CASE/BATCH/SEED``: EigenARC on both ends of the spectrum, beside a secant and the exact supremum of |phi'''|
along the top eigenvector, and z = sup|phi'''| g/lam^2. A constant L belongs to the units of the loss: the mean over
pixels in place of the sum divides it by 64, and leaves z as it is.

Jobs ``advantage/CASE/SEED``: one minibatch iterate after the other, how much more the loss falls by Newton's step along
the top eigenvector than by the gradient step there, and the constants. What the two series have to do with each other
is in ``associations``: raw, and less their running means. Along the top eigenvector the ratio is 1 almost always, so
EigenARC halves its constant at every iterate until it meets its floor; ``unfloored`` is the same with next to none.

The comparisons of the ELMO paper's section 5 and appendix E (table 1, figure 3), far smaller: there ResNet18 and CNNs
on MNIST, CIFAR-10 and noise. Ours: smooth activations, so that third derivatives exist. As there, curvature is measured
on the minibatch on which the step is taken.

Scales: ``full``, 4000 iterates and 5 seeds; ``ci``, 1500 iterates of one seed, two seeds for tasks; ``smoke``, a few.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refimpl.arrays import as_generator, get_backend
from refimpl.experiments.eigenarc import EigenARC
from refimpl.experiments.eigenarc_study import window_medians
from refimpl.experiments.runner import Experiment
from refimpl.experiments.time_series import Association, Kind, association, detrended
from refimpl.experiments.top_eigenspace import RADIUS, REACH, Extremes, ShiftWatcher
from refimpl.experiments.training import one_thread
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.oracle import Problem
from refimpl.problems.datasets import Dataset, digits
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.run import minimize

PAPER_TABLE_1: dict[str, tuple[float, float]] = {
    "CIFAR10": (-0.245341, -107.0),
    "FakeData": (-0.026608, math.log10(0.031120)),
    "MNIST": (-0.368788, -300.0),
}
"""Pearson's r between Newton's advantage and L+, and log10 of its p-value: ELMO paper, table 1."""

CASES = ("classifier", "noise", "autoencoder")
TASKS = ("classifier", "autoencoder")
RATES = {"classifier": 0.05, "noise": 0.05, "autoencoder": 0.01}
"""Learning rates of heavy ball with momentum 0.9, not tuned."""

TREND = 101
"""Iterates of the running mean that is taken out of a detrended series."""

BURN_IN = 0.1
"""Share of the iterates left out of the statistics: EigenARC comes down from its start there."""

SERIES = ("eigenarc_plus", "unfloored", "secant_plus", "z_plus")
"""What Newton's advantage is set against: the two constants of EigenARC by their logarithms."""

COLUMNS = (
    "step", "loss", "advantage", "eigenvalue_plus", "slope_plus", "eigenarc_plus", "unfloored", "secant_plus",
    "true_plus", "z_plus", "eigenvalue_minus", "eigenarc_minus",
)  # fmt: skip
"""What a run holds per iterate; those of "-" in tasks only."""

_KINDS: tuple[Kind, ...] = ("pearson", "spearman")
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"minibatch": 3, "full": 1, "advantage": 40, "seeds": 1, "series": 1, "every": 2, "resamples": 20},
    "ci": {"minibatch": 200, "full": 60, "advantage": 1500, "seeds": 2, "series": 1, "every": 10, "resamples": 500},
    "full": {"minibatch": 600, "full": 200, "advantage": 4000, "seeds": 5, "series": 5, "every": 10, "resamples": 2000},
}


def network(case: str, batch_size: int | None) -> Problem:
    """The problem of a case, on Torch in float64.

    Raises
    ------
    ValueError
        An unknown case.
    """
    from torch import nn

    from refimpl.problems.models import mlp_module
    from refimpl.problems.torch_net import TorchProblem

    if case not in CASES:
        raise ValueError(f"unknown case {case!r}; choose one of {list(CASES)}")
    data, backend = _data(), get_backend("torch")
    inputs, labels = data.train_inputs, data.train_targets
    options: dict[str, Any] = {"batch_size": batch_size, "backend": backend, "initialization": "reset"}
    if case == "autoencoder":
        layers = mlp_module((64, 16, 64), activation="tanh", backend=backend)
        return TorchProblem(nn.Sequential(*layers, nn.Sigmoid()), HalfMeanSquaredError(), inputs, inputs, **options)
    if case == "noise":
        rng = as_generator([len(labels), 0])
        inputs, labels = rng.random(inputs.shape), rng.integers(0, 10, len(labels))
    module = mlp_module((64, 16, 10), activation="tanh", backend=backend)
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, **options)


@lru_cache(maxsize=1)
def _data() -> Dataset:
    return digits()


@dataclass(frozen=True)
class CurvatureShift(Experiment):
    """Constants by task, and Newton's advantage against them."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return (
            "change of curvature in the top eigenspace: autoencoder and classifier, and Newton's advantage against it"
        )

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Networks, steps and seeds."""
        chosen = _SCALES[scale]
        return {
            "hidden": 16,
            "activation": "tanh",
            "dtype": "float64",
            "split_seed": 0,
            "batch_size": 128,
            "method": {case: repr(_method(case)) for case in CASES},
            "instrument": repr(EigenARC()),
            "radius": RADIUS,
            "reach": REACH,
            "task": {
                "steps": {"minibatch": chosen["minibatch"], "full": chosen["full"]},
                "seeds": {"minibatch": seeds or chosen["seeds"], "full": min(seeds or 1, chosen["seeds"])},
                "every": chosen["every"],
                "windows": min(4, chosen["full"]),
            },
            "advantage": {
                "steps": chosen["advantage"],
                "seeds": seeds or chosen["series"],
                "trend": min(TREND, 11 if scale == "smoke" else TREND),
                "burn_in": BURN_IN,
                "resamples": chosen["resamples"],
            },
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``task/CASE/BATCH/SEED`` and ``advantage/CASE/SEED``."""
        seeds = settings["task"]["seeds"]
        tasks = [f"task/{case}/{batch}/{seed}" for batch in seeds for case in TASKS for seed in range(seeds[batch])]
        return tasks + [f"advantage/{c}/{seed}" for c in CASES for seed in range(settings["advantage"]["seeds"])]

    def job_parts(self, job: str) -> tuple[str | None, int | range | None]:
        """No method, and the seed: what stands before it is a size of minibatches or a case."""
        return None, int(job.split("/")[-1])

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A job knows its own part and method, and not how many seeds there are."""
        kind, case, *rest = job.split("/")
        kept = {key: value for key, value in settings.items() if key not in ("task", "advantage", "method")}
        own = {key: value for key, value in settings[kind].items() if key != "seeds"}
        if kind == "task":
            own["steps"] = own["steps"][rest[0]]
        return {**kept, "method": settings["method"][case], kind: own}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One run."""
        kind, case, *rest = job.split("/")
        seed, full = int(rest[-1]), rest[0] == "full"
        problem = network(case, None if full else settings["batch_size"])
        chosen = settings[kind]
        steps = chosen["steps"][rest[0]] if kind == "task" else chosen["steps"]
        every = chosen["every"] if kind == "task" else 0
        watcher = ShiftWatcher(RATES[case], Extremes(both=kind == "task"), every=every)
        with one_thread("cpu"):
            start = problem.initial(as_generator([seed, 0]))
            rng = as_generator([seed, 1])
            rules: dict[str, Any] = {"gradient_tolerance": None, "callback": watcher}
            result = minimize(problem, _method(case), start, steps=steps, seed=rng, **rules)
        columns = {n: np.asarray(result.trace[n], float) for n in COLUMNS if n in result.trace.columns}
        run = {"key": job, "kind": kind, "case": case, "seed": seed, "status": result.status, "steps": result.steps}
        run |= {"batch": "full" if full else "minibatch", "loss": result.loss}
        kept = every or max(1, steps // 250)
        run["columns"] = {name: column[::kept].tolist() for name, column in columns.items()}
        if kind == "task":
            return [{**run, "windows": window_medians(columns, chosen["windows"])}]
        return [{**run, "associations": associations(columns, chosen)}]


def associations(columns: Mapping[str, np.ndarray], chosen: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What Newton's advantage has to do with each of :data:`SERIES`: Pearson and Spearman, raw and detrended.

    A series that is constant (EigenARC at its floor) has no correlation: its rows say so in ``status``.
    """
    first = int(chosen["burn_in"] * len(columns["advantage"]))
    found = []
    for name in SERIES:
        for kind in _KINDS:
            for trend in ("kept", "removed"):
                row: dict[str, Any] = {"series": name, "kind": kind, "trend": trend}
                try:
                    x, y = columns[name][first:], columns["advantage"][first:]
                    x = np.log10(x) if name in ("eigenarc_plus", "unfloored") else x
                    if trend == "removed":
                        x, y = detrended(x, chosen["trend"]), detrended(y, chosen["trend"])
                    answer = association(x, y, kind=kind, resamples=chosen["resamples"])
                except ValueError as error:
                    found.append({**row, "status": str(error)})
                    continue
                found.append({**row, "status": "measured", **answer._asdict()})
    return found


def _method(case: str) -> HeavyBall:
    return HeavyBall(RATES[case], 0.9)


# -- reading a record -------------------------------------------------------------------------------------------------


def runs_of(record: Mapping[str, Any], kind: str, case: str, batch: str = "minibatch") -> list[Mapping[str, Any]]:
    """The runs of a kind (``"task"``, ``"advantage"``) and case; a ValueError names what there is."""
    found = [run for run in record["runs"] if (run["kind"], run["case"], run["batch"]) == (kind, case, batch)]
    if not found:
        there = sorted({(run["kind"], run["case"], run["batch"]) for run in record["runs"]})
        raise ValueError(f"the record has no run of {(kind, case, batch)!r}; it has {there}")
    return found


def windows(record: Mapping[str, Any], case: str, batch: str, column: str) -> np.ndarray:
    """Medians of ``column`` by seed and window of a task, (seeds, windows)."""
    rows = [run["windows"][column] for run in runs_of(record, "task", case, batch)]
    return np.asarray([[math.nan if value is None else value for value in row] for row in rows])


def association_of(
    run: Mapping[str, Any], series: str, kind: str = "pearson", trend: str = "kept"
) -> Association | None:
    """The statistics of one pair of a run, None where a series was constant; a ValueError if there is no such row."""
    wanted = {"series": series, "kind": kind, "trend": trend}
    row: Any = next((r for r in run["associations"] if all(r[key] == value for key, value in wanted.items())), None)
    if row is None:
        raise ValueError(f"the run has no statistics for {wanted}")
    if row["status"] != "measured":
        return None
    values: Any = [math.nan if row[name] is None else row[name] for name in Association._fields]
    return Association(*values)
