"""AMOS and its controls on a transformer of characters (chapter 15).

The experiment of the ELMO paper's section 4 (its figure 1) at a size for one core, with what the paper leaves out:
random tensors at the same share, tensors fixed beforehand, frozen tensors instead of slow ones, and several seeds.

The model is :func:`refimpl.problems.transformer.char_transformer` on Tiny Shakespeare; minibatches are windows at
random places, and depend on the seed alone. What is judged is the loss at the end on fixed windows of the validation
text.

Cases, with the methods of :data:`refimpl.experiments.char_methods.CASES`:

* ``main``: AdamW, SGD, Sophia with its own rates and with those of AMOS (``sophia-amos``); AMOS with thresholds at
  three quantiles of the Lipschitz estimates; random tensors at the mean shares that AMOS offloaded on the tuning seed;
  two static sets.
* ``side``: freezing; the thresholds without a number; groups of constant size; four draws for each estimate.
* ``momentum``: a smaller model: what is offloaded by alpha, with and without bias correction.
* ``noise``: how much of a change of the estimate of the curvature is noise.
* ``paper``: the paper's own settings, with scale ``full`` (and ``smoke``).

Rates, thresholds and shares come from :mod:`refimpl.experiments.char_tuning`: from a seed that is not reported, by the
training loss. The thresholds are hindsight all the same, and the static sets were found by looking at which tensors
have the largest estimates.

Scales: ``ci``, 106,880 parameters, 800 steps, 5 seeds of ``main`` and 3 of the rest. ``full``, 12 layers and 12 heads
for 2010 steps as in the paper, which does not tell width, context and batch (768, 256 and 64 are ours), 3 seeds; for a
GPU. ``smoke``, a few steps of a tiny model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.experiments.char_methods import CASES, PAPER, build
from refimpl.experiments.char_tuning import choices, common_settings, load, starting_place, text_problem, tuned
from refimpl.experiments.records import read_record
from refimpl.experiments.runner import Experiment
from refimpl.experiments.token_runs import noise_of_estimates, train_tokens
from refimpl.experiments.training import Band, band, evenly, one_thread, runs_of

__all__ = ["CASES", "PAPER", "CharTransformer", "curves", "estimates", "noise", "offloading", "table"]

_SEEDS = {
    "smoke": {"main": 1, "side": 1, "momentum": 1, "paper": 1},
    "ci": {"main": 5, "side": 3, "momentum": 3, "paper": 0},
    "full": {"main": 3, "side": 1, "momentum": 1, "paper": 1},
}
_NOISE: dict[str, dict[str, Any]] = {
    "smoke": {"places": [0, 3], "apart": 3, "draws": 2, "seed": 0},
    "ci": {"places": [50, 200, 500, 780], "apart": 10, "draws": 100, "seed": 0},
    "full": {"places": [100, 500, 1250, 1990], "apart": 10, "draws": 100, "seed": 0},
}


@dataclass(frozen=True)
class CharTransformer(Experiment):
    """The methods on the character transformer. ``chosen`` is what the tuning seed decided; ``prepare`` fills it in."""

    chosen: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "AMOS, Sophia, AdamW, SGD and controls on a character transformer, Tiny Shakespeare (needs Torch)"

    def prepare(self, folder: Path, *, scale: str, device: str = "cpu", workers: int = 1, run: bool = True) -> None:
        """What the record ``char-tuning`` of ``folder`` chose; it is made first where there is none of this scale."""
        found = tuned(folder, scale, device, workers) if run else choices(read_record("char-tuning", folder))
        self.chosen.clear()
        self.chosen.update(found)

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Model, plan, and what was chosen."""
        plan = {case: (seeds or count) if count else 0 for case, count in _SEEDS[scale].items()}
        return {**common_settings(scale), "seeds": plan, "noise": _NOISE[scale], "chosen": dict(self.chosen)}

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """``case/method/seed``, and ``noise``."""
        found = [
            f"{case}/{method}/{seed}"
            for case, methods in CASES.items()
            for seed in range(settings["seeds"][case])
            for method in methods
        ]
        return [*found, "noise"]

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the numbers of seeds; only the places of the noise depend on theirs."""
        own = {key: value for key, value in settings.items() if key != "seeds"}
        return own if job == "noise" else {key: value for key, value in own.items() if key != "noise"}

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """One seed of one method, or the noise."""
        with one_thread(device):
            if job == "noise":
                return [_noise_run(settings, device)]
            case, name, last = job.split("/")
            seed, small = int(last), case == "momentum"
            plan = settings["small" if small else "plan"]
            problem = text_problem(settings, device, small=small)
            found = train_tokens(
                problem,
                build(case, name, settings["chosen"], settings, seed),
                starting_place(problem, seed),
                steps=plan["steps"],
                seed=seed,
                looks=evenly(plan["steps"], settings["looks"]),
                device=device,
            )
        about = {"key": job, "case": case, "method": name, "role": "run", "seed": seed, "data": _data_line(settings)}
        if "lipschitz" in found:
            about["tensors"] = [tensor for tensor, _ in problem.module.named_parameters()]
        return [{**about, **found}]


def _noise_run(settings: Mapping[str, Any], device: str) -> dict[str, Any]:
    options, problem = settings["noise"], text_problem(settings, device)
    method = build("main", "sophia", settings["chosen"], settings, options["seed"])
    rows = noise_of_estimates(
        problem, method, starting_place(problem, options["seed"]), steps=settings["plan"]["steps"], **options
    )
    run = {"key": "noise", "case": "noise", "method": "sophia", "role": "noise", "seed": options["seed"], "noise": rows}
    return {**run, "status": "budget", "steps": settings["plan"]["steps"], "loss": None, "data": _data_line(settings)}


def _data_line(settings: Mapping[str, Any]) -> str:
    text = load(settings["fallback"])
    return f"{text.name}: {text.note}"


# -- reading a record -------------------------------------------------------------------------------------------------

TABLE_HEADER = (
    "method", "validation loss", "smallest", "largest", "training loss", "offloaded %", "at most %", "work", "seconds",
    "failed",
)  # fmt: skip


def table(record: Mapping[str, Any], case: str = "main") -> list[list[Any]]:
    """One row per method of ``case``, as :data:`TABLE_HEADER` says, ready for :func:`refimpl.plot.markdown_table`.

    Losses are those at the end: the validation loss as mean over the seeds, with its smallest and largest value; a run
    that diverged counts as infinite. ``offloaded %`` is the mean over seeds and steps of the share of parameters on
    SGD, ``at most %`` its largest value; AdamW and Sophia have 0, SGD has 100.
    """
    rows: list[list[Any]] = []
    for method in _methods(record, case):
        runs = runs_of(record, case, method)
        val, train = ([_lost(run[name]) for run in runs] for name in ("val_loss", "loss"))
        alone = 1.0 if method == "sgd" else 0.0
        mean = 100 * float(np.mean([run.get("offloaded_mean", alone) for run in runs]))
        most = 100 * float(np.max([run.get("offloaded_max", alone) for run in runs]))
        work, seconds = (float(np.median([run["curve"][name][-1] for run in runs])) for name in ("work", "seconds"))
        failed = sum(run["status"] != "budget" for run in runs)
        ends = [float(np.mean(val)), min(val), max(val), float(np.mean(train))]
        rows.append([method, *ends, mean, most, work, seconds, f"{failed} of {len(runs)}"])
    return rows


def curves(
    record: Mapping[str, Any],
    case: str = "main",
    chosen: Sequence[str] | None = None,
    *,
    x: str = "step",
    y: str = "val_loss",
) -> dict[str, Band]:
    """For each method (or those ``chosen``) the median and the range over seeds of column ``y`` against ``x``."""
    return {name: band(record, case, name, x=x, y=y) for name in chosen or _methods(record, case)}


def offloading(record: Mapping[str, Any], case: str, method: str) -> np.ndarray:
    """The share of parameters on SGD after each estimate of the curvature, (seeds, estimates)."""
    runs = [run for run in runs_of(record, case, method) if run["status"] == "budget"]
    if not runs or "offloaded" not in runs[0]:
        raise ValueError(f"no run of {(case, method)!r} that came to its end offloads anything")
    return np.asarray([run["offloaded"] for run in runs])


def estimates(
    record: Mapping[str, Any], method: str = "amos-75", seed: int = 0
) -> tuple[list[int], dict[str, np.ndarray]]:
    """Steps of the looks that have estimates, and for each tensor its Lipschitz estimates there."""
    run = next((run for run in runs_of(record, "main", method) if run["seed"] == seed), None)
    if run is None or "lipschitz" not in run:
        raise ValueError(f"the record has no Lipschitz estimates of {method!r}, seed {seed}")
    there = [k for k, row in enumerate(run["lipschitz"]) if row is not None]
    columns = np.asarray([run["lipschitz"][k] for k in there]).T
    steps = [int(run["curve"]["step"][k]) for k in there]
    return steps, dict(zip(run["tensors"], columns, strict=True))


def noise(record: Mapping[str, Any]) -> list[Mapping[str, float]]:
    """The rows of :func:`refimpl.experiments.token_runs.noise_of_estimates`."""
    found = next((run["noise"] for run in record["runs"] if run["role"] == "noise"), None)
    if found is None:
        raise ValueError("the record has no measurement of the noise; run it again")
    return list(found)


def _methods(record: Mapping[str, Any], case: str) -> list[str]:
    found = dict.fromkeys(run["method"] for run in record["runs"] if run["case"] == case and run["role"] == "run")
    if not found:
        raise ValueError(f"the record has no runs of case {case!r}")
    return list(found)


def _lost(value: float | None) -> float:
    return math.inf if value is None or math.isnan(value) else float(value)
