"""Print the built book as one PDF: `python tools/pdf.py` (or `make pdf`).

Chromium prints each page of the table of contents from the built site, formulas set and drop-downs open, without what
only a screen can use and without folded code. pypdf then joins the pages: cover and contents in front, links between
chapters turned into links within the file, bookmarks by part, chapter and section, roman and arabic page numbers.
Left out are the reference of the package (`api`), as long as the book, and the list of all claims: each chapter
prints its own.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag

import yaml
from pdf_join import Entry, Printed, join, sheets_of
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
SITE = Path("_build/html")
TARGET = Path("_build/saddle-free.pdf")
STYLE = ROOT / "tools" / "pdf.css"
LEFT_OUT = {"api", "claims"}
SCALE = 0.78  # of the print: a text of about 840 pixels, as wide as on the screen, on A4
WIDTH = 847  # pixels between the margins of A4 at that scale
BROWSER_ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND"]
AUTHOR = "The Saddle-free authors"
TITLE, SUBTITLE = "Saddle-free", "Second-order optimization, from the eigendecomposition to a full-scale network"

# Leave the article alone, open what is closed, drop what cannot be used on paper; return title and sections.
PREPARE = """([part, targets]) => {
  const article = document.querySelector("article") || document.body;
  document.documentElement.dataset.theme = document.documentElement.dataset.mode = "light";
  document.documentElement.style.scrollPaddingTop = "0";
  let around = article;
  for (const name of ["bd-article-container", "bd-content", "bd-main"]) {
    const box = document.createElement("div"); box.className = name;
    if (around === article) box.append(article); else box.append(around);
    around = box;
  }
  document.body.replaceChildren(around);
  article.querySelectorAll("details.hide, .explorer-sliders, .explorer-try, .explorer-switch")
    .forEach((e) => e.remove());
  article.querySelectorAll("details").forEach((e) => { e.open = true; });
  article.querySelectorAll(".toggle-hidden").forEach((e) => e.classList.remove("toggle-hidden"));
  article.querySelectorAll("img").forEach((e) => { e.loading = "eager"; });
  const heading = article.querySelector("h1");
  if (part && heading) {
    const line = document.createElement("p"); line.className = "pdf-part";
    line.textContent = part; heading.before(line);
  }
  const sectionHeads = [...article.querySelectorAll("section > section > h2")];
  // Chromium writes down where an anchor is only if the page itself links to it.
  for (const id of [...targets, ...sectionHeads.map((h) => h.parentElement.id)]) {
    const link = document.createElement("a"); link.href = "#" + encodeURIComponent(id); link.hidden = true;
    document.body.append(link);
  }
  const words = (e) => { const copy = e.cloneNode(true);
    copy.querySelectorAll(".headerlink, mjx-assistive-mml").forEach((x) => x.remove());
    copy.querySelectorAll("mjx-container").forEach((x) => x.remove());
    return copy.textContent.replace(/\\s+/g, " ").trim(); };
  return [heading ? words(heading) : document.title, sectionHeads.map((h) => [h.parentElement.id, words(h)])];
}"""

# What is wider than the paper is made smaller; what is short is kept whole.
FIT = """async () => {
  await document.fonts.ready;
  await Promise.all([...document.images].map((e) => e.decode().catch(() => {})));
  const width = document.body.clientWidth;
  for (const e of document.querySelectorAll("table")) if (e.rows.length > 15) e.classList.add("pdf-long-table");
  for (const e of document.querySelectorAll("table, mjx-container[display=true] > mjx-math")) {
    const room = (e.closest("td, li, dd, .admonition, .cell_output, section") || document.body).clientWidth || width;
    const needed = e.getBoundingClientRect().width;
    if (needed > room) e.style.zoom = Math.max(0.4, (room - 4) / needed);
  }
  for (const e of document.querySelectorAll(".cell_input, div.highlight, .admonition, .cell_output, table, blockquote"))
  {
    const short = e.getBoundingClientRect().height < (e.tagName === "TABLE" ? 450 : 320);
    if (short && !e.parentElement.closest(".cell_input")) e.classList.add("pdf-short");
  }
}"""


def entries(toc: Path) -> list[Entry]:
    """The pages of the table of contents in their order; the start page belongs to no part."""
    content = yaml.safe_load(toc.read_text(encoding="utf-8"))
    found = [Entry(content["root"], "", False)]
    number = 0
    for part in content.get("parts", []):
        number += bool(part.get("numbered"))
        caption = f"Part {roman(number)} · {part['caption']}" if part.get("numbered") else part["caption"]
        names = [chapter["file"] for chapter in part["chapters"] if chapter["file"] not in LEFT_OUT]
        found += [Entry(name, caption, name == names[0]) for name in names]
    return found


def roman(number: int) -> str:
    """A small number in roman digits."""
    digits = ((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
    text = ""
    for value, sign in digits:
        text += sign * (number // value)
        number %= value
    return text


def anchors_asked_for(site: Path, names: Sequence[str]) -> dict[str, set[str]]:
    """Page name -> anchors on it that pages of the book, itself included, link to."""
    asked: dict[str, set[str]] = {name: set() for name in names}
    for name in names:
        page = (site / f"{name}.html").resolve()
        for href in re.findall(r'href="([^"]*#[^"]+)"', page.read_text(encoding="utf-8")):
            path, anchor = urldefrag(html.unescape(href))
            if ":" in path:
                continue
            target = (page.parent / unquote(path)).resolve() if path else page
            if target.is_relative_to(site.resolve()):
                other = target.relative_to(site.resolve()).with_suffix("").as_posix()
                asked.get(other, set()).add(unquote(anchor))
    return asked


def page_rules(left: str, right: str, before: int, style: str = "decimal") -> str:
    """CSS for running titles and page numbers; `before` sheets came before."""
    font = "font: 8.5pt 'Liberation Sans', sans-serif; color: #444;"
    quoted = [text.replace("\\", "").replace('"', "”") for text in (left, right)]
    return (
        f"html {{ counter-reset: page {before}; }} "
        f"@page {{ @bottom-center {{ content: counter(page, {style}); {font} }} "
        f'@top-left {{ content: "{quoted[0]}"; {font} }} @top-right {{ content: "{quoted[1]}"; {font} }} }} '
        "@page :first { @top-left { content: none; } @top-right { content: none; } }"
    )


def print_entry(tab: Any, site: Path, entry: Entry, anchors: Iterable[str], before: int) -> Printed:
    """Print one page of the site; `before` sheets came before it."""
    tab.goto((site / f"{entry.name}.html").resolve().as_uri())
    tab.evaluate("() => window.MathJax?.startup?.promise?.then(() => true) ?? true")
    title, sections = tab.evaluate(PREPARE, [entry.part if entry.opens else "", sorted(anchors)])
    tab.emulate_media(media="print", color_scheme="light", reduced_motion="reduce")
    tab.add_style_tag(path=str(STYLE))
    tab.add_style_tag(content=page_rules(entry.part or TITLE, title, before))
    tab.evaluate(FIT)
    content = to_pdf(tab)
    return Printed(entry, content, title, [(a, t) for a, t in sections], before + 1, sheets_of(content))


def to_pdf(tab: Any) -> bytes:
    """What Chromium prints of the open page."""
    content: bytes = tab.pdf(prefer_css_page_size=True, print_background=True, scale=SCALE, tagged=False)
    return content


def front_matter(site: Path, version: str, printed: Sequence[Printed]) -> str:
    """HTML of the cover and of the contents with page numbers."""
    lines, part = [], ""
    for piece in printed:
        if piece.entry.part != part:
            part = piece.entry.part
            lines.append(f'<p class="part">{html.escape(part)}</p>')
        address = (site / f"{piece.entry.name}.html").resolve().as_uri()
        label = f'<a href="{address}">{html.escape(piece.title)}</a>'
        lines.append(f'<p class="line">{label}<span>{piece.first}</span></p>')
    picture = (site / "_static" / "picture-light.svg").resolve()
    image = f'<img alt="" src="{picture.as_uri()}">' if picture.is_file() else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{TITLE}</title></head><body>'
        f'<div class="pdf-cover"><h1>{TITLE}</h1><p class="subtitle">{SUBTITLE}</p>{image}'
        f'<p class="small">{AUTHOR} · version {version}</p>'
        '<p class="small">Printed from the web edition: there code unfolds, figures move, '
        "and the reference of the package and the list of all claims are to be found.</p></div>"
        f'<div class="pdf-contents"><h1>Contents</h1>{"".join(lines)}</div></body></html>'
    )


def print_front(tab: Any, site: Path, version: str, printed: Sequence[Printed]) -> Printed:
    """Print cover and contents, numbered in roman digits."""
    page = site / f".front-{os.getpid()}.html"  # beside the pages, so that the browser may load the picture
    try:
        page.write_text(front_matter(site, version, printed), encoding="utf-8")
        tab.goto(page.resolve().as_uri())
        tab.emulate_media(media="print", color_scheme="light")
        tab.add_style_tag(path=str(STYLE))
        tab.add_style_tag(
            content=page_rules(TITLE, "Contents", 0, "lower-roman")
            + "@page :first { @bottom-center { content: none; } }"
        )
        tab.evaluate(FIT)
        content = to_pdf(tab)
        return Printed(Entry("", "", False), content, "Cover", [], 1, sheets_of(content))
    finally:
        page.unlink(missing_ok=True)


def make_pdf(site: Path, pages: Sequence[Entry], target: Path, version: str = "") -> int:
    """Print `pages` of a built site into one PDF; return its number of sheets.

    Raises:
        ValueError: a page is not in the built site, or there is no Chromium.
    """
    from playwright.sync_api import sync_playwright

    missing = [page.name for page in pages if not (site / f"{page.name}.html").is_file()]
    if missing or not pages:
        raise ValueError(f"not in {site}: {', '.join(missing) or 'any page'}; run `make book` first")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise ValueError("no Chromium on this machine; Debian has it as the package `chromium`")
    anchors = anchors_asked_for(site, [page.name for page in pages])
    printed: list[Printed] = []
    before = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=BROWSER_ARGUMENTS)
        try:
            context = browser.new_context(viewport={"width": WIDTH, "height": 1100}, color_scheme="light", offline=True)
            for entry in tqdm(pages, desc="printing", unit="page"):
                tab = context.new_page()
                printed.append(print_entry(tab, site, entry, anchors[entry.name], before))
                tab.close()
                before += printed[-1].sheets
            front = print_front(context.new_page(), site, version, printed)
        finally:
            browser.close()
    about = {"/Title": f"{TITLE}: {SUBTITLE}", "/Author": AUTHOR, "/Subject": f"Version {version}"}
    return join(site, front, printed, about, target)


def main() -> int:
    """Bring the book up to date, print it, say how long and how large it is."""
    os.chdir(ROOT)
    parser = argparse.ArgumentParser(description="Print the built book as one PDF.")
    parser.add_argument("--site", type=Path, help="a built site; without it the book is brought up to date first")
    parser.add_argument("--pages", nargs="+", help="print these pages only, e.g. index the-series/acceleration")
    parser.add_argument("--output", type=Path, default=TARGET)
    chosen = parser.parse_args()
    if chosen.site is None:
        built = subprocess.run([sys.executable, str(ROOT / "tools" / "book.py")])
        if built.returncode:
            return built.returncode
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    pages = [page for page in entries(Path("_toc.yml")) if not chosen.pages or page.name in chosen.pages]
    try:
        sheets = make_pdf(chosen.site or SITE, pages, chosen.output, version)
    except ValueError as error:
        print(f"not printed: {error}", file=sys.stderr)
        return 1
    print(f"{chosen.output}: {sheets} pages, {chosen.output.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
