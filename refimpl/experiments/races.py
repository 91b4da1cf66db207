"""Studies made of races: methods that get the same budget of work, seconds or steps on the same problem."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from refimpl.experiments.race_methods import asks_products
from refimpl.experiments.race_runs import run_race as run_race
from refimpl.experiments.training import TUNING_SEED, TrainingStudy, Tuned, best_rate, one_thread
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.schedule import Scheduled, warmup_cosine

TUNING_SHARE = 1 / 3
"""The share of the budget that a run on the tuning seed gets."""


@dataclass(frozen=True)
class TunedSchedule(Tuned):
    """A tuned method whose rate rises over ``warmup`` steps and falls to ``floor`` along half a cosine of ``steps``.

    The runs on the tuning seed have the same schedule, shortened to their length.
    """

    steps: int = 1
    warmup: int = 0
    floor: float = 0.1

    def at(self, rate: float, share: float = 1.0) -> Optimizer:
        """The method with this learning rate, for ``share`` of the steps."""
        steps = max(1, round(share * self.steps))
        factor = warmup_cosine(steps, min(self.warmup, steps), self.floor)
        found: Any = Scheduled(replace(self.method, learning_rate=rate), factor)
        return found


@dataclass(frozen=True)
class RaceStudy(TrainingStudy):
    """Methods with the same budget on one or more *cases*, from several seeds each.

    As :class:`~refimpl.experiments.training.TrainingStudy`, but a plan is a ``budget`` (``work``, ``seconds`` or
    ``steps``, the arguments of :func:`run_race`) and ``seeds``, and tuned methods choose their rate by the training
    loss after :data:`TUNING_SHARE` of the budget on the tuning seed.
    """

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All but the plans and methods of other jobs; a job of one seed does not care how many there are."""
        case, name, *seed = job.split("/")
        plan = settings["plan"][case][name]
        own = {"budget": plan["budget"]} if seed else plan
        return {**settings, "plan": own, "methods": settings["methods"][case][name]}

    def race_methods(self, case: str, settings: Mapping[str, Any]) -> Mapping[str, Optimizer | Tuned]:
        """The methods by name, where they depend on the settings (a schedule's length)."""
        return self.methods(case)

    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """As :meth:`run_job_from` without a checkpoint."""
        return self.run_job_from(job, settings, device, None)

    def run_job_from(self, job: str, settings: Mapping[str, Any], device: str, checkpoint: Any) -> list[dict[str, Any]]:
        """One seed of one method; or the tuning runs of one method and then all its seeds. Goes on where it stopped."""
        case, name, *rest = job.split("/")
        method, plan = self.race_methods(case, settings)[name], settings["plan"][case][name]
        done: list[dict[str, Any]] = []
        stages = _Stages(checkpoint, done)

        def run(key: str, chosen: Optimizer, seed: int, share: float, **extra: Any) -> dict[str, Any]:
            kept = stages.finished(key)
            if kept is not None:
                return kept
            problem = self.problem(case, settings, device)
            if hasattr(problem, "route"):
                problem.route = "kept-graph" if asks_products(name) else "forward-over-reverse"
            start, whole = self.start(problem, seed), plan["budget"]
            budget = {what: max(1, round(share * size)) if what == "steps" else share * size
                      for what, size in whole.items()}  # fmt: skip
            looks = settings["looks"] if share == 1 else 2
            own = stages.of(key)
            found = run_race(problem, chosen, start, seed=seed, looks=looks, device=device, checkpoint=own, **budget)
            about = {"key": key, "case": case, "method": name, "seed": seed, **extra}
            done.append({**about, **found, **self.about(case, settings)})
            return done[-1]

        with one_thread(device):
            if not isinstance(method, Tuned):
                return [run(job, self.seeded(method, int(rest[0])), int(rest[0]), 1.0, role="run")]
            for rate in method.rates:
                chosen = method.at(rate, TUNING_SHARE) if isinstance(method, TunedSchedule) else method.at(rate)
                run(f"{job}/tuning@{rate:g}", chosen, TUNING_SEED, TUNING_SHARE, role="tuning", rate=rate)
            rate = best_rate({found["rate"]: found["loss"] for found in done if found["role"] == "tuning"})
            for seed in range(plan["seeds"]):
                run(f"{job}/{seed}", self.seeded(method.at(rate), seed), seed, 1.0, role="run", rate=rate)
        return list(done)

    def seeded(self, method: Any, seed: int) -> Any:
        """The method with ``seed`` for what it draws itself, where it draws anything."""
        if isinstance(method, Scheduled):
            return replace(method, method=self.seeded(method.method, seed))
        return replace(method, seed=seed) if hasattr(method, "seed") else method

    def about(self, case: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What every run of a case says besides: its data."""
        return {}


class _Stages:
    """One checkpoint for a job of several runs: the runs that are finished, and the state of the one under way."""

    def __init__(self, checkpoint: Any, done: list[dict[str, Any]]) -> None:
        self._checkpoint, self._done = checkpoint, done
        self._saved = (checkpoint.load() if checkpoint is not None else None) or {"done": [], "key": None, "run": None}

    def finished(self, key: str) -> dict[str, Any] | None:
        """The run ``key`` if an earlier session finished it; it is put with the others."""
        found: dict[str, Any] | None = next((run for run in self._saved["done"] if run["key"] == key), None)
        if found is not None:
            self._done.append(found)
        return found

    def of(self, key: str) -> _Stage | None:
        """What :func:`run_race` takes for the checkpoint of the run ``key``."""
        return None if self._checkpoint is None else _Stage(self._checkpoint, self._done, self._saved, key)


@dataclass(frozen=True)
class _Stage:
    checkpoint: Any
    done: list[dict[str, Any]]
    saved: Mapping[str, Any]
    key: str

    def load(self) -> Any:
        return self.saved["run"] if self.saved["key"] == self.key else None

    def keep(self, payload: Any) -> None:
        self.checkpoint.keep(lambda: {"done": list(self.done), "key": self.key, "run": payload()})
