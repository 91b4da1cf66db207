"""ELMO: along every eigenvector of the Hessian, the step that is best in the worst case."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from refimpl.arrays import (
    Array,
    all_finite,
    check_between,
    check_positive,
    machine_epsilon,
    namespace,
    norm,
)
from refimpl.curvature.cubic import elmo_step, majorizer
from refimpl.curvature.spectrum import Spectrum, eigen
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.lipschitz_oracles import as_oracle, checked_constants
from refimpl.optimizers.radius import check_one_run
from refimpl.optimizers.weight import WeightRule
from refimpl.oracle import Point


class ELMOState(NamedTuple):
    """kappa, by which the oracle's constants are multiplied: 1 at the start, changed only with ``safeguard``."""

    kappa: float


class ELMOInfo(NamedTuple):
    """What a step reports.

    predicted_change : the sum of the majorizers at the step: where the constants are valid, f falls at least as much.

    ratio : of actual to predicted reduction, NaN without ``safeguard``. accepted : whether the step was taken.

    kappa : the multiple of the oracle's constants in this step. step_norm : length of the step that was tried.

    smallest_lipschitz, largest_lipschitz : of the constants, times kappa.

    smallest_eigenvalue, largest_eigenvalue : of the Hessian.
    """

    predicted_change: float
    ratio: float
    accepted: bool
    kappa: float
    step_norm: float
    smallest_lipschitz: float
    largest_lipschitz: float
    smallest_eigenvalue: float
    largest_eigenvalue: float


@dataclass(frozen=True)
class ELMO(WeightRule):
    """x <- x + sum_i sigma_i x_i v_i, where x_i minimizes -|c_i| x + lam_i x^2/2 + L_i x^3/6 and sigma_i = -sign(c_i).

    Here c_i = v_i·g is the slope along the eigenvector v_i of the Hessian.

    Parameters
    ----------
    lipschitz : L_i: one number for all directions, or an oracle (point, spectrum) -> (n,); those that are made already
        are in :mod:`refimpl.optimizers.lipschitz_oracles`.
    tie : +1 or -1: the side taken along v_i where the slope is zero and lam_i < 0, with v_i turned so that its largest
        component is positive. Both sides are equally good for the model.
    cluster : eigenvalues as close as this multiple of the largest magnitude count as one; within their eigenspace the
        basis is turned so that one vector carries all of the slope. 0 turns only eigenvalues that are equal.
    maximum_step : bound of each x_i; a zero constant and a negative eigenvalue give an infinite one.
    safeguard : True tries the step: L_i is multiplied by kappa, which grows by ``factor`` after a refusal and falls
        after a step that did as well as the model said. For constants that are estimates.
    others : see :class:`~refimpl.optimizers.weight.WeightRule`; used with ``safeguard`` only.

    Raises
    ------
    ValueError
        A knob outside its range; an oracle that returns something else; leading axes: one problem at a time.

    Notes
    -----
    With valid constants every step lowers the loss by at least sum L_i x_i^3/12, and there is no learning rate.

    Without ``cluster``, ELMO is not a function of the loss where an eigenvalue repeats: for H = 0, g = (1, 1) and
    L = 1, the identity basis gives (-1.41, -1.41) and the basis turned by 45 degrees (-1.19, -1.19). The rule settles
    that, but for one case: where a negative eigenvalue repeats, the directions without slope are all equally good, and
    each of an arbitrary basis of them is taken.
    At a critical point with H = 0 (a monkey saddle) the step is zero: no second-order method sees a way out.

    Cost: one gradient, a dense Hessian (n products), one eigendecomposition; one loss with ``safeguard``; and what the
    oracle asks.

    Source: ELMO paper, Algorithm 1 and eq. 7. The rules for ties and clusters, the safeguard and the stop at a zero
    gradient (the printed one needs the least value of f) are ours.

    >>> import numpy as np
    >>> from refimpl.problems.toy import DoubleWell
    >>> well = DoubleWell()
    >>> point = well.at(well.backend.asarray([0.0, 0.0]))
    >>> float(ELMO(lipschitz=3.0).step(point, ELMOState(1.0)).info.step_norm) > 0.1
    True
    """

    lipschitz: Any
    tie: int = 1
    cluster: float = 1e-10
    maximum_step: float = math.inf
    safeguard: bool = False
    name: ClassVar[str] = "elmo"

    def __post_init__(self) -> None:
        self._settle_weight()
        settle(self, cluster=check_between("cluster", self.cluster, 0.0, 1.0))
        if not callable(self.lipschitz):
            settle(self, lipschitz=check_positive("lipschitz", self.lipschitz, zero_allowed=True))
        if self.maximum_step != math.inf:
            settle(self, maximum_step=check_positive("maximum_step", self.maximum_step))
        if isinstance(self.tie, bool) or self.tie not in (-1, 1):
            raise ValueError(f"tie must be 1 or -1, got {self.tie!r}")
        if not isinstance(self.safeguard, bool):
            raise ValueError(f"safeguard must be True or False, got {self.safeguard!r}")

    def init(self, x: Array) -> ELMOState:
        """kappa = 1."""
        check_one_run("ELMO", x)
        return ELMOState(1.0)

    def step(self, point: Point, state: ELMOState) -> Step:
        """One step: (n,)."""
        check_one_run("ELMO", point.x)
        gradient, hessian = point.gradient, point.hessian()
        if not all_finite(hessian, gradient, point.loss):
            # No model: a run meets its stop rule before this, a training loop may not.
            nothing = ELMOInfo(math.nan, math.nan, False, state.kappa, *(math.nan,) * 5)
            return Step(point.x, state, nothing)
        xp = namespace(gradient)
        spectrum = turned(eigen(hessian), gradient, self.cluster)
        values, vectors = spectrum
        constants = state.kappa * checked_constants(as_oracle(self.lipschitz)(point, spectrum), spectrum)
        slopes, signs = slopes_and_signs(spectrum, gradient, self.tie)
        sizes = xp.clip(elmo_step(values, slopes, constants), max=self.maximum_step)
        x_trial = point.x + xp.matmul(vectors, signs * sizes)
        predicted = float(xp.sum(majorizer(sizes, values, slopes, constants)))

        accepted, ratio, kappa = True, math.nan, state.kappa
        if self.safeguard:
            trial = float(point.loss_at(x_trial))
            accepted, kappa, ratio = self.judged(point.x, float(point.loss), trial, predicted, state.kappa)
        ends = (float(xp.min(constants)), float(xp.max(constants)), float(values[0]), float(values[-1]))
        info = ELMOInfo(predicted, ratio, accepted, state.kappa, float(norm(sizes)), *ends)
        return Step(x_trial if accepted else point.x, ELMOState(kappa), info)


def preconditioner(spectrum: Spectrum, gradient: Array, constants: Array) -> Array:
    """Phi = V diag(2/(lam_i + s_i)) V^T, with which ELMO's step is -Phi g: (n, n), positive definite.

    Parameters
    ----------
    spectrum : eigenvalues (n,) and eigenvectors (n, n) of the Hessian.
    gradient : g, (n,).
    constants : L_i, (n,).

    Raises
    ------
    ValueError
        The formula gives none. Along some v_i the slope is zero and lam_i < 0: ELMO moves there, and no matrix times g
        does. Or lam_i is zero as well: ELMO rests, and any positive entry would do. Or L_i = 0, and the step is
        infinite.

    Notes
    -----
    Where no slope is zero, the only one that is diagonal in V; of the other matrices, every one with the same Phi g
    will do. Formed as x_i/|c_i|, which cancels nothing where lam_i < 0.

    Source: ELMO paper, Lemma 3.2.
    """
    xp = namespace(gradient)
    values, vectors = spectrum
    slopes, _ = slopes_and_signs(spectrum, gradient, 1)
    sizes = elmo_step(values, slopes, constants)
    still = slopes == 0
    if bool(xp.any(still & (values <= 0))) or not all_finite(sizes):
        raise ValueError(
            "2/(lam + s) is no preconditioner here: along an eigenvector with an eigenvalue of at most zero the slope "
            "is zero (or its constant is), so that ELMO's step is no multiple of it, or of any size"
        )
    one = xp.ones_like(values)
    factors = xp.where(still, 1.0 / xp.where(still, values, one), sizes / xp.where(still, one, slopes))
    return xp.matmul(vectors * factors[None, :], xp.matrix_transpose(vectors))


def slopes_and_signs(spectrum: Spectrum, gradient: Array, tie: int) -> tuple[Array, Array]:
    """|c_i| and the side -sign(c_i) on which f falls, both (n,). Where |c_i| is rounding: zero and the side of the tie.

    A step sqrt(2|c_i|/L) makes 1e-8 of a slope of 1e-16.
    """
    xp = namespace(gradient)
    vectors = spectrum.eigenvectors
    c = xp.matmul(gradient, vectors)
    largest = xp.argmax(xp.abs(vectors), axis=0)
    heads = xp.stack([vectors[int(largest[i]), i] for i in range(vectors.shape[1])])
    known = xp.abs(c) > _rounding(gradient)
    return xp.where(known, xp.abs(c), xp.zeros_like(c)), xp.where(known, -xp.sign(c), tie * xp.sign(heads))


def turned(spectrum: Spectrum, gradient: Array, cluster: float) -> Spectrum:
    """The same eigenspaces, with a basis of each in which one vector carries all of the gradient."""
    xp = namespace(gradient)
    values, vectors = spectrum
    numbers = [float(values[i]) for i in range(values.shape[0])]
    near = cluster * max(abs(numbers[0]), abs(numbers[-1]))
    columns = [vectors[:, i] for i in range(len(numbers))]
    start = 0
    for i in range(1, len(numbers) + 1):
        if i < len(numbers) and numbers[i] - numbers[i - 1] <= near:
            continue
        if i - start > 1:
            block = xp.stack(columns[start:i], axis=1)
            columns[start:i] = _carrying(block, xp.matmul(gradient, block), _rounding(gradient))
        start = i
    return Spectrum(values, xp.stack(columns, axis=1))


def _carrying(block: Array, weights: Array, rounding: float) -> list[Array]:
    """The columns of ``block`` turned by a reflection so that the first one is along block @ weights."""
    xp = namespace(block)
    length = float(norm(weights))
    if length <= rounding:
        return [block[:, i] for i in range(block.shape[1])]
    sign = 1.0 if float(weights[0]) >= 0 else -1.0
    # The reflection takes e_1 to -sign·weights/length; adding and not subtracting cancels nothing.
    head = xp.stack([weights[0] / length + sign, *(weights[i] / length for i in range(1, weights.shape[0]))])
    scale = 2.0 / float(xp.sum(head * head))
    reflected = block - scale * xp.matmul(block, head)[:, None] * head[None, :]
    return [reflected[:, i] for i in range(block.shape[1])]


def _rounding(gradient: Array) -> float:
    """n eps |g|: a slope along a unit vector that cannot be told from zero."""
    return gradient.shape[-1] * machine_epsilon(gradient) * float(norm(gradient))
