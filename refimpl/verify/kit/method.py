"""What the kit knows of one method: its settings, its reference, its symmetries and its usual slips."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Rescaled = Callable[[Mapping[str, Any], float], dict[str, Any]]


@dataclass(frozen=True)
class Method:
    """One method of the kit.

    Parameters
    ----------
    name : its key in :data:`refimpl.verify.kit.methods.METHODS`.
    settings : what is handed to ``init`` unless others are asked for.
    reference : an adapter of the right method (an object with ``init`` and ``step``).
    textbook : slip -> an adapter of a second implementation, with that slip; ``""`` for none.
    slips : slip -> what is wrong, in words.
    tasks : names in :data:`refimpl.verify.kit.tasks.TASKS` that it is tried on.
    invariances : of ``"rotation"``, ``"permutation"``, ``"sign flips"``, ``"translation"``, ``"linear map"``, those
        that hold.
    rescaled : (settings, c) -> the settings with which the loss times c gives the same places; None where there are
        none.
    memoryless : a step depends on nothing but the place.
    needs_outputs : the loss must have outputs (Gauss–Newton methods).
    judges : a step is tried before it is taken, so a loss that is not finite may leave x where it is.
    inverts : without damping, a singular Hessian has no right answer: an error or a place that is not finite will do.
    bounded : no entry of a step is longer than some bound, so an infinite gradient is only a long one.
    mirrors : where the gradient cannot tell two sides apart, the step may go to either (trust regions, cubic models).
    small_loss : the factor of the level "precision" that makes the loss small; its inverse makes it large.
    source : paper and equation.
    """

    name: str
    settings: Mapping[str, Any]
    reference: Any
    textbook: Callable[[str], Any]
    slips: Mapping[str, str]
    tasks: tuple[str, ...]
    source: str
    invariances: tuple[str, ...] = ("rotation", "permutation", "sign flips", "translation")
    rescaled: Rescaled | None = None
    memoryless: bool = False
    needs_outputs: bool = False
    judges: bool = False
    inverts: bool = False
    bounded: bool = False
    mirrors: bool = False
    small_loss: float = 1e-10
    notes: str = field(default="")


def times(**powers: float) -> Rescaled:
    """The rule that multiplies each named setting by its power of c: ``times(damping=1, scale=2)``."""

    def rescaled(settings: Mapping[str, Any], c: float) -> dict[str, Any]:
        found = {key: settings[key] * c**power for key, power in powers.items() if settings.get(key) is not None}
        return {**settings, **found}

    return rescaled
