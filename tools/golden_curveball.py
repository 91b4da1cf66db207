"""The golden vectors about CurveBall, Hessian-free optimization and what they are made of, from definitions.

Nothing is computed here the way the package does it. A step is the minimizer of the model over an orthonormal basis of
the plane, from which beta and rho are read off; conjugate gradients are a projection onto a Krylov space; a transition
matrix holds the images of the unit vectors; the best parameters solve the two conditions at the ends of the spectrum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as mp
from golden_calculus import Case, G, Vector, along, case, gradient, hessian, through_eigenvalues, unit
from golden_problems import formula
from golden_series import POSITIVE, inner, krylov

CURVEBALL, TINY = "CurveBall paper", mp.mpf(10) ** -40


# -- one step ---------------------------------------------------------------------------------------------------------


def minimizer(model: Any, slope: Any, directions: Sequence[Any]) -> Any:
    """The shortest s in the span of ``directions`` that minimizes slope·s + s·As/2, A positive definite there."""
    basis: list[Any] = []
    for d in directions:
        rest = mp.matrix(d)
        for q in [*basis, *basis]:
            rest = rest - inner(q, rest) * q
        if mp.norm(rest) > TINY * max(1, mp.norm(d)):
            basis.append(rest / mp.norm(rest))
    if not basis:
        return 0 * slope
    q = mp.matrix([list(b) for b in basis]).T
    return -q * mp.lu_solve(q.T * model * q, q.T * slope)


def saddle_free_minimizer(model: Any, slope: Any, dz: Any, z: Any) -> Any:
    """The same in the plane of dz and z with |A|, where the directions have been given |d·Ad| = 1."""
    scaled = [d / mp.sqrt(abs(inner(d, model * d))) for d in (dz, z) if mp.norm(d) > 0]
    plane = mp.matrix([list(d) for d in scaled]).T
    return -plane * through_eigenvalues(plane.T * model * plane, lambda h: 1 / abs(h)) * (plane.T * slope)


def coordinates(s: Any, dz: Any, z: Any) -> tuple[Any, Any] | None:
    """beta and rho of s = rho z - beta dz; None where dz and z are multiples of each other."""
    if mp.norm(z) == 0:
        return (-inner(s, dz) / inner(dz, dz), mp.mpf(0)) if mp.norm(dz) > 0 else (mp.mpf(0), mp.mpf(0))
    gram = mp.matrix([[inner(a, b) for b in (dz, z)] for a in (dz, z)])
    if abs(mp.det(gram)) <= TINY * gram[0, 0] * gram[1, 1]:
        return None
    minus_beta, rho = mp.lu_solve(gram, mp.matrix([inner(dz, s), inner(z, s)]))
    return -minus_beta, rho


def next_step(
    matrix: Any,
    slope: Any,
    z: Any,
    lam: Any,
    learning_rate: float | None = None,
    momentum: float | None = None,
    system: str = "damped",
    signed: bool = False,
) -> dict[str, Any]:
    """Algorithm 1 for a curvature matrix G and a gradient; ``signed``: G may be indefinite."""
    damped = matrix + mp.mpf(lam) * mp.eye(len(slope))
    dz, inside = damped * z + slope, damped if system == "damped" else matrix
    if learning_rate is not None and momentum is not None:
        s = mp.mpf(momentum) * z - mp.mpf(learning_rate) * dz
    elif momentum is not None:
        base = mp.mpf(momentum) * z
        s = base + minimizer(inside, slope + inside * base, [dz])
    elif learning_rate is not None:
        base = -mp.mpf(learning_rate) * dz
        s = base + minimizer(inside, slope + inside * base, [z])
    elif signed:
        s = saddle_free_minimizer(inside, slope, dz, z)
    else:
        s = minimizer(inside, slope, [dz, z])
    found = {"step": list(s), "predicted_change": inner(slope, s) + inner(s, damped * s) / 2}
    pair = coordinates(s, dz, z)
    return found if pair is None else {"learning_rate": pair[0], "momentum": pair[1], **found}


def step(
    jacobian: Any, output_hessian: Any, output_gradient: Any, step: Any, damping: Any, **knobs: Any
) -> dict[str, Any]:
    """One step from the parts of the loss in output space."""
    j = mp.matrix(jacobian)
    g, curved = j.T * mp.matrix(output_gradient), j.T * mp.matrix(output_hessian) * j
    return next_step(curved, g, mp.matrix(step), damping, **knobs)


def damping_rule(damping: Any, ratios: Any, omega: Any) -> Vector:
    """lam after each ratio."""
    lam, seen = mp.mpf(damping), []
    for ratio in ratios:
        lam = lam * mp.mpf(omega) if 2 * ratio > 3 else lam / mp.mpf(omega) if 2 * ratio < 1 else lam
        seen.append(lam)
    return seen


def plane_minimizer(matrix: Any, right: Any) -> Vector:
    """|A|^{-1} b in the directions scaled to a diagonal of ±1, eigenvalues of zero left out."""
    a, b = mp.matrix(matrix), mp.matrix(right)
    scale = mp.diag([1 / mp.sqrt(abs(a[i, i])) if a[i, i] != 0 else mp.mpf(1) for i in range(2)])
    inverse = through_eigenvalues(scale * a * scale, lambda h: 1 / abs(h) if abs(h) > TINY else mp.mpf(0))
    return list(scale * inverse * scale * b)


# -- conjugate gradients ----------------------------------------------------------------------------------------------


def truncated_cg(matrix: Any, gradient: Any, steps: int, start: Any = None, stopping: str = "residual") -> Any:
    """z: the minimizer of the model over the start plus a Krylov space of its residual, of growing dimension."""
    a, g = mp.matrix(matrix), mp.matrix(gradient)
    z = mp.matrix(start) if start is not None else 0 * g
    residual, size = -g - a * z, mp.norm(g)
    bound = min(mp.mpf(1) / 2, mp.sqrt(size)) * size if stopping == "residual" else TINY
    for m in range(steps + 1):
        q = krylov(a, list(residual), m) if m else None
        found = z if q is None else z + q * mp.lu_solve(q.T * a * q, q.T * residual)
        if mp.norm(g + a * found) <= bound:
            break
    return {"x": list(found), "model": inner(g, found) + inner(found, a * found) / 2}


# -- fixed parameters -------------------------------------------------------------------------------------------------


def transition_matrix(momentum: Any, scaled_rate: Any, rule: str) -> list[Any]:
    """The images of (y, x) = (1, 0) and (0, 1), as columns."""
    found = []
    for rho, rate in zip(momentum, scaled_rate, strict=True):
        columns = []
        for y, x in ((1, 0), (0, 1)):
            moved = mp.mpf(rho) * y - mp.mpf(rate) * (x + (y if rule == "curveball" else 0))
            columns.append([moved, x + moved])
        found.append(mp.matrix(columns).T.tolist())
    return found


def spectral_radius(momentum: Any, scaled_rate: Any, rule: str) -> Vector:
    """The largest modulus of an eigenvalue."""
    matrices = transition_matrix(momentum, scaled_rate, rule)
    return [max(abs(e) for e in mp.eig(mp.matrix(matrix), left=False, right=False)) for matrix in matrices]


def optimal_parameters(condition_number: float, rule: str) -> dict[str, Any]:
    """A double eigenvalue r at h_min and the eigenvalue -r at h_max: three equations for rho, beta h_min and r."""
    kappa, own = mp.mpf(condition_number), 1 if rule == "curveball" else 0

    def conditions(rho: Any, rate: Any, r: Any) -> tuple[Any, Any, Any]:
        # The eigenvalues of R have the product rho - own beta h and the sum 1 - beta h + that product.
        product, far = rho - own * rate, rho - own * kappa * rate
        return product - r**2, 1 - rate + product - 2 * r, r**2 + r * (1 - kappa * rate + far) + far

    guess = (1 - 2 / mp.sqrt(kappa), (2 if own else 4) / (kappa + 5), 1 - (1 if own else 2) / mp.sqrt(kappa + 2))
    rho, rate, r = mp.findroot(conditions, guess, maxsteps=200)
    return {"momentum": rho, "scaled_learning_rate": rate, "rate": r}


# -- runs -------------------------------------------------------------------------------------------------------------


def residuals(problem: str) -> Callable[[Vector], Vector]:
    """The residuals r of a loss r·r."""
    if problem == "rosenbrock":
        return lambda x: [1 - x[0], 10 * (x[1] - x[0] ** 2)]
    root = mp.sqrt
    return lambda x: [
        10 * (x[1] - x[0] ** 2), 1 - x[0], root(90) * (x[3] - x[2] ** 2), 1 - x[2], root(10) * (x[1] + x[3] - 2),
        (x[1] - x[3]) / root(10),
    ]  # fmt: skip


def curvature(problem: str, f: Callable[[Vector], Any], x: Vector, kind: str) -> Any:
    """The Hessian, or 2 J^T J."""
    if kind == "hessian":
        return mp.matrix(hessian(f, x))
    columns = mp.matrix([along(residuals(problem), x, unit(len(x), i)) for i in range(len(x))])
    return 2 * columns * columns.T


def curveball(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """Places after each step."""
    f, x, lam = formula({"name": problem}), mp.matrix(x0), mp.mpf(knobs["initial_damping"])
    z, places = 0 * x, []
    given = {key: knobs[key] for key in ("learning_rate", "momentum", "system") if key in knobs}
    for t in range(steps):
        kind = knobs.get("curvature", "gauss-newton")
        g = mp.matrix(gradient(f, list(x)))
        found = next_step(curvature(problem, f, list(x), kind), g, z, lam, **given, signed=kind == "hessian")
        z, before = mp.matrix(found["step"]), f(list(x))
        x = x + z
        if knobs["adapt_every"] and t % knobs["adapt_every"] == 0:
            lam = damping_rule(lam, [(f(list(x)) - before) / found["predicted_change"]], knobs["omega"])[0]
        places.append(list(x))
    return places


def hessian_free(problem: str, x0: Sequence[float], steps: int, knobs: dict[str, Any]) -> list[Vector]:
    """The same for Newton steps of the damped model, cut in half until the loss falls enough."""
    f, x, lam, places = formula({"name": problem}), mp.matrix(x0), mp.mpf(knobs["initial_damping"]), []
    for _ in range(steps):
        g, before = mp.matrix(gradient(f, list(x))), f(list(x))
        damped = curvature(problem, f, list(x), "gauss-newton") + lam * mp.eye(len(x))
        z, t = mp.lu_solve(damped, -g), mp.mpf(1)
        ratio = (f(list(x + z)) - before) / (inner(g, z) / 2)
        while f(list(x + t * z)) > before + t * inner(g, z) / 10000:
            t = t / 2
        lam = lam * mp.mpf(knobs["omega"]) if 4 * ratio > 3 else lam / mp.mpf(knobs["omega"]) if 4 * ratio < 1 else lam
        x = x + t * z
        places.append(list(x))
    return places


# -- cases ------------------------------------------------------------------------------------------------------------

J = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 0.0, 1.0], [-1.0, 1.5, 0.25]]
SQUARES = [[2.0 * (i == k) for k in range(4)] for i in range(4)]
MIXED = [[0.75, -0.25, 0.0, 0.125], [-0.25, 1.5, 0.5, 0.0], [0.0, 0.5, 0.5, -0.25], [0.125, 0.0, -0.25, 1.0]]
SLOPE, Z = [-3.25, 11.0, 1.75, -7.0], [0.125, 0.3125, -0.25]


def steps() -> list[Case]:
    squares = {"jacobian": J, "output_hessian": SQUARES, "output_gradient": SLOPE, "step": Z, "damping": 0.5}
    mixed = {**squares, "output_hessian": MIXED, "damping": 2.0}
    flat = {**squares, "jacobian": [[1.0, 2.0, -0.5]], "output_hessian": [[1.5]], "output_gradient": [2.0]}
    round_ = {**squares, "jacobian": [[1.0, 0.0], [0.0, 1.0]], "output_hessian": [[2.0, 0.0], [0.0, 2.0]],
              "output_gradient": [1.0, -2.0]}  # fmt: skip
    plan: list[tuple[str, dict[str, Any], str]] = [
        ("ordinary", squares, f"{CURVEBALL}, eq. 18 with lam in the matrix"),
        ("other-loss", mixed, f"{CURVEBALL}, eq. 18 with lam in the matrix"),
        ("first", {**squares, "step": [0.0] * 3}, f"{CURVEBALL}, eq. 18 with z = 0"),
        ("heavily-damped", {**mixed, "damping": 32.0}, f"{CURVEBALL}, eq. 18 with lam in the matrix"),
        ("singular-curvature", {**flat, "damping": 2.0}, "a singular G, which lam makes regular"),
        ("two-dimensions", {**squares, "jacobian": [row[:2] for row in J], "step": Z[:2]},
         "the plane is all of space: the step of Levenberg (1944)"),
        ("collinear", {**round_, "step": [0.5, -1.0]}, "z and dz are multiples of each other"),
        ("nothing", {**round_, "output_gradient": [0.0, 0.0], "step": [0.0, 0.0]}, "definition"),
        ("printed", {**squares, "system": "printed"}, f"{CURVEBALL}, eq. 18 as printed"),
        ("printed-other-loss", {**mixed, "system": "printed"}, f"{CURVEBALL}, eq. 18 as printed"),
        ("fixed", {**squares, "learning_rate": 0.03125, "momentum": 0.75}, f"{CURVEBALL}, Algorithm 1"),
        ("fixed-other-loss", {**mixed, "learning_rate": 0.0625, "momentum": 0.5}, f"{CURVEBALL}, Algorithm 1"),
        ("momentum-one", {**squares, "momentum": 1.0}, f"{CURVEBALL}, appendix B, without momentum parameter"),
        ("momentum-given", {**mixed, "momentum": 0.75}, "the best beta for this rho"),
        ("rate-given", {**mixed, "learning_rate": 0.03125}, "the best rho for this beta"),
    ]  # fmt: skip

    return [
        case(f"step-{name}", "curveball_step", inputs, step(**inputs), source, 5e-12, 2e-4)
        for name, inputs, source in plan
    ]


def parts() -> list[Case]:
    ratios = [1.0, 0.5, 1.5, 1.625, 0.375, -1.0, 4.0, 0.75, 1.25, 1.75]
    planes: list[tuple[str, Any, Any]] = [
        ("definite", [[2.0, 1.0], [1.0, 2.0]], [3.0, 1.0]), ("collinear", [[1.0, 2.0], [2.0, 4.0]], [1.0, 2.0]),
        ("one-direction", [[2.0, 0.0], [0.0, 0.0]], [3.0, 0.0]), ("none", [[0.0, 0.0], [0.0, 0.0]], [0.0, 0.0]),
        ("indefinite", [[4.0, 6.0], [6.0, 1.0]], [1.0, -0.5]), ("negative", [[-2.0, 0.5], [0.5, -1.0]], [1.0, 2.0]),
        ("between", [[0.0, 2.0], [2.0, 0.0]], [3.0, 1.0]), ("lengths", [[1048576.0, 512.0], [512.0, 1.0]], [64.0, 1.0]),
    ]  # fmt: skip
    small, start = [a / 64 for a in G], [0.25, -0.5, 0.0, 0.125]
    solves: list[tuple[str, dict[str, Any]]] = [
        *((f"never-{m}", {"steps": m, "stopping": "never"}) for m in (1, 2, 4)),
        ("residual", {"steps": 4}), ("residual-small", {"steps": 4, "gradient": small}),
        ("warm-2", {"steps": 2, "start": start, "stopping": "never"}),
        ("warm-residual", {"steps": 4, "start": start, "gradient": small}),
    ]  # fmt: skip
    rho, rate = [0.875, 0.875, 1.0, 1.0, 0.5, 0.0, 1.25], [0.125, 0.0009765625, 0.5, 1.25, 0.96875, 0.5, 0.0625]
    rules = ("curveball", "heavy-ball")
    stability = {"momentum": rho, "scaled_rate": rate}
    return [
        case("damping-rule", "curveball_damping", {"damping": 1.0, "ratios": ratios, "omega": 0.75},
             damping_rule(1.0, ratios, 0.75), f"{CURVEBALL}, section 3, strict comparisons"),
        *(case(f"plane-{name}", "plane_minimizer", {"matrix": a, "right": b}, plane_minimizer(a, b),
               f"{CURVEBALL}, eqs. 18 and 25; the saddle-free rule where the plane is indefinite", 1e-13, 1e-5)
          for name, a, b in planes),
        *(case(f"cg-{name}", "truncated_cg", {"matrix": POSITIVE, "gradient": G, **knobs},
               truncated_cg(**{"matrix": POSITIVE, "gradient": G, **knobs}), "Hestenes & Stiefel (1952)", 1e-12)
          for name, knobs in solves),
        *(case(f"transition-matrix-{rule}", "transition_matrix", {**stability, "rule": rule},
               transition_matrix(**stability, rule=rule), source)
          for rule, source in zip(rules, (f"{CURVEBALL}, eq. 36", "Polyak (1964)"), strict=True)),
        *(case(f"spectral-radius-{rule}", "spectral_radius", {**stability, "rule": rule},
               spectral_radius(**stability, rule=rule), source)
          for rule, source in zip(rules, (f"{CURVEBALL}, eqs. 38 and 41", "Polyak (1964)"), strict=True)),
        *(case(f"optimal-{rule}-{kappa:g}", "optimal_parameters", {"condition_number": kappa, "rule": rule},
               optimal_parameters(kappa, rule), source, 1e-12)
          for rule, source in zip(rules, ("a double eigenvalue at h_min and its negative at h_max", "Polyak (1964)"),
                                  strict=True)
          for kappa in (4.0, 100.0, 16384.0)),
    ]  # fmt: skip


def runs() -> list[Case]:
    valley, wood = [-1.25, 1.0], [-3.0, -1.0, -3.0, -1.0]
    own, free = {"name": "curveball", "omega": 0.5}, {"name": "hessian-free", "stopping": "never", "omega": 0.5}
    plan: list[tuple[str, Any, str, list[float], int, dict[str, Any], str, float, float]] = [
        ("curveball-rosenbrock", curveball, "rosenbrock", valley, 5,
         {**own, "initial_damping": 8.0, "adapt_every": 2}, f"{CURVEBALL}, Algorithm 1", 1e-11, 1e-2),
        ("curveball-wood", curveball, "wood", wood, 6, {**own, "initial_damping": 16.0, "adapt_every": 1},
         f"{CURVEBALL}, Algorithm 1", 1e-11, 1e-2),
        ("curveball-printed", curveball, "wood", wood, 4,
         {**own, "initial_damping": 4.0, "adapt_every": 3, "system": "printed"}, f"{CURVEBALL}, eq. 18 as printed",
         1e-11, 1e-2),
        ("curveball-fixed", curveball, "rosenbrock", valley, 5,
         {**own, "initial_damping": 0.25, "adapt_every": 0, "learning_rate": 2.0**-10, "momentum": 0.75},
         f"{CURVEBALL}, Algorithm 1", 1e-12, 1e-4),
        ("curveball-momentum-one", curveball, "wood", wood, 5,
         {**own, "initial_damping": 4.0, "adapt_every": 2, "momentum": 1.0}, f"{CURVEBALL}, appendix B", 1e-12, 1e-3),
        ("curveball-hessian-saddle", curveball, "coupled-saddle", [0.5, 0.25], 4,
         {**own, "initial_damping": 0.0625, "adapt_every": 3, "curvature": "hessian"},
         f"{CURVEBALL}, Algorithm 1 with the saddle-free rule in the plane", 1e-11, 1e-3),
        ("hessian-free-wood", hessian_free, "wood", wood, 5, {**free, "initial_damping": 2.0, "products": 12},
         "Martens (2010); Nocedal & Wright (2006), eq. 3.4", 1e-11, 1e-2),
        ("hessian-free-rosenbrock", hessian_free, "rosenbrock", valley, 6,
         {**free, "initial_damping": 0.5, "products": 6}, "Martens (2010); Nocedal & Wright (2006), eq. 3.4",
         1e-11, 1e-2),
    ]  # fmt: skip
    return [
        case(name, "run", {"problem": {"name": problem}, "method": method, "x0": x0, "steps": count},
             function(problem, x0, count, method), source, rtol, low)
        for name, function, problem, x0, count, method, source, rtol, low in plan
    ]  # fmt: skip


def curveball_cases() -> list[Case]:
    """Every case of the group."""
    return [*steps(), *parts(), *runs()]
