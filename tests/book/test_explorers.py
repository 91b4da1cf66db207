"""The interactive figures (book/_static/explorers): their mathematics, what they show, and who can use them.

Oracles: the golden vectors, which know nothing of the scripts; `refimpl` and NumPy for the numbers that a figure shows;
`refimpl.plot` for its colours; axe-core and Chromium for the rest. The figures are taken from the chapters' own raw
blocks and opened as files, without a built book and without a network. `make site` runs what needs a browser.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from explorer_cases import (
    BROKEN,
    CALLS,
    CHAPTERS,
    CHROMIUM,
    FOLDER,
    PAGE,
    READ,
    ROOT,
    SET,
    SITE,
    STATE,
    STATIC,
    block,
    golden,
    in_browser,
    number,
    settings,
)

from refimpl import plot
from refimpl.curvature.stability import optimal_parameters, spectral_radius
from refimpl.curvature.trust_region import trust_region_step

# ---- without a browser ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHAPTERS)
def test_block_names_files_that_exist(name):
    """One figure of that name, its scripts in an order that works, readable without them."""
    text = block(name)
    up = "../" * CHAPTERS[name].count("/")
    files = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert all(file.startswith(f"{up}_static/explorers/") for file in files)
    assert all((FOLDER / Path(file).name).is_file() for file in files)
    scripts = [Path(file).stem for file in files if file.endswith(".js")]
    order = ["mathematics", "subproblem", "axes", "kit", name]
    assert scripts == [script for script in order if script in scripts]
    assert {"mathematics", "axes", "kit", name} <= set(scripts)
    assert f'data-explorer="{name}"' in text
    assert "<noscript>" in text
    assert len(re.sub(r"<[^>]*>", "", text.split("<figcaption>")[1]).split()) > 40


def test_only_pages_that_name_the_files_load_them():
    """Jupyter Book would put them into every page; the extension that prevents it is switched on."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    assert "tools.page_scripts" in config["sphinx"]["config"]["extensions"]


def test_nothing_is_loaded_from_outside_and_nothing_is_a_module():
    for path in FOLDER.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "//" not in re.sub(r"(^|\s)//.*", "", text), path.name
        assert not re.search(r"^\s*(?:import|export)\b|@import|\bfetch\(|XMLHttpRequest", text, re.M), path.name
        assert len(text.splitlines()) <= 400, path.name


def test_colours_are_those_of_the_book():
    """Each colour is one of refimpl.plot's; its dark partner is what the style sheet's filter makes of it."""
    css = (FOLDER / "explorers.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6});", css.partition(start)[2].partition("}")[0]))
        for start in (".explorer {", 'html[data-theme="dark"] .explorer {')
    )
    known = {style.color for style in plot.METHODS.values()} | set(plot.ACCENT.values())
    assert light.keys() == dark.keys() >= {"ink", "blue", "red"}
    assert set(light.values()) <= known
    assert {name: plot.on_dark(color) for name, color in light.items()} == dark
    assert light["green"] == plot.METHODS["series-sfn"].color
    assert light["teal"] == plot.METHODS["trust-region"].color
    assert light["purple"] == plot.METHODS["newton"].color


# ---- in a browser -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def mathematics(browser):
    page = browser.new_page()
    for name in ("mathematics", "subproblem"):
        page.add_script_tag(path=FOLDER / f"{name}.js")
    yield page
    page.close()


@pytest.fixture
def figure(browser, tmp_path):
    """Opens a chapter's figure: figure(name, width=…, theme=…, motion=…) returns the page; errors fail the test."""
    errors, contexts = [], []

    def opened(name, width=1000, theme="light", motion="reduce"):
        text = re.sub(r"(?:\.\./)*_static", STATIC.as_uri(), block(name))
        path = tmp_path / f"{name}.html"
        path.write_text(PAGE.format(name=name, block=text, theme=theme), encoding="utf-8")
        context = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion=motion, offline=True)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert errors == []


@in_browser
@pytest.mark.parametrize("case", list(golden()))
def test_mathematics_against_golden_vectors(case, mathematics):
    """Within the tolerance that the vector asks for, 1e-13 or 1e-12; a rotation of Jacobi's is as good as LAPACK."""
    found = mathematics.evaluate(f"(i) => {{ const S = SaddleFree; return {CALLS[case['call']]}; }}", case["inputs"])
    expected = case["expected"]
    pairs = [(found[key], expected[key]) for key in expected] if isinstance(expected, dict) else [(found, expected)]
    for got, want in pairs:
        got, want = np.asarray(got, float), np.asarray(want, float)
        assert got.shape == want.shape
        assert np.max(np.abs(got - want)) <= case["rtol"] * (np.max(np.abs(want)) or 1.0)


@in_browser
def test_mathematics_refuses_wrong_input(mathematics):
    for call in (
        "eigen([[1, 2], [3, 4]])",
        "eigen([[NaN]])",
        "trustRegionStep([[1]], [1], -1)",
        "trustRegionStep([[1]], [1, 2], 1)",
        "seriesCoefficients(0)",
        "seriesDirection([[1]], [1], 3, 0)",
        "seriesDirection([[1]], [1], 3, 1, 'cube')",
        "optimalParameters(0.5)",
        "spectralRadius(1, 1, 'nesterov')",
    ):
        kind = mathematics.evaluate(
            f"(() => {{ try {{ SaddleFree.{call}; return 'nothing'; }} catch (e) {{ return e.name; }} }})()"
        )
        assert kind == "RangeError", call


@in_browser
def test_triangles_are_level_sets(mathematics):
    """On the sides of the triangle of r the spectral radius is r, by NumPy's eigenvalue formula in refimpl."""
    for rule in ("curveball", "heavy-ball"):
        for r in (0.3, 0.7, 1.0):
            corners = np.array(mathematics.evaluate("([r, rule]) => SaddleFree.radiusTriangle(r, rule)", [r, rule]))
            for a, b in zip(corners, np.roll(corners, 1, axis=0), strict=True):
                for share in (0.2, 0.5, 0.9):
                    rate, momentum = share * a + (1 - share) * b
                    np.testing.assert_allclose(
                        spectral_radius(np.float64(momentum), np.float64(rate), rule), r, rtol=1e-7
                    )


@in_browser
def test_series_shows_the_error_of_the_direction(figure):
    """The error of the whole direction for random settings, against powers of the dense matrix Z."""
    page, rng = figure("series"), np.random.default_rng(0)
    counts = [1, 2, 3, 4, 6, 8, 12, 18, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]
    for trial in range(6):
        chosen = settings(page, rng) | ({"negative": 100} if trial == 0 else {})
        page.evaluate(SET, chosen)
        K, V = counts[int(chosen["terms"])], 2 ** chosen["scale"] / 2
        size = np.geomspace(10.0 ** -chosen["condition"], 1, 24)
        z, term, total = 1 - size**2 / V, np.ones(24), np.ones(24)
        for k in range(1, K):
            term = term * z * (2 * k - 1) / (2 * k)
            total = total + term
        gain = total / np.sqrt(V)
        error = np.linalg.norm(gain - 1 / size) / np.linalg.norm(1 / size)
        read = page.evaluate(READ)
        shown = next(value for label, value in read.items() if label.startswith("error"))
        np.testing.assert_allclose(number(shown), error, rtol=0.06, atol=1e-13)
        assert read["products with H"] == str(2 * (K - 1))
        diverges = "diverges" in page.locator(".explorer svg").first.inner_html()
        assert diverges == (np.sqrt(2 * V) < 1.95)
        if trial == 0:
            np.testing.assert_allclose(number(read["cosine of Newton's direction"]), -1)


@in_browser
def test_curveball_shows_rate_and_optimum(figure):
    page, rng = figure("curveball"), np.random.default_rng(1)
    for _ in range(8):
        chosen = settings(page, rng)
        page.evaluate(SET, chosen)
        rule, kappa = "heavy-ball" if chosen["heavy"] else "curveball", 10 ** chosen["condition"]
        scaled = 10 ** chosen["rate"] * np.geomspace(1, kappa, 200)
        read = page.evaluate(READ)
        rate = float(spectral_radius(np.float64(chosen["momentum"]), scaled, rule).max())
        np.testing.assert_allclose(number(read["rate per iteration"]), rate, atol=6e-4)
        np.testing.assert_allclose(number(read["best possible rate"]), optimal_parameters(kappa, rule).rate, atol=6e-4)
        assert (read["iterations per digit"] == "never") == (rate >= 1 - 1e-9)


@in_browser
def test_trust_region_shows_the_solution(figure):
    page, rng = figure("trust-region"), np.random.default_rng(2)
    for trial in range(10):
        chosen = settings(page, rng) | ({"angle": int(rng.integers(4)) * 90} if trial % 2 else {})
        page.evaluate(SET, chosen)
        cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}.get(
            chosen["angle"] % 360, (np.cos(np.radians(chosen["angle"])), np.sin(np.radians(chosen["angle"])))
        )
        B = np.diag(np.round([chosen["first"], chosen["second"]], 1))
        found = trust_region_step(B, np.array([1.5 * cos, 1.5 * sin]), chosen["radius"])
        read = page.evaluate(READ)
        np.testing.assert_allclose(number(read["multiplier λ"]), found.multiplier, rtol=6e-3, atol=1e-12)
        np.testing.assert_allclose(number(read["model m(p)"]), found.model, rtol=6e-3)
        assert read["case"] == found.kind


@in_browser
def test_hard_case_is_hit_exactly_and_announced(figure):
    page = figure("trust-region")
    dots = page.locator(".explorer svg").first.locator(".mark.red")
    says = page.locator(".explorer-summary")
    page.get_by_role("button", name="Hard case").click()
    assert page.evaluate(STATE)["angle"] == 90
    assert "Hard case: two solutions" in says.inner_text()
    assert dots.count() == 2
    page.get_by_role("button", name="One degree beside it").click()
    assert "Hard" not in says.inner_text()
    assert dots.count() == 1
    page.evaluate(SET, {"angle": 90, "radius": 0.5})  # a ball that ends before the fork
    said = "document.querySelector('.explorer-summary').textContent"
    page.wait_for_function(f"/^Boundary.*orthogonal to v1/.test({said})")
    assert "no pole" in page.locator(".explorer svg").nth(1).get_attribute("aria-label")
    assert dots.count() == 1


@in_browser
def test_saddle_shows_the_losses(figure):
    page, rng = figure("saddle"), np.random.default_rng(3)
    for trial in range(6):
        chosen = settings(page, rng) | ({"angle": 0} if trial == 0 else {})
        page.evaluate(SET, chosen)
        h = np.round([chosen["across"], chosen["along"]], 2)
        size = np.where(h == 0, np.inf, np.abs(h))
        angle = np.radians(chosen["angle"])
        start = 1.5 * np.array([np.cos(angle), np.sin(angle)]) * (np.array([1, 0]) if trial == 0 else 1)
        rates = {"gradient descent": 1 / np.abs(h).max(), "Newton": np.sign(h) / size, "saddle-free Newton": 1 / size}
        read = page.evaluate(READ)
        for method, rate in rates.items():
            end = start * (1 - chosen["share"] * rate * h) ** 12
            np.testing.assert_allclose(number(read[f"loss, {method}"]), 0.5 * end @ (h * end), rtol=0.06, atol=2e-9)


@in_browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_sliders_by_keyboard(name, figure):
    """Tab reaches each one; an arrow key moves picture and words; the ends of the range are fine; reset undoes all."""
    page = figure(name)
    first, look = page.evaluate(STATE), page.locator(".explorer-pictures").inner_html
    start = look()
    for index, slider in enumerate(page.locator(".explorer input").all()):
        assert slider.evaluate("e => e.labels.length === 1 && e.labels[0].textContent.length > 3")
        page.keyboard.press("Tab")
        assert slider.evaluate("e => e === document.activeElement"), index
        assert float(slider.evaluate("e => parseFloat(getComputedStyle(e).outlineWidth)")) >= 2
        before = look()
        keys = ["Space"] if slider.get_attribute("type") == "checkbox" else ["ArrowRight", "End", "Home"]
        for key in keys:
            page.keyboard.press(key)
            page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert look() != before, (slider.get_attribute("id"), key)
            assert not BROKEN.search(page.locator(".explorer").inner_html())
        if len(keys) > 1:
            shown = slider.evaluate("e => e.parentNode.querySelector('output').textContent")
            assert slider.get_attribute("aria-valuetext") == shown != ""
    page.get_by_role("button", name="Reset").click()
    assert page.evaluate(STATE) == first
    plain = lambda text: re.sub(r"explorer-clip-\d+", "", text)  # noqa: E731
    assert plain(look()) == plain(start)


@in_browser
@pytest.mark.parametrize("name", CHAPTERS)
def test_any_setting_on_a_phone(name, figure):
    """360 pixels wide: nothing sticks out or moves, and no setting shows something that is no number."""
    page, rng = figure(name, width=360), np.random.default_rng(4)
    place = "() => [document.scrollingElement.scrollWidth, document.querySelector('#after').offsetTop]"
    start = page.evaluate(place)
    assert start[0] <= 360
    buttons = page.locator(".explorer-try button")
    for trial in range(5 + buttons.count()):
        if trial < 5:
            page.evaluate(SET, settings(page, rng))
        else:
            buttons.nth(trial - 5).click()  # the sentence comes at once
        assert page.evaluate(place) == start
        assert not BROKEN.search(page.locator(".explorer").inner_html())
        assert page.locator(".explorer-numbers dd").evaluate_all(
            "all => all.every(e => e.scrollWidth <= e.clientWidth)"
        )


@in_browser
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", CHAPTERS)
def test_no_violation_of_accessibility_rules(name, theme, figure):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    page = figure(name, theme=theme)
    found = axe.Axe().run(page, context=".explorer", options={"preload": False}).response["violations"]
    assert [(v["id"], [node["html"] for node in v["nodes"]]) for v in found] == []
    for picture in page.locator(".explorer svg").all():
        assert picture.get_attribute("role") == "img"
        assert len(picture.get_attribute("aria-label").split()) > 15


@in_browser
def test_text_alternatives_follow_the_sliders(figure):
    page = figure("curveball")
    before = [svg.get_attribute("aria-label") for svg in page.locator(".explorer svg").all()]
    page.evaluate(SET, {"momentum": 1.2})
    after = [svg.get_attribute("aria-label") for svg in page.locator(".explorer svg").all()]
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert "1.20" in after[0]


@in_browser
def test_theme_is_followed_at_once(figure):
    page = figure("series")
    color = "() => getComputedStyle(document.querySelector('.explorer svg .line.green')).stroke"
    shown = [page.evaluate(color)]
    page.evaluate("() => { document.documentElement.dataset.theme = 'dark'; }")
    shown.append(page.evaluate(color))
    green = plot.METHODS["series-sfn"].color
    assert shown == [f"rgb{tuple(bytes.fromhex(c[1:]))}" for c in (green, plot.on_dark(green))]


@in_browser
def test_motion_only_for_who_wants_it(figure):
    """A suggestion glides to its setting, or jumps there where the reader prefers reduced motion."""
    click = """() => { document.querySelector(".explorer-try button").click();
      return Number(document.querySelector("input[id$=-negative]").value); }"""
    calm, lively = figure("series"), figure("series", motion="no-preference")
    assert calm.evaluate(click) == 100
    assert lively.evaluate(click) < 100
    lively.wait_for_function("document.querySelector('input[id$=-negative]').value === '100'", timeout=5000)
    assert lively.evaluate(STATE) == calm.evaluate(STATE)


@in_browser
def test_without_scripts_the_caption_remains(browser, tmp_path):
    path = tmp_path / "plain.html"
    path.write_text(PAGE.format(name="x", block=block("series"), theme="light"), encoding="utf-8")
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    text = page.locator("figure").inner_text()
    page.close()
    assert "needs JavaScript" in text
    assert "what K terms make of a spectrum" in text


@in_browser
@pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="no built book in _build/html: run `make book` first")
def test_built_pages_that_have_a_figure_load_its_files_and_no_others():
    pages = {name: (SITE / chapter).with_suffix(".html") for name, chapter in CHAPTERS.items()}
    for name, path in pages.items():
        assert path.read_text(encoding="utf-8").count(f"_static/explorers/{name}.js") == 1
    for path in SITE.rglob("*.html"):
        if path not in pages.values() and "_static" not in path.parts:
            assert "_static/explorers/" not in path.read_text(encoding="utf-8"), path.relative_to(SITE)
