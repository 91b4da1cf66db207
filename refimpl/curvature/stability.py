"""How fixed learning rate and momentum behave on a quadratic: transition matrices, spectral radii, best choices.

On a quadratic every eigenvalue h of the Hessian has a small linear iteration of its own, in y = q·z and x = q·(w - w*)
for its eigenvector q. It depends on the momentum rho and on the product of learning rate and eigenvalue, beta h.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from scipy import optimize

from refimpl.arrays import Array, check_positive, namespace

Rule = Literal["curveball", "heavy-ball"]


class FixedParameters(NamedTuple):
    """The best fixed parameters on a spectrum in [h_min, h_max].

    momentum : rho.

    scaled_learning_rate : beta h_min.

    rate : the spectral radius, by which each iteration shrinks the error in the end.
    """

    momentum: float
    scaled_learning_rate: float
    rate: float


def transition_matrix(momentum: Array, scaled_rate: Array, rule: Rule = "curveball") -> Array:
    """R of (y, x) <- R (y, x) for one eigenvalue: (..., 2, 2).

    Parameters
    ----------
    momentum, scaled_rate : rho and beta h, broadcast against each other to (...).
    rule : ``"curveball"``: y <- (rho - beta h) y - beta h x; ``"heavy-ball"``: y <- rho y - beta h x. Then x <- x + y.

    Raises
    ------
    ValueError
        An unknown rule.

    Source: CurveBall paper, eq. 36; Polyak (1964) for the heavy ball.

    >>> import numpy as np
    >>> transition_matrix(np.asarray(0.9), np.asarray(0.1)).round(12).tolist()
    [[0.8, -0.1], [0.8, 0.9]]
    """
    _check_rule(rule)
    xp = namespace(momentum, scaled_rate)
    keep = momentum - scaled_rate if rule == "curveball" else momentum + 0.0 * scaled_rate
    pull = scaled_rate + 0.0 * keep
    rows = [xp.stack([keep, -pull], axis=-1), xp.stack([keep, 1.0 - pull], axis=-1)]
    return xp.stack(rows, axis=-2)


def spectral_radius(momentum: Array, scaled_rate: Array, rule: Rule = "curveball") -> Array:
    """The larger modulus of the two eigenvalues of the transition matrix, (...): the error shrinks by it in the end.

    Parameters and errors as :func:`transition_matrix`.

    Source: CurveBall paper, eqs. 38 and 41.

    >>> import numpy as np
    >>> float(spectral_radius(np.asarray(0.9), np.asarray(0.1))) == 0.8**0.5
    True
    """
    _check_rule(rule)
    xp = namespace(momentum, scaled_rate)
    determinant = momentum - scaled_rate if rule == "curveball" else momentum + 0.0 * scaled_rate
    half = 0.5 * (determinant + 1.0 - scaled_rate)
    inside = half * half - determinant
    real = xp.abs(half) + xp.sqrt(xp.clip(inside, min=0.0))
    return xp.where(inside < 0, xp.sqrt(xp.clip(determinant, min=0.0)), real)


def is_stable(momentum: Array, scaled_rate: Array, rule: Rule = "curveball") -> Array:
    """Whether the iteration converges for this eigenvalue, (...): the region as inequalities, without square roots.

    CurveBall: beta h > 0 and 3 beta h/2 - 1 < rho < 1 + beta h. Heavy ball: beta h > 0, -1 < rho < 1 and
    beta h < 2 (1 + rho). Parameters and errors as :func:`transition_matrix`.

    Source: CurveBall paper, eq. 39 (with Jury's conditions); Polyak (1964).

    >>> import numpy as np
    >>> is_stable(np.asarray(1.0), np.asarray([0.5, 1.3, 1.4])).tolist()
    [True, True, False]
    """
    _check_rule(rule)
    if rule == "curveball":
        return (scaled_rate > 0) & (momentum > 1.5 * scaled_rate - 1.0) & (momentum < 1.0 + scaled_rate)
    return (scaled_rate > 0) & (momentum > -1.0) & (momentum < 1.0) & (scaled_rate < 2.0 * (1.0 + momentum))


def optimal_parameters(condition_number: float, rule: Rule = "curveball") -> FixedParameters:
    """The rho and beta with the smallest spectral radius over a spectrum of the given condition number kappa.

    CurveBall, kappa >= 3: with s the root in (0, 1) of kappa s² (3 - 2s) = (2 - s)(2 - 3s + 2s²), beta h_min = s²,
    rho = 1 - 2s + 2s², and the rate is 1 - s, which is 1 - 2/sqrt(3 kappa) for large kappa. For kappa < 3 the rate r
    has r² = (kappa - 1)/(3 kappa - 1), with rho = 1 - 2r² and beta h_min = 1 - 3r². Heavy ball: rate
    (sqrt(kappa) - 1)/(sqrt(kappa) + 1), or 1 - 2/sqrt(kappa): fewer iterations by a factor of sqrt(3).

    Raises
    ------
    ValueError
        A condition number below 1, or an unknown rule.

    Source: Polyak (1964) for the heavy ball; for CurveBall our derivation: at the optimum the eigenvalues of h_min
    coincide at 1 - s (kappa < 3: they have the modulus r), and one of h_max reaches -(1 - s) (or -r).

    >>> round(optimal_parameters(100.0).rate, 4), round(optimal_parameters(100.0, "heavy-ball").rate, 4)
    (0.8925, 0.8182)
    """
    _check_rule(rule)
    kappa = check_positive("condition_number", condition_number)
    if kappa < 1.0:
        raise ValueError(f"condition_number must be at least 1, got {condition_number!r}")
    if rule == "heavy-ball":
        root = math.sqrt(kappa)
        rate = (root - 1.0) / (root + 1.0)
        return FixedParameters(rate**2, 4.0 / (root + 1.0) ** 2, rate)

    if kappa < 3.0:
        square = (kappa - 1.0) / (3.0 * kappa - 1.0)
        return FixedParameters(1.0 - 2.0 * square, 1.0 - 3.0 * square, math.sqrt(square))

    def excess(s: float) -> float:
        return kappa * s * s * (3.0 - 2.0 * s) - (2.0 - s) * (2.0 - 3.0 * s + 2.0 * s * s)

    s = float(optimize.brentq(excess, 0.0, 1.0, xtol=1e-16, rtol=8.9e-16))
    return FixedParameters(1.0 - 2.0 * s + 2.0 * s * s, s * s, 1.0 - s)


def _check_rule(rule: str) -> None:
    if rule not in ("curveball", "heavy-ball"):
        raise ValueError(f"unknown rule {rule!r}; choose one of ['curveball', 'heavy-ball']")
