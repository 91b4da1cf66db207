"""The loop: what is recorded, how a run ends, and what it refuses."""

import json
import warnings

import numpy as np
import pytest

from refimpl import Counts, get_backend, minimize
from refimpl.arrays import namespace, to_numpy
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton
from refimpl.optimizers.base import LibraryOptimizer, NoInfo, Optimizer, Step
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.quasi_newton import BFGS
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.oracle import Evaluation
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock, SqrtValley
from refimpl.trace import Trace


class Quartic(Quadratic):
    """f = sum of x^4 / 4: gradient descent with a fixed rate diverges from far away, faster than geometrically."""

    def __init__(self, backend=None):
        super().__init__(np.eye(2), backend=backend)

    def evaluation(self, x, sample):
        xp = namespace(x)
        return ClosedForm(x, lambda x: xp.sum(x**4, axis=-1) / 4, lambda x: x**3, hvp=lambda x, v: 3 * x * x * v)


# -- the trace ------------------------------------------------------------------------------------------------------


class Blind:
    """Goes nowhere, having asked what it is told to ask."""

    name = "blind"

    def __init__(self, *questions):
        self.questions = questions

    def init(self, x):
        return None

    def step(self, point, state):
        for question in self.questions:
            getattr(point, question)
        return Step(point.x, None, NoInfo())


@pytest.mark.parametrize(
    ("questions", "cost"),
    [
        ((), Counts()),
        (("gradient",), Counts(gradient=1)),
        (("gradient", "loss", "outputs"), Counts(gradient=1)),
        (("loss",), Counts(loss=1)),
        (("output_gradient",), Counts(loss=1)),
        (("outputs", "output_gradient", "loss"), Counts(loss=1)),
    ],
)
def test_a_method_is_charged_what_it_asked_and_not_what_the_trace_looked_at(questions, cost):
    result = minimize(Rosenbrock(), Blind(*questions), [-1.2, 1.0], steps=1)
    assert result.trace["gradient_norm"][0] > 0
    assert Counts(*(int(result.trace[f"{key}_count"][0]) for key in Counts._fields)) == cost
    assert result.counts == cost + Counts(gradient=1)  # the last look is the run's own


def test_rows_of_a_run():
    result = minimize(Rosenbrock(), SaddleFreeNewton(), [-1.2, 1.0], steps=4)
    trace = result.trace
    assert len(trace) == 5
    assert trace["step"].tolist() == [0, 1, 2, 3, 4]
    assert trace["loss"][0] == pytest.approx(24.2)
    assert trace["gradient_norm"][0] == pytest.approx(np.hypot(215.6, 88.0))
    assert trace["loss"][-1] == result.loss == pytest.approx(float(Rosenbrock().loss(result.x)))
    assert trace["gradient_count"].tolist() == [1, 2, 3, 4, 5]
    assert trace["hvp_count"].tolist() == [2, 4, 6, 8, 8]
    assert trace["work"].tolist() == [5.0, 10.0, 15.0, 20.0, 21.0]
    assert result.counts == Counts(gradient=5, hvp=8)
    assert (np.diff(trace["seconds"]) >= 0).all()
    assert np.isnan(trace["step_norm"][-1])
    assert (result.status, result.steps, result.message) == ("budget", 4, "all 4 steps were taken")


def test_step_norm_is_the_distance_between_places():
    places = []
    result = minimize(Rosenbrock(), Adam(0.1), [-1.2, 1.0], steps=3, callback=lambda _, p: places.append(np.array(p.x)))
    np.testing.assert_allclose(result.trace["step_norm"][:3], np.linalg.norm(np.diff(places, axis=0), axis=-1))


def test_zero_steps_look_at_the_start():
    result = minimize(Rosenbrock(), GradientDescent(1.0), [-1.2, 1.0], steps=0)
    assert (result.status, result.steps, len(result.trace)) == ("budget", 0, 1)
    assert result.x.tolist() == [-1.2, 1.0]


def test_callback_sees_every_place_and_adds_columns():
    seen = []

    def callback(step, point):
        seen.append((step, float(point.loss)))
        return {"even": 1.0} if step % 2 == 0 else None

    result = minimize(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], steps=3, callback=callback)
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_array_equal([loss for _, loss in seen], result.trace["loss"])
    np.testing.assert_array_equal(result.trace["even"], [1.0, np.nan, 1.0, np.nan])


def test_what_the_callback_asks_of_the_point_is_counted():
    result = minimize(
        Rosenbrock(), GradientDescent(1e-4), [0.0, 0.0], steps=2, callback=lambda _, p: {"h": float(p.hessian()[0, 0])}
    )
    assert result.counts == Counts(gradient=3, hvp=6)


def test_trace_is_ready_for_json():
    for start in ([-1.2, 1.0], [[-1.2, 1.0], [0.0, 0.0]]):
        trace = minimize(Rosenbrock(), AdaptiveSaddleFreeNewton(0.1), start, steps=2).trace
        again = json.loads(json.dumps(trace.to_dict()))
        np.testing.assert_array_equal(np.array(again["loss"]), trace["loss"])


def test_unknown_column_is_named():
    with pytest.raises(ValueError, match="no column 'los'"):
        minimize(Rosenbrock(), GradientDescent(1e-4), [0.0, 0.0], steps=1).trace["los"]


def test_a_column_that_starts_late_is_filled():
    trace = Trace()
    trace.add({"a": 1.0})
    trace.add({"a": 2.0, "b": np.array([3.0, 4.0])})
    np.testing.assert_array_equal(trace["b"], [[np.nan, np.nan], [3.0, 4.0]])
    assert len(trace) == 2
    assert len(Trace()) == 0


# -- how a run ends -------------------------------------------------------------------------------------------------


def test_converged_by_gradient_and_by_loss():
    flat = minimize(DoubleWell(), SaddleFreeNewton(), [0.5, 1.0], steps=50, gradient_tolerance=1e-8)
    assert flat.status == "converged"
    assert flat.trace["gradient_norm"][-1] <= 1e-8 < flat.trace["gradient_norm"][-2]
    low = minimize(DoubleWell(), SaddleFreeNewton(), [0.5, 1.0], steps=50, loss_target=1e-3)
    assert low.status == "converged"
    assert low.trace["loss"][-1] <= 1e-3 < low.trace["loss"][-2]
    assert "0.001" in low.message


def test_a_stationary_start_is_converged_without_a_step():
    result = minimize(HorseSaddle(), Newton(), [0.0, 0.0], steps=5)
    assert (result.status, result.steps, len(result.trace)) == ("converged", 0, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["numpy", "torch", "array-api-strict"])
@pytest.mark.parametrize("method", [GradientDescent(1.0), HeavyBall(1.0, 0.9), GradientDescent(1e30)])
def test_divergence_keeps_the_trace_and_lets_no_warning_out(method, dtype, name):
    problem = Quartic(get_backend(name, dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = minimize(problem, method, [3.0, -4.0], steps=100)
    assert result.status == "diverged"
    assert "not finite" in result.message
    assert 0 < result.steps < 20
    assert len(result.trace) >= result.steps
    assert result.trace["loss"][0] == pytest.approx(84.25)
    assert np.isfinite(to_numpy(result.x)).all()
    assert result.x.dtype == problem.backend.dtype


def test_divergence_at_the_start():
    result = minimize(Quartic(), GradientDescent(1.0), [1e200, 0.0], steps=3)
    assert (result.status, result.steps, len(result.trace)) == ("diverged", 0, 1)


def test_a_step_to_nowhere_keeps_the_last_finite_place():
    class Nowhere:
        name = "nowhere"

        def init(self, x):
            return 0

        def step(self, point, state):
            return Step(point.x * (np.nan if state == 2 else 1.0), state + 1, NoInfo())

    result = minimize(HorseSaddle(), Nowhere(), [1.0, 2.0], steps=10)
    assert (result.status, result.steps, result.state) == ("diverged", 3, 2)
    assert result.message == "step 3 led to a place that is not finite"
    assert result.x.tolist() == [1.0, 2.0]
    assert len(result.trace) == 3


def test_ctrl_c_keeps_the_trace():
    def interrupt(step, point):
        if step == 3:
            raise KeyboardInterrupt

    result = minimize(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], steps=50, callback=interrupt)
    assert (result.status, result.steps) == ("interrupted", 3)
    assert result.trace["step"].tolist() == [0, 1, 2, 3]
    assert result.loss == pytest.approx(float(Rosenbrock().loss(result.x)))


def test_other_exceptions_pass():
    def fail(step, point):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        minimize(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], callback=fail)


def test_progress_bar_shows_steps(capfd):
    minimize(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], steps=7, progress=True)
    shown = capfd.readouterr().err
    assert "gradient-descent" in shown
    assert "7/7" in shown
    minimize(Rosenbrock(), BFGS(), [-1.2, 1.0], steps=4, progress=True)
    assert "4/4" in capfd.readouterr().err
    minimize(Rosenbrock(), GradientDescent(1e-4), [-1.2, 1.0], steps=7)
    assert capfd.readouterr().err == ""


# -- many runs at once ----------------------------------------------------------------------------------------------


def test_batched_rows_are_arrays():
    result = minimize(Rosenbrock(), SaddleFreeNewton(), [[-1.2, 1.0], [0.5, 2.0], [0.0, 0.0]], steps=3)
    assert result.trace["loss"].shape == (4, 3)
    assert result.trace["step_norm"].shape == (4, 3)
    assert result.trace["smallest_eigenvalue"].shape == (4, 3)
    assert result.trace["work"].shape == (4,)
    assert result.loss == pytest.approx(float(np.mean(result.trace["loss"][-1])))


def test_a_batch_goes_on_until_every_run_has_ended():
    starts = [[1.0, 0.0], [0.5, 1.0]]  # the first is a minimum already
    result = minimize(DoubleWell(), SaddleFreeNewton(), starts, steps=50, gradient_tolerance=1e-8)
    assert result.status == "converged"
    assert result.steps > 2
    assert (result.trace["gradient_norm"][-1] <= 1e-8).all()


def test_a_batch_in_which_some_diverge():
    # From 1.1 the iteration is x <- -x^3, from 0.5 it converges.
    result = minimize(SqrtValley(), Newton(), [[1.1], [0.5]], steps=40, gradient_tolerance=1e-12)
    assert result.status == "diverged"
    assert result.message.startswith("1 of 2 runs")
    assert result.x[1, 0] == pytest.approx(0.0, abs=1e-9)
    everything = minimize(SqrtValley(), Newton(), [[1.1], [-1.2]], steps=40)
    assert everything.status == "diverged"
    assert len(everything.trace) >= everything.steps


def test_a_batched_problem_without_a_dense_hessian_builds_it_from_products():
    class Plain(Evaluation):
        def __init__(self, x):
            self.x = x

        def loss(self):
            return self.x[..., 0] ** 2 - self.x[..., 1] ** 2

        def gradient(self):
            return self.x * np.array([2.0, -2.0])

        def hvp(self, v):
            return v * np.array([2.0, -2.0])

    class Saddle(Quadratic):
        def evaluation(self, x, sample):
            return Plain(x)

    starts = np.array([[1.5, 1.5], [1.0, -2.0], [3.0, 0.5]])
    result = minimize(Saddle(np.eye(2)), SaddleFreeNewton(), starts, steps=1)
    assert result.x.tolist() == [[0.0, 3.0], [0.0, -4.0], [0.0, 1.0]]


def test_a_batch_for_a_problem_without_batches_is_refused():
    class Single(Quartic):
        batched = False

    with pytest.raises(ValueError, match="x0 must have shape"):
        minimize(Single(), GradientDescent(0.1), [[1.0, 2.0], [3.0, 4.0]])


# -- seeds ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_run_and_another_seed_another():
    problem, method = Rosenbrock(noise=3.0), GradientDescent(1e-4)
    one, two, other = (minimize(problem, method, steps=5, seed=seed) for seed in (1, 1, 2))
    assert one.x.tolist() == two.x.tolist()
    assert one.x.tolist() != other.x.tolist()
    assert len(set(one.trace["loss"].tolist())) == 6


def test_the_same_seed_gives_the_same_run_on_every_backend(backend):
    result = minimize(Rosenbrock(noise=3.0, backend=backend), GradientDescent(1e-4), steps=5, seed=4)
    reference = minimize(Rosenbrock(noise=3.0), GradientDescent(1e-4), steps=5, seed=4)
    np.testing.assert_allclose(to_numpy(result.x), reference.x, rtol=1e-4 if "32" in backend.dtype_name else 1e-12)


# -- x0 and wrong input ---------------------------------------------------------------------------------------------


def test_x0_is_converted_and_never_changed(backend):
    x0 = np.array([1, 2])
    result = minimize(HorseSaddle(backend=backend), SaddleFreeNewton(), x0, steps=1)
    np.testing.assert_allclose(to_numpy(result.x), [0.0, 4.0])
    assert x0.tolist() == [1, 2]
    assert result.x.dtype == backend.dtype


def test_the_result_does_not_share_memory_with_x0():
    x0 = np.array([1.0, 2.0])
    result = minimize(HorseSaddle(), SaddleFreeNewton(), x0, steps=0)
    x0[0] = 99.0
    assert result.x.tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("x0", "message"),
    [
        ([1.0, 2.0, 3.0], "shape"),
        (1.0, "shape"),
        ([1.0, float("nan")], "finite"),
        ([1.0, float("inf")], "finite"),
        ("ab", "numbers"),
        ([[1.0], [2.0, 3.0]], "numbers"),
        ([None, 1.0], "x0"),
    ],
)
def test_wrong_x0(x0, message):
    with pytest.raises(ValueError, match=message):
        minimize(HorseSaddle(), GradientDescent(0.1), x0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"steps": 1.5}, "steps"),
        ({"steps": True}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": None}, "seed"),
        ({"gradient_tolerance": -1.0}, "gradient_tolerance"),
        ({"gradient_tolerance": float("nan")}, "gradient_tolerance"),
        ({"loss_target": float("nan")}, "loss_target"),
        ({"loss_target": "low"}, "loss_target"),
    ],
)
def test_wrong_options(options, message):
    for method in (GradientDescent(0.1), BFGS()):
        with pytest.raises(ValueError, match=message):
            minimize(HorseSaddle(), method, [1.0, 1.0], **options)


@pytest.mark.parametrize("optimizer", [GradientDescent, BFGS, "sgd", None, object()])
def test_wrong_optimizer(optimizer):
    with pytest.raises(ValueError, match="optimizer must"):
        minimize(HorseSaddle(), optimizer, [1.0, 1.0])


def test_methods_satisfy_the_protocols():
    assert isinstance(GradientDescent(0.1), Optimizer)
    assert isinstance(BFGS(), LibraryOptimizer)
