"""The losses of the golden vectors as formulas in mpmath, written down from their definitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import mpmath as mp

Vector = list[Any]
Loss = Callable[[Vector], Any]


def formula(problem: dict[str, Any]) -> Loss:
    """The loss that ``problem`` (a ``name`` and options) describes, as a function of a list of mpmath numbers."""
    name = problem["name"]
    if name == "quadratic":
        return _quadratic(problem)
    if name == "rosenbrock":
        steepness = 100 * mp.mpf(problem.get("steepness", 1))
        return lambda x: sum((1 - a) ** 2 + steepness * (b - a**2) ** 2 for a, b in pairwise(x))
    return _TOYS[name]


def _quadratic(problem: dict[str, Any]) -> Loss:
    matrix = mp.matrix(problem["hessian"])
    n = matrix.rows
    center = mp.matrix(problem.get("center", [0] * n))
    linear = mp.matrix(problem.get("linear", [0] * n))

    def f(x: Vector) -> Any:
        step = mp.matrix(x) - center
        return (step.T * matrix * step)[0] / 2 + (linear.T * step)[0]

    return f


def _wood(x: Vector) -> Any:
    a, b, c, d = x
    valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + (b - d) ** 2 / 10


_TOYS: dict[str, Loss] = {
    "horse-saddle": lambda x: x[0] ** 2 - x[1] ** 2,
    "monkey-saddle": lambda x: x[0] ** 3 - 3 * x[0] * x[1] ** 2,
    "degenerate-saddle": lambda x: x[0] ** 2 - x[1] ** 4,
    "coupled-saddle": lambda x: x[0] ** 2 / 2 - x[1] ** 2 / 2 + x[0] * x[1] ** 2,
    "double-well": lambda x: (x[0] ** 2 - 1) ** 2 / 4 + sum(a**2 for a in x[1:]) / 2,
    "sqrt-valley": lambda x: mp.sqrt(1 + sum(a**2 for a in x)),
    "wood": _wood,
}


# -- networks: parameters layer by layer, weights row by row and then biases; outputs sample by sample -----------

_ACTIVATIONS: dict[str, Callable[[Any], Any]] = {"tanh": mp.tanh, "softplus": lambda z: mp.log(1 + mp.exp(z))}
_XOR = {"inputs": [[0, 0], [0, 1], [1, 0], [1, 1]], "targets": [[0], [1], [1], [0]], "widths": [2, 8, 1]}


def described(problem: dict[str, Any]) -> dict[str, Any]:
    """The network with everything that its name implies."""
    if problem["name"] == "xor":
        return {**_XOR, "activation": "softplus", "loss": "binary-cross-entropy"}
    return problem


def network_outputs(problem: dict[str, Any]) -> Callable[[Vector], Vector]:
    """Parameters -> all outputs, entry ``i * k + j`` being output j of sample i."""
    about = described(problem)
    activate = _ACTIVATIONS[about["activation"]]

    def outputs(x: Vector) -> Vector:
        found: Vector = []
        for row in about["inputs"]:
            a, start = [mp.mpf(value) for value in row], 0
            for fan_in, fan_out in pairwise(about["widths"]):
                bias = start + fan_in * fan_out
                rows = [x[start + i * fan_in : start + (i + 1) * fan_in] for i in range(fan_out)]
                a = [sum(w * b for w, b in zip(r, a, strict=True)) + x[bias + i] for i, r in enumerate(rows)]
                start = bias + fan_out
                if start < len(x):
                    a = [activate(z) for z in a]
            found += a
        return found

    return outputs


def network_loss(problem: dict[str, Any]) -> Loss:
    """Parameters -> loss."""
    outputs, loss = network_outputs(problem), LOSSES[described(problem)["loss"]]
    return lambda x: loss(outputs(x), problem)


def _half_mse(outputs: Vector, problem: dict[str, Any]) -> Any:
    wanted = [mp.mpf(t) for row in described(problem)["targets"] for t in row]
    return sum((o - t) ** 2 for o, t in zip(outputs, wanted, strict=True)) / 2 / _samples(problem)


def _softmax(outputs: Vector, problem: dict[str, Any]) -> Any:
    width = described(problem)["widths"][-1]
    total = mp.mpf(0)
    for i, label in enumerate(described(problem)["targets"]):
        logits = outputs[i * width : (i + 1) * width]
        total += mp.log(sum(mp.exp(z) for z in logits)) - logits[label]
    return total / _samples(problem)


def _binary(outputs: Vector, problem: dict[str, Any]) -> Any:
    wanted = [mp.mpf(t) for row in described(problem)["targets"] for t in row]
    total = mp.mpf(0)
    for z, t in zip(outputs, wanted, strict=True):
        probability = 1 / (1 + mp.exp(-z))
        total -= t * mp.log(probability) + (1 - t) * mp.log(1 - probability)
    return total / _samples(problem)


def _samples(problem: dict[str, Any]) -> int:
    return len(described(problem)["inputs"])


LOSSES: dict[str, Callable[[Vector, dict[str, Any]], Any]] = {
    "half-mse": _half_mse,
    "softmax-cross-entropy": _softmax,
    "binary-cross-entropy": _binary,
}
"""Outputs and the problem -> loss: the mean over samples."""
