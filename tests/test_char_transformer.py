"""The study of AMOS on a character transformer: its runs, what is chosen on the tuning seed, and what is read from it.

Oracles: quantiles and minima by hand; the paper's table typed once more; a study that was not interrupted.
"""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from experiment_cases import Interrupting, stopped_and_continued
from text_cases import small_problem

from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.char_methods import ALPHAS, CASES, CHUNKS, MAIN, PAPER, PERCENTS, STATIC, adamw, amos, build
from refimpl.experiments.char_transformer import (
    TABLE_HEADER,
    CharTransformer,
    curves,
    estimates,
    noise,
    offloading,
    table,
)
from refimpl.experiments.char_tuning import CharTuning, choices, common_settings, starting_place, text_problem, tuned
from refimpl.experiments.records import check_record, provenance, read_record
from refimpl.experiments.runner import SCALES
from refimpl.experiments.token_runs import train_tokens
from refimpl.experiments.training import TUNING_SEED
from refimpl.optimizers.adam import AdamW
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.sophia import Sophia
from refimpl.problems.transformer import char_transformer

PRINTED = "0 70.16 0.7 16.19 0.8 17.9 0.9 14.65 0.95 0.65 0.99 0.91 0.995 0.65 0.999 0.02"  # the list in appendix E
CHOSEN = {
    "rates": {"adamw": 0.01, "sgd": 0.5},
    "sophia": {"learning_rate": 3e-3, "rho": 0.2},
    "amos": {"learning_rate": 1e-3, "rho": 0.1},
    "offload_rate": 0.25,
    "thresholds": {"90": 0.9, "75": 0.7, "50": 0.5},
    "fractions": {"90": 0.09, "75": 0.2, "50": 0.4},
    "small_threshold": 0.3,
}
SETTINGS = {**common_settings("smoke"), "chosen": CHOSEN}


# -- methods ----------------------------------------------------------------------------------------------------------


def test_the_paper_s_numbers_are_the_printed_ones():
    numbers = [float(part) for part in PRINTED.split()]
    assert PAPER["offloaded"] == dict(zip(numbers[::2], numbers[1::2], strict=True))
    printed = {"learning_rate": 6e-4, "beta1": 0.9, "beta2": 0.95, "rho": 0.01, "weight_decay": 0.1}
    made = {name: build("paper", name, CHOSEN, SETTINGS, 7) for name in CASES["paper"]}
    for name, method in made.items():
        knobs = made[name] if name == "sgd" else method.method
        if name not in ("adamw", "sgd"):
            assert {key: getattr(knobs, key) for key in printed} == printed
            assert knobs.seed == 7
        if name.startswith("amos"):
            assert not knobs.bias_correction
    assert made["sgd"] == GradientDescent(1.25e-5)
    assert made["adamw"].method == AdamW(6e-4, 0.9, 0.95, weight_decay=0.1)
    assert made["amos"].method == AMOS.published(interval=3, seed=7)
    newton = made["amos-newton-0.7"].method
    found = (newton.threshold, newton.aggregation, newton.alpha, newton.offload_rate, newton.epsilon2)
    assert found == ("newton", "max", 0.7, 3.125e-6, 1e-15)


def test_methods_follow_what_was_chosen():
    def plain(case, name):
        return build(case, name, CHOSEN, SETTINGS, 3).method

    shared = {"learning_rate": 1e-3, "rho": 0.1, "interval": 3, "seed": 3}
    assert plain("main", "adamw") == adamw(0.01) == AdamW(0.01, 0.9, 0.95, weight_decay=0.1)
    assert plain("main", "sgd") == GradientDescent(0.5)
    assert plain("main", "sophia-amos") == Sophia(**shared)
    assert plain("main", "sophia") == Sophia(**{**shared, **CHOSEN["sophia"]})
    for percent in PERCENTS:
        key = str(percent)
        expected = AMOS(**shared, offload_rate=0.25, threshold=CHOSEN["thresholds"][key])
        assert plain("main", f"amos-{percent}") == expected
        random = AMOS(**shared, offload_rate=0.25, selection="random", fraction=CHOSEN["fractions"][key])
        assert plain("main", f"random-{percent}") == random
    middle = AMOS(**shared, offload_rate=0.25, threshold=0.7)
    assert plain("side", "freeze-75") == replace(middle, offload="freeze")
    assert plain("side", "newton-max") == replace(middle, threshold="newton", aggregation="max")
    assert plain("side", "newton-mean") == replace(middle, threshold="newton")
    assert plain("side", "certificate") == replace(middle, threshold="certificate")
    assert [plain("side", f"chunks-{size}") for size in CHUNKS] == [replace(middle, chunk=size) for size in CHUNKS]
    assert plain("side", "draws-4") == replace(middle, draws=4)
    for alpha in ALPHAS:
        raw = replace(middle, threshold=0.3, alpha=alpha, bias_correction=False)
        assert plain("momentum", f"alpha-{alpha:g}-raw") == raw
        assert plain("momentum", f"alpha-{alpha:g}-corrected") == replace(raw, bias_correction=True)
    with pytest.raises(ValueError, match="unknown method 'amos-3' of case 'main'"):
        plain("main", "amos-3")
    with pytest.raises(ValueError, match="unknown method"):
        plain("third", "amos-90")


def test_static_sets_are_the_tensors_they_are_called_by():
    names = [name for name, _ in char_transformer(30).named_parameters()]
    assert [names[k] for k in STATIC["static-tokens"]] == ["tokens"]
    assert [names[k] for k in STATIC["static-early"]] == ["tokens", "positions", "blocks.0.first_norm"]


def test_all_rates_follow_the_schedule():
    method = build("main", "amos-90", CHOSEN, SETTINGS, 0)
    plan = SETTINGS["plan"]
    for step, factor in ((0, 1 / plan["warmup"]), (plan["warmup"], 1.0), (plan["steps"], 0.1)):
        assert method.at(step).learning_rate == pytest.approx(1e-3 * factor)
        assert method.at(step).offload_rate == pytest.approx(0.25 * factor)
        assert build("main", "sgd", CHOSEN, SETTINGS, 0).at(step).learning_rate == pytest.approx(0.5 * factor)
    assert build("momentum", "alpha-0-raw", CHOSEN, SETTINGS, 0).factor.steps == SETTINGS["small"]["steps"]


def test_amos_that_never_offloads_is_sophia():
    problem = small_problem()
    start = starting_place(problem, 0)
    runs = [
        train_tokens(problem, method, start, steps=8, seed=0, looks=[])
        for method in (Sophia(1e-3, rho=0.1, interval=3), amos(CHOSEN, 3))
    ]
    assert runs[0]["val_loss"] == runs[1]["val_loss"]
    assert runs[1]["offloaded_max"] == 0


# -- tuning -----------------------------------------------------------------------------------------------------------


def tuning_run(method, loss, **extra):
    return {"key": f"{method}/{extra}", "case": "tuning", "method": method, "role": "tuning", "seed": TUNING_SEED,
            "status": "budget", "steps": 3, "loss": loss, "val_loss": -(loss or 1.0), **extra}  # fmt: skip


def test_choices_are_those_of_the_smallest_training_loss():
    quantiles = [{"90": 3.0 + k, "75": 2.0 + k, "50": 1.0 + k} for k in range(3)]
    knobs = [{"learning_rate": 0.1 * (k + 1), "rho": 0.1} for k in range(3)]
    losses = (2.0, 1.5, None)
    runs = [tuning_run("adamw", loss, rate=rate) for rate, loss in ((0.1, 3.0), (0.2, 2.0), (0.3, None))]
    runs += [tuning_run("sgd", loss, rate=rate) for rate, loss in ((0.5, 1.0), (1.5, 2.0))]
    runs += [tuning_run("sophia", x, sophia=k, quantiles=q) for x, k, q in zip(losses, knobs, quantiles, strict=True)]
    runs += [
        tuning_run("amos-75", loss, rate=rate, offloaded_mean=share, sophia=knobs[k], quantiles=quantiles[k])
        for k, rate, loss, share in ((0, 0.1, 1.4, 0.3), (0, 0.5, 1.2, 0.2), (1, 0.1, 1.3, 0.1))
    ]
    runs += [tuning_run(f"amos-{p}", 1.0, rate=0.5, offloaded_mean=p / 1000) for p in (90, 50)]
    runs += [tuning_run("small", 1.0, sophia=knobs[0], quantiles={"90": 9.0, "75": 8.0, "50": 7.0})]
    assert choices({"runs": runs}) == {
        "rates": {"adamw": 0.2, "sgd": 0.5},
        "sophia": knobs[1],
        "amos": knobs[0],
        "offload_rate": 0.5,
        "thresholds": quantiles[0],
        "fractions": {"90": 0.09, "75": 0.2, "50": 0.05},
        "small_threshold": 7.0,
    }
    for run in runs:
        if run["method"] == "sophia":
            run["loss"] = None
    with pytest.raises(ValueError, match="smaller rates"):
        choices({"runs": runs})


def test_thresholds_are_quantiles_of_a_run_of_sophia(tmp_path):
    path = CharTuning("char-tuning").record(tmp_path, scale="smoke")
    record = read_record("char-tuning", tmp_path)
    assert path.name == "char-tuning.json"
    settings = record["settings"]
    run = next(run for run in record["runs"] if run["method"] == "sophia")
    problem, seen = text_problem(settings, "cpu"), []
    method = build("main", "sophia-amos", {**CHOSEN, "amos": run["sophia"]}, settings, 0)
    watched = AMOS(**{k: getattr(method.method, k) for k in ("learning_rate", "rho", "interval")}, offload_rate=1.0,
                   threshold=1e9)  # fmt: skip
    again = train_tokens(
        problem, replace(method, method=watched), starting_place(problem, TUNING_SEED), steps=settings["plan"]["steps"],
        seed=TUNING_SEED, looks=[], watch=lambda step, info: seen.append((step, info)),
    )  # fmt: skip
    assert again["loss"] == pytest.approx(run["loss"], rel=1e-6)
    values = np.concatenate([info.group_lipschitz.numpy() for step, info in seen if step in (4, 7)])  # not step 1
    for percent in PERCENTS:
        assert run["quantiles"][str(percent)] == pytest.approx(np.quantile(values, percent / 100), rel=1e-5)
    assert tuned(tmp_path, "smoke", "cpu", 1) == choices(record)


def test_an_existing_tuning_record_is_used_unless_it_is_of_another_scale(tmp_path, monkeypatch):
    CharTuning("char-tuning").record(tmp_path, scale="smoke")
    asked = []
    monkeypatch.setattr(CharTuning, "record", lambda *_, scale, **__: asked.append(scale))
    tuned(tmp_path, "smoke", "cpu", 1)
    assert asked == []
    tuned(tmp_path, "ci", "cpu", 1)
    assert asked == ["ci"]


# -- the study --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_cases_methods_and_seeds(scale):
    study = EXPERIMENTS["char-transformer"]
    settings = {"scale": scale, **study.settings(scale, None)}
    json.dumps(settings)
    jobs = study.jobs(settings)
    assert len(set(jobs)) == len(jobs)
    assert jobs[-1] == "noise"
    counts = {case: sum(job.startswith(f"{case}/") for job in jobs) for case in CASES}
    assert counts == {case: len(CASES[case]) * settings["seeds"][case] for case in CASES}
    assert all(str(TUNING_SEED) not in job.split("/") for job in jobs)
    assert (settings["seeds"]["paper"] == 0) == (scale == "ci")
    more = {**settings, "seeds": {**settings["seeds"], "main": 99}}
    assert study.job_settings(jobs[0], more) == study.job_settings(jobs[0], settings)
    other = {**settings, "noise": {}}
    assert study.job_settings(jobs[0], other) == study.job_settings(jobs[0], settings)
    assert study.job_settings("noise", other) != study.job_settings("noise", settings)
    assert study.settings(scale, 2)["seeds"]["main"] == 2


def test_the_model_of_ci_has_the_size_that_is_told():
    settings = common_settings("ci")
    problem = text_problem(settings, "cpu")
    if len(problem.module.tokens) == 65:
        assert (problem.n, text_problem(settings, "cpu", small=True).n) == (106_880, 16_512)
    assert (problem.batch_size, problem.context, problem.backend.dtype_name) == (16, 64, "float32")
    assert {settings["plan"]["steps"], settings["plan"]["warmup"]} == {800, 50}


@dataclass(frozen=True)
class Interrupted(Interrupting, CharTransformer):
    """The study, which can be stopped."""


def test_smoke_record_and_how_it_is_continued(tmp_path):
    record = stopped_and_continued(Interrupted, "char-transformer", "side/certificate/0", tmp_path)
    assert record["settings"]["chosen"] == choices(read_record("char-tuning", tmp_path))
    assert all(run["status"] == "budget" for run in record["runs"])
    for case, names in CASES.items():
        assert [row[0] for row in table(record, case)] == list(names)
    steps, found = estimates(record, "amos-90")
    assert steps == [4, 9]
    assert list(found) == [name for name, _ in text_problem(record["settings"], "cpu").module.named_parameters()]
    assert all(len(values) == 2 for values in found.values())
    assert offloading(record, "main", "static-tokens").shape == (1, 3)
    assert [row["step"] for row in noise(record)] == [0, 3]
    assert all("markov_text" in run["data"] or "tiny_shakespeare" in run["data"] for run in record["runs"])

    again = CharTransformer("c").run_job("main/amos-75/0", record["settings"], "cpu")
    kept = next(run for run in record["runs"] if run["key"] == "main/amos-75/0")
    assert float(f"{again[0]['val_loss']:.7g}") == kept["val_loss"]


def test_an_unknown_scale_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown scale"):
        CharTransformer("c").record(tmp_path, scale="huge")


# -- reading ----------------------------------------------------------------------------------------------------------


def typed(method, seed, val_losses, status="budget", **extra):
    steps = list(range(0, 10 * len(val_losses), 10))
    curve = {"step": steps, "val_loss": val_losses, "loss": val_losses, "work": steps, "seconds": steps}
    end = val_losses[-1] if status == "budget" else None
    return {"key": f"main/{method}/{seed}", "case": "main", "method": method, "role": "run", "seed": seed,
            "status": status, "steps": steps[-1], "loss": end, "val_loss": end, "curve": curve, **extra}  # fmt: skip


def record_of(*runs):
    record = {"schema": 1, "experiment": "e", "settings": {}, "runs": list(runs), "provenance": provenance()}
    check_record(record)
    return record


def test_table_holds_means_ranges_and_shares():
    shares = [{"offloaded_mean": 0.1 * k, "offloaded_max": 0.2 * k} for k in (1, 2, 3)]
    record = record_of(
        *(typed("amos-75", k, [3.0, 2.0 + k], **shares[k], offloaded=[0.0, 0.1 * k]) for k in range(3)),
        typed("sgd", 0, [3.0, 2.5]),
        typed("sgd", 1, [3.0, 2.5], status="diverged"),
        typed("adamw", 0, [3.0, 2.5]),
    )
    first, second, third = (dict(zip(TABLE_HEADER, row, strict=True)) for row in table(record))
    assert (first["validation loss"], first["smallest"], first["largest"]) == (3.0, 2.0, 4.0)
    assert (first["offloaded %"], first["at most %"]) == (pytest.approx(20), pytest.approx(60))
    assert (first["work"], first["failed"]) == (10, "0 of 3")
    assert (second["offloaded %"], second["validation loss"], second["failed"]) == (100, np.inf, "1 of 2")
    assert second["smallest"] == 2.5
    assert (third["offloaded %"], third["at most %"]) == (0, 0)
    np.testing.assert_allclose(offloading(record, "main", "amos-75"), [[0, 0], [0, 0.1], [0, 0.2]])
    found = curves(record)
    assert list(found) == ["amos-75", "sgd", "adamw"]
    np.testing.assert_array_equal(found["amos-75"].middle, [3.0, 3.0])
    np.testing.assert_array_equal(found["amos-75"].high, [3.0, 4.0])
    np.testing.assert_array_equal(curves(record, chosen=["sgd"])["sgd"].x, [0, 10])


def test_what_a_record_lacks_is_named():
    record = record_of(typed("sgd", 0, [3.0]))
    for read, message in (
        (lambda: table(record, "side"), "no runs of case 'side'"),
        (lambda: offloading(record, "main", "sgd"), "offloads anything"),
        (lambda: estimates(record, "sgd"), "no Lipschitz estimates"),
        (lambda: noise(record), "no measurement"),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_main_methods_are_told_in_the_order_of_the_table():
    assert MAIN[:3] == ("adamw", "sgd", "sophia")
    assert len(MAIN) == 12
