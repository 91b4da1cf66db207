"""ResNet-18.

Oracles: parameters counted by hand; Torch's FLOP counter; the network written once more with ``torch.nn.functional``
from the tensors it holds; central differences of gradients; BatchNorm's own counter.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch.nn import functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from refimpl import get_backend  # noqa: E402
from refimpl.problems import models  # noqa: E402
from refimpl.problems.losses import SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.models import flat_parameters  # noqa: E402
from refimpl.problems.resnet import resnet18  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402

DOUBLE = get_backend("torch")


def size(module):
    return sum(p.numel() for p in module.parameters())


def counted_by_hand(width, depth, classes, kernel, batch_norm):
    """Convolutions as (fan-in, fan-out, size), each with two numbers per channel (BatchNorm) or one (bias)."""
    layers, fan_in = [(depth, width, kernel)], width
    for factor in (1, 2, 4, 8):
        fan_out = factor * width
        layers += [(fan_in, fan_out, 3)] + [(fan_out, fan_out, 3)] * 3
        layers += [(fan_in, fan_out, 1)] if factor > 1 else []
        fan_in = fan_out
    per_channel = 2 if batch_norm else 1
    return sum(a * b * k * k + per_channel * b for a, b, k in layers) + (8 * width + 1) * classes


@pytest.mark.parametrize(("stem", "total"), [("cifar", 11_173_962), ("imagenet", 11_181_642)])
def test_parameters_and_flops_of_the_full_network(stem, total):
    with torch.device("meta"):
        net = resnet18(stem=stem)
    assert size(net) == total == counted_by_hand(64, 3, 10, 3 if stem == "cifar" else 7, True)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(2, 3, 32, 32, device="meta"))
    expected = {"cifar": 1.11e9, "imagenet": 0.074e9}[stem]
    assert counter.get_total_flops() / 2 == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_parameters_of_other_widths_and_pictures(batch_norm):
    net = resnet18(width=3, image_shape=(1, 9, 7), classes=4, batch_norm=batch_norm)
    assert size(net) == counted_by_hand(3, 1, 4, 3, batch_norm)
    assert tuple(net(torch.zeros(5, 1, 9, 7)).shape) == (5, 4)


def by_hand(net, x, stem, batch_norm, act):
    """The same network in evaluation mode, layer after layer in the order of the stored tensors."""
    tensors = list(net.state_dict().values())

    def convolved(x, stride):
        weight = tensors.pop(0)
        if not batch_norm:
            return F.conv2d(x, weight, tensors.pop(0), stride, weight.shape[-1] // 2)
        scale, shift, mean, variance, _ = (tensors.pop(0) for _ in range(5))
        x = F.conv2d(x, weight, None, stride, weight.shape[-1] // 2)
        x = (x - mean[:, None, None]) / torch.sqrt(variance[:, None, None] + 1e-5)
        return x * scale[:, None, None] + shift[:, None, None]

    x = act(convolved(x, 2 if stem == "imagenet" else 1))
    if stem == "imagenet":
        x = F.pad(x, (1, 1, 1, 1), value=-torch.inf).unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))
    for stage in range(4):
        for block in range(2):
            stride = 2 if stage and not block else 1
            inner = convolved(act(convolved(x, stride)), 1)
            x = act(inner + (convolved(x, 2) if stride == 2 else x))
    weight, bias = tensors
    return x.mean((2, 3)) @ weight.T + bias


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize(("stem", "activation"), [("cifar", "relu"), ("imagenet", "softplus")])
def test_outputs_against_the_network_written_by_hand(stem, activation, batch_norm):
    net = resnet18(width=2, stem=stem, activation=activation, batch_norm=batch_norm, seed=1, backend=DOUBLE)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in net.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or tensor.ndim == 1:
            tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.5)
    x = torch.randn(3, 3, 11, 12, generator=generator, dtype=torch.float64)
    expected = by_hand(net, x, stem, batch_norm, getattr(F, activation))
    torch.testing.assert_close(net.eval()(x), expected, rtol=1e-9, atol=1e-10)


def thin(activation="softplus", batch_norm=True, **options):
    net = resnet18(
        width=4, image_shape=(3, 8, 8), classes=3, activation=activation, batch_norm=batch_norm, backend=DOUBLE
    )
    rng = np.random.default_rng(2)
    return TorchProblem(net, SoftmaxCrossEntropy(), rng.standard_normal((6, 3, 8, 8)), rng.integers(0, 3, 6), **options)


@pytest.mark.parametrize("batch_norm", [True, False])
@pytest.mark.parametrize("route", ["kept-graph", "forward-over-reverse"])
def test_products_against_central_differences(route, batch_norm):
    problem = thin(batch_norm=batch_norm, route=route)
    x = problem.initial(None)
    v = torch.from_numpy(np.random.default_rng(3).standard_normal(problem.n))
    v /= v.norm()
    product = problem.at(x).hvp(v)
    h = 1e-5
    differences = (problem.at(x + h * v).gradient - problem.at(x - h * v).gradient) / (2 * h)
    assert float((product - differences).norm() / differences.norm()) < 1e-6


def test_statistics_advance_once_per_point_however_many_products():
    problem = thin("relu")
    counters = [m for m in problem.module.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(counters) == 20
    x, v = problem.initial(None), torch.ones(problem.n, dtype=torch.float64)
    for wanted in (1, 2):
        point = problem.at(x)
        for _ in range(3):
            point.hvp(v)
        point.ggnvp(v)
        point.loss_at(x + v)
        assert {int(part.num_batches_tracked) for part in counters} == {wanted}


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = flat_parameters(resnet18(width=4, seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(flat_parameters(resnet18(width=4, seed=1)), first)
    assert not torch.equal(flat_parameters(resnet18(width=4, seed=2)), first)


def test_weights_start_with_variance_two_over_fan_out():
    net = resnet18(width=16)
    for part in net.modules():
        if isinstance(part, torch.nn.Conv2d):
            fan_out = part.out_channels * part.kernel_size[0] ** 2
            share = 6 / part.weight.numel() ** 0.5
            assert float(part.weight.detach().var() * fan_out / 2) == pytest.approx(1, rel=share)
            assert abs(float(part.weight.detach().mean())) < share * (2 / fan_out) ** 0.5


def test_reset_draws_from_the_same_distribution_and_not_torch_s_default():
    problem = thin(batch_norm=False, initialization="reset")
    rng = np.random.default_rng
    first, again, other = (problem.initial(rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    parts = problem.unflatten(first)
    last = [name for name, part in parts.items() if part.shape == (32, 32, 3, 3)]
    assert len(last) == 3
    for name in last:
        assert float(parts[name].var()) == pytest.approx(2 / (32 * 9), rel=0.1)
        assert not parts[name.replace("weight", "bias")].any()


def test_it_is_among_the_models():
    assert models.resnet18 is resnet18


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stem": "mnist"}, "unknown stem 'mnist'; choose 'cifar' or 'imagenet'"),
        ({"activation": "elu"}, "unknown activation 'elu'"),
        ({"width": 0}, "width"),
        ({"classes": 0}, "classes"),
        ({"image_shape": (3, 0, 8)}, "every entry of image_shape"),
        ({"seed": -1}, "seed"),
        ({"backend": get_backend("numpy")}, "torch backend"),
    ],
)
def test_malformed_networks_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        resnet18(**options)
