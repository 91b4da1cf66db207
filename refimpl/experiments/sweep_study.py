"""What :mod:`refimpl.experiments.sweep` asks of Optuna: the storage, the proposals, the workers. Needs Optuna."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from tqdm import tqdm

from refimpl.experiments.sweep_spaces import Space
from refimpl.experiments.training import one_thread

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_RETRIES = 1


@dataclass(frozen=True)
class Plan:
    """All that a worker must know; it can be sent to a process. See :func:`refimpl.experiments.sweep.run_sweep`."""

    objective: Any
    method: str
    space: Space
    name: str
    storage: str
    trials: int
    seed: int
    pruner: str
    heartbeat: int

    def settings(self) -> dict[str, Any]:
        """What every worker of a study must have in common, as JSON keeps it."""
        found = {
            **self.objective.settings(),
            "method": self.method,
            "space": self.space.in_words(),
            "seed": self.seed,
            "pruner": self.pruner,
        }
        return dict(json.loads(json.dumps(found)))


def search(plan: Plan, workers: int, progress: bool) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Work until the study has its trials; its settings and its trials."""
    with _quiet():
        study = _open(plan)  # here first, so that the tables are made by one process
        if workers == 1:
            _work(plan, progress)
        else:
            _start_workers(plan, workers)
            left = plan.trials - len(_finished(study))
            if left > 0:
                raise RuntimeError(
                    f"the workers ended with {left} of {plan.trials} trials missing; start again to go on"
                )
        settings = {**plan.settings(), "database": make_url(plan.storage).get_backend_name()}
        kept = (trial for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get("needed", True))
        return settings, [_run_of(trial) for trial in kept]


class TrialSeeded(optuna.samplers.BaseSampler):
    """Tree-structured Parzen estimator whose random numbers are those of (seed, number of the trial)."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._inner: optuna.samplers.BaseSampler = self._for(0)

    def _for(self, number: int) -> optuna.samplers.BaseSampler:
        drawn = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        return optuna.samplers.TPESampler(seed=drawn)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """A new estimator: what it knows is in the study."""
        self._inner = self._for(trial.number)
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As the estimator."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the estimator."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As the estimator."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)


def _open(plan: Plan) -> Study:
    """The study, made where there is none; a ValueError where it has other settings or the storage does not open."""
    shown = plan.storage
    try:
        url = make_url(plan.storage)
        shown = url.render_as_string(hide_password=True)
        study = _patiently(lambda: _study(plan, url.get_backend_name()))
    except (ArgumentError, NoSuchModuleError) as error:
        raise ValueError(
            f"{shown!r} is no URL of a database ({error}); write sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"
        ) from error
    except ImportError as error:
        raise ValueError(f"the driver for {shown!r} is not installed: {error}") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise ValueError(f"the storage {shown!r} cannot be opened: {error}") from error
    wanted, there = plan.settings(), study.user_attrs.get("settings")
    if there is None:
        study.set_user_attr("settings", wanted)
    elif there != wanted:
        other = {key: (there.get(key), wanted.get(key)) for key in wanted if there.get(key) != wanted.get(key)}
        raise ValueError(
            f"the study {plan.name!r} exists with other settings (there, here): {other}; give this one another name"
        )
    return study


class _Connection(sqlite3.Connection):
    """SQLite with a log beside the file: readers do not wait for writers, and writers not for the disk each time.

    A power failure may cost the last lines, a killed process nothing.
    """

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.execute("pragma journal_mode=wal").close()
        self.execute("pragma synchronous=normal").close()


def _study(plan: Plan, database: str) -> Study:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if database == "sqlite":
        options = {"connect_args": {"timeout": 60, "factory": _Connection}}
    storage = RDBStorage(
        plan.storage,
        engine_kwargs=options,
        heartbeat_interval=plan.heartbeat,
        grace_period=2 * plan.heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=_RETRIES),
    )
    return optuna.create_study(
        storage=storage,
        study_name=plan.name,
        sampler=TrialSeeded(plan.seed),
        pruner=_pruner(plan),
        direction="minimize",
        load_if_exists=True,
    )


def _pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if plan.pruner == "halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)
    if plan.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(1, plan.objective.looks, 3)
    return optuna.pruners.NopPruner()


def _patiently(make: Callable[[], Study], attempts: int = 5) -> Study:
    """Two workers that come to an empty database at once may both try to make its tables: one of them tries again."""
    for attempt in range(attempts):
        try:
            return make()
        except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            refused = "refused" in str(error) or "unable to open" in str(error) or "No such file" in str(error)
            if refused or attempt == attempts - 1:
                raise
            time.sleep(0.2 * (attempt + 1))
    raise AssertionError("unreachable")


def _work(plan: Plan, progress: bool = False) -> None:
    """One worker: trial after trial, until there are enough or the others are at the last ones."""
    with _quiet(), one_thread(plan.objective.device):
        study = _open(plan)
        idle_since: float | None = None
        with tqdm(total=plan.trials, desc=plan.name, unit="trial", disable=not progress) as bar:
            while True:
                optuna.storages.fail_stale_trials(study)
                done = len(_finished(study))
                bar.update(done - bar.n)
                if done >= plan.trials:
                    return
                running = len(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
                waiting = len(study.get_trials(deepcopy=False, states=(TrialState.WAITING,)))
                idle_since = idle_since or time.monotonic()
                # Others may die at the last trials. Who has never given a sign of life is not waited for much longer.
                patient = time.monotonic() - idle_since < 3 * plan.heartbeat
                if done + running >= plan.trials and not waiting and patient:
                    time.sleep(min(1.0, 0.25 * plan.heartbeat))
                    continue
                study.optimize(lambda trial: _judge(plan, study, trial), n_trials=1, catch=(_TooMany,))
                idle_since = None


class _TooMany(Exception):
    """Two workers began the last trial at once; this one is not needed."""


def _judge(plan: Plan, study: Study, trial: Trial) -> float:
    others = study.get_trials(deepcopy=False)
    if sum(other.number < trial.number and other.state is not TrialState.FAIL for other in others) >= plan.trials:
        trial.set_user_attr("needed", False)
        raise _TooMany
    chosen: dict[str, Any] = {}
    for name, knob in plan.space.knobs.items():
        high = knob.high(chosen) if callable(knob.high) else knob.high
        if knob.whole:
            chosen[name] = trial.suggest_int(name, int(knob.low), int(high), log=knob.log)
        else:
            chosen[name] = trial.suggest_float(name, knob.low, high, log=knob.log)
    trial.set_user_attr("worker", os.getpid())
    spent: Mapping[str, Any] = {"steps": 0, "work": 0.0, "seconds": 0.0}

    def report(look: int, loss: float, so_far: Mapping[str, Any]) -> None:
        nonlocal spent
        spent = so_far
        trial.report(loss, look)
        if look < plan.objective.looks and trial.should_prune():
            trial.set_user_attr("ended", {"status": "pruned", **spent})
            raise optuna.TrialPruned

    loss, status = plan.objective(plan.space.build(**chosen), report, plan.space.products)
    trial.set_user_attr("ended", {"status": status, **spent})
    return loss


def _run_of(trial: FrozenTrial) -> dict[str, Any]:
    """A trial as a run for a record; what is not known of one that is under way or was lost is zero."""
    unfinished = {TrialState.FAIL: "lost", TrialState.RUNNING: "running", TrialState.WAITING: "waiting"}
    ended = trial.user_attrs.get("ended", {"status": "lost", "steps": 0, "work": 0.0, "seconds": 0.0})
    looks = sorted(trial.intermediate_values)
    values = [trial.intermediate_values[look] for look in looks]
    ended_well = trial.state is TrialState.COMPLETE and trial.value is not None
    return {
        "key": f"trial/{trial.number}",
        "number": trial.number,
        "parameters": dict(trial.params),
        **ended,
        "status": unfinished.get(trial.state, ended["status"]),
        "loss": trial.value if ended_well else (values[-1] if values else math.inf),
        "curve": {"look": looks, "loss": values},
        "worker": trial.user_attrs.get("worker"),
    }


def _finished(study: Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=_FINISHED)


def _start_workers(plan: Plan, workers: int) -> None:
    context = get_context("spawn")  # a forked process would share the connection to the database
    started = [context.Process(target=_work, args=(plan,), daemon=True) for _ in range(workers)]
    for process in started:
        process.start()
    try:
        for process in started:
            process.join()
    finally:
        for process in started:
            if process.is_alive():
                process.terminate()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line for each trial, and its warnings that heartbeats are experimental."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
