"""How the package computes the golden vectors about functions of a symmetric matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from refimpl.arrays import Array, Backend
from refimpl.curvature.spectrum import absolute, apply_inverse_abs, eigen


def eigenvalues(backend: Backend, *, matrix: Any) -> Array:
    """Eigenvalues in ascending order, (n,)."""
    return eigen(backend.asarray(matrix)).eigenvalues


def absolute_of(backend: Backend, *, matrix: Any) -> Array:
    """|H|, (n, n)."""
    return absolute(backend.asarray(matrix))


def saddle_free_direction(backend: Backend, *, matrix: Any, gradient: Any, **rule: Any) -> Array:
    """|H|^{-1} g under a rule for small eigenvalues, (n,)."""
    return apply_inverse_abs(backend.asarray(matrix), backend.asarray(gradient), **rule)


CALLS: dict[str, Callable[..., Any]] = {
    "eigenvalues": eigenvalues,
    "absolute": absolute_of,
    "saddle_free_direction": saddle_free_direction,
}
