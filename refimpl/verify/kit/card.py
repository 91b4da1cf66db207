"""The report card: what was checked, what failed, and what it looks like."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refimpl.verify.kit.walks import Check


class NotConforming(AssertionError):
    """An adapter is not the method it should be. ``card`` holds every check; the message is its text."""

    def __init__(self, card: Card) -> None:
        super().__init__(card.text())
        self.card = card


@dataclass(frozen=True)
class Card:
    """The result of :func:`refimpl.verify.kit.check_method`. Prints as a table.

    Parameters
    ----------
    method, adapter : names.
    settings : what was handed to ``init``.
    levels : the levels that were run.
    rows : one :class:`~refimpl.verify.kit.walks.Check` each.
    cause : the likely cause in words; empty where nothing failed, or nothing known explains it.
    source : paper and equation of the method.
    left_out : settings that the optimizer does not take by name: its own values are used.
    """

    method: str
    adapter: str
    settings: Mapping[str, Any]
    levels: tuple[str, ...]
    rows: tuple[Check, ...]
    cause: str = ""
    source: str = ""
    left_out: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(row.passed for row in self.rows)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The rows that did not pass."""
        return tuple(row for row in self.rows if not row.passed)

    def level(self, name: str) -> tuple[Check, ...]:
        """The rows of one level."""
        return tuple(row for row in self.rows if row.level == name)

    def __str__(self) -> str:
        return self.text()

    def text(self, *, all_rows: bool = False) -> str:
        """A table for a terminal: one line per level, the cause, and the first failed checks (or every check)."""
        lines = [f"{self.adapter} as {self.method} ({_words(self.settings)})"]
        for name, right, total, worst in self._summary():
            verdict = "ok" if right == total else "FAIL"
            lines.append(f"  {name:<12s} {right:>3d} of {total:<3d} largest error {worst:>7s}  {verdict}")
        lines += [f"  likely cause: {self.cause}"] if self.cause else []
        lines += [f"  {self._not_taken()}"] if self._not_taken() else []
        for row in self.rows if all_rows else _first(self.failed):
            verdict = "ok  " if row.passed else "FAIL"
            note = f"; {row.note}" if row.note else ""
            error = f"{_number(row.error)}, allowed {row.tolerance:.0e}"
            lines.append(f"  {verdict} {row.level}: {row.name}: {error}{note}")
        lines += [] if all_rows else _more(self.failed, "  ")
        return "\n".join(lines)

    def markdown(self) -> str:
        """A table to paste into a pull request."""
        verdict = "conforms" if self.passed else "does **not** conform"
        lines = [f"`{self.adapter}` {verdict} to **{self.method}** ({_words(self.settings)})", ""]
        lines += ["| level | passed | largest error | verdict |", "| --- | --- | --- | --- |"]
        for name, right, total, worst in self._summary():
            lines.append(f"| {name} | {right} of {total} | {worst} | {'✓' if right == total else '✗'} |")
        if self.cause:
            lines += ["", f"Likely cause: {_escaped(self.cause)}."]
        if self._not_taken():
            lines += ["", _escaped(self._not_taken())]
        if self.failed:
            lines += ["", "| failed check | error | allowed | note |", "| --- | --- | --- | --- |"]
            for row in _first(self.failed):
                lines.append(f"| {row.level}: {row.name} | {_number(row.error)} | {row.tolerance:.0e} "
                             f"| {_escaped(row.note)} |")  # fmt: skip
            lines += ["", *_more(self.failed, "")] if len(self.failed) > _SHOWN else []
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists, numbers and text; what is not finite is null."""
        rows = [{**row._asdict(), "error": row.error if math.isfinite(row.error) else None} for row in self.rows]
        return {
            "method": self.method, "adapter": self.adapter,
            "settings": {key: _plain(value) for key, value in self.settings.items()}, "left_out": list(self.left_out),
            "levels": list(self.levels), "passed": self.passed, "cause": self.cause, "source": self.source,
            "rows": rows,
        }  # fmt: skip

    def json(self) -> str:
        """:meth:`as_json` as text."""
        return json.dumps(self.as_json(), indent=1, allow_nan=False)

    def _not_taken(self) -> str:
        if self.passed or not self.left_out:
            return ""
        return f"not taken by name, so its own values were used: {', '.join(self.left_out)}"

    def _summary(self) -> list[tuple[str, int, int, str]]:
        found = []
        for name in self.levels:
            rows = self.level(name)
            worst = max((row.error for row in rows), default=0.0)
            found.append((name, sum(row.passed for row in rows), len(rows), _number(worst)))
        return found


_SHOWN = 8


def _first(failed: Sequence[Check]) -> list[Check]:
    """Of many failed rows, the first of each level and then what there is room for, in order."""
    firsts = {row.level: row for row in reversed(failed)}.values()
    others = [row for row in failed if row not in firsts]
    chosen = [*firsts, *others[: max(0, _SHOWN - len(firsts))]]
    return [row for row in failed if row in chosen]


def _more(failed: Sequence[Check], indent: str) -> list[str]:
    rest = len(failed) - len(_first(failed))
    return [f"{indent}… and {rest} more failed checks"] if rest else []


def _escaped(text: str) -> str:
    """Text that Markdown prints as it is, in a table as well."""
    return "".join(f"\\{c}" if c in "\\`*_<>|[]$~" else c for c in text)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, (str, int, type(None))) else repr(value)


def _number(error: float) -> str:
    return f"{error:.0e}" if math.isfinite(error) else "inf"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "no settings"
