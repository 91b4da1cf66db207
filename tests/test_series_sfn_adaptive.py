"""The adaptive series method: learning rate, momentum and damping.

Oracles: a transcription with dense matrices (dense_series.py); gradients and matrices of Rosenbrock's function by hand;
a problem whose trial loss is what the test says. Knobs and cost that both methods have: test_series_sfn.py.
"""

import numpy as np
import pytest
from dense_series import ASTRAY, dense_direction, dense_scale, walk

from refimpl import minimize
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock


def rosenbrock(x):
    """Loss, gradient, Hessian and Gauss–Newton matrix by hand."""
    a, b = x
    loss, bend = (1 - a) ** 2 + 100 * (b - a * a) ** 2, b - a * a
    jacobian = np.array([[-1.0, 0.0], [-20 * a, 10.0]])
    hessian = np.array([[2 - 400 * bend + 800 * a * a, -400 * a], [-400 * a, 200.0]])
    return loss, np.array([2 * (a - 1) - 400 * a * bend, 200 * bend]), hessian, 2 * jacobian.T @ jacobian


@pytest.mark.parametrize("mode", ["abs", "square"])
def test_adaptive_path_against_dense_solves(mode):
    method = AdaptiveSeriesSaddleFreeNewton(7, 0.5, 2, omega=0.5, mode=mode)
    x, v, lam, d, seen = np.array([-1.2, 1.0]), 100.0, 0.5, np.zeros(2), []
    for _ in range(10):
        loss, g, h, gauss_newton = rosenbrock(x)
        v = dense_scale(method, h, g, v, lam)
        u, a = dense_direction(method, h, g, v, lam), gauss_newton + lam * np.eye(2)
        basis = np.stack([u, d], axis=-1) if d.any() else u[:, None]
        solved = np.linalg.solve(basis.T @ a @ basis, basis.T @ g)
        if not d.any():
            assert solved[0] == pytest.approx(g @ u / (u @ a @ u))
        d = basis @ solved
        predicted = -g @ d + 0.5 * d @ a @ d
        ratio = (rosenbrock(x - d)[0] - loss) / predicted
        seen.append([*[*solved, 0.0][:2], lam, predicted, ratio, v])
        x = x - d
        lam = lam * (0.5 if ratio > 0.75 else 2.0 if ratio < 0.25 else 1.0)
    places, infos, state = walk(Rosenbrock(), method, [-1.2, 1.0], 10)
    told = [[i.learning_rate, i.momentum, i.damping, i.predicted_change, i.ratio, i.scale] for i in infos]
    np.testing.assert_allclose(told, seen, rtol=1e-6)
    np.testing.assert_allclose(places[-1], x, rtol=1e-6)
    assert state.damping == pytest.approx(lam)
    assert all(info.accepted for info in infos)
    dampings = np.array(seen)[:, 2]
    assert np.abs(np.array(seen)[1:, 1]).min() > 1e-3  # momentum in every later step
    assert len(set(dampings.tolist())) > 1


def test_released_solve_is_one_and_zero():
    _, infos, _ = walk(DoubleWell(), AdaptiveSeriesSaddleFreeNewton.released(5, 0.5, 1), [0.3, 1.0], 8)
    assert all((info.learning_rate, info.momentum) == (1.0, 0.0) for info in infos)
    told = walk(DoubleWell(), AdaptiveSeriesSaddleFreeNewton(5, 0.5, 1), [0.3, 1.0], 8)[1]
    assert any(info.momentum != 0.0 for info in told)


class Told(Quadratic):
    """f = 4x at x = 0; the loss at any trial place is what we say."""

    def __init__(self, trial):
        super().__init__([[0.0]], linear=[4.0])
        self.trial = trial

    def loss(self, x, sample=None):
        return np.full(x.shape[:-1], self.trial)


# With V = 4 and damping 2 the direction is 4 / (2 + 2) = 1 and the model predicts -2.
AT_THE_TRIAL = [
    (-1.5, 2.0), (np.nextafter(-1.5, -2), 1.0), (-0.5, 2.0), (np.nextafter(-0.5, 0), 4.0), (3.0, 4.0), (-9.0, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(("trial", "damping"), AT_THE_TRIAL)
@pytest.mark.parametrize("accept", ["guarded", "always"])
def test_damping_rule_is_strict(trial, damping, accept):
    method = AdaptiveSeriesSaddleFreeNewton(1, 2.0, omega=0.5, scale=4.0, solve="released", accept=accept)
    places, infos, state = walk(Told(trial), method, [0.0], 1)
    assert (places.tolist(), infos[0].predicted_change, infos[0].ratio) == ([[-1.0]], -2.0, trial / -2.0)
    assert state.damping == damping


@pytest.mark.parametrize("trial", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("solve", ["released", "gauss-newton"])
def test_a_trial_that_is_not_finite_is_refused_and_doubles_the_damping(trial, solve):
    guarded = AdaptiveSeriesSaddleFreeNewton(1, 2.0, scale=4.0, solve=solve, maximum_damping=5.0)
    places, infos, state = walk(Told(trial), guarded, [0.0], 2)
    assert places.tolist() == [[0.0], [0.0]]
    assert [bool(info.accepted) for info in infos] == [False, False]
    assert [info.damping for info in infos] == [2.0, 4.0]
    assert (state.damping, state.step) == (5.0, 0.0)
    taking = AdaptiveSeriesSaddleFreeNewton(1, 2.0, scale=4.0, solve=solve, accept="always")
    places, infos, state = walk(Told(trial), taking, [0.0], 1)
    assert places[0, 0] < 0
    assert bool(infos[0].accepted)
    assert state.step == -places[0, 0]


def test_a_model_that_predicts_no_decrease_is_refused():
    knobs = {"order": 2, "scale": 1.0, "scale_rule": "fixed", "guard": False, "solve": "released"}
    method = AdaptiveSeriesSaddleFreeNewton(5, 1e-6, **knobs)
    places, infos, state = walk(ASTRAY, method, [1.0], 1)
    assert infos[0].predicted_change > 0
    assert not infos[0].accepted
    assert places.tolist() == [[1.0]]
    assert state.damping == 2e-6
    assert state.step == 0.0
    always = AdaptiveSeriesSaddleFreeNewton(5, 1e-6, accept="always", **knobs)
    places, infos, state = walk(ASTRAY, always, [1.0], 1)
    assert places[0, 0] > 1.0
    assert bool(infos[0].accepted)
    assert state.step == pytest.approx(1.0 - places[0, 0])


def test_gauss_newton_solve_needs_outputs():
    with pytest.raises(ValueError, match="HorseSaddle is not a convex function of outputs"):
        minimize(HorseSaddle(), AdaptiveSeriesSaddleFreeNewton(5, 0.1), [1.0, 1.0], steps=1)
