"""Bytes that derivatives need, counted and not measured: the same on every device. This file needs Torch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from refimpl.problems.programs import buffers_kept, on_rows
from refimpl.problems.torch_net import TorchProblem


def saved_bytes(
    problem: TorchProblem, x: Tensor, sample: Any = None, what: Literal["gradient", "kept-graph"] = "gradient"
) -> int:
    """Bytes of the tensors that automatic differentiation keeps at ``x``, besides what is there anyway.

    Parameters
    ----------
    problem : its statistics do not move. x, sample : where.
    what : ``"gradient"``, what the forward pass keeps for one backward pass; ``"kept-graph"``, what forward and
        backward pass keep for products, for as long as the Point lives.

    Raises
    ------
    ValueError
        Another ``what``.

    Notes
    -----
    Each piece of memory counts once, however many tensors look at it. The parameters, the minibatch and the module's
    buffers do not count, nor what is freed within the pass: that is in :func:`peak_bytes`.
    """
    if what not in ("gradient", "kept-graph"):
        raise ValueError(f"unknown what {what!r}; choose 'gradient' or 'kept-graph'")
    inputs, targets = problem._rows(sample)
    leaf = x.detach().clone().requires_grad_(True)
    there = {_storage(t) for t in (leaf, inputs, targets, *problem.module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in there:
            kept[_storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with buffers_kept(problem.module), torch.enable_grad(), hooks:
        loss = problem.loss_value(problem.call(leaf, inputs, advance=True), targets)
        found = torch.autograd.grad(loss, leaf, create_graph=True)[0] if what == "kept-graph" else loss
    del found  # until here everything that was kept is alive, so that no two pieces had the same place
    return sum(kept.values())


def peak_bytes(function: Callable[[], Any]) -> int:
    """The most bytes that tensors made by ``function`` take at the same time, its result included.

    What was there before does not count. Works for every kind of derivative; memory that one operation takes for itself
    alone is not seen.

    >>> import torch
    >>> peak_bytes(lambda: (torch.ones(1000) + 1).sum())
    8000
    """
    with _Ledger() as ledger:
        result = function()
    del result
    return ledger.peak


def products_at(problem: TorchProblem, x: Tensor, sample: Any = None, *, count: int = 1) -> Callable[[], Any]:
    """For :func:`peak_bytes`: a gradient and ``count`` Hessian products at ``x``, on rows that are there before."""
    rows = on_rows(problem, *problem._rows(sample))

    def compute() -> list[Tensor]:
        with buffers_kept(problem.module):
            point = rows.at(x)
            found = [point.gradient]
            return found + [point.hvp(found[0]) for _ in range(count)]

    return compute


class _Ledger(TorchDispatchMode):
    """Adds up the memory of every tensor that comes into being, and takes it off when it goes."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {_storage(t) for t in _tensors((args, kwargs or {}))}
        found = func(*args, **(kwargs or {}))
        for tensor in _tensors(found):
            self._enter(tensor, given)
        return found

    def _enter(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = _storage(tensor), storage.nbytes()
        # What came in with the arguments and is not in the ledger was there before.
        if key in self._known or key in given or size == 0:
            return
        self._known[key] = weakref.ref(storage, lambda _: self._leave(key, size))
        self.now += size
        self.peak = max(self.peak, self.now)

    def _leave(self, key: int, size: int) -> None:
        if self._known.pop(key, None) is not None:
            self.now -= size


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(tree: Any) -> list[Tensor]:
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, dict):
        tree = list(tree.values())
    return [t for part in tree for t in _tensors(part)] if isinstance(tree, tuple | list) else []
