"""Krylov methods against dense matrices and SciPy's solvers.

Golden vectors are 60-digit arithmetic. Bases and least-squares optima are formed densely in the test, from products of
the matrix and NumPy's QR and ``lstsq``; SciPy has its own CG and MINRES, which must be at the same place after as many
steps.
"""

import numpy as np
import pytest
import scipy.sparse.linalg
from golden_vectors import golden
from krylov_cases import counted, krylov_basis, matvec_of, symmetric

from refimpl.arrays import device_of, dtype_name, machine_epsilon, to_numpy
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.linear_systems import conjugate_gradients, minres, multi_shift_cg

SERIES = golden("series")
H, G = np.array(SERIES["problem"]["H"]), np.array(SERIES["problem"]["g"])
SHIFTS = [0.0, 0.01, 0.3, 2.0, 50.0, 1e4]


def definite(rng, n, batch=(), least=0.05):
    a = rng.standard_normal((*batch, n, n))
    return a @ np.swapaxes(a, -1, -2) / n + least * np.eye(n)


# -- Lanczos ----------------------------------------------------------------------------------------------------------


def test_lanczos_golden(backend):
    case, h = SERIES["lanczos"], backend.asarray(H)
    space = lanczos(lambda v: h @ v, backend.asarray(G), 4)
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-5
    np.testing.assert_allclose(to_numpy(space.alpha), case["alpha"], rtol=tolerance)
    np.testing.assert_allclose(to_numpy(space.beta)[:3], case["beta_1_to_3"], rtol=tolerance)
    assert to_numpy(space.beta)[3] == 0  # exact breakdown
    assert float(space.start_norm) == pytest.approx(np.linalg.norm(G), rel=tolerance)
    for part in (space.basis, space.alpha, space.beta, space.start_norm):
        assert (dtype_name(part.dtype), device_of(part)) == (backend.dtype_name, backend.device)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (2, 1), (8, 3), (30, 12), (30, 30), (5, 9)])
def test_basis_is_orthonormal_and_t_is_the_matrix_in_it(n, m, backend):
    rng = np.random.default_rng(n)
    h, g = symmetric(rng, n, (3,)), rng.standard_normal((3, n))
    hb = backend.asarray(h)
    space = lanczos(lambda v: (hb @ v[..., None])[..., 0], backend.asarray(g), m)
    q, t = to_numpy(space.basis), to_numpy(space.tridiagonal())
    m = min(n, m)
    assert (space.products, q.shape, t.shape) == (m, (3, m, n), (3, m, m))
    eps = machine_epsilon(hb)
    transposed = np.swapaxes(q, -1, -2)
    np.testing.assert_allclose(q @ transposed, np.broadcast_to(np.eye(m), t.shape), rtol=0, atol=50 * eps)
    size = np.linalg.norm(h, 2, axis=(-2, -1)).max()
    np.testing.assert_allclose(q @ h @ transposed, t, rtol=0, atol=200 * eps * size)
    np.testing.assert_allclose(q[:, 0] * to_numpy(space.start_norm)[:, None], g, rtol=10 * eps)
    # H Q^T - Q^T T has only a last column, of length beta_m: the extra row of the extended T.
    rest = h @ transposed - transposed @ t
    np.testing.assert_allclose(rest[..., :-1], 0, rtol=0, atol=200 * eps * size)
    beta = to_numpy(space.beta)[:, -1]
    np.testing.assert_allclose(np.linalg.norm(rest[..., -1], axis=-1), beta, rtol=0, atol=200 * eps * size)
    last = to_numpy(space.extended())[:, -1]
    np.testing.assert_array_equal(last, np.c_[np.zeros((3, m - 1)), beta])
    if backend.dtype_name == "float64" and m < n:
        for i in range(3):
            span = krylov_basis(h[i], g[i], m)
            np.testing.assert_allclose(q[i].T @ q[i], span @ span.T, rtol=0, atol=1e-9)


def test_all_steps_find_all_eigenvalues():
    rng = np.random.default_rng(1)
    h = symmetric(rng, 25)
    space = lanczos(matvec_of(h), rng.standard_normal(25), 25)
    np.testing.assert_allclose(np.linalg.eigvalsh(space.tridiagonal()), np.linalg.eigvalsh(h), rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1e-150, 1e-8, 1.0, 1e150])
def test_an_invariant_space_ends_the_run_whatever_the_size_of_the_matrix(size):
    rng = np.random.default_rng(2)
    basis = np.linalg.qr(rng.standard_normal((20, 20)))[0]
    values = np.repeat([3.0, -1.0, 0.5, 0.0], 5)  # four different ones: the space has dimension four
    hvp, calls = counted(size * (basis * values) @ basis.T)
    g = rng.standard_normal(20)
    space = lanczos(hvp, g, 15)
    assert len(calls) == space.products == 4
    assert space.basis.shape == (15, 20)
    assert not space.basis[4:].any()
    assert not space.beta[3:].any()
    np.testing.assert_allclose(
        np.linalg.eigvalsh(space.tridiagonal()[:4, :4]) / size, [-1.0, 0.0, 0.5, 3.0], rtol=0, atol=1e-13
    )


def test_runs_at_once_are_the_runs_one_by_one(backend):
    rng = np.random.default_rng(3)
    h, g = symmetric(rng, 6, (2, 2)), rng.standard_normal((2, 2, 6))
    g[0, 1] = 0.0
    h[1, 0] = np.diag([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])  # ends after two steps
    hb = backend.asarray(h)
    together = lanczos(lambda v: (hb @ v[..., None])[..., 0], backend.asarray(g), 4)
    assert together.products == 4
    tolerance = 1e-10 if backend.dtype_name == "float64" else 2e-4
    for i in np.ndindex(2, 2):
        alone = lanczos(matvec_of(h[i]), g[i], 4)
        for part in ("basis", "alpha", "beta", "start_norm"):
            np.testing.assert_allclose(
                to_numpy(getattr(together, part))[i], getattr(alone, part), rtol=0, atol=tolerance
            )
    assert not to_numpy(together.basis)[0, 1].any()
    assert not to_numpy(together.beta)[1, 0, 1:].any()


def test_without_reorthogonalization_the_basis_is_lost():
    # An outlier that converges early comes back again and again.
    rng = np.random.default_rng(4)
    basis = np.linalg.qr(rng.standard_normal((200, 200)))[0]
    h = (basis * np.r_[np.linspace(0, 1, 199), 100.0]) @ basis.T
    g = rng.standard_normal(200)
    lost, kept = (
        np.abs(space.basis @ space.basis.T - np.eye(60)).max()
        for space in (lanczos(matvec_of(h), g, 60, reorthogonalize=again) for again in (False, True))
    )
    assert lost > 0.1
    assert kept < 1e-14


# -- conjugate gradients, one shift or many ---------------------------------------------------------------------------


def scipy_after(solver, matrix, right, steps):
    """Where SciPy's solver is after so many steps."""
    return solver(matrix, right, rtol=0.0, maxiter=steps)[0]


@pytest.mark.parametrize("steps", [1, 2, 5, 11])
def test_cg_is_where_scipy_is_after_as_many_steps(steps):
    rng = np.random.default_rng(5)
    a, b = definite(rng, 15), rng.standard_normal(15)
    hvp, calls = counted(a)
    found = conjugate_gradients(hvp, b, steps=steps)
    np.testing.assert_allclose(found.x, scipy_after(scipy.sparse.linalg.cg, a, b, steps), rtol=1e-8, atol=1e-12)
    assert len(calls) == found.products == steps
    assert found.residual == pytest.approx(np.linalg.norm(b - a @ found.x), rel=1e-8)
    # And that is the point of the Krylov space with the least error in the norm of A.
    basis = krylov_basis(a, b, steps)
    best = basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ b)
    np.testing.assert_allclose(found.x, best, rtol=1e-7, atol=1e-11)


def test_cg_solves(backend):
    rng = np.random.default_rng(6)
    a, b = definite(rng, 8, (5,), least=0.5), rng.standard_normal((5, 8))
    b[3] = 0.0
    ab = backend.asarray(a)
    found = conjugate_gradients(lambda v: (ab @ v[..., None])[..., 0], backend.asarray(b), steps=40)
    assert (dtype_name(found.x.dtype), device_of(found.x)) == (backend.dtype_name, backend.device)
    tolerance = 1e-9 if backend.dtype_name == "float64" else 1e-3
    np.testing.assert_allclose(to_numpy(found.x), np.linalg.solve(a, b[..., None])[..., 0], rtol=0, atol=tolerance)


def test_cg_stops_at_its_tolerance_and_keeps_what_it_has_on_an_indefinite_matrix():
    rng = np.random.default_rng(7)
    a, b = definite(rng, 30, least=1.0), rng.standard_normal(30)
    found = conjugate_gradients(matvec_of(a), b, steps=30, tolerance=1e-3)
    assert np.linalg.norm(b - a @ found.x) <= 1e-3 * np.linalg.norm(b)
    before = conjugate_gradients(matvec_of(a), b, steps=found.products - 1)
    assert np.linalg.norm(b - a @ before.x) > 1e-3 * np.linalg.norm(b)
    assert conjugate_gradients(lambda v: -v, b, steps=5).x.tolist() == [0.0] * 30
    mixed = np.diag([1.0, 2.0, -1.0])
    first = conjugate_gradients(matvec_of(mixed), np.array([1.0, 1.0, 0.5]), steps=1).x
    last = conjugate_gradients(matvec_of(mixed), np.array([1.0, 1.0, 0.5]), steps=50).x
    assert np.isfinite(last).all()
    assert first @ mixed @ first > 0


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_every_shift_is_where_scipy_is_after_as_many_steps(steps):
    rng = np.random.default_rng(8)
    a, b = definite(rng, 20), rng.standard_normal(20)
    hvp, calls = counted(a)
    found = multi_shift_cg(hvp, b, np.array(SHIFTS[::-1]), steps=steps)
    assert len(calls) == found.products == steps
    for x, shift in zip(found.x, SHIFTS[::-1], strict=True):
        expected = scipy_after(scipy.sparse.linalg.cg, a + shift * np.eye(20), b, steps)
        np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-10 * np.abs(expected).max())
    slowest = found.x[-1]
    assert found.residual == pytest.approx(np.linalg.norm(b - a @ slowest), rel=1e-8)


def test_all_shifts_are_solved(backend):
    rng = np.random.default_rng(9)
    a, b = definite(rng, 6, (2, 3), least=0.5), rng.standard_normal((2, 3, 6))
    b[1, 1] = 0.0
    ab = backend.asarray(a)
    shifts = backend.asarray(SHIFTS)
    found = multi_shift_cg(lambda v: (ab @ v[..., None])[..., 0], backend.asarray(b), shifts, steps=25)
    assert tuple(found.x.shape) == (6, 2, 3, 6)
    for x, shift in zip(to_numpy(found.x), SHIFTS, strict=True):
        expected = np.linalg.solve(a + shift * np.eye(6), b[..., None])[..., 0]
        tolerance = 1e-9 if backend.dtype_name == "float64" else 1e-3
        np.testing.assert_allclose(x, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_the_smallest_shift_need_not_be_zero_and_makes_a_singular_matrix_solvable():
    h = np.array([0.0, 0.0, 1.0, 4.0])
    b = np.array([1.0, -1.0, 2.0, 3.0])
    shifts = np.array([0.5, 8.0, 0.25])
    for steps in (3, 10, 500):  # the space has dimension three; further steps do no harm
        found = multi_shift_cg(lambda v: h * v, b, shifts, steps=steps)
        np.testing.assert_allclose(found.x, b / (h + shifts[:, None]), rtol=1e-12)


# -- MINRES -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 14])
def test_minres_has_the_least_residual_of_the_krylov_space(steps):
    rng = np.random.default_rng(10)
    for _ in range(5):
        a, b = symmetric(rng, 15), rng.standard_normal(15)
        hvp, calls = counted(a)
        found = minres(hvp, b, steps=steps)
        basis = krylov_basis(a, b, steps)
        best = basis @ np.linalg.lstsq(a @ basis, b, rcond=None)[0]
        np.testing.assert_allclose(found.x, best, rtol=0, atol=1e-8 * np.abs(best).max())
        assert found.residual == pytest.approx(np.linalg.norm(b - a @ best), rel=1e-7)
        assert len(calls) == found.products == steps


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_minres_is_where_scipy_is_after_as_many_steps(steps):
    rng = np.random.default_rng(11)
    a, b = symmetric(rng, 12), rng.standard_normal(12)
    expected = scipy_after(scipy.sparse.linalg.minres, a, b, steps)
    np.testing.assert_allclose(minres(matvec_of(a), b, steps=steps).x, expected, rtol=1e-7)


def test_minres_solves_and_its_residual_never_grows(backend):
    rng = np.random.default_rng(12)
    basis = np.linalg.qr(rng.standard_normal((4, 7, 7)))[0]
    a = (basis * np.array([3.0, -2.0, 1.0, -1.0, 0.5, 2.0, -0.7])) @ np.swapaxes(basis, -1, -2)
    b = rng.standard_normal((4, 7))
    b[2] = 0.0
    b[1] = basis[1, :, 0]  # an eigenvector: one step
    ab = backend.asarray(a)
    found = [minres(lambda v: (ab @ v[..., None])[..., 0], backend.asarray(b), steps=k) for k in range(1, 9)]
    residuals = np.stack([to_numpy(solution.residual) for solution in found])
    tolerance = 1e-10 if backend.dtype_name == "float64" else 1e-4
    assert (np.diff(residuals, axis=0) <= tolerance).all()
    last = found[-1].x
    assert (dtype_name(last.dtype), device_of(last)) == (backend.dtype_name, backend.device)
    np.testing.assert_allclose(to_numpy(last), np.linalg.solve(a, b[..., None])[..., 0], rtol=0, atol=tolerance)


def test_minres_on_singular_systems_and_with_a_tolerance():
    h, b = np.array([2.0, -1.0, 0.0]), np.array([2.0, 3.0, 0.0])
    np.testing.assert_allclose(minres(lambda v: h * v, b, steps=10).x, [1.0, -3.0, 0.0], rtol=0, atol=1e-14)
    # Where no solution exists the best residual is what lies in the null space.
    assert minres(lambda v: h * v, np.array([2.0, 3.0, 5.0]), steps=2).residual == pytest.approx(5.0, rel=1e-12)
    assert minres(lambda v: 0 * v, b, steps=3).x.tolist() == [0.0] * 3
    rng = np.random.default_rng(13)
    a, c = symmetric(rng, 40) + 20 * np.eye(40), rng.standard_normal(40)
    early = minres(matvec_of(a), c, steps=40, tolerance=1e-2)
    assert np.linalg.norm(c - a @ early.x) <= 1e-2 * np.linalg.norm(c)
    assert early.products < 40
