"""What several processes make together of their shares of a sample: one evaluation, and its Point.

This file needs Torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from refimpl.oracle import Counts, Evaluation, KroneckerFactors, Point
from refimpl.problems.losses import Loss
from refimpl.problems.sampled_targets import sampled_output_gradient
from refimpl.problems.torch_evaluation import TorchEvaluation

if TYPE_CHECKING:
    from refimpl.problems.data_parallel import DataParallelProblem


class Share(NamedTuple):
    """What this process does of a sample: its inputs and targets, the rows of all, and which of them are its own."""

    inputs: Tensor
    targets: Tensor
    rows: int
    own: slice

    @property
    def weight(self) -> float:
        """How much a mean over the own rows counts in the mean over all."""
        return (self.own.stop - self.own.start) / self.rows


class SharedEvaluation(Evaluation):
    """The evaluation of the own rows, and what the processes make of theirs together."""

    has_outputs: ClassVar[bool] = True

    def __init__(self, problem: DataParallelProblem, local: TorchEvaluation, share: Share) -> None:
        self._problem, self._local, self._share = problem, local, share

    def loss(self) -> Tensor:
        """The mean over all rows, 0-d."""
        return self._mean(self._local.loss())

    def gradient(self) -> Tensor:
        """The gradient (n,)."""
        return self._mean(self._local.gradient())

    def hvp(self, v: Tensor) -> Tensor:
        """The Hessian times ``v`` (n,)."""
        return self._mean(self._local.hvp(v))

    def ggnvp(self, v: Tensor) -> Tensor:
        """The Gauss–Newton matrix times ``v`` (n,): output space is never left, so there is one message."""
        return self._mean(self._local.vjp(self._local.output_hvp(self._local.jvp(v))))

    def outputs(self) -> Tensor:
        """The outputs of all rows, (o,)."""
        return self._gathered(self._local.outputs())

    def output_gradient(self) -> Tensor:
        """dL/dphi, (o,)."""
        return self._gathered(self._share.weight * self._local.output_gradient())

    def output_hvp(self, u: Tensor) -> Tensor:
        """(d2L/dphi2) u, (o,)."""
        return self._gathered(self._share.weight * self._local.output_hvp(self._of_own_rows(u)))

    def jvp(self, v: Tensor) -> Tensor:
        """(dphi/dx) v, (o,)."""
        return self._gathered(self._local.jvp(v))

    def vjp(self, u: Tensor) -> Tensor:
        """(dphi/dx)^T u, (n,)."""
        return self._problem.summed(self._local.vjp(self._of_own_rows(u)))

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Tensor, int]:
        """dL/dphi (o,) for targets of all rows, which every process draws alike; and the number of rows."""
        loss = self._problem.problem.loss_function
        shape = self._local._forward.outputs.shape[1:]
        outputs = self.outputs().reshape(self._share.rows, *shape)
        gradient, rows = sampled_output_gradient(loss if isinstance(loss, Loss) else None, outputs, rng, likelihood)
        return gradient.reshape(-1), rows

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts]:
        """The factors of all rows: both are means over rows, the second with the loss's own mean in it."""
        factors, cost = self._local.kronecker_factors()
        matrices = [matrix for pair in factors for matrix in pair]
        together = self._mean(torch.cat([matrix.reshape(-1) for matrix in matrices]))
        parts = together.split([matrix.numel() for matrix in matrices])
        whole = [part.view(matrix.shape) for part, matrix in zip(parts, matrices, strict=True)]
        return [KroneckerFactors(*pair) for pair in zip(whole[::2], whole[1::2], strict=True)], cost

    def _mean(self, value: Tensor) -> Tensor:
        return self._problem.summed(self._share.weight * value)

    def _gathered(self, part: Tensor) -> Tensor:
        # Parts of unequal length: zeros elsewhere, and a sum. Every communication library has that.
        whole = part.new_zeros(self._share.rows * self._width)
        whole[self._span] = part
        return self._problem.summed(whole)

    def _of_own_rows(self, u: Tensor) -> Tensor:
        return u[self._span]

    @property
    def _width(self) -> int:
        outputs, rows = self._local._forward.outputs, len(self._share.inputs)
        if outputs.ndim == 0 or len(outputs) != rows:
            raise ValueError(f"outputs must have one row per sample ({rows}), the module gave {tuple(outputs.shape)}")
        return outputs.numel() // rows

    @property
    def _span(self) -> slice:
        return slice(self._share.own.start * self._width, self._share.own.stop * self._width)


class SharedPoint(Point):
    """A Point whose Gauss–Newton product does not go through the outputs of all rows. It is counted as ever."""

    def ggnvp(self, v: Tensor) -> Tensor:
        """The generalized Gauss–Newton matrix times ``v``, (n,)."""
        self._check_vector("v", v)
        self._extra += Counts(jvp=1, vjp=1, ggnvp=1)
        assert isinstance(self._evaluation, SharedEvaluation)
        return self._evaluation.ggnvp(v)
