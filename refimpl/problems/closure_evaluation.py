"""The derivatives of the loss that a closure returned: one graph, kept, and what each product does with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from refimpl.oracle import Counts, Evaluation, KroneckerFactors
from refimpl.problems.layer_factors import layer_factors
from refimpl.problems.sampled_targets import sampled_output_gradient


class ClosureEvaluation(Evaluation):
    """A loss with its graph, at the parameters that are in place. Everything returned is detached.

    Cost of a product in gradients: about 2, and one more gradient for the first where ``hessian`` was false.
    """

    def __init__(self, parameters: list[Tensor], loss: Tensor, outputs: Tensor | None, hessian: bool) -> None:
        self._parameters = parameters
        self._loss = loss
        self._outputs = outputs
        self._hessian = hessian

    def loss(self) -> Tensor:
        """The loss, 0-d."""
        return self._loss.detach().clone()

    def gradient(self) -> Tensor:
        """The gradient (n,); zero in parameters that the loss does not use."""
        found = self._gradients if self._hessian else self._differentiated(False)
        return flattened(
            [torch.zeros_like(p) if g is None else g.detach() for g, p in zip(found, self._parameters, strict=True)]
        )

    def hvp(self, v: Tensor) -> Tensor:
        """The Hessian times ``v`` (n,): one more backward pass."""
        return flattened(_pull_back(self._gradients, self._parameters, parts_of(v, self._parameters)))

    @cached_property
    def _gradients(self) -> Sequence[Tensor | None]:
        return self._differentiated(True)

    def _differentiated(self, create_graph: bool) -> Sequence[Tensor | None]:
        # autograd.grad and not backward(create_graph=True), whose .grad is a cycle that is never freed.
        with torch.enable_grad():
            found = torch.autograd.grad(
                self._loss, self._parameters, retain_graph=True, create_graph=create_graph, allow_unused=True
            )
        if all(gradient is None for gradient in found):
            raise ValueError("the closure's loss depends on none of the parameters; is it computed by another module?")
        return found


class ClosureOutputs(ClosureEvaluation):
    """The same with outputs of any shape, flattened to (o,).

    Cost in gradients: vjp one backward pass, about 2/3; jvp two backward passes, one of them kept for later ones.
    """

    has_outputs: ClassVar[bool] = True

    def outputs(self) -> Tensor:
        """The outputs, (o,)."""
        return self._phi.detach().reshape(-1).clone()

    def output_gradient(self) -> Tensor:
        """dL/dphi, (o,)."""
        return self._output_gradient.detach().reshape(-1).clone()

    def output_hvp(self, u: Tensor) -> Tensor:
        """(d2L/dphi2) u, (o,): one backward pass through the loss alone; zero where that is linear."""
        (product,) = _pull_back([self._output_gradient], [self._phi], [u.reshape(self._phi.shape)])
        return product.reshape(-1)

    def jvp(self, v: Tensor) -> Tensor:
        """(dphi/dx) v, (o,): the derivative of the vjp, which is linear, in its vector."""
        direction, pulled = self._transposed
        (product,) = _pull_back(pulled, [direction], parts_of(v, self._parameters))
        return product.reshape(-1)

    def vjp(self, u: Tensor) -> Tensor:
        """(dphi/dx)^T u, (n,): one backward pass."""
        return flattened(_pull_back([self._phi], self._parameters, [u.reshape(self._phi.shape)]))

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Tensor, int]:
        """dL/dphi (o,) for targets drawn from the predictions, and the number of rows; the likelihood must be named."""
        gradient, rows = sampled_output_gradient(None, self._phi.detach(), rng, likelihood)
        return gradient.reshape(-1), rows

    @property
    def _phi(self) -> Tensor:
        assert self._outputs is not None
        return self._outputs

    @cached_property
    def _output_gradient(self) -> Tensor:
        with torch.enable_grad():
            (found,) = torch.autograd.grad(self._loss, self._phi, create_graph=True, allow_unused=True)
        if found is None:
            raise ValueError(
                "the loss was not computed from the outputs that the closure returned; return the very tensor that the "
                "loss was computed from, not a view or a copy of it"
            )
        return found

    @cached_property
    def _transposed(self) -> tuple[Tensor, Sequence[Tensor | None]]:
        # Source: the two reverse passes of forward mode, known as the double-backward trick.
        direction = torch.zeros_like(self._phi, requires_grad=True)
        with torch.enable_grad():
            pulled = torch.autograd.grad(self._phi, self._parameters, direction, create_graph=True, allow_unused=True)
        return direction, pulled


class ClosureLayers(ClosureOutputs):
    """The same with what went through the ``Linear`` layers: ``layers`` by name, ``seen`` (input, output) per call."""

    def __init__(
        self,
        parameters: list[Tensor],
        loss: Tensor,
        outputs: Tensor,
        hessian: bool,
        layers: Mapping[str, nn.Linear],
        seen: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
    ) -> None:
        super().__init__(parameters, loss, outputs, hessian)
        self._layers = layers
        self._seen = seen

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts]:
        """Factors of every layer, from one backward pass per output: the forward pass has been watched."""
        return layer_factors(self._phi, self._layers, self._seen, self.output_hvp)


def _pull_back(values: Sequence[Tensor | None], inputs: Sequence[Tensor], vectors: Sequence[Tensor]) -> list[Tensor]:
    """The derivative of ``values`` in ``inputs``, transposed, times ``vectors``; zero where nothing depends."""
    pairs = [(value, u) for value, u in zip(values, vectors, strict=True) if value is not None and value.requires_grad]
    if not pairs:
        return [torch.zeros_like(tensor) for tensor in inputs]
    tensors, directions = zip(*pairs, strict=True)
    found = torch.autograd.grad(tensors, inputs, directions, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if f is None else f.detach() for f, t in zip(found, inputs, strict=True)]


def parts_of(x: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """``x`` (n,) cut into views of the shapes of ``like``."""
    return [part.reshape(t.shape) for part, t in zip(torch.split(x, [t.numel() for t in like]), like, strict=True)]


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """One after the other, (n,), in new memory."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
