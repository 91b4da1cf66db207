"""All the optimizers of the series paper on UCI Energy, and Lanczos saddle-free Newton (chapter 7).

Settings are those of the paper's tables 3 and 4, with the digits of its released configuration. The methods that need
no Hessian matrix are run here, in batches of seeds; gradient descent, Adam and the exact methods on the same network
are in the record of :mod:`refimpl.experiments.uci_exact`, which this study reads instead of running them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.arrays import as_generator, get_backend, to_numpy
from refimpl.experiments.runner import Experiment, run_of, run_summary
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.base import LibraryOptimizer, Optimizer
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.quasi_newton import LBFGS
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.problems.datasets import uci_energy
from refimpl.problems.mlp import MLP
from refimpl.run import Result, minimize

PAPER_TABLE_5: dict[str, tuple[float, float, float]] = {
    "series-sfn": (6.459e-3, 7.087e-3, 1.04e-2),
    "adaptive-series-sfn": (1.029e-3, 1.678e-3, 2.165e-3),
    "gradient-descent": (1.947e-3, 2.361e-3, 3.191e-3),
    "adam": (6.57e-4, 1.13e-3, 1.571e-3),
    "kfac": (0.5018, 881.8, 904.1),
    "adaptive-kfac": (7.14e-4, 6.663e-3, 8.849e-3),
    "saddle-free-newton": (5.019e-4, 1.5e-3, 1.994e-3),
    "adaptive-saddle-free-newton": (4.941e-4, 1.045e-3, 1.407e-3),
    "lbfgs": (2.619e-3, 2.929e-3, 4.161e-3),
}
"""Median training, test and validation loss over 50 seeds, 6000 steps: series paper, table 5."""

PAPER_TABLES_3_AND_4: dict[str, tuple[float, float, float]] = {
    "series-sfn": (4.55e-4, 8.62e-4, 1.29e-3),
    "adaptive-series-sfn": (7.15e-3, 8.17e-3, 8.45e-3),
    "gradient-descent": (7.15e-3, 8.17e-3, 8.45e-3),
    "adam": (3.99e-4, 8.01e-4, 7.83e-4),
    "adaptive-kfac": (2.44e-4, 1.19e-3, 8.41e-4),
    "kfac": (2.19e-4, 7.58e-4, 9.79e-4),
}
"""Training, test and validation loss of the best tuning run: series paper, tables 3 and 4."""

_PLAN = {  # scale -> method -> (steps, seeds, seeds in one batch)
    "smoke": {
        "series-sfn": (3, 2, 2),
        "series-sablonniere": (3, 2, 1),
        "adaptive-series-sfn": (3, 2, 2),
        "adaptive-series-sablonniere": (3, 1, 1),
        "lanczos-sfn": (3, 2, 2),
        "kfac": (3, 2, 2),
        "adaptive-kfac": (3, 2, 2),
        "lbfgs": (3, 2, 1),
    },
    "ci": {
        "series-sfn": (60, 3, 3),
        "series-sablonniere": (60, 3, 3),
        "adaptive-series-sfn": (120, 3, 3),
        "adaptive-series-sablonniere": (120, 3, 3),
        "lanczos-sfn": (100, 3, 3),
        "kfac": (300, 3, 3),
        "adaptive-kfac": (150, 3, 3),
        "lbfgs": (1000, 3, 1),
    },
    "full": {
        "lanczos-sfn": (2000, 10, 5),
        "adaptive-series-sfn": (6000, 5, 5),
        "kfac": (6000, 10, 10),
        "adaptive-kfac": (6000, 10, 10),
        "series-sfn": (6000, 5, 5),
        "lbfgs": (6000, 20, 1),
        "adaptive-series-sablonniere": (6000, 5, 5),
        "series-sablonniere": (6000, 5, 5),
    },
}

Method = Optimizer | LibraryOptimizer


def methods() -> dict[str, Method]:
    """The methods of the study by name.

    ``series-sfn`` and ``adaptive-series-sfn`` are "Ours" and "Ours (Adaptive)" as the released code executes them;
    the two with ``-sablonniere`` differ from them in one thing, the weights that the paper names. ``lanczos-sfn`` is
    ours. Its omega was chosen from 0.9, 0.7 and 0.5, its initial damping from 1 and 0.1 and its mode from two, by the
    training loss of eight other starting places after 150 steps; its damping cap from 1, 10, 100 and none by that of
    four of them after 400 steps.
    """
    tuned = {"learning_rate": 1.7868843, "momentum": 0.717107296, "damping": 0.0244334238}
    sablonniere: Any = {"accelerate": "sablonniere"}
    found: dict[str, Any] = {
        "series-sfn": SeriesSaddleFreeNewton.released(18, 8, **tuned),
        "series-sablonniere": SeriesSaddleFreeNewton.released(18, 8, **tuned, **sablonniere),
        "adaptive-series-sfn": AdaptiveSeriesSaddleFreeNewton.released(9, 1.46e-6, 4),
        "adaptive-series-sablonniere": AdaptiveSeriesSaddleFreeNewton.released(9, 1.46e-6, 4, **sablonniere),
        "lanczos-sfn": LanczosSaddleFreeNewton(products=16),
        "kfac": KFAC(learning_rate=0.0908813574, damping=5.63e-6, momentum=0.26447181),
        "adaptive-kfac": AdaptiveKFAC(initial_damping=6.97e-5, ema=0.95, omega=0.9, minimum_damping=1e-8),
        "lbfgs": LBFGS(history=100),
    }
    return found


def starting_places(problem: MLP, first: int, count: int) -> Any:
    """Row k starts where seed ``first + k`` does, (count, n)."""
    return problem.backend.xp.stack([problem.initial(as_generator(seed)) for seed in range(first, first + count)])


def run_batch(problem: MLP, method: Method, first: int, count: int, steps: int) -> Result:
    """``method`` from the starting places of seeds ``first`` … in one program, (count, n)."""
    return minimize(problem, method, starting_places(problem, first, count), steps=steps, seed=0)


@dataclass(frozen=True)
class UciEnergy(Experiment):
    """The methods that need products only, on the network 8-``hidden``-1."""

    hidden: tuple[int, ...] = (12,) * 7

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return f"series, Lanczos, K-FAC and L-BFGS on UCI Energy, network 8-{'-'.join(map(str, self.hidden))}-1"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Steps, seeds and batch per method, network, split."""
        plan = {
            name: {"steps": steps, "seeds": seeds or some, "batch": batch}
            for name, (steps, some, batch) in _PLAN[scale].items()
        }
        return {
            "hidden": list(self.hidden),
            "activation": "relu",
            "dtype": "float64",
            "split_seed": 0,
            "plan": plan,
            "methods": {name: repr(method) for name, method in methods().items()},
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """One job per method and batch of seeds: ``method/first-last``."""
        found = []
        for name, plan in settings["plan"].items():
            for first in range(0, plan["seeds"], plan["batch"]):
                found.append(f"{name}/{first}-{min(first + plan['batch'], plan['seeds']) - 1}")
        return found

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the plan, and of the plan the steps: the job's name holds its seeds."""
        method = job.partition("/")[0]
        plan = {"steps": settings["plan"][method]["steps"]}
        return {**settings, "plan": plan, "methods": settings["methods"][method]}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """Run one method on one batch of seeds."""
        backend = get_backend("torch", device=device) if device.startswith("cuda") else get_backend("numpy")
        problem = energy_network(self.hidden, uci_energy(split_seed=settings["split_seed"]), backend=backend)
        method, _, span = job.partition("/")
        first, last = (int(seed) for seed in span.split("-"))
        optimizer, steps = methods()[method], settings["plan"][method]["steps"]
        if isinstance(optimizer, LibraryOptimizer):  # its loop takes one run at a time
            results = [minimize(problem, optimizer, steps=steps, seed=seed) for seed in range(first, last + 1)]
        else:
            together = run_batch(problem, optimizer, first, last - first + 1, steps)
            results = [run_of(together, row) for row in range(last - first + 1)]
        runs = []
        for seed, result in enumerate(results, start=first):
            test = float(to_numpy(problem.evaluate(result.x)["test_loss"]))
            lost = not np.isfinite(test)
            extra = {"method": method, "seed": seed, "test_loss": None if lost else test, "batch": last - first + 1}
            runs.append(run_summary(f"{method}/{seed}", result, points=60, **extra, **_curves(result)))
        return runs


def _curves(result: Result) -> dict[str, Any]:
    """What the chapter plots besides the loss: V and the damping at the end and at their largest."""
    found: dict[str, Any] = {}
    for name in ("scale", "damping"):
        if name in result.trace.columns:
            values = np.asarray(result.trace[name], dtype=float)
            values = values[np.isfinite(values)]
            if values.size:
                found[name] = {"first": values[0], "last": values[-1], "largest": values.max()}
    return found
