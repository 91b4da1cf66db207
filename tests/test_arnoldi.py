"""Arnoldi's basis, and where a Lanczos process may be ended early.

Oracles: 60-digit numbers; Householder QR of slowly built powers; the dense matrix in the basis found; for symmetric
matrices Lanczos, which gets its coefficients by a recurrence of three terms.
"""

import numpy as np
import pytest
from golden_vectors import golden
from krylov_cases import counted, krylov_basis, matvec_of, symmetric, with_spectrum

from refimpl.arrays import device_of, dtype_name, machine_epsilon, to_numpy
from refimpl.curvature.krylov import arnoldi, lanczos, orthogonality_loss

GOLDEN = golden("curveball_kryball")["lanczos_5x5"]
H, G = np.array(GOLDEN["H"]), np.array(GOLDEN["g"])
WAYS = ["twice", "classical", "modified"]


def test_golden(backend):
    h, wanted = backend.asarray(H), np.array(GOLDEN["Q (columns q1..q5)"]).T
    tolerance = 1e-11 if backend.dtype_name == "float64" else 1e-4
    for steps in range(1, 6):
        space = arnoldi(lambda v: h @ v, backend.asarray(G), steps)
        np.testing.assert_allclose(to_numpy(space.basis), wanted[:steps], rtol=0, atol=tolerance)
        t = to_numpy(space.projected())
        np.testing.assert_allclose(np.diag(t), GOLDEN["T_diag"][:steps], rtol=0, atol=tolerance)
        below = np.diag(to_numpy(space.extended()), -1)
        np.testing.assert_allclose(below[:4], GOLDEN["T_offdiag"][:steps], rtol=0, atol=tolerance)
        ritz = np.linalg.eigvalsh(0.5 * (t + t.T))
        np.testing.assert_allclose(ritz, GOLDEN["ritz_values"][str(steps)], rtol=0, atol=10 * tolerance)
        assert float(space.start_norm) == pytest.approx(GOLDEN["g_norm"], rel=tolerance)
        assert space.products == steps
        for part in (space.basis, space.hessenberg, space.start_norm):
            assert (dtype_name(part.dtype), device_of(part)) == (backend.dtype_name, backend.device)
    assert to_numpy(space.hessenberg)[5].tolist() == [0.0] * 5  # exact breakdown


def test_lanczos_gives_the_same_numbers():
    space = lanczos(matvec_of(H), G, 5)
    np.testing.assert_allclose(space.basis, np.array(GOLDEN["Q (columns q1..q5)"]).T, rtol=0, atol=1e-11)
    np.testing.assert_allclose(space.alpha, GOLDEN["T_diag"], rtol=0, atol=1e-11)
    np.testing.assert_allclose(space.beta, [*GOLDEN["T_offdiag"], 0.0], rtol=0, atol=1e-11)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 9), (12, 5), (12, 12)])
def test_any_matrix_in_an_orthonormal_basis(way, n, m):
    rng = np.random.default_rng(n + m)
    a, g = rng.standard_normal((n, n)), rng.standard_normal(n)
    hvp, calls = counted(a)
    space = arnoldi(hvp, g, m, orthogonalization=way)
    m = min(n, m)
    q, h = space.basis, space.extended()
    assert (len(calls), space.products, q.shape, h.shape) == (m, m, (m, n), (m + 1, m))
    np.testing.assert_allclose(q @ q.T, np.eye(m), rtol=0, atol=1e-9)
    span = krylov_basis(a, g, m)
    np.testing.assert_allclose(q.T @ q, span @ span.T, rtol=0, atol=1e-8)
    np.testing.assert_allclose(q @ a @ q.T, space.projected(), rtol=0, atol=1e-8)
    assert not np.tril(h, -2).any()
    assert (np.diag(h, -1) >= 0).all()
    # A Q^T - Q^T H has only a last column, along a q that is orthogonal to all others.
    rest = a @ q.T - q.T @ space.projected()
    np.testing.assert_allclose(rest[:, :-1], 0, rtol=0, atol=1e-12 * np.linalg.norm(a))
    assert np.linalg.norm(rest[:, -1]) == pytest.approx(h[-1, -1], abs=1e-12 * np.linalg.norm(a))
    np.testing.assert_allclose(q @ rest[:, -1], 0, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(space.combine(np.eye(m)[0]), q[0])


@pytest.mark.parametrize("m", [1, 4, 20])
def test_symmetric_is_lanczos(m):
    rng = np.random.default_rng(m)
    h, g = symmetric(rng, 30), rng.standard_normal(30)
    found, wanted = arnoldi(matvec_of(h), g, m), lanczos(matvec_of(h), g, m)
    np.testing.assert_allclose(found.basis, wanted.basis, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.extended(), wanted.extended(), rtol=0, atol=1e-10)
    # What Lanczos takes for zero is rounding here.
    above = np.triu(found.projected(), 2)
    assert np.abs(above).max() < 1e-12 * np.abs(found.projected()).max()
    weights = rng.standard_normal(m)
    np.testing.assert_allclose(found.combine(weights), weights @ wanted.basis, rtol=0, atol=1e-9)


def test_twice_keeps_what_one_pass_loses():
    # The thesis prints one pass of classical Gram–Schmidt. Every product takes off most of what is new.
    rng = np.random.default_rng(0)
    h, _ = with_spectrum(10.0 ** -np.arange(20), rng)
    spaces = {way: arnoldi(matvec_of(h), np.ones(20), 12, orthogonalization=way) for way in WAYS}
    loss = {way: float(orthogonality_loss(space.basis)) for way, space in spaces.items()}
    assert loss["twice"] < 1e-14
    assert loss["modified"] > 1e-8
    assert loss["classical"] > 10 * loss["modified"]
    longer = arnoldi(matvec_of(h), np.ones(20), 20, orthogonalization="classical")
    assert float(orthogonality_loss(longer.basis)) > 0.5  # two rows are nearly the same


def test_orthogonality_loss_of_known_rows(backend):
    rows = backend.asarray([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0], [0.25, 1.0, 0.0]]])
    np.testing.assert_allclose(to_numpy(orthogonality_loss(rows)), [0.0, 0.25], rtol=1e-6)
    ended = backend.asarray([[0.0, 1.5], [0.0, 0.0]])  # the second row lies past the end of an exhausted space
    assert float(orthogonality_loss(ended)) == 1.25


@pytest.mark.parametrize("process", [arnoldi, lanczos])
@pytest.mark.parametrize("size", [1e-150, 1.0, 1e150])
def test_exhausted_space_ends_the_run(process, size):
    rng = np.random.default_rng(2)
    h, vectors = with_spectrum(np.repeat([3.0, -1.0, 0.5], 4), rng)
    hvp, calls = counted(size * h)
    for start, dimension in [(vectors[:, 0], 1), (vectors[:, 0] + 2 * vectors[:, 5], 2), (rng.standard_normal(12), 3)]:
        calls.clear()
        space = process(hvp, start, 9)
        assert len(calls) == space.products == dimension
        assert space.basis.shape == (9, 12)
        assert not space.basis[dimension:].any()
        np.testing.assert_allclose(space.projected()[dimension:], 0, rtol=0, atol=0)
        ritz = np.linalg.eigvalsh(space.projected()[:dimension, :dimension]) / size
        known = {1: [3.0], 2: [-1.0, 3.0], 3: [-1.0, 0.5, 3.0]}[dimension]
        np.testing.assert_allclose(ritz, known, rtol=0, atol=1e-12)


def test_zero_start_and_zero_matrix():
    assert not arnoldi(matvec_of(H), np.zeros(5), 3).basis.any()
    space = arnoldi(lambda v: 0 * v, G, 3)
    assert (space.products, space.basis[1:].any(), space.hessenberg.any()) == (1, False, False)


@pytest.mark.parametrize("way", WAYS)
def test_runs_at_once_are_the_runs_one_by_one(way, backend):
    rng = np.random.default_rng(3)
    h, g = rng.standard_normal((2, 2, 6, 6)), rng.standard_normal((2, 2, 6))
    g[0, 1] = 0.0
    h[1, 0] = np.diag([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])  # ends after two steps
    hb = backend.asarray(h)
    options = {"orthogonalization": way}
    together = arnoldi(lambda v: (hb @ v[..., None])[..., 0], backend.asarray(g), 4, **options)
    assert together.products == 4
    tolerance = 1e-10 if backend.dtype_name == "float64" else 2e-4
    for i in np.ndindex(2, 2):
        alone = arnoldi(matvec_of(h[i]), g[i], 4, **options)
        for part in ("basis", "hessenberg", "start_norm"):
            found = to_numpy(getattr(together, part))[i]
            np.testing.assert_allclose(found, getattr(alone, part), rtol=0, atol=tolerance)
    assert not to_numpy(together.basis)[0, 1].any()
    assert not to_numpy(together.basis)[1, 0, 2:].any()


def test_float32_keeps_its_basis():
    rng = np.random.default_rng(5)
    h, _ = with_spectrum(np.logspace(-4, 2, 60), rng)
    h = h.astype(np.float32)
    basis = arnoldi(matvec_of(h), np.ones(60, np.float32), 30).basis
    assert basis.dtype == np.float32
    assert float(orthogonality_loss(basis)) < 10 * machine_epsilon(basis)


def test_unchecked_goes_to_the_end():
    hvp, calls = counted(H)
    vector = np.linalg.eigh(H)[1][:, 2]
    for process in (arnoldi, lanczos):
        calls.clear()
        space = process(hvp, vector, 4, checked=False)
        assert len(calls) == space.products == 4
        assert np.isfinite(space.basis).all()
        assert not space.basis[1:].any()


# -- ended early ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [1, 3])
def test_enough_ends_lanczos_with_the_rows_so_far(last, backend):
    rng = np.random.default_rng(6)
    h, g = symmetric(rng, 9), rng.standard_normal(9)
    hb, asked = backend.asarray(h), []

    def enough(space):
        asked.append(space)
        return len(asked) == last

    space = lanczos(lambda v: hb @ v, backend.asarray(g), 7, enough=enough)
    assert [seen.alpha.shape[0] for seen in asked] == [seen.products for seen in asked] == list(range(1, last + 1))
    whole = lanczos(lambda v: hb @ v, backend.asarray(g), last)
    for part in ("basis", "alpha", "beta", "start_norm"):
        found = getattr(space, part)
        np.testing.assert_array_equal(to_numpy(found), to_numpy(getattr(whole, part)))
        assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
    np.testing.assert_array_equal(to_numpy(space.extended()), to_numpy(whole.extended()))
    assert space.products == last


def test_never_enough_is_the_whole_space():
    rng = np.random.default_rng(7)
    h, g = symmetric(rng, 9), rng.standard_normal(9)
    asked = []
    found = lanczos(matvec_of(h), g, 4, enough=lambda space: bool(asked.append(space.products)))
    assert asked == [1, 2, 3, 4]
    np.testing.assert_array_equal(found.basis, lanczos(matvec_of(h), g, 4).basis)
