"""Newton and damped Newton against dense solves, closed-form paths and golden vectors."""

import numpy as np
import pytest
from golden_vectors import golden

from refimpl import minimize
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import CoupledSaddle, HorseSaddle, MonkeySaddle, Rosenbrock, SqrtValley

EXACT = golden("series")["exact"]
SERIES = golden("series")["problem"]


def one_step(problem, method, x):
    return np.asarray(minimize(problem, method, x, steps=1).x)


def golden_quadratic():
    """At the origin this has the golden gradient and Hessian."""
    return Quadratic(SERIES["H"], linear=SERIES["g"])


def test_newton_step_golden():
    step = one_step(golden_quadratic(), Newton(), np.zeros(4))
    np.testing.assert_allclose(step, -np.array(EXACT["newton_Hinv_g"]), rtol=1e-12)


def test_newton_step_golden_on_rosenbrock():
    at = golden("curveball_kryball")["rosenbrock_newton_abs_step_at_0.5_2"]
    np.testing.assert_allclose(
        one_step(Rosenbrock(), Newton(), [0.5, 2.0]) - [0.5, 2.0], at["plain_newton"], rtol=1e-12
    )


@pytest.mark.parametrize(("damping", "key"), [(0.0, "step"), (1.0, "step_damped_lambda1")])
def test_abs_damped_newton_golden_on_rosenbrock(damping, key):
    at = golden("curveball_kryball")["rosenbrock_newton_abs_step_at_0.5_2"]
    step = one_step(Rosenbrock(), DampedNewton(damping, mode="abs"), [0.5, 2.0]) - [0.5, 2.0]
    np.testing.assert_allclose(step, at[key], rtol=1e-12)


@pytest.mark.parametrize("mode", ["abs", "square"])
def test_damped_newton_golden(mode):
    step = one_step(golden_quadratic(), DampedNewton(0.25, mode=mode), np.zeros(4))
    np.testing.assert_allclose(step, -np.array(EXACT[f"damped_{mode}_delta_0.25"]), rtol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_steps_against_dense_solves(seed):
    rng = np.random.default_rng(seed)
    a, g = rng.standard_normal((5, 5)), rng.standard_normal(5)
    h, x = a + a.T, np.zeros(5)
    problem = Quadratic(h, linear=g)
    np.testing.assert_allclose(one_step(problem, Newton(0.5), x), -0.5 * np.linalg.solve(h, g), rtol=1e-9)
    shifted = np.linalg.solve(h + 0.3 * np.eye(5), g)
    np.testing.assert_allclose(one_step(problem, DampedNewton(0.3), x), -shifted, rtol=1e-9)
    np.testing.assert_allclose(one_step(problem, DampedNewton(0.3, learning_rate=2.0), x), -2 * shifted, rtol=1e-9)


def test_newton_goes_to_the_saddle_in_one_step():
    assert one_step(HorseSaddle(), Newton(), [1.5, 1.5]).tolist() == [0.0, 0.0]


def test_newton_diverges_on_the_sqrt_valley_by_cubing():
    # On sqrt(1 + x^2) Newton's step is x <- -x^3 exactly.
    places = []
    result = minimize(SqrtValley(), Newton(), [1.1], steps=12, callback=lambda _, p: places.append(float(p.x[0])))
    expected = [1.1]
    for _ in range(4):
        expected.append(-(expected[-1] ** 3))
    np.testing.assert_allclose(places[:5], expected, rtol=1e-9)
    assert result.status == "diverged"
    assert minimize(SqrtValley(), Newton(), [0.9], steps=12).loss == pytest.approx(1.0)


def test_newton_on_a_singular_hessian_takes_the_pseudo_inverse():
    # The slope of 3 along the flat coordinate cannot be answered: that coordinate stays.
    problem = Quadratic(np.diag([2.0, 0.0]), linear=[4.0, 3.0])
    assert one_step(problem, Newton(), [0.0, 0.0]).tolist() == [-2.0, 0.0]
    a = np.random.default_rng(0).standard_normal((5, 3))
    h, g = a @ a.T, np.arange(1.0, 6.0)
    step = one_step(Quadratic(h, linear=g), Newton(), np.zeros(5))
    np.testing.assert_allclose(step, -np.linalg.pinv(h, hermitian=True, rcond=1e-12) @ g, rtol=1e-8)


def test_no_second_order_method_leaves_the_monkey_saddle():
    for method in (Newton(), SaddleFreeNewton(), DampedNewton(0.1, mode="abs")):
        assert one_step(MonkeySaddle(), method, [0.0, 0.0]).tolist() == [0.0, 0.0]


def test_shift_repels_only_if_it_exceeds_the_negative_curvature():
    # Eigenvalue -2: y <- y - (-2 y)/(-2 + d) = y d/(d - 2) after one step.
    y = 0.5
    assert one_step(HorseSaddle(), DampedNewton(1.0), [0.0, y])[1] == pytest.approx(-y)
    assert one_step(HorseSaddle(), DampedNewton(4.0), [0.0, y])[1] == pytest.approx(2 * y)
    assert one_step(HorseSaddle(), DampedNewton(2.0), [1.0, y]).tolist() == [0.5, 0.5]  # singular: y stays
    assert one_step(HorseSaddle(), DampedNewton(2.0, mode="abs"), [0.0, y])[1] == pytest.approx(1.5 * y)


@pytest.mark.parametrize("mode", ["abs", "square"])
def test_abs_and_square_are_saddle_free_newton(mode):
    x = [0.3, -0.7]
    np.testing.assert_array_equal(
        one_step(CoupledSaddle(), DampedNewton(0.2, mode=mode), x),
        one_step(CoupledSaddle(), SaddleFreeNewton(damping=0.2, mode=mode), x),
    )


def test_info_shows_both_ends_of_the_spectrum():
    trace = minimize(Quadratic(np.diag([-3.0, 1.0, 7.0])), DampedNewton(1.5), np.ones(3), steps=1).trace
    assert trace["smallest_eigenvalue"][0] == pytest.approx(-3.0)
    assert trace["largest_eigenvalue"][0] == pytest.approx(7.0)
    assert trace["hvp_count"][0] == 3


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), "1", None])
def test_wrong_damping(bad):
    with pytest.raises(ValueError, match="damping"):
        DampedNewton(bad)


def test_wrong_mode_and_learning_rate():
    with pytest.raises(ValueError, match="unknown mode"):
        DampedNewton(1.0, mode="none")
    with pytest.raises(ValueError, match="learning_rate"):
        Newton(0.0)
    with pytest.raises(ValueError, match="learning_rate"):
        DampedNewton(1.0, learning_rate=-1.0)
