"""An experiment that can be stopped in the middle, for the tests of every study."""

from dataclasses import dataclass, field

import pytest

from refimpl.experiments.records import provenance_line, read_record


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
