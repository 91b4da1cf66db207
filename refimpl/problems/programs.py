"""What captured programs are made of: a minibatch that stays where it is, and a function as a CUDA graph.

This file needs Torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from refimpl.problems.torch_net import TorchProblem


class Batch:
    """A minibatch in buffers that stay, and the problem that sees it as its only sample."""

    def __init__(self, problem: TorchProblem, sample: Any) -> None:
        inputs, targets = problem._rows(sample)
        self.inputs, self.targets = inputs.clone(), targets.clone()
        self.problem = on_rows(problem, self.inputs, self.targets)

    def checked(self, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The two as they are; a ValueError where they are not of the size of the buffers."""
        if inputs.shape != self.inputs.shape or targets.shape != self.targets.shape:
            raise ValueError(
                f"captured with inputs of shape {tuple(self.inputs.shape)}, got {tuple(inputs.shape)}; all samples "
                "must have the size of the one that was given"
            )
        return inputs, targets

    def load(self, rows: tuple[Tensor, Tensor]) -> None:
        """Copy a minibatch into the buffers."""
        inputs, targets = self.checked(*rows)
        self.inputs.copy_(inputs)
        self.targets.copy_(targets)


class Program:
    """A function of buffers that stay, as a CUDA graph, or called again where ``capture`` is false."""

    def __init__(self, function: Callable[[], Any], *, capture: bool, pool: Any = None) -> None:
        self._function = function
        self._graph: Any = None
        self.results: Any = None
        if capture:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                self.results = function()

    def replay(self) -> Any:
        """Run it; the results, which a captured program writes to where they always are."""
        if self._graph is None:
            # Into the same memory as a graph would: what is wrong with a graph is wrong here as well.
            self.results = _written(self.results, self._function())
        else:
            self._graph.replay()
        return self.results


def capture_all(
    functions: dict[str, Callable[[], Any]], module: nn.Module, *, capture: bool, warmup: int
) -> dict[str, Program]:
    """One program for each function, in their order; a later one may use tensors of an earlier one.

    All are warmed up first on a stream of their own, one round after the other; the module's buffers do not move.
    """
    if not capture:
        return {name: Program(function, capture=False) for name, function in functions.items()}
    with buffers_kept(module):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(max(warmup, 1)):
                for function in functions.values():
                    function()
        torch.cuda.current_stream().wait_stream(stream)
    pool = torch.cuda.graph_pool_handle()
    return {name: Program(function, capture=True, pool=pool) for name, function in functions.items()}


def on_rows(problem: TorchProblem, inputs: Tensor, targets: Tensor) -> TorchProblem:
    """``problem`` for which every sample is these rows; it shares the module."""
    twin = copy.copy(problem)
    twin.__dict__["_rows"] = lambda sample: (inputs, targets)
    return twin


def without_advance(problem: TorchProblem) -> TorchProblem:
    """``problem`` whose forward passes move no statistics; it shares the module."""
    twin, call = copy.copy(problem), problem.call
    twin.__dict__["call"] = lambda x, inputs, *, advance: call(x, inputs, advance=False)
    return twin


def check_capture(problem: Any, capture: bool) -> None:
    """A ValueError unless ``problem`` is a :class:`TorchProblem` that can be captured where it is."""
    if not isinstance(problem, TorchProblem):
        raise ValueError(f"only a TorchProblem can be captured, got {type(problem).__name__}")
    device = problem.backend.device.type
    if capture and device != "cuda":
        raise ValueError(f"CUDA graphs need a CUDA device, the problem is on {device!r}; write capture=False")


def _written(old: Any, new: Any) -> Any:
    """``new`` with its tensors in the memory of those of ``old``, where there are any and they carry no graph."""
    if isinstance(new, Tensor) and isinstance(old, Tensor) and not new.requires_grad and old.shape == new.shape:
        return old.copy_(new)
    if isinstance(new, tuple) and isinstance(old, tuple) and len(old) == len(new):
        parts = [_written(a, b) for a, b in zip(old, new, strict=True)]
        return type(new)(*parts) if hasattr(new, "_fields") else tuple(parts)
    return new


@contextmanager
def buffers_kept(module: nn.Module) -> Iterator[None]:
    """The module's buffers (BatchNorm statistics) are afterwards as they were before."""
    saved = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        for buffer, before in saved:
            buffer.data.copy_(before)  # unseen by autograd: graphs of older places on this module stay good
