"""What the study of the character transformer takes as given: learning rates, and AMOS's thresholds, from one seed.

Everything is chosen on a seed that is never reported, by the loss on fixed windows of the *training* text at the end of
a run. The thresholds are quantiles of the tensors' Lipschitz estimates in the run of the chosen Sophia, over all its
estimates but the first (which has none before it).

Jobs: ``adamw`` and ``sgd``; ``sophia``, first its own grid, then AMOS with the 75 % threshold: its learning rate (with
the best rho and the quantiles of Sophia at that rate) and the rate for offloaded tensors, then what the other
thresholds offload; ``small``, the smaller model's threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.arrays import Array, as_generator, get_backend, to_numpy
from refimpl.experiments.char_methods import PERCENTS, adamw, amos, scheduled
from refimpl.experiments.records import read_record
from refimpl.experiments.runner import Experiment
from refimpl.experiments.token_runs import train_tokens
from refimpl.experiments.training import TUNING_SEED, evenly, one_thread
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.text import Text, tiny_shakespeare, tiny_shakespeare_or_fallback

_MODELS: dict[str, dict[str, Any]] = {
    "smoke": {"width": 8, "layers": 1, "heads": 2, "context": 8, "batch_size": 4, "windows": 4},
    "ci": {"width": 64, "layers": 2, "heads": 4, "context": 64, "batch_size": 16, "windows": 128},
    "full": {"width": 768, "layers": 12, "heads": 12, "context": 256, "batch_size": 64, "windows": 128},
}
_SMALL: dict[str, dict[str, int]] = {
    "smoke": {"width": 4, "layers": 1, "heads": 2},
    "ci": {"width": 32, "layers": 1, "heads": 4},
    "full": {"width": 384, "layers": 6, "heads": 6},
}
_STEPS = {"smoke": (9, 2, 7), "ci": (800, 50, 400), "full": (2010, 100, 1000)}
_GRIDS: dict[str, dict[str, list[float]]] = {
    "smoke": {"adamw": [1e-2], "sgd": [0.5, 1.0], "sophia": [1e-3, 2e-3], "rho": [0.1], "offload": [0.5]},
    "ci": {
        "adamw": [3e-3, 1e-2, 3e-2],
        "sgd": [0.5, 1.5, 5.0],
        "sophia": [3e-4, 1e-3, 3e-3],
        "rho": [0.04, 0.1],
        "offload": [0.1, 0.5, 1.5],
    },
    "full": {
        "adamw": [3e-4, 6e-4, 1e-3],
        "sgd": [0.05, 0.15, 0.5],
        "sophia": [1e-4, 3e-4, 6e-4],
        "rho": [0.04, 0.1],
        "offload": [0.01, 0.05, 0.15],
    },
}


def common_settings(scale: str) -> dict[str, Any]:
    """Model, data and schedule, the same for tuning and study."""
    steps, warmup, few = _STEPS[scale]
    return {
        "model": _MODELS[scale],
        "small_model": {**_MODELS[scale], **_SMALL[scale]},
        "start": "normal, 0.02 sqrt(768 / width)",
        "fallback": scale != "full",
        "dtype": "float32",
        "interval": 3 if scale == "smoke" else 10,
        "plan": {"steps": steps, "warmup": warmup, "floor": 0.1},
        "small": {"steps": few, "warmup": warmup, "floor": 0.1},
        "looks": {"smoke": 3, "ci": 9, "full": 21}[scale],
    }


@dataclass(frozen=True)
class CharTuning(Experiment):
    """Rates and thresholds, on a seed of their own."""

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "learning rates and AMOS's thresholds for char-transformer, on a seed that is not reported (needs Torch)"

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Model and grids; there is one seed, whatever ``seeds`` says."""
        return {**common_settings(scale), "grids": _GRIDS[scale], "seed": TUNING_SEED}

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """With the grids of the job alone."""
        own = {job} if job in ("adamw", "sgd") else {"sophia", "rho", *(["offload"] if job == "sophia" else [])}
        return {**settings, "grids": {name: grid for name, grid in settings["grids"].items() if name in own}}

    def jobs(self, settings: Mapping[str, Any]) -> list[str]:
        """The longest first."""
        return ["sophia", "adamw", "sgd", "small"]

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """The runs of one grid."""
        with one_thread(device):
            if job == "sophia":
                return _tune_sophia(settings, device)
            if job == "small":
                # With the middle of the grid: what is asked is the size of the estimates, not the loss.
                grid = settings["grids"]
                middle = {"learning_rate": grid["sophia"][len(grid["sophia"]) // 2], "rho": grid["rho"][-1]}
                return [_watched_sophia(f"small/{middle}", middle, settings, device, small=True)]
            make = adamw if job == "adamw" else GradientDescent
            return [run(f"{job}/{rate:g}", make(rate), settings, device, rate=rate) for rate in settings["grids"][job]]


def run(
    key: str,
    method: Any,
    settings: Mapping[str, Any],
    device: str,
    *,
    small: bool = False,
    watch: Any = None,
    **extra: Any,
) -> dict[str, Any]:
    """One run on the tuning seed."""
    plan = settings["small" if small else "plan"]
    problem = text_problem(settings, device, small=small)
    start, looks = starting_place(problem, settings["seed"]), evenly(plan["steps"], 3)
    method = scheduled(method, plan)
    found = train_tokens(
        problem, method, start, steps=plan["steps"], seed=settings["seed"], looks=looks, device=device, watch=watch
    )
    name = key.split("/")[0]
    return {"key": key, "case": "tuning", "method": name, "role": "tuning", "seed": settings["seed"], **extra, **found}


def _watched_sophia(
    key: str, knobs: dict[str, float], settings: Mapping[str, Any], device: str, *, small: bool = False
) -> dict[str, Any]:
    """Sophia with these knobs, and the quantiles of the tensors' Lipschitz estimates on the way."""
    seen: list[np.ndarray] = []

    def watch(step: int, info: Any) -> None:
        if info.estimated and step > 1:
            seen.append(to_numpy(info.group_lipschitz).astype(float))

    method = amos({"amos": knobs}, settings["interval"])
    found = run(key, method, settings, device, small=small, watch=watch, sophia=knobs)
    return {**found, "quantiles": {str(p): float(np.quantile(np.stack(seen), p / 100)) for p in PERCENTS}}


def _tune_sophia(settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
    grids = settings["grids"]
    runs = [
        _watched_sophia(f"sophia/{rate:g}/{rho:g}", {"learning_rate": rate, "rho": rho}, settings, device)
        for rate in grids["sophia"]
        for rho in grids["rho"]
    ]
    amos_runs = []
    for start in range(0, len(runs), len(grids["rho"])):  # the runs of one learning rate
        below = best_run(runs[start : start + len(grids["rho"])])
        amos_runs += [_offloading(75, rate, below, settings, device) for rate in grids["offload"]]
    best = best_run(amos_runs)
    others = [_offloading(percent, best["rate"], best, settings, device) for percent in PERCENTS if percent != 75]
    return [*runs, *amos_runs, *others]


def _offloading(
    percent: int, rate: float, below: Mapping[str, Any], settings: Mapping[str, Any], device: str
) -> dict[str, Any]:
    """AMOS with a rate for offloaded tensors, and with the Sophia and a quantile of the run ``below``."""
    knobs = {"threshold": below["quantiles"][str(percent)], "offload_rate": rate}
    method = amos({"amos": below["sophia"]}, settings["interval"], **knobs)
    kept = {name: below[name] for name in ("sophia", "quantiles")}
    key = f"amos-{percent}/{below['sophia']['learning_rate']:g}/{rate:g}"
    return run(key, method, settings, device, rate=rate, **kept)


def choices(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the study takes from the record of the tuning runs, as plain JSON values."""
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for entry in record["runs"]:
        by_method.setdefault(entry["method"], []).append(entry)
    best = {name: best_run(runs) for name, runs in by_method.items()}
    return {
        "rates": {name: best[name]["rate"] for name in ("adamw", "sgd")},
        "sophia": dict(best["sophia"]["sophia"]),
        "amos": dict(best["amos-75"]["sophia"]),
        "offload_rate": best["amos-75"]["rate"],
        "thresholds": dict(best["amos-75"]["quantiles"]),
        "fractions": {str(p): best[f"amos-{p}"]["offloaded_mean"] for p in PERCENTS},
        "small_threshold": best["small"]["quantiles"]["50"],
    }


def tuned(folder: Path, scale: str, device: str, workers: int) -> dict[str, Any]:
    """:func:`choices` of the tuning record in ``folder``, which is made first where there is none of this scale."""
    tuning = CharTuning("char-tuning")
    wanted = {"scale": scale, **tuning.settings(scale, None)}
    try:
        record = read_record(tuning.name, folder)
    except ValueError:
        record = {}
    if record.get("settings") != wanted:
        tuning.record(folder, scale=scale, device=device, workers=workers)
        record = read_record(tuning.name, folder)
    return choices(record)


def text_problem(settings: Mapping[str, Any], device: str, *, small: bool = False) -> Any:
    """The model with its text; weights are drawn by :func:`starting_place`."""
    from refimpl.problems.text_problem import TextProblem
    from refimpl.problems.transformer import char_transformer

    sizes, text = dict(settings["small_model" if small else "model"]), load(settings["fallback"])
    backend = get_backend("torch", settings["dtype"], device)
    data = {name: sizes.pop(name) for name in ("batch_size", "windows")}
    module = char_transformer(len(text.alphabet), backend=backend, **sizes)
    return TextProblem(module, text, context=sizes["context"], backend=backend, **data)


def starting_place(problem: Any, seed: int) -> Array:
    """Where the runs of ``seed`` begin."""
    found: Array = problem.initial(as_generator([seed, 0]))
    return found


@lru_cache(maxsize=1)
def load(fallback: bool) -> Text:
    """Tiny Shakespeare, or where ``fallback`` allows it and it cannot be had, an invented language; a line says so."""
    if not fallback:
        return tiny_shakespeare()
    text, note = tiny_shakespeare_or_fallback()
    if note:
        print(note)
    return text


def best_run(runs: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The run with the smallest training loss; runs that diverged do not count. A ValueError where all did."""
    ended = [entry for entry in runs if entry["loss"] is not None and math.isfinite(entry["loss"])]
    if not ended:
        raise ValueError(
            f"none of the runs {[entry['key'] for entry in runs]} led to a finite loss; offer smaller rates"
        )
    return min(ended, key=lambda entry: float(entry["loss"]))
