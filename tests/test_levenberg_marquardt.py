"""Levenberg–Marquardt against golden steps and stacked least squares (NumPy's ``lstsq``, no Gauss–Newton matrix)."""

import numpy as np
import pytest
from golden_vectors import golden

from refimpl import minimize
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt, gauss_newton_matrix
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import LinearLeastSquares
from refimpl.problems.toy import HorseSaddle, Rosenbrock

START = np.array([-1.2, 1.0])


def jacobian(x):
    return np.array([[-1.0, 0.0], [-20.0 * x[0], 10.0]])


def residuals(x):
    return np.array([1.0 - x[0], 10.0 * (x[1] - x[0] ** 2)])


def stacked_step(x, damping, scale):
    """The minimizer of |J p + r|^2 + (damping/2) |scale p|^2: the loss is r·r, so G = 2 J^T J."""
    rows = np.vstack([jacobian(x), np.sqrt(damping / 2) * np.diag(scale)])
    return np.linalg.lstsq(rows, -np.concatenate([residuals(x), np.zeros(2)]), rcond=None)[0]


@pytest.mark.parametrize("key", ["eps1", "eps0.25"])
def test_levenberg_step_golden(key):
    case = golden("curveball_kryball")["curveball_rosenbrock"][key]
    problem = Rosenbrock(noise=3.0)
    method = LevenbergMarquardt(damping=1.0)
    step = method.step(problem.at(problem.backend.asarray(START), float(key.removeprefix("eps"))), method.init(START))
    np.testing.assert_allclose(step.x - START, case["levenberg_step_same_lambda"], rtol=1e-12)
    assert step.info.accepted
    undamped = case["model_undamped"]
    assert step.info.predicted_change == pytest.approx(undamped, rel=1e-12)
    assert step.info.ratio == pytest.approx((case["f_new"] - case["f0"]) / undamped, rel=1e-10)


@pytest.mark.parametrize("scaling", ["identity", "diagonal"])
def test_whole_path_against_stacked_least_squares(scaling):
    places = []
    method = LevenbergMarquardt(damping=2.0, increase=3.0, decrease=2.0, scaling=scaling)
    minimize(Rosenbrock(), method, START, steps=15, callback=lambda _, point: places.append(np.array(point.x)))
    x, damping = START, 2.0
    for place in places:
        np.testing.assert_allclose(place, x, rtol=1e-7)
        diagonal = np.sqrt(np.diag(2 * jacobian(x).T @ jacobian(x)))
        trial = x + stacked_step(x, damping, diagonal if scaling == "diagonal" else np.ones(2))
        if residuals(trial) @ residuals(trial) < residuals(x) @ residuals(x):
            x, damping = trial, damping / 2
        else:
            damping = damping * 3


def test_damping_and_rejections_in_the_trace():
    trace = minimize(Rosenbrock(), LevenbergMarquardt(1e-3), START, steps=12).trace
    damping, accepted = trace["damping"][:-1], trace["accepted"][:-1]
    assert set(accepted) == {0.0, 1.0}
    np.testing.assert_allclose(damping[1:] / damping[:-1], np.where(accepted, 0.5, 2.0)[:-1])
    assert (trace["step_norm"][:-1][accepted == 0] == 0).all()
    assert (np.diff(trace["loss"]) <= 0).all()


def test_counts_of_a_step():
    result = minimize(Rosenbrock(), LevenbergMarquardt(), START, steps=1)
    first = {key: result.trace[f"{key}_count"][0] for key in ("loss", "gradient", "hvp", "jvp", "vjp", "ggnvp")}
    assert first == {"loss": 1, "gradient": 1, "hvp": 0, "jvp": 2, "vjp": 0, "ggnvp": 0}


def test_rosenbrock_iterations_as_recorded():
    # CurveBall paper, table 1: 16 +- 4 with start damping 1 on J^T J, which is 2 on G; recorded here: 14 +- 2.
    counts = []
    for seed in range(20):
        start = START + 0.1 * np.random.default_rng(seed).standard_normal(2)
        counts.append(minimize(Rosenbrock(), LevenbergMarquardt(2.0), start, steps=60, loss_target=1e-4).steps)
    assert 12 <= np.mean(counts) <= 17


def test_almost_undamped_is_gauss_newton_and_ends_in_one_step_on_linear_residuals():
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((8, 3)), rng.standard_normal(8)
    result = minimize(LinearLeastSquares(a, b), LevenbergMarquardt(1e-10), np.zeros(3), steps=1)
    np.testing.assert_allclose(result.x, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-8)


def test_a_singular_matrix_and_a_vanishing_damping_do_not_raise():
    a = np.array([[1.0, 1.0], [2.0, 2.0]])
    for scaling in ("identity", "diagonal"):
        method = LevenbergMarquardt(1e-300, minimum_damping=1e-300, scaling=scaling)
        result = minimize(LinearLeastSquares(a, [1.0, 2.0]), method, [1.0, 0.0], steps=3)
        assert np.isfinite(result.x).all()


def test_gauss_newton_matrix_equals_products_on_a_network():
    rng = np.random.default_rng(0)
    net = MLP((3, 4, 2), rng.standard_normal((6, 3)), rng.standard_normal((6, 2)), activation="tanh")
    point = net.at(net.initial(np.random.default_rng(1)))
    matrix = gauss_newton_matrix(point)
    columns = [point.ggnvp(row) for row in np.eye(net.n)]
    np.testing.assert_allclose(matrix, np.stack(columns, axis=-1), atol=1e-13)
    assert np.linalg.eigvalsh(matrix).min() > -1e-12


def test_network_loss_falls():
    rng = np.random.default_rng(0)
    net = MLP((3, 4, 1), rng.standard_normal((20, 3)), rng.standard_normal((20, 1)), activation="tanh")
    result = minimize(net, LevenbergMarquardt(), steps=15)
    assert result.loss < 0.5 * result.trace["loss"][0]


def test_a_trial_that_is_not_finite_is_a_rejection():
    class Cliff(Rosenbrock):
        def loss(self, x, sample=None):
            return np.asarray(np.nan)

    result = minimize(Cliff(), LevenbergMarquardt(), START, steps=3)
    assert result.x.tolist() == START.tolist()
    np.testing.assert_allclose(result.trace["damping"][:3], [1.0, 2.0, 4.0])
    assert (result.trace["accepted"][:3] == 0).all()


def test_damping_stays_within_its_bounds():
    method = LevenbergMarquardt(1.0, minimum_damping=0.4, maximum_damping=8.0)
    assert minimize(Rosenbrock(), method, START, steps=30).trace["damping"][:-1].min() == 0.4

    class Cliff(Rosenbrock):
        def loss(self, x, sample=None):
            return np.asarray(np.inf)

    assert np.nanmax(minimize(Cliff(), method, START, steps=10).trace["damping"]) == 8.0


def test_a_problem_without_outputs_is_refused():
    with pytest.raises(ValueError, match="convex function of outputs"):
        minimize(HorseSaddle(), LevenbergMarquardt(), [1.0, 1.0], steps=1)


def test_leading_axes_are_refused():
    with pytest.raises(ValueError, match="one problem at a time"):
        minimize(Rosenbrock(), LevenbergMarquardt(), [[1.0, 1.0], [0.0, 0.0]], steps=1)


@pytest.mark.parametrize(
    "knobs",
    [
        {"damping": 0.0},
        {"damping": -1.0},
        {"damping": float("nan")},
        {"damping": 1e13},
        {"increase": 0.5},
        {"decrease": 0.9},
        {"increase": float("inf")},
        {"scaling": "none"},
        {"minimum_damping": 2.0},
        {"maximum_damping": 0.5},
    ],
)
def test_wrong_knobs(knobs):
    with pytest.raises(ValueError, match=next(iter(knobs)).removeprefix("minimum_").removeprefix("maximum_")):
        LevenbergMarquardt(**knobs)
