"""Table 1 and Figure 1 of the CurveBall paper: iterations to a loss of 1e-4 on Rosenbrock and Rahimi–Recht (chapter 9).

The protocol, where the paper leaves it open:

* A count is the number of the first iterate whose loss *without noise* is at most the target.
* Noise is drawn once per iteration; loss, gradient, curvature and trial of that iteration share it.
* Rosenbrock starts at (−1.2, 1) + 0.1 N(0, I) (``near``) or uniformly in [−2, 2]² (``wide``). A run of the
  Rahimi–Recht problem has a target, inputs and N(0, 1) weights of its own.
* The two settings of a first-order method are chosen on runs that are not reported: ``fastest`` has the smallest mean
  count among those with which at least 95% of the runs arrive (else the fewest failures); ``last-ten`` is the paper's
  rule, the smallest mean loss over the last ten iterations, which depends on how long a trajectory is: several lengths.
* A run that does not arrive within the budget is a failure. Means are over the others, with the share of failures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.arrays import as_generator
from refimpl.experiments.curveball_methods import (
    LEARNING_RATES,
    TUNED,
    fastest,
    grid,
    iterations,
    lowest_last_ten,
    methods,
)
from refimpl.experiments.first_passage import KINDS, NOISE, STARTS, Batch, Passages, batch, passages, summary
from refimpl.experiments.runner import Experiment, thinned
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.run import minimize

__all__ = [
    "LEARNING_RATES",
    "PAPER",
    "ROWS",
    "TUNED",
    "CurveballTable",
    "counts_of",
    "evolution",
    "iterations",
    "methods",
    "summary",
    "table",
    "trajectories",
]

PAPER: dict[str, dict[str, str]] = {
    name: dict(zip(("rosenbrock", "rosenbrock-u1", "rosenbrock-u3", "rahimi-recht"), row, strict=True))
    for name, row in {
        "heavy-ball": ("370 ± 40", "846 ± 217", "4069 ± 565", "95 ± 2"),
        "adam": ("799 ± 160.5", "1290 ± 476", "2750 ± 257", "95 ± 5"),
        "levenberg-marquardt": ("16 ± 4", "14 ± 3", "17 ± 4", "9 ± 4"),
        "bfgs": ("19 ± 4", "44 ± 21", "63 ± 29", "43 ± 21"),
        "newton": ("14 ± 1", "10 ± 3", "17 ± 4", "9 ± 0.5"),
        "curveball": ("13 ± 0.5", "12 ± 1", "13 ± 1", "35 ± 11"),
    }.items()
}
"""Method -> problem -> mean ± standard deviation of the iterates over 100 runs: CurveBall paper, table 1."""

ROWS: tuple[tuple[str, str, str | None], ...] = (
    ("heavy-ball", "SGD with momentum, fastest", "heavy-ball"),
    ("heavy-ball/last-ten", "SGD with momentum, paper's rule", "heavy-ball"),
    ("adam", "Adam, fastest", "adam"),
    ("adam/last-ten", "Adam, paper's rule", "adam"),
    ("levenberg-marquardt", "Levenberg–Marquardt", "levenberg-marquardt"),
    ("bfgs", "BFGS, pairs on one sample", "bfgs"),
    ("bfgs-mixed", "BFGS, pairs on two samples", "bfgs"),
    ("newton-abs", "Newton, $\\lvert H \\rvert$", "newton"),
    ("newton-abs-0.1", "Newton, $\\lvert H \\rvert$ + 0.1", "newton"),
    ("newton-abs-0.5", "Newton, $\\lvert H \\rvert$ + 0.5", "newton"),
    ("newton-abs-1", "Newton, $\\lvert H \\rvert$ + 1", "newton"),
    ("curveball", "CurveBall, damping 1 at the start", "curveball"),
    ("curveball-0.001", "CurveBall, 0.001", "curveball"),
    ("curveball-0.1", "CurveBall, 0.1", "curveball"),
    ("curveball-10", "CurveBall, 10", "curveball"),
    ("hessian-free", "Hessian-free", None),
)
"""Method, label and row of :data:`PAPER` of each row of :func:`table`; ``/last-ten`` is the paper's rule."""

_PLAN: dict[str, dict[str, Any]] = {
    "smoke": {"runs": 6, "tuning_runs": 3, "longest": 600, "learning_rates": [0.1, 0.001], "controls": False},
    "ci": {"runs": 20, "tuning_runs": 5, "longest": 2000, "learning_rates": list(LEARNING_RATES), "controls": False},
    "full": {"runs": 100, "tuning_runs": 20, "longest": 6000, "learning_rates": list(LEARNING_RATES), "controls": True},
}


@dataclass(frozen=True)
class CurveballTable(Experiment):
    """Iterations of every method to the target, on every problem; paths and CurveBall's parameters in run 0."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "CurveBall's Table 1: iterations of first- and second-order methods on Rosenbrock and Rahimi–Recht"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Runs, budgets, targets, trajectory lengths, grids, methods. ``seeds`` is the number of reported runs."""
        plan = _PLAN[scale]
        problems = {
            problem: {
                "starts": list(starts) if plan["controls"] else [starts[0]],
                "targets": [1e-4, 1e-2, 1e-1] if problem in KINDS else [1e-4],
            }
            for problem, starts in STARTS.items()
            if plan["controls"] or problem != "rahimi-recht-svd"
        }
        return {
            "runs": seeds or plan["runs"],
            "tuning_runs": plan["tuning_runs"],
            "longest": plan["longest"],
            "learning_rates": plan["learning_rates"],
            "problems": problems,
            "methods": {
                **{name: [repr(one) for one in grid(name, plan["learning_rates"])] for name in TUNED},
                **{name: repr(method) for name, method in methods().items()},
            },
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``problem/start/method``."""
        return [
            f"{problem}/{start}/{method}"
            for problem, plan in settings["problems"].items()
            for start in plan["starts"]
            for method in settings["methods"]
        ]

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The method, the targets and the budget; the tuning runs only where a method is tuned."""
        problem, _, method = job.split("/")
        own = {"targets": settings["problems"][problem]["targets"], "steps": _budget(problem, method, settings)}
        if method in TUNED:
            own["tuning_runs"] = settings["tuning_runs"]
        return {"scale": settings["scale"], "runs": settings["runs"], "method": settings["methods"][method], **own}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One method on one problem; for a tuned method one run of the record for each rule and length."""
        problem, start, method = job.split("/")
        targets, steps = settings["problems"][problem]["targets"], _budget(problem, method, settings)
        runs = batch(problem, settings["runs"], start=start)
        if method not in TUNED:
            optimizer = methods()[method]
            found = passages(runs, optimizer, steps=steps, targets=targets)
            return [_entry(job, runs, targets, [optimizer] * len(targets), [found] * len(targets), steps)]
        choices = grid(method, settings["learning_rates"])
        lengths = [length for length in (1000, 2000, 4000) if length < steps] + [steps]
        trial = batch(problem, settings["tuning_runs"], start=start, stream=2)
        tried = [passages(trial, one, steps=steps, targets=targets, lengths=lengths) for one in choices]
        chosen = {job: [fastest(tried, k) for k in range(len(targets))]}
        for k, length in enumerate(lengths):
            chosen[f"{job}/last-ten/{length}"] = [lowest_last_ten(tried, k)] * len(targets)
        again = {
            i: passages(runs, choices[i], steps=steps, targets=targets) for i in sorted(set().union(*chosen.values()))
        }
        return [
            _entry(key, runs, targets, [choices[i] for i in each], [again[i] for i in each], steps)
            for key, each in chosen.items()
        ]


def _budget(problem: str, method: str, settings: Mapping[str, Any]) -> int:
    if problem in NOISE:
        return int(settings["longest"]) if method in TUNED else 500
    family = method.split("-")[0]
    share = {"heavy": 2, "adam": 2, "bfgs": 6, "newton": 60, "curveball": 3}.get(family, 30)
    return int(settings["longest"]) // share


def _entry(
    key: str, runs: Batch, targets: Sequence[float], used: Sequence[Optimizer], found: Sequence[Passages], budget: int
) -> dict[str, Any]:
    """One run of the record: the counts for each target, each with the setting that was chosen for it."""
    problem, start, method = key.split("/", 2)
    each = {f"{target:g}": one.counts[:, k] for k, (target, one) in enumerate(zip(targets, found, strict=True))}
    arrived = all(np.isfinite(counts).all() for counts in each.values())
    entry: dict[str, Any] = {
        "key": key,
        "status": "converged" if arrived else "budget",
        "problem": problem,
        "start": start,
        "method": method,
        "style": used[0].name,
        "settings": {name: repr(one) for name, one in zip(each, used, strict=True)},
        "budget": budget,
        "steps": found[0].steps,
        "loss": float(np.median(found[0].losses)),
        "counts": {name: [int(c) if np.isfinite(c) else None for c in counts] for name, counts in each.items()},
    }
    first = found[0].counts[0, 0]
    if start == "near" and "/" not in method:
        entry["path"] = _path(runs, used[0], int(first) if np.isfinite(first) else budget)
    if isinstance(used[0], CurveBall) and start != "wide":
        entry["evolution"] = _evolution(runs, used[0], 60 if problem in NOISE else 500)
    return entry


def _path(runs: Batch, method: Optimizer, steps: int) -> dict[str, Any]:
    problem, places = runs.alone(0), []
    rng = as_generator(runs.noise)
    minimize(problem, method, runs.starts[0], steps=steps, seed=rng, callback=lambda k, p: places.append(p.x))
    rows = thinned(len(places), 100)
    kept = [places[row] for row in rows]
    with np.errstate(over="ignore"):
        losses = [float(problem.loss(x)) for x in kept]
    return {"steps": rows.tolist(), "places": [x.tolist() for x in kept], "losses": losses}


def _evolution(runs: Batch, method: CurveBall, steps: int) -> dict[str, list[float]]:
    result = minimize(runs.alone(0), method, runs.starts[0], steps=steps, seed=as_generator(runs.noise))
    rows = thinned(result.steps, 100)  # without the row of the last place, where no step was taken
    names = ("step", "loss", "learning_rate", "momentum", "damping")
    return {name: result.trace[name][rows].tolist() for name in names}


def counts_of(
    record: Mapping[str, Any], problem: str, method: str, *, start: str | None = None, target: float = 1e-4
) -> np.ndarray:
    """The counts (runs,) of one cell of the record, inf for a failure.

    ``method`` is a name of :func:`methods` or of :data:`TUNED`, or ``"adam/last-ten/1000"`` for the paper's rule and
    trajectories of 1000 steps, ``"adam/last-ten"`` for those of the whole budget. A ValueError where the record has no
    such cell.
    """
    run = _cell(record, problem, method, start)
    if f"{target:g}" not in run["counts"]:
        raise ValueError(f"{run['key']} has no target {target!r}; it has {list(run['counts'])}")
    return np.array([np.inf if count is None else count for count in run["counts"][f"{target:g}"]], dtype=float)


def table(
    record: Mapping[str, Any],
    *,
    start: str = "near",
    targets: Sequence[float] = (1e-1, 1e-4),
    length: int = 6000,
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: the paper's number and ours (mean ± standard deviation, share of failures) for each problem.

    ``start`` is that of Rosenbrock. Rahimi–Recht has one column of ours for each of ``targets``. ``length`` is that of
    the trajectories that the paper's rule looks at: 1000, 2000, 4000 or 6000, but at most the budget.
    """
    columns = [(problem, start, 1e-4) for problem in NOISE]
    columns += [("rahimi-recht", "normal", target) for target in targets]
    names = {"rosenbrock": "Rosenbrock", "rosenbrock-u1": "U[0, 1]", "rosenbrock-u3": "U[0, 3]"}
    header = ["method"]
    for problem in names:
        header += [f"{names[problem]}, paper", "ours"]
    header += ["Rahimi–Recht, paper", *(f"ours, {target:g}" for target in targets)]
    rows = []
    for method, label, printed in ROWS:
        row = [label]
        for i, (problem, walk, target) in enumerate(columns):
            if i <= len(names):
                row.append(PAPER[printed][problem] if printed else "–")
            name = method
            if method.endswith("/last-ten"):
                name = f"{method}/{min(length, _cell(record, problem, method, walk)['budget'])}"
            row.append(str(summary(counts_of(record, problem, name, start=walk, target=target))))
        rows.append(row)
    return header, rows


def trajectories(record: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Problem -> method -> the path of run 0 (``near``) until it arrives: ``steps`` (k,), ``places`` (k, 2), noise-free
    ``losses`` (k,), thinned; ``style``, the method's name in :data:`refimpl.plot.METHODS`; ``setting`` in words."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for run in record["runs"]:
        if "path" in run:
            arrays = {key: np.asarray(values, dtype=float) for key, values in run["path"].items()}
            setting = next(iter(run["settings"].values()))
            found.setdefault(run["problem"], {})[run["method"]] = {**arrays, "style": run["style"], "setting": setting}
    return found


def evolution(record: Mapping[str, Any]) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    """Problem -> CurveBall's name -> what run 0 (``near`` or ``normal``) chose: ``step``, ``learning_rate``,
    ``momentum``, ``damping`` and the noisy ``loss``, each (k,)."""
    found: dict[str, dict[str, dict[str, np.ndarray]]] = {}
    for run in record["runs"]:
        if "evolution" in run:
            arrays = {key: np.asarray(values, dtype=float) for key, values in run["evolution"].items()}
            found.setdefault(run["problem"], {})[run["method"]] = arrays
    return found


def _cell(record: Mapping[str, Any], problem: str, method: str, start: str | None) -> Mapping[str, Any]:
    key = f"{problem}/{start or STARTS.get(problem, ('',))[0]}/{method}"
    found = [run for run in record["runs"] if run["key"] in (key, f"{key}/{run['budget']}")]
    if not found:
        raise ValueError(f"the record has no {key}")
    return dict(found[0])
