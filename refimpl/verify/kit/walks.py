"""Taking an adapter for a walk, and comparing two walks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from refimpl.verify.kit.adapter import Adapter, as_adapter
from refimpl.verify.kit.method import Method
from refimpl.verify.kit.task import Task

Host = np.ndarray


class Check(NamedTuple):
    """One row of a report card: the relative ``error`` and what is allowed; ``note`` says what was seen."""

    level: str
    name: str
    error: float
    tolerance: float
    passed: bool
    note: str = ""


class Walk(NamedTuple):
    """Where an adapter went: ``places`` (k + 1, n) as float64 with the start first; its dtype; and the first line of
    the exception, if one ended the walk early."""

    places: Host
    dtype: str
    problem: str = ""


@dataclass(frozen=True, eq=False)
class Probe:
    """A walk of the reader's adapter that can be repeated with another one."""

    task: Task
    steps: int
    settings: Mapping[str, Any]
    walk: Walk
    mirrored: bool


def take(adapter: Adapter, task: Task, steps: int, settings: Mapping[str, Any]) -> Walk:
    """Walk so many steps. An exception ends the walk and is kept."""
    places, dtype, problem = [task.place], "", ""
    try:
        with np.errstate(all="ignore"):
            state = adapter.init(task, **settings)
            for _ in range(steps):
                state = adapter.step(task, state)
                x = adapter.read(state)
                if x.shape != (task.n,) or x.dtype.kind not in "fiu":
                    raise ValueError(f"x has shape {x.shape} and dtype {x.dtype}; it must be ({task.n},), floating")
                dtype = x.dtype.name
                places.append(np.array(x, dtype=np.float64))
    except (Exception, SystemExit) as error:  # whatever the reader's code raises
        problem = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return Walk(np.array(places), dtype, problem)


def step_errors(found: Walk, wanted: Walk) -> Host:
    """The error of each step that both made, relative to the longest right step so far; infinite where one place is
    finite and the other is not.

    Where both are astray (beyond 1e8, or not finite) there is nothing left to compare and the error is zero.
    """
    with np.errstate(all="ignore"):
        return _step_errors(found, wanted)


def _step_errors(found: Walk, wanted: Walk) -> Host:
    count = min(len(found.places), len(wanted.places))
    a, b = found.places[:count], wanted.places[:count]
    lengths = np.linalg.norm(np.diff(np.nan_to_num(b, nan=0.0, posinf=0.0, neginf=0.0), axis=0), axis=1)
    floor = 1e-8 * (1.0 + float(np.linalg.norm(b[0])))
    errors = []
    for k in range(1, count):
        astray = [not np.isfinite(p[k]).all() or np.abs(p[k]).max() > 1e8 for p in (a, b)]
        if all(astray):
            errors.append(0.0)
        elif any(not np.isfinite(p[k]).all() for p in (a, b)):
            errors.append(np.inf)
        else:
            errors.append(float(np.linalg.norm(a[k] - b[k])) / max(float(lengths[:k].max()), floor))
    return np.array(errors)


def mirror_error(task: Task, found: Walk, wanted: Walk) -> float:
    """The error of one step where two sides are equally good: of its length and of the change of the loss."""
    if len(found.places) < 2 or len(wanted.places) < 2:
        return np.inf
    start = found.places[0]
    a, b = found.places[1], wanted.places[1]
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return 0.0 if not (np.isfinite(a).all() or np.isfinite(b).all()) else np.inf
    sizes = [float(np.linalg.norm(p - start)) for p in (a, b)]
    changes = [task.loss(p) - task.loss(start) for p in (a, b)]
    lengths = abs(sizes[0] - sizes[1]) / max(sizes[1], 1e-8)
    return max(lengths, abs(changes[0] - changes[1]) / max(abs(changes[1]), 1e-12))


@dataclass
class Examiner:
    """The adapter under test beside the reference of a method. Remembers every walk, for the search for a cause."""

    method: Method
    adapter: Adapter
    settings: Mapping[str, Any]
    probes: list[Probe] = field(default_factory=list)

    def walk(
        self, task: Task, steps: int, settings: Mapping[str, Any] | None = None, *, mirrored: bool = False
    ) -> Walk:
        """A walk of the reader's adapter, remembered."""
        chosen = self.settings if settings is None else settings
        walk = take(self.adapter, task, steps, chosen)
        self.probes.append(Probe(task, steps, chosen, walk, mirrored))
        return walk

    def walked(self, task: Task, steps: int) -> Walk:
        """The first such walk with the usual settings; a new one where there is none yet."""
        for p in self.probes:
            if p.steps == steps and p.task.key == task.key and p.settings is self.settings and not p.mirrored:
                return p.walk
        return self.walk(task, steps)

    def right(self, task: Task, steps: int, settings: Mapping[str, Any] | None = None) -> Walk:
        """The walk of the reference, in float64."""
        chosen = self.settings if settings is None else settings
        return _known(self.method, None, Probe(task, steps, chosen, Walk(np.empty((0, task.n)), ""), False))


def likely_cause(examiner: Examiner) -> str:
    """The words of every slip that explains all walks, the right ones and the wrong ones; empty where none does.

    Without a walk that differs from the reference there is nothing to explain: a dtype, a swallowed NaN, an exception.
    """
    method = examiner.method
    wrong = [p for p in examiner.probes if not _same(_known(method, None, p), p)]
    if not wrong:
        return ""
    # The wrong walks first: most slips are ruled out by the first of them.
    probes = [*sorted(wrong, key=lambda p: p.steps), *(p for p in examiner.probes if p not in wrong)]
    named = [slip for slip in method.slips if all(_same(_known(method, slip, p), p) for p in probes)]
    return "; or ".join(method.slips[slip] for slip in named)


def _same(found: Walk, probe: Probe) -> bool:
    if probe.walk.problem or len(probe.walk.places) < 2:
        return True  # says nothing: any exception is possible
    if found.problem:
        return False
    tolerance = 1e-5 if probe.task.kind == "float64" else 2e-3
    if probe.mirrored:
        return mirror_error(probe.task, found, probe.walk) <= tolerance
    return bool(np.max(step_errors(found, probe.walk), initial=0.0) <= tolerance)


_KNOWN: dict[Any, Walk] = {}


def _known(method: Method, slip: str | None, probe: Probe) -> Walk:
    """The walk of the reference, or of the textbook form with a slip. The same whoever is examined, so it is kept."""
    key = (
        method.name,
        slip,
        probe.task.key,
        probe.steps,
        tuple(sorted((k, repr(v)) for k, v in probe.settings.items())),
    )
    if key not in _KNOWN:
        if len(_KNOWN) > 20000:
            _KNOWN.clear()
        adapter = method.reference if slip is None else method.textbook(slip)
        # On a float32 task the right place is the one that float64 gives.
        task = probe.task.in_dtype("float64") if slip is None else probe.task
        _KNOWN[key] = take(as_adapter(adapter), task, probe.steps, probe.settings)
    return _KNOWN[key]


def common_factor(examiner: Examiner) -> str:
    """In words, by which factor every first step is too long or too short; empty where there is no common one."""
    ratios: list[float] = []
    for probe in [p for p in examiner.probes if p.steps == 1 and not p.mirrored and p.task.kind == "float64"]:
        wanted = examiner.right(probe.task, 1, probe.settings).places
        found = probe.walk.places
        if len(found) < 2 or len(wanted) < 2 or not (np.isfinite(found).all() and np.isfinite(wanted).all()):
            continue
        mine, right = found[1] - found[0], wanted[1] - wanted[0]
        size = float(right @ right)
        if size <= 1e-16:
            continue
        ratio = float(mine @ right) / size
        if np.linalg.norm(mine - ratio * right) > 1e-6 * np.sqrt(size) * max(abs(ratio), 1e-3):
            return ""
        ratios.append(ratio)
    if not ratios or np.ptp(ratios) > 1e-6 * max(abs(r) for r in ratios) or abs(ratios[0] - 1) < 1e-6:
        return ""
    if ratios[0] < 0:
        words = "" if abs(ratios[0] + 1) < 1e-6 else f", and is {abs(ratios[0]):.4g} times as long"
        return f"the sign: every first step goes the opposite way{words}"
    return f"every first step is {ratios[0]:.4g} times the right one"
