"""Adaptive regularization with cubics: one constant for all directions, found by trial."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from refimpl.arrays import (
    Array,
    all_finite,
    as_generator,
    backend_of,
    check_count,
    check_positive,
    host_numbers,
    namespace,
    norm,
)
from refimpl.curvature.cubic import cubic_step
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.subspace import Subspace, krylov_and, of_lanczos
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.radius import check_one_run
from refimpl.optimizers.weight import WeightRule
from refimpl.oracle import Point


class ARCState(NamedTuple):
    """sigma, the weight of |s|^3/3, and the steps so far, refused ones included."""

    sigma: float
    iteration: int


class ARCInfo(NamedTuple):
    """What a step reports: the sigma it used, the model's change, the ratio of actual to predicted reduction, whether
    the step was taken, ``regular``, ``hard`` or ``zero`` (see :class:`~refimpl.curvature.cubic.CubicStep`)."""

    sigma: float
    predicted_change: float
    ratio: float
    accepted: bool
    kind: str


@dataclass(frozen=True)
class ARC(WeightRule):
    """s minimizes g·s + s·Hs/2 + sigma/3 |s|^3; x <- x + s where the loss falls; sigma by the model's luck.

    Parameters
    ----------
    initial_sigma : sigma at the start. L_H/2 bounds what is needed where the Hessian is L_H-Lipschitz.
    dimension : None for the exact subproblem with the dense Hessian, or the number of Lanczos vectors from the gradient
        in which it is solved.
    search : with ``dimension``, products spent in each step on the Krylov space of a random vector, whose lowest Ritz
        vector is added: the Krylov space of g never holds what the hard case needs. 0 never.
    seed : of those random vectors.
    others : see :class:`~refimpl.optimizers.weight.WeightRule`.

    Raises
    ------
    ValueError
        A knob outside its range; leading axes: one problem at a time.

    Notes
    -----
    Cost: one gradient, one loss, and a dense Hessian (n products), or ``dimension`` products and ``search + 1`` more.
    The subproblem is solved on the host.

    Source: Cartis, Gould & Toint (2011a), algorithm 2.1 with the settings of the ELMO paper's appendix J; Nesterov &
    Polyak (2006) for the model.
    """

    initial_sigma: float = 1.0
    dimension: int | None = None
    search: int = 0
    seed: int = 0
    name: ClassVar[str] = "arc"

    def __post_init__(self) -> None:
        self._settle_weight()
        settle(
            self,
            initial_sigma=check_positive("initial_sigma", self.initial_sigma),
            search=check_count("search", self.search, minimum=0),
            seed=check_count("seed", self.seed, minimum=0),
        )
        if self.dimension is not None:
            settle(self, dimension=check_count("dimension", self.dimension))
        elif self.search > 0:
            raise ValueError("search belongs to a dimension; with dimension=None the subproblem is exact")

    def init(self, x: Array) -> ARCState:
        """The initial sigma."""
        check_one_run("ARC", x)
        return ARCState(self.initial_sigma, 0)

    def step(self, point: Point, state: ARCState) -> Step:
        """One step: (n,)."""
        check_one_run("ARC", point.x)
        following = state._replace(iteration=state.iteration + 1)
        gradient = point.gradient
        if not all_finite(gradient, point.loss):
            # No model: a run meets its stop rule before this, a training loop may not.
            return Step(point.x, following, ARCInfo(state.sigma, math.nan, math.nan, False, "zero"))
        if self.dimension is None:
            hessian = point.hessian()
            if not all_finite(hessian):
                return Step(point.x, following, ARCInfo(state.sigma, math.nan, math.nan, False, "zero"))
            found = cubic_step(host_numbers("hessian", hessian), host_numbers("gradient", gradient), state.sigma)
            step = backend_of(point.x).asarray(found.step)
        else:
            model = self._subspace(point, state.iteration)
            if model.basis.shape[0] == 0:
                return Step(point.x, following, ARCInfo(state.sigma, 0.0, 1.0, True, "zero"))
            found = cubic_step(model.matrix, model.coordinates(gradient), state.sigma, checked=False)
            step = model.combine(found.step)
        x_trial = point.x + step
        judged = self.judged(point.x, float(point.loss), float(point.loss_at(x_trial)), found.model, state.sigma)
        info = ARCInfo(state.sigma, found.model, judged.ratio, judged.accepted, found.kind)
        x = x_trial if judged.accepted else point.x
        return Step(x, following._replace(sigma=judged.weight), info)

    def _subspace(self, point: Point, iteration: int) -> Subspace:
        """The Krylov space of g, and the lowest Ritz vector of a random one."""
        assert self.dimension is not None
        gradient = point.gradient
        if float(norm(gradient)) == 0:  # no product for a space without vectors
            empty = host_numbers("matrix", []).reshape(0, 0)
            krylov = Subspace(point.x[None, :][:0, :], empty)
        else:
            krylov = of_lanczos(lanczos(point.hvp, gradient, self.dimension, checked=False))
        if self.search == 0:
            return krylov
        start = backend_of(point.x).normal(as_generator((self.seed, iteration)), point.x.shape[0])
        random = of_lanczos(lanczos(point.hvp, start, self.search, checked=False))
        if random.basis.shape[0] == 0:
            return krylov
        _, vectors = namespace(random.matrix).linalg.eigh(random.matrix)
        return krylov_and(krylov, point.hvp, [random.combine(vectors[:, 0])])
