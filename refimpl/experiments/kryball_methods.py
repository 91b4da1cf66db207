"""The problems and methods of the KryBall thesis's Table 5.1 and XOR task, and how settings are chosen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

from refimpl.arrays import Array, as_generator, to_numpy
from refimpl.experiments.curveball_methods import fastest
from refimpl.experiments.first_passage import NOISE, Batch, Criterion, ManyRahimiRecht, Passages, batch, passages
from refimpl.experiments.torch_lbfgs import TorchLBFGS
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.oracle import Problem
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.xor import xor_network

CONDITIONS = {"rahimi-recht-10": 10.0, "rahimi-recht-1e5": 1e5}
"""Rahimi–Recht problem -> kappa: the singular values of its target are linspace(1, kappa)."""

PROBLEMS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(NOISE, ("near", "wide")),
    **dict.fromkeys(CONDITIONS, ("normal", "torch")),
    "xor": ("torch",),
}
"""Problem -> its distributions of starting places. ``near``: (−1.2, 1) + 0.1 N(0, I); ``wide``: uniform on [−2, 2]²;
``normal``: weights N(0, 1); ``torch``: weights (and biases) uniform within 1/sqrt(fan_in)."""

TARGETS: dict[str, tuple[float, ...]] = {
    **dict.fromkeys(NOISE, (1e-4,)),
    **dict.fromkeys(CONDITIONS, (1e-2,)),
    "xor": (1e-2, 1e-4),
}
"""Problem -> the losses to reach; for XOR also an accuracy of 1."""

RATES = (1.0, 3e-1, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
SMALL_RATES = (1e-5, 3e-6, 1e-6, 3e-7, 1e-7, 1e-8)
TUNED = ("heavy-ball", "heavy-ball-small", "adam", "lbfgs", "lbfgs-one", "kryball-tuned")
"""The methods whose settings are chosen from :func:`grid`."""


class MeanOfEntries(RahimiRecht):
    """Rahimi–Recht with Torch's MSE for a loss: the mean over samples *and* outputs."""

    def __init__(self, condition: float, seed: Any) -> None:
        super().__init__("svd", singular_values=np.linspace(1.0, condition, 6).tolist(), seed=seed)
        self.factor = self.factor / math.sqrt(self.widths[2])


def task(problem: str, runs: int, *, start: str | None = None, stream: int = 1) -> Batch:
    """The first ``runs`` runs of ``problem``, as :func:`refimpl.experiments.first_passage.batch` gives them.

    Each run of the Rahimi–Recht problems has a target and inputs of its own; those of XOR differ in the start.

    Raises
    ------
    ValueError
        Unknown problem or start.
    """
    if problem not in PROBLEMS:
        raise ValueError(f"unknown problem {problem!r}; choose one of {sorted(PROBLEMS)}")
    start = PROBLEMS[problem][0] if start is None else start
    if start not in PROBLEMS[problem]:
        raise ValueError(f"unknown start {start!r} for {problem}; choose one of {list(PROBLEMS[problem])}")
    if problem in NOISE:
        return batch(problem, runs, start=start, stream=stream)
    generators, noise = [as_generator((stream, 1, k)) for k in range(runs)], (stream, 2)
    if problem == "xor":
        net = xor_network(initialization="torch")
        return Batch(net, net.backend.xp.stack([net.initial(rng) for rng in generators]), lambda _: net, noise)
    each = [MeanOfEntries(CONDITIONS[problem], rng) for rng in generators]
    bound = 1.0 / math.sqrt(6.0)  # both layers have six inputs
    walks = [
        one.initial(rng) if start == "normal" else one.backend.asarray(rng.uniform(-bound, bound, one.n))
        for one, rng in zip(each, generators, strict=True)
    ]
    return Batch(ManyRahimiRecht(each), each[0].backend.xp.stack(walks), each.__getitem__, noise)


def targets_of(problem: str) -> list[str]:
    """The names of what is waited for: the losses, and ``"accuracy"``.

    >>> targets_of("xor")
    ['0.01', '0.0001', 'accuracy']
    """
    return [f"{target:g}" for target in TARGETS[problem]] + ["accuracy"] * (problem == "xor")


def first(problem: str, runs: Batch, method: Optimizer, steps: int) -> Passages:
    """The first passages of ``runs`` of ``problem`` below its targets."""
    return passages(runs, method, steps=steps, targets=TARGETS[problem], criterion=_criterion(problem))


def methods(problem: str) -> dict[str, Optimizer]:
    """The methods without settings to choose. The maximum radius is 1000 everywhere.

    A radius must not end below the length of the way: the balanced minimizers have the norm sqrt(2 sum sigma), which is
    8.1 at kappa = 10 and 775 at kappa = 1e5. The first radius is 1.
    """
    found: dict[str, Optimizer] = {
        "lbfgs-wolfe": TorchLBFGS(line_search="strong-wolfe"),
        "kryball-published": KryBall.published(),
        "kryball-published-1": KryBall.published(refresh=1),
        "kryball-last-step": KryBall.published(momentum="step", refresh=1),
        "kryball-last-step-3": KryBall.published(momentum="step"),
        "kryball": KryBall(),
        "trust-region": TrustRegion(),
    }
    return {**found, "newton": Newton()} if problem in NOISE else found


def grid(method: str) -> list[Optimizer]:
    """The settings among which those of a method are chosen: the ranges of the thesis's section 5.2.5, coarsely.

    ``heavy-ball-small`` has learning rates below that range, down to 1e-8. Adam's start at 1e-3: smaller ones go less
    far in the 2000 steps of the budget than the minimizers are away.

    >>> [len(grid(method)) for method in TUNED]
    [27, 12, 21, 3, 3, 6]
    """
    if method == "heavy-ball":
        return [HeavyBall(rate, momentum) for rate, momentum in product(RATES, (0.9, 0.95, 0.99))]
    if method == "heavy-ball-small":
        return [HeavyBall(rate, momentum) for rate, momentum in product(SMALL_RATES, (0.9, 0.99))]
    if method == "adam":
        return [Adam(rate, *betas) for rate, betas in product(RATES[:7], ((0.9, 0.99), (0.9, 0.999), (0.99, 0.999)))]
    if method in ("lbfgs", "lbfgs-one"):
        return [TorchLBFGS(rate, max_iter=20 if method == "lbfgs" else 1) for rate in (0.3, 1.0, 0.1)]
    if method == "kryball-tuned":
        return [KryBall.published(dimension=m, refresh=r) for m, r in product((10, 5, 2), (1, 3))]
    raise ValueError(f"there is a grid for {list(TUNED)}, not for {method!r}")


def tuned(
    problem: str, method: str, *, start: str, runs: int, steps: int, choices: Sequence[Optimizer] | None = None
) -> list[Optimizer]:
    """The setting of ``method`` for each of :func:`targets_of`, chosen on runs of stream 2, which are not reported.

    Of the settings (``choices``, by default :func:`grid`) with which at least 95% of the runs arrive, the fastest; see
    :func:`refimpl.experiments.curveball_methods.fastest`. A run has failed once it takes more than three times the mean
    of a setting before, with which all arrive. Where no setting lets any run arrive, the one with the smallest median
    loss at the end.
    """
    choices = grid(method) if choices is None else choices
    trial, limit, tried = task(problem, runs, start=start, stream=2), steps, []
    for one in choices:
        found = first(problem, trial, one, limit)
        tried.append(found)
        if np.isfinite(found.counts).all():
            limit = min(limit, math.ceil(3 * found.counts.mean(axis=0).max()))
    names = range(len(targets_of(problem)))
    best = min(range(len(choices)), key=lambda i: float(np.median(tried[i].losses)))
    arrived = [any(np.isfinite(one.counts[:, k]).any() for one in tried) for k in names]
    return [choices[fastest(tried, k) if arrived[k] else best] for k in names]


def _criterion(problem: str) -> Criterion | None:
    return _all_right if problem == "xor" else None


def _all_right(problem: Problem, x: Array) -> np.ndarray:
    return to_numpy(problem.evaluate(x)["accuracy"]) == 1.0
