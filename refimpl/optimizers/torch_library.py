"""Optimizers of Torch and of pytorch_optimizer as methods of this package: Muon, SOAP, Shampoo, AdamW.

They see the tensors that x is made of (:attr:`refimpl.oracle.Problem.tensor_shapes`), not x itself: their steps depend
on the shapes. Torch is imported when the first step is made.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from refimpl.arrays import Array, backend_of, check_between, check_count, check_positive, namespace
from refimpl.optimizers.base import NoInfo, Step, settle
from refimpl.oracle import Point


class LibraryState(NamedTuple):
    """``saved``: what ``state_dict()`` of each of the library's optimizers said after the last step; plain data."""

    saved: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class _TorchLibrary:
    """A step of the library's optimizers on copies of the tensors, from the state they had.

    ``init`` needs no shapes: the library makes its state in the first step. A step leaves the state it was given
    untouched, at the price of a copy of it.
    """

    learning_rate: float

    def __post_init__(self) -> None:
        settle(self, learning_rate=check_positive("learning_rate", self.learning_rate))

    def init(self, x: Array) -> LibraryState:
        """Nothing yet."""
        if backend_of(x).name != "torch":
            raise ValueError(f"{type(self).__name__} belongs to Torch: use a problem with a torch backend")
        return LibraryState(())

    def step(self, point: Point, state: LibraryState) -> Step:
        """One step: (n,)."""
        xp, shapes = namespace(point.x), point.problem.tensor_shapes
        tensors = self._tensors(point.x, shapes)
        optimizers = self._optimizers(tensors)
        for optimizer, saved in zip(optimizers, state.saved, strict=bool(state.saved)):
            optimizer.load_state_dict(copy.deepcopy(saved))
        for tensor, gradient in zip(tensors, self._tensors(point.gradient, shapes), strict=True):
            tensor.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        x = xp.concat([xp.reshape(tensor.detach(), (-1,)) for tensor in tensors])
        return Step(x, LibraryState(tuple(optimizer.state_dict() for optimizer in optimizers)), NoInfo())

    def _tensors(self, v: Array, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
        """Copies of the parts of ``v`` (n,), each in the shape the library is to see."""
        found, start = [], 0
        for shape in shapes:
            size = 1
            for axis in shape:
                size *= axis
            found.append(v[start : start + size].detach().clone().reshape(self._seen(shape)))
            start += size
        return found

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def _optimizers(self, tensors: Sequence[Any]) -> list[Any]:
        raise NotImplementedError


@dataclass(frozen=True)
class TorchAdamW(_TorchLibrary):
    """``torch.optim.AdamW``: a check of the way through the library against :class:`refimpl.optimizers.adam.AdamW`.

    Parameters
    ----------
    learning_rate, beta1, beta2, epsilon, weight_decay : as there.

    Raises
    ------
    ValueError
        A knob outside its range; a place that is no Torch tensor.

    Source: Loshchilov & Hutter (2019), algorithm 2.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 1e-2
    name: ClassVar[str] = "torch-adamw"

    def __post_init__(self) -> None:
        super().__post_init__()
        _settle_adam(self)

    def _optimizers(self, tensors: Sequence[Any]) -> list[Any]:
        return [_adamw(self, tensors)]


@dataclass(frozen=True)
class MuonWithAdamW(_TorchLibrary):
    """``torch.optim.Muon`` for the matrices inside, ``torch.optim.AdamW`` for the rest, with one learning rate.

    A tensor with two or more axes is a matrix (fan_out, rest): a convolution's kernel has the rest flattened. The step
    of a matrix is its momentum with all singular values made nearly equal, scaled as Adam's steps are
    (``match_rms_adamw``: 0.2 sqrt(the longer side)), so that one rate fits both.

    Parameters
    ----------
    learning_rate : of both.
    momentum : mu of Muon, in [0, 1), with Nesterov's look ahead.
    weight_decay : of both, at least zero; decoupled.
    beta1, beta2, epsilon : of AdamW.
    iterations : of Newton-Schulz's method, which does the equalizing.
    adam : places, among all tensors, of the matrices that AdamW gets. None for the first and the last matrix, as is
        custom for the first layer and the output layer (embeddings, where there are several: name them). Vectors
        (norms, biases) always go to AdamW.

    Raises
    ------
    ValueError
        A knob outside its range; a place that is no Torch tensor; no matrix left for Muon; a place in ``adam`` that is
        none of a matrix.

    Notes
    -----
    Torch runs Newton-Schulz's iteration in bfloat16 whatever the dtype of x: singular values come out between about
    0.7 and 1.2, and steps on different devices differ in the third digit.

    Cost: one gradient; 15 products of (m, m) with (m, n) matrices for each matrix, m its shorter side.

    Source: Jordan et al. (2024), "Muon: An optimizer for hidden layers in neural networks"; the scaling: Liu et al.
    (2025), "Muon is scalable for LLM training", sec. 2.2.
    """

    momentum: float = 0.95
    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    iterations: int = 5
    adam: tuple[int, ...] | None = None
    name: ClassVar[str] = "muon"

    def __post_init__(self) -> None:
        super().__post_init__()
        _settle_adam(self)
        settle(
            self,
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            iterations=check_count("iterations", self.iterations),
        )
        if self.adam is not None:
            settle(self, adam=tuple(check_count("every place in adam", place, minimum=0) for place in self.adam))

    def _seen(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (shape[0], -1) if len(shape) > 2 else shape

    def _optimizers(self, tensors: Sequence[Any]) -> list[Any]:
        import torch

        matrices = [place for place, tensor in enumerate(tensors) if tensor.ndim == 2]
        others = {*matrices[:1], *matrices[-1:]} if self.adam is None else set(self.adam)
        inside = [place for place in matrices if place not in others]
        if not inside or not others <= set(matrices):
            raise ValueError(
                f"Muon needs matrices besides those at {sorted(others)} that AdamW gets; matrices are at {matrices}"
            )
        muon = torch.optim.Muon(
            [tensors[place] for place in inside],
            lr=self.learning_rate,
            weight_decay=self.weight_decay,
            momentum=self.momentum,
            ns_steps=self.iterations,
            adjust_lr_fn="match_rms_adamw",
        )
        return [muon, _adamw(self, [tensor for place, tensor in enumerate(tensors) if place not in inside])]


@dataclass(frozen=True)
class Soap(_TorchLibrary):
    """SOAP of pytorch_optimizer: Adam in the eigenbases of Shampoo's matrices, one for each axis of each tensor.

    Parameters
    ----------
    learning_rate : positive.
    beta1, beta2 : decay of the means of gradients and squares, and (beta2) of Shampoo's matrices.
    weight_decay : at least zero; decoupled.
    frequency : steps from one new eigenbasis to the next.
    largest : longest axis that gets a basis; longer ones (embeddings) keep Adam's own.
    epsilon : at least zero.

    Raises
    ------
    ValueError
        A knob outside its range; a place that is no Torch tensor; pytorch_optimizer is not installed.

    Notes
    -----
    The library's first step only gathers statistics: x stays. Cost: one gradient; for each axis of length m products
    with (m, m) matrices in every step, and an eigendecomposition or QR of them in every ``frequency``-th.

    Source: Vyas et al. (2024), algorithm 3.
    """

    beta1: float = 0.95
    beta2: float = 0.95
    weight_decay: float = 0.0
    frequency: int = 10
    largest: int = 10000
    epsilon: float = 1e-8
    name: ClassVar[str] = "soap"

    def __post_init__(self) -> None:
        super().__post_init__()
        _settle_adam(self)
        settle(
            self,
            frequency=check_count("frequency", self.frequency),
            largest=check_count("largest", self.largest),
        )

    def _optimizers(self, tensors: Sequence[Any]) -> list[Any]:
        knobs = {"betas": (self.beta1, self.beta2), "precondition_frequency": self.frequency}
        return [
            _library("SOAP")(
                tensors, lr=self.learning_rate, weight_decay=self.weight_decay, max_precondition_dim=self.largest,
                eps=self.epsilon, **knobs,
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class Shampoo(_TorchLibrary):
    """Shampoo of pytorch_optimizer: each axis of each tensor through an inverse root of its gradients' covariance.

    Parameters
    ----------
    learning_rate : positive.
    momentum : in [0, 1); as the library has it.
    frequency : steps from one new root to the next. The library makes none before step ``frequency``: until then x
        stays.
    epsilon : start of the matrices, positive.

    Raises
    ------
    ValueError
        A knob outside its range; a place that is no Torch tensor; pytorch_optimizer is not installed.

    Notes
    -----
    The sums are those of all gradients so far, so steps shorten like 1/sqrt(t). Cost: one gradient; for each axis of
    length m products with (m, m) matrices, and a singular value decomposition in every ``frequency``-th step.

    Source: Gupta, Koren & Singer (2018), algorithm 2.
    """

    momentum: float = 0.0
    frequency: int = 1
    epsilon: float = 1e-6
    name: ClassVar[str] = "shampoo"

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            momentum=check_between("momentum", self.momentum, 0.0, 1.0),
            frequency=check_count("frequency", self.frequency),
            epsilon=check_positive("epsilon", self.epsilon),
        )

    def _optimizers(self, tensors: Sequence[Any]) -> list[Any]:
        return [
            _library("Shampoo")(
                tensors, lr=self.learning_rate, momentum=self.momentum,
                preconditioning_compute_steps=self.frequency, matrix_eps=self.epsilon,
            )
        ]  # fmt: skip


LibraryName = Literal["SOAP", "Shampoo"]


def _library(name: LibraryName) -> Any:
    try:
        import pytorch_optimizer
    except ImportError as error:
        raise ValueError(f"{name} is that of pytorch_optimizer, which is not here: pip install it") from error
    return getattr(pytorch_optimizer, name)


def _adamw(method: Any, tensors: Sequence[Any]) -> Any:
    import torch

    betas = (method.beta1, method.beta2)
    return torch.optim.AdamW(
        tensors, lr=method.learning_rate, betas=betas, eps=method.epsilon, weight_decay=method.weight_decay
    )


def _settle_adam(method: Any) -> None:
    settle(
        method,
        beta1=check_between("beta1", method.beta1, 0.0, 1.0),
        beta2=check_between("beta2", method.beta2, 0.0, 1.0),
        epsilon=check_positive("epsilon", method.epsilon, zero_allowed=True),
        weight_decay=check_positive("weight_decay", method.weight_decay, zero_allowed=True),
    )
