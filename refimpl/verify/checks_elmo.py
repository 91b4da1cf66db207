"""How the package computes the golden vectors about ELMO, cubic regularization, Sophia and AMOS."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from refimpl.arrays import Array, Backend, namespace
from refimpl.curvature import cubic, lipschitz
from refimpl.optimizers.amos import AMOS
from refimpl.optimizers.elmo import ELMO
from refimpl.optimizers.sophia import Sophia, SophiaState
from refimpl.oracle import Evaluation, Point, Problem
from refimpl.problems.closed_form import ClosedForm
from refimpl.problems.quadratic import Quadratic


class Scripted(Problem):
    """A linear loss with the given slope, whose sampled gradients, estimates and tensors are given as well.

    ``given`` is the sampled gradient (n,), or None where none must be asked for; ``rows`` how many samples it has.
    """

    name = "scripted"

    def __init__(self, gradient: Any, given: Any = None, rows: int = 1, sizes: Any = None, *, backend: Backend) -> None:
        super().__init__(len(gradient), backend)
        self.slope, self.rows = backend.asarray(gradient), rows
        self.given = None if given is None else backend.asarray(given)
        self._shapes = tuple((int(size),) for size in (sizes or [len(gradient)]))

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """One tensor of one axis per group."""
        return self._shapes

    def initial(self, rng: Any) -> Array:
        """Zero."""
        return self.backend.zeros(self.n)

    def evaluation(self, x: Array, sample: Any) -> Evaluation:
        return ClosedForm(
            x,
            lambda a: namespace(a).sum(a * self.slope, axis=-1),
            lambda a: self.slope + 0.0 * a,
            hvp=lambda a, v: 0.0 * v,
        )

    def at(self, x: Array, sample: Any = None) -> Point:
        """A point that answers a request for sampled targets with what is given."""
        self.check_place(x)
        return _ScriptedPoint(self, self.copy(x), sample)


class _ScriptedPoint(Point):
    def sampled_gradient(self, rng: Any, likelihood: str | None = None) -> tuple[Array, int]:
        assert isinstance(self.problem, Scripted)
        assert self.problem.given is not None, "a sampled gradient was asked for where none is due"
        return self.problem.given, self.problem.rows


# -- the calls --------------------------------------------------------------------------------------------------------


def elmo_step(backend: Backend, **given: Any) -> Array:
    """The step along each eigenvector, (k,)."""
    return cubic.elmo_step(*(backend.asarray(given[key]) for key in ("eigenvalue", "slope", "lipschitz")))


def cubic_bounds(backend: Backend, **given: Any) -> Mapping[str, Array]:
    """``majorizer`` and ``minorizer``, (k,) each."""
    arrays = [backend.asarray(given[key]) for key in ("step", "eigenvalue", "slope", "lipschitz")]
    return {"majorizer": cubic.majorizer(*arrays), "minorizer": cubic.minorizer(*arrays)}


def row_sum(backend: Backend, *, third: Any, vectors: Any) -> Array:
    """The constants, (n,)."""
    return lipschitz.row_sum(backend.asarray(third), backend.asarray(vectors))


def elmo_direction(backend: Backend, *, hessian: Any, gradient: Any, lipschitz: Any, tie: int = 1) -> Mapping[str, Any]:
    """``step`` and ``predicted_change`` of ELMO at x = 0 of a quadratic."""
    problem = Quadratic(hessian, linear=gradient, backend=backend)
    method = ELMO(lambda point, spectrum: backend.asarray(lipschitz), tie=tie)
    x = backend.zeros(problem.n)
    taken = method.step(problem.at(x), method.init(x))
    return {"step": taken.x, "predicted_change": taken.info.predicted_change}


def cubic_step(backend: Backend, *, matrix: Any, gradient: Any, sigma: float) -> Mapping[str, Any]:
    """``step``, ``multiplier`` and ``model``."""
    found = cubic.cubic_step(backend.asarray(matrix), backend.asarray(gradient), sigma)
    return {"step": found.step, "multiplier": found.multiplier, "model": found.model}


def sophia_step(
    backend: Backend,
    *,
    place: Any,
    gradient: Any,
    mean: Any,
    curvature: Any,
    sampled_gradient: Any,
    samples: int,
    **knobs: Any,
) -> Mapping[str, Array]:
    """``place``, ``mean`` and ``curvature`` after one step."""
    problem = Scripted(gradient, sampled_gradient, samples, backend=backend)
    # In step 1 of two the diagonal is not renewed.
    state = SophiaState(backend.asarray(mean), backend.asarray(curvature), 1 if sampled_gradient is None else 0)
    taken = Sophia(**knobs, decay="all", interval=2).step(problem.at(backend.asarray(place)), state)
    return {"place": taken.x, "mean": taken.state.mean, "curvature": taken.state.curvature}


def amos_lipschitz(
    backend: Backend, *, estimates: Any, places: Any, sizes: Any, **knobs: Any
) -> Mapping[str, list[Array]]:
    """``lipschitz``, ``group_lipschitz`` and ``offloaded`` after each Hessian time."""
    method = AMOS(**knobs, offload="freeze", interval=1)
    state, found = None, {"lipschitz": [], "group_lipschitz": [], "offloaded": []}  # type: ignore[var-annotated]
    one = backend.zeros(())
    for estimate, place in zip(estimates, places, strict=True):
        # The estimate is rows times a square: its root, of one row.
        given = [value**0.5 for value in estimate]
        problem = Scripted([0.0] * len(place), given, 1, [int(size) for size in sizes], backend=backend)
        x = backend.asarray(place)
        state = method.step(problem.at(x), state or method.init(x)).state
        found["lipschitz"].append(state.lipschitz)
        found["group_lipschitz"].append(state.group_lipschitz)
        found["offloaded"].append(backend.xp.where(state.offloaded, one + 1.0, one))
    return found


CALLS: dict[str, Callable[..., Any]] = {
    "elmo_step": elmo_step,
    "cubic_bounds": cubic_bounds,
    "row_sum": row_sum,
    "elmo_direction": elmo_direction,
    "cubic_step": cubic_step,
    "sophia_step": sophia_step,
    "amos_lipschitz": amos_lipschitz,
}
