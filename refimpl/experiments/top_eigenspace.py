"""What is looked at in the top eigenspace of a training run: eigenpairs by products, constants, Newton's advantage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.sparse.linalg import LinearOperator, eigsh

from refimpl.arrays import as_generator, check_positive, to_numpy
from refimpl.experiments.eigenarc import EigenARC, Frozen, frozen_point
from refimpl.experiments.eigenarc_study import largest_third_derivative
from refimpl.oracle import Point

RADIUS = 0.1
"""Distance of the secant."""

REACH = 0.5
"""How far along the eigenvector, to both sides, third derivatives are looked at."""

FLOOR = 1e-300
"""Of the constant in ``unfloored``, which EigenARC may halve some 1000 times."""


@dataclass(frozen=True)
class Extremes:
    """The largest eigenvalue of a point's Hessian and, with ``both``, the smallest, with eigenvectors, by products.

    Begins where the last call ended, and at a seeded vector at first. ``tolerance`` is that of the residual,
    relative to the eigenvalue, whose own relative error is about its square.
    """

    both: bool = True
    tolerance: float = 1e-3
    seed: int = 0
    last: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __call__(self, point: Point) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues (k,), largest first, and eigenvectors (n, k). Cost: some 15 products per eigenvalue and more."""
        n, backend = point.problem.n, point.problem.backend

        def product(v: np.ndarray) -> np.ndarray:
            return to_numpy(point.hvp(backend.asarray(np.ascontiguousarray(v.ravel()))))

        operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
        values, vectors = [], []
        for which in ("LA", "SA") if self.both else ("LA",):
            start = self.last.get(which)
            if start is None:
                start = as_generator(self.seed).standard_normal(n)
            value, vector = eigsh(operator, k=1, which=which, v0=start, ncv=min(n, 12), tol=self.tolerance)
            self.last[which] = vector[:, 0]
            values.append(float(value[0]))
            vectors.append(vector[:, 0])
        return np.asarray(values), np.stack(vectors, axis=1)


@dataclass(frozen=True)
class ShiftWatcher:
    """The callback of a run: the ends of the spectrum, EigenARC, secant, third derivatives and Newton's advantage.

    ``rate`` is that of the gradient step which Newton's is compared with. ``every``: third derivatives at every so
    many-th place, 0 for none.
    """

    rate: float
    extremes: Extremes
    instrument: EigenARC = field(default_factory=EigenARC)
    every: int = 1
    points: int = 5
    constants: list[float] = field(default_factory=list, repr=False)

    def __call__(self, step: int, point: Point) -> dict[str, float]:
        """One row. ``z_plus`` is with the supremum where ``every`` is positive, else with the secant."""
        values, vectors = self.extremes(point)
        if step == 0:
            self.constants[:] = [1.0] * (2 * len(values))
        frozen = frozen_point(point, values, vectors)
        k = len(values)
        update = self.instrument.update(frozen, self.constants[:k])
        free = replace(self.instrument, minimum=FLOOR).update(frozen, self.constants[k:])
        self.constants[:] = [*update.lipschitz.tolist(), *free.lipschitz.tolist()]
        slope, eigenvalue, top = abs(float(frozen.slopes[0])), float(values[0]), vectors[:, 0]
        shift = secant(point, top, eigenvalue)
        true = math.nan
        if self.every and step % self.every == 0:
            true = float(largest_third_derivative(point, top[:, None], REACH, self.points)[0])
        row = {
            "eigenvalue_plus": eigenvalue,
            "slope_plus": slope,
            "eigenarc_plus": self.constants[0],
            "unfloored": self.constants[k],
            "secant_plus": shift,
            "true_plus": true,
            "z_plus": (true if self.every else shift) * slope / eigenvalue**2,
            "advantage": newton_advantage(frozen, self.rate),
        }
        if len(values) > 1:
            row |= {"eigenvalue_minus": float(values[1]), "eigenarc_minus": self.constants[1]}
        return row


def secant(point: Point, vector: np.ndarray, eigenvalue: float, radius: float = RADIUS) -> float:
    """|v·H(x + r v)v - lam|/r: how fast the curvature along v changes along v. Cost: a gradient and a product."""
    place, backend = to_numpy(point.x), point.problem.backend
    there = point.problem.at(backend.asarray(place + check_positive("radius", radius) * vector), point.sample)
    return abs(float(vector @ to_numpy(there.hvp(backend.asarray(vector)))) - eigenvalue) / radius


def newton_advantage(frozen: Frozen, rate: float) -> float:
    """f(after the gradient step) - f(after Newton's step), both within the first eigenvector of ``frozen``.

    On a quadratic it is c^2 (1 - rate lam)^2/(2 lam), never negative: it grows with the slope c whatever the curvature
    does. Cost: two losses.

    Source: ELMO paper, appendix E, there called quasi-Newton superiority.
    """
    unit = np.zeros(len(frozen.eigenvalues))
    unit[0] = 1.0
    c, eigenvalue = float(frozen.slopes[0]), float(frozen.eigenvalues[0])
    return float(frozen.change(-rate * c * unit) - frozen.change(-c / eigenvalue * unit))
