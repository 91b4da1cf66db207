"""Krylov Subspace Descent.

Oracles: the minimum over the subspace by Newton's method on the coordinates, with a basis from Householder QR;
quadratics, where one step is a projection; lists of products and gradients.
"""

import numpy as np
import pytest
from kryball_cases import network
from krylov_cases import krylov_basis

from refimpl import minimize
from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.optimizers.krylov_descent import KrylovSubspaceDescent
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic
from refimpl.problems.toy import HorseSaddle, Rosenbrock, Wood


def test_on_a_quadratic_a_step_is_the_projection_on_the_space():
    problem = Quadratic.from_spectrum(np.linspace(0.5, 4.0, 20).tolist(), seed=0)
    rng = np.random.default_rng(0)
    for m in (1, 3, 6):
        x, last = rng.standard_normal((2, 20))
        point = problem.at(x)
        taken = KrylovSubspaceDescent(m, inner_steps=50).step(point, last)
        h, g = point.hessian(), point.gradient
        basis = np.linalg.qr(np.c_[krylov_basis(h, g, m), last])[0]
        wanted = -basis @ np.linalg.solve(basis.T @ h @ basis, basis.T @ g)
        np.testing.assert_allclose(taken.x - x, wanted, rtol=0, atol=1e-6)
        np.testing.assert_allclose(taken.state, taken.x - x, rtol=0, atol=1e-15)
        assert taken.info.dimension == m + 1
        # The metric is the inverse Hessian of the subspace, so that BFGS is there after one step.
        assert taken.info.inner_steps <= 3


def lowest_in(problem, x, basis):
    """The loss at the minimum over x + span, by damped Newton steps on the coordinates."""
    a = np.zeros(basis.shape[1])
    for _ in range(60):
        point = problem.at(x + basis @ a)
        g, h = basis.T @ point.gradient, basis.T @ point.hessian() @ basis
        values, u = np.linalg.eigh(h)
        step, t = -u @ ((u.T @ g) / np.maximum(np.abs(values), 1e-10)), 1.0
        while float(problem.loss(x + basis @ (a + t * step))) > float(point.loss) and t > 1e-12:
            t *= 0.5
        a = a + t * step
    return float(problem.loss(x + basis @ a))


@pytest.mark.parametrize("m", [1, 2])
def test_it_finds_the_minimum_over_the_space(m):
    rng = np.random.default_rng(1)
    for x in ([-1.2, 1.0, 0.5, 0.2], [0.4, 0.3, 0.9, 1.0]):
        point, last = Wood().at(np.array(x)), rng.standard_normal(4)
        taken = KrylovSubspaceDescent(m, inner_steps=200).step(point, last)
        basis = np.linalg.qr(np.c_[krylov_basis(point.hessian(), point.gradient, m), last])[0]
        assert float(Wood().loss(taken.x)) <= lowest_in(Wood(), point.x, basis) + 1e-6
        outside = (taken.x - point.x) - basis @ (basis.T @ (taken.x - point.x))
        assert np.linalg.norm(outside) < 1e-9


@pytest.mark.parametrize(
    ("problem", "start"), [(Rosenbrock(), [-1.2, 1.0]), (Wood(), [-3.0, -1.0, -3.0, -1.0])], ids=["rosenbrock", "wood"]
)
@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
def test_it_converges_and_never_rises(problem, start, curvature):
    method = KrylovSubspaceDescent(3, curvature)
    result = minimize(problem, method, start, steps=60, gradient_tolerance=1e-4)
    assert result.status == "converged"
    np.testing.assert_allclose(result.x, 1.0, rtol=0, atol=1e-3)
    assert (np.diff(result.trace["loss"]) <= 0).all()


def test_it_leaves_a_saddle_downhill():
    method = KrylovSubspaceDescent(2)
    point = HorseSaddle().at(np.array([1.5, 0.1]))
    taken = method.step(point, method.init(point.x))
    assert float(HorseSaddle().loss(taken.x)) < float(point.loss)
    assert taken.info.smallest_ritz == pytest.approx(-2.0)


def test_products_and_gradients():
    problem = network()
    x = problem.initial(np.random.default_rng(2))
    method = KrylovSubspaceDescent(4)
    state = method.init(x)
    for step in range(3):
        point = problem.at(x)
        taken = method.step(point, state)
        assert point.counts.hvp == 4 + (step > 0)
        # The first evaluation of the search is at the place itself.
        assert point.counts.gradient == taken.info.evaluations
        assert point.counts.jvp == point.counts.vjp == 0
        x, state = taken.x, taken.state
    gauss = problem.at(x)
    taken = KrylovSubspaceDescent(4, "gauss-newton").step(gauss, np.ones_like(x))
    assert (gauss.counts.hvp, gauss.counts.jvp) == (0, 5)


def test_curvature_is_only_that_of_the_space():
    problem = LinearLeastSquares([[1.0, 2.0], [0.5, -1.0], [2.0, 0.0]], [1.0, -2.0, 0.5])
    x = np.array([0.3, -0.8])
    places = [KrylovSubspaceDescent(2, kind).step(problem.at(x), np.zeros(2)).x for kind in ("hessian", "gauss-newton")]
    np.testing.assert_allclose(places[0], places[1], rtol=1e-9)  # the outputs are linear


def test_nothing_to_do():
    method = KrylovSubspaceDescent()
    taken = method.step(Rosenbrock().at(np.ones(2)), method.init(np.ones(2)))
    assert taken.x.tolist() == [1.0, 1.0]
    assert taken.info.accepted
    point = Rosenbrock().at(np.ones(2))
    point._known["gradient"] = np.array([np.nan, 0.0])
    taken = method.step(point, method.init(np.ones(2)))
    assert taken.x.tolist() == [1.0, 1.0]
    assert not taken.info.accepted


def test_every_backend_gives_the_same_run(backend):
    method = KrylovSubspaceDescent(2, inner_steps=5)
    found = minimize(Rosenbrock(backend=backend), method, [-0.5, 0.5], steps=2)
    wanted = minimize(Rosenbrock(), method, [-0.5, 0.5], steps=2)
    tolerance = 1e-7 if backend.dtype_name == "float64" else 5e-2
    np.testing.assert_allclose(to_numpy(found.x), wanted.x, rtol=tolerance, atol=tolerance)
    assert (dtype_name(found.x.dtype), device_of(found.state)) == (backend.dtype_name, backend.device)


def test_one_problem_at_a_time():
    with pytest.raises(ValueError, match=r"KrylovSubspaceDescent runs one problem at a time: x must have shape \(n,\)"):
        KrylovSubspaceDescent().init(np.zeros((3, 2)))
