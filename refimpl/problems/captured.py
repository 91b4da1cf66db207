"""Gradients and products as CUDA graphs, launched once and replayed for every minibatch. This file needs Torch.

At small batches a GPU waits for the host to launch kernels, some two thousand for a Hessian product of a ResNet with
BatchNorm. A CUDA graph launches all of them at once. It always runs the same kernels on the same memory: what changes
from step to step is copied into buffers that stay.

:class:`CapturedProblem` captures what a Point is asked for, so it serves every method. :class:`CapturedStep` captures a
whole step of a method that reads nothing back to the host. With ``capture=False`` both run the same code without a
graph, on any device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

from refimpl.arrays import Array
from refimpl.oracle import Counts, Evaluation, KroneckerFactors, Problem
from refimpl.problems.captured_step import CapturedStep as CapturedStep
from refimpl.problems.module_parts import flat_parameters
from refimpl.problems.programs import Batch, buffers_kept, capture_all, check_capture, without_advance
from refimpl.problems.torch_evaluation import TorchEvaluation
from refimpl.problems.torch_net import TorchProblem

PRODUCTS = ("hvp", "jvp", "vjp", "loss")


class CapturedProblem(Problem):
    """A :class:`TorchProblem` whose forward pass, gradient and products are CUDA graphs: same numbers, same counts.

    Parameters
    ----------
    problem : its module stays in the mode (train or eval) and keeps the settings that it has now.
    sample : any sample of the size that all samples will have; None for the full batch.
    products : which of :data:`PRODUCTS` will be asked for, each a graph of its own; ``"loss"`` is that of
        :meth:`refimpl.oracle.Point.loss_at`.
    capture : False runs the same code without graphs.
    warmup : eager runs before the capture, in which cuDNN chooses its algorithms.

    Raises
    ------
    ValueError
        Not a :class:`TorchProblem`; ``capture`` on a CPU; an unknown product; later, a sample of another size or a
        product that was not captured.

    Notes
    -----
    Statistics of BatchNorm advance once per Point, as without capture; warming up leaves them as they were. The graph
    of one Point at a time is there: asking an older Point again computes it once more, statistics untouched. The memory
    of the graphs is taken for as long as this object lives.
    """

    name = "captured"

    def __init__(
        self,
        problem: TorchProblem,
        sample: Any = None,
        *,
        products: Sequence[str] = PRODUCTS,
        capture: bool = True,
        warmup: int = 3,
    ) -> None:
        check_capture(problem, capture)
        unknown = [kind for kind in products if kind not in PRODUCTS]
        if unknown:
            raise ValueError(f"unknown products {unknown}; choose among {list(PRODUCTS)}")
        super().__init__(problem.n, problem.backend)
        self.problem = problem
        self.batch = Batch(problem, sample)
        self._x = flat_parameters(problem.module)
        self._direction, self._trial = torch.zeros_like(self._x), self._x.clone()
        self._current: _CapturedEvaluation | None = None
        self._has_gradient = self._again = False
        self._still = without_advance(self.batch.problem)
        with buffers_kept(problem.module):
            outputs = self._forward().outputs
            self._weights = torch.zeros(outputs.numel(), dtype=outputs.dtype, device=outputs.device)
        functions: dict[str, Callable[[], Any]] = {
            "forward": self._forward,
            "gradient": lambda: self.inner._gradient.detach(),
            "hvp": lambda: self.inner.hvp(self._direction),
            "vjp": lambda: self.inner.vjp(self._weights),
            "jvp": lambda: self.inner.jvp(self._direction),
            "loss": lambda: self.inner.loss_at(self._trial),
        }
        kept = {name: f for name, f in functions.items() if name in ("forward", "gradient", *products)}
        self._programs = capture_all(kept, problem.module, capture=capture, warmup=warmup)

    @property
    def tensor_shapes(self) -> tuple[tuple[int, ...], ...]:
        """As the problem's."""
        return self.problem.tensor_shapes

    def evaluation(self, x: Tensor, sample: Any) -> Evaluation:
        """What the graphs say at ``x``."""
        return _CapturedEvaluation(self, x, *self.problem._rows(sample))

    def loss(self, x: Tensor, sample: Any = None) -> Tensor:
        """As the problem's, without a graph."""
        return self.problem.loss(x, sample)

    def initial(self, rng: Any) -> Tensor:
        """As the problem's."""
        return self.problem.initial(rng)

    def draw(self, rng: Any) -> Any:
        """As the problem's."""
        return self.problem.draw(rng)

    def evaluate(self, x: Tensor) -> dict[str, Tensor]:
        """As the problem's, without a graph."""
        return self.problem.evaluate(x)

    def to_layers(self, v: Array) -> list[Array]:
        """As the problem's."""
        return self.problem.to_layers(v)

    def from_layers(self, layers: Sequence[Array]) -> Array:
        """As the problem's."""
        return self.problem.from_layers(layers)

    def __getattr__(self, name: str) -> Any:
        # ``targets``, ``samples``, ``module`` …: what an experiment reads from a problem. Not called for what is here.
        if name in ("problem", "__setstate__"):
            raise AttributeError(name)
        return getattr(self.problem, name)

    # -- for the evaluation -------------------------------------------------------------------------------------------

    def load(self, evaluation: _CapturedEvaluation) -> TorchEvaluation:
        """The evaluation whose tensors now hold what belongs to ``evaluation``."""
        if self._current is not evaluation:
            self._x.copy_(evaluation.x)
            self.batch.load(evaluation.rows)
            self._again = evaluation.seen  # its statistics have advanced before
            with buffers_kept(self.problem.module) if self._again else nullcontext():
                self._programs["forward"].replay()
            self._current, evaluation.seen, self._has_gradient = evaluation, True, False
            self.inner.__dict__.pop("_output_side", None)  # computed from the outputs of the place before
        return self.inner

    def run(self, kind: str, vector: Tensor | None = None) -> Tensor:
        """Replay one program on ``vector``; a fresh tensor."""
        if kind not in self._programs:
            raise ValueError(f"{kind!r} was not captured; write CapturedProblem(..., products=(..., {kind!r}))")
        first = kind == "gradient" or (kind == "hvp" and self.problem.route == "kept-graph")
        if first and not self._has_gradient:
            self._programs["gradient"].replay()
            self._has_gradient = True
        if vector is not None:
            {"hvp": self._direction, "jvp": self._direction, "vjp": self._weights, "loss": self._trial}[kind].copy_(
                vector
            )
        program = self._programs[kind]
        found: Tensor = program.results if kind == "gradient" else program.replay()
        return found.clone()

    def _forward(self) -> Any:
        # A copy: the graph then belongs to a leaf that nobody writes to but the graph itself. Without CUDA graphs Torch
        # refuses to differentiate where statistics were put back after the forward pass: they stay out of it.
        problem = self._still if self._again else self.batch.problem
        self.inner = TorchEvaluation(problem, self._x.clone(), self.batch.inputs, self.batch.targets)
        return self.inner._forward


class _CapturedEvaluation(Evaluation):
    """One place: asks the graphs, and has them computed for it where they hold another place."""

    has_outputs: ClassVar[bool] = True

    def __init__(self, owner: CapturedProblem, x: Tensor, inputs: Tensor, targets: Tensor) -> None:
        self._owner = owner
        self.x = x
        self.rows = owner.batch.checked(inputs, targets)
        self.seen = False

    def loss(self) -> Tensor:
        return self._owner.load(self).loss().clone()

    def gradient(self) -> Tensor:
        self._owner.load(self)
        return self._owner.run("gradient")

    def hvp(self, v: Tensor) -> Tensor:
        self._owner.load(self)
        return self._owner.run("hvp", v)

    def loss_at(self, x: Tensor) -> Tensor:
        self._owner.load(self)
        return self._owner.run("loss", x)

    def outputs(self) -> Tensor:
        return self._owner.load(self).outputs()

    def output_gradient(self) -> Tensor:
        return self._owner.load(self).output_gradient().clone()

    def output_hvp(self, u: Tensor) -> Tensor:
        return self._owner.load(self).output_hvp(u)

    def jvp(self, v: Tensor) -> Tensor:
        self._owner.load(self)
        return self._owner.run("jvp", v)

    def vjp(self, u: Tensor) -> Tensor:
        self._owner.load(self)
        return self._owner.run("vjp", u)

    def sampled_output_gradient(self, rng: Any, likelihood: str | None) -> tuple[Tensor, int]:
        return self._owner.load(self).sampled_output_gradient(rng, likelihood)

    def kronecker_factors(self) -> tuple[list[KroneckerFactors], Counts]:
        return self._owner.load(self).kronecker_factors()
