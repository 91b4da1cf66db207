"""The errata page: each entry has its parts, is short and is checked. Oracle: the text of page and chapters."""

from __future__ import annotations

import ast
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
ERRATA = (BOOK / "errata.md").read_text(encoding="utf-8")
CHAPTERS = sorted(path for path in BOOK.rglob("*.md") if path.name != "errata.md")
MOST_LINES = 10
WIDTH = 92

# Entries whose one claim holds what is printed and what is correct side by side, so that both are checked in it.
BOTH_IN_ONE = {
    "e8",
    "e10",
    "e4",
    "e22",
    "e16",
    "e24",
    "t-memory",
    "t-saddle",
    "t-strict",
    "t-condition",
    "t-nesterov",
    "t-hessenberg",
    "t-projection",
    "t-refresh",
    "t-five",
    "t-linear",
    "t-vanishing",
    "t-nadam",
    "t-amsgrad",
    "t-eigendecomposition",
    "t-curveball-d",
    "t-peak",
    "t-resnet",
    "c-decay",
    "c-undamped",
    "c-gamma",
    "e6",
    "e-amos-previous",
    "e-amos-distance",
    "e-amos-stop",
}

sys.path.insert(0, str(ROOT / "tools"))
try:
    import book_claims
finally:
    sys.path.remove(str(ROOT / "tools"))


@dataclass
class Entry:
    """One finding: its words without code, and its cells."""

    label: str
    text: str = ""
    cells: list[str] = field(default_factory=list)

    def calls(self) -> list[book_claims.Call]:
        return [call for cell in self.cells for call in book_claims.calls_of(cell, 0, "")]

    def correct(self) -> str:
        return self.text.split("**Correct.**")[1] if "**Correct.**" in self.text else ""


def entries_of(page: str) -> list[Entry]:
    """The entries of a page: from a label like e7, t-coin, c-rate or e-arc-p to the next label or heading."""
    found: list[Entry] = []
    lines, index, inside = page.splitlines(), 0, False
    while index < len(lines):
        label = re.fullmatch(r"\((e\d+|[tce]-[\w-]+)\)=", lines[index])
        fence = book_claims.FENCE.match(lines[index].strip())
        if label:
            found.append(Entry(label[1]))
            inside = True
        elif re.match(r"\(errata-|## |### [A-Z]", lines[index]) and not re.match(r"\((?!errata-)", lines[index - 1]):
            inside = False
        elif fence and fence["name"] == "code-cell":
            end = book_claims.closing(lines, index, fence["mark"])
            if inside:
                found[-1].cells.append("\n".join(book_claims.without_options(lines[index + 1 : end])))
            index = end
        elif inside:
            found[-1].text += lines[index] + "\n"
        index += 1
    return found


def code_lines(cell: str) -> int:
    """Lines of a cell that are neither blank nor part of a statement that makes a claim."""
    claim_lines: set[int] = set()
    for node in ast.walk(ast.parse(cell)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("claims."):
            claim_lines |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return sum(bool(line.strip()) and n not in claim_lines for n, line in enumerate(cell.splitlines(), 1))


ENTRIES = entries_of(ERRATA)
each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.label)


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


def test_all_entries_are_found_once() -> None:
    labels = [entry.label for entry in ENTRIES]
    assert len(labels) == len(set(labels)) == len(re.findall(r"\n\((?:e\d+|[tce]-[\w-]+)\)=\n#", ERRATA)) > 80


@each
def test_entry_says_what_is_printed_what_contradicts_it_and_what_is_correct(entry: Entry) -> None:
    for part in ("**Printed**", "**Correct.**"):
        assert entry.text.replace("**Printed.**", "**Printed**").count(part) == 1, f"{part} in {entry.label}"
    shown = entry.text.count("**Counterexample.**") + entry.text.count("**Check.**")
    assert shown == 1, f"{entry.label} has neither a counterexample nor a reason why there is none"
    reason = re.search(r"\*\*Check\.\*\* (.*)", entry.text)
    assert reason is None or len(reason[1].split()) >= 4, f"{entry.label} does not say why there is no counterexample"


@each
def test_entry_executes_a_check(entry: Entry) -> None:
    assert entry.calls()


@each
def test_counterexample_has_at_most_ten_lines(entry: Entry) -> None:
    assert sum(map(code_lines, entry.cells)) <= MOST_LINES
    assert [line for cell in entry.cells for line in cell.splitlines() if len(line) > WIDTH] == []


@each
def test_correct_statement_is_checked(entry: Entry) -> None:
    """By a second claim of the entry, by a claim or theorem that it names, or beside the printed one in one claim."""
    named = book_claims.MENTION.search(entry.correct()) or "{prf:ref}" in entry.correct()
    assert len(entry.calls()) >= 2 or named or entry.label in BOTH_IN_ONE


def test_list_of_claims_that_hold_both_is_no_longer_than_needed() -> None:
    single = {entry.label for entry in ENTRIES if len(entry.calls()) == 1}
    assert single >= BOTH_IN_ONE


def test_overview_counts_every_entry_once_and_no_other() -> None:
    (kinds,) = re.findall(r"^KINDS = (\{.*?^\})", ERRATA, re.S | re.M)
    listed = " ".join(ast.literal_eval(kinds).values()).split()
    assert sorted(listed) == sorted(entry.label for entry in ENTRIES)


def test_lines_of_code_are_counted_without_claims_and_blanks() -> None:
    cell = 'x = 1\n\nclaims.equal("a", "b",\n             x, 1)\nfor k in range(2):\n    claims.holds(k, "c", True)\n'
    assert code_lines(cell) == 2
    (entry,) = entries_of(
        f"(t-x)=\n### X\n\n**Printed** it.\n\n```{{code-cell}} ipython3\n{cell}```\n\n## Next\n\ntext"
    )
    assert (entry.label, entry.text.strip(), len(entry.cells)) == ("t-x", "### X\n\n**Printed** it.", 1)
