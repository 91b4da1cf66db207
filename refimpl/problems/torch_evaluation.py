"""The derivatives of a Torch module's loss at one place: one graph, kept, and what each product does with it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from refimpl.oracle import Counts, Evaluation, KroneckerFactors
from refimpl.problems.layer_factors import layer_factors, linear_layers, refuse_batch_norm, watched
from refimpl.problems.losses import Loss
from refimpl.problems.sampled_targets import sampled_output_gradient

if TYPE_CHECKING:
    from refimpl.problems.torch_net import TorchProblem


class _Forward(NamedTuple):
    outputs: Tensor
    loss: Tensor


class TorchEvaluation(Evaluation):
    """One place, one sample. The forward pass with its graph is made once, and with it the module's statistics
    advance once. Everything returned is detached.

    Cost of a product in gradients: hvp about 2 (``kept-graph``) or 3 to 4 (``forward-over-reverse``); jvp one
    forward-mode pass, vjp one backward pass. The graph is freed with the last reference to the Point.
    """

    has_outputs: ClassVar[bool] = True

    def __init__(self, problem: TorchProblem, x: Tensor, inputs: Tensor, targets: Tensor) -> None:
        self._problem = problem
        self._x = x.detach().requires_grad_(True)
        self._inputs = inputs
        self._targets = targets

    # -- the loss and its derivatives -------------------------------------------------------------------------------

    def loss(self) -> Tensor:
        """The loss, 0-d."""
        return self._forward.loss.detach()

    def gradient(self) -> Tensor:
        """The gradient (n,). A clone: the kept one belongs to the graph."""
        return self._gradient.detach().clone()

    def loss_at(self, x: Tensor) -> Tensor:
        """The loss at another place on the rows that are on the device already: no graph, statistics untouched."""
        with torch.no_grad():
            return self._plain_loss(x)

    def hvp(self, v: Tensor) -> Tensor:
        """The Hessian times ``v`` (n,), by the problem's route."""
        if self._problem.route == "forward-over-reverse":
            # The statistics must advance whichever route is taken, even where a product is all that is asked here.
            _ = self._forward
            return torch.func.jvp(torch.func.grad(self._plain_loss), (self._x.detach(),), (v,))[1]
        return _backward(self._gradient, self._x, v)

    # -- outputs ----------------------------------------------------------------------------------------------------

    def outputs(self) -> Tensor:
        """The module's outputs, flattened (o,)."""
        return self._forward.outputs.detach().reshape(-1).clone()

    def output_gradient(self) -> Tensor:
        """dL/dphi, (o,)."""
        return self._output_side[1].detach().reshape(-1)

    def output_hvp(self, u: Tensor) -> Tensor:
        """(d2L/dphi2) u, (o,): the loss's own formula, or one more backward pass through the loss alone."""
        leaf, gradient = self._output_side
        u = u.reshape(leaf.shape)
        loss = self._problem.loss_function
        if isinstance(loss, Loss):
            product: Tensor = loss.hvp(leaf, self._targets, u)
            return product.reshape(-1)
        return _backward(gradient, leaf, u).reshape(-1)

    def jvp(self, v: Tensor) -> Tensor:
        """(dphi/dx) v, (o,): one forward-mode pass, with the module's buffers cloned."""

        def call(x: Tensor) -> Tensor:
            return self._problem.call(x, self._inputs, advance=False)

        return torch.func.jvp(call, (self._x.detach(),), (v,))[1].reshape(-1)

    def vjp(self, u: Tensor) -> Tensor:
        """(dphi/dx)^T u, (n,): one backward pass through the kept graph."""
        outputs = self._forward.outputs
        return _backward(outputs, self._x, u.reshape(outputs.shape))

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Tensor, int]:
        """dL/dphi (o,) for targets drawn from the predictions, and the number of rows."""
        loss = self._problem.loss_function
        known = loss if isinstance(loss, Loss) else None
        gradient, rows = sampled_output_gradient(known, self._forward.outputs.detach(), rng, likelihood)
        return gradient.reshape(-1), rows

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts]:
        """Factors of every ``Linear``, from one forward pass and one backward pass per output.

        Raises
        ------
        ValueError
            What :func:`linear_layers` refuses; a layer used twice or on inputs that are not (samples, fan_in); outputs
            that are not (samples, k); BatchNorm in train mode, where an output depends on other samples.
        """
        layers = linear_layers(self._problem.module)
        refuse_batch_norm(self._problem.module)
        with torch.enable_grad(), watched(layers) as seen:
            outputs = self._problem.call(self._x, self._inputs, advance=False)
        samples = self._inputs.shape[0]
        if outputs.ndim != 2 or len(outputs) != samples:
            raise ValueError(
                f"Kronecker factors need outputs ({samples}, k), the module returned {tuple(outputs.shape)}"
            )
        factors, passes = layer_factors(outputs, layers, seen, self.output_hvp)
        return factors, Counts(loss=1) + passes

    # -- computed once ----------------------------------------------------------------------------------------------

    @cached_property
    def _forward(self) -> _Forward:
        with torch.enable_grad():
            outputs = self._problem.call(self._x, self._inputs, advance=True)
            return _Forward(outputs, self._problem.loss_value(outputs, self._targets))

    @cached_property
    def _gradient(self) -> Tensor:
        # autograd.grad and not backward(create_graph=True): the latter stores into .grad a tensor that refers to its
        # own graph, and that cycle is never freed.
        kept = self._problem.route == "kept-graph"
        with torch.enable_grad():
            return torch.autograd.grad(self._forward.loss, self._x, retain_graph=True, create_graph=kept)[0]

    @cached_property
    def _output_side(self) -> tuple[Tensor, Tensor]:
        # The outputs as a leaf of their own, and dL/dphi.
        outputs = self._forward.outputs.detach()
        loss = self._problem.loss_function
        if isinstance(loss, Loss):
            return outputs, loss.gradient(outputs, self._targets)
        leaf = outputs.requires_grad_(True)
        with torch.enable_grad():
            value = self._problem.loss_value(leaf, self._targets)
            return leaf, torch.autograd.grad(value, leaf, create_graph=True)[0]

    def _plain_loss(self, x: Tensor) -> Tensor:
        outputs = self._problem.call(x, self._inputs, advance=False)
        return self._problem.loss_value(outputs, self._targets)


def _backward(value: Tensor, leaf: Tensor, u: Tensor) -> Tensor:
    """The derivative of ``value`` in ``leaf``, transposed, times ``u``; zero where value does not depend on leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf, requires_grad=False)
    found = torch.autograd.grad(value, leaf, u, retain_graph=True, allow_unused=True)[0]
    return torch.zeros_like(leaf, requires_grad=False) if found is None else found.detach()
