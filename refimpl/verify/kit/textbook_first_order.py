"""First-order methods once more, in plain NumPy, right or with one slip of the usual kind.

What a wrong optimizer is compared with: if its places are those of a slip, that slip is the likely cause. Where
``torch.optim`` has the method, its conventions hold: for Nesterov's x, for the epsilons, for AMSGrad's maximum.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from refimpl.optimizers.adam import Adam, AdamW
from refimpl.optimizers.gradient_descent import GradientDescent, HeavyBall, Nesterov
from refimpl.verify.kit.adapter import OptimizerAdapter
from refimpl.verify.kit.method import Method, Rescaled, times
from refimpl.verify.kit.rules_first_order import RULES, At
from refimpl.verify.kit.slips_first_order import SLIPS

__all__ = ["DEFAULTS", "FIRST_ORDER", "SLIPS", "TextbookFirstOrder", "TextbookState", "textbook"]

_ADAM = {"learning_rate": 0.05, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-2}

DEFAULTS: dict[str, dict[str, Any]] = {
    "gradient-descent": {"learning_rate": 0.05},
    "heavy-ball": {"learning_rate": 0.03, "momentum": 0.8},
    "nesterov": {"learning_rate": 0.03, "momentum": 0.8},
    "adagrad": {"learning_rate": 0.1, "epsilon": 1e-2},
    "rmsprop": {"learning_rate": 0.03, "beta": 0.9, "epsilon": 1e-2},
    "adadelta": {"learning_rate": 1.0, "beta": 0.9, "epsilon": 1e-2},
    "adam": _ADAM,
    "adamw": {**_ADAM, "weight_decay": 0.3},
    "amsgrad": _ADAM,
    "nadam": {**_ADAM, "momentum_decay": 0.1},
    "adamax": {**_ADAM, "beta2": 0.9},
    "adopt": _ADAM,
    "lion": {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.95, "weight_decay": 2.0},
    "sophia": {
        "learning_rate": 0.05, "beta1": 0.8, "beta2": 0.7, "rho": 4.0, "weight_decay": 0.3, "interval": 3,
        "epsilon": 1e-8,
    },
}  # fmt: skip
"""Method -> its settings, chosen so that slips show: with an epsilon of 1e-8 nobody sees where it stands."""


@dataclass(frozen=True)
class TextbookState:
    """The place x (n,), the settings, what the method remembers (arrays (n,)), and the number of steps so far."""

    x: Any
    settings: Mapping[str, Any]
    memory: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class TextbookFirstOrder:
    """One method with ``init``, ``step`` and ``read``; made by :func:`textbook`. States are never changed in place."""

    name: str
    slip: str = ""

    def init(self, task: Any, **settings: Any) -> TextbookState:
        """The start of ``task`` and an empty memory. ValueError for a setting that the method does not have."""
        known = DEFAULTS[self.name]
        if not settings.keys() <= known.keys():
            raise ValueError(
                f"{self.name} has no setting {sorted(settings.keys() - known.keys())}; it has {sorted(known)}"
            )
        return TextbookState(np.array(task.start, copy=True), {**known, **settings})

    def step(self, task: Any, state: TextbookState) -> TextbookState:
        """One step. Cost: one gradient (Sophia: a dense Hessian as well, in every ``interval``-th step).

        After a gradient that is not finite x is NaN: a sign or a clipped quotient would hide it.
        """
        gradient = np.asarray(task.gradient(state.x))
        if not np.isfinite(gradient).all():
            return replace(state, x=np.full_like(state.x, np.nan), steps=state.steps + 1)
        at = At(task, state.x, gradient, state.steps + 1, dict(state.memory), state.settings)
        with np.errstate(all="ignore"):  # a slip may divide by zero, and its answer is then what it is
            kept, change = RULES[self.name](at, self.slip)
            x = kept + change if self.slip == "uphill" else kept - change
        return TextbookState(x, state.settings, at.memory, at.t)

    def read(self, state: TextbookState) -> Any:
        """The place, (n,)."""
        return state.x


def textbook(name: str, slip: str = "") -> TextbookFirstOrder:
    """The textbook form of a first-order method, right or with a slip.

    Parameters
    ----------
    name : a key of :data:`DEFAULTS`.
    slip : a key of ``SLIPS[name]``, or nothing for the right answer.

    Raises
    ------
    ValueError
        An unknown method or slip.

    >>> textbook("adam", slip="no root").slip
    'no root'
    """
    if name not in DEFAULTS:
        raise ValueError(f"unknown first-order method {name!r}; choose one of {sorted(DEFAULTS)}")
    if slip and slip not in SLIPS[name]:
        raise ValueError(f"{name} has no slip {slip!r}; choose one of {sorted(SLIPS[name])}")
    return TextbookFirstOrder(name, slip)


_SMOOTH = ("bowl", "saddle", "double well", "coupled saddle", "least squares")
_ALL = (*_SMOOTH, "rosenbrock", "wood")
_COORDINATES = ("permutation", "sign flips")
_RATE, _EPSILON = times(learning_rate=-1), times(epsilon=1)


def _method(
    name: str,
    source: str,
    *,
    optimizer: Any = None,
    tasks: tuple[str, ...] = _ALL,
    invariances: tuple[str, ...] = (*_COORDINATES, "translation"),
    rescaled: Rescaled | None = _EPSILON,
    memoryless: bool = False,
    bounded: bool = False,
) -> Method:
    """Without an ``optimizer`` of this package the textbook form, which the tests hold against a second library, is the
    reference itself."""
    return Method(
        name=name,
        settings=DEFAULTS[name],
        reference=OptimizerAdapter(optimizer) if optimizer else textbook(name),
        textbook=partial(textbook, name),
        slips=SLIPS[name],
        tasks=tasks,
        source=source,
        invariances=invariances,
        rescaled=rescaled,
        memoryless=memoryless,
        bounded=bounded,
    )


_DESCENT: dict[str, Any] = {
    "tasks": _SMOOTH,  # the others are so steep that this rate only shows how they diverge
    "invariances": ("rotation", *_COORDINATES, "translation"),
    "rescaled": _RATE,
}

FIRST_ORDER: dict[str, Method] = {
    method.name: method
    for method in (
        _method("gradient-descent", "Cauchy (1847)", optimizer=GradientDescent, memoryless=True, **_DESCENT),
        _method("heavy-ball", "Polyak (1964)", optimizer=HeavyBall, **_DESCENT),
        _method("nesterov", "Sutskever et al. (2013), appendix A.1", optimizer=Nesterov, **_DESCENT),
        _method("adagrad", "Duchi, Hazan & Singer (2011)"),
        _method("rmsprop", "Tieleman & Hinton (2012)"),
        _method("adadelta", "Zeiler (2012), algorithm 1", rescaled=None),
        _method("adam", "Kingma & Ba (2015), algorithm 1", optimizer=Adam),
        _method("adamw", "Loshchilov & Hutter (2019), algorithm 2", optimizer=AdamW, invariances=_COORDINATES),
        _method("amsgrad", "Reddi, Kale & Kumar (2018); corrected for the start as in torch.optim"),
        _method("nadam", "Dozat (2016)"),
        _method("adamax", "Kingma & Ba (2015), algorithm 2; epsilon as in torch.optim"),
        _method("adopt", "Taniguchi et al. (2024), algorithm 2, clipped"),
        _method("lion", "Chen et al. (2023), algorithm 2", invariances=_COORDINATES, rescaled=times(), bounded=True),
        _method(
            "sophia", "Liu et al. (2024), algorithm 3, with the exact diagonal", invariances=_COORDINATES, bounded=True
        ),
    )
}
"""Name -> the registry's entry."""
