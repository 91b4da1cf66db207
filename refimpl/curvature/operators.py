"""A matrix that is known only through its products, and the checks its users share."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import array_api_compat

from refimpl.arrays import Array, all_finite, backend_of, check_count, check_positive, dtype_name, namespace

Matvec = Callable[[Array], Array]
"""v -> H v, (..., n) -> (..., n), for a symmetric H: ``point.hvp``, or ``lambda v: v @ H``."""


class CountingMatvec:
    """``matvec`` that knows how often it was called (``products``).

    >>> import numpy as np
    >>> counting = CountingMatvec(lambda v: 2 * v)
    >>> counting(np.ones(2)).tolist(), counting.products
    ([2.0, 2.0], 1)
    """

    def __init__(self, matvec: Matvec) -> None:
        self._matvec = matvec
        self.products = 0

    def __call__(self, v: Array) -> Array:
        self.products += 1
        return self._matvec(v)


def unit_vectors(like: Array) -> list[Array]:
    """e_1 … e_n, each of the shape, dtype and device of ``like`` (..., n)."""
    xp, n = namespace(like), like.shape[-1]
    identity = xp.eye(n, dtype=like.dtype, device=backend_of(like).device)
    return [xp.broadcast_to(identity[i, ...], like.shape) for i in range(n)]


def dense(matvec: Matvec, like: Array) -> Array:
    """The matrix itself, symmetrized, (..., n, n). Cost: n products."""
    xp = namespace(like)
    matrix = xp.stack([matvec(unit) for unit in unit_vectors(like)], axis=-1)
    return 0.5 * (matrix + xp.matrix_transpose(matrix))


def check_vector(name: str, vector: Any) -> None:
    """Refuse what is not a finite floating array with at least one axis (ValueError)."""
    if not array_api_compat.is_array_api_obj(vector) or dtype_name(vector.dtype) not in ("float32", "float64"):
        kind = getattr(vector, "dtype", "no dtype")
        raise ValueError(f"{name} must be an array of float32 or float64, got {type(vector).__name__} of {kind}")
    if vector.ndim < 1 or vector.shape[-1] < 1:
        raise ValueError(f"{name} must have shape (..., n) with n >= 1, got {tuple(vector.shape)}")
    if not all_finite(vector):
        raise ValueError(f"{name} must be finite, but it holds NaN or infinity")


def check_damping(damping: Any, mode: str, modes: tuple[str, ...] = ("none", "abs", "square", "shift")) -> None:
    """Refuse an unknown mode, a damping that is no number at least zero, and damping with mode ``"none"``."""
    if mode not in modes:
        raise ValueError(f"unknown mode {mode!r}; choose one of {list(modes)}")
    if is_number(damping) or not array_api_compat.is_array_api_obj(damping):
        check_positive("damping", damping, zero_allowed=True)
        if mode == "none" and damping > 0:
            raise ValueError(f"damping={damping!r} has no effect with mode 'none'; choose mode 'abs' or 'square'")
    elif mode == "none":
        raise ValueError("damping has no effect with mode 'none'; choose mode 'abs' or 'square'")


def is_number(value: Any) -> bool:
    """Whether ``value`` is one number, not an array: NumPy's scalars are numbers here."""
    return isinstance(value, Real)


def check_per_run(name: str, value: Any, like: Array, *, zero_allowed: bool = False) -> None:
    """Refuse what is neither a positive number nor an array of them, one per run of ``like`` (..., n) (ValueError)."""
    if is_number(value) or not array_api_compat.is_array_api_obj(value):
        check_positive(name, value, zero_allowed=zero_allowed)
        return
    batch = tuple(like.shape[:-1])
    if tuple(value.shape) not in ((), batch):
        raise ValueError(f"{name} must be a number or an array of shape {batch}, got shape {tuple(value.shape)}")
    allowed = (value >= 0) if zero_allowed else (value > 0)
    if not all_finite(value) or not bool(namespace(value).all(allowed)):
        raise ValueError(f"{name} must be finite and {'at least zero' if zero_allowed else 'positive'}, got {value!r}")


def check_order(order: int) -> int:
    """The order of an acceleration: a whole number of at least zero."""
    return check_count("order", order, minimum=0)


def only_finite(vector: Array) -> tuple[Array, Array]:
    """``vector`` (..., n) with zeros for runs that are not finite throughout, and which runs are finite (...)."""
    xp = namespace(vector)
    usable = xp.all(xp.isfinite(vector), axis=-1)
    return xp.where(usable[..., None], vector, xp.zeros_like(vector)), usable
