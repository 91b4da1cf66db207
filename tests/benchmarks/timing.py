"""How the benchmarks measure: the best of several rounds, in each of which every job has its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def race(
    jobs: Mapping[Any, Callable[[], Any]],
    repeats: int,
    clock: Callable[[], float] = time.process_time,
    least: float = 0.0,
) -> dict[Any, float]:
    """Seconds of each job, the best of ``repeats`` rounds, or of more until they have taken ``least`` seconds."""
    best, spent, rounds = dict.fromkeys(jobs, float("inf")), 0.0, 0
    while rounds < repeats or spent < least:
        for key, job in jobs.items():
            begin = clock()
            job()
            seconds = clock() - begin
            best[key], spent = min(best[key], seconds), spent + seconds
        rounds += 1
    return best


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
