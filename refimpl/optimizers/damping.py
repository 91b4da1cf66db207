"""What adaptive methods share: the best multiple of two directions, and the damping that follows the model's luck.

Both are written for arrays of any shape (...), one entry per run, without a look at their values.
"""

from __future__ import annotations

from refimpl.arrays import Array, machine_epsilon, namespace


def learning_rate_and_momentum(
    u_a_u: Array, u_a_d: Array, d_a_d: Array, gradient_u: Array, gradient_d: Array
) -> tuple[Array, Array]:
    """The learning rate eta and momentum mu for which eta u + mu d lowers the model -g·s + s·As/2 the most.

    They solve [[u·Au, u·Ad], [u·Ad, d·Ad]] (eta, mu) = (g·u, g·d). The step is *subtracted* from x: u is the
    preconditioned gradient and d the step that was last subtracted.

    Parameters
    ----------
    u_a_u, u_a_d, d_a_d : u·Au, u·Ad, d·Ad, each (...).
    gradient_u, gradient_d : g·u, g·d, each (...).

    Returns
    -------
    (Array, Array)
        eta and mu, each (...). Where the 2 × 2 matrix is not positive definite (its determinant is at most 1e-12
        of the product of its diagonal, or a few ulp in float32), and so without a previous step, the best multiple
        of u alone: eta = g·u / u·Au, mu = 0. Where u·Au is not positive either: eta = 1, mu = 0.

    Notes
    -----
    If A is the very matrix that preconditioned u = A^{-1} g, the answer is (1, 0) whatever d is, because the first
    column of the matrix then equals the right-hand side. Only an A that differs from the preconditioner teaches
    anything.

    Source: Martens & Grosse (2015), sec. 7; eq. 7 of the series paper with Delta = -u, with guards.

    >>> import numpy as np
    >>> one = np.asarray(1.0)
    >>> [float(a) for a in learning_rate_and_momentum(2 * one, one, 2 * one, 3 * one, 3 * one)]
    [1.0, 1.0]
    """
    xp = namespace(u_a_u)
    one, zero = xp.ones_like(u_a_u), xp.zeros_like(u_a_u)
    convex_u, convex_d = u_a_u > 0, d_a_d > 0
    # Divided by its diagonal, the matrix is [[1, c], [c, 1]]: no product of two squares that could overflow.
    u_length = xp.sqrt(xp.where(convex_u, u_a_u, one))
    d_length = xp.sqrt(xp.where(convex_d, d_a_d, one))
    cosine = u_a_d / (u_length * d_length)
    determinant = 1.0 - cosine * cosine
    solvable = convex_u & convex_d & (determinant > max(1e-12, 4 * machine_epsilon(u_a_u)))
    safe = xp.where(solvable, determinant, one)
    along_u, along_d = gradient_u / u_length, gradient_d / d_length
    both = (along_u - cosine * along_d) / (safe * u_length)
    momentum = (along_d - cosine * along_u) / (safe * d_length)
    alone = xp.where(convex_u, along_u / u_length, one)
    return xp.where(solvable, both, alone), xp.where(solvable, momentum, zero)


def adapt_damping(
    damping: Array, ratio: Array, *, omega: float = 0.9, minimum: float = 1e-8, maximum: float = 1e8
) -> Array:
    """Levenberg–Marquardt's rule: less damping where the model was right, more where it was wrong.

    ratio > 3/4: damping·omega; ratio < 1/4: damping/omega; otherwise, and for a ratio of NaN, unchanged. Both
    comparisons are strict. Then into [minimum, maximum].

    Parameters
    ----------
    damping, ratio : (...). The ratio is actual over predicted change of the loss, both negative when all is well.
    omega : factor in (0, 1).
    minimum, maximum : bounds of the damping.

    Source: Martens & Grosse (2015), sec. 6.5; eq. 8 of the series paper. (A ratio far *above* one lowers the damping.)

    >>> import numpy as np
    >>> adapt_damping(np.ones(3), np.array([0.8, 0.5, 0.2]), omega=0.5).tolist()
    [0.5, 1.0, 2.0]
    """
    xp = namespace(damping)
    adapted = xp.where(ratio > 0.75, omega * damping, xp.where(ratio < 0.25, damping / omega, damping))
    return xp.clip(adapted, min=minimum, max=maximum)
