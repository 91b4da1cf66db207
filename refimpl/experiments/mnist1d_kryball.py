"""KryBall beside SGD and Adam on MNIST-1D, a network 40-256-10 (chapter 12).

The comparison of the KryBall thesis's sections 5.3.3, 5.3.4 and 5.4 (table 5.2, figures 5.4 to 5.7). What the thesis
fixes: 4000 training and 1000 test signals, 256 hidden units, softplus, softmax cross-entropy, minibatches of 512, 100
epochs, M = 5 and r = 3. Ours: one hidden layer (the text could also mean two); weights and biases start uniform within
1/sqrt(fan_in), Torch's default; float32; each minibatch is drawn anew, and 8 of them make an epoch.

The thesis tunes by a Bayesian search and reports one run. Here SGD with momentum has a grid of rates for each of three
momenta and Adam one of rates, judged by training loss at the end of a run on a seed of its own; every method runs from
several seeds; KryBall is not tuned.

Cases:

* ``minibatch``: the methods of table 5.2, KryBall repaired, its minibatch form, CurveBall, and two methods that are
  KryBall for 30 epochs and SGD or Adam then, with a rate tuned for that.
* ``full-batch``: 100 steps on all 4000 signals.
* ``relu``, ``tanh``, ``gelu``: other activations (softplus is ``minibatch``). GELU needs Torch.
* ``dimension``, ``refresh``: the published method with other M (r = 1) and other r (M = 5).
* ``landscape``: the loss along steps of SGD with momentum, early and late.

Scales: ``full``, 5 seeds (3 for ``dimension`` and ``refresh``) and a look at every epoch; ``ci``, 3 seeds for
``minibatch`` (1 for variants of the minibatch form), 2 for ``full-batch`` and the activations, 1 for the rest, and a
look at every fourth epoch, otherwise the same; ``smoke``, a few steps with 8 units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from refimpl.arrays import Array, as_generator, get_backend, norm
from refimpl.experiments.training import Tuned, one_thread
from refimpl.experiments.watched import Ending, Switching, WatchedStudy, ending, floats
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.oracle import Problem
from refimpl.problems.datasets import Dataset, mnist1d
from refimpl.problems.landscape import Slice, slice_along
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP, initial_parameters

PAPER: dict[str, tuple[float, float, float]] = {
    "adam": (0.144, 0.668, 0.668),
    "heavy-ball": (0.326, 0.669, 0.644),
    "kryball": (0.001, 0.685, 0.685),
}
"""Training loss at the end, best and last test accuracy: KryBall thesis, table 5.2, MNIST1D MLP."""

ACTIVATIONS = ("relu", "tanh", "gelu")
EPOCH = 8
"""Steps of an epoch."""

SWITCH = 30 * EPOCH
"""Where the methods that switch do so."""

MOMENTA = (0.9, 0.95, 0.98)
SLICING = HeavyBall(0.2, 0.9)
"""The method along whose steps the loss is cut."""

DIMENSIONS = (1, 2, 3, 5, 7, 10)
REFRESHES = (1, 2, 3, 5, 10)
_CASES = ("minibatch", "full-batch", *ACTIVATIONS, "dimension", "refresh")
_STEPS = {"smoke": (6, 3), "ci": (100 * EPOCH, 100), "full": (100 * EPOCH, 100)}
"""Steps on minibatches, and on full batches."""

_SEEDS: dict[str, dict[str, int]] = {
    "smoke": {},
    "ci": {"minibatch": 3, "full-batch": 2, **dict.fromkeys(ACTIVATIONS, 2)},
    "full": {**dict.fromkeys(_CASES, 5), "dimension": 3, "refresh": 3},
}
_VARIANTS = ("stochastic-kryball-rho-0.98", "stochastic-kryball-radius-1")
"""Methods with one seed where others have up to three."""


def methods(case: str) -> dict[str, Optimizer | Tuned]:
    """The methods of a case by name; a ValueError for an unknown case."""
    printed, stochastic = KryBall.published(refresh=1), StochasticKryBall()
    adam = Tuned(Adam(learning_rate=1.0), (0.05, 0.03, 0.02, 0.01))
    if case == "minibatch":
        return {
            "adam": adam,
            **{f"heavy-ball-{mu}": Tuned(HeavyBall(1.0, mu), (0.3, 0.2, 0.1, 0.05)) for mu in MOMENTA},
            "kryball-published": KryBall.published(),
            "kryball-refresh-1": printed,
            "kryball-last-step": _last_step(10),
            "kryball": KryBall(),
            "stochastic-kryball": stochastic,
            "stochastic-kryball-rho-0.98": StochasticKryBall(momentum=0.98),
            "stochastic-kryball-radius-1": StochasticKryBall(maximum_radius=1.0),
            "curveball": CurveBall(),
            "switch-to-heavy-ball": Tuned(Switching(printed, HeavyBall(1.0, 0.98), SWITCH, 1.0), (0.2, 0.1, 0.05)),
            "switch-to-adam": Tuned(Switching(printed, Adam(1.0), SWITCH, 1.0), (0.03, 0.02, 0.01)),
        }
    if case == "full-batch":
        return {
            "adam": adam,
            "kryball-published": KryBall.published(),
            "kryball-refresh-1": printed,
            "kryball-last-step-5": _last_step(5),
            "kryball-last-step-10": _last_step(10),
            "kryball": KryBall(),
        }
    if case in ACTIVATIONS:
        return {"adam": adam, "kryball-refresh-1": printed, "stochastic-kryball": stochastic}
    if case == "dimension":  # M = 5 is in "minibatch", and so are r = 1 and r = 3
        return {f"M={m}": KryBall.published(refresh=1, dimension=m) for m in DIMENSIONS if m != 5}
    if case == "refresh":
        return {f"r={r}": KryBall.published(refresh=r) for r in REFRESHES if r not in (1, 3)}
    raise ValueError(f"unknown case {case!r}; choose one of {list(_CASES)}")


def _seeds(scale: str, case: str, method: str) -> int:
    return 1 if scale == "ci" and method in _VARIANTS else _SEEDS[scale].get(case, 1)


def _last_step(dimension: int) -> KryBall:
    """As printed with r = 1, but for the momentum, and for products that are known already."""
    return KryBall(dimension=dimension, gain=0.0, directions="three")


@dataclass(frozen=True)
class Mnist1dKryBall(WatchedStudy):
    """The methods on the network 40-256-10, and slices of its loss."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "KryBall, SGD, Adam on MNIST-1D: minibatches, full batches, activations, M and r, slices of the loss"

    def plain_methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods of one case."""
        return methods(case)

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Network, and steps and seeds per method."""
        few, steps = scale == "smoke", dict(zip(("minibatch", "full-batch"), _STEPS[scale], strict=True))
        plan = {
            case: {
                name: {"steps": steps.get(case, steps["minibatch"]), "seeds": seeds or _seeds(scale, case, name)}
                for name in methods(case)
            }
            for case in _CASES
        }
        return {
            "widths": [40, 8 if few else 256, 10],
            "activation": "softplus",
            "initialization": "torch",
            "batch_size": 512,
            "dtype": "float32",
            "epoch": {case: 1 if case == "full-batch" else EPOCH for case in _CASES},
            "looks": {"smoke": 3, "ci": 26, "full": 101}[scale],
            "plan": plan,
            "methods": {case: {name: repr(method) for name, method in methods(case).items()} for case in _CASES},
            "landscape": {
                "method": repr(SLICING),
                "steps": [0, 1, 5] if few else [0, EPOCH, 100 * EPOCH - 1],
                "points": 5 if few else 41,
                "seeds": 1,
            },
        }

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """Those of the cases, and one for the slices of each seed."""
        sliced = [f"landscape/heavy-ball/{seed}" for seed in range(settings["landscape"]["seeds"])]
        return super().jobs(settings) + sliced

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Slices and training know nothing of each other's settings."""
        if job.startswith("landscape/"):
            return {key: value for key, value in settings.items() if key not in ("plan", "methods", "looks")}
        return {key: value for key, value in super().job_settings(job, settings).items() if key != "landscape"}

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Problem:
        """The network with its data."""
        data, loss = _data(), SoftmaxCrossEntropy()
        widths = settings["widths"]
        shared: dict[str, Any] = {
            "batch_size": None if case == "full-batch" else settings["batch_size"],
            "test": (data.test_inputs, data.test_targets),
        }
        activation = case if case in ACTIVATIONS else settings["activation"]
        library = "numpy" if device == "cpu" and activation != "gelu" else "torch"
        backend = get_backend(library, settings["dtype"], device)
        if activation != "gelu":
            return MLP(
                widths, data.train_inputs, data.train_targets, loss=loss, activation=activation, backend=backend,
                initialization=settings["initialization"], **shared,
            )  # fmt: skip
        from refimpl.problems.models import mlp_module
        from refimpl.problems.torch_net import TorchProblem

        return TorchProblem(
            mlp_module(widths, activation=activation, backend=backend),
            loss,
            data.train_inputs,
            data.train_targets,
            backend=backend,
            initialization=lambda rng: initial_parameters(widths, rng, settings["initialization"]),
            **shared,
        )

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one method, or the slices of one seed."""
        if not job.startswith("landscape/"):
            return super().run_job(job, settings, device)
        chosen, seed = settings["landscape"], int(job.split("/")[-1])
        problem = self.problem("minibatch", settings, device)
        with one_thread(device):
            cuts, loss = cut_along(
                problem, SLICING, self.start(problem, seed), at=chosen["steps"], seed=seed, points=chosen["points"]
            )
        run = {"key": job, "case": "landscape", "method": "heavy-ball", "role": "slices", "seed": seed}
        return [{**run, "status": "budget", "steps": max(chosen["steps"]) + 1, "loss": loss, "slices": cuts}]


def cut_along(
    problem: Any, method: Optimizer, x: Array, *, at: Sequence[int], seed: int, points: int
) -> tuple[list[dict[str, Any]], float]:
    """The loss along the steps ``at`` of a run on the minibatches of ``seed``, and the loss where the run ends.

    Each is cut four times: along the step itself, and along it with length 1 (``unit``); on the minibatch of the step,
    and on all data.
    """
    rng, state, cuts = as_generator([seed, 1]), method.init(x), []
    for number in range(max(at) + 1):
        point = problem.at(x, problem.draw(rng))
        found = method.step(point, state)
        if number in at:
            step = found.x - x
            length = float(norm(step))
            for unit, sample in ((False, point.sample), (False, None), (True, point.sample), (True, None)):
                cut = slice_along(problem, x, step / length if unit else step, points=points, sample=sample)
                kind = {"step": number, "unit": unit, "all": sample is None, "length": length}
                cuts.append({**kind, **{name: value.tolist() for name, value in cut._asdict().items()}})
        x, state = found.x, found.state
    return cuts, float(problem.loss(x))


@lru_cache(maxsize=1)
def _data() -> Dataset:
    return mnist1d()


# -- reading a record -------------------------------------------------------------------------------------------------


def tuned_momentum(record: Mapping[str, Any]) -> str:
    """Which ``heavy-ball-…`` reached the smallest training loss on the tuning seed."""
    tuning = [run for run in record["runs"] if run["role"] == "tuning" and run["method"].startswith("heavy-ball-")]
    ended = [run for run in tuning if run["loss"] is not None]
    if not ended:
        raise ValueError("the record has no tuning run of heavy-ball that came to its end")
    return str(min(ended, key=lambda run: run["loss"])["method"])


def sensitivity(record: Mapping[str, Any]) -> dict[str, dict[int, Ending]]:
    """How the published method ended with other M (``"dimension"``, r = 1) and other r (``"refresh"``, M = 5)."""
    shared = {"dimension": {5: "kryball-refresh-1"}, "refresh": {1: "kryball-refresh-1", 3: "kryball-published"}}
    found: dict[str, dict[int, Ending]] = {}
    for case, letter, values in (("dimension", "M", DIMENSIONS), ("refresh", "r", REFRESHES)):
        seeds = {run["seed"] for run in record["runs"] if run["case"] == case}
        same = {**record, "runs": [run for run in record["runs"] if run["seed"] in seeds]}
        names = {value: ("minibatch", shared[case][value]) for value in shared[case]}
        found[case] = {value: ending(same, *names.get(value, (case, f"{letter}={value}"))) for value in values}
    return found


def slices(record: Mapping[str, Any], *, unit: bool = False, whole: bool = True) -> dict[int, Slice]:
    """The loss along steps of SGD by number of the step, of the first seed that has them.

    ``unit``: along the step with length 1. ``whole``: on all data, not on the minibatch of the step.
    """
    cuts = next((run["slices"] for run in record["runs"] if run["role"] == "slices"), None)
    if cuts is None:
        raise ValueError("the record has no slices; run it again")
    names = Slice._fields
    wanted = [cut for cut in cuts if (cut["unit"], cut["all"]) == (unit, whole)]
    return {cut["step"]: Slice(*(floats(cut[name]) for name in names)) for cut in wanted}
