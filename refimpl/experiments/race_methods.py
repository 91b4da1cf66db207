"""The contestants that the races share, and how their records are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.experiments.training import Band, Tuned, band, runs_of
from refimpl.experiments.watched import method_names
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.stochastic_kryball import StochasticKryBall

KINDS: dict[str, str] = {
    "heavy-ball": "first order",
    "adamw": "first order",
    "muon": "tensor preconditioner",
    "soap": "tensor preconditioner",
    "shampoo": "tensor preconditioner",
    "kfac": "tensor preconditioner",
    "sophia": "diagonal curvature",
    "amos-90": "diagonal curvature",
    "series-2": "saddle-free",
    "series-2-published": "saddle-free",
    "series-5": "saddle-free",
    "lanczos-2": "saddle-free",
    "lanczos-5": "saddle-free",
    "lanczos-5-tuned": "saddle-free",
    "curveball": "Krylov or momentum",
    "kryball": "Krylov or momentum",
    "kryball-published": "Krylov or momentum",
    "stochastic-kryball": "Krylov or momentum",
}
"""What a contestant takes from the loss besides its gradient, in a word or two."""


def untuned() -> dict[str, Optimizer]:
    """The methods that come with all their knobs: no rate is chosen for them anywhere."""
    return {
        "lanczos-2": LanczosSaddleFreeNewton(products=2),
        "lanczos-5": LanczosSaddleFreeNewton(products=5),
        "curveball": CurveBall(),
        "kryball-published": KryBall.published(),
        "kryball": KryBall(),
        "stochastic-kryball": StochasticKryBall(),
    }


def fixed_lanczos() -> Tuned:
    """Lanczos saddle-free Newton with its damping fixed at 1 and every step taken; as the series, its rate is tuned."""
    method = LanczosSaddleFreeNewton(
        products=5, initial_damping=1.0, minimum_damping=1.0, maximum_damping=1.0, accept="always"
    )
    return Tuned(method, (1.0, 0.3, 0.1))


def asks_products(name: str) -> bool:
    """Whether the method called ``name`` asks for Hessian products, which want a graph that the others do not need."""
    return name.startswith(("series-", "lanczos-", "kryball", "stochastic-kryball"))


# -- reading a record -------------------------------------------------------------------------------------------------

TABLE_HEADER = (
    "method", "kind", "learning rate", "training loss", "held-out loss", "smallest", "largest", "held-out error %",
    "steps", "work", "seconds", "failed",
)  # fmt: skip


def standings(record: Mapping[str, Any], case: str) -> list[list[Any]]:
    """One row per method of a case, as :data:`TABLE_HEADER` says, best training loss first.

    Medians over seeds of the last look; ``held-out loss`` is that of the test set or of the validation text, with its
    smallest and largest value over seeds. A run that did not come to its end counts as infinite. ``learning rate`` is
    the chosen one, with ``<`` or ``>`` where it is the smallest or largest that was tried; a dash where none was.
    """
    rows = []
    for name in method_names(record, case):
        runs = runs_of(record, case, name)
        losses = [_end(run, "loss") for run in runs]
        held = [_end(run, "val_loss" if "val_loss" in run["curve"] else "test_loss") for run in runs]
        errors = [_held_out_error(run) for run in runs]
        steps, work, seconds = (
            float(np.median([run["curve"][column][-1] for run in runs])) for column in ("step", "work", "seconds")
        )
        failed = sum(run["status"] != "budget" for run in runs)
        rows.append([
            name, KINDS.get(name, "–"), _rate(record, case, name), float(np.median(losses)), float(np.median(held)),
            min(held), max(held), 100 * float(np.median(errors)), int(steps), work, seconds,
            f"{failed} of {len(runs)}",
        ])  # fmt: skip
    return sorted(rows, key=lambda row: row[3])


def race_curves(
    record: Mapping[str, Any], case: str, chosen: Sequence[str] | None = None, *, x: str = "work", y: str = "loss"
) -> dict[str, Band]:
    """For each method (or those ``chosen``) the median and the range over seeds of ``y`` against ``x``."""
    return {name: band(record, case, name, x=x, y=y) for name in chosen or method_names(record, case)}


def work_to_reach(record: Mapping[str, Any], case: str, method: str, level: float, *, y: str = "loss") -> list[float]:
    """For each seed the work at the first look where column ``y`` is at most ``level``; infinity where it never was."""
    found = []
    for run in runs_of(record, case, method):
        curve = run["curve"]
        reached = [w for w, v in zip(curve["work"], curve[y], strict=True) if v is not None and v <= level]
        found.append(float(reached[0]) if reached else math.inf)
    return found


def _end(run: Mapping[str, Any], column: str) -> float:
    value = run["curve"].get(column, [None])[-1]
    return math.inf if run["status"] != "budget" or value is None or math.isnan(value) else float(value)


def _held_out_error(run: Mapping[str, Any]) -> float:
    if "val_accuracy" in run["curve"]:
        value = run["curve"]["val_accuracy"][-1]
        return 1.0 if run["status"] != "budget" or value is None else 1.0 - float(value)
    return min(1.0, _end(run, "test_error"))


def _rate(record: Mapping[str, Any], case: str, method: str) -> str:
    rate = runs_of(record, case, method)[0].get("rate")
    if rate is None:
        return "–"
    tried = [
        run["rate"] for run in record["runs"] if (run["case"], run["method"], run["role"]) == (case, method, "tuning")
    ]
    mark = "" if len(tried) < 2 else "< " if rate == min(tried) else "> " if rate == max(tried) else ""
    return f"{mark}{rate:g}"
