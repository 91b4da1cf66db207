"""Which recorded runs may stand on one leaderboard, which may not and why, and how each record is read.

Records keep work in two ways, and they differ by a step. A row of :func:`refimpl.experiments.training.train` has what
was spent *before* the place it looks at. A row of :func:`refimpl.run.minimize` has, besides, what the step from that
place cost: for exact saddle-free Newton on a network with a thousand weights that is a thousand products too many.
Everything here is work before the place (:func:`work_before`).

A batch of runs counts once what it asks once for all its runs: its work is that of each run, as long as no run decides
for itself how much to ask, and otherwise that of the run which asked most. Its *seconds* are those of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from refimpl.experiments.kryball_methods import TUNED as KRYBALL_TUNED
from refimpl.experiments.records import read_record, results_folder
from refimpl.experiments.uci_exact import FIRST_ORDER

Kind = Literal["network", "function"]
Tuning = Literal["tuned", "authors'", "fixed", "hindsight"]
"""``tuned``: from a grid, for this problem, on runs that are not reported. ``authors'``: what a paper tuned for this
problem. ``fixed``: one setting, whatever the problem. ``hindsight``: needs what is known only after such a run."""


class Entry(NamedTuple):
    """One run as the leaderboard sees it: ``work``, ``seconds`` and ``loss`` have one entry per look, (looks,).

    ``work`` in gradients and ``seconds`` are those before the look. ``batch`` is how many runs ran in one program.
    ``seconds`` is empty where there are none that count.
    """

    problem: str
    method: str
    seed: int
    record: str
    tuning: str
    status: str
    work: np.ndarray
    loss: np.ndarray
    seconds: np.ndarray
    batch: int = 1
    kind: Kind = "network"


class Arrivals(NamedTuple):
    """Work in gradients at which each run of a method came to a target, (runs,), inf where it did not.

    ``reach`` is the work within which a run was given the chance, inf where every run arrived.
    """

    problem: str
    method: str
    record: str
    tuning: str
    target: float
    work: np.ndarray
    reach: float
    kind: Kind = "function"


@dataclass(frozen=True)
class RecordSource:
    """Where the runs of some problems are, and how they are read.

    ``records`` that share every setting of ``same`` are one problem, ``label``; otherwise each case of ``cases`` is one
    (None: every case). ``column`` is the loss that is compared; ``after``: a row's work has that of its own step in it.
    ``pooled``: the cases are one problem, each of them a run; their seconds, of networks of many sizes, are left out.
    ``tuning`` has the methods that are not tuned by a grid (those have a ``rate``), ``otherwise`` is that of the rest.
    """

    records: tuple[str, ...]
    label: str
    cases: tuple[str, ...] | None = None
    same: tuple[str, ...] = ()
    column: str = "loss"
    after: bool = False
    pooled: bool = False
    tuning: Mapping[str, Tuning] = field(default_factory=dict)
    otherwise: Tuning = "fixed"


_CHAR: dict[str, Tuning] = {
    **dict.fromkeys(("adamw", "sgd", "sophia", "sophia-amos"), "tuned"),
    **{f"{kind}-{p}": "hindsight" for kind in ("amos", "random") for p in (90, 75, 50)},
}
SOURCES: tuple[RecordSource, ...] = (
    RecordSource(
        ("uci-exact-1057", "uci-energy"),
        "UCI Energy",
        same=("hidden", "activation", "dtype", "split_seed"),
        after=True,
        tuning={"damped-saddle-free-newton": "fixed", "lbfgs": "fixed", "lanczos-sfn": "tuned"},
        otherwise="authors'",
    ),
    RecordSource(("mnist-mlp",), "MNIST MLP"),
    RecordSource(("small-convnets",), "small CNN"),
    RecordSource(("random-architectures",), "50 random CNNs", column="batch_loss", pooled=True),
    RecordSource(
        ("mnist1d-kryball",),
        "MNIST-1D",
        cases=("minibatch", "full-batch", "relu", "tanh", "gelu"),
    ),
    RecordSource(("cifar-kryball",), "CIFAR CNN"),
    RecordSource(
        ("fosi",),
        "digits",
        tuning={
            f"{form}-fosi-{base}": "hindsight" for form in ("damped", "unscaled") for base in ("heavy-ball", "adam")
        },
        otherwise="tuned",
    ),
    RecordSource(("char-transformer",), "characters", cases=("main",), tuning=_CHAR),
    RecordSource(
        ("resnet18-cifar10",),
        "ResNet-18",
        tuning={"series-2-published": "authors'", "sgd": "authors'", "adam": "authors'"},
    ),
    RecordSource(
        ("transformer-race",),
        "transformer",
        tuning={"adamw": "tuned", "sophia": "tuned", "amos-90": "hindsight"},
    ),
)
"""Records that are compared by loss. The last two may be absent."""

UNUSED: dict[tuple[str, str], str] = {
    ("curveball-table", "all"): "counts steps to a target, not work; a step of one method is not a step of another",
    ("eigenarc", "race"): "keeps the loss by step, and neither work nor seconds",
    ("eigenarc", "measure"): "one method watched at a time: nothing to compare",
    ("curvature-shift", "all"): "one method watched at a time: nothing to compare",
    ("char-tuning", "all"): "tuning runs; their outcome is in char-transformer",
    ("char-transformer", "side"): "variants of one method, for chapter 15",
    ("char-transformer", "momentum"): "variants of one method, for chapter 15",
    ("char-transformer", "noise"): "no training runs",
    ("random-architectures", "seconds"): "networks of fifty sizes: no common budget of seconds",
    ("mnist1d-kryball", "dimension"): "one knob varied, one seed",
    ("mnist1d-kryball", "refresh"): "one knob varied, one seed",
    ("mnist1d-kryball", "landscape"): "no training runs",
    ("kryball-table", "sensitivity"): "knobs of one method varied",
    ("kryball-table", "radius"): "a knob of one method varied",
}
"""(record, part) -> why it is not on the leaderboard."""

FAMILIES: dict[str, tuple[str, ...]] = {
    "sgd": ("heavy-ball", "heavy-ball-0.9", "heavy-ball@0.1", "sgd", "gradient-descent"),
    "adam": ("adam", "adam@0.001", "adamw"),
    "lbfgs": ("lbfgs", "lbfgs-wolfe"),
    "kfac": ("kfac",),
    "adaptive-kfac": ("adaptive-kfac",),
    "saddle-free-newton": ("saddle-free-newton",),
    "adaptive-saddle-free-newton": ("adaptive-saddle-free-newton",),
    "series-sfn": ("series-sfn", "series-2"),
    "adaptive-series-sfn": ("adaptive-series-sfn",),
    "lanczos-sfn": ("lanczos-sfn", "lanczos-5-tuned", "lanczos-5"),
    "hessian-free": ("hessian-free",),
    "curveball": ("curveball",),
    "newton": ("newton",),
    "trust-region": ("trust-region",),
    "kryball": ("kryball",),
    "stochastic-kryball": ("stochastic-kryball",),
    "sophia": ("sophia",),
    "amos": ("amos", "amos-90"),
    "fosi": ("fosi", "fosi-heavy-ball"),
    "muon": ("muon",),
    "soap": ("soap",),
    "shampoo": ("shampoo",),
}
"""A method's name across records -> the setting that stands for it, the first that a problem has.

Chosen by name and not by loss: the setting that a record calls by the plain name, the usual momentum 0.9, the rates 0.1
and 0.001 that textbooks give, the series with two terms and Lanczos with five products where several were run, with a
tuned rate rather than without (as the other methods of such a record), AMOS with its highest threshold, FOSI as its
public code has it. Taking the best variant of each would favour the method with
the most variants."""


def has(record: str, folder: Path | None = None) -> bool:
    """Whether there is a record of this name."""
    return ((folder or results_folder()) / f"{record}.json").is_file()


def entries(folder: Path | None = None, sources: Sequence[RecordSource] = SOURCES) -> list[Entry]:
    """Every recorded run that can be compared by loss, in the order of ``sources``; records that are absent are not.

    Raises
    ------
    ValueError
        Records of one problem that were made with different settings, or a record without work.
    """
    found: list[Entry] = []
    for source in sources:
        there = {name: read_record(name, folder) for name in source.records if has(name, folder)}
        shared = [{key: record["settings"].get(key) for key in source.same} for record in there.values()]
        if any(settings != shared[0] for settings in shared):
            raise ValueError(f"{list(there)} are not the same problem: {shared}; compare them one by one")
        for name, record in there.items():
            found += [_entry(source, name, record, run) for run in record["runs"] if _wanted(source, run)]
    return found


def arrivals(folder: Path | None = None) -> list[Arrivals]:
    """Work to the first target of every problem and start of ``kryball-table``, by method.

    Runs that did not arrive were stopped after a number of *steps*; the work of that many is estimated from the mean
    cost of a step of run 0, whose curve is in the record.
    """
    if not has("kryball-table", folder):
        return []
    found = []
    for run in read_record("kryball-table", folder)["runs"]:
        if "method" not in run:
            continue
        target, works = next(iter(run["work"].items()))
        work = _floats(works, math.inf)
        each = run["curve"]["work"][-1] / max(run["curve"]["steps"][-1], 1)
        reach = math.inf if np.isfinite(work).all() else run["budget"] * each
        tuning = "tuned" if run["method"] in KRYBALL_TUNED else "fixed"
        problem = f"{run['problem']}, {run['start']}"
        found.append(Arrivals(problem, run["method"], "kryball-table", tuning, float(target), work, reach))
    return found


def unused(folder: Path | None = None) -> list[tuple[str, str, str]]:
    """(record, part, why) for everything in the records that is not compared, and for the records that are absent."""
    rows = [(record, part, why) for (record, part), why in UNUSED.items()]
    absent = [name for source in SOURCES for name in source.records if not has(name, folder)]
    return rows + [(name, "all", "there is no such record yet") for name in absent]


def work_before(step: np.ndarray, spent: np.ndarray, ended: bool) -> np.ndarray:
    """What was spent before the places of a trace's rows, (rows,), from what was spent with the steps from them.

    Exact where the row before is that of the step before, where every step costs the same, and in the last row of a run
    that took all its steps (``ended``): there a look costs one gradient. Otherwise the mean cost of the steps since the
    row before is taken off. It serves for seconds as well, with ``ended`` false.

    >>> work_before(np.array([0, 1, 2, 3]), np.array([5.0, 10.0, 15.0, 16.0]), True).tolist()
    [0.0, 5.0, 10.0, 15.0]
    """
    rise = np.diff(spent, prepend=0.0) / np.maximum(np.diff(step, prepend=-1), 1)
    if ended and len(rise):
        rise[-1] = min(1.0, rise[-1])
    return spent - rise


def _wanted(source: RecordSource, run: Mapping[str, Any]) -> bool:
    case = source.cases is None or run.get("case") in source.cases
    return run.get("role", "run") == "run" and case and "curve" in run


def _entry(source: RecordSource, name: str, record: Mapping[str, Any], run: Mapping[str, Any]) -> Entry:
    curve = run["curve"]
    missing = [key for key in ("step", "work", source.column) if key not in curve]
    if missing:
        raise ValueError(f"run {run['key']!r} of {name!r} has no {missing}: it cannot be compared by work")
    cases = {other.get("case") for other in record["runs"] if _wanted(source, other)}
    several = not source.pooled and len(cases) > 1
    problem = f"{source.label}: {run['case']}" if several else source.label
    step, work = _floats(curve["step"]), _floats(curve["work"])
    loss = _floats(curve[source.column])
    seconds = _floats([] if source.pooled else curve.get("seconds", []))
    if source.after:
        work = work_before(step, work, run["status"] == "budget")
        seconds = work_before(step, seconds, False) if len(seconds) else seconds
    first = int(source.column == "batch_loss")  # no minibatch was seen before the first look
    batch = int(run.get("batch", 1))
    if name == "uci-exact-1057" and run["method"] in FIRST_ORDER:  # all seeds in one program, which it does not say
        batch = int(record["settings"]["plan"][run["method"]]["seeds"])
    tuning = "tuned" if "rate" in run and run["method"] not in source.tuning else None
    tuning = tuning or source.tuning.get(run["method"], source.otherwise)
    about = (problem, run["method"], int(run["seed"]), name, tuning, run["status"])
    return Entry(*about, work[first:], loss[first:], seconds[first:], batch)


def _floats(values: Sequence[float | None], null: float = math.nan) -> np.ndarray:
    return np.asarray([null if value is None else value for value in values], dtype=float)
