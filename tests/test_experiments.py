"""Records of long runs: written whole or not at all, continued after a kill, complete in their provenance.

Oracles: a process that is really killed (SIGKILL, which nothing can catch), compared with one that was not; SciPy's
bootstrap for ours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from refimpl import Counts
from refimpl.experiments import EXPERIMENTS, records
from refimpl.experiments.__main__ import main
from refimpl.experiments.records import check_record, provenance, provenance_line, read_record, write_record
from refimpl.experiments.runner import Experiment, run_of, run_summary, thinned
from refimpl.experiments.statistics import bootstrap_median
from refimpl.trace import Result, Trace

ROOT = Path(__file__).resolve().parent.parent
DATA = os.environ.get("REFIMPL_DATA")
with_data = pytest.mark.skipif(
    not DATA or not Path(DATA, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA has no uci_energy"
)


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


def complete():
    """A record that passes every check."""
    return {
        "schema": 1, "experiment": "e", "settings": {}, "provenance": provenance(),
        "runs": [{"key": "a", "status": "budget"}],
    }  # fmt: skip


# -- records ----------------------------------------------------------------------------------------------------------


def test_record_comes_back(tmp_path):
    write_record(tmp_path / "e.json", complete() | {"runs": [{"key": "a", "status": "budget", "loss": 1 / 3}]})
    assert read_record("e", tmp_path)["runs"][0]["loss"] == 0.3333333


def test_record_is_strict_json_without_nan(tmp_path):
    write_record(tmp_path / "e.json", {"a": [float("nan"), float("inf"), -float("inf"), 1e-300]})
    assert json.loads((tmp_path / "e.json").read_text(), parse_constant=pytest.fail) == {"a": [None] * 3 + [1e-300]}


def test_half_written_record_never_replaces_a_whole_one(tmp_path, monkeypatch):
    path = tmp_path / "e.json"
    write_record(path, complete())
    before = path.read_text()

    def dies(self, text, **options):
        with open(self, "w") as file:
            file.write(text[: len(text) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", dies)
    with pytest.raises(OSError, match="no space"):
        write_record(path, complete() | {"settings": {"other": True}})
    assert path.read_text() == before


@pytest.mark.parametrize("key", ["schema", "experiment", "settings", "runs", "provenance"])
def test_record_without_a_part_is_rejected(key):
    record = complete()
    check_record(record)
    del record[key]
    with pytest.raises(ValueError, match=f"incomplete: it lacks .*{key}"):
        check_record(record)


@pytest.mark.parametrize("key", ["date", "device", "python", "versions", "command", "commit", "dirty"])
def test_record_without_provenance_is_rejected(key):
    record = complete()
    del record["provenance"][key]
    with pytest.raises(ValueError, match=f"lacks provenance.{key}"):
        check_record(record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 0}, "has schema 0, this version reads 1; run it again"),
        ({"runs": []}, "holds no runs"),
        ({"runs": [{"key": "a"}]}, r"runs without a status: \['a'\]"),
    ],
)
def test_record_with_a_wrong_part_is_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        check_record(complete() | change)


def test_provenance_says_everything(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x", "run", "uci-exact-277"])
    source = provenance()
    assert source["versions"]["numpy"] == np.__version__
    assert source["python"] == ".".join(map(str, sys.version_info[:3]))
    assert source["command"] == "python -m refimpl.experiments run uci-exact-277"
    assert source["date"].endswith("Z")
    assert abs(time.time() - time.mktime(time.strptime(source["date"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone) < 120
    line = provenance_line({"provenance": source | {"commit": "0123456789abcdef", "dirty": True}})
    assert "commit 0123456789 with local changes." in line
    assert f"numpy {np.__version__}" in line


def test_provenance_outside_git(monkeypatch, tmp_path):
    monkeypatch.setattr(records, "_checkout", lambda: tmp_path)
    source = provenance()
    assert (source["commit"], source["dirty"]) == (None, False)
    assert "outside git" in provenance_line({"provenance": source})


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "results").glob("[!.]*.json")), ids=lambda path: path.stem)
def test_committed_record_is_complete(path):
    record = read_record(path.stem, path.parent)
    assert record["experiment"] == path.stem
    assert record["provenance"]["commit"]


def test_settings_are_kept_exactly(tmp_path):
    Letters().record(tmp_path)
    assert read_record("letters", tmp_path)["settings"]["rate"] == 0.0945226911


# -- resuming ---------------------------------------------------------------------------------------------------------


def test_finished_jobs_are_not_run_again(tmp_path):
    first, second = Letters(stop=2), Letters()
    with pytest.raises(RuntimeError):
        first.record(tmp_path)
    assert not (tmp_path / "letters.json").exists()
    second.record(tmp_path)
    assert (first.ran, second.ran) == (["a", "b"], ["c"])
    assert [run["key"] for run in read_record("letters", tmp_path)["runs"]] == ["a", "b", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["letters.json"]


def test_other_settings_start_afresh(tmp_path):
    with pytest.raises(RuntimeError):
        Letters(stop=2).record(tmp_path)
    again = Letters(rate=0.5)
    again.record(tmp_path)
    assert again.ran == ["a", "b", "c"]


def test_more_seeds_keep_what_is_done(tmp_path):
    with pytest.raises(RuntimeError):
        Letters(stop=2).record(tmp_path)
    again = Letters()
    again.record(tmp_path, seeds=5)
    assert again.ran == ["c", "d", "e"]


KILLED = """
import os, signal, sys
sys.path[:0] = [{tests!r}, {root!r}]
from pathlib import Path
from test_experiments import Letters

class Killed(Letters):
    def run_job(self, job, settings, device):
        if job == "c":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_job(job, settings, device)

Killed().record(Path({folder!r}))
"""


def test_run_continues_after_a_kill(tmp_path):
    script = KILLED.format(tests=str(ROOT / "tests"), root=str(ROOT), folder=str(tmp_path))
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert [path.name for path in tmp_path.iterdir()] == [".letters.partial.json"]
    again = Letters()
    again.record(tmp_path)
    assert again.ran == ["c"]
    Letters().record(tmp_path / "whole")
    assert read_record("letters", tmp_path)["runs"] == read_record("letters", tmp_path / "whole")["runs"]


@with_data
def test_study_continues_after_a_kill(tmp_path):
    command = [sys.executable, "-m", "refimpl.experiments", "run", "uci-exact-277", "--scale", "smoke", "--out"]
    partial = tmp_path / ".uci-exact-277.partial.json"
    process = subprocess.Popen(
        [*command, str(tmp_path)], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not partial.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    kept = set(json.loads(partial.read_text())) if partial.exists() else set()
    experiment = EXPERIMENTS["uci-exact-277"]
    experiment.record(tmp_path, scale="smoke")
    experiment.record(tmp_path / "whole", scale="smoke")
    resumed, whole = (read_record("uci-exact-277", folder) for folder in (tmp_path, tmp_path / "whole"))
    assert kept or (tmp_path / "uci-exact-277.json").exists()
    assert _without_clock(resumed["runs"]) == _without_clock(whole["runs"])


def _without_clock(runs):
    return [{**run, "curve": {k: v for k, v in run["curve"].items() if k != "seconds"}} for run in runs]


# -- pieces -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "points"), [(1, 5), (5, 100), (6001, 120), (1000, 10), (3, 3)])
def test_thinned_keeps_both_ends(length, points):
    rows = thinned(length, points)
    assert rows[0] == 0
    assert rows[-1] == length - 1
    assert len(rows) <= points
    assert (np.diff(rows) > 0).all()
    assert (np.diff(rows[np.flatnonzero(np.diff(rows) > 1)]) >= 0).all()


def test_thinned_is_dense_at_the_start():
    rows = thinned(6001, 120)
    assert rows[:10].tolist() == list(range(10))
    assert (rows < 100).sum() > len(rows) / 3


def batched(losses):
    trace = Trace()
    for step, row in enumerate(losses):
        trace.add({"step": step, "loss": np.asarray(row), "work": 1.0 + step, "seconds": 0.5})
    x = np.asarray([[1.0, 2.0], [3.0, 4.0]])
    return Result(x, 0.0, "budget", "", len(losses), Counts(), trace)


def test_run_of_a_batch():
    result = batched([[4.0, 9.0], [2.0, float("nan")]])
    first, second = run_of(result, 0), run_of(result, 1)
    assert first.trace["loss"].tolist() == [4.0, 2.0]
    assert (first.loss, first.status, first.x.tolist()) == (2.0, "budget", [1.0, 2.0])
    assert second.status == "diverged"
    assert second.x.tolist() == [3.0, 4.0]


def test_summary_of_a_run():
    found = run_summary("a/0", run_of(batched([[4.0, 9.0], [2.0, 1.0]]), 1), method="adam")
    assert found["curve"] == {"step": [0, 1], "loss": [9.0, 1.0], "work": [1.0, 2.0], "seconds": [0.5, 0.5]}
    assert (found["key"], found["status"], found["loss"], found["method"]) == ("a/0", "budget", 1.0, "adam")


# -- bootstrap --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [9, 25, 50])
def test_bootstrap_against_scipy(size):
    values = np.random.default_rng(size).lognormal(size=size)
    ours = bootstrap_median(values, resamples=20000, seed=1)
    theirs = stats.bootstrap((values,), np.median, n_resamples=20000, method="percentile", rng=2)
    assert ours.median == np.median(values)
    assert ours.mean == pytest.approx(theirs.bootstrap_distribution.mean(), rel=0.02)
    assert ours.deviation == pytest.approx(theirs.standard_error, rel=0.05)
    assert ours.low == pytest.approx(theirs.confidence_interval.low, rel=0.05)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, rel=0.05)


def test_diverged_runs_do_not_vanish():
    found = bootstrap_median([1.0, 2.0, 3.0, float("nan"), float("inf")])
    assert found.median == 3.0
    assert found.high == float("inf")
    assert bootstrap_median([1.0, float("nan"), float("nan")]).median == float("inf")


def test_interval_grows_with_the_level():
    values = np.arange(20.0)
    wide, narrow = bootstrap_median(values, level=0.99), bootstrap_median(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


# -- the command ------------------------------------------------------------------------------------------------------


def test_command_lists(capsys):
    assert main(["list"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in EXPERIMENTS)


@pytest.mark.parametrize("arguments", [["run", "nothing"], ["show", "nothing"]])
def test_command_refuses_what_it_does_not_know(arguments, capsys):
    assert main(arguments) == 2
    assert "nothing" in capsys.readouterr().err


def test_command_runs_and_shows(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "letters", Letters())
    monkeypatch.setenv("REFIMPL_RESULTS", str(tmp_path))
    assert main(["run", "letters", "--scale", "smoke", "--seeds", "2"]) == 0
    record = json.loads((tmp_path / "letters.json").read_text())
    write_record(tmp_path / "letters.json", record | {"runs": [run | {"steps": 1} for run in record["runs"]]})
    assert main(["show", "letters"]) == 0
    assert "0.3333333" in capsys.readouterr().out
