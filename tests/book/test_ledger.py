"""The ledger of claims (tools/ledger.py): a copy of a small book is broken in each way, and each is reported.

Oracle: the small book is written out here, so what is wrong with a broken copy is known.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]

FIRST = r"""---
file_format: mystnb
---

(ch-one)=
# One: the *first* page

:::{admonition} This page
**You will be able to** say **what is never checked here at all**.
:::

```{code-cell} ipython3
from refimpl.verify.claims import Claims
claims = Claims("1")
```

## A section with $x$ in it

**The first bold statement holds.** And more.

```{prf:theorem} Sums
:label: thm-sum
One and one are two.
```

```{code-cell} ipython3
---
tags: [hide-input]
---
claims.equal("sum", "one | one", 1 + 1, 2, of="thm-sum")
for n in (1, 2):
    claims.holds(f"size-{n}", f"n = {n}", n > 0, of=("thm-sum", "lem-other"))
```

* **The second bold statement, in a list, holds** (claim 2.far).

## Again

**Short label.** Nothing to check.

````{prf:lemma}
:label: lem-other
**Input** of more than four words, in bold: **no statement of the chapter**.
````

**Sources and further reading.** None.
"""

SECOND = """---
file_format: mystnb
---

# Two

```{code-cell} ipython3
claims = Claims("2")
claims.close("far", "as claim 1.sum", 1.0, 1.0, rtol=1e-9, source="eq. 4")
claims.within("share", "a share", 0.5, 0, 1, runs=9)
```
"""


def load() -> ModuleType:
    """The module tools/ledger.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("ledger")
    finally:
        sys.path.remove(str(ROOT / "tools"))


ledger = load()


@pytest.fixture
def book(tmp_path, monkeypatch):
    """The small book with its claims executed: (folder of the book, folder of the claims)."""
    pages, made = tmp_path / "book", tmp_path / "claims"
    (pages / "part").mkdir(parents=True)
    (pages / "part" / "one.md").write_text(FIRST, encoding="utf-8")
    (pages / "two.md").write_text(SECOND, encoding="utf-8")
    (pages / "plain.md").write_text("# No claims\n\n**Four words in bold.**\n", encoding="utf-8")
    monkeypatch.setenv("REFIMPL_CLAIMS_DIR", str(made))
    for text in (FIRST, SECOND):
        from refimpl.verify.claims import Claims

        code = "\n".join(re.findall(r"^(?:claims|for|    claims).*$", text, re.M))
        exec(code, {"Claims": Claims})
    return pages, made


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_sound_book_has_no_problems(book):
    assert ledger.problems(*book) == []
    assert ledger.problems(book[0]) == []


@pytest.mark.parametrize(
    ("page", "old", "new", "expected"),
    [
        ("part/one.md", 'of=("thm-sum", "lem-other")', 'of="thm-sum"', "no claim of the chapter supports lem-other"),
        ("part/one.md", ":label: lem-other\n", "", "this lemma has no label"),
        ("part/one.md", 'of="thm-sum")', 'of=("thm-sum", "thm-summ"))', "'thm-summ' is not the label of a theorem"),
        ("part/one.md", 'of="thm-sum")', "of=label)", "'?' is not the label of a theorem"),
        ("part/one.md", "**Short label.**", "**Here is a new statement.**", "follows the statement **Here is a new"),
        (
            "part/one.md",
            "**The first bold statement holds.** And more.",
            "**The first bold statement holds.**\n\n**And a second one follows.**",
            "follows the statement **The first bold statement holds.**",
        ),
        ("part/one.md", "(claim 2.far)", "", "follows the statement **The second bold statement, in a list, holds**"),
        ("part/one.md", "(claim 2.far)", "(claim 2.near)", "the text names the claim 2.near, which no chapter makes"),
        ("two.md", '"share"', '"far"', "claim 2.far is made in line 9 already"),
        ("two.md", '"share"', "name", "the name of a claim must be a string or an f-string"),
        ("two.md", 'Claims("2")', 'Claims("1")', 'Claims("1") is made by 2 pages: part/one, two'),
    ],
)
def test_broken_source_is_reported(book, page, old, new, expected):
    edit(book[0] / page, old, new)
    found = ledger.problems(book[0])
    assert any(expected in problem for problem in found), found


@pytest.mark.parametrize(
    ("page", "old", "new", "expected"),
    [
        ("two.md", '"share"', '"part"', "claim 2.share is stale"),
        ("two.md", '"share"', '"part"', "claim 2.part was not executed"),
        ("two.md", '"a share"', '"a part"', "claim 2.share is stale: two.md:10 says something else"),
        ("two.md", 'rtol=1e-9, source="eq. 4"', 'rtol=1e-9, of="thm-sum"', "claim 2.far is stale: two.md:9"),
        ("two.md", 'claims.within("share"', 'claims.holds("share"', "claim 2.share is stale: two.md:10"),
        ("part/one.md", 'f"size-{n}"', 'f"length-{n}"', "claim 1.size-2 is stale"),
        ("part/one.md", 'f"n = {n}"', 'f"m = {n}"', "claim 1.size-2 is stale"),
    ],
)
def test_claims_that_were_not_executed_so_are_reported(book, page, old, new, expected):
    edit(book[0] / page, old, new)
    found = ledger.problems(*book)
    assert any(expected in problem for problem in found), found


def test_a_page_that_was_not_executed_and_one_that_is_gone_are_reported(book):
    (book[1] / "chapter-2.json").rename(book[1] / "chapter-3.json")
    found = ledger.problems(*book)
    assert any("two.md was not executed" in problem for problem in found)
    assert any("chapter-3.json is stale" in problem for problem in found)


def test_one_name_executed_twice_is_reported(book):
    path = book[1] / "chapter-2.json"
    path.write_text(json.dumps(json.loads(path.read_text()) * 2), encoding="utf-8")
    assert "claim 2.far was executed 2 times" in ledger.problems(*book)


def test_ledger_lists_every_claim_escaped_and_linked(book, tmp_path):
    target = tmp_path / "out" / "ledger.md"
    assert ledger.write_ledger(book[1], book[0], target) == []
    text = target.read_text(encoding="utf-8")
    assert text.startswith("**5 claims** on 2 pages: 3 exact, 1 to tolerance, 1 statistical, 0 recorded. 3 of them ")
    assert (
        '| <span id="claim-1.sum"></span>[1.sum](part/one.md#a-section-with--in-it) | one \\| one | exact: equals 2 '
        "| {prf:ref}`thm-sum` |"
    ) in text
    assert "| {prf:ref}`thm-sum`; {prf:ref}`lem-other` |" in text
    assert "[2.far](two.md#two) | as claim 1.sum | to tolerance: within rtol 1e-09 | eq. 4 |" in text
    assert "{dropdown} 1 · One: the first page: 3 claims" in text
    assert len(re.findall('<span id="claim-', text)) == 5


def test_ledger_is_left_alone_where_nothing_changed(book, tmp_path):
    target = tmp_path / "ledger.md"
    ledger.write_ledger(book[1], book[0], target)
    before = target.stat().st_mtime_ns
    ledger.write_ledger(book[1], book[0], target)
    assert target.stat().st_mtime_ns == before
    (book[1] / "chapter-2.json").unlink()
    assert ledger.write_ledger(book[1], book[0], target) == ["two"]
    assert "2.far" not in target.read_text(encoding="utf-8")


def test_escaped_text_reads_as_it_was_written():
    markdown = pytest.importorskip(
        "markdown_it", reason="markdown-it-py, which Jupyter Book brings along, is not installed"
    ).MarkdownIt()
    text = r"|H| <= 2, x_1 ^ 2 * 3 $a$ [b](c) `d` {ref} \alpha & #1 ~"
    (inline,) = (token for token in markdown.parse(ledger.escape(text)) if token.type == "inline")
    assert "".join(child.content for child in inline.children) == text


def test_the_book_keeps_its_rules():
    assert ledger.problems(ROOT / "book") == []


def test_the_executed_claims_are_those_of_the_book():
    made = ROOT / "_build" / "claims"
    pages = {chapter.key: ROOT / "book" / f"{chapter.page}.md" for chapter in ledger.read_book(ROOT / "book")}
    files = {key: made / f"chapter-{key}.json" for key in pages}
    old = [k for k, path in files.items() if not path.exists() or path.stat().st_mtime < pages[k].stat().st_mtime]
    if old:
        pytest.skip(f"the book was not built, or these chapters are newer than the build: {', '.join(old)}")
    assert ledger.problems(ROOT / "book", made) == []


def test_every_exception_is_still_needed():
    """A statement that is allowed to have no check, but is gone or has one, leaves the list."""
    needed = {
        (chapter.page, bold.text)
        for chapter in ledger.read_book(ROOT / "book")
        for bold in chapter.bold
        if not bold.checked
    }
    assert ledger.ALLOWED.keys() <= needed
    assert all(len(reason.split()) >= 4 for reason in ledger.ALLOWED.values())
