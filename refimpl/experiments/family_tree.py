"""The family tree of optimizers: who descends from whom, by what they keep of the curvature, and how it is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class Kept(NamedTuple):
    """A band of the tree: what its methods keep of the curvature, its color, its lowest row, and how many it has."""

    label: str
    color: str
    row: int
    rows: int


class Member(NamedTuple):
    """A method in the tree: its ``year`` (0: undated), where its box is (``x`` from the left, the page is 9 wide, and
    ``row`` from below), its ``parents`` by key, and whether the book explains and runs it (``chapter``)."""

    label: str
    year: int
    band: str
    x: float
    row: float
    parents: tuple[str, ...] = ()
    chapter: bool = False


BANDS = {
    "nothing": Kept("nothing", "#5f5f5f", 0, 3),
    "squares": Kept("diagonal of\nsquared gradients", "#b85400", 3, 3),
    "diagonal": Kept("diagonal\nof the Hessian", "#c0282d", 6, 1),
    "factors": Kept("two factors\nper layer", "#7a6200", 7, 1),
    "pairs": Kept("pairs: step,\ngradient change", "#8e2c8a", 8, 2),
    "products": Kept("products:\nKrylov space", "#007a80", 10, 3),
    "everything": Kept("everything:\nthe Hessian", "#0a5ea8", 13, 3),
}
"""From below: more and more of the curvature."""

MEMBERS = {
    "gradient-descent": Member("gradient descent", 1847, "nothing", 1.87, 0, (), True),
    "coordinate-descent": Member("coordinate descent", 1957, "nothing", 1.87, 1),
    "sgd": Member("stochastic gradient", 1951, "nothing", 3.05, 0, ("gradient-descent",), True),
    "heavy-ball": Member("heavy ball", 1964, "nothing", 2.9, 2, ("gradient-descent",), True),
    "nesterov": Member("Nesterov", 1983, "nothing", 3.3, 1, ("heavy-ball",), True),
    "rprop": Member("Rprop", 1993, "nothing", 4.15, 0, ("gradient-descent",)),
    "lion": Member("Lion", 2023, "nothing", 7.9, 2, ("heavy-ball", "adamw")),
    "muon": Member("Muon", 2024, "nothing", 7.9, 1, ("nesterov",), True),
    "adagrad": Member("AdaGrad", 2011, "squares", 4.4, 5, ("sgd",)),
    "rmsprop": Member("RMSProp", 2012, "squares", 5.0, 4, ("adagrad", "rprop")),
    "adadelta": Member("AdaDelta", 2012, "squares", 5.0, 3, ("adagrad",)),
    "adam": Member("Adam", 2015, "squares", 5.75, 5, ("rmsprop", "heavy-ball"), True),
    "adamax": Member("AdaMax", 2015, "squares", 6.4, 3, ("adam",)),
    "nadam": Member("NAdam", 2016, "squares", 6.4, 4, ("adam", "nesterov")),
    "amsgrad": Member("AMSGrad", 2018, "squares", 7.25, 5, ("adam",)),
    "adamw": Member("AdamW", 2019, "squares", 7.3, 3, ("adam",), True),
    "adopt": Member("ADOPT", 2024, "squares", 8.2, 5, ("amsgrad",)),
    "adahessian": Member("AdaHessian", 2021, "diagonal", 6.9, 6, ("adam",)),
    "sophia": Member("Sophia", 2024, "diagonal", 7.8, 6, ("adahessian",), True),
    "amos": Member("AMOS", 0, "diagonal", 8.5, 6, ("sophia", "elmo"), True),
    "kfac": Member("K-FAC", 2015, "factors", 5.5, 7, ("hessian-free",), True),
    "shampoo": Member("Shampoo", 2018, "factors", 6.55, 7, ("adagrad",), True),
    "soap": Member("SOAP", 2025, "factors", 8.4, 7, ("shampoo", "adam"), True),
    "bfgs": Member("BFGS", 1970, "pairs", 2.85, 9, ("newton",), True),
    "lbfgs": Member("L-BFGS", 1989, "pairs", 3.7, 9, ("bfgs",), True),
    "sr1": Member("SR1", 1967, "pairs", 2.85, 8, ("newton",)),
    "slqn": Member("sL-BFGS-TR\nsL-SR1-TR", 2023, "pairs", 7.75, 8.5, ("lbfgs", "sr1", "trust-region")),
    "lanczos": Member("Lanczos", 1950, "products", 2.2, 12, (), True),
    "conjugate-gradients": Member("conjugate gradients", 1952, "products", 2.3, 11, (), True),
    "truncated-cg": Member("truncated CG", 1983, "products", 3.65, 11, ("conjugate-gradients",), True),
    "hessian-free": Member("Hessian-free", 2010, "products", 4.6, 11, ("truncated-cg",), True),
    "krylov-descent": Member("Krylov Subspace\nDescent", 2012, "products", 5.8, 12, ("lanczos", "hessian-free"), True),
    "curveball": Member("CurveBall", 2019, "products", 6.7, 10, ("hessian-free", "heavy-ball"), True),
    "fosi": Member("FOSI", 2024, "products", 7.7, 10, ("saddle-free-newton",), True),
    "series-sfn": Member("series", 2024, "products", 7.5, 11, ("saddle-free-newton",), True),
    "lanczos-sfn": Member("Lanczos\nsaddle-free", 2025, "products", 8.36, 11, ("series-sfn",), True),
    "kryball": Member("KryBall", 2025, "products", 8.42, 12, ("krylov-descent", "saddle-free-newton"), True),
    "newton": Member("Newton", 1690, "everything", 1.87, 14, (), True),
    "damped-newton": Member("damped Newton", 1966, "everything", 2.95, 14, ("newton",), True),
    "levenberg-marquardt": Member("Levenberg–\nMarquardt", 1944, "everything", 2.65, 13, ("newton",), True),
    "trust-region": Member("trust region", 1983, "everything", 3.75, 13, ("levenberg-marquardt",), True),
    "cubic": Member("cubic model", 1981, "everything", 3.6, 15, ("newton",), True),
    "arc": Member("ARC", 2011, "everything", 4.7, 15, ("cubic", "trust-region"), True),
    "saddle-free-newton": Member("saddle-free\nNewton", 2014, "everything", 5.6, 14, ("damped-newton",), True),
    "elmo": Member("ELMO", 0, "everything", 7.6, 15, ("arc",), True),
    "eigenarc": Member("EigenARC", 2025, "everything", 8.42, 14, ("elmo",), True),
}
"""Every method of the family. Keys are those of the book's table of styles where a method has one there."""

_ROW, _WIDTH, _INCH = 0.45, 9.0, 8.0 / 9.0  # the page is 9 wide; a figure of 8 inches is not shrunk by the site
_ROUTES: dict[tuple[str, str], list[tuple[float, float]]] = {
    ("gradient-descent", "rprop"): [(1.87, 0.5), (4.15, 0.5)],
    ("heavy-ball", "adam"): [(5.75, 2)],
    ("nesterov", "nadam"): [(5.95, 1), (5.95, 4)],
    ("adagrad", "rmsprop"): [(4.4, 4)],
    ("adagrad", "adadelta"): [(4.4, 3)],
    ("adam", "adamw"): [(6.85, 5), (6.85, 3)],
    ("adagrad", "shampoo"): [(4.4, 6), (5.98, 6), (5.98, 7)],
    ("adam", "soap"): [(5.75, 6.5), (8.4, 6.5)],
    ("heavy-ball", "curveball"): [(3.7, 2), (3.7, 7), (4.75, 7), (4.75, 10)],
    ("newton", "bfgs"): [(1.5, 14), (1.5, 9)],
    ("newton", "sr1"): [(1.5, 14), (1.5, 8)],
    ("newton", "cubic"): [(1.87, 15)],
    ("newton", "levenberg-marquardt"): [(1.87, 13)],
    ("trust-region", "slqn"): [(5.15, 13), (5.15, 8.5)],
    ("elmo", "amos"): [(8.95, 15), (8.95, 6)],
}
"""Corners (x, row) of edges whose plain curve would run through a box."""


def edges() -> list[tuple[str, str]]:
    """(ancestor, descendant) by key, for every edge of the tree."""
    return [(parent, key) for key, member in MEMBERS.items() for parent in member.parents]


def tree_size() -> tuple[float, float]:
    """Width and height of the tree in inches; :func:`draw_tree` wants axes that fill a figure of this size."""
    return _INCH * _WIDTH, _INCH * _top()


def draw_tree(axes: Any, *, ink: str = "#1b1b1b", paper: str = "#ffffff") -> tuple[dict[str, Any], dict[Any, Any]]:
    """Draw the tree; by key, the text of each box, and the points (k, 2) of each edge in the units of the axes."""
    axes.set(xlim=(0, _WIDTH), ylim=(0, _top()))
    axes.axis("off")
    for band in BANDS.values():
        low, high = _height(band.row - 0.5), _height(band.row + band.rows - 0.5)
        axes.fill_between([0, _WIDTH], low + 0.015, high - 0.015, color=band.color, alpha=0.09, linewidth=0)
        axes.text(0.06, (low + high) / 2, band.label, color=band.color, fontsize=8, va="center", fontweight="bold")
    texts = {}
    for key, member in MEMBERS.items():
        color, year = BANDS[member.band].color, member.year or "undated"
        filled = {"facecolor": color if member.chapter else paper, "edgecolor": color, "linewidth": 0.9}
        texts[key] = axes.text(
            member.x, _height(member.row), f"{member.label}{' ' if chr(10) in member.label else chr(10)}{year}",
            ha="center", va="center", fontsize=7.4, linespacing=1.05, zorder=3,
            color=paper if member.chapter else ink, bbox={"boxstyle": "round,pad=0.25", **filled},
        )  # fmt: skip
    renderer = axes.figure.canvas.get_renderer()
    boxes = {key: _box(text, renderer, axes) for key, text in texts.items()}
    paths = {pair: _path(pair, boxes) for pair in edges()}
    for (_, child), path in paths.items():
        color = BANDS[MEMBERS[child].band].color
        axes.plot(*path.T, color=color, linewidth=1.0, zorder=2, snap=False)
        heading = path[-1] - path[-2]
        tail = path[-1] - 0.02 * heading / np.hypot(*heading)
        arrow = {"arrowstyle": "-|>,head_width=0.16,head_length=0.3", "color": color, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", path[-1], tail, arrowprops={**arrow, "linewidth": 0.6}, zorder=2)
    return texts, paths


def _top() -> float:
    band = BANDS["everything"]
    return (band.row + band.rows) * _ROW + 0.1


def _height(row: float) -> float:
    return (row + 0.5) * _ROW + 0.05


def _box(text: Any, renderer: Any, axes: Any) -> np.ndarray:
    """Left, bottom, right, top of a box in the units of the axes."""
    text.update_bbox_position_size(renderer)  # boxes follow their texts only when they are drawn
    extent = text.get_bbox_patch().get_window_extent(renderer).transformed(axes.transData.inverted())
    return np.array([extent.x0, extent.y0, extent.x1, extent.y1])


def _path(pair: tuple[str, str], boxes: Mapping[str, np.ndarray]) -> np.ndarray:
    """An edge as points (k, 2): through its corners if it has some, else a curve from side to side or from above."""
    a, b = boxes[pair[0]], boxes[pair[1]]
    middle = lambda box: ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)  # noqa: E731
    (ax, ay), (bx, by) = middle(a), middle(b)
    if pair in _ROUTES:
        corners = [(x, _height(row)) for x, row in _ROUTES[pair]]
        start = (ax, a[3] if corners[0][1] > ay else a[1]) if abs(corners[0][0] - ax) < 0.02 else None
        start = start or (a[2] if corners[0][0] > ax else a[0], corners[0][1])
        end = (bx, b[3] if corners[-1][1] > by else b[1]) if abs(corners[-1][0] - bx) < 0.02 else None
        end = end or (b[2] if corners[-1][0] > bx else b[0], corners[-1][1])
        return _rounded([start, *corners, end])
    if abs(ay - by) < 1e-6:
        return np.array([(a[2], ay), (b[0], ay)])
    t = np.linspace(0, 1, 60)[:, None]
    if b[0] - a[2] > 0.12:
        reach = max(0.5 * (b[0] - a[2]), 0.1)
        points = [(a[2], ay), (a[2] + reach, ay), (b[0] - reach, by), (b[0], by)]
    else:
        up = by > ay
        y0, y1 = (a[3], b[1]) if up else (a[1], b[3])
        points = [(ax, y0), (ax, 0.5 * (y0 + y1)), (bx, 0.5 * (y0 + y1)), (bx, y1)]
    p = np.array(points)
    return (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3]


def _rounded(corners: Sequence[tuple[float, float]], radius: float = 0.14) -> np.ndarray:
    """A line through ``corners`` with each of the inner ones rounded off."""
    points = [np.array(corner) for corner in corners]
    pieces, t = [points[0][None]], np.linspace(0, 1, 10)[:, None]
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        ends = []
        for other in (before, after):
            away = other - here
            length = float(np.hypot(*away)) or 1.0
            ends.append(here + away * min(radius / length, 0.5))
        pieces.append((1 - t) ** 2 * ends[0] + 2 * (1 - t) * t * here + t**2 * ends[1])
    return np.concatenate([*pieces, points[-1][None]])
