"""Targets drawn from what a network predicts: the distribution whose negative logarithm a loss is.

Random numbers come from a NumPy Generator in float64 and are the same for every run of a batch, so that many runs in
one program take the same draws as one after the other.
"""

from __future__ import annotations

from typing import Any

from refimpl.arrays import Array, backend_of, namespace

LIKELIHOODS = ("categorical", "gaussian", "bernoulli")
"""Names of the distributions: labels from logits, the output plus standard normal noise, yes or no from logits."""


def draw_targets(likelihood: str, outputs: Array, rng: Any, axes: int = 2) -> Array:
    """Targets drawn from the predictions ``outputs``, of which the last ``axes`` axes are (rows ..., k).

    Parameters
    ----------
    likelihood : ``"categorical"`` (whole numbers, the last axis holds logits), ``"gaussian"`` (mean ``outputs``, unit
        variance) or ``"bernoulli"`` (0 or 1 for every logit).
    rng : a NumPy Generator.

    Returns
    -------
    Array
        Shape of the outputs; for ``"categorical"`` without the last axis.

    Raises
    ------
    ValueError
        Another likelihood.

    Notes
    -----
    Categories by inverting their distribution function: one uniform number per row. NaN among the logits gives the
    label 0.
    """
    xp, backend, shape = namespace(outputs), backend_of(outputs), tuple(outputs.shape)[-axes:]
    if likelihood == "gaussian":
        return outputs + backend.normal(rng, shape)
    if likelihood == "bernoulli":
        uniform = backend.uniform(rng, 0.0, 1.0, shape)
        # u < sigmoid(z), without an exponential that overflows.
        return xp.astype(outputs > xp.log(uniform) - xp.log1p(-uniform), outputs.dtype)
    if likelihood != "categorical":
        raise ValueError(f"unknown likelihood {likelihood!r}; choose one of {list(LIKELIHOODS)}")
    weights = xp.exp(outputs - xp.max(outputs, axis=-1, keepdims=True))
    cumulative = xp.cumulative_sum(weights, axis=-1)
    uniform = backend.uniform(rng, 0.0, 1.0, (*shape[:-1], 1))
    passed = xp.astype(cumulative <= uniform * cumulative[..., -1:], xp.int64)
    # In float32 a uniform number may round to 1.
    return xp.clip(xp.sum(passed, axis=-1), max=outputs.shape[-1] - 1)
