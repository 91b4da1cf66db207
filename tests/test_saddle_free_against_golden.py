"""Saddle-free Newton against golden vectors (60-digit arithmetic)."""

import numpy as np
import pytest
from golden_vectors import golden

from refimpl import minimize
from refimpl.optimizers.adaptive_saddle_free import average_curvature
from refimpl.optimizers.damping import adapt_damping, learning_rate_and_momentum
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import Rosenbrock

SERIES = golden("series")


def quadratic():
    """At the origin this has the golden gradient and Hessian."""
    return Quadratic(SERIES["problem"]["H"], linear=SERIES["problem"]["g"])


@pytest.mark.parametrize(
    ("knobs", "key"),
    [
        ({}, "absH_inv_g"),
        ({"mode": "abs"}, "absH_inv_g"),
        ({"mode": "square"}, "absH_inv_g"),
        ({"mode": "abs", "damping": 0.25}, "damped_abs_delta_0.25"),
        ({"mode": "square", "damping": 0.25}, "damped_square_delta_0.25"),
    ],
)
def test_first_step(knobs, key):
    result = minimize(quadratic(), SaddleFreeNewton(**knobs), np.zeros(4), steps=1)
    np.testing.assert_allclose(result.x, -np.array(SERIES["exact"][key]), rtol=1e-12)


def test_threshold_and_replacement():
    rule = SERIES["exact"]["sfn_threshold"]
    method = SaddleFreeNewton(threshold=rule["threshold"], replacement=rule["replacement"], learning_rate=0.5)
    result = minimize(quadratic(), method, np.zeros(4), steps=1)
    np.testing.assert_allclose(result.x, -0.5 * np.array(rule["direction"]), rtol=1e-12)


def test_exact_step_of_the_first_figure():
    case = SERIES["algorithm1_trajectory"]
    result = minimize(Quadratic(case["H"]), SaddleFreeNewton(), case["x0"], steps=1)
    np.testing.assert_allclose(result.x, case["exact_sfn_step_from_x0"], rtol=1e-12)


def test_step_on_rosenbrock_at_negative_curvature():
    case = golden("curveball_kryball")["rosenbrock_newton_abs_step_at_0.5_2"]
    result = minimize(Rosenbrock(), SaddleFreeNewton(), [0.5, 2.0], steps=1)
    np.testing.assert_allclose(result.x - np.array([0.5, 2.0]), case["step"], rtol=1e-12)


def test_learning_rate_and_momentum():
    case = SERIES["adaptive_lr_momentum"]
    c, g = np.array(case["C"]), np.array(case["g"])
    u, d = -np.array(case["Delta"]), -np.array(case["delta_prev"])  # we subtract steps

    def solve(u, d):
        numbers = (u @ c @ u, u @ c @ d, d @ c @ d, g @ u, g @ d)
        return learning_rate_and_momentum(*(np.asarray(number) for number in numbers))

    eta, mu = solve(u, d)
    np.testing.assert_allclose([eta, mu], [case["eta"], case["mu"]], rtol=1e-12)
    step = eta * u + mu * d
    assert -g @ step + 0.5 * step @ c @ step == pytest.approx(case["model_change"], rel=1e-12)
    eta, mu = solve(u, np.zeros(4))
    np.testing.assert_allclose([eta, mu], [case["eta_no_prev_step"], 0.0], rtol=1e-12)
    eta, mu = solve(np.linalg.solve(c, g), d)
    identity = case["identity_Delta_equals_minus_Cinv_g"]
    np.testing.assert_allclose([eta, mu], [identity["eta"], identity["mu"]], atol=1e-14)


def test_damping_rule():
    case = SERIES["lm_damping"]
    damping, seen = np.asarray(case["lambda0"]), []
    for ratio in case["rho_sequence"]:
        ratio = np.asarray(np.nan if ratio is None else ratio)
        damping = adapt_damping(damping, ratio, omega=case["omega"], minimum=case["lambda_min"])
        seen.append(float(damping))
    np.testing.assert_allclose(seen, case["lambda_after_each"], rtol=1e-12)


def test_moving_average_of_the_curvature():
    case = SERIES["curvature_ema"]
    first = np.array(case["C_first"], dtype=float)
    average = average_curvature(np.full((2, 2), np.nan), first, case["beta"])
    np.testing.assert_array_equal(average, first)
    for new, expected in zip(case["C_new"], case["C_after"], strict=True):
        average = average_curvature(average, np.array(new, dtype=float), case["beta"])
        np.testing.assert_allclose(average, expected, rtol=1e-12)
