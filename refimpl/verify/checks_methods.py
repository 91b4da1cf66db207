"""How the package computes the golden vectors about methods: trajectories, and the parts of the adaptive method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from refimpl.arrays import Array, Backend, dot
from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.adaptive_saddle_free import AdaptiveSaddleFreeNewton, average_curvature
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.damping import adapt_damping, learning_rate_and_momentum
from refimpl.optimizers.elmo import ELMO
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.optimizers.hessian_free import HessianFree
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.run import minimize
from refimpl.verify.checks_problems import build

METHODS: dict[str, Callable[..., Any]] = {
    str(method.name): method
    for method in (
        GradientDescent, HeavyBall, Nesterov, Adam, AdamW, Newton, DampedNewton, LevenbergMarquardt, SaddleFreeNewton,
        AdaptiveSaddleFreeNewton, SeriesSaddleFreeNewton, AdaptiveSeriesSaddleFreeNewton, LanczosSaddleFreeNewton,
        CurveBall, HessianFree, TrustRegion, KryBall, StochasticKryBall, ELMO, ARC,
    )
}  # fmt: skip


def run(backend: Backend, *, problem: Mapping[str, Any], method: Mapping[str, Any], x0: Any, steps: int) -> list[Array]:
    """The place after each step, (steps, n)."""
    knobs = dict(method)
    optimizer = METHODS[knobs.pop("name")](**knobs)
    places: list[Array] = []

    def remember(_: int, point: Any) -> None:
        places.append(point.x)

    result = minimize(build(backend, problem), optimizer, x0, steps=steps, callback=remember)
    # A method that meets a stationary point stays there, and the loop stops.
    return [*places[1:], *[result.x] * (steps + 1 - len(places))]


def rate_and_momentum(backend: Backend, *, model: Any, direction: Any, previous: Any, gradient: Any) -> list[Array]:
    """The pair (learning rate, momentum)."""
    a, u, d, g = (backend.asarray(given) for given in (model, direction, previous, gradient))
    a_u, a_d = backend.xp.matmul(a, u), backend.xp.matmul(a, d)
    return list(learning_rate_and_momentum(dot(u, a_u), dot(u, a_d), dot(d, a_d), dot(g, u), dot(g, d)))


def damping_rule(backend: Backend, *, damping: float, ratios: Any, omega: float, minimum: float) -> list[Array]:
    """The damping after each ratio."""
    lam, seen = backend.asarray(damping), []
    for ratio in ratios:
        known = backend.asarray(float("nan") if ratio is None else ratio)
        lam = adapt_damping(lam, known, omega=omega, minimum=minimum)
        seen.append(lam)
    return seen


def curvature_average(backend: Backend, *, ema: float, first: Any, later: Any) -> list[Array]:
    """The running mean after each later matrix."""
    nothing = backend.asarray([[float("nan")] * len(first)] * len(first))
    average, averages = average_curvature(nothing, backend.asarray(first), ema), []
    for matrix in later:
        average = average_curvature(average, backend.asarray(matrix), ema)
        averages.append(average)
    return averages


CALLS: dict[str, Callable[..., Any]] = {
    "run": run,
    "learning_rate_and_momentum": rate_and_momentum,
    "adapt_damping": damping_rule,
    "average_curvature": curvature_average,
}
