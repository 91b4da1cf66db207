"""The gradient in a network's outputs for targets drawn from its own predictions, whatever shape the outputs have."""

from __future__ import annotations

from math import prod
from typing import Any

from refimpl.arrays import Array, namespace
from refimpl.problems.likelihoods import LIKELIHOODS
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, Loss, SoftmaxCrossEntropy

_BY_LIKELIHOOD: dict[str, Loss] = {
    str(loss.likelihood): loss for loss in (SoftmaxCrossEntropy(), HalfMeanSquaredError(), BinaryCrossEntropy())
}


def sampled_output_gradient(
    loss: Loss | None, outputs: Array, rng: Any, likelihood: str | None = None
) -> tuple[Array, int]:
    """dL/dphi of the mean loss for drawn targets, of the shape of the outputs, and the number of rows N of the mean.

    Parameters
    ----------
    loss : one of :mod:`refimpl.problems.losses`, which knows its likelihood, or None for any other function.
    outputs : as the loss wants them; without a loss, logits or means on the last axis, and every other axis counts
        rows (for ``"gaussian"`` and ``"bernoulli"``, outputs with one axis are rows of one output each).
    rng : a NumPy Generator.
    likelihood : one of ``LIKELIHOODS``, where the loss does not tell it.

    Raises
    ------
    ValueError
        No likelihood, one that is not known, another one than that of the loss; one class alone.
    """
    if likelihood is not None and likelihood not in list(LIKELIHOODS):
        raise ValueError(f"unknown likelihood {likelihood!r}; choose one of {list(LIKELIHOODS)}")
    known = None if loss is None else loss.likelihood
    if known is not None and likelihood not in (None, known):
        raise ValueError(f"{type(loss).__name__} has the likelihood {known!r}, got {likelihood!r}; leave it out")
    if loss is not None and known is not None:
        axes = loss.output_axes
        gradient = loss.gradient(outputs, loss.sample(outputs, rng))
        return gradient, prod(tuple(outputs.shape)[-axes:-1])
    if likelihood is None:
        raise ValueError(
            f"the loss is a function that does not tell what it is the likelihood of: name one of {list(LIKELIHOODS)} "
            "(likelihood='categorical' for cross-entropy on logits), or use estimator='hutchinson'"
        )
    shape = tuple(outputs.shape)
    width = shape[-1] if len(shape) > 1 or (shape and likelihood == "categorical") else 1
    if likelihood == "categorical" and width < 2:
        raise ValueError(f"categorical needs two logits or more on the last axis, got outputs of shape {shape}")
    table = namespace(outputs).reshape(outputs, (-1, width))
    gradient, rows = sampled_output_gradient(_BY_LIKELIHOOD[likelihood], table, rng)
    return namespace(outputs).reshape(gradient, shape), rows
