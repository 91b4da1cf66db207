"""Two moons, our own generator.

Oracles: the two half circles by their equations; the deviation of the noise; seeds.
"""

import numpy as np
import pytest

from refimpl.problems.datasets import two_moons


def parts(data):
    inputs = np.concatenate([data.train_inputs, data.test_inputs])
    labels = np.concatenate([data.train_targets, data.test_targets])
    return inputs[labels == 0], inputs[labels == 1]


def test_shapes_and_classes():
    data = two_moons()
    assert (data.train_inputs.shape, data.val_inputs.shape, data.test_inputs.shape) == ((200, 2), (0, 2), (200, 2))
    assert (data.train_targets.dtype, data.classes, data.name) == (np.float64, 2, "two_moons")
    assert data.train_targets.mean() == data.test_targets.mean() == 0.5
    odd = two_moons(rows=5)
    assert odd.train_targets.tolist() == odd.test_targets.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_without_noise_points_lie_on_half_circles():
    upper, lower = parts(two_moons(rows=500, noise=0.0))
    np.testing.assert_allclose(np.hypot(*upper.T), 1.0, atol=1e-14)
    np.testing.assert_allclose(np.hypot(*(lower - [1.0, 0.5]).T), 1.0, atol=1e-14)
    assert upper[:, 1].min() >= 0
    assert lower[:, 1].max() <= 0.5
    for angles in (np.arctan2(*upper.T[::-1]), np.arctan2(*([1.0, 0.5] - lower).T[::-1])):
        counts, _ = np.histogram(angles, bins=5, range=(0, np.pi))
        assert counts.sum() == 500
        assert counts.min() > 70  # uniform: 100 each


def test_noise_is_added_to_both_coordinates():
    clean, noisy = two_moons(3, rows=2000, noise=0.0), two_moons(3, rows=2000, noise=0.3)
    difference = noisy.train_inputs - clean.train_inputs
    np.testing.assert_allclose(difference.std(axis=0), 0.3, rtol=0.05)
    np.testing.assert_allclose(difference.mean(axis=0), 0.0, atol=0.03)


def test_seeds_decide_and_test_rows_are_new():
    first, again, other = two_moons(1), two_moons(1), two_moons(2)
    np.testing.assert_array_equal(first.train_inputs, again.train_inputs)
    assert abs(first.train_inputs - other.train_inputs).min(axis=1).max() > 0.1
    assert not set(first.train_inputs[:, 0]) & set(first.test_inputs[:, 0])


@pytest.mark.parametrize(("options", "message"), [({"rows": 0}, "rows"), ({"noise": -0.1}, "noise")])
def test_wrong_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        two_moons(**options)
