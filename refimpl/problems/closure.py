"""The loss that a closure returns, as a Problem over the tensors the closure reads. This file needs Torch.

:mod:`refimpl.torch_optim` makes one such problem per step. The parameters stay where they are, in the user's module:
the closure is called once per Point, with a graph that every product reuses, and once per trial, without a graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from refimpl.arrays import dtype_name, get_backend
from refimpl.oracle import Problem
from refimpl.problems.closure_evaluation import (
    ClosureEvaluation,
    ClosureLayers,
    ClosureOutputs,
    flattened,
    parts_of,
)
from refimpl.problems.kronecker import check_layers
from refimpl.problems.layer_factors import linear_layers, refuse_batch_norm, watched

Closure = Callable[[], Any]
"""Returns the loss, or (loss, outputs)."""


class Generators(NamedTuple):
    """The states of Torch's random generators: of the CPU, and of the parameters' device where that is CUDA."""

    cpu: Tensor
    device: Tensor | None


class ClosureProblem(Problem):
    """The loss of ``closure`` as a function of ``parameters``, flattened one after the other.

    Parameters
    ----------
    closure : function without arguments that computes the loss from the parameters, and returns it (0-d, of the
        parameters' dtype, with its graph) or the pair (loss, outputs), where the loss is a convex function of the
        outputs, computed from this very tensor. It must not call ``backward``.
    parameters : leaf tensors that require gradients, of one floating dtype (float32 or float64) and on one device.
    buffers : tensors that a call may change in place (BatchNorm statistics). A trial leaves them as they were.
    hessian : whether products with the Hessian are likely to be asked: the gradient is then made with its graph at
        once. Where it is false, the first product makes it anew.
    module : the module that the closure calls, where Kronecker factors are wanted: all of ``parameters`` are weights
        and biases of its ``Linear`` layers.

    Raises
    ------
    ValueError
        Parameters, buffers or a module that cannot be used; a closure that returns something else, has called
        ``backward``, or computes a loss that depends on none of the parameters.

    Notes
    -----
    To evaluate at x is to *write* x into the parameters. A trial (:meth:`loss`) puts other storage behind the
    parameters and buffers for one call without gradients, and sets Torch's generators back to the sample, so that
    dropout draws the same masks; afterwards storage and generators are those from before, whatever happened inside.
    The graph of the Point is not disturbed: products may be asked after a trial.

    A term of the loss beside the outputs (weight decay) is in the gradient and in ``hvp``, not in ``ggnvp``.
    """

    name = "closure"

    def __init__(
        self,
        closure: Closure,
        parameters: Sequence[Tensor],
        *,
        buffers: Sequence[Tensor] = (),
        hessian: bool = True,
        module: nn.Module | None = None,
    ) -> None:
        if not callable(closure):
            raise ValueError(f"closure must be a function without arguments that returns the loss, got {closure!r}")
        check_parameters(parameters)
        check_buffers(buffers)
        first = parameters[0]
        super().__init__(
            sum(p.numel() for p in parameters), get_backend("torch", dtype_name(first.dtype), first.device)
        )
        self.closure = closure
        self.parameters = list(parameters)
        self.buffers = list(buffers)
        self.hessian = hessian
        self.module = module
        self._names = [] if module is None else layer_names(module, self.parameters)

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the parameters."""
        return tuple(tuple(p.shape) for p in self.parameters)

    def evaluation(self, x: Tensor, sample: Generators | None) -> ClosureEvaluation:
        """Write ``x`` into the parameters and call the closure once, with gradients."""
        if sample is not None:
            self._set_generators(sample)
        self.write(x)
        before = [(p.grad, None if p.grad is None else p.grad._version) for p in self.parameters]
        layers = {} if self.module is None else linear_layers(self.module)
        with torch.enable_grad(), watched(layers) as seen:
            loss, outputs = self._call()
        for p, (grad, version) in zip(self.parameters, before, strict=True):
            if p.grad is None or (p.grad is grad and p.grad._version == version):
                continue
            if bool(p.grad.any()):  # and not only zero_grad(set_to_none=False)
                raise ValueError("the closure called backward(); return the loss and leave differentiating to step()")
        if not loss.requires_grad:
            raise ValueError(
                "the loss that the closure returned has no graph (no grad_fn): compute it from the parameters, without "
                "detach(), item(), no_grad() or inference_mode()"
            )
        if outputs is None:
            return ClosureEvaluation(self.parameters, loss, None, self.hessian)
        if not outputs.requires_grad:
            raise ValueError("the outputs that the closure returned have no graph (no grad_fn): do not detach them")
        if self.module is None:
            return ClosureOutputs(self.parameters, loss, outputs, self.hessian)
        refuse_batch_norm(self.module)
        return ClosureLayers(self.parameters, loss, outputs, self.hessian, layers, seen)

    def loss(self, x: Tensor, sample: Generators | None = None) -> Tensor:
        """The loss at ``x``, drawn as ``sample`` says: one call under ``no_grad`` that leaves no trace."""
        self.check_place(x)
        with torch.no_grad(), self._other_storage(x), self._forked(sample):
            return self._call()[0].detach().clone()

    def initial(self, rng: Any) -> Tensor:
        """The parameters as they are now, (n,), a copy."""
        return flattened([p.detach() for p in self.parameters])

    def draw(self, rng: Any = None) -> Generators:
        """The states of Torch's generators now. ``rng`` is not used: what is random is the closure's affair."""
        device = self.backend.device
        return Generators(torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None)

    def to_layers(self, v: Tensor) -> list[Tensor]:
        """``v`` (n,) as one matrix [weight | bias] (fan_out, fan_in + 1) per layer; ValueError without a module."""
        if self.module is None:
            raise ValueError(self._no_layers())
        self.check_place(v, "v")
        parts = dict(zip(self._names, parts_of(v, self.parameters), strict=True))
        return [
            torch.cat([parts[f"{name}weight"], parts[f"{name}bias"][:, None]], dim=1)
            for name in linear_layers(self.module)
        ]

    def from_layers(self, layers: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`to_layers`: (n,)."""
        if self.module is None:
            raise ValueError(self._no_layers())
        linear = linear_layers(self.module)
        check_layers(layers, [(part.out_features, part.in_features + 1) for part in linear.values()], self.backend)
        parts = {f"{name}weight": layer[:, :-1] for name, layer in zip(linear, layers, strict=True)}
        parts |= {f"{name}bias": layer[:, -1] for name, layer in zip(linear, layers, strict=True)}
        return flattened([parts[name] for name in self._names])

    def write(self, x: Tensor) -> None:
        """Copy ``x`` (n,) into the parameters."""
        with torch.no_grad():
            for parameter, part in zip(self.parameters, parts_of(x, self.parameters), strict=True):
                parameter.copy_(part)

    @contextmanager
    def undone_on_failure(self) -> Iterator[None]:
        """Where the ``with`` is left by an exception, parameters, buffers and generators are as they were before."""
        x, sample, buffers = self.initial(None), self.draw(), [buffer.clone() for buffer in self.buffers]
        try:
            yield
        except BaseException:
            self.write(x)
            with torch.no_grad():
                for buffer, old in zip(self.buffers, buffers, strict=True):
                    buffer.copy_(old)
            self._set_generators(sample)
            raise

    # -- one call -----------------------------------------------------------------------------------------------------

    def _call(self) -> tuple[Tensor, Tensor | None]:
        found = self.closure()
        pair = found if isinstance(found, tuple | list) else (found, None)
        if len(pair) != 2:
            raise ValueError(f"the closure must return the loss or the pair (loss, outputs), got {len(pair)} things")
        loss, outputs = pair
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            what = f"one of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"the closure must return the loss as a tensor of shape (), got {what}")
        if outputs is not None and (not isinstance(outputs, Tensor) or outputs.numel() == 0):
            raise ValueError(f"the outputs beside the loss must be one tensor that is not empty, got {outputs!r}")
        for name, value in (("loss", loss), ("outputs", outputs)):
            if value is not None and (value.dtype, value.device) != (self.backend.dtype, self.backend.device):
                raise ValueError(
                    f"the {name} must be {self.backend.dtype} on {self.backend.device} like the parameters, got "
                    f"{value.dtype} on {value.device}"
                )
        return loss, outputs

    @contextmanager
    def _other_storage(self, x: Tensor) -> Iterator[None]:
        # Not copy_: writing in place would make Torch refuse every later product on the kept graph.
        held = [tensor.data for tensor in (*self.parameters, *self.buffers)]
        try:
            for parameter, part in zip(self.parameters, parts_of(x, self.parameters), strict=True):
                parameter.data = torch.empty_like(parameter).copy_(part)
            for buffer in self.buffers:
                buffer.data = buffer.detach().clone()
            yield
        finally:
            for tensor, data in zip((*self.parameters, *self.buffers), held, strict=True):
                tensor.data = data

    @contextmanager
    def _forked(self, sample: Generators | None) -> Iterator[None]:
        now = self.draw()
        try:
            if sample is not None:
                self._set_generators(sample)
            yield
        finally:
            self._set_generators(now)

    def _set_generators(self, sample: Generators) -> None:
        torch.set_rng_state(sample.cpu)
        if sample.device is not None:
            torch.cuda.set_rng_state(sample.device, self.backend.device)


def check_parameters(parameters: Sequence[Any]) -> None:
    """A ValueError unless ``parameters`` can be one flat vector: see :class:`ClosureProblem`."""
    for p in parameters:
        if not isinstance(p, Tensor):
            raise ValueError(f"parameters must be tensors, got {type(p).__name__}")
        if not p.is_leaf:
            raise ValueError("a parameter must be a leaf: this one is the result of an operation; detach() it")
        if p.layout is not torch.strided:
            raise ValueError(f"parameters must be dense, got one of layout {p.layout}")
        if p.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"parameters must be float32 or float64, got {p.dtype}; convert the module first")
    places = {(p.dtype, p.device) for p in parameters}
    if len(places) > 1:
        raise ValueError(f"all parameters must share dtype and device, got {sorted(map(str, places))}")
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError("a parameter is there twice; give each one once")
    if not sum(p.numel() for p in parameters):
        raise ValueError("there is no parameter with requires_grad=True: there is nothing to optimize")


def check_buffers(buffers: Sequence[Any]) -> None:
    """A ValueError unless ``buffers`` are tensors that are not trained."""
    for buffer in buffers:
        if not isinstance(buffer, Tensor) or buffer.requires_grad:
            what = "one that requires gradients" if isinstance(buffer, Tensor) else type(buffer).__name__
            raise ValueError(f"buffers must be tensors without gradients, as from module.buffers(), got {what}")


def layer_names(module: Any, parameters: Sequence[Tensor]) -> list[str]:
    """The names that ``parameters`` have in ``module``; a ValueError unless they are all of its trainable ones, and the
    weights and biases of its ``Linear`` layers."""
    if not isinstance(module, nn.Module):
        raise ValueError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    linear_layers(module)
    names = {id(p): name for name, p in module.named_parameters() if p.requires_grad}
    if names.keys() != {id(p) for p in parameters}:
        raise ValueError("params must be all trainable parameters of the module: give module.parameters()")
    return [names[id(p)] for p in parameters]
