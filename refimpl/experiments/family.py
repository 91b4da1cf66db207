"""The family of optimizers: a method from one function or from Torch, and a race at equal work."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from refimpl.arrays import Array, check_positive, to_numpy
from refimpl.optimizers.base import LibraryOptimizer, NoInfo, Step
from refimpl.optimizers.radius import check_one_run
from refimpl.oracle import Evaluation, Point, Problem, Sample
from refimpl.problems.closed_form import Toy
from refimpl.run import minimize

Memory = dict[str, Any]


@dataclass(frozen=True)
class ByRule:
    """A method from one function ``rule(point, memory, **knobs) -> x``.

    ``memory`` is a dictionary of the function's own, empty at first: what it writes there it finds in the next step.

    >>> import numpy as np
    >>> from refimpl.problems.toy import HorseSaddle
    >>> descent = ByRule(lambda point, memory, rate: point.x - rate * point.gradient, {"rate": 0.25})
    >>> minimize(HorseSaddle(), descent, [1.0, 2.0], steps=1).x.tolist()
    [0.5, 3.0]
    """

    rule: Callable[..., Array]
    knobs: Mapping[str, Any] = field(default_factory=dict)
    name: ClassVar[str] = "by-rule"

    def init(self, x: Array) -> Memory:
        """An empty memory."""
        return {}

    def step(self, point: Point, state: Memory) -> Step:
        """One step; the memory that was given stays as it was."""
        memory = dict(state)
        return Step(self.rule(point, memory, **self.knobs), memory, NoInfo())


@dataclass(frozen=True)
class ByTorch:
    """A method from an optimizer of Torch that takes the gradient alone: ``make(parameters) -> torch.optim.Optimizer``.

    Torch's own state is kept and changes in place: a state serves one run. float64 on the host. Cost: one gradient.

    Raises
    ------
    ValueError
        In ``init``, leading axes.
    """

    make: Callable[[list[Any]], Any]
    name: ClassVar[str] = "by-torch"

    def init(self, x: Array) -> Any:
        """Torch's optimizer with a parameter of its own."""
        import torch

        check_one_run("ByTorch", x)
        return self.make([torch.nn.Parameter(torch.tensor(to_numpy(x)))])

    def step(self, point: Point, state: Any) -> Step:
        """One step: (n,)."""
        import torch

        parameter = state.param_groups[0]["params"][0]
        with torch.no_grad():
            parameter.copy_(torch.from_numpy(np.array(to_numpy(point.x))))
        parameter.grad = torch.from_numpy(np.array(to_numpy(point.gradient)))
        state.step()
        return Step(point.problem.backend.asarray(parameter.detach().numpy().copy()), state, NoInfo())


class Transformed(Toy):
    """A problem in other coordinates and other units: f(y) = c · p(A y).

    Parameters
    ----------
    problem : p, a toy with n parameters.
    matrix : A, (n, n) and invertible. A rotation turns the landscape; a diagonal matrix changes the units of y.
    factor : c, positive.

    Raises
    ------
    ValueError
        A matrix of another shape or without inverse; a factor that is not positive.

    >>> import numpy as np
    >>> from refimpl.problems.toy import HorseSaddle
    >>> float(Transformed(HorseSaddle(), np.diag([1.0, 3.0]), 2.0).at(np.array([1.0, 1.0])).loss)
    -16.0
    """

    name = "transformed"

    def __init__(self, problem: Toy, matrix: Any, factor: float = 1.0) -> None:
        super().__init__(problem.n, problem.backend)
        self.problem, self.factor = problem, check_positive("factor", factor)
        self.matrix = problem.backend.asarray(np.asarray(matrix, dtype=float))
        if self.matrix.shape != (problem.n, problem.n) or not abs(np.linalg.det(to_numpy(self.matrix))) > 0:
            raise ValueError(f"matrix must be ({problem.n}, {problem.n}) with an inverse, got {matrix!r}")
        self.minimizers = tuple(map(self.place_of, problem.minimizers))
        self.saddles = tuple(map(self.place_of, problem.saddles))
        self.domain = problem.domain

    def place_of(self, x: Any) -> tuple[float, ...]:
        """The y with A y = x."""
        return tuple(np.linalg.solve(to_numpy(self.matrix), np.asarray(x, dtype=float)).tolist())

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        inside = self.problem.evaluation(x @ self.matrix.T, sample)
        return (_WithOutputs if type(inside).has_outputs else _Chained)(inside, self.matrix, self.factor)


class _Chained(Evaluation):
    def __init__(self, inside: Evaluation, matrix: Array, factor: float) -> None:
        self.inside, self.matrix, self.factor = inside, matrix, factor

    def loss(self) -> Array:
        return self.factor * self.inside.loss()

    def gradient(self) -> Array:
        return self.factor * self.inside.gradient() @ self.matrix

    def hvp(self, v: Array) -> Array:
        return self.factor * self.inside.hvp(v @ self.matrix.T) @ self.matrix


class _WithOutputs(_Chained):
    has_outputs: ClassVar[bool] = True

    def outputs(self) -> Array:
        return self.inside.outputs()

    def output_gradient(self) -> Array:
        return self.factor * self.inside.output_gradient()

    def output_hvp(self, u: Array) -> Array:
        return self.factor * self.inside.output_hvp(u)

    def jvp(self, v: Array) -> Array:
        return self.inside.jvp(v @ self.matrix.T)

    def vjp(self, u: Array) -> Array:
        return self.inside.vjp(u) @ self.matrix


class Course(NamedTuple):
    """A run within a budget: ``places`` (looks, n), ``losses`` and ``work`` before each look (looks,), ``status``."""

    places: np.ndarray
    losses: np.ndarray
    work: np.ndarray
    status: str

    @property
    def final(self) -> float:
        """The loss of the last look; infinite where the run diverged."""
        return math.inf if self.status == "diverged" else float(self.losses[-1])


class _SpentError(Exception):
    """Ends a run from inside: its budget is spent, or it has diverged."""


def course(problem: Problem, method: Any, x0: Any, budget: float, *, steps: int | None = None, seed: int = 0) -> Course:
    """The run of ``method`` from ``x0`` up to the last look at or before ``budget`` (work in gradients).

    ``steps`` ends it earlier. A run that stops because its gradient is zero, or because its library gives up, keeps its
    last place. It has diverged where loss, gradient or place is not finite, or the loss above 1e10. SciPy's methods are
    charged for the gradient at the last look, which their line search has asked for; others are not.
    """
    seen: list[tuple[np.ndarray, float, float]] = []
    asked: list[Point] = []
    owns_loop = isinstance(method, LibraryOptimizer)

    def look(_: int, point: Point) -> None:
        spent = seen[-1][2] + asked[-1].counts.work if asked and not owns_loop else 0.0
        if spent > budget + 1e-9:
            raise _SpentError
        seen.append((np.array(to_numpy(point.x)), float(point.peek()[0]), spent))
        if not seen[-1][1] <= 1e10:
            raise _SpentError
        asked.append(point)

    limit = int(3 * budget) + 1 if steps is None else steps
    try:
        result = minimize(problem, method, x0, steps=limit, seed=seed, callback=look)
        status = str(result.status)
    except _SpentError:
        status = "budget"
    places, losses, work = (np.array(column) for column in zip(*seen, strict=True))
    if owns_loop:
        work = np.concatenate([[0.0], result.trace["work"][: len(places) - 1]])
        within = work <= budget + 1e-9
        status = status if within.all() else "budget"
        places, losses, work = places[within], losses[within], work[within]
    if not (np.isfinite(losses).all() and losses.max() <= 1e10):
        status = "diverged"
    return Course(places, losses, work, status)


def best(candidates: Iterable[tuple[float | None, Course]]) -> tuple[float | None, Course]:
    """The pair (rate, course) whose course ends lowest; of equals, the one with the smallest rate."""
    return min(candidates, key=lambda pair: (pair[1].final, pair[0] or 0.0))
