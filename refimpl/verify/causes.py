"""What a wrong derivative looks like: a sign, a factor, a mean that is a sum. And what a wrong step looks like."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refimpl.verify import dense_curveball, dense_elmo, dense_kryball


def likely_cause(found: list[Any], wanted: list[Any], samples: int | None = None) -> str:
    """A guess in words, from answers ``found`` and the answers ``wanted`` in the same directions.

    >>> likely_cause([2.0, -4.0], [1.0, -2.0])
    'every direction is 2 times too large: a missing 1/2, or the loss is a square without one'
    >>> likely_cause([1.0, -4.0], [1.0, -2.0])
    'no common factor: a term is missing or wrong'
    """
    a = np.concatenate([np.ravel(np.asarray(value, dtype=float)) for value in found])
    b = np.concatenate([np.ravel(np.asarray(value, dtype=float)) for value in wanted])
    if not np.isfinite(a).all():
        return "it holds NaN or infinity"
    if not np.isfinite(b).all():
        return "the function it is compared with is not finite near this place"
    if not np.any(a):
        return "it is zero in every direction"
    ratio = float(a @ b / max(float(b @ b), 1e-300))
    if np.linalg.norm(a - ratio * b) > 1e-3 * np.linalg.norm(a):
        return _worst_entries(found, wanted)
    for value, words in _FACTORS:
        if abs(ratio - value) < 2e-3 * abs(value):
            return words
    if samples and samples > 1:
        for value, words in (
            (samples, f"{samples} times too large: 1/n is missing (a sum over the {samples} samples, not the mean)"),
            (1 / samples, f"{samples} times too small: 1/n stands in it twice"),
        ):
            if abs(ratio - value) < 2e-3 * value:
                return f"every direction is {words}"
    hint = "; 1/n of a mean over n samples may be missing" if ratio > 2 and abs(ratio - round(ratio)) < 1e-2 else ""
    return f"every direction is off by the same factor {ratio:.4g}{hint}"


_FACTORS = (
    (-1.0, "the sign is wrong"),
    (2.0, "every direction is 2 times too large: a missing 1/2, or the loss is a square without one"),
    (0.5, "every direction is 2 times too small: a factor 2 is missing"),
    (-2.0, "the sign is wrong, and a factor 2 besides"),
    (-0.5, "the sign is wrong, and a factor 1/2 besides"),
)


def _worst_entries(found: list[Any], wanted: list[Any]) -> str:
    if np.ndim(found[0]) == 0:
        return "no common factor: a term is missing or wrong"
    errors = np.max([np.abs(np.asarray(f) - np.asarray(w)) for f, w in zip(found, wanted, strict=True)], axis=0)
    wrong = np.flatnonzero(errors > 1e-3 * errors.max())
    if wrong.size <= max(1, errors.size // 2):
        listed = ", ".join(map(str, wrong[:5])) + (", …" if wrong.size > 5 else "")
        return f"no common factor: only the entries {listed} are wrong"
    return "no common factor: a term is missing or wrong"


def likely_slip(call: str, missed: Sequence[tuple[Mapping[str, Any], Any]], error: Callable[[Any, Any], float]) -> str:
    """A guess in words, from the golden vectors of ``call`` that were missed; empty where there is none.

    A slip is named if the wrong answers are what it gives: all of them, so that few slips are left.

    Parameters
    ----------
    call : what was computed. Something is known about ``"curveball_step"``, ``"curveball_damping"``,
        ``"trust_region_step"``, ``"projected_step"``, ``"kryball_step"``, ``"elmo_step"``, ``"cubic_bounds"``,
        ``"elmo_direction"``, ``"cubic_step"``, ``"sophia_step"`` and ``"amos_lipschitz"``; an answer may also be the
        step alone.
    missed : pairs of the inputs of a vector and the wrong answer.
    error : (answer, expected) -> relative error.
    """
    function, slips = _SLIPS.get(call, (None, {}))
    return "; or ".join(
        words for slip, words in slips.items() if all(_gives(function, slip, *m, error) for m in missed)
    )


_SLIPS: dict[str, tuple[Any, dict[str, str]]] = {
    "curveball_step": (dense_curveball.step, dense_curveball.SLIPS),
    "curveball_damping": (dense_curveball.damping_rule, dense_curveball.DAMPING_SLIPS),
    "trust_region_step": (dense_kryball.trust_region_step, dense_kryball.REGION_SLIPS),
    "projected_step": (dense_kryball.projected_step, dense_kryball.PROJECTED_SLIPS),
    "kryball_step": (dense_kryball.step, dense_kryball.STEP_SLIPS),
    "elmo_step": (dense_elmo.elmo_step, dense_elmo.ALONG_SLIPS),
    "cubic_bounds": (dense_elmo.cubic_bounds, dense_elmo.BOUNDS_SLIPS),
    "elmo_direction": (dense_elmo.elmo_direction, dense_elmo.DIRECTION_SLIPS),
    "cubic_step": (dense_elmo.cubic_step, dense_elmo.CUBIC_SLIPS),
    "sophia_step": (dense_elmo.sophia_step, dense_elmo.SOPHIA_SLIPS),
    "amos_lipschitz": (dense_elmo.amos_lipschitz, dense_elmo.AMOS_SLIPS),
}


def _gives(
    function: Callable[..., Any], slip: str, inputs: Mapping[str, Any], answer: Any, error: Callable[[Any, Any], float]
) -> bool:
    # A division by zero here (z = 0 with a given beta, say) explains nothing.
    with np.errstate(all="ignore"):
        right, wrong = function(**inputs), function(**inputs, slip=slip)
    if isinstance(answer, Mapping):
        right, wrong = ({key: of[key] for key in answer if key in of} for of in (right, wrong))
    elif isinstance(right, Mapping):
        right, wrong = right["step"], wrong["step"]
    return error(wrong, right) > 1e-3 and error(answer, wrong) < 1e-4
