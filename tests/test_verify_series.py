"""The golden vectors of the series: right numbers, and each usual mistake misses those that are meant for it.

Oracles: the 60-digit numbers in tests/golden, computed by another program; every call written once more in plain NumPy;
and those functions with mistakes planted on purpose.
"""

import re
from functools import partial

import numpy as np
import pytest
from golden_vectors import generator, golden

from refimpl.verify import GoldenMismatch, check_implementation
from refimpl.verify.golden import cases, relative_error


def answers_computed_elsewhere():
    """Case of the group "series" -> the same quantity in tests/golden."""
    g = golden("series")
    lanczos, damped, v = g["lanczos"], g["coefficients"]["damped"], g["V_heuristics"]
    words = {"eighth": "0.125", "half": "0.5", "seven-eighths": "0.875", "above-one": "1.25", "two": "2.0"}
    power = v["power_iteration_H2_rayleigh_10_from_ones"]
    return {
        "coefficients": g["coefficients"]["c_0_to_10"],
        **{f"coefficients-{word}": damped[d] for word, d in words.items()},
        "partial-sums": g["series"]["partial_sums_unscaled_s0_to_s10"],
        "direction-undamped": g["series"]["scaled_last"],
        "direction-one-term": g["edge_cases"]["K1"]["scaled"],
        "direction-zero-gradient": g["edge_cases"]["zero_gradient"]["direction"],
        "direction-damped-abs": g["series_damped_abs"]["s10_scaled"],
        "direction-damped-square": g["series_damped_square"]["s10_scaled"],
        "tridiagonal-4": {"alpha": lanczos["alpha"], "beta": [*lanczos["beta_1_to_3"], 0.0]},
        **{f"lanczos-undamped-{m}": lanczos[f"fa_f_of_T_m{m}"] for m in (1, 2, 3, 4)},
        **{f"lanczos-sv-undamped-{m}": lanczos[f"fa_projected_square_m{m}"] for m in (1, 2, 3, 4)},
        "lanczos-damped-square-2": lanczos["fa_f_of_T_square_damped_0.25_m2"],
        "quadrature-6": {key[:-2]: g["quadrature_inv_sqrt"][key] for key in ("shifts_t", "weights_w")},
        "scale-ratio": v["ratio_H2g_over_g"],
        "scale-ratio-kept": v["running_max_from_V0_4"],
        "scale-frobenius": v["trace_H2"],
        "scale-power-1": power[0],
        "scale-power-10": power[9],
    }


@pytest.mark.parametrize(("name", "known"), answers_computed_elsewhere().items())
def test_vector_is_the_number_computed_elsewhere(name, known):
    (case,) = [case for case in cases("series") if case.id == f"series/{name}"]
    assert relative_error(case.expected, known) <= 1e-15


def test_accelerators_of_the_generator_give_the_numbers_computed_elsewhere():
    # These sums are not exact in float32, so they make no golden vectors, but they tie the generator to the numbers.
    tool, mp = generator("golden_series"), pytest.importorskip("mpmath")
    known = golden("series")["accelerated_unscaled"]["values"]
    given = golden("series")["problem"]
    plan = {
        f"levin_t_{form}_N{order}": (name, order)
        for order in (1, 2, 3) for form, name in (("shared", "levin-t"), ("componentwise", "levin-t-componentwise"))
    } | {
        f"topological_{short}_N{order}": (f"topological-{name}", order)
        for order in (1, 2) for short, name in (("eps", "epsilon"), ("rho", "rho"))
    } | {f"pade_{form}": (f"pade-{form}", 1) for form in ("hybrid", "aitken")}  # fmt: skip
    with mp.workdps(60):
        sums = tool.partial_sums(given["H"], given["g"], 11, given["V"])
        for name, (method, order) in plan.items():
            assert relative_error([float(a) for a in tool.accelerate(sums, method, order)], known[name]) <= 1e-15, name
        for method in ("shanks", "sablonniere", "vector_rho"):
            for name, value in known[method].items():
                order = int(name[1])
                rows = sums if "last" in name else sums[: 2 * order + 1]
                found = tool.accelerate(rows, method.replace("_", "-"), order)
                assert relative_error([float(a) for a in found], value) <= 1e-15, (method, name)


def own_coefficients(terms, damping):
    # (1 + d) c_k = sum_j |b_j| c_{k-j} from 1 = (sqrt(1 - z) + d) sum c_k z^k: nothing cancels.
    b = np.abs(np.cumprod([1.0, *((2 * k - 3) / (2 * k) for k in range(1, terms))]))
    c = [1 / (1 + damping)]
    for k in range(1, terms):
        c.append(sum(b[j] * c[k - j] for j in range(1, k + 1)) / (1 + damping))
    return np.array(c)


def forward_coefficients(terms, damping):
    b = np.cumprod([1.0, *((2 * k - 3) / (2 * k) for k in range(1, terms))])
    c = [np.float64(1 / (1 + damping))]
    with np.errstate(all="ignore"):
        for k in range(1, terms):
            c.append((c[-1] + b[k]) / (1 - np.float64(damping) ** 2))
    return np.array(c)


def printed_coefficients(terms, damping):
    # Equation 49 of the series paper, its 0/0 taken as 1.
    ratios = [1.0, 1.0, *((2 * k - 1) / (2 * k) for k in range(1, terms))]
    return own_coefficients(terms, damping) if damping else np.cumprod(ratios)[:terms]


def own_sums(squared, gradient, terms, scale, coefficients=own_coefficients, damping=0.0):
    z, total, sums = gradient, 0.0, []
    for c in coefficients(terms, damping):
        total = total + c * z
        sums.append(total)
        z = z - squared @ z / scale
    return np.array(sums)


def own_series_direction(matrix, gradient, terms, scale, mode, damping, relative=True, power=2, added_to_h=("shift",)):
    one, d = np.eye(len(gradient)), damping / np.sqrt(scale) if relative else damping
    shifted = matrix + damping * one if mode in added_to_h else matrix
    squared = shifted @ shifted + (damping**power * one if mode == "square" else 0.0)
    d = d if mode == "abs" and mode not in added_to_h else 0.0
    return own_sums(squared, gradient, terms, scale, damping=d)[-1] / np.sqrt(scale)


def own_accelerate(sums, method, order, weights=None, first=0, last=True, back=-2, noise=8.0):
    if method.startswith("levin"):
        n = max(len(sums) - order - 2, 1) + first + np.arange(order + 1)
        return own_levin(sums[-order - 2 :], n, method == "levin-t")
    if method.startswith("pade"):
        (d0, d1), (_, s1, s2) = np.diff(sums[-3:], axis=0), sums[-3:]
        above, below = (d0 @ d1, d1 @ (d1 - d0)) if method == "pade-hybrid" else (d0 @ d0, d0 @ (d1 - d0))
        return s1 - above / below * d1 if below else s2
    weight = {"sablonniere": lambda c: c // 2 + 1}.get(method, (lambda c: c) if "rho" in method else lambda c: 1)
    weight, rows = (weights or {}).get(method, weight), sums[-2 * order - 1 :] if last else sums[: 2 * order + 1]
    e = {(m, 0): row for m, row in enumerate(rows)} | {(m, -1): 0 * row for m, row in enumerate(rows)}
    for c in range(1, 2 * order + 1):
        for m in range(2 * order + 1 - c):
            with np.errstate(all="ignore"):
                d = e[m + 1, c - 1] - e[m, c - 1]
            if np.linalg.norm(d) <= noise * np.finfo(sums.dtype).eps * np.linalg.norm(e[m, c - 1]):
                return e[m, c - 1]
            step = d
            if method.startswith("topological"):
                step = rows[1] - rows[0] if c % 2 else e[m + 2, c - 2] - e[m + 1, c - 2]
            with np.errstate(all="ignore"):
                e[m, c] = e.get((m + 1, c + back), 0 * d) + weight(c) * step / (step @ d)
    return e[0, 2 * order]


def own_levin(rows, n, shared):
    r = np.diff(rows, axis=0)
    if not r.any():
        return rows[-1]
    if shared:
        r = np.array([row[np.argmax(np.abs(row))] for row in r])[:, None]
    order = len(n) - 1
    pascal = np.cumprod([1.0, *((order - j) / (j + 1) for j in range(order))])
    w = ((-1.0) ** n * pascal * (n / n[-1]) ** (order - 1))[:, None] / r
    return (w * rows[:-1]).sum(axis=0) / w.sum(axis=0)


def own_lanczos(matrix, gradient, steps):
    q, basis, alpha, beta = gradient, [], [], []
    while len(basis) < steps and np.linalg.norm(q) > 1e-12:
        basis.append(q / np.linalg.norm(q))
        q = matrix @ basis[-1]
        alpha.append(basis[-1] @ q)
        for known in [*basis, *basis]:
            q = q - (known @ q) * known
        beta.append(np.linalg.norm(q))
    return np.array(basis).reshape(-1, len(gradient)), alpha, beta


def own_tridiagonal(matrix, gradient, steps, subdiagonal=lambda beta: beta):
    _, alpha, beta = own_lanczos(matrix, gradient, steps)
    missing = [0.0] * (steps - len(alpha))
    return {"alpha": [*alpha, *missing], "beta": subdiagonal([*beta, *missing])}


def own_lanczos_direction(matrix, gradient, steps, mode, damping, squared=False, length=np.linalg.norm):
    basis = own_lanczos(matrix, gradient, steps)[0]
    if not len(basis):
        return 0 * gradient
    values, vectors = np.linalg.eigh(basis @ matrix @ (matrix if squared else np.eye(len(gradient))) @ basis.T)
    size = np.sqrt(np.abs(values)) if squared else np.abs(values)
    size = np.hypot(size, damping) if mode == "square" else size + damping
    return length(gradient) * basis.T @ (vectors @ (vectors[0] / size))


def own_minres(matrix, right, steps, residual=True):
    basis = own_lanczos(matrix, right, steps)[0].T
    image = matrix @ basis if residual else basis
    return basis @ np.linalg.solve(image.T @ matrix @ basis, image.T @ right)


def own_ritz_bound(matrix, gradient, steps, residual=1.0):
    basis = own_lanczos(matrix, gradient, steps)[0].T
    values, vectors = np.linalg.eigh(basis.T @ matrix @ basis)
    j = np.argmax(np.abs(values))
    y = basis @ vectors[:, j]
    return np.abs(values[j]) + residual * np.linalg.norm(matrix @ y - values[j] * y)


def own_ratio(matrix, gradient, previous, best=max):
    size = np.linalg.norm(gradient)
    return best(previous, np.linalg.norm(matrix @ matrix @ gradient) / size) if size else previous


def own_power(matrix, start, iterations, safety, squared=True):
    v = np.linalg.matrix_power(matrix, 2 * iterations - 2) @ start
    return safety * (v @ (matrix @ matrix if squared else matrix) @ v) / (v @ v)


OWN = {
    "series_coefficients": own_coefficients,
    "series_partial_sums": lambda matrix, **given: own_sums(matrix @ matrix, **given),
    "series_direction": own_series_direction,
    "accelerate": own_accelerate,
    "lanczos_tridiagonal": own_tridiagonal,
    "lanczos_direction": own_lanczos_direction,
    "lanczos_sv_direction": partial(own_lanczos_direction, squared=True),
    "minres": own_minres,
    "scale_ratio": own_ratio,
    "scale_frobenius": lambda matrix: (matrix**2).sum(),
    "scale_power": own_power,
    "scale_lanczos": lambda safety, **given: safety * own_ritz_bound(**given) ** 2,
}
"""The calls of the group "series" in plain NumPy, written once more."""
ALL_SABLONNIERE = "sablonniere-1 sablonniere-2 sablonniere-4 sablonniere-2-slow sablonniere-2-one-rate"
MISTAKES = {
    "equation 49": ("series_coefficients", printed_coefficients, "coefficients"),
    "forward recursion": (
        "series_coefficients", forward_coefficients,
        "coefficients-seven-eighths coefficients-exactly-one coefficients-unstable coefficients-unstable-above-one",
    ),
    "equation 49 in the sums": (
        "series_partial_sums",
        lambda matrix, **given: own_sums(matrix @ matrix, coefficients=printed_coefficients, **given),
        "partial-sums partial-sums-tight",
    ),
    "damping added to H": (
        "series_direction", partial(own_series_direction, added_to_h=("abs", "shift")),
        "direction-damped-abs direction-damped-abs-one-term direction-damped-abs-flipped",
    ),
    "d instead of d / sqrt(V)": (
        "series_direction", partial(own_series_direction, relative=False),
        "direction-damped-abs direction-damped-abs-one-term",
    ),
    "d instead of d^2": (
        "series_direction", partial(own_series_direction, power=1), "direction-damped-square",
    ),
    "weights of Shanks": (
        "accelerate", partial(own_accelerate, weights={"sablonniere": lambda c: 1}), ALL_SABLONNIERE,
    ),
    "columns counted from zero": (
        "accelerate", partial(own_accelerate, weights={"sablonniere": lambda c: (c + 1) // 2}), ALL_SABLONNIERE,
    ),
    "start of Levin's n": (
        "accelerate", partial(own_accelerate, first=1),
        "levin-t-2 levin-t-3 levin-t-2-whole levin-t-componentwise-2 levin-t-componentwise-3 "
        "levin-t-componentwise-2-whole",
    ),
    "S = T^2": (
        "lanczos_sv_direction", own_lanczos_direction,
        "lanczos-sv-undamped-1 lanczos-sv-undamped-2 lanczos-sv-undamped-3 lanczos-sv-damped-abs-3 "
        "lanczos-sv-damped-square-2",
    ),
    "without the residual beta": (
        "lanczos_tridiagonal", partial(own_tridiagonal, subdiagonal=lambda beta: [*beta[:-1], 0.0]), "tridiagonal-2",
    ),
    "least error instead of least residual": (
        "minres", partial(own_minres, residual=False), "minres-1 minres-2 minres-3",
    ),
    "V does not keep its maximum": ("scale_ratio", partial(own_ratio, best=lambda old, new: new), "scale-ratio-kept"),
    "V not squared": (
        "scale_lanczos", lambda safety, **given: safety * own_ritz_bound(**given),
        "scale-lanczos-2 scale-lanczos-4 scale-lanczos-safety scale-lanczos-steep",
    ),
    "safety squared": (
        "scale_lanczos", lambda safety, **given: (safety * own_ritz_bound(**given)) ** 2, "scale-lanczos-safety",
    ),
    "without the residual": (
        "scale_lanczos", lambda safety, **given: safety * own_ritz_bound(residual=0.0, **given) ** 2,
        "scale-lanczos-2 scale-lanczos-safety",
    ),
    "quotient of H": (
        "scale_power", partial(own_power, squared=False), "scale-power-1 scale-power-10 scale-power-safety",
    ),
}  # fmt: skip
"""A mistake -> the call, the function that makes it, and the vectors that it misses."""


def missed(call, function):
    try:
        check_implementation(call, function)
    except GoldenMismatch as mismatch:
        return set(re.findall(r"series/(\S+):", str(mismatch)))
    return set()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("call", OWN)
def test_series_written_once_more_is_right(call, dtype):
    assert all(outcome.passed for outcome in check_implementation(call, OWN[call], dtype=dtype))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_misses_its_vectors_and_no_others(mistake):
    call, function, vectors = MISTAKES[mistake]
    assert missed(call, function) == set(vectors.split())


@pytest.mark.parametrize(
    ("call", "function", "untouched"),
    [
        # c + 2 for c - 2 reads an entry that is not there yet.
        ("accelerate", partial(own_accelerate, back=2), r"levin|pade|standing|shanks-0"),
        (
            "accelerate",
            partial(own_accelerate, last=False),
            r"levin|pade|standing|-4$|(shanks|epsilon)-2-(one|two)-rate",
        ),
        ("accelerate", partial(own_accelerate, noise=-1.0), r"levin|pade|\d$|slow|two-rates|(sablonniere|rho)-2-one"),
        ("series_direction", lambda scale, **g: own_series_direction(scale=scale, **g) * scale**0.5, r"zero|flipped"),
        ("series_direction", lambda scale, **g: own_series_direction(scale=scale, **g) / scale**0.5, r"zero|flipped"),
        ("lanczos_direction", partial(own_lanczos_direction, length=lambda g: 1.0), r"zero"),
    ],
    ids=["c+2 for c-2", "first rows", "no end of the table", "missing 1/sqrt(V)", "1/V", "missing |g|"],
)
def test_gross_mistake_misses_all_but_the_trivial_vectors(call, function, untouched):
    named = {case.id.split("/")[1] for case in cases("series") if case.call == call}
    assert missed(call, function) == {name for name in named if not re.search(untouched, name)}
