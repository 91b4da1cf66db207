"""How the package computes the golden vectors about CurveBall, and a check of a reader's own CurveBall."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.arrays import Array, Backend, as_generator, check_count, to_numpy
from refimpl.curvature import stability
from refimpl.curvature.plane import plane_minimizer
from refimpl.curvature.truncated_cg import truncated_cg
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall, CurveBallState
from refimpl.optimizers.damping import adapt_damping
from refimpl.oracle import Point, Problem
from refimpl.problems.closed_form import LeastSquaresForm
from refimpl.problems.quadratic import LinearLeastSquares
from refimpl.verify import dense_curveball
from refimpl.verify.causes import likely_slip
from refimpl.verify.oracle import OracleCheck, OracleReport


class StepCheckFailed(AssertionError):
    """A step is not the right one. ``report`` holds every check; the message is its table."""

    def __init__(self, report: OracleReport, method: str = "CurveBall") -> None:
        super().__init__(f"the steps are not those of {method}\n{report}")
        self.report = report


class OutputModel(Problem):
    """slope·u + u·Cu/2 with u = Jx: a loss with the given Jacobian, output gradient and output Hessian at x = 0."""

    name = "output-model"

    def __init__(self, jacobian: Any, output_hessian: Any, output_gradient: Any, *, backend: Backend) -> None:
        super().__init__(int(np.shape(jacobian)[1]), backend)
        self.jacobian, self.curvature = backend.asarray(jacobian), backend.asarray(output_hessian)
        self.slope = backend.asarray(output_gradient)

    def initial(self, rng: Any) -> Array:
        """Zero, where slope and curvature are those given."""
        return self.backend.zeros(self.n)

    def evaluation(self, x: Array, sample: Any) -> _Model:
        return _Model(self, x)


class _Model(LeastSquaresForm):
    """J is constant, so everything but the loss's own two lines is a least-squares form."""

    def __init__(self, problem: OutputModel, x: Array) -> None:
        self._problem, xp = problem, problem.backend.xp
        super().__init__(
            x,
            lambda place: xp.matmul(problem.jacobian, place),
            lambda _, v: xp.matmul(problem.jacobian, v),
            lambda _, u: xp.matmul(xp.matrix_transpose(problem.jacobian), u),
        )

    def loss(self) -> Array:
        xp, u = self._problem.backend.xp, self.outputs()
        return xp.sum((self._problem.slope + 0.5 * self.output_hvp(u)) * u)

    def gradient(self) -> Array:
        return self.vjp(self.output_gradient())

    def hvp(self, v: Array) -> Array:
        return self.vjp(self.output_hvp(self.jvp(v)))

    def output_gradient(self) -> Array:
        return self._problem.slope + self.output_hvp(self.outputs())

    def output_hvp(self, u: Array) -> Array:
        return self._problem.backend.xp.matmul(self._problem.curvature, u)


# -- the calls --------------------------------------------------------------------------------------------------------


def step(
    backend: Backend,
    *,
    jacobian: Any,
    output_hessian: Any,
    output_gradient: Any,
    step: Any,
    damping: float,
    **knobs: Any,
) -> Mapping[str, Array]:
    """beta, rho, the next z and the predicted change of one step."""
    problem = OutputModel(jacobian, output_hessian, output_gradient, backend=backend)
    x, z = backend.zeros(problem.n), backend.asarray(step)
    # With adapt_every=1 the change is predicted in every step, whatever is given and whatever is chosen.
    taken = CurveBall(**knobs, adapt_every=1).step(problem.at(x), CurveBallState(z, backend.asarray(damping), 1))
    info = taken.info
    return {
        "learning_rate": info.learning_rate, "momentum": info.momentum,
        "step": taken.state.step, "predicted_change": info.predicted_change,
    }  # fmt: skip


def damping_rule(backend: Backend, *, damping: float, ratios: Any, omega: float) -> list[Array]:
    """The damping after each ratio."""
    lam, seen = backend.asarray(damping), []
    for ratio in ratios:
        knobs = {"omega": omega, "minimum": 1e-12, "maximum": 1e12, "low": 0.5, "high": 1.5}
        lam = adapt_damping(lam, backend.asarray(ratio), **knobs)
        seen.append(lam)
    return seen


def plane(backend: Backend, *, matrix: Any, right: Any) -> list[Array]:
    """The pair (t1, t2)."""
    a, b = backend.asarray(matrix), backend.asarray(right)
    return list(plane_minimizer(a[0, 0], a[0, 1], a[1, 1], b[0], b[1]))


def cg(
    backend: Backend, *, matrix: Any, gradient: Any, steps: int, start: Any = None, stopping: Any = "residual"
) -> Mapping[str, Array]:
    """z and the model there."""
    a, g = backend.asarray(matrix), backend.asarray(gradient)
    begin = None if start is None else backend.asarray(start)
    found = truncated_cg(lambda v: backend.xp.matmul(a, v), g, steps=steps, start=begin, stopping=stopping)
    return {"x": found.x, "model": found.model}


def transition_matrix(backend: Backend, *, momentum: Any, scaled_rate: Any, rule: Any) -> Array:
    """R for each pair, (m, 2, 2)."""
    return stability.transition_matrix(backend.asarray(momentum), backend.asarray(scaled_rate), rule)


def spectral_radius(backend: Backend, *, momentum: Any, scaled_rate: Any, rule: Any) -> Array:
    """The larger modulus for each pair, (m,)."""
    return stability.spectral_radius(backend.asarray(momentum), backend.asarray(scaled_rate), rule)


def optimal_parameters(backend: Backend, *, condition_number: float, rule: Any) -> Mapping[str, Array]:
    """rho, beta h_min and the rate."""
    found = stability.optimal_parameters(condition_number, rule)._asdict()
    return {key: backend.asarray(value) for key, value in found.items()}


CALLS: dict[str, Callable[..., Any]] = {
    "curveball_step": step,
    "curveball_damping": damping_rule,
    "plane_minimizer": plane,
    "truncated_cg": cg,
    "transition_matrix": transition_matrix,
    "spectral_radius": spectral_radius,
    "optimal_parameters": optimal_parameters,
}


# -- a reader's own ---------------------------------------------------------------------------------------------------


def check_curveball(
    optimizer: Optimizer,
    problem: Problem | None = None,
    x: Any = None,
    *,
    damping: float = 1.0,
    learning_rate: float | None = None,
    momentum: float | None = None,
    system: str = "damped",
    steps: int = 5,
    seed: int = 0,
) -> OracleReport:
    """Compare a CurveBall of your own, step by step, with dense matrices, and name the likely slip.

    Parameters
    ----------
    optimizer : an object with ``init(x)`` and ``step(point, state)``, set to keep lam as it is.
    problem : None takes a small linear least-squares problem, loss r·r without 1/2. The Gauss–Newton parts of yours
        are taken for right: see :func:`~refimpl.verify.oracle.check_oracle`.
    x : the starting place, (n,); None asks ``problem.initial``.
    damping, learning_rate, momentum, system : what your optimizer was told; as for
        :class:`refimpl.optimizers.curveball.CurveBall`.
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
        Something that is no optimizer or no problem; a loss without outputs.

    Notes
    -----
    The step is judged from the place and the last step that your optimizer itself arrived at: a wrong first step does
    not hide a right second one. With beta and rho free, a damping that is left out of dz alone changes no step (the
    plane is the same) and is not noticed. Cost: n forward-mode products and o products with d2L/dphi2 per step.

    >>> from refimpl.optimizers.curveball import CurveBall
    >>> check_curveball(CurveBall(adapt_every=0)).passed
    True
    """
    if isinstance(optimizer, type) or not (hasattr(optimizer, "init") and hasattr(optimizer, "step")):
        raise ValueError(f"optimizer must be an instance with init and step, got {optimizer!r}")
    check_count("steps", steps, minimum=2)
    rng, given = as_generator(seed), problem if problem is not None else _small()
    if not isinstance(given, Problem):
        raise ValueError(f"problem must be an instance of a Problem, got {problem!r}")
    place = given.initial(rng) if x is None else given.backend.asarray(x)
    sample, knobs = given.draw(rng), {"learning_rate": learning_rate, "momentum": momentum, "system": system}
    state, z = optimizer.init(place), np.zeros(given.n)
    seen = []
    for _ in range(steps):
        point = given.at(place, sample)
        taken = optimizer.step(point, state)
        moved = to_numpy(taken.x).astype(float) - to_numpy(place)
        seen.append(({**output_parts(point), "step": z, "damping": damping, **knobs}, moved))
        place, state, z = taken.x, taken.state, moved
    return _report(seen, 1e-6 if given.backend.dtype_name == "float64" else 1e-3)


def output_parts(point: Point) -> dict[str, np.ndarray]:
    """``jacobian`` (o, n), ``output_hessian`` (o, o) and ``output_gradient`` (o,) at a point without leading axes."""
    backend, slope = point.problem.backend, point.output_gradient
    units, outputs = backend.eye(point.problem.n), backend.eye(int(slope.shape[0]))
    jacobian = [to_numpy(point.jvp(units[i, ...])) for i in range(point.problem.n)]
    curvature = [to_numpy(point.output_hvp(outputs[i, ...])) for i in range(int(slope.shape[0]))]
    return {
        "jacobian": np.stack(jacobian, axis=-1),
        "output_hessian": np.stack(curvature, axis=-1),
        "output_gradient": to_numpy(slope),
    }


def _small() -> Problem:
    return LinearLeastSquares([[1.0, 2.0, 0.0], [0.5, -1.0, 3.0], [2.0, 0.0, 1.0], [-1.0, 1.5, 0.25]], [1, -2, 0.5, 3])


def _report(seen: list[tuple[dict[str, Any], np.ndarray]], tolerance: float) -> OracleReport:
    errors = [_distance(moved, dense_curveball.step(**inputs)["step"]) for inputs, moved in seen]
    missed = [pair for pair, error in zip(seen, errors, strict=True) if not error <= tolerance]
    cause = likely_slip("curveball_step", missed, _distance) if missed else ""
    return step_report(errors, tolerance, cause, "CurveBall")


def step_report(errors: Sequence[float], tolerance: float, cause: str, method: str) -> OracleReport:
    """One row per step, with the ``cause`` beside those that are wrong; raises StepCheckFailed if there are any."""
    cause = cause or f"no slip of the usual kind; compare with refimpl.verify.dense_{method.lower()}.step"
    checks = [
        OracleCheck(f"step {i}" + (", without momentum" if i == 1 else ""), error, tolerance,
                    "" if error <= tolerance else cause)
        for i, error in enumerate(errors, start=1)
    ]  # fmt: skip
    report = OracleReport(tuple(checks))
    if not report.passed:
        raise StepCheckFailed(report, method)
    return report


def _distance(found: Any, wanted: Any) -> float:
    return float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-300))
