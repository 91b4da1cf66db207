"""The study of accelerators on random Hessians.

Oracles: SciPy's incomplete beta function for the sums (the error of the series on one eigenvalue in closed form, which
shares no arithmetic with the recursion), angles and lengths that were put in by hand, Aitken's formula written out, and
golden vectors (60 digits).
"""

import numpy as np
import pytest
from golden_vectors import golden
from scipy import special

from refimpl.arrays import get_backend
from refimpl.curvature.acceleration import accelerate
from refimpl.experiments import accelerators as study


@pytest.fixture(scope="module")
def draws():
    return study.ensemble(3, 20)


def test_draws_are_the_paper_s(draws):
    assert draws.matrices.shape == (3, 20, 20)
    np.testing.assert_array_equal(draws.matrices, np.swapaxes(draws.matrices, 1, 2))
    values, basis = np.linalg.eigh(draws.matrices)
    np.testing.assert_allclose(draws.largest, (values**2).max(axis=1), rtol=1e-12)
    np.testing.assert_allclose(draws.smallest, np.abs(values).min(axis=1), rtol=1e-9)
    inside = np.einsum("sij,si->sj", basis, draws.exact)  # in the eigenbasis |H| is diagonal
    np.testing.assert_allclose(inside * np.abs(values), np.einsum("sij,si->sj", basis, draws.gradients), atol=1e-9)
    again = study.ensemble(3, 20)
    np.testing.assert_array_equal(draws.matrices, again.matrices)


@pytest.mark.parametrize("scale", [1000.0, "per draw"])
def test_sums_against_the_incomplete_beta_function(draws, scale):
    v = 1.3 * draws.largest if scale == "per draw" else np.full(3, scale)
    sums = study.series_sums(draws, terms=40, scale=v if scale == "per draw" else scale)
    values, basis = np.linalg.eigh(draws.matrices)
    inside = np.einsum("sij,si->sj", basis, draws.exact)
    for terms in (1, 2, 7, 40):
        missing = special.betainc(terms, 0.5, 1 - values**2 / v[:, None])
        expected = np.einsum("sij,sj->si", basis, inside * (1 - missing))
        np.testing.assert_allclose(sums[terms - 1], expected, atol=1e-11)


def test_single_precision_is_single_throughout(draws):
    backend = get_backend("numpy", "float32")
    rough, fine = study.series_sums(draws, terms=12, backend=backend), study.series_sums(draws, terms=12)
    assert all(row.dtype == np.float32 for row in rough)
    difference = np.abs(rough[-1] - fine[-1]).max() / np.abs(fine[-1]).max()
    assert 1e-9 < difference < 1e-5  # rounded, and no more than that


def test_errors_of_known_angles():
    angle = np.array([0.0, np.pi / 3, np.pi / 2, np.pi])
    guess = 2.0 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    found = study.errors(guess, np.broadcast_to([1.0, 0.0], (4, 2)))
    np.testing.assert_allclose(found.direction, [0.0, 0.5, 1.0, 2.0], atol=1e-15)
    np.testing.assert_allclose(found.length, 2.0)
    np.testing.assert_allclose(found.relative, np.sqrt([1.0, 3.0, 5.0, 9.0]))


def test_study_sees_the_first_k_sums_and_no_more(draws):
    sums = study.series_sums(draws, terms=30)
    found = study.study(sums, draws.exact, [2, 9, 30], [study.PLAIN, ("pade-aitken", 1)])
    assert np.all(np.isnan(found["pade-aitken", 1].direction[0]))  # two sums are too few
    for row, k in enumerate((2, 9, 30)):
        plain = study.errors(sums[k - 1], draws.exact)
        np.testing.assert_array_equal(found[study.PLAIN].relative[row], plain.relative)
        if k > 2:
            first, last = sums[k - 2] - sums[k - 3], sums[k - 1] - sums[k - 2]
            factor = np.sum(first * first, axis=-1) / np.sum(first * (last - first), axis=-1)
            aitken = study.errors(sums[k - 2] - factor[:, None] * last, draws.exact)
            np.testing.assert_allclose(found["pade-aitken", 1].relative[row], aitken.relative, rtol=1e-9)
    middle = study.medians(found)[study.PLAIN].length
    np.testing.assert_array_equal(middle, np.sort(found[study.PLAIN].length, axis=1)[:, 1])


def test_strided_window_reaches_back(draws):
    sums = study.series_sums(draws, terms=31)
    expected = study.errors(accelerate([sums[0], sums[15], sums[30]], "shanks", 1), draws.exact)
    found = study.study(sums, draws.exact, [31], [("shanks", 1)], strided=True)["shanks", 1]
    np.testing.assert_allclose(found.relative[0], expected.relative, rtol=1e-12)


def test_topological_epsilon_of_order_one_is_the_aitken_form_of_pade():
    values, sums = golden("series")["accelerated_unscaled"]["values"], golden("series")["series"]
    rows = np.array(sums["partial_sums_unscaled_s0_to_s10"])
    np.testing.assert_allclose(values["topological_eps_N1"], values["pade_aitken"], rtol=1e-14)
    for name in ("topological-epsilon", "pade-aitken"):
        np.testing.assert_allclose(accelerate(rows, name, 1), values["pade_aitken"], rtol=1e-12)


def test_every_accelerator_is_in_the_study():
    from refimpl.curvature.acceleration import ACCELERATORS

    seen = {method for method, _ in study.PAPER_CURVES + study.OTHER_CURVES if method}
    assert set(ACCELERATORS) - seen == {"levin-t-componentwise"}  # the paper's Levin has a shared remainder
