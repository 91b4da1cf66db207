"""K-FAC for networks with convolutions and BatchNorm: what a practitioner's library does, as a method of this package.

:class:`refimpl.optimizers.kfac.KFAC` has exact factors, for dense layers alone. Here the factors come from one more
backward pass with targets drawn from the model's predictions, through whatever layers there are: dense layers and
convolutions get a Kronecker product, all other parameters (BatchNorm's) the plain gradient. This file needs Torch when
a step is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from refimpl.arrays import Array, as_generator, check_between, check_count, check_positive
from refimpl.optimizers.base import NoInfo, Step, settle
from refimpl.oracle import Counts, Point


class ConvKFACState(NamedTuple):
    """What one step hands to the next.

    factors : for each layer the running means of A (p, p) and S (q, q); empty before the first step. inverses : those
    of the damped factors. step : what was last subtracted from x, (n,). steps : how many there were.
    """

    factors: tuple[tuple[Array, Array], ...]
    inverses: tuple[tuple[Array, Array], ...]
    step: Array
    steps: int


@dataclass(frozen=True)
class ConvKFAC:
    """v <- momentum v + learning_rate u, x <- x - v, with u the gradient through the inverses of Kronecker factors.

    For a layer z_t = W a_t at places t of the picture (one place for a dense layer; a_t is the patch, with a 1 for the
    bias) the factors are A = mean over samples of sum_t a_t a_t^T, S = mean over samples and places of g_t g_t^T, where
    g_t is the gradient of a sample's negative log-likelihood in z_t for a target drawn from the prediction. The layer's
    gradient V becomes (S + sqrt(lam)/pi I)^{-1} V (A + pi sqrt(lam) I)^{-1}, pi^2 the ratio of the mean eigenvalues.

    Parameters
    ----------
    learning_rate, damping : positive; damping is lam.
    momentum : in [0, 1).
    ema : weight of the old factors in their running mean, in [0, 1).
    interval : steps from one estimate of the factors, with new inverses, to the next.
    largest : u is shortened where u·g learning_rate^2 would exceed this (the change of the predictions, in the units of
        the Fisher matrix); infinity never.
    targets : ``"sampled"`` from the predictions, or ``"given"``, the training labels (the empirical Fisher matrix).
    seed : of the targets.

    Raises
    ------
    ValueError
        A knob outside its range; in ``step``, a problem that is no Torch module with a dense layer or convolution, a
        layer used twice, or grouped or dilated convolutions.

    Notes
    -----
    BatchNorm in train mode mixes samples: g_t is then the gradient through the minibatch's statistics, as in every
    K-FAC library for such networks, and no longer that of one sample.

    The Point must be fresh (its forward pass is watched). Cost: one gradient; in every ``interval``-th step one vjp,
    and the products for A and S, which are charged by their multiplications in units of the forward pass: for 3 x 3
    convolutions with as many outputs as inputs nine forward passes and a ninth of one. Inverses, O(p^3 + q^3), and the
    products with them are not charged; the seconds show them.

    Source: Grosse & Martens (2016), eqs. 25, 26; Martens & Grosse (2015), secs. 5, 6.3; the clipping: Ba et al. (2017),
    sec. 5.
    """

    learning_rate: float
    damping: float = 0.01
    momentum: float = 0.9
    ema: float = 0.95
    interval: int = 10
    largest: float = 1e-2
    targets: str = "sampled"
    seed: int = 0
    name: ClassVar[str] = "kfac"

    def __post_init__(self) -> None:
        settle(
            self,
            learning_rate=check_positive("learning_rate", self.learning_rate),
            damping=check_positive("damping", self.damping),
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            ema=check_between("ema", self.ema, 0.0, 1.0),
            interval=check_count("interval", self.interval),
            seed=check_count("seed", self.seed, minimum=0),
        )
        if not self.largest > 0:
            raise ValueError(f"largest must be positive, got {self.largest!r}")
        if self.targets not in ("sampled", "given"):
            raise ValueError(f"unknown targets {self.targets!r}; choose 'sampled' or 'given'")

    def init(self, x: Array) -> ConvKFACState:
        """No factors seen, no step taken."""
        return ConvKFACState((), (), 0.0 * x, 0)

    def step(self, point: Point, state: ConvKFACState) -> Step:
        """One step: (n,)."""
        factors, inverses = state.factors, state.inverses
        if state.steps % self.interval == 0:
            fresh = estimated_factors(point, self.targets, as_generator([self.seed, state.steps]))
            factors = tuple(fresh) if not factors else tuple(
                (self.ema * a + (1 - self.ema) * b, self.ema * s + (1 - self.ema) * t)
                for (a, s), (b, t) in zip(factors, fresh, strict=True)
            )  # fmt: skip
            inverses = tuple(damped_inverses(a, s, self.damping) for a, s in factors)
        u = self._direction(point, inverses)
        step = self.momentum * state.step + self.learning_rate * u
        return Step(point.x - step, ConvKFACState(factors, inverses, step, state.steps + 1), NoInfo())

    def _direction(self, point: Point, inverses: Sequence[tuple[Array, Array]]) -> Array:
        import torch

        problem: Any = point.problem
        parts, gradient = dict(problem.unflatten(point.gradient)), point.gradient
        for (name, layer), (below, above) in zip(kronecker_layers(problem.module).items(), inverses, strict=True):
            weight = parts[f"{name}weight"]
            matrix, biased = weight.reshape(len(weight), -1), layer.bias is not None
            if biased:
                matrix = torch.cat([matrix, parts[f"{name}bias"][:, None]], dim=1)
            found = above @ matrix @ below
            parts[f"{name}weight"] = (found[:, :-1] if biased else found).reshape(weight.shape)
            if biased:
                parts[f"{name}bias"] = found[:, -1]
        u = torch.cat([part.reshape(-1) for part in parts.values()])
        size = self.learning_rate**2 * torch.clamp(u @ gradient, min=0.0)
        return u * torch.clamp(torch.sqrt(self.largest / (size + 1e-30)), max=1.0)


def kronecker_layers(module: Any) -> dict[str, Any]:
    """The dense layers and convolutions of a Torch module by the prefix of their parameters' names.

    Raises
    ------
    ValueError
        There are none, or a convolution with groups or dilation.
    """
    from torch import nn

    found = {}
    for name, part in module.named_modules():
        plain = not isinstance(part, nn.Conv2d) or (part.groups == 1 and part.dilation == (1, 1))
        if not plain or isinstance(getattr(part, "padding", 0), str):
            raise ValueError(f"the convolution {name!r} must have one group, no dilation and padding in pixels")
        if isinstance(part, nn.Conv2d | nn.Linear):
            found[f"{name}." if name else ""] = part
    if not found:
        raise ValueError("K-FAC needs a module with dense layers or convolutions")
    return found


def estimated_factors(point: Point, targets: str, rng: Any) -> list[tuple[Array, Array]]:
    """A (p, p) and S (q, q) of every layer, from the point's own forward pass and one backward pass more.

    Cost: see :class:`ConvKFAC`.
    """
    problem: Any = point.problem
    layers = kronecker_layers(problem.module)
    with _watched(layers) as (below, above):
        outputs = point.outputs
        above.clear()
        if targets == "sampled":
            _, rows = point.sampled_gradient(rng)
        else:
            rows = len(problem.targets) if point.sample is None else len(point.sample.indices)
            point.vjp(point.output_gradient)
    del outputs
    if set(below) != set(layers) or set(above) != set(layers):
        raise ValueError(f"every layer must be used once at a Point that is fresh, seen were {sorted(below)}")
    factors, forward, extra = [], 0.0, 0.0
    for name, layer in layers.items():
        patches, slopes = _patches(layer, below[name]), _places(above[name])
        places = len(slopes) // rows
        # The loss is the mean over rows: a sample's own gradient is rows times as large.
        factors.append((patches.T @ patches / rows, slopes.T @ slopes * (rows / places)))
        fan_in, fan_out = patches.shape[1], slopes.shape[1]
        forward += len(slopes) * fan_in * fan_out
        extra += len(slopes) * (fan_in**2 + fan_out**2)
    point._extra += Counts(loss=math.ceil(extra / forward))  # in forward passes
    return factors


def damped_inverses(inputs: Array, outputs: Array, damping: float) -> tuple[Array, Array]:
    """(A + pi sqrt(lam) I)^{-1} and (S + sqrt(lam)/pi I)^{-1}; NaN where a factor is not finite.

    Source: Martens & Grosse (2015), sec. 6.3.
    """
    import torch

    size_in, size_out = inputs.trace() / len(inputs), outputs.trace() / len(outputs)
    usable = (size_in > 0) & (size_out > 0)
    pi = torch.where(usable, torch.sqrt(size_in / torch.where(usable, size_out, 1.0)), 1.0)
    root = math.sqrt(damping)
    found = []
    for factor, shift in ((inputs, pi * root), (outputs, root / pi)):
        shifted = factor + shift * torch.eye(len(factor), dtype=factor.dtype, device=factor.device)
        chol, _ = torch.linalg.cholesky_ex(shifted)
        found.append(torch.cholesky_inverse(chol))
    return found[0], found[1]


@contextmanager
def _watched(layers: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """What goes into each layer in forward passes inside the ``with``, and what comes back to its output."""
    below: dict[str, Any] = {}
    above: dict[str, Any] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
            below[name] = inputs[0].detach()
            output.register_hook(lambda slope: above.__setitem__(name, slope.detach()))

        return hook

    handles = [part.register_forward_hook(watch(name)) for name, part in layers.items()]
    try:
        yield below, above
    finally:
        for handle in handles:
            handle.remove()


def _patches(layer: Any, below: Any) -> Any:
    """The inputs of a layer at every place, (samples times places, p), with a 1 at the end where there is a bias."""
    import torch
    from torch.nn import functional

    if below.ndim == 4:
        below = functional.unfold(below, layer.kernel_size, padding=layer.padding, stride=layer.stride)
        below = below.transpose(1, 2)
    rows = below.reshape(-1, below.shape[-1])
    return rows if layer.bias is None else torch.cat([rows, rows.new_ones(len(rows), 1)], dim=1)


def _places(slopes: Any) -> Any:
    """Gradients at every place, (samples times places, q)."""
    moved = slopes.movedim(1, -1) if slopes.ndim == 4 else slopes
    return moved.reshape(-1, moved.shape[-1])
