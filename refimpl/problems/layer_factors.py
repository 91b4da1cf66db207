"""The ``Linear`` layers of a Torch module, and their Kronecker factors from what went through them in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from refimpl.oracle import Counts, KroneckerFactors
from refimpl.problems.kronecker import input_factor, output_factor


def layer_factors(
    outputs: Tensor,
    layers: Mapping[str, nn.Linear],
    seen: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
    output_hvp: Callable[[Tensor], Tensor],
) -> tuple[list[KroneckerFactors], Counts]:
    """Factors of every layer, from one backward pass per output.

    Parameters
    ----------
    outputs : (samples, k), with its graph.
    layers : the layers by name.
    seen : for every layer and every call of it, what went in (samples, fan_in), detached, and what came out, in the
        graph of ``outputs``.
    output_hvp : (d2L/dphi2) u, (samples·k,) -> (samples·k,).

    Raises
    ------
    ValueError
        Outputs that are not (samples, k); a layer that was not used exactly once, on (samples, fan_in).
    """
    if outputs.ndim != 2:
        raise ValueError(f"Kronecker factors need outputs (samples, k), got {tuple(outputs.shape)}")
    samples = len(outputs)
    for name, part in layers.items():
        uses = [tuple(below.shape) for below, _ in seen[name]]
        if uses != [(samples, part.in_features)]:
            raise ValueError(f"layer {name!r} must be used once, on ({samples}, {part.in_features}), got {uses}")
    below, above = zip(*(seen[name][0] for name in layers), strict=True)
    curvature, columns = [], []
    for c in range(outputs.shape[1]):
        unit = torch.zeros_like(outputs)
        unit[:, c] = 1.0
        curvature.append(output_hvp(unit.reshape(-1)).reshape(outputs.shape))
        found = torch.autograd.grad(outputs, above, unit, retain_graph=True, materialize_grads=True)
        columns.append([delta.detach() for delta in found])
    curvatures = torch.stack(curvature).permute(2, 0, 1)  # (k, k, samples), and below (fan_out, k, samples)
    deltas = [torch.stack(column).permute(2, 0, 1) for column in zip(*columns, strict=True)]
    ones = outputs.new_ones(1, samples)
    factors = [
        KroneckerFactors(input_factor(torch.cat([a.T, ones])), output_factor(delta, curvatures))
        for a, delta in zip(below, deltas, strict=True)
    ]
    return factors, Counts(vjp=outputs.shape[1])


def refuse_batch_norm(module: nn.Module) -> None:
    """A ValueError where BatchNorm in train mode makes an output depend on other samples."""
    if any(isinstance(part, _BatchNorm) and part.training for part in module.modules()):
        raise ValueError("BatchNorm in train mode mixes samples: Kronecker factors do not exist; call eval()")


def linear_layers(module: nn.Module) -> dict[str, nn.Linear]:
    """Every ``torch.nn.Linear`` by the prefix of its parameters' names, in the order of ``named_modules()``.

    Raises
    ------
    ValueError
        A trainable parameter that belongs to none of them; a Linear without bias, tied to another or partly fixed.
    """
    found = {f"{name}." if name else "": part for name, part in module.named_modules() if type(part) is nn.Linear}
    owned = {prefix + kind for prefix in found for kind in ("weight", "bias")}
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    if owned != trainable:
        raise ValueError(
            "Kronecker factors need every trainable parameter to be the weight or the bias of a torch.nn.Linear, and "
            f"every Linear to have both, trainable and its own; these do not fit: {sorted(owned ^ trainable)}"
        )
    return found


@contextmanager
def watched(layers: dict[str, nn.Linear]) -> Iterator[dict[str, list[tuple[Tensor, Tensor]]]]:
    """What goes into and comes out of each layer, call by call, during forward passes inside the ``with``."""
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in layers}

    def watch(name: str) -> Callable[[Any, tuple[Tensor, ...], Tensor], Tensor]:
        def hook(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            seen[name].append((inputs[0].detach(), output))
            return output.clone()  # an activation that works in place must not touch what was kept

        return hook

    handles = [part.register_forward_hook(watch(name)) for name, part in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
