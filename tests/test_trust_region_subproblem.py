"""The trust-region subproblem.

Oracles: 60-digit numbers; the conditions that characterize a global minimizer (Moré & Sorensen), with eigenvalues from
NumPy; a fine grid over the disk; SciPy's sub-solver of ``trust-exact``, which factorizes instead of diagonalizing;
a search along the dogleg's path; NumPy's ``solve`` and QR for the plane.
"""

import itertools

import numpy as np
import pytest
from golden_vectors import golden
from hypothesis import given, settings
from hypothesis import strategies as st
from krylov_cases import symmetric, with_spectrum
from scipy.optimize._trustregion_exact import IterativeSubproblem

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.curvature.trust_region import dogleg_step, trust_region_step, two_dimensional_step

GOLDEN = {case["name"]: case for case in golden("curveball_kryball")["trust_region_subproblem"]}
SOLVERS = [trust_region_step, dogleg_step, two_dimensional_step]


def model(b, g, p):
    return g @ p + 0.5 * p @ b @ p


def draw(rng, kind, k):
    """Matrix, gradient and radius of a subproblem of a kind."""
    values = np.sort(rng.standard_normal(k)) * 10.0 ** rng.uniform(-2, 2)
    if kind in ("definite", "dogleg"):
        values = np.abs(values) + 1e-3
    if kind in ("hard", "near hard", "degenerate"):
        values[0] = -abs(values[0]) - 0.1
        values = np.sort(values)
    if kind == "degenerate" and k > 1:
        values[1] = values[0]
    if kind == "semidefinite":
        values = np.abs(values)
        values[0] = 0.0
    b, vectors = with_spectrum(values, rng)
    g = rng.standard_normal(k) * 10.0 ** rng.uniform(-3, 2)
    if kind == "no gradient":
        g = 0 * g
    if kind in ("hard", "near hard", "degenerate", "semidefinite"):
        lowest = vectors[:, np.isclose(values, values[0], rtol=1e-12, atol=0)]
        g = g - lowest @ (lowest.T @ g)
        g = g - lowest @ (lowest.T @ g)
    if kind == "near hard":
        g = g + 10.0 ** rng.uniform(-14, -6) * np.linalg.norm(g) * vectors[:, 0]
    return b, g, 10.0 ** rng.uniform(-3, 2)


KINDS = ["indefinite", "definite", "hard", "near hard", "degenerate", "semidefinite", "no gradient"]


# -- the exact solution -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GOLDEN)
def test_golden(name, backend):
    case, double = GOLDEN[name], backend.dtype_name == "float64"
    b, g = backend.asarray(case["A"]), backend.asarray(case["b"])
    found = trust_region_step(b, g, case["Delta"])
    assert (dtype_name(found.step.dtype), device_of(found.step)) == (backend.dtype_name, backend.device)
    # Rounding 1e-8 to float32 changes it by 1e-15, and the answer of the near-hard case not at all.
    tolerance = 1e-13 if double else 1e-6
    np.testing.assert_allclose(to_numpy(found.step), case["alpha"], rtol=0, atol=tolerance * case["Delta"])
    assert found.multiplier == pytest.approx(case["lam"], rel=tolerance, abs=tolerance)
    assert found.model == pytest.approx(case["model"], rel=tolerance)
    assert found.kind == {"interior-singular": "singular"}.get(case["kind"], case["kind"])


def assert_solves(b, g, radius, found):
    """The conditions for a global minimizer, and what the answer says about itself."""
    p, lam = found.step, found.multiplier
    size = np.abs(np.linalg.eigvalsh(b)).max() + np.linalg.norm(g) / radius
    length = np.linalg.norm(p)
    assert lam >= 0
    assert np.linalg.norm((b + lam * np.eye(len(g))) @ p + g) <= 1e-12 * size * radius
    assert np.linalg.eigvalsh(b)[0] + lam >= -1e-13 * size
    assert length <= (1 + 1e-12) * radius
    assert lam * (radius - length) <= 1e-12 * size * radius
    if found.kind in ("boundary", "hard"):
        assert length == pytest.approx(radius, rel=1e-9)
    else:
        assert lam == 0
    assert found.model == pytest.approx(model(b, g, p), rel=1e-9, abs=1e-14 * size * radius**2)
    assert found.model <= 0


@pytest.mark.parametrize("kind", KINDS)
def test_conditions_of_a_global_minimizer(kind):
    rng, seen = np.random.default_rng(KINDS.index(kind)), set()
    for i in range(500):
        b, g, radius = draw(rng, kind, 1 + i % 8)
        found = trust_region_step(b, g, radius)
        assert_solves(b, g, radius, found)
        seen.add(found.kind)
    expected = {
        "indefinite": {"boundary"}, "definite": {"interior", "boundary"}, "hard": {"hard", "boundary"},
        "near hard": {"boundary"}, "degenerate": {"hard", "boundary"}, "semidefinite": {"singular", "boundary"},
        "no gradient": {"hard"},
    }  # fmt: skip
    assert expected[kind] <= seen


def test_unchecked_is_the_same():
    rng = np.random.default_rng(1)
    for kind in KINDS:
        b, g, radius = draw(rng, kind, 5)
        careful, quick = trust_region_step(b, g, radius), trust_region_step(b, g, radius, checked=False)
        np.testing.assert_array_equal(careful.step, quick.step)
        assert careful[1:] == quick[1:]


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_on_a_fine_grid_is_lower(kind):
    rng = np.random.default_rng(2)
    angles, radii = np.meshgrid(np.linspace(0, 2 * np.pi, 721), np.linspace(0, 1, 101))
    disk = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1).reshape(-1, 2)
    for _ in range(10):
        b, g, radius = draw(rng, kind, 2)
        places = radius * disk
        values = places @ g + 0.5 * np.einsum("ij,jk,ik->i", places, b, places)
        found = trust_region_step(b, g, radius)
        spread = values.max() - values.min()
        assert found.model <= values.min() + 1e-12 * spread
        # And the best of the grid is nearly as low, so the value is no lower than it can be either.
        assert values.min() <= found.model + 1e-3 * spread


def scipy_step(b, g, radius, accuracy):
    """SciPy's answer, None where it finds none. ``accuracy`` bounds |p| - radius and the model's error, relatively."""
    options = {"k_easy": accuracy, "k_hard": accuracy, "maxiter": 50}
    solver = IterativeSubproblem(np.zeros_like(g), lambda x: 0.0, lambda x: g, lambda x: b, **options)
    try:
        return solver.solve(radius)[0]
    except UnboundLocalError:  # no factorization of its 50 succeeded: a lowest eigenvalue that is met exactly
        return None


@pytest.mark.parametrize(("accuracy", "problems"), [(0.1, 1400), (1e-10, 420)])
def test_never_above_scipy(accuracy, problems):
    rng = np.random.default_rng(3)
    answered = near = 0
    for i in range(problems):
        b, g, radius = draw(rng, KINDS[i % 7], 2 + i % 6)
        p = scipy_step(b, g, radius, accuracy)
        if p is None:
            continue
        if np.linalg.norm(p) > radius:  # it may step out by its accuracy
            p = p * radius / np.linalg.norm(p)
        ours, theirs = trust_region_step(b, g, radius).model, model(b, g, p)
        size = np.linalg.norm(g) * radius + np.abs(b).max() * radius**2
        assert ours <= theirs + 1e-13 * size
        answered += 1
        near += theirs - ours <= 1e-8 * abs(ours)
    assert answered >= 0.75 * problems
    if accuracy < 1e-6:
        assert near >= 0.8 * answered


@given(
    seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), k=st.integers(1, 9),
    power=st.integers(-200, 200), length=st.integers(-60, 60),
)  # fmt: skip
@settings(max_examples=150, deadline=None)
def test_units_do_not_matter(seed, kind, k, power, length):
    # (B, g) -> c (B, g) leaves p; x -> t x multiplies p and the radius. Powers of two: nothing is rounded.
    b, g, radius = draw(np.random.default_rng(seed), kind, k)
    found = trust_region_step(b, g, radius)
    c, t = 2.0**power, 2.0**length
    scaled = trust_region_step(c * b, c * t * g, t * radius)
    np.testing.assert_allclose(scaled.step / t, found.step, rtol=0, atol=1e-9 * radius)
    assert scaled.model == pytest.approx(c * t * t * found.model, rel=1e-9, abs=1e-300)
    assert scaled.kind == found.kind


@given(seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(KINDS), k=st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_basis_does_not_matter(seed, kind, k):
    rng = np.random.default_rng(seed)
    b, g, radius = draw(rng, kind, k)
    q = np.linalg.qr(rng.standard_normal((k, k)))[0]
    found, turned = trust_region_step(b, g, radius), trust_region_step(q @ b @ q.T, q @ g, radius)
    assert turned.model == pytest.approx(found.model, rel=1e-8, abs=1e-12 * np.linalg.norm(g) * radius)


def test_hard_case_takes_the_larger_component_positive():
    rng = np.random.default_rng(4)
    for _ in range(50):
        b, g, _ = draw(rng, "hard", 4)
        found = trust_region_step(b, g, 1e4 * (np.linalg.norm(g) + 1))
        lowest = np.linalg.eigh(b)[1][:, 0]
        along = found.step @ lowest * lowest
        assert found.kind == "hard"
        assert along[np.argmax(np.abs(along))] > 0
        # The other sign is as good.
        other = found.step - 2 * along
        assert model(b, g, other) == pytest.approx(found.model, rel=1e-9)


def test_eigenvalue_of_zero_is_zero_whatever_rounding_says():
    # Half of these lowest eigenvalues come out below zero by rounding; the shortest of many minimizers is asked for.
    rng, singular = np.random.default_rng(12), 0
    for _ in range(100):
        b, g, _ = draw(rng, "semidefinite", 5)
        shortest = -np.linalg.pinv(b, rcond=1e-10, hermitian=True) @ g
        radius = 10 * np.linalg.norm(shortest)
        found = trust_region_step(b, g, radius)
        assert found.kind != "hard"
        if found.kind == "singular":
            singular += 1
            np.testing.assert_allclose(found.step, shortest, rtol=0, atol=1e-9 * radius)
    assert singular >= 80


def test_no_room():
    found = trust_region_step(np.diag([-1.0, 1.0]), np.array([1.0, 1.0]), 0.0)
    assert (found.step.tolist(), found.model) == ([0.0, 0.0], 0.0)
    found = trust_region_step(np.eye(2), np.zeros(2), 1.0)
    assert (found.step.tolist(), found.kind, found.multiplier) == ([0.0, 0.0], "interior", 0.0)


@pytest.mark.parametrize("size", [1e-150, 1e-20, 1e20, 1e120])
@pytest.mark.parametrize("radius", [1e-100, 1e-8, 1e8])
def test_extreme_lengths(size, radius):
    rng = np.random.default_rng(5)
    b, g = size * symmetric(rng, 4), size * rng.standard_normal(4)
    found = trust_region_step(b, g, radius)
    assert np.isfinite(found.step).all()
    assert np.linalg.norm(found.step / radius) == pytest.approx(1.0, rel=1e-9)


# -- the two classics -------------------------------------------------------------------------------------------------


def cauchy(b, g, radius):
    """The best model value along -g within the radius."""
    slope, bend = g @ g, g @ b @ g
    if slope == 0:
        return 0.0
    longest = radius / np.sqrt(slope)
    t = min(slope / bend, longest) if bend > 0 else longest
    return model(b, g, -t * g)


@pytest.mark.parametrize("solver", [dogleg_step, two_dimensional_step])
@pytest.mark.parametrize("kind", ["definite", *KINDS])
def test_between_the_exact_and_the_cauchy_point(solver, kind):
    rng = np.random.default_rng(6)
    for i in range(150):
        b, g, radius = draw(rng, kind, 1 + i % 7)
        try:
            found = solver(b, g, radius)
        except ValueError:
            assert solver is dogleg_step
            assert np.linalg.eigvalsh(b)[0] <= 1e-12 * np.abs(b).max()
            continue
        size = np.linalg.norm(g) * radius + np.abs(b).max() * radius**2
        assert np.linalg.norm(found.step) <= (1 + 1e-9) * radius
        assert found.model == pytest.approx(model(b, g, found.step), rel=1e-8, abs=1e-13 * size)
        assert (
            trust_region_step(b, g, radius).model - 1e-12 * size <= found.model <= cauchy(b, g, radius) + 1e-12 * size
        )


def test_dogleg_is_the_end_of_its_path():
    rng, ends = np.random.default_rng(7), set()
    for i in range(300):
        b, g, radius = draw(rng, "dogleg", 2 + i % 4)
        newton = -np.linalg.solve(b, g)
        bend = -(g @ g) / (g @ b @ g) * g

        def path(t, bend=bend, newton=newton):
            return t * bend if t <= 1 else bend + (t - 1) * (newton - bend)

        low, high = 0.0, 2.0  # the path leaves every ball once
        for _ in range(100):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if np.linalg.norm(path(middle)) <= radius else (low, middle)
        wanted = path(2.0) if np.linalg.norm(path(2.0)) <= radius else path(low)
        found = dogleg_step(b, g, radius)
        np.testing.assert_allclose(found.step, wanted, rtol=0, atol=1e-9 * np.linalg.norm(wanted))
        assert np.isnan(found.multiplier) == (found.kind == "boundary")
        ends.add("newton" if found.kind == "interior" else "first" if low < 1 else "second")
    assert ends == {"newton", "first", "second"}


@pytest.mark.parametrize("kind", ["indefinite", "definite", "hard", "semidefinite", "no gradient"])
def test_two_dimensional_is_the_exact_one_in_its_plane(kind):
    rng = np.random.default_rng(8)
    for i in range(60):
        b, g, radius = draw(rng, kind, 3 + i % 4)
        lowest = np.linalg.eigvalsh(b)[0]
        if kind == "semidefinite":
            second = np.linalg.pinv(b, hermitian=True, rcond=1e-12) @ g
        else:
            second = np.linalg.solve(b + (1.5 * abs(lowest) if lowest < 0 else 0.0) * np.eye(len(g)), g)
        directions = [np.linalg.eigh(b)[1][:, 0]] if kind == "no gradient" else [g, second]
        plane = np.linalg.qr(np.stack(directions, axis=1))[0]
        inner = trust_region_step(plane.T @ b @ plane, plane.T @ g, radius)
        found = two_dimensional_step(b, g, radius)
        assert found.model == pytest.approx(inner.model, rel=1e-7, abs=1e-300)
        outside = found.step - plane @ (plane.T @ found.step)
        assert np.linalg.norm(outside) <= 1e-9 * radius
        assert found.kind == inner.kind


def test_in_the_plane_both_are_exact():
    rng = np.random.default_rng(9)
    for kind, _ in itertools.product(["indefinite", "definite"], range(30)):
        b, g, radius = draw(rng, kind, 2)
        assert two_dimensional_step(b, g, radius).model == pytest.approx(
            trust_region_step(b, g, radius).model, rel=1e-8
        )


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_backend(solver, backend):
    rng = np.random.default_rng(10)
    b, g, radius = draw(rng, "dogleg", 4)
    found, wanted = solver(backend.asarray(b), backend.asarray(g), radius), solver(b, g, radius)
    assert (dtype_name(found.step.dtype), device_of(found.step)) == (backend.dtype_name, backend.device)
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-4
    np.testing.assert_allclose(to_numpy(found.step), wanted.step, rtol=0, atol=tolerance * np.linalg.norm(wanted.step))
    assert found.model == pytest.approx(wanted.model, rel=tolerance)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("matrix", "gradient", "radius", "message"),
    [
        (np.eye(2), np.ones(3), 1.0, r"\(k, k\) and \(k,\), got \(2, 2\) and \(3,\)"),
        (np.eye(2), np.ones((2, 1)), 1.0, r"\(k, k\) and \(k,\)"),
        (np.zeros((0, 0)), np.zeros(0), 1.0, r"\(k, k\) and \(k,\)"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), 1.0, "use .B . B.T./2"),
        (np.diag([1.0, np.nan]), np.ones(2), 1.0, "NaN or infinity"),
        (np.eye(2), np.array([1.0, np.inf]), 1.0, "NaN or infinity"),
        (np.eye(2), np.ones(2), -1.0, "radius must be finite and at least zero"),
        (np.eye(2), np.ones(2), float("nan"), "radius must be finite and at least zero"),
    ],
)
def test_wrong_problems(solver, matrix, gradient, radius, message):
    with pytest.raises(ValueError, match=message):
        solver(matrix, gradient, radius)


def test_dogleg_needs_a_minimum():
    with pytest.raises(ValueError, match="positive definite matrix, got the eigenvalue -1; use trust_region_step"):
        dogleg_step(np.diag([2.0, -1.0]), np.ones(2), 1.0)
