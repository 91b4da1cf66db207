"""What the package adds to NumPy where there is nothing to compute: Rosenbrock's function.

The package's step against the very same formulas with ``numpy`` called directly, on the same Point; and against a
script without classes, checks and leading axes, which is what a reader would write.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from refimpl.bench.report import Found, Part, Session
from refimpl.bench.timing import gap, race
from refimpl.optimizers.adam import Adam, AdamState
from refimpl.optimizers.base import NoInfo, Step
from refimpl.optimizers.curveball import CurveBall, CurveBallInfo, CurveBallState
from refimpl.oracle import Problem
from refimpl.problems.toy import Rosenbrock


def dispatch(session: Session) -> Found:
    """G10: package over NumPy for CurveBall and Adam; the ratio over the plain script is only printed."""
    problem, start, steps = Rosenbrock(), np.array([-1.2, 1.0]), 20 if session.quick else 200
    plan: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
        "CurveBall": (CurveBall(), curveball_step, curveball_script),
        "Adam": (Adam(), adam_step, adam_script),
    }
    parts = {}
    for name, (method, direct, script) in plan.items():
        jobs: dict[str, Callable[[], Any]] = {
            "package": partial(loop, problem, method.step, method.init(start), start, steps),
            "NumPy": partial(loop, problem, direct, method.init(start), start, steps),
            "script": partial(script, start, steps),
        }
        places = {key: job() for key, job in jobs.items()}
        apart = gap(places["script"], places["package"])
        if apart > 1e-6:
            raise ValueError(f"{name}: the script ends {apart:.1e} away from the package")
        best = {key: 1e6 * seconds / steps for key, seconds in race(jobs, 6 * session.rounds).items()}
        shown = ", ".join(f"{key} {value:.1f}" for key, value in best.items())
        session.note(f"{name}, microseconds per step: {shown}; over the script {best['package'] / best['script']:.1f}")
        parts[f"{name} / NumPy"] = Part(best["package"] / best["NumPy"], gap(places["NumPy"], places["package"]))
    return parts


def loop(problem: Problem, step: Callable[..., Step], state: Any, x: Any, steps: int) -> Any:
    """The place after ``steps`` steps."""
    for _ in range(steps):
        x, state, _ = step(problem.at(x), state)
    return x


def curveball_step(point: Any, state: CurveBallState) -> Step:
    """``CurveBall().step``, line by line, for NumPy and float64 only."""
    z, lam, iteration = state
    slope = point.output_gradient
    u_z = point.jvp(z) if iteration > 0 else 0.0 * slope
    w_z = point.output_hvp(u_z) if iteration > 0 else u_z
    dz = point.vjp(w_z + slope) + lam[..., None] * z
    u_d = point.jvp(dz)
    w_d = point.output_hvp(u_d)
    a11, a12, a22 = _dot(u_d, w_d) + lam * _dot(dz, dz), _dot(u_z, w_d) + lam * _dot(z, dz), _dot(u_z, w_z)
    a22 = a22 + lam * _dot(z, z)
    b1, b2 = _dot(slope, u_d), _dot(slope, u_z)
    beta, t2 = _plane(a11, a12, a22, b1, b2)
    rho = -t2
    beta, rho = np.where(np.isfinite(beta), beta, 0.0), np.where(np.isfinite(rho), rho, 0.0)
    step = rho[..., None] * z - beta[..., None] * dz
    x = point.x + step
    predicted = beta * (0.5 * beta * a11 - rho * a12 - b1) + rho * (0.5 * rho * a22 + b2)
    ratio, lam_next = np.nan * beta, lam
    if iteration % 5 == 0:
        change = point.loss_at(x) - point.loss
        ratio = change / np.where(predicted == 0, np.full_like(predicted, np.nan), predicted)
        verdict = np.where(predicted == 0, 1.0, np.where(np.isfinite(ratio), ratio, 0.0))
        omega = 0.999**5
        lam_next = np.where(verdict > 1.5, omega * lam, np.where(verdict < 0.5, lam / omega, lam))
        lam_next = np.clip(lam_next, 1e-12, 1e12)
    info = CurveBallInfo(beta, rho, lam, predicted, ratio)
    return Step(x, CurveBallState(step, lam_next, iteration + 1), info)


def _plane(a11: Any, a12: Any, a22: Any, b1: Any, b2: Any) -> tuple[Any, Any]:
    size1, size2 = (np.sqrt(np.where(a == 0, 1.0, np.abs(a))) for a in (a11, a22))
    p11, p22, c = a11 / (size1 * size1), a22 / (size2 * size2), a12 / (size1 * size2)
    r1, r2 = b1 / size1, b2 / size2
    middle, half = 0.5 * (p11 + p22), 0.5 * (p11 - p22)
    radius = np.sqrt(half * half + c * c)
    tolerance = 1e-10 * (np.abs(middle) + radius)
    upper, lower = _inverse(middle + radius, tolerance), _inverse(middle - radius, tolerance)
    mean, tilt = 0.5 * (upper + lower), 0.5 * (upper - lower) / np.where(radius == 0, 1.0, radius)
    return (mean * r1 + tilt * (half * r1 + c * r2)) / size1, (mean * r2 + tilt * (c * r1 - half * r2)) / size2


def _inverse(value: Any, tolerance: Any) -> Any:
    size = np.abs(value)
    kept = size > tolerance
    return np.where(kept, 1.0 / np.where(kept, size, 1.0), 0.0)


def _dot(a: Any, b: Any) -> Any:
    return np.sum(a * b, axis=-1)


def adam_step(point: Any, state: AdamState) -> Step:
    """``Adam().step``, line by line."""
    gradient, t = point.gradient, state.steps + 1
    mean = 0.9 * state.mean + (1.0 - 0.9) * gradient
    square = 0.999 * state.square + (1.0 - 0.999) * gradient * gradient
    scale = np.sqrt(square) / (1.0 - 0.999**t) ** 0.5 + 1e-8
    return Step(point.x - 1e-3 / (1.0 - 0.9**t) * mean / scale, AdamState(mean, square, t), NoInfo())


def curveball_script(x: Any, steps: int, lam: float = 1.0) -> Any:
    """What one would write for this one function: a Jacobian, a solve, no case for what cannot happen here."""
    z, omega = np.zeros(2), 0.999**5
    for t in range(steps):
        a, b = x
        r = np.array([1.0 - a, 10.0 * (b - a * a)])
        j = np.array([[-1.0, 0.0], [-20.0 * a, 10.0]])
        j_z = j @ z
        dz = (2.0 * (j_z + r)) @ j + lam * z
        j_d = j @ dz
        a11, a12, a22 = 2 * j_d @ j_d + lam * dz @ dz, 2 * j_z @ j_d + lam * z @ dz, 2 * j_z @ j_z + lam * z @ z
        b1, b2 = 2 * r @ j_d, 2 * r @ j_z
        determinant = a11 * a22 - a12 * a12
        if determinant > 1e-10 * a11 * a22:
            beta, rho = (a22 * b1 - a12 * b2) / determinant, (a12 * b1 - a11 * b2) / determinant
        else:
            beta, rho = b1 / a11 if a11 > 0 else 0.0, 0.0
        z = rho * z - beta * dz
        x = x + z
        if t % 5 == 0:
            predicted = -0.5 * (beta * b1 - rho * b2)
            a, b = x
            change = (1.0 - a) ** 2 + 100.0 * (b - a * a) ** 2 - r @ r
            ratio = change / predicted if predicted else 1.0
            lam = lam * omega if ratio > 1.5 else lam / omega if ratio < 0.5 else lam
    return x


def adam_script(x: Any, steps: int) -> Any:
    """Adam on Rosenbrock's function by hand."""
    mean, square = np.zeros(2), np.zeros(2)
    for t in range(1, steps + 1):
        a, b = x
        push = 200.0 * (b - a * a)
        g = np.array([-2.0 * (1.0 - a) - 2.0 * a * push, push])
        mean = 0.9 * mean + 0.1 * g
        square = 0.999 * square + 0.001 * g * g
        x = x - 1e-3 / (1.0 - 0.9**t) * mean / (np.sqrt(square / (1.0 - 0.999**t)) + 1e-8)
    return x
