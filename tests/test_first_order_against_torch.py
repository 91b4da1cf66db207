"""First-order methods against torch.optim: 50 steps from the same place, on the same gradients, in both precisions.

The second library computes its own gradients by automatic differentiation of the loss written in Torch.
"""

import numpy as np
import pytest

from refimpl import minimize
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import Rosenbrock

torch = pytest.importorskip("torch")

START = [-1.2, 1.0]
PAIRS = [
    (GradientDescent(3e-4), lambda p: torch.optim.SGD(p, lr=3e-4)),
    (HeavyBall(3e-4, 0.8), lambda p: torch.optim.SGD(p, lr=3e-4, momentum=0.8)),
    (Nesterov(3e-4, 0.8), lambda p: torch.optim.SGD(p, lr=3e-4, momentum=0.8, nesterov=True)),
    (Adam(0.05, 0.8, 0.99, 1e-6), lambda p: torch.optim.Adam(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6)),
    (Adam(), lambda p: torch.optim.Adam(p)),
    (
        AdamW(0.05, 0.8, 0.99, 1e-6, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, lr=0.05, betas=(0.8, 0.99), eps=1e-6, weight_decay=0.3),
    ),
    (AdamW(), lambda p: torch.optim.AdamW(p)),
]
IDS = ["gradient-descent", "heavy-ball", "nesterov", "adam", "adam-defaults", "adamw", "adamw-defaults"]


def torch_path(make, steps, dtype):
    x = torch.tensor(START, dtype=dtype, requires_grad=True)
    optimizer = make([x])
    path = [x.detach().numpy().copy()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2
        loss.backward()
        optimizer.step()
        path.append(x.detach().numpy().copy())
    return np.array(path)


def our_path(problem, method, start, steps):
    places = []
    minimize(problem, method, start, steps=steps, callback=lambda _, point: places.append(np.array(point.x)))
    return np.array(places)


@pytest.mark.parametrize(("method", "make"), PAIRS, ids=IDS)
def test_same_path_as_torch(method, make):
    path = our_path(Rosenbrock(), method, START, 50)
    assert path.shape == (51, 2)
    np.testing.assert_allclose(path, torch_path(make, 50, torch.float64), rtol=1e-10)


@pytest.mark.parametrize(("method", "make"), PAIRS, ids=IDS)
def test_same_path_as_torch_in_float32(method, make):
    from refimpl.arrays import get_backend

    path = our_path(Rosenbrock(backend=get_backend("numpy", "float32")), method, START, 50)
    assert path.dtype == np.float32
    np.testing.assert_allclose(path, torch_path(make, 50, torch.float32), rtol=2e-3)


def test_gradient_descent_closed_form_on_a_quadratic():
    eigenvalues, start, rate = np.array([2.0, -1.0, 0.5]), np.array([1.0, 2.0, -3.0]), 0.3
    path = our_path(Quadratic(np.diag(eigenvalues)), GradientDescent(rate), start, 20)
    np.testing.assert_allclose(path[-1], (1 - rate * eigenvalues) ** 20 * start, rtol=1e-12)


def test_momentum_zero_is_gradient_descent():
    plain = our_path(Rosenbrock(), GradientDescent(1e-3), START, 10)
    assert (our_path(Rosenbrock(), HeavyBall(1e-3, 0.0), START, 10) == plain).all()
    assert (our_path(Rosenbrock(), Nesterov(1e-3, 0.0), START, 10) == plain).all()


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf"), "0.1", True, None])
@pytest.mark.parametrize("method", [GradientDescent, HeavyBall, Nesterov, Adam, AdamW])
def test_wrong_learning_rate(method, bad):
    with pytest.raises(ValueError, match="learning_rate"):
        method(bad)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, float("nan"), "0.9", None])
def test_wrong_momentum_and_decay(bad):
    for method in (HeavyBall, Nesterov):
        with pytest.raises(ValueError, match="momentum"):
            method(0.1, bad)
    with pytest.raises(ValueError, match="beta1"):
        Adam(beta1=bad)
    with pytest.raises(ValueError, match="beta2"):
        AdamW(beta2=bad)


def test_wrong_epsilon_and_weight_decay():
    with pytest.raises(ValueError, match="epsilon"):
        Adam(epsilon=-1e-8)
    with pytest.raises(ValueError, match="weight_decay"):
        AdamW(weight_decay=-0.1)
