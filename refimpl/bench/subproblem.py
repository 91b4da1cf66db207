"""Small subproblems against SciPy's solvers, on the same problems and to the same value of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize

from refimpl.arrays import Array
from refimpl.bench.report import Found, Part, Session
from refimpl.bench.timing import race
from refimpl.curvature.cubic import cubic_step
from refimpl.curvature.trust_region import trust_region_step

ACCURACIES = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-10)
DEFAULT = "SciPy to a tenth of the radius, its default"
SIZES = (3, 7, 20)
Region = tuple[Array, Array, float]


class Costs(NamedTuple):
    """Microseconds of one subproblem by each way, and the share of problems on which SciPy reaches the same value."""

    each: Mapping[str, float]
    agreed: float


# -- trust region -----------------------------------------------------------------------------------------------------


def regions(count: int, k: int) -> list[Region]:
    """Indefinite and definite subproblems whose solution is on the boundary, as most of KryBall's are."""
    rng, found = np.random.default_rng(0), list[Region]()
    while len(found) < count:
        a = rng.standard_normal((k, k))
        b = a @ a.T / k if len(found) % 2 else 0.5 * (a + a.T)
        g, radius = rng.standard_normal(k), float(10.0 ** rng.uniform(-2, 0))
        if trust_region_step(b, g, radius).kind == "boundary":
            found.append((b, g, radius))
    return found


def hard_regions(count: int, k: int) -> list[Region]:
    """Hard cases: g has nothing along the lowest eigenvector, and the rest does not reach the boundary."""
    rng, found = np.random.default_rng(1), []
    for _ in range(count):
        q, _ = np.linalg.qr(rng.standard_normal((k, k)))
        mu = np.sort(rng.uniform(-1.0, 2.0, k))
        mu[0] = -1.0 - abs(mu[0])
        c = np.concatenate([[0.0], rng.standard_normal(k - 1)])
        radius = 2.0 * float(np.linalg.norm(c[1:] / (mu[1:] - mu[0])))
        b = (q * mu) @ q.T
        found.append((0.5 * (b + b.T), q @ c, radius))
    return found


def scipy_step(region: Region, accuracy: float | None = None) -> Array:
    """SciPy's answer, to a relative accuracy of the radius or to its default of a tenth."""
    from scipy.optimize._trustregion_exact import IterativeSubproblem

    b, g, radius = region
    knobs: dict[str, Any] = {} if accuracy is None else {"k_easy": accuracy, "k_hard": accuracy, "maxiter": 200}
    solver = IterativeSubproblem(g, lambda x: 0.0, lambda x: g, lambda x: b, **knobs)
    return solver.solve(radius)[0]


def trust_regions(session: Session, k: int) -> Costs:
    """Microseconds per problem. SciPy is given the loosest accuracy with which its model value is ours to 1e-9."""
    agreed: list[tuple[Region, float]] = []
    given = regions(6 if session.quick else 60, k)
    for b, g, radius in given:
        ours = trust_region_step(b, g, radius, checked=False)
        for accuracy in ACCURACIES:
            p = scipy_step((b, g, radius), accuracy)
            theirs = float(g @ p + 0.5 * p @ b @ p)
            feasible = float(np.linalg.norm(p)) <= (1 + 1e-9) * radius
            if feasible and ours.model > theirs + 1e-9 * abs(theirs):
                raise ValueError(f"SciPy found a lower value: {theirs} below {ours.model}")
            if abs(ours.model - theirs) <= 1e-9 * abs(theirs):
                agreed.append(((b, g, radius), accuracy))
                break
    jobs: dict[str, Callable[[], Any]] = {
        "unchecked": lambda: [trust_region_step(*region, checked=False) for region, _ in agreed],
        "checked": lambda: [trust_region_step(*region) for region, _ in agreed],
        "SciPy": lambda: [scipy_step(region, accuracy) for region, accuracy in agreed],
        DEFAULT: lambda: [scipy_step(region) for region, _ in agreed],
    }
    return costs(session, f"trust region, k = {k}", jobs, len(agreed), len(given))


def costs(session: Session, title: str, jobs: Mapping[str, Callable[[], Any]], agreed: int, given: int) -> Costs:
    """Race the ways to solve ``agreed`` of ``given`` problems."""
    if agreed < 0.5 * given:
        raise ValueError(f"{title}: SciPy agrees on {agreed} of {given} problems only")
    each = {name: 1e6 * seconds / agreed for name, seconds in race(jobs, 2 * session.rounds).items()}
    shown = ", ".join(f"{name} {cost:.0f}" for name, cost in each.items())
    session.note(f"{title}, microseconds ({agreed} of {given} problems, where the values agree): {shown}")
    return Costs(each, agreed / given)


def radius_errors(region: Region) -> tuple[float, float]:
    """How far |p| is from the radius, and |(B + lam I) p + g| / |g|: the conditions that make p the minimizer."""
    b, g, radius = region
    found = trust_region_step(b, g, radius)
    residual = np.linalg.norm(b @ found.step + found.multiplier * found.step + g) / np.linalg.norm(g)
    return abs(float(np.linalg.norm(found.step)) / radius - 1.0), float(residual)


def trust_region(session: Session) -> Found:
    """G11: in seven unknowns, with the radius and the hard case checked in 3, 7 and 20."""
    sizes = tuple(session.knobs.get("k", SIZES))
    found = {k: trust_regions(session, k) for k in sizes}
    judged = found.get(7) or next(iter(found.values()))
    count = 5 if session.quick else 40
    checks = {
        kind: [radius_errors(region) for k in sizes for region in make(count, k)]
        for kind, make in {"boundary": regions, "hard": hard_regions}.items()
    }
    kinds = {trust_region_step(*region).kind for k in sizes for region in hard_regions(count, k)}
    session.note(f"hard cases are recognized as: {', '.join(sorted(kinds))}")
    radius = max(miss for seen in checks.values() for miss, _ in seen)
    condition = max(residual for seen in checks.values() for _, residual in seen)
    return {
        "microseconds, k = 7": Part(judged.each["unchecked"], condition, 1e-9),
        "SciPy / ours, k = 7": Part(judged.each[DEFAULT] / judged.each["unchecked"], condition, 1e-9),
        "|p| / radius - 1, hard case included": Part(radius, condition, 1e-9),
    }


# -- cubic regularization ---------------------------------------------------------------------------------------------


def cubic_models(count: int, k: int) -> list[Region]:
    """Indefinite and definite models h, g, sigma."""
    rng, found = np.random.default_rng(1), []
    for i in range(count):
        a = rng.standard_normal((k, k))
        h = a @ a.T / k if i % 2 else 0.5 * (a + a.T)
        found.append((h, rng.standard_normal(k), float(10.0 ** rng.uniform(-1, 1))))
    return found


def scipy_cubic(model: Region) -> Any:
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


def cubic(session: Session, k: int = 7) -> Costs:
    """Microseconds per cubic model, where SciPy ends at the same value: it finds a local minimum, perhaps another."""
    given, agreed = cubic_models(6 if session.quick else 40, k), []
    for model in given:
        h, g, sigma = model
        ours, theirs = cubic_step(h, g, sigma, checked=False), float(scipy_cubic(model).fun)
        if ours.model > theirs + 1e-9 * abs(theirs):
            raise ValueError(f"SciPy found a lower value: {theirs} below {ours.model}")
        if abs(ours.model - theirs) <= 1e-7 * abs(theirs):
            agreed.append(model)
    jobs: dict[str, Callable[[], Any]] = {
        "unchecked": lambda: [cubic_step(*model, checked=False) for model in agreed],
        "checked": lambda: [cubic_step(*model) for model in agreed],
        "SciPy": lambda: [scipy_cubic(model) for model in agreed],
    }
    return costs(session, f"cubic model, k = {k}", jobs, len(agreed), len(given))
