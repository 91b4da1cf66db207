"""Whole steps of a method as CUDA graphs. This file needs Torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from refimpl.arrays import check_count
from refimpl.oracle import Counts, Point
from refimpl.problems.host_reads import host_reads
from refimpl.problems.programs import Batch, Program, buffers_kept, capture_all, check_capture
from refimpl.problems.torch_net import TorchProblem

PERIODS = ("adapt_every", "interval", "refresh")
"""Knobs that say in every how many steps a method does something else."""


class Taken(NamedTuple):
    """What a captured step reports, valid until the next one: the loss before it, the method's info, what it cost."""

    loss: Tensor
    info: Any
    counts: Counts


class CapturedStep:
    """The steps of a method as CUDA graphs: place, state and minibatch lie in buffers, and a replay moves them on.

    Parameters
    ----------
    problem : a :class:`TorchProblem`.
    method : of :mod:`refimpl.optimizers`; it must read nothing back to the host and send nothing from it.
    x : the starting place, (n,); it is copied.
    sample : any sample of the size that all will have; None for the full batch.
    state : the method's state at ``x``; None for ``method.init(x)``.
    cycle : a method that counts its steps may do something else in every so many of them (CurveBall adapts its damping
        in every fifth). The first ``cycle`` steps run without a graph, then each step of a cycle has one. None takes
        the least common multiple of the method's :data:`PERIODS`, and those of a method inside it.
    capture : False runs the same code without graphs.
    warmup : eager runs before each capture.

    Attributes
    ----------
    x, state : where the run is; copies.
    counts : of all steps so far.

    Raises
    ------
    ValueError
        ``capture`` on a CPU. In :meth:`step`, a method that waits for the host, naming the places; one whose step
        depends on the number of steps otherwise than by ``cycle`` (Adam's correction, a schedule): capture the
        problem instead (:class:`CapturedProblem`), which leaves the step as it is; a sample of another size.

    Notes
    -----
    The dependence on the number of steps is tried out, with numbers of steps up to a thousand cycles ahead, and not
    proven. On a GPU, kernels that add in any order make a replay differ from an eager step by rounding.
    """

    def __init__(
        self,
        problem: TorchProblem,
        method: Any,
        x: Tensor,
        sample: Any = None,
        state: Any = None,
        *,
        cycle: int | None = None,
        capture: bool = True,
        warmup: int = 3,
    ) -> None:
        check_capture(problem, capture)
        problem.check_place(x)
        self.method = method
        self.cycle = check_count("cycle", cycle) if cycle is not None else _cycle(method)
        self.counts = Counts()
        self._capture, self._warmup = capture, warmup
        self._batch = Batch(problem, sample)
        self._rows = problem._rows
        self._module = problem.module
        self._x = x.clone()
        state = method.init(x) if state is None else state
        self._tensors, self._numbers = _taken_apart(state)
        self._tensors = [tensor.clone() for tensor in self._tensors]
        self._like = state
        self._programs: dict[Any, tuple[Program, list[Any], Counts]] = {}

    @property
    def x(self) -> Tensor:
        """The place, (n,)."""
        return self._x.clone()

    @property
    def state(self) -> Any:
        """The method's state."""
        return _put_together(self._like, [t.clone() for t in self._tensors], self._numbers)

    def step(self, sample: Any = None) -> Taken:
        """Take one step on ``sample``."""
        self._batch.load(self._rows(sample))
        counted = [k for k in self._numbers if _counts_steps(k)]
        if counted and min(counted) < self.cycle:  # the first steps: shapes of the state may still change
            taken, after = self._advance(self._numbers, settle=True)
            self._numbers = after
        else:
            key = tuple(k % self.cycle if _counts_steps(k) else k for k in self._numbers)
            if key not in self._programs:
                self._programs[key] = self._captured()
            program, gains, counts = self._programs[key]
            loss, info = program.replay()
            taken = Taken(loss, info, counts)
            self._numbers = [k + gain if gain else k for k, gain in zip(self._numbers, gains, strict=True)]
        self.counts += taken.counts
        return taken

    def _captured(self) -> tuple[Program, list[Any], Counts]:
        numbers = self._numbers
        seen: list[Any] = []

        def function() -> tuple[Tensor, Any]:
            taken, after = self._advance(numbers)
            seen[:] = [taken.counts, after]
            return taken.loss, taken.info

        self._refuse_waits(function)
        gains = [b - a if _counts_steps(a) else 0 for a, b in zip(numbers, seen[1], strict=True)]
        if [b for a, b in zip(numbers, seen[1], strict=True) if not _counts_steps(a) and a != b]:
            raise ValueError(f"{type(self.method).__name__} changes a number of its state that counts no steps")
        if any(gains):
            self._refuse_other_dependence(numbers)
        with self._undone():
            program = capture_all({"step": function}, self._module, capture=self._capture, warmup=self._warmup)["step"]
        return program, gains, seen[0]

    def _advance(self, numbers: list[Any], *, settle: bool = False) -> tuple[Taken, list[Any]]:
        """One step from the buffers into the buffers; ``settle`` lets the state change its shapes."""
        point = Point(self._batch.problem, self._x.clone(), None)
        # Clones, since the info of a step may hand on a part of the state that the step ends by overwriting.
        step = self.method.step(point, _put_together(self._like, [t.clone() for t in self._tensors], numbers))
        tensors, after = _taken_apart(step.state)
        if not settle and [t.shape for t in tensors] != [t.shape for t in self._tensors]:
            raise ValueError(f"{type(self.method).__name__} changes the shapes of its state: it cannot be captured")
        if settle:
            self._tensors, self._like = [t.clone() for t in tensors], step.state
        else:
            for buffer, tensor in zip(self._tensors, tensors, strict=True):
                buffer.copy_(tensor)
        self._x.copy_(step.x)
        return Taken(point._once("loss", point._evaluation.loss), step.info, point.counts), after

    def _refuse_waits(self, function: Callable[[], Any]) -> None:
        with self._undone():
            function()  # fills caches
        with self._undone():
            found = host_reads(function)
        if found.reads or found.uploads or found.synchronizations:
            places = ", ".join(dict.fromkeys(map(str, (*found.reads, *found.uploads)))) or "in Torch itself"
            raise ValueError(
                f"a step of {type(self.method).__name__} waits for the host: {places}; capture the problem instead "
                "(CapturedProblem), which leaves the step as it is"
            )

    def _refuse_other_dependence(self, numbers: list[Any]) -> None:
        def outcome(cycles: int) -> list[Tensor]:
            ahead = [k + cycles * self.cycle if _counts_steps(k) else k for k in numbers]
            with self._undone():
                self._advance(ahead)
                return [self._x.clone(), *(t.clone() for t in self._tensors)]

        now = outcome(0)
        for cycles in (1, 2, 3, 4, 5, 6, 7, 11, 13, 1000):
            for a, b in zip(now, outcome(cycles), strict=True):
                if not torch.allclose(a, b, rtol=1e-4, atol=1e-6 * float(a.abs().max()), equal_nan=True):
                    raise ValueError(
                        f"a step of {type(self.method).__name__} depends on the number of steps otherwise than by a "
                        f"cycle of {self.cycle}; give the right cycle, or capture the problem instead (CapturedProblem)"
                    )

    @contextmanager
    def _undone(self) -> Iterator[None]:
        """Whatever moves inside is put back: place, state and the module's buffers."""
        saved = [t.clone() for t in (self._x, *self._tensors)]
        with buffers_kept(self._module):
            try:
                yield
            finally:
                for buffer, before in zip((self._x, *self._tensors), saved, strict=True):
                    buffer.copy_(before)


def _cycle(method: Any) -> int:
    knobs = [getattr(method, name, 1) for name in PERIODS]
    inner = [getattr(method, name) for name in ("method", "base") if hasattr(method, name)]
    return math.lcm(*(k for k in knobs if _counts_steps(k) and k > 0), *map(_cycle, inner))


def _counts_steps(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)


def _taken_apart(state: Any) -> tuple[list[Tensor], list[Any]]:
    """The tensors and the other leaves of a state, in order."""
    if isinstance(state, Tensor):
        return [state], []
    if isinstance(state, tuple | list):
        parts = [_taken_apart(part) for part in state]
        return [t for tensors, _ in parts for t in tensors], [k for _, numbers in parts for k in numbers]
    return [], [state]


def _put_together(like: Any, tensors: Sequence[Tensor], numbers: Sequence[Any]) -> Any:
    """The inverse of :func:`_taken_apart`, of the form of ``like``."""
    left, others = iter(tensors), iter(numbers)

    def build(part: Any) -> Any:
        if isinstance(part, Tensor):
            return next(left)
        if isinstance(part, tuple | list):
            parts = [build(one) for one in part]
            return type(part)(*parts) if hasattr(part, "_fields") else type(part)(parts)
        return next(others)

    return build(like)
