"""CurveBall beside first- and second-order methods on MNIST, a network of tanh layers 128-64-32-10 (chapter 9).

The comparison of the CurveBall paper's section 4 (last paragraph, figure 2). What the paper fixes: the widths, tanh,
minibatches of 64, the best learning rate for each method. For start and scaling of the data it points to Martens &
Grosse (2015). Here that is: pixels in [0, 1], neither centred nor scaled; **sparse initialization** (Martens 2010),
each unit has 15 incoming weights drawn from N(0, 1), all other weights and the biases are zero. Softmax cross-entropy,
no weight decay.

How this is smaller than the paper's:

* 8000 training and 2000 test images, split by us from MNIST's 10,000 test images; the paper has 60,000 and 10,000.
* scale ``ci``: images of 14 x 14 pixels (2 x 2 averaged), 20 epochs; ``full``: 28 x 28 pixels, 60 epochs; the number of
  epochs in the paper is only in its figure. ``smoke``: a few steps. An epoch is 125 steps, minibatches drawn anew each.
* Where the images cannot be had, ``ci`` and ``smoke`` use MNIST-1D and every run says so (``data``); ``full`` refuses.

The methods: SGD with momentum 0.9, Adam and K-FAC with fixed damping, each with its learning rate from
1, 0.1, … by training loss at the end of a run on a seed of its own; adaptive K-FAC, CurveBall and Hessian-free without
tuning. CurveBall starts from lam = 10, the paper's value without batch normalization, and from lam = 1. Hessian-free
makes a fifth of the steps, with at most 10 products each. K-FAC here computes exact factors (one backward pass per
class), and its work counts all ten; the paper's K-FAC samples one target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

from refimpl.arrays import Array, as_generator, check_count, get_backend
from refimpl.experiments.training import TrainingStudy, Tuned
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC
from refimpl.problems.datasets import Dataset
from refimpl.problems.images import mnist_10k, mnist_10k_or_fallback
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP, check_widths

CASE = "mlp"
"""The one network of the study."""

_STEPS = {"smoke": 20, "ci": 2500, "full": 7500}
_SEEDS = {"smoke": 2, "ci": 3, "full": 5}
_LOOKS = {"smoke": 3, "ci": 26, "full": 31}
_SHARE = {"hessian-free": 5}
"""Methods that make fewer steps, by this factor."""


def methods() -> dict[str, Optimizer | Tuned]:
    """The methods of the study by name."""
    return {
        "heavy-ball": Tuned(HeavyBall(learning_rate=1.0, momentum=0.9), (1.0, 0.1, 0.01, 0.001)),
        "adam": Tuned(Adam(learning_rate=1.0), (0.1, 0.01, 0.001, 0.0001)),
        "kfac": Tuned(KFAC(learning_rate=1.0, damping=0.1, momentum=0.9, ema=0.95), (0.1, 0.01, 0.001)),
        "adaptive-kfac": AdaptiveKFAC(initial_damping=1.0),
        "curveball": CurveBall(initial_damping=10.0),
        "curveball-1": CurveBall(initial_damping=1.0),
        "hessian-free": HessianFree(products=10),
    }


def sparse_start(widths: Sequence[int], rng: int | np.random.Generator, *, connections: int = 15) -> np.ndarray:
    """Sparse initialization (n,), in the layout of :class:`~refimpl.problems.mlp.MLP`.

    Every unit gets ``connections`` incoming weights from N(0, 1), from different units below chosen at random (all of
    them, where there are fewer); the other weights and the biases are zero.

    Raises
    ------
    ValueError
        Malformed widths, seed or number of connections.

    Source: Martens (2010), section 5.

    >>> int(np.count_nonzero(sparse_start((40, 20, 2), 0)))
    330
    """
    check_count("connections", connections)
    rng = as_generator(rng)
    parts = []
    for fan_in, fan_out in pairwise(check_widths(widths)):
        weight = np.zeros((fan_out, fan_in))
        for unit in range(fan_out):
            chosen = rng.choice(fan_in, size=min(connections, fan_in), replace=False)
            weight[unit, chosen] = rng.standard_normal(len(chosen))
        parts += [weight.ravel(), np.zeros(fan_out)]
    return np.concatenate(parts)


def halved(images: np.ndarray, side: int) -> np.ndarray:
    """Square images of ``side`` pixels, (rows, side²), with 2 x 2 pixels averaged: (rows, side²/4).

    >>> halved(np.arange(16.0)[None], 4).tolist()
    [[2.5, 4.5, 10.5, 12.5]]
    """
    if side % 2:
        raise ValueError(f"side must be even, got {side}")
    return images.reshape(-1, side // 2, 2, side // 2, 2).mean(axis=(2, 4)).reshape(len(images), -1)


@dataclass(frozen=True)
class MnistMLP(TrainingStudy):
    """The methods on the network inputs-``hidden``-10."""

    hidden: tuple[int, ...] = (128, 64, 32)

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return f"CurveBall, K-FAC, Hessian-free, SGD, Adam on MNIST, tanh network {'-'.join(map(str, self.hidden))}-10"

    def methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods of the study; there is one case."""
        return methods()

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Steps and seeds per method, network, data."""
        plan = {
            name: {"steps": max(1, _STEPS[scale] // _SHARE.get(name, 1)), "seeds": seeds or _SEEDS[scale]}
            for name in methods()
        }
        return {
            "hidden": list(self.hidden),
            "activation": "tanh",
            "initialization": "sparse, 15 connections",
            "batch_size": 64,
            "halved": scale != "full",
            "fallback": scale != "full",
            "dtype": "float32",
            "split_seed": 0,
            "looks": _LOOKS[scale],
            "plan": {CASE: plan},
            "methods": {CASE: {name: repr(method) for name, method in methods().items()}},
        }

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> MLP:
        """The network with its data."""
        data = _data(settings["split_seed"], settings["fallback"])
        train, test = data.train_inputs, data.test_inputs
        if settings["halved"] and data.image_shape is not None:
            train, test = (halved(inputs, data.image_shape[-1]) for inputs in (train, test))
        library = "numpy" if device == "cpu" else "torch"
        return MLP(
            (train.shape[1], *settings["hidden"], data.classes),
            train,
            data.train_targets,
            activation=settings["activation"],
            loss=SoftmaxCrossEntropy(),
            batch_size=settings["batch_size"],
            test=(test, data.test_targets),
            backend=get_backend(library, settings["dtype"], device),
        )

    def start(self, problem: Any, seed: int) -> Array:
        """Sparse initialization; the same for every method."""
        return problem.backend.asarray(sparse_start(problem.widths, as_generator([seed, 0])))

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one job, each with the data it had."""
        data = _data(settings["split_seed"], settings["fallback"])
        return [{**run, "data": f"{data.name}: {data.note}"} for run in super().run_job(job, settings, device)]


@lru_cache(maxsize=2)
def _data(split_seed: int, fallback: bool) -> Dataset:
    if not fallback:
        return mnist_10k(split_seed)
    data, note = mnist_10k_or_fallback(split_seed)
    if note:
        print(note)
    return data
