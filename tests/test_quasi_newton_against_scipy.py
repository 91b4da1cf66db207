"""BFGS and L-BFGS: the trace against SciPy called directly on the same loss, and the ways a run can end."""

import numpy as np
import pytest
import scipy.optimize

from refimpl import minimize
from refimpl.arrays import device_of, get_backend, to_numpy
from refimpl.optimizers.quasi_newton import BFGS, LBFGS
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import DegenerateSaddle, HorseSaddle, Rosenbrock

START = np.array([-1.2, 1.0])
BOTH = [(BFGS(), "BFGS", {"gtol": 0.0}), (LBFGS(7), "L-BFGS-B", {"gtol": 0.0, "ftol": 0.0, "maxcor": 7})]
METHODS = [BFGS(), LBFGS()]


def by_scipy(method, options, steps):
    """Places after each iteration, and how often loss and gradient were asked for."""
    places, calls = [START], []

    def fun(x):
        calls.append("f")
        return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2

    def jac(x):
        calls.append("g")
        inner = x[1] - x[0] ** 2
        return np.array([-2 * (1 - x[0]) - 400 * x[0] * inner, 200 * inner])

    scipy.optimize.minimize(
        fun,
        START,
        jac=jac,
        method=method,
        callback=lambda xk: places.append(xk.copy()),
        options={"maxiter": steps, **options},
    )
    return np.array(places), calls


@pytest.mark.parametrize(("method", "scipy_name", "options"), BOTH, ids=["bfgs", "lbfgs"])
def test_same_places_as_scipy(method, scipy_name, options):
    seen = []
    result = minimize(Rosenbrock(), method, START, steps=20, callback=lambda _, point: seen.append(np.array(point.x)))
    places, calls = by_scipy(scipy_name, options, 20)
    np.testing.assert_allclose(np.array(seen), places, rtol=1e-9)
    np.testing.assert_allclose(result.x, places[-1], rtol=1e-9)
    assert result.counts.gradient == calls.count("g")
    assert result.counts.gradient + result.counts.loss == calls.count("f")
    assert result.status == "budget"
    assert len(result.trace) == 21


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_trace_of_a_run(method):
    result = minimize(Rosenbrock(), method, START, steps=200, gradient_tolerance=1e-6)
    trace = result.trace
    assert result.status == "converged"
    assert "gradient norm" in result.message
    assert len(trace) == result.steps + 1
    assert trace["step"].tolist() == list(range(result.steps + 1))
    assert trace["loss"][0] == pytest.approx(24.2)
    assert trace["gradient_norm"][-1] <= 1e-6 < trace["gradient_norm"][-2]
    assert (np.diff(trace["loss"]) < 0).all()
    assert (np.diff(trace["gradient_count"][:-1]) >= 1).all()
    assert trace["gradient_count"][-1] == result.counts.gradient
    assert np.isnan(trace["step_norm"][-1])
    assert (trace["step_norm"][:-1] > 0).all()
    np.testing.assert_allclose(result.x, [1.0, 1.0], atol=1e-5)


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_loss_target_and_zero_steps(method):
    result = minimize(Rosenbrock(), method, START, steps=200, loss_target=1e-4)
    assert result.status == "converged"
    assert result.trace["loss"][-1] <= 1e-4 < result.trace["loss"][-2]
    nothing = minimize(Rosenbrock(), method, START, steps=0)
    assert (nothing.status, nothing.steps, len(nothing.trace)) == ("budget", 0, 1)
    assert nothing.x.tolist() == START.tolist()
    there = minimize(Rosenbrock(), method, [1.0, 1.0], steps=5)
    assert (there.status, there.steps) == ("converged", 0)


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_quadratic_of_n_variables_ends_in_few_steps(method):
    result = minimize(
        Quadratic.from_spectrum([1.0, 2.0, 5.0, 9.0], seed=1), method, np.ones(4), steps=60, gradient_tolerance=1e-8
    )
    assert result.status == "converged"
    assert result.steps <= 30


def test_noise_is_frozen_for_the_whole_run():
    problem = Rosenbrock(noise=3.0)
    draws = []
    original = problem.draw
    problem.draw = lambda rng: draws.append(original(rng)) or draws[-1]
    result = minimize(problem, BFGS(), START, steps=60, seed=3, gradient_tolerance=1e-6)
    assert len(draws) == 1
    assert result.status == "converged"
    assert result.loss == pytest.approx(float(problem.loss(result.x, draws[0])))


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_a_loss_without_bound_ends_with_its_trace_and_no_exception(method):
    result = minimize(DegenerateSaddle(), method, [1.0, 1.0], steps=200)
    assert result.status in ("diverged", "stalled")
    assert result.message
    assert len(result.trace) == result.steps + 1
    assert np.isfinite(result.x).all()


def test_a_loss_that_becomes_nan_is_diverged():
    class Hole(Quadratic):
        """A bowl whose loss is not a number on the side where its minimum lies."""

        def evaluation(self, x, sample):
            return ClosedForm(
                x,
                lambda x: np.where(x[..., 0] < 2.5, np.nan, np.sum(x * x, axis=-1)),
                lambda x: 2 * x,
                lambda x: 2 * np.eye(2),
            )

    for method in METHODS:
        result = minimize(Hole(np.eye(2)), method, [3.0, 0.0], steps=10)
        assert result.status == "diverged"
        assert "not finite" in result.message
        assert np.isfinite(result.x).all()
        assert len(result.trace) == result.steps + 1
        assert result.trace["loss"][0] == 9.0


def test_a_line_search_that_runs_off_to_infinity_is_diverged():
    result = minimize(HorseSaddle(), LBFGS(), [1.5, 1.5], steps=200)
    assert result.status == "diverged"
    assert result.message.startswith("the line search met a loss that is not finite")
    assert np.isfinite(result.trace["loss"]).all()


def test_it_stalls_where_scipy_cannot_go_on():
    class Liar(Quadratic):
        """Its gradient points the wrong way, so that no line search succeeds."""

        def evaluation(self, x, sample):
            return ClosedForm(x, lambda x: (x * x).sum(-1), lambda x: -2 * x, lambda x: 2 * np.eye(2))

    result = minimize(Liar(np.eye(2)), BFGS(), [3.0, 1.0], steps=10)
    assert result.status == "stalled"
    assert "SciPy" in result.message
    assert result.x.tolist() == [3.0, 1.0]


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_ctrl_c_keeps_the_trace(method):
    def interrupt(step, point):
        if step == 3:
            raise KeyboardInterrupt

    result = minimize(Rosenbrock(), method, START, steps=50, callback=interrupt)
    assert (result.status, result.steps) == ("interrupted", 3)
    assert len(result.trace) >= 3


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_callback_columns_join_the_trace(method):
    result = minimize(Rosenbrock(), method, START, steps=3, callback=lambda k, point: {"twice": 2.0 * k})
    assert result.trace["twice"].tolist() == [0.0, 2.0, 4.0, 6.0]


@pytest.mark.parametrize("method", METHODS, ids=["bfgs", "lbfgs"])
def test_result_stays_on_the_backend_of_the_problem(method, backend):
    result = minimize(Rosenbrock(backend=backend), method, START, steps=10)
    assert result.x.dtype == backend.dtype
    assert device_of(result.x) == backend.device
    reference = minimize(Rosenbrock(), method, START, steps=10)
    tolerance = 1e-8 if backend.dtype_name == "float64" else 0.05
    np.testing.assert_allclose(to_numpy(result.x), reference.x, atol=tolerance)


def test_leading_axes_are_refused():
    for method in METHODS:
        with pytest.raises(ValueError, match="one problem at a time"):
            minimize(Rosenbrock(), method, [[1.0, 2.0], [3.0, 4.0]], steps=1)


@pytest.mark.parametrize("bad", [0, -1, 2.5, None, True])
def test_wrong_history(bad):
    with pytest.raises(ValueError, match="history"):
        LBFGS(bad)


def test_float32_converges_to_single_precision():
    result = minimize(
        Rosenbrock(backend=get_backend("numpy", "float32")), LBFGS(), START, steps=200, gradient_tolerance=1e-2
    )
    assert result.status == "converged"
    np.testing.assert_allclose(result.x, [1.0, 1.0], atol=0.05)
