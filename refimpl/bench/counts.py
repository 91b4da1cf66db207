"""Hessian products of KryBall, step by step. Counted, not timed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from refimpl.bench.report import Found, Part, Session
from refimpl.optimizers.kryball import KryBall
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP

DIMENSION, REFRESH = 5, 3


def network(samples: int = 200) -> Problem:
    """A tanh network on random data."""
    rng = np.random.default_rng(1)
    data = rng.standard_normal((samples, 10)), rng.integers(0, 4, samples)
    return MLP((10, 20, 4), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")


def products_of(method: KryBall, problem: Problem, steps: int, settle: int = 3) -> list[tuple[bool, int]]:
    """Whether the space was fresh, and the products, of each step after the first few, which have no momentum yet."""
    x = problem.initial(np.random.default_rng(2))
    state, seen = method.init(x), []
    for _ in range(steps + settle):
        point = problem.at(x)
        taken = method.step(point, state)
        x, state = taken.x, taken.state
        seen.append((bool(taken.info.fresh), int(point.counts.hvp)))
    return seen[settle:]


def kryball(session: Session) -> Found:
    """G14: with products reused, and as printed."""
    problem, steps = network(50 if session.quick else 200), 9 if session.quick else 30
    knobs: dict[str, Any] = {"dimension": DIMENSION, "gain": 0.0}
    plan = {
        "as printed, r = 3": KryBall.published(),
        "as printed, r = 1": KryBall.published(refresh=1),
        "reused, r = 3": KryBall(**knobs, refresh=REFRESH),
        "reused, r = 1": KryBall(**knobs),
        "grown as needed, at most 20": KryBall(),
    }
    found = {name: products_of(method, problem, steps) for name, method in plan.items()}
    means = {name: float(np.mean([products for _, products in seen])) for name, seen in found.items()}
    session.note(f"products per step, M = {DIMENSION}, mean of {steps} steps: " + ", ".join(
        f"{name} {value:.2f}" for name, value in means.items()
    ))  # fmt: skip
    reused = found["reused, r = 3"]
    return {
        "reused, r = 3: mean": Part(means["reused, r = 3"]),
        "reused, r = 3: refresh": Part(float(largest(reused, fresh=True))),
        "reused, r = 3: between": Part(float(largest(reused, fresh=False))),
        "as printed, r = 3: mean, at least": Part(means["as printed, r = 3"]),
        "as printed, r = 3: mean, at most": Part(means["as printed, r = 3"]),
    }


def largest(seen: Sequence[tuple[bool, int]], *, fresh: bool) -> int:
    """The most products of a step with a fresh space, or of one between."""
    return max(products for new, products in seen if new == fresh)
