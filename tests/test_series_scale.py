"""Rules for V, and what guards the series against a bad one, against dense matrices and counterexamples.

The oracles are golden vectors (60-digit arithmetic), NumPy's eigenvalues and norms of matrices whose products alone the
rules see, closed forms for diagonal matrices on which a rule must fail, and the variance of Hutchinson's estimate.
"""

import math

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st

import refimpl.curvature.series as module
from refimpl.arrays import dtype_name, to_numpy
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.scale import (
    frobenius_scale,
    lanczos_scale,
    magnitude_bound,
    power_scale,
    ratio_scale,
    rayleigh_quotients,
    trace_scale,
)
from refimpl.curvature.series import partial_sums, sum_series
from refimpl.problems.spectra import gaussian

SERIES = golden("series")
H, G, V = np.array(SERIES["problem"]["H"]), np.array(SERIES["problem"]["g"]), SERIES["problem"]["V"]
RULES = SERIES["V_heuristics"]
HIDDEN = SERIES["edge_cases"]["V_heuristic_diverges"]
"""H = diag(1, 15) with a gradient that hardly sees the 15."""


def symmetric(rng, n, batch=()):
    a = rng.standard_normal((*batch, n, n))
    return a + np.swapaxes(a, -1, -2)


def matvec_of(matrix):
    """v -> H v for (..., n, n) and (..., n)."""
    return lambda v: (matrix @ v[..., None])[..., 0]


def largest_square(matrix):
    return np.linalg.norm(matrix, 2, axis=(-2, -1)) ** 2


# -- golden vectors -------------------------------------------------------------------------------------------------


def test_rules_golden(backend):
    h, g = backend.asarray(H), backend.asarray(G)
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-5

    def check(found, expected):
        assert tuple(found.shape) == ()
        assert dtype_name(found.dtype) == backend.dtype_name
        assert float(found) == pytest.approx(expected, rel=tolerance)

    def hvp(v):
        return h @ v

    for start, key in [(0, "ratio_H2g_over_g"), (4, "running_max_from_V0_4"), (100, "running_max_from_V0_100")]:
        check(ratio_scale(g, hvp(hvp(g)), backend.asarray(start)), RULES[key])
    check(frobenius_scale(hvp, g), RULES["trace_H2"])
    check(trace_scale(hvp, g), RULES["paper_trace_bound_m_trH_sq"])
    quotients = RULES["power_iteration_H2_rayleigh_10_from_ones"]
    found = rayleigh_quotients(hvp, backend.asarray(np.ones(4)), 10)
    for quotient, expected in zip(found, quotients, strict=True):
        check(quotient, expected)
    check(power_scale(hvp, backend.asarray(np.ones(4)), safety=1.25), 1.25 * quotients[-1])
    # After four of four steps nothing is left out: the bound is the spectral norm, squared.
    check(lanczos_scale(hvp, g, steps=4, safety=1.0), SERIES["exact"]["lambda_max_H2"])


def test_ratios_along_the_series_golden(backend):
    h = backend.asarray(H)
    terms = list(partial_sums(lambda v: h @ v, backend.asarray(G), terms=6, scale=V))
    assert float(terms[0].ratio) == 0
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-5
    ratios = [float(term.ratio) for term in terms[1:]]
    np.testing.assert_allclose(ratios, RULES["ratio_on_a_k_k0_to_4_V8"], rtol=tolerance)


# -- the ratio rule, and the guard ------------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_the_ratio_is_never_above_the_largest_square(seed, n):
    rng = np.random.default_rng(seed)
    h, g = symmetric(rng, n), rng.standard_normal(n)
    ratio = ratio_scale(g, h @ h @ g, np.asarray(0.0))
    assert 0 < ratio <= largest_square(h) * (1 + 1e-12)


def test_the_ratio_rule_leaves_the_scale_where_it_knows_nothing(backend):
    gradient = backend.asarray([[0.0, 0.0], [1.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    product = backend.asarray([[0.0, 0.0], [float("nan"), 1.0], [float("inf"), 1.0], [9.0, 0.0]])
    found = ratio_scale(gradient, product, backend.asarray([7.0, 7.0, 7.0, 7.0]))
    assert to_numpy(found).tolist() == [7.0, 7.0, 7.0, 9.0]


def test_the_ratio_rule_fails_where_the_gradient_hides_the_curvature():
    h, g, start = np.array(HIDDEN["H_diag"]), np.array(HIDDEN["g"]), HIDDEN["V0"]
    assert ratio_scale(g, h * h * g, np.asarray(start)) == start < HIDDEN["lambda_max_H2_over_2"]


def test_the_guard_notices_a_scale_that_is_too_small():
    h, g = np.array(HIDDEN["H_diag"]), np.array(HIDDEN["g"])
    found = sum_series(lambda v: h * v, g, terms=100, scale=HIDDEN["V0"])
    assert found.restarts == 1
    assert HIDDEN["lambda_max_H2_over_2"] < found.scale < 1.1 * 225
    # The component along the 15 is late: 58 terms are spent before the restart, 99 after it.
    assert found.products == 2 * (58 + 99)
    assert found.direction[1] == pytest.approx(g[1] / 15, rel=1e-6)
    assert sum_series(lambda v: h * v, g, terms=58, scale=HIDDEN["V0"]).restarts == 0


def test_without_the_guard_the_series_diverges():
    h, g = np.array(HIDDEN["H_diag"]), np.array(HIDDEN["g"])
    bare = [
        sum_series(lambda v: h * v, g, terms=terms, scale=HIDDEN["V0"], guard=False) for terms in (100, 101, 300, 301)
    ]
    errors = [abs(found.direction[1] - g[1] / 15) for found in bare]
    assert min(errors[:2]) > 10  # of a component of 7e-8
    assert min(errors[2:]) > 1e15
    assert all((found.restarts, float(found.scale)) == (0, 100.0) for found in bare)


def test_the_guard_forgets_the_sums_before_a_restart():
    h, g = np.array([1.0, -15.0, 4.0]), np.array([1.0, 1e-3, -1.0])
    again = sum_series(lambda v: h * v, g, terms=60, scale=90.0, accelerate="shanks", order=3)
    assert again.restarts >= 1
    fresh = sum_series(lambda v: h * v, g, terms=60, scale=float(again.scale), accelerate="shanks", order=3)
    np.testing.assert_array_equal(again.direction, fresh.direction)


def test_the_guard_raises_only_the_scale_of_the_run_that_needs_it():
    h = np.array([[1.0, 1.5], [3.0, 30.0], [0.5, 0.1]])
    scale = np.array([4.0, 4.0, 1.0])
    found = sum_series(lambda v: h * v, np.ones((3, 2)), terms=80, scale=scale)
    assert found.scale[[0, 2]].tolist() == [4.0, 1.0]
    assert 450 < found.scale[1] <= 1.1 * 900
    assert np.isfinite(found.direction).all()


@given(st.integers(0, 10_000), st.floats(1e-6, 1e6), st.sampled_from(["none", "abs", "square", "shift"]))
@settings(max_examples=60, deadline=None)
def test_with_the_guard_no_scale_makes_the_sum_leave_its_bounds(seed, scale, mode):
    rng = np.random.default_rng(seed)
    h, g, d = symmetric(rng, 4), rng.standard_normal(4), 0.0 if mode == "none" else 0.3
    found = sum_series(matvec_of(h), g, terms=12, scale=scale, mode=mode, damping=d)
    # No ratio exceeded the final V, so each Z^k g is at most twice as long as the one before.
    assert found.scale >= scale
    assert np.linalg.norm(found.direction) <= 2.0**12 * np.linalg.norm(g) / math.sqrt(found.scale)
    assert found.scale <= max(scale, 1.1 * (largest_square(h) ** 0.5 + d) ** 2 * (1 + 1e-12))


def test_an_uphill_acceleration_gives_way_to_the_plain_sum():
    rng = np.random.default_rng(0)
    h, g = symmetric(rng, 2, (2000,)), rng.standard_normal((2000, 2))
    scale = 1.01 * np.abs(np.linalg.eigvalsh(h)).max(axis=-1) ** 2
    knobs = {"terms": 18, "scale": scale, "accelerate": "sablonniere", "order": 8}
    guarded, bare = (sum_series(matvec_of(h), g, guard=guard, **knobs) for guard in (True, False))
    uphill = (bare.direction * g).sum(-1) <= 0
    assert 10 < uphill.sum() < 200
    np.testing.assert_array_equal(guarded.fell_back, uphill)
    np.testing.assert_array_equal(guarded.direction[uphill], guarded.plain[uphill])
    np.testing.assert_array_equal(guarded.direction[~uphill], bare.direction[~uphill])
    assert ((guarded.direction * g).sum(-1) > 0).all()
    assert not bare.fell_back.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_useless_acceleration_gives_way_to_the_plain_sum(value, monkeypatch):
    class Fake:
        def push(self, row):
            pass

        def value(self):
            return np.full((2, 3), value) * [[1.0], [0.0 if math.isfinite(value) else value]]

    monkeypatch.setattr(module, "accelerator", lambda *given, **options: Fake())
    g = np.ones((2, 3))
    found = sum_series(lambda v: v, g, terms=5, scale=1.5, accelerate="shanks", order=1)
    assert found.fell_back.tolist() == [True, True]
    np.testing.assert_array_equal(found.direction, found.plain)
    with np.errstate(invalid="ignore"):
        still = sum_series(lambda v: v, 0 * g, terms=5, scale=1.5, accelerate="shanks", order=1)
    assert not still.fell_back.any()


# -- traces -----------------------------------------------------------------------------------------------------------


def test_the_frobenius_rule_is_a_bound_and_the_squared_norm():
    rng = np.random.default_rng(1)
    h = symmetric(rng, 5, (20,))
    calls = []
    found = frobenius_scale(lambda v: calls.append(1) or matvec_of(h)(v), np.ones((20, 5)))
    np.testing.assert_allclose(found, np.linalg.norm(h, axis=(-2, -1)) ** 2, rtol=1e-13)
    assert len(calls) == 5
    assert (found >= largest_square(h)).all()
    assert (found <= 5 * largest_square(h)).all()


def test_the_trace_rule_holds_for_positive_and_fails_for_indefinite_matrices():
    like = np.ones(2)
    assert trace_scale(lambda v: np.array([3.0, -1.0]) * v, like) == 8 < 3**2
    assert trace_scale(lambda v: np.array([1.0, -1.0]) * v, like) == 0
    rng = np.random.default_rng(2)
    root = rng.standard_normal((20, 4, 4))
    definite = root @ np.swapaxes(root, -1, -2)
    found = trace_scale(matvec_of(definite), np.ones((20, 4)))
    np.testing.assert_allclose(found, 4 * np.trace(definite, axis1=-2, axis2=-1) ** 2, rtol=1e-13)
    assert (found >= largest_square(definite)).all()


def test_hutchinson_is_unbiased():
    rng, n, samples = np.random.default_rng(3), 6, 4000
    h = symmetric(rng, n)

    def deviation(a):
        """Of v·A v over Rademacher v."""
        return math.sqrt(2 * (np.sum(a**2) - np.sum(np.diag(a) ** 2)) / samples)

    square = frobenius_scale(matvec_of(h), np.ones(n), samples=samples, rng=4)
    assert abs(square - np.sum(h**2)) < 4 * deviation(h @ h)
    root = math.sqrt(trace_scale(matvec_of(h), np.ones(n), samples=samples, rng=5) / n)
    assert abs(root - abs(np.trace(h))) < 4 * deviation(h)
    # Few probes scatter by about as much as they should.
    few = np.array([frobenius_scale(matvec_of(h), np.ones(n), samples=1, rng=seed) for seed in range(400)])
    assert few.std() == pytest.approx(deviation(h @ h) * math.sqrt(samples), rel=0.15)


def test_probes_of_runs_are_independent_and_the_seed_decides():
    h = symmetric(np.random.default_rng(6), 5)
    found = frobenius_scale(matvec_of(h), np.ones((3, 5)), samples=2, rng=7)
    assert len(set(found.tolist())) == 3
    np.testing.assert_array_equal(found, frobenius_scale(matvec_of(h), np.ones((3, 5)), samples=2, rng=7))


# -- power iteration and Lanczos -------------------------------------------------------------------------------------


def test_rayleigh_quotients_rise_towards_the_largest_square():
    rng = np.random.default_rng(8)
    h, start = symmetric(rng, 6, (30,)), rng.standard_normal((30, 6))
    calls = []
    found = np.stack(rayleigh_quotients(lambda v: calls.append(1) or matvec_of(h)(v), start, 25))
    assert len(calls) == 50
    assert (np.diff(found, axis=0) >= -1e-12 * found[1:]).all()
    assert (found <= largest_square(h) * (1 + 1e-12)).all()
    for k in (0, 3):
        v = matvec_of(np.linalg.matrix_power(h, 2 * k))(start)
        np.testing.assert_allclose(found[k], (matvec_of(h)(v) ** 2).sum(-1) / (v**2).sum(-1), rtol=1e-10)


def test_power_iteration_never_finds_what_its_start_lacks():
    h = np.array([10.0, 1.0, -2.0])
    assert power_scale(lambda v: h * v, np.array([0.0, 1.0, 1.0]), iterations=50, safety=1.5) == pytest.approx(6.0)
    assert power_scale(lambda v: h * v, np.zeros(3)) == 0


def test_the_lanczos_rule_avoids_the_divergence():
    h, g = np.array(HIDDEN["H_diag"]), np.array(HIDDEN["g"])
    calls = []
    scale = lanczos_scale(lambda v: calls.append(1) or h * v, g, steps=2)
    assert len(calls) == 2
    assert scale == pytest.approx(1.1 * 225, rel=1e-9)
    found = sum_series(lambda v: h * v, g, terms=100, scale=scale)
    assert found.restarts == 0
    np.testing.assert_allclose(found.direction[1], g[1] / 15, rtol=1e-12)


def test_the_lanczos_bound_is_the_ritz_value_and_its_true_residual():
    rng = np.random.default_rng(9)
    h, g = symmetric(rng, 12, (25,)), rng.standard_normal((25, 12))
    space = lanczos(matvec_of(h), g, 5)
    bound = magnitude_bound(space.tridiagonal(), space.beta[..., -1])
    np.testing.assert_allclose(lanczos_scale(matvec_of(h), g, steps=5, safety=1.3), 1.3 * bound**2, rtol=1e-13)
    for matrix, start, found in zip(h, g, bound, strict=True):
        # The same from a QR basis of the Krylov space and dense matrices.
        krylov = np.linalg.qr(np.stack([np.linalg.matrix_power(matrix, k) @ start for k in range(5)], axis=1))[0]
        values, vectors = np.linalg.eigh(krylov.T @ matrix @ krylov)
        top = np.abs(values).argmax()
        ritz = krylov @ vectors[:, top]
        residual = np.linalg.norm(matrix @ ritz - values[top] * ritz)
        assert found == pytest.approx(abs(values[top]) + residual, rel=1e-8)
        gaps = np.abs(np.abs(np.linalg.eigvalsh(matrix)) - abs(values[top]))
        assert gaps.min() <= residual * (1 + 1e-9)


def test_the_lanczos_rule_for_runs_that_know_everything_early():
    h = np.array([[1.0, -3.0, 2.0], [1.0, -3.0, 2.0], [0.0, 0.0, 0.0]])
    g = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    assert lanczos_scale(lambda v: h * v, g, safety=1.0).tolist() == [4.0, 0.0, 0.0]


def test_gaussian_matrices_defeat_the_ratio_rule_in_every_draw_and_lanczos_in_none():
    for seed in range(20):
        problem = gaussian(seed, n=100)
        h, g, largest = problem.matrix, problem.gradient, largest_square(problem.matrix)
        assert ratio_scale(g, h @ h @ g, np.asarray(0.0)) < 0.5 * largest
        assert math.sqrt(lanczos_scale(problem.hvp, g, steps=8, safety=1.0) / largest) >= 0.95
