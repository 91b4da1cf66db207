"""Draw the picture of the README, on light and on dark ground: `python tools/picture.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np

from refimpl import plot
from refimpl.optimizers.gradient_descent import GradientDescent
from refimpl.optimizers.newton import Newton
from refimpl.optimizers.saddle_free import SaddleFreeNewton
from refimpl.problems.toy import DoubleWell

FOLDER = Path(__file__).resolve().parent.parent / "book" / "_static"


def draw(theme: Literal["light", "dark"]) -> Path:
    """Three methods above a pass between two wells; returns the file."""
    plot.use_style(theme)
    well, start = DoubleWell(), [0.05, 1.2]
    figure, (axes,) = plot.panels(1, height=3.4, width=7.0)
    plot.landscape(axes, well, levels=np.geomspace(0.02, 2.2, 12).tolist(), labels=("", ""), resolution=61)
    for method, steps in ((GradientDescent(0.1), 25), (Newton(), 12), (SaddleFreeNewton(learning_rate=0.5), 25)):
        plot.path(axes, plot.places_of(well, method, start, steps), method.name)
    axes.set(xticks=[], yticks=[])
    plot.legend_right(axes)
    path = FOLDER / f"picture-{theme}.svg"
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    return path


if __name__ == "__main__":
    matplotlib.use("Agg")
    print(*(draw(theme) for theme in ("light", "dark")), sep="\n")
