"""KryBall for minibatches.

Oracles: the step written out with dense NumPy matrices and Householder QR, over whole runs; CurveBall, which its first
direction is; lists of products and losses.
"""

import numpy as np
import pytest
from krylov_cases import krylov_basis

from refimpl import get_backend, minimize
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers.stochastic_kryball import StochasticKryBall, StochasticKryBallState
from refimpl.oracle import Counts
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import HorseSaddle, Rosenbrock, Wood


def batches(seed=0, **options):
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((40, 3)), rng.integers(0, 3, 40)
    return MLP((3, 4, 3), *data, activation="tanh", loss=SoftmaxCrossEntropy(), initialization="torch", batch_size=10,
               **options)  # fmt: skip


def dense_step(problem, sample, x, z, radius, knobs):
    """z_next and the next radius, from a dense Hessian; ``knobs``: dimension, momentum, retries, maximum radius."""
    m, rho, retries, most = knobs
    point = problem.at(x, sample)
    h, g = point.hessian(), point.gradient
    base = float(problem.loss(x + rho * z, sample))
    s = g + rho * h @ z
    q = krylov_basis(h, s, m)
    values, u = np.linalg.eigh(q.T @ h @ q)
    absolute, slope = (u * np.abs(values)) @ u.T, q.T @ s
    for trial in range(retries + 1):
        found = trust_region_step(absolute, slope, radius)
        p = q @ found.step
        ratio = (float(problem.loss(x + rho * z + p, sample)) - base) / found.model
        if ratio < 0.25:
            radius = 0.5 * (radius if ratio > 0 else min(radius, np.linalg.norm(p)))
        elif ratio > 0.75 and np.linalg.norm(p) > 0.999 * radius:
            radius = min(2 * radius, most)
        if ratio > 0 or trial == retries:
            break
    return (rho * z + p if ratio > 0 else rho * z), radius


@pytest.mark.parametrize(
    ("problem", "start", "knobs", "first"),
    [
        (batches(), None, (3, 0.95, 1, 0.1), 0.1), (batches(1), None, (1, 0.5, 0, 2.0), 0.5),
        (batches(2), None, (5, 0.0, 3, 50.0), 20.0), (Rosenbrock(noise=3.0), [-1.2, 1.0], (2, 0.8, 2, 1.0), 1.0),
        (Wood(), [-3.0, -1.0, -3.0, -1.0], (3, 0.9, 1, 10.0), 3.0),
    ],
)  # fmt: skip
def test_runs_are_those_of_dense_matrices(problem, start, knobs, first):
    m, rho, retries, most = knobs
    method = StochasticKryBall(dimension=m, momentum=rho, retries=retries, initial_radius=first, maximum_radius=most)
    rng = np.random.default_rng(3)
    x = problem.initial(rng) if start is None else np.array(start)
    state, z, radius = method.init(x), np.zeros(problem.n), first
    refused = 0
    for _ in range(12):
        sample = problem.draw(rng)
        taken = method.step(problem.at(x, sample), state)
        z, radius = dense_step(problem, sample, x, z, radius, knobs)
        np.testing.assert_allclose(taken.x, x + z, rtol=0, atol=1e-7 * (1 + np.linalg.norm(z)))
        np.testing.assert_allclose(taken.state.momentum, taken.x - x, rtol=0, atol=1e-12)
        assert taken.state.radius == pytest.approx(radius, rel=1e-6)
        refused += taken.info.refused
        x, state, z, radius = taken.x, taken.state, taken.state.momentum, taken.state.radius
    if isinstance(problem, Wood | Rosenbrock):
        assert refused > 0


def test_seed_is_the_direction_of_curveball():
    # g + rho Hz: with one product and no bound q points along CurveBall's dz without damping.
    rng, problem = np.random.default_rng(4), batches()
    x, z = problem.initial(rng), 0.1 * rng.standard_normal(problem.n)
    point = problem.at(x, problem.draw(rng))
    method = StochasticKryBall(dimension=1, momentum=0.7, initial_radius=1e3, maximum_radius=1e3)
    taken = method.step(point, StochasticKryBallState(1e3, z))
    q = taken.x - x - 0.7 * z
    dz = point.gradient + 0.7 * point.hessian() @ z
    assert taken.info.accepted
    assert abs(q @ dz) == pytest.approx(np.linalg.norm(q) * np.linalg.norm(dz), rel=1e-10)
    assert q @ dz < 0


def test_ratio_is_that_of_q_alone():
    # On a convex quadratic |T| = T and the model at x + rho z is exact: the ratio is 1 wherever rho z leads.
    problem = Quadratic.from_spectrum([4.0, 2.0, 1.0, 0.5], seed=1)
    rng = np.random.default_rng(5)
    for m in (1, 2, 4):
        x, z = rng.standard_normal((2, 4))
        method = StochasticKryBall(dimension=m, momentum=0.9, initial_radius=0.3, maximum_radius=1.0)
        taken = method.step(problem.at(x), StochasticKryBallState(0.3, 10 * z))
        assert taken.info.ratio == pytest.approx(1.0, rel=1e-9)
        fall = float(problem.loss(taken.x)) - float(problem.loss(x + 9 * z))
        assert taken.info.predicted_change == pytest.approx(fall, rel=1e-9)
        np.testing.assert_allclose(taken.info.smallest_ritz >= 0.5 - 1e-9, True)


def test_negative_curvature_counts_with_its_magnitude():
    method = StochasticKryBall(dimension=2, momentum=0.0, initial_radius=100.0, maximum_radius=100.0)
    point = HorseSaddle().at(np.array([1.5, 1.5]))
    taken = method.step(point, method.init(point.x))
    np.testing.assert_allclose(taken.x, [0.0, 3.0], rtol=0, atol=1e-12)
    assert (taken.info.smallest_ritz, taken.info.largest_ritz) == pytest.approx((-2.0, 2.0))


@pytest.mark.parametrize("m", [1, 3])
def test_counts(m):
    problem = batches()
    x, rng = problem.initial(np.random.default_rng(6)), np.random.default_rng(7)
    method = StochasticKryBall(dimension=m)
    state = method.init(x)
    for step in range(3):
        point = problem.at(x, problem.draw(rng))
        taken = method.step(point, state)
        moving = int(step > 0)
        trials = taken.info.refused + taken.info.accepted
        assert point.counts == Counts(loss=moving + trials, gradient=1, hvp=m + moving)
        x, state = taken.x, taken.state


def test_refused_q_leaves_the_momentum():
    problem, rng = batches(), np.random.default_rng(8)
    x, z = problem.initial(rng), 0.01 * rng.standard_normal(problem.n)
    point, asked = problem.at(x, problem.draw(rng)), []
    honest = point.loss_at

    def trial(place):
        asked.append(place)
        return honest(place) if len(asked) == 1 else np.asarray(np.nan)

    point.loss_at = trial
    method = StochasticKryBall(dimension=2, momentum=0.9, retries=2)
    taken = method.step(point, StochasticKryBallState(0.1, z))
    assert len(asked) == 4
    np.testing.assert_allclose(taken.x, x + 0.9 * z, rtol=0, atol=1e-15)
    np.testing.assert_allclose(taken.state.momentum, 0.9 * z, rtol=0, atol=1e-15)
    assert (taken.info.accepted, taken.info.refused, taken.info.ratio) == (False, 3, -1.0)
    assert taken.state.radius <= 0.1 / 8


def test_place_of_the_momentum_that_is_not_finite_forgets_it():
    problem, rng = batches(), np.random.default_rng(9)
    x, z = problem.initial(rng), rng.standard_normal(problem.n)
    point = problem.at(x, problem.draw(rng))
    point.loss_at = lambda place: np.asarray(np.inf)
    method = StochasticKryBall()
    taken = method.step(point, StochasticKryBallState(0.1, z))
    np.testing.assert_array_equal(taken.x, x)
    assert not taken.state.momentum.any()
    assert not taken.info.accepted


def test_no_gradient():
    bowl, method = Quadratic.from_spectrum([2.0, 1.0], seed=0), StochasticKryBall(momentum=0.5)
    taken = method.step(bowl.at(np.zeros(2)), method.init(np.zeros(2)))
    assert taken.x.tolist() == [0.0, 0.0]
    assert taken.state.radius == 0.1


@pytest.mark.parametrize("m", [1, 3])
def test_every_backend_gives_the_same_run(m, backend):
    method = StochasticKryBall(dimension=m, momentum=0.8, initial_radius=0.5, maximum_radius=2.0)
    found = minimize(Wood(backend=backend), method, [-3.0, -1.0, -3.0, -1.0], steps=5)
    wanted = minimize(Wood(), method, [-3.0, -1.0, -3.0, -1.0], steps=5)
    tolerance = 1e-9 if backend.dtype_name == "float64" else 2e-3
    np.testing.assert_allclose(to_numpy(found.x), wanted.x, rtol=tolerance, atol=tolerance)
    assert found.counts == wanted.counts
    momentum = found.state.momentum
    assert (dtype_name(momentum.dtype), device_of(momentum)) == (backend.dtype_name, backend.device)


def test_it_trains():
    rng = np.random.default_rng(10)
    inputs = rng.standard_normal((60, 3))
    problem = MLP((3, 6, 3), inputs, np.argmax(inputs, axis=1), activation="tanh", loss=SoftmaxCrossEntropy(),
                  initialization="torch", batch_size=15, backend=get_backend("numpy", "float32"))  # fmt: skip
    result = minimize(problem, StochasticKryBall(), steps=100)
    assert float(problem.loss(problem.initial(rng))) > 0.9
    assert float(problem.loss(result.x)) < 0.1


def test_one_problem_at_a_time():
    with pytest.raises(ValueError, match=r"StochasticKryBall runs one problem at a time: x must have shape \(n,\)"):
        StochasticKryBall().init(np.zeros((3, 2)))
