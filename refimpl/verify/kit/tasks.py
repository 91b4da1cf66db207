"""The small losses that adapters are tried on, and those made for edge cases."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.arrays import Backend, as_generator
from refimpl.oracle import Problem
from refimpl.problems.classics import Rosenbrock, Wood
from refimpl.problems.quadratic import LinearLeastSquares, Quadratic, random_orthogonal
from refimpl.problems.toy import CoupledSaddle, DoubleWell
from refimpl.verify.kit.task import Task

_A = [[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 0.0, 1.0], [-1.0, 1.5, 0.25]]


def _quadratic(spectrum: list[float], seed: int, linear: Any, backend: Backend) -> Problem:
    return Quadratic.from_spectrum(spectrum, seed, linear=linear, backend=backend)


def _aligned(diagonal: list[float], linear: Any, backend: Backend) -> Problem:
    return Quadratic(np.diag(diagonal), linear=linear, backend=backend)


def _least_squares(backend: Backend) -> Problem:
    return LinearLeastSquares(_A, [1.0, -2.0, 0.5, 3.0], backend=backend)


def _of(problem: Callable[..., Problem], **knobs: Any) -> Callable[[Backend], Problem]:
    return lambda backend: problem(**knobs, backend=backend)


def _task(name: str, make: Callable[[Backend], Problem], start: list[float]) -> Task:
    return Task(name, make, np.array(start))


_BEND = partial(_quadratic, [4.0, 1.5, 0.5, -1.0, -3.0], 3, [0.3, -0.2, 0.5, 0.1, -0.4])

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _task("bowl", partial(_quadratic, [5.0, 2.0, 1.0, 0.3], 1, [0.5, -1.0, 0.25, 0.75]), [1.0, -0.5, 0.8, 1.2]),
        _task("saddle", _BEND, [0.7, -1.1, 0.4, 0.9, -0.6]),
        _task("double well", _of(DoubleWell, n=3), [0.3, 0.8, -0.5]).mapped(random_orthogonal(3, 7)),
        _task("coupled saddle", _of(CoupledSaddle), [0.3, 0.4]),
        _task("rosenbrock", _of(Rosenbrock), [-1.2, 1.0]),
        # From here a cubic model's first steps are poor ones, some of which still lower the loss.
        _task("rosenbrock, near by", _of(Rosenbrock), [-1.1, 0.7]),
        _task("wood", _of(Wood), [1.0, -1.5, -3.0, -3.0]),
        _task("least squares", _least_squares, [0.5, -0.7, 1.1]),
    )
}
"""Name -> task: two quadratic losses, a double well, a saddle, two curved valleys, linear least squares."""

EDGE_TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        _task("minimum", partial(_quadratic, [3.0, 1.0, 0.5], 5, None), [0.0, 0.0, 0.0]),
        _task("exact saddle", partial(_quadratic, [2.0, 1.0, -1.0], 6, None), [0.0, 0.0, 0.0]),
        _task("singular Hessian", partial(_aligned, [2.0, 0.0, 1.0], [0.5, 0.25, -1.0]), [0.4, 0.3, -0.2]),
        _task("repeated eigenvalues", partial(_quadratic, [2.0, 2.0, 2.0, 0.5, 0.5], 8, None),
              [0.7, -0.3, 0.9, 0.4, -1.0]),
        _task("repeated eigenvalues of both signs", partial(_quadratic, [2.0, 2.0, 2.0, -1.0, -1.0], 8, None),
              [0.7, -0.3, 0.9, 0.4, -1.0]),
        # The gradient is an eigenvector, so its Krylov space has one dimension.
        Task("one eigenvector", partial(_quadratic, [5.0, 2.0, 1.0, 0.3], 1, None),
             0.8 * random_orthogonal(4, 1)[:, 1]),
        _task("hard case", partial(_aligned, [-2.0, 1.0, 3.0], None), [0.0, 0.4, 0.3]),
    )
}  # fmt: skip
"""Name -> task that a step must survive."""


def places(task: Task) -> list[np.ndarray]:
    """Three places near the start, the start first; the same in every run."""
    rng = as_generator([11, task.n])
    moves = rng.standard_normal((2, task.n))
    return [task.place, *(task.place + 0.4 * move for move in moves)]
