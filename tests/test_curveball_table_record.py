"""CurveBall's Table 1: the record of the study, how it resumes, and what a chapter reads from it.

Oracles: live runs of single methods, and a whole record beside one that was interrupted.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from experiment_cases import Interrupting

from refimpl.experiments import curveball_table as study
from refimpl.experiments.curveball_methods import fastest, grid
from refimpl.experiments.curveball_table import ROWS, CurveballTable, iterations, methods
from refimpl.experiments.first_passage import NOISE, STARTS, batch, passages
from refimpl.experiments.records import read_record

# -- the record -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Few(Interrupting, CurveballTable):
    """Three methods on two problems, ten settings."""

    def settings(self, scale, seeds):
        whole = super().settings(scale, seeds)
        kept = {name: whole["methods"][name] for name in ("heavy-ball", "bfgs", "curveball")}
        problems = {name: whole["problems"][name] for name in ("rosenbrock-u1", "rahimi-recht")}
        return {**whole, "runs": 3, "methods": kept, "problems": problems, "longest": 400}


def few(**options):
    return Few("curveball-table", **options)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    few().record(folder, scale="smoke")
    return read_record("curveball-table", folder)


def test_record_holds_the_counts_of_live_runs(record):
    for problem, target in (("rosenbrock-u1", 1e-4), ("rahimi-recht", 1e-1)):
        live = iterations(problem, "curveball", runs=3, steps=133, target=target)
        assert study.counts_of(record, problem, "curveball", target=target).tolist() == live.tolist()
        assert np.isfinite(live).all()


def test_record_says_which_settings_were_chosen(record):
    runs = {run["key"]: run for run in record["runs"]}
    for rule in ("", "/last-ten/400"):
        run = runs[f"rosenbrock-u1/near/heavy-ball{rule}"]
        assert run["settings"]["0.0001"] in record["settings"]["methods"]["heavy-ball"]
    trial = batch("rosenbrock-u1", 3, stream=2)
    options = grid("heavy-ball", [0.1, 0.001])
    found = [passages(trial, one, steps=400, targets=(1e-4,), lengths=(400,)) for one in options]
    assert runs["rosenbrock-u1/near/heavy-ball"]["settings"]["0.0001"] == repr(options[fastest(found, 0)])
    best = options[np.argmin([one.averages.mean() for one in found])]
    assert runs["rosenbrock-u1/near/heavy-ball/last-ten/400"]["settings"]["0.0001"] == repr(best)
    again = passages(batch("rosenbrock-u1", 3), best, steps=400, targets=(1e-4,)).counts[:, 0]
    found = study.counts_of(record, "rosenbrock-u1", "heavy-ball/last-ten/400")
    assert found.tolist() == again.tolist()
    assert study.counts_of(record, "rosenbrock-u1", "heavy-ball/last-ten").tolist() == again.tolist()
    assert set(runs["rahimi-recht/normal/heavy-ball"]["settings"]) == {"0.0001", "0.01", "0.1"}


def test_settings_are_not_chosen_on_reported_runs(monkeypatch):
    seen = []

    def watched(runs, method, **options):
        seen.append((runs.noise[0], len(runs.starts), "lengths" in options))
        return passages(runs, method, **options)

    monkeypatch.setattr(study, "passages", watched)
    experiment = few()
    settings = {"scale": "smoke", **experiment.settings("smoke", None), "runs": 2}
    runs = experiment.run_job("rosenbrock-u1/near/heavy-ball", settings, "cpu")
    assert len(runs) == 2
    assert seen[:6] == [(2, 3, True)] * 6
    assert set(seen[6:]) == {(1, 2, False)}


def test_failures_survive_the_record(record):
    run = next(run for run in record["runs"] if run["key"] == "rahimi-recht/normal/curveball")
    missing = [count is None for count in run["counts"]["0.0001"]]
    counts = study.counts_of(record, "rahimi-recht", "curveball")
    assert run["status"] == "budget"
    assert any(missing)
    assert np.isinf(counts).tolist() == missing
    assert study.summary(counts).failures == np.mean(missing)


def test_paths_lead_from_the_start_to_the_target(record):
    found = study.trajectories(record)
    assert set(found) == {"rosenbrock-u1"}
    assert set(found["rosenbrock-u1"]) == {"heavy-ball", "bfgs", "curveball"}
    for method, path in found["rosenbrock-u1"].items():
        np.testing.assert_allclose(path["places"][0], batch("rosenbrock-u1", 1).starts[0], rtol=1e-6)
        finite = np.isfinite(path["losses"])
        u, v = path["places"][finite].T
        np.testing.assert_allclose(path["losses"][finite], (1 - u) ** 2 + 100 * (v - u * u) ** 2, rtol=1e-2, atol=1e-8)
        first = study.counts_of(record, "rosenbrock-u1", method)[0]
        assert path["steps"][-1] == min(first, 400) or not finite.all()
        assert (path["losses"][-1] <= 1e-4) == np.isfinite(first)
        assert len(path["steps"]) == len(path["losses"]) <= 100
        assert path["style"] == method


def test_evolution_of_curveballs_parameters(record):
    found = study.evolution(record)
    assert set(found) == {"rosenbrock-u1", "rahimi-recht"}
    for problem, of in found.items():
        columns = of["curveball"]
        assert columns["step"][-1] == (59 if problem == "rosenbrock-u1" else 499)
        assert {len(column) for column in columns.values()} == {len(columns["step"])}
        assert len(columns["step"]) <= 100
        assert all(np.isfinite(column).all() for column in columns.values())
        assert columns["damping"][0] == 1.0
        assert (columns["momentum"][0], columns["step"][0]) == (0.0, 0.0)
        assert columns["learning_rate"][0] > 0
        ratios = columns["damping"][1:] / columns["damping"][:-1]
        assert 0.9 < ratios.min() < 1.0


def test_record_has_what_is_asked_or_says_so(record):
    with pytest.raises(ValueError, match="rosenbrock-u3"):
        study.counts_of(record, "rosenbrock-u3", "curveball")
    with pytest.raises(ValueError, match=r"0\.0001"):
        study.counts_of(record, "rosenbrock-u1", "curveball", target=0.5)


def test_study_continues_where_it_stopped(record, tmp_path):
    first = few(stop="rosenbrock-u1/near/curveball")
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(tmp_path, scale="smoke")
    assert list(json.loads((tmp_path / ".curveball-table.partial.json").read_text())) == first.ran
    second = few()
    second.record(tmp_path, scale="smoke")
    assert len(first.ran) == 2
    assert sorted(first.ran + second.ran) == sorted(second.jobs(second.settings("smoke", None)))
    again = read_record("curveball-table", tmp_path)
    assert again["runs"] == record["runs"]
    assert again["settings"] == record["settings"]


@pytest.mark.slow
def test_table_of_the_smoke_record(tmp_path):
    CurveballTable("curveball-table").record(tmp_path, scale="smoke", workers=2)
    whole = read_record("curveball-table", tmp_path)
    header, rows = study.table(whole)
    assert len(rows) == len(ROWS)
    assert {len(row) for row in rows} == {len(header)} == {10}
    cells = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    ours = cells["CurveBall, damping 1 at the start"]
    assert ours["Rosenbrock, paper"] == "13 ± 0.5"
    assert ours["Rahimi–Recht, paper"] == "35 ± 11"
    assert rows[-1][0] == "Hessian-free"
    assert rows[-1][1] == "–"
    for i, problem in enumerate(NOISE):
        counts = iterations(problem, "curveball", runs=6)
        assert rows[11][2 * (i + 1)] == str(study.summary(counts))
    assert set(study.trajectories(whole)) == set(NOISE)
    adam = study.counts_of(whole, "rosenbrock", "adam/last-ten/600")
    assert rows[3][:3] == ["Adam, paper's rule", "799 ± 160.5", str(study.summary(adam))]


def test_full_study_covers_the_table():
    experiment = CurveballTable("curveball-table")
    settings = {"scale": "full", **experiment.settings("full", None)}
    jobs = experiment.jobs(settings)
    assert settings["runs"] == 100
    assert settings["tuning_runs"] == 20
    assert len(set(jobs)) == len(jobs)
    for problem, starts in STARTS.items():
        for start in starts:
            for name in (*methods(), *study.TUNED):
                assert f"{problem}/{start}/{name}" in jobs
    assert {"scale": "full", **experiment.settings("full", 7)}["runs"] == 7


def test_only_what_decides_a_job_is_among_its_settings():
    experiment = CurveballTable("curveball-table")
    settings = {"scale": "ci", **experiment.settings("ci", None)}
    job = "rosenbrock/near/curveball"
    assert experiment.job_settings(job, settings) == experiment.job_settings(job, {**settings, "tuning_runs": 99})
    assert experiment.job_settings(job, settings) != experiment.job_settings(job, {**settings, "runs": 99})
    changed = {**settings, "methods": {**settings["methods"], "curveball": "other"}}
    assert experiment.job_settings(job, settings) != experiment.job_settings(job, changed)
    tuned = "rosenbrock/near/adam"
    assert experiment.job_settings(tuned, settings) == experiment.job_settings(tuned, changed)
    assert experiment.job_settings(tuned, settings) != experiment.job_settings(tuned, {**settings, "tuning_runs": 99})
