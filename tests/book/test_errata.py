"""The errata page against the chapters. Oracle: the chapters' own text, which the page does not generate."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[2] / "book"
ERRATA = (BOOK / "errata.md").read_text(encoding="utf-8")
CHAPTERS = sorted(path for path in BOOK.rglob("*.md") if path.name != "errata.md")


def mentioned(text: str) -> set[int]:
    """Numbers of the errata that a text names: E7, and both ends and the middle of E9–E11."""
    found = {int(number) for number in re.findall(r"\bE(\d{1,2})\b", text)}
    for first, last in re.findall(r"\bE(\d{1,2})[–-]E?(\d{1,2})\b", text):
        found |= set(range(int(first), int(last) + 1))
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_every_erratum_that_a_page_names_has_an_entry(path: Path) -> None:
    missing = {n for n in mentioned(path.read_text(encoding="utf-8")) if f"\n(e{n})=\n" not in ERRATA}
    assert not missing, f"{path.name} names errata without an entry: {sorted(missing)}"


def test_ranges_are_read_whole() -> None:
    assert mentioned("(E9–E11, and E3)") == {3, 9, 10, 11}


def test_every_entry_executes_a_check() -> None:
    entries = re.split(r"\n\([etc][\w-]*\)=\n", ERRATA.split("(errata-right)=")[0])[1:]
    silent = [entry.splitlines()[0] for entry in entries if "claims." not in entry and entry.startswith("###")]
    assert not silent
    assert sum(entry.startswith("###") for entry in entries) > 30


def test_every_entry_says_what_is_printed() -> None:
    entries = re.split(r"\n\((?:e\d+|[tc]-\w+)\)=\n", ERRATA.split("(errata-right)=")[0])[1:]
    assert [entry.splitlines()[0] for entry in entries if "**Printed" not in entry] == []
