"""Fast arithmetic on a GPU and compiled products, and what they cost in digits. This file needs Torch.

What is known: TF32 rounds products to 3e-4; Hessian products keep three digits then, which is enough for a short series
without acceleration (K <= 5, N = 0), and not for accelerated sums (N >= 2), which need float64. Convolutions take TF32
by default, matrix products do not. Compiled float32 derivatives of ReLU networks differ by several percent in single
tensors, since units at the kink fall on the other side: compare in float64, or on a smooth network.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from refimpl.arrays import as_generator, get_backend
from refimpl.problems.programs import buffers_kept, on_rows
from refimpl.problems.torch_net import TorchProblem


class Agreement(NamedTuple):
    """|found - reference| / |reference| of the gradient and of one Hessian product."""

    gradient: float
    hvp: float


@contextmanager
def fast_math(problem: TorchProblem | None = None, *, tf32: bool = True, channels_last: bool = False) -> Iterator[None]:
    """Inside, float32 products on a GPU use TF32 or, where ``tf32`` is false, none does; then all is as it was.

    Parameters
    ----------
    problem : needed for ``channels_last``.
    tf32 : for convolutions and matrix products alike.
    channels_last : inputs (samples, channels, height, width) of the problem enter the module with the channels
        innermost. Weights stay views of one vector. On a CPU that was 1.3 times slower.

    Raises
    ------
    ValueError
        ``channels_last`` without a problem, or with one whose inputs have not four axes.

    Notes
    -----
    cuDNN's search for the best algorithm (``cudnn.benchmark``) is on inside: double backward of convolutions has
    algorithms that are hundreds of times slower than the best.
    """
    if channels_last and (problem is None or problem.inputs.ndim != 4):
        raise ValueError("channels_last needs a problem whose inputs are (samples, channels, height, width)")
    places = _tf32_places()
    before = [getattr(place, name) for place, name, *_ in places]
    benchmark = torch.backends.cudnn.benchmark
    if channels_last and problem is not None:
        rows = problem._rows
        problem.__dict__["_rows"] = lambda sample: _innermost(*rows(sample))
    try:
        torch.backends.cudnn.benchmark = True
        for place, name, on, off in places:
            setattr(place, name, on if tf32 else off)
        yield
    finally:
        for (place, name, *_), value in zip(places, before, strict=True):
            setattr(place, name, value)
        torch.backends.cudnn.benchmark = benchmark
        if channels_last and problem is not None:
            problem.__dict__.pop("_rows")


def agreement_in_float64(
    problem: TorchProblem,
    x: Tensor,
    sample: Any = None,
    *,
    vector: Tensor | None = None,
    hvp: Callable[[Tensor, Any, Tensor], Tensor] | None = None,
) -> Agreement:
    """How far gradient and Hessian product of ``problem`` are from those in float64 on the same weights and rows.

    Parameters
    ----------
    problem : its module, data and arithmetic (:func:`fast_math`) as they are; its statistics do not move.
    x, sample : where.
    vector : of the product, (n,); None draws one.
    hvp : another route to the product, ``(x, sample, vector) -> (n,)``, such as :func:`compiled_hvp`.

    Cost: a gradient and a product in both precisions. A GPU has far fewer units for float64: take a small batch.
    """
    if vector is None:
        vector = problem.backend.normal(as_generator(0), problem.n)
    with buffers_kept(problem.module):
        # Rows once: pictures that are cropped or scaled are the same bits for both.
        inputs, targets = problem._rows(sample)
        point = on_rows(problem, inputs, targets).at(x)
        gradient = point.gradient
        product = point.hvp(vector) if hvp is None else hvp(x, sample, vector)
        reference = _in_float64(problem, inputs, targets).at(x.double())
    return Agreement(
        _relative(gradient, reference.gradient),
        _relative(product, reference.hvp(vector.double())),
    )


def compiled_hvp(
    problem: TorchProblem, *, route: Literal["vjp", "jvp"] = "vjp", **options: Any
) -> Callable[[Tensor, Any, Tensor], Tensor]:
    """``(x, sample, v) -> H v`` by ``torch.compile`` around a product of :mod:`torch.func`, from scratch each time.

    Parameters
    ----------
    problem : statistics of BatchNorm do not move.
    route : reverse or forward mode over the gradient.
    options : of ``torch.compile``. The first call compiles: seconds for a small network, minutes for a deep one.

    Raises a ValueError for an unknown route.

    Notes
    -----
    The one supported way: a gradient that was compiled first cannot be differentiated again
    (``autograd.grad(create_graph=True)`` of compiled code is refused, or was silently wrong in older versions). Check
    it once with :func:`agreement_in_float64`. Cost: 3 to 4 gradients.
    """
    if route not in ("vjp", "jvp"):
        raise ValueError(f"unknown route {route!r}; choose 'vjp' or 'jvp'")

    def product(x: Tensor, v: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        def loss(place: Tensor) -> Tensor:
            return problem.loss_value(problem.call(place, inputs, advance=False), targets)

        if route == "jvp":
            forward: Tensor = torch.func.jvp(torch.func.grad(loss), (x,), (v,))[1]
            return forward
        reverse: Tensor = torch.func.vjp(torch.func.grad(loss), x)[1](v)[0]
        return reverse

    compiled: Any = torch.compile(product, **options)
    return lambda x, sample, v: compiled(x, v, *problem._rows(sample))


def _in_float64(problem: TorchProblem, inputs: Tensor, targets: Tensor) -> TorchProblem:
    twin = on_rows(problem, inputs.double(), targets.double() if targets.is_floating_point() else targets)
    twin.module = copy.deepcopy(problem.module).double()
    twin.backend = get_backend("torch", "float64", problem.backend.device)
    return twin


def _relative(found: Tensor, reference: Tensor) -> float:
    return float((found.double() - reference).norm() / reference.norm())


def _innermost(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return inputs.contiguous(memory_format=torch.channels_last), targets


def _tf32_places() -> list[tuple[Any, str, Any, Any]]:
    """Where Torch keeps the setting: object, name, value for TF32 and without. Newer versions refuse a mix of both."""
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(cudnn, "conv") and hasattr(cudnn.conv, "fp32_precision"):
        return [(matmul, "fp32_precision", "tf32", "ieee"), (cudnn.conv, "fp32_precision", "tf32", "ieee")]
    return [(matmul, "allow_tf32", True, False), (cudnn, "allow_tf32", True, False)]
