"""One step of CurveBall once more, with dense NumPy matrices, right or with one slip of the usual kind.

What a wrong answer is compared with: if it is the answer of a slip, that slip is the likely cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Answer = dict[str, Any]

SLIPS: dict[str, str] = {
    "rho's sign": "the sign of rho: the 2 × 2 system has the unknowns (beta, -rho)",
    "beta's sign": "the sign of beta: dz is an ascent direction and has to be subtracted",
    "swapped": "rho and beta are swapped",
    "damping not in the system": "the damping is left out of the 2 × 2 system (as in eq. 18): add lam dz·dz, lam z·dz, "
    "lam z·z",
    "printed system damped": "the printed system has no damping in its matrix, this one has",
    "damping not in dz": "the damping is left out of dz = (G + lam I) z + g",
    "damping nowhere": "the damping is left out of everything",
    "no curvature of the loss": "G = J^T J lacks the curvature of the loss (for r·r without 1/2 a factor of 2)",
    "curvature twice": "G is twice too large: for a loss r·r/2 it would be J^T J, for r·r it is 2 J^T J and no more",
    "gradient without its factor": "the gradient is half of what it should be: that of r·r/2, not of r·r",
    "no product": "dz is the gradient alone: (G + lam I) z is missing",
    "no gradient": "dz lacks the gradient",
    "gradient twice": "the gradient is in dz twice",
    "rate times everything": "beta multiplies the whole of z, not dz alone: rho z - beta dz, not beta (rho z - dz)",
    "rho twice": "rho is applied to z twice",
    "rho on dz": "rho multiplies dz as well",
    "no momentum": "the last step z is forgotten",
    "mixed term missing": "the entry dz·Gz off the diagonal of the 2 × 2 system is missing",
    "mixed slope missing": "the right-hand side of the 2 × 2 system lacks g·z",
    "prediction's sign": "the predicted change has the wrong sign: it is negative when all is well, and so is the "
    "actual change f(x + z) - f(x)",
    "prediction undamped": "the predicted change is that of the model without damping",
    "prediction without half": "the predicted change lacks the factor 1/2 of the curvature",
}
"""A slip -> what is wrong, in words."""


def step(
    jacobian: Any,
    output_hessian: Any,
    output_gradient: Any,
    step: Any,
    damping: float,
    learning_rate: float | None = None,
    momentum: float | None = None,
    system: str = "damped",
    *,
    slip: str = "",
) -> Answer:
    """The next z (n,) with what led to it: ``learning_rate``, ``momentum``, ``step``, ``predicted_change``.

    Parameters
    ----------
    jacobian, output_hessian, output_gradient : J (o, n), d2L/dphi2 (o, o) and dL/dphi (o,) at the place.
    step, damping : the last step z (n,) and lam.
    learning_rate, momentum, system : as of :class:`refimpl.optimizers.curveball.CurveBall`.
    slip : a key of :data:`SLIPS`, or nothing for the right answer.

    Source: CurveBall paper, Algorithm 1 and eq. 18.
    """
    j, c, slope, z = (np.asarray(a, dtype=float) for a in (jacobian, output_hessian, output_gradient, step))
    true, identity, lam = j.T @ c @ j, np.eye(len(z)), float(damping)
    curved = {"no curvature of the loss": j.T @ j, "curvature twice": 2 * true}.get(slip, true)
    g = j.T @ slope * (0.5 if slip == "gradient without its factor" else 1.0)
    in_dz = 0.0 if slip in ("damping not in dz", "damping nowhere") else lam
    undamped = system == "printed" and slip != "printed system damped"
    undamped = undamped or slip in ("damping not in the system", "damping nowhere")
    inside = curved + (0.0 if undamped else lam) * identity
    product = 0 * z if slip == "no product" else curved @ z + in_dz * z
    times = {"no gradient": 0.0, "gradient twice": 2.0}.get(slip, 1.0)
    beta, rho, s = _combined(inside, g, product + times * g, z, learning_rate, momentum, slip)
    model = true + (0.0 if slip in ("prediction undamped", "damping nowhere") else lam) * identity
    half = 1.0 if slip == "prediction without half" else 0.5
    predicted = (j.T @ slope) @ s + half * s @ model @ s
    if slip == "prediction's sign":
        predicted = -predicted
    return {"learning_rate": beta, "momentum": rho, "step": s, "predicted_change": predicted}


def _combined(
    inside: Any, g: Any, dz: Any, z: Any, given_beta: float | None, given_rho: float | None, slip: str
) -> tuple[Any, Any, Any]:
    """beta, rho and rho z - beta dz."""
    mixed = 0.0 if slip == "mixed term missing" else dz @ inside @ z
    a11, a22, b1 = dz @ inside @ dz, z @ inside @ z, g @ dz
    b2 = 0.0 if slip == "mixed slope missing" else g @ z
    if given_beta is not None and given_rho is not None:
        beta, rho = float(given_beta), float(given_rho)
    elif given_rho is not None:
        beta, rho = (b1 + given_rho * mixed) / a11, float(given_rho)
    elif given_beta is not None:
        beta, rho = float(given_beta), (given_beta * mixed - b2) / a22
    else:
        scale = np.sqrt([a11 or 1.0, a22 or 1.0])
        matrix = np.array([[a11, mixed], [mixed, a22]]) / np.outer(scale, scale)
        beta, minus_rho = np.linalg.lstsq(matrix, np.array([b1, b2]) / scale, rcond=1e-10)[0] / scale
        rho = -minus_rho
    if slip == "rho's sign":
        rho = -rho
    if slip == "beta's sign":
        beta = -beta
    if slip == "swapped":
        beta, rho = rho, beta
    if slip == "no momentum":
        rho = 0.0
    if slip == "rate times everything":
        return beta, rho, beta * (rho * z - dz)
    if slip == "rho twice":
        return beta, rho, rho * rho * z - beta * dz
    if slip == "rho on dz":
        return beta, rho, rho * (z - beta * dz)
    return beta, rho, rho * z - beta * dz


DAMPING_SLIPS: dict[str, str] = {
    "reversed": "lam rises where it should fall: omega lam where the ratio is large, lam/omega where it is small",
    "quarters": "the thresholds are 1/2 and 3/2, not 1/4 and 3/4",
    "not strict": "a ratio of exactly 1/2 or 3/2 changes nothing",
    "from the first": "each change has to start from the last lam, not from the first",
}
"""A slip in the damping rule -> what is wrong, in words."""


def damping_rule(damping: float, ratios: Any, omega: float, *, slip: str = "") -> list[float]:
    """lam after each ratio: times omega above 3/2, divided by omega below 1/2.

    Source: CurveBall paper, section 3.
    """
    low, high = (0.25, 0.75) if slip == "quarters" else (0.5, 1.5)
    factor = 1 / omega if slip == "reversed" else omega
    lam, seen = damping, []
    for ratio in np.asarray(ratios, dtype=float):
        strict = slip != "not strict"
        falls = ratio > high if strict else ratio >= high
        rises = ratio < low if strict else ratio <= low
        lam = (damping if slip == "from the first" else lam) * (factor if falls else 1 / factor if rises else 1.0)
        seen.append(lam)
    return seen
