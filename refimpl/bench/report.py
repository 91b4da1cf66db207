"""What a goal is, what measuring it found, and the table that says so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Sense = Literal["<=", ">="]
Verdict = Literal["✓", "✗", "–"]

AGREEMENT = 1e-10
"""Largest relative error in float64 between two routes to the same numbers."""


@dataclass(frozen=True)
class Limit:
    """One number that a goal is held to.

    what : a few words, unique within the goal.
    timed : a ratio of times or of memory, which says nothing at the tiny sizes of a quick run and is not judged there.
    """

    what: str
    value: float
    sense: Sense = "<="
    timed: bool = True

    def holds(self, value: float) -> bool:
        """Whether ``value`` keeps to the limit. NaN does not."""
        return value <= self.value if self.sense == "<=" else value >= self.value


@dataclass(frozen=True)
class Part:
    """What was measured for one limit: the ``value``, the relative ``error`` between the routes compared and what is
    ``allowed``; or the reason why it was ``skipped``."""

    value: float = math.nan
    error: float | None = None
    allowed: float = AGREEMENT
    skipped: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the routes gave the same answer, or nothing was to be compared."""
        return self.error is None or self.error <= self.allowed


def skipped(reason: str) -> Part:
    """A part that could not be measured here."""
    return Part(skipped=reason)


Found = Mapping[str, Part]


@dataclass
class Session:
    """How to measure, what was measured once for several goals, and the lines printed beside the table.

    device : where Torch computes. repeats : rounds of each timing. quick : tiny sizes and one round, to see that
    everything runs and agrees; times are not judged then.
    """

    device: str = "cpu"
    repeats: int = 5
    quick: bool = False
    knobs: Mapping[str, Any] = field(default_factory=dict)
    _known: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    @property
    def rounds(self) -> int:
        """Rounds of a timing: at least five, one in a quick run."""
        return 1 if self.quick else max(5, self.repeats)

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """The result of ``compute``, made when it is first asked for."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def note(self, text: str) -> None:
        """A line for the details."""
        self.lines.append(text)


@dataclass(frozen=True)
class Goal:
    """One goal: ``id`` and ``section`` name it, ``limits`` are the numbers, ``run`` measures one part per limit."""

    id: str
    section: str
    statement: str
    limits: tuple[Limit, ...]
    run: Callable[[Session], Found]

    @property
    def limit(self) -> float:
        """The number of the first limit."""
        return self.limits[0].value

    @property
    def sense(self) -> Sense:
        """The direction of the first limit."""
        return self.limits[0].sense


@dataclass(frozen=True)
class Outcome:
    """A goal with what was found. ``broke`` is the message of an exception, which counts as a failure."""

    goal: Goal
    found: Found
    lines: tuple[str, ...] = ()
    broke: str = ""
    quick: bool = False

    def verdict_of(self, limit: Limit) -> Verdict:
        """Kept, broken, or not measured."""
        part = self.found.get(limit.what)
        if part is None or part.skipped:
            return "–"
        if not part.agrees:
            return "✗"
        return "✓" if (self.quick and limit.timed) or limit.holds(part.value) else "✗"

    @property
    def verdict(self) -> Verdict:
        """The worst of its parts; a part that could not be measured counts only where none could."""
        if self.broke:
            return "✗"
        verdicts = [self.verdict_of(limit) for limit in self.goal.limits]
        return "✗" if "✗" in verdicts else "✓" if "✓" in verdicts else "–"


def measure(goal: Goal, session: Session) -> Outcome:
    """Run one goal. An exception is kept as a failure, so that the others still run."""
    session.lines = []
    try:
        found, broke = dict(goal.run(session)), ""
        unknown = set(found) - {limit.what for limit in goal.limits}
        if unknown:
            raise ValueError(f"{goal.id} measured what it has no limit for: {sorted(unknown)}")
    except Exception as error:
        found, broke = {}, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return Outcome(goal, found, tuple(session.lines), broke, session.quick)


def table(outcomes: Sequence[Outcome]) -> str:
    """One row per goal and limit, reasons where something was skipped, then the details."""
    rows = [("goal", "", "what", "measured", "limit", "agreement")]
    for outcome in outcomes:
        rows.append((outcome.goal.id, outcome.verdict, outcome.goal.statement, outcome.broke, "", ""))
        for limit in outcome.goal.limits:
            part = outcome.found.get(limit.what, skipped("not measured"))
            bound = f"{limit.sense} {limit.value:g}"
            error = "" if part.error is None else f"{part.error:.1e}"
            value = f"skipped: {part.skipped}" if part.skipped else f"{part.value:.3g}"
            mark: str = "·" if outcome.quick and limit.timed and not part.skipped else outcome.verdict_of(limit)
            mark = "✗" if outcome.verdict_of(limit) == "✗" else mark
            rows.append(("", mark, f"  {limit.what}", value, bound, error))
    lines = []
    for goal, mark, what, value, bound, error in rows:
        if goal and goal != "goal":
            lines.append(f"{goal:5}{mark:3}{what}" + (f"\n        broke: {value}" if value else ""))
        else:
            lines.append(f"{goal:5}{mark:3}{what:58}{value:>12} {bound:>10} {error:>10}".rstrip())
    counted = {mark: sum(outcome.verdict == mark for outcome in outcomes) for mark in ("✓", "✗", "–")}
    lines.append("\n" + ", ".join(f"{number} {mark}" for mark, number in counted.items() if number))
    if any(outcome.quick for outcome in outcomes):
        lines.append("quick run: ratios of times (·) are not judged")
    for outcome in outcomes:
        if outcome.lines:
            lines += [f"\n{outcome.goal.id}", *(f"  {line}" for line in outcome.lines)]
    return "\n".join(lines)


def as_json(outcomes: Sequence[Outcome], **extra: Any) -> str:
    """The same as JSON. NaN and infinity become null."""
    goals = [
        {
            "goal": outcome.goal.id,
            "statement": outcome.goal.statement,
            "verdict": {"✓": "met", "✗": "missed", "–": "skipped"}[outcome.verdict],
            "broke": outcome.broke or None,
            "parts": [
                {
                    "what": limit.what,
                    "limit": limit.value,
                    "sense": limit.sense,
                    "verdict": {"✓": "met", "✗": "missed", "–": "skipped"}[outcome.verdict_of(limit)],
                    **_part(outcome.found.get(limit.what, skipped("not measured"))),
                }
                for limit in outcome.goal.limits
            ],
            "details": list(outcome.lines),
        }
        for outcome in outcomes
    ]
    return json.dumps({**extra, "goals": goals}, ensure_ascii=False, indent=1, allow_nan=False)


def _part(part: Part) -> dict[str, Any]:
    return {
        "value": _number(part.value),
        "error": _number(part.error),
        "allowed": part.allowed,
        "skipped": part.skipped or None,
    }


def _number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
