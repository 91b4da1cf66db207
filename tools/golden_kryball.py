"""The golden vectors about KryBall and the trust-region method, from definitions.

A subspace is the span of its vectors, whatever their order; Hessians are central differences in 60 digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
from golden_calculus import Case, Vector, case, gradient, hessian, through_eigenvalues
from golden_problems import formula
from golden_series import krylov
from golden_trust_region import (
    THESIS,
    columns,
    judged,
    orthonormal,
    projected_step,
    regions,
    spaces,
    trust_region_step,
    two_dimensional_step,
    value,
)

# -- KryBall ----------------------------------------------------------------------------------------------------------


def dimension_of(h: Any, g: Any, radius: Any, most: int, gain: Any) -> int:
    """The first m whose model minimum is lower than that of m - 1 by at most the share ``gain`` of it."""
    before = mp.mpf(0)
    for m in range(1, most + 1):
        q = krylov(h, list(g), m)
        lowest = trust_region_step(q.T * h * q, q.T * g, radius)["model"]
        if gain and m > 1 and before - lowest <= mp.mpf(gain) * -lowest:
            return m
        before = lowest
    return most


def model_of(h: Any, g: Any, z: Any, radius: Any, old: Any, knobs: dict[str, Any]) -> tuple[Any, Any, tuple[Any, Any]]:
    """Basis and matrix of the step's model, and the Krylov space to keep. ``old`` is None where one is to be built."""
    if old is None:
        most = min(knobs["dimension"], len(g))
        q = krylov(h, list(g), dimension_of(h, g, radius, most, knobs["gain"]))
        kept = q, q.T * h * q
        vectors = columns(q)
        if knobs["directions"] == "three":
            vectors = [g, mp.matrix(projected_step(h, list(g), q.cols))]
        basis = orthonormal([*vectors, z])
        return basis, basis.T * h * basis, kept
    vectors = [] if knobs["stale"] == "drop" else columns(old[0])
    basis = orthonormal([*vectors, g, z])
    matrix = basis.T * h * basis
    if knobs["stale"] == "reuse":
        m = old[0].cols
        matrix[:m, :m] = old[1]
    return basis, matrix, old


DEFAULTS = {
    "dimension": 20, "gain": 0.02, "directions": "space", "momentum": "step", "momentum_factor": 0.9, "refresh": 1,
    "stale": "reuse", "retries": 5, "initial_radius": 1.0,
}  # fmt: skip


def kryball_step(
    hessian: Any,
    gradient: Any,
    quartic: Any,
    momentum: Any,
    radius: Any,
    dimension: int,
    directions: str,
    basis: Any = None,
    matrix: Any = None,
    stale: str = "exact",
    maximum_radius: Any = 1000.0,
) -> dict[str, Any]:
    """One trial at x = 0 of the loss g·x + x·Hx/2 + sum_i q_i x_i^4/4."""
    h, g, z = mp.matrix(hessian), mp.matrix(gradient), mp.matrix(momentum)
    knobs = {**DEFAULTS, "dimension": dimension, "directions": directions, "gain": 0, "stale": stale}
    old = None if basis is None else (mp.matrix(basis).T, mp.matrix(matrix))
    q, a, _ = model_of(h, g, z, mp.mpf(radius), old, knobs)
    found = trust_region_step(a, q.T * g, radius)
    p = q * mp.matrix(found["step"])
    change = value(h, g, p) + sum(mp.mpf(w) * x**4 for w, x in zip(quartic, p, strict=True)) / 4
    ratio = change / found["model"]
    accepted, following = judged(ratio, mp.norm(p), mp.mpf(radius), {"maximum_radius": maximum_radius})
    step = list(p if accepted else 0 * p)
    return {"step": step, "predicted_change": found["model"], "ratio": ratio, "radius": following}


def kryball(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """Places after each step."""
    k, f, x = {**DEFAULTS, **knobs}, formula({"name": problem}), mp.matrix(x0)
    radius, z, old, places = mp.mpf(k["initial_radius"]), 0 * x, None, []
    for t in range(steps):
        g, h, before = mp.matrix(gradient(f, list(x))), mp.matrix(hessian(f, list(x))), f(list(x))
        if k["momentum"] == "gradient" and t > 0:
            z = mp.mpf(k["momentum_factor"]) * z + g
        basis, matrix, old = model_of(h, g, z, radius, None if t % k["refresh"] == 0 else old, k)
        for _ in range(k["retries"] + 1):
            found = trust_region_step(matrix, basis.T * g, radius)
            p = basis * mp.matrix(found["step"])
            ratio = (f(list(x + p)) - before) / found["model"]
            accepted, radius = judged(ratio, mp.norm(p), radius, k)
            if accepted:
                x, z = x + p, p if k["momentum"] == "step" else z
                break
        places.append(list(x))
    return places


def stochastic_kryball(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """The same for z <- rho z + q, one sample for all steps."""
    f, x, rho = formula({"name": problem}), mp.matrix(x0), mp.mpf(knobs["momentum"])
    radius, z, places = mp.mpf(knobs["initial_radius"]), 0 * x, []
    for _ in range(steps):
        h, base = mp.matrix(hessian(f, list(x))), f(list(x + rho * z))
        s = mp.matrix(gradient(f, list(x))) + rho * h * z
        basis = krylov(h, list(s), min(knobs["dimension"], len(s)))
        matrix, coasting = through_eigenvalues(basis.T * h * basis, abs), rho * z
        z = coasting
        for _ in range(knobs["retries"] + 1):
            found = trust_region_step(matrix, basis.T * s, radius)
            q = basis * mp.matrix(found["step"])
            ratio = (f(list(x + coasting + q)) - base) / found["model"]
            accepted, radius = judged(ratio, mp.norm(q), radius, knobs)
            if accepted:
                z = coasting + q
                break
        x = x + z
        places.append(list(x))
    return places


def trust_region(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """The same with all of space."""
    f, x, places = formula({"name": problem}), mp.matrix(x0), []
    radius = mp.mpf(knobs.get("initial_radius", 1.0))
    solve: Callable[..., Any] = {"exact": trust_region_step, "two-dimensional": two_dimensional_step}[
        knobs.get("subproblem", "exact")
    ]
    for _ in range(steps):
        g, h = mp.matrix(gradient(f, list(x))), mp.matrix(hessian(f, list(x)))
        found = solve(h, g, radius)
        p = mp.matrix(found["step"])
        ratio = (f(list(x + p)) - f(list(x))) / found["model"]
        accepted, radius = judged(ratio, mp.norm(p), radius, knobs)
        x = x + p if accepted else x
        places.append(list(x))
    return places


# -- cases ------------------------------------------------------------------------------------------------------------

WIDE = [
    [2.0, -1.0, 0.5, 0.0, 0.25, 0.0], [-1.0, -1.5, 0.25, 0.75, 0.0, -0.5], [0.5, 0.25, 1.0, -0.5, 0.125, 0.25],
    [0.0, 0.75, -0.5, 0.125, 1.0, 0.0], [0.25, 0.0, 0.125, 1.0, 3.0, -0.75], [0.0, -0.5, 0.25, 0.0, -0.75, -0.25],
]  # fmt: skip


def steps() -> list[Case]:
    z, q = [0.125, 0.25, -0.375, 0.0625, 0.5, -0.25], [1.0, 0.5, 0.25, 2.0, 1.5, 0.75]
    usual = {
        "hessian": WIDE, "gradient": [1.0, -0.5, 0.25, 2.0, 0.75, -1.0], "quartic": q, "momentum": z, "radius": 0.5,
        "dimension": 3, "directions": "three",
    }  # fmt: skip
    old = {
        "basis": [[0.5, 0.5, 0.5, 0.5, 0.0, 0.0], [0.5, -0.5, 0.5, -0.5, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]],
        "matrix": [[1.5, 0.5, 0.0], [0.5, -1.0, 0.75], [0.0, 0.75, 2.0]],
    }
    bowl = {**usual, "hessian": [[a + 4.0 * (i == j) for j, a in enumerate(row)] for i, row in enumerate(WIDE)],
            "radius": 4.0, "quartic": [0.0] * 6}  # fmt: skip
    plan: list[tuple[str, dict[str, Any]]] = [
        ("three", usual), ("space", {**usual, "directions": "space"}), ("one-product", {**usual, "dimension": 1}),
        ("two-products", {**usual, "dimension": 2, "directions": "space"}), ("first", {**usual, "momentum": [0.0] * 6}),
        ("refused", {**usual, "radius": 8.0}), ("refused-space", {**usual, "radius": 8.0, "directions": "space"}),
        ("poor", {**usual, "radius": 4.0}), ("good", {**usual, "radius": 1.5}),
        ("bounded", {**usual, "radius": 0.5, "maximum_radius": 0.75}), ("inside", bowl),
        ("refused-inside", {**bowl, "quartic": [64.0 * w for w in q]}), ("stale", {**usual, **old}),
        ("stale-reuse", {**usual, **old, "stale": "reuse"}), ("stale-drop", {**usual, **old, "stale": "drop"}),
        ("stale-large", {**usual, **old, "radius": 1.0, "quartic": [0.0] * 6}),
    ]  # fmt: skip
    return [
        case(f"kryball-{name}", "kryball_step", inputs, kryball_step(**inputs), f"{THESIS}, Algorithm 4", 1e-11, 1e-3)
        for name, inputs in plan
    ]


def runs() -> list[Case]:
    valley, wood = [-1.25, 1.0], [-3.0, -1.0, -3.0, -1.0]
    own, region = {"name": "kryball"}, {"name": "trust-region"}
    shaken = {"name": "stochastic-kryball", "dimension": 2, "momentum": 0.75, "retries": 1, "initial_radius": 0.5,
              "maximum_radius": 2.0}  # fmt: skip
    printed = {**own, "gain": 0.0, "directions": "three", "momentum": "gradient", "stale": "exact", "retries": 0}
    plan: list[tuple[str, Any, str, list[float], int, dict[str, Any], str]] = [
        ("trust-region-rosenbrock", trust_region, "rosenbrock", valley, 8, {**region, "maximum_radius": 2.0},
         f"{THESIS}, Algorithm 3"),
        ("trust-region-plane", trust_region, "wood", wood, 5, {**region, "subproblem": "two-dimensional"},
         f"{THESIS}, Algorithm 3 and eq. 2.42"),
        ("kryball-wood", kryball, "wood", wood, 6, {**own, "dimension": 3, "gain": 0.0},
         f"{THESIS}, Algorithm 4 with the last step"),
        ("kryball-adaptive", kryball, "wood", wood, 6, {**own, "gain": 0.25, "initial_radius": 2.0},
         f"{THESIS}, Algorithm 4 with the last step"),
        ("kryball-retries", kryball, "rosenbrock", valley, 6, {**own, "initial_radius": 4.0},
         f"{THESIS}, Algorithm 4 with retries"),
        ("kryball-refresh", kryball, "wood", wood, 6, {**own, "dimension": 2, "gain": 0.0, "refresh": 3},
         f"{THESIS}, Algorithm 4 with old products"),
        ("kryball-printed", kryball, "wood", wood, 6, {**printed, "dimension": 2, "refresh": 3,
                                                       "reuse_products": False}, f"{THESIS}, Algorithm 4"),
        ("kryball-printed-momentum", kryball, "wood", wood, 5, {**printed, "dimension": 1, "momentum_factor": 0.5},
         f"{THESIS}, Algorithm 4"),
        ("stochastic-kryball-wood", stochastic_kryball, "wood", wood, 5, shaken, f"after {THESIS}, Algorithm 4"),
        ("stochastic-kryball-saddle", stochastic_kryball, "coupled-saddle", [0.5, 0.25], 4, shaken,
         f"after {THESIS}, Algorithm 4"),
    ]  # fmt: skip
    return [
        case(name, "run", {"problem": {"name": problem}, "method": method, "x0": x0, "steps": count},
             function(problem, x0, count, method), source, 1e-11, 1e-2)
        for name, function, problem, x0, count, method, source in plan
    ]  # fmt: skip


def kryball_cases() -> list[Case]:
    """Every case of the group."""
    return [*spaces(), *regions(), *steps(), *runs()]
