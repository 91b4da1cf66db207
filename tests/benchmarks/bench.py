"""What the book says about cost, measured on this machine: `make bench`.

1. How many Hessian products each route to |H|^{-1} g needs for a given accuracy, on three spectra. Fails if Lanczos is
   not at least ten times better than the best accelerated series at 34 products on a spectrum like a network's.
2. What many runs in one program save against a loop over the runs. Fails only where nothing is saved at all on a toy;
   times depend on the machine and on who else uses it.
3. How many vectors the series and Lanczos keep.
4. What a step of CurveBall costs in gradients, and what the package adds to NumPy (curveball_bench.py).
5. The trust-region subproblem against SciPy's, KryBall's products per step, and what a step adds (kryball_bench.py).
6. ELMO's scalar step against the printed formula, the cubic subproblem against SciPy, a step of AMOS in steps of Sophia
   (elmo_bench.py).

Times are the best of several repeats; the repeats of all variants are interleaved, so that a disturbance hits all. With
one thread it is processor time, which other programs disturb least; with more (`make bench ARGS="--threads 1 2"`) it is
time on the wall, which means something only where nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import curveball_bench
import elmo_bench
import kryball_bench
import numpy as np
from timing import race, torch_threads
from tqdm import tqdm

from refimpl import get_backend, minimize
from refimpl.arrays import Backend, to_numpy
from refimpl.curvature.inverse_abs import inverse_abs_apply
from refimpl.experiments import kernels
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.adam import Adam
from refimpl.problems.datasets import uci_energy_or_fallback
from refimpl.problems.mlp import MLP
from refimpl.problems.spectra import SpectralProblem, logarithmic
from refimpl.problems.toy import Rosenbrock

SECTIONS = ("products", "batches", "curveball", "kryball", "elmo")
TARGETS = (1e-1, 1e-3, 1e-6)
HIDDEN = (12,) * 7
CHUNKS = (5, 10, 25, 50)
LIMIT = 400


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Products needed, runs in one program, memory, CurveBall, KryBall, ELMO."
    )
    parser.add_argument("--seeds", type=int, default=5, help="draws of each spectrum (default 5)")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of each timing, at least 3 (default 5)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1], help="threads of Torch to time (default 1)")
    parser.add_argument("--only", choices=SECTIONS, nargs="+", default=SECTIONS, help="what to measure (default all)")
    chosen = parser.parse_args(arguments)
    started, repeats = time.perf_counter(), max(3, chosen.repeats)
    if "products" in chosen.only:
        drawn = {family: kernels.draws(family, chosen.seeds) for family, *_ in kernels.CASES}
        products(drawn)
        series_against_lanczos(drawn["spiked"])
        memory()
    if "batches" in chosen.only:
        networks(repeats, chosen.threads)
        toy(repeats)
    if "curveball" in chosen.only:
        curveball_bench.steps_in_gradients(max(5, repeats))
        curveball_bench.dispatch(3 * max(5, repeats))
    if "kryball" in chosen.only:
        kryball_bench.run(max(5, repeats))
    if "elmo" in chosen.only:
        elmo_bench.run(max(5, repeats))
    print(f"\nall in {time.perf_counter() - started:.0f} s")


# -- products -------------------------------------------------------------------------------------------------------


def products(drawn: Mapping[str, list[SpectralProblem]]) -> None:
    """Products needed by each route on each spectrum, medians over seeds."""
    seeds = len(next(iter(drawn.values())))
    print(f"Hessian products needed for a relative error (median over {seeds} seeds; - : more than {LIMIT})")
    print("V and N of the series and the intervals are oracles; 'default' and 'paper' are what a user has")
    for family, mode, damping in kernels.CASES:
        methods = kernels.methods_for(mode)
        found = kernels.products_table(
            drawn[family], methods, TARGETS, mode=mode, damping=damping, limit=LIMIT, progress=True
        )
        setting = "undamped" if mode == "none" else f"{mode} {damping:g}"
        n = drawn[family][0].gradient.shape[0]
        print(f"\n{f'{family}, n = {n}, {setting}':32}" + "".join(f"{target:>8.0e}" for target in TARGETS))
        for method in methods:
            print(f"  {method:30}" + "".join(f"{_count(b):>8}" for b in np.median(found[method], axis=0)))


def series_against_lanczos(problems: list[SpectralProblem], budget: int = 34, factor: float = 10.0) -> None:
    """The claim that fails if it is not true: Lanczos is ``factor`` times better than the best series."""
    setting: dict[str, Any] = {"mode": "abs", "damping": 1e-2}
    table = kernels.error_table(problems, [*kernels.ACCELERATED, "lanczos"], [budget], **setting, progress=True)
    errors = {method: float(np.median(found)) for method, found in table.items()}
    name = min(kernels.ACCELERATED, key=errors.__getitem__)
    ratio = errors[name] / errors["lanczos"]
    print(f"\nspiked, abs 0.01, {budget} products: error {errors[name]:.3g} ({name}, best V and N), ", end="")
    print(f"{errors['lanczos']:.3g} (lanczos): {ratio:.0f} times smaller")
    assert ratio >= factor, f"Lanczos should be at least {factor:g} times better than the best series, got {ratio:.2f}"


def memory(n: int = 1057) -> None:
    """Vectors held and bytes, as the routes themselves report them."""
    problem = logarithmic(n=100)
    print(f"\nvectors held besides the gradient (bytes in float64 for n = {n})")
    print(f"{'products':>10}{'series, epsilon table of order N':>40}{'lanczos':>24}")
    for budget in kernels.BUDGETS:
        held = {
            method: inverse_abs_apply(
                problem.hvp, problem.gradient, products=budget, method=method, damping=0.1, mode="square"
            ).vectors
            for method in ("series", "lanczos")
        }
        order = min(8, budget // 4)
        texts = {method: f"{count} ({8 * count * n:,})" for method, count in held.items()}
        series = f"N = {order}: {texts['series']}"
        print(f"{budget:>10}{series:>40}{texts['lanczos']:>24}")


def _count(number: float) -> str:
    return "-" if np.isinf(number) else f"{number:.0f}"


# -- many runs in one program ---------------------------------------------------------------------------------------


def networks(repeats: int, thread_counts: Sequence[int] = (1,)) -> None:
    """Gradient and Hessian product of the 8-12x7-1 network for many seeds: a loop against batches of several sizes."""
    dataset, note = uci_energy_or_fallback()
    rows, inputs = dataset.train_inputs.shape
    print(f"\nnetwork {inputs}-12x7-1, {rows} rows, ms per seed, best of {repeats}", end="")
    print(f" ({os.cpu_count()} cores; OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')})")
    if note:
        print(note)
    sizes = "".join(f"{f'by {c}' if c < 50 else 'all 50':>8}" for c in CHUNKS)
    print(f"{'':41}| 10 seeds: loop   batch  ratio | 50 seeds: loop{sizes}  loop/all 50  loop/best")
    variants = [("numpy", "float64", 1), ("numpy", "float32", 1)]
    variants += [("torch", dtype, threads) for dtype in ("float64", "float32") for threads in thread_counts]
    for library, dtype, threads in tqdm(variants, desc="batches", leave=False):
        try:
            backend = get_backend(library, dtype)
        except ValueError as error:
            tqdm.write(f"{library} {dtype}: {error}")
            continue
        with torch_threads(library, threads):
            for line in _network_lines(energy_network(HIDDEN, dataset, backend=backend), backend, threads, repeats):
                tqdm.write(line)


def _network_lines(net: MLP, backend: Backend, threads: int, repeats: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    starts = backend.asarray(np.stack([to_numpy(net.initial(np.random.default_rng(s))) for s in range(50)]))
    vectors = backend.normal(rng, (50, net.n))
    for what, prepare in {"gradient": _gradients, "Hessian product": _hessian_products}.items():
        jobs = {
            (seeds, size): prepare(net, starts[:seeds, :], vectors[:seeds, :], size)
            for seeds, sizes in {10: (0, 10), 50: (0, *CHUNKS)}.items()
            for size in sizes
        }
        _agree(backend, what, jobs)
        clock = time.process_time if threads == 1 else time.perf_counter
        ms = {key: 1e3 * seconds / key[0] for key, seconds in race(jobs, repeats, clock).items()}
        place = f"{backend.name} {backend.dtype_name}" + (f", threads {threads}" if backend.name == "torch" else "")
        best = min(ms[50, size] for size in CHUNKS)
        yield (
            f"{f'{what}, {place}':41}|{ms[10, 0]:15.3f}{ms[10, 10]:8.3f}{ms[10, 0] / ms[10, 10]:7.2f} |"
            f"{ms[50, 0]:15.3f}"
            + "".join(f"{ms[50, size]:8.3f}" for size in CHUNKS)
            + f"{ms[50, 0] / ms[50, 50]:13.2f}{ms[50, 0] / best:11.2f}"
        )


def _gradients(net: MLP, x: Any, v: Any, size: int) -> Callable[[], list[Any]]:
    """Gradients of all rows of ``x``, ``size`` rows in one program; 0 is one by one, without a leading axis."""
    places = _split(x, size)
    return lambda: [net.at(place).gradient for place in places]


def _hessian_products(net: MLP, x: Any, v: Any, size: int) -> Callable[[], list[Any]]:
    """One product for each row, at points whose activations are kept, as within a series or a Krylov method."""
    points = [net.at(place) for place in _split(x, size)]
    directions = _split(v, size)
    return lambda: [point.hvp(direction) for point, direction in zip(points, directions, strict=True)]


def _split(x: Any, size: int) -> list[Any]:
    if size == 0:
        return [x[i, :] for i in range(x.shape[0])]
    return [x[i : i + size, :] for i in range(0, x.shape[0], size)]


def _agree(backend: Backend, what: str, jobs: Mapping[tuple[int, int], Callable[[], list[Any]]]) -> None:
    # A fast wrong answer is no gain. In single precision a ReLU may switch by rounding, so little is asked there.
    expected = np.stack([to_numpy(row) for row in jobs[50, 0]()]).reshape(50, -1)
    for (seeds, size), job in jobs.items():
        found = np.concatenate([np.atleast_2d(to_numpy(part)) for part in job()])
        gap = np.linalg.norm(found - expected[:seeds]) / np.linalg.norm(expected[:seeds])
        limit = 1e-10 if backend.dtype_name == "float64" else 1e-2
        assert gap < limit, f"{what} in chunks of {size}: {gap:.1e} away from the loop"


def toy(repeats: int, runs: int = 50, steps: int = 200) -> None:
    """Adam on Rosenbrock's function: where a run is nothing but overhead, 50 runs cost little more than one."""
    problem, method = Rosenbrock(), Adam(learning_rate=0.02)
    starts = np.stack([problem.initial(np.random.default_rng(seed)) for seed in range(runs)])
    results: dict[str, Any] = {}

    def loop() -> None:
        results["loop"] = np.stack([minimize(problem, method, start, steps=steps).x for start in starts])

    def batch() -> None:
        results["batch"] = minimize(problem, method, starts, steps=steps).x

    seconds = race({"loop": loop, "batch": batch}, repeats)
    np.testing.assert_allclose(results["batch"], results["loop"], rtol=1e-9)
    ratio = seconds["loop"] / seconds["batch"]
    per_step = {name: 1e6 * s / (runs * steps) for name, s in seconds.items()}
    print(f"\nAdam on Rosenbrock, {runs} runs of {steps} steps, microseconds per run and step: ", end="")
    print(f"loop {per_step['loop']:.2f}, one batch {per_step['batch']:.2f}, ratio {ratio:.1f}")
    assert ratio > 3, f"{runs} runs in one batch should cost far less than a loop over them, got a ratio of {ratio:.2f}"


if __name__ == "__main__":
    main()
