"""Accelerators of the series on random Hessians: the study of the series paper's Figure 10, with bands (chapter 5).

A draw is a Gaussian symmetric matrix with a Gaussian gradient. The partial sums of the series are computed once for
all draws together; every accelerator then sees the same sums. Nothing here plots or prints.

Source: series paper, sec. B.5 and Figure 10 (n = 100, 1000 terms, orders 1 and 2). V = 1000 is what the released
plotting script passes; the paper does not name it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, Backend, check_count, get_backend, to_numpy
from refimpl.curvature.acceleration import AcceleratorName, accelerate, rows_needed
from refimpl.curvature.series import partial_sums
from refimpl.problems.spectra import gaussian

SCALE = 1000.0
"""V of the study. The largest h^2 of a draw with n = 100 is about 400."""

Curve = tuple[AcceleratorName | None, int]
"""An accelerator with its order N; (None, 0) is the series as it is."""

PLAIN: Curve = (None, 0)
PAPER_CURVES: tuple[Curve, ...] = (
    PLAIN,
    ("shanks", 1),
    ("shanks", 2),
    ("sablonniere", 1),
    ("sablonniere", 2),
    ("levin-t", 1),
    ("levin-t", 2),
    ("pade-hybrid", 1),
)
"""What the paper's figure shows. The Padé form has no order, so its two curves there are one."""
OTHER_CURVES: tuple[Curve, ...] = (
    ("vector-rho", 1),
    ("vector-rho", 2),
    ("topological-epsilon", 1),
    ("topological-epsilon", 2),
    ("topological-rho", 1),
    ("topological-rho", 2),
    ("pade-aitken", 1),
    ("d2", 1),
    ("d2", 2),
)
"""What the paper tried and does not show, and the second Padé form."""


class Ensemble(NamedTuple):
    """Draws side by side, NumPy float64: ``matrices`` (S, n, n), ``gradients`` (S, n), the ``exact`` directions
    |H|^{-1} g (S, n), and of each draw the ``largest`` h^2 and the ``smallest`` |h|, (S,)."""

    matrices: np.ndarray
    gradients: np.ndarray
    exact: np.ndarray
    largest: np.ndarray
    smallest: np.ndarray


class Errors(NamedTuple):
    """How far an approximation is from the exact direction; all (..., S).

    direction : 1 - cosine, from 0 (right) to 2 (opposite). length : norm over the right norm, 1 is right.
    relative : norm of the difference over the right norm.
    """

    direction: np.ndarray
    length: np.ndarray
    relative: np.ndarray


def ensemble(draws: int = 20, n: int = 100) -> Ensemble:
    """The draws with seeds 0 … ``draws`` - 1 of :func:`refimpl.problems.spectra.gaussian`.

    Cost: two eigendecompositions per draw.

    >>> ensemble(2, 5).exact.shape
    (2, 5)
    """
    problems = [gaussian(seed, n) for seed in range(check_count("draws", draws))]
    return Ensemble(
        np.stack([problem.matrix for problem in problems]),
        np.stack([problem.gradient for problem in problems]),
        np.stack([problem.direction() for problem in problems]),
        np.array([problem.largest**2 for problem in problems]),
        np.array([problem.smallest for problem in problems]),
    )


def series_sums(
    draws: Ensemble, *, terms: int = 1000, scale: Any = SCALE, backend: Backend | None = None
) -> list[Array]:
    """The partial sums s_0 … s_{K-1} of the series, divided by sqrt(V): ``terms`` arrays (S, n).

    Parameters
    ----------
    draws : what :func:`ensemble` gives. terms : K. scale : V, one number or one per draw, (S,).
    backend : where everything is computed, the matrix and the powers included; None for NumPy float64.

    Notes
    -----
    2 (K - 1) products for each draw.
    """
    place = backend or get_backend()
    matrices, gradients = place.asarray(draws.matrices), place.asarray(draws.gradients)
    v = place.asarray(np.broadcast_to(np.asarray(scale, dtype=float), draws.largest.shape))
    root = place.xp.sqrt(v)[:, None]
    terms_of = partial_sums(
        lambda w: place.xp.matmul(matrices, w[..., None])[..., 0], gradients, terms=check_count("terms", terms), scale=v
    )
    return [term.total / root for term in terms_of]


def errors(approximation: Any, exact: Any) -> Errors:
    """Direction, length and vector error of ``approximation`` (..., n) against ``exact`` (..., n), in float64.

    >>> errors([0.0, 2.0], [0.0, 4.0])
    Errors(direction=np.float64(0.0), length=np.float64(0.5), relative=np.float64(0.5))
    """
    found, right = np.asarray(to_numpy(approximation), dtype=float), np.asarray(to_numpy(exact), dtype=float)
    size, right_size = np.linalg.norm(found, axis=-1), np.linalg.norm(right, axis=-1)
    cosine = np.sum(found * right, axis=-1) / (size * right_size)
    return Errors(1.0 - cosine, size / right_size, np.linalg.norm(found - right, axis=-1) / right_size)


def study(
    sums: Sequence[Array],
    exact: Any,
    lengths: Sequence[int],
    curves: Sequence[Curve] = PAPER_CURVES + OTHER_CURVES,
    *,
    strided: bool = False,
) -> dict[Curve, Errors]:
    """The errors of every curve after the first k of the ``sums``, for k in ``lengths``; arrays (lengths, S).

    Where k is too short for the accelerator the entries are NaN. No products.
    """
    width = exact.shape[:-1]
    found: dict[Curve, Errors] = {}
    for method, order in curves:
        shortest = rows_needed(method, order) if method else 1
        rows = []
        for k in lengths:
            if k < shortest:
                rows.append(Errors(*[np.full(width, np.nan)] * 3))
            else:
                guess = accelerate(sums[:k], method, order, strided=strided) if method else sums[k - 1]
                rows.append(errors(guess, exact))
        found[method, order] = Errors(*(np.stack(column) for column in zip(*rows, strict=True)))
    return found


def medians(found: Mapping[Curve, Errors]) -> dict[Curve, Errors]:
    """Medians over the draws: arrays (lengths,)."""
    return {curve: Errors(*(np.median(part, axis=-1) for part in of_curve)) for curve, of_curve in found.items()}
