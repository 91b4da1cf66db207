"""ELMO's scalar step and the cubic bounds it minimizes.

Oracles: 60-digit numbers (tests/golden/elmo.json) and more of them from mpmath's plain formula; a grid over both signs;
the definitions of the models, typed again; algebraic identities. Where the ELMO paper's statement is false, its
counterexample is a test, beside the statement that holds.
"""

import mpmath as mp
import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from refimpl.arrays import device_of, dtype_name, get_backend, machine_epsilon, to_numpy
from refimpl.curvature.cubic import (
    cauchy_step,
    elmo_step,
    harmful_above,
    least_majorizer,
    majorizer,
    majorizer_regret,
    minorizer,
    minorizer_at_step,
    minorizer_regret,
    relative_regret,
    root,
)

GOLDEN = golden("elmo")
EPS = 2.0**-52
INF = float("inf")


def kinds(count, seed=0, decades=3.0):
    """lam of both signs, g and L, log-uniform: (3, count)."""
    rng = np.random.default_rng(seed)
    lam, g, bound = 10.0 ** rng.uniform(-decades, decades, (3, count))
    return np.stack([lam * rng.choice([-1.0, 1.0], count), g, bound])


def exactly(lam, g, bound):
    """x*, M(x*) and m(x*) from the formulas as printed, with so many digits that nothing cancels."""
    with mp.workdps(900):
        lam, g, bound = mp.mpf(float(lam)), mp.mpf(float(g)), mp.mpf(float(bound))
        x = (mp.sqrt(lam**2 + 2 * bound * g) - lam) / bound
        quadratic, cubic = -g * x + lam * x**2 / 2, bound * x**3 / 6
        return float(x), float(quadratic + cubic), float(quadratic - cubic)


def naive(lam, g, bound):
    """ELMO paper, eq. 7, as printed."""
    return (np.sqrt(lam**2 + 2 * bound * g) - lam) / bound


# -- golden numbers ---------------------------------------------------------------------------------------------------


def row_id(row):
    return f"{row['lam']:g},{row['g']:g},{row['L']:g}"


@pytest.mark.parametrize("row", GOLDEN["elmo_step_table"], ids=row_id)
def test_golden_steps(row, backend):
    given = [row[key] for key in ("lam", "g", "L")]
    tiny, huge = (1e-30, 1e30) if backend.dtype_name == "float32" else (0.0, INF)
    if any(v and not tiny < abs(v) < huge for v in given):
        pytest.skip("outside the range of float32")
    lam, g, bound = (backend.asarray([v]) for v in given)
    step = elmo_step(lam, g, bound)
    assert (dtype_name(step.dtype), device_of(step)) == (backend.dtype_name, backend.device)
    eps = machine_epsilon(step)
    if row["step"] == "inf":
        assert to_numpy(step)[0] == INF
        assert to_numpy(least_majorizer(lam, g, bound))[0] == -INF
        return
    assert to_numpy(step)[0] == pytest.approx(row["step"], rel=4 * eps, abs=0)
    for function, key in ((least_majorizer, "M_star"), (minorizer_at_step, "m_star")):
        assert to_numpy(function(lam, g, bound))[0] == pytest.approx(row[key], rel=8 * eps, abs=0)
    if row["ratio_m_over_M"] is not None and row["M_star"] != 0:
        ratio = to_numpy(minorizer_at_step(lam, g, bound) / least_majorizer(lam, g, bound))[0]
        assert ratio == pytest.approx(row["ratio_m_over_M"], rel=12 * eps)


def test_golden_table_at_once_and_by_numbers(backend):
    if backend.dtype_name == "float32":
        pytest.skip("holds rows outside the range of float32")
    rows = GOLDEN["elmo_step_table"]
    lam, g, bound = (backend.asarray([row[key] for row in rows]) for key in ("lam", "g", "L"))
    together = to_numpy(elmo_step(lam, g, bound))
    np.testing.assert_allclose(together, [float(row["step"]) for row in rows], rtol=4 * EPS)
    for i, row in enumerate(rows):
        assert float(elmo_step(row["lam"], row["g"], row["L"])) == pytest.approx(together[i], rel=2 * EPS)


@pytest.mark.parametrize("row", GOLDEN["M_m_values"], ids=lambda row: f"{row['x']:g}")
def test_golden_models(row, backend):
    given = [backend.asarray([row[key]]) for key in ("x", "lam", "g", "L")]
    eps = machine_epsilon(given[0])
    assert to_numpy(majorizer(*given))[0] == pytest.approx(row["M"], rel=8 * eps, abs=2 * eps)
    assert to_numpy(minorizer(*given))[0] == pytest.approx(row["m"], rel=8 * eps, abs=2 * eps)


@pytest.mark.parametrize("row", GOLDEN["eq8"], ids=str)
def test_golden_newton_thresholds(row, backend):
    lam, g = backend.asarray([row["lam"]]), backend.asarray([row["g"]])
    x = row["alpha"] * g / lam
    assert to_numpy(harmful_above(x, lam, g))[0] == pytest.approx(row["L_crit"], rel=32 * machine_epsilon(x))
    # At the threshold the model is zero: the step neither gains nor loses in the worst case.
    assert abs(to_numpy(majorizer(x, lam, g, row["L_crit"]))[0]) <= 16 * machine_epsilon(x) * float((g * x)[0])


@pytest.mark.parametrize("row", GOLDEN["step_threshold"], ids=str)
def test_golden_thresholds_of_any_step(row):
    assert float(harmful_above(row["x"], row["lam"], row["g"])) == pytest.approx(row["L_crit"], rel=1e-14)


@pytest.mark.parametrize("row", GOLDEN["regret"], ids=lambda row: f"{row['lam']:g},{row['x']:g}")
def test_golden_regrets(row, backend):
    x, lam, g, bound = (backend.asarray([row[key]]) for key in ("x", "lam", "g", "L"))
    tolerance = {"rel": 1e-12, "abs": 1e-14} if backend.dtype_name == "float64" else {"rel": 1e-4, "abs": 1e-6}
    u = relative_regret(x, lam, g, bound)
    assert to_numpy(u)[0] == pytest.approx(row["dd_rel"], **tolerance)
    rho = lam / root(lam, g, bound)
    assert to_numpy(rho)[0] == pytest.approx(row["rho"], **tolerance)
    if row["dd_rel"] >= -1:
        assert to_numpy(majorizer_regret(u, rho))[0] == pytest.approx(row["regret_M"], **tolerance)
        assert to_numpy(minorizer_regret(u, rho))[0] == pytest.approx(row["regret_m"], **tolerance)


@pytest.mark.parametrize("case", GOLDEN["lemma_M5"], ids=str)
def test_printed_bound_of_the_step_fails_and_the_right_one_holds(case):
    # ELMO paper, lemma M.5: x* = O(|lam|) for lam < 0, in the form x* <= 2|lam|/L.
    x = float(elmo_step(case["lam"], case["g"], case["L"]))
    assert x == pytest.approx(case["step"], rel=4 * EPS)
    printed = 2 * abs(case["lam"]) / case["L"]
    assert printed == pytest.approx(case["paper_claim"])
    assert x > printed
    assert x <= case["corrected_upper"]


# -- the minimizer ----------------------------------------------------------------------------------------------------


def test_against_many_digits():
    for case in kinds(300, decades=150).T:
        x, most, least = exactly(*case)
        if not 1e-290 < x < 1e290:
            continue
        assert float(elmo_step(*case)) == pytest.approx(x, rel=5 * EPS, abs=0), case
        if 1e-280 < abs(most) < 1e280 and x * x > 1e-280:
            assert float(least_majorizer(*case)) == pytest.approx(most, rel=16 * EPS, abs=0), case
            assert float(minorizer_at_step(*case)) == pytest.approx(least, rel=16 * EPS, abs=0), case


def test_nothing_on_a_grid_of_both_signs_is_lower():
    grid = np.concatenate([-np.logspace(-6, 1, 1500)[::-1], [0.0], np.logspace(-6, 1, 1500)])
    for lam, g, bound in kinds(400, seed=1).T:
        x = elmo_step(lam, g, bound)
        values = majorizer(x * grid, lam, g, bound)
        best = float(least_majorizer(lam, g, bound))
        assert best <= values.min() + 1e-12 * abs(best)
        assert values.min() <= 0.99 * best


def test_slope_of_the_model_vanishes_and_its_closed_form_is_its_value():
    lam, g, bound = kinds(20_000, seed=2)
    x = elmo_step(lam, g, bound)
    parts = np.stack([-g, lam * x, bound * x * x / 2])
    assert (np.abs(parts.sum(axis=0)) <= 8 * EPS * np.abs(parts).sum(axis=0)).all()
    terms = g * x + np.abs(lam) * x * x / 2 + bound * x**3 / 6
    for closed, direct in ((least_majorizer, majorizer), (minorizer_at_step, minorizer)):
        gap = np.abs(closed(lam, g, bound) - direct(x, lam, g, bound))
        assert (gap <= 16 * EPS * terms).all()
    assert (least_majorizer(lam, g, bound) < 0).all()
    # L x^3/12 is what every step gains at least.
    assert (-least_majorizer(lam, g, bound) >= bound * x**3 / 12 * (1 - 8 * EPS)).all()


def test_least_gain_is_reached_at_a_critical_point_of_negative_curvature():
    x = float(elmo_step(-2.0, 0.0, 0.5))
    assert x == 8.0
    assert float(least_majorizer(-2.0, 0.0, 0.5)) == pytest.approx(-0.5 * 8.0**3 / 12, rel=1e-15)
    # Both ends are minima there; the tie is the caller's.
    assert float(majorizer(-x, -2.0, 0.0, 0.5)) == float(majorizer(x, -2.0, 0.0, 0.5))


def test_second_minimum_of_a_concave_direction_is_worse():
    # lam < 0 and lam^2 > 2 L g: another minimum lies uphill, at -(|lam| + sqrt(lam^2 - 2 L g))/L.
    lam, g, bound = -1.0, 0.3, 0.7
    other = -(1.0 + np.sqrt(1 - 2 * bound * g)) / bound
    values = majorizer(other + np.array([-1e-4, 0.0, 1e-4]), lam, g, bound)
    assert values[1] < min(values[0], values[2])
    assert float(least_majorizer(lam, g, bound)) < values[1]


def test_ratio_of_best_to_worst_case_by_the_sign_of_the_curvature():
    # ELMO paper, lemma C.2: (4s - lam)/(2s + lam).
    lam, g, bound = kinds(20_000, seed=3)
    ratio = minorizer_at_step(lam, g, bound) / least_majorizer(lam, g, bound)
    assert (ratio[lam > 0] >= 1 - 8 * EPS).all()
    assert (ratio[lam > 0] < 2).all()
    assert (ratio[lam < 0] > 2).all()
    assert (ratio[lam < 0] <= 5 * (1 + 8 * EPS)).all()
    for case, wanted in (((0.0, 2.0, 3.0), 2.0), ((-2.0, 0.0, 3.0), 5.0), ((2.0, 1e-14, 3.0), 1.0)):
        assert float(minorizer_at_step(*case) / least_majorizer(*case)) == pytest.approx(wanted, rel=1e-13)


numbers = st.floats(1e-30, 1e30)
signs = st.sampled_from([-1.0, 1.0])


@given(size=numbers, sign=signs, g=numbers, bound=numbers, more=st.floats(1.0, 1e6))
@settings(max_examples=300, deadline=None)
def test_longer_with_the_slope_shorter_with_curvature_and_constant(size, sign, g, bound, more):
    lam, x = sign * size, float(elmo_step(sign * size, g, bound))
    assume(0 < x < INF)
    slack = 1 + 8 * EPS
    assert float(elmo_step(lam, more * g, bound)) * slack >= x
    assert float(elmo_step(lam, g, more * bound)) <= x * slack
    assert float(elmo_step(lam + (more - 1) * size, g, bound)) <= x * slack


@given(size=numbers, sign=signs, g=numbers, bound=numbers, power=st.integers(-300, 300), unit=st.integers(-60, 60))
@settings(max_examples=300, deadline=None)
def test_units_do_not_matter(size, sign, g, bound, power, unit):
    # Powers of two round nothing (but the root of an odd one, twice).
    lam, x = sign * size, float(elmo_step(sign * size, g, bound))
    a, b = 2.0**power, 2.0**unit
    assert float(elmo_step(a * lam, a * g, a * bound)) == pytest.approx(x, rel=8 * EPS, abs=0)
    assert float(elmo_step(lam, b * g, bound / b)) == pytest.approx(b * x, rel=8 * EPS, abs=0)


@given(size=numbers, g=numbers, bound=numbers)
@settings(max_examples=300, deadline=None)
def test_step_lies_between_its_two_parts(size, g, bound):
    curved, sloped = 2 * size / bound, (2 * g / bound) ** 0.5
    x = float(elmo_step(-size, g, bound))
    slack = 1 + 8 * EPS
    assert max(curved, sloped) <= x * slack
    assert x <= (curved + sloped) * slack
    assert x * slack >= 0.8 * (curved + sloped)
    flat = float(elmo_step(size, g, bound))
    assert flat <= min(sloped, g / size) * slack


def test_four_fifths_are_reached():
    # At sqrt(2 g L)/|lam| = 4/3: s = 5/3, x = 8/3, the two parts are 2 and 4/3.
    assert float(elmo_step(-1.0, 8 / 9, 1.0)) == pytest.approx(0.8 * (2 + 4 / 3), rel=1e-15)


# -- where the printed formula loses digits ---------------------------------------------------------------------------


def test_printed_formula_returns_nothing_and_its_rationalized_form_is_undefined():
    assert naive(1.0, 1e-8, 1e-8) == 0.0
    assert float(elmo_step(1.0, 1e-8, 1e-8)) == pytest.approx(1e-8, rel=2 * EPS)
    # And 1e-7 of error long before that, where nothing looks wrong.
    x, _, _ = exactly(1.0, 1e-3, 1e-6)
    assert 1e-9 < abs(naive(1.0, 1e-3, 1e-6) / x - 1) < 1e-6
    assert float(elmo_step(1.0, 1e-3, 1e-6)) == pytest.approx(x, rel=4 * EPS)
    # 2g/(lam + s) alone is 0/0 where a negative eigenvalue meets no slope.
    lam, g, bound = -1.0, 0.0, 1.0
    assert lam + np.sqrt(lam**2 + 2 * bound * g) == 0.0
    assert float(elmo_step(lam, g, bound)) == 2.0
    # And s itself overflows as a root of a sum of squares.
    with np.errstate(over="ignore"):
        assert not np.isfinite(naive(np.float64(1e200), 1.0, 1.0))
    assert float(elmo_step(1e200, 1.0, 1.0)) == pytest.approx(1e-200, rel=4 * EPS)


@pytest.mark.parametrize("library", ["numpy", "torch", "array-api-strict"])
def test_float32_keeps_its_digits_where_the_printed_formula_has_none(library):
    try:
        backend = get_backend(library, "float32")
    except ValueError as error:
        pytest.skip(str(error))
    lam, g, bound = (v.astype(np.float32) for v in kinds(2000, seed=4, decades=6.0))
    found = to_numpy(elmo_step(*(backend.asarray(v) for v in (lam, g, bound))))
    wide = elmo_step(*(v.astype(float) for v in (lam, g, bound)))
    np.testing.assert_allclose(found, wide, rtol=6 * 2.0**-23)
    small = (lam > 0) & (bound.astype(float) * g < 1e-8 * lam.astype(float) ** 2)
    assert small.sum() > 100
    assert np.median(np.abs(naive(lam, g, bound)[small] / wide[small] - 1)) > 0.9


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [1e-3, 1e-5, 1e-7])
def test_towards_newton_the_error_is_half_of_the_curvature_shift(z):
    # z = L g/lam^2: 1 - x* lam/g = z/2 + O(z^2).
    lam, g = 2.0, 0.3
    x = elmo_step(lam, g, z * lam * lam / g)
    assert 1 - float(x) * lam / g == pytest.approx(z / 2, rel=2 * z + 1e-8 * (1e-7 / z))


def test_limits_of_the_constant():
    assert float(elmo_step(2.0, 1.0, 0.0)) == 0.5
    assert [float(elmo_step(lam, 1.0, 0.0)) for lam in (0.0, -1.0)] == [INF, INF]
    assert float(elmo_step(0.0, 0.0, 0.0)) == 0.0
    assert float(elmo_step(-1.0, 0.0, 0.0)) == INF
    # Without bound: the root of the slope, not the slope.
    assert float(elmo_step(3.0, 2.0, 1e20)) == pytest.approx((4e-20) ** 0.5, rel=1e-9)
    assert float(elmo_step(-3.0, 2.0, 1e20)) == pytest.approx((4e-20) ** 0.5, rel=1e-9)


def test_golden_coefficients_of_the_limits():
    known = GOLDEN["asymptotics"]
    # No slope, large constant; negative curvature, small constant.
    assert float(least_majorizer(0.0, 1.0, 1e-8)) * 1e-4 == pytest.approx(known["H1_coefficient_g1"], rel=1e-6)
    assert float(least_majorizer(1.0, 1.0, 1e14)) * 1e7 == pytest.approx(known["H1_coefficient_g1"], rel=1e-6)
    assert float(least_majorizer(-1.0, 1.0, 1e-6)) * 1e-12 == pytest.approx(
        known["H2_coefficient_lam_minus1"], rel=1e-5
    )
    # Newton's step instead of ELMO's costs L^2, with the same L in both models. Not L, as printed in theorem H.3.
    with mp.workdps(60):
        bound = mp.mpf("1e-6")
        newton = -mp.mpf(1) / 2 + bound / 6
        x = (mp.sqrt(1 + 2 * bound) - 1) / bound
        loss = (-x + x**2 / 2 + bound * x**3 / 6 - newton) / bound**2
    assert float(loss) == pytest.approx(known["H3_same_L_coefficient_lam1_g1"], rel=1e-5)
    gain = float(least_majorizer(1.0, 1.0, 1e-6)) + 0.5
    assert gain / 1e-6 == pytest.approx(known["H3_envelope_coefficient_lam1_g1"], rel=1e-5)


def test_cauchy_against_the_golden_direction_and_its_definition():
    case = GOLDEN["elmo_4x4"]
    values, vectors = np.array(case["eigenvalues"]), np.array(case["V"])
    c = vectors.T @ np.array(case["grad"])
    x = cauchy_step(values, np.abs(c), np.array(case["L_by_ascending_eigenvalue"]))
    np.testing.assert_allclose(
        vectors @ (-np.sign(c) * x), GOLDEN["newton_sfn_cauchy_4x4"]["cauchy"], rtol=0, atol=1e-14
    )
    lam, g, bound = kinds(500, seed=5)
    x = cauchy_step(lam, g, bound)
    np.testing.assert_allclose(x[lam > 0], elmo_step(lam, g, bound)[lam > 0], rtol=8 * EPS)
    assert (x[lam < 0] < 0).all()
    # The root of smallest magnitude of -g + lam x + L x^2/2, without a magnitude in the cubic.
    for i in range(100):
        roots = np.roots([bound[i] / 2, lam[i], -g[i]])
        assert x[i] == pytest.approx(roots[np.argmin(np.abs(roots))].real, rel=1e-8)
    with np.errstate(invalid="ignore"):
        assert np.isnan(float(cauchy_step(0.0, 0.0, 1.0)))


# -- regret -----------------------------------------------------------------------------------------------------------


def test_regret_polynomials_against_the_models():
    rng = np.random.default_rng(6)
    lam, g, bound = kinds(5000, seed=6, decades=1.0)
    u = rng.uniform(-1, 3, 5000)
    best = elmo_step(lam, g, bound)
    x, rho = (1 + u) * best, lam / root(lam, g, bound)
    np.testing.assert_allclose(relative_regret(x, lam, g, bound), u, rtol=0, atol=8 * EPS)
    for direct, closed, polynomial in (
        (majorizer, least_majorizer, majorizer_regret),
        (minorizer, minorizer_at_step, minorizer_regret),
    ):
        scale = np.abs(closed(lam, g, bound))
        wanted = (direct(x, lam, g, bound) - closed(lam, g, bound)) / scale
        terms = (g * np.abs(x) + np.abs(lam) * x * x / 2 + bound * np.abs(x) ** 3 / 6) / scale
        assert (np.abs(polynomial(u, rho) - wanted) <= 32 * EPS * (1 + terms)).all()


def test_regret_is_a_square_up_to_five():
    u, rho = np.meshgrid(np.linspace(-1, 1, 401), np.linspace(-1, 1, 401))
    regret = majorizer_regret(u, rho)
    assert (regret >= u * u * (1 - 1e-14)).all()
    assert (regret <= 5 * u * u * (1 + 1e-14)).all()
    assert (regret[rho >= 0] <= (2 * u * u)[rho >= 0] * (1 + 1e-14)).all()
    # Both bounds are reached.
    assert float(majorizer_regret(1.0, 1.0)) == 1.0
    assert float(majorizer_regret(1.0, -1.0)) == 5.0


@pytest.mark.parametrize(("rho", "furthest"), [(-1.0, 0.5), (0.0, 3**0.5 - 1), (1.0, 1.0)])
def test_how_far_a_step_may_overshoot(rho, furthest):
    # M(x) <= 0 exactly for u in [-1, u_max].
    assert float(majorizer_regret(furthest, rho)) == pytest.approx(1.0, rel=1e-14)
    assert float(majorizer_regret(-1.0, rho)) == pytest.approx(1.0, rel=1e-14)
    inside = np.linspace(-1, furthest, 101)[1:-1]
    assert (majorizer_regret(inside, rho) < 1).all()
    assert float(majorizer_regret(furthest + 1e-6, rho)) > 1


def test_without_a_cubic_term_both_regrets_are_squares():
    u = np.linspace(-1, 3, 50)
    np.testing.assert_allclose(majorizer_regret(u, 1.0), u * u, rtol=1e-15)
    np.testing.assert_allclose(minorizer_regret(u, 1.0), u * u, rtol=1e-15)


def test_printed_lower_bounds_of_the_descent_fail():
    # ELMO paper, theorem 3.3: |M(x)| = Theta(1 + u^2)|M(x*)| for M(x) <= 0. At x = 0 there is no descent, yet u = -1.
    assert float(relative_regret(0.0, 1.0, 1.0, 1.0)) == -1.0
    assert float(majorizer(0.0, 1.0, 1.0, 1.0)) == 0.0
    # Nor is what is left a function that grows with u^2: with no slope, u = -2 is the other minimum.
    x = float(elmo_step(-1.0, 0.0, 1.0))
    assert float(relative_regret(-x, -1.0, 0.0, 1.0)) == -2.0
    assert float(majorizer(-x, -1.0, 0.0, 1.0)) == pytest.approx(float(least_majorizer(-1.0, 0.0, 1.0)), rel=1e-15)
    # The best case gains as much 25 % further on as at x*: no lower bound by |u|.
    lam, g, bound, u = 0.9, 0.095, 1.0, 0.25266
    assert float(minorizer_regret(u, lam / float(root(lam, g, bound)))) == pytest.approx(0.0, abs=1e-5)
    near = float(minorizer(1.25266 * 0.1, lam, g, bound) - minorizer(0.1, lam, g, bound))
    assert abs(near) <= 1e-7 * abs(float(minorizer_at_step(lam, g, bound))) / 1e-2
    # The printed polynomial, from (1 + u)^3 - 1 = u(u^2 + 2u + 3): at lam = 0 it is u^2 (1 + u^2/2).
    printed = 0.5**2 * (1 + 0.5**2 / 2)
    direct = float((majorizer(1.5, 0.0, 1.0, 2.0) - majorizer(1.0, 0.0, 1.0, 2.0)) / -least_majorizer(0.0, 1.0, 2.0))
    assert direct == pytest.approx(float(majorizer_regret(0.5, 0.0)), rel=1e-14)
    assert abs(direct - printed) > 0.1


def test_regret_is_undefined_where_nothing_moves():
    assert np.isnan(float(relative_regret(1.0, 2.0, 0.0, 1.0)))
    assert np.isnan(float(relative_regret(0.0, 0.0, 0.0, 1.0)))
    assert float(relative_regret(1.0, -2.0, 0.0, 1.0)) == -0.75


def test_step_above_its_threshold_may_raise_the_loss():
    lam, g, _ = kinds(2000, seed=7, decades=1.0)
    x = 10.0 ** np.random.default_rng(8).uniform(-2, 1, 2000)
    threshold = harmful_above(x, lam, g)
    scale = g * x + np.abs(lam) * x * x
    assert (majorizer(x, lam, g, threshold * (1 + 1e-6))[threshold > 0] > -1e-13 * scale[threshold > 0]).all()
    assert (majorizer(x, lam, g, threshold * (1 - 1e-6))[threshold > 0] < 1e-13 * scale[threshold > 0]).all()
    # Where it is negative, any constant does harm.
    assert (majorizer(x, lam, g, 0.0)[threshold < 0] > 0).all()


# -- arrays -----------------------------------------------------------------------------------------------------------


def test_broadcasting_over_leading_axes(backend):
    lam, g, bound = kinds(24, seed=9, decades=1.0)
    lam, g = lam.reshape(2, 3, 4), g[:4]
    found = elmo_step(backend.asarray(lam), backend.asarray(g), 0.5)
    assert tuple(found.shape) == (2, 3, 4)
    np.testing.assert_allclose(to_numpy(found), elmo_step(lam, g, 0.5), rtol=8 * machine_epsilon(found))
    column = backend.asarray(bound[:3, None])
    assert tuple(least_majorizer(backend.asarray(lam), 1.0, column).shape) == (2, 3, 4)


@pytest.mark.parametrize(
    "function", [elmo_step, root, least_majorizer, minorizer_at_step, cauchy_step], ids=lambda f: f.__name__
)
def test_nothing_is_read_back_to_the_host(function, monkeypatch):
    strict = pytest.importorskip("array_api_strict")
    backend = get_backend("array-api-strict", device="device1")
    given = [backend.asarray(v) for v in kinds(5, seed=10)]

    def refuse(self):
        raise AssertionError("read back to the host")

    for conversion in ("__bool__", "__float__", "__int__", "__index__", "__array__"):
        if hasattr(type(strict.zeros(1)), conversion):
            monkeypatch.setattr(type(strict.zeros(1)), conversion, refuse)
    found = function(*given)
    monkeypatch.undo()
    assert tuple(found.shape) == (5,)


def test_what_is_not_a_number_stays_so():
    assert np.isnan(elmo_step(np.array([np.nan, 1.0]), 1.0, 1.0)).tolist() == [True, False]
    assert np.isnan(float(elmo_step(1.0, float("nan"), 1.0)))
