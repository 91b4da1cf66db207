"""Second-order methods once more, with dense NumPy matrices, right or with one slip of the usual kind.

Independent of :mod:`refimpl.optimizers`. What a wrong optimizer is compared with: if it walks where a slip leads, that
slip is the likely cause. CurveBall, trust regions, KryBall and cubic models come from the ``dense_*`` modules.

Not distinguishable by places alone: a damping on the wrong side of the root without damping; CurveBall's damping left
out of dz where beta and rho are free (the plane is the same); a Lanczos process without reorthogonalization on so few
products; how many products were spent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refimpl.verify.kit import textbook_dense as dense
from refimpl.verify.kit import textbook_products as products
from refimpl.verify.kit import textbook_regions as regions
from refimpl.verify.kit.task import Task

Host = np.ndarray


class State(NamedTuple):
    """Place, settings, and what the method remembers."""

    x: Host
    settings: dict[str, Any]
    memory: Any = None


class Textbook:
    """An adapter of one form: ``move(task, x, memory, slip, **settings)`` gives the step and the next memory."""

    def __init__(self, move: Callable[..., tuple[Any, Any]], slip: str) -> None:
        self._move, self._slip = move, slip

    def init(self, task: Task, **settings: Any) -> State:
        """The start, nothing remembered."""
        return State(task.start, settings)

    def step(self, task: Task, state: State) -> State:
        """One step, in the dtype of the task."""
        moved, memory = self._move(task, state.x, state.memory, self._slip, **state.settings)
        x = (state.x.astype(float) + np.asarray(moved, dtype=float)).astype(task.dtype)
        return State(x, state.settings, memory)


def textbook(name: str, slip: str = "") -> Textbook:
    """The adapter of a method of :data:`SLIPS`, right or with one of its slips.

    Raises
    ------
    ValueError
        An unknown method or slip.
    """
    if name not in MOVES:
        raise ValueError(f"unknown method {name!r}; choose one of {sorted(MOVES)}")
    if slip and slip not in SLIPS[name]:
        raise ValueError(f"{name} has no slip {slip!r}; it has {sorted(SLIPS[name])}")
    return Textbook(MOVES[name], slip)


MOVES: dict[str, Callable[..., tuple[Any, Any]]] = {
    "newton": dense.newton,
    "damped-newton": dense.damped_newton,
    "saddle-free-newton": dense.saddle_free,
    "series-sfn": products.series,
    "lanczos-sfn": products.lanczos,
    "gauss-newton": regions.gauss_newton,
    "levenberg-marquardt": regions.levenberg_marquardt,
    "curveball": regions.curveball,
    "kryball": regions.kryball,
    "trust-region": regions.trust_region,
    "cubic": regions.cubic,
    "arc": regions.arc,
}
"""Method -> its move."""

SLIPS: dict[str, dict[str, str]] = {
    "newton": dense.NEWTON,
    "damped-newton": dense.DAMPED_NEWTON,
    "saddle-free-newton": dense.SADDLE_FREE,
    "series-sfn": products.SERIES,
    "lanczos-sfn": products.LANCZOS,
    "gauss-newton": regions.GAUSS_NEWTON,
    "levenberg-marquardt": regions.LEVENBERG_MARQUARDT,
    "curveball": regions.CURVEBALL,
    "kryball": regions.KRYBALL,
    "trust-region": regions.TRUST_REGION,
    "cubic": regions.CUBIC,
    "arc": regions.ARC,
}
"""Method -> slip -> what is wrong, in words."""
