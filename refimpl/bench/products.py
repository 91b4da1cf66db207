"""How many Hessian products each route to |H|^{-1} g needs for a given accuracy, and how many vectors it keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refimpl.bench.report import Session
from refimpl.curvature.inverse_abs import inverse_abs_apply
from refimpl.experiments import kernels
from refimpl.problems.spectra import SpectralProblem, logarithmic

TARGETS = (1e-1, 1e-3, 1e-6)
LIMIT = 400
SEEDS = 5
FACTOR = 10.0
"""How many times closer Lanczos must be than the best series on a spectrum like a network's, at 34 products."""


def products(session: Session) -> None:
    """Every spectrum; a ValueError where Lanczos is not ten times closer than the best series on a network's."""
    seeds = 1 if session.quick else SEEDS
    cases = kernels.CASES[:1] if session.quick else kernels.CASES
    drawn = {family: kernels.draws(family, seeds) for family in dict.fromkeys([*(c[0] for c in cases), "spiked"])}
    limit = 40 if session.quick else LIMIT
    session.note(f"products for a relative error, medians over {seeds} seeds (-: more than {limit});")
    session.note("V and N of the series and the intervals are oracles, 'default' and 'paper' are what a user has")
    for family, mode, damping in cases:
        methods = kernels.methods_for(mode)
        found = kernels.products_table(drawn[family], methods, TARGETS, mode=mode, damping=damping, limit=limit)
        setting = "undamped" if mode == "none" else f"{mode} {damping:g}"
        n = drawn[family][0].gradient.shape[0]
        session.note(f"{f'{family}, n = {n}, {setting}':32}" + "".join(f"{target:>8.0e}" for target in TARGETS))
        for method in methods:
            shown = "".join(f"{_count(b):>8}" for b in np.median(found[method], axis=0))
            session.note(f"  {method:30}{shown}")
    series_against_lanczos(session, drawn["spiked"])
    memory(session)


def series_against_lanczos(session: Session, problems: list[SpectralProblem], budget: int = 34) -> None:
    """Lanczos against the best series."""
    setting: dict[str, Any] = {"mode": "abs", "damping": 1e-2}
    table = kernels.error_table(problems, [*kernels.ACCELERATED, "lanczos"], [budget], **setting)
    errors: Mapping[str, float] = {method: float(np.median(found)) for method, found in table.items()}
    name = min(kernels.ACCELERATED, key=errors.__getitem__)
    ratio = errors[name] / errors["lanczos"]
    session.note(
        f"spiked, abs 0.01, {budget} products: error {errors[name]:.3g} ({name}, best V and N), "
        f"{errors['lanczos']:.3g} (lanczos): {ratio:.0f} times smaller"
    )
    if ratio < FACTOR:
        raise ValueError(f"Lanczos should be {FACTOR:g} times closer than the best series, it is {ratio:.2f} times")


def memory(session: Session, n: int = 1057) -> None:
    """Vectors held and bytes, as the routes themselves report them."""
    problem = logarithmic(n=100)
    session.note(f"vectors held besides the gradient (bytes in float64 for n = {n}):")
    for budget in kernels.BUDGETS:
        held = {
            method: inverse_abs_apply(
                problem.hvp, problem.gradient, products=budget, method=method, damping=0.1, mode="square"
            ).vectors
            for method in ("series", "lanczos")
        }
        texts = ", ".join(f"{method} {count} ({8 * count * n:,})" for method, count in held.items())
        session.note(f"  {budget} products, N = {min(8, budget // 4)}: {texts}")


def _count(number: float) -> str:
    return "-" if np.isinf(number) else f"{number:.0f}"
