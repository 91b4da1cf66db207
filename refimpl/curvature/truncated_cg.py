"""Conjugate gradients as the inner solver of a Newton method: warm start, early stop, negative curvature."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from refimpl.arrays import Array, check_count, dot, machine_epsilon, namespace, norm
from refimpl.curvature.operators import Matvec, check_vector

Stopping = Literal["residual", "progress", "never"]


class TruncatedSolution(NamedTuple):
    """What :func:`truncated_cg` found.

    x : z, (..., n).

    residual : |g + A z|, (...).

    model : g·z + z·Az/2, (...).

    products : products made, one number: those of the run that went on longest.

    steps : CG steps of each run, (...).

    negative_curvature : whether a run met a direction with d·Ad <= 0, (...).
    """

    x: Array
    residual: Array
    model: Array
    products: int
    steps: Array
    negative_curvature: Array


def truncated_cg(
    matvec: Matvec,
    gradient: Array,
    *,
    steps: int,
    start: Array | None = None,
    stopping: Stopping = "residual",
    checked: bool = True,
) -> TruncatedSolution:
    """Minimizes the model g·z + z·Az/2 by conjugate gradients, no further than pays off.

    Parameters
    ----------
    matvec : v -> A v, (..., n) -> (..., n), A symmetric.
    gradient : g, (..., n).
    steps : the most CG steps.
    start : z to begin with, (..., n); None is zero. CG needs no particular start: its first direction is the residual
        at the start, -(g + A z).
    stopping : ``"residual"`` stops at |g + A z| <= min(1/2, sqrt(|g|)) |g|, which makes the outer iteration converge
        superlinearly; ``"progress"`` when the last k = max(10, i/10) of i steps lowered the model by less than a share
        of 0.0005 k, the rule of Hessian-free training; ``"never"`` takes all steps (less only where the residual
        reaches rounding).
    checked : False leaves out the checks of values, which read back to the host.

    Returns
    -------
    TruncatedSolution
        Where d·Ad <= 0 a run stops and keeps its z; if that is still zero, z = -g.

    Raises
    ------
    ValueError
        A ``gradient`` or ``start`` that is not a finite floating array, ``steps`` below 1, an unknown rule.

    Notes
    -----
    Cost: one product per step, one more for a ``start``. Memory: 4 vectors. Each step asks once whether any run goes on
    (one read back to the host).

    Source: Nocedal & Wright (2006), algorithm 7.1; Martens (2010), sec. 4.4 (``"progress"``).

    >>> import numpy as np
    >>> found = truncated_cg(lambda v: v * np.asarray([1.0, 4.0]), np.asarray([1.0, 1.0]), steps=9, stopping="never")
    >>> found.x.tolist(), found.products
    ([-1.0, -0.25], 2)
    """
    if stopping not in ("residual", "progress", "never"):
        raise ValueError(f"unknown stopping {stopping!r}; choose one of ['residual', 'progress', 'never']")
    check_count("steps", steps)
    if checked:
        check_vector("gradient", gradient)
        if start is not None:
            check_vector("start", start)
            if start.shape != gradient.shape:
                raise ValueError(f"start must have the shape {gradient.shape} of the gradient, got {start.shape}")
    xp = namespace(gradient)
    zero = xp.zeros_like(gradient)
    z, r, products = zero, -gradient, 0
    if start is not None:
        z, r, products = start, -gradient - matvec(start), 1
    size = norm(gradient)
    d, rr = r, dot(r, r)
    target = _residual_target(xp, size, stopping) ** 2
    model = 0.5 * dot(z, gradient - r)
    models, alive = [model], rr > target
    taken = xp.zeros_like(rr)
    negative = xp.zeros_like(alive)
    first_bend = first_image = None
    for i in range(1, steps + 1):
        if not bool(xp.any(alive)):
            break
        a_d = matvec(d)
        products += 1
        bend = dot(d, a_d)
        if i == 1:
            first_bend, first_image = bend, a_d
        down = alive & ~(bend > 0)  # a curvature that is not a number ends the run as well
        negative = negative | down
        alive = alive & ~down
        length = xp.where(alive, rr / xp.where(alive, bend, xp.ones_like(bend)), xp.zeros_like(bend))
        z = z + length[..., None] * d
        r = r - length[..., None] * xp.where(alive[..., None], a_d, zero)
        rr_next = xp.where(alive, dot(r, r), rr)
        d = r + xp.where(alive, rr_next / xp.where(alive, rr, xp.ones_like(rr)), xp.zeros_like(rr))[..., None] * d
        rr = rr_next
        taken = taken + xp.astype(alive, taken.dtype)
        model = 0.5 * dot(z, gradient - r)
        models.append(model)
        alive = alive & (rr > target)
        if stopping == "progress":
            alive = alive & ~_stalls(xp, models, i)
    if first_bend is not None:
        # Where the first direction, -g, was one of negative curvature and z is still zero: take that direction.
        bare = negative & (taken == 0) & (dot(z, z) == 0)
        z = xp.where(bare[..., None], -gradient, z)
        model = xp.where(bare, 0.5 * first_bend - dot(gradient, gradient), model)
        rr = xp.where(bare, dot(gradient + first_image, gradient + first_image), rr)
    return TruncatedSolution(z, xp.sqrt(rr), model, products, taken, negative)


def _residual_target(xp: Any, size: Array, stopping: str) -> Array:
    """The norm of the residual below which a run stops, (...)."""
    rounding = machine_epsilon(size) * size
    if stopping != "residual":
        return rounding
    return xp.maximum(rounding, xp.minimum(0.5 * xp.ones_like(size), xp.sqrt(size)) * size)


def _stalls(xp: Any, models: list[Array], i: int) -> Array:
    """Whether the last k of i steps lowered the model by less than a share of 0.0005 k, (...)."""
    k = max(10, -(-i // 10))
    if i <= k:
        return xp.zeros_like(models[-1], dtype=xp.bool)
    now, before = models[-1], models[-1 - k]
    return (now < 0) & (now - before > 0.0005 * k * now)
