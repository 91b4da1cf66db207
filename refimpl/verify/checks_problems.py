"""How the package computes the golden vectors about problems: losses, derivatives, products."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from refimpl import problems
from refimpl.arrays import Array, Backend
from refimpl.curvature.spectrum import eigen
from refimpl.oracle import Point, Problem
from refimpl.problems.losses import BinaryCrossEntropy, HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.xor import xor_network

_LOSSES: dict[str, Callable[[], Any]] = {
    loss.name: loss for loss in (HalfMeanSquaredError, SoftmaxCrossEntropy, BinaryCrossEntropy)
}
_PROBLEMS: dict[str, Callable[..., Problem]] = {
    "horse-saddle": problems.HorseSaddle,
    "monkey-saddle": problems.MonkeySaddle,
    "degenerate-saddle": problems.DegenerateSaddle,
    "coupled-saddle": problems.CoupledSaddle,
    "double-well": problems.DoubleWell,
    "sqrt-valley": problems.SqrtValley,
    "rosenbrock": problems.Rosenbrock,
    "wood": problems.Wood,
    "quadratic": problems.Quadratic,
    "xor": xor_network,
}


def build(backend: Backend, description: Mapping[str, Any]) -> Problem:
    """The problem that a ``name`` and options describe, on ``backend``."""
    options = dict(description)
    name = options.pop("name")
    if name == "mlp":
        data = options.pop("widths"), _numbers(options.pop("inputs")), _numbers(options.pop("targets"))
        return MLP(*data, loss=_LOSSES[options.pop("loss")](), backend=backend, **options)
    return _PROBLEMS[name](backend=backend, **options)


def derivatives(
    backend: Backend, *, problem: Mapping[str, Any], x: Any, v: Any = None, sample: Any = None
) -> dict[str, Array]:
    """``loss``, ``gradient``, ``hessian``, and with ``v`` also ``hvp``."""
    point = build(backend, problem).at(backend.asarray(x), sample)
    answers = {"loss": point.loss, "gradient": point.gradient, "hessian": point.hessian()}
    return answers if v is None else {**answers, "hvp": point.hvp(backend.asarray(v))}


def losses(backend: Backend, *, problem: Mapping[str, Any], places: Any) -> list[Array]:
    """The loss at each place."""
    built = build(backend, problem)
    return [built.loss(backend.asarray(place)) for place in places]


def conditioning(backend: Backend, *, problem: Mapping[str, Any], x: Any) -> dict[str, Any]:
    """Extreme eigenvalues of the Hessian and their ratio."""
    values = eigen(build(backend, problem).at(backend.asarray(x)).hessian()).eigenvalues
    low, high = values[0], values[-1]
    return {"eigenvalues": [low, high], "condition_number": high / low}


def network(backend: Backend, *, problem: Mapping[str, Any], x: Any, v: Any) -> dict[str, Array]:
    """Everything a network's Point offers, in the direction ``v``."""
    point: Point = build(backend, problem).at(backend.asarray(x))
    direction = backend.asarray(v)
    return {
        "loss": point.loss,
        "gradient": point.gradient,
        "hvp": point.hvp(direction),
        "hessian_product": backend.xp.matmul(point.hessian(), direction),
        "outputs": point.outputs,
        "jvp": point.jvp(direction),
        "ggnvp": point.ggnvp(direction),
    }


def _numbers(values: Any) -> Any:
    import numpy as np

    return np.asarray(values)


CALLS: dict[str, Callable[..., Any]] = {
    "derivatives": derivatives,
    "losses": losses,
    "conditioning": conditioning,
    "network": network,
}
