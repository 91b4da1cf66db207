"""The methods that the kit knows: settings, reference, tasks, symmetries and slips of each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from refimpl.arrays import Array
from refimpl.curvature.cubic import cubic_step
from refimpl.curvature.spectrum import apply, eigen, reciprocal
from refimpl.optimizers.arc import ARC
from refimpl.optimizers.base import NoInfo, Step
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt, gauss_newton_matrix
from refimpl.optimizers.newton import DampedNewton, Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.trust_region import TrustRegion
from refimpl.oracle import Point
from refimpl.verify.kit.adapter import OptimizerAdapter
from refimpl.verify.kit.method import Method, times
from refimpl.verify.kit.textbook_first_order import FIRST_ORDER
from refimpl.verify.kit.textbook_second_order import SLIPS, textbook


def method_named(name: Any) -> Method:
    """The method called ``name``; a ValueError that lists all where there is none."""
    if name not in list(METHODS):
        raise ValueError(f"unknown method {name!r}; choose one of {sorted(METHODS)}")
    return METHODS[name]


@dataclass(frozen=True)
class _GaussNewton:
    """x <- x - eta (G + lam I)^{-1} g, never refused."""

    damping: float
    learning_rate: float

    def init(self, x: Array) -> None:
        return None

    def step(self, point: Point, state: None) -> Step:
        spectrum = eigen(gauss_newton_matrix(point))
        direction = apply(spectrum, reciprocal(spectrum.eigenvalues + self.damping), point.gradient)
        return Step(point.x - self.learning_rate * direction, None, NoInfo())


@dataclass(frozen=True)
class _Cubic:
    """x <- x + s with the minimizer s of the cubic model, never refused."""

    sigma: float

    def init(self, x: Array) -> None:
        return None

    def step(self, point: Point, state: None) -> Step:
        found = cubic_step(point.hessian(), point.gradient, self.sigma)
        return Step(point.x + point.problem.backend.asarray(found.step), None, NoInfo())


def _series(terms: int, order: int, scale: float, learning_rate: float) -> SeriesSaddleFreeNewton:
    return SeriesSaddleFreeNewton(
        terms, order, scale=scale, learning_rate=learning_rate, scale_rule="fixed", guard=False
    )


def _lanczos(damping: float, **knobs: Any) -> LanczosSaddleFreeNewton:
    # The bounds leave room for losses of any size; with omega = 1 the damping stays.
    return LanczosSaddleFreeNewton(
        initial_damping=damping, minimum_damping=1e-100, maximum_damping=1e100, omega=1.0, accept="always", **knobs
    )


def _kryball(**knobs: Any) -> KryBall:
    return KryBall(gain=0.0, retries=0, escape_below=0.0, **knobs)


def _curveball(damping: float, **knobs: Any) -> CurveBall:
    return CurveBall(initial_damping=damping, adapt_every=0, **knobs)


def _second_order(name: str, **fields: Any) -> Method:
    return Method(name=name, textbook=partial(textbook, name), slips=SLIPS[name], **fields)


_SECOND_ORDER: dict[str, Method] = {
    method.name: method
    for method in (
        _second_order(
            "newton",
            settings={"learning_rate": 0.5},
            reference=OptimizerAdapter(Newton),
            tasks=("bowl", "saddle", "double well", "wood"),
            invariances=("rotation", "permutation", "sign flips", "translation", "linear map"),
            rescaled=times(),
            memoryless=True,
            inverts=True,
            source="Nocedal & Wright (2006), eq. 2.15",
        ),
        _second_order(
            "damped-newton",
            settings={"damping": 0.7, "learning_rate": 0.5},
            reference=OptimizerAdapter(DampedNewton),
            tasks=("bowl", "saddle", "double well"),
            rescaled=times(damping=1),
            memoryless=True,
            source="Levenberg (1944)",
        ),
        _second_order(
            "saddle-free-newton",
            settings={"damping": 0.3, "mode": "square", "learning_rate": 0.5},
            reference=OptimizerAdapter(SaddleFreeNewton),
            tasks=("bowl", "saddle", "double well", "coupled saddle"),
            rescaled=times(damping=1),
            memoryless=True,
            source="Dauphin et al. (2014), sec. 4",
        ),
        _second_order(
            "series-sfn",
            settings={"terms": 7, "order": 0, "scale": 20.0, "learning_rate": 0.5},
            reference=OptimizerAdapter(_series),
            tasks=("bowl", "saddle", "double well", "coupled saddle"),
            rescaled=times(scale=2),
            memoryless=True,
            source="series paper, eqs. 3-5 and algorithm 1, with V fixed",
        ),
        _second_order(
            "lanczos-sfn",
            settings={"products": 3, "damping": 0.3, "mode": "abs", "learning_rate": 0.5},
            reference=OptimizerAdapter(_lanczos),
            tasks=("bowl", "saddle", "double well", "wood"),
            rescaled=times(damping=1),
            memoryless=True,
            source="Dauphin et al. (2014), algorithm 1; Higham (2008), sec. 13.2",
        ),
        _second_order(
            "gauss-newton",
            settings={"damping": 0.7, "learning_rate": 0.5},
            reference=OptimizerAdapter(_GaussNewton),
            tasks=("bowl", "least squares", "double well", "rosenbrock", "wood"),
            rescaled=times(damping=1),
            memoryless=True,
            needs_outputs=True,
            source="Nocedal & Wright (2006), sec. 10.3",
        ),
        _second_order(
            "levenberg-marquardt",
            settings={"damping": 2.0, "increase": 3.0, "decrease": 2.0},
            reference=OptimizerAdapter(LevenbergMarquardt),
            tasks=("bowl", "least squares", "double well", "rosenbrock", "wood"),
            rescaled=times(damping=1),
            needs_outputs=True,
            judges=True,
            source="Marquardt (1963); Nocedal & Wright (2006), sec. 10.3",
        ),
        _second_order(
            "curveball",
            settings={"damping": 1.0, "learning_rate": None, "momentum": None},
            reference=OptimizerAdapter(_curveball),
            tasks=("bowl", "least squares", "double well", "rosenbrock"),
            rescaled=times(damping=1),
            needs_outputs=True,
            source="CurveBall paper, Algorithm 1",
        ),
        _second_order(
            "kryball",
            settings={"dimension": 3, "directions": "three", "initial_radius": 1.0, "maximum_radius": 2.0},
            reference=OptimizerAdapter(_kryball),
            tasks=("wood", "saddle", "double well", "rosenbrock", "coupled saddle"),
            rescaled=times(),
            judges=True,
            small_loss=1e-4,
            source="KryBall thesis, Algorithm 4",
            notes="the bound of small Ritz values is absolute, so losses are made no smaller than by 1e-4",
        ),
        _second_order(
            "trust-region",
            settings={"initial_radius": 1.0, "maximum_radius": 2.0},
            reference=OptimizerAdapter(TrustRegion),
            tasks=("wood", "saddle", "double well", "rosenbrock"),
            rescaled=times(),
            judges=True,
            mirrors=True,
            source="Nocedal & Wright (2006), algorithm 4.1",
        ),
        _second_order(
            "cubic",
            settings={"sigma": 1.5},
            reference=OptimizerAdapter(_Cubic),
            tasks=("bowl", "saddle", "double well", "coupled saddle"),
            rescaled=times(sigma=1),
            memoryless=True,
            mirrors=True,
            source="Nesterov & Polyak (2006)",
        ),
        _second_order(
            "arc",
            settings={"initial_sigma": 1.5, "accept_above": 0.25, "relax_above": 0.9, "factor": 2.0},
            reference=OptimizerAdapter(ARC),
            tasks=("wood", "saddle", "double well", "rosenbrock", "rosenbrock, near by"),
            rescaled=times(initial_sigma=1),
            judges=True,
            mirrors=True,
            source="Cartis, Gould & Toint (2011a), algorithm 2.1",
        ),
    )
}

METHODS: dict[str, Method] = {**FIRST_ORDER, **_SECOND_ORDER}
"""Name -> method."""
