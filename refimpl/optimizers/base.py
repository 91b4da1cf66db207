"""What every method looks like: a frozen dataclass of knobs, ``init``, and ``step``.

No method draws samples, loops over iterations, records or prints: :func:`refimpl.run.minimize` does.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

from refimpl.arrays import Array
from refimpl.oracle import Point


class Step(NamedTuple):
    """Result of one step: the new place, the new state, and what a reader would plot."""

    x: Array
    state: Any
    info: Any


class NoInfo(NamedTuple):
    """Info of a method that has nothing to report."""


class SpectrumInfo(NamedTuple):
    """Info of a method that saw all eigenvalues of the Hessian: the two ends, each of the batch shape (...)."""

    smallest_eigenvalue: Array
    largest_eigenvalue: Array


@runtime_checkable
class Optimizer(Protocol):
    """A method. ``name`` is its key in the book's table of methods, colors and line styles."""

    name: ClassVar[str]

    def init(self, x: Array) -> Any:
        """The state before the first step at ``x``."""
        ...

    def step(self, point: Point, state: Any) -> Step:
        """One step from ``point``. ``info`` may carry ``accepted``, ``learning_rate``, ``damping``, ``ratio`` …"""
        ...


@runtime_checkable
class LibraryOptimizer(Protocol):
    """A method whose loop belongs to a library; :func:`refimpl.run.minimize` hands over to ``drive``."""

    name: ClassVar[str]

    def drive(self, problem: Any, x: Array, steps: int, rng: Any, **options: Any) -> Any:
        """The whole run, as a :class:`refimpl.trace.Result`; ``options`` are the stop rules of ``minimize``."""
        ...


def settle(method: Any, **knobs: Any) -> None:
    """Store checked knobs on a frozen dataclass, from its ``__post_init__``.

    The checks return Python numbers. A NumPy float64 scalar among the knobs would turn float32 arrays into float64.
    """
    for name, value in knobs.items():
        object.__setattr__(method, name, value)
