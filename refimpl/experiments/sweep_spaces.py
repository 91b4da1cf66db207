"""Where hyper-parameters are looked for: for every method its knobs, each with a range, and how it is built of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refimpl.optimizers.adam import Adam
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall
from refimpl.optimizers.kfac import KFAC, AdaptiveKFAC
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.series_sfn import AdaptiveSeriesSaddleFreeNewton, SeriesSaddleFreeNewton
from refimpl.optimizers.stochastic_kryball import StochasticKryBall


@dataclass(frozen=True)
class Knob:
    """A range with both ends: of whole numbers where ``low`` is one, otherwise of real numbers, uniform or ``log``.

    ``high`` may be a function of the knobs chosen before.
    """

    low: float
    high: float | Callable[[Mapping[str, Any]], int]
    log: bool = False

    def __post_init__(self) -> None:
        if not callable(self.high) and not self.low < self.high:
            raise ValueError(f"a range needs low < high, got {self.low} … {self.high}")
        if self.log and not self.low > 0:
            raise ValueError(f"a logarithmic range must be positive, got low={self.low}")

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return isinstance(self.low, int)

    def in_words(self) -> str:
        """The range for a record.

        >>> Knob(1e-3, 5.0, log=True).in_words(), Knob(1, 20).in_words()
        ('log 0.001 … 5', 'whole 1 … 20')
        """
        high = (self.high.__doc__ or "").strip(".") if callable(self.high) else f"{self.high:g}"
        return f"{'log ' if self.log else ''}{'whole ' if self.whole else ''}{self.low:g} … {high}"


@dataclass(frozen=True)
class Space:
    """The knobs of a method, in the order in which they are chosen, and the method that they make.

    ``products``: whether the method asks for Hessian products, for which a network keeps the graph of its gradient.
    """

    build: Callable[..., Optimizer]
    knobs: Mapping[str, Knob]
    products: bool = False

    def in_words(self) -> dict[str, str]:
        """The ranges for a record."""
        return {name: knob.in_words() for name, knob in self.knobs.items()}


def _adam(learning_rate: float, forget1: float, forget2: float, epsilon: float) -> Adam:
    return Adam(learning_rate, 1.0 - forget1, 1.0 - forget2, epsilon)


def _adaptive_kfac(initial_damping: float) -> AdaptiveKFAC:
    return AdaptiveKFAC(initial_damping, ema=0.95)


def _series(**knobs: Any) -> SeriesSaddleFreeNewton:
    return SeriesSaddleFreeNewton(mode="abs", **knobs)


def _kryball(maximum_radius: float, **knobs: Any) -> KryBall:
    return KryBall(maximum_radius=maximum_radius, initial_radius=min(1.0, maximum_radius), **knobs)


def _stochastic_kryball(maximum_radius: float, **knobs: Any) -> StochasticKryBall:
    return StochasticKryBall(maximum_radius=maximum_radius, initial_radius=min(0.1, maximum_radius), **knobs)


def _orders(chosen: Mapping[str, Any]) -> int:
    """(terms - 1) / 2."""
    return (int(chosen["terms"]) - 1) // 2


_TERMS, _ORDER = Knob(1, 20), Knob(0, _orders)
_DAMPING, _MOMENTUM = Knob(1e-8, 1.0, log=True), Knob(1e-3, 0.95, log=True)

SPACES: dict[str, Space] = {
    "gradient-descent": Space(GradientDescent, {"learning_rate": Knob(1e-6, 1e-1, log=True)}),
    "heavy-ball": Space(HeavyBall, {"learning_rate": Knob(1e-4, 1.0, log=True), "momentum": Knob(0.8, 0.99)}),
    "adam": Space(
        _adam,
        {
            "learning_rate": Knob(1e-6, 1.0, log=True),
            "forget1": Knob(1e-3, 1.0, log=True),
            "forget2": Knob(1e-4, 1.0, log=True),
            "epsilon": Knob(1e-10, 10.0, log=True),
        },
    ),
    "series-sfn": Space(
        _series,
        {
            "terms": _TERMS,
            "order": _ORDER,
            "learning_rate": Knob(1e-3, 5.0, log=True),
            "momentum": _MOMENTUM,
            "damping": _DAMPING,
        },
        products=True,
    ),
    "adaptive-series-sfn": Space(
        AdaptiveSeriesSaddleFreeNewton,
        {"terms": _TERMS, "order": _ORDER, "initial_damping": Knob(1e-8, 10.0, log=True)},
        products=True,
    ),
    "lanczos-sfn": Space(
        LanczosSaddleFreeNewton,
        {"products": Knob(2, 20), "initial_damping": Knob(1e-8, 10.0, log=True)},
        products=True,
    ),
    "kfac": Space(KFAC, {"learning_rate": Knob(1e-6, 10.0, log=True), "momentum": _MOMENTUM, "damping": _DAMPING}),
    "adaptive-kfac": Space(_adaptive_kfac, {"initial_damping": _DAMPING}),
    "curveball": Space(CurveBall, {"initial_damping": Knob(1e-2, 1e2, log=True), "omega": Knob(0.9, 0.9999)}),
    "kryball-published": Space(KryBall.published, {"dimension": Knob(1, 10), "refresh": Knob(1, 10)}, products=True),
    "kryball": Space(
        _kryball,
        {"dimension": Knob(1, 20), "gain": Knob(1e-3, 0.5, log=True), "maximum_radius": Knob(1e-2, 1e3, log=True)},
        products=True,
    ),
    "stochastic-kryball": Space(
        _stochastic_kryball,
        {"dimension": Knob(1, 10), "momentum": Knob(0.5, 0.99), "maximum_radius": Knob(1e-3, 1.0, log=True)},
        products=True,
    ),
}
"""Method -> its space.

``gradient-descent``, ``adam``, ``series-sfn``, ``adaptive-series-sfn``, ``kfac`` and ``adaptive-kfac`` have the ranges
of the series paper's tables 3 and 4 (Adam's 1 - beta are called ``forget1`` and ``forget2``), but for the batch size,
which stays that of the experiment. ``heavy-ball`` and ``kryball-published`` have those of the KryBall thesis's section
5.2.5. The others are ours.
"""


def space_of(method: str) -> Space:
    """The space of ``method``; a ValueError names those that there are."""
    if method not in SPACES:
        raise ValueError(f"there is no search space for {method!r}; choose one of {sorted(SPACES)}")
    return SPACES[method]
