"""The study of curvature in the top eigenspace: eigenpairs by products, secants, Newton's advantage, statistics.

Oracles: dense Hessians and eigenvalues by LAPACK; quadratics in closed form; third derivatives by forward mode; the
paper's table typed once more; the same run without a watcher; a study that was not interrupted.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from experiment_cases import Interrupting, stopped_and_continued  # noqa: E402

from refimpl import minimize  # noqa: E402
from refimpl.arrays import as_generator  # noqa: E402
from refimpl.experiments import EXPERIMENTS  # noqa: E402
from refimpl.experiments.curvature_shift import (  # noqa: E402
    CASES,
    COLUMNS,
    PAPER_TABLE_1,
    RATES,
    SERIES,
    CurvatureShift,
    association_of,
    associations,
    network,
    runs_of,
    windows,
)
from refimpl.experiments.eigenarc import Frozen  # noqa: E402
from refimpl.experiments.eigenarc_study import network as small_network  # noqa: E402
from refimpl.experiments.runner import SCALES  # noqa: E402
from refimpl.experiments.time_series import ar1, association, detrended  # noqa: E402
from refimpl.experiments.top_eigenspace import Extremes, ShiftWatcher, newton_advantage, secant  # noqa: E402
from refimpl.optimizers.gradient_descent import HeavyBall  # noqa: E402
from refimpl.problems.line_derivatives import third_derivative_along  # noqa: E402
from refimpl.problems.quadratic import Quadratic  # noqa: E402

PRINTED_TABLE_1 = """
CIFAR10   -0.245341  1e-107
FakeData  -0.026608  0.031120
MNIST     -0.368788  1e-300
"""


def test_table_of_the_paper():
    rows = [line.split() for line in PRINTED_TABLE_1.strip().splitlines()]
    expected = {name: (float(r), pytest.approx(math.log10(float(p)))) for name, r, p in rows}
    assert expected == PAPER_TABLE_1


# -- the top eigenspace -----------------------------------------------------------------------------------------------


def test_extremes_against_a_dense_decomposition():
    problem = small_network("moons")
    extremes = Extremes(tolerance=1e-8)
    x = problem.initial(as_generator(0))
    for _ in range(2):  # the second time from where the first ended
        point = problem.at(x)
        values, vectors = extremes(point)
        exact, columns = np.linalg.eigh(point.hessian().numpy())
        np.testing.assert_allclose(values, exact[[-1, 0]], rtol=1e-9)
        np.testing.assert_allclose(np.abs(np.sum(vectors * columns[:, [-1, 0]], axis=0)), 1.0, atol=1e-6)
        x = x - 0.1 * point.gradient
    only, one = Extremes(both=False, tolerance=1e-8)(point)
    assert (only.shape, one.shape) == ((1,), (33, 1))
    assert only[0] == pytest.approx(exact[-1])


def test_secant_tends_to_the_third_derivative_and_is_a_mean_of_it():
    problem = small_network("xor")
    point = problem.at(problem.initial(as_generator(1)))
    values, vectors = np.linalg.eigh(point.hessian().numpy())
    v = vectors[:, -1].copy()
    along = third_derivative_along(problem, point.x, torch.from_numpy(v), np.linspace(0, 0.1, 401)).numpy()
    assert secant(point, v, values[-1], 1e-5) == pytest.approx(abs(along[0]), rel=1e-4)
    assert secant(point, v, values[-1], 0.1) == pytest.approx(abs(np.trapezoid(along, dx=0.1 / 400) / 0.1), rel=1e-5)
    quadratic = Quadratic(np.diag([2.0, 1.0]), np.zeros(2))
    assert secant(quadratic.at(np.ones(2)), np.array([1.0, 0.0]), 2.0) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("rate", [0.01, 0.25, 0.9])
def test_advantage_on_a_quadratic_in_closed_form(rate):
    lam, c = 4.0, -1.5
    place = Frozen(0.7, np.array([lam, -1.0]), np.array([c, 3.0]), lambda y: 0.7 + c * y[0] + lam * y[0] ** 2 / 2)
    assert newton_advantage(place, rate) == pytest.approx(c**2 * (1 - rate * lam) ** 2 / (2 * lam), abs=1e-15)


def test_advantage_is_lost_where_curvature_changes_fast():
    # f = -x + x^2/2 + T x^3/6: Newton's step is 1, and the loss there T/6 - 1/2.
    def place(third):
        return Frozen(0.0, np.ones(1), -np.ones(1), lambda y: float(-y[0] + y[0] ** 2 / 2 + third * y[0] ** 3 / 6))

    assert newton_advantage(place(12.0), 0.1) == pytest.approx(-0.095 + 0.002 - (2.0 - 0.5))
    assert newton_advantage(place(0.0), 0.1) > 0


def test_a_watched_run_is_the_run_itself():
    problem = network("classifier", 64)
    start = problem.initial(as_generator(0))
    method = HeavyBall(0.05, 0.9)
    rules = {"steps": 4, "gradient_tolerance": None}
    plain = minimize(problem, method, start, seed=as_generator([3, 1]), **rules)
    watcher = ShiftWatcher(0.05, Extremes(), every=2, points=3)
    seen = minimize(problem, method, start, seed=as_generator([3, 1]), callback=watcher, **rules)
    np.testing.assert_array_equal(plain.trace["loss"], seen.trace["loss"])
    columns = {name: np.asarray(seen.trace[name], float) for name in COLUMNS}
    assert np.isfinite(columns["true_plus"]).tolist() == [True, False, True, False, True]
    np.testing.assert_allclose(
        columns["z_plus"], columns["true_plus"] * columns["slope_plus"] / columns["eigenvalue_plus"] ** 2
    )
    assert (columns["eigenvalue_minus"] < 0).all()
    # On minibatches as well as on all rows, Newton's step in the top eigenspace is nearly that of a quadratic.
    quadratic = columns["slope_plus"] ** 2 * (1 - 0.05 * columns["eigenvalue_plus"]) ** 2
    np.testing.assert_allclose(columns["advantage"], quadratic / (2 * columns["eigenvalue_plus"]), rtol=0.2)


@pytest.mark.parametrize(("case", "n"), [("classifier", 1210), ("noise", 1210), ("autoencoder", 2128)])
def test_networks(case, n):
    problem = network(case, 128)
    assert problem.n == n
    assert problem.inputs.shape == (1197, 64)
    assert problem.targets.shape == ((1197, 64) if case == "autoencoder" else (1197,))
    if case == "noise":
        inputs = problem.inputs.numpy()
        assert abs(inputs.mean() - 0.5) < 0.01
        labels = problem.targets.numpy()
        assert np.bincount(labels, minlength=10).min() > 80
    with pytest.raises(ValueError, match="unknown case"):
        network("mnist", 128)


# -- statistics -------------------------------------------------------------------------------------------------------


def test_associations_are_those_of_each_pair():
    rng = np.random.default_rng(0)
    advantage = ar1(0.9, 300, 1)
    columns = {
        "advantage": advantage,
        "eigenarc_plus": np.full(300, 1e-12),
        "unfloored": 0.5 ** np.arange(300.0),
        "secant_plus": np.exp(ar1(0.5, 300, 2)),
        "z_plus": -advantage + 0.1 * rng.standard_normal(300),
    }
    chosen = {"burn_in": 0.1, "trend": 21, "resamples": 40}
    run = {"associations": associations(columns, chosen)}
    assert len(run["associations"]) == len(SERIES) * 4
    assert association_of(run, "eigenarc_plus") is None
    assert association_of(run, "unfloored", "spearman", "removed") is None
    # Halved at every iterate, a constant is a clock: its logarithm is the time, backwards.
    clock = association(-np.arange(270.0), advantage[30:], resamples=40)
    assert association_of(run, "unfloored").r == pytest.approx(clock.r)
    found = association_of(run, "secant_plus", "spearman", "removed")
    x, y = detrended(columns["secant_plus"][30:], 21), detrended(advantage[30:], 21)
    assert found == association(x, y, kind="spearman", resamples=40)
    assert association_of(run, "z_plus").r < -0.9
    with pytest.raises(ValueError, match="no statistics"):
        association_of(run, "loss")


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted(Interrupting, CurvatureShift):
    """The study, stopped at a job."""


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    return stopped_and_continued(Interrupted, "curvature-shift", "advantage/noise/0", folder)


def test_study_is_registered_and_continues(record):
    assert EXPERIMENTS["curvature-shift"] == CurvatureShift("curvature-shift")
    assert [run["key"] for run in record["runs"]] == [
        "task/classifier/minibatch/0", "task/autoencoder/minibatch/0", "task/classifier/full/0",
        "task/autoencoder/full/0", "advantage/classifier/0", "advantage/noise/0", "advantage/autoencoder/0",
    ]  # fmt: skip
    assert {run["status"] for run in record["runs"]} == {"budget"}


def test_readers(record):
    assert windows(record, "classifier", "full", "true_plus").shape == (1, 1)
    (run,) = runs_of(record, "advantage", "noise")
    assert set(run["columns"]) == set(COLUMNS) - {"eigenvalue_minus", "eigenarc_minus"}
    found = association_of(run, "secant_plus", "spearman")
    assert found.iterates == 41 - 4
    assert -1 <= found.r <= 1
    with pytest.raises(ValueError, match="no run of"):
        runs_of(record, "task", "noise")


@pytest.mark.parametrize("scale", SCALES)
def test_settings_are_plain_and_jobs_know_their_own(scale):
    study = CurvatureShift("curvature-shift")
    settings, more = study.settings(scale, None), study.settings(scale, 9)
    assert json.loads(json.dumps(settings)) == settings
    assert set(settings["method"]) == set(CASES) == set(RATES)
    for job in study.jobs(settings):
        assert study.job_settings(job, more) == study.job_settings(job, settings)
    assert len(study.jobs(more)) > len(study.jobs(settings))
    longer = json.loads(json.dumps(settings))
    longer["task"]["steps"]["full"] += 1
    changed = [
        job for job in study.jobs(settings) if study.job_settings(job, longer) != study.job_settings(job, settings)
    ]
    assert changed == [job for job in study.jobs(settings) if "/full/" in job]
