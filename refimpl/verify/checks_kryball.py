"""How the package computes the golden vectors about KryBall, and a check of a reader's own KryBall."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refimpl.arrays import Array, Backend, as_generator, check_count, namespace, norm, to_numpy
from refimpl.curvature import projected, trust_region
from refimpl.curvature.krylov import arnoldi as arnoldi_process
from refimpl.curvature.krylov import lanczos
from refimpl.curvature.operators import Matvec
from refimpl.curvature.subspace import of_lanczos
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.kryball import KryBall, KryBallState
from refimpl.optimizers.radius import RadiusRule
from refimpl.oracle import Problem
from refimpl.problems.classics import Wood
from refimpl.problems.closed_form import Toy
from refimpl.verify import dense_kryball
from refimpl.verify.checks_curveball import step_report
from refimpl.verify.oracle import OracleReport


class QuarticModel(Toy):
    """g·x + x·Hx/2 + sum_i q_i x_i^4/4: a loss whose gradient and Hessian at x = 0 are given, and that departs from
    its model."""

    name = "quartic-model"

    def __init__(self, hessian: Any, gradient: Any, quartic: Any, *, backend: Backend) -> None:
        super().__init__(len(gradient), backend)
        self.curvature, self.slope, self.quartic = (backend.asarray(a) for a in (hessian, gradient, quartic))

    def f(self, x: Array) -> Array:
        xp = namespace(x)
        return xp.sum((self.slope + 0.5 * xp.matmul(x, self.curvature) + 0.25 * self.quartic * x**3) * x, axis=-1)

    def gradient_at(self, x: Array) -> Array:
        return self.slope + namespace(x).matmul(x, self.curvature) + self.quartic * x**3

    def hessian_at(self, x: Array) -> Array:
        return self.curvature + (3.0 * self.quartic * x * x)[..., None] * self.backend.eye(self.n)


# -- the calls --------------------------------------------------------------------------------------------------------


def arnoldi(backend: Backend, *, matrix: Any, start: Any, steps: int) -> Mapping[str, Array]:
    """The basis as rows, (m, n), and the extended Hessenberg matrix, (m + 1, m)."""
    space = arnoldi_process(_product(backend, matrix), backend.asarray(start), steps)
    return {"basis": space.basis, "hessenberg": space.hessenberg}


def projected_step(backend: Backend, *, matrix: Any, gradient: Any, steps: int, **clips: float) -> Array:
    """The saddle-free step of the Krylov space, (n,)."""
    found = lanczos(_product(backend, matrix), backend.asarray(gradient), steps)
    space = of_lanczos(found)
    return space.combine(projected.projected_step(space, float(found.start_norm), **clips).coordinates)


def reconstruction(backend: Backend, *, matrix: Any, gradient: Any, steps: int) -> Mapping[str, Any]:
    """``best``, ``used``, ``cosine`` and ``change``, (m,) each."""
    found = projected.reconstruction(_product(backend, matrix), backend.asarray(gradient), steps)
    return found._asdict()


def _region(solve: Callable[..., trust_region.TrustRegionStep]) -> Callable[..., Mapping[str, Any]]:
    def call(backend: Backend, *, matrix: Any, gradient: Any, radius: float) -> Mapping[str, Any]:
        found = solve(backend.asarray(matrix), backend.asarray(gradient), radius)
        return {"step": found.step, "multiplier": found.multiplier, "model": found.model}

    return call


def radius_rule(backend: Backend, *, radius: float, trials: Any, **knobs: float) -> Mapping[str, Any]:
    """``accepted`` (1 or 0), ``ratio`` and the next ``radius`` for each trial."""
    rule = RadiusRule(**knobs)
    found = []
    for loss, trial, predicted, length in trials:
        # On the host in float64, whatever the backend: so are the numbers of a step.
        change = float("nan") if trial is None else trial
        found.append(rule.judged(np.zeros(1), loss, change, predicted, length, radius))
    return {key: [float(getattr(one, key)) for one in found] for key in ("accepted", "ratio", "radius")}


def step(
    backend: Backend,
    *,
    hessian: Any,
    gradient: Any,
    quartic: Any,
    momentum: Any,
    radius: float,
    basis: Any = None,
    matrix: Any = None,
    stale: Any = "exact",
    **knobs: Any,
) -> Mapping[str, Any]:
    """By how much x moves, the predicted change, the ratio and the next radius of one step."""
    problem = QuarticModel(hessian, gradient, quartic, backend=backend)
    x, z = backend.zeros(problem.n), backend.asarray(momentum)
    method = KryBall(**knobs, stale=stale, gain=0.0, retries=0, refresh=2, initial_radius=0.5)
    nothing = method.init(x)
    state = KryBallState(radius, z, nothing.basis, nothing.matrix, 0)
    if basis is not None:
        state = KryBallState(radius, z, backend.asarray(basis), np.asarray(matrix).tolist(), 1)
    taken = method.step(problem.at(x), state)
    return {
        "step": taken.x, "predicted_change": taken.info.predicted_change, "ratio": taken.info.ratio,
        "radius": taken.state.radius,
    }  # fmt: skip


def _product(backend: Backend, matrix: Any) -> Matvec:
    a = backend.asarray(matrix)
    return lambda v: backend.xp.matmul(a, v)


CALLS: dict[str, Callable[..., Any]] = {
    "arnoldi": arnoldi,
    "projected_step": projected_step,
    "reconstruction": reconstruction,
    "trust_region_step": _region(trust_region.trust_region_step),
    "dogleg_step": _region(trust_region.dogleg_step),
    "two_dimensional_step": _region(trust_region.two_dimensional_step),
    "radius_rule": radius_rule,
    "kryball_step": step,
}


START = (1.0, -1.5, -3.0, -3.0)
"""Where :func:`check_kryball` begins on Wood's function."""


# -- a reader's own ---------------------------------------------------------------------------------------------------


def check_kryball(
    optimizer: Optimizer,
    problem: Problem | None = None,
    x: Any = None,
    *,
    dimension: int = 3,
    directions: str = "three",
    initial_radius: float = 1.0,
    maximum_radius: float = 1000.0,
    steps: int = 10,
    seed: int = 0,
) -> OracleReport:
    """Compare a KryBall of your own, step by step, with dense matrices, and name the likely slip.

    Parameters
    ----------
    optimizer : an object with ``init(x)`` and ``step(point, state)``, set to build the Krylov space in each step, to
        spend all M products, to keep the last accepted step for the momentum, and to try once per step.
    problem : None takes Wood's function, some of whose first steps here are refused, some end inside the region.
        Derivatives are taken for right: see :func:`~refimpl.verify.oracle.check_oracle`.
    x : the starting place, (n,); None asks ``problem.initial`` (or takes a place chosen for Wood's function).
    dimension, directions, initial_radius, maximum_radius : what your optimizer was told; as for
        :class:`refimpl.optimizers.kryball.KryBall`.
    steps : how many steps to look at, at least 2: the first one has no momentum.
    seed : decides the starting place (if ``x`` is None) and the sample.

    Returns
    -------
    OracleReport
        One row per step. Prints as a table.

    Raises
    ------
    StepCheckFailed
        A step is not the right one; the message is the table, with the likely cause.
    ValueError
        Something that is no optimizer or no problem.

    Notes
    -----
    Each step is judged from the place and the last step that your optimizer itself arrived at; the radius is the one
    that a right KryBall would have there. A slip is noticed only where it makes a difference: |T| for T needs a saddle
    nearby, and the momentum of a refused step none ever does while the place and so the Krylov space stay. It stops
    early where the gradient vanishes or has grown out of bounds. Cost: a dense Hessian and a loss per step.

    >>> from refimpl.optimizers.kryball import KryBall
    >>> mine = KryBall(dimension=3, directions="three", gain=0.0, retries=0)
    >>> check_kryball(mine).passed
    True
    """
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "step")):
        raise ValueError(f"optimizer must be an instance with init and step, got {optimizer!r}")
    check_count("steps", steps, minimum=2)
    rng = as_generator(seed)
    if problem is None:
        problem, x = Wood(), (START if x is None else x)
    if not isinstance(problem, Problem):
        raise ValueError(f"problem must be an instance of a Problem, got {problem!r}")
    place = problem.initial(rng) if x is None else problem.backend.asarray(x)
    sample, state = problem.draw(rng), optimizer.init(place)
    seen: list[tuple[dict[str, Any], np.ndarray]] = []
    for _ in range(steps):
        point = problem.at(place, sample)
        if seen and not 0 < float(norm(point.gradient)) < 1e50:
            break
        taken = optimizer.step(point, state)
        moved = to_numpy(taken.x).astype(float) - to_numpy(place)
        known = {
            "hessian": to_numpy(point.hessian()), "gradient": to_numpy(point.gradient), "quartic": None,
            "change": _change(problem, place, sample), "dimension": dimension, "directions": directions,
            "maximum_radius": maximum_radius,
        }  # fmt: skip
        seen.append((known, moved))
        place, state = taken.x, taken.state
    return _report(seen, initial_radius, 1e-6 if problem.backend.dtype_name == "float64" else 1e-2)


def _change(problem: Problem, place: Array, sample: Any) -> Callable[[Any], float]:
    return lambda s: (
        float(problem.loss(place + problem.backend.asarray(s), sample)) - float(problem.loss(place, sample))
    )


def _chain(seen: list[tuple[dict[str, Any], np.ndarray]], radius: float, slip: str = "") -> list[float]:
    """The relative error of each step, where the radius and the momentum follow from the steps before."""
    z, errors = np.zeros_like(seen[0][1]), []
    for known, moved in seen:
        wanted = dense_kryball.step(**known, momentum=z, radius=radius, slip=slip)
        size = max(float(np.linalg.norm(wanted["trial"])), 1e-300)
        errors.append(float(np.linalg.norm(moved - wanted["step"])) / size)
        z, radius = moved if moved.any() else z, wanted["radius"]
    return errors


def _report(seen: list[tuple[dict[str, Any], np.ndarray]], radius: float, tolerance: float) -> OracleReport:
    errors = _chain(seen, radius)
    cause = ""
    if not max(errors) <= tolerance:
        slips = dense_kryball.STEP_SLIPS
        named = [words for slip, words in slips.items() if max(_chain(seen, radius, slip)) < 100 * tolerance]
        cause = "; or ".join(named)
    return step_report(errors, tolerance, cause, "KryBall")
