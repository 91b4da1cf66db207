"""The factors of K-FAC, from the reference network and from Torch modules, and the layers of a vector.

Oracles: factors that the library curvlinops 3.0.1 computed (recorded below, and afresh where it is installed); the
dense Gauss–Newton matrix, built from products that know nothing of layers; ``numpy.kron``.
"""

from itertools import pairwise

import numpy as np
import pytest
from kfac_cases import small
from network_cases import LOSSES, targets_for

from refimpl.arrays import as_generator, to_numpy
from refimpl.optimizers.levenberg_marquardt import gauss_newton_matrix
from refimpl.oracle import Counts
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.sampling import Minibatch

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


def test_cost_of_the_factors_of_a_module():
    pytest.importorskip("torch")
    problem = torch_network(sequential((3, 4, 2)), np.ones((5, 3)), np.ones((5, 2)), LOSSES[0])
    point = problem.at(problem.initial(np.random.default_rng(0)))
    point.kronecker_factors()
    assert point.counts == Counts(loss=1, vjp=2)
    assert not any(part._forward_hooks for part in problem.module.modules())


# -- what is refused --------------------------------------------------------------------------------------------------


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
