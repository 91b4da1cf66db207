"""The golden vectors about ELMO, cubic regularization, Sophia and AMOS, from definitions.

Nothing is computed here the way the package does it: with 60 digits the printed root needs no other form, multipliers
are found by halving intervals, and running means are sums with their weights written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mpmath as mp
from golden_calculus import Case, H, Vector, case, gradient, hessian
from golden_problems import formula
from golden_series import inner
from golden_trust_region import TINY, value

ELMO, CARTIS, SOPHIA = "ELMO paper", "Cartis, Gould & Toint (2011a)", "Liu et al. (2024)"
HALVINGS = 230


# -- along one eigenvector --------------------------------------------------------------------------------------------


def best(lam: Any, g: Any, bound: Any) -> Any:
    """The minimizer of the majorizer, x >= 0: the positive root of L x^2/2 + lam x = g, with 200 digits."""
    with mp.workdps(200):
        lam, g, bound = mp.mpf(lam), mp.mpf(g), mp.mpf(bound)
        if bound == 0:
            return g / lam
        return (mp.sqrt(lam**2 + 2 * bound * g) - lam) / bound


def elmo_step(eigenvalue: Any, slope: Any, lipschitz: Any) -> Vector:
    """Entry by entry."""
    return [best(*row) for row in zip(eigenvalue, slope, lipschitz, strict=True)]


def cubic_bounds(step: Any, eigenvalue: Any, slope: Any, lipschitz: Any) -> dict[str, Vector]:
    """-g x + lam x^2/2 with plus and with minus L|x|^3/6."""
    found: dict[str, Vector] = {"majorizer": [], "minorizer": []}
    for x, lam, g, bound in zip(step, eigenvalue, slope, lipschitz, strict=True):
        x, lam, g, bound = (mp.mpf(v) for v in (x, lam, g, bound))
        for key, sign in (("majorizer", 1), ("minorizer", -1)):
            found[key].append(-g * x + lam * x**2 / 2 + sign * bound * abs(x) ** 3 / 6)
    return found


def row_sum(third: Any, vectors: Any) -> Vector:
    """sum_jk |T(v_i, v_j, v_k)|, with every product written out."""
    n = len(vectors)
    v = [[mp.mpf(vectors[a][i]) for a in range(n)] for i in range(n)]

    def turned(i: int, j: int, k: int) -> Any:
        return sum(mp.mpf(third[a][b][c]) * v[i][a] * v[j][b] * v[k][c]
                   for a in range(n) for b in range(n) for c in range(n))  # fmt: skip

    return [sum(abs(turned(i, j, k)) for j in range(n) for k in range(n)) for i in range(n)]


# -- in all directions ------------------------------------------------------------------------------------------------


def elmo_direction(hessian: Any, gradient: Any, lipschitz: Any, tie: int = 1) -> dict[str, Any]:
    """The step, and the sum of the majorizers there. Eigenvalues are simple here."""
    g = mp.matrix(gradient)
    values, q = mp.eigsy(mp.matrix(hessian))
    order = sorted(range(len(values)), key=lambda i: values[i])
    step, total = 0 * g, mp.mpf(0)
    for i, bound in zip(order, lipschitz, strict=True):
        v, lam = q[:, i], values[i]
        v = v * mp.sign(max(v, key=abs))
        c = inner(v, g)
        side = -mp.sign(c) if abs(c) > TINY else mp.mpf(tie)
        slope = abs(c) if abs(c) > TINY else mp.mpf(0)
        x = (mp.sqrt(lam**2 + 2 * mp.mpf(bound) * slope) - lam) / mp.mpf(bound)
        step += side * x * v
        total += cubic_bounds([x], [lam], [slope], [bound])["majorizer"][0]
    return {"step": list(step), "predicted_change": total}


def cubic_step(matrix: Any, gradient: Any, sigma: Any) -> dict[str, Any]:
    """The global minimizer of g·s + s·Hs/2 + sigma/3 |s|^3; in the hard case the larger component is positive."""
    h, g, weight = mp.matrix(matrix), mp.matrix(gradient), mp.mpf(sigma)
    values, q = mp.eigsy(h)
    c, lowest = q.T * g, min(values)
    at_pole = [v - lowest <= TINY for v in values]

    def step(nu: Any) -> Any:
        parts = [-x / (v + nu) if v + nu > TINY else mp.mpf(0) for x, v in zip(c, values, strict=True)]
        return q * mp.matrix(parts)

    def answer(s: Any, nu: Any) -> dict[str, Any]:
        return {"step": list(s), "multiplier": nu, "model": value(h, g, s) + weight * mp.norm(s) ** 3 / 3}

    if lowest < 0 and all(abs(x) <= TINY for x, low in zip(c, at_pole, strict=True) if low):
        s = step(-lowest)
        missing = (lowest / weight) ** 2 - inner(s, s)
        if missing >= 0:
            v = q[:, at_pole.index(True)]
            return answer(s + mp.sqrt(missing) * mp.sign(max(v, key=abs)) * v, -lowest)
    low = max(-lowest, mp.mpf(0))
    high = low + mp.sqrt(weight * mp.norm(g)) + 1
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if weight * mp.norm(step(middle)) > middle else (low, middle)
    return answer(step(high), high)


def arc(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """Places after each step of algorithm 2.1: eta = (0.1, 0.9), gamma = 2."""
    f, x, sigma, places = formula({"name": problem}), mp.matrix(x0), mp.mpf(knobs.get("initial_sigma", 1.0)), []
    for _ in range(steps):
        found = cubic_step(hessian(f, list(x)), gradient(f, list(x)), sigma)
        trial = x + mp.matrix(found["step"])
        ratio = (f(list(trial)) - f(list(x))) / found["model"]
        if ratio >= mp.mpf("0.1"):
            x = trial
        sigma = 2 * sigma if ratio < mp.mpf("0.1") else sigma / 2 if ratio >= mp.mpf("0.9") else sigma
        places.append(list(x))
    return places


def elmo(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """Places after each step with one constant for all directions, tried and adapted with ``safeguard``."""
    f, x, kappa, places = formula({"name": problem}), mp.matrix(x0), mp.mpf(1), []
    for _ in range(steps):
        constants = [kappa * mp.mpf(knobs["lipschitz"])] * len(x0)
        found = elmo_direction(hessian(f, list(x)), gradient(f, list(x)), constants)
        trial = x + mp.matrix(found["step"])
        ratio = (f(list(trial)) - f(list(x))) / found["predicted_change"]
        if not knobs.get("safeguard") or ratio >= mp.mpf("0.1"):
            x = trial
        if knobs.get("safeguard"):
            kappa = 2 * kappa if ratio < mp.mpf("0.1") else kappa / 2 if ratio >= mp.mpf("0.9") else kappa
        places.append(list(x))
    return places


# -- diagonals --------------------------------------------------------------------------------------------------------


def sophia_step(
    place: Any, gradient: Any, mean: Any, curvature: Any, sampled_gradient: Any, samples: int, learning_rate: Any,
    beta1: Any, beta2: Any, rho: Any, weight_decay: Any,
) -> dict[str, Vector]:  # fmt: skip
    """One step in which the diagonal is renewed; without ``sampled_gradient`` one in which it is not."""
    b1, b2, eta = mp.mpf(beta1), mp.mpf(beta2), mp.mpf(learning_rate)
    found: dict[str, Vector] = {"place": [], "mean": [], "curvature": []}
    draws = sampled_gradient if sampled_gradient is not None else [None] * len(place)
    for x, g, m, h, drawn in zip(place, gradient, mean, curvature, draws, strict=True):
        x, m, h = mp.mpf(x), b1 * mp.mpf(m) + (1 - b1) * mp.mpf(g), mp.mpf(h)
        if drawn is not None:
            h = b2 * h + (1 - b2) * samples * mp.mpf(drawn) ** 2
        size = mp.mpf(1) if mp.mpf(rho) * h <= abs(m) else abs(m) / (mp.mpf(rho) * h)
        found["place"].append(x * (1 - eta * mp.mpf(weight_decay)) - eta * mp.sign(m) * size)
        found["mean"].append(m)
        found["curvature"].append(h)
    return found


def amos_lipschitz(
    estimates: Any, places: Any, sizes: Any, alpha: Any, epsilon2: Any, threshold: Any, aggregation: str = "mean"
) -> dict[str, Any]:
    """L of every coordinate after each Hessian time, and of every group, corrected; whether that is above."""
    a, lipschitz, updates = mp.mpf(alpha), [mp.mpf(0)] * len(places[0]), 0
    found: dict[str, Any] = {"lipschitz": [], "group_lipschitz": [], "offloaded": []}
    for k, (d, x) in enumerate(zip(estimates, places, strict=True)):
        if k > 0:
            before, there = estimates[k - 1], places[k - 1]
            distance = mp.sqrt(sum((mp.mpf(p) - mp.mpf(q)) ** 2 for p, q in zip(x, there, strict=True)))
            if distance > 0:
                updates += 1
                lipschitz = [a * old + (1 - a) * abs(mp.mpf(p) - mp.mpf(q)) / (mp.mpf(epsilon2) + distance)
                             for old, p, q in zip(lipschitz, d, before, strict=True)]  # fmt: skip
        found["lipschitz"].append(lipschitz)
        rest = [value / (1 - a**updates) if updates else value for value in lipschitz]
        groups = []
        for size in sizes:
            part, rest = rest[:size], rest[size:]
            groups.append(max(part) if aggregation == "max" else sum(part) / size)
        found["group_lipschitz"].append(groups)
        found["offloaded"].append([mp.mpf(int(one > mp.mpf(threshold))) for one in groups])
    return found


# -- cases ------------------------------------------------------------------------------------------------------------

SLOPES, CONSTANTS = [0.5, 1.0, 0.25, 2.0], [0.5, 2.0, 1.0, 4.0]
FOUR = [[0.5625, -1.1875, -1.8125, 0.4375], [-1.1875, 0.5625, 0.4375, -1.8125],
        [-1.8125, 0.4375, 0.5625, -1.1875], [0.4375, -1.8125, -1.1875, 0.5625]]  # fmt: skip
APART = [[-1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]]


def along_one() -> list[Case]:
    steps: list[tuple[str, Any, Any, Any]] = [
        ("convex", [0.5, 2.0, 1.0, 0.125], SLOPES, CONSTANTS),
        ("concave", [-0.5, -2.0, -1.0, -0.125], SLOPES, CONSTANTS),
        ("flat", [0.0, 0.0], [1.0, 0.25], [2.0, 0.5]),
        ("no-slope", [-1.0, -0.25, 3.0], [0.0, 0.0, 0.0], [1.0, 4.0, 2.0]),
        ("nearly-newton", [1.0, 2.0], [2.0**-27, 2.0**-27], [2.0**-27, 2.0**-29]),
        ("nearly-no-slope", [-1.0, -2.0], [2.0**-57, 2.0**-57], [1.0, 4.0]),
        ("newton", [2.0, 4.0], [1.0, 0.5], [0.0, 0.0]),
    ]
    bounds = ([0.5, -0.5, 2.0, -2.0], [1.0, -1.0, -0.5, 0.25], [1.0, 0.25, 0.5, 2.0], [1.0, 3.0, 0.75, 1.5])
    names = ("step", "eigenvalue", "slope", "lipschitz")
    half = [[0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5], [0.5, 0.5, -0.5, -0.5], [0.5, -0.5, -0.5, 0.5]]
    product = [[[0.0, 2.0], [2.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]]]
    mixed = [[[float((7 * (i + 1) * (j + 1) * (k + 1) + 3 * (i + j + k)) % 16 - 8) / 8 for k in range(4)]
              for j in range(4)] for i in range(4)]  # fmt: skip
    return [
        *(case(f"step-{name}", "elmo_step", {"eigenvalue": lam, "slope": g, "lipschitz": bound},
               elmo_step(lam, g, bound), f"{ELMO}, eq. 7", 1e-14, 2e-6) for name, lam, g, bound in steps),
        case("bounds", "cubic_bounds", dict(zip(names, bounds, strict=True)), cubic_bounds(*bounds),
             f"{ELMO}, eqs. 3 and 4", 1e-14, 2e-6),
        case("row-sum-product", "row_sum", {"third": product, "vectors": [[1.0, 0.0], [0.0, 1.0]]},
             row_sum(product, [[1.0, 0.0], [0.0, 1.0]]), "|abc| <= (a^3 + b^3 + c^3)/3 for a, b, c >= 0"),
        case("row-sum-turned", "row_sum", {"third": mixed, "vectors": half}, row_sum(mixed, half),
             "|abc| <= (a^3 + b^3 + c^3)/3 for a, b, c >= 0"),
    ]  # fmt: skip


def in_all_directions() -> list[Case]:
    directions: list[tuple[str, dict[str, Any]]] = [
        ("four", {"hessian": FOUR, "gradient": [0.25, -1.25, 0.5, 0.875], "lipschitz": [0.5, 2.0, 0.125, 8.0]}),
        ("mixed", {"hessian": H, "gradient": [1.0, -0.5, 0.25, 2.0], "lipschitz": [4.0, 0.25, 1.0, 0.5]}),
        *((f"saddle-{name}", {"hessian": APART, "gradient": [0.0, 0.5, -0.25], "lipschitz": [0.5, 1.0, 2.0],
                              "tie": tie}) for name, tie in (("plus", 1), ("minus", -1))),
    ]  # fmt: skip
    regions: list[tuple[str, Any, Any, float]] = [
        ("regular", FOUR, [0.25, -1.25, 0.5, 0.875], 1.5), ("convex", [[4.0, 1.0], [1.0, 3.0]], [1.0, -2.0], 0.5),
        ("hard", APART, [0.0, 0.5, -0.25], 0.5), ("hard-but-long", APART, [0.0, 30.0, -12.0], 0.5),
        ("nearly-hard", APART, [2.0**-27, 0.5, -0.25], 0.5), ("no-gradient", APART, [0.0, 0.0, 0.0], 0.5),
        ("flat", [[0.0, 0.0], [0.0, 2.0]], [1.0, -1.0], 2.0), ("one", [[-3.0]], [0.5], 2.0),
    ]  # fmt: skip
    valley, wood, saddle = [-1.25, 1.0], [1.0, -1.5, -3.0, -3.0], [0.5, 0.25]
    plan: list[tuple[str, Any, str, list[float], int, dict[str, Any], str]] = [
        ("arc-rosenbrock", arc, "rosenbrock", valley, 8, {"name": "arc"}, f"{CARTIS}, algorithm 2.1"),
        ("arc-wood", arc, "wood", wood, 6, {"name": "arc", "initial_sigma": 8.0}, f"{CARTIS}, algorithm 2.1"),
        ("arc-saddle", arc, "coupled-saddle", saddle, 3, {"name": "arc"}, f"{CARTIS}, algorithm 2.1"),
        ("elmo-saddle", elmo, "coupled-saddle", saddle, 4, {"name": "elmo", "lipschitz": 4.0},
         f"{ELMO}, Algorithm 1"),
        ("elmo-safeguarded", elmo, "rosenbrock", valley, 8, {"name": "elmo", "lipschitz": 1.0, "safeguard": True},
         f"{ELMO}, Algorithm 1, with the rule of {CARTIS}"),
    ]  # fmt: skip
    return [
        *(case(f"direction-{name}", "elmo_direction", given, elmo_direction(**given), f"{ELMO}, Algorithm 1", 1e-13,
               1e-4) for name, given in directions),
        *(case(f"cubic-{name}", "cubic_step", {"matrix": h, "gradient": g, "sigma": sigma}, cubic_step(h, g, sigma),
               f"{CARTIS}, theorem 3.1", 1e-13, 1e-4) for name, h, g, sigma in regions),
        *(case(name, "run", {"problem": {"name": problem}, "method": method, "x0": x0, "steps": count},
               function(problem, x0, count, method), source, 1e-11, 1e-2)
          for name, function, problem, x0, count, method, source in plan),
    ]  # fmt: skip


def diagonals() -> list[Case]:
    knobs: dict[str, Any] = {"learning_rate": 0.0625, "beta1": 0.875, "beta2": 0.75, "rho": 0.125, "weight_decay": 0.5}
    start: dict[str, Any] = {"place": [0.5, -1.0, 0.25, 2.0], "gradient": [0.125, -0.25, 0.0625, 0.0]}
    nothing = [0.0] * 4
    later: dict[str, Any] = {
        "place": [0.5, -1.0, 0.25, 2.0], "gradient": [-0.5, 0.125, 0.25, 0.0], "mean": [0.25, -0.5, 0.125, 0.0],
        "curvature": [2.0, 8.0, 1.0, 4.0],
    }  # fmt: skip
    sophia = [
        ("first", {**start, "mean": nothing, "curvature": nothing, "sampled_gradient": None, "samples": 32}),
        ("renewed", {**later, "sampled_gradient": [0.5, 0.25, -0.125, 0.0], "samples": 32}),
        ("kept", {**later, "sampled_gradient": None, "samples": 32}),
    ]
    seen: dict[str, Any] = {
        "estimates": [[1.0, 2.0, 0.5], [1.5, 1.0, 0.5], [1.25, 1.75, 2.5], [1.25, 1.5, 2.25]],
        "places": [[0.0, 0.0, 0.0], [0.375, 0.0, 0.5], [0.375, 0.0, 0.5], [0.125, 0.25, 0.375]], "sizes": [2, 1],
        "alpha": 0.875, "epsilon2": 2.0**-40,
    }  # fmt: skip
    # One displacement of 5/8; the slope of group 1 is 2.4 without epsilon2: a threshold that is met exactly.
    exact: dict[str, Any] = {
        "estimates": [[1.0, 4.0], [2.25, 1.0]], "places": [[0.0, 0.0], [0.5, 0.0]], "sizes": [1, 1],
        "alpha": 0.0, "epsilon2": 0.0, "threshold": 2.5,
    }  # fmt: skip
    amos = [
        ("mean", {**seen, "threshold": 0.75}), ("max", {**seen, "threshold": 1.0, "aggregation": "max"}),
        ("strict", exact),
    ]  # fmt: skip
    return [
        *(case(f"sophia-{name}", "sophia_step", {**given, **knobs}, sophia_step(**given, **knobs),
               f"{SOPHIA}, algorithm 3", 1e-13, 1e-5) for name, given in sophia),
        *(case(f"amos-{name}", "amos_lipschitz", given, amos_lipschitz(**given), f"{ELMO}, Algorithm 2", 1e-13, 1e-5)
          for name, given in amos),
    ]  # fmt: skip


def elmo_cases() -> list[Case]:
    """Every case of the group."""
    return [*along_one(), *in_all_directions(), *diagonals()]
