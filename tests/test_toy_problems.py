"""Toy landscapes against independent knowledge.

Oracles: Torch's automatic differentiation of the formula typed again in Python, SciPy's Rosenbrock, published golden
values, the landscape itself (losses on a small circle decide what a critical point is), and closed-form iterations.
"""

import numpy as np
import pytest
from scipy import optimize

from refimpl.arrays import get_backend, machine_epsilon, to_numpy
from refimpl.problems import (
    ClosedForm,
    CoupledSaddle,
    DegenerateSaddle,
    DoubleWell,
    HorseSaddle,
    MonkeySaddle,
    Rosenbrock,
    SqrtValley,
    Wood,
)
from refimpl.problems.cubic_beds import RandomSines, SeparableCubic
from refimpl.problems.quartics import BentWell, TripleWell, Well


def rosenbrock(x, steepness=1.0):
    return sum((1 - x[i]) ** 2 + 100 * steepness * (x[i + 1] - x[i] ** 2) ** 2 for i in range(len(x) - 1))


def wood(x):
    a, b, c, d = x
    valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valleys + 10.1 * ((b - 1) ** 2 + (d - 1) ** 2) + 19.8 * (b - 1) * (d - 1)


def cubic_bed(backend=None):
    return SeparableCubic([-1.0, 2.0, -0.5], [1.0, 3.0, 2.0], 4, backend=backend)


def separable_cubic(x):
    z = [sum(q * a for q, a in zip(column, x, strict=True)) for column in cubic_bed().directions.T.tolist()]
    terms = zip([-1.0, 2.0, -0.5], [1.0, 3.0, 2.0], z, strict=True)
    return sum(curvature * a**2 / 2 + slope * abs(a) ** 3 / 6 for curvature, slope, a in terms)


def sines(backend=None):
    return RandomSines([1.5, -0.75], [[1.0, -0.5, 2.0], [0.25, 1.5, -1.0]], [0.5, 2.0], backend=backend)


def two_sines(x):
    first, second = x[0] - 0.5 * x[1] + 2 * x[2] + 0.5, 0.25 * x[0] + 1.5 * x[1] - x[2] + 2
    return 1.5 * first.sin() - 0.75 * second.sin()


# name: (problem, sample, the formula for anything that can be added and multiplied)
FORMULAS = {
    "horse": (HorseSaddle, None, lambda x: x[0] ** 2 - x[1] ** 2),
    "monkey": (MonkeySaddle, None, lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2),
    "degenerate": (DegenerateSaddle, None, lambda x: x[0] ** 2 - x[1] ** 4),
    "coupled": (CoupledSaddle, None, lambda x: x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[0] * x[1] ** 2),
    "double-well": (DoubleWell, None, lambda x: (x[0] ** 2 - 1) ** 2 / 4 + x[1] ** 2 / 2),
    "double-well-4": (lambda **k: DoubleWell(4, **k), None, lambda x: (x[0] ** 2 - 1) ** 2 / 4 + sum(x[1:] ** 2) / 2),
    "sqrt-valley": (SqrtValley, None, lambda x: (1 + x[0] ** 2) ** 0.5),
    "sqrt-valley-3": (lambda **k: SqrtValley(3, **k), None, lambda x: (1 + sum(x**2)) ** 0.5),
    "rosenbrock": (Rosenbrock, None, rosenbrock),
    "rosenbrock-noise": (lambda **k: Rosenbrock(3.0, **k), 0.7, lambda x: rosenbrock(x, 0.7)),
    "rosenbrock-5": (lambda **k: Rosenbrock(n=5, **k), None, rosenbrock),
    "wood": (Wood, None, wood),
    "well": (Well, None, lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2 + 0.25),
    "triple-well": (
        TripleWell, None, lambda x: (x[0] ** 3 - 3 * x[0] * x[1] ** 2) / 3 + (x[0] ** 2 + x[1] ** 2) ** 2 / 4
    ),
    "bent-well": (
        BentWell, None, lambda x: x[0] ** 4 / 4 - x[0] ** 2 / 2 + x[1] ** 2 / 2 + x[0] ** 2 * x[1] / 2
    ),
    "separable-cubic": (cubic_bed, None, separable_cubic),
    "random-sines": (sines, None, two_sines),
}  # fmt: skip

# Eigenvalues of the Hessian at each saddle: what chapter texts say about them.
SADDLE_SPECTRA = {
    "horse": [-2.0, 2.0],
    "monkey": [0.0, 0.0],
    "degenerate": [0.0, 2.0],
    "coupled": [-1.0, 1.0],
    "double-well": [-1.0, 1.0],
    "double-well-4": [-1.0, 1.0, 1.0, 1.0],
    "well": [-1.0, 1.0],
    "triple-well": [0.0, 0.0],
    "bent-well": [-1.0, 1.0],
    "separable-cubic": [-1.0, -0.5, 2.0],
}


def problems_with(attribute):
    return [name for name, (make, _, _) in FORMULAS.items() if getattr(make(), attribute)]


@pytest.mark.parametrize("name", FORMULAS)
def test_derivatives_against_torch_autograd_of_the_formula(name):
    torch = pytest.importorskip("torch")
    make, sample, formula = FORMULAS[name]
    problem = make()
    for seed in range(3):
        x = problem.initial(np.random.default_rng(seed))
        point = problem.at(x, sample)
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        loss = formula(leaf)
        (gradient,) = torch.autograd.grad(loss, leaf)
        hessian = torch.autograd.functional.hessian(formula, leaf.detach())
        scale = 1 + abs(loss.item()) + float(hessian.abs().max())
        assert point.loss == pytest.approx(loss.item(), rel=1e-13)
        np.testing.assert_allclose(point.gradient, gradient.numpy(), rtol=0, atol=1e-14 * scale)
        np.testing.assert_allclose(point.hessian(), hessian.numpy(), rtol=0, atol=1e-14 * scale)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_rosenbrock_against_scipy(n):
    problem = Rosenbrock(n=n)
    rng = np.random.default_rng(n)
    x, v = rng.standard_normal((2, n))
    point = problem.at(x)
    np.testing.assert_allclose(point.loss, optimize.rosen(x), rtol=1e-13)
    np.testing.assert_allclose(point.gradient, optimize.rosen_der(x), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(point.hvp(v), optimize.rosen_hess_prod(x, v), rtol=1e-12, atol=1e-10)
    np.testing.assert_allclose(point.hessian(), optimize.rosen_hess(x), rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("name", problems_with("minimizers"))
def test_minimizers_have_no_gradient_and_no_downhill(name, backend):
    problem = FORMULAS[name][0](backend=backend)
    for place in problem.minimizers:
        point = problem.at(backend.asarray(place))
        hessian = np.float64(to_numpy(point.hessian()))
        tolerance = 10 * machine_epsilon(point.x) * np.abs(hessian).max()
        assert np.abs(to_numpy(point.gradient)).max() <= tolerance
        assert np.linalg.eigvalsh(hessian).min() > 0
        around = circle(place, radius=0.05)
        assert (to_numpy(problem.loss(backend.asarray(around))) > to_numpy(point.loss)).all()


@pytest.mark.parametrize("name", problems_with("saddles"))
def test_saddles_have_no_gradient_and_both_ways_out(name):
    problem = FORMULAS[name][0]()
    for place in problem.saddles:
        point = problem.at(np.asarray(place))
        hessian = point.hessian()
        assert np.abs(point.gradient).max() <= 10 * np.finfo(float).eps * (1 + np.abs(hessian).max())
        # The way down may be a narrow one (Wood), so the eigenvectors are tried as well; the loss decides.
        around = problem.loss(circle(place, radius=0.05, more=np.linalg.eigh(hessian)[1].T))
        assert around.min() < point.loss < around.max()
        if name in SADDLE_SPECTRA:
            np.testing.assert_allclose(np.linalg.eigvalsh(hessian), SADDLE_SPECTRA[name], atol=1e-14)
        else:
            assert np.linalg.eigvalsh(hessian).min() < 0 < np.linalg.eigvalsh(hessian).max()


@pytest.mark.parametrize("name", FORMULAS)
def test_every_toy_can_be_drawn(name):
    problem = FORMULAS[name][0]()
    assert problem.formula
    assert problem.name
    assert problem.batched
    for low, high in problem.domain:
        assert low < high
    for place in (*problem.minimizers, *problem.saddles):
        assert len(place) == problem.n
        for value, (low, high) in zip(place, problem.domain, strict=False):
            assert low < value < high


def test_rosenbrock_golden_facts():
    problem = Rosenbrock()
    values = np.linalg.eigvalsh(problem.at(np.ones(2)).hessian())
    np.testing.assert_allclose(values, [0.39936076748763305, 1001.6006392325124], rtol=1e-11)
    assert values[1] / values[0] == pytest.approx(2508.0096012774434, rel=1e-10)
    assert problem.loss(np.asarray([1.01, 1.02])) == pytest.approx(1.01e-4, rel=1e-9)
    assert problem.loss(np.asarray([1.02, 0.99])) == pytest.approx(0.254416, rel=1e-12)
    assert problem.loss(np.asarray([-1.2, 1.0])) == pytest.approx(24.2, rel=1e-14)


def test_wood_golden_facts():
    problem = Wood(spread=0.0)
    assert problem.loss(problem.initial(np.random.default_rng(0))) == pytest.approx(19192.0, rel=1e-14)
    assert problem.loss(np.ones(4)) == 0.0
    (saddle,) = problem.saddles
    point = problem.at(np.asarray(saddle))
    assert point.loss == pytest.approx(7.876967, abs=1e-6)
    assert (np.linalg.eigvalsh(point.hessian()) < 0).sum() == 1


def test_monkey_saddle_has_opposite_eigenvalues_everywhere():
    # Harmonic: the trace of the Hessian vanishes, and the eigenvalues are plus and minus 6|x|.
    for x in np.random.default_rng(2).standard_normal((5, 2)):
        size = 6 * np.linalg.norm(x)
        np.testing.assert_allclose(np.linalg.eigvalsh(MonkeySaddle().at(x).hessian()), [-size, size], rtol=1e-13)


def test_newton_cubes_and_flips_on_the_sqrt_valley():
    # x - f'/f'' = -x^3: from 1.1 it runs away, from below 1 it converges cubically.
    problem = SqrtValley()
    x, path = np.asarray([1.1]), []
    for _ in range(4):
        point = problem.at(x)
        x = x - point.gradient / point.hessian()[0, 0]
        path.append(x[0])
    np.testing.assert_allclose(path, [-1.331, 1.331**3, -(1.331**9), 1.331**27], rtol=1e-11)
    assert path[-1] == pytest.approx(2253, abs=1)


def test_saddle_free_step_from_the_unstable_axis_of_the_coupled_saddle():
    # The unstable coordinate doubles; the stable one, which was exactly zero, becomes -y^2.
    problem = CoupledSaddle()
    for y in (1e-2, 1e-3, 1e-4):
        point = problem.at(np.asarray([0.0, y]))
        values, vectors = np.linalg.eigh(point.hessian())
        x = point.x - vectors @ ((vectors.T @ point.gradient) / np.abs(values))
        assert x[0] == pytest.approx(-(y**2), rel=10 * y**2)
        assert x[1] == pytest.approx(2 * y, rel=10 * y**2)


def test_rosenbrock_noise_is_uniform_and_leaves_the_report_alone():
    problem = Rosenbrock(3.0)
    rng = np.random.default_rng(4)
    draws = np.asarray([problem.draw(rng) for _ in range(4000)])
    assert draws.min() >= 0.0
    assert draws.max() < 3.0
    assert draws.mean() == pytest.approx(1.5, abs=4 * 3 / np.sqrt(12 * 4000))
    assert draws.var() == pytest.approx(0.75, rel=0.1)
    x = np.asarray([-1.2, 1.0])
    assert problem.evaluate(x)["loss"] == Rosenbrock().loss(x) == problem.loss(x, 1.0)
    # 4.84 + 19.36 ε: the noise multiplies the valley's term only.
    assert problem.loss(x, 2.5) == pytest.approx(4.84 + 2.5 * 19.36, rel=1e-13)


def test_rosenbrock_without_noise_draws_nothing():
    rng, untouched = np.random.default_rng(5), np.random.default_rng(5)
    assert Rosenbrock().draw(rng) is None
    assert rng.random() == untouched.random()


def test_rosenbrock_noise_for_each_run_is_the_noise_of_the_single_runs(backend):
    problem = Rosenbrock(3.0, runs=4, backend=backend)
    noise = problem.draw(np.random.default_rng(6))
    assert tuple(noise.shape) == (4, 1)
    places = np.random.default_rng(7).standard_normal((4, 2))
    batch = problem.at(backend.asarray(places), noise)
    v = backend.asarray(np.ones((4, 2)))
    for i in range(4):
        one = problem.at(backend.asarray(places[i]), float(to_numpy(noise)[i, 0]))
        pairs = [(batch.loss, one.loss), (batch.gradient, one.gradient), (batch.hvp(v), one.hvp(v[i, :]))]
        pairs += [(batch.hessian(), one.hessian()), (batch.outputs, one.outputs), (batch.jvp(v), one.jvp(v[i, :]))]
        for ours, single in pairs:
            scale = 1 + np.abs(to_numpy(single)).max()
            assert np.abs(to_numpy(ours)[i] - to_numpy(single)).max() <= 20 * machine_epsilon(v) * scale


def test_rosenbrock_refuses_noise_of_the_wrong_shape():
    problem = Rosenbrock(3.0, runs=4)
    with pytest.raises(ValueError, match=r"shape \(1,\), got \(4, 1\)"):
        problem.at(np.zeros(2), problem.draw(np.random.default_rng(0)))


def test_wrong_options_are_refused():
    for make in (lambda: Rosenbrock(-1.0), lambda: Rosenbrock(np.nan), lambda: Rosenbrock(spread=-1.0)):
        with pytest.raises(ValueError, match="must be finite and at least zero"):
            make()
    with pytest.raises(ValueError, match="n must be a whole number of at least 2"):
        Rosenbrock(n=1)
    with pytest.raises(ValueError, match="runs must be"):
        Rosenbrock(1.0, runs=0)
    for kind in (DoubleWell, SqrtValley):
        with pytest.raises(ValueError, match="n must be"):
            kind(n=0)
    with pytest.raises(ValueError, match="neither"):
        ClosedForm(np.zeros(1), np.sum, np.sign)


def test_starting_places_lie_where_the_docstrings_say():
    rng = np.random.default_rng(8)
    places = np.stack([DoubleWell(4).initial(rng) for _ in range(200)])
    low, high = np.asarray(DoubleWell.domain[0]), np.asarray(DoubleWell.domain[1])
    assert low[0] <= places[:, 0].min() < places[:, 0].max() <= low[1]
    assert high[0] <= places[:, 1:].min() < places[:, 1:].max() <= high[1]
    starts = np.stack([Rosenbrock().initial(rng) for _ in range(400)])
    np.testing.assert_allclose(starts.mean(axis=0), [-1.2, 1.0], atol=4 * 0.1 / np.sqrt(400))
    np.testing.assert_allclose(starts.std(axis=0), 0.1, rtol=0.2)
    assert Rosenbrock(spread=0.0, backend=get_backend("numpy", "float32")).initial(rng).dtype == np.float32


def circle(place, radius, count=400, more=()):
    """Points at a distance from a place: in random directions, and both ways along every axis and ``more``."""
    n = len(place)
    directions = np.random.default_rng(9).standard_normal((count, n))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    lines = np.concatenate([np.eye(n), np.reshape(more, (-1, n))])
    return np.asarray(place) + radius * np.concatenate([directions, lines, -lines])
