"""The array gate on every backend.

Oracles: NumPy on the host for values, closed forms for norms, and the host's random stream for draws.
"""

import math

import numpy as np
import pytest
from cases import BACKENDS

from refimpl import arrays
from refimpl.arrays import Backend, dtype_name, get_backend, to_numpy


@pytest.mark.parametrize("spec", [spec.param() for spec in BACKENDS])
def test_each_backend_of_the_table_makes_arrays_where_and_as_asked(spec):
    backend = spec.get()
    made = [backend.asarray([1.0, 2.0]), backend.zeros(3), backend.zeros((2, 2)), backend.eye(2)]
    made += [backend.normal(np.random.default_rng(0), 4), backend.uniform(np.random.default_rng(0), 1.0, 2.0, (2, 3))]
    assert [tuple(a.shape) for a in made] == [(2,), (3,), (2, 2), (2, 2), (4,), (2, 3)]
    for a in made:
        assert dtype_name(a.dtype) == spec.dtype == backend.dtype_name
        assert arrays.device_of(a) == backend.device
        if spec.device is not None:
            assert spec.device in str(arrays.device_of(a))
        assert arrays.namespace(a) is backend.xp
    np.testing.assert_array_equal(to_numpy(made[3]), np.eye(2))
    assert not to_numpy(made[1]).any()


def test_values_round_trip_through_the_host(backend):
    values = np.random.default_rng(1).standard_normal((3, 4))
    for given in (values, values.tolist(), backend.asarray(values), get_backend().asarray(values)):
        np.testing.assert_array_equal(to_numpy(backend.asarray(given)), values.astype(backend.dtype_name))
    assert to_numpy(backend.asarray(2.5)).item() == 2.5


def test_to_numpy_copies(backend):
    x = backend.zeros(2)
    to_numpy(x)[0] = 7.0
    assert not to_numpy(x).any()
    assert to_numpy([[1.0, 2.0]]).shape == (1, 2)


def test_the_same_seed_gives_the_same_draws_on_every_backend(backend):
    normal = to_numpy(backend.normal(np.random.default_rng(3), (2, 5)))
    uniform = to_numpy(backend.uniform(np.random.default_rng(4), -1.0, 3.0, 50))
    # The host's double-precision stream, rounded once.
    expected = np.random.default_rng(3).standard_normal((2, 5)).astype(backend.dtype_name)
    np.testing.assert_array_equal(normal, expected)
    np.testing.assert_array_equal(uniform, np.random.default_rng(4).uniform(-1.0, 3.0, 50).astype(uniform.dtype))
    assert uniform.min() >= -1.0
    assert uniform.max() < 3.0


def test_backend_of_finds_the_way_back(backend):
    found = arrays.backend_of(backend.zeros(2))
    assert isinstance(found, Backend)
    assert (found.name, found.dtype_name) == (backend.name, backend.dtype_name)
    assert found.device == backend.device
    assert found.xp is backend.xp


def test_machine_epsilon_is_the_spacing_at_one(backend):
    eps = arrays.machine_epsilon(backend.zeros(1))
    one = backend.asarray([1.0])
    assert isinstance(eps, float)
    assert to_numpy(one + eps)[0] > 1.0
    assert to_numpy(one + 0.5 * eps)[0] == 1.0


def test_dot_against_numpy(backend):
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((2, 3, 7)).astype(backend.dtype_name)
    ours = arrays.dot(backend.asarray(a), backend.asarray(b))
    assert dtype_name(ours.dtype) == backend.dtype_name
    np.testing.assert_allclose(to_numpy(ours), (a * b).sum(-1), atol=20 * np.finfo(a.dtype).eps)


def test_norm_against_numpy(backend):
    a = np.random.default_rng(6).standard_normal((4, 9)).astype(backend.dtype_name)
    ours = arrays.norm(backend.asarray(a))
    assert tuple(ours.shape) == (4,)
    assert dtype_name(ours.dtype) == backend.dtype_name
    np.testing.assert_allclose(to_numpy(ours), np.linalg.norm(a, axis=-1), rtol=8 * np.finfo(a.dtype).eps)


def test_norm_survives_entries_whose_squares_do_not(backend):
    # 3-4-5 at both ends of the range: the squares overflow or vanish, the norm is an ordinary number.
    big, tiny = (1e200, 1e-200) if backend.dtype_name == "float64" else (1e30, 1e-30)
    for size in (big, tiny):
        value = to_numpy(arrays.norm(backend.asarray([3 * size, -4 * size])))
        np.testing.assert_allclose(value, 5 * size, rtol=1e-6)


def test_norm_of_zero_infinity_and_nan(backend):
    rows = backend.asarray([[0.0, 0.0], [math.inf, 1.0], [math.nan, 1.0]])
    zero, infinite, undefined = to_numpy(arrays.norm(rows)).tolist()
    assert zero == 0.0
    assert infinite == math.inf
    assert math.isnan(undefined)


def test_all_finite(backend):
    good = backend.asarray([1.0, -2.0])
    assert arrays.all_finite(good, good)
    assert not arrays.all_finite(good, backend.asarray([1.0, math.nan]))
    assert not arrays.all_finite(backend.asarray([math.inf, 1.0]), good)


def test_check_array_accepts_what_fits_and_names_what_does_not(backend):
    arrays.check_array("x", backend.zeros(3), backend, 3)
    arrays.check_array("x", backend.zeros((5, 3)), backend, 3, (5,))
    with pytest.raises(ValueError, match=r"x must have shape \(4,\), got \(3,\)"):
        arrays.check_array("x", backend.zeros(3), backend, 4)
    with pytest.raises(ValueError, match="shape"):
        arrays.check_array("x", backend.zeros((5, 3)), backend, 3)
    with pytest.raises(ValueError, match="got list"):
        arrays.check_array("x", [0.0, 0.0, 0.0], backend, 3)
    other = get_backend("torch" if backend.name == "numpy" else "numpy")
    with pytest.raises(ValueError, match=f"must be a {backend.name} array"):
        arrays.check_array("x", other.zeros(3), backend, 3)
    integers = backend.xp.zeros(3, dtype=backend.xp.int32, device=backend.device)
    with pytest.raises(ValueError, match="dtype"):
        arrays.check_array("x", integers, backend, 3)


def test_check_symmetric(backend):
    arrays.check_symmetric("H", backend.asarray([[1.0, 2.0], [2.0, -3.0]]))
    arrays.check_symmetric("H", backend.zeros((2, 2)))
    wrong = {
        "symmetric": [[1.0, 2.0], [2.1, 1.0]],
        "finite": [[1.0, math.nan], [math.nan, 1.0]],
        "square": [[1.0, 2.0, 3.0], [2.0, 1.0, 3.0]],
    }
    for word, values in wrong.items():
        with pytest.raises(ValueError, match=f"H must be .*{word}"):
            arrays.check_symmetric("H", backend.asarray(values))
    with pytest.raises(ValueError, match="square"):
        arrays.check_symmetric("H", backend.zeros(2))
    # Rounding is forgiven, whatever the size of the matrix.
    arrays.check_symmetric("H", backend.asarray([[1e9, 2e9], [2e9 * (1 + 1e-9), 1e9]]))


def test_namespace_refuses_a_mixture(backend):
    other = get_backend("torch" if backend.name == "numpy" else "numpy")
    with pytest.raises(ValueError, match="arrays of one library"):
        arrays.namespace(backend.zeros(1), other.zeros(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "jax"}, "unknown backend"),
        ({"dtype": "float16"}, "unknown dtype"),
        ({"device": "moon"}, "cannot hold"),
        ({"name": "torch", "device": "moon"}, "cannot hold"),
        ({"name": "array-api-strict", "device": "moon"}, "cannot hold"),
        ({"name": "array-api-strict", "device": "no_float64"}, "cannot hold float64"),
    ],
)
def test_get_backend_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        get_backend(**options)


def test_available_backends_are_those_that_can_be_got():
    found = arrays.available_backends()
    assert "numpy" in found
    for name in found:
        assert get_backend(name).name == name


def test_backend_of_refuses_what_is_no_array():
    with pytest.raises(ValueError, match="arrays of one library"):
        arrays.backend_of([1.0, 2.0])


@pytest.mark.parametrize("value", [1, 2.5, np.float64(0.5), np.int64(3)])
def test_check_positive_gives_a_plain_float(value):
    assert type(arrays.check_positive("radius", value)) is float
    assert arrays.check_positive("radius", value) == value


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "1", None])
def test_check_positive_refuses(value):
    with pytest.raises(ValueError, match="radius must be"):
        arrays.check_positive("radius", value)


def test_check_positive_with_zero():
    assert arrays.check_positive("damping", 0, zero_allowed=True) == 0.0
    with pytest.raises(ValueError, match="at least zero"):
        arrays.check_positive("damping", -1e-300, zero_allowed=True)


def test_check_between():
    assert arrays.check_between("momentum", 0, 0, 1) == 0.0
    assert arrays.check_between("momentum", 1, 0, 1, open_right=False) == 1.0
    for value in (1, -0.1, math.nan, True, "0.5"):
        with pytest.raises(ValueError, match="momentum must"):
            arrays.check_between("momentum", value, 0, 1)


def test_check_count():
    assert arrays.check_count("steps", np.int64(3)) == 3
    assert arrays.check_count("steps", 0, minimum=0) == 0
    for value in (0, -1, 2.0, True, "3"):
        with pytest.raises(ValueError, match="steps must be a whole number of at least 1"):
            arrays.check_count("steps", value)


def test_as_generator():
    rng = np.random.default_rng(3)
    assert arrays.as_generator(rng) is rng
    assert arrays.as_generator(3).random() == np.random.default_rng(3).random()
    assert arrays.as_generator([1, 2]).random() == np.random.default_rng([1, 2]).random()
    for seed in (-1, 1.5, None, True, "seven", [-1], ["a"], []):
        with pytest.raises(ValueError, match="seed must be"):
            arrays.as_generator(seed)
