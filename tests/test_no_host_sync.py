"""What a step reads back to the host, counted: a number in a table for every method, zero where nothing has to be.

Oracle: what Torch documents as synchronizing, applied to calls written out here; then a table of counts that follow
from the algorithms (one number per term, per trial …). With a GPU, CUDA's own count must agree about zero.
"""

import dataclasses

import numpy as np
import pytest
import torch

from refimpl.arrays import get_backend
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.optimizers.sophia import Sophia
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.problems.host_reads import host_reads
from refimpl.problems.image_problem import ImageProblem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.models import small_convnet
from refimpl.problems.torch_net import TorchProblem

DEVICES = [
    "cpu",
    pytest.param(
        "cuda",
        marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
    ),
]


def network(kind="torch", device="cpu", activation="softplus"):
    backend = get_backend("torch", "float64", device)
    module = small_convnet(
        image_shape=(1, 4, 4), channels=(2, 3), classes=3, activation=activation, batch_norm=True, backend=backend
    )
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 12)
    if kind == "images":
        pixels = rng.integers(0, 256, (12, 1, 4, 4)).astype(np.uint8)
        return ImageProblem(
            module, SoftmaxCrossEntropy(), pixels, labels, batch_size=8, augment="crop-flip", backend=backend
        )
    inputs = rng.standard_normal((12, 1, 4, 4))
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, batch_size=8, backend=backend)


def in_step(problem, method, warm=3):
    """Reads and uploads inside the last of ``warm`` + 1 steps."""
    rng = np.random.default_rng(1)
    x = problem.initial(np.random.default_rng(2))
    state = method.init(x)
    for _ in range(warm):
        step = method.step(problem.at(x, problem.draw(rng)), state)
        x, state = step.x, step.state
    point = problem.at(x, problem.draw(rng))
    return host_reads(lambda: method.step(point, state))


def operations(function):
    found = host_reads(function)
    return [wait.operation for wait in found.reads], [wait.operation for wait in found.uploads]


# -- the checker ------------------------------------------------------------------------------------------------------

ONES = torch.eye(3)
READING = {
    "float": lambda: float(ONES.sum()),
    "bool": lambda: bool(ONES.any()),
    "item": lambda: ONES[0, 0].item(),
    "if": lambda: 1 if ONES[0, 0] > 0 else 0,
    "tolist": lambda: ONES.tolist(),
    "numpy": lambda: ONES.numpy(),
    "asarray": lambda: np.asarray(ONES),
    "cpu": lambda: ONES.cpu().numpy(),
    "to-cpu": lambda: ONES.to("cpu"),
    "nonzero": lambda: torch.nonzero(ONES),
    "where-one": lambda: torch.where(ONES > 0),
    "mask": lambda: ONES[ONES > 0],
    "masked_select": lambda: torch.masked_select(ONES, ONES > 0),
    "equal": lambda: torch.equal(ONES, ONES),
    "allclose": lambda: torch.allclose(ONES, ONES),
    "unique": lambda: torch.unique(ONES),
    "eigh": lambda: torch.linalg.eigh(ONES),
    "svd": lambda: torch.linalg.svd(ONES),
    "solve": lambda: torch.linalg.solve(ONES, ONES),
    "cholesky": lambda: torch.linalg.cholesky(ONES),
}
QUIET = {
    "arithmetic": lambda: (ONES @ ONES).sum() / 3.0,
    "where": lambda: torch.where(ONES > 0, 1.0, ONES),
    "index": lambda: ONES[0, :2],
    "store": lambda: ONES.clone().__setitem__((0, 0), 2.0),
    "fill-mask": lambda: ONES.clone().__setitem__(ONES > 5, 2.0),
    "select": lambda: ONES.index_select(0, torch.arange(2)),
    "full": lambda: torch.full((3,), 2.0),
    "shape": lambda: ONES.shape[0] * ONES.ndim,
}
SENDING = {
    "tensor": lambda: torch.tensor([1.0]),
    "asarray": lambda: torch.asarray(np.ones(2)),
    "from_numpy": lambda: torch.from_numpy(np.ones(2)),
    "list-index": lambda: ONES[[0, 1]],
}


@pytest.mark.parametrize("name", READING)
def test_what_waits_is_seen_once(name):
    reads, _ = operations(READING[name])
    assert len(reads) == 1


def test_a_copy_on_the_host_is_read_freely_and_the_tensor_itself_is_not():
    def twice():
        here = ONES.cpu()
        return here.numpy(), here.tolist(), ONES.numpy()

    assert operations(twice)[0] == ["copy to the host", "numpy"]


@pytest.mark.parametrize("name", QUIET)
def test_what_does_not_wait_is_not_seen(name):
    assert operations(QUIET[name]) == ([], [])


@pytest.mark.parametrize("name", SENDING)
def test_what_the_host_sends_is_seen(name):
    reads, uploads = operations(SENDING[name])
    assert (reads, len(uploads)) == ([], 1)


def test_places_and_result():
    problem = network()
    point = problem.at(problem.initial(np.random.default_rng(2)))
    found = host_reads(point.is_finite)
    assert found.result is True
    assert [wait.place.split(":")[0] for wait in found.reads] == ["arrays.py"]
    here = host_reads(lambda: float(ONES[0, 0])).reads[0]
    assert str(here).startswith("_local_scalar_dense (test_no_host_sync.py:")
    assert found.synchronizations is None or torch.cuda.is_available()


# -- what a Point is asked for ----------------------------------------------------------------------------------------

QUANTITIES = {
    "loss": lambda point: point.loss,
    "gradient": lambda point: point.gradient,
    "hvp": lambda point: point.hvp(torch.ones_like(point.x)),
    "ggnvp": lambda point: point.ggnvp(torch.ones_like(point.x)),
    "loss_at": lambda point: point.loss_at(point.x + 0.1),
    "kfac-outputs": lambda point: point.output_gradient,
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["torch", "images"])
@pytest.mark.parametrize("name", QUANTITIES)
def test_a_point_waits_for_nothing(name, kind, device):
    problem = network(kind, device)
    rng = np.random.default_rng(3)
    x = problem.initial(rng)
    QUANTITIES[name](problem.at(x, problem.draw(rng)))
    point = problem.at(x, problem.draw(rng))
    found = host_reads(lambda: QUANTITIES[name](point))
    assert (found.reads, found.uploads) == ((), ())
    assert not found.synchronizations


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["torch", "images"])
def test_making_a_point_sends_the_minibatch_and_reads_nothing(kind, device):
    problem = network(kind, device)
    rng = np.random.default_rng(3)
    x, sample = problem.initial(rng), problem.draw(rng)
    problem.at(x, sample)
    found = host_reads(lambda: problem.at(x, sample))
    assert found.reads == ()
    assert len(found.uploads) <= 2
    assert not found.synchronizations


# -- the table --------------------------------------------------------------------------------------------------------

K = 5
FREE = {
    "gradient-descent": GradientDescent(0.1),
    "heavy-ball": HeavyBall(0.1),
    "nesterov": Nesterov(0.1),
    "adam": Adam(),
    "adamw": AdamW(),
    "curveball": CurveBall(adapt_every=1),
    "curveball-hessian": CurveBall(adapt_every=1, curvature="hessian"),
    "curveball-fixed": CurveBall(0.1, 0.9, adapt_every=0),
    "series-published": SeriesSaddleFreeNewton.published(K, 2),
    "series-released": SeriesSaddleFreeNewton.released(K, 2, damping=0.1),
    "adaptive-series-released": AdaptiveSeriesSaddleFreeNewton.released(K, 0.1),
    "sophia": Sophia(interval=1),
    "sophia-hutchinson": Sophia(interval=1, estimator="hutchinson"),
    "amos": AMOS(threshold=1.0, interval=1, offload_rate=0.1),
    "amos-certificate": AMOS(threshold="certificate", interval=1, offload_rate=0.1),
    "fosi-between": FOSI(HeavyBall(0.1), interval=100),
}
SENDS = {"sophia", "sophia-hutchinson", "amos", "amos-certificate"}
"""Targets or signs that NumPy's generator draws: one array, which does not wait."""
READS = {
    # The guard: one number for each term after the first.
    "series": (SeriesSaddleFreeNewton(K, 2), K - 1),
    "series-no-guard": (SeriesSaddleFreeNewton(K, 2, guard=False), 0),
    "series-lanczos-scale": (SeriesSaddleFreeNewton(K, guard=False, scale_rule="lanczos"), 1),
    "adaptive-series": (AdaptiveSeriesSaddleFreeNewton(K, 0.1), K - 1),
    # One eigendecomposition, which tells the host whether it succeeded.
    "lanczos-sfn": (LanczosSaddleFreeNewton(K), 1),
    # Finite? |g|. The coefficients of the Krylov space. Whether the momentum is finite, two numbers for its direction,
    # its images; |g| once more for the escape; the gradient's coordinates; loss, trial loss and, for the least radius,
    # |x|.
    "kryball": (KryBall(dimension=K, gain=0.0, retries=0), 12),
    # Two finite checks, whether there is momentum, two losses, the coefficients, |s|, the trial loss, |x|; no retry.
    "stochastic-kryball": (StochasticKryBall(retries=0), 8),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FREE)
def test_steps_that_wait_for_nothing(name, device):
    found = in_step(network(device=device), FREE[name])
    assert found.reads == ()
    assert len(found.uploads) == (name in SENDS)
    assert not found.synchronizations


@pytest.mark.parametrize("name", READS)
def test_steps_that_decide_on_the_host(name):
    method, expected = READS[name]
    found = in_step(network(), method)
    assert len(found.reads) == expected, [str(wait) for wait in found.reads]


def test_growing_the_krylov_space_costs_one_read_per_product():
    # With a gain that is never reached every product is looked at, and the space is read once more in the end.
    problem = network()
    fixed = in_step(problem, dataclasses.replace(READS["kryball"][0], dimension=K))
    grown = in_step(problem, dataclasses.replace(READS["kryball"][0], dimension=K, gain=1e-12))
    assert len(grown.reads) == len(fixed.reads) + K
