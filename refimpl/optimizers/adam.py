"""Adam and AdamW: gradient descent with a running scale for every coordinate.

Both take leading axes ``(..., n)``. Cost: one gradient per step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from refimpl.arrays import Array, check_between, check_positive, namespace
from refimpl.optimizers.base import NoInfo, Step, settle
from refimpl.oracle import Point


class AdamState(NamedTuple):
    """Running means of the gradient and of its square, both (..., n), and the number of steps so far."""

    mean: Array
    square: Array
    steps: int


@dataclass(frozen=True)
class Adam:
    """m <- b1 m + (1-b1) g; s <- b2 s + (1-b2) g^2; x <- x - eta m' / (sqrt(s') + epsilon).

    m' = m/(1-b1^t) and s' = s/(1-b2^t) undo the start from zero; t counts from 1.

    Parameters
    ----------
    learning_rate : eta, positive.
    beta1, beta2 : b1 and b2, each in [0, 1).
    epsilon : at least zero. With zero, a coordinate whose gradient has always been zero gives 0/0.

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    The same operations, in the same order of rounding to within a few ulp, as ``torch.optim.Adam``.

    Source: Kingma & Ba (2015), algorithm 1.
    """

    learning_rate: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    name: ClassVar[str] = "adam"

    def __post_init__(self) -> None:
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            beta1=check_between("beta1", self.beta1, 0.0, 1.0),
            beta2=check_between("beta2", self.beta2, 0.0, 1.0),
            epsilon=check_positive("epsilon", self.epsilon, zero_allowed=True),
        )

    def init(self, x: Array) -> AdamState:
        """Running means of zero."""
        zero = namespace(x).zeros_like(x)
        return AdamState(zero, zero, 0)

    def step(self, point: Point, state: AdamState) -> Step:
        """One step: (..., n)."""
        return self._move(point.x, point.gradient, state)

    def _move(self, x: Array, gradient: Array, state: AdamState) -> Step:
        xp = namespace(x)
        t = state.steps + 1
        mean = self.beta1 * state.mean + (1.0 - self.beta1) * gradient
        square = self.beta2 * state.square + (1.0 - self.beta2) * gradient * gradient
        scale = xp.sqrt(square) / (1.0 - self.beta2**t) ** 0.5 + self.epsilon
        return Step(x - self.learning_rate / (1.0 - self.beta1**t) * mean / scale, AdamState(mean, square, t), NoInfo())


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam that first shrinks x by the factor 1 - eta·weight_decay, outside the running scale.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon : as for :class:`Adam`.
    weight_decay : at least zero.

    Raises
    ------
    ValueError
        A knob outside its range.

    Notes
    -----
    As ``torch.optim.AdamW``: the decay is multiplied by the learning rate, which the paper keeps apart.

    Source: Loshchilov & Hutter (2019), algorithm 2.
    """

    weight_decay: float = 1e-2
    name: ClassVar[str] = "adamw"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, weight_decay=check_positive("weight_decay", self.weight_decay, zero_allowed=True))

    def step(self, point: Point, state: AdamState) -> Step:
        """One step: (..., n)."""
        return self._move((1.0 - self.learning_rate * self.weight_decay) * point.x, point.gradient, state)
