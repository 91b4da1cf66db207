"""BatchNorm in train mode: its batch counter is the oracle. It advances once per Point, whatever is asked there, and
only by a Point; the statistics are those of one plain forward pass of Torch."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from refimpl import minimize
from refimpl.arrays import get_backend
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.models import load_flat, small_convnet
from refimpl.problems.torch_net import TorchProblem

ROUTES = ["kept-graph", "forward-over-reverse"]
over_routes = pytest.mark.parametrize("route", ROUTES)

ASKED = {
    "loss": lambda point, v, u: point.loss,
    "gradient": lambda point, v, u: point.gradient,
    "loss, then gradient": lambda point, v, u: (point.loss, point.gradient),
    "many products": lambda point, v, u: [point.hvp(v) for _ in range(3)],
    "Gauss-Newton": lambda point, v, u: (point.ggnvp(v), point.ggnvp(v)),
    "outputs": lambda point, v, u: (point.outputs, point.output_gradient, point.output_hvp(u)),
    "everything": lambda point, v, u: (
        point.gradient, point.hvp(v), point.jvp(v), point.vjp(u), point.ggnvp(v), point.loss_at(point.x), point.loss,
    ),
}  # fmt: skip


def normalized(route="kept-graph", **options):
    module = small_convnet(
        image_shape=(1, 4, 4), channels=(2, 3), classes=3, activation="tanh", batch_norm=True,
        backend=get_backend("torch"),
    )  # fmt: skip
    rng = np.random.default_rng(40)
    inputs, labels = rng.standard_normal((6, 1, 4, 4)), rng.integers(0, 3, 6)
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, route=route, **options)


def statistics(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def counters(module):
    return [int(part.num_batches_tracked) for part in module.modules() if isinstance(part, nn.BatchNorm2d)]


def assert_same(one, other):
    for name, buffer in one.items():
        torch.testing.assert_close(buffer, other[name], rtol=0, atol=0)


def test_construction_moves_nothing():
    assert counters(normalized().module) == [0, 0]


@over_routes
@pytest.mark.parametrize("asked", ASKED)
def test_statistics_advance_once_per_point(route, asked):
    net = normalized(route)
    x = net.initial(None)
    v, u = torch.ones(net.n, dtype=torch.float64), torch.ones(18, dtype=torch.float64)
    plain = copy.deepcopy(net.module)
    with torch.no_grad():
        plain(net.inputs)
    ASKED[asked](net.at(x), v, u)
    assert counters(net.module) == [1, 1]
    assert_same(statistics(net.module), statistics(plain))
    ASKED[asked](net.at(x), v, u)
    assert counters(net.module) == [2, 2]


@over_routes
def test_nothing_but_a_point_moves_the_statistics(route):
    net = normalized(route)
    x = net.initial(None)
    net.at(x).gradient  # noqa: B018
    before = statistics(net.module)
    point = net.at(x)
    v = torch.ones(net.n, dtype=torch.float64)
    point.jvp(v)
    point.loss_at(x + 1)
    net.loss(x)
    net.evaluate(x)
    net.initial(np.random.default_rng(0))
    assert_same(statistics(net.module), before)
    assert net.module.training


@over_routes
def test_statistics_advance_once_per_step_of_a_run(route):
    net = normalized(route, batch_size=4)
    minimize(net, GradientDescent(0.05), steps=5, seed=0)
    # Five steps, and the place where the run ended.
    assert counters(net.module) == [6, 6]


def test_train_mode_uses_the_batch_and_loss_at_agrees():
    net = normalized()
    x = net.initial(None)
    point = net.at(x)
    expected = nn.functional.cross_entropy(copy.deepcopy(net.module)(net.inputs), net.targets)
    torch.testing.assert_close(point.loss, expected.detach())
    torch.testing.assert_close(point.loss_at(x), point.loss, rtol=1e-14, atol=0)


def test_evaluation_mode_uses_the_running_statistics_and_moves_nothing():
    net = normalized()
    x = net.initial(None)
    net.at(x).gradient  # noqa: B018
    train_loss = net.loss(x)
    expected = net.evaluate(x)["loss"]
    net.module.eval()
    before = statistics(net.module)
    point = net.at(x)
    torch.testing.assert_close(point.loss, expected)
    torch.testing.assert_close(point.loss_at(x), point.loss, rtol=1e-14, atol=0)
    assert abs(point.loss - train_loss) > 1e-3
    point.hvp(torch.ones(net.n, dtype=torch.float64))
    assert_same(statistics(net.module), before)


def test_evaluate_puts_every_part_back_into_its_own_mode():
    net = normalized()
    net.module[1].eval()
    net.evaluate(net.initial(None))
    assert [part.training for part in net.module] == [True, False, *[True] * (len(net.module) - 2)]


def test_evaluate_equals_the_module_itself():
    net = normalized()
    x = net.initial(None) * 1.1
    net.at(x).gradient  # noqa: B018
    module = copy.deepcopy(net.module).eval()
    load_flat(module, x)
    with torch.no_grad():
        logits = module(net.inputs)
    report = net.evaluate(x)
    torch.testing.assert_close(report["loss"], nn.functional.cross_entropy(logits, net.targets))
    torch.testing.assert_close(report["accuracy"], (logits.argmax(1) == net.targets).double().mean())
