"""Gradient descent, and two ways of giving it inertia.

All three take leading axes ``(..., n)``. Cost: one gradient per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from refimpl.arrays import Array, check_between, check_positive, namespace
from refimpl.optimizers.base import NoInfo, Step, settle
from refimpl.oracle import Point


@dataclass(frozen=True)
class GradientDescent:
    """x <- x - eta g.

    Parameters
    ----------
    learning_rate : eta, positive.

    Raises
    ------
    ValueError
        A learning rate that is not finite and positive.

    Notes
    -----
    On a quadratic the iteration is stable for eta < 2/h, h the largest eigenvalue.

    >>> GradientDescent(learning_rate=0.1).name
    'gradient-descent'
    """

    learning_rate: float
    name: ClassVar[str] = "gradient-descent"

    def __post_init__(self) -> None:
        settle(self, learning_rate=check_positive("learning_rate", self.learning_rate))

    def init(self, x: Array) -> None:
        """No state."""

    def step(self, point: Point, state: None) -> Step:
        """One step: (..., n)."""
        return Step(point.x - self.learning_rate * point.gradient, None, NoInfo())


@dataclass(frozen=True)
class HeavyBall:
    """v <- mu v + eta g; x <- x - v: momentum that remembers past gradients.

    Parameters
    ----------
    learning_rate : eta, positive.
    momentum : mu in [0, 1).

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    The state is v, of the shape of x, zero at the start. With a constant learning rate this is the recursion of
    ``torch.optim.SGD(momentum=mu)``, whose buffer is v/eta.

    Source: Polyak (1964).
    """

    learning_rate: float
    momentum: float = 0.9
    name: ClassVar[str] = "heavy-ball"

    def __post_init__(self) -> None:
        _settle_momentum(self)

    def init(self, x: Array) -> Array:
        """The velocity, zero."""
        return namespace(x).zeros_like(x)

    def step(self, point: Point, state: Array) -> Step:
        """One step: (..., n)."""
        velocity = self.momentum * state + self.learning_rate * point.gradient
        return Step(point.x - velocity, velocity, NoInfo())


@dataclass(frozen=True)
class Nesterov:
    """v <- mu v + eta g; x <- x - (eta g + mu v): momentum that looks one step ahead.

    Parameters
    ----------
    learning_rate : eta, positive.
    momentum : mu in [0, 1).

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    Written, as in ``torch.optim.SGD(nesterov=True)``, so that x is the place where the gradient is taken: in
    Nesterov's notation it is the extrapolated point.

    Source: Nesterov (1983); this form: Sutskever et al. (2013), appendix A.1.
    """

    learning_rate: float
    momentum: float = 0.9
    name: ClassVar[str] = "nesterov"

    def __post_init__(self) -> None:
        _settle_momentum(self)

    def init(self, x: Array) -> Array:
        """The velocity, zero."""
        return namespace(x).zeros_like(x)

    def step(self, point: Point, state: Array) -> Step:
        """One step: (..., n)."""
        push = self.learning_rate * point.gradient
        velocity = self.momentum * state + push
        return Step(point.x - (push + self.momentum * velocity), velocity, NoInfo())


def _settle_momentum(method: HeavyBall | Nesterov) -> None:
    settle(
        method,
        learning_rate=check_positive("learning_rate", method.learning_rate),
        momentum=check_between("momentum", method.momentum, 0.0, 1.0),
    )
