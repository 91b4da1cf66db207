"""Levenberg–Marquardt: Gauss–Newton with a damping that shrinks with success and grows with failure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, check_positive, dot, namespace
from refimpl.curvature.spectrum import apply, eigen, reciprocal
from refimpl.optimizers.base import Step, settle
from refimpl.oracle import Point


class LevenbergMarquardtInfo(NamedTuple):
    """What a step reports: ``damping`` is the one it used, ``ratio`` actual/predicted change (undamped model)."""

    accepted: bool
    damping: float
    predicted_change: float
    ratio: float


@dataclass(frozen=True)
class LevenbergMarquardt:
    """Solve (G + lam D) p = -g; take the step and lower lam if the loss falls, else stay and raise lam.

    G = J^T (d2L/dphi2) J is the generalized Gauss–Newton matrix, g the gradient.

    Parameters
    ----------
    damping : lam at the start, positive.
    increase, decrease : factors of at least 1, for a rejected and for an accepted step. Both 1: constant damping.
    scaling : D, ``"identity"`` (Levenberg) or ``"diagonal"``, the diagonal of G, at least 1e-12 (Marquardt).
    minimum_damping, maximum_damping : bounds of lam.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, a loss that is not a convex function of outputs, or leading axes.

    Notes
    -----
    ``damping`` is measured against G. For a sum of squares r·r without the factor 1/2, G = 2 J^T J: the textbook's
    damping on J^T J is half of this one (a textbook's start of 1 with factors 2 and 2 is ``damping=2.0`` here).

    A loss that is not finite, or not strictly lower on the same sample, is a rejection. A step is one solve, taken
    or not.

    Cost: one gradient, n forward-mode products for J, one loss, one eigendecomposition O(n^3), O(o n) memory. The
    n reverse-mode products of n Gauss–Newton products are not needed: J is kept.

    Info: ``accepted``, ``damping``, ``predicted_change``, ``ratio``.

    Source: Levenberg (1944); Marquardt (1963); Nocedal & Wright (2006), sec. 10.3.
    """

    damping: float = 1.0
    increase: float = 2.0
    decrease: float = 2.0
    scaling: Literal["identity", "diagonal"] = "identity"
    minimum_damping: float = 1e-12
    maximum_damping: float = 1e12
    name: ClassVar[str] = "levenberg-marquardt"

    def __post_init__(self) -> None:
        for knob in ("damping", "increase", "decrease", "minimum_damping", "maximum_damping"):
            settle(self, **{knob: check_positive(knob, getattr(self, knob))})
        for knob in ("increase", "decrease"):
            if getattr(self, knob) < 1:
                raise ValueError(f"{knob} must be at least 1, got {getattr(self, knob)!r}")
        if not self.minimum_damping <= self.damping <= self.maximum_damping:
            raise ValueError(
                f"damping must lie in [{self.minimum_damping}, {self.maximum_damping}], got {self.damping!r}"
            )
        if self.scaling not in ("identity", "diagonal"):
            raise ValueError(f"unknown scaling {self.scaling!r}; choose one of ['identity', 'diagonal']")

    def init(self, x: Array) -> float:
        """The damping."""
        return self.damping

    def step(self, point: Point, state: float) -> Step:
        """One step: (n,)."""
        if not point.has_outputs:
            raise ValueError(
                f"Levenberg–Marquardt needs a loss that is a convex function of outputs, which "
                f"{type(point.problem).__name__} is not; use a least-squares or network problem, or DampedNewton"
            )
        if point.x.ndim != 1:
            raise ValueError(f"Levenberg–Marquardt runs one problem at a time: x must be (n,), got {point.x.shape}")
        xp, gradient = namespace(point.x), point.gradient
        matrix = gauss_newton_matrix(point)
        scale = xp.ones_like(point.x)
        if self.scaling == "diagonal":
            scale = xp.sqrt(xp.clip(xp.linalg.diagonal(matrix), min=1e-12))
        spectrum = eigen(matrix / (scale[:, None] * scale[None, :]))
        # Not a Cholesky solve: that raises where rounding has eaten the damping of a singular matrix.
        factors = reciprocal(xp.clip(spectrum.eigenvalues, min=0.0) + state)
        direction = -apply(spectrum, factors, gradient / scale) / scale
        predicted = dot(gradient, direction) + 0.5 * dot(direction, xp.matmul(matrix, direction))

        x_trial = point.x + direction
        change = float(point.loss_at(x_trial) - point.loss)
        accepted = change < 0.0
        damping = state / self.decrease if accepted else state * self.increase
        ratio = change / float(predicted) if float(predicted) != 0.0 else float("nan")
        info = LevenbergMarquardtInfo(accepted, state, float(predicted), ratio)
        clipped = min(max(damping, self.minimum_damping), self.maximum_damping)
        return Step(x_trial if accepted else point.x, clipped, info)


def gauss_newton_matrix(point: Point) -> Array:
    """The generalized Gauss–Newton matrix J^T (d2L/dphi2) J, (n, n), at a point with x of shape (n,).

    Cost: n forward-mode products. Raises a ValueError where the loss has no outputs.
    """
    xp, n = namespace(point.x), point.problem.n
    basis = point.problem.backend.eye(n)
    tangents = [point.jvp(basis[i, ...]) for i in range(n)]
    jacobian = xp.stack(tangents, axis=-1)
    curved = xp.stack([point.output_hvp(tangent) for tangent in tangents], axis=-1)
    matrix = xp.matmul(xp.matrix_transpose(jacobian), curved)
    return 0.5 * (matrix + xp.matrix_transpose(matrix))
