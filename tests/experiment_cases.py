"""An experiment that can be stopped in the middle, for the tests of every study."""

from dataclasses import dataclass, field


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
