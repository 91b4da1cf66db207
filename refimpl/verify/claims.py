"""Claims that execute: each has an id, a check, a tolerance and a status, and fails the page if it is wrong.

A chapter makes one :class:`Claims`, states each claim beside the computation that supports it, and ends with
``claims.table()``. Where the environment variable ``REFIMPL_CLAIMS_DIR`` names a folder, the claims are also written
there as JSON as they are made; the ledger of all claims is put together from these files.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

ClaimStatus = Literal["exact", "to tolerance", "statistical", "recorded"]
Labels = str | tuple[str, ...]


class ClaimFailed(AssertionError):
    """A claim did not hold when it was executed."""


@dataclass(frozen=True)
class Claim:
    """One claim with the check that was executed for it.

    `tolerance` says for programs what `check` says in words: ``{"rtol": 1e-12}``,
    ``{"low": 0, "high": 1, "runs": 50}``, or None where nothing may differ. `of` names the theorems, by their labels,
    that the check supports.
    """

    id: str
    statement: str
    check: str
    status: ClaimStatus
    source: str = ""
    tolerance: dict[str, float] | None = None
    of: tuple[str, ...] = ()


class Claims:
    """The claims of one chapter.

    Every kind of claim takes ``source``, the place in the literature that says so, and ``of``, the label (or a tuple of
    labels) of the theorem, lemma, proposition or corollary that the check supports.

    >>> claims = Claims("0")
    >>> claims.close("horse", "the step ends at (0, 3)", [0.0, 3.0], [0.0, 3.0], atol=1e-12)
    >>> claims.holds("descent", "the loss falls", -9 < 0)
    >>> [claim.id for claim in claims.made]
    ['0.horse', '0.descent']
    """

    def __init__(self, chapter: str) -> None:
        self.chapter = chapter
        self.made: list[Claim] = []

    def holds(self, name: str, statement: str, condition: Any, *, source: str = "", of: Labels = ()) -> None:
        """A yes-or-no claim: ``condition`` must be true."""
        if not bool(condition):
            raise ClaimFailed(f"claim {self.chapter}.{name} is false: {statement}")
        self._add(name, statement, "a condition that must be true", "exact", source, of)

    def equal(self, name: str, statement: str, value: Any, expected: Any, *, source: str = "", of: Labels = ()) -> None:
        """A claim about whole numbers or strings: ``value`` must equal ``expected``."""
        if value != expected:
            raise ClaimFailed(f"claim {self.chapter}.{name}: {statement}; got {value!r}, expected {expected!r}")
        self._add(name, statement, f"equals {expected!r}", "exact", source, of)

    def close(
        self,
        name: str,
        statement: str,
        value: Any,
        expected: Any,
        *,
        rtol: float = 0.0,
        atol: float = 0.0,
        source: str = "",
        of: Labels = (),
    ) -> None:
        """A claim about numbers: ``|value - expected| <= atol + rtol |expected|``, entry by entry."""
        if rtol <= 0 and atol <= 0:
            raise ValueError("give rtol or atol; for equality use `equal`")
        difference = np.abs(np.asarray(value, dtype=float) - np.asarray(expected, dtype=float))
        allowed = atol + rtol * np.abs(np.asarray(expected, dtype=float))
        if not np.all(difference <= allowed):
            worst = float(np.max(difference))
            raise ClaimFailed(
                f"claim {self.chapter}.{name}: {statement}; got {value!r}, expected {expected!r}, off by {worst:.3g}"
            )
        tolerance = {k: float(v) for k, v in (("rtol", rtol), ("atol", atol)) if v}
        bound = " and ".join(f"{k} {v:.1g}" for k, v in tolerance.items())
        self._add(name, statement, f"within {bound}", "to tolerance", source, of, tolerance)

    def within(
        self,
        name: str,
        statement: str,
        value: float,
        low: float,
        high: float,
        *,
        runs: int,
        source: str = "",
        of: Labels = (),
    ) -> None:
        """A statistical claim: over ``runs`` seeded runs the statistic lies in [low, high]."""
        if not (math.isfinite(value) and low <= value <= high):
            raise ClaimFailed(f"claim {self.chapter}.{name}: {statement}; got {value:.6g}, not in [{low:g}, {high:g}]")
        tolerance = {"low": float(low), "high": float(high), "runs": int(runs)}
        self._add(name, statement, f"in [{low:.3g}, {high:.3g}] over {runs} runs", "statistical", source, of, tolerance)

    def recorded(self, name: str, statement: str, condition: Any, *, record: str, of: Labels = ()) -> None:
        """A claim read off a recorded run: ``condition`` is evaluated on the record, not on a live run."""
        if not bool(condition):
            raise ClaimFailed(f"claim {self.chapter}.{name} does not hold in {record}: {statement}")
        self._add(name, statement, f"read from the record {record}", "recorded", record, of)

    def table(self) -> Any:
        """The claims made so far, as a table that renders in a notebook."""
        from IPython.display import Markdown

        lines = ["| claim | statement | check | status |", "| --- | --- | --- | --- |"]
        lines += [f"| {c.id} | {_cell(c.statement)} | {_cell(c.check)} | {c.status} |" for c in self.made]
        return Markdown("\n".join(lines))

    def _add(
        self,
        name: str,
        statement: str,
        check: str,
        status: ClaimStatus,
        source: str,
        of: Labels,
        tolerance: dict[str, float] | None = None,
    ) -> None:
        labels = (of,) if isinstance(of, str) else tuple(of)
        if not all(isinstance(label, str) and label for label in labels):
            raise ValueError(f"of={of!r} must be the label of a theorem or a tuple of labels")
        identity = f"{self.chapter}.{name}"
        if any(claim.id == identity for claim in self.made):
            raise ValueError(f"claim {identity} was made already; give each claim its own name")
        self.made.append(Claim(identity, statement, check, status, source, tolerance, labels))
        self._write()  # at once: solutions of exercises make claims after the table is shown

    def _write(self) -> None:
        folder = os.environ.get("REFIMPL_CLAIMS_DIR")
        if not folder:
            return
        target = Path(folder) / f"chapter-{self.chapter}.json"
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.with_suffix(f".{os.getpid()}.tmp")
        scratch.write_text(json.dumps([asdict(c) for c in self.made], indent=1, ensure_ascii=False), encoding="utf-8")
        scratch.replace(target)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
