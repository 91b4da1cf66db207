"""Losses against Torch's own losses and autograd (a second library that shares no line with ours), at ordinary and
at extreme logits, and the refusal of targets that do not fit."""

import numpy as np
import pytest
import torch
from network_cases import LOSSES, targets_for
from torch.nn import functional

from refimpl.arrays import get_backend, to_numpy
from refimpl.problems.losses import (
    BinaryCrossEntropy,
    HalfMeanSquaredError,
    SoftmaxCrossEntropy,
    TokenCrossEntropy,
    sigmoid,
    softplus,
)
from refimpl.problems.sampling import integers

SAMPLES, WIDTH = 6, 4
IDS = [loss.name for loss in LOSSES]
over_losses = pytest.mark.parametrize("loss", LOSSES, ids=IDS)


def torch_loss(loss, outputs, targets):
    """The same loss from torch.nn.functional, with the sum over outputs and the mean over samples."""
    if isinstance(loss, HalfMeanSquaredError):
        return functional.mse_loss(outputs, targets, reduction="sum") / (2 * len(outputs))
    if isinstance(loss, SoftmaxCrossEntropy):
        return functional.cross_entropy(outputs, targets)
    return functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum") / len(outputs)


def on(backend, loss, scale=1.0):
    outputs = scale * np.random.default_rng(1).standard_normal((SAMPLES, WIDTH))
    targets = targets_for(loss, SAMPLES, WIDTH)
    convert = integers if loss.integer_targets else type(backend).asarray
    return backend.asarray(outputs), convert(backend, targets)


@over_losses
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_value_gradient_and_hvp_against_torch_autograd(loss, scale):
    outputs, targets = on(get_backend("torch"), loss, scale)
    leaf = outputs.clone().requires_grad_(True)
    value = torch_loss(loss, leaf, targets)
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    u = torch.from_numpy(np.random.default_rng(2).standard_normal((SAMPLES, WIDTH)))
    (product,) = torch.autograd.grad(gradient, leaf, u)
    torch.testing.assert_close(loss.value(outputs, targets), value.detach(), rtol=3e-14, atol=1e-15)
    torch.testing.assert_close(loss.gradient(outputs, targets), gradient.detach(), rtol=3e-14, atol=1e-15)
    torch.testing.assert_close(loss.hvp(outputs, targets, u), product, rtol=3e-14, atol=1e-15)


@over_losses
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_autograd_through_value_gives_the_written_derivatives(loss, scale):
    # Scale 0 sits on the tie of every maximum, where a careless formula loses its curvature.
    outputs, targets = on(get_backend("torch"), loss, scale)
    leaf = outputs.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss.value(leaf, targets), leaf, create_graph=True)
    hessian = torch.autograd.functional.hessian(lambda z: loss.value(z, targets), outputs)
    torch.testing.assert_close(gradient.detach(), loss.gradient(outputs, targets), rtol=1e-13, atol=1e-15)
    for u in np.random.default_rng(3).standard_normal((3, SAMPLES, WIDTH)):
        u = torch.from_numpy(u)
        expected = torch.tensordot(hessian, u, dims=2)
        torch.testing.assert_close(loss.hvp(outputs, targets, u), expected, rtol=1e-13, atol=1e-14)


@over_losses
def test_every_backend_gives_the_numbers_of_numpy(loss, backend):
    tolerance = 1e-14 if backend.dtype_name == "float64" else 3e-6
    u = np.random.default_rng(4).standard_normal((SAMPLES, WIDTH))
    found = [to_numpy(q) for q in _quantities(loss, backend, u)]
    expected = _quantities(loss, get_backend("numpy"), u)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def _quantities(loss, backend, u):
    outputs, targets = on(backend, loss)
    hvp = loss.hvp(outputs, targets, backend.asarray(u))
    return [
        loss.value(outputs, targets),
        loss.gradient(outputs, targets),
        hvp,
        *loss.metrics(outputs, targets).values(),
    ]


@over_losses
def test_leading_axes_equal_the_loop(loss):
    backend = get_backend("numpy")
    _, targets = on(backend, loss)
    outputs = np.random.default_rng(5).standard_normal((2, 3, SAMPLES, WIDTH))
    u = np.random.default_rng(6).standard_normal(outputs.shape)
    value, gradient, hvp = loss.value(outputs, targets), loss.gradient(outputs, targets), loss.hvp(outputs, targets, u)
    assert value.shape == (2, 3)
    for i in np.ndindex(2, 3):
        np.testing.assert_array_equal(value[i], loss.value(outputs[i], targets))
        np.testing.assert_array_equal(gradient[i], loss.gradient(outputs[i], targets))
        np.testing.assert_array_equal(hvp[i], loss.hvp(outputs[i], targets, u[i]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_logits_against_their_limits(dtype):
    logits = get_backend("numpy", dtype).asarray([[1e3, -1e3], [-1e3, 1e3]])
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        softmax, labels = SoftmaxCrossEntropy(), np.asarray([0, 0])
        assert softmax.value(logits, labels) == 1000.0  # the mean of 0 and 2000
        np.testing.assert_array_equal(softmax.gradient(logits, labels), [[0, 0], [-0.5, 0.5]])
        np.testing.assert_array_equal(softmax.hvp(logits, labels, np.ones_like(logits)), np.zeros((2, 2)))
        binary, targets = BinaryCrossEntropy(), np.zeros_like(logits)
        assert binary.value(logits, targets) == 1000.0
        np.testing.assert_array_equal(binary.gradient(logits, targets), [[0.5, 0], [0, 0.5]])
        np.testing.assert_array_equal(binary.hvp(logits, targets, np.ones_like(logits)), np.zeros((2, 2)))


def test_softplus_and_sigmoid_keep_their_digits_far_below_zero():
    assert softplus(np.asarray(-40.0)) == pytest.approx(np.exp(-40.0), rel=1e-15)
    assert sigmoid(np.asarray(-700.0)) == pytest.approx(np.exp(-700.0), rel=1e-15)


@over_losses
def test_accuracy_of_perfect_outputs(loss):
    targets = targets_for(loss, SAMPLES, WIDTH)
    if loss.integer_targets:
        outputs = np.eye(WIDTH)[targets]
        wrong = np.roll(outputs, 1, axis=1)
    else:
        outputs, wrong = targets - 0.5, 0.5 - targets
    found, opposite = loss.metrics(outputs, targets), loss.metrics(wrong, targets)
    assert found == ({} if isinstance(loss, HalfMeanSquaredError) else {"accuracy": 1.0})
    assert opposite == ({} if isinstance(loss, HalfMeanSquaredError) else {"accuracy": 0.0})


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (HalfMeanSquaredError(), np.zeros((5, 4)), r"targets must have shape \(6, 4\)"),
        (HalfMeanSquaredError(), np.zeros(6), r"targets must have shape \(6, 4\)"),
        (HalfMeanSquaredError(), np.full((6, 4), np.nan), "finite"),
        (BinaryCrossEntropy(), np.full((6, 4), 1.5), r"lie in \[0, 1\]"),
        (BinaryCrossEntropy(), np.full((6, 4), -0.1), r"lie in \[0, 1\]"),
        (SoftmaxCrossEntropy(), np.full(6, 4), "lie in 0 … 3"),
        (SoftmaxCrossEntropy(), np.full(6, -1), "lie in 0 … 3"),
        (SoftmaxCrossEntropy(), np.zeros(6), "integer dtype"),
        (SoftmaxCrossEntropy(), np.zeros((6, 1), int), r"labels must have shape \(6,\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss, targets, message):
    with pytest.raises(ValueError, match=message):
        loss.check_targets(targets, 6, 4)


@over_losses
def test_an_empty_sample_is_refused(loss):
    with pytest.raises(ValueError, match="empty"):
        loss.check_targets(np.zeros(0, int), 0, 1)


@over_losses
def test_targets_that_would_broadcast_are_refused(loss):
    targets = np.zeros(SAMPLES + 1, int) if loss.integer_targets else np.zeros(SAMPLES)
    with pytest.raises(ValueError, match="must have shape"):
        loss.value(np.zeros((SAMPLES, 1)), targets)


def test_a_column_of_targets_may_be_a_vector():
    assert HalfMeanSquaredError().check_targets([1.0, 2.0], 2, 1).shape == (2, 1)


# -- tokens: the same loss for every place of a sequence --------------------------------------------------------------

PLACES = 3


def tokens_on(backend, scale=1.0, lead=()):
    outputs = scale * np.random.default_rng(1).standard_normal((*lead, 2, PLACES, WIDTH))
    return backend.asarray(outputs), integers(backend, np.random.default_rng(2).integers(0, WIDTH, (2, PLACES)))


@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_tokens_against_torch_and_autograd(scale):
    loss, (outputs, targets) = TokenCrossEntropy(), tokens_on(get_backend("torch"), scale)
    leaf = outputs.clone().requires_grad_(True)
    value = functional.cross_entropy(leaf.transpose(1, 2), targets)  # Torch wants the classes on the second axis
    (gradient,) = torch.autograd.grad(value, leaf, create_graph=True)
    u = torch.from_numpy(np.random.default_rng(3).standard_normal(outputs.shape))
    (product,) = torch.autograd.grad(gradient, leaf, u)
    torch.testing.assert_close(loss.value(outputs, targets), value.detach(), rtol=3e-14, atol=1e-15)
    torch.testing.assert_close(loss.gradient(outputs, targets), gradient.detach(), rtol=3e-14, atol=1e-15)
    torch.testing.assert_close(loss.hvp(outputs, targets, u), product, rtol=3e-14, atol=1e-15)


def test_tokens_on_every_backend(backend):
    tolerance = 1e-14 if backend.dtype_name == "float64" else 3e-6
    expected = _token_quantities(get_backend("numpy"))
    for one, other in zip(_token_quantities(backend), expected, strict=True):
        np.testing.assert_allclose(to_numpy(one), other, rtol=tolerance, atol=tolerance)


def _token_quantities(backend):
    loss, (outputs, targets) = TokenCrossEntropy(), tokens_on(backend)
    u = backend.asarray(np.random.default_rng(4).standard_normal(tuple(outputs.shape)))
    return [
        loss.value(outputs, targets),
        loss.gradient(outputs, targets),
        loss.hvp(outputs, targets, u),
        loss.metrics(outputs, targets)["accuracy"],
    ]


def test_leading_axes_of_token_outputs_equal_the_loop():
    loss, (outputs, targets) = TokenCrossEntropy(), tokens_on(get_backend("numpy"), lead=(2, 3))
    value, hvp = loss.value(outputs, targets), loss.hvp(outputs, targets, 0.5 * outputs)
    accuracy = loss.metrics(outputs, targets)["accuracy"]
    assert value.shape == accuracy.shape == (2, 3)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(value[i], loss.value(outputs[i], targets), rtol=1e-15)
        np.testing.assert_allclose(hvp[i], loss.hvp(outputs[i], targets, 0.5 * outputs[i]), rtol=1e-15)
        assert accuracy[i] == (outputs[i].argmax(-1) == targets).mean()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (np.zeros(6, int), r"shape \(6, places\)"),
        (np.zeros((5, 3), int), r"shape \(6, places\)"),
        (np.zeros((6, 0), int), r"shape \(6, places\)"),
        (np.full((6, 3), 4), "lie in 0 … 3"),
        (np.zeros((6, 3)), "integer dtype"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        TokenCrossEntropy().check_targets(targets, 6, 4)
    with pytest.raises(ValueError, match="empty"):
        TokenCrossEntropy().check_targets(targets, 0, 4)


def test_tokens_of_another_length_than_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"shape \(2, 3\), got \(3, 2\)"):
        TokenCrossEntropy().value(np.zeros((2, 3, 4)), np.zeros((3, 2), int))
