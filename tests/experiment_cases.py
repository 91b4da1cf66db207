"""Experiments that can be stopped in the middle, for the tests of every study and of the runner itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from refimpl.experiments.records import provenance_line, read_record
from refimpl.experiments.runner import Experiment

TESTS = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Interrupting:
    """Mixed into a study: it remembers the jobs it ran, and raises at the one called ``stop``."""

    stop: str = ""
    ran: list = field(default_factory=list)

    def run_job(self, job, settings, device):
        if job == self.stop:
            raise RuntimeError("stopped")
        self.ran.append(job)
        return super().run_job(job, settings, device)


def stopped_and_continued(study, name, stop, folder):
    """The smoke record of ``study(name)``, stopped at the job ``stop`` and continued: no job runs twice."""
    first = study(name, stop=stop)
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(folder, scale="smoke")
    second = study(name)
    second.record(folder, scale="smoke")
    jobs = second.jobs(second.settings("smoke", None))
    assert first.ran == jobs[: jobs.index(stop)]
    assert second.ran == jobs[jobs.index(stop) :]
    record = read_record(name, folder)
    assert "Recorded " in provenance_line(record)
    return record


@dataclass(frozen=True)
class Letters(Experiment):
    """One job per letter; job number ``stop`` raises. ``rate`` has more digits than a record keeps."""

    name: str = "letters"
    stop: int = 99
    rate: float = 0.0945226911
    ran: list = field(default_factory=list)

    summary = "letters"

    def settings(self, scale, seeds):
        return {"rate": self.rate, "seeds": seeds or 3}

    def jobs(self, settings):
        return list("abcdef"[: settings["seeds"]])

    def job_settings(self, job, settings):
        return {"scale": settings["scale"], "rate": settings["rate"]}

    def run_job(self, job, settings, device):
        if len(self.ran) == self.stop:
            raise RuntimeError("stopped")
        self.ran.append(job)
        return [{"key": job, "status": "budget", "loss": 1 / 3, "curve": {"loss": [float("nan"), 1.0]}}]


@dataclass(frozen=True)
class Sleepers(Letters):
    """Letters that take a second and keep no checkpoint."""

    def run_job(self, job, settings, device):
        time.sleep(1.2)
        return super().run_job(job, settings, device)


class Walked(NamedTuple):
    """What a walk needs to go on."""

    step: int
    place: np.ndarray
    rng: np.random.Generator
    path: list[float]


def no_pause() -> None:
    """A walk that does not wait."""


def short_pause() -> None:
    """A hundredth of a second for each step: long enough to be stopped."""
    time.sleep(0.01)


@dataclass(frozen=True)
class Walk(Experiment):
    """Random walks that save every ten steps; at step ``die[1]`` of the job ``die[0]`` the process kills itself."""

    name: str = "walk"
    steps: int = 60
    die: tuple[str, int] = ("", 0)
    pause: Callable[[], None] = no_pause
    every: float = 0.0
    variant: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)
    began: list[tuple[str, int]] = field(default_factory=list)

    summary = "walks"

    def settings(self, scale, seeds):
        return {"steps": self.steps, "plan": {name: {"seeds": seeds or 2} for name in ("left", "right")}, **self.extra}

    def jobs(self, settings):
        return [f"plane/{name}/{seed}" for name, plan in settings["plan"].items() for seed in range(plan["seeds"])]

    def job_settings(self, job, settings):
        return {"scale": settings["scale"], "steps": settings["steps"]}

    def data(self, settings):
        return self.variant

    def run_job(self, job, settings, device):
        raise AssertionError("this experiment's jobs run from checkpoints")

    def run_job_from(self, job, settings, device, checkpoint) -> list[dict[str, Any]]:
        checkpoint.every = self.every
        _, name, seed = job.split("/")
        found = checkpoint.load()
        if found is None:
            found = Walked(0, np.zeros(3), np.random.default_rng(int(seed)), [])
        step, place, rng, path = found
        self.began.append((job, step))
        started = time.perf_counter()
        while step < settings["steps"]:
            self.pause()
            if (job, step) == self.die:
                os.kill(os.getpid(), signal.SIGKILL)
            place = place + (1 if name == "right" else -1) * rng.random(3)
            path.append(float(place @ place))
            step += 1
            if step < settings["steps"] and (step % 10 == 0 or checkpoint.time_is_up()):
                checkpoint.keep(lambda: Walked(step, place, rng, path))  # noqa: B023
        curve = {"loss": path, "seconds": [time.perf_counter() - started]}
        return [{"key": job, "method": name, "seed": int(seed), "status": "budget", "loss": path[-1], "curve": curve}]


def measured(record):
    """A record without what differs between two sessions: the clock and where it comes from."""
    kept = {key: value for key, value in record.items() if key != "provenance"}
    runs = [
        {**run, "commit": None, "curve": {name: value for name, value in run["curve"].items() if name != "seconds"}}
        for run in record["runs"]
    ]
    return {**kept, "runs": runs}


def started(text, **values):
    """A process that runs the program ``text``, which sees the tests but no experiment of the book."""
    head = (
        f"import sys, types\nsys.path[:0] = [{str(TESTS)!r}, {str(TESTS.parent)!r}]\nfrom pathlib import Path\n"
        # Else every process spends its first seconds on the imports of all experiments.
        'package = sys.modules["refimpl.experiments"] = types.ModuleType("refimpl.experiments")\n'
        f"package.__path__ = [{str(TESTS.parent / 'refimpl' / 'experiments')!r}]\n"
    )
    return subprocess.Popen([sys.executable, "-c", head + text.format(**values)], stderr=subprocess.PIPE, text=True)
