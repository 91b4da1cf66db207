"""``torch.optim.LBFGS`` as a method of this package: one call of its ``step`` is one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from refimpl.arrays import Array, check_count, check_positive, to_numpy
from refimpl.optimizers.base import Step, settle
from refimpl.optimizers.radius import check_one_run
from refimpl.oracle import Point


class TorchLBFGSInfo(NamedTuple):
    """What a step reports: how often it asked for loss and gradient."""

    evaluations: int


@dataclass(frozen=True)
class TorchLBFGS:
    """Torch's L-BFGS: a step is up to ``max_iter`` iterations on the sample of the step.

    Parameters
    ----------
    learning_rate : length of the step along each direction, or the first length that the line search tries.
    max_iter : iterations of L-BFGS in one step. With 1, and without a line search, a step is one evaluation.
    line_search : ``"none"`` (Torch's default) or ``"strong-wolfe"``.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, leading axes.

    Notes
    -----
    The other settings are Torch's defaults: at most 1.25 ``max_iter`` evaluations in a step, 100 pairs, and a step ends
    early where no entry of the gradient is above 1e-7 or the change is below 1e-9. Torch's own state is kept and
    changes in place: a state serves one run.

    Cost: one gradient for each evaluation.

    Source: the documentation of ``torch.optim.LBFGS``; Liu & Nocedal (1989).
    """

    learning_rate: float = 1.0
    max_iter: int = 20
    line_search: Literal["none", "strong-wolfe"] = "none"
    name: ClassVar[str] = "lbfgs"

    def __post_init__(self) -> None:
        settle(self, learning_rate=check_positive("learning_rate", self.learning_rate))
        check_count("max_iter", self.max_iter)
        if self.line_search not in ("none", "strong-wolfe"):
            raise ValueError(f"unknown line_search {self.line_search!r}; choose one of ['none', 'strong-wolfe']")

    def init(self, x: Array) -> Any:
        """Torch's optimizer with a parameter of its own."""
        import torch

        check_one_run("TorchLBFGS", x)
        parameter = torch.nn.Parameter(torch.tensor(to_numpy(x)))
        search = None if self.line_search == "none" else "strong_wolfe"
        return torch.optim.LBFGS(
            [parameter], lr=self.learning_rate, max_iter=self.max_iter, history_size=100, line_search_fn=search
        )

    def step(self, point: Point, state: Any) -> Step:
        """One step: (n,)."""
        import torch

        check_one_run("TorchLBFGS", point.x)
        parameter, backend, evaluations = state.param_groups[0]["params"][0], point.problem.backend, 0
        here = to_numpy(point.x)

        def closure() -> Any:
            nonlocal evaluations
            host = parameter.detach().numpy()
            at = point if np.array_equal(host, here) else point.beside(backend.asarray(host.copy()))
            parameter.grad = torch.tensor(to_numpy(at.gradient))
            evaluations += 1
            return torch.tensor(to_numpy(at.loss))

        with torch.no_grad():
            parameter.copy_(torch.tensor(here))
        state.step(closure)
        return Step(backend.asarray(parameter.detach().numpy().copy()), state, TorchLBFGSInfo(evaluations))
