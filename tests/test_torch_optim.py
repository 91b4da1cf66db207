"""The Torch optimizers against the array methods on the package's own problems, which share no line with the closures:
MLP on NumPy has its own backpropagation, TorchProblem its own functional call."""

# ruff: noqa: E402  (imports stand below the skip)

import copy
import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="refimpl.torch_optim needs Torch: pip install 'refimpl[torch]'")

from torch_optim_cases import IDS, LOSSES, STEPS, WIDTHS, WRAPPED, Training, Wrapped

from refimpl import Counts, minimize, torch_optim
from refimpl.optimizers.adam import Adam
from refimpl.problems.closure import ClosureProblem
from refimpl.problems.mlp import MLP
from refimpl.problems.sampling import Minibatch
from refimpl.problems.torch_net import TorchProblem


def array_path(method, problem, x, samples):
    """The iterates of the array method, and what they have cost."""
    state, path, counts = method.init(x), [], Counts()
    for sample in samples:
        point = problem.at(x, sample)
        x, state, _ = method.step(point, state)
        counts += point.counts
        path.append(np.asarray(x))
    return path, counts


# -- against the array methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_iterates_against_the_numpy_network(one, loss):
    training = Training(loss)
    problem = MLP(WIDTHS, training.inputs, training.targets, activation="tanh", loss=LOSSES[loss])
    samples = [Minibatch(rows) for rows in training.batches]
    expected, counts = array_path(one.method(), problem, training.x, samples)
    optimizer = one.make(training.model)
    start = training.x
    found = training.run(optimizer, outputs=one.outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9)
    assert np.abs(found[-1] - start).max() > 1e-3  # it has moved at all
    assert optimizer.counts == counts


@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_iterates_in_float32_against_the_torch_problem(one):
    training = Training("ce", "float32")
    module = copy.deepcopy(training.model)
    problem = TorchProblem(module, LOSSES["ce"], training.inputs, training.targets)
    samples = [Minibatch(rows) for rows in training.batches]
    expected, _ = array_path(one.method(), problem, problem.initial(None), samples)
    found = training.run(one.make(training.model), outputs=one.outputs)
    assert found[-1].dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        (lambda p: torch_optim.GradientDescent(p, learning_rate=0.2), lambda p: torch.optim.SGD(p, lr=0.2)),
        (
            lambda p: torch_optim.HeavyBall(p, learning_rate=0.2, momentum=0.7),
            lambda p: torch.optim.SGD(p, lr=0.2, momentum=0.7),
        ),
        (lambda p: torch_optim.Adam(p, learning_rate=0.03), lambda p: torch.optim.Adam(p, lr=0.03)),
    ],
    ids=["sgd", "momentum", "adam"],
)
def test_first_order_against_torch_optim_under_a_scheduler(mine, other):
    here, there = Training(), Training()
    a, b = mine(here.model.parameters()), other(there.model.parameters())
    if not isinstance(a, torch_optim.HeavyBall):  # whose velocity contains the learning rate, unlike Torch's
        schedulers = [torch.optim.lr_scheduler.StepLR(one, 2, 0.5) for one in (a, b)]
    else:
        schedulers = []
    for step in range(STEPS):
        before = a.step(here.closure(step))
        b.zero_grad()
        loss = there.closure(step, outputs=False)()
        loss.backward()
        b.step()
        np.testing.assert_allclose(before, loss.detach(), rtol=1e-12)
        for scheduler in schedulers:
            scheduler.step()
    np.testing.assert_allclose(here.x, there.x, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_every_method_lowers_the_loss(one):
    training = Training()
    optimizer = one.make(training.model)
    losses = [optimizer.step(training.closure(0)) for _ in range(8)]
    assert losses[-1] < losses[0]
    assert all(loss.shape == () and not loss.requires_grad for loss in losses)
    assert all(p.grad is None and p.requires_grad for p in training.model.parameters())


def test_all_methods_of_the_package_are_here():
    here = {one.cls.method_class for one in WRAPPED}
    assert here == {getattr(torch_optim, name).method_class for name in torch_optim.__all__} - {None}


# -- signatures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", WRAPPED, ids=IDS)
def test_the_signature_shows_the_knobs(one):
    shown = inspect.signature(one.cls).parameters
    expected = inspect.signature(one.cls.method_class).parameters
    assert list(shown) == ["params", *expected, "buffers", "module"]
    assert all(shown[name].default == p.default for name, p in expected.items())
    assert one.cls.__doc__ != torch_optim.MethodOptimizer.__doc__
    assert one.cls.method_class.__name__ == one.cls.__name__


def test_any_method_with_the_protocol_is_wrapped():
    here, there = Training(), Training()
    a = torch_optim.MethodOptimizer(here.model.parameters(), Adam(0.02))
    b = Wrapped("Adam", {"learning_rate": 0.02}).make(there.model)
    np.testing.assert_array_equal(here.run(a), there.run(b))
    assert repr(b) == "Adam(learning_rate=0.02, beta1=0.9, beta2=0.999, epsilon=1e-08, n=26)"
    assert repr(a) == "MethodOptimizer(Adam(learning_rate=0.02, beta1=0.9, beta2=0.999, epsilon=1e-08), n=26)"


def test_minimize_takes_the_closure_problem_too():
    # One more user of the same problem: the loop of the package, on a full batch.
    training, twin = Training(), Training()
    method = WRAPPED[IDS.index("LanczosSaddleFreeNewton")].method()
    result = minimize(
        ClosureProblem(training.closure(0), list(training.model.parameters())), method, training.x, steps=5
    )
    optimizer = torch_optim.MethodOptimizer(twin.model.parameters(), method)
    twin.run(optimizer, [0] * 5)
    np.testing.assert_array_equal(result.x, twin.x)


# -- vectors to look at -----------------------------------------------------------------------------------------------


def test_vectors_of_a_step_are_those_of_the_method():
    training, twin = Training(), Training()
    one = WRAPPED[IDS.index("KryBall")]
    optimizer = one.make(training.model)
    assert optimizer.vectors == {}
    problem = ClosureProblem(twin.closure(0), list(twin.model.parameters()))
    x = twin.x
    training.run(optimizer, [0])
    point = problem.at(torch.from_numpy(x))
    taken = one.method().step(point, one.method().init(point.x))
    seen = optimizer.vectors
    assert set(seen) == {"gradient", *taken.state._fields}
    torch.testing.assert_close(seen["gradient"], point.gradient, rtol=1e-12, atol=1e-14)
    for name in ("momentum", "basis"):
        torch.testing.assert_close(seen[name], getattr(taken.state, name), rtol=1e-9, atol=1e-12)
    assert seen["radius"] == taken.state.radius
    # As tensors of the shapes of the parameters, which put together are the vector again.
    pieces = optimizer.split(seen["gradient"])
    assert [piece.shape for piece in pieces] == [p.shape for p in training.model.parameters()]
    assert torch.equal(torch.cat([piece.ravel() for piece in pieces]), seen["gradient"])
    with pytest.raises(ValueError, match=r"vector must have shape \(26,\), got"):
        optimizer.split(seen["gradient"][:3])


def test_vectors_of_a_method_that_asks_for_no_gradient():
    training = Training()
    optimizer = WRAPPED[IDS.index("CurveBall")].make(training.model)
    training.run(optimizer, [0])
    assert "gradient" not in optimizer.vectors
    assert optimizer.vectors["step"].shape == (26,)
