"""Gradients for targets drawn from the model, and the diagonal of the Gauss–Newton matrix as their mean square.

Oracles: every possible outcome enumerated with its probability, against J^T H J written out densely with H from its
formula; frequencies of many draws against the probabilities; the closed form of each distribution.
"""

import itertools

import numpy as np
import pytest
from cases import toy_cases
from network_cases import targets_for

from refimpl import Counts, get_backend
from refimpl.arrays import dtype_name, to_numpy
from refimpl.problems.likelihoods import LIKELIHOODS, draw_targets
from refimpl.problems.losses import (
    BinaryCrossEntropy,
    HalfMeanSquaredError,
    Loss,
    SoftmaxCrossEntropy,
    TokenCrossEntropy,
)
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import LinearLeastSquares
from refimpl.problems.sampled_targets import sampled_output_gradient
from refimpl.problems.sampling import Minibatch
from refimpl.problems.toy import DoubleWell, HorseSaddle

SQUARE, SOFTMAX, BINARY = HalfMeanSquaredError(), SoftmaxCrossEntropy(), BinaryCrossEntropy()
ALL = [SQUARE, SOFTMAX, BINARY]
BY_NAME = pytest.mark.parametrize("loss", ALL, ids=lambda loss: loss.likelihood)


class Dictated:
    """A generator that returns the numbers it was given."""

    def __init__(self, numbers):
        self.numbers = np.asarray(numbers, dtype=float)

    def uniform(self, low, high, shape):
        assert (low, high) == (0.0, 1.0)
        return self.numbers.reshape(shape)

    def standard_normal(self, shape):
        return self.numbers.reshape(shape)


def softmax(z):
    weight = np.exp(z - z.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def outcomes(likelihood, outputs):
    """Every outcome for outputs (rows, k): its probability and a generator that leads to it.

    Standard normal noise is replaced by all vectors of signs, which have the same mean and covariance.
    """
    rows, k = outputs.shape
    if likelihood == "gaussian":
        for signs in itertools.product([-1.0, 1.0], repeat=rows * k):
            yield 0.5 ** (rows * k), Dictated(signs)
    elif likelihood == "categorical":
        p = softmax(outputs)
        middle = np.cumsum(p, axis=1) - p / 2
        for labels in itertools.product(range(k), repeat=rows):
            chosen = (np.arange(rows), np.array(labels))
            yield p[chosen].prod(), Dictated(middle[chosen])
    else:
        p = 1 / (1 + np.exp(-outputs))
        for answers in itertools.product([0, 1], repeat=rows * k):
            yes = np.array(answers).reshape(rows, k)
            yield np.where(yes, p, 1 - p).prod(), Dictated(np.where(yes, p / 2, (1 + p) / 2))


def dense_diagonal(point, likelihood, outputs):
    """diag(J^T H J) with every row of the table ``outputs`` (rows, k) in the mean."""
    rows, k = outputs.shape
    jacobian = np.stack([to_numpy(point.jvp(unit)) for unit in _units(point)], axis=1).reshape(rows, k, -1)
    if likelihood == "gaussian":
        blocks = np.stack([np.eye(k)] * rows)
    elif likelihood == "categorical":
        p = softmax(outputs)
        blocks = np.stack([np.diag(q) - np.outer(q, q) for q in p])
    else:
        p = 1 / (1 + np.exp(-outputs))
        blocks = np.stack([np.diag(q * (1 - q)) for q in p])
    return np.einsum("rkn,rkl,rln->n", jacobian, blocks, jacobian) / rows


def _units(point):
    backend = point.problem.backend
    return [backend.asarray(row) for row in np.eye(point.problem.n)]


def expected_square(point, likelihood, outputs, named=None):
    total, probability = 0.0, 0.0
    for weight, rng in outcomes(likelihood, outputs):
        gradient, rows = point.sampled_gradient(rng, named)
        assert rows == len(outputs)
        total, probability = total + weight * rows * to_numpy(gradient) ** 2, probability + weight
    assert probability == pytest.approx(1.0, abs=1e-14)
    return total


def tiny(loss, samples=3, widths=(2, 3, 2), backend=None):
    inputs = np.random.default_rng(1).standard_normal((samples, widths[0]))
    problem = MLP(widths, inputs, targets_for(loss, samples, widths[-1]), activation="tanh", loss=loss, backend=backend)
    return problem, problem.backend.asarray(np.random.default_rng(2).standard_normal(problem.n))


@BY_NAME
def test_mean_square_is_the_diagonal_of_the_gauss_newton_matrix(loss):
    problem, x = tiny(loss, widths=(2, 3, 3) if loss is SOFTMAX else (2, 3, 2))
    point = problem.at(x)
    outputs = point.outputs.reshape(problem.samples, -1)
    expected = dense_diagonal(point, loss.likelihood, outputs)
    assert expected.min() > 1e-4
    np.testing.assert_allclose(expected_square(point, loss.likelihood, outputs), expected, rtol=1e-12)
    dense = np.diag(np.stack([point.ggnvp(unit) for unit in np.eye(problem.n)]))
    np.testing.assert_allclose(expected, dense, rtol=1e-12)


@BY_NAME
def test_mean_of_the_gradient_is_zero(loss):
    # The model is right about its own targets: the score has mean zero.
    problem, x = tiny(loss)
    point = problem.at(x)
    outputs = point.outputs.reshape(problem.samples, -1)
    pairs = [(w, point.sampled_gradient(rng)[0]) for w, rng in outcomes(loss.likelihood, outputs)]
    np.testing.assert_allclose(sum(w * g for w, g in pairs), np.zeros(problem.n), atol=1e-14)


@pytest.mark.parametrize("loss", [SOFTMAX, TokenCrossEntropy()], ids=["samples", "tokens"])
def test_mean_square_of_a_torch_module(loss):
    torch = pytest.importorskip("torch")
    from refimpl.problems.torch_net import TorchProblem

    torch.manual_seed(0)
    if loss is SOFTMAX:
        module, inputs, targets = torch.nn.Linear(2, 3, dtype=torch.float64), np.eye(3)[:, :2], [0, 1, 2]
    else:
        module = torch.nn.Sequential(torch.nn.Embedding(3, 2), torch.nn.Linear(2, 2)).double()
        inputs, targets = np.array([[0, 1], [2, 1]]), np.array([[1, 0], [1, 1]])
    problem = TorchProblem(module, loss, inputs, targets, integer_inputs=loss is not SOFTMAX)
    point = problem.at(problem.initial(None))
    outputs = to_numpy(point.outputs).reshape(-1, 3 if loss is SOFTMAX else 2)
    expected = dense_diagonal(point, "categorical", outputs)
    np.testing.assert_allclose(expected_square(point, "categorical", outputs), expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("by", ["closure", "function"])
def test_mean_square_where_the_likelihood_is_named(likelihood, by):
    # The loss itself says nothing: it is the sum of the outputs, whatever the likelihood.
    torch = pytest.importorskip("torch")
    from refimpl.problems.closure import ClosureProblem
    from refimpl.problems.torch_net import TorchProblem

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Unflatten(0, (1, 2))).double()
    inputs = torch.eye(2, dtype=torch.float64) + 0.5

    def closure():
        outputs = module(inputs)
        return outputs.sum(), outputs

    if by == "closure":
        problem = ClosureProblem(closure, list(module.parameters()))
    else:
        problem = TorchProblem(module, lambda outputs, targets: outputs.sum(), inputs, torch.zeros(2))
    point = problem.at(problem.initial(None))
    outputs = to_numpy(point.outputs).reshape(2, 2)  # of shape (1, 2, 2): two rows
    expected = dense_diagonal(point, likelihood, outputs)
    found = expected_square(point, likelihood, outputs, named=likelihood)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("likelihood", "rows"), [("gaussian", 4), ("bernoulli", 4), ("categorical", 1)])
def test_rows_of_outputs_with_one_axis(likelihood, rows):
    outputs = np.array([0.5, -1.0, 2.0, 0.0])
    gradient, found = sampled_output_gradient(None, outputs, np.random.default_rng(0), likelihood)
    assert gradient.shape == (4,)
    assert found == rows


# -- the draws ------------------------------------------------------------------------------------------------------


def test_frequencies_of_categories():
    logits = np.array([[0.3, -1.0, 2.0], [0.0, 0.0, -np.inf]])
    draws = 20000
    labels = draw_targets("categorical", np.broadcast_to(logits, (draws, 2, 3)), Independent(0))
    assert labels.shape == (draws, 2)
    for row in range(2):
        p = softmax(logits[row])
        share = np.bincount(labels[:, row], minlength=3) / draws
        assert (np.abs(share - p) <= 4 * np.sqrt(p * (1 - p) / draws)).all()


class Independent:
    """A generator that draws anew for every run, where the package shares the numbers: for frequencies only."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def uniform(self, low, high, shape):
        return self.rng.uniform(low, high, (20000, *shape))


def test_frequencies_of_yes():
    logits = np.array([[0.3, -2.0, 800.0, -800.0]])
    share = draw_targets("bernoulli", np.broadcast_to(logits, (20000, 1, 4)), Independent(1)).mean(axis=0)[0]
    p = np.array([1 / (1 + np.exp(-0.3)), 1 / (1 + np.exp(2.0)), 1.0, 0.0])
    assert (np.abs(share - p) <= 4 * np.sqrt(p * (1 - p) / 20000)).all()


def test_gaussian_targets_are_the_outputs_plus_noise():
    outputs = np.array([[1.0, 2.0], [3.0, 4.0]])
    noise = np.random.default_rng(5).standard_normal((2, 2))
    np.testing.assert_array_equal(SQUARE.sample(outputs, np.random.default_rng(5)), outputs + noise)


@pytest.mark.parametrize(
    ("u", "label"), [(0.0, 1), (0.249, 1), (0.251, 2), (0.749, 2), (0.751, 4), (np.nextafter(1, 0), 4)]
)
def test_inverse_of_the_distribution_function(u, label):
    logits = np.array([[-np.inf, np.log(0.25), np.log(0.5), -np.inf, np.log(0.25)]])
    assert draw_targets("categorical", logits, Dictated([u])).tolist() == [label]


def test_a_uniform_number_that_rounds_to_one_is_the_last_label():
    logits = np.zeros((1, 3), np.float32)
    assert draw_targets("categorical", logits, Dictated([1 - 1e-12])).tolist() == [2]


def test_nan_gives_a_label_that_exists():
    logits = np.array([[np.nan, 0.0], [1e300, -1e300]])
    assert draw_targets("categorical", logits, Dictated([0.5, 0.5])).tolist() == [0, 0]


@BY_NAME
def test_same_draws_on_every_backend(loss, backend):
    problem, x = tiny(loss, backend=backend)
    reference, y = tiny(loss)
    gradient, rows = problem.at(x).sampled_gradient(np.random.default_rng(3))
    expected, _ = reference.at(y).sampled_gradient(np.random.default_rng(3))
    assert rows == 3
    assert dtype_name(gradient.dtype) == backend.dtype_name
    tolerance = 2e-5 if backend.dtype_name == "float32" else 1e-12
    np.testing.assert_allclose(to_numpy(gradient), expected, rtol=tolerance, atol=tolerance)


@BY_NAME
def test_every_run_of_a_batch_draws_what_it_draws_alone(loss):
    problem, _ = tiny(loss)
    places = np.random.default_rng(4).standard_normal((2, 3, problem.n))
    together, rows = problem.at(places).sampled_gradient(np.random.default_rng(8))
    assert rows == 3
    assert together.shape == places.shape
    for index in np.ndindex(2, 3):
        alone, _ = problem.at(places[index]).sampled_gradient(np.random.default_rng(8))
        np.testing.assert_allclose(together[index], alone, rtol=1e-12, atol=1e-15)


def test_rows_are_those_of_the_minibatch():
    problem, x = tiny(SOFTMAX, samples=7)
    _, rows = problem.at(x, Minibatch(np.array([1, 4]))).sampled_gradient(np.random.default_rng(0))
    assert rows == 2


def test_torch_module_and_array_network_draw_the_same():
    torch = pytest.importorskip("torch")
    from refimpl.problems.models import mlp_module
    from refimpl.problems.torch_net import TorchProblem

    problem, x = tiny(SOFTMAX, widths=(2, 3, 4))
    module = mlp_module((2, 3, 4), activation="tanh", backend=get_backend("torch"))
    other = TorchProblem(module, SOFTMAX, problem.inputs, problem.targets)
    found, _ = other.at(torch.from_numpy(x)).sampled_gradient(np.random.default_rng(6))
    np.testing.assert_allclose(found, problem.at(x).sampled_gradient(np.random.default_rng(6))[0], rtol=1e-12)
    assert other.tensor_shapes == problem.tensor_shapes == ((3, 2), (3,), (4, 3), (4,))


# -- counting, shapes, mistakes -------------------------------------------------------------------------------------


def test_it_costs_one_reverse_pass():
    problem, x = tiny(SQUARE)
    point = problem.at(x)
    point.sampled_gradient(np.random.default_rng(0))
    assert point.counts == Counts(loss=1, vjp=1)
    _ = point.gradient
    point.sampled_gradient(np.random.default_rng(1))
    assert point.counts == Counts(gradient=1, vjp=2)


def test_tensor_shapes_make_up_the_vector():
    for case in toy_cases():
        problem = case.build(get_backend())
        assert problem.tensor_shapes == ((problem.n,),)
    torch = pytest.importorskip("torch")
    from refimpl.problems.closure import ClosureProblem

    parameters = [torch.zeros(2, 3, requires_grad=True), torch.zeros((), requires_grad=True)]
    problem = ClosureProblem(lambda: sum(p.sum() for p in parameters), parameters)
    assert problem.tensor_shapes == ((2, 3), ())


class Nameless(Loss):
    """A loss that is no likelihood anybody has named."""

    name = "nameless"
    value, gradient = SQUARE.value, SQUARE.gradient
    curvature, check_targets = SQUARE.curvature, SQUARE.check_targets


def test_a_loss_without_likelihood_takes_a_named_one():
    problem, x = tiny(Nameless())
    with pytest.raises(ValueError, match="name one of"):
        problem.at(x).sampled_gradient(np.random.default_rng(0))
    with pytest.raises(ValueError, match="Nameless is not the likelihood"):
        problem.loss_function.sample(np.zeros((1, 1)), np.random.default_rng(0))
    expected, _ = tiny(SQUARE)[0].at(x).sampled_gradient(np.random.default_rng(0))
    np.testing.assert_array_equal(problem.at(x).sampled_gradient(np.random.default_rng(0), "gaussian")[0], expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: HorseSaddle().at(np.ones(2)).sampled_gradient(rng), "has no outputs"),
        (lambda rng: DoubleWell().at(np.ones(2)).sampled_gradient(rng), "no likelihood.*estimator='hutchinson'"),
        (lambda rng: LinearLeastSquares(np.eye(2), [1, 2]).at(np.ones(2)).sampled_gradient(rng), "no likelihood"),
        (lambda rng: tiny(SQUARE)[0].at(tiny(SQUARE)[1]).sampled_gradient(rng, "poisson"), "unknown likelihood"),
        (lambda rng: tiny(SQUARE)[0].at(tiny(SQUARE)[1]).sampled_gradient(rng, ["gaussian"]), "unknown likelihood"),
        (lambda rng: tiny(SQUARE)[0].at(tiny(SQUARE)[1]).sampled_gradient(rng, "bernoulli"), "has the likelihood 'gau"),
        (lambda rng: sampled_output_gradient(None, np.ones((3, 1)), rng, "categorical"), r"two logits.*\(3, 1\)"),
        (lambda rng: draw_targets("poisson", np.ones((3, 1)), rng), "unknown likelihood 'poisson'"),
    ],
    ids=["no-outputs", "no-data", "least-squares", "unknown", "a-list", "another", "one-class", "unknown-draw"],
)
def test_mistakes_are_explained(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.random.default_rng(0))
