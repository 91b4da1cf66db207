"""The trust-region method, and the rule for its radius.

Oracles: a table of ratios judged by hand; a plain transcription of the algorithm with SciPy's sub-solver, and one with
a grid; minima known in closed form; the horse saddle, from a point where gradient descent ends in it.
"""

import math

import numpy as np
import pytest
from scipy.optimize._trustregion_exact import IterativeSubproblem

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.optimizers.radius import RadiusRule
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.oracle import Counts
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, MonkeySaddle, Rosenbrock, Wood

NAN, INF, EPS = float("nan"), float("inf"), 2.0**-52
SUBPROBLEMS = ["exact", "two-dimensional", "dogleg"]


# -- the radius -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "trial", "predicted", "length", "accepted", "radius", "ratio"),
    [
        # Delta = 2; knobs c0, c1, c2 = 0.125, 0.25, 0.75
        pytest.param(5.0, 4.0, -1.0, 2.0, True, 4.0, 1.0, id="very good, at the boundary"),
        pytest.param(5.0, 4.0, -1.0, 2.0 * (1 - 1e-7), True, 4.0, 1.0, id="at the boundary but for rounding"),
        pytest.param(5.0, 4.0, -1.0, 2.0 * (1 - 1e-5), True, 2.0, 1.0, id="very good, inside"),
        pytest.param(5.0, 4.25, -1.0, 2.0, True, 2.0, 0.75, id="exactly c2 does not expand"),
        pytest.param(5.0, 4.5, -1.0, 2.0, True, 2.0, 0.5, id="good"),
        pytest.param(5.0, 4.75, -1.0, 2.0, True, 2.0, 0.25, id="exactly c1 does not shrink"),
        pytest.param(5.0, 4.8125, -1.0, 2.0, True, 1.0, 0.1875, id="poor but taken"),
        pytest.param(5.0, 4.8125, -1.0, 0.5, True, 1.0, 0.1875, id="taken: shrinks from Delta"),
        pytest.param(5.0, 4.875, -1.0, 2.0, False, 1.0, 0.125, id="exactly c0 is refused"),
        pytest.param(5.0, 6.0, -1.0, 2.0, False, 1.0, -1.0, id="refused"),
        pytest.param(5.0, 6.0, -1.0, 0.5, False, 0.25, -1.0, id="refused: shrinks from the step"),
        pytest.param(5.0, NAN, -1.0, 2.0, False, 1.0, -1.0, id="trial not a number"),
        pytest.param(5.0, INF, -1.0, 2.0, False, 1.0, -1.0, id="trial infinite"),
        pytest.param(5.0, -INF, -1.0, 2.0, False, 1.0, -1.0, id="trial minus infinity"),
        pytest.param(5.0, 4.0, 0.5, 2.0, False, 1.0, -1.0, id="the model predicts a rise"),
        pytest.param(5.0, 4.0, 0.0, 2.0, False, 1.0, -1.0, id="the model predicts nothing, the loss falls"),
        pytest.param(5.0, 4.0, NAN, 2.0, False, 1.0, -1.0, id="no prediction"),
        pytest.param(5.0, 5.0, 0.0, 0.0, True, 2.0, 1.0, id="nothing happens"),
        pytest.param(5.0, 5.0 + 40 * EPS, -40 * EPS, 0.5, True, 2.0, 1.0, id="noise: both below 10 eps |f|"),
        pytest.param(5.0, 5.0 + 40 * EPS, -60 * EPS, 0.5, False, 0.25, -2 / 3, id="prediction above noise"),
        pytest.param(5.0, 5.0 + 60 * EPS, -40 * EPS, 0.5, False, 0.25, -1.5, id="change above noise"),
        pytest.param(0.0, 8 * EPS, -8 * EPS, 0.5, True, 2.0, 1.0, id="noise is at least 10 eps"),
    ],
)
def test_table_of_ratios(loss, trial, predicted, length, accepted, radius, ratio):
    rule = RadiusRule(accept_above=0.125)
    found = rule.judged(np.zeros(3), loss, trial, predicted, length, 2.0)
    assert (found.accepted, found.radius) == (accepted, radius)
    assert found.ratio == pytest.approx(ratio, rel=1e-12)


def test_bounds_of_the_radius():
    good, bad = (5.0, 4.0, -1.0), (5.0, 6.0, -1.0)
    rule, x = RadiusRule(maximum_radius=3.0), np.array([3.0, -4.0])
    assert rule.judged(x, *good, 2.0, 2.0).radius == 3.0
    assert rule.judged(x, *good, 3.0, 3.0).radius == 3.0
    # Never below the shortest step that changes x.
    assert rule.judged(x, *bad, 1e-16, 1e-16).radius == 6 * EPS
    single = x.astype(np.float32)
    assert rule.judged(single, *bad, 1e-9, 1e-9).radius == 6 * 2.0**-23
    assert RadiusRule(minimum_radius=0.25).judged(x, *bad, 0.3, 0.3).radius == 0.25
    # With 0 it falls to nothing in the end.
    assert RadiusRule(minimum_radius=0.0).judged(x, *bad, 1e-300, 1e-300).radius == 0.5e-300
    # x may be so long that its floor is above the bound.
    assert rule.judged(np.array([1e20]), *bad, 1.0, 1.0).radius == 3.0


def test_noise_belongs_to_the_precision_and_can_be_turned_off():
    change = 5 * 2.0**-23
    assert RadiusRule().judged(np.zeros(2, np.float32), 1.0, 1.0 + change, -change, 1.0, 1.0).accepted
    assert not RadiusRule().judged(np.zeros(2), 1.0, 1.0 + change, -change, 1.0, 1.0).accepted
    assert not RadiusRule(noise=0.0).judged(np.zeros(2, np.float32), 1.0, 1.0 + change, -change, 1.0, 1.0).accepted
    assert not RadiusRule(noise=0.0).judged(np.zeros(2), 1.0, 1.0, 0.0, 0.0, 1.0).accepted


def test_factors_of_the_radius():
    rule = RadiusRule(shrink=0.25, expand=3.0, shrink_below=0.5, expand_above=0.5)
    assert rule.judged(np.zeros(2), 5.0, 4.25, -1.0, 2.0, 2.0).radius == 6.0
    assert rule.judged(np.zeros(2), 5.0, 4.75, -1.0, 2.0, 2.0).radius == 0.5


# -- the method -------------------------------------------------------------------------------------------------------


def transcription(problem, x, steps, solve, knobs=(1.0, 100.0, 0.0, 0.25, 0.75)):
    """Places and radii of Algorithm 3, its test of |p| = Delta with a tolerance."""
    radius, most, c0, c1, c2 = knobs
    seen = []
    for _ in range(steps):
        point = problem.at(x)
        g, b = point.gradient, point.hessian()
        p = solve(b, g, radius)
        rho = (float(point.loss) - float(problem.loss(x + p))) / -(g @ p + 0.5 * p @ b @ p)
        length = np.linalg.norm(p)
        used = radius
        if rho < c1:
            radius = 0.5 * (radius if rho > c0 else min(radius, length))
        elif rho > c2 and length > 0.999 * used:
            radius = min(2 * radius, most)
        x = x + p if rho > c0 else x
        seen.append((x, used, rho))
    return seen


def scipy_solver(b, g, radius):
    solver = IterativeSubproblem(
        np.zeros_like(g), lambda x: 0.0, lambda x: g, lambda x: b, k_easy=1e-12, k_hard=1e-12, maxiter=500
    )
    return solver.solve(radius)[0]


def gradient_only(b, g, radius):
    """The best point of a fine grid over directions, refined: for n = 2 and a positive definite or indefinite b."""
    best, width, centre = None, np.pi, 0.0
    for _ in range(12):
        angles = centre + np.linspace(-width, width, 401)
        values = []
        for a in angles:
            d = np.array([np.cos(a), np.sin(a)])
            bend = d @ b @ d
            t = min(radius, -(g @ d) / bend) if bend > 0 else radius
            values.append((t * (g @ d) + 0.5 * t * t * bend if t > 0 else 0.0, max(t, 0.0)))
        i = min(range(len(values)), key=lambda j: values[j][0])
        centre, width, best = angles[i], width / 50, values[i][1]
    return best * np.array([np.cos(centre), np.sin(centre)])


@pytest.mark.parametrize(
    ("problem", "start", "steps", "solve", "tolerance"),
    [
        (Rosenbrock(), [-1.2, 1.0], 25, scipy_solver, 1e-5),
        (Rosenbrock(), [-1.2, 1.0], 12, gradient_only, 1e-4),
        (Wood(), [-3.0, -1.0, -3.0, -1.0], 12, scipy_solver, 1e-5),
        (CoupledSaddle(), [0.5, 0.25], 6, gradient_only, 1e-4),
    ],
)
def test_path_of_a_transcription(problem, start, steps, solve, tolerance):
    places = []
    result = minimize(problem, TrustRegion(), start, steps=steps, callback=lambda _, p: places.append(np.array(p.x)))
    trace, wanted = result.trace, transcription(problem, np.array(start), steps, solve)
    for i, (x, radius, rho) in enumerate(wanted[: result.steps - 1]):
        np.testing.assert_allclose(places[i + 1], x, rtol=tolerance, atol=tolerance)
        assert trace["radius"][i] == pytest.approx(radius, rel=1e-6)
        assert trace["ratio"][i] == pytest.approx(rho, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("subproblem", SUBPROBLEMS)
@pytest.mark.parametrize(
    ("problem", "start", "minimum"),
    [
        (Rosenbrock(), [-1.2, 1.0], [1.0, 1.0]), (Rosenbrock(n=4), [-1.2, 1.0, -1.2, 1.0], None),
        (Wood(), [-3.0, -1.0, -3.0, -1.0], [1.0] * 4), (DoubleWell(), [0.1, 1.0], None),
    ],
)  # fmt: skip
def test_it_converges(subproblem, problem, start, minimum):
    result = minimize(problem, TrustRegion(subproblem=subproblem), start, steps=300, gradient_tolerance=1e-8)
    assert result.status == "converged"
    assert (np.linalg.eigvalsh(problem.at(result.x).hessian()) > 0).all()
    losses = result.trace["loss"]
    assert (np.diff(losses) <= 1e-12 * np.maximum(1, np.abs(losses[:-1]))).all()
    if minimum:
        np.testing.assert_allclose(result.x, minimum, rtol=0, atol=1e-8)


def test_newton_at_the_end():
    result = minimize(Rosenbrock(), TrustRegion(), [-1.2, 1.0], steps=100, gradient_tolerance=1e-12)
    x = result.x
    point = Rosenbrock().at(np.array([1.001, 1.002]))
    taken = TrustRegion().step(point, TrustRegion().init(x))
    np.testing.assert_allclose(taken.x, point.x - np.linalg.solve(point.hessian(), point.gradient), rtol=1e-12)
    assert taken.info.multiplier == 0.0


def test_hard_case_leaves_the_saddle():
    # On the axis of the horse saddle the gradient does not see the way down; the multiplier does.
    result = minimize(HorseSaddle(), TrustRegion(), [1.5, 0.0], steps=8)
    assert result.trace["loss"][-1] < -1e4
    step = TrustRegion(initial_radius=2.0).step(HorseSaddle().at(np.array([1.5, 0.0])), TrustRegion().init(np.ones(2)))
    assert step.info.multiplier > 0
    # At the saddle itself, where there is no gradient at all.
    at_rest = TrustRegion().step(HorseSaddle().at(np.zeros(2)), TrustRegion().init(np.zeros(2)))
    assert at_rest.info.accepted
    np.testing.assert_allclose(np.abs(at_rest.x), [0.0, 1.0], rtol=0, atol=1e-12)


def test_where_the_hessian_vanishes_nobody_sees_a_way():
    step = TrustRegion().step(MonkeySaddle().at(np.zeros(2)), TrustRegion().init(np.zeros(2)))
    assert step.x.tolist() == [0.0, 0.0]
    assert (step.info.accepted, step.info.ratio, step.state.radius) == (True, 1.0, 1.0)


@pytest.mark.parametrize("subproblem", SUBPROBLEMS)
def test_a_quadratic_takes_one_step(subproblem):
    problem = Quadratic.from_spectrum([4.0, 1.0, 0.25], seed=3)
    result = minimize(
        problem, TrustRegion(subproblem=subproblem, initial_radius=50.0), steps=3, gradient_tolerance=1e-9
    )
    assert result.steps == 1
    assert result.trace["ratio"][0] == pytest.approx(1.0, rel=1e-9)


def test_trial_that_is_not_finite_is_refused(monkeypatch):
    problem = Rosenbrock()
    method, x = TrustRegion(initial_radius=0.5), np.array([-1.2, 1.0])
    for beyond in (NAN, INF, -INF):
        point = problem.at(x)
        monkeypatch.setattr(point, "loss_at", lambda place, beyond=beyond: np.asarray(beyond))
        taken = method.step(point, method.init(x))
        np.testing.assert_array_equal(taken.x, x)
        assert not taken.info.accepted
        assert taken.info.ratio == -1.0
        assert taken.state.radius <= 0.25


def test_no_model_no_step():
    class Broken(Quadratic):
        def evaluation(self, x, sample):
            found = super().evaluation(x, sample)
            found.gradient = lambda: NAN * x
            return found

    problem = Broken(np.eye(2))
    taken = TrustRegion().step(problem.at(np.ones(2)), TrustRegion().init(np.ones(2)))
    assert taken.x.tolist() == [1.0, 1.0]
    assert taken.state.radius == 1.0
    assert not taken.info.accepted
    assert math.isnan(taken.info.ratio)


def test_counts_of_a_step():
    point = Wood().at(np.array([-3.0, -1.0, -3.0, -1.0]))
    TrustRegion().step(point, TrustRegion().init(point.x))
    assert point.counts == Counts(loss=1, gradient=1, hvp=4)


def test_x_stands_still_on_refusal_and_the_radius_shrinks():
    trace = minimize(Rosenbrock(), TrustRegion(initial_radius=4.0), [-1.2, 1.0], steps=20).trace
    refused = trace["accepted"][:-1] == 0
    assert refused.any()
    assert (trace["step_norm"][:-1][refused] == 0).all()
    assert (np.diff(trace["radius"][:-1])[refused[:-1]] < 0).all()


@pytest.mark.parametrize("subproblem", SUBPROBLEMS)
def test_every_backend_gives_the_same_run(subproblem, backend):
    method, start = TrustRegion(subproblem=subproblem), [-1.2, 1.0]
    found = minimize(Rosenbrock(backend=backend), method, start, steps=8)
    wanted = minimize(Rosenbrock(), method, start, steps=8)
    tolerance = 1e-9 if backend.dtype_name == "float64" else 5e-3
    np.testing.assert_allclose(to_numpy(found.x), wanted.x, rtol=tolerance)
    np.testing.assert_allclose(found.trace["radius"][:-1], wanted.trace["radius"][:-1], rtol=tolerance)
    assert found.trace["accepted"].tolist()[:-1] == wanted.trace["accepted"].tolist()[:-1]
    assert found.counts == wanted.counts


def test_float32_at_the_minimum_keeps_its_radius():
    problem = Rosenbrock(backend=get_backend("numpy", "float32"))
    result = minimize(problem, TrustRegion(), [-1.2, 1.0], steps=200)
    radii = result.trace["radius"][:-1]
    assert (radii >= 2.0**-23).all()
    assert result.trace["loss"][-1] < 1e-9


def test_one_problem_at_a_time():
    with pytest.raises(ValueError, match=r"TrustRegion runs one problem at a time: x must have shape \(n,\), got"):
        TrustRegion().init(np.zeros((3, 2)))
    point = Rosenbrock().at(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="one problem at a time"):
        TrustRegion().step(point, TrustRegion().init(np.zeros(2)))
