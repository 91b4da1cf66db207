"""The written-out MLP against Torch's autograd on the twin module: a second library, and a second way to differentiate.

The dense Hessian is checked against Torch's and against products, Gauss–Newton products against a dense J^T H_L J,
leading axes against the loop, and the initial parameters against their distribution.
"""

import numpy as np
import pytest
import torch
from network_cases import LOSSES, network, targets_for

from refimpl import minimize
from refimpl.arrays import get_backend, to_numpy
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.datasets import xor
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP, initial_parameters, truncated_normal
from refimpl.problems.models import flat_parameters, load_flat, mlp_module
from refimpl.problems.torch_net import TorchProblem
from refimpl.problems.xor import xor_network

WIDTHS = (3, 4, 5, 2)
ACTIVATIONS = ["relu", "tanh", "softplus"]
over_losses = pytest.mark.parametrize("loss", LOSSES, ids=[loss.name for loss in LOSSES])
over_activations = pytest.mark.parametrize("activation", ACTIVATIONS)


def twins(activation, loss, dtype="float64", widths=WIDTHS, samples=9):
    """The same network twice: ours on NumPy, Torch's module; and a place for each."""
    numpy, torch_backend = get_backend("numpy", dtype), get_backend("torch", dtype)
    ours = network(activation, loss, widths=widths, samples=samples)(numpy)
    module = mlp_module(widths, activation=activation, backend=torch_backend)
    theirs = TorchProblem(module, loss, to_numpy(ours.inputs), to_numpy(ours.targets), backend=torch_backend)
    x = np.random.default_rng(20).standard_normal(ours.n)
    return ours.at(numpy.asarray(x)), theirs.at(torch_backend.asarray(x)), ours, theirs


def assert_close(found, expected, rtol):
    """Relative to the size of the whole array: single entries may cancel."""
    found, expected = to_numpy(found), to_numpy(expected)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= rtol * max(np.abs(expected).max(), 1e-3)


@over_losses
@over_activations
@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 3e-14), ("float32", 3e-5)])
def test_derivatives_against_torch_autograd(activation, loss, dtype, rtol):
    ours, theirs, problem, _ = twins(activation, loss, dtype)
    v = np.random.default_rng(21).standard_normal(problem.n)
    u = np.random.default_rng(22).standard_normal(ours.outputs.shape)
    here, there = get_backend("numpy", dtype), get_backend("torch", dtype)
    assert_close(ours.loss, theirs.loss, rtol)
    assert_close(ours.gradient, theirs.gradient, rtol)
    assert_close(ours.outputs, theirs.outputs, rtol)
    assert_close(ours.hvp(here.asarray(v)), theirs.hvp(there.asarray(v)), rtol)
    assert_close(ours.jvp(here.asarray(v)), theirs.jvp(there.asarray(v)), rtol)
    assert_close(ours.vjp(here.asarray(u)), theirs.vjp(there.asarray(u)), rtol)
    assert_close(ours.ggnvp(here.asarray(v)), theirs.ggnvp(there.asarray(v)), rtol)
    assert_close(ours.output_gradient, theirs.output_gradient, rtol)
    assert_close(ours.output_hvp(here.asarray(u)), theirs.output_hvp(there.asarray(u)), rtol)


@over_losses
@over_activations
def test_dense_hessian_against_torch(activation, loss):
    ours, theirs, _, problem = twins(activation, loss)
    module_loss = lambda x: problem.loss_value(problem.call(x, problem.inputs, advance=False), problem.targets)  # noqa: E731
    expected = torch.autograd.functional.hessian(module_loss, theirs.x)
    assert_close(ours.hessian(), expected, 3e-14)
    np.testing.assert_array_equal(ours.hessian(), ours.hessian().T)


@pytest.mark.parametrize("widths", [(8, 12, 12, 1), (8, 12, 12, 12, 12, 12, 12, 12, 1), (5, 3), (1, 1, 1)])
@over_activations
def test_dense_hessian_columns_are_products(widths, activation):
    ours, *_ = twins(activation, HalfMeanSquaredError(), widths=widths, samples=30)
    dense = ours.hessian()
    rng = np.random.default_rng(23)
    for _ in range(3):
        v = rng.standard_normal(ours.problem.n)
        assert_close(dense @ v, ours.hvp(v), 1e-12)


@over_losses
def test_gauss_newton_is_the_dense_product_and_has_no_negative_eigenvalue(loss):
    ours, *_ = twins("tanh", loss)
    n, o = ours.problem.n, ours.outputs.shape[0]
    jacobian = np.stack([ours.jvp(row) for row in np.eye(n)], axis=1)
    curvature = np.stack([ours.output_hvp(row) for row in np.eye(o)], axis=1)
    gauss_newton = np.stack([ours.ggnvp(row) for row in np.eye(n)], axis=1)
    assert_close(gauss_newton, jacobian.T @ curvature @ jacobian, 3e-14)
    assert np.linalg.eigvalsh((gauss_newton + gauss_newton.T) / 2).min() >= -1e-13
    np.testing.assert_allclose(jacobian.T @ to_numpy(ours.output_gradient), ours.gradient, atol=1e-14)


@over_losses
@over_activations
def test_leading_axes_equal_the_loop(activation, loss, backend):
    problem = network(activation, loss)(backend)
    rng = np.random.default_rng(24)
    x, v = rng.standard_normal((2, 3, problem.n)), rng.standard_normal((2, 3, problem.n))
    many = problem.at(backend.asarray(x))
    u = rng.standard_normal((2, 3, 14))
    dense, products = many.hessian(), many.hvp(backend.asarray(v))
    tolerance = 1e-13 if backend.dtype_name == "float64" else 3e-5
    report = problem.evaluate(backend.asarray(x))
    assert tuple(many.loss.shape) == tuple(report["loss"].shape) == (2, 3)
    for i in np.ndindex(2, 3):
        one = problem.at(backend.asarray(x[i]))
        assert_close(to_numpy(many.loss)[i], one.loss, tolerance)
        assert_close(to_numpy(many.gradient)[i], one.gradient, tolerance)
        assert_close(to_numpy(products)[i], one.hvp(backend.asarray(v[i])), tolerance)
        assert_close(to_numpy(dense)[i], one.hessian(), tolerance)
        assert_close(to_numpy(many.outputs)[i], one.outputs, tolerance)
        assert_close(to_numpy(many.jvp(backend.asarray(v)))[i], one.jvp(backend.asarray(v[i])), tolerance)
        assert_close(to_numpy(many.vjp(backend.asarray(u)))[i], one.vjp(backend.asarray(u[i])), tolerance)


def test_a_minibatch_is_the_network_on_those_rows(backend):
    rng = np.random.default_rng(25)
    inputs, labels = rng.standard_normal((12, 3)), targets_for(SoftmaxCrossEntropy(), 12, 2)
    problem = MLP((3, 4, 2), inputs, labels, loss=SoftmaxCrossEntropy(), batch_size=5, backend=backend)
    x = problem.initial(np.random.default_rng(0))
    sample = problem.draw(np.random.default_rng(1))
    rows = sample.indices
    assert len(set(rows.tolist())) == 5
    small = MLP((3, 4, 2), inputs[rows], labels[rows], loss=SoftmaxCrossEntropy(), backend=backend)
    assert_close(problem.at(x, sample).gradient, small.at(x).gradient, 1e-12 if "64" in backend.dtype_name else 1e-5)
    assert small.draw(np.random.default_rng(1)) is None
    assert problem.draw(np.random.default_rng(1)).indices.tolist() == rows.tolist()


def test_minibatches_never_repeat_a_row():
    problem = MLP((1, 1), np.zeros((6, 1)), np.zeros(6), batch_size=6)
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert sorted(problem.draw(rng).indices.tolist()) == list(range(6))


@over_activations
def test_the_kink_at_zero_is_torchs(activation):
    # Zero weights put every hidden unit on the kink of ReLU.
    ours, theirs, problem, _ = twins(activation, HalfMeanSquaredError())
    x = np.zeros(problem.n)
    x[-12:-2] = 1.0  # the last layer's weights, so that the derivative reaches the hidden units
    ours, theirs = problem.at(x), theirs.problem.at(torch.from_numpy(x))
    v = np.random.default_rng(29).standard_normal(problem.n)
    assert_close(ours.gradient, theirs.gradient, 3e-14)
    assert_close(ours.hvp(v), theirs.hvp(torch.from_numpy(v)), 3e-14)


def test_flat_vector_fits_the_twin_module():
    ours, theirs, problem, torch_problem = twins("tanh", HalfMeanSquaredError())
    module = torch_problem.module
    load_flat(module, ours.x)
    torch.testing.assert_close(flat_parameters(module), theirs.x)
    outputs = to_numpy(module(torch_problem.inputs))
    np.testing.assert_allclose(problem.predict(ours.x, problem.inputs), outputs, atol=1e-14)
    for (weight, bias), layer in zip(problem.unflatten(ours.x), module[::2], strict=True):
        np.testing.assert_array_equal(weight, to_numpy(layer.weight))
        np.testing.assert_array_equal(bias, to_numpy(layer.bias))
    with pytest.raises(ValueError, match="trainable parameters"):
        load_flat(module, ours.x[:-1])


def test_truncated_normal_against_its_distribution():
    draws = truncated_normal(np.random.default_rng(26), (200_000,), 0.5)
    assert np.abs(draws).max() <= 1.0
    assert draws.std() == pytest.approx(0.5 * 0.8796, rel=5e-3)  # sd of a normal cut at two sigma
    assert abs(draws.mean()) < 5e-3


@pytest.mark.parametrize(
    ("kind", "bound", "biases"),
    [("truncated-normal", 2 / 3, False), ("glorot", 0.5**0.5, False), ("torch", 1 / 3, True)],
)
def test_initial_parameters_are_in_range_and_seeded(kind, bound, biases):
    x = initial_parameters((9, 3), np.random.default_rng(27), kind)
    weights, bias = x[:27], x[27:]
    assert 0.8 * bound < np.abs(weights).max() <= bound
    assert (np.abs(bias) > 0).all() == biases
    np.testing.assert_array_equal(x, initial_parameters((9, 3), np.random.default_rng(27), kind))


def test_the_plateau_at_the_start_of_the_energy_network():
    # Section 5 of the series paper's experiment: loss about 0.5, gradient norm about 0.05, hundreds of flat directions.
    rng = np.random.default_rng(28)
    inputs, targets = rng.standard_normal((588, 8)), rng.standard_normal(588)
    problem = MLP((8, *[12] * 7, 1), inputs, targets / targets.std())
    point = problem.at(problem.initial(np.random.default_rng(0)))
    assert problem.n == 1057
    assert float(point.loss) == pytest.approx(0.5, abs=0.05)
    eigenvalues = np.linalg.eigvalsh(point.hessian())
    assert eigenvalues[0] < -1e-3
    assert (np.abs(eigenvalues) < 1e-6).sum() > 200


def test_evaluate_reports_test_loss_and_accuracy():
    data = xor()
    problem = xor_network(initialization="glorot")
    result = minimize(problem, GradientDescent(1.0), steps=1500, seed=1)
    report = problem.evaluate(result.x)
    assert set(report) == {"loss", "accuracy"}
    assert report["accuracy"] == 1.0
    assert report["loss"] == pytest.approx(result.loss)
    tested = MLP((2, 3, 1), data.train_inputs, data.train_targets, test=(data.test_inputs[:2], [1.0, 1.0]))
    report = tested.evaluate(np.zeros(tested.n))
    assert report["loss"] == 0.25
    assert report["test_loss"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (((3,), np.zeros((2, 3)), [0, 1]), {}, "widths"),
        (((3, 0), np.zeros((2, 3)), [0, 1]), {}, "every width"),
        (((3, 1), np.zeros((2, 4)), [0, 1]), {}, r"inputs must have shape \(samples, 3\)"),
        (((3, 1), np.zeros((0, 3)), []), {}, "empty"),
        (((3, 1), np.full((2, 3), np.inf), [0, 1]), {}, "finite"),
        (((3, 1), np.zeros((2, 3)), [0, 1, 2]), {}, "targets must have shape"),
        (((3, 1), np.zeros((2, 3)), [0, 1]), {"activation": "elu"}, "unknown activation"),
        (((3, 1), np.zeros((2, 3)), [0, 1]), {"loss": "mse"}, "loss must be"),
        (((3, 1), np.zeros((2, 3)), [0, 1]), {"batch_size": 3}, "at most the number of samples"),
        (((3, 1), np.zeros((2, 3)), [0, 1]), {"batch_size": 0}, "batch_size"),
        (((3, 1), np.zeros((2, 3)), [0, 1]), {"initialization": "zeros"}, "unknown initialization"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        MLP(*arguments, **options)


@pytest.mark.parametrize("sample", [3, [0, 1]])
def test_a_foreign_sample_is_refused(sample):
    problem = xor_network()
    with pytest.raises(ValueError, match="Minibatch"):
        problem.at(np.zeros(problem.n), sample)
