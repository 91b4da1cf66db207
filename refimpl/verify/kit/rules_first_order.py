"""The rules of first-order methods for :mod:`refimpl.verify.kit.textbook_first_order`, each right or with a slip.

A rule says what is left of x and what is subtracted from it. Its slips stand beside the right line, so that one sees
what differs; their words are in :mod:`refimpl.verify.kit.slips_first_order`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass
class At:
    """All that a rule may use: the place, its gradient, t = 1, 2, …, and a memory that it renews."""

    task: Any
    x: Any
    g: Any
    t: int
    memory: dict[str, Any]
    k: Mapping[str, Any]

    def old(self, name: str) -> Any:
        """What was remembered; zero at the start."""
        return self.memory.get(name, np.zeros_like(self.x))

    def average(self, name: str, weight: float, value: Any) -> Any:
        """weight · old + (1 - weight) · value, remembered."""
        self.memory[name] = weight * self.old(name) + (1.0 - weight) * value
        return self.memory[name]


Change = tuple[Any, Any]
"""The place that is left of x (less than x where weights decay), and what is subtracted from it."""


def _gradient_descent(at: At, slip: str) -> Change:
    rate, g = at.k["learning_rate"], at.g
    if slip == "normalized":
        g = g / (np.linalg.norm(g) or 1.0)
    return at.x, (rate * rate if slip == "rate twice" else rate) * (np.sign(g) if slip == "sign" else g)


def _heavy_ball(at: At, slip: str) -> Change:
    rate, mu = at.k["learning_rate"], at.k["momentum"]
    weight = 1.0 - mu if slip == "average" or (slip == "dampening" and at.t > 1) else 1.0
    old = at.old("velocity")
    at.memory["velocity"] = v = (-mu if slip == "momentum's sign" else mu) * old + weight * at.g
    used = {"look-ahead": at.g + mu * v, "old velocity": old, "no momentum": at.g, "rate twice": rate * v}.get(slip, v)
    return at.x, rate * used


def _nesterov(at: At, slip: str) -> Change:
    rate, mu = at.k["learning_rate"], at.k["momentum"]
    old = at.old("velocity")
    if slip in ("other form", "no rate"):
        g = at.task.gradient(at.x - (mu if slip == "no rate" else rate * mu) * old)
        at.memory["velocity"] = mu * old + g
        return at.x, rate * at.memory["velocity"]
    weight = 1.0 - mu if slip == "average" or (slip == "dampening" and at.t > 1) else 1.0
    at.memory["velocity"] = v = mu * old + weight * at.g
    ahead = {"no weight": v, "backward": -mu * v, "no momentum": 0.0 * v}.get(slip, mu * v)
    return at.x, rate * (v if slip == "no look-ahead" else at.g + ahead)


def _adagrad(at: At, slip: str) -> Change:
    g, eps, old = at.g, at.k["epsilon"], at.old("sum")
    total = old + {"magnitudes": np.abs(g), "one rate": np.sum(g * g) + 0.0 * g}.get(slip, g * g)
    total = np.sqrt(total) if slip == "root in the sum" else total
    at.memory["sum"] = total
    used = {"mean": total / at.t, "old sum": old}.get(slip, total)
    root = used if slip in ("no root", "root in the sum", "magnitudes") else np.sqrt(used)
    return at.x, at.k["learning_rate"] * g / (np.sqrt(used + eps) if slip == "epsilon in the root" else root + eps)


def _rmsprop(at: At, slip: str) -> Change:
    g, eps, b = at.g, at.k["epsilon"], at.k["beta"]
    old = at.memory.get("square", np.ones_like(g) if slip == "start at one" else np.zeros_like(g))
    b, share = {"weights": (1.0 - b, b), "unweighted": (b, 1.0)}.get(slip, (b, 1.0 - b))
    square = b * old + share * (np.abs(g) if slip == "magnitudes" else g * g)
    square = np.sqrt(square) if slip == "root in the average" else square
    at.memory["square"] = square
    used = {"corrected": square / (1.0 - b**at.t), "old average": old}.get(slip, square)
    if slip == "square of the mean":
        used = at.average("mean", b, g) ** 2
    if slip == "centered":
        used = used - at.average("mean", b, g) ** 2
    root = used if slip in ("no root", "root in the average", "magnitudes") else np.sqrt(used)
    return at.x, at.k["learning_rate"] * g / (np.sqrt(used + eps) if slip == "epsilon in the root" else root + eps)


def _adadelta(at: At, slip: str) -> Change:
    g, eps, b, rate = at.g, at.k["epsilon"], at.k["beta"], at.k["learning_rate"]
    b = 1.0 - b if slip == "weights" else b
    moved, square = at.old("moved"), b * at.old("square") + (1.0 - b) * g * g
    square = np.sqrt(square) if slip == "root in the averages" else square
    at.memory["square"] = square
    if slip in ("root in the averages", "no roots"):
        change = (moved + eps) / (square + eps) * g
    elif slip == "epsilon outside":
        change = (np.sqrt(moved) + eps) / (np.sqrt(square) + eps) * g
    else:
        top = {"no numerator": 1.0, "no epsilon above": np.sqrt(moved)}.get(slip, np.sqrt(moved + eps))
        change = top / np.sqrt(square + eps) * g
    moved = b * moved + (1.0 - b) * (g * g if slip == "gradients above" else change * change)
    at.memory["moved"] = np.sqrt(moved) if slip == "root in the averages" else moved
    return at.x, rate * change


def _adam(at: At, slip: str) -> Change:
    return at.x, _adam_change(at, at.g, slip)


def _adamw(at: At, slip: str) -> Change:
    kept, g = _decayed(at, slip)
    change = _adam_change(at, g, slip)
    share = 1.0 - at.k["learning_rate"] * at.k["weight_decay"]
    return (at.x * share, share * change) if slip == "decay after" else (kept, change)


def _adam_change(at: At, g: Any, slip: str) -> Any:
    rate, eps, b1, b2 = (at.k[name] for name in ("learning_rate", "epsilon", "beta1", "beta2"))
    b1, b2 = (b2, b1) if slip == "betas swapped" else (b1, b2)
    m = at.average("mean", b1, g / (1.0 - b1) if slip == "unweighted" else g)
    s = at.average("square", b2, {"square of the mean": m * m, "magnitudes": np.abs(g)}.get(slip, g * g))
    if slip == "root in the average":
        at.memory["square"] = s = np.sqrt(s)
    t = np.float64(at.t + {"count from zero": -1, "count ahead": 1}.get(slip, 0))
    c1 = 1.0 if slip in ("no correction", "first uncorrected") else float(1.0 - b1**t)
    c2 = 1.0 if slip in ("no correction", "second uncorrected") else float(1.0 - b2**t)
    c1, c2 = np.asarray([c1, c2], dtype=at.x.dtype)  # arrays: zero is divided by as Torch does it
    if slip in ("no root", "root in the average", "magnitudes"):
        scale = s / c2 + eps
    elif slip == "epsilon in the root":
        scale = np.sqrt(s / c2 + eps)
    elif slip == "epsilon before the correction":
        scale = (np.sqrt(s) + eps) / np.sqrt(c2)
    else:
        scale = np.sqrt(s) / (c2 if slip == "correction of the root" else np.sqrt(c2)) + eps
    return rate * ((g if slip == "no momentum" else m) / c1) / scale


def _amsgrad(at: At, slip: str) -> Change:
    rate, eps, b1, b2 = (at.k[name] for name in ("learning_rate", "epsilon", "beta1", "beta2"))
    m, s = at.average("mean", b1, at.g), at.average("square", b2, at.g * at.g)
    c1, c2 = (1.0, 1.0) if slip == "no correction" else (1.0 - b1**at.t, 1.0 - b2**at.t)
    if slip == "maximum of the corrected":
        s, c2 = s / c2, 1.0
    at.memory["most"] = most = s if slip == "no maximum" else np.maximum(at.old("most"), s)
    if slip == "maximum averaged":
        at.memory["square"] = most
    if slip == "no root":
        return at.x, rate * m / c1 / (most / c2 + eps)
    root = np.sqrt(most / c2 + eps) if slip == "epsilon in the root" else np.sqrt(most) / c2**0.5 + eps
    return at.x, rate * m / c1 / root


def _nadam(at: At, slip: str) -> Change:
    rate, eps, b1, b2 = (at.k[name] for name in ("learning_rate", "epsilon", "beta1", "beta2"))
    m, s = at.average("mean", b1, at.g), at.average("square", b2, at.g * at.g)
    constant = slip in ("constant momentum", "printed", "no look-ahead")
    mu, ahead = (b1 if constant else b1 * (1.0 - 0.5 * 0.96 ** (t * at.k["momentum_decay"])) for t in (at.t, at.t + 1))
    product = at.memory["product"] = mu * at.memory.get("product", 1.0)
    after = product if slip in ("printed", "same product") else product * ahead
    top = (1.0 - mu) * at.g / (1.0 - product) + ahead * m / (1.0 - after)
    top = {"no look-ahead": m / (1.0 - product), "no correction": (1.0 - mu) * at.g + ahead * m}.get(slip, top)
    s = s if slip in ("second uncorrected", "no correction") else s / (1.0 - b2**at.t)
    scale = {"no root": s + eps, "epsilon in the root": np.sqrt(s + eps)}.get(slip, np.sqrt(s) + eps)
    return at.x, rate * top / scale


def _adamax(at: At, slip: str) -> Change:
    rate, eps, b1, b2 = (at.k[name] for name in ("learning_rate", "epsilon", "beta1", "beta2"))
    b1, b2 = (b2, b1) if slip == "betas swapped" else (b1, b2)
    m = at.average("mean", b1, at.g)
    size = {"no magnitude": at.g + eps, "squares": at.g * at.g + eps, "epsilon outside": np.abs(at.g)}
    u = np.maximum((1.0 if slip == "no decay" else b2) * at.old("most"), size.get(slip, np.abs(at.g) + eps))
    at.memory["most"] = u
    used = {"epsilon outside": u + eps, "root": np.sqrt(u), "corrected": u / (1.0 - b2**at.t)}.get(slip, u)
    return at.x, rate * m / (1.0 if slip == "no correction" else 1.0 - b1**at.t) / used


def _adopt(at: At, slip: str) -> Change:
    rate, eps, b1, b2 = (at.k[name] for name in ("learning_rate", "epsilon", "beta1", "beta2"))
    g, first = at.g, at.t == 1
    old = g * g if first and slip != "start at zero" else at.old("square")
    at.memory["square"] = new = old if first and slip != "start at zero" else b2 * old + (1.0 - b2) * g * g
    if first and slip not in ("first step taken", "start at zero"):
        return at.x, 0.0 * g
    used = {"current moment": new, "corrected": new / (1.0 - b2**at.t)}.get(slip, old)
    scale = {"no root": np.maximum(used, eps), "epsilon added": np.sqrt(used) + eps}.get(
        slip, np.maximum(np.sqrt(used), eps)
    )
    bound = np.inf if slip == "no clip" else float(at.t - (slip != "bound counts the first")) ** 0.25
    bound = 1.0 if first else bound
    if slip == "order of Adam":
        return at.x, rate * np.clip(at.average("mean", b1, g) / scale, -bound, bound)
    m = at.average("mean", b1, np.clip(g / scale, -bound, bound))
    return at.x, rate * m


def _lion(at: At, slip: str) -> Change:
    rate, b1, b2 = at.k["learning_rate"], at.k["beta1"], at.k["beta2"]
    b1, b2 = (b2, b1) if slip == "betas swapped" else (b1, b1) if slip == "one beta" else (b1, b2)
    kept, g = _decayed(at, slip)
    if slip == "momentum first":
        m = at.average("mean", b2, g)
        return kept, rate * np.sign(b1 * m + (1.0 - b1) * g)
    mixed = b1 * at.old("mean") + (1.0 - b1) * g
    m = at.average("mean", b2, g)
    return kept, rate * {"no sign": mixed, "wrong average": np.sign(m), "sign first": np.sign(g)}.get(
        slip, np.sign(mixed)
    )


def _sophia(at: At, slip: str) -> Change:
    k, (kept, g) = at.k, _decayed(at, slip)
    m, old = at.average("mean", 1.0 - k["beta1"] if slip == "weights" else k["beta1"], g), at.old("curvature")
    if (at.t - 1) % k["interval"] == 0 or slip == "every step":
        matrix = np.asarray(at.task.hessian(at.x))
        diagonal = np.sum(matrix, axis=1) if slip == "row sums" else np.diag(matrix)
        diagonal = {"squared gradient": at.g * at.g, "magnitudes": np.abs(diagonal)}.get(slip, diagonal)
        at.average("curvature", 1.0 - k["beta2"] if slip == "weights" else k["beta2"], diagonal)
    h = old if slip == "old curvature" else at.old("curvature")
    h = h / (1.0 - k["beta2"] ** (1 + (at.t - 1) // k["interval"])) if slip == "corrected" else h
    top, h = at.g if slip == "gradient" else m, (1.0 if slip == "no rho" else k["rho"]) * h
    quotient = top / (h + k["epsilon"] if slip == "negative curvature" else np.maximum(h, 0.0) + k["epsilon"])
    return kept, k["learning_rate"] * (quotient if slip == "no clip" else np.clip(quotient, -1.0, 1.0))


def _decayed(at: At, slip: str) -> Change:
    """What decay leaves of x, and the gradient that the method sees."""
    rate, decay = at.k["learning_rate"], at.k["weight_decay"]
    if slip == "coupled":
        return at.x, at.g + decay * at.x
    if slip == "decay growing":
        return (1.0 + rate * decay) * at.x, at.g
    return {"no decay": 1.0, "decay without rate": 1.0 - decay}.get(slip, 1.0 - rate * decay) * at.x, at.g


RULES: dict[str, Callable[[At, str], Change]] = {
    "gradient-descent": _gradient_descent, "heavy-ball": _heavy_ball, "nesterov": _nesterov, "adagrad": _adagrad,
    "rmsprop": _rmsprop, "adadelta": _adadelta, "adam": _adam, "adamw": _adamw, "amsgrad": _amsgrad, "nadam": _nadam,
    "adamax": _adamax, "adopt": _adopt, "lion": _lion, "sophia": _sophia,
}  # fmt: skip
