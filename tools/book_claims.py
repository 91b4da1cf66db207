"""What the chapters' sources say about claims, theorems and statements in bold, read without executing anything."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from plain_markdown import FENCE, TARGET

# How a claim of each kind appears in the ledger.
STATUS = {
    "holds": "exact",
    "equal": "exact",
    "close": "to tolerance",
    "within": "statistical",
    "recorded": "recorded",
}
THEOREMS = ("theorem", "lemma", "proposition", "corollary")
BOLD_WORDS = 4
# The fixed phrases with which parts of a chapter begin.
LEAD_INS = {"Sources and further reading", "You will be able to"}

BOLD = re.compile(r"\*\*(?=\S)(?P<text>[^*]+?)(?<=\S)\*\*")
MENTION = re.compile(r"(?<![\w.#-])(?:claim-)?(?P<id>(?:\d{1,2}|[A-Z])\.[a-z]\w*(?:-\w+)*)\b(?![(=.]\w)")
CITED = re.compile(rf"\bclaims? (?:{MENTION.pattern}(?:,\s|\sand\s)?)+".replace("(?P<id>", "(?:"))
HEADING = re.compile(r"^(?P<marks>#{1,6})\s+(?P<title>.*?)\s*$")
DYNAMIC = "\ue000"  # stands for the part of a name that a loop fills in


@dataclass(frozen=True)
class Call:
    """One ``claims.<kind>(…)`` of a chapter. `name` and `statement` may hold `DYNAMIC`; None: not readable."""

    kind: str
    name: str | None
    statement: str | None
    of: tuple[str, ...]
    line: int
    slug: str

    def makes(self, name: str) -> bool:
        """Whether executing this call can make the claim of that name."""
        return self.name is not None and matches(self.name, name)


@dataclass(frozen=True)
class Theorem:
    """A theorem, lemma, proposition or corollary."""

    kind: str
    label: str
    title: str
    line: int


@dataclass
class Bold:
    """A statement in bold, and whether a check or a claim that is named follows it in its section."""

    text: str
    line: int
    checked: bool = False
    named: list[str] = field(default_factory=list)


@dataclass
class Chapter:
    """A page that makes claims; `cited` are the claims that its text names ("claims 14.line-8, 14.clock")."""

    page: str
    key: str
    title: str = ""
    calls: list[Call] = field(default_factory=list)
    theorems: list[Theorem] = field(default_factory=list)
    bold: list[Bold] = field(default_factory=list)
    cited: list[tuple[str, int]] = field(default_factory=list)


def matches(pattern: str, text: str) -> bool:
    """Whether a text equals a pattern in which `DYNAMIC` stands for anything."""
    if DYNAMIC not in pattern:
        return pattern == text
    return re.fullmatch(".*".join(map(re.escape, pattern.split(DYNAMIC))), text, re.S) is not None


def words_of(node: ast.expr | None) -> str | None:
    """A string literal, with `DYNAMIC` for each replaced part of an f-string; None for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else DYNAMIC for part in node.values]
        return "".join(map(str, parts))
    return None


def labels_of(node: ast.expr | None) -> tuple[str, ...]:
    """The labels of ``of=``: a literal or a tuple of literals."""
    nodes = node.elts if isinstance(node, ast.Tuple) else [] if node is None else [node]
    return tuple(words_of(item) or "?" for item in nodes)


def calls_of(code: str, first_line: int, slug: str) -> Iterator[Call]:
    """The ``claims.<kind>(…)`` calls of a cell."""
    if "claims." not in code:
        return
    for node in ast.walk(ast.parse(code)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        owner, kind = node.func.value, node.func.attr
        if isinstance(owner, ast.Name) and owner.id == "claims" and kind in STATUS:
            given = dict(zip(("name", "statement"), node.args, strict=False))
            given |= {word.arg: word.value for word in node.keywords if word.arg}
            yield Call(
                kind,
                words_of(given.get("name")),
                words_of(given.get("statement")),
                labels_of(given.get("of")),
                first_line + node.lineno,
                slug,
            )


def key_of(code: str) -> str | None:
    """The chapter's key: what ``Claims("…")`` is called with."""
    found = re.search(r'^claims = Claims\("([^"]+)"\)', code, re.M)
    return found[1] if found else None


def slug_of(title: str, known: set[str]) -> str:
    """The anchor that MyST gives a heading: the text without mathematics and roles, in lower case, with hyphens."""
    title = re.sub(r"\{[\w:.+-]+\}`[^`]*`|\$[^$]*\$", "", title)
    title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("*", "").replace("`", "")
    slug = re.sub(r"[^\w一-鿿\- ]", "", title.lower().replace(" ", "-"))
    count = 1
    while slug in known:
        slug, count = f"{slug}-{count}", count + 1
    known.add(slug)
    return slug


def closing(lines: list[str], start: int, mark: str) -> int:
    """Index of the line that closes the fence opened at `start`; the last line if nothing does."""
    for index in range(start + 1, len(lines)):
        line = lines[index].strip()
        if line and set(line) == {mark[0]} and len(line) >= len(mark):
            return index
    return len(lines) - 1


def without_options(body: list[str]) -> list[str]:
    """The lines of a cell with its options and magics blanked, so that line numbers stay."""
    out = list(body)
    index = 0
    if body and body[0].strip() == "---":
        index = body.index("---", 1) + 1
    while index < len(body) and re.match(r"^:[\w-]+:", body[index]):
        index += 1
    out[:index] = [""] * index
    return ["" if line.startswith(("%", "!")) else line for line in out]


def theorems_of(lines: list[str]) -> Iterator[Theorem]:
    """All theorems of a page, also those inside other directives."""
    for index, line in enumerate(lines):
        fence = FENCE.match(line.strip())
        if fence and fence["name"] and fence["name"].removeprefix("prf:") in THEOREMS:
            options = lines[index + 1 : closing(lines, index, fence["mark"])]
            label = next((o.split(":", 2)[2].strip() for o in options if o.strip().startswith(":label:")), "")
            yield Theorem(fence["name"].removeprefix("prf:"), label, fence["rest"], index + 1)


class Section:
    """Follows a chapter from heading to heading: which statements in bold still wait for their check."""

    def __init__(self, found: list[Bold], cited: list[tuple[str, int]]) -> None:
        self.found, self.cited = found, cited
        self.waiting: list[Bold] = []

    def heading(self) -> None:
        self.waiting = []

    def check(self) -> None:
        for bold in self.waiting:
            bold.checked = True

    def paragraph(self, text: str, line: int) -> None:
        """Read one paragraph: its statements in bold, and the claims it names."""
        statements = []
        for match in BOLD.finditer(text):
            words = " ".join(match["text"].split())
            if len(words.split()) >= BOLD_WORDS and words.rstrip(".:") not in LEAD_INS:
                statements.append(Bold(words, line + text[: match.start()].count("\n")))
        if statements:
            self.waiting = statements
            self.found += statements
        for bold in self.waiting:
            bold.named += [match["id"] for match in MENTION.finditer(text)]
        for group in CITED.finditer(text):
            self.cited += [(match["id"], line) for match in MENTION.finditer(group[0])]


@lru_cache(maxsize=256)
def read_chapter(page: str, text: str) -> Chapter | None:
    """Read the text of a page; None if it makes no claims."""
    if "Claims(" not in text:
        return None
    lines = text.splitlines()
    chapter = Chapter(page, "")
    section, slug, known, paragraph = Section(chapter.bold, chapter.cited), "", set[str](), list[str]()
    index = lines.index("---", 1) + 1 if lines and lines[0] == "---" else 0
    while index <= len(lines):
        line = lines[index] if index < len(lines) else ""
        fence, heading = FENCE.match(line.strip()), HEADING.match(line)
        item = re.match(r"^\s*(?:[*-]|\d+\.)\s", line)
        if paragraph and (not line.strip() or fence or heading or item):
            section.paragraph("\n".join(paragraph), index + 1 - len(paragraph))
            paragraph = []
        if fence:
            end = closing(lines, index, fence["mark"])
            if fence["name"] == "code-cell":
                code = "\n".join(without_options(lines[index + 1 : end]))
                chapter.key = chapter.key or key_of(code) or ""
                calls = list(calls_of(code, index + 1, slug))
                chapter.calls += calls
                if calls:
                    section.check()
            index = end
        elif heading:
            title = re.sub(r"\s+#+$", "", heading["title"])
            section.heading()
            found = slug_of(title, known)
            if len(heading["marks"]) == 1:
                chapter.title = chapter.title or title
            if len(heading["marks"]) <= 3:
                slug = found
        elif line.strip() and not TARGET.match(line) and not line.startswith("%"):
            paragraph.append(line)
        index += 1
    if not chapter.key:
        return None
    chapter.theorems = list(theorems_of(lines))
    return chapter


def read_book(book: Path) -> list[Chapter]:
    """All pages that make claims: numbered ones in order, then the others."""
    found = [
        read_chapter(path.relative_to(book).with_suffix("").as_posix(), path.read_text(encoding="utf-8"))
        for path in sorted(book.rglob("*.md"))
    ]
    chapters = [chapter for chapter in found if chapter is not None]
    return sorted(chapters, key=lambda c: (not c.key.isdigit(), int(c.key) if c.key.isdigit() else 0, c.key))
