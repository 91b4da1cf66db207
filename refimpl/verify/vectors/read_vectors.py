"""Reads the golden vectors with nothing but Python's standard library: ``python read_vectors.py [FOLDER]``.

Checks every file against the manifest, then computes ``series_coefficients`` and compares. An example to copy from:
put your own functions into `CALLS`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any


def series_coefficients(terms: int, damping: float) -> list[float]:
    """The coefficients of 1/(sqrt(1 - z) + d), as exact fractions until the end.

    >>> series_coefficients(3, 0.0)
    [1.0, 0.5, 0.375]
    """
    # sqrt(1 - z) is the sum of r_k z^k with r_k / r_(k-1) = (2k - 3) / (2k).
    below = [Fraction(1)]
    for k in range(1, terms):
        below.append(below[-1] * Fraction(2 * k - 3, 2 * k))
    below[0] += Fraction(damping)
    found: list[Fraction] = []
    for k in range(terms):
        rest = sum((below[j] * found[k - j] for j in range(1, k + 1)), Fraction(0))
        found.append(((1 if k == 0 else 0) - rest) / below[0])
    return [float(c) for c in found]


CALLS: dict[str, Callable[..., Any]] = {"series_coefficients": series_coefficients}


def relative_error(found: Any, expected: Any) -> float:
    """Largest absolute difference over the largest expected magnitude; the largest over named answers.

    >>> relative_error([1.0, 2.5], [1.0, 2.0])
    0.25
    """
    if isinstance(expected, dict):
        return max(relative_error(found[name], value) for name, value in expected.items())
    a, b = flat(found), flat(expected)
    if len(a) != len(b) or any((x != x) != (y != y) for x, y in zip(a, b, strict=True)):
        return float("inf")
    numbers = [(x, y) for x, y in zip(a, b, strict=True) if y == y]
    scale = max((abs(y) for _, y in numbers), default=0.0) or 1.0
    return max((abs(x - y) for x, y in numbers), default=0.0) / scale


def flat(value: Any) -> list[float]:
    """All numbers of nested lists; ``None`` is NaN."""
    if isinstance(value, list):
        return [entry for item in value for entry in flat(item)]
    return [float("nan") if value is None else float(value)]


def cases(folder: Path) -> list[dict[str, Any]]:
    """Every case of the files that the manifest lists.

    Raises
    ------
    ValueError
        A file is not the one that the manifest describes.
    """
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = []
    for entry in manifest["files"]:
        data = (folder / entry["name"]).read_bytes()
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['name']} has another SHA-256 than the manifest says")
        found += [{**case, "file": entry["name"]} for case in json.loads(data)["cases"]]
    return found


def main(arguments: list[str]) -> int:
    """Compare and print; the exit status is 1 where an answer is missed."""
    folder = Path(arguments[0]) if arguments else Path(__file__).resolve().parent
    try:
        everything = cases(folder)
    except (OSError, ValueError) as reason:
        print(reason)
        return 1
    missed = 0
    chosen = [case for case in everything if case["call"] in CALLS]
    for case in chosen:
        error = relative_error(CALLS[case["call"]](**case["inputs"]), case["expected"])
        right = error <= case["rtol"]
        missed += not right
        print(f"{'right' if right else 'wrong'}  {case['id']:32} error {error:.1e}, allowed {case['rtol']:.0e}")
    print(f"{len(everything)} cases read, {len(chosen)} computed, {missed} wrong")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
