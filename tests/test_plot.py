"""The look of every method: told apart with and without color, readable in both themes, as the style sheet shows it.

Oracles: WCAG 2's contrast formula; the CSS filters as the W3C Filter Effects module defines them, with the numbers
that stand in the style sheet.
"""

import importlib
import inspect
import math
import pkgutil
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from refimpl import optimizers, plot
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.problems.toy import DoubleWell, HorseSaddle, Rosenbrock, Wood

CSS = Path(__file__).resolve().parent.parent / "book" / "_static" / "custom.css"
DARK_PAGE = "#141414"
PAIRS = list(combinations(plot.METHODS.items(), 2))


@pytest.fixture
def ax():
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


@pytest.fixture(autouse=True)
def light_again():
    plt.switch_backend("agg")
    yield
    plot.use_style("light")
    matplotlib.rcdefaults()


def luminance(color):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# -- the table --------------------------------------------------------------------------------------------------------


def test_methods_are_told_apart_by_line():
    same = [(a, b) for (a, s), (b, t) in PAIRS if (s.color, s.linestyle) == (t.color, t.linestyle)]
    assert same == []


def test_methods_of_one_color_have_different_markers():
    assert [(a, b) for (a, s), (b, t) in PAIRS if s.color == t.color and s.marker == t.marker] == []


def test_methods_are_told_apart_without_color():
    assert [(a, b) for (a, s), (b, t) in PAIRS if (s.linestyle, s.marker) == (t.linestyle, t.marker)] == []


def test_labels_are_unique():
    assert len({style.label for style in plot.METHODS.values()}) == len(plot.METHODS)


def test_every_optimizer_has_a_style():
    names = set()
    for module in pkgutil.iter_modules(optimizers.__path__):
        for _, kind in inspect.getmembers(
            importlib.import_module(f"refimpl.optimizers.{module.name}"), inspect.isclass
        ):
            if isinstance(getattr(kind, "name", None), str) and (hasattr(kind, "step") or hasattr(kind, "drive")):
                names.add(kind.name)
    assert len(names) >= 12
    assert names <= set(plot.METHODS)


COLORS = sorted({style.color for style in plot.METHODS.values()} | set(plot.ACCENT.values()))


@pytest.mark.parametrize("color", COLORS)
def test_contrast_on_light_paper(color):
    assert contrast(color, plot.PAPER["light"]) >= 3


@pytest.mark.parametrize("color", COLORS)
def test_contrast_on_the_dark_page(color):
    assert contrast(plot.on_dark(color), DARK_PAGE) >= 3


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_ink_can_be_read(theme):
    assert contrast(plot.INK[theme], plot.PAPER[theme]) >= 7


def test_contrast_formula():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


# -- the dark theme ---------------------------------------------------------------------------------------------------


def css_filter(color):
    """invert(amount) and then hue-rotate(angle), with the numbers of the style sheet, for a color in sRGB."""
    found = re.findall(r"filter:\s*invert\(([\d.]+)\)\s*hue-rotate\(([\d.]+)deg\)", CSS.read_text(encoding="utf-8"))
    assert len(set(found)) == 1, found
    amount, angle = float(found[0][0]), math.radians(float(found[0][1]))
    inverted = np.clip(amount + (1 - 2 * amount) * np.asarray(to_rgb(color)), 0, 1)
    gray = np.asarray([[0.213, 0.715, 0.072]] * 3)
    first = np.asarray([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
    second = np.asarray([[-0.213, -0.715, 0.928], [0.143, 0.140, -0.283], [-0.787, 0.715, 0.072]])
    return np.clip((gray + math.cos(angle) * first + math.sin(angle) * second) @ inverted, 0, 1)


@pytest.mark.parametrize("color", [*COLORS, "#ffffff", "#000000", "#ff0000", "#00ff00", "#0000ff", "#336699"])
def test_dark_color_is_what_the_style_sheet_shows(color):
    np.testing.assert_allclose(to_rgb(plot.on_dark(color)), css_filter(color), atol=0.51 / 255)


def test_dark_style_uses_dark_colors(ax):
    plot.use_style("dark")
    plot.curve(ax, [0, 1], [0, 1], "adam")
    assert ax.lines[0].get_color() == plot.on_dark(plot.METHODS["adam"].color)
    assert matplotlib.rcParams["text.color"] == plot.INK["dark"]


def test_figures_have_no_ground():
    plot.use_style()
    assert matplotlib.rcParams["figure.facecolor"] == "none"
    assert matplotlib.rcParams["savefig.transparent"] is True


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_curve_has_the_style_of_its_method(ax):
    plot.curve(ax, np.arange(100), np.arange(100), "newton", markers=5)
    (line,) = ax.lines
    style = plot.METHODS["newton"]
    assert (line.get_label(), line.get_color(), line.get_marker()) == (style.label, style.color, style.marker)
    assert line.get_markevery() == 20


def test_band_is_the_median_and_two_quantiles(ax):
    runs = np.arange(15.0).reshape(5, 3)
    plot.band(ax, [0, 1, 2], runs, "adam")
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), np.median(runs, axis=0))
    corners = ax.collections[0].get_paths()[0].vertices
    assert corners[:, 1].min() == np.quantile(runs, 0.25, axis=0).min()
    assert corners[:, 1].max() == np.quantile(runs, 0.75, axis=0).max()


def test_band_leaves_out_runs_that_ended(ax):
    plot.band(ax, [0, 1], [[1.0, 1.0], [3.0, np.nan]], "adam")
    assert ax.lines[0].get_ydata().tolist() == [2.0, 1.0]


@pytest.mark.parametrize("scale", ["linear", "log", "symlog"])
@pytest.mark.parametrize("problem", [Rosenbrock(), DoubleWell(), HorseSaddle()], ids=lambda p: p.name)
@pytest.mark.filterwarnings("ignore:Log scale")
def test_landscape_fills_the_window(ax, problem, scale):
    plot.landscape(ax, problem, resolution=31, scale=scale)
    assert ax.get_xlim() == problem.domain[0]
    assert ax.get_ylim() == problem.domain[1]
    assert any(len(path.vertices) for collection in ax.collections for path in collection.get_paths())


def test_path_begins_with_a_ring(ax):
    places = plot.places_of(Rosenbrock(), GradientDescent(1e-3), [-1.2, 1.0], 3)
    plot.path(ax, places, "gradient-descent")
    line, ring = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), places)
    assert ring.get_xydata().tolist() == [[-1.2, 1.0]]
    assert ring.get_fillstyle() == "none"


def test_places_of_a_run():
    places = plot.places_of(HorseSaddle(), GradientDescent(0.25), [1.0, 1.0], 2)
    assert places.tolist() == [[1.0, 1.0], [0.5, 1.5], [0.25, 2.25]]


def test_panels_are_a_row():
    figure, axes = plot.panels(3)
    assert len(axes) == 3
    plt.close(figure)


def test_markdown_table():
    pytest.importorskip("IPython")
    table = plot.markdown_table(["a", "b"], [["x", 1 / 3], [2, True]], number=".2f")
    assert table.data.splitlines() == ["| a | b |", "| :--- | ---: |", "| x | 0.33 |", "| 2 | True |"]


# -- what is refused --------------------------------------------------------------------------------------------------


def test_unknown_theme_is_refused():
    with pytest.raises(ValueError, match=r"unknown theme 'sepia'.*'light' or 'dark'"):
        plot.use_style("sepia")


def test_unknown_method_is_refused(ax):
    with pytest.raises(ValueError, match=r"no style for method 'sgd'.*'adam'.*'newton'"):
        plot.curve(ax, [0], [0], "sgd")


def test_landscape_of_many_coordinates_is_refused(ax):
    with pytest.raises(ValueError, match="2 parameters, this one has 4"):
        plot.landscape(ax, Wood())


@pytest.mark.parametrize("runs", [[1.0, 2.0], np.zeros((0, 3))])
def test_band_without_runs_is_refused(ax, runs):
    with pytest.raises(ValueError, match=r"shape \(runs, steps\)"):
        plot.band(ax, [0, 1], runs, "adam")
