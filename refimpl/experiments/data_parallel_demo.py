"""Several processes beside one on the same problem.

Start it with ``torchrun --nproc-per-node 2 -m refimpl.experiments.data_parallel_demo --method curveball``. It prints
the losses of a method whose products are shared among the processes, the spread of its place between them, and how far
it is from a run of one process. Gloo on a CPU, NCCL where every process has a GPU. This file needs Torch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
from torch import distributed

from refimpl.arrays import get_backend
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.kryball import KryBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.series_sfn import SeriesSaddleFreeNewton
from refimpl.optimizers.stochastic_kryball import StochasticKryBall
from refimpl.problems.data_parallel import DataParallelProblem
from refimpl.problems.losses import SoftmaxCrossEntropy
from refimpl.problems.models import mlp_module
from refimpl.problems.torch_net import TorchProblem
from refimpl.run import minimize

METHODS: dict[str, Optimizer] = {
    "curveball": CurveBall(),
    "lanczos-sfn": LanczosSaddleFreeNewton(products=6),
    "kryball": KryBall(dimension=5),
    "stochastic-kryball": StochasticKryBall(),
    "series-sfn": SeriesSaddleFreeNewton(7, 3, learning_rate=0.5),
}
ROWS, BATCH = 403, 101


def example(device: str, dtype: str = "float64") -> TorchProblem:
    """A tanh network 20-32-5 on 403 random rows, in minibatches of 101: neither divides by two."""
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((ROWS, 20))
    labels = (inputs @ rng.standard_normal((20, 5))).argmax(axis=1)
    backend = get_backend("torch", dtype, device)
    module = mlp_module((20, 32, 5), activation="tanh", backend=backend)
    return TorchProblem(module, SoftmaxCrossEntropy(), inputs, labels, batch_size=BATCH, backend=backend)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as one of the processes that torchrun started; the exit status is 1 where they differ from one process."""
    parser = argparse.ArgumentParser(prog="data_parallel_demo", description=__doc__)
    parser.add_argument("--method", choices=sorted(METHODS), default="curveball")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init-method", default="env://", help="how processes meet (default: as torchrun arranged)")
    chosen = parser.parse_args(arguments)
    if "RANK" not in os.environ:
        print("error: start this with torchrun --nproc-per-node P -m ...", file=sys.stderr)
        return 2
    device = chosen.device
    if device == "cuda":
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    library = "nccl" if chosen.device == "cuda" else "gloo"
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    distributed.init_process_group(library, init_method=chosen.init_method, rank=rank, world_size=processes)
    try:
        return _compare(chosen.method, chosen.steps, device)
    finally:
        distributed.destroy_process_group()


def _compare(name: str, steps: int, device: str) -> int:
    problem, method = example(device), METHODS[name]
    shared = DataParallelProblem(problem)
    together = minimize(shared, method, steps=steps, seed=1)
    spread = shared.spread(together.x)
    if shared.rank > 0:
        return 0
    alone = minimize(problem, method, steps=steps, seed=1)
    apart = float((together.x - alone.x).abs().max() / alone.x.abs().max())
    print(
        f"{name}, {shared.processes} processes on {device}, n = {problem.n}, minibatches of {problem.batch_size} rows"
    )
    for step, pair in enumerate(zip(together.trace["loss"], alone.trace["loss"], strict=True)):
        print(f"  step {step:3d}  loss {pair[0]:.12f}  one process {pair[1]:.12f}")
    print(f"checksum of x {float(together.x.sum()):.12f}, one process {float(alone.x.sum()):.12f}")
    print(
        f"spread between processes {spread:.1e}, largest difference from one process {apart:.1e} of the largest entry"
    )
    return int(spread > 0 or not apart < 1e-8 or together.counts != alone.counts)


if __name__ == "__main__":
    sys.exit(main())
