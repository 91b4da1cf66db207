"""The furniture of the site (tools/finish.py, tools/furniture.py, book/_static/site.js) on a site of four small pages.

Oracle: what a reader should find, written out by hand; BeautifulSoup and a real browser read the pages, neither of
which the tools use.
"""

import json
import re
import shutil
import struct
from pathlib import Path

import pytest
from bs4 import BeautifulSoup
from tool_modules import tool

ROOT = Path(__file__).resolve().parents[2]
STATIC = ROOT / "book" / "_static"
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

SIDEBAR = """<div id="pst-primary-sidebar"><p class="caption"><span class="caption-text">Hills &amp; dales</span></p>
<ul class="nav"><li><a class="reference internal" href="{up}part/first.html">1. First <span>(x)</span></a></li>
<li><a class="reference internal" href="{up}part/second.html">2. Second</a></li></ul>
<p class="caption"><span class="caption-text">Appendices</span></p>
<ul class="nav"><li><a class="reference internal" href="{up}glossary.html">Glossary</a></li></ul>
<p class="caption"><span class="caption-text">Later</span></p>
<ul class="nav"><li><a class="reference internal" href="{up}third.html">3. Third</a></li></ul></div>
"""
PAGE = """<!DOCTYPE html><html lang="en" data-theme="light"><head><meta charset="utf-8">
<title>{title} &#8212; Saddle-free</title>
<script src="{up}_static/site.js"></script></head><body>
{sidebar}<main id="main-content"><div class="article-header-buttons"><button>x</button></div>
<div class="onlyprint"><h1>{title}</h1></div>
<article class="bd-article"><section><h1>{title}</h1>
{body}
</section></article></main></body></html>
"""
FIRST = r"""<p>Short.</p><p>A paragraph about <em>the</em> scale
<span class="math">\(\lvert V\rvert\)</span> that says "something" of use.</p>
<p><a class="reference internal" href="../glossary.html#term-saddle"><span class="xref std std-term">saddle</span></a>
<a class="reference internal" href="../glossary.html#term-pass">pass</a>
<a class="reference internal" href="#equation-eq-one">(1.1)</a>
<a class="reference internal" href="second.html#other">elsewhere</a></p>
<div class="math notranslate nohighlight" id="equation-eq-one">
<span class="eqno">(1.1)<a href="#x">#</a></span>\[a &lt; b\]</div>"""
GLOSSARY = r"""<dl class="simple glossary"><dt id="term-pass">pass<a class="headerlink" href="#term-pass">#</a></dt>
<dt id="term-saddle">saddle<a class="headerlink" href="#term-saddle">#</a></dt><dd><p>A point where
<span class="math">\(g=0\)</span>, see <a href="part/first.html">First</a>. &lt;/script&gt;</p></dd></dl>"""
LISTED = '<div role="list" class="citation-list"><div class="citation" role="doc-biblioentry">A</div></div>'
BODIES = {"index": "<p>Hi.</p>", "part/first": FIRST, "part/second": LISTED, "glossary": GLOSSARY}


@pytest.fixture
def folder(tmp_path):
    """A built site and exported notebooks, before they are finished."""
    for name, body in BODIES.items():
        up = "../" * name.count("/")
        path = tmp_path / "html" / f"{name}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        title = name.rsplit("/", 1)[-1].capitalize()
        path.write_text(PAGE.format(title=title, up=up, body=body, sidebar=SIDEBAR.format(up=up)), encoding="utf-8")
    (tmp_path / "html" / "_static").mkdir()
    shutil.copyfile(STATIC / "site.js", tmp_path / "html" / "_static" / "site.js")
    for name in (
        "index.ipynb",
        "part/first.ipynb",
        "part/.ipynb_checkpoints/first.ipynb",
        "part/picture.svg",
        "part/x.log",
    ):
        path = tmp_path / "notebooks" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
    return tmp_path


def finish(folder, repository=None):
    tool("finish").finish(folder / "html", folder / "notebooks", repository)


def soup(folder, name):
    return BeautifulSoup((folder / "html" / f"{name}.html").read_text(encoding="utf-8"), "html.parser")


def meta(page):
    return {tag.get("name") or tag.get("property"): tag["content"] for tag in page.select("meta[content]")}


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_second_call_changes_nothing(folder):
    finish(folder)
    once = contents(folder / "html")
    finish(folder)
    assert contents(folder / "html") == once


def test_a_call_with_another_repository_leaves_nothing_of_the_first(folder):
    finish(folder, "someone/book")
    finish(folder)
    again = contents(folder / "html")
    assert not any(b"someone" in content for content in again.values())


def test_head_tags_of_a_known_repository(folder):
    finish(folder, "Someone/book")
    tags = meta(soup(folder, "part/first"))
    assert tags["og:title"] == tags["twitter:title"] == "First"
    assert tags["og:description"] == 'A paragraph about the scale |V| that says "something" of use.'
    assert tags["og:image"] == "https://someone.github.io/book/_static/social-preview.png"
    assert tags["og:url"] == "https://someone.github.io/book/part/first.html"
    assert tags["twitter:card"] == "summary_large_image"
    assert meta(soup(folder, "index"))["og:url"] == "https://someone.github.io/book/"


def test_head_tags_of_a_local_build_stay_inside(folder):
    finish(folder)
    assert meta(soup(folder, "part/first"))["og:image"] == "../_static/social-preview.png"
    assert "og:url" not in meta(soup(folder, "part/first"))
    icons = soup(folder, "part/first").select('link[rel~="icon"], link[rel="apple-touch-icon"]')
    for icon in icons:
        assert (STATIC / icon["href"].removeprefix("../_static/")).is_file()


def test_a_page_without_words_is_described_by_the_book(folder):
    finish(folder)
    assert meta(soup(folder, "index"))["description"] == tool("furniture").DESCRIPTION


def test_where_one_is(folder):
    finish(folder)
    first, second, glossary = (
        soup(folder, name).select_one(".place") for name in ("part/first", "part/second", "glossary")
    )
    assert first.get_text() == "Part I · Hills & dales — chapter 1"
    assert not first.a  # it would lead to the page itself
    assert second.get_text() == "Part I · Hills & dales — chapter 2"
    assert second.a["href"] == "../part/first.html"
    assert second.find_next_sibling("h1")
    assert glossary.get_text() == "Appendices"
    assert soup(folder, "index").select_one(".place") is None
    assert [tag.get_text() for tag in soup(folder, "index").select(".part-number")] == ["I", "II"]


def test_menu_of_a_known_repository(folder):
    finish(folder, "someone/book")
    links = [a["href"] for a in soup(folder, "part/first").select(".launch-menu a")]
    assert links == [
        "../notebooks/part/first.ipynb",
        "https://colab.research.google.com/github/someone/book/blob/notebooks/part/first.ipynb",
        "https://mybinder.org/v2/gh/someone/book/notebooks?urlpath=lab/tree/part/first.ipynb",
    ]
    assert (folder / "html" / "part" / links[0]).is_file()
    assert not soup(folder, "glossary").select(".launch-menu")  # no notebook, no menu


def test_menu_of_a_local_build(folder):
    finish(folder)
    page = soup(folder, "index")
    assert [a["href"] for a in page.select(".launch-menu a")] == ["notebooks/index.ipynb", tool("furniture").UPLOAD]
    off = page.select_one(".launch-menu [aria-disabled=true]")
    assert off.get_text().startswith("Open in Binder")
    assert "public repository" in off.get_text()


def test_notebooks_are_copied_with_their_pictures(folder):
    (folder / "html" / "notebooks").mkdir()
    (folder / "html" / "notebooks" / "gone.ipynb").write_text("{}", encoding="utf-8")
    finish(folder)
    assert set(contents(folder / "html" / "notebooks")) == {"index.ipynb", "part/first.ipynb", "part/picture.svg"}


def test_what_terms_and_equations_say(folder):
    finish(folder)
    script = (folder / "html" / "_static" / "glossary.json.js").read_text(encoding="utf-8")
    assert "</script" not in script
    said = json.loads(script.removeprefix("window.SaddleFreeReferences=").rstrip(";\n"))
    definition = r"A point where \(g=0\), see First. </script>"
    assert said["terms"] == {"term-pass": ["saddle", definition], "term-saddle": ["saddle", definition]}
    assert said["equations"] == {"equation-eq-one": r"\[a < b\]"}
    assert soup(folder, "part/first").find("script", src="../_static/glossary.json.js")
    assert not soup(folder, "part/second").find("script", src=re.compile("glossary"))


def test_the_bibliography_is_no_empty_list(folder):
    finish(folder)
    assert not soup(folder, "part/second").select("[role=list], [role=doc-biblioentry]")


def test_what_is_missing_is_said(folder):
    with pytest.raises(ValueError, match="owner/name"):
        finish(folder, "https://github.com/someone/book")
    shutil.rmtree(folder / "notebooks")
    (folder / "notebooks").mkdir()
    with pytest.raises(ValueError, match="make notebooks"):
        finish(folder)
    with pytest.raises(ValueError, match="make book"):
        tool("finish").finish(folder / "nothing", folder / "notebooks", None)


@pytest.mark.parametrize(
    ("environment", "origin", "expected"),
    [
        ({"REPOSITORY": "a/b", "GITHUB_REPOSITORY": "c/d"}, "", "a/b"),
        ({"GITHUB_REPOSITORY": "c/d"}, "https://github.com/e/f", "c/d"),
        ({}, "https://github.com/e/f.git", "e/f"),
        ({}, "https://token@github.com/e/f.x", "e/f.x"),
        ({}, "git@github.com:e/f.git", "e/f"),
        ({}, "ssh://git@github.com/e/f", "e/f"),
        ({}, "https://example.org/github.com/e/f", None),
        ({}, "../elsewhere", None),
        ({}, "", None),
    ],
)
def test_which_repository_is_known(environment, origin, expected):
    assert tool("furniture").known_repository(environment, origin) == expected


def test_a_variable_that_names_no_repository_is_an_error():
    with pytest.raises(ValueError, match="owner/name"):
        tool("furniture").known_repository({"REPOSITORY": "book"})


def test_preview_and_icons_have_their_sizes():
    def size(name):
        content = (STATIC / name).read_bytes()
        assert content.startswith(b"\x89PNG")
        return struct.unpack(">II", content[16:24])

    assert size("social-preview.png") == (1200, 630)
    assert size("favicon-32.png") == (32, 32)
    assert size("favicon-180.png") == (180, 180)
    assert (STATIC / "social-preview.png").stat().st_size < 150_000
    for name in ("logo.svg", "favicon.svg"):
        assert BeautifulSoup((STATIC / name).read_text(encoding="utf-8"), "html.parser").svg["aria-label"]


@pytest.mark.site
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_tooltips_and_menu_in_a_browser(folder):
    """By pointer and by keyboard; Escape closes both; the bar's colour follows the theme."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    finish(folder)
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(15_000)
        page.goto((folder / "html" / "part" / "first.html").as_uri())
        tip = page.locator("#reference-tip")

        page.hover("a[href*=term-saddle]")
        tip.wait_for(state="visible")
        assert tip.inner_text().startswith("saddle\nA point where")
        assert page.get_attribute("a[href*=term-saddle]", "aria-describedby") == "reference-tip"
        page.hover("#reference-tip")
        page.wait_for_timeout(500)
        assert tip.is_visible()  # the pointer may wander into it
        page.keyboard.press("Escape")
        assert not tip.is_visible()

        page.focus("a[href='#equation-eq-one']")
        tip.wait_for(state="visible")
        assert tip.inner_text() == "Equation (1.1)\n\\[a < b\\]"
        page.hover("a[href='#equation-eq-one']")
        page.hover("section h1")
        page.wait_for_timeout(500)
        assert tip.is_visible()  # the pointer has left, the focus has not
        page.focus("a[href*=other]")
        assert not tip.is_visible()
        assert page.get_attribute("a[href='#equation-eq-one']", "aria-describedby") is None

        page.focus(".launch-menu summary")
        page.keyboard.press("Enter")
        assert page.evaluate("document.querySelector('.launch-menu').open")
        page.keyboard.press("Escape")
        assert not page.evaluate("document.querySelector('.launch-menu').open")
        assert page.evaluate("document.activeElement.tagName") == "SUMMARY"

        page.evaluate("document.documentElement.dataset.theme = 'dark'")
        page.wait_for_timeout(50)
        assert page.get_attribute("meta[name=theme-color]", "content") == "#121212"
        browser.close()
