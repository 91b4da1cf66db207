"""What an oracle's answers cost, and the factors that K-FAC asks it for: two small tuples below everything else."""

from __future__ import annotations

from typing import NamedTuple

from refimpl.arrays import Array

__all__ = ["Counts", "KroneckerFactors"]


class Counts(NamedTuple):
    """How often each quantity was evaluated. Counts add up along a run.

    ``loss`` counts forward passes that were not part of a gradient: a gradient evaluation includes the loss at the
    same point. A dense Hessian counts as n products, whatever the route. ``ggnvp`` is kept for information: each
    one is a ``jvp`` and a ``vjp``, which are counted as well. Kronecker factors count as one ``vjp`` per output of
    the network.

    >>> (Counts(gradient=1) + Counts(loss=3, hvp=2)).work
    6.0
    """

    loss: int = 0
    gradient: int = 0
    hvp: int = 0
    jvp: int = 0
    vjp: int = 0
    ggnvp: int = 0

    def __add__(self, other: tuple[int, ...]) -> Counts:  # type: ignore[override]
        return Counts(*(a + b for a, b in zip(self, other, strict=True)))

    def labelled(self) -> dict[str, int]:
        """The counts under the names a trace uses: ``gradient_count`` and so on."""
        return {f"{key}_count": value for key, value in self._asdict().items()}

    @property
    def work(self) -> float:
        """Work in gradient evaluations: loss 1/3, gradient 1, hvp 2, jvp and vjp 2/3 each.

        These are the ratios of multiply-adds in a network of dense or convolutional layers when what depends only
        on the point is kept (Griewank & Walther 2008, ch. 3 and 4; chapter 2 of the book measures them).
        """
        return self.loss / 3 + self.gradient + 2 * self.hvp + 2 * (self.jvp + self.vjp) / 3


class KroneckerFactors(NamedTuple):
    """One layer's block of the Gauss–Newton matrix as a Kronecker product of two small matrices.

    A layer computes z = W a with W = [weight | bias] and a = [activations below; 1].

    inputs : A, the mean over samples of a a^T, (..., fan_in + 1, fan_in + 1).

    outputs : S, the sum over samples of (dphi/dz)^T (d2L/dphi2) dphi/dz, (..., fan_out, fan_out). The mean of the
    loss is inside d2L/dphi2: S needs no further 1/samples.

    S ⊗ A, with the entries of W row by row, is the block itself for one sample, or where a is the same for all
    samples; otherwise it neglects how the two vary together.

    Source: Martens & Grosse (2015), sec. 3, with the exact matrix for the expectation over sampled targets.
    """

    inputs: Array
    outputs: Array
