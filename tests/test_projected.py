"""The saddle-free step in a Krylov space, and how much of the true one such a space can carry.

Oracles: 60-digit numbers; the dense |H|^{-1} g through NumPy's eigenvalues; least squares over the Krylov space; the
linear system that the thesis prints, on a spectrum of three.
"""

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from krylov_cases import krylov_basis, matvec_of, symmetric, with_spectrum

from refimpl.arrays import machine_epsilon, to_numpy
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.projected import projected_step, reconstruction
from refimpl.curvature.subspace import Subspace, of_lanczos

GOLDEN = golden("curveball_kryball")
H, G = np.array(GOLDEN["lanczos_5x5"]["H"]), np.array(GOLDEN["lanczos_5x5"]["g"])
STEPS = GOLDEN["sfn_projected"]


def saddle_free(h, g):
    """-|H|^{-1} g."""
    values, vectors = np.linalg.eigh(h)
    return -vectors @ ((vectors.T @ g) / np.abs(values))


def step_in(h, g, m, **clip):
    space = of_lanczos(lanczos(matvec_of(h), g, m))
    return space.combine(projected_step(space, float(np.linalg.norm(g)), **clip).coordinates)


# -- the step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("m", range(1, 6))
def test_golden(m, backend):
    h, g = backend.asarray(H), backend.asarray(G)
    space = of_lanczos(lanczos(lambda v: h @ v, g, m))
    found = projected_step(space, float(np.linalg.norm(G)))
    step, tolerance = to_numpy(space.combine(found.coordinates)), 5e3 * machine_epsilon(g)
    np.testing.assert_allclose(step, STEPS[str(m)]["step"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(found.ritz_values, GOLDEN["lanczos_5x5"]["ritz_values"][str(m)], rtol=0, atol=tolerance)
    assert np.linalg.norm(step) == pytest.approx(STEPS[str(m)]["norm"], rel=tolerance)
    assert G @ step == pytest.approx(STEPS[str(m)]["g_dot_step"], rel=tolerance)
    assert (type(found.coordinates), found.coordinates.dtype) == (np.ndarray, np.float64)


def test_golden_clip():
    np.testing.assert_allclose(
        step_in(H, G, 3, clip_absolute=2.5, clip_relative=0.0), STEPS["M3_clip_eps2.5"], rtol=0, atol=1e-13
    )
    largest = max(np.abs(GOLDEN["lanczos_5x5"]["ritz_values"]["3"]))
    relative = step_in(H, G, 3, clip_absolute=0.0, clip_relative=2.5 / largest)
    np.testing.assert_allclose(relative, STEPS["M3_clip_eps2.5"], rtol=0, atol=1e-12)


def test_golden_true_step_and_newton_step():
    np.testing.assert_allclose(step_in(H, G, 5), STEPS["true_SFN"], rtol=0, atol=1e-12)
    np.testing.assert_allclose(saddle_free(H, G), STEPS["true_SFN"], rtol=0, atol=1e-13)
    # Newton's step descends here as well, but it is another one.
    assert np.linalg.norm(step_in(H, G, 5) + np.linalg.solve(H, G)) > 0.5


def test_clip_takes_the_larger_of_the_two():
    matrix = np.diag([1e-9, -1.0, 100.0])
    space = Subspace(np.eye(3), matrix)
    gradient_along = {}
    for absolute, relative in [(1e-3, 1e-6), (1e-8, 1e-4), (0.0, 0.0)]:
        found = projected_step(space, 1.0, clip_absolute=absolute, clip_relative=relative)
        gradient_along[absolute, relative] = found.coordinates[0]
    assert gradient_along == pytest.approx({(1e-3, 1e-6): -1e3, (1e-8, 1e-4): -1e2, (0.0, 0.0): -1e9})


def test_sign_of_the_saddle():
    # x² - y² from (1.5, 1.5): to (0, 3), the double of what is wrong in y.
    h, g = np.diag([2.0, -2.0]), np.array([3.0, -3.0])
    np.testing.assert_allclose(np.array([1.5, 1.5]) + step_in(h, g, 2), [0.0, 3.0], rtol=0, atol=1e-14)


def test_zero_matrix_is_finite():
    found = projected_step(Subspace(np.eye(2), np.zeros((2, 2))), 1.0, clip_absolute=0.0)
    assert np.isfinite(found.coordinates).all()
    assert found.coordinates[0] < 0


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8), m=st.integers(1, 8), size=st.integers(-30, 30))
@settings(max_examples=150, deadline=None)
def test_it_descends_and_all_of_the_space_is_the_dense_step(seed, n, m, size):
    rng = np.random.default_rng(seed)
    h, g = symmetric(rng, n), rng.standard_normal(n) * 10.0**size
    step = step_in(h, g, m)
    assert g @ step < 0
    if m >= n:
        wanted = saddle_free(h, g)
        bend = np.abs(np.linalg.eigvalsh(h))
        np.testing.assert_allclose(step, wanted, rtol=0, atol=1e-9 * bend.max() / bend.min() * np.linalg.norm(wanted))
    # Length belongs to it: a direction alone would not double with the gradient.
    np.testing.assert_allclose(step_in(h, 2 * g, m), 2 * step, rtol=1e-12)


def test_wrong_calls():
    space = Subspace(np.eye(2), np.eye(2))
    with pytest.raises(ValueError, match="clip_absolute must be finite and at least zero, got -1"):
        projected_step(space, 1.0, clip_absolute=-1.0)
    with pytest.raises(ValueError, match="clip_relative must be finite and at least zero, got nan"):
        projected_step(space, 1.0, clip_relative=float("nan"))
    with pytest.raises(ValueError, match="no rows: its gradient is zero or not finite"):
        projected_step(Subspace(np.zeros((0, 2)), np.zeros((0, 0))), 0.0)


# -- how good it can be -----------------------------------------------------------------------------------------------


def test_reconstruction_golden():
    found = reconstruction(matvec_of(H), G, 5)
    for i in range(5):
        case = STEPS[str(i + 1)]
        assert found.used[i] == pytest.approx(case["rel_error_vs_true"], rel=1e-10, abs=1e-13)
        assert found.best[i] == pytest.approx(case["best_in_subspace_rel_error"], rel=1e-10, abs=1e-13)
    assert found.used[3] > found.used[2]  # it may rise; the best cannot
    assert (np.diff(found.best) <= 0).all()


@pytest.mark.parametrize("n", [3, 12, 40])
def test_reconstruction_against_least_squares_over_the_space(n):
    rng = np.random.default_rng(n)
    h, g = symmetric(rng, n), rng.standard_normal(n)
    steps = min(n, 9)
    found, z = reconstruction(matvec_of(h), g, steps), saddle_free(h, g)
    before = np.zeros(n)
    for m in range(1, steps + 1):
        basis, step = krylov_basis(h, g, m), step_in(h, g, m, clip_absolute=0.0, clip_relative=0.0)
        nearest = basis @ np.linalg.lstsq(basis, z, rcond=None)[0]
        size = np.linalg.norm(z)
        values = found.best[m - 1], found.used[m - 1], found.cosine[m - 1], found.change[m - 1]
        wanted = (
            np.linalg.norm(z - nearest) / size,
            np.linalg.norm(z - step) / size,
            z @ step / (size * np.linalg.norm(step)),
            np.linalg.norm(step - before) / np.linalg.norm(step),
        )
        np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-9)
        before = step


def test_reconstruction_by_the_system_of_the_thesis():
    # Powers of H on g weighted by the alpha of eq. 5.12 are -|H|^{-1} g, where as many powers as eigenvalues are there.
    case = GOLDEN["reconstruction_5_12"]
    values, alpha = np.array(case["eigenvalues"]), np.array(case["alpha"])
    np.testing.assert_allclose(np.array(case["M"]) @ alpha, -np.ones(3), rtol=0, atol=1e-14)
    h, vectors = with_spectrum(values, np.random.default_rng(0))
    g = vectors @ np.array([1.0, -2.0, 0.5])
    powers = sum(a * np.linalg.matrix_power(h, k) @ g for k, a in enumerate(alpha))
    np.testing.assert_allclose(step_in(h, g, 3), powers, rtol=0, atol=1e-12)
    found = reconstruction(matvec_of(h), g, 3)
    assert found.best[2] == pytest.approx(0.0, abs=1e-7)
    assert found.used[2] == pytest.approx(0.0, abs=1e-7)
    assert found.cosine[2] == pytest.approx(1.0, rel=1e-12)


def test_reconstruction_ends_with_the_space_and_costs_n_more():
    h, vectors = with_spectrum([2.0, 2.0, -1.0, -1.0, 3.0], np.random.default_rng(1))
    calls = []
    found = reconstruction(lambda v: calls.append(1) or h @ v, vectors @ np.ones(5), 5)
    assert found.best.shape == found.used.shape == found.cosine.shape == found.change.shape == (3,)
    assert len(calls) == 5 + 3
    # An eigenvalue of zero is left out of the true step.
    flat = reconstruction(matvec_of(np.diag([0.0, 1.0, -2.0])), np.array([0.0, 1.0, 1.0]), 3)
    assert flat.used[-1] == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("gradient", "steps", "message"),
    [
        (np.zeros(5), 3, "not zero"), (np.ones((2, 5)), 3, r"must be \(n,\)"), (np.ones(5), 0, "steps must be"),
        (np.full(5, np.nan), 3, "must be finite"), ([1.0] * 5, 3, "must be an array"),
    ],
)  # fmt: skip
def test_wrong_reconstruction(gradient, steps, message):
    with pytest.raises(ValueError, match=message):
        reconstruction(lambda v: v @ H, gradient, steps)
