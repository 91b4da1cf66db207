"""What a closure's Point answers, against dense derivatives by Torch; that a trial leaves no trace; that a
step that fails leaves everything as it was."""

# ruff: noqa: E402  (imports stand below the skip)

import copy
import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="refimpl.torch_optim needs Torch: pip install 'refimpl[torch]'")

from torch import nn
from torch.nn import functional
from torch_optim_cases import IDS, LOSSES, WRAPPED, Training

from refimpl import Counts, get_backend, torch_optim
from refimpl.optimizers.base import Step
from refimpl.problems.closure import ClosureProblem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.models import flat_parameters, small_convnet
from refimpl.problems.sampling import Minibatch
from refimpl.problems.torch_net import TorchProblem

# -- products of a closure ------------------------------------------------------------------------------------------


class Asking:
    """A method that stays where it is and remembers what it was told."""

    name = "asking"

    def __init__(self, ask):
        self.ask = ask

    def init(self, x):
        return None

    def step(self, point, state):
        self.answer = self.ask(point)
        return Step(point.x, None, None)


def answers(parameters, closure, ask, **options):
    """What a method would be told at the parameters."""
    method = Asking(ask)
    torch_optim.MethodOptimizer(parameters, method, **options).step(closure)
    return method.answer


def rows_by_products(point):
    """Jacobian by jvp and by vjp, curvature of the loss, Gauss–Newton matrix, Hessian: all dense."""
    n, o = point.problem.n, len(point.outputs)
    eye_n, eye_o = torch.eye(n, dtype=point.x.dtype), torch.eye(o, dtype=point.x.dtype)
    return (
        torch.stack([point.jvp(v) for v in eye_n], 1),
        torch.stack([point.vjp(u) for u in eye_o]),
        torch.stack([point.output_hvp(u) for u in eye_o]),
        torch.stack([point.ggnvp(v) for v in eye_n]),
        point.hessian(),
        point.output_gradient,
        point.gradient,
    )


def test_products_against_dense_derivatives_for_outputs_of_any_shape():
    a, b, c = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.3, -0.8], [[1.1], [0.4]], 0.5))
    idle = torch.ones(2, dtype=torch.float64, requires_grad=True)

    def model(a, b, c):
        return torch.stack([torch.outer(a, b[:, 0]), torch.sin(c * b) * a])  # (2, 2, 2)

    def loss_of(phi):
        return torch.logsumexp(phi.reshape(-1), 0) + (phi[0] ** 4).sum()

    def closure():
        phi = model(a, b, c)
        return loss_of(phi), phi

    by_jvp, by_vjp, inner, gauss_newton, hessian, slope, gradient = answers([a, b, idle, c], closure, rows_by_products)

    def flat(x):
        return model(x[:2], x[2:4].reshape(2, 1), x[6]).reshape(-1)

    x = torch.cat([a.detach(), b.detach().reshape(-1), torch.ones(2, dtype=torch.float64), c.detach().reshape(1)])
    jacobian = torch.autograd.functional.jacobian(flat, x)
    outer = torch.autograd.functional.hessian(lambda phi: loss_of(phi.reshape(2, 2, 2)), flat(x))
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(by_jvp, jacobian, **close)
    torch.testing.assert_close(by_vjp, jacobian, **close)
    torch.testing.assert_close(inner, outer, **close)
    torch.testing.assert_close(gauss_newton, jacobian.T @ outer @ jacobian, **close)
    dense = torch.autograd.functional.hessian(lambda x: loss_of(flat(x).reshape(2, 2, 2)), x)
    torch.testing.assert_close(hessian, dense, **close)
    torch.testing.assert_close(gradient, jacobian.T @ slope, **close)
    assert not gradient[4:6].any()
    assert not hessian[4:6].any()


def test_a_loss_without_curvature_has_zero_products():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    weights = torch.tensor([3.0, -1.0])

    def closure():
        phi = 2 * x
        return (weights * phi).sum(), phi

    v = torch.ones(2)
    found = answers([x], closure, lambda p: (p.gradient, p.hvp(v), p.output_hvp(v), p.jvp(v), p.ggnvp(v)))
    assert [tensor.tolist() for tensor in found] == [[6, -2], [0, 0], [0, 0], [2, 2], [0, 0]]


@pytest.mark.parametrize("hessian", [True, False])
def test_the_first_product_makes_the_graph_where_none_was_made(hessian):
    training = Training()
    problem = ClosureProblem(training.closure(0), list(training.model.parameters()), hessian=hessian)
    expected = TorchProblem(copy.deepcopy(training.model), LOSSES["mse"], training.inputs, training.targets)
    x = problem.initial(None)
    v = torch.ones_like(x)
    point, other = problem.at(x), expected.at(x, Minibatch(training.batches[0]))
    for _ in range(2):
        torch.testing.assert_close(point.gradient, other.gradient)
        torch.testing.assert_close(point.hvp(v), other.hvp(v))
    assert not point.gradient.requires_grad


@pytest.mark.parametrize("name", ["Adam", "LevenbergMarquardt", "CurveBall", "HessianFree", "KFAC", "Newton"])
def test_the_gradient_has_a_graph_only_for_methods_with_hessian_products(name, monkeypatch):
    made, grad = [], torch.autograd.grad

    def watching(values, *arguments, **options):
        if getattr(values, "ndim", 1) == 0:  # the loss, and nothing else, is a scalar here
            made.append((options.get("create_graph", False), len(arguments[0]) if arguments else 0))
        return grad(values, *arguments, **options)

    training = Training()
    optimizer = WRAPPED[IDS.index(name)].make(training.model)
    monkeypatch.setattr(torch.autograd, "grad", watching)
    training.run(optimizer, [0])
    by_parameters = [graph for graph, inputs in made if inputs == 4]
    assert by_parameters == {"Newton": [True], "CurveBall": []}.get(name, [False])


def test_a_point_that_was_left_does_not_answer_for_another_place():
    training = Training()
    problem = ClosureProblem(training.closure(0), list(training.model.parameters()))
    x = problem.initial(None)
    point = problem.at(x)
    v, gradient = torch.ones_like(x), point.gradient
    other = problem.at(x + 1)
    assert not torch.equal(other.gradient, gradient)
    assert torch.equal(problem.initial(None), x + 1)
    with pytest.raises(RuntimeError, match="inplace"):
        point.hvp(v)


@pytest.mark.parametrize("loss", LOSSES)
def test_kronecker_factors_against_the_torch_problem(loss):
    training = Training(loss)
    rows = Minibatch(training.batches[0])
    problem = TorchProblem(copy.deepcopy(training.model), LOSSES[loss], training.inputs, training.targets)
    point = problem.at(problem.initial(None), rows)
    # The parameters in another order than the module has them.
    parameters = [*training.model.parameters()][::-1]

    def ask(here):
        v = torch.arange(here.problem.n, dtype=torch.float64)
        layers = here.problem.to_layers(here.gradient)
        return here.kronecker_factors(), layers, torch.equal(here.problem.from_layers(here.problem.to_layers(v)), v)

    factors, layers, inverse = answers(parameters, training.closure(0), ask, module=training.model)
    assert inverse
    for found, expected in zip(factors, point.kronecker_factors(), strict=True):
        torch.testing.assert_close(found.inputs, expected.inputs)
        torch.testing.assert_close(found.outputs, expected.outputs)
    torch.testing.assert_close(layers, problem.to_layers(point.gradient))


def test_the_graph_dies_with_the_step():
    training = Training()
    optimizer = WRAPPED[IDS.index("HessianFree")].make(training.model)
    seen = []

    def closure():
        loss, outputs = training.closure(0)()
        seen.append(weakref.ref(outputs))
        return loss, outputs

    gc.collect()
    gc.disable()  # counting references must be enough: no cycle may hold the graph
    try:
        for _ in range(3):
            optimizer.step(closure)
        assert len(seen) >= 3
        assert all(one() is None for one in seen)
    finally:
        gc.enable()


# -- trials ---------------------------------------------------------------------------------------------------------


def convnet():
    rng = np.random.default_rng(7)
    model = small_convnet(
        image_shape=(1, 4, 4), channels=(2, 3), classes=3, batch_norm=True, backend=get_backend("torch")
    )
    inputs, labels = torch.from_numpy(rng.standard_normal((8, 1, 4, 4))), torch.from_numpy(rng.integers(0, 3, 8))

    def closure():
        outputs = model(inputs)
        return functional.cross_entropy(outputs, labels), outputs

    return model, closure, (inputs, labels)


@pytest.mark.parametrize(
    ("make", "trials"),
    [
        (lambda m: torch_optim.CurveBall(m.parameters(), adapt_every=1, buffers=m.buffers()), 1),
        (lambda m: torch_optim.LanczosSaddleFreeNewton(m.parameters(), products=3, buffers=m.buffers()), 1),
        (lambda m: torch_optim.Adam(m.parameters()), 0),
    ],
    ids=["curveball", "lanczos", "adam"],
)
def test_statistics_advance_once_per_step(make, trials):
    model, closure, (inputs, labels) = convnet()
    twin = copy.deepcopy(model)
    calls = []
    problem = TorchProblem(twin, SoftmaxCrossEntropy(), inputs, labels)
    optimizer = make(model)
    method, x = optimizer.method, problem.initial(None)
    state = method.init(x)
    for step in range(4):
        optimizer.step(lambda: (calls.append(torch.is_grad_enabled()), closure())[1])
        x, state, _ = method.step(problem.at(x), state)
        assert int(model[1].num_batches_tracked) == step + 1
        torch.testing.assert_close(list(model.buffers()), list(twin.buffers()), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(flat_parameters(model), x, rtol=1e-7, atol=1e-8)
    assert calls == 4 * ([True] + trials * [False])


def test_statistics_advance_at_trials_too_where_buffers_are_not_given():
    model, closure, _ = convnet()
    torch_optim.CurveBall(model.parameters(), adapt_every=1).step(closure)
    assert int(model[1].num_batches_tracked) == 2


def test_products_after_a_trial_are_those_from_before():
    model, closure, _ = convnet()

    def ask(point):
        v = torch.ones_like(point.x)
        before = [point.hvp(v), point.ggnvp(v)]
        other = point.loss_at(point.x + 0.1)
        assert point.loss_at(point.x) == point.loss != other
        return before, [point.hvp(v), point.ggnvp(v)]

    before, after = answers(model.parameters(), closure, ask, buffers=model.buffers())
    torch.testing.assert_close(before, after, rtol=0, atol=0)


def test_a_trial_leaves_no_trace_and_sees_its_place():
    model, closure, _ = convnet()
    kept, places = [], []

    def ask(point):
        tensors = [*model.parameters(), *model.buffers()]
        addresses, values = [t.data_ptr() for t in tensors], [t.detach().clone() for t in tensors]
        generator = torch.get_rng_state()
        x_trial = point.x + 0.5
        point.loss_at(x_trial)
        kept.append(torch.equal(x_trial, point.x + 0.5))
        kept.append(addresses == [t.data_ptr() for t in tensors])
        kept.append(all(torch.equal(a, b) for a, b in zip(values, tensors, strict=True)))
        kept.append(torch.equal(generator, torch.get_rng_state()))
        return point.x

    def watching():
        places.append(flat_parameters(model))
        torch.rand(3)
        found = closure()
        if not torch.is_grad_enabled():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()  # as a closure that clips weights would
        return found

    x = answers(model.parameters(), watching, ask, buffers=model.buffers())
    assert kept == 4 * [True]
    assert torch.equal(places[0], x)
    assert torch.equal(places[1], x + 0.5)


def test_dropout_is_the_same_in_every_trial_and_another_in_the_next_step():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 30), nn.Dropout(0.5), nn.Linear(30, 1)).double()
    inputs = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 3)))
    found = []

    def ask(point):
        found.extend([point.loss, point.loss_at(point.x), point.loss_at(point.x)])

    def closure():
        return (model(inputs) ** 2).mean()

    torch.manual_seed(5)
    for _ in range(2):
        answers(model.parameters(), closure, ask)
    assert found[0] == found[1] == found[2]
    assert found[3] == found[4] == found[5] != found[0]
    # The generator has advanced by one call per step, as in a training loop without trials.
    state = torch.get_rng_state()
    torch.manual_seed(5)
    closure(), closure()
    assert torch.equal(torch.get_rng_state(), state)


def test_a_sample_is_the_state_of_the_generators():
    x, graphs = torch.ones(4, requires_grad=True), []

    def closure():
        graphs.append(torch.is_grad_enabled())
        return (torch.rand(4) * x).sum()

    problem = ClosureProblem(closure, [x])
    sample, place = problem.draw(), problem.initial(None)
    first = problem.at(place, sample)
    torch.rand(1)
    before = torch.get_rng_state()
    assert first.loss_at(place) == first.loss == problem.loss(place, sample)
    assert problem.loss(place) != first.loss
    assert torch.equal(torch.get_rng_state(), before)
    assert graphs == [True, False, False, False]
    assert problem.at(place, sample).loss == first.loss
    assert problem.at(place).loss != first.loss


def test_a_closure_that_differentiates_inside():
    # A network that solves y' = -y: the loss holds a derivative of the model in its inputs.
    model = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1)).double()
    torch.manual_seed(0)
    grid = torch.linspace(0, 1, 9, dtype=torch.float64)[:, None]

    def closure():
        t = grid.clone().requires_grad_(True)
        with torch.enable_grad():
            y = model(t)
            (rate,) = torch.autograd.grad(y.sum(), t, create_graph=True)
        return ((rate + y) ** 2).mean() + (y[0] - 1).square().sum()

    optimizer = torch_optim.LanczosSaddleFreeNewton(model.parameters(), products=15, initial_damping=0.1)
    losses = [float(optimizer.step(closure)) for _ in range(40)]
    assert losses[-1] < 1e-3 * losses[0]
    np.testing.assert_allclose(model(grid).detach(), torch.exp(-grid), atol=0.05)


# -- failures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing_call", [1, 2], ids=["first call", "trial"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_everything_as_it_was(failing_call, error):
    model, closure, _ = convnet()
    optimizer = torch_optim.CurveBall(model.parameters(), adapt_every=1, buffers=model.buffers())
    optimizer.step(closure)
    before, progress = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    generator, info, calls = torch.get_rng_state(), optimizer.last_info, []

    def failing():
        calls.append(0)
        torch.rand(2)
        found = closure()
        if len(calls) == failing_call:
            with torch.no_grad():
                model[0].weight.add_(1.0)  # a closure that meddles
            raise error("no")
        return found

    with pytest.raises(error):
        optimizer.step(failing)
    assert len(calls) == failing_call
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert optimizer.last_info is info
    assert str(optimizer.state_dict()) == str(progress)
    optimizer.step(closure)


def test_a_method_that_raises_leaves_the_parameters():
    training = Training()
    optimizer = WRAPPED[IDS.index("LevenbergMarquardt")].make(training.model)
    start = training.x
    with pytest.raises(ValueError, match="convex function of outputs"):
        optimizer.step(training.closure(0, outputs=False))
    np.testing.assert_array_equal(training.x, start)
    assert optimizer.counts == Counts()


@pytest.mark.parametrize("one", [one for one in WRAPPED if one.outputs], ids=lambda one: one.name)
def test_methods_that_need_outputs_say_so(one):
    training = Training()
    optimizer = one.make(training.model)
    with pytest.raises(ValueError, match=r"outputs|layers"):
        optimizer.step(training.closure(0, outputs=False))


def test_a_step_to_a_place_that_is_not_finite_is_written():
    x = torch.tensor([1.0], requires_grad=True)
    torch_optim.GradientDescent([x], learning_rate=1.0).step(lambda: (x * torch.inf).sum())
    assert not torch.isfinite(x).any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_against_cpu_and_its_generator_in_a_trial():
    model, closure, (inputs, labels) = convnet()
    twin = copy.deepcopy(model).cuda()
    there = (inputs.cuda(), labels.cuda())

    def on_cuda():
        outputs = twin(there[0])
        return functional.cross_entropy(outputs, there[1]), outputs

    for one, ask in ((model, closure), (twin, on_cuda)):
        optimizer = torch_optim.CurveBall(one.parameters(), adapt_every=1, buffers=one.buffers())
        for _ in range(4):
            optimizer.step(ask)
    torch.testing.assert_close(flat_parameters(twin).cpu(), flat_parameters(model), rtol=1e-6, atol=1e-8)
    found = []

    def dropped():
        return functional.dropout(twin(there[0]), 0.5).square().mean()

    for _ in range(2):
        answers(twin.parameters(), dropped, lambda p: found.extend([p.loss, p.loss_at(p.x)]), buffers=twin.buffers())
    torch.testing.assert_close(found[0], found[1])
    assert abs(found[2] - found[0]) > 1e-6
