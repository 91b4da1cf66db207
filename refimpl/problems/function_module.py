"""A closed-form problem as a ``torch.nn.Module``, so that any Torch optimizer can run on it. This file needs Torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from refimpl.arrays import all_finite, host_numbers
from refimpl.oracle import Problem, Sample
from refimpl.problems.closed_form import Toy


class FunctionModule(nn.Module):
    """The loss of a toy as a module with one parameter, the place; calling it gives the loss.

    Parameters
    ----------
    problem : a :class:`~refimpl.problems.closed_form.Toy` on the ``"torch"`` backend, one of the saddles or of the
        classic functions, say. Its own formula is called and Torch differentiates it, any number of times.
    start : where the parameter begins, numbers of shape (n,).

    Attributes
    ----------
    place : the parameter, (n,).

    Raises
    ------
    ValueError
        Another kind of problem or backend; a start that is not n finite numbers.

    Notes
    -----
    Source: KryBall thesis, sec. 5.1.2 and Algorithm 5.

    >>> from refimpl.arrays import get_backend
    >>> from refimpl.problems.toy import Rosenbrock
    >>> model = FunctionModule(Rosenbrock(backend=get_backend("torch")), [-1.2, 1.0])
    >>> optimizer = torch.optim.LBFGS(model.parameters(), line_search_fn="strong_wolfe")
    >>> def closure():
    ...     optimizer.zero_grad()
    ...     loss = model()
    ...     loss.backward()
    ...     return loss
    >>> for _ in range(5):
    ...     _ = optimizer.step(closure)
    >>> bool(model() < 1e-6)
    True
    """

    def __init__(self, problem: Problem, start: Any) -> None:
        super().__init__()
        if not isinstance(problem, Toy) or problem.backend.name != "torch":
            raise ValueError(
                f"problem must be a toy on Torch, got {problem!r}; write Rosenbrock(backend=get_backend('torch'))"
            )
        place = problem.backend.asarray(host_numbers("start", start))
        problem.check_place(place, "start")
        if place.ndim != 1 or not all_finite(place):
            raise ValueError(f"start must be {problem.n} finite numbers, got {start!r}")
        self.problem = problem
        self.place = nn.Parameter(torch.clone(place))

    def forward(self, sample: Sample = None) -> Tensor:
        """The loss at the place, 0-d, with its graph. ``sample`` is what ``problem.draw`` gave, None without noise."""
        loss: Tensor = self.problem.evaluation(self.place, sample).loss()
        return loss

    def extra_repr(self) -> str:
        return f"{type(self.problem).__name__}, n={self.problem.n}"
