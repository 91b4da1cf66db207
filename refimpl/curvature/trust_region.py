"""The trust-region subproblem: the least value of g·p + p·Bp/2 over |p| <= radius, exactly and by two classics.

B is small and dense here, (k, k): the model of a large problem in a subspace. All is computed on the host in float64,
one problem at a time.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from scipy.linalg import lapack

from refimpl.arrays import Array, backend_of, check_positive, host_numbers, namespace
from refimpl.curvature.spectrum import eigen

Kind = Literal["interior", "boundary", "hard", "singular"]

_EPS = 2.0**-52


class TrustRegionStep(NamedTuple):
    """The solution of a trust-region subproblem.

    step : p, (k,).

    multiplier : lam >= 0 with (B + lam I) p = -g and B + lam I positive semi-definite.

    kind : ``"interior"``, lam = 0 and B positive definite; ``"boundary"``, |p| = radius; ``"hard"``, |p| = radius with
    g orthogonal to the lowest eigenvectors of B, where p takes what is missing from them; ``"singular"``, B positive
    semi-definite and p the shortest of many minimizers.

    model : g·p + p·Bp/2, at most zero.
    """

    step: Array
    multiplier: float
    kind: Kind
    model: float


def trust_region_step(matrix: Array, gradient: Array, radius: float, *, checked: bool = True) -> TrustRegionStep:
    """The global minimizer of g·p + p·Bp/2 over |p| <= radius, to rounding.

    Parameters
    ----------
    matrix : B, symmetric, (k, k).
    gradient : g, (k,).
    radius : at least zero.
    checked : False skips the checks of the two arrays, which must then be finite NumPy float64.

    Returns
    -------
    TrustRegionStep
        ``step`` in the library, dtype and on the device of ``gradient``. In the hard case both signs along the lowest
        eigenvector are solutions; the one whose largest component is positive is taken.

    Raises
    ------
    ValueError
        Arrays that are not finite numbers of shapes (k, k) and (k,); a matrix that is not symmetric; a radius below
        zero or not finite.

    Notes
    -----
    One eigendecomposition B = V diag(mu) V^T; then p = -V c/(d + s) with c = V^T g, d = mu - mu_1, where s = lam + mu_1
    solves 1/|p(s)| = 1/radius by a safeguarded Newton iteration. Solving for s, the distance from the pole, and not
    for lam keeps all digits where g is nearly orthogonal to the lowest eigenvector.

    Source: Moré & Sorensen (1983); Conn, Gould & Toint (2000), ch. 7; Nocedal & Wright (2006), theorem 4.1 and sec.
    4.3. KryBall thesis, eq. 2.39 and 4.14.

    >>> import numpy as np
    >>> found = trust_region_step(np.diag([-2.0, 1.0]), np.array([0.0, 3.0]), 2.0)
    >>> found.kind, found.step.round(12).tolist(), found.multiplier
    ('hard', [1.732050807569, -1.0], 2.0)
    """
    if checked:
        b, g = checked_model(matrix, gradient)
        radius = check_positive("radius", radius, zero_allowed=True)
        found = _solve(b, g, radius)
        return found._replace(step=backend_of(gradient).asarray(found.step))
    return _solve(matrix, gradient, float(radius))


def _solve(b: Array, g: Array, radius: float) -> TrustRegionStep:
    # Plain numbers but for the eigenvectors and two products: calls on arrays of seven entries cost more than they do.
    mu_array, vectors, _ = lapack.dsyevd(b)  # what `eigh` calls, without what it does before and after
    mu: list[float] = mu_array.tolist()
    c: list[float] = (g @ vectors).tolist()
    length = math.hypot(*c)
    size = max(abs(mu[0]), abs(mu[-1]))
    if abs(mu[0]) <= 4 * _EPS * size:
        mu[0] = 0.0  # rounding decides its sign: semi-definite
    lowest = mu[0]
    if radius == 0 or (length == 0 and lowest >= 0):
        return TrustRegionStep(0.0 * g, 0.0, "interior" if lowest > 0 else "singular", 0.0)

    if lowest > 0:
        weights = [-x / m for x, m in zip(c, mu, strict=True)]
        if math.hypot(*weights) <= radius:
            return _answer(mu, c, weights, vectors, 0.0, "interior")

    # Eigenvalues that rounding cannot tell from the lowest count as the lowest.
    close = lowest + 1e-12 * max(size, length / radius)
    distances = [m - lowest if m > close else 0.0 for m in mu]
    along = math.hypot(*(x for x, d in zip(c, distances, strict=True) if d == 0.0))
    if lowest <= 0 and along <= 1e-14 * length:
        weights = [0.0 if d == 0.0 else -x / d for x, d in zip(c, distances, strict=True)]
        missing = radius * radius - sum(w * w for w in weights)
        if missing >= 0:
            if lowest == 0:
                return _answer(mu, c, weights, vectors, 0.0, "singular")
            first: list[float] = vectors[:, 0].tolist()
            weights[0] = math.copysign(math.sqrt(missing), max(first, key=abs))
            return _answer(mu, c, weights, vectors, -lowest, "hard")

    shift = _secular_root(c, distances, radius, max(along / radius, lowest, 1e-300), length / radius)
    weights = [-x / (d + shift) for x, d in zip(c, distances, strict=True)]
    rounded = radius / math.hypot(*weights)
    return _answer(mu, c, [rounded * w for w in weights], vectors, max(shift - lowest, 0.0), "boundary")


def _secular_root(c: list[float], distances: list[float], radius: float, low: float, high: float) -> float:
    """The s in [low, high] with |c/(d + s)| = radius: 1/|p(s)| is nearly a straight line, which suits Newton."""
    parts = [(x, d) for x, d in zip(c, distances, strict=True) if x]
    shift = low
    for _ in range(100):
        square = cube = 0.0
        for x, d in parts:
            gap = d + shift
            w = x / gap
            w *= w
            square += w
            cube += w / gap
        reached = math.sqrt(square)
        if abs(reached - radius) <= 4 * _EPS * radius:
            break
        if reached > radius:
            low = max(low, shift)
        else:
            high = min(high, shift)
        following = shift + (reached / radius - 1.0) * square / cube if 0 < cube < math.inf else math.nan
        if not low < following < high:
            following = math.sqrt(low) * math.sqrt(high) if high > 100 * low else 0.5 * (low + high)
        if following == shift or high - low <= _EPS * high:
            break
        shift = following
    return shift


def _answer(
    mu: list[float], c: list[float], weights: list[float], vectors: Array, multiplier: float, kind: Kind
) -> TrustRegionStep:
    """The step with coordinates ``weights`` along the eigenvectors."""
    model = sum(w * (x + 0.5 * m * w) for w, x, m in zip(weights, c, mu, strict=True))
    return TrustRegionStep(vectors @ weights, multiplier, kind, min(model, 0.0))


def dogleg_step(matrix: Array, gradient: Array, radius: float) -> TrustRegionStep:
    """Powell's dogleg: along -g to the model's minimum there, then straight to the Newton step, while |p| <= radius.

    Parameters, errors and result as in :func:`trust_region_step`; a matrix that is not positive definite is a
    ValueError: the Newton step is then no minimum. ``multiplier`` is NaN where the path is cut: p solves no shifted
    system.

    Source: Powell (1970); Nocedal & Wright (2006), eq. 4.16.

    >>> import numpy as np
    >>> dogleg_step(np.diag([1.0, 4.0]), np.array([1.0, 1.0]), 9.0).step.tolist()
    [-1.0, -0.25]
    """
    b, g = checked_model(matrix, gradient)
    radius = check_positive("radius", radius, zero_allowed=True)
    xp = namespace(g)
    values, vectors = eigen(b)
    if not float(values[0]) > 4 * _EPS * abs(float(values[-1])):
        raise ValueError(
            f"the dogleg needs a positive definite matrix, got the eigenvalue {float(values[0]):.3g}; use "
            "trust_region_step or two_dimensional_step"
        )
    newton = -xp.matmul(vectors, xp.matmul(g, vectors) / values)
    bend, slope = float(xp.matmul(g, xp.matmul(b, g))), float(xp.matmul(g, g))
    cauchy = -(slope / bend) * g if slope > 0 else 0.0 * g
    corner, full = math.sqrt(float(xp.matmul(cauchy, cauchy))), math.sqrt(float(xp.matmul(newton, newton)))
    if full <= radius:
        return _returned(_stepped(b, g, newton, 0.0, "interior"), gradient)
    if corner >= radius:
        return _returned(_stepped(b, g, (radius / corner) * cauchy, math.nan, "boundary"), gradient)
    leg = newton - cauchy
    # |cauchy + t leg|^2 = radius^2 for the t in [0, 1], in the form without cancellation.
    a, h, left = float(xp.matmul(leg, leg)), float(xp.matmul(cauchy, leg)), radius * radius - corner * corner
    t = left / (h + math.sqrt(h * h + a * left)) if h > 0 else (math.sqrt(h * h + a * left) - h) / a
    return _returned(_stepped(b, g, cauchy + t * leg, math.nan, "boundary"), gradient)


def two_dimensional_step(matrix: Array, gradient: Array, radius: float) -> TrustRegionStep:
    """The best step within the radius in the plane of g and the Newton step (B + lam I)^{-1} g.

    lam is 0 where B is positive definite, and 1.5 times the magnitude of the lowest eigenvalue where it has a negative
    one, in the interval that Nocedal & Wright recommend. (The thesis asks for lam >= lambda_min(B) below eq. 2.42; it
    takes lam > -lambda_min(B).) Where the lowest eigenvalue is zero, (B + lam I)^{-1} is the pseudo-inverse; where g is
    zero and B has a negative eigenvalue, the plane is that of its eigenvector.

    Parameters, errors and result as in :func:`trust_region_step`; ``multiplier`` is the one of the plane's problem.

    Source: Byrd, Schnabel & Shultz (1988); Nocedal & Wright (2006), sec. 4.1, eq. 4.17 and 4.18.

    >>> import numpy as np
    >>> two_dimensional_step(np.diag([1.0, -4.0]), np.array([1.0, 1.0]), 1.0).kind
    'boundary'
    """
    b, g = checked_model(matrix, gradient)
    radius = check_positive("radius", radius, zero_allowed=True)
    xp = namespace(g)
    values, vectors = eigen(b)
    lowest, cut = float(values[0]), 4 * _EPS * float(xp.max(xp.abs(values)))
    shifted = values + (1.5 * abs(lowest) if lowest < -cut else 0.0)
    coordinates = xp.matmul(g, vectors)
    newton = xp.where(shifted > cut, coordinates / xp.where(shifted > cut, shifted, 1.0), 0.0)
    directions = [g, xp.matmul(vectors, newton)] if float(xp.matmul(g, g)) > 0 else [vectors[:, 0]]
    basis, _ = xp.linalg.qr(xp.stack(directions, axis=1))
    inner = xp.matmul(basis.T, xp.matmul(b, basis))
    found = _solve(0.5 * (inner + inner.T), xp.matmul(g, basis), radius)
    return _returned(found._replace(step=xp.matmul(basis, found.step)), gradient)


def _stepped(b: Array, g: Array, step: Array, multiplier: float, kind: Kind) -> TrustRegionStep:
    return TrustRegionStep(step, multiplier, kind, min(float(step @ (g + 0.5 * (b @ step))), 0.0))


def _returned(found: TrustRegionStep, like: Array) -> TrustRegionStep:
    return found._replace(step=backend_of(like).asarray(found.step))


def checked_model(matrix: Any, gradient: Any) -> tuple[Array, Array]:
    b, g = host_numbers("matrix", matrix), host_numbers("gradient", gradient)
    xp = namespace(g)
    if g.ndim != 1 or g.shape[0] == 0 or b.shape != (g.shape[0], g.shape[0]):
        raise ValueError(f"matrix and gradient must have shapes (k, k) and (k,), got {b.shape} and {g.shape}")
    if not (bool(xp.all(xp.isfinite(b))) and bool(xp.all(xp.isfinite(g)))):
        raise ValueError("matrix and gradient must be finite, but they hold NaN or infinity")
    gap, size = float(xp.max(xp.abs(b - b.T))), float(xp.max(xp.abs(b)))
    if gap > 1e-7 * size:
        raise ValueError(f"matrix must be symmetric, but |B - B^T| reaches {gap:.3g}; use (B + B^T)/2 if that is meant")
    return 0.5 * (b + b.T), g
