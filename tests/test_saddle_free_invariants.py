"""Properties that saddle-free Newton has on every problem: symmetries, descent, and what happens near a saddle."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl import minimize
from refimpl.curvature.spectrum import absolute, apply_inverse_abs
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.quadratic import Quadratic, random_orthogonal
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, SqrtValley

RULES = [
    {},
    {"mode": "abs", "damping": 0.3},
    {"mode": "square", "damping": 0.3},
    {"threshold": 0.7, "replacement": 2.0},
]
SEEDS = st.integers(0, 2**32 - 1)


def draw(seed, n=5):
    """A symmetric matrix whose eigenvalues stay away from zero, a gradient and a rotation."""
    rng = np.random.default_rng(seed)
    q, r = random_orthogonal(n, rng), random_orthogonal(n, rng)
    eigenvalues = rng.uniform(0.1, 3.0, n) * rng.choice([-1.0, 1.0], n)
    h = q @ np.diag(eigenvalues) @ q.T
    return 0.5 * (h + h.T), rng.standard_normal(n), r


def path(problem, method, start, steps):
    places = []
    minimize(problem, method, start, steps=steps, callback=lambda _, point: places.append(np.array(point.x)))
    return np.array(places)


# -- symmetries -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_rotating_the_space_rotates_the_direction(rule, seed):
    h, g, r = draw(seed)
    rotated = r @ h @ r.T
    u = apply_inverse_abs(0.5 * (rotated + rotated.T), r @ g, **rule)
    np.testing.assert_allclose(u, r @ apply_inverse_abs(h, g, **rule), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_permuting_the_coordinates_permutes_the_direction(rule, seed):
    h, g, _ = draw(seed)
    order = np.random.default_rng(seed).permutation(5)
    u = apply_inverse_abs(h[np.ix_(order, order)], g[order], **rule)
    np.testing.assert_allclose(u, apply_inverse_abs(h, g, **rule)[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("factor", [1e-6, 0.5, 1e6])
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_scaling_the_loss_changes_nothing_without_damping(factor, seed):
    h, g, _ = draw(seed)
    np.testing.assert_allclose(apply_inverse_abs(factor * h, factor * g), apply_inverse_abs(h, g), rtol=1e-9)


def test_scaling_the_loss_needs_scaled_damping():
    h, g, _ = draw(1)
    u = apply_inverse_abs(h, g, mode="abs", damping=0.3)
    np.testing.assert_allclose(apply_inverse_abs(7 * h, 7 * g, mode="abs", damping=2.1), u, rtol=1e-12)
    assert np.abs(apply_inverse_abs(7 * h, 7 * g, mode="abs", damping=0.3) - u).max() > 1e-3


def test_the_whole_path_on_a_rotated_quadratic():
    h, start, r = draw(3)
    method = SaddleFreeNewton(learning_rate=0.3, momentum=0.5)
    straight = path(Quadratic(h), method, start, 10)
    rotated = r @ h @ r.T
    turned = path(Quadratic(0.5 * (rotated + rotated.T)), method, r @ start, 10)
    np.testing.assert_allclose(turned, straight @ r.T, rtol=1e-9, atol=1e-11)


# -- what kind of step it is ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES)
@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_it_descends(rule, seed):
    h, g, _ = draw(seed)
    assert g @ apply_inverse_abs(h, g, **rule) > 0


@given(seed=SEEDS)
@settings(max_examples=25, deadline=None)
def test_it_is_newtons_step_where_the_hessian_is_positive_definite(seed):
    h, start, _ = draw(seed)
    problem = Quadratic(absolute(h), center=np.ones(5))
    np.testing.assert_allclose(
        path(problem, SaddleFreeNewton(), start, 2), path(problem, Newton(), start, 2), atol=1e-11
    )
    np.testing.assert_allclose(path(problem, SaddleFreeNewton(), start, 2)[-1], np.ones(5), atol=1e-10)


@given(seed=SEEDS, rate=st.floats(0.05, 1.5))
@settings(max_examples=25, deadline=None)
def test_factors_on_a_quadratic_are_one_minus_and_one_plus_the_learning_rate(seed, rate):
    # Positive eigencomponents shrink by 1 - eta, negative ones grow by 1 + eta, whatever the eigenvalue.
    h, start, _ = draw(seed)
    eigenvalues, q = np.linalg.eigh(h)
    end = path(Quadratic(h), SaddleFreeNewton(learning_rate=rate), start, 1)[-1]
    factors = np.where(eigenvalues > 0, 1 - rate, 1 + rate)
    np.testing.assert_allclose(q.T @ end, factors * (q.T @ start), atol=1e-10)


def test_the_horse_saddle_is_left_in_one_exact_step():
    result = minimize(HorseSaddle(), SaddleFreeNewton(), [1.5, 1.5], steps=1)
    assert result.x.tolist() == [0.0, 3.0]
    assert result.loss == -9.0


@pytest.mark.parametrize("n", [1, 2, 8])
def test_absolute_value_is_lipschitz_in_the_frobenius_norm_but_not_in_the_spectral_norm(n):
    rng = np.random.default_rng(n)
    for _ in range(50):
        a, b = draw(rng.integers(1 << 30), n)[0], draw(rng.integers(1 << 30), n)[0]
        assert np.linalg.norm(absolute(a) - absolute(b)) <= np.linalg.norm(a - b) * (1 + 1e-12)
    a = np.diag([1.0, -0.01])
    e = 1e-5 * np.array([[1.0, 1.0], [1.0, -1.0]])
    assert np.linalg.norm(absolute(a + e) - absolute(a), 2) > 1.39 * np.linalg.norm(e, 2)


# -- near a saddle --------------------------------------------------------------------------------------------------


def test_at_a_coupled_saddle_the_unstable_part_doubles_and_feeds_the_stable_part():
    # f = x^2/2 - y^2/2 + x y^2 from (0, y0): y doubles each step; x becomes -y0^2, then grows fourfold.
    y0 = 1e-4
    places = path(CoupledSaddle(), SaddleFreeNewton(), [0.0, y0], 5)
    y = places[:, 1]
    np.testing.assert_allclose(y[1:] / y[:-1], 2.0, rtol=1e-5)
    np.testing.assert_allclose(places[1, 0], -(y0**2), rtol=1e-5)
    x = places[1:, 0]
    np.testing.assert_allclose(x[1:] / x[:-1], 4.0, rtol=1e-4)


def test_where_the_curvature_is_positive_it_can_diverge_like_newton():
    # f = sqrt(1 + x^2), x0 = 1.1: x <- -x^3. Strictly convex, one minimum, no convergence.
    places = path(SqrtValley(), SaddleFreeNewton(), [1.1], 4)[:, 0]
    np.testing.assert_allclose(places, [1.1, -1.331, 2.357947691, -13.1099941, 2253.24015], rtol=1e-6)


def test_it_finds_a_minimum_of_the_double_well_from_beside_its_saddle():
    result = minimize(DoubleWell(), SaddleFreeNewton(), [1e-3, 0.5], steps=30, gradient_tolerance=1e-10)
    assert result.status == "converged"
    np.testing.assert_allclose(result.x, [1.0, 0.0], atol=1e-9)
    back = minimize(DoubleWell(), Newton(), [1e-3, 0.5], steps=30, gradient_tolerance=1e-10)
    np.testing.assert_allclose(back.x, [0.0, 0.0], atol=1e-9)


# -- momentum, singular Hessians, knobs -----------------------------------------------------------------------------


def test_momentum_recursion():
    h, start, _ = draw(11)
    problem, eta, mu = Quadratic(h), 0.2, 0.7
    places = path(problem, SaddleFreeNewton(learning_rate=eta, momentum=mu), start, 8)
    x, v = start, np.zeros(5)
    for place in places:
        np.testing.assert_allclose(place, x, rtol=1e-9, atol=1e-12)
        v = mu * v + eta * apply_inverse_abs(h, h @ x)
        x = x - v


def test_a_flat_direction_stays_unless_it_gets_a_replacement_or_damping():
    slope = Quadratic(np.diag([2.0, 0.0]), linear=[4.0, 3.0])

    def first(**knobs):
        return path(slope, SaddleFreeNewton(**knobs), [0.0, 0.0], 1)[-1].tolist()

    assert first() == [-2.0, 0.0]
    assert first(replacement=0.5) == [-2.0, -6.0]
    assert first(mode="abs", damping=1.0) == pytest.approx([-4 / 3, -3.0])


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.1}, "momentum"),
        ({"momentum": float("nan")}, "momentum"),
        ({"damping": 0.1}, "mode 'none'"),
        ({"damping": -0.1, "mode": "abs"}, "damping"),
        ({"mode": "shift", "damping": 1.0}, "unknown mode"),
        ({"threshold": -1.0}, "threshold"),
        ({"threshold": 1.0, "replacement": 0.0}, "replacement"),
        ({"threshold": 1.0, "mode": "square"}, "belong to mode 'none'"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        SaddleFreeNewton(**knobs)
