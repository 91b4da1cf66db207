"""The optimizer K-FAC: its direction, its fixed and its adaptive step. Its factors: test_kfac_factors.py.

Oracles: the dense Gauss–Newton matrix, built from products that know nothing of layers; ``numpy.kron`` and dense
solves; least squares, which K-FAC solves in one step.
"""

import os
from pathlib import Path

import numpy as np
import pytest
from kfac_cases import small
from network_cases import LOSSES, network

from refimpl import get_backend, minimize
from refimpl.arrays import as_generator, device_of, dtype_name, to_numpy
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC, average_factors, precondition
from refimpl.optimizers.levenberg_marquardt import gauss_newton_matrix
from refimpl.oracle import Counts, KroneckerFactors
from refimpl.problems.datasets import uci_energy
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import HorseSaddle

DATA = os.environ.get("REFIMPL_DATA")
FIXED = KFAC(0.3, 0.1, momentum=0.5, ema=0.5)
ADAPTIVE = AdaptiveKFAC(0.1, ema=0.5)


# -- the direction ----------------------------------------------------------------------------------------------------


def dense_solve(factors, damping, gradient):
    a, s = factors
    pi = np.sqrt((np.trace(a) / len(a)) / (np.trace(s) / len(s)))
    damped = np.kron(s + np.sqrt(damping) / pi * np.eye(len(s)), a + pi * np.sqrt(damping) * np.eye(len(a)))
    return np.linalg.solve(damped, gradient.ravel()).reshape(gradient.shape)


@pytest.mark.parametrize("damping", [1e-6, 0.1, 100.0])
def test_direction_against_a_dense_kronecker_solve(damping):
    problem, x = small(loss=LOSSES[1])
    point = problem.at(x)
    for factors, gradient in zip(point.kronecker_factors(), problem.to_layers(point.gradient), strict=True):
        found = precondition(factors, np.asarray(damping), gradient)
        np.testing.assert_allclose(found, dense_solve(factors, damping, gradient), rtol=1e-7)


def test_one_linear_layer_is_solved_in_one_step():
    # Half the squared error has S = I whatever the sample: the product with A is the Hessian.
    rng = np.random.default_rng(1)
    inputs, targets = rng.standard_normal((20, 3)), rng.standard_normal((20, 2))
    problem = MLP((3, 2), inputs, targets)
    result = minimize(problem, KFAC(1.0, 1e-24), problem.initial(rng), steps=1)
    exact = np.linalg.lstsq(np.c_[inputs, np.ones(20)], targets, rcond=None)[0]
    np.testing.assert_allclose(problem.to_layers(result.x)[0], exact.T, rtol=1e-9)


def test_direction_where_a_factor_vanishes_or_is_not_finite():
    gradient, damping = np.ones((2, 3)), np.asarray(4.0)
    dead = precondition(KroneckerFactors(np.eye(3), np.zeros((2, 2))), damping, gradient)
    np.testing.assert_allclose(dead, gradient / (2.0 * (1.0 + 2.0)))
    both = precondition(KroneckerFactors(np.zeros((3, 3)), np.zeros((2, 2))), damping, gradient)
    np.testing.assert_allclose(both, gradient / 4.0)
    nan = np.stack([np.eye(3), np.full((3, 3), np.nan)])
    pair = precondition(KroneckerFactors(nan, np.stack([np.eye(2)] * 2)), np.full(2, 4.0), np.ones((2, 2, 3)))
    np.testing.assert_allclose(pair[0], 1.0 / 9.0)
    assert np.isnan(pair[1]).all()


def test_eigenvalues_that_rounding_made_negative_count_as_zero():
    one, rounded = np.eye(2), np.diag([2.0 + 1e-3, -1e-3])  # of equal trace: pi = 1
    outputs = precondition(KroneckerFactors(one, rounded), np.asarray(0.25), np.ones((2, 2)))
    inputs = precondition(KroneckerFactors(rounded, one), np.asarray(0.25), np.ones((2, 2)))
    np.testing.assert_allclose(outputs[1], np.full(2, 1 / ((0.5 + 1.0) * 0.5)), rtol=1e-12)
    np.testing.assert_allclose(inputs, outputs.T, rtol=1e-12)


def test_mean_of_factors_weights_the_old():
    old, new = [KroneckerFactors(np.eye(2), 2 * np.eye(1))], [KroneckerFactors(3 * np.eye(2), 4 * np.eye(1))]
    (mixed,) = average_factors(old, new, 0.75)
    np.testing.assert_allclose(mixed.inputs, 1.5 * np.eye(2))
    np.testing.assert_allclose(mixed.outputs, [[2.5]])
    assert average_factors((), new, 0.75) == tuple(new)


# -- steps against dense arithmetic -----------------------------------------------------------------------------------


def direction(problem, factors, damping, gradient):
    parts = zip(factors, problem.to_layers(gradient), strict=True)
    return problem.from_layers([dense_solve(pair, damping, layer) for pair, layer in parts])


def by_the_book(problem, x, steps, damping, ema, omega=0.9):
    """The adaptive recursion with dense matrices, no guards; the places and every damping used."""
    mean, d, seen = None, np.zeros_like(x), []
    for _ in range(steps):
        seen.append((x, damping))
        point = problem.at(x)
        g, factors = point.gradient, point.kronecker_factors()
        if mean is None:
            mean = factors
        pairs = zip(mean, factors, strict=True)
        mean = [tuple(ema * o + (1 - ema) * f for o, f in zip(*pair, strict=True)) for pair in pairs]
        u, a = direction(problem, mean, damping, g), gauss_newton_matrix(point) + damping * np.eye(problem.n)
        basis = np.stack([u, d], axis=-1) if d.any() else u[:, None]
        d = basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ g)
        ratio = (problem.loss(x - d) - point.loss) / (-g @ d + 0.5 * d @ a @ d)
        x = x - d
        damping = damping * (omega if ratio > 0.75 else 1 / omega if ratio < 0.25 else 1.0)
    return seen


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_adaptive_path_against_dense_arithmetic(loss):
    problem, x = small(loss=loss)
    places = []
    result = minimize(problem, ADAPTIVE, x, steps=8, callback=lambda _, point: places.append(point.x.copy()))
    assert (result.trace["accepted"][:8] == 1).all()
    expected = by_the_book(problem, x, 8, 0.1, ema=0.5)
    np.testing.assert_allclose(places[:8], [place for place, _ in expected], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(result.trace["damping"][:8], [damping for _, damping in expected], rtol=1e-9)
    assert result.trace["momentum"][0] == 0
    assert (result.trace["momentum"][1:8] != 0).all()


def test_fixed_path_against_dense_arithmetic():
    problem, x = small()
    result, velocity, mean = minimize(problem, FIXED, x, steps=3), np.zeros_like(x), None
    for _ in range(3):
        point = problem.at(x)
        factors = point.kronecker_factors()
        mean = factors if mean is None else average_factors(mean, factors, 0.5)
        velocity = 0.5 * velocity + 0.3 * direction(problem, mean, 0.1, point.gradient)
        x = x - velocity
    np.testing.assert_allclose(result.x, x, rtol=1e-9)


def test_damping_follows_the_ratio_both_ways():
    problem, x = small("relu", samples=30)
    trace = minimize(problem, AdaptiveKFAC(1e-3, omega=0.5), x, steps=60).trace
    ratio, damping = trace["ratio"][:60], trace["damping"][:60]
    factors = np.where(ratio > 0.75, 0.5, np.where(ratio < 0.25, 2.0, 1.0))[:-1]
    assert set(factors.tolist()) == {0.5, 1.0, 2.0}
    np.testing.assert_allclose(damping[1:] / damping[:-1], factors)


def test_a_trial_that_is_not_finite_is_rejected():
    class Wall(MLP):
        def loss(self, x, sample=None):
            return np.full(x.shape[:-1], np.nan)

    problem = Wall((2, 3, 1), np.eye(2), [0.0, 1.0], activation="tanh")
    x = problem.initial(np.random.default_rng(0))
    step = ADAPTIVE.step(problem.at(x), ADAPTIVE.init(x)._replace(step=np.ones_like(x)))
    np.testing.assert_array_equal(step.x, x)
    np.testing.assert_array_equal(step.state.step, 0.0)
    assert float(step.state.damping) == 0.2
    assert not step.info.accepted
    always = AdaptiveKFAC(0.1, accept="always")
    step = always.step(problem.at(x), always.init(x))
    assert (step.x != x).any()
    assert bool(step.info.accepted)


def test_a_model_that_predicts_no_decrease_is_rejected(monkeypatch):
    problem, x = small()
    best = ADAPTIVE.step(problem.at(x), ADAPTIVE.init(x)).info.learning_rate
    too_long = (np.asarray(3.0 * best), np.asarray(0.0))  # beyond twice the best multiple the model rises again
    monkeypatch.setattr("refimpl.optimizers.damping.learning_rate_and_momentum", lambda *_: too_long)
    step = ADAPTIVE.step(problem.at(x), ADAPTIVE.init(x))
    assert step.info.predicted_change > 0
    assert not step.info.accepted
    np.testing.assert_array_equal(step.x, x)


def test_nothing_moves_where_the_gradient_vanishes():
    problem = MLP((2, 3, 1), np.eye(2), [0.0, 0.0])
    x = np.zeros(problem.n)
    step = ADAPTIVE.step(problem.at(x), ADAPTIVE.init(x))
    np.testing.assert_array_equal(step.x, x)
    assert float(step.state.damping) == 0.1
    assert bool(step.info.accepted)


# -- batches, backends, cost ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [FIXED, ADAPTIVE], ids=lambda method: method.name)
def test_batched_equals_separate_runs(method):
    problem, _ = small(loss=LOSSES[1])
    starts = np.stack([problem.initial(as_generator(seed)) for seed in range(3)])
    together = minimize(problem, method, starts, steps=6)
    for run, start in enumerate(starts):
        np.testing.assert_allclose(together.x[run], minimize(problem, method, start, steps=6).x, rtol=1e-9, atol=1e-12)
    nested = minimize(problem, method, starts[:2].reshape(1, 2, -1), steps=6)
    np.testing.assert_allclose(nested.x[0], together.x[:2], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", [FIXED, ADAPTIVE], ids=lambda method: method.name)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_a_step_on_every_backend(method, loss, backend):
    problem, reference = network("tanh", loss)(backend), network("tanh", loss)(get_backend("numpy"))
    starts = np.stack([reference.initial(as_generator(seed)) for seed in range(2)])
    result, expected = minimize(problem, method, starts, steps=1), minimize(reference, method, starts, steps=1)
    tolerance = 2e-3 if backend.dtype_name == "float32" else 1e-9
    np.testing.assert_allclose(to_numpy(result.x), expected.x, rtol=tolerance, atol=tolerance)
    for array in [result.x, result.state.step, *(matrix for pair in result.state.factors for matrix in pair)]:
        assert dtype_name(array.dtype) == backend.dtype_name
        assert device_of(array) == backend.device


@pytest.mark.parametrize("method", [FIXED, ADAPTIVE], ids=lambda method: method.name)
def test_a_step_never_looks_at_the_host(method, monkeypatch):
    strict = pytest.importorskip("array_api_strict")
    problem = network("tanh", LOSSES[1])(get_backend("array-api-strict", device="device1"))
    point = problem.at(problem.backend.asarray(np.stack([small()[1]] * 2)))
    state = method.init(point.x)

    def refuse(self):
        raise AssertionError("a step read an array back to the host")

    kind = type(strict.zeros(1))
    for conversion in ("__bool__", "__float__", "__int__", "__index__", "__complex__", "__array__"):
        if hasattr(kind, conversion):
            monkeypatch.setattr(kind, conversion, refuse)
    for _ in range(2):
        step = method.step(point, state)
        state = step.state
    monkeypatch.undo()
    assert tuple(step.x.shape) == tuple(point.x.shape)


def test_cost_of_factors_and_of_a_step():
    problem, x = small()  # two outputs
    point = problem.at(x)
    assert point.kronecker_factors() is point.kronecker_factors()
    assert point.counts == Counts(vjp=2)
    assert minimize(problem, FIXED, x, steps=1).trace["vjp_count"][0] == 2
    trace = minimize(problem, ADAPTIVE, x, steps=1).trace
    counted = [trace[f"{key}_count"][0] for key in ("loss", "gradient", "hvp", "jvp", "vjp", "ggnvp")]
    assert counted == [1, 1, 0, 2, 4, 2]


@pytest.mark.skipif(
    not DATA or not Path(DATA, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA: no uci_energy"
)
def test_energy_network_trains():
    problem = energy_network((12, 12), uci_energy())
    starts = np.stack([problem.initial(as_generator(seed)) for seed in range(3)])
    adaptive = minimize(problem, AdaptiveKFAC(6.97e-5), starts, steps=200)
    assert (problem.evaluate(adaptive.x)["loss"] < 1e-3).all()
    fixed = minimize(problem, KFAC(0.0908813574, 5.63e-6, momentum=0.26447181), starts, steps=200)
    assert (problem.evaluate(fixed.x)["loss"] < 3e-3).all()


# -- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "knobs", "message"),
    [
        (KFAC, {"learning_rate": 0.0}, "learning_rate"),
        (KFAC, {"damping": 0.0}, "damping"),
        (KFAC, {"damping": float("nan")}, "damping"),
        (KFAC, {"momentum": 1.0}, "momentum"),
        (KFAC, {"ema": 1.0}, "ema"),
        (AdaptiveKFAC, {"initial_damping": 0.0}, "initial_damping"),
        (AdaptiveKFAC, {"initial_damping": 1e9}, "initial_damping"),
        (AdaptiveKFAC, {"ema": -0.1}, "ema"),
        (AdaptiveKFAC, {"omega": 1.0}, "omega"),
        (AdaptiveKFAC, {"omega": 0.0}, "omega"),
        (AdaptiveKFAC, {"minimum_damping": 0.0}, "minimum_damping"),
        (AdaptiveKFAC, {"maximum_damping": 1e-9}, "minimum_damping must be at most maximum_damping"),
        (AdaptiveKFAC, {"accept": "never"}, "unknown accept"),
    ],
)
def test_wrong_knobs(kind, knobs, message):
    good = {"learning_rate": 0.1, "damping": 0.1} if kind is KFAC else {"initial_damping": 0.1}
    with pytest.raises(ValueError, match=message):
        kind(**(good | knobs))


def test_a_problem_without_layers_is_refused():
    problem, x = HorseSaddle(), np.ones(2)
    for call in (problem.at(x).kronecker_factors, lambda: problem.to_layers(x), lambda: problem.from_layers([x])):
        with pytest.raises(ValueError, match="HorseSaddle has no layers"):
            call()
    with pytest.raises(ValueError, match="HorseSaddle has no layers"):
        minimize(problem, FIXED, x, steps=1)
