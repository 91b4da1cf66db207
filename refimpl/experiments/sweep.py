"""Hyper-parameters by search: trials of one method on one case, by several workers if wanted, in one study that lasts.

A trial is judged by the training loss at the end of its budget, never by the test set; on the way it is looked at and
given up where others were better. Optuna proposes (a Parzen estimator), gives up (successive halving or Hyperband) and
remembers: in a SQLite file on one machine, or in a PostgreSQL database that workers on many machines share by URL.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from refimpl.arrays import Array, all_finite, as_generator, check_count, check_positive, to_numpy
from refimpl.experiments.records import SCHEMA, check_record, provenance, write_record
from refimpl.experiments.sweep_spaces import SPACES, Space, space_of
from refimpl.experiments.training import TUNING_SEED, TrainingStudy
from refimpl.optimizers.base import LibraryOptimizer, Optimizer
from refimpl.oracle import Counts

Unit = Literal["work", "steps"]
PRUNERS = ("halving", "hyperband", "none")


@dataclass(frozen=True)
class Objective:
    """The training loss of a method on one case after a budget; smaller is better.

    Parameters
    ----------
    case : what is trained, in a word; it is recorded.
    build : makes a fresh Problem for each trial. Workers in processes of their own need it importable: a function of a
        module, a bound method or ``functools.partial`` of one.
    budget : in gradients of work (:attr:`refimpl.oracle.Counts.work`), so that a method pays for its products, or in
        steps.
    unit : ``"work"`` or ``"steps"``.
    start : (problem, seed) -> x; None asks ``problem.initial``.
    looks : how often the loss is looked at, at equal shares of the budget; the last look judges the trial.
    seed : of the start and the samples, the same for every trial. It is never among those that are reported.
    device : where the problem lives, for the clock.

    Raises
    ------
    ValueError
        A malformed budget, unit or number of looks.
    """

    case: str
    build: Callable[[], Any]
    budget: float
    unit: Unit = "work"
    start: Callable[[Any, int], Array] | None = None
    looks: int = 9
    seed: int = TUNING_SEED
    device: str = "cpu"

    def __post_init__(self) -> None:
        check_positive("budget", self.budget)
        check_count("looks", self.looks)
        if self.unit not in ("work", "steps"):
            raise ValueError(f"unknown unit {self.unit!r}; choose 'work' or 'steps'")

    def settings(self) -> dict[str, Any]:
        """What decides the loss besides the method, for a record."""
        return {
            "case": self.case,
            "budget": float(self.budget),
            "unit": self.unit,
            "looks": self.looks,
            "training_seed": self.seed,
        }

    def __call__(
        self, method: Optimizer, report: Callable[[int, float, Mapping[str, Any]], None], products: bool = False
    ) -> tuple[float, str]:
        """Train with ``method``; its loss at the end, infinite where it got lost, and how it ended.

        ``report(look, loss, spent)`` is called at the looks 1 … ``looks``; what it raises ends the run. ``products``:
        whether a Torch problem shall keep the graph of its gradient.
        """
        if isinstance(method, LibraryOptimizer):
            raise ValueError(f"{method.name} owns its loop and cannot be looked at on the way; take another method")
        problem = self.build()
        if hasattr(problem, "route"):
            problem.route = "kept-graph" if products else "forward-over-reverse"
        x = self.start(problem, self.seed) if self.start else problem.initial(as_generator([self.seed, 0]))
        rng, state, counts, steps, look = as_generator([self.seed, 1]), method.init(x), Counts(), 0, 1
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        seconds = 0.0
        loss = math.inf
        with np.errstate(all="ignore"):
            while look <= self.looks:
                point = problem.at(x, problem.draw(rng))
                began = clock()
                try:
                    step = method.step(point, state)
                    finite = all_finite(step.x)  # waits for a GPU
                except (np.linalg.LinAlgError, RuntimeError) as error:
                    if "LinAlgError" not in type(error).__name__:
                        raise
                    return math.inf, "failed"
                seconds += clock() - began
                x, state, counts, steps = step.x, step.state, counts + point.counts, steps + 1
                if not finite:
                    return math.inf, "diverged"
                spent, before = (counts.work if self.unit == "work" else steps), look
                while look <= self.looks and spent >= look * self.budget / self.looks * (1 - 1e-12):
                    if look == before:
                        loss = float(to_numpy(problem.evaluate(x)["loss"]))
                        if not math.isfinite(loss):
                            return math.inf, "diverged"
                    report(look, loss, {"steps": steps, "work": counts.work, "seconds": seconds})
                    look += 1
        return loss, "budget"


@dataclass(frozen=True)
class Sweep:
    """What a study knows: its ``settings`` and ``trials``, each a run for a record, in the order of their numbers."""

    name: str
    settings: dict[str, Any]
    trials: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any]:
        """The trial with the smallest loss at the end of the budget.

        Raises
        ------
        ValueError
            None has come to its end.
        """
        ended = [trial for trial in self.trials if trial["status"] == "budget"]
        if not ended:
            raise ValueError(f"no trial of the study {self.name!r} came to the end of its budget")
        return min(ended, key=lambda trial: float(trial["loss"]))

    def record(self, device: str = "cpu") -> dict[str, Any]:
        """Everything for a record, with its provenance."""
        import optuna

        source = provenance(device)
        source["versions"] = {**source["versions"], "optuna": optuna.__version__}
        found = {"schema": SCHEMA, "experiment": f"sweep/{self.name}", "settings": self.settings, "runs": self.trials}
        return {**found, "provenance": source}

    def write(self, folder: Path, device: str = "cpu") -> Path:
        """Write ``folder/NAME.json`` atomically and return its path."""
        record = self.record(device)
        check_record(record, self.name)
        path = folder / f"{self.name}.json"
        write_record(path, record)
        return path


def run_sweep(
    objective: Objective,
    method: str,
    *,
    trials: int,
    name: str,
    storage: str | None = None,
    folder: Path = Path("sweeps"),
    space: Space | None = None,
    seed: int = 0,
    pruner: str = "halving",
    workers: int = 1,
    heartbeat: int = 60,
    progress: bool = False,
) -> Sweep:
    """Search until the study ``name`` has ``trials`` finished trials; who calls this with the same name joins it.

    Parameters
    ----------
    objective : what a trial is judged by.
    method : a key of :data:`~refimpl.experiments.sweep_spaces.SPACES`; with ``space``, any name for the record.
    trials : finished ones in all, given up or not, those of other workers and of earlier calls included.
    storage : URL of a database, ``sqlite:///FILE`` or ``postgresql+psycopg://USER@HOST/NAME``; None for a SQLite file
        in ``folder``. SQLite serves the processes of one machine; keep the file off network disks.
    seed : of what is proposed. Trial k draws from a generator of (seed, k), so no two workers propose the same, and a
        study of one worker goes on after a break as if there had been none.
    pruner : ``"halving"`` (successive halving, a third goes on), ``"hyperband"`` (several of those), ``"none"``.
    workers : processes started here; with 1 the search runs in this one. More may join from elsewhere.
    heartbeat : seconds between signs of life of a running trial. One that has given none for twice as long failed; it
        is tried once more with the same parameters.

    Raises
    ------
    ValueError
        Optuna or the database's driver is not installed; the storage cannot be opened; the study exists with other
        settings; a malformed number.
    RuntimeError
        Workers ended before the study had its trials.

    Source: Bergstra et al. (2011) for the estimator; Jamieson & Talwalkar (2016), in the asynchronous form of Li et
    al. (2020), for halving; Li et al. (2018) for Hyperband.
    """
    check_count("trials", trials)
    check_count("workers", workers)
    check_count("heartbeat", heartbeat)
    check_count("seed", seed, minimum=0)
    if pruner not in PRUNERS:
        raise ValueError(f"unknown pruner {pruner!r}; choose one of {list(PRUNERS)}")
    try:
        from refimpl.experiments import sweep_study
    except ImportError as error:
        raise ValueError(f"a sweep needs Optuna ({error}); install refimpl[sweep]") from error
    if storage is None:
        folder.mkdir(parents=True, exist_ok=True)
        storage = f"sqlite:///{folder / name}.db"
    plan = sweep_study.Plan(
        objective, method, space or space_of(method), name, storage, trials, seed, pruner, heartbeat
    )
    settings, found = sweep_study.search(plan, workers, progress)
    return Sweep(name, settings, found)


# -- the experiments of the book --------------------------------------------------------------------------------------


def objective_of(
    experiment: str,
    case: str | None = None,
    *,
    scale: str = "ci",
    device: str = "cpu",
    budget: float | None = None,
    unit: Unit = "work",
    looks: int = 9,
) -> Objective:
    """A case of a study as an objective: any :class:`~refimpl.experiments.training.TrainingStudy`, or ``uci-energy``.

    ``case``: None takes the first. ``budget``: None takes that of the study's longest run, its steps counted as so many
    gradients.

    Raises
    ------
    ValueError
        An experiment that trains no network, or an unknown case; the message names those that there are.
    """
    from refimpl.experiments import EXPERIMENTS
    from refimpl.experiments.uci_energy import UciEnergy

    able = sorted(key for key, one in EXPERIMENTS.items() if isinstance(one, TrainingStudy | UciEnergy))
    if experiment not in able:
        raise ValueError(f"there is nothing to tune in {experiment!r}; choose one of {able}")
    study = EXPERIMENTS[experiment]
    settings = {"scale": scale, **study.settings(scale, None)}
    plans = {"full-batch": settings["plan"]} if isinstance(study, UciEnergy) else settings["plan"]
    case = case or next(iter(plans))
    if case not in plans:
        raise ValueError(f"unknown case {case!r} of {experiment}; choose one of {list(plans)}")
    if isinstance(study, TrainingStudy):
        build: Callable[[], Any] = partial(study.problem, case, settings, device)
        start: Any = study.start
    else:
        build, start = partial(_energy, settings["hidden"], settings["split_seed"], device), None
    budget = budget or max(_longest(plan, unit) for plan in plans[case].values())
    return Objective(f"{experiment}/{case}@{scale}", build, budget, unit, start, looks, device=device)


def _longest(plan: Mapping[str, Any], unit: str) -> float:
    budget = plan.get("budget", {})
    return float(plan.get("steps") or budget.get(unit) or budget.get("steps") or budget.get("work") or 0)


def _energy(hidden: list[int], split_seed: int, device: str) -> Any:
    from refimpl.arrays import get_backend
    from refimpl.experiments.uci_exact import energy_network
    from refimpl.problems.datasets import uci_energy

    backend = get_backend("numpy" if device == "cpu" else "torch", device=device)
    return energy_network(hidden, uci_energy(split_seed=split_seed), backend=backend)


# -- the command ------------------------------------------------------------------------------------------------------


def add_command(commands: Any) -> None:
    """Add ``sweep`` to the commands of ``python -m refimpl.experiments``."""
    sweep: argparse.ArgumentParser = commands.add_parser(
        "sweep", help="search for the hyper-parameters of a method", allow_abbrev=False
    )
    sweep.add_argument("name", help="the experiment whose case is trained")
    sweep.add_argument("--optimizer", required=True, metavar="METHOD", help=f"one of {', '.join(SPACES)}")
    sweep.add_argument("--case", default=None, help="default: the experiment's first")
    sweep.add_argument("--scale", choices=("smoke", "ci", "full"), default="ci", help="of the problem (default: ci)")
    sweep.add_argument("--trials", type=int, default=20, help="finished trials the study is to have (default: 20)")
    sweep.add_argument("--budget", type=float, default=None, help="of a trial (default: the study's longest run)")
    sweep.add_argument("--unit", choices=("work", "steps"), default="work", help="of the budget (default: work)")
    sweep.add_argument("--looks", type=int, default=9, help="how often a trial may be given up (default: 9)")
    sweep.add_argument("--pruner", choices=PRUNERS, default="halving")
    sweep.add_argument("--storage", default=None, metavar="URL", help="default: a SQLite file in the folder --out")
    sweep.add_argument("--study", default=None, metavar="NAME", help="a study to begin or to join")
    sweep.add_argument("--seed", type=int, default=0, help="of what is proposed")
    sweep.add_argument("--device", default="cpu", help="cpu or cuda (cuda needs Torch)")
    sweep.add_argument("--workers", type=int, default=1, help="processes to start here; others may join")
    sweep.add_argument("--out", type=Path, default=Path("sweeps"), help="folder of the JSON file (default: sweeps)")


def run_command(chosen: argparse.Namespace) -> int:
    """``sweep``: search, print the best trial and write everything that was tried."""
    objective = objective_of(
        chosen.name, chosen.case, scale=chosen.scale, device=chosen.device, budget=chosen.budget, unit=chosen.unit,
        looks=chosen.looks,
    )  # fmt: skip
    found = run_sweep(
        objective, chosen.optimizer, trials=chosen.trials, name=chosen.study or f"{chosen.name}-{chosen.optimizer}",
        storage=chosen.storage, folder=chosen.out, seed=chosen.seed, pruner=chosen.pruner, workers=chosen.workers,
        progress=True,
    )  # fmt: skip
    best = found.best
    knobs = ", ".join(f"{key}={value:.6g}" for key, value in best["parameters"].items())
    print(f"best of {len(found.trials)} trials: {best['key']}, loss {best['loss']:.6g}, {knobs}")
    print(f"wrote {found.write(chosen.out, chosen.device)}")
    return 0
