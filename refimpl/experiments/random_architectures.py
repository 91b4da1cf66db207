"""CurveBall beside SGD and Adam on fifty random CNNs, with nothing tuned to any of them (chapter 9).

The comparison of the CurveBall paper's figure 3 (left) and appendix B.3: 50 networks drawn by
:func:`refimpl.problems.models.draw_architecture`, the same for every method; SGD with momentum 0.9 and Adam at fixed
learning rates, CurveBall with lam = 1 at the start (all networks have batch normalization). Which rates the figure's
legend names is not in the paper's text: here 0.1, 0.01, 0.001 for SGD and 0.01, 0.001, 0.0001 for Adam. Architecture k
is drawn from seed k, which also decides its weights and minibatches.

* ``full``: CIFAR-10, channels 32 … 256, minibatches of 256, 10 epochs (1950 steps); how many epochs the paper ran is
  only in its figure.
* ``ci``: the digits of scikit-learn, 8 x 8 pixels, channels 4 … 16, minibatches of 128, 100 steps (10.7 epochs). Four
  poolings leave a single pixel of such an image, so the networks differ less than the paper's.
* ``smoke``: three architectures, a few steps.

What is compared is the error on minibatches in training mode, averaged between two looks: the running statistics of
batch normalization lag behind a network that learns in 100 steps. One job per architecture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from refimpl.arrays import as_generator, get_backend
from refimpl.experiments.runner import Experiment
from refimpl.experiments.small_convnets import load, picture_problem
from refimpl.experiments.training import Band, band_of, evenly, one_thread, train
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.problems.datasets import Dataset, digits

ARCHITECTURES = 50
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"data": "digits", "channels": [4, 8], "batch_size": 32, "steps": 4, "looks": 3},
    "ci": {"data": "digits", "channels": [4, 16], "batch_size": 128, "steps": 100, "looks": 11},
    "full": {"data": "cifar10", "channels": [32, 256], "batch_size": 256, "steps": 1950, "looks": 21},
}
_KEPT = ("step", "batch_loss", "batch_error", "work", "seconds")
"""Columns of a curve that are kept: 350 runs with all of them would not be a small record."""


def methods() -> dict[str, Optimizer]:
    """The methods by name; ``@`` and a number is the learning rate."""
    found: dict[str, Optimizer] = {"curveball": CurveBall(initial_damping=1.0)}
    found |= {f"heavy-ball@{rate:g}": HeavyBall(learning_rate=rate, momentum=0.9) for rate in (0.1, 0.01, 0.001)}
    return found | {f"adam@{rate:g}": Adam(learning_rate=rate) for rate in (0.01, 0.001, 0.0001)}


def quartiles(record: Mapping[str, Any], method: str, *, x: str = "step", y: str = "batch_error") -> Band:
    """Median and quartiles of column ``y`` over the architectures, against column ``x``.

    The columns are ``step``, ``batch_loss``, ``batch_error``, ``work`` and ``seconds``; the first two means exist from
    the second look on. A run that diverged counts as infinite from there on.
    """
    found = band_of(_runs(record, method), x=x, y=y, spread=(0.25, 0.75))
    return Band(*(column[1:] for column in found)) if y.startswith("batch") else found


TABLE_HEADER = (
    "method", "error %, median", "lower quartile", "upper quartile", "first of all", "work", "seconds", "failed",
)  # fmt: skip


def table(record: Mapping[str, Any]) -> list[list[Any]]:
    """One row per method, as :data:`TABLE_HEADER` says: training error over the last stretch, over the architectures.

    ``first of all`` counts the architectures where this method's error is the smallest (ties count for each).
    """
    names = list(dict.fromkeys(run["method"] for run in record["runs"]))
    last = {name: np.asarray([_final_error(run) for run in _runs(record, name)]) for name in names}
    best = np.min(list(last.values()), axis=0)
    rows = []
    for name in names:
        runs = _runs(record, name)
        low, middle, high = (float(100 * q) for q in np.quantile(last[name], [0.25, 0.5, 0.75], method="nearest"))
        work, seconds = (float(np.median([run["curve"][key][-1] for run in runs])) for key in ("work", "seconds"))
        failed = sum(run["status"] != "budget" for run in runs)
        first = int(np.sum((last[name] == best) & np.isfinite(best)))
        rows.append([name, middle, low, high, first, work, seconds, f"{failed} of {len(runs)}"])
    return rows


@dataclass(frozen=True)
class RandomArchitectures(Experiment):
    """The methods on random CNNs, one job per architecture."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return f"CurveBall, SGD, Adam at fixed settings on {ARCHITECTURES} random CNNs (needs Torch)"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Rule of the architectures, data, steps. ``seeds`` is the number of architectures."""
        return {
            **_SCALES[scale],
            "layers": [3, 10],
            "architectures": seeds or (3 if scale == "smoke" else ARCHITECTURES),
            "dtype": "float32",
            "split_seed": 0,
            "methods": {name: repr(method) for name, method in methods().items()},
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """One per architecture: its number."""
        return [str(index) for index in range(settings["architectures"])]

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the number of architectures."""
        return {key: value for key, value in settings.items() if key != "architectures"}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """Every method on one architecture, from the same weights and with the same minibatches."""
        from refimpl.problems.models import draw_architecture, random_cnn

        seed, data, backend = int(job), _data(settings), get_backend("torch", settings["dtype"], device)
        drawn = draw_architecture(as_generator(seed), layers=settings["layers"], channels=settings["channels"])
        assert data.image_shape is not None
        about = {"architecture": drawn._asdict(), "data": f"{data.name}: {data.note}", "seed": seed, "role": "run"}
        runs = []
        for name, method in methods().items():
            # A new network each time: the statistics of batch normalization belong to a run.
            net = random_cnn(drawn, image_shape=data.image_shape, classes=data.classes, backend=backend)
            problem = picture_problem(net, data, settings["batch_size"], backend)
            start = problem.initial(as_generator([seed, 0]))
            looks = evenly(settings["steps"], settings["looks"])
            with one_thread(device):
                run = train(problem, method, start, steps=settings["steps"], seed=seed, looks=looks, device=device)
            run["error"] = run["curve"]["error"][-1] if run["status"] == "budget" else None
            run["curve"] = {key: run["curve"][key] for key in _KEPT}
            runs.append({"key": f"{job}/{name}", "case": job, "method": name, "parameters": problem.n, **about, **run})
        return runs


def _data(settings: Mapping[str, Any]) -> Dataset:
    if settings["data"] == "digits":
        return digits(settings["split_seed"])
    return load(settings["split_seed"], None, None, False)


def _runs(record: Mapping[str, Any], method: str) -> list[Mapping[str, Any]]:
    found = [run for run in record["runs"] if run["method"] == method]
    if not found:
        raise ValueError(f"the record has no method {method!r}; it has {sorted({r['method'] for r in record['runs']})}")
    return found


def _final_error(run: Mapping[str, Any]) -> float:
    value = run["curve"]["batch_error"][-1]
    return float("inf") if run["status"] != "budget" or value is None else float(value)
