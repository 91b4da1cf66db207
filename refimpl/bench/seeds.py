"""What many runs in one program save against a loop over the runs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl import get_backend, minimize
from refimpl.arrays import Backend, to_numpy
from refimpl.bench.report import AGREEMENT, Found, Part, Session, skipped
from refimpl.bench.timing import device_race, gap, race, torch_threads
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.adam import Adam
from refimpl.problems.datasets import uci_energy_or_fallback
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import Rosenbrock

HIDDEN = (12,) * 7
COUNT, CHUNK = 50, 10
CHUNKS = (5, 10, 25, 50)
LOOSE = 1e-2
"""Allowed in float32, where a ReLU may switch by rounding."""


def together(session: Session) -> Found:
    """G9: a network on the CPU, a toy, and a network on a GPU."""
    chunk, count = int(session.knobs.get("chunk", CHUNK)), int(session.knobs.get("count", COUNT))
    parts: dict[str, Part] = {}
    with torch_threads("torch", 1):
        backend = get_backend("torch", "float32")
        for what, ratio, error in chunk_ratios(session, backend, chunk):
            parts[f"CPU, float32, 10 seeds: {what}"] = Part(ratio, error, LOOSE)
    ratio, error = toy(session, count)
    parts["toy, 50 runs"] = Part(ratio, error, 1e-9)
    parts["GPU, 50 seeds / one"] = on_device(session, count)
    return parts


def chunk_ratios(session: Session, backend: Backend, seeds: int) -> Iterator[tuple[str, float, float]]:
    """Loop over batch, per seed, for a gradient and for a Hessian product."""
    net = network(session, backend)
    starts, vectors = places(net, seeds)
    for what, prepare in PREPARE.items():
        jobs = {"loop": prepare(net, starts, vectors, 0), "batch": prepare(net, starts, vectors, seeds)}
        error = gap(stacked(jobs["batch"]()), stacked(jobs["loop"]()))
        seconds = race(jobs, 4 * session.rounds, least=0.0 if session.quick else 1.0)
        per = ", ".join(f"{name} {1e3 * value / seeds:.3f}" for name, value in seconds.items())
        session.note(f"{what}, {backend.name} {backend.dtype_name}, {seeds} seeds, ms per seed: {per}")
        yield what, seconds["loop"] / seconds["batch"], error


def toy(session: Session, runs: int, steps: int = 200) -> tuple[float, float]:
    """Adam on Rosenbrock's function: where a run is nothing but overhead, 50 runs cost little more than one."""
    problem, method = Rosenbrock(), Adam(learning_rate=0.02)
    runs, steps = (4, 10) if session.quick else (runs, steps)
    starts = np.stack([problem.initial(np.random.default_rng(seed)) for seed in range(runs)])
    jobs = {
        "loop": lambda: np.stack([minimize(problem, method, start, steps=steps).x for start in starts]),
        "batch": lambda: minimize(problem, method, starts, steps=steps).x,
    }
    error = gap(jobs["batch"](), jobs["loop"]())
    seconds = race(jobs, session.rounds)
    per = ", ".join(f"{name} {1e6 * value / (runs * steps):.2f}" for name, value in seconds.items())
    session.note(f"Adam on Rosenbrock, {runs} runs of {steps} steps, microseconds per run and step: {per}")
    return seconds["loop"] / seconds["batch"], error


def on_device(session: Session, seeds: int) -> Part:
    """One Hessian product for many seeds over one for a single seed, on the session's CUDA device."""
    if not session.device.startswith("cuda"):
        return skipped("needs --device cuda")
    backend = get_backend("torch", "float32", session.device)
    net = network(session, backend)
    starts, vectors = places(net, seeds)
    many, one = net.at(starts), net.at(starts[0, :])
    rows = backend.xp.stack([net.at(starts[i, :]).hvp(vectors[i, :]) for i in range(seeds)])
    error = gap(many.hvp(vectors), rows)
    jobs = {"many": lambda: many.hvp(vectors), "one": lambda: one.hvp(vectors[0, :])}
    seconds = device_race(jobs, 4 * session.rounds, session.device, warm=3)
    session.note(f"{session.device}: one seed {1e3 * seconds['one']:.3f} ms, {seeds} seeds {1e3 * seconds['many']:.3f}")
    return Part(seconds["many"] / seconds["one"], error, LOOSE)


def network(session: Session, backend: Backend) -> MLP:
    """The network of UCI Energy on a backend."""
    return energy_network((4, 4) if session.quick else HIDDEN, uci_energy_or_fallback()[0], backend=backend)


def places(net: MLP, seeds: int) -> tuple[Any, Any]:
    """Starting places of the seeds 0 … and a vector for each, (seeds, n)."""
    starts = np.stack([to_numpy(net.initial(np.random.default_rng(seed))) for seed in range(seeds)])
    return net.backend.asarray(starts), net.backend.normal(np.random.default_rng(0), (seeds, net.n))


def stacked(parts: Sequence[Any]) -> np.ndarray:
    """Rows of all parts under each other."""
    return np.concatenate([np.atleast_2d(to_numpy(part)) for part in parts])


def _gradients(net: MLP, x: Any, v: Any, size: int) -> Callable[[], list[Any]]:
    """Gradients of all rows of ``x``, ``size`` rows in one program; 0 is one by one, without a leading axis."""
    chosen = _split(x, size)
    return lambda: [net.at(place).gradient for place in chosen]


def _hessian_products(net: MLP, x: Any, v: Any, size: int) -> Callable[[], list[Any]]:
    """One product for each row, at points whose activations are kept, as within a series or a Krylov method."""
    points = [net.at(place) for place in _split(x, size)]
    directions = _split(v, size)
    return lambda: [point.hvp(direction) for point, direction in zip(points, directions, strict=True)]


PREPARE: Mapping[str, Callable[..., Callable[[], list[Any]]]] = {
    "gradient": _gradients,
    "Hessian product": _hessian_products,
}


def _split(x: Any, size: int) -> list[Any]:
    if size == 0:
        return [x[i, :] for i in range(x.shape[0])]
    return [x[i : i + size, :] for i in range(0, x.shape[0], size)]


# -- the whole table --------------------------------------------------------------------------------------------------


def batches(session: Session, thread_counts: Sequence[int] = (1,)) -> None:
    """Gradient and Hessian product of the network for many seeds: a loop against batches of several sizes."""
    _, note = uci_energy_or_fallback()
    sizes = (2, 4) if session.quick else CHUNKS
    session.note(f"network of UCI Energy, ms per seed, best of {session.rounds} ({os.cpu_count()} cores)")
    if note:
        session.note(note)
    variants = [("numpy", "float64", 1), ("numpy", "float32", 1)]
    variants += [("torch", dtype, threads) for dtype in ("float64", "float32") for threads in thread_counts]
    for library, dtype, threads in variants:
        backend = get_backend(library, dtype)
        net, seeds = network(session, backend), max(sizes)
        starts, vectors = places(net, seeds)
        with torch_threads(library, threads):
            for what, prepare in PREPARE.items():
                jobs = {size: prepare(net, starts, vectors, size) for size in (0, *sizes)}
                expected = stacked(jobs[0]())
                error = max(gap(stacked(jobs[size]()), expected) for size in sizes)
                limit = AGREEMENT if dtype == "float64" else LOOSE
                if error > limit:
                    raise ValueError(f"{what}, {library} {dtype}: batches are {error:.1e} away from the loop")
                clock = time.process_time if threads == 1 else time.perf_counter
                ms = {size: 1e3 * value / seeds for size, value in race(jobs, session.rounds, clock).items()}
                ratio = ms[0] / min(ms[size] for size in sizes)
                shown = ", ".join(f"{f'by {size}' if size else 'loop'} {value:.3f}" for size, value in ms.items())
                session.note(f"{what}, {library} {dtype}, threads {threads}: {shown}; loop / best {ratio:.2f}")
