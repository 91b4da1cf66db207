"""The golden vectors, and how far an answer is from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from refimpl.arrays import Backend, get_backend, to_numpy
from refimpl.verify import (
    checks_curveball,
    checks_elmo,
    checks_kryball,
    checks_methods,
    checks_problems,
    checks_series,
    checks_spectrum,
)
from refimpl.verify.causes import likely_slip

SCHEMA = 1

ABOUT = ("manifest.json", "schema.json")
"""Files beside the vectors that describe them."""

CALLS: dict[str, Callable[..., Any]] = {
    **checks_spectrum.CALLS, **checks_methods.CALLS, **checks_problems.CALLS, **checks_series.CALLS,
    **checks_curveball.CALLS, **checks_kryball.CALLS, **checks_elmo.CALLS,
}  # fmt: skip
"""What a case may ask: its ``call`` -> a function of a backend and the case's inputs."""


class GoldenMismatch(AssertionError):
    """An implementation does not give the answers of the golden vectors."""


@dataclass(frozen=True)
class Case:
    """One golden vector: see ``vectors/README.md`` for the meaning of each field."""

    id: str
    call: str
    inputs: Mapping[str, Any]
    expected: Any
    rtol: float
    rtol_float32: float
    source: str

    @property
    def group(self) -> str:
        """The file it comes from: ``"spectrum"``, ``"methods"``, ``"series"``, ``"kryball"`` …"""
        return self.id.split("/")[0]

    def tolerance(self, dtype: str) -> float:
        """Allowed relative error in ``"float64"`` or ``"float32"``."""
        return self.rtol if dtype == "float64" else self.rtol_float32


@dataclass(frozen=True)
class Outcome:
    """One case on one backend. ``problem`` says what went wrong where nothing could be compared."""

    case: Case
    backend: str
    error: float
    tolerance: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Whether the error is within the tolerance (never where it is NaN)."""
        return not self.problem and self.error <= self.tolerance


@cache
def cases(group: str | None = None) -> tuple[Case, ...]:
    """All golden vectors, or those of one group.

    Raises
    ------
    ValueError
        No such group.

    >>> cases("spectrum")[0].id
    'spectrum/eigenvalues'
    """
    folder = resources.files("refimpl.verify") / "vectors"
    found_files = [entry for entry in folder.iterdir() if entry.name.endswith(".json") and entry.name not in ABOUT]
    files = {entry.name[:-5]: entry for entry in found_files}
    if group is not None and group not in files:
        raise ValueError(f"unknown group {group!r}; choose one of {sorted(files)}")
    found: list[Case] = []
    for name in sorted(files) if group is None else [group]:
        content = json.loads(files[name].read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"{name}.json has schema {content['schema']}, this version reads {SCHEMA}")
        found += [Case(**{**case, "id": f"{name}/{case['id']}"}) for case in content["cases"]]
    return tuple(found)


def run_case(case: Case, backend: Backend, label: str | None = None) -> Outcome:
    """Compute ``case`` with this package on ``backend`` and compare."""
    tolerance = case.tolerance(backend.dtype_name)
    label = label or f"{backend.name} {backend.dtype_name}"
    try:
        with np.errstate(all="ignore"):
            answer = CALLS[case.call](backend, **case.inputs)
        return Outcome(case, label, relative_error(answer, case.expected), tolerance)
    except Exception as error:  # whatever a backend raises belongs into the table, next to the others
        return Outcome(case, label, float("nan"), tolerance, f"{type(error).__name__}: {error}")


def check_implementation(call: str, function: Callable[..., Any], *, dtype: str = "float64") -> list[Outcome]:
    """Compare a function of your own with every golden vector of ``call``.

    Parameters
    ----------
    call : what your function computes, for example ``"saddle_free_direction"``; the README beside the vectors lists
        every call with its arguments and its answer.
    function : called with the arguments of each case by name, lists as NumPy arrays. Its answer may be an array of
        any library, a list, or a mapping.
    dtype : whether float64 or float32 tolerances hold.

    Raises
    ------
    ValueError
        No case has this call.
    GoldenMismatch
        An answer is outside its tolerance; the message names each such case, and for steps of CurveBall, KryBall,
        ELMO, Sophia and AMOS the likely cause.

    >>> import numpy as np
    >>> outcomes = check_implementation("eigenvalues", lambda matrix: np.linalg.eigvalsh(matrix))
    >>> [outcome.passed for outcome in outcomes]
    [True]
    """
    chosen = [case for case in cases() if case.call == call]
    if not chosen:
        raise ValueError(f"no golden vector has the call {call!r}; choose one of {sorted({c.call for c in cases()})}")
    backend = get_backend("numpy", dtype)
    outcomes, missed = [], []
    for case in chosen:
        given = {key: backend.asarray(v) if isinstance(v, list) else v for key, v in case.inputs.items()}
        answer = function(**given)
        outcomes.append(Outcome(case, "yours", relative_error(answer, case.expected), case.tolerance(dtype)))
        if not outcomes[-1].passed:
            missed.append((case.inputs, answer))
    wrong = [o for o in outcomes if not o.passed]
    if wrong:
        lines = [f"  {o.case.id}: relative error {o.error:.1e}, allowed {o.tolerance:.0e}" for o in wrong]
        cause = likely_slip(call, missed, relative_error)
        lines += [f"likely cause: {cause}"] if cause else []
        raise GoldenMismatch(f"{len(wrong)} of {len(outcomes)} golden vectors are missed:\n" + "\n".join(lines))
    return outcomes


def relative_error(answer: Any, expected: Any) -> float:
    """Largest absolute difference over largest absolute expectation; the largest over named answers.

    Infinite where shapes or names differ, or where one of the two is NaN and the other is not.

    >>> relative_error([1.0, 2.5], [1.0, 2.0])
    0.25
    """
    if isinstance(expected, Mapping):
        if not isinstance(answer, Mapping) or not expected.keys() <= answer.keys():
            return float("inf")
        return max(relative_error(answer[key], value) for key, value in expected.items())
    wanted, found = _host(expected), _host(answer)
    # Arrays of different shapes are not equal either.
    if not np.array_equal(np.isnan(wanted), np.isnan(found)):
        return float("inf")
    difference = np.nan_to_num(np.abs(found - wanted), nan=0.0, posinf=np.inf)
    scale = np.nanmax(np.abs(wanted), initial=0.0)
    return float(np.max(difference, initial=0.0) / (scale if scale > 0 else 1.0))


def _host(value: Any) -> np.ndarray:
    if isinstance(value, list | tuple):
        return np.asarray([_host(item) for item in value], dtype=np.float64)
    return np.asarray(np.nan if value is None else to_numpy(value), dtype=np.float64)
