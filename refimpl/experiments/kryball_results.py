"""What the record of ``kryball-table`` says, beside what the KryBall thesis prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from refimpl.experiments.kryball_methods import PROBLEMS

_COLUMNS = ("rosenbrock", "rosenbrock-u1", "rosenbrock-u3", "rahimi-recht-10", "rahimi-recht-1e5", "xor")
PAPER: dict[str, dict[str, str]] = {
    name: dict(zip(_COLUMNS, row, strict=True))
    for name, row in {
        "heavy-ball": ("248", "624", "1587", "94", "N/A", "63"),
        "adam": ("249", "981", "1978", "242", "1720", "67"),
        "lbfgs": ("5", "5", "5", "6", "N/A", "20"),
        "kryball": ("5", "", "13", "16", "52", "15"),
    }.items()
}
"""Method -> problem -> epochs: KryBall thesis, Table 5.1 (N/A: diverged; one cell is empty) and Fig. 5.3 for XOR, where
L-BFGS has one evaluation per epoch."""

ROWS: tuple[tuple[str, str, str | None], ...] = (
    ("heavy-ball", "MSGD, tuned", "heavy-ball"),
    ("heavy-ball-small", "MSGD, rates below the thesis's", None),
    ("adam", "Adam, tuned", "adam"),
    ("lbfgs", "L-BFGS, 20 iterations a step, tuned", "lbfgs"),
    ("lbfgs-one", "L-BFGS, one evaluation a step, tuned", "lbfgs"),
    ("lbfgs-wolfe", "L-BFGS, 20 iterations a step, strong Wolfe", "lbfgs"),
    ("kryball-published", "KryBall as printed, M = 5, r = 3", "kryball"),
    ("kryball-published-1", "KryBall as printed, M = 5, r = 1", "kryball"),
    ("kryball-tuned", "KryBall as printed, M and r tuned", "kryball"),
    ("kryball-last-step", "the same with the last step, M = 5, r = 1", "kryball"),
    ("kryball-last-step-3", "the same with the last step, M = 5, r = 3", "kryball"),
    ("kryball", "KryBall, repaired", "kryball"),
    ("trust-region", "trust region, exact", None),
    ("newton", "Newton, nothing refused", None),
)
"""Method, label and row of :data:`PAPER` of each row of :func:`table`."""

FAMILIES = ("printed", "exact", "reuse")
"""Of :func:`sensitivity`. ``printed``: Algorithm 4. The others are the repaired method with all M products (``gain``
0): ``exact`` pays products for old vectors in stale steps, ``reuse`` keeps what was known of them."""


class Quartiles(NamedTuple):
    """Median, lower and upper quartile, each the value of a run (inf: a failure), and the share that arrives."""

    median: float
    low: float
    high: float
    success: float

    def __str__(self) -> str:
        if self.success == 0.0:
            return "none arrives"
        middle, low, high = ("–" if np.isinf(v) else f"{v:.0f}" for v in (self.median, self.low, self.high))
        return f"{middle} ({low} to {high})" + (f", {self.success:.0%}" if self.success < 1 else "")


class Cell(NamedTuple):
    """Steps and work (in gradients) to the target; Hessian products per step and trials refused in all, medians over
    the runs; the median of the last losses; the setting in words and the budget of steps."""

    steps: Quartiles
    work: Quartiles
    products: float
    refused: float
    loss: float
    setting: str
    budget: int


def quartiles(values: Any) -> Quartiles:
    """Of ``values`` (runs,), inf or None for a failure.

    >>> str(quartiles([4, 5, 6, None]))
    '5 (4 to 6), 75%'
    """
    numbers = np.array([np.inf if v is None else v for v in values], dtype=float)
    low, middle, high = np.quantile(numbers, [0.25, 0.5, 0.75], method="inverted_cdf").tolist()
    return Quartiles(middle, low, high, float(np.isfinite(numbers).mean()))


def cell(
    record: Mapping[str, Any], problem: str, method: str, *, start: str | None = None, target: str | None = None
) -> Cell:
    """One cell of the record. ``target``: one of ``targets_of(problem)``, by default the first.

    A ValueError where the record has no such cell or target.
    """
    key = f"{problem}/{start or PROBLEMS.get(problem, ('',))[0]}/{method}"
    found = [run for run in record["runs"] if run["key"] == key]
    if not found:
        raise ValueError(f"the record has no {key}")
    return _cell(found[0], target)


def _cell(run: Mapping[str, Any], target: str | None) -> Cell:
    name = next(iter(run["counts"])) if target is None else target
    if name not in run["counts"]:
        raise ValueError(f"{run['key']} has no target {target!r}; it has {list(run['counts'])}")
    loss = float("inf") if run["loss"] is None else run["loss"]
    numbers = quartiles(run["counts"][name]), quartiles(run["work"][name])
    return Cell(*numbers, run["products"], run["refused"], loss, run["settings"][name], run["budget"])


def table(
    record: Mapping[str, Any],
    *,
    quantity: str = "steps",
    starts: Sequence[str] = ("near", "normal"),
    targets: Sequence[str] = ("0.01",),
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: for each problem the thesis's number and ours: median (quartiles), and who arrives if not all.

    ``quantity`` is ``"steps"`` or ``"work"``; ``starts`` says which start to take where a problem has several;
    ``targets`` are those of XOR, one column each. "–": not run. A ValueError for another quantity.
    """
    if quantity not in ("steps", "work"):
        raise ValueError(f"quantity must be 'steps' or 'work', got {quantity!r}")
    titles = ("Rosenbrock", "U[0, 1]", "U[0, 3]", "Rahimi–Recht, kappa = 10", "kappa = 1e5", "XOR")
    header = ["method"]
    columns: list[tuple[str, str | None]] = []
    for problem, title in zip(_COLUMNS, titles, strict=True):
        wanted = list(targets) if problem == "xor" else [None]
        header += [f"{title}, thesis", *("ours" if one is None else f"ours, {one}" for one in wanted)]
        columns += [(problem, one) for one in wanted]
    rows = []
    keys = {run["key"] for run in record["runs"]}
    for method, label, printed in ROWS:
        row, last = [label], ""
        for problem, target in columns:
            if problem != last:
                row.append((PAPER[printed][problem] or "(empty)") if printed else "–")
            last = problem
            start = next((one for one in starts if one in PROBLEMS[problem]), PROBLEMS[problem][0])
            known = f"{problem}/{start}/{method}" in keys
            found = cell(record, problem, method, start=start, target=target) if known else None
            row.append("–" if found is None else str(getattr(found, quantity)))
        rows.append(row)
    return header, rows


def curves(record: Mapping[str, Any], problem: str, *, start: str | None = None) -> dict[str, dict[str, Any]]:
    """Method -> run 0 until it arrives: ``steps``, ``work`` so far, noise-free ``losses``, each (k,), thinned; on
    Rosenbrock also ``places`` (k, 2); ``style``, a name of :data:`refimpl.plot.METHODS`; ``setting`` in words."""
    start = start or PROBLEMS[problem][0]
    return {
        run["method"]: {
            **{name: np.array(values, dtype=float) for name, values in run["curve"].items()},
            "style": run["style"],
            "setting": next(iter(run["settings"].values())),
        }
        for run in record["runs"]
        if run["problem"] == problem and run.get("start") == start
    }


def sensitivity(
    record: Mapping[str, Any], problem: str, family: str, *, target: str | None = None
) -> dict[tuple[int, int], Cell]:
    """(M, r) -> cell, for ``family`` of :data:`FAMILIES`."""
    return {
        (run["dimension"], run["refresh"]): _cell(run, target)
        for run in record["runs"]
        if run.get("kind") == "sensitivity" and (run["problem"], run["family"]) == (problem, family)
    }


def radii(record: Mapping[str, Any], method: str = "kryball") -> dict[float, Cell]:
    """Maximum radius -> cell on Rahimi–Recht with kappa = 1e5, for ``"kryball"`` or ``"kryball-published"``."""
    return {
        run["radius"]: _cell(run, None)
        for run in record["runs"]
        if run.get("kind") == "radius" and run["family"] == method
    }
