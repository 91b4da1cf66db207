"""Draw logo, icons and the preview that other sites show: `python tools/furniture_pictures.py`.

The logo is a saddle seen from above: its contour lines, blue where the landscape rises away from the middle, red where
it falls (as positive and negative curvature in the figures), and the point between them. Both hues are of middle
lightness, so that the same file stands on light and on dark ground.
"""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from PIL import Image

from refimpl import plot
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.toy import DoubleWell

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static"
SIZE = 64
# Corners of the four branches, cubic curves in a square of 64 whose middle is the saddle.
RISING, FALLING = "#2f80d8", "#d8434a"
CURVES = (
    (FALLING, ((15, 5), (23, 23), (41, 23), (49, 5))),
    (FALLING, ((15, 59), (23, 41), (41, 41), (49, 59))),
    (RISING, ((5, 15), (23, 23), (23, 41), (5, 49))),
    (RISING, ((59, 15), (41, 23), (41, 41), (59, 49))),
)
MIDDLE, INK = (32, 32), "#808b98"


def svg(width: float) -> str:
    """The logo as an SVG file with strokes of the given width."""
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="A saddle">']
    for color, ((ax, ay), *rest) in CURVES:
        corners = " ".join(f"{x} {y}" for x, y in rest)
        look = f'fill="none" stroke="{color}" stroke-width="{width}" stroke-linecap="round"'
        lines.append(f'  <path d="M{ax} {ay}C{corners}" {look}/>')
    lines.append(f'  <circle cx="{MIDDLE[0]}" cy="{MIDDLE[1]}" r="{width:g}" fill="{INK}"/>')
    return "\n".join([*lines, "</svg>", ""])


def bitmap(pixels: int, width: float, ground: str | None = None) -> Image.Image:
    """The logo as a picture of `pixels` by `pixels`."""
    large = 4 * pixels
    figure = plt.figure(figsize=(1, 1), dpi=large, facecolor=ground or "none", layout="none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, SIZE), ylim=(SIZE, 0))
    axes.axis("off")
    points = 72 / SIZE
    for color, corners in CURVES:
        curve = Curve(corners, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=color, linewidth=width * points, capstyle="round"))
    axes.add_patch(plt.Circle(MIDDLE, width, facecolor=INK))
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=large, facecolor=ground or "none", transparent=ground is None)
    plt.close(figure)
    return Image.open(drawn).convert("RGBA").resize((pixels, pixels), Image.Resampling.LANCZOS)


def preview() -> Image.Image:
    """1200 by 630 pixels: the pass between two wells, three methods, the book's title."""
    plot.use_style("light")
    matplotlib.rcParams.update({"font.size": 15, "lines.linewidth": 2.4})
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="white", layout="none")
    axes = figure.add_axes((0.52, 0.045, 0.46, 0.91))
    well, start = DoubleWell(), [0.05, 1.2]
    plot.landscape(axes, well, levels=np.geomspace(0.02, 2.2, 12).tolist(), labels=("", ""), resolution=121)
    for method, steps in ((GradientDescent(0.1), 25), (Newton(), 12), (SaddleFreeNewton(learning_rate=0.5), 25)):
        plot.path(axes, plot.places_of(well, method, start, steps), method.name)
    axes.set(xticks=[], yticks=[])
    axes.legend(loc="lower center", fontsize=15, frameon=True, framealpha=0.9, edgecolor="none", facecolor="white")
    axes.spines[:].set_visible(False)
    figure.text(0.045, 0.52, "Saddle-free", fontsize=50, fontweight="bold", color="#1b1b1b")
    words = "Second-order optimization\nwhere the landscape is not convex.\nEvery claim executed."
    figure.text(0.047, 0.47, words, fontsize=20, color="#444444", va="top", linespacing=1.5)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, facecolor="white", transparent=False)
    plt.close(figure)
    picture = Image.open(drawn).convert("RGB")
    mark = bitmap(120, 5)
    picture.paste(mark, (54, 110), mark)
    return picture.quantize(128, dither=Image.Dither.NONE)


def draw() -> list[Path]:
    """Write all files; returns them."""
    matplotlib.use("Agg")
    names = ["logo.svg", "favicon.svg", "favicon-32.png", "favicon-180.png", "favicon.ico", "social-preview.png"]
    logo, icon, small, touch, old, social = (FOLDER / name for name in names)
    logo.write_text(svg(5), encoding="utf-8")
    icon.write_text(svg(7), encoding="utf-8")
    bitmap(32, 7).save(small, optimize=True)
    bitmap(180, 5, ground="white").convert("RGB").save(touch, optimize=True)
    bitmap(48, 7).save(old, sizes=[(16, 16), (32, 32), (48, 48)])
    preview().save(social, optimize=True)
    return [logo, icon, small, touch, old, social]


if __name__ == "__main__":
    for path in draw():
        print(f"{path.name}: {path.stat().st_size} bytes")
