"""A few orthonormal directions and the Hessian in their span.

Oracles: NumPy's QR and dense products B H B^T; ranks by hand; lists that grow with every product.
"""

import itertools

import numpy as np
import pytest
from krylov_cases import counted, matvec_of, symmetric, with_spectrum

from refimpl import get_backend
from refimpl.arrays import device_of, dtype_name, machine_epsilon, to_numpy
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import Subspace, extend, krylov_and, of_lanczos, orthonormalize, project

NAN, INF = float("nan"), float("inf")


def projector(rows):
    """Onto the span of the rows, through NumPy's SVD."""
    rows = np.atleast_2d(rows)
    _, sizes, right = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), full_matrices=False)
    right = right[sizes > 1e-6]
    return right.T @ right


# -- orthonormal rows -------------------------------------------------------------------------------------------------


def test_it_is_the_qr_of_numpy(backend):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4, 9)) * [[1.0], [1e-3], [1e4], [7.0]]
    found = orthonormalize([backend.asarray(v) for v in vectors])
    assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
    q, r = np.linalg.qr(vectors.T)
    wanted = (q * np.sign(np.diag(r))).T
    np.testing.assert_allclose(to_numpy(found), wanted, rtol=0, atol=100 * machine_epsilon(found))


def test_what_adds_nothing_is_left_out(backend):
    a, b = np.array([1.0, 2.0, 0.0, -1.0]), np.array([0.5, 0.0, 3.0, 1.0])
    given = [0 * a, a, -3 * a, np.array([NAN, 0.0, 1.0, 0.0]), 1e-20 * b, a + b, np.full(4, INF), 5 * b]
    found = to_numpy(orthonormalize([backend.asarray(v) for v in given]))
    assert found.shape == (2, 4)
    np.testing.assert_allclose(found[0], a / np.linalg.norm(a), rtol=1e-6)
    np.testing.assert_allclose(found.T @ found, projector([a, b]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("length", [1e-300, 1e-30, 1.0, 1e30, 1e300])
def test_length_does_not_matter(length):
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 5))
    np.testing.assert_allclose(orthonormalize([length * a, b]), orthonormalize([a, b / length]), rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "kept", "dropped"), [("float64", 1e-7, 1e-9), ("float32", 1e-3, 3e-5)])
def test_nearly_collinear(dtype, kept, dropped):
    backend = get_backend("numpy", dtype)
    for angle, rows in [(kept, 2), (dropped, 1)]:
        found = orthonormalize([backend.asarray([1.0, 0.0, 0.0]), backend.asarray([1.0, angle, 0.0])])
        assert found.shape == (rows, 3)
    # What is kept is orthogonal all the same: two passes.
    found = orthonormalize([backend.asarray([1.0, 1.0, 1.0]), backend.asarray([1.0, 1.0, 1.0 + 3 * kept])])
    assert abs(float(found[0] @ found[1])) < 2 * machine_epsilon(found)


def test_tolerance_can_be_given():
    vectors = [np.array([1.0, 0.0]), np.array([1.0, 0.1])]
    assert orthonormalize(vectors, tolerance=0.2).shape == (1, 2)
    assert orthonormalize(vectors, tolerance=0.05).shape == (2, 2)


def test_known_rows_are_not_returned(backend):
    rng = np.random.default_rng(2)
    known = np.linalg.qr(rng.standard_normal((8, 3)))[0].T
    inside, outside = rng.standard_normal(3) @ known, rng.standard_normal(8)
    found = to_numpy(orthonormalize([backend.asarray(inside), backend.asarray(outside)], backend.asarray(known)))
    assert found.shape == (1, 8)
    rest = outside - known.T @ (known @ outside)
    np.testing.assert_allclose(found[0], rest / np.linalg.norm(rest), rtol=0, atol=1e-5)
    nothing = orthonormalize([backend.asarray(inside)], backend.asarray(known))
    assert tuple(nothing.shape) == (0, 8)
    assert (dtype_name(nothing.dtype), device_of(nothing)) == (backend.dtype_name, backend.device)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [([], "at least one vector"), ([np.ones((2, 2))], r"\(n,\)"), ([np.ones(2), np.ones(3)], r"\(n,\)"),
     ([[1.0, 2.0]], r"\(n,\)")],
)  # fmt: skip
def test_wrong_vectors(vectors, message):
    with pytest.raises(ValueError, match=message):
        orthonormalize(vectors)


# -- the matrix in them -----------------------------------------------------------------------------------------------


def test_project_is_the_dense_product(backend):
    rng = np.random.default_rng(3)
    h = symmetric(rng, 7)
    hb, calls = backend.asarray(h), []
    rows = orthonormalize([backend.asarray(v) for v in rng.standard_normal((3, 7))])
    space = project(lambda v: calls.append(1) or hb @ v, rows)
    assert len(calls) == 3
    assert (type(space.matrix), space.matrix.dtype) == (np.ndarray, np.float64)
    assert (dtype_name(space.basis.dtype), device_of(space.basis)) == (backend.dtype_name, backend.device)
    np.testing.assert_array_equal(space.matrix, space.matrix.T)
    b = to_numpy(rows).astype(float)
    np.testing.assert_allclose(space.matrix, b @ h @ b.T, rtol=0, atol=50 * machine_epsilon(rows))


def test_extend_is_the_dense_product_with_one_product_per_new_row():
    rng = np.random.default_rng(4)
    h = symmetric(rng, 9)
    hvp, calls = counted(h)
    rows = np.linalg.qr(rng.standard_normal((9, 5)))[0].T
    space = extend(project(matvec_of(h), rows[:3]), hvp, rows[3:])
    assert len(calls) == 2
    np.testing.assert_allclose(space.matrix, rows @ h @ rows.T, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(space.matrix, space.matrix.T)
    np.testing.assert_array_equal(space.basis, rows)
    assert extend(space, hvp, rows[:0]) is space
    assert len(calls) == 2


def test_what_is_known_is_kept_even_from_another_place():
    rng = np.random.default_rng(5)
    old, new = symmetric(rng, 6), symmetric(rng, 6)
    rows = np.linalg.qr(rng.standard_normal((6, 3)))[0].T
    space = extend(project(matvec_of(old), rows[:2]), matvec_of(new), rows[2:])
    np.testing.assert_allclose(space.matrix[:2, :2], rows[:2] @ old @ rows[:2].T, rtol=0, atol=1e-13)
    np.testing.assert_allclose(space.matrix[2, :], rows[2] @ new @ rows.T, rtol=0, atol=1e-13)


def test_coordinates_and_combine(backend):
    rng = np.random.default_rng(6)
    rows = np.linalg.qr(rng.standard_normal((8, 3)))[0].T
    space = Subspace(backend.asarray(rows), np.eye(3))
    inside = rng.standard_normal(3) @ rows
    tolerance = 20 * machine_epsilon(space.basis)
    found = space.coordinates(backend.asarray(inside))
    assert (type(found), found.dtype) == (np.ndarray, np.float64)
    np.testing.assert_allclose(found, rows @ inside, rtol=0, atol=tolerance)
    back = space.combine(found)
    assert (dtype_name(back.dtype), device_of(back)) == (backend.dtype_name, backend.device)
    np.testing.assert_allclose(to_numpy(back), inside, rtol=0, atol=tolerance)


def test_nothing_at_all(backend):
    nothing = project(lambda v: v, orthonormalize([backend.zeros(4)]))
    assert (tuple(nothing.basis.shape), nothing.matrix.shape) == ((0, 4), (0, 0))
    assert nothing.coordinates(backend.zeros(4)).shape == (0,)
    back = nothing.combine(np.zeros(0))
    assert to_numpy(back).tolist() == [0.0] * 4
    assert (dtype_name(back.dtype), device_of(back)) == (backend.dtype_name, backend.device)


# -- Krylov spaces ----------------------------------------------------------------------------------------------------


def test_of_lanczos_leaves_out_rows_past_the_end():
    rng = np.random.default_rng(7)
    h, _ = with_spectrum(np.repeat([2.0, -1.0, 0.5], 3), rng)
    space = of_lanczos(lanczos(matvec_of(h), rng.standard_normal(9), 7))
    assert (space.basis.shape, space.matrix.shape) == ((3, 9), (3, 3))
    np.testing.assert_allclose(np.linalg.eigvalsh(space.matrix), [-1.0, 0.5, 2.0], rtol=0, atol=1e-12)
    whole = of_lanczos(lanczos(matvec_of(h), rng.standard_normal(9), 2))
    np.testing.assert_allclose(whole.matrix, whole.basis @ h @ whole.basis.T, rtol=0, atol=1e-13)
    none = of_lanczos(lanczos(matvec_of(h), np.zeros(9), 2))
    assert (none.basis.shape, none.matrix.shape) == ((0, 9), (0, 0))
    broken = of_lanczos(lanczos(matvec_of(NAN * h), np.ones(9), 2, checked=False))
    assert (broken.basis.shape, broken.matrix.shape) == ((0, 9), (0, 0))


def test_only_what_lies_outside_costs_a_product(backend):
    # g and the projected step lie in the Krylov space, so that of g, s and the momentum one product is left.
    rng = np.random.default_rng(8)
    h, g, momentum = symmetric(rng, 10), rng.standard_normal(10), rng.standard_normal(10)
    hb, calls = backend.asarray(h), []
    hvp = lambda v: calls.append(1) or hb @ v  # noqa: E731
    space = of_lanczos(lanczos(hvp, backend.asarray(g), 4))
    inside = space.combine(rng.standard_normal(4))
    grown = krylov_and(space, hvp, [backend.asarray(g), inside, backend.asarray(momentum), backend.zeros(10)])
    assert len(calls) == 5
    assert grown.matrix.shape == (5, 5)
    b = to_numpy(grown.basis).astype(float)
    np.testing.assert_allclose(b @ b.T, np.eye(5), rtol=0, atol=20 * machine_epsilon(space.basis))
    np.testing.assert_allclose(grown.matrix, b @ h @ b.T, rtol=0, atol=200 * machine_epsilon(space.basis))
    assert krylov_and(space, hvp, []) is space
    assert krylov_and(space, hvp, [inside]) is space
    assert len(calls) == 5


def test_order_and_sign_change_neither_the_span_nor_the_model():
    rng = np.random.default_rng(9)
    h, g = symmetric(rng, 8), rng.standard_normal(8)
    vectors = rng.standard_normal((3, 8))
    models = []
    for order in itertools.permutations(range(3)):
        for signs in ([1, 1, 1], [-1, 2, -3]):
            space = project(matvec_of(h), orthonormalize([s * vectors[i] for i, s in zip(order, signs, strict=True)]))
            np.testing.assert_allclose(space.basis.T @ space.basis, projector(vectors), rtol=0, atol=1e-12)
            # The stationary point of the model does not know the basis.
            models.append(space.combine(np.linalg.solve(space.matrix, -space.coordinates(g))))
    np.testing.assert_allclose(models, [models[0]] * len(models), rtol=1e-7, atol=1e-9)
