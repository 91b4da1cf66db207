"""The five levels of the kit. Each sees mistakes that the ones before it do not.

============== ====================================================== ================================================
level          what is compared                                       what only it sees
============== ====================================================== ================================================
one step       one step from several places with the reference        a wrong formula
ten steps      whole trajectories with the reference                  state: momentum, counters, radius, init
invariances    the adapter with itself on a turned or scaled loss     a preconditioner that knows its coordinates
edge cases     zero gradients, singular, repeated and NaN             breakdowns, swallowed NaN
precision      float32 and badly scaled losses with the reference     promotion to float64, absolute tolerances
============== ====================================================== ================================================
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from refimpl.problems.quadratic import random_orthogonal
from refimpl.verify.kit.method import Method
from refimpl.verify.kit.task import Task
from refimpl.verify.kit.tasks import EDGE_TASKS, TASKS, places
from refimpl.verify.kit.walks import Check, Examiner, Walk, mirror_error, step_errors

LEVELS = ("one step", "ten steps", "invariances", "edge cases", "precision")
"""In the order in which they are run."""

TOLERANCES = {"one step": 1e-6, "ten steps": 1e-5, "invariances": 1e-6, "edge cases": 1e-6, "precision": 1e-3}
"""Largest relative error of each level."""


class Case(NamedTuple):
    """One check that can be run by itself."""

    level: str
    name: str
    run: Callable[[Examiner], Check]


def cases(method: Method, levels: Sequence[str] | None = None) -> list[Case]:
    """The checks of a method on these levels, in order; all levels for None.

    Raises
    ------
    ValueError
        An unknown level.
    """
    makers = dict(zip(LEVELS, (_one_step, _ten_steps, _invariances, _edge_cases, _precision), strict=True))
    chosen = LEVELS if levels is None else [levels] if isinstance(levels, str) else levels
    for level in chosen:
        if level not in makers:
            raise ValueError(f"unknown level {level!r}; choose of {list(LEVELS)}")
    return [Case(level, name, run) for level in LEVELS if level in chosen for name, run in makers[level](method)]


Runs = list[tuple[str, Callable[[Examiner], Check]]]


# -- against the reference --------------------------------------------------------------------------------------------


def _one_step(method: Method) -> Runs:
    return [
        (f"{name}, place {i}", partial(_against, "one step", f"{name}, place {i}", TASKS[name].from_place(place), 1))
        for name in method.tasks
        for i, place in enumerate(places(TASKS[name]), start=1)
    ]


def _ten_steps(method: Method) -> Runs:
    found: Runs = [(name, partial(_against, "ten steps", name, TASKS[name], 10)) for name in method.tasks]
    return [*found, ("a second run", partial(_second_run, TASKS[method.tasks[0]]))]


def _against(level: str, name: str, task: Task, steps: int, examiner: Examiner) -> Check:
    found, wanted = examiner.walk(task, steps), examiner.right(task, steps)
    return _judged(level, name, found, step_errors(found, wanted))


def _second_run(task: Task, examiner: Examiner) -> Check:
    first, again = examiner.walk(task, 4), examiner.walk(task, 4)
    row = _judged("ten steps", "a second run", again, step_errors(again, first))
    if row.passed or first.problem or again.problem:
        return row
    return row._replace(note="another run from the same start goes elsewhere: init must forget the last run")


def _judged(level: str, name: str, found: Walk, errors: np.ndarray, tolerance: float | None = None) -> Check:
    allowed = TOLERANCES[level] if tolerance is None else tolerance
    if found.problem:
        return Check(level, name, math.inf, allowed, False, found.problem)
    error = float(np.max(errors, initial=0.0))
    passed = bool(error <= allowed)
    first = int(np.argmax(~(errors <= allowed))) + 1
    note = f"step {first} is the first wrong one" if not passed and len(errors) > 1 else ""
    return Check(level, name, error, allowed, passed, note)


# -- against itself ---------------------------------------------------------------------------------------------------

_STEPS = 4
_FACTOR = 4.0


def _invariances(method: Method) -> Runs:
    found: Runs = []
    for name in (method.tasks[0], method.tasks[-1]):
        for kind in method.invariances:
            found.append((f"{kind}, {name}", partial(_transformed, kind, TASKS[name])))
        if method.rescaled is not None:
            found.append((f"loss times {_FACTOR:g}, {name}", partial(_loss_scale, TASKS[name])))
    return list(dict(found).items())


def _transformed(kind: str, task: Task, examiner: Examiner) -> Check:
    rng = np.random.default_rng(task.n)
    offset, matrix = np.zeros(task.n), np.eye(task.n)
    if kind == "rotation":
        matrix = random_orthogonal(task.n, 17)
    elif kind == "permutation":
        matrix = matrix[:, np.roll(np.arange(task.n), 1)]
    elif kind == "sign flips":
        matrix = np.diag([(-1.0) ** (i + 1) for i in range(task.n)])
    elif kind == "linear map":
        matrix = random_orthogonal(task.n, 18) * np.linspace(0.5, 2.0, task.n)
    elif kind == "translation":
        offset = rng.standard_normal(task.n)
    else:
        raise ValueError(f"unknown invariance {kind!r}")
    name = f"{kind}, {task.name}"
    here = examiner.walked(task, _STEPS)
    there = examiner.walk(task.translated(offset) if kind == "translation" else task.mapped(matrix), _STEPS)
    back = Walk(there.places @ matrix.T + offset, there.dtype, there.problem)
    row = _judged("invariances", name, back if back.problem else here, step_errors(back, here))
    if row.passed or here.problem or there.problem:
        return row
    return row._replace(note=_MEANING[kind])


_MEANING = {
    "rotation": "a turned loss is not walked in the turned way: something is done coordinate by coordinate",
    "permutation": "with the coordinates in another order the steps are others: entries are mixed up",
    "sign flips": "with the axes reversed the steps are others: a sign or magnitude is taken of single entries",
    "translation": "on a shifted loss the steps are others: the place itself enters (a decay of the weights?)",
    "linear map": "in other linear coordinates the steps are others, which Newton's are not",
}


def _loss_scale(task: Task, examiner: Examiner) -> Check:
    assert examiner.method.rescaled is not None
    here = examiner.walked(task, _STEPS)
    there = examiner.walk(task.scaled(_FACTOR), _STEPS, examiner.method.rescaled(examiner.settings, _FACTOR))
    name = f"loss times {_FACTOR:g}, {task.name}"
    row = _judged("invariances", name, there if there.problem else here, step_errors(there, here))
    if row.passed or here.problem or there.problem:
        return row
    return row._replace(note="the loss times 4, with the settings scaled to match, gives other steps")


# -- what must be survived --------------------------------------------------------------------------------------------


def _edge_cases(method: Method) -> Runs:
    names = [name for name in EDGE_TASKS if not method.needs_outputs or EDGE_TASKS[name].has_outputs]
    if not method.mirrors:
        names = [name for name in names if name != "hard case"]
    found: Runs = [(name, partial(_edge, EDGE_TASKS[name])) for name in names]
    for words, value in (("NaN", math.nan), ("infinite", math.inf)):
        task = TASKS[method.tasks[0]].poisoned(value)
        found.append((f"{words} loss and gradient", partial(_poisoned, f"{words} loss and gradient", task)))
    return found


def _edge(task: Task, examiner: Examiner) -> Check:
    mirrored = examiner.method.mirrors and task.name in ("exact saddle", "hard case")
    found, wanted = examiner.walk(task, 1, mirrored=mirrored), examiner.right(task, 1)
    allowed = TOLERANCES["edge cases"]
    if examiner.method.inverts and task.name == "singular Hessian" and not _arrived(found):
        return Check("edge cases", task.name, 0.0, allowed, True, "an error or a place that is not finite is right")
    if found.problem:
        return Check("edge cases", task.name, math.inf, allowed, False, found.problem)
    error = mirror_error(task, found, wanted) if mirrored else float(step_errors(found, wanted)[0])
    note = "the step is not finite" if not np.isfinite(found.places).all() else ""
    return Check("edge cases", task.name, error, allowed, bool(error <= allowed), note)


def _arrived(walk: Walk) -> bool:
    """Whether it ended at a finite place, without an exception."""
    return not walk.problem and bool(np.isfinite(walk.places).all())


def _poisoned(name: str, task: Task, examiner: Examiner) -> Check:
    found, allowed = _apart(examiner, task), TOLERANCES["edge cases"]
    if not _arrived(found):
        return Check("edge cases", name, 0.0, allowed, True)
    if examiner.method.judges and (found.places[-1] == found.places[0]).all():
        return Check("edge cases", name, 0.0, allowed, True, "stays where it is")
    if examiner.method.bounded and math.isinf(task.extra):
        return Check("edge cases", name, 0.0, allowed, True, "a long gradient: no step is longer than its bound")
    return Check("edge cases", name, math.inf, allowed, False, "goes to a finite place as if nothing had happened")


def _apart(examiner: Examiner, task: Task) -> Walk:
    """A walk that is not held against a slip: what comes of NaN depends on more than the formula."""
    walk = examiner.walk(task, 2)
    examiner.probes.pop()
    return walk


# -- precision --------------------------------------------------------------------------------------------------------


def _precision(method: Method) -> Runs:
    task = TASKS[method.tasks[0]]
    found: Runs = [("dtype kept", partial(_dtype, task))]
    found += [(f"float32, {name}", partial(_single, f"float32, {name}", TASKS[name], 1)) for name in method.tasks]
    long = f"ten steps in float32, {task.name}"
    found.append((long, partial(_single, long, task, 10)))
    for words, factor in (("small", method.small_loss), ("large", 1 / method.small_loss)):
        found.append((f"{words} loss", partial(_scaled, f"{words} loss", task, factor)))
    return found


def _dtype(task: Task, examiner: Examiner) -> Check:
    for kind, change in (("float32", "promoted"), ("float64", "rounded")):
        found = examiner.walk(task.in_dtype(kind), 2)
        if found.problem or found.dtype != kind:
            note = found.problem or f"{kind} {change} to {found.dtype}"
            return Check("precision", "dtype kept", math.inf, 0.0, False, note)
    return Check("precision", "dtype kept", 0.0, 0.0, True)


def _single(name: str, task: Task, steps: int, examiner: Examiner) -> Check:
    single = task.in_dtype("float32")
    found, wanted = examiner.walk(single, steps), examiner.right(single, steps)
    return _judged("precision", name, found, step_errors(found, wanted))


def _scaled(name: str, task: Task, factor: float, examiner: Examiner) -> Check:
    settings: Mapping[str, Any] = examiner.settings
    if examiner.method.rescaled is not None:
        settings = examiner.method.rescaled(settings, factor)
    found = examiner.walk(task.scaled(factor), 2, settings)
    wanted = examiner.right(task.scaled(factor), 2, settings)
    row = _judged("precision", name, found, step_errors(found, wanted), 1e-5)
    return row if row.passed or found.problem else row._replace(note=f"loss times {factor:g}: an absolute tolerance?")
