"""Everything that a GPU can check, in one command: `python tools/cuda_suite.py` (or `make cuda`).

On a machine with a CUDA device:
  * the tests marked `gpu`, which are those of every backend, on CuPy and on Torch's CUDA;
  * `python -m refimpl.verify` on the same backends: golden vectors;
  * the network written in plain array code, unchanged, on CuPy;
  * the benchmarks of the GPU.

Without one it says so, runs the same stages on the CPU on a small selection (`--dry` asks for that), so that a stage
that selects nothing is noticed before a GPU is at hand, and ends with status 0.

Needs what the package needs, and pytest; no network.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("numpy", "scipy", "array_api_compat", "tqdm", "pooch")
QUICK_TESTS = ("tests/test_arrays.py", "tests/test_plane.py")
QUICK_GROUP = "spectrum"


@dataclass(frozen=True)
class Stage:
    """One program to run. ``module`` must be importable, else the stage is skipped; ``seconds`` is its limit."""

    name: str
    command: tuple[str, ...]
    module: str
    seconds: float


@dataclass(frozen=True)
class Outcome:
    """``status``: ``passed``, ``failed`` or ``skipped``, with the line that says it best."""

    name: str
    status: str
    seconds: float
    summary: str


def cuda_device() -> str | None:
    """The name of the CUDA device, or None: Torch is asked first, then CuPy."""
    if importlib.util.find_spec("torch"):
        import torch

        if torch.cuda.is_available():
            return str(torch.cuda.get_device_name())
    if importlib.util.find_spec("cupy"):
        import cupy

        try:
            return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
        except cupy.cuda.runtime.CUDARuntimeError:
            return None
    return None


def stages(*, dry: bool, workers: int = 1, minutes: float = 9.0) -> list[Stage]:
    """What is to be run. Together the limits are ``minutes``: two thirds for the tests."""
    python, limit = sys.executable, 60.0 * minutes
    spread = ("-n", str(workers), "--dist", "loadfile") if workers > 1 and importlib.util.find_spec("xdist") else ()
    tests = (python, "-m", "pytest", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider")
    bench = (python, "-m", "refimpl.bench", "--only", "G16", "G17", "--device")
    verify = (python, "-m", "refimpl.verify", "--backend")
    mlp = (python, str(Path(__file__).resolve()), "--network")
    if dry:
        return [
            Stage("gpu tests, as selected", (*tests, "--collect-only", "-m", "gpu", *QUICK_TESTS), "pytest", 60.0),
            Stage("the same tests on the CPU", (*tests, "-k", "torch-f64", *QUICK_TESTS), "pytest", 120.0),
            Stage("golden vectors", (*verify, "torch", "--only", QUICK_GROUP), "torch", 60.0),
            Stage("network in array code", (*mlp, "numpy"), "numpy", 60.0),
            Stage("benchmarks", (*bench, "cpu"), "refimpl.bench.__main__", 60.0),
        ]
    return [
        Stage("gpu tests", (*tests, "-m", "gpu", *spread, "tests"), "pytest", limit * 6 / 9),
        Stage("golden vectors, torch", (*verify, "torch"), "torch", limit / 18),
        Stage("golden vectors, cupy", (*verify, "cupy"), "cupy", limit / 18),
        Stage("network in array code", (*mlp, "cupy"), "cupy", limit / 18),
        Stage("benchmarks", (*bench, "cuda"), "refimpl.bench.__main__", limit / 9),
    ]


def run_stage(stage: Stage, echo: Callable[[str], None] = print) -> Outcome:
    """Run one stage with its output on the terminal. A stage that selects or compares nothing has failed."""
    if not _importable(stage.module):
        return Outcome(stage.name, "skipped", 0.0, f"{stage.module} is not installed")
    started, place = time.perf_counter(), os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {"OMP_NUM_THREADS": "1", **os.environ, "PYTHONPATH": place}
    try:
        done = subprocess.run(
            stage.command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=stage.seconds,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        text = (error.output or b"").decode(errors="replace") if isinstance(error.output, bytes) else error.output or ""
        echo(text)
        return Outcome(stage.name, "failed", stage.seconds, f"not done after {stage.seconds:.0f} s; {_said(text)}")
    echo(done.stdout)
    summary = _said(done.stdout)
    nothing = done.returncode == 5 or selected(summary) == 0  # pytest's status for a selection without tests
    status = "passed" if done.returncode == 0 and not nothing else "failed"
    return Outcome(stage.name, status, time.perf_counter() - started, "selected nothing" if nothing else summary)


def selected(summary: str) -> int | None:
    """How many tests or comparisons a last line speaks of, but for skipped ones; None where it is of another kind.

    >>> selected("3 passed, 1 skipped in 0.2s"), selected("2 skipped in 0.1s"), selected("0 of 0 comparisons agree")
    (3, 0, 0)
    """
    tests = re.findall(r"(\d+)(?:/\d+)? (passed|failed|error|errors|skipped|tests? collected)", summary)
    if tests:
        return sum(int(count) for count, kind in tests if kind != "skipped")
    compared = re.search(r"of (\d+) comparisons", summary)
    return int(compared.group(1)) if compared else None


def main(
    arguments: Sequence[str] | None = None,
    *,
    run: Callable[[Stage], Outcome] = run_stage,
    device: Callable[[], str | None] = cuda_device,
) -> int:
    """Run the stages and write the report; 0 where nothing failed, 1 where something did, 2 where it cannot start."""
    parser = argparse.ArgumentParser(prog="python tools/cuda_suite.py", description=__doc__)
    parser.add_argument("--dry", action="store_true", help="the small selection on the CPU, even where there is a GPU")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the report to FILE.json and FILE.md")
    parser.add_argument("--workers", type=int, default=4, help="processes for the tests, where pytest-xdist is there")
    parser.add_argument("--minutes", type=float, default=9.0, help="limit for everything")
    parser.add_argument("--network", metavar="BACKEND", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    missing = [name for name in NEEDED if not _importable(name)]
    if missing:
        print(f"not installed: {', '.join(missing)}; put them on PYTHONPATH or install them", file=sys.stderr)
        return 2
    if chosen.network:
        return network(chosen.network)
    if not chosen.minutes > 0 or chosen.workers < 1:
        print("error: --minutes and --workers must be positive", file=sys.stderr)
        return 2
    name = None if chosen.dry else device()
    if name is None:
        why = "asked for" if chosen.dry else "there is no CUDA device here"
        print(f"dry run on the CPU: {why}. Nothing below says anything about a GPU.")
    outcomes = [run(stage) for stage in stages(dry=name is None, workers=chosen.workers, minutes=chosen.minutes)]
    report = {"dry": name is None, "stages": [asdict(o) for o in outcomes], "provenance": _provenance(name)}
    text = as_markdown(report)
    print(text)
    if chosen.out:
        from refimpl.experiments.records import write_record

        write_record(chosen.out.with_suffix(".json"), report)
        chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
    return 1 if any(o.status == "failed" for o in outcomes) else 0


def as_markdown(report: dict[str, object]) -> str:
    """The report as a table."""
    source: dict[str, object] = report["provenance"]  # type: ignore[assignment]
    rows: list[dict[str, object]] = report["stages"]  # type: ignore[assignment]
    head = "dry run, no GPU" if report["dry"] else str(source["device"])
    lines = [f"# CUDA suite: {head}", "", "| stage | status | s | |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['name']} | {r['status']} | {r['seconds']:.0f} | {r['summary']} |" for r in rows]
    versions = json.dumps(source["versions"])
    return "\n".join([*lines, "", f"{source['date']}, commit {source['commit']}, versions {versions}", ""])


def network(name: str) -> int:
    """The network in array code on backend ``name`` against NumPy, and seconds per product; 0 where they agree."""
    import numpy as np

    from refimpl.arrays import get_backend, to_numpy
    from refimpl.problems.mlp import MLP

    rng = np.random.default_rng(0)
    inputs, targets = rng.standard_normal((692, 8)), rng.standard_normal((692, 1))
    found: list[list[np.ndarray]] = []
    for library in ("numpy", name):
        backend = get_backend(library)
        problem = MLP((8, *[12] * 7, 1), inputs, targets, activation="tanh", backend=backend)
        point = problem.at(problem.initial(np.random.default_rng(1)))
        v = backend.normal(np.random.default_rng(2), problem.n)
        found.append([to_numpy(a) for a in (point.gradient, point.hvp(v), point.ggnvp(v))])
        started = time.perf_counter()
        for _ in range(50):
            product = point.hvp(v)
        to_numpy(product)
        print(f"{library}: {(time.perf_counter() - started) / 50 * 1e3:.2f} ms per Hessian product")
    gaps = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for b, a in zip(*found, strict=True)]
    agreeing = sum(gap < 1e-10 for gap in gaps)
    print(f"{agreeing} of {len(gaps)} comparisons agree, the worst to {max(gaps):.0e}")
    return 0 if agreeing == len(gaps) else 1


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def _said(text: str) -> str:
    lines = [line.strip(" =") for line in text.splitlines() if line.strip(" =")]
    return lines[-1] if lines else "no output"


def _provenance(device: str | None) -> dict[str, object]:
    from refimpl.experiments.records import provenance

    return {**provenance("cpu"), "device": device or provenance("cpu")["device"], "command": "tools/cuda_suite.py"}


if __name__ == "__main__":
    sys.exit(main())
