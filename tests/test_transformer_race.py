"""The race on the transformer of characters.

Oracles: the record of the tuning study; the schedule by its formula; the text's own problem.
"""

import json

import pytest

torch = pytest.importorskip("torch")

from refimpl.experiments import EXPERIMENTS  # noqa: E402
from refimpl.experiments.char_tuning import choices, common_settings  # noqa: E402
from refimpl.experiments.race_methods import KINDS, asks_products  # noqa: E402
from refimpl.experiments.records import check_record, read_record  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.experiments.training import Tuned  # noqa: E402
from refimpl.experiments.transformer_race import CASE, RECORDED, TransformerRace  # noqa: E402


@pytest.fixture
def chosen():
    return choices(read_record("char-tuning"))


def test_smoke_record(tmp_path, monkeypatch, chosen):
    def known(self, *_, **__):
        self.chosen.update(chosen)

    monkeypatch.setattr(TransformerRace, "prepare", known)
    study = TransformerRace("transformer-race")
    path = study.record(tmp_path, scale="smoke", optimizers=["muon", "amos-90", "kryball-published"])
    record = json.loads(path.read_text())
    check_record(record)
    runs = [run for run in record["runs"] if run["role"] == "run"]
    assert {run["method"] for run in runs} == {"muon", "amos-90", "kryball-published"}
    for run in runs:
        curve = run["curve"]
        assert run["status"] == "budget"
        assert {"loss", "val_loss", "val_accuracy", "accuracy", "work"} <= set(curve)
        assert curve["val_loss"][-1] == run["val_loss"]
        assert not {"error", "batch_error", "test_loss"} & set(curve)


def test_rates_of_recorded_methods_are_those_of_the_tuning_record(chosen):
    study = TransformerRace("transformer-race", chosen)
    settings = study.settings("ci", None)
    methods = study.race_methods(CASE, settings)
    adamw, sophia, amos = (methods[name] for name in RECORDED)
    assert adamw.method.learning_rate == chosen["rates"]["adamw"]
    assert {"learning_rate": sophia.method.learning_rate, "rho": sophia.method.rho} == chosen["sophia"]
    assert amos.method.threshold == chosen["thresholds"]["90"]
    assert {method.factor.steps for method in (adamw, sophia, amos)} == {800}
    assert methods["muon"].steps == 800
    assert settings["plan"][CASE]["muon"] == {"budget": {"work": 800.0}, "seeds": 3}


@pytest.mark.parametrize("scale", SCALES)
def test_settings_are_plain_and_name_every_method(scale, chosen):
    settings = TransformerRace("transformer-race", chosen).settings(scale, None)
    json.dumps(settings)
    assert set(settings["plan"][CASE]) == set(settings["methods"][CASE]) <= set(KINDS)
    assert settings["model"] == common_settings(scale)["model"]


def test_jobs_of_tuned_methods_hold_all_their_seeds(chosen):
    study = TransformerRace("transformer-race", chosen)
    jobs = study.jobs(study.settings("ci", None))
    tuned = {f"text/{name}" for name in ("heavy-ball", "muon", "soap", "series-2", "lanczos-5-tuned")}
    assert tuned <= set(jobs)
    assert {"text/adamw/0", "text/adamw/1", "text/adamw/2", "text/kryball/2"} <= set(jobs)
    assert {name for name, method in study.methods(CASE).items() if isinstance(method, Tuned)} == {
        job.split("/")[1] for job in tuned
    }


def test_muon_leaves_the_tables_to_adamw(chosen):
    study = TransformerRace("transformer-race", chosen)
    settings = study.settings("smoke", None)
    problem = study.problem(CASE, settings, "cpu")
    names = [name for name, _ in problem.module.named_parameters()]
    muon = study.race_methods(CASE, settings)["muon"].method
    assert [names[place] for place in muon.adam] == ["tokens", "positions"]


def test_a_graph_is_kept_for_those_who_ask_products():
    assert asks_products("kryball-published")
    assert not asks_products("curveball")
    assert EXPERIMENTS["transformer-race"].name == "transformer-race"
