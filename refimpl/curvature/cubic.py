"""Cubic models: of the worst case along one eigenvector, and the cubic-regularized model in k dimensions.

Along an eigenvector with eigenvalue lam, flipped so that the slope there is -g <= 0, a loss whose curvature changes by
at most L per unit of length lies between the minorizer and the majorizer

    m(x) = -g x + lam x^2/2 - L|x|^3/6   and   M(x) = -g x + lam x^2/2 + L|x|^3/6.

The functions of (lam, g, L) below work entry by entry on arrays of any shape, or on plain numbers, and broadcast;
nothing is checked and nothing is read back to the host. :func:`cubic_step` solves the model with one constant for all
directions.

Source: ELMO paper ("Optimizer selection based on function-proxy proximity"), sec. 3.1 and 3.2.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from scipy.linalg import lapack

from refimpl.arrays import Array, backend_of, check_positive, get_backend, namespace
from refimpl.curvature.trust_region import checked_model

Kind = Literal["regular", "hard", "zero"]

_EPS = 2.0**-52


def elmo_step(eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """The minimizer x >= 0 of the majorizer M: ELMO's step along one eigenvector.

    Parameters
    ----------
    eigenvalue : lam, any sign.
    slope : g >= 0, the magnitude of the slope.
    lipschitz : L >= 0.

    Returns
    -------
    Array
        x with M'(x) = 0: infinite where L = 0 and the model has no minimum (lam < 0, or lam = 0 < g), else finite.

    Notes
    -----
    x = 2g/(lam + s) for lam > 0 and (s - lam)/L otherwise, with s = sqrt(lam^2 + 2Lg) formed as a hypotenuse. Either
    formula alone can lose all digits in the other's half: the printed (s - lam)/L returns 0 at lam = 1, g = L = 1e-8.
    With g = 0 < -lam both ends +-2|lam|/L are minima; this returns the positive one.

    Source: ELMO paper, eq. 7; Griewank (1981) and Nesterov & Polyak (2006) for the model in one dimension.

    >>> round(float(elmo_step(1.0, 1.0, 1.0)), 12)
    0.732050807569
    >>> float(elmo_step(-1.0, 0.0, 0.5))
    4.0
    """
    lam, g, bound = _arrays(eigenvalue, slope, lipschitz)
    xp = namespace(lam)
    s = root(lam, g, bound)
    convex = lam > 0
    rational = g / xp.where(convex, 0.5 * lam + 0.5 * s, xp.ones_like(s))
    positive = bound > 0
    concave = (s - lam) / xp.where(positive, bound, xp.ones_like(bound))
    unbounded = xp.full_like(s, float("inf"))
    flat = xp.where((lam < 0) | (g > 0), unbounded, xp.zeros_like(s))
    return xp.where(convex, rational, xp.where(positive, concave, flat))


def root(eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """s = sqrt(lam^2 + 2 L g), without forming a square: M''(x*) = s at ELMO's step."""
    lam, g, bound = _arrays(eigenvalue, slope, lipschitz)
    xp = namespace(lam)
    # Times 2.0**0.5 between the roots: 2 L alone may overflow.
    return xp.hypot(lam, xp.sqrt(bound) * 2.0**0.5 * xp.sqrt(g))


def majorizer(x: Any, eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """M(x) = -g x + lam x^2/2 + L|x|^3/6: the most that the loss may have changed after a step x.

    Source: ELMO paper, eq. 3.
    """
    x, lam, g, bound = _arrays(x, eigenvalue, slope, lipschitz)
    return x * (0.5 * lam * x - g) + bound * namespace(x).abs(x) * x * x / 6.0


def minorizer(x: Any, eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """m(x) = -g x + lam x^2/2 - L|x|^3/6: the least that the loss may have changed.

    Source: ELMO paper, eq. 4.
    """
    x, lam, g, bound = _arrays(x, eigenvalue, slope, lipschitz)
    return x * (0.5 * lam * x - g) - bound * namespace(x).abs(x) * x * x / 6.0


def least_majorizer(eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """M(x*) at ELMO's step, -x*^2 (2s + lam)/6: never positive, without cancellation."""
    return _at_step(eigenvalue, slope, lipschitz, 2.0, 1.0)


def minorizer_at_step(eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """m(x*) at ELMO's step, -x*^2 (4s - lam)/6: between once and five times M(x*), see :func:`least_majorizer`.

    Source: ELMO paper, Lemma C.2.
    """
    return _at_step(eigenvalue, slope, lipschitz, 4.0, -1.0)


def _at_step(eigenvalue: Any, slope: Any, lipschitz: Any, of_root: float, of_eigenvalue: float) -> Array:
    s, lam, x = _arrays(root(eigenvalue, slope, lipschitz), eigenvalue, elmo_step(eigenvalue, slope, lipschitz))
    xp = namespace(s)
    finite = xp.isfinite(x)
    x = xp.where(finite, x, xp.zeros_like(x))
    value = -(x * x) * (of_root * s + of_eigenvalue * lam) / 6.0
    return xp.where(finite, value, xp.full_like(value, float("-inf")))


def cauchy_step(eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """The step to the nearest stationary point, sign(lam)·2g/(|lam| + s): ELMO's for lam >= 0, uphill for lam < 0.

    NaN where lam = g = 0.

    Source: Traub (1982); ELMO paper, appendix F.1.
    """
    lam, g, bound = _arrays(eigenvalue, slope, lipschitz)
    xp = namespace(lam)
    size = g / (0.5 * xp.abs(lam) + 0.5 * root(lam, g, bound))
    return xp.where(lam < 0, -size, size)


def relative_regret(x: Any, eigenvalue: Any, slope: Any, lipschitz: Any) -> Array:
    """u = (x - x*)/x*, how far a step is from ELMO's in units of ELMO's. NaN where x* = 0 (g = 0, lam >= 0).

    Source: ELMO paper, notation 8.
    """
    best = elmo_step(eigenvalue, slope, lipschitz)
    x, best = _arrays(x, best)
    xp = namespace(best)
    moves = best > 0
    return xp.where(moves, (x - best) / xp.where(moves, best, xp.ones_like(best)), xp.full_like(best, float("nan")))


def majorizer_regret(u: Any, rho: Any) -> Array:
    """(M(x) - M(x*))/|M(x*)| as a polynomial in u >= -1, with rho = lam/s in [-1, 1]: u^2 (3 + (1 - rho) u)/(2 + rho).

    Ours; the polynomial behind the ELMO paper's theorem 3.3, which prints another.
    """
    u, rho = _arrays(u, rho)
    return u * u * (3.0 + (1.0 - rho) * u) / (2.0 + rho)


def minorizer_regret(u: Any, rho: Any) -> Array:
    """(m(x) - m(x*))/|m(x*)| for u >= -1: (-6(1 - rho)u + 3(2 rho - 1)u^2 - (1 - rho)u^3)/(4 - rho). Ours, as above."""
    u, rho = _arrays(u, rho)
    return u * (-6.0 * (1.0 - rho) + u * (3.0 * (2.0 * rho - 1.0) - (1.0 - rho) * u)) / (4.0 - rho)


def harmful_above(x: Any, eigenvalue: Any, slope: Any) -> Array:
    """6g/x^2 - 3 lam/x: M(x) >= 0 for a step x > 0, so that no decrease is certain, exactly where L is at least this.

    For Newton's x = g/lam it is 3 lam^2/g.

    Source: ELMO paper, eq. 8, for Newton's step.

    >>> float(harmful_above(0.5, 2.0, 1.0))
    12.0
    """
    x, lam, g = _arrays(x, eigenvalue, slope)
    return (6.0 * g / x - 3.0 * lam) / x


class CubicStep(NamedTuple):
    """The solution of a cubic-regularized subproblem.

    step : s, (k,).

    multiplier : nu = sigma |s|, with (H + nu I) s = -g and H + nu I positive semi-definite.

    kind : ``"regular"``; ``"hard"``, g has no part along the lowest eigenvectors of an indefinite H and s takes what is
    missing from them; ``"zero"``, g = 0 and no negative curvature.

    model : g·s + s·Hs/2 + sigma/3 |s|^3, at most zero.
    """

    step: Array
    multiplier: float
    kind: Kind
    model: float


def cubic_step(matrix: Array, gradient: Array, sigma: float, *, checked: bool = True) -> CubicStep:
    """The global minimizer of g·s + s·Hs/2 + sigma/3 |s|^3, to rounding. H is small and dense, on the host.

    Parameters
    ----------
    matrix : H, symmetric, (k, k).
    gradient : g, (k,).
    sigma : positive. In one dimension sigma = L/2 makes this ELMO's step.
    checked : False skips the checks of the two arrays, which must then be finite NumPy float64.

    Returns
    -------
    CubicStep
        ``step`` in the library, dtype and on the device of ``gradient``. In the hard case both signs along the lowest
        eigenvector are solutions; the one whose largest component is positive is taken.

    Raises
    ------
    ValueError
        Arrays that are not finite numbers of shapes (k, k) and (k,); a matrix that is not symmetric; sigma that is not
        positive.

    Notes
    -----
    One eigendecomposition, then a safeguarded Newton iteration on 1/|s(nu)| = sigma/nu. The unknown is nu's distance
    from max(0, -lowest eigenvalue), so that nothing cancels near the hard case.

    Source: Nesterov & Polyak (2006), sec. 5; Cartis, Gould & Toint (2011a), theorem 3.1 and sec. 6.1.

    >>> import numpy as np
    >>> found = cubic_step(np.diag([-1.0, 2.0]), np.zeros(2), 0.5)
    >>> found.kind, found.step.tolist(), found.multiplier
    ('hard', [2.0, 0.0], 1.0)
    """
    sigma = check_positive("sigma", sigma)
    if checked:
        found = _solve(*checked_model(matrix, gradient), sigma)
        return found._replace(step=backend_of(gradient).asarray(found.step))
    return _solve(matrix, gradient, sigma)


def _solve(h: Array, g: Array, sigma: float) -> CubicStep:
    mu_array, vectors, _ = lapack.dsyevd(h)
    mu: list[float] = mu_array.tolist()
    c: list[float] = (g @ vectors).tolist()
    length = math.hypot(*c)
    size = max(abs(mu[0]), abs(mu[-1]))
    if abs(mu[0]) <= 4 * _EPS * size:
        mu[0] = 0.0  # rounding decides its sign: semi-definite
    lowest = mu[0]
    if length == 0 and lowest >= 0:
        return CubicStep(0.0 * g, 0.0, "zero", 0.0)

    # nu = base + y with y > 0; eigenvalues that rounding cannot tell from the lowest count as the lowest.
    base = max(0.0, -lowest)
    close = lowest + 1e-12 * max(size, math.sqrt(sigma * length))
    bottom = max(0.0, lowest)
    distances = [m + base if m > close else bottom for m in mu]
    along = math.hypot(*(x for x, m in zip(c, mu, strict=True) if m <= close))
    if lowest < 0 and along <= 1e-14 * length:
        weights = [0.0 if d == 0.0 else -x / d for x, d in zip(c, distances, strict=True)]
        missing = (base / sigma) ** 2 - sum(w * w for w in weights)
        if missing >= 0:
            first: list[float] = vectors[:, 0].tolist()
            weights[0] = math.copysign(math.sqrt(missing), max(first, key=abs))
            return _answer(c, weights, vectors, base, "hard")
    parts = [(x, d) for x, d in zip(c, distances, strict=True) if x]
    y = _distance(parts, sigma, base, _between(sigma * along, abs(lowest)), _between(sigma * length, abs(lowest)))
    weights = [-x / (d + y) if x else 0.0 for x, d in zip(c, distances, strict=True)]
    return _answer(c, weights, vectors, base + y, "regular")


def _between(product: float, gap: float) -> float:
    """The positive root of y (y + gap) = product: bounds of y, with the slope along the bottom and the whole of it."""
    return 2.0 * product / (gap + math.sqrt(gap * gap + 4.0 * product)) if product > 0 else 0.0


def _distance(parts: list[tuple[float, float]], sigma: float, base: float, low: float, high: float) -> float:
    """The y in [low, high] with sigma |c/(d + y)| = base + y."""
    low = max(low * (1 - 4 * _EPS), 1e-300)
    y = high = high * (1 + 4 * _EPS)
    if low > 0 and low < high:
        y = low
    for _ in range(200):
        square = cube = 0.0
        for x, d in parts:
            gap = d + y
            w = x / gap
            w *= w
            square += w
            cube += w / gap
        reached, nu = math.sqrt(square), base + y
        if sigma * reached > nu:
            low = max(low, y)
        else:
            high = min(high, y)
        # Newton on 1/|s| - sigma/nu; both terms are increasing and concave in y.
        rise = cube / (square * reached) + sigma / nu / nu if 0 < square * reached < math.inf else math.nan
        following = y - (1.0 / reached - sigma / nu) / rise if 0 < rise < math.inf else math.nan
        if abs(following - y) <= _EPS * y:
            break
        if high > 100 * low:  # far to the left of the root, Newton only doubles y
            following = math.sqrt(low) * math.sqrt(high)
        elif not low < following < high:
            following = 0.5 * (low + high)
        if following == y or high - low <= _EPS * high:
            break
        y = following
    return y


def _answer(c: list[float], weights: list[float], vectors: Array, nu: float, kind: Kind) -> CubicStep:
    length = math.hypot(*weights)
    # s·Hs = -g·s - nu |s|^2 at a solution: two terms of one sign, neither of which is |s|^3.
    model = 0.5 * sum(w * x for w, x in zip(weights, c, strict=True)) - nu / 6.0 * length * length
    return CubicStep(vectors @ weights, nu, kind, min(model, 0.0))


def _arrays(*values: Any) -> tuple[Array, ...]:
    """``values`` as arrays of one library and dtype: plain numbers follow the first array, or become NumPy float64."""
    like = next((backend_of(v) for v in values if not isinstance(v, int | float)), get_backend())
    return tuple(like.asarray(v) if isinstance(v, int | float) else v for v in values)
