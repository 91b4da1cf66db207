"""One update of the series method: beside its authors' way of running it, beside Torch's, beside 50 digits."""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

from refimpl.arrays import Array, get_backend, to_numpy
from refimpl.bench.digits import series_reference
from refimpl.bench.peers import Missing, jax_series
from refimpl.bench.report import Found, Part, Session, skipped
from refimpl.bench.timing import gap, race, torch_threads
from refimpl.curvature.series import sum_series
from refimpl.experiments.uci_exact import energy_network
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.problems.datasets import uci_energy_or_fallback
from refimpl.problems.losses import HalfMeanSquaredError
from refimpl.problems.mlp import MLP

TERMS, ORDER, DAMPING, SCALE = 18, 8, 0.0244334238, 100.0
"""K, N, the damping and the first V of the series paper on UCI Energy."""

HIDDEN = (12,) * 7
SOLVED, ROUNDED = 1e-10, 1e-3
"""Allowed between routes: for the plain sum in float64, and for the accelerated one, where rounding decides."""


def setting(session: Session, dtype: str = "float64") -> tuple[MLP, Array, int, int]:
    """The network of UCI Energy, its starting place, K and N."""
    hidden, terms, order = ((4, 4), 5, 1) if session.quick else (HIDDEN, TERMS, ORDER)
    problem = energy_network(hidden, uci_energy_or_fallback()[0], backend=get_backend("numpy", dtype))
    return problem, problem.initial(np.random.default_rng(0)), terms, order


def method(terms: int, order: int) -> SeriesSaddleFreeNewton:
    """The series as its public code executes it; a step of length one is the direction."""
    return SeriesSaddleFreeNewton.released(terms, order, learning_rate=1.0, damping=DAMPING)


def started(optimizer: Any, x: Array) -> Any:
    """The state before the first step, without the word of warning about single precision."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return optimizer.init(x)


def plain_and_accelerated(problem: Any, x: Array, terms: int, order: int) -> tuple[Array, Array]:
    """Both directions at ``x``, with V as the first step chooses it."""
    point = problem.at(x)
    g = point.gradient
    h2 = point.hvp(point.hvp(g))
    scale = max(SCALE, float(np.linalg.norm(to_numpy(h2)) / np.linalg.norm(to_numpy(g))))
    found = sum_series(
        point.hvp, g, terms=terms, scale=scale, damping=DAMPING, mode="abs", accelerate="shanks", order=order,
        guard=False,
    )  # fmt: skip
    return found.plain, found.direction


def against_authors(session: Session) -> Found:
    """G5: an update on NumPy, and a Lanczos step with five products, beside the compiled loop."""
    parts: dict[str, Part] = {}
    lanczos = LanczosSaddleFreeNewton(products=5)
    worst, error = 0.0, None
    for dtype in ("float64", "float32"):
        problem, x, terms, order = setting(session, dtype)
        optimizer = method(terms, order)
        state, krylov_state = started(optimizer, x), lanczos.init(x)
        try:
            loop = jax_series(
                problem.widths, problem.inputs, problem.targets, terms=terms, order=order, damping=DAMPING, dtype=dtype
            )
        except Missing as reason:
            return {
                name: skipped(str(reason))
                for name in ("float32 / theirs", "float64 / theirs", "Lanczos, 5 products / theirs")
            }
        begin = time.perf_counter()
        theirs = [np.asarray(part) for part in loop(x, SCALE)]
        compiled = time.perf_counter() - begin
        if dtype == "float64":
            ours = plain_and_accelerated(problem, x, terms, order)
            error, rounded = gap(theirs[0], ours[0]), gap(theirs[1], ours[1])
            session.note(f"plain sums agree to {error:.1e}, accelerated to {rounded:.1e} (at most {ROUNDED:g})")
            error = error if rounded <= ROUNDED else rounded
        jobs: dict[str, Any] = {
            "ours": lambda p=problem, x=x, m=optimizer, s=state: m.step(p.at(x), s),
            "theirs": lambda f=loop, x=x: f(x, SCALE)[1].block_until_ready(),
            "Lanczos": lambda p=problem, x=x, s=krylov_state: lanczos.step(p.at(x), s),
        }
        for job in jobs.values():
            job()
        seconds = race(jobs, session.rounds if session.quick else 4 * session.rounds)
        shown = ", ".join(f"{name} {1e3 * value:.2f}" for name, value in seconds.items())
        session.note(f"{dtype}, K = {terms}, N = {order}, ms: {shown}; their compilation took {compiled:.1f} s")
        parts[f"{dtype} / theirs"] = Part(seconds["ours"] / seconds["theirs"], error)
        worst = max(worst, seconds["Lanczos"] / seconds["theirs"])
    # The error is that of float64 for all: a ReLU may switch by rounding in single precision.
    parts = {name: Part(part.value, error) for name, part in parts.items()}
    return {**parts, "Lanczos, 5 products / theirs": Part(worst)}


def torch_routes(session: Session) -> Found:
    """G6: an update on Torch, with the kept graph and with forward over reverse mode."""
    from refimpl.problems.models import mlp_module
    from refimpl.problems.torch_net import TorchProblem

    worst, error = np.inf, 0.0
    with torch_threads("torch", 1):
        for dtype in ("float64", "float32"):
            numpy_problem, x, terms, order = setting(session, dtype)
            backend, dataset = get_backend("torch", dtype), uci_energy_or_fallback()[0]
            module, optimizer = mlp_module(numpy_problem.widths, backend=backend), method(terms, order)
            place = backend.asarray(x)
            problems = {
                route: TorchProblem(
                    module, HalfMeanSquaredError(), dataset.train_inputs, dataset.train_targets, backend=backend,
                    route=route,
                )
                for route in ("kept-graph", "forward-over-reverse")
            }  # fmt: skip
            if dtype == "float64":
                sums = [plain_and_accelerated(problem, place, terms, order)[0] for problem in problems.values()]
                error = gap(sums[1], sums[0])
            state = started(optimizer, place)
            jobs: dict[str, Any] = {
                route: lambda p=problem, m=optimizer, s=state, place=place: m.step(p.at(place), s)
                for route, problem in problems.items()
            }
            for job in jobs.values():
                job()
            seconds = race(jobs, session.rounds)
            shown = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in seconds.items())
            session.note(f"{dtype}, ms: {shown}")
            worst = min(worst, seconds["forward-over-reverse"] / seconds["kept-graph"])
    return {"jvp(grad) / kept graph": Part(float(worst), error)}


def digits(session: Session) -> Found:
    """G7: the accelerated update beside 50 digits; and whether single precision is warned of."""
    problem, x, terms, order = setting(session)
    begin = time.perf_counter()
    rows = 20 if session.quick else problem.samples
    small = MLP(
        problem.widths, to_numpy(problem.inputs)[:rows], to_numpy(problem.targets)[:rows], backend=problem.backend
    )
    reference = series_reference(small, x, terms=terms, order=order, damping=DAMPING, scale=SCALE)
    seconds = time.perf_counter() - begin
    plain, accelerated = plain_and_accelerated(small, x, terms, order)
    error, rounding = gap(accelerated, reference.accelerated), gap(plain, reference.plain)
    session.note(
        f"K = {terms}, N = {order}, {rows} rows, float64: accelerated {error:.1e} away from 50 digits, plain sum "
        f"{rounding:.1e}; the reference took {seconds:.0f} s"
    )
    single = MLP(
        problem.widths, to_numpy(problem.inputs)[:rows], to_numpy(problem.targets)[:rows],
        backend=get_backend("numpy", "float32"),
    )  # fmt: skip
    y = single.backend.asarray(x)
    worse = gap(plain_and_accelerated(single, y, terms, order)[1], reference.accelerated)
    session.note(f"in float32 it is {worse:.1e} away")
    return {
        "error of the update, float64": Part(error, rounding, 1e-9),
        "warnings for float32 with N = 2": Part(float(_warnings(y, 2))),
        "warnings for float32 with N = 1": Part(float(_warnings(y, 1))),
        "warnings for float64 with N = 8": Part(float(_warnings(x, 8))),
    }


def _warnings(x: Array, order: int) -> int:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        SeriesSaddleFreeNewton(TERMS, order).init(x)
    return len(seen)
