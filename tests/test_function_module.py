"""Toys as Torch modules.

Oracles: the closed form's own gradient and Hessian (tested against differences elsewhere), and this package's methods,
which must walk the same way as Torch's optimizers on the module.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cases import PRESENT  # noqa: E402

from refimpl import get_backend, minimize  # noqa: E402
from refimpl.optimizers.adam import Adam  # noqa: E402
from refimpl.optimizers.gradient_descent import HeavyBall  # noqa: E402
from refimpl.problems.function_module import FunctionModule  # noqa: E402
from refimpl.problems.linear_network import RahimiRecht  # noqa: E402
from refimpl.problems.mlp import MLP  # noqa: E402
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, Rosenbrock, Wood  # noqa: E402

TORCH = [spec.param() for spec in PRESENT if spec.name == "torch"]


@pytest.fixture(params=TORCH)
def place(request):
    return request.param.get()


@pytest.mark.parametrize(
    ("toy", "x"),
    [
        (Rosenbrock, [-1.2, 1.0]),
        (Wood, [-3.0, -1.0, 0.5, 2.0]),
        (CoupledSaddle, [0.75, -1.5]),
        (DoubleWell, [0.5, 0.2]),
    ],
)
def test_loss_and_derivatives_are_those_of_the_closed_form(toy, x, place):
    problem = toy(backend=place)
    model = FunctionModule(problem, x)
    point = problem.at(place.asarray(x))
    tolerance = 1e-12 if place.dtype_name == "float64" else 1e-4
    loss = model()
    assert (loss.shape, loss.dtype, loss.device) == ((), place.dtype, place.device)
    torch.testing.assert_close(loss.detach(), point.loss, rtol=tolerance, atol=tolerance)
    (gradient,) = torch.autograd.grad(loss, model.place, create_graph=True)
    torch.testing.assert_close(gradient.detach(), point.gradient, rtol=tolerance, atol=tolerance)
    rows = [torch.autograd.grad(g, model.place, retain_graph=True)[0] for g in gradient]
    torch.testing.assert_close(torch.stack(rows), point.hessian(), rtol=10 * tolerance, atol=10 * tolerance)


def test_noise_of_a_sample():
    problem = Rosenbrock(noise=3.0, backend=get_backend("torch"))
    model = FunctionModule(problem, [-1.2, 1.0])
    assert float(model(0.0).detach()) == pytest.approx(4.84)
    assert float(model().detach()) == pytest.approx(24.2)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda p: torch.optim.Adam(p, lr=0.02), Adam(0.02)),
        (lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9), HeavyBall(1e-4, 0.9)),
    ],
)
def test_optimizers_of_torch_walk_the_same_way(theirs, ours):
    problem = Rosenbrock(backend=get_backend("torch"))
    model = FunctionModule(problem, [-1.2, 1.0])
    optimizer = theirs(model.parameters())
    for _ in range(40):
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    wanted = minimize(problem, ours, [-1.2, 1.0], steps=40).x
    torch.testing.assert_close(model.place.detach(), wanted, rtol=1e-6, atol=1e-7)


def test_one_parameter_that_is_a_copy():
    start = np.array([0.5, 0.25])
    model = FunctionModule(HorseSaddle(backend=get_backend("torch")), start)
    assert [name for name, _ in model.named_parameters()] == ["place"]
    with torch.no_grad():
        model.place.add_(1.0)
    assert start.tolist() == [0.5, 0.25]
    assert repr(model) == "FunctionModule(HorseSaddle, n=2)"
    given = torch.tensor([0.5, 0.25], dtype=torch.float64)
    model = FunctionModule(HorseSaddle(backend=get_backend("torch")), given)
    with torch.no_grad():
        model.place.add_(1.0)
    assert given.tolist() == [0.5, 0.25]


def test_the_linear_network_as_well():
    problem = RahimiRecht(widths=(2, 3, 4), samples=20, backend=get_backend("torch"))
    x = problem.initial(np.random.default_rng(0))
    model = FunctionModule(problem, x)
    model().backward()
    torch.testing.assert_close(model.place.grad, problem.at(x).gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("problem", "start", "message"),
    [
        (lambda: Rosenbrock(), [1.0, 1.0], "must be a toy on Torch"),
        (lambda: Rosenbrock, [1.0, 1.0], "must be a toy on Torch"),
        (lambda: MLP((1, 1), np.ones((2, 1)), np.zeros(2), backend=get_backend("torch")), [1.0, 1.0], "toy on Torch"),
        (lambda: HorseSaddle(backend=get_backend("torch")), [1.0], r"start must have shape \(2,\)"),
        (lambda: HorseSaddle(backend=get_backend("torch")), [[1.0, 2.0]], "start must be 2 finite numbers"),
        (lambda: HorseSaddle(backend=get_backend("torch")), [1.0, float("nan")], "start must be 2 finite numbers"),
        (lambda: HorseSaddle(backend=get_backend("torch")), ["a", "b"], "start must be real numbers"),
    ],
)
def test_wrong_modules(problem, start, message):
    with pytest.raises(ValueError, match=message):
        FunctionModule(problem(), start)
