"""CurveBall's damping rule, its costs, precision, many runs at once, and the places where there is nothing to do.

Oracles: a one-dimensional loss whose trial says what it is told, with numbers that are exact in binary; the identity
for the ratio on quadratics; counts by hand; single runs for batches; float64 for float32.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_curveball import KEPT, gauss_newton, network, step_from

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.curveball import CurveBall, CurveBallState
from refimpl.oracle import Counts
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock

SEEDS = st.integers(0, 2**32 - 1)

# -- damping ----------------------------------------------------------------------------------------------------------


class Told(LinearLeastSquares):
    """f = x^2, except that a trial has the loss it is told. At x = 1 with lam = 2: beta = 1/4, predicted -1/2."""

    def __init__(self, trial):
        super().__init__([[1.0]], [0.0])
        self.trial = trial

    def loss(self, x, sample=None):
        return np.asarray(self.trial)


def told(trial, method=None):
    problem = Told(trial)
    return (method or CurveBall(adapt_every=1, omega=0.5)).step(
        problem.at(np.ones(1)), CurveBallState(np.zeros(1), np.asarray(2.0), 0)
    )


@pytest.mark.parametrize(
    ("ratio", "factor"),
    [
        (-4.0, 2.0), (0.0, 2.0), (0.5 - 2**-52, 2.0), (0.5, 1.0), (0.5 + 2**-52, 1.0), (1.0, 1.0), (1.25, 1.0),
        (1.5 - 2**-52, 1.0), (1.5, 1.0), (1.5 + 2**-52, 0.5), (3.0, 0.5),
    ],
)  # fmt: skip
def test_thresholds_are_strict(ratio, factor):
    step = told(1.0 - 0.5 * ratio)
    assert float(step.info.predicted_change) == -0.5
    assert (float(step.info.ratio), float(step.state.damping)) == (ratio, 2.0 * factor)


@pytest.mark.parametrize("trial", [np.inf, np.nan, -np.inf])
def test_a_loss_that_is_not_finite_raises_the_damping_and_the_step_is_taken(trial):
    step = told(trial)
    assert float(step.state.damping) == 4.0
    assert float(step.x[0]) == 0.5


def test_damping_is_clipped_at_both_ends():
    bounds = {"minimum_damping": 1.5, "maximum_damping": 3.0, "initial_damping": 2.0}
    assert float(told(-9.0, CurveBall(adapt_every=1, omega=0.5, **bounds)).state.damping) == 1.5
    assert float(told(9.0, CurveBall(adapt_every=1, omega=0.5, **bounds)).state.damping) == 3.0


def test_omega_of_the_released_code_and_omega_one():
    assert float(told(-9.0, CurveBall()).state.damping) == pytest.approx(2.0 * 0.999**5, rel=1e-15)
    assert float(told(9.0, CurveBall()).state.damping) == pytest.approx(2.0 / 0.999**5, rel=1e-15)
    assert float(told(-9.0, CurveBall(omega=1.0)).state.damping) == 2.0


@pytest.mark.parametrize("every", [1, 3, 5])
def test_it_adapts_in_steps_0_k_2k(every):
    method = CurveBall(adapt_every=every, omega=0.5, initial_damping=1.0)
    trace = minimize(Rosenbrock(), method, [-1.2, 1.0], steps=16).trace
    measured = ~np.isnan(trace["ratio"][:16])
    assert np.flatnonzero(measured).tolist() == list(range(0, 16, every))
    ratio, damping = trace["ratio"][:16], trace["damping"][:16]
    factors = np.where(ratio > 1.5, 0.5, np.where(ratio < 0.5, 2.0, 1.0))[:-1]
    factors[~measured[:-1]] = 1.0
    assert len(set(factors.tolist())) > 1
    np.testing.assert_allclose(damping[1:] / damping[:-1], factors)


def test_ratio_is_of_changes_on_the_same_sample():
    # With the other noise the loss is nine times as large; a ratio of losses or another sample would show.
    problem = Rosenbrock(noise=3.0)
    step = step_from(problem, [-1.0, 2.0], [0.1, 0.2], 0.5, CurveBall(adapt_every=1), sample=0.3)
    x = np.array([-1.0, 2.0])
    actual = problem.loss(step.x, 0.3) - problem.loss(x, 0.3)
    assert step.info.ratio == pytest.approx(actual / step.info.predicted_change, rel=1e-12)


@given(seed=SEEDS, damping=st.sampled_from([1e-2, 1.0, 30.0]))
@settings(max_examples=60, deadline=None)
def test_ratio_on_a_quadratic_is_between_one_and_two(seed, damping):
    rng = np.random.default_rng(seed)
    problem = LinearLeastSquares(rng.standard_normal((6, 4)), rng.standard_normal(6))
    x, z = rng.standard_normal((2, 4))
    step = step_from(problem, x, z, damping, CurveBall(adapt_every=1))
    s, point = step.state.step, problem.at(x)
    share = damping * (s @ s)
    assert step.info.ratio == pytest.approx(1 + share / (s @ point.ggnvp(s) + share), rel=1e-6)
    assert 1 <= step.info.ratio <= 2


@pytest.mark.parametrize("parameters", [(0.05, 0.9), (None, 1.0), (0.05, None)], ids=str)
def test_prediction_is_the_damped_model_of_the_step_that_was_taken(parameters):
    problem, rng = network(10)
    x, z, lam = problem.initial(rng), rng.standard_normal(problem.n), 0.7
    step = step_from(problem, x, z, lam, CurveBall(*parameters, adapt_every=1))
    s, point = step.state.step, problem.at(x)
    expected = point.gradient @ s + 0.5 * s @ (gauss_newton(point) @ s + lam * s)
    assert step.info.predicted_change == pytest.approx(expected, rel=1e-9)
    assert step.info.ratio == pytest.approx((problem.loss(x + s) - point.loss) / expected, rel=1e-9)


# -- nothing to do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CurveBall(), CurveBall(0.1, 0.9, adapt_every=1), CurveBall(momentum=1.0)], ids=str)
def test_at_a_minimum_without_momentum_it_stays_and_learns_nothing(method):
    problem = Rosenbrock()
    for iteration in (0, 5):
        step = step_from(problem, [1.0, 1.0], [0.0, 0.0], 0.25, method, iteration)
        np.testing.assert_array_equal(step.x, [1.0, 1.0])
        np.testing.assert_array_equal(step.state.step, [0.0, 0.0])
        assert float(step.state.damping) == 0.25
        assert np.isnan(float(step.info.ratio))
        assert float(step.info.predicted_change) == 0.0


def test_at_a_minimum_with_momentum_the_best_step_is_none():
    # g = 0: the model is s·Ms/2, whose minimum is at s = 0.
    step = step_from(Rosenbrock(), [1.0, 1.0], [0.3, -0.1], 0.25)
    np.testing.assert_allclose(step.state.step, 0.0, atol=1e-15)


def test_after_a_step_of_zero_comes_the_plain_gradient():
    # g = (c I - M) z with the Rayleigh quotient c of z: then g·z = 0 and dz = c z, so the plane offers nothing.
    rng = np.random.default_rng(11)
    a, z, lam = rng.standard_normal((5, 3)), rng.standard_normal(3), 0.5
    matrix = 2 * a.T @ a + lam * np.eye(3)
    g = (z @ matrix @ z / (z @ z)) * z - matrix @ z
    x = np.linalg.solve(2 * a.T @ a, g)
    problem = LinearLeastSquares(a, np.zeros(5))
    np.testing.assert_allclose(problem.at(x).gradient, g, rtol=1e-9)
    step = step_from(problem, x, z, lam)
    np.testing.assert_allclose(step.state.step, 0.0, atol=1e-9)
    assert np.linalg.norm(g) > 1
    following = step_from(problem, x, np.zeros(3), lam, iteration=2)
    length = g @ g / (g @ matrix @ g)
    np.testing.assert_allclose(following.state.step, -length * g, rtol=1e-9)
    assert float(following.info.momentum) == 0.0


def test_parameters_that_are_not_finite_count_as_zero():
    # The curvature overflows, the direction does not.
    problem = LinearLeastSquares([[1e120]], [0.0])
    with np.errstate(all="ignore"):
        step = step_from(problem, [1.0], [0.5], 1.0, CurveBall(adapt_every=1))
    assert (float(step.info.learning_rate), float(step.info.momentum)) == (0.0, 0.0)
    assert step.x.tolist() == [1.0]
    assert float(step.state.damping) > 1.0


def test_a_loss_without_outputs_needs_the_hessian():
    with pytest.raises(ValueError, match="HorseSaddle is not a convex function of outputs"):
        minimize(HorseSaddle(), CurveBall(), [1.0, 1.0])
    assert minimize(HorseSaddle(), CurveBall(curvature="hessian"), [1.0, 1.0], steps=3).steps == 3


# -- costs ------------------------------------------------------------------------------------------------------------


def counts_of(method, iteration):
    problem, rng = network(12)
    z = np.zeros(problem.n) if iteration == 0 else np.ones(problem.n)
    point = problem.at(problem.initial(rng))
    method.step(point, CurveBallState(z, np.asarray(0.5), iteration))
    return point.counts


@pytest.mark.parametrize(
    ("method", "iteration", "counts"),
    [
        (CurveBall(), 0, Counts(loss=2, vjp=1, jvp=1)),
        (CurveBall(), 1, Counts(loss=1, vjp=1, jvp=2)),
        (CurveBall(), 5, Counts(loss=2, vjp=1, jvp=2)),
        (CurveBall(adapt_every=0), 5, Counts(loss=1, vjp=1, jvp=2)),
        (CurveBall(momentum=1.0), 1, Counts(loss=1, vjp=1, jvp=2)),
        (CurveBall(0.1, 0.9), 0, Counts(loss=2, vjp=1, jvp=1)),
        (CurveBall(0.1, 0.9), 1, Counts(loss=1, vjp=1, jvp=1)),
        (CurveBall(0.1, 0.9), 5, Counts(loss=2, vjp=1, jvp=2)),
        (CurveBall(0.1, 0.9, adapt_every=0), 0, Counts(loss=1, vjp=1)),
        (CurveBall(curvature="hessian"), 0, Counts(loss=1, gradient=1, hvp=1)),
        (CurveBall(curvature="hessian"), 1, Counts(gradient=1, hvp=2)),
        (CurveBall(0.1, 0.9, "hessian", adapt_every=0), 1, Counts(gradient=1, hvp=1)),
    ],
    ids=str,
)
def test_counts_of_a_step(method, iteration, counts):
    assert counts_of(method, iteration) == counts


def test_work_of_a_step_is_seven_thirds_and_a_fifth_of_a_loss():
    assert counts_of(KEPT, 1).work == pytest.approx(7 / 3)
    work = sum(counts_of(CurveBall(), i).work for i in range(1, 6)) / 5
    assert work == pytest.approx(7 / 3 + 1 / 15)


# -- precision and many runs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_inner_products_are_summed_in_float64(library):
    # Ten thousand entries and a plane that is almost a line: float32 sums cannot tell the directions apart.
    rng = np.random.default_rng(13)
    n = 10_000
    h, g = rng.uniform(0.5, 1.5, n), rng.standard_normal(n)
    h, g, z = (a.astype("float32").astype("float64") for a in (h, g, -g * (1 + 3e-3 * rng.standard_normal(n))))
    problem, exact = (
        DiagonalLeastSquares(h, g, get_backend(*place)) for place in ((library, "float32"), ("numpy", "float64"))
    )
    found, wanted = (step_from(p, np.zeros(n), z, 50.0) for p in (problem, exact))
    assert str(found.info.learning_rate.dtype).endswith("float64")
    assert str(found.state.step.dtype).endswith("float32")
    assert str(found.state.damping.dtype).endswith("float32")
    assert float(found.info.learning_rate) == pytest.approx(float(wanted.info.learning_rate), rel=1e-2)
    size = np.linalg.norm(wanted.state.step)
    assert np.linalg.norm(to_numpy(found.state.step) - wanted.state.step) < 1e-4 * size


class DiagonalLeastSquares(Quadratic):
    """x·diag(h) x/2 + g·x for many entries, without a matrix."""

    def __init__(self, h, g, backend):
        super().__init__([[1.0]], backend=backend)
        self.n, self.diagonal, self.slope = len(h), backend.asarray(h), backend.asarray(g)

    def f(self, x):
        return self.backend.xp.sum((0.5 * self.diagonal * x + self.slope) * x, axis=-1)

    def gradient_at(self, x):
        return self.diagonal * x + self.slope

    def _product(self, x, v):
        return self.diagonal * v


@pytest.mark.parametrize("curvature", ["gauss-newton", "hessian"])
@pytest.mark.parametrize("damping", [0.1, 1.0])
def test_rows_are_decided_each_for_itself(curvature, damping):
    # An ordinary row, a first step, a row at a minimum, a row that overflows, a row far from the others.
    problem = DoubleWell(n=3)
    x = np.array([[0.3, 1.0, -0.5], [-1.7, 0.3, 2.0], [1.0, 0.0, 0.0], [1e110, 1.0, 1.0], [0.01, 1e-6, 40.0]])
    z = np.array([[0.1, 0.2, -0.1], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1e90, 0.0, 1.0], [-0.3, 1.0, 0.0]])
    method = CurveBall(curvature=curvature, adapt_every=1, omega=0.5)
    with np.errstate(all="ignore"):
        together = step_from(problem, x, z, np.full(5, damping), method)
        for row in range(5):
            alone = step_from(problem, x[row], z[row], damping, method)
            np.testing.assert_allclose(together.x[row], alone.x, rtol=1e-11)
            np.testing.assert_allclose(together.state.damping[row], alone.state.damping, rtol=1e-12)
            for ours, theirs in zip(together.info, alone.info, strict=True):
                np.testing.assert_allclose(ours[row], theirs, rtol=1e-9)
    assert len(set(together.state.damping.tolist())) > 1


READS = ["__bool__", "__float__", "__int__", "__index__", "__array__", "item", "tolist", "numpy", "cpu", "nonzero"]


def test_a_torch_step_never_looks_at_the_host(monkeypatch):
    torch = pytest.importorskip("torch")
    for dtype in ("float32", "float64"):
        problem = DoubleWell(n=3, backend=get_backend("torch", dtype))
        point = problem.at(problem.backend.asarray([[0.2, 1.0, -0.5], [-1.7, 0.3, 2.0]]))
        methods = [
            CurveBall(adapt_every=1), CurveBall(0.1, 0.9), CurveBall(momentum=1.0, system="printed"),
            CurveBall(learning_rate=0.1, curvature="hessian"),
        ]  # fmt: skip
        states = [method.init(point.x) for method in methods]

        def refuse(*_, **__):
            raise AssertionError("a step read a tensor back to the host")

        with monkeypatch.context() as patch:
            for name in READS:
                patch.setattr(torch.Tensor, name, refuse)
            for method, state in zip(methods, states, strict=True):
                for _ in range(2):
                    step = method.step(point, state)
                    state = step.state
        assert bool(torch.isfinite(step.x).all())
