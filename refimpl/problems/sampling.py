"""What every problem with data shares: its inputs on the device, minibatches, and rows of both."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, Backend, check_count, host_numbers


class Minibatch(NamedTuple):
    """One sample of a training set: which rows, as integers on the host, shape (batch_size,)."""

    indices: np.ndarray


def draw_minibatch(rng: np.random.Generator, samples: int, batch_size: int | None) -> Minibatch | None:
    """``batch_size`` different rows out of ``samples``, or None (all rows) where ``batch_size`` is None.

    Every draw is independent of the ones before it: rows are not exhausted epoch by epoch, so a problem has no
    state and the same generator gives the same rows on every backend.

    >>> sorted(draw_minibatch(np.random.default_rng(0), 3, 3).indices.tolist())
    [0, 1, 2]
    """
    if batch_size is None:
        return None
    return Minibatch(rng.choice(samples, size=batch_size, replace=False))


def check_batch_size(batch_size: int | None, samples: int) -> int | None:
    """A ValueError unless ``batch_size`` is None or a whole number from 1 to ``samples``."""
    if batch_size is None:
        return None
    check_count("batch_size", batch_size)
    if batch_size > samples:
        raise ValueError(f"batch_size must be at most the number of samples {samples}, got {batch_size}")
    return int(batch_size)


def check_sample(sample: Any, samples: int) -> Minibatch | None:
    """A ValueError unless ``sample`` is None (every row) or a :class:`Minibatch` of existing rows."""
    if sample is None:
        return None
    if not isinstance(sample, Minibatch):
        raise ValueError(f"sample must be None or a Minibatch from problem.draw, got {type(sample).__name__}")
    rows = sample.indices
    if rows.ndim != 1 or rows.size == 0 or rows.min() < 0 or rows.max() >= samples:
        raise ValueError(f"a minibatch needs at least one row number in 0 … {samples - 1}, got {rows!r}")
    return sample


def check_inputs(inputs: Any, width: int | None = None) -> np.ndarray:
    """Inputs on the host as float64, (samples, width) or, where ``width`` is None, (samples, ...).

    Raises
    ------
    ValueError
        No rows, another width, or values that are not finite.
    """
    table = host_numbers("inputs", inputs)
    if table.ndim < 2 or (width is not None and table.ndim != 2):
        raise ValueError(f"inputs must have shape (samples, {width or '...'}), got {table.shape}")
    if table.shape[0] == 0:
        raise ValueError("the sample is empty: inputs need at least one row")
    if width is not None and table.shape[1] != width:
        raise ValueError(f"inputs must have shape (samples, {width}), got {table.shape}")
    if not np.isfinite(table).all():
        raise ValueError("inputs must be finite, but they hold NaN or infinity")
    return table


def check_pair(test: Any) -> tuple[Any, Any]:
    """``test`` as (inputs, targets); a ValueError unless it is a pair."""
    if not isinstance(test, tuple | list) or len(test) != 2:
        raise ValueError(f"test must be a pair (inputs, targets), got {type(test).__name__}")
    return test[0], test[1]


def integers(backend: Backend, values: np.ndarray) -> Array:
    """Whole numbers as an int64 array of ``backend`` (labels, row numbers)."""
    return backend.send(values, backend.xp.int64)


def rows_of(backend: Backend, table: Array, sample: Minibatch | None) -> Array:
    """The rows of ``table`` (samples, ...) that ``sample`` names; all of them for None."""
    if sample is None:
        return table
    return backend.xp.take(table, integers(backend, sample.indices), axis=0)
