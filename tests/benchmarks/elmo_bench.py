"""What the parts of ELMO, cubic regularization and AMOS cost.

1. ELMO's scalar step on many directions at once, against the printed formula, which cancels, in the same run. Fails
   where it takes more than 25 times as long: a safe hypotenuse and three branches cost more than a root and a quotient.
2. The cubic-regularized subproblem in seven unknowns against SciPy's minimizer on the same model, on problems where
   both agree in the model's value. Fails above 150 microseconds, or where SciPy needs less than five times as long.
3. A step of AMOS in steps of Sophia, on the same network, between Hessian times and at them. Fails where a step of
   AMOS costs more than three times one of Sophia: the bookkeeping must be small beside the gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import optimize
from timing import race, subproblem_race

from refimpl.arrays import Array
from refimpl.curvature.cubic import cubic_step, elmo_step
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.sophia import Sophia
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP

UNKNOWNS, MICROSECONDS, TIMES = 7, 150.0, 5.0
SLOWER, OVERHEAD = 25.0, 3.0
Model = tuple[Array, Array, float]


# -- along one eigenvector --------------------------------------------------------------------------------------------


def scalar_step(repeats: int, count: int = 100_000) -> None:
    """Nanoseconds per direction."""
    rng = np.random.default_rng(0)
    lam = rng.choice([-1.0, 1.0], count) * 10.0 ** rng.uniform(-3, 3, count)
    g, bound = 10.0 ** rng.uniform(-3, 3, (2, count))

    def printed() -> Array:
        return (np.sqrt(lam * lam + 2 * bound * g) - lam) / bound

    concave = lam < 0
    np.testing.assert_allclose(elmo_step(lam, g, bound)[concave], printed()[concave], rtol=1e-13)
    lost = np.abs(printed() / elmo_step(lam, g, bound) - 1) > 1e-8
    single = [v.astype(np.float32) for v in (lam, g, bound)]
    jobs: dict[str, Callable[[], Any]] = {
        "stable form": lambda: elmo_step(lam, g, bound),
        "stable form, float32": lambda: elmo_step(*single),
        "as printed": printed,
    }
    best = {name: 1e9 * seconds / count for name, seconds in race(jobs, repeats).items()}
    print(f"\nELMO's step along {count:,} eigenvectors, nanoseconds each, best of {repeats}")
    print("  " + ", ".join(f"{name}: {time:.1f}" for name, time in best.items()))
    print(f"  the printed formula is off by more than 1e-8 in {lost.mean():.1%} of them")
    ratio = best["stable form"] / best["as printed"]
    assert ratio <= SLOWER, f"the stable form should take at most {SLOWER:g} times as long, got {ratio:.1f}"


# -- the subproblem ---------------------------------------------------------------------------------------------------


def models(count: int = 40, k: int = UNKNOWNS) -> list[Model]:
    """Indefinite and definite models."""
    rng, found = np.random.default_rng(1), []
    for i in range(count):
        a = rng.standard_normal((k, k))
        h = a @ a.T / k if i % 2 else 0.5 * (a + a.T)
        found.append((h, rng.standard_normal(k), float(10.0 ** rng.uniform(-1, 1))))
    return found


def scipy_step(model: Model) -> Any:
    """SciPy's minimizer with the exact gradient and Hessian of the model, from the steepest descent direction."""
    h, g, sigma = model

    def value(s: Array) -> tuple[float, Array]:
        length = float(np.linalg.norm(s))
        bent = h @ s
        return float(g @ s + 0.5 * s @ bent + sigma / 3 * length**3), g + bent + sigma * length * s

    def curvature(s: Array) -> Array:
        length = float(np.linalg.norm(s))
        return h + sigma * (length * np.eye(len(s)) + np.outer(s, s) / max(length, 1e-300))

    return optimize.minimize(value, -g / np.linalg.norm(g), jac=True, hess=curvature, method="trust-exact")


def subproblem(repeats: int) -> None:
    """Microseconds per problem, where SciPy ends at the same value: it finds a local minimum, which may be another."""
    given, agreed = models(), []
    for model in given:
        h, g, sigma = model
        ours, theirs = cubic_step(h, g, sigma, checked=False), float(scipy_step(model).fun)
        assert ours.model <= theirs + 1e-9 * abs(theirs), "SciPy found a lower value"
        if abs(ours.model - theirs) <= 1e-7 * abs(theirs):
            agreed.append(model)
    assert len(agreed) >= 0.5 * len(given), f"SciPy agrees to 1e-7 on {len(agreed)} of {len(given)} problems only"
    jobs: dict[str, Callable[[], Any]] = {
        "unchecked": lambda: [cubic_step(*model, checked=False) for model in agreed],
        "checked": lambda: [cubic_step(*model) for model in agreed],
        "SciPy": lambda: [scipy_step(model) for model in agreed],
    }
    title = f"cubic-regularized subproblem, k = {UNKNOWNS}"
    agreement = f"{len(agreed)} of {len(given)} problems, those where both agree to 1e-7 in the model"
    subproblem_race(title, agreement, jobs, len(agreed), repeats, MICROSECONDS, TIMES)


# -- AMOS -------------------------------------------------------------------------------------------------------------


def network(samples: int = 500) -> Problem:
    """A tanh network on random data."""
    rng = np.random.default_rng(2)
    data = rng.standard_normal((samples, 20)), rng.integers(0, 5, samples)
    return MLP((20, 50, 50, 5), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")


def overhead(repeats: int) -> None:
    """A step of AMOS over one of Sophia, with the same gradient and the same estimates."""
    problem = network()
    x = problem.initial(np.random.default_rng(3))
    knobs: dict[str, Any] = {"offload_rate": 0.1}
    methods = {
        "Sophia": Sophia(),
        "AMOS, tensors": AMOS(threshold=1.0, **knobs),
        "AMOS, chunks of 256": AMOS(threshold=1.0, chunk=256, **knobs),
        "AMOS, certificate": AMOS(threshold="certificate", **knobs),
    }
    rows: dict[str, dict[str, float]] = {}
    for when, settle in {"between Hessian times": 1, "at a Hessian time": 10}.items():
        jobs: dict[str, Callable[[], Any]] = {}
        for name, method in methods.items():
            place, state = x, method.init(x)
            for _ in range(settle):
                taken = method.step(problem.at(place), state)
                place, state = taken.x, taken.state
            jobs[name] = lambda m=method, p=place, s=state: m.step(problem.at(p), s)
        rows[when] = {name: 1e6 * seconds for name, seconds in race(jobs, 4 * repeats).items()}
    print(f"\nmicroseconds of a step on a network with {problem.n:,} parameters, best of {4 * repeats}")
    for when, found in rows.items():
        print(f"  {when}: " + ", ".join(
            f"{name}: {time:.0f} ({time / found['Sophia']:.2f} Sophia)" for name, time in found.items()
        ))  # fmt: skip
    worst = max(time / found["Sophia"] for found in rows.values() for time in found.values())
    assert worst <= OVERHEAD, f"a step of AMOS should cost at most {OVERHEAD:g} of Sophia's, got {worst:.2f}"


def run(repeats: int) -> None:
    """All of it."""
    scalar_step(repeats)
    subproblem(repeats)
    overhead(repeats)
