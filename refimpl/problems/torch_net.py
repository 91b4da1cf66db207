"""Any ``torch.nn.Module`` with a loss, as a Problem over one flat parameter vector.

The vector is the leaf of the graph and the module's parameters are views of it, put in place for one call by
``torch.func.functional_call``; the module's own parameters are never written. This file needs Torch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from refimpl.arrays import Backend, all_finite, dtype_name, get_backend
from refimpl.oracle import Problem
from refimpl.problems.kronecker import check_layers
from refimpl.problems.layer_factors import linear_layers
from refimpl.problems.losses import Loss
from refimpl.problems.module_parts import flat_parameters
from refimpl.problems.sampling import (
    Minibatch,
    check_batch_size,
    check_inputs,
    check_pair,
    check_sample,
    draw_minibatch,
    integers,
    rows_of,
)
from refimpl.problems.torch_evaluation import TorchEvaluation

Route = Literal["kept-graph", "forward-over-reverse"]
LossFunction = Loss | Callable[[Tensor, Tensor], Tensor]
Initialization = Literal["current", "reset"] | Callable[[np.random.Generator], Any]

_EVALUATION_ROWS = 2048


class TorchProblem(Problem):
    """A module's loss as a function of its trainable parameters, flattened in the order of ``parameters()``.

    Parameters
    ----------
    module : any module that maps a batch of inputs to outputs. Parameters with ``requires_grad=False`` stay fixed.
        It is used in the mode it is in (``train()`` or ``eval()``), and is changed in one way only: buffers that a
        forward pass in train mode updates (BatchNorm statistics) advance once per Point, when the Point is first
        asked for its loss, gradient, outputs, hvp or vjp, and for nothing else. A module that calls
        ``scaled_dot_product_attention`` must do so under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``:
        Torch's fused kernels cannot be differentiated twice.
    loss : one of :mod:`refimpl.problems.losses` (the module then returns (samples, k), for
        ``TokenCrossEntropy`` (samples, places, k)), or any function
        ``(outputs, targets) -> scalar tensor`` that is a mean over samples, convex in the outputs where
        Gauss–Newton products are wanted, and twice differentiable.
    inputs, targets : the training set; rows are samples.
    batch_size : rows of a minibatch; None for the full batch.
    test : inputs and targets of a test set, for :meth:`evaluate`.
    backend : a Torch backend; None takes dtype and device from the module, which must agree with it.
    route : ``"kept-graph"`` builds the gradient once with its graph and each product is one more backward pass
        (cheapest for products; the gradient costs more and the graph stays in memory as long as the Point);
        ``"forward-over-reverse"`` computes each product from scratch by ``torch.func.jvp`` of the gradient, and
        makes a plain gradient: the route for methods that ask for no product.
    initialization : ``"current"``: :meth:`initial` returns the module's parameters and ignores the generator;
        ``"reset"``: it calls ``reset_parameters`` on a copy, on the CPU, with Torch's generator seeded from the
        given one and put back; or a function from a NumPy generator to a vector (n,).
    integer_inputs : inputs are whole numbers (tokens) and stay int64.

    Raises
    ------
    ValueError
        Active dropout (two products at one point would differ); no trainable parameters; a module on another
        device or of another dtype than ``backend``; data that do not fit together.

    Source: Pearlmutter (1994) for the product by differentiating the gradient.
    """

    name = "torch-module"

    def __init__(
        self,
        module: nn.Module,
        loss: LossFunction,
        inputs: Any,
        targets: Any,
        *,
        batch_size: int | None = None,
        test: tuple[Any, Any] | None = None,
        backend: Backend | None = None,
        route: Route = "kept-graph",
        initialization: Initialization = "current",
        integer_inputs: bool = False,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        if not isinstance(loss, Loss) and not callable(loss):
            raise ValueError(f"loss must be a refimpl loss or a function (outputs, targets), got {loss!r}")
        if route not in ("kept-graph", "forward-over-reverse"):
            raise ValueError(f"unknown route {route!r}; choose 'kept-graph' or 'forward-over-reverse'")
        if not callable(initialization) and initialization not in ("current", "reset"):
            raise ValueError(
                f"unknown initialization {initialization!r}; choose 'current', 'reset' or a function of a generator"
            )
        trainable = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trainable:
            raise ValueError("the module has no parameter with requires_grad=True: there is nothing to optimize")
        super().__init__(sum(p.numel() for p in trainable.values()), _agreed_backend(module, backend))
        refuse_randomness(module)
        self.module = module
        self.loss_function = loss
        self.route = route
        self.initialization = initialization
        self._integer_inputs = integer_inputs
        self._names = list(trainable)
        self._shapes = [tuple(p.shape) for p in trainable.values()]
        self._sizes = [p.numel() for p in trainable.values()]
        self.inputs = self._inputs(inputs)
        self.samples = int(self.inputs.shape[0])
        self.targets = self._targets(targets, self.inputs)
        self.batch_size = check_batch_size(batch_size, self.samples)
        self.test = None
        if test is not None:
            inputs, targets = check_pair(test)
            test_inputs = self._inputs(inputs)
            self.test = (test_inputs, self._targets(targets, test_inputs))

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the trainable parameters."""
        return tuple(self._shapes)

    def evaluation(self, x: Tensor, sample: Any) -> TorchEvaluation:
        """The module at ``x`` on ``sample``: a :class:`Minibatch`, or None for every row."""
        refuse_randomness(self.module)
        return TorchEvaluation(self, x, *self._rows(sample))

    def loss(self, x: Tensor, sample: Any = None) -> Tensor:
        """The loss in the module's mode: no graph, statistics untouched, not counted. Cost: one forward pass."""
        self.check_place(x)
        refuse_randomness(self.module)
        inputs, targets = self._rows(sample)
        with torch.no_grad():
            return self.loss_value(self.call(x, inputs, advance=False), targets)

    def initial(self, rng: np.random.Generator) -> Tensor:
        """A starting vector (n,), as ``initialization`` says."""
        if callable(self.initialization):
            x = self.backend.asarray(self.initialization(rng))
            self.check_place(x, "the starting vector")
            return x
        if self.initialization == "current":
            return flat_parameters(self.module)
        fresh = copy.deepcopy(self.module).cpu()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            for part in fresh.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()
        return flat_parameters(fresh).to(self.backend.device)

    def draw(self, rng: np.random.Generator) -> Minibatch | None:
        """``batch_size`` different rows, independent of earlier draws; None where the batch is full."""
        return draw_minibatch(rng, self.samples, self.batch_size)

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        """Loss over all training rows and all test rows in **evaluation mode** (running statistics, whatever the
        module's mode, which is put back), and ``accuracy``, ``test_accuracy`` where the loss reports it."""
        self.check_place(x)
        with torch.no_grad(), evaluation_mode(self.module):
            report = self._report(x, self.inputs, self.targets, "")
            if self.test is not None:
                report |= self._report(x, *self.test, "test_")
        return report

    def unflatten(self, x: Tensor) -> dict[str, Tensor]:
        """The parameters by name, as views of ``x`` (n,)."""
        parts = torch.split(x, self._sizes)
        return {name: part.view(shape) for name, part, shape in zip(self._names, parts, self._shapes, strict=True)}

    def to_layers(self, v: Tensor) -> list[Tensor]:
        """``v`` (n,) as one matrix [weight | bias] (fan_out, fan_in + 1) per ``Linear``; ValueError for other modules.

        See :func:`refimpl.problems.layer_factors.linear_layers`.
        """
        self.check_place(v, "v")
        parts, layers = self.unflatten(v), linear_layers(self.module)
        return [torch.cat([parts[f"{name}weight"], parts[f"{name}bias"][:, None]], dim=1) for name in layers]

    def from_layers(self, layers: Sequence[Tensor]) -> Tensor:
        """The inverse of :meth:`to_layers`: (n,)."""
        linear = linear_layers(self.module)
        check_layers(layers, [(part.out_features, part.in_features + 1) for part in linear.values()], self.backend)
        parts = {f"{name}weight": layer[:, :-1] for name, layer in zip(linear, layers, strict=True)}
        parts |= {f"{name}bias": layer[:, -1] for name, layer in zip(linear, layers, strict=True)}
        return torch.cat([parts[name].reshape(-1) for name in self._names])

    # -- for the evaluation -----------------------------------------------------------------------------------------

    def call(self, x: Tensor, inputs: Tensor, *, advance: bool) -> Tensor:
        """The module's outputs with the parameters ``x``. Buffers move only where ``advance`` is true."""
        replaced = self.unflatten(x)
        if not advance:
            # Cloned here, inside whatever torch.func transform is active: an update in place of a tensor from
            # outside the transform is refused by Torch.
            replaced |= {name: buffer.clone() for name, buffer in self.module.named_buffers()}
        outputs = functional_call(self.module, replaced, (inputs,))
        if isinstance(self.loss_function, Loss) and outputs.ndim != self.loss_function.output_axes:
            wanted = "(samples, k)" if self.loss_function.output_axes == 2 else "(samples, places, k)"
            raise ValueError(
                f"{type(self.loss_function).__name__} needs outputs {wanted}, the module returned "
                f"{tuple(outputs.shape)}; end it with a Flatten, or give a function as the loss"
            )
        return outputs

    def loss_value(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs, a 0-d tensor that autograd can differentiate twice."""
        if isinstance(self.loss_function, Loss):
            value: Tensor = self.loss_function.value(outputs, targets)
            return value
        value = self.loss_function(outputs, targets)
        if not isinstance(value, Tensor) or value.ndim != 0:
            raise ValueError("the loss must return a scalar tensor: take the mean over the samples")
        return value

    # -- data -------------------------------------------------------------------------------------------------------

    def _rows(self, sample: Any) -> tuple[Tensor, Tensor]:
        chosen = check_sample(sample, self.samples)
        return self._entering(rows_of(self.backend, self.inputs, chosen)), rows_of(self.backend, self.targets, chosen)

    def _entering(self, rows: Tensor) -> Tensor:
        """What the module is called with, from rows of a set as it is stored."""
        return rows

    @property
    def _piece(self) -> int:
        """Rows of one forward pass of :meth:`evaluate`."""
        return _EVALUATION_ROWS

    def _report(self, x: Tensor, inputs: Tensor, targets: Tensor, prefix: str) -> dict[str, Tensor]:
        # In pieces, so that a test set need not fit into memory with all its activations.
        total: dict[str, Tensor] = {}
        for rows, wanted in zip(inputs.split(self._piece), targets.split(self._piece), strict=True):
            outputs = self.call(x, self._entering(rows), advance=False)
            found = {"loss": self.loss_value(outputs, wanted)}
            if isinstance(self.loss_function, Loss):
                found |= self.loss_function.metrics(outputs, wanted)
            for key, value in found.items():
                total[prefix + key] = total.get(prefix + key, 0.0) + value * (len(rows) / len(inputs))
        return total

    def _inputs(self, inputs: Any) -> Tensor:
        if self._integer_inputs:
            return _whole_numbers(self.backend, inputs)
        if not isinstance(inputs, Tensor):
            tensor: Tensor = self.backend.asarray(check_inputs(inputs))
            return tensor
        if inputs.ndim < 2 or len(inputs) == 0:
            raise ValueError(f"inputs must have shape (samples, ...) with samples >= 1, got {tuple(inputs.shape)}")
        if not all_finite(inputs):
            raise ValueError("inputs must be finite, but they hold NaN or infinity")
        return inputs.detach().to(device=self.backend.device, dtype=self.backend.dtype, copy=True)

    def _targets(self, targets: Any, inputs: Tensor) -> Tensor:
        samples = int(inputs.shape[0])
        if isinstance(self.loss_function, Loss):
            with torch.no_grad(), evaluation_mode(self.module):
                width = self.call(flat_parameters(self.module), self._entering(inputs[:1]), advance=False).shape[-1]
            host = self.loss_function.check_targets(targets, samples, width)
            whole = self.loss_function.integer_targets
        else:
            host = targets.detach().cpu().numpy() if isinstance(targets, Tensor) else np.asarray(targets)
            whole = host.dtype.kind in "iub"
            if host.ndim < 1 or len(host) != samples:
                raise ValueError(f"targets must have {samples} rows like the inputs, got shape {host.shape}")
        return integers(self.backend, host.astype(np.int64)) if whole else self.backend.asarray(host)


def refuse_randomness(module: nn.Module) -> None:
    """A ValueError where a forward pass of ``module`` would draw random numbers (active dropout)."""
    for name, part in module.named_modules():
        if part.training and _draws(part):
            raise ValueError(
                f"module {name or 'itself'} ({type(part).__name__}) draws random numbers in train mode, so two "
                "products at one point would differ; call its eval() or set its probability to 0"
            )


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Every part of ``module`` in evaluation mode; afterwards each part is back in the mode it had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def _draws(part: nn.Module) -> bool:
    if isinstance(part, nn.modules.dropout._DropoutNd):
        return part.p > 0
    if isinstance(part, nn.MultiheadAttention | nn.RNNBase):
        return part.dropout > 0
    return isinstance(part, nn.RReLU | nn.FractionalMaxPool2d | nn.FractionalMaxPool3d)


def _agreed_backend(module: nn.Module, backend: Backend | None) -> Backend:
    floating = [t for t in [*module.parameters(), *module.buffers()] if t.is_floating_point()]
    kinds = {(t.dtype, t.device) for t in floating}
    if len(kinds) > 1:
        raise ValueError(f"all parameters and buffers must share dtype and device, got {sorted(map(str, kinds))}")
    dtype, device = next(iter(kinds))
    own = get_backend("torch", dtype_name(dtype), device)
    if backend is None:
        return own
    if backend.name != "torch":
        raise ValueError(f"a torch module needs a torch backend, got {backend.name!r}")
    place = torch.empty(0, device=backend.device).device  # "cuda" becomes "cuda:0"
    if (backend.dtype, place) != (dtype, device):
        raise ValueError(
            f"the module is {dtype} on {device}, the backend {backend.dtype} on {place}; "
            "move one of them: module.to(device, dtype)"
        )
    return backend


def _whole_numbers(backend: Backend, inputs: Any) -> Tensor:
    host = inputs.detach().cpu().numpy() if isinstance(inputs, Tensor) else np.asarray(inputs)
    if host.dtype.kind not in "iu" or host.ndim < 1 or len(host) == 0:
        raise ValueError(f"integer_inputs needs at least one row of whole numbers, got {host.dtype} {host.shape}")
    tensor: Tensor = integers(backend, host.astype(np.int64))
    return tensor
