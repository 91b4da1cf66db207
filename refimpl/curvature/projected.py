"""The saddle-free step inside a Krylov space, and how far it is from the true one.

One run at a time; coordinates are NumPy float64 on the host, as in :mod:`refimpl.curvature.subspace`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from refimpl.arrays import Array, check_count, check_positive, host_numbers, namespace, norm
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.operators import CountingMatvec, Matvec, check_vector, dense
from refimpl.curvature.spectrum import apply, eigen, inverse_magnitudes
from refimpl.curvature.subspace import Subspace, of_lanczos


class ProjectedStep(NamedTuple):
    """s = -|g| Q^T |T|^{-1} e_1.

    coordinates : of s in the basis, (m,), NumPy float64.

    ritz_values : eigenvalues of T, ascending, (m,), NumPy float64.
    """

    coordinates: Array
    ritz_values: Array


class Reconstruction(NamedTuple):
    """How well the first m Krylov vectors carry z* = -|H|^{-1} g, for m = 1, 2, …, each (m,), NumPy float64.

    best : least possible |z* - z|/|z*| over z in the space: never rises with m.

    used : |z* - s|/|z*| for the projected step s, which is what a method takes: may rise with m.

    cosine : of the angle between s and z*.

    change : |s_m - s_{m-1}|/|s_m| with s_0 = 0, all that is known where |H| is not.
    """

    best: Array
    used: Array
    cosine: Array
    change: Array


def projected_step(
    space: Subspace, gradient_norm: float, *, clip_absolute: float = 1e-8, clip_relative: float = 1e-6
) -> ProjectedStep:
    """The saddle-free step in the Krylov space of (H, g) whose first basis vector is g/|g|.

    Every |Ritz value| below max(clip_absolute, clip_relative · the largest) counts as that. A small Ritz value is often
    none of H's eigenvalues, and unclipped it turns the whole step to its vector.

    Raises a ValueError for a space without rows, or clips that are negative. Cost: no products.

    Source: KryBall thesis, eqs. 4.7–4.12. There (H_M)^{-1} is applied to q_0, a vector of N numbers, where e_1 is meant
    (Q_M q_0 = e_1), and |g| is left out: without it s is a direction, not the saddle-free step.

    >>> import numpy as np
    >>> space = Subspace(np.eye(2), np.diag([2.0, -4.0]))
    >>> projected_step(space, 3.0).coordinates.tolist()
    [-1.5, -0.0]
    """
    absolute = check_positive("clip_absolute", clip_absolute, zero_allowed=True)
    relative = check_positive("clip_relative", clip_relative, zero_allowed=True)
    if space.basis.shape[0] == 0:
        raise ValueError("the space has no rows: its gradient is zero or not finite")
    xp = namespace(space.matrix)
    ritz, vectors = xp.linalg.eigh(space.matrix)
    sizes = xp.abs(ritz)
    sizes = xp.clip(sizes, min=max(absolute, relative * float(xp.max(sizes)), 1e-300))
    return ProjectedStep(vectors @ (vectors[0, :] / sizes) * -gradient_norm, ritz)


def reconstruction(matvec: Matvec, gradient: Array, steps: int, *, clip_relative: float = 0.0) -> Reconstruction:
    """How the projected step approaches the true saddle-free step as the Krylov space grows.

    Parameters
    ----------
    matvec : v -> H v, (n,) -> (n,); H small enough to be built.
    gradient : g, (n,), not zero.
    steps : the largest m; fewer where the space is exhausted.
    clip_relative : as in :func:`projected_step`.

    Raises
    ------
    ValueError
        A gradient that is zero or not a finite floating array; ``steps`` below 1.

    Notes
    -----
    An eigenvalue of zero is left out of |H|^{-1} (pseudo-inverse). Cost: n + m products.

    Source: KryBall thesis, eqs. 5.5–5.12. Its linear system M alpha = -1 with M_ik = |lam_i| lam_i^k is a Vandermonde
    system, hopeless from m = 20 on, and its least squares solution minimizes another norm than that of eq. 5.5; the
    orthonormal basis used here gives the minimum of eq. 5.5 itself.

    >>> import numpy as np
    >>> found = reconstruction(lambda v: v * np.asarray([1.0, -2.0, 3.0]), np.ones(3), 3)
    >>> bool(np.all(np.diff(found.best) < 0)), found.used.round(12)[-1] + 0.0
    (True, np.float64(0.0))
    """
    check_vector("gradient", gradient)
    check_count("steps", steps)
    size = float(norm(gradient)) if gradient.ndim == 1 else 0.0
    if size == 0:
        raise ValueError(f"gradient must be (n,) and not zero, got {gradient!r}")
    spectrum = eigen(dense(CountingMatvec(matvec), gradient))
    true = -apply(spectrum, inverse_magnitudes(spectrum.eigenvalues), gradient)
    whole = of_lanczos(lanczos(matvec, gradient, steps))
    exact = whole.coordinates(true)
    length = float(norm(true))
    outside = float(norm(true - whole.combine(exact)))
    rows: list[tuple[float, float, float, float]] = []
    before = [0.0] * whole.basis.shape[0]
    for m in range(1, whole.basis.shape[0] + 1):
        part = Subspace(whole.basis[:m, :], whole.matrix[:m, :m])
        step = projected_step(part, size, clip_absolute=0.0, clip_relative=clip_relative).coordinates.tolist()
        step += [0.0] * (len(before) - m)
        gap = math.hypot(outside, *(z - s for z, s in zip(exact.tolist(), step, strict=True)))
        missing = math.hypot(outside, *exact.tolist()[m:])
        own = math.hypot(*step)
        inner = sum(z * s for z, s in zip(exact.tolist(), step, strict=True))
        moved = math.hypot(*(s - b for s, b in zip(step, before, strict=True)))
        rows.append((missing / length, gap / length, inner / (own * length), moved / own))
        before = step
    return Reconstruction(*(host_numbers("reconstruction", column) for column in zip(*rows, strict=True)))
