"""The built book, read as a reader's browser reads it: nothing from outside, no dead link, every picture described.

Oracle: the HTML in `_build/html` itself, parsed by BeautifulSoup; `test_browser.py` opens the same pages in a browser.
`make site` runs this file after `make book`.
"""

import functools
import re
from urllib.parse import unquote, urlsplit

import pytest
from browser_cases import BUILT, PAGES, SITE, TEXT_PAGES
from bs4 import BeautifulSoup

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not BUILT, reason="no built book in _build/html: run `make book` first"),
]
OUTSIDE = re.compile(r"^\s*(?:https?:)?//", re.I)
STYLE_OUTSIDE = re.compile(r"""(?:url\(\s*['"]?|@import\s+['"])\s*(?:https?:)?//[^'")]*""", re.I)
SCRIPT_OUTSIDE = re.compile(
    r"""(?:\bimport\s*\(?\s*|\bfrom\s*|\bfetch\s*\(\s*|importScripts\s*\(\s*|\.src\s*=\s*)['"`](?:https?:)?//[^'"`]+"""
)
LOADS = {  # which attribute makes a browser load something by itself; <a href> does not
    "script": ("src",),
    "img": ("src", "srcset"),
    "iframe": ("src",),
    "source": ("src", "srcset"),
    "video": ("src", "poster"),
    "audio": ("src",),
    "embed": ("src",),
    "object": ("data",),
    "link": ("href",),
    "use": ("href", "xlink:href"),
    "image": ("href", "xlink:href"),
}
NOT_LOADED = {"canonical", "author", "license", "next", "prev", "index", "search"}


@functools.cache
def page(name):
    return BeautifulSoup((SITE / name).read_text(encoding="utf-8"), "html.parser")


@functools.cache
def anchors(name):
    soup = page(name)
    return {tag["id"] for tag in soup.find_all(id=True)} | {a["name"] for a in soup.find_all("a", attrs={"name": True})}


def outside_loads(soup):
    """What a page would load from another server by itself."""
    found = []
    for tag, attributes in LOADS.items():
        for element in soup.find_all(tag):
            if tag == "link" and NOT_LOADED & set(element.get("rel", [])):
                continue
            found += [element[a] for a in attributes if OUTSIDE.match(element.get(a) or "")]
    for style in soup.find_all("style"):
        found += STYLE_OUTSIDE.findall(style.get_text())
    for element in soup.find_all(style=True):
        found += STYLE_OUTSIDE.findall(element["style"])
    for script in soup.find_all("script"):
        found += SCRIPT_OUTSIDE.findall(script.get_text())
    return found


def dead_links(name):
    """Internal links of a page whose file or anchor does not exist."""
    dead = []
    for element in page(name).find_all(["a", "link", "script", "img"]):
        target = element.get("href") or element.get("src") or ""
        parts = urlsplit(target)
        if not target or parts.scheme or parts.netloc:
            continue
        path = (SITE / name).parent / unquote(parts.path) if parts.path else SITE / name
        path = path.resolve()
        if path.is_dir():
            path = path / "index.html"
        if not path.is_file():
            dead.append(target)
        elif parts.fragment and path.suffix == ".html":
            known = anchors(path.relative_to(SITE.resolve()).as_posix())
            if unquote(parts.fragment) not in known:
                dead.append(target)
    return dead


def test_checks_can_fail():
    """The scanners below find what they are for, in a page made for the purpose."""
    bad = BeautifulSoup(
        '<script src="https://cdn.example/x.js"></script><img src="//h.example/a.png"><style>@import "https://f.example";'
        '</style><link rel="stylesheet" href="http://f.example/f.css"><script>fetch("https://x.example/d")</script>'
        '<p style="background:url(https://x.example/i.png)"></p><a href="https://doi.org/10.1">fine</a>',
        "html.parser",
    )
    assert len(outside_loads(bad)) == 6
    assert not outside_loads(BeautifulSoup('<a href="https://doi.org/10.1">fine</a><img src="a.png">', "html.parser"))


def test_book_has_pages():
    assert len(TEXT_PAGES) >= 5


@pytest.mark.parametrize("name", PAGES)
def test_page_loads_nothing_from_outside(name):
    assert outside_loads(page(name)) == []


def test_style_sheets_and_scripts_load_nothing_from_outside():
    found = []
    for path in SITE.rglob("*.css"):
        found += [(path.name, m) for m in STYLE_OUTSIDE.findall(path.read_text(encoding="utf-8", errors="replace"))]
    for path in SITE.rglob("*.js"):
        if "mathjax" in path.parts or path.name == "searchindex.js":
            continue  # MathJax's scripts are checked in the browser: what matters is what they load
        found += [(path.name, m) for m in SCRIPT_OUTSIDE.findall(path.read_text(encoding="utf-8", errors="replace"))]
    assert found == []


@pytest.mark.parametrize("name", PAGES)
def test_links_and_anchors_resolve(name):
    assert dead_links(name) == []


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_alt_text(name):
    for image in page(name).find_all("img"):
        alt = (image.get("alt") or "").strip()
        assert alt, f"{image.get('src')} has no alt text"
        if image.find_parent(class_="cell_output"):
            assert not re.search(r"\.(svg|png)$|^_images", alt), f"{alt!r} is a file name: set mystnb: image: alt:"


@pytest.mark.parametrize("name", PAGES)
def test_page_has_one_heading_and_a_title(name):
    soup = page(name)
    assert soup.title
    assert soup.title.get_text().strip()
    # the theme repeats the title in a block that only paper shows
    headings = [h for h in soup.find_all("h1") if not h.find_parent(id="jb-print-docs-body")]
    assert len(headings) == 1


@pytest.mark.parametrize("name", TEXT_PAGES)
def test_no_unrendered_markup(name):
    """No MyST role or directive is left over as text outside of code and formulas."""
    main = BeautifulSoup(str(page(name).find("article") or page(name)), "html.parser")
    for code in main.find_all(["pre", "code", "script"]) + main.select(".math"):
        code.decompose()
    assert not re.search(r"\{[a-z:-]+\}`|:::|\(\w+-[\w-]+\)=", main.get_text())
