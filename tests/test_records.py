"""Records of runs: written whole or not at all, complete in their provenance, and known for stale when they are.

Oracles: JSON's own parser; the records in ``data/results``, which were made by earlier commits; whole records with one
thing changed.
"""

import json
import os
import sys
import time
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiment_cases import Letters, Walk

from refimpl.experiments import EXPERIMENTS, records
from refimpl.experiments.__main__ import main
from refimpl.experiments.records import (
    check_record,
    provenance,
    provenance_line,
    read_record,
    stale,
    verdict,
    write_record,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "data" / "results"


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


def test_a_write_that_fails_leaves_the_old_record_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "new" / "e.json"
    write_record(path, complete())
    before = path.read_text()

    def full(_):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_record(path, complete() | {"settings": {"other": True}})
    assert path.read_text() == before
    assert [each.name for each in path.parent.iterdir()] == ["e.json"]


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


# -- stale and incomplete ---------------------------------------------------------------------------------------------

CLEAN = {"commit": "0123456789", "dirty": False}


def walked(folder, experiment=None, **options):
    """The record of the walks as a clean checkout would have written it."""
    experiment = experiment or Walk()
    path = experiment.record(folder, **options)
    record = json.loads(path.read_text())
    record["provenance"] |= CLEAN
    write_record(path, record)
    return record


def with_change(record, *place, value):
    """A copy with another value (or none: ``value=None``) at ``place``."""
    changed = deepcopy(record)
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    if value is None:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return changed


@pytest.mark.parametrize("path", sorted(RESULTS.glob("[!.]*.json")), ids=lambda path: path.stem)
def test_committed_record_is_what_its_experiment_would_record(path):
    assert verdict(path.stem, EXPERIMENTS.get(path.stem), RESULTS) == "ok"


@pytest.mark.parametrize("options", [{}, {"seeds": 1}, {"seeds": 5}, {"scale": "smoke"}])
def test_a_whole_record_is_not_stale(tmp_path, options):
    record = walked(tmp_path, **options)
    assert stale(record, Walk()) == []
    assert verdict("walk", Walk(), tmp_path) == "ok"


@pytest.mark.parametrize(
    ("today", "why"),
    [
        (Walk(steps=61), ["settings.steps is 60, today 61"]),
        (Walk(steps=3), ["settings.steps is 60, today 3"]),
        (replace(Walk(), extra={"damping": 0.5}), ["settings.damping lacks, today it is 0.5"]),
    ],
)
@pytest.mark.parametrize("seeds", [None, 3])
def test_other_settings_today_are_stale(tmp_path, today, why, seeds):
    record = walked(tmp_path, seeds=seeds)
    assert stale(record, today) == why
    assert verdict("walk", today, tmp_path) == f"stale: {why[0]}"


def test_a_setting_that_is_gone_is_stale(tmp_path):
    record = walked(tmp_path, replace(Walk(), extra={"methods": {"adam": "Adam(0.1)"}}))
    assert stale(record, Walk()) == ['settings.methods is {"adam": "Adam(0.1)"}, and there is no such setting today']
    today = replace(Walk(), extra={"methods": {"adam": "Adam(0.2)"}})
    assert stale(record, today) == ['settings.methods.adam is "Adam(0.1)", today "Adam(0.2)"']


CHANGES = [
    ("provenance", "dirty", True, "stale: it was made with local changes of refimpl"),
    ("jobs", "plane/left/1", None, "incomplete: 1 of 4 jobs lack: plane/left/1; it holds 4 runs, and its jobs had 3"),
    ("runs", 3, None, "incomplete: it holds 3 runs, and its jobs had 4"),
    ("settings", "scale", "huge", "stale: its scale is 'huge', none of ['smoke', 'ci', 'full']"),
]


@pytest.mark.parametrize(("part", "key", "value", "why"), CHANGES)
def test_verdict_on_a_record_with_one_change(tmp_path, part, key, value, why):
    write_record(tmp_path / "walk.json", with_change(walked(tmp_path), part, key, value=value))
    assert verdict("walk", Walk(), tmp_path) == why


def test_verdict_on_what_is_not_a_record_of_it(tmp_path):
    assert verdict("walk", Walk(), tmp_path).startswith("incomplete: there is no record 'walk'")
    record = walked(tmp_path)
    assert verdict("walk", None, tmp_path) == "stale: there is no experiment of this name"
    assert verdict("walk", Walk("run"), tmp_path) == "stale: it is a record of 'walk', not of 'run'"
    write_record(tmp_path / "walk.json", with_change(record, "runs", 2, "status", value=None))
    assert verdict("walk", Walk(), tmp_path) == "incomplete: record 'walk' has runs without a status: ['plane/right/0']"
    assert stale(json.loads((tmp_path / "walk.json").read_text()), Walk()) == ["runs without a status: plane/right/0"]
    (tmp_path / "walk.json").write_text(json.dumps(record)[:300])
    assert verdict("walk", Walk(), tmp_path).startswith("incomplete: ")
    outside = with_change(record, "provenance", "commit", value="x")
    outside["provenance"]["commit"] = None
    assert stale(outside, Walk()) == ["it was made outside git"]


def test_jobs_of_a_record_that_does_not_list_them(tmp_path):
    record = with_change(walked(tmp_path), "jobs", value=None)
    assert stale(record, Walk()) == []
    del record["runs"][1]
    assert stale(record, Walk()) == ["1 of 4 jobs lack: plane/left/1"]
    energy = json.loads((RESULTS / "uci-energy.json").read_text())  # its jobs are spans of seeds
    energy["runs"] = [run for run in energy["runs"] if run["key"] != "kfac/7"]
    assert stale(energy, EXPERIMENTS["uci-energy"]) == ["1 of 28 jobs lack: kfac/0-9"]


def test_a_selection_is_incomplete(tmp_path):
    record = walked(tmp_path, optimizers=["left"], only_seeds=[1])
    assert record["selection"] == {"optimizers": ["left"], "seeds": [1]}
    assert list(record["jobs"]) == ["plane/left/1"]
    lacking, jobs = stale(record, Walk())
    assert lacking == 'it holds a selection of the jobs: {"optimizers": ["left"], "seeds": [1]}'
    assert jobs == "3 of 4 jobs lack: plane/left/0, plane/right/0, plane/right/1"
    assert verdict("walk", Walk(), tmp_path).startswith("incomplete: it holds a selection")


def test_one_dirty_session_makes_a_dirty_record(tmp_path, monkeypatch):
    sources = iter([{**provenance(), "dirty": True}, {**provenance(), "dirty": False}])
    monkeypatch.setattr("refimpl.experiments.runner.provenance", lambda device: next(sources))
    with pytest.raises(RuntimeError):
        Letters(stop=1).record(tmp_path)
    Letters().record(tmp_path)
    assert read_record("letters", tmp_path)["provenance"]["dirty"] is True


def test_settings_from_another_record(tmp_path):
    folder, name = tmp_path, "char-transformer"
    record = json.loads((RESULTS / f"{name}.json").read_text())
    write_record(folder / f"{name}.json", record)
    assert verdict(name, EXPERIMENTS[name], folder).startswith("stale: there is no record 'char-tuning'")
    tuning = json.loads((RESULTS / "char-tuning.json").read_text())
    write_record(folder / "char-tuning.json", tuning)
    assert verdict(name, EXPERIMENTS[name], folder) == "ok"
    best = min((run for run in tuning["runs"] if run["method"] == "adamw"), key=lambda run: run["val_loss"])
    best |= {"loss": 99.0, "val_loss": 99.0}
    write_record(folder / "char-tuning.json", tuning)
    assert "settings.chosen.rates.adamw is 0.01, today" in verdict(name, EXPERIMENTS[name], folder)


def test_check_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(EXPERIMENTS, "walk", Walk())
    monkeypatch.setenv("REFIMPL_RESULTS", str(tmp_path))
    assert main(["check"]) == 2
    assert "there are no records" in capsys.readouterr().err
    walked(tmp_path)
    assert main(["check"]) == main(["check", "walk"]) == 0
    assert capsys.readouterr().out.split() == ["walk", "ok"] * 2
    monkeypatch.setitem(EXPERIMENTS, "walk", Walk(steps=61))
    write_record(tmp_path / "nothing.json", read_record("walk", tmp_path))
    assert main(["check", "--out", str(tmp_path)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in printed] == [["nothing", "stale:"], ["walk", "stale:"]]
    assert main(["check", "mnist-mlp"]) == 1
    assert "no record 'mnist-mlp'" in capsys.readouterr().out
    assert main(["check", "nothing"]) == 2
