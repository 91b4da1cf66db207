"""Optimizers of Torch and pytorch_optimizer as methods.

Oracles: this package's own AdamW; the iteration of Newton and Schulz written in NumPy; the libraries run as their
manuals say, on a module's parameters.
"""

import copy
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from refimpl.arrays import get_backend  # noqa: E402
from refimpl.optimizers.adam import AdamW  # noqa: E402
from refimpl.optimizers.torch_library import MuonWithAdamW, Shampoo, Soap, TorchAdamW  # noqa: E402
from refimpl.problems.losses import SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.mlp import MLP  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402


def convnet():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Conv2d(4, 3, 2, bias=False), nn.BatchNorm2d(3), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 3),
    ).double()  # fmt: skip


def problem_of(module):
    rng = np.random.default_rng(2)
    data = rng.standard_normal((20, 2, 5, 5)), rng.integers(0, 3, 20)
    return TorchProblem(module, SoftmaxCrossEntropy(), *data, batch_size=6)


def iterates(problem, method, steps, state=None, x=None, seed=0):
    rng = np.random.default_rng(seed)
    x = problem.initial(rng) if x is None else x
    state = method.init(x) if state is None else state
    places = []
    for _ in range(steps):
        x, state, _ = method.step(problem.at(x, problem.draw(rng)), state)
        places.append(x)
    return places, state


def test_adamw_of_torch_is_ours():
    knobs = {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6, "weight_decay": 0.1}
    theirs, ours = (iterates(problem_of(convnet()), kind(**knobs), 12)[0] for kind in (TorchAdamW, AdamW))
    for one, other in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=0, atol=1e-12)


def newton_schulz(matrix, iterations):
    """Muon's orthogonalization in float64, after Jordan's page."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / np.linalg.norm(wide)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def test_steps_of_muon_by_hand():
    problem, rate, decay = problem_of(convnet()), 0.02, 0.1
    method = MuonWithAdamW(rate, momentum=0.9, weight_decay=decay)
    rng = np.random.default_rng(0)
    x = problem.initial(rng)
    state, buffers = method.init(x), {}
    for _ in range(3):
        point = problem.at(x, problem.draw(rng))
        after, state, _ = method.step(point, state)
        before, gradient, found = (
            {name: part.numpy() for name, part in problem.unflatten(v).items()} for v in (x, point.gradient, after)
        )
        for name in ("2.weight", "6.weight"):  # matrices but the first and the last
            shape = before[name].shape
            g = gradient[name].reshape(shape[0], -1)
            buffers[name] = 0.9 * buffers.get(name, 0.0) + 0.1 * g
            push = newton_schulz(0.1 * g + 0.9 * buffers[name], 5)
            size = 0.2 * np.sqrt(max(push.shape))
            expected = (1 - rate * decay) * before[name].reshape(push.shape) - rate * size * push
            step, wanted = (v.reshape(push.shape) - before[name].reshape(push.shape) for v in (found[name], expected))
            assert np.linalg.norm(step - wanted) < 0.08 * np.linalg.norm(wanted), name  # the library's is bfloat16
        x = after


def test_adamw_gets_vectors_and_the_first_and_last_matrix():
    problem = problem_of(convnet())
    knobs = {"beta1": 0.9, "beta2": 0.95, "weight_decay": 0.05}
    found, plain = (iterates(problem, kind(0.02, **knobs), 1)[0][0] for kind in (MuonWithAdamW, AdamW))
    parts, others = problem.unflatten(found), problem.unflatten(plain)
    same = {name for name in parts if torch.allclose(parts[name], others[name], rtol=0, atol=1e-12)}
    assert same == set(parts) - {"2.weight", "6.weight"}
    chosen = iterates(problem, MuonWithAdamW(0.02, **knobs, adam=(2,)), 1)[0][0]
    parts = problem.unflatten(chosen)
    same = {name for name in parts if torch.allclose(parts[name], others[name], rtol=0, atol=1e-12)}
    assert same == set(parts) - {"0.weight", "6.weight", "8.weight"}


def directly(make, steps):
    """A library's optimizer that lives on, on tensors of its own, with the problem's gradients to the last digit.

    Eigenvectors of matrices without full rank are not unique: gradients that differ in rounding lead elsewhere.
    """
    problem, rng = problem_of(convnet()), np.random.default_rng(0)
    tensors = [p.detach().clone().requires_grad_(True) for p in problem.module.parameters()]
    optimizer = make(tensors)
    for _ in range(steps):
        x = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
        gradient = problem.unflatten(problem.at(x, problem.draw(rng)).gradient)
        for tensor, part in zip(tensors, gradient.values(), strict=True):
            tensor.grad = part.clone()
        optimizer.step()
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@pytest.mark.parametrize("name", ["SOAP", "Shampoo"])
def test_other_libraries_step_as_they_do_alone(name):
    library = pytest.importorskip("pytorch_optimizer")
    method = Soap(0.02, frequency=2, weight_decay=0.1) if name == "SOAP" else Shampoo(0.05, frequency=2, momentum=0.5)

    def make(parameters):
        if name == "SOAP":
            knobs = {"betas": (0.95, 0.95), "weight_decay": 0.1, "precondition_frequency": 2}
            return library.SOAP(parameters, lr=0.02, **knobs)
        return library.Shampoo(parameters, lr=0.05, momentum=0.5, preconditioning_compute_steps=2)

    places, _ = iterates(problem_of(convnet()), method, 7)
    np.testing.assert_allclose(places[-1].numpy(), directly(make, 7).numpy(), rtol=0, atol=1e-10)
    assert float((places[-1] - places[0]).norm()) > 1e-3


METHODS = [
    TorchAdamW(0.02), MuonWithAdamW(0.02), Soap(0.02, frequency=2), Shampoo(0.02, frequency=2, momentum=0.5),
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
@pytest.mark.parametrize(
    "kept", [lambda state: pickle.loads(pickle.dumps(state)), copy.deepcopy], ids=["pickle", "copy"]
)
def test_state_that_was_put_away_goes_on_the_same_way(method, kept):
    if method.name in ("soap", "shampoo"):
        pytest.importorskip("pytorch_optimizer")
    problem = problem_of(convnet().eval())
    places, state = iterates(problem, method, 3)
    saved = kept(state)
    first, _ = iterates(problem, method, 3, state, places[-1], seed=9)
    again, _ = iterates(problem, method, 3, state, places[-1], seed=9)  # a step leaves its state alone
    restored, _ = iterates(problem, method, 3, saved, places[-1], seed=9)
    fresh, _ = iterates(problem, method, 3, None, places[-1], seed=9)
    assert torch.equal(first[-1], again[-1])
    assert torch.equal(first[-1], restored[-1])
    assert not torch.equal(first[-1], fresh[-1])


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_step_costs_one_gradient(method):
    if method.name in ("soap", "shampoo"):
        pytest.importorskip("pytorch_optimizer")
    problem = problem_of(convnet())
    point = problem.at(problem.initial(np.random.default_rng(0)), problem.draw(np.random.default_rng(1)))
    before = point.x.clone()
    method.step(point, method.init(point.x))
    assert point.counts.work == 1.0
    assert torch.equal(point.x, before)


def test_refusals():
    with pytest.raises(ValueError, match="torch backend"):
        TorchAdamW(0.1).init(np.zeros(3))
    with pytest.raises(ValueError, match="learning_rate"):
        MuonWithAdamW(0.0)
    with pytest.raises(ValueError, match="momentum"):
        MuonWithAdamW(0.1, momentum=1.0)
    with pytest.raises(ValueError, match="frequency"):
        Soap(0.1, frequency=0)
    backend = get_backend("torch", "float64", "cpu")
    flat = MLP((2, 1), [[0.0, 1.0]], [1.0], backend=backend)
    x = flat.initial(np.random.default_rng(0))
    with pytest.raises(ValueError, match="Muon needs matrices"):
        MuonWithAdamW(0.1).step(flat.at(x), MuonWithAdamW(0.1).init(x))
    method, problem = MuonWithAdamW(0.1, adam=(1,)), problem_of(convnet())  # a vector
    x = problem.initial(np.random.default_rng(0))
    with pytest.raises(ValueError, match="matrices are at"):
        method.step(problem.at(x, None), method.init(x))
