"""The minimizer of a quadratic model in the plane of two directions, from five inner products."""

from __future__ import annotations

from typing import Any

from refimpl.arrays import Array, dtype_name, namespace


def plane_minimizer(a11: Array, a12: Array, a22: Array, b1: Array, b2: Array) -> tuple[Array, Array]:
    """The (t1, t2) that solves A t = b, and so minimizes t·At/2 - t·b where A is positive definite.

    Parameters
    ----------
    a11, a12, a22 : entries of the symmetric A, each (...); with directions d1, d2 and a model matrix M they are
        d1·M d1, d1·M d2 and d2·M d2.
    b1, b2 : entries of b, each (...).

    Returns
    -------
    (Array, Array)
        t1 and t2, each (...).

    Notes
    -----
    A is divided by its diagonal first, so that the lengths of the directions do not matter: [[1, c], [c, 1]] where A is
    positive definite. Eigenvalues of that matrix below 1e-10 of the largest (1e-6 in float32) are left out: where the
    two directions are collinear, or one is zero, the answer is the best step in what they do span. A negative
    eigenvalue counts with its absolute value, which keeps the step a descent step where M is indefinite: the
    saddle-free rule inside the plane.

    No branch and no look at a value: a closed form of the 2 × 2 eigendecomposition.

    Source: CurveBall paper, eq. 18 and 25; the rules for singular and indefinite A are ours.

    >>> import numpy as np
    >>> [round(float(t), 12) for t in plane_minimizer(*np.asarray([2.0, 1.0, 2.0, 3.0, 3.0]))]
    [1.0, 1.0]
    >>> [round(float(t), 12) for t in plane_minimizer(*np.asarray([2.0, 0.0, 0.0, 3.0, 0.0]))]
    [1.5, 0.0]
    """
    xp = namespace(a11)
    # Numbers in `where`, not arrays of ones and zeros: on a CPU those would cost as much as all the rest.
    size1, size2 = (xp.sqrt(xp.where(a == 0, 1.0, xp.abs(a))) for a in (a11, a22))
    p11, p22, c = a11 / (size1 * size1), a22 / (size2 * size2), a12 / (size1 * size2)
    r1, r2 = b1 / size1, b2 / size2
    # The eigenvalues are middle ± radius, and the matrix is middle I + radius R with R² = I and no trace.
    middle, half = 0.5 * (p11 + p22), 0.5 * (p11 - p22)
    radius = xp.sqrt(half * half + c * c)
    tolerance = (1e-6 if dtype_name(c.dtype) == "float32" else 1e-10) * (xp.abs(middle) + radius)
    upper = _inverse_magnitude(xp, middle + radius, tolerance)
    lower = _inverse_magnitude(xp, middle - radius, tolerance)
    mean, tilt = 0.5 * (upper + lower), 0.5 * (upper - lower) / xp.where(radius == 0, 1.0, radius)
    t1 = mean * r1 + tilt * (half * r1 + c * r2)
    t2 = mean * r2 + tilt * (c * r1 - half * r2)
    return t1 / size1, t2 / size2


def _inverse_magnitude(xp: Any, eigenvalue: Array, tolerance: Array) -> Array:
    """1/|eigenvalue|, and 0 where that is at most ``tolerance`` (or not a number)."""
    size = xp.abs(eigenvalue)
    kept = size > tolerance
    return xp.where(kept, 1.0 / xp.where(kept, size, 1.0), 0.0)
