"""Layers of a fully connected network: their matrices in a flat vector, and their Kronecker factors.

A layer is one matrix [weight | bias] of shape (..., fan_out, fan_in + 1), as in :mod:`refimpl.problems.mlp_evaluation`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from refimpl.arrays import Array, Backend, check_array, namespace


def split_layers(augmented: Array, widths: Sequence[int]) -> list[Array]:
    """Cut (..., n), where one layer's matrix follows the other row by row, into (..., fan_out, fan_in + 1)."""
    xp, lead, matrices, start = namespace(augmented), tuple(augmented.shape[:-1]), [], 0
    for fan_in, fan_out in pairwise(widths):
        end = start + (fan_in + 1) * fan_out
        matrices.append(xp.reshape(augmented[..., start:end], (*lead, fan_out, fan_in + 1)))
        start = end
    return matrices


def join_layers(matrices: Sequence[Array]) -> Array:
    """The inverse of :func:`split_layers`: (..., n)."""
    xp = namespace(matrices[0])
    flat = [xp.reshape(matrix, (*matrix.shape[:-2], math.prod(matrix.shape[-2:]))) for matrix in matrices]
    return xp.concat(flat, axis=-1)


def check_layers(layers: Sequence[Array], shapes: Sequence[tuple[int, int]], backend: Backend) -> None:
    """A ValueError unless ``layers`` are matrices of these ``shapes``, with the same leading axes."""
    if not isinstance(layers, Sequence) or len(layers) != len(shapes):
        count = len(layers) if isinstance(layers, Sequence) else type(layers).__name__
        raise ValueError(f"layers must be a list of {len(shapes)} matrices, got {count}")
    batches = []
    for i, (layer, shape) in enumerate(zip(layers, shapes, strict=True)):
        check_array(f"layer {i}", layer, backend)
        if tuple(layer.shape[-2:]) != shape:
            raise ValueError(f"layer {i} must have shape (..., {shape[0]}, {shape[1]}), got {tuple(layer.shape)}")
        batches.append(tuple(layer.shape[:-2]))
    if len(set(batches)) > 1:
        raise ValueError(f"all layers must have the same leading axes, got {batches}")


def input_factor(below: Array) -> Array:
    """A, the mean over samples of a a^T, where ``below`` (..., fan_in + 1, samples) holds a, its row of ones last."""
    return below @ namespace(below).matrix_transpose(below) / below.shape[-1]


def output_factor(deltas: Array, curvature: Array) -> Array:
    """S, the sum over samples of B^T C B, where B = dphi/dz of a layer and C = d2L/dphi2, both of one sample.

    Parameters
    ----------
    deltas : B^T, (..., fan_out, k, samples): entry (i, c) is the derivative of output c in z_i.
    curvature : C, (..., k, k, samples), symmetric, with the loss's 1/samples inside.

    Returns
    -------
    Array
        (..., fan_out, fan_out), symmetric. No square root of C is needed: the k derivatives are contracted with C.
    """
    xp = namespace(deltas)
    curved = xp.zeros_like(deltas)
    for c in range(deltas.shape[-2]):  # one output at a time: no array of fan_out x k x k x samples
        curved = curved + deltas[..., :, c : c + 1, :] * curvature[..., c : c + 1, :, :]
    shape = (*deltas.shape[:-2], deltas.shape[-2] * deltas.shape[-1])
    factor = xp.reshape(curved, shape) @ xp.matrix_transpose(xp.reshape(deltas, shape))
    return 0.5 * (factor + xp.matrix_transpose(factor))
