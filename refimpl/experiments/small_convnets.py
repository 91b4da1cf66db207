"""CurveBall beside SGD and Adam on the basic CNN of its paper, with and without batch normalization (chapter 9).

The comparison of the CurveBall paper's section 4 on CIFAR-10 (figure 2, and the first two columns of its table 2). What
the paper fixes: the network (:func:`refimpl.problems.models.basic_cnn`), minibatches of 128, 20 epochs, learning rates
of SGD with momentum and Adam from powers of ten, lam = 1 at the start with batch normalization and 10 without.
``curveball`` adapts lam ("CurveBall λ" of table 2), ``curveball-fixed`` keeps it. Open there and ours: pixels are
centred and scaled per color by the training photographs; weights start as Torch's layers do by default; momentum 0.9;
neither weight decay nor augmentation. Learning rates are chosen by training loss at the end of a run on a seed of its
own; CurveBall is not tuned.

How this is smaller than the paper's:

* ``full``: not at all, if the data are the published ones. With the JPEG copy of CIFAR-10 errors differ slightly.
* ``ci``: 2000 training and 500 test photographs, channels 8-8-16-16-10, minibatches of 64, 300 steps (9.6 epochs).
  A network that small, trained that briefly, says how the methods begin, not where they end.
* ``smoke``: a few steps. Where CIFAR-10 cannot be had, ``ci`` and ``smoke`` use digits of 8 x 8 pixels and every run
  says so (``data``); ``full`` refuses.

Training errors are told twice: ``error`` over all training photographs in evaluation mode (running statistics), and
``batch_error``, the mean over minibatches on the way, in training mode, which is what the paper's figure has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refimpl.arrays import get_backend
from refimpl.experiments.training import TrainingStudy, Tuned
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.problems.datasets import Dataset
from refimpl.problems.images import cifar10, cifar10_or_fallback
from refimpl.problems.losses import SoftmaxCrossEntropy

CASES = ("basic", "basic-batch-norm")

PAPER_TABLE_2: dict[tuple[str, str], tuple[float, float]] = {
    ("basic", "curveball"): (14.1, 19.9),
    ("basic", "curveball-fixed"): (15.3, 19.3),
    ("basic", "heavy-ball"): (18.9, 21.1),
    ("basic", "adam"): (15.7, 19.7),
    ("basic-batch-norm", "curveball"): (7.6, 16.3),
    ("basic-batch-norm", "curveball-fixed"): (9.4, 15.8),
    ("basic-batch-norm", "heavy-ball"): (10.0, 16.1),
    ("basic-batch-norm", "adam"): (9.6, 16.1),
}
"""Best training and validation error in percent after 20 epochs of CIFAR-10: CurveBall paper, table 2."""

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"channels": [4, 4, 4, 4, 10], "rows": [96, 48], "batch_size": 32, "looks": 2},
    "ci": {"channels": [8, 8, 16, 16, 10], "rows": [2000, 500], "batch_size": 64, "looks": 13},
    "full": {"channels": [32, 32, 64, 64, 10], "rows": [None, None], "batch_size": 128, "looks": 21},
}
_PLAN = {"smoke": (3, 1), "ci": (300, 3), "full": (7820, 3)}
"""Steps and seeds."""


def methods(case: str) -> dict[str, Optimizer | Tuned]:
    """The methods by name, for ``"basic"`` or ``"basic-batch-norm"``."""
    if case not in CASES:
        raise ValueError(f"unknown case {case!r}; choose one of {list(CASES)}")
    damping = 1.0 if case == "basic-batch-norm" else 10.0
    return {
        "curveball": CurveBall(initial_damping=damping),
        "curveball-fixed": CurveBall(initial_damping=damping, adapt_every=0),
        "heavy-ball": Tuned(HeavyBall(learning_rate=1.0, momentum=0.9), (1.0, 0.1, 0.01, 0.001)),
        "adam": Tuned(Adam(learning_rate=1.0), (0.1, 0.01, 0.001, 0.0001)),
    }


def standardized(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Training and test pictures, (rows, channels, height, width) float32, centred and scaled per color.

    Mean and standard deviation are those of all pixels of the training pictures.
    """
    if data.image_shape is None:
        raise ValueError(f"{data.name} has no pictures; take one of mnist_10k, cifar10 and digits")
    shape = data.image_shape
    train = data.train_inputs.reshape(-1, *shape)
    mean = train.mean(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    deviation = train.std(axis=(0, 2, 3), keepdims=True, dtype=np.float64)
    parts = (train, data.test_inputs.reshape(-1, *shape))
    ready = [((part - mean.astype(np.float32)) / deviation.astype(np.float32)).astype(np.float32) for part in parts]
    return ready[0], ready[1]


def picture_problem(module: Any, data: Dataset, batch_size: int, backend: Any) -> Any:
    """A classifier of pictures as a Problem: cross-entropy, standardized pixels, start by ``reset_parameters``.

    The gradient is made without a graph of its own, since no method of these studies asks for Hessian products.
    """
    import torch

    from refimpl.problems.torch_net import TorchProblem

    train, test = standardized(data)
    return TorchProblem(
        module,
        SoftmaxCrossEntropy(),
        torch.from_numpy(train),
        data.train_targets,
        batch_size=batch_size,
        test=(torch.from_numpy(test), data.test_targets),
        backend=backend,
        route="forward-over-reverse",
        initialization="reset",
    )


@dataclass(frozen=True)
class SmallConvnets(TrainingStudy):
    """The methods on the basic CNN, with and without batch normalization."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "CurveBall, SGD, Adam on CIFAR-10, basic CNN with and without batch normalization (needs Torch)"

    def methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods of one case."""
        return methods(case)

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Network, data, and steps and seeds per method."""
        steps, some = _PLAN[scale]
        plan = {"steps": steps, "seeds": seeds or some}
        return {
            **_SCALES[scale],
            "fallback": scale != "full",
            "dtype": "float32",
            "split_seed": 0,
            "plan": {case: {name: dict(plan) for name in methods(case)} for case in CASES},
            "methods": {case: {name: repr(method) for name, method in methods(case).items()} for case in CASES},
        }

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Any:
        """The network with its data, weights to be drawn by ``start``."""
        from refimpl.problems.models import basic_cnn

        data, backend = _data(settings), get_backend("torch", settings["dtype"], device)
        assert data.image_shape is not None
        normalized = case == "basic-batch-norm"
        net = basic_cnn(settings["channels"], image_shape=data.image_shape, batch_norm=normalized, backend=backend)
        return picture_problem(net, data, settings["batch_size"], backend)

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one job, each with the data it had."""
        data = _data(settings)
        return [{**run, "data": f"{data.name}: {data.note}"} for run in super().run_job(job, settings, device)]


def _data(settings: Mapping[str, Any]) -> Dataset:
    return load(settings["split_seed"], *settings["rows"], settings["fallback"])


@lru_cache(maxsize=1)
def load(split_seed: int, train_rows: int | None, test_rows: int | None, fallback: bool) -> Dataset:
    """CIFAR-10, or where ``fallback`` allows it and CIFAR-10 cannot be had, digits; a printed sentence says so."""
    if not fallback:
        return cifar10(split_seed, train_rows, test_rows)
    data, note = cifar10_or_fallback(split_seed, train_rows, test_rows)
    if note:
        print(note)
    return data
