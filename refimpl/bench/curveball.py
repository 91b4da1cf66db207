"""What a step of CurveBall costs in gradients of the same network and library, adaptation of lam included.

By counting it is 7/3 + 1/15. In float32 the inner products, which are summed in float64, weigh more on small batches.
Torch needs more, because each of its forward-mode passes repeats the forward pass, and because the gradient it is
compared with is the cheapest, without a graph for products.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refimpl import get_backend
from refimpl.arrays import to_numpy
from refimpl.bench.report import Found, Part, Session
from refimpl.bench.timing import gap, race, torch_threads
from refimpl.optimizers.curveball import CurveBall, CurveBallState
from refimpl.oracle import Problem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.mlp import MLP

WIDTHS = (784, 128, 64, 32, 10)
BATCHES = (64, 256)
JUDGED = (("mlp", "numpy", "float64"), ("convnet", "torch", "float32"))
"""What the goal is judged on; the other lines of the table are only printed."""


def step_in_gradients(session: Session) -> Found:
    """G15: the table over networks, libraries and batch sizes, and what a step reads back to the host."""
    batches = (16,) if session.quick else BATCHES
    plan = [("mlp", "numpy"), ("mlp", "torch"), ("convnet", "torch")]
    found: dict[tuple[str, str, str], list[float]] = {}
    for kind, library in plan:
        for dtype in ("float32", "float64"):
            with torch_threads(library, 1):
                ratios = [ratio(network(kind, library, dtype, batch), session) for batch in batches]
            found[kind, library, dtype] = ratios
            shown = ", ".join(f"batch {batch}: {r:.2f}" for batch, r in zip(batches, ratios, strict=True))
            session.note(f"{kind}, {library} {dtype}: {shown}")
    error = agreement()
    numpy_worst, torch_worst = (max(found[key]) for key in JUDGED)
    reads = host_reads_of_a_step()
    session.note(f"read back to the host in five steps: {reads}")
    return {
        "NumPy, MLP, float64": Part(numpy_worst, error, 1e-9),
        "Torch, convnet, float32": Part(torch_worst, error, 1e-9),
        "host reads in five steps": Part(float(reads)),
    }


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


def ratio(problem: Problem, session: Session) -> float:
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
    seconds = race({"step": steps, "gradient": gradients}, session.rounds, least=0.0 if session.quick else 0.2)
    return seconds["step"] / seconds["gradient"]


def agreement() -> float:
    """Relative error between the libraries' steps, or of the predicted change against the model's if larger."""
    ours, theirs = (network("mlp", library, "float64", 64) for library in ("numpy", "torch"))
    x = to_numpy(ours.initial(np.random.default_rng(1)))
    found, predicted = [], 0.0
    for problem in (ours, theirs):
        point, z = problem.at(problem.backend.asarray(x)), problem.backend.asarray(0.01 * np.sin(np.arange(x.size)))
        step = CurveBall().step(point, CurveBallState(z, problem.backend.asarray(0.5), 1))
        s = to_numpy(step.state.step)
        curved = to_numpy(point.ggnvp(step.state.step)) + 0.5 * s
        model = to_numpy(point.gradient) @ s + 0.5 * s @ curved
        predicted = max(predicted, abs(float(step.info.predicted_change) / float(model) - 1.0))
        found.append(s)
    return max(predicted, gap(found[1], found[0]))


def host_reads_of_a_step() -> int:
    """How often five steps ask Torch for a number on the host: each would make a GPU wait."""
    from refimpl.problems.host_reads import host_reads

    problem = network("convnet", "torch", "float32", 8)
    x, method = problem.initial(np.random.default_rng(0)), CurveBall()
    state = method.step(problem.at(x), method.init(x)).state

    def steps() -> None:
        for iteration in range(1, 6):
            method.step(problem.at(x), state._replace(iteration=iteration))

    steps()
    found: Any = host_reads(steps)
    return len(found.reads)
