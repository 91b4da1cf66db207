"""Losses that are convex functions of a network's outputs, with their first two derivatives in the outputs.

Outputs have the shape ``(..., samples, k)``: leading axes are independent runs, and targets are shared by all
runs. Every loss sums over the k outputs and takes the mean over the samples, so the same ``1/samples`` stands in
value, gradient and curvature. The lines below run on every backend, and Torch can differentiate :meth:`Loss.value`
twice, at every logit including zero.

>>> import numpy as np
>>> loss = HalfMeanSquaredError()
>>> float(loss.value(np.asarray([[1.0], [3.0]]), np.asarray([[0.0], [0.0]])))
2.5
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from refimpl.arrays import Array, device_of, host_numbers, namespace, to_numpy
from refimpl.problems.likelihoods import draw_targets


class Loss(ABC):
    """A convex function of outputs: value, gradient and curvature, plus the check of the targets."""

    name: ClassVar[str]
    integer_targets: ClassVar[bool] = False
    output_axes: ClassVar[int] = 2
    likelihood: ClassVar[str | None] = None

    @abstractmethod
    def value(self, outputs: Array, targets: Array) -> Array:
        """The mean loss: outputs (..., samples, k) -> (...)."""

    @abstractmethod
    def gradient(self, outputs: Array, targets: Array) -> Array:
        """The derivative of :meth:`value` in the outputs, shape of the outputs."""

    @abstractmethod
    def curvature(self, outputs: Array, targets: Array) -> Callable[[Array], Array]:
        """The second derivative in the outputs as a function ``u -> product``; what depends only on the outputs is
        computed here, once."""

    def hvp(self, outputs: Array, targets: Array, u: Array) -> Array:
        """The second derivative of :meth:`value` in the outputs, times ``u`` (shape of the outputs)."""
        return self.curvature(outputs, targets)(u)

    @abstractmethod
    def check_targets(self, targets: Any, samples: int, width: int) -> np.ndarray:
        """Targets on the host in the shape this loss needs, for ``samples`` rows and ``width`` outputs.

        Raises
        ------
        ValueError
            No samples, a shape that does not fit, values that are not finite or out of range.
        """

    def sample(self, outputs: Array, rng: Any) -> Array:
        """Targets drawn from the predictions: the value is their negative log-likelihood, but for a constant.

        One draw for each run where there are leading axes, from the same random numbers (``rng``, a NumPy Generator).

        Raises
        ------
        ValueError
            A loss without ``likelihood``.
        """
        if self.likelihood is None:
            raise ValueError(
                f"{type(self).__name__} is not the likelihood of a distribution with a name; set likelihood"
            )
        return draw_targets(self.likelihood, outputs, rng, self.output_axes)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """What a reader wants to see besides the loss, each of shape (...): ``accuracy`` for classification."""
        return {}


@dataclass(frozen=True)
class HalfMeanSquaredError(Loss):
    """Half the squared error: mean over samples of sum_k (p_k - t_k)^2 / 2. Targets (samples, k) or (samples,)."""

    name: ClassVar[str] = "half-mse"
    likelihood: ClassVar[str | None] = "gaussian"

    def value(self, outputs: Array, targets: Array) -> Array:
        """Half the mean squared error, (...)."""
        difference = outputs - _aligned(targets, outputs)
        return _mean_over_samples(0.5 * difference * difference)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """(p - t) / samples."""
        return (outputs - _aligned(targets, outputs)) / outputs.shape[-2]

    def curvature(self, outputs: Array, targets: Array) -> Callable[[Array], Array]:
        """The identity divided by the number of samples."""
        samples = outputs.shape[-2]
        return lambda u: u / samples

    def check_targets(self, targets: Any, samples: int, width: int) -> np.ndarray:
        """Any finite numbers of shape (samples, width)."""
        return _table_of_targets(targets, samples, width)


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Mean over samples of -log softmax(logits)[label]. Targets are whole numbers 0 … k-1, shape (samples,)."""

    name: ClassVar[str] = "softmax-cross-entropy"
    integer_targets: ClassVar[bool] = True
    likelihood: ClassVar[str | None] = "categorical"

    def value(self, outputs: Array, targets: Array) -> Array:
        """The mean cross-entropy, (...)."""
        xp = namespace(outputs)
        shifted = outputs - xp.max(outputs, axis=-1, keepdims=True)
        log_total = xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))
        log_probability = shifted - log_total
        chosen = xp.where(_label_mask(outputs, targets), log_probability, xp.zeros_like(outputs))
        return -_mean_over_samples(chosen)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """(softmax - indicator of the label) / samples."""
        xp = namespace(outputs)
        indicator = xp.astype(_label_mask(outputs, targets), outputs.dtype)
        return (_softmax(outputs) - indicator) / outputs.shape[-2]

    def curvature(self, outputs: Array, targets: Array) -> Callable[[Array], Array]:
        """(diag(p) - p p^T) / samples, one block per sample."""
        xp, samples = namespace(outputs), outputs.shape[-2]
        probability = _softmax(outputs)

        def product(u: Array) -> Array:
            weighted = probability * u
            return (weighted - probability * xp.sum(weighted, axis=-1, keepdims=True)) / samples

        return product

    def check_targets(self, targets: Any, samples: int, width: int) -> np.ndarray:
        """Whole numbers from 0 to width - 1, shape (samples,)."""
        labels = to_numpy(targets)
        _check_samples(samples)
        if labels.shape != (samples,):
            raise ValueError(f"labels must have shape ({samples},), got {labels.shape}")
        if labels.dtype.kind not in "iu":
            raise ValueError(f"labels must be whole numbers of an integer dtype, got dtype {labels.dtype}")
        if labels.min() < 0 or labels.max() >= width:
            raise ValueError(f"labels must lie in 0 … {width - 1}, got {labels.min()} … {labels.max()}")
        return labels.astype(np.int64)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """``accuracy``: the share of samples whose largest logit is the label's."""
        xp = namespace(outputs)
        correct = xp.astype(xp.argmax(outputs, axis=-1) == targets, outputs.dtype)
        return {"accuracy": xp.mean(correct, axis=-1)}


@dataclass(frozen=True)
class TokenCrossEntropy(Loss):
    """Mean over all tokens of -log softmax(logits)[token], for sequences.

    Outputs are (..., samples, places, k), targets whole numbers 0 … k-1, shape (samples, places). The same as
    :class:`SoftmaxCrossEntropy` with every place of every sequence as a sample of its own.
    """

    name: ClassVar[str] = "token-cross-entropy"
    integer_targets: ClassVar[bool] = True
    output_axes: ClassVar[int] = 3
    likelihood: ClassVar[str | None] = "categorical"

    def value(self, outputs: Array, targets: Array) -> Array:
        """The mean cross-entropy, (...)."""
        return _PER_TOKEN.value(*_tokens_as_samples(outputs, targets))

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """(softmax - indicator of the token) / tokens, shape of the outputs."""
        flat = _PER_TOKEN.gradient(*_tokens_as_samples(outputs, targets))
        return namespace(outputs).reshape(flat, tuple(outputs.shape))

    def curvature(self, outputs: Array, targets: Array) -> Callable[[Array], Array]:
        """(diag(p) - p p^T) / tokens, one block per token."""
        logits, labels = _tokens_as_samples(outputs, targets)
        xp, product = namespace(outputs), _PER_TOKEN.curvature(logits, labels)
        return lambda u: xp.reshape(product(xp.reshape(u, tuple(logits.shape))), tuple(outputs.shape))

    def check_targets(self, targets: Any, samples: int, width: int) -> np.ndarray:
        """Whole numbers from 0 to width - 1, shape (samples, places) with places >= 1."""
        tokens = to_numpy(targets)
        _check_samples(samples)
        if tokens.ndim != 2 or len(tokens) != samples or tokens.shape[1] == 0:
            raise ValueError(f"tokens must have shape ({samples}, places), got {tokens.shape}")
        return _PER_TOKEN.check_targets(tokens.reshape(-1), tokens.size, width).reshape(tokens.shape)

    def metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """``accuracy``: the share of tokens whose largest logit is the right one."""
        return _PER_TOKEN.metrics(*_tokens_as_samples(outputs, targets))


@dataclass(frozen=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy of yes/no targets on logits, summed over outputs, mean over samples.

    Targets (samples, k) or (samples,), between 0 and 1. Written as softplus(z) - t z, which is finite at any logit.
    """

    name: ClassVar[str] = "binary-cross-entropy"
    likelihood: ClassVar[str | None] = "bernoulli"

    def value(self, outputs: Array, targets: Array) -> Array:
        """The mean binary cross-entropy, (...)."""
        return _mean_over_samples(softplus(outputs) - _aligned(targets, outputs) * outputs)

    def gradient(self, outputs: Array, targets: Array) -> Array:
        """(sigmoid(z) - t) / samples."""
        return (sigmoid(outputs) - _aligned(targets, outputs)) / outputs.shape[-2]

    def curvature(self, outputs: Array, targets: Array) -> Callable[[Array], Array]:
        """sigmoid(z) sigmoid(-z) / samples on the diagonal."""
        diagonal = sigmoid(outputs) * sigmoid(-outputs) / outputs.shape[-2]
        return lambda u: diagonal * u

    def check_targets(self, targets: Any, samples: int, width: int) -> np.ndarray:
        """Numbers in [0, 1] of shape (samples, width)."""
        table = _table_of_targets(targets, samples, width)
        if table.min() < 0 or table.max() > 1:
            raise ValueError(f"targets must lie in [0, 1], got {table.min()} … {table.max()}")
        return table

    def metrics(self, outputs: Array, targets: Array) -> dict[str, Array]:
        """``accuracy``: the share of outputs on the right side of zero."""
        xp = namespace(outputs)
        correct = xp.astype((outputs > 0) == (targets > 0.5), outputs.dtype)
        return {"accuracy": xp.mean(correct, axis=(-2, -1))}


_PER_TOKEN = SoftmaxCrossEntropy()


def softplus(z: Array) -> Array:
    """log(1 + exp(z)) without overflow.

    >>> import numpy as np
    >>> softplus(np.asarray([-1000.0, 1000.0])).tolist()
    [0.0, 1000.0]
    """
    xp = namespace(z)
    # Not |z| and not max(z, 0): automatic differentiation would take sign(0)^2 = 0 and lose the curvature at 0.
    positive = z > 0
    return xp.where(positive, z, xp.zeros_like(z)) + xp.log1p(xp.exp(xp.where(positive, -z, z)))


def sigmoid(z: Array) -> Array:
    """1 / (1 + exp(-z)) without overflow, and accurate to the last digits for very negative z."""
    xp = namespace(z)
    positive = z > 0
    small = xp.exp(xp.where(positive, -z, z))
    return xp.where(positive, xp.ones_like(z), small) / (1.0 + small)


def _softmax(outputs: Array) -> Array:
    xp = namespace(outputs)
    weight = xp.exp(outputs - xp.max(outputs, axis=-1, keepdims=True))
    return weight / xp.sum(weight, axis=-1, keepdims=True)


def _label_mask(outputs: Array, labels: Array) -> Array:
    xp = namespace(outputs)
    # Labels that were drawn differ from run to run; those of a data set do not.
    if tuple(labels.shape) not in (tuple(outputs.shape[-2:-1]), tuple(outputs.shape[:-1])):
        raise ValueError(f"labels must have shape {tuple(outputs.shape[-2:-1])}, got {tuple(labels.shape)}")
    classes = xp.arange(outputs.shape[-1], dtype=labels.dtype, device=device_of(labels))
    return labels[..., None] == classes


def _tokens_as_samples(outputs: Array, targets: Array) -> tuple[Array, Array]:
    xp, shape = namespace(outputs), tuple(outputs.shape)
    if tuple(targets.shape) not in (shape[-3:-1], shape[:-1]):
        raise ValueError(f"tokens must have shape {shape[-3:-1]}, got {tuple(targets.shape)}")
    flat = xp.reshape(targets, (*tuple(targets.shape)[:-2], shape[-3] * shape[-2]))
    return xp.reshape(outputs, (*shape[:-3], shape[-3] * shape[-2], shape[-1])), flat


def _aligned(targets: Array, outputs: Array) -> Array:
    # (samples,) against (samples, 1) would broadcast to a square without a word; this costs no read-back.
    if tuple(targets.shape) not in (tuple(outputs.shape[-2:]), tuple(outputs.shape)):
        raise ValueError(f"targets must have shape {tuple(outputs.shape[-2:])}, got {tuple(targets.shape)}")
    return targets


def _mean_over_samples(values: Array) -> Array:
    xp = namespace(values)
    return xp.sum(values, axis=(-2, -1)) / values.shape[-2]


def _check_samples(samples: int) -> None:
    if samples < 1:
        raise ValueError("the sample is empty: at least one row is needed")


def _table_of_targets(targets: Any, samples: int, width: int) -> np.ndarray:
    table = host_numbers("targets", targets)
    _check_samples(samples)
    if table.ndim == 1 and width == 1:
        table = table[:, None]
    if table.shape != (samples, width):
        raise ValueError(f"targets must have shape ({samples}, {width}), got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("targets must be finite, but they hold NaN or infinity")
    return table
