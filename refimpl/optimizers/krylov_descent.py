"""Krylov Subspace Descent: a search of its own, by BFGS, over the coefficients of a few directions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from scipy import optimize

from refimpl.arrays import Array, all_finite, check_count, check_positive, host_numbers, namespace
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import krylov_and, of_lanczos
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.radius import check_one_run
from refimpl.oracle import Point


class KrylovDescentInfo(NamedTuple):
    """What a step reports: the dimension of the subspace, BFGS iterations and evaluations in it, the ends of the
    curvature in it, whether the loss fell."""

    dimension: int
    inner_steps: int
    evaluations: int
    smallest_ritz: float
    largest_ritz: float
    accepted: bool


@dataclass(frozen=True)
class KrylovSubspaceDescent:
    """x <- x + B^T a, with B an orthonormal basis of the Krylov space of (H, g) and the last step, and a found by BFGS.

    No model and no radius: the loss itself is minimized over a, starting from a = 0, with the inverse of the magnitudes
    of B H B^T (floored) as BFGS's first metric.

    Parameters
    ----------
    products : m, products for the Krylov space.
    curvature : ``"hessian"`` or ``"gauss-newton"``, the matrix of the products.
    inner_steps : the most BFGS iterations.
    clip_relative : magnitudes below this share of the largest count as that.

    Raises
    ------
    ValueError
        A knob outside its range; leading axes: one problem at a time.

    Notes
    -----
    The paper measures the loss of the inner search on a second minibatch; here it is the sample of the step.

    Cost: m products for the space and one for the last step, one gradient for each evaluation of the inner search
    (which costs more than a trust region's: one loss). Memory: m + 1 vectors.

    Source: Vinyals & Povey (2012), algorithm 1; KryBall thesis, eq. 3.40 (whose space leaves out the last step). BFGS:
    SciPy.
    """

    products: int = 8
    curvature: Literal["hessian", "gauss-newton"] = "hessian"
    inner_steps: int = 20
    clip_relative: float = 1e-4
    name: ClassVar[str] = "krylov-descent"

    def __post_init__(self) -> None:
        settle(
            self,
            products=check_count("products", self.products),
            inner_steps=check_count("inner_steps", self.inner_steps),
            clip_relative=check_positive("clip_relative", self.clip_relative),
        )
        if self.curvature not in ("hessian", "gauss-newton"):
            raise ValueError(f"unknown curvature {self.curvature!r}; choose one of ['hessian', 'gauss-newton']")

    def init(self, x: Array) -> Array:
        """The last step: none yet, (n,)."""
        check_one_run("KrylovSubspaceDescent", x)
        return namespace(x).zeros_like(x)

    def step(self, point: Point, state: Array) -> Step:
        """One step: (n,)."""
        check_one_run("KrylovSubspaceDescent", point.x)
        gradient = point.gradient
        product = point.hvp if self.curvature == "hessian" else point.ggnvp
        space = of_lanczos(lanczos(product, gradient, self.products, checked=False)) if all_finite(gradient) else None
        if space is None or space.basis.shape[0] == 0:
            return Step(point.x, state, KrylovDescentInfo(0, 0, 0, math.nan, math.nan, space is not None))
        model = krylov_and(space, product, [state])
        on_host = namespace(model.matrix)
        ritz, vectors = on_host.linalg.eigh(model.matrix)
        sizes = on_host.abs(ritz)
        sizes = on_host.clip(sizes, min=max(self.clip_relative * float(on_host.max(sizes)), 1e-300))

        def loss_and_slope(weights: Array) -> tuple[float, Array]:
            if not float(on_host.max(on_host.abs(weights))) > 0:
                return float(point.loss), model.coordinates(gradient)
            there = point.beside(point.x + model.combine(weights))
            return float(there.loss), model.coordinates(there.gradient)

        found: Any = optimize.minimize(
            loss_and_slope,
            host_numbers("weights", [0.0] * len(ritz)),
            jac=True,
            method="BFGS",
            options={"maxiter": self.inner_steps, "hess_inv0": _symmetric((vectors / sizes) @ vectors.T)},
        )
        step = model.combine(found.x)
        accepted = bool(found.fun < float(point.loss)) and all_finite(step)
        info = KrylovDescentInfo(len(ritz), int(found.nit), int(found.nfev), float(ritz[0]), float(ritz[-1]), accepted)
        return Step(point.x + step, step, info) if accepted else Step(point.x, 0.0 * state, info)


def _symmetric(matrix: Array) -> Array:
    # SciPy refuses a first metric that differs from its transpose by rounding.
    return 0.5 * (matrix + matrix.T)
