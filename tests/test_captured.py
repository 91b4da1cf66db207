"""Captured programs: the code that a CUDA graph would hold, run without one, against the problem it was made from.

Oracle: the plain TorchProblem, step for step: places, counts and BatchNorm statistics. The tests marked gpu do the same
with real graphs. Precision: float64 on the same weights, and a route that compiles nothing.
"""

import copy
import warnings

import numpy as np
import pytest
import torch

from refimpl.arrays import get_backend
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.schedule import Scheduled, warmup_cosine
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.sophia import Sophia
from refimpl.oracle import Counts
from refimpl.problems.captured import CapturedProblem, CapturedStep
from refimpl.problems.image_problem import ImageProblem
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.models import mlp_module, small_convnet
from refimpl.problems.precision import agreement_in_float64, compiled_hvp, fast_math
from refimpl.problems.programs import buffers_kept
from refimpl.problems.torch_net import TorchProblem

HAS_CUDA = torch.cuda.is_available()
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")]),
]
SMALL = {"image_shape": (1, 4, 4), "channels": (2, 3), "classes": 3, "activation": "softplus"}


def network(device="cpu", kind="torch", dtype="float64", **options):
    backend = get_backend("torch", dtype, device)
    module = small_convnet(**SMALL, batch_norm=True, backend=backend)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 12)
    options = {"batch_size": 8, "backend": backend, **options}
    if kind == "images":
        pixels = rng.integers(0, 256, (12, 1, 4, 4)).astype(np.uint8)
        return ImageProblem(module, SoftmaxCrossEntropy(), pixels, labels, augment="crop-flip", **options)
    return TorchProblem(module, SoftmaxCrossEntropy(), rng.standard_normal((12, 1, 4, 4)), labels, **options)


def start(problem):
    return problem.initial(np.random.default_rng(2))


def sample_of(problem, seed=3):
    return problem.draw(np.random.default_rng(seed))


def walk(problem, method, steps):
    """Places, counts and statistics of a run."""
    rng, x = np.random.default_rng(1), start(problem)
    state, counts = method.init(x), Counts()
    for _ in range(steps):
        point = problem.at(x, problem.draw(rng))
        step = method.step(point, state)
        x, state, counts = step.x, step.state, counts + point.counts
    return x, counts, [buffer.clone() for buffer in problem.module.buffers()]


def assert_same(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


def tolerance(device):
    # On a GPU, sums are added in any order.
    return 0.0 if device == "cpu" else 1e-12


# -- the problem ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["torch", "images"])
@pytest.mark.parametrize("route", ["kept-graph", "forward-over-reverse"])
def test_everything_that_a_point_is_asked(kind, route, device):
    plain = network(device, kind, route=route)
    sample, x = sample_of(plain), start(plain)
    captured = CapturedProblem(network(device, kind, route=route), sample, capture=device == "cuda")
    here, there = captured.at(x, sample), plain.at(x, sample)
    v = torch.linspace(-1, 1, plain.n, dtype=x.dtype, device=x.device)
    u = torch.linspace(-1, 1, 24, dtype=x.dtype, device=x.device)
    questions = [
        lambda p: p.outputs, lambda p: p.loss, lambda p: p.output_gradient, lambda p: p.output_hvp(u),
        lambda p: p.vjp(u), lambda p: p.jvp(v), lambda p: p.ggnvp(v), lambda p: p.hvp(v), lambda p: p.gradient,
        lambda p: p.hvp(2 * v), lambda p: p.loss_at(x + 0.1 * v),
        lambda p: p.sampled_gradient(np.random.default_rng(5))[0],
    ]  # fmt: skip
    for ask in questions:
        assert_same([ask(here)], [ask(there)], tolerance(device))
    # The rows that are on the device already are those of the sample.
    assert_same([there.loss_at(x + 0.1 * v)], [plain.loss(x + 0.1 * v, sample)], tolerance(device))
    assert here.counts + Counts(loss=1) == there.counts
    assert_same(captured.module.buffers(), plain.module.buffers(), tolerance(device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "method",
    [CurveBall(), KryBall(dimension=3), LanczosSaddleFreeNewton(3), SeriesSaddleFreeNewton(5, 2), Adam(), Sophia()],
    ids=lambda method: method.name,
)
def test_runs_are_the_same(method, device):
    captured = network(device)
    captured = CapturedProblem(captured, sample_of(captured), capture=device == "cuda")
    found, expected = walk(captured, method, 7), walk(network(device), method, 7)
    assert_same([found[0]], [expected[0]], 1e6 * tolerance(device))
    assert found[1] == expected[1]
    assert_same(found[2], expected[2], 1e6 * tolerance(device))


@pytest.mark.parametrize("device", DEVICES)
def test_an_older_point_is_computed_again_and_its_statistics_do_not_move(device):
    plain, other = network(device), network(device)
    x = start(plain)
    samples = [sample_of(plain, seed) for seed in (3, 4)]
    captured = CapturedProblem(other, samples[0], capture=device == "cuda")
    pairs = [(captured.at(x + shift, s), plain.at(x + shift, s)) for shift, s in zip((0.0, 0.5), samples, strict=True)]
    for _ in range(2):
        for here, there in pairs:
            v = torch.ones_like(x)
            assert_same([here.hvp(v), here.gradient], [there.hvp(v), there.gradient], tolerance(device))
    assert_same(other.module.buffers(), plain.module.buffers(), tolerance(device))


def test_results_belong_to_the_caller():
    problem = network()
    captured = CapturedProblem(problem, sample_of(problem), capture=False)
    point = captured.at(start(problem), sample_of(problem))
    kept = [point.gradient, point.hvp(point.gradient), point.outputs, point.loss]
    copies = [value.clone() for value in kept]
    other = captured.at(start(problem) + 1.0, sample_of(problem, 4))
    _ = other.gradient, other.hvp(other.gradient), other.loss
    assert_same(kept, copies, 0.0)


def test_what_the_captured_problem_refuses():
    problem = network()
    sample = sample_of(problem)
    with pytest.raises(ValueError, match="capture=False"):
        CapturedProblem(problem, sample)
    with pytest.raises(ValueError, match="TorchProblem"):
        CapturedProblem(MLP((2, 1), np.ones((3, 2)), np.ones((3, 1))), capture=False)
    with pytest.raises(ValueError, match="hessian"):
        CapturedProblem(problem, sample, products=("hessian",), capture=False)
    captured = CapturedProblem(problem, sample, products=("hvp",), capture=False)
    point = captured.at(start(problem), sample)
    with pytest.raises(ValueError, match="jvp"):
        point.jvp(point.x)
    with pytest.raises(ValueError, match="have the size"):
        captured.at(start(problem), sample._replace(indices=sample.indices[:5]))
    assert captured.samples == 12
    with pytest.raises(AttributeError):
        _ = captured.nothing


# -- whole steps ------------------------------------------------------------------------------------------------------

FREE = {
    "descent": GradientDescent(0.1),
    "heavy-ball": HeavyBall(0.1),
    "curveball": CurveBall(),
    "curveball-7": CurveBall(adapt_every=7, curvature="hessian"),
    "curveball-fixed": CurveBall(0.1, 0.9, adapt_every=0),
    "series": SeriesSaddleFreeNewton.published(5, 2),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FREE)
def test_steps_are_the_same(name, device):
    method, problem = FREE[name], network(device)
    captured = CapturedStep(problem, method, start(problem), sample_of(problem), capture=device == "cuda")
    rng, plain = np.random.default_rng(1), network(device)
    x, counts = start(plain), Counts()
    state = method.init(x)
    for _ in range(16):
        sample = problem.draw(rng)
        taken, point = captured.step(sample), plain.at(x, sample)
        step = method.step(point, state)
        x, state, counts = step.x, step.state, counts + point.counts
        # The info belongs to this step, whatever the next one overwrites.
        for found, expected in [(taken.loss, point.loss), *zip(taken.info, step.info, strict=True)]:
            if isinstance(expected, torch.Tensor):
                torch.testing.assert_close(
                    found, expected, rtol=1e6 * tolerance(device), atol=1e6 * tolerance(device), equal_nan=True
                )
            else:
                assert found == expected
    assert_same([captured.x], [x], 1e6 * tolerance(device))
    assert captured.counts == counts
    assert_same(problem.module.buffers(), plain.module.buffers(), 1e6 * tolerance(device))


def test_state_goes_in_and_out():
    method, problem = CurveBall(), network()
    first = CapturedStep(problem, method, start(problem), sample_of(problem), capture=False)
    for seed in range(8):
        first.step(sample_of(problem, seed))
    other = network()
    other.module.load_state_dict(problem.module.state_dict())
    second = CapturedStep(other, method, first.x, sample_of(problem), first.state, capture=False)
    assert second.state.iteration == 8
    for seed in range(8, 14):
        first.step(sample_of(problem, seed))
        second.step(sample_of(problem, seed))
    assert_same([second.x, second.state.step], [first.x, first.state.step], 0.0)


def take(method, steps=1, cycle=None):
    problem = network()
    captured = CapturedStep(problem, method, start(problem), sample_of(problem), cycle=cycle, capture=False)
    for seed in range(steps):
        captured.step(sample_of(problem, seed))


@pytest.mark.parametrize(
    ("method", "place"),
    [
        (SeriesSaddleFreeNewton(5, 2), "curvature/series.py"),
        (LanczosSaddleFreeNewton(3), "_linalg_eigh"),
        (KryBall(dimension=3), "kryball.py"),
        (Sophia(interval=1), "array from the host"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_methods_that_wait_are_refused_by_name(method, place):
    with pytest.raises(ValueError, match="CapturedProblem") as refusal:
        take(method, 2)
    assert place in str(refusal.value)


@pytest.mark.parametrize(
    ("method", "cycle"),
    [(Adam(), None), (Scheduled(HeavyBall(0.1), warmup_cosine(10000)), None), (CurveBall(adapt_every=5), 4)],
    ids=["adam", "schedule", "wrong-cycle"],
)
def test_steps_that_depend_on_their_number_are_refused(method, cycle):
    with pytest.raises(ValueError, match="number of steps"):
        take(method, 6, cycle)


def test_refusals_leave_everything_as_it_was():
    problem = network()
    before = copy.deepcopy(problem.module.state_dict())
    method = LanczosSaddleFreeNewton(3)
    captured = CapturedStep(problem, method, start(problem), sample_of(problem), capture=False)
    with pytest.raises(ValueError, match="waits"):
        captured.step(sample_of(problem))
    assert_same([captured.x], [start(problem)], 0.0)
    assert_same(problem.module.state_dict().values(), before.values(), 0.0)


def test_a_cycle_is_taken_from_the_method_and_from_the_one_inside():
    problem = network()

    def cycle(method):
        return CapturedStep(problem, method, start(problem), sample_of(problem), capture=False).cycle

    assert cycle(HeavyBall(0.1)) == 1
    assert cycle(CurveBall(adapt_every=0)) == 1
    assert cycle(CurveBall(adapt_every=6)) == 6
    assert cycle(FOSI(Sophia(interval=4), interval=6)) == 12
    with pytest.raises(ValueError, match="cycle"):
        CapturedStep(problem, HeavyBall(0.1), start(problem), sample_of(problem), cycle=0, capture=False)
    with pytest.raises(ValueError, match="capture=False"):
        CapturedStep(problem, HeavyBall(0.1), start(problem), sample_of(problem))


# -- precision and compiled products ----------------------------------------------------------------------------------


def test_agreement_sees_single_precision_and_moves_nothing():
    problem = network(dtype="float32")
    before = copy.deepcopy(problem.module.state_dict())
    found = agreement_in_float64(problem, start(problem), sample_of(problem))
    assert 1e-9 < found.gradient < 1e-5
    assert 1e-9 < found.hvp < 1e-5
    assert_same(problem.module.state_dict().values(), before.values(), 0.0)
    double = network()
    assert max(agreement_in_float64(double, start(double), sample_of(double))) == 0.0


def test_agreement_sees_a_wrong_product():
    problem = network()
    x, sample = start(problem), sample_of(problem)
    assert agreement_in_float64(problem, x, sample, hvp=lambda x, s, v: 1.5 * problem.at(x, s).hvp(v)).hvp == (
        pytest.approx(0.5)
    )


def test_pictures_are_the_same_in_both_precisions():
    problem = network(kind="images", dtype="float32")
    found = agreement_in_float64(problem, start(problem), sample_of(problem))
    assert max(found) < 1e-5


@pytest.mark.parametrize("route", ["vjp", "jvp"])
def test_compiled_products(route):
    backend = get_backend("torch")
    module = mlp_module((2, 3, 1), activation="tanh", backend=backend)
    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((5, 2)), rng.standard_normal((5, 1))
    problem = TorchProblem(module, HalfMeanSquaredError(), inputs, targets)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Dynamo detected")
        found = agreement_in_float64(problem, start(problem), hvp=compiled_hvp(problem, route=route, backend="eager"))
    assert max(found) < 1e-12


def test_compiled_products_refuse_an_unknown_route():
    with pytest.raises(ValueError, match="vjp"):
        compiled_hvp(network(), route="hessian")


def settings():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    if hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision"):
        return matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.benchmark
    return matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark


def test_fast_math_sets_and_puts_back():
    problem = network()
    before, sample = settings(), sample_of(problem)
    with fast_math(problem, channels_last=True):
        inside = settings()
        inputs, _ = problem._rows(sample)
        assert inputs.is_contiguous(memory_format=torch.channels_last)
        assert max(agreement_in_float64(problem, start(problem), sample)) < 1e-12
    assert inside in (("tf32", "tf32", True), (True, True, True))
    with fast_math(tf32=False):
        assert settings() in (("ieee", "ieee", True), (False, False, True))
    with pytest.raises(RuntimeError, match="stop"), fast_math(problem, channels_last=True):
        raise RuntimeError("stop")
    assert settings() == before
    assert "_rows" not in problem.__dict__


def test_fast_math_refuses_channels_without_pictures():
    with pytest.raises(ValueError, match="channels"), fast_math(channels_last=True):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_CUDA, reason="needs a CUDA device")
def test_tf32_keeps_three_digits():
    problem = network("cuda", dtype="float32")
    with fast_math(tf32=True):
        assert max(agreement_in_float64(problem, start(problem), sample_of(problem))) < 2e-2
    with fast_math(tf32=False):
        assert max(agreement_in_float64(problem, start(problem), sample_of(problem))) < 1e-5


def test_an_older_place_on_the_same_module_stays_good():
    module = small_convnet(batch_norm=True, activation="softplus").double()
    rng = np.random.default_rng(0)
    problem = TorchProblem(module, SoftmaxCrossEntropy(), rng.standard_normal((8, 1, 8, 8)), np.arange(8) % 10)
    x = problem.initial(rng)
    point = problem.at(x)
    expected = point.hvp(x)
    with buffers_kept(module):
        problem.at(x).hvp(x)
    torch.testing.assert_close(point.hvp(x), expected, rtol=1e-12, atol=0)
