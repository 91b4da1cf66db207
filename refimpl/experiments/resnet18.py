"""ResNet-18 on CIFAR-10: first-order methods, tensor preconditioners and the book's methods at the same budget.

The network of the CurveBall paper, of the KryBall thesis and of the series paper. A race gives every method the same
work in gradient equivalents (scale ``ci``) or the same seconds on a GPU (``full``). The loss of a step is that of its
minibatch with BatchNorm in training mode, trials included; running statistics advance once per step, at the place where
it began; losses and errors of the whole sets are measured in evaluation mode.

What is tuned: the learning rates of SGD with momentum 0.9, AdamW, Muon, SOAP, Shampoo, K-FAC, the series and
``lanczos-5-tuned``, by the training loss after a third of the budget, on a seed that is not reported. Neither the test
photographs nor a validation set has a say. The rates of the first five follow half a cosine down to a tenth where the
budget is a number of steps; the others have constant ones. Everything else is as its own file has it.
``series-2-published`` has the knobs of the series paper's table 3 (K = 2, N = 0), which were tuned there for
minibatches of 3200 and another stem.

Cases:

* ``relu``: the race. ``softplus``: the curvature methods again with a smooth activation, and SGD for comparison.
* ``authors-stem`` (``full``): the series paper's protocol, ImageNet's stem on 32 x 32 pixels, minibatches of 3200, 72
  epochs; SGD and Adam with the paper's rates.
* ``cifar-stem`` (``full``): the usual stem, width 64, minibatches of 128 with random crops and mirrored pictures, 60
  seconds each.

Scales:

* ``ci``: width 8, pictures of 16 x 16 pixels (2 x 2 averaged), 4096 training and 1024 test photographs, minibatches of
  64, no augmentation, a budget of 300 gradients (150 with softplus): nearly 5 epochs for a first-order method.
* ``smoke``: a few steps of a tiny network. Where CIFAR-10 cannot be had, ``ci`` and ``smoke`` use digits of 8 x 8
  pixels and every run says so (``data``); ``full`` refuses.
* ``full``: 45,000 training photographs of 50,000 in ``authors-stem`` (the paper kept a tenth for validation), all in
  ``cifar-stem``. For a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from refimpl.arrays import get_backend
from refimpl.experiments.cifar_kryball import halved
from refimpl.experiments.kfac_conv import ConvKFAC
from refimpl.experiments.race_methods import fixed_lanczos, untuned
from refimpl.experiments.races import RaceStudy, TunedSchedule
from refimpl.experiments.small_convnets import load
from refimpl.experiments.training import Tuned
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.torch_library import MuonWithAdamW, Shampoo, Soap
from refimpl.problems.datasets import Dataset
from refimpl.problems.losses import SoftmaxCrossEntropy

PAPER_SERIES: dict[str, tuple[float, float, float]] = {
    "series-2-published": (1.275, 1.497, 1.504),
    "series-adaptive": (0.7614, 1.595, 1.596),
    "sgd": (0.9871, 1.597, 1.617),
    "adam": (0.01125, 3.803, 3.761),
    "kfac-kazuki": (0.03947, 3.29, 3.226),
    "kfac-deepmind": (0.01466, 1.727, 1.683),
}
"""Training, test and validation loss at the end on CIFAR-10: series paper, table 5 (medians of 50 seeds)."""

PAPER_CURVEBALL: dict[str, tuple[float, float]] = {
    "curveball": (0.7, 15.3), "curveball-fixed": (1.3, 16.1), "heavy-ball": (2.1, 12.8), "adam": (1.4, 14.0),
}  # fmt: skip
"""Best training and validation error in percent, ResNet-18: CurveBall paper, table 2."""

PAPER_KRYBALL: dict[str, tuple[float, float, float]] = {
    "adam": (7.5e-5, 0.843, 0.842), "heavy-ball": (1e-4, 0.832, 0.829), "kryball": (0.002, 0.832, 0.822),
}  # fmt: skip
"""Training loss at the end, best and last test accuracy, ResNet-18: KryBall thesis, table 5.2."""

SERIES_CIFAR: dict[str, float] = {"learning_rate": 0.562, "momentum": 0.115, "damping": 2.44e-3}
"""K = 2, N = 0: series paper, table 3."""

SMOOTH = ("heavy-ball", "series-2", "lanczos-5", "curveball", "kryball", "stochastic-kryball")
"""The methods of the case ``softplus``."""

_MODELS: dict[str, dict[str, Any]] = {
    "smoke": {"width": 4, "rows": [64, 32], "batch_size": 16, "halved": True, "augment": None},
    "ci": {"width": 8, "rows": [4096, 1024], "batch_size": 64, "halved": True, "augment": None},
    "full": {"width": 64, "rows": [None, None], "batch_size": 128, "halved": False, "augment": "crop-flip"},
}
_PAPER_MODEL = {"stem": "imagenet", "rows": [45000, None], "batch_size": 3200, "augment": None}
_PAPER_STEPS = 72 * 15  # 15 minibatches of 3200 go through 45,000 photographs, the last of them smaller in the paper
_WORK = {"smoke": (8.0, 8.0), "ci": (300.0, 150.0)}
"""Budgets of ``relu`` and ``softplus``, in gradients."""

_SEEDS = {"smoke": 1, "ci": 3, "full": 3}
_LOOKS = {"smoke": 2, "ci": 6, "full": 21}


def contestants(case: str, steps: int | None) -> dict[str, Optimizer | Tuned]:
    """The methods of a case by name; ``steps`` is the length of a first-order method's schedule, None for none."""
    if case == "authors-stem":
        return {
            "sgd": GradientDescent(4.11e-3),
            "adam": Adam(7.70e-5, beta1=1 - 0.00266, beta2=1 - 1e-4, epsilon=3.61e-4),
            "series-2-published": SeriesSaddleFreeNewton.published(2, 0, mode="abs", **SERIES_CIFAR),
            "lanczos-2": untuned()["lanczos-2"],
        }
    if case not in ("relu", "softplus", "cifar-stem"):
        raise ValueError(f"unknown case {case!r}; choose one of ['relu', 'softplus', 'authors-stem', 'cifar-stem']")

    def scheduled(method: Any, *rates: float) -> Tuned:
        return Tuned(method, rates) if steps is None else TunedSchedule(method, rates, steps, warmup=steps // 20)

    series = {"momentum": 0.115, "damping": 2.44e-3, "mode": "abs"}
    plain = untuned()
    found: dict[str, Optimizer | Tuned] = {
        "heavy-ball": scheduled(HeavyBall(1.0, 0.9), 0.1, 0.03, 0.01),
        "adamw": scheduled(AdamW(1.0), 0.01, 0.003, 0.001),
        "muon": scheduled(MuonWithAdamW(1.0), 0.1, 0.03, 0.01),
        "soap": scheduled(Soap(1.0), 0.3, 0.1, 0.03),
        "shampoo": scheduled(Shampoo(1.0, frequency=5), 1.0, 0.3, 0.1),
        "kfac": Tuned(ConvKFAC(1.0), (0.01, 0.003, 0.001)),
        "series-2-published": SeriesSaddleFreeNewton.published(2, 0, mode="abs", **SERIES_CIFAR),
        "series-2": Tuned(SeriesSaddleFreeNewton(2, **series), (30.0, 10.0, 3.0)),  # type: ignore[arg-type]
        "series-5": Tuned(SeriesSaddleFreeNewton(5, **series), (10.0, 3.0, 1.0)),  # type: ignore[arg-type]
        "lanczos-5-tuned": fixed_lanczos(),
        **plain,
    }
    if case == "softplus":
        return {name: found[name] for name in SMOOTH}
    if case == "cifar-stem":
        chosen = ("heavy-ball", "adamw", "muon", "soap", "kfac", "series-2", "lanczos-2", "lanczos-5", "curveball")
        softplus = {"kryball": KryBall(), "stochastic-kryball": plain["stochastic-kryball"]}
        return {**{name: found[name] for name in chosen}, **softplus}
    return found


@dataclass(frozen=True)
class ResNet18(RaceStudy):
    """The race on ResNet-18."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "every method at equal work on ResNet-18, CIFAR-10; Muon, SOAP, K-FAC as baselines (needs Torch)"

    def methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods of a case, with constant rates."""
        return contestants(case, None)

    def race_methods(self, case: str, settings: Mapping[str, Any]) -> Mapping[str, Optimizer | Tuned]:
        """The methods of a case; a budget of work is a schedule of as many steps for a first-order method."""
        work = next(iter(settings["plan"][case].values()))["budget"].get("work")
        return contestants(case, None if work is None else int(work))

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Network and data per case, and the budget and seeds per method."""
        model = {"stem": "cifar", "activation": "relu", **_MODELS[scale]}
        if scale == "full":
            cases = {"authors-stem": {**model, **_PAPER_MODEL}, "cifar-stem": {**model, "activation": "softplus"}}
            budgets: dict[str, dict[str, float]] = {
                "authors-stem": {"steps": _PAPER_STEPS},
                "cifar-stem": {"seconds": 60.0},
            }
        else:
            cases = {"relu": model, "softplus": {**model, "activation": "softplus"}}
            budgets = {case: {"work": work} for case, work in zip(cases, _WORK[scale], strict=True)}
        plan = {
            case: {
                name: {"budget": budgets[case], "seeds": seeds or _SEEDS[scale]}
                for name in contestants(case, None)
            }
            for case in cases
        }  # fmt: skip
        found = {
            "cases": cases,
            "fallback": scale != "full",
            "dtype": "float32",
            "split_seed": 0,
            "looks": _LOOKS[scale],
            "plan": plan,
        }
        methods = {case: {name: repr(m) for name, m in self.race_methods(case, found).items()} for case in cases}
        return {**found, "methods": methods}

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the job's own case."""
        own = super().job_settings(job, settings)
        return {**own, "cases": settings["cases"][job.split("/")[0]]}

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Any:
        """The network with its pictures, weights to be drawn by ``start``."""
        from refimpl.problems.image_problem import ImageProblem
        from refimpl.problems.resnet import resnet18

        own, backend = settings["cases"][case], get_backend("torch", settings["dtype"], device)
        data, pixels, test = _pictures(settings["split_seed"], *own["rows"], own["halved"], settings["fallback"])
        assert data.image_shape is not None
        net = resnet18(
            width=own["width"],
            stem=own["stem"],
            image_shape=data.image_shape,
            classes=data.classes,
            activation=own["activation"],
            backend=backend,
        )
        return ImageProblem(
            net,
            SoftmaxCrossEntropy(),
            pixels,
            data.train_targets,
            batch_size=own["batch_size"],
            test=(test, data.test_targets),
            augment=own["augment"],
            backend=backend,
            route="kept-graph",
            initialization="reset",
        )

    def about(self, case: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Which pictures there were."""
        own = settings["cases"][case]
        data, _, _ = _pictures(settings["split_seed"], *own["rows"], own["halved"], settings["fallback"])
        return {"data": f"{data.name}: {data.note}"}

    def data(self, settings: Mapping[str, Any]) -> str:
        """Which pictures this computer has."""
        case = next(iter(settings["cases"]))
        return str(self.about(case, settings)["data"])


@lru_cache(maxsize=2)
def _pictures(
    split_seed: int, train_rows: int | None, test_rows: int | None, half: bool, fallback: bool
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """The data, and its training and test pictures as bytes (rows, channels, height, width)."""
    data = load(split_seed, train_rows, test_rows, fallback)
    data = halved(data) if half else data
    assert data.image_shape is not None
    top = max(1.0, float(data.train_inputs.max()))
    parts = [np.rint(255 / top * part).astype(np.uint8).reshape(-1, *data.image_shape)
             for part in (data.train_inputs, data.test_inputs)]  # fmt: skip
    return data, parts[0], parts[1]
