"""Constants L_i for cubic bounds along eigenvectors: which numbers make the sum of majorizers an upper bound.

For a loss f with three derivatives and any orthonormal v_1, ..., v_n,

    |f(x + d) - f(x) - g·d - d·Hd/2| <= sum_i L_i |v_i·d|^3/6

holds with L_i = sum_jk sup |T(v_i, v_j, v_k)| (:func:`row_sum`), where T is the third derivative and the supremum runs
over the segment, and with L_i = sqrt(n) L_H (:func:`uniform`), L_H the usual Lipschitz constant of the Hessian.
It does not hold with the slopes of the eigenvalues |T(v_i, v_i, v_i)| (:func:`own_direction`), nor with L_i = L_H.

Source: ours. The ELMO paper's lemma 3.1 has the slopes, under its assumption 2, which few but separable losses meet.
"""

from __future__ import annotations

from refimpl.arrays import Array, backend_of, check_array, check_count, check_positive, namespace


def row_sum(third: Array, vectors: Array) -> Array:
    """sum_jk |T(v_i, v_j, v_k)|, (n,): a valid L_i where T is the third derivative all along the step.

    Parameters
    ----------
    third : T, (n, n, n), symmetric in all indices.
    vectors : V, (n, n), one v_i per column.

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Notes
    -----
    Equality holds for x^2 y at x = y and for xyz at x = y = z: the sum cannot be made smaller in general. Cost: O(n^4).

    Source: ours, by |a b c| <= (a^3 + b^3 + c^3)/3.

    >>> import numpy as np
    >>> third = np.zeros((2, 2, 2))
    >>> third[0, 0, 1] = third[0, 1, 0] = third[1, 0, 0] = 2.0  # of x^2 y
    >>> row_sum(third, np.eye(2)).tolist()
    [4.0, 2.0]
    """
    xp = namespace(third)
    return xp.sum(xp.abs(rotated(third, vectors)), axis=(-2, -1))


def row_sum_bound(supremum: Array, vectors: Array) -> Array:
    """A bound of :func:`row_sum` for all T whose entries have magnitudes of at most ``supremum``, (n,)."""
    return row_sum(supremum, namespace(vectors).abs(vectors))


def own_direction(third: Array, vectors: Array) -> Array:
    """|T(v_i, v_i, v_i)|, (n,): how fast the curvature along v_i changes along v_i. No valid L_i unless f is separable.

    Source: what the ELMO paper's assumption 2 bounds.
    """
    xp = namespace(third)
    turned = rotated(third, vectors)
    return xp.stack([xp.abs(turned[i, i, i]) for i in range(turned.shape[0])])


def separable(directions: Array, slopes: Array, vectors: Array) -> Array:
    """A valid L_i, (n,), for f = sum_a phi_a(q_a·x): sum_a l_a A_ai (sum_j A_aj)^2 with A = |Q^T V|.

    Parameters
    ----------
    directions : Q, (n, m), one q_a per column.
    slopes : l, (m,), bounds of |phi_a'''|.
    vectors : V, (n, n).

    Raises
    ------
    ValueError
        Shapes that do not fit.

    Notes
    -----
    Where V = Q, L_i = l_i. It bounds the row sum of every T = sum_a t_a q_a q_a q_a with |t_a| <= l_a, at a cost of
    O(n^2 m) in place of O(n^4).
    """
    n = _check_vectors(vectors)
    if getattr(directions, "ndim", 0) != 2 or directions.shape[0] != n or slopes.shape != directions.shape[1:]:
        raise ValueError(f"directions must have shape ({n}, m) and slopes (m,), got {_shapes(directions, slopes)}")
    xp = namespace(vectors)
    overlap = xp.abs(xp.matmul(xp.matrix_transpose(directions), vectors))
    total = xp.sum(overlap, axis=-1)
    return xp.matmul(slopes * total * total, overlap)


def uniform(constant: float, n: int) -> float:
    """sqrt(n) L_H, a valid L_i for every orthonormal basis of n directions where the Hessian is L_H-Lipschitz.

    Source: |d|^3 <= sqrt(n) sum_i |v_i·d|^3, in place of the n^2 of the ELMO paper's first proof of lemma 3.1.

    >>> uniform(1.0, 9)
    3.0
    """
    return check_positive("constant", constant, zero_allowed=True) * float(check_count("n", n)) ** 0.5


def rotated(third: Array, vectors: Array) -> Array:
    """T(v_i, v_j, v_k), (n, n, n)."""
    n = _check_vectors(vectors)
    if tuple(getattr(third, "shape", ())) != (n, n, n):
        raise ValueError(f"third must have shape {(n, n, n)}, got {_shapes(third)[0]}")
    xp = namespace(third, vectors)
    turned = third
    for _ in range(3):  # contract the last index, and bring the result to the front
        turned = xp.permute_dims(xp.matmul(turned, vectors), (2, 0, 1))
    return turned


def _check_vectors(vectors: Array) -> int:
    shape = tuple(getattr(vectors, "shape", ()))
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"vectors must have shape (n, n), one eigenvector per column, got {shape}")
    check_array("vectors", vectors[:, 0], backend_of(vectors), shape[0])
    return int(shape[0])


def _shapes(*arrays: Array) -> list[tuple[int, ...]]:
    return [tuple(getattr(a, "shape", ())) for a in arrays]
