"""Long runs: continued job by job after a kill, cut down to some methods and seeds; the command and its exit status.

Oracles: a process that is really killed (SIGKILL, which nothing can catch), compared with one that was not; SciPy's
bootstrap for ours.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from experiment_cases import Letters, Walk, measured, started
from scipy import stats

from refimpl import Counts
from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.__main__ import main
from refimpl.experiments.checkpoints import Checkpoint, checkpoint_path
from refimpl.experiments.records import read_record, write_record
from refimpl.experiments.runner import run_of, run_summary, thinned
from refimpl.experiments.statistics import bootstrap_median
from refimpl.trace import Result, Trace

ROOT = Path(__file__).resolve().parent.parent
DATA = os.environ.get("REFIMPL_DATA")
with_data = pytest.mark.skipif(
    not DATA or not Path(DATA, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA has no uci_energy"
)


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
import os, signal
from experiment_cases import Letters

class Killed(Letters):
    def run_job(self, job, settings, device):
        if job == "c":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_job(job, settings, device)

Killed().record(Path({folder!r}))
"""


def test_run_continues_after_a_kill(tmp_path):
    killed = started(KILLED, folder=str(tmp_path))
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL, said
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


# -- selections -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        ({"optimizers": ["right"]}, ["plane/right/0", "plane/right/1"]),
        ({"only_seeds": [1]}, ["plane/left/1", "plane/right/1"]),
        ({"only_seeds": [0, 2], "seeds": 3}, ["plane/left/0", "plane/left/2", "plane/right/0", "plane/right/2"]),
        ({"optimizers": ["left"], "only_seeds": [0]}, ["plane/left/0"]),
    ],
)
def test_only_the_chosen_jobs_run(tmp_path, options, jobs):
    walk = Walk()
    walk.record(tmp_path, **options)
    assert [job for job, _ in walk.began] == jobs
    chosen, whole = Walk(), read_record("walk", tmp_path)
    chosen.record(tmp_path / "whole", seeds=options.get("seeds"))
    everything = measured(read_record("walk", tmp_path / "whole"))["runs"]
    assert measured(whole)["runs"] == [run for run in everything if run["key"] in jobs]
    assert whole["selection"] == {
        name: options[key] for name, key in (("optimizers", "optimizers"), ("seeds", "only_seeds")) if key in options
    }


@pytest.mark.parametrize(
    ("name", "job", "parts"),
    [
        ("uci-exact-277", "adam", ("adam", None)),
        ("uci-exact-277", "saddle-free-newton/2", ("saddle-free-newton", 2)),
        ("uci-energy", "lanczos-sfn/5-9", ("lanczos-sfn", range(5, 10))),
        ("curveball-table", "rosenbrock/near/newton-abs-0.1", ("newton-abs-0.1", None)),
        ("kryball-table", "radius/rahimi-recht-1e5/kryball", ("kryball", None)),
        ("mnist-mlp", "mlp/hessian-free/2", ("hessian-free", 2)),
        ("mnist1d-kryball", "dimension/M=10/0", ("M=10", 0)),
        ("random-architectures", "3", (None, 3)),
        ("eigenarc", "race/xor/saddle-free-newton-0.001/2", ("saddle-free-newton-0.001", 2)),
        ("char-transformer", "main/amos-75/0", ("amos-75", 0)),
        ("fosi", "autoencoder/fosi-adam", ("fosi-adam", None)),
    ],
)
def test_parts_of_a_job(name, job, parts):
    experiment = EXPERIMENTS[name]
    scale = "full" if name.startswith("uci") else "ci"
    assert job in experiment.jobs({"scale": scale, **experiment.settings(scale, None)})
    assert experiment.job_parts(job) == parts


@dataclass(frozen=True)
class Spans(Letters):
    """Jobs that hold several seeds, or all of them, or no method."""

    def jobs(self, settings):
        return ["adam/0-4", "adam/5-9", "case/newton", "7"]


@pytest.mark.parametrize(
    ("options", "jobs"),
    [
        ({"only_seeds": [7]}, ["adam/5-9", "case/newton", "7"]),
        ({"only_seeds": [0, 9]}, ["adam/0-4", "adam/5-9", "case/newton"]),
        ({"optimizers": ["adam"], "only_seeds": [1]}, ["adam/0-4"]),
        ({"optimizers": ["newton", "adam"]}, ["adam/0-4", "adam/5-9", "case/newton"]),
    ],
)
def test_a_job_of_several_seeds_is_kept_whole(tmp_path, options, jobs):
    spans = Spans()
    spans.record(tmp_path, **options)
    assert spans.ran == jobs


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (Walk(), {"optimizers": ["up", "left"]}, r"has no optimizer \['up'\]; choose of \['left', 'right'\]"),
        (Walk(), {"only_seeds": [5]}, r"has no seed \[5\]; choose of \[0, 1\]"),
        (Letters(), {"only_seeds": [0]}, "'letters' are not divided by seed; leave seeds away"),
        (Walk(), {"only_seeds": []}, r"no job of 'walk' has an optimizer of None and a seed of \[\]"),
    ],
)
def test_a_selection_of_nothing_is_refused(tmp_path, experiment, options, message):
    with pytest.raises(ValueError, match=message):
        experiment.record(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_selection_never_replaces_the_whole(tmp_path):
    Walk().record(tmp_path, optimizers=["left"])
    Walk().record(tmp_path, optimizers=["right"])  # a selection may
    Walk().record(tmp_path)
    with pytest.raises(ValueError, match="holds the whole experiment; choose another folder"):
        Walk().record(tmp_path, optimizers=["left"])
    assert len(read_record("walk", tmp_path)["runs"]) == 4


def test_a_selection_keeps_the_jobs_of_a_session_that_was_stopped(tmp_path):
    with pytest.raises(RuntimeError):
        Letters(stop=2).record(tmp_path)
    Letters().record(tmp_path, optimizers=["c", "a"])
    assert list(json.loads((tmp_path / ".letters.partial.json").read_text())) == ["b"]
    again = Letters()
    again.record(tmp_path)
    assert again.ran == ["a", "c"]
    assert [path.name for path in tmp_path.iterdir()] == ["letters.json"]


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


def test_command_cuts_down_and_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "walk", Walk())
    command = ["run", "walk", "--optimizer", "right", "left", "--seed", "1", "--out", str(tmp_path)]
    assert main([*command, "--time-limit", "1e-9"]) == 3
    shown = capsys.readouterr()
    assert "0 of 2 jobs are done" in shown.err
    assert f"python -m refimpl.experiments run walk --optimizer right left --seed 1 --out {tmp_path} --tim" in shown.err
    assert shown.out == ""
    assert main(command) == 0
    assert [run["key"] for run in read_record("walk", tmp_path)["runs"]] == ["plane/left/1", "plane/right/1"]
    assert main([*command[:3], "up", "--out", str(tmp_path)]) == 2
    assert "choose of ['left', 'right']" in capsys.readouterr().err


def test_progress_goes_to_the_error_stream(tmp_path, monkeypatch, capfd):
    monkeypatch.setitem(EXPERIMENTS, "walk", Walk())
    assert main(["run", "walk", "--out", str(tmp_path)]) == 0
    shown = capfd.readouterr()
    assert shown.out == f"wrote {tmp_path / 'walk.json'}\n"
    assert "4/4" in shown.err


INTERRUPTED = """
import sys
sys.path[:0] = [{tests!r}, {root!r}]
from experiment_cases import Walk, short_pause
from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.__main__ import main

if __name__ == "__main__":
    EXPERIMENTS["walk"] = Walk(steps=100_000, pause=short_pause)
    sys.exit(main(["run", "walk", "--workers", "2", "--out", {folder!r}]))
"""


def test_interrupt_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setitem(EXPERIMENTS, "walk", Walk(pause=interrupt))
    assert main(["run", "walk", "--out", str(tmp_path)]) == 130
    assert f"to go on:\n  python -m refimpl.experiments run walk --out {tmp_path}\n" in capsys.readouterr().err


def test_interrupt_ends_the_workers(tmp_path):
    script, out = tmp_path / "walk.py", tmp_path / "out"
    script.write_text(INTERRUPTED.format(tests=str(ROOT / "tests"), root=str(ROOT), folder=str(out)))
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background may ignore it
    process = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, heard)
    stop = time.monotonic() + 60
    while len(list(out.glob(".walk.*.checkpoint"))) < 2 and time.monotonic() < stop:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; finished jobs are saved; to go on:\n  python -m refimpl.experiments run walk" in said
    assert "Traceback" not in said
    settings = {"device": "cpu", "scale": "full", "steps": 100_000}
    assert Checkpoint(checkpoint_path(out, "walk", "plane/left/0"), settings).load().step > 0
    while _alive(process.pid):  # no worker is left behind
        assert time.monotonic() < stop
        time.sleep(0.02)


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
