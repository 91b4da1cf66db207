"""The networks of the case table: every activation and loss of MLP, and Torch modules on Torch backends."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from cases import Case

from refimpl.arrays import Backend
from refimpl.oracle import Problem
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, Loss, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.xor import xor_network

LOSSES: list[Loss] = [HalfMeanSquaredError(), SoftmaxCrossEntropy(), BinaryCrossEntropy()]


def targets_for(loss: Loss, samples: int, width: int, seed: int = 11) -> np.ndarray:
    """Random targets that ``loss`` accepts."""
    rng = np.random.default_rng(seed)
    if loss.integer_targets:
        return rng.integers(0, width, samples)
    if isinstance(loss, BinaryCrossEntropy):
        return rng.integers(0, 2, (samples, width)).astype(float)
    return rng.standard_normal((samples, width))


def network(activation: str, loss: Loss, *, widths: tuple[int, ...] = (3, 4, 5, 2), samples: int = 7) -> Any:
    """backend -> MLP on random data, the same on every backend."""

    def build(backend: Backend, **options: Any) -> MLP:
        inputs = np.random.default_rng(10).standard_normal((samples, widths[0]))
        targets = targets_for(loss, samples, widths[-1])
        settings = {"activation": activation, "loss": loss, "initialization": "torch", "backend": backend}
        return MLP(widths, inputs, targets, **(settings | options))

    return build


def network_cases() -> list[Case]:
    """What tests/cases.py appends to its table."""
    square, softmax, binary = LOSSES
    return [
        Case("mlp-relu", network("relu", square), has_outputs=True, smooth=False),
        Case("mlp-tanh", network("tanh", square), has_outputs=True, smooth=True),
        Case("mlp-softplus", network("softplus", square), has_outputs=True, smooth=True),
        Case("mlp-tanh-softmax", network("tanh", softmax), has_outputs=True, smooth=True),
        Case("mlp-softplus-binary", network("softplus", binary), has_outputs=True, smooth=True),
        Case("mlp-minibatch", _minibatch(network("tanh", square, samples=20)), has_outputs=True, smooth=True),
        Case("mlp-linear", network("tanh", softmax, widths=(4, 3)), True, True, linear_model=True),
        Case("xor", lambda backend: xor_network(backend=backend, initialization="torch"), True, True),
        Case(
            "torch-tanh", _torch("tanh", "kept-graph", batch_norm=False), has_outputs=True, smooth=True, library="torch"
        ),
        Case(
            "torch-forward-over-reverse",
            _torch("tanh", "forward-over-reverse", batch_norm=False),
            True,
            True,
            library="torch",
        ),
        Case(
            "torch-batch-norm",
            _torch("tanh", "kept-graph", batch_norm=True),
            has_outputs=True,
            smooth=True,
            library="torch",
        ),
        Case(
            "torch-relu",
            _torch("relu", "kept-graph", batch_norm=False),
            has_outputs=True,
            smooth=False,
            library="torch",
        ),
    ]


def _minibatch(build: Any) -> Callable[[Backend], Problem]:
    return lambda backend: build(backend, batch_size=6)


def _torch(activation: str, route: Any, *, batch_norm: bool) -> Callable[[Backend], Problem]:
    def build(backend: Backend) -> Problem:
        from refimpl.problems.models import small_convnet
        from refimpl.problems.torch_net import TorchProblem

        module = small_convnet(
            image_shape=(1, 4, 4), channels=(2, 3), classes=3, activation=activation, batch_norm=batch_norm,
            backend=backend,
        )  # fmt: skip
        rng = np.random.default_rng(12)
        inputs, labels = rng.standard_normal((6, 1, 4, 4)), rng.integers(0, 3, 6)
        return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, backend=backend, route=route)

    return build
