"""Golden vectors and the derivative check for readers' own problems.

Oracles: the generator in tools/, which computes every vector again in 60 digits from definitions; the 60-digit numbers
in tests/golden, computed by another program; and bugs planted on purpose, each of which the derivative check has to
name and the golden vectors have to notice.
"""

import importlib
import json
import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from cases import CASES
from golden_vectors import golden

from refimpl.arrays import get_backend
from refimpl.oracle import Problem
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.losses import HalfMeanSquaredError
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import DoubleWell, Rosenbrock
from refimpl.verify import (
    GoldenMismatch,
    OracleCheckFailed,
    check_implementation,
    check_oracle,
    check_oracle_functions,
)
from refimpl.verify import __main__ as command
from refimpl.verify.golden import CALLS, Case, cases, relative_error, run_case

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ["methods", "networks", "problems", "series", "spectrum"]


def generator(name):
    """A module of tools/."""
    pytest.importorskip("mpmath")
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def regenerated():
    """Every file of vectors, computed now."""
    return generator("golden").files()


# -- golden vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", GROUPS)
def test_stored_vectors_are_those_the_generator_gives(group, regenerated):
    stored = json.loads((ROOT / "refimpl" / "verify" / "vectors" / f"{group}.json").read_text(encoding="utf-8"))
    fresh = json.loads(json.dumps(regenerated[group]))
    assert [case["id"] for case in stored["cases"]] == [case["id"] for case in fresh["cases"]]
    for old, new in zip(stored["cases"], fresh["cases"], strict=True):
        assert {**old, "expected": None} == {**new, "expected": None}
        assert relative_error(old["expected"], new["expected"]) <= 1e-15, old["id"]


def test_groups_are_the_files_the_generator_writes(regenerated):
    assert sorted(regenerated) == GROUPS == sorted({case.group for case in cases()})


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_package_gives_the_golden_answer(case, backend):
    outcome = run_case(case, backend)
    assert outcome.passed, f"{outcome.problem or outcome.error} (allowed {outcome.tolerance})"


def test_every_case_has_a_source_and_every_call_a_case():
    assert all(case.source for case in cases())
    assert {case.call for case in cases()} == set(CALLS)
    assert len({case.id for case in cases()}) == len(cases())


def test_every_call_is_explained():
    readme = (ROOT / "refimpl" / "verify" / "vectors" / "README.md").read_text(encoding="utf-8")
    assert not [call for call in CALLS if f"| `{call}` |" not in readme]


def test_vectors_that_the_readme_names_exist():
    readme = (ROOT / "refimpl" / "verify" / "vectors" / "README.md").read_text(encoding="utf-8")
    names = re.findall(r"`([a-z0-9-]+)`", readme[readme.index("## What a missed") :])
    assert len(names) >= 15
    assert not set(names) - {case.id.split("/")[1] for case in cases("series")}


def test_tolerances_are_tight():
    # A vector that anything would meet is worth nothing.
    assert max(case.rtol for case in cases()) <= 1e-11
    assert max(case.rtol_float32 for case in cases()) <= 1e-2


@pytest.mark.parametrize(
    ("answer", "expected", "error"),
    [
        ([1.0, 2.5], [1.0, 2.0], 0.25),
        ([0.0, 3.0], [0.0, 0.0], 3.0),
        ([1.0, None], [1.0, None], 0.0),
        ([1.0, 1.0], [1.0, None], np.inf),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.inf], [1.0, 2.0], np.inf),
        ([1.0, 1.0, 1.0], [1.0], np.inf),
        ([1.0], [1.0, 1.0], np.inf),
        ({"a": 1.0, "b": 2.0}, {"b": 4.0}, 0.5),
        ({"a": 1.0}, {"b": 4.0}, np.inf),
    ],
)
def test_relative_error(answer, expected, error):
    assert relative_error(answer, expected) == error


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_prints_a_table(capsys):
    assert command.main(["--only", "spectrum", "--backend", "numpy"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split() == ["relative", "error", "numpy", "f64", "numpy", "f32"]
    assert len({len(line) for line in printed[:12]}) == 1
    assert printed[-1] == "22 of 22 comparisons agree"


def test_command_names_backends_that_are_not_here(capsys, monkeypatch):
    absent = command.Column("cupy f64", "cupy", "float64", "no such device")
    monkeypatch.setattr(command, "COLUMNS", (command.COLUMNS[0], absent))
    assert command.main(["--only", "spectrum"]) == 0
    assert "not here: cupy f64 (backend 'cupy'" in capsys.readouterr().out


def test_command_prints_json(capsys):
    assert command.main(["--only", "spectrum", "--backend", "numpy", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["passed"] for row in found["outcomes"]} == {True}


def test_command_fails_when_an_answer_is_wrong(capsys, monkeypatch):
    monkeypatch.setitem(CALLS, "absolute", lambda backend, matrix: backend.asarray(matrix))
    monkeypatch.setitem(CALLS, "eigenvalues", lambda backend, matrix: 1 / 0)
    assert command.main(["--only", "spectrum", "--backend", "numpy"]) == 1
    printed = capsys.readouterr().out
    assert "FAIL spectrum/absolute on numpy f64: relative error 1." in printed
    assert "FAIL spectrum/eigenvalues on numpy f32: ZeroDivisionError" in printed
    assert printed.endswith("18 of 22 comparisons agree\n")


@pytest.mark.parametrize("arguments", [["--only", "nothing"], ["--backend", "jax"]])
def test_command_refuses_what_it_does_not_know(arguments, capsys):
    assert command.main(arguments) == 2
    assert "choose one of" in capsys.readouterr().err


# -- a reader's own function ------------------------------------------------------------------------------------------


def own_direction(matrix, gradient, mode="none", damping=0.0, threshold=0.0, replacement=None):
    values, basis = np.linalg.eigh(matrix)
    if mode == "none":
        size = np.where(np.abs(values) <= max(threshold, 1e-12), replacement or np.inf, np.abs(values))
    else:
        rules = {
            "abs": np.abs(values) + damping,
            "square": np.hypot(values, damping),
            "shift": np.abs(values + damping),
        }
        size = rules[mode]
    return basis @ ((basis.T @ gradient) / size)


def test_own_function_that_is_right():
    outcomes = check_implementation("saddle_free_direction", own_direction)
    assert len(outcomes) == 9
    assert all(o.passed for o in outcomes)


def test_own_function_that_is_wrong():
    def damps_the_wrong_matrix(matrix, gradient, mode="none", damping=0.0, **rule):
        return own_direction(matrix, gradient, mode="shift" if mode == "abs" else mode, damping=damping, **rule)

    with pytest.raises(GoldenMismatch, match=r"1 of 9 golden vectors are missed:\n  spectrum/direction-damped-abs"):
        check_implementation("saddle_free_direction", damps_the_wrong_matrix)


def test_outcome_with_nan_fails():
    case = Case("x/y", "eigenvalues", {"matrix": [[float("nan")]]}, [1.0], 1.0, 1.0, "")
    assert not run_case(case, get_backend()).passed


# -- the series -------------------------------------------------------------------------------------------------------


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


# -- check_oracle -----------------------------------------------------------------------------------------------------

SMALL = [case for case in CASES if not case.id.startswith("torch")]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.id)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_problem_of_the_table_passes(case, dtype):
    report = check_oracle(case.build(get_backend("numpy", dtype)), seed=3)
    assert len(report.checks) == (10 if case.has_outputs else 5)


def test_torch_module_passes():
    (case,) = [case for case in CASES if case.id == "torch-batch-norm"]
    assert check_oracle(case.build(get_backend("torch")), directions=2).passed


class Broken(Problem):
    """x^4/4 summed, plus a coupling; one part replaced by a wrong one."""

    def __init__(self, **wrong):
        super().__init__(3)
        self.wrong = wrong

    def initial(self, rng):
        return self.backend.asarray([0.5, -1.25, 0.75])

    def evaluation(self, x, sample):
        parts = {
            "loss": lambda x: (x**4).sum() / 4 + x[0] * x[1],
            "gradient": lambda x: x**3 + np.array([x[1], x[0], 0.0]),
            "hessian": lambda x: np.diag(3 * x * x) + np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]]),
            "hvp": lambda x, v: 3 * x * x * v + np.array([v[1], v[0], 0.0]),
        }
        return ClosedForm(x, **(parts | self.wrong))


def test_the_unbroken_problem_passes():
    assert check_oracle(Broken()).passed


@pytest.mark.parametrize(
    ("wrong", "check", "cause"),
    [
        ({"gradient": lambda x: -(x**3) - np.array([x[1], x[0], 0.0])}, "gradient", "the sign is wrong"),
        ({"gradient": lambda x: 2 * (x**3) + 2 * np.array([x[1], x[0], 0.0])}, "gradient", "2 times too large"),
        ({"gradient": lambda x: (x**3 + np.array([x[1], x[0], 0.0])) / 2}, "gradient", "a factor 2 is missing"),
        ({"gradient": lambda x: 7 * (x**3 + np.array([x[1], x[0], 0.0]))}, "gradient", "1/n of a mean"),
        ({"gradient": lambda x: x**3}, "gradient", "a term is missing"),
        ({"gradient": lambda x: 0 * x}, "gradient", "zero in every direction"),
        ({"gradient": lambda x: x * np.nan}, "gradient", "NaN"),
        ({"hvp": lambda x, v: -3 * x * x * v - np.array([v[1], v[0], 0.0])}, "hvp", "the sign is wrong"),
        ({"hvp": lambda x, v: 3 * x * x * v + np.array([v[1], v[0], v[0]])}, "hvp", "only the entries 2 are wrong"),
        ({"hvp": lambda x, v: 3 * x * x * v + np.array([v[1], 0.0, 0.0])}, "u·Hv = v·Hu", "no common factor"),
        ({"hessian": lambda x: np.eye(3)}, "dense Hessian", "no common factor"),
    ],
)
def test_bug_is_named(wrong, check, cause):
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(Broken(**wrong))
    causes = [c.cause for c in caught.value.report.checks if c.name.startswith(check) and not c.passed]
    assert causes, str(caught.value)
    assert cause in causes[0]
    assert f"FAIL {causes[0]}" in str(caught.value)


def test_answer_that_changes_is_noticed():
    state = np.random.default_rng(0)
    noisy = Broken(gradient=lambda x: x**3 + np.array([x[1], x[0], 0.0]) + 1e-9 * state.standard_normal(3))
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(noisy)
    assert "the same question twice" in [c.name for c in caught.value.report.checks if not c.passed]


class SumInsteadOfMean(HalfMeanSquaredError):
    def gradient(self, outputs, targets):
        return super().gradient(outputs, targets) * outputs.shape[-2]


class WrongCurvature(HalfMeanSquaredError):
    def curvature(self, outputs, targets):
        return lambda u: 2.0 * super(WrongCurvature, self).curvature(outputs, targets)(u)


def network(loss):
    rng = np.random.default_rng(0)
    data = rng.standard_normal((7, 2)), rng.standard_normal(7)
    return MLP((2, 3, 1), *data, activation="tanh", loss=loss, initialization="torch")


def failures(problem):
    with pytest.raises(OracleCheckFailed) as caught:
        check_oracle(problem, seed=1)
    return {c.name: c.cause for c in caught.value.report.checks if not c.passed}


def test_missing_mean_is_named():
    found = failures(network(SumInsteadOfMean()))
    assert "1/n is missing (a sum over the 7 samples" in found["gradient against differences of the loss"]


def test_wrong_curvature_of_the_loss_is_noticed():
    found = failures(network(WrongCurvature()))
    assert "hvp against differences of the gradient" in found
    assert "2 times too large" in found["ggnvp against differences without the outputs' curvature"]


class SwappedPasses(DoubleWell):
    """The transposed Jacobian with a sign error."""

    def evaluation(self, x, sample):
        form = super().evaluation(x, sample)
        honest = form.vjp
        form.vjp = lambda u: -honest(u)
        return form


def test_vjp_that_is_not_the_transpose_is_noticed():
    assert failures(SwappedPasses())["u·Jv = v·Jᵀu"] == "the sign is wrong"


def test_bare_functions():
    report = check_oracle_functions(
        lambda x: np.cos(x).sum(), lambda x: -np.sin(x), lambda x, v: -np.cos(x) * v, [0.3, 1.0, -2.0]
    )
    assert [check.name for check in report.checks] == [
        "gradient against differences of the loss",
        "hvp against differences of the gradient",
        "u·Hv = v·Hu",
        "the same question twice",
    ]
    assert str(report).count(" ok") == 4


def test_bare_functions_that_are_wrong():
    with pytest.raises(OracleCheckFailed, match="the sign is wrong"):
        check_oracle_functions(lambda x: np.cos(x).sum(), np.sin, lambda x, v: np.cos(x) * v, [0.3, 1.0])


def test_place_is_the_one_asked_for():
    # At the minimum of the valley the gradient vanishes, and zero compared with zero must pass.
    assert check_oracle(Rosenbrock(), [1.0, 1.0]).passed
