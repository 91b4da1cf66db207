"""What a step of CurveBall costs, and how much of it is the package.

1. A step in gradients of the same network and library, adaptation of lam included. By counting it is 7/3 + 1/15. Fails
   where NumPy needs more than 3.5 in float64. In float32 the inner products, which are summed in float64, weigh more on
   small batches. Torch needs more, because each of its forward-mode passes repeats the forward pass, and because the
   gradient it is compared with is the cheapest, without a graph for products.
2. On Rosenbrock's function, where there is nothing to compute: the package's step against the very same formulas with
   ``numpy`` called directly, on the same Point. Fails above 1.15. And against a script without classes, checks and
   leading axes, which is what a reader would write; that ratio is only printed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from timing import race, torch_threads
from tqdm import tqdm

from refimpl import get_backend
from refimpl.arrays import to_numpy
from refimpl.optimizers.adam import Adam, AdamState
from refimpl.optimizers.base import NoInfo, Step
from refimpl.optimizers.curveball import CurveBall, CurveBallInfo, CurveBallState
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP
from refimpl.problems.toy import Rosenbrock

WIDTHS = (784, 128, 64, 32, 10)
BATCHES = (64, 128, 256, 512)
GRADIENTS, DISPATCH = 3.5, 1.15


# -- a step in gradients ----------------------------------------------------------------------------------------------


def steps_in_gradients(repeats: int) -> None:
    """The table over networks, libraries and batch sizes."""
    print(f"\na CurveBall step in gradients of the same network (mean of 5 steps, best of {repeats} or more, 1 thread)")
    print(f"{'':44}" + "".join(f"{f'batch {batch}':>12}" for batch in BATCHES))
    plan = [("mlp", "numpy"), ("mlp", "torch"), ("convnet", "torch")]
    asserted = 0.0
    for kind, library in tqdm(plan, desc="networks", leave=False):
        for dtype in ("float32", "float64"):
            try:
                get_backend(library, dtype)
            except ValueError as error:
                tqdm.write(f"{library} {dtype}: {error}")
                continue
            with torch_threads(library, 1):
                ratios = [ratio(network(kind, library, dtype, batch), repeats) for batch in BATCHES]
            if (library, dtype) == ("numpy", "float64"):
                asserted = max(ratios)
            name = "MLP " + "-".join(map(str, WIDTHS)) if kind == "mlp" else "small convnet, 16 x 16"
            tqdm.write(f"{f'{name}, {library} {dtype}':44}" + "".join(f"{r:12.2f}" for r in ratios))
    agreement()
    assert asserted <= GRADIENTS, f"a CurveBall step should cost at most {GRADIENTS} gradients, got {asserted:.2f}"


def network(kind: str, library: str, dtype: str, batch: int) -> Problem:
    """A classifier on random data, one batch of it. The gradient of the Torch problems is the plain one."""
    backend, rng = get_backend(library, dtype), np.random.default_rng(batch)
    labels = rng.integers(0, 10, batch)
    if kind == "mlp":
        inputs = rng.standard_normal((batch, WIDTHS[0]))
        if library == "numpy":
            options: dict[str, Any] = {"activation": "tanh", "loss": SoftmaxCrossEntropy()}
            return MLP(WIDTHS, inputs, labels, initialization="torch", backend=backend, **options)
    from refimpl.problems import models
    from refimpl.problems.torch_net import TorchProblem

    if kind == "mlp":
        module: Any = models.mlp_module(WIDTHS, activation="tanh", backend=backend)
    else:
        inputs = rng.standard_normal((batch, 3, 16, 16))
        module = models.small_convnet(image_shape=(3, 16, 16), activation="tanh", backend=backend)
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, backend=backend, route="forward-over-reverse")


def ratio(problem: Problem, repeats: int) -> float:
    """Five steps at one place, one of which adapts lam, against five gradients there."""
    x, method = problem.initial(np.random.default_rng(0)), CurveBall()
    state = method.step(problem.at(x), method.init(x)).state

    def steps() -> None:
        for iteration in range(1, 6):
            method.step(problem.at(x), state._replace(iteration=iteration))

    def gradients() -> None:
        for _ in range(5):
            _ = problem.at(x).gradient

    steps()
    seconds = race({"step": steps, "gradient": gradients}, repeats, least=1.5)
    return seconds["step"] / seconds["gradient"]


def agreement() -> None:
    """A fast wrong answer is no gain: both libraries give one step, and the predicted change is that of the model."""
    ours, theirs = (network("mlp", library, "float64", 64) for library in ("numpy", "torch"))
    x = to_numpy(ours.initial(np.random.default_rng(1)))
    found = []
    for problem in (ours, theirs):
        point, z = problem.at(problem.backend.asarray(x)), problem.backend.asarray(0.01 * np.sin(np.arange(x.size)))
        step = CurveBall().step(point, CurveBallState(z, problem.backend.asarray(0.5), 1))
        s = to_numpy(step.state.step)
        curved = to_numpy(point.ggnvp(step.state.step)) + 0.5 * s
        model = to_numpy(point.gradient) @ s + 0.5 * s @ curved
        np.testing.assert_allclose(float(step.info.predicted_change), model, rtol=1e-9)
        found.append(s)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-9 * np.abs(found[0]).max())


# -- dispatch ---------------------------------------------------------------------------------------------------------


def dispatch(repeats: int, steps: int = 200) -> None:
    """Microseconds per step on Rosenbrock's function: package, the same formulas with NumPy, a plain script."""
    problem, start = Rosenbrock(), np.array([-1.2, 1.0])
    plan: dict[str, tuple[Any, Callable[..., Any], Callable[..., Any]]] = {
        "CurveBall": (CurveBall(), curveball_step, curveball_script),
        "Adam": (Adam(), adam_step, adam_script),
    }
    print(f"\nmicroseconds per step on Rosenbrock, best of {repeats} runs of {steps} steps")
    print(f"{'':10}{'package':>10}{'NumPy':>10}{'ratio':>8}{'script':>10}{'ratio':>8}")
    for name, (method, direct, script) in plan.items():
        jobs: dict[str, Callable[[], Any]] = {
            "package": lambda m=method: loop(problem, m.step, m.init(start), start, steps),
            "numpy": lambda m=method, d=direct: loop(problem, d, m.init(start), start, steps),
            "script": lambda s=script: s(start, steps),
        }
        places = {key: job() for key, job in jobs.items()}
        np.testing.assert_array_equal(places["numpy"], places["package"])
        np.testing.assert_allclose(places["script"], places["package"], rtol=1e-6)
        best = {key: 1e6 * seconds / steps for key, seconds in race(jobs, repeats).items()}
        ratios = best["package"] / best["numpy"], best["package"] / best["script"]
        print(f"{name:10}{best['package']:10.1f}{best['numpy']:10.1f}{ratios[0]:8.2f}", end="")
        print(f"{best['script']:10.1f}{ratios[1]:8.1f}")
        assert ratios[0] <= DISPATCH, f"{name}: the package costs {ratios[0]:.2f} of the same formulas in NumPy"


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
