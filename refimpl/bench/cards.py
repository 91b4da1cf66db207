"""Three long runs for a GPU, each with a time limit and a record: speed, seeds and CIFAR-10.

On a CPU, ``--device cpu`` runs a small twin of each.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refimpl.arrays import all_finite, get_backend, to_numpy
from refimpl.bench import gpu
from refimpl.bench.report import Found, Part, Session, skipped
from refimpl.experiments import EXPERIMENTS
from refimpl.experiments.checkpoints import TimeUp
from refimpl.experiments.records import SCHEMA, check_record, provenance, read_record, results_folder, write_record
from refimpl.experiments.uci_energy import methods as energy_methods
from refimpl.experiments.uci_energy import starting_places
from refimpl.experiments.uci_exact import energy_network
from refimpl.experiments.uci_exact import methods as exact_methods
from refimpl.optimizers.base import Optimizer
from refimpl.optimizers.curveball import CurveBall
from refimpl.optimizers.lanczos_sfn import LanczosSaddleFreeNewton
from refimpl.optimizers.levenberg_marquardt import LevenbergMarquardt
from refimpl.oracle import Problem
from refimpl.problems.datasets import uci_energy_or_fallback

LIMITS = {"speed": 240.0, "seeds": 480.0, "cifar": 570.0}
"""Seconds."""

STOP = 4.0
"""From this product-to-gradient ratio at batch 512 on, the card advises the cheaper stem."""


def record_card(name: str, device: str = "cpu", folder: Path | None = None, limit: float | None = None) -> Path:
    """Run one card and write the record ``card-NAME``; return its path.

    Parameters
    ----------
    name : a key of :data:`LIMITS`. device : ``"cuda"``, or ``"cpu"`` for the small twin.
    folder : of the record; ``data/results`` by default. limit : seconds, at most; by default that of the card.

    Raises
    ------
    ValueError
        An unknown card.
    """
    if name not in LIMITS:
        raise ValueError(f"unknown card {name!r}; choose one of {sorted(LIMITS)}")
    begin, limit = time.monotonic(), min(limit or math.inf, LIMITS[name])
    folder = folder or results_folder()
    session = Session(device=device, quick=not device.startswith("cuda"), knobs={"twin": True})
    run: Mapping[str, Callable[..., list[dict[str, Any]]]] = {"speed": speed, "seeds": seeds, "cifar": cifar}
    runs = run[name](session, begin + limit, folder)
    source = provenance(device)
    source["command"] = "python -m refimpl.bench " + " ".join(sys.argv[1:])
    record = {
        "schema": SCHEMA,
        "experiment": f"card-{name}",
        "settings": {"device": device, "small": session.quick, "time_limit": limit},
        "runs": runs,
        "seconds": time.monotonic() - begin,
        "notes": session.lines,
        "provenance": source,
    }
    check_record(record, f"card-{name}")
    path = folder / f"card-{name}.json"
    write_record(path, record)
    return path


# -- speed ------------------------------------------------------------------------------------------------------------


def speed(session: Session, until: float, folder: Path) -> list[dict[str, Any]]:
    """Every route at three batch sizes, two layouts and two precisions, against float64 at batch 16."""
    runs: list[dict[str, Any]] = [{"key": "errors", "status": "budget", "errors": gpu.errors(session)}]
    plan = [(batch, last, tf32) for last, tf32 in ((False, True), (True, True), (False, False), (True, False))
            for batch in (gpu.SMALL, 512, gpu.LARGEST)]  # fmt: skip
    longest = 0.0
    for batch, channels_last, tf32 in plan[:2] if session.quick else plan:
        key = f"batch {batch}, {'NHWC' if channels_last else 'NCHW'}, {'tf32' if tf32 else 'fp32'}"
        begin = time.monotonic()
        if begin + longest > until:
            runs.append({"key": key, "status": "no time"})
            continue
        # Compiling takes the longest: once, where it matters.
        first = batch == gpu.SMALL and not channels_last and tf32
        only = () if first else ("kept", "captured") if batch == gpu.LARGEST else ("kept", "func", "ggn", "captured")
        row = gpu.measure(session, batch, channels_last=channels_last, tf32=tf32, only=only)
        runs.append({"key": key, "status": "budget", **row._asdict()})
        longest = max(longest, 0.0 if first else time.monotonic() - begin)
        if batch == 512 and row.seconds["kept"] > STOP * row.seconds["gradient"]:
            session.note(f"{key}: a product costs more than {STOP:g} gradients; race on the stem of the series paper")
    return runs


# -- seeds ------------------------------------------------------------------------------------------------------------


def seeds(session: Session, until: float, folder: Path) -> list[dict[str, Any]]:
    """UCI Energy's methods, all seeds in one program: medians by steps, gradients of work and seconds."""
    small = session.quick
    hidden, count, steps = ((4, 4), 3, 4) if small else ((12,) * 7, 50, 6000)
    data, note = uci_energy_or_fallback()
    if note:
        session.note(note)
    backend = get_backend("torch", "float64", session.device)
    problem = energy_network(hidden, data, backend=backend)
    energy, exact = energy_methods(), exact_methods()
    plan: dict[str, tuple[Any, int, int]] = {
        "gradient-descent": (exact["gradient-descent"], count, steps),
        "adam": (exact["adam"], count, steps),
        "curveball": (CurveBall(), count, steps),
        "lanczos-sfn, 5 products": (LanczosSaddleFreeNewton(products=5), count, steps),
        "lanczos-sfn, 34 products": (LanczosSaddleFreeNewton(products=34), count, steps),
        "series-sfn": (energy["series-sfn"], count, steps),
        "levenberg-marquardt": (LevenbergMarquardt(), min(count, 10), min(steps, 500)),
        "saddle-free-newton": (exact["saddle-free-newton"], min(count, 10), min(steps, 500)),
    }
    runs = []
    for i, (name, (method, many, most)) in enumerate(plan.items()):
        share = (until - time.monotonic()) / (len(plan) - i)
        alone = name == "levenberg-marquardt"
        found = batched_run(problem, method, many, most, share, together=not alone)
        runs.append({"key": name, "seeds": many, **found})
        last = runs[-1]["curve"]
        session.note(
            f"{name}: {runs[-1]['status']}, {runs[-1]['steps']} steps, {last['seconds'][-1]:.1f} s, "
            f"{last['work'][-1]:.0f} gradients, median loss {last['median'][-1]:.3e}"
        )
    return runs


def batched_run(
    problem: Problem, method: Optimizer, count: int, steps: int, seconds: float, *, together: bool = True
) -> dict[str, Any]:
    """``method`` from ``count`` starting places, until ``steps`` or ``seconds`` are spent.

    ``together``: in one program; False takes one place after the other, for methods that have no leading axes, in turns
    of a step each. A run whose loss is not finite counts as infinite. Work is that of one seed, the mean where they
    differ; looking is outside the clock.
    """
    starts = starting_places(problem, 0, count)  # type: ignore[arg-type]
    places = [starts] if together else [starts[i, :] for i in range(count)]
    runs, spent, work = [(x, method.init(x)) for x in places], 0.0, 0.0
    curve: dict[str, list[float]] = {name: [] for name in ("step", "median", "low", "high", "work", "seconds")}
    looks = {*np.unique(np.rint(np.geomspace(1, steps, 40)).astype(int)).tolist(), steps}
    status = "budget"

    def look(step: int) -> None:
        losses = np.concatenate([np.atleast_1d(to_numpy(problem.loss(x))) for x, _ in runs])
        losses = np.nan_to_num(losses, nan=np.inf, posinf=np.inf)
        values = step, *np.quantile(losses, (0.5, 0.25, 0.75), method="nearest"), work, spent
        for name, value in zip(curve, values, strict=True):
            curve[name].append(float(value))

    look(0)
    for step in range(1, steps + 1):
        begin = time.perf_counter()
        for i, (x, state) in enumerate(runs):
            point = problem.at(x)
            with np.errstate(all="ignore"):
                taken = method.step(point, state)
            runs[i] = taken.x, taken.state
            work += point.counts.work / len(runs)
        if step in looks or step % 20 == 0:
            all_finite(*(x for x, _ in runs))  # waits for the device, so that the clock sees its work
        spent += time.perf_counter() - begin
        if step in looks:
            look(step)
        if spent > seconds:
            status = "time"
            break
    if curve["step"][-1] != step:
        look(step)
    return {"status": status, "steps": step, "loss": curve["median"][-1], "curve": curve}


# -- CIFAR-10 ---------------------------------------------------------------------------------------------------------


def cifar(session: Session, until: float, folder: Path) -> list[dict[str, Any]]:
    """The race on ResNet-18, one seed; stopped by the clock it goes on from its checkpoints when it is called again."""
    begin = time.monotonic()
    experiment = EXPERIMENTS["resnet18-cifar10"]
    options: dict[str, Any] = {"scale": "smoke" if session.quick else "full", "seeds": 1, "device": session.device}
    if session.quick:
        options["optimizers"] = ["heavy-ball", "curveball"]
    try:
        path = experiment.record(folder / "races", time_limit=max(1.0, until - begin), **options)
    except TimeUp as reason:
        session.note(f"stopped by the clock: {reason}; call the card again to continue")
        return [{"key": "resnet18-cifar10", "status": "time", "seconds": time.monotonic() - begin}]
    found = read_record(path.stem, path.parent)
    return [
        {name: run[name] for name in ("key", "status", "steps", "loss") if name in run}
        | {name: run["curve"][name][-1] for name in ("work", "seconds", "test_error") if name in run["curve"]}
        for run in found["runs"]
    ]


# -- the goal ---------------------------------------------------------------------------------------------------------


def recorded(session: Session) -> Found:
    """G18: what the records of the cards say; a card of a GPU that has none is skipped."""
    folder, parts = session.knobs.get("folder"), {}
    for name in LIMITS:
        try:
            record = read_record(f"card-{name}", folder)
        except ValueError:
            parts[f"{name}: seconds"] = skipped(f"no record: python -m refimpl.bench cards {name} --device cuda")
            continue
        if record["settings"]["small"]:
            parts[f"{name}: seconds"] = skipped("the record is that of the small twin on a CPU")
            continue
        parts[f"{name}: seconds"] = Part(float(record["seconds"]))
        for run in record["runs"]:
            if "work" in run:
                session.note(f"{name}, {run['key']}: {run['work']:.0f} gradients, {run['seconds']:.0f} s")
    return parts
