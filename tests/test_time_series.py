"""Correlations of series with autocorrelation.

Oracles: closed forms for x_t = phi x_{t-1} + noise (autocorrelation phi^k, times (1 + phi)/(1 - phi) and
(1 + phi^2)/(1 - phi^2)); SciPy for correlations and p-values; mpmath for p-values that SciPy loses; sums written out;
simulation of independent series, for which every honest p-value is uniform.
"""

import math

import numpy as np
import pytest
from scipy import stats

from refimpl.experiments.time_series import (
    Association,
    ar1,
    association,
    autocorrelation,
    block_bootstrap,
    correlation,
    detrended,
    integrated_time,
    log10_p,
    pair_time,
    phase_p,
    rejections,
    shift_p,
)

KINDS = ("pearson", "spearman")


def tied(count, seed=0, strength=0.8):
    """Two independent observations per row with correlation ``strength``."""
    rng = np.random.default_rng(seed)
    x, noise = rng.standard_normal((2, count))
    return x, strength * x + math.sqrt(1 - strength**2) * noise


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.6])
def test_autoregression_is_stationary_with_variance_one(phi):
    starts = np.array([ar1(phi, 3, seed) for seed in range(4000)])
    np.testing.assert_allclose(starts.std(axis=0), 1.0, atol=0.05)
    x = ar1(phi, 100_000, 1)
    np.testing.assert_allclose(autocorrelation(x)[:4], phi ** np.arange(4), atol=0.03)


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, 0.99])
def test_times_of_an_autoregression(phi):
    x, y = ar1(phi, 400_000, 3), ar1(phi, 400_000, 4)
    assert integrated_time(x) == pytest.approx((1 + phi) / (1 - phi), rel=0.12)
    assert pair_time(x, y) == pytest.approx((1 + phi**2) / (1 - phi**2), rel=0.12)


def test_pair_of_one_slow_and_one_white_series_counts_in_full():
    assert pair_time(ar1(0.99, 50_000, 0), ar1(0.0, 50_000, 1)) == pytest.approx(1.0, abs=0.05)


def test_alternating_series_counts_at_most_in_full():
    assert integrated_time(ar1(-0.9, 10_000, 0)) == 1.0


def test_autocorrelation_is_the_sum_written_out():
    x = np.random.default_rng(0).standard_normal(37)
    centred = x - x.mean()
    expected = [np.sum(centred[k:] * centred[: 37 - k]) / np.sum(centred**2) for k in range(37)]
    np.testing.assert_allclose(autocorrelation(x), expected, atol=1e-14)


# -- correlations and their p-values ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_correlations_against_scipy(seed):
    x, y = tied(60, seed, 0.3)
    y = np.round(2 * y)  # with ties
    assert correlation(x, y) == pytest.approx(stats.pearsonr(x, y).statistic, rel=1e-12)
    assert correlation(x, y, "spearman") == pytest.approx(stats.spearmanr(x, y).statistic, rel=1e-12)
    assert log10_p(correlation(x, y), 60) == pytest.approx(math.log10(stats.pearsonr(x, y).pvalue), rel=1e-9)


@pytest.mark.parametrize(("r", "count"), [(0.2, 7500), (0.5, 7500), (-0.9, 5000), (0.37, 7800)])
def test_tiny_p_values_against_mpmath(r, count):
    mpmath = pytest.importorskip("mpmath")
    with mpmath.workdps(40):
        a = mpmath.mpf(count - 2) / 2
        z = 1 - mpmath.mpf(r) ** 2  # p = I_z(a, 1/2)
        p = mpmath.betainc(a, mpmath.mpf(1) / 2, 0, z, regularized=True)
        expected = float(mpmath.log10(p))
    assert log10_p(r, count) == pytest.approx(expected, rel=1e-10)


def test_p_values_at_the_ends():
    assert log10_p(0.0, 100) == pytest.approx(0.0, abs=1e-12)
    assert log10_p(1.0, 100) == -math.inf
    assert log10_p(0.9, 1.5) == 0.0


def test_the_p_values_of_the_paper_need_thousands_of_independent_iterates():
    # Table 1: r = -0.245341 with 1e-107, and r = -0.026608 with 0.031120.
    counts = np.arange(5000, 9000, 10)
    first = counts[np.argmin([abs(log10_p(-0.245341, n) + 107) for n in counts])]
    second = counts[np.argmin([abs(log10_p(-0.026608, n) - math.log10(0.031120)) for n in counts])]
    assert 7700 < first < 7950
    assert 6500 < second < 6640


# -- null distributions that keep the autocorrelation -----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shifts_written_out(kind):
    x, y = ar1(0.5, 41, 1), ar1(0.5, 41, 2)
    every = [abs(correlation(x, np.roll(y, k), kind)) for k in range(41)]
    assert shift_p(x, y, kind=kind) == np.mean(np.asarray(every) >= every[0] - 1e-12)


@pytest.mark.parametrize("length", [6, 7, 40])
def test_surrogates_written_out_in_time(length):
    # The same random phases, turned into series: they have the spectrum of y and are correlated one by one.
    x, y = tied(length, 5, 0.3)
    rng, spectrum, reached = np.random.default_rng(4), np.abs(np.fft.rfft(y - y.mean())), abs(correlation(x, y))
    exceeding = 0
    for _ in range(300):
        turned = spectrum * np.exp(2j * np.pi * rng.random(len(spectrum)))
        if length % 2 == 0:
            turned[-1] = spectrum[-1] * rng.choice([-1.0, 1.0])
        surrogate = np.fft.irfft(turned, length)
        np.testing.assert_allclose(np.abs(np.fft.rfft(surrogate))[1:], spectrum[1:], rtol=1e-9)
        exceeding += abs(correlation(x, surrogate)) >= reached
    assert phase_p(x, y, surrogates=300, seed=4) == (1 + exceeding) / 301


def test_a_series_is_its_own_surrogate():
    x = ar1(0.7, 50, 0)
    assert phase_p(x, x, surrogates=200) == pytest.approx(1 / 201)


def test_honest_p_values_of_independent_series_are_about_uniform():
    found = {"effective": [], "shift": [], "phase": []}
    for seed in range(80):
        x, y = ar1(0.9, 600, 2 * seed), ar1(0.9, 600, 2 * seed + 1)
        found["effective"].append(10 ** log10_p(correlation(x, y), 600 / pair_time(x, y)))
        found["shift"].append(shift_p(x, y))
        found["phase"].append(phase_p(x, y, surrogates=200))
    for name, values in found.items():
        assert np.mean(np.asarray(values) < 0.05) < 0.13, name
        assert 0.35 < np.mean(values) < 0.65, name


def test_naive_p_values_of_independent_series_are_not():
    # phi = 0.99, as long as the runs behind table 1 of the ELMO paper.
    found = rejections(0.99, 7500, 1e-10, pairs=60)
    assert found.expected_naive == pytest.approx(0.517, abs=0.001)
    assert 0.3 < found.naive < 0.75
    assert (found.effective, found.shift) == (0.0, 0.0)
    assert rejections(0.99, 7500, 0.05, pairs=60).naive > 0.7
    assert rejections(0.0, 1000, 0.05, pairs=200).naive < 0.1


def test_a_real_tie_is_found_by_all():
    x, noise = ar1(0.9, 3000, 0), ar1(0.9, 3000, 1)
    found = association(x, x + noise, resamples=200)
    assert found.log10_p < -10
    assert found.shift_p <= 1 / 3000 + 1e-12
    assert found.phase_p == pytest.approx(1 / 201)
    assert found.low < found.r < found.high
    assert found.low > 0.5
    assert found.high < 0.9


# -- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_interval_of_independent_pairs_against_fisher(kind):
    x, y = tied(500, 3)
    low, high = block_bootstrap(x, y, kind=kind, block=1, resamples=1000)
    centre = math.atanh(correlation(x, y, kind))
    expected = [math.tanh(centre + sign * 1.96 / math.sqrt(497)) for sign in (-1, 1)]
    np.testing.assert_allclose([low, high], expected, atol=0.02)


def test_interval_of_slow_series_is_as_wide_as_it_must_be():
    # The deviation of r over many pairs of independent series, and the width of one interval.
    phi, length = 0.95, 4000
    spread = np.std([correlation(ar1(phi, length, 2 * s), ar1(phi, length, 2 * s + 1)) for s in range(200)])
    widths = []
    for seed in range(8):
        found = association(ar1(phi, length, seed), ar1(phi, length, 100 + seed), resamples=300)
        widths.append((found.high - found.low) / 3.92)
    assert np.mean(widths) == pytest.approx(spread, rel=0.35)
    assert np.mean(widths) > 3 / math.sqrt(length)


def test_association_says_what_its_parts_say():
    x, y = ar1(0.8, 400, 1), ar1(0.8, 400, 2)
    found = association(x, y, kind="spearman", resamples=50, seed=3)
    ranks = stats.rankdata(x), stats.rankdata(y)
    time = pair_time(*ranks)
    assert found.r == correlation(x, y, "spearman")
    assert (found.iterates, found.time, found.effective) == (400, time, 400 / time)
    assert found.naive_log10_p == log10_p(found.r, 400)
    assert found.log10_p == log10_p(found.r, 400 / time)
    assert found.shift_p == shift_p(x, y, kind="spearman")
    assert found.phase_p == phase_p(x, y, kind="spearman", surrogates=50, seed=3)
    assert isinstance(found, Association)


# -- trends -----------------------------------------------------------------------------------------------------------


def test_running_mean_written_out():
    x = np.random.default_rng(0).standard_normal(20)
    expected = [x[i] - x[i - 2 : i + 3].mean() for i in range(2, 18)]
    np.testing.assert_allclose(detrended(x, 5), expected, atol=1e-14)


def test_a_straight_line_leaves_nothing():
    found = detrended(3.0 - 0.7 * np.arange(500), 101)
    assert found.shape == (400,)
    assert (found == 0.0).all()
    with pytest.raises(ValueError, match="constant"):
        association(found, ar1(0.5, 400, 0))


def test_a_common_trend_alone_correlates():
    trend = np.linspace(0, 5, 1000)
    x, y = trend + ar1(0.3, 1000, 0), trend + ar1(0.3, 1000, 1)
    assert correlation(x, y) > 0.5
    assert abs(correlation(detrended(x, 51), detrended(y, 51))) < 0.15


# -- at the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: correlation([1.0, 2.0, 3.0], [1.0, 2.0]), "y must be at least three"),
        (lambda: correlation([1.0, 2.0, 3.0], [1.0, 2.0, 4.0, 5.0]), "equally long, got 3 and 4"),
        (lambda: correlation([1.0, 2.0, math.nan], [1.0, 2.0, 4.0]), "x must be at least three finite"),
        (lambda: correlation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]), "y is constant"),
        (lambda: correlation([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], "kendall"), "unknown kind"),
        (lambda: autocorrelation(np.ones((3, 2))), "one row"),
        (lambda: ar1(1.0, 5, 0), "phi"),
        (lambda: block_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], block=4), "block must be at most"),
        (lambda: block_bootstrap([1.0, 2.0, 3.0], [1.0, 2.0, 4.0], block=1, level=1.0), "level"),
        (lambda: detrended([1.0, 2.0, 3.0], 2), "width must be odd"),
        (lambda: rejections(0.5, 10, 0.0), "bound"),
    ],
)
def test_wrong_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
