"""CurveBall, Gauss–Newton, trust regions, KryBall and cubic models as textbook forms, from the ``dense_*`` modules."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from refimpl.verify import dense_curveball, dense_elmo, dense_kryball
from refimpl.verify.kit.task import Task

Host = np.ndarray


def output_parts(task: Task, x: Host) -> dict[str, Any]:
    """``jacobian`` (o, n), ``output_hessian`` (o, o) and ``output_gradient`` (o,), float64."""
    slope = task.output_gradient(x).astype(float)
    return {
        "jacobian": np.stack([task.jvp(x, unit) for unit in np.eye(task.n)], axis=-1).astype(float),
        "output_hessian": np.stack([task.output_hvp(x, unit) for unit in np.eye(len(slope))], axis=-1).astype(float),
        "output_gradient": slope,
    }


def _without(slips: dict[str, str], *unseen: str) -> dict[str, str]:
    return {slip: words for slip, words in slips.items() if slip not in unseen}


# -- CurveBall --------------------------------------------------------------------------------------------------------

CURVEBALL = _without(
    dense_curveball.SLIPS,
    "prediction's sign",
    "prediction undamped",
    "prediction without half",
    "printed system damped",
)
"""A slip in CurveBall that shows in its places -> what is wrong, in words."""


def curveball(
    task: Task,
    x: Host,
    memory: Any,
    slip: str,
    *,
    damping: float,
    learning_rate: float | None,
    momentum: float | None,
) -> tuple[Host, Any]:
    """z <- rho z - beta ((G + lam I) z + g). Source: CurveBall paper, Algorithm 1."""
    z = np.zeros(task.n) if memory is None else memory
    with np.errstate(all="ignore"):
        parts = output_parts(task, x)
        if not all(np.isfinite(part).all() for part in parts.values()) or not np.isfinite(z).all():
            return np.full(task.n, np.nan), z
        z = dense_curveball.step(
            **parts, step=z, damping=damping, learning_rate=learning_rate, momentum=momentum, slip=slip
        )["step"]
    return z, z


# -- Gauss–Newton -----------------------------------------------------------------------------------------------------

GAUSS_NEWTON = {
    "uphill": "the sign: the step has to be subtracted, it goes uphill",
    "no rate": "the learning rate is left out",
    "no output curvature": "G = J^T J lacks the curvature of the loss (for r·r without 1/2 a factor of 2)",
    "gradient without its factor": "the gradient is J^T r, half of what it should be for a loss r·r",
    "textbook": "both are those of r·r/2 while the damping is that of r·r: J^T J + lam I is (G + 2 lam I)/2",
    "hessian": "the whole Hessian stands for the Gauss–Newton matrix",
    "magnitudes": "the magnitudes of the Hessian's eigenvalues stand for the Gauss–Newton matrix",
    "no damping": "the damping is left out",
    "half": "the damping is halved",
    "squared": "lam^2 stands for the damping lam",
    "marquardt": "the damping is multiplied by the diagonal of G (Marquardt's form); here it is lam I",
    "diagonal": "only the diagonal of G is used",
}
"""A slip in the Gauss–Newton step -> what is wrong, in words."""


def _gauss_newton_step(task: Task, x: Host, damping: float, slip: str) -> Host:
    """(G + lam I)^{-1} g, to be subtracted."""
    parts = output_parts(task, x)
    if not all(np.isfinite(part).all() for part in parts.values()):
        return np.full(task.n, np.nan)
    j, c, slope = parts["jacobian"], parts["output_hessian"], parts["output_gradient"]
    g = j.T @ slope * (0.5 if slip in ("gradient without its factor", "textbook") else 1.0)
    curved = j.T @ j if slip in ("no output curvature", "textbook") else j.T @ c @ j
    if slip == "hessian":
        curved = task.hessian(x).astype(float)
    elif slip == "magnitudes":
        values, vectors = np.linalg.eigh(task.hessian(x).astype(float))
        curved = (vectors * np.abs(values)) @ vectors.T
    elif slip == "diagonal":
        curved = np.diag(np.diag(curved))
    lam = damping * {"no damping": 0.0, "half": 0.5, "squared": damping}.get(slip, 1.0)
    shape = np.diag(np.diag(curved)) if slip == "marquardt" else np.eye(task.n)
    return np.asarray(np.linalg.lstsq(curved + lam * shape, g, rcond=None)[0])


def gauss_newton(
    task: Task, x: Host, memory: Any, slip: str, *, damping: float, learning_rate: float
) -> tuple[Host, Any]:
    """-eta (G + lam I)^{-1} g. Source: Nocedal & Wright (2006), sec. 10.3."""
    direction = _gauss_newton_step(task, x, damping, slip)
    rate = (1.0 if slip == "no rate" else learning_rate) * (-1.0 if slip == "uphill" else 1.0)
    return -rate * direction, None


LEVENBERG_MARQUARDT = {
    **{slip: words for slip, words in GAUSS_NEWTON.items() if slip != "no rate"},
    "taken anyway": "a step whose loss rises is taken",
    "reversed": "the damping rises after success and falls after failure",
    "constant": "the damping is never changed",
    "never raised": "the damping does not rise after a refused step",
    "never lowered": "the damping does not fall after an accepted step",
    "interchanged": "the two factors are interchanged",
    "from the first": "each change has to start from the last damping, not from the first",
}
"""A slip in Levenberg–Marquardt -> what is wrong, in words."""


def levenberg_marquardt(
    task: Task, x: Host, memory: Any, slip: str, *, damping: float, increase: float, decrease: float
) -> tuple[Host, Any]:
    """The step, or nothing where the loss does not fall; lam follows. Source: Marquardt (1963)."""
    lam = damping if memory is None else memory
    inner = slip if slip in GAUSS_NEWTON else ""
    step = -_gauss_newton_step(task, x, lam, inner) * (-1.0 if slip == "uphill" else 1.0)
    with np.errstate(all="ignore"):
        accepted = task.loss(x + step) < task.loss(x)
    up, down = (decrease, increase) if slip == "interchanged" else (increase, decrease)
    up = 1.0 if slip in ("constant", "never raised") else up
    down = 1.0 if slip in ("constant", "never lowered") else down
    falls = accepted != (slip == "reversed")
    following = (damping if slip == "from the first" else lam) * (1 / down if falls else up)
    return step if accepted or slip == "taken anyway" else 0 * step, following


# -- trust regions ----------------------------------------------------------------------------------------------------

_RADIUS = (
    "ratio's sign", "ratio inverted", "taken anyway", "reversed", "no shrinking", "no growing", "grows inside",
    "no maximum", "shrinks from the radius",
)  # fmt: skip
TRUST_REGION = {
    **_without(dense_kryball.REGION_SLIPS, "distance", "no half", "reduction"),
    **{slip: dense_kryball.STEP_SLIPS[slip] for slip in _RADIUS},
}
"""A slip in the trust-region method -> what is wrong, in words."""

KRYBALL = _without(dense_kryball.STEP_SLIPS, "old products", "new products")
"""A slip in KryBall with a fresh Krylov space in each step -> what is wrong, in words."""


def trust_region(
    task: Task, x: Host, memory: Any, slip: str, *, initial_radius: float, maximum_radius: float
) -> tuple[Host, Any]:
    """The minimizer of the model in the ball, if the loss falls. Source: Nocedal & Wright (2006), algorithm 4.1."""
    radius = initial_radius if memory is None else memory
    h, g = task.hessian(x).astype(float), task.gradient(x).astype(float)
    if not (np.isfinite(h).all() and np.isfinite(g).all()):
        return np.zeros(task.n), radius
    inner = slip if slip in dense_kryball.REGION_SLIPS else ""
    p = _solved("ball", task.n, h.tobytes(), g.tobytes(), radius, inner).copy()
    predicted = g @ p + 0.5 * p @ h @ p
    actual = task.loss(x + p) - task.loss(x)
    if not predicted < 0:  # where nothing can be gained nothing is tried
        return np.zeros(task.n) if not p.any() or slip != "taken anyway" else p, radius
    ratio = predicted / actual if slip == "ratio inverted" and actual != 0 else actual / predicted
    ratio = -ratio if slip == "ratio's sign" else ratio
    taken = ratio > 0 or slip == "taken anyway"
    following = dense_kryball._radius(ratio, float(np.linalg.norm(p)), radius, maximum_radius, slip)
    return p if taken else 0 * p, following


def kryball(
    task: Task,
    x: Host,
    memory: Any,
    slip: str,
    *,
    dimension: int,
    directions: str,
    initial_radius: float,
    maximum_radius: float,
) -> tuple[Host, Any]:
    """The minimizer of the model in a ball of a small subspace. Source: KryBall thesis, Algorithm 4."""
    z, radius = (np.zeros(task.n), initial_radius) if memory is None else memory
    h, g, here = task.hessian(x).astype(float), task.gradient(x).astype(float), task.loss(x)
    if not (np.isfinite(h).all() and np.isfinite(g).all()) or not g.any():
        return np.zeros(task.n), (z, radius)
    with np.errstate(all="ignore"):
        taken = dense_kryball.step(
            h, g, None, z, radius, dimension, directions,
            maximum_radius=maximum_radius, change=lambda s: task.loss(x + s) - here, slip=slip,
        )  # fmt: skip
    moved = taken["step"]
    return moved, (moved if moved.any() else z, taken["radius"])


# The walks of a method and of its slips share many subproblems, each of which takes hundreds of halvings.
@lru_cache(maxsize=4096)
def _solved(kind: str, n: int, hessian: bytes, gradient: bytes, weight: float, slip: str) -> Host:
    h, g = np.frombuffer(hessian).reshape(n, n), np.frombuffer(gradient)
    solve = dense_kryball.trust_region_step if kind == "ball" else dense_elmo.cubic_step
    with np.errstate(all="ignore"):
        return np.asarray(solve(h, g, weight, slip=slip)["step"])


# -- cubic models -----------------------------------------------------------------------------------------------------

CUBIC = _without(dense_elmo.CUBIC_SLIPS, "length", "no cube", "no half", "reduction")
"""A slip in the cubic step -> what is wrong, in words."""


def cubic(task: Task, x: Host, memory: Any, slip: str, *, sigma: float) -> tuple[Host, Any]:
    """The minimizer of g·s + s·Hs/2 + sigma/3 |s|^3. Source: Nesterov & Polyak (2006)."""
    return _cubic_step(task, x, sigma, slip), None


def _cubic_step(task: Task, x: Host, sigma: float, slip: str) -> Host:
    h, g = task.hessian(x).astype(float), task.gradient(x).astype(float)
    if not (np.isfinite(h).all() and np.isfinite(g).all()):
        return np.full(task.n, np.nan)
    return _solved("cubic", task.n, h.tobytes(), g.tobytes(), sigma, slip if slip in CUBIC else "").copy()


ARC = {
    **CUBIC,
    "taken anyway": "a step is taken although its ratio is too small",
    "any decrease": "a step is taken where the loss falls at all; its ratio must be at least eta_1",
    "reversed": "sigma rises after success and falls after failure",
    "constant": "sigma is never changed",
    "never raised": "sigma does not rise after a refused step",
    "never lowered": "sigma does not fall after a very successful step",
    "always lowered": "sigma falls after every accepted step; it must be a very successful one",
    "ratio's sign": "the sign of the ratio: the actual and the predicted change are both negative when all is well",
    "quadratic model": "the predicted change lacks the cubic term",
}
"""A slip in adaptive regularization with cubics -> what is wrong, in words."""


def arc(
    task: Task,
    x: Host,
    memory: Any,
    slip: str,
    *,
    initial_sigma: float,
    accept_above: float,
    relax_above: float,
    factor: float,
) -> tuple[Host, Any]:
    """The cubic step, if it is worth it; sigma follows. Source: Cartis, Gould & Toint (2011a), algorithm 2.1."""
    sigma = initial_sigma if memory is None else memory
    h, g = task.hessian(x).astype(float), task.gradient(x).astype(float)
    s = _cubic_step(task, x, sigma, slip)
    if not np.isfinite(s).all() or not s.any():
        return np.zeros(task.n), sigma
    cube = 0.0 if slip == "quadratic model" else sigma / 3 * float(np.linalg.norm(s)) ** 3
    predicted = g @ s + 0.5 * s @ h @ s + cube
    actual = task.loss(x + s) - task.loss(x)
    ratio = (actual / predicted if predicted < 0 else -1.0) * (-1.0 if slip == "ratio's sign" else 1.0)
    taken = ratio >= (0.0 if slip == "any decrease" else accept_above)
    good = ratio >= relax_above or (slip == "always lowered" and taken)
    rise, fall = (1 / factor, factor) if slip == "reversed" else (factor, 1 / factor)
    rise = 1.0 if slip in ("constant", "never raised") else rise
    fall = 1.0 if slip in ("constant", "never lowered") else fall
    following = sigma * (fall if good else 1.0 if taken else rise)
    return s if taken or slip == "taken anyway" else 0 * s, following
