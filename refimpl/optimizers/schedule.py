"""Knobs that follow a schedule: any method with its learning rate multiplied by a factor of the step."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from refimpl.arrays import Array, check_between, check_count, check_positive
from refimpl.optimizers.base import LibraryOptimizer, Optimizer, Step
from refimpl.oracle import Point


class ScheduledState(NamedTuple):
    """The method's own state, and the number of steps so far."""

    method: Any
    steps: int


@dataclass(frozen=True)
class Scheduled:
    """A method some of whose knobs are multiplied by ``factor(step)``, with steps counted from 0.

    Parameters
    ----------
    method : a frozen dataclass of :mod:`refimpl.optimizers`, its knobs as they are where the factor is 1.
    factor : function from the step to a positive number, such as :func:`warmup_cosine`.
    knobs : names of the knobs that it multiplies, each a number. AMOS has two rates, ``learning_rate`` and
        ``offload_rate``: name both.

    Raises
    ------
    ValueError
        A method that is no frozen dataclass or owns its loop; a knob that it does not have or that is not a number; in
        ``step``, a factor that puts a knob outside its range, such as zero.

    Notes
    -----
    A step is that of the method with the new knobs, from the method's own state: a velocity that contains the old
    learning rate (heavy ball) keeps it. ``name`` and Info are the method's. In :mod:`refimpl.torch_optim`, use Torch's
    schedulers.

    >>> from refimpl.optimizers.adam import Adam
    >>> Scheduled(Adam(0.5), warmup_cosine(100, warmup=4)).at(0).learning_rate
    0.125
    """

    method: Any
    factor: Callable[[int], float]
    knobs: tuple[str, ...] = ("learning_rate",)

    def __post_init__(self) -> None:
        method = self.method
        if isinstance(method, type) or not dataclasses.is_dataclass(method) or not isinstance(method, Optimizer):
            raise ValueError(f"method must be an instance of a method of refimpl.optimizers, got {method!r}")
        if isinstance(method, LibraryOptimizer):
            raise ValueError(f"{type(method).__name__} owns its loop and cannot be scheduled step by step")
        if not callable(self.factor):
            raise ValueError(
                f"factor must be a function of the step, got {self.factor!r}; write lambda step: 0.9**step"
            )
        if isinstance(self.knobs, str) or not isinstance(self.knobs, list | tuple) or not self.knobs:
            raise ValueError(f"knobs must be a tuple of names, got {self.knobs!r}; write ('learning_rate',)")
        numbers = [f.name for f in dataclasses.fields(method) if isinstance(getattr(method, f.name), float)]
        for knob in self.knobs:
            if knob not in numbers:
                raise ValueError(f"{type(method).__name__} has no number called {knob!r}; choose among {numbers}")
        object.__setattr__(self, "knobs", tuple(self.knobs))

    @property
    def name(self) -> str:
        """That of the method."""
        return str(self.method.name)

    def at(self, step: int) -> Any:
        """The method with the knobs of step ``step``."""
        factor = check_positive(f"the factor of step {step}", self.factor(step))
        return dataclasses.replace(self.method, **{knob: factor * getattr(self.method, knob) for knob in self.knobs})

    def init(self, x: Array) -> ScheduledState:
        """The method's state before the first step."""
        return ScheduledState(self.at(0).init(x), 0)

    def step(self, point: Point, state: ScheduledState) -> Step:
        """One step of the method, with the knobs of today."""
        found = self.at(state.steps).step(point, state.method)
        return Step(found.x, ScheduledState(found.state, state.steps + 1), found.info)


@dataclass(frozen=True)
class WarmupCosine:
    """What :func:`warmup_cosine` returns: a function of the step that can be compared and hashed."""

    steps: int
    warmup: int
    floor: float

    def __call__(self, step: int) -> float:
        """The factor of step ``step``."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        along = min((step - self.warmup) / max(self.steps - self.warmup, 1), 1.0)
        return self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * along))


def warmup_cosine(steps: int, warmup: int = 0, floor: float = 0.1) -> WarmupCosine:
    """A factor that rises linearly to 1 in ``warmup`` steps and falls to ``floor`` along half a cosine.

    Parameters
    ----------
    steps : length of the run. From step ``steps`` on the factor is ``floor``.
    warmup : at most ``steps``. Step t < warmup has the factor (t + 1) / warmup: the first step is not lost.
    floor : in (0, 1].

    Raises
    ------
    ValueError
        Numbers outside these ranges.

    Source: Loshchilov & Hutter (2017), eq. 5, without restarts.

    >>> factor = warmup_cosine(20, warmup=4, floor=0.1)
    >>> [round(factor(step), 12) for step in (0, 3, 4, 12, 20, 99)]
    [0.25, 1.0, 1.0, 0.55, 0.1, 0.1]
    """
    check_count("steps", steps)
    check_count("warmup", warmup, minimum=0)
    if warmup > steps:
        raise ValueError(f"warmup must be at most steps = {steps}, got {warmup}")
    floor = check_between("floor", floor, 0.0, 1.0, open_right=False)
    if floor == 0.0:
        raise ValueError("floor must be positive, got 0.0: a learning rate of zero is no step")
    return WarmupCosine(int(steps), int(warmup), floor)
