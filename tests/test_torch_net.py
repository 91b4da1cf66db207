"""Torch modules as problems: the two routes against each other and against Torch's dense Hessian, what is refused,
what is left untouched, and that a Point's graph dies with it."""

import gc
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from refimpl import Counts, get_backend, minimize
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.models import flat_parameters, load_flat, mlp_module, small_convnet
from refimpl.problems.torch_net import TorchProblem

ROUTES = ["kept-graph", "forward-over-reverse"]
DOUBLE = get_backend("torch")


def images(samples=6, seed=30):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, 1, 4, 4)), rng.integers(0, 3, samples)


def convnet(activation="tanh", batch_norm=False, backend=DOUBLE):
    return small_convnet(
        image_shape=(1, 4, 4), channels=(2, 3), classes=3, activation=activation, batch_norm=batch_norm, backend=backend
    )


def problem(route="kept-graph", loss=None, **options):
    return TorchProblem(convnet(), loss or SoftmaxCrossEntropy(), *images(), route=route, **options)


def vectors(n, count=2, seed=31):
    return [torch.from_numpy(v) for v in np.random.default_rng(seed).standard_normal((count, n))]


def assert_close(found, expected, rtol=1e-12):
    assert (found - expected).abs().max() <= rtol * max(float(expected.abs().max()), 1e-3)


@pytest.mark.parametrize("batch_norm", [False, True], ids=["plain", "batch-norm"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "softplus"])
def test_the_routes_agree(activation, batch_norm):
    points = []
    for route in ROUTES:
        one = TorchProblem(convnet(activation, batch_norm), SoftmaxCrossEntropy(), *images(), route=route)
        points.append(one.at(one.initial(None)))
    kept, scratch = points
    assert_close(kept.gradient, scratch.gradient)
    for v in vectors(kept.problem.n):
        assert_close(kept.hvp(v), scratch.hvp(v))
        assert_close(kept.ggnvp(v), scratch.ggnvp(v))
    (u,) = vectors(kept.outputs.shape[0], 1)
    assert_close(kept.vjp(u), scratch.vjp(u))


@pytest.mark.parametrize("route", ROUTES)
def test_hessian_against_torch(route):
    net = problem(route)
    x = net.initial(None)
    labels = net.targets

    def loss(x):
        parameters = net.unflatten(x)
        return functional.cross_entropy(torch.func.functional_call(net.module, parameters, (net.inputs,)), labels)

    assert_close(net.at(x).hessian(), torch.autograd.functional.hessian(loss, x), 3e-14)


@pytest.mark.parametrize("route", ROUTES)
def test_a_function_as_loss_equals_the_written_loss(route):
    written = problem(route)
    function = problem(route, functional.cross_entropy)
    x = written.initial(None)
    here, there = written.at(x), function.at(x)
    (v,), (u,) = vectors(written.n, 1), vectors(18, 1)
    assert_close(there.loss, here.loss)
    assert_close(there.gradient, here.gradient)
    assert_close(there.hvp(v), here.hvp(v))
    assert_close(there.output_gradient, here.output_gradient)
    assert_close(there.output_hvp(u), here.output_hvp(u))
    assert_close(there.ggnvp(v), here.ggnvp(v))


def test_a_loss_without_curvature_has_zero_products():
    module = nn.Linear(3, 1).double()
    net = TorchProblem(module, lambda p, t: (p[:, 0] * t).mean(), np.eye(3), [1.0, 2.0, 3.0])
    point = net.at(net.initial(None))
    (v,) = vectors(net.n, 1)
    np.testing.assert_allclose(point.gradient, np.asarray([1, 2, 3, 6]) / 3)
    assert not point.hvp(v).any()
    assert not point.output_hvp(v[:3]).any()


@pytest.mark.parametrize("route", ROUTES)
def test_what_is_returned_is_detached_and_its_own(route):
    point = problem(route).at(problem().initial(None))
    (v,), (u,) = vectors(point.problem.n, 1), vectors(18, 1)
    found = [point.loss, point.gradient, point.hvp(v), point.hessian(), point.outputs, point.output_gradient]
    found += [point.output_hvp(u), point.jvp(v), point.vjp(u), point.ggnvp(v), point.loss_at(point.x)]
    assert not any(tensor.requires_grad for tensor in found)
    before = point.hvp(v)
    point.gradient.zero_()
    point.outputs.zero_()
    assert_close(point.hvp(v), before, 0)


@pytest.mark.parametrize("route", ROUTES)
def test_the_module_is_left_as_it_was(route):
    net = problem(route)
    before = {name: tensor.clone() for name, tensor in net.module.state_dict().items()}
    x = net.initial(None) + 0.1
    point = net.at(x)
    (v,) = vectors(net.n, 1)
    assert point.gradient.shape == point.hvp(v).shape == point.ggnvp(v).shape
    net.evaluate(x)
    for name, tensor in net.module.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert all(p.grad is None and p.requires_grad for p in net.module.parameters())
    assert net.module.training


def test_later_changes_to_x_and_data_do_not_reach_the_point():
    inputs, labels = (torch.from_numpy(array) for array in images())
    net = TorchProblem(convnet(), SoftmaxCrossEntropy(), inputs, labels)
    x = net.initial(None)
    expected = net.at(x).gradient
    point = net.at(x)
    x.zero_()
    inputs.zero_()
    assert_close(point.gradient, expected, 0)


@pytest.mark.parametrize("route", ROUTES)
def test_the_graph_dies_with_the_point(route):
    net = problem(route)
    x = net.initial(None)
    (v,) = vectors(net.n, 1)
    point = net.at(x)
    outputs = weakref.ref(point._evaluation._forward.outputs)
    gradient = point.gradient
    point.hvp(v)
    gc.disable()  # counting references must be enough: no cycle may hold the graph
    try:
        del point
        assert outputs() is None
    finally:
        gc.enable()
    assert gradient.shape == x.shape


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), functional.cross_entropy], ids=["written", "function"])
def test_no_tensor_is_left_over_after_200_steps(loss):
    net = problem(loss=loss)
    x = net.initial(None)
    (v,) = vectors(net.n, 1)

    def step(x):
        point = net.at(x)
        point.hvp(v), point.ggnvp(v), point.jvp(v)
        return x - 0.01 * point.gradient

    def alive():
        return sum(1 for item in gc.get_objects() if issubclass(type(item), torch.Tensor))

    for _ in range(3):
        x = step(x)
    gc.collect()
    gc.disable()
    try:
        before = alive()
        for _ in range(200):
            x = step(x)
        assert alive() <= before + 2
    finally:
        gc.enable()


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), nn.AlphaDropout(0.1), nn.RReLU()])
def test_active_dropout_is_refused(dropout):
    module = nn.Sequential(nn.Linear(3, 2), dropout).double()
    with pytest.raises(ValueError, match="draws random numbers"):
        TorchProblem(module, HalfMeanSquaredError(), np.eye(3), np.ones((3, 2)))
    module.eval()
    net = TorchProblem(module, HalfMeanSquaredError(), np.eye(3), np.ones((3, 2)))
    x = net.initial(None)
    assert net.at(x).gradient.shape == (8,)
    module.train()
    for ask in (net.at, net.loss):
        with pytest.raises(ValueError, match="draws random numbers"):
            ask(x)


def test_dropout_with_probability_zero_is_allowed():
    module = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.0)).double()
    assert TorchProblem(module, HalfMeanSquaredError(), np.eye(3), np.ones((3, 2))).n == 8


def test_fixed_and_shared_parameters():
    module = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3)).double()
    module[2].weight = module[0].weight
    module[0].bias.requires_grad_(False)
    net = TorchProblem(module, HalfMeanSquaredError(), np.eye(3), np.ones((3, 3)))
    assert net.n == 9 + 3
    x = torch.from_numpy(np.random.default_rng(1).standard_normal(12))

    def loss(x):
        weight, bias = x[:9].view(3, 3), x[9:]
        return ((torch.tanh(weight.T + module[0].bias) @ weight.T + bias - 1) ** 2).sum() / 6

    torch.testing.assert_close(net.loss(x), loss(x))
    assert_close(net.at(x).hessian(), torch.autograd.functional.hessian(loss, x))


def test_minimize_counts_and_draws_like_the_other_networks():
    net = problem(batch_size=4)
    result = minimize(net, GradientDescent(0.1), steps=3, seed=2)
    assert result.counts == Counts(gradient=4)
    rows = net.draw(np.random.default_rng(3)).indices
    inputs, labels = images()
    small = TorchProblem(convnet(), SoftmaxCrossEntropy(), inputs[rows], labels[rows])
    sample = net.draw(np.random.default_rng(3))
    assert_close(net.at(result.x, sample).gradient, small.at(result.x).gradient)


def test_evaluate_in_pieces_is_the_whole(monkeypatch):
    net = problem(test=images(seed=32))
    whole = net.evaluate(net.initial(None))
    monkeypatch.setattr("refimpl.problems.torch_net._EVALUATION_ROWS", 4)
    pieces = net.evaluate(net.initial(None))
    assert set(whole) == {"loss", "accuracy", "test_loss", "test_accuracy"}
    for key, value in whole.items():
        torch.testing.assert_close(pieces[key], value)
    torch.testing.assert_close(whole["loss"], net.loss(net.initial(None)))


def test_initial_parameters():
    net = problem()
    torch.testing.assert_close(net.initial(np.random.default_rng(0)), flat_parameters(net.module))
    fresh = problem(initialization="reset")
    state = torch.random.get_rng_state()
    one, same, other = (fresh.initial(np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    torch.testing.assert_close(flat_parameters(fresh.module), flat_parameters(net.module))
    drawn = problem(initialization=lambda rng: rng.standard_normal(net.n))
    expected = np.random.default_rng(5).standard_normal(net.n)
    np.testing.assert_array_equal(drawn.initial(np.random.default_rng(5)), expected)


def test_integer_inputs_reach_an_embedding():
    module = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(6, 5)).double()
    tokens, labels = np.asarray([[0, 1, 2], [3, 4, 0]]), np.asarray([1, 2])
    net = TorchProblem(module, SoftmaxCrossEntropy(), tokens, labels, integer_inputs=True)
    torch.testing.assert_close(
        net.loss(net.initial(None)), functional.cross_entropy(module(torch.tensor(tokens)), torch.tensor(labels))
    )
    with pytest.raises(ValueError, match="whole numbers"):
        TorchProblem(module, SoftmaxCrossEntropy(), tokens * 0.5, labels, integer_inputs=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"module": "net"}, r"torch.nn.Module"),
        ({"module": nn.ReLU()}, "nothing to optimize"),
        ({"loss": 3}, "loss must be"),
        ({"loss": lambda p, t: p}, "scalar tensor"),
        ({"route": "linearize"}, "unknown route"),
        ({"initialization": "zeros"}, "unknown initialization"),
        ({"backend": get_backend("numpy")}, "needs a torch backend"),
        ({"backend": get_backend("torch", "float32")}, "move one of them"),
        ({"inputs": np.zeros((0, 3))}, "empty"),
        ({"inputs": torch.zeros((0, 3))}, "samples >= 1"),
        ({"inputs": np.full((2, 3), np.nan)}, "finite"),
        ({"inputs": torch.full((2, 3), float("nan"))}, "finite"),
        ({"targets": [1.0, 2.0, 3.0]}, "targets"),
        ({"loss": functional.mse_loss, "targets": [1.0, 2.0, 3.0]}, "2 rows like the inputs"),
        ({"batch_size": 3}, "at most the number of samples"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    given = {
        "module": nn.Linear(3, 1).double(),
        "loss": HalfMeanSquaredError(),
        "inputs": np.zeros((2, 3)),
        "targets": [1.0, 2.0],
    }
    given |= change

    def ask():
        net = TorchProblem(**given)
        return net.at(net.initial(None)).gradient

    with pytest.raises(ValueError, match=message):
        ask()


def test_outputs_of_another_shape_are_refused_where_the_loss_needs_a_table():
    with pytest.raises(ValueError, match=r"needs outputs \(samples, k\)"):
        TorchProblem(nn.Conv2d(1, 2, 3).double(), SoftmaxCrossEntropy(), *images())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: small_convnet(image_shape=(1, 5, 4)), "must be even"),
        (lambda: small_convnet(activation="elu"), "unknown activation"),
        (lambda: mlp_module((3,)), "widths"),
        (lambda: mlp_module((3, 1), backend=get_backend("numpy")), "torch backend"),
    ],
)
def test_models_refuse_what_does_not_fit(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_models_are_seeded_and_leave_the_generator_alone():
    state = torch.random.get_rng_state()
    one, same, other = (flat_parameters(small_convnet(seed=seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_load_flat_writes_what_flat_parameters_reads():
    module = convnet()
    x = torch.arange(flat_parameters(module).shape[0], dtype=torch.float64)
    load_flat(module, x)
    assert torch.equal(flat_parameters(module), x)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_against_cpu():
    cuda = get_backend("torch", "float64", "cuda")
    here = problem()
    there = TorchProblem(convnet(backend=cuda), SoftmaxCrossEntropy(), *images(), backend=cuda)
    point, other = here.at(here.initial(None)), there.at(there.initial(None))
    (v,) = vectors(here.n, 1)
    assert_close(other.gradient.cpu(), point.gradient)
    assert_close(other.hvp(v.cuda()).cpu(), point.hvp(v))
    assert_close(other.ggnvp(v.cuda()).cpu(), point.ggnvp(v))
