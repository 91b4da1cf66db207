"""KryBall: a trust region over a few directions: what a Krylov space knows of the Hessian, and the last step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, get_args

from refimpl.arrays import (
    Array,
    all_finite,
    as_generator,
    backend_of,
    check_between,
    check_count,
    check_positive,
    host_numbers,
    machine_epsilon,
    namespace,
    norm,
)
from refimpl.curvature.krylov import Lanczos, lanczos
from refimpl.curvature.projected import projected_step
from refimpl.curvature.subspace import Subspace, krylov_and, of_lanczos, orthonormalize, project, restrict
from refimpl.curvature.trust_region import trust_region_step
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.radius import RadiusRule, check_one_run
from refimpl.oracle import Point

Stale = Literal["reuse", "exact", "drop"]
Directions = Literal["space", "three"]
Momentum = Literal["step", "gradient", "none"]


class KryBallState(NamedTuple):
    """What is kept between steps.

    radius : Delta.

    momentum : z, (n,): the last accepted step, or the accumulated gradients.

    basis : Q, (m, n), the Krylov vectors of the last refresh; no rows before the first.

    matrix : Q H Q^T as it was there, rows of numbers.

    iteration : steps so far, refused ones included.
    """

    radius: float
    momentum: Array
    basis: Array
    matrix: list[list[float]]
    iteration: int


class KryBallInfo(NamedTuple):
    """What a step reports.

    radius : Delta of the last trial. predicted_change, ratio : of the model and of actual to predicted reduction there.

    multiplier : lam of the subproblem, 0 inside the region.

    dimension : of the subspace that the step was chosen from.

    smallest_ritz, largest_ritz : eigenvalues of the model's matrix.

    refused : trials refused in this step. accepted : whether the last one was taken.

    fresh : whether the Krylov space was built here. escape : whether a direction of negative curvature was looked for
    and found because the gradient was nearly zero.
    """

    radius: float
    predicted_change: float
    ratio: float
    multiplier: float
    dimension: int
    smallest_ritz: float
    largest_ritz: float
    refused: int
    accepted: bool
    fresh: bool
    escape: bool


@dataclass(frozen=True)
class KryBall(RadiusRule):
    """p minimizes g·p + p·Hp/2 over |p| <= Delta in a small subspace; x <- x + p where the loss falls.

    The defaults are what measured best in chapter 11 on full batches; :meth:`published` is Algorithm 4 as printed.

    Parameters
    ----------
    dimension : M, the most Hessian products for the Krylov space of (H, g).
    gain : the Krylov space grows until a product lowers the model's minimum by less than this share of it; 0 always
        takes all M.
    directions : ``"space"``, the step is chosen from all of the Krylov space and the momentum; ``"three"``, from the
        gradient, the projected saddle-free step and the momentum.
    momentum : ``"step"``, the last accepted step; ``"gradient"``, z <- factor·z + g as printed; ``"none"``.
    momentum_factor : beta of ``"gradient"``, in [0, 1).
    refresh : r; the Krylov space is built in steps 0, r, 2r, … and its old vectors are used in between.
    stale : what becomes of the old vectors. ``"exact"``: products of all with the Hessian of today, as printed;
        ``"reuse"``: what was known of H among them is kept, and only gradient and momentum cost a product each;
        ``"drop"``: gradient and momentum alone.
    reuse_products : False pays one product for every direction on top of those of the Krylov space, as printed, where
        Q H Q^T is known already.
    retries : trials with a smaller radius on the same model after a refusal, one loss each.
    escape_below : where |g| is at most this, the Krylov space of a random vector is searched for negative curvature,
        at M + 1 products; 0 never.
    seed : of those random vectors.
    clip_absolute, clip_relative : bounds of |Ritz value| in the projected saddle-free step.
    others : see :class:`~refimpl.optimizers.radius.RadiusRule`.

    Raises
    ------
    ValueError
        A knob outside its range; leading axes: one problem at a time.

    Notes
    -----
    With an inactive radius and full batches, ``momentum="step"`` makes each model decrease at least that of a CG step
    from the same place. A Krylov space built on g never holds what is orthogonal to g and all H^k g, such as the way
    down from a point on the stable manifold of a saddle: that is what ``escape_below`` is for.

    In the printed line 20, z is updated with a gradient of the next place, which is not known there: the update is
    made in the next step, where it is. Line 8 adds that gradient itself, so the plane is the same.

    Cost of a step: one gradient, one loss per trial, and M + 1 products with a fresh space (M where there is no
    momentum yet), at most 2 between with ``"reuse"`` or ``"drop"``, M + 2 with ``"exact"``. As printed: M + 3 and
    M + 2. Memory: M + 1 vectors and the momentum. Small matrices are handled on the host.

    Source: KryBall thesis, Algorithm 4 and sec. 4.2; the repairs are ours.
    """

    dimension: int = 20
    gain: float = 0.02
    directions: Directions = "space"
    momentum: Momentum = "step"
    momentum_factor: float = 0.9
    refresh: int = 1
    stale: Stale = "reuse"
    reuse_products: bool = True
    retries: int = 5
    escape_below: float = 1e-8
    seed: int = 0
    clip_absolute: float = 1e-8
    clip_relative: float = 1e-6
    name: ClassVar[str] = "kryball"

    def __post_init__(self) -> None:
        self._settle_radius()
        settle(
            self,
            dimension=check_count("dimension", self.dimension),
            gain=check_between("gain", self.gain, 0.0, 1.0),
            momentum_factor=check_between("momentum_factor", self.momentum_factor, 0.0, 1.0),
            refresh=check_count("refresh", self.refresh),
            retries=check_count("retries", self.retries, minimum=0),
            escape_below=check_positive("escape_below", self.escape_below, zero_allowed=True),
            seed=check_count("seed", self.seed, minimum=0),
            clip_absolute=check_positive("clip_absolute", self.clip_absolute, zero_allowed=True),
            clip_relative=check_positive("clip_relative", self.clip_relative, zero_allowed=True),
        )
        choices = {"directions": get_args(Directions), "momentum": get_args(Momentum), "stale": get_args(Stale)}
        for knob, allowed in choices.items():
            if getattr(self, knob) not in allowed:
                raise ValueError(f"unknown {knob} {getattr(self, knob)!r}; choose one of {list(allowed)}")
        if not isinstance(self.reuse_products, bool):
            raise ValueError(f"reuse_products must be True or False, got {self.reuse_products!r}")

    @classmethod
    def published(cls, **knobs: Any) -> KryBall:
        """Algorithm 4 as printed, with M = 5, r = 3 and beta = 0.9: no product reused, no retry, no care for noise."""
        printed: dict[str, Any] = {
            "dimension": 5,
            "gain": 0.0,
            "directions": "three",
            "momentum": "gradient",
            "refresh": 3,
            "stale": "exact",
            "reuse_products": False,
            "retries": 0,
            "escape_below": 0.0,
            "noise": 0.0,
            "minimum_radius": 0.0,
        }
        return cls(**{**printed, **knobs})

    def init(self, x: Array) -> KryBallState:
        """The initial radius, no momentum, no Krylov space."""
        check_one_run("KryBall", x)
        xp, place = namespace(x), backend_of(x)
        empty = xp.zeros((0, x.shape[0]), dtype=x.dtype, device=place.device)
        return KryBallState(self.initial_radius, xp.zeros_like(x), empty, [], 0)

    def step(self, point: Point, state: KryBallState) -> Step:
        """One step: (n,)."""
        check_one_run("KryBall", point.x)
        gradient, z = point.gradient, state.momentum
        if not all_finite(gradient, point.loss):
            # No model: a run meets its stop rule before this, a training loop may not.
            nothing = KryBallInfo(state.radius, *(math.nan,) * 3, 0, math.nan, math.nan, 0, False, False, False)
            return Step(point.x, state, nothing)
        if self.momentum == "gradient" and state.iteration > 0:
            z = self.momentum_factor * z + gradient
        fresh = state.iteration % self.refresh == 0 or not state.matrix
        krylov, model = self._fresh(point, z, state.radius) if fresh else self._stale(point, z, state)
        model, escape = self._escaping(point, model, state.iteration)
        if model.basis.shape[0] == 0:
            still = KryBallInfo(state.radius, 0.0, 1.0, 0.0, 0, math.nan, math.nan, 0, True, fresh, False)
            return Step(point.x, state._replace(momentum=z, iteration=state.iteration + 1), still)

        slope, loss, radius, refused = model.coordinates(gradient), float(point.loss), state.radius, 0
        while True:
            found = trust_region_step(model.matrix, slope, radius, checked=False)
            step = model.combine(found.step)
            x_trial, length = point.x + step, math.hypot(*found.step.tolist())
            judged = self.judged(point.x, loss, float(point.loss_at(x_trial)), found.model, length, radius)
            if judged.accepted or refused == self.retries or judged.radius >= radius:
                break
            radius, refused = judged.radius, refused + 1
        if judged.accepted and self.momentum == "step":
            z = step
        ritz = namespace(model.matrix).linalg.eigvalsh(model.matrix).tolist()
        info = KryBallInfo(
            radius,
            found.model,
            judged.ratio,
            found.multiplier,
            len(ritz),
            ritz[0],
            ritz[-1],
            refused + (not judged.accepted),
            judged.accepted,
            fresh,
            escape,
        )
        following = KryBallState(judged.radius, z, krylov.basis, krylov.matrix.tolist(), state.iteration + 1)
        return Step(x_trial if judged.accepted else point.x, following, info)

    def _fresh(self, point: Point, z: Array, radius: float) -> tuple[Subspace, Subspace]:
        """A new Krylov space, and the subspace of the step."""
        gradient = point.gradient
        krylov = self._krylov_space(point, radius)
        if krylov.basis.shape[0] == 0:  # at a critical point
            return krylov, krylov_and(krylov, point.hvp, [z])
        vectors = [krylov.basis[i, :] for i in range(krylov.basis.shape[0])]
        if self.directions == "three":
            clips = {"clip_absolute": self.clip_absolute, "clip_relative": self.clip_relative}
            newton = krylov.combine(projected_step(krylov, float(norm(gradient)), **clips).coordinates)
            vectors = [gradient, newton]
        if not self.reuse_products:
            return krylov, project(point.hvp, orthonormalize([*vectors, z]))
        whole = krylov_and(krylov, point.hvp, [z])
        if self.directions == "space":
            return krylov, whole
        return krylov, restrict(whole, [whole.coordinates(v) for v in [*vectors, z]])

    def _stale(self, point: Point, z: Array, state: KryBallState) -> tuple[Subspace, Subspace]:
        """The Krylov space of the last refresh, and the subspace of the step."""
        krylov = Subspace(state.basis, host_numbers("matrix", state.matrix))
        if self.stale == "reuse":
            return krylov, krylov_and(krylov, point.hvp, [point.gradient, z])
        old = [state.basis[i, :] for i in range(state.basis.shape[0])] if self.stale == "exact" else []
        return krylov, project(point.hvp, orthonormalize([point.gradient, z, *old]))

    def _krylov_space(self, point: Point, radius: float) -> Subspace:
        length = float(norm(point.gradient))
        if length == 0:  # no product for a space without vectors
            return Subspace(point.x[None, :][:0, :], host_numbers("matrix", []).reshape(0, 0))
        reached = [0.0]

        def enough(space: Lanczos) -> bool:
            known = of_lanczos(space)
            if known.basis.shape[0] < len(reached):
                return True  # the space is exhausted
            slope = namespace(known.matrix).zeros(len(reached))
            slope[0] = length
            reached.append(trust_region_step(known.matrix, slope, radius, checked=False).model)
            return len(reached) > 2 and reached[-2] - reached[-1] <= self.gain * -reached[-1]

        grown = enough if self.gain > 0 else None
        return of_lanczos(lanczos(point.hvp, point.gradient, self.dimension, checked=False, enough=grown))

    def _escaping(self, point: Point, model: Subspace, iteration: int) -> tuple[Subspace, bool]:
        """The model with a direction of negative curvature, where the gradient is nearly zero and one is found."""
        if self.escape_below == 0 or float(norm(point.gradient)) > self.escape_below:
            return model, False
        start = backend_of(point.x).normal(as_generator((self.seed, iteration)), point.x.shape[0])
        found = of_lanczos(lanczos(point.hvp, start, self.dimension, checked=False))
        if found.basis.shape[0] == 0:
            return model, False
        ritz, vectors = namespace(found.matrix).linalg.eigh(found.matrix)
        size = max(abs(float(ritz[0])), abs(float(ritz[-1])))
        if not float(ritz[0]) < -math.sqrt(machine_epsilon(point.x)) * size:
            return model, False
        return krylov_and(model, point.hvp, [found.combine(vectors[:, 0])]), True
