"""How the benchmarks measure: the best of several rounds, in each of which every job has its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from refimpl.arrays import to_numpy

Jobs = Mapping[Any, Callable[[], Any]]


def race(
    jobs: Jobs, repeats: int, clock: Callable[[], float] = time.process_time, least: float = 0.0
) -> dict[Any, float]:
    """Seconds of each job, the best of ``repeats`` rounds, or of more until they have taken ``least`` seconds.

    The rounds interleave the jobs, so that a disturbance hits all of them. With the default clock these are seconds of
    the processor, which other programs disturb least.
    """
    best, spent, rounds = dict.fromkeys(jobs, float("inf")), 0.0, 0
    while rounds < repeats or spent < least:
        for key, job in jobs.items():
            begin = clock()
            job()
            seconds = clock() - begin
            best[key], spent = min(best[key], seconds), spent + seconds
        rounds += 1
    return best


def device_race(jobs: Jobs, repeats: int, device: str = "cpu", warm: int = 1) -> dict[Any, float]:
    """:func:`race`, after ``warm`` unmeasured rounds; on a CUDA device between two events of its own clock.

    Between two events lies everything the device did or waited for, launches included.
    """
    for _ in range(warm):
        for job in jobs.values():
            job()
    if not device.startswith("cuda"):
        return race(jobs, repeats)
    import torch

    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(repeats):
        for key, job in jobs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            job()
            end.record()
            torch.cuda.synchronize()
            best[key] = min(best[key], 1e-3 * begin.elapsed_time(end))
    return best


def gap(found: Any, expected: Any) -> float:
    """|found - expected| / |expected| of two arrays of any library, in float64.

    >>> gap([3.0, 4.0], [3.0, 4.0])
    0.0
    """
    a, b = (np.asarray(to_numpy(value), dtype=float) for value in (found, expected))
    if a.shape != b.shape:
        raise ValueError(f"two routes gave different shapes: {a.shape} and {b.shape}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.linalg.norm(a - b) / max(float(np.linalg.norm(b)), 1e-300))


@contextmanager
def torch_threads(library: str, count: int) -> Iterator[None]:
    """``count`` threads for Torch inside the ``with``; nothing for other libraries."""
    if library != "torch":
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
