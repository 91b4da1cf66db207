"""The book on paper (tools/pdf.py): two pages of the built book printed and read back.

Oracle: pypdf's reading of the file and, for what a page must say, the built HTML.
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import browser_cases as cases
import pytest
from bs4 import BeautifulSoup

pypdf = pytest.importorskip("pypdf")
pytest.importorskip("playwright")

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ("index", "notation")
TOC = """format: jb-book
root: index
parts:
  - caption: Landscapes
    numbered: true
    chapters: [{file: landscapes/one}, {file: landscapes/two}]
  - caption: Series
    numbered: true
    chapters: [{file: series/three}]
  - caption: Appendices
    chapters: [{file: api}, {file: claims}, {file: notation}]
"""


@pytest.fixture(scope="module")
def pdf():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("pdf")
    finally:
        sys.path.remove(str(ROOT / "tools"))


def test_pages_in_the_order_of_the_contents(pdf, tmp_path):
    (tmp_path / "_toc.yml").write_text(TOC)
    found = [(e.name, e.part, e.opens) for e in pdf.entries(tmp_path / "_toc.yml")]
    assert found == [
        ("index", "", False),
        ("landscapes/one", "Part I · Landscapes", True),
        ("landscapes/two", "Part I · Landscapes", False),
        ("series/three", "Part II · Series", True),
        ("notation", "Appendices", True),  # the reference and the claims before it are left out
    ]


def test_every_page_of_the_book_is_printed(pdf):
    written = {p.relative_to(ROOT / "book").with_suffix("").as_posix() for p in (ROOT / "book").rglob("*.md")}
    listed = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text(encoding="utf-8"))
    assert [e.name for e in pdf.entries(ROOT / "_toc.yml")] == [name for name in listed if name not in pdf.LEFT_OUT]
    assert set(listed) <= written


@pytest.mark.parametrize(("number", "text"), [(1, "I"), (4, "IV"), (7, "VII"), (9, "IX"), (14, "XIV"), (29, "XXIX")])
def test_roman(pdf, number, text):
    assert pdf.roman(number) == text


def test_anchors_that_links_ask_for(pdf, tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "a.html").write_text(
        '<a href="part/b.html#x">x</a><a href="#own">o</a><a href="https://h.example/#y">y</a>'
    )
    (tmp_path / "part" / "b.html").write_text('<a href="../a.html#back%20here">b</a><a href="c.html#left-out">c</a>')
    assert pdf.anchors_asked_for(tmp_path, ["a", "part/b"]) == {"a": {"own", "back here"}, "part/b": {"x"}}


def test_no_page_no_file(pdf, tmp_path):
    with pytest.raises(ValueError, match="make book"):
        pdf.make_pdf(tmp_path, [pdf.Entry("index", "", False)], tmp_path / "book.pdf")
    assert list(tmp_path.iterdir()) == []


needs_all = [
    pytest.mark.site,
    pytest.mark.skipif(not cases.BUILT, reason="no built book in _build/html: run `make book` first"),
    pytest.mark.skipif(bool(cases.why_not()), reason=cases.why_not() or "a browser is there"),
]


@pytest.fixture(scope="module")
def sample(pdf, tmp_path_factory):
    """A PDF of two pages of the book; only the tests that are marked `site` may ask for it."""
    target = tmp_path_factory.mktemp("pdf") / "sample.pdf"
    pages = [entry for entry in pdf.entries(ROOT / "_toc.yml") if entry.name in SAMPLE]
    sheets = pdf.make_pdf(cases.SITE, pages, target, "0.0")
    reader = pypdf.PdfReader(target)
    assert len(reader.pages) == sheets
    assert [p.name for p in target.parent.iterdir()] == ["sample.pdf"]
    return reader


def outline_titles(items, depth=0):
    """(depth, title) of each bookmark, in order."""
    for item in items:
        if isinstance(item, list):
            yield from outline_titles(item, depth + 1)
        else:
            yield depth, item.title


class TestSample:
    pytestmark = needs_all

    def test_titles_and_page_numbers(self, sample):
        texts = [page.extract_text() for page in sample.pages]
        assert "Saddle-free" in texts[0]
        assert "Contents" in texts[1]
        first = next(i for i, text in enumerate(texts) if i > 1 and "Start here" in text)
        notation = [i for i, text in enumerate(texts) if i > first and re.search(r"^Notation$", text, re.M)]
        assert first >= 2
        assert notation
        # the contents promise the number that stands on the sheet
        number = sample.page_labels[notation[0]]
        assert re.search(rf"Notation\s*{number}\b", texts[1])
        assert re.search(rf"^{number}$", texts[notation[0]], re.M)
        assert sample.page_labels[:2] == ["i", "ii"]

    def test_no_sheet_is_blank(self, sample):
        running = {"", "Saddle-free", "Contents", "Start here", "Appendices", "Notation"}
        for number, page in enumerate(sample.pages):
            lines = {line.strip() for line in page.extract_text().splitlines()} - running - {sample.page_labels[number]}
            assert lines or len(page.images), f"sheet {number + 1} says nothing"

    def test_formulas_are_set(self, sample):
        text = "".join(page.extract_text() for page in sample.pages)
        assert not re.search(r"\\\(|\$\$|\\frac|\\mathbb", text)
        fonts = [f.get_object() for page in sample.pages for f in page["/Resources"].get("/Font", {}).values()]
        assert "/Type3" in {font["/Subtype"] for font in fonts}  # as Chromium writes MathJax's fonts, and no others

    def test_nothing_of_the_screen_is_left(self, sample):
        text = "".join(page.extract_text() for page in sample.pages)
        for words in ("Skip to main content", "Search the book", "Show code cell", "previous", "By The Saddle-free"):
            assert words not in text

    def test_bookmarks(self, sample):
        marks = list(outline_titles(sample.outline))
        assert (0, "Cover") in marks
        assert (0, "Start here") in marks
        assert (0, "Appendices") in marks
        assert (1, "Notation") in marks
        soup = BeautifulSoup((cases.SITE / "index.html").read_text(encoding="utf-8"), "html.parser")
        sections = [h.get_text().rstrip("#").strip() for h in soup.select("article section > section > h2")]
        assert [title for depth, title in marks if depth == 1 and title != "Notation"] == sections

    def test_links_lead_into_the_file(self, sample):
        sheet_of = {page.indirect_reference.idnum: number for number, page in enumerate(sample.pages)}
        inside, outside = [], []
        for page in sample.pages:
            for note in page.get("/Annots", []):
                note = note.get_object()
                if "/Dest" in note:
                    inside.append(sheet_of[note["/Dest"][0].idnum])
                else:
                    outside.append(str(note["/A"]["/URI"]))
        notation = next(
            i for i, t in enumerate(sample.pages) if re.search(r"^Notation$", t.extract_text(), re.M) and i > 1
        )
        assert notation in inside
        assert [address for address in outside if not address.startswith(("http://", "https://", "mailto:"))] == []

    def test_metadata(self, sample):
        assert sample.metadata.title.startswith("Saddle-free")
        assert sample.metadata.author
        assert sample.trailer["/Root"]["/PageMode"] == "/UseOutlines"
