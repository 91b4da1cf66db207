"""Training runs on minibatches, the study of MNIST, and what is read from its record.

Oracles: the other loop of the package (``minimize``) on the same minibatches; costs added up by hand from the number of
steps; NumPy's quantiles on curves typed here; a study that was not interrupted for one that was.
"""

import json
from dataclasses import dataclass

import numpy as np
import pytest
from experiment_cases import Interrupting

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments import mnist_mlp, training
from refimpl.experiments.mnist_mlp import CASE, MnistMLP, halved, methods, sparse_start
from refimpl.experiments.records import check_record, provenance, provenance_line, read_record
from refimpl.experiments.runner import SCALES
from refimpl.experiments.training import TUNING_SEED, Tuned, band, best_rate, evenly, runs_of, table, train
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import NoInfo, Step
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.kfac import KFAC
from refimpl.problems.datasets import Dataset, DatasetUnavailable
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP


def tiny_data(*_):
    """Images of 4 x 4 pixels of three classes that can be told apart."""
    rng = np.random.default_rng(0)
    labels = np.arange(120) % 3
    inputs = rng.uniform(0, 0.3, (120, 16)) + np.eye(16)[labels]
    parts = inputs[:80], labels[:80], inputs[:0], labels[:0], inputs[80:], labels[80:]
    return Dataset("tiny", *parts, "here", "none", note="by hand", classes=3, image_shape=(1, 4, 4))


def tiny_problem(batch_size=8, **options):
    data = tiny_data()
    return MLP(
        (16, 6, 3), data.train_inputs, data.train_targets, activation="tanh", loss=SoftmaxCrossEntropy(),
        batch_size=batch_size, test=(data.test_inputs, data.test_targets), initialization="glorot", **options,
    )  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """The study on the tiny images, with three inner units."""
    monkeypatch.setattr(mnist_mlp, "_data", tiny_data)


# -- start and data ---------------------------------------------------------------------------------------------------


def test_sparse_start_has_so_many_connections_per_unit():
    widths = (100, 40, 8, 5)
    x = sparse_start(widths, 3)
    problem = MLP(widths, np.zeros((1, 100)), np.zeros(1, int), loss=SoftmaxCrossEntropy())
    drawn = []
    for weight, bias in problem.unflatten(x):
        counts = np.count_nonzero(weight, axis=1)
        assert set(counts) == {min(15, weight.shape[1])}
        assert not bias.any()
        drawn.append(weight[weight != 0])
    drawn = np.concatenate(drawn)
    assert abs(drawn.mean()) < 4 / np.sqrt(drawn.size)
    assert abs(drawn.std() - 1) < 4 / np.sqrt(2 * drawn.size)
    first = problem.unflatten(x)[0][0] != 0
    assert len({tuple(row) for row in first}) == 40  # each unit has its own
    assert np.count_nonzero(first.any(axis=0)) > 90  # and together they look at nearly every pixel
    np.testing.assert_array_equal(x, sparse_start(widths, 3))
    assert np.count_nonzero(sparse_start(widths, 3, connections=2)) == 2 * 53


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": (3,)}, "widths"),
        ({"widths": (3, 2), "connections": 0}, "connections"),
        ({"widths": (3, 2), "rng": -1}, "seed"),
    ],
)
def test_malformed_starts_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        sparse_start(**{"rng": 0, **options})


def test_halved_images_are_block_means():
    images = np.random.default_rng(0).uniform(size=(3, 36))
    found = halved(images, 6).reshape(3, 3, 3)
    for i in range(3):
        for j in range(3):
            block = images.reshape(3, 6, 6)[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            np.testing.assert_allclose(found[:, i, j], block.mean(axis=(1, 2)))
    with pytest.raises(ValueError, match="even"):
        halved(np.zeros((1, 9)), 3)


def test_the_problem_is_the_paper_s(monkeypatch):
    data = tiny_data()
    wide = Dataset(**{**vars(data), "train_inputs": np.zeros((80, 784)), "test_inputs": np.zeros((40, 784)),
                      "classes": 10, "image_shape": (1, 28, 28)})  # fmt: skip
    monkeypatch.setattr(mnist_mlp, "_data", lambda *_: wide)
    for scale, pixels in (("full", 784), ("ci", 196)):
        study = MnistMLP("mnist-mlp")
        settings = study.settings(scale, None)
        problem = study.problem(CASE, settings, "cpu")
        assert problem.widths == (pixels, 128, 64, 32, 10)
        assert (problem.activation.name, problem.batch_size) == ("tanh", 64)
        assert problem.backend.dtype_name == "float32"
        start = study.start(problem, 1)
        np.testing.assert_array_equal(start, sparse_start(problem.widths, as_generator([1, 0])).astype("float32"))
    assert methods()["curveball"].initial_damping == 10.0  # the paper's, without batch normalization
    assert methods()["curveball"].omega == 0.999**5


def test_without_images_small_scales_fall_back_and_say_so(monkeypatch, capsys):
    def missing(split_seed=0):
        raise DatasetUnavailable("no such file")

    monkeypatch.setattr("refimpl.problems.images.mnist_10k", missing)
    monkeypatch.setattr(mnist_mlp, "mnist_10k", missing)
    mnist_mlp._data.cache_clear()
    study = MnistMLP("mnist-mlp", hidden=(4,))
    try:
        runs = study.run_job(f"{CASE}/curveball/0", study.settings("smoke", 1), "cpu")
        assert runs[0]["data"].startswith("mnist1d: ")
        assert "stands in for MNIST" in runs[0]["data"]
        assert "MNIST is not available here" in capsys.readouterr().out
        with pytest.raises(DatasetUnavailable, match="no such file"):
            study.run_job(f"{CASE}/curveball/0", study.settings("full", 1), "cpu")
    finally:
        mnist_mlp._data.cache_clear()


# -- one run ----------------------------------------------------------------------------------------------------------

METHODS = [HeavyBall(0.1), Adam(0.01), KFAC(0.1, 0.1, 0.5, 0.9), CurveBall(), HessianFree(products=3)]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_a_run_is_that_of_minimize_on_the_same_minibatches(method):
    problem, seen = tiny_problem(), {}

    def watch(step, point):
        seen[step] = problem.evaluate(point.x), float(point.loss)

    start = problem.initial(as_generator(5))
    other = minimize(problem, method, start, steps=12, seed=np.random.default_rng([7, 1]), callback=watch)
    run = train(problem, method, start, steps=12, seed=7, looks=[4, 8])
    curve = run["curve"]
    assert curve["step"] == [0, 4, 8, 12]
    assert (run["status"], run["steps"], run["loss"]) == ("budget", 12, curve["loss"][-1])
    for row, step in enumerate(curve["step"]):
        report = seen[step][0]
        np.testing.assert_allclose(curve["loss"][row], report["loss"], rtol=1e-12)
        np.testing.assert_allclose(curve["test_loss"][row], report["test_loss"], rtol=1e-12)
        np.testing.assert_allclose(curve["error"][row], 1 - report["accuracy"], atol=1e-12)
        np.testing.assert_allclose(curve["test_error"][row], 1 - report["test_accuracy"], atol=1e-12)
        batches = [seen[k][1] for k in range(curve["step"][row - 1], step)] if row else []
        np.testing.assert_allclose(curve["batch_loss"][row], np.mean(batches) if batches else np.nan, rtol=1e-12)
        for knob in training.KNOBS:
            if knob in other.trace.columns:
                used = other.trace[knob][curve["step"][row - 1] : step] if row else [np.nan]
                np.testing.assert_allclose(curve[knob][row], np.mean(used), rtol=1e-12)
            else:
                assert np.isnan(curve[knob]).all()


def test_work_is_what_the_method_asked_for():
    problem, start = tiny_problem(), tiny_problem().initial(as_generator(0))
    run = train(problem, HeavyBall(0.1), start, steps=12, seed=0, looks=[5])
    assert run["curve"]["work"] == [0, 5, 12]
    run = train(problem, CurveBall(), start, steps=12, seed=0, looks=[5])
    # A forward pass, a vjp and two jvp (one in the first step), and one loss more in steps 0, 5, 10.
    wanted = [0, 5 * 7 / 3 - 2 / 3 + 1 / 3, 12 * 7 / 3 - 2 / 3 + 3 / 3]
    np.testing.assert_allclose(run["curve"]["work"], wanted, rtol=1e-12)
    run = train(problem, CurveBall(adapt_every=0), start, steps=12, seed=0, looks=[])
    np.testing.assert_allclose(run["curve"]["work"][-1], 12 * 7 / 3 - 2 / 3, rtol=1e-12)
    assert set(np.asarray(run["curve"]["damping"])[1:]) == {1.0}
    run = train(problem, KFAC(0.1, 0.1), start, steps=6, seed=0, looks=[])
    np.testing.assert_allclose(run["curve"]["work"][-1], 6 * (1 + 3 * 2 / 3), rtol=1e-12)  # three classes


def test_batch_error_of_the_full_batch_is_the_error_before_the_step():
    problem = tiny_problem(batch_size=None)
    run = train(problem, HeavyBall(0.5), problem.initial(as_generator(1)), steps=6, seed=0, looks=range(7))
    np.testing.assert_allclose(run["curve"]["batch_error"][1:], run["curve"]["error"][:-1], atol=1e-12)
    assert len(set(run["curve"]["error"])) > 2


def test_only_the_seed_decides_the_minibatches():
    problem = tiny_problem()
    start = problem.initial(as_generator(0))
    still = HeavyBall(1e-300)  # stays where it is, so losses on minibatches tell which ones they were
    runs = [train(problem, still, start, steps=6, seed=seed, looks=range(7))["curve"] for seed in (3, 3, 4)]
    np.testing.assert_array_equal(runs[0]["batch_loss"], runs[1]["batch_loss"])
    assert not np.array_equal(runs[0]["batch_loss"], runs[2]["batch_loss"])


def test_a_run_that_diverges_is_recorded():
    problem = tiny_problem()
    run = train(problem, GradientDescent(1e308), problem.initial(as_generator(0)), steps=50, seed=0, looks=[10])
    assert run["status"] == "diverged"
    assert "not finite" in run["message"]
    assert 1 <= run["steps"] < 50
    assert np.isnan(run["loss"])
    assert run["curve"]["step"] == [0, run["steps"]]


class Stub:
    """A method that raises ``error`` in its third step."""

    name = "stub"

    def __init__(self, error):
        self.error = error

    def init(self, x):
        return 0

    def step(self, point, state):
        if state == 2:
            raise self.error
        return Step(point.x, state + 1, NoInfo())


def test_a_matrix_that_cannot_be_taken_apart_ends_the_run_alone():
    problem = tiny_problem()
    start = problem.initial(as_generator(0))
    torch_like = type("_LinAlgError", (RuntimeError,), {})
    for error in (np.linalg.LinAlgError("eigenvalues did not converge"), torch_like("eigh failed to converge")):
        run = train(problem, Stub(error), start, steps=9, seed=0, looks=[])
        assert (run["status"], run["steps"], run["curve"]["step"]) == ("failed", 2, [0, 2])
        assert "converge" in run["message"]
    with pytest.raises(RuntimeError, match="out of memory"):
        train(problem, Stub(RuntimeError("out of memory")), start, steps=9, seed=0, looks=[])


def test_seconds_are_those_of_the_steps(monkeypatch):
    clock = iter(np.arange(1000.0))
    monkeypatch.setattr(training.time, "process_time", lambda: next(clock))
    problem = tiny_problem()
    run = train(problem, HeavyBall(0.1), problem.initial(as_generator(0)), steps=4, seed=0, looks=[2])
    assert run["curve"]["seconds"] == [0, 2, 4]  # the clock is read before and after each step and nowhere else


def test_steps_must_be_a_count():
    problem = tiny_problem()
    with pytest.raises(ValueError, match="steps"):
        train(problem, HeavyBall(0.1), problem.initial(as_generator(0)), steps=0, seed=0, looks=[])


def test_best_rate():
    assert best_rate({1.0: float("inf"), 0.1: 0.3, 0.01: 0.2, 0.001: float("nan")}) == 0.01
    with pytest.raises(ValueError, match="offer smaller ones"):
        best_rate({1.0: float("nan")})


def test_looks_hold_both_ends():
    assert evenly(10, 3) == [0, 5, 10]
    assert evenly(3, 30) == [0, 1, 2, 3]


# -- the study --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Interrupted(Interrupting, MnistMLP):
    """The study, which can be stopped."""


def without_clock(record):
    runs = [
        {**run, "commit": None, "curve": {k: v for k, v in run["curve"].items() if k != "seconds"}}
        for run in record["runs"]
    ]
    return {**record, "runs": runs, "provenance": None}


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_cover_every_seed_once(scale):
    study = MnistMLP("mnist-mlp")
    for seeds in (None, 2):
        settings = {"scale": scale, **study.settings(scale, seeds)}
        json.dumps(settings)
        jobs = study.jobs(settings)
        for name, method in methods().items():
            plan = settings["plan"][CASE][name]
            if isinstance(method, Tuned):
                assert jobs.count(f"{CASE}/{name}") == 1
            else:
                wanted = [f"{CASE}/{name}/{seed}" for seed in range(plan["seeds"])]
                assert [job for job in jobs if job.startswith(f"{CASE}/{name}/")] == wanted
            assert plan["seeds"] == (seeds or plan["seeds"]) <= TUNING_SEED
            assert plan["steps"] >= 1
        assert len(set(jobs)) == len(jobs)


def test_only_what_decides_a_job_is_among_its_settings():
    study = MnistMLP("mnist-mlp")
    few, many = ({"scale": "ci", **study.settings("ci", seeds)} for seeds in (3, 9))
    assert study.job_settings(f"{CASE}/curveball/1", few) == study.job_settings(f"{CASE}/curveball/1", many)
    assert study.job_settings(f"{CASE}/adam", few) != study.job_settings(f"{CASE}/adam", many)
    changed = {**few, "methods": {CASE: {**few["methods"][CASE], "adam": "other"}}}
    assert study.job_settings(f"{CASE}/adam", few) != study.job_settings(f"{CASE}/adam", changed)
    assert study.job_settings(f"{CASE}/kfac", few) == study.job_settings(f"{CASE}/kfac", changed)


def test_record_of_every_method_and_how_it_is_continued(tiny, tmp_path):
    first = Interrupted("mnist-mlp", hidden=(4,), stop=f"{CASE}/curveball/1")
    with pytest.raises(RuntimeError, match="stopped"):
        first.record(tmp_path, scale="smoke")
    assert list(json.loads((tmp_path / ".mnist-mlp.partial.json").read_text())) == first.ran
    second = Interrupted("mnist-mlp", hidden=(4,))
    second.record(tmp_path, scale="smoke")
    jobs = second.jobs(second.settings("smoke", None))
    assert second.ran == [job for job in jobs if job not in first.ran]
    record = read_record("mnist-mlp", tmp_path)
    MnistMLP("mnist-mlp", hidden=(4,)).record(tmp_path / "other", scale="smoke")
    assert without_clock(record) == without_clock(read_record("mnist-mlp", tmp_path / "other"))

    assert "Recorded " in provenance_line(record)
    assert record["settings"]["hidden"] == [4]
    for run in record["runs"]:
        assert run["data"] == "tiny: by hand"
        assert run["status"] == "budget"
        assert run["curve"]["loss"][-1] == run["loss"]
    starts = {(run["role"], run["seed"]): set() for run in record["runs"]}
    for run in record["runs"]:
        starts[run["role"], run["seed"]].add(run["curve"]["loss"][0])
    assert all(len(losses) == 1 for losses in starts.values())  # every method begins where its seed says
    for name, method in methods().items():
        runs = [run for run in record["runs"] if run["method"] == name and run["role"] == "run"]
        tuning = [run for run in record["runs"] if run["method"] == name and run["role"] == "tuning"]
        assert [run["seed"] for run in runs] == [0, 1]
        assert runs[0]["steps"] == (4 if name == "hessian-free" else 20)
        if isinstance(method, Tuned):
            assert {run["seed"] for run in tuning} == {TUNING_SEED}
            assert [run["rate"] for run in tuning] == list(method.rates)
            best = min(tuning, key=lambda run: run["loss"])
            assert {run["rate"] for run in runs} == {best["rate"]}
        else:
            assert tuning == []

    rows = {row[1]: row for row in table(record)}
    assert list(rows) == list(methods())
    assert all(len(row) == len(training.TABLE_HEADER) for row in rows.values())
    runs = runs_of(record, CASE, "adam")
    assert rows["adam"][3] == np.median([run["loss"] for run in runs])
    assert rows["adam"][6:8] == [20, 20.0]
    assert rows["curveball"][2] == "–"


@pytest.mark.parametrize(
    "options", [{"scale": "paper"}, {"scale": "smoke", "seeds": 0}, {"scale": "smoke", "seeds": -1}]
)
def test_malformed_requests_are_refused(options, tmp_path):
    with pytest.raises(ValueError, match=r"scale|seeds"):
        MnistMLP("mnist-mlp").record(tmp_path, **options)


# -- reading a record -------------------------------------------------------------------------------------------------


def typed(losses, status="budget", seed=0, steps=None):
    """A run with this column of losses."""
    steps = steps or list(range(0, 10 * len(losses), 10))
    halves, seconds = [0.5 * (v or 0) for v in losses], [2 * k + seed for k in steps]
    curve = {"step": steps, "loss": losses, "error": halves, "test_error": losses, "work": steps, "seconds": seconds}
    loss = losses[-1] if status == "budget" else None
    return {"key": f"a/b/{seed}", "case": "a", "method": "b", "role": "run", "seed": seed, "status": status,
            "steps": steps[-1], "loss": loss, "curve": curve}  # fmt: skip


def record_of(*runs):
    record = {"schema": 1, "experiment": "e", "settings": {}, "runs": list(runs), "provenance": provenance()}
    check_record(record)
    return record


def test_band_is_the_median_and_the_quantiles():
    runs = [typed([4.0, 3.0, 1.0], seed=0), typed([8.0, 2.0, 0.5], seed=1), typed([6.0, 9.0, 0.7], seed=2)]
    found = band(record_of(*runs), "a", "b", x="seconds")
    np.testing.assert_array_equal(found.x, [1, 21, 41])
    np.testing.assert_array_equal(found.middle, [6.0, 3.0, 0.7])
    np.testing.assert_array_equal(found.low, [4.0, 2.0, 0.5])
    np.testing.assert_array_equal(found.high, [8.0, 9.0, 1.0])


def test_a_run_that_ended_early_counts_as_infinite():
    lost = typed([5.0, 2.0], "diverged", 1, steps=[0, 17])
    found = band(record_of(typed([4.0, 3.0, 1.0]), lost, typed([6.0, 9.0, 0.7], seed=2)), "a", "b")
    np.testing.assert_array_equal(found.x, [0, 10, 20])
    np.testing.assert_array_equal(found.middle, [5.0, 9.0, 1.0])
    np.testing.assert_array_equal(found.high, [6.0, np.inf, np.inf])
    (row,) = table(record_of(typed([4.0, 3.0, 1.0]), lost))
    assert row[3] == np.inf
    assert row[-1] == "1 of 2"


def test_null_in_a_record_is_not_a_number():
    found = band(record_of(typed([None, 3.0, 1.0])), "a", "b")
    np.testing.assert_array_equal(found.middle, [np.nan, 3.0, 1.0])


def test_table_holds_medians_and_smallest_errors():
    (row,) = table(record_of(typed([4.0, 0.2, 1.0]), typed([8.0, 0.6, 0.5], seed=1), typed([6.0, 9.0, 0.7], seed=2)))
    assert row[:3] == ["a", "b", "–"]
    np.testing.assert_allclose(row[3:9], [0.7, 50 * 0.5, 100 * 0.5, 20, 20, 41])


def test_an_absent_method_is_named():
    with pytest.raises(ValueError, match=r"no run of \('a', 'c'\); it has \[\('a', 'b'\)\]"):
        runs_of(record_of(typed([1.0])), "a", "c")
