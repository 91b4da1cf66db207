"""The three families of spectra are what their descriptions say, by NumPy's eigenvalues and statistics of draws."""

import numpy as np
import pytest

from refimpl.arrays import device_of, dtype_name, to_numpy
from refimpl.problems.spectra import FAMILIES, gaussian, logarithmic, spiked

SMALL = {"gaussian": 30, "logarithmic": 30, "spiked": 60}
by_family = pytest.mark.parametrize("name", FAMILIES)


@by_family
def test_eigenvalues_are_those_of_the_matrix(name):
    problem = FAMILIES[name](3, SMALL[name])
    assert problem.name == name
    assert problem.matrix.shape == (SMALL[name], SMALL[name])
    np.testing.assert_array_equal(problem.matrix, problem.matrix.T)
    found = np.linalg.eigvalsh(problem.matrix)
    np.testing.assert_allclose(problem.eigenvalues, found, rtol=0, atol=1e-13 * np.abs(found).max())
    assert problem.largest == pytest.approx(np.linalg.norm(problem.matrix, 2), rel=1e-12)
    assert problem.smallest == pytest.approx(1 / np.linalg.norm(np.linalg.inv(problem.matrix), 2), rel=1e-8)


@by_family
def test_products_and_directions_are_those_of_the_matrix(name, backend):
    problem = FAMILIES[name](4, SMALL[name], backend=backend)
    assert (dtype_name(problem.matrix.dtype), device_of(problem.matrix)) == (backend.dtype_name, backend.device)
    reference = FAMILIES[name](4, SMALL[name])
    np.testing.assert_array_equal(to_numpy(problem.matrix), to_numpy(backend.asarray(reference.matrix)))
    np.testing.assert_array_equal(to_numpy(problem.gradient), to_numpy(backend.asarray(reference.gradient)))
    v = np.random.default_rng(5).standard_normal((2, SMALL[name]))
    tolerance = 1e-12 if backend.dtype_name == "float64" else 1e-4
    product = reference.matrix @ v[1]
    np.testing.assert_allclose(
        to_numpy(problem.hvp(backend.asarray(v)))[1], product, rtol=0, atol=tolerance * np.abs(product).max()
    )
    values, vectors = np.linalg.eigh(reference.matrix)
    for mode, damping, sizes in [("abs", 0.5, np.abs(values) + 0.5), ("square", 0.5, np.hypot(values, 0.5))]:
        wanted = vectors @ (vectors.T @ reference.gradient / sizes)
        found = to_numpy(problem.direction(mode, damping))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    wanted = vectors @ (vectors.T @ reference.gradient / np.abs(values))
    np.testing.assert_allclose(reference.direction(), wanted, rtol=0, atol=1e-8 * np.abs(wanted).max())


@by_family
def test_the_seed_decides(name):
    one, same, other = (FAMILIES[name](seed, SMALL[name]) for seed in (6, 6, 7))
    np.testing.assert_array_equal(one.matrix, same.matrix)
    np.testing.assert_array_equal(one.gradient, same.gradient)
    assert np.abs(one.matrix - other.matrix).max() > 0.01
    assert np.abs(one.gradient - other.gradient).min() > 0


def test_gaussian_entries_have_variance_one_on_the_diagonal_too():
    draws = np.stack([gaussian(seed).matrix for seed in range(40)])
    assert draws.shape == (40, 100, 100)
    off = draws[:, *np.triu_indices(100, 1)]
    diagonal = draws[:, np.arange(100), np.arange(100)]
    assert off.mean() == pytest.approx(0, abs=0.01)
    assert off.var() == pytest.approx(1, rel=0.02)
    assert diagonal.var() == pytest.approx(1, abs=4 * np.sqrt(2 / diagonal.size))
    # The semicircle ends at 2 sqrt(n) = 20.
    largest = [np.abs(np.linalg.eigvalsh(matrix)).max() for matrix in draws]
    assert min(largest) > 18
    assert max(largest) < 22


def test_logarithmic_magnitudes_are_evenly_spaced_and_come_with_both_signs():
    problem = logarithmic(1)
    assert problem.eigenvalues.shape == (100,)
    positive = problem.eigenvalues[problem.eigenvalues > 0]
    np.testing.assert_allclose(np.diff(np.log10(positive)), 3 / 49, rtol=1e-9)
    np.testing.assert_array_equal(-problem.eigenvalues[problem.eigenvalues < 0][::-1], positive)
    assert problem.largest / problem.smallest == pytest.approx(1000)
    assert logarithmic(1, decades=5.0).smallest == pytest.approx(1e-5)


def test_logarithmic_of_an_odd_size():
    with pytest.raises(ValueError, match="n must be even"):
        logarithmic(0, n=5)


def test_spiked_has_its_outliers_and_a_bulk_near_zero():
    problem = spiked(2)
    values = problem.eigenvalues
    assert values.shape == (1000,)
    np.testing.assert_allclose(values[:3], [-1.0, -0.3, -0.1], rtol=1e-9)
    np.testing.assert_allclose(values[-12:], 0.5 * 40 ** (np.arange(12) / 11), rtol=1e-9)
    bulk = values[3:-12]
    assert np.abs(bulk).max() < 0.1
    # 492 magnitudes of N(0, 0.02^2), none of them negative, and 493 of N(0, 0.001^2), half of them negative.
    assert np.abs(bulk[bulk < 0]).max() < 0.005
    assert (bulk < 0).mean() == pytest.approx(0.25, abs=0.05)
    assert (np.abs(bulk) < 0.003).mean() == pytest.approx(0.5 + 0.5 * 0.119, abs=0.03)
    assert np.sqrt((bulk**2).mean()) == pytest.approx(np.sqrt((0.02**2 + 0.001**2) / 2), rel=0.1)
    np.testing.assert_allclose(np.linalg.eigvalsh(problem.matrix), values, rtol=0, atol=1e-12)
