"""The ledger of all claims, and what must hold between chapters, theorems, statements in bold and executed claims.

Chapters write their claims to ``_build/claims/chapter-<key>.json`` while they execute (:mod:`refimpl.verify.claims`).
`write_ledger` puts them together into one Markdown file, which ``book/claims.md`` includes; `problems` compares them
with the sources. ``python tools/ledger.py`` prints the problems of the book as it was built last.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from book_claims import STATUS, Call, Chapter, matches, read_book

ROOT = Path(__file__).resolve().parent.parent
LONGEST_CHECK = 60
WIDTHS = (18, 46, 20, 16)  # of the table's columns, in percent
AGAIN = "remove _build/cache and _build/claims, then build again"

# Statements in bold that need no check of their own, each with the reason.
ALLOWED = {
    ("index", "nothing is merely said."): "the rule of this book, which this program enforces",
    ("full-scale/which-one", "The problems are not a sample."): "a caveat on how problems were chosen: nothing to run",
    ("full-scale/which-one", "Budgets are short, and tuned for one length."): "a caveat on how rates were chosen",
    ("full-scale/which-one", "What could not be compared:"): "the lead-in of a table that its cell makes",
}

Made = dict[str, list[dict[str, Any]]]


def read_made(claims_dir: Path) -> Made:
    """The executed claims of each chapter, by the chapter's key."""
    paths = sorted(claims_dir.glob("chapter-*.json"))
    return {p.stem.removeprefix("chapter-"): json.loads(p.read_text(encoding="utf-8")) for p in paths}


# ---- what must hold ---------------------------------------------------------------------------------------


def problems(book: Path, claims_dir: Path | None = None) -> list[str]:
    """What is wrong with the book's claims; the executed ones are looked at where `claims_dir` is given."""
    chapters = read_book(book)
    calls = [(chapter.key, call) for chapter in chapters for call in chapter.calls]
    labels = {theorem.label for chapter in chapters for theorem in chapter.theorems}
    found = [*of_keys(chapters)]
    for chapter in chapters:
        found += [*of_theorems(chapter), *of_calls(chapter, labels), *of_statements(chapter, calls)]
    if claims_dir is not None:
        found += of_execution(chapters, read_made(claims_dir))
    return found


def of_keys(chapters: list[Chapter]) -> Iterator[str]:
    """Two pages with one key would make claims of the same name."""
    for key, count in Counter(chapter.key for chapter in chapters).items():
        if count > 1:
            pages = ", ".join(chapter.page for chapter in chapters if chapter.key == key)
            yield f'Claims("{key}") is made by {count} pages: {pages}'


def of_theorems(chapter: Chapter) -> Iterator[str]:
    """Each theorem is named by a claim of its chapter."""
    named = {label for call in chapter.calls for label in call.of}
    for theorem in chapter.theorems:
        place = f"{chapter.page}.md:{theorem.line}"
        if not theorem.label:
            yield f"{place}: this {theorem.kind} has no label"
        elif theorem.label not in named:
            yield f'{place}: no claim of the chapter supports {theorem.label}; give its check of="{theorem.label}"'


def of_calls(chapter: Chapter, labels: set[str]) -> Iterator[str]:
    """Each claim has a readable name of its own, and supports theorems that exist."""
    seen: dict[str, int] = {}
    for call in chapter.calls:
        place = f"{chapter.page}.md:{call.line}"
        if call.name is None:
            yield f"{place}: the name of a claim must be a string or an f-string"
            continue
        if call.name in seen:
            yield f"{place}: claim {chapter.key}.{call.name} is made in line {seen[call.name]} already"
        seen.setdefault(call.name, call.line)
        for label in call.of:
            if label not in labels:
                yield f"{place}: of={label!r} is not the label of a theorem, lemma, proposition or corollary"


def of_statements(chapter: Chapter, calls: list[tuple[str, Call]]) -> Iterator[str]:
    """Each statement in bold is followed by a check or names a claim; claims that the text names exist."""

    def exists(identity: str) -> bool:
        key, name = identity.split(".", 1)
        return any(key == k and call.makes(name) for k, call in calls)

    for bold in chapter.bold:
        if not bold.checked and not any(map(exists, bold.named)) and (chapter.page, bold.text) not in ALLOWED:
            yield (
                f"{chapter.page}.md:{bold.line}: no check follows the statement **{bold.text}**; "
                "add a claims call below it or name a claim, like (claim 3.horse-sfn)"
            )
    for identity, line in chapter.cited:
        if not exists(identity):
            yield f"{chapter.page}.md:{line}: the text names the claim {identity}, which no chapter makes"


def of_execution(chapters: list[Chapter], made: Made) -> Iterator[str]:
    """The executed claims are those of the sources, no more and no fewer."""
    for key in made.keys() - {chapter.key for chapter in chapters}:
        yield f"chapter-{key}.json is stale: no page makes such claims; {AGAIN}"
    for identity, count in Counter(claim["id"] for claims in made.values() for claim in claims).items():
        if count > 1:
            yield f"claim {identity} was executed {count} times"
    for chapter in chapters:
        if chapter.key not in made:
            yield f"{chapter.page}.md was not executed: there is no chapter-{chapter.key}.json; {AGAIN}"
            continue
        unused = list(chapter.calls)
        for claim in made[chapter.key]:
            key, name = claim["id"].split(".", 1)
            makers = [call for call in chapter.calls if call.makes(name) and key == chapter.key]
            if not makers:
                yield f"claim {claim['id']} is stale: {chapter.page}.md does not make it; {AGAIN}"
            elif not any(agrees(call, claim) for call in makers):
                yield f"claim {claim['id']} is stale: {chapter.page}.md:{makers[0].line} says something else; {AGAIN}"
            unused = [call for call in unused if call not in makers]
        for call in unused:
            yield f"{chapter.page}.md:{call.line}: claim {chapter.key}.{call.name} was not executed"


def agrees(call: Call, claim: dict[str, Any]) -> bool:
    """Whether an executed claim says what its call in the source says."""
    same = call.statement is None or matches(call.statement, claim["statement"])
    return same and STATUS[call.kind] == claim["status"] and set(call.of) == set(claim.get("of", ()))


# ---- the ledger -------------------------------------------------------------------------------------------


def write_ledger(claims_dir: Path, book: Path, target: Path) -> list[str]:
    """Write the ledger of all executed claims; return the pages that it lacks because they were not executed yet.

    The file is left alone where it says that already, so that an incremental build has nothing to do.
    """
    chapters, made = read_book(book), read_made(claims_dir)
    status = Counter(claim["status"] for c in chapters for claim in made.get(c.key, []))
    supported = {label for c in chapters for claim in made.get(c.key, []) for label in claim.get("of", ())}
    counts = ", ".join(f"{status[name]} {name}" for name in dict.fromkeys(STATUS.values()))
    parts = [
        f"**{status.total()} claims** on {sum(c.key in made for c in chapters)} pages: {counts}. "
        f"{sum(bool(claim.get('of')) for claims in made.values() for claim in claims)} of them support "
        f"{len(supported)} theorems, lemmas and propositions."
    ]
    parts += [table(chapter, made[chapter.key]) for chapter in chapters if made.get(chapter.key)]
    text = "\n\n".join(parts) + "\n"
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_text(encoding="utf-8") != text:
        target.write_text(text, encoding="utf-8")
    return [chapter.page for chapter in chapters if chapter.key not in made]


def table(chapter: Chapter, claims: list[dict[str, Any]]) -> str:
    """The claims of one chapter as a table in a drop-down."""
    number = f"{chapter.key} · " if chapter.key.isdigit() and chapter.key != "0" else ""
    lines = [
        f"````{{dropdown}} {number}{plain(chapter.title)}: {len(claims)} claims",
        f":name: ledger-{chapter.key.lower()}",
        ":class-container: ledger",
        "",
        "```{table}",
        f":widths: {' '.join(map(str, WIDTHS))}",
        "",
        "| claim | statement | status and check | theorem, source |",
        "| --- | --- | --- | --- |",
    ]
    for claim in claims:
        name = claim["id"].split(".", 1)[1]
        slug = next((call.slug for call in chapter.calls if call.makes(name)), "")
        check = claim["check"].removeprefix("a ").removesuffix(" that must be true")
        support = [f"{{prf:ref}}`{label}`" for label in claim.get("of", ())]
        if claim["source"] and claim["status"] != "recorded":  # there it is the record, which the check names
            support.append(escape(claim["source"]))
        cells = [
            f'<span id="claim-{claim["id"]}"></span>[{claim["id"]}]({chapter.page}.md{"#" * bool(slug)}{slug})',
            escape(claim["statement"]),
            f"{claim['status']}: {escape(shorten(check))}",
            "; ".join(support),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "```", "````"])


def shorten(text: str) -> str:
    return text if len(text) <= LONGEST_CHECK else text[: LONGEST_CHECK - 2].rstrip() + " …"


def plain(title: str) -> str:
    return title.replace("`", "").replace("*", "")


def escape(text: str) -> str:
    """A text with every character that Markdown, TeX or a table would read as markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>|$~^&#])", r"\\\1", " ".join(text.split()))


def main() -> int:
    """Print what is wrong with the claims of the book; return an exit status."""
    os.chdir(ROOT)
    claims_dir = Path("_build/claims")
    found = problems(Path("book"), claims_dir if claims_dir.is_dir() else None)
    print(*found, sep="\n")
    print(f"{len(found)} problems")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
