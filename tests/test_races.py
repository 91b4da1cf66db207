"""Races: runs with a budget, and studies made of them.

Oracles: a loop written once more from the definition, with its own generator; a run that was not interrupted, for one
that was stopped after every step or killed; a clock that the test moves; medians by hand.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np
import pytest

from refimpl.experiments.checkpoints import Checkpoint, TimeUp
from refimpl.experiments.kfac_conv import ConvKFAC
from refimpl.experiments.race_methods import race_curves, standings, work_to_reach
from refimpl.experiments.races import TUNING_SHARE, RaceStudy, TunedSchedule, run_race
from refimpl.experiments.training import TUNING_SEED
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP


def classifier(batch_size=8):
    rng = np.random.default_rng(5)
    inputs, labels = rng.standard_normal((48, 3)), rng.integers(0, 3, 48)
    return MLP(
        (3, 4, 3), inputs[:32], labels[:32], activation="tanh", loss=SoftmaxCrossEntropy(), batch_size=batch_size,
        test=(inputs[32:], labels[32:]),
    )  # fmt: skip


def start(problem, seed=0):
    return problem.initial(np.random.default_rng(seed))


def without_seconds(found):
    return {**found, "curve": {name: column for name, column in found["curve"].items() if name != "seconds"}}


def same(first, second):
    """Equal bit for bit, NaN with NaN."""
    return json.dumps(without_seconds(first)) == json.dumps(without_seconds(second))


# -- one run ----------------------------------------------------------------------------------------------------------


def test_curve_is_that_of_a_loop_written_once_more():
    problem, method = classifier(), HeavyBall(0.3, 0.9)
    found = run_race(problem, method, start(problem), seed=7, work=10, looks=6)
    x, velocity, rng, losses, batch = start(problem), 0.0, np.random.default_rng([7, 1]), [], [[]]
    for k in range(11):
        if k % 2 == 0:
            losses.append(float(problem.evaluate(x)["loss"]))
            batch.append([])
        point = problem.at(x, problem.draw(rng))
        batch[-1].append(float(point.loss))
        velocity = 0.9 * velocity + 0.3 * point.gradient
        x = x - velocity
    curve = found["curve"]
    assert (found["status"], found["steps"]) == ("budget", 10)
    np.testing.assert_allclose(curve["loss"], losses, rtol=1e-12)
    np.testing.assert_allclose(curve["batch_loss"][1:], [np.mean(part) for part in batch[1:-1]], rtol=1e-12)
    assert curve["share"] == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert curve["step"] == curve["work"] == [0, 2, 4, 6, 8, 10]
    assert found["loss"] == curve["loss"][-1]
    assert found["test_loss"] == curve["test_loss"][-1]
    assert set(curve) >= {"error", "test_error", "seconds", "batch_error"}


def test_a_step_that_passes_several_shares_fills_their_rows():
    problem = classifier()
    found = run_race(problem, LanczosSaddleFreeNewton(products=4), start(problem), seed=0, work=20, looks=11)
    curve, cost = found["curve"], 1 + 2 * 4 + 1 / 3
    expected = [next(k for k in range(4) if k * cost >= 2.0 * row - 1e-9) for row in range(11)]
    assert curve["step"] == expected
    np.testing.assert_allclose(curve["work"], cost * np.asarray(expected))
    np.testing.assert_allclose(curve["share"], np.linspace(0, 1, 11))
    for row in range(1, 11):
        if expected[row] == expected[row - 1]:
            assert curve["loss"][row] == curve["loss"][row - 1]


def test_whichever_budget_is_used_up_first():
    problem = classifier()
    a = run_race(problem, HeavyBall(0.1), start(problem), seed=0, work=50, steps=3, looks=2)
    b = run_race(problem, HeavyBall(0.1), start(problem), seed=0, work=3, steps=50, looks=2)
    assert a["steps"] == b["steps"] == 3
    assert "3 steps" in a["message"]
    assert "3 gradients" in b["message"]


def test_budget_of_seconds(monkeypatch):
    problem, now = classifier(), [0.0]

    class Slow(GradientDescent):
        def step(self, point, state):
            now[0] += 0.5
            return super().step(point, state)

    evaluate = problem.evaluate
    monkeypatch.setattr(problem, "evaluate", lambda x: (now.__setitem__(0, now[0] + 100.0), evaluate(x))[1])
    monkeypatch.setattr(time, "process_time", lambda: now[0])
    found = run_race(problem, Slow(0.1), start(problem), seed=0, seconds=2.0, looks=3)
    assert found["steps"] == 4  # the hundreds of seconds of looking do not count
    assert found["curve"]["seconds"] == [0.0, 1.0, 2.0]


def test_a_run_that_diverges_keeps_its_rows_and_adds_where_it_ended():
    problem = classifier()

    class Cliff(GradientDescent):
        def step(self, point, state):
            found = super().step(point, state)
            return found._replace(x=found.x * np.nan) if float(point.counts.gradient) and self.gone() else found

        def gone(self):
            calls.append(1)
            return len(calls) == 7

    calls = []
    found = run_race(problem, Cliff(0.1), start(problem), seed=0, work=10, looks=6)
    assert found["status"] == "diverged"
    assert np.isnan(found["loss"])
    assert found["curve"]["step"] == [0, 2, 4, 6, 7]
    assert found["curve"]["share"][-1] == pytest.approx(0.7)
    assert np.isfinite(found["curve"]["loss"]).all()  # the last finite place


def test_other_errors_are_raised():
    problem = classifier()

    class Broken(GradientDescent):
        def step(self, point, state):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        run_race(problem, Broken(0.1), start(problem), seed=0, work=3)


@pytest.mark.parametrize(
    ("budget", "match"),
    [({}, "needs a budget"), ({"work": 0}, "work"), ({"steps": -1}, "steps"), ({"work": 3, "looks": 1}, "looks")],
)
def test_refusals(budget, match):
    problem = classifier()
    with pytest.raises(ValueError, match=match):
        run_race(problem, HeavyBall(0.1), start(problem), seed=0, **budget)


# -- interrupted ------------------------------------------------------------------------------------------------------


def stopped_after_every_step(run, folder):
    """What ``run(checkpoint)`` returns in the end, where every session ends after one step; and how many there were."""
    for session in range(200):
        checkpoint = Checkpoint(folder / "job.checkpoint", {}, every=0.0, until=time.monotonic() - 1)
        try:
            return run(checkpoint), session
        except TimeUp:
            continue
    raise AssertionError("it never ends")


def network(**knobs):
    torch = pytest.importorskip("torch")
    from refimpl.arrays import get_backend
    from refimpl.problems.image_problem import ImageProblem
    from refimpl.problems.resnet import resnet18

    torch.set_num_threads(1)
    rng, backend = np.random.default_rng(3), get_backend("torch", "float32", "cpu")
    net = resnet18(width=2, image_shape=(1, 4, 4), classes=3, backend=backend)
    pixels, labels = rng.integers(0, 256, (24, 1, 4, 4), dtype=np.uint8), rng.integers(0, 3, 24)
    return ImageProblem(
        net, SoftmaxCrossEntropy(), pixels, labels, batch_size=8, test=(pixels[:8], labels[:8]), backend=backend,
        augment="crop-flip", padding=1, **knobs,
    )  # fmt: skip


def _muon():
    from refimpl.optimizers.torch_library import MuonWithAdamW

    return MuonWithAdamW(0.01)


def _soap():
    from refimpl.optimizers.torch_library import Soap

    return Soap(0.01, frequency=2)


@pytest.mark.parametrize(
    ("make", "work"),
    [
        (lambda: HeavyBall(0.05), 5),
        (_muon, 3),
        (_soap, 4),
        (lambda: ConvKFAC(0.05, interval=2), 12),
        (KryBall.published, 30),
    ],
)
def test_interrupted_run_equals_the_uninterrupted_one_bit_for_bit(make, work, tmp_path):
    def run(checkpoint=None):
        problem = network()
        return run_race(problem, make(), start(problem), seed=2, work=work, looks=3, checkpoint=checkpoint)

    found, sessions = stopped_after_every_step(run, tmp_path)
    assert sessions >= 2
    assert same(found, run())


@dataclass(frozen=True)
class Tiny(RaceStudy):
    """Two methods on a small network of NumPy."""

    @property
    def summary(self):
        return "tiny"

    def methods(self, case):
        return {
            "adam": TunedSchedule(Adam(1.0), (0.3, 0.03, 1e9), steps=9, warmup=2),
            "lanczos": LanczosSaddleFreeNewton(products=2),
        }

    def settings(self, scale, seeds):
        plan = {name: {"budget": {"work": 9.0}, "seeds": seeds or 2} for name in self.methods("one")}
        return {"looks": 4, "plan": {"one": plan}, "methods": {"one": dict.fromkeys(plan, "as in this test")}}

    def problem(self, case, settings, device):
        return classifier()


def test_job_of_a_tuned_method_goes_on_in_the_middle_of_any_of_its_runs(tmp_path):
    study = Tiny("tiny")
    settings = study.settings("ci", None)
    whole = study.run_job("one/adam", settings, "cpu")
    found, sessions = stopped_after_every_step(
        lambda checkpoint: study.run_job_from("one/adam", settings, "cpu", checkpoint), tmp_path
    )
    assert [run["key"] for run in found] == [
        "one/adam/tuning@0.3", "one/adam/tuning@0.03", "one/adam/tuning@1e+09", "one/adam/0", "one/adam/1",
    ]  # fmt: skip
    assert sessions == 3 * 2 + 2 * 8  # a session for each step but the last of a run
    assert all(same(one, other) for one, other in zip(found, whole, strict=True))


def test_rates_are_chosen_by_training_loss_after_a_third_on_a_seed_of_its_own():
    study = Tiny("tiny")
    runs = study.run_job("one/adam", study.settings("ci", None), "cpu")
    tuning = [run for run in runs if run["role"] == "tuning"]
    assert [run["seed"] for run in tuning] == [TUNING_SEED] * 3
    assert [run["curve"]["work"][-1] for run in tuning] == [9 * TUNING_SHARE] * 3
    best = min((run for run in tuning if run["status"] == "budget"), key=lambda run: run["loss"])
    assert {run["rate"] for run in runs if run["role"] == "run"} == {best["rate"]}


def test_no_choice_depends_on_the_test_set():
    class Other(Tiny):
        def problem(self, case, settings, device):
            problem = classifier()
            inputs, labels = problem.test
            problem.test = inputs, (labels + 1) % 3
            return problem

    one, other = (s.run_job("one/adam", s.settings("ci", None), "cpu") for s in (Tiny("tiny"), Other("tiny")))
    assert [run["loss"] for run in one] == [run["loss"] for run in other]
    assert [run["test_loss"] for run in one] != [run["test_loss"] for run in other]
    assert [run["rate"] for run in one] == [run["rate"] for run in other]


def test_schedule_of_a_tuning_run_is_shorter():
    tuned = TunedSchedule(Adam(1.0), (0.1,), steps=30, warmup=3, floor=0.1)
    whole, third = tuned.at(0.2), tuned.at(0.2, 1 / 3)
    assert whole.at(2).learning_rate == third.at(2).learning_rate == 0.2
    assert third.at(10).learning_rate == pytest.approx(0.02)
    assert whole.at(10).learning_rate > 0.1
    assert whole.at(30).learning_rate == pytest.approx(0.02)


_KILLED = """
import os, signal, sys
from refimpl.experiments import __main__ as cli, checkpoints
saved, save, init = [], checkpoints.Checkpoint.save, checkpoints.Checkpoint.__init__
def often(self, path, settings, **rest):
    init(self, path, settings, **{**rest, "every": 0.0})
def deadly(self, payload):
    save(self, payload)
    saved.append(1)
    if len(saved) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
checkpoints.Checkpoint.__init__, checkpoints.Checkpoint.save = often, deadly
cli.main(sys.argv[1:])
"""


def test_killed_on_the_command_line_and_started_again(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    from refimpl.experiments import transformer_race
    from refimpl.experiments.__main__ import main

    def arguments(folder):
        return ["run", "transformer-race", "--scale", "smoke", "--optimizer", "heavy-ball", "--out", str(folder)]

    # Without the record of the rates that other studies chose, and the methods that need it.
    monkeypatch.setattr(transformer_race.TransformerRace, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(transformer_race, "RECORDED", ())
    patch = (
        "import refimpl.experiments.transformer_race as t\n"
        "t.RECORDED, t.TransformerRace.prepare = (), lambda *_, **__: None\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(
        [sys.executable, "-c", patch + _KILLED, *arguments(tmp_path / "killed")], env=environment, timeout=120,
        capture_output=True,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-500:]
    assert list((tmp_path / "killed").glob(".*checkpoint"))
    assert not (tmp_path / "killed" / "transformer-race.json").exists()
    for folder in ("killed", "whole"):
        assert main(arguments(tmp_path / folder)) == 0
    records = [json.loads((tmp_path / folder / "transformer-race.json").read_text()) for folder in ("killed", "whole")]
    first, second = ([without_seconds(run) for run in record["runs"]] for record in records)
    assert len(first) == 4
    assert first == second
    assert not list((tmp_path / "killed").glob(".*checkpoint"))


# -- reading a record -------------------------------------------------------------------------------------------------


def written(method, seed, loss, held, *, role="run", status="budget", **extra):
    curve = {
        "share": [0.0, 0.5, 1.0], "step": [0, 1, 2], "work": [0.0, 5.0, 10.0], "seconds": [0.0, 1.0, 2.0],
        "loss": [3.0, 2 * loss, loss], "test_loss": [3.0, 3.0, held], "test_error": [0.9, 0.9, 0.25],
    }  # fmt: skip
    about = {"key": f"c/{method}/{seed}", "case": "c", "method": method, "seed": seed, "role": role}
    return {**about, "status": status, "steps": 2, "loss": loss, "curve": curve, **extra}


def test_standings_are_medians_and_a_lost_run_counts_as_infinite():
    record = {
        "runs": [
            written("adamw", 1000, 1.0, 1.0, role="tuning", rate=0.1),
            written("adamw", 1000, 2.0, 1.0, role="tuning", rate=0.01),
            *(written("adamw", seed, loss, 2 * loss, rate=0.1) for seed, loss in enumerate([0.5, 0.7, 0.6])),
            *(written("kryball", seed, 0.4, 0.8, status=status) for seed, status in enumerate(["budget", "diverged"])),
        ]
    }
    (first, second) = standings(record, "c")
    assert first[:7] == ["adamw", "first order", "> 0.1", 0.6, 1.2, 1.0, 1.4]
    assert first[7:] == [25.0, 2, 10.0, 2.0, "0 of 3"]
    assert second[0] == "kryball"
    assert second[3] == np.inf
    assert second[-1] == "1 of 2"
    assert race_curves(record, "c", ["adamw"])["adamw"].middle.tolist() == [3.0, 1.2, 0.6]
    assert work_to_reach(record, "c", "adamw", 0.6) == [10.0, np.inf, 10.0]


def test_a_seeded_method_draws_differently_for_every_seed():
    study = Tiny("tiny")
    assert study.seeded(KryBall(), 4).seed == 4
    inner = TunedSchedule(ConvKFAC(1.0), (1.0,), steps=5).at(0.5)
    assert study.seeded(inner, 4).method.seed == 4
    assert study.seeded(HeavyBall(0.1), 4) == HeavyBall(0.1)
