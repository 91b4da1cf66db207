"""Third derivatives of a Torch module's loss.

Oracles: central differences of v·H(x + tv)v; a polynomial with its third derivatives by hand; the derivative of the
softmax and logistic losses in closed form; symmetry of the tensor, and its contraction with a direction.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from refimpl import get_backend  # noqa: E402
from refimpl.arrays import as_generator  # noqa: E402
from refimpl.problems.datasets import two_moons  # noqa: E402
from refimpl.problems.line_derivatives import LARGEST, third_derivative, third_derivative_along  # noqa: E402
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.mlp import MLP  # noqa: E402
from refimpl.problems.models import mlp_module  # noqa: E402
from refimpl.problems.sampling import Minibatch  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402


class Polynomial(nn.Module):
    """x^2 y + 2 x y z + z^4 at the parameter, once per input row."""

    def __init__(self):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(3, dtype=torch.float64))

    def forward(self, inputs):
        x, y, z = self.place
        return (x * x * y + 2 * x * y * z + z**4) * inputs[:, 0]


def polynomial():
    return TorchProblem(Polynomial(), lambda outputs, targets: outputs.mean(), [[1.0]], [0.0])


def by_hand(place):
    tensor = np.zeros((3, 3, 3))
    for i, j, k in {(0, 0, 1), (0, 1, 0), (1, 0, 0)}:
        tensor[i, j, k] = 2.0
    for i, j, k in {(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)}:
        tensor[i, j, k] = 2.0
    tensor[2, 2, 2] = 24 * place[2]
    return tensor


def network(loss=None, widths=(2, 4, 1), activation="tanh", rows=30, dtype="float64"):
    data, backend = two_moons(rows=rows), get_backend("torch", dtype)
    targets = data.train_targets
    if isinstance(loss, SoftmaxCrossEntropy):
        targets = targets.astype(np.int64)
    module = mlp_module(widths, activation=activation, backend=backend)
    return TorchProblem(module, loss or BinaryCrossEntropy(), data.train_inputs, targets, backend=backend)


def place_and_direction(problem, seed=0):
    rng = np.random.default_rng(seed)
    x, v = rng.standard_normal((2, problem.n))
    return problem.backend.asarray(x), problem.backend.asarray(v / np.linalg.norm(v))


def differences(problem, x, v, t, sample=None, h=1e-4):
    def curvature(s):
        return float(v @ problem.at(x + s * v, sample).hvp(v))

    return (8 * (curvature(t + h) - curvature(t - h)) - (curvature(t + 2 * h) - curvature(t - 2 * h))) / (12 * h)


# -- a polynomial -----------------------------------------------------------------------------------------------------


def test_polynomial_tensor_by_hand():
    problem = polynomial()
    place = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    np.testing.assert_allclose(third_derivative(problem, place), by_hand(place.numpy()), atol=1e-14)


def test_polynomial_along_lines_by_hand():
    problem = polynomial()
    place = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    directions = np.random.default_rng(0).standard_normal((4, 3))
    times = [-0.5, 0.0, 2.0]
    expected = [[np.einsum("ijk,i,j,k", by_hand(place.numpy() + t * v), v, v, v) for t in times] for v in directions]
    found = third_derivative_along(problem, place, torch.from_numpy(directions), times)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    one = third_derivative_along(problem, place, torch.from_numpy(directions[2]), times)
    np.testing.assert_allclose(one, expected[2], rtol=1e-12)


def test_length_of_the_direction_counts_three_times():
    problem = polynomial()
    place, v = torch.ones(3, dtype=torch.float64), torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
    once, thrice = (third_derivative_along(problem, place, k * v, [0.0]) for k in (1.0, 3.0))
    np.testing.assert_allclose(thrice, 27 * once, rtol=1e-13)


# -- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "widths"),
    [(BinaryCrossEntropy(), (2, 4, 1)), (HalfMeanSquaredError(), (2, 4, 1)), (SoftmaxCrossEntropy(), (2, 3, 2))],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("activation", ["tanh", "softplus"])
def test_networks_against_differences_of_curvature(loss, widths, activation):
    problem = network(loss, widths, activation)
    x, v = place_and_direction(problem)
    times = [-0.4, 0.0, 0.3]
    found = third_derivative_along(problem, x, v, times)
    np.testing.assert_allclose(found, [differences(problem, x, v, t) for t in times], rtol=1e-6, atol=1e-9)


def test_sample_chooses_rows():
    problem = network()
    x, v = place_and_direction(problem)
    rows = Minibatch(np.arange(0, 30, 3))
    found = third_derivative_along(problem, x, v, [0.1], rows)
    np.testing.assert_allclose(found, [differences(problem, x, v, 0.1, rows)], rtol=1e-6, atol=1e-9)
    assert abs(float(found[0] - third_derivative_along(problem, x, v, [0.1])[0])) > 1e-4


def test_tensor_is_symmetric_and_contracts_to_lines():
    problem = network()
    x, v = place_and_direction(problem, seed=3)
    tensor = third_derivative(problem, x).numpy()
    assert tensor.shape == (17, 17, 17)
    for axes in ((1, 0, 2), (0, 2, 1), (2, 1, 0)):
        np.testing.assert_allclose(tensor, tensor.transpose(axes), atol=1e-14)
    along = third_derivative_along(problem, x, v, [0.0])
    np.testing.assert_allclose(np.einsum("ijk,i,j,k", tensor, v, v, v), along[0], rtol=1e-11)


def test_tensor_is_the_slope_of_the_hessian():
    problem = network()
    x, v = place_and_direction(problem, seed=4)
    h = 1e-5
    slope = (problem.at(x + h * v).hessian() - problem.at(x - h * v).hessian()) / (2 * h)
    np.testing.assert_allclose(torch.einsum("ijk,k", third_derivative(problem, x), v), slope, atol=1e-8)


def test_cubed_logit_of_one_sample_in_closed_form():
    # One weight, one input: f(w) = log(1 + exp(w)), f''' = p (1 - p) (1 - 2p).
    backend = get_backend("torch")
    module = nn.Linear(1, 1, bias=False, dtype=torch.float64)
    problem = TorchProblem(module, BinaryCrossEntropy(), [[1.0]], [0.0], backend=backend)
    one, w = torch.ones(1, dtype=torch.float64), np.array([-3.0, 0.0, 0.4, 2.0])
    p = 1 / (1 + np.exp(-w))
    np.testing.assert_allclose(third_derivative_along(problem, 0 * one, one, w), p * (1 - p) * (1 - 2 * p), atol=1e-15)


def test_relu_has_the_derivative_of_its_piece():
    # Along one output bias a ReLU network with half the squared error is a quadratic.
    problem = network(HalfMeanSquaredError(), activation="relu")
    x, _ = place_and_direction(problem)
    v = problem.backend.eye(problem.n)[-1]
    np.testing.assert_array_equal(third_derivative_along(problem, x, v, [-0.2, 0.0]), [0.0, 0.0])


def test_the_module_is_left_alone():
    problem = network()
    before = [p.detach().clone() for p in problem.module.parameters()]
    x, v = place_and_direction(problem)
    kept = x.clone()
    third_derivative_along(problem, x, v, [0.0])
    third_derivative(problem, x)
    assert all(torch.equal(a, b) for a, b in zip(before, problem.module.parameters(), strict=True))
    assert torch.equal(x, kept)
    assert not third_derivative(problem, x.requires_grad_(True)).requires_grad


# -- at the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"problem": MLP((1, 2, 1), [[0.0]], [0.0])}, "need a TorchProblem, got MLP"),
        ({"problem": "float32"}, "need float64, the problem has float32"),
        ({"x": torch.zeros(3, dtype=torch.float64)}, "x must have shape"),
        ({"v": torch.zeros(3, dtype=torch.float64)}, "v must have shape"),
        ({"v": torch.zeros((2, 3), dtype=torch.float64)}, "v must have shape"),
        ({"positions": [[0.0]]}, "one row of finite numbers"),
        ({"positions": [float("inf")]}, "one row of finite numbers"),
        ({"sample": [1, 2]}, "sample must be None or a Minibatch"),
    ],
)
def test_wrong_input_is_refused(change, message):
    problem = network()
    x, v = place_and_direction(problem)
    given = {"problem": problem, "x": x, "v": v, "positions": [0.0], "sample": None} | change
    if given["problem"] == "float32":
        given["problem"] = network(dtype="float32")
    with pytest.raises(ValueError, match=message):
        third_derivative_along(**given)


def test_large_networks_have_no_tensor():
    problem = network(widths=(2, 12, 1))
    assert problem.n > LARGEST
    with pytest.raises(ValueError, match="use third_derivative_along"):
        third_derivative(problem, problem.initial(as_generator(0)))
