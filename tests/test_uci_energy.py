"""The study of all optimizers on UCI Energy: its constants, its jobs, and that how it is run changes no number.

Oracles: the tables of the series paper, typed once more from the print; single runs for batched ones; one process for
two; a run that was not interrupted for one that was.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from experiment_cases import Interrupting

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments import EXPERIMENTS, uci_exact
from refimpl.experiments.records import read_record
from refimpl.experiments.runner import SCALES, run_of
from refimpl.experiments.uci_energy import (
    _PLAN,
    PAPER_TABLE_5,
    PAPER_TABLES_3_AND_4,
    UciEnergy,
    methods,
    run_batch,
    starting_places,
)
from refimpl.optimizers.base import LibraryOptimizer
from refimpl.problems.mlp import MLP

DATA = os.environ.get("REFIMPL_DATA")
with_data = pytest.mark.skipif(
    not DATA or not Path(DATA, "uci_energy", "data.txt").is_file(), reason="REFIMPL_DATA has no uci_energy"
)
OURS = {"lanczos-sfn", "series-sablonniere", "adaptive-series-sablonniere"}
"""Methods of the study that the paper has not."""
PRINTED_TABLE_5 = """
series-sfn                   0.006459   0.007087  0.0104
adaptive-series-sfn          0.001029   0.001678  0.002165
gradient-descent             0.001947   0.002361  0.003191
adam                         0.000657   0.00113   0.001571
kfac                         0.5018     881.8     904.1
adaptive-kfac                0.000714   0.006663  0.008849
saddle-free-newton           0.0005019  0.0015    0.001994
adaptive-saddle-free-newton  0.0004941  0.001045  0.001407
lbfgs                        0.002619   0.002929  0.004161
"""
PRINTED_SETTINGS = {
    "series-sfn": {"learning_rate": 1.79, "momentum": 0.717, "damping": 2.44e-2, "terms": 18, "order": 8},
    "adaptive-series-sfn": {"initial_damping": 1.46e-6, "terms": 9, "order": 4},
    "kfac": {"learning_rate": 9.09e-2, "momentum": 0.264, "damping": 5.63e-6},
    "adaptive-kfac": {"initial_damping": 6.97e-5, "ema": 0.95},
    "lbfgs": {"history": 100},
}
PRINTED_LOSSES = {  # training, test, validation of the tuning run
    "series-sfn": (4.55e-4, 8.62e-4, 1.29e-3),
    "adaptive-series-sfn": (7.15e-3, 8.17e-3, 8.45e-3),
    "gradient-descent": (7.15e-3, 8.17e-3, 8.45e-3),
    "adam": (3.99e-4, 8.01e-4, 7.83e-4),
    "adaptive-kfac": (2.44e-4, 1.19e-3, 8.41e-4),
    "kfac": (2.19e-4, 7.58e-4, 9.79e-4),
}


# -- constants --------------------------------------------------------------------------------------------------------


def test_table_5_is_the_printed_one():
    rows = [line.split() for line in PRINTED_TABLE_5.split("\n") if line]
    assert {name: tuple(float(v) for v in values) for name, *values in rows} == PAPER_TABLE_5
    assert len(PAPER_TABLE_5) == 9


def test_table_5_of_both_studies_is_the_same():
    for name, row in uci_exact.PAPER_MEDIANS.items():
        assert PAPER_TABLE_5[name][:2] == (row["train"], row["test"])


def test_tables_3_and_4_are_the_printed_ones():
    assert PAPER_TABLES_3_AND_4 == PRINTED_LOSSES


def test_settings_are_the_printed_ones_to_three_digits():
    for name, printed in PRINTED_SETTINGS.items():
        for knob, value in printed.items():
            assert float(f"{getattr(methods()[name], knob):.2e}") == value, (name, knob)
    assert float(f"{uci_exact.methods()['gradient-descent'].learning_rate:.2e}") == 9.45e-2


def test_every_method_of_the_paper_is_studied_once():
    ours, exact = set(methods()), set(uci_exact.methods())
    assert set(PAPER_TABLE_5) <= ours | exact
    assert ours & exact == set()
    assert ours - set(PAPER_TABLE_5) == OURS
    assert set(PAPER_TABLES_3_AND_4) <= set(PAPER_TABLE_5)


def test_weights_are_all_that_sablonniere_changes():
    found = methods()
    for ours, theirs in (
        ("series-sablonniere", "series-sfn"),
        ("adaptive-series-sablonniere", "adaptive-series-sfn"),
    ):
        a, b = vars(found[ours]), vars(found[theirs])
        assert {key for key in a if a[key] != b[key]} == {"accelerate"}
        assert (a["accelerate"], b["accelerate"]) == ("sablonniere", "shanks")
        assert (b["guard"], b["first_term"], b["mode"]) == (False, "undamped", "abs")
        assert (b["scale"], b["scale_rule"], b["scale_decay"]) == (100.0, "ratio", 1.0)


# -- jobs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_every_seed_once(scale):
    study = EXPERIMENTS["uci-energy"]
    assert study.hidden == (12,) * 7
    for seeds in (None, 1, 7):
        settings = study.settings(scale, seeds)
        assert set(settings["plan"]) == set(methods()) == set(settings["methods"])
        covered = []
        for job in study.jobs(settings):
            method, _, span = job.partition("/")
            first, last = map(int, span.split("-"))
            assert last - first < _PLAN[scale][method][2]
            covered += [(method, seed) for seed in range(first, last + 1)]
        wanted = {name: seeds or plan[1] for name, plan in _PLAN[scale].items()}
        assert sorted(covered) == sorted((name, seed) for name, count in wanted.items() for seed in range(count))


def test_only_what_decides_a_job_is_among_its_settings():
    study = UciEnergy("uci-energy")
    few, many = ({"scale": "ci", **study.settings("ci", seeds)} for seeds in (3, 9))
    assert study.job_settings("kfac/0-2", few) == study.job_settings("kfac/0-2", many)
    changed = {**few, "methods": {**few["methods"], "lbfgs": "other"}}
    assert study.job_settings("kfac/0-2", few) == study.job_settings("kfac/0-2", changed)
    assert study.job_settings("lbfgs/0-0", few) != study.job_settings("lbfgs/0-0", changed)
    longer = {**few, "plan": {**few["plan"], "kfac": {**few["plan"]["kfac"], "steps": 1}}}
    assert study.job_settings("kfac/0-2", few) != study.job_settings("kfac/0-2", longer)


# -- batches ----------------------------------------------------------------------------------------------------------


def network():
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((60, 4))
    return MLP((4, 5, 5, 1), inputs, np.sin(inputs.sum(axis=1)), initialization="truncated-normal")


@pytest.mark.parametrize("name", sorted(name for name, m in methods().items() if not isinstance(m, LibraryOptimizer)))
def test_batched_rows_are_the_single_runs(name):
    problem, method = network(), methods()[name]
    together = run_batch(problem, method, 3, 3, 4)
    for row in range(3):
        alone, own = minimize(problem, method, seed=3 + row, steps=4), run_of(together, row)
        np.testing.assert_allclose(own.trace["loss"], alone.trace["loss"], rtol=1e-6)
        np.testing.assert_allclose(own.x, alone.x, rtol=1e-5, atol=1e-9)
        assert (own.status, own.steps) == (alone.status, alone.steps)
        assert own.loss == own.trace["loss"][-1]


def test_starting_places_are_those_of_the_seeds():
    problem = network()
    places = starting_places(problem, 2, 3)
    for row in range(3):
        np.testing.assert_array_equal(places[row], problem.initial(as_generator(2 + row)))


# -- records ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted(Interrupting, UciEnergy):
    """The study, which can be stopped."""


def small(**options):
    return Interrupted("uci-energy", hidden=(4,), **options)


def without_clock(record):
    runs = [
        {**run, "commit": None, "curve": {k: v for k, v in run["curve"].items() if k != "seconds"}}
        for run in record["runs"]
    ]
    return {**record, "runs": runs, "provenance": None}


@pytest.fixture(scope="module")
def one_worker(tmp_path_factory):
    """The smoke record of a small network, made in this process."""
    folder = tmp_path_factory.mktemp("one")
    UciEnergy("uci-energy", hidden=(4,)).record(folder, scale="smoke")
    return read_record("uci-energy", folder)


@with_data
def test_record_of_every_method(one_worker):
    assert one_worker["settings"]["hidden"] == [4]
    assert {run["method"] for run in one_worker["runs"]} == set(methods())
    for run in one_worker["runs"]:
        assert run["key"] == f"{run['method']}/{run['seed']}"
        assert (run["status"], run["steps"]) == ("budget", 3)
        assert run["curve"]["step"] == [0, 1, 2, 3]
        assert run["curve"]["loss"][-1] == run["loss"]
        assert np.isfinite([run["loss"], run["test_loss"]]).all()
        assert run["batch"] == (1 if run["method"] == "lbfgs" else _PLAN["smoke"][run["method"]][2])
        told = {"series": "scale", "adaptive": "damping", "lanczos": "damping"}.get(run["method"].split("-")[0])
        assert told is None or run[told]["largest"] >= run[told]["last"] > 0
    starts = {run["seed"]: set() for run in one_worker["runs"]}
    for run in one_worker["runs"]:
        starts[run["seed"]].add(round(run["curve"]["loss"][0], 6))
    assert all(len(losses) == 1 for losses in starts.values())  # every method starts where its seed says
    assert len(set.union(*starts.values())) == len(starts) > 1


@with_data
@pytest.mark.slow
def test_two_workers_give_the_same_numbers(one_worker, tmp_path):
    UciEnergy("uci-energy", hidden=(4,)).record(tmp_path, scale="smoke", workers=2)
    assert without_clock(read_record("uci-energy", tmp_path)) == without_clock(one_worker)


@with_data
def test_study_continues_where_it_stopped(one_worker, tmp_path):
    first = small(stop="adaptive-kfac/0-1")
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(tmp_path, scale="smoke")
    assert len(first.ran) >= 3
    partial = json.loads((tmp_path / ".uci-energy.partial.json").read_text())
    assert list(partial) == first.ran
    second = small()
    second.record(tmp_path, scale="smoke")
    jobs = second.jobs(second.settings("smoke", None))
    assert second.ran == [job for job in jobs if job not in first.ran]
    assert second.ran[0] == "adaptive-kfac/0-1"
    assert without_clock(read_record("uci-energy", tmp_path)) == without_clock(one_worker)
    assert [path.name for path in tmp_path.iterdir()] == ["uci-energy.json"]


@with_data
@pytest.mark.slow
def test_a_worker_that_fails_ends_the_study_and_keeps_what_is_done(tmp_path):
    with pytest.raises(RuntimeError, match="stopped"):
        small(stop="lbfgs/1-1").record(tmp_path, scale="smoke", workers=2)  # the last job
    kept = set(json.loads((tmp_path / ".uci-energy.partial.json").read_text()))
    assert "lbfgs/1-1" not in kept
    again = small()
    again.record(tmp_path, scale="smoke")
    jobs = again.jobs(again.settings("smoke", None))
    assert again.ran == [job for job in jobs if job not in kept]
    assert 1 <= len(again.ran) < len(jobs)
