"""A transformer of characters: first-order methods, tensor preconditioners and the book's methods at equal work.

The model, text, start and schedule of :mod:`refimpl.experiments.char_transformer`, and its rates for AdamW, Sophia and
AMOS with the 90 % threshold, from the record ``char-tuning``. The rates of SGD with momentum 0.9, Muon and SOAP and of
the series are chosen here, by the loss on fixed windows of the *training* text after a third of the budget, on a seed
that is not reported. The validation text has no say. First-order methods and those with a preconditioner or a diagonal
rise over the first steps and follow half a cosine; the rest is untuned and unscheduled.

Weights decay by 0.1, as in the ELMO paper, with AdamW, Sophia, AMOS, Muon and SOAP; not with the others. AdamW takes
Muon's tables of tokens and positions.

Scales: ``ci``, 106,880 parameters and a budget of 800 gradients, 3 seeds; ``full``, 12 layers and 12 heads for 2010
gradients as in the ELMO paper (which does not tell width, context and batch), one seed, for a GPU; ``smoke``, a few
steps of a tiny model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refimpl.arrays import Array
from refimpl.experiments.char_methods import PAPER, build
from refimpl.experiments.char_tuning import choices, common_settings, load, starting_place, text_problem, tuned
from refimpl.experiments.race_methods import fixed_lanczos, untuned
from refimpl.experiments.races import RaceStudy, TunedSchedule
from refimpl.experiments.records import read_record
from refimpl.experiments.training import Tuned
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.gradient_descent import HeavyBall
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.torch_library import MuonWithAdamW, Soap

CASE = "text"
"""The one model of the study."""

RECORDED = ("adamw", "sophia", "amos-90")
"""Methods whose rates stand in the record ``char-tuning``."""

_TABLES = (0, 1)  # tokens and positions, by place among the parameters
_WORK = {"smoke": 8.0, "ci": 800.0, "full": 2010.0}
_SEEDS = {"smoke": 1, "ci": 3, "full": 1}
_LOOKS = {"smoke": 2, "ci": 9, "full": 21}


def chosen_here(plan: Mapping[str, Any]) -> dict[str, Tuned]:
    """The methods whose rates are chosen by this study; ``plan`` has the schedule's steps, warm-up and floor."""
    decay = PAPER["adamw"]["weight_decay"]

    def scheduled(method: Any, *rates: float) -> TunedSchedule:
        return TunedSchedule(method, rates, plan["steps"], plan["warmup"], plan["floor"])

    return {
        "heavy-ball": scheduled(HeavyBall(1.0, 0.9), 0.5, 0.15, 0.05),
        "muon": scheduled(MuonWithAdamW(1.0, weight_decay=decay, adam=_TABLES), 0.3, 0.1, 0.03),
        "soap": scheduled(Soap(1.0, weight_decay=decay), 0.3, 0.1, 0.03),
        "series-2": Tuned(SeriesSaddleFreeNewton(2, momentum=0.9), (10.0, 3.0, 1.0)),
        "lanczos-5-tuned": fixed_lanczos(),
    }


@dataclass(frozen=True)
class TransformerRace(RaceStudy):
    """The race on the character transformer. ``chosen`` is the record ``char-tuning``; ``prepare`` fills it in."""

    chosen: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def summary(self) -> str:
        """One line for the list of experiments."""
        return "every method at equal work on a character transformer; Muon, SOAP as baselines (needs Torch)"

    def prepare(self, folder: Path, *, scale: str, device: str = "cpu", workers: int = 1, run: bool = True) -> None:
        """What the record ``char-tuning`` of ``folder`` chose; it is made first where there is none of this scale."""
        found = tuned(folder, scale, device, workers) if run else choices(read_record("char-tuning", folder))
        self.chosen.clear()
        self.chosen.update(found)

    def methods(self, case: str) -> dict[str, Optimizer | Tuned]:
        """The methods that do not need the record ``char-tuning``, with schedules of one step; for their names."""
        recorded = dict.fromkeys(RECORDED, untuned()["curveball"])
        return {**recorded, **chosen_here({"steps": 1, "warmup": 0, "floor": 0.1}), **untuned()}

    def race_methods(self, case: str, settings: Mapping[str, Any]) -> Mapping[str, Optimizer | Tuned]:
        """All methods."""
        known = {"interval": settings["interval"], "plan": settings["schedule"]}
        recorded = {name: build("main", name, settings["chosen"], known, 0) for name in RECORDED}
        return {**recorded, **chosen_here(settings["schedule"]), **untuned()}

    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Model, text, budget, and what ``char-tuning`` chose."""
        common = common_settings(scale)
        schedule = common.pop("plan")
        del common["small"], common["small_model"]
        schedule = {**schedule, "steps": int(_WORK[scale]), "warmup": min(schedule["warmup"], int(_WORK[scale]))}
        budget = {"budget": {"work": _WORK[scale]}, "seeds": seeds or _SEEDS[scale]}
        found = {
            **common,
            "schedule": schedule,
            "looks": _LOOKS[scale],
            "chosen": dict(self.chosen),
            "plan": {CASE: dict.fromkeys(self.methods(CASE), budget)},
        }
        known = self.methods(CASE) if not self.chosen else self.race_methods(CASE, found)
        return {**found, "methods": {CASE: {name: repr(method) for name, method in known.items()}}}

    def problem(self, case: str, settings: Mapping[str, Any], device: str) -> Any:
        """The model with its text; products by the kept graph."""
        return text_problem(settings, device)

    def start(self, problem: Any, seed: int) -> Array:
        """Where the runs of ``seed`` begin: as in the study of the transformer."""
        return starting_place(problem, seed)

    def data(self, settings: Mapping[str, Any]) -> str:
        """Which text this computer has."""
        text = load(settings["fallback"])
        return f"{text.name}: {text.note}"

    def about(self, case: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Which text there was."""
        return {"data": self.data(settings)}
