"""The exact saddle-free step against what it must do at least, and against a Krylov step."""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl.bench.report import Found, Part, Session
from refimpl.bench.series import DAMPING, setting
from refimpl.bench.timing import gap, race
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.saddle_free import SaddleFreeNewton

REPEATS = 3
"""Fewer than elsewhere: a round takes seconds, and the ratio is one of large matrix products."""


def exact_step(session: Session) -> Found:
    """G13: a step over Hessian and eigendecomposition, and over a Lanczos step with five products."""
    problem, x, *_ = setting(session)
    exact = SaddleFreeNewton(damping=DAMPING, mode="abs")
    lanczos = LanczosSaddleFreeNewton(products=5)
    velocity, damping = exact.init(x), lanczos.init(x)

    def floor() -> Any:
        point = problem.at(x)
        return point.gradient, np.linalg.eigh(point.hessian())

    gradient, (values, vectors) = floor()
    by_hand = vectors @ ((vectors.T @ gradient) / (np.abs(values) + DAMPING))
    error = gap(x - exact.step(problem.at(x), velocity).x, by_hand)
    jobs = {
        "step": lambda: exact.step(problem.at(x), velocity),
        "floor": floor,
        "Lanczos": lambda: [lanczos.step(problem.at(x), damping) for _ in range(10)],
    }
    seconds = race(jobs, 1 if session.quick else REPEATS)
    seconds["Lanczos"] /= 10
    shown = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in seconds.items())
    session.note(f"n = {problem.n}, ms: {shown} (floor: dense Hessian and eigh)")
    return {
        "step / floor": Part(seconds["step"] / seconds["floor"], error),
        "step / Lanczos step, 5 products": Part(seconds["step"] / seconds["Lanczos"], error),
    }
