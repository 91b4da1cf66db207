"""K-FAC: its factors, its direction, its adaptive step.

Oracles: factors that the library curvlinops 3.0.1 computed (recorded below, and afresh where it is installed); the
dense Gauss–Newton matrix, built from products that know nothing of layers; ``numpy.kron`` and dense solves; least
squares, which K-FAC solves in one step.
"""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from network_cases import LOSSES, network, targets_for

from refimpl import get_backend, minimize
from refimpl.arrays import as_generator, device_of, dtype_name, to_numpy
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC, average_factors, precondition
from refimpl.optimizers.levenberg_marquardt import gauss_newton_matrix
from refimpl.oracle import Counts, KroneckerFactors
from refimpl.problems.datasets import uci_energy
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.sampling import Minibatch
from refimpl.problems.toy import HorseSaddle

DATA = os.environ.get("REFIMPL_DATA")
FIXED = KFAC(0.3, 0.1, momentum=0.5, ema=0.5)
ADAPTIVE = AdaptiveKFAC(0.1, ema=0.5)
RECORDED = [
    (
        [
            [1.0208333333333333, -0.5416666666666666, 0.4166666666666667],
            [-0.5416666666666666, 1.6875, 0.4166666666666667],
            [0.4166666666666667, 0.4166666666666667, 1.0],
        ],
        [[0.03923526708820051, -0.04217215173532708], [-0.04217215173532708, 0.04674357229164678]],
    ),
    (
        [
            [0.3807781448502385, -0.12345027922102715, 0.18140418779177106],
            [-0.12345027922102715, 0.6183449216636748, 0.3309424763865504],
            [0.18140418779177106, 0.3309424763865504, 1.0],
        ],
        [[0.1765792469543211, -0.17657924695432112], [-0.17657924695432112, 0.17657924695432115]],
    ),
]
"""Factors (A, S) of the network of ``recorded_network``: KFACLinearOperator, fisher_type="type-2", joint bias."""


def recorded_network():
    inputs, labels = [[0.5, -1.0], [1.5, 0.25], [-0.75, 2.0]], np.array([0, 1, 1])
    problem = MLP((2, 2, 2), inputs, labels, activation="tanh", loss=SoftmaxCrossEntropy())
    return problem, np.array([0.5, -0.25, 0.75, 1.0, 0.1, -0.2, 1.0, -0.5, 0.25, 0.75, 0.0, 0.3])


def small(activation="tanh", loss=LOSSES[0], samples=7, **options):
    problem = network(activation, loss, samples=samples)(get_backend("numpy"), **options)
    return problem, problem.initial(np.random.default_rng(2))


def torch_network(module, inputs, targets, loss):
    torch_net = pytest.importorskip("refimpl.problems.torch_net")
    return torch_net.TorchProblem(module, loss, inputs, targets)


def sequential(widths, inplace=False):
    torch = pytest.importorskip("torch")
    layers = []
    for a, b in pairwise(widths):
        layers += [torch.nn.Linear(a, b, dtype=torch.float64), torch.nn.ReLU(inplace) if inplace else torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def blocks(problem, point):
    """The Gauss–Newton block of each layer, entries of [weight | bias] row by row."""
    matrix, found = gauss_newton_matrix(point), []
    for positions in problem.to_layers(np.arange(float(problem.n))):
        rows = positions.astype(int).ravel()
        found.append(matrix[np.ix_(rows, rows)])
    return found


# -- factors ----------------------------------------------------------------------------------------------------------


def test_factors_against_recorded_numbers_of_curvlinops():
    problem, x = recorded_network()
    for factors, (inputs, outputs) in zip(problem.at(x).kronecker_factors(), RECORDED, strict=True):
        np.testing.assert_allclose(factors.inputs, inputs, rtol=1e-13)
        np.testing.assert_allclose(factors.outputs, outputs, rtol=1e-13)


def test_factors_of_a_module_against_recorded_numbers_of_curvlinops():
    pytest.importorskip("torch")
    written_out, x = recorded_network()
    problem = torch_network(sequential((2, 2, 2)), written_out.inputs, written_out.targets, SoftmaxCrossEntropy())
    point = problem.at(problem.backend.asarray(x))
    for factors, (inputs, outputs) in zip(point.kronecker_factors(), RECORDED, strict=True):
        np.testing.assert_allclose(factors.inputs, inputs, rtol=1e-12)
        np.testing.assert_allclose(factors.outputs, outputs, rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_factors_of_both_routes_against_curvlinops(loss):
    torch, curvlinops = pytest.importorskip("torch"), pytest.importorskip("curvlinops")
    rng, widths = np.random.default_rng(4), (3, 4, 5, 2)
    inputs, targets, module = rng.standard_normal((7, 3)), targets_for(loss, 7, 2), sequential(widths)
    problem = torch_network(module, inputs, targets, loss)
    x = problem.initial(rng)
    theirs = {  # a sum over samples and outputs, or Torch's mean over samples; times what makes it our mean
        HalfMeanSquaredError: (torch.nn.MSELoss(reduction="sum"), 1 / 14),
        SoftmaxCrossEntropy: (torch.nn.CrossEntropyLoss(), 1.0),
        BinaryCrossEntropy: (torch.nn.BCEWithLogitsLoss(reduction="sum"), 1 / 7),
    }
    function, scale = theirs[type(loss)]
    operator = curvlinops.KFACLinearOperator(
        module, function, list(module.parameters()), [(problem.inputs, problem.targets)],
        fisher_type="type-2", separate_weight_and_bias=False, check_deterministic=False,
    )  # fmt: skip
    operator.compute_kronecker_factors()
    state = operator.state_dict()
    written_out = MLP(widths, inputs, targets, activation="tanh", loss=loss).at(to_numpy(x)).kronecker_factors()
    for name, ours, again in zip("024", problem.at(x).kronecker_factors(), written_out, strict=True):
        for factors in (ours, again):
            np.testing.assert_allclose(factors.inputs, state["input_covariances"][name], rtol=1e-10)
            expected = scale * state["gradient_covariances"][name]
            np.testing.assert_allclose(factors.outputs, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
@pytest.mark.parametrize("activation", ["tanh", "relu", "softplus"])
def test_factors_are_the_gauss_newton_block_for_one_sample(activation, loss):
    problem, x = small(activation, loss, samples=1)
    point = problem.at(x)
    for (inputs, outputs), block in zip(point.kronecker_factors(), blocks(problem, point), strict=True):
        np.testing.assert_allclose(np.kron(outputs, inputs), block, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("loss", [LOSSES[0], LOSSES[2]], ids=lambda loss: loss.name)
def test_factors_are_the_block_where_all_inputs_are_the_same(loss):
    inputs = np.tile([0.3, -1.0, 2.0], (7, 1))
    problem = MLP((3, 4, 2), inputs, targets_for(loss, 7, 2), activation="tanh", loss=loss)
    point = problem.at(problem.initial(np.random.default_rng(0)))
    for (inputs, outputs), block in zip(point.kronecker_factors(), blocks(problem, point), strict=True):
        np.testing.assert_allclose(np.kron(outputs, inputs), block, rtol=1e-10, atol=1e-14)


def test_each_factor_is_the_mean_of_those_of_single_samples():
    problem, x = small()
    point = problem.at(x)
    of_each = [problem.at(x, Minibatch(np.array([i]))).kronecker_factors() for i in range(problem.samples)]
    for layer, factors in enumerate(point.kronecker_factors()):
        for i in range(2):
            mean = np.mean([one[layer][i] for one in of_each], axis=0)
            np.testing.assert_allclose(factors[i], mean, rtol=1e-12, atol=1e-15)


def test_factors_with_leading_axes():
    problem, _ = small(loss=LOSSES[1])
    starts = np.stack([problem.initial(as_generator(seed)) for seed in range(6)]).reshape(2, 3, -1)
    together = problem.at(starts).kronecker_factors()
    alone = problem.at(starts[1, 2]).kronecker_factors()
    for many, one in zip(together, alone, strict=True):
        np.testing.assert_allclose(many.inputs[1, 2], one.inputs, rtol=1e-12)
        np.testing.assert_allclose(many.outputs[1, 2], one.outputs, rtol=1e-12)


@pytest.mark.parametrize("loss", [None, LOSSES[0]], ids=["function", "formula"])
def test_module_that_works_in_place_against_the_written_out_network(loss):
    torch = pytest.importorskip("torch")
    rng, widths = np.random.default_rng(4), (3, 4, 5, 2)
    inputs, targets = rng.standard_normal((9, 3)), rng.standard_normal((9, 2))
    function = loss or (lambda outputs, targets: 0.5 * torch.nn.functional.mse_loss(outputs, targets) * 2)
    problem = torch_network(sequential(widths, inplace=True), inputs, targets, function)
    written_out, x = MLP(widths, inputs, targets), problem.initial(rng)
    expected = written_out.at(to_numpy(x)).kronecker_factors()
    for one, other in zip(problem.at(x).kronecker_factors(), expected, strict=True):
        np.testing.assert_allclose(one.inputs, other.inputs, rtol=1e-10)
        np.testing.assert_allclose(one.outputs, other.outputs, rtol=1e-10, atol=1e-15)
    for one, other in zip(problem.to_layers(x), written_out.to_layers(to_numpy(x)), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(problem.from_layers(problem.to_layers(x)), x)


def test_layers_of_a_vector():
    problem = MLP((2, 3, 1), np.zeros((1, 2)), [0.0])
    v = np.stack([np.arange(13.0), -np.arange(13.0)])
    first, second = problem.to_layers(v)
    assert first[0].tolist() == [[0, 1, 6], [2, 3, 7], [4, 5, 8]]
    assert second[1].tolist() == [[-9, -10, -11, -12]]
    np.testing.assert_array_equal(problem.from_layers([first, second]), v)


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
    monkeypatch.setattr("refimpl.optimizers.kfac.learning_rate_and_momentum", lambda *_: too_long)
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


def test_cost_of_the_factors_of_a_module():
    pytest.importorskip("torch")
    problem = torch_network(sequential((3, 4, 2)), np.ones((5, 3)), np.ones((5, 2)), LOSSES[0])
    point = problem.at(problem.initial(np.random.default_rng(0)))
    point.kronecker_factors()
    assert point.counts == Counts(loss=1, vjp=2)
    assert not any(part._forward_hooks for part in problem.module.modules())


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


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([np.zeros((3, 3))], "list of 2 matrices, got 1"),
        (np.zeros((2, 3)), "list of 2 matrices, got ndarray"),
        ([np.zeros((3, 3)), np.zeros((1, 3))], r"layer 1 must have shape \(..., 1, 4\), got \(1, 3\)"),
        ([np.zeros((2, 3, 3)), np.zeros((1, 4))], "same leading axes"),
        ([np.zeros((3, 3)), np.zeros((1, 4), dtype="float32")], "layer 1 must have dtype float64"),
    ],
)
def test_wrong_layers_are_refused(layers, message):
    with pytest.raises(ValueError, match=message):
        MLP((2, 3, 1), np.zeros((1, 2)), [0.0]).from_layers(layers)
    with pytest.raises(ValueError, match="v must have shape"):
        MLP((2, 3, 1), np.zeros((1, 2)), [0.0]).to_layers(np.zeros(4))


def test_modules_without_kronecker_factors_are_refused():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, inputs):
            return self.layer(self.layer(inputs))

    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    tied[1].weight = tied[0].weight
    fixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fixed[0].bias.requires_grad_(False)
    refused = {
        r"\['1.bias', '1.weight'\]": nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)),
        r"do not fit: \['bias'\]": nn.Linear(2, 2, bias=False),
        r"do not fit: \['1.weight'\]": tied,
        r"do not fit: \['0.bias'\]": fixed,
        "layer 'layer.' must be used once": Twice(),
        "BatchNorm in train mode": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, affine=False)),
        r"layer '1.' must be used once, on \(3, 1\)": nn.Sequential(
            nn.Unflatten(1, (2, 1)), nn.Linear(1, 1), nn.Flatten()
        ),
    }
    for message, module in refused.items():
        problem = torch_network(module.double(), np.ones((3, 2)), np.ones((3, 2)), LOSSES[0])
        point = problem.at(problem.initial(np.random.default_rng(0)))
        with pytest.raises(ValueError, match=message):
            point.kronecker_factors()
