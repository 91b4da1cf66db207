"""The built book in a real browser: what a reader sees, with mouse, keyboard, phone, and without a network.

Oracle: Chromium's own console, requests, layout and accessibility tree (axe-core), and the book's sources for what a
page must show. Each page is visited once; the tests then read the notes of that visit, so that each failure has a name.
`make site` runs this file after `make book`.
"""

from __future__ import annotations

import re

import browser_cases as cases
import pytest

pytestmark = [
    pytest.mark.site,
    pytest.mark.skipif(not cases.BUILT, reason="no built book in _build/html: run `make book` first"),
    pytest.mark.skipif(bool(cases.why_not()), reason=cases.why_not() or "a browser is there"),
]
CHAPTER = "kryball/krylov-and-trust-regions.html"
DESKTOP_SAMPLE = [
    *(("light", name) for name in ("index.html", "verify.html")),
    *(("dark", name) for name in ("index.html", "landscapes/critical-points.html", "notation.html", "glossary.html")),
]
FROM_DISK = ["index.html", "saddle-free-newton/exact.html"]
WITH_EXPLORERS = [p for p in cases.TEXT_PAGES if "data-explorer" in (cases.SITE / p).read_text(encoding="utf-8")]


@pytest.fixture(scope="module")
def browser():
    with cases.open_browser() as running:
        yield running


@pytest.fixture(scope="module")
def home():
    with cases.serve(cases.SITE) as address:
        yield address


@pytest.fixture(scope="module")
def context(browser):
    made = browser.new_context(viewport=cases.DESKTOP, color_scheme="light", reduced_motion="reduce")
    yield made
    made.close()


@pytest.fixture(scope="module")
def visits(browser, home):
    """What was found on a page, visited at its first use.

    On a phone's screen, which is the harder one: what is too wide shows, and the text is the same. What stands around
    the text is the same on all pages; `test_is_accessible_on_a_desktop` looks at it.
    """
    phone = browser.new_context(viewport=cases.PHONE, color_scheme="light", reduced_motion="reduce")
    known = {}

    def of(name):
        if name not in known:
            known[name] = cases.visit_page(phone, home, name, glyphs=name == "index.html")
        return known[name]

    yield of
    phone.close()


@pytest.fixture
def page(context):
    opened = context.new_page()
    yield opened
    opened.close()


@pytest.mark.parametrize("name", cases.TEXT_PAGES)
class TestEveryPage:
    def test_loads_silently_and_whole(self, name, visits):
        visit = visits(name)
        assert visit.failed == []
        assert visit.outside == []
        assert visit.console == []

    def test_formulas_are_set(self, name, visits):
        visit = visits(name)
        promised = len(re.findall(r'class="[^"]*\bmath\b[^"]*notranslate', (cases.SITE / name).read_text("utf-8")))
        assert visit.formulas >= promised
        assert visit.broken_formulas == []
        assert visit.raw_formulas == []

    def test_fits_on_a_phone(self, name, visits):
        assert visits(name).too_wide == []

    def test_is_accessible(self, name, visits):
        assert visits(name).violations == []


@pytest.mark.parametrize(("scheme", "name"), DESKTOP_SAMPLE)
def test_is_accessible_on_a_desktop(scheme, name, browser, home):
    context = browser.new_context(viewport=cases.DESKTOP, color_scheme=scheme, reduced_motion="reduce")
    try:
        visit = cases.visit_page(context, home, name)
    finally:
        context.close()
    assert visit.violations == []
    assert visit.too_wide == []


@pytest.mark.parametrize("name", FROM_DISK)
def test_opens_from_disk(name, context):
    visit = cases.visit_page(context, cases.SITE.as_uri(), name, axe=False)
    assert (visit.console, visit.failed, visit.outside, visit.raw_formulas) == ([], [], [], [])


def hits(page, home, words):
    """Addresses that the book's search lists for some words, best first."""
    page.goto(f"{home}/search.html?q={words}")
    # Sphinx says "Searching" until the last hit has been written
    page.wait_for_function("/^Search Results/i.test(document.querySelector('#search-results h2')?.textContent || '')")
    page.wait_for_function(
        "/did not match|found|matching/i.test(document.querySelector('.search-summary')?.textContent)"
    )
    return [link.get_attribute("href").split("?")[0].split("#")[0] for link in page.locator("ul.search li > a").all()]


@pytest.mark.parametrize("place", ["server", "disk"])
def test_search(place, page, home):
    start = home if place == "server" else cases.SITE.as_uri()
    found = hits(page, start, "hard+case")
    assert CHAPTER in found[:5]
    assert hits(page, start, "xyzzyplugh") == []


def test_search_is_a_shortcut_away(page, home):
    page.goto(f"{home}/index.html")
    page.keyboard.press("Control+k")
    page.keyboard.type("saddle")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=saddle*")


def test_the_theme_button_turns_figures_dark(browser, home):
    context = browser.new_context(viewport=cases.DESKTOP, color_scheme="light")
    page = context.new_page()
    page.goto(f"{home}/{CHAPTER}")
    figure = page.locator("div.cell_output img").first
    look = "e => getComputedStyle(e).filter"
    before = figure.evaluate(look)
    button = page.locator("button.theme-switch-button:visible").first
    themes = []
    for _ in range(3):
        button.click()
        themes.append(page.locator("html").get_attribute("data-theme"))
        if themes[-1] == "dark":
            break
    after, ground = figure.evaluate(look), page.evaluate("getComputedStyle(document.body).backgroundColor")
    context.close()
    assert themes[-1] == "dark", themes
    assert before == "none"
    assert "invert" in after
    assert sum(map(int, re.findall(r"\d+", ground)[:3])) < 3 * 80


# What the keyboard stands on, and whether one can see it: something of its look differs from its look without focus.
FOCUS = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  document.getAnimations().forEach((a) => { try { a.finish(); } catch { a.cancel(); } });  // the skip link glides in
  const look = () => {
    const s = getComputedStyle(e), outline = s.outlineStyle !== "none" ? s.outlineWidth + s.outlineColor : "";
    return [outline, s.boxShadow, s.borderColor, s.backgroundColor, s.textDecoration, s.textDecorationThickness].join();
  };
  const box = e.getBoundingClientRect(), focused = look();
  window.tabStops ||= new Map();
  if (!tabStops.has(e)) tabStops.set(e, tabStops.size);
  e.blur(); const plain = look(); e.focus();
  const where = e.closest("#pst-skip-link, .skip-link") ? "skip link" : e.closest("article") ? "content"
    : e.closest("[class*=search]") ? "search" : e.closest("nav") ? "navigation" : "furniture";
  return {stop: tabStops.get(e), where, html: e.cloneNode(false).outerHTML.slice(0, 140),
          visible: box.width > 0 && box.height > 0 && box.bottom > 0 && box.right > 0 && focused !== plain};
}"""


def test_keyboard_reaches_everything(page, home):
    page.goto(f"{home}/saddle-free-newton/exact.html")
    page.evaluate(cases.MATHS_IS_SET)
    stops = []
    for _ in range(160):
        page.keyboard.press("Tab")
        stop = page.evaluate(FOCUS)
        if stop is None:
            break
        stops.append(stop)
        if len(stops) >= 60 and {"skip link", "search", "navigation", "content"} <= {s["where"] for s in stops}:
            break
    assert len({stop["stop"] for stop in stops[:60]}) == 60, "the keyboard goes round in a circle"
    assert stops[0]["where"] == "skip link"
    assert {"search", "navigation", "content"} <= {stop["where"] for stop in stops}
    assert [stop["html"] for stop in stops if not stop["visible"]] == []


def test_skip_link_leads_to_the_text(page, home):
    page.goto(f"{home}/{CHAPTER}")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("!!document.activeElement.closest('main')")


@pytest.mark.parametrize("name", [CHAPTER, "the-series/inverse-square-root.html"])
def test_drop_downs_open_by_enter(name, page, home):
    page.goto(f"{home}/{name}")
    page.evaluate(cases.MATHS_IS_SET)
    drop_downs = page.locator("article details:not([open])")
    assert drop_downs.count() > 0
    for index in range(min(3, page.locator("article details").count())):
        drop_down = page.locator("article details").nth(index)
        before = drop_down.evaluate("e => e.open")
        drop_down.locator("summary").first.focus()
        page.keyboard.press("Enter")
        assert drop_down.evaluate("e => e.open") is not before


def in_view(place):
    """Whether an element is there and inside the screen from left to right."""
    box = place.bounding_box() if place.count() else None
    return box is not None and box["width"] > 0 and 0 <= box["x"] < cases.PHONE["width"]


def test_menu_opens_on_a_phone(browser, home):
    context = browser.new_context(viewport=cases.PHONE, has_touch=True, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.goto(f"{home}/{CHAPTER}")
    menu = page.locator("dialog[open], .bd-sidebar-primary")
    entry = menu.locator("a:visible", has_text="Errata").first
    assert not in_view(entry)
    page.locator(".primary-toggle:visible").first.tap()
    entry.scroll_into_view_if_needed(timeout=5000)
    assert in_view(entry)
    entry.tap()
    page.wait_for_url("**/errata.html")
    context.close()


def dead_sliders(page):
    """Sliders on the open page that the keyboard cannot move or that change nothing that is shown."""
    shown = "e => [...e.querySelectorAll('svg, output, [aria-live]')].map((x) => x.outerHTML).join()"
    dead = []
    for explorer in page.locator("[data-explorer]").all():
        explorer.scroll_into_view_if_needed()
        sliders = explorer.locator("input[type=range]")
        sliders.first.wait_for(timeout=5000)
        for slider in sliders.all():
            before, value = explorer.evaluate(shown), slider.input_value()
            slider.focus()
            page.keyboard.press("ArrowRight")
            if slider.input_value() == value:  # it stood at its right end
                page.keyboard.press("ArrowLeft")
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            if slider.input_value() == value or explorer.evaluate(shown) == before:
                dead.append(slider.get_attribute("id"))
    return dead


@pytest.mark.parametrize("name", WITH_EXPLORERS)
def test_sliders_move_something(name, page, home):
    page.goto(f"{home}/{name}")
    assert page.locator("[data-explorer]").count() > 0
    assert dead_sliders(page) == []


def test_a_dead_slider_is_noticed(page, tmp_path):
    explorer = """<div data-explorer="x"><input type="range" id="dead"><input type="range" id="alive">
      <output>0</output></div>
      <script>alive.oninput = () => { document.querySelector("output").textContent = alive.value; }</script>"""
    (tmp_path / "probe.html").write_text(explorer, encoding="utf-8")
    page.goto((tmp_path / "probe.html").as_uri())
    assert dead_sliders(page) == ["dead"]


def test_an_invisible_focus_is_noticed(page, tmp_path):
    buttons = '<style>#b:focus { outline: none }</style><button id="a">a</button><button id="b">b</button>'
    (tmp_path / "probe.html").write_text(buttons, encoding="utf-8")
    page.goto((tmp_path / "probe.html").as_uri())
    seen = {}
    for name in "ab":
        page.keyboard.press("Tab")
        seen[name] = page.evaluate(FOCUS)["visible"]
    assert seen == {"a": True, "b": False}


def test_checks_can_fail(context, tmp_path):
    """A page with one of every fault: each detector sees its own, and the axe lines name the node."""
    faults = """<!doctype html><html lang="en"><title>x</title><body><main><h1>x</h1><article>
      <img src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">
      <p style="color:#aaa;background:#fff">pale</p><p class="math notranslate">\\[ x^2 \\]</p>
      <div style="width:1900px" id="broad">broad</div></article></main>
      <script src="missing.js"></script><img alt="x" src="https://cdn.example/x.png"><script>nothing()</script></body>"""
    (tmp_path / "probe.html").write_text(faults, encoding="utf-8")
    with cases.serve(tmp_path) as address:
        visit = cases.visit_page(context, address, "probe.html")
    assert any("nothing is not defined" in line for line in visit.console)
    assert any("missing.js" in line for line in visit.failed)
    assert visit.outside == ["https://cdn.example/x.png"]
    assert visit.formulas == 0
    assert visit.raw_formulas == ["\\[ x^2 \\]"]
    assert any("broad" in line for line in visit.too_wide)
    assert any(line.startswith("image-alt") for line in visit.violations)
    assert any(line.startswith("color-contrast") and "pale" in line for line in visit.violations)


def test_a_sound_page_passes(context, tmp_path):
    sound = '<!doctype html><html lang="en"><title>x</title><body><main><h1>x</h1><p>Text.</p></main></body>'
    (tmp_path / "probe.html").write_text(sound, encoding="utf-8")
    visit = cases.visit_page(context, tmp_path.as_uri(), "probe.html")
    assert visit == cases.Visit()
