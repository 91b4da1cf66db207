"""The built book in a headless Chromium: one visit of a page collects what the tests of `test_browser.py` look at.

A visit loads the page, waits for its formulas, and notes console errors, requests, formulas, what is too wide on a
phone, and what axe-core objects to. Nothing is downloaded: Chromium is the installed one, axe-core comes with its
Python package.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import importlib.util
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SITE = Path(__file__).resolve().parents[2] / "_build" / "html"
BUILT = (SITE / "index.html").is_file()
GENERATED = {"genindex.html", "search.html", "py-modindex.html", "prf-prf.html"}
PAGES = (
    sorted(p.relative_to(SITE).as_posix() for p in SITE.rglob("*.html") if "_static" not in p.parts) if BUILT else []
)
TEXT_PAGES = [p for p in PAGES if p not in GENERATED and not p.startswith("_modules/")]

DESKTOP = {"width": 1366, "height": 900}
PHONE = {"width": 390, "height": 844}
# No name but this machine's is resolved, so that a page that asks for something outside cannot get it.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
# What the theme's and Sphinx's own scripts say when all is well.
CHATTER = re.compile(r"Got invalid theme mode: \. Resetting")
# (rule, pattern of the node's HTML) -> why it may stay. Every entry needs a reason.
ACCEPTED: dict[tuple[str, str], str] = {}


def why_not() -> str:
    """The reason why no browser can be driven here, or nothing."""
    missing = [name for name in ("playwright", "axe_playwright_python") if importlib.util.find_spec(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "" if executable() else "no Chromium on this machine"


@functools.cache
def executable() -> str:
    """Path of the installed Chromium or Chrome, else of playwright's own one, else an empty string."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    cache = Path.home() / ".cache" / "ms-playwright"
    own = sorted(cache.glob("chromium-*/chrome-linux*/chrome"))
    return str(own[-1]) if own else ""


@contextlib.contextmanager
def open_browser() -> Iterator[Any]:
    """A headless Chromium. Playwright allows one at a time in a thread, so fixtures that use it end with their file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine; yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()


@dataclass
class Visit:
    """What one visit of a page found."""

    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    formulas: int = 0
    broken_formulas: list[str] = field(default_factory=list)
    raw_formulas: list[str] = field(default_factory=list)
    too_wide: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


MATHS_IS_SET = "() => window.MathJax?.startup?.promise?.then(() => true) ?? true"

# Text that still is TeX, outside of code and of what MathJax has set.
RAW_FORMULAS = r"""() => {
  const found = [], article = document.querySelector("article") || document.body;
  const walk = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode())
    if (/\$\$|\\\(|\\\[|\\begin\{/.test(node.data) &&
        !node.parentElement.closest("pre, code, script, style, mjx-container"))
      found.push(node.data.trim().slice(0, 80));
  return found;
}"""

# Elements that reach over the right edge, unless something around them scrolls by itself; the page only if it scrolls.
TOO_WIDE = """() => {
  const root = document.scrollingElement, limit = root.clientWidth + 1;
  if (root.scrollWidth <= limit) return [];
  const scrolls = (e) => { for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
    if (getComputedStyle(p).overflowX !== "visible") return true; return false; };
  const wide = [...document.body.querySelectorAll("*")].filter((e) =>
    e.getBoundingClientRect().right > limit && !scrolls(e));
  const last = wide.filter((e) => !wide.some((o) => o !== e && e.contains(o))).slice(0, 4);
  return [`page is ${root.scrollWidth} wide on a screen of ${root.clientWidth}`,
          ...last.map((e) => e.cloneNode(false).outerHTML.slice(0, 120) + " " + e.textContent.trim().slice(0, 60))];
}"""

# axe looks at each element, so what repeats is thinned out first: glyphs of formulas (presentation only; the start
# page, which has few, is looked at whole), tokens of code of a kind already seen, further entries of the reference.
THIN_OUT = """(glyphs) => {
  if (!glyphs) document.querySelectorAll("mjx-container").forEach((e) => { e.textContent = "formula"; });
  const seen = new Map();
  const nth = (key) => { seen.set(key, (seen.get(key) || 0) + 1); return seen.get(key); };
  document.querySelectorAll("section > dl.py").forEach((e) => { if (nth(e.className) > 2) e.remove(); });
  document.querySelectorAll("dl.py dl.py").forEach((e) => { if (nth("within " + e.className) > 2) e.remove(); });
  document.querySelectorAll(".page-toc li li").forEach((e) => { if (nth("contents") > 20) e.remove(); });
  document.querySelectorAll("pre").forEach((pre) => {
    const place = (pre.closest("[class*=highlight-], .cell_output") || pre).className;
    for (const token of [...pre.querySelectorAll("span")])
      if (nth(place + "|" + token.className) > 1) token.replaceWith(...token.childNodes);
    pre.normalize();
  });
}"""

# For contrast alone: one text of each kind (tags, classes and colour up to the root) stands for the others.
ONE_TEXT_OF_EACH_KIND = """() => {
  const seen = new Set();
  const kind = (e) => { let key = getComputedStyle(e).color;
    for (let p = e; p && p !== document.body; p = p.parentElement) key += ">" + p.tagName + "." + p.className;
    return key; };
  for (const e of document.body.querySelectorAll("*")) {
    const texts = [...e.childNodes].filter((n) => n.nodeType === 3 && n.data.trim());
    if (!texts.length) continue;
    const key = kind(e);
    if (seen.has(key)) texts.forEach((n) => n.remove()); else seen.add(key);
  }
}"""
AXE = """async (options) => (await axe.run(document,
  {preload: false, iframes: false, resultTypes: ["violations"], ...options})).violations"""


@functools.cache
def axe_source() -> str:
    """axe-core's script, as its Python package brings it."""
    spec = importlib.util.find_spec("axe_playwright_python")
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(page: Any, glyphs: bool = False) -> list[str]:
    """Serious and critical violations on the open page, a line for each node. Changes the page: no look at it after."""
    page.evaluate(axe_source() + "; 0")
    page.evaluate(THIN_OUT, glyphs)
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
    later, moderate = {"color-contrast": {"enabled": False}}, {"region": {"enabled": False}}
    found = page.evaluate(AXE, {"runOnly": tags, "rules": later | moderate})
    page.evaluate(ONE_TEXT_OF_EACH_KIND)
    found += page.evaluate(AXE, {"runOnly": ["color-contrast"]})
    lines = []
    for rule in found:
        if rule["impact"] not in ("serious", "critical"):
            continue
        for node in rule["nodes"]:
            if any(rule["id"] == name and re.search(pattern, node["html"]) for name, pattern in ACCEPTED):
                continue
            reason = node["failureSummary"].splitlines()[1].strip() if "\n" in node["failureSummary"] else ""
            lines.append(f"{rule['id']} ({rule['impact']}): {node['target']} {node['html'][:160]} -- {reason}")
    return lines


def said(message: Any) -> str:
    """A line of the console with the place it comes from."""
    return f"{message.text} ({message.location['url']})"


def listen(page: Any, home: str) -> Visit:
    """Note what the page says and asks for from now on; `home` is the beginning of every address that is its own."""
    visit = Visit()
    page.on(
        "console",
        lambda m: visit.console.append(said(m)) if m.type == "error" and not CHATTER.search(m.text) else None,
    )
    page.on("pageerror", lambda error: visit.console.append(str(error)))
    page.on("requestfailed", lambda r: visit.failed.append(f"{r.url}: {r.failure}"))
    page.on("response", lambda r: visit.failed.append(f"{r.url}: status {r.status}") if r.status >= 400 else None)

    def asked(request: Any) -> None:
        if not request.url.startswith((home, "data:", "blob:", "about:")):
            visit.outside.append(request.url)

    page.on("request", asked)
    return visit


def look(page: Any, visit: Visit) -> None:
    """Wait for the formulas of the open page, then note how they came out and what is too wide for the screen."""
    page.evaluate(MATHS_IS_SET)
    visit.formulas = page.locator("mjx-container").count()
    visit.broken_formulas = page.locator("mjx-merror, [data-mjx-error]").all_text_contents()
    visit.raw_formulas = page.evaluate(RAW_FORMULAS)
    visit.too_wide = page.evaluate(TOO_WIDE)


def visit_page(context: Any, home: str, name: str, *, axe: bool = True, glyphs: bool = False) -> Visit:
    """Open one page and collect everything about it, at the size of the context's screen."""
    page = context.new_page()
    try:
        visit = listen(page, home)
        page.goto(f"{home}/{name}")
        look(page, visit)
        if axe:
            visit.violations = violations(page, glyphs)
        return visit
    finally:
        page.close()
