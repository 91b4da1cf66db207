"""The methods of the CurveBall paper's Table 1, their settings, and how those of first-order methods are chosen."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from refimpl.experiments.first_passage import Passages, batch, passages
from refimpl.experiments.frozen_bfgs import FrozenBFGS
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.newton import DampedNewton
from refimpl.optimizers.saddle_free import SaddleFreeNewton

LEARNING_RATES = (0.1, 0.05, 0.01, 0.005, 0.001, 0.0005, 0.0001)
"""The grid of the paper's appendix B.1, which prints eight values, 0.05 twice."""

TUNED = ("heavy-ball", "adam")
"""The methods whose settings are chosen from :func:`grid`."""


def methods() -> dict[str, Optimizer]:
    """The methods of the study that have no settings to choose, by name.

    Levenberg–Marquardt starts from the textbook's damping 1, which is measured against J^T J, and halves or doubles it.
    """
    found: dict[str, Optimizer] = {
        "levenberg-marquardt": LevenbergMarquardt(damping=2.0),
        "bfgs": FrozenBFGS(),
        "bfgs-mixed": FrozenBFGS(pair="mixed"),
        "newton-abs": SaddleFreeNewton(),
        **{f"newton-abs-{d:g}": DampedNewton(damping=d, mode="abs") for d in (0.1, 0.5, 1.0)},
        "curveball": CurveBall(),
        **{f"curveball-{d:g}": CurveBall(initial_damping=d) for d in (0.001, 0.1, 10.0)},
        "hessian-free": HessianFree(),
    }
    return found


def grid(method: str, learning_rates: Sequence[float] = LEARNING_RATES) -> list[Optimizer]:
    """The settings among which those of a first-order method are chosen: CurveBall paper, appendix B.1.

    >>> len(grid("heavy-ball")), len(grid("adam"))
    (21, 28)
    """
    if method == "heavy-ball":
        return [HeavyBall(rate, momentum) for rate, momentum in product(learning_rates, (0.9, 0.95, 0.99))]
    if method == "adam":
        return [Adam(rate, b1, b2) for rate, b1, b2 in product(learning_rates, (0.9, 0.99), (0.99, 0.999))]
    raise ValueError(f"there is a grid for {list(TUNED)}, not for {method!r}")


def fastest(tried: Sequence[Passages], target: int) -> int:
    """Which setting to take: among those with which at least 95% of the runs arrive, the one with the smallest mean
    count; if there is none, the one with the fewest failures, and of several the smallest mean count.

    ``target`` is the number of the target in ``tried``, the passages of the same runs with each setting.
    """

    def badness(one: Passages) -> tuple[float, float]:
        counts = one.counts[:, target]
        arrived = counts[np.isfinite(counts)]
        enough = 20 * arrived.size >= 19 * counts.size  # in whole numbers: 1 - 19/20 is more than 0.05
        failures = 0 if enough else counts.size - arrived.size
        return failures, float(arrived.mean()) if arrived.size else np.inf

    return min(range(len(tried)), key=lambda i: badness(tried[i]))


def lowest_last_ten(tried: Sequence[Passages], length: int) -> int:
    """Which setting has the smallest mean loss over the last ten iterations of a trajectory, over all runs.

    ``length`` is the number of the length in ``tried``. Of several equal ones the first; one divergent run is enough
    to rule a setting out.

    Source: CurveBall paper, appendix B.1.
    """
    return min(range(len(tried)), key=lambda i: float(tried[i].averages[:, length].mean()))


def iterations(
    problem: str,
    method: str | Optimizer,
    *,
    runs: int = 20,
    steps: int = 1000,
    target: float = 1e-4,
    start: str | None = None,
) -> np.ndarray:
    """Iterations that ``method`` (a name of :func:`methods`, or an optimizer) needs in each run, (runs,).

    The count is the number of the first iterate with noise-free loss <= ``target``, inf where there is none within
    ``steps``. The runs are the first ``runs`` of the record's, see :func:`refimpl.experiments.first_passage.batch`.

    Raises
    ------
    ValueError
        Unknown problem, start or method, a number outside its range.

    >>> iterations("rosenbrock", "curveball", runs=4).tolist()
    [14.0, 14.0, 14.0, 14.0]
    """
    if isinstance(method, str):
        if method not in methods():
            raise ValueError(f"unknown method {method!r}; give an optimizer or one of {sorted(methods())}")
        method = methods()[method]
    return passages(batch(problem, runs, start=start), method, steps=steps, targets=(target,)).counts[:, 0]
