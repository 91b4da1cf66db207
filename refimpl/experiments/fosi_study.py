"""FOSI beside the method it is built on, where images are classified and where they are coded.

The ELMO paper's appendix L: FOSI on SGD and on Adam, each against the bare method, on an image classifier and on an
image autoencoder. Its figure 7 is read there as "beneficial only in the classification setting", because the Lipschitz
constants of convex directions are small there and large in the autoencoder. Two questions, then: does FOSI gain,
against steps and against work; and is L+ small where it gains and large where it does not?

What is open there and ours: networks of tanh layers, classifier 64-32-10 with cross-entropy and autoencoder
64-32-16-8-16-32-64 with Bernoulli logits for outputs (so sigmoid, as in the paper), pixels in [0, 1], loss summed over
pixels; Glorot's start; SGD has momentum 0.9. Every method has its rate from the same grid, by the loss over all
training images at the end of a run on a seed of its own: FOSI's base is tuned *with* FOSI. FOSI takes the ten largest
eigenvectors; the rest is as in its public code: a Lanczos process (40 products) every 100 steps, the first in step 100,
Newton's rate 0.1. But Lanczos sees the minibatch of its step, where the public code keeps one for the whole run.

Where a loss can be brought to zero all its eigenvalues fall with it, and FOSI divides by them as they are (or as they
were, up to a hundred steps before). Hence the ``damped`` forms, where a magnitude counts as at least 1, a value chosen
after the undamped runs had been seen; and an ``unscaled`` one, whose base's step is, besides, not made up to three
times longer: what that one gains is Newton's part.

A product counts as two gradients, so that a step of FOSI costs 1.8 gradients in the long run. *Loss at equal work* is
that of the last look at which a run had done no more work than its base does in all its steps.

Curvature is measured at some looks, on all training images, along the eigenvectors of the largest and of the smallest
eigenvalue (Lanczos from a random vector): L is the larger of |v·(H(x ± r v) - H(x)) v| / r, and z = L |v·g| / lam^2 is
the share of the curvature that may change over Newton's step |v·g|/|lam|. These looks are not counted as work.

How this is smaller than the paper's: ``ci`` has digits of 8 x 8 pixels (1197 to train) and 1000 steps with minibatches
of 64. ``full`` has 8000 images of MNIST's 10,000 test images, 28 x 28 pixels, networks 784-128-64-10 and
784-128-64-36-18-9 with its mirror image (the paper's hidden widths), and 10,000 steps. The paper has ResNet18 or a CNN.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, as_generator, dot, get_backend, norm
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import of_lanczos
from refimpl.experiments.training import (
    TUNING_SEED,
    Band,
    TrainingStudy,
    Tuned,
    band,
    best_rate,
    evenly,
    one_thread,
    runs_of,
)
from refimpl.experiments.watched import floats, method_names
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.oracle import Point
from refimpl.problems.datasets import Dataset, digits
from refimpl.problems.images import mnist_10k
from refimpl.problems.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.run import minimize

CASES = ("classifier", "autoencoder")

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "fosi-heavy-ball": ("heavy-ball", {}),
    "damped-fosi-heavy-ball": ("heavy-ball", {"damping": 1.0}),
    "unscaled-fosi-heavy-ball": ("heavy-ball", {"damping": 1.0, "scaling": 1.0}),
    "fosi-adam": ("adam", {}),
    "damped-fosi-adam": ("adam", {"damping": 1.0}),
}
"""Of each form of FOSI, the base and the knobs in which it differs from the public code."""

BASE_OF = {name: base for name, (base, _) in FORMS.items()}
"""What each form of FOSI is compared with."""

_QUANTITIES = ("eigenvalue", "lipschitz", "shift", "residual")
MEASURED = tuple(f"{name}_{end}" for end in ("plus", "minus") for name in _QUANTITIES)
"""Columns of curvature, NaN at looks without it: the eigenvalue, L, z, and |H v - lam v| / |lam|."""

_RATES = {"heavy-ball": (1.0, 0.3, 0.1, 0.03, 0.01, 0.003), "adam": (0.1, 0.03, 0.01, 0.003, 0.001)}
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "hidden": [[6], [6, 3, 6]], "looks": 3, "measured": 2, "products": 10},
    "ci": {"data": "digits", "hidden": [[32], [32, 16, 8, 16, 32]], "looks": 41, "measured": 5, "products": 60},
    "full": {
        "data": "mnist_10k",
        "hidden": [[128, 64], [128, 64, 36, 18, 9, 18, 36, 64, 128]],
        "looks": 41,
        "measured": 9,
        "products": 100,
    },
}
_PLAN = {"smoke": (104, 2), "ci": (1000, 5), "full": (10000, 5)}
"""Steps and seeds."""


@dataclass(frozen=True)
class TunedBase(Tuned):
    """FOSI, tuned by the learning rate of its base."""

    def at(self, rate: float) -> Optimizer:
        """The method with this learning rate of its base."""
        found: Optimizer = replace(self.method, base=replace(self.method.base, learning_rate=rate))
        return found


def methods() -> dict[str, Tuned]:
    """The methods of both cases by name."""
    bases: dict[str, Any] = {"heavy-ball": HeavyBall(learning_rate=1.0, momentum=0.9), "adam": Adam(learning_rate=1.0)}
    found = {name: Tuned(base, _RATES[name]) for name, base in bases.items()}
    for name, (base, knobs) in FORMS.items():
        found[name] = TunedBase(FOSI(bases[base], interval=100, warmup=99, **knobs), _RATES[base])
    return found


def curvature(problem: MLP, x: Array, radius: float, products: int, seed: int = 0) -> dict[str, float]:
    """What :data:`MEASURED` names, at ``x``, on all training rows.

    ``radius`` is r, how far along an eigenvector H is compared. Cost: ``products`` + 6 products, not counted anywhere.
    """
    point = problem.at(x)
    start = problem.backend.normal(as_generator([seed, 2]), problem.n)
    space = of_lanczos(lanczos(point.hvp, start, products))
    found = dict.fromkeys(MEASURED, math.nan)
    if space.basis.shape[0] == 0:
        return found
    _, weights = np.linalg.eigh(space.matrix)
    for end, column in (("plus", -1), ("minus", 0)):
        v = space.combine(weights[:, column])
        here = point.hvp(v)
        value = float(dot(v, here))
        bends = [abs(float(dot(v, problem.at(x + r * v).hvp(v))) - value) / radius for r in (radius, -radius)]
        found[f"eigenvalue_{end}"], found[f"lipschitz_{end}"] = value, max(bends)
        if value != 0:
            found[f"shift_{end}"] = max(bends) / abs(value) * abs(float(dot(v, point.gradient))) / abs(value)
            found[f"residual_{end}"] = float(norm(here - value * v)) / abs(value)
    return found


def watched_run(
    problem: MLP, method: Optimizer, x: Array, *, steps: int, seed: int, settings: Mapping[str, Any], measured: int
) -> dict[str, Any]:
    """One run of ``method`` from ``x``: how it ended, and its curve with a row per look.

    ``measured`` looks have the curvature; with 0, for tuning, there are only the looks at both ends. Columns: ``step``,
    ``work`` and ``seconds`` (without the looking), ``loss``, ``test_loss``, ``error`` and ``test_error`` (NaN in the
    autoencoder) over all rows, and :data:`MEASURED`. A run that ended early has one row more, where it ended.
    """
    looks = evenly(steps, settings["looks"]) if measured else [0, steps]
    asked = {looks[i] for i in evenly(len(looks) - 1, measured)} if measured else set()
    coded = problem.widths[0] == problem.widths[-1]
    curve: dict[str, list[float]] = defaultdict(list)
    watching = 0.0

    def look(step: int, point: Point) -> None:
        nonlocal watching
        if step not in looks:
            return
        began = time.perf_counter()
        report = {name: float(value) for name, value in problem.evaluate(point.x).items()}
        row = {"step": step, "seconds": watching, "loss": report["loss"], "test_loss": report["test_loss"]}
        for name in ("error", "test_error"):
            row[name] = math.nan if coded else 1.0 - report[name.replace("error", "accuracy")]
        measure = settings["radius"], settings["products"]
        row |= curvature(problem, point.x, *measure) if step in asked else dict.fromkeys(MEASURED, math.nan)
        for name, value in row.items():
            curve[name].append(value)
        watching += time.perf_counter() - began

    rng = as_generator([seed, 1])
    result = minimize(problem, method, x, steps=steps, seed=rng, gradient_tolerance=None, callback=look)
    # A row of the trace has work and seconds with its own step; here a look stands before its step.
    rows = [int(step) for step in curve["step"]]
    work, seconds = (np.concatenate([[0.0], result.trace[name]])[rows] for name in ("work", "seconds"))
    curve["work"] = work.tolist()
    curve["seconds"] = np.maximum(seconds - np.asarray(curve["seconds"]), 0.0).tolist()
    status, message = result.status, result.message
    if status == "budget" and not math.isfinite(curve["loss"][-1]):
        status, message = "diverged", "the loss over all rows is not finite"
    elif status != "budget":
        last = {"step": result.steps, "work": result.counts.work, "seconds": curve["seconds"][-1]}
        for name, values in curve.items():
            values.append(last.get(name, math.nan))
    loss = curve["loss"][-1] if status == "budget" else math.nan
    return {"status": status, "message": message, "steps": result.steps, "loss": loss, "curve": dict(curve)}


@dataclass(frozen=True)
class FosiStudy(TrainingStudy):
    """FOSI on heavy ball and on Adam, beside them, on a classifier and an autoencoder."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "FOSI beside SGD and Adam on an image classifier and an autoencoder, with L+ and z+ along the way"

    def methods(self, case: str) -> dict[str, Tuned]:
        """The methods, the same in both cases."""
        if case not in CASES:
            raise ValueError(f"unknown case {case!r}; choose one of {list(CASES)}")
        return methods()

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Networks, data, looks, and steps and seeds per method."""
        steps, some = _PLAN[scale]
        plan = {"steps": steps, "seeds": seeds or some}
        names = {name: repr(method) for name, method in methods().items()}
        return {
            **_SCALES[scale],
            "activation": "tanh",
            "initialization": "glorot",
            "batch_size": 64,
            "dtype": "float64",
            "split_seed": 0,
            "radius": 0.1,
            "plan": {case: {name: dict(plan) for name in names} for case in CASES},
            "methods": dict.fromkeys(CASES, names),
        }

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> MLP:
        """The network of a case with its data."""
        data = _data(settings["data"], settings["split_seed"])
        coded = case == "autoencoder"
        targets = (data.train_inputs, data.test_inputs) if coded else (data.train_targets, data.test_targets)
        pixels = data.train_inputs.shape[1]
        return MLP(
            (pixels, *settings["hidden"][CASES.index(case)], pixels if coded else data.classes),
            data.train_inputs,
            targets[0],
            activation=settings["activation"],
            loss=BinaryCrossEntropy() if coded else SoftmaxCrossEntropy(),
            batch_size=settings["batch_size"],
            test=(data.test_inputs, targets[1]),
            backend=get_backend("numpy" if device == "cpu" else "torch", settings["dtype"], device),
            initialization=settings["initialization"],
        )

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The tuning runs of one method, and then all its seeds."""
        case, name = job.split("/")
        method, plan = self.methods(case)[name], settings["plan"][case][name]
        problem = self.problem(case, settings, device)
        about = {"case": case, "method": name, "data": _data(settings["data"], settings["split_seed"]).note}

        def run(key: str, rate: float, seed: int, role: str) -> dict[str, Any]:
            found = watched_run(
                problem, method.at(rate), self.start(problem, seed), steps=plan["steps"], seed=seed,
                settings=settings, measured=0 if role == "tuning" else settings["measured"],
            )  # fmt: skip
            return {"key": key, **about, "seed": seed, "role": role, "rate": rate, **found}

        with one_thread(device):
            tuning = [run(f"{job}/tuning@{rate:g}", rate, TUNING_SEED, "tuning") for rate in method.rates]
            best = best_rate({found["rate"]: found["loss"] for found in tuning})
            return tuning + [run(f"{job}/{seed}", best, seed, "run") for seed in range(plan["seeds"])]


@lru_cache(maxsize=2)
def _data(name: str, split_seed: int) -> Dataset:
    return {"digits": digits, "mnist_10k": mnist_10k}[name](split_seed)


# -- reading the record -----------------------------------------------------------------------------------------------

TABLE_HEADER = (
    "case", "method", "learning rate", "training loss", "loss at equal work", "test loss", "test error %", "work",
    "failed",
)  # fmt: skip

CURVATURE_HEADER = ("case", "step", "lam+", "L+", "z+", "lam-", "L-", "z-")


class Gain(NamedTuple):
    """Loss of FOSI over that of its base, seed by seed: median, smallest, largest; and how often it is below one.

    A run that did not come to its end has an infinite loss; where both did not, they count as equal.
    """

    median: float
    low: float
    high: float
    wins: int
    seeds: int


def table(record: Mapping[str, Any]) -> list[list[Any]]:
    """One row per case and method, as :data:`TABLE_HEADER` says, ready for :func:`refimpl.plot.markdown_table`.

    Medians over seeds at the end of the runs; a run that did not come to its end counts as infinite.
    """
    rows = []
    for case in _cases(record):
        for name in method_names(record, case):
            runs = runs_of(record, case, name)
            failed = sum(run["status"] != "budget" for run in runs)
            last = [_last(runs, column) for column in ("loss", "test_loss", "test_error")]
            error = "–" if case == "autoencoder" else 100 * float(np.median(last[2]))
            equal = float(np.median([*_at_equal_work(record, case, name).values()]))
            work = float(np.median([run["curve"]["work"][-1] for run in runs]))
            losses = [float(np.median(last[0])), equal, float(np.median(last[1]))]
            rows.append([case, name, f"{runs[0]['rate']:g}", *losses, error, work, f"{failed} of {len(runs)}"])
    return rows


def curves(record: Mapping[str, Any], case: str, *, x: str = "step", y: str = "loss") -> dict[str, Band]:
    """For each method the median and the range over seeds of ``y`` against ``x``.

    Both are columns of :func:`watched_run`; of :data:`MEASURED` there are only the looks that have them.
    """
    found = {}
    for name in method_names(record, case):
        whole = band(record, case, name, x=x, y=y)
        there = np.isfinite(whole.middle) if y in MEASURED else slice(None)
        found[name] = Band(*(column[there] for column in whole))
    return found


def gain(record: Mapping[str, Any], case: str, method: str, *, at: str = "steps") -> Gain:
    """What FOSI gains over its base after the same ``"steps"`` or the same ``"work"``."""
    if method not in BASE_OF or at not in ("steps", "work"):
        raise ValueError(f"give one of {list(BASE_OF)} and 'steps' or 'work', got {method!r} and {at!r}")
    both = []
    for name in (method, BASE_OF[method]):
        runs = runs_of(record, case, name)
        ends = dict(zip([run["seed"] for run in runs], _last(runs, "loss"), strict=True))
        both.append(ends if at == "steps" else _at_equal_work(record, case, name))
    ratios = []
    for seed in sorted(set(both[0]) & set(both[1])):
        one, other = both[0][seed], both[1][seed]
        ratios.append(1.0 if one == other else one / other)
    wins = sum(ratio < 1 for ratio in ratios)
    return Gain(float(np.median(ratios)), min(ratios), max(ratios), wins, len(ratios))


def curvature_table(record: Mapping[str, Any], methods: Sequence[str] = ("heavy-ball", "adam")) -> list[list[Any]]:
    """One row per case and measured look, as :data:`CURVATURE_HEADER` says: medians over the runs of ``methods``."""
    rows = []
    for case in _cases(record):
        runs = [run for name in methods for run in runs_of(record, case, name)]
        for step in sorted({s for run in runs for s in _measured(run)}):
            seen = [_measured(run)[step] for run in runs if step in _measured(run)]
            names = (f"{name}_{end}" for end in ("plus", "minus") for name in _QUANTITIES[:3])
            rows.append([case, step, *(float(np.median([row[name] for row in seen])) for name in names)])
    return rows


def _cases(record: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(run["case"] for run in record["runs"]))


def _measured(run: Mapping[str, Any]) -> dict[int, dict[str, float]]:
    columns = {name: floats(run["curve"][name]) for name in MEASURED}
    there = np.flatnonzero(np.isfinite(columns["lipschitz_plus"]))
    return {int(run["curve"]["step"][i]): {name: float(values[i]) for name, values in columns.items()} for i in there}


def _last(runs: Sequence[Mapping[str, Any]], column: str) -> list[float]:
    return [float(floats(run["curve"][column])[-1]) if run["status"] == "budget" else math.inf for run in runs]


def _at_equal_work(record: Mapping[str, Any], case: str, name: str) -> dict[int, float]:
    # Loss by seed at the last look that cost no more than a whole run of the base.
    steps = record["settings"]["plan"][case][BASE_OF.get(name, name)]["steps"]
    found = {}
    for run in runs_of(record, case, name):
        work, loss = floats(run["curve"]["work"]), floats(run["curve"]["loss"])
        value = float(loss[work <= steps][-1])
        found[run["seed"]] = value if math.isfinite(value) else math.inf
    return found
