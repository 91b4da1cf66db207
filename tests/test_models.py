"""VGG-f, the autoencoder, and the basic CNN with other activations.

Oracles: parameters counted by hand; the networks written once more with ``torch.nn.functional`` from the tensors they
hold; central differences of gradients.
"""

from itertools import pairwise

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from refimpl import get_backend  # noqa: E402
from refimpl.problems import convnets, models, module_parts  # noqa: E402
from refimpl.problems.losses import BinaryCrossEntropy, SoftmaxCrossEntropy  # noqa: E402
from refimpl.problems.models import autoencoder_module, basic_cnn, flat_parameters, vgg_f  # noqa: E402
from refimpl.problems.torch_net import TorchProblem  # noqa: E402

DOUBLE = get_backend("torch")
ROUTES = ["kept-graph", "forward-over-reverse"]


def size(module):
    return sum(p.numel() for p in module.parameters())


def agrees_with_differences(problem, bound=1e-6):
    x = problem.initial(np.random.default_rng(0))
    v = torch.from_numpy(np.random.default_rng(1).standard_normal(problem.n))
    v /= v.norm()
    product, h = problem.at(x).hvp(v), 1e-5
    differences = (problem.at(x + h * v).gradient - problem.at(x - h * v).gradient) / (2 * h)
    return float((product - differences).norm() / differences.norm()) < bound


def test_names_that_moved_are_still_models():
    assert models.basic_cnn is convnets.basic_cnn
    assert models.flat_parameters is module_parts.flat_parameters
    assert {type(models.activation_module(name)) for name in ("sigmoid", "tanh")} == {nn.Sigmoid, nn.Tanh}


# -- VGG-f ------------------------------------------------------------------------------------------------------------


def test_the_full_network_has_the_published_sizes():
    with torch.device("meta"):
        net = vgg_f()
    convolutions = 3 * 121 * 64 + 64 * 25 * 256 + 3 * 256 * 9 * 256 + 64 + 4 * 256
    dense = (256 * 36 + 1) * 4096 + 4097 * 4096 + 4097 * 1000
    assert size(net) == convolutions + dense == 60_834_536
    x, sizes = torch.zeros(1, 3, 224, 224, device="meta"), []
    for layer in net:
        x = layer(x)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            sizes.append(tuple(x.shape[1:]))
    assert sizes == [
        (64, 54, 54), (64, 27, 27), (256, 27, 27), (256, 13, 13), (256, 13, 13), (256, 13, 13), (256, 13, 13),
        (256, 6, 6),
    ]  # fmt: skip
    assert tuple(x.shape) == (1, 1000)
    assert not any(isinstance(part, nn.AdaptiveAvgPool2d | nn.Dropout) for part in net)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize(
    ("shape", "stem", "last"),
    [((3, 32, 32), (11, 4), (1, 1)), ((1, 8, 8), (3, 1), (1, 1)), ((3, 90, 72), (3, 1), (6, 6))],
)
def test_sizes_for_other_pictures(shape, stem, last, batch_norm):
    net = vgg_f(image_shape=shape, stem=stem, width=2, hidden=5, classes=4, batch_norm=batch_norm)
    widths = (shape[0], 2, 8, 8, 8, 8)
    kernels = (stem[0], 5, 3, 3, 3)
    weights = sum(a * b * k * k for (a, b), k in zip(pairwise(widths), kernels, strict=True))
    per_channel = (2 if batch_norm else 1) * sum(widths[1:])
    dense = (8 * last[0] * last[1] + 1) * 5 + 6 * 5 + 6 * 4
    assert size(net) == weights + per_channel + dense
    assert tuple(net(torch.rand(2, *shape)).shape) == (2, 4)


def pooled(x):
    """Max-pooling 3 x 3 with stride 2 that may reach over the edge: padded with less than any number."""
    x = F.pad(x, (0, 2, 0, 2), value=-1e9)
    return x.unfold(2, 3, 2).unfold(3, 3, 2).amax((-1, -2))


def test_outputs_against_the_network_written_by_hand():
    net = vgg_f(image_shape=(2, 67, 75), width=2, hidden=5, classes=3, activation="tanh", backend=DOUBLE)
    for part in net.modules():
        if getattr(part, "bias", None) is not None:
            nn.init.normal_(part.bias, generator=torch.Generator().manual_seed(1))
    x = torch.randn(4, 2, 67, 75, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    parts = list(net.parameters())
    h = F.conv2d(x, parts[0], parts[1], stride=4).tanh()
    assert tuple(h.shape) == (4, 2, 15, 17)
    h = pooled(h)[:, :, :7, :8]
    h = pooled(F.conv2d(h, parts[2], parts[3], padding=2).tanh())[:, :, :3, :4]
    for k in (4, 6, 8):
        h = F.conv2d(h, parts[k], parts[k + 1], padding=1).tanh()
    h = pooled(h)[:, :, :1, :2].reshape(4, -1)
    for k in (10, 12):
        h = (h @ parts[k].T + parts[k + 1]).tanh()
    torch.testing.assert_close(net(x), h @ parts[14].T + parts[15], rtol=1e-9, atol=1e-11)


def test_larger_maps_are_averaged_down_to_six_by_six():
    net = vgg_f(image_shape=(1, 98, 98), stem=(3, 1), width=1, hidden=2, classes=2)
    index = next(i for i, layer in enumerate(net) if isinstance(layer, nn.AdaptiveAvgPool2d))
    maps = net[:index](torch.rand(1, 1, 98, 98))
    assert tuple(maps.shape) == (1, 4, 12, 12)
    averages = maps.reshape(1, 4, 6, 2, 6, 2).mean((3, 5))
    torch.testing.assert_close(net[index](maps), averages)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_products_of_vgg_f_against_central_differences(route, batch_norm):
    net = vgg_f(
        image_shape=(1, 24, 24), stem=(3, 1), width=2, hidden=6, classes=3, activation="softplus",
        batch_norm=batch_norm, backend=DOUBLE,
    )  # fmt: skip
    rng = np.random.default_rng(2)
    data = rng.standard_normal((5, 1, 24, 24)), rng.integers(0, 3, 5)
    assert agrees_with_differences(TorchProblem(net, SoftmaxCrossEntropy(), *data, route=route))


def test_weights_of_vgg_f_keep_the_size_of_the_activations():
    net = vgg_f(image_shape=(3, 16, 16), stem=(3, 1), width=16, hidden=256, classes=10, seed=3)
    for part in net.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            fan_in = part.weight[0].numel()
            assert float(part.weight.detach().var()) * fan_in / 2 == pytest.approx(
                1, rel=8 / part.weight.numel() ** 0.5
            )
            assert not part.bias.detach().any()
    problem = TorchProblem(net, SoftmaxCrossEntropy(), np.zeros((1, 3, 16, 16)), [0], initialization="reset")
    fresh = problem.unflatten(problem.initial(np.random.default_rng(0)))
    assert float(fresh["0.weight"].var()) == pytest.approx(2 / 27, rel=0.3)
    assert not fresh["0.bias"].any()


# -- the autoencoder --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(784, 1000, 500, 250, 30), (6, 4), (5, 4, 2)])
def test_parameters_of_the_autoencoder(widths):
    with torch.device("meta"):
        net = autoencoder_module(widths)
    there = sum((a + 1) * b for a, b in pairwise(widths))
    back = sum((b + 1) * a for a, b in pairwise(widths))
    assert size(net) == there + back
    sizes = [(part.in_features, part.out_features) for part in net if isinstance(part, nn.Linear)]
    assert sizes == [*pairwise(widths), *pairwise(widths[::-1])]


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softplus", "relu"])
def test_outputs_of_the_autoencoder_by_hand(activation):
    net = autoencoder_module((7, 5, 4, 2), activation=activation, seed=1, backend=DOUBLE)
    act = {
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
        "softplus": lambda z: F.softplus(z, threshold=40.0),
        "relu": torch.relu,
    }[activation]
    parts = list(net.parameters())
    x = h = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for k in range(6):
        h = h @ parts[2 * k].T + parts[2 * k + 1]
        h = h if k in (2, 5) else act(h)  # the code is linear, the last layer gives logits
    torch.testing.assert_close(net(x), h, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("route", ROUTES)
def test_products_of_the_autoencoder_against_central_differences(route):
    rng = np.random.default_rng(3)
    pixels = rng.random((6, 9))
    net = autoencoder_module((9, 6, 2), backend=DOUBLE)
    assert agrees_with_differences(TorchProblem(net, BinaryCrossEntropy(), pixels, pixels, route=route))


def test_its_loss_is_the_cross_entropy_of_logistic_outputs():
    pixels = np.random.default_rng(4).random((6, 9))
    net = autoencoder_module((9, 6, 2), backend=DOUBLE)
    problem = TorchProblem(net, BinaryCrossEntropy(), pixels, pixels)
    seen = torch.sigmoid(net(torch.from_numpy(pixels))).detach().numpy()
    expected = -(pixels * np.log(seen) + (1 - pixels) * np.log(1 - seen)).sum(1).mean()
    assert float(problem.loss(problem.initial(None))) == pytest.approx(expected, rel=1e-12)


def test_units_start_with_fifteen_inputs():
    net = autoencoder_module((60, 40, 10), seed=2)
    for part in net:
        if isinstance(part, nn.Linear):
            kept = part.weight.detach()[part.weight.detach() != 0]
            assert ((part.weight != 0).sum(1) == min(15, part.in_features)).all()
            assert float(kept.var()) == pytest.approx(1, rel=8 / len(kept) ** 0.5)
            assert abs(float(kept.mean())) < 4 / len(kept) ** 0.5
            assert not part.bias.detach().any()
    used = (net[0].weight != 0).sum(0)
    assert used.min() > 0  # different inputs for different units
    problem = TorchProblem(net, BinaryCrossEntropy(), np.zeros((1, 60)), np.zeros((1, 60)), initialization="reset")
    fresh = problem.unflatten(problem.initial(np.random.default_rng(0)))["0.weight"]
    assert ((fresh != 0).sum(1) == 15).all()


# -- the basic CNN ----------------------------------------------------------------------------------------------------


def test_the_activation_of_the_basic_cnn():
    kinds = [type(part) for part in basic_cnn(activation="softplus") if isinstance(part, nn.Softplus | nn.ReLU)]
    assert kinds == [nn.Softplus] * 4
    assert [type(part) for part in basic_cnn()].count(nn.ReLU) == 4
    assert torch.equal(flat_parameters(basic_cnn(activation="tanh", seed=1)), flat_parameters(basic_cnn(seed=1)))
    net = basic_cnn((2, 3, 3), image_shape=(1, 6, 6), activation="softplus", backend=DOUBLE)
    rng = np.random.default_rng(5)
    data = rng.standard_normal((4, 1, 6, 6)), rng.integers(0, 3, 4)
    assert agrees_with_differences(TorchProblem(net, SoftmaxCrossEntropy(), *data))


# -- all of them ------------------------------------------------------------------------------------------------------

MAKERS = {
    "vgg_f": lambda **options: vgg_f(
        **{"image_shape": (1, 24, 24), "stem": (3, 1), "width": 2, "hidden": 4, **options}
    ),
    "autoencoder": lambda **options: autoencoder_module(**{"widths": (6, 4, 2), **options}),
}


@pytest.mark.parametrize("name", MAKERS)
def test_weights_come_from_the_seed_alone(name):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = flat_parameters(MAKERS[name](seed=1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(flat_parameters(MAKERS[name](seed=1)), first)
    assert not torch.equal(flat_parameters(MAKERS[name](seed=2)), first)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg_f", {"activation": "elu"}, "unknown activation 'elu'"),
        ("vgg_f", {"width": 0}, "width"),
        ("vgg_f", {"hidden": 0}, "hidden"),
        ("vgg_f", {"classes": 0}, "classes"),
        ("vgg_f", {"stem": (0, 1)}, "stem"),
        ("vgg_f", {"stem": (25, 1)}, "smaller than the first convolution of 25 x 25; give a smaller stem"),
        ("vgg_f", {"image_shape": (0, 24, 24)}, "every entry of image_shape"),
        ("vgg_f", {"backend": get_backend("numpy")}, "torch backend"),
        ("autoencoder", {"widths": (5,)}, "widths"),
        ("autoencoder", {"widths": (5, 0)}, "every width"),
        ("autoencoder", {"activation": "elu"}, "unknown activation 'elu'"),
        ("autoencoder", {"seed": -1}, "seed"),
        ("autoencoder", {"backend": get_backend("numpy")}, "torch backend"),
    ],
)
def test_malformed_networks_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name](**options)
