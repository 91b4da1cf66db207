"""The archive for reading without a network (tools/offline.py): unpacked and opened from disk in a browser.

Oracle: zipfile's and nbformat's own checks, and Chromium on the unpacked files.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import zipfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import browser_cases as cases
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
built = pytest.mark.skipif(not cases.BUILT, reason="no built book in _build/html: run `make book` first")
driven = pytest.mark.skipif(bool(cases.why_not()), reason=cases.why_not() or "a browser is there")


@pytest.fixture(scope="module")
def offline():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        yield importlib.import_module("offline")
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture
def small(tmp_path):
    """A site of four files, one of them of no use to a reader, and a folder of notebooks."""
    site, notebooks = tmp_path / "html", tmp_path / "notebooks"
    for path in (site / "index.html", site / "_static" / "a.css", site / "_sources" / "a.md", site / ".buildinfo"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    notebooks.mkdir()
    (notebooks / "a.ipynb").write_text("{}")
    return site, notebooks, tmp_path / "book.zip"


def test_names_and_content(offline, small):
    site, notebooks, archive = small
    count = offline.pack(site, notebooks, archive)
    with zipfile.ZipFile(archive) as packed:
        names = ["README.txt", "START-HERE.html", "site/_static/a.css", "site/index.html", "site/notebooks/a.ipynb"]
        assert packed.namelist() == [f"saddle-free/{name}" for name in names]
        assert packed.read("saddle-free/site/_static/a.css") == b"a.css"
        assert packed.testzip() is None
    assert count == 5


def test_same_site_same_bytes(offline, small):
    site, notebooks, archive = small
    digests = []
    for date in (1_000_000_000, 1_700_000_000):
        for path in site.rglob("*"):
            os.utime(path, (date, date))
        offline.pack(site, notebooks, archive)
        digests.append(hashlib.sha256(archive.read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    (site / "index.html").write_text("changed")
    offline.pack(site, notebooks, archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() != digests[0]


def test_the_sites_own_notebooks_are_not_packed_twice(offline, small):
    site, notebooks, archive = small
    (site / "notebooks").mkdir()
    (site / "notebooks" / "b.ipynb").write_text("{}")
    offline.pack(site, notebooks, archive)
    with zipfile.ZipFile(archive) as packed:
        assert [n for n in packed.namelist() if n.endswith(".ipynb")] == ["saddle-free/site/notebooks/b.ipynb"]


def test_no_site_no_archive(offline, tmp_path):
    with pytest.raises(ValueError, match="make book"):
        offline.pack(tmp_path / "nowhere", tmp_path, tmp_path / "book.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_archive(offline, small, monkeypatch):
    site, notebooks, archive = small
    archive.write_bytes(b"old")

    def breaks(*args):
        yield "a", b"a"
        raise OSError("disk full")

    monkeypatch.setattr(offline, "contents", breaks)
    with pytest.raises(OSError, match="disk full"):
        offline.pack(site, notebooks, archive)
    assert archive.read_bytes() == b"old"
    assert sorted(p.name for p in archive.parent.iterdir()) == ["book.zip", "html", "notebooks"]


@pytest.fixture(scope="module")
def unpacked(offline, tmp_path_factory):
    """The folder that a reader has after unpacking the archive of the whole book."""
    folder = tmp_path_factory.mktemp("reader") / "a folder with spaces"
    folder.mkdir()
    offline.pack(cases.SITE, ROOT / "_build" / "notebooks", folder / "book.zip")
    with zipfile.ZipFile(folder / "book.zip") as packed:
        packed.extractall(folder)
    (folder / "book.zip").unlink()
    return folder / "saddle-free"


@pytest.mark.site
@built
def test_nothing_is_missing(unpacked):
    for page in cases.PAGES:
        assert (unpacked / "site" / page).read_bytes() == (cases.SITE / page).read_bytes()
    assert not list(unpacked.rglob("*.doctree"))


@pytest.mark.site
@built
def test_notebooks_are_notebooks(unpacked):
    notebooks = list((unpacked / "site" / "notebooks").rglob("*.ipynb"))
    assert notebooks
    for path in notebooks:
        nbformat.validate(nbformat.read(path, as_version=4))


@pytest.mark.site
@built
@driven
def test_read_from_disk(unpacked):
    """From the first file on: the start page loads, formulas are set, search finds a page, all without a server."""
    with cases.open_browser() as browser:
        context = browser.new_context(offline=True)  # a request to any server fails
        page = context.new_page()
        visit = cases.listen(page, unpacked.as_uri())
        page.goto((unpacked / "START-HERE.html").as_uri())
        page.wait_for_url("**/site/index.html")
        page.wait_for_load_state()
        cases.look(page, visit)
        assert page.locator("h1").count() >= 1
        assert visit.formulas > 0
        assert (visit.console, visit.failed, visit.outside) == ([], [], [])
        assert (visit.raw_formulas, visit.broken_formulas) == ([], [])
        page.goto((unpacked / "site" / "search.html").as_uri() + "?q=hard+case")
        first = page.locator("ul.search li > a").first
        first.wait_for()
        address = urlsplit(first.evaluate("a => a.href"))
        assert address.scheme == "file"
        assert Path(unquote(address.path)).is_file()
        assert visit.outside == []
