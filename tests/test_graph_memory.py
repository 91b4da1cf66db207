"""Bytes that derivatives keep: closed forms for a small network, and the ratios of a ResNet with BatchNorm.

Oracle: for a perceptron with one hidden layer, what automatic differentiation must keep, counted by hand; for the peak,
tensors of known size. The ratios of the ResNet are those measured by the process (2.6 and 3.6 to 4.1 gradients).
"""

import numpy as np
import pytest
import torch

from refimpl.arrays import get_backend
from refimpl.problems.graph_memory import peak_bytes, products_at, saved_bytes
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.models import mlp_module
from refimpl.problems.resnet import resnet18
from refimpl.problems.torch_net import TorchProblem


def perceptron(samples, hidden, outputs, dtype="float64"):
    module = mlp_module((5, hidden, outputs), activation="tanh", backend=get_backend("torch", dtype))
    rng = np.random.default_rng(0)
    return TorchProblem(
        module, HalfMeanSquaredError(), rng.standard_normal((samples, 5)), rng.standard_normal((samples, outputs))
    )


def residual(samples, route="kept-graph", batch_norm=True):
    module = resnet18(
        width=8, image_shape=(3, 16, 16), activation="softplus", batch_norm=batch_norm,
        backend=get_backend("torch", "float32"),
    )  # fmt: skip
    rng = np.random.default_rng(0)
    inputs, labels = rng.standard_normal((samples, 3, 16, 16)), rng.integers(0, 10, samples)
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, route=route)


@pytest.mark.parametrize(("samples", "hidden", "outputs"), [(11, 7, 3), (4, 9, 2)])
@pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float32", 4)])
def test_perceptron_against_a_count_by_hand(samples, hidden, outputs, dtype, size):
    problem = perceptron(samples, hidden, outputs, dtype)
    x = problem.initial(None)
    # Forward: h for the second layer and for tanh (one piece of memory), p - t and (p - t)/2 for their product.
    forward = samples * (hidden + 2 * outputs)
    assert saved_bytes(problem, x) == size * forward
    # Backward: the number 1/B that is spread over the batch, dL/dp for the second layer, dL/dh for tanh.
    backward = 1 + samples * (outputs + hidden)
    assert saved_bytes(problem, x, what="kept-graph") == size * (forward + backward)


def test_minibatch_decides_and_statistics_stay():
    problem = residual(8)
    x, before = problem.initial(None), [buffer.clone() for buffer in problem.module.buffers()]
    small = TorchProblem(problem.module, SoftmaxCrossEntropy(), problem.inputs, problem.targets, batch_size=4)
    sample = small.draw(np.random.default_rng(0))
    whole, half = saved_bytes(problem, x), saved_bytes(small, x, sample)
    assert 0.49 < half / whole < 0.52  # all but the means and deviations of BatchNorm grows with the batch
    assert all(torch.equal(a, b) for a, b in zip(problem.module.buffers(), before, strict=True))
    with pytest.raises(ValueError, match="kept-graph"):
        saved_bytes(problem, x, what="everything")


def test_kept_graph_of_a_residual_network_is_twice_the_gradient():
    problem = residual(8)
    x = problem.initial(None)
    ratio = saved_bytes(problem, x, what="kept-graph") / saved_bytes(problem, x)
    assert 1.9 < ratio < 2.6


def test_peak_of_known_tensors():
    def chain():
        a = torch.zeros(1000)  # 4000
        b = a + 1  # 8000
        del a
        c = b.view(10, 100)  # no memory of its own
        return torch.cat([c, c])  # 12000

    assert peak_bytes(chain) == 12000
    assert peak_bytes(chain) == 12000
    there = torch.zeros(1000)
    assert peak_bytes(lambda: there.add_(1).view(10, 100)) == 0
    assert peak_bytes(lambda: None) == 0


def test_peaks_of_a_residual_network():
    plain, kept = residual(8, "forward-over-reverse"), residual(8)
    x = kept.initial(None)
    gradient = peak_bytes(products_at(plain, x, count=0))
    product, three = (peak_bytes(products_at(kept, x, count=count)) for count in (1, 3))
    forward = peak_bytes(products_at(plain, x, count=1))
    assert 1.5 < product / gradient < three / gradient < 3.0
    assert three - product < 4 * 4 * kept.n  # products beyond the first cost their results alone
    assert 3.0 < forward / gradient < 4.5
