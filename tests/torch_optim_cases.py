"""What the tests of refimpl.torch_optim share: every wrapped method with knobs, and a small network to train."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from refimpl import get_backend, torch_optim
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.models import flat_parameters, load_flat, mlp_module

LOSSES = {"mse": HalfMeanSquaredError(), "ce": SoftmaxCrossEntropy()}
WIDTHS, SAMPLES, STEPS = (3, 4, 2), 20, 12


class Wrapped(NamedTuple):
    """A class of torch_optim, its knobs, and whether it needs outputs, or the module."""

    name: str
    knobs: dict[str, Any]
    outputs: bool = False
    layers: bool = False

    @property
    def cls(self) -> type:
        return getattr(torch_optim, self.name)

    def method(self) -> Any:
        """The same as the dataclass."""
        return self.cls.method_class(**self.knobs)

    def make(self, model: nn.Module, **options: Any) -> torch_optim.MethodOptimizer:
        more = {"module": model} if self.layers else {}
        return self.cls(model.parameters(), **self.knobs, **more, **options)


WRAPPED = [
    Wrapped("GradientDescent", {"learning_rate": 0.3}),
    Wrapped("HeavyBall", {"learning_rate": 0.1, "momentum": 0.8}),
    Wrapped("Nesterov", {"learning_rate": 0.1, "momentum": 0.8}),
    Wrapped("Adam", {"learning_rate": 0.02}),
    Wrapped("AdamW", {"learning_rate": 0.02, "weight_decay": 0.1}),
    Wrapped("Sophia", {"learning_rate": 0.02, "estimator": "hutchinson", "interval": 3}),
    Wrapped(
        "AMOS", {"learning_rate": 0.02, "estimator": "hutchinson", "interval": 3, "offload_rate": 0.1, "threshold": 0.3}
    ),
    Wrapped("Newton", {"learning_rate": 1e-3}),
    Wrapped("DampedNewton", {"damping": 0.5, "mode": "abs"}),
    Wrapped("SaddleFreeNewton", {"damping": 0.3, "mode": "square", "momentum": 0.5, "learning_rate": 0.3}),
    Wrapped("AdaptiveSaddleFreeNewton", {"initial_damping": 1.0, "ema": 0.8}),
    Wrapped("SeriesSaddleFreeNewton", {"terms": 5, "order": 1, "momentum": 0.3, "damping": 0.3, "mode": "abs"}),
    Wrapped("AdaptiveSeriesSaddleFreeNewton", {"terms": 4, "initial_damping": 0.5}, outputs=True),
    Wrapped("LanczosSaddleFreeNewton", {"products": 4, "initial_damping": 1.0, "omega": 0.9}),
    Wrapped("LevenbergMarquardt", {"damping": 0.5}, outputs=True),
    Wrapped("HessianFree", {"products": 6, "initial_damping": 0.5, "warm_start": 0.9}, outputs=True),
    Wrapped("HessianFree", {"products": 4, "curvature": "hessian"}),
    Wrapped("CurveBall", {"adapt_every": 2}, outputs=True),
    Wrapped("CurveBall", {"curvature": "hessian", "learning_rate": 0.05, "momentum": 0.7}),
    Wrapped("TrustRegion", {"initial_radius": 0.5, "subproblem": "two-dimensional"}),
    Wrapped("KryBall", {"dimension": 3, "gain": 0.0, "initial_radius": 0.5, "refresh": 2}),
    Wrapped("StochasticKryBall", {"dimension": 2, "momentum": 0.7}),
    Wrapped("ELMO", {"lipschitz": 30.0, "safeguard": True}),
    Wrapped("FOSI", {"base": HeavyBall(0.05, 0.5), "largest": 2, "smallest": 1, "interval": 2}),
    Wrapped("ARC", {"initial_sigma": 20.0, "dimension": 6, "search": 3}),
    Wrapped("KFAC", {"learning_rate": 0.3, "damping": 0.2, "momentum": 0.4, "ema": 0.5}, outputs=True, layers=True),
    Wrapped("AdaptiveKFAC", {"initial_damping": 1.0}, outputs=True, layers=True),
]
IDS = [one.name + ("-hessian" if one.knobs.get("curvature") == "hessian" else "") for one in WRAPPED]


def half_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    return ((outputs - targets) ** 2).sum() / (2 * len(outputs))


class Training:
    """A tanh network on random data, with minibatches that are the same for everybody who asks."""

    def __init__(self, loss: str = "mse", dtype: str = "float64", seed: int = 4) -> None:
        rng = np.random.default_rng(seed)
        self.inputs = rng.standard_normal((SAMPLES, WIDTHS[0]))
        labels = rng.integers(0, WIDTHS[-1], SAMPLES)
        self.targets = labels if loss == "ce" else rng.standard_normal((SAMPLES, WIDTHS[-1]))
        self.batches = [rng.choice(SAMPLES, 9, replace=False) for _ in range(STEPS)]
        backend = get_backend("torch", dtype)
        self.model = mlp_module(WIDTHS, activation="tanh", seed=seed, backend=backend)
        # Away from Torch's small starting weights, so that the curvature has something to say.
        load_flat(self.model, 0.7 * rng.standard_normal(len(flat_parameters(self.model))))
        self._inputs = backend.asarray(self.inputs)
        self._targets = torch.from_numpy(self.targets) if loss == "ce" else backend.asarray(self.targets)
        self._loss = functional.cross_entropy if loss == "ce" else half_mean_square

    @property
    def x(self) -> np.ndarray:
        return flat_parameters(self.model).numpy()

    def closure(self, step: int, *, outputs: bool = True) -> Any:
        """The closure of one minibatch, as a user would write it."""
        rows = torch.from_numpy(self.batches[step])
        inputs, targets = self._inputs[rows], self._targets[rows]

        def closure():
            found = self.model(inputs)
            loss = self._loss(found, targets)
            return (loss, found) if outputs else loss

        return closure

    def run(self, optimizer: Any, steps: Any = range(STEPS), *, outputs: bool = True) -> list[np.ndarray]:
        """The parameters after every step of an ordinary training loop."""
        path = []
        for step in steps:
            optimizer.step(self.closure(step, outputs=outputs))
            path.append(self.x)
        return path


def first_step(one: Wrapped, **options: Any) -> tuple[Training, Any]:
    """A network, and an optimizer that has taken its first step there."""
    training = Training(**options)
    optimizer = one.make(training.model)
    training.run(optimizer, [0])
    return training, optimizer
