"""Newton, damped Newton and saddle-free Newton by one eigendecomposition, right or with a slip of the usual kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refimpl.verify.kit.task import Task

Host = np.ndarray


def exact(task: Task, x: Host) -> tuple[Host, Host]:
    return task.hessian(x).astype(float), task.gradient(x).astype(float)


def _spectral(h: Host, g: Host, factors: Callable[[Host], Host], slip: str = "") -> Host:
    """V f(lam) V^T g."""
    if not (np.isfinite(h).all() and np.isfinite(g).all()):
        return np.full_like(g, np.nan)
    if slip == "diagonal":
        h = np.diag(np.diag(h))
    values, vectors = np.linalg.eigh(h)
    if slip == "transposed":
        vectors = vectors.T
    return vectors @ (factors(values) * (vectors.T @ g))


def _inverse(values: Host, power: float = 1.0) -> Host:
    """1/values, and 0 where rounding alone keeps a value from zero."""
    tiny = np.abs(values) <= len(values) * np.finfo(float).eps * np.abs(values).max(initial=0.0)
    return np.where(tiny, 0.0, 1.0 / np.where(tiny, 1.0, values) ** power)


def sent(direction: Host, learning_rate: float, slip: str) -> Host:
    """-eta u, or with the two slips that every method knows."""
    rate = 1.0 if slip == "no rate" else learning_rate
    return rate * direction if slip == "uphill" else -rate * direction


COMMON = {
    "uphill": "the sign: the step has to be subtracted, it goes uphill",
    "no rate": "the learning rate is left out",
}
_SHAPES = {
    "diagonal": "only the diagonal of the Hessian is used",
    "transposed": "V and V^T are interchanged: eigenvectors are the columns that eigh returns",
}

# -- Newton -----------------------------------------------------------------------------------------------------------

NEWTON = {
    **COMMON,
    **_SHAPES,
    "magnitudes": "the magnitudes of the eigenvalues are taken: this is saddle-free Newton",
    "positive part": "negative eigenvalues are left out",
    "square": "H is inverted twice: H^{-2} g",
    "root": "the square root of H^{-1} is taken",
}
"""A slip in Newton's method -> what is wrong, in words."""


def newton(task: Task, x: Host, memory: Any, slip: str, *, learning_rate: float) -> tuple[Host, Any]:
    """-eta H^{-1} g. Source: Nocedal & Wright (2006), eq. 2.15."""
    h, g = exact(task, x)
    rules = {
        "magnitudes": lambda v: _inverse(np.abs(v)),
        "positive part": lambda v: _inverse(v) * (v > 0),
        "square": lambda v: _inverse(v, 2),
        "root": lambda v: np.sign(v) * _inverse(np.abs(v), 0.5),
    }
    return sent(_spectral(h, g, rules.get(slip, _inverse), slip), learning_rate, slip), None


DAMPED_NEWTON = {
    **COMMON,
    **_SHAPES,
    "no damping": "the damping is left out",
    "half": "the damping is halved",
    "twice": "the damping is doubled",
    "squared": "d^2 stands for the damping d",
    "minus": "the damping is subtracted",
    "magnitudes": "the damping is added to the magnitudes of the eigenvalues: the classic form adds it to H as it is",
    "scaled": "the damping is multiplied by the diagonal of H (Marquardt's form); here it is d I",
}
"""A slip in damped Newton -> what is wrong, in words."""


def damped_newton(
    task: Task, x: Host, memory: Any, slip: str, *, damping: float, learning_rate: float
) -> tuple[Host, Any]:
    """-eta (H + d I)^{-1} g. Source: Levenberg (1944)."""
    h, g = exact(task, x)
    d = damping * {"no damping": 0.0, "half": 0.5, "twice": 2.0, "squared": damping, "minus": -1.0}.get(slip, 1.0)
    if slip == "scaled":
        return sent(_spectral(h + d * np.diag(np.diag(h)), g, _inverse), learning_rate, slip), None
    size = np.abs if slip == "magnitudes" else lambda v: v
    return sent(_spectral(h, g, lambda v: _inverse(size(v) + d), slip), learning_rate, slip), None


# -- saddle-free Newton -----------------------------------------------------------------------------------------------

SADDLE_FREE = {
    **COMMON,
    **_SHAPES,
    "newton": "the absolute value is forgotten: negative eigenvalues keep their sign, as in Newton's method",
    "no root": "the square root of H^2 is missing: this is H^{-2} g",
    "root twice": "the root is taken twice: |H|^{-1/2} g",
    "positive part": "negative eigenvalues are left out instead of turned round",
    "before": "the damping is added to H before the absolute value: |H + d I|",
    "no damping": "the damping is left out",
    "half": "the damping is halved",
    "not squared": "d stands under the root where d^2 belongs: (H^2 + d^2 I)^{-1/2}",
    "outside": "the damping is added outside the root, as in mode 'abs'; mode 'square' is (H^2 + d^2 I)^{-1/2}",
    "inside": "the damping is added under the root, as in mode 'square'; mode 'abs' is (|H| + d I)^{-1}",
    "least": "the damping is the least magnitude instead of being added to the magnitudes",
}
"""A slip in saddle-free Newton -> what is wrong, in words."""


def saddle_free(
    task: Task, x: Host, memory: Any, slip: str, *, damping: float, mode: str, learning_rate: float
) -> tuple[Host, Any]:
    """-eta |H|^{-1} g, with the damping of ``mode``. Source: Dauphin et al. (2014), sec. 4."""
    h, g = exact(task, x)
    u = _spectral(h, g, lambda v: damped_magnitudes(v, damping, mode, slip), slip)
    return sent(u, learning_rate, slip), None


def damped_magnitudes(values: Host, damping: float, mode: str, slip: str) -> Host:
    d = damping * {"no damping": 0.0, "half": 0.5}.get(slip, 1.0) if mode != "none" else 0.0
    sizes = np.abs(values)
    if slip == "before":
        return _inverse(np.abs(values + d))
    if slip == "least":
        return _inverse(np.maximum(sizes, d))
    if slip == "newton" and mode != "square":
        return _inverse(values + d)
    mode = {("outside", "square"): "abs", ("inside", "abs"): "square"}.get((slip, mode), mode)
    if mode == "square":
        total = sizes**2 + (d if slip == "not squared" else d * d)
        root = total if slip == "no root" else np.sqrt(total)
    else:
        root = (sizes**2 if slip == "no root" else sizes) + d
    root = np.sqrt(root) if slip == "root twice" else root
    sign = np.sign(values) if slip == "newton" else values > 0 if slip == "positive part" else 1.0
    return sign * _inverse(root)
