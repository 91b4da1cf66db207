"""The golden vectors about methods: their recursions, written down from the sources."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
from golden_calculus import DAUPHIN, SERIES, Case, G, H, Vector, case, gradient, hessian, through_eigenvalues
from golden_problems import formula
from golden_series import accelerate, inner, lanczos_direction, partial_sums, scale_ratio


def trajectory(
    problem: dict[str, Any], x0: Sequence[float], steps: int, move: Callable[[Any, Vector], Vector]
) -> list[Vector]:
    """Places after each step of ``move(loss, x) -> the vector that is subtracted from x``."""
    f, x, places = formula(problem), [mp.mpf(a) for a in x0], []
    for _ in range(steps):
        x = [a - b for a, b in zip(x, move(f, x), strict=True)]
        places.append(x)
    return places


def heavy_ball(prepare: Callable[[Any, Vector], Vector], rate: float, momentum: float, nesterov: bool = False) -> Any:
    velocity: Vector = []

    def move(f: Any, x: Vector) -> Vector:
        push = [mp.mpf(rate) * a for a in prepare(f, x)]
        velocity[:] = [mp.mpf(momentum) * v + p for v, p in zip(velocity or [0] * len(x), push, strict=True)]
        if nesterov:
            return [p + mp.mpf(momentum) * v for p, v in zip(push, velocity, strict=True)]
        return list(velocity)

    return move


def adam(learning_rate: float, beta1: float, beta2: float, epsilon: float, weight_decay: float = 0.0) -> Any:
    kept: dict[str, Any] = {"m": None, "s": None, "t": 0}

    def move(f: Any, x: Vector) -> Vector:
        g, b1, b2 = gradient(f, x), mp.mpf(beta1), mp.mpf(beta2)
        kept["t"] += 1
        kept["m"] = [b1 * m + (1 - b1) * a for m, a in zip(kept["m"] or [0] * len(x), g, strict=True)]
        kept["s"] = [b2 * s + (1 - b2) * a * a for s, a in zip(kept["s"] or [0] * len(x), g, strict=True)]
        mean = [m / (1 - b1 ** kept["t"]) for m in kept["m"]]
        scale = [mp.sqrt(s / (1 - b2 ** kept["t"])) + mp.mpf(epsilon) for s in kept["s"]]
        shrink = [mp.mpf(learning_rate) * mp.mpf(weight_decay) * a for a in x]
        return [c + mp.mpf(learning_rate) * m / s for c, m, s in zip(shrink, mean, scale, strict=True)]

    return move


def adaptive_saddle_free(damping: float, ema: float, omega: float) -> Any:
    """Averaged curvature preconditions, the curvature here decides learning rate, momentum and damping."""
    kept: dict[str, Any] = {"c": None, "d": None, "lam": mp.mpf(damping)}

    def move(f: Any, x: Vector) -> Vector:
        g, here, lam = mp.matrix(gradient(f, x)), mp.matrix(hessian(f, x)), kept["lam"]
        kept["c"] = here if kept["c"] is None else mp.mpf(ema) * kept["c"] + (1 - mp.mpf(ema)) * here
        u = through_eigenvalues(kept["c"], lambda h: 1 / (abs(h) + lam)) * g
        model = through_eigenvalues(here, lambda h: abs(h) + lam)
        eta, mu = rate_and_momentum(model, u, kept["d"], g)
        step = eta * u + (mu * kept["d"] if kept["d"] is not None else 0 * u)
        predicted = (step.T * model * step)[0] / 2 - (g.T * step)[0]
        moved = [a - b for a, b in zip(x, step, strict=True)]
        kept["lam"] = damped(lam, (f(moved) - f(x)) / predicted, omega)
        kept["d"] = step
        return list(step)

    return move


def rate_and_momentum(model: Any, u: Any, d: Any, g: Any) -> tuple[Any, Any]:
    """Minimize -g·s + s·As/2 over s = eta u + mu d."""
    if d is None:
        return (g.T * u)[0] / (u.T * model * u)[0], mp.mpf(0)
    left = mp.matrix([[(a.T * model * b)[0] for b in (u, d)] for a in (u, d)])
    eta, mu = mp.lu_solve(left, mp.matrix([(g.T * u)[0], (g.T * d)[0]]))
    return eta, mu


def damped(lam: Any, ratio: Any, omega: float, minimum: float = 1e-8) -> Any:
    if ratio is not None and ratio > mp.mpf(3) / 4:
        lam = lam * mp.mpf(omega)
    elif ratio is not None and ratio < mp.mpf(1) / 4:
        lam = lam / mp.mpf(omega)
    return max(lam, mp.mpf(minimum))


def series_saddle_free(knobs: dict[str, Any]) -> Any:
    """V from the largest |H^2 g|/|g| so far, then the accelerated sum over sqrt(V). One term: V stays."""
    terms, kept = knobs["terms"], {"v": mp.mpf(knobs["scale"])}
    bare = knobs["mode"] == "none" or (terms == 1 and knobs["first_term"] == "undamped")

    def direction(f: Any, x: Vector, lam: Any = None) -> Vector:
        g, h = gradient(f, x), hessian(f, x)
        if terms > 1:
            kept["v"] = scale_ratio(h, g, mp.mpf(knobs["scale_decay"]) * kept["v"])
        rule = {} if bare else {"mode": knobs["mode"], "damping": knobs["damping"] if lam is None else lam}
        sums = partial_sums(h, g, terms, kept["v"], **rule)
        return [entry / mp.sqrt(kept["v"]) for entry in accelerate(sums, knobs["accelerate"], knobs["order"])]

    return direction


def adaptive_series(knobs: dict[str, Any]) -> Any:
    """Steps of length one, all taken; the damping by the model -g·s + s·As/2 with As = g."""
    direction, kept = series_saddle_free(knobs), {"lam": mp.mpf(knobs["initial_damping"])}

    def move(f: Any, x: Vector) -> Vector:
        step = direction(f, x, kept["lam"])
        predicted = -inner(mp.matrix(gradient(f, x)), mp.matrix(step)) / 2
        moved = [a - b for a, b in zip(x, step, strict=True)]
        kept["lam"] = damped(kept["lam"], (f(moved) - f(x)) / predicted, knobs["omega"])
        return step

    return move


def lanczos_saddle_free(knobs: dict[str, Any]) -> Any:
    """The direction in the Krylov space; no step where the loss rises by more than the model says it should fall."""
    kept = {"lam": mp.mpf(knobs["initial_damping"])}

    def move(f: Any, x: Vector) -> Vector:
        g, h, lam = gradient(f, x), hessian(f, x), kept["lam"]
        step = mp.mpf(knobs["learning_rate"]) * mp.matrix(
            lanczos_direction(h, g, knobs["products"], knobs["mode"], lam)
        )
        predicted = inner(step, mp.matrix(h) * step) / 2 - inner(mp.matrix(g), step)
        change = f([a - b for a, b in zip(x, step, strict=True)]) - f(x)
        refused = change > abs(predicted)
        kept["lam"] = 2 * lam if refused else min(damped(lam, change / predicted, knobs["omega"]), knobs["damping_cap"])
        return [0 * a if refused else a for a in step]

    return move


def newton_like(f: Any, x: Vector, rule: Callable[[Any], Any]) -> Vector:
    return list(through_eigenvalues(hessian(f, x), rule) * mp.matrix(gradient(f, x)))


def methods() -> list[Case]:
    quadratic = {"name": "quadratic", "hessian": H, "linear": G}
    figure1 = {"name": "quadratic", "hessian": [[4.0, 2.0], [2.0, -2.0]]}
    valley, horse, coupled, wood = ({"name": n} for n in ("rosenbrock", "horse-saddle", "coupled-saddle", "wood"))
    rate = 0.0009765625

    def saddle_free(f: Any, x: Vector) -> Vector:
        return newton_like(f, x, lambda h: 1 / abs(h))

    def damped_newton(f: Any, x: Vector) -> Vector:
        return newton_like(f, x, lambda h: 1 / (h + 1))

    def levenberg(f: Any, x: Vector) -> Vector:
        jacobian = mp.matrix([[-1, 0], [-20 * x[0], 10]])
        left = 2 * jacobian.T * jacobian + mp.eye(2)
        return list(mp.lu_solve(left, mp.matrix(gradient(f, x))))

    def momentum_on_saddle_free() -> Any:
        return heavy_ball(saddle_free, 0.75, 0.5)

    descend = {"learning_rate": rate}
    inertia = {**descend, "momentum": 0.75}
    adam_knobs = {"learning_rate": 0.0625, "beta1": 0.875, "beta2": 0.96875, "epsilon": 2.0**-20}
    series = {"name": "series-sfn", "scale_rule": "ratio", "scale_decay": 1.0, "guard": False, "first_term": "damped"}
    published = {**series, "terms": 6, "order": 1, "accelerate": "sablonniere", "mode": "none", "scale": 16.0}
    released = {**series, "terms": 9, "order": 3, "accelerate": "shanks", "mode": "abs", "damping": 0.25,
                "scale": 4.0, "first_term": "undamped"}  # fmt: skip
    square = {**series, "terms": 7, "order": 2, "accelerate": "sablonniere", "mode": "square", "damping": 0.5,
              "scale": 4.0, "scale_decay": 0.5}  # fmt: skip
    adaptive = {**released, "name": "adaptive-series-sfn", "terms": 5, "order": 2, "scale": 1.0,
                "initial_damping": 0.125, "omega": 0.75, "solve": "released", "accept": "always"}  # fmt: skip
    del adaptive["damping"]
    lanczos = {"name": "lanczos-sfn", "products": 2, "mode": "abs", "initial_damping": 0.25, "learning_rate": 1.0,
               "omega": 0.5, "damping_cap": 64.0, "accept": "bounded"}  # fmt: skip
    inertia_of_series = {"learning_rate": 0.75, "momentum": 0.5}

    def moves(knobs: dict[str, Any], rate: float = 1.0, momentum: float = 0.0) -> Any:
        return heavy_ball(series_saddle_free(knobs), rate, momentum)

    plan: list[tuple[str, dict[str, Any], dict[str, Any], list[float], int, Any, str, float, float]] = [
        ("newton-quadratic", {"name": "newton"}, quadratic, [0.0] * 4, 1,
         lambda f, x: newton_like(f, x, lambda h: 1 / h), "Nocedal & Wright (2006), eq. 2.15", 1e-12, 1e-4),
        ("newton-rosenbrock", {"name": "newton"}, valley, [0.5, 2.0], 3,
         lambda f, x: newton_like(f, x, lambda h: 1 / h), "Nocedal & Wright (2006), eq. 2.15", 1e-12, 1e-4),
        ("damped-newton-shift", {"name": "damped-newton", "damping": 1.0}, valley, [-1.25, 1.0], 3, damped_newton,
         "Levenberg (1944)", 1e-12, 1e-3),
        ("levenberg-marquardt", {"name": "levenberg-marquardt", "damping": 1.0, "increase": 1.0, "decrease": 1.0},
         valley, [-1.25, 1.0], 1, levenberg, "Levenberg (1944)", 1e-12, 1e-4),
        ("saddle-free-horse", {"name": "saddle-free-newton"}, horse, [1.5, 1.5], 2, saddle_free,
         "KryBall thesis, sec. 4: one step from (1.5, 1.5) leads to (0, 3)", 1e-13, 1e-6),
        ("saddle-free-figure-1", {"name": "saddle-free-newton"}, figure1, [-0.75, -0.75], 1, saddle_free,
         f"{SERIES}, quadratic and start of figure 1", 1e-13, 1e-5),
        ("saddle-free-coupled", {"name": "saddle-free-newton"}, coupled, [0.0, 0.125], 4, saddle_free,
         f"{SERIES}, eqs. 84 and 87", 1e-12, 1e-4),
        ("saddle-free-rosenbrock", {"name": "saddle-free-newton"}, valley, [0.5, 2.0], 3, saddle_free,
         f"{DAUPHIN}, algorithm 1", 1e-12, 1e-4),
        ("saddle-free-wood", {"name": "saddle-free-newton"}, wood, [-3.0, -1.0, -3.0, -1.0], 3, saddle_free,
         f"{DAUPHIN}, algorithm 1", 1e-12, 1e-3),
        ("saddle-free-momentum", {"name": "saddle-free-newton", "learning_rate": 0.75, "momentum": 0.5}, figure1,
         [-0.75, -0.75], 3, momentum_on_saddle_free(), f"{SERIES}, exact method of sec. 4", 1e-12, 1e-5),
        ("adaptive-saddle-free", {"name": "adaptive-saddle-free-newton", "initial_damping": 0.5, "ema": 0.75,
                                  "omega": 0.75}, coupled, [0.5, 0.75], 5, adaptive_saddle_free(0.5, 0.75, 0.75),
         f"{SERIES}, appendix A.4, eqs. 6-8 with the weights of eq. 6 the right way round", 1e-11, 1e-3),
        ("gradient-descent", {"name": "gradient-descent", **descend}, valley, [-1.25, 1.0], 4,
         heavy_ball(gradient, rate, 0.0), "definition", 1e-13, 1e-5),
        ("heavy-ball", {"name": "heavy-ball", **inertia}, valley, [-1.25, 1.0], 4,
         heavy_ball(gradient, rate, 0.75), "Polyak (1964)", 1e-13, 1e-5),
        ("nesterov", {"name": "nesterov", **inertia}, valley, [-1.25, 1.0], 4,
         heavy_ball(gradient, rate, 0.75, nesterov=True), "Sutskever et al. (2013), appendix A.1", 1e-13, 1e-5),
        ("adam", {"name": "adam", **adam_knobs}, valley, [-1.25, 1.0], 4, adam(**adam_knobs),
         "Kingma & Ba (2015), algorithm 1", 1e-13, 1e-5),
        ("adamw", {"name": "adamw", **adam_knobs, "weight_decay": 0.125}, valley, [-1.25, 1.0], 4,
         adam(**adam_knobs, weight_decay=0.125), "Loshchilov & Hutter (2019), algorithm 2", 1e-13, 1e-5),
        ("series-sfn-published", {**published, **inertia_of_series}, figure1, [-0.75, -0.75], 3,
         moves(published, 0.75, 0.5), f"{SERIES}, algorithm 1 with K = 6, N = 1", 1e-12, 1e-4),
        ("series-sfn-released", {**released, **inertia_of_series}, quadratic, [0.0] * 4, 3,
         moves(released, 0.75, 0.5), f"{SERIES}, released code: weights of Shanks, damping of |H|", 1e-12, 1e-4),
        ("series-sfn-one-term", {**released, "terms": 1, "order": 0, **inertia_of_series}, coupled, [0.5, 0.75], 3,
         moves({**released, "terms": 1, "order": 0}, 0.75, 0.5), f"{SERIES}, released code with K = 1", 1e-13, 1e-5),
        ("series-sfn-square", square, coupled, [0.5, 0.75], 4, moves(square),
         f"{SERIES}, algorithm 1 with H^2 + d^2 for H^2 and a V that may fall", 1e-12, 1e-4),
        ("adaptive-series-sfn-released", adaptive, {"name": "double-well", "n": 2}, [0.125, 0.5], 5,
         adaptive_series(adaptive), f"{SERIES}, released code, eq. 8", 1e-12, 1e-4),
        *((f"lanczos-sfn-{name}", {**lanczos, **knobs}, problem, x0, 6, lanczos_saddle_free({**lanczos, **knobs}),
           "Dauphin et al. (2014) in a Krylov space; Martens & Grosse (2015), sec. 6.5", 1e-12, 1e-4)
          for name, knobs, problem, x0 in (
              ("2-of-4", {}, wood, [-3.0, -1.0, -3.0, -1.0]),
              ("2-of-4-square", {"mode": "square", "learning_rate": 0.75}, quadratic, [0.0] * 4),
              ("full", {"damping_cap": 0.375}, valley, [-1.0, 2.0]),
              ("full-square", {"mode": "square"}, valley, [0.5, 0.5]))),
    ]  # fmt: skip
    runs = [
        case(name, "run", {"problem": problem, "method": method, "x0": x0, "steps": steps},
             trajectory(problem, x0, steps, move), source, rtol, low)
        for name, method, problem, x0, steps, move, source, rtol, low in plan
    ]  # fmt: skip
    return [*runs, *adaptive_parts()]


def adaptive_parts() -> list[Case]:
    model = [[2.0, 0.5, 0.0, 0.0], [0.5, 1.0, 0.25, 0.0], [0.0, 0.25, 1.5, -0.5], [0.0, 0.0, -0.5, 3.0]]
    u, d = [1.0, -0.5, 0.25, 0.5], [-0.125, 0.25, -0.5, 0.0]
    as_columns = [mp.matrix(v) for v in (u, d, G)]
    both = rate_and_momentum(mp.matrix(model), *as_columns)
    alone = rate_and_momentum(mp.matrix(model), as_columns[0], None, as_columns[2])
    given = {"model": model, "direction": u, "gradient": G}
    source = f"{SERIES}, eq. 7; Martens & Grosse (2015), sec. 7"

    ratios: list[float | None] = [0.8, 0.76, 0.75, 0.5, 0.25, 0.2, -1.0, None, 0.9]
    lam, seen = mp.mpf(1), []
    for ratio in ratios:
        lam = damped(lam, ratio, 0.9)
        seen.append(lam)
    first, later = [[1.0, 0.0], [0.0, -1.0]], [[[3.0, 1.0], [1.0, 1.0]], [[0.0, 2.0], [2.0, -2.0]]]
    average, averages = mp.matrix(first), []
    for matrix in later:
        average = mp.mpf("0.75") * average + mp.mpf("0.25") * mp.matrix(matrix)
        averages.append(average.tolist())
    return [
        case("learning-rate-and-momentum", "learning_rate_and_momentum", {**given, "previous": d}, both, source),
        case("learning-rate-first-step", "learning_rate_and_momentum", {**given, "previous": [0.0] * 4}, alone, source),
        case("damping-rule", "adapt_damping", {"damping": 1.0, "ratios": ratios, "omega": 0.9, "minimum": 1e-8}, seen,
             f"{SERIES}, eq. 8, strict comparisons"),
        case("curvature-average", "average_curvature", {"ema": 0.75, "first": first, "later": later}, averages,
             f"{SERIES}, eq. 6 with the weights the right way round"),
    ]  # fmt: skip
