"""Quadratics and random matrices.

Oracles: NumPy written out for values, linear algebra for critical points, and known laws for random matrices.
"""

import numpy as np
import pytest

from refimpl.arrays import backend_of, get_backend, machine_epsilon, to_numpy
from refimpl.problems import LinearLeastSquares, Quadratic, gaussian_symmetric, random_orthogonal

H = np.asarray([[2.0, -1.0, 0.5], [-1.0, -3.0, 0.25], [0.5, 0.25, 1.0]])
C, B = np.asarray([1.0, -2.0, 0.5]), np.asarray([0.5, 0.0, -1.0])


def test_values_against_the_formula_written_out(backend):
    problem = Quadratic(H, C, B, backend=backend)
    rng = np.random.default_rng(0)
    x, v = rng.standard_normal((2, 3)).astype(backend.dtype_name)
    point = problem.at(backend.asarray(x))
    tolerance = 50 * machine_epsilon(point.x)
    step = np.float64(x) - C
    np.testing.assert_allclose(to_numpy(point.loss), step @ H @ step / 2 + B @ step, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(to_numpy(point.gradient), H @ step + B, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(to_numpy(point.hvp(backend.asarray(v))), H @ v, atol=tolerance, rtol=tolerance)
    np.testing.assert_allclose(to_numpy(point.hessian()), H, rtol=tolerance)


def test_the_gradient_vanishes_at_the_critical_point():
    saddle = Quadratic(H, C, B)
    assert saddle.minimizers == ()
    assert np.abs(saddle.at(np.asarray(saddle.saddles[0])).gradient).max() < 1e-14
    bowl = Quadratic(H @ H, C, B)
    assert bowl.saddles == ()
    assert np.abs(bowl.at(np.asarray(bowl.minimizers[0])).gradient).max() < 1e-14
    for flat in (np.diag([1.0, 0.0]), -np.eye(2)):
        assert Quadratic(flat).minimizers == Quadratic(flat).saddles == ()


def test_from_spectrum_has_the_spectrum_and_is_the_same_everywhere(backend):
    wanted = [3.0, -2.0, 0.5, 0.0, 1e-3]
    problem = Quadratic.from_spectrum(wanted, seed=4, backend=backend)
    values = np.linalg.eigvalsh(np.float64(to_numpy(problem.matrix)))
    np.testing.assert_allclose(values, sorted(wanted), atol=20 * machine_epsilon(problem.matrix))
    host = to_numpy(Quadratic.from_spectrum(wanted, seed=4).matrix)
    np.testing.assert_array_equal(to_numpy(problem.matrix), host.astype(backend.dtype_name))
    assert np.abs(host - Quadratic.from_spectrum(wanted, seed=5).matrix).max() > 0.1


def test_from_spectrum_is_not_diagonal():
    matrix = Quadratic.from_spectrum([1.0, 2.0, 3.0, 4.0], seed=0).matrix
    assert np.abs(matrix - np.diag(np.diag(matrix))).max() > 0.1


@pytest.mark.parametrize(("spectrum", "convex"), [([1.0, 2.0], True), ([0.0, 2.0], True), ([-1e-6, 2.0], False)])
def test_outputs_exist_exactly_where_the_loss_is_convex(spectrum, convex):
    problem = Quadratic.from_spectrum(spectrum, seed=1)
    assert problem.convex is convex
    assert problem.at(np.zeros(2)).has_outputs is convex


def test_the_backend_is_that_of_the_matrix_unless_given(backend):
    assert Quadratic(backend.eye(2)).backend == backend_of(backend.eye(2))
    assert LinearLeastSquares(backend.eye(2), [1.0, 2.0]).backend == backend_of(backend.eye(2))
    assert Quadratic(backend.eye(2), backend=get_backend()).matrix.dtype == np.float64


def test_a_quadratic_does_not_follow_later_changes_of_its_matrix():
    matrix = np.eye(2)
    problem = Quadratic(matrix)
    matrix[0, 0] = 100.0
    dense = problem.at(np.zeros(2)).hessian()
    dense[1, 1] = 100.0
    np.testing.assert_array_equal(problem.at(np.zeros(2)).hessian(), np.eye(2))


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        Quadratic([[1.0, 2.0], [0.0, 1.0]])
    with pytest.raises(ValueError, match="square"):
        Quadratic([1.0, 2.0])
    with pytest.raises(ValueError, match="finite"):
        Quadratic([[np.nan]])
    with pytest.raises(ValueError, match="center must be 2 finite numbers"):
        Quadratic(np.eye(2), [1.0])
    with pytest.raises(ValueError, match="linear must be 2 finite numbers"):
        Quadratic(np.eye(2), None, [1.0, np.inf])
    for eigenvalues in ([], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="eigenvalues must be"):
            Quadratic.from_spectrum(eigenvalues)
    with pytest.raises(ValueError, match="matrix must be finite"):
        LinearLeastSquares([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="targets must be 2 finite numbers"):
        LinearLeastSquares(np.eye(2), [1.0])


def test_least_squares_golden_values():
    # 60-digit values for |A x - y|^2 without a factor 1/2.
    a = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 0.0, 1.0], [-1.0, 1.5, 0.25]]
    point = LinearLeastSquares(a, [1.0, -2.0, 0.5, 3.0]).at(np.asarray([0.2, -0.4, 1.0]))
    np.testing.assert_allclose(point.outputs, [-1.6, 5.5, 0.9, -3.55], rtol=1e-14)
    assert point.loss == pytest.approx(46.2225, rel=1e-14)
    np.testing.assert_allclose(point.gradient, [13.0, -28.05, 33.025], rtol=1e-14)
    np.testing.assert_allclose(point.jvp(np.asarray([0.1, 0.3, -0.2])), [0.7, -0.85, 0.0, 0.3], atol=1e-15)


def test_least_squares_minimizer_solves_the_normal_equations():
    rng = np.random.default_rng(2)
    a, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
    (place,) = LinearLeastSquares(a, y).minimizers
    np.testing.assert_allclose(place, np.linalg.solve(a.T @ a, a.T @ y), rtol=1e-12)


def test_random_orthogonal_is_orthogonal_and_unbiased():
    draws = np.stack([random_orthogonal(3, seed) for seed in range(400)])
    np.testing.assert_allclose(draws @ np.swapaxes(draws, 1, 2), np.broadcast_to(np.eye(3), (400, 3, 3)), atol=1e-14)
    # Uniform on the group: entries have mean 0 and variance 1/3. A bare QR factor has negative diagonal entries.
    assert np.abs(draws.mean(axis=0)).max() < 4 / np.sqrt(3 * 400)
    np.testing.assert_allclose(draws.var(axis=0), 1 / 3, atol=0.08)


@pytest.mark.parametrize("diagonal_variance", [2.0, 1.0])
def test_gaussian_symmetric_has_the_right_entries(diagonal_variance):
    rng = np.random.default_rng(3)
    draws = np.stack([gaussian_symmetric(20, rng, diagonal_variance) for _ in range(400)])
    np.testing.assert_array_equal(draws, np.swapaxes(draws, 1, 2))
    diagonal = np.diagonal(draws, axis1=1, axis2=2)
    above = draws[:, *np.triu_indices(20, 1)]
    assert diagonal.var() == pytest.approx(diagonal_variance, rel=5 * np.sqrt(2 / diagonal.size))
    assert above.var() == pytest.approx(1.0, rel=5 * np.sqrt(2 / above.size))
    assert abs(above.mean()) < 5 / np.sqrt(above.size)


def test_gaussian_symmetric_fills_the_semicircle():
    n = 400
    values = np.linalg.eigvalsh(gaussian_symmetric(n, 0)) / np.sqrt(n)
    assert values[-1] == pytest.approx(2.0, abs=0.1)
    assert values[0] == pytest.approx(-2.0, abs=0.1)
    assert (np.abs(values) < 1).mean() == pytest.approx(np.sqrt(3) / (2 * np.pi) + 1 / 3, abs=0.03)


def test_gaussian_symmetric_of_the_series_paper():
    # The largest eigenvalue of H^2 is near 390 at n = 100: what makes V = 100 diverge.
    largest = [np.linalg.eigvalsh(gaussian_symmetric(100, seed, 1.0))[[0, -1]] for seed in range(20)]
    assert np.median(np.abs(largest).max(axis=1) ** 2) == pytest.approx(390, rel=0.05)


def test_gaussian_symmetric_is_the_same_everywhere(backend):
    ours = gaussian_symmetric(5, 7, 1.0, backend=backend)
    np.testing.assert_array_equal(to_numpy(ours), gaussian_symmetric(5, 7, 1.0).astype(backend.dtype_name))
    with pytest.raises(ValueError, match="diagonal_variance"):
        gaussian_symmetric(5, 7, -1.0)
    with pytest.raises(ValueError, match="n must be"):
        gaussian_symmetric(0, 7)
