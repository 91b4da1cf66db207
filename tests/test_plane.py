"""The minimizer of a quadratic model in a plane.

Oracles: least squares over the two directions themselves (NumPy's ``lstsq`` on a factor of the model matrix, which
forms no 2 × 2 system), NumPy's ``eigh`` and ``solve`` of the matrix divided by its diagonal, and values by hand.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.plane import plane_minimizer

SEEDS = st.integers(0, 2**32 - 1)


def entries(model, gradient, d1, d2):
    """The five numbers for the model -g·s + s·Ms/2 of s = t1 d1 + t2 d2."""
    return d1 @ model @ d1, d1 @ model @ d2, d2 @ model @ d2, gradient @ d1, gradient @ d2


def minimize(*numbers, dtype=float):
    return [float(t) for t in plane_minimizer(*np.asarray(numbers, dtype=dtype))]


def best_step(model, gradient, d1, d2):
    """The shortest step to the minimum of the model over the span: s·Ms/2 - g·s = |L^T s - L^{-1} g|^2/2 - const."""
    factor = np.linalg.cholesky(model)
    directions = np.stack([d1, d2], axis=-1)
    directions = directions / np.maximum(np.linalg.norm(directions, axis=0), 1e-300)
    return directions @ np.linalg.lstsq(factor.T @ directions, np.linalg.solve(factor, gradient), rcond=1e-12)[0]


def draw(seed, n=6):
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((n, n))
    return a @ a.T / n + 0.1 * np.eye(n), *rng.standard_normal((3, n)), rng


@given(seed=SEEDS, size=st.sampled_from([1e-6, 1.0, 1e6]))
@settings(max_examples=100, deadline=None)
def test_best_step_in_the_span(seed, size):
    model, g, d1, d2, _ = draw(seed)
    d2 = size * d2
    t1, t2 = minimize(*entries(model, g, d1, d2))
    np.testing.assert_allclose(t1 * d1 + t2 * d2, best_step(model, g, d1, d2), rtol=1e-7, atol=1e-9)


@given(seed=SEEDS)
@settings(max_examples=100, deadline=None)
def test_positive_definite_against_solve(seed):
    model, g, d1, d2, _ = draw(seed)
    a11, a12, a22, b1, b2 = entries(model, g, d1, d2)
    expected = np.linalg.solve([[a11, a12], [a12, a22]], [b1, b2])
    np.testing.assert_allclose(minimize(a11, a12, a22, b1, b2), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("factor", [1.0, -2.0, 1e-7, 1e9])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_collinear_directions_give_the_best_multiple(factor, dtype):
    model, g, d, _, _ = draw(3)
    t1, t2 = minimize(*entries(model, g, d, factor * d), dtype=dtype)
    assert t1 + factor * t2 == pytest.approx(g @ d / (d @ model @ d), rel=1e-9 if dtype == "float64" else 1e-5)
    # Of all pairs that lead there it is the one that shares the step evenly between the directions.
    assert t1 == pytest.approx(factor * t2, rel=1e-6 if dtype == "float64" else 1e-4)


def test_tolerance_leaves_out_what_rounding_made():
    # [[1, c], [c, 1]] has the eigenvalues 1 ± c: kept above 1e-10 of the largest, left out below.
    right = (1.0, 0.0)
    for gap, kept in ((3e-10, True), (1e-10, False), (0.0, False)):
        t1, t2 = minimize(1.0, 1.0 - gap, 1.0, *right)
        assert (t1 > 1e9) == kept
        assert (t1 - t2 > 1e9) == kept
        assert t1 + t2 == pytest.approx(0.5, rel=1e-5)
    for gap, kept in ((3e-6, True), (1e-6, False)):
        assert (minimize(1.0, 1.0 - gap, 1.0, *right, dtype="float32")[0] > 1e4) == kept


@pytest.mark.parametrize("zero", [0, 1])
def test_a_direction_of_zero_leaves_the_other_alone(zero):
    model, g, d, _, _ = draw(4)
    pair = [d, d]
    pair[zero] = 0 * d
    found = minimize(*entries(model, g, *pair))
    assert found[zero] == 0
    assert found[1 - zero] == pytest.approx(g @ d / (d @ model @ d), rel=1e-12)


def test_two_directions_of_zero_give_no_step():
    assert minimize(0.0, 0.0, 0.0, 0.0, 0.0) == [0.0, 0.0]


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_indefinite_is_the_saddle_free_rule_on_the_matrix_with_a_diagonal_of_one(seed):
    rng = np.random.default_rng(seed)
    a11, a12, a22, b1, b2 = rng.standard_normal(5) * 10.0 ** rng.uniform(-3, 3, 5)
    scale = np.sqrt(np.abs([a11, a22]))
    values, q = np.linalg.eigh(np.array([[a11, a12], [a12, a22]]) / np.outer(scale, scale))
    inverse = (q / np.abs(values)) @ q.T
    expected = inverse @ ([b1, b2] / scale) / scale
    found = np.array(minimize(a11, a12, a22, b1, b2))
    np.testing.assert_allclose(found * scale, expected * scale, rtol=1e-6, atol=1e-9 * np.abs(expected * scale).max())
    assert found @ [b1, b2] >= 0  # -t is a descent step of a loss with the slopes b


def test_indefinite_by_hand():
    assert minimize(2.0, 0.0, -4.0, 3.0, 1.0) == pytest.approx([1.5, 0.25])  # 1/|h| along each axis
    assert minimize(-2.0, 0.0, -2.0, 3.0, 1.0) == pytest.approx([1.5, 0.5])
    # Eigenvalues 1 ± 3 of [[1, 3], [3, 1]]: along (1, 1) 1/4, along (1, -1) 1/2.
    assert minimize(1.0, 3.0, 1.0, 2.0, 0.0) == pytest.approx([0.75, -0.25])
    # No curvature along either direction, but between them: eigenvalues ± 2.
    assert minimize(0.0, 2.0, 0.0, 3.0, 1.0) == pytest.approx([1.5, 0.5])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("power", [-1, 1])
def test_lengths_of_the_directions_do_not_matter(dtype, power):
    # Their squares reach the ends of the range, their fourth powers would leave it.
    model, g, d1, d2, _ = draw(5)
    plain = minimize(*entries(model, g, d1, d2))
    big = 1e150 if dtype == "float64" else 1e18
    for s1, s2 in ((big**power, 1.0), (1.0, big**power), (big**power, big**power)):
        a11, a12, a22, b1, b2 = entries(model, g, d1, d2)
        found = minimize(s1 * a11 * s1, s1 * a12 * s2, s2 * a22 * s2, s1 * b1, s2 * b2, dtype=dtype)
        tolerance = 1e-9 if dtype == "float64" else 1e-4
        assert [found[0] * s1, found[1] * s2] == pytest.approx(plain, rel=tolerance)


def test_batch_on_every_backend(backend):
    # Every kind of system in one array: each entry is decided for itself.
    systems = np.array(
        [
            [2.0, 1.0, 2.0, 3.0, 3.0],
            [2.0, 0.0, 0.0, 3.0, 0.0],
            [0.0, 0.0, 2.0, 0.0, 3.0],
            [1.0, 1.0, 1.0, 1.0, 1.0],
            [1.0, 3.0, 1.0, 2.0, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0],
        ]
    )
    expected = np.array([[1.0, 1.0], [1.5, 0.0], [0.0, 1.5], [0.5, 0.5], [0.75, -0.25], [0.0, 0.0]])
    given = [backend.asarray(column.reshape(2, 3)) for column in systems.T]
    t1, t2 = plane_minimizer(*given)
    for found, wanted in ((t1, expected[:, 0]), (t2, expected[:, 1])):
        assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
        np.testing.assert_allclose(
            to_numpy(found), wanted.reshape(2, 3), rtol=1e-6 if "32" in backend.dtype_name else 1e-13
        )


def test_numbers_that_are_not_finite_stay_in_their_entry():
    numbers = np.array([[2.0, np.nan], [1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [3.0, 1.0]])
    t1, t2 = plane_minimizer(*numbers)
    assert (t1[0], t2[0]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert not np.isfinite([t1[1], t2[1]]).all()
