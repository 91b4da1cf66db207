"""Adaptive regularization with cubics, and the rule for its weight.

Oracles: a table of ratios judged by hand; a plain transcription whose subproblem is solved by halving intervals; least
values known in closed form; a large hard case, solved exactly through its eigenvalues.
"""

import math

import numpy as np
import pytest

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.curvature.cubic import cubic_step
from refimpl.optimizers.arc import ARC, ARCState
from refimpl.optimizers.weight import WeightRule
from refimpl.oracle import Counts
from refimpl.problems.cubic_beds import RandomSines, SeparableCubic
from refimpl.problems.quadratic import Quadratic, random_orthogonal
from refimpl.problems.quartics import BentWell, TripleWell, Well
from refimpl.problems.toy import CoupledSaddle, DoubleWell, HorseSaddle, MonkeySaddle, Rosenbrock

NAN, INF, EPS = float("nan"), float("inf"), 2.0**-52


# -- the weight -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "trial", "predicted", "accepted", "weight", "ratio"),
    [
        # weight = 2; eta_1 = 0.125, eta_2 = 0.875
        pytest.param(5.0, 4.0, -1.0, True, 1.0, 1.0, id="very good"),
        pytest.param(5.0, 4.125, -1.0, True, 1.0, 0.875, id="exactly eta_2 relaxes"),
        pytest.param(5.0, 4.25, -1.0, True, 2.0, 0.75, id="good"),
        pytest.param(5.0, 4.875, -1.0, True, 2.0, 0.125, id="exactly eta_1 is taken"),
        pytest.param(5.0, 4.9375, -1.0, False, 4.0, 0.0625, id="poor"),
        pytest.param(5.0, 6.0, -1.0, False, 4.0, -1.0, id="rises"),
        pytest.param(5.0, 2.0, -1.0, True, 1.0, 3.0, id="better than promised"),
        pytest.param(5.0, NAN, -1.0, False, 4.0, -1.0, id="trial not a number"),
        pytest.param(5.0, INF, -1.0, False, 4.0, -1.0, id="trial infinite"),
        pytest.param(5.0, -INF, -1.0, False, 4.0, -1.0, id="trial minus infinity"),
        pytest.param(5.0, 4.0, 0.5, False, 4.0, -1.0, id="the model predicts a rise"),
        pytest.param(5.0, 4.0, 0.0, False, 4.0, -1.0, id="the model predicts nothing, the loss falls"),
        pytest.param(5.0, 4.0, NAN, False, 4.0, -1.0, id="no prediction"),
        pytest.param(5.0, 5.0, 0.0, True, 2.0, 1.0, id="nothing happens"),
        pytest.param(5.0, 5.0 + 40 * EPS, -40 * EPS, True, 2.0, 1.0, id="noise: both below 10 eps |f|"),
        pytest.param(5.0, 5.0 + 40 * EPS, -60 * EPS, False, 4.0, -2 / 3, id="prediction above noise"),
        pytest.param(5.0, 5.0 + 60 * EPS, -40 * EPS, False, 4.0, -1.5, id="change above noise"),
        pytest.param(0.0, 8 * EPS, -8 * EPS, True, 2.0, 1.0, id="noise is at least 10 eps"),
    ],
)
def test_table_of_ratios(loss, trial, predicted, accepted, weight, ratio):
    found = WeightRule(accept_above=0.125, relax_above=0.875).judged(np.zeros(3), loss, trial, predicted, 2.0)
    assert (found.accepted, found.weight) == (accepted, weight)
    assert found.ratio == pytest.approx(ratio, rel=1e-12)


def test_knobs_of_the_weight():
    x = np.zeros(2)
    assert WeightRule(factor=3.0).judged(x, 5.0, 6.0, -1.0, 2.0).weight == 6.0
    assert WeightRule(factor=4.0).judged(x, 5.0, 4.0, -1.0, 2.0).weight == 0.5
    assert WeightRule(minimum_weight=1.5).judged(x, 5.0, 4.0, -1.0, 2.0).weight == 1.5
    assert WeightRule().judged(x, 5.0, 4.0, -1.0, 1.5e-16).weight == 1e-16
    # Where the model is pessimistic by more, steps are better than promised: a bound above 1 makes use of it.
    assert WeightRule(relax_above=1.5).judged(x, 5.0, 4.0, -1.0, 2.0).weight == 2.0
    change = 5 * 2.0**-23
    assert WeightRule().judged(x.astype(np.float32), 1.0, 1.0 + change, -change, 2.0).accepted
    assert not WeightRule().judged(x, 1.0, 1.0 + change, -change, 2.0).accepted
    assert not WeightRule(noise=0.0).judged(x.astype(np.float32), 1.0, 1.0 + change, -change, 2.0).accepted
    assert not WeightRule(noise=0.0).judged(x, 1.0, 1.0, 0.0, 2.0).accepted


# -- the method -------------------------------------------------------------------------------------------------------


def halving(h, g, sigma):
    """The subproblem with a slope along the lowest eigenvector: (H + nu I) s = -g, nu = sigma|s|, by halving."""
    identity, lowest = np.eye(len(g)), np.linalg.eigvalsh(h)[0]
    low = max(0.0, -lowest)
    high = low + np.sqrt(sigma * np.linalg.norm(g)) + 1e-12
    while sigma * np.linalg.norm(np.linalg.solve(h + high * identity, g)) > high:
        high *= 2
    for _ in range(200):
        nu = 0.5 * (low + high)
        s = -np.linalg.solve(h + nu * identity, g)
        low, high = (nu, high) if sigma * np.linalg.norm(s) > nu else (low, nu)
    return s


def transcription(problem, x, steps, sigma=1.0):
    """Places, sigmas and ratios of algorithm 2.1 of Cartis, Gould and Toint."""
    seen = []
    for _ in range(steps):
        point = problem.at(x)
        g, h = point.gradient, point.hessian()
        s = halving(h, g, sigma)
        model = g @ s + 0.5 * s @ h @ s + sigma / 3 * np.linalg.norm(s) ** 3
        rho = (float(point.loss) - float(problem.loss(x + s))) / -model
        used = sigma
        sigma = 2 * sigma if rho < 0.1 else sigma / 2 if rho >= 0.9 else sigma
        x = x + s if rho >= 0.1 else x
        seen.append((x, used, rho))
    return seen


@pytest.mark.parametrize(
    ("problem", "start", "steps"),
    [
        (Rosenbrock(), [-1.2, 1.0], 25),
        (CoupledSaddle(), [0.5, 0.25], 6),
        (TripleWell(), [0.3, 0.1], 5),
        (BentWell(), [0.4, -1.0], 4),
        (RandomSines.random(5, seed=3), [0.1, -0.2, 0.3, 1.0, 0.5], 10),
    ],
)
def test_path_of_a_transcription(problem, start, steps):
    places = []
    result = minimize(problem, ARC(), start, steps=steps, callback=lambda _, p: places.append(np.array(p.x)))
    wanted = transcription(problem, np.array(start), steps)
    assert result.trace["sigma"][:-1].tolist() == [used for _, used, _ in wanted]
    for k, (x, _, rho) in enumerate(wanted):
        np.testing.assert_allclose([*places, result.x][k + 1], x, rtol=0, atol=1e-7 * (1 + np.linalg.norm(x)))
        assert result.trace["ratio"][k] == pytest.approx(rho, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "start", "most"),
    [
        (Well, [1e-3, 1.0], 4), (Well, [0.0, 0.0], 1), (Well, [0.4, -1.0], 4), (TripleWell, [0.01, 0.02], 8),
        (TripleWell, [0.3, 0.1], 6), (BentWell, [1e-3, 1.0], 6), (BentWell, [0.0, 0.0], 5), (BentWell, [0.4, -1.0], 5),
    ],
)  # fmt: skip
def test_away_from_saddles_of_the_plane(make, start, most):
    problem = make()
    result = minimize(
        problem, ARC(), start, steps=most, gradient_tolerance=None, loss_target=problem.least_value + 1e-8
    )
    assert result.status == "converged"
    if start == [0.0, 0.0]:
        assert ARC().step(problem.at(np.zeros(2)), ARCState(1.0, 0)).info.kind == "hard"


def test_no_second_order_method_leaves_the_triple_well():
    taken = ARC().step(TripleWell().at(np.zeros(2)), ARCState(1.0, 0))
    assert taken.info.kind == "zero"
    assert taken.x.tolist() == [0.0, 0.0]
    assert taken.state == ARCState(1.0, 1)


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_beds_take_longer_the_wider_the_constants_are_spread(spread):
    bed = SeparableCubic.balanced(50, spread, seed=1)
    x = bed.initial(np.random.default_rng(1))
    target = bed.least_value + 1e-8 * (float(bed.loss(x)) - bed.least_value)
    result = minimize(bed, ARC(), x, steps=40, gradient_tolerance=None, loss_target=target)
    assert result.status == "converged"
    assert (len(result.trace) - 1 <= 11) == (spread == 0)


def test_the_weight_is_bounded_by_the_lipschitz_constant():
    # Above L_H/2 the model is an upper bound: every step is taken, so sigma never exceeds factor L_H/2.
    for seed in range(5):
        f = RandomSines.random(6, terms=3, seed=seed)
        result = minimize(f, ARC(initial_sigma=1e-3), steps=40, seed=seed)
        sigmas = result.trace["sigma"][:-1]
        assert sigmas.max() <= 2 * f.lipschitz / 2
        taken = result.trace["accepted"][:-1].astype(bool)
        assert taken[sigmas >= f.lipschitz / 2].all()
        assert (np.diff(result.trace["loss"]) <= 1e-13).all()


def test_refused_step_stays_and_doubles():
    problem, x = DoubleWell(), np.array([0.1, 0.0])
    taken = ARC(initial_sigma=1e-3).step(problem.at(x), ARCState(1e-3, 7))
    assert not taken.info.accepted
    assert taken.x.tolist() == x.tolist()
    assert taken.state == ARCState(2e-3, 8)
    assert taken.info.sigma == 1e-3
    assert taken.info.predicted_change < 0


def test_noise_floor_ends_the_refusals():
    # Beyond convergence the ratio is that of two rounding errors.
    f = RandomSines.random(4, seed=8)
    options = {"steps": 300, "gradient_tolerance": None, "seed": 2}
    quiet, noisy = minimize(f, ARC(), **options), minimize(f, ARC(noise=0.0), **options)
    for result in (quiet, noisy):
        assert float(np.linalg.norm(f.at(result.x).gradient)) < 1e-6
    assert quiet.trace["accepted"][20:-1].all()
    assert (quiet.trace["sigma"][-200:-1] == quiet.trace["sigma"][-2]).all()
    assert (noisy.trace["accepted"][:-1] == 0).sum() > 50


# -- in a Krylov space ------------------------------------------------------------------------------------------------


def hard_case(n=40, seed=0):
    """A quadratic whose gradient has no part along its lowest eigenvector, and that vector."""
    rng = np.random.default_rng(seed)
    q = random_orthogonal(n, rng)
    values = np.concatenate([[-4.0], np.linspace(-1.0, 6.0, n - 1)])
    weights = np.concatenate([[0.0], rng.standard_normal(n - 1)])
    return Quadratic((q * values) @ q.T, linear=q @ weights), q[:, 0]


def test_krylov_space_of_the_gradient_never_sees_a_hard_case():
    problem, lowest = hard_case()
    point = problem.at(np.zeros(40))
    exact = cubic_step(point.hessian(), point.gradient, 0.05)
    assert exact.kind == "hard"
    steps = {}
    for search in (0, 15):
        method = ARC(initial_sigma=0.05, dimension=12, search=search)
        steps[search] = method.step(problem.at(np.zeros(40)), method.init(np.zeros(40)))
    blind, seeing = steps[0], steps[15]
    assert abs(blind.x @ lowest) < 1e-8 * np.linalg.norm(blind.x)
    assert blind.info.predicted_change > 0.2 * exact.model
    assert seeing.info.predicted_change < 0.95 * exact.model
    assert seeing.info.predicted_change >= exact.model * (1 + 1e-12)
    assert abs(seeing.x @ lowest) > 0.8 * np.linalg.norm(seeing.x)


def test_whole_space_is_the_dense_method():
    f = RandomSines.random(5, terms=6, seed=5)
    x = [0.3, -0.2, 0.5, 0.1, 1.0]
    dense, krylov = (minimize(f, ARC(dimension=d), x, steps=8) for d in (None, 5))
    np.testing.assert_allclose(krylov.x, dense.x, rtol=0, atol=1e-7)
    np.testing.assert_allclose(krylov.trace["sigma"], dense.trace["sigma"])


def test_a_larger_space_has_a_lower_model():
    f = RandomSines.random(20, terms=30, seed=6)
    point = f.at(np.random.default_rng(0).standard_normal(20))
    changes = [ARC(dimension=d).step(f.at(point.x), ARCState(1.0, 0)).info.predicted_change for d in (1, 2, 4, 8, 20)]
    changes.append(ARC().step(f.at(point.x), ARCState(1.0, 0)).info.predicted_change)
    assert (np.diff(changes) <= 1e-12 * abs(changes[-1])).all()
    assert changes[-2] == pytest.approx(changes[-1], rel=1e-9)
    # In one dimension it is the cubic model along the gradient, solved by ELMO's formula in reverse.
    g = np.asarray(point.gradient)
    length, bend = np.linalg.norm(g), g @ np.asarray(point.hvp(point.gradient)) / (g @ g)
    t = (math.sqrt(bend**2 + 4 * length) - bend) / 2
    assert changes[0] == pytest.approx(-length * t + bend * t * t / 2 + t**3 / 3, rel=1e-10)


def test_saddle_is_left_with_a_search_and_not_without():
    saddle = HorseSaddle()
    blind = ARC(dimension=2)
    taken = blind.step(saddle.at(np.zeros(2)), blind.init(np.zeros(2)))
    assert (taken.info.kind, taken.x.tolist()) == ("zero", [0.0, 0.0])
    seeing = ARC(dimension=2, search=2)
    taken = seeing.step(saddle.at(np.zeros(2)), seeing.init(np.zeros(2)))
    np.testing.assert_allclose(np.abs(taken.x), [0.0, 2.0], atol=1e-7)
    assert taken.info.accepted


def test_seed_and_iteration_decide_the_random_vectors():
    problem, _ = hard_case(seed=1)
    method = ARC(dimension=4, search=3)
    point = problem.at(np.zeros(40))
    first = method.step(point, ARCState(1.0, 0)).x
    np.testing.assert_array_equal(method.step(point, ARCState(1.0, 0)).x, first)
    assert np.linalg.norm(method.step(point, ARCState(1.0, 1)).x - first) > 1e-3
    assert np.linalg.norm(ARC(dimension=4, search=3, seed=1).step(point, ARCState(1.0, 0)).x - first) > 1e-3


@pytest.mark.parametrize(
    ("method", "products"), [(ARC(), 20), (ARC(dimension=6), 6), (ARC(dimension=6, search=4), 6 + 4 + 1)], ids=str
)
def test_cost(method, products):
    f = RandomSines.random(20, terms=30, seed=7)
    point = f.at(np.full(20, 0.1))
    method.step(point, method.init(point.x))
    assert point.counts == Counts(loss=1, gradient=1, hvp=products)


def test_cost_without_a_gradient():
    problem = Quadratic.from_spectrum([-1.0, 2.0, 3.0, 4.0], seed=1)
    point = problem.at(np.zeros(4))
    ARC(dimension=2).step(point, ARCState(1.0, 0))
    assert point.counts == Counts(gradient=1)


# -- edges ------------------------------------------------------------------------------------------------------------


def test_float32_run_ends_where_float64_does():
    problem = BentWell(backend=get_backend("numpy", "float32"))
    result = minimize(problem, ARC(), [0.4, -1.0], steps=30)
    assert result.x.dtype == np.float32
    np.testing.assert_allclose(to_numpy(result.x), [2**0.5, -1.0], atol=1e-3)
    assert result.trace["accepted"][10:-1].all()


@pytest.mark.parametrize("method", [ARC(), ARC(dimension=2), ARC(dimension=2, search=1)], ids=str)
def test_a_place_that_is_not_finite_is_left_alone(method):
    x = np.array([1e200, 1.0])
    with np.errstate(all="ignore"):
        taken = method.step(BentWell().at(x), ARCState(2.0, 3))
    assert taken.x.tolist() == x.tolist()
    assert not taken.info.accepted
    assert taken.state == ARCState(2.0, 4)


def test_trial_that_is_not_finite_is_refused():
    x = np.array([-1.0, 0.1])
    with np.errstate(all="ignore"):
        taken = ARC().step(MonkeySaddle().at(x), ARCState(1e-300, 0))
    assert (taken.info.accepted, taken.info.ratio) == (False, -1.0)
    assert taken.x.tolist() == x.tolist()
    assert taken.state.sigma == 2e-300
