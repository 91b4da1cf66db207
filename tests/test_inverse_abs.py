"""Every route to |H|^{-1} g against dense eigendecompositions, and the price each of them says it pays.

Golden vectors are 60-digit arithmetic. The dense answers come from NumPy's ``eigh`` in the test, where nothing is
truncated, accelerated or projected; the test counts products itself; Chebyshev sums come from NumPy's own polynomials,
their coefficients from QUADPACK and an elliptic integral.
"""

import itertools
import math

import numpy as np
import pytest
from golden_vectors import golden
from numpy.polynomial import chebyshev
from scipy import integrate, special

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.acceleration import ACCELERATORS
from refimpl.curvature.inverse_abs import (
    chebyshev_coefficients,
    inverse_abs_apply,
    inverse_root_quadrature,
    lanczos_function,
    lanczos_sv_function,
)
from refimpl.curvature.krylov import Lanczos, lanczos
from refimpl.curvature.scale import lanczos_scale
from refimpl.curvature.series import sum_series
from refimpl.curvature.spectrum import apply_inverse_abs
from refimpl.problems.spectra import gaussian

SERIES = golden("series")
H, G = np.array(SERIES["problem"]["H"]), np.array(SERIES["problem"]["g"])
KNOBS = [{}, {"damping": 0.3, "mode": "abs"}, {"damping": 0.3, "mode": "square"}]
METHODS = ["auto", "exact", "series", "lanczos", "lanczos_sv", "chebyshev", "quadrature"]


def knobs_of(method):
    """The quadrature is of an inverse square root and refuses mode "abs"."""
    return [knobs for knobs in KNOBS if not (method == "quadrature" and knobs.get("mode") == "abs")]


def matvec_of(matrix):
    """v -> H v for (..., n, n) and (..., n)."""
    return lambda v: (matrix @ v[..., None])[..., 0]


def counted(matrix):
    """``matvec_of`` and the list that grows with every call."""
    calls = []
    return lambda v: calls.append(1) or matvec_of(matrix)(v), calls


def symmetric_of(rng, n):
    a = rng.standard_normal((n, n))
    return a + a.T


def spectral(rng, values, batch=()):
    """Symmetric matrices with these eigenvalues in random bases."""
    basis = np.linalg.qr(rng.standard_normal((*batch, len(values), len(values))))[0]
    matrix = (basis * values) @ np.swapaxes(basis, -1, -2)
    return 0.5 * (matrix + np.swapaxes(matrix, -1, -2))


def exact(matrix, g, mode=None, damping=0.0):
    """From the eigendecomposition."""
    values, vectors = np.linalg.eigh(matrix)
    d = np.asarray(damping)[..., None]
    sizes = np.abs(values) + d if mode == "abs" else np.hypot(values, d)
    return matvec_of(vectors)(matvec_of(np.swapaxes(vectors, -1, -2))(g) / sizes)


def error(found, wanted):
    return np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


# -- golden vectors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_lanczos_functions_golden(m, backend):
    case, h = SERIES["lanczos"], backend.asarray(H)
    space = lanczos(lambda v: h @ v, backend.asarray(G), m)
    for found, key in [
        (lanczos_function(space), "fa_f_of_T"),
        (lanczos_sv_function(space), "fa_projected_square"),
        (lanczos_function(space, mode="square", damping=0.25), "fa_f_of_T_square_damped_0.25"),
    ]:
        assert (dtype_name(found.dtype), device_of(found)) == (backend.dtype_name, backend.device)
        expected = np.array(case[f"{key}_m{m}"])
        if backend.dtype_name == "float64":
            np.testing.assert_allclose(to_numpy(found), expected, rtol=1e-12, atol=1e-13)
        else:
            np.testing.assert_allclose(to_numpy(found), expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_quadrature_golden():
    case = SERIES["quadrature_inv_sqrt"]
    shifts, weights = inverse_root_quadrature(*case["interval"], case["J"])
    np.testing.assert_allclose(shifts, case["shifts_t"], rtol=1e-12)
    np.testing.assert_allclose(weights, case["weights_w"], rtol=1e-12)
    grid = 2.0 ** np.arange(-6, 1)
    errors = (np.array(weights) / (grid[:, None] + shifts)).sum(-1) * np.sqrt(grid) - 1
    assert np.abs(errors).max() == pytest.approx(case["max_rel_err_on_grid_2^(-6..0)"], rel=1e-6)


@pytest.mark.parametrize(("condition", "poles"), [(10, (4, 6, 11)), (100, (6, 10, 18)), (1000, (7, 13, 25))])
def test_quadrature_converges_as_fast_as_it_says(condition, poles):
    grid = np.geomspace(1.0, condition**2, 2000)
    for count, target in zip(poles, (1e-3, 1e-6, 1e-12), strict=True):
        shifts, weights = inverse_root_quadrature(1.0, condition**2, count)
        errors = (np.array(weights) / (grid[:, None] + shifts)).sum(-1) * np.sqrt(grid) - 1
        assert np.abs(errors).max() < 1.5 * target


# -- dense answers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_every_route_arrives_with_enough_products(method, backend):
    rng = np.random.default_rng(1)
    h, g = spectral(rng, np.array([2.0, 1.8, 1.6, 1.5, -1.4, -1.7, -1.9])), rng.standard_normal(7)
    hb = backend.asarray(h)
    options = {"interval": (1.3, 2.05), "poles": 22} if method in ("chebyshev", "quadrature") else {}
    products = {"series": 90, "chebyshev": 80, "quadrature": 40}.get(method, 7)
    if method == "series":
        options = {"accelerate": None}
    for knobs in knobs_of(method):
        found = inverse_abs_apply(
            lambda v: hb @ v, backend.asarray(g), products=products, method=method, **options, **knobs
        )
        assert (dtype_name(found.direction.dtype), device_of(found.direction)) == (backend.dtype_name, backend.device)
        wanted = exact(h, g, **knobs)
        assert error(to_numpy(found.direction), wanted) < (1e-4 if backend.dtype_name == "float32" else 1e-10)
        assert error(apply_inverse_abs(h, g, **knobs), wanted) < 1e-13


def test_defaults():
    rng = np.random.default_rng(2)
    h, g = spectral(rng, rng.standard_normal(40)), rng.standard_normal(40)
    for knobs, mode, method in [
        ({}, "none", "lanczos_sv"),
        ({"damping": 0.2}, "square", "lanczos"),
        ({"damping": 0.2, "mode": "abs"}, "abs", "lanczos"),
    ]:
        found = inverse_abs_apply(matvec_of(h), g, **knobs)
        named = inverse_abs_apply(matvec_of(h), g, products=16, method=method, **knobs | {"mode": mode})
        assert (found.method, found.products) == (method, 16)
        np.testing.assert_array_equal(found.direction, named.direction)
    # The series: K = b/2 + 1 terms, the largest order they carry but at most 8, and V from Lanczos.
    for products, order in [(4, 1), (9, 2), (16, 4), (40, 8)]:
        found = inverse_abs_apply(matvec_of(h), g, products=products, method="series")
        by_hand = sum_series(
            matvec_of(h),
            g,
            terms=products // 2 + 1,
            scale=lanczos_scale(matvec_of(h), g),
            accelerate="sablonniere",
            order=order,
        )
        np.testing.assert_array_equal(found.direction, by_hand.direction)
    one = inverse_abs_apply(matvec_of(h), g, products=1, method="series", scale=4.0)
    np.testing.assert_allclose(one.direction, g / 2.0, rtol=1e-15)


@pytest.mark.parametrize("products", [1, 2, 5, 8, 16, 33])
@pytest.mark.parametrize("damping", [0.0, 0.5])
def test_products_are_those_that_were_asked_for(products, damping):
    rng = np.random.default_rng(3)
    h, g = symmetric_of(rng, 50), rng.standard_normal(50)
    free = {"exact": 50, "lanczos": products, "lanczos_sv": products, "auto": products}
    even = 2 * (products // 2)
    given = {"interval": (0.1, 25.0)}
    for method, options, expected in [
        *((name, {}, count) for name, count in free.items()),
        ("series", {"scale": 400.0}, even),
        ("series", {}, even + 8),
        ("chebyshev", given, even),
        ("quadrature", given, even),
        *([("chebyshev", {}, even + 8), ("quadrature", {}, even + 8)] if damping else []),
    ]:
        if method == "quadrature" and products == 1:
            continue
        hvp, calls = counted(h)
        found = inverse_abs_apply(hvp, g, products=products, damping=damping, method=method, **options)
        assert found.products == len(calls) == expected, method


@pytest.mark.parametrize("method", METHODS)
def test_many_runs_at_once_are_the_runs_one_by_one(method):
    rng = np.random.default_rng(4)
    h, g = spectral(rng, np.array([2.0, -1.0, 0.7, 1.4, -0.6]), (2, 3)), rng.standard_normal((2, 3, 5))
    g[0, 1] = 0.0
    options = {"interval": (0.5, 2.2)} if method in ("chebyshev", "quadrature") else {}
    for knobs in knobs_of(method):
        found, spent = inverse_abs_apply(matvec_of(h), g, products=4, method=method, **options, **knobs), []
        for i in np.ndindex(2, 3):
            alone = inverse_abs_apply(matvec_of(h[i]), g[i], products=4, method=method, **options, **knobs)
            np.testing.assert_allclose(found.direction[i], alone.direction, rtol=1e-10, atol=1e-13)
            spent.append(alone.products)
        assert found.products == max(spent)
        assert found.direction[0, 1].tolist() == [0.0] * 5


@pytest.mark.parametrize("mode", ["abs", "square"])
@pytest.mark.parametrize("method", ["exact", "series", "lanczos", "lanczos_sv"])
def test_every_run_may_have_its_damping(method, mode, backend):
    rng = np.random.default_rng(5)
    h, g = spectral(rng, np.array([2.0, -1.5, 1.6, 1.4]), (3,)), rng.standard_normal((3, 4))
    d, hb = np.array([0.1, 0.7, 3.0]), backend.asarray(h)
    found = inverse_abs_apply(
        lambda v: (hb @ v[..., None])[..., 0],
        backend.asarray(g),
        products=90 if method == "series" else 4,
        damping=backend.asarray(d),
        mode=mode,
        method=method,
        accelerate=None,
    )
    tolerance = 1e-10 if backend.dtype_name == "float64" else 2e-5
    np.testing.assert_allclose(to_numpy(found.direction), exact(h, g, mode, d), rtol=0, atol=tolerance)


# -- Lanczos, indefinite and undamped ---------------------------------------------------------------------------------


def test_the_sv_form_never_spikes_where_the_plain_form_does():
    plain, sv = [], []
    for seed in (0, 1, 3):
        problem = gaussian(seed, n=100)
        wanted, space = problem.direction(), lanczos(problem.hvp, problem.gradient, 98)
        for m in range(1, 99):
            # The first m steps of a long run are a run of m steps.
            part = Lanczos(space.basis[:m], space.alpha[:m], space.beta[:m], space.start_norm, m)
            plain.append(error(lanczos_function(part), wanted))
            sv.append(error(lanczos_sv_function(part), wanted))
    assert max(sv) < 1
    assert max(plain) > 50
    rng = np.random.default_rng(0)
    h, g = rng.standard_normal((2000, 6, 6)), rng.standard_normal((2000, 6))
    h = h + np.swapaxes(h, -1, -2)
    wanted = exact(h, g)
    for m in range(1, 7):
        found = lanczos_sv_function(lanczos(matvec_of(h), g, m))
        assert (np.linalg.norm(found - wanted, axis=-1) <= np.linalg.norm(wanted, axis=-1)).all()


def test_the_sv_form_takes_the_root_of_the_projected_square():
    rng = np.random.default_rng(6)
    h, g = symmetric_of(rng, 12), rng.standard_normal(12)
    for m in (1, 3, 7, 12):
        space = lanczos(matvec_of(h), g, m)
        q = space.basis
        for knobs in ({}, {"mode": "abs", "damping": 0.5}, {"mode": "square", "damping": 0.5}):
            values, vectors = np.linalg.eigh(q @ h @ h @ q.T)
            root = np.sqrt(values)
            sizes = np.hypot(root, 0.5) if knobs.get("mode") == "square" else root + knobs.get("damping", 0.0)
            wanted = q.T @ (vectors @ (vectors.T @ (q @ g) / sizes))
            np.testing.assert_allclose(
                lanczos_sv_function(space, **knobs), wanted, rtol=0, atol=1e-9 * np.abs(wanted).max()
            )


def test_lanczos_is_exact_once_the_space_is_exhausted():
    rng = np.random.default_rng(7)
    h, g = spectral(rng, np.repeat([3.0, -0.01, 0.4], 10)), rng.standard_normal(30)
    for method in ("lanczos", "lanczos_sv"):
        found = inverse_abs_apply(matvec_of(h), g, products=16, method=method)
        assert found.products == 3
        assert error(found.direction, exact(h, g)) < 1e-10
    full = inverse_abs_apply(matvec_of(symmetric_of(rng, 30)), g, products=99, damping=0.1)
    assert full.products == 30


def test_directions_without_an_inverse_get_nothing():
    h, g = np.array([2.0, -1.0, 0.0, 0.0]), np.ones(4)
    for method in ("exact", "lanczos", "lanczos_sv"):
        found = inverse_abs_apply(lambda v: h * v, g, method=method)
        np.testing.assert_allclose(found.direction, [0.5, 1.0, 0.0, 0.0], rtol=0, atol=1e-12)
        zero = inverse_abs_apply(lambda v: 0 * v, g, method=method)
        assert zero.direction.tolist() == [0.0] * 4


# -- polynomials and poles --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [{}, {"damping": 0.4, "mode": "abs"}, {"damping": 0.4}], ids=str)
@pytest.mark.parametrize("products", [1, 2, 9, 24])
def test_chebyshev_is_the_polynomial_of_the_squares(products, knobs):
    h, (low, high) = np.array([0.5, -0.7, 1.0, 1.9, -2.0, 1.3]), (0.4, 2.1)
    found = inverse_abs_apply(
        lambda v: h * v, np.ones(6), products=products, method="chebyshev", interval=(low, high), **knobs
    )
    degree, d = products // 2, knobs.get("damping", 0.0)

    def wanted(x):
        square = 0.5 * (high**2 + low**2) + 0.5 * (high**2 - low**2) * x
        return 1 / (np.sqrt(square) + d) if knobs.get("mode") == "abs" else 1 / np.sqrt(square + d**2)

    # The coefficients of the infinite expansion, cut off: those of a much longer interpolant.
    cut = chebyshev.chebinterpolate(wanted, 400)[: degree + 1]
    place = (h**2 - 0.5 * (high**2 + low**2)) / (0.5 * (high**2 - low**2))
    np.testing.assert_allclose(found.direction, chebyshev.chebval(place, cut), rtol=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "knobs"),
    [
        (1e-5, 1.0, {}),
        (3.0, 3e7, {}),
        (0.0, 2.0, {"mode": "abs", "damping": 2e-5}),
        (1e-5, 1.0, {"mode": "square", "damping": 1e-5}),
        (0.5, 1.0, {"mode": "abs", "damping": 7.0}),
    ],
    ids=str,
)
def test_chebyshev_coefficients_at_large_condition_numbers(low, high, knobs):
    mode, d = knobs.get("mode", "none"), knobs.get("damping", 0.0)

    def size(t):  # of the |h| at the argument -cos t
        h = math.hypot(low, math.sqrt(high**2 - low**2) * math.sin(t / 2))
        return math.hypot(h, d) if mode == "square" else h + d

    # An integral for each coefficient, in pieces, because the integrand has a peak of width low/high.
    pieces = [0.0, *np.geomspace(max(low, d) / high / 2, math.pi, 60)]
    found = chebyshev_coefficients(low, high, 40, **knobs)
    for k in (0, 1, 2, 39, 40):
        parts = [
            integrate.quad(lambda t, k=k: math.cos(k * t) / size(t), *pair, epsrel=1e-11, epsabs=0, limit=200)[0]
            for pair in itertools.pairwise(pieces)
        ]
        wanted = (-1) ** k * sum(parts) / math.pi * (1 if k == 0 else 2)
        assert found[k] == pytest.approx(wanted, rel=1e-9, abs=1e-11 * abs(found[0]))
    if mode == "none":
        assert found[0] == pytest.approx(2 / math.pi / high * special.ellipkm1((low / high) ** 2), rel=1e-13)
    assert chebyshev_coefficients(low, high, 3, **knobs) == pytest.approx(found[:4], rel=1e-10)


@pytest.mark.parametrize("products", [8, 34, 98])
@pytest.mark.parametrize("kappa", [1e2, 1e4])
def test_chebyshev_is_the_best_polynomial_on_a_spectrum_of_chebyshev_points(kappa, products):
    # Of all polynomials of the degree the truncated expansion is nearest in the mean that these points sample.
    count = int(10 * kappa)
    angles = (np.arange(count) + 0.5) * np.pi / count
    h = np.hypot(1 / kappa, np.sqrt(1 - kappa**-2) * np.cos(angles / 2)) * (-1.0) ** np.arange(count)
    found = inverse_abs_apply(
        lambda v: h * v, np.ones(count), products=products, method="chebyshev", interval=(1 / kappa, 1.0)
    )
    basis = np.cos(np.outer(np.arange(products // 2 + 1), angles))  # orthogonal on these points
    wanted = (basis @ (1 / abs(h)) / (basis**2).sum(axis=1)) @ basis
    best = error(wanted, 1 / abs(h))
    assert 0.1 < best < 1
    assert error(found.direction, 1 / abs(h)) == pytest.approx(best, rel=1e-8)


def test_quadrature_is_the_sum_over_its_poles():
    rng = np.random.default_rng(8)
    h, g, d = spectral(rng, np.linspace(-1.0, 1.5, 9)), rng.standard_normal(9), 0.2
    found = inverse_abs_apply(
        matvec_of(h), g, products=40, damping=d, method="quadrature", interval=(0.0, 1.6), poles=5
    )
    shifts, weights = inverse_root_quadrature(d**2, 1.6**2 + d**2, 5)
    wanted = sum(w * np.linalg.solve(h @ h + (d**2 + t) * np.eye(9), g) for t, w in zip(shifts, weights, strict=True))
    assert error(found.direction, wanted) < 1e-9
    assert 1e-6 < error(wanted, exact(h, g, damping=d)) < 1e-2


def test_intervals_that_are_not_given_hold_the_spectrum():
    for seed in range(5):
        problem = gaussian(seed, n=40)
        for method in ("chebyshev", "quadrature"):
            found = inverse_abs_apply(
                problem.hvp, problem.gradient, products=120, damping=2.0, mode="square", method=method, poles=14
            )
            assert error(found.direction, problem.direction("square", 2.0)) < 1e-3


def test_vectors_in_memory_are_as_the_table_says():
    g, h = np.ones(30), np.linspace(-1, 2, 30)

    def vectors(method, **options):
        return inverse_abs_apply(lambda v: h * v, g, products=12, damping=0.3, method=method, **options).vectors

    assert [vectors("lanczos"), vectors("lanczos_sv")] == [15, 15]
    assert vectors("series", order=2) == 2 * 2 + 5
    assert vectors("chebyshev") == 5
    assert vectors("quadrature", poles=9) == 2 * 9 + 3
    assert math.isfinite(vectors("exact"))


@pytest.mark.parametrize(
    "options",
    [
        {"damping": np.asarray(-1.0), "mode": "abs"},
        {"damping": np.ones(3), "mode": "abs"},
        {"damping": 0.1, "method": "chebyshev", "interval": 3.0},
        {"damping": 0.1, "method": "chebyshev", "interval": (1.0,)},
    ],
    ids=["damping negative", "damping for other runs", "interval a number", "interval of one"],
)
def test_knobs_of_the_wrong_shape_or_sign_are_refused(options):
    with pytest.raises(ValueError):
        inverse_abs_apply(lambda v: v, np.ones(2), **options)


def test_no_damping_may_be_a_numpy_zero():
    found = inverse_abs_apply(lambda v: 2 * v, np.ones(2), damping=np.float64(0.0))
    np.testing.assert_allclose(found.direction, [0.5, 0.5], rtol=1e-14)


def test_the_default_order_suits_every_accelerator():
    for name in ACCELERATORS:
        found = inverse_abs_apply(lambda v: 2 * v, np.ones(2), method="series", scale=4.5, accelerate=name)
        assert np.isfinite(found.direction).all(), name
