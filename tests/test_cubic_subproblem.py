"""The cubic-regularized subproblem: the global minimizer of g·s + s·Hs/2 + sigma/3 |s|^3.

Oracles: 60-digit numbers; the conditions that characterize a global minimizer (Nesterov & Polyak; Cartis, Gould &
Toint), with eigenvalues from NumPy; a fine grid in the plane; SciPy's minimizer from many starts; ELMO's scalar step in
one dimension.
"""

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from krylov_cases import with_spectrum
from scipy import optimize

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.cubic import cubic_step, elmo_step, least_majorizer

GOLDEN = golden("elmo")
KINDS = ["indefinite", "definite", "hard", "near hard", "degenerate", "semidefinite", "flat with slope", "no gradient"]


def model(h, g, sigma, s):
    return g @ s + 0.5 * s @ h @ s + sigma / 3 * np.linalg.norm(s) ** 3


def draw(rng, kind, k):
    """Matrix, gradient and sigma of a subproblem of a kind."""
    values = np.sort(rng.standard_normal(k)) * 10.0 ** rng.uniform(-2, 2)
    if kind == "definite":
        values = np.abs(values) + 1e-3
    if kind in ("hard", "near hard", "degenerate", "no gradient"):
        values[0] = -abs(values[0]) - 0.1
        values = np.sort(values)
    if kind == "degenerate" and k > 1:
        values[1] = values[0]
    if kind in ("semidefinite", "flat with slope"):
        values = np.abs(values)
        values[0] = 0.0
    h, vectors = with_spectrum(values, rng)
    g = rng.standard_normal(k) * 10.0 ** rng.uniform(-3, 2)
    if kind == "no gradient":
        g = 0 * g
    if kind in ("hard", "near hard", "degenerate", "semidefinite"):
        lowest = vectors[:, np.isclose(values, values[0], rtol=1e-12, atol=0)]
        for _ in range(2):
            g = g - lowest @ (lowest.T @ g)
    if kind == "near hard":
        g = g + 10.0 ** rng.uniform(-13, -6) * np.linalg.norm(g) * vectors[:, 0]
    return h, g, 10.0 ** rng.uniform(-3, 3)


def assert_solves(h, g, sigma, found):
    """The conditions for a global minimizer, and what the answer says about itself."""
    s, nu = found.step, found.multiplier
    length = np.linalg.norm(s)
    values = np.linalg.eigvalsh(h)
    size = np.abs(values).max() + nu
    assert nu >= 0
    # Relative to the length: (H + nu I) s = -g.
    assert np.linalg.norm(h @ s + nu * s + g) <= 1e-12 * (size * length + np.linalg.norm(g))
    assert values[0] + nu >= -1e-13 * size
    # nu loses what is missing between it and the pole where s is long: allow what rounding of H gives.
    assert nu == pytest.approx(sigma * length, rel=1e-9)
    terms = np.linalg.norm(g) * length + size * length**2
    assert found.model == pytest.approx(model(h, g, sigma, s), rel=1e-9, abs=1e-13 * terms)
    assert found.model <= 0


# -- golden numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["arc_easy", "arc_hard", "arc_g1_zero_not_hard", "arc_zero_gradient"])
def test_golden(name, backend):
    case = GOLDEN[name]
    h, g = backend.asarray(case["H"]), backend.asarray(case["grad"])
    found = cubic_step(h, g, case["sigma"])
    assert (dtype_name(found.step.dtype), device_of(found.step)) == (backend.dtype_name, backend.device)
    tolerance = 1e-13 if backend.dtype_name == "float64" else 2e-6
    wanted = np.array(case["s_plus"] if case["hard"] else case["s"])
    np.testing.assert_allclose(to_numpy(found.step), wanted, rtol=0, atol=tolerance * np.linalg.norm(wanted))
    assert found.multiplier == pytest.approx(case["nu"], rel=tolerance)
    assert found.kind == ("hard" if case["hard"] else "regular")
    if "model" in case:
        assert found.model == pytest.approx(case["model"], rel=tolerance)


def test_both_signs_of_a_hard_case_are_as_good():
    case = GOLDEN["arc_hard"]
    h, g, sigma = np.array(case["H"]), np.array(case["grad"]), case["sigma"]
    for key in ("s_plus", "s_minus"):
        assert model(h, g, sigma, np.array(case[key])) == pytest.approx(case["model"], rel=1e-14)
    assert cubic_step(h, g, sigma).model == pytest.approx(case["model"], rel=1e-14)


# -- the solution -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_of_a_global_minimizer(kind):
    rng, seen = np.random.default_rng(KINDS.index(kind)), set()
    for i in range(300):
        h, g, sigma = draw(rng, kind, (2 if kind == "near hard" else 1) + i % 7)
        found = cubic_step(h, g, sigma)
        assert_solves(h, g, sigma, found)
        seen.add(found.kind)
    expected = {
        "hard": {"hard", "regular"}, "degenerate": {"hard", "regular"}, "no gradient": {"hard"},
        "semidefinite": {"regular", "zero"},
    }  # fmt: skip
    assert seen == expected.get(kind, {"regular"})


def test_unchecked_is_the_same():
    rng = np.random.default_rng(1)
    for kind in KINDS:
        h, g, sigma = draw(rng, kind, 5)
        careful, quick = cubic_step(h, g, sigma), cubic_step(h, g, sigma, checked=False)
        np.testing.assert_array_equal(careful.step, quick.step)
        assert careful[1:] == quick[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_a_fine_grid_is_lower(kind):
    rng = np.random.default_rng(2)
    angles, radii = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 2, 201))
    disk = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1).reshape(-1, 2)
    for _ in range(10):
        h, g, sigma = draw(rng, kind, 2)
        found = cubic_step(h, g, sigma)
        places = (np.linalg.norm(found.step) or 1.0) * disk
        cubic = sigma / 3 * np.linalg.norm(places, axis=1) ** 3
        values = places @ g + 0.5 * np.einsum("ij,jk,ik->i", places, h, places) + cubic
        assert found.model <= values.min() + 1e-12 * np.abs(values).max()
        # And the best of the grid is nearly as low, so the value is no lower than it can be either.
        assert values.min() <= found.model + 1e-3 * np.abs(values).max()


def test_never_above_scipy_from_many_starts():
    rng, near = np.random.default_rng(3), 0
    for i in range(100):
        h, g, sigma = draw(rng, KINDS[i % 4], 2 + i % 5)
        found = cubic_step(h, g, sigma)
        scale = np.linalg.norm(found.step)
        unit = abs(found.model)

        def value(s, h=h, g=g, sigma=sigma, scale=scale, unit=unit):
            s = scale * s
            slope = scale * (g + h @ s + sigma * np.linalg.norm(s) * s) / unit
            return model(h, g, sigma, s) / unit, slope

        starts = rng.standard_normal((6, len(g)))
        best = min(optimize.minimize(value, start, jac=True, method="BFGS").fun for start in starts)
        assert best + 1e-8 >= -1
        near += best <= -1 + 1e-6
    assert near >= 90


@pytest.mark.parametrize("kind", ["indefinite", "definite", "no gradient"])
def test_in_one_dimension_it_is_the_step_of_elmo_with_twice_sigma(kind):
    rng = np.random.default_rng(4)
    for _ in range(100):
        h, g, sigma = draw(rng, kind, 1)
        found = cubic_step(h, g, sigma)
        x = float(elmo_step(h[0, 0], abs(g[0]), 2 * sigma))
        side = -np.sign(g[0]) if g[0] else 1.0
        assert found.step[0] == pytest.approx(side * x, rel=1e-13, abs=1e-300)
        assert found.model == pytest.approx(float(least_majorizer(h[0, 0], abs(g[0]), 2 * sigma)), rel=1e-12)


@given(
    seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), k=st.integers(1, 8),
    power=st.integers(-150, 150), length=st.integers(-50, 50),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_units_do_not_matter(seed, kind, k, power, length):
    # (H, g, sigma) -> c (H, g, sigma) leaves s; x -> t x multiplies s. Powers of two: nothing is rounded.
    h, g, sigma = draw(np.random.default_rng(seed), kind, k)
    found = cubic_step(h, g, sigma)
    c, t = 2.0**power, 2.0**length
    scaled = cubic_step(c * h, c * t * g, c * sigma / t)
    scale = np.linalg.norm(found.step)
    np.testing.assert_allclose(scaled.step / t, found.step, rtol=0, atol=1e-9 * scale)
    assert scaled.model == pytest.approx(c * t * t * found.model, rel=1e-9)
    assert scaled.kind == found.kind


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), k=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_basis_does_not_matter(seed, kind, k):
    rng = np.random.default_rng(seed)
    h, g, sigma = draw(rng, kind, k)
    q = np.linalg.qr(rng.standard_normal((k, k)))[0]
    found, turned = cubic_step(h, g, sigma), cubic_step(q @ h @ q.T, q @ g, sigma)
    # Where H is semi-definite, what rounding leaves of a slope along its kernel may be followed.
    terms = np.linalg.norm(g) * np.linalg.norm(found.step)
    assert turned.model == pytest.approx(found.model, rel=1e-8, abs=1e-9 * terms)


def test_hard_case_takes_the_larger_component_positive():
    rng, hard = np.random.default_rng(5), 0
    for _ in range(50):
        h, g, _ = draw(rng, "hard", 4)
        sigma = 1e-4 / (np.linalg.norm(g) + 1)
        found = cubic_step(h, g, sigma)
        lowest = np.linalg.eigh(h)[1][:, 0]
        along = found.step @ lowest * lowest
        hard += found.kind == "hard"
        assert along[np.argmax(np.abs(along))] > 0
        other = found.step - 2 * along
        assert model(h, g, sigma, other) == pytest.approx(found.model, rel=1e-9)
    assert hard == 50


def test_without_the_hard_part_the_answer_is_far_above():
    # The best in the span of g and its images: the lowest eigenvector is never seen.
    case = GOLDEN["arc_hard"]
    h, g, sigma = np.array(case["H"])[1:, 1:], np.array(case["grad"])[1:], case["sigma"]
    assert cubic_step(h, g, sigma).model > -0.1 > case["model"]


def test_no_gradient_and_no_negative_curvature():
    for h in (np.eye(3), np.diag([0.0, 0.0, 2.0]), np.zeros((3, 3))):
        found = cubic_step(h, np.zeros(3), 2.0)
        assert (found.kind, found.multiplier, found.model) == ("zero", 0.0, 0.0)
        assert found.step.tolist() == [0.0, 0.0, 0.0]


def test_no_curvature_is_a_root_of_the_slope():
    g = np.array([3.0, -4.0])
    found = cubic_step(np.zeros((2, 2)), g, 0.2)
    np.testing.assert_allclose(found.step, -g / 5 * (5 / 0.2) ** 0.5, rtol=1e-14)


@pytest.mark.parametrize("size", [1e-120, 1e-20, 1e20, 1e120])
@pytest.mark.parametrize("sigma", [1e-16, 1e-8, 1e8])
def test_extreme_sizes(size, sigma):
    rng = np.random.default_rng(6)
    for kind in ("indefinite", "definite", "hard"):
        h, g, _ = draw(rng, kind, 4)
        found = cubic_step(size * h, size * g, sigma)
        length = np.linalg.norm(found.step / np.abs(found.step).max()) * np.abs(found.step).max()
        assert np.isfinite(found.step).all()
        assert found.multiplier == pytest.approx(sigma * length, rel=1e-9)
        left = size * (h @ found.step) + found.multiplier * found.step + size * g
        assert np.abs(left).max() <= 1e-11 * (size * np.abs(g).max() + (size * np.abs(h).max()) * length)


@pytest.mark.parametrize(
    ("matrix", "gradient", "sigma", "message"),
    [
        (np.eye(2), np.ones(3), 1.0, r"\(k, k\) and \(k,\), got \(2, 2\) and \(3,\)"),
        (np.eye(2), np.ones((2, 1)), 1.0, r"\(k, k\) and \(k,\)"),
        (np.zeros((0, 0)), np.zeros(0), 1.0, r"\(k, k\) and \(k,\)"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), 1.0, "use .B . B.T./2"),
        (np.diag([1.0, np.nan]), np.ones(2), 1.0, "NaN or infinity"),
        (np.eye(2), np.array([1.0, np.inf]), 1.0, "NaN or infinity"),
        (np.eye(2), np.ones(2), 0.0, "sigma must be finite and positive"),
        (np.eye(2), np.ones(2), -1.0, "sigma must be finite and positive"),
        (np.eye(2), np.ones(2), float("nan"), "sigma must be finite and positive"),
        (np.eye(2), np.ones(2), "1", "sigma must be a real number"),
    ],
)
def test_wrong_problems(matrix, gradient, sigma, message):
    with pytest.raises(ValueError, match=message):
        cubic_step(matrix, gradient, sigma)
