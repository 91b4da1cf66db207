"""The series and the Lanczos process for |H|^{-1} g with a dense Hessian, right or with one slip of the usual kind."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from refimpl.verify.kit.task import Task
from refimpl.verify.kit.textbook_dense import COMMON, damped_magnitudes, exact, sent

Host = np.ndarray

# -- the series -------------------------------------------------------------------------------------------------------

SERIES = {
    **COMMON,
    "late": "the coefficients come one step late: 1, 1, 1/2, 3/8 … for 1, 1/2, 3/8, 5/16 … (the recursion of eq. 49 of "
    "the series paper as printed)",
    "early": "the coefficients come one step early",
    "all ones": "the coefficients are left out: that is the series of V H^{-2}, not of its root",
    "V for V^2": "H^2 is divided by V^2: V is the scale of H^2 already",
    "root in Z": "H^2 is divided by sqrt(V)",
    "no scale": "the factor 1/sqrt(V) in front of the sum is missing",
    "1/V": "the factor in front of the sum is 1/V; it is 1/sqrt(V)",
    "sqrt V": "the sum is multiplied by sqrt(V) instead of divided",
    "one product": "Z has one product with H where it needs two: I - H^2/V",
    "plus": "the sign in Z: it is I - H^2/V",
    "fewer": "one term too few",
    "more": "one term too many",
    "shanks": "the weights of the accelerator are those of plain Shanks: Sablonnière's modification is never reached",
    "not accelerated": "the sum is not accelerated",
}
"""A slip in the series -> what is wrong, in words."""


def series(
    task: Task,
    x: Host,
    memory: Any,
    slip: str,
    *,
    terms: int,
    order: int,
    scale: float,
    learning_rate: float,
) -> tuple[Host, Any]:
    """-eta V^{-1/2} sum_k c_k (I - H^2/V)^k g, accelerated N times. Source: series paper, eqs. 3-5 and 9."""
    h, g = exact(task, x)
    count = terms + {"fewer": -1, "more": 1}.get(slip, 0)
    c = [1.0]
    for k in range(1, count + 1):
        c.append(c[-1] * (2 * k - 1) / (2 * k))
    c = {"late": [1.0, *c], "early": c[1:], "all ones": [1.0] * count}.get(slip, c)
    v = {"V for V^2": scale**2, "root in Z": np.sqrt(scale)}.get(slip, scale)
    power, sums = g, [c[0] * g]
    for k in range(1, count):
        change = h @ power if slip == "one product" else h @ (h @ power)
        power = power + change / v if slip == "plus" else power - change / v
        sums.append(sums[-1] + c[k] * power)
    shanks = slip == "shanks"
    n = 0 if slip == "not accelerated" else order
    factor = {"no scale": 1.0, "1/V": 1 / scale, "sqrt V": np.sqrt(scale)}.get(slip, 1 / np.sqrt(scale))
    return sent(factor * _accelerated(sums, n, shanks), learning_rate, slip), None


def _accelerated(sums: list[Host], order: int, shanks: bool) -> Host:
    """The last entry of the vector epsilon table of the last 2N + 1 sums."""
    column, before = sums[-2 * order - 1 :], [np.zeros_like(sums[0])] * (2 * order + 2)
    for c in range(1, 2 * order + 1):
        weight = 1 if shanks else c // 2 + 1
        steps = [b - a for a, b in pairwise(column)]
        column, before = [before[m + 1] + weight * d / (d @ d) for m, d in enumerate(steps)], column
    return column[0]


# -- Lanczos ----------------------------------------------------------------------------------------------------------

LANCZOS = {
    **COMMON,
    "no length": "the factor |g| is forgotten: the first Krylov vector is g/|g|",
    "newton": "the absolute value is forgotten: the Ritz values keep their sign",
    "no root": "the square root is missing: T^{-2} e_1",
    "extended": "Q^T H^2 Q stands for T^2: the square of T leaves the last Krylov vector out",
    "last vector": "e_m stands for e_1",
    "fewer": "one Lanczos step too few",
    "more": "one Lanczos step too many",
    "before": "the damping is added to T before the absolute value",
    "no damping": "the damping is left out",
    "half": "the damping is halved",
    "inside": "the damping is added under the root, as in mode 'square'; mode 'abs' is (|T| + d I)^{-1}",
    "outside": "the damping is added outside the root, as in mode 'abs'; mode 'square' is (T^2 + d^2 I)^{-1/2}",
    "squared betas": "the off-diagonal of T holds beta^2 instead of beta",
}
"""A slip in the Lanczos process -> what is wrong, in words."""


def lanczos(
    task: Task,
    x: Host,
    memory: Any,
    slip: str,
    *,
    products: int,
    damping: float,
    mode: str,
    learning_rate: float,
) -> tuple[Host, Any]:
    """-eta |g| Q f(T) e_1 after m Lanczos steps. Source: Higham (2008), sec. 13.2."""
    h, g = exact(task, x)
    if not (np.isfinite(h).all() and np.isfinite(g).all()):
        return np.full_like(g, np.nan), None
    q = krylov_basis(h, g, products + {"fewer": -1, "more": 1}.get(slip, 0))
    if q.shape[1] == 0:
        return np.zeros_like(g), None
    t = q.T @ h @ q
    if slip == "squared betas":
        t = np.where(np.eye(len(t), dtype=bool), t, t**2)
    right = q.T @ g
    if slip == "no length":
        right = right / np.linalg.norm(g)
    if slip == "last vector":
        right = right[::-1]
    if slip == "extended":
        values, u = np.linalg.eigh(q.T @ h @ h @ q)
        values = np.sqrt(np.maximum(values, 0.0))
    else:
        values, u = np.linalg.eigh(t)
    inverse = damped_magnitudes(values, damping, mode, slip)
    return sent(q @ (u @ (inverse * (u.T @ right))), learning_rate, slip), None


def krylov_basis(h: Host, g: Host, steps: int) -> Host:
    """Orthonormal columns that span g, Hg, …, orthogonalized twice; fewer where the space is exhausted."""
    basis, v = np.empty((len(g), 0)), g
    for _ in range(min(steps, len(g))):
        size, rest = np.linalg.norm(v), v
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        if not np.linalg.norm(rest) > 1e-10 * size:
            break
        basis = np.c_[basis, rest / np.linalg.norm(rest)]
        v = h @ basis[:, -1]
    return basis
