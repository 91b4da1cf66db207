"""KryBall beside SGD and Adam on CIFAR-10, the CNN of its thesis (chapter 12).

The comparison of the KryBall thesis's section 5.3.3 (table 5.2, figures 5.4(c) and (d)). What the thesis fixes: the
network (:func:`refimpl.problems.models.thesis_cnn`), softplus, minibatches of 256, 40 epochs, M = 5 and r = 3. Open
there and ours: pixels are centred and scaled per color by the training photographs; weights start as Torch's layers do
by default; no augmentation, no weight decay. SGD with momentum 0.9 and 0.98 and Adam have their rates chosen by
training loss at the end of a run on a seed of its own; KryBall is not tuned.

BatchNorm: the loss of a step is that of its minibatch in training mode, trials included; the running statistics advance
once per step, at the place where it began, and not in trials. Accuracies are measured in evaluation mode.

How this is smaller than the thesis's:

* ``full``: not at all, if the data are the published ones. One look per epoch. Give it a GPU (``--device cuda``).
* ``ci``: 2048 training and 512 test photographs of 16 x 16 pixels (2 x 2 averaged), channels 8-8-16, 32 hidden units,
  40 epochs as in the thesis, but of 8 steps each.
* ``smoke``: a few steps. Where CIFAR-10 cannot be had, ``ci`` and ``smoke`` use digits of 8 x 8 pixels and every run
  says so (``data``); ``full`` refuses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import check_between, get_backend
from refimpl.experiments.small_convnets import load, standardized
from refimpl.experiments.training import Tuned, runs_of
from refimpl.experiments.watched import WatchedStudy, floats
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.problems.datasets import Dataset
from refimpl.problems.losses import SoftmaxCrossEntropy

PAPER: dict[str, tuple[float, float, float]] = {
    "adam": (0.099, 0.782, 0.777),
    "heavy-ball": (0.111, 0.777, 0.771),
    "kryball": (0.135, 0.783, 0.762),
}
"""Training loss at the end, best and last test accuracy: KryBall thesis, table 5.2, CIFAR10 CNN."""

CASE = "cnn"
"""The one network of the study."""

MOMENTA = (0.9, 0.98)

_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"channels": [2, 2, 2], "hidden": 4, "rows": [64, 32], "batch_size": 32, "halved": True},
    "ci": {"channels": [8, 8, 16], "hidden": 32, "rows": [2048, 512], "batch_size": 256, "halved": True},
    "full": {"channels": [32, 32, 64], "hidden": 128, "rows": [None, None], "batch_size": 256, "halved": False},
}
_EPOCHS = {"smoke": (2, 2, 1), "ci": (40, 8, 2), "full": (40, 195, 3)}
"""Epochs, steps of one, and seeds."""


def methods() -> dict[str, Optimizer | Tuned]:
    """The methods of the study by name."""
    return {
        "adam": Tuned(Adam(learning_rate=1.0), (0.03, 0.01, 0.003, 0.001)),
        **{f"heavy-ball-{mu}": Tuned(HeavyBall(1.0, mu), (0.1, 0.03, 0.01)) for mu in MOMENTA},
        "kryball-published": KryBall.published(),
        "kryball-refresh-1": KryBall.published(refresh=1),
        "kryball": KryBall(),
        "stochastic-kryball": StochasticKryBall(),
    }


def halved(data: Dataset) -> Dataset:
    """The pictures with 2 x 2 pixels averaged; those of 8 pixels or less a side are left as they are.

    Raises
    ------
    ValueError
        A data set without pictures, or pictures of odd height or width.
    """
    if data.image_shape is None:
        raise ValueError(f"{data.name} has no pictures; take cifar10 or digits")
    depth, height, width = data.image_shape
    if height % 2 or width % 2:
        raise ValueError(f"height and width must be even, got {height} x {width}")
    if min(height, width) <= 8:
        return data

    def averaged(pixels: np.ndarray) -> np.ndarray:
        blocks = pixels.reshape(len(pixels), depth, height // 2, 2, width // 2, 2)
        return blocks.mean(axis=(3, 5), dtype=pixels.dtype).reshape(len(pixels), depth * height * width // 4)

    return replace(
        data,
        train_inputs=averaged(data.train_inputs),
        val_inputs=averaged(data.val_inputs),
        test_inputs=averaged(data.test_inputs),
        image_shape=(depth, height // 2, width // 2),
    )


@dataclass(frozen=True)
class CifarKryBall(WatchedStudy):
    """The methods on the thesis's CNN."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "KryBall, SGD, Adam on CIFAR-10, the CNN of the KryBall thesis (needs Torch)"

    def plain_methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods of the study; there is one case."""
        return methods()

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Network, data, and steps and seeds per method."""
        epochs, epoch, some = _EPOCHS[scale]
        plan = {name: {"steps": epochs * epoch, "seeds": seeds or some} for name in methods()}
        return {
            **_SCALES[scale],
            "activation": "softplus",
            "fallback": scale != "full",
            "dtype": "float32",
            "split_seed": 0,
            "epoch": {CASE: epoch},
            "looks": epochs + 1,
            "plan": {CASE: plan},
            "methods": {CASE: {name: repr(method) for name, method in methods().items()}},
        }

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Any:
        """The network with its data, weights to be drawn by ``start``; one graph is kept for all products of a step."""
        import torch

        from refimpl.problems.models import thesis_cnn
        from refimpl.problems.torch_net import TorchProblem

        data, backend = _data(settings), get_backend("torch", settings["dtype"], device)
        assert data.image_shape is not None
        train, test = standardized(data)
        net = thesis_cnn(
            settings["channels"],
            image_shape=data.image_shape,
            hidden=settings["hidden"],
            classes=data.classes,
            activation=settings["activation"],
            backend=backend,
        )
        return TorchProblem(
            net,
            SoftmaxCrossEntropy(),
            torch.from_numpy(train),
            data.train_targets,
            batch_size=settings["batch_size"],
            test=(torch.from_numpy(test), data.test_targets),
            backend=backend,
            initialization="reset",
        )

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one job, each with the data it had."""
        data = _data(settings)
        return [{**run, "data": f"{data.name}: {data.note}"} for run in super().run_job(job, settings, device)]


def _data(settings: Mapping[str, Any]) -> Dataset:
    data = load(settings["split_seed"], *settings["rows"], settings["fallback"])
    return halved(data) if settings["halved"] else data


class LatePhase(NamedTuple):
    """How a method behaved in the last looks of its runs, medians over seeds.

    mean, deviation : of the test accuracy over these looks, within a run.

    drop : the best test accuracy of the run less its last one.

    refused, unmoved : trials refused, and steps without an accepted one, each per step of the late phase; NaN for a
    method that refuses nothing.
    """

    mean: float
    deviation: float
    drop: float
    refused: float
    unmoved: float


def late_phase(record: Mapping[str, Any], method: str, *, share: float = 0.25, case: str = CASE) -> LatePhase:
    """What a method did in the last ``share`` of its looks. Runs that ended early are left out.

    Raises
    ------
    ValueError
        ``share`` is outside (0, 1); no run of the method came to its end.
    """
    share = check_between("share", share, 0.0, 1.0)
    rows = []
    for run in runs_of(record, case, method):
        if run["status"] != "budget":
            continue
        curve = run["curve"]
        right, count = 1 - floats(curve["test_error"]), len(curve["step"])
        late = max(2, round(share * count))
        taken = curve["step"][-1] - curve["step"][-late - 1]
        # A row's totals are those of the steps before it.
        lost = [np.sum(floats(curve[k])[-late:]) / taken if k in curve else np.nan for k in ("refused", "unmoved")]
        rows.append([right[-late:].mean(), right[-late:].std(), right.max() - right[-1], *lost])
    if not rows:
        raise ValueError(f"no run of {method} came to its end")
    return LatePhase(*np.median(np.asarray(rows, dtype=float), axis=0).tolist())
