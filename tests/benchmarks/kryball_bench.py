"""What the parts of KryBall cost.

1. The trust-region subproblem in seven unknowns against SciPy's sub-solver of ``trust-exact``, on the same problems and
   to the same model value. Fails above 100 microseconds, or where SciPy needs less than five times as long.
2. Hessian products per step with M = 5 and r = 3: as printed, and with products reused. Fails where reuse needs more
   than 4 on the average. Counted, not timed.
3. What a step adds to its products: microseconds of a step on a problem that costs nothing, and of its parts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import race, subproblem_race

from refimpl.arrays import Array
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers.kryball import KryBall
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic

ACCURACIES = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
UNKNOWNS, MICROSECONDS, TIMES = 7, 100.0, 5.0
PRODUCTS = 4.0
Region = tuple[Array, Array, float]


# -- the subproblem ---------------------------------------------------------------------------------------------------


def regions(count: int = 60, k: int = UNKNOWNS) -> list[Region]:
    """Indefinite and definite subproblems whose solution is on the boundary, as most of KryBall's are."""
    rng, found = np.random.default_rng(0), []
    while len(found) < count:
        a = rng.standard_normal((k, k))
        b = a @ a.T / k if len(found) % 2 else 0.5 * (a + a.T)
        g, radius = rng.standard_normal(k), float(10.0 ** rng.uniform(-2, 0))
        if trust_region_step(b, g, radius).kind == "boundary":
            found.append((b, g, radius))
    return found


def scipy_step(region: Region, accuracy: float | None = None) -> Array:
    """SciPy's answer, to a relative accuracy of the radius or to its default of a tenth."""
    from scipy.optimize._trustregion_exact import IterativeSubproblem

    b, g, radius = region
    knobs: dict[str, Any] = {} if accuracy is None else {"k_easy": accuracy, "k_hard": accuracy, "maxiter": 200}
    solver = IterativeSubproblem(g, lambda x: 0.0, lambda x: g, lambda x: b, **knobs)
    return solver.solve(radius)[0]


def subproblem(repeats: int) -> None:
    """Microseconds per problem. SciPy is given the loosest accuracy with which its model value is ours to 1e-9."""
    agreed: list[tuple[Region, float]] = []
    given = regions()
    for b, g, radius in given:
        ours = trust_region_step(b, g, radius, checked=False)
        for accuracy in ACCURACIES:
            p = scipy_step((b, g, radius), accuracy)
            theirs = float(g @ p + 0.5 * p @ b @ p)
            feasible = float(np.linalg.norm(p)) <= (1 + 1e-9) * radius
            assert not feasible or ours.model <= theirs + 1e-9 * abs(theirs), "SciPy found a lower value"
            if abs(ours.model - theirs) <= 1e-9 * abs(theirs):
                agreed.append(((b, g, radius), accuracy))
                break
    assert len(agreed) >= 0.5 * len(given), f"SciPy agrees to 1e-9 on {len(agreed)} of {len(given)} problems only"
    jobs: dict[str, Callable[[], Any]] = {
        "unchecked": lambda: [trust_region_step(*region, checked=False) for region, _ in agreed],
        "checked": lambda: [trust_region_step(*region) for region, _ in agreed],
        "SciPy": lambda: [scipy_step(region, accuracy) for region, accuracy in agreed],
        "SciPy to a tenth of the radius, its default": lambda: [scipy_step(region) for region, _ in agreed],
    }
    title = f"trust-region subproblem, k = {UNKNOWNS}"
    agreement = f"{len(agreed)} of {len(given)} problems on the boundary, those where both agree to 1e-9 in the model"
    subproblem_race(title, agreement, jobs, len(agreed), repeats, MICROSECONDS, TIMES)


# -- products ---------------------------------------------------------------------------------------------------------


def network(samples: int = 200) -> Problem:
    """A tanh network on random data."""
    rng = np.random.default_rng(1)
    data = rng.standard_normal((samples, 10)), rng.integers(0, 4, samples)
    return MLP((10, 20, 4), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch")


def counts(method: KryBall, problem: Problem, steps: int, settle: int = 3) -> float:
    """Mean products per step after the first few, which have no momentum yet."""
    x = problem.initial(np.random.default_rng(2))
    state, seen = method.init(x), []
    for _ in range(steps + settle):
        point = problem.at(x)
        taken = method.step(point, state)
        x, state = taken.x, taken.state
        seen.append(point.counts.hvp)
    return float(np.mean(seen[settle:]))


def products(steps: int = 30) -> None:
    """The table of variants at M = 5."""
    problem = network()
    knobs: dict[str, Any] = {"dimension": 5, "gain": 0.0}
    plan = {
        "as printed, r = 3": KryBall.published(),
        "as printed, r = 1": KryBall.published(refresh=1),
        "reused, r = 3": KryBall(**knobs, refresh=3),
        "reused, r = 1": KryBall(**knobs),
        "grown as needed, at most 20": KryBall(),
    }
    found = {name: counts(method, problem, steps) for name, method in plan.items()}
    print(
        f"\nKryBall's Hessian products per step, M = 5, mean of {steps} steps of a network with {problem.n} parameters"
    )
    print("  " + "; ".join(f"{name}: {number:.2f}" for name, number in found.items()))
    assert abs(found["as printed, r = 3"] - 22 / 3) < 0.01
    assert found["reused, r = 3"] <= PRODUCTS, f"reuse should need at most {PRODUCTS:g} products"


# -- a step -----------------------------------------------------------------------------------------------------------


def overhead(repeats: int) -> None:
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
        name: lambda m=method, s=states[name]: m.step(problem.at(s.x), s.state) for name, method in methods.items()
    }
    jobs["6 products"] = lambda: [problem.at(x).gradient, *(point.hvp(x) for _ in range(6))]
    jobs["lanczos(5)"] = lambda: lanczos(point.hvp, point.gradient, 5, checked=False)
    best = {name: 1e6 * seconds for name, seconds in race(jobs, 10 * repeats).items()}
    print(f"\nmicroseconds of a KryBall step on a quadratic with 50 unknowns, best of {10 * repeats}")
    print("  " + ", ".join(f"{name}: {time:.0f}" for name, time in best.items()))


def run(repeats: int) -> None:
    """All of it."""
    subproblem(repeats)
    products()
    overhead(repeats)
