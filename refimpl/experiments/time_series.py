"""How much two series of one training run have to do with each other, when neighbouring values are almost the same.

The usual p-value of a correlation counts every iterate as an independent observation. Iterates of a run are nothing of
the kind: two independent series with an autocorrelation of 0.99 correlate "significantly" in most pairs. What is here
instead: the number of independent observations that a pair of series is worth, intervals from blocks, and null
distributions that keep the autocorrelation of each series.

Everything assumes series without a trend; :func:`detrended` takes one out.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import stats

from refimpl.arrays import as_generator, check_between, check_count, host_numbers

Kind = Literal["pearson", "spearman"]


def ar1(phi: float, length: int, rng: int | np.random.Generator) -> np.ndarray:
    """x_t = phi x_{t-1} + noise, stationary from the start, of variance 1: (length,).

    Raises
    ------
    ValueError
        |phi| >= 1, or a length below 1.
    """
    check_between("|phi|", abs(phi), 0.0, 1.0)
    noise = as_generator(rng).standard_normal(check_count("length", length))
    noise[1:] *= math.sqrt(1.0 - phi * phi)
    from scipy import signal  # 3 s to import, and every run of an experiment imports this file

    return np.asarray(signal.lfilter([1.0], [1.0, -phi], noise))


def autocorrelation(x: Any) -> np.ndarray:
    """rho_0 = 1, rho_1, …, rho_{m-1} of a series (m,): the estimate that divides every lag by m.

    Raises
    ------
    ValueError
        Fewer than three values, values that are not finite, or a constant series.

    Source: Box & Jenkins (1976), sec. 2.1.
    """
    values = _series("x", x)
    return _autocovariance(values) / np.mean((values - values.mean()) ** 2)


def integrated_time(x: Any, *, window: float = 5.0) -> float:
    """tau = 1 + 2 sum_k rho_k: how many iterates of ``x`` are worth one independent observation of its mean.

    At least 1.

    The sum ends at the smallest lag W >= ``window`` times the sum so far. For x_t = phi x_{t-1} + noise
    tau = (1 + phi)/(1 - phi).

    Raises
    ------
    ValueError
        What :func:`autocorrelation` refuses.

    Source: Sokal (1997), sec. 3, for the window.
    """
    return _summed(autocorrelation(x)[1:], window)


def pair_time(x: Any, y: Any, *, window: float = 5.0) -> float:
    """tau = 1 + 2 sum_k rho_k(x) rho_k(y): how many iterates are worth one for the *correlation* of two series.

    For two series x_t = phi x_{t-1} + noise it is (1 + phi^2)/(1 - phi^2). At least 1.

    Raises
    ------
    ValueError
        What :func:`autocorrelation` refuses, or series of different lengths.

    Source: Bartlett (1935).
    """
    first, second = _pair(x, y)
    return _summed((autocorrelation(first) * autocorrelation(second))[1:], window)


def correlation(x: Any, y: Any, kind: Kind = "pearson") -> float:
    """Pearson's r, or Spearman's (of the ranks, ties averaged).

    Raises
    ------
    ValueError
        Another kind, fewer than three values, lengths that differ, or a constant series.
    """
    first, second = _ranked(*_pair(x, y), kind)
    return float(np.clip(np.mean(_standard(first) * _standard(second)), -1.0, 1.0))


def log10_p(r: float, count: float) -> float:
    """The decimal logarithm of the two-sided p-value of a correlation ``r`` of ``count`` independent normal pairs.

    ``count`` need not be a whole number; at 2 or below there is no evidence, and the answer is 0 (p = 1).

    Source: Pearson's test, as in ``scipy.stats.pearsonr``, here without underflow.

    >>> round(log10_p(-0.245341, 7500))
    -103
    """
    if count <= 2:
        return 0.0
    if abs(r) >= 1:
        return -math.inf
    statistic = abs(r) * math.sqrt((count - 2) / (1 - r * r))
    return float((math.log(2) + _log_tail(statistic, count - 2)) / math.log(10))


def block_bootstrap(
    x: Any, y: Any, *, kind: Kind = "pearson", block: int, resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A percentile interval for the correlation: pairs are drawn in blocks of ``block`` neighbours, around the end.

    Raises
    ------
    ValueError
        What :func:`correlation` refuses, a block longer than the series, a level outside (0, 1).

    Source: Politis & Romano (1992), circular blocks; Künsch (1989).
    """
    first, second = _pair(x, y)
    length = len(first)
    if check_count("block", block) > length:
        raise ValueError(f"block must be at most the length of the series {length}, got {block}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    rng = as_generator(seed)
    pieces = -(-length // block)
    found = []
    for _ in range(check_count("resamples", resamples)):
        starts = rng.integers(0, length, pieces)
        rows = ((starts[:, None] + np.arange(block)) % length).ravel()[:length]
        a, b = _ranked(first[rows], second[rows], kind)
        if np.ptp(a) > 0 and np.ptp(b) > 0:
            found.append(float(np.mean(_standard(a) * _standard(b))))
    if not found:
        return math.nan, math.nan
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def shift_p(x: Any, y: Any, *, kind: Kind = "pearson") -> float:
    """The share of circular shifts of ``y`` against ``x`` whose correlation is at least as large, in magnitude.

    Every shift keeps the autocorrelation of both series and breaks what ties them together. The true alignment counts,
    so the answer is at least 1/m for series of m values.

    Raises
    ------
    ValueError
        What :func:`correlation` refuses.
    """
    first, second = (_standard(v) for v in _ranked(*_pair(x, y), kind))
    product = np.fft.rfft(first) * np.conj(np.fft.rfft(second))
    every = np.fft.irfft(product, len(first)) / len(first)
    return float(np.mean(np.abs(every) >= abs(every[0]) * (1 - 1e-12)))


def phase_p(x: Any, y: Any, *, kind: Kind = "pearson", surrogates: int = 1000, seed: int = 0) -> float:
    """The share of series with the spectrum of ``y`` and random phases that correlate with ``x`` at least as much.

    The series itself counts as one of them. For ``"spearman"`` the ranks are what is randomized.

    Raises
    ------
    ValueError
        What :func:`correlation` refuses, or no surrogates.

    Source: Theiler et al. (1992).
    """
    first, second = (_standard(v) for v in _ranked(*_pair(x, y), kind))
    length, rng = len(first), as_generator(seed)
    spectrum = np.abs(np.fft.rfft(second))
    reached, against = abs(float(np.mean(first * second))), np.conj(np.fft.rfft(first))
    weight = np.full(len(spectrum), 2.0)
    weight[0] = 0.0
    if length % 2 == 0:
        weight[-1] = 1.0
    exceeding = 0
    for _ in range(check_count("surrogates", surrogates)):
        turned = spectrum * np.exp(2j * np.pi * rng.random(len(spectrum)))
        if length % 2 == 0:
            turned[-1] = spectrum[-1] * rng.choice([-1.0, 1.0])
        exceeding += abs(np.sum(weight * (turned * against).real)) / length**2 >= reached * (1 - 1e-12)
    return (1 + exceeding) / (1 + surrogates)


def detrended(x: Any, width: int) -> np.ndarray:
    """``x`` less its running mean over ``width`` values, where all of them are there: (m - width + 1,).

    What rounding leaves of a straight line is exactly zero.

    Raises
    ------
    ValueError
        What :func:`autocorrelation` refuses; a width that is even or longer than the series.
    """
    values = _series("x", x)
    if check_count("width", width) % 2 == 0 or width > len(values):
        raise ValueError(f"width must be odd and at most {len(values)}, got {width}")
    from scipy import signal

    mean = signal.convolve(values, np.full(width, 1.0 / width), mode="valid", method="direct")
    rest = values[width // 2 : len(values) - width // 2] - mean
    return np.where(np.abs(rest) <= 1e-12 * np.max(np.abs(values)), 0.0, rest)


class Association(NamedTuple):
    """What two series of one run have to do with each other.

    r : the correlation. iterates : their number. naive_log10_p : log10 of the p-value that counts them as independent.

    time : iterates per independent pair (:func:`pair_time`); effective : iterates / time; log10_p : with that many.

    low, high : 95 % interval from blocks. shift_p, phase_p : p-values that keep the autocorrelation of each series.
    """

    r: float
    iterates: int
    naive_log10_p: float
    time: float
    effective: float
    log10_p: float
    low: float
    high: float
    shift_p: float
    phase_p: float


def association(x: Any, y: Any, *, kind: Kind = "pearson", resamples: int = 1000, seed: int = 0) -> Association:
    """Everything above for one pair of series (m,). For ``"spearman"`` the autocorrelations are those of the ranks.

    Blocks of the bootstrap are twice as long as the longer of the two autocorrelation times, at most a quarter of the
    series.

    Raises
    ------
    ValueError
        What :func:`correlation` refuses.
    """
    first, second = _pair(x, y)
    ranks = _ranked(first, second, kind)
    r, time, count = correlation(first, second, kind), pair_time(*ranks), len(first)
    longest = max(integrated_time(values) for values in ranks)
    block = max(1, min(math.ceil(2 * longest), count // 4))
    low, high = block_bootstrap(first, second, kind=kind, block=block, resamples=resamples, seed=seed)
    return Association(
        r, count, log10_p(r, count), time, count / time, log10_p(r, count / time), low, high,
        shift_p(first, second, kind=kind), phase_p(first, second, kind=kind, surrogates=resamples, seed=seed),
    )  # fmt: skip


class Rejections(NamedTuple):
    """Shares of pairs of *independent* series whose p-value is below a bound: naive, and with the effective number."""

    naive: float
    effective: float
    shift: float
    expected_naive: float


def rejections(phi: float, length: int, bound: float, *, pairs: int = 200, seed: int = 0) -> Rejections:
    """How often two independent series x_t = phi x_{t-1} + noise come out with a p-value below ``bound``.

    ``expected_naive`` is the share for long series: r is then normal with variance (1 + phi^2)/((1 - phi^2) length).

    Raises
    ------
    ValueError
        What :func:`ar1` refuses, a bound outside (0, 1), no pairs.
    """
    if not 0 < bound < 1:
        raise ValueError(f"bound must lie strictly between 0 and 1, got {bound!r}")
    rng, limit = as_generator(seed), math.log10(bound)
    found = np.zeros(3)
    for _ in range(check_count("pairs", pairs)):
        x, y = ar1(phi, length, rng), ar1(phi, length, rng)
        r = correlation(x, y)
        found += [log10_p(r, length) < limit, log10_p(r, length / pair_time(x, y)) < limit, shift_p(x, y) < bound]
    quantile = stats.t.isf(bound / 2, length - 2)
    needed = quantile / math.sqrt(length - 2 + quantile**2)
    spread = math.sqrt((1 + phi * phi) / (1 - phi * phi) / length)
    naive, effective, shift = (found / pairs).tolist()
    return Rejections(naive, effective, shift, float(2 * stats.norm.sf(needed / spread)))


def _log_tail(statistic: float, freedom: float) -> float:
    tail = float(stats.t.logsf(statistic, freedom))
    if math.isfinite(tail):
        return tail
    # SciPy takes the logarithm of a number that has underflowed. P(T > t) = I_z(a, 1/2)/2 with a = freedom/2 and
    # z = freedom/(freedom + t^2), and the logarithm of the incomplete beta function is that of its series.
    a, z = freedom / 2, freedom / (freedom + statistic**2)
    beta = math.lgamma(a) + math.lgamma(0.5) - math.lgamma(a + 0.5)
    return a * math.log(z) + 0.5 * math.log1p(-z) - math.log(a) - beta + math.log(_series_sum(a, z)) - math.log(2)


def _series_sum(a: float, z: float) -> float:
    # I_z(a, b) = z^a (1-z)^b / (a B(a, b)) * sum_k B(a+1, k+1)/B(a+b, k+1) z^(k+1), for b = 1/2.
    term, total = 1.0, 1.0
    for k in range(100_000):
        term *= z * (a + 0.5 + k) / (a + 1 + k)
        total += term
        if term < 1e-17 * total:
            break
    return total


def _autocovariance(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    size = 1 << (2 * len(values) - 1).bit_length()
    transformed = np.fft.rfft(centred, size)
    return np.fft.irfft(transformed * np.conj(transformed), size)[: len(values)] / len(values)


def _summed(rho: np.ndarray, window: float) -> float:
    sums = 1.0 + 2.0 * np.cumsum(rho)
    enough = np.flatnonzero(np.arange(1, len(rho) + 1) >= window * sums)
    return float(max(1.0, sums[enough[0] if len(enough) else -1]))


def _ranked(x: np.ndarray, y: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    if kind == "pearson":
        return x, y
    if kind == "spearman":
        return stats.rankdata(x), stats.rankdata(y)
    raise ValueError(f"unknown kind {kind!r}; choose 'pearson' or 'spearman'")


def _standard(values: np.ndarray) -> np.ndarray:
    centred = values - values.mean()
    return np.asarray(centred / math.sqrt(float(np.mean(centred * centred))))


def _pair(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    first, second = _series("x", x), _series("y", y)
    if len(first) != len(second):
        raise ValueError(f"x and y must be equally long, got {len(first)} and {len(second)} values")
    return first, second


def _series(name: str, x: Any) -> np.ndarray:
    values = host_numbers(name, x)
    if values.ndim != 1 or len(values) < 3 or not np.isfinite(values).all():
        raise ValueError(f"{name} must be at least three finite numbers in one row, got shape {values.shape}")
    if np.ptp(values) <= 1e-14 * np.max(np.abs(values)):
        raise ValueError(f"{name} is constant: it correlates with nothing")
    return values
