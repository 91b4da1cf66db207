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


def subproblem_race(
    title: str,
    agreement: str,
    jobs: Mapping[str, Callable[[], Any]],
    count: int,
    repeats: int,
    limit: float,
    times: float,
) -> None:
    """Print what ``count`` subproblems cost by each job, and see that ours, ``"unchecked"``, keeps to the limits.

    ``limit``: microseconds for one; ``times``: how many times as long ``"SciPy"`` needs at least.
    """
    best = {name: 1e6 * seconds / count for name, seconds in race(jobs, repeats).items()}
    print(f"\n{title}, microseconds, best of {repeats}\n({agreement})")
    print("  " + ", ".join(f"{name}: {cost:.0f}" for name, cost in best.items()))
    ratio = best["SciPy"] / best["unchecked"]
    print(f"  SciPy needs {ratio:.1f} times as long for the same value")
    assert best["unchecked"] <= limit, f"a subproblem should take at most {limit:g} microseconds"
    assert ratio >= times, f"SciPy should need at least {times:g} times as long, got {ratio:.2f}"


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
