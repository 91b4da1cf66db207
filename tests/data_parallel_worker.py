"""One of several processes for ``test_data_parallel.py``: ``python data_parallel_worker.py RANK PROCESSES FOLDER``.

Answers every question on its shared problems and writes what it got into ``FOLDER/RANK.npz``. The test asks the same
questions of the problems themselves.
"""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn
from torch.nn import functional

from refimpl import get_backend, minimize
from refimpl.experiments import data_parallel_demo
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.kfac import KFAC
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.sophia import Sophia
from refimpl.problems.data_parallel import DataParallelProblem
from refimpl.problems.image_problem import ImageProblem
from refimpl.problems.losses import HalfMeanSquaredError, SoftmaxCrossEntropy
from refimpl.problems.models import mlp_module
from refimpl.problems.shared_evaluation import Share
from refimpl.problems.text import Text
from refimpl.problems.text_problem import TextProblem
from refimpl.problems.torch_net import TorchProblem

STEPS = 5
DOUBLE = get_backend("torch")
METHODS = {
    "curveball": CurveBall(),
    "curveball-hessian": CurveBall(curvature="hessian"),
    "lanczos-sfn": LanczosSaddleFreeNewton(products=6),
    "kryball": KryBall(dimension=4),
    "series-sfn": SeriesSaddleFreeNewton(5, 2, learning_rate=0.3),
    "kfac": KFAC(learning_rate=0.1, damping=0.1, momentum=0.5, ema=0.5),
    "sophia": Sophia(learning_rate=0.01),
}


def data(rows, width=6, classes=3, seed=40):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((rows, width)), rng.integers(0, classes, rows)


def network(rows=11, batch_size=None, loss=None, **options):
    """A tanh network 6-5-3 on an odd number of rows, with a test set of a single row."""
    module = mlp_module((6, 5, 3), activation="tanh", backend=DOUBLE)
    return TorchProblem(
        module, loss or SoftmaxCrossEntropy(), *data(rows), batch_size=batch_size, test=data(1, seed=41), **options
    )


def regression():
    """A loss with numbers for targets."""
    rng = np.random.default_rng(43)
    module = mlp_module((4, 3, 2), activation="softplus", backend=DOUBLE)
    return TorchProblem(module, HalfMeanSquaredError(), rng.standard_normal((9, 4)), rng.standard_normal((9, 2)))


def pictures():
    """Pictures that are cropped and mirrored: the sample has four columns."""
    rng = np.random.default_rng(42)
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 4 * 4, 3)).double()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for part in (module[0], module[3]):
            part.reset_parameters()
    pixels, labels = rng.integers(0, 256, (8, 1, 6, 6), dtype=np.uint8), rng.integers(0, 3, 8)
    options = {"batch_size": 5, "augment": "crop-flip", "padding": 1, "initialization": "current"}
    return ImageProblem(module, SoftmaxCrossEntropy(), pixels, labels, backend=DOUBLE, **options)


def text():
    """Windows of a text: rows of a sample are places, and without a sample they are something else."""
    tokens = np.random.default_rng(44).integers(0, 4, 60)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        module = nn.Sequential(nn.Embedding(4, 3), nn.Tanh(), nn.Linear(3, 4)).double()
    letters = Text("letters", "abcd", tokens[:40], tokens[40:], "none", "none")
    return TextProblem(module, letters, context=5, batch_size=3, windows=7, initialization="current")


PROBLEMS = {
    "full-batch": network,
    "minibatch": lambda: network(batch_size=7),
    "function": lambda: network(loss=functional.cross_entropy),
    "scratch": lambda: network(batch_size=7, route="forward-over-reverse"),
    "regression": regression,
    "pictures": pictures,
    "text": text,
}


def answers(problem, factors):
    """What a Point and its problem say, by name."""
    rng = np.random.default_rng(50)
    x = problem.initial(rng)
    sample = problem.draw(rng)
    point = problem.at(x, sample)
    v, other = (torch.from_numpy(rng.standard_normal(problem.n)) for _ in range(2))
    found = {"loss": point.loss, "gradient": point.gradient, "hvp": point.hvp(v), "ggnvp": point.ggnvp(v)}
    found |= {"outputs": point.outputs, "output_gradient": point.output_gradient, "jvp": point.jvp(v)}
    u = torch.from_numpy(rng.standard_normal(len(point.outputs)))
    found |= {"output_hvp": point.output_hvp(u), "vjp": point.vjp(u), "loss_at": point.loss_at(x + 0.1 * other)}
    found |= {"beside": point.beside(x + 0.1 * other).gradient, "loss_of_all": problem.loss(x)}
    found |= {f"evaluate/{key}": value for key, value in problem.evaluate(x).items()}
    if factors:
        found["sampled"] = point.sampled_gradient(np.random.default_rng(51))[0]
        for i, pair in enumerate(point.kronecker_factors()):
            found |= {f"factor/{i}/{j}": matrix for j, matrix in enumerate(pair)}
    return {**found, "counts": torch.tensor(point.counts)}


def everything(wrap):
    """Every answer of every problem, and where every method ends, on ``wrap`` of the problem."""
    found = {}
    for name, build in PROBLEMS.items():
        asked = answers(wrap(build()), factors=name in ("full-batch", "minibatch"))
        found |= {f"{name}/{key}": value for key, value in asked.items()}
    for name, method in METHODS.items():
        result = minimize(wrap(network(batch_size=7)), method, steps=STEPS, seed=2)
        found |= {f"method/{name}": result.x, f"losses/{name}": result.trace["loss"]}
        found[f"work/{name}"] = np.asarray(result.counts)
    return {key: np.asarray(value) for key, value in found.items()}


def refusals(rank):
    """What is refused, by name: the message, which every process must get, or none waits for ever."""
    normalized = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()
    late = DataParallelProblem(TorchProblem(normalized.eval(), SoftmaxCrossEntropy(), *data(6)))
    normalized.train()

    def linear(inputs, labels):
        return DataParallelProblem(TorchProblem(mlp_module((6, 3)), functional.cross_entropy, inputs, labels))

    asks = {
        "one row": lambda: DataParallelProblem(network(batch_size=1)),
        "other data": lambda: linear(*data(6, seed=rank)),
        "other order": lambda: linear(*(part[:: 1 - 2 * rank] for part in data(6))),
        "other length": lambda: DataParallelProblem(network(rows=6 + rank)),
        "batch norm": lambda: DataParallelProblem(TorchProblem(normalized, SoftmaxCrossEntropy(), *data(6))),
        "batch norm later": lambda: late.at(late.initial(np.random.default_rng(0))),
        "sample": lambda: DataParallelProblem(network()).at(network().initial(None), [0, 1]),
        "short sample": lambda: DataParallelProblem(network()).at(
            network().initial(None), network(batch_size=1).draw(np.random.default_rng(0))
        ),
    }  # fmt: skip
    found = {}
    for name, ask in asks.items():
        try:
            ask()
            found[name] = ""
        except ValueError as error:
            found[name] = str(error)
    return found


def broken():
    """The same questions where shares count alike, whatever their rows: what the test must notice."""
    weight = Share.weight
    Share.weight = property(lambda share: 0.5)
    try:
        found = answers(DataParallelProblem(network()), factors=False)
        del found["counts"]
        return {f"broken/{key}": np.asarray(value) for key, value in found.items()}
    finally:
        Share.weight = weight


def group_of_one(rank):
    """A group in which the first process is alone."""
    group = distributed.new_group([0])
    try:
        alone = DataParallelProblem(network(), group=group)
    except ValueError as error:
        return {"group": np.asarray(str(error))}
    return {"group": alone.at(alone.initial(None)).gradient.numpy()}


def main(rank, processes, folder):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=processes, timeout=timedelta(seconds=200)
    )
    shared = DataParallelProblem(network())
    drifted = torch.full((shared.n,), 1.0 + 0.5 * rank, dtype=torch.float64)
    other = network(initialization=lambda rng: rng.standard_normal(shared.n) + rank)
    start = DataParallelProblem(other).initial(np.random.default_rng(0))
    found = everything(DataParallelProblem) | broken() | group_of_one(rank)
    found |= {"refusals": np.asarray(list(refusals(rank).items())), "spread": np.asarray(shared.spread(drifted))}
    found["start"] = start.numpy()
    np.savez(Path(folder, f"{rank}.npz"), **found)
    distributed.destroy_process_group()
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes)}
    demo = ["--method", "curveball", "--steps", "3", "--device", "cpu", "--init-method", f"file://{folder}/again"]
    return data_parallel_demo.main(demo)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
