"""Slices and planes of a loss.

Oracles: polynomials, whose slices are known in closed form; a loss evaluated at places computed here; PyTorch's normal
draws are not involved, NumPy's are.
"""

import numpy as np
import pytest
from kryball_cases import network

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.problems.landscape import Slice, plane, random_direction, slice_along
from refimpl.problems.losses import HalfMeanSquaredError
from refimpl.problems.mlp import MLP
from refimpl.problems.quadratic import Quadratic
from refimpl.problems.toy import HorseSaddle, MonkeySaddle, Rosenbrock


def test_slice_of_rosenbrock_in_closed_form(backend):
    # f(u + t, v) = (1 - u - t)² + 100 (v - (u + t)²)²
    problem = Rosenbrock(backend=backend)
    found = slice_along(
        problem, backend.asarray([-0.5, 0.25]), backend.asarray([2.0, 0.0]), span=(-0.5, 0.75), points=9
    )
    t = np.linspace(-0.5, 0.75, 9)
    u = -0.5 + 2 * t
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-4
    np.testing.assert_array_equal(found.position, t)
    np.testing.assert_allclose(found.loss, (1 - u) ** 2 + 100 * (0.25 - u * u) ** 2, rtol=tolerance, atol=tolerance)
    # At u² = v: slope -2 (1 - u) and curvature 2 + 800 u², in units of the direction.
    model = 2.25 - 3 * (2 * t) + 0.5 * 202 * (2 * t) ** 2
    np.testing.assert_allclose(found.quadratic, model, rtol=tolerance, atol=tolerance)
    assert all(type(column) is np.ndarray for column in found)


def test_a_parabola_has_no_departure():
    problem = Quadratic.from_spectrum([3.0, 1.0, -2.0], seed=0)
    rng = np.random.default_rng(0)
    found = slice_along(problem, rng.standard_normal(3), rng.standard_normal(3))
    assert (found.position[0], found.position[-1], len(found.position)) == (-2.0, 2.0, 81)
    assert found.departure() < 1e-14
    # x³ has a departure: f = t³, and its model at 0 is 0 throughout.
    cubic = slice_along(MonkeySaddle(), np.array([1.0, 0.0]), np.array([1.0, 0.0]), span=(-1.0, 1.0), points=3)
    np.testing.assert_allclose(cubic.loss, [0.0, 1.0, 8.0], rtol=0, atol=1e-14)
    np.testing.assert_allclose(cubic.quadratic, [1.0, 1.0, 7.0], rtol=0, atol=1e-14)
    assert cubic.departure() == pytest.approx(1 / 6)
    assert np.isnan(Slice(np.zeros(3), np.ones(3), np.ones(3)).departure())


def test_a_plane_has_rows_along_the_second_direction(backend):
    problem = HorseSaddle(backend=backend)
    x, first, second = (backend.asarray(v) for v in ([0.5, 0.25], [1.0, 0.0], [0.0, 2.0]))
    found = plane(problem, x, first, second, span=(-1.0, 2.0), points=4)
    s = np.linspace(-1.0, 2.0, 4)
    wanted = (0.5 + s[None, :]) ** 2 - (0.25 + 2 * s[:, None]) ** 2
    np.testing.assert_allclose(found.loss, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.first, s)
    np.testing.assert_array_equal(found.second, s)


def test_one_sample_for_the_whole_picture():
    problem = Rosenbrock(noise=3.0)
    x, d = np.array([-0.5, 0.4]), np.array([0.3, 1.0])
    found = slice_along(problem, x, d, span=(0.0, 1.0), points=3, sample=2.5)
    places = [x, x + 0.5 * d, x + d]
    np.testing.assert_allclose(found.loss, [float(problem.loss(p, 2.5)) for p in places], rtol=1e-13)
    point = problem.at(x, 2.5)
    assert found.quadratic[2] == pytest.approx(
        float(point.loss) + point.gradient @ d + 0.5 * d @ point.hessian() @ d, rel=1e-12
    )
    without = slice_along(problem, x, d, span=(0.0, 1.0), points=3)
    np.testing.assert_allclose(without.loss, [float(problem.loss(p)) for p in places], rtol=1e-13)
    wide = plane(problem, x, d, np.array([1.0, 0.0]), points=3, sample=2.5)
    assert wide.loss[1, 2] == pytest.approx(float(problem.loss(x + d, 2.5)), rel=1e-13)


# -- random directions ------------------------------------------------------------------------------------------------


def test_direction_has_the_length_of_the_place(backend):
    problem = Rosenbrock(n=5, backend=backend)
    x = backend.asarray([3.0, 0.0, -4.0, 0.0, 0.0])
    d = random_direction(problem, x, 7)
    assert (dtype_name(d.dtype), device_of(d)) == (backend.dtype_name, backend.device)
    assert np.linalg.norm(to_numpy(d)) == pytest.approx(5.0, rel=1e-6)
    drawn = np.random.default_rng(7).standard_normal(5)
    np.testing.assert_allclose(to_numpy(d), 5 * drawn / np.linalg.norm(drawn), rtol=1e-5)
    assert np.linalg.norm(to_numpy(random_direction(problem, backend.zeros(5), 7))) == pytest.approx(1.0, rel=1e-6)


def test_filters_have_the_lengths_of_the_weights():
    problem = network()
    x = problem.initial(np.random.default_rng(1))
    d = random_direction(problem, x, 3, normalize="filters")
    for rows, weights in zip(problem.to_layers(d), problem.to_layers(x), strict=True):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), np.linalg.norm(weights, axis=1), rtol=1e-12)
    np.testing.assert_array_equal(d, random_direction(problem, x, 3, normalize="filters"))
    assert np.abs(d - random_direction(problem, x, 4, normalize="filters")).max() > 0.1


def test_filter_normalization_takes_away_what_rescaling_changes():
    # A ReLU network is the same function with its layers multiplied by 4 and 1/4: so is its slice.
    rng = np.random.default_rng(2)
    problem = MLP((3, 5, 2), rng.standard_normal((6, 3)), rng.standard_normal((6, 2)), activation="relu",
                  loss=HalfMeanSquaredError(), initialization="torch")  # fmt: skip
    x = problem.initial(rng)
    first, last = problem.to_layers(x)
    last = last.copy()
    last[:, -1] = 0.0  # the output bias is not multiplied by anything before it
    scaled = problem.from_layers([4 * first, last / 4])
    x = problem.from_layers([first, last])
    assert float(problem.loss(scaled)) == pytest.approx(float(problem.loss(x)), rel=1e-12)
    seen = {}
    for kind in ("filters", "whole"):
        slices = []
        for place in (x, scaled):
            d1, d2 = problem.to_layers(random_direction(problem, place, 5, normalize=kind))
            d2 = d2.copy()
            d2[:, -1] = 0.0
            slices.append(slice_along(problem, place, problem.from_layers([d1, d2]), points=5).loss)
        seen[kind] = np.abs(slices[0] - slices[1]).max()
    assert seen["filters"] < 1e-12
    assert seen["whole"] > 1e-2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, x: slice_along(p, x, 0 * x), "direction must be one direction .n,., finite and not zero"),
        (lambda p, x: slice_along(p, x, x * np.nan), "direction must be one direction .n,., finite and not zero"),
        (lambda p, x: slice_along(p, x, np.ones(3)), r"direction must have shape \(2,\)"),
        (lambda p, x: slice_along(p, x, np.ones((2, 2))), "direction must be one direction"),
        (lambda p, x: slice_along(p, x, x, span=(1.0, 1.0)), "span must be two numbers in increasing order"),
        (lambda p, x: slice_along(p, x, x, span=(0.0, np.inf)), "span must be two numbers in increasing order"),
        (lambda p, x: slice_along(p, x, x, span=3.0), "span must be two numbers in increasing order"),
        (lambda p, x: slice_along(p, x, x, points=2), "points must be a whole number of at least 3"),
        (lambda p, x: plane(p, x, x, 0 * x), "second must be one direction"),
        (lambda p, x: plane(p, x, 0 * x, x), "first must be one direction"),
        (lambda p, x: random_direction(p, x, 0, normalize="layers"), "choose one of .'whole', 'filters'."),
        (lambda p, x: random_direction(p, x, 0, normalize="filters"), "has no layers"),
        (lambda p, x: random_direction(p, x, -1), "seed must be a non-negative integer"),
    ],
)
def test_wrong_pictures(call, message):
    with pytest.raises(ValueError, match=message):
        call(HorseSaddle(), np.ones(2))
