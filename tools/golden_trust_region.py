"""The golden vectors about trust regions and the spaces they live in, from definitions.

Nothing is computed here the way the package does it. A Krylov basis comes from orthonormalizing the powers themselves;
the multiplier of a trust region is found by halving intervals; the end of a dogleg by halving the path.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath as mp
from golden_calculus import Case, G, H, Vector, case, through_eigenvalues
from golden_series import inner, krylov

THESIS, NOCEDAL, TINY = "KryBall thesis", "Nocedal & Wright (2006)", mp.mpf(10) ** -40
HALVINGS = 230


# -- spaces -----------------------------------------------------------------------------------------------------------


def orthonormal(vectors: Sequence[Any]) -> Any:
    """An orthonormal basis of the span, as columns."""
    basis: list[Any] = []
    for vector in vectors:
        rest = mp.matrix(vector)
        size = mp.norm(rest)
        for q in [*basis, *basis]:
            rest = rest - inner(q, rest) * q
        if mp.norm(rest) > TINY * max(size, TINY):
            basis.append(rest / mp.norm(rest))
    return mp.matrix([list(q) for q in basis]).T


def columns(matrix: Any) -> list[Any]:
    """Its columns."""
    return [matrix[:, j] for j in range(matrix.cols)]


def arnoldi(matrix: Any, start: Any, steps: int) -> dict[str, Any]:
    """The basis as rows and Q_{m+1} A Q^T; rows of zeros past the end of an exhausted space."""
    a, n = mp.matrix(matrix), len(start)
    whole = krylov(a, start, min(steps + 1, n))
    known = min(steps, whole.cols)
    rows = [list(column) for column in columns(whole)[:known]]
    found = mp.zeros(steps + 1, steps)
    for i in range(min(whole.cols, steps + 1)):
        for j in range(known):
            # Below the first subdiagonal it is zero by definition.
            found[i, j] = inner(whole[:, i], a * whole[:, j]) if i <= j + 1 else mp.mpf(0)
    return {"basis": rows + [[mp.mpf(0)] * n] * (steps - known), "hessenberg": found}


def magnitudes(t: Any, absolute: Any, relative: Any) -> Any:
    """|T|^{-1} with every magnitude at least the larger of the two bounds."""
    values, _ = mp.eigsy(t)
    least = max(mp.mpf(absolute), mp.mpf(relative) * max(abs(v) for v in values))
    return through_eigenvalues(t, lambda v: 1 / max(abs(v), least))


def projected_step(
    matrix: Any, gradient: Any, steps: int, clip_absolute: Any = 1e-8, clip_relative: Any = 1e-6
) -> Vector:
    """-Q |Q^T H Q|^{-1} Q^T g."""
    h, g, q = mp.matrix(matrix), mp.matrix(gradient), krylov(matrix, gradient, steps)
    return list(-q * magnitudes(q.T * h * q, clip_absolute, clip_relative) * (q.T * g))


def reconstruction(matrix: Any, gradient: Any, steps: int) -> dict[str, Vector]:
    """How near the step in the space comes to the true one, and the nearest place of the space."""
    h, g = mp.matrix(matrix), mp.matrix(gradient)
    z = -through_eigenvalues(h, lambda v: 1 / abs(v)) * g
    found: dict[str, Vector] = {"best": [], "used": [], "cosine": [], "change": []}
    before = 0 * g
    for m in range(1, steps + 1):
        q, s = krylov(h, list(g), m), mp.matrix(projected_step(h, list(g), m, 0, 0))
        found["best"].append(mp.norm(z - q * (q.T * z)) / mp.norm(z))
        found["used"].append(mp.norm(z - s) / mp.norm(z))
        found["cosine"].append(inner(z, s) / (mp.norm(z) * mp.norm(s)))
        found["change"].append(mp.norm(s - before) / mp.norm(s))
        before = s
    return found


# -- trust regions ----------------------------------------------------------------------------------------------------


def value(b: Any, g: Any, p: Any) -> Any:
    """g·p + p·Bp/2."""
    return inner(g, p) + inner(p, b * p) / 2


def trust_region_step(matrix: Any, gradient: Any, radius: Any) -> dict[str, Any]:
    """The global minimizer; in the hard case the one whose part along the lowest eigenvector is largest positively."""
    b, g, delta = mp.matrix(matrix), mp.matrix(gradient), mp.mpf(radius)
    values, q = mp.eigsy(b)
    c, lowest = q.T * g, min(values)
    at_pole = [v - lowest <= TINY for v in values]

    def step(lam: Any) -> Any:
        parts = [-x / (v + lam) if v + lam > TINY else mp.mpf(0) for x, v in zip(c, values, strict=True)]
        return q * mp.matrix(parts)

    def answer(p: Any, lam: Any) -> dict[str, Any]:
        return {"step": list(p), "multiplier": lam, "model": value(b, g, p)}

    free = lowest > TINY or (lowest >= -TINY and all(abs(x) <= TINY for x, low in zip(c, at_pole, strict=True) if low))
    if free and mp.norm(step(mp.mpf(0))) <= delta:
        return answer(step(mp.mpf(0)), mp.mpf(0))
    if lowest < 0 and all(abs(x) <= TINY for x, low in zip(c, at_pole, strict=True) if low):
        p = step(-lowest)
        missing = delta**2 - inner(p, p)
        if missing >= 0:
            v = q[:, at_pole.index(True)]
            largest = max(v, key=abs)
            return answer(p + mp.sqrt(missing) * mp.sign(largest) * v, -lowest)
    low, high = max(-lowest, mp.mpf(0)), max(-lowest, mp.mpf(0)) + mp.norm(g) / delta + 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if mp.norm(step(middle)) > delta else (low, middle)
    return answer(step(high), high)


def dogleg_step(matrix: Any, gradient: Any, radius: Any) -> dict[str, Any]:
    """The end of the path within the radius."""
    b, g, delta = mp.matrix(matrix), mp.matrix(gradient), mp.mpf(radius)
    corner, newton = -inner(g, g) / inner(g, b * g) * g, -mp.lu_solve(b, g)

    def path(t: Any) -> Any:
        return t * corner if t <= 1 else corner + (t - 1) * (newton - corner)

    low, high = mp.mpf(0), mp.mpf(2)
    if mp.norm(newton) > delta:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if mp.norm(path(middle)) <= delta else (low, middle)
    p = path(high)
    return {"step": list(p), "model": value(b, g, p)}


def two_dimensional_step(matrix: Any, gradient: Any, radius: Any) -> dict[str, Any]:
    """The exact solution in the plane of g and (B + lam)^{-1} g; lam is 1.5 times a lowest eigenvalue below zero."""
    b, g = mp.matrix(matrix), mp.matrix(gradient)
    lowest = min(mp.eigsy(b)[0])
    shift = -mp.mpf(3) / 2 * lowest if lowest < -TINY else mp.mpf(0)
    second = through_eigenvalues(b + shift * mp.eye(len(g)), lambda v: 1 / v if v > TINY else mp.mpf(0)) * g
    q = orthonormal([g, second])
    inside = trust_region_step(q.T * b * q, q.T * g, radius)
    p = q * mp.matrix(inside["step"])
    return {"step": list(p), "model": value(b, g, p)}


def judged(ratio: Any, length: Any, radius: Any, knobs: dict[str, Any]) -> tuple[bool, Any]:
    """Algorithm 3: whether the step is taken, and the next radius."""
    accepted = ratio > mp.mpf(knobs.get("accept_above", 0.0))
    if ratio < mp.mpf(knobs.get("shrink_below", 0.25)):
        return accepted, mp.mpf(knobs.get("shrink", 0.5)) * (radius if accepted else min(radius, length))
    at_boundary = length >= radius * (1 - mp.mpf(10) ** -6)
    if ratio > mp.mpf(knobs.get("expand_above", 0.75)) and at_boundary:
        return accepted, min(mp.mpf(knobs.get("expand", 2.0)) * radius, mp.mpf(knobs.get("maximum_radius", 1000.0)))
    return accepted, radius


def radius_rule(radius: Any, trials: Any, **knobs: Any) -> dict[str, Any]:
    """For each row loss, trial loss, predicted change, length of the step: all from the same radius."""
    noise = 10 * mp.mpf(2) ** -52
    found: dict[str, list[Any]] = {"accepted": [], "ratio": [], "radius": []}
    for loss, trial, predicted, length in trials:
        if trial is None:
            ratio = mp.mpf(-1)
        elif max(abs(mp.mpf(predicted)), abs(mp.mpf(trial) - mp.mpf(loss))) <= noise * max(1, abs(loss)):
            ratio = mp.mpf(1)
        elif predicted >= 0:
            ratio = mp.mpf(-1)
        else:
            ratio = (mp.mpf(trial) - mp.mpf(loss)) / mp.mpf(predicted)
        accepted, following = judged(ratio, mp.mpf(length), mp.mpf(radius), knobs)
        for key, item in zip(found, (mp.mpf(accepted), ratio, following), strict=True):
            found[key].append(item)
    return found


# -- cases ------------------------------------------------------------------------------------------------------------

TURNING = [[1.0, 2.0, 0.0, -0.5], [-1.5, 0.5, 1.0, 0.0], [0.25, 0.0, -1.0, 2.0], [0.5, -0.25, 0.75, 1.5]]
APART = [[2.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.5, 0.0], [0.0, 0.0, 0.0, 3.0]]
SADDLE = [[-2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 3.0]]
MIXED = [[1.0, 2.0, 0.0], [2.0, -3.0, 1.0], [0.0, 1.0, 0.5]]
FLAT = [[0.0, 0.0], [0.0, 2.0]]
BOWL = [[4.0, 1.0, 0.0], [1.0, 3.0, -0.5], [0.0, -0.5, 2.0]]


def spaces() -> list[Case]:
    plan: list[tuple[str, Any, Any, int]] = [
        ("turning-2", TURNING, G, 2), ("turning-4", TURNING, G, 4), ("symmetric-3", H, G, 3),
        ("exhausted", APART, [1.0, 1.0, 0.0, 0.0], 3),
    ]  # fmt: skip
    clips: list[tuple[str, int, dict[str, float]]] = [
        *((f"{m}", m, {"clip_absolute": 0.0, "clip_relative": 0.0}) for m in (1, 2, 3, 4)),
        ("clipped", 3, {"clip_absolute": 1.25, "clip_relative": 0.0}),
        ("clipped-relatively", 4, {"clip_absolute": 0.0, "clip_relative": 0.5}),
    ]  # fmt: skip
    return [
        *(case(f"arnoldi-{name}", "arnoldi", {"matrix": a, "start": s, "steps": m}, arnoldi(a, s, m),
               f"Arnoldi (1951); {THESIS}, eqs. 2.35-2.37", 1e-12, 1e-4) for name, a, s, m in plan),
        *(case(f"projected-{name}", "projected_step", {"matrix": H, "gradient": G, "steps": m, **clip},
               projected_step(H, G, m, **clip), f"{THESIS}, eqs. 4.7-4.12, with |g|", 1e-12, 1e-4)
          for name, m, clip in clips),
        case("reconstruction", "reconstruction", {"matrix": H, "gradient": G, "steps": 4}, reconstruction(H, G, 4),
             f"{THESIS}, eqs. 5.5-5.12", 1e-11, 1e-3),
    ]  # fmt: skip


def regions() -> list[Case]:
    slope, right = [1.0, -2.0, 0.5], [0.0, 1.0, -1.0]
    exact: list[tuple[str, Any, Any, float]] = [
        ("interior", BOWL, slope, 2.0), ("boundary", BOWL, slope, 0.25), ("indefinite", MIXED, [1.0, 0.5, -1.0], 1.5),
        ("hard", SADDLE, right, 2.0), ("hard-but-short", SADDLE, right, 0.25),
        ("nearly-hard", SADDLE, [2.0**-27, 1.0, -1.0], 2.0),
        ("negative", [[-1.0, 0.5], [0.5, -2.0]], [0.25, 0.125], 1.0), ("flat", FLAT, [0.0, -1.0], 1.0),
        ("no-gradient", [[-1.0, 0.0], [0.0, 2.0]], [0.0, 0.0], 0.5), ("flat-with-slope", FLAT, [1.0, -1.0], 1.0),
        ("one", [[-3.0]], [0.5], 2.0),
    ]  # fmt: skip
    classic: list[tuple[str, Any, Any, float]] = [
        ("interior", BOWL, slope, 2.0), ("second-leg", BOWL, slope, 0.875), ("first-leg", BOWL, slope, 0.25),
    ]  # fmt: skip
    plane = [*classic, ("indefinite", MIXED, [1.0, 0.5, -1.0], 1.5), ("flat", FLAT, [1.0, -1.0], 1.0)]
    tables: list[tuple[str, float, list[list[Any]], dict[str, float]]] = [
        ("table", 2.0, [[5.0, 4.0, -1.0, 2.0], [5.0, 4.0, -1.0, 1.0], [5.0, 4.5, -1.0, 2.0], [5.0, 4.25, -1.0, 2.0],
                        [5.0, 4.75, -1.0, 2.0], [5.0, 4.8125, -1.0, 0.5], [5.0, 5.0625, -1.0, 2.0],
                        [5.0, 6.0, -1.0, 0.5], [5.0, None, -1.0, 2.0], [5.0, 4.0, 0.5, 2.0], [5.0, 5.0, 0.0, 0.0]], {}),
        ("knobs", 2.0, [[5.0, 4.0, -1.0, 2.0], [5.0, 4.875, -1.0, 2.0], [5.0, 4.8125, -1.0, 1.0],
                        [5.0, 4.5, -1.0, 2.0]],
         {"accept_above": 0.125, "shrink_below": 0.5, "expand_above": 0.75, "shrink": 0.25, "expand": 8.0,
          "maximum_radius": 12.0}),
    ]  # fmt: skip
    functions: list[tuple[str, Any, Any, str]] = [
        ("trust_region_step", trust_region_step, exact, f"{NOCEDAL}, theorem 4.1; {THESIS}, eq. 4.14"),
        ("dogleg_step", dogleg_step, classic, f"{NOCEDAL}, eq. 4.16"),
        ("two_dimensional_step", two_dimensional_step, plane, f"{NOCEDAL}, eqs. 4.17 and 4.18"),
    ]
    return [
        *(case(f"{call.removesuffix('_step').replace('_', '-')}-{name}", call,
               {"matrix": b, "gradient": g, "radius": radius}, function(b, g, radius), source, 1e-13, 1e-4)
          for call, function, plan, source in functions for name, b, g, radius in plan),
        *(case(f"radius-{name}", "radius_rule", {"radius": radius, "trials": trials, **knobs},
               radius_rule(radius, trials, **knobs), f"{THESIS}, Algorithm 3; {NOCEDAL}, algorithm 4.1")
          for name, radius, trials, knobs in tables),
    ]  # fmt: skip
