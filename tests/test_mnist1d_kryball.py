"""The study of KryBall on MNIST-1D, what it writes down on the way, and what is read from its record.

Oracles: the same run without a watcher, and ``minimize``; the second method alone, started where the first one ended;
the network as a Torch module; the thesis's table typed once more; medians by hand; a study that was not interrupted.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from experiment_cases import Interrupting, stopped_and_continued

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.mnist1d_kryball import (
    ACTIVATIONS,
    DIMENSIONS,
    MOMENTA,
    PAPER,
    REFRESHES,
    SLICING,
    SWITCH,
    Mnist1dKryBall,
    cut_along,
    methods,
    sensitivity,
    slices,
    tuned_momentum,
)
from refimpl.experiments.records import check_record, provenance
from refimpl.experiments.runner import SCALES
from refimpl.experiments.training import Tuned, train
from refimpl.experiments.watched import (
    TABLE_HEADER,
    Switching,
    Watched,
    WatchedTuned,
    columns,
    curves,
    ending,
    table,
)
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP

PRINTED_TABLE_5_2 = """
adam        0.144  0.668  0.668
heavy-ball  0.326  0.669  0.644
kryball     0.001  0.685  0.685
"""
CASES = ("minibatch", "full-batch", *ACTIVATIONS, "dimension", "refresh")


def small_problem(batch_size=16):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    inputs = rng.standard_normal((60, 4)) + 2 * np.eye(4)[labels]
    return MLP(
        (4, 5, 3), inputs[:40], labels[:40], activation="softplus", loss=SoftmaxCrossEntropy(), batch_size=batch_size,
        test=(inputs[40:], labels[40:]), initialization="torch",
    )  # fmt: skip


# -- what is written down ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", [KryBall.published(), StochasticKryBall(), KryBall(), Adam(0.1)], ids=lambda m: m.name
)
def test_a_watched_run_is_the_run_itself(method):
    problem, logs = small_problem(), []
    start = problem.initial(as_generator(3))
    plain = train(problem, method, start, steps=12, seed=5, looks=[4, 9])
    seen = train(problem, Watched(method, logs), start, steps=12, seed=5, looks=[4, 9])
    for name, values in plain["curve"].items():
        if name != "seconds":
            np.testing.assert_array_equal(seen["curve"][name], values)
    assert len(logs) == 1
    assert len(logs[0]) == 12


def test_columns_are_those_of_minimize():
    problem, logs = small_problem(), []
    method = KryBall.published(maximum_radius=1e3, initial_radius=300.0)  # too long at first: some are refused
    start = problem.initial(as_generator(3))
    run = train(problem, Watched(method, logs), start, steps=12, seed=5, looks=[4, 9])
    other = minimize(problem, method, start, steps=12, seed=np.random.default_rng([5, 1]), gradient_tolerance=None)
    found = columns(logs[0], run["curve"]["step"])
    assert run["curve"]["step"] == [0, 4, 9, 12]
    parts = [slice(0, 4), slice(4, 9), slice(9, 12)]
    radius, refused, accepted = (np.asarray(other.trace[k][:12], float) for k in ("radius", "refused", "accepted"))
    assert refused.sum() > 0
    np.testing.assert_allclose(found["radius"][1:], [radius[p].mean() for p in parts])
    np.testing.assert_array_equal(found["refused"][1:], [refused[p].sum() for p in parts])
    np.testing.assert_array_equal(found["unmoved"][1:], [(1 - accepted[p]).sum() for p in parts])
    assert all(np.isnan(values[0]) for values in found.values())


def test_a_method_without_a_radius_has_no_such_column():
    assert columns([{}, {}, {}], [0, 1, 3]) == {}
    found = columns([{"radius": 2.0}, {"radius": 4.0}, {}, {}], [0, 2, 4, 4])
    np.testing.assert_array_equal(found["radius"], [np.nan, 3.0, np.nan, np.nan])


def test_watching_keeps_the_choice_of_rates():
    tuned = WatchedTuned(Adam(1.0), (0.1, 0.2), logs := [])
    assert tuned.at(0.2) == Watched(Adam(0.2), [])
    tuned.at(0.2).init(np.zeros(2))
    assert logs == [[]]


# -- a method that hands over -----------------------------------------------------------------------------------------


def test_switching_is_the_first_method_and_then_the_second_afresh():
    problem = small_problem(batch_size=None)
    start = problem.initial(as_generator(2))
    first, second = KryBall.published(), Adam(0.05)
    whole = minimize(problem, Switching(first, Adam(1.0), 4, 0.05), start, steps=9)
    half = minimize(problem, first, start, steps=4)
    rest = minimize(problem, second, half.x, steps=5)
    np.testing.assert_allclose(whole.x, rest.x, rtol=1e-12)
    continued = minimize(problem, first, start, steps=9)
    assert abs(continued.x - whole.x).max() > 1e-3


def test_the_rate_of_the_second_method_can_be_tuned():
    tuned = Tuned(Switching(KryBall(), HeavyBall(1.0, 0.9), 3, 1.0), (0.1,))
    assert tuned.at(0.1).second == HeavyBall(0.1, 0.9)
    assert tuned.at(0.1).first == KryBall()


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"after": 0}, "after"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"second": KryBall()}, "must have a learning_rate"),
    ],
)
def test_malformed_switches_are_refused(knobs, message):
    with pytest.raises(ValueError, match=message):
        Switching(**{"first": KryBall(), "second": Adam(), "after": 3, "learning_rate": 0.1, **knobs})


# -- the study --------------------------------------------------------------------------------------------------------


def test_table_5_2_is_the_printed_one():
    found = {line.split()[0]: tuple(map(float, line.split()[1:])) for line in PRINTED_TABLE_5_2.strip().split("\n")}
    assert found == PAPER


def test_methods_are_the_thesis_s_where_it_says_so():
    found = methods("minibatch")
    assert found["kryball-published"] == KryBall.published(dimension=5, refresh=3)
    assert found["kryball-refresh-1"] == KryBall.published(refresh=1)
    ours = found["kryball-last-step"]
    assert (ours.dimension, ours.refresh, ours.momentum, ours.directions, ours.gain) == (10, 1, "step", "three", 0)
    assert {found[f"heavy-ball-{mu}"].method.momentum for mu in MOMENTA} == set(MOMENTA)
    assert SWITCH == 30 * 8
    assert {m.dimension for m in methods("dimension").values()} | {5} == set(DIMENSIONS)
    assert {m.refresh for m in methods("refresh").values()} | {1, 3} == set(REFRESHES)
    assert {m.dimension for m in methods("refresh").values()} == {5}
    with pytest.raises(ValueError, match="unknown case 'elu'"):
        methods("elu")


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_cases_methods_and_seeds(scale):
    study = EXPERIMENTS["mnist1d-kryball"]
    settings = {"scale": scale, **study.settings(scale, None)}
    json.dumps(settings)
    jobs = study.jobs(settings)
    assert len(set(jobs)) == len(jobs)
    for case in CASES:
        for name, method in methods(case).items():
            own = [job for job in jobs if job.split("/")[:2] == [case, name]]
            assert len(own) == (1 if isinstance(method, Tuned) else settings["plan"][case][name]["seeds"])
    assert study.job_settings("minibatch/adam", settings)["plan"] == settings["plan"]["minibatch"]["adam"]
    assert jobs[-1] == "landscape/heavy-ball/0"
    assert "plan" not in study.job_settings(jobs[-1], settings)
    changed = {**settings, "landscape": {**settings["landscape"], "points": 3}}
    assert study.job_settings("minibatch/adam", changed) == study.job_settings("minibatch/adam", settings)
    if scale != "smoke":
        assert settings["plan"]["minibatch"]["adam"]["steps"] == 800
        assert settings["widths"] == [40, 256, 10]


def test_the_problem_is_the_thesis_s():
    study = Mnist1dKryBall("m")
    settings = study.settings("ci", None)
    problem = study.problem("minibatch", settings, "cpu")
    assert (problem.samples, problem.batch_size, problem.activation.name) == (4000, 512, "softplus")
    assert problem.n == 40 * 256 + 256 + 256 * 10 + 10
    assert study.problem("full-batch", settings, "cpu").batch_size is None
    assert study.problem("relu", settings, "cpu").activation.name == "relu"
    start = study.start(problem, 1)
    assert abs(start[: 41 * 256]).max() == pytest.approx(1 / np.sqrt(40), rel=1e-3)
    assert abs(start[41 * 256 :]).max() == pytest.approx(1 / np.sqrt(256), rel=1e-2)


def test_the_gelu_network_starts_and_draws_like_the_others():
    torch = pytest.importorskip("torch")
    study = Mnist1dKryBall("m")
    settings = study.settings("smoke", None)
    ours, twin = study.problem("relu", settings, "cpu"), study.problem("gelu", settings, "cpu")
    x = study.start(twin, 3)
    np.testing.assert_array_equal(x.numpy(), study.start(ours, 3))
    rows = [problem.draw(as_generator(4)).indices for problem in (ours, twin)]
    np.testing.assert_array_equal(*rows)
    (weight, bias), (last, end) = ours.unflatten(np.asarray(x, dtype=np.float64).astype(np.float32))
    z = np.asarray(ours.inputs) @ weight.T + bias
    gelu = z * 0.5 * (1 + torch.erf(torch.from_numpy(z) / 2**0.5).numpy())
    outputs = gelu @ last.T + end
    log_sum = np.log(np.exp(outputs).sum(axis=1))
    expected = np.mean(log_sum - outputs[np.arange(4000), np.asarray(ours.targets)])
    np.testing.assert_allclose(float(twin.loss(x)), expected, rtol=1e-5)


# -- slices -----------------------------------------------------------------------------------------------------------


def test_slices_lie_along_the_steps_of_the_run():
    problem = small_problem()
    start = problem.initial(as_generator(0))
    cuts, loss = cut_along(problem, SLICING, start, at=[0, 3], seed=7, points=5)
    rng, places, x, state, samples = np.random.default_rng([7, 1]), [start], start, SLICING.init(start), []
    for _ in range(4):
        samples.append(problem.draw(rng))
        found = SLICING.step(problem.at(x, samples[-1]), state)
        x, state = found.x, found.state
        places.append(x)
    np.testing.assert_allclose(loss, float(problem.loss(x)))
    assert [(cut["step"], cut["unit"], cut["all"]) for cut in cuts] == [
        (step, unit, whole) for step in (0, 3) for unit in (False, True) for whole in (False, True)
    ]
    for cut in cuts:
        step = cut["step"]
        here, there = places[step], places[step + 1]
        direction = (there - here) / (np.linalg.norm(there - here) if cut["unit"] else 1.0)
        sample = None if cut["all"] else samples[step]
        assert cut["position"] == [-2, -1, 0, 1, 2]
        np.testing.assert_allclose(cut["loss"], [problem.loss(here + t * direction, sample) for t in cut["position"]])
        assert cut["quadratic"][2] == pytest.approx(cut["loss"][2])
        np.testing.assert_allclose(cut["length"], np.linalg.norm(there - here))


def test_a_slice_of_a_short_step_is_a_parabola():
    problem = small_problem(batch_size=None)
    cuts, _ = cut_along(problem, GradientDescent(1e-2), problem.initial(as_generator(0)), at=[0], seed=0, points=9)
    np.testing.assert_allclose(cuts[0]["loss"], cuts[0]["quadratic"], rtol=1e-6)
    assert np.ptp(cuts[0]["loss"]) > 1e-3


# -- reading ----------------------------------------------------------------------------------------------------------


def typed(case, method, seed, losses, test_errors, status="budget", role="run", **extra):
    steps = list(range(0, 8 * len(losses), 8))
    curve = {"step": steps, "loss": losses, "error": losses, "test_error": test_errors, "work": steps, "seconds": steps}
    curve |= {name: extra.pop(name) for name in ("refused", "radius") if name in extra}
    loss = losses[-1] if status == "budget" else None
    return {"key": f"{case}/{method}/{role}/{seed}/{loss}", "case": case, "method": method, "role": role, "seed": seed,
            "status": status, "steps": steps[-1], "loss": loss, "curve": curve, **extra}  # fmt: skip


def record_of(*runs):
    settings = {"epoch": {"minibatch": 8, "full-batch": 1}}
    record = {"schema": 1, "experiment": "e", "settings": settings, "runs": list(runs), "provenance": provenance()}
    check_record(record)
    return record


def test_table_holds_medians_best_and_last_accuracies_and_refusals():
    seen = {"refused": [None, 3.0, 5.0], "radius": [None, 2.0, 4.0]}
    record = record_of(
        typed("minibatch", "a", 0, [3.0, 1.0, 0.5], [0.9, 0.4, 0.5], **seen),
        typed("minibatch", "a", 1, [3.0, 1.0, 0.7], [0.9, 0.5, 0.3], **seen),
        typed("minibatch", "a", 2, [3.0, 1.0, 0.1], [0.9, 0.6, 0.6], **seen),
        typed("minibatch", "b", 0, [3.0, 1.0, 0.1], [0.9, 0.6, 0.6], rate=0.25),
        typed("minibatch", "b", 1, [3.0, 1.0, 0.1], [0.9, 0.6, 0.6], status="diverged", rate=0.25),
    )
    first, second = (dict(zip(TABLE_HEADER, row, strict=True)) for row in table(record, "minibatch"))
    assert (first["method"], first["learning rate"], first["failed"]) == ("a", "–", "0 of 3")
    np.testing.assert_allclose([first[k] for k in TABLE_HEADER[2:9]], [0.5, 0.6, 0.5, 16, 16, 8 / 16, 4.0], rtol=1e-12)
    assert (second["learning rate"], second["failed"], second["last radius"]) == ("0.25", "1 of 2", "–")
    assert second["training loss"] == np.inf
    assert second["best test accuracy"] == pytest.approx(0.2)  # the median of 0.4 and 0


def test_a_method_that_has_no_radius_in_the_end_gets_a_dash():
    run = typed(
        "minibatch", "s", 0, [3.0, 1.0, 0.5], [0.9, 0.4, 0.5], refused=[None, 4.0, None], radius=[None, 2.0, None]
    )
    (row,) = (dict(zip(TABLE_HEADER, row, strict=True)) for row in table(record_of(run), "minibatch"))
    assert (row["refused per step"], row["last radius"]) == (4 / 16, "–")


def test_curves_count_epochs_and_turn_errors_round():
    runs = [typed("minibatch", "a", seed, [3.0, 1.0, 0.5 + seed], [0.9, 0.4 + seed / 10, 0.5]) for seed in range(3)]
    found = curves(record_of(*runs), "minibatch", x="epoch", y="test_accuracy")["a"]
    np.testing.assert_array_equal(found.x, [0, 1, 2])
    np.testing.assert_allclose(found.middle, [0.1, 0.5, 0.5])
    np.testing.assert_allclose(found.low, [0.1, 0.4, 0.5])
    np.testing.assert_allclose(found.high, [0.1, 0.6, 0.5])
    np.testing.assert_array_equal(curves(record_of(*runs), "minibatch", ["a"])["a"].middle, [3.0, 1.0, 1.5])


def test_momentum_is_chosen_on_the_tuning_seed():
    runs = [typed("minibatch", "adam", 1000, [0.0], [0.5], role="tuning")]
    for name, losses in (("heavy-ball-0.9", (0.4, 0.3)), ("heavy-ball-0.95", (0.2, 0.9))):
        runs += [typed("minibatch", name, 1000, [loss], [0.5], role="tuning") for loss in losses]
        runs.append(typed("minibatch", name, 0, [0.1 if name.endswith("0.9") else 0.2], [0.5]))
    runs.append(typed("minibatch", "heavy-ball-0.9", 1000, [0.0], [0.5], role="tuning", status="diverged"))
    assert tuned_momentum(record_of(*runs)) == "heavy-ball-0.95"
    with pytest.raises(ValueError, match="no tuning run"):
        tuned_momentum(record_of(runs[0]))


def test_sensitivity_takes_the_shared_runs_from_the_main_case_with_the_same_seeds():
    runs = [typed("minibatch", name, seed, [loss + seed], [0.5]) for seed in (0, 1, 2)
            for name, loss in (("kryball-refresh-1", 10.0), ("kryball-published", 20.0))]  # fmt: skip
    runs += [typed("dimension", name, 0, [float(name[2:])], [0.5]) for name in methods("dimension")]
    runs += [typed("refresh", name, 0, [float(name[2:])], [0.5]) for name in methods("refresh")]
    found = sensitivity(record_of(*runs))
    assert {m: e.loss for m, e in found["dimension"].items()} == {1: 1, 2: 2, 3: 3, 5: 10, 7: 7, 10: 10}
    assert {r: e.loss for r, e in found["refresh"].items()} == {1: 10, 2: 2, 3: 20, 5: 5, 10: 10}


@dataclass(frozen=True)
class Interrupted(Interrupting, Mnist1dKryBall):
    """The study, which can be stopped; without Torch."""

    def settings(self, scale, seeds):
        found = super().settings(scale, seeds)
        for part in ("plan", "methods"):
            found[part].pop("gelu")
        return found


def test_smoke_record_and_how_it_is_continued(tmp_path):
    record = stopped_and_continued(Interrupted, "mnist1d-kryball", "full-batch/kryball/0", tmp_path)

    assert all(run["status"] == "budget" for run in record["runs"])
    assert [row[0] for row in table(record, "minibatch")] == list(methods("minibatch"))
    for run in record["runs"]:
        if run["role"] == "run":
            watched = "kryball" in run["method"] or "=" in run["method"] or "switch" in run["method"]
            assert ("radius" in run["curve"]) == watched, run["key"]
    assert ending(record, "relu", "adam").loss > 0
    assert set(sensitivity(record)["dimension"]) == set(DIMENSIONS)
    assert tuned_momentum(record) in methods("minibatch")
    for unit in (False, True):
        found = slices(record, unit=unit, whole=False)
        assert list(found) == [0, 1, 5]
        assert found[0].loss.shape == (5,)
    full = curves(record, "full-batch", x="epoch")["adam"]
    np.testing.assert_array_equal(full.x, [0, 2, 3])

    again = Mnist1dKryBall("m").run_job("minibatch/kryball-published/0", record["settings"], "cpu")
    kept = next(run for run in record["runs"] if run["key"] == "minibatch/kryball-published/0")
    assert float(f"{again[0]['loss']:.7g}") == kept["loss"]
    no_slices = {**record, "runs": [run for run in record["runs"] if run["role"] != "slices"]}
    with pytest.raises(ValueError, match="no slices"):
        slices(no_slices)
