"""One method as a ``torch.optim.Optimizer``: what :mod:`refimpl.torch_optim` makes its classes of. It needs Torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, ClassVar, overload

import torch
from torch import Tensor, nn

from refimpl.optimizers import adam, gradient_descent, kfac, krylov_descent, levenberg_marquardt, schedule, sophia
from refimpl.optimizers.base import LibraryOptimizer, Optimizer
from refimpl.oracle import Counts
from refimpl.problems.closure import Closure, ClosureProblem, check_buffers, check_parameters, layer_names
from refimpl.torch_optim.state import KEY, decode, encode, group_of, method_of, one_group, saved_record

_WITHOUT_HESSIAN = (
    adam.Adam,
    gradient_descent.GradientDescent,
    gradient_descent.HeavyBall,
    gradient_descent.Nesterov,
    kfac.KFAC,
    kfac.AdaptiveKFAC,
    levenberg_marquardt.LevenbergMarquardt,
    sophia.Sophia,
)
"""Methods that ask for no product with the Hessian, or seldom for one (Sophia with Hutchinson's estimate): their
gradient is made without its graph."""


class MethodOptimizer(torch.optim.Optimizer):
    """Any method of :mod:`refimpl.optimizers` as a Torch optimizer; its subclasses take knobs in place of a method.

    Parameters
    ----------
    params : leaf tensors, or (name, tensor) pairs, or one group ``[{"params": ...}]`` without options of its own. They
        are dense, of one dtype (float32 or float64) and on one device.
    method : the method with its knobs, for example ``SeriesSaddleFreeNewton.published(terms=16, order=2)``.
    buffers : tensors that a forward pass changes in place, ``model.buffers()``.
    module : for K-FAC, the module that the closure calls: every trainable parameter belongs to a ``Linear`` layer.

    Attributes
    ----------
    method : the method with the knobs of the last step.
    last_info : what the last step reported (the method's Info), or None.

    Raises
    ------
    ValueError
        No parameters, or such as cannot be one vector; several groups; a method that owns its loop (SciPy's); K-FAC
        without a module, or with one whose parameters are others.
    """

    method_class: ClassVar[type | None] = None
    state: Any

    def __init__(
        self,
        params: Iterable[Any],
        method: Any,
        *,
        buffers: Iterable[Tensor] = (),
        module: nn.Module | None = None,
    ) -> None:
        _check_method(method, module)
        self.method: Any = method
        self.last_info: Any = None
        self._last_gradient: Tensor | None = None
        self._buffers = [buffers] if isinstance(buffers, Tensor) else list(buffers)
        check_buffers(self._buffers)
        super().__init__(one_group(params), group_of(method))
        self._trained = [p.requires_grad for p in self.param_groups[0]["params"]]
        check_parameters(self._parameters())
        self._module = module
        if module is not None:
            layer_names(module, self._parameters())
        self.state[KEY] = self._record(Counts())

    def __init_subclass__(cls, **options: Any) -> None:
        """Give a subclass with a ``method_class`` the signature of its knobs."""
        super().__init_subclass__(**options)
        if cls.method_class is not None:
            knobs = [
                p.replace(kind=inspect.Parameter.KEYWORD_ONLY)
                for p in inspect.signature(cls.method_class).parameters.values()
            ]
            _, params, _, *others = inspect.signature(MethodOptimizer.__init__).parameters.values()
            cls.__signature__ = inspect.Signature([params, *knobs, *others])  # type: ignore[attr-defined]

    @overload  # type: ignore[override]
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Closure) -> Tensor: ...

    def step(self, closure: Closure | None = None) -> Tensor | None:
        """One step of the method. Returns the loss before it, detached.

        Raises
        ------
        ValueError
            No closure; what :class:`refimpl.problems.closure.ClosureProblem` refuses; a knob in ``param_groups``
            outside its range; a parameter frozen or released since construction; a method that needs outputs, where
            the closure returns the loss alone.
        """
        if closure is None:
            raise ValueError(
                "step needs a closure that returns the loss with its graph: one gradient in .grad does not tell the "
                "curvature, nor the loss at a trial"
            )
        method = method_of(self.method, self.param_groups[0])
        spared = isinstance(method, _WITHOUT_HESSIAN) or getattr(method, "curvature", None) == "gauss-newton"
        problem = ClosureProblem(
            closure, self._parameters(), buffers=self._buffers, hessian=not spared, module=self._module
        )
        with problem.undone_on_failure(), torch.no_grad():
            x = problem.initial(None)
            record = self.state[KEY]
            state = decode(record["state"], method, x) if "state" in record else method.init(x)
            point = problem.at(x, problem.draw())
            loss = point.loss
            found = method.step(point, state)
            problem.check_place(found.x, "the method's next x")
            problem.write(found.x)
        self.method, self.last_info, self._last_gradient = method, found.info, point.known_gradient
        self.state[KEY] = self._record(self.counts + point.counts) | {"state": encode(found.state)}
        return loss

    @property
    def vectors(self) -> dict[str, Any]:
        """What the method knows, as flat vectors: the last step's ``gradient``, if it asked for one, and its state.

        The state's entries have the names of the method's own state: for KryBall ``momentum`` (n,), ``basis`` (m, n),
        ``radius``, and so on. :meth:`split` cuts a vector into the shapes of the parameters. Empty before the first
        step.
        """
        record = self.state[KEY]
        if "state" not in record:
            return {}
        state = decode(record["state"], self.method, self._parameters()[0])
        fields = state._asdict() if hasattr(state, "_asdict") else {"state": state}
        return fields if self._last_gradient is None else {"gradient": self._last_gradient, **fields}

    def split(self, vector: Tensor) -> list[Tensor]:
        """``vector`` (n,) as one tensor per trained parameter, of its shape; a ValueError for another shape."""
        shapes = [p.shape for p in self._parameters()]
        if getattr(vector, "shape", None) != (self.size,):
            raise ValueError(f"vector must have shape ({self.size},), got {getattr(vector, 'shape', vector)!r}")
        pieces = vector.split([shape.numel() for shape in shapes])
        return [piece.reshape(shape) for piece, shape in zip(pieces, shapes, strict=True)]

    @property
    def counts(self) -> Counts:
        """What all steps so far have evaluated."""
        return Counts(*self.state[KEY]["counts"])

    @property
    def size(self) -> int:
        """How many numbers are optimized."""
        return sum(p.numel() for p in self._parameters())

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refused once there is a group (ValueError): a second-order step couples all parameters."""
        if self.param_groups:
            raise ValueError("a second-order step couples all parameters, so there is one group; make a new optimizer")
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where ``state_dict()`` was taken, on this optimizer's device and in its dtype.

        Knobs are those of the saved run, as in ``torch.optim``.

        Raises
        ------
        ValueError
            A state of another method, of other shapes, or of another optimizer altogether; nothing is loaded then.
        """
        record = saved_record(state_dict)
        mine = self._record(Counts())
        for key, what in (("method", "method"), ("shapes", "shapes of the parameters")):
            if record[key] != mine[key]:
                raise ValueError(f"the saved {what} {record[key]!r} do not fit this optimizer's {mine[key]!r}")
        method = method_of(self.method, state_dict["param_groups"][0])
        if "state" in record:
            like = self._parameters()[0]
            record = {**record, "state": encode(decode(record["state"], method, like, copy=True))}
        super().load_state_dict(state_dict)
        self.method, self.last_info, self._last_gradient = method, None, None
        self.state[KEY] = record

    def __getstate__(self) -> dict[str, Any]:
        own = {
            key: self.__dict__[key]
            for key in ("method", "last_info", "_last_gradient", "_buffers", "_trained", "_module")
        }
        return {**super().__getstate__(), **own}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r}, n={self.size})"

    def _parameters(self) -> list[Tensor]:
        tensors = self.param_groups[0]["params"]
        if [p.requires_grad for p in tensors] != self._trained:
            raise ValueError("requires_grad of a parameter has changed since construction; make a new optimizer")
        return [p for p in tensors if p.requires_grad]

    def _record(self, counts: Counts) -> dict[str, Any]:
        shapes = [list(p.shape) for p in self._parameters()]
        return {"method": self.method.name, "shapes": shapes, "counts": list(counts)}


def _check_method(method: Any, module: Any) -> None:
    if isinstance(method, type):
        raise ValueError(f"method must be an instance, got the class {method.__name__}; write {method.__name__}(...)")
    if isinstance(method, LibraryOptimizer):
        raise ValueError(
            f"{type(method).__name__} owns its loop and cannot take single steps; give it to refimpl.minimize with a "
            "refimpl.problems.torch_net.TorchProblem"
        )
    if isinstance(method, kfac.KFAC | kfac.AdaptiveKFAC) and module is None:
        raise ValueError(
            f"{type(method).__name__} needs the inputs of every layer, which a closure alone does not show: give also "
            "module=, the module that the closure calls"
        )
    if isinstance(method, schedule.Scheduled):
        raise ValueError(
            f"Scheduled changes knobs that stand in param_groups here: give the method inside ({method.name}) and one "
            "of torch.optim.lr_scheduler"
        )
    if isinstance(method, krylov_descent.KrylovSubspaceDescent):
        raise ValueError(
            "KrylovSubspaceDescent searches with gradients at many places in one step, and a closure has one: use "
            "refimpl.minimize with a refimpl.problems.torch_net.TorchProblem, or KryBall"
        )
    if not isinstance(method, Optimizer):
        raise ValueError(f"method must have a name, init and step, got {method!r}; see refimpl.optimizers")
