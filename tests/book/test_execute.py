"""Parallel execution into the book's cache (tools/execute.py), on a book of three tiny chapters.

Oracle: what the cells print, and Jupyter Book's own lookup in the cache.
"""

import importlib
import json
import sys
from pathlib import Path

import pytest
from jupyter_cache import get_cache

ROOT = Path(__file__).resolve().parents[2]
HEAD = (
    "---\njupytext:\n  text_representation:\n    extension: .md\n    format_name: myst\n"
    "kernelspec:\n  display_name: Python 3\n  language: python\n  name: python3\nfile_format: mystnb\n---\n\n# Page\n"
)
CLAIM = (
    "from refimpl.verify.claims import Claims\n"
    "claims = Claims('{name}')\n"
    "claims.equal('sum', 'two and two', 2 + 2, 4)\n"
)
TOC = "format: jb-book\nroot: index\nparts:\n- caption: One\n  chapters:\n  - file: part/good\n  - file: part/bad\n"


def cell(code):
    return f"\n```{{code-cell}} ipython3\n{code}\n```\n"


@pytest.fixture(scope="module")
def execute():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("execute")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def book(tmp_path_factory, execute):
    """The book executed once: its folder, its chapters, and what became of them by name."""
    folder = tmp_path_factory.mktemp("executed")
    (folder / "book" / "part").mkdir(parents=True)
    (folder / "_toc.yml").write_text(TOC, encoding="utf-8")
    pages = {
        "index": "# Only text\n",
        "part/good": HEAD + cell(CLAIM.format(name="G") + "import os; print('in', os.path.basename(os.getcwd()))"),
        "part/bad": HEAD + cell(CLAIM.format(name="B")) + cell("1 / 0"),
    }
    for name, text in pages.items():
        (folder / "book" / f"{name}.md").write_text(text, encoding="utf-8")
    cache = folder / "cache"
    chapters = execute.chapters_of(folder / "book", folder / "_toc.yml", cache)
    done = {e.path.stem: e for e in execute.execute_chapters(chapters, cache, timeout=60, at_once=2)}
    return folder, chapters, done


def test_only_pages_with_code_are_chapters(book):
    assert [chapter.path.stem for chapter in book[1]] == ["good", "bad"]


def test_a_chapter_runs_in_its_folder_and_is_found_again(book):
    folder, chapters, done = book
    assert not done["good"].trouble
    _, merged = get_cache(str(folder / "cache")).merge_match_into_notebook(chapters[0].notebook)
    assert merged.cells[-1].outputs[0].text == "in part\n"


def test_a_chapter_that_fails_is_reported_and_not_stored(book):
    folder, chapters, done = book
    assert "ZeroDivisionError" in done["bad"].trouble
    with pytest.raises(KeyError):
        get_cache(str(folder / "cache")).match_cache_notebook(chapters[1].notebook)


def test_what_is_stored_is_not_executed_again(book, execute):
    folder, chapters, _ = book
    assert not list(execute.execute_chapters(chapters[:1], folder / "cache", timeout=60, at_once=1))


def test_claims_are_those_of_the_chapters_that_succeeded(book, execute):
    folder, chapters, _ = book
    target = folder / "claims"
    target.mkdir()
    (target / "chapter-old.json").write_text("[]", encoding="utf-8")
    execute.collect_claims(chapters, folder / "cache", target)
    assert [path.name for path in target.iterdir()] == ["chapter-G.json"]
    (claim,) = json.loads((target / "chapter-G.json").read_text(encoding="utf-8"))
    assert claim["id"] == "G.sum"


def test_changed_code_has_another_key_and_changed_text_has_not(book, execute):
    folder, chapters, _ = book
    path = folder / "book" / "part" / "good.md"
    text = path.read_text(encoding="utf-8")

    def key():
        return execute.chapters_of(folder / "book", folder / "_toc.yml", folder / "cache")[0].key

    try:
        path.write_text(text.replace("# Page", "# Other words"), encoding="utf-8")
        assert key() == chapters[0].key
        path.write_text(text.replace("2 + 2, 4", "1 + 3, 4"), encoding="utf-8")
        assert key() != chapters[0].key
    finally:
        path.write_text(text, encoding="utf-8")


def test_notebooks_that_the_book_has_executed_are_not_pending(book, execute, monkeypatch):
    folder, _, _ = book
    (folder / "notebooks" / "part").mkdir(parents=True)
    for name in ("good", "bad"):
        (folder / "notebooks" / "part" / f"{name}.ipynb").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(folder)
    pending = importlib.import_module("pending").pending
    assert [path.stem for path in pending(Path("notebooks"), Path("cache"))] == ["bad"]
    assert [path.stem for path in pending(Path("notebooks"), Path("no cache"))] == ["bad", "good"]
