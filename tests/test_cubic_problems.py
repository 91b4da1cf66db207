"""Quartics and cubic beds: bounds on third derivatives, least values, the numbers that the constructors promise.

Oracles: finite differences of the Hessian, dense sampling of balls, the one-dimensional wells minimized by SciPy, and
formulas worked by hand. Losses, gradients and Hessians are checked with the other toys (test_toy_problems.py).
"""

import numpy as np
import pytest
from scipy import optimize

from refimpl.arrays import machine_epsilon, to_numpy
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.problems.cubic_beds import RandomSines, SeparableCubic
from refimpl.problems.quartics import BentWell, TripleWell, Well
from refimpl.run import minimize

QUARTICS = [Well, TripleWell, BentWell]
SMOOTH = [*QUARTICS, lambda **k: RandomSines.random(4, seed=1, **k)]


def differences(problem, x, h=1e-5):
    """Third derivatives from central differences of the Hessian."""
    units = np.eye(len(x))
    return np.stack([(problem.at(x + h * e).hessian() - problem.at(x - h * e).hessian()) / (2 * h) for e in units])


@pytest.mark.parametrize("make", SMOOTH)
def test_third_derivative_against_differences(make):
    problem, rng = make(), np.random.default_rng(0)
    for _ in range(5):
        x = rng.standard_normal(problem.n)
        found = problem.third_derivative(x)
        np.testing.assert_allclose(found, differences(problem, x), rtol=0, atol=1e-8 * (1 + np.abs(found).max()))
        for axes in ((1, 0, 2), (0, 2, 1)):
            np.testing.assert_allclose(found, found.transpose(axes), rtol=0, atol=1e-14 * np.abs(found).max())


@pytest.mark.parametrize("make", SMOOTH)
def test_third_derivative_of_many_places_on_every_backend(make, backend):
    problem, plain = make(backend=backend), make()
    x = np.random.default_rng(1).standard_normal((2, 3, plain.n))
    found = to_numpy(problem.third_derivative(backend.asarray(x)))
    assert found.shape == (2, 3, *3 * (plain.n,))
    tolerance = 200 * machine_epsilon(backend.zeros(1))
    np.testing.assert_allclose(found[1, 2], plain.third_derivative(x[1, 2]), rtol=0, atol=tolerance)


@pytest.mark.parametrize("make", QUARTICS)
@pytest.mark.parametrize("radius", [0.0, 0.3, 2.0])
def test_bound_is_the_supremum_over_the_ball(make, radius):
    problem = make()
    angles, radii = np.meshgrid(np.linspace(0, 2 * np.pi, 361), radius * np.linspace(0, 1, 21))
    ball = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=-1)
    for x in ([0.0, 0.0], [0.7, -0.4], [-1.5, 2.0]):
        seen = np.abs(problem.third_derivative(np.asarray(x) + ball)).max(axis=(0, 1))
        # Every entry depends on one coordinate, and the extremes along the axes are among the samples.
        np.testing.assert_allclose(problem.third_derivative_bound(np.asarray(x), radius), seen, rtol=1e-12, atol=1e-12)


def test_bound_takes_one_radius_per_run(backend):
    problem = TripleWell(backend=backend)
    x, radii = [[0.5, -1.0], [2.0, 0.25]], [0.25, 3.0]
    found = problem.third_derivative_bound(backend.asarray(x), backend.asarray(radii))
    for i in range(2):
        alone = problem.third_derivative_bound(backend.asarray(x[i]), radii[i])
        np.testing.assert_allclose(to_numpy(found)[i], to_numpy(alone), rtol=1e-6)


@pytest.mark.parametrize("make", QUARTICS)
def test_least_value_is_that_of_every_minimizer_and_of_a_search(make):
    problem = make()
    for place in problem.minimizers:
        assert float(problem.loss(np.asarray(place))) == pytest.approx(problem.least_value, abs=1e-15)
    found = optimize.brute(lambda x: float(problem.loss(x)), ((-2, 2), (-2, 2)), Ns=41)
    assert float(problem.loss(np.asarray(found))) == pytest.approx(problem.least_value, abs=1e-8)
    assert min(np.linalg.norm(np.asarray(p) - found) for p in problem.minimizers) < 1e-3


def test_triple_well_is_the_same_after_a_third_of_a_turn():
    c, s = -0.5, 0.75**0.5
    turn, problem = np.array([[c, -s], [s, c]]), TripleWell()
    x = np.random.default_rng(2).standard_normal((20, 2))
    np.testing.assert_allclose(problem.loss(x @ turn), problem.loss(x), rtol=1e-13, atol=1e-14)
    for place in problem.minimizers:
        values = np.linalg.eigvalsh(problem.at(np.asarray(place)).hessian())
        np.testing.assert_allclose(values, [1.0, 3.0], rtol=1e-14)


# -- beds -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0])
def test_least_value_of_a_bed_against_scipy_in_every_direction(spread):
    bed = SeparableCubic.balanced(20, spread, seed=3)
    total = 0.0
    for curvature, slope in zip(bed.curvatures, bed.slopes, strict=True):
        scale = 2 * abs(curvature) / slope
        found = optimize.minimize_scalar(
            lambda t, a=curvature * scale**2, b=slope * scale**3: a * t * t / 2 + b * abs(t) ** 3 / 6,
            bounds=(0, 3), method="bounded", options={"xatol": 1e-9},
        )  # fmt: skip
        total += min(found.fun, 0.0)
    assert bed.least_value == pytest.approx(total, rel=1e-9)
    (lowest,) = bed.minimizers
    assert float(bed.loss(np.asarray(lowest))) == pytest.approx(bed.least_value, rel=1e-13)
    assert np.abs(bed.at(np.asarray(lowest)).gradient).max() <= 1e-12 * np.abs(bed.curvatures).max()


@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_balanced_bed_is_balanced(spread):
    bed = SeparableCubic.balanced(50, spread, seed=4)
    depths = 2 / 3 * np.abs(bed.curvatures) ** 3 / bed.slopes**2
    assert (bed.curvatures < 0).sum() == 15
    assert 10**-0.5 <= depths.min() < 0.5
    assert 2 < depths.max() <= 10**0.5
    assert 10.0 ** (1.8 * spread) <= bed.slopes.max() / bed.slopes.min() <= 10.0 ** (2 * spread) * (1 + 1e-14)
    assert bed.least_value == pytest.approx(-depths[bed.curvatures < 0].sum(), rel=1e-13)
    np.testing.assert_allclose(bed.directions.T @ bed.directions, np.eye(50), atol=1e-14)
    draws = np.stack([bed.initial(np.random.default_rng(s)) for s in range(400)]) @ bed.directions
    wide = 2 * np.abs(bed.curvatures) / bed.slopes * np.where(bed.curvatures < 0, 0.01, 1.0)
    np.testing.assert_allclose(draws.std(axis=0) / wide, 1.0, atol=0.15)


def test_curvature_of_a_bed_changes_along_each_direction_at_its_slope():
    bed = SeparableCubic.balanced(6, 1.0, seed=5)
    for i in range(6):
        q = bed.directions[:, i]
        for a, b in ((0.5, 2.0), (-1.0, -3.0)):
            change = (bed.at(b * q).hvp(q) - bed.at(a * q).hvp(q)) @ q
            assert abs(change) == pytest.approx(bed.slopes[i] * abs(b - a), rel=1e-11)
            assert change > 0


def test_same_bed_on_every_backend(backend):
    ours, plain = SeparableCubic.balanced(5, 0.5, seed=6, backend=backend), SeparableCubic.balanced(5, 0.5, seed=6)
    x = np.random.default_rng(7).standard_normal((3, 5))
    tolerance = {"rtol": 200 * machine_epsilon(backend.zeros(1))}
    np.testing.assert_allclose(to_numpy(ours.loss(backend.asarray(x))), plain.loss(x), **tolerance)
    assert ours.least_value == plain.least_value
    start = to_numpy(ours.initial(np.random.default_rng(8)))
    np.testing.assert_allclose(start, plain.initial(np.random.default_rng(8)), **tolerance)


def test_descent_ends_at_the_least_value():
    bed = SeparableCubic.balanced(10, 0.5, seed=9)
    result = minimize(bed, TrustRegion(), steps=200, seed=1)
    assert float(bed.loss(result.x)) == pytest.approx(bed.least_value, rel=1e-8)


# -- sines ------------------------------------------------------------------------------------------------------------


def test_hessian_of_sines_is_lipschitz_and_the_loss_bounded():
    problem, rng = RandomSines.random(4, terms=3, seed=2), np.random.default_rng(3)
    bound = problem.third_derivative_bound()
    most, highest = 0.0, np.zeros_like(bound)
    for _ in range(2000):
        x, d = rng.uniform(-20, 20, 4), rng.standard_normal(4) * 10.0 ** rng.uniform(-4, 0)
        change = np.linalg.norm(problem.at(x + d).hessian() - problem.at(x).hessian(), 2)
        most = max(most, change / np.linalg.norm(d))
        highest = np.maximum(highest, np.abs(problem.third_derivative(x)))
        assert float(problem.loss(x)) >= problem.lower_bound
    assert 0.2 * problem.lipschitz < most <= (1 + 1e-6) * problem.lipschitz  # 1e-6: rounding of short differences
    assert (highest <= bound * (1 + 1e-12)).all()


def test_constants_of_one_sine_are_reached():
    problem = RandomSines([-2.0], [[3.0, 4.0]])
    assert problem.lipschitz == pytest.approx(2 * 125)
    assert problem.lower_bound == -2.0
    np.testing.assert_allclose(problem.third_derivative_bound(), np.abs(problem.third_derivative(np.zeros(2))))
    assert problem.third_derivative_bound()[0, 1, 1] == 2 * 3 * 4 * 4
    assert float(problem.loss(np.array([np.pi / 6, 0.0]))) == pytest.approx(-2.0, abs=1e-14)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeparableCubic([1.0, 2.0], [1.0]), "slopes must be 2 finite numbers"),
        (lambda: SeparableCubic([], []), "curvatures must be a non-empty list"),
        (lambda: SeparableCubic([1.0], [0.0]), "slopes must be positive"),
        (lambda: SeparableCubic([1.0], [float("inf")]), "slopes must be 1 finite"),
        (lambda: SeparableCubic([1.0], [1.0], start=[1.0, 2.0]), "start must be 1 finite"),
        (lambda: SeparableCubic.balanced(0), "n must be a whole number of at least 1"),
        (lambda: SeparableCubic.balanced(4, -1.0), "spread must be finite and at least zero"),
        (lambda: SeparableCubic.balanced(4, negative=1.5), "share of at most 1"),
        (lambda: RandomSines([1.0], [1.0, 2.0]), r"frequencies must be finite, of shape \(1, n\)"),
        (lambda: RandomSines([1.0, 2.0], [[1.0]]), r"shape \(2, n\) with n >= 1, got shape \(1, 1\)"),
        (lambda: RandomSines([1.0], [[1.0]], [0.0, 1.0]), "phases must be 1 finite"),
        (lambda: RandomSines.random(2, terms=0), "terms must be a whole number"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
