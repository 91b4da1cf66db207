"""Saddle-free Newton: Newton's method with every eigenvalue of the Hessian replaced by its magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from refimpl.arrays import Array, check_between, check_positive, namespace
from refimpl.curvature.spectrum import apply, check_rule, eigen, inverse_magnitudes
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.newton import ends
from refimpl.oracle import Point


@dataclass(frozen=True)
class SaddleFreeNewton:
    """v <- mu v + eta |H|^{-1} g; x <- x - v.

    Parameters
    ----------
    learning_rate : eta, positive.
    momentum : mu in [0, 1), heavy ball on the preconditioned step.
    threshold, replacement : with mode ``"none"``, an eigenvalue with |h| <= threshold counts as ``replacement``
        (a positive eigenvalue, not its inverse). With ``replacement=None`` its component is left out.
    damping : d, at least zero, for the modes ``"abs"`` and ``"square"``.
    mode : ``"none"``, ``"abs"``: (|H| + d I)^{-1} g, or ``"square"``: (H^2 + d^2 I)^{-1/2} g.

    Raises
    ------
    ValueError
        A knob outside its range, or damping with mode ``"none"``, or a threshold with another mode.

    Notes
    -----
    With a positive definite Hessian and no damping this is Newton's method. The direction never points uphill:
    g·|H|^{-1}g >= 0, and zero only if g lies entirely in what was left out.
    Without damping, eigenvalues that cannot be told from zero (|h| <= n·eps·max|h|) are treated like those below
    the threshold: by default their components do not move (see
    :func:`refimpl.curvature.spectrum.inverse_magnitudes`).

    Leading axes ``(..., n)`` are allowed. Cost: one gradient, one dense Hessian (n products), one
    eigendecomposition O(n^3). Info: ``smallest_eigenvalue``, ``largest_eigenvalue`` of H.

    Source: Dauphin et al. (2014), algorithm 1 with the whole space for the Krylov space; Pascanu et al. (2014).
    Threshold, replacement and momentum: the exact saddle-free Newton of the series paper's experiments.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0
    threshold: float = 0.0
    replacement: float | None = None
    damping: float = 0.0
    mode: Literal["none", "abs", "square"] = "none"
    name: ClassVar[str] = "saddle-free-newton"

    def __post_init__(self) -> None:
        if self.mode not in ("none", "abs", "square"):
            # A shift of H is refused: H = diag(1, -d) would become singular.
            raise ValueError(f"unknown mode {self.mode!r}; choose one of ['none', 'abs', 'square']")
        check_rule(self.mode, self.damping, self.threshold, self.replacement)
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            threshold=float(self.threshold),
            replacement=None if self.replacement is None else float(self.replacement),
            damping=float(self.damping),
        )

    def init(self, x: Array) -> Array:
        """The velocity, zero."""
        return namespace(x).zeros_like(x)

    def step(self, point: Point, state: Array) -> Step:
        """One step: (..., n)."""
        spectrum = eigen(point.hessian())
        factors = inverse_magnitudes(
            spectrum.eigenvalues,
            mode=self.mode,
            damping=self.damping,
            threshold=self.threshold,
            replacement=self.replacement,
        )
        velocity = self.momentum * state + self.learning_rate * apply(spectrum, factors, point.gradient)
        return Step(point.x - velocity, velocity, ends(spectrum))
