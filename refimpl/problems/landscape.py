"""What the loss looks like around a place: slices along a direction, over a plane, and random directions to look along.

Every number is on one sample (the noise-free loss unless one is given), so a picture can be made again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, all_finite, as_generator, check_count, dot, host_numbers, norm
from refimpl.oracle import Problem, Sample


class Slice(NamedTuple):
    """The loss along a line.

    position : t, (points,), NumPy, in units of the direction given.

    loss : f(x + t d), (points,), NumPy.

    quadratic : f(x) + t g·d + t²/2 d·Hd at the same t, (points,): what a second-order method believes.
    """

    position: np.ndarray
    loss: np.ndarray
    quadratic: np.ndarray

    def departure(self) -> float:
        """The largest |loss - quadratic| as a share of the range of the quadratic (0: the slice is a parabola).

        NaN where the quadratic is constant.
        """
        span = float(np.ptp(self.quadratic))
        return float(np.max(np.abs(self.loss - self.quadratic))) / span if span > 0 else float("nan")


class Plane(NamedTuple):
    """The loss over a plane: ``loss[i, j]`` is f(x + second[i] d2 + first[j] d1), NumPy, as contour plots want it."""

    first: np.ndarray
    second: np.ndarray
    loss: np.ndarray


def slice_along(
    problem: Problem,
    x: Array,
    direction: Array,
    *,
    span: tuple[float, float] = (-2.0, 2.0),
    points: int = 81,
    sample: Sample = None,
) -> Slice:
    """The loss at x + t d for t over ``span``, beside its quadratic model at x.

    Parameters
    ----------
    problem : the loss.
    x, direction : d, each (n,), arrays of the problem. The direction keeps its length: with a method's own step for d,
        t = 1 is where the method went.
    span : the ends of t, in increasing order.
    points : how many t, equally spaced.
    sample : what ``problem.draw`` gave; None is the noise-free loss.

    Raises
    ------
    ValueError
        A direction that is zero or not finite; ends in the wrong order; fewer than 3 points.

    Notes
    -----
    Cost: one loss per point, one gradient, one product; nothing is counted.

    Source: KryBall thesis, sec. 5.1.4 and Fig. 5.6 (a line search over [-2, 2] along the optimizer's step).
    """
    problem.check_place(x)
    _check_direction(problem, "direction", direction)
    at = _positions(span, points)
    point = problem.at(x, sample)
    slope, bend = float(dot(point.gradient, direction)), float(dot(direction, point.hvp(direction)))
    losses = [float(problem.loss(x + float(t) * direction, sample)) for t in at]
    return Slice(at, np.asarray(losses), float(point.loss) + at * slope + 0.5 * at**2 * bend)


def plane(
    problem: Problem,
    x: Array,
    first: Array,
    second: Array,
    *,
    span: tuple[float, float] = (-1.0, 1.0),
    points: int = 31,
    sample: Sample = None,
) -> Plane:
    """The loss over x + s d1 + t d2, s and t over ``span``: points² losses.

    Parameters, errors and costs otherwise as in :func:`slice_along`; the directions need not be orthogonal.

    Source: Li et al. (2018), sec. 3.
    """
    problem.check_place(x)
    _check_direction(problem, "first", first)
    _check_direction(problem, "second", second)
    at = _positions(span, points)
    rows = [[float(problem.loss(x + float(s) * first + float(t) * second, sample)) for s in at] for t in at]
    return Plane(at, at, np.asarray(rows))


def random_direction(problem: Problem, x: Array, seed: Any, *, normalize: str = "whole") -> Array:
    """A direction to look along, drawn from a normal distribution: (n,), the same for the same seed.

    Parameters
    ----------
    problem, x : the loss and the place, (n,).
    seed : a number, several, or a NumPy generator.
    normalize : ``"whole"`` gives the direction the length of x (of 1 where x is zero); ``"filters"`` gives each row of
        each layer the length of that row of x, which takes away what a rescaling of the weights would change.

    Raises
    ------
    ValueError
        An unknown ``normalize``; ``"filters"`` for a problem without layers.

    Source: Li et al. (2018), sec. 4 (filter normalization).
    """
    problem.check_place(x)
    if normalize not in ("whole", "filters"):
        raise ValueError(f"unknown normalize {normalize!r}; choose one of ['whole', 'filters']")
    direction = problem.backend.normal(as_generator(seed), problem.n)
    if normalize == "whole":
        return direction * ((float(norm(x)) or 1.0) / float(norm(direction)))
    pairs = zip(problem.to_layers(direction), problem.to_layers(x), strict=True)
    return problem.from_layers([d * (norm(w) / norm(d))[..., None] for d, w in pairs])


def _positions(span: Any, points: int) -> np.ndarray:
    check_count("points", points, minimum=3)
    ends = host_numbers("span", span)
    if ends.shape != (2,) or not np.isfinite(ends).all() or not ends[0] < ends[1]:
        raise ValueError(f"span must be two numbers in increasing order, got {span!r}")
    return np.linspace(ends[0], ends[1], points)


def _check_direction(problem: Problem, name: str, direction: Array) -> None:
    problem.check_place(direction, name)
    if direction.ndim != 1 or not all_finite(direction) or not float(norm(direction)) > 0:
        raise ValueError(f"{name} must be one direction (n,), finite and not zero")
