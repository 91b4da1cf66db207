"""Functions of a symmetric matrix against closed forms, SciPy's matrix functions and golden vectors.

SciPy's ``sqrtm`` and ``pinv`` do not go through our eigenvalue rules, and diagonal matrices give answers by hand.
"""

import numpy as np
import pytest
import scipy.linalg
from golden_vectors import golden

from refimpl.arrays import device_of, dtype_name, get_backend, machine_epsilon, to_numpy
from refimpl.curvature.spectrum import absolute, apply, apply_inverse_abs, eigen, inverse_magnitudes, reciprocal

PROBLEM = golden("series")["problem"]
EXACT = golden("series")["exact"]
H, G = np.array(PROBLEM["H"]), np.array(PROBLEM["g"])


def random_symmetric(n, seed, batch=()):
    a = np.random.default_rng(seed).standard_normal((*batch, n, n))
    return a + np.swapaxes(a, -1, -2)


# -- golden vectors -------------------------------------------------------------------------------------------------


def test_eigenvalues_golden():
    np.testing.assert_allclose(eigen(H).eigenvalues, EXACT["eigenvalues_ascending"], rtol=1e-12)


def test_absolute_golden():
    np.testing.assert_allclose(absolute(H), EXACT["absH"], rtol=1e-12)


@pytest.mark.parametrize(
    ("knobs", "key"),
    [
        ({}, "absH_inv_g"),
        ({"mode": "abs", "damping": 0.25}, "damped_abs_delta_0.25"),
        ({"mode": "square", "damping": 0.25}, "damped_square_delta_0.25"),
        ({"mode": "shift", "damping": 0.25}, "damped_shift_delta_0.25"),
    ],
)
def test_inverse_abs_golden(knobs, key):
    np.testing.assert_allclose(apply_inverse_abs(H, G, **knobs), EXACT[key], rtol=1e-12)


def test_threshold_rule_golden():
    rule = EXACT["sfn_threshold"]
    u = apply_inverse_abs(H, G, threshold=rule["threshold"], replacement=rule["replacement"])
    np.testing.assert_allclose(u, rule["direction"], rtol=1e-12)


def test_zero_gradient_gives_zero_direction():
    edge = golden("series")["edge_cases"]["zero_gradient"]
    assert apply_inverse_abs(H, np.array(edge["g"], dtype=float)).tolist() == edge["direction"]


# -- SciPy and closed forms -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_absolute_is_the_square_root_of_the_square(seed):
    h = random_symmetric(7, seed)
    np.testing.assert_allclose(absolute(h), scipy.linalg.sqrtm(h @ h).real, atol=1e-8)
    np.testing.assert_allclose(absolute(h) @ absolute(h), h @ h, atol=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_inverse_abs_against_dense_solves(seed):
    h, g = random_symmetric(6, seed), np.random.default_rng(seed + 50).standard_normal(6)
    root = scipy.linalg.sqrtm(h @ h).real
    identity = np.eye(6)
    np.testing.assert_allclose(apply_inverse_abs(h, g), np.linalg.solve(root, g), rtol=1e-7)
    np.testing.assert_allclose(
        apply_inverse_abs(h, g, mode="abs", damping=0.5), np.linalg.solve(root + 0.5 * identity, g), rtol=1e-7
    )
    square_root = scipy.linalg.sqrtm(h @ h + 0.25 * identity).real
    np.testing.assert_allclose(
        apply_inverse_abs(h, g, mode="square", damping=0.5), np.linalg.solve(square_root, g), rtol=1e-9
    )


def test_threshold_is_inclusive_and_replacement_is_an_eigenvalue():
    h = np.diag([-1.0, 0.5, 2.0])
    g = np.array([3.0, 3.0, 3.0])
    assert apply_inverse_abs(h, g, threshold=1.0, replacement=10.0).tolist() == pytest.approx([0.3, 0.3, 1.5])
    assert apply_inverse_abs(h, g, threshold=1.0).tolist() == [0.0, 0.0, 1.5]


def test_a_zero_eigenvalue_gives_the_pseudo_inverse():
    # A rotated singular matrix: rounding makes its zero eigenvalue about 1e-17, not 0.
    q, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((4, 4)))
    g = np.random.default_rng(4).standard_normal(4)
    h = q @ np.diag([2.0, -1.0, 0.5, 0.0]) @ q.T
    h = 0.5 * (h + h.T)
    np.testing.assert_allclose(
        apply_inverse_abs(h, g), scipy.linalg.pinvh(scipy.linalg.sqrtm(h @ h).real, rtol=1e-6) @ g, atol=1e-7
    )
    flat = q[:, 3]
    assert abs(apply_inverse_abs(h, flat)).max() < 1e-12


def test_a_zero_eigenvalue_takes_the_replacement_if_there_is_one():
    u = apply_inverse_abs(np.diag([2.0, 0.0]), np.array([1.0, 1.0]), replacement=4.0)
    assert u.tolist() == [0.5, 0.25]


def test_a_zero_eigenvalue_is_never_left_out_under_damping():
    tiny = 1e-14  # below the rounding level of the other eigenvalue
    assert apply_inverse_abs(np.diag([1e3, 0.0]), np.ones(2), mode="abs", damping=tiny)[1] == pytest.approx(1 / tiny)
    assert apply_inverse_abs(np.diag([1e3, 0.0]), np.ones(2), mode="square", damping=tiny)[1] == pytest.approx(1 / tiny)


def test_the_zero_matrix_gives_the_zero_direction():
    assert apply_inverse_abs(np.zeros((3, 3)), np.ones(3)).tolist() == [0.0, 0.0, 0.0]
    assert apply_inverse_abs(np.zeros((3, 3)), np.ones(3), mode="abs", damping=0.5).tolist() == [2.0, 2.0, 2.0]


def test_shift_is_singular_where_abs_is_not():
    d = 0.25
    h, g = np.diag([1.0, -d]), np.ones(2)
    assert apply_inverse_abs(h, g, mode="shift", damping=d)[1] == 0.0  # 1/0, left out
    near = apply_inverse_abs(np.diag([1.0, -d + 1e-9]), g, mode="shift", damping=d)
    assert abs(near[1]) > 1e8
    assert apply_inverse_abs(h, g, mode="abs", damping=d)[1] == pytest.approx(2.0)


def test_reciprocal_keeps_signs_and_nan_and_never_overflows_to_infinity():
    assert reciprocal(np.array([-2.0, 0.0, 4.0])).tolist() == [-0.5, 0.0, 0.25]
    assert np.isnan(reciprocal(np.array([np.nan, 1.0]))).tolist() == [True, False]
    assert reciprocal(np.zeros(2)).tolist() == [0.0, 0.0]


# -- batches, backends, what is not finite --------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [{}, {"mode": "abs", "damping": 0.1}, {"threshold": 0.7, "replacement": 2.0}])
def test_batched_equals_loop(knobs):
    h, g = random_symmetric(4, 1, (3, 2)), np.random.default_rng(2).standard_normal((3, 2, 4))
    together = apply_inverse_abs(h, g, **knobs)
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(together[index], apply_inverse_abs(h[index], g[index], **knobs), rtol=1e-12)
        np.testing.assert_allclose(absolute(h)[index], absolute(h[index]), rtol=1e-12, atol=1e-14)


def test_damping_may_differ_from_run_to_run():
    spectra = np.array([[-2.0, 1.0], [0.0, 3.0]])
    expected = [[1 / 2.5, 1 / 1.5], [1 / 1.0, 1 / 4.0]]
    np.testing.assert_allclose(inverse_magnitudes(spectra, mode="abs", damping=np.array([0.5, 1.0])), expected)


def test_every_backend_gives_the_same_in_its_own_dtype_and_place(backend):
    h, g = backend.asarray(H), backend.asarray(G)
    tolerance = 200 * machine_epsilon(g)
    for knobs, key in [({}, "absH_inv_g"), ({"mode": "square", "damping": 0.25}, "damped_square_delta_0.25")]:
        u = apply_inverse_abs(h, g, **knobs)
        assert dtype_name(u.dtype) == backend.dtype_name
        assert device_of(u) == backend.device
        np.testing.assert_allclose(to_numpy(u), EXACT[key], rtol=tolerance)
    np.testing.assert_allclose(to_numpy(absolute(h)), EXACT["absH"], rtol=tolerance, atol=tolerance)


def test_eigen_never_raises_and_marks_only_the_bad_matrix(backend):
    good, bad = H.tolist(), H.copy()
    bad[2, 1] = np.inf
    worse = np.full_like(H, np.nan)
    spectrum = eigen(backend.asarray(np.stack([good, bad, worse])))
    eigenvalues = to_numpy(spectrum.eigenvalues)
    np.testing.assert_allclose(eigenvalues[0], EXACT["eigenvalues_ascending"], rtol=1e-5)
    assert np.isnan(eigenvalues[1:]).all()
    direction = apply(spectrum, inverse_magnitudes(spectrum.eigenvalues), backend.asarray(np.ones((3, 4))))
    assert np.isfinite(to_numpy(direction)[0]).all()
    assert np.isnan(to_numpy(direction)[1:]).all()


# -- wrong input ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.ones((2, 3)), "square"),
        (np.ones(4), "square"),
        (np.zeros((0, 0)), "square"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), "symmetric"),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), "finite"),
        (np.eye(2, dtype=int), "float"),
        ([[1.0, 0.0], [0.0, 1.0]], "array"),
    ],
)
def test_wrong_matrix(matrix, message):
    with pytest.raises(ValueError, match=message):
        absolute(matrix)
    with pytest.raises(ValueError, match=message):
        apply_inverse_abs(matrix, np.ones(2))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (np.ones(3), "shape"),
        (np.ones((1, 2)), "shape"),
        (np.array([1.0, np.inf]), "finite"),
        (np.ones(2, dtype="float32"), "dtype"),
        ([1.0, 1.0], "array"),
        (get_backend("array-api-strict").asarray([1.0, 1.0]), "numpy array"),
    ],
)
def test_wrong_gradient(gradient, message):
    with pytest.raises(ValueError, match=message):
        apply_inverse_abs(np.eye(2), gradient)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"mode": "absolute"}, "unknown mode"),
        ({"mode": "abs", "damping": -1.0}, "damping"),
        ({"mode": "abs", "damping": float("nan")}, "damping"),
        ({"mode": "abs", "damping": "1"}, "damping"),
        ({"damping": 0.1}, "mode 'none'"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": float("inf")}, "threshold"),
        ({"threshold": 0.1, "replacement": 0.0}, "replacement"),
        ({"threshold": 0.1, "replacement": -1.0}, "replacement"),
        ({"mode": "abs", "threshold": 0.1, "damping": 1.0}, "belong to mode 'none'"),
    ],
)
def test_wrong_knobs(knobs, message):
    with pytest.raises(ValueError, match=message):
        apply_inverse_abs(np.eye(2), np.ones(2), **knobs)


@pytest.mark.parametrize("name", ["numpy", "torch"])
@pytest.mark.parametrize("refused", [("float32",), ("float32", "float64")])
def test_where_lapack_gives_up_float64_is_asked_and_then_the_answer_is_nan(name, refused, monkeypatch):
    if name == "torch":
        pytest.importorskip("torch")
    backend = get_backend(name, "float32")
    matrix, true = backend.asarray(random_symmetric(6, 3, (2,))), backend.xp.linalg.eigh

    class OneLinAlgError(Exception):
        pass

    def moody(a, *args, **kwargs):
        if dtype_name(a.dtype) in refused:
            raise OneLinAlgError("did not converge")
        return true(a, *args, **kwargs)

    monkeypatch.setattr(backend.xp.linalg, "eigh", moody)
    found = eigen(matrix)
    assert {dtype_name(part.dtype) for part in found} == {"float32"}
    values, vectors = to_numpy(found.eigenvalues), to_numpy(found.eigenvectors)
    if len(refused) == 2:
        assert np.isnan(values).all()
        np.testing.assert_array_equal(vectors, np.broadcast_to(np.eye(6), (2, 6, 6)))
    else:
        rebuilt = vectors @ (values[..., None] * np.swapaxes(vectors, -1, -2))
        np.testing.assert_allclose(rebuilt, to_numpy(matrix), atol=1e-5)


def test_an_error_that_is_not_lapacks_is_not_swallowed(monkeypatch):
    backend = get_backend("numpy")

    def broken(*_):
        raise MemoryError

    monkeypatch.setattr(backend.xp.linalg, "eigh", broken)
    with pytest.raises(MemoryError):
        eigen(backend.eye(2))
