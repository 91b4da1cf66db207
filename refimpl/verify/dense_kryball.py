"""Trust regions and one step of KryBall once more, with dense NumPy matrices, right or with one slip of the usual kind.

What a wrong answer is compared with: if it is the answer of a slip, that slip is the likely cause.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Answer = dict[str, Any]

REGION_SLIPS: dict[str, str] = {
    "no radius": "the radius is not enforced: this is the Newton step, whatever its length",
    "cut": "the Newton step is shortened to the radius; the minimizer turns towards -g as the radius shrinks: solve "
    "(B + lam I) p = -g for the lam with |p| = radius",
    "no hard case": "the hard case is left out: where g is orthogonal to the lowest eigenvectors and p at lam = -mu_1 "
    "is shorter than the radius, what is missing goes along a lowest eigenvector",
    "never inside": "the step always goes to the boundary; where B is positive definite and the Newton step is short "
    "enough, lam = 0",
    "magnitudes": "|B| stands for B: that is a saddle-free step, not the minimizer of g·p + p·Bp/2",
    "uphill": "the sign: p = +(B + lam I)^{-1} g leads uphill",
    "distance": "the multiplier is the distance lam + mu_1 from the pole, not lam",
    "no half": "the model lacks the factor 1/2 of the curvature",
    "reduction": "the model's value has the wrong sign: it is negative when all is well",
}
"""A slip in a trust-region subproblem -> what is wrong, in words."""

PROJECTED_SLIPS: dict[str, str] = {
    "no length": "|g| is left out: the first Krylov vector is g/|g|, so Q^T g = |g| e_1 (the thesis's eq. 4.12 has no "
    "|g|); what is left is a direction",
    "signed": "T^{-1} stands for |T|^{-1}: a Newton step in the space",
    "uphill": "the sign: the step has to be subtracted",
    "last vector": "e_M stands for e_1",
    "root": "|T|^{-1} needs 1/|mu|, not its root",
    "no clip": "small magnitudes are not raised to the bound",
    "added clip": "the bound is added to the magnitudes instead of being their least value",
}
"""A slip in the projected saddle-free step -> what is wrong, in words."""

STEP_SLIPS: dict[str, str] = {
    "no momentum": "the momentum is not among the directions",
    "no saddle-free direction": "the projected saddle-free step is not among the directions",
    "newton direction": "the direction in the Krylov space is Newton's, T^{-1} e_1: take |T|",
    "old products": "what was known of H at the last refresh is used where products of today are asked for",
    "new products": "products of today are made where what is known from the last refresh should be used",
    "no radius": "the radius is not enforced in the subspace",
    "cut": "Newton's step of the subspace is shortened to the radius, instead of the minimizer within it",
    "ratio's sign": "the sign of the ratio: f(x + p) - f(x) and the predicted change are both negative when all is "
    "well",
    "ratio inverted": "the ratio is predicted over actual, not actual over predicted",
    "taken anyway": "a step whose loss rises is taken",
    "reversed": "the radius grows where it should shrink, and shrinks where it should grow",
    "no shrinking": "the radius does not shrink where the ratio is below 1/4",
    "no growing": "the radius does not grow where the ratio is above 3/4 at the boundary",
    "grows inside": "the radius grows although the step ended inside the region",
    "no maximum": "the radius grows beyond its bound",
    "shrinks from the radius": "a refused step that ended inside shrinks the radius from its own length: half of |p|, "
    "not half of Delta",
}
"""A slip in a step of KryBall -> what is wrong, in words."""


def trust_region_step(matrix: Any, gradient: Any, radius: float, *, slip: str = "") -> Answer:
    """``step`` p (k,), ``multiplier`` lam and ``model``, the minimum of g·p + p·Bp/2 over |p| <= radius.

    Halving of intervals for lam: slow and plain. Source: Nocedal & Wright (2006), theorem 4.1.
    """
    b, g, delta = np.asarray(matrix, dtype=float), np.asarray(gradient, dtype=float), float(radius)
    true = b
    if slip == "magnitudes":
        values, vectors = np.linalg.eigh(b)
        b = (vectors * np.abs(values)) @ vectors.T
    values, vectors = np.linalg.eigh(b)
    c, lowest, size = vectors.T @ g, values[0], np.abs(values).max() + np.linalg.norm(g) / delta
    pole = values - lowest <= 1e-12 * size

    def at(lam: float) -> Any:
        gaps = values + lam
        there = np.abs(gaps) > 1e-12 * size
        return -vectors @ np.where(there, c / np.where(there, gaps, 1.0), 0.0)

    blind = bool((np.abs(c[pole]) <= 1e-14 * np.linalg.norm(g)).all())
    p, lam = at(0.0), 0.0
    solved = slip == "no radius"
    if slip == "cut":
        p, solved = p * min(1.0, delta / max(float(np.linalg.norm(p)), 1e-300)), True
    semi = lowest > 1e-12 * size or (lowest >= -1e-12 * size and blind)
    if not solved and not (semi and np.linalg.norm(p) <= delta and slip != "never inside"):
        low = max(-lowest, 0.0) if slip != "never inside" else -lowest
        p, lam = at(low), low
        missing = delta**2 - p @ p
        if blind and missing >= 0 and lowest < 0:
            v = vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])
            p = p if slip == "no hard case" else p + np.sqrt(missing) * v
        else:
            # lam = low + t, with t halved between powers of ten: all digits of a t near zero.
            low_t, high_t = 1e-300, float(np.linalg.norm(g)) / delta + size
            for _ in range(100):
                t = np.sqrt(low_t) * np.sqrt(high_t) if high_t > 4 * low_t else 0.5 * (low_t + high_t)
                parts = -vectors @ (c / (values + low + t if lowest > -low else values - lowest + t))
                low_t, high_t = (t, high_t) if np.linalg.norm(parts) > delta else (low_t, t)
            p, lam = parts, low + high_t
    if slip == "uphill":
        p = -p
    value = g @ p + (1.0 if slip == "no half" else 0.5) * p @ true @ p
    return {
        "step": p, "multiplier": lam + (lowest if slip == "distance" and lam > 0 else 0.0),
        "model": -value if slip == "reduction" else value,
    }  # fmt: skip


def krylov(matrix: Any, start: Any, steps: int) -> Any:
    """An orthonormal basis of the Krylov space, as columns, from Householder QR; shorter where it is exhausted."""
    basis, v = np.empty((len(start), 0)), np.asarray(start, dtype=float)
    for _ in range(min(steps, len(start))):
        rest = v - basis @ (basis.T @ v)
        if not np.linalg.norm(rest) > 1e-10 * max(float(np.linalg.norm(v)), 1e-300):
            break
        basis = np.linalg.qr(np.c_[basis, rest / np.linalg.norm(rest)])[0]
        v = matrix @ basis[:, -1]
    return basis


def projected_step(
    matrix: Any,
    gradient: Any,
    steps: int,
    clip_absolute: float = 1e-8,
    clip_relative: float = 1e-6,
    *,
    slip: str = "",
) -> Any:
    """-|g| Q |T|^{-1} e_1 with T = Q^T H Q, (n,).

    Source: KryBall thesis, eqs. 4.7-4.12.
    """
    h, g = np.asarray(matrix, dtype=float), np.asarray(gradient, dtype=float)
    q = krylov(h, g, steps)
    values, u = np.linalg.eigh(q.T @ h @ q)
    sizes = np.abs(values)
    least = max(clip_absolute, clip_relative * sizes.max())
    if slip == "added clip":
        sizes = sizes + least
    elif slip == "signed":
        sizes = np.sign(values) * np.maximum(sizes, least)
    elif slip != "no clip":
        sizes = np.maximum(sizes, least)
    right = q.T @ g
    if slip == "no length":
        right = right / np.linalg.norm(g)
    if slip == "last vector":
        right = right[::-1]
    s = -q @ (u @ ((u.T @ right) / (np.sqrt(sizes) if slip == "root" else sizes)))
    return -s if slip == "uphill" else s


def step(
    hessian: Any,
    gradient: Any,
    quartic: Any,
    momentum: Any,
    radius: float,
    dimension: int,
    directions: str,
    basis: Any = None,
    matrix: Any = None,
    stale: str = "exact",
    maximum_radius: float = 1000.0,
    *,
    change: Callable[[Any], float] | None = None,
    slip: str = "",
) -> Answer:
    """``step``, by which x moves (n,), ``predicted_change``, ``ratio`` and the next ``radius``; and the ``trial`` step.

    Parameters
    ----------
    hessian, gradient, quartic : the loss is g·s + s·Hs/2 + sum_i quartic_i s_i^4/4 around the place.
    momentum, radius : z (n,) and Delta.
    dimension, directions, stale, maximum_radius : as of :class:`refimpl.optimizers.kryball.KryBall`, with ``gain=0``
        and ``retries=0``.
    basis, matrix : rows of Q and Q H Q^T from the last refresh; None where the space is built here.
    change : s -> f(x + s) - f(x), in place of the quartic function.
    slip : a key of :data:`STEP_SLIPS`, or nothing for the right answer.

    Source: KryBall thesis, Algorithms 3 and 4.
    """
    h, g, z = (np.asarray(a, dtype=float) for a in (hessian, gradient, momentum))
    z = 0 * z if slip == "no momentum" else z
    if basis is None:
        q = krylov(h, g, dimension)
        vectors = list(q.T)
        if directions == "three":
            kind = "signed" if slip == "newton direction" else ""
            s = projected_step(h, g, dimension, slip=kind)
            vectors = [g] if slip == "no saddle-free direction" else [g, s]
        b = _orthonormal([*vectors, z])
        model = b.T @ h @ b
    else:
        old = np.asarray(basis, dtype=float)
        b = _orthonormal([*([] if stale == "drop" else old), g, z])
        model = b.T @ h @ b
        kept = {"reuse": slip != "new products", "exact": slip == "old products"}
        if kept.get(stale, False):
            model[: len(old), : len(old)] = np.asarray(matrix, dtype=float)
    found = trust_region_step(model, b.T @ g, radius, slip=slip if slip in ("no radius", "cut") else "")
    p, predicted = b @ found["step"], found["model"]
    q4 = np.asarray(0.0 if quartic is None else quartic, dtype=float)
    actual = change(p) if change is not None else float(g @ p + 0.5 * p @ h @ p + (q4 * p**4).sum() / 4)
    ratio = predicted / actual if slip == "ratio inverted" else actual / predicted
    ratio = -ratio if slip == "ratio's sign" else ratio
    accepted = ratio > 0
    following = _radius(ratio, float(np.linalg.norm(p)), float(radius), maximum_radius, slip)
    moved = p if accepted or slip == "taken anyway" else 0 * p
    return {"step": moved, "predicted_change": predicted, "ratio": ratio, "radius": following, "trial": p}


def _radius(ratio: float, length: float, radius: float, most: float, slip: str) -> float:
    bad, good = ratio < 0.25, ratio > 0.75 and (length >= (1 - 1e-6) * radius or slip == "grows inside")
    if slip == "reversed":
        bad, good = good, bad
    if bad and slip != "no shrinking":
        return 0.5 * (radius if ratio > 0 or slip == "shrinks from the radius" else min(radius, length))
    if good and slip != "no growing":
        return 2.0 * radius if slip == "no maximum" else min(2.0 * radius, most)
    return radius


def _orthonormal(vectors: Any) -> Any:
    """Columns: an orthonormal basis of the span, in the order given; what adds nothing is left out."""
    basis = np.empty((len(vectors[0]), 0))
    for vector in vectors:
        rest = np.asarray(vector, dtype=float)
        size = np.linalg.norm(rest)
        for _ in range(2):
            rest = rest - basis @ (basis.T @ rest)
        if np.linalg.norm(rest) > 1e-8 * size:
            basis = np.c_[basis, rest / np.linalg.norm(rest)]
    return basis
