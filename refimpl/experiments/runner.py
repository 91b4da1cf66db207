"""How an experiment runs: job by job, with progress, resumable after a kill, written atomically."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl.arrays import check_count
from refimpl.experiments.records import SCHEMA, check_record, provenance, write_record
from refimpl.run import Result, Trace

SCALES = ("smoke", "ci", "full")


@dataclass(frozen=True)
class Experiment(ABC):
    """One experiment of the book. ``name`` is also the name of its record.

    A subclass says what its settings are, which jobs they imply, and how one job runs.
    """

    name: str

    @property
    @abstractmethod
    def summary(self) -> str:
        """One line for the list of experiments."""

    @abstractmethod
    def settings(self, scale: str, seeds: int | None) -> dict[str, Any]:
        """Every choice that decides the results, as plain JSON values."""

    @abstractmethod
    def jobs(self, settings: Mapping[str, Any]) -> Sequence[str]:
        """Keys of the independent pieces of work."""

    def job_settings(self, job: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """The part of the settings that decides the runs of ``job``: a finished job is kept while it stays the same."""
        return settings

    @abstractmethod
    def run_job(self, job: str, settings: Mapping[str, Any], device: str) -> list[dict[str, Any]]:
        """Run one job: a list of runs, each with ``key``, ``status``, ``steps``, ``loss`` and its curve."""

    def record(
        self, folder: Path, *, scale: str = "full", seeds: int | None = None, device: str = "cpu", workers: int = 1
    ) -> Path:
        """Run every job that is not done yet and write the record ``folder/name.json``; return its path.

        ``workers`` jobs run at a time, each in a process of its own if there are several; the results are the same.

        A partial record is written after each job. Started again, the experiment continues: jobs whose own settings
        have not changed (:meth:`job_settings`) are not run again.

        Raises
        ------
        ValueError
            Unknown scale, or fewer than one seed or worker.
        """
        check_count("workers", workers)
        if scale not in SCALES:
            raise ValueError(f"unknown scale {scale!r}; choose one of {list(SCALES)}")
        if seeds is not None:
            check_count("seeds", seeds)
        settings = {"scale": scale, **self.settings(scale, seeds)}
        source = provenance(device)  # now: the code that runs is the code at the start, whatever is committed meanwhile
        partial = folder / f".{self.name}.partial.json"
        done = _finished(partial)
        own = {job: json.loads(json.dumps(self.job_settings(job, settings))) for job in self.jobs(settings)}
        waiting = [job for job in own if job not in done or done[job]["settings"] != own[job]]
        with tqdm(total=len(own), initial=len(own) - len(waiting), desc=self.name, unit="job") as bar:
            for job, runs in self._runs(waiting, settings, device, workers):
                done[job] = {"settings": own[job], "runs": runs, "provenance": source}
                write_record(partial, done)
                bar.update()
        record = {
            "schema": SCHEMA,
            "experiment": self.name,
            "settings": settings,
            # Jobs kept from an earlier session may come from another commit than the rest: each run says its own.
            "runs": [
                {**run, "commit": done[job]["provenance"]["commit"]}
                for job in self.jobs(settings)
                for run in done[job]["runs"]
            ],
            "provenance": source,
        }
        check_record(record, self.name)
        path = folder / f"{self.name}.json"
        write_record(path, record)
        partial.unlink(missing_ok=True)
        return path

    def _runs(
        self, jobs: Sequence[str], settings: Mapping[str, Any], device: str, workers: int
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Jobs with their runs, in the order in which they end."""
        if workers == 1:
            for job in jobs:
                yield job, self.run_job(job, settings, device)
            return
        # Fresh interpreters: a forked one shares the state of Torch's and BLAS's threads.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            started = {pool.submit(self.run_job, job, settings, device): job for job in jobs}
            try:
                for future in as_completed(started):
                    yield started[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def run_summary(key: str, result: Result, *, points: int = 120, **extra: Any) -> dict[str, Any]:
    """One run for a record: how it ended, and its curve thinned to about ``points`` rows, dense at the start."""
    rows = thinned(len(result.trace), points)
    curve = {
        name: np.asarray(result.trace[name], dtype=float)[rows].tolist() for name in ("step", "loss", "work", "seconds")
    }
    return {
        "key": key,
        "status": result.status,
        "message": result.message,
        "steps": result.steps,
        "loss": result.loss,
        "curve": curve,
        **extra,
    }


def run_of(result: Result, row: int) -> Result:
    """Run ``row`` of a batched result, as if it had run alone. Work and seconds stay those of the whole batch."""
    columns = {
        name: [value[row] if np.ndim(value) else value for value in values]
        for name, values in result.trace.columns.items()
    }
    loss = float(columns["loss"][-1])
    status = result.status if np.isfinite(loss) else "diverged"
    return replace(result, x=result.x[row, ...], loss=loss, status=status, trace=Trace(columns))


def thinned(length: int, points: int) -> np.ndarray:
    """Row numbers from 0 to ``length - 1``, at most about ``points``, geometrically spaced, both ends included.

    >>> thinned(5, 100).tolist()
    [0, 1, 2, 3, 4]
    """
    if length <= points:
        return np.arange(length)
    return np.unique(np.rint(np.geomspace(1, length, points)).astype(int) - 1)


def _finished(partial: Path) -> dict[str, dict[str, Any]]:
    return dict(json.loads(partial.read_text(encoding="utf-8"))) if partial.is_file() else {}
