"""Conjugate gradients as an inner solver.

Oracles: dense solves; SciPy's ``cg``, which must be at the same place after as many steps; golden iterates in 60-digit
arithmetic; the stopping rules written down once more over the whole history of the untruncated run; a test that counts
products itself.
"""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.truncated_cg import truncated_cg

GOLDEN = golden("curveball_kryball")["hessian_free_cg"]
SEEDS = st.integers(0, 2**32 - 1)


def definite(rng, n, condition=100.0):
    q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    a = (q * np.geomspace(1.0, condition, n)) @ q.T
    return 0.5 * (a + a.T)


def model(matrix, gradient, z):
    return gradient @ z + 0.5 * z @ matrix @ z


def matvec_of(matrix):
    return lambda v: (matrix @ v[..., None])[..., 0]


def counted(matrix):
    """``matvec_of`` and the list of the vectors it was asked about."""
    asked = []
    return lambda v: asked.append(np.array(v)) or matvec_of(matrix)(v), asked


def history(matrix, gradient, steps, start=None):
    """z after 0, 1, … steps, each by a run of its own that never stops early."""
    first = np.zeros_like(gradient) if start is None else start
    runs = [truncated_cg(matvec_of(matrix), gradient, steps=i, start=start, stopping="never") for i in range(1, steps)]
    return [first, *(run.x for run in runs)]


# -- the iteration ----------------------------------------------------------------------------------------------------


def test_golden_iterates(backend):
    h, g = backend.asarray(GOLDEN["H"]), backend.asarray(GOLDEN["J"])
    tolerance = 1e-13 if backend.dtype_name == "float64" else 1e-5
    for i, expected in enumerate(GOLDEN["iterates_z"], start=1):
        found = truncated_cg(lambda v: h @ v, g, steps=i, stopping="never")
        np.testing.assert_allclose(to_numpy(found.x), expected, rtol=tolerance, atol=tolerance)
        assert (found.products, int(found.steps), bool(found.negative_curvature)) == (i, i, False)
        for part in (found.x, found.residual, found.model, found.steps):
            assert (dtype_name(part.dtype), device_of(part)) == (backend.dtype_name, backend.device)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_all_steps_solve_the_system(n):
    rng = np.random.default_rng(n)
    a, g = definite(rng, n), rng.standard_normal(n)
    found = truncated_cg(matvec_of(a), g, steps=2 * n, stopping="never")
    np.testing.assert_allclose(found.x, np.linalg.solve(a, -g), rtol=1e-9, atol=1e-11)
    assert found.model == pytest.approx(-0.5 * g @ np.linalg.solve(a, g), rel=1e-12)


@pytest.mark.parametrize("warm", [False, True])
def test_iterates_are_those_of_scipy(warm):
    rng = np.random.default_rng(1)
    a, g = definite(rng, 20), rng.standard_normal(20)
    start = rng.standard_normal(20) if warm else None
    theirs = []
    scipy.sparse.linalg.cg(a, -g, x0=start, rtol=0, maxiter=12, callback=lambda x: theirs.append(x.copy()))
    for found, expected in zip(history(a, g, 13, start)[1:], theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-10)


@given(seed=SEEDS, warm=st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_it_reports(seed, warm):
    rng = np.random.default_rng(seed)
    n, steps = int(rng.integers(2, 12)), int(rng.integers(1, 6))
    a, g = definite(rng, n), rng.standard_normal(n)
    start = rng.standard_normal(n) if warm else None
    product, asked = counted(a)
    found = truncated_cg(product, g, steps=steps, start=start, stopping="never")
    assert found.residual == pytest.approx(np.linalg.norm(g + a @ found.x), rel=1e-6, abs=1e-10)
    assert found.model == pytest.approx(model(a, g, found.x), rel=1e-9, abs=1e-9)
    assert found.products == len(asked) == min(int(found.steps) + warm, steps + warm)


def test_the_first_direction_is_the_residual_at_the_start():
    rng = np.random.default_rng(2)
    a, g, start = definite(rng, 6), rng.standard_normal(6), rng.standard_normal(6)
    product, asked = counted(a)
    truncated_cg(product, g, steps=3, start=start)
    np.testing.assert_array_equal(asked[0], start)
    np.testing.assert_allclose(asked[1], -(g + a @ start), rtol=1e-14)
    assert asked[2] @ a @ asked[1] == pytest.approx(0.0, abs=1e-9)  # conjugate


def test_it_minimizes_the_model_over_start_plus_krylov_space():
    rng = np.random.default_rng(3)
    a, g, start = definite(rng, 9), rng.standard_normal(9), rng.standard_normal(9)
    residual = -(g + a @ start)
    space = np.linalg.qr(np.stack([residual, a @ residual, a @ a @ residual], axis=-1))[0]
    inside = np.linalg.solve(space.T @ a @ space, space.T @ residual)
    found = truncated_cg(matvec_of(a), g, steps=3, start=start, stopping="never")
    np.testing.assert_allclose(found.x, start + space @ inside, rtol=1e-8, atol=1e-10)


# -- when it stops ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-8, 1e-3, 0.1, 1.0, 1e6])
@pytest.mark.parametrize("warm", [False, True])
def test_forcing_rule(size, warm):
    rng = np.random.default_rng(4)
    a, g = definite(rng, 25, 1e4), rng.standard_normal(25)
    g = size * g / np.linalg.norm(g)
    start = 0.1 * np.linalg.solve(a, -g) if warm else None
    residuals = [np.linalg.norm(g + a @ z) for z in history(a, g, 80, start)]
    bound = min(0.5, math.sqrt(size)) * size
    expected = next(i for i, r in enumerate(residuals) if r <= bound)
    found = truncated_cg(matvec_of(a), g, steps=80, start=start)
    assert expected >= 1
    assert int(found.steps) == expected
    assert found.residual <= bound


def test_a_start_that_is_good_enough_costs_one_product():
    rng = np.random.default_rng(5)
    a, g = definite(rng, 8), rng.standard_normal(8)
    product, asked = counted(a)
    start = np.linalg.solve(a, -g)
    found = truncated_cg(product, g, steps=9, start=start)
    assert (found.products, len(asked), int(found.steps)) == (1, 1, 0)
    np.testing.assert_array_equal(found.x, start)


def progress_stop(models):
    """The first i > k whose last k steps gained a share of less than 0.0005 k; ``models`` begins with step 0."""
    for i in range(1, len(models)):
        k = max(10, math.ceil(0.1 * i))
        if i > k and models[i] < 0 and (models[i] - models[i - k]) / models[i] < 0.0005 * k:
            return i
    return None


@pytest.mark.parametrize(
    ("values", "warm"),
    [
        (np.geomspace(1.0, 100.0, 30), False),
        (np.geomspace(1.0, 100.0, 30), True),
        (np.linspace(1.0, 1e4, 60), True),
        (np.geomspace(1.0, 1e4, 300), False),  # long enough for i/10 to have its say
    ],
    ids=["30-cold", "30-warm", "60-warm", "300-cold"],
)
def test_progress_rule(values, warm):
    rng, n = np.random.default_rng(6), len(values)
    g = rng.standard_normal(n)
    start = rng.standard_normal(n) / values if warm else None
    z, r = (np.zeros(n), -g) if start is None else (start, -g - values * start)
    d, models = r, [g @ z + 0.5 * z @ (values * z)]
    while len(models) < 160 and np.linalg.norm(r) > 1e-12:  # plain CG, to know the model after every step
        length = (r @ r) / (d @ (values * d))
        z, r_next = z + length * d, r - length * values * d
        d, r = r_next + (r_next @ r_next) / (r @ r) * d, r_next
        models.append(g @ z + 0.5 * z @ (values * z))
    expected = progress_stop(models)
    found = truncated_cg(lambda v: values * v, g, steps=160, start=start, stopping="progress")
    assert expected > 10
    assert int(found.steps) == expected
    assert (expected > 110) == (n == 300)


def test_never_goes_on_where_the_others_stop():
    rng = np.random.default_rng(7)
    a, g = definite(rng, 40, 1e3), rng.standard_normal(40)
    taken = {
        rule: int(truncated_cg(matvec_of(a), g, steps=45, stopping=rule).steps)
        for rule in ("residual", "progress", "never")
    }
    assert taken["residual"] < taken["progress"] < taken["never"] == 45


def test_gradient_of_zero_needs_no_product():
    product, asked = counted(np.eye(4))
    for rule in ("residual", "progress", "never"):
        found = truncated_cg(product, np.zeros(4), steps=5, stopping=rule)
        assert (found.products, found.x.tolist(), float(found.model)) == (0, [0.0] * 4, 0.0)
    assert not asked


# -- negative curvature -----------------------------------------------------------------------------------------------


def test_negative_curvature_at_once_gives_steepest_descent():
    g = np.array([1.0, 2.0])
    for matrix in (np.diag([-1.0, -1.0]), np.diag([1.0, -1.0]), np.zeros((2, 2))):
        found = truncated_cg(matvec_of(matrix), g, steps=5)
        np.testing.assert_array_equal(found.x, -g)
        assert (bool(found.negative_curvature), int(found.steps), found.products) == (True, 0, 1)


def test_report_after_negative_curvature_at_once_is_about_the_answer():
    g, matrix = np.array([1.0, 2.0]), np.diag([1.0, -1.0])
    found = truncated_cg(matvec_of(matrix), g, steps=5)
    assert found.model == pytest.approx(model(matrix, g, found.x))
    assert found.residual == pytest.approx(np.linalg.norm(g + matrix @ found.x))


def test_negative_curvature_later_keeps_what_was_found():
    rng = np.random.default_rng(8)
    q = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    values = np.r_[-0.2, np.geomspace(1.0, 50.0, 11)]
    a, g = (q * values) @ q.T, q @ np.r_[0.01, np.ones(11)]
    found = truncated_cg(matvec_of(a), g, steps=12, stopping="never")
    taken = int(found.steps)
    assert bool(found.negative_curvature)
    assert 1 <= taken < 12
    assert found.products == taken + 1
    np.testing.assert_allclose(found.x, history(a, g, taken + 1)[taken], rtol=1e-12)
    assert g @ found.x < 0
    assert found.model == pytest.approx(model(a, g, found.x), rel=1e-10)


def test_negative_curvature_keeps_a_start():
    g, start = np.array([1.0, 2.0]), np.array([0.25, -0.5])
    found = truncated_cg(matvec_of(np.diag([1.0, -1.0])), g, steps=5, start=start)
    np.testing.assert_array_equal(found.x, start)
    assert bool(found.negative_curvature)
    zero = truncated_cg(matvec_of(np.diag([1.0, -1.0])), g, steps=5, start=np.zeros(2))
    np.testing.assert_array_equal(zero.x, -g)


def test_curvature_that_is_not_a_number_ends_the_run():
    found = truncated_cg(lambda v: v * np.nan, np.ones(3), steps=5)
    assert bool(found.negative_curvature)
    np.testing.assert_array_equal(found.x, -np.ones(3))


# -- many runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["residual", "progress", "never"])
@pytest.mark.parametrize("warm", [False, True])
def test_batch_rows_are_the_single_runs(rule, warm, backend):
    rng = np.random.default_rng(9)
    n = 14
    matrices = np.stack([definite(rng, n, c) for c in (2.0, 20.0, 100.0)] + [np.eye(n), np.diag([-1.0] * n)])
    g = rng.standard_normal((5, n)) * np.array([1.0, 1e-3, 10.0, 1.0, 1.0])[:, None]
    start = 0.01 * rng.standard_normal((5, n)) if warm else None

    def solve(rows):
        a = backend.asarray(matrices[rows])
        given = None if start is None else backend.asarray(start[rows])
        return truncated_cg(
            lambda v: (a @ v[..., None])[..., 0], backend.asarray(g[rows]), steps=12, start=given, stopping=rule
        )

    single = backend.dtype_name == "float32"
    together = solve(slice(None))
    alone = [solve(i) for i in range(5)]
    # In float32 rounding may move the last step of a rule, so only the answers are compared there.
    if not single:
        assert to_numpy(together.steps).tolist() == [float(run.steps) for run in alone]
        assert together.products == max(run.products for run in alone)
    assert to_numpy(together.negative_curvature).tolist() == [False] * 4 + [True]
    for i, run in enumerate(alone):
        tolerance = (2e-2 if single else 1e-6) * np.abs(to_numpy(run.x)).max()
        np.testing.assert_allclose(to_numpy(together.x)[i], to_numpy(run.x), rtol=0, atol=tolerance)
        if not single:
            assert float(together.model[i]) == pytest.approx(float(run.model), rel=1e-8)


def test_float32_reaches_the_rounding_of_float32():
    rng = np.random.default_rng(10)
    a, g = definite(rng, 20, 10.0), rng.standard_normal(20)
    found = truncated_cg(matvec_of(a.astype("float32")), g.astype("float32"), steps=200, stopping="never")
    assert int(found.steps) < 60  # the residual reached rounding
    assert found.x.dtype == np.float32
    np.testing.assert_allclose(found.x, np.linalg.solve(a, -g), rtol=1e-4, atol=1e-5)
