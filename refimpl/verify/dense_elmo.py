"""ELMO, cubic regularization, Sophia and AMOS once more, with dense NumPy, right or with one slip of the usual kind.

What a wrong answer is compared with: if it is the answer of a slip, that slip is the likely cause.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Answer = dict[str, Any]

ALONG_SLIPS: dict[str, str] = {
    "printed": "the printed (s - lam)/L cancels where lam > 0 and L g is small beside lam^2: take 2g/(lam + s) there",
    "rationalized": "2g/(lam + s) is 0/0 where lam < 0 and g is small: take (s - lam)/L for lam <= 0",
    "magnitude": "|lam| stands for lam: with negative curvature the step is longer, not shorter",
    "half": "the root is of lam^2 + L g; it needs 2 L g",
    "sigma": "L was taken for the sigma of cubic regularization, or the other way round: sigma = L/2",
    "saddle-free": "the constant is left out: g/|lam|",
    "no slope": "the slope is left out of the root: that is the step at a critical point",
    "squared slope": "g^2 stands for g under the root",
    "other root": "the other root of the quadratic: it is negative",
}
"""A slip in the step along one eigenvector -> what is wrong, in words."""

BOUNDS_SLIPS: dict[str, str] = {
    "third": "L/3 stands for L/6: that is the weight sigma/3 of cubic regularization, with sigma = L/2",
    "no half": "the quadratic term lacks the factor 1/2",
    "uphill": "the sign of the slope: along the flipped eigenvector it is -g",
    "signed": "x^3 stands for |x|^3: on the other side the bound is no bound",
    "swapped": "majorizer and minorizer are interchanged",
}
"""A slip in the cubic bounds -> what is wrong, in words."""

DIRECTION_SLIPS: dict[str, str] = {
    "uphill": "the sign: the step goes along -sign(v·g) v",
    "not flipped": "the eigenvectors are not flipped: every step goes along +v, whatever the side that eigh returned",
    "coordinates": "the step is left in the basis of the eigenvectors: multiply by V",
    "transposed": "V^T stands for V",
    "other order": "the constants belong to the eigenvalues in ascending order, not in descending",
    "one constant": "the largest constant is used in all directions",
    "tie": "where the slope is zero and lam < 0 nothing moves: sign(0) = 0 is no side, take the tie's",
    "other tie": "the tie is taken the other way round: the largest component of v counts as positive",
    "magnitude": "|lam| stands for lam",
    "sigma": "L was taken for sigma, or the other way round: sigma = L/2",
    "newton": "the constants are left out: this is Newton's step",
    "reduction": "the predicted change has the wrong sign: it is negative when all is well",
}
"""A slip in ELMO's step in all directions -> what is wrong, in words."""

CUBIC_SLIPS: dict[str, str] = {
    "no hard case": "the hard case is left out: where g is orthogonal to the lowest eigenvectors and |s| at "
    "nu = -lam_1 is below nu/sigma, what is missing goes along a lowest eigenvector",
    "half sigma": "sigma was taken for L: the model's cubic term is sigma/3 |s|^3, not sigma/6 |s|^3",
    "twice sigma": "the condition is nu = sigma|s|, not 2 sigma|s|",
    "magnitudes": "|H| stands for H: that is a saddle-free step",
    "uphill": "the sign: s = +(H + nu I)^{-1} g leads uphill",
    "newton": "the cubic term is left out: this is Newton's step",
    "length": "the multiplier is nu = sigma|s|, not |s|",
    "no cube": "the model lacks its cubic term",
    "no half": "the model lacks the factor 1/2 of the curvature",
    "reduction": "the model's value has the wrong sign: it is negative when all is well",
}
"""A slip in the cubic-regularized subproblem -> what is wrong, in words."""

SOPHIA_SLIPS: dict[str, str] = {
    "no count": "the square of the mean gradient is not multiplied by the number of samples N",
    "squared count": "h is scaled by N^2: the gradient is that of a sum, squared, and multiplied by N as well",
    "no clip": "the quotient m/(rho h) is not clipped to 1",
    "no rho": "rho is left out of the quotient",
    "gradient": "the gradient stands for its running mean m",
    "old curvature": "h is used before it is renewed",
    "coupled": "the decay is added to the gradient; it belongs beside the step",
    "decay without rate": "the weights shrink by weight_decay, not by learning_rate times weight_decay",
    "corrected": "h is divided by 1 - beta2: Sophia does not correct the means for their start",
    "weights": "the weights of old and new are interchanged",
}
"""A slip in a step of Sophia -> what is wrong, in words."""

AMOS_SLIPS: dict[str, str] = {
    "mean of h": "the slope of h, Sophia's running mean, is measured; it is that of the estimates",
    "zero distance": "a displacement of zero is divided by epsilon2; it says nothing and is skipped",
    "element": "the distance is that of each coordinate, not of the whole vector",
    "squared": "the squared distance stands for the distance",
    "signed": "differences of either sign cancel in the mean: take their magnitudes",
    "not corrected": "the L of a group is not divided by 1 - alpha^updates",
    "by times": "1 - alpha^k counts Hessian times; it counts updates",
    "first": "the differences are to the first estimate, not to the previous one",
    "not strict": "a group whose L equals the threshold is offloaded; it must be above",
    "sum": "the L of a group is the sum over its coordinates, not their mean",
}
"""A slip in the constants of AMOS -> what is wrong, in words."""


def elmo_step(eigenvalue: Any, slope: Any, lipschitz: Any, *, slip: str = "") -> Any:
    """x* entry by entry. Source: ELMO paper, eq. 7."""
    lam, g, bound = (np.asarray(v, dtype=float) for v in (eigenvalue, slope, lipschitz))
    lam = np.abs(lam) if slip == "magnitude" else lam
    bound = 2.0 * bound if slip == "sigma" else bound
    g = {"half": 0.5 * g, "no slope": 0.0 * g, "squared slope": g * g}.get(slip, g)
    s = np.sqrt(lam * lam + 2.0 * bound * g)
    if slip == "saddle-free":
        return g / np.abs(lam)
    if slip == "other root":
        return -(s + lam) / bound
    printed, rationalized = (s - lam) / bound, 2.0 * g / (lam + s)
    if slip in ("printed", "rationalized"):
        return printed if slip == "printed" else rationalized
    return np.where(lam > 0, rationalized, printed)


def cubic_bounds(step: Any, eigenvalue: Any, slope: Any, lipschitz: Any, *, slip: str = "") -> Answer:
    """``majorizer`` and ``minorizer`` at a step. Source: ELMO paper, eqs. 3 and 4."""
    x, lam, g, bound = (np.asarray(v, dtype=float) for v in (step, eigenvalue, slope, lipschitz))
    quadratic = (g if slip == "uphill" else -g) * x + lam * x * x * (1.0 if slip == "no half" else 0.5)
    cubic = bound * (x if slip == "signed" else np.abs(x)) * x * x / (3.0 if slip == "third" else 6.0)
    cubic = -cubic if slip == "swapped" else cubic
    return {"majorizer": quadratic + cubic, "minorizer": quadratic - cubic}


def elmo_direction(hessian: Any, gradient: Any, lipschitz: Any, tie: int = 1, *, slip: str = "") -> Answer:
    """``step`` (n,) and ``predicted_change``, for simple eigenvalues. Source: ELMO paper, Algorithm 1."""
    h, g, bound = (np.asarray(v, dtype=float) for v in (hessian, gradient, lipschitz))
    values, vectors = np.linalg.eigh(h)
    bound = (
        bound[::-1] if slip == "other order" else np.full_like(bound, bound.max()) if slip == "one constant" else bound
    )
    c = vectors.T @ g
    heads = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=0)[None, :], axis=0)[0]
    flat = np.abs(c) <= 1e-14 * np.linalg.norm(g)
    side = {"tie": 0.0, "other tie": -tie}.get(slip, tie) * np.sign(heads)
    sides = np.where(flat, side, -np.sign(c))
    sides = np.ones_like(sides) if slip == "not flipped" else -sides if slip == "uphill" else sides
    slopes = np.where(flat, 0.0, np.abs(c))
    if slip == "newton":
        step = -vectors @ (c / values)
        return {"step": step, "predicted_change": g @ step + 0.5 * step @ h @ step}
    x = elmo_step(values, slopes, bound, slip=slip if slip in ("magnitude", "sigma") else "")
    basis = {"coordinates": np.eye(len(g)), "transposed": vectors.T}.get(slip, vectors)
    change = float(np.sum(cubic_bounds(x, values, slopes, bound)["majorizer"]))
    return {"step": basis @ (sides * x), "predicted_change": -change if slip == "reduction" else change}


def cubic_step(matrix: Any, gradient: Any, sigma: float, *, slip: str = "") -> Answer:
    """``step`` s (k,), ``multiplier`` nu and ``model``, the least value of g·s + s·Hs/2 + sigma/3 |s|^3.

    Halving of intervals for nu: slow and plain. Source: Cartis, Gould & Toint (2011a), theorem 3.1.
    """
    h, g, weight = np.asarray(matrix, dtype=float), np.asarray(gradient, dtype=float), float(sigma)
    true, values_of = h, np.linalg.eigh
    if slip == "magnitudes":
        values, vectors = values_of(h)
        h = (vectors * np.abs(values)) @ vectors.T
    weight *= {"half sigma": 0.5, "twice sigma": 2.0}.get(slip, 1.0)
    values, vectors = values_of(h)
    c, lowest = vectors.T @ g, values[0]
    base, size = max(0.0, -lowest), np.abs(values).max() + np.sqrt(weight * np.linalg.norm(g))
    pole = values - lowest <= 1e-12 * size
    gaps = np.where(pole, max(lowest, 0.0), values + base)
    if slip == "newton":
        s, nu = -np.linalg.pinv(h) @ g, 0.0
    else:
        blind = bool((np.abs(c[pole]) <= 1e-14 * np.linalg.norm(g)).all())
        off = np.where(pole & blind, 0.0, c)
        at_pole = -vectors @ np.where(pole, 0.0, c / np.where(gaps > 0, gaps, 1.0))
        missing = (base / weight) ** 2 - at_pole @ at_pole
        if blind and lowest < 0 and missing >= 0:
            v = vectors[:, 0] * np.sign(vectors[np.argmax(np.abs(vectors[:, 0])), 0])
            s, nu = at_pole if slip == "no hard case" else at_pole + np.sqrt(missing) * v, base
        else:
            # nu = base + y, with y halved between powers of ten: all digits of a y near zero.
            low, high = 1e-300, size
            for _ in range(200):
                y = np.sqrt(low) * np.sqrt(high) if high > 4 * low else 0.5 * (low + high)
                s = -vectors @ np.where(off == 0, 0.0, off / (gaps + y))
                low, high = (y, high) if weight * np.linalg.norm(s) > base + y else (low, y)
            nu = base + high
    s = -s if slip == "uphill" else s
    length = float(np.linalg.norm(s))
    cube = 0.0 if slip == "no cube" else float(sigma) / 3.0 * length**3
    model = g @ s + (1.0 if slip == "no half" else 0.5) * s @ true @ s + cube
    return {
        "step": s, "multiplier": length if slip == "length" else nu, "model": -model if slip == "reduction" else model,
    }  # fmt: skip


def sophia_step(
    place: Any,
    gradient: Any,
    mean: Any,
    curvature: Any,
    sampled_gradient: Any,
    samples: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    rho: float,
    weight_decay: float,
    *,
    slip: str = "",
) -> Answer:
    """``place``, ``mean`` m and ``curvature`` h after one step, (n,) each. Source: Liu et al. (2024), algorithm 3."""
    x, g, m, h = (np.asarray(v, dtype=float) for v in (place, gradient, mean, curvature))
    old, eta, share = h, float(learning_rate), 1.0 - float(learning_rate) * weight_decay
    if slip == "coupled":
        g, share = g + weight_decay * x, 1.0
    b1, b2 = (1 - beta1, 1 - beta2) if slip == "weights" else (beta1, beta2)
    m = b1 * m + (1 - b1) * g
    if sampled_gradient is not None:
        count = {"no count": 1, "squared count": samples**2}.get(slip, samples)
        h = b2 * h + (1 - b2) * count * np.asarray(sampled_gradient, dtype=float) ** 2
    used = old if slip == "old curvature" else h / (1 - beta2) if slip == "corrected" else h
    top = np.asarray(gradient, dtype=float) if slip == "gradient" else m
    quotient = np.abs(top) / ((1.0 if slip == "no rho" else rho) * used + 1e-15)
    quotient = quotient if slip == "no clip" else np.minimum(quotient, 1.0)
    share = 1.0 - weight_decay if slip == "decay without rate" else share
    return {"place": share * x - eta * np.sign(top) * quotient, "mean": m, "curvature": h}


def amos_lipschitz(
    estimates: Any,
    places: Any,
    sizes: Any,
    alpha: float,
    epsilon2: float,
    threshold: float,
    aggregation: str = "mean",
    *,
    slip: str = "",
) -> Answer:
    """``lipschitz`` of each coordinate, ``group_lipschitz``, corrected, and ``offloaded`` after each Hessian time.

    Source: ELMO paper, Algorithm 2, with bias correction.
    """
    seen, xs, ends = (
        np.asarray(estimates, dtype=float),
        np.asarray(places, dtype=float),
        np.cumsum(sizes)[:-1].astype(int),
    )
    if slip == "mean of h":
        h, seen_of = np.zeros_like(seen[0]), []
        for estimate in seen:
            h = 0.99 * h + 0.01 * estimate
            seen_of.append(h)
        seen = np.stack(seen_of)
    bound, updates = np.zeros_like(seen[0]), 0
    found: Answer = {"lipschitz": [], "group_lipschitz": [], "offloaded": []}
    for k in range(len(seen)):
        if k > 0:
            before = 0 if slip == "first" else k - 1
            moved = xs[k] - xs[before]
            distance = np.abs(moved) if slip == "element" else np.full_like(moved, np.linalg.norm(moved))
            counts = distance > 0
            distance = distance**2 if slip == "squared" else distance
            change = seen[k] - seen[before]
            slope = (change if slip == "signed" else np.abs(change)) / (epsilon2 + distance + 1e-300)
            if slip == "zero distance" or counts.any():
                bound, updates = alpha * bound + (1 - alpha) * slope, updates + 1
        found["lipschitz"].append(bound)
        number = k if slip == "by times" else updates
        known = bound if slip == "not corrected" or number == 0 else bound / (1 - alpha**number)
        reduce = {"max": np.max, "mean": np.sum if slip == "sum" else np.mean}[aggregation]
        groups = np.array([reduce(part) for part in np.split(known, ends)])
        found["group_lipschitz"].append(groups)
        found["offloaded"].append((groups >= threshold if slip == "not strict" else groups > threshold).astype(float))
    return found
