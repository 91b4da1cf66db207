"""Parameters as one group; a method's knobs and state in plain data, as groups show and ``torch.save`` writes them.

For :mod:`refimpl.torch_optim`. This file needs Torch.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor

from refimpl.problems.closure import check_parameters

KEY = "method"
"""Where ``Optimizer.state`` keeps everything: not under a parameter, because a state belongs to all of them."""


def one_group(params: Any) -> list[Any]:
    """``params`` as Torch's base class takes them, if they are one group without options."""
    if isinstance(params, Tensor | dict | str) or not isinstance(params, Iterable):
        raise ValueError(f"params must be a list of tensors, as from model.parameters(), got {type(params).__name__}")
    if isinstance(params, set | frozenset):
        raise ValueError("params must have an order that is the same in every run, got a set")
    given = list(params)
    if any(isinstance(entry, dict) for entry in given):
        if len(given) > 1:
            raise ValueError(f"a second-order step couples all parameters: one group, please, got {len(given)} entries")
        (group,) = given
        others = sorted(set(group) - {"params"})
        if others or "params" not in group:
            raise ValueError(f"a group must have 'params' and nothing else (knobs are arguments), got also {others}")
        return one_group([group["params"]] if isinstance(group["params"], Tensor) else group["params"])
    tensors = [entry[1] if isinstance(entry, tuple) and len(entry) == 2 else entry for entry in given]
    check_parameters([p for p in tensors if not isinstance(p, Tensor) or p.requires_grad])
    return given


def _fields(method: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(method)] if dataclasses.is_dataclass(method) else []


def group_of(method: Any) -> dict[str, Any]:
    """The knobs as a parameter group has them."""
    knobs = {name: getattr(method, name) for name in _fields(method)}
    if knobs.get("learning_rate") is not None:
        knobs["lr"] = knobs.pop("learning_rate")
    return knobs


def method_of(method: Any, group: dict[str, Any]) -> Any:
    """``method`` with the knobs of a parameter group: the same object where none has changed."""
    changed = {}
    for name in _fields(method):
        key = "lr" if name == "learning_rate" and "lr" in group else name
        if key not in group:
            raise ValueError(f"the parameter group lacks the knob {key!r} of {type(method).__name__}")
        if group[key] != getattr(method, name):
            changed[name] = group[key]
    return dataclasses.replace(method, **changed) if changed else method


def saved_record(state_dict: Any) -> dict[str, Any]:
    """What ``state_dict`` keeps of the method; a ValueError where it is of some other optimizer."""
    parts = state_dict if isinstance(state_dict, dict) else {}
    states, groups = parts.get("state"), parts.get("param_groups")
    record = states.get(KEY) if isinstance(states, dict) else None
    wanted = {"method", "shapes", "counts"}
    if not isinstance(record, dict) or not wanted <= set(record) or not isinstance(groups, list) or len(groups) != 1:
        raise ValueError("this is not the state_dict() of an optimizer of refimpl.torch_optim")
    return record


def encode(state: Any) -> Any:
    """A method's state in lists, dicts, tensors and numbers, which ``torch.load(weights_only=True)`` reads."""
    if isinstance(state, dict):
        return {"type": "dict", "fields": {key: encode(value) for key, value in state.items()}}
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        return {
            "type": type(state).__name__,
            "fields": {k: encode(v) for k, v in zip(state._fields, state, strict=True)},
        }
    if isinstance(state, tuple | list):
        return {"type": "list" if isinstance(state, list) else "tuple", "fields": [encode(value) for value in state]}
    return state


def decode(saved: Any, method: Any, like: Tensor, *, copy: bool = False) -> Any:
    """The inverse of :func:`encode`: floating tensors in the dtype of ``like``, all on its device."""
    if isinstance(saved, Tensor):
        dtype = like.dtype if saved.is_floating_point() else saved.dtype
        return saved.detach().to(device=like.device, dtype=dtype, copy=copy)
    if not isinstance(saved, dict):
        return saved
    kind, fields = saved.get("type"), saved.get("fields")
    if isinstance(fields, list) and kind in ("list", "tuple"):
        return (list if kind == "list" else tuple)(decode(value, method, like, copy=copy) for value in fields)
    if not isinstance(fields, dict):
        raise ValueError(f"a saved state of {method.name} must have a type and fields, got {sorted(saved)}")
    values = {key: decode(value, method, like, copy=copy) for key, value in fields.items()}
    if kind == "dict":
        return values
    # A state's class stands in the file of its method, of a class the method inherits from, or of a method inside it.
    for cls in (cls for one in _methods_in(method) for cls in type(one).__mro__):
        found = vars(sys.modules[cls.__module__]).get(str(kind))
        if isinstance(found, type) and issubclass(found, tuple) and getattr(found, "_fields", None) == tuple(values):
            return found(**values)
    raise ValueError(f"the saved state is a {kind!r} with {list(values)}, which {type(method).__name__} does not have")


def _methods_in(method: Any) -> Iterator[Any]:
    """The method, and those among its knobs (FOSI's base), with theirs."""
    yield method
    for name in _fields(method):
        knob = getattr(method, name)
        if dataclasses.is_dataclass(knob) and hasattr(knob, "step"):
            yield from _methods_in(knob)
