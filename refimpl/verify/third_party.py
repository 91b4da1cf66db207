"""Other libraries' optimizers in the conformance kit: which agree with the methods they are named after, and which not.

::

    print(*third_party_table(), sep="\\n")           # everything that is installed, in about half a minute
    check_peer("scipy.linalg.sqrtm").text()           # one of them, its report card

``python -m refimpl.verify.third_party`` prints the table; with ``--record FILE`` it is stored as well, with where it
comes from, for the book.

Each library is imported when it is first asked for. What is written here is only what joins the two: settings under the
library's names, arrays of the library's kind. Wherever a library can be told to take one step without a line search, it
is; a method without memory is started again at each step.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from refimpl.experiments.records import provenance, write_record
from refimpl.verify.kit import Card, check_method

Host = np.ndarray


@dataclass(frozen=True)
class Peer:
    """One optimizer of another library.

    Parameters
    ----------
    name : what is called, with the setting that matters.
    package : the distribution it comes in.
    modules : what has to be imported.
    method : the kit's name for what it should be.
    make : nothing -> an adapter for the kit.
    differs : why it is not the kit's method, in words; empty where both agree.
    settings : settings of the method that are not its usual ones.
    levels : the levels that are run; None for all.
    """

    name: str
    package: str
    modules: tuple[str, ...]
    method: str
    make: Callable[[], Any]
    differs: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    levels: tuple[str, ...] | None = None


class Row(NamedTuple):
    """A row of :func:`third_party_table`: ``verdict`` is ``agrees``, ``differs`` or ``not installed``, ``checks`` the
    number of the kit's checks that passed, ``reason`` the difference."""

    library: str
    optimizer: str
    version: str
    method: str
    verdict: str
    checks: str
    reason: str


def peers() -> dict[str, Peer]:
    """Name -> optimizer, in the order of the table; what is not installed is there too."""
    from refimpl.verify.third_party_peers import PEERS

    return {peer.name: peer for peer in PEERS}


def check_peer(name: str, *, levels: Sequence[str] | None = None) -> Card:
    """The report card of one optimizer of another library, on its own levels unless others are asked for.

    Raises
    ------
    ValueError
        No such optimizer here, or its library is not installed.
    """
    known = peers()
    if name not in known:
        raise ValueError(f"unknown optimizer {name!r}; choose one of {list(known)}")
    peer = known[name]
    if not installed(peer):
        raise ValueError(f"{name} needs {peer.package}, which is not installed")
    return check_method(peer.method, peer.make(), levels=levels or peer.levels, settings=peer.settings)


def installed(peer: Peer) -> bool:
    """Whether everything that the optimizer needs can be imported."""
    try:
        for module in peer.modules:
            importlib.import_module(module)
    except ImportError:
        return False
    return True


def third_party_table(names: Sequence[str] | None = None) -> list[Row]:
    """What the kit says of each optimizer of another library, computed now.

    Parameters
    ----------
    names : some of :func:`peers`; None for all.

    Raises
    ------
    ValueError
        An unknown name.
    """
    known, rows = peers(), []
    for name in known if names is None else names:
        if name not in known:
            raise ValueError(f"unknown optimizer {name!r}; choose one of {list(known)}")
        peer = known[name]
        if not installed(peer):
            rows.append(Row(peer.package, name, "", peer.method, "not installed", "", ""))
            continue
        card = check_peer(name)
        verdict, reason = ("agrees", "") if card.passed else ("differs", peer.differs or card.cause)
        checks = f"{sum(row.passed for row in card.rows)} of {len(card.rows)}"
        version = importlib.metadata.version(peer.package)
        rows.append(Row(peer.package, name, version, peer.method, verdict, checks, reason))
    return rows


def attribute(module: str, name: str) -> Any:
    """``module.name``, imported now."""
    return getattr(importlib.import_module(module), name)


# -- ways to join a library to the kit --------------------------------------------------------------------------------


class _Moving:
    """A place x (n,) with whatever the library keeps beside it."""

    def __init__(self, x: Any, *parts: Any) -> None:
        self.x, self.parts = x, parts


class TorchOptimizer:
    """A ``torch.optim.Optimizer`` as an adapter.

    Parameters
    ----------
    make : (parameters, settings) -> the optimizer.
    advance : (optimizer, task, x, count) -> nothing, in place of ``optimizer.step()``.
    """

    def __init__(self, make: Callable[..., Any], advance: Callable[..., Any] | None = None) -> None:
        self._make, self._advance = make, advance

    def init(self, task: Any, **settings: Any) -> _Moving:
        """One parameter at the start and its optimizer."""
        import torch

        x = torch.nn.Parameter(torch.from_numpy(task.start))
        return _Moving(x, self._make([x], settings), 0)

    def step(self, task: Any, state: _Moving) -> _Moving:
        """The task's gradient, then one step of the optimizer, in place."""
        import torch

        x, (optimizer, count) = state.x, state.parts
        place = x.detach().numpy()
        x.grad = torch.from_numpy(task.gradient(place))
        if self._advance is None:
            optimizer.step()
        else:
            self._advance(optimizer, task, place, count)
        return _Moving(x, optimizer, count + 1)


class StepOf:
    """A method without memory as an adapter: ``move(task, x, **settings)`` gives what is added to x, (n,)."""

    def __init__(self, move: Callable[..., Any]) -> None:
        self._move = move

    def init(self, task: Any, **settings: Any) -> _Moving:
        """The start and the settings."""
        return _Moving(task.start, settings)

    def step(self, task: Any, state: _Moving) -> _Moving:
        """x plus the move, in the dtype of the task."""
        (settings,) = state.parts
        move = np.asarray(self._move(task, state.x, **settings))
        return _Moving((state.x + move).astype(task.dtype), settings)


class JumpOf(StepOf):
    """The same for a library that answers with the next place: ``jump(task, x, **settings)``, (n,)."""

    def step(self, task: Any, state: _Moving) -> _Moving:
        """The next place, in the dtype of the task."""
        (settings,) = state.parts
        return _Moving(np.asarray(self._move(task, state.x, **settings)).astype(task.dtype), settings)


class WalkOf:
    """A library that walks by itself: ``walk(task, steps, **settings)`` gives the places after each step, (k, n).

    Where it stops early, its last place stands for the rest.
    """

    def __init__(self, walk: Callable[..., Any], steps: int = 10) -> None:
        self._walk, self._steps = walk, steps

    def init(self, task: Any, **settings: Any) -> _Moving:
        """The whole walk."""
        places = [np.asarray(x).astype(task.dtype) for x in self._walk(task, self._steps, **settings)]
        return _Moving(task.start, [task.start, *places], 0)

    def step(self, task: Any, state: _Moving) -> _Moving:
        """The next place of the walk."""
        places, count = state.parts
        return _Moving(places[min(count + 1, len(places) - 1)], places, count + 1)


def in_jax(compute: Callable[..., Any], *arrays: Any) -> Host:
    """A JAX function of NumPy arrays with a NumPy answer; in float64 for the time of the call, and then as before."""
    import jax

    # Older releases have the context manager in jax.experimental. The global switch is never touched.
    place = jax if hasattr(jax, "enable_x64") else importlib.import_module("jax.experimental")
    with place.enable_x64(True):
        return np.asarray(compute(*(jax.numpy.asarray(a) for a in arrays)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, and store it where ``--record`` says; 0 unless something is not installed."""
    parser = argparse.ArgumentParser(prog="python -m refimpl.verify.third_party", description=main.__doc__)
    parser.add_argument("--record", metavar="FILE", type=Path)
    chosen = parser.parse_args(arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = third_party_table()
    for row in rows:
        print(f"{row.optimizer:<60s} {row.version:<10s} {row.verdict:<14s} {row.checks:<9s} {row.reason}")
    if chosen.record:
        about = provenance() | {"command": "python -m refimpl.verify.third_party --record " + chosen.record.name}
        write_record(chosen.record, {"schema": 1, "provenance": about, "rows": [row._asdict() for row in rows]})
    return 0 if all(row.version for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
