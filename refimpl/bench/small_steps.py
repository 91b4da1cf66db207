"""What a step of KryBall, of ELMO and of AMOS costs beside its products."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.arrays import Array
from refimpl.bench.report import Session
from refimpl.bench.subproblem import cubic
from refimpl.bench.timing import gap, race
from refimpl.curvature.cubic import elmo_step
from refimpl.curvature.krylov import lanczos
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.sophia import Sophia
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic

CUBIC_MICROSECONDS, CUBIC_TIMES = 150.0, 5.0
SLOWER, OVERHEAD = 25.0, 3.0
"""A safe hypotenuse and three branches cost more than a root and a quotient; AMOS's bookkeeping must stay small beside
a gradient."""


def kryball(session: Session) -> None:
    """Microseconds on a quadratic of 50 unknowns, where a product is one small matrix times a vector."""
    problem = Quadratic.from_spectrum(np.linspace(0.5, 5.0, 50).tolist(), seed=3)
    x = problem.initial(np.random.default_rng(4))
    point = problem.at(x)
    methods = {
        "M = 5": KryBall(dimension=5, gain=0.0), "M = 5, three": KryBall(dimension=5, gain=0.0, directions="three"),
        "grown": KryBall(),
    }  # fmt: skip
    states = {name: method.step(point, method.init(x)) for name, method in methods.items()}
    jobs: dict[str, Callable[[], Any]] = {
        name: partial(_step, method, problem, states[name].x, states[name].state) for name, method in methods.items()
    }
    jobs["6 products"] = lambda: [problem.at(x).gradient, *(point.hvp(x) for _ in range(6))]
    jobs["lanczos(5)"] = lambda: lanczos(point.hvp, point.gradient, 5, checked=False)
    best = {name: 1e6 * seconds for name, seconds in race(jobs, 10 * session.rounds).items()}
    shown = ", ".join(f"{name} {value:.0f}" for name, value in best.items())
    session.note(f"microseconds of a KryBall step on a quadratic with 50 unknowns: {shown}")


def elmo(session: Session) -> None:
    """The scalar step, the cubic subproblem and AMOS; a ValueError where one is slower than it may be."""
    scalar_step(session)
    found = cubic(session)
    ratio = found.each["SciPy"] / found.each["unchecked"]
    _demand(session, "microseconds of a cubic model", found.each["unchecked"], CUBIC_MICROSECONDS)
    _demand(session, "ours / SciPy's time", 1 / ratio, 1 / CUBIC_TIMES)
    amos(session)


def scalar_step(session: Session) -> None:
    """Nanoseconds per direction, against the printed formula, which cancels."""
    rng, count = np.random.default_rng(0), 1000 if session.quick else 100_000
    lam = rng.choice([-1.0, 1.0], count) * 10.0 ** rng.uniform(-3, 3, count)
    g, bound = 10.0 ** rng.uniform(-3, 3, (2, count))

    def printed() -> Array:
        return (np.sqrt(lam * lam + 2 * bound * g) - lam) / bound

    concave = lam < 0
    error = gap(elmo_step(lam, g, bound)[concave], printed()[concave])
    if error > 1e-13:
        raise ValueError(f"the two forms differ by {error:.1e} where the printed one does not cancel")
    lost = np.abs(printed() / elmo_step(lam, g, bound) - 1) > 1e-8
    single = [v.astype(np.float32) for v in (lam, g, bound)]
    jobs: dict[str, Callable[[], Any]] = {
        "stable form": lambda: elmo_step(lam, g, bound),
        "stable form, float32": lambda: elmo_step(*single),
        "as printed": printed,
    }
    best = {name: 1e9 * seconds / count for name, seconds in race(jobs, session.rounds).items()}
    shown = ", ".join(f"{name} {value:.1f}" for name, value in best.items())
    session.note(f"ELMO's step along {count:,} eigenvectors, nanoseconds each: {shown}")
    session.note(f"the printed formula is off by more than 1e-8 in {lost.mean():.1%} of them")
    _demand(session, "stable form / as printed", best["stable form"] / best["as printed"], SLOWER)


def amos(session: Session) -> None:
    """A step of AMOS over one of Sophia, with the same gradient and the same estimates."""
    problem = _network(50 if session.quick else 500)
    x = problem.initial(np.random.default_rng(3))
    knobs: dict[str, Any] = {"offload_rate": 0.1}
    methods = {
        "Sophia": Sophia(),
        "AMOS, tensors": AMOS(threshold=1.0, **knobs),
        "AMOS, chunks of 256": AMOS(threshold=1.0, chunk=256, **knobs),
        "AMOS, certificate": AMOS(threshold="certificate", **knobs),
    }
    worst = 0.0
    for when, settle in {"between Hessian times": 1, "at a Hessian time": 10}.items():
        jobs: dict[str, Callable[[], Any]] = {}
        for name, method in methods.items():
            place, state = x, method.init(x)
            for _ in range(settle):
                taken = method.step(problem.at(place), state)
                place, state = taken.x, taken.state
            jobs[name] = partial(_step, method, problem, place, state)
        best = {name: 1e6 * seconds for name, seconds in race(jobs, 4 * session.rounds).items()}
        shown = ", ".join(f"{name} {value:.0f} ({value / best['Sophia']:.2f} Sophia)" for name, value in best.items())
        session.note(f"microseconds of a step, n = {problem.n:,}, {when}: {shown}")
        worst = max(worst, max(best.values()) / best["Sophia"])
    _demand(session, "AMOS / Sophia", worst, OVERHEAD)


def _step(method: Any, problem: Problem, x: Array, state: Any) -> Any:
    return method.step(problem.at(x), state)


def _network(samples: int) -> Problem:
    rng = np.random.default_rng(2)
    data = rng.standard_normal((samples, 20)), rng.integers(0, 5, samples)
    return MLP((20, 50, 50, 5), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")


def _demand(session: Session, what: str, value: float, limit: float) -> None:
    if not session.quick and not value <= limit:
        raise ValueError(f"{what} should be at most {limit:g}, it is {value:.3g}")
