"""One loss on several processes: each does its share of every sample, and sums are taken over all of them.

Every process holds the whole problem, draws the same samples from the same seed, and computes on its own rows. What
comes back is what one process would have computed, so a method runs unchanged and every process takes the same step.
This file needs Torch; the processes are those of ``torch.distributed``, started by torchrun, say.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from refimpl.oracle import Point, Problem
from refimpl.problems.shared_evaluation import Share, SharedEvaluation, SharedPoint
from refimpl.problems.torch_evaluation import TorchEvaluation
from refimpl.problems.torch_net import TorchProblem, evaluation_mode, refuse_randomness


class DataParallelProblem(Problem):
    """A :class:`TorchProblem` whose samples are divided among the processes of a group.

    All processes must make the same calls in the same order: build the same problem, start from the same seed, ask the
    same questions. Process r of P does rows ``r b // P`` to ``(r + 1) b // P`` of a sample of b rows. Means are weighed
    by rows, so b need not be a multiple of P.

    Parameters
    ----------
    problem : the same on every process, data included. Its samples are not touched: the generator that ``draw`` is
        given yields the rows it would yield in a single process.
    group : a process group of ``torch.distributed``; None for all processes.

    Attributes
    ----------
    rank, processes : r and P.

    Raises
    ------
    ValueError
        No process group, or this process is not in it; NCCL and a problem on the CPU; more processes than rows;
        problems that differ between processes; BatchNorm in train mode, whose statistics would be those of a share of
        the rows (a synchronized one cannot be differentiated twice): call ``eval()`` or use GroupNorm.

    Notes
    -----
    Outputs, ``jvp`` and ``output_hvp`` are those of all rows, on every process: methods take inner products in output
    space. Cost in products: as on one process, one product is one product. Cost in messages: one sum over processes of
    n numbers for a gradient, ``hvp``, ``vjp`` or ``ggnvp``; one of o numbers for ``jvp`` and ``output_hvp``, and
    whenever outputs are asked for; one number for a loss.

    A sum over processes is the same, bit for bit, on each of them, so that places stay equal as long as the processes
    compute the rest alike; :meth:`spread` tells whether they did.
    """

    name = "data-parallel"

    def __init__(self, problem: TorchProblem, *, group: Any = None) -> None:
        if not isinstance(problem, TorchProblem):
            raise ValueError(f"problem must be a TorchProblem, got {type(problem).__name__}; wrap the module in one")
        if not (distributed.is_available() and distributed.is_initialized()):
            raise ValueError(
                "there is no process group: call torch.distributed.init_process_group first and start the program "
                "with torchrun --nproc-per-node P"
            )
        super().__init__(problem.n, problem.backend)
        self.rank = distributed.get_rank(group)
        if self.rank < 0:
            raise ValueError("this process is not in the group; build the problem only on those that are")
        self.processes = distributed.get_world_size(group)
        self.problem = problem
        self.group = group
        self._check_messages()
        refuse_batch_statistics(problem.module)
        self._check_same()
        smallest = min(problem.batch_size or len(problem.inputs), len(problem.inputs))
        if smallest < self.processes:
            raise ValueError(f"{self.processes} processes need at least so many rows each time, got {smallest}")

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of the trainable parameters."""
        return self.problem.tensor_shapes

    @property
    def targets(self) -> Tensor:
        """The targets of the whole training set."""
        return self.problem.targets

    def evaluation(self, x: Tensor, sample: Any) -> SharedEvaluation:
        """The loss at ``x`` on ``sample``, of which this process does its share."""
        share = self._share(sample)
        return SharedEvaluation(self, TorchEvaluation(self.problem, x, share.inputs, share.targets), share)

    def at(self, x: Tensor, sample: Any = None) -> Point:
        """The oracle at ``x``, as :meth:`refimpl.oracle.Problem.at`; a Gauss–Newton product is one sum of n numbers."""
        self.check_place(x)
        return SharedPoint(self, self.copy(x), sample)

    def loss(self, x: Tensor, sample: Any = None) -> Tensor:
        """The loss at ``x`` on ``sample``: no graph, not counted. One number is summed over the processes."""
        self.check_place(x)
        share = self._share(sample)
        with torch.no_grad():
            outputs = self.problem.call(x, share.inputs, advance=False)
            return self.summed(share.weight * self.problem.loss_value(outputs, share.targets))

    def initial(self, rng: np.random.Generator) -> Tensor:
        """The starting vector (n,) of the first process, sent to all."""
        x = self.problem.initial(rng).clone()
        first = 0 if self.group is None else distributed.get_global_rank(self.group, 0)
        distributed.broadcast(x, src=first, group=self.group)
        return x

    def draw(self, rng: np.random.Generator) -> Any:
        """The whole sample, the same on every process for the same generator."""
        return self.problem.draw(rng)

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        """What the problem reports, each process on its share of the rows; a problem with an ``evaluate`` of its own
        is asked whole on each."""
        self.check_place(x)
        problem = self.problem
        if type(problem).evaluate is not TorchProblem.evaluate:
            return problem.evaluate(x)
        sets = {"": (problem.inputs, problem.targets)} | ({"test_": problem.test} if problem.test is not None else {})
        report: dict[str, Tensor] = {}
        with torch.no_grad(), evaluation_mode(problem.module):
            for prefix, (inputs, targets) in sets.items():
                own = self._own(len(inputs))
                if own.stop > own.start:
                    weight = (own.stop - own.start) / len(inputs)
                    found = problem._report(x, inputs[own], targets[own], prefix)
                    report |= {key: weight * value for key, value in found.items()}
                else:  # a test set with fewer rows than there are processes
                    report |= {prefix + key: torch.zeros_like(value) for key, value in report.items()}
        values = self.summed(torch.stack(list(report.values())))
        return dict(zip(report, values.unbind(), strict=True))

    def to_layers(self, v: Tensor) -> list[Tensor]:
        """As :meth:`TorchProblem.to_layers`."""
        return self.problem.to_layers(v)

    def from_layers(self, layers: Any) -> Tensor:
        """As :meth:`TorchProblem.from_layers`."""
        return self.problem.from_layers(layers)

    def spread(self, x: Tensor) -> float:
        """The largest difference between two processes in an entry of ``x`` (n,): zero as long as all goes well."""
        self.check_place(x)
        ends = torch.stack([x.detach(), -x.detach()])
        distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=self.group)
        return float((ends[0] + ends[1]).max())

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes, which replaces ``values``."""
        distributed.all_reduce(values, group=self.group)
        return values

    # -- shares -----------------------------------------------------------------------------------------------------

    def _own(self, rows: int) -> slice:
        return slice(self.rank * rows // self.processes, (self.rank + 1) * rows // self.processes)

    def _share(self, sample: Any) -> Share:
        problem = self.problem
        refuse_randomness(problem.module)
        refuse_batch_statistics(problem.module)
        if sample is None:
            rows = len(problem.inputs)
            own = self._own(rows)
            inputs, targets = problem._entering(problem.inputs[own]), problem.targets[own]
        else:
            if not hasattr(sample, "indices"):
                raise ValueError(f"sample must be None or from problem.draw, got {type(sample).__name__}")
            rows = len(sample.indices)
            if rows < self.processes:
                raise ValueError(f"{self.processes} processes need at least so many rows, the sample has {rows}")
            own = self._own(rows)
            inputs, targets = problem._rows(type(sample)(*(column[own] for column in sample)))
        return Share(inputs, targets, rows, own)

    # -- checks at the door -----------------------------------------------------------------------------------------

    def _check_messages(self) -> None:
        device, library = self.backend.device.type, distributed.get_backend(self.group)
        if library == "nccl" and device != "cuda":
            raise ValueError(f"NCCL sends from GPUs only, the problem is on {device}; take the backend 'gloo'")

    def _check_same(self) -> None:
        """Sizes first: messages of different lengths would wait for each other for ever."""
        problem = self.problem
        held = [problem.inputs, problem.targets, *(problem.test or ())]
        held += [p.detach() for p in problem.module.parameters() if not p.requires_grad]
        held += list(problem.module.buffers())
        checksum = sum((k + 1) * _checksum(table) for k, table in enumerate(held))
        sizes = [problem.n, len(problem.inputs), problem.samples, problem.batch_size or 0, len(held), checksum]
        ends = torch.tensor([sizes, [-size for size in sizes]], dtype=torch.float64, device=self.backend.device)
        distributed.all_reduce(ends, distributed.ReduceOp.MAX, group=self.group)
        apart = (ends[0] + ends[1]).tolist()
        if max(apart[:-1]) > 0 or not apart[-1] <= 1e-9 * max(1.0, abs(float(ends[0, -1]))):
            raise ValueError(
                "every process must build the same problem (parameters, data, batch_size, fixed tensors), but they "
                f"differ; this one has n={problem.n}, {len(problem.inputs)} rows, batch_size={problem.batch_size}"
            )


def _checksum(table: Tensor) -> float:
    """A number that other entries, or the same in another order of rows, would hardly give."""
    if table.is_floating_point():
        table = table.nan_to_num(0.0, 0.0, 0.0)  # a mask may hold infinity
    sums = table.reshape(len(table) if table.ndim else 1, -1).sum(1, dtype=torch.float64)
    places = torch.arange(1, len(sums) + 1, dtype=torch.float64, device=table.device) / max(1, len(sums))
    return float((sums * (1.0 + places)).sum())


def refuse_batch_statistics(module: nn.Module) -> None:
    """A ValueError where BatchNorm in train mode would take statistics over one process's rows.

    ``SyncBatchNorm`` takes them over all rows, but its backward pass has no derivative, so no product can be had.
    """
    for name, part in module.named_modules():
        if isinstance(part, _BatchNorm) and (part.training or not part.track_running_stats):
            raise ValueError(
                f"module {name or 'itself'} ({type(part).__name__}) takes statistics over the rows of one process: "
                "call its eval(), or use GroupNorm or LayerNorm; SyncBatchNorm serves first-order methods only, since "
                "it cannot be differentiated twice"
            )
