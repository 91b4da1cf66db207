"""Newton's method: jump to the stationary point of the local quadratic model, whatever kind it is.

Both methods take leading axes ``(..., n)``. Cost: one gradient, one dense Hessian (n products), one
eigendecomposition O(n^3). For n up to about 2000.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from refimpl.arrays import Array, check_positive
from refimpl.curvature.spectrum import Spectrum, apply, eigen, inverse_magnitudes, reciprocal
from refimpl.optimizers.base import SpectrumInfo, Step, settle
from refimpl.oracle import Point

DampedNewtonMode = Literal["shift", "abs", "square"]


@dataclass(frozen=True)
class Newton:
    """x <- x - eta H^{-1} g.

    Parameters
    ----------
    learning_rate : eta, positive.

    Raises
    ------
    ValueError
        A learning rate that is not finite and positive.

    Notes
    -----
    Where H is singular the step is the pseudo-inverse's, eta H^+ g: eigencomponents with |h| <= n·eps·max|h| stay
    where they are. Along negative curvature the step goes *up*: Newton's method is attracted by saddles.

    Info: ``smallest_eigenvalue``, ``largest_eigenvalue`` of H.

    Source: Nocedal & Wright (2006), eq. 2.15.
    """

    learning_rate: float = 1.0
    name: ClassVar[str] = "newton"

    def __post_init__(self) -> None:
        settle(self, learning_rate=check_positive("learning_rate", self.learning_rate))

    def init(self, x: Array) -> None:
        """No state."""

    def step(self, point: Point, state: None) -> Step:
        """One step: (..., n)."""
        spectrum = eigen(point.hessian())
        direction = apply(spectrum, reciprocal(spectrum.eigenvalues), point.gradient)
        return Step(point.x - self.learning_rate * direction, None, ends(spectrum))


@dataclass(frozen=True)
class DampedNewton:
    """Newton's method with a constant damping, in the classic form or with |H| in place of H.

    ============  ======================  ==========================================================
    mode          step, damping d         near a saddle
    ============  ======================  ==========================================================
    ``"shift"``   (H + d I)^{-1} g        descends only where d exceeds -h for every eigenvalue h;
                                          singular where some h = -d
    ``"abs"``     (|H| + d I)^{-1} g      always descends
    ``"square"``  (H^2 + d^2 I)^{-1/2} g  always descends, smooth in H
    ============  ======================  ==========================================================

    Parameters
    ----------
    damping : d, at least zero.
    mode : ``"shift"`` (default), ``"abs"`` or ``"square"``.
    learning_rate : eta, positive.

    Raises
    ------
    ValueError
        A knob outside its range, an unknown mode.

    Notes
    -----
    Where the damped matrix is singular the pseudo-inverse is taken. The modes ``"abs"`` and ``"square"`` are
    :class:`refimpl.optimizers.saddle_free.SaddleFreeNewton` with that mode and no momentum.

    Info: ``smallest_eigenvalue``, ``largest_eigenvalue`` of H, before damping.

    Source: Levenberg (1944) for the shift; Dauphin et al. (2014), sec. 4, for |H|.
    """

    damping: float
    mode: DampedNewtonMode = "shift"
    learning_rate: float = 1.0
    name: ClassVar[str] = "damped-newton"

    def __post_init__(self) -> None:
        if self.mode not in ("shift", "abs", "square"):
            raise ValueError(f"unknown mode {self.mode!r}; choose one of ['shift', 'abs', 'square']")
        settle(
            self,
            damping=check_positive("damping", self.damping, zero_allowed=True),
            learning_rate=check_positive("learning_rate", self.learning_rate),
        )

    def init(self, x: Array) -> None:
        """No state."""

    def step(self, point: Point, state: None) -> Step:
        """One step: (..., n)."""
        spectrum = eigen(point.hessian())
        if self.mode == "shift":
            factors = reciprocal(spectrum.eigenvalues + self.damping)
        else:
            factors = inverse_magnitudes(spectrum.eigenvalues, mode=self.mode, damping=self.damping)
        direction = apply(spectrum, factors, point.gradient)
        return Step(point.x - self.learning_rate * direction, None, ends(spectrum))


def ends(spectrum: Spectrum) -> SpectrumInfo:
    """The smallest and the largest eigenvalue, each (...)."""
    eigenvalues: Any = spectrum.eigenvalues
    return SpectrumInfo(eigenvalues[..., 0], eigenvalues[..., -1])
