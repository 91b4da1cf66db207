"""The comparison of routes at equal numbers of products.

Oracle: brute force. `refimpl.experiments.kernels` walks along one run of a route; here each number of products is a run
of its own of the function a user calls (`inverse_abs_apply`, `sum_series`), its products counted by this file, its
error measured against an eigendecomposition with formulas of this file. For the spectra: their definitions.
"""

import functools
import math

import numpy as np
import pytest

from refimpl import get_backend
from refimpl.curvature.inverse_abs import inverse_abs_apply
from refimpl.curvature.series import sum_series
from refimpl.experiments import kernels
from refimpl.experiments.kernels import Series
from refimpl.problems.mlp import MLP
from refimpl.problems.spectra import SpectralProblem, gaussian, logarithmic, spiked

SMALL = {
    "gaussian": gaussian(3, n=16),
    "logarithmic": logarithmic(4, n=16, decades=1.5),
    "spiked": spiked(5, n=30),
}
SETTINGS = [("gaussian", "none", 0.0), ("logarithmic", "abs", 0.3), ("spiked", "square", 0.05)]
DEFINITION = {"none": lambda h, d: abs(h), "abs": lambda h, d: abs(h) + d, "square": lambda h, d: np.hypot(h, d)}
LIMIT = 26


@functools.cache
def network_like():
    return spiked(0)


def error(problem, direction, mode, damping):
    values, vectors = np.linalg.eigh(problem.matrix)
    exact = vectors @ ((vectors.T @ problem.gradient) / DEFINITION[mode](values, damping))
    return np.linalg.norm(direction - exact) / np.linalg.norm(exact)


def counted(problem):
    """A matvec, and the list whose length is how often it was called."""
    calls = []

    def matvec(v):
        calls.append(None)
        return v @ problem.matrix  # as problem.hvp: high orders of the epsilon table magnify rounding

    return matvec, calls


def one_run(problem, method, b, mode, damping):
    """(products spent, error) of the route when it is called with a budget of b."""
    matvec, calls = counted(problem)
    g, interval = problem.gradient, (np.abs(problem.eigenvalues).min(), np.abs(problem.eigenvalues).max())
    common = {"damping": damping, "mode": mode}
    if method in ("lanczos", "lanczos_sv"):
        found = [inverse_abs_apply(matvec, g, products=b, method=method, **common).direction]
    elif method in ("chebyshev", "quadrature"):
        found = [
            inverse_abs_apply(matvec, g, products=b, method=method, interval=interval, poles=20, **common).direction
        ]
    elif method.endswith("-default"):
        name = method.removesuffix("-default")
        found = [inverse_abs_apply(matvec, g, products=b - 8, method="series", accelerate=name, **common).direction]
    else:
        terms, name, calls = b // 2 + 1, None if method == "series" else method, []
        scale = 1.01 * (interval[1] ** 2 + (damping**2 if mode == "square" else 0))
        orders = range(min(12, (terms - 1) // 2) + 1) if name else [0]
        found = []
        for order in orders:
            matvec, calls = counted(problem)
            run = sum_series(matvec, g, terms=terms, scale=scale, accelerate=name, order=order, **common)
            found.append(run.direction)
    return len(calls), min(error(problem, direction, mode, damping) for direction in found)


ROUTES = [(method, *setting) for setting in SETTINGS for method in kernels.methods_for(setting[1])]


@pytest.mark.parametrize(("method", "family", "mode", "damping"), [r for r in ROUTES if r[0] != "shanks-paper"])
def test_errors_and_products_needed_against_brute_force(method, family, mode, damping):
    problem = SMALL[family]
    smallest = {"quadrature": 2}.get(method, 9 if method.endswith("-default") else 1)
    # All but Lanczos spend two products at a time.
    budgets = range(smallest, LIMIT + 1, 1 if method.startswith("lanczos") else 2)
    runs = [one_run(problem, method, b, mode, damping) for b in budgets]
    size = problem.gradient.size if method.startswith("lanczos") else LIMIT  # where the Krylov space ends
    assert all(min(b, size) - 1 <= spent <= b for (spent, _), b in zip(runs, budgets, strict=True))
    found = kernels.errors_at(problem, method, budgets, mode=mode, damping=damping)
    np.testing.assert_allclose(found, [e for _, e in runs], rtol=1e-6, atol=1e-12)
    errors = sorted({e for _, e in runs if e > 1e-9})
    for target in [*(1.0001 * e for e in errors[:: max(1, len(errors) // 3)]), 0.5 * errors[0], 1e-3]:
        expected = min((spent for spent, e in runs if e <= target), default=None)
        needed = kernels.products_needed(problem, method, target, mode=mode, damping=damping, limit=LIMIT)
        assert needed == expected


@pytest.mark.parametrize("name", kernels.ACCELERATED)
def test_the_best_of_all_thirteen_orders(name):
    problem, setting = SMALL["spiked"], ("square", 0.05)
    found = kernels.error_at(problem, name, 64, mode=setting[0], damping=setting[1])
    assert found == pytest.approx(one_run(problem, name, 64, *setting)[1], rel=1e-6)


def test_products_needed_finds_the_first_success_of_a_route_that_gets_worse_again():
    # A Ritz value passes near zero: undamped Lanczos is worse after one more product.
    problem = gaussian(0, n=40)
    errors = [one_run(problem, "lanczos", b, "none", 0.0)[1] for b in range(1, 41)]
    first = next(m for m in range(1, 39) if errors[m] > 1.5 * errors[m - 1] and errors[m - 1] == min(errors[:m]))
    assert kernels.products_needed(problem, "lanczos", 1.0001 * errors[first - 1]) == first
    assert kernels.error_at(problem, "lanczos", first + 1) == pytest.approx(errors[first])


def test_targets_together_are_those_one_by_one():
    problem, targets = SMALL["spiked"], [1e-6, 0.5, 1e-2, 1e-12, 1e-6]
    for method in ("sablonniere", "chebyshev", "quadrature", "lanczos"):
        together = kernels.products_for(problem, method, targets, mode="square", damping=0.05, limit=LIMIT)
        each = [kernels.products_needed(problem, method, t, mode="square", damping=0.05, limit=LIMIT) for t in targets]
        assert [None if math.isinf(b) else int(b) for b in together] == each


def test_a_restart_of_the_guard_is_paid_for():
    # V is 30 times too small: the guard starts again, a call with more terms costs what both attempts cost.
    problem = logarithmic(1, n=20, decades=1.0)
    scale, seen = problem.largest**2 / 30, []
    for terms in range(1, 26):
        matvec, calls = counted(problem)
        order = min(4, (terms - 1) // 2)
        run = sum_series(matvec, problem.gradient, terms=terms, scale=scale, accelerate="shanks", order=order)
        seen.append((len(calls), error(problem, run.direction, "none", 0.0), run.restarts))
    assert max(restarts for *_, restarts in seen) >= 1
    route = Series("shanks", scale=scale, order=4, best=False)
    found = [(m.products, m.error()) for m in kernels.milestones(problem, route, seen[-1][0])]
    assert [products for products, _ in found] == [products for products, *_ in seen]
    np.testing.assert_allclose([e for _, e in found], [e for _, e, _ in seen], rtol=1e-6)


def test_a_direction_that_points_downhill_is_replaced_by_the_plain_sum():
    # Found among 4000 random problems of five variables; about one in a thousand is like it.
    rng = np.random.default_rng(0)
    values, gradient = rng.uniform(-1, 1, (4000, 5))[1569], rng.standard_normal((4000, 5))[1569]
    problem = SpectralProblem("downhill", np.diag(values), gradient, np.sort(values))
    scale = 1.01 * float(np.max(values**2))
    run = sum_series(problem.hvp, gradient, terms=18, scale=scale, accelerate="sablonniere", order=8)
    assert run.fell_back
    guarded, bare = (Series("sablonniere", scale=scale, order=8, best=False, guard=guard) for guard in (True, False))
    assert kernels.error_at(problem, guarded, 34) == pytest.approx(error(problem, run.direction, "none", 0.0))
    assert kernels.error_at(problem, bare, 34) != pytest.approx(error(problem, run.direction, "none", 0.0))


@pytest.mark.parametrize("method", kernels.METHODS)
def test_a_route_spends_what_it_may_and_no_more(method):
    # With 41 products the Krylov space of Lanczos is built twice.
    problem = logarithmic(0, n=50)
    reached = [m.products for m in kernels.milestones(problem, method, 41, mode="square", damping=0.1)]
    assert reached == sorted(set(reached))
    assert reached[-1] == (41 if method.startswith("lanczos") else 40)
    if method.startswith("lanczos"):
        found = kernels.errors_at(problem, method, [32, 33, 41], mode="square", damping=0.1)
        expected = [one_run(problem, method, b, "square", 0.1)[1] for b in (32, 33, 41)]
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("accelerate", ["shanks", "sablonniere"])
def test_a_sequence_that_stands_still_ends_the_table(accelerate):
    # Only two different |h|: differences vanish to rounding after a few rows, at different rows in different columns.
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    values = np.array([1.0, -1.0, 1.0, 0.7, -0.7, 0.7])
    problem = SpectralProblem("two", (basis * values) @ basis.T, rng.standard_normal(6), np.sort(values))
    for order in (1, 2, 5):
        route = Series(accelerate, scale=1.01, order=order, best=False)
        for terms in (3, 9, 20, 45):
            used = min(order, (terms - 1) // 2)
            run = sum_series(problem.hvp, problem.gradient, terms=terms, scale=1.01, accelerate=accelerate, order=used)
            expected = error(problem, run.direction, "none", 0.0)
            found = kernels.errors_at(problem, route, [max(2 * (terms - 1), 1)])[0]
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-13)


def test_the_series_as_published():
    # V = max(100, |H^2 g|/|g|), its two products shared with the first term; Shanks of order 8; no guard.
    rng = np.random.default_rng(2)
    for size in (0.3, 3.0):
        base = spiked(7, n=40)
        matrix, values = size * base.matrix, size * base.eigenvalues
        problem = SpectralProblem("scaled", matrix, rng.standard_normal(40), values)
        g = problem.gradient
        scale = max(100.0, float(np.linalg.norm(matrix @ (matrix @ g)) / np.linalg.norm(g)))
        run = sum_series(
            problem.hvp, g, terms=18, scale=scale, damping=0.02, mode="abs", accelerate="shanks", order=8, guard=False
        )
        expected = error(problem, run.direction, "abs", 0.02)
        assert run.products == 34
        assert kernels.error_at(problem, "shanks-paper", 34, mode="abs", damping=0.02) == pytest.approx(expected)
        assert kernels.error_at(problem, "shanks-paper", 35, mode="abs", damping=0.02) == pytest.approx(expected)


def test_no_answer_yet_and_none():
    problem = SMALL["gaussian"]
    assert np.isnan(kernels.error_at(problem, "shanks-default", 7))
    assert np.isnan(kernels.error_at(problem, "quadrature", 1))
    assert kernels.products_needed(problem, "series", 1e-8, limit=100) is None
    assert kernels.products_needed(problem, "lanczos", 1e-8, limit=15) is None
    assert kernels.products_needed(problem, "lanczos", 1e-8, limit=100) == 16


def test_tables_are_the_single_answers():
    problems = [logarithmic(seed, n=20) for seed in range(2)]
    errors = kernels.error_table(problems, ["lanczos", "shanks"], [4, 12], mode="square", damping=0.1)
    products = kernels.products_table(
        problems, ["lanczos", "shanks"], [0.1, 1e-9], mode="square", damping=0.1, limit=40
    )
    for name in ("lanczos", "shanks"):
        assert errors[name].shape == products[name].shape == (2, 2)
        for row, problem in enumerate(problems):
            assert errors[name][row, 1] == kernels.error_at(problem, name, 12, mode="square", damping=0.1)
            needed = kernels.products_needed(problem, name, 1e-9, mode="square", damping=0.1, limit=40)
            assert products[name][row, 1] == (math.inf if needed is None else needed)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_other_backends_give_the_same_numbers(library):
    dtype = "float32" if library == "numpy" else "float64"
    problem, other = (logarithmic(2, n=20, decades=1.0, backend=b) for b in (None, get_backend(library, dtype)))
    tolerance = 1e-3 if dtype == "float32" else 1e-9
    for method in kernels.methods_for("square"):
        expected = kernels.errors_at(problem, method, [9, 14], mode="square", damping=0.1)
        found = kernels.errors_at(other, method, [9, 14], mode="square", damping=0.1)
        # Shanks in single precision loses digits where the best order is high (chapter 5).
        loose = dtype == "float32" and method not in ("series", "chebyshev", "quadrature", "lanczos", "lanczos_sv")
        np.testing.assert_allclose(found, expected, rtol=0.5 if loose else tolerance, atol=1e-6)


def test_a_network_as_a_problem():
    rng = np.random.default_rng(0)
    net = MLP((3, 4, 1), rng.standard_normal((9, 3)), rng.standard_normal(9), activation="tanh")
    point = net.at(net.initial(rng))
    problem = kernels.problem_at(point)
    v = rng.standard_normal(net.n)
    np.testing.assert_allclose(problem.hvp(v), point.hvp(v), atol=1e-12)
    np.testing.assert_array_equal(problem.gradient, point.gradient)
    assert kernels.error_at(problem, "lanczos", net.n, mode="square", damping=0.1) < 1e-9


# -- the spectra ----------------------------------------------------------------------------------------------------


def test_eigenvalues_are_those_of_the_matrix():
    for problem in [*SMALL.values(), logarithmic(0), gaussian(0)]:
        np.testing.assert_allclose(np.linalg.eigvalsh(problem.matrix), problem.eigenvalues, atol=1e-12)


def test_the_logarithmic_spectrum():
    problem = logarithmic(0)
    logs = np.sort(np.log10(np.abs(problem.eigenvalues)))
    np.testing.assert_allclose(logs.reshape(50, 2), np.repeat(np.linspace(-3, 0, 50)[:, None], 2, axis=1), atol=1e-12)
    np.testing.assert_array_equal(np.sort(-problem.eigenvalues), problem.eigenvalues)


def test_the_gaussian_spectrum():
    # Variance 1 everywhere, the diagonal included, and Wigner's semicircle of radius 2 sqrt(n).
    problems = [gaussian(seed) for seed in range(20)]
    matrix = np.stack([problem.matrix for problem in problems])
    diagonal = np.diagonal(matrix, axis1=1, axis2=2)
    above = matrix[:, *np.triu_indices(100, 1)]
    assert np.var(diagonal) == pytest.approx(1, abs=0.1)
    assert np.var(above) == pytest.approx(1, abs=0.02)
    np.testing.assert_array_equal(matrix, np.swapaxes(matrix, 1, 2))
    values = np.concatenate([problem.eigenvalues for problem in problems])
    assert np.median([problem.largest for problem in problems]) == pytest.approx(20, rel=0.05)
    # Half of the semicircle's mass lies within 0.404 of its radius.
    assert np.median(np.abs(values)) == pytest.approx(0.404 * 20, rel=0.03)


def test_the_spiked_spectrum():
    values = network_like().eigenvalues
    assert values.shape == (1000,)
    np.testing.assert_allclose(values[-12:], 0.5 * 40 ** (np.arange(12) / 11))
    np.testing.assert_allclose(values[:3], [-1.0, -0.3, -0.1])
    bulk = values[3:-12]
    # Half normal of size 0.02 on one side, half of size 0.001 on both: a quarter is negative, and tiny.
    assert np.abs(bulk).max() < 0.1
    assert (bulk < 0).mean() == pytest.approx(0.25, abs=0.03)
    assert bulk.min() > -0.005
    assert np.std(bulk[bulk > 0.005]) > 0.008


def test_lanczos_is_ten_times_better_than_the_best_series_on_the_spiked_spectrum():
    # Measured over five seeds: about 45 times, the series being given V and the order.
    problem = network_like()
    exact = kernels.exact_direction(problem, "abs", 1e-2)
    setting = {"mode": "abs", "damping": 1e-2, "exact": exact}
    best = min(kernels.errors_at(problem, name, [34], **setting)[0] for name in kernels.ACCELERATED)
    assert 10 * kernels.errors_at(problem, "lanczos", [34], **setting)[0] < best


# -- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda p: kernels.error_at(p, "newton", 4), "unknown method 'newton'; choose one of"),
        (lambda p: kernels.error_at(p, "lanczos", 0), "each budget must be a whole number of at least 1, got 0"),
        (lambda p: kernels.error_at(p, "lanczos", 4, mode="abs", damping=-1.0), "damping must be finite and at least"),
        (lambda p: kernels.error_at(p, "lanczos", 4, damping=0.1), "choose mode 'abs' or 'square'"),
        (lambda p: kernels.error_at(p, "lanczos", 4, mode="shift"), "unknown mode 'shift'"),
        (lambda p: kernels.error_at(p, "quadrature", 4, mode="abs", damping=0.1), "choose mode 'square' or 'none'"),
        (lambda p: kernels.products_needed(p, "lanczos", 0.0), "each target must be finite and positive"),
        (lambda p: kernels.products_needed(p, "lanczos", 0.1, limit=0), "limit must be a whole number of at least 1"),
        (lambda p: kernels.error_at(p, Series("shanks", scale=-1.0), 4), "scale must be finite and positive"),
        (lambda p: kernels.draws("wigner", 2), "unknown family 'wigner'; choose one of"),
        (lambda p: kernels.draws("gaussian", 0), "seeds must be a whole number of at least 1"),
    ],
)
def test_wrong_input(call, says):
    with pytest.raises(ValueError, match=says):
        call(SMALL["gaussian"])


@pytest.mark.parametrize("method", ["chebyshev", "quadrature"])
def test_an_interval_that_cannot_be(method):
    singular = SpectralProblem("singular", np.diag([0.0, 1.0]), np.ones(2), np.array([0.0, 1.0]))
    with pytest.raises(ValueError, match="must keep away from zero"):
        kernels.error_at(singular, method, 4)
    one = SpectralProblem("one", np.diag([-1.0, 1.0]), np.ones(2), np.array([-1.0, 1.0]))
    with pytest.raises(ValueError, match="two different ends"):
        kernels.error_at(one, method, 4)
