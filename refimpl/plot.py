"""How the book draws: one style, one table of methods, and the few pictures that recur.

A method has the same colour, line style and marker on every page (:data:`METHODS`), chosen so that each pair is told
apart without colour as well. Figures are transparent SVG in dark ink; the site turns lightness over for its dark
theme and keeps the hue. For slides, ``use_style("dark")`` draws in light ink directly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, SymLogNorm, to_hex, to_rgb
from matplotlib.figure import Figure

from refimpl.arrays import to_numpy

Theme = Literal["light", "dark"]


@dataclass(frozen=True)
class MethodStyle:
    """How one method looks: ``label`` in legends, ``color`` on a light page, ``linestyle`` and ``marker``."""

    label: str
    color: str
    linestyle: Any
    marker: str

    def line(self, theme: Theme = "light") -> dict[str, Any]:
        """Keyword arguments for ``Axes.plot``."""
        color = self.color if theme == "light" else on_dark(self.color)
        return {"label": self.label, "color": color, "linestyle": self.linestyle, "marker": self.marker}


_DASH, _DOT, _DASHDOT = (0, (5, 2)), (0, (1.2, 1.4)), (0, (6, 2, 1.2, 2))
_DASHDOTDOT = (0, (6, 2, 1.2, 1.6, 1.2, 2))
_GREY, _ORANGE, _PURPLE, _BLUE = "#5f5f5f", "#b85400", "#8e2c8a", "#0a5ea8"
_GREEN, _RED, _TEAL, _OLIVE, _PINK = "#2b7a2f", "#c0282d", "#007a80", "#7a6200", "#c0347a"

METHODS: dict[str, MethodStyle] = {
    "gradient-descent": MethodStyle("gradient descent", _GREY, "-", "o"),
    "heavy-ball": MethodStyle("heavy ball", _GREY, _DASH, "s"),
    "nesterov": MethodStyle("Nesterov", _GREY, _DOT, "^"),
    "adam": MethodStyle("Adam", _ORANGE, "-", "D"),
    "adamw": MethodStyle("AdamW", _ORANGE, _DASH, "d"),
    "torch-adamw": MethodStyle("AdamW of Torch", _ORANGE, (0, (3, 3)), "o"),
    "muon": MethodStyle("Muon", _ORANGE, _DOT, "v"),
    "soap": MethodStyle("SOAP", _ORANGE, _DASHDOT, "s"),
    "shampoo": MethodStyle("Shampoo", _ORANGE, _DASHDOTDOT, "p"),
    "newton": MethodStyle("Newton", _PURPLE, "-", "v"),
    "damped-newton": MethodStyle("damped Newton", _PURPLE, _DASH, "<"),
    "levenberg-marquardt": MethodStyle("Levenberg–Marquardt", _PURPLE, _DASHDOT, ">"),
    "saddle-free-newton": MethodStyle("saddle-free Newton", _BLUE, "-", "P"),
    "adaptive-saddle-free-newton": MethodStyle("saddle-free Newton, adaptive", _BLUE, _DASH, "X"),
    "damped-saddle-free-newton": MethodStyle("saddle-free Newton, damped", _BLUE, _DOT, "p"),
    "bfgs": MethodStyle("BFGS", _OLIVE, "-", "p"),
    "lbfgs": MethodStyle("L-BFGS", _OLIVE, _DASH, "h"),
    "series-sfn": MethodStyle("series", _GREEN, "-", "*"),
    "adaptive-series-sfn": MethodStyle("series, adaptive", _GREEN, _DASH, "8"),
    "series-sablonniere": MethodStyle("series, Sablonnière's weights", _GREEN, _DASHDOT, "o"),
    "adaptive-series-sablonniere": MethodStyle("series, adaptive, Sablonnière's weights", _GREEN, _DASHDOTDOT, "s"),
    "lanczos-sfn": MethodStyle("Lanczos saddle-free", _GREEN, _DOT, "1"),
    "kfac": MethodStyle("K-FAC, fixed", _OLIVE, _DOT, "2"),
    "adaptive-kfac": MethodStyle("K-FAC, adaptive", _OLIVE, _DASHDOT, "*"),
    "hessian-free": MethodStyle("Hessian-free", _RED, _DASH, "3"),
    "curveball": MethodStyle("CurveBall", _RED, "-", "4"),
    "kryball": MethodStyle("KryBall", _TEAL, "-", "h"),
    "trust-region": MethodStyle("trust region", _TEAL, _DASH, "^"),
    "stochastic-kryball": MethodStyle("KryBall, fixed momentum", _TEAL, _DASHDOT, "D"),
    "krylov-descent": MethodStyle("Krylov Subspace Descent", _TEAL, _DASHDOTDOT, "8"),
    "elmo": MethodStyle("ELMO", _PINK, "-", "s"),
    "arc": MethodStyle("cubic regularization", _PINK, _DASH, "v"),
    "amos": MethodStyle("AMOS", _PINK, _DOT, "P"),
    "sophia": MethodStyle("Sophia", _RED, _DOT, "D"),
    "fosi": MethodStyle("FOSI", _TEAL, _DOT, "X"),
}
"""Every method of the book. Keys are the ``name`` of the optimizer classes."""

INK = {"light": "#1b1b1b", "dark": "#e6e6e6"}
PAPER = {"light": "#ffffff", "dark": "#121212"}
ACCENT = {"positive": _BLUE, "negative": _RED, "zero": _GREY, "reference": "#1b1b1b"}
"""Colours that are not methods: positive, negative and vanishing curvature, and a reference curve."""

_THEME: list[Theme] = ["light"]


def use_style(theme: Theme = "light") -> None:
    """Set Matplotlib's defaults for the book. Call once at the top of a chapter.

    Raises
    ------
    ValueError
        Unknown theme.
    """
    if theme not in INK:
        raise ValueError(f"unknown theme {theme!r}; choose 'light' or 'dark'")
    _THEME[0] = theme
    ink = INK[theme]
    mpl.rcParams.update(
        {
            "figure.figsize": (7.2, 3.6),
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.facecolor": "none",
            "savefig.transparent": True,
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",
            "font.size": 10.5,
            "mathtext.fontset": "cm",
            "axes.labelsize": 10.5,
            "axes.titlesize": 10.5,
            "axes.edgecolor": ink,
            "axes.labelcolor": ink,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": ink,
            "grid.alpha": 0.14,
            "grid.linewidth": 0.6,
            "text.color": ink,
            "xtick.color": ink,
            "ytick.color": ink,
            "legend.frameon": False,
            "legend.fontsize": 9.5,
            "legend.handlelength": 2.6,
            "lines.linewidth": 1.8,
            "lines.markersize": 4.5,
            "svg.hashsalt": "saddle-free",
            "svg.fonttype": "path",
            "axes.prop_cycle": cycler(color=[c if theme == "light" else on_dark(c) for c in _CYCLE]),
        }
    )
    try:  # crisp lines in notebooks, and the same bytes for the same figure
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None}, bbox_inches="tight")


_CYCLE = (_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _TEAL, _OLIVE, _GREY)


def method_style(name: str) -> MethodStyle:
    """The style of method ``name``; a ValueError that lists the known ones otherwise."""
    if name not in METHODS:
        raise ValueError(f"no style for method {name!r}; the table has {sorted(METHODS)}")
    return METHODS[name]


def on_dark(color: str) -> str:
    """``color`` as the site shows it in its dark theme: lightness turned over, hue kept.

    The same arithmetic as the CSS filters ``invert(0.92) hue-rotate(180deg)`` of the book's style sheet
    (W3C Filter Effects, sec. 6: luminance coefficients 0.213, 0.715, 0.072).

    >>> on_dark("#ffffff"), on_dark("#000000")
    ('#141414', '#ebebeb')
    """
    inverted = 0.92 - 0.84 * np.array(to_rgb(color))
    luminance = inverted @ np.array([0.213, 0.715, 0.072])
    return str(to_hex(np.clip(2 * luminance - inverted, 0.0, 1.0)))


def curve(ax: Axes, x: Any, y: Any, method: str, *, markers: int = 6, **changes: Any) -> None:
    """Draw ``y`` against ``x`` (both (steps,)) as ``method`` looks everywhere, with about ``markers`` markers."""
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    every = max(1, len(x) // max(markers, 1))
    ax.plot(x, y, markevery=every, **{**method_style(method).line(_THEME[0]), **changes})


def band(
    ax: Axes, x: Any, runs: Any, method: str, *, levels: tuple[float, float] = (0.25, 0.75), **changes: Any
) -> None:
    """Draw the median over ``runs`` (runs, steps) as ``method``, with a band between two quantiles.

    Runs that ended early hold NaN afterwards and drop out of the median there.
    """
    runs = np.asarray(runs, dtype=float)
    if runs.ndim != 2 or runs.shape[0] < 1:
        raise ValueError(f"runs must have shape (runs, steps) with at least one run, got {runs.shape}")
    low, high = np.nanquantile(runs, levels, axis=0)
    style = method_style(method).line(_THEME[0])
    curve(ax, x, np.nanmedian(runs, axis=0), method, **changes)
    ax.fill_between(np.asarray(x, dtype=float), low, high, color=style["color"], alpha=0.16, linewidth=0)


def landscape(
    ax: Axes,
    problem: Any,
    *,
    domain: tuple[tuple[float, float], tuple[float, float]] | None = None,
    resolution: int = 121,
    levels: int | Sequence[float] = 15,
    scale: Literal["linear", "log", "symlog"] = "linear",
    labels: tuple[str, str] = ("$x$", "$y$"),
) -> None:
    """Contour lines of a two-dimensional batched problem over its domain."""
    if problem.n != 2:
        raise ValueError(f"a landscape needs a problem with 2 parameters, this one has {problem.n}")
    if scale not in ("linear", "log", "symlog"):
        raise ValueError(f"unknown scale {scale!r}; choose 'linear', 'log' or 'symlog'")
    (x_low, x_high), (y_low, y_high) = domain or problem.domain
    xs, ys = np.linspace(x_low, x_high, resolution), np.linspace(y_low, y_high, resolution)
    grid = np.stack(np.meshgrid(xs, ys), axis=-1)
    values = to_numpy(problem.loss(problem.backend.asarray(grid)))
    norm: Normalize = {
        "linear": Normalize(),
        "log": LogNorm(max(float(values.min()), 1e-3), float(values.max())),
        "symlog": SymLogNorm(0.1, vmin=float(values.min()), vmax=float(values.max())),
    }[scale]
    heights: Any = levels
    if isinstance(levels, int) and scale != "linear":
        heights = norm.inverse(np.linspace(0, 1, levels + 2)[1:-1])
    ax.contour(xs, ys, values, levels=heights, norm=norm, cmap="cividis", linewidths=0.8, alpha=0.75)
    ax.set(xlabel=labels[0], ylabel=labels[1], xlim=(x_low, x_high), ylim=(y_low, y_high))
    ax.grid(False)


def path(ax: Axes, places: Any, method: str, **changes: Any) -> None:
    """Draw the places (steps, 2) of a run over a landscape, with a ring at the start."""
    places = np.asarray(places, dtype=float)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ValueError(f"places must have shape (steps, 2), got {places.shape}")
    style = {**method_style(method).line(_THEME[0]), **changes}
    ax.plot(places[:, 0], places[:, 1], **style)
    ax.plot(*places[0], marker="o", markersize=9, fillstyle="none", color=style["color"], linestyle="none")


def places_of(problem: Any, optimizer: Any, x0: Any, steps: int, *, seed: int = 0) -> np.ndarray:
    """The places (rows, n) a run visits, the starting place first."""
    from refimpl.run import minimize

    seen: list[np.ndarray] = []
    minimize(problem, optimizer, x0, steps=steps, seed=seed, callback=lambda _, point: seen.append(to_numpy(point.x)))
    return np.array(seen)


def legend_right(ax: Axes, **changes: Any) -> None:
    """Legend outside the axes on the right, where it covers no curve."""
    ax.legend(**{"loc": "center left", "bbox_to_anchor": (1.01, 0.5), **changes})


def panels(count: int, *, height: float = 3.2, width: float = 7.2, **changes: Any) -> tuple[Figure, list[Axes]]:
    """A row of ``count`` axes as wide as a page."""
    figure, axes = plt.subplots(1, count, figsize=(width, height), squeeze=False, **changes)
    return figure, list(axes[0])


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[Any]], number: str = ".3g") -> Any:
    """A table that renders in notebooks and on the site. Floats are formatted with ``number``."""
    from IPython.display import Markdown

    form: Callable[[Any], str] = lambda v: format(v, number) if isinstance(v, float) else str(v)  # noqa: E731
    body = [list(row) for row in rows]
    numeric = [all(isinstance(row[i], int | float) for row in body) for i in range(len(header))]
    rule = "|".join(" ---: " if right else " :--- " for right in numeric)
    lines = ["| " + " | ".join(header) + " |", f"|{rule}|"]
    lines += ["| " + " | ".join(form(cell) for cell in row) + " |" for row in body]
    return Markdown("\n".join(lines))
