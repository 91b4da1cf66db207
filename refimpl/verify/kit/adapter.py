"""How an optimizer is handed to the kit: an object with ``init`` and ``step``, or a plain function for a direction.

::

    class Mine:                                   # nothing of refimpl is imported
        def init(self, task, **settings): ...     # -> state: x itself, or anything with an attribute x
        def step(self, task, state): ...          # -> the next state
        def read(self, state): ...                # -> x, (n,); only where the state has no x

    def direction(gradient, hvp, **settings): ... # -> what is added to x; for methods without memory
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from refimpl.arrays import Array, get_backend
from refimpl.oracle import Evaluation, Problem
from refimpl.verify.kit.task import Task


@dataclass(frozen=True)
class Adapter:
    """An optimizer as the kit calls it, with the three functions of the reader's object."""

    make: Callable[..., Any]
    advance: Callable[[Task, Any], Any]
    place: Callable[[Any], Any]
    label: str = "yours"
    takes: Callable[..., Any] | None = None

    def left_out(self, settings: Mapping[str, Any]) -> tuple[str, ...]:
        """Names of the settings that the optimizer does not take, so that its own values are used."""
        taken = accepted(self.takes or self.make, settings)
        return tuple(name for name in settings if name not in taken)

    def init(self, task: Task, **settings: Any) -> Any:
        """The state at ``task.start``. Settings that the optimizer's ``init`` does not name are left out."""
        return self.make(task, **accepted(self.make, settings))

    def step(self, task: Task, state: Any) -> Any:
        """The state after one step."""
        return self.advance(task, state)

    def read(self, state: Any) -> np.ndarray:
        """The place of a state as a NumPy array of the optimizer's own dtype."""
        x = self.place(state)
        return np.array(x.detach().cpu().numpy() if hasattr(x, "detach") else x)


class Moved(NamedTuple):
    """State of a plain direction: the place and the settings."""

    x: np.ndarray
    settings: Mapping[str, Any]


def as_adapter(thing: Any) -> Adapter:
    """An adapter of whatever was handed over.

    Parameters
    ----------
    thing : an object (instance, module, namespace) with ``init(task, **settings)`` and ``step(task, state)``, and
        ``read(state)`` where the state is neither x nor has an attribute ``x``; or a function
        ``direction(gradient, hvp, **settings)`` that returns what one step adds to x, (n,).

    Raises
    ------
    ValueError
        Something else; the message says what is missing.
    """
    if isinstance(thing, Adapter):
        return thing
    label = getattr(thing, "__name__", type(thing).__name__)
    has = {name: callable(getattr(thing, name, None)) for name in ("init", "step", "read")}
    if isinstance(thing, type) and not (
        has["init"] and isinstance(inspect.getattr_static(thing, "init"), staticmethod)
    ):
        raise ValueError(f"the adapter must be an object, got the class {label!r}; make an instance of it first")
    if has["init"] and has["step"]:
        return Adapter(thing.init, thing.step, thing.read if has["read"] else _place_of, label)
    if has["init"] != has["step"]:
        there, missing = ("init", "step") if has["init"] else ("step", "init")
        raise ValueError(f"the adapter {label!r} has {there} but no {missing}; it needs init(task, **settings) and "
                         "step(task, state)")  # fmt: skip
    if callable(thing) and not isinstance(thing, ModuleType):
        return _direction(thing, label)
    raise ValueError(
        f"{label!r} is no adapter: it needs init(task, **settings) and step(task, state), or must be a function "
        "direction(gradient, hvp, **settings)"
    )


def load(name: str) -> Adapter:
    """The adapter called ``"package.module:name"``, ``"path/to/file.py:name"``, or a module that is one itself.

    Raises
    ------
    ValueError
        There is no such module, file or name, it cannot be imported, or it is no adapter.
    """
    try:
        return _load(name)
    except SystemExit as error:  # a script that runs when it is imported: it must not end the check
        raise ValueError(f"importing {name!r} called sys.exit({error.code!r})") from None


def _load(name: str) -> Adapter:
    module_name, _, attribute = name.rpartition(":") if ".py:" in name else name.partition(":")
    if module_name.endswith(".py"):
        module = _from_file(Path(module_name))
    else:
        if "" not in sys.path:  # as `python -m` has it, wherever the kit was started from
            sys.path.insert(0, "")
        try:
            module = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(
                f"cannot import {module_name!r}: {error}; write package.module:name or file.py:name"
            ) from None
    found: Any = module
    for part in attribute.split(".") if attribute else []:
        if not hasattr(found, part):
            raise ValueError(f"{module_name!r} has no {part!r}; it has {_public(found)}")
        found = getattr(found, part)
    if isinstance(found, type):
        try:
            found = found()
        except TypeError as error:
            raise ValueError(f"{attribute!r} is a class that cannot be made without arguments: {error}") from None
    return as_adapter(found)


def accepted(function: Callable[..., Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the settings that ``function`` takes by name; all of them where it takes ``**`` anything."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return dict(settings)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(settings)
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return {key: value for key, value in settings.items() if key in named}


def _direction(function: Callable[..., Any], label: str) -> Adapter:
    try:
        inspect.signature(function).bind_partial(None, None)
    except TypeError:
        raise ValueError(f"{label!r} must take a gradient and hvp: direction(gradient, hvp, **settings)") from None
    except ValueError:  # a builtin without a signature
        pass

    def init(task: Task, **settings: Any) -> Moved:
        return Moved(task.start, settings)

    def step(task: Task, state: Moved) -> Moved:
        x = state.x
        move = function(task.gradient(x), lambda v: task.hvp(x, v), **accepted(function, state.settings))
        move = np.asarray(move.detach().cpu().numpy() if hasattr(move, "detach") else move)
        if move.shape != x.shape:
            raise ValueError(f"the direction has shape {move.shape}; it must be {x.shape}, what is added to x")
        return Moved(x + move, state.settings)

    return Adapter(init, step, _place_of, label, function)


def _place_of(state: Any) -> Any:
    if hasattr(state, "x"):
        return state.x
    if isinstance(state, np.ndarray) or hasattr(state, "detach"):
        return state
    if state is None:
        raise ValueError("the state is None; init and step must return it")
    raise ValueError(
        f"the state is neither x nor has an attribute x: {type(state).__name__}; give the adapter a read(state)"
    )


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses look their module up there
    if str(path.resolve().parent) not in sys.path:  # for the modules beside it, behind all others
        sys.path.append(str(path.resolve().parent))
    spec.loader.exec_module(module)
    return module


def _public(module: Any) -> list[str]:
    return [name for name in vars(module) if not name.startswith("_")][:20]


# -- an optimizer of this package -------------------------------------------------------------------------------------


class Running(NamedTuple):
    """State of :class:`OptimizerAdapter`: the place, the optimizer and its state."""

    x: Array
    optimizer: Any
    state: Any


class OptimizerAdapter:
    """An adapter of an optimizer of this package, or of a reader's own with the same interface.

    Parameters
    ----------
    make : settings -> an object with ``init(x)`` and ``step(point, state)``.
    """

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def init(self, task: Task, **settings: Any) -> Running:
        """The optimizer with these settings, at the start."""
        optimizer = self._make(**settings)
        return Running(task.start, optimizer, optimizer.init(task.start))

    def step(self, task: Task, state: Running) -> Running:
        """One step."""
        taken = state.optimizer.step(TaskProblem(task).at(state.x), state.state)
        return Running(taken.x, state.optimizer, taken.state)


class TaskProblem(Problem):
    """A task as a :class:`refimpl.oracle.Problem`."""

    def __init__(self, task: Task) -> None:
        super().__init__(task.n, get_backend("numpy", task.kind))
        self.task, self.name = task, task.name

    def initial(self, rng: Any) -> Array:
        """The start of the task, (n,), without chance."""
        return self.task.start

    def evaluation(self, x: Array, sample: Any) -> Evaluation:
        form = _WithOutputs if self.task.has_outputs else _TaskEvaluation
        return form(self.task, x)


class _TaskEvaluation(Evaluation):
    def __init__(self, task: Task, x: Array) -> None:
        self._task, self._x = task, x

    def loss(self) -> Array:
        return np.asarray(self._task.loss(self._x), dtype=self._task.dtype)

    def gradient(self) -> Array:
        return self._task.gradient(self._x)

    def hvp(self, v: Array) -> Array:
        return self._task.hvp(self._x, v)

    def hessian(self) -> Array:
        return self._task.hessian(self._x)


class _WithOutputs(_TaskEvaluation):
    has_outputs = True

    def outputs(self) -> Array:
        return self._task.outputs(self._x)

    def output_gradient(self) -> Array:
        return self._task.output_gradient(self._x)

    def output_hvp(self, u: Array) -> Array:
        return self._task.output_hvp(self._x, u)

    def jvp(self, v: Array) -> Array:
        return self._task.jvp(self._x, v)

    def vjp(self, u: Array) -> Array:
        return self._task.vjp(self._x, u)
