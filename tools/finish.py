"""Finish the built site: `python tools/finish.py [HTML] [NOTEBOOKS]`; tools/book.py calls :func:`finish`.

What Jupyter Book does not write is put into the pages afterwards: previews and icons (head tags), where one is (a line
above the title, numbers of parts in the sidebar), the menu that runs or downloads a page, the notebooks themselves,
what the tooltips of terms and equations say, and a few repairs for screen readers.

Each insertion stands between two comments, and the old ones are taken out first: a second call changes nothing, and
pages that an incremental build left alone are brought up to date.
"""

from __future__ import annotations

import html as markup
import json
import os
import posixpath
import re
import shutil
import sys
from pathlib import Path

from furniture import DESCRIPTION, Part, head_tags, known_repository, menu, place, plain, shortened

_INSERTED = re.compile(r"<!--furniture-->.*?<!--/furniture-->", re.S)
_CAPTION = re.compile(r'<span class="caption-text">(.*?)</span></p>\s*<ul[^>]*>(.*?)</ul>', re.S)
_ENTRY = re.compile(r'<a class="[^"]*reference internal" href="([^"]+)">\s*(.*?)\s*</a>', re.S)
_TERM = re.compile(r"<dt id=\"(term-[^\"]+)\">(.*?)</dt>")
_EQUATION = re.compile(
    r'<div class="math[^"]*" id="(equation-[^"]+)">\s*(?:<span class="eqno">.*?</span>)?(.*?)</div>', re.S
)
_SCRIPT = "glossary.json.js"
_IMAGES = {".png", ".svg", ".jpg", ".jpeg", ".gif", ".webp"}


def between(text: str) -> str:
    """An insertion with the comments that let the next call find it."""
    return f"<!--furniture-->{text}<!--/furniture-->"


def parts_of(index: str) -> tuple[Part, ...]:
    """The parts of the book, from the sidebar of its first page."""
    found: list[Part] = []
    number = 0
    sidebar = index[index.find('id="pst-primary-sidebar"') : index.find("<main")]
    for caption, entries in _CAPTION.findall(sidebar):
        pages = tuple((href.removesuffix(".html"), plain(title)) for href, title in _ENTRY.findall(entries))
        numbered = any(re.match(r"\d+\. ", title) for _, title in pages)
        number += numbered
        found.append(Part(plain(caption), number if numbered else 0, pages))
    return tuple(part for part in found if part.pages)


def description_of(text: str) -> str:
    """The first paragraph of a page that is long enough to say something, else what the book is about."""
    article = text.find('<article class="bd-article"')
    for paragraph in re.finditer(r"<p>(.*?)</p>", text[max(article, 0) : article + 60_000], re.S):
        words = plain(paragraph[1])
        if len(words) >= 40 and article >= 0:
            return shortened(words)
    return DESCRIPTION


def definitions(page: str) -> dict[str, list[str]]:
    """Each term of the glossary page with its words and its definition; formulas stay in TeX."""
    found = {}
    starts = list(_TERM.finditer(page))
    for term, following in zip(starts, [*starts[1:], None], strict=True):
        rest = page[term.end() : following.start() if following else len(page)]
        body = re.match(r"\s*<dd>(.*?)</dd>", rest, re.S)
        if body:
            name = re.sub(r"<a class=\"headerlink.*?</a>", "", term[2])
            found[term[1]] = [_text(name), _text(body[1])]
        else:
            found[term[1]] = []  # several terms share the definition that follows
    shared: list[str] = []
    for key in reversed(found):
        shared = found[key] = found[key] or shared
    return {key: value for key, value in found.items() if value}


def _text(piece: str) -> str:
    return " ".join(markup.unescape(re.sub(r"<[^>]+>", "", piece)).split())


def equations(pages: dict[str, str]) -> dict[str, str]:
    """Each numbered equation of the book, in TeX."""
    return {key: _text(tex) for text in pages.values() for key, tex in _EQUATION.findall(text)}


def with_part_numbers(text: str, parts: tuple[Part, ...], root: str) -> str:
    """Numbers before the captions in the sidebar, as in the line above the title."""
    end = text.find("<main")
    sidebar, rest = text[:end], text[end:]
    for part in parts:
        if part.number:
            caption = f'<span class="caption-text">{markup.escape(part.caption, quote=False)}</span>'
            number = between(f'<span class="part-number">{part.title.split()[1]}</span>')
            sidebar = sidebar.replace(caption, number + caption, 1)
    return sidebar + rest


def finished(text: str, page: str, parts: tuple[Part, ...], has_notebook: bool, repository: str | None) -> str:
    """One page with its furniture; ``page`` is its path inside the site."""
    text = _INSERTED.sub("", text)
    root = posixpath.relpath(".", posixpath.dirname(page) or ".") + "/"
    root = "" if root == "./" else root
    title = plain(re.search(r"<title>(.*?)</title>", text, re.S)[1]) if "<title>" in text else page  # type: ignore[index]
    tags = head_tags(page, title.removesuffix("— Saddle-free").strip(), description_of(text), root, repository)
    if re.search(r'href="[^"]*#(?:term|equation)-', text):
        tags += f'\n<script defer="defer" src="{root}_static/{_SCRIPT}"></script>'
    text = text.replace("</head>", between(tags) + "</head>", 1)
    text = with_part_numbers(text, parts, root)
    article = text.find('<article class="bd-article"')
    heading = text.find("<h1>", article)
    where = place(page, parts, root)
    if where and 0 <= article < heading:
        text = text[:heading] + between(where) + text[heading:]
    if has_notebook:
        buttons = '<div class="article-header-buttons">'
        text = text.replace(buttons, buttons + between(menu(page, root, repository)), 1)
    # A list whose items no longer count as such, and links between them: screen readers say "list, empty".
    return text.replace('<div role="list" class="citation-list">', '<div class="citation-list">').replace(
        ' role="doc-biblioentry"', ""
    )


def copy_notebooks(notebooks: Path, target: Path) -> set[str]:
    """The exported notebooks and their pictures into the site; returns the names of the pages that have one."""
    shutil.rmtree(target, ignore_errors=True)
    names = set()
    for path in sorted(p for p in notebooks.rglob("*") if p.suffix in {".ipynb", *_IMAGES}):
        relative = path.relative_to(notebooks)
        if ".ipynb_checkpoints" in relative.parts:
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target / relative)
        if path.suffix == ".ipynb":
            names.add(relative.with_suffix("").as_posix())
    return names


def write(path: Path, text: str) -> None:
    """Write a file in one go, and only if it differs."""
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def finish(html: Path, notebooks: Path, repository: str | None) -> None:
    """Bring the site in ``html`` to its final state; a second call changes nothing.

    ``notebooks`` holds the exported notebooks; ``repository`` is `owner/name` on GitHub, or None for a local build.

    Raises
    ------
    ValueError
        No built site, no exported notebooks, or a repository's name that is none.
    """
    if not (html / "index.html").is_file():
        raise ValueError(f"no built site in {html}: build it first (make book)")
    if not any(notebooks.rglob("*.ipynb")):
        raise ValueError(f"no notebooks in {notebooks}: export them first (make notebooks)")
    chapters = copy_notebooks(notebooks, html / "notebooks")
    paths = [p for p in sorted(html.rglob("*.html")) if not {"_static", "notebooks"} & set(p.relative_to(html).parts)]
    pages = {path.relative_to(html).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    parts = parts_of(pages["index.html"])
    for page, text in pages.items():
        write(html / page, finished(text, page, parts, page.removesuffix(".html") in chapters, repository))
    shown = {"terms": definitions(pages.get("glossary.html", "")), "equations": equations(pages)}
    script = json.dumps(shown, ensure_ascii=False, sort_keys=True, separators=(",", ":")).replace("</", "<\\/")
    write(html / "_static" / _SCRIPT, f"window.SaddleFreeReferences={script};\n")


def main(html: str = "_build/html", notebooks: str = "_build/notebooks") -> int:
    """Finish a site and say so."""
    finish(Path(html), Path(notebooks), known_repository())
    print(f"{html} is finished")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
