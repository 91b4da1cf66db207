"""Third derivatives of a Torch module's loss: along a line, and the whole tensor. This file needs Torch.

They are what a Lipschitz constant of the Hessian bounds, computed and not estimated: forward mode on top of forward
mode, no differences.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, jacfwd, jvp, vmap

from refimpl.arrays import check_array, dtype_name
from refimpl.problems.sampling import check_sample, rows_of
from refimpl.problems.torch_net import TorchProblem

LARGEST = 40
"""The most parameters for which :func:`third_derivative` builds its n^3 numbers."""


def third_derivative_along(problem: TorchProblem, x: Tensor, v: Tensor, positions: Any, sample: Any = None) -> Tensor:
    """phi'''(t) for phi(t) = f(x + t v), at every t of ``positions``: (m,), or (k, m) for k directions.

    The number is D^3 f(x + t v)[v, v, v]; ``v`` need not have length 1. Where the module is piecewise linear (ReLU) it
    is the derivative of the piece.

    Parameters
    ----------
    problem : a :class:`TorchProblem` in float64.
    x : place, (n,).
    v : direction, (n,), or k of them, (k, n).
    positions : finite numbers, (m,).
    sample : rows of the loss, None for all.

    Raises
    ------
    ValueError
        A problem without a Torch module or not in float64; ``x`` or ``v`` of the wrong shape; positions that are not
        one row of finite numbers.

    Notes
    -----
    Cost: k m forward passes, each carrying derivatives of order one to three (about 8 times a plain one); all in one
    program, which holds the activations of all of them.

    Source: forward mode of order three, Griewank & Walther (2008), ch. 13; here as three nested products.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> module = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    >>> cube = TorchProblem(module, lambda outputs, targets: (outputs**3).mean(), [[1.0]], [0.0])
    >>> third_derivative_along(cube, 0 * one, one, [0.0, 1.0]).tolist()
    [6.0, 6.0]
    """
    f = _loss(problem, sample)
    problem.check_place(x)
    check_array("v", v, problem.backend, problem.n, tuple(v.shape[:-1]) if getattr(v, "ndim", 1) == 2 else None)
    places = torch.as_tensor(positions, dtype=x.dtype, device=x.device)
    if places.ndim != 1 or not bool(torch.isfinite(places).all()):
        raise ValueError(f"positions must be one row of finite numbers, got {positions!r}")
    base = x.detach()

    def third(direction: Tensor, place: Tensor) -> Tensor:
        found: Tensor = _slope(_slope(_slope(lambda t: f(base + t * direction))))(place)
        return found

    along = vmap(third, in_dims=(None, 0))
    found: Tensor = along(v, places) if v.ndim == 1 else vmap(along, in_dims=(0, None))(v, places)
    return found


def third_derivative(problem: TorchProblem, x: Tensor, sample: Any = None) -> Tensor:
    """All third derivatives of the loss at ``x``: (n, n, n), symmetric in its three axes to rounding.

    Raises
    ------
    ValueError
        More than :data:`LARGEST` parameters; a problem without a Torch module or not in float64; ``x`` of the wrong
        shape.

    Notes
    -----
    Cost: n^2 forward-mode products of a gradient, in one program.
    """
    f = _loss(problem, sample)
    if problem.n > LARGEST:
        raise ValueError(
            f"the tensor of third derivatives has n^3 numbers: at most n={LARGEST}, got n={problem.n}; "
            "use third_derivative_along"
        )
    problem.check_place(x)
    found: Tensor = jacfwd(jacfwd(grad(f)))(x.detach())
    return found


def _slope(phi: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def slope(t: Tensor) -> Tensor:
        found: Tensor = jvp(phi, (t,), (torch.ones_like(t),))[1]
        return found

    return slope


def _loss(problem: TorchProblem, sample: Any) -> Callable[[Tensor], Tensor]:
    if not isinstance(problem, TorchProblem):
        raise ValueError(f"third derivatives need a TorchProblem, got {type(problem).__name__}")
    if dtype_name(problem.backend.dtype) != "float64":
        raise ValueError(f"third derivatives need float64, the problem has {dtype_name(problem.backend.dtype)}")
    chosen = check_sample(sample, problem.samples)
    inputs = rows_of(problem.backend, problem.inputs, chosen)
    targets = rows_of(problem.backend, problem.targets, chosen)

    def loss(x: Tensor) -> Tensor:
        return problem.loss_value(problem.call(x, inputs, advance=False), targets)

    return loss
