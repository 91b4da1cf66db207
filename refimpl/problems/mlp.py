"""A multilayer perceptron with its derivatives written out: the reference the Torch route is compared with.

There is no automatic differentiation here, only matrix products of the Array API, so the same lines run on NumPy,
CuPy, Torch and array-api-strict; on small networks NumPy is also the fastest route.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from refimpl.arrays import Array, Backend, check_count, check_positive
from refimpl.oracle import Problem
from refimpl.problems.activations import activation as activation_called
from refimpl.problems.kronecker import check_layers, join_layers, split_layers
from refimpl.problems.losses import HalfMeanSquaredError, Loss
from refimpl.problems.mlp_evaluation import MLPEvaluation
from refimpl.problems.sampling import (
    Minibatch,
    check_batch_size,
    check_inputs,
    check_pair,
    check_sample,
    draw_minibatch,
    integers,
    rows_of,
)


class MLP(Problem):
    """A fully connected network with a loss that is convex in its outputs, over a flat parameter vector.

    Layout of the parameters, layer after layer: the weight matrix (fan_out, fan_in) row by row, then the biases
    (fan_out,). This is the order of ``torch.nn.Linear`` in a ``torch.nn.Sequential``, so the same vector serves
    both. A layer computes ``activation(weight @ a + bias)``; the last one has no activation.

    Outputs of a Point are flattened sample by sample: entry ``i * k + j`` is output j of sample i. Leading axes
    ``(..., n)`` are independent runs on the same sample.

    Parameters
    ----------
    widths : number of units of every layer, inputs first: (8, 12, 12, 1).
    inputs, targets : the training set; inputs (samples, widths[0]), targets as ``loss`` needs them.
    activation : ``"relu"``, ``"tanh"`` or ``"softplus"``. The second derivative of ReLU is taken as zero, which is
        right almost everywhere.
    loss : one of :mod:`refimpl.problems.losses`.
    batch_size : rows of a minibatch; None for the full batch.
    test : inputs and targets of a test set, for :meth:`evaluate`.
    initialization : ``"truncated-normal"``, ``"glorot"`` or ``"torch"``, see :func:`initial_parameters`.

    Raises
    ------
    ValueError
        Widths, data, batch size, activation, loss or initialization that do not fit together.

    Source: the UCI Energy network of the series paper, as its released configuration has it.

    >>> import numpy as np
    >>> problem = MLP((1, 2, 1), [[0.0], [1.0]], [0.0, 1.0], activation="tanh")
    >>> problem.n, problem.at(np.zeros(7)).loss.tolist()
    (7, 0.25)
    """

    name = "mlp"
    batched: ClassVar[bool] = True

    def __init__(
        self,
        widths: Sequence[int],
        inputs: Any,
        targets: Any,
        *,
        activation: str = "relu",
        loss: Loss | None = None,
        batch_size: int | None = None,
        test: tuple[Any, Any] | None = None,
        backend: Backend | None = None,
        initialization: str = "truncated-normal",
    ) -> None:
        self.widths = check_widths(widths)
        super().__init__(parameter_count(self.widths), backend)
        if loss is not None and not isinstance(loss, Loss):
            raise ValueError(f"loss must be one of refimpl.problems.losses, got {type(loss).__name__}")
        if initialization not in list(_INITIALIZATIONS):
            raise ValueError(f"unknown initialization {initialization!r}; choose one of {sorted(_INITIALIZATIONS)}")
        self.loss_function: Loss = HalfMeanSquaredError() if loss is None else loss
        self.activation = activation_called(activation)
        self.initialization = initialization
        self.inputs, self.targets = self._data(inputs, targets)
        self.samples = int(self.inputs.shape[0])
        self.batch_size = check_batch_size(batch_size, self.samples)
        self.test = None if test is None else self._data(*check_pair(test))
        order = augmented_order(self.widths)
        self._to_augmented = integers(self.backend, order)
        self._from_augmented = integers(self.backend, np.argsort(order))

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Weight (fan_out, fan_in) and bias (fan_out,) of every layer."""
        return tuple(shape for a, b in pairwise(self.widths) for shape in ((b, a), (b,)))

    def evaluation(self, x: Array, sample: Any) -> MLPEvaluation:
        """The network at ``x`` on ``sample``: a :class:`Minibatch`, or None for every row."""
        chosen: Minibatch | None = check_sample(sample, self.samples)
        inputs = rows_of(self.backend, self.inputs, chosen)
        targets = rows_of(self.backend, self.targets, chosen)
        return MLPEvaluation(self, x, inputs, targets)

    def initial(self, rng: np.random.Generator) -> Array:
        """Starting parameters (n,), drawn as ``initialization`` says."""
        return self.backend.asarray(initial_parameters(self.widths, rng, self.initialization))

    def draw(self, rng: np.random.Generator) -> Minibatch | None:
        """``batch_size`` different rows, independent of earlier draws; None where the batch is full."""
        return draw_minibatch(rng, self.samples, self.batch_size)

    def evaluate(self, x: Array) -> dict[str, Array]:
        """Loss over the whole training set, loss over the test set if there is one, and what the loss reports:
        ``accuracy`` and ``test_accuracy`` for classification. Each has shape () or that of the leading axes."""
        self.check_place(x)
        report = self._report(x, self.inputs, self.targets, "")
        if self.test is not None:
            report |= self._report(x, *self.test, "test_")
        return report

    def predict(self, x: Array, inputs: Any) -> Array:
        """Outputs (..., samples, widths[-1]) for other ``inputs`` (samples, widths[0])."""
        self.check_place(x)
        table = self.backend.asarray(check_inputs(inputs, self.widths[0]))
        return MLPEvaluation(self, x, table, self.targets).predictions()

    def unflatten(self, x: Array) -> list[tuple[Array, Array]]:
        """Weight (..., fan_out, fan_in) and bias (..., fan_out) of every layer, as views of ``x`` where possible."""
        self.check_place(x)
        xp, lead, layers, start = self.backend.xp, tuple(x.shape[:-1]), [], 0
        for fan_in, fan_out in pairwise(self.widths):
            middle, end = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
            layers.append((xp.reshape(x[..., start:middle], (*lead, fan_out, fan_in)), x[..., middle:end]))
            start = end
        return layers

    def to_augmented(self, v: Array) -> Array:
        """Reorder the last axis so that each layer is one matrix (fan_out, fan_in + 1), its biases the last column."""
        return self.backend.xp.take(v, self._to_augmented, axis=-1)

    def from_augmented(self, v: Array) -> Array:
        """The inverse of :meth:`to_augmented`."""
        return self.backend.xp.take(v, self._from_augmented, axis=-1)

    def to_layers(self, v: Array) -> list[Array]:
        """``v`` (..., n) as one matrix [weight | bias] per layer, (..., fan_out, fan_in + 1)."""
        self.check_place(v, "v")
        return split_layers(self.to_augmented(v), self.widths)

    def from_layers(self, layers: Sequence[Array]) -> Array:
        """The inverse of :meth:`to_layers`: (..., n). A ValueError names a matrix that does not fit."""
        check_layers(layers, [(b, a + 1) for a, b in pairwise(self.widths)], self.backend)
        return self.from_augmented(join_layers(layers))

    def _data(self, inputs: Any, targets: Any) -> tuple[Array, Array]:
        host = check_inputs(inputs, self.widths[0])
        checked = self.loss_function.check_targets(targets, host.shape[0], self.widths[-1])
        convert = integers if self.loss_function.integer_targets else _floats
        return self.backend.asarray(host), convert(self.backend, checked)

    def _report(self, x: Array, inputs: Array, targets: Array, prefix: str) -> dict[str, Array]:
        outputs = MLPEvaluation(self, x, inputs, targets).predictions()
        found = {"loss": self.loss_function.value(outputs, targets)}
        found |= self.loss_function.metrics(outputs, targets)
        return {prefix + key: value for key, value in found.items()}


def initial_parameters(
    widths: Sequence[int], rng: np.random.Generator, initialization: str = "truncated-normal"
) -> np.ndarray:
    """Random parameters (n,) of a network of these widths, float64 on the host, in the layout of :class:`MLP`.

    * ``"truncated-normal"``: weights normal with sigma = 1/sqrt(fan_in), redrawn beyond two sigma and not rescaled
      (their standard deviation is 0.88 sigma); biases zero. What the series paper's experiments start from.
    * ``"glorot"``: weights uniform within sqrt(6 / (fan_in + fan_out)); biases zero. Source: Glorot & Bengio (2010).
    * ``"torch"``: weights and biases uniform within 1/sqrt(fan_in), the default of ``torch.nn.Linear``.
    """
    if initialization not in list(_INITIALIZATIONS):
        raise ValueError(f"unknown initialization {initialization!r}; choose one of {sorted(_INITIALIZATIONS)}")
    draw = _INITIALIZATIONS[initialization]
    widths = check_widths(widths)
    parts = [draw(rng, a, b) for a, b in pairwise(widths)]
    return np.concatenate([part.ravel() for pair in parts for part in pair])


def truncated_normal(rng: np.random.Generator, shape: tuple[int, ...], sigma: float, bound: float = 2.0) -> np.ndarray:
    """Normal draws with standard deviation ``sigma``, redrawn until within ``bound`` sigmas. Not rescaled.

    >>> bool(np.abs(truncated_normal(np.random.default_rng(0), (1000,), 0.5)).max() <= 1.0)
    True
    """
    check_positive("sigma", sigma)
    check_positive("bound", bound)
    draws = rng.standard_normal(shape)
    outside = np.abs(draws) > bound
    while outside.any():
        draws[outside] = rng.standard_normal(int(outside.sum()))
        outside = np.abs(draws) > bound
    return sigma * draws


def parameter_count(widths: Sequence[int]) -> int:
    """Weights and biases of a network of these widths.

    >>> parameter_count((8, 12, 12, 1))
    277
    """
    return sum((a + 1) * b for a, b in pairwise(widths))


def check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    """The widths as a tuple; a ValueError unless there are at least two, each a positive whole number."""
    if isinstance(widths, str) or not isinstance(widths, Sequence) or len(widths) < 2:
        raise ValueError(f"widths must list at least the inputs and the outputs, got {widths!r}")
    return tuple(check_count("every width", width) for width in widths)


def augmented_order(widths: Sequence[int]) -> np.ndarray:
    """Positions in the flat layout of the entries of the matrices [weight | bias], layer after layer (n,)."""
    order, start = [], 0
    for fan_in, fan_out in pairwise(widths):
        weight = start + np.arange(fan_in * fan_out).reshape(fan_out, fan_in)
        bias = start + fan_in * fan_out + np.arange(fan_out)
        order.append(np.concatenate([weight, bias[:, None]], axis=1).ravel())
        start += (fan_in + 1) * fan_out
    return np.concatenate(order)


def _floats(backend: Backend, values: np.ndarray) -> Array:
    return backend.asarray(values)


def _truncated_layer(rng: np.random.Generator, fan_in: int, fan_out: int) -> tuple[np.ndarray, np.ndarray]:
    return truncated_normal(rng, (fan_out, fan_in), 1 / math.sqrt(fan_in)), np.zeros(fan_out)


def _glorot_layer(rng: np.random.Generator, fan_in: int, fan_out: int) -> tuple[np.ndarray, np.ndarray]:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return rng.uniform(-bound, bound, (fan_out, fan_in)), np.zeros(fan_out)


def _torch_layer(rng: np.random.Generator, fan_in: int, fan_out: int) -> tuple[np.ndarray, np.ndarray]:
    bound = 1 / math.sqrt(fan_in)
    return rng.uniform(-bound, bound, (fan_out, fan_in)), rng.uniform(-bound, bound, fan_out)


_LayerDraw = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
_INITIALIZATIONS: dict[str, _LayerDraw] = {
    "truncated-normal": _truncated_layer,
    "glorot": _glorot_layer,
    "torch": _torch_layer,
}
