"""How an experiment runs: job by job, with progress, resumable after a kill, written atomically."""

from __future__ import annotations

import json
import re
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from refimpl.arrays import check_count
from refimpl.experiments.checkpoints import Checkpoint, TimeUp, checkpoint_path
from refimpl.experiments.records import SCALES, SCHEMA, check_record, provenance, write_record
from refimpl.run import Result, Trace


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

    def run_job_from(
        self, job: str, settings: Mapping[str, Any], device: str, checkpoint: Checkpoint
    ) -> list[dict[str, Any]]:
        """:meth:`run_job`, which goes on from ``checkpoint`` where an experiment overrides this; else from the start.

        Raises
        ------
        TimeUp
            The session's time is over; the job is saved in ``checkpoint``.
        """
        return self.run_job(job, settings, device)

    def job_parts(self, job: str) -> tuple[str | None, int | range | None]:
        """The method of a job and its seed, for ``--optimizer`` and ``--seed``; several seeds are a range.

        This reads ``…/method/seed``, ``…/method/first-last`` and ``…/method``; a job that is only a number is a seed.
        None stands for a method where there is none, and for all seeds.
        """
        *rest, last = job.split("/")
        span = re.fullmatch(r"(\d+)(?:-(\d+))?", last)
        if span is None:
            return last, None
        first, final = int(span[1]), span[2]
        return (rest[-1] if rest else None), (first if final is None else range(first, int(final) + 1))

    def data(self, settings: Mapping[str, Any]) -> str | None:
        """Which variant of its data the experiment finds on this computer; None where there is only one."""
        return None

    def prepare(
        self, folder: Path, *, scale: str, device: str = "cpu", workers: int = 1, run: bool = True
    ) -> None:  # an experiment that builds on another one's record overrides this
        """Read what :meth:`settings` takes from other records in ``folder``; ``run``: make them where they lack.

        Raises
        ------
        ValueError
            A record lacks, and ``run`` is false.
        """
        return

    def record(
        self,
        folder: Path,
        *,
        scale: str = "full",
        seeds: int | None = None,
        device: str = "cpu",
        workers: int = 1,
        optimizers: Sequence[str] | None = None,
        only_seeds: Sequence[int] | None = None,
        time_limit: float | None = None,
    ) -> Path:
        """Run every job that is not done yet and write the record ``folder/name.json``; return its path.

        ``workers`` jobs run at a time, each in a process of its own if there are several; the results are the same.

        A partial record is written after each job. Started again, the experiment continues: jobs whose own settings
        have not changed (:meth:`job_settings`) are not run again, and a job that was stopped in the middle goes on
        from its checkpoint if it keeps one (:meth:`run_job_from`).

        ``optimizers`` and ``only_seeds`` keep the jobs of these methods and seeds (:meth:`job_parts`); a job that holds
        several seeds is kept whole. The record says that it is a selection and never replaces a whole one.

        After ``time_limit`` seconds no job is begun, and jobs that keep checkpoints stop.

        Raises
        ------
        ValueError
            Unknown scale, method or seed; fewer than one seed or worker; a time limit that is not positive; a selection
            where the folder holds the whole record.
        TimeUp
            The time was over before all jobs were done. The same call goes on.
        """
        check_count("workers", workers)
        if scale not in SCALES:
            raise ValueError(f"unknown scale {scale!r}; choose one of {list(SCALES)}")
        if seeds is not None:
            check_count("seeds", seeds)
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit must be a positive number of seconds, got {time_limit!r}")
        until = None if time_limit is None else time.monotonic() + time_limit
        self.prepare(folder, scale=scale, device=device, workers=workers)
        settings = {"scale": scale, **self.settings(scale, seeds)}
        jobs = self._selected(settings, optimizers, only_seeds)
        path, partial = folder / f"{self.name}.json", folder / f".{self.name}.partial.json"
        selection = _selection(optimizers, only_seeds)
        if selection and path.is_file() and "selection" not in json.loads(path.read_text(encoding="utf-8")):
            raise ValueError(f"{path} holds the whole experiment; choose another folder for a selection of its jobs")
        source = provenance(device)  # now: the code that runs is the code at the start, whatever is committed meanwhile
        data = self.data(settings)
        about_data = {} if data is None else {"data": data}
        done = _finished(partial)
        own = {job: json.loads(json.dumps({**self.job_settings(job, settings), **about_data})) for job in jobs}
        waiting = [job for job in own if job not in done or done[job]["settings"] != own[job]]
        checkpoints = {
            job: Checkpoint(checkpoint_path(folder, self.name, job), {"device": device, **own[job]}, until=until)
            for job in waiting
        }
        with tqdm(total=len(own), initial=len(own) - len(waiting), desc=self.name, unit="job") as bar:
            try:
                for job, runs in self._runs(checkpoints, settings, device, workers):
                    done[job] = {"settings": own[job], "runs": runs, "provenance": source}
                    write_record(partial, done)
                    checkpoints[job].remove()
                    bar.update()
            except TimeUp as late:
                raise TimeUp(f"the time is over: {bar.n} of {len(own)} jobs are done, all is saved") from late
        record = {
            "schema": SCHEMA,
            "experiment": self.name,
            "settings": settings,
            **({"selection": selection} if selection else {}),
            **about_data,
            "jobs": {job: len(done[job]["runs"]) for job in jobs},
            # Jobs kept from an earlier session may come from another commit than the rest: each run says its own.
            "runs": [{**run, "commit": done[job]["provenance"]["commit"]} for job in jobs for run in done[job]["runs"]],
            "provenance": {**source, "dirty": any(done[job]["provenance"]["dirty"] for job in jobs)},
        }
        check_record(record, self.name)
        write_record(path, record)
        self._clean(folder, {} if not selection else {job: kept for job, kept in done.items() if job not in own})
        return path

    def _selected(
        self, settings: Mapping[str, Any], optimizers: Sequence[str] | None, seeds: Sequence[int] | None
    ) -> list[str]:
        """The jobs of these methods and seeds, all where none are named; a ValueError names what there is."""
        parts = {job: self.job_parts(job) for job in self.jobs(settings)}
        methods = {method for method, _ in parts.values() if method is not None}
        numbers = {job: [seed] if isinstance(seed, int) else seed for job, (_, seed) in parts.items()}
        _all_known("optimizer", optimizers, methods, self.name)
        _all_known("seed", seeds, {seed for each in numbers.values() if each is not None for seed in each}, self.name)
        found = [
            job
            for job, (method, _) in parts.items()
            if (optimizers is None or method in optimizers)
            and (seeds is None or numbers[job] is None or not set(seeds).isdisjoint(numbers[job] or ()))
        ]
        if not found:
            raise ValueError(f"no job of {self.name!r} has an optimizer of {optimizers} and a seed of {seeds}")
        return found

    def _runs(
        self, waiting: Mapping[str, Checkpoint], settings: Mapping[str, Any], device: str, workers: int
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        """Jobs with their runs, in the order in which they end; TimeUp after the last one that ends in time."""
        queue, late = list(waiting.items()), False
        if workers == 1:
            for job, checkpoint in queue:
                checkpoint.check_time()
                yield job, self.run_job_from(job, settings, device, checkpoint)
            return
        # Fresh interpreters: a forked one shares the state of Torch's and BLAS's threads.
        others = active_children()
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_deaf_to_interrupts) as pool:
            running: dict[Future[list[dict[str, Any]]], str] = {}
            try:
                while running or (queue and not late):
                    while queue and len(running) < workers and not late:
                        late = queue[0][1].time_is_up()
                        if not late:
                            job, checkpoint = queue.pop(0)
                            running[pool.submit(self.run_job_from, job, settings, device, checkpoint)] = job
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        job = running.pop(future)
                        try:
                            runs = future.result()
                        except TimeUp:
                            late = True
                            continue
                        yield job, runs
            except BaseException as error:
                pool.shutdown(wait=False, cancel_futures=True)
                if not isinstance(error, Exception):  # an interrupt: nobody waits for the jobs that run
                    for process in set(active_children()) - set(others):
                        process.terminate()
                raise
        if late:
            raise TimeUp("the session's time is over; everything is saved")

    def _clean(self, folder: Path, kept: Mapping[str, Any]) -> None:
        """Remove what a finished session leaves behind, but for the jobs ``kept`` of an unfinished one."""
        partial = folder / f".{self.name}.partial.json"
        if kept:
            write_record(partial, kept)
            return
        partial.unlink(missing_ok=True)
        for pattern in (f".{self.name}.*.checkpoint", f".{self.name}.*.tmp"):
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)


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


def _selection(optimizers: Sequence[str] | None, seeds: Sequence[int] | None) -> dict[str, list[Any]]:
    """What a record says about the jobs it was asked for; empty where all were."""
    asked: dict[str, Sequence[Any] | None] = {"optimizers": optimizers, "seeds": seeds}
    return {name: list(chosen) for name, chosen in asked.items() if chosen is not None}


def _all_known(what: str, asked: Sequence[Any] | None, known: Collection[Any], name: str) -> None:
    unknown = [each for each in asked or () if each not in known]
    if unknown and not known:
        raise ValueError(f"the jobs of {name!r} are not divided by {what}; leave {what}s away")
    if unknown:
        raise ValueError(f"{name!r} has no {what} {unknown}; choose of {sorted(known)}")


def _deaf_to_interrupts() -> None:
    # Ctrl-C reaches every process of the terminal; the one that holds the pool ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
