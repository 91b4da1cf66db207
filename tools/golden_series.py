"""The golden vectors about the series, its accelerators and Krylov methods: definitions, in dense arithmetic.

Nothing is computed here the way the package does it. Coefficients come from dividing power series, sums from powers of
a dense matrix, the epsilon table is kept whole, Levin's rule solves the linear system that it stands for, and Krylov
methods project onto an orthonormal basis of g, Hg, H^2 g, …. The inputs are exact in float32 too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp
from golden_calculus import SERIES, Case, G, H, Vector, case, through_eigenvalues

TINY = mp.mpf(10) ** -40
WEIGHTS: dict[str, Callable[[int], int]] = {
    "shanks": lambda c: 1,
    "sablonniere": lambda c: c // 2 + 1,
    "vector-rho": lambda c: c,
    "topological-epsilon": lambda c: 1,
    "topological-rho": lambda c: c,
}


# -- the series -------------------------------------------------------------------------------------------------------


def coefficients(terms: int, damping: Any) -> Vector:
    """The first coefficients of 1 / (sqrt(1 - z) + d): one power series divided by another."""
    below = [(-1) ** k * mp.binomial(mp.mpf(1) / 2, k) for k in range(terms)]
    below[0] += mp.mpf(damping)
    c: Vector = []
    for k in range(terms):
        c.append((int(k == 0) - sum(below[j] * c[k - j] for j in range(1, k + 1))) / below[0])
    return c


def partial_sums(
    matrix: Any, gradient: Any, terms: int, scale: Any, mode: str = "none", damping: Any = 0
) -> list[Vector]:
    """s_0 … s_{K-1}, not divided by sqrt(V), from powers of the dense matrix Z."""
    h, one, d = mp.matrix(matrix), mp.eye(len(gradient)), mp.mpf(damping)
    squared = {"square": h * h + d**2 * one, "shift": (h + d * one) ** 2}.get(mode, h * h)
    z = one - squared / mp.mpf(scale)
    total, sums = mp.zeros(len(gradient), 1), []
    for k, c in enumerate(coefficients(terms, d / mp.sqrt(scale) if mode == "abs" else 0)):
        total = total + c * z**k * mp.matrix(gradient)
        sums.append(list(total))
    return sums


def direction(matrix: Any, gradient: Any, terms: int, scale: Any, mode: str = "none", damping: Any = 0) -> Vector:
    """The last sum divided by sqrt(V)."""
    return [entry / mp.sqrt(scale) for entry in partial_sums(matrix, gradient, terms, scale, mode, damping)[-1]]


# -- accelerators -----------------------------------------------------------------------------------------------------


def accelerate(sums: Any, method: str, order: int) -> Vector:
    """The accelerated limit, from the last rows of ``sums``."""
    rows = [mp.matrix(row) for row in sums]
    if order == 0:
        return list(rows[-1])
    if method in WEIGHTS:
        return list(epsilon(rows[-2 * order - 1 :], WEIGHTS[method], method.startswith("topological")))
    if method.startswith("levin"):
        return levin(rows[-order - 2 :], max(len(rows) - order - 2, 1), shared=method == "levin-t")
    return list(three_terms(*rows[-3:], hybrid=method == "pade-hybrid"))


def epsilon(rows: list[Any], weight: Callable[[int], int], topological: bool) -> Any:
    """The corner of the whole table e[m, c], column by column. An even column that stands still is the limit."""
    last, y = len(rows) - 1, rows[1] - rows[0]
    e: dict[tuple[int, int], Any] = {(m, -1): 0 * y for m in range(last + 2)} | {(m, 0): r for m, r in enumerate(rows)}
    for c in range(1, last + 1):
        for m in range(last + 1 - c):
            d = e[m + 1, c - 1] - e[m, c - 1]
            if c % 2 == 1 and mp.norm(d) < TINY * mp.norm(e[m, c - 1]):
                return e[m, c - 1]
            step = d if not topological else y if c % 2 == 1 else e[m + 2, c - 2] - e[m + 1, c - 2]
            e[m, c] = e[m + 1, c - 2] + weight(c) * step / inner(step, d)
    return e[0, last]


def levin(rows: list[Any], start: int, *, shared: bool) -> Vector:
    """Entry by entry the S of s_n = S + r_n (b_0 + b_1/n + … + b_{N-1}/n^{N-1}), r_n = s_{n+1} - s_n or its largest."""
    order, limit = len(rows) - 2, []
    remainders = [rows[j + 1] - rows[j] for j in range(order + 1)]
    if all(mp.norm(r) == 0 for r in remainders):
        return list(rows[-1])
    for i in range(len(rows[0])):
        r = [max(remainder, key=abs) if shared else remainder[i] for remainder in remainders]
        model = [[1, *(r[j] / mp.mpf(start + j) ** p for p in range(order))] for j in range(order + 1)]
        limit.append(mp.lu_solve(mp.matrix(model), mp.matrix([rows[j][i] for j in range(order + 1)]))[0])
    return limit


def three_terms(s0: Any, s1: Any, s2: Any, *, hybrid: bool) -> Any:
    """Aitken's rule for vectors in the two forms that are called Padé."""
    d0, d1 = s1 - s0, s2 - s1
    above, below = (inner(d0, d1), inner(d1, d1 - d0)) if hybrid else (inner(d0, d0), inner(d0, d1 - d0))
    return s1 - above / below * d1 if below != 0 else s2


def inner(a: Any, b: Any) -> Any:
    return (a.T * b)[0]


# -- Krylov methods ---------------------------------------------------------------------------------------------------


def krylov(matrix: Any, gradient: Any, steps: int) -> Any:
    """An orthonormal basis of g, Hg, … (n, m), shorter where that space is exhausted; None for g = 0."""
    h, power = mp.matrix(matrix), mp.matrix(gradient)
    basis: list[Any] = []
    for _ in range(steps):
        rest = power
        for q in [*basis, *basis]:
            rest = rest - inner(q, rest) * q
        if mp.norm(rest) <= TINY * mp.norm(power):
            break
        basis.append(rest / mp.norm(rest))
        power = h * power
    return mp.matrix([list(q) for q in basis]).T if basis else None


def tridiagonal(matrix: Any, gradient: Any, steps: int) -> dict[str, Vector]:
    """Diagonal and subdiagonal of Q^T H Q; the last beta is what of H q_m lies outside the space."""
    h, q = mp.matrix(matrix), krylov(matrix, gradient, steps)
    t, known = q.T * h * q, q.cols
    outside = h * q[:, known - 1] - q * t[:, known - 1]
    betas = [*(t[j + 1, j] for j in range(known - 1)), mp.norm(outside)]
    padding = [mp.mpf(0)] * (min(steps, len(gradient)) - known)
    return {"alpha": [t[j, j] for j in range(known)] + padding, "beta": betas + padding}


def magnitude(mode: str, damping: Any) -> Callable[[Any], Any]:
    """Eigenvalue -> what the direction divides its component by."""
    d = mp.mpf(damping)
    return {"none": abs, "abs": lambda h: abs(h) + d, "square": lambda h: mp.sqrt(h**2 + d**2)}[mode]


def lanczos_direction(matrix: Any, gradient: Any, steps: int, mode: str = "none", damping: Any = 0) -> Vector:
    """Q f(Q^T H Q) Q^T g."""
    return projected(matrix, gradient, steps, 1, magnitude(mode, damping))


def lanczos_sv_direction(matrix: Any, gradient: Any, steps: int, mode: str = "none", damping: Any = 0) -> Vector:
    """Q f(S^{1/2}) Q^T g with S = Q^T H^2 Q."""
    size = magnitude(mode, damping)
    return projected(matrix, gradient, steps, 2, lambda square: size(mp.sqrt(abs(square))))


def projected(matrix: Any, gradient: Any, steps: int, power: int, size: Callable[[Any], Any]) -> Vector:
    q = krylov(matrix, gradient, steps)
    if q is None:
        return [mp.mpf(0)] * len(gradient)
    inverse = through_eigenvalues(q.T * mp.matrix(matrix) ** power * q, lambda h: 1 / size(h))
    return list(q * inverse * q.T * mp.matrix(gradient))


def minres(matrix: Any, right: Any, steps: int) -> Vector:
    """The least |b - A x| for x in the Krylov space, by the normal equations."""
    q = krylov(matrix, right, steps)
    if q is None:
        return [mp.mpf(0)] * len(right)
    image = mp.matrix(matrix) * q
    return list(q * mp.lu_solve(image.T * image, image.T * mp.matrix(right)))


def multi_shift_cg(matrix: Any, right: Any, shifts: Any, steps: int) -> list[Vector]:
    """For each t the x in the Krylov space whose residual b - (A + t) x is orthogonal to that space."""
    q = krylov(matrix, right, steps)
    a = q.T * mp.matrix(matrix) * q
    return [list(q * mp.lu_solve(a + mp.mpf(t) * mp.eye(q.cols), q.T * mp.matrix(right))) for t in shifts]


def inverse_root_quadrature(low: Any, high: Any, poles: int) -> dict[str, Vector]:
    """Midpoint rule for the elliptic substitution: shifts a (sn/cn)^2, weights (2/pi) a^{1/2} dn/cn^2 K'/J."""
    low, high = mp.mpf(low), mp.mpf(high)
    modulus = 1 - low / high
    quarter = mp.ellipk(modulus)
    places = [quarter * (2 * j + 1) / (2 * poles) for j in range(poles)]
    sn, cn, dn = ([mp.ellipfun(name, u=u, m=modulus) for u in places] for name in ("sn", "cn", "dn"))
    return {
        "shifts": [low * (s / c) ** 2 for s, c in zip(sn, cn, strict=True)],
        "weights": [2 / mp.pi * mp.sqrt(low) * d / c**2 * quarter / poles for c, d in zip(cn, dn, strict=True)],
    }


# -- choosing V -------------------------------------------------------------------------------------------------------


def scale_ratio(matrix: Any, gradient: Any, previous: Any) -> Any:
    """max(V so far, |H^2 g| / |g|)."""
    h, g = mp.matrix(matrix), mp.matrix(gradient)
    return max(mp.mpf(previous), mp.norm(h * h * g) / mp.norm(g)) if mp.norm(g) else mp.mpf(previous)


def scale_frobenius(matrix: Any) -> Any:
    """The sum of the squared eigenvalues."""
    return sum(h**2 for h in mp.eigsy(mp.matrix(matrix))[0])


def scale_power(matrix: Any, start: Any, iterations: int, safety: Any) -> Any:
    """Safety factor times the Rayleigh quotient of H^2 at (H^2)^{i-1} v."""
    h = mp.matrix(matrix)
    v = h ** (2 * iterations - 2) * mp.matrix(start)
    return mp.mpf(safety) * inner(v, h * h * v) / inner(v, v)


def scale_lanczos(matrix: Any, gradient: Any, steps: int, safety: Any) -> Any:
    """Safety factor times (theta + r)^2: the largest |Ritz value| and the length of its residual H y - theta y."""
    h, q = mp.matrix(matrix), krylov(matrix, gradient, steps)
    values, vectors = mp.eigsy(q.T * h * q)
    j = max(range(q.cols), key=lambda i: abs(values[i]))
    y = q * vectors[:, j]
    return mp.mpf(safety) * (abs(values[j]) + mp.norm(h * y - values[j] * y)) ** 2


# -- cases ------------------------------------------------------------------------------------------------------------

MIXED = [[a / 64, b / 64, c / 64] for a, b, c in (
    (176, -208, 0), (212, -58, -46), (108, -122, 82), (125, -58, 59), (86, -79, 107), (92, -50, 97), (76, -56, 117),
    (78, -44, 113), (71, -45, 121),
)]  # fmt: skip
ONE_RATE = [[1 + 0.5**k, -0.5 + 0.5 ** (k + 1), 2 - 3 * 0.5**k] for k in range(7)]
TWO_RATES = [[1 + 0.5**k, -0.5 + (-0.25) ** k, 2 - 0.5**k - (-0.25) ** k] for k in range(6)]
STANDING = [[1.5, -2.0, 0.25]] * 7
POSITIVE = [[4.0, 1.0, 0.5, 0.0], [1.0, 3.0, -1.0, 0.5], [0.5, -1.0, 2.5, 0.25], [0.0, 0.5, 0.25, 1.5]]
STEEP, HIDDEN = [[1.0, 0.0], [0.0, 15.0]], [1.0, 2.0**-12]
APART, HALF = [[2.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 0.5]], [1.0, 1.0, 0.0]
NONE, ABS, SQUARE, SHIFT = (
    {"mode": mode, "damping": d} for mode, d in (("none", 0.0), ("abs", 0.25), ("square", 0.25), ("shift", 0.25))
)
ROUNDING = {
    "topological-epsilon-2": (1e-13, 1e-5), "topological-epsilon-4": (5e-13, 1e-5), "levin-t-3": (1e-13, 2e-5),
    "topological-epsilon-2-two-rates": (1e-13, 5e-6), "sablonniere-2-slow": (1e-13, 5e-6),
    "vector-rho-2-slow": (1e-13, 5e-6), "topological-epsilon-2-slow": (1e-13, 5e-6),
    "topological-rho-2-slow": (1e-13, 5e-6), "quadrature-10": (5e-13, 2e-6),
}  # fmt: skip
"""Allowed errors in float64 and float32 where the usual ones are too tight: a few times what we measured."""


def series() -> list[Case]:
    """Every case of the group."""
    cases = [*sums(), *accelerated(), *krylov_cases(), *scales()]
    limits = [ROUNDING.get(found["id"], (1e-13, 2e-6)) for found in cases]
    return [{**found, "rtol": r, "rtol_float32": low} for found, (r, low) in zip(cases, limits, strict=True)]


def named(words: str, call: str, function: Callable[..., Any], source: str, **inputs: Any) -> Case:
    """A case whose answer ``function`` gives."""
    return case(words.rstrip("-"), call, inputs, function(**inputs), source)


def sums() -> list[Case]:
    counts = [
        ("", 11, 0.0), ("one", 1, 0.5), ("eighth", 11, 0.125), ("half", 11, 0.5), ("seven-eighths", 11, 0.875),
        ("above-one", 11, 1.25), ("two", 11, 2.0), ("exactly-one", 12, 1.0), ("unstable", 24, 0.9375),
        ("unstable-above-one", 30, 1.125), ("small", 40, 0.03125),
    ]  # fmt: skip
    even, flipped = [[2.0, 1.0], [1.0, -2.0]], [[1.0, 0.0], [0.0, -0.25]]
    plan: list[tuple[str, Any, Any, int, float, dict[str, Any], str]] = [
        ("undamped", H, G, 11, 8.0, NONE, f"{SERIES}, eqs. 3 and 4"),
        ("one-term", H, G, 1, 8.0, NONE, f"{SERIES}, algorithm 1 with K = 1"),
        ("converged", even, [1.0, 3.0], 48, 8.0, NONE, "the limit |H|^{-1} g"),
        ("zero-gradient", H, [0.0] * 4, 5, 8.0, NONE, "definition"),
        ("damped-abs", H, G, 11, 8.0, ABS, f"{SERIES}, released code"),
        ("damped-abs-one-term", H, G, 1, 8.0, ABS, "first coefficient 1/(1 + d)"),
        ("damped-abs-flipped", flipped, [1.0, 1.0], 11, 1.0, ABS, f"{SERIES}, released code"),
        ("damped-square", H, G, 11, 8.0, SQUARE, "(H^2 + d^2 I)^{-1/2} g"),
        ("damped-shift", H, G, 11, 8.0, SHIFT, f"{SERIES}, damping as printed"),
    ]
    return [
        *(named(f"coefficients-{name}", "series_coefficients", coefficients,
                "coefficients of 1/(sqrt(1 - z) + d)" if d else f"{SERIES}, eq. 2", terms=terms, damping=d)
          for name, terms, d in counts),
        *(named(f"partial-sums-{name}", "series_partial_sums", partial_sums, f"{SERIES}, algorithm 1",
                matrix=H, gradient=G, terms=terms, scale=v)
          for name, terms, v in (("", 11, 8.0), ("tight", 11, 3.5), ("one", 1, 8.0))),
        *(named(f"direction-{name}", "series_direction", direction, source, matrix=m, gradient=g, terms=k, scale=v,
                **rule) for name, m, g, k, v, rule, source in plan),
    ]  # fmt: skip


def accelerated() -> list[Case]:
    sources = {
        "shanks": "Wynn (1962)", "sablonniere": f"Sablonnière (1991); {SERIES}, eqs. 5 and 9",
        "vector-rho": "Wynn (1956), weight c in column c", "topological-epsilon": "Brezinski (1975)",
        "topological-rho": "Brezinski (1975), weight c in column c", "levin-t": "Levin (1972), one remainder for all",
        "levin-t-componentwise": "Levin (1972), entry by entry", "pade-hybrid": f"{SERIES}, released code",
        "pade-aitken": "Aitken's rule for vectors",
    }  # fmt: skip
    slow = [[float(mp.nint(1024 * a) / 1024) for a in row] for row in partial_sums(H, G, 9, 8)]
    plan: list[tuple[str, int, Any, str]] = [
        ("shanks", 0, MIXED, ""),
        *((name, order, MIXED, "") for name in WEIGHTS for order in (1, 2, 4)),
        *((name, 2, slow, "slow") for name in WEIGHTS),
        *((name, 3, STANDING, "standing") for name in WEIGHTS),
        *((name, 2, ONE_RATE, "one-rate") for name in WEIGHTS),
        *((name, 2, TWO_RATES, "two-rates") for name in WEIGHTS if name.endswith(("shanks", "epsilon"))),
    ]
    for name in ("levin-t", "levin-t-componentwise"):
        plan += [(name, order, MIXED, "") for order in (1, 2, 3)]
        plan += [(name, 2, MIXED[:4], "whole"), (name, 3, STANDING, "standing")]
    for name in ("pade-hybrid", "pade-aitken"):
        plan += [(name, 1, MIXED, ""), (name, 1, STANDING, "standing")]
    return [
        named(f"{name}-{order}-{label}", "accelerate", accelerate, sources[name], sums=rows, method=name, order=order)
        for name, order, rows, label in plan
    ]


def krylov_cases() -> list[Case]:
    routes: list[tuple[str, str, Any, str]] = [
        ("lanczos", "lanczos_direction", lanczos_direction, "Higham (2008), sec. 13.2"),
        ("lanczos-sv", "lanczos_sv_direction", lanczos_sv_direction, "Q f(S^{1/2}) Q^T g with S = Q^T H^2 Q"),
    ]
    plan: list[tuple[str, Any, Any, int, dict[str, Any]]] = [
        *((f"undamped-{m}", H, G, m, NONE) for m in (1, 2, 3, 4)), ("damped-abs-3", H, G, 3, ABS),
        ("damped-square-2", H, G, 2, SQUARE), ("zero-gradient", H, [0.0] * 4, 2, NONE),
        ("exhausted", APART, HALF, 3, NONE),
    ]  # fmt: skip
    return [
        *(named(f"tridiagonal-{name}", "lanczos_tridiagonal", tridiagonal, "Lanczos (1950)", matrix=a, gradient=g,
                steps=m) for name, a, g, m in (("2", H, G, 2), ("4", H, G, 4), ("exhausted", APART, HALF, 3))),
        *(named(f"{label}-{name}", call, function, source, matrix=a, gradient=g, steps=m, **rule)
          for label, call, function, source in routes for name, a, g, m, rule in plan),
        *(named(f"minres-{name}", "minres", minres, "Paige & Saunders (1975)", matrix=H, right=b, steps=m)
          for name, b, m in (("1", G, 1), ("2", G, 2), ("3", G, 3), ("4", G, 4), ("zero", [0.0] * 4, 2))),
        *(named(f"multi-shift-cg-{m}", "multi_shift_cg", multi_shift_cg, "Frommer & Maass (1999)", matrix=POSITIVE,
                right=G, shifts=[0.0, 0.5, 2.0], steps=m) for m in (2, 4)),
        *(named(f"quadrature-{j}", "inverse_root_quadrature", inverse_root_quadrature,
                "Hale, Higham & Trefethen (2008), method 2", low=low, high=high, poles=j)
          for low, high, j in ((0.015625, 1.0, 6), (1.0, 1024.0, 10), (0.5, 2.0, 1))),
    ]  # fmt: skip


def scales() -> list[Case]:
    ratios = [("", H, G, 1.0), ("kept", H, G, 4.0), ("zero-gradient", H, [0.0] * 4, 4.0), ("low", STEEP, HIDDEN, 0.5)]
    spaces = [("2", H, G, 2, 1.0), ("4", H, G, 4, 1.0), ("safety", H, G, 3, 1.25), ("steep", STEEP, HIDDEN, 2, 1.0)]
    return [
        *(named(f"scale-ratio-{name}", "scale_ratio", scale_ratio, f"{SERIES}, eqs. 45-47 and algorithm 1", matrix=m,
                gradient=g, previous=v) for name, m, g, v in ratios),
        *(named(f"scale-frobenius-{name}", "scale_frobenius", scale_frobenius, "sum of the squared eigenvalues",
                matrix=m) for name, m in (("", H), ("indefinite", [[3.0, 0.0], [0.0, -1.0]]))),
        *(named(f"scale-power-{name}", "scale_power", scale_power, "Golub & Van Loan (2013), sec. 8.2", matrix=H,
                start=[1.0] * 4, iterations=i, safety=s)
          for name, i, s in (("1", 1, 1.0), ("10", 10, 1.0), ("safety", 3, 1.5))),
        *(named(f"scale-lanczos-{name}", "scale_lanczos", scale_lanczos, "Parlett (1998), secs. 4.5 and 13.2",
                matrix=m, gradient=g, steps=k, safety=s) for name, m, g, k, s in spaces),
    ]  # fmt: skip
