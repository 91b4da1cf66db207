"""Table 5.1 of the KryBall thesis and its XOR task: steps and work to the target, by method (chapter 11).

The protocol, where the thesis leaves it open:

* A count is the number of the first iterate whose loss *without noise* is at most the target: 1e-4 on Rosenbrock, 1e-2
  on Rahimi–Recht (mean over samples and outputs), 1e-2 and 1e-4 on XOR, where the time to an accuracy of 1 is counted
  as well ("0 loss" cannot be reached with this loss). Work is in gradients, up to that iterate.
* Noise is drawn once per iteration. Singular values of the Rahimi–Recht targets: linspace(1, kappa).
* MSGD, Adam, L-BFGS and the M and r of one row of KryBall are chosen on runs that are not reported, from coarse grids
  over the thesis's ranges: the setting that arrives first, for each target. (The thesis searches at random for the
  lowest loss after 100 epochs.)
* One step of L-BFGS is one call of Torch's ``step``: 20 iterations unless said.
* A run that does not arrive within the budget is a failure and counts as infinite in medians and quartiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.arrays import as_generator
from refimpl.experiments.first_passage import Batch, Passages
from refimpl.experiments.kryball_methods import PROBLEMS, TUNED, first, grid, methods, targets_of, task, tuned
from refimpl.experiments.kryball_results import (
    FAMILIES,
    PAPER,
    ROWS,
    Cell,
    Quartiles,
    cell,
    curves,
    quartiles,
    radii,
    sensitivity,
    table,
)
from refimpl.experiments.runner import Experiment, thinned
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.kryball import KryBall
from refimpl.oracle import Point
from refimpl.run import minimize

__all__ = [
    "FAMILIES",
    "PAPER",
    "ROWS",
    "Cell",
    "KryballTable",
    "Quartiles",
    "cell",
    "curves",
    "quartiles",
    "radii",
    "sensitivity",
    "table",
]

_PLAN: dict[str, dict[str, Any]] = {
    "smoke": {
        "runs": 3,
        "rr_runs": 2,
        "steps": 30,
        "first_order": 200,
        "choices": 2,
        "dimensions": [2],
        "refresh": [1, 2],
    },
    "ci": {
        "runs": 20,
        "rr_runs": 10,
        "steps": 500,
        "first_order": 2000,
        "choices": None,
        "dimensions": [1, 2, 3, 5, 7, 10],
        "refresh": [1, 2, 3, 6],
    },
    "full": {
        "runs": 100,
        "rr_runs": 30,
        "steps": 2000,
        "first_order": 2000,
        "choices": None,
        "dimensions": list(range(1, 11)),
        "refresh": list(range(1, 7)),
    },
}


@dataclass(frozen=True)
class KryballTable(Experiment):
    """Steps and work of every method to the targets; KryBall's M, r and largest radius varied; curves of run 0."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "KryBall's Table 5.1 and XOR: steps and work of KryBall, L-BFGS, MSGD, Adam; its M, r and radius"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Runs, budgets, settings of every method. ``seeds`` is the number of reported runs of every problem."""
        plan = _PLAN[scale]
        runs = {p: seeds or plan["rr_runs" if p.startswith("rahimi") else "runs"] for p in PROBLEMS}
        lbfgs = {"lbfgs": 40, "lbfgs-wolfe": 40, "lbfgs-one": 400}
        budgets = {"heavy-ball": plan["first_order"], "heavy-ball-small": plan["first_order"]}
        return {
            "runs": runs,
            "tuning_runs": {"heavy-ball": 10, "heavy-ball-small": 10, "adam": 10, "others": 3},
            "steps": {**budgets, "adam": plan["first_order"], **lbfgs, "others": plan["steps"]},
            "methods": {
                **{name: [repr(one) for one in grid(name)[: plan["choices"]]] for name in TUNED},
                **{name: repr(one) for problem in PROBLEMS for name, one in methods(problem).items()},
            },
            "sensitivity": {
                "problems": ["rahimi-recht-10", "rahimi-recht-1e5", "xor"],
                "dimensions": plan["dimensions"],
                "refresh": plan["refresh"],
                "runs": min(runs["xor"], runs["rahimi-recht-10"], 5),
                "steps": min(plan["steps"], 200),
                "radii": [1.0, 10.0, 100.0, 1000.0, 10000.0],
            },
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``problem/start/method``, ``sensitivity/problem/family/M``, ``radius/problem/method``."""
        listed = [
            f"{problem}/{start}/{method}"
            for problem, starts in PROBLEMS.items()
            for start in starts
            for method in settings["methods"]
            if (method != "heavy-ball-small" or problem == "rahimi-recht-1e5")
            and (method in TUNED or method in methods(problem))
        ]
        plan = settings["sensitivity"]
        listed += [f"sensitivity/{p}/{f}/{m}" for p in plan["problems"] for f in FAMILIES for m in plan["dimensions"]]
        return listed + [f"radius/rahimi-recht-1e5/{method}" for method in ("kryball", "kryball-published")]

    def job_parts(self, job: str) -> tuple[str | None, int | range | None]:
        """The method, and no seed: every job holds all of its own. Sensitivities are those of KryBall."""
        return ("kryball" if job.startswith("sensitivity/") else job.split("/")[-1]), None

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What the job reads of the settings."""
        kind, problem, method = job.split("/")[:3]
        if kind in ("sensitivity", "radius"):
            base = settings["methods"]["kryball-published" if method in ("printed", "kryball-published") else "kryball"]
            return {"scale": settings["scale"], "plan": settings["sensitivity"], "base": base}
        own = {"runs": settings["runs"][kind], "steps": _of(settings["steps"], kind, method)}
        if method in TUNED:
            own["tuning_runs"] = _of(settings["tuning_runs"], kind, method)
        return {"scale": settings["scale"], "method": settings["methods"][method], "start": problem, **own}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One method on one problem, or a row of KryBalls."""
        kind, problem, method = job.split("/")[:3]
        if kind in ("sensitivity", "radius"):
            return _varied(job, settings["sensitivity"])
        problem, start = kind, problem
        steps = _of(settings["steps"], problem, method)
        runs = task(problem, settings["runs"][problem], start=start)
        if method in TUNED:
            choices = grid(method)[: len(settings["methods"][method])]
            trials = _of(settings["tuning_runs"], problem, method)
            used = tuned(problem, method, start=start, runs=trials, steps=steps, choices=choices)
        else:
            used = [methods(problem)[method]] * len(targets_of(problem))
        once = {repr(one): first(problem, runs, one, steps) for one in used}
        entry = _entry(job, problem, steps, used, [once[repr(one)] for one in used])
        return [
            {**entry, "start": start, "method": method, "style": used[0].name, **_curve(runs, used[0], steps, entry)}
        ]


def _of(table: Mapping[str, int], problem: str, method: str) -> int:
    steps = int(table.get(method, table["others"]))
    return min(steps, 500) if problem == "xor" else steps


def _entry(key: str, problem: str, budget: int, used: Sequence[Optimizer], found: Sequence[Passages]) -> dict[str, Any]:
    names = targets_of(problem)
    each = {name: (one, k) for k, (name, one) in enumerate(zip(names, found, strict=True))}
    arrived = all(np.isfinite(one.counts[:, k]).all() for one, k in each.values())
    return {
        "key": key,
        "status": "converged" if arrived else "budget",
        "problem": problem,
        "settings": {name: repr(one) for name, one in zip(names, used, strict=True)},
        "budget": budget,
        "steps": found[0].steps,
        "loss": float(np.median(found[0].losses)),
        "counts": {name: _null(one.counts[:, k]) for name, (one, k) in each.items()},
        "work": {name: _null(one.work[:, k]) for name, (one, k) in each.items()},
        "products": float(np.median(found[0].products)),
        "refused": float(np.median(found[0].refused)),
    }


def _null(values: np.ndarray) -> list[float | None]:
    return [float(v) if np.isfinite(v) else None for v in values]


def _varied(job: str, plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    kind, problem, name = job.split("/")[:3]
    if kind == "radius":
        make = KryBall if name == "kryball" else KryBall.published
        variants = {f"{r:g}": make(maximum_radius=r) for r in plan["radii"]}
    else:
        dimension = int(job.split("/")[3])
        variants = {str(r): _variant(name, dimension, r) for r in plan["refresh"]}
    runs, entries, names = task(problem, plan["runs"]), [], targets_of(problem)
    for at, one in variants.items():
        found = first(problem, runs, one, plan["steps"])
        entry = _entry(f"{job}/{at}", problem, plan["steps"], [one] * len(names), [found] * len(names))
        about = {"dimension": one.dimension, "refresh": one.refresh, "radius": one.maximum_radius}
        entries.append({**entry, "kind": kind, "family": name, **about})
    return entries


def _variant(family: str, dimension: int, refresh: int) -> KryBall:
    if family == "printed":
        return KryBall.published(dimension=dimension, refresh=refresh)
    return KryBall(dimension=dimension, gain=0.0, refresh=refresh, stale="exact" if family == "exact" else "reuse")


def _curve(runs: Batch, method: Optimizer, steps: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Run 0 until it arrives at the first target: steps, work so far, noise-free losses, and places in the plane."""
    problem, places, count = runs.alone(0), [], next(iter(entry["counts"].values()))[0]

    def look(_: int, point: Point) -> dict[str, float]:
        places.append(point.x)
        return {"noise_free": float(problem.loss(point.x))}

    budget = steps if count is None else int(count)
    trace = minimize(
        problem,
        method,
        runs.starts[0],
        steps=budget,
        seed=as_generator(runs.noise),
        gradient_tolerance=None,
        callback=look,
    ).trace
    rows = thinned(len(places), 100)
    work = np.concatenate([[0.0], trace["work"]])[: len(places)]
    curve = {"steps": rows.tolist(), "work": work[rows].tolist(), "losses": trace["noise_free"][rows].tolist()}
    return {"curve": {**curve, "places": [places[row].tolist() for row in rows]} if problem.n == 2 else curve}
