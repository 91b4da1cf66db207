"""Losses given by formulas: an Evaluation made of functions, so that a toy problem is a few lines.

Three shapes of formula, from the least to the most that is known about the loss:

* :class:`ClosedForm`: a loss, its gradient and its Hessian;
* :class:`ConvexForm`: the same for a convex loss, which is then a convex function of the outputs phi(x) = x;
* :class:`LeastSquaresForm`: f = r·r, given by the residuals r(x) and their derivatives.

Everything here and in the toys works over leading axes: ``x: (..., n)``, loss ``(...)``, Hessian ``(..., n, n)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from refimpl.arrays import Array, Backend, device_of, dot, namespace
from refimpl.oracle import Evaluation, Problem, Sample

Function = Callable[[Array], Array]
Place = tuple[float, ...]


class ClosedForm(Evaluation):
    """A loss at ``x`` from functions of ``x``.

    Parameters
    ----------
    x : (..., n), the place.
    loss, gradient : ``x -> (...)`` and ``x -> (..., n)``.
    hessian : ``x -> (..., n, n)``, or None if ``hvp`` is given; the Hessian is then n products.
    hvp : ``(x, v) -> (..., n)``, or None to multiply with the Hessian, which is computed once per place. It must
        accept more leading axes in ``v`` than in ``x``: the dense Hessian asks for all unit vectors at once.

    Raises
    ------
    ValueError
        Neither ``hessian`` nor ``hvp`` is given.

    >>> import numpy as np
    >>> bowl = ClosedForm(np.asarray([3.0, 4.0]), lambda x: (x * x).sum(-1), lambda x: 2 * x, hvp=lambda x, v: 2 * v)
    >>> float(bowl.loss()), bowl.hessian().tolist()
    (25.0, [[2.0, 0.0], [0.0, 2.0]])
    """

    def __init__(
        self,
        x: Array,
        loss: Function,
        gradient: Function,
        hessian: Function | None = None,
        hvp: Callable[[Array, Array], Array] | None = None,
    ) -> None:
        if hessian is None and hvp is None:
            raise ValueError("a closed form needs its Hessian or its Hessian-vector product, got neither")
        self.x = x
        self._loss, self._gradient, self._hessian, self._hvp = loss, gradient, hessian, hvp
        self._known_hessian: Array | None = None

    def loss(self) -> Array:
        return self._loss(self.x)

    def gradient(self) -> Array:
        return self._gradient(self.x)

    def hvp(self, v: Array) -> Array:
        if self._hvp is not None:
            return self._hvp(self.x, v)
        # Not a matrix product: a multiplication and a sum broadcast over leading axes of either factor.
        return dot(self._dense(), v[..., None, :])

    def hessian(self) -> Array:
        return namespace(self.x).asarray(self._dense(), copy=True)

    def _dense(self) -> Array:
        if self._known_hessian is None:
            self._known_hessian = self._hessian(self.x) if self._hessian else columns(self.hvp, self.x)
        return self._known_hessian


class ConvexForm(ClosedForm):
    """A convex loss: the outputs are the place itself, and the Gauss–Newton matrix is the Hessian."""

    has_outputs: ClassVar[bool] = True

    def outputs(self) -> Array:
        return namespace(self.x).asarray(self.x, copy=True)

    def output_gradient(self) -> Array:
        return self.gradient()

    def output_hvp(self, u: Array) -> Array:
        return self.hvp(u)

    def jvp(self, v: Array) -> Array:
        return namespace(v).asarray(v, copy=True)

    def vjp(self, u: Array) -> Array:
        return namespace(u).asarray(u, copy=True)


class LeastSquaresForm(Evaluation):
    """The loss f = r·r (no factor 1/2) at ``x`` from its residuals; outputs phi = r, so dL/dphi = 2r.

    gradient = 2 J^T r,  Hessian = 2 J^T J + 2 sum_i r_i (second derivative of r_i),  Gauss–Newton matrix = 2 J^T J.

    Parameters
    ----------
    x : (..., n), the place.
    residuals : ``x -> (..., m)``.
    jvp : ``(x, v) -> (..., m)``, the residuals' Jacobian J times ``v``.
    vjp : ``(x, u) -> (..., n)``, J^T times ``u``.
    bend : ``(x, u, v) -> (..., n)``, the sum over i of u_i (second derivative of r_i) v; None where the residuals
        are linear.
    """

    has_outputs: ClassVar[bool] = True

    def __init__(
        self,
        x: Array,
        residuals: Function,
        jvp: Callable[[Array, Array], Array],
        vjp: Callable[[Array, Array], Array],
        bend: Callable[[Array, Array, Array], Array] | None = None,
    ) -> None:
        self.x = x
        self._residuals, self._jvp, self._vjp, self._bend = residuals, jvp, vjp, bend
        self._known_residuals: Array | None = None

    def loss(self) -> Array:
        return dot(self._r, self._r)

    def gradient(self) -> Array:
        return self._vjp(self.x, 2.0 * self._r)

    def hvp(self, v: Array) -> Array:
        product = self._vjp(self.x, 2.0 * self._jvp(self.x, v))
        return product if self._bend is None else product + self._bend(self.x, 2.0 * self._r, v)

    def hessian(self) -> Array:
        return columns(self.hvp, self.x)

    def outputs(self) -> Array:
        return namespace(self.x).asarray(self._r, copy=True)

    def output_gradient(self) -> Array:
        return 2.0 * self._r

    def output_hvp(self, u: Array) -> Array:
        return 2.0 * u

    def jvp(self, v: Array) -> Array:
        return self._jvp(self.x, v)

    def vjp(self, u: Array) -> Array:
        return self._vjp(self.x, u)

    @property
    def _r(self) -> Array:
        if self._known_residuals is None:
            self._known_residuals = self._residuals(self.x)
        return self._known_residuals


class Toy(Problem):
    """A small problem whose landscape is known; base of everything in closed form.

    Attributes
    ----------
    formula : the loss in LaTeX.
    minimizers, saddles : tuples of places, each a tuple of n floats.
    domain : ((low, high), ...) for the first one or two coordinates: a window that shows what is interesting.
    """

    batched = True
    formula: str = ""
    minimizers: tuple[Place, ...] = ()
    saddles: tuple[Place, ...] = ()
    domain: tuple[tuple[float, float], ...] = ((-2.0, 2.0), (-2.0, 2.0))

    def __init__(self, n: int = 2, backend: Backend | None = None) -> None:
        super().__init__(n, backend)

    def initial(self, rng: Any) -> Array:
        """Uniform on the domain, each further coordinate on the window of the last one; shape (n,)."""
        windows = [self.domain[min(i, len(self.domain) - 1)] for i in range(self.n)]
        low, high = zip(*windows, strict=True)
        return self.backend.asarray(rng.uniform(low, high))

    def evaluation(self, x: Array, sample: Sample) -> Evaluation:
        """A :class:`ClosedForm` of the methods ``f``, ``gradient_at`` and ``hessian_at``."""
        return ClosedForm(x, self.f, self.gradient_at, self.hessian_at)

    def f(self, x: Array) -> Array:
        """The formula: (..., n) -> (...)."""
        raise NotImplementedError

    def gradient_at(self, x: Array) -> Array:
        """Its gradient: (..., n) -> (..., n)."""
        raise NotImplementedError

    def hessian_at(self, x: Array) -> Array:
        """Its Hessian: (..., n) -> (..., n, n)."""
        raise NotImplementedError


def columns(product: Function, x: Array) -> Array:
    """The symmetric matrix (..., n, n) of a linear map (..., n) -> (..., n), from one product with all unit vectors."""
    xp = namespace(x)
    n = x.shape[-1]
    identity = xp.eye(n, dtype=x.dtype, device=device_of(x))
    units = xp.reshape(identity, (n, *(1,) * (x.ndim - 1), n)) + xp.zeros_like(x)
    matrix = xp.moveaxis(product(units), 0, -1)
    return 0.5 * (matrix + xp.matrix_transpose(matrix))


def vector(xp: Any, entries: Sequence[Array]) -> Array:
    """Entries (...) to a vector (..., n)."""
    return xp.stack(entries, axis=-1)


def matrix(xp: Any, rows: Sequence[Sequence[Array]]) -> Array:
    """Rows of entries (...) to a matrix (..., n, n)."""
    return xp.stack([xp.stack(row, axis=-1) for row in rows], axis=-2)
