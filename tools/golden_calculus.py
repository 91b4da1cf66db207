"""What the golden vectors are computed with: eigenvalues, and derivatives that need nothing but a formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath as mp

Vector = list[Any]
Case = dict[str, Any]

H = [[2.0, -1.0, 0.5, 0.0], [-1.0, -1.5, 0.25, 0.75], [0.5, 0.25, 1.0, -0.5], [0.0, 0.75, -0.5, 0.125]]
G = [1.0, -0.5, 0.25, 2.0]
SERIES, DAUPHIN = "series paper", "Dauphin et al. (2014)"


def case(name: str, call: str, inputs: Any, expected: Any, source: str, rtol: float = 1e-13, low: float = 1e-5) -> Case:
    return {
        "id": name, "call": call, "inputs": inputs, "expected": expected,
        "rtol": rtol, "rtol_float32": low, "source": source,
    }  # fmt: skip


def through_eigenvalues(matrix: Any, function: Callable[[Any], Any]) -> mp.matrix:
    """Q function(eigenvalues) Q^T."""
    values, q = mp.eigsy(mp.matrix(matrix))
    return q * mp.diag([function(value) for value in values]) * q.T


def along(f: Callable[[Vector], Any], x: Vector, v: Vector, order: int = 1) -> Any:
    """First or second derivative of t -> f(x + t v) at 0; for vector-valued f entry by entry."""
    h = mp.mpf(10) ** (-20 if order == 1 else -15)
    places = [[a + t * h * b for a, b in zip(x, v, strict=True)] for t in (-1, 0, 1)]
    low, here, high = (f(place) for place in places)
    if isinstance(here, list):
        return [(b - a) / (2 * h) for a, b in zip(low, high, strict=True)]
    return (high - low) / (2 * h) if order == 1 else (high - 2 * here + low) / h**2


def unit(n: int, i: int) -> Vector:
    return [mp.mpf(int(i == j)) for j in range(n)]


def gradient(f: Callable[[Vector], Any], x: Vector) -> Vector:
    return [along(f, x, unit(len(x), i)) for i in range(len(x))]


def curvature(f: Callable[[Vector], Any], x: Vector, u: Vector, v: Vector) -> Any:
    """u·Hv by polarization."""
    plus, minus = [a + b for a, b in zip(u, v, strict=True)], [a - b for a, b in zip(u, v, strict=True)]
    return (along(f, x, plus, 2) - along(f, x, minus, 2)) / 4


def hvp(f: Callable[[Vector], Any], x: Vector, v: Vector) -> Vector:
    return [curvature(f, x, unit(len(x), i), v) for i in range(len(x))]


def hessian(f: Callable[[Vector], Any], x: Vector) -> list[Vector]:
    return [hvp(f, x, unit(len(x), i)) for i in range(len(x))]
