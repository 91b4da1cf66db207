"""CurveBall's Table 1: the counts, the runs behind them, the choice of settings, the record.

Oracles: golden numbers of 60 digits; Levenberg's step with explicit 2 × 2 matrices and noise drawn by hand; the house's
loop `minimize` on one run at a time, which shares neither loop nor batch with the study; SciPy's own BFGS; the Wolfe
conditions and the secant equation; the printed table, typed once more.
"""

import numpy as np
import pytest
from golden_vectors import golden
from scipy import optimize

from refimpl import minimize
from refimpl.arrays import as_generator
from refimpl.experiments import curveball_table as study
from refimpl.experiments.curveball_methods import fastest, grid, lowest_last_ten
from refimpl.experiments.curveball_table import PAPER, ROWS, iterations, methods
from refimpl.experiments.first_passage import LANES, NOISE, STARTS, Batch, NoisyValley, Passages, batch, passages
from refimpl.experiments.frozen_bfgs import FrozenBFGS
from refimpl.optimizers.adam import Adam
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.quasi_newton import BFGS
from refimpl.problems.linear_network import RahimiRecht
from refimpl.problems.toy import Rosenbrock

PRINTED = """
heavy-ball           370±40     846±217   4069±565  95±2
adam                 799±160.5  1290±476  2750±257  95±5
levenberg-marquardt  16±4       14±3      17±4      9±4
bfgs                 19±4       44±21     63±29     43±21
newton               14±1       10±3      17±4      9±0.5
curveball            13±0.5     12±1      13±1      35±11
"""
FIRST_ORDER = {"heavy-ball": HeavyBall(0.001, 0.95), "adam": Adam(0.1, 0.9, 0.99)}


def one_run(x):
    return Batch(NoisyValley(0.0, slice(1)), np.array([x]), lambda k: NoisyValley(0.0, k), (1, 2))


# -- counts -----------------------------------------------------------------------------------------------------------


def test_count_of_the_golden_trajectory():
    """lam is constant there; the study's CurveBall lowers it by half a percent every fifth step."""
    path = golden("curveball_kryball")["curveball_rosenbrock"]["trajectory_lambda1_fixed_from_-1.2_1 (u,v,f)"]
    losses = np.array([row[2] for row in path])
    levels = (1e-4, 1e-3, 1e-2, 40.0)
    wanted = [np.flatnonzero(losses <= level)[0] for level in levels]
    assert wanted == [14, 11, 8, 0]
    for method in (CurveBall(adapt_every=0), CurveBall()):
        found = passages(one_run([-1.2, 1.0]), method, steps=30, targets=levels)
        assert found.counts.tolist() == [wanted]
        assert found.steps == 14
    assert found.losses[0] == pytest.approx(losses[14], rel=0.1)


def levenberg_counts(noise, lam, runs, steps):
    """Levenberg's method with the constant damping lam, after a first step along the gradient (z is still zero, so that
    CurveBall's plane is a line); noise and starting places of stream 1 drawn by hand."""
    counts = []
    for k in range(runs):
        u, v = np.random.default_rng((1, 1, k)).standard_normal(2) * 0.1 + (-1.2, 1.0)
        rng = np.random.default_rng((1, 2))
        for step in range(steps):
            if (1 - u) ** 2 + 100 * (v - u * u) ** 2 <= 1e-4:
                counts.append(step)
                break
            root = np.sqrt(100 * rng.uniform(0, noise, 256)[k]) if noise else 10.0
            residual = np.array([1 - u, root * (v - u * u)])
            jacobian = np.array([[-1, 0], [-2 * root * u, root]])
            matrix = 2 * jacobian.T @ jacobian + lam * np.eye(2)
            gradient = 2 * jacobian.T @ residual
            along = gradient * (gradient @ gradient) / (gradient @ matrix @ gradient)
            u, v = (u, v) - (np.linalg.solve(matrix, gradient) if step else along)
        else:
            counts.append(np.inf)
    return counts


@pytest.mark.parametrize("problem", NOISE)
@pytest.mark.parametrize("lam", [1.0, 0.1])
def test_in_the_plane_curveball_counts_what_levenberg_counts(problem, lam):
    method = CurveBall(initial_damping=lam, adapt_every=0)
    found = iterations(problem, method, runs=12, steps=40)
    assert found.tolist() == levenberg_counts(NOISE[problem], lam, 12, 40)


@pytest.mark.parametrize(
    ("name", "mean", "tolerance"),
    [("levenberg-marquardt", 14, 2), ("newton-abs", 5, 1), ("newton-abs-0.5", 14, 1), ("newton-abs-1", 19, 1)],
)
def test_counts_are_in_the_known_range(name, mean, tolerance):
    for problem in NOISE:
        found = study.summary(iterations(problem, name, runs=20))
        assert found.failures == 0
        assert found.mean == pytest.approx(mean, abs=tolerance + (2 if name == "levenberg-marquardt" else 0.5))


@pytest.mark.parametrize(("name", "count"), [("curveball-0.001", 3), ("curveball-0.1", 6), ("curveball-10", 94)])
def test_initial_damping_decides_the_count(name, count):
    assert iterations("rosenbrock", name, runs=20).mean() == pytest.approx(count, abs=0.8)


def counts_by_minimize(runs, method, steps, targets, k):
    """One run alone in the house's loop; its losses without noise from the callback."""
    losses, problem = [], runs.alone(k)
    minimize(
        problem,
        method,
        runs.starts[k],
        steps=steps,
        seed=as_generator(runs.noise),
        callback=lambda _, point: losses.append(float(problem.loss(point.x))),
    )
    hits = [np.flatnonzero(np.array(losses) <= target) for target in targets]
    return [hit[0] if hit.size else np.inf for hit in hits]


@pytest.mark.parametrize("name", [*methods(), *FIRST_ORDER])
def test_batched_rows_are_the_single_runs(name):
    method = {**methods(), **FIRST_ORDER}[name]
    runs, targets = batch("rosenbrock-u3", 3, start="wide"), (1e-4, 1e-2, 0.5)
    found = passages(runs, method, steps=110, targets=targets)
    for k in range(3):
        assert found.counts[k].tolist() == counts_by_minimize(runs, method, 110, targets, k)


@pytest.mark.parametrize("name", ["levenberg-marquardt", "newton-abs-0.1", "curveball", "hessian-free", "bfgs"])
def test_batched_rahimi_recht_rows_are_the_single_runs(name):
    runs, targets = batch("rahimi-recht", 2), (100.0, 1.0, 0.1)
    found = passages(runs, methods()[name], steps=25, targets=targets)
    for k in range(2):
        assert found.counts[k].tolist() == counts_by_minimize(runs, methods()[name], 25, targets, k)
    assert np.isfinite(found.counts[:, 0]).all()


def test_fewer_runs_are_the_first_of_many():
    for problem, method in (
        ("rosenbrock-u3", "curveball-10"),
        ("rosenbrock-u3", "bfgs"),
        ("rahimi-recht", "curveball"),
    ):
        many = iterations(problem, method, runs=6, steps=150, target=1e-1)
        assert iterations(problem, method, runs=2, steps=150, target=1e-1).tolist() == many[:2].tolist()
        assert len(set(many.tolist())) > 1


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_alone_has_the_noise_that_it_has_in_the_batch():
    runs = batch("rosenbrock-u3", 5)
    together, alone = as_generator(runs.noise), as_generator(runs.noise)
    problem = runs.alone(3)
    for _ in range(4):
        sample = runs.problem.draw(together)
        assert sample.shape == (5, 1)
        assert problem.draw(alone) == sample[3, 0]
    draws = np.concatenate([runs.problem.draw(together)[:, 0] for _ in range(200)])
    assert draws.min() >= 0.0
    assert draws.max() <= 3.0
    assert draws.mean() == pytest.approx(1.5, abs=0.1)


def test_starting_places_are_distributed_as_stated():
    near, wide = (batch("rosenbrock", LANES, start=start).starts for start in ("near", "wide"))
    np.testing.assert_allclose(near.mean(axis=0), (-1.2, 1.0), atol=0.03)
    np.testing.assert_allclose(near.std(axis=0), 0.1, atol=0.015)
    np.testing.assert_allclose(wide.mean(axis=0), 0.0, atol=0.25)
    np.testing.assert_allclose(wide.std(axis=0), 4 / np.sqrt(12), atol=0.12)
    assert np.abs(wide).max() <= 2.0
    weights = batch("rahimi-recht", 30).starts
    assert (weights.mean(), weights.std()) == (pytest.approx(0.0, abs=0.06), pytest.approx(1.0, abs=0.05))


def test_tuning_runs_are_other_runs():
    for problem in STARTS:
        reported, tuning = (batch(problem, 8, stream=stream) for stream in (1, 2))
        assert not np.isin(tuning.starts, reported.starts).any()
        assert reported.noise != tuning.noise


def test_every_rahimi_recht_run_has_data_of_its_own():
    for name, kind in (("rahimi-recht", "rows"), ("rahimi-recht-svd", "svd")):
        runs = batch(name, 3)
        rng = as_generator((1, 1, 2))
        problem = RahimiRecht(kind, seed=rng)
        np.testing.assert_array_equal(runs.starts[2], problem.initial(rng))
        together = runs.problem.at(runs.starts)
        v = np.random.default_rng(0).standard_normal((3, 96))
        alone = problem.at(runs.starts[2])
        for ours, theirs in (
            (together.loss, alone.loss),
            (together.gradient, alone.gradient),
            (together.hvp(v), alone.hvp(v[2])),
            (together.ggnvp(v), alone.ggnvp(v[2])),
            (together.hessian(), alone.hessian()),
        ):
            np.testing.assert_allclose(ours[2], theirs, rtol=1e-12, atol=1e-10)
        assert not np.allclose(runs.problem.target[0], runs.problem.target[1])


# -- failures ---------------------------------------------------------------------------------------------------------


def test_failures_are_counted():
    counts = iterations("rosenbrock", "levenberg-marquardt", runs=20, steps=14)
    arrived = np.isfinite(counts)
    assert 0 < arrived.sum() < 20
    found = study.summary(counts)
    assert found.failures == 1 - arrived.mean()
    assert found.mean == counts[arrived].mean() <= 14
    assert found.deviation == counts[arrived].std()
    assert f"({100 * (1 - arrived.mean()):.0f}% fail)" in str(found)


def test_nothing_arrives():
    found = study.summary(iterations("rosenbrock", "curveball", runs=3, steps=2))
    assert found.failures == 1.0
    assert str(found) == "none arrives"


def test_divergent_runs_fail_and_end():
    found = passages(batch("rosenbrock", 4), GradientDescent(1.0), steps=500, targets=(1e-4,), lengths=(5, 500))
    assert np.isinf(found.counts).all()
    assert np.isinf(found.losses).all()
    assert np.isinf(found.averages[:, 1]).all()
    assert found.steps < 20


def test_one_divergent_run_does_not_end_the_others():
    runs = batch("rosenbrock", 2)
    far = runs._replace(starts=np.array([[1e200, 0.0], [-1.2, 1.0]]))
    found = passages(far, CurveBall(), steps=30, targets=(1e-4,))
    assert found.counts[:, 0].tolist() == [np.inf, 14.0]


def test_mean_of_the_last_ten():
    runs, method = batch("rosenbrock-u1", 3), HeavyBall(0.001, 0.9)
    found = passages(runs, method, steps=40, targets=(1e-4,), lengths=(4, 25, 40))
    for k in range(3):
        losses, problem = [], runs.alone(k)
        minimize(
            problem,
            method,
            runs.starts[k],
            steps=40,
            seed=as_generator(runs.noise),
            callback=lambda _, point, kept=losses, loss=problem.loss: kept.append(float(loss(point.x))),
        )
        wanted = [np.mean(losses[:5]), np.mean(losses[16:26]), np.mean(losses[31:41])]
        np.testing.assert_allclose(found.averages[k], wanted, rtol=1e-12)
    assert found.steps == 40


def test_wrong_requests():
    runs = batch("rosenbrock", 2)
    for call, what in (
        (lambda: batch("rosenbrok", 2), "rosenbrok"),
        (lambda: batch("rosenbrock", 2, start="normal"), "near"),
        (lambda: batch("rosenbrock", LANES + 1), str(LANES)),
        (lambda: batch("rosenbrock", 0), "runs"),
        (lambda: batch("rosenbrock", 1, stream=0), "stream"),
        (lambda: passages(runs, CurveBall, steps=2, targets=(1.0,)), "CurveBall()"),
        (lambda: passages(runs, BFGS(), steps=2, targets=(1.0,)), "FrozenBFGS"),
        (lambda: passages(runs, CurveBall(), steps=2, targets=()), "targets"),
        (lambda: passages(runs, CurveBall(), steps=2, targets=(0.0,)), "positive"),
        (lambda: passages(runs, CurveBall(), steps=2, targets=(1.0,), lengths=(3,)), "steps=2"),
        (lambda: iterations("rosenbrock", "adam"), "levenberg-marquardt"),
        (lambda: grid("curveball"), "heavy-ball"),
        (lambda: FrozenBFGS(pair="both"), "mixed"),
        (lambda: minimize(Rosenbrock(), FrozenBFGS(), np.zeros((2, 2))), "one problem at a time"),
    ):
        with pytest.raises(ValueError, match=what.replace("(", r"\(").replace(")", r"\)")):
            call()


# -- BFGS -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_line_search_sees_one_sample_and_fulfils_the_strong_wolfe_conditions(seed):
    problem, method = Rosenbrock(noise=3.0), FrozenBFGS()
    rng = as_generator(seed)
    x, state = problem.initial(rng), None
    for _ in range(30):
        point = problem.at(x, problem.draw(rng))
        step = method.step(point, state)
        p = step.x - x
        there = problem.at(step.x, point.sample)
        slope = point.gradient @ p
        assert slope < 0
        assert step.info.accepted
        assert there.loss <= point.loss + 1e-4 * slope
        assert abs(there.gradient @ p) <= 0.9 * abs(slope) * (1 + 1e-9)
        change = there.gradient - point.gradient
        np.testing.assert_allclose(step.state.inverse.dot(change), p, rtol=1e-6, atol=1e-12)  # the secant equation
        x, state = step.x, step.state


def test_mixed_pairs_are_those_of_two_samples():
    problem, method = Rosenbrock(noise=3.0), FrozenBFGS(pair="mixed")
    rng = as_generator(1)
    x, state = problem.initial(rng), None
    before = None
    learned = 0
    for _ in range(20):
        point = problem.at(x, problem.draw(rng))
        step = method.step(point, state)
        if before is not None:
            pair, change = x - before.x, point.gradient - before.gradient
            if pair @ change > 1e-3 * np.linalg.norm(pair) * np.linalg.norm(change):
                np.testing.assert_allclose(step.state.inverse.dot(change), pair, rtol=1e-6, atol=1e-12)
                learned += 1
        x, state, before = step.x, step.state, point
    assert learned > 10


def test_without_noise_both_pairs_are_one():
    same, mixed = (
        passages(batch("rosenbrock", 6), FrozenBFGS(pair), steps=100, targets=(1e-4,)) for pair in ("same", "mixed")
    )
    assert same.counts.tolist() == mixed.counts.tolist()


def test_without_noise_about_as_many_iterations_as_scipy():
    runs = batch("rosenbrock", 12, start="wide")
    theirs = []
    for x in runs.starts:
        losses = [float(runs.problem.loss(x[None])[0])]
        optimize.minimize(
            optimize.rosen, x, jac=optimize.rosen_der, callback=lambda at, kept=losses: kept.append(optimize.rosen(at))
        )
        theirs.append(int(np.flatnonzero(np.array(losses) <= 1e-4)[0]))
    ours = passages(runs, FrozenBFGS(), steps=200, targets=(1e-4,)).counts[:, 0]
    assert np.isfinite(ours).all()
    assert abs(ours.mean() - np.mean(theirs)) < 5


# -- choice of settings -----------------------------------------------------------------------------------------------


def test_grids_are_the_printed_ones():
    printed = [0.1, 0.05, 0.01, 0.05, 0.001, 0.005, 0.0001, 0.0005]
    assert sorted(set(printed)) == sorted(study.LEARNING_RATES)
    assert {(m.learning_rate, m.momentum) for m in grid("heavy-ball")} == {
        (rate, momentum) for rate in printed for momentum in (0.9, 0.95, 0.99)
    }
    assert {(m.learning_rate, m.beta1, m.beta2) for m in grid("adam")} == {
        (rate, b1, b2) for rate in printed for b1 in (0.9, 0.99) for b2 in (0.99, 0.999)
    }


def tried(*columns):
    return [Passages(np.array(c, dtype=float)[:, None], np.array(a, dtype=float)[:, None], None, 0) for c, a in columns]


def test_fastest_setting():
    inf, twenty = np.inf, [1] * 20
    slow, quick, one_fails, two_fail = [9] * 20, [5] * 20, [3] * 19 + [inf], [1] * 18 + [inf] * 2
    none = [inf] * 20
    assert fastest(tried((slow, twenty), (quick, twenty), (two_fail, twenty)), 0) == 1
    assert fastest(tried((slow, twenty), (one_fails, twenty), (quick, twenty)), 0) == 1
    assert fastest(tried((none, twenty), (two_fail, twenty)), 0) == 1
    assert fastest(tried((none, twenty), (none, twenty)), 0) == 0


def test_lowest_last_ten():
    counts = [1, 1]
    assert lowest_last_ten(tried((counts, [0.1, 0.1]), (counts, [0.0, np.inf]), (counts, [0.05, 0.1])), 0) == 2


# -- the paper --------------------------------------------------------------------------------------------------------


def test_table_1_is_the_printed_one():
    rows = [line.split() for line in PRINTED.split("\n") if line]
    for name, *cells in rows:
        assert [cell.replace(" ", "") for cell in PAPER[name].values()] == cells
    assert len(rows) == len(PAPER)
    assert list(PAPER["adam"]) == [*NOISE, "rahimi-recht"]


def test_every_row_of_the_table_is_a_method_of_the_study():
    names = {name.removesuffix("/last-ten") for name, _, _ in ROWS}
    assert names == {*methods(), *study.TUNED}
    assert {printed for _, _, printed in ROWS if printed} == set(PAPER)
    assert len({label for _, label, _ in ROWS}) == len(ROWS)
