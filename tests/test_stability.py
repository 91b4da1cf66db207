"""Fixed learning rate and momentum on quadratics.

Oracles: NumPy's ``eigvals`` of the 2 × 2 matrices; golden vectors in 60-digit arithmetic; a plain loop on a dense
quadratic; SciPy's Nelder–Mead over a dense spectrum, which knows no formula for the best parameters.
"""

import numpy as np
import pytest
from golden_vectors import golden
from scipy import optimize

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.stability import is_stable, optimal_parameters, spectral_radius, transition_matrix

GOLDEN = golden("curveball_kryball")
POINTS = GOLDEN["transition_matrix"]
BEST = GOLDEN["curveball_optimal_fixed_parameters"]
RULES = pytest.mark.parametrize("rule", ["curveball", "heavy-ball"])


def simulated_matrix(momentum, scaled_rate, rule):
    """R from the images of the unit vectors under the two lines of the method."""
    columns = []
    for y, x in ((1.0, 0.0), (0.0, 1.0)):
        y_next = momentum * y - scaled_rate * (x + (y if rule == "curveball" else 0.0))
        columns.append([y_next, x + y_next])
    return np.array(columns).T


def dense_radius(momentum, scaled_rate, rule):
    keep = momentum - (scaled_rate if rule == "curveball" else 0.0)
    matrices = np.stack([keep, -scaled_rate + 0 * keep, keep, 1.0 - scaled_rate + 0 * keep], axis=-1)
    return np.abs(np.linalg.eigvals(matrices.reshape(*np.shape(keep), 2, 2))).max(axis=-1)


@pytest.mark.parametrize("point", POINTS, ids=lambda p: f"{p['rho']}-{p['beta_h']:.4g}")
def test_golden_points(point):
    rho, rate = np.asarray(point["rho"]), np.asarray(point["beta_h"])
    r = transition_matrix(rho, rate)
    np.testing.assert_allclose(r, point["R"], rtol=1e-15, atol=1e-15)
    assert np.trace(r) == pytest.approx(point["trace"], rel=1e-14, abs=1e-15)
    assert float(spectral_radius(rho, rate)) == pytest.approx(point["spectral_radius"], rel=1e-14, abs=1e-15)
    # beta h = 4/3 rounded down is inside by 1e-16, which the inequalities in float64 cannot tell.
    if not 0 < 1 - point["spectral_radius"] < 1e-15:
        assert bool(is_stable(rho, rate)) == point["stable_by_eq39"]


@RULES
def test_matrix_is_the_iteration(rule):
    for rho, rate in np.random.default_rng(0).uniform(-0.5, 2.5, (50, 2)):
        found = transition_matrix(np.asarray(rho), np.asarray(rate), rule)
        np.testing.assert_allclose(found, simulated_matrix(rho, rate, rule), rtol=1e-15, atol=1e-15)


@RULES
def test_radius_against_eigvals(rule):
    rho, rate = np.random.default_rng(1).uniform(-0.5, 2.5, (2, 20_000))
    np.testing.assert_allclose(spectral_radius(rho, rate, rule), dense_radius(rho, rate, rule), rtol=1e-7, atol=1e-7)


@RULES
def test_region_is_where_the_radius_is_below_one(rule):
    rng = np.random.default_rng(2)
    rho = rng.uniform(-1.5, 2.5, 200_000)
    rate = rng.uniform(-0.5, 4.5 if rule == "heavy-ball" else 2.5, 200_000)
    radius = dense_radius(rho, rate, rule)
    decided = np.abs(radius - 1) > 1e-12
    assert decided.mean() > 0.9999
    stable = is_stable(rho, rate, rule)
    assert np.count_nonzero((stable != (radius < 1)) & decided) == 0
    assert 0.1 < stable.mean() < 0.6


@RULES
def test_boundary_does_not_belong_to_the_region(rule):
    on_it = {
        "curveball": [(0.5, 0.0), (0.5, 1.0), (1.25, 0.25), (2.0, 2.0)],
        "heavy-ball": [(0.5, 0.0), (0.5, 3.0), (1.0, 0.5), (-1.0, 0.0)],
    }[rule]
    rho, rate = np.array(on_it).T
    np.testing.assert_allclose(dense_radius(rho, rate, rule), 1.0, rtol=1e-6)
    assert not is_stable(rho, rate, rule).any()


def test_momentum_one_has_the_widest_interval():
    def width(rho):
        rates = np.linspace(0.0, 3.0, 60_001)
        return np.count_nonzero(is_stable(np.asarray(rho), rates)) * (rates[1] - rates[0])

    assert width(1.0) == pytest.approx(4 / 3, abs=1e-3)
    for rho in (0.0, 0.5, 0.9, 0.99):
        assert width(rho) == pytest.approx(2 * (1 + rho) / 3, abs=1e-3)
    for rho in (1.01, 1.2, 2.0):
        assert width(rho) == pytest.approx((5 - rho) / 3, abs=1e-3)


@RULES
@pytest.mark.parametrize("case", BEST, ids=lambda case: str(case["kappa"]))
def test_best_parameters_golden(case, rule):
    found = optimal_parameters(case["kappa"], rule)
    if rule == "heavy-ball":
        assert found.rate == pytest.approx(case["heavy_ball_optimal_rate"], rel=1e-13)
        return
    assert found.momentum == pytest.approx(case["rho"], rel=1e-12)
    assert found.scaled_learning_rate == pytest.approx(case["beta_times_hmin"], rel=1e-11)
    assert found.rate == pytest.approx(case["rate"], rel=1e-13)
    more = np.log(optimal_parameters(case["kappa"], "heavy-ball").rate) / np.log(found.rate)
    assert more == pytest.approx(case["iteration_ratio_curveball_over_heavyball"], rel=1e-11)


def worst_radius(rho, scaled_rate, kappa, rule):
    return dense_radius(rho + np.zeros(400), scaled_rate * np.geomspace(1.0, kappa, 400), rule).max()


def optimal_below_three(kappa):
    """For kappa <= 3 the bounds of the region |eigenvalues| <= r meet at beta h_max = 1 - r^2, not at a double root."""
    square = (kappa - 1) / (3 * kappa - 1)
    return 1 - 2 * square, 1 - 3 * square, square**0.5


def test_formula_below_three_is_the_best_there():
    for kappa in (1.01, 1.5, 2.9):
        rho, rate, radius = optimal_below_three(kappa)
        assert worst_radius(rho, rate, kappa, "curveball") == pytest.approx(radius, abs=1e-7)
        for step in np.random.default_rng(4).standard_normal((500, 2)):
            assert worst_radius(rho + 0.05 * step[0], rate + 0.05 * step[1], kappa, "curveball") > radius - 1e-9


@pytest.mark.parametrize("kappa", [1.01, 1.5, 2.9])
def test_best_parameters_for_small_condition_numbers(kappa):
    assert optimal_parameters(kappa) == pytest.approx(optimal_below_three(kappa), abs=1e-9)


def test_best_parameters_for_condition_numbers_one_and_three():
    assert optimal_parameters(1.0) == pytest.approx(optimal_below_three(1.0), abs=1e-9)
    assert optimal_parameters(3.0) == pytest.approx(optimal_below_three(3.0), abs=1e-9)


@RULES
@pytest.mark.parametrize("kappa", [1.0, 3.0, 4.0, 30.0, 1000.0])
def test_rate_is_the_worst_radius_over_the_spectrum(kappa, rule):
    rho, rate, radius = optimal_parameters(kappa, rule)
    # At the optimum eigenvalues coincide: a root of rounding is what eigvals can tell.
    assert worst_radius(rho, rate, kappa, rule) == pytest.approx(radius, abs=3e-7)


@RULES
@pytest.mark.parametrize("kappa", [3.0, 4.0, 30.0, 1000.0])
def test_no_other_parameters_are_better(kappa, rule):
    rho, rate, radius = optimal_parameters(kappa, rule)
    rng = np.random.default_rng(3)
    for size in (1e-4, 1e-2, 0.3):
        for step in rng.standard_normal((200, 2)):
            other = worst_radius(rho + size * step[0], rate * np.exp(size * step[1]), kappa, rule)
            assert other > radius - 1e-7
    found = optimize.minimize(
        lambda p: worst_radius(p[0], np.exp(p[1]), kappa, rule), [rho - 0.05, np.log(0.8 * rate)],
        method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-12, "maxiter": 4000},
    )  # fmt: skip
    assert found.fun == pytest.approx(radius, rel=1e-3)
    assert found.fun > radius - 1e-7


def test_large_condition_numbers():
    for kappa in (1e6, 1e10, 1e14):
        rate, heavy = (optimal_parameters(kappa, rule).rate for rule in ("curveball", "heavy-ball"))
        assert 1 - rate == pytest.approx(2 / np.sqrt(3 * kappa), rel=2 / np.sqrt(kappa) + 1e-8)
        assert (1 - heavy) / (1 - rate) == pytest.approx(np.sqrt(3), rel=1e-2)


@RULES
def test_iteration_on_a_quadratic_shrinks_at_the_rate(rule):
    h = np.geomspace(1.0, 25.0, 30)
    rho, beta, radius = optimal_parameters(25.0, rule)
    z, x, sizes = np.zeros(30), np.ones(30), []
    for _ in range(260):
        z = rho * z - beta * (h * x + (h * z if rule == "curveball" else 0.0))
        x = x + z
        sizes.append(np.linalg.norm(x))
    # A Jordan block adds a factor of the iteration number, so the last steps are still a little slower.
    assert (sizes[-1] / sizes[-61]) ** (1 / 60) == pytest.approx(radius, rel=0.01)


@RULES
def test_every_backend_and_broadcasting(rule, backend):
    rho, rate = np.array([[0.9], [1.05]]), np.array([0.04, 1.2, 1.4])
    given = backend.asarray(rho), backend.asarray(rate)
    tolerance = 1e-14 if backend.dtype_name == "float64" else 1e-6
    for function in (transition_matrix, spectral_radius):
        found = function(*given, rule)
        assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
        wanted = function(rho, rate, rule)
        assert tuple(found.shape) == ((2, 3, 2, 2) if function is transition_matrix else (2, 3))
        np.testing.assert_allclose(to_numpy(found), wanted, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(to_numpy(is_stable(*given, rule)), is_stable(rho, rate, rule))
