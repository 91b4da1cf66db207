"""Adaptive saddle-free Newton against a dense transcription with NumPy's solvers, and its rules one by one."""

import numpy as np
import pytest
import scipy.linalg

from refimpl import minimize
from refimpl.arrays import namespace
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton, average_curvature
from refimpl.optimizers.damping import adapt_damping, learning_rate_and_momentum
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, Rosenbrock


class LogBarrier(Quadratic):
    """f = sum of x - log x, defined for x > 0 only: Newton's step from x = 3 leads to -3, where f is NaN."""

    def __init__(self, n=1):
        super().__init__(np.eye(n))

    def evaluation(self, x, sample):
        xp = namespace(x)
        return ClosedForm(
            x,
            lambda x: xp.sum(x - xp.log(x), axis=-1),
            lambda x: 1.0 - 1.0 / x,
            lambda x: (1.0 / (x * x))[..., None] * np.eye(self.n),
        )


def by_the_book(problem, x, steps, damping, ema=0.95, omega=0.9):
    """The recursion written with solves and SciPy's matrix square root; no guards."""
    x, c, d, places = np.array(x), None, np.zeros(len(x)), []
    identity = np.eye(len(x))
    for _ in range(steps):
        places.append(x)
        point = problem.at(x)
        g, h = point.gradient, point.hessian()
        c = h if c is None else ema * c + (1 - ema) * h
        u = np.linalg.solve(scipy.linalg.sqrtm(c @ c).real + damping * identity, g)
        a = scipy.linalg.sqrtm(h @ h).real + damping * identity
        if d.any():
            basis = np.stack([u, d], axis=-1)
            eta, mu = np.linalg.solve(basis.T @ a @ basis, basis.T @ g)
        else:
            eta, mu = g @ u / (u @ a @ u), 0.0
        d = eta * u + mu * d
        ratio = (problem.loss(x - d) - point.loss) / (-g @ d + 0.5 * d @ a @ d)
        x = x - d
        damping = max(damping * (omega if ratio > 0.75 else 1 / omega if ratio < 0.25 else 1.0), 1e-8)
    return np.array(places)


def path(problem, method, start, steps):
    places = []
    result = minimize(problem, method, start, steps=steps, callback=lambda _, p: places.append(np.array(p.x)))
    return np.array(places)[:steps], result.trace, result


@pytest.mark.parametrize(
    ("problem", "start"),
    [
        (Rosenbrock(), [-1.2, 1.0]),
        (DoubleWell(n=3), [0.1, 1.0, -0.5]),
        (CoupledSaddle(), [0.3, 0.02]),
    ],
    ids=["rosenbrock", "double-well", "coupled-saddle"],
)
@pytest.mark.parametrize("ema", [0.5, 0.95])
def test_path_against_the_dense_transcription(problem, start, ema):
    places, trace, _ = path(problem, AdaptiveSaddleFreeNewton(0.1, ema=ema), start, 12)
    assert (trace["accepted"][:12] == 1).all()
    np.testing.assert_allclose(places, by_the_book(problem, start, 12, 0.1, ema), rtol=1e-6, atol=1e-9)


# -- learning rate and momentum -------------------------------------------------------------------------------------


def solve(a, g, u, d):
    numbers = (u @ a @ u, u @ a @ d, d @ a @ d, g @ u, g @ d)
    eta, mu = learning_rate_and_momentum(*(np.asarray(number) for number in numbers))
    return float(eta), float(mu)


def test_without_averaging_the_answer_is_one_and_zero_at_every_step():
    _, trace, _ = path(Rosenbrock(), AdaptiveSaddleFreeNewton(0.5, ema=0.0), [-1.2, 1.0], 15)
    np.testing.assert_allclose(trace["learning_rate"][:15], 1.0, rtol=1e-9)
    np.testing.assert_allclose(trace["momentum"][:15], 0.0, atol=1e-9)


def test_with_averaging_it_is_not():
    _, trace, _ = path(Rosenbrock(), AdaptiveSaddleFreeNewton(0.5), [-1.2, 1.0], 15)
    assert trace["learning_rate"][0] == pytest.approx(1.0)  # the first average is the Hessian itself
    assert np.abs(trace["learning_rate"][1:15] - 1.0).max() > 0.1
    assert np.abs(trace["momentum"][1:15]).max() > 0.1


@pytest.mark.parametrize("seed", range(5))
def test_solve_against_numpy_and_it_minimizes_the_model(seed):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((6, 6))
    a, g, u, d = a @ a.T, *rng.standard_normal((3, 6))
    basis = np.stack([u, d], axis=-1)
    eta, mu = solve(a, g, u, d)
    np.testing.assert_allclose([eta, mu], np.linalg.solve(basis.T @ a @ basis, basis.T @ g), rtol=1e-9)

    def model(eta, mu):
        s = eta * u + mu * d
        return -g @ s + 0.5 * s @ a @ s

    best = model(eta, mu)
    assert all(model(eta + e, mu + m) > best for e, m in rng.standard_normal((20, 2)))


def test_first_step_takes_the_best_multiple_of_the_direction():
    a, g, u = np.diag([1.0, 4.0]), np.array([1.0, 2.0]), np.array([1.0, 1.0])
    assert solve(a, g, u, np.zeros(2)) == (pytest.approx(3 / 5), 0.0)


def test_fallback_where_the_matrix_is_not_positive_definite():
    g, u = np.array([1.0, 2.0]), np.array([1.0, 1.0])
    a = np.diag([3.0, 2.0])
    assert solve(a, g, u, 2.5 * u) == (pytest.approx(3 / 5), 0.0)  # parallel: determinant 0
    assert solve(a, g, u, u + 1e-9) == (pytest.approx(3 / 5), 0.0)  # parallel to within rounding
    indefinite = np.diag([3.0, -2.0])
    assert solve(indefinite, g, u, np.array([0.0, 1.0])) == (pytest.approx(3.0), 0.0)  # d·Ad < 0
    nearly = np.array([1.0, 0.1])  # d·Ad < 0 again, but u·Ad is small: the determinant alone would not tell
    assert solve(indefinite, g, nearly, np.array([0.0, 1.0])) == (pytest.approx(1.2 / 2.98), 0.0)
    assert solve(-a, g, u, np.array([1.0, 0.0])) == (1.0, 0.0)  # u·Au < 0
    assert solve(np.zeros((2, 2)), g, u, u) == (1.0, 0.0)


def test_the_raw_hessian_would_have_given_an_ascent_step():
    # The plain 2 × 2 solution for this indefinite C is (1, 1), and the step raises its model by 0.245.
    c, g, u, d = np.diag([1.0, -2.0]), np.array([0.1, 1.0]), np.array([0.1, 0.5]), np.array([0.0, -1.0])
    basis = np.stack([u, d], axis=-1)
    np.testing.assert_allclose(np.linalg.solve(basis.T @ c @ basis, basis.T @ g), [1.0, 1.0])
    step = u + d
    assert -g @ step + 0.5 * step @ c @ step == pytest.approx(0.245)
    assert solve(c, g, u, d) == (1.0, 0.0)


def test_solve_survives_numbers_whose_products_overflow():
    big = [np.asarray(v, dtype="float32") for v in (4e30, 1e30, 4e30, 4e30, 1e30)]
    eta, mu = learning_rate_and_momentum(*big)
    assert float(eta) == pytest.approx(1.0)
    assert float(mu) == pytest.approx(0.0, abs=1e-6)
    assert eta.dtype == np.float32


# -- damping --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [(0.75, 1.0), (0.7500001, 0.9), (0.25, 1.0), (0.2499999, 1 / 0.9), (np.nan, 1.0), (5.0, 0.9), (-3.0, 1 / 0.9)],
)
def test_damping_rule_is_strict_and_ignores_nan(ratio, expected):
    assert float(adapt_damping(np.asarray(1.0), np.asarray(ratio))) == pytest.approx(expected, rel=1e-12)


def test_damping_is_clipped_at_both_ends():
    assert float(adapt_damping(np.asarray(1e-8), np.asarray(1.0))) == 1e-8
    assert float(adapt_damping(np.asarray(1e8), np.asarray(0.0))) == 1e8


def test_damping_in_the_trace_follows_the_ratio():
    _, trace, _ = path(Rosenbrock(), AdaptiveSaddleFreeNewton(0.1, ema=0.5, omega=0.5), [-1.2, 1.0], 14)
    ratio, damping = trace["ratio"][:14], trace["damping"][:14]
    factors = np.where(ratio > 0.75, 0.5, np.where(ratio < 0.25, 2.0, 1.0))[:-1]
    assert len(set(factors.tolist())) > 1
    np.testing.assert_allclose(damping[1:] / damping[:-1], factors)


def test_the_ratio_judges_the_step_that_was_taken():
    places, trace, result = path(Rosenbrock(), AdaptiveSaddleFreeNewton(0.1), [-1.2, 1.0], 10)
    problem = Rosenbrock()
    places = np.vstack([places, result.x])
    actual = np.diff([float(problem.loss(x)) for x in places])
    np.testing.assert_allclose(trace["ratio"][:10] * trace["predicted_change"][:10], actual, rtol=1e-9)


def test_a_damped_model_of_a_convex_quadratic_never_promises_too_much():
    _, trace, _ = path(Quadratic(np.diag([1.0, 10.0])), AdaptiveSaddleFreeNewton(1.0), [1.0, 1.0], 10)
    assert (trace["ratio"][:10] >= 1.0).all()
    assert (np.diff(trace["damping"][:10]) < 0).all()


# -- rejection ------------------------------------------------------------------------------------------------------


def test_a_trial_that_is_not_finite_is_rejected_and_doubles_the_damping():
    _, trace, result = path(LogBarrier(), AdaptiveSaddleFreeNewton(0.01, ema=0.0), [3.0], 15)
    rejected = trace["accepted"][:15] == 0
    assert rejected[:3].all()
    assert not rejected.all()
    assert (trace["step_norm"][:15][rejected] == 0).all()
    ratios = trace["damping"][1:15] / trace["damping"][:14]
    np.testing.assert_allclose(ratios[rejected[:14]], 2.0)
    assert result.x[0] == pytest.approx(1.0, abs=1e-3)


def test_a_rejection_resets_the_momentum():
    class Trap(Rosenbrock):
        calls = 0

        def loss(self, x, sample=None):
            Trap.calls += 1
            return super().loss(x, sample) if Trap.calls != 3 else np.asarray(np.nan)

    _, trace, _ = path(Trap(), AdaptiveSaddleFreeNewton(0.1), [-1.2, 1.0], 5)
    assert trace["accepted"][:5].tolist() == [1, 1, 0, 1, 1]
    assert trace["momentum"][2] != 0.0
    assert trace["momentum"][3] == 0.0
    assert trace["learning_rate"][3] != pytest.approx(1.0)  # the best multiple of u in the current model
    assert trace["momentum"][4] != 0.0


def test_a_model_that_predicts_no_decrease_is_rejected():
    # With (1, 0) instead of the solve and curvature that jumps up, u from the old average is far too long.
    class Steepening(Quadratic):
        def evaluation(self, x, sample):
            return ClosedForm(
                x,
                lambda x: (x**4).sum(-1) / 4,
                lambda x: x**3,
                lambda x: np.where(abs(x[..., None]) > 1.5, 100.0, 0.1) * np.eye(1),
            )

    method = AdaptiveSaddleFreeNewton(1e-3, solve="released")
    state = method.init(np.array([1.0]))._replace(curvature=np.array([[0.1]]))
    step = method.step(Steepening([[1.0]]).at(np.array([2.0])), state)
    assert step.info.predicted_change > 0
    assert not step.info.accepted
    assert step.x.tolist() == [2.0]
    assert float(step.state.damping) == 2e-3
    always = AdaptiveSaddleFreeNewton(1e-3, solve="released", accept="always")
    assert always.step(Steepening([[1.0]]).at(np.array([2.0])), state).x[0] != 2.0


def test_damping_after_many_rejections_is_capped():
    class Cliff(Rosenbrock):
        def loss(self, x, sample=None):
            return np.asarray(np.inf)

    result = minimize(Cliff(), AdaptiveSaddleFreeNewton(1e6), [-1.2, 1.0], steps=12)
    assert result.x.tolist() == [-1.2, 1.0]
    assert float(result.state.damping) == 1e8


def test_always_accepting_ends_where_guarding_goes_on():
    assert minimize(LogBarrier(), AdaptiveSaddleFreeNewton(0.01, accept="always"), [3.0]).status == "diverged"
    assert minimize(LogBarrier(), AdaptiveSaddleFreeNewton(0.01), [3.0]).loss == pytest.approx(1.0)


def test_released_solve_is_one_and_zero():
    _, trace, _ = path(Rosenbrock(), AdaptiveSaddleFreeNewton(0.5, solve="released"), [-1.2, 1.0], 8)
    assert (trace["learning_rate"][:8] == 1).all()
    assert (trace["momentum"][:8] == 0).all()


# -- edges ----------------------------------------------------------------------------------------------------------


def test_at_a_stationary_point_nothing_changes():
    method = AdaptiveSaddleFreeNewton(0.5)
    x = np.zeros(2)
    step = method.step(HorseSaddle().at(x), method.init(x))
    assert step.x.tolist() == [0.0, 0.0]
    assert float(step.state.damping) == 0.5
    assert bool(step.info.accepted)


def test_the_horse_saddle_is_left():
    result = minimize(HorseSaddle(), AdaptiveSaddleFreeNewton(1e-3), [1.5, 1e-3], steps=20)
    assert result.loss < -100


def test_a_hessian_that_is_not_finite_is_not_averaged_in():
    good, bad = np.eye(2), np.array([[np.nan, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(average_curvature(good, bad, 0.5), good)
    np.testing.assert_array_equal(average_curvature(bad, good, 0.5), good)
    both = average_curvature(np.stack([good, bad]), np.stack([3 * good, good]), 0.5)
    np.testing.assert_array_equal(both, np.stack([2 * good, good]))


def test_batched_equals_loop_where_runs_decide_differently():
    starts = np.array([[3.0], [0.5], [1.0], [40.0]])
    method = AdaptiveSaddleFreeNewton(0.01)
    together = minimize(LogBarrier(), method, starts, steps=12)
    accepted = together.trace["accepted"][:12]
    assert (accepted.min(axis=0) == [0, 1, 1, 0]).all()
    for run, start in enumerate(starts):
        _, trace, alone = path(LogBarrier(), method, start, 12)
        np.testing.assert_allclose(together.x[run], alone.x, rtol=1e-12)
        steps = min(alone.steps, 8)  # alone, a run may stop at its minimum; close to it the ratio is rounding
        if steps:
            np.testing.assert_allclose(together.trace["damping"][:steps, run], trace["damping"][:steps], rtol=1e-12)


def test_cost_of_a_step():
    result = minimize(Rosenbrock(), AdaptiveSaddleFreeNewton(0.1), [-1.2, 1.0], steps=1)
    first = [result.trace[f"{key}_count"][0] for key in ("loss", "gradient", "hvp", "jvp")]
    assert first == [1, 1, 2, 0]


def test_a_small_network_learns():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((40, 3))
    net = MLP((3, 6, 1), inputs, np.tanh(inputs @ rng.standard_normal((3, 1))), activation="tanh")
    result = minimize(net, AdaptiveSaddleFreeNewton(0.1), steps=40, seed=1)
    assert result.loss < 0.02 * result.trace["loss"][0]


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"initial_damping": 0.0}, "initial_damping"),
        ({"initial_damping": -1.0}, "initial_damping"),
        ({"initial_damping": float("nan")}, "initial_damping"),
        ({"initial_damping": 1e9}, "initial_damping"),
        ({"initial_damping": 1e-9}, "initial_damping"),
        ({"ema": 1.0}, "ema"),
        ({"ema": -0.1}, "ema"),
        ({"ema": float("nan")}, "ema"),
        ({"omega": 0.0}, "omega"),
        ({"omega": 1.0}, "omega"),
        ({"minimum_damping": 0.0}, "minimum_damping"),
        ({"maximum_damping": float("inf")}, "maximum_damping"),
        ({"solve": "exact"}, "unknown solve"),
        ({"accept": "never"}, "unknown accept"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveSaddleFreeNewton(**{"initial_damping": 0.1, **knobs})
