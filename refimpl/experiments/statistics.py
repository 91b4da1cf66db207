"""Honest statistics for a handful of seeded runs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import as_generator, check_count, host_numbers


class MedianEstimate(NamedTuple):
    """Bootstrap estimate of a median: mean and standard deviation over resamples, and a percentile interval."""

    median: float
    mean: float
    deviation: float
    low: float
    high: float


def bootstrap_median(values: Any, *, resamples: int = 4000, level: float = 0.95, seed: int = 0) -> MedianEstimate:
    """Median of ``values`` (runs,) with its bootstrap distribution.

    The series paper reports mean ± deviation over resamples of the median over seeds (its sec. 4); the percentile
    interval at ``level`` says more where there are few runs. Runs that diverged count as infinite: they may move the
    median but never vanish.

    Source: Efron & Tibshirani (1993), ch. 13.

    Raises
    ------
    ValueError
        No values, or a level outside (0, 1).

    >>> bootstrap_median([1.0, 1.0, 1.0]).high
    1.0
    """
    runs = host_numbers("values", values).ravel()
    if runs.size == 0:
        raise ValueError("the bootstrap needs at least one run, got an empty sample")
    check_count("resamples", resamples)
    if not isinstance(level, int | float) or not 0 < level < 1:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    runs = np.where(np.isnan(runs), np.inf, runs)
    rng = as_generator(seed)
    medians = np.median(runs[rng.integers(0, runs.size, (resamples, runs.size))], axis=1)
    low, high = np.quantile(medians, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    with np.errstate(invalid="ignore"):
        return MedianEstimate(
            float(np.median(runs)), float(medians.mean()), float(medians.std()), float(low), float(high)
        )
