"""KryBall: whole runs.

Oracles: minima known in closed form; CG on quadratics (SciPy's); the horse saddle, which a Krylov space of the gradient
cannot leave; the run on NumPy; a dense search for the dimension at which the model's minimum stops falling.
"""

import dataclasses

import numpy as np
import pytest
import scipy.sparse.linalg
from kryball_cases import network

from refimpl import get_backend, minimize
from refimpl.arrays import to_numpy
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import CoupledSaddle, DegenerateSaddle, DoubleWell, HorseSaddle, Rosenbrock, Wood

VARIANTS = {
    "default": KryBall(),
    "three": KryBall(dimension=3, gain=0.0, directions="three"),
    "printed": KryBall.published(refresh=1),
    "published": KryBall.published(),
    "reuse": KryBall(dimension=3, refresh=3),
    "drop": KryBall(dimension=3, refresh=3, stale="drop"),
    "alone": KryBall(dimension=3, momentum="none"),
}


def walk(problem, method, x, steps):
    """The points of a run, which goes on at critical points, where ``minimize`` stops."""
    point, state = problem.at(np.asarray(x, dtype=float)), method.init(np.asarray(x, dtype=float))
    points = [point]
    for _ in range(steps):
        taken = method.step(point, state)
        point, state = problem.at(taken.x), taken.state
        points.append(point)
    return points


EACH = pytest.mark.parametrize("method", VARIANTS.values(), ids=VARIANTS)


@EACH
@pytest.mark.parametrize(
    ("problem", "start"),
    [(Rosenbrock(), [-1.2, 1.0]), (Wood(), [-3.0, -1.0, -3.0, -1.0]), (DoubleWell(n=3), [0.2, 1.0, -0.5])],
    ids=["rosenbrock", "wood", "double-well"],
)
def test_it_converges_and_never_rises(method, problem, start):
    result = minimize(problem, method, start, steps=1000, gradient_tolerance=1e-7)
    assert result.status == "converged", result
    assert (np.linalg.eigvalsh(problem.at(result.x).hessian()) > 0).all()
    losses = result.trace["loss"]
    assert (np.diff(losses) <= 1e-14 * np.maximum(1, np.abs(losses[:-1]))).all()


@pytest.mark.parametrize("start", [[-1.2, 1.0], [0.5, 2.0], [-2.0, -1.5]])
def test_in_two_dimensions_it_is_the_exact_trust_region_method(start):
    # Two directions are all there are, from a Krylov space or from the gradient and the last step.
    method = KryBall(retries=0, gain=0.0, dimension=2)
    found, wanted = (minimize(Rosenbrock(), each, start, steps=12) for each in (method, TrustRegion()))
    np.testing.assert_allclose(found.trace["loss"], wanted.trace["loss"], rtol=1e-6)
    np.testing.assert_allclose(found.x, wanted.x, rtol=1e-6)


@pytest.mark.parametrize("m", [1, 2])
def test_each_decrease_is_at_least_that_of_cg_from_the_same_place(m):
    # With an inactive radius: the plane of g and the last step holds the CG step.
    problem = Quadratic.from_spectrum(np.logspace(-2, 1, 25).tolist(), seed=1)
    x = 3.0 * np.random.default_rng(m).standard_normal(25)
    method = KryBall(dimension=m, gain=0.0, initial_radius=1e4, maximum_radius=1e4)
    places = [point.x for point in walk(problem, method, x, 25)]
    losses = [float(problem.loss(place)) for place in places]
    h = problem.at(x).hessian()
    for before, at, after in zip(places, places[1:], places[2:], strict=False):
        g = problem.at(at).gradient
        plane = np.linalg.qr(np.stack([g, at - before], axis=1))[0]
        best = at - plane @ np.linalg.solve(plane.T @ h @ plane, plane.T @ g)
        assert float(problem.loss(after)) <= float(problem.loss(best)) + 1e-12 * losses[0]
    if m == 1:  # and it is CG itself
        cg = [losses[0]]
        g = problem.at(x).gradient
        scipy.sparse.linalg.cg(h, -g, rtol=1e-13, maxiter=24, callback=lambda d: cg.append(float(problem.loss(x + d))))
        np.testing.assert_allclose(losses[:13], cg[:13], rtol=1e-6)


def test_momentum_is_worth_many_steps():
    problem = Quadratic.from_spectrum(np.logspace(-2, 2, 40).tolist(), seed=2)
    knobs = {"dimension": 2, "gain": 0.0, "initial_radius": 100.0}
    start = np.ones(40)
    with_step, without = (
        minimize(problem, KryBall(**knobs, momentum=kind), start, steps=400, gradient_tolerance=1e-4).steps
        for kind in ("step", "none")
    )
    assert with_step < 0.5 * without


# -- saddles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", ["space", "three"])
def test_it_leaves_the_stable_manifold_of_a_saddle(directions):
    # Every Krylov vector of this gradient has y = 0; the loss falls without end along y.
    blind = KryBall(directions=directions, escape_below=0.0)
    np.testing.assert_allclose(walk(HorseSaddle(), blind, [1.5, 0.0], 20)[-1].x, [0.0, 0.0], rtol=0, atol=1e-12)
    found = walk(HorseSaddle(), KryBall(directions=directions), [1.5, 0.0], 12)
    assert float(found[-1].loss) < -100.0
    # Where the gradient holds a trace of y, there is nothing to add.
    assert float(walk(HorseSaddle(), blind, [1.5, 1e-12], 40)[-1].loss) < -100.0


@pytest.mark.parametrize(("problem", "n"), [(CoupledSaddle(), 2), (DoubleWell(n=6), 6)])
def test_it_leaves_the_saddle_itself(problem, n):
    method, centre = KryBall(dimension=4), np.zeros(n)
    assert method.step(problem.at(centre), method.init(centre)).info.escape
    found = walk(problem, method, centre, 30)
    assert float(found[-1].loss) < float(found[0].loss) - 0.1
    # The same seed, the same way.
    np.testing.assert_array_equal(walk(problem, method, centre, 30)[-1].x, found[-1].x)


def test_escape_costs_products_only_where_the_gradient_vanishes():
    saddle, method = DoubleWell(n=6), KryBall(dimension=4)
    point = saddle.at(np.zeros(6))
    taken = method.step(point, method.init(point.x))
    assert taken.info.escape
    assert point.counts.hvp <= 4 + 2
    point = saddle.at(np.full(6, 0.1))
    blind = dataclasses.replace(method, escape_below=0.0)
    assert method.step(point, method.init(point.x)).info == blind.step(point, method.init(point.x)).info


def test_no_escape_where_there_is_no_negative_curvature():
    bowl = Quadratic.from_spectrum([3.0, 2.0, 1.0, 0.0], seed=0)
    method, centre = KryBall(), np.zeros(4)
    taken = method.step(bowl.at(centre), method.init(centre))
    assert not taken.info.escape
    np.testing.assert_array_equal(taken.x, centre)
    flat = DegenerateSaddle()
    taken = method.step(flat.at(np.zeros(2)), method.init(np.zeros(2)))
    np.testing.assert_array_equal(taken.x, [0.0, 0.0])


# -- the dimension ----------------------------------------------------------------------------------------------------


def dense_dimension(h, g, radius, gain, most):
    """The first m whose model minimum is lower than that of m - 1 by at most the share ``gain``."""
    basis, before, v = np.empty((len(g), 0)), 0.0, g
    for m in range(1, most + 1):
        basis = np.linalg.qr(np.c_[basis, v / np.linalg.norm(v)])[0]
        v = h @ basis[:, -1]
        lowest = trust_region_step(basis.T @ h @ basis, basis.T @ g, radius).model
        if m > 1 and before - lowest <= gain * -lowest:
            return m
        before = lowest
    return most


@pytest.mark.parametrize("gain", [0.02, 0.2, 0.9])
@pytest.mark.parametrize("radius", [0.01, 1.0, 50.0])
def test_the_dimension_grows_until_a_product_gains_little(gain, radius):
    problem = Quadratic.from_spectrum(np.linspace(-1.0, 5.0, 30).tolist(), seed=4)
    for seed in range(5):
        point = problem.at(np.random.default_rng(seed).standard_normal(30))
        method = KryBall(dimension=12, gain=gain, momentum="none", initial_radius=radius)
        taken = method.step(point, method.init(point.x))
        assert point.counts.hvp == dense_dimension(point.hessian(), point.gradient, radius, gain, 12)
        assert taken.info.dimension == len(taken.state.matrix)


def test_less_gain_more_products():
    problem = Quadratic.from_spectrum(np.logspace(-4, 1, 40).tolist(), seed=0)
    counts = []
    for gain in (0.5, 0.02, 1e-4, 1e-8):
        point = problem.at(np.random.default_rng(0).standard_normal(40))
        method = KryBall(gain=gain, initial_radius=100.0)
        method.step(point, method.init(point.x))
        counts.append(point.counts.hvp)
    assert counts == sorted(set(counts))
    assert counts[-1] <= 20


def test_without_gain_all_products_are_spent_but_those_of_an_exhausted_space():
    problem = Quadratic.from_spectrum([1.0] * 10 + [4.0] * 10, seed=5)
    point = problem.at(np.random.default_rng(6).standard_normal(20))
    method = KryBall(dimension=8, gain=1e-9, momentum="none", initial_radius=10.0)
    taken = method.step(point, method.init(point.x))
    assert taken.info.dimension == 2
    assert point.counts.hvp <= 3


# -- numbers ----------------------------------------------------------------------------------------------------------


@EACH
def test_every_backend_gives_the_same_run(method, backend):
    found = minimize(Wood(backend=backend), method, [-3.0, -1.0, -3.0, -1.0], steps=4)
    wanted = minimize(Wood(), method, [-3.0, -1.0, -3.0, -1.0], steps=4)
    tolerance = 1e-9 if backend.dtype_name == "float64" else 2e-3
    np.testing.assert_allclose(to_numpy(found.x), wanted.x, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(found.trace["loss"], wanted.trace["loss"], rtol=tolerance, atol=tolerance)
    if backend.dtype_name == "float64":
        assert found.counts == wanted.counts


@pytest.mark.parametrize("method", [KryBall(), KryBall(directions="three", gain=0.0, dimension=5)], ids=["space", "3"])
def test_float32_at_the_end_keeps_its_radius_and_stands_still(method):
    problem = Wood(backend=get_backend("numpy", "float32"))
    result = minimize(problem, method, [-3.0, -1.0, -3.0, -1.0], steps=400)
    trace = result.trace
    assert trace["loss"][-1] < 1e-9
    assert (trace["radius"][:-1] >= 2.0**-23).all()
    assert np.isfinite(trace["radius"][:-1]).all()
    assert np.isfinite(result.x).all()


def test_a_float32_network_does_not_refuse_for_ever():
    # Without the rule for noise the radius falls to nothing when the loss no longer resolves the steps.
    from refimpl.problems.losses import HalfMeanSquaredError
    from refimpl.problems.mlp import MLP

    rng = np.random.default_rng(7)
    inputs = rng.standard_normal((8, 3))
    problem = MLP((3, 10, 1), inputs, np.sin(inputs.sum(axis=1)) + 3.0, activation="tanh", loss=HalfMeanSquaredError(),
                  initialization="torch", backend=get_backend("numpy", "float32"))  # fmt: skip
    trace = minimize(problem, KryBall(), steps=250).trace
    assert trace["loss"][-1] < 1e-8
    assert np.mean(trace["accepted"][-100:-1]) > 0.9


def test_ten_steps_of_a_network_from_any_seed():
    problem = network()
    for seed in range(10):
        result = minimize(problem, KryBall(), seed=seed, steps=10)
        assert result.trace["loss"][-1] < 0.5 * result.trace["loss"][0]
