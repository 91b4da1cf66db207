"""Accelerators that are formulas in the last rows of a sequence: for :mod:`refimpl.curvature.acceleration`.

``rows`` are L rows (..., n) in the order of the sequence, ``start`` is the index of the first; nobody checks their
number here, because :func:`refimpl.curvature.acceleration.accelerator` did. The result is (..., n), and may be not
finite: the caller has an answer for that.
"""

from __future__ import annotations

import math

from refimpl.arrays import Array, dot, namespace


def levin(rows: list[Array], start: int, *, shared: bool) -> Array:
    """Levin's t of order L - 2: sum_j w_j s_{n+j} / sum_j w_j with remainders R_{n+j} = s_{n+j+1} - s_{n+j}.

    With ``shared`` all columns have the weights of the largest component of R, else each has its own.

    Source: Levin (1972), the closed form of his t transformation.
    """
    xp, order, n = namespace(rows[0]), len(rows) - 2, max(start, 1)
    total, weights = 0.0 * rows[0], 0.0 * rows[0]
    still, answer = weights != 0, rows[-1]
    for j in range(order + 1):
        factor = (-1) ** j * math.comb(order, j) * ((n + j) / (n + order)) ** (order - 1)
        remainder = rows[j + 1] - rows[j]
        if shared:
            remainder = _largest(remainder)[..., None]
        usable = remainder != 0
        weight = xp.where(usable, factor / xp.where(usable, remainder, xp.ones_like(remainder)), 0.0 * remainder)
        total, weights = total + weight * rows[j], weights + weight
        # A remainder of zero has all the weight: the sequence stands still there.
        still, answer = still | ~usable, xp.where(usable, answer, rows[j])
    usable = (weights != 0) & ~still
    return xp.where(usable, total / xp.where(usable, weights, xp.ones_like(weights)), answer)


def three_terms(rows: list[Array], *, hybrid: bool) -> Array:
    """The "Padé" of the released code, on three rows: Aitken's rule for vectors.

    Its factor has products with the later of the two differences (``hybrid``) or with the earlier one.

    Source: the released code of the series paper.
    """
    xp, (s0, s1, s2) = namespace(rows[0]), rows
    d0, d1 = s1 - s0, s2 - s1
    bend, pull = (d1, d1) if hybrid else (d0, d0)
    denominator, numerator = dot(bend, d1 - d0), dot(d0, pull)
    usable = denominator != 0
    factor = numerator / xp.where(usable, denominator, xp.ones_like(denominator))
    return xp.where(usable[..., None], s1 - factor[..., None] * d1, s2)


def d2(rows: list[Array], start: int) -> Array:
    """Weights with sum 1 that annihilate L - 3 = 2N model remainders n^(q-p) ∇^q s_n, by their largest components.

    Source: Osada (1996).
    """
    xp, size = namespace(rows[0]), len(rows) - 2
    n = start + 2
    equations = [[xp.ones_like(rows[0][..., 0])] * size]
    for i in range(1, size):
        q, p = (i % 2, i // 2) if i % 2 else (2, i // 2 - 1)
        equation = []
        for j in range(size):
            a, b, c = rows[j + 2], rows[j + 1], rows[j]
            backward = a - b if q == 1 else a - 2.0 * b + c
            equation.append(float(n + j) ** (q - p) * _largest(backward))
        equations.append(equation)
    matrix = xp.stack([xp.stack(equation, axis=-1) for equation in equations], axis=-2)
    scales = xp.max(xp.abs(matrix), axis=-1, keepdims=True)
    matrix = matrix / xp.where(scales > 0, scales, xp.ones_like(scales))
    right = xp.zeros_like(matrix[..., 0])
    right[..., 0] = 1.0
    # The pseudo-inverse, because these systems may be singular to rounding; some libraries raise on NaN.
    sound = xp.all(xp.all(xp.isfinite(matrix), axis=-1), axis=-1)[..., None, None]
    matrix = xp.where(sound, matrix, xp.zeros_like(matrix))
    weights = xp.matmul(xp.linalg.pinv(matrix), right[..., None])[..., 0]
    total = 0.0 * rows[0]
    for j in range(size):
        total = total + weights[..., j][..., None] * rows[j + 2]
    return xp.where(sound[..., 0], total, rows[-1])


def _largest(vector: Array) -> Array:
    # The component of largest magnitude, with its sign: (..., n) -> (...).
    xp = namespace(vector)
    high, low = xp.max(vector, axis=-1), xp.min(vector, axis=-1)
    return xp.where(high >= -low, high, low)
