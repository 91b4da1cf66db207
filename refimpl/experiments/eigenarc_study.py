"""What EigenARC reports beside the third derivatives themselves, and what ELMO makes of constants (chapter 14).

Two networks small enough for dense Hessians and all third derivatives, full batch, binary cross-entropy, tanh:

* ``moons``: two moons, 200 points, 2-8-1 (33 parameters);
* ``xor``: the four points of exclusive or, 2-4-1 (17 parameters).

Jobs ``measure/DATA/BASE/SEED``: a base optimizer takes its steps, and before each one EigenARC looks at the
eigenvector of the largest eigenvalue ("+") and that of the smallest ("-", where it is negative); before every fourth,
the supremum of |phi'''| within 1/2 along each is computed as well, exactly on a grid. z = sup|phi'''| g/lam^2 says
how far Newton's step along the eigenvector can be trusted (little where z is large): unlike L it does not change with
the units of the loss or of the parameters.

Jobs ``race/DATA/METHOD/SEED``: the loss under ELMO with various constants, ARC and damped saddle-free Newton.

Open in the paper and ours: networks, data, base optimizers and their rates (not tuned).

Scales: ``full``, 10 seeds; ``ci``, 3 seeds and otherwise the same; ``smoke``, a few steps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from refimpl.arrays import Array, as_generator, check_count, get_backend, to_numpy
from refimpl.curvature.spectrum import Spectrum
from refimpl.experiments.eigenarc import EigenARC, frozen_point
from refimpl.experiments.runner import Experiment
from refimpl.experiments.training import one_thread
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.elmo import ELMO
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.lipschitz_oracles import RowSum
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.oracle import Point, Problem
from refimpl.problems.datasets import two_moons, xor
from refimpl.problems.losses import BinaryCrossEntropy
from refimpl.run import Result, minimize

WIDTHS = {"moons": (2, 8, 1), "xor": (2, 4, 1)}
WINDOWS = 5
"""Parts of equal length into which a measured run is divided."""

LOSS_TARGET = 1e-8
"""Where a measured run ends: below, what EigenARC compares is rounding."""

RACE_AT = (5, 10, 20, 60)
"""After how many steps the race is looked at."""

REACH = 0.5
"""How far along an eigenvector, to both sides, the third derivative is looked at."""

_SCALES: dict[str, dict[str, int]] = {
    "smoke": {"seeds": 1, "steps": 3, "race": 1, "points": 3, "every": 2},
    "ci": {"seeds": 3, "steps": 200, "race": 60, "points": 21, "every": 4},
    "full": {"seeds": 10, "steps": 200, "race": 60, "points": 21, "every": 4},
}
_ENDS = ("plus", "minus")
COLUMNS = (
    "step", "loss", "ratio", "raised", "cut",
    *(f"{name}_{end}" for end in _ENDS for name in ("eigenarc", "true", "eigenvalue", "slope", "z")),
)  # fmt: skip
"""What a measured run holds per iteration: ``ratio`` of the first trial; ``raised``, ``cut``: 1 where it was. NaN in
``true`` and ``z`` where no third derivatives were computed."""


def bases() -> dict[str, Optimizer]:
    """The optimizers whose iterates are measured at."""
    return {
        "gradient-descent": GradientDescent(0.5),
        "heavy-ball": HeavyBall(0.1, 0.9),
        "saddle-free-newton": SaddleFreeNewton(damping=0.1, mode="abs"),
        "arc": ARC(),
    }


@dataclass(frozen=True, eq=False)
class OwnDirection:
    """|D^3 f[v_i, v_i, v_i]| at the place: the slope of an eigenvalue along its own eigenvector. No valid constant."""

    def __call__(self, point: Point, spectrum: Spectrum) -> Array:
        """(n,)."""
        from refimpl.problems.line_derivatives import third_derivative_along

        problem: Any = point.problem
        found = third_derivative_along(problem, point.x, spectrum.eigenvectors.T.contiguous(), [0.0], point.sample)
        return abs(found[:, 0])


def racers(problem: Any) -> dict[str, Optimizer]:
    """The methods of the race on ``problem``."""
    from refimpl.problems.line_derivatives import third_derivative

    return {
        "elmo-own-direction-safeguarded": ELMO(OwnDirection(), safeguard=True),
        "elmo-row-sum": ELMO(RowSum(lambda x: third_derivative(problem, x))),
        "elmo-own-direction": ELMO(OwnDirection()),
        "elmo-uniform-safeguarded": ELMO(1.0, safeguard=True),
        "arc": ARC(),
        "saddle-free-newton-0.1": SaddleFreeNewton(damping=0.1, mode="abs"),
        "saddle-free-newton-0.001": SaddleFreeNewton(damping=1e-3, mode="abs"),
    }


RACERS = (
    "elmo-own-direction-safeguarded", "elmo-row-sum", "elmo-own-direction", "elmo-uniform-safeguarded", "arc",
    "saddle-free-newton-0.1", "saddle-free-newton-0.001",
)  # fmt: skip


def network(data: str) -> Problem:
    """The problem called ``"moons"`` or ``"xor"``, on Torch in float64."""
    from refimpl.problems.models import mlp_module
    from refimpl.problems.torch_net import TorchProblem

    if data not in WIDTHS:
        raise ValueError(f"unknown data {data!r}; choose one of {sorted(WIDTHS)}")
    rows, backend = two_moons() if data == "moons" else xor(), get_backend("torch")
    module = mlp_module(WIDTHS[data], activation="tanh", backend=backend)
    return TorchProblem(
        module, BinaryCrossEntropy(), rows.train_inputs, rows.train_targets, backend=backend, initialization="reset"
    )


@dataclass(frozen=True)
class Watcher:
    """The callback of a measured run: at each place the extreme eigenvectors, EigenARC, and the truth.

    sup |phi'''| is over ``points`` positions, evenly spaced within ``reach``, at every ``every``-th place. An
    eigenvalue above -1e-10 times the largest one is no negative curvature: the columns of "-" are NaN there, and its
    constant stays.
    """

    instrument: EigenARC = field(default_factory=EigenARC)
    points: int = 21
    reach: float = REACH
    every: int = 1
    start: float = 1.0
    constants: list[float] = field(default_factory=list, repr=False)

    def __call__(self, step: int, point: Point) -> dict[str, float]:
        """One row of :data:`COLUMNS`, but for the step and the loss."""
        values, vectors = np.linalg.eigh(to_numpy(point.hessian()))
        if step == 0:
            self.constants[:] = [self.start, self.start]
        concave = values[0] < -1e-10 * abs(values[-1])
        ends = [-1, 0] if concave else [-1]
        frozen = frozen_point(point, values[ends], vectors[:, ends])
        update = self.instrument.update(frozen, self.constants[: len(ends)])
        self.constants[: len(ends)] = update.lipschitz.tolist()
        row = {
            "ratio": update.assessments[0].ratio,
            "raised": float(update.action == "raised"),
            "cut": float(update.cut_raising or bool(update.cut_lowering.any())),
        }
        truth = np.full(2, math.nan)
        if step % self.every == 0:
            truth[: len(ends)] = largest_third_derivative(point, vectors[:, ends], self.reach, self.points)
        for i, end in enumerate(_ENDS):
            there = i < len(ends)
            slope, eigenvalue = (abs(frozen.slopes[i]), values[ends[i]]) if there else (math.nan, math.nan)
            row[f"eigenarc_{end}"] = self.constants[i] if there else math.nan
            row |= {f"true_{end}": truth[i], f"eigenvalue_{end}": float(eigenvalue), f"slope_{end}": float(slope)}
            row[f"z_{end}"] = float(truth[i] * slope / eigenvalue**2)
        return row


def largest_third_derivative(point: Point, vectors: np.ndarray, reach: float, points: int) -> np.ndarray:
    """max |phi'''| along each column of ``vectors`` (n, k) at ``points`` positions within ``reach``: (k,)."""
    from refimpl.problems.line_derivatives import third_derivative_along

    problem: Any = point.problem
    directions = problem.backend.asarray(np.ascontiguousarray(vectors.T))
    positions = np.linspace(-reach, reach, points) if points > 1 else np.zeros(1)
    found = third_derivative_along(problem, point.x, directions, positions, point.sample)
    return np.asarray(np.max(np.abs(to_numpy(found)), axis=-1))


def measure(
    problem: Problem,
    method: Optimizer,
    x: Any,
    steps: int,
    *,
    watcher: Watcher | None = None,
    seed: int = 0,
    loss_target: float | None = None,
) -> Result:
    """``steps`` steps of ``method`` from ``x`` (n,), with the columns of :data:`COLUMNS` in the trace.

    Cost: beside the run, at every place a dense Hessian, EigenARC's losses and 2 ``points`` third derivatives.

    Raises
    ------
    ValueError
        A problem without third derivatives (no Torch module, or not in float64).
    """
    watcher = Watcher() if watcher is None else watcher
    return minimize(
        problem, method, x, steps=steps, seed=seed, gradient_tolerance=None, loss_target=loss_target, callback=watcher
    )


@dataclass(frozen=True)
class EigenArcStudy(Experiment):
    """EigenARC beside the truth, and the race."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "EigenARC beside exact third derivatives; ELMO with various constants, on two small networks"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Steps, seeds, methods and the instrument."""
        chosen = _SCALES[scale]
        return {
            "networks": {data: list(widths) for data, widths in WIDTHS.items()},
            "activation": "tanh",
            "dtype": "float64",
            "split_seed": 0,
            "seeds": seeds or chosen["seeds"],
            "steps": chosen["steps"],
            "race_steps": chosen["race"],
            "points": chosen["points"],
            "every": chosen["every"],
            "loss_target": LOSS_TARGET,
            "reach": REACH,
            "windows": min(WINDOWS, chosen["steps"]),
            "instrument": repr(EigenARC()),
            "bases": {name: repr(method) for name, method in bases().items()},
            "racers": list(RACERS),
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``measure/DATA/BASE/SEED`` and ``race/DATA/METHOD/SEED``."""
        methods = {"measure": settings["bases"], "race": settings["racers"]}
        return [
            f"{kind}/{data}/{name}/{seed}"
            for kind, names in methods.items()
            for data in settings["networks"]
            for name in names
            for seed in range(settings["seeds"])
        ]

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """A job knows its own data and method, and not how many seeds there are."""
        kind, data, name, _ = job.split("/")
        kept = {key: value for key, value in settings.items() if key not in ("seeds", "networks", "bases", "racers")}
        kept |= {"network": settings["networks"][data]}
        measuring = kind == "measure"
        dropped = (
            ("race_steps",)
            if measuring
            else ("steps", "points", "every", "reach", "windows", "instrument", "loss_target")
        )
        own = {key: value for key, value in kept.items() if key not in dropped}
        return {**own, "method": settings["bases"][name] if measuring else name}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One run."""
        kind, data, name, seed = job.split("/")
        problem = network(data)
        start = problem.initial(as_generator([int(seed), 0]))
        about = {"key": job, "kind": kind, "data": data, "method": name, "seed": int(seed)}
        with one_thread("cpu"):
            if kind == "race":
                steps, method = settings["race_steps"], racers(problem)[name]
                result = minimize(problem, method, start, steps=steps, gradient_tolerance=None)
                extra: dict[str, Any] = {"curve": {"loss": np.asarray(result.trace["loss"], float).tolist()}}
            else:
                watcher = Watcher(**{name: settings[name] for name in ("points", "reach", "every")})
                target = settings["loss_target"]
                result = measure(problem, bases()[name], start, settings["steps"], watcher=watcher, loss_target=target)
                columns = {name: np.asarray(result.trace[name], float) for name in COLUMNS}
                extra = {
                    "columns": {name: column[:: settings["every"]].tolist() for name, column in columns.items()},
                    "windows": window_medians(columns, settings["windows"]),
                }
        return [{**about, "status": result.status, "steps": result.steps, "loss": result.loss, **extra}]


def window_medians(columns: Mapping[str, np.ndarray], count: int) -> dict[str, list[float]]:
    """The median of each column in ``count`` parts of equal length (to one row); NaN where a part holds no number."""
    check_count("count", count)
    found = {}
    for name, column in columns.items():
        parts = [part[np.isfinite(part)] for part in np.array_split(np.asarray(column, float), count)]
        found[name] = [float(np.median(part)) if part.size else math.nan for part in parts]
    return found


# -- reading a record -------------------------------------------------------------------------------------------------


def runs_of(record: Mapping[str, Any], kind: str, data: str, method: str) -> list[Mapping[str, Any]]:
    """The runs of a kind (``"measure"``, ``"race"``), data set and method; a ValueError names what there is."""
    found = [run for run in record["runs"] if (run["kind"], run["data"], run["method"]) == (kind, data, method)]
    if not found:
        there = sorted({(run["kind"], run["data"], run["method"]) for run in record["runs"]})
        raise ValueError(f"the record has no run of {(kind, data, method)!r}; it has {there}")
    return found


def windows(record: Mapping[str, Any], data: str, method: str, column: str) -> np.ndarray:
    """Medians of ``column`` by seed and window, (seeds, windows); NaN where there was nothing to measure."""
    return _floats([run["windows"][column] for run in runs_of(record, "measure", data, method)])


def race_losses(record: Mapping[str, Any], data: str, method: str, at: Sequence[int] = RACE_AT) -> np.ndarray:
    """The loss after the steps ``at`` by seed, (seeds, len(at)); infinite after the end of a run that diverged."""
    runs = runs_of(record, "race", data, method)
    curves = [[math.inf if loss is None else loss for loss in run["curve"]["loss"]] for run in runs]
    return np.asarray([[curve[step] if step < len(curve) else math.inf for step in at] for curve in curves])


def _floats(rows: Sequence[Sequence[float | None]]) -> np.ndarray:
    return np.asarray([[math.nan if value is None else value for value in row] for row in rows])
