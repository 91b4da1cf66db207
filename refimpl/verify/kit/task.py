"""What an optimizer is tried on: a loss with its derivatives as plain NumPy functions, and transformed copies of it.

An adapter sees nothing else of this package. Shapes: ``x, gradient, v, H v: (n,)``; outputs and vectors in output space
``(o,)``. All answers come in ``task.dtype``; they are computed in float64 and rounded, so that what is lost on a
float32 task is lost by the optimizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from refimpl.arrays import Backend, get_backend, to_numpy
from refimpl.oracle import Evaluation, Problem

Host = np.ndarray
Make = Callable[[Backend], Problem]


@dataclass(frozen=True, eq=False)
class Task:
    """A loss, where to start, and how it is seen: in coordinates y with x = A y + b, times a factor, in a dtype.

    Parameters
    ----------
    name : for the report.
    make : backend -> the problem; called once per backend that is needed.
    place : where to start, (n,), in the coordinates of the task.
    matrix, shift : A (n, n) and b (n,) of the coordinates; None for the identity and zero.
    factor : the loss is multiplied by it.
    kind : ``"float64"`` or ``"float32"``.
    extra : c of a term c·y_0 that is added to the loss: NaN or infinity makes loss and gradient so.

    Notes
    -----
    ``products`` counts the Hessian and Gauss–Newton products asked for so far; a dense Hessian counts n.
    """

    name: str
    make: Make
    place: Host
    matrix: Host | None = None
    shift: Host | None = None
    factor: float = 1.0
    kind: str = "float64"
    extra: float = 0.0
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    # -- what an adapter asks -------------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """How many parameters."""
        return int(self.place.shape[0])

    @property
    def start(self) -> Host:
        """Where to start, (n,): a copy, which may be changed in place."""
        return self.place.astype(self.dtype)

    @property
    def dtype(self) -> np.dtype:
        """float64, or float32 on the level that looks at precision."""
        return np.dtype(self.kind)

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells two tasks apart: equal keys, equal answers."""
        parts = (None if a is None else a.tobytes() for a in (self.place, self.matrix, self.shift))
        return self.name, self.make, *parts, self.factor, self.kind, repr(self.extra)

    @property
    def products(self) -> int:
        """Hessian and Gauss–Newton products asked for so far."""
        return int(self._cache.get("products", 0))

    @property
    def has_outputs(self) -> bool:
        """Whether the loss is a convex function of outputs, so that Gauss–Newton products exist."""
        return bool(type(self._at(self.place)).has_outputs)

    def loss(self, x: Any) -> float:
        """The loss, a Python number, not rounded: whether a step is refused is then no matter of rounding."""
        y = self._vector("x", x)
        value = self.factor * float(to_numpy(self._at(y).loss()))
        return value if self.extra == 0 else float(value + self.extra * y[0])

    def gradient(self, x: Any) -> Host:
        """The gradient, (n,)."""
        value = self.factor * self._pulled(to_numpy(self._at(self._vector("x", x)).gradient()))
        if self.extra != 0:
            value[0] += self.extra
        return value.astype(self.dtype)

    def hvp(self, x: Any, v: Any) -> Host:
        """The Hessian at ``x`` times ``v``, (n,). One product."""
        self._count(1)
        product = to_numpy(self._at(self._vector("x", x)).hvp(self._pushed(self._vector("v", v))))
        return (self.factor * self._pulled(product)).astype(self.dtype)

    def hessian(self, x: Any) -> Host:
        """The dense Hessian, (n, n), symmetric. n products."""
        self._count(self.n)
        evaluation = self._at(self._vector("x", x))
        dense = evaluation.hessian()
        if dense is None:
            dense = np.stack([to_numpy(evaluation.hvp(unit)) for unit in np.eye(self.n)], axis=-1)
        h = to_numpy(dense)
        h = h if self.matrix is None else self.matrix.T @ h @ self.matrix
        return (0.5 * self.factor * (h + h.T)).astype(self.dtype)

    def outputs(self, x: Any) -> Host:
        """The outputs phi(x), (o,); a ValueError, as in the next five, where the loss has none."""
        return to_numpy(self._with_outputs(x).outputs()).astype(self.dtype)

    def output_gradient(self, x: Any) -> Host:
        """dL/dphi, (o,)."""
        value = self.factor * to_numpy(self._with_outputs(x).output_gradient())
        if self.extra != 0:
            value[0] += self.extra
        return value.astype(self.dtype)

    def output_hvp(self, x: Any, u: Any) -> Host:
        """(d2L/dphi2) u, (o,)."""
        return (self.factor * to_numpy(self._with_outputs(x).output_hvp(_floats("u", u)))).astype(self.dtype)

    def jvp(self, x: Any, v: Any) -> Host:
        """(dphi/dx) v, (o,)."""
        return to_numpy(self._with_outputs(x).jvp(self._pushed(self._vector("v", v)))).astype(self.dtype)

    def vjp(self, x: Any, u: Any) -> Host:
        """(dphi/dx)^T u, (n,)."""
        return self._pulled(to_numpy(self._with_outputs(x).vjp(_floats("u", u)))).astype(self.dtype)

    def ggnvp(self, x: Any, v: Any) -> Host:
        """The generalized Gauss–Newton matrix J^T (d2L/dphi2) J times ``v``, (n,). One product."""
        self._count(1)
        evaluation = self._with_outputs(x)
        tangent = evaluation.jvp(self._pushed(self._vector("v", v)))
        return (self.factor * self._pulled(to_numpy(evaluation.vjp(evaluation.output_hvp(tangent))))).astype(self.dtype)

    def torch_loss(self, x: Any) -> Any:
        """The loss as a 0-d tensor that autograd can differentiate twice, at a torch.Tensor of shape (n,).

        Raises a ValueError where Torch is not installed, or ``x`` is no floating tensor of shape (n,).
        """
        torch = get_backend("torch").xp
        if not hasattr(x, "detach") or tuple(x.shape) != (self.n,) or not x.dtype.is_floating_point:
            raise ValueError(f"x must be a floating torch.Tensor of shape ({self.n},), got {x!r}")
        kind = str(x.dtype).rpartition(".")[2]
        backend = get_backend("torch", kind)
        place = x if self.matrix is None else torch.matmul(backend.asarray(self.matrix), x)
        place = place if self.shift is None else place + backend.asarray(self.shift)
        value = self.factor * self._problem("torch", kind).evaluation(place, None).loss()
        return value if self.extra == 0 else value + self.extra * x[0]

    # -- copies ---------------------------------------------------------------------------------------------------

    def from_place(self, x: Any) -> Task:
        """The same task, started at ``x``."""
        return replace(self, place=self._vector("x", x), _cache=self._shared())

    def mapped(self, matrix: Any) -> Task:
        """In coordinates y' with y = A y', for a regular A, (n, n): the same places have other numbers."""
        a = np.asarray(matrix, dtype=float)
        old = a if self.matrix is None else self.matrix @ a
        return replace(self, place=np.linalg.solve(a, self.place), matrix=old, _cache=self._shared())

    def rotated(self, rotation: Any) -> Task:
        """:meth:`mapped` by an orthogonal Q: what was at y is at Q^T y."""
        return self.mapped(rotation)

    def permuted(self, order: Sequence[int]) -> Task:
        """With the coordinates in another order: what was at y is at y[order]."""
        return self.mapped(np.eye(self.n)[:, list(order)])

    def translated(self, offset: Any) -> Task:
        """What was at y is at y - offset."""
        move = self._vector("offset", offset)
        moved = move if self.matrix is None else self.matrix @ move
        shift = moved if self.shift is None else self.shift + moved
        return replace(self, place=self.place - move, shift=shift, _cache=self._shared())

    def scaled(self, factor: float) -> Task:
        """With the loss multiplied by ``factor``."""
        return replace(self, factor=self.factor * float(factor), extra=self.extra * factor, _cache=self._shared())

    def in_dtype(self, dtype: Any) -> Task:
        """With answers in this dtype, started at the nearest place of that dtype."""
        kind = np.dtype(dtype).name
        return replace(self, place=self.place.astype(kind).astype(float), kind=kind, _cache=self._shared())

    def poisoned(self, value: float) -> Task:
        """With ``value``·y_0 added to the loss: NaN or infinity in the loss and in one entry of the gradient."""
        return replace(self, extra=float(value), _cache=self._shared())

    # -- parts ----------------------------------------------------------------------------------------------------

    def _shared(self) -> dict[Any, Any]:
        return {key: value for key, value in self._cache.items() if key != "products"}

    def _count(self, products: int) -> None:
        self._cache["products"] = self.products + products

    def _problem(self, library: str, kind: str) -> Problem:
        # By name: to make a backend takes longer than a gradient.
        if (library, kind) not in self._cache:
            self._cache[library, kind] = self.make(get_backend(library, kind))
        problem: Problem = self._cache[library, kind]
        return problem

    def _at(self, y: Host) -> Evaluation:
        x = self._pushed(y)
        return self._problem("numpy", "float64").evaluation(x if self.shift is None else x + self.shift, None)

    def _with_outputs(self, x: Any) -> Evaluation:
        evaluation = self._at(self._vector("x", x))
        if not type(evaluation).has_outputs:
            raise ValueError(f"the loss of {self.name!r} has no outputs; use gradient, hvp or hessian")
        return evaluation

    def _pushed(self, v: Host) -> Host:
        return v.copy() if self.matrix is None else self.matrix @ v

    def _pulled(self, v: Host) -> Host:
        return v.copy() if self.matrix is None else self.matrix.T @ v

    def _vector(self, name: str, value: Any) -> Host:
        host = _floats(name, value)
        if host.shape != (self.n,):
            raise ValueError(f"{name} must have shape ({self.n},), got {host.shape}")
        return host


def _floats(name: str, value: Any) -> Host:
    try:
        return np.array(to_numpy(value.detach() if hasattr(value, "detach") else value), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, got {value!r}") from error
