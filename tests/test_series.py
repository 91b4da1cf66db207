"""The series against answers that do not come from a series.

Golden vectors are 60-digit arithmetic. The coefficients are compared with fractions, with their recursion run in as
many digits as its instability costs, with contour integrals and with their generating function; sums with polynomials
of eigenvalues (NumPy's ``eigh`` and Horner's rule); the truncation error with SciPy's incomplete beta function.
"""

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.series import coefficients, partial_sums, sum_series

SERIES = golden("series")
H, G, V = np.array(SERIES["problem"]["H"]), np.array(SERIES["problem"]["g"]), SERIES["problem"]["V"]
DAMPINGS = [1e-3, 0.03, 0.1, 0.3, 0.5, 0.9, 1.0, 1.1, 1.2, 1.41, math.sqrt(2), 1.5, 10.0]
by_damping = pytest.mark.parametrize("d", DAMPINGS)


def symmetric(rng, n, batch=()):
    a = rng.standard_normal((*batch, n, n))
    return a + np.swapaxes(a, -1, -2)


def close(actual, expected, backend, single=2e-6, double=1e-12):
    """Agreement to 1e-12 in float64, and to ``single`` of the largest entry in float32."""
    assert dtype_name(actual.dtype) == backend.dtype_name
    assert device_of(actual) == backend.device
    expected = np.asarray(expected, dtype=float)
    if backend.dtype_name == "float64":
        np.testing.assert_allclose(to_numpy(actual), expected, rtol=double, atol=1e-15)
    else:
        np.testing.assert_allclose(to_numpy(actual), expected, rtol=0, atol=single * np.abs(expected).max())


# -- coefficients ---------------------------------------------------------------------------------------------------


def central(k):
    """binom(2k, k)/4^k as a fraction."""
    return Fraction(math.comb(2 * k, k), 4**k)


def in_many_digits(terms, d):
    """The forward recursion, in so many digits that what it loses does not matter; for d = 1 sqrt(1 - z) itself."""
    d, loss = Decimal(d), max(0.0, -math.log10(abs(1.0 - d**2) or 1.0))
    with localcontext() as context:
        context.prec = 60 + int(terms * loss)
        b, found = [Decimal(1)], [1 / (1 + d)]
        for k in range(1, terms + 1):
            b.append(b[-1] * (2 * k - 3) / (2 * k))
        if d == 1:
            return np.array([float(-value) for value in b[1:]])
        for k in range(1, terms):
            found.append((found[-1] + b[k]) / (1 - d * d))
        return np.array([float(value) for value in found])


def test_coefficients_golden():
    case = SERIES["coefficients"]
    found = coefficients(11)
    np.testing.assert_allclose(found, case["c_0_to_10"], rtol=1e-15)
    assert [Fraction(c) for c in found[:6]] == [Fraction(text) for text in case["c_as_fractions"]]
    assert coefficients(18).sum() == pytest.approx(case["sum_first_18"], rel=1e-14)
    for d, expected in case["damped"].items():
        np.testing.assert_allclose(coefficients(11, float(d)), expected, rtol=1e-12)


@pytest.mark.parametrize("terms", [1, 3, 9, 18, 100, 400])
def test_coefficients_are_central_binomials_with_a_known_sum(terms):
    found = coefficients(terms)
    np.testing.assert_allclose(found, [float(central(k)) for k in range(terms)], rtol=1e-13)
    assert found.sum() == pytest.approx(float(2 * terms * central(terms)), rel=1e-13)


@by_damping
def test_damped_coefficients_against_many_digits(d):
    exact = in_many_digits(400, d)
    for terms in (1, 2, 3, 60, 400):
        np.testing.assert_allclose(coefficients(terms, d), exact[:terms], rtol=2e-14)


@by_damping
def test_damped_coefficients_against_contour_integrals(d):
    points, radius, terms = 4096, 0.98, 60
    z = radius * np.exp(2j * np.pi * np.arange(points) / points)
    exact = np.fft.fft(1 / (np.sqrt(1 - z) + d)).real[:terms] / points / radius ** np.arange(terms)
    np.testing.assert_allclose(coefficients(terms, d), exact, rtol=1e-9)


@by_damping
def test_damped_coefficients_against_their_generating_function(d):
    found = coefficients(400, d)
    for z in (-0.9, -0.3, 0.0, 0.5, 0.9):
        assert np.polyval(found[::-1], z) == pytest.approx(1 / (math.sqrt(1 - z) + d), rel=1e-13)


def test_plain_forward_recursion_is_wrong_in_float64():
    d, b, c = 0.9, 1.0, 1 / 1.9
    for k in range(1, 25):
        b *= (2 * k - 3) / (2 * k)
        c = (c + b) / (1 - d**2)
    exact = in_many_digits(25, d)[-1]
    assert abs(c / exact - 1) > 100
    assert coefficients(25, d)[-1] == pytest.approx(exact, rel=1e-14)


def test_damped_coefficients_for_many_runs(backend):
    found = coefficients(40, backend.asarray([0.0, *DAMPINGS]))
    exact = np.stack([[float(central(k)) for k in range(40)], *(in_many_digits(40, d) for d in DAMPINGS)], axis=-1)
    assert tuple(found.shape) == (40, 14)
    # Each coefficient by itself: the late ones are small and decide convergence.
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-4
    rounded = to_numpy(backend.asarray(DAMPINGS)).astype(float)
    if backend.dtype_name == "float32":
        exact[:, 1:] = np.stack([in_many_digits(40, float(d)) for d in rounded], axis=-1)
    np.testing.assert_allclose(to_numpy(found), exact, rtol=tolerance)


def test_coefficients_are_positive_and_fall_with_the_damping():
    table = np.stack([coefficients(200, d) for d in [0.0, *DAMPINGS]])
    assert (table > 0).all()
    assert (np.diff(table, axis=0) < 0).all()


# -- sums -----------------------------------------------------------------------------------------------------------


def matvec_of(matrix):
    """v -> H v for (..., n, n) and (..., n)."""
    return lambda v: (matrix @ v[..., None])[..., 0]


def by_eigenvalues(matrix, g, terms, scale, mode="none", d=0.0):
    """The truncated series as a polynomial of the eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    x = {"none": values**2, "abs": values**2, "square": values**2 + d**2, "shift": (values + d) ** 2}[mode] / scale
    c = in_many_digits(terms, d / math.sqrt(scale)) if mode == "abs" else [float(central(k)) for k in range(terms)]
    return vectors @ (np.polyval(c[::-1], 1 - x) / math.sqrt(scale) * (vectors.T @ g))


def test_partial_sums_golden(backend):
    case = SERIES["series"]
    h, g = backend.asarray(H), backend.asarray(G)
    calls = []
    terms = list(partial_sums(lambda v: calls.append(1) or h @ v, g, terms=case["K"], scale=V))
    assert len(calls) == case["hvp_count"]
    for term, expected in zip(terms, case["partial_sums_unscaled_s0_to_s10"], strict=True):
        close(term.total, expected, backend)
    found = sum_series(lambda v: h @ v, g, terms=case["K"], scale=V)
    close(found.direction, case["scaled_last"], backend)
    assert found.products == case["hvp_count"]


@pytest.mark.parametrize(("mode", "key"), [("abs", "series_damped_abs"), ("square", "series_damped_square")])
def test_damped_sums_golden(mode, key, backend):
    case = SERIES[key]
    h = backend.asarray(H)
    found = sum_series(lambda v: h @ v, backend.asarray(G), terms=11, scale=V, damping=case["delta"], mode=mode)
    close(found.direction, case["s10_scaled"], backend)
    if mode == "abs":
        np.testing.assert_allclose(coefficients(11, case["d"]), case["coefficients"], rtol=1e-12)


def test_edge_cases_golden(backend):
    h, one = backend.asarray(H), SERIES["edge_cases"]["K1"]
    found = sum_series(lambda v: h @ v, backend.asarray(G), terms=one["K"], scale=one["V"])
    close(found.direction, one["scaled"], backend)
    assert found.products == 0
    case = SERIES["algorithm1_trajectory"]
    gradient = backend.asarray(np.array(case["H"]) @ case["x0"])
    close(sum_series(lambda v: v, gradient, terms=1, scale=100.0).direction, case["K1_direction_with_V100"], backend)
    zero = sum_series(lambda v: h @ v, backend.zeros(4), terms=7, scale=V, accelerate="sablonniere", order=3)
    assert to_numpy(zero.direction).tolist() == SERIES["edge_cases"]["zero_gradient"]["direction"]
    assert not bool(zero.fell_back)
    assert float(zero.scale) == V


@pytest.mark.parametrize("mode", ["none", "abs", "square", "shift"])
@pytest.mark.parametrize("terms", [1, 2, 3, 9, 30])
def test_sums_are_polynomials_of_the_eigenvalues(mode, terms):
    rng = np.random.default_rng(terms)
    for n in (1, 2, 5):
        h, g = symmetric(rng, n), rng.standard_normal(n)
        d = 0.0 if mode == "none" else float(rng.uniform(0.1, 2.0))
        scale = 1.05 * (np.abs(np.linalg.eigvalsh(h)).max() + d) ** 2
        found = sum_series(matvec_of(h), g, terms=terms, scale=scale, damping=d, mode=mode)
        np.testing.assert_allclose(
            found.direction,
            by_eigenvalues(h, g, terms, scale, mode, d),
            rtol=0,
            atol=1e-12 * np.abs(found.direction).max(),
        )
        assert (found.products, found.restarts) == (2 * (terms - 1), 0)


@pytest.mark.parametrize("terms", [1, 3, 9, 18, 100])
def test_truncation_error_is_an_incomplete_beta_function(terms):
    h = np.array([1.0, -1.0, 0.9, -0.5, 0.25, 0.125, -0.01, 1e-3])
    found = sum_series(lambda v: h * v, np.ones(8), terms=terms, scale=1.0)
    np.testing.assert_allclose(
        1 - np.abs(h) * found.direction, special.betainc(terms, 0.5, 1 - h**2), rtol=1e-12, atol=1e-14
    )
    for case in SERIES["truncation_error"]["cases"]:
        if case["K"] == terms:
            gain = float(
                sum_series(lambda v, x=case["x"]: math.sqrt(x) * v, np.ones(1), terms=terms, scale=1.0).plain[0]
            )
            assert gain == pytest.approx(case["gain_times_sqrtV"], rel=1e-12)
            assert 1 - math.sqrt(case["x"]) * gain == pytest.approx(case["rel_err"], rel=1e-12)


@given(st.integers(1, 60), st.lists(st.floats(0.0, 1.999), min_size=1, max_size=6), st.floats(1e-3, 1e3))
@settings(max_examples=150, deadline=None)
def test_every_truncation_is_positive_definite_for_a_scale_above_half_the_largest(terms, squares, scale):
    x = np.array(squares)
    magnitudes = np.sqrt(x * scale)
    gains = sum_series(lambda v: magnitudes * v, np.ones(x.size), terms=terms, scale=scale, guard=False).plain
    gains = gains * math.sqrt(scale)
    # Where h^2 > V the sum stays in [1/2, 1]; below, it grows from 1 towards sqrt(V)/|h|.
    assert (gains >= 0.5 - 1e-12).all()
    assert (gains[x >= 1] <= 1 + 1e-12).all()
    assert (gains[x <= 1] >= 1 - 1e-12).all()
    assert (gains[x <= 1] * np.sqrt(x[x <= 1]) <= 1 + 1e-12).all()


def test_a_scale_below_half_the_largest_square_diverges():
    even, odd = (
        float(sum_series(lambda v: 2.0 * v, np.ones(1), terms=k, scale=1.9, guard=False).plain[0]) for k in (150, 151)
    )
    assert even < -1e4
    assert odd > 1e4


@pytest.mark.parametrize("mode", ["none", "abs", "square"])
def test_many_terms_reach_the_inverse(mode):
    h, d = np.array([1.0, -0.8, 0.5, -0.3]), 0.0 if mode == "none" else 0.2
    found = sum_series(lambda v: h * v, np.ones(4), terms=600, scale=1.1, damping=d, mode=mode)
    np.testing.assert_allclose(found.direction, 1 / (np.hypot(h, d) if mode == "square" else np.abs(h) + d), rtol=1e-12)


def test_shift_is_singular_at_an_eigenvalue_of_minus_the_damping():
    h, d = np.array([1.0, -0.5]), 0.5
    far = {
        (mode, terms): sum_series(lambda v: h * v, np.ones(2), terms=terms, scale=4.0, damping=d, mode=mode).direction
        for mode in ("shift", "abs", "square")
        for terms in (100, 400)
    }
    # The series of the singular component is the bare sum of its coefficients: it grows like sqrt(K), for ever.
    for terms in (100, 400):
        assert far["shift", terms][1] == pytest.approx(float(2 * terms * central(terms)) / 2.0, rel=1e-12)
    assert far["shift", 400][1] / far["shift", 100][1] == pytest.approx(2.0, rel=1e-2)
    np.testing.assert_allclose(far["abs", 400], [1 / 1.5, 1.0], rtol=1e-12)
    np.testing.assert_allclose(far["square", 400], [1 / math.hypot(1, 0.5), 1 / math.hypot(0.5, 0.5)], rtol=1e-12)


def test_first_products_are_not_asked_for_again():
    calls = []
    found = sum_series(lambda v: calls.append(1) or H @ v, G, terms=11, scale=V, first_products=(H @ G, H @ H @ G))
    np.testing.assert_allclose(found.direction, SERIES["series"]["scaled_last"], rtol=1e-12)
    assert (len(calls), found.products) == (18, 20)


@pytest.mark.parametrize("mode", ["none", "abs", "square", "shift"])
def test_many_runs_at_once_are_the_runs_one_by_one(mode, backend):
    rng = np.random.default_rng(11)
    h, g = symmetric(rng, 3, (2, 4)), rng.standard_normal((2, 4, 3))
    g[1, 2] = 0.0
    d = np.zeros((2, 4)) if mode == "none" else rng.uniform(0.05, 3.0, (2, 4))
    scale = 1.3 * (np.abs(np.linalg.eigvalsh(h)).max(axis=-1) + d) ** 2
    hb = backend.asarray(h)
    found = sum_series(
        lambda v: (hb @ v[..., None])[..., 0],
        backend.asarray(g),
        terms=9,
        scale=backend.asarray(scale),
        mode=mode,
        **({} if mode == "none" else {"damping": backend.asarray(d)}),
    )
    one_by_one = [by_eigenvalues(h[i], g[i], 9, scale[i], mode, d[i]) for i in np.ndindex(2, 4)]
    close(found.direction, np.reshape(one_by_one, (2, 4, 3)), backend, double=1e-11)
