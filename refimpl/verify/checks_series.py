"""How the package computes the golden vectors about the series, its accelerators and Krylov methods."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from refimpl.arrays import Array, Backend
from refimpl.curvature import acceleration, krylov, linear_systems, scale, series
from refimpl.curvature.inverse_abs import inverse_root_quadrature, lanczos_function, lanczos_sv_function
from refimpl.curvature.operators import Matvec


def coefficients(backend: Backend, *, terms: int, damping: float) -> Array:
    """Coefficients of 1/(sqrt(1 - z) + d), (terms,)."""
    return series.coefficients(terms, backend.asarray(damping))


def partial_sums(backend: Backend, *, matrix: Any, gradient: Any, terms: int, scale: float) -> list[Array]:
    """The sums before they are divided by sqrt(V), (terms, n)."""
    h, g = _product(backend, matrix), backend.asarray(gradient)
    return [term.total for term in series.partial_sums(h, g, terms=terms, scale=backend.asarray(scale))]


def direction(backend: Backend, *, matrix: Any, gradient: Any, **knobs: Any) -> Array:
    """The last sum divided by sqrt(V), (n,). Without the guard: the V that is asked for is the V that is used."""
    return series.sum_series(_product(backend, matrix), backend.asarray(gradient), guard=False, **knobs).direction


def accelerate(backend: Backend, *, sums: Any, method: Any, order: int) -> Array:
    """The accelerated limit, (n,)."""
    return acceleration.accelerate([backend.asarray(row) for row in sums], method, order)


def lanczos_tridiagonal(backend: Backend, *, matrix: Any, gradient: Any, steps: int) -> Mapping[str, Array]:
    """T as its diagonal and subdiagonal, both (m,)."""
    space = krylov.lanczos(_product(backend, matrix), backend.asarray(gradient), steps)
    return {"alpha": space.alpha, "beta": space.beta}


def lanczos_direction(backend: Backend, *, matrix: Any, gradient: Any, steps: int, **rule: Any) -> Array:
    """|g| Q f(T) e_1, (n,)."""
    return lanczos_function(krylov.lanczos(_product(backend, matrix), backend.asarray(gradient), steps), **rule)


def lanczos_sv_direction(backend: Backend, *, matrix: Any, gradient: Any, steps: int, **rule: Any) -> Array:
    """|g| Q f(S^{1/2}) e_1, (n,)."""
    return lanczos_sv_function(krylov.lanczos(_product(backend, matrix), backend.asarray(gradient), steps), **rule)


def minres(backend: Backend, *, matrix: Any, right: Any, steps: int) -> Array:
    """The solution after ``steps`` products, (n,)."""
    return linear_systems.minres(_product(backend, matrix), backend.asarray(right), steps=steps).x


def multi_shift_cg(backend: Backend, *, matrix: Any, right: Any, shifts: Any, steps: int) -> Array:
    """The solutions for all shifts after ``steps`` products, (J, n)."""
    b, t = backend.asarray(right), backend.asarray(shifts)
    return linear_systems.multi_shift_cg(_product(backend, matrix), b, t, steps=steps).x


def root_quadrature(backend: Backend, *, low: float, high: float, poles: int) -> Mapping[str, Array]:
    """Shifts and weights, both (J,)."""
    shifts, weights = inverse_root_quadrature(low, high, poles)
    return {"shifts": backend.asarray(shifts), "weights": backend.asarray(weights)}


def scale_ratio(backend: Backend, *, matrix: Any, gradient: Any, previous: float) -> Array:
    """max(previous, |H^2 g| / |g|)."""
    product, g = _product(backend, matrix), backend.asarray(gradient)
    return scale.ratio_scale(g, product(product(g)), backend.asarray(previous))


def scale_frobenius(backend: Backend, *, matrix: Any) -> Array:
    """tr H^2."""
    return scale.frobenius_scale(_product(backend, matrix), backend.zeros(len(matrix)))


def scale_power(backend: Backend, *, matrix: Any, start: Any, iterations: int, safety: float) -> Array:
    """Safety times the last Rayleigh quotient of H^2."""
    v = backend.asarray(start)
    return scale.power_scale(_product(backend, matrix), v, iterations=iterations, safety=safety)


def scale_lanczos(backend: Backend, *, matrix: Any, gradient: Any, steps: int, safety: float) -> Array:
    """Safety times (theta + r)^2."""
    return scale.lanczos_scale(_product(backend, matrix), backend.asarray(gradient), steps=steps, safety=safety)


def _product(backend: Backend, matrix: Any) -> Matvec:
    h = backend.asarray(matrix)
    return lambda v: backend.xp.matmul(h, v)


CALLS: dict[str, Callable[..., Any]] = {
    "series_coefficients": coefficients,
    "series_partial_sums": partial_sums,
    "series_direction": direction,
    "accelerate": accelerate,
    "lanczos_tridiagonal": lanczos_tridiagonal,
    "lanczos_direction": lanczos_direction,
    "lanczos_sv_direction": lanczos_sv_direction,
    "minres": minres,
    "multi_shift_cg": multi_shift_cg,
    "inverse_root_quadrature": root_quadrature,
    "scale_ratio": scale_ratio,
    "scale_frobenius": scale_frobenius,
    "scale_power": scale_power,
    "scale_lanczos": scale_lanczos,
}
