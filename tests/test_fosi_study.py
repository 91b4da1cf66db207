"""The study of FOSI: what it measures of the curvature, what it writes down, and what is read from its record.

Oracles: eigenvectors and third derivatives of a polynomial, and a dense Hessian; the loop of the package run without
being looked at; counts by hand; a record typed in by hand; a study that was not interrupted for one that was.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
from experiment_cases import Interrupting, stopped_and_continued

from refimpl.arrays import as_generator
from refimpl.experiments import EXPERIMENTS, fosi_study
from refimpl.experiments.fosi_study import (
    BASE_OF,
    CASES,
    CURVATURE_HEADER,
    MEASURED,
    TABLE_HEADER,
    FosiStudy,
    TunedBase,
    curvature,
    curvature_table,
    curves,
    gain,
    methods,
    table,
    watched_run,
)
from refimpl.experiments.runner import SCALES
from refimpl.experiments.training import TUNING_SEED
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.fosi import FOSI
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.oracle import Problem
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.losses import BinaryCrossEntropy, SoftmaxCrossEntropy
from refimpl.run import minimize


def small(case, scale="smoke"):
    study = FosiStudy("f")
    settings = {"scale": scale, **study.settings(scale, 2)}
    return study, settings, study.problem(case, settings, "cpu")


# -- curvature --------------------------------------------------------------------------------------------------------


class Cubic(Problem):
    """f = sum a_i z_i^2/2 + b_i z_i^3/6 with z = Q^T x: along eigenvector i the third derivative is b_i."""

    curvatures, slopes = np.array([3.0, 1.0, 0.5, -2.0]), np.array([0.7, 5.0, 5.0, -0.2])

    def __init__(self):
        self.frame, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))
        super().__init__(4)

    def initial(self, rng):
        return np.zeros(4)

    def evaluation(self, x, sample):
        a, b, q = self.curvatures, self.slopes, self.frame
        return ClosedForm(
            x,
            lambda x: (a * (q.T @ x) ** 2 / 2 + b * (q.T @ x) ** 3 / 6).sum(),
            lambda x: q @ (a * (q.T @ x) + b * (q.T @ x) ** 2 / 2),
            lambda x: (q * (a + b * (q.T @ x))) @ q.T,
        )


def test_curvature_of_a_cubic_is_that_of_its_coefficients():
    problem = Cubic()
    q, a, b = problem.frame, problem.curvatures, problem.slopes
    z = np.array([0.1, -0.05, 0.02, 0.3])
    found = curvature(problem, q @ z, 0.1, 10)
    values, slopes = a + b * z, a * z + b * z**2 / 2
    for end, i in (("plus", 0), ("minus", 3)):
        assert found[f"eigenvalue_{end}"] == pytest.approx(values[i], rel=1e-12)
        assert found[f"lipschitz_{end}"] == pytest.approx(abs(b[i]), rel=1e-10)
        assert found[f"shift_{end}"] == pytest.approx(abs(b[i] * slopes[i]) / values[i] ** 2, rel=1e-10)
        assert found[f"residual_{end}"] < 1e-12
    assert tuple(found) == MEASURED


@pytest.mark.parametrize("case", CASES)
def test_curvature_of_a_network_is_that_of_its_dense_hessian(case):
    _, _, problem = small(case)
    x = problem.initial(as_generator(3))
    found = curvature(problem, x, 0.1, 100)
    point = problem.at(x)
    hessian = point.hessian()
    values, q = np.linalg.eigh(hessian)
    for end, i in (("plus", -1), ("minus", 0)):
        v = q[:, i]
        bends = [abs(v @ (problem.at(x + r * v).hvp(v) - hessian @ v)) / 0.1 for r in (0.1, -0.1)]
        assert found[f"eigenvalue_{end}"] == pytest.approx(values[i], rel=1e-6)
        assert found[f"lipschitz_{end}"] == pytest.approx(max(bends), rel=1e-3)
        assert found[f"shift_{end}"] == pytest.approx(max(bends) * abs(v @ point.gradient) / values[i] ** 2, rel=1e-3)


def test_curvature_where_nothing_is_finite():
    _, _, problem = small("classifier")
    assert all(math.isnan(value) for value in curvature(problem, np.full(problem.n, np.nan), 0.1, 5).values())


# -- one run ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_watching_changes_nothing(case):
    study, settings, problem = small(case)
    method = FOSI(HeavyBall(0.01), 3, interval=4)
    x0 = study.start(problem, 0)
    run = watched_run(problem, method, x0, steps=10, seed=0, settings=settings, measured=2)
    alone = minimize(problem, method, x0, steps=10, seed=as_generator([0, 1]), gradient_tolerance=None)
    assert run["loss"] == float(problem.evaluate(alone.x)["loss"])
    curve = run["curve"]
    assert curve["step"] == [0, 5, 10]
    # 12 products, two gradients each, in the steps 0, 4 and 8.
    assert curve["work"] == [0, 5 + 2 * 24, 10 + 3 * 24]
    assert curve["loss"][0] == float(problem.evaluate(x0)["loss"])
    assert np.isfinite(curve["lipschitz_plus"]).tolist() == [True, False, True]
    assert curve["seconds"] == sorted(curve["seconds"])
    assert (run["status"], run["steps"]) == ("budget", 10)
    if case == "classifier":
        report = problem.evaluate(alone.x)
        assert curve["error"][-1] == 1 - report["accuracy"]
        assert curve["test_error"][-1] == 1 - report["test_accuracy"]
        assert curve["test_loss"][-1] == report["test_loss"]
    else:
        assert np.isnan(curve["error"]).all()


def test_a_tuning_run_is_looked_at_in_the_end_only():
    study, settings, problem = small("classifier")
    run = watched_run(problem, Adam(0.1), study.start(problem, 1), steps=6, seed=1, settings=settings, measured=0)
    assert run["curve"]["step"] == [0, 6]
    assert np.isnan(run["curve"]["lipschitz_plus"]).all()


def test_a_run_that_diverges_has_a_row_where_it_ended():
    study, settings, problem = small("autoencoder")
    x0 = study.start(problem, 0)
    run = watched_run(problem, GradientDescent(1e307), x0, steps=10, seed=0, settings=settings, measured=2)
    assert run["status"] == "diverged"
    assert math.isnan(run["loss"])
    assert len({len(values) for values in run["curve"].values()}) == 1
    assert run["curve"]["step"][-1] == run["steps"] < 10
    assert run["curve"]["loss"][0] == float(problem.evaluate(x0)["loss"])


# -- the study --------------------------------------------------------------------------------------------------------


def test_methods_are_fosi_and_its_bases_on_the_same_grid():
    found = methods()
    assert set(found) == set(BASE_OF) | set(BASE_OF.values())
    for name, base in BASE_OF.items():
        assert found[name].rates == found[base].rates
        at = found[name].at(0.25)
        assert at.base == found[base].at(0.25)
        assert (at.largest, at.smallest, at.interval, at.warmup, at.alpha) == (10, 0, 100, 99, 0.1)
        assert at.damping == (0.0 if name.startswith("fosi") else 1.0)
        assert at.scaling == (1.0 if name.startswith("unscaled") else None)
        assert isinstance(found[name], TunedBase)
    with pytest.raises(ValueError, match="unknown case 'text'"):
        FosiStudy("f").methods("text")


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_cases_and_methods(scale):
    study = FosiStudy("f")
    settings = {"scale": scale, **study.settings(scale, None)}
    assert json.loads(json.dumps(settings)) == settings
    assert set(study.jobs(settings)) == {f"{case}/{name}" for case in CASES for name in methods()}
    steps = {plan["steps"] for plans in settings["plan"].values() for plan in plans.values()}
    assert min(steps) > 100  # a shorter run would never see the Hessian
    assert isinstance(EXPERIMENTS["fosi"], FosiStudy)


def test_networks_and_losses_are_the_documented_ones():
    _, _, classifier = small("classifier", "ci")
    _, _, autoencoder = small("autoencoder", "ci")
    assert classifier.widths == (64, 32, 10)
    assert autoencoder.widths == (64, 32, 16, 8, 16, 32, 64)
    assert isinstance(classifier.loss_function, SoftmaxCrossEntropy)
    assert isinstance(autoencoder.loss_function, BinaryCrossEntropy)
    np.testing.assert_array_equal(autoencoder.inputs, autoencoder.targets)
    assert autoencoder.inputs.min() == 0
    assert autoencoder.inputs.max() == 1
    hidden = FosiStudy("f").settings("full", None)["hidden"][1]
    assert hidden == [128, 64, 36, 18, 9, 18, 36, 64, 128]


@dataclass(frozen=True)
class Interrupted(Interrupting, FosiStudy):
    """The study, which can be stopped."""


def test_smoke_record_and_how_it_is_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(fosi_study, "_RATES", {"heavy-ball": (0.01,), "adam": (0.01,)})
    record = stopped_and_continued(Interrupted, "fosi", "autoencoder/adam", tmp_path)
    for run in record["runs"]:
        assert run["data"] == "own seeded permutation; pixels divided by 16"
        assert (run["seed"] == TUNING_SEED) == (run["role"] == "tuning")
    for case in CASES:
        chosen = [run for run in record["runs"] if run["case"] == case and run["seed"] == 1]
        assert len({run["curve"]["loss"][0] for run in chosen}) == 1  # all from the same place
        fosi = next(run for run in chosen if run["method"] == "fosi-adam")
        assert fosi["curve"]["work"][-1] == 104 + 2 * 40
    rows = table(record)
    assert [tuple(row[:2]) for row in rows] == [(case, name) for case in CASES for name in methods()]
    assert all(len(row) == len(TABLE_HEADER) for row in rows)
    assert all(len(row) == len(CURVATURE_HEADER) for row in curvature_table(record))
    assert {row[1] for row in curvature_table(record)} == {0, 104}
    found = curves(record, "classifier", x="work")
    assert set(found) == set(methods())
    assert found["adam"].x[-1] == 104

    again = FosiStudy("fosi").run_job("classifier/heavy-ball", record["settings"], "cpu")
    kept = [run["loss"] for run in record["runs"] if run["key"].startswith("classifier/heavy-ball")]
    assert [float(f"{run['loss']:.7g}") for run in again] == kept


# -- reading a record -------------------------------------------------------------------------------------------------


def typed(method, seed, losses, work, *, status="budget", lipschitz=(None, None, None)):
    curve = {"step": [0, 5, 10], "work": work, "loss": losses, "test_loss": [2 * v for v in losses]}
    curve |= {"test_error": [0.5, 0.3, 0.1 * (seed + 1)], **{name: list(lipschitz) for name in MEASURED}}
    ended = {"status": status, "loss": losses[-1] if status == "budget" else None, "steps": 10}
    return {"case": "classifier", "method": method, "seed": seed, "role": "run", "rate": 0.1, **ended, "curve": curve}


def by_hand():
    plain, costly = [0, 5, 10], [0, 7, 14]
    runs = [
        typed("adam", 0, [4.0, 2.0, 1.0], plain, lipschitz=(3.0, None, 5.0)),
        typed("adam", 1, [4.0, 3.0, 2.0], plain, lipschitz=(4.0, None, 7.0)),
        typed("adam", 2, [4.0, 3.0, 2.0], plain, lipschitz=(8.0, None, 6.0)),
        typed("fosi-adam", 0, [4.0, 1.5, 0.5], costly),
        typed("fosi-adam", 1, [4.0, 1.0, 0.5], costly),
        typed("fosi-adam", 2, [4.0, 9.0, 9.0], costly, status="diverged"),
    ]
    plan = {name: {"steps": 10, "seeds": 3} for name in ("adam", "fosi-adam")}
    return {"settings": {"plan": {"classifier": plan}}, "runs": runs}


def test_table_of_a_record_by_hand():
    first, second = table(by_hand())
    assert first == ["classifier", "adam", "0.1", 2.0, 2.0, 4.0, pytest.approx(20.0), 10.0, "0 of 3"]
    assert second[3:6] == [0.5, 1.5, 1.0]
    assert second[7:] == [14.0, "1 of 3"]


def test_gain_of_a_record_by_hand():
    assert gain(by_hand(), "classifier", "fosi-adam") == (0.5, 0.25, math.inf, 2, 3)
    assert gain(by_hand(), "classifier", "fosi-adam", at="work") == (1.5, 0.5, 4.5, 1, 3)
    with pytest.raises(ValueError, match="'steps' or 'work', got 'adam'"):
        gain(by_hand(), "classifier", "adam")
    with pytest.raises(ValueError, match="got 'fosi-adam' and 'seconds'"):
        gain(by_hand(), "classifier", "fosi-adam", at="seconds")


def test_curvature_table_of_a_record_by_hand():
    rows = curvature_table(by_hand(), ["adam"])
    assert [row[1] for row in rows] == [0, 10]
    assert rows[0][2:] == [4.0] * 6
    assert rows[1][2:] == [6.0] * 6
    shown = curves(by_hand(), "classifier", y="lipschitz_plus")["adam"]
    assert (shown.x.tolist(), shown.middle.tolist(), shown.high.tolist()) == ([0, 10], [4, 6], [8, 7])
