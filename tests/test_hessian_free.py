"""Hessian-free optimization: a damped Newton step where CG may go on, a line search, a damping rule.

Oracles: dense solves with the Gauss–Newton matrix or the Hessian; the line search and the damping rule as a plain loop;
losses that say what they are told; single runs for batches.
"""

import numpy as np
import pytest
from test_curveball import gauss_newton, network

from refimpl import minimize
from refimpl.arrays import to_numpy
from refimpl.curvature.truncated_cg import truncated_cg
from refimpl.optimizers.hessian_free import HessianFree, HessianFreeState
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock, Wood


def step_from(problem, x, damping, method, solution=None):
    x = problem.backend.asarray(x)
    start = problem.backend.zeros(x.shape) if solution is None else problem.backend.asarray(solution)
    return method.step(problem.at(x), HessianFreeState(start, problem.backend.asarray(damping)))


def armijo(problem, x, z, slope, halvings=20):
    """The first t of 1, 1/2, … with f(x + t z) <= f(x) + 1e-4 t slope; 0 if none."""
    for k in range(halvings + 1):
        if problem.loss(x + 0.5**k * z) <= problem.loss(x) + 1e-4 * 0.5**k * slope:
            return 0.5**k
    return 0.0


# -- the direction ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
@pytest.mark.parametrize("damping", [0.05, 1.0])
def test_all_products_give_the_damped_newton_step(curvature, damping):
    problem, rng = network(1)
    x = problem.initial(rng)
    point = problem.at(x)
    if curvature == "hessian":
        damping += -np.linalg.eigvalsh(point.hessian())[0]
    matrix = (point.hessian() if curvature == "hessian" else gauss_newton(point)) + damping * np.eye(problem.n)
    newton = -np.linalg.solve(matrix, point.gradient)
    step = step_from(problem, x, damping, HessianFree(3 * problem.n, curvature, "never"))
    np.testing.assert_allclose(step.state.solution, newton, rtol=1e-6, atol=1e-9)
    length = armijo(problem, x, newton, point.gradient @ newton)
    np.testing.assert_allclose(step.x, x + length * newton, rtol=1e-7)
    assert (step.info.step_length, step.info.negative_curvature) == (length, False)
    assert step.info.predicted_change == pytest.approx(0.5 * point.gradient @ newton, rel=1e-10)
    actual = problem.loss(x + newton) - problem.loss(x)
    assert step.info.ratio == pytest.approx(actual / step.info.predicted_change, rel=1e-8)


@pytest.mark.parametrize("stopping", ["residual", "progress", "never"])
def test_the_direction_is_truncated_cg_with_lam(stopping):
    problem, rng = network(2)
    x = problem.initial(rng)
    matrix, g = gauss_newton(problem.at(x)) + 0.1 * np.eye(problem.n), problem.at(x).gradient
    step = step_from(problem, x, 0.1, HessianFree(12, stopping=stopping))
    expected = truncated_cg(lambda v: matrix @ v, g, steps=12, stopping=stopping)
    np.testing.assert_allclose(step.state.solution, expected.x, rtol=1e-7, atol=1e-10)
    assert step.info.cg_steps == expected.steps
    assert step.info.predicted_change == pytest.approx(float(expected.model), rel=1e-8)


def test_one_linear_least_squares_problem_is_solved_in_one_step():
    rng = np.random.default_rng(3)
    a, b = rng.standard_normal((8, 4)), rng.standard_normal(8)
    method = HessianFree(stopping="never", initial_damping=1e-10)
    x = minimize(LinearLeastSquares(a, b), method, np.zeros(4), steps=1).x
    np.testing.assert_allclose(x, np.linalg.lstsq(a, b, rcond=None)[0], rtol=1e-7)


def test_it_solves_wood_and_rosenbrock():
    for problem in (Wood(), Rosenbrock()):
        result = minimize(problem, HessianFree(), problem.start, steps=200, loss_target=1e-12)
        assert result.status == "converged"
        assert (np.diff(result.trace["loss"]) <= 0).all()


# -- warm start -------------------------------------------------------------------------------------------------------


def test_warm_start_begins_at_a_multiple_of_the_last_solution():
    problem, rng = network(4)
    x, last = problem.initial(rng), 0.1 * rng.standard_normal(problem.n)
    matrix, g = gauss_newton(problem.at(x)) + 0.5 * np.eye(problem.n), problem.at(x).gradient
    step = step_from(problem, x, 0.5, HessianFree(3, stopping="never", warm_start=0.95), last)
    expected = truncated_cg(lambda v: matrix @ v, g, steps=3, start=0.95 * last, stopping="never").x
    np.testing.assert_allclose(step.state.solution, expected, rtol=1e-8, atol=1e-10)
    cold = step_from(problem, x, 0.5, HessianFree(3, stopping="never"), last)
    assert np.abs(cold.state.solution - step.state.solution).max() > 1e-3


def test_warm_start_needs_fewer_products_where_the_systems_resemble_each_other():
    # The steps are short, so that the solution of the last system is nearly that of the next.
    rng = np.random.default_rng(5)
    q = np.linalg.qr(rng.standard_normal((60, 60)))[0]
    problem = Quadratic((q * np.geomspace(1e-3, 1.0, 60)) @ q.T)
    x, products = 1e-6 * rng.standard_normal(60), {}  # small, so that the forcing rule asks for a lot
    for warm in (0.0, 1.0):
        point = problem.at(x)
        system = (lambda v, point=point: point.hvp(v) + 1e-3 * v, point.gradient)
        last = truncated_cg(*system, steps=200, stopping="never").x
        near = problem.at(x + 1e-3 * last)
        HessianFree(200, warm_start=warm).step(near, HessianFreeState(last, np.asarray(1e-3)))
        products[warm] = near.counts.jvp
    assert products[1.0] < 0.2 * products[0.0]


# -- line search ------------------------------------------------------------------------------------------------------


class Told(LinearLeastSquares):
    """f = x^2 with trials that have the losses they are told, the last one again and again."""

    def __init__(self, *trials):
        super().__init__([[1.0]], [0.0])
        self.trials = list(trials)

    def loss(self, x, sample=None):
        return np.asarray(self.trials.pop(0) if len(self.trials) > 1 else self.trials[0])


def told(*trials, **knobs):
    """At x = 1 with lam = 2: g = 2, z = -1/2, predicted -1/2, g·z = -1."""
    return step_from(Told(*trials), [1.0], 2.0, HessianFree(5, omega=0.5, stopping="never", **knobs))


@pytest.mark.parametrize(
    ("trials", "length"),
    [
        ((0.5,), 1.0),
        ((1 - 1.0001e-4, 0.0), 1.0),
        ((1 - 0.9999e-4, 1 - 0.5001e-4, 0.0), 0.5),
        ((1 - 0.9999e-4, 1 - 0.4999e-4, 1 - 0.2501e-4, 0.0), 0.25),
        ((np.nan, np.inf, -np.inf, 0.0), 0.125),
    ],
)
def test_armijo_condition(trials, length):
    step = told(*trials)
    assert step.info.step_length == length
    assert step.x.tolist() == [1.0 - 0.5 * length]
    assert step.state.solution.tolist() == [-0.5]
    assert step.info.accepted


@pytest.mark.parametrize("backtracks", [0, 1, 5])
def test_without_an_accepted_length_it_stays_forgets_and_damps(backtracks):
    problem = Told(2.0)
    point = problem.at(np.ones(1))
    method = HessianFree(5, omega=0.5, stopping="never", backtracks=backtracks)
    step = method.step(point, HessianFreeState(np.zeros(1), np.asarray(2.0)))
    assert point.counts.loss == backtracks + 1
    assert (step.x.tolist(), step.state.solution.tolist(), float(step.state.damping)) == ([1.0], [0.0], 4.0)
    assert (float(step.info.step_length), bool(step.info.accepted)) == (0.0, False)


def test_path_against_dense_solves_and_a_plain_line_search():
    problem, method = Rosenbrock(), HessianFree(2, stopping="never", initial_damping=0.5, omega=0.5)
    places, lengths = [], []
    result = minimize(problem, method, [-1.2, 1.0], steps=15, callback=lambda _, p: places.append(np.array(p.x)))
    x, lam = np.array([-1.2, 1.0]), 0.5
    for i, place in enumerate(places[:-1]):
        np.testing.assert_allclose(place, x, rtol=1e-6)
        assert result.trace["damping"][i] == pytest.approx(lam)
        point = problem.at(x)
        z = -np.linalg.solve(gauss_newton(point) + lam * np.eye(2), point.gradient)
        ratio = (problem.loss(x + z) - point.loss) / (0.5 * point.gradient @ z)
        lengths.append(armijo(problem, x, z, point.gradient @ z))
        x = x + lengths[-1] * z
        lam = lam * (0.5 if ratio > 0.75 else 2.0 if ratio < 0.25 else 1.0)
    np.testing.assert_allclose(result.trace["step_length"][:15], lengths)
    assert min(lengths) < 1


# -- damping ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [(0.25, 1.0), (0.25 - 2**-52, 2.0), (0.75, 1.0), (0.75 + 2**-52, 0.5), (0.5, 1.0), (9.0, 0.5)],
)
def test_damping_rule(ratio, factor):
    step = told(1.0 - 0.5 * ratio)
    assert (float(step.info.ratio), float(step.state.damping)) == (ratio, 2.0 * factor)


def test_the_ratio_is_that_of_the_full_step():
    step = told(0.99995, 0.0)  # the half step is taken, and the full one had a ratio below 1/4
    assert step.info.step_length == 0.5
    assert float(step.info.ratio) == pytest.approx(1e-4)
    assert float(step.state.damping) == 4.0
    assert float(told(np.inf, 0.0).state.damping) == 4.0


def test_bounds_of_the_damping():
    bounds = {"minimum_damping": 1.5, "maximum_damping": 3.0, "initial_damping": 2.0}
    assert float(told(-9.0, **bounds).state.damping) == 1.5
    assert float(told(0.99, **bounds).state.damping) == 3.0


def test_at_a_minimum_it_stays_and_learns_nothing():
    problem = Rosenbrock()
    point = problem.at(np.ones(2))
    step = HessianFree(warm_start=0.95).step(point, HessianFreeState(np.zeros(2), np.asarray(0.5)))
    assert (step.x.tolist(), float(step.state.damping), bool(step.info.accepted)) == ([1.0, 1.0], 0.5, True)


# -- negative curvature -----------------------------------------------------------------------------------------------


def test_negative_curvature_at_once_gives_steepest_descent():
    # On the ridge of the horse saddle the gradient has only negative curvature.
    step = step_from(HorseSaddle(), [0.0, 0.5], 0.5, HessianFree(curvature="hessian"))
    assert bool(step.info.negative_curvature)
    np.testing.assert_array_equal(step.x, [0.0, 1.5])
    assert step.info.step_length == 1.0


def test_prediction_after_negative_curvature_at_once():
    step = step_from(HorseSaddle(), [0.0, 0.5], 0.5, HessianFree(curvature="hessian"))
    # g = (0, -1) and z = -g: the damped model is -1 + (-2 + 1/2)/2.
    assert float(step.info.predicted_change) == pytest.approx(-1.75)
    assert np.isfinite(float(step.info.ratio))


def test_an_uphill_warm_start_gives_way_to_the_gradient():
    problem = HorseSaddle()
    x, uphill = np.array([0.0, 0.5]), np.array([0.0, -0.25])
    step = step_from(problem, x, 0.5, HessianFree(curvature="hessian", warm_start=1.0), uphill)
    g = problem.at(x).gradient
    assert g @ uphill > 0
    np.testing.assert_allclose(step.x, x - g)
    assert step.info.predicted_change == pytest.approx(-g @ g)


def test_it_leaves_a_saddle():
    result = minimize(DoubleWell(), HessianFree(curvature="hessian", initial_damping=0.1), [1e-3, 0.7], steps=40)
    assert abs(abs(result.x[0]) - 1) < 1e-6


def test_a_loss_without_outputs_needs_the_hessian():
    with pytest.raises(ValueError, match="HorseSaddle is not a convex function of outputs"):
        minimize(HorseSaddle(), HessianFree(), [1.0, 1.0])


# -- costs and many runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("warm", [0.0, 0.95])
def test_counts_of_a_step(warm):
    problem, rng = network(6)
    point = problem.at(problem.initial(rng))
    method = HessianFree(7, stopping="never", warm_start=warm)
    step = method.step(point, HessianFreeState(0.01 * np.ones(problem.n), np.asarray(1.0)))
    products = 7 + (warm > 0)
    assert point.counts[:5] == (1, 1, 0, products, products)
    assert float(step.info.step_length) == 1.0
    point = problem.at(point.x)
    HessianFree(7, "hessian", "never").step(point, HessianFreeState(np.zeros(problem.n), np.asarray(10.0)))
    assert point.counts[:5] == (1, 1, 7, 0, 0)


@pytest.mark.parametrize("method", [HessianFree(), HessianFree(3, "hessian", "progress", 0.95)], ids=["cold", "warm"])
def test_rows_are_decided_each_for_itself(method, backend):
    problem = DoubleWell(n=3, backend=backend)
    x = np.array([[0.3, 1.0, -0.5], [-1.7, 0.3, 2.0], [1.0, 0.0, 0.0], [3.0, -40.0, 1.0], [0.01, 1e-3, 0.2]])
    last = 0.1 * np.random.default_rng(7).standard_normal((5, 3))
    last[2] = 0.0
    together = step_from(problem, x, [0.1, 1.0, 0.1, 2.0, 1e-3], method, last)
    tolerance = 1e-3 if backend.dtype_name == "float32" else 1e-9
    for row, damping in enumerate([0.1, 1.0, 0.1, 2.0, 1e-3]):
        alone = step_from(problem, x[row], damping, method, last[row])
        np.testing.assert_allclose(to_numpy(together.x)[row], to_numpy(alone.x), rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(to_numpy(together.state.damping)[row], to_numpy(alone.state.damping), rtol=tolerance)
        assert float(together.info.step_length[row]) == float(alone.info.step_length)
        assert bool(together.info.negative_curvature[row]) == bool(alone.info.negative_curvature)
