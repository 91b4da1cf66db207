"""What adaptive methods share: the best multiple of two directions, and the damping that follows the model's luck.

All is written for arrays of any shape (...), one entry per run, without a look at their values.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from refimpl.arrays import Array, check_between, check_positive, dot, machine_epsilon, namespace
from refimpl.optimizers.base import settle
from refimpl.oracle import Point

Accept = Literal["guarded", "always"]


class ModelStep(NamedTuple):
    """The best step in the span of two directions: s = eta u + mu d, (..., n), and the model m(s) < 0 there, (...)."""

    learning_rate: Array
    momentum: Array
    step: Array
    predicted_change: Array


class Judgement(NamedTuple):
    """Where a trial leads: the next place and d, (..., n), the next damping, actual over predicted change, and whether
    the step was taken, each (...)."""

    x: Array
    step: Array
    damping: Array
    ratio: Array
    accepted: Array


def model_step(gradient: Array, u: Array, a_u: Array, d: Array, a_d: Array, *, solve: bool = True) -> ModelStep:
    """s = eta u + mu d with eta and mu from :func:`learning_rate_and_momentum`, or (1, 0) where not ``solve``.

    ``gradient``, ``u``, ``d`` and the products ``a_u`` = Au, ``a_d`` = Ad are (..., n); the model is -g·s + s·As/2.
    """
    u_a_u, u_a_d, d_a_d = dot(u, a_u), dot(d, a_u), dot(d, a_d)
    g_u, g_d = dot(gradient, u), dot(gradient, d)
    if solve:
        eta, mu = learning_rate_and_momentum(u_a_u, u_a_d, d_a_d, g_u, g_d)
    else:
        eta, mu = namespace(g_u).ones_like(g_u), namespace(g_u).zeros_like(g_u)
    bend = eta * eta * u_a_u + 2.0 * eta * mu * u_a_d + mu * mu * d_a_d
    return ModelStep(eta, mu, eta[..., None] * u + mu[..., None] * d, 0.5 * bend - eta * g_u - mu * g_d)


def judge(point: Point, step: Array, predicted: Array, method: Any, damping: Array) -> Judgement:
    """Try x - s on the same sample, and let the damping follow. Cost: one loss.

    ``method`` has the knobs ``omega``, ``minimum_damping``, ``maximum_damping`` and ``accept``. With
    ``accept="guarded"`` a run whose new loss is not finite, or whose model does not fall, stays where it is, forgets d,
    and doubles its damping; with ``"always"`` every step is taken. A step of zero is no refusal.
    """
    xp = namespace(step)
    x_trial = point.x - step
    trial = point.loss_at(x_trial)
    ratio = change_ratio(trial - point.loss, predicted)
    adapted = adapt_damping(
        damping, ratio, omega=method.omega, minimum=method.minimum_damping, maximum=method.maximum_damping
    )
    still = ~xp.any(step != 0, axis=-1)
    accepted = xp.isfinite(trial) & ((predicted < 0) | still)
    if method.accept == "always":
        return Judgement(x_trial, step, adapted, ratio, xp.ones_like(accepted))
    kept = accepted[..., None]
    return Judgement(
        xp.where(kept, x_trial, point.x),
        xp.where(kept, step, xp.zeros_like(step)),
        xp.where(accepted, adapted, xp.clip(2.0 * damping, max=method.maximum_damping)),
        ratio,
        accepted,
    )


def change_ratio(change: Array, predicted: Array) -> Array:
    """Actual over predicted change of the loss, each (...); NaN where none was predicted."""
    xp = namespace(predicted)
    return change / xp.where(predicted == 0, xp.full_like(predicted, float("nan")), predicted)


def settle_damping(method: Any, *, omega_may_be_one: bool = False, damping_may_be_zero: bool = False) -> None:
    """Check and store ``minimum_damping``, ``maximum_damping``, ``initial_damping`` and ``omega`` of a method.

    A damping of zero is meant for a method that never changes it.

    Raises
    ------
    ValueError
        A bound that is not positive, bounds in the wrong order, a start outside them, omega outside (0, 1).
    """
    low = check_positive("minimum_damping", method.minimum_damping)
    high = check_positive("maximum_damping", method.maximum_damping)
    if low > high:
        raise ValueError(f"minimum_damping must be at most maximum_damping, got {low!r} and {high!r}")
    start = method.initial_damping
    if not (damping_may_be_zero and check_positive("initial_damping", start, zero_allowed=True) == 0):
        start = check_between("initial_damping", start, low, high, open_right=False)
    omega = check_positive("omega", method.omega)
    omega = check_between("omega", omega, 0.0, 1.0, open_right=not omega_may_be_one)
    settle(method, minimum_damping=low, maximum_damping=high, initial_damping=float(start), omega=omega)


def check_accept(accept: Any) -> None:
    """Refuse what is neither ``"guarded"`` nor ``"always"`` (ValueError)."""
    if accept not in ("guarded", "always"):
        raise ValueError(f"unknown accept {accept!r}; choose one of ['guarded', 'always']")


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
    damping: Array,
    ratio: Array,
    *,
    omega: float = 0.9,
    minimum: float = 1e-8,
    maximum: float = 1e8,
    low: float = 0.25,
    high: float = 0.75,
) -> Array:
    """Levenberg–Marquardt's rule: less damping where the model was right, more where it was wrong.

    ratio > high: damping·omega; ratio < low: damping/omega; otherwise, and for a ratio of NaN, unchanged. Both
    comparisons are strict. Then into [minimum, maximum].

    Parameters
    ----------
    damping, ratio : (...). The ratio is actual over predicted change of the loss, both negative when all is well.
    omega : factor in (0, 1).
    minimum, maximum : bounds of the damping.
    low, high : thresholds of the ratio, 1/4 and 3/4 in most of the literature, 1/2 and 3/2 in CurveBall.

    Source: Martens & Grosse (2015), sec. 6.5; eq. 8 of the series paper; CurveBall paper, section 3. (A ratio far
    *above* one lowers the damping.)

    >>> import numpy as np
    >>> adapt_damping(np.ones(3), np.array([0.8, 0.5, 0.2]), omega=0.5).tolist()
    [0.5, 1.0, 2.0]
    """
    xp = namespace(damping)
    adapted = xp.where(ratio > high, omega * damping, xp.where(ratio < low, damping / omega, damping))
    return xp.clip(adapted, min=minimum, max=maximum)
